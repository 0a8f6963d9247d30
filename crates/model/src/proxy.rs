//! Who is asking? One proxy as it introduced itself: node id, metadata, addresses, and what it can do.
//! Built by the xDS server from the first request of a stream; equal proxies share one view.

use std::net::IpAddr;
use std::sync::Arc;

use names::{Labels, NodeId, NodeType};
use prost_types::value::Kind;
use prost_types::{Struct, Value};

use crate::service::Reach;

/// How traffic reaches the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Interception {
    /// NAT redirection.
    #[default]
    Redirect,
    /// Transparent proxying; source addresses survive.
    Tproxy,
    /// None: every listener binds its port.
    None,
}

/// What the proxy understands beyond stock Envoy. Nothing here is sent to a proxy that does not declare it
/// (metadata `PROA_CAPABILITIES`, a comma-separated list, or `ISTIO_VERSION` with Istio's own proxy).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Capabilities {
    /// `peer_metadata` HTTP filter and TCP metadata exchange.
    pub peer_metadata: bool,
    /// `istio.stats`.
    pub istio_stats: bool,
    /// `istio.alpn`.
    pub istio_alpn: bool,
    /// Virtual hosts of outbound ports one by one, over delta xDS, where the mesh says so.
    pub on_demand_hosts: bool,
}

impl Capabilities {
    /// Everything.
    pub const ALL: Capabilities =
        Capabilities { peer_metadata: true, istio_stats: true, istio_alpn: true, on_demand_hosts: true };
}

/// A proxy.
#[derive(Clone, Debug, PartialEq)]
pub struct Proxy {
    /// The whole node id.
    pub id: String,
    /// Sidecar or router.
    pub node_type: NodeType,
    /// Addresses of the workload, first one preferred.
    pub ips: Vec<String>,
    /// Name of the pod.
    pub pod: Arc<str>,
    /// Namespace: decides which configuration is its own.
    pub namespace: Arc<str>,
    /// `NAMESPACE.svc.DOMAIN`, for short names.
    pub dns_domain: String,
    /// Labels of the workload.
    pub labels: Labels,
    /// `region/zone/subzone`.
    pub locality: Arc<str>,
    /// Service account.
    pub service_account: Arc<str>,
    /// Network.
    pub network: Arc<str>,
    /// Cluster.
    pub cluster_id: Arc<str>,
    /// Node it runs on.
    pub node_name: Arc<str>,
    /// How traffic reaches it.
    pub interception: Interception,
    /// Whether it answers DNS for the application.
    pub dns_capture: bool,
    /// Whether it cannot bind ports below 1024.
    pub unprivileged: bool,
    /// Accepts HTTP/1.0.
    pub http10: bool,
    /// `IDLE_TIMEOUT`, default idle timeout of connections.
    pub idle_timeout: Option<std::time::Duration>,
    /// Its `ProxyConfig`, as written, over the mesh default.
    pub proxy_config: serde_json::Value,
    /// What it understands.
    pub capabilities: Capabilities,
    /// All metadata, as sent.
    pub metadata: Struct,
}

impl Proxy {
    /// Reads a node as sent in a discovery request.
    ///
    /// # Errors
    /// The id is not of Istio's form.
    pub fn from_node(id: &str, metadata: &Struct, locality: &str) -> Result<Self, <NodeId as std::str::FromStr>::Err> {
        let node: NodeId = id.parse()?;
        let text = |key: &str| string(metadata, key).unwrap_or_default();
        let flag = |key: &str| matches!(text(key).as_str(), "true" | "1") || boolean(metadata, key);
        let mut ips: Vec<String> =
            text("INSTANCE_IPS").split(',').map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned).collect();
        if ips.is_empty() {
            ips.push(node.ip.clone());
        }
        let namespace = match text("NAMESPACE") {
            s if s.is_empty() => node.namespace().to_owned(),
            s => s,
        };
        let capabilities = text("PROA_CAPABILITIES");
        let can = |word: &str| capabilities.split(',').any(|w| w.trim() == word || w.trim() == "all");
        Ok(Proxy {
            node_type: node.node_type,
            pod: node.pod().into(),
            namespace: namespace.into(),
            dns_domain: node.domain.clone(),
            labels: labels(metadata),
            locality: locality.into(),
            service_account: text("SERVICE_ACCOUNT").into(),
            network: text("NETWORK").into(),
            cluster_id: text("CLUSTER_ID").into(),
            node_name: text("NODE_NAME").into(),
            interception: match text("INTERCEPTION_MODE").as_str() {
                "TPROXY" => Interception::Tproxy,
                "NONE" => Interception::None,
                _ => Interception::Redirect,
            },
            dns_capture: flag("DNS_CAPTURE"),
            unprivileged: flag("UNPRIVILEGED_POD"),
            http10: flag("HTTP10"),
            idle_timeout: api::Duration::parse(&text("IDLE_TIMEOUT")).map(api::Duration::to_std),
            proxy_config: metadata.fields.get("PROXY_CONFIG").map_or(serde_json::Value::Null, to_json),
            capabilities: Capabilities {
                peer_metadata: can("peer_metadata"),
                istio_stats: can("istio_stats"),
                istio_alpn: can("istio_alpn"),
                on_demand_hosts: can("on_demand_hosts") && text("PROXY_XDS_MODE") != "SOTW",
            },
            metadata: metadata.clone(),
            id: id.to_owned(),
            ips,
        })
    }

    /// A proxy with defaults, for simulation and tests.
    pub fn new(node_type: NodeType, ip: &str, namespace: &str, labels: Labels) -> Self {
        let id = NodeId {
            node_type,
            ip: ip.to_owned(),
            id: format!("app.{namespace}"),
            domain: format!("{namespace}.svc.cluster.local"),
        };
        let mut proxy = Proxy::from_node(&id.to_string(), &Struct::default(), "").expect("built from its parts");
        proxy.labels = labels;
        proxy
    }

    /// A text of its metadata; empty when absent.
    pub fn metadata_text(&self, key: &str) -> &str {
        match self.metadata.fields.get(key).and_then(|v| v.kind.as_ref()) {
            Some(Kind::StringValue(s)) => s,
            _ => "",
        }
    }

    /// Whether it is this project's own proxy, which refuses a few things that stock Envoy takes.
    pub fn is_own(&self) -> bool {
        !self.metadata_text("PROA_CAPABILITIES").is_empty()
    }

    /// Whether no address is IPv4.
    pub fn is_ipv6_only(&self) -> bool {
        !self.ips.is_empty() && self.ips.iter().all(|ip| ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()))
    }

    /// Which addresses of services it uses.
    pub fn reach(&self) -> Reach {
        Reach { dns_capture: self.dns_capture, ipv6: self.is_ipv6_only() }
    }

    /// The wildcard and loopback addresses its listeners use.
    pub fn wildcard(&self) -> &'static str {
        if self.is_ipv6_only() { "::" } else { "0.0.0.0" }
    }

    /// The loopback address.
    pub fn localhost(&self) -> &'static str {
        if self.is_ipv6_only() { "::1" } else { "127.0.0.1" }
    }

    /// A field of its `ProxyConfig`, by JSON pointer, else of the mesh default.
    pub fn config<'a>(&'a self, mesh: &'a crate::MeshConfig, pointer: &str) -> Option<&'a serde_json::Value> {
        self.proxy_config.pointer(pointer).or_else(|| mesh.default_config.pointer(pointer))
    }
}

/// The first address of a list that others can reach: no loopback, no link-local.
pub fn global_unicast(ips: &[String]) -> Option<String> {
    let reachable = |ip: &&String| match ip.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => !ip.is_loopback() && !ip.is_link_local() && !ip.is_multicast() && !ip.is_unspecified(),
        Ok(IpAddr::V6(ip)) => {
            !ip.is_loopback() && !ip.is_multicast() && !ip.is_unspecified() && ip.segments()[0] & 0xffc0 != 0xfe80
        }
        Err(_) => false,
    };
    ips.iter().find(reachable).cloned()
}

fn string(metadata: &Struct, key: &str) -> Option<String> {
    match metadata.fields.get(key)?.kind.as_ref()? {
        Kind::StringValue(s) => Some(s.clone()),
        _ => None,
    }
}

fn boolean(metadata: &Struct, key: &str) -> bool {
    matches!(metadata.fields.get(key).and_then(|v| v.kind.as_ref()), Some(Kind::BoolValue(true)))
}

fn labels(metadata: &Struct) -> Labels {
    let Some(Kind::StructValue(fields)) = metadata.fields.get("LABELS").and_then(|v| v.kind.as_ref()) else {
        return Labels::new();
    };
    let text = |v: &Value| match &v.kind {
        Some(Kind::StringValue(s)) => Some(s.clone()),
        _ => None,
    };
    fields.fields.iter().filter_map(|(k, v)| Some((k.clone(), text(v)?))).collect()
}

/// A protobuf `Value` as JSON.
pub fn to_json(value: &Value) -> serde_json::Value {
    match &value.kind {
        Some(Kind::BoolValue(b)) => (*b).into(),
        Some(Kind::NumberValue(n)) if n.fract() == 0.0 && n.abs() < 9e15 => (*n as i64).into(),
        Some(Kind::NumberValue(n)) => (*n).into(),
        Some(Kind::StringValue(s)) => s.clone().into(),
        Some(Kind::ListValue(l)) => l.values.iter().map(to_json).collect::<Vec<_>>().into(),
        Some(Kind::StructValue(s)) => {
            serde_json::Value::Object(s.fields.iter().map(|(k, v)| (k.clone(), to_json(v))).collect())
        }
        Some(Kind::NullValue(_)) | None => serde_json::Value::Null,
    }
}

/// JSON as a protobuf `Value`.
pub fn from_json(value: &serde_json::Value) -> Value {
    use serde_json::Value as J;
    let kind = match value {
        J::Null => Kind::NullValue(0),
        J::Bool(b) => Kind::BoolValue(*b),
        J::Number(n) => Kind::NumberValue(n.as_f64().unwrap_or_default()),
        J::String(s) => Kind::StringValue(s.clone()),
        J::Array(a) => Kind::ListValue(prost_types::ListValue { values: a.iter().map(from_json).collect() }),
        J::Object(o) => {
            Kind::StructValue(Struct { fields: o.iter().map(|(k, v)| (k.clone(), from_json(v))).collect() })
        }
    };
    Value { kind: Some(kind) }
}
