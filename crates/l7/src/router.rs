//! How is a request forwarded, tried again, timed, and its response passed back?
//!
//! Envoy's router filter. One try is: choose a host, get a connection (`pool.rs`), relay both bodies
//! (`relay.rs`) under the deadlines in force. What failed decides whether there is another try.

mod back;
mod target;

use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use http1::{HeaderId, push_decimal};
use proxy_config::route::{DirectResponse, Forward, HostRewrite, RouteAction};
use telemetry::access_log::ResponseFlags;
use telemetry::stats::envoy::{router as router_stat, vhost};

use crate::connection::Conn;
use crate::debug::Heads;
use crate::decide;
use crate::destination;
use crate::down::Down;
use crate::exchange::Exchange;
use crate::pool::{self, Lease};
use crate::redirect;
use crate::relay::{Fault, Relay};
use crate::reply::LocalReply;
use crate::retry::{Failure, Retries};
use crate::shadow::Shadows;
use crate::side::{Lost, Side};
use crate::stream::{self, FilterTaps, Found};
use crate::timeouts::Timeouts;
use crate::timers::Timer;
use crate::trace;
use crate::up::{RequestBody, Up, UpHead};
use crate::vcluster;

pub use target::subset;
use target::{rewrite, set_host, terminates};

/// Request bytes kept for another try when the configuration sets no limit (the default buffer limit).
const REPLAY_BYTES_MAX: usize = 1 << 20;

/// Tries of one request under way at a time (`hedge_on_per_try_timeout`).
const TRIES_MAX: usize = 16;

/// Serves a request whose route is known.
pub async fn serve(
    conn: &Rc<Conn>,
    down: &mut Down,
    ex: &mut Exchange,
    timer: &Timer,
    found: &Found,
) -> Result<(), LocalReply> {
    let stats = &conn.manager.router_stats;
    match &found.route().action {
        RouteAction::Forward(f) => {
            let outcome = forward(conn, down, ex, timer, found, f).await;
            match outcome {
                Err(mut reply) if ex.attempts > 0 && found.virtual_host().include_attempt_count_in_response => {
                    let attempts = ex.attempts.to_string().into_bytes();
                    reply.headers.push(("x-envoy-attempt-count".into(), attempts));
                    Err(reply)
                }
                outcome => outcome,
            }
        }
        RouteAction::Redirect(r) => {
            stats.inc(router_stat::RQ_DIRECT_RESPONSE);
            Err(redirect::reply(conn, ex, found, r))
        }
        RouteAction::Direct(d) => {
            stats.inc(router_stat::RQ_DIRECT_RESPONSE);
            Err(direct(conn, ex, d))
        }
        RouteAction::NonForwarding => Err(LocalReply::bare(404, "route_not_found")),
    }
}

fn direct(conn: &Conn, ex: &mut Exchange, d: &DirectResponse) -> LocalReply {
    let mut reply = LocalReply { status: d.status, details: "direct_response".into(), ..Default::default() };
    if let Some(format) = &d.body_format {
        reply.body = crate::reply::Body::Owned(decide::body_format(conn, ex, format, &d.body));
    } else if !d.body.is_empty() {
        reply.body = crate::reply::Body::Shared(d.body.clone());
    }
    reply
}

/// The deadlines of a forwarded request, in the worker's milliseconds.
struct Deadlines {
    /// Whole response.
    global: u64,
    /// This try.
    per_try: u64,
    per_try_for: u64,
    /// Stream idle.
    idle: u64,
    idle_for: u64,
    /// Whole stream.
    stream: u64,
}

const NEVER: u64 = u64::MAX;

impl Deadlines {
    fn next(&self) -> u64 {
        self.global.min(self.per_try).min(self.idle).min(self.stream)
    }
}

/// How a try ended.
enum Tried {
    /// The response was passed back completely.
    Done,
    /// A response head came that is not to be passed back: there is another try.
    Again(Option<Duration>),
    /// The try failed before a response head was passed back.
    Failed(Failure),
    /// The response is an internal redirect to follow.
    Redirected,
}

async fn forward(
    conn: &Rc<Conn>,
    down: &mut Down,
    ex: &mut Exchange,
    timer: &Timer,
    found: &Found,
    f: &Forward,
) -> Result<(), LocalReply> {
    let worker = &conn.worker;
    let Some(name) = decide::cluster_name(found, ex) else {
        return Err(no_cluster(conn, f));
    };
    let Some(cluster) = pool::cluster(worker, &name) else {
        return Err(no_cluster(conn, f));
    };
    telemetry::debug!(
        router,
        "[C{}][S{}] cluster '{name}' match for URL '{}'",
        conn.facts.id,
        ex.stream_id,
        String::from_utf8_lossy(ex.request.path())
    );
    ex.upstream.cluster = Some(name);
    if pool::dropped(&cluster, worker) {
        let mut reply = LocalReply::text(503, "drop overload", "drop_overload");
        reply.flags = pool::DROPPED;
        return Err(reply);
    }
    ex.request.remove_id(HeaderId::X_ENVOY_UPSTREAM_ALT_STAT_NAME);
    let timeouts = Timeouts::read(conn, ex, f);
    let of = found.virtual_host().virtual_clusters.iter().find(|c| decide::headers_match(&c.headers, &ex.request));
    ex.virtual_cluster = of.filter(|c| !c.catch_all).map(|c| c.name.clone());
    ex.vcluster = of.and_then(vcluster::counts);
    rewrite(conn, ex, found, f);
    timeouts.write(ex, &conn.manager.router);
    let vhost = found.virtual_host();
    let hedges = hedges(ex, f);
    let mut retries = Retries::new(conn, ex, f, &cluster);
    let mut shadows = Shadows::draw(conn, ex, f);
    if !shadows.is_empty() && (ex.request_ends_with_head || ex.body_collected) {
        shadows.start(conn, ex, found, f, &ex.buffered);
    }
    let began = worker.timers.at(ex.times.begin.unwrap_or_else(|| worker.now()));
    let idle_for = f.idle_timeout.or(conn.manager.config.stream_idle_timeout).map_or(0, |d| d.as_millis() as u64);
    let mut deadlines = Deadlines {
        global: NEVER,
        per_try: NEVER,
        per_try_for: timeouts.per_try.map_or(0, |d| d.as_millis() as u64),
        idle: NEVER,
        idle_for,
        stream: NEVER,
    };
    if let Some(d) = timeouts.stream {
        deadlines.stream = began + d.as_millis() as u64;
    }
    // The route timeout runs from the moment the request is complete.
    let global_for = timeouts.global.map_or(0, |d| d.as_millis() as u64);
    if global_for > 0 && ex.request_ends_with_head {
        deadlines.global = began + global_for;
    }
    let mut relay = Relay::default();
    if retries.possible() || f.internal_redirect.is_some() || !shadows.is_empty() {
        relay.replay_bytes_max = decide::replay_limit(found).unwrap_or(REPLAY_BYTES_MAX);
    }
    let hash = decide::hash(conn, ex, f);
    let mut earlier = Vec::new();
    let mut under_way = None;
    loop {
        if under_way.is_none() {
            ex.attempts += 1;
            if vhost.include_request_attempt_count {
                let mut digits = Vec::with_capacity(4);
                push_decimal(&mut digits, ex.attempts as u64);
                ex.request.set_id(HeaderId::X_ENVOY_ATTEMPT_COUNT, &digits);
            }
            if vhost.include_is_timeout_retry_header && retries.last_was_timeout() {
                ex.request.set_id(HeaderId::X_ENVOY_IS_TIMEOUT_RETRY, b"true");
            }
            if let Some(tracer) = &conn.manager.tracer {
                trace::inject(tracer, conn, ex);
            }
        }
        let tried = {
            let mut attempt = Attempt {
                conn,
                down: &mut *down,
                timer,
                found,
                cluster: &cluster,
                relay: &mut relay,
                deadlines: &mut deadlines,
                global_for,
                retries: &mut retries,
                hash,
                hedges,
                earlier: &mut earlier,
            };
            match under_way.take() {
                None => attempt.run(ex).await,
                Some(lease) => attempt.conclude(ex, lease).await,
            }
        };
        // Copies go out with the complete request, whatever becomes of it.
        if !shadows.is_empty() && relay.request_done && !relay.replay_lost {
            shadows.start(conn, ex, found, f, &ex.buffered);
        }
        let backoff = match tried {
            Tried::Done => return Ok(()),
            Tried::Redirected => {
                // The caller's table is searched anew with the rewritten request.
                return Box::pin(redirect::follow(conn, down, ex, timer, found)).await;
            }
            Tried::Again(after) => after,
            Tried::Failed(failure) => {
                if down.responded {
                    return Err(failure.reply(ex));
                }
                if relay.replay_lost || failure.final_for_client() {
                    return Err(give_up(conn, &cluster, &retries, failure, ex));
                }
                match retries.after_failure(conn, ex, &failure) {
                    Some(wait) => Some(wait),
                    None => {
                        // Tries that are overdue may still succeed.
                        under_way = earlier.pop();
                        if under_way.is_some() {
                            continue;
                        }
                        return Err(give_up(conn, &cluster, &retries, failure, ex));
                    }
                }
            }
        };
        relay.request_done = false;
        deadlines.per_try = NEVER;
        if let Some(wait) = backoff.filter(|d| !d.is_zero()) {
            pause(conn, down, timer, wait, deadlines.next()).await?;
        }
        let now = worker.timers.now();
        if now >= deadlines.global {
            return Err(Failure::GlobalTimeout.reply(ex));
        }
    }
}

/// Whether a try that is overdue goes on beside the next one.
fn hedges(ex: &mut Exchange, f: &Forward) -> bool {
    let by_policy = f.hedge.as_ref().is_some_and(|h| h.hedge_on_per_try_timeout);
    match ex.request.get_id(HeaderId::X_ENVOY_HEDGE_ON_PER_TRY_TIMEOUT) {
        Some(b"true") => true,
        Some(b"false") => false,
        _ => by_policy,
    }
}

fn give_up(conn: &Conn, cluster: &pool::Cluster, retries: &Retries, failure: Failure, ex: &mut Exchange) -> LocalReply {
    let ours = matches!(failure, Failure::Filter(_));
    let mut reply = retries.give_up(failure, ex);
    if conn.manager.router.suppress_envoy_headers {
        reply.headers.clear();
    }
    // What a filter answers is not the cluster's.
    if reply.status >= 500 && !ours {
        cluster.charge_local(ex, reply.status);
    }
    reply
}

fn no_cluster(conn: &Conn, f: &Forward) -> LocalReply {
    conn.manager.router_stats.inc(router_stat::NO_CLUSTER);
    let mut reply = LocalReply::bare(f.cluster_not_found_status, "cluster_not_found");
    reply.flags = ResponseFlags::NO_CLUSTER_FOUND;
    reply
}

/// Sleeps before another try, unless the client goes or the request's time is up.
async fn pause(conn: &Conn, down: &mut Down, timer: &Timer, wait: Duration, limit: u64) -> Result<(), LocalReply> {
    let worker = &conn.worker;
    let until = (worker.timers.now() + wait.as_millis() as u64).min(limit);
    std::future::poll_fn(|cx| {
        if worker.timers.now() >= until {
            return Poll::Ready(Ok(()));
        }
        if down.side.received_all()
            && let Poll::Ready(lost) = down.side.poll_gone(cx, worker)
        {
            return Poll::Ready(Err(stream::gone(lost)));
        }
        timer.arm(until, cx.waker());
        Poll::Pending
    })
    .await
}

/// Looks at tries that are overdue: the first that has a response head, and its number. Those that broke off are gone.
#[cold]
fn poll_earlier(
    cx: &mut std::task::Context<'_>,
    earlier: &mut Vec<Lease>,
    ex: &mut Exchange,
    worker: &crate::worker::Worker,
) -> Option<(UpHead, Option<usize>)> {
    let mut index = 0;
    while index < earlier.len() {
        let up: &mut Up = &mut earlier[index].up;
        // A failure to send shows when the head is asked for.
        let _ = up.side.poll_flush(cx, worker);
        match up.poll_head(cx, &mut ex.response, worker) {
            Poll::Ready(Ok(head)) if head.status / 100 == 1 && head.status != 101 => {}
            Poll::Ready(Ok(head)) => return Some((head, Some(index))),
            Poll::Ready(Err(lost)) => {
                let mut gone = earlier.swap_remove(index);
                let failure = Failure::Upstream { lost, answered: gone.up.answered, reused: gone.reused };
                gone.up.reset();
                gone.fail(ex, &failure);
            }
            Poll::Pending => index += 1,
        }
    }
    None
}

/// One try.
struct Attempt<'a> {
    conn: &'a Rc<Conn>,
    down: &'a mut Down,
    timer: &'a Timer,
    found: &'a Found,
    cluster: &'a pool::Cluster,
    relay: &'a mut Relay,
    deadlines: &'a mut Deadlines,
    global_for: u64,
    retries: &'a mut Retries,
    hash: Option<u64>,
    hedges: bool,
    /// Tries that are overdue and go on.
    earlier: &'a mut Vec<Lease>,
}

impl Attempt<'_> {
    async fn run(&mut self, ex: &mut Exchange) -> Tried {
        let worker = self.conn.worker.clone();
        ex.times.connect_begin = Some(worker.now());
        let mut lease = match self.checkout(ex).await {
            Ok(lease) => lease,
            Err(tried) => return tried,
        };
        lease.note(ex);
        if let Some(counts) = &ex.vcluster {
            counts.inc(vhost::UPSTREAM_RQ_TOTAL);
        }
        self.retries.note_host(Some((&lease.host().text, lease.host().priority)));
        telemetry::debug!(
            router,
            "[C{}][S{}] router decoding headers:\n{}",
            self.conn.facts.id,
            ex.stream_id,
            Heads(&ex.request)
        );
        self.auto_host(ex, &lease);
        if let Err(lost) = self.send_head(ex, &mut lease) {
            let reused = lease.reused;
            lease.retire();
            let failure = Failure::Upstream { lost, answered: false, reused };
            lease.fail(ex, &failure);
            return Tried::Failed(failure);
        }
        ex.times.upstream_begin = Some(worker.now());
        if self.deadlines.per_try_for > 0 {
            self.deadlines.per_try = worker.timers.now() + self.deadlines.per_try_for;
        }
        self.conclude(ex, lease).await
    }

    /// Waits for the response of a try that is sent, or of an earlier one, and passes it back.
    async fn conclude(&mut self, ex: &mut Exchange, mut lease: Lease) -> Tried {
        let worker = self.conn.worker.clone();
        let head = loop {
            let (head, from) = match self.await_head(ex, &mut lease).await {
                Ok(found) => found,
                Err(Failure::PerTryTimeout) if self.may_hedge(ex) => {
                    lease.overdue();
                    self.deadlines.per_try = NEVER;
                    match self.retries.hedge(self.conn, ex) {
                        Some(wait) => {
                            lease.hedged = true;
                            self.earlier.push(lease);
                            return Tried::Again(Some(wait));
                        }
                        None => continue,
                    }
                }
                Err(failure) => {
                    lease.up.reset();
                    lease.fail(ex, &failure);
                    return Tried::Failed(failure);
                }
            };
            if let Some(index) = from {
                let first = self.earlier.swap_remove(index);
                self.earlier.push(std::mem::replace(&mut lease, first));
                lease.note_again(ex);
            }
            ex.times.upstream_first = Some(worker.now());
            telemetry::debug!(
                router,
                "[C{}][S{}] upstream headers complete: end_stream={}",
                self.conn.facts.id,
                ex.stream_id,
                head.ends
            );
            // While other tries are under way, a bad response is not the last word.
            let others = !self.earlier.is_empty() && self.retries.unwanted(ex, head.status);
            if from.is_none() || !others {
                self.deadlines.per_try = NEVER;
            }
            let again = match self.relay.replay_lost || lease.hedged {
                true => None,
                false => self.retries.after_head(self.conn, ex, head.status),
            };
            let dropped = again.is_none() && others;
            lease.answered(ex, head.status, again.is_some() || dropped, self.cluster);
            if let Some(wait) = again {
                lease.abandon(ex, head.ends);
                return Tried::Again(Some(wait));
            }
            match dropped.then(|| self.earlier.pop()).flatten() {
                Some(other) => {
                    other.note_again(ex);
                    std::mem::replace(&mut lease, other).abandon(ex, head.ends);
                }
                None => break head,
            }
        };
        self.earlier.drain(..).for_each(|late| late.abandon(ex, false));
        if redirect::wanted(self.conn, ex, self.found, self.relay) {
            lease.abandon(ex, head.ends);
            return Tried::Redirected;
        }
        self.pass_back(ex, lease, head).await
    }

    /// Gets a connection, new or reused, while watching the client and the clock.
    async fn checkout(&mut self, ex: &mut Exchange) -> Result<Lease, Tried> {
        let ask = pool::Ask {
            hash: self.hash,
            attempt: ex.attempts,
            avoid: self.retries.tried_hosts(),
            omit: self.retries.omitted(),
            excluded_priorities: self.retries.excluded_priorities(),
            found: Some(self.found),
            connect: terminates(self.found, ex),
            host: if self.cluster.is_dynamic() {
                Box::pin(destination::dynamic_host(self.cluster, ex)).await
            } else {
                None
            },
            wanted: subset(self.found),
        };
        let ticket = match pool::try_checkout((&**self.conn).into(), self.cluster, ex, &ask) {
            Ok(Ok(lease)) => return Ok(lease),
            Ok(Err(ticket)) => ticket,
            Err(refused) => {
                refused.note(ex);
                return Err(Tried::Failed(Failure::Pool(refused)));
            }
        };
        let worker = self.conn.worker.clone();
        if self.down.continue_pending {
            let _ = std::future::poll_fn(|cx| self.down.side.poll_flush(cx, &worker)).await;
            self.down.continue_pending = false;
        }
        let mut connect = Box::pin(pool::connect((&**self.conn).into(), ticket));
        let (global, stream) = (self.deadlines.global, self.deadlines.stream);
        let (limit, complete) = (global.min(stream), self.relay.request_done);
        let watch = self.down.side.received_all();
        let (down, timer) = (&mut *self.down, self.timer);
        let outcome = std::future::poll_fn(|cx| {
            if let Poll::Ready(r) = connect.as_mut().poll(cx) {
                return Poll::Ready(r.map_err(Failure::Pool));
            }
            if watch && let Poll::Ready(lost) = down.side.poll_gone(cx, &worker) {
                return Poll::Ready(Err(Failure::Client(lost)));
            }
            if limit != NEVER {
                let now = worker.timers.now();
                if now >= limit {
                    return Poll::Ready(Err(Failure::expired(now, global, NEVER, stream, complete)));
                }
                timer.arm(limit, cx.waker());
            }
            Poll::Pending
        })
        .await;
        drop(connect);
        match outcome {
            Ok(lease) => Ok(lease),
            Err(f) => {
                if let Failure::Pool(refused) = &f {
                    self.retries.note_host(refused.host());
                    refused.note(ex);
                }
                Err(Tried::Failed(f))
            }
        }
    }

    /// `auto_host_rewrite`: the authority becomes the chosen host's name.
    fn auto_host(&self, ex: &mut Exchange, lease: &Lease) {
        if let RouteAction::Forward(f) = &self.found.route().action
            && matches!(f.host_rewrite, HostRewrite::Auto)
            && !lease.hostname().is_empty()
        {
            set_host(self.conn, ex, lease.hostname().as_bytes(), f.append_x_forwarded_host);
        }
    }

    fn send_head(&mut self, ex: &mut Exchange, lease: &mut Lease) -> Result<(), Lost> {
        let worker = &self.conn.worker;
        let taps = ex.taps_request;
        let replays = self.relay.replay_bytes_max > 0;
        let body = if ex.upgrade {
            RequestBody::Tunnel
        } else if ex.request_ends_with_head {
            RequestBody::None
        } else {
            let raw = self.down.side.receives_chunked()
                && matches!(lease.up.side, Side::H1(_))
                && !lease.up.raw
                && !ex.request.has(HeaderId::CONTENT_LENGTH)
                && !taps
                && !replays
                && ex.buffered.is_empty();
            self.relay.raw_request = raw;
            RequestBody::Stream { raw }
        };
        self.relay.request_trailers = lease.sends_trailers();
        lease.up.send_head(&ex.request, body, worker)?;
        if ex.drop_request_body {
            self.down.close = true;
        }
        match body {
            RequestBody::None => {
                self.relay.request_done = true;
                ex.times.request_end.get_or_insert_with(|| ex.times.connect_begin.unwrap_or_else(|| worker.now()));
            }
            RequestBody::Tunnel => self.relay.request_done = true,
            RequestBody::Stream { .. } => {
                if !ex.buffered.is_empty() {
                    let first = std::mem::take(&mut ex.buffered);
                    lease.up.side.send(&first, worker)?;
                    if replays && !self.relay.replay_lost {
                        ex.buffered = first;
                    }
                }
                if ex.body_collected || self.down.side.received_all() && !self.relay.raw_request && ex.attempts > 1 {
                    let trailers = self.relay.request_trailers && !ex.request_trailers.is_empty();
                    lease.up.side.finish(trailers.then_some(&ex.request_trailers), worker)?;
                    self.relay.request_done = true;
                }
            }
        }
        Ok(())
    }

    /// Whether this try, whose time is up, may go on: all of the request is on its way, and can be sent again.
    fn may_hedge(&self, ex: &Exchange) -> bool {
        self.hedges
            && self.relay.request_done
            && !self.relay.replay_lost
            && !ex.upgrade
            && self.earlier.len() + 1 < TRIES_MAX
    }

    /// Relays the request until a response head is there: of this try, or of the earlier one whose number is given.
    async fn await_head(&mut self, ex: &mut Exchange, lease: &mut Lease) -> Result<(UpHead, Option<usize>), Failure> {
        let worker = self.conn.worker.clone();
        let conn = self.conn;
        let proxy_1xx = conn.manager.config.proxy_100_continue;
        let mut taps = FilterTaps::new(self.conn, Some(self.found), ex);
        let (down, relay, deadlines) = (&mut *self.down, &mut *self.relay, &mut *self.deadlines);
        let (timer, global_for) = (self.timer, self.global_for);
        let reused = lease.reused;
        let (cluster, retries) = (self.cluster, &mut *self.retries);
        let up: &mut Up = &mut lease.up;
        let earlier = &mut *self.earlier;
        let mut sent = false;
        let mut send_failed = None;
        // Other connections whose bytes are there are read first, so that what goes upstream goes in one row: the
        // upstream is woken once for all of it, and the code of one kind of call stays in the cache.
        let mut others_first = matches!(up.side, Side::H1(_));
        std::future::poll_fn(|cx| {
            if std::mem::take(&mut others_first) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if down.continue_pending && down.side.poll_flush(cx, &worker).is_ready() {
                down.continue_pending = false;
            }
            if !sent && send_failed.is_none() {
                match relay.poll_request(cx, &mut down.side, &mut up.side, ex, &mut taps, &worker) {
                    Poll::Ready(Ok(())) => {
                        sent = true;
                        if !ex.request_ends_with_head {
                            let now = worker.now();
                            ex.times.request_end.get_or_insert(now);
                            ex.times.upstream_sent = Some(now);
                        }
                        if global_for > 0 && deadlines.global == NEVER {
                            deadlines.global = worker.timers.now() + global_for;
                        }
                    }
                    Poll::Ready(Err(Fault::Down(lost))) => {
                        return Poll::Ready(Err(Failure::Client(lost)));
                    }
                    Poll::Ready(Err(Fault::Filter)) => {
                        return Poll::Ready(Err(Failure::Filter(ex.refusal.take().unwrap_or_default())));
                    }
                    // The upstream may have answered before it stopped listening.
                    Poll::Ready(Err(Fault::Up(lost))) => send_failed = Some(lost),
                    Poll::Pending => {}
                }
            }
            loop {
                match up.poll_head(cx, &mut ex.response, &worker) {
                    Poll::Ready(Ok(head)) if head.status / 100 == 1 && head.status != 101 => {
                        cluster.charge_local(ex, head.status);
                        retries.forget();
                        if proxy_1xx && down.send_informational(&ex.response, &worker).is_ok() {
                            stream::count_response(conn, head.status);
                            let _ = down.side.poll_flush(cx, &worker);
                        }
                    }
                    Poll::Ready(Ok(head)) => return Poll::Ready(Ok((head, None))),
                    Poll::Ready(Err(lost)) => {
                        let answered = up.answered;
                        return Poll::Ready(Err(Failure::Upstream { lost, answered, reused }));
                    }
                    Poll::Pending => break,
                }
            }
            if let Some(lost) = send_failed {
                return Poll::Ready(Err(Failure::Upstream { lost, answered: false, reused }));
            }
            if !earlier.is_empty()
                && let Some(first) = poll_earlier(cx, earlier, ex, &worker)
            {
                return Poll::Ready(Ok(first));
            }
            if relay.request_done
                && let Poll::Ready(lost) = down.side.poll_gone(cx, &worker)
            {
                return Poll::Ready(Err(Failure::Client(lost)));
            }
            if deadlines.idle_for > 0 && (relay.moved || deadlines.idle == NEVER) {
                relay.moved = false;
                deadlines.idle = worker.timers.now() + deadlines.idle_for;
            }
            let next = deadlines.next();
            if next != NEVER {
                let now = worker.timers.now();
                if now >= next {
                    return Poll::Ready(Err(Failure::expired(
                        now,
                        deadlines.global,
                        deadlines.per_try,
                        deadlines.stream,
                        relay.request_done,
                    )));
                }
                timer.arm(next, cx.waker());
            }
            Poll::Pending
        })
        .await
    }
}
