//! What is known of one connected proxy? Shared between its stream's task, the hub and the debug endpoints.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use protos::envoy::config::core::v3::Node;
use tokio::sync::Notify;
use xds::server::{Protocol, Stream, SyncState, TypeStatus};

use crate::Change;

/// One connected proxy.
#[derive(Debug)]
pub(crate) struct Connection<C> {
    pub id: String,
    pub node: Node,
    pub identities: Vec<String>,
    pub address: String,
    pub connected_at: SystemTime,
    pub stream: Mutex<Stream>,
    pub wake: Notify,
    pub close: Notify,
    pending: Mutex<Option<(C, Instant)>>,
    convergence: Mutex<Convergence>,
}

/// How fast a proxy follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Convergence {
    /// Pushes begun.
    pub pushes: u64,
    /// Pushes the proxy has confirmed in full; merged ones count once.
    pub converged: u64,
    /// Time from the oldest change in the last confirmed push to its confirmation.
    pub last: Option<Duration>,
    /// Start of the oldest change not confirmed yet.
    since: Option<Instant>,
}

/// A snapshot of one connection for `syncz` and `adsz`.
#[derive(Debug, Clone)]
pub struct ConnectionStatus {
    /// Node id and a running number.
    pub id: String,
    /// The node as the proxy sent it.
    pub node: Node,
    /// Authenticated identities, empty on the plain port.
    pub identities: Vec<String>,
    /// The peer's address.
    pub address: String,
    /// Start of the stream.
    pub connected_at: SystemTime,
    /// Delta or state of the world.
    pub protocol: Protocol,
    /// One record per type asked for.
    pub types: Vec<TypeStatus>,
    /// How fast it follows.
    pub convergence: Convergence,
}

impl<C: Change> Connection<C> {
    pub fn new(id: String, node: Node, identities: Vec<String>, address: String, protocol: Protocol) -> Self {
        Connection {
            id,
            node,
            identities,
            address,
            connected_at: SystemTime::now(),
            stream: Mutex::new(Stream::new(protocol)),
            wake: Notify::new(),
            close: Notify::new(),
            pending: Mutex::new(None),
            convergence: Mutex::default(),
        }
    }

    pub fn stream(&self) -> MutexGuard<'_, Stream> {
        lock(&self.stream)
    }

    /// Puts a change on the connection, merging it into one that waits.
    pub fn offer(&self, change: &C, started: Instant) {
        match &mut *lock(&self.pending) {
            Some((waiting, _)) => waiting.merge(change),
            empty => *empty = Some((change.clone(), started)),
        }
        self.wake.notify_one();
    }

    pub fn take(&self) -> Option<(C, Instant)> {
        let taken = lock(&self.pending).take()?;
        let mut convergence = lock(&self.convergence);
        convergence.pushes += 1;
        convergence.since.get_or_insert(taken.1);
        Some(taken)
    }

    /// All is confirmed: how long that took, if a push was under way.
    pub fn converged(&self) -> Option<Duration> {
        let mut convergence = lock(&self.convergence);
        let took = convergence.since.take()?.elapsed();
        convergence.converged += 1;
        convergence.last = Some(took);
        Some(took)
    }

    /// Whether nothing waits for it, and it has accepted all it got.
    pub fn is_up_to_date(&self) -> bool {
        let moving = lock(&self.pending).is_some() || lock(&self.convergence).since.is_some();
        !moving && self.stream().status().iter().all(|t| !matches!(t.state, SyncState::Stale | SyncState::Error))
    }

    pub fn status(&self) -> ConnectionStatus {
        let stream = self.stream();
        ConnectionStatus {
            id: self.id.clone(),
            node: self.node.clone(),
            identities: self.identities.clone(),
            address: self.address.clone(),
            connected_at: self.connected_at,
            protocol: stream.protocol(),
            types: stream.status(),
            convergence: *lock(&self.convergence),
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while holding the lock leaves plain data behind, which is still the best we have.
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}
