//! Which settings do many clusters have in common? Equal ones are kept once.
//!
//! A control plane gives thousands of clusters the same balancing, breakers and HTTP options. A value is compared with the last few
//! of its kind that are still in use; configuration is parsed on one thread.

use std::cell::RefCell;
use std::sync::{Arc, Weak};

use crate::cluster::{CircuitBreakers, LbConfig, OutlierDetection, UpstreamHttp};

/// Distinct values of a kind that are remembered.
const KEPT_MAX: usize = 8;

/// The last distinct values of one kind.
type Recent<T> = RefCell<Vec<Weak<T>>>;

thread_local! {
    static LB: Recent<LbConfig> = const { RefCell::new(Vec::new()) };
    static BREAKERS: Recent<CircuitBreakers> = const { RefCell::new(Vec::new()) };
    static OUTLIER: Recent<OutlierDetection> = const { RefCell::new(Vec::new()) };
    static HTTP: Recent<UpstreamHttp> = const { RefCell::new(Vec::new()) };
}

pub(super) fn lb(value: LbConfig) -> Arc<LbConfig> {
    LB.with(|recent| shared(recent, value, LbConfig::eq))
}

pub(super) fn breakers(value: CircuitBreakers) -> Arc<CircuitBreakers> {
    BREAKERS.with(|recent| shared(recent, value, CircuitBreakers::eq))
}

pub(super) fn outlier(value: OutlierDetection) -> Arc<OutlierDetection> {
    OUTLIER.with(|recent| shared(recent, value, OutlierDetection::eq))
}

pub(super) fn http(value: UpstreamHttp) -> Arc<UpstreamHttp> {
    HTTP.with(|recent| shared(recent, value, same_http))
}

/// Filters and matchers are not compared: whoever has them is on its own.
fn same_http(a: &UpstreamHttp, b: &UpstreamHttp) -> bool {
    let UpstreamHttp {
        protocol,
        common,
        idle_timeout,
        http1,
        http2,
        auto_sni,
        auto_san_validation,
        override_auto_sni_header,
        outlier_error_matcher,
        filters,
    } = a;
    filters.is_empty()
        && b.filters.is_empty()
        && outlier_error_matcher.is_none()
        && b.outlier_error_matcher.is_none()
        && *protocol == b.protocol
        && *common == b.common
        && *idle_timeout == b.idle_timeout
        && *http1 == b.http1
        && *http2 == b.http2
        && *auto_sni == b.auto_sni
        && *auto_san_validation == b.auto_san_validation
        && *override_auto_sni_header == b.override_auto_sni_header
}

fn shared<T>(recent: &Recent<T>, value: T, same: fn(&T, &T) -> bool) -> Arc<T> {
    let mut recent = recent.borrow_mut();
    if let Some(known) = recent.iter().filter_map(Weak::upgrade).find(|known| same(known, &value)) {
        return known;
    }
    recent.retain(|known| known.strong_count() > 0);
    recent.truncate(KEPT_MAX - 1);
    let value = Arc::new(value);
    recent.insert(0, Arc::downgrade(&value));
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_one_and_others_are_not() {
        let value = |max| CircuitBreakers { per_host_max_connections: Some(max), ..CircuitBreakers::default() };
        let first = breakers(value(1));
        let others: Vec<_> = (2..=KEPT_MAX as u32).map(|n| breakers(value(n))).collect();
        assert!(Arc::ptr_eq(&first, &breakers(value(1))));
        assert!(others.iter().all(|o| !Arc::ptr_eq(o, &first)));
        // One more than is remembered: the oldest is forgotten, not wrong.
        let more = breakers(value(100));
        assert_eq!(more.per_host_max_connections, Some(100));
        assert_eq!(*breakers(value(1)), *first);
    }

    #[test]
    fn what_is_no_longer_used_is_dropped() {
        let weak = Arc::downgrade(&outlier_of(3));
        assert!(weak.upgrade().is_none());
    }

    fn outlier_of(n: u32) -> Arc<CircuitBreakers> {
        breakers(CircuitBreakers { per_host_max_connections: Some(n), ..Default::default() })
    }
}
