//! Is this request tried again, when, and against which host?
//!
//! `l7::router` makes a [`RetryState`] per request that may be retried and asks it after each try.

use std::time::{Duration, SystemTime};

use proxy_config::cluster::RetryBudget;
use proxy_config::matcher::HeaderMatcher;
use proxy_config::route::{RateLimitedBackoff, RetryOn, RetryPolicy};

use crate::outcome::ResetReason;
use crate::{HeaderEdit, HeaderView, matcher};

/// Retry state of one request.
#[derive(Debug)]
pub struct RetryState<'p> {
    policy: Option<&'p RetryPolicy>,
    retry_on: RetryOn,
    remaining: u32,
    tries: u32,
    extra_status_codes: Vec<u16>,
    extra_headers: Vec<Vec<u8>>,
}

/// What to do after a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Not a retriable outcome.
    No,
    /// Retriable, but no retry is left: flag `URX`, stat `upstream_rq_retry_limit_exceeded`.
    LimitExceeded,
    /// Retriable; take a slot of the retry budget (stat `upstream_rq_retry_overflow` if there is none), wait this
    /// long and try again.
    After(Duration),
}

/// Envoy's default back-off for retries that only request headers asked for.
const BASE: Duration = Duration::from_millis(25);

fn text<H: HeaderView + ?Sized>(headers: &H, name: &[u8]) -> Option<String> {
    headers.get(name).and_then(|v| std::str::from_utf8(v).ok()).map(str::to_owned)
}

impl<'p> RetryState<'p> {
    /// Reads policy and `x-envoy-*` request headers, and removes the latter.
    ///
    /// `None`: this request is never retried.
    pub fn new<H: HeaderEdit>(policy: Option<&'p RetryPolicy>, headers: &mut H) -> Option<Self> {
        let mut retry_on = policy.map_or(RetryOn::default(), |p| p.retry_on);
        let mut remaining = policy.map_or(1, |p| p.num_retries);
        let mut extra_status_codes = Vec::new();
        let mut extra_headers = Vec::new();
        if let Some(words) = text(headers, b"x-envoy-retry-on") {
            retry_on = retry_on | RetryOn::parse(&words);
        }
        if let Some(words) = text(headers, b"x-envoy-retry-grpc-on") {
            retry_on = retry_on | RetryOn::parse(&words);
        }
        if !retry_on.is_empty() {
            if let Some(n) = text(headers, b"x-envoy-max-retries").and_then(|t| t.parse().ok()) {
                remaining = n;
            }
            if let Some(list) = text(headers, b"x-envoy-retriable-status-codes") {
                extra_status_codes = list.split(',').filter_map(|c| c.trim().parse().ok()).collect();
            }
            if let Some(list) = text(headers, b"x-envoy-retriable-header-names") {
                extra_headers = list.split(',').map(|n| n.trim().to_ascii_lowercase().into_bytes()).collect();
            }
        }
        let wanted =
            policy.is_none_or(|p| p.retriable_request_headers.is_empty() || any(&p.retriable_request_headers, headers));
        for name in [
            &b"x-envoy-retry-on"[..],
            b"x-envoy-retry-grpc-on",
            b"x-envoy-max-retries",
            b"x-envoy-retriable-status-codes",
            b"x-envoy-retriable-header-names",
            b"x-envoy-hedge-on-per-try-timeout",
        ] {
            headers.remove(name);
        }
        (wanted && !retry_on.is_empty()).then_some(Self {
            policy,
            retry_on,
            remaining,
            tries: 0,
            extra_status_codes,
            extra_headers,
        })
    }

    /// The policy in force, for host predicates and per-try timeouts.
    pub fn policy(&self) -> Option<&'p RetryPolicy> {
        self.policy
    }

    /// Retries made so far.
    pub fn retries(&self) -> u32 {
        self.tries
    }

    /// True when any try may still be retried (the request body must be kept).
    pub fn may_retry(&self) -> bool {
        self.remaining > 0
    }

    /// Would a response with these headers be retried, if retries are left?
    pub fn wants_response<H: HeaderView + ?Sized>(&self, headers: &H) -> bool {
        let on = self.retry_on;
        let status = headers.status().unwrap_or(0);
        if headers.get(b"x-envoy-ratelimited").is_some() {
            return on.has(RetryOn::ENVOY_RATELIMITED);
        }
        if on.has(RetryOn::R5XX) && (500..600).contains(&status)
            || on.has(RetryOn::GATEWAY_ERROR) && (502..=504).contains(&status)
            || on.has(RetryOn::RETRIABLE_4XX) && status == 409
        {
            return true;
        }
        if on.has(RetryOn::RETRIABLE_STATUS_CODES)
            && (self.extra_status_codes.contains(&status)
                || self.policy.is_some_and(|p| p.retriable_status_codes.contains(&status)))
        {
            return true;
        }
        if on.has(RetryOn::RETRIABLE_HEADERS)
            && (self.extra_headers.iter().any(|n| headers.get(n).is_some())
                || self.policy.is_some_and(|p| any(&p.retriable_headers, headers)))
        {
            return true;
        }
        let grpc = match headers.get(b"grpc-status") {
            Some(b"1") => RetryOn::GRPC_CANCELLED,
            Some(b"4") => RetryOn::GRPC_DEADLINE_EXCEEDED,
            Some(b"8") => RetryOn::GRPC_RESOURCE_EXHAUSTED,
            Some(b"13") => RetryOn::GRPC_INTERNAL,
            Some(b"14") => RetryOn::GRPC_UNAVAILABLE,
            _ => return false,
        };
        on.has(grpc)
    }

    /// Would a reset before response headers be retried, if retries are left? `sent`: request bytes reached the upstream.
    pub fn wants_reset(&self, reason: ResetReason, sent: bool) -> bool {
        let on = self.retry_on;
        if reason == ResetReason::Overflow {
            return false;
        }
        on.has(RetryOn::RESET | RetryOn::R5XX | RetryOn::GATEWAY_ERROR)
            || on.has(RetryOn::RESET_BEFORE_REQUEST) && !sent
            || on.has(RetryOn::REFUSED_STREAM) && reason == ResetReason::RemoteRefusedStreamReset
            || on.has(RetryOn::CONNECT_FAILURE)
                && matches!(
                    reason,
                    ResetReason::LocalConnectionFailure
                        | ResetReason::RemoteConnectionFailure
                        | ResetReason::ConnectionTimeout
                )
    }

    /// Would a per-try timeout be retried? As a 504.
    pub fn wants_timeout(&self) -> bool {
        self.retry_on.has(RetryOn::R5XX | RetryOn::GATEWAY_ERROR)
            || self.retry_on.has(RetryOn::RETRIABLE_STATUS_CODES)
                && (self.extra_status_codes.contains(&504)
                    || self.policy.is_some_and(|p| p.retriable_status_codes.contains(&504)))
            || self.retry_on.has(RetryOn::RESET)
    }

    /// Takes a retry for an outcome that one of the `wants_*` approved. `random` jitters the back-off.
    pub fn take(&mut self, random: u64) -> Decision {
        if self.remaining == 0 {
            return Decision::LimitExceeded;
        }
        self.remaining -= 1;
        self.tries += 1;
        let (base, max) = self.policy.map_or((BASE, BASE * 10), |p| (p.backoff.base, p.backoff.max));
        Decision::After(backoff(base, max, self.tries - 1, random))
    }

    /// As [`Self::take`], honouring the response's rate-limit headers (`rate_limited_retry_back_off`).
    pub fn take_response<H: HeaderView + ?Sized>(&mut self, headers: &H, now: SystemTime, random: u64) -> Decision {
        let told = self.policy.and_then(|p| p.rate_limited.as_deref()).and_then(|r| reset_interval(r, headers, now));
        match (self.take(random), told) {
            (Decision::After(_), Some(told)) => {
                let half = (told / 2).as_millis() as u64;
                Decision::After(told + Duration::from_millis(if half == 0 { 0 } else { random % half }))
            }
            (other, _) => other,
        }
    }
}

fn any<H: HeaderView + ?Sized>(list: &[HeaderMatcher], headers: &H) -> bool {
    list.iter().any(|m| matcher::header(m, headers))
}

/// Fully jittered exponential back-off: uniform in `[0, min(base * 2^n, max))`.
pub fn backoff(base: Duration, max: Duration, n: u32, random: u64) -> Duration {
    let ceiling = base.saturating_mul(1u32.checked_shl(n).unwrap_or(u32::MAX)).min(max).as_millis() as u64;
    Duration::from_millis(random % ceiling.max(1))
}

fn reset_interval<H: HeaderView + ?Sized>(r: &RateLimitedBackoff, headers: &H, now: SystemTime) -> Option<Duration> {
    r.reset_headers.iter().find_map(|h| {
        let n: u64 = text(headers, h.name.as_str().as_bytes())?.parse().ok()?;
        let interval = if h.unix_timestamp {
            let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(n))?;
            at.duration_since(now).ok()?
        } else {
            Duration::from_secs(n)
        };
        (interval <= r.max_interval).then_some(interval)
    })
}

/// Retries that a budget allows while this many requests are active and pending.
pub fn budget(b: &RetryBudget, active: u32, pending: u32) -> u32 {
    let share = (f64::from(active) + f64::from(pending)) * b.budget_percent / 100.0;
    (share as u32).max(b.min_retry_concurrency)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header_view::HeaderList;

    fn state(words: &str) -> RetryState<'static> {
        let mut h = HeaderList::of(&[("x-envoy-retry-on", words), ("x-envoy-max-retries", "2")]);
        let s = RetryState::new(None, &mut h).expect("words were given");
        assert!(h.0.is_empty(), "control headers are removed");
        s
    }

    #[test]
    fn words_and_statuses() {
        let check = |words: &str, status: &str, expect: bool| {
            assert_eq!(
                state(words).wants_response(&HeaderList::of(&[(":status", status)])),
                expect,
                "{words} {status}"
            );
        };
        check("5xx", "500", true);
        check("5xx", "404", false);
        check("gateway-error", "500", false);
        check("gateway-error", "502", true);
        check("retriable-4xx", "409", true);
        check("reset", "503", false);
        let grpc = HeaderList::of(&[(":status", "200"), ("grpc-status", "14")]);
        assert!(state("unavailable").wants_response(&grpc));
        assert!(!state("internal").wants_response(&grpc));
        let limited = HeaderList::of(&[(":status", "503"), ("x-envoy-ratelimited", "true")]);
        assert!(!state("5xx").wants_response(&limited));
        assert!(state("5xx,envoy-ratelimited").wants_response(&limited));
    }

    #[test]
    fn resets() {
        use ResetReason as R;
        assert!(state("connect-failure").wants_reset(R::RemoteConnectionFailure, false));
        assert!(!state("connect-failure").wants_reset(R::RemoteReset, true));
        assert!(state("refused-stream").wants_reset(R::RemoteRefusedStreamReset, true));
        assert!(state("reset").wants_reset(R::ConnectionTermination, true));
        assert!(!state("5xx,reset").wants_reset(R::Overflow, false));
        assert!(!state("reset-before-request").wants_reset(R::RemoteReset, true));
        assert!(state("reset-before-request").wants_reset(R::RemoteReset, false));
    }

    #[test]
    fn retries_run_out_and_back_off_grows() {
        let mut s = state("5xx");
        assert!(matches!(s.take(0), Decision::After(_)));
        assert!(matches!(s.take(0), Decision::After(_)));
        assert_eq!(s.take(0), Decision::LimitExceeded);
        let ms = Duration::from_millis;
        assert_eq!(backoff(ms(25), ms(250), 0, 24), ms(24));
        assert_eq!(backoff(ms(25), ms(250), 0, 25), ms(0));
        assert_eq!(backoff(ms(25), ms(250), 1, 49), ms(49));
        assert_eq!(backoff(ms(25), ms(250), 40, 249), ms(249));
    }

    #[test]
    fn no_words_no_state() {
        assert!(RetryState::new(None, &mut HeaderList::default()).is_none());
    }
}
