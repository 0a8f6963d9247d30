//! What is the same in every listener of a proxy? Parts that many filter chains repeat, made once per view. Everything
//! here is a function of [`Inputs`](crate::Inputs) and the stated key alone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use names::PortProtocol;
use protos::envoy::config::accesslog::v3::AccessLog;
use protos::envoy::config::listener::v3::Filter;

use crate::access_log::Level;
use crate::listener::Class;

/// What distinguishes connection managers.
type ManagerKey = (Class, PortProtocol);
/// What distinguishes lists of access logs.
type LogsKey = (Class, Level);

/// Parts made when first asked for.
#[derive(Debug, Default)]
pub(crate) struct Once {
    managers: Mutex<HashMap<ManagerKey, Arc<[u8]>>>,
    byte_policies: OnceLock<Vec<Filter>>,
    logs: Mutex<HashMap<LogsKey, Arc<[AccessLog]>>>,
    metrics: Mutex<HashMap<Class, Option<Filter>>>,
}

/// The value of a key, made if need be. A panic while making leaves the table as it was.
fn get<K: Eq + std::hash::Hash, V: Clone>(table: &Mutex<HashMap<K, V>>, key: K, make: impl FnOnce() -> V) -> V {
    let lock = || table.lock().unwrap_or_else(|e| e.into_inner());
    let known = lock().get(&key).cloned();
    known.unwrap_or_else(|| {
        let made = make();
        lock().insert(key, made.clone());
        made
    })
}

impl Once {
    /// An HTTP connection manager without what distinguishes it from others of its class and protocol, encoded.
    pub(crate) fn manager(&self, class: Class, protocol: PortProtocol, make: impl FnOnce() -> Vec<u8>) -> Arc<[u8]> {
        get(&self.managers, (class, protocol), || make().into())
    }

    /// Access logs.
    pub(crate) fn logs(&self, class: Class, level: Level, make: impl FnOnce() -> Vec<AccessLog>) -> Vec<AccessLog> {
        get(&self.logs, (class, level), || make().into()).to_vec()
    }

    /// Metrics of byte streams.
    pub(crate) fn metrics(&self, class: Class, make: impl FnOnce() -> Option<Filter>) -> Option<Filter> {
        get(&self.metrics, class, make)
    }

    /// Authorization of byte streams.
    pub(crate) fn byte_policies(&self, make: impl FnOnce() -> Vec<Filter>) -> Vec<Filter> {
        self.byte_policies.get_or_init(make).clone()
    }
}
