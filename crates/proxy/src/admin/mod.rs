//! What does the admin interface answer? Envoy's endpoints, on the config thread, in Envoy's shapes.
//!
//! Each endpoint is one row of [`ENDPOINTS`] and one function; `/help` prints the same rows.

mod certs;
mod clusters;
mod counts;
mod dump;
mod info;
mod json;
mod listeners;
mod logging;
mod query;
mod reply;
mod stats;

use std::convert::Infallible;
use std::os::unix::fs::PermissionsExt;
use std::rc::Rc;
use std::time::Instant;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use proxy_config::common::Address;
use tokio::net::{TcpListener, UnixListener};

pub use certs::days_until_expiry;
pub use counts::Counts;
use query::Query;
use reply::Reply;

use crate::StartError;
use crate::server::Server;

/// Connections served at once; an admin interface needs few.
const CONNECTIONS_MAX: usize = 256;

/// Bytes of a request body read (form values of `/runtime_modify`).
const REQUEST_BODY_BYTES_MAX: usize = 64 * 1024;

type Handler = fn(&Rc<Server>, &Query) -> Reply;

/// A documented parameter: name and help.
type Parameter = (&'static str, &'static str);

struct Endpoint {
    path: &'static str,
    post: bool,
    help: &'static str,
    parameters: &'static [Parameter],
    handler: Handler,
}

const fn get(path: &'static str, help: &'static str, handler: Handler) -> Endpoint {
    Endpoint { path, post: false, help, parameters: &[], handler }
}

const fn post(path: &'static str, help: &'static str, handler: Handler) -> Endpoint {
    Endpoint { path, post: true, help, parameters: &[], handler }
}

const fn with(endpoint: Endpoint, parameters: &'static [Parameter]) -> Endpoint {
    Endpoint { parameters, ..endpoint }
}

const ENABLE_ALLOCATION: &[Parameter] = &[("enable", "enable/disable the allocation profiler; One of (y, n)")];
const ENABLE_CPU: &[Parameter] = &[("enable", "enables the CPU profiler; One of (y, n)")];
const ENABLE_HEAP: &[Parameter] = &[("enable", "enable/disable the heap profiler; One of (y, n)")];
const STATS: &[Parameter] = &[
    ("usedonly", "Only include stats that have been written by system since restart"),
    ("filter", "Regular expression (Google re2) for filtering stats"),
    ("invert_filter", "Invert the filter regex"),
    ("format", "Format to use; One of (html, active-html, text, json)"),
    ("type", "Stat types to include.; One of (All, Counters, Histograms, Gauges, TextReadouts)"),
    ("histogram_buckets", "Histogram bucket display mode; One of (cumulative, disjoint, detailed, summary)"),
];
const PROMETHEUS: &[Parameter] = &[
    ("usedonly", "Only include stats that have been written by system since restart"),
    ("text_readouts", "Render text_readouts as new gaugues with value 0 (increases Prometheus data size)"),
    ("filter", "Regular expression (Google re2) for filtering stats"),
    ("invert_filter", "Invert the filter regex"),
    ("histogram_buckets", "Histogram bucket display mode; One of (cumulative, summary)"),
];
const DUMP: &[Parameter] = &[
    ("resource", "The resource to dump"),
    (
        "mask",
        "The mask to apply. When both resource and mask are specified, the mask is applied to every element in the desired repeated field so that only a subset of fields are returned. The mask is parsed as a Protobuf::FieldMask",
    ),
    (
        "name_regex",
        "Dump only the currently loaded configurations whose names match the specified regex. Can be used with both resource and mask query parameters.",
    ),
    (
        "include_eds",
        "Dump currently loaded configuration including EDS. See the response definition for more information",
    ),
];
const DRAIN: &[Parameter] = &[
    (
        "graceful",
        "When draining listeners, enter a graceful drain period prior to closing listeners. This behaviour and duration is configurable via server options or CLI",
    ),
    (
        "skip_exit",
        "When draining listeners, drain the connections but never stop the listeners. The graceful parameter has no effect when this is set, since the drain period only delays stopping the listeners",
    ),
    (
        "inboundonly",
        "Drains all inbound listeners. traffic_direction field in envoy_v3_api_msg_config.listener.v3.Listener is used to determine whether a listener is inbound or outbound.",
    ),
];
const LOGGING: &[Parameter] = &[
    (
        "paths",
        "Change multiple logging levels by setting to <logger_name1>:<desired_level1>,<logger_name2>:<desired_level2>. If fine grain logging is enabled, use __FILE__ or a glob experision as the logger name. For example, source/common*:warning",
    ),
    (
        "group",
        "Change given logger group to desired level, set to <logger_group_name>:<desired_level>. logger_group_name must be a logger name.",
    ),
    (
        "level",
        "desired logging level, this will change all loggers's level; One of (, trace, debug, info, warning, error, critical, off)",
    ),
];

/// All endpoints, sorted by path as `/help` prints them.
static ENDPOINTS: &[Endpoint] = &[
    get("/", "Admin home page", |_, _| info::home()),
    with(
        post("/allocprofiler", "enable/disable the allocation profiler (if supported)", |_, q| {
            info::profiler(q, "allocation")
        }),
        ENABLE_ALLOCATION,
    ),
    get("/certs", "print certs on machine", certs::reply),
    with(
        get("/clusters", "upstream cluster status", clusters::reply),
        &[("filter", "Regular expression (Google re2) for filtering clusters by name")],
    ),
    with(get("/config_dump", "dump current Envoy configs", dump::reply), DUMP),
    get("/contention", "dump current Envoy mutex contention stats (if enabled)", |_, _| info::contention()),
    with(post("/cpuprofiler", "enable/disable the CPU profiler", |_, q| info::profiler(q, "CPU")), ENABLE_CPU),
    with(post("/drain_listeners", "drain listeners", info::drain), DRAIN),
    post("/healthcheck/fail", "cause the server to fail health checks", |s, _| info::health(s, true)),
    post("/healthcheck/ok", "cause the server to pass health checks", |s, _| info::health(s, false)),
    get("/heap_dump", "dump current Envoy heap (if supported)", |_, _| info::unsupported("heap dump")),
    with(
        post("/heapprofiler", "enable/disable the heap profiler", |_, _| info::unsupported("heap profiler")),
        ENABLE_HEAP,
    ),
    get("/help", "print out list of admin commands", |_, _| {
        Reply::text(200, format!("admin commands are:\n{}", help()))
    }),
    get("/hot_restart_version", "print the hot restart compatibility version", |s, _| info::hot_restart_version(s)),
    with(
        get("/init_dump", "dump current Envoy init manager information (experimental)", dump::init),
        &[(
            "mask",
            "The desired component to dump unready targets. The mask is parsed as a Protobuf::FieldMask. For example, get the unready targets of all listeners with /init_dump?mask=listener`",
        )],
    ),
    with(
        get("/listeners", "print listener info", listeners::reply),
        &[("format", "File format to use; One of (text, json)")],
    ),
    with(post("/logging", "query/change logging levels", logging::reply), LOGGING),
    get("/memory", "print current allocation/heap usage", |_, _| info::memory()),
    get("/memory/tcmalloc", "print TCMalloc stats", |_, _| info::allocator()),
    get("/peak_heap_dump", "dump peak Envoy heap (if supported)", |_, _| info::unsupported("heap dump")),
    post("/quitquitquit", "exit the server", info::quit),
    get("/ready", "print server state, return 200 if LIVE, otherwise return 503", info::ready),
    post("/reopen_logs", "reopen access logs", info::reopen),
    post("/reset_counters", "reset all counters to zero", info::reset_counters),
    get("/runtime", "print runtime values", info::runtime),
    post(
        "/runtime_modify",
        "Adds or modifies runtime values as passed in query parameters. To delete a previously added key, use an empty string as the value. Note that deletion only applies to overrides added via this endpoint; values loaded from disk can be modified via override but not deleted. E.g. ?key1=value1&key2=value2...",
        info::runtime_modify,
    ),
    get("/server_info", "print server version/status information", info::server_info),
    with(get("/stats", "print server stats", stats::reply), STATS),
    with(get("/stats/prometheus", "print server stats in prometheus format", stats::prometheus), PROMETHEUS),
    get("/stats/recentlookups", "Show recent stat-name lookups", |_, _| info::recent_lookups()),
    post("/stats/recentlookups/clear", "clear list of stat-name lookups and counter", |_, _| Reply::ok()),
    post("/stats/recentlookups/disable", "disable recording of reset stat-name lookup names", |_, _| Reply::ok()),
    post("/stats/recentlookups/enable", "enable recording of reset stat-name lookup names", |_, _| Reply::ok()),
];

/// The list that `/help` and unknown paths print.
fn help() -> String {
    let mut out = String::new();
    for e in ENDPOINTS {
        out.push_str(&format!("  {}{}: {}\n", e.path, if e.post { " (POST)" } else { "" }, e.help));
        for (name, help) in e.parameters {
            out.push_str(&format!("      {name}: {help}\n"));
        }
    }
    out
}

fn answer(server: &Rc<Server>, method: &http::Method, path: &str, query: &Query) -> Reply {
    let Some(endpoint) = ENDPOINTS.iter().find(|e| e.path == path) else {
        return Reply::text(404, format!("invalid path. admin commands are:\n{}", help()));
    };
    if endpoint.post && method != http::Method::POST {
        return Reply::text(405, format!("Method {method} not allowed, POST required."));
    }
    (endpoint.handler)(server, query)
}

async fn respond(server: Rc<Server>, request: Request<Incoming>) -> Result<http::Response<reply::Body>, Infallible> {
    let began = Instant::now();
    server.counts.request();
    let (head, body) = request.into_parts();
    let mut query = Query::parse(head.uri.query().unwrap_or_default());
    if head.headers.get("content-type").is_some_and(|t| t.as_bytes() == b"application/x-www-form-urlencoded")
        && let Some(form) = reply::collect(body, REQUEST_BODY_BYTES_MAX).await
    {
        query.extend(Query::parse(&String::from_utf8_lossy(&form)));
    }
    telemetry::debug!(admin, "request: method={} path={}", head.method, head.uri);
    let head_only = head.method == http::Method::HEAD;
    let response = answer(&server, &head.method, head.uri.path(), &query).into_response(head_only);
    server.counts.response(response.status().as_u16(), began);
    Ok(response)
}

/// Binds the admin address and serves it on the current `LocalSet`.
pub fn serve(server: &Rc<Server>) -> Result<(), StartError> {
    let Some(admin) = &server.bootstrap.config.admin else { return Ok(()) };
    let failed = |error| StartError::Admin { address: admin.address.to_string(), error };
    let shown = match &admin.address {
        Address::Socket(address) => {
            let socket = std::net::TcpListener::bind(address).map_err(failed)?;
            socket.set_nonblocking(true).map_err(failed)?;
            let listener = TcpListener::from_std(socket).map_err(failed)?;
            let shown = listener.local_addr().map_err(failed)?.to_string();
            server.set_admin(tokio::task::spawn_local(accept_tcp(server.clone(), listener)).abort_handle());
            shown
        }
        Address::Pipe { path, mode } => {
            // A socket left behind by a predecessor that was killed.
            if !path.starts_with('@') && std::os::unix::net::UnixStream::connect(&**path).is_err() {
                let _ = std::fs::remove_file(&**path);
            }
            let listener = UnixListener::bind(&**path).map_err(failed)?;
            if *mode != 0 {
                std::fs::set_permissions(&**path, std::fs::Permissions::from_mode(*mode)).map_err(failed)?;
            }
            server.set_admin(tokio::task::spawn_local(accept_unix(server.clone(), listener)).abort_handle());
            path.to_string()
        }
        _ => return Err(failed(std::io::Error::other("the admin address must be an IP address or a path"))),
    };
    telemetry::info!(main, "admin address: {shown}");
    if !server.options.admin_address_path.is_empty() {
        std::fs::write(&server.options.admin_address_path, &shown).map_err(failed)?;
    }
    Ok(())
}

async fn accept_tcp(server: Rc<Server>, listener: TcpListener) {
    let places = std::sync::Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let _ = stream.set_nodelay(true);
                spawn(server.clone(), stream, place);
            }
            Err(e) => recover(e).await,
        }
    }
}

async fn accept_unix(server: Rc<Server>, listener: UnixListener) {
    let places = std::sync::Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => spawn(server.clone(), stream, place),
            Err(e) => recover(e).await,
        }
    }
}

/// Out of descriptors or the like: others must finish first.
async fn recover(error: std::io::Error) {
    telemetry::warn!(admin, "accept: {error}");
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
}

fn spawn<S>(server: Rc<Server>, stream: S, place: tokio::sync::OwnedSemaphorePermit)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static,
{
    tokio::task::spawn_local(async move {
        let counted = server.counts.connection();
        let service = service_fn(move |request| respond(server.clone(), request));
        // A client that goes away is no event.
        let _ = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
        drop((place, counted));
    });
}
