//! What does port 15020 answer? Readiness with its reason, merged Prometheus text, probes of the application, and the
//! ways to end the proxy.
//!
//! [`ready`], [`scrape`] and [`probes`] decide; this file carries their answers over HTTP. Absent: `/debug/pprof`, which
//! describes Go's runtime.

pub mod client;
pub mod probes;
pub mod ready;
pub mod scrape;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use prost::Message as _;
use protos::istio::networking::nds::v1::NameTable;
use tokio::sync::{Notify, watch};

use crate::certificate::Current;
use crate::metrics::Metrics;
use crate::request::{Answer, http};
use probes::{Application, Probers, Verdict};
use ready::{NotReady, Updates};

/// How long the proxy's admin port may take.
const ADMIN_MAX: Duration = Duration::from_secs(2);

/// A part of the agent that has a word in readiness: `Err` says why it is not ready.
pub type Check = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What the status server serves.
pub struct Options {
    /// `host:port` of the proxy's admin interface.
    pub admin: String,
    /// Whether there is a proxy at all (`DISABLE_ENVOY`).
    pub has_proxy: bool,
    /// `host:port` of the proxy's metrics, unless they are left out (`PILOT_AGENT_MERGE_ENVOY_STATS`).
    pub proxy_metrics: Option<String>,
    /// Probes by path.
    pub probers: Probers,
    /// Where the application is.
    pub application: Application,
    /// Where the applications' own metrics are.
    pub scrape: Option<scrape::Config>,
    /// Longest page of one application.
    pub app_bytes_max: usize,
    /// Metrics only for this pod (`METRICS_LOCALHOST_ACCESS_ONLY`).
    pub metrics_local_only: bool,
    /// The workload certificate, for its expiry.
    pub certificate: Option<Current>,
    /// The DNS proxy's names, for `/debug/ndsz`.
    pub names: Option<watch::Receiver<Arc<NameTable>>>,
    /// What else must be ready.
    pub checks: Vec<Check>,
    /// The agent's counters.
    pub metrics: Arc<Metrics>,
}

/// State of the status server.
pub struct Status {
    /// What it serves.
    pub options: Options,
    /// Ends the proxy without a drain.
    pub quit: Notify,
    /// Starts the drain.
    pub drain: Notify,
    /// No longer ready.
    pub draining: AtomicBool,
    /// Our own proxy, once it runs in this process.
    pub proxy: OnceLock<proxy::Handle>,
    /// Cached "ready": once true it stays so until the drain.
    ready: AtomicBool,
    /// Start of the process.
    started: Instant,
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Status").field("admin", &self.options.admin).field("ready", &self.ready).finish_non_exhaustive()
    }
}

impl Status {
    /// A proxy that is not ready yet.
    pub fn new(options: Options, started: Instant) -> Arc<Self> {
        Arc::new(Self {
            options,
            quit: Notify::new(),
            drain: Notify::new(),
            draining: AtomicBool::new(false),
            proxy: OnceLock::new(),
            ready: AtomicBool::new(false),
            started,
        })
    }

    /// Is everything ready? Asks the proxy's admin port where the proxy is another process, so call it where waiting is
    /// allowed.
    ///
    /// # Errors
    /// What is not, and why.
    pub fn check(&self) -> Result<(), NotReady> {
        if self.draining.load(Ordering::Acquire) {
            return Err(NotReady::Draining);
        }
        match self.proxy.get() {
            Some(proxy) if !proxy.is_live() => {
                Updates::of(proxy).verdict()?;
                return Err(NotReady::NotLive("INITIALIZING"));
            }
            Some(_) if self.ready.load(Ordering::Acquire) => {}
            Some(proxy) => Updates::of(proxy).verdict()?,
            None if !self.options.has_proxy => {}
            // Asked every time: a proxy that crashed is not ready because it once was.
            None => {
                let answer = admin(&self.options.admin, "GET", ready::STATS_PATH);
                let answer = answer.map_err(|error| NotReady::Admin(format!("{error:#}")))?;
                ready::check_stats(&String::from_utf8_lossy(&answer.body))?;
            }
        }
        self.options.checks.iter().try_for_each(|check| check()).map_err(NotReady::Other)?;
        if !self.ready.swap(true, Ordering::AcqRel) {
            let took = self.started.elapsed().as_millis() as u64;
            self.options.metrics.startup_ms.store(took.max(1), Ordering::Relaxed);
            tracing::info!(target: "default", "Envoy proxy is ready");
        }
        Ok(())
    }

    /// The kubelet's question; `None`: nobody configured it.
    pub async fn probe(&self, path: &str, headers: &HeaderMap) -> Option<Verdict> {
        let prober = self.options.probers.get(path)?;
        Some(probes::run(prober, &self.options.application, headers).await)
    }

    /// The merged metrics.
    pub async fn metrics(&self, query: Option<&str>, headers: &HeaderMap) -> scrape::Page {
        self.options.metrics.scrapes.add();
        let current = self.options.certificate.as_ref().and_then(|c| c.borrow().clone());
        let sources = scrape::Sources {
            proxy: self.options.proxy_metrics.as_deref(),
            applications: self.options.scrape.as_ref(),
            own: self.options.metrics.page(current.map(|workload| workload.expires())),
            app_bytes_max: self.options.app_bytes_max,
        };
        scrape::page(&sources, query, headers, &self.options.metrics).await
    }

    /// `/quitquitquit`: only from this pod, only as POST.
    pub fn quit(&self, peer: Option<IpAddr>, method: &Method) -> StatusCode {
        let verdict = own_post(peer, method);
        if verdict.is_success() {
            tracing::info!(target: "default", "handling /quitquitquit, notifying pilot-agent to exit");
            self.quit.notify_one();
        }
        verdict
    }

    /// `/drain`: likewise.
    pub fn drain(&self, peer: Option<IpAddr>, method: &Method) -> StatusCode {
        let verdict = own_post(peer, method);
        if verdict.is_success() {
            tracing::info!(target: "default", "handling /drain, starting drain");
            self.drain.notify_one();
        }
        verdict
    }
}

fn own_post(peer: Option<IpAddr>, method: &Method) -> StatusCode {
    match () {
        () if !peer.is_some_and(is_own) => StatusCode::FORBIDDEN,
        () if method != Method::POST => StatusCode::METHOD_NOT_ALLOWED,
        () => StatusCode::OK,
    }
}

/// Only from this pod.
fn is_own(peer: IpAddr) -> bool {
    peer.to_canonical().is_loopback()
}

fn admin(address: &str, method: &str, path: &str) -> anyhow::Result<Answer> {
    http(address, method, path, "", ADMIN_MAX)
}

/// The routes of port 15020.
pub fn router(status: Arc<Status>) -> Router {
    Router::new()
        .route("/healthz/ready", get(ready))
        .route("/stats/prometheus", get(metrics))
        .route("/metrics", get(metrics))
        .route("/quitquitquit", any(quit))
        .route("/drain", any(drain))
        .route("/app-health/{*probe}", any(probe))
        .route("/app-lifecycle/{*probe}", any(probe))
        .route("/debug/ndsz", get(ndsz))
        .with_state(status)
}

/// Calls that wait for sockets run in the blocking pool: they are few and short.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

async fn ready(State(status): State<Arc<Status>>) -> Response {
    match blocking(move || status.check()).await {
        Some(Ok(())) => StatusCode::OK.into_response(),
        Some(Err(reason)) => {
            let reason = reason.for_people();
            tracing::warn!(target: "default", "Envoy proxy is NOT ready: {reason}");
            (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response()
        }
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

const FORBIDDEN: &str = "Only requests from localhost are allowed\n";

async fn metrics(
    State(status): State<Arc<Status>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    if status.options.metrics_local_only && !is_own(peer.ip()) {
        return (StatusCode::FORBIDDEN, FORBIDDEN).into_response();
    }
    let page = status.metrics(uri.query(), &headers).await;
    let (encoding, body) = blocking(move || scrape::compress(page.body, &headers)).await.unwrap_or_default();
    let mut response = ([(header::CONTENT_TYPE, page.format.content_type())], body).into_response();
    response.headers_mut().insert(header::VARY, header::HeaderValue::from_static("accept-encoding"));
    if let Some(encoding) = encoding {
        response.headers_mut().insert(header::CONTENT_ENCODING, header::HeaderValue::from_static(encoding));
    }
    response
}

fn answer(verdict: StatusCode) -> Response {
    let text = match verdict {
        StatusCode::OK => "OK",
        StatusCode::FORBIDDEN => FORBIDDEN,
        _ => "Method Not Allowed\n",
    };
    (verdict, text).into_response()
}

async fn quit(
    State(status): State<Arc<Status>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    method: Method,
) -> Response {
    answer(status.quit(Some(peer.ip()), &method))
}

async fn drain(
    State(status): State<Arc<Status>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    method: Method,
) -> Response {
    answer(status.drain(Some(peer.ip()), &method))
}

async fn probe(State(status): State<Arc<Status>>, uri: Uri, headers: HeaderMap) -> Response {
    match status.probe(uri.path(), &headers).await {
        Some(verdict) => (verdict.status, verdict.body).into_response(),
        None => {
            let text = format!("app prober config does not exists for {}", uri.path());
            (StatusCode::BAD_REQUEST, text).into_response()
        }
    }
}

async fn ndsz(State(status): State<Arc<Status>>, ConnectInfo(peer): ConnectInfo<SocketAddr>) -> Response {
    if !is_own(peer.ip()) {
        return (StatusCode::FORBIDDEN, FORBIDDEN).into_response();
    }
    let json = [(header::CONTENT_TYPE, "application/json")];
    let Some(names) = &status.options.names else {
        return (StatusCode::NOT_FOUND, json, "{}".to_owned()).into_response();
    };
    let bytes = names.borrow().encode_to_vec();
    match protos::json::to_json("istio.networking.nds.v1.NameTable", &bytes, protos::json::Options::default()) {
        Ok(table) => (json, table.to_string()).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
