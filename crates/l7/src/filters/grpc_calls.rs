//! How did gRPC calls end, by cluster and method? The counters that `grpc_stats` and `grpc_web` keep under a cluster's name.
//!
//! Methods come from the network: so many are told apart, later ones are not counted.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use http1::{HeaderBlock, HeaderId};
use telemetry::stats::envoy::grpc_call as stat;
use telemetry::stats::{Block, Store};

/// Methods told apart per filter.
const METHODS_MAX: usize = 4096;

/// The counters of one filter.
pub struct Calls {
    store: Arc<Store>,
    protocol: &'static str,
    blocks: Mutex<HashMap<String, Block<stat::Call>>>,
}

impl Calls {
    /// None yet; `protocol` stands in the names.
    pub fn new(store: &Arc<Store>, protocol: &'static str) -> Self {
        Calls { store: store.clone(), protocol, blocks: Mutex::default() }
    }

    /// The counters of a method (`service`, `method`) of a cluster, or of all methods.
    pub fn of(&self, cluster: &str, method: Option<(&str, &str)>) -> Option<Block<stat::Call>> {
        let prefix = match method {
            Some((service, method)) => format!("cluster.{cluster}.{}.{service}.{method}.", self.protocol),
            None => format!("cluster.{cluster}.{}.", self.protocol),
        };
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(block) = blocks.get(&prefix) {
            return Some(block.clone());
        }
        if blocks.len() >= METHODS_MAX {
            return None;
        }
        let block = self.store.block(&prefix);
        blocks.insert(prefix, Block::clone(&block));
        Some(block)
    }
}

/// Counts the end of a call whose status is known.
pub fn charge(block: &Block<stat::Call>, status: &[u8]) {
    let code = std::str::from_utf8(status).ok().and_then(|s| s.parse::<usize>().ok());
    if let Some(counter) = code.and_then(|c| stat::BY_CODE.get(c)) {
        block.inc(*counter);
    }
    block.inc(if code == Some(0) { stat::SUCCESS } else { stat::FAILURE });
    block.inc(stat::TOTAL);
}

/// The status in trailers, else in a head that is all there is.
pub fn status<'a>(head: &'a HeaderBlock, trailers: &'a HeaderBlock) -> Option<&'a [u8]> {
    trailers.get_id(HeaderId::GRPC_STATUS).or_else(|| head.get_id(HeaderId::GRPC_STATUS))
}

/// Service and method of `/service/method`.
pub fn method(path: &[u8]) -> Option<(&str, &str)> {
    let path = std::str::from_utf8(path).ok()?.strip_prefix('/')?;
    let path = path.split('?').next().unwrap_or_default();
    let (service, method) = path.split_once('/')?;
    (!service.is_empty() && !method.is_empty() && !method.contains('/')).then_some((service, method))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods() {
        assert_eq!(method(b"/a.B/C"), Some(("a.B", "C")));
        assert_eq!(method(b"/a.B/C?q=/"), Some(("a.B", "C")));
        for none in [&b"/a.B"[..], b"a.B/C", b"/a/b/c", b"//c", b"/a/", b"/\xff/c"] {
            assert_eq!(method(none), None, "{none:?}");
        }
    }
}
