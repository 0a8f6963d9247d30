//! Which hosts are put aside because they fail? Envoy's outlier detection.
//!
//! [`report`] counts outcomes on the workers; [`Detector::tick`] runs on the config thread at each
//! cluster's interval: it returns hosts whose time is over and judges success rates.

use std::sync::OnceLock;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use proxy_config::cluster::OutlierDetection;
use telemetry::stats::envoy::outlier_detection as stat;

use crate::cluster::Cluster;
use crate::host::{Host, Outcome};

fn now_ms() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_millis() as u64
}

/// Counts an outcome and ejects the host when a run of failures is long enough.
pub fn report(cluster: &Cluster, rules: &OutlierDetection, host: &Host, outcome: Outcome) {
    let e = &host.stats.ejection;
    // Without the split, a host that cannot be reached counts as if it had answered 503 (504 for timeouts).
    let split = rules.split_external_local_origin_errors;
    let status = match outcome {
        Outcome::Status(s) => s,
        Outcome::ConnectFailed | Outcome::Reset | Outcome::Timeout if split => {
            let n = e.consecutive_local.fetch_add(1, Relaxed) + 1;
            if n == rules.consecutive_local_origin_failure {
                cluster.outlier_stats().inc(stat::EJECTIONS_DETECTED_CONSECUTIVE_LOCAL_ORIGIN_FAILURE);
                let share = rules.enforcing_consecutive_local_origin_failure;
                if eject(cluster, rules, host, share) {
                    cluster.outlier_stats().inc(stat::EJECTIONS_ENFORCED_CONSECUTIVE_LOCAL_ORIGIN_FAILURE);
                }
                e.consecutive_local.store(0, Relaxed);
            }
            return;
        }
        Outcome::Timeout => 504,
        Outcome::ConnectFailed | Outcome::Reset => 503,
    };
    e.consecutive_local.store(0, Relaxed);
    e.interval_total.fetch_add(1, Relaxed);
    if status < 500 {
        e.interval_success.fetch_add(1, Relaxed);
        e.consecutive_5xx.store(0, Relaxed);
        e.consecutive_gateway.store(0, Relaxed);
        return;
    }
    if matches!(status, 502..=504) {
        let n = e.consecutive_gateway.fetch_add(1, Relaxed) + 1;
        if n == rules.consecutive_gateway_failure {
            cluster.outlier_stats().inc(stat::EJECTIONS_DETECTED_CONSECUTIVE_GATEWAY_FAILURE);
            if eject(cluster, rules, host, rules.enforcing_consecutive_gateway_failure) {
                cluster.outlier_stats().inc(stat::EJECTIONS_ENFORCED_CONSECUTIVE_GATEWAY_FAILURE);
            }
            e.consecutive_gateway.store(0, Relaxed);
        }
    } else {
        e.consecutive_gateway.store(0, Relaxed);
    }
    let n = e.consecutive_5xx.fetch_add(1, Relaxed) + 1;
    if n == rules.consecutive_5xx {
        cluster.outlier_stats().inc(stat::EJECTIONS_DETECTED_CONSECUTIVE_5XX);
        cluster.outlier_stats().inc(stat::EJECTIONS_CONSECUTIVE_5XX);
        if eject(cluster, rules, host, rules.enforcing_consecutive_5xx) {
            cluster.outlier_stats().inc(stat::EJECTIONS_ENFORCED_CONSECUTIVE_5XX);
        }
        e.consecutive_5xx.store(0, Relaxed);
    }
}

/// Ejects a host if enforcement (percent) and the largest ejected share allow it.
fn eject(cluster: &Cluster, rules: &OutlierDetection, host: &Host, enforcing: u32) -> bool {
    let stats = cluster.outlier_stats();
    let e = &host.stats.ejection;
    if enforcing == 0 || (now_ms() ^ host.stats.rq_total.load(Relaxed)) % 100 >= u64::from(enforcing) {
        return false;
    }
    let set = cluster.hosts();
    let ejected = set.hosts.iter().filter(|h| h.stats.ejection.ejected.load(Relaxed)).count();
    let percent = 100.0 * ejected as f64 / set.hosts.len().max(1) as f64;
    let first = ejected == 0 && rules.always_eject_one_host;
    if !first && percent >= f64::from(rules.max_ejection_percent) && rules.max_ejection_percent < 100
        || rules.max_ejection_percent == 0 && !first
    {
        stats.inc(stat::EJECTIONS_OVERFLOW);
        return false;
    }
    if e.ejected.swap(true, Relaxed) {
        return false;
    }
    e.since_ms.store(now_ms(), Relaxed);
    e.times.fetch_add(1, Relaxed);
    stats.inc(stat::EJECTIONS_TOTAL);
    stats.inc(stat::EJECTIONS_ENFORCED_TOTAL);
    stats.gauge_add(stat::EJECTIONS_ACTIVE, 1);
    cluster.health_changed();
    true
}

/// One interval of a cluster: returns hosts whose ejection is over, then judges success rates.
pub fn tick(cluster: &Cluster) {
    let Some(rules) = cluster.config.outlier_detection.clone() else {
        return;
    };
    let set = cluster.hosts();
    let now = now_ms();
    let mut changed = false;
    for h in set.hosts.iter() {
        let e = &h.stats.ejection;
        if !e.ejected.load(Relaxed) {
            let times = e.times.load(Relaxed);
            if times > 0 && now > e.since_ms.load(Relaxed) + rules.interval.as_millis() as u64 * 2 {
                e.times.store(times - 1, Relaxed);
            }
            continue;
        }
        let times = u64::from(e.times.load(Relaxed).max(1));
        let base = rules.base_ejection_time.as_millis() as u64;
        let most = rules.max_ejection_time.max(rules.base_ejection_time).as_millis() as u64;
        if now >= e.since_ms.load(Relaxed) + (base * times).min(most) {
            e.ejected.store(false, Relaxed);
            e.consecutive_5xx.store(0, Relaxed);
            e.consecutive_gateway.store(0, Relaxed);
            e.consecutive_local.store(0, Relaxed);
            cluster.outlier_stats().gauge_sub(stat::EJECTIONS_ACTIVE, 1);
            changed = true;
        }
    }
    judge_success_rates(cluster, &rules);
    if changed {
        cluster.health_changed();
    }
}

fn judge_success_rates(cluster: &Cluster, rules: &OutlierDetection) {
    let set = cluster.hosts();
    let mut rates: Vec<(usize, f64, u32)> = Vec::new();
    for (i, h) in set.hosts.iter().enumerate() {
        let e = &h.stats.ejection;
        let total = e.interval_total.swap(0, Relaxed);
        let success = e.interval_success.swap(0, Relaxed);
        if total > 0 && !e.ejected.load(Relaxed) {
            rates.push((i, 100.0 * f64::from(success) / f64::from(total), total));
        }
    }
    let enough: Vec<_> = rates.iter().filter(|r| r.2 >= rules.success_rate_request_volume).collect();
    if rules.enforcing_success_rate > 0 && enough.len() >= rules.success_rate_minimum_hosts.max(1) as usize {
        let n = enough.len() as f64;
        let mean = enough.iter().map(|r| r.1).sum::<f64>() / n;
        let variance = enough.iter().map(|r| (r.1 - mean).powi(2)).sum::<f64>() / n;
        let threshold = mean - f64::from(rules.success_rate_stdev_factor) / 1000.0 * variance.sqrt();
        for (i, ..) in enough.iter().filter(|r| r.1 < threshold) {
            let stats = cluster.outlier_stats();
            stats.inc(stat::EJECTIONS_DETECTED_SUCCESS_RATE);
            if eject(cluster, rules, &set.hosts[*i], rules.enforcing_success_rate) {
                stats.inc(stat::EJECTIONS_ENFORCED_SUCCESS_RATE);
            }
        }
    }
    let enough: Vec<_> = rates.iter().filter(|r| r.2 >= rules.failure_percentage_request_volume).collect();
    if rules.enforcing_failure_percentage > 0 && enough.len() >= rules.failure_percentage_minimum_hosts.max(1) as usize
    {
        for (i, ..) in enough.iter().filter(|r| 100.0 - r.1 >= f64::from(rules.failure_percentage_threshold)) {
            let stats = cluster.outlier_stats();
            stats.inc(stat::EJECTIONS_DETECTED_FAILURE_PERCENTAGE);
            if eject(cluster, rules, &set.hosts[*i], rules.enforcing_failure_percentage) {
                stats.inc(stat::EJECTIONS_ENFORCED_FAILURE_PERCENTAGE);
            }
        }
    }
}
