//! What happens to one request, from its head to its access log line?
//!
//! The story of the connection manager: prepare, find the route, run the filters, let the router
//! forward, answer, account. Both codecs call it; what each step does is in its own file.

use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use http1::HeaderId;
use proxy_config::filters::PerFilter;
use proxy_config::route::{Route, RouteAction, RouteTable, VirtualHost, WeightedCluster};
use telemetry::access_log::ResponseFlags;
use telemetry::stats::envoy::{HCM_CLASSES, LISTENER_HTTP_CLASSES, class, hcm as stat, listener_http};

use crate::connection::Conn;
use crate::debug::Heads;
use crate::decide::{self, Routed};
use crate::down::{Down, ResponseBody};
use crate::exchange::{Exchange, Protocol};
use crate::filters::{self, FilterCx, Step};
use crate::relay::Taps;
use crate::reply::LocalReply;
use crate::router;
use crate::side::{Lost, Piece};
use crate::timers::Timer;
use crate::{facts, hold, pool, redirect, request, response, trace};

/// The route that a request found, and the table it belongs to.
#[derive(Clone)]
pub struct Found {
    /// The table; the request holds it until it ends.
    pub table: Rc<Arc<RouteTable>>,
    /// Index of the virtual host.
    pub vhost: usize,
    /// Index of the route in it.
    pub route: usize,
    /// Index of the weighted cluster, when there is a choice.
    pub weighted: Option<usize>,
}

impl Found {
    /// The virtual host.
    pub fn virtual_host(&self) -> &VirtualHost {
        &self.table.virtual_hosts[self.vhost]
    }

    /// The route.
    pub fn route(&self) -> &Route {
        &self.virtual_host().routes[self.route]
    }

    /// The weighted cluster chosen.
    pub fn weighted(&self) -> Option<&WeightedCluster> {
        let RouteAction::Forward(f) = &self.route().action else {
            return None;
        };
        let proxy_config::route::ClusterSpecifier::Weighted(w) = &f.cluster else {
            return None;
        };
        w.clusters.get(self.weighted?)
    }

    /// Per-filter configuration in force.
    pub fn per_filter(&self) -> &PerFilter {
        self.weighted().map_or(&self.route().per_filter, |w| &w.per_filter)
    }
}

/// Serves one request. `down.close` tells the connection loop whether to go on.
pub async fn serve(conn: &Rc<Conn>, down: &mut Down, ex: &mut Exchange, timer: &Timer) {
    let manager = &conn.manager;
    let stats = &manager.stats;
    stats.inc(stat::DOWNSTREAM_RQ_TOTAL);
    stats.inc(match ex.protocol {
        Protocol::Http2 => stat::DOWNSTREAM_RQ_HTTP2_TOTAL,
        _ => stat::DOWNSTREAM_RQ_HTTP1_TOTAL,
    });
    stats.gauge_add(stat::DOWNSTREAM_RQ_ACTIVE, 1);
    if conn.count_request() {
        stats.inc(stat::DOWNSTREAM_CX_MAX_REQUESTS_REACHED);
        down.close = true;
    }
    ex.stream_id = conn.worker.next_stream_id();
    ex.random = conn.worker.random();
    if !conn.state.is_empty() {
        ex.state = conn.state.clone();
    }
    down.set_method(ex.head_request, ex.request.method() == b"CONNECT");
    telemetry::debug!(
        http,
        "[C{}][S{}] request headers complete (end_stream={}):\n{}",
        conn.facts.id,
        ex.stream_id,
        ex.request_ends_with_head,
        Heads(&ex.request)
    );
    let mut guard = Active { conn, ended: false };
    let mut found = None;
    let outcome = decide_and_forward(conn, down, ex, timer, &mut found).await;
    if let Err(reply) = outcome {
        send_reply(conn, down, ex, reply, found.as_ref(), timer).await;
    }
    guard.ended = true;
    account(conn, down, ex, found.as_ref());
    drop(guard);
}

/// Answers a request that could not even be read, and accounts for it.
pub async fn answer_only(conn: &Rc<Conn>, down: &mut Down, ex: &mut Exchange, reply: LocalReply, timer: &Timer) {
    // What is known of an earlier request on the connection does not hold for this one.
    down.responded = false;
    down.incomplete = true;
    down.set_method(false, false);
    conn.manager.stats.inc(stat::DOWNSTREAM_RQ_TOTAL);
    conn.manager.stats.inc(stat::DOWNSTREAM_RQ_HTTP1_TOTAL);
    conn.manager.stats.gauge_add(stat::DOWNSTREAM_RQ_ACTIVE, 1);
    let guard = Active { conn, ended: true };
    send_reply(conn, down, ex, reply, None, timer).await;
    account(conn, down, ex, None);
    drop(guard);
}

/// Keeps the gauge right even when the stream's future is dropped half-way.
struct Active<'a> {
    conn: &'a Conn,
    ended: bool,
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.conn.manager.stats.gauge_sub(stat::DOWNSTREAM_RQ_ACTIVE, 1);
        if !self.ended {
            self.conn.manager.stats.inc(stat::DOWNSTREAM_RQ_RX_RESET);
        }
    }
}

/// Everything up to the end of the response. `Err`: answer with this instead.
async fn decide_and_forward(
    conn: &Rc<Conn>,
    down: &mut Down,
    ex: &mut Exchange,
    timer: &Timer,
    found: &mut Option<Found>,
) -> Result<(), LocalReply> {
    if let Some(overload) = conn.worker.overload()
        && overload.stop_requests.load(std::sync::atomic::Ordering::Relaxed)
    {
        conn.manager.stats.inc(stat::DOWNSTREAM_RQ_OVERLOAD_CLOSE);
        return Err(LocalReply::text(503, "envoy overloaded", "overload"));
    }
    let mut table = conn.routes();
    let internal_only = table.as_ref().map_or(&[][..], |t| &t.internal_only_headers);
    ex.grpc = is_grpc(ex);
    if let Err(reply) = request::prepare(conn, ex, internal_only) {
        // Envoy looks for a route before this reply; none is found until x-forwarded-proto is there.
        let judged = reply.details == "path_normalization_failed";
        if judged && ex.request.get_id(HeaderId::X_FORWARDED_PROTO).is_some_and(|p| !p.is_empty()) {
            *found = table.as_ref().and_then(|t| find_route(conn, ex, t));
        }
        return Err(reply);
    }
    *found = table.as_ref().and_then(|t| find_route(conn, ex, t));
    if let Some(tracer) = &conn.manager.tracer {
        trace::start(tracer, conn, ex, found.as_ref());
    }
    if ex.upgrade && !upgrade_allowed(conn, ex, found.as_ref()) {
        conn.manager.stats.inc(stat::DOWNSTREAM_RQ_WS_ON_NON_WS_ROUTE);
        let connect_without_route = found.is_none();
        if !connect_without_route {
            let mut reply = LocalReply::bare(403, "upgrade_failed");
            reply.close = true;
            return Err(reply);
        }
    }
    run_filters(conn, down, ex, timer, found, &mut table).await?;
    conn.manager.router_stats.inc(telemetry::stats::envoy::router::RQ_TOTAL);
    let Some(found) = found.as_ref() else {
        if ex.tls_first {
            conn.manager.router_stats.inc(telemetry::stats::envoy::router::RQ_DIRECT_RESPONSE);
            return Err(redirect::to_tls(ex));
        }
        conn.manager.router_stats.inc(telemetry::stats::envoy::router::NO_ROUTE);
        let mut reply = LocalReply::bare(404, "route_not_found");
        reply.flags = ResponseFlags::NO_ROUTE_FOUND;
        reply.close = ex.upgrade;
        return Err(reply);
    };
    router::serve(conn, down, ex, timer, found).await
}

/// Finds the route; also used again when a filter cleared the route cache.
pub fn find_route(conn: &Conn, ex: &mut Exchange, table: &Rc<Arc<RouteTable>>) -> Option<Found> {
    let (vhost, route) = match decide::route(conn, ex, table) {
        Routed::To(vhost, route) => (vhost, route),
        Routed::TlsFirst => {
            ex.tls_first = true;
            return None;
        }
        Routed::Nowhere => return None,
    };
    let mut found = Found { table: table.clone(), vhost, route, weighted: None };
    if let RouteAction::Forward(f) = &found.route().action
        && let proxy_config::route::ClusterSpecifier::Weighted(w) = &f.cluster
    {
        found.weighted = Some(decide::weighted(conn, ex, f, w));
    }
    let route = found.route();
    ex.route_name = (!route.name.is_empty()).then(|| route.name.clone());
    ex.virtual_host = Some(found.virtual_host().name.clone());
    ex.upstream.cluster = decide::cluster_name(&found, ex).filter(|n| pool::cluster(&conn.worker, n).is_some());
    Some(found)
}

fn is_grpc(ex: &Exchange) -> bool {
    ex.request.get_id(HeaderId::CONTENT_TYPE).is_some_and(|t| {
        t.strip_prefix(b"application/grpc").is_some_and(|r| r.is_empty() || r[0] == b'+' || r[0] == b';')
    })
}

fn upgrade_allowed(conn: &Conn, ex: &Exchange, found: Option<&Found>) -> bool {
    let kind: &[u8] = if ex.request.method() == b"CONNECT" && !ex.request.has(HeaderId::PROTOCOL) {
        b"connect"
    } else {
        ex.request.get_id(HeaderId::PROTOCOL).or(ex.request.get_id(HeaderId::UPGRADE)).unwrap_or(b"")
    };
    let matches = |u: &&proxy_config::route::UpgradeConfig| kind.eq_ignore_ascii_case(u.upgrade_type.as_bytes());
    if let Some(RouteAction::Forward(f)) = found.map(|f| &f.route().action)
        && let Some(u) = f.upgrades.iter().find(matches)
    {
        return u.enabled;
    }
    conn.manager.config.upgrades.iter().find(matches).is_some_and(|u| u.enabled)
}

/// Runs the request side of the filter chain.
async fn run_filters(
    conn: &Rc<Conn>,
    down: &mut Down,
    ex: &mut Exchange,
    timer: &Timer,
    found: &mut Option<Found>,
    table: &mut Option<Rc<Arc<RouteTable>>>,
) -> Result<(), LocalReply> {
    for (index, filter) in conn.manager.filters.iter().enumerate() {
        ex.filters_run = index as u16 + 1;
        let cx = FilterCx::new(conn, found.as_ref(), index);
        let mut step = filter.on_request(&cx, ex);
        loop {
            step = match step {
                Step::Continue => break,
                Step::Reply(reply) => return Err(*reply),
                Step::Delay(duration) => {
                    ex.waited = true;
                    wait_or_gone(conn, down, conn.worker.timers.sleep(duration)).await?;
                    let cx = FilterCx::new(conn, found.as_ref(), index);
                    filter.on_resume(&cx, ex)
                }
                Step::Call(call) => {
                    ex.waited = true;
                    let answer = wait_or_gone(conn, down, call).await?;
                    answer(ex)
                }
                Step::Reroute => {
                    *table = conn.routes();
                    *found = table.as_ref().and_then(|t| find_route(conn, ex, t));
                    filter.on_request(&FilterCx::new(conn, found.as_ref(), index), ex)
                }
                Step::Body(limit) => {
                    collect_body(conn, down, ex, timer, limit, false).await?;
                    let cx = FilterCx::new(conn, found.as_ref(), index);
                    filter.on_body(&cx, ex)
                }
                Step::Beginning(limit) => {
                    collect_body(conn, down, ex, timer, limit, true).await?;
                    let cx = FilterCx::new(conn, found.as_ref(), index);
                    filter.on_body(&cx, ex)
                }
            };
        }
        if ex.route_cleared {
            ex.route_cleared = false;
            *found = table.as_ref().and_then(|t| find_route(conn, ex, t));
        }
    }
    Ok(())
}

/// Waits for `work` unless the client goes away first.
pub async fn wait_or_gone<T>(conn: &Conn, down: &mut Down, work: impl Future<Output = T>) -> Result<T, LocalReply> {
    let mut work = Box::pin(work);
    let watch = down.side.received_all();
    std::future::poll_fn(|cx| {
        if let Poll::Ready(v) = work.as_mut().poll(cx) {
            return Poll::Ready(Ok(v));
        }
        if watch && let Poll::Ready(lost) = down.side.poll_gone(cx, &conn.worker) {
            return Poll::Ready(Err(gone(lost)));
        }
        Poll::Pending
    })
    .await
}

/// The outcome when the client went away: nothing can be sent any more.
pub fn gone(lost: Lost) -> LocalReply {
    match lost {
        Lost::Protocol => LocalReply::protocol_error(400, "http1.codec_error"),
        Lost::Reset(_) => LocalReply {
            status: 0,
            flags: ResponseFlags::DOWNSTREAM_REMOTE_RESET,
            details: "http2.remote_reset".into(),
            ..Default::default()
        },
        _ => LocalReply {
            status: 0,
            flags: ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION,
            details: "downstream_remote_disconnect".into(),
            close: true,
            ..Default::default()
        },
    }
}

/// Collects the whole request body in `ex.buffered`, or its `beginning` of `limit` bytes or little more.
async fn collect_body(
    conn: &Conn,
    down: &mut Down,
    ex: &mut Exchange,
    timer: &Timer,
    limit: usize,
    beginning: bool,
) -> Result<(), LocalReply> {
    let worker = &conn.worker;
    let idle = conn.manager.config.stream_idle_timeout.filter(|d| !d.is_zero());
    let mut deadline = idle.map_or(u64::MAX, |d| worker.timers.now() + d.as_millis() as u64);
    std::future::poll_fn(|cx| {
        if down.continue_pending && down.side.poll_flush(cx, worker).is_ready() {
            down.continue_pending = false;
        }
        loop {
            match down.side.poll_piece(cx, false, worker) {
                Poll::Ready(Ok(Piece::Bytes { at, data })) => {
                    ex.bytes_received += data as u64;
                    if !beginning && ex.buffered.len() + data > limit {
                        let mut reply = LocalReply::text(413, "Payload Too Large", "request_payload_too_large");
                        reply.close = true;
                        down.incomplete = true;
                        conn.manager.stats.inc(stat::DOWNSTREAM_RQ_TOO_LARGE);
                        return Poll::Ready(Err(reply));
                    }
                    ex.buffered.extend_from_slice(down.side.bytes(&at));
                    if beginning && ex.buffered.len() >= limit {
                        return Poll::Ready(Ok(()));
                    }
                    if let Some(d) = idle {
                        deadline = worker.timers.now() + d.as_millis() as u64;
                    }
                }
                Poll::Ready(Ok(Piece::End)) => {
                    let _ = down.side.take_trailers(&mut ex.request_trailers);
                    ex.body_collected = true;
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Err(lost)) => return Poll::Ready(Err(gone(lost))),
                Poll::Pending => {
                    if worker.timers.now() >= deadline {
                        conn.manager.stats.inc(stat::DOWNSTREAM_RQ_IDLE_TIMEOUT);
                        return Poll::Ready(Err(idle_timeout(false)));
                    }
                    timer.arm(deadline, cx.waker());
                    return Poll::Pending;
                }
            }
        }
    })
    .await
}

/// Details of an HTTP/2 request with a header name that is not allowed.
pub const UNEXPECTED_UNDERSCORE: &str = "http2.unexpected_underscore";

/// The answer to a stream that was idle for too long.
pub fn idle_timeout(request_complete: bool) -> LocalReply {
    let status = if request_complete { 504 } else { 408 };
    let mut reply = LocalReply::text(status, "stream timeout", "stream_idle_timeout");
    reply.flags = ResponseFlags::STREAM_IDLE_TIMEOUT;
    reply.close = true;
    reply
}

/// Sends a local reply through the response side of the filters.
pub async fn send_reply(
    conn: &Rc<Conn>,
    down: &mut Down,
    ex: &mut Exchange,
    reply: LocalReply,
    found: Option<&Found>,
    timer: &Timer,
) {
    ex.flags.insert(reply.flags);
    ex.details = reply.details.clone();
    telemetry::debug!(
        http,
        "[C{}][S{}] Sending local reply with details {}",
        conn.facts.id,
        ex.stream_id,
        reply.details
    );
    if reply.status == 0 || down.responded {
        // The client is gone, or already has part of a response: all we can do is break off.
        let stats = &conn.manager.stats;
        if reply.status != 0 {
            stats.inc(stat::DOWNSTREAM_RQ_TX_RESET);
        }
        // Envoy counts every end of a stream before its time here, whoever ended it.
        stats.inc(stat::DOWNSTREAM_RQ_RX_RESET);
        down.abort(http2::frame::code::INTERNAL_ERROR);
        return;
    }
    down.at_head = !(reply.after_wait || ex.waited);
    if !down.at_head {
        discard_buffered(conn, down, ex);
    }
    // An upgrade that fails ends its HTTP/1 connection.
    let upgrade = ex.upgrade && matches!(down.side, crate::side::Side::H1(_));
    if reply.close || upgrade || !down.side.received_all() && matches!(down.side, crate::side::Side::H1(_)) {
        down.close = true;
    }
    let grpc = ex.grpc;
    if down.incomplete || !down.side.received_all() {
        early_response(conn, ex);
    }
    let mut has_body = reply.write_head(grpc, ex.head_request, &mut ex.response);
    // A filter's reply follows the route only when that forwards; the router's own always.
    let follows =
        |f: &&Found| matches!(f.route().action, RouteAction::Forward(_)) || reply.details == "direct_response";
    if let Some(found) = found.filter(follows) {
        response::route_headers(conn, ex, found);
    }
    // Filters see the status before gRPC made it 200, routes' formats none.
    ex.status = reply.status;
    if let Some(local) = &conn.manager.config.local_reply {
        has_body = decide::local_reply(conn, ex, local, &reply, has_body);
    } else if has_body {
        ex.buffered.clear();
        ex.buffered.extend_from_slice(reply.body.as_bytes());
    }
    let mut seen_from = conn.manager.filters.len();
    let wait = if reply.direct { None } else { filters::on_response(conn, found, ex, !has_body) };
    let mut body = if has_body { std::mem::take(&mut ex.buffered) } else { Vec::new() };
    if let Some(wait) = wait {
        let source = hold::Source::Local(std::mem::take(&mut body));
        let held = Box::pin(hold::respond(conn, down, found, ex, source, !has_body, wait)).await;
        match held {
            Ok(hold::Held { body: Some(b), seen_from: n }) => {
                has_body = !b.is_empty();
                (body, seen_from) = (b, n);
            }
            // Nobody wanted the body: it is still what it was.
            Ok(hold::Held { body: None, .. }) => body = reply.body.as_bytes().to_vec(),
            Err(other) => return Box::pin(send_reply(conn, down, ex, other, found, timer)).await,
        }
    }
    if ex.taps_response && has_body && !reply.direct {
        filters::pass_response_data(conn, found, ex, &mut body, true, 0..seen_from);
        ex.response_pipe = None;
    }
    response::finish_head(conn, down, ex);
    let kind = if has_body { ResponseBody::Stream { raw: false } } else { ResponseBody::None };
    ex.times.response_begin = Some(conn.worker.now());
    let worker = &conn.worker;
    let sent = down.send_head(&mut ex.response, kind, worker).and_then(|()| {
        if has_body {
            if !ex.head_request {
                ex.bytes_sent += body.len() as u64;
                down.side.send(&body, worker)?;
            }
            down.side.finish(None, worker)?;
        }
        Ok(())
    });
    ex.buffered = body;
    if sent.is_err() {
        down.close = true;
        return;
    }
    flush(conn, down, timer).await;
    ex.times.response_end = Some(conn.worker.now());
}

/// Counts a response that is sent before the request is complete.
pub fn early_response(conn: &Conn, ex: &mut Exchange) {
    conn.manager.stats.inc(stat::DOWNSTREAM_RQ_RESPONSE_BEFORE_RQ_COMPLETE);
    conn.manager.stats.inc(stat::DOWNSTREAM_RQ_RX_RESET);
    if ex.underscore_dropped {
        // Envoy's codec is asked for the cause of the reset, and remembers this.
        ex.fail(ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR, UNEXPECTED_UNDERSCORE);
    }
}

/// Reads what is left of a request body that is already here, so that the connection can be kept.
fn discard_buffered(conn: &Conn, down: &mut Down, ex: &mut Exchange) {
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    match &mut down.side {
        crate::side::Side::H1(s) => {
            while !s.reader.is_done() && !s.wire.buffered().is_empty() {
                match down_piece(s, &mut cx, &conn.worker) {
                    Some(n) => ex.bytes_received += n,
                    None => return,
                }
            }
        }
        side => {
            while let Poll::Ready(Ok(Piece::Bytes { data, .. })) = side.poll_piece(&mut cx, false, &conn.worker) {
                ex.bytes_received += data as u64;
            }
        }
    }
}

fn down_piece(
    s: &mut crate::side::H1Side,
    cx: &mut std::task::Context<'_>,
    worker: &crate::worker::Worker,
) -> Option<u64> {
    match s.poll_piece(cx, false, worker) {
        Poll::Ready(Ok(Piece::Bytes { data, .. })) => Some(data as u64),
        Poll::Ready(Ok(Piece::End)) => Some(0),
        _ => None,
    }
}

/// Flushes what is queued, within the stream idle timeout.
pub async fn flush(conn: &Conn, down: &mut Down, timer: &Timer) {
    let worker = &conn.worker;
    let idle = conn.manager.config.stream_idle_timeout.filter(|d| !d.is_zero());
    let mut deadline = None;
    std::future::poll_fn(|cx| match down.side.poll_flush(cx, worker) {
        Poll::Ready(r) => {
            if r.is_err() {
                down.close = true;
            }
            Poll::Ready(())
        }
        Poll::Pending => {
            if let Some(idle) = idle {
                let now = worker.timers.now();
                let at = *deadline.get_or_insert(now + idle.as_millis() as u64);
                if now >= at {
                    down.close = true;
                    return Poll::Ready(());
                }
                timer.arm(at, cx.waker());
            }
            Poll::Pending
        }
    })
    .await;
}

/// Counts a response by its class; as in Envoy, one that only informs counts like the final one.
pub fn count_response(conn: &Conn, status: u16) {
    let manager = &conn.manager;
    manager.stats.inc(stat::DOWNSTREAM_RQ_COMPLETED);
    class(&manager.stats, &HCM_CLASSES, status);
    manager.listener_stats.inc(listener_http::DOWNSTREAM_RQ_COMPLETED);
    class(&manager.listener_stats, &LISTENER_HTTP_CLASSES, status);
}

/// Counts the finished exchange and writes its access log entries.
fn account(conn: &Rc<Conn>, down: &Down, ex: &mut Exchange, found: Option<&Found>) {
    let manager = &conn.manager;
    let stats = &manager.stats;
    if down.responded {
        ex.status = ex.response.status().unwrap_or(0);
        // Health checks are not traffic.
        if !ex.health_check {
            count_response(conn, ex.status);
        }
    }
    let end = ex.times.response_end.unwrap_or_else(|| conn.worker.now());
    ex.times.response_end = Some(end);
    if let Some(begin) = ex.times.begin {
        stats.record(stat::DOWNSTREAM_RQ_TIME, (end - begin).as_millis() as u64);
    }
    ex.wire = down.wire_bytes(ex);
    if let Some(tracer) = &manager.tracer {
        trace::finish(tracer, conn, ex, found);
    }
    filters::on_end(conn, found, ex);
    log(conn, ex, found);
}

/// Writes the access log entries.
pub fn log(conn: &Conn, ex: &Exchange, found: Option<&Found>) {
    let loggers = &conn.manager.loggers;
    if !loggers.is_empty() {
        let facts = facts::facts(conn, ex, found);
        for logger in loggers {
            logger.log(&facts, ex.random, &|| conn.worker.random());
        }
    }
}

/// The filters that look at body data, as the relay sees them.
pub struct FilterTaps<'a> {
    conn: &'a Conn,
    found: Option<&'a Found>,
    request: bool,
    response: bool,
}

impl<'a> FilterTaps<'a> {
    /// Taps for this exchange's filters.
    pub fn new(conn: &'a Conn, found: Option<&'a Found>, ex: &Exchange) -> Self {
        let mut taps = FilterTaps { conn, found, request: false, response: false };
        taps.refresh(ex);
        taps
    }

    /// Looks again at what filters want; they decide with the heads.
    pub fn refresh(&mut self, ex: &Exchange) {
        self.request = ex.taps_request;
        self.response = ex.taps_response;
    }
}

impl Taps for FilterTaps<'_> {
    fn request(&mut self, ex: &mut Exchange, data: &mut Vec<u8>, end: bool) {
        filters::on_request_data(self.conn, self.found, ex, data, end);
    }

    fn response(&mut self, ex: &mut Exchange, data: &mut Vec<u8>, end: bool) {
        filters::on_response_data(self.conn, self.found, ex, data, end);
    }

    fn wants_request(&self) -> bool {
        self.request
    }

    fn wants_response(&self) -> bool {
        self.response
    }
}
