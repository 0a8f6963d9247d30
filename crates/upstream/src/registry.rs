//! Which clusters are there? Set by the config thread, read by workers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use proxy_config::Name;
use proxy_config::cluster::{self as config, Discovery, LoadAssignment};
use telemetry::stats::Store;
use tls::SecretStore;

use crate::cluster::Cluster;

/// All clusters by name; shared by all threads.
pub struct Registry {
    clusters: RwLock<HashMap<Name, Arc<Cluster>>>,
    /// EDS answers by service name, kept for clusters that come later.
    version: AtomicU64,
    store: Arc<Store>,
    secrets: Arc<SecretStore>,
}

impl Registry {
    /// No clusters yet.
    pub fn new(store: Arc<Store>, secrets: Arc<SecretStore>) -> Arc<Self> {
        Arc::new(Registry { clusters: RwLock::default(), version: AtomicU64::new(1), store, secrets })
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

    /// Adds or replaces a cluster. A replaced one hands its hosts over when both take them from the
    /// same discovery, so that a change of other settings interrupts nothing.
    pub fn set(&self, config: Arc<config::Cluster>) -> Arc<Cluster> {
        let cluster = Cluster::new(config, &self.store, &self.secrets);
        let mut all = self.clusters.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = all.get(&cluster.config.name)
            && same_discovery(&old.config.discovery, &cluster.config.discovery)
        {
            cluster.inherit(old);
        }
        all.insert(cluster.config.name.clone(), cluster.clone());
        self.version.fetch_add(1, Ordering::Release);
        cluster
    }

    /// Removes a cluster. Requests in flight finish on what they hold.
    pub fn remove(&self, name: &str) -> bool {
        let gone = self.clusters.write().unwrap_or_else(PoisonError::into_inner).remove(name).is_some();
        self.version.fetch_add(1, Ordering::Release);
        gone
    }

    /// Gives endpoints to every EDS cluster of that service name. Returns how many there were.
    pub fn assign(&self, service_name: &str, load: &LoadAssignment) -> usize {
        let eds: Vec<_> = self
            .all()
            .into_iter()
            .filter(|c| matches!(&c.config.discovery, Discovery::Eds { service_name: s, .. } if **s == *service_name))
            .collect();
        for c in &eds {
            c.assign(load, |a| vec![a.clone()]);
        }
        eds.len()
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
