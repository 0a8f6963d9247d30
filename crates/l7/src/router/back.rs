//! How does a response go back to the client? Its head through the filters, then both bodies until all of it has passed.
//!
//! The second half of a try; the first is in [`super`].

use std::task::Poll;

use http1::HeaderId;
use telemetry::stats::envoy::{hcm as stat, router};

use super::{Attempt, NEVER, Tried};
use crate::down::ResponseBody;
use crate::exchange::Exchange;
use crate::filters;
use crate::hold::{self, Held, Source};
use crate::pool::Lease;
use crate::relay::Fault;
use crate::response;
use crate::retry::Failure;
use crate::side::{Lost, Side};
use crate::stream::{self, FilterTaps};
use crate::timeouts::decimal;
use crate::up::{Up, UpHead};

impl Attempt<'_> {
    /// Passes the response back while the rest of the request may still go up.
    pub(super) async fn pass_back(&mut self, ex: &mut Exchange, mut lease: Lease, head: UpHead) -> Tried {
        let conn = self.conn;
        let worker = conn.worker.clone();
        if !conn.manager.router.suppress_envoy_headers {
            let from = ex.times.upstream_sent.or(ex.times.upstream_begin);
            let ms = match (from, ex.times.upstream_first) {
                (Some(from), Some(first)) => (first.saturating_duration_since(from)).as_millis() as u64,
                _ => 0,
            };
            let mut digits = [0u8; 20];
            ex.response.set_id(HeaderId::X_ENVOY_UPSTREAM_SERVICE_TIME, decimal(&mut digits, ms));
        }
        if self.found.virtual_host().include_attempt_count_in_response {
            let mut digits = [0u8; 20];
            let text = decimal(&mut digits, ex.attempts as u64);
            ex.response.set_id(HeaderId::X_ENVOY_ATTEMPT_COUNT, text);
        }
        if let Some(cookie) = ex.set_cookie.take() {
            ex.response.add_id(HeaderId::SET_COOKIE, &cookie);
        }
        ex.details = "via_upstream".into();
        ex.status = head.status;
        response::route_headers(conn, ex, self.found);
        let mut held = Held::default();
        if let Some(wait) = filters::on_response(conn, Some(self.found), ex, head.ends) {
            let source = Source::Upstream(&mut lease.up);
            let work = hold::respond(conn, self.down, Some(self.found), ex, source, head.ends, wait);
            match Box::pin(work).await {
                Ok(h) => held = h,
                Err(reply) => {
                    lease.up.reset();
                    lease.finish(ex);
                    return Tried::Failed(Failure::Filter(Box::new(reply)));
                }
            }
        }
        response::finish_head(conn, self.down, ex);
        let mut taps = FilterTaps::new(conn, Some(self.found), ex);
        let tunnel = head.tunnel && ex.upgrade;
        // Bytes on both sides: the request may go on after the end of the response.
        let halves = tunnel || lease.up.raw;
        let ends = held.body.as_ref().map_or(head.ends, Vec::is_empty);
        let body = if tunnel {
            ResponseBody::Tunnel
        } else if ends {
            ResponseBody::None
        } else if held.body.is_some() {
            ResponseBody::Stream { raw: false }
        } else {
            let raw = lease.up.side.receives_chunked()
                && self.down.takes_raw_chunks()
                && !ex.taps_response
                && !conn.manager.config.http1.enable_trailers;
            self.relay.raw_response = raw;
            ResponseBody::Stream { raw }
        };
        self.relay.response_trailers =
            matches!(self.down.side, Side::H2(_)) || conn.manager.config.http1.enable_trailers;
        if tunnel {
            self.down.start_tunnel();
            lease.start_tunnel();
            self.relay.request_done = false;
            self.relay.raw_request = false;
            self.deadlines.global = NEVER;
            conn.manager.stats.inc(stat::DOWNSTREAM_CX_UPGRADES_TOTAL);
            conn.manager.stats.gauge_add(stat::DOWNSTREAM_CX_UPGRADES_ACTIVE, 1);
        }
        if !self.relay.request_done && !halves {
            stream::early_response(conn, ex);
        }
        ex.times.response_begin = ex.times.upstream_first;
        if self.down.send_head(&mut ex.response, body, &worker).is_err() {
            lease.up.reset();
            lease.finish(ex);
            return Tried::Failed(Failure::Client(Lost::Closed));
        }
        self.relay.response_done = body == ResponseBody::None;
        if let Some(body) = held.body.take().filter(|b| !b.is_empty())
            && self.send_held(ex, body, held.seen_from).is_err()
        {
            lease.up.reset();
            lease.finish(ex);
            return Tried::Failed(Failure::Client(Lost::Closed));
        }
        let outcome = self.relay_back(ex, &mut lease, &mut taps, tunnel).await;
        if tunnel {
            conn.manager.stats.gauge_sub(stat::DOWNSTREAM_CX_UPGRADES_ACTIVE, 1);
        }
        let now = worker.now();
        ex.times.upstream_last = Some(now);
        ex.times.response_end = Some(now);
        match outcome {
            Ok(()) => {
                if !self.relay.request_done && !halves {
                    // The response came before the request was complete.
                    lease.reset();
                    match &mut self.down.side {
                        Side::H1(_) => self.down.close = true,
                        Side::H2(s) => s.recv = false,
                    }
                }
                lease.finish(ex);
                Tried::Done
            }
            Err(failure) => {
                if ex.grpc && head.status < 500 && matches!(failure, Failure::Upstream { .. }) {
                    conn.manager.router_stats.inc(router::RQ_RESET_AFTER_DOWNSTREAM_RESPONSE_STARTED);
                }
                lease.up.reset();
                lease.broken(ex, &failure);
                Tried::Failed(failure)
            }
        }
    }

    /// Sends a body that filters had collected.
    fn send_held(&mut self, ex: &mut Exchange, mut body: Vec<u8>, seen_from: usize) -> Result<(), Lost> {
        let worker = &self.conn.worker;
        filters::pass_response_data(self.conn, Some(self.found), ex, &mut body, true, 0..seen_from);
        if !ex.head_request {
            ex.bytes_sent += body.len() as u64;
            self.down.side.send(&body, worker)?;
        }
        let trailers = self.relay.response_trailers && !ex.response_trailers.is_empty();
        self.down.side.finish(trailers.then_some(&ex.response_trailers), worker)?;
        self.relay.response_done = true;
        Ok(())
    }

    async fn relay_back(
        &mut self,
        ex: &mut Exchange,
        lease: &mut Lease,
        taps: &mut FilterTaps<'_>,
        tunnel: bool,
    ) -> Result<(), Failure> {
        let worker = self.conn.worker.clone();
        let (down, relay, deadlines) = (&mut *self.down, &mut *self.relay, &mut *self.deadlines);
        let timer = self.timer;
        let reused = lease.reused;
        let up: &mut Up = &mut lease.up;
        let halves = tunnel || up.raw;
        let mut sent = relay.request_done && !halves;
        std::future::poll_fn(|cx| {
            if !sent {
                match relay.poll_request(cx, &mut down.side, &mut up.side, ex, taps, &worker) {
                    Poll::Ready(Ok(())) => {
                        sent = true;
                        if halves && let Side::H1(s) = &mut up.side {
                            // Half-close travels through a tunnel.
                            let _ = s.wire.stream.poll_shutdown_write(cx);
                        }
                    }
                    Poll::Ready(Err(Fault::Down(lost))) => {
                        return Poll::Ready(Err(Failure::Client(lost)));
                    }
                    Poll::Ready(Err(Fault::Up(_) | Fault::Filter)) => sent = true,
                    Poll::Pending => {}
                }
            }
            match relay.poll_response(cx, &mut down.side, &mut up.side, ex, taps, &worker) {
                Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(Fault::Down(lost))) => {
                    return Poll::Ready(Err(Failure::Client(lost)));
                }
                Poll::Ready(Err(Fault::Up(lost))) => {
                    // An HTTP/1 body that ends early is a protocol error, as Envoy's codec sees it.
                    let h1 = matches!(up.side, Side::H1(_));
                    let lost = if h1 && lost == Lost::Closed { Lost::Protocol } else { lost };
                    return Poll::Ready(Err(Failure::Upstream { lost, answered: true, reused }));
                }
                Poll::Ready(Err(Fault::Filter)) => {
                    return Poll::Ready(Err(Failure::Filter(ex.refusal.take().unwrap_or_default())));
                }
                Poll::Pending => {}
            }
            if sent
                && !tunnel
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
                        NEVER,
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
