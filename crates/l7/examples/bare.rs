//! What does the HTTP data path cost by itself? A bootstrap in JSON, one thread, no admin, no xDS.
//!
//! `bare bootstrap.json`: serves the plain-TCP HTTP listeners of an Envoy bootstrap with STATIC clusters.

use std::sync::Arc;
use std::time::Duration;

use proxy_config::listener::{ListenAddress, NetworkFilterKind};

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
        let registry = upstream::Registry::new(store.clone(), Arc::default());
        let worker = l7::Worker::new(0, 42, registry.clone());
        tokio::task::spawn_local(worker.clone().run());
        for c in &bootstrap.clusters {
            registry.set(c.clone());
        }
        let mut tasks = Vec::new();
        for l in &bootstrap.listeners {
            let ListenAddress::Bound(a) = &l.address else {
                continue;
            };
            let addr = a.socket().expect("IP");
            let chain = l.chains.chains.first().or(l.chains.default.as_ref()).expect("a chain");
            let NetworkFilterKind::Hcm(hcm) = &chain.filters[0].kind else {
                continue;
            };
            let deps = l7::Deps {
                store: &store,
                sinks: &sinks,
                exports: &exports,
                routes: &|_| Arc::default(),
                listener: &addr.to_string().replace(':', "_"),
                node: Arc::default(),
                direction: l.traffic_direction,
                drain_modify_only: false,
            };
            let manager = l7::Manager::new(hcm.clone(), &deps).expect("supported");
            let listener = std::net::TcpListener::bind(addr).expect("bind");
            listener.set_nonblocking(true).expect("nonblocking");
            let listener = tokio::net::TcpListener::from_std(listener).expect("listener");
            let worker = worker.clone();
            tasks.push(tokio::task::spawn_local(async move {
                let mut id = 0;
                loop {
                    let Ok((stream, remote)) = listener.accept().await else {
                        continue;
                    };
                    let _ = stream.set_nodelay(true);
                    id += 1;
                    let local = stream.local_addr().unwrap_or(addr);
                    let facts = l7::ConnFacts {
                        id,
                        remote,
                        direct_remote: remote,
                        local,
                        direct_local: local,
                        server_name: None,
                        tls: None,
                        filter_chain: None,
                        listener: None,
                        state: Vec::new(),
                        shared: Vec::new(),
                        restored: false,
                        original_src: None,
                    };
                    tokio::task::spawn_local(l7::serve_connection(
                        stream.into(),
                        facts,
                        manager.clone(),
                        worker.clone(),
                    ));
                }
            }));
        }
        for t in tasks {
            let _ = t.await;
        }
    });
}
