//! Tables by subject. Each `serve` gives `None` for tables that are not its own.

pub mod chains;
pub mod cluster;
pub mod differences;
pub mod export;
pub mod listeners;
pub mod patch;
pub mod policy;
pub mod proxies;
pub mod route;
pub mod scope;
pub mod security;
pub mod sidecar_routes;
pub mod small;
pub mod telemetry;
pub mod tracing;
pub mod traffic;
pub mod upstream;

use std::sync::Arc;

use model::{Change, MeshConfig, Port, Proxy, ProxyView, Registry, Resolution, Service, Store, TargetPort, Visibility};
use names::{Hostname, NodeType, PortProtocol};
use serde_json::{Value, json};
use translate::Inputs;

use crate::common::literal;

pub type Outcome = Option<Result<(), String>>;

/// A row by the runner that knows its table; `all` are the rows beside it.
pub fn serve(func: &str, v: &Value, all: &[Value]) -> Outcome {
    small::serve(func, v)
        .or_else(|| cluster::serve(func, v))
        .or_else(|| route::serve(func, v))
        .or_else(|| scope::serve(func, v))
        .or_else(|| telemetry::serve(func, v))
        .or_else(|| patch::serve(func, v))
        .or_else(|| security::serve(func, v, all))
        .or_else(|| policy::serve(func, v))
        .or_else(|| listeners::serve(func, v))
        .or_else(|| proxies::serve(func, v))
        .or_else(|| traffic::serve(func, v))
        .or_else(|| tracing::serve(func, v))
        .or_else(|| sidecar_routes::serve(func, v))
        .or_else(|| export::serve(func, v))
        .or_else(|| upstream::serve(func, v))
        .or_else(|| chains::serve(func, v))
}

pub fn flag(v: &Value) -> bool {
    v.as_bool().unwrap_or(false)
}

pub fn word(v: &Value) -> &str {
    v.as_str().unwrap_or_default()
}

pub fn number(v: &Value) -> u16 {
    v.as_u64().and_then(|n| u16::try_from(n).ok()).unwrap_or(0)
}

/// A port of a `model.Port` literal.
pub fn port(v: &Value) -> Port {
    let n = number(&v["Port"]);
    Port {
        name: word(&v["Name"]).into(),
        number: n,
        protocol: PortProtocol::parse(word(&v["Protocol"])),
        target: TargetPort::Number(n),
    }
}

/// A service of a `model.Service` literal.
pub fn service(v: &Value) -> Service {
    let a = &v["Attributes"];
    let hostname = Hostname::from(literal::text(&v["Hostname"]));
    let mut addresses: Vec<String> = Vec::new();
    let vips = v["ClusterVIPs"]["Addresses"].as_object();
    for list in vips.into_iter().flatten().take(1).map(|(_, l)| l) {
        addresses.extend(literal::texts(list));
    }
    if addresses.is_empty() && !word(&v["DefaultAddress"]).is_empty() {
        addresses.push(word(&v["DefaultAddress"]).to_owned());
    }
    let name = if word(&a["Name"]).is_empty() { hostname.as_str() } else { word(&a["Name"]) };
    Service {
        name: name.into(),
        resource: name.into(),
        namespace: word(&a["Namespace"]).into(),
        registry: if word(&a["ServiceRegistry"]) == "Kubernetes"
            || a["ServiceRegistry"]["$ref"].as_str().is_some_and(|r| r.ends_with("Kubernetes"))
        {
            Registry::Kubernetes
        } else {
            Registry::External
        },
        ports: literal::elements(&v["Ports"]).iter().map(port).collect(),
        addresses,
        auto_addresses: Vec::new(),
        resolution: match v["Resolution"]["$ref"].as_str().and_then(|r| r.rsplit('.').next()) {
            Some("Passthrough") => Resolution::Passthrough,
            Some("DNSLB") => Resolution::DnsLb,
            Some("DNSRoundRobinLB") => Resolution::DnsRoundRobin,
            Some("Alias") => Resolution::Alias,
            Some("DynamicDNS") => Resolution::DynamicDns,
            _ => Resolution::ClientSideLb,
        },
        mesh_external: flag(&v["MeshExternal"]),
        external_name: None,
        aliases: a["Aliases"].as_array().into_iter().flatten().map(|x| word(&x["Hostname"]).into()).collect(),
        visibility: Visibility::parse(&literal::texts(&a["ExportTo"]), &[], word(&a["Namespace"])),
        labels: literal::labels(&a["Labels"]),
        selector: None,
        subject_alt_names: Vec::new(),
        traffic_distribution: match a["K8sAttributes"]["TrafficDistribution"]["$ref"]
            .as_str()
            .and_then(|r| r.rsplit('.').next())
        {
            Some("TrafficDistributionPreferSameZone") => model::service::TrafficDistribution::PreferSameZone,
            Some("TrafficDistributionPreferSameNode") => model::service::TrafficDistribution::PreferSameNode,
            _ => model::service::TrafficDistribution::Any,
        },
        publish_not_ready: false,
        created_us: 0,
        hostname,
    }
}

/// A sidecar with everything that Istio's proxy has.
pub fn sidecar(namespace: &str) -> Proxy {
    let mut proxy = Proxy::new(NodeType::Sidecar, "1.1.1.1", namespace, Default::default());
    proxy.capabilities = model::Capabilities::ALL;
    proxy
}

pub fn router(namespace: &str) -> Proxy {
    let labels = [("istio".to_owned(), "ingressgateway".to_owned())].into();
    let mut proxy = Proxy::new(NodeType::Router, "1.1.1.1", namespace, labels);
    proxy.capabilities = model::Capabilities::ALL;
    proxy
}

pub fn inputs(mesh: &Value, proxy: Proxy, resources: Vec<api::Resource>) -> Inputs {
    let mut store = Store::new(MeshConfig::from_json(mesh));
    store.apply(resources.into_iter().map(Change::Apply));
    Inputs::new(Arc::new(ProxyView::new(&store.snapshot(), &Arc::new(proxy))))
}

/// A mesh literal as JSON.
pub fn mesh(v: &Value) -> Value {
    let mesh = literal::plain(v);
    if mesh.is_object() { mesh } else { json!({}) }
}

/// A resource from its parts.
pub fn made(kind: &str, name: &str, namespace: &str, spec: Value) -> Result<api::Resource, String> {
    let group = match kind {
        "Telemetry" => "telemetry.istio.io/v1",
        "PeerAuthentication" | "RequestAuthentication" | "AuthorizationPolicy" => "security.istio.io/v1",
        "ProxyConfig" => "networking.istio.io/v1beta1",
        "EnvoyFilter" => "networking.istio.io/v1alpha3",
        _ => "networking.istio.io/v1",
    };
    let value =
        json!({"apiVersion": group, "kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec});
    crate::common::pruned(value, namespace)
}

/// A service entry with one HTTP port per number.
pub fn entry(host: &str, namespace: &str, ports: &[(u16, &str)], endpoints: &[&str]) -> Result<api::Resource, String> {
    let ports: Vec<Value> = ports
        .iter()
        .map(|(n, p)| json!({"name": format!("{}-{n}", p.to_lowercase()), "number": n, "protocol": p}))
        .collect();
    let endpoints: Vec<Value> = endpoints.iter().map(|e| json!({"address": e})).collect();
    let name = host.replace(['*', '.'], "-").trim_matches('-').to_owned();
    let resolution = if host.starts_with('*') && endpoints.is_empty() { "NONE" } else { "STATIC" };
    made(
        "ServiceEntry",
        &name,
        namespace,
        json!({"hosts": [host], "ports": ports, "location": "MESH_INTERNAL", "resolution": resolution, "endpoints": endpoints}),
    )
}
