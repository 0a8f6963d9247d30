//! What is the same in every listener of a proxy? Parts that many filter chains repeat, made once per view. Everything
//! here is a function of [`Inputs`](crate::Inputs) and the stated key alone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use names::PortProtocol;
use protos::envoy::config::listener::v3::Filter;

use crate::listener::Class;

/// What distinguishes connection managers.
type ManagerKey = (Class, PortProtocol);

/// Parts made when first asked for.
#[derive(Debug, Default)]
pub(crate) struct Once {
    managers: Mutex<HashMap<ManagerKey, Arc<[u8]>>>,
    byte_policies: OnceLock<Vec<Filter>>,
}

impl Once {
    /// An HTTP connection manager without what distinguishes it from others of its class and protocol, encoded.
    pub(crate) fn manager(&self, class: Class, protocol: PortProtocol, make: impl FnOnce() -> Vec<u8>) -> Arc<[u8]> {
        // A panic while making leaves the table as it was.
        let known = |s: &Self| s.managers.lock().unwrap_or_else(|e| e.into_inner()).get(&(class, protocol)).cloned();
        if let Some(known) = known(self) {
            return known;
        }
        let made: Arc<[u8]> = make().into();
        self.managers.lock().unwrap_or_else(|e| e.into_inner()).insert((class, protocol), made.clone());
        made
    }

    /// Authorization of byte streams.
    pub(crate) fn byte_policies(&self, make: impl FnOnce() -> Vec<Filter>) -> Vec<Filter> {
        self.byte_policies.get_or_init(make).clone()
    }
}
