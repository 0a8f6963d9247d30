//! `/clusters`: each cluster's limits and hosts, as text lines or as `envoy.admin.v3.Clusters`.

use std::fmt::Write;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use protos::envoy::admin::v3 as admin;
use protos::envoy::config::cluster::v3::CircuitBreakers;
use protos::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use protos::envoy::config::core::v3 as core;
use protos::envoy::r#type::v3::Percent;
use proxy_config::cluster::{Discovery, HealthStatus};
use proxy_config::route::Priority;
use proxy_core::health::flag;
use upstream::outlier::Rates;
use upstream::{Cluster, Host, Resource};

use super::json;
use super::query::Query;
use super::reply::Reply;
use crate::server::Server;

/// Word in text, priority, its limits by name.
type Limits = (&'static str, core::RoutingPriority, [(&'static str, u32); 4]);

fn limits(cluster: &Cluster) -> [Limits; 2] {
    let of = |priority| {
        let breakers = cluster.breakers(priority);
        [
            ("max_connections", breakers.limit(Resource::Connections)),
            ("max_pending_requests", breakers.limit(Resource::Pending)),
            ("max_requests", breakers.limit(Resource::Requests)),
            ("max_retries", breakers.limit(Resource::Retries)),
        ]
    };
    [
        ("default", core::RoutingPriority::Default, of(Priority::Default)),
        ("high", core::RoutingPriority::High, of(Priority::High)),
    ]
}

/// (name, value, is a gauge) in the order of the text page.
fn numbers(host: &Host) -> [(&'static str, u64, bool); 9] {
    let s = &host.stats;
    let pending = 0;
    [
        ("cx_active", s.cx_active.load(Relaxed).into(), true),
        ("cx_connect_fail", s.cx_connect_fail.load(Relaxed), false),
        ("cx_total", s.cx_total.load(Relaxed), false),
        ("rq_active", s.rq_active.load(Relaxed).into(), true),
        ("rq_error", s.rq_error.load(Relaxed), false),
        ("rq_pending_active", pending, true),
        ("rq_success", s.rq_success.load(Relaxed), false),
        ("rq_timeout", s.rq_timeout.load(Relaxed), false),
        ("rq_total", s.rq_total.load(Relaxed), false),
    ]
}

fn flags(host: &Host) -> String {
    let told = |s: &[HealthStatus]| s.contains(&host.told);
    // In the order of Envoy's flag bits.
    let all: [(&str, bool); 10] = [
        ("/failed_active_hc", host.has_flag(flag::FAILED_ACTIVE_HC)),
        ("/failed_outlier_check", host.stats.ejection.ejected.load(Relaxed)),
        ("/failed_eds_health", told(&[HealthStatus::Unhealthy, HealthStatus::Timeout])),
        ("/degraded_active_hc", host.has_flag(flag::DEGRADED_ACTIVE_HC)),
        ("/degraded_eds_health", told(&[HealthStatus::Degraded])),
        ("/pending_dynamic_removal", host.has_flag(flag::PENDING_DYNAMIC_REMOVAL)),
        ("/pending_active_hc", host.has_flag(flag::PENDING_ACTIVE_HC)),
        ("/excluded_via_immediate_hc_fail", host.has_flag(flag::EXCLUDED_VIA_IMMEDIATE_HC_FAIL)),
        ("/active_hc_timeout", host.has_flag(flag::ACTIVE_HC_TIMEOUT)),
        ("/eds_status_draining", told(&[HealthStatus::Draining])),
    ];
    let set: String = all.iter().filter(|(_, is)| *is).map(|(word, _)| *word).collect();
    if set.is_empty() { "healthy".into() } else { set }
}

fn text(server: &Server, clusters: &[Arc<Cluster>]) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    for cluster in clusters {
        let name = &cluster.config.name;
        let observed = cluster.config.alt_stat_name.as_ref().unwrap_or(name);
        let _ = writeln!(out, "{name}::observability_name::{observed}");
        if let Some((external, local)) = rates(cluster) {
            let _ = write!(
                out,
                "{name}::outlier::success_rate_average::{}\n{name}::outlier::success_rate_ejection_threshold::{}\n\
                 {name}::outlier::local_origin_success_rate_average::{}\n\
                 {name}::outlier::local_origin_success_rate_ejection_threshold::{}\n",
                short(external.average),
                short(external.threshold),
                short(local.average),
                short(local.threshold)
            );
        }
        for (word, _, values) in limits(cluster) {
            for (key, value) in values {
                let _ = writeln!(out, "{name}::{word}_priority::{key}::{value}");
            }
        }
        let _ = writeln!(out, "{name}::added_via_api::{}", server.config.borrow().clusters.is_dynamic(name));
        if let Discovery::Eds { service_name, .. } = &cluster.config.discovery {
            let _ = writeln!(out, "{name}::eds_service_name::{service_name}");
        }
        for host in hosts(cluster) {
            let at = &host.text;
            for (key, value, _) in numbers(&host) {
                let _ = writeln!(out, "{name}::{at}::{key}::{value}");
            }
            let l = &host.locality;
            let _ = write!(
                out,
                "{name}::{at}::hostname::{}\n{name}::{at}::health_flags::{}\n{name}::{at}::weight::{}\n\
                 {name}::{at}::region::{}\n{name}::{at}::zone::{}\n{name}::{at}::sub_zone::{}\n\
                 {name}::{at}::canary::false\n{name}::{at}::priority::{}\n\
                 {name}::{at}::success_rate::{}\n{name}::{at}::local_origin_success_rate::{}\n",
                host.hostname,
                flags(&host),
                host.weight,
                l.region,
                l.zone,
                l.sub_zone,
                host.priority,
                short(host.stats.ejection.external.rate()),
                short(host.stats.ejection.local.rate())
            );
        }
    }
    out
}

/// What outlier detection found last, if the cluster has it.
fn rates(cluster: &Cluster) -> Option<(Rates, Rates)> {
    cluster.config.outlier_detection.as_ref()?;
    let judgement = cluster.judgement();
    Some((judgement.external, judgement.local))
}

fn hosts(cluster: &Cluster) -> Vec<Arc<Host>> {
    let mut all: Vec<_> = cluster.hosts_view().hosts.to_vec();
    all.extend(cluster.original_hosts());
    all.extend(cluster.dynamic_hosts());
    all
}

pub use upstream::address::proto as address;

fn status(server: &Server, cluster: &Cluster) -> admin::ClusterStatus {
    let name = cluster.config.name.to_string();
    let thresholds = limits(cluster).map(|(_, priority, values)| Thresholds {
        priority: priority as i32,
        max_connections: Some(values[0].1),
        max_pending_requests: Some(values[1].1),
        max_requests: Some(values[2].1),
        max_retries: Some(values[3].1),
        ..Default::default()
    });
    admin::ClusterStatus {
        added_via_api: server.config.borrow().clusters.is_dynamic(&name),
        observability_name: cluster.config.alt_stat_name.as_ref().unwrap_or(&cluster.config.name).to_string(),
        eds_service_name: match &cluster.config.discovery {
            Discovery::Eds { service_name, .. } if *service_name != cluster.config.name => service_name.to_string(),
            _ => String::new(),
        },
        circuit_breakers: Some(CircuitBreakers { thresholds: thresholds.into(), ..Default::default() }),
        success_rate_ejection_threshold: rates(cluster).and_then(|r| percent(r.0.threshold)),
        local_origin_success_rate_ejection_threshold: rates(cluster).and_then(|r| percent(r.1.threshold)),
        host_statuses: hosts(cluster).iter().map(|h| host_status(h)).collect(),
        name,
    }
}

/// A number as `%g` prints it: six significant digits, no idle zeros.
fn short(value: f64) -> String {
    let digits = if value.abs() >= 1.0 { value.abs().log10().floor() as i32 + 1 } else { 1 };
    let text = format!("{:.*}", (6 - digits).clamp(0, 6) as usize, value);
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

fn percent(value: f64) -> Option<Percent> {
    (value >= 0.0).then_some(Percent { value })
}

fn host_status(host: &Host) -> admin::HostStatus {
    use admin::simple_metric::Type;
    let values = numbers(host);
    let metric = |&(name, value, gauge): &(&str, u64, bool)| admin::SimpleMetric {
        r#type: if gauge { Type::Gauge } else { Type::Counter } as i32,
        value,
        name: name.to_owned(),
    };
    let counters = values.iter().filter(|v| !v.2);
    let told = match host.told {
        HealthStatus::Unknown => core::HealthStatus::Healthy,
        other => core::HealthStatus::try_from(other as i32).unwrap_or(core::HealthStatus::Unknown),
    };
    let (external, local) = (host.stats.ejection.external.rate(), host.stats.ejection.local.rate());
    admin::HostStatus {
        address: Some(address(&host.address)),
        stats: counters.chain(values.iter().filter(|v| v.2)).map(metric).collect(),
        health_status: Some(admin::HostHealthStatus {
            failed_active_health_check: host.has_flag(flag::FAILED_ACTIVE_HC),
            failed_outlier_check: host.stats.ejection.ejected.load(Relaxed),
            failed_active_degraded_check: host.has_flag(flag::DEGRADED_ACTIVE_HC),
            pending_dynamic_removal: host.has_flag(flag::PENDING_DYNAMIC_REMOVAL),
            pending_active_hc: host.has_flag(flag::PENDING_ACTIVE_HC),
            excluded_via_immediate_hc_fail: host.has_flag(flag::EXCLUDED_VIA_IMMEDIATE_HC_FAIL),
            active_hc_timeout: host.has_flag(flag::ACTIVE_HC_TIMEOUT),
            failed_degraded_outlier_detection: false,
            eds_health_status: told as i32,
        }),
        weight: host.weight,
        hostname: host.hostname.to_string(),
        priority: host.priority,
        locality: Some(upstream::address::locality(&host.locality)),
        success_rate: percent(external),
        local_origin_success_rate: percent(local),
    }
}

pub fn reply(server: &Rc<Server>, query: &Query) -> Reply {
    let filter = match query.regex("filter") {
        Ok(filter) => filter,
        Err(e) => return Reply::text(400, e),
    };
    let mut clusters = server.registry.all();
    clusters.retain(|c| filter.as_ref().is_none_or(|f| f.is_match(&c.config.name)));
    clusters.sort_by(|a, b| a.config.name.cmp(&b.config.name));
    match query.get("format") {
        Some("json") => {
            let cluster_statuses = clusters.iter().map(|c| status(server, c)).collect();
            Reply::json(json::pretty(&json::of(&admin::Clusters { cluster_statuses })))
        }
        _ => Reply::text(200, text(server, &clusters)),
    }
}
