//! Is this request traced, and why? Envoy's sampling, remembered inside the request id.
//!
//! The 15th character of `x-request-id` tells the decision to every proxy on the way: `4` undecided or not traced,
//! `9` sampled, `a` forced by a service, `b` forced by the client.

use http1::{HeaderBlock, HeaderId};
use proxy_config::common::Fraction;
use proxy_config::tracing::RouteTracing;

use super::Tracer;

/// Why a request is traced, or is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    NotTraceable,
    Sampling,
    ServiceForced,
    ClientForced,
    HealthCheck,
}

/// Where the reason stands in a request id.
const REASON_AT: usize = 14;
/// Characters of a UUID.
const UUID_CHARS: usize = 36;

fn read(id: &[u8]) -> Reason {
    match id.get(REASON_AT) {
        Some(b'9') => Reason::Sampling,
        Some(b'a') => Reason::ServiceForced,
        Some(b'b') => Reason::ClientForced,
        _ => Reason::NotTraceable,
    }
}

/// The number that an id stands for in sampling: its first eight digits.
fn number(id: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(id.get(..8)?).ok()?;
    (id.len() == UUID_CHARS).then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}

/// Of ten thousand, as Envoy draws.
fn hit(fraction: &Fraction, of_10000: u64) -> bool {
    u64::from(fraction.numerator) * 10_000 > of_10000 * u64::from(fraction.denominator)
}

pub(super) fn decide(tracer: &Tracer, route: Option<&RouteTracing>, request: &mut HeaderBlock, fresh: u64) -> Reason {
    if !tracer.use_request_id {
        return Reason::Sampling;
    }
    let Some(id) = request.get_id(HeaderId::X_REQUEST_ID) else { return Reason::NotTraceable };
    let Some(number) = number(id) else { return Reason::NotTraceable };
    let drawn = number % 10_000;
    let config = &tracer.config;
    let pick = |of_route: Option<Fraction>, own: Fraction| of_route.unwrap_or(own);
    let client = pick(route.and_then(|r| r.client_sampling), config.client_sampling);
    let random = pick(route.and_then(|r| r.random_sampling), config.random_sampling);
    let overall = pick(route.and_then(|r| r.overall_sampling), config.overall_sampling);
    let mut reason = read(id);
    if reason == Reason::NotTraceable {
        if request.has(HeaderId::X_CLIENT_TRACE_ID) && hit(&client, fresh % 10_000) {
            reason = Reason::ClientForced;
        } else if request.has(HeaderId::X_ENVOY_FORCE_TRACE) {
            reason = Reason::ServiceForced;
        } else if hit(&random, drawn) {
            reason = Reason::Sampling;
        }
    }
    if reason != Reason::NotTraceable && !hit(&overall, drawn) {
        reason = Reason::NotTraceable;
    }
    if tracer.pack_reason {
        let mark = match reason {
            Reason::Sampling => b'9',
            Reason::ServiceForced => b'a',
            Reason::ClientForced => b'b',
            Reason::NotTraceable | Reason::HealthCheck => b'4',
        };
        if request.get_id(HeaderId::X_REQUEST_ID).and_then(|id| id.get(REASON_AT)) != Some(&mark)
            && let Some(mut id) = request.get_id(HeaderId::X_REQUEST_ID).map(<[u8]>::to_vec)
        {
            id[REASON_AT] = mark;
            request.set_id(HeaderId::X_REQUEST_ID, &id);
        }
    }
    reason
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_tell() {
        assert_eq!(number(b"0000000a-0000-4000-8000-000000000000"), Some(10));
        assert_eq!(number(b"x"), None);
        assert_eq!(number(b"0000000g-0000-4000-8000-000000000000"), None);
        assert_eq!(read(b"0000000a-0000-9000-8000-000000000000"), Reason::Sampling);
        assert_eq!(read(b"0000000a-0000-b000-8000-000000000000"), Reason::ClientForced);
        let half = Fraction { numerator: 500_000, denominator: 1_000_000 };
        assert!(hit(&half, 4_999) && !hit(&half, 5_000) && hit(&Fraction::ALWAYS, 9_999) && !hit(&Fraction::NEVER, 0));
    }
}
