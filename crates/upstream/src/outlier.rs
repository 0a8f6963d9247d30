//! Which hosts are put aside because they fail? Envoy's outlier detection.
//!
//! [`report`] counts outcomes on the workers and ejects after a run of failures; [`tick`] runs on the config thread at
//! each cluster's interval: it returns hosts whose time is over and judges success rates. Ejections of one cluster are
//! serialized by its [`Judgement`]; counting takes no lock.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, MutexGuard, OnceLock};
use std::time::Instant;

use proxy_config::cluster::OutlierDetection;
use telemetry::stats::envoy::outlier_detection as stat;

use crate::cluster::Cluster;
use crate::host::{Host, Outcome, Window};
use crate::outlier_events::{self as events, Action, Why};

/// What the last interval showed about all hosts, percent; -1 when there was too little to tell.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Average success rate.
    pub average: f64,
    /// Hosts below are ejected.
    pub threshold: f64,
}

impl Default for Rates {
    fn default() -> Self {
        Rates { average: -1.0, threshold: -1.0 }
    }
}

/// Held while hosts of a cluster are ejected or returned.
#[derive(Debug, Default)]
pub struct Judgement {
    /// By what hosts answered.
    pub external: Rates,
    /// By whether hosts could be reached.
    pub local: Rates,
}

pub(crate) fn now_ms() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_millis() as u64
}

/// Counts an outcome and ejects the host when a run of failures is long enough.
pub fn report(cluster: &Cluster, rules: &OutlierDetection, host: &Host, outcome: Outcome) {
    let split = rules.split_external_local_origin_errors;
    match outcome {
        Outcome::Status(status) => {
            if split {
                reached(host);
            }
            answered(cluster, rules, host, status);
        }
        Outcome::Connected if split => reached(host),
        Outcome::Connected => answered(cluster, rules, host, 200),
        Outcome::ConnectFailed if split => unreached(cluster, rules, host),
        Outcome::Reset | Outcome::Timeout if split => {
            // There was a connection, then not.
            reached(host);
            unreached(cluster, rules, host);
        }
        // Without the split, a host that cannot be reached counts as if it had answered.
        Outcome::Timeout => answered(cluster, rules, host, 504),
        Outcome::ConnectFailed | Outcome::Reset => answered(cluster, rules, host, 503),
    }
}

fn reached(host: &Host) {
    let e = &host.stats.ejection;
    e.local.count(true);
    e.consecutive_local.store(0, Relaxed);
}

fn unreached(cluster: &Cluster, rules: &OutlierDetection, host: &Host) {
    let e = &host.stats.ejection;
    e.local.count(false);
    if e.consecutive_local.fetch_add(1, Relaxed) + 1 == rules.consecutive_local_origin_failure {
        run_of_failures(cluster, rules, host, Why::ConsecutiveLocalOriginFailure);
        e.consecutive_local.store(0, Relaxed);
    }
}

fn answered(cluster: &Cluster, rules: &OutlierDetection, host: &Host, status: u16) {
    let e = &host.stats.ejection;
    e.external.count(status < 500);
    if status < 500 {
        e.consecutive_5xx.store(0, Relaxed);
        e.consecutive_gateway.store(0, Relaxed);
        return;
    }
    if matches!(status, 502..=504) {
        if e.consecutive_gateway.fetch_add(1, Relaxed) + 1 == rules.consecutive_gateway_failure {
            run_of_failures(cluster, rules, host, Why::ConsecutiveGatewayFailure);
            e.consecutive_gateway.store(0, Relaxed);
        }
    } else {
        e.consecutive_gateway.store(0, Relaxed);
    }
    if e.consecutive_5xx.fetch_add(1, Relaxed) + 1 == rules.consecutive_5xx {
        run_of_failures(cluster, rules, host, Why::Consecutive5xx);
        e.consecutive_5xx.store(0, Relaxed);
    }
}

fn run_of_failures(cluster: &Cluster, rules: &OutlierDetection, host: &Host, why: Why) {
    let judgement = cluster.judgement();
    if host.stats.ejection.ejected.load(Relaxed) {
        return;
    }
    let ejected = eject(cluster, rules, host, why, &judgement);
    if why == Why::Consecutive5xx {
        cluster.outlier_stats().inc(stat::EJECTIONS_CONSECUTIVE_5XX);
    }
    drop(judgement);
    if ejected {
        cluster.health_changed();
    }
}

/// Whether one more host may be ejected.
fn may_eject(rules: &OutlierDetection, ejected: usize, hosts: usize) -> bool {
    let percent = 100.0 * (ejected + 1) as f64 / hosts.max(1) as f64;
    ejected == 0 && rules.always_eject_one_host || percent <= f64::from(rules.max_ejection_percent.min(100))
}

/// Ejects a host if enforcement (percent) and the largest ejected share allow it.
fn eject(
    cluster: &Cluster,
    rules: &OutlierDetection,
    host: &Host,
    why: Why,
    judgement: &MutexGuard<'_, Judgement>,
) -> bool {
    let (detected, enforced, enforcing) = why.of(rules);
    let stats = cluster.outlier_stats();
    stats.inc(detected);
    let set = cluster.hosts();
    let ejected = set.hosts.iter().filter(|h| h.stats.ejection.ejected.load(Relaxed)).count();
    if !may_eject(rules, ejected, set.hosts.len()) {
        stats.inc(stat::EJECTIONS_OVERFLOW);
        return false;
    }
    if matches!(why, Why::Consecutive5xx | Why::SuccessRate) {
        stats.inc(stat::EJECTIONS_TOTAL);
    }
    let enforce = rand::random::<u32>() % 100 < enforcing;
    let e = &host.stats.ejection;
    if enforce {
        stats.inc(stat::EJECTIONS_ENFORCED_TOTAL);
        stats.inc(enforced);
        e.ejected.store(true, Relaxed);
        host.give_up_connections();
        e.since_ms.store(now_ms(), Relaxed);
        e.count.fetch_add(1, Relaxed);
        let jitter = rules.max_ejection_time_jitter.as_millis() as u64;
        e.jitter_ms.store(if jitter > 0 { rand::random::<u64>() % (jitter + 1) } else { 0 }, Relaxed);
        let (base, most) = (rules.base_ejection_time, rules.max_ejection_time);
        if base * e.backoff.load(Relaxed) < most + base {
            e.backoff.fetch_add(1, Relaxed);
        }
        stats.gauge_set(stat::EJECTIONS_ACTIVE, ejected as u64 + 1);
    }
    events::write(cluster, host, Action::Eject { why, enforced: enforce }, judgement);
    enforce
}

/// Returns a host into service. The caller rebuilds the balancer.
fn uneject(cluster: &Cluster, host: &Host, judgement: &MutexGuard<'_, Judgement>) {
    let e = &host.stats.ejection;
    e.ejected.store(false, Relaxed);
    e.consecutive_5xx.store(0, Relaxed);
    e.consecutive_gateway.store(0, Relaxed);
    e.consecutive_local.store(0, Relaxed);
    events::write(cluster, host, Action::Uneject, judgement);
    e.until_ms.store(now_ms(), Relaxed);
    let set = cluster.hosts();
    let ejected = set.hosts.iter().filter(|h| h.stats.ejection.ejected.load(Relaxed)).count();
    cluster.outlier_stats().gauge_set(stat::EJECTIONS_ACTIVE, ejected as u64);
}

/// An active health check passed: an ejected host returns (`successful_active_health_check_uneject_host`).
/// True if it did.
pub(crate) fn check_passed(cluster: &Cluster, host: &Host) -> bool {
    let wanted =
        cluster.config.outlier_detection.as_ref().is_some_and(|r| r.successful_active_health_check_uneject_host);
    if !wanted || !host.stats.ejection.ejected.load(Relaxed) {
        return false;
    }
    uneject(cluster, host, &cluster.judgement());
    true
}

/// One interval of a cluster: returns hosts whose ejection is over, then judges success rates.
pub fn tick(cluster: &Cluster) {
    let Some(rules) = cluster.config.outlier_detection.clone() else {
        return;
    };
    let mut judgement = cluster.judgement();
    let set = cluster.hosts();
    let (mut changed, now) = (false, now_ms());
    for host in &set.hosts {
        let e = &host.stats.ejection;
        if !e.ejected.load(Relaxed) {
            // It behaved since the last look: the next ejection is a little shorter again.
            let less = e.backoff.load(Relaxed).saturating_sub(1);
            e.backoff.store(less, Relaxed);
            continue;
        }
        let time = (rules.base_ejection_time * e.backoff.load(Relaxed)).min(rules.max_ejection_time);
        let time = time.as_millis() as u64 + e.jitter_ms.load(Relaxed);
        if now >= e.since_ms.load(Relaxed) + time {
            uneject(cluster, host, &judgement);
            changed = true;
        }
    }
    for local in [false, true] {
        changed |= judge_rates(cluster, &rules, &set.hosts, local, &mut judgement);
    }
    drop(judgement);
    if changed {
        cluster.health_changed();
    }
}

fn window(host: &Host, local: bool) -> &Window {
    let e = &host.stats.ejection;
    if local { &e.local } else { &e.external }
}

fn judge_rates(
    cluster: &Cluster,
    rules: &OutlierDetection,
    hosts: &[Arc<Host>],
    local: bool,
    judgement: &mut MutexGuard<'_, Judgement>,
) -> bool {
    let mut rates: Vec<(&Arc<Host>, f64, u32)> = Vec::new();
    let least = rules.success_rate_request_volume.min(rules.failure_percentage_request_volume);
    for host in hosts {
        let (total, rate) = window(host, local).take();
        let known = total > 0 && total >= least && !host.stats.ejection.ejected.load(Relaxed);
        window(host, local).set_rate(known.then_some(rate));
        if known {
            rates.push((host, rate, total));
        }
    }
    let slot = if local { &mut judgement.local } else { &mut judgement.external };
    *slot = Rates::default();
    let mut changed = false;
    let enough: Vec<_> = rates.iter().filter(|r| r.2 >= rules.success_rate_request_volume).collect();
    if !enough.is_empty() && enough.len() >= rules.success_rate_minimum_hosts as usize {
        *slot = threshold(enough.iter().map(|r| r.1), rules.success_rate_stdev_factor);
        let (below, why) = (slot.threshold, if local { Why::SuccessRateLocalOrigin } else { Why::SuccessRate });
        for (host, ..) in enough.iter().filter(|r| r.1 < below) {
            cluster.outlier_stats().inc(stat::EJECTIONS_SUCCESS_RATE);
            changed |= eject(cluster, rules, host, why, judgement);
        }
    }
    let enough: Vec<_> = rates.iter().filter(|r| r.2 >= rules.failure_percentage_request_volume).collect();
    if !enough.is_empty() && enough.len() >= rules.failure_percentage_minimum_hosts as usize {
        let why = if local { Why::FailurePercentageLocalOrigin } else { Why::FailurePercentage };
        for (host, ..) in enough.iter().filter(|r| 100.0 - r.1 >= f64::from(rules.failure_percentage_threshold)) {
            // As in Envoy, a host that was ejected just now by its rate is not counted twice.
            if !host.stats.ejection.ejected.load(Relaxed) {
                changed |= eject(cluster, rules, host, why, judgement);
            }
        }
    }
    changed
}

/// Mean, and mean less so many standard deviations (thousandths).
fn threshold(rates: impl Iterator<Item = f64> + Clone, factor: u32) -> Rates {
    let n = rates.clone().count().max(1) as f64;
    let average = rates.clone().sum::<f64>() / n;
    let variance = rates.map(|r| (r - average).powi(2)).sum::<f64>() / n;
    Rates { average, threshold: average - f64::from(factor) / 1000.0 * variance.sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds() {
        let r = threshold([50.0, 100.0, 100.0, 100.0, 100.0].into_iter(), 1900);
        assert_eq!((r.average, r.threshold), (90.0, 52.0));
    }

    #[test]
    fn the_ejected_share_has_a_limit() {
        let mut rules = OutlierDetection { max_ejection_percent: 10, ..Default::default() };
        assert!(!may_eject(&rules, 0, 5));
        assert!(may_eject(&rules, 0, 10) && !may_eject(&rules, 1, 10));
        rules.always_eject_one_host = true;
        assert!(may_eject(&rules, 0, 1) && !may_eject(&rules, 1, 2));
        rules.max_ejection_percent = 100;
        assert!(may_eject(&rules, 1, 2));
    }
}
