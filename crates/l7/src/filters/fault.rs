//! Which requests are delayed or aborted on purpose?
//!
//! Follows Envoy's `FaultFilter`: delay first, abort after it, both by their own draw.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http1::HeaderId;
use proxy_config::Name;
use proxy_config::common::Fraction;
use proxy_config::filters::FilterOverride;
use proxy_config::filters::http::{self as config, AbortKind};
use telemetry::access_log::ResponseFlags;
use telemetry::stats::envoy::{fault as stat, fault_by_cluster as by_cluster};
use telemetry::stats::{Block, Counter, Store};

use super::{FilterCx, FilterState, Step};
use crate::decide;
use crate::exchange::Exchange;
use crate::manager::Deps;
use crate::reply::LocalReply;
use crate::request::split_port;

/// Longest delay that a header may ask for.
const HEADER_DELAY_MAX: Duration = Duration::from_secs(3600);
/// Downstream clusters that are counted one by one: requests name them, so there could be any number.
const CLUSTERS_MAX: usize = 256;

/// The filter of one chain.
pub struct Fault {
    config: Arc<config::Fault>,
    stats: Block<stat::Fault>,
    store: Arc<Store>,
    clusters: Mutex<BTreeMap<Box<str>, Block<by_cluster::FaultByCluster>>>,
    active: AtomicU32,
}

/// A fault is active on this request.
pub struct Active;

impl Fault {
    /// Compiles the filter.
    pub fn new(config: Arc<config::Fault>, stat_prefix: &Name, deps: &Deps<'_>) -> Self {
        let stats = deps.store.block(&format!("http.{stat_prefix}.fault."));
        let store = deps.store.clone();
        Fault { config, stats, store, clusters: Mutex::default(), active: AtomicU32::new(0) }
    }

    fn config<'a>(&'a self, over: Option<&'a FilterOverride>) -> &'a config::Fault {
        match over {
            Some(FilterOverride::Fault(f)) => f,
            _ => &self.config,
        }
    }

    /// Decides on delay and abort.
    pub fn on_request(&self, cx: &FilterCx<'_>, ex: &mut Exchange, over: Option<&FilterOverride>) -> Step {
        let c = self.config(over);
        if c.delay.is_none() && c.abort.is_none() || !self.concerns(c, cx, ex) {
            return Step::Continue;
        }
        if let Some(d) = &c.delay
            && let Some((duration, fraction)) = delay(d, ex)
            && fraction.hit(cx.conn.worker.random())
            && !duration.is_zero()
        {
            if !self.admit(c, ex) {
                return Step::Continue;
            }
            self.count(stat::DELAYS_INJECTED, by_cluster::DELAYS_INJECTED, ex);
            ex.flags.insert(ResponseFlags::DELAY_INJECTED);
            return Step::Delay(duration);
        }
        self.abort(c, cx, ex)
    }

    /// The delay is over.
    pub fn on_resume(&self, cx: &FilterCx<'_>, ex: &mut Exchange, over: Option<&FilterOverride>) -> Step {
        self.abort(self.config(over), cx, ex)
    }

    /// The request is over.
    pub fn on_end(&self, ex: &mut Exchange) {
        if let Some(i) = ex.filters.iter().position(|s| matches!(s, FilterState::Fault(_))) {
            ex.filters.swap_remove(i);
            self.active.fetch_sub(1, Ordering::Relaxed);
            self.stats.gauge_sub(stat::ACTIVE_FAULTS, 1);
        }
    }

    /// Counts a fault, also for the cluster that the request says it comes from.
    fn count(&self, all: Counter<stat::Fault>, one: Counter<by_cluster::FaultByCluster>, ex: &Exchange) {
        self.stats.inc(all);
        let from = ex.request.get_id(HeaderId::X_ENVOY_DOWNSTREAM_SERVICE_CLUSTER).unwrap_or(b"");
        let Some(from) = std::str::from_utf8(from).ok().filter(|f| !f.is_empty()) else {
            return;
        };
        let mut clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        if !clusters.contains_key(from) {
            if clusters.len() >= CLUSTERS_MAX {
                return;
            }
            clusters.insert(from.into(), self.store.block(&format!("{}{from}.", self.stats.prefix())));
        }
        if let Some(stats) = clusters.get(from) {
            stats.inc(one);
        }
    }

    fn concerns(&self, c: &config::Fault, cx: &FilterCx<'_>, ex: &Exchange) -> bool {
        if !c.upstream_cluster.is_empty()
            && cx.found.and_then(|f| decide::cluster_name(f, ex)).as_deref() != Some(&*c.upstream_cluster)
        {
            return false;
        }
        if !c.downstream_nodes.is_empty() {
            let node = ex.request.get(b"x-envoy-downstream-service-node").unwrap_or(b"");
            if !c.downstream_nodes.iter().any(|n| n.as_bytes() == node) {
                return false;
            }
        }
        decide::headers_match(&c.headers, &ex.request)
    }

    /// Counts the fault in, unless too many are active.
    fn admit(&self, c: &config::Fault, ex: &mut Exchange) -> bool {
        if c.max_active_faults.is_some_and(|max| self.active.load(Ordering::Relaxed) >= max) {
            self.stats.inc(stat::FAULTS_OVERFLOW);
            return false;
        }
        if !ex.filters.iter().any(|s| matches!(s, FilterState::Fault(_))) {
            self.active.fetch_add(1, Ordering::Relaxed);
            self.stats.gauge_add(stat::ACTIVE_FAULTS, 1);
            ex.filters.push(FilterState::Fault(Active));
        }
        true
    }

    fn abort(&self, c: &config::Fault, cx: &FilterCx<'_>, ex: &mut Exchange) -> Step {
        let Some(abort) = &c.abort else {
            return Step::Continue;
        };
        let Some((status, grpc, fraction)) = abort_kind(abort, ex) else {
            return Step::Continue;
        };
        if !fraction.hit(cx.conn.worker.random()) || !self.admit(c, ex) {
            return Step::Continue;
        }
        self.count(stat::ABORTS_INJECTED, by_cluster::ABORTS_INJECTED, ex);
        let mut reply = LocalReply::text(status, "fault filter abort", "fault_filter_abort");
        reply.grpc_status = grpc;
        reply.flags = ResponseFlags::FAULT_INJECTED;
        Step::reply(reply)
    }
}

fn number(ex: &Exchange, name: &str) -> Option<u64> {
    std::str::from_utf8(ex.request.get(name.as_bytes())?).ok()?.parse().ok()
}

/// A header may lower the configured share, never raise it.
fn share(configured: &Fraction, ex: &Exchange, name: &str) -> Fraction {
    let numerator =
        number(ex, name).map_or(configured.numerator, |n| configured.numerator.min(n.min(u32::MAX as u64) as u32));
    Fraction { numerator, denominator: configured.denominator }
}

fn delay(d: &config::FaultDelay, ex: &Exchange) -> Option<(Duration, Fraction)> {
    match d.fixed {
        Some(fixed) => Some((fixed, d.fraction)),
        None => {
            let ms = number(ex, "x-envoy-fault-delay-request")?;
            let percentage = share(&d.fraction, ex, "x-envoy-fault-delay-request-percentage");
            Some((Duration::from_millis(ms).min(HEADER_DELAY_MAX), percentage))
        }
    }
}

fn abort_kind(a: &config::FaultAbort, ex: &Exchange) -> Option<(u16, Option<u32>, Fraction)> {
    match a.kind {
        AbortKind::Http(status) => Some((status, None, a.fraction)),
        AbortKind::Grpc(status) => Some((crate::reply::http_status(status), Some(status), a.fraction)),
        AbortKind::Header => {
            let percentage = share(&a.fraction, ex, "x-envoy-fault-abort-request-percentage");
            if let Some(status) = number(ex, "x-envoy-fault-abort-request") {
                return (200..600).contains(&status).then_some((status as u16, None, percentage));
            }
            let grpc = number(ex, "x-envoy-fault-abort-grpc-request")? as u32;
            Some((crate::reply::http_status(grpc), Some(grpc), percentage))
        }
    }
}

/// Host part of an authority, for callers that compare hosts.
pub fn host(authority: &[u8]) -> &[u8] {
    split_port(authority).map_or(authority, |(h, _)| h)
}
