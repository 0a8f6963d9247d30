//! What does the data path cost by itself? A bootstrap in JSON, one thread, no admin, no xDS.
//!
//! `bare_listener bootstrap.json`: serves the listeners of an Envoy bootstrap with STATIC clusters.

use std::sync::Arc;
use std::time::Duration;

fn main() {
    let path = std::env::args().nth(1).expect("bootstrap.json");
    let text = std::fs::read_to_string(path).expect("readable");
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let proto: protos::envoy::config::bootstrap::v3::Bootstrap = protos::json::decode_json(&json).expect("bootstrap");
    let bootstrap = proxy_config::parse::bootstrap(&proto).expect("valid");
    let store = telemetry::stats::Store::new(Default::default());
    telemetry::stats::set_worker(0);
    let (exports, _new) = l7::export::Exports::new(&store);
    let sinks = telemetry::access_log::Sinks::new(Duration::from_secs(1), store.block("filesystem."));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async move {
        let secrets = Arc::new(tls::SecretStore::default());
        let registry = upstream::Registry::new(store.clone(), secrets.clone());
        for c in &bootstrap.clusters {
            registry.set(c.clone());
        }
        let http = l7::Worker::new(0, 42, registry.clone());
        tokio::task::spawn_local(http.clone().run());
        let worker = l4::Worker::new(0, http, registry.clone(), store.clone());
        for l in &bootstrap.listeners {
            let deps = l4::Deps {
                store: &store,
                sinks: &sinks,
                exports: &exports,
                registry: &registry,
                secrets: &secrets,
                routes: &|_| Arc::default(),
                node: Arc::default(),
            };
            let listener = l4::Listener::new(l.clone(), &deps).expect("supported");
            let sockets = listener.bind(1).expect("bind").remove(0);
            worker.add(listener, sockets).expect("add");
        }
        std::future::pending::<()>().await
    });
}
