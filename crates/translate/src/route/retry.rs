//! When is a request tried again? Stated policies, and Istio's default. Follows `retry.go`.

use api::networking::HttpRetry;
use protos::envoy::config::route::v3 as route;

use crate::wire::{any, api_duration};

/// Istio's default: two attempts elsewhere for what surely did not reach the application.
const DEFAULT_RETRY_ON: &str = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";

fn previous_hosts() -> route::retry_policy::RetryHostPredicate {
    use protos::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
    route::retry_policy::RetryHostPredicate {
        name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
        config_type: Some(route::retry_policy::retry_host_predicate::ConfigType::TypedConfig(any(
            &PreviousHostsPredicate {},
        ))),
    }
}

/// The retry policy of a rule, or Istio's default without one. `None`: retries are off.
///
/// With affinity by hash the previous host is not excluded, or every retry would break it.
pub fn retry(policy: Option<&HttpRetry>, hashed: bool) -> Option<route::RetryPolicy> {
    let mut out = route::RetryPolicy {
        retry_on: DEFAULT_RETRY_ON.to_owned(),
        num_retries: Some(2),
        host_selection_retry_max_attempts: 5,
        ..Default::default()
    };
    if !hashed {
        out.retry_host_predicate = vec![previous_hosts()];
    }
    let Some(policy) = policy else { return Some(out) };
    if policy.attempts <= 0 {
        return None;
    }
    out.num_retries = u32::try_from(policy.attempts).ok();
    if !policy.retry_on.is_empty() {
        let (words, codes) = split_retry_on(&policy.retry_on);
        out.retry_on = words;
        out.retriable_status_codes = codes;
    }
    out.per_try_timeout = policy.per_try_timeout.map(api_duration);
    out.retry_back_off = back_off(policy);
    match policy.retry_ignore_previous_hosts {
        Some(true) => out.retry_host_predicate = vec![previous_hosts()],
        Some(false) => out.retry_host_predicate.clear(),
        None => {}
    }
    if policy.retry_remote_localities == Some(true) {
        use protos::envoy::extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;
        let config = PreviousPrioritiesConfig { update_frequency: 2 };
        out.retry_priority = Some(route::retry_policy::RetryPriority {
            name: "envoy.retry_priorities.previous_priorities".to_owned(),
            config_type: Some(route::retry_policy::retry_priority::ConfigType::TypedConfig(any(&config))),
        });
    }
    Some(out)
}

/// What surely did not reach the application: tried again on the way in.
const INBOUND_RETRY_ON: &str = "reset-before-request";

/// The retry policy towards the application: the mesh's, over one that only repeats what was never sent. `None`:
/// retries are off.
pub fn inbound(policy: Option<&HttpRetry>) -> Option<route::RetryPolicy> {
    let mut out =
        route::RetryPolicy { retry_on: INBOUND_RETRY_ON.to_owned(), num_retries: Some(2), ..Default::default() };
    let Some(policy) = policy else {
        return Some(out);
    };
    if policy.attempts <= 0 {
        return None;
    }
    out.num_retries = u32::try_from(policy.attempts).ok();
    if !policy.retry_on.is_empty() {
        (out.retry_on, out.retriable_status_codes) = split_retry_on(&policy.retry_on);
    }
    // Timeouts and pauses are the client's side's.
    Some(out)
}

fn back_off(policy: &HttpRetry) -> Option<route::retry_policy::RetryBackOff> {
    policy
        .backoff
        .map(|b| route::retry_policy::RetryBackOff { base_interval: Some(api_duration(b)), max_interval: None })
}

/// Separates status codes, which Envoy wants in a list of their own and announced by a word.
fn split_retry_on(text: &str) -> (String, Vec<u32>) {
    let mut words: Vec<&str> = Vec::new();
    let mut codes = Vec::new();
    for part in text.split(',').map(str::trim) {
        if part.is_empty() {
            continue;
        }
        match part.parse::<u32>() {
            Ok(code) => codes.push(code),
            Err(_) => words.push(part),
        }
    }
    const CODES: &str = "retriable-status-codes";
    if !codes.is_empty() && !words.contains(&CODES) {
        words.push(CODES);
    }
    (words.join(","), codes)
}

/// Status codes by their gRPC names.
pub(super) const GRPC_CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];
