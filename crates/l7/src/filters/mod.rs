//! Which HTTP filters are there, and when does each speak? One closed enum; a file per filter.
//!
//! Filters are synchronous. On the way in they run in order, on the way out in reverse, and only those
//! that saw the request see the response. One that must wait returns a [`Step`] saying for what; the
//! stream waits and asks again. Per-request state is in `exchange.filters`, and only if needed.

pub mod alpn;
pub mod buffer;
mod coding;
pub mod compressor;
pub mod cors;
pub mod csrf;
pub mod decompressor;
mod descriptors;
pub mod discovered;
pub mod dynamic_forward_proxy;
pub mod ext_authz;
pub mod ext_proc;
pub mod fault;
mod grpc_calls;
pub mod grpc_http1_bridge;
pub mod grpc_stats;
pub mod grpc_web;
pub mod header_mutation;
pub mod header_to_metadata;
pub mod health_check;
pub mod istio_stats;
pub mod jwt_authn;
pub mod local_ratelimit;
pub mod lua;
pub mod matched;
pub mod on_demand;
pub mod peer_metadata;
mod per_cluster;
pub mod ratelimit;
pub mod rbac;
pub mod set_filter_state;
pub mod set_metadata;
pub mod stateful_session;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use proxy_config::Name;
use proxy_config::common::{DataSource, Value};
use proxy_config::filters::http::{HttpFilterKind, OnDemand};
use proxy_config::filters::{FilterOverride, PerFilter};
use proxy_config::hcm::{Hcm, HttpFilter};

use crate::connection::Conn;
use crate::exchange::Exchange;
use crate::manager::Deps;
use crate::reply::LocalReply;
use crate::stream::Found;
use crate::worker::Worker;

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
    /// Look for the route again, in the table in force now, then call `on_request`.
    Reroute,
    /// Collect the whole body, at most so many bytes, then call `on_body`.
    Body(usize),
    /// Collect the body until it ends or has so many bytes, then call `on_body`; the rest follows later.
    Beginning(usize),
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
    /// `ext_authz`: headers for the response.
    ExtAuthz(ext_authz::Accepted),
    /// `ratelimit`: headers for the response.
    RateLimit(ratelimit::Answered),
    /// `local_ratelimit`: headers for the response.
    LocalRateLimit(local_ratelimit::Left),
    /// `compressor`: what the client accepts, and bodies under compression.
    Compressor(Box<compressor::Wishes>),
    /// `decompressor`: bodies under decompression.
    Decompressor(Box<decompressor::Active>),
    /// `ext_proc`: the conversation.
    ExtProc(Box<ext_proc::Active>),
    /// `lua`: a script that waits for a body.
    Lua(Box<lua::Paused>),
    /// `grpc_http1_bridge`: a call that is bridged.
    Bridge(grpc_http1_bridge::Bridged),
    /// `stateful_session`: a session.
    Session(Box<stateful_session::Session>),
    /// `grpc_stats`: message counts.
    GrpcStats(grpc_stats::Counts),
    /// `grpc_web`: translation in progress.
    GrpcWeb(grpc_web::Translation),
    /// `istio.metadata_exchange`: what the client asked for.
    PeerMetadata(peer_metadata::Asked),
    /// `ExtensionWithMatcher`, `composite`: what the request chose.
    Matched(matched::Chosen),
    /// `on_demand`: what was asked for.
    OnDemand(on_demand::Asked),
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
    name: Name,
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
    GrpcWeb(grpc_calls::Calls),
    Alpn(alpn::Alpn),
    PeerMetadata(Box<peer_metadata::PeerMetadata>),
    IstioStats(Box<crate::istio::Recorder>),
    JwtAuthn(Arc<jwt_authn::JwtAuthn>),
    ExtAuthz(Arc<ext_authz::ExtAuthz>),
    RateLimit(Arc<ratelimit::RateLimit>),
    Compressor(Box<compressor::Compressor>),
    Decompressor(Box<decompressor::Decompressor>),
    HeaderToMetadata(header_to_metadata::HeaderToMetadata),
    SetMetadata(set_metadata::SetMetadata),
    StatefulSession(stateful_session::StatefulSession),
    ExtProc(Arc<ext_proc::ExtProc>),
    Lua(Arc<lua::Lua>),
    Discovered(Box<discovered::Discovered>),
    Matched(Box<matched::Matched>),
    DynamicForwardProxy,
    OnDemand(Arc<OnDemand>),
    HealthCheck(Box<health_check::HealthCheck>),
    GrpcHttp1Bridge(grpc_http1_bridge::GrpcHttp1Bridge),
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
            HttpFilterKind::GrpcStats(c) => Kind::GrpcStats(grpc_stats::GrpcStats::new(c.clone(), deps)),
            HttpFilterKind::GrpcWeb => Kind::GrpcWeb(grpc_calls::Calls::new(deps.store, "grpc-web")),
            HttpFilterKind::Alpn(c) => Kind::Alpn(alpn::Alpn::new(c)),
            HttpFilterKind::PeerMetadata(c) => {
                Kind::PeerMetadata(Box::new(peer_metadata::PeerMetadata::new(c.clone(), &deps.node)))
            }
            HttpFilterKind::IstioStats(c) => {
                Kind::IstioStats(Box::new(crate::istio::Recorder::new(c, deps.direction, &deps.node, deps.store)))
            }
            HttpFilterKind::ExtAuthz(c) => Kind::ExtAuthz(ext_authz::ExtAuthz::new(c.clone(), prefix, deps)),
            HttpFilterKind::RateLimit(c) => Kind::RateLimit(ratelimit::RateLimit::new(c.clone(), deps)),
            HttpFilterKind::HeaderToMetadata(c) => {
                Kind::HeaderToMetadata(header_to_metadata::HeaderToMetadata { config: c.clone() })
            }
            HttpFilterKind::SetMetadata(c) => {
                Kind::SetMetadata(set_metadata::SetMetadata::new(c.clone(), prefix, deps))
            }
            HttpFilterKind::StatefulSession(c) => {
                Kind::StatefulSession(stateful_session::StatefulSession { config: c.clone() })
            }
            HttpFilterKind::ExtProc(c) => Kind::ExtProc(ext_proc::ExtProc::new(c.clone(), prefix, deps)),
            HttpFilterKind::Lua(c) => Kind::Lua(lua::Lua::new(c.clone(), &f.name, prefix, deps)?),
            HttpFilterKind::DynamicForwardProxy(_) => Kind::DynamicForwardProxy,
            HttpFilterKind::OnDemand(c) => Kind::OnDemand(c.clone()),
            HttpFilterKind::HealthCheck(c) => Kind::HealthCheck(Box::new(health_check::HealthCheck::new(c.clone()))),
            HttpFilterKind::GrpcHttp1Bridge { upgrade_protobuf } => {
                Kind::GrpcHttp1Bridge(grpc_http1_bridge::GrpcHttp1Bridge { upgrade_protobuf: *upgrade_protobuf })
            }
            HttpFilterKind::Matched(c) => {
                let make = |kind: &HttpFilterKind| {
                    let filter = HttpFilter { name: f.name.clone(), kind: kind.clone(), disabled: false };
                    Filter::new(&filter, hcm, deps)
                };
                Kind::Matched(Box::new(matched::Matched::new(c.clone(), make)?))
            }
            HttpFilterKind::Discovered(d) => {
                let default = match &d.default {
                    Some(kind) => Some(Arc::new(Filter::new(
                        &HttpFilter { name: f.name.clone(), kind: kind.clone(), disabled: f.disabled },
                        hcm,
                        deps,
                    )?)),
                    None => None,
                };
                Kind::Discovered(Box::new(discovered::Discovered {
                    type_urls: d.type_urls.clone(),
                    current: default.clone().into(),
                    default,
                }))
            }
            HttpFilterKind::JwtAuthn(c) => Kind::JwtAuthn(jwt_authn::JwtAuthn::new(c.clone(), prefix, deps)?),
            HttpFilterKind::UpstreamCodec => Kind::Inert,
            // A filter that is off everywhere needs nobody to run it.
            _ if f.disabled => Kind::Inert,
            HttpFilterKind::Compressor(c) => {
                Kind::Compressor(Box::new(compressor::Compressor::new(c.clone(), prefix, deps)))
            }
            HttpFilterKind::Decompressor(c) => {
                Kind::Decompressor(Box::new(decompressor::Decompressor::new(c.clone(), prefix, deps)))
            }
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

    /// Starts what works ahead of requests. One worker does it for all.
    pub fn start(&self, worker: &Rc<Worker>) {
        if let Kind::Discovered(d) = &self.kind
            && let Some(f) = d.now()
        {
            f.start(worker);
        }
        if let Kind::Matched(m) = &self.kind {
            m.all().for_each(|f| f.start(worker));
        }
        if let Kind::JwtAuthn(f) = &self.kind {
            f.start(worker);
        }
    }

    /// The request head is here.
    pub fn on_request(&self, cx: &FilterCx<'_>, ex: &mut Exchange) -> Step {
        let Some(over) = self.active(cx) else {
            if let Kind::JwtAuthn(f) = &self.kind {
                f.on_disabled();
            }
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
            Kind::GrpcWeb(_) => grpc_web::on_request(ex),
            Kind::Alpn(f) => f.on_request(ex),
            Kind::PeerMetadata(f) => f.on_request(cx, ex),
            Kind::IstioStats(f) => istio_stats::on_request(f, cx.conn, ex),
            Kind::JwtAuthn(f) => f.on_request(cx, ex, over),
            Kind::ExtAuthz(f) => f.on_request(cx, ex, over),
            Kind::RateLimit(f) => f.on_request(cx, ex, over),
            Kind::Compressor(f) => f.on_request(cx, ex, over),
            Kind::Decompressor(f) => f.on_request(ex),
            Kind::HeaderToMetadata(f) => f.on_request(ex, over),
            Kind::SetMetadata(f) => f.on_request(ex),
            Kind::StatefulSession(f) => f.on_request(cx, ex, over),
            Kind::ExtProc(f) => f.on_request(cx, ex, over),
            Kind::Lua(f) => f.on_request(cx, ex, over),
            Kind::Discovered(d) => d.now().map_or_else(discovered::Discovered::missing, |f| f.on_request(cx, ex)),
            Kind::Matched(m) => m.choose(cx, ex).map_or(Step::Continue, |f| f.on_request(cx, ex)),
            Kind::OnDemand(c) => on_demand::on_request(c, cx, ex, over),
            Kind::DynamicForwardProxy => dynamic_forward_proxy::on_request(ex, over),
            Kind::HealthCheck(f) => f.on_request(cx, ex),
            Kind::GrpcHttp1Bridge(f) => f.on_request(ex),
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
            Kind::Discovered(d) => d.now().map_or(Step::Continue, |f| f.on_resume(cx, ex)),
            Kind::Matched(m) => m.chosen(cx.index(), ex).map_or(Step::Continue, |f| f.on_resume(cx, ex)),
            _ => Step::Continue,
        }
    }

    /// Puts another filter in the place of one that is discovered.
    pub fn set_discovered(
        &self,
        type_url: &str,
        kind: &HttpFilterKind,
        hcm: &Hcm,
        deps: &Deps<'_>,
    ) -> Result<(), String> {
        let Kind::Discovered(d) = &self.kind else { return Ok(()) };
        if !d.type_urls.iter().any(|t| **t == *type_url) {
            return Err(format!("Error: filter config has type URL {type_url} but expect {}.", d.type_urls.join(", ")));
        }
        let filter = HttpFilter { name: self.name.clone(), kind: kind.clone(), disabled: self.disabled };
        d.current.store(Some(Arc::new(Filter::new(&filter, hcm, deps)?)));
        Ok(())
    }

    /// Puts the default back, if this is a place for one that is discovered.
    pub fn clear_discovered(&self) {
        if let Kind::Discovered(d) = &self.kind {
            d.current.store(d.default.clone());
        }
    }

    /// Its name, if it is discovered.
    pub fn discovered(&self) -> Option<&str> {
        matches!(self.kind, Kind::Discovered(_)).then_some(&*self.name)
    }

    /// The body that the filter asked for is collected.
    pub fn on_body(&self, cx: &FilterCx<'_>, ex: &mut Exchange) -> Step {
        match &self.kind {
            Kind::ExtAuthz(f) => f.on_body(cx, ex, self.active(cx).flatten()),
            Kind::ExtProc(f) => f.on_body(cx, ex, self.active(cx).flatten()),
            Kind::Lua(f) => f.on_body(ex),
            Kind::Discovered(d) => d.now().map_or(Step::Continue, |f| f.on_body(cx, ex)),
            Kind::Matched(m) => m.chosen(cx.index(), ex).map_or(Step::Continue, |f| f.on_body(cx, ex)),
            Kind::GrpcHttp1Bridge(_) => grpc_http1_bridge::on_body(ex),
            Kind::Buffer(f) => f.on_body(ex),
            _ => Step::Continue,
        }
    }
}

impl Filter {
    /// The filter that acts in this one's place, if it is a place: `Some(None)` when none does.
    #[inline]
    fn stands_for(&self, index: usize, ex: &Exchange) -> Option<Option<Arc<Filter>>> {
        match &self.kind {
            Kind::Discovered(d) => Some(d.now()),
            Kind::Matched(m) => Some(m.chosen(index, ex)),
            _ => None,
        }
    }
}

/// What a data source holds.
fn read_source(source: &DataSource) -> Result<Vec<u8>, String> {
    match source {
        DataSource::Inline(bytes) => Ok(bytes.to_vec()),
        DataSource::File { path, .. } => std::fs::read(&**path).map_err(|e| format!("{path}: {e}")),
        DataSource::Env(name) => {
            std::env::var(&**name).map(String::into_bytes).map_err(|_| format!("no environment variable {name}"))
        }
    }
}

/// Merges entries into a namespace of the dynamic metadata.
pub fn merge_metadata(ex: &mut Exchange, namespace: &'static str, entries: BTreeMap<Name, Value>) {
    merge_metadata_named(ex, namespace.into(), entries);
}

/// The same for a namespace that configuration names.
pub fn merge_metadata_named(ex: &mut Exchange, namespace: Name, entries: BTreeMap<Name, Value>) {
    merge_note(ex, &namespace, Arc::new(entries));
}

/// The same for entries that are kept from request to request: they are shared while the namespace has no others.
pub fn merge_note(ex: &mut Exchange, namespace: &Name, entries: Arc<BTreeMap<Name, Value>>) {
    let entries = match ex.metadata.get(namespace) {
        Some(Value::Struct(old)) => {
            let mut map = (**old).clone();
            map.extend(entries.iter().map(|(k, v)| (k.clone(), v.clone())));
            Arc::new(map)
        }
        _ => entries,
    };
    ex.metadata.set(namespace.clone(), Value::Struct(entries));
}

/// A filter that must wait before the response goes on.
pub struct Wait {
    /// Which one.
    pub index: usize,
    /// What it waits for.
    pub step: Step,
}

impl Filter {
    /// The response body that the filter asked for is collected.
    pub fn on_response_body(&self, index: usize, ex: &mut Exchange, body: &mut Vec<u8>) -> Step {
        match &self.kind {
            Kind::ExtProc(f) => f.on_response_body(ex, body),
            Kind::Lua(f) => f.on_response_body(ex, body),
            Kind::Discovered(d) => d.now().map_or(Step::Continue, |f| f.on_response_body(index, ex, body)),
            Kind::Matched(m) => m.chosen(index, ex).map_or(Step::Continue, |f| f.on_response_body(index, ex, body)),
            Kind::GrpcHttp1Bridge(_) => grpc_http1_bridge::on_response_body(ex, body),
            _ => Step::Continue,
        }
    }
}

/// The response head is here (local or from upstream); filters see it in reverse order. `Some`: one of them
/// must wait, and the others have not seen it.
pub fn on_response(conn: &Conn, found: Option<&Found>, ex: &mut Exchange, end: bool) -> Option<Wait> {
    on_response_below(conn, found, ex, end, conn.manager.filters.len())
}

/// The same for the filters below a number.
pub fn on_response_below(
    conn: &Conn,
    found: Option<&Found>,
    ex: &mut Exchange,
    end: bool,
    below: usize,
) -> Option<Wait> {
    // All of them see the response head, also those that the request never reached.
    for index in (0..below).rev() {
        let told;
        let mut filter = &conn.manager.filters[index];
        if let Some(stands) = filter.stands_for(index, ex) {
            told = stands;
            match &told {
                Some(f) => filter = f,
                None => continue,
            }
        }
        let cx = FilterCx::new(conn, found, index);
        match &filter.kind {
            Kind::Cors(f) => f.on_response(ex),
            Kind::HeaderMutation(f) => {
                if let Some(over) = filter.active(&cx) {
                    f.on_response(&cx, ex, over);
                }
            }
            Kind::GrpcStats(f) => f.on_response(ex),
            Kind::GrpcWeb(_) => grpc_web::on_response(ex, end),
            Kind::PeerMetadata(f) => f.on_response(ex),
            Kind::LocalRateLimit(_) => local_ratelimit::on_response(ex),
            Kind::RateLimit(_) => ratelimit::on_response(ex),
            Kind::Compressor(f) => {
                if let Some(over) = filter.active(&cx) {
                    f.on_response(ex, over, end);
                }
            }
            Kind::Decompressor(f) => f.on_response(ex, end),
            Kind::HeaderToMetadata(f) => {
                if let Some(over) = filter.active(&cx) {
                    f.on_response(ex, over);
                }
            }
            Kind::StatefulSession(_) => stateful_session::on_response(&cx, ex),
            Kind::HealthCheck(f) if filter.active(&cx).is_some() => f.on_response(conn, ex),
            Kind::ExtAuthz(f) => f.on_response(ex),
            Kind::GrpcHttp1Bridge(_) => match grpc_http1_bridge::on_response(ex, end) {
                Step::Continue => {}
                step => return Some(Wait { index, step }),
            },
            Kind::ExtProc(f) => match f.on_response(ex, end) {
                Step::Continue => {}
                step => return Some(Wait { index, step }),
            },
            Kind::Lua(f) => {
                let step = filter.active(&cx).map_or(Step::Continue, |over| f.on_response(&cx, ex, over, end));
                if !matches!(step, Step::Continue) {
                    return Some(Wait { index, step });
                }
            }
            _ => {}
        }
    }
    None
}

/// Response data passes some of the filters.
pub fn pass_response_data(
    conn: &Conn,
    found: Option<&Found>,
    ex: &mut Exchange,
    data: &mut Vec<u8>,
    end: bool,
    range: std::ops::Range<usize>,
) {
    let run = ex.filters_run as usize;
    for index in (range.start.min(run)..range.end.min(run)).rev() {
        let mut filter = &conn.manager.filters[index];
        let told = filter.stands_for(index, ex).flatten();
        if let Some(told) = &told {
            filter = told;
        }
        match &filter.kind {
            Kind::GrpcStats(_) => grpc_stats::on_data(ex, data, false),
            Kind::GrpcWeb(_) => grpc_web::on_response_data(ex, data, end),
            Kind::IstioStats(f) => istio_stats::on_data(f, conn, found, ex),
            Kind::Compressor(f) => f.on_response_data(ex, data, end),
            Kind::Decompressor(f) => f.on_response_data(ex, data),
            _ => {}
        }
    }
}

/// Request data passes.
pub fn on_request_data(conn: &Conn, found: Option<&Found>, ex: &mut Exchange, data: &mut Vec<u8>, end: bool) {
    for (index, mut filter) in conn.manager.filters.iter().enumerate().take(ex.filters_run as usize) {
        let told = filter.stands_for(index, ex).flatten();
        if let Some(told) = &told {
            filter = told;
        }
        match &filter.kind {
            Kind::GrpcStats(_) => grpc_stats::on_data(ex, data, true),
            Kind::GrpcWeb(_) => grpc_web::on_request_data(ex, data, end),
            Kind::IstioStats(f) => istio_stats::on_data(f, conn, found, ex),
            Kind::Compressor(f) => f.on_request_data(ex, data, end),
            Kind::Decompressor(f) => f.on_request_data(ex, data),
            _ => {}
        }
    }
}

/// Response data passes.
pub fn on_response_data(conn: &Conn, found: Option<&Found>, ex: &mut Exchange, data: &mut Vec<u8>, end: bool) {
    pass_response_data(conn, found, ex, data, end, 0..conn.manager.filters.len());
}

/// The exchange is over.
pub fn on_end(conn: &Conn, found: Option<&Found>, ex: &mut Exchange) {
    for (index, mut filter) in conn.manager.filters.iter().enumerate().take(ex.filters_run as usize) {
        let told = filter.stands_for(index, ex).flatten();
        if let Some(told) = &told {
            filter = told;
        }
        match &filter.kind {
            Kind::Fault(f) => f.on_end(ex),
            Kind::GrpcStats(f) => f.on_end(ex),
            Kind::GrpcWeb(calls) => grpc_web::on_end(calls, ex),
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
