//! Which host serves a try, and over which connection?
//!
//! Hosts, breakers and connecting are `upstream`'s; what a connection is made of (an HTTP/1.1 wire, an
//! HTTP/2 sender) is known here. A [`Lease`] is one request on one connection, with its accounting.

mod lease;

use std::cell::Cell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use http1::Limits;
use proxy_config::cluster::{Discovery, UpstreamProtocol};
use proxy_config::route::{ConnectConfig, Priority, RouteAction};
use telemetry::access_log::ResponseFlags;
use telemetry::stats::Block;
use telemetry::stats::envoy::{charge, cluster as stat};
use tls::TlsInfo;
use upstream::{ConnectRequest, Guard, Host, Outcome, PickRequest, PoolKey, Resource, Source, WorkerCluster};

use crate::connection::{Conn, ConnFacts};
use crate::destination;
use crate::exchange::{Exchange, Protocol};
use crate::filters::alpn;
use crate::h2_session::Session;
use crate::io::Wire;
use crate::manager::header_case;
use crate::side::{H1Side, Side};
use crate::stream::Found;
use crate::up::Up;
use crate::vcluster;
use crate::worker::Worker;

use lease::lease;
pub use lease::{Held, Lease};

/// Streams on one upstream HTTP/2 connection when neither side says less.
const STREAMS_MAX: usize = 1 << 29;
/// Windows towards upstreams: Envoy's defaults.
const STREAM_WINDOW_BYTES: u32 = 16 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 24 << 20;
/// Header bytes of a response over HTTP/2.
const RESPONSE_HEADER_BYTES_MAX: u32 = 60 << 10;

/// The pool of bare connections: nothing is ever put there. Even, so that no HTTP/2 connection is looked for.
const RAW_KEY: PoolKey = u64::MAX - 1;

/// How a host is remembered by a request: by its address text.
pub type HostKey = Arc<str>;

/// An idle or shared upstream connection.
pub enum Pooled {
    /// HTTP/1.1, idle.
    H1(IdleH1),
    /// HTTP/2, shared by its streams.
    H2(Rc<SharedH2>),
}

/// An idle HTTP/1.1 connection.
pub struct IdleH1 {
    up: Box<Up>,
    facts: Box<ConnectionFacts>,
    served: u64,
    since_ms: u64,
}

/// An HTTP/2 connection.
pub struct SharedH2 {
    session: Rc<Session>,
    facts: ConnectionFacts,
    served: Cell<u64>,
    streams: Cell<usize>,
    since_ms: Cell<u64>,
}

impl Drop for SharedH2 {
    fn drop(&mut self) {
        self.session.retire();
    }
}

/// Drives an upstream HTTP/2 connection until it is over.
async fn drive(session: Rc<Session>, mut wire: Wire, worker: Rc<Worker>) {
    std::future::poll_fn(|cx| session.poll_drive(cx, &mut wire, &worker)).await;
}

struct ConnectionFacts {
    local: Option<SocketAddr>,
    remote: Option<SocketAddr>,
    tls: Option<Arc<TlsInfo>>,
    account: upstream::Account,
}

impl ConnectionFacts {
    fn of(opened: upstream::Connection) -> (tls::Stream, Self) {
        let upstream::Connection { stream, local, remote, tls, account } = opened;
        (stream, ConnectionFacts { local, remote, tls, account })
    }
}

/// A cluster as this worker uses it.
#[derive(Clone)]
pub struct Cluster(Rc<WorkerCluster<Pooled>>);

/// One retry, counted as long as it is under way.
pub struct RetryGuard(#[allow(dead_code)] Guard);

impl Cluster {
    /// `cluster.<name>.`
    pub fn stats(&self) -> &Block<stat::Cluster> {
        &self.0.cluster.stats
    }

    /// Takes a retry from the cluster's budget.
    pub fn try_retry(&self) -> Option<RetryGuard> {
        self.0.cluster.breakers(Priority::Default).acquire(Resource::Retries).map(RetryGuard)
    }

    /// Metadata of the cluster, for logs and filters.
    pub fn metadata(&self) -> &proxy_config::common::Metadata {
        &self.0.cluster.config.metadata
    }

    /// Counts a reply made here because the upstream failed.
    pub fn charge_local(&self, ex: &Exchange, status: u16) {
        charge(self.stats(), status, ex.internal, false);
        if let Some(counts) = &ex.vcluster {
            vcluster::charge(counts, status);
        }
    }
}

/// Why there is no connection for a try.
#[derive(Debug, Clone)]
pub enum Refused {
    /// No usable host.
    NoHost,
    /// A circuit breaker is open.
    Overflow {
        /// Whom it would have gone to, and the address: the limit of requests, not of waiting ones.
        host: Option<(Arc<Host>, Option<SocketAddr>)>,
        /// A connection was waited for first.
        waited: bool,
    },
    /// Connecting failed.
    Connect {
        /// It took too long.
        timeout: bool,
        /// The transport's own words.
        reason: Option<Box<str>>,
        /// Whom it was tried with.
        host: Arc<Host>,
        /// Its address.
        address: Option<SocketAddr>,
    },
}

impl Refused {
    /// The host that was tried, and its priority.
    pub fn host(&self) -> Option<(&HostKey, u32)> {
        match self {
            Refused::Connect { host, .. } => Some((&host.text, host.priority)),
            _ => None,
        }
    }

    /// Notes the failed host for logs.
    pub fn note(&self, ex: &mut Exchange) {
        match self {
            Refused::Connect { host, address, reason, .. } => {
                ex.upstream.host = Some(host.clone());
                ex.upstream.remote = *address;
                ex.upstream.transport_failure = reason.clone();
            }
            Refused::Overflow { host: Some((host, address)), .. } => {
                ex.upstream.host = Some(host.clone());
                ex.upstream.remote = *address;
            }
            _ => {}
        }
    }
}

/// On whose behalf a connection is taken: a client's, or this proxy's own (call-outs).
#[derive(Clone, Copy)]
pub struct Origin<'a> {
    /// The worker that serves it.
    pub worker: &'a Rc<Worker>,
    /// The client's connection.
    pub client: Option<&'a ConnFacts>,
}

impl Origin<'_> {
    /// Number of the client's connection for logs; 0 for the proxy's own.
    fn id(&self) -> u64 {
        self.client.map_or(0, |f| f.id)
    }
}

impl<'a> From<&'a Conn> for Origin<'a> {
    fn from(conn: &'a Conn) -> Self {
        Origin { worker: &conn.worker, client: Some(&conn.facts) }
    }
}

/// What a try asks for.
pub struct Ask<'a> {
    /// Hash for consistent balancing.
    pub hash: Option<u64>,
    /// Number of the try, from 1.
    pub attempt: u32,
    /// Hosts to avoid.
    pub avoid: &'a [HostKey],
    /// The route.
    pub found: Option<&'a Found>,
    /// Metadata of hosts to avoid.
    pub omit: Option<&'a [(proxy_config::Name, proxy_config::common::Value)]>,
    /// Priorities to avoid.
    pub excluded_priorities: &'a [u32],
    /// The CONNECT is terminated here.
    pub connect: Option<ConnectConfig>,
    /// The host, when it is the request that names it (dynamic forward proxy).
    pub host: Option<Arc<Host>>,
    /// Metadata that the host should have.
    pub wanted: &'a [(proxy_config::Name, proxy_config::common::Value)],
}

/// A host was chosen but has no idle connection.
pub struct Ticket {
    /// The host's cluster: for an aggregate, one of its parts.
    cluster: Cluster,
    host: Arc<Host>,
    key: PoolKey,
    protocol: UpstreamProtocol,
    priority: Priority,
    alpn: Option<Arc<[Box<[u8]>]>>,
    sni: Option<String>,
    connect: Option<ConnectConfig>,
    state: Vec<(proxy_config::Name, Arc<str>)>,
    pending: Guard,
}

enum Connection {
    H1(Box<ConnectionFacts>),
    H2(Rc<SharedH2>),
}

/// The cluster of that name.
#[inline]
pub fn cluster(worker: &Worker, name: &str) -> Option<Cluster> {
    worker.upstream.cluster(name).map(Cluster)
}

/// Whether this request is dropped on purpose (EDS drop policy).
pub fn dropped(cluster: &Cluster, worker: &Worker) -> bool {
    let ppm = cluster.0.cluster.hosts_ref().as_ref().map_or(0, |set| set.drop_ppm);
    ppm > 0 && worker.random() % 1_000_000 < u64::from(ppm)
}

fn priority(found: Option<&Found>) -> Priority {
    match found.map(|f| &f.route().action) {
        Some(RouteAction::Forward(f)) => f.priority,
        _ => Priority::Default,
    }
}

impl Cluster {
    /// The cluster itself.
    pub fn entry(&self) -> &Arc<upstream::Cluster> {
        &self.0.cluster
    }

    /// Whether requests name the hosts of this cluster themselves.
    pub fn is_dynamic(&self) -> bool {
        self.0.cluster.is_dynamic()
    }
}

/// Chooses a host and takes an idle connection to it if there is one.
pub fn try_checkout(
    origin: Origin<'_>,
    cluster: &Cluster,
    ex: &mut Exchange,
    ask: &Ask<'_>,
) -> Result<Result<Lease, Ticket>, Refused> {
    let worker = origin.worker;
    let entry = &cluster.0.cluster;
    // A session's host is for the first try; a failed one is not asked again.
    let preferred = ex.override_host.as_ref().filter(|_| ask.attempt <= 1);
    let pick = PickRequest {
        hash: ask.hash,
        avoid: ask.avoid,
        omit: ask.omit,
        excluded_priorities: ask.excluded_priorities,
        attempts: if ask.attempt <= 1 { 1 } else { attempts(ask) },
        original_dst: origin.client.and_then(|f| destination::original_dst(f, &cluster.0.cluster, ex)),
        wanted: ask.wanted,
        preferred: preferred.as_ref().map(|o| &*o.host),
        strict: preferred.as_ref().is_some_and(|o| o.strict),
        ..PickRequest::default()
    };
    let mut random = || worker.random();
    let part;
    let (cluster, picked) = match entry.config.discovery {
        Discovery::Aggregate(_) => match worker.upstream.pick_aggregate(&cluster.0, &pick, &mut random) {
            Some((inner, host)) => {
                part = Cluster(inner);
                (&part, Some(host))
            }
            None => (cluster, None),
        },
        Discovery::DynamicForwardProxy(_) => (cluster, ask.host.clone()),
        _ => (cluster, cluster.0.pick(&pick, &mut random)),
    };
    let entry = &cluster.0.cluster;
    let http = &entry.config.http;
    let Some(host) = picked else {
        entry.stats.inc(stat::UPSTREAM_CX_NONE_HEALTHY);
        return Err(Refused::NoHost);
    };
    let protocol = match http.protocol {
        UpstreamProtocol::UseDownstream if ex.protocol == Protocol::Http2 => UpstreamProtocol::Http2,
        UpstreamProtocol::UseDownstream => UpstreamProtocol::Http1,
        p => p,
    };
    let speaks = if protocol == UpstreamProtocol::Http2 { Protocol::Http2 } else { ex.protocol };
    let connect = ask.connect;
    let alpn = alpn::for_protocol(ex, if speaks == Protocol::Http2 { speaks } else { Protocol::Http11 });
    let sni = http.auto_sni.then(|| sni(ex, http)).flatten();
    // Bare connections are never shared.
    let key = if connect.is_some() { RAW_KEY } else { key(protocol, alpn.as_deref(), sni.as_deref(), source(origin)) };
    let priority = priority(ask.found);
    match take(cluster, &host, key) {
        Some((up, connection, served)) => match entry.breakers(priority).acquire(Resource::Requests) {
            Some(requests) => Ok(Ok(lease(cluster, worker, host, key, up, connection, served, requests))),
            None => {
                put_back(cluster, worker, &host, key, up, connection, served);
                Err(requests_overflow(entry, priority, &host, false))
            }
        },
        None => {
            let Some(pending) = entry.breakers(priority).acquire(Resource::Pending) else {
                entry.stats.inc(stat::UPSTREAM_RQ_PENDING_OVERFLOW);
                entry.note_breaker(priority, Resource::Pending);
                return Err(Refused::Overflow { host: None, waited: false });
            };
            let cluster = cluster.clone();
            let state = origin.client.map_or_else(Vec::new, |f| ex.state.shared_with_upstream(&f.shared));
            Ok(Err(Ticket { cluster, host, key, protocol, priority, alpn, sni, connect, state, pending }))
        }
    }
}

/// The limit of requests is judged when a connection is there, and counted nowhere, as Envoy's pools do.
fn requests_overflow(entry: &upstream::Cluster, priority: Priority, host: &Arc<Host>, waited: bool) -> Refused {
    if entry.breakers(priority).limit(Resource::Requests) > 0 {
        entry.note_breaker(priority, Resource::Requests);
    }
    Refused::Overflow { host: Some((host.clone(), host.socket())), waited }
}

/// Gives back a connection that served nothing.
fn put_back(
    cluster: &Cluster,
    worker: &Worker,
    host: &Arc<Host>,
    key: PoolKey,
    up: Box<Up>,
    connection: Connection,
    served: u64,
) {
    if let Connection::H1(facts) = connection
        && key != RAW_KEY
    {
        let idle = IdleH1 { up, facts, served, since_ms: worker.timers.now() };
        cluster.0.give(host, key, Pooled::H1(idle));
    }
}

/// An idle connection that is still good.
fn take(cluster: &Cluster, host: &Arc<Host>, key: PoolKey) -> Option<(Box<Up>, Connection, u64)> {
    if let Some(shared) = cluster.0.peek_shared(host, key) {
        let up = Box::new(Up::h2(shared.session.clone()));
        let served = shared.served.get();
        return Some((up, Connection::H2(shared), served));
    }
    loop {
        let Pooled::H1(mut idle) = cluster.0.take(host, key)? else {
            continue;
        };
        if idle.up.is_stale() {
            cluster.stats().inc(stat::UPSTREAM_CX_DESTROY_REMOTE);
            continue;
        }
        if idle.facts.account.is_given_up() {
            continue;
        }
        idle.up.renew();
        return Some((idle.up, Connection::H1(idle.facts), idle.served));
    }
}

/// A request over a new HTTP/1.1 connection.
fn h1_up(stream: tls::Stream, http: &proxy_config::cluster::UpstreamHttp) -> Up {
    let side = Side::H1(H1Side::new(Wire::new(stream), header_case(http.http1.header_case)));
    Up::h1(side, limits(http), http.http1.header_case == proxy_config::hcm::HeaderCase::Preserve)
}

fn limits(http: &proxy_config::cluster::UpstreamHttp) -> Limits {
    Limits { headers: http.common.max_headers_count as usize, ..Limits::default() }
}

trait PeekShared {
    fn peek_shared(&self, host: &Arc<Host>, key: PoolKey) -> Option<Rc<SharedH2>>;
}

impl PeekShared for WorkerCluster<Pooled> {
    fn peek_shared(&self, host: &Arc<Host>, key: PoolKey) -> Option<Rc<SharedH2>> {
        if key & 1 == 0 {
            return None;
        }
        let most = self.cluster.config.http.http2.max_concurrent_streams.map_or(STREAMS_MAX, |n| n as usize);
        let per_connection = max_requests(&self.cluster.config);
        self.peek(host, key, |all| {
            // One that is given up ends with the last of its streams.
            all.retain(|p| !matches!(p, Pooled::H2(s) if !s.session.is_open() || s.facts.account.is_given_up()));
            all.iter().find_map(|p| match p {
                Pooled::H2(s)
                    if s.streams.get() < most
                        && s.session.has_room()
                        && per_connection.is_none_or(|n| s.served.get() < n) =>
                {
                    Some(s.clone())
                }
                _ => None,
            })
        })
    }
}

fn max_requests(config: &proxy_config::cluster::Cluster) -> Option<u64> {
    config
        .max_requests_per_connection
        .or(config.http.common.max_requests_per_connection)
        .filter(|n| *n > 0)
        .map(u64::from)
}

/// Opens a connection for a ticket; when the connection breaker is open, waits until one is free.
///
/// `Overflow` with a host: a connection is there, but the limit of requests is reached.
pub async fn connect(origin: Origin<'_>, ticket: Ticket) -> Result<Lease, Refused> {
    let worker = origin.worker;
    let cluster = &ticket.cluster.clone();
    let entry = &cluster.0.cluster;
    let stats = &entry.stats;
    stats.inc(stat::UPSTREAM_RQ_PENDING_TOTAL);
    stats.gauge_add(stat::UPSTREAM_RQ_PENDING_ACTIVE, 1);
    let _active = Pending(stats);
    let Ticket { host, key, protocol, priority, alpn, sni, connect, state, pending, .. } = ticket;
    let proxied = origin.client.map(|f| (f.remote, f.local));
    let source = source(origin);
    let request = ConnectRequest {
        priority,
        alpn: alpn.as_deref(),
        sni: sni.as_deref(),
        dns_san: sni.as_deref().filter(|_| entry.config.http.auto_san_validation),
        proxied,
        state: &state,
        source,
    };
    let refused = |timeout, reason: Option<Box<str>>| Refused::Connect {
        timeout,
        reason,
        host: host.clone(),
        address: host.socket(),
    };
    telemetry::debug!(pool, "[C{}] creating a new connection to {} of '{}'", origin.id(), host.text, entry.config.name);
    let opened = loop {
        let freed = cluster.0.freed();
        let opened = upstream::connect(entry, &host, &request).await;
        if connect.is_none() && !matches!(&opened, Err(e) if e.overflow) {
            // Counted when it is opened, whatever comes of it; unless the handshake tells what is spoken.
            match protocol {
                UpstreamProtocol::Http2 => stats.inc(stat::UPSTREAM_CX_HTTP2_TOTAL),
                UpstreamProtocol::Auto => {}
                _ => stats.inc(stat::UPSTREAM_CX_HTTP1_TOTAL),
            }
        }
        match opened {
            Ok(c) => break c,
            Err(e) if e.overflow => {
                freed.await;
                if let Some((up, connection, served)) = take(cluster, &host, key) {
                    return admit(cluster, worker, host, key, up, connection, served, priority);
                }
            }
            Err(e) => {
                telemetry::debug!(pool, "[C{}] connect to {} failed: {}", origin.id(), host.text, e.reason);
                stats.inc(stat::UPSTREAM_RQ_PENDING_FAILURE_EJECT);
                entry.report(&host, Outcome::ConnectFailed);
                host.stats.rq_error.fetch_add(1, Relaxed);
                return Err(refused(e.timeout, (!e.transport.is_empty()).then_some(e.transport)));
            }
        }
    };
    drop(pending);
    telemetry::debug!(client, "[C{}] connected to {}", origin.id(), host.text);
    let (stream, facts) = ConnectionFacts::of(opened);
    if let Some(connect) = connect {
        let mut wire = Wire::new(stream);
        if let Some(version) = connect.proxy_protocol {
            let header = upstream::proxy_header(version, request.proxied);
            wire.out(worker).extend_from_slice(&header);
        }
        let up = Box::new(Up::raw(Side::H1(H1Side::new(wire, header_case(entry.config.http.http1.header_case)))));
        return admit(cluster, worker, host, key, up, Connection::H1(Box::new(facts)), 0, priority);
    }
    let h2 = match protocol {
        UpstreamProtocol::Http2 => true,
        UpstreamProtocol::Auto => matches!(stream.alpn(), Some(b"h2" | b"istio-h2")),
        _ => false,
    };
    let http = &entry.config.http;
    if !h2 {
        if protocol == UpstreamProtocol::Auto {
            stats.inc(stat::UPSTREAM_CX_HTTP1_TOTAL);
        }
        let up = Box::new(h1_up(stream, http));
        let lease = admit(cluster, worker, host, key, up, Connection::H1(Box::new(facts)), 0, priority)?;
        if let Some(ratio) = entry.config.preconnect.map(|p| p.per_upstream_ratio).filter(|r| *r > 1.0) {
            destination::preconnect(&lease, ratio, priority, alpn, sni, proxied, source);
        }
        return Ok(lease);
    }
    if protocol == UpstreamProtocol::Auto {
        stats.inc(stat::UPSTREAM_CX_HTTP2_TOTAL);
    }
    let session = Session::new(http2::Options {
        role: http2::Role::Client,
        stream_window: http.http2.initial_stream_window_size.unwrap_or(STREAM_WINDOW_BYTES),
        connection_window: http.http2.initial_connection_window_size.unwrap_or(CONNECTION_WINDOW_BYTES),
        max_streams: 0,
        header_list_bytes_max: RESPONSE_HEADER_BYTES_MAX,
        connect_protocol: false,
    });
    tokio::task::spawn_local(drive(session.clone(), Wire::new(stream), worker.clone()));
    let shared = Rc::new(SharedH2 {
        session: session.clone(),
        facts,
        served: Cell::new(0),
        streams: Cell::new(0),
        since_ms: Cell::new(worker.timers.now()),
    });
    cluster.0.give(&host, key, Pooled::H2(shared.clone()));
    admit(cluster, worker, host, key, Box::new(Up::h2(session)), Connection::H2(shared), 0, priority)
}

/// Leases a connection that was waited for, unless the limit of requests is reached by now.
#[allow(clippy::too_many_arguments)] // The parts of one struct.
fn admit(
    cluster: &Cluster,
    worker: &Rc<Worker>,
    host: Arc<Host>,
    key: PoolKey,
    up: Box<Up>,
    connection: Connection,
    served: u64,
    priority: Priority,
) -> Result<Lease, Refused> {
    let entry = &cluster.0.cluster;
    match entry.breakers(priority).acquire(Resource::Requests) {
        Some(requests) => Ok(lease(cluster, worker, host, key, up, connection, served, requests)),
        None => {
            put_back(cluster, worker, &host, key, up, connection, served);
            Err(requests_overflow(entry, priority, &host, true))
        }
    }
}

struct Pending<'a>(&'a Block<stat::Cluster>);

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.gauge_sub(stat::UPSTREAM_RQ_PENDING_ACTIVE, 1);
    }
}

fn attempts(ask: &Ask<'_>) -> u32 {
    match ask.found.map(|f| &f.route().action) {
        Some(RouteAction::Forward(f)) => f.retry.as_ref().map_or(1, |r| r.host_selection_max_attempts.max(1) + 1),
        _ => 1,
    }
}

fn sni(ex: &Exchange, http: &proxy_config::cluster::UpstreamHttp) -> Option<String> {
    let value = match &http.override_auto_sni_header {
        Some(h) => ex.request.get(h.as_str().as_bytes()).unwrap_or(ex.request.authority()),
        None => ex.request.authority(),
    };
    let host = crate::request::split_port(value).map_or(value, |(h, _)| h);
    let host = std::str::from_utf8(host).ok()?;
    (!host.is_empty() && host.parse::<std::net::IpAddr>().is_err()).then(|| host.to_owned())
}

/// Where upstream connections for this client seem to come from.
fn source(origin: Origin<'_>) -> Option<Source> {
    let facts = origin.client?;
    facts.original_src.map(|mark| Source { address: facts.remote.ip(), mark })
}

/// Connections are shared between requests that would have opened the same one. Bit 0 says that an
/// HTTP/2 connection may be found under the key.
fn key(protocol: UpstreamProtocol, alpn: Option<&[Box<[u8]>]>, sni: Option<&str>, source: Option<Source>) -> PoolKey {
    let h2 = matches!(protocol, UpstreamProtocol::Http2 | UpstreamProtocol::Auto);
    if alpn.is_none() && sni.is_none() && source.is_none() {
        return u64::from(h2);
    }
    let mut hasher = DefaultHasher::new();
    (alpn, sni, source).hash(&mut hasher);
    hasher.finish() << 1 | u64::from(h2)
}

/// Whether an idle connection is to be closed now.
pub fn is_stale(cluster: &upstream::Cluster, pooled: &mut Pooled, now_ms: u64) -> bool {
    let idle_for = cluster.config.http.idle_timeout.map(|d| d.as_millis() as u64).filter(|d| *d > 0);
    match pooled {
        Pooled::H1(c) => {
            if c.up.is_stale() {
                cluster.stats.inc(stat::UPSTREAM_CX_DESTROY_REMOTE);
                return true;
            }
            let idle = idle_for.is_some_and(|d| now_ms >= c.since_ms + d);
            if idle {
                cluster.stats.inc(stat::UPSTREAM_CX_IDLE_TIMEOUT);
            }
            idle || c.facts.is_old(cluster) || c.facts.account.is_given_up()
        }
        Pooled::H2(s) => {
            if s.session.is_open() && s.facts.is_old(cluster) {
                s.session.retire();
            }
            let idle = s.streams.get() == 0 && idle_for.is_some_and(|d| now_ms >= s.since_ms.get() + d);
            if idle {
                cluster.stats.inc(stat::UPSTREAM_CX_IDLE_TIMEOUT);
            }
            idle || !s.session.is_open() && s.streams.get() == 0 || s.facts.account.is_given_up()
        }
    }
}

/// The flag of a dropped request.
pub const DROPPED: ResponseFlags = ResponseFlags::DROP_OVERLOAD;

impl ConnectionFacts {
    /// The connection has lived as long as it may (`max_connection_duration`), which is counted.
    fn is_old(&self, cluster: &upstream::Cluster) -> bool {
        let old = cluster.config.http.common.max_connection_duration.is_some_and(|d| self.account.age() >= d);
        if old {
            cluster.stats.inc(stat::UPSTREAM_CX_MAX_DURATION_REACHED);
        }
        old
    }
}
