//! Is a fault injected into this request? Delay, abort and response rate of Envoy's fault filter.

use std::time::Duration;

use proxy_config::common::Fraction;
use proxy_config::filters::http::{AbortKind, Fault};

use crate::{HeaderView, matcher};

/// How a request is aborted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abort {
    /// HTTP status.
    Http(u16),
    /// gRPC status (HTTP 200 with `grpc-status`).
    Grpc(u32),
}

fn number<H: HeaderView + ?Sized>(headers: &H, name: &[u8]) -> Option<u64> {
    std::str::from_utf8(headers.get(name)?).ok()?.trim().parse().ok()
}

/// The fault's share: a header may lower a configured percentage, never raise it.
fn share<H: HeaderView + ?Sized>(configured: Fraction, by_header: bool, headers: &H, name: &[u8]) -> Fraction {
    match number(headers, name) {
        Some(n) if by_header => {
            let n = u32::try_from(n).unwrap_or(u32::MAX).min(configured.numerator);
            Fraction { numerator: n, denominator: configured.denominator }
        }
        _ => configured,
    }
}

/// True when the fault is meant for this request: cluster, node and headers.
pub fn applies<H: HeaderView + ?Sized>(fault: &Fault, headers: &H, cluster: &str) -> bool {
    if !fault.upstream_cluster.is_empty() && &*fault.upstream_cluster != cluster {
        return false;
    }
    if !fault.downstream_nodes.is_empty() {
        let node = headers.get(b"x-envoy-downstream-service-node").unwrap_or_default();
        if !fault.downstream_nodes.iter().any(|n| n.as_bytes() == node) {
            return false;
        }
    }
    matcher::headers(&fault.headers, headers)
}

/// The delay to inject.
pub fn delay<H: HeaderView + ?Sized>(fault: &Fault, headers: &H, random: u64) -> Option<Duration> {
    let d = fault.delay.as_ref()?;
    let by_header = d.fixed.is_none();
    let fraction = share(d.fraction, by_header, headers, b"x-envoy-fault-delay-request-percentage");
    let length = d.fixed.or_else(|| number(headers, b"x-envoy-fault-delay-request").map(Duration::from_millis))?;
    (fraction.hit(random) && !length.is_zero()).then_some(length)
}

/// The abort to inject (after the delay). `random` is a draw of its own.
pub fn abort<H: HeaderView + ?Sized>(fault: &Fault, headers: &H, random: u64) -> Option<Abort> {
    let a = fault.abort.as_ref()?;
    let kind = match a.kind {
        AbortKind::Http(s) => Abort::Http(s),
        AbortKind::Grpc(s) => Abort::Grpc(s),
        AbortKind::Header => match number(headers, b"x-envoy-fault-abort-request") {
            Some(s @ 200..600) => Abort::Http(s as u16),
            Some(_) => return None,
            None => Abort::Grpc(u32::try_from(number(headers, b"x-envoy-fault-abort-grpc-request")?).ok()?),
        },
    };
    let by_header = matches!(a.kind, AbortKind::Header);
    share(a.fraction, by_header, headers, b"x-envoy-fault-abort-request-percentage").hit(random).then_some(kind)
}

/// The response rate limit to inject, KiB per second.
pub fn rate_limit<H: HeaderView + ?Sized>(fault: &Fault, headers: &H, random: u64) -> Option<u64> {
    let r = fault.response_rate_limit.as_ref()?;
    let by_header = r.limit_kbps.is_none();
    let kbps = r.limit_kbps.or_else(|| number(headers, b"x-envoy-fault-throughput-response")).filter(|n| *n > 0)?;
    let fraction = share(r.fraction, by_header, headers, b"x-envoy-fault-throughput-response-percentage");
    fraction.hit(random).then_some(kbps)
}

#[cfg(test)]
mod tests {
    use proxy_config::filters::http::{FaultAbort, FaultDelay};

    use super::*;
    use crate::header_view::HeaderList;

    #[test]
    fn header_control() {
        let fault = Fault {
            delay: Some(FaultDelay { fixed: None, fraction: Fraction::ALWAYS }),
            abort: Some(FaultAbort { kind: AbortKind::Header, fraction: Fraction::ALWAYS }),
            upstream_cluster: "c".into(),
            headers: Box::default(),
            downstream_nodes: Box::default(),
            max_active_faults: None,
            response_rate_limit: None,
            disable_downstream_cluster_stats: false,
            filter_metadata: Default::default(),
        };
        let none = HeaderList::default();
        assert!(applies(&fault, &none, "c") && !applies(&fault, &none, "d"));
        assert_eq!(delay(&fault, &none, 0), None);
        let h = HeaderList::of(&[("x-envoy-fault-delay-request", "5"), ("x-envoy-fault-abort-request", "503")]);
        assert_eq!(delay(&fault, &h, 99), Some(Duration::from_millis(5)));
        assert_eq!(abort(&fault, &h, 99), Some(Abort::Http(503)));
        let half =
            HeaderList::of(&[("x-envoy-fault-delay-request", "5"), ("x-envoy-fault-delay-request-percentage", "50")]);
        assert_eq!(delay(&fault, &half, 50), None);
        assert_eq!(delay(&fault, &half, 49), Some(Duration::from_millis(5)));
    }
}
