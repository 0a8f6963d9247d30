//! How long may a request take? The route's limits, overridden by `x-envoy-*` and `grpc-timeout` headers.

use std::time::Duration;

use http1::HeaderId;
use proxy_config::route::Forward;

use crate::connection::Conn;
use crate::exchange::Exchange;

/// The time limits in force for one request (`FilterUtility::finalTimeout`).
pub struct Timeouts {
    /// Of the whole exchange with the upstream.
    pub global: Option<Duration>,
    /// Of each try.
    pub per_try: Option<Duration>,
    /// Of the stream.
    pub stream: Option<Duration>,
    keep_expected: bool,
}

impl Timeouts {
    /// Reads them from the route and the request's headers, which it consumes.
    pub fn read(conn: &Conn, ex: &mut Exchange, f: &Forward) -> Self {
        let limits = &f.max_stream_duration;
        // A route that limits the stream has no response timeout of its own.
        let limited = limits.max_stream_duration.is_some() || limits.grpc_timeout_header_max.is_some();
        let mut global = f.timeout.filter(|_| !limited);
        if ex.grpc
            && let Some(max) = limits.max_grpc_timeout
        {
            global = grpc_timeout(ex)
                .map(|t| if max.is_zero() { t } else { t.min(max) })
                .map(|t| match limits.grpc_timeout_offset {
                    Some(offset) if t > offset => t - offset,
                    _ => t,
                })
                .or((!max.is_zero()).then_some(max));
        }
        let mut stream =
            limits.max_stream_duration.or(conn.manager.config.common.max_stream_duration).filter(|d| !d.is_zero());
        if ex.grpc
            && let Some(max) = limits.grpc_timeout_header_max
            && let Some(t) = grpc_timeout(ex)
        {
            let t = if max.is_zero() { t } else { t.min(max) };
            let offset = limits.grpc_timeout_header_offset.unwrap_or_default();
            stream = Some(if t > offset { t - offset } else { t });
        }
        if ex.grpc
            && limited
            && let Some(d) = stream
        {
            let mut digits = [0u8; 20];
            let mut text = decimal(&mut digits, d.as_millis() as u64).to_vec();
            text.push(b'm');
            ex.request.set_id(HeaderId::GRPC_TIMEOUT, &text);
        }
        let mut per_try = f.retry.as_ref().and_then(|r| r.per_try_timeout);
        let respect = conn.manager.router.respect_expected_rq_timeout;
        let mut keep_expected = false;
        if respect && let Some(ms) = header_ms(ex, HeaderId::X_ENVOY_EXPECTED_RQ_TIMEOUT_MS) {
            global = Some(ms);
            keep_expected = true;
        } else if let Some(ms) = header_ms(ex, HeaderId::X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS) {
            global = Some(ms);
            ex.request.remove_id(HeaderId::X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS);
        }
        if ex.request.has(HeaderId::X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS) {
            if let Some(ms) = header_ms(ex, HeaderId::X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS) {
                per_try = Some(ms);
            }
            ex.request.remove_id(HeaderId::X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS);
        }
        let global = global.filter(|d| !d.is_zero());
        let per_try = per_try.filter(|d| !d.is_zero() && global.is_none_or(|g| *d < g));
        Timeouts { global, per_try, stream, keep_expected }
    }

    /// Tells the upstream how long it has.
    pub fn write(&self, ex: &mut Exchange, router: &proxy_config::filters::http::Router) {
        if router.suppress_envoy_headers || self.keep_expected {
            return;
        }
        let Some(expected) = self.per_try.or(self.global) else {
            return;
        };
        let mut digits = [0u8; 20];
        let text = decimal(&mut digits, expected.as_millis() as u64);
        ex.request.set_id(HeaderId::X_ENVOY_EXPECTED_RQ_TIMEOUT_MS, text);
    }
}

/// A number as text without an allocation.
pub fn decimal(digits: &mut [u8; 20], mut n: u64) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            return &digits[at..];
        }
    }
}

fn header_ms(ex: &Exchange, id: HeaderId) -> Option<Duration> {
    let text = std::str::from_utf8(ex.request.get_id(id)?).ok()?;
    text.parse().ok().map(Duration::from_millis)
}

/// `grpc-timeout`: up to eight digits and a unit.
fn grpc_timeout(ex: &Exchange) -> Option<Duration> {
    let text = ex.request.get_id(HeaderId::GRPC_TIMEOUT)?;
    let (unit, digits) = text.split_last()?;
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
