//! A mesh from YAML and a proxy in it, for tests.
#![allow(dead_code, missing_docs)]

pub mod random;

use std::path::PathBuf;
use std::sync::Arc;

use model::{Change, MeshConfig, Proxy, ProxyView, Store};
use names::{Labels, NodeType};
use translate::Inputs;

pub mod literal;

/// Documents of a YAML text as resources; panics with the reason, as tests should.
pub fn resources(yaml: &str, namespace: &str) -> Vec<api::Resource> {
    try_resources(yaml, namespace).unwrap_or_else(|e| panic!("{e}"))
}

pub fn try_resources(yaml: &str, namespace: &str) -> Result<Vec<api::Resource>, String> {
    use serde::Deserialize as _;
    let mut out = Vec::new();
    for document in serde_norway::Deserializer::from_str(yaml) {
        let value = serde_json::Value::deserialize(document).map_err(|e| e.to_string())?;
        if value.is_null() {
            continue;
        }
        out.push(pruned(value, namespace)?);
    }
    Ok(out)
}

/// Unknown fields are dropped, as an API server drops what a CRD's schema does not have.
pub fn pruned(mut value: serde_json::Value, namespace: &str) -> Result<api::Resource, String> {
    let error = match api::Resource::from_value(value.clone(), None, namespace) {
        Ok(r) => return Ok(r),
        Err(e) => e,
    };
    for problem in &error.problems {
        if !problem.message.contains("unknown field") {
            return Err(error.to_string());
        }
        let pointer = format!("/{}", problem.path.replace('[', "/").replace(']', "").replace('.', "/"));
        let (parent, field) = pointer.rsplit_once('/').unwrap_or_default();
        value.pointer_mut(parent).and_then(|v| v.as_object_mut()).and_then(|v| v.remove(field));
    }
    api::Resource::from_value(value, None, namespace).map_err(|e| e.to_string())
}

pub fn store(yaml: &str) -> Store {
    let mut store = Store::new(MeshConfig::default());
    store.apply(resources(yaml, "default").into_iter().map(Change::Apply));
    store
}

pub fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

pub fn sidecar(ip: &str, namespace: &str, pairs: &[(&str, &str)]) -> Proxy {
    Proxy::new(NodeType::Sidecar, ip, namespace, labels(pairs))
}

pub fn gateway(ip: &str) -> Proxy {
    Proxy::new(NodeType::Router, ip, "istio-system", labels(&[("istio", "ingressgateway")]))
}

pub fn inputs(store: &Store, proxy: Proxy) -> Inputs {
    Inputs::new(Arc::new(ProxyView::new(&store.snapshot(), &Arc::new(proxy))))
}

/// Route names that the listeners ask for.
pub fn route_names(listeners: &[translate::NamedResource]) -> Vec<String> {
    use protos::envoy::config::listener::v3 as listener;
    use protos::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
    let mut out = Vec::new();
    for l in listeners {
        let l: listener::Listener = protos::unpack(&l.resource).expect("a listener");
        for chain in l.filter_chains.iter().chain(&l.default_filter_chain) {
            for f in &chain.filters {
                let Some(listener::filter::ConfigType::TypedConfig(any)) = &f.config_type else {
                    continue;
                };
                let Ok(h) = protos::unpack::<hcm::HttpConnectionManager>(any) else {
                    continue;
                };
                if let Some(hcm::http_connection_manager::RouteSpecifier::Rds(r)) = h.route_specifier {
                    out.push(r.route_config_name);
                }
            }
        }
    }
    out.sort();
    out.dedup();
    out
}

/// The conformance data: `PROA_CONFORMANCE`, else beside the checkout.
pub fn conformance(file: &str) -> Option<PathBuf> {
    let root = std::env::var_os("PROA_CONFORMANCE")
        .map(PathBuf::from)
        .unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance"));
    let path = root.join(file);
    path.exists().then_some(path)
}
