//! Which configuration does one proxy start with? The mesh's, `ProxyConfig` resources from wide to narrow, and the pod's
//! annotation. Called by the injector; which resources there are is the caller's to say.

use std::collections::BTreeMap;

use api::mesh::{MeshConfig, ProxyConfig};
use api::networking;
use api::shape::Problem;
use serde_json::{Map, Value};

/// A `ProxyConfig` resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Stated {
    /// Its namespace: the mesh's root namespace speaks for all.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// When it was created, in RFC 3339: the oldest of its kind counts.
    pub created: String,
    /// What it says.
    pub spec: networking::ProxyConfig,
}

impl Stated {
    /// A resource out of its document; `None` when it is no `ProxyConfig` that can be read.
    pub fn read(document: &Value) -> Option<Self> {
        let text = |field: &str| document["metadata"][field].as_str().unwrap_or_default().to_owned();
        Some(Stated {
            namespace: text("namespace"),
            name: text("name"),
            created: text("creationTimestamp"),
            spec: api::from_value(document.get("spec")?).ok()?,
        })
    }

    fn selector(&self) -> Option<&BTreeMap<String, String>> {
        self.spec.selector.as_ref().map(|s| &s.match_labels).filter(|l| !l.is_empty())
    }
}

/// The same as the mesh's own message, to be laid over another.
pub fn as_overlay(spec: &networking::ProxyConfig) -> Value {
    let mut out = Map::new();
    if let Some(concurrency) = spec.concurrency {
        out.insert("concurrency".to_owned(), concurrency.into());
    }
    if !spec.environment_variables.is_empty() {
        let variables = spec.environment_variables.iter().map(|(k, v)| (k.clone(), Value::from(v.as_str())));
        out.insert("proxyMetadata".to_owned(), Value::Object(variables.collect()));
    }
    if let Some(image) = spec.image.as_ref().filter(|i| !i.image_type.is_empty()) {
        out.insert("image".to_owned(), serde_json::json!({"imageType": image.image_type}));
    }
    Value::Object(out)
}

/// What a workload's proxy starts with.
///
/// Later ones count: the mesh's default; the root namespace's resource and the one of its own namespace, both without
/// a selector; the annotation; the resource that selects it. Of several alike the oldest counts.
///
/// # Errors
/// The annotation cannot be read.
///
/// Follows: `ProxyConfigs.EffectiveProxyConfig`.
pub fn effective(
    mesh: &MeshConfig,
    stated: &[Stated],
    namespace: &str,
    labels: &BTreeMap<String, String>,
    annotation: Option<&str>,
) -> Result<ProxyConfig, Vec<Problem>> {
    let oldest = |namespace: &str, is_it: &dyn Fn(&Stated) -> bool| {
        let of_namespace = stated.iter().filter(|s| s.namespace == namespace && is_it(s));
        of_namespace.min_by(|a, b| (&a.created, &a.name).cmp(&(&b.created, &b.name)))
    };
    let mut layers = Vec::new();
    layers.extend(oldest(&mesh.root_namespace, &|s| s.selector().is_none()).map(|s| as_overlay(&s.spec)));
    if namespace != mesh.root_namespace {
        layers.extend(oldest(namespace, &|s| s.selector().is_none()).map(|s| as_overlay(&s.spec)));
    }
    if let Some(text) = annotation {
        layers.push(api::yaml::parse(text).map_err(|e| vec![Problem::new("", e.to_string())])?);
    }
    let selects = |s: &Stated| s.selector().is_some_and(|l| l.iter().all(|(k, v)| labels.get(k) == Some(v)));
    layers.extend(oldest(namespace, &selects).map(|s| as_overlay(&s.spec)));
    layers.iter().try_fold(mesh.proxy_config(), |config, layer| config.overlay(layer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn stated(namespace: &str, name: &str, spec: Value) -> Stated {
        let document = json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec});
        Stated::read(&document).expect("a ProxyConfig")
    }

    #[test]
    fn the_narrowest_counts() {
        let mesh = MeshConfig::istio_default();
        let all = [
            stated(
                "istio-system",
                "mesh",
                json!({"concurrency": 1, "environmentVariables": {"A": "mesh", "B": "mesh"}}),
            ),
            stated("shop", "all", json!({"concurrency": 2, "environmentVariables": {"B": "shop"}})),
            stated(
                "shop",
                "cart",
                json!({"selector": {"matchLabels": {"app": "cart"}}, "image": {"imageType": "debug"}}),
            ),
        ];
        let labels = |app: &str| [("app".to_owned(), app.to_owned())].into();
        let got = effective(&mesh, &all, "shop", &labels("cart"), Some("concurrency: 3")).expect("readable");
        assert_eq!(got.concurrency, Some(3));
        assert_eq!((got.proxy_metadata["A"].as_str(), got.proxy_metadata["B"].as_str()), ("mesh", "shop"));
        assert_eq!(got.image.map(|i| i.image_type).as_deref(), Some("debug"));
        let other = effective(&mesh, &all, "bank", &labels("cart"), None).expect("readable");
        assert_eq!((other.concurrency, other.image), (Some(1), None));
        assert!(effective(&mesh, &all, "bank", &labels("x"), Some("concurrency: [")).is_err());
    }
}
