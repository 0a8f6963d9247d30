//! Clusters towards the proxy's own application: `inbound|PORT||`, one per workload port, or per ingress listener of
//! its `Sidecar`.

use std::collections::BTreeMap;

use model::{Port, ServiceTarget, TargetPort};
use names::{ClusterName, PortProtocol};
use protos::envoy::config::cluster::v3 as cluster;
use protos::envoy::config::cluster::v3::cluster::{DiscoveryType, LbPolicy};
use protos::envoy::config::endpoint::v3 as endpoint;

use super::{Draft, draft, fixed, policy, service_metadata, set_protocol};
use crate::Inputs;
use crate::wire::{address, config_path, delimited, istio_metadata, list_value, text_value};

/// The longest interval Envoy accepts: original-destination hosts towards the application are never cleaned up.
const NEVER_S: u64 = 315_576_000_000 / 1000;

pub(super) fn build(inputs: &Inputs, out: &mut Vec<cluster::Cluster>) {
    let scope = inputs.scope();
    if scope.has_ingress() {
        from_sidecar(inputs, out);
        return;
    }
    if inputs.proxy().interception == model::Interception::None {
        return;
    }
    let mut by_port: BTreeMap<u16, Vec<&ServiceTarget>> = BTreeMap::new();
    for target in &inputs.view.targets {
        by_port.entry(target.target_port).or_default().push(target);
    }
    for (port, targets) in by_port {
        let bind = (!inputs.mesh().inbound_passthrough).then(|| (inputs.proxy().localhost().to_owned(), port));
        let services: Vec<_> = targets.iter().map(|t| &*t.service).collect();
        out.push(cluster(inputs, port, &targets[0].port, &services, bind));
    }
}

fn from_sidecar(inputs: &Inputs, out: &mut Vec<cluster::Cluster>) {
    let Some(config) = &inputs.scope().config else {
        return;
    };
    for listener in &config.spec.ingress {
        let Some(port) = listener.port.as_ref() else {
            continue;
        };
        let Ok(number) = u16::try_from(port.number) else {
            continue;
        };
        let bind = match listener.default_endpoint.as_str() {
            "" => None,
            path if path.starts_with("unix://") => Some((path.to_owned(), 0)),
            text => match default_endpoint(inputs, text) {
                Some(endpoint) => Some(endpoint),
                None => continue,
            },
        };
        let port = Port {
            name: port.name.as_str().into(),
            number,
            protocol: PortProtocol::parse(&port.protocol),
            target: TargetPort::Number(number),
        };
        let target = inputs.view.targets.iter().find(|t| t.target_port == number);
        let services: Vec<_> = target.iter().map(|t| &*t.service).collect();
        out.push(cluster(inputs, number, &port, &services, bind));
    }
}

/// `127.0.0.1:p`, `0.0.0.0:p` (the pod's address), and their IPv6 forms.
fn default_endpoint(inputs: &Inputs, text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok()?;
    let proxy = inputs.proxy();
    let own = |v6: bool| proxy.ips.iter().find(|ip| ip.contains(':') == v6).cloned();
    let host = match host.trim_matches(['[', ']']) {
        "0.0.0.0" => own(false).unwrap_or_else(|| "127.0.0.1".to_owned()),
        "::" => own(true).unwrap_or_else(|| "::1".to_owned()),
        // The loopback address of a family that the pod has.
        "::1" if own(true).is_some() => "::1".to_owned(),
        "127.0.0.1" | "::1" => proxy.localhost().to_owned(),
        other => other.to_owned(),
    };
    Some((host, port))
}

fn cluster(
    inputs: &Inputs,
    number: u16,
    port: &Port,
    services: &[&model::Service],
    bind: Option<(String, u16)>,
) -> cluster::Cluster {
    let name = ClusterName::inbound(number).to_string();
    let kind = if bind.is_some() { DiscoveryType::Static } else { DiscoveryType::OriginalDst };
    let mut d: Draft = draft(&name, kind, inputs);
    let stat = &inputs.mesh().inbound_cluster_stat_name;
    if let (false, Some(service)) = (stat.is_empty(), services.first()) {
        d.cluster.alt_stat_name = delimited(&super::stat_name(stat, service, "", port));
    }
    match bind {
        Some((host, port)) => {
            let lb = endpoint::LbEndpoint {
                host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint::Endpoint {
                    address: Some(address(&host, port.into())),
                    ..Default::default()
                })),
                ..Default::default()
            };
            d.cluster.load_assignment = Some(endpoint::ClusterLoadAssignment {
                cluster_name: name.clone(),
                endpoints: vec![endpoint::LocalityLbEndpoints { lb_endpoints: vec![lb], ..Default::default() }],
                ..Default::default()
            });
        }
        None => {
            d.cluster.lb_policy = LbPolicy::ClusterProvided as i32;
            d.cluster.cleanup_interval = Some(crate::wire::duration(std::time::Duration::from_secs(NEVER_S)));
            d.cluster.upstream_bind_config = Some(fixed::inbound_bind(inputs));
        }
    }
    set_protocol(&mut d, port, inputs.proxy().node_type);
    // Limits that clients obey must hold here too, else this side would refuse first.
    let scope = inputs.scope();
    let labels = &inputs.proxy().labels;
    let rule = services.first().and_then(|s| {
        let found = scope.rule(&s.hostname, labels, true).cloned();
        let lookup =
            || inputs.snapshot().destination_rules.lookup(&inputs.proxy().namespace, &s.hostname, &s.namespace);
        found.or_else(|| model::destination_rule::select(&lookup(), &inputs.proxy().namespace, labels, true).cloned())
    });
    let from_rule = rule.as_ref().and_then(|r| policy::for_port(r.config.spec.traffic_policy.as_ref(), port.number));
    let sidecar_pool = scope.config.as_ref().and_then(|c| {
        let own = c.spec.ingress.iter().find(|i| i.port.as_ref().is_some_and(|p| p.number == u32::from(number)));
        own.and_then(|i| i.connection_pool.clone()).or_else(|| c.spec.inbound_connection_pool.clone())
    });
    let pool = sidecar_pool.or_else(|| from_rule.and_then(|p| p.connection_pool));
    policy::connection_pool(&mut d, inputs.mesh(), pool.as_ref(), None);
    let metadata = istio_metadata(&mut d.cluster.metadata);
    if !services.is_empty() {
        let mut listed: Vec<prost_types::Value> = Vec::new();
        for s in services {
            let entry = service_metadata(s);
            if !listed.contains(&entry) {
                listed.push(entry);
            }
        }
        metadata.insert("services".to_owned(), list_value(listed));
    }
    if let Some(rule) = rule {
        let c = &rule.config;
        metadata.insert("config".to_owned(), text_value(config_path(&c.kind, &c.namespace, &c.name)));
    }
    d.build()
}
