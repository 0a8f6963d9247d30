//! How does the embedding process steer the proxy? A handle that any thread may hold.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use telemetry::stats::Store;
use tokio::sync::mpsc;

use crate::embedding::Embedding;

/// What the config thread is told from outside.
#[derive(Debug)]
pub(crate) enum Tell {
    Drain { graceful: bool },
    FailHealthCheck(bool),
    Shutdown,
}

/// What every thread may see.
pub struct Shared {
    pub(crate) store: Arc<Store>,
    pub(crate) registry: Arc<upstream::Registry>,
    pub(crate) secrets: Arc<tls::SecretStore>,
    pub(crate) embedding: Embedding,
    live: AtomicBool,
    exited: Mutex<bool>,
    exit: Condvar,
    tell: mpsc::UnboundedSender<Tell>,
}

impl Shared {
    pub(crate) fn new(store: Arc<Store>, tell: mpsc::UnboundedSender<Tell>, embedding: Embedding) -> Arc<Self> {
        let secrets = Arc::new(tls::SecretStore::default());
        Arc::new(Self {
            registry: upstream::Registry::new(store.clone(), secrets.clone()),
            store,
            secrets,
            embedding,
            live: AtomicBool::new(false),
            exited: Mutex::new(false),
            exit: Condvar::new(),
            tell,
        })
    }

    pub(crate) fn set_live(&self, live: bool) {
        self.live.store(live, Ordering::Release);
    }

    pub(crate) fn set_exited(&self) {
        self.set_live(false);
        *self.exited.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.exit.notify_all();
    }

    pub(crate) fn tell(&self, what: Tell) {
        // Fails only when the proxy has ended, and then there is nothing left to tell.
        let _ = self.tell.send(what);
    }
}

/// A running proxy.
#[derive(Clone)]
pub struct Handle(pub(crate) Arc<Shared>);

impl Handle {
    /// Serving: the state that `/ready` reports.
    pub fn is_live(&self) -> bool {
        self.0.live.load(Ordering::Acquire)
    }

    /// Asks connections to close; listeners stop after the drain time, or at once.
    pub fn drain(&self, graceful: bool) {
        self.0.tell(Tell::Drain { graceful });
    }

    /// Makes `/ready` and health checks fail, or succeed again.
    pub fn fail_health_check(&self, failing: bool) {
        self.0.tell(Tell::FailHealthCheck(failing));
    }

    /// Ends the proxy, as SIGTERM does.
    pub fn shutdown(&self) {
        self.0.tell(Tell::Shutdown);
    }

    /// All threads have ended.
    pub fn has_exited(&self) -> bool {
        *self.0.exited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks until all threads have ended.
    pub fn wait(&self) {
        let exited = self.0.exited.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.0.exit.wait_while(exited, |e| !*e).unwrap_or_else(PoisonError::into_inner));
    }

    /// Stats.
    pub fn stats(&self) -> &Arc<Store> {
        &self.0.store
    }

    /// Clusters.
    pub fn registry(&self) -> &Arc<upstream::Registry> {
        &self.0.registry
    }
}
