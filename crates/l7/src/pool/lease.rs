//! What does one request do to the connection it was given, and who is told when it ends?
//!
//! A [`Lease`] is made by `pool`; the router (`router.rs`), mirroring and call-outs end it. Absent: choosing a host.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use http1::{HeaderBlock, HeaderId};
use telemetry::stats::envoy::{charge, charge_time, cluster as stat, vhost};
use tokio::time::Instant;
use upstream::{Guard, Host, Outcome, PoolKey};

use super::{Cluster, Connection, ConnectionFacts, IdleH1, Pooled, h1_up, max_requests};
use crate::exchange::{Exchange, Protocol};
use crate::retry::{Failure, PROTOCOL_ERROR, REFUSED_STREAM};
use crate::side::{Lost, Side};
use crate::up::Up;
use crate::vcluster;
use crate::worker::Worker;

/// One request on one connection.
pub struct Lease {
    /// The request. It stays where it is while an HTTP/1.1 connection goes to the pool and back.
    pub up: Held,
    /// The connection had served requests before.
    pub reused: bool,
    /// Another try runs beside it, because it is overdue.
    pub hedged: bool,
    cluster: Cluster,
    worker: Rc<Worker>,
    host: Arc<Host>,
    key: PoolKey,
    connection: Option<Connection>,
    served: u64,
    sent_at: Instant,
    _requests: Guard,
    ended: bool,
}

/// What a lease holds until its connection goes back to the pool.
pub struct Held(Option<Box<Up>>);

impl std::ops::Deref for Held {
    type Target = Up;

    #[inline]
    fn deref(&self) -> &Up {
        self.0.as_ref().expect("held until the lease ends, which uses it up")
    }
}

impl std::ops::DerefMut for Held {
    #[inline]
    fn deref_mut(&mut self) -> &mut Up {
        self.0.as_mut().expect("held until the lease ends, which uses it up")
    }
}

#[allow(clippy::too_many_arguments)] // The parts of one struct.
pub(super) fn lease(
    cluster: &Cluster,
    worker: &Rc<Worker>,
    host: Arc<Host>,
    key: PoolKey,
    up: Box<Up>,
    connection: Connection,
    served: u64,
    requests: Guard,
) -> Lease {
    let stats = cluster.stats();
    stats.inc(stat::UPSTREAM_RQ_TOTAL);
    stats.gauge_add(stat::UPSTREAM_RQ_ACTIVE, 1);
    host.stats.rq_total.fetch_add(1, Relaxed);
    host.stats.rq_active.fetch_add(1, Relaxed);
    Lease {
        up: Held(Some(up)),
        reused: served > 0,
        hedged: false,
        cluster: cluster.clone(),
        worker: worker.clone(),
        host,
        key,
        connection: Some(connection),
        served,
        sent_at: worker.now(),
        _requests: requests,
        ended: false,
    }
}

impl Lease {
    /// Keeps another, new connection to the lease's host for later requests.
    fn keep(cluster: &Cluster, worker: &Worker, host: &Arc<Host>, key: PoolKey, opened: upstream::Connection) {
        cluster.stats().inc(stat::UPSTREAM_CX_HTTP1_TOTAL);
        let (stream, facts) = ConnectionFacts::of(opened);
        let http = &cluster.0.cluster.config.http;
        let up = Box::new(h1_up(stream, http));
        let idle = IdleH1 { up, facts: Box::new(facts), served: 0, since_ms: worker.timers.now() };
        cluster.0.give(host, key, Pooled::H1(idle));
    }

    /// What opening another connection like this one takes.
    pub fn another(&self) -> (Cluster, Arc<Host>, impl FnOnce(upstream::Connection) + 'static) {
        let (cluster, worker, host, key) = (self.cluster.clone(), self.worker.clone(), self.host.clone(), self.key);
        let keep = {
            let (cluster, host) = (cluster.clone(), host.clone());
            move |opened| Lease::keep(&cluster, &worker, &host, key, opened)
        };
        (cluster, host, keep)
    }
}

impl Lease {
    /// The request is about to be sent: counts it on its connection, and notes host and connection for logs.
    pub fn note(&mut self, ex: &mut Exchange) {
        if let Some(Connection::H2(s)) = self.connection.as_ref() {
            s.streams.set(s.streams.get() + 1);
            s.served.set(s.served.get() + 1);
        }
        self.note_again(ex);
    }

    /// Notes host and connection for logs.
    pub fn note_again(&self, ex: &mut Exchange) {
        let facts = match self.connection.as_ref() {
            Some(Connection::H1(f)) => f,
            Some(Connection::H2(s)) => &s.facts,
            None => return,
        };
        let up = &mut ex.upstream;
        up.host = Some(self.host.clone());
        up.local = facts.local;
        up.remote = facts.remote.or(self.host.socket());
        up.tls.clone_from(&facts.tls);
        up.connection_requests = self.served;
        up.transport_failure = None;
        up.protocol = Some(match self.up.side {
            Side::H1(_) => Protocol::Http11,
            Side::H2(_) => Protocol::Http2,
        });
        ex.times.connect_end = Some(self.sent_at);
    }

    /// The host's name, for `auto_host_rewrite`.
    pub fn hostname(&self) -> &str {
        &self.host.hostname
    }

    /// The host.
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// Whether request trailers can be sent.
    pub fn sends_trailers(&self) -> bool {
        matches!(self.up.side, Side::H2(_)) || self.cluster.0.cluster.config.http.http1.enable_trailers
    }

    /// The connection became a tunnel.
    pub fn start_tunnel(&mut self) {
        self.up.keep_alive = false;
    }

    /// A response head came.
    ///
    /// `asked` is the cluster that the route names: for an aggregate, not the host's.
    pub fn answered(&mut self, ex: &mut Exchange, status: u16, retried: bool, asked: &Cluster) {
        let stats = asked.stats();
        let canary = ex.response.get_id(HeaderId::X_ENVOY_UPSTREAM_CANARY) == Some(b"true");
        if retried {
            asked.0.cluster.charge_retried(status);
        } else {
            charge(stats, status, ex.internal, canary);
        }
        let ms = self.worker.now().saturating_duration_since(self.sent_at).as_millis() as u64;
        if !retried {
            charge_time(stats, ms, ex.internal, canary);
            if let Some(counts) = &ex.vcluster {
                vcluster::charge(counts, status);
                counts.record(vhost::UPSTREAM_RQ_TIME, ms);
            }
        }
        let counter = if status >= 500 { &self.host.stats.rq_error } else { &self.host.stats.rq_success };
        counter.fetch_add(1, Relaxed);
        let config = &self.cluster.0.cluster.config;
        if !config.health_checks.is_empty() && ex.response.has(HeaderId::X_ENVOY_IMMEDIATE_HEALTH_CHECK_FAIL) {
            upstream::health::fail_at_once(&self.cluster.0.cluster, &self.host);
        }
        if config.outlier_detection.is_none() {
            return;
        }
        if let Some(matcher) = &config.http.outlier_error_matcher {
            let none = HeaderBlock::new();
            let error = proxy_core::matcher::predicate(matcher, &none, &ex.response);
            self.cluster.0.cluster.report(&self.host, Outcome::Status(if error { 500 } else { 200 }));
            return;
        }
        let grpc = ex.response.get_id(HeaderId::GRPC_STATUS).filter(|_| ex.grpc && status == 200);
        let outcome =
            grpc.and_then(|g| std::str::from_utf8(g).ok()?.parse().ok()).map_or(status, crate::reply::http_status);
        self.cluster.0.cluster.report(&self.host, Outcome::Status(outcome));
    }

    /// The try failed before a response head.
    pub fn fail(mut self, ex: &mut Exchange, failure: &Failure) {
        let stats = self.cluster.stats();
        match failure {
            Failure::Client(_) => stats.inc(stat::UPSTREAM_RQ_CANCELLED),
            Failure::GlobalTimeout => {
                stats.inc(stat::UPSTREAM_RQ_TIMEOUT);
                if let Some(counts) = &ex.vcluster {
                    counts.inc(vhost::UPSTREAM_RQ_TIMEOUT);
                }
                self.host.stats.rq_timeout.fetch_add(1, Relaxed);
                self.cluster.0.cluster.report(&self.host, Outcome::Timeout);
            }
            Failure::PerTryTimeout => {
                stats.inc(stat::UPSTREAM_RQ_PER_TRY_TIMEOUT);
                self.host.stats.rq_timeout.fetch_add(1, Relaxed);
                self.cluster.0.cluster.report(&self.host, Outcome::Timeout);
            }
            Failure::MaxDuration => stats.inc(stat::UPSTREAM_RQ_MAX_DURATION_REACHED),
            Failure::Upstream { lost, .. } => {
                self.count_lost(*lost);
                if *lost == Lost::Protocol {
                    stats.inc(stat::UPSTREAM_CX_PROTOCOL_ERROR);
                }
                self.host.stats.rq_error.fetch_add(1, Relaxed);
                self.cluster.0.cluster.report(&self.host, Outcome::Reset);
            }
            _ => {}
        }
        if !matches!(failure, Failure::Upstream { .. }) {
            self.count_reset();
        }
        let _ = ex;
        self.close(true);
    }

    /// The try is overdue, and goes on beside another one.
    pub fn overdue(&self) {
        self.cluster.0.cluster.report(&self.host, Outcome::Timeout);
    }

    /// The HTTP/2 connection takes no more requests.
    pub fn retire(&mut self) {
        if let Some(Connection::H2(s)) = &self.connection {
            s.session.retire();
        }
    }

    /// The response is not passed back; the connection is kept if nothing of it is outstanding.
    pub fn abandon(mut self, _ex: &mut Exchange, ends: bool) {
        if !ends {
            self.reset();
        }
        self.end();
    }

    /// The response broke off after its head.
    pub fn broken(mut self, ex: &mut Exchange, failure: &Failure) {
        match failure {
            Failure::Client(_) => self.count_reset(),
            Failure::Upstream { lost, .. } => {
                self.count_lost(*lost);
                if *lost == Lost::Protocol {
                    self.cluster.stats().inc(stat::UPSTREAM_CX_PROTOCOL_ERROR);
                }
                self.cluster.0.cluster.report(&self.host, Outcome::Reset);
            }
            _ => {}
        }
        let _ = ex;
        self.close(true);
    }

    /// Breaks the request off.
    pub fn reset(&mut self) {
        self.up.reset();
        self.count_reset();
    }

    /// The peer's reset, as Envoy counts it: not one that refuses, and as our own one that blames us.
    fn count_lost(&self, lost: Lost) {
        match lost {
            Lost::Reset(REFUSED_STREAM) => {}
            Lost::Reset(PROTOCOL_ERROR) => self.cluster.stats().inc(stat::UPSTREAM_RQ_TX_RESET),
            Lost::Reset(_) => self.cluster.stats().inc(stat::UPSTREAM_RQ_RX_RESET),
            _ => {}
        }
    }

    /// Resets are counted where streams are: not on HTTP/1.
    fn count_reset(&self) {
        if matches!(self.up.side, Side::H2(_)) {
            self.cluster.stats().inc(stat::UPSTREAM_RQ_TX_RESET);
        }
    }

    /// The exchange is complete.
    pub fn finish(mut self, _ex: &mut Exchange) {
        self.end();
    }

    fn end(&mut self) {
        self.served += 1;
        self.count_bytes();
        let stats = self.cluster.stats();
        let spent = max_requests(&self.cluster.0.cluster.config).is_some_and(|n| self.served >= n);
        if spent {
            stats.inc(stat::UPSTREAM_CX_MAX_REQUESTS);
        }
        let over = |f: &ConnectionFacts| f.is_old(&self.cluster.0.cluster) || f.account.is_given_up();
        let old = matches!(&self.connection, Some(Connection::H1(f)) if over(f));
        if spent || old || !self.up.reusable() {
            self.close(false);
            return;
        }
        let Some(Connection::H1(facts)) = self.connection.take() else {
            return;
        };
        if let Side::H1(s) = &mut self.up.side {
            s.wire.release(&self.worker);
        }
        let since_ms = self.worker.timers.now();
        if let Some(up) = self.up.0.take() {
            let idle = IdleH1 { up, facts, served: self.served, since_ms };
            self.cluster.0.give(&self.host, self.key, Pooled::H1(idle));
        }
        self.leave();
    }

    /// What went over an HTTP/1.1 connection since it was last counted.
    fn count_bytes(&mut self) {
        if let Side::H1(s) = &mut self.up.side {
            let (received, sent) = (std::mem::take(&mut s.wire.received), std::mem::take(&mut s.wire.sent));
            self.cluster.stats().add(stat::UPSTREAM_CX_RX_BYTES_TOTAL, received);
            self.cluster.stats().add(stat::UPSTREAM_CX_TX_BYTES_TOTAL, sent);
        }
    }

    fn close(&mut self, active: bool) {
        self.count_bytes();
        match self.connection.take() {
            Some(Connection::H1(facts)) => {
                if active {
                    self.cluster.stats().inc(stat::UPSTREAM_CX_DESTROY_WITH_ACTIVE_RQ);
                }
                drop(facts);
            }
            Some(Connection::H2(s)) => {
                s.streams.set(s.streams.get().saturating_sub(1));
                s.since_ms.set(self.worker.timers.now());
            }
            None => {}
        }
        self.leave();
    }

    fn leave(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            self.cluster.stats().gauge_sub(stat::UPSTREAM_RQ_ACTIVE, 1);
            self.host.stats.rq_active.fetch_sub(1, Relaxed);
            self.cluster.0.notify_freed();
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.ended {
            // The client's stream was dropped under way.
            self.reset();
            self.close(true);
        }
    }
}
