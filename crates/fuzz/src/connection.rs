//! What does a connection manager make of any bytes? Both codecs, the manager, routes, filters and local replies, over a
//! pair of sockets in this process.

use std::cell::RefCell;
use std::mem::ManuallyDrop;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use protos::envoy::config::bootstrap::v3::Bootstrap;
use proxy_config::listener::NetworkFilterKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Longest time for one input; what still waits then has not ended wrongly.
const PATIENCE: Duration = Duration::from_millis(300);

/// A manager with the ways to answer by itself: direct, redirect, local reply, no host.
const BOOTSTRAP: &str = include_str!("connection.json");

struct Bed {
    runtime: tokio::runtime::Runtime,
    local: tokio::task::LocalSet,
    manager: Arc<l7::Manager>,
    worker: Rc<l7::Worker>,
}

thread_local! {
    /// Never dropped: at a thread's end the runtime would wake tasks after what they are scheduled by has gone.
    static BED: RefCell<Option<ManuallyDrop<Bed>>> = const { RefCell::new(None) };
}

fn bed() -> Option<Bed> {
    let value = serde_json::from_str(BOOTSTRAP).ok()?;
    let bootstrap: Bootstrap = protos::json::decode_json(&value).ok()?;
    let bootstrap = proxy_config::parse::bootstrap(&bootstrap).ok()?;
    let store = telemetry::stats::Store::new(Default::default());
    telemetry::stats::set_worker(0);
    let (exports, _new) = l7::export::Exports::new(&store);
    let sinks = telemetry::access_log::Sinks::new(Duration::from_secs(1), store.block("filesystem."));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let local = tokio::task::LocalSet::new();
    let (manager, worker) = local.block_on(&runtime, async {
        let registry = upstream::Registry::new(store.clone(), Arc::default());
        let worker = l7::Worker::new(0, 42, registry.clone());
        tokio::task::spawn_local(worker.clone().run());
        bootstrap.clusters.iter().for_each(|c| {
            registry.set(c.clone());
        });
        let chain = bootstrap.listeners.first()?.chains.chains.first()?.clone();
        let NetworkFilterKind::Hcm(hcm) = &chain.filters.first()?.kind else {
            return None;
        };
        let deps = l7::Deps {
            store: &store,
            sinks: &sinks,
            exports: &exports,
            routes: &|_| Arc::default(),
            listener: "fuzz",
            node: Arc::default(),
            direction: Default::default(),
            drain_modify_only: false,
        };
        Some((l7::Manager::new(hcm.clone(), &deps).ok()?, worker))
    })?;
    Some(Bed { runtime, local, manager, worker })
}

/// Serves one connection that carries `data` and is then closed.
pub fn run(data: &[u8]) {
    BED.with_borrow_mut(|slot| {
        let bed =
            slot.get_or_insert_with(|| ManuallyDrop::new(bed().expect("the bootstrap beside this file is valid")));
        let address = ([127, 0, 0, 1], 80).into();
        bed.local.block_on(&bed.runtime, async {
            let (Ok((client, server)), data) = (UnixStream::pair(), data.to_vec()) else {
                return;
            };
            let facts = l7::ConnFacts {
                id: 1,
                remote: address,
                direct_remote: address,
                local: address,
                direct_local: address,
                server_name: None,
                tls: None,
                filter_chain: None,
                listener: None,
                state: Vec::new(),
                restored: false,
                original_src: None,
                shared: Default::default(),
            };
            let (manager, worker) = (bed.manager.clone(), bed.worker.clone());
            let served = tokio::task::spawn_local(l7::serve_connection(server.into(), facts, manager, worker));
            let (mut reader, mut writer) = client.into_split();
            let reading = tokio::task::spawn_local(async move {
                let mut sink = Vec::new();
                let _ = reader.read_to_end(&mut sink).await;
            });
            let _ = tokio::time::timeout(PATIENCE, writer.write_all(&data)).await;
            drop(writer);
            match tokio::time::timeout(PATIENCE, served).await {
                Ok(Err(died)) if died.is_panic() => std::panic::resume_unwind(died.into_panic()),
                _ => reading.abort(),
            }
        });
    });
}
