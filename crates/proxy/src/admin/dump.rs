//! `/config_dump` and `/init_dump`: configuration as it came, with versions, times and refusals.

use std::collections::HashMap;
use std::rc::Rc;

use prost::{Message, Name};
use prost_types::Any;
use protos::envoy::admin::v3 as admin;
use protos::envoy::config::endpoint::v3 as endpoint;
use protos::envoy::config::listener::v3::Listener;
use proxy_config::cluster::{Discovery, HealthStatus};
use regex::Regex;
use serde_json::{Map, Value, json};

use super::clusters::address;
use super::json as print;
use super::query::Query;
use super::reply::Reply;
use crate::config::record::{Failure, Record, timestamp};
use crate::server::Server;

type State<'a> = (&'a str, bool, Option<&'a Record>, Option<&'a Record>, Option<&'a Failure>);

/// Which names are wanted.
struct Names(Option<Regex>);

impl Names {
    fn takes(&self, name: &str) -> bool {
        self.0.as_ref().is_none_or(|r| r.is_match(name))
    }
}

fn version(record: Option<&Record>) -> String {
    record.map(|r| r.version.to_string()).unwrap_or_default()
}

fn clusters(server: &Server, names: &Names) -> admin::ClustersConfigDump {
    use admin::clusters_config_dump::{DynamicCluster, StaticCluster};
    let config = server.config.borrow();
    let mut dump = admin::ClustersConfigDump { version_info: config.clusters.version.clone(), ..Default::default() };
    let dynamic = |record: Option<&Record>, failed: Option<&Failure>| DynamicCluster {
        version_info: version(record),
        cluster: record.map(|r| r.body()),
        last_updated: record.and_then(Record::timestamp),
        error_state: failed.map(Failure::state),
        ..Default::default()
    };
    let bootstrap = server.bootstrap.whole().and_then(|b| b.static_resources).unwrap_or_default();
    let statics: HashMap<&str, _> = bootstrap.clusters.iter().map(|c| (c.name.as_str(), c)).collect();
    for (name, is_static, active, warming, failed) in config.clusters.dump().filter(|e: &State<'_>| names.takes(e.0)) {
        if is_static {
            let cluster = StaticCluster {
                cluster: active.and(statics.get(name)).map(|c| protos::any(*c)),
                last_updated: active.and_then(Record::timestamp),
            };
            dump.static_clusters.push(cluster);
            continue;
        }
        if active.is_some() || (warming.is_none() && failed.is_some()) {
            dump.dynamic_active_clusters.push(dynamic(active, failed));
        }
        if warming.is_some() {
            dump.dynamic_warming_clusters.push(dynamic(warming, None));
        }
    }
    dump
}

fn listeners(server: &Server, names: &Names) -> admin::ListenersConfigDump {
    use admin::listeners_config_dump::{DynamicListener, DynamicListenerState, StaticListener};
    let config = server.config.borrow();
    let mut dump = admin::ListenersConfigDump { version_info: config.listeners.version.clone(), ..Default::default() };
    let state = |r: &Record| DynamicListenerState {
        version_info: r.version.to_string(),
        listener: Some(r.body()),
        last_updated: r.timestamp(),
    };
    for (name, is_static, active, warming, failed) in config.listeners.dump().filter(|e: &State<'_>| names.takes(e.0)) {
        if is_static {
            let listener =
                StaticListener { listener: active.map(|r| r.body()), last_updated: active.and_then(Record::timestamp) };
            dump.static_listeners.push(listener);
            continue;
        }
        dump.dynamic_listeners.push(DynamicListener {
            name: name.to_owned(),
            active_state: active.map(state),
            warming_state: warming.map(state),
            error_state: failed.map(Failure::state),
            ..Default::default()
        });
    }
    for (name, record) in config.listeners.dump_draining().filter(|d| names.takes(d.0)) {
        dump.dynamic_listeners.push(DynamicListener {
            name: name.to_owned(),
            draining_state: Some(state(record)),
            ..Default::default()
        });
    }
    dump
}

/// Route configurations written into a listener.
fn inline_routes(record: &Record) -> Vec<Any> {
    use protos::envoy::config::listener::v3::filter::ConfigType;
    use protos::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
    let Ok(listener) = protos::unpack::<Listener>(&record.body()) else { return Vec::new() };
    let chains = listener.filter_chains.iter().chain(&listener.default_filter_chain);
    let managers = chains.flat_map(|c| &c.filters).filter_map(|f| match &f.config_type {
        Some(ConfigType::TypedConfig(any)) => protos::unpack::<hcm::HttpConnectionManager>(any).ok(),
        _ => None,
    });
    managers
        .filter_map(|m| match m.route_specifier {
            Some(hcm::http_connection_manager::RouteSpecifier::RouteConfig(routes)) => Some(protos::any(&routes)),
            _ => None,
        })
        .collect()
}

fn name_of(any: &Any) -> String {
    protos::unpack::<protos::envoy::config::route::v3::RouteConfiguration>(any).map(|r| r.name).unwrap_or_default()
}

fn routes(server: &Server, names: &Names) -> admin::RoutesConfigDump {
    use admin::routes_config_dump::{DynamicRouteConfig, StaticRouteConfig};
    let config = server.config.borrow();
    let mut dump = admin::RoutesConfigDump::default();
    for (.., active, _, _) in config.listeners.dump() {
        let Some(record) = active else { continue };
        for route_config in inline_routes(record).into_iter().filter(|r| names.0.is_none() || names.takes(&name_of(r)))
        {
            dump.static_route_configs
                .push(StaticRouteConfig { route_config: Some(route_config), last_updated: record.timestamp() });
        }
    }
    for (_, entry) in config.routes.dynamic.iter().filter(|(name, _)| names.takes(name)) {
        if entry.active.is_none() && entry.failed.is_none() {
            continue;
        }
        dump.dynamic_route_configs.push(DynamicRouteConfig {
            version_info: version(entry.active.as_ref()),
            route_config: entry.shown(),
            last_updated: entry.active.as_ref().and_then(Record::timestamp),
            error_state: entry.failed.as_ref().map(Failure::state),
            ..Default::default()
        });
    }
    dump
}

fn secrets(server: &Server, names: &Names) -> admin::SecretsConfigDump {
    use admin::secrets_config_dump::{DynamicSecret, StaticSecret};
    let config = server.config.borrow();
    let mut dump = admin::SecretsConfigDump::default();
    for (name, record) in config.secrets.statics.iter().filter(|(n, _)| names.takes(n)) {
        dump.static_secrets.push(StaticSecret {
            name: name.clone(),
            last_updated: record.timestamp(),
            secret: Some(record.body()),
        });
    }
    for (name, entry) in config.secrets.dynamic.iter().filter(|(n, _)| names.takes(n)) {
        let secret = DynamicSecret {
            name: name.clone(),
            version_info: version(entry.active.as_ref()),
            last_updated: entry.active.as_ref().and_then(Record::timestamp),
            secret: entry.active.as_ref().map(|r| r.body()),
            error_state: entry
                .failed
                .as_ref()
                .map(|f| admin::UpdateFailureState { failed_configuration: None, ..f.state() }),
            ..Default::default()
        };
        let list =
            if entry.active.is_some() { &mut dump.dynamic_active_secrets } else { &mut dump.dynamic_warming_secrets };
        list.push(secret);
    }
    dump
}

/// Filters that extension config discovery told.
fn extensions(server: &Server, names: &Names) -> admin::EcdsConfigDump {
    let config = server.config.borrow();
    let told = config.listeners.extensions.all().filter(|(name, _)| names.takes(name));
    let filter = |(_, told): (&str, &crate::config::extensions::Told)| admin::ecds_config_dump::EcdsFilterConfig {
        version_info: told.record.version.to_string(),
        ecds_filter: Some(told.record.body()),
        last_updated: told.record.timestamp(),
        ..Default::default()
    };
    admin::EcdsConfigDump { ecds_filters: told.map(filter).collect() }
}

/// Endpoints as the balancer has them, rebuilt from the hosts in force.
fn endpoints(server: &Server, names: &Names) -> admin::EndpointsConfigDump {
    use admin::endpoints_config_dump::{DynamicEndpointConfig, StaticEndpointConfig};
    let config = server.config.borrow();
    let mut dump = admin::EndpointsConfigDump::default();
    let mut clusters = server.registry.all();
    clusters.sort_by(|a, b| a.config.name.cmp(&b.config.name));
    for cluster in clusters.iter().filter(|c| names.takes(&c.config.name)) {
        let assignment = assignment(cluster);
        let service = match &cluster.config.discovery {
            Discovery::Eds { service_name, .. } => service_name,
            Discovery::OriginalDst(_) | Discovery::Aggregate(_) => continue,
            _ => {
                dump.static_endpoint_configs
                    .push(StaticEndpointConfig { endpoint_config: Some(protos::any(&assignment)), last_updated: None });
                continue;
            }
        };
        let record = config.clusters.assignment(service);
        dump.dynamic_endpoint_configs.push(DynamicEndpointConfig {
            version_info: version(record),
            endpoint_config: Some(protos::any(&assignment)),
            last_updated: record.and_then(Record::timestamp),
            ..Default::default()
        });
    }
    dump
}

fn assignment(cluster: &upstream::Cluster) -> endpoint::ClusterLoadAssignment {
    use endpoint::lb_endpoint::HostIdentifier;
    use protos::envoy::config::core::v3 as core;
    let mut groups: Vec<(u32, u32, endpoint::LocalityLbEndpoints)> = Vec::new();
    for host in &cluster.hosts_view().hosts {
        let at = match groups.iter().position(|g| (g.0, g.1) == (host.priority, host.locality_index)) {
            Some(at) => at,
            None => {
                let l = &host.locality;
                let locality = core::Locality {
                    region: l.region.to_string(),
                    zone: l.zone.to_string(),
                    sub_zone: l.sub_zone.to_string(),
                };
                let group = endpoint::LocalityLbEndpoints {
                    locality: Some(locality),
                    priority: host.priority,
                    load_balancing_weight: Some(0),
                    ..Default::default()
                };
                groups.push((host.priority, host.locality_index, group));
                groups.len() - 1
            }
        };
        let healthy = match host.told {
            HealthStatus::Unknown => core::HealthStatus::Healthy,
            other => core::HealthStatus::try_from(other as i32).unwrap_or(core::HealthStatus::Unknown),
        };
        groups[at].2.lb_endpoints.push(endpoint::LbEndpoint {
            host_identifier: Some(HostIdentifier::Endpoint(endpoint::Endpoint {
                address: Some(address(&host.address)),
                health_check_config: Some(Default::default()),
                hostname: host.hostname.to_string(),
                ..Default::default()
            })),
            health_status: healthy as i32,
            load_balancing_weight: Some(host.weight),
            ..Default::default()
        });
    }
    let name = match &cluster.config.discovery {
        Discovery::Eds { service_name, .. } => service_name,
        _ => &cluster.config.name,
    };
    endpoint::ClusterLoadAssignment {
        cluster_name: name.to_string(),
        endpoints: groups.into_iter().map(|g| g.2).collect(),
        policy: Some(endpoint::cluster_load_assignment::Policy {
            overprovisioning_factor: Some(140),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A message with its type, as an element of `configs`.
fn typed<T: Message + Name>(message: &T) -> Value {
    let mut object = Map::new();
    object.insert("@type".into(), T::type_url().into());
    if let Value::Object(fields) = print::of(message) {
        object.extend(fields);
    }
    Value::Object(object)
}

fn sections(server: &Server, names: &Names, include_eds: bool) -> Vec<Value> {
    let bootstrap =
        admin::BootstrapConfigDump { bootstrap: server.bootstrap.whole(), last_updated: timestamp(server.loaded) };
    let mut all = vec![typed(&bootstrap), typed(&clusters(server, names))];
    if server.config.borrow().listeners.extensions.any() {
        all.push(typed(&extensions(server, names)));
    }
    if include_eds {
        all.push(typed(&endpoints(server, names)));
    }
    all.push(typed(&listeners(server, names)));
    all.push(typed(&admin::ScopedRoutesConfigDump::default()));
    all.push(typed(&routes(server, names)));
    all.push(typed(&secrets(server, names)));
    all
}

/// Type of the elements of a repeated field of a section.
fn element_type(section: &str, field: &str) -> String {
    let element = match field {
        "static_listeners" => "StaticListener",
        "dynamic_listeners" => "DynamicListener",
        "static_clusters" => "StaticCluster",
        "dynamic_active_clusters" | "dynamic_warming_clusters" => "DynamicCluster",
        "static_route_configs" => "StaticRouteConfig",
        "dynamic_route_configs" => "DynamicRouteConfig",
        "ecds_filters" => "EcdsFilterConfig",
        "static_secrets" => "StaticSecret",
        "dynamic_active_secrets" | "dynamic_warming_secrets" => "DynamicSecret",
        "static_endpoint_configs" => "StaticEndpointConfig",
        "dynamic_endpoint_configs" => "DynamicEndpointConfig",
        _ => return section.to_owned(),
    };
    format!("{section}.{element}")
}

/// Keeps only the fields that a mask names (`a.b,c`); `@type` stays.
fn mask(value: &Value, paths: &[&str]) -> Value {
    if paths.iter().any(|p| p.is_empty()) {
        return value.clone();
    }
    match value {
        Value::Object(object) => {
            let mut out = Map::new();
            for (key, inner) in object {
                let below: Vec<&str> = paths
                    .iter()
                    .filter_map(|p| match p.split_once('.') {
                        Some((head, rest)) => (head == key).then_some(rest),
                        None => (p == key).then_some(""),
                    })
                    .collect();
                if key == "@type" {
                    out.insert(key.clone(), inner.clone());
                } else if !below.is_empty() {
                    out.insert(key.clone(), mask(inner, &below));
                }
            }
            Value::Object(out)
        }
        other => other.clone(),
    }
}

pub fn reply(server: &Rc<Server>, query: &Query) -> Reply {
    let names = match query.regex("name_regex") {
        Ok(names) => Names(names),
        Err(e) => return Reply::text(400, e),
    };
    let paths: Vec<&str> = query.get("mask").map_or(vec![""], |m| m.split(',').collect());
    let resource = query.get("resource");
    let include_eds = query.has("include_eds") || resource.is_some_and(|r| r.ends_with("endpoint_configs"));
    let sections = sections(server, &names, include_eds);
    let configs: Vec<Value> = match resource {
        None => sections.iter().map(|s| mask(s, &paths)).collect(),
        Some(resource) => {
            let known = ["bootstrap"].contains(&resource) || !element_type("", resource).is_empty();
            if !known {
                return Reply::text(404, format!("{resource} not found in config dump"));
            }
            let mut out = Vec::new();
            for section in &sections {
                let kind = section["@type"].as_str().unwrap_or_default();
                match section.get(resource) {
                    Some(Value::Array(list)) => {
                        for element in list {
                            let mut typed = Map::new();
                            typed.insert("@type".into(), element_type(kind, resource).into());
                            typed.extend(element.as_object().cloned().unwrap_or_default());
                            out.push(mask(&Value::Object(typed), &paths));
                        }
                    }
                    Some(Value::Object(inner)) => {
                        let mut typed = Map::new();
                        typed.insert("@type".into(), "type.googleapis.com/envoy.config.bootstrap.v3.Bootstrap".into());
                        typed.extend(inner.clone());
                        out.push(mask(&Value::Object(typed), &paths));
                    }
                    _ => {}
                }
            }
            out
        }
    };
    Reply::json(print::pretty(&if configs.is_empty() { json!({}) } else { json!({ "configs": configs }) }))
}

/// What the start still waits for.
pub fn init(server: &Rc<Server>, query: &Query) -> Reply {
    let config = server.config.borrow();
    let wanted = |part: &str| query.get("mask").is_none_or(|m| m.split(',').any(|p| p == part));
    let mut dumps = Vec::new();
    if wanted("listener") {
        dumps.extend(
            config
                .listeners
                .warming()
                .map(|n| json!({"name": format!("init manager Listener-local-init-manager {n}"), "target_names": [n]})),
        );
    }
    if wanted("cluster") {
        dumps.extend(
            config
                .clusters
                .warming()
                .map(|n| json!({"name": format!("init manager Cluster {n}"), "target_names": [n]})),
        );
    }
    Reply::json(print::pretty(&if dumps.is_empty() { json!({}) } else { json!({ "unready_targets_dumps": dumps }) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_keep_paths_and_types() {
        let value = json!({"@type": "t", "a": {"b": 1, "c": 2}, "d": 3});
        let check = |paths: &str, expect: Value| {
            assert_eq!(mask(&value, &paths.split(',').collect::<Vec<_>>()), expect, "{paths}")
        };
        check("", value.clone());
        check("a.b", json!({"@type": "t", "a": {"b": 1}}));
        check("d,a", json!({"@type": "t", "a": {"b": 1, "c": 2}, "d": 3}));
        check("x", json!({"@type": "t"}));
    }
}
