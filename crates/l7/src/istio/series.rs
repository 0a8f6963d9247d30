//! Where is a request counted? The stat handles of a label set, found again by what the labels were made from.
//!
//! A table per worker maps (filter, peers, cluster, principals, host, status, flags, …) to handles; only the first
//! request of a series makes labels. Two filters with equal configuration share their series, so that an update of a
//! listener does not start the counters anew.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use proxy_config::filters::http::{IstioReporter, IstioStats};
use proxy_config::listener::TrafficDirection;
use proxy_core::Facts;
use proxy_core::istio::{
    Custom, CustomKind, Labels, Local, Metric, Overrides, Reporter, Said, Security, Values, add_end, labels,
};
use telemetry::stats::envoy::{istio as stat, istio_custom};
use telemetry::stats::{Block, Store};

use super::node::{KnownPeer, from_endpoint};

/// Series remembered per worker. Beyond that the table is emptied; series that nobody holds any more are gone from
/// the pages, as Envoy's are when their scope is.
const SERIES_MAX: usize = 20_000;

/// Default interval of TCP and gRPC reports.
const REPORT_MS: u64 = 5_000;

/// The runtime form of one `istio.stats` filter.
#[derive(Debug)]
pub struct Recorder {
    /// Whose view it reports.
    pub reporter: Reporter,
    /// Milliseconds between reports of long streams; 0: only at the end.
    pub report_ms: u64,
    /// The request's host may name the destination service.
    pub host_names_service: bool,
    local: Local,
    overrides: Overrides,
    store: Arc<Store>,
    /// Equal for recorders that make equal labels.
    shape: u64,
    _build: Block<stat::Istio>,
}

/// What kind of thing is counted; each has its own labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A finished request.
    Request {
        /// `grpc`, else `http`.
        grpc: bool,
    },
    /// Messages of a gRPC call.
    Messages,
    /// A connection.
    Tcp,
}

/// What a series is made from.
#[derive(Clone, Copy)]
pub struct End<'a> {
    /// What is counted.
    pub kind: Kind,
    /// Everything known.
    pub facts: &'a Facts<'a>,
    /// The downstream peer.
    pub downstream: Option<&'a Arc<KnownPeer>>,
    /// The upstream peer.
    pub upstream: Option<&'a Arc<KnownPeer>>,
    /// gRPC status, when the call has one.
    pub grpc_status: Option<u32>,
}

/// The handles of one series; what is dropped by the configuration has none.
pub struct Series {
    /// `istio_requests_total`, or `istio_request_messages_total`, or `istio_tcp_connections_opened_total`.
    pub first: Option<Block<stat::Istio>>,
    /// Duration, response messages, connections closed.
    pub second: Option<Block<stat::Istio>>,
    /// Request bytes, bytes sent.
    pub third: Option<Block<stat::Istio>>,
    /// Response bytes, bytes received.
    pub fourth: Option<Block<stat::Istio>>,
    /// Peers are part of the key by address: they live as long as the entry.
    _peers: [Option<Arc<KnownPeer>>; 2],
    _metadata: Option<proxy_config::common::Metadata>,
    used: bool,
}

#[derive(Default)]
struct Table {
    series: HashMap<Box<[u8]>, Series, std::hash::BuildHasherDefault<Fast>>,
    key: Vec<u8>,
    epoch: u64,
}

/// xxHash of the key's bytes: keys are made here, not by peers alone, and the table is bounded.
#[derive(Default)]
struct Fast(u64);

impl Hasher for Fast {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        self.0 = proxy_core::hash::xx(bytes) ^ self.0.rotate_left(17);
    }
}

thread_local! {
    static TABLE: RefCell<Table> = RefCell::default();
}

/// Counts evictions asked for; workers follow at their next report.
static EPOCH: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

/// Asks all workers to forget the series that were not used since the last call (`stats_eviction_interval`).
pub fn evict() {
    EPOCH.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
}

impl Recorder {
    /// Compiles a filter for a listener of that direction.
    pub fn new(config: &IstioStats, direction: TrafficDirection, node: &crate::Node, store: &Arc<Store>) -> Self {
        let reporter = match (config.reporter, direction) {
            (IstioReporter::ServerGateway, _) => Reporter::Gateway,
            (IstioReporter::Unspecified, TrafficDirection::Inbound) => Reporter::Server,
            (IstioReporter::Unspecified, _) => Reporter::Client,
        };
        let metadata = node.metadata.as_deref();
        let mut hasher = DefaultHasher::new();
        (reporter, format!("{:?}{:?}", config.metrics, config.definitions)).hash(&mut hasher);
        let version = metadata.and_then(|m| m.get("ISTIO_VERSION")?.as_str()).filter(|v| !v.is_empty());
        let tags = [("component", "proxy"), ("tag", version.unwrap_or("unknown"))];
        let build: Block<stat::Istio> = store.tagged_block("istiocustom.", &tags);
        build.gauge_set(stat::BUILD, 1);
        Recorder {
            reporter,
            report_ms: config.tcp_reporting_duration.map_or(REPORT_MS, |d| d.as_millis() as u64),
            host_names_service: !config.disable_host_header_fallback,
            local: metadata.map(Local::new).unwrap_or_default(),
            overrides: Overrides::new(config, |why| telemetry::info!(filter, "{why}")),
            store: store.clone(),
            shape: hasher.finish(),
            _build: build,
        }
    }

    /// Whether the peer is known: then a long stream may be reported before its end.
    pub fn peer_read(&self, downstream: bool, upstream: bool) -> bool {
        match self.reporter {
            Reporter::Client => upstream,
            Reporter::Server | Reporter::Gateway => downstream,
        }
    }

    /// Finds the series and lets `count` count in it. Then the configuration's own metrics, if the stream is over.
    pub fn record(&self, end: &End<'_>, over: bool, count: impl FnOnce(&Series)) {
        let values = if self.overrides.is_static() { Values::new() } else { self.overrides.evaluate(end.facts) };
        // The client's fallback: the endpoint's metadata says who it is.
        let endpoint = (self.reporter == Reporter::Client && end.upstream.is_none())
            .then(|| end.facts.host_metadata?.get("istio", &["workload"])?.as_str())
            .flatten()
            .and_then(from_endpoint);
        let upstream = end.upstream.or(endpoint.as_ref());
        TABLE.with_borrow_mut(|table| {
            table.follow_evictions();
            let mut key = std::mem::take(&mut table.key);
            self.key(&mut key, end, upstream, &values);
            if !table.series.contains_key(&*key) {
                if table.series.len() >= SERIES_MAX {
                    telemetry::info!(filter, "more than {SERIES_MAX} series of Istio metrics: starting anew");
                    table.series.clear();
                }
                table.series.insert(key.as_slice().into(), self.open(end, upstream, &values));
            }
            if let Some(series) = table.series.get_mut(&*key) {
                series.used = true;
                count(series);
            }
            table.key = key;
        });
        if over {
            for custom in &self.overrides.custom {
                self.count_custom(custom, &values);
            }
        }
    }

    fn said<'a>(&self, end: &End<'a>, upstream: Option<&'a Arc<KnownPeer>>) -> Said<'a> {
        let f = end.facts;
        let (peer, endpoint, tls) = match self.reporter {
            Reporter::Client => (upstream, None, &f.upstream_tls),
            Reporter::Server => (end.downstream, None, &f.downstream_tls),
            Reporter::Gateway => (end.downstream, upstream, &f.downstream_tls),
        };
        let state = |key| f.metadata.filter_state(key).and_then(|v| std::str::from_utf8(v).ok()).unwrap_or_default();
        let (mut peer_principal, mut local_principal) = match self.reporter {
            Reporter::Client => ("", ""),
            _ => (state("io.istio.peer_principal"), state("io.istio.local_principal")),
        };
        if peer_principal.is_empty()
            && local_principal.is_empty()
            && let Some(tls) = tls
        {
            peer_principal = tls.peer_uri_sans.first().map_or("", String::as_str);
            local_principal = tls.local_uri_sans.first().map_or("", String::as_str);
        }
        let host = || f.request.and_then(|h| std::str::from_utf8(h.get(b":authority")?).ok()).unwrap_or_default();
        Said {
            reporter: self.reporter,
            peer: peer.map(|p| &p.peer),
            endpoint: endpoint.map(|p| &p.peer),
            peer_principal,
            local_principal,
            host: if self.host_names_service { host() } else { "" },
            route: f.route_name,
            cluster: f.upstream_cluster_raw,
            cluster_metadata: f.cluster_metadata,
        }
    }

    fn security(&self, said: &Said<'_>) -> Security {
        match self.reporter {
            Reporter::Client => Security::Unknown,
            _ if !said.peer_principal.is_empty() && !said.local_principal.is_empty() => Security::MutualTls,
            _ => Security::None,
        }
    }

    /// Everything that labels depend on, as bytes.
    fn key(&self, out: &mut Vec<u8>, end: &End<'_>, upstream: Option<&Arc<KnownPeer>>, values: &Values) {
        let said = self.said(end, upstream);
        let f = end.facts;
        let address = |p: Option<&Arc<KnownPeer>>| p.map_or(0, |p| Arc::as_ptr(p) as usize);
        out.clear();
        out.push(match end.kind {
            Kind::Request { grpc: false } => 0,
            Kind::Request { grpc: true } => 1,
            Kind::Messages => 2,
            Kind::Tcp => 3,
        });
        out.extend_from_slice(&self.shape.to_ne_bytes());
        out.extend_from_slice(&address(end.downstream).to_ne_bytes());
        out.extend_from_slice(&address(upstream).to_ne_bytes());
        out.extend_from_slice(&f.cluster_metadata.map_or(0, |m| m.address()).to_ne_bytes());
        out.extend_from_slice(&f.response_code.to_ne_bytes());
        out.extend_from_slice(&end.grpc_status.map_or(u32::MAX, |s| s).to_ne_bytes());
        let texts = [said.peer_principal, said.local_principal, said.host, said.route, said.cluster];
        for text in texts.into_iter().chain(values.iter().map(|v| &**v)) {
            out.extend_from_slice(&(text.len() as u32).to_ne_bytes());
            out.extend_from_slice(text.as_bytes());
        }
        f.flags.write(false, out);
    }

    fn open(&self, end: &End<'_>, upstream: Option<&Arc<KnownPeer>>, values: &Values) -> Series {
        let said = self.said(end, upstream);
        let f = end.facts;
        let mut all = labels(&self.local, &said);
        let flags = || {
            let mut text = Vec::new();
            f.flags.write(false, &mut text);
            String::from_utf8_lossy(&text).into_owned()
        };
        let mut add = |key: &'static str, value: Cow<'static, str>| all.push((Cow::Borrowed(key), value));
        match end.kind {
            Kind::Request { grpc } => {
                add("request_protocol", if grpc { "grpc" } else { "http" }.into());
                add("response_code", f.response_code.to_string().into());
                let status = end.grpc_status.filter(|_| grpc).map(|s| s.to_string());
                add("grpc_response_status", status.unwrap_or_default().into());
                add_end(&mut all, flags(), self.security(&said));
            }
            Kind::Tcp => {
                add("request_protocol", "tcp".into());
                add_end(&mut all, flags(), self.security(&said));
            }
            Kind::Messages => {}
        }
        let metrics = match end.kind {
            Kind::Request { .. } => [
                Some(Metric::Requests),
                Some(Metric::Duration),
                Some(Metric::RequestBytes),
                Some(Metric::ResponseBytes),
            ],
            Kind::Messages => [Some(Metric::RequestMessages), Some(Metric::ResponseMessages), None, None],
            Kind::Tcp => {
                [Some(Metric::TcpOpened), Some(Metric::TcpClosed), Some(Metric::TcpSent), Some(Metric::TcpReceived)]
            }
        };
        let [first, second, third, fourth] =
            metrics.map(|m| m.and_then(|m| self.overrides.apply(m, &all, values)).map(|l| self.block(&l)));
        Series {
            first,
            second,
            third,
            fourth,
            _peers: [end.downstream.cloned(), upstream.cloned()],
            _metadata: f.cluster_metadata.cloned(),
            used: true,
        }
    }

    fn block(&self, labels: &Labels<'_>) -> Block<stat::Istio> {
        let tags: Vec<(&str, &str)> = labels.iter().map(|(k, v)| (&**k, &**v)).collect();
        self.store.tagged_block("istiocustom.", &tags)
    }

    fn count_custom(&self, custom: &Custom, values: &Values) {
        let (labels, value) = self.overrides.custom(custom, values);
        let tags: Vec<(&str, &str)> = labels.iter().map(|(k, v)| (&**k, &**v)).collect();
        let block: Block<istio_custom::IstioCustom> = self.store.tagged_block(&custom.name, &tags);
        match custom.kind {
            CustomKind::Counter => block.add(istio_custom::COUNT, value),
            CustomKind::Gauge => block.gauge_set(istio_custom::LEVEL, value),
            CustomKind::Histogram => block.record(istio_custom::VALUES, value),
        }
        CUSTOM.with_borrow_mut(|kept| {
            if kept.len() >= SERIES_MAX {
                kept.clear();
            }
            kept.insert((custom.name.clone(), labels.into_iter().map(|(k, v)| (k.into(), v.into())).collect()), block);
        });
    }
}

type CustomKey = (Box<str>, Vec<(String, String)>);

thread_local! {
    /// Keeps the blocks of defined metrics alive.
    static CUSTOM: RefCell<HashMap<CustomKey, Block<istio_custom::IstioCustom>>> = RefCell::default();
}

impl Table {
    fn follow_evictions(&mut self) {
        let now = EPOCH.load(std::sync::atomic::Ordering::Relaxed);
        if now != self.epoch {
            self.epoch = now;
            self.series.retain(|_, s| std::mem::take(&mut s.used));
        }
    }
}
