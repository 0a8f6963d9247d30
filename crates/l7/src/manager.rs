//! What does one HTTP connection manager configuration need at run time?
//!
//! Built once per filter chain (off the workers), shared by all of them: compiled filters, stats
//! handles, the route source, access log sinks.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;
use http1::{HeaderCase, Limits, RequestOptions, Underscore};
use proxy_config::hcm::{self, Hcm, RouteSource, Underscores};
use proxy_config::listener::TrafficDirection;
use proxy_config::route::RouteTable;
use telemetry::stats::envoy::{hcm as stat, listener_http, router as router_stat};
use telemetry::stats::{Block, Store};

use crate::export::Exports;
use crate::filters::Filter;
use crate::log::{self, Logger};
use crate::trace::Tracer;
use crate::worker::Worker;

/// What a manager takes from the process.
pub struct Deps<'a> {
    /// Stats.
    pub store: &'a Arc<Store>,
    /// Access log files.
    pub sinks: &'a telemetry::access_log::Sinks,
    /// What leaves for collectors.
    pub exports: &'a Arc<Exports>,
    /// Route tables by RDS name: the slot that the subscription fills.
    pub routes: &'a dyn Fn(&str) -> Arc<ArcSwapOption<RouteTable>>,
    /// The listener's stat prefix (`0.0.0.0_8000`), for `listener.<prefix>.http.<stat_prefix>.`.
    pub listener: &'a str,
    /// Facts of this node.
    pub node: Arc<Node>,
    /// The listener's `traffic_direction`.
    pub direction: TrafficDirection,
    /// The listener's `drain_type` is `MODIFY_ONLY`: failing health checks do not drain it.
    pub drain_modify_only: bool,
}

/// Facts of this node, as `--service-node`, `--service-cluster` and the bootstrap give them.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// `node.id`
    pub id: String,
    /// `node.cluster`
    pub cluster: String,
    /// This machine's name.
    pub hostname: String,
    /// `node.locality.zone`
    pub zone: String,
    /// `node.metadata`
    pub metadata: Option<Arc<proxy_config::common::Value>>,
    /// It is to fail health checks (`/healthcheck/fail`).
    pub failing: Arc<AtomicBool>,
}

impl Node {
    /// Whether it is to fail health checks.
    #[inline]
    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }
}

/// The runtime form of an [`Hcm`].
pub struct Manager {
    /// Configuration.
    pub config: Arc<Hcm>,
    /// `http.<stat_prefix>.`
    pub stats: Block<stat::Hcm>,
    /// `listener.<address>.http.<stat_prefix>.`
    pub listener_stats: Block<listener_http::ListenerHttp>,
    /// `http.<stat_prefix>.`: the router's.
    pub router_stats: Block<router_stat::Router>,
    /// HTTP filters in order, without the router.
    pub filters: Box<[Filter]>,
    /// The router's options.
    pub router: Arc<proxy_config::filters::http::Router>,
    /// Access logs.
    pub loggers: Box<[Logger]>,
    /// Codec options.
    pub request_options: RequestOptions,
    /// Header case on the way out to clients.
    pub header_case: HeaderCase,
    /// Address of this node that stands for loopback peers in x-forwarded-for.
    pub local_ip: Option<IpAddr>,
    /// Facts of this node.
    pub node: Arc<Node>,
    /// Some log or header prints the peer's certificate.
    pub needs_peer_pem: bool,
    /// Tracing, when it is configured.
    pub tracer: Option<Box<Tracer>>,
    routes: Routes,
    draining: AtomicBool,
    drain_modify_only: bool,
}

enum Routes {
    Fixed(Arc<RouteTable>),
    Named(Arc<ArcSwapOption<RouteTable>>),
}

impl Manager {
    /// Compiles a configuration. `Err` names a filter that is not served.
    pub fn new(config: Arc<Hcm>, deps: &Deps<'_>) -> Result<Arc<Self>, String> {
        let prefix = format!("http.{}.", config.stat_prefix);
        let routes = match &config.routes {
            RouteSource::Inline(table) => {
                crate::vcluster::open(table, deps.store);
                Routes::Fixed(table.clone())
            }
            RouteSource::Rds { name, .. } => Routes::Named((deps.routes)(name)),
        };
        let listener = format!("listener.{}.http.{}.", deps.listener, config.stat_prefix);
        let mut router = None;
        let mut filters = Vec::new();
        for f in config.filters.iter() {
            if let hcm_filter::Router(r) = &f.kind {
                router = Some(r.clone());
            } else {
                filters.push(Filter::new(f, &config, deps)?);
            }
        }
        Ok(Arc::new(Manager {
            stats: deps.store.block(&prefix),
            listener_stats: deps.store.block(&listener),
            router_stats: deps.store.block(&prefix),
            filters: filters.into(),
            router: router.unwrap_or_else(default_router),
            loggers: log::loggers(
                &config.access_logs,
                log::Targets { sinks: deps.sinks, exports: deps.exports, node: &deps.node },
            )?,
            request_options: request_options(&config),
            header_case: header_case(config.http1.header_case),
            tracer: Tracer::new(&config, deps),
            local_ip: local_ip(),
            node: deps.node.clone(),
            needs_peer_pem: format!("{:?}", config.access_logs).contains("PeerCert)")
                || config
                    .filters
                    .iter()
                    .any(|f| matches!(&f.kind, hcm_filter::ExtAuthz(e) if e.include_peer_certificate)),
            routes,
            draining: AtomicBool::new(false),
            drain_modify_only: deps.drain_modify_only,
            config,
        }))
    }

    /// Brings `cached` up to the route table in force; `None` when RDS has not answered yet.
    pub fn routes(&self, cached: &mut Option<Rc<Arc<RouteTable>>>) {
        match &self.routes {
            Routes::Fixed(table) => {
                if cached.is_none() {
                    *cached = Some(Rc::new(table.clone()));
                }
            }
            Routes::Named(slot) => {
                let now = slot.load();
                match (&*now, &*cached) {
                    (Some(now), Some(old)) if Arc::ptr_eq(now, old) => {}
                    (Some(now), _) => *cached = Some(Rc::new(now.clone())),
                    (None, _) => *cached = None,
                }
            }
        }
    }

    /// Starts what filters do ahead of requests; called by one worker when the chain comes into service.
    pub fn start(&self, worker: &Rc<Worker>) {
        for filter in &self.filters {
            filter.start(worker);
        }
    }

    /// Names of filters that are discovered.
    pub fn discovered(&self) -> impl Iterator<Item = &str> {
        self.filters.iter().filter_map(Filter::discovered)
    }

    /// Puts a discovered filter into force.
    pub fn set_discovered(&self, name: &str, type_url: &str, kind: &hcm_filter, deps: &Deps<'_>) -> Result<(), String> {
        for filter in self.filters.iter().filter(|f| f.discovered() == Some(name)) {
            filter.set_discovered(type_url, kind, &self.config, deps)?;
        }
        Ok(())
    }

    /// Puts the default back into the places of a filter that is discovered no more.
    pub fn clear_discovered(&self, name: &str) {
        self.filters.iter().filter(|f| f.discovered() == Some(name)).for_each(Filter::clear_discovered);
    }

    /// Starts draining the connections of this chain.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether this chain drains. A node that fails health checks drains all of them, as Envoy.
    #[inline]
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed) || (self.node.is_failing() && !self.drain_modify_only)
    }
}

use proxy_config::filters::http::HttpFilterKind as hcm_filter;

fn default_router() -> Arc<proxy_config::filters::http::Router> {
    Arc::new(proxy_config::filters::http::Router {
        dynamic_stats: true,
        start_child_span: false,
        upstream_logs: Arc::new([]),
        suppress_envoy_headers: false,
        strict_check_headers: Box::default(),
        respect_expected_rq_timeout: false,
        suppress_grpc_request_failure_code_stats: false,
    })
}

fn request_options(config: &Hcm) -> RequestOptions {
    RequestOptions {
        limits: Limits {
            head_bytes: (config.max_request_headers_kb as usize) << 10,
            headers: config.common.max_headers_count as usize,
        },
        underscore: match config.common.underscores {
            Underscores::Allow => Underscore::Allow,
            Underscores::RejectRequest => Underscore::Reject,
            Underscores::DropHeader => Underscore::Drop,
        },
        accept_http_10: config.http1.accept_http_10,
        allow_absolute_url: config.http1.allow_absolute_url,
        preserve_case: config.http1.header_case == hcm::HeaderCase::Preserve,
        allow_chunked_length: config.http1.allow_chunked_length,
        allow_custom_methods: config.http1.allow_custom_methods,
    }
}

/// The codec's form of a configured header case.
pub fn header_case(case: hcm::HeaderCase) -> HeaderCase {
    match case {
        hcm::HeaderCase::Lower => HeaderCase::Lower,
        hcm::HeaderCase::ProperCase => HeaderCase::Proper,
        hcm::HeaderCase::Preserve => HeaderCase::Preserve,
    }
}

/// The first address of this host that is not loopback (Envoy's `LocalInfo::address`), as it was at first use.
pub(crate) fn local_ip() -> Option<IpAddr> {
    static ADDRESS: std::sync::OnceLock<Option<IpAddr>> = std::sync::OnceLock::new();
    *ADDRESS.get_or_init(|| {
        // Connecting a datagram socket sends nothing; it asks the kernel which source it would use.
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
        socket.connect("192.0.2.1:9").ok()?;
        socket.local_addr().ok().map(|a| a.ip()).filter(|ip| !ip.is_unspecified())
    })
}
