//! When is a request tried again? Compiled retry and hedge policies; decided by `proxy-core::retry`.

use std::time::Duration;

use super::SubsetMatch;
use crate::common::Backoff;
use crate::matcher::{HeaderMatcher, HeaderName};

/// `HedgePolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HedgePolicy {
    /// Sends another request when a try times out, without cancelling it.
    pub hedge_on_per_try_timeout: bool,
    /// `initial_requests`, 1 here.
    pub initial_requests: u32,
}

/// `RetryPolicy`.
#[derive(Debug, Clone)]
pub struct RetryPolicy {
    /// Conditions.
    pub retry_on: RetryOn,
    /// Retries at most. Default 1.
    pub num_retries: u32,
    /// `per_try_timeout`
    pub per_try_timeout: Option<Duration>,
    /// `per_try_idle_timeout`
    pub per_try_idle_timeout: Option<Duration>,
    /// Statuses of `retriable-status-codes`.
    pub retriable_status_codes: Box<[u16]>,
    /// Response headers of `retriable-headers`.
    pub retriable_headers: Box<[HeaderMatcher]>,
    /// A request is retried at all only when one of these matches (empty: always).
    pub retriable_request_headers: Box<[HeaderMatcher]>,
    /// Hosts that a retry avoids.
    pub host_predicates: Box<[HostPredicate]>,
    /// Tries at most to find an acceptable host. Default 1.
    pub host_selection_max_attempts: u32,
    /// `envoy.retry_priorities.previous_priorities`: its `update_frequency`.
    pub previous_priorities: Option<u32>,
    /// Back-off between tries. Default base 25 ms, maximum ten times base.
    pub backoff: Backoff,
    /// Back-off told by the upstream.
    pub rate_limited: Option<Box<RateLimitedBackoff>>,
}

/// `RetryPolicy.retry_host_predicate`.
#[derive(Debug, Clone, PartialEq)]
pub enum HostPredicate {
    /// `envoy.retry_host_predicates.previous_hosts`
    PreviousHosts,
    /// `envoy.retry_host_predicates.omit_canary_hosts`
    OmitCanary,
    /// `envoy.retry_host_predicates.omit_host_metadata`: keys and values of `envoy.lb`
    OmitMetadata(SubsetMatch),
}

/// `RetryPolicy.RateLimitedRetryBackOff`.
#[derive(Debug, Clone)]
pub struct RateLimitedBackoff {
    /// Response headers to read.
    pub reset_headers: Box<[ResetHeader]>,
    /// Longest interval. Default 300 s.
    pub max_interval: Duration,
}

/// `RetryPolicy.ResetHeader`.
#[derive(Debug, Clone)]
pub struct ResetHeader {
    /// Header name.
    pub name: HeaderName,
    /// True for a Unix timestamp, false for seconds.
    pub unix_timestamp: bool,
}

/// The set of retry conditions, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetryOn(pub u32);

impl RetryOn {
    /// `5xx`
    pub const R5XX: RetryOn = RetryOn(1);
    /// `gateway-error`
    pub const GATEWAY_ERROR: RetryOn = RetryOn(1 << 1);
    /// `connect-failure`
    pub const CONNECT_FAILURE: RetryOn = RetryOn(1 << 2);
    /// `retriable-4xx`
    pub const RETRIABLE_4XX: RetryOn = RetryOn(1 << 3);
    /// `refused-stream`
    pub const REFUSED_STREAM: RetryOn = RetryOn(1 << 4);
    /// `cancelled`
    pub const GRPC_CANCELLED: RetryOn = RetryOn(1 << 5);
    /// `deadline-exceeded`
    pub const GRPC_DEADLINE_EXCEEDED: RetryOn = RetryOn(1 << 6);
    /// `resource-exhausted`
    pub const GRPC_RESOURCE_EXHAUSTED: RetryOn = RetryOn(1 << 7);
    /// `unavailable`
    pub const GRPC_UNAVAILABLE: RetryOn = RetryOn(1 << 8);
    /// `internal`
    pub const GRPC_INTERNAL: RetryOn = RetryOn(1 << 9);
    /// `retriable-status-codes`
    pub const RETRIABLE_STATUS_CODES: RetryOn = RetryOn(1 << 10);
    /// `reset`
    pub const RESET: RetryOn = RetryOn(1 << 11);
    /// `retriable-headers`
    pub const RETRIABLE_HEADERS: RetryOn = RetryOn(1 << 12);
    /// `envoy-ratelimited`
    pub const ENVOY_RATELIMITED: RetryOn = RetryOn(1 << 13);
    /// `http3-post-connect-failure`
    pub const HTTP3_POST_CONNECT_FAILURE: RetryOn = RetryOn(1 << 14);
    /// `reset-before-request`
    pub const RESET_BEFORE_REQUEST: RetryOn = RetryOn(1 << 15);

    /// True when any of `other`'s conditions is set.
    #[inline]
    pub fn has(self, other: RetryOn) -> bool {
        self.0 & other.0 != 0
    }

    /// True when no condition is set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Parses a comma-separated list such as `5xx,connect-failure`; unknown words are ignored as Envoy does.
    pub fn parse(words: &str) -> RetryOn {
        words.split(',').map(|w| RetryOn::word(w.trim())).fold(RetryOn(0), std::ops::BitOr::bitor)
    }

    fn word(word: &str) -> RetryOn {
        match word {
            "5xx" => Self::R5XX,
            "gateway-error" => Self::GATEWAY_ERROR,
            "connect-failure" => Self::CONNECT_FAILURE,
            "retriable-4xx" => Self::RETRIABLE_4XX,
            "refused-stream" => Self::REFUSED_STREAM,
            "cancelled" => Self::GRPC_CANCELLED,
            "deadline-exceeded" => Self::GRPC_DEADLINE_EXCEEDED,
            "resource-exhausted" => Self::GRPC_RESOURCE_EXHAUSTED,
            "unavailable" => Self::GRPC_UNAVAILABLE,
            "internal" => Self::GRPC_INTERNAL,
            "retriable-status-codes" => Self::RETRIABLE_STATUS_CODES,
            "reset" => Self::RESET,
            "retriable-headers" => Self::RETRIABLE_HEADERS,
            "envoy-ratelimited" => Self::ENVOY_RATELIMITED,
            "http3-post-connect-failure" => Self::HTTP3_POST_CONNECT_FAILURE,
            "reset-before-request" => Self::RESET_BEFORE_REQUEST,
            _ => RetryOn(0),
        }
    }
}

impl std::ops::BitOr for RetryOn {
    type Output = RetryOn;
    fn bitor(self, other: RetryOn) -> RetryOn {
        RetryOn(self.0 | other.0)
    }
}
