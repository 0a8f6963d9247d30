//! What of the configuration could this proxy not have, because something older has its place? For people: metrics,
//! `push_status` and statuses ask when they are read, pushes never do. Words and keys are those of Istio's
//! `pilot/pkg/model/push_context.go`.

use std::collections::{BTreeMap, BTreeSet};

use names::{ClusterName, NodeType};

use crate::Inputs;
use crate::listener::{inbound, outbound};

/// Two services want the same port of the workload with different protocols.
pub const INBOUND_LISTENER: &str = "pilot_conflict_inbound_listener";
/// Two services' bytes cannot be told apart where they leave the workload.
pub const OUTBOUND_TCP: &str = "pilot_conflict_outbound_listener_tcp_over_current_tcp";
/// Two services of one host have a port in common, so that their clusters have one name.
pub const CLUSTERS: &str = "pilot_duplicate_envoy_clusters";
/// Two virtual services have a host in common.
pub const DOMAINS: &str = "pilot_vservice_dup_domain";

/// One thing this proxy could not have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflict {
    /// Which gauge counts it, one of this module's constants.
    pub metric: &'static str,
    /// What it is about: a listener, a cluster, a host; empty for the proxy as a whole.
    pub key: String,
    /// Who has it and who has not.
    pub message: String,
}

/// Everything that the ports of the proxy's own workload lack; cheap.
pub fn of_workload(inputs: &Inputs) -> Vec<Conflict> {
    if inputs.proxy().node_type != NodeType::Sidecar {
        return Vec::new();
    }
    let one = |(port, has, lacks): (u16, &model::Service, &model::Service)| Conflict {
        metric: INBOUND_LISTENER,
        key: String::new(),
        message: format!(
            "Conflicting inbound listener:{port}. existing: {}, incoming: {}",
            has.hostname, lacks.hostname
        ),
    };
    inbound::rejected(inputs).into_iter().map(one).collect()
}

/// Everything that proxies of the same scope lack alike. Costs about as much as their listeners.
pub fn of_scope(inputs: &Inputs) -> Vec<Conflict> {
    let mut out = clusters(inputs);
    if inputs.proxy().node_type == NodeType::Sidecar {
        out.extend(domains(inputs));
        outbound::rejected(inputs, |r| {
            let accepted: Vec<&str> = r.accepted.iter().map(|s| s.hostname.as_str()).collect();
            let (protocol, services) = (r.protocol, accepted.len());
            let message = format!(
                "Listener={} Accepted{protocol}={} Rejected{protocol}={} {protocol}Services={services}",
                r.listener,
                accepted.join(","),
                r.rejected.hostname,
            );
            out.push(Conflict { metric: OUTBOUND_TCP, key: r.listener, message });
        });
    }
    out
}

fn clusters(inputs: &Inputs) -> Vec<Conflict> {
    let mut seen = BTreeSet::new();
    let mut out = Vec::new();
    for service in inputs.scope().services.iter() {
        for port in service.ports.iter().filter(|p| !seen.insert((&service.hostname, p.number))) {
            let key = ClusterName::outbound(port.number, "", &service.hostname).to_string();
            let message = format!("Duplicate cluster {key} found while pushing CDS");
            out.push(Conflict { metric: CLUSTERS, key, message });
        }
    }
    out
}

fn domains(inputs: &Inputs) -> Vec<Conflict> {
    let mut out = BTreeSet::new();
    for egress in &inputs.scope().egress {
        let mut first = BTreeMap::new();
        for v in egress.virtual_services.iter().filter(|v| !v.config.spec.http.is_empty()) {
            for host in &v.hosts {
                let older = *first.entry(host).or_insert(v);
                if !std::sync::Arc::ptr_eq(older, v) {
                    let (has, lacks) = (older.config.qualified(), v.config.qualified());
                    let message = format!("duplicate domain from virtual service: {host} of {lacks}, {has} has it");
                    out.insert(Conflict { metric: DOMAINS, key: host.to_string(), message });
                }
            }
        }
    }
    out.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use model::{Change, MeshConfig, Proxy, ProxyView, Store};
    use names::Labels;
    use serde_json::{Value, json};

    use super::*;

    fn resource(group: &str, kind: &str, name: &str, second: u32, spec: Value) -> Change {
        let value = json!({"apiVersion": group, "kind": kind, "spec": spec, "metadata": {"name": name,
            "namespace": "ns", "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z")}});
        Change::Apply(api::Resource::from_value(value, None, "ns").expect("valid"))
    }

    fn entry(name: &str, second: u32, host: &str, protocol: &str, addresses: &[&str]) -> Change {
        let port = json!({"number": 9000, "name": "p", "protocol": protocol});
        let spec = json!({"hosts": [host], "addresses": addresses, "resolution": "STATIC", "ports": [port],
            "endpoints": [{"address": "10.9.9.9"}]});
        resource("networking.istio.io/v1", "ServiceEntry", name, second, spec)
    }

    fn inputs(changes: Vec<Change>) -> Inputs {
        let mut store = Store::new(MeshConfig::default());
        store.apply(changes);
        let labels: Labels = [("app".to_owned(), "a".to_owned())].into_iter().collect();
        let proxy = Proxy::new(NodeType::Sidecar, "10.1.1.1", "ns", labels);
        Inputs::new(Arc::new(ProxyView::new(&store.snapshot(), &Arc::new(proxy))))
    }

    fn told(list: Vec<Conflict>) -> Vec<(&'static str, String, String)> {
        list.into_iter().map(|c| (c.metric, c.key, c.message)).collect()
    }

    #[test]
    fn bytes_on_one_address_go_to_the_older_service() {
        let same = vec![
            entry("old", 1, "old.example", "TCP", &["10.5.5.5"]),
            entry("young", 2, "young.example", "TCP", &["10.5.5.5"]),
            entry("elsewhere", 3, "elsewhere.example", "TCP", &["10.5.5.6"]),
        ];
        let listener = "10.5.5.5_9000".to_owned();
        let message = format!("Listener={listener} AcceptedTCP=old.example RejectedTCP=young.example TCPServices=1");
        assert_eq!(told(of_scope(&inputs(same))), [(OUTBOUND_TCP, listener, message)]);
    }

    #[test]
    fn http_of_one_port_is_no_conflict() {
        let list = vec![
            entry("old", 1, "old.example", "HTTP", &["10.5.5.5"]),
            entry("young", 2, "young.example", "HTTP", &["10.5.5.5"]),
        ];
        assert_eq!(told(of_scope(&inputs(list))), []);
    }

    #[test]
    fn hosts_of_two_virtual_services_are_told() {
        let route = json!([{"route": [{"destination": {"host": "a.example"}}]}]);
        let rule = |name, second, hosts: &[&str]| {
            let spec = json!({"hosts": hosts, "http": route});
            resource("networking.istio.io/v1", "VirtualService", name, second, spec)
        };
        let list = vec![rule("young", 2, &["a.example", "b.example"]), rule("old", 1, &["a.example"])];
        let message = "duplicate domain from virtual service: a.example of ns/young, ns/old has it";
        assert_eq!(told(of_scope(&inputs(list))), [(DOMAINS, "a.example".to_owned(), message.to_owned())]);
    }

    #[test]
    fn a_port_of_the_workload_has_one_protocol() {
        let service = |name: &str, second, port: &str| {
            let spec = json!({"clusterIP": format!("10.0.0.{second}"), "selector": {"app": "a"},
                "ports": [{"name": port, "port": 80, "targetPort": 8080}]});
            resource("v1", "Service", name, second, spec)
        };
        let host = |name: &str| format!("{name}.ns.svc.cluster.local");
        let found = inputs(vec![service("old", 1, "http"), service("young", 2, "tcp"), service("same", 3, "http-x")]);
        let message =
            format!("Conflicting inbound listener:8080. existing: {}, incoming: {}", host("old"), host("young"));
        assert_eq!(told(of_workload(&found)), [(INBOUND_LISTENER, String::new(), message)]);
    }
}
