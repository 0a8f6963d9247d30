//! How does a TCP proxy serve a connection? Cluster, host, connect, relay, account.
//!
//! Called by `connection` as the terminal filter. Follows `envoy.filters.network.tcp_proxy`.
//! Tunnelling over HTTP is `tunnel`'s.

use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use l7::istio::{End, Kind, KnownPeer, Recorder, Series};
use l7::log::{Logger, loggers};
use proxy_config::Name;
use proxy_config::cluster::Discovery;
use proxy_config::filters::http::Odcds;
use proxy_config::filters::network::{self as config, TcpCluster};
use proxy_config::listener::NetworkFilterKind;
use proxy_config::route::{HashPolicyKind, Priority, SubsetMatch};
use proxy_core::Facts;
use proxy_core::facts::{Bytes, Marks};
use telemetry::access_log::ResponseFlags;
use telemetry::stats::envoy::{cluster as cluster_stat, istio, tcp as stat, tcp_on_demand};
use telemetry::stats::{Block, Store};
use tls::Stream;
use upstream::{Account, Cluster, ConnectError, ConnectRequest, Host, Outcome, PickRequest, Resource, Source, Wish};

use crate::accepted::{About, PeerText, tls_facts};
use crate::filters::{Refusal, TCP_PROXY_CLUSTER};
use crate::listener::{Deps, Listener};
use crate::metadata_exchange::Exchange;
use crate::relay::{Broken, Relay};
use crate::tunnel::{self, Refused};
use crate::worker::Worker;

/// Compiled exchanges kept by one TCP proxy.
const EXCHANGES_MAX: usize = 16;

/// A compiled TCP proxy.
pub struct TcpProxy {
    config: Arc<config::TcpProxy>,
    stats: Block<stat::Tcp>,
    /// Only where clusters are asked for.
    on_demand: Block<tcp_on_demand::TcpOnDemand>,
    loggers: Box<[Logger]>,
    hostname: Arc<l7::Node>,
    store: Arc<Store>,
    /// Compiled exchanges of the clusters met.
    exchanges: Mutex<Vec<(Arc<config::MetadataExchange>, Arc<Exchange>)>>,
}

/// The way to a host.
struct Link {
    stream: Stream,
    cluster: Arc<Cluster>,
    /// Counts the connection, unless others share it.
    _account: Option<Account>,
}

/// Filter state that names the destination of an ORIGINAL_DST cluster.
const ORIGINAL_DST_STATE: &str = "envoy.network.transport_socket.original_dst_address";

fn original_dst(about: &About) -> Option<std::net::SocketAddr> {
    let stated = about.state_text(ORIGINAL_DST_STATE).and_then(|a| a.parse().ok());
    stated.or(about.restored.then_some(about.local))
}

/// The host that the connection names, in filter state or by its SNI, for a dynamic forward proxy cluster.
async fn dynamic_host(about: &About, cluster: &Cluster) -> Option<Arc<Host>> {
    let host = about.state_text("envoy.upstream.dynamic_host").or(about.server_name.as_deref())?;
    let port = about.state_text("envoy.upstream.dynamic_port").and_then(|p| p.parse().ok());
    cluster.dynamic_host(host, port.unwrap_or(about.local.port())).await
}

/// What the access log tells about one connection.
#[derive(Default)]
struct Journal {
    cluster: Option<Arc<Cluster>>,
    cluster_name: Option<Name>,
    host: Option<Arc<Host>>,
    local: Option<std::net::SocketAddr>,
    remote: Option<std::net::SocketAddr>,
    tls: Option<Arc<tls::TlsInfo>>,
    flags: ResponseFlags,
    attempts: u32,
    transport_failure: Box<str>,
    connect_begin: Option<Duration>,
    connect_end: Option<Duration>,
    bytes_up: u64,
    bytes_down: u64,
    /// Who the upstream is (`istio.metadata_exchange` of its cluster).
    peer: Option<Arc<KnownPeer>>,
    /// Bytes of the upstream that came with the exchange.
    early: Vec<u8>,
    reported: Reported,
}

/// What Istio's metrics know already.
#[derive(Clone, Copy, Default)]
struct Reported {
    opened: bool,
    up: u64,
    down: u64,
}

impl TcpProxy {
    /// Compiles it. Errors name what is not supported.
    pub fn new(config: Arc<config::TcpProxy>, deps: &Deps<'_>) -> Result<Self, String> {
        if config.tunneling.as_ref().is_some_and(|t| t.propagate_response_headers || t.propagate_response_trailers) {
            return Err("tcp_proxy: tunneling_config: propagate_response_headers and trailers are not supported".into());
        }
        let scope = format!("tcp.{}.", config.stat_prefix);
        Ok(TcpProxy {
            stats: deps.store.block(&scope),
            on_demand: if config.on_demand.is_some() { deps.store.block(&scope) } else { Block::detached() },
            loggers: loggers(&config.access_logs, deps.targets())?,
            hostname: deps.node.clone(),
            store: deps.store.clone(),
            exchanges: Mutex::default(),
            config,
        })
    }

    /// Serves one connection until it is over. Cancel safe: dropping it closes both sides.
    ///
    /// `recorder`: reports to Istio's metrics now and then, and at the end.
    pub async fn serve(
        &self,
        mut downstream: Stream,
        about: &About,
        worker: &Rc<Worker>,
        listener: &Listener,
        recorder: Option<&Recorder>,
    ) {
        self.stats.inc(stat::DOWNSTREAM_CX_TOTAL);
        // Envoy has this gauge from the first connection on; nothing is ever buffered between wake-ups here.
        self.stats.gauge_add(stat::DOWNSTREAM_CX_RX_BYTES_BUFFERED, 0);
        // Boxed: an HTTP connection's task has room for either, and must stay small.
        let mut journal = Box::<Journal>::default();
        // Boxed: what connecting needs is gone while bytes flow.
        if let Some(link) = Box::pin(self.connect(about, worker, &mut journal)).await {
            self.relay(&mut downstream, link, about, worker, &mut journal, recorder).await;
        }
        if let Some(recorder) = recorder {
            self.report(recorder, about, &mut journal, true);
        }
        self.log(about, worker, listener, &journal);
    }

    /// The cluster for this connection, and the subset wanted there.
    fn cluster<'a>(&'a self, about: &'a About, worker: &Worker) -> (&'a str, Option<&'a SubsetMatch>) {
        let general = self.config.metadata_match.as_ref();
        if let Some(name) = about.state_text(TCP_PROXY_CLUSTER) {
            return (name, general);
        }
        match &self.config.cluster {
            TcpCluster::Cluster(name) => (name, general),
            TcpCluster::Weighted { clusters, total_weight } => {
                let mut at = worker.random() % (*total_weight).max(1);
                for (name, weight, wanted) in clusters {
                    match at.checked_sub(u64::from(*weight)) {
                        None => return (name, wanted.as_ref().or(general)),
                        Some(rest) => at = rest,
                    }
                }
                clusters.last().map_or(("", general), |(name, _, wanted)| (name, wanted.as_ref().or(general)))
            }
        }
    }

    fn hash(&self, about: &About) -> Option<u64> {
        self.config.hash_policy.iter().find_map(|p| match &p.kind {
            HashPolicyKind::SourceIp => Some(proxy_core::hash::xx(about.remote.ip().to_string().as_bytes())),
            HashPolicyKind::FilterState(key) => about.state_text(key).map(|v| proxy_core::hash::xx(v.as_bytes())),
            _ => None,
        })
    }

    /// The exchange that the cluster's connections begin with.
    fn exchange(&self, cluster: &Cluster) -> Option<Arc<Exchange>> {
        let config = cluster.config.filters.iter().find_map(|f| match &f.kind {
            NetworkFilterKind::MetadataExchange(c) => Some(c),
            _ => None,
        })?;
        let mut exchanges = self.exchanges.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, known)) = exchanges.iter().find(|(c, _)| Arc::ptr_eq(c, config)) {
            return Some(known.clone());
        }
        // Clusters come and go: only the newest few matter to one proxy.
        exchanges.truncate(EXCHANGES_MAX - 1);
        let exchange = Arc::new(Exchange::new(config.clone(), &self.hostname, &self.store));
        exchanges.insert(0, (config.clone(), exchange.clone()));
        Some(exchange)
    }

    /// Connects to a host of the cluster, as often as the configuration allows.
    async fn connect(&self, about: &About, worker: &Rc<Worker>, journal: &mut Journal) -> Option<Link> {
        let (name, wanted) = self.cluster(about, worker);
        let cluster = match (worker.upstream.cluster(name), &self.config.on_demand) {
            (None, Some(odcds)) => {
                self.ask(odcds, name, worker).await;
                worker.upstream.cluster(name)
            }
            (cluster, _) => cluster,
        };
        let Some(cluster) = cluster else {
            self.stats.inc(stat::DOWNSTREAM_CX_NO_ROUTE);
            journal.flags.insert(ResponseFlags::NO_CLUSTER_FOUND);
            return None;
        };
        journal.cluster_name = Some(name.into());
        journal.cluster = Some(cluster.cluster.clone());
        let breakers = cluster.cluster.breakers(Priority::Default);
        if breakers.open(Resource::Connections) {
            cluster.cluster.stats.inc(cluster_stat::UPSTREAM_CX_OVERFLOW);
            journal.flags.insert(ResponseFlags::UPSTREAM_OVERFLOW);
            return None;
        }
        let hash = self.hash(about);
        let began = about.began.elapsed();
        journal.connect_begin = Some(began);
        let mut backoff = self.config.backoff.map(|b| b.base);
        loop {
            let request = PickRequest {
                hash,
                original_dst: original_dst(about),
                wanted: wanted.map_or(&[], |w| &**w),
                ..Default::default()
            };
            let mut random = || worker.random();
            let picked = match cluster.cluster.config.discovery {
                Discovery::DynamicForwardProxy(_) => {
                    dynamic_host(about, &cluster.cluster).await.map(|host| (cluster.clone(), host))
                }
                Discovery::Aggregate(_) => worker.upstream.pick_aggregate(&cluster, &request, &mut random),
                _ => cluster.pick(&request, &mut random).map(|host| (cluster.clone(), host)),
            };
            let Some((cluster, host)) = picked else {
                cluster.cluster.stats.inc(cluster_stat::UPSTREAM_CX_NONE_HEALTHY);
                journal.flags.insert(ResponseFlags::NO_HEALTHY_UPSTREAM);
                return None;
            };
            journal.attempts += 1;
            journal.host = Some(host.clone());
            journal.remote = host.socket();
            let request = ConnectRequest {
                proxied: Some((about.remote, about.local)),
                state: &about.shared,
                source: about.original_src.map(|mark| Source { address: about.remote.ip(), mark }),
                ..Default::default()
            };
            let stats = &cluster.cluster.stats;
            match self.link(&cluster.cluster, &host, &request, about, worker, journal).await {
                Ok(mut link) => {
                    if let Some(exchange) = self.exchange(&cluster.cluster) {
                        match exchange.run(&mut link.stream).await {
                            Ok(met) => (journal.peer, journal.early) = (met.peer, met.early),
                            Err(e) => {
                                telemetry::debug!(filter, "[C{}] metadata exchange: {e}", about.id);
                                journal.flags.insert(ResponseFlags::UPSTREAM_CONNECTION_FAILURE);
                                return None;
                            }
                        }
                    }
                    cluster.cluster.report(&host, Outcome::Connected);
                    stats.inc(cluster_stat::UPSTREAM_RQ_TOTAL);
                    journal.connect_end = Some(about.began.elapsed());
                    return Some(link);
                }
                Err(Refused::Connect(e)) => {
                    stats.inc(cluster_stat::UPSTREAM_RQ_PENDING_FAILURE_EJECT);
                    self.failed(&cluster.cluster, &host, e, journal)?;
                }
                Err(Refused::Status(status)) => {
                    stats.inc(cluster_stat::UPSTREAM_RQ_TOTAL);
                    telemetry::debug!(filter, "[C{}] no tunnel through {}: {status}", about.id, host.text);
                    journal.flags.insert(ResponseFlags::UPSTREAM_CONNECTION_FAILURE);
                }
            }
            if journal.attempts >= self.config.max_connect_attempts.max(1) {
                stats.inc(cluster_stat::UPSTREAM_CX_CONNECT_ATTEMPTS_EXCEEDED);
                journal.flags.insert(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
                return None;
            }
            if let (Some(wait), Some(limits)) = (&mut backoff, &self.config.backoff) {
                let jittered = Duration::from_millis(worker.random() % (wait.as_millis() as u64).max(1));
                worker.http.timers.sleep(jittered).await;
                *wait = (*wait * 2).min(limits.max);
            }
        }
    }

    /// Waits until the cluster is there, is known not to be, or the time is up.
    async fn ask(&self, odcds: &Odcds, name: &str, worker: &Worker) {
        self.on_demand.inc(tcp_on_demand::ON_DEMAND_CLUSTER_ATTEMPT);
        let wish = Wish::Cluster { source: odcds.source.clone(), name: name.into() };
        let outcome = match worker.upstream.registry().demand().ask(wish) {
            Some(answer) => tokio::select! {
                // An answer that was dropped is none.
                there = answer => match there.unwrap_or(false) {
                    true => tcp_on_demand::ON_DEMAND_CLUSTER_SUCCESS,
                    false => tcp_on_demand::ON_DEMAND_CLUSTER_MISSING,
                },
                () = worker.http.timers.sleep(odcds.timeout) => tcp_on_demand::ON_DEMAND_CLUSTER_TIMEOUT,
            },
            None => tcp_on_demand::ON_DEMAND_CLUSTER_MISSING,
        };
        self.on_demand.inc(outcome);
    }

    /// A connection to the host, or a tunnel through it.
    async fn link(
        &self,
        cluster: &Arc<Cluster>,
        host: &Arc<Host>,
        request: &ConnectRequest<'_>,
        about: &About,
        worker: &Rc<Worker>,
        journal: &mut Journal,
    ) -> Result<Link, Refused> {
        let cluster_of = cluster.clone();
        let Some(tunneling) = &self.config.tunneling else {
            cluster.stats.inc(cluster_stat::UPSTREAM_RQ_PENDING_TOTAL);
            let c = upstream::connect(cluster, host, request).await.map_err(Refused::Connect)?;
            (journal.local, journal.remote, journal.tls) = (c.local, c.remote.or(journal.remote), c.tls);
            return Ok(Link { stream: c.stream, cluster: cluster_of, _account: Some(c.account) });
        };
        let text = PeerText::of(about.tls.as_deref());
        let facts = about.facts(&text);
        let t = tunnel::open(&worker.tunnels, tunneling, cluster, host, request, &facts).await?;
        (journal.local, journal.remote, journal.tls) = (t.local, t.remote.or(journal.remote), t.tls);
        Ok(Link { stream: t.stream, cluster: cluster_of, _account: None })
    }

    /// Notes a failed attempt. `None`: trying again is pointless.
    fn failed(&self, cluster: &Cluster, host: &Host, e: ConnectError, journal: &mut Journal) -> Option<()> {
        if e.overflow {
            journal.flags.insert(ResponseFlags::UPSTREAM_OVERFLOW);
            return None;
        }
        cluster.report(host, Outcome::ConnectFailed);
        journal.flags.insert(ResponseFlags::UPSTREAM_CONNECTION_FAILURE);
        journal.transport_failure = match (e.timeout, e.transport.is_empty()) {
            (true, _) => "".into(),
            (false, false) => e.transport,
            (false, true) => {
                // Envoy prints strerror's words.
                let words = e.reason.split(" (os error").next().unwrap_or_default();
                if words.starts_with("delayed connect error") {
                    words.into()
                } else {
                    format!("delayed connect error: {words}").into()
                }
            }
        };
        Some(())
    }

    async fn relay(
        &self,
        downstream: &mut Stream,
        link: Link,
        about: &About,
        worker: &Rc<Worker>,
        journal: &mut Journal,
        recorder: Option<&Recorder>,
    ) {
        journal.flags = ResponseFlags::default();
        let Link { stream: mut upstream, cluster, _account } = link;
        cluster.stats.gauge_add(cluster_stat::UPSTREAM_RQ_ACTIVE, 1);
        let timers = &worker.http.timers;
        let timer = timers.timer();
        let ms = |d: Duration| d.as_millis() as u64;
        let idle = self.config.idle_timeout.filter(|d| !d.is_zero()).map(ms);
        let born = timers.at(tokio::time::Instant::from_std(about.began));
        let dies = self.config.max_downstream_connection_duration.map(|d| born + ms(d) + self.jitter(d, worker));
        let mut relay = Relay::default();
        relay.up.begin_with(about.early.clone());
        relay.down.begin_with(std::mem::take(&mut journal.early));
        let report_ms = recorder.map_or(0, |r| r.report_ms);
        let mut report_at = (report_ms > 0).then(|| timers.now() + report_ms);
        let mut last_activity = timers.now();
        let (mut counted_up, mut counted_down) = (0, 0);
        let outcome = std::future::poll_fn(|cx| {
            let polled = relay.poll(cx, downstream, &mut upstream);
            let (up, down) = (relay.up.bytes - counted_up, relay.down.bytes - counted_down);
            let now = timers.now();
            if up + down > 0 {
                last_activity = now;
                self.stats.add(stat::DOWNSTREAM_CX_RX_BYTES_TOTAL, up);
                self.stats.add(stat::DOWNSTREAM_CX_TX_BYTES_TOTAL, down);
                cluster.stats.add(cluster_stat::UPSTREAM_CX_TX_BYTES_TOTAL, up);
                cluster.stats.add(cluster_stat::UPSTREAM_CX_RX_BYTES_TOTAL, down);
                (counted_up, counted_down) = (relay.up.bytes, relay.down.bytes);
            }
            if polled.is_ready() {
                return polled.map(Some);
            }
            if let (Some(recorder), Some(at)) = (recorder, report_at)
                && at <= now
            {
                report_at = Some(now + report_ms);
                (journal.bytes_up, journal.bytes_down) = (relay.up.bytes, relay.down.bytes);
                self.report(recorder, about, journal, false);
            }
            let idle_at = idle.map(|i| last_activity + i);
            let deadline = idle_at.into_iter().chain(dies).chain(report_at).min();
            match deadline {
                Some(at) if at <= now => {
                    let idled = idle_at.is_some_and(|at| at <= now);
                    self.stats.inc(if idled { stat::IDLE_TIMEOUT } else { stat::MAX_DOWNSTREAM_CONNECTION_DURATION });
                    if !idled {
                        journal.flags.insert(ResponseFlags::DURATION_TIMEOUT);
                    }
                    std::task::Poll::Ready(None)
                }
                Some(at) => {
                    timer.arm(at, cx.waker());
                    std::task::Poll::Pending
                }
                None => std::task::Poll::Pending,
            }
        })
        .await;
        match outcome {
            Some(Err(Broken::Downstream(e))) => {
                telemetry::debug!(filter, "[C{}] downstream broke: {e}", about.id);
                destroyed(&cluster, false);
            }
            Some(Err(Broken::Upstream(e))) => {
                telemetry::debug!(filter, "[C{}] upstream broke: {e}", about.id);
                journal.flags.insert(ResponseFlags::UPSTREAM_REMOTE_RESET);
                destroyed(&cluster, true);
                // The client learns that the bytes are not all there.
                downstream.set_reset_on_close();
            }
            Some(Ok(())) => destroyed(&cluster, true),
            None => destroyed(&cluster, false),
        }
        cluster.stats.gauge_sub(cluster_stat::UPSTREAM_RQ_ACTIVE, 1);
        (journal.bytes_up, journal.bytes_down) = (relay.up.bytes, relay.down.bytes);
    }

    fn jitter(&self, d: Duration, worker: &Worker) -> u64 {
        let Some(percent) = self.config.max_downstream_connection_duration_jitter_percent else {
            return 0;
        };
        let span = (d.as_millis() as f64 * percent / 100.0) as u64;
        if span == 0 { 0 } else { worker.random() % span }
    }

    /// Everything known of the connection now.
    fn facts<'a>(&'a self, about: &'a About, journal: &'a Journal, text: &'a Texts) -> Facts<'a> {
        let total = Instant::now().saturating_duration_since(about.began);
        let mut facts = about.facts(&text.downstream);
        facts.marks = Marks {
            upstream_connect_begin: journal.connect_begin,
            upstream_connect_end: journal.connect_end,
            pool_ready: journal.connect_end,
            response_end: Some(total),
            total: Some(total),
            ..Default::default()
        };
        facts.bytes = Bytes {
            received: journal.bytes_up,
            sent: journal.bytes_down,
            downstream_wire_received: journal.bytes_up,
            downstream_wire_sent: journal.bytes_down,
            upstream_wire_received: journal.bytes_down,
            upstream_wire_sent: journal.bytes_up,
            ..Default::default()
        };
        facts.flags = journal.flags;
        facts.attempts = journal.attempts;
        facts.upstream_transport_failure = &journal.transport_failure;
        facts.upstream_local = journal.local;
        facts.upstream_remote = journal.remote;
        facts.upstream_host = journal.remote;
        facts.upstream_tls = journal.tls.as_deref().map(|t| tls_facts(t, &text.upstream));
        facts.hostname = &self.hostname.hostname;
        let name = journal.cluster_name.as_deref().unwrap_or("");
        facts.upstream_cluster_raw = name;
        facts.upstream_cluster =
            journal.cluster.as_ref().and_then(|c| c.config.alt_stat_name.as_deref()).unwrap_or(name);
        facts.cluster_metadata = journal.cluster.as_ref().map(|c| &c.config.metadata);
        if let Some(host) = &journal.host {
            facts.upstream_host_name = &host.hostname;
            facts.host_metadata = Some(&host.metadata);
        }
        facts
    }

    /// Logs a connection that a network filter refused: no host was asked.
    pub fn log_refused(&self, about: &About, worker: &Worker, listener: &Listener, why: &Refusal) {
        self.stats.inc(stat::DOWNSTREAM_CX_TOTAL);
        let mut journal = Journal { flags: why.flags, ..Default::default() };
        if !why.early {
            let (name, _) = self.cluster(about, worker);
            journal.cluster = worker.upstream.cluster(name).map(|c| c.cluster.clone());
            journal.cluster_name = Some(name.into());
        }
        self.log_with(about, worker, listener, &journal, why);
    }

    fn log(&self, about: &About, worker: &Worker, listener: &Listener, journal: &Journal) {
        self.log_with(about, worker, listener, journal, &Refusal::default());
    }

    fn log_with(&self, about: &About, worker: &Worker, listener: &Listener, journal: &Journal, why: &Refusal) {
        if self.loggers.is_empty() && listener.loggers.is_empty() {
            return;
        }
        let text = Texts::of(about, journal);
        let mut facts = self.facts(about, journal, &text);
        facts.response_code_details = why.code_details;
        facts.connection_termination_details = &why.termination_details;
        facts.log_type = "NotSet";
        for logger in &listener.loggers {
            logger.log(&facts, worker.random(), &|| worker.random());
        }
        facts.log_type = "TcpConnectionEnd";
        for logger in &self.loggers {
            logger.log(&facts, worker.random(), &|| worker.random());
        }
    }

    /// Reports what was not reported yet to Istio's TCP metrics.
    fn report(&self, recorder: &Recorder, about: &About, journal: &mut Journal, over: bool) {
        // As Envoy, only once the peer is known or never will be.
        if !over && !journal.reported.opened && !recorder.peer_read(about.peer.is_some(), journal.peer.is_some()) {
            return;
        }
        let text = Texts::of(about, journal);
        let facts = self.facts(about, journal, &text);
        let end = End {
            kind: Kind::Tcp,
            facts: &facts,
            downstream: about.peer.as_ref(),
            upstream: journal.peer.as_ref(),
            grpc_status: None,
        };
        let reported = journal.reported;
        let (up, down) = (journal.bytes_up, journal.bytes_down);
        recorder.record(&end, over, |series| count(series, &reported, (up, down), over));
        journal.reported = Reported { opened: true, up, down };
    }
}

/// Counts in the series of a connection.
fn count(series: &Series, reported: &Reported, (up, down): (u64, u64), over: bool) {
    if let Some(block) = series.first.as_ref().filter(|_| !reported.opened) {
        block.inc(istio::TCP_CONNECTIONS_OPENED_TOTAL);
    }
    if let Some(block) = series.second.as_ref().filter(|_| over) {
        block.inc(istio::TCP_CONNECTIONS_CLOSED_TOTAL);
    }
    if let Some(block) = &series.third {
        block.add(istio::TCP_SENT_BYTES_TOTAL, down - reported.down);
    }
    if let Some(block) = &series.fourth {
        block.add(istio::TCP_RECEIVED_BYTES_TOTAL, up - reported.up);
    }
}

/// Reports a connection that a network filter refused.
pub fn refused(recorder: &Recorder, about: &About) {
    let text = PeerText::of(about.tls.as_deref());
    let facts = about.facts(&text);
    let end =
        End { kind: Kind::Tcp, facts: &facts, downstream: about.peer.as_ref(), upstream: None, grpc_status: None };
    recorder.record(&end, true, |series| count(series, &Reported::default(), (0, 0), true));
}

/// Texts of both ends' certificates.
struct Texts {
    downstream: PeerText,
    upstream: PeerText,
}

impl Texts {
    fn of(about: &About, journal: &Journal) -> Self {
        Texts { downstream: PeerText::of(about.tls.as_deref()), upstream: PeerText::of(journal.tls.as_deref()) }
    }
}

/// Counts the end of an upstream connection; a TCP proxy's always has its one request.
fn destroyed(cluster: &Cluster, by_remote: bool) {
    let stats = &cluster.stats;
    stats.inc(cluster_stat::UPSTREAM_CX_DESTROY_WITH_ACTIVE_RQ);
    if by_remote {
        stats.inc(cluster_stat::UPSTREAM_CX_DESTROY_REMOTE);
        stats.inc(cluster_stat::UPSTREAM_CX_DESTROY_REMOTE_WITH_ACTIVE_RQ);
    } else {
        stats.inc(cluster_stat::UPSTREAM_CX_DESTROY_LOCAL);
        stats.inc(cluster_stat::UPSTREAM_CX_DESTROY_LOCAL_WITH_ACTIVE_RQ);
    }
}
