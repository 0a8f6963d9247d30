//! Is there another try, when, and what does the client get when there is none?
//!
//! Follows Envoy's `RetryStateImpl` and the reply texts of its router.

use std::time::Duration;

use http1::HeaderId;
use proxy_config::route::{Forward, HostPredicate, RetryOn, RetryPolicy};
use std::sync::Arc;
use telemetry::access_log::ResponseFlags;
use telemetry::stats::Counter;
use telemetry::stats::envoy::{cluster as stat, vhost};

use crate::connection::Conn;
use crate::decide;
use crate::exchange::Exchange;
use crate::pool::{self, Cluster, HostKey, Refused};
use crate::reply::{Body, LocalReply};
use crate::side::Lost;
use crate::stream;
use crate::vcluster::Counts;

/// Back-off when no policy says otherwise.
const BACKOFF_BASE: Duration = Duration::from_millis(25);
/// Hosts remembered per request to be avoided by later tries.
const TRIED_HOSTS_MAX: usize = 16;
/// HTTP/2 error code PROTOCOL_ERROR.
pub(crate) const PROTOCOL_ERROR: u32 = 1;
/// HTTP/2 error code REFUSED_STREAM.
pub(crate) const REFUSED_STREAM: u32 = 7;

/// Why a try failed.
pub enum Failure {
    /// No connection.
    Pool(Refused),
    /// The upstream broke off.
    Upstream {
        /// How.
        lost: Lost,
        /// Some byte of the response had come.
        answered: bool,
        /// The connection had served requests before.
        reused: bool,
    },
    /// The client went away or broke the protocol.
    Client(Lost),
    /// The route timeout.
    GlobalTimeout,
    /// The per-try timeout.
    PerTryTimeout,
    /// The stream was idle.
    Idle {
        /// The request was complete by then.
        request_complete: bool,
    },
    /// The stream lasted too long.
    MaxDuration,
    /// A filter answers instead.
    Filter(Box<LocalReply>),
}

impl Failure {
    /// Which deadline is over.
    pub fn expired(now: u64, global: u64, per_try: u64, stream: u64, request_complete: bool) -> Self {
        if now >= global {
            Failure::GlobalTimeout
        } else if now >= per_try {
            Failure::PerTryTimeout
        } else if now >= stream {
            Failure::MaxDuration
        } else {
            Failure::Idle { request_complete }
        }
    }

    /// No other try can help: it is the client's or the whole request's time.
    pub fn final_for_client(&self) -> bool {
        matches!(
            self,
            Failure::Client(_)
                | Failure::GlobalTimeout
                | Failure::Idle { .. }
                | Failure::MaxDuration
                | Failure::Filter(_)
        )
    }

    /// The words for the reset, and its flag.
    fn reset(&self) -> (&'static str, ResponseFlags) {
        match self {
            Failure::Pool(Refused::Overflow { .. }) => ("overflow", ResponseFlags::UPSTREAM_OVERFLOW),
            Failure::Pool(Refused::Connect { timeout: true, .. }) => {
                ("connection timeout", ResponseFlags::UPSTREAM_CONNECTION_FAILURE)
            }
            Failure::Pool(_) => ("remote connection failure", ResponseFlags::UPSTREAM_CONNECTION_FAILURE),
            // A peer that resets with PROTOCOL_ERROR blames us, and so do our flags.
            Failure::Upstream { lost: Lost::Protocol | Lost::Reset(PROTOCOL_ERROR), .. } => {
                ("protocol error", ResponseFlags::UPSTREAM_PROTOCOL_ERROR)
            }
            Failure::Upstream { lost: Lost::Reset(REFUSED_STREAM), .. } => {
                ("remote refused stream reset", ResponseFlags::UPSTREAM_REMOTE_RESET)
            }
            Failure::Upstream { lost: Lost::Reset(_), .. } => ("remote reset", ResponseFlags::UPSTREAM_REMOTE_RESET),
            _ => ("connection termination", ResponseFlags::UPSTREAM_CONNECTION_TERMINATION),
        }
    }

    /// What the client gets.
    pub fn reply(&self, ex: &Exchange) -> LocalReply {
        let mut reply = self.words(ex);
        // What fails at once is answered before any of the body is read.
        reply.after_wait = ex.attempts > 1
            || !matches!(self, Failure::Pool(Refused::NoHost | Refused::Overflow { waited: false, .. }));
        reply
    }

    fn words(&self, ex: &Exchange) -> LocalReply {
        match self {
            Failure::Client(lost) => return stream::gone(*lost),
            Failure::Filter(reply) => return (**reply).clone(),
            Failure::GlobalTimeout => {
                return LocalReply::text(504, "upstream request timeout", "response_timeout")
                    .with_flags(ResponseFlags::UPSTREAM_REQUEST_TIMEOUT);
            }
            Failure::PerTryTimeout => {
                return LocalReply::text(504, "upstream request timeout", "upstream_per_try_timeout")
                    .with_flags(ResponseFlags::UPSTREAM_REQUEST_TIMEOUT);
            }
            Failure::Idle { request_complete } => return stream::idle_timeout(*request_complete),
            Failure::MaxDuration => {
                return LocalReply::text(
                    408,
                    "upstream max stream duration reached",
                    "upstream_max_stream_duration_reached",
                )
                .with_flags(ResponseFlags::UPSTREAM_MAX_STREAM_DURATION_REACHED);
            }
            Failure::Pool(Refused::NoHost) => {
                return LocalReply::text(503, "no healthy upstream", "no_healthy_upstream")
                    .with_flags(ResponseFlags::NO_HEALTHY_UPSTREAM);
            }
            _ => {}
        }
        let (words, flags) = self.reset();
        let status = if flags == ResponseFlags::UPSTREAM_PROTOCOL_ERROR { 502 } else { 503 };
        let started = ex.times.response_begin.is_some();
        let transport = match self {
            Failure::Pool(Refused::Connect { reason: Some(r), .. }) => Some(&**r),
            _ => None,
        };
        let mut body = String::from("upstream connect error or disconnect/reset before headers. ");
        if ex.attempts > 1 {
            body.push_str("retried and the latest ");
        }
        body.push_str("reset reason: ");
        body.push_str(words);
        let mut details = String::from(if started {
            "upstream_reset_after_response_started{"
        } else {
            "upstream_reset_before_response_started{"
        });
        details.push_str(words);
        if let Some(t) = transport {
            // For the log only: Envoy tells clients nothing about our upstream connections.
            details.push('|');
            details.push_str(t);
        }
        details.push('}');
        // Details are one word in access logs.
        let details: String = details.chars().map(|c| if c.is_ascii_whitespace() { '_' } else { c }).collect();
        let mut reply = LocalReply {
            status,
            flags,
            details: details.into(),
            body: Body::Owned(body.into_bytes()),
            ..Default::default()
        };
        if flags == ResponseFlags::UPSTREAM_OVERFLOW {
            reply.headers.push(("x-envoy-overloaded".into(), b"true".to_vec()));
        }
        reply
    }
}

/// The retries of one request.
pub struct Retries {
    policy: Option<Arc<RetryPolicy>>,
    on: RetryOn,
    remaining: u32,
    codes: Vec<u16>,
    cluster: Cluster,
    vcluster: Option<Counts>,
    guard: Option<pool::RetryGuard>,
    hosts: Vec<HostKey>,
    /// Priorities tried since `excluded` was last extended.
    priorities: Vec<u32>,
    excluded: Vec<u32>,
    backoff: Option<Duration>,
    timed_out: bool,
    limit_exceeded: bool,
    overflow: bool,
    /// The try under way is another one.
    again: bool,
}

impl Retries {
    /// Reads policy and headers; headers may widen what the policy says.
    pub fn new(conn: &Conn, ex: &mut Exchange, f: &Forward, cluster: &Cluster) -> Self {
        let policy = f.retry.clone();
        let mut on = policy.as_ref().map_or(RetryOn::default(), |p| p.retry_on);
        let mut remaining = policy.as_ref().map_or(1, |p| p.num_retries);
        let mut codes = Vec::new();
        if let Some(p) = &policy
            && !p.retriable_request_headers.is_empty()
            && !p.retriable_request_headers.iter().any(|m| decide::header_matches(m, &ex.request))
        {
            on = RetryOn::default();
        }
        for id in [HeaderId::X_ENVOY_RETRY_ON, HeaderId::X_ENVOY_RETRY_GRPC_ON] {
            if let Some(words) = ex.request.get_id(id).and_then(|v| std::str::from_utf8(v).ok()) {
                on = RetryOn(on.0 | RetryOn::parse(words).0);
            }
        }
        if let Some(text) = ex.request.get_id(HeaderId::X_ENVOY_MAX_RETRIES).and_then(|v| std::str::from_utf8(v).ok())
            && let Ok(n) = text.parse()
        {
            remaining = n;
        }
        if let Some(list) = ex.request.get_id(HeaderId::X_ENVOY_RETRIABLE_STATUS_CODES) {
            let words = list.split(|b| *b == b',');
            codes.extend(words.filter_map(|w| std::str::from_utf8(w.trim_ascii()).ok()?.parse::<u16>().ok()));
        }
        for id in [
            HeaderId::X_ENVOY_RETRY_ON,
            HeaderId::X_ENVOY_RETRY_GRPC_ON,
            HeaderId::X_ENVOY_MAX_RETRIES,
            HeaderId::X_ENVOY_RETRIABLE_STATUS_CODES,
            HeaderId::X_ENVOY_RETRIABLE_HEADER_NAMES,
            HeaderId::X_ENVOY_HEDGE_ON_PER_TRY_TIMEOUT,
        ] {
            ex.request.remove_id(id);
        }
        let _ = conn;
        Retries {
            policy,
            on,
            remaining,
            codes,
            cluster: cluster.clone(),
            vcluster: ex.vcluster.clone(),
            guard: None,
            hosts: Vec::new(),
            priorities: Vec::new(),
            excluded: Vec::new(),
            backoff: None,
            timed_out: false,
            limit_exceeded: false,
            overflow: false,
            again: false,
        }
    }

    /// Whether any retry could happen, so that the body must be kept.
    pub fn possible(&self) -> bool {
        !self.on.is_empty() && self.remaining > 0
    }

    /// An interim response was passed on: there is no other try after it.
    pub fn forget(&mut self) {
        self.on = RetryOn::default();
    }

    /// The last try ended by its timeout.
    pub fn last_was_timeout(&self) -> bool {
        self.timed_out
    }

    /// Remembers where a try went: the host and its priority.
    pub fn note_host(&mut self, host: Option<(&HostKey, u32)>) {
        let Some(policy) = &self.policy else { return };
        let Some((host, priority)) = host.filter(|_| self.possible()) else { return };
        if !policy.host_predicates.is_empty() && self.hosts.len() < TRIED_HOSTS_MAX {
            self.hosts.push(host.clone());
        }
        if let Some(frequency) = policy.previous_priorities {
            self.priorities.push(priority);
            if self.priorities.len() >= frequency.max(1) as usize {
                self.excluded.append(&mut self.priorities);
            }
        }
    }

    /// Hosts that another try should avoid, when the policy says so.
    pub fn tried_hosts(&self) -> &[HostKey] {
        match &self.policy {
            Some(p) if p.host_predicates.contains(&HostPredicate::PreviousHosts) => &self.hosts,
            _ => &[],
        }
    }

    /// Metadata of hosts that another try should avoid.
    pub fn omitted(&self) -> Option<&[(proxy_config::Name, proxy_config::common::Value)]> {
        let policy = self.policy.as_ref().filter(|_| !self.hosts.is_empty())?;
        policy.host_predicates.iter().find_map(|p| match p {
            HostPredicate::OmitMetadata(of) => Some(&**of),
            _ => None,
        })
    }

    /// Priorities that another try should avoid (`previous_priorities`).
    pub fn excluded_priorities(&self) -> &[u32] {
        &self.excluded
    }

    /// Decides after a response head; `Some` is the time to wait before another try.
    pub fn after_head(&mut self, conn: &Conn, ex: &mut Exchange, status: u16) -> Option<Duration> {
        if self.on.is_empty() {
            return None;
        }
        if !self.wants_head(ex, status) {
            self.settled();
            return None;
        }
        self.timed_out = false;
        let wait = self.admit(conn);
        if wait.is_none() {
            self.note_refusal(ex);
        }
        wait
    }

    /// A try is overdue and goes on (`hedge_on_per_try_timeout`): the time to wait before another runs beside it. Unlike a try
    /// that failed, it is tried again whatever the conditions.
    pub fn hedge(&mut self, conn: &Conn, ex: &mut Exchange) -> Option<Duration> {
        if self.on.is_empty() {
            return None;
        }
        self.timed_out = true;
        let again = self.again;
        let wait = self.admit(conn);
        if wait.is_none() {
            self.note_refusal(ex);
            // The tries so far go on.
            self.again = again;
        }
        wait
    }

    /// A response that is not passed back while other tries are under way.
    pub fn unwanted(&self, ex: &Exchange, status: u16) -> bool {
        !self.on.is_empty() && self.wants_head(ex, status)
    }

    fn wants_head(&self, ex: &Exchange, status: u16) -> bool {
        let on = |c| self.on.has(c);
        if ex.response.has(HeaderId::X_ENVOY_RATELIMITED) {
            return on(RetryOn::ENVOY_RATELIMITED);
        }
        if on(RetryOn::R5XX) && status / 100 == 5
            || on(RetryOn::GATEWAY_ERROR) && matches!(status, 502..=504)
            || on(RetryOn::RETRIABLE_4XX) && status == 409
        {
            return true;
        }
        if on(RetryOn::RETRIABLE_STATUS_CODES) {
            let of_policy = self.policy.as_ref().is_some_and(|p| p.retriable_status_codes.contains(&status));
            if of_policy || self.codes.contains(&status) {
                return true;
            }
        }
        if on(RetryOn::RETRIABLE_HEADERS)
            && let Some(p) = &self.policy
            && p.retriable_headers.iter().any(|m| decide::header_matches(m, &ex.response))
        {
            return true;
        }
        if let Some(grpc) = ex.response.get_id(HeaderId::GRPC_STATUS) {
            let wanted = match grpc {
                b"1" => RetryOn::GRPC_CANCELLED,
                b"4" => RetryOn::GRPC_DEADLINE_EXCEEDED,
                b"8" => RetryOn::GRPC_RESOURCE_EXHAUSTED,
                b"13" => RetryOn::GRPC_INTERNAL,
                b"14" => RetryOn::GRPC_UNAVAILABLE,
                _ => return false,
            };
            return on(wanted);
        }
        false
    }

    /// Decides after a failure without a response head.
    pub fn after_failure(&mut self, conn: &Conn, ex: &Exchange, failure: &Failure) -> Option<Duration> {
        if self.on.is_empty() {
            return None;
        }
        if matches!(failure, Failure::Pool(Refused::NoHost)) {
            // Nothing was tried, so that nothing can be said of the try before.
            self.guard = None;
            return None;
        }
        let on = |c| self.on.has(c);
        let any_reset = on(RetryOn::R5XX) || on(RetryOn::GATEWAY_ERROR) || on(RetryOn::RESET);
        let wanted = match failure {
            Failure::Pool(Refused::Overflow { .. }) => false,
            Failure::Pool(Refused::Connect { .. }) => {
                any_reset || on(RetryOn::CONNECT_FAILURE) || on(RetryOn::RESET_BEFORE_REQUEST)
            }
            Failure::Upstream { lost: Lost::Reset(REFUSED_STREAM), .. } => any_reset || on(RetryOn::REFUSED_STREAM),
            Failure::Upstream { answered, .. } => {
                any_reset || !answered && ex.bytes_received == 0 && on(RetryOn::RESET_BEFORE_REQUEST)
            }
            Failure::PerTryTimeout => any_reset,
            _ => false,
        };
        if !wanted {
            self.settled();
            return None;
        }
        self.timed_out = matches!(failure, Failure::PerTryTimeout);
        self.admit(conn)
    }

    /// There is no reason for another try; Envoy takes that for the success of the one before.
    fn settled(&mut self) {
        self.guard = None;
        if std::mem::take(&mut self.again) {
            self.count(stat::UPSTREAM_RQ_RETRY_SUCCESS, vhost::UPSTREAM_RQ_RETRY_SUCCESS);
        }
    }

    /// Counts for the cluster and the virtual cluster.
    fn count(&self, of: Counter<stat::Cluster>, virtually: Counter<vhost::Vcluster>) {
        self.cluster.stats().inc(of);
        if let Some(counts) = &self.vcluster {
            counts.inc(virtually);
        }
    }

    /// Takes a retry from what is left and from the cluster's budget.
    fn admit(&mut self, conn: &Conn) -> Option<Duration> {
        self.guard = None;
        self.again = false;
        if self.remaining == 0 {
            self.count(stat::UPSTREAM_RQ_RETRY_LIMIT_EXCEEDED, vhost::UPSTREAM_RQ_RETRY_LIMIT_EXCEEDED);
            self.limit_exceeded = true;
            return None;
        }
        self.remaining -= 1;
        match self.cluster.try_retry() {
            Some(guard) => self.guard = Some(guard),
            None => {
                self.count(stat::UPSTREAM_RQ_RETRY_OVERFLOW, vhost::UPSTREAM_RQ_RETRY_OVERFLOW);
                self.overflow = true;
                return None;
            }
        }
        self.again = true;
        self.count(stat::UPSTREAM_RQ_RETRY, vhost::UPSTREAM_RQ_RETRY);
        self.cluster.stats().inc(stat::UPSTREAM_RQ_RETRY_BACKOFF_EXPONENTIAL);
        let (base, max) = match &self.policy {
            Some(p) => (p.backoff.base, p.backoff.max),
            None => (BACKOFF_BASE, BACKOFF_BASE * 10),
        };
        let interval = self.backoff.unwrap_or(base);
        self.backoff = Some((interval * 2).min(max));
        let ms = (interval.as_millis() as u64).max(1);
        Some(Duration::from_millis(conn.worker.random() % ms))
    }

    fn note_refusal(&self, ex: &mut Exchange) {
        if self.limit_exceeded {
            ex.flags.insert(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
        }
        if self.overflow {
            ex.flags.insert(ResponseFlags::UPSTREAM_OVERFLOW);
        }
    }

    /// The reply when no try is left.
    pub fn give_up(&self, failure: Failure, ex: &mut Exchange) -> LocalReply {
        self.note_refusal(ex);
        failure.reply(ex)
    }
}
