//! `/clusters`: each cluster's limits and hosts, as text lines or as `envoy.admin.v3.Clusters`.

use std::fmt::Write;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use protos::envoy::admin::v3 as admin;
use protos::envoy::config::cluster::v3::CircuitBreakers;
use protos::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use protos::envoy::config::core::v3 as core;
use proxy_config::cluster::{Discovery, HealthStatus};
use proxy_config::common::Address;
use proxy_config::route::Priority;
use upstream::{Cluster, Host, Resource};

use super::json;
use super::query::Query;
use super::reply::Reply;
use crate::server::Server;

/// Word in text, priority, its limits by name.
type Limits = (&'static str, core::RoutingPriority, [(&'static str, u32); 4]);

fn limits(cluster: &Cluster) -> [Limits; 2] {
    let of = |priority| {
        let breakers = cluster.breakers(priority);
        [
            ("max_connections", breakers.limit(Resource::Connections)),
            ("max_pending_requests", breakers.limit(Resource::Pending)),
            ("max_requests", breakers.limit(Resource::Requests)),
            ("max_retries", breakers.limit(Resource::Retries)),
        ]
    };
    [
        ("default", core::RoutingPriority::Default, of(Priority::Default)),
        ("high", core::RoutingPriority::High, of(Priority::High)),
    ]
}

/// (name, value, is a gauge) in the order of the text page.
fn numbers(host: &Host) -> [(&'static str, u64, bool); 9] {
    let s = &host.stats;
    let pending = 0;
    [
        ("cx_active", s.cx_active.load(Relaxed).into(), true),
        ("cx_connect_fail", s.cx_connect_fail.load(Relaxed), false),
        ("cx_total", s.cx_total.load(Relaxed), false),
        ("rq_active", s.rq_active.load(Relaxed).into(), true),
        ("rq_error", s.rq_error.load(Relaxed), false),
        ("rq_pending_active", pending, true),
        ("rq_success", s.rq_success.load(Relaxed), false),
        ("rq_timeout", s.rq_timeout.load(Relaxed), false),
        ("rq_total", s.rq_total.load(Relaxed), false),
    ]
}

fn flags(host: &Host) -> String {
    let mut flags = Vec::new();
    if host.stats.ejection.ejected.load(Relaxed) {
        flags.push("/failed_outlier_check");
    }
    match host.told {
        HealthStatus::Unhealthy | HealthStatus::Timeout => flags.push("/failed_eds_health"),
        HealthStatus::Degraded => flags.push("/degraded_eds_health"),
        HealthStatus::Draining => flags.push("/eds_status_draining"),
        HealthStatus::Unknown | HealthStatus::Healthy => {}
    }
    if flags.is_empty() { "healthy".into() } else { flags.concat() }
}

fn text(server: &Server, clusters: &[Arc<Cluster>]) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    for cluster in clusters {
        let name = &cluster.config.name;
        let observed = cluster.config.alt_stat_name.as_ref().unwrap_or(name);
        let _ = writeln!(out, "{name}::observability_name::{observed}");
        for (word, _, values) in limits(cluster) {
            for (key, value) in values {
                let _ = writeln!(out, "{name}::{word}_priority::{key}::{value}");
            }
        }
        let _ = writeln!(out, "{name}::added_via_api::{}", server.config.borrow().clusters.is_dynamic(name));
        if let Discovery::Eds { service_name, .. } = &cluster.config.discovery {
            let _ = writeln!(out, "{name}::eds_service_name::{service_name}");
        }
        for host in hosts(cluster) {
            let at = &host.text;
            for (key, value, _) in numbers(&host) {
                let _ = writeln!(out, "{name}::{at}::{key}::{value}");
            }
            let l = &host.locality;
            let _ = write!(
                out,
                "{name}::{at}::hostname::{}\n{name}::{at}::health_flags::{}\n{name}::{at}::weight::{}\n\
                 {name}::{at}::region::{}\n{name}::{at}::zone::{}\n{name}::{at}::sub_zone::{}\n\
                 {name}::{at}::canary::false\n{name}::{at}::priority::{}\n\
                 {name}::{at}::success_rate::-1\n{name}::{at}::local_origin_success_rate::-1\n",
                host.hostname,
                flags(&host),
                host.weight,
                l.region,
                l.zone,
                l.sub_zone,
                host.priority
            );
        }
    }
    out
}

fn hosts(cluster: &Cluster) -> Vec<Arc<Host>> {
    let mut all: Vec<_> = cluster.hosts().hosts.to_vec();
    all.extend(cluster.original_hosts());
    all
}

/// An address in protobuf's form.
pub fn address(address: &Address) -> core::Address {
    use core::address::Address as Proto;
    use core::socket_address::PortSpecifier;
    let socket = |address: String, port: u16| {
        Proto::SocketAddress(core::SocketAddress {
            address,
            port_specifier: Some(PortSpecifier::PortValue(port.into())),
            ..Default::default()
        })
    };
    let inner = match address {
        Address::Socket(a) => socket(a.ip().to_string(), a.port()),
        Address::Dns { host, port } => socket(host.to_string(), *port),
        Address::Pipe { path, mode } => Proto::Pipe(core::Pipe { path: path.to_string(), mode: *mode }),
        Address::Internal { listener, endpoint_id } => Proto::EnvoyInternalAddress(core::EnvoyInternalAddress {
            address_name_specifier: Some(core::envoy_internal_address::AddressNameSpecifier::ServerListenerName(
                listener.to_string(),
            )),
            endpoint_id: endpoint_id.to_string(),
        }),
    };
    core::Address { address: Some(inner) }
}

fn status(server: &Server, cluster: &Cluster) -> admin::ClusterStatus {
    let name = cluster.config.name.to_string();
    let thresholds = limits(cluster).map(|(_, priority, values)| Thresholds {
        priority: priority as i32,
        max_connections: Some(values[0].1),
        max_pending_requests: Some(values[1].1),
        max_requests: Some(values[2].1),
        max_retries: Some(values[3].1),
        ..Default::default()
    });
    admin::ClusterStatus {
        added_via_api: server.config.borrow().clusters.is_dynamic(&name),
        observability_name: cluster.config.alt_stat_name.as_ref().unwrap_or(&cluster.config.name).to_string(),
        eds_service_name: match &cluster.config.discovery {
            Discovery::Eds { service_name, .. } if *service_name != cluster.config.name => service_name.to_string(),
            _ => String::new(),
        },
        circuit_breakers: Some(CircuitBreakers { thresholds: thresholds.into(), ..Default::default() }),
        host_statuses: hosts(cluster).iter().map(|h| host_status(h)).collect(),
        name,
        ..Default::default()
    }
}

fn host_status(host: &Host) -> admin::HostStatus {
    use admin::simple_metric::Type;
    let values = numbers(host);
    let metric = |&(name, value, gauge): &(&str, u64, bool)| admin::SimpleMetric {
        r#type: if gauge { Type::Gauge } else { Type::Counter } as i32,
        value,
        name: name.to_owned(),
    };
    let counters = values.iter().filter(|v| !v.2);
    let told = match host.told {
        HealthStatus::Unknown => core::HealthStatus::Healthy,
        other => core::HealthStatus::try_from(other as i32).unwrap_or(core::HealthStatus::Unknown),
    };
    let l = &host.locality;
    admin::HostStatus {
        address: Some(address(&host.address)),
        stats: counters.chain(values.iter().filter(|v| v.2)).map(metric).collect(),
        health_status: Some(admin::HostHealthStatus {
            failed_outlier_check: host.stats.ejection.ejected.load(Relaxed),
            eds_health_status: told as i32,
            ..Default::default()
        }),
        weight: host.weight,
        hostname: host.hostname.to_string(),
        priority: host.priority,
        locality: Some(core::Locality {
            region: l.region.to_string(),
            zone: l.zone.to_string(),
            sub_zone: l.sub_zone.to_string(),
        }),
        ..Default::default()
    }
}

pub fn reply(server: &Rc<Server>, query: &Query) -> Reply {
    let filter = match query.regex("filter") {
        Ok(filter) => filter,
        Err(e) => return Reply::text(400, e),
    };
    let mut clusters = server.registry.all();
    clusters.retain(|c| filter.as_ref().is_none_or(|f| f.is_match(&c.config.name)));
    clusters.sort_by(|a, b| a.config.name.cmp(&b.config.name));
    match query.get("format") {
        Some("json") => {
            let cluster_statuses = clusters.iter().map(|c| status(server, c)).collect();
            Reply::json(json::pretty(&json::of(&admin::Clusters { cluster_statuses })))
        }
        _ => Reply::text(200, text(server, &clusters)),
    }
}
