//! Who is connected? The registry of all streams; changes enter here.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use protos::envoy::config::core::v3::Node;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use xds::server::{Kind, Protocol, Resource};

use crate::connection::{Connection, ConnectionStatus, lock};
use crate::limit::Limit;
use crate::{Metrics, Source};

/// Settings of the server.
#[derive(Debug, Clone)]
pub struct Options {
    /// Identifies this instance to clients (`control_plane.identifier`, JSON in Istio).
    pub identifier: String,
    /// New streams per second on average; 0: no limit.
    pub streams_per_second: f64,
    /// New streams at once.
    pub streams_burst: f64,
    /// Streams end after this time, so that proxies spread over replicas; `None`: never.
    pub max_age: Option<Duration>,
    /// Bytes of large responses that may be written and not answered, over all streams; a stream holds at most
    /// `WRITTEN_BYTES_MAX`. Bounds memory when everybody connects at once; Istio bounds the number of pushes
    /// (`PILOT_PUSH_THROTTLE`).
    pub in_flight_bytes: usize,
}

/// The default of [`Options::in_flight_bytes`].
pub const IN_FLIGHT_BYTES: usize = 32 << 20;

impl Default for Options {
    fn default() -> Self {
        Options {
            identifier: String::new(),
            streams_per_second: 0.0,
            streams_burst: 100.0,
            max_age: None,
            in_flight_bytes: IN_FLIGHT_BYTES,
        }
    }
}

/// Most bytes of a response that are written while the client has not taken them: HTTP/2's send buffer and a chunk.
pub const WRITTEN_BYTES_MAX: usize = 512 << 10;

fn kilobytes(bytes: usize) -> usize {
    (bytes / 1024).max(1)
}

/// All connections of one server.
pub struct Hub<S: Source> {
    pub(crate) source: Arc<S>,
    pub(crate) options: Options,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) limit: Mutex<Limit>,
    pub(crate) start: Instant,
    pub(crate) draining: watch::Sender<bool>,
    under_way: Arc<Semaphore>,
    connections: Mutex<BTreeMap<u64, Arc<Connection<S::Change>>>>,
    next: AtomicU64,
}

impl<S: Source> Hub<S> {
    /// A hub without connections.
    pub fn new(source: Arc<S>, options: Options) -> Arc<Self> {
        Arc::new(Hub {
            source,
            under_way: Arc::new(Semaphore::new(kilobytes(options.in_flight_bytes))),
            limit: Mutex::new(Limit::new(options.streams_per_second, options.streams_burst)),
            options,
            metrics: Arc::default(),
            start: Instant::now(),
            draining: watch::channel(false).0,
            connections: Mutex::default(),
            next: AtomicU64::new(1),
        })
    }

    /// A share of what may be under way for a response of this size; waits until there is room.
    pub(crate) async fn in_flight(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let share = kilobytes(bytes.min(WRITTEN_BYTES_MAX)).min(kilobytes(self.options.in_flight_bytes));
        let share = u32::try_from(share).unwrap_or(u32::MAX);
        Arc::clone(&self.under_way).acquire_many_owned(share).await.ok()
    }

    /// Where resources come from.
    pub fn source(&self) -> &S {
        &self.source
    }

    /// The counters.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Tells every connected proxy of a change that began at `started`.
    pub fn push(&self, change: &S::Change, started: Instant) {
        for connection in lock(&self.connections).values() {
            connection.offer(change, started);
        }
    }

    /// Every connection's record, in the order of connecting.
    pub fn status(&self) -> Vec<ConnectionStatus> {
        self.connections().iter().map(|c| c.status()).collect()
    }

    /// Every connected node, in the order of connecting.
    pub fn nodes(&self) -> Vec<Node> {
        self.connections().iter().map(|c| c.node.clone()).collect()
    }

    /// Differs whenever other proxies are connected than before.
    pub fn membership(&self) -> (u64, usize) {
        (self.next.load(Ordering::Relaxed), self.len())
    }

    /// How many of the connected proxies have confirmed all that there is for them, and how many there are.
    pub fn up_to_date(&self) -> (usize, usize) {
        let connections = self.connections();
        (connections.iter().filter(|c| c.is_up_to_date()).count(), connections.len())
    }

    /// What was last sent of a type to the proxy with this node id (`pod.namespace` or the full id).
    /// `None`: it is not connected.
    pub fn sent(&self, proxy: &str, kind: Kind) -> Option<Vec<Arc<Resource>>> {
        let named = |c: &&Arc<Connection<S::Change>>| {
            c.node.id == proxy || c.id == proxy || c.node.id.split('~').nth(2) == Some(proxy)
        };
        self.connections().iter().rev().find(named).map(|c| c.stream().sent(kind))
    }

    /// Ends the stream of this connection (`/debug/force_disconnect`). `false`: no such connection.
    pub fn disconnect(&self, id: &str) -> bool {
        let found = self.connections().into_iter().find(|c| c.id == id || c.node.id == id);
        found.inspect(|c| c.close.notify_one()).is_some()
    }

    /// How many proxies are connected.
    pub fn len(&self) -> usize {
        lock(&self.connections).len()
    }

    /// Is nobody connected?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends all streams, now and later; clients go elsewhere.
    pub fn drain(&self) {
        self.draining.send_replace(true);
    }

    fn connections(&self) -> Vec<Arc<Connection<S::Change>>> {
        lock(&self.connections).values().cloned().collect()
    }

    pub(crate) fn register(
        &self,
        node: Node,
        identities: Vec<String>,
        address: String,
        protocol: Protocol,
    ) -> (u64, Arc<Connection<S::Change>>) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let id = format!("{}-{number}", node.id);
        let connection = Arc::new(Connection::new(id, node, identities, address, protocol));
        lock(&self.connections).insert(number, Arc::clone(&connection));
        self.metrics.connected.fetch_add(1, Ordering::Relaxed);
        (number, connection)
    }

    pub(crate) fn unregister(&self, number: u64) {
        if lock(&self.connections).remove(&number).is_some() {
            self.metrics.connected.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
