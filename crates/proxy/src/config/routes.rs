//! Which route tables are in force? Slots that connection managers read, filled by RDS.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use prost_types::Any;
use protos::envoy::config::route::v3::RouteConfiguration;
use proxy_config::route::RouteTable;
use telemetry::stats::Store;

use super::record::{Failure, Record};

/// A slot that a connection manager reads.
pub type Slot = Arc<ArcSwapOption<RouteTable>>;

/// Slots by name; made while listeners are compiled.
#[derive(Debug, Default)]
pub struct Slots(Mutex<BTreeMap<String, Slot>>);

impl Slots {
    /// The slot of a route configuration.
    pub fn get(&self, name: &str) -> Slot {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(name.to_owned()).or_default().clone()
    }

    fn remove(&self, name: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

/// One route configuration of RDS.
#[derive(Debug, Default)]
pub struct Dynamic {
    /// In force; `None` while awaited.
    pub active: Option<Record>,
    /// Last refused version.
    pub failed: Option<Failure>,
}

/// All route configurations.
#[derive(Debug, Default)]
pub struct Routes {
    /// Where managers read.
    pub slots: Arc<Slots>,
    /// Those written into listeners.
    pub statics: BTreeMap<String, Record>,
    /// By RDS.
    pub dynamic: BTreeMap<String, Dynamic>,
}

impl Routes {
    /// Takes a route configuration of RDS; an error leaves the last good one in force.
    pub fn apply(&mut self, name: &str, version: &str, body: &Any, store: &Arc<Store>) -> Result<(), String> {
        let Some(entry) = self.dynamic.get_mut(name) else {
            // Not asked for any more: the answer crossed our request.
            return Ok(());
        };
        let record = Record::new(version, body);
        let parsed = protos::unpack::<RouteConfiguration>(body)
            .map_err(|e| e.to_string())
            .and_then(|r| proxy_config::parse::route_table(&r).map_err(|e| e.to_string()));
        match parsed {
            Ok(table) => {
                l7::vcluster::open(&table, store);
                self.slots.get(name).store(Some(Arc::new(table)));
                entry.active = Some(record);
                entry.failed = None;
                telemetry::debug!(router, "rds: loading new configuration: config_name={name}");
                Ok(())
            }
            Err(details) => {
                entry.failed = Some(Failure { record, details: details.clone() });
                Err(details)
            }
        }
    }

    /// The server says that it has no such configuration (any more). The last one stays, as in Envoy.
    pub fn missing(&mut self, _name: &str) {}

    /// True once the table is there.
    pub fn is_ready(&self, name: &str) -> bool {
        self.dynamic.get(name).is_none_or(|d| d.active.is_some())
    }

    /// States which names listeners use. True if they changed.
    pub fn want(&mut self, names: &BTreeSet<String>) -> bool {
        let before = self.dynamic.len();
        self.dynamic.retain(|name, _| {
            let keep = names.contains(name);
            if !keep {
                self.slots.remove(name);
            }
            keep
        });
        let mut changed = self.dynamic.len() != before;
        for name in names {
            if !self.dynamic.contains_key(name) {
                self.dynamic.insert(name.clone(), Dynamic::default());
                changed = true;
            }
        }
        changed
    }
}
