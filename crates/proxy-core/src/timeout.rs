//! How long may this request take? Route, gRPC and `x-envoy-*` header timeouts resolved into one set.

use std::time::Duration;

use proxy_config::route::{Forward, RetryPolicy};

use crate::{HeaderEdit, HeaderView, matcher};

/// The timeouts of one request; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timeouts {
    /// From the end of the request to the end of the response.
    pub global: Option<Duration>,
    /// Of one try.
    pub per_try: Option<Duration>,
    /// Of one try without progress.
    pub per_try_idle: Option<Duration>,
    /// A per-try timeout starts another try without ending the first.
    pub hedge_on_per_try: bool,
}

fn header_ms<H: HeaderView + ?Sized>(headers: &H, name: &[u8]) -> Option<Duration> {
    std::str::from_utf8(headers.get(name)?).ok()?.parse().ok().map(Duration::from_millis)
}

/// Reads `grpc-timeout` (`100m`, `3S`, ...).
pub fn grpc_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let n: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(n * 3600),
        b'M' => Duration::from_secs(n * 60),
        b'S' => Duration::from_secs(n),
        b'm' => Duration::from_millis(n),
        b'u' => Duration::from_micros(n),
        b'n' => Duration::from_nanos(n),
        _ => return None,
    })
}

fn some_if_positive(d: Duration) -> Option<Duration> {
    (!d.is_zero()).then_some(d)
}

/// Resolves timeouts and removes the control headers; sets `x-envoy-expected-rq-timeout-ms` unless suppressed.
///
/// Follows `FilterUtility::finalTimeout` and `setTimeoutHeaders` of Envoy's router.
pub fn resolve<H: HeaderEdit>(
    forward: &Forward,
    policy: Option<&RetryPolicy>,
    headers: &mut H,
    respect_expected: bool,
    suppress_envoy_headers: bool,
) -> Timeouts {
    let limits = &forward.max_stream_duration;
    let grpc = matcher::is_grpc(headers);
    let told = headers.get(b"grpc-timeout").and_then(grpc_timeout);
    let (mut global, grpc_rules) = match (limits.grpc_timeout_header_max, limits.max_grpc_timeout) {
        (Some(max), _) if grpc => (capped(told, limits.grpc_timeout_header_offset, max), false),
        (None, Some(max)) if grpc => (capped(told, limits.grpc_timeout_offset, max), true),
        _ => (forward.timeout, false),
    };
    let mut per_try = policy.and_then(|p| p.per_try_timeout);
    if let Some(d) = header_ms(headers, b"x-envoy-upstream-rq-timeout-ms") {
        global = some_if_positive(d);
    } else if respect_expected && let Some(d) = header_ms(headers, b"x-envoy-expected-rq-timeout-ms") {
        global = some_if_positive(d);
    }
    if let Some(d) = header_ms(headers, b"x-envoy-upstream-rq-per-try-timeout-ms") {
        per_try = some_if_positive(d);
    }
    headers.remove(b"x-envoy-upstream-rq-timeout-ms");
    headers.remove(b"x-envoy-upstream-rq-per-try-timeout-ms");
    if let (Some(g), Some(p)) = (global, per_try)
        && p >= g
    {
        per_try = None;
    }
    let hedge_on_per_try = forward.hedge.is_some_and(|h| h.hedge_on_per_try_timeout);
    let expected = if hedge_on_per_try { global } else { per_try.or(global) };
    if let Some(expected) = expected {
        let ms = expected.as_millis().to_string();
        if !suppress_envoy_headers {
            headers.set(b"x-envoy-expected-rq-timeout-ms", ms.as_bytes());
        }
        if grpc && grpc_rules {
            headers.set(b"grpc-timeout", format!("{ms}m").as_bytes());
        }
    }
    Timeouts { global, per_try, per_try_idle: policy.and_then(|p| p.per_try_idle_timeout), hedge_on_per_try }
}

/// The client's wish less the offset, at most `max` (zero: without bound).
fn capped(told: Option<Duration>, offset: Option<Duration>, max: Duration) -> Option<Duration> {
    let wish = told.and_then(some_if_positive).map(|t| match offset {
        Some(o) if o < t => t - o,
        _ => t,
    });
    match (wish, some_if_positive(max)) {
        (Some(w), Some(m)) => Some(w.min(m)),
        (None, bound) => bound,
        (wish, None) => wish,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts() {
        assert_eq!(grpc_timeout(b"100m"), Some(Duration::from_millis(100)));
        assert_eq!(grpc_timeout(b"3S"), Some(Duration::from_secs(3)));
        assert_eq!(grpc_timeout(b"3"), None);
        assert_eq!(grpc_timeout(b"999999999S"), None);
        assert_eq!(grpc_timeout(b""), None);
    }

    #[test]
    fn caps() {
        let ms = Duration::from_millis;
        assert_eq!(capped(Some(ms(100)), None, ms(50)), Some(ms(50)));
        assert_eq!(capped(Some(ms(100)), Some(ms(10)), ms(0)), Some(ms(90)));
        assert_eq!(capped(None, None, ms(0)), None);
        assert_eq!(capped(None, None, ms(7)), Some(ms(7)));
    }
}
