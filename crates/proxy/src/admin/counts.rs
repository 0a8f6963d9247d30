//! What does the admin interface count of itself? Envoy's `http.admin.` and `listener.admin.` scopes.

use std::rc::Rc;
use std::time::Instant;

use telemetry::stats::envoy::{
    HCM_CLASSES, LISTENER_HTTP_CLASSES, class, hcm, listener, listener_http, listener_worker,
};
use telemetry::stats::{Block, Store};

/// The scopes.
pub struct Counts {
    http: Block<hcm::Hcm>,
    listener: Block<listener::Listener>,
    listener_http: Block<listener_http::ListenerHttp>,
    thread: Block<listener_worker::ListenerWorker>,
}

impl Counts {
    /// Makes the scopes.
    pub fn new(store: &Store) -> Rc<Self> {
        Rc::new(Self {
            http: store.block("http.admin."),
            listener: store.block("listener.admin."),
            listener_http: store.block("listener.admin.http.admin."),
            thread: store.block("listener.admin.main_thread."),
        })
    }

    /// Counts a connection until the guard is dropped.
    pub fn connection(self: &Rc<Self>) -> Connection {
        self.http.inc(hcm::DOWNSTREAM_CX_TOTAL);
        self.http.inc(hcm::DOWNSTREAM_CX_HTTP1_TOTAL);
        self.http.gauge_add(hcm::DOWNSTREAM_CX_ACTIVE, 1);
        self.http.gauge_add(hcm::DOWNSTREAM_CX_HTTP1_ACTIVE, 1);
        self.listener.inc(listener::DOWNSTREAM_CX_TOTAL);
        self.listener.gauge_add(listener::DOWNSTREAM_CX_ACTIVE, 1);
        self.thread.inc(listener_worker::DOWNSTREAM_CX_TOTAL);
        self.thread.gauge_add(listener_worker::DOWNSTREAM_CX_ACTIVE, 1);
        Connection(self.clone(), Instant::now())
    }

    /// Counts a request that begins.
    pub fn request(&self) {
        self.http.inc(hcm::DOWNSTREAM_RQ_TOTAL);
        self.http.inc(hcm::DOWNSTREAM_RQ_HTTP1_TOTAL);
        self.http.gauge_add(hcm::DOWNSTREAM_RQ_ACTIVE, 1);
    }

    /// Counts its answer.
    pub fn response(&self, status: u16, began: Instant) {
        self.http.gauge_sub(hcm::DOWNSTREAM_RQ_ACTIVE, 1);
        self.http.inc(hcm::DOWNSTREAM_RQ_COMPLETED);
        self.listener_http.inc(listener_http::DOWNSTREAM_RQ_COMPLETED);
        class(&self.http, &HCM_CLASSES, status);
        class(&self.listener_http, &LISTENER_HTTP_CLASSES, status);
        self.http.record(hcm::DOWNSTREAM_RQ_TIME, began.elapsed().as_millis() as u64);
    }
}

/// An open connection.
pub struct Connection(Rc<Counts>, Instant);

impl Drop for Connection {
    fn drop(&mut self) {
        let ms = self.1.elapsed().as_millis() as u64;
        self.0.http.inc(hcm::DOWNSTREAM_CX_DESTROY);
        self.0.http.inc(hcm::DOWNSTREAM_CX_DESTROY_REMOTE);
        self.0.http.gauge_sub(hcm::DOWNSTREAM_CX_ACTIVE, 1);
        self.0.http.gauge_sub(hcm::DOWNSTREAM_CX_HTTP1_ACTIVE, 1);
        self.0.http.record(hcm::DOWNSTREAM_CX_LENGTH_MS, ms);
        self.0.listener.inc(listener::DOWNSTREAM_CX_DESTROY);
        self.0.listener.gauge_sub(listener::DOWNSTREAM_CX_ACTIVE, 1);
        self.0.listener.record(listener::DOWNSTREAM_CX_LENGTH_MS, ms);
        self.0.thread.gauge_sub(listener_worker::DOWNSTREAM_CX_ACTIVE, 1);
    }
}
