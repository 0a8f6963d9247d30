//! How long does a push take? `push FILE…`: for each mesh, milliseconds to build the snapshot and the view, and to
//! translate each type for one proxy; the best of several rounds.
#![allow(missing_docs)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use model::{Change, MeshConfig, Proxy, ProxyView, Store};
use names::NodeType;
use serde::Deserialize as _;
use translate::Inputs;

const ROUNDS: usize = 5;

fn best<T>(mut f: impl FnMut() -> T) -> (f64, T) {
    let mut out = None;
    let mut least = Duration::MAX;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let value = f();
        least = least.min(start.elapsed());
        out = Some(value);
    }
    (least.as_secs_f64() * 1e3, out.expect("a round"))
}

fn main() {
    println!("file bytes snapshot view cds eds lds rds total");
    for file in std::env::args().skip(1) {
        let text = std::fs::read_to_string(&file).expect("readable");
        let mut resources = Vec::new();
        for d in serde_norway::Deserializer::from_str(&text) {
            let value = serde_json::Value::deserialize(d).expect("YAML");
            if value.is_null() {
                continue;
            }
            match api::Resource::from_value(value, None, "default") {
                Ok(r) => resources.push(r),
                Err(e) => eprintln!("{file}: {e}"),
            }
        }
        let (snapshot_ms, store) = best(|| {
            let mut store = Store::new(MeshConfig::default());
            store.apply(resources.iter().cloned().map(Change::Apply));
            store
        });
        let (node_type, namespace) =
            if file.contains("gateway") { (NodeType::Router, "gateway") } else { (NodeType::Sidecar, "default") };
        let labels = ["istio.io/benchmark", "istio"].map(|k| (k.to_owned(), "true".to_owned()));
        let proxy = Proxy::new(node_type, "1.1.1.1", namespace, labels.into_iter().collect());
        let (snapshot, proxy) = (store.snapshot(), Arc::new(proxy));
        let (view, inputs) = best(|| Inputs::new(Arc::new(ProxyView::new(&snapshot, &proxy))));
        let (cds, clusters) = best(|| translate::clusters(&inputs));
        let names: Vec<String> = clusters.iter().map(|c| c.name.clone()).collect();
        let (eds, endpoints) = best(|| translate::endpoints(&inputs, &names));
        let (lds, listeners) = best(|| translate::listeners(&inputs));
        let mut wanted: Vec<String> = Vec::new();
        for l in &listeners {
            wanted.extend(rds_names(l));
        }
        wanted.sort();
        wanted.dedup();
        let (rds, routes) = best(|| translate::routes(&inputs, &wanted));
        let bytes: usize = [&clusters, &endpoints, &listeners, &routes]
            .iter()
            .flat_map(|l| l.iter())
            .map(|r| r.resource.value.len())
            .sum();
        let name = file.rsplit('/').next().unwrap_or(&file);
        println!(
            "{name} {bytes} {snapshot_ms:.2} {view:.2} {cds:.2} {eds:.2} {lds:.2} {rds:.2} {:.2}",
            view + cds + eds + lds + rds
        );
    }
}

fn rds_names(l: &translate::NamedResource) -> Vec<String> {
    use protos::envoy::config::listener::v3 as listener;
    use protos::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
    let l: listener::Listener = protos::unpack(&l.resource).expect("a listener");
    let filters = l.filter_chains.iter().chain(&l.default_filter_chain).flat_map(|c| &c.filters);
    filters
        .filter_map(|f| match &f.config_type {
            Some(listener::filter::ConfigType::TypedConfig(any)) => {
                protos::unpack::<hcm::HttpConnectionManager>(any).ok()
            }
            _ => None,
        })
        .filter_map(|h| match h.route_specifier {
            Some(hcm::http_connection_manager::RouteSpecifier::Rds(r)) => Some(r.route_config_name),
            _ => None,
        })
        .collect()
}
