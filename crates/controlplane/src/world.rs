//! What is the world, and when do proxies hear of it? One loop takes what sources say, applies it to the store,
//! waits for quiet, publishes the snapshot and tells the hub. The only writer of all of these.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use model::{Change, Delta, MeshConfig, ScopeCache, Snapshot, Store};
use names::{Kind, ResourceKey};
use source_file::{Batch, Diagnostic, Event, Severity};
use tokio::sync::mpsc;
use xds_server::{Debounce, DebounceOptions, Hub};

use crate::source::{ModelSource, Moved};

/// Batches that wait for the loop; a source that is faster waits itself.
pub const INPUTS_MAX: usize = 64;
/// Broken resources remembered for statuses; the log names them all.
const REFUSED_MAX: usize = 4096;

/// What sources say.
#[derive(Debug)]
pub enum Input {
    /// Files changed.
    Files(Batch),
    /// The mesh configuration changed.
    Mesh(Box<MeshConfig>),
}

/// The state of the control plane.
#[derive(Debug)]
pub struct World {
    store: Mutex<Store>,
    snapshot: ArcSwap<Snapshot>,
    /// Scopes shared between proxies of a namespace.
    pub scopes: Mutex<ScopeCache>,
    /// Keys of token issuers outside of the mesh, as last fetched.
    pub jwks: crate::jwks::Keys,
    /// `pilot_inbound_updates{type="config"}`
    pub updates: AtomicU64,
    /// `pilot_total_rejected_configs`
    pub rejected: AtomicU64,
    /// Why the latest words of sources about a resource are not in force.
    pub refused: Mutex<BTreeMap<ResourceKey, Diagnostic>>,
    /// `pilot_push_triggers`, by what moved: configuration, services, endpoints.
    pub triggers: [AtomicU64; 3],
    /// `pilot_k8s_cfg_events` and `pilot_k8s_reg_events`: what sources said, by kind and whether it was new.
    pub events: Mutex<BTreeMap<(Kind, &'static str), u64>>,
}

impl World {
    /// An empty world.
    pub fn new(mesh: MeshConfig) -> Arc<World> {
        let store = Store::new(mesh);
        Arc::new(World {
            snapshot: ArcSwap::new(store.snapshot()),
            store: Mutex::new(store),
            scopes: Mutex::default(),
            jwks: crate::jwks::Keys::default(),
            updates: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            refused: Mutex::default(),
            triggers: Default::default(),
            events: Mutex::default(),
        })
    }

    /// What proxies see.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// The resources as sources gave them, for debug endpoints. Hold it shortly: it stops the loop.
    pub fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Applies one input to the store; the snapshot is published separately.
    pub fn apply(&self, input: Input) -> Delta {
        self.updates.fetch_add(1, Ordering::Relaxed);
        match input {
            Input::Mesh(mesh) => self.store().apply([Change::Mesh(mesh)]),
            Input::Files(batch) => {
                self.refuse(&batch.events);
                let changes = batch.events.into_iter().filter_map(|event| match event {
                    Event::Applied(resource) => Some(Change::Apply(resource)),
                    Event::Deleted(key) => Some(Change::Delete(key)),
                    Event::Diagnostic(diagnostic) => {
                        match diagnostic.severity {
                            Severity::Error => {
                                self.rejected.fetch_add(1, Ordering::Relaxed);
                                tracing::error!(target: "file", "{diagnostic}");
                            }
                            Severity::Warning => tracing::warn!(target: "file", "{diagnostic}"),
                            Severity::Info => tracing::debug!(target: "file", "{diagnostic}"),
                            Severity::Resolved => tracing::info!(target: "file", "{diagnostic}"),
                        }
                        None
                    }
                });
                let changes: Vec<_> = changes.collect();
                let mut store = self.store();
                self.count(&changes, &store);
                store.apply(changes)
            }
        }
    }

    /// Keeps what is wrong with resources until it is no longer.
    fn refuse(&self, events: &[Event]) {
        let mut refused = self.refused.lock().unwrap_or_else(|e| e.into_inner());
        for event in events {
            match event {
                Event::Applied(resource) => drop(refused.remove(resource.key())),
                Event::Deleted(key) => drop(refused.remove(key)),
                Event::Diagnostic(d) => match (&d.key, d.severity) {
                    (Some(key), Severity::Error) if refused.len() < REFUSED_MAX || refused.contains_key(key) => {
                        refused.insert(key.clone(), d.clone());
                    }
                    (_, Severity::Resolved) => refused.retain(|_, r| r.place.file != d.place.file),
                    _ => {}
                },
            }
        }
    }

    fn count(&self, changes: &[Change], store: &Store) {
        let mut events = self.events.lock().unwrap_or_else(|e| e.into_inner());
        for change in changes {
            let (key, event) = match change {
                Change::Apply(r) if store.resources().contains_key(r.key()) => (r.key(), "update"),
                Change::Apply(r) => (r.key(), "add"),
                Change::Delete(key) => (key, "delete"),
                Change::Mesh(_) => continue,
            };
            *events.entry((key.kind.clone(), event)).or_default() += 1;
        }
    }

    /// Makes the store's state what proxies see.
    pub fn publish(&self) {
        let snapshot = self.store().snapshot();
        self.snapshot.store(snapshot);
    }
}

/// Runs until all sources have gone.
pub async fn run(
    world: Arc<World>,
    mut inputs: mpsc::Receiver<Input>,
    hub: Arc<Hub<ModelSource>>,
    options: DebounceOptions,
) {
    let start = Instant::now();
    let mut debounce = Debounce::new(options);
    let mut moved: Option<(Delta, Instant)> = None;
    loop {
        let due = debounce.due().map(|at| start + at);
        let quiet = async {
            match due {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            input = inputs.recv() => {
                let Some(input) = input else { return };
                let started = Instant::now();
                let delta = world.apply(input);
                if delta.is_empty() {
                    continue;
                }
                debounce.event(start.elapsed(), delta.only_endpoints());
                match &mut moved {
                    Some((waiting, _)) => waiting.merge(delta),
                    None => moved = Some((delta, started)),
                }
            }
            () = quiet => {
                let waited = debounce.take(start.elapsed());
                if let (Some((delta, started)), Some((waited, events))) = (moved.take(), waited) {
                    push(&world, &hub, delta, started, waited, events);
                }
            }
        }
    }
}

fn push(world: &World, hub: &Hub<ModelSource>, delta: Delta, started: Instant, waited: Duration, events: usize) {
    world.publish();
    hub.metrics().debounce.record(waited.as_secs_f64());
    let what = [!delta.configs.is_empty() || delta.everything, !delta.services.is_empty(), !delta.endpoints.is_empty()];
    for (count, _) in world.triggers.iter().zip(what).filter(|(_, moved)| *moved) {
        count.fetch_add(1, Ordering::Relaxed);
    }
    let keys = delta.configs.iter().map(ToString::to_string);
    let mut names: Vec<_> = keys.chain(delta.services.iter().map(|s| s.hostname.to_string())).take(4).collect();
    if delta.everything {
        names.push("everything".into());
    }
    let full = !delta.only_endpoints();
    tracing::info!(
        target: "ads",
        "Push debounce stable for configs {names:?}: {waited:?} since first change, {events} changes, full={full}, {} clients",
        hub.len(),
    );
    hub.push(&Moved(Arc::new(delta)), started);
}
