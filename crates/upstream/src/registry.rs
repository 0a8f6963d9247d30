//! Which clusters are there? Set by the config thread, read by workers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use proxy_config::Name;
use proxy_config::cluster::{self as config, Discovery};
use telemetry::access_log::{Sink, Sinks};
use telemetry::stats::Store;
use tls::SecretStore;
use tokio::sync::Notify;

use crate::cluster::Cluster;
use crate::demand::Demand;
use crate::zone::Local;

/// All clusters by name; shared by all threads.
pub struct Registry {
    clusters: RwLock<HashMap<Name, Arc<Cluster>>>,
    version: AtomicU64,
    changed: Notify,
    demand: Demand,
    ground: Arc<Ground>,
}

/// What clusters take from the process.
pub struct Ground {
    pub(crate) store: Arc<Store>,
    pub(crate) secrets: Arc<SecretStore>,
    /// Where event logs are opened.
    pub(crate) sinks: OnceLock<Arc<Sinks>>,
    /// The log of outlier detection.
    pub(crate) outlier_events: OnceLock<Arc<Sink>>,
    /// Tells the config thread that a cluster became ready.
    pub(crate) woken: Arc<Notify>,
    /// Threads that balance, the config thread included: Envoy counts subsets once for each.
    pub(crate) threads: AtomicU64,
    /// The cluster of proxies like this one.
    pub(crate) local: Local,
}

impl Registry {
    /// No clusters yet.
    pub fn new(store: Arc<Store>, secrets: Arc<SecretStore>) -> Arc<Self> {
        let (sinks, outlier_events) = Default::default();
        let ground = Ground {
            store,
            secrets,
            sinks,
            outlier_events,
            woken: Arc::default(),
            threads: AtomicU64::new(1),
            local: Local::default(),
        };
        Arc::new(Registry {
            clusters: RwLock::default(),
            version: AtomicU64::new(1),
            changed: Notify::new(),
            demand: Demand::default(),
            ground: Arc::new(ground),
        })
    }

    /// Gives clusters that come from now on somewhere to write events: files, and the log of outlier detection.
    pub fn set_event_logs(&self, sinks: Arc<Sinks>, outlier_path: Option<&str>) -> std::io::Result<()> {
        if let Some(path) = outlier_path {
            // Set once, at the start.
            let _ = self.ground.outlier_events.set(sinks.open(path)?);
        }
        let _ = self.ground.sinks.set(sinks);
        Ok(())
    }

    /// Lets the config thread look again.
    pub fn wake(&self) {
        self.ground.woken.notify_one();
    }

    /// Says how many workers there are.
    pub fn set_workers(&self, workers: usize) {
        self.ground.threads.store(workers as u64 + 1, Ordering::Relaxed);
    }

    /// The cluster of proxies like this one, for zone-aware routing.
    pub fn local(&self) -> &Local {
        &self.ground.local
    }

    /// What requests wait for.
    pub fn demand(&self) -> &Demand {
        &self.demand
    }

    /// Resolves when a cluster may have become ready.
    pub async fn woken(&self) {
        self.ground.woken.notified().await;
    }

    /// The cluster of that name.
    pub fn get(&self, name: &str) -> Option<Arc<Cluster>> {
        self.clusters.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Changes whenever a cluster is added, replaced or removed; workers compare it.
    #[inline]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Resolves when clusters were added, replaced or removed since it last did; for one task.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Makes a cluster that serves nobody yet. It takes over the hosts of the one that it will replace when both
    /// find them the same way, so that a change of other settings interrupts nothing.
    pub fn build(&self, config: Arc<config::Cluster>) -> Arc<Cluster> {
        let cluster = Cluster::new(config, &self.ground);
        if let Some(old) = self.get(&cluster.config.name)
            && same_discovery(&old.config.discovery, &cluster.config.discovery)
        {
            cluster.inherit(&old);
        }
        cluster
    }

    /// Puts a cluster into service, in place of the one of that name.
    pub fn publish(&self, cluster: &Arc<Cluster>) {
        let mut all = self.clusters.write().unwrap_or_else(PoisonError::into_inner);
        all.insert(cluster.config.name.clone(), cluster.clone());
        self.ground.local.follow(&cluster.config.name, Some(cluster));
        self.version.fetch_add(1, Ordering::Release);
        self.changed.notify_one();
    }

    /// Adds or replaces a cluster at once.
    pub fn set(&self, config: Arc<config::Cluster>) -> Arc<Cluster> {
        let cluster = self.build(config);
        self.publish(&cluster);
        cluster
    }

    /// Removes a cluster. Requests in flight finish on what they hold.
    pub fn remove(&self, name: &str) -> bool {
        let gone = self.clusters.write().unwrap_or_else(PoisonError::into_inner).remove(name).is_some();
        self.ground.local.follow(name, None);
        self.version.fetch_add(1, Ordering::Release);
        self.changed.notify_one();
        gone
    }

    /// All clusters, in no order.
    pub fn all(&self) -> Vec<Arc<Cluster>> {
        self.clusters.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

fn same_discovery(a: &Discovery, b: &Discovery) -> bool {
    match (a, b) {
        (Discovery::Eds { service_name: a, .. }, Discovery::Eds { service_name: b, .. }) => a == b,
        (Discovery::StrictDns(..), Discovery::StrictDns(..))
        | (Discovery::LogicalDns(..), Discovery::LogicalDns(..)) => true,
        _ => false,
    }
}
