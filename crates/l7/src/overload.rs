//! What may no longer be taken on? Switches that the overload manager sets and that workers look at.
//!
//! `proxy` measures resources and sets the switches; connections are counted here, because the limit on them must hold
//! at the moment of acceptance. A worker without an overload manager looks at nothing.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use tokio::sync::Notify;

/// Switches and counts shared by all workers of a process.
#[derive(Debug, Default)]
pub struct Overload {
    /// `envoy.overload_actions.stop_accepting_requests`
    pub stop_requests: AtomicBool,
    /// `envoy.overload_actions.disable_http_keepalive`
    pub disable_keepalive: AtomicBool,
    /// `envoy.overload_actions.reject_incoming_connections`
    pub reject_connections: AtomicBool,
    /// `envoy.overload_actions.stop_accepting_connections`
    stop_accepting: AtomicBool,
    /// Told when connections are accepted again.
    resumed: Notify,
    /// Downstream connections at most; 0: no limit.
    pub connections_max: AtomicU64,
    connections: AtomicU64,
}

/// One downstream connection, counted while it lives.
#[derive(Debug)]
pub struct Place(Arc<Overload>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Relaxed);
    }
}

impl Overload {
    /// Counts a connection in. `None`: there are as many as may be. `exempt` ones are counted and never refused.
    pub fn enter(self: &Arc<Self>, exempt: bool) -> Option<Place> {
        let max = self.connections_max.load(Relaxed);
        let before = self.connections.fetch_add(1, Relaxed);
        let place = Place(self.clone());
        // A place that is not kept gives itself back.
        (max == 0 || before < max || exempt).then_some(place)
    }

    /// Has connections wait, or lets them go on. True if that is another state than before.
    pub fn stop_accepting(&self, stop: bool) -> bool {
        let changed = self.stop_accepting.swap(stop, Relaxed) != stop;
        if !stop {
            self.resumed.notify_waiters();
        }
        changed
    }

    /// Waits until connections are accepted.
    pub async fn accepting(&self) {
        loop {
            // Registered before the look, so that no word is missed.
            let mut resumed = pin!(self.resumed.notified());
            resumed.as_mut().enable();
            if !self.stop_accepting.load(Relaxed) {
                return;
            }
            resumed.await;
        }
    }

    /// Downstream connections now.
    pub fn connections(&self) -> u64 {
        self.connections.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_limited_and_given_back() {
        let overload = Arc::new(Overload::default());
        overload.connections_max.store(2, Relaxed);
        let (a, b) = (overload.enter(false), overload.enter(false));
        assert!(a.is_some() && b.is_some() && overload.enter(false).is_none());
        assert!(overload.enter(true).is_some());
        drop(a);
        assert_eq!(overload.connections(), 1);
        assert!(overload.enter(false).is_some());
    }
}
