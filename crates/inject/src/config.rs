//! How does an installation set the injector? The `config` and `values` of its ConfigMap, and what stays in force while
//! they are broken. Follows `pkg/kube/inject/watcher.go`.

use api::mesh::MeshConfig;
use serde_json::Value;

use crate::{Injector, default_values};

/// Fields of `config` that the chart's values hold as well.
const SETTINGS: [&str; 5] =
    ["templates", "defaultTemplates", "neverInjectSelector", "alwaysInjectSelector", "injectedAnnotations"];

/// Settings of an installation, readable as a whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The values, those of `config` laid over.
    values: Value,
}

/// Why a ConfigMap cannot be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum InvalidSettings {
    /// A key is not there.
    #[error("missing ConfigMap key {0:?}")]
    Missing(&'static str),
    /// A key does not hold a YAML map.
    #[error("ConfigMap key {key:?}: {reason}")]
    Unreadable {
        /// Which.
        key: &'static str,
        /// Why.
        reason: String,
    },
}

impl Settings {
    /// Reads the `data` of a ConfigMap.
    ///
    /// # Errors
    /// One of the two is missing or no map.
    pub fn read(data: &Value) -> Result<Settings, InvalidSettings> {
        let map = |key: &'static str| {
            let text = data[key].as_str().ok_or(InvalidSettings::Missing(key))?;
            let read = api::yaml::parse(text).map_err(|e| e.to_string());
            let read = read.and_then(|v| if v.is_object() { Ok(v) } else { Err("not a map".to_owned()) });
            read.map_err(|reason| InvalidSettings::Unreadable { key, reason })
        };
        let (config, given) = (map("config")?, map("values")?);
        let mut values = default_values();
        lay_over(&mut values, &given);
        set(&mut values, &config);
        Ok(Settings { values })
    }

    /// The injector of this installation in a mesh.
    pub fn injector(&self, mesh: MeshConfig) -> Injector {
        Injector::new(mesh, self.values.clone())
    }
}

/// Settings that may change; broken ones leave the last good ones in force, and so does their absence.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    seen: Option<Value>,
    good: Option<Settings>,
}

impl Watch {
    /// Takes what the ConfigMap says now. `None`: nothing new to use.
    ///
    /// # Errors
    /// It changed into something that cannot be used; told once.
    pub fn update(&mut self, data: Option<&Value>) -> Result<Option<&Settings>, InvalidSettings> {
        if self.seen.as_ref() == data {
            return Ok(None);
        }
        self.seen = data.cloned();
        let Some(data) = data else {
            return Ok(None);
        };
        self.good = Some(Settings::read(data)?);
        Ok(self.good.as_ref())
    }

    /// The settings in force.
    pub fn current(&self) -> Option<&Settings> {
        self.good.as_ref()
    }
}

/// Puts the fields of an injection `config` into `values`.
pub fn set(values: &mut Value, config: &Value) {
    for field in SETTINGS.iter().filter(|f| !config[**f].is_null()) {
        values["sidecarInjectorWebhook"][*field] = config[*field].clone();
    }
    if config["policy"] == "disabled" {
        values["global"]["proxy"]["autoInject"] = "disabled".into();
    }
}

/// Lays `over` upon `base`, maps member by member.
pub fn lay_over(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                lay_over(base.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_keys_have_a_say() {
        let data = json!({"config": "policy: disabled\ndefaultTemplates: [gateway]",
            "values": "global: {hub: here}\nrevision: canary"});
        let injector = Settings::read(&data).expect("settings").injector(MeshConfig::istio_default());
        assert_eq!((injector.default_templates, injector.revision), (vec!["gateway".to_owned()], "canary".to_owned()));
        assert!(!injector.policy.enabled);
        assert_eq!(injector.values["global"]["hub"], "here");
        assert_eq!(injector.values["global"]["istioNamespace"], "istio-system");
    }

    #[test]
    fn the_last_good_ones_stay() {
        let data = |hub: &str| json!({"config": "policy: enabled", "values": format!("global: {{hub: {hub}}}")});
        let mut watch = Watch::default();
        assert!(watch.update(Some(&data("a"))).expect("good").is_some());
        assert_eq!(watch.update(Some(&data("a"))), Ok(None));
        let broken = json!({"config": "policy: enabled"});
        assert_eq!(watch.update(Some(&broken)), Err(InvalidSettings::Missing("values")));
        assert_eq!(watch.update(Some(&broken)), Ok(None));
        assert_eq!(watch.update(None), Ok(None));
        assert_eq!(watch.current(), Some(&Settings::read(&data("a")).expect("good")));
        assert!(watch.update(Some(&data("b"))).expect("good").is_some());
    }
}
