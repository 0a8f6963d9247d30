//! What does port 15020 answer? Readiness with its reason, merged Prometheus text, probes of the application, and the
//! ways to end the proxy.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::Value;
use tokio::sync::Notify;

use telemetry::stats::Block;
use telemetry::stats::envoy::subscription::{self, Subscription};

use crate::certificate::Current;
use crate::request::{Answer, http};

/// How long the proxy's admin port may take.
const ADMIN_MAX: Duration = Duration::from_secs(2);
/// How long the application may take for its metrics.
const SCRAPE_MAX: Duration = Duration::from_secs(8);

/// State of the status server.
pub struct Status {
    /// `127.0.0.1:15000`
    pub admin: String,
    /// Probes by path (`ISTIO_KUBE_APP_PROBERS`).
    pub probes: HashMap<String, Value>,
    /// Where the application's own metrics are (`ISTIO_PROMETHEUS_ANNOTATIONS`): `port` and `path`.
    pub scrape: Option<(u16, String)>,
    /// Ends the proxy.
    pub quit: Notify,
    /// Starts the drain.
    pub drain: Notify,
    /// Cached "ready": once true it stays so until the drain.
    pub ready: AtomicBool,
    /// No longer ready.
    pub draining: AtomicBool,
    /// Start of the process.
    pub started: Instant,
    /// Milliseconds until first ready.
    pub startup_ms: AtomicU64,
    /// The workload certificate, for its expiry.
    pub certificate: Option<Current>,
    /// Our own proxy, once it runs in this process.
    pub proxy: OnceLock<proxy::Handle>,
}

impl Status {
    /// Is the proxy ready? `Err`: why not, in Istio's words.
    pub fn check(&self) -> Result<(), String> {
        if self.draining.load(Ordering::Acquire) {
            return Err("server is not live: draining".into());
        }
        if self.ready.load(Ordering::Acquire) {
            return self.live();
        }
        self.received()?;
        self.live()?;
        if !self.ready.swap(true, Ordering::AcqRel) {
            let took = self.started.elapsed();
            self.startup_ms.store(took.as_millis() as u64, Ordering::Relaxed);
            tracing::info!(target: "default", "Envoy proxy is ready");
        }
        Ok(())
    }

    /// Has configuration arrived?
    fn received(&self) -> Result<(), String> {
        let updates = match self.proxy.get() {
            Some(proxy) => Updates::of(proxy),
            None => self.updates().map_err(|e| format!("failed to get readiness stats: {e:#}"))?,
        };
        readiness(updates)
    }

    /// The same figures from a proxy in another process.
    fn updates(&self) -> anyhow::Result<Updates> {
        let path =
            "/stats?usedonly&filter=^(cluster_manager.cds|listener_manager.lds).(update_success|update_rejected)$";
        let answer = admin(&self.admin, "GET", path)?;
        let text = String::from_utf8_lossy(&answer.body);
        let stat = |name: &str| {
            let value = |l: &str| l.strip_prefix(name)?.strip_prefix(": ")?.trim().parse::<u64>().ok();
            text.lines().find_map(value).unwrap_or(0)
        };
        Ok(Updates {
            cds: [stat("cluster_manager.cds.update_success"), stat("cluster_manager.cds.update_rejected")],
            lds: [stat("listener_manager.lds.update_success"), stat("listener_manager.lds.update_rejected")],
        })
    }

    /// Is Envoy's state LIVE?
    fn live(&self) -> Result<(), String> {
        if let Some(proxy) = self.proxy.get() {
            let reason = "server is not live, current state is: INITIALIZING";
            return if proxy.is_live() { Ok(()) } else { Err(reason.into()) };
        }
        let answer = admin(&self.admin, "GET", "/ready").map_err(|e| format!("failed to get server info: {e:#}"))?;
        if answer.status == 200 {
            return Ok(());
        }
        Err(format!("server is not live, current state is: {}", String::from_utf8_lossy(&answer.body).trim()))
    }
}

/// Successes and rejections of CDS and LDS.
#[derive(Debug, Clone, Copy)]
struct Updates {
    cds: [u64; 2],
    lds: [u64; 2],
}

impl Updates {
    fn of(proxy: &proxy::Handle) -> Self {
        let of = |prefix: &str| {
            let block: Block<Subscription> = proxy.stats().block(prefix);
            [block.counter(subscription::UPDATE_SUCCESS), block.counter(subscription::UPDATE_REJECTED)]
        };
        Self { cds: of("cluster_manager.cds."), lds: of("listener_manager.lds.") }
    }
}

/// Istio's verdict.
fn readiness(Updates { cds, lds }: Updates) -> Result<(), String> {
    let updates = |[success, rejected]: [u64; 2]| format!("{success} successful, {rejected} rejected");
    let figures = || format!("cds updates: {}; lds updates: {}", updates(cds), updates(lds));
    if cds[0] > 0 && lds[0] > 0 {
        return Ok(());
    }
    if cds[0] + cds[1] > 0 || lds[0] + lds[1] > 0 {
        return Err(format!("config received from Pilot, but was rejected: {}", figures()));
    }
    Err(format!("config not received from Pilot (is Pilot running?): {}", figures()))
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
        .route("/quitquitquit", post(quit))
        .route("/drain", post(drain))
        .route("/app-health/{*probe}", get(probe))
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
            tracing::debug!(target: "healthcheck", "Envoy proxy is NOT ready: {reason}");
            (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response()
        }
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

async fn metrics(State(status): State<Arc<Status>>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let page = blocking(move || scrape(&status, &accept)).await.unwrap_or_default();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page).into_response()
}

/// Agent, then proxy, then application.
fn scrape(status: &Status, accept: &str) -> String {
    let mut out = String::new();
    let startup = status.startup_ms.load(Ordering::Relaxed) as f64 / 1000.0;
    out.push_str(&format!(
        "# HELP istio_build Istio component build info\n# TYPE istio_build gauge\nistio_build{{component=\"proxy\",tag=\"{}\"}} 1\n\
         # HELP startup_duration_seconds The time from the process starting to being marked ready.\n# TYPE startup_duration_seconds gauge\nstartup_duration_seconds {startup}\n",
        crate::VERSION
    ));
    if let Some(workload) = status.certificate.as_ref().and_then(|c| c.borrow().clone()) {
        let now = std::time::SystemTime::now();
        let left = match workload.expires().duration_since(now) {
            Ok(left) => left.as_secs_f64(),
            Err(late) => -late.duration().as_secs_f64(),
        };
        out.push_str(&format!(
            "# HELP cert_expiry_seconds The time remaining, in seconds, before the certificate chain will expire.\n# TYPE cert_expiry_seconds gauge\ncert_expiry_seconds{{resource_name=\"default\"}} {left:.0}\n"
        ));
    }
    if let Ok(answer) = admin(&status.admin, "GET", "/stats/prometheus") {
        out.push_str(&String::from_utf8_lossy(&answer.body));
    }
    if let Some((port, path)) = &status.scrape {
        let accept = if accept.is_empty() || accept.contains(['\r', '\n']) {
            String::new()
        } else {
            format!("Accept: {accept}\r\n")
        };
        match http(&format!("127.0.0.1:{port}"), "GET", path, &accept, SCRAPE_MAX) {
            Ok(answer) if answer.status == 200 => {
                // An OpenMetrics page ends with a mark that may stand only at the very end.
                let text = String::from_utf8_lossy(&answer.body);
                out.push_str(text.trim_end().strip_suffix("# EOF").unwrap_or(&text));
            }
            Ok(answer) => {
                tracing::debug!(target: "default", "failed scraping application metrics: status {}", answer.status)
            }
            Err(error) => {
                tracing::debug!(target: "default", "failed scraping application metrics: {error:#}")
            }
        }
    }
    out
}

/// Only from this pod.
fn local(peer: SocketAddr) -> bool {
    match peer.ip() {
        std::net::IpAddr::V6(ip) => ip.to_ipv4_mapped().map_or(ip.is_loopback(), |v4| v4.is_loopback()),
        ip => ip.is_loopback(),
    }
}

async fn quit(State(status): State<Arc<Status>>, ConnectInfo(peer): ConnectInfo<SocketAddr>) -> Response {
    if !local(peer) {
        return (StatusCode::FORBIDDEN, "Only requests from localhost are allowed\n").into_response();
    }
    status.quit.notify_one();
    "OK".into_response()
}

async fn drain(State(status): State<Arc<Status>>, ConnectInfo(peer): ConnectInfo<SocketAddr>) -> Response {
    if !local(peer) {
        return (StatusCode::FORBIDDEN, "Only requests from localhost are allowed\n").into_response();
    }
    status.drain.notify_one();
    StatusCode::OK.into_response()
}

async fn probe(State(status): State<Arc<Status>>, uri: Uri, headers: HeaderMap) -> Response {
    let Some(probe) = status.probes.get(uri.path()).cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let code = blocking(move || run_probe(&probe, &headers)).await.flatten();
    match code.and_then(|c| StatusCode::from_u16(c).ok()) {
        Some(code) => code.into_response(),
        None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Runs an HTTP or TCP probe against the application. `None`: not reachable.
fn run_probe(probe: &Value, headers: &HeaderMap) -> Option<u16> {
    let timeout = Duration::from_secs(probe["timeoutSeconds"].as_u64().unwrap_or(1).max(1));
    if let Some(tcp) = probe.get("tcpSocket") {
        let port = tcp["port"].as_u64().and_then(|p| u16::try_from(p).ok())?;
        let address: SocketAddr = ([127, 0, 0, 1], port).into();
        return std::net::TcpStream::connect_timeout(&address, timeout).ok().map(|_| 200);
    }
    let get = probe.get("httpGet")?;
    let port = get["port"].as_u64().and_then(|p| u16::try_from(p).ok())?;
    let path = get["path"].as_str().unwrap_or("/");
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let mut extra = String::new();
    let mut add = |name: &str, value: &str| {
        if !name.contains(['\r', '\n', ':']) && !value.contains(['\r', '\n']) {
            extra.push_str(&format!("{name}: {value}\r\n"));
        }
    };
    if let Some(agent) = headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()) {
        add("User-Agent", agent);
    }
    for h in get["httpHeaders"].as_array().into_iter().flatten() {
        add(h["name"].as_str().unwrap_or_default(), h["value"].as_str().unwrap_or_default());
    }
    http(&format!("127.0.0.1:{port}"), "GET", &path, &extra, timeout).ok().map(|a| a.status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_says_why() {
        let check = |cds, lds, expect: Option<&str>| match (readiness(Updates { cds, lds }), expect) {
            (Ok(()), None) => {}
            (Err(reason), Some(part)) => assert!(reason.contains(part), "{reason}"),
            (got, _) => panic!("{got:?}"),
        };
        check([1, 0], [1, 0], None);
        check([1, 3], [2, 1], None);
        check(
            [0, 0],
            [0, 0],
            Some(
                "config not received from Pilot (is Pilot running?): cds updates: 0 successful, 0 rejected; lds updates: 0 successful, 0 rejected",
            ),
        );
        check(
            [1, 0],
            [0, 2],
            Some("was rejected: cds updates: 1 successful, 0 rejected; lds updates: 0 successful, 2 rejected"),
        );
    }
}
