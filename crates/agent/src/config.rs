//! Which `ProxyConfig` holds for this proxy? Defaults, mesh configuration, environment and annotation, the later
//! ones winning field by field. Follows `istio.mesh.v1alpha1.ProxyConfig`; kept as JSON, read by accessors.

use serde_json::{Map, Value, json};

/// The merged configuration, with protobuf's JSON names.
#[derive(Debug, Clone, PartialEq)]
pub struct ProxyConfig(Value);

/// A source of configuration does not parse.
#[derive(Debug, thiserror::Error)]
#[error("{source_name}: {reason}")]
pub struct ConfigError {
    source_name: &'static str,
    reason: String,
}

/// Fields whose maps are merged; all others are replaced.
const MERGED: &[&str] = &["proxyMetadata", "runtimeValues"];

impl ProxyConfig {
    /// Istio's defaults for a proxy of this service cluster.
    pub fn defaults() -> Self {
        ProxyConfig(json!({
            "configPath": "./etc/istio/proxy",
            "binaryPath": "/usr/local/bin/envoy",
            "serviceCluster": "istio-proxy",
            "drainDuration": "45s",
            "terminationDrainDuration": "5s",
            "discoveryAddress": "istiod.istio-system.svc:15012",
            "proxyAdminPort": 15000,
            "controlPlaneAuthPolicy": "MUTUAL_TLS",
            "statNameLength": 189,
            "statusPort": 15020,
            "tracing": {"zipkin": {"address": "zipkin.istio-system:9411"}},
        }))
    }

    /// Takes configuration as it is, without defaults.
    pub fn from_json(value: Value) -> Self {
        ProxyConfig(value)
    }

    /// Merges the `defaultConfig` of a mesh configuration, then `PROXY_CONFIG`, then the annotation
    /// `proxy.istio.io/config`, all YAML or JSON.
    pub fn merged(mesh: &str, environment: &str, annotation: &str) -> Result<Self, ConfigError> {
        let mut config = Self::defaults();
        let mesh = parse("mesh configuration", mesh)?;
        if let Some(default) = mesh.get("defaultConfig") {
            config.apply(default);
        }
        config.apply(&parse("PROXY_CONFIG", environment)?);
        config.apply(&parse("annotation proxy.istio.io/config", annotation)?);
        Ok(config)
    }

    fn apply(&mut self, over: &Value) {
        let (Value::Object(base), Value::Object(over)) = (&mut self.0, over) else {
            return;
        };
        // Null is protobuf's "not said".
        for (name, value) in over.iter().filter(|(_, value)| !value.is_null()) {
            let name = camel(name);
            match (base.get_mut(&name), value) {
                (Some(Value::Object(old)), Value::Object(new)) if MERGED.contains(&name.as_str()) => {
                    old.extend(new.iter().map(|(k, v)| (k.clone(), v.clone())));
                }
                _ => drop(base.insert(name, value.clone())),
            }
        }
    }

    /// Sets one field.
    pub fn set(&mut self, name: &str, value: impl Into<Value>) {
        if let Value::Object(fields) = &mut self.0 {
            fields.insert(name.to_owned(), value.into());
        }
    }

    /// The whole configuration.
    pub fn json(&self) -> &Value {
        &self.0
    }

    /// A field by JSON pointer (`/tracing/zipkin/address`).
    pub fn get(&self, pointer: &str) -> Option<&Value> {
        self.0.pointer(pointer)
    }

    /// A text field, empty when absent.
    pub fn text(&self, pointer: &str) -> &str {
        self.get(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// A number field; protobuf writes large ones as text.
    pub fn number(&self, pointer: &str) -> Option<u64> {
        let value = self.get(pointer)?;
        value.as_u64().or_else(|| value.as_str()?.parse().ok())
    }

    /// A port field.
    pub fn port(&self, pointer: &str, default: u16) -> u16 {
        self.number(pointer).and_then(|n| u16::try_from(n).ok()).filter(|p| *p != 0).unwrap_or(default)
    }

    /// A duration field.
    pub fn duration(&self, pointer: &str, default: std::time::Duration) -> std::time::Duration {
        api::Duration::parse(self.text(pointer)).map_or(default, api::Duration::to_std)
    }

    /// Environment that the configuration sets for the agent.
    pub fn proxy_metadata(&self) -> impl Iterator<Item = (&str, &str)> {
        let map = self.get("/proxyMetadata").and_then(Value::as_object);
        map.into_iter().flatten().filter_map(|(k, v)| Some((k.as_str(), v.as_str()?)))
    }
}

fn parse(source_name: &'static str, text: &str) -> Result<Value, ConfigError> {
    if text.trim().is_empty() {
        return Ok(Value::Object(Map::new()));
    }
    let value = api::yaml::parse(text).map_err(|e| ConfigError { source_name, reason: e.to_string() })?;
    match value {
        Value::Object(_) => Ok(value),
        Value::Null => Ok(Value::Object(Map::new())),
        _ => Err(ConfigError { source_name, reason: "not a map of fields".into() }),
    }
}

/// `discovery_address` → `discoveryAddress`; protobuf's JSON accepts both.
fn camel(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut upper = false;
    for c in name.chars() {
        match c {
            '_' => upper = true,
            c if upper => {
                out.extend(c.to_uppercase());
                upper = false;
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_sources_win_field_by_field() {
        let mesh =
            "defaultConfig:\n  discoveryAddress: file:123\n  proxyMetadata:\n    SOME: setting\n  extraStatTags: [a]\n";
        let env = "discoveryAddress: environment:123\nproxyMetadata:\n  OTHER: option\n";
        let annotation = "discovery_address: annotation:123\ndrainDuration: 5s\nextraStatTags: [b]\n";
        let config = ProxyConfig::merged(mesh, env, annotation).unwrap();
        assert_eq!(config.text("/discoveryAddress"), "annotation:123");
        assert_eq!(config.text("/drainDuration"), "5s");
        assert_eq!(config.get("/extraStatTags"), Some(&json!(["b"])));
        assert_eq!(config.get("/proxyMetadata"), Some(&json!({"SOME": "setting", "OTHER": "option"})));
        assert_eq!(config.port("/statusPort", 1), 15020);
    }

    #[test]
    fn broken_sources_are_named() {
        let error = ProxyConfig::merged("", "{", "").unwrap_err();
        assert!(error.to_string().starts_with("PROXY_CONFIG: "), "{error}");
        assert!(ProxyConfig::merged("", "", "[1]").is_err());
    }
}
