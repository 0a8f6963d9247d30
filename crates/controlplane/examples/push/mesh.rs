//! The mesh that is served: 100 namespaces of 10 services with 10 pods each, 50 ports among them, and a virtual service
//! and a destination rule for every tenth service. The pods of the first service
//! of each namespace have sidecars that connect: 1,000 proxies, 100 views.

use serde_json::{Value, json};

/// Namespaces; fewer to look for a fault (`PUSH_NAMESPACES`).
pub fn namespaces() -> usize {
    std::env::var("PUSH_NAMESPACES").ok().and_then(|n| n.parse().ok()).unwrap_or(100)
}
pub const SERVICES: usize = 10;
pub const PODS: usize = 10;
/// Ports that services share: a change of one re-sends the routes of all on its port.
pub const PORTS: usize = 50;

pub fn port(n: usize, s: usize) -> usize {
    8000 + (n * SERVICES + s) % PORTS
}

pub fn ip(n: usize, s: usize, p: usize) -> String {
    format!("10.{n}.{s}.{}", p + 1)
}

pub fn service(n: usize, s: usize) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("s{s}"), "namespace": format!("n{n}")},
        "spec": {"clusterIP": format!("10.200.{n}.{}", s + 1), "selector": {"app": format!("s{s}")},
            "ports": [{"name": "http", "port": port(n, s), "targetPort": 8080}]}})
}

pub fn pod(n: usize, s: usize, p: usize, ready: bool) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("s{s}-{p}"), "namespace": format!("n{n}"),
            "labels": {"app": format!("s{s}"), "version": "v1", "security.istio.io/tlsMode": "istio"}},
        "spec": {"serviceAccountName": format!("s{s}"), "nodeName": format!("node-{p}"), "containers": [{"name": "app"}]},
        "status": {"phase": "Running", "podIP": ip(n, s, p), "podIPs": [{"ip": ip(n, s, p)}],
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}})
}

pub fn virtual_service(n: usize, timeout_s: usize) -> Value {
    json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": "s0", "namespace": format!("n{n}")},
        "spec": {"hosts": [format!("s0.n{n}.svc.cluster.local")], "http": [{"timeout": format!("{timeout_s}s"),
            "route": [{"destination": {"host": format!("s0.n{n}.svc.cluster.local")}}]}]}})
}

pub fn destination_rule(n: usize) -> Value {
    json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "metadata": {"name": "s0", "namespace": format!("n{n}")},
        "spec": {"host": format!("s0.n{n}.svc.cluster.local"), "subsets": [{"name": "v1", "labels": {"version": "v1"}}]}})
}

pub fn all() -> impl Iterator<Item = Value> {
    (0..namespaces()).flat_map(|n| {
        let services = (0..SERVICES).map(move |s| service(n, s));
        let pods = (0..SERVICES).flat_map(move |s| (0..PODS).map(move |p| pod(n, s, p, true)));
        services.chain(pods).chain([virtual_service(n, 1), destination_rule(n)])
    })
}
