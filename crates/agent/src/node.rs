//! Who is this proxy? Node id and metadata from the environment, the pod's labels and annotations and the proxy
//! configuration, as the control plane and Envoy's bootstrap want them. Pure over given values.

use std::collections::BTreeMap;

use prost::Message as _;
use serde_json::{Map, Value, json};

use crate::config::ProxyConfig;

/// What metadata is made from.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// All environment variables, with `proxyMetadata` of the configuration already over them.
    pub env: BTreeMap<String, String>,
    /// Lines of the downward API's `labels` file, parsed.
    pub labels: BTreeMap<String, String>,
    /// Lines of the downward API's `annotations` file, parsed.
    pub annotations: BTreeMap<String, String>,
    /// Addresses of the instance; the first one is in the node id.
    pub ips: Vec<String>,
    /// Identities that the control plane may have (`PILOT_SAN`).
    pub pilot_sans: Vec<String>,
    /// Where outlier events are logged; empty: nowhere.
    pub outlier_log_path: String,
    /// Name of the workload identity socket.
    pub identity_socket: String,
    /// Ports of the proxy's own listeners: Prometheus, health.
    pub prometheus_port: u16,
    /// Port of the health listener.
    pub status_port: u16,
}

/// The node as it goes into the bootstrap and every xDS stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// `sidecar~IP~POD.NS~NS.svc.DOMAIN`
    pub id: String,
    /// Service cluster.
    pub cluster: String,
    /// Region, zone, sub-zone.
    pub locality: [String; 3],
    /// Metadata.
    pub metadata: Map<String, Value>,
}

/// Annotations that concern other machinery and are not sent, as Istio leaves them out.
const ANNOTATIONS_DROPPED: &[&str] = &["kubectl.kubernetes.io/last-applied-configuration"];
/// Annotations that set statistics; they are metadata of their own, too, as Istio sends them.
const STATS_ANNOTATIONS: &[&str] = &[
    "sidecar.istio.io/statsInclusionPrefixes",
    "sidecar.istio.io/statsInclusionSuffixes",
    "sidecar.istio.io/statsInclusionRegexps",
    "sidecar.istio.io/extraStatTags",
    "sidecar.istio.io/statsHistogramBuckets",
    "sidecar.istio.io/statsFlushInterval",
    "sidecar.istio.io/statsEvictionInterval",
];
/// Prefix of environment variables that become metadata as text.
const META: &str = "ISTIO_META_";
/// Prefix of environment variables that hold a JSON object whose fields become metadata.
const META_JSON: &str = "ISTIO_METAJSON_";
/// Metadata that is JSON although given as text.
const TYPED: &[&str] = &["APP_CONTAINERS", "POD_PORTS"];

/// Makes the node.
pub fn node(id: &str, facts: &Facts, config: &ProxyConfig) -> Node {
    let mut meta = Map::new();
    for (name, value) in &facts.env {
        if let Some(name) = name.strip_prefix(META_JSON) {
            match serde_json::from_str(value) {
                Ok(Value::Object(fields)) if name.is_empty() || !TYPED.contains(&name) => meta.extend(fields),
                Ok(other) => drop(meta.insert(name.to_owned(), other)),
                Err(_) => drop(meta.insert(name.to_owned(), value.as_str().into())),
            }
        } else if let Some(name) = name.strip_prefix(META) {
            meta.insert(name.to_owned(), value.as_str().into());
        }
    }
    if !facts.labels.is_empty() || meta.contains_key("LABELS") {
        let labels = meta.entry("LABELS").or_insert_with(|| json!({}));
        for (name, value) in &facts.labels {
            labels[name] = value.as_str().into();
        }
    }
    let annotations: Map<String, Value> = facts
        .annotations
        .iter()
        .filter(|(name, _)| !ANNOTATIONS_DROPPED.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.as_str().into()))
        .collect();
    for name in STATS_ANNOTATIONS {
        if let Some(value) = annotations.get(*name) {
            meta.insert((*name).to_owned(), value.clone());
        }
    }
    if !annotations.is_empty() {
        meta.insert("ANNOTATIONS".into(), annotations.into());
    }
    let mut put = |name: &str, value: Value| {
        let empty = value.as_str().is_some_and(str::is_empty) || value.as_array().is_some_and(Vec::is_empty);
        if !empty {
            meta.insert(name.to_owned(), value);
        }
    };
    let env = |name: &str| Value::from(facts.env.get(name).map(String::as_str).unwrap_or_default());
    put("NAME", env("POD_NAME"));
    put("NAMESPACE", env("POD_NAMESPACE"));
    put("SERVICE_ACCOUNT", env("SERVICE_ACCOUNT"));
    put("NODE_NAME", env("ISTIO_META_NODE_NAME"));
    put("INSTANCE_IPS", dedup(&facts.ips).join(",").into());
    put("ENVOY_PROMETHEUS_PORT", facts.prometheus_port.into());
    put("ENVOY_STATUS_PORT", facts.status_port.into());
    for name in ["ENVOY_SECURE_METRICS_PORT", "ENVOY_SECURE_MERGED_METRICS_PORT"] {
        if let Some(port) = facts.env.get(name).and_then(|p| p.parse::<u16>().ok()).filter(|p| *p != 0) {
            put(name, port.into());
        }
    }
    put("OUTLIER_LOG_PATH", facts.outlier_log_path.as_str().into());
    put("PILOT_SAN", json!(facts.pilot_sans));
    put("WORKLOAD_IDENTITY_SOCKET_FILE", facts.identity_socket.as_str().into());
    let mut proxy_config = config.json().clone();
    // Protobuf's JSON leaves zero values out; this is the one a user writes.
    if proxy_config["controlPlaneAuthPolicy"] == "NONE" {
        proxy_config.as_object_mut().and_then(|c| c.shift_remove("controlPlaneAuthPolicy"));
    }
    put("PROXY_CONFIG", proxy_config);
    if !meta.contains_key("ISTIO_VERSION") {
        meta.insert("ISTIO_VERSION".into(), crate::VERSION.into());
    }
    let locality = meta.get("LABELS").and_then(|l| l.get("istio-locality")).and_then(Value::as_str).unwrap_or_default();
    let mut parts = locality.split(['/', '.']).map(str::to_owned);
    let locality = std::array::from_fn(|_| parts.next().unwrap_or_default());
    meta.sort_keys();
    Node { id: id.to_owned(), cluster: config.text("/serviceCluster").to_owned(), locality, metadata: meta }
}

fn dedup(ips: &[String]) -> Vec<&str> {
    let mut seen = Vec::new();
    for ip in ips {
        if !seen.contains(&ip.as_str()) {
            seen.push(ip.as_str());
        }
    }
    seen
}

/// Parses the downward API's `key="value"` lines (Go-quoted values).
pub fn downward_map(text: &str) -> BTreeMap<String, String> {
    let entry = |line: &str| {
        let (key, value) = line.split_once('=')?;
        let value = serde_json::from_str::<String>(value).unwrap_or_else(|_| value.trim_matches('"').to_owned());
        Some((key.to_owned(), value))
    };
    text.lines().filter_map(entry).collect()
}

impl Node {
    /// The node as a protobuf message.
    pub fn to_proto(&self) -> protos::envoy::config::core::v3::Node {
        use protos::envoy::config::core::v3 as core;
        let [region, zone, sub_zone] = self.locality.clone();
        let metadata = Value::Object(self.metadata.clone());
        let metadata = protos::json::from_json("google.protobuf.Struct", &metadata).ok();
        let metadata = metadata.and_then(|bytes| prost_types::Struct::decode(&*bytes).ok());
        core::Node {
            id: self.id.clone(),
            cluster: self.cluster.clone(),
            metadata,
            locality: (!region.is_empty()).then_some(core::Locality { region, zone, sub_zone }),
            ..Default::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_comes_from_all_sources() {
        let env = [
            ("ISTIO_META_CLUSTER_ID", "Kubernetes"),
            ("ISTIO_METAJSON_LABELS", r#"{"LABELS":{"app":"a","version":"v1"}}"#),
            ("POD_NAME", "sleep-1"),
            ("POD_NAMESPACE", "samples"),
            ("HOME", "/"),
        ];
        let facts = Facts {
            env: env.map(|(k, v)| (k.into(), v.into())).into(),
            labels: downward_map("app=\"sleep\"\nistio-locality=\"r.z.s\"\n"),
            annotations: downward_map("a=\"x \\\"y\\\"\"\nkubectl.kubernetes.io/last-applied-configuration=\"{}\""),
            ips: ["10.0.0.1", "10.0.0.2", "10.0.0.1"].map(String::from).into(),
            prometheus_port: 15090,
            status_port: 15021,
            ..Facts::default()
        };
        let node = node("sidecar~10.0.0.1~sleep-1.samples~samples.svc.cluster.local", &facts, &ProxyConfig::defaults());
        let meta = &node.metadata;
        assert_eq!(meta["CLUSTER_ID"], "Kubernetes");
        assert_eq!(meta["LABELS"], json!({"app": "sleep", "version": "v1", "istio-locality": "r.z.s"}));
        assert_eq!(meta["ANNOTATIONS"], json!({"a": "x \"y\""}));
        assert_eq!((&meta["NAME"], &meta["INSTANCE_IPS"]), (&json!("sleep-1"), &json!("10.0.0.1,10.0.0.2")));
        assert!(!meta.contains_key("HOME") && !meta.contains_key("PILOT_SAN"));
        assert_eq!(node.locality, ["r", "z", "s"]);
        let proto = node.to_proto();
        assert_eq!(proto.metadata.unwrap().fields.len(), meta.len());
    }
}
