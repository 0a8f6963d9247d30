//! How are clusters, hosts, nodes, identities and ports named? Pure grammar, shared by both planes.
//!
//! Everything here is text that people grep for: `outbound|8000|v1|httpbin.samples.svc.cluster.local`,
//! `sidecar~10.0.0.1~pod.ns~ns.svc.cluster.local`, `spiffe://cluster.local/ns/NS/sa/SA`. Each type parses
//! and prints one such form and knows the rules that go with it (wildcard matching, short-name expansion,
//! protocol selection). Deliberately absent: what the names refer to.

mod cluster;
mod host;
mod identity;
mod kind;
mod labels;
mod node;
pub mod ports;
mod protocol;

pub use cluster::{ClusterName, TrafficDirection};
pub use host::{Hostname, is_ip};
pub use identity::Identity;
pub use kind::{Gvk, Kind, ResourceKey};
pub use labels::{Labels, LabelsExt, Operator, Requirement, Selector};
pub use node::{NodeId, NodeType};
pub use protocol::PortProtocol;

/// Names of things that exist once per proxy and that operators know by heart.
pub mod well_known {
    /// Cluster for outbound traffic whose destination is unknown and forbidden.
    pub const BLACK_HOLE_CLUSTER: &str = "BlackHoleCluster";
    /// Cluster for outbound traffic whose destination is unknown and allowed.
    pub const PASSTHROUGH_CLUSTER: &str = "PassthroughCluster";
    /// Cluster for inbound traffic to a port no service declares.
    pub const INBOUND_PASSTHROUGH_CLUSTER: &str = "InboundPassthroughCluster";
    /// Cluster of the xDS connection.
    pub const XDS_CLUSTER: &str = "xds-grpc";
    /// Cluster of the SDS connection.
    pub const SDS_CLUSTER: &str = "sds-grpc";
    /// Outbound capture listener (port 15001).
    pub const VIRTUAL_OUTBOUND: &str = "virtualOutbound";
    /// Inbound capture listener (port 15006).
    pub const VIRTUAL_INBOUND: &str = "virtualInbound";
    /// Fallback filter chain of `virtualOutbound`.
    pub const VIRTUAL_OUTBOUND_CATCHALL_TCP: &str = "virtualOutbound-catchall-tcp";
    /// Black-hole filter chain of `virtualOutbound` (loops to the capture port itself).
    pub const VIRTUAL_OUTBOUND_BLACKHOLE: &str = "virtualOutbound-blackhole";
    /// Black-hole filter chain of `virtualInbound`.
    pub const VIRTUAL_INBOUND_BLACKHOLE: &str = "virtualInbound-blackhole";
    /// Virtual host for unknown authorities when they are allowed.
    pub const ALLOW_ANY: &str = "allow_any";
    /// Virtual host for unknown authorities when they are not.
    pub const BLOCK_ALL: &str = "block_all";
    /// The `gateways` entry that means "all sidecars".
    pub const MESH_GATEWAY: &str = "mesh";
    /// Secret name of the workload certificate in SDS.
    pub const SDS_DEFAULT: &str = "default";
    /// Secret name of the trust bundle in SDS.
    pub const SDS_ROOTCA: &str = "ROOTCA";
    /// Default trust domain and cluster domain.
    pub const CLUSTER_LOCAL: &str = "cluster.local";
    /// Default root namespace.
    pub const ISTIO_SYSTEM: &str = "istio-system";
}

/// Listener names as Istio prints them: `0.0.0.0_8000`, `10.0.0.1_8000`; Unix paths are kept as they are.
pub fn listener_name(bind: &str, port: u16) -> String {
    if bind.starts_with('/') || bind.starts_with('@') || port == 0 { bind.to_owned() } else { format!("{bind}_{port}") }
}

/// Route names of the outbound HTTP listeners: the port for sidecars (`8000`), `host:port` when the
/// listener is sniffed per service.
pub fn outbound_route_name(port: u16, sniffed_host: Option<&Hostname>) -> String {
    match sniffed_host {
        Some(host) => format!("{host}:{port}"),
        None => port.to_string(),
    }
}

/// Route names of gateway servers: `http.80` for plain HTTP, `https.443.<port name>.<gateway>.<namespace>` for TLS.
pub fn gateway_route_name(port: u16, tls: Option<(&str, &str, &str)>) -> String {
    match tls {
        None => format!("http.{port}"),
        Some((port_name, gateway, namespace)) => {
            format!("https.{port}.{port_name}.{gateway}.{namespace}")
        }
    }
}

/// Port, port name and gateway (`NAMESPACE/NAME`) of a gateway's route name; the last two are empty for plain HTTP.
pub fn parse_gateway_route_name(name: &str) -> Option<(u16, String, String)> {
    let parts: Vec<&str> = name.split('.').collect();
    match parts.as_slice() {
        ["http", port, ..] => Some((port.parse().ok()?, String::new(), String::new())),
        ["https", port, port_name, gateway, namespace, ..] => {
            Some((port.parse().ok()?, (*port_name).to_owned(), format!("{namespace}/{gateway}")))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listener_and_route_names() {
        assert_eq!(listener_name("0.0.0.0", 8000), "0.0.0.0_8000");
        assert_eq!(listener_name("/var/run/a.sock", 0), "/var/run/a.sock");
        assert_eq!(gateway_route_name(443, Some(("https", "gw", "ns"))), "https.443.https.gw.ns");
        assert_eq!(outbound_route_name(80, None), "80");
    }
}
