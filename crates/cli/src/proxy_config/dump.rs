//! What is in a config dump? Envoy's `/config_dump` in either spelling of field names, brought to one (proto names).

use serde_json::{Map, Value};

/// Said when a dump lacks the part asked for, as istioctl does.
pub(super) const MISSING: &str = "config dump has no configuration type";

/// A config dump.
#[derive(Debug)]
pub(super) struct Dump {
    whole: Value,
}

/// Maps whose keys are data, not field names.
const DATA: [&str; 5] = [
    "filter_metadata",
    "typed_filter_metadata",
    "typed_per_filter_config",
    "fields",
    "typed_extension_protocol_options",
];

/// A node's `metadata` is free-form; a resource's holds `filter_metadata` and the like.
fn is_struct(name: &str, value: &Value) -> bool {
    let shaped = ["filter_metadata", "filterMetadata", "typed_filter_metadata", "typedFilterMetadata"];
    name == "metadata" && !shaped.iter().any(|key| value.get(*key).is_some())
}

fn snake(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}

fn renamed(value: &Value, data: bool) -> Value {
    match value {
        Value::Array(items) => items.iter().map(|item| renamed(item, false)).collect(),
        Value::Object(map) => {
            let mut out = Map::new();
            for (key, value) in map {
                let name = if data || key.starts_with('@') { key.clone() } else { snake(key) };
                let inner_data = !data && (DATA.contains(&name.as_str()) || is_struct(&name, value));
                out.insert(name, if data { value.clone() } else { renamed(value, inner_data) });
            }
            Value::Object(out)
        }
        other => other.clone(),
    }
}

impl Dump {
    /// Takes what the admin page says.
    pub(super) fn read(value: &Value) -> Result<Self, String> {
        let whole = renamed(value, false);
        if !whole.is_object() {
            return Err("the config dump is not an object".to_owned());
        }
        Ok(Self { whole })
    }

    pub(super) fn whole(&self) -> &Value {
        &self.whole
    }

    /// The section of this message type, such as `ClustersConfigDump`.
    pub(super) fn section(&self, kind: &str) -> Option<&Value> {
        let sections = self.whole["configs"].as_array()?;
        sections
            .iter()
            .find(|section| section["@type"].as_str().is_some_and(|name| name.ends_with(&format!(".{kind}"))))
    }

    /// Every section of this message type; Envoy writes some types in several.
    pub(super) fn sections<'a>(&'a self, kind: &str) -> impl Iterator<Item = &'a Value> {
        let ending = format!(".{kind}");
        let sections = self.whole["configs"].as_array().into_iter().flatten();
        sections.filter(move |section| section["@type"].as_str().is_some_and(|name| name.ends_with(&ending)))
    }

    /// Resources of a section, static and dynamic; `field` names the resource in each entry.
    fn resources(&self, kind: &str, lists: &[&str], field: &[&str]) -> Option<Vec<Value>> {
        let section = self.section(kind)?;
        let entries = lists.iter().flat_map(|list| section[*list].as_array().into_iter().flatten());
        let found = entries.filter_map(|entry| {
            let resource = field.iter().try_fold(entry, |value, name| value.get(name));
            let resource = resource.or_else(|| entry.get(*field.last()?));
            resource.filter(|resource| resource.is_object()).cloned()
        });
        Some(found.collect())
    }

    pub(super) fn clusters(&self) -> Option<Vec<Value>> {
        self.resources("ClustersConfigDump", &["static_clusters", "dynamic_active_clusters"], &["cluster"])
    }

    pub(super) fn listeners(&self) -> Option<Vec<Value>> {
        let dynamic = self.resources("ListenersConfigDump", &["dynamic_listeners"], &["active_state", "listener"])?;
        let mut all = dynamic;
        all.extend(self.resources("ListenersConfigDump", &["static_listeners"], &["listener"])?);
        Some(all)
    }

    pub(super) fn routes(&self) -> Option<Vec<Value>> {
        self.resources("RoutesConfigDump", &["dynamic_route_configs", "static_route_configs"], &["route_config"])
    }

    pub(super) fn endpoints(&self) -> Option<Vec<Value>> {
        self.resources(
            "EndpointsConfigDump",
            &["dynamic_endpoint_configs", "static_endpoint_configs"],
            &["endpoint_config"],
        )
    }

    pub(super) fn bootstrap(&self) -> Option<&Value> {
        self.section("BootstrapConfigDump")
    }

    pub(super) fn secrets_dump(&self) -> &Value {
        self.section("SecretsConfigDump").unwrap_or(&Value::Null)
    }
}

/// The short name of a message: `type.googleapis.com/a.b.C` is `C`.
pub(super) fn is_a(value: &Value, name: &str) -> bool {
    value["@type"].as_str().is_some_and(|kind| kind.ends_with(&format!(".{name}")))
}

/// The same value with JSON names (camelCase), as istioctl prints proxies' resources.
pub(super) fn camel(value: &Value, data: bool) -> Value {
    match value {
        Value::Array(items) => items.iter().map(|item| camel(item, false)).collect(),
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| {
                let inner_data = !data && (DATA.contains(&key.as_str()) || is_struct(key, value));
                let name = if data || key.starts_with('@') { key.clone() } else { camel_name(key) };
                (name, if data && !value.is_object() { value.clone() } else { camel(value, inner_data) })
            })
            .collect(),
        other => other.clone(),
    }
}

fn camel_name(name: &str) -> String {
    let mut words = name.split('_');
    let mut out = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        out.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        out.push_str(letters.as_str());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_spellings_are_one() {
        let camel_case = json!({"configs": [{"@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump", "dynamicActiveClusters": [{"cluster": {"name": "a", "metadata": {"filterMetadata": {"istio": {"aB": 1}}}}}]}]});
        let dump = Dump::read(&camel_case).expect("an object");
        let clusters = dump.clusters().expect("a section");
        assert_eq!(clusters, [json!({"name": "a", "metadata": {"filter_metadata": {"istio": {"aB": 1}}}})]);
        assert_eq!(camel(&clusters[0], false)["metadata"]["filterMetadata"]["istio"]["aB"], 1);
        assert!(dump.listeners().is_none());
    }
}
