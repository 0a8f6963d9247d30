//! Which counters does a filter keep per upstream cluster? Made when first counted, kept with the filter.
//!
//! Only filters that ask another service count here, so the lock weighs nothing beside what they wait for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use proxy_config::Name;
use telemetry::stats::{Block, Counter, Schema, Store};

use crate::exchange::Exchange;

/// Blocks `cluster.<name>.<scope>` of one filter. As many as the filter's routes have clusters.
pub struct PerCluster<S: Schema> {
    store: Arc<Store>,
    scope: String,
    blocks: Mutex<HashMap<Name, Block<S>>>,
}

impl<S: Schema> PerCluster<S> {
    /// None yet. `scope` ends with a dot.
    pub fn new(store: &Arc<Store>, scope: String) -> Self {
        PerCluster { store: store.clone(), scope, blocks: Mutex::default() }
    }

    /// Counts on the cluster that the exchange is routed to, if any.
    pub fn inc(&self, ex: &Exchange, which: Counter<S>) {
        let Some(name) = &ex.upstream.cluster else { return };
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || self.store.block(&format!("cluster.{name}.{}", self.scope));
        blocks.entry(name.clone()).or_insert_with(make).inc(which);
    }
}
