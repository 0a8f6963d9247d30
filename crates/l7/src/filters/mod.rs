//! Which HTTP filters are there, and when does each speak? One closed enum; a file per filter.
//!
//! Filters are synchronous. On the way in they run in order, on the way out in reverse, and only those
//! that saw the request see the response. One that must wait returns a [`Step`] saying for what; the
//! stream waits and asks again. Per-request state is in `exchange.filters`, and only if needed.

pub mod alpn;
pub mod buffer;
pub mod cors;
pub mod csrf;
pub mod fault;
pub mod grpc_stats;
pub mod grpc_web;
pub mod header_mutation;
pub mod istio_stats;
pub mod local_ratelimit;
pub mod peer_metadata;
pub mod rbac;
pub mod set_filter_state;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use proxy_config::filters::http::HttpFilterKind;
use proxy_config::filters::{FilterOverride, PerFilter};
use proxy_config::hcm::{Hcm, HttpFilter};

use crate::connection::Conn;
use crate::exchange::Exchange;
use crate::manager::Deps;
use crate::reply::LocalReply;
use crate::stream::Found;

/// What a filter wants after it saw a request head.
pub enum Step {
    /// On to the next filter.
    Continue,
    /// Answer with this; later filters do not see the request.
    Reply(Box<LocalReply>),
    /// Wait so long, then call `on_resume`.
    Delay(Duration),
    /// Wait for this call-out; its answer is applied to the exchange and gives the next step.
    Call(Call),
    /// Collect the whole body, at most so many bytes, then call `on_body`.
    Body(usize),
}

/// A call-out in progress.
pub type Call = Pin<Box<dyn Future<Output = Answer>>>;
/// What a call-out does to the exchange when it is back.
pub type Answer = Box<dyn FnOnce(&mut Exchange) -> Step>;

impl Step {
    /// A reply.
    pub fn reply(reply: LocalReply) -> Step {
        Step::Reply(Box::new(reply))
    }
}

/// Per-request state of filters that need some.
pub enum FilterState {
    /// `fault`: a fault is active.
    Fault(fault::Active),
    /// `cors`: the origin was accepted.
    Cors(cors::Accepted),
    /// `grpc_stats`: message counts.
    GrpcStats(grpc_stats::Counts),
    /// `grpc_web`: translation in progress.
    GrpcWeb(grpc_web::Translation),
    /// `istio.metadata_exchange`: what the client asked for.
    PeerMetadata(peer_metadata::Asked),
    /// `istio.stats`: messages reported.
    IstioStats(istio_stats::Progress),
}

/// What a filter may ask about besides the exchange.
pub struct FilterCx<'a> {
    /// The connection.
    pub conn: &'a Conn,
    /// The route, if one was found.
    pub found: Option<&'a Found>,
    index: usize,
}

impl<'a> FilterCx<'a> {
    /// Context of the filter at `index` of the chain.
    pub fn new(conn: &'a Conn, found: Option<&'a Found>, index: usize) -> Self {
        FilterCx { conn, found, index }
    }

    /// What the route says about this filter.
    #[inline]
    pub fn per_route(&self, name: &str) -> Option<&'a FilterOverride> {
        let per: &PerFilter = self.found?.per_filter();
        if per.is_empty() { None } else { per.get(name) }
    }

    /// Position in the chain.
    pub fn index(&self) -> usize {
        self.index
    }
}

/// A filter of a chain.
pub struct Filter {
    name: proxy_config::Name,
    disabled: bool,
    kind: Kind,
}

enum Kind {
    Fault(fault::Fault),
    Cors(cors::Cors),
    Rbac(Box<rbac::Rbac>),
    LocalRateLimit(Box<local_ratelimit::LocalRateLimit>),
    Csrf(csrf::Csrf),
    Buffer(buffer::Buffer),
    HeaderMutation(header_mutation::HeaderMutation),
    SetFilterState(set_filter_state::SetFilterState),
    GrpcStats(grpc_stats::GrpcStats),
    GrpcWeb,
    Alpn(alpn::Alpn),
    PeerMetadata(Box<peer_metadata::PeerMetadata>),
    IstioStats(Box<crate::istio::Recorder>),
    /// Known to the configuration, without effect on requests here.
    Inert,
}

impl Filter {
    /// Compiles a configured filter.
    ///
    /// `Err`: the filter is known to the configuration but not served by this data path.
    pub fn new(f: &HttpFilter, hcm: &Hcm, deps: &Deps<'_>) -> Result<Self, String> {
        let prefix = &hcm.stat_prefix;
        let kind = match &f.kind {
            HttpFilterKind::Fault(c) => Kind::Fault(fault::Fault::new(c.clone(), prefix, deps)),
            HttpFilterKind::Cors => Kind::Cors(cors::Cors::new(prefix, deps)),
            HttpFilterKind::Rbac(c) => Kind::Rbac(Box::new(rbac::Rbac::new(c.clone(), prefix, deps))),
            HttpFilterKind::LocalRateLimit(c) => {
                Kind::LocalRateLimit(Box::new(local_ratelimit::LocalRateLimit::new(c.clone(), deps)))
            }
            HttpFilterKind::Csrf(c) => Kind::Csrf(csrf::Csrf::new(c.clone(), prefix, deps)),
            HttpFilterKind::Buffer(max) => Kind::Buffer(buffer::Buffer { max_bytes: *max as usize }),
            HttpFilterKind::HeaderMutation(c) => {
                Kind::HeaderMutation(header_mutation::HeaderMutation { config: c.clone() })
            }
            HttpFilterKind::SetFilterState(c) => {
                Kind::SetFilterState(set_filter_state::SetFilterState { config: c.clone() })
            }
            HttpFilterKind::GrpcStats(c) => Kind::GrpcStats(grpc_stats::GrpcStats::new(c.clone())),
            HttpFilterKind::GrpcWeb => Kind::GrpcWeb,
            HttpFilterKind::Alpn(c) => Kind::Alpn(alpn::Alpn::new(c)),
            HttpFilterKind::PeerMetadata(c) => {
                Kind::PeerMetadata(Box::new(peer_metadata::PeerMetadata::new(c.clone(), &deps.node)))
            }
            HttpFilterKind::IstioStats(c) => {
                Kind::IstioStats(Box::new(crate::istio::Recorder::new(c, deps.direction, &deps.node, deps.store)))
            }
            HttpFilterKind::UpstreamCodec => Kind::Inert,
            // A filter that is off everywhere needs nobody to run it.
            _ if f.disabled => Kind::Inert,
            // Identity is an acceptable answer to every Accept-Encoding: uncompressed until we compress.
            HttpFilterKind::Compressor(_) => Kind::Inert,
            _ => return Err(format!("HTTP filter {} is not supported yet", f.name)),
        };
        Ok(Filter { name: f.name.clone(), disabled: f.disabled, kind })
    }

    /// The route's word on this filter; `None`: the filter does not run.
    #[inline]
    fn active<'a>(&self, cx: &FilterCx<'a>) -> Option<Option<&'a FilterOverride>> {
        let over = cx.per_route(&self.name);
        match over {
            Some(FilterOverride::Disabled) => None,
            None if self.disabled => None,
            over => Some(over),
        }
    }

    /// The request head is here.
    pub fn on_request(&self, cx: &FilterCx<'_>, ex: &mut Exchange) -> Step {
        let Some(over) = self.active(cx) else {
            return Step::Continue;
        };
        match &self.kind {
            Kind::Fault(f) => f.on_request(cx, ex, over),
            Kind::Cors(f) => f.on_request(cx, ex, over),
            Kind::Rbac(f) => f.on_request(cx, ex, over),
            Kind::LocalRateLimit(f) => f.on_request(cx, ex, over),
            Kind::Csrf(f) => f.on_request(cx, ex, over),
            Kind::Buffer(f) => f.on_request(ex, over),
            Kind::HeaderMutation(f) => f.on_request(cx, ex, over),
            Kind::SetFilterState(f) => f.on_request(cx, ex, over),
            Kind::GrpcStats(f) => f.on_request(ex),
            Kind::GrpcWeb => grpc_web::on_request(ex),
            Kind::Alpn(f) => f.on_request(ex),
            Kind::PeerMetadata(f) => f.on_request(cx, ex),
            Kind::IstioStats(f) => istio_stats::on_request(f, cx.conn, ex),
            Kind::Inert => Step::Continue,
        }
    }

    /// The wait that the filter asked for is over.
    pub fn on_resume(&self, cx: &FilterCx<'_>, ex: &mut Exchange) -> Step {
        match &self.kind {
            Kind::Fault(f) => {
                let over = self.active(cx).flatten();
                f.on_resume(cx, ex, over)
            }
            _ => Step::Continue,
        }
    }

    /// The body that the filter asked for is collected.
    pub fn on_body(&self, _cx: &FilterCx<'_>, ex: &mut Exchange) -> Step {
        match &self.kind {
            Kind::Buffer(f) => f.on_body(ex),
            _ => Step::Continue,
        }
    }
}

/// The response head is here (local or from upstream); filters see it in reverse order.
pub fn on_response(conn: &Conn, found: Option<&Found>, ex: &mut Exchange, end: bool) {
    // All of them see the response head, also those that the request never reached.
    for index in (0..conn.manager.filters.len()).rev() {
        let filter = &conn.manager.filters[index];
        let cx = FilterCx::new(conn, found, index);
        match &filter.kind {
            Kind::Cors(f) => f.on_response(ex),
            Kind::HeaderMutation(f) => {
                if let Some(over) = filter.active(&cx) {
                    f.on_response(&cx, ex, over);
                }
            }
            Kind::GrpcStats(f) => f.on_response(ex),
            Kind::GrpcWeb => grpc_web::on_response(ex, end),
            Kind::LocalRateLimit(f) => f.on_response(ex),
            Kind::PeerMetadata(f) => f.on_response(ex),
            _ => {}
        }
    }
}

/// Request data passes.
pub fn on_request_data(conn: &Conn, found: Option<&Found>, ex: &mut Exchange, data: &mut Vec<u8>, end: bool) {
    for filter in conn.manager.filters.iter().take(ex.filters_run as usize) {
        match &filter.kind {
            Kind::GrpcStats(_) => grpc_stats::on_data(ex, data, true),
            Kind::GrpcWeb => grpc_web::on_request_data(ex, data, end),
            Kind::IstioStats(f) => istio_stats::on_data(f, conn, found, ex),
            _ => {}
        }
    }
}

/// Response data passes.
pub fn on_response_data(conn: &Conn, found: Option<&Found>, ex: &mut Exchange, data: &mut Vec<u8>, end: bool) {
    for filter in conn.manager.filters.iter().take(ex.filters_run as usize).rev() {
        match &filter.kind {
            Kind::GrpcStats(_) => grpc_stats::on_data(ex, data, false),
            Kind::GrpcWeb => grpc_web::on_response_data(ex, data, end),
            Kind::IstioStats(f) => istio_stats::on_data(f, conn, found, ex),
            _ => {}
        }
    }
}

/// The exchange is over.
pub fn on_end(conn: &Conn, found: Option<&Found>, ex: &mut Exchange) {
    for filter in conn.manager.filters.iter().take(ex.filters_run as usize) {
        match &filter.kind {
            Kind::Fault(f) => f.on_end(ex),
            Kind::GrpcStats(f) => f.on_end(conn, ex, found),
            _ => {}
        }
    }
    // These are logs: they see every exchange, also one that an earlier filter ended.
    for filter in conn.manager.filters.iter() {
        if let Kind::IstioStats(f) = &filter.kind {
            istio_stats::on_end(f, conn, found, ex);
        }
    }
}
