//! What is a resource to the local mesh? A Kubernetes-shaped JSON object under a key; typed reading is for those who
//! need it (the control plane, the pod runner).

use std::fmt;

use serde_json::{Map, Value, json};

/// A kind that the local mesh knows, with the names people use for it.
#[derive(Debug)]
pub struct Kind {
    /// `VirtualService`
    pub name: &'static str,
    /// `virtualservices`
    pub plural: &'static str,
    /// Further names, `vs`.
    pub aliases: &'static [&'static str],
    /// `networking.istio.io/v1`; `v1` for the core.
    pub api_version: &'static str,
    /// Whether it lives in a namespace.
    pub namespaced: bool,
}

macro_rules! kinds {
    ($($name:literal $plural:literal [$($alias:literal)*] $api:literal $namespaced:literal;)*) => {
        /// Every kind that is listed, in the order of `get all`.
        pub static KINDS: &[Kind] = &[$(Kind { name: $name, plural: $plural, aliases: &[$($alias),*], api_version: $api, namespaced: $namespaced }),*];
    };
}

kinds! {
    "Namespace" "namespaces" ["ns"] "v1" false;
    "Node" "nodes" ["no"] "v1" false;
    "Pod" "pods" ["po"] "v1" true;
    "Service" "services" ["svc"] "v1" true;
    "Deployment" "deployments" ["deploy"] "apps/v1" true;
    "ServiceAccount" "serviceaccounts" ["sa"] "v1" true;
    "ConfigMap" "configmaps" ["cm"] "v1" true;
    "Secret" "secrets" [] "v1" true;
    "Endpoints" "endpoints" ["ep"] "v1" true;
    "EndpointSlice" "endpointslices" [] "discovery.k8s.io/v1" true;
    "Gateway" "gateways" ["gw"] "networking.istio.io/v1" true;
    "VirtualService" "virtualservices" ["vs"] "networking.istio.io/v1" true;
    "DestinationRule" "destinationrules" ["dr"] "networking.istio.io/v1" true;
    "ServiceEntry" "serviceentries" ["se"] "networking.istio.io/v1" true;
    "Sidecar" "sidecars" [] "networking.istio.io/v1" true;
    "WorkloadEntry" "workloadentries" ["we"] "networking.istio.io/v1" true;
    "WorkloadGroup" "workloadgroups" ["wg"] "networking.istio.io/v1" true;
    "EnvoyFilter" "envoyfilters" [] "networking.istio.io/v1alpha3" true;
    "ProxyConfig" "proxyconfigs" [] "networking.istio.io/v1beta1" true;
    "AuthorizationPolicy" "authorizationpolicies" ["ap"] "security.istio.io/v1" true;
    "PeerAuthentication" "peerauthentications" ["pa"] "security.istio.io/v1" true;
    "RequestAuthentication" "requestauthentications" ["ra"] "security.istio.io/v1" true;
    "Telemetry" "telemetries" ["telemetry"] "telemetry.istio.io/v1" true;
    "WasmPlugin" "wasmplugins" [] "extensions.istio.io/v1alpha1" true;
}

impl Kind {
    /// Finds a kind by any of its names: `virtualservice`, `vs`, `VirtualService`, `virtualservices.networking.istio.io`.
    pub fn find(word: &str) -> Option<&'static Self> {
        let word = word.to_ascii_lowercase();
        let word = word.split('.').next().unwrap_or_default();
        KINDS
            .iter()
            .find(|kind| word == kind.plural || word == kind.name.to_ascii_lowercase() || kind.aliases.contains(&word))
    }

    /// Finds a kind by its exact name.
    pub fn named(name: &str) -> Option<&'static Self> {
        KINDS.iter().find(|kind| kind.name == name)
    }
}

/// What identifies an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// `Pod`
    pub kind: String,
    /// Empty for cluster-wide kinds.
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
}

impl Key {
    /// A key of these parts.
    pub fn new(kind: &str, namespace: &str, name: &str) -> Self {
        Self { kind: kind.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.kind.to_ascii_lowercase(), self.name)?;
        if !self.namespace.is_empty() && self.namespace != "default" {
            write!(out, " in {}", self.namespace)?;
        }
        Ok(())
    }
}

/// A JSON object with Kubernetes' metadata.
pub type Object = Value;

/// Why a document is no resource.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidObject {
    /// A required field is missing.
    #[error("{0}: required field is missing")]
    Missing(&'static str),
    /// A name that Kubernetes would refuse.
    #[error("metadata.{field}: {value:?} is not a DNS name (lower case letters, digits, '-' and '.')")]
    Name {
        /// `name` or `namespace`
        field: &'static str,
        /// As given.
        value: String,
    },
}

fn is_dns_name(name: &str) -> bool {
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    !name.is_empty()
        && name.len() <= 253
        && name.chars().all(fine)
        && !name.starts_with(['-', '.'])
        && !name.ends_with(['-', '.'])
}

/// The key of `object`; a namespaced object without a namespace is put into `namespace`.
///
/// # Errors
/// A missing or impossible kind, name or namespace.
pub fn identify(object: &mut Object, namespace: &str) -> Result<Key, InvalidObject> {
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let kind = text(&object["kind"]).ok_or(InvalidObject::Missing("kind"))?;
    text(&object["apiVersion"]).ok_or(InvalidObject::Missing("apiVersion"))?;
    let name = text(&object["metadata"]["name"]).ok_or(InvalidObject::Missing("metadata.name"))?;
    let namespaced = Kind::named(&kind).is_none_or(|kind| kind.namespaced);
    let mut key = Key { kind, namespace: String::new(), name };
    if namespaced {
        key.namespace = text(&object["metadata"]["namespace"]).unwrap_or_else(|| namespace.to_owned());
        object["metadata"]["namespace"] = key.namespace.clone().into();
    }
    for (field, value) in [("name", &key.name), ("namespace", &key.namespace)] {
        if !is_dns_name(value) && (field == "name" || namespaced) {
            return Err(InvalidObject::Name { field, value: value.clone() });
        }
    }
    Ok(key)
}

/// A string map such as `metadata.labels`.
pub fn strings(value: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    value.as_object().into_iter().flatten().map(|(key, value)| (key.clone(), text(value))).collect()
}

/// Whether `labels` has every pair of a service's `selector`; an empty selector selects nothing.
pub fn selects(selector: &Value, labels: &Value) -> bool {
    let selector = selector.as_object();
    selector.is_some_and(|pairs| !pairs.is_empty() && pairs.iter().all(|(key, value)| labels.get(key) == Some(value)))
}

/// RFC 7396 merge patch.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(map) = target.as_object_mut() else {
        return;
    };
    for (key, value) in patch {
        if value.is_null() {
            map.remove(key);
        } else {
            merge(map.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Reads every document of a YAML text.
///
/// # Errors
/// The first document that is not YAML, with its line.
pub fn read_yaml(text: &str) -> Result<Vec<Object>, String> {
    use serde::Deserialize;
    let mut objects = Vec::new();
    for document in serde_norway::Deserializer::from_str(text) {
        let value = Value::deserialize(document).map_err(|error| match error.location() {
            Some(at) => format!("line {}: {error}", at.line()),
            None => error.to_string(),
        })?;
        match value {
            Value::Null => {}
            Value::Object(mut list) if list.get("kind").is_some_and(|kind| kind == "List") => {
                if let Some(Value::Array(items)) = list.remove("items") {
                    objects.extend(items);
                }
            }
            other => objects.push(other),
        }
    }
    Ok(objects)
}

/// A minimal namespace object.
pub(crate) fn namespace(name: &str) -> Object {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_many_names() {
        for word in ["vs", "virtualservice", "VirtualServices", "virtualservices.networking.istio.io"] {
            assert_eq!(Kind::find(word).map(|kind| kind.name), Some("VirtualService"), "{word}");
        }
        assert!(Kind::find("frobs").is_none());
    }

    #[test]
    fn identification() {
        let mut object = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}});
        assert_eq!(identify(&mut object, "samples"), Ok(Key::new("Service", "samples", "a")));
        assert_eq!(object["metadata"]["namespace"], "samples");
        let mut object = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "../x"}});
        assert!(matches!(identify(&mut object, "d"), Err(InvalidObject::Name { .. })));
        assert_eq!(identify(&mut json!({"kind": "Service"}), "d"), Err(InvalidObject::Missing("apiVersion")));
    }

    #[test]
    fn merge_patch() {
        let mut object = json!({"a": {"b": 1, "c": 2}});
        merge(&mut object, &json!({"a": {"b": null, "d": [3]}, "e": {"f": null}}));
        assert_eq!(object, json!({"a": {"c": 2, "d": [3]}, "e": {}}));
    }

    #[test]
    fn yaml_errors_have_lines() {
        let error = read_yaml("kind: A\n---\nkind: [\n").expect_err("broken");
        assert!(error.starts_with("line "), "{error}");
        assert_eq!(read_yaml("---\n---\nkind: A\n---\n").expect("fine").len(), 1);
    }
}
