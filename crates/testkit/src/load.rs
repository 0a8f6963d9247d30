//! Did every request succeed? Steady load over kept-alive connections; each failure is kept with its time and reason.

use crate::http::{Connection, Reply, Response};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Failures kept for the report.
const FAILURES_MAX: usize = 20;

/// Running load; ends when [`Load::stop`] is called.
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    stop: AtomicBool,
    sent: AtomicU64,
    failed: AtomicU64,
    failures: Mutex<Vec<String>>,
}

/// What the load saw.
#[derive(Debug)]
pub struct Seen {
    /// Requests sent.
    pub sent: u64,
    /// Requests without the expected response, connection losses included.
    pub failed: u64,
    /// The first failures, with seconds since the start.
    pub failures: Vec<String>,
}

impl Load {
    /// Sends `request` over `connections` connections, each waiting `pause` between requests.
    ///
    /// A request fails unless `good` likes its response. A connection that the peer closes between two exchanges after
    /// it said `connection: close` is not a failure; one that closes without saying so is.
    pub fn start(
        to: SocketAddr,
        request: String,
        connections: usize,
        pause: Duration,
        good: fn(&Response) -> bool,
    ) -> Self {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            failures: Mutex::new(Vec::new()),
        });
        let start = Instant::now();
        let threads = (0..connections)
            .map(|_| {
                let (shared, request) = (shared.clone(), request.clone());
                std::thread::spawn(move || drive(to, &request, pause, good, &shared, start))
            })
            .collect();
        Self { shared, threads }
    }

    /// Requests sent so far.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Ends the load and says what it saw.
    pub fn stop(self) -> Seen {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a load thread does not panic");
        }
        Seen {
            sent: self.shared.sent.load(Ordering::Relaxed),
            failed: self.shared.failed.load(Ordering::Relaxed),
            failures: std::mem::take(&mut self.shared.failures.lock().expect("no holder panics")),
        }
    }
}

fn drive(to: SocketAddr, request: &str, pause: Duration, good: fn(&Response) -> bool, shared: &Shared, start: Instant) {
    let mut connection = None;
    while !shared.stop.load(Ordering::Relaxed) {
        shared.sent.fetch_add(1, Ordering::Relaxed);
        let outcome = once(&mut connection, to, request);
        let failure = match outcome {
            Ok(Reply::Response(r)) if good(&r) => None,
            Ok(Reply::Response(r)) => Some(format!("status {} {:?} {:?}", r.status, r.headers, r.text())),
            Ok(Reply::Closed) => Some("closed without a response".to_owned()),
            Err(e) => Some(e.to_string()),
        };
        if let Some(why) = failure {
            connection = None;
            shared.failed.fetch_add(1, Ordering::Relaxed);
            let mut kept = shared.failures.lock().expect("no holder panics");
            if kept.len() < FAILURES_MAX {
                kept.push(format!("{:.3} s: {why}", start.elapsed().as_secs_f64()));
            }
        }
        std::thread::sleep(pause);
    }
}

fn once(connection: &mut Option<Connection>, to: SocketAddr, request: &str) -> std::io::Result<Reply> {
    if connection.is_none() {
        *connection = Some(Connection::open(to)?);
    }
    let open = connection.as_mut().expect("just opened");
    let reply = open.exchange(request.as_bytes(), false)?;
    let closing = match &reply {
        Reply::Response(r) => r.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("close")),
        Reply::Closed => true,
    };
    if closing {
        *connection = None;
    }
    Ok(reply)
}
