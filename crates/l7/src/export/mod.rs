//! What leaves this proxy for collectors? Access log entries, log records and spans, on their way from the workers.
//!
//! A worker encodes an item and pushes it; `proxy` runs one task per [`Outlet`] that takes what gathered and sends it.
//! Nothing here waits or touches the network. A full outlet drops items and counts them.

mod als;
mod otel;
mod value;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proxy_config::Name;
use proxy_config::common::{GrpcService, HttpUri};
use proxy_config::tracing::TraceProvider;
use telemetry::stats::envoy::export as stat;
use telemetry::stats::{Block, Store};
use tokio::sync::{Notify, mpsc};

pub use als::{http_entry, tcp_entry};
pub use otel::{log_record, resource};
pub(crate) use value::text;
pub use value::{any_value, key_value};

/// Bytes that wait in one outlet at most; what comes beyond is dropped.
const BACKLOG_BYTES_MAX: usize = 16 << 20;

/// How a collector is reached and spoken to.
#[derive(Debug, Clone, PartialEq)]
pub enum Destination {
    /// `AccessLogService.StreamAccessLogs`; items are encoded entries.
    AccessLogs {
        /// The service.
        service: GrpcService,
        /// `log_name`
        log_name: Name,
        /// TCP entries.
        tcp: bool,
    },
    /// `LogsService.Export`; items are encoded log records.
    OtelLogs {
        /// The service.
        service: GrpcService,
        /// Encoded resource.
        resource: Arc<[u8]>,
    },
    /// `TraceService.Export`; items are encoded spans.
    OtelSpans {
        /// The service by gRPC,
        grpc: Option<GrpcService>,
        /// or by HTTP,
        http: Option<HttpUri>,
        /// with these headers.
        headers: Box<[(Name, Name)]>,
        /// Encoded resource.
        resource: Arc<[u8]>,
    },
    /// Zipkin's `/api/v2/spans`; items are spans in JSON.
    Zipkin {
        /// Cluster of the collector.
        cluster: Name,
        /// Path.
        path: Name,
        /// `Host` header.
        host: Name,
    },
}

/// Items on their way to one collector.
#[derive(Debug)]
pub struct Outlet {
    /// Where to.
    pub destination: Destination,
    /// How long items may wait.
    pub flush_interval: Duration,
    /// This many bytes are sent at once,
    pub buffer_bytes: usize,
    /// or this many items.
    pub buffer_items: usize,
    /// Counts of what became of items.
    pub stats: Block<stat::Export>,
    queue: Mutex<Queue>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    items: Vec<Vec<u8>>,
    bytes: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Outlet {
    /// Adds an item. Never waits.
    pub fn push(&self, item: Vec<u8>) {
        let mut queue = lock(&self.queue);
        if queue.bytes + item.len() > BACKLOG_BYTES_MAX {
            drop(queue);
            return self.dropped(1);
        }
        queue.bytes += item.len();
        queue.items.push(item);
        let full = queue.bytes >= self.buffer_bytes.max(1) || queue.items.len() >= self.buffer_items;
        drop(queue);
        if full {
            self.filled.notify_one();
        }
    }

    /// Takes what gathered.
    pub fn take(&self) -> Vec<Vec<u8>> {
        let mut queue = lock(&self.queue);
        queue.bytes = 0;
        std::mem::take(&mut queue.items)
    }

    /// Waits until enough gathered for one message. Cancel safe.
    pub async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Counts items that were sent.
    pub fn written(&self, n: u64) {
        match &self.destination {
            Destination::AccessLogs { .. } | Destination::OtelLogs { .. } => self.stats.add(stat::LOGS_WRITTEN, n),
            Destination::OtelSpans { .. } => self.stats.add(stat::SPANS_SENT, n),
            Destination::Zipkin { .. } => {
                self.stats.add(stat::SPANS_SENT, n);
                self.stats.inc(stat::REPORTS_SENT);
            }
        }
    }

    /// Counts items that could not be sent.
    pub fn dropped(&self, n: u64) {
        match &self.destination {
            Destination::AccessLogs { .. } | Destination::OtelLogs { .. } => self.stats.add(stat::LOGS_DROPPED, n),
            Destination::OtelSpans { .. } => {}
            Destination::Zipkin { .. } => self.stats.inc(stat::REPORTS_DROPPED),
        }
    }
}

/// All outlets of one proxy.
#[derive(Debug)]
pub struct Exports {
    store: Arc<Store>,
    open: Mutex<Vec<std::sync::Weak<Outlet>>>,
    new: mpsc::UnboundedSender<Arc<Outlet>>,
    tracer: Mutex<Option<Arc<TraceProvider>>>,
}

impl Exports {
    /// No outlets yet. Every new one is handed to the receiver, to be served until nobody else holds it.
    pub fn new(store: &Arc<Store>) -> (Arc<Self>, mpsc::UnboundedReceiver<Arc<Outlet>>) {
        let (new, receiver) = mpsc::unbounded_channel();
        (Arc::new(Exports { store: store.clone(), open: Mutex::default(), new, tracer: Mutex::default() }), receiver)
    }

    /// Where spans go when a connection manager names no provider (the bootstrap's `tracing`).
    pub fn set_default_tracer(&self, provider: Option<Arc<TraceProvider>>) {
        *lock(&self.tracer) = provider;
    }

    /// See [`Exports::set_default_tracer`].
    pub fn default_tracer(&self) -> Option<Arc<TraceProvider>> {
        lock(&self.tracer).clone()
    }

    /// The outlet to that destination; the same for the same destination. It sends when `buffer_bytes` are there.
    pub fn open(&self, destination: Destination, flush_interval: Duration, buffer_bytes: u32) -> Arc<Outlet> {
        self.make(destination, flush_interval, buffer_bytes as usize, usize::MAX)
    }

    /// The same, but it sends when so many items are there.
    pub fn open_counted(&self, destination: Destination, flush_interval: Duration, items: usize) -> Arc<Outlet> {
        self.make(destination, flush_interval, BACKLOG_BYTES_MAX, items)
    }

    fn make(&self, destination: Destination, flush_interval: Duration, bytes: usize, items: usize) -> Arc<Outlet> {
        let mut open = lock(&self.open);
        open.retain(|o| o.strong_count() > 0);
        let same =
            |o: &Outlet| o.destination == destination && o.flush_interval == flush_interval && o.buffer_bytes == bytes;
        if let Some(known) = open.iter().filter_map(std::sync::Weak::upgrade).find(|o| same(o)) {
            return known;
        }
        let scope = match &destination {
            Destination::AccessLogs { .. } => "access_logs.grpc_access_log.",
            Destination::OtelLogs { .. } => "access_logs.open_telemetry_access_log.",
            Destination::OtelSpans { .. } => "tracing.opentelemetry.",
            Destination::Zipkin { .. } => "tracing.zipkin.",
        };
        let outlet = Arc::new(Outlet {
            destination,
            flush_interval,
            buffer_bytes: bytes,
            buffer_items: items,
            stats: self.store.block(scope),
            queue: Mutex::default(),
            filled: Notify::new(),
        });
        open.push(Arc::downgrade(&outlet));
        // Without a receiver (tests of single crates) items stay until their limit.
        let _ = self.new.send(outlet.clone());
        outlet
    }
}
