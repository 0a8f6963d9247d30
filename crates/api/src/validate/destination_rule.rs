//! Does a `DestinationRule` make sense? Its parts are shared with `MeshConfig` and `Sidecar`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Check;
use super::common::{
    duration, export_to, fqdn, ip_address, label_selector, labels, not_negative, optional_duration, percent, port,
    wildcard_domain,
};
use super::virtual_service::subset_name;
use crate::destination_rule::{
    ConnectionPoolSettings, DestinationRule, Failover, H2UpgradePolicy, LoadBalancerSettings,
    LocalityLoadBalancerSetting, OutlierDetection, PortTrafficPolicy, RetryBudget, SimpleLb, Tls, TlsMode,
    TrafficPolicy, TunnelSettings, ZoneAwareLoadBalancerSetting,
};

/// Largest Maglev table that Envoy accepts.
const MAGLEV_TABLE_MAX: u32 = 5_000_011;

/// Validates the whole resource.
pub fn destination_rule(c: &mut Check, dr: &DestinationRule, namespace: &str) {
    c.check("host", wildcard_domain(&dr.host));
    c.field("trafficPolicy", |c| traffic_policy(c, dr.traffic_policy.as_ref()));
    let mut seen = BTreeSet::new();
    c.each("subsets", &dr.subsets, |c, subset| {
        c.check("name", subset_name(&subset.name));
        if !seen.insert(&subset.name) {
            c.field("name", |c| {
                c.warn(format!("subset {:?} is defined twice; the first definition is used", subset.name))
            });
        }
        c.check("labels", labels(&subset.labels));
        c.field("trafficPolicy", |c| traffic_policy(c, subset.traffic_policy.as_ref()));
    });
    label_selector(c, "workloadSelector", dr.workload_selector.as_ref());
    export_to(c, namespace, &dr.export_to, false, dr.workload_selector.is_some());
}

/// A traffic policy; absent is fine, empty is not.
pub fn traffic_policy(c: &mut Check, policy: Option<&TrafficPolicy>) {
    let Some(p) = policy else { return };
    c.error_if(*p == TrafficPolicy::default(), "traffic policy must have at least one field");
    c.error_if(p.tunnel.is_some() && p.proxy_protocol.is_some(), "tunnel and proxyProtocol must not be set together");
    block(c, &p.outlier_detection, &p.connection_pool, &p.load_balancer, &p.tls);
    c.each("portLevelSettings", &p.port_level_settings, port_traffic_policy);
    c.field("tunnel", |c| tunnel(c, p.tunnel.as_ref()));
    c.field("retryBudget", |c| retry_budget(c, p.retry_budget.as_ref()));
}

fn block(
    c: &mut Check,
    outlier: &Option<OutlierDetection>,
    pool: &Option<ConnectionPoolSettings>,
    lb: &Option<LoadBalancerSettings>,
    tls: &Option<Tls>,
) {
    c.field("outlierDetection", |c| outlier_detection(c, outlier.as_ref()));
    c.field("connectionPool", |c| connection_pool(c, pool.as_ref()));
    c.field("loadBalancer", |c| load_balancer(c, lb.as_ref(), outlier.as_ref()));
    c.field("tls", |c| client_tls(c, tls.as_ref()));
}

fn port_traffic_policy(c: &mut Check, p: &PortTrafficPolicy) {
    match &p.port {
        Some(selector) => c.check("port.number", port(selector.number)),
        None => c.error("portTrafficPolicy must have valid port"),
    }
    let empty =
        p.outlier_detection.is_none() && p.connection_pool.is_none() && p.load_balancer.is_none() && p.tls.is_none();
    c.error_if(empty, "port traffic policy must have at least one field");
    block(c, &p.outlier_detection, &p.connection_pool, &p.load_balancer, &p.tls);
}

fn tunnel(c: &mut Check, tunnel: Option<&TunnelSettings>) {
    let Some(t) = tunnel else { return };
    let known = matches!(t.protocol.as_str(), "" | "CONNECT" | "POST");
    c.error_if(!known, format!("tunnel protocol must be \"CONNECT\" or \"POST\" (it is {:?})", t.protocol));
    if t.target_host.is_empty() {
        c.error("tunnel target host cannot be empty");
    } else if fqdn(&t.target_host).is_err() && ip_address(&t.target_host).is_err() {
        c.error(format!("tunnel target host must be valid FQDN or IP address: {}", t.target_host));
    }
    c.check("targetPort", port(t.target_port));
}

fn retry_budget(c: &mut Check, budget: Option<&RetryBudget>) {
    let Some(b) = budget else { return };
    if let Some(p) = b.percent {
        c.check("percent", percent(p));
    }
    c.check("budgetInterval", optional_duration(b.budget_interval));
}

/// Passive health checking.
pub fn outlier_detection(c: &mut Check, outlier: Option<&OutlierDetection>) {
    let Some(o) = outlier else { return };
    c.check("interval", optional_duration(o.interval));
    c.check("baseEjectionTime", optional_duration(o.base_ejection_time));
    if o.consecutive_errors != 0 {
        c.field("consecutiveErrors", |c| {
            c.warn("is deprecated and ignored, use consecutiveGatewayErrors or consecutive5xxErrors instead");
        });
    }
    c.error_if(
        !o.split_external_local_origin_errors && o.consecutive_local_origin_failures.is_some_and(|n| n > 0),
        "outlier detection consecutiveLocalOriginFailures is specified, but splitExternalLocalOriginErrors is set to false",
    );
    c.check("maxEjectionPercent", percent(f64::from(o.max_ejection_percent)));
    c.check("minHealthPercent", percent(f64::from(o.min_health_percent)));
    c.each("outlierDetectionHttpErrorCodes", &o.outlier_detection_http_error_codes, |c, code| {
        c.error_if(!(100..600).contains(code), format!("HTTP status {code} is not in range 100-599"));
    });
}

/// Connection pools.
pub fn connection_pool(c: &mut Check, pool: Option<&ConnectionPoolSettings>) {
    let Some(pool) = pool else { return };
    c.error_if(pool.http.is_none() && pool.tcp.is_none(), "connection pool must have at least one field");
    if let Some(http) = &pool.http {
        c.field("http", |c| {
            not_negative(c, "http1MaxPendingRequests", http.http1_max_pending_requests);
            not_negative(c, "http2MaxRequests", http.http2_max_requests);
            not_negative(c, "maxRequestsPerConnection", http.max_requests_per_connection);
            not_negative(c, "maxRetries", http.max_retries);
            not_negative(c, "maxConcurrentStreams", http.max_concurrent_streams);
            c.check("idleTimeout", optional_duration(http.idle_timeout));
            c.error_if(
                http.h2_upgrade_policy == H2UpgradePolicy::Upgrade && http.use_client_protocol,
                "use client protocol must not be true when H2UpgradePolicy is UPGRADE",
            );
            if let Some(keep_alive) = &http.http2_keep_alive {
                for (name, value) in [("interval", keep_alive.interval), ("timeout", keep_alive.timeout)] {
                    let result = value.map_or_else(|| Err("required with http2KeepAlive".into()), duration);
                    c.check(&format!("http2KeepAlive.{name}"), result);
                }
            }
        });
    }
    if let Some(tcp) = &pool.tcp {
        c.field("tcp", |c| {
            not_negative(c, "maxConnections", tcp.max_connections);
            c.check("connectTimeout", optional_duration(tcp.connect_timeout));
            c.check("maxConnectionDuration", optional_duration(tcp.max_connection_duration));
            // Zero disables the timeout.
            c.check("idleTimeout", optional_duration(tcp.idle_timeout.filter(|d| !d.is_zero())));
        });
    }
}

/// Load balancing; failover wants outlier detection beside it.
pub fn load_balancer(c: &mut Check, lb: Option<&LoadBalancerSettings>, outlier: Option<&OutlierDetection>) {
    let Some(lb) = lb else { return };
    c.error_if(
        lb.locality_lb_setting.is_some() && lb.zone_aware_lb_setting.is_some(),
        "only one of localityLbSetting and zoneAwareLbSetting can be set",
    );
    if let Some(hash) = &lb.consistent_hash {
        c.field("consistentHash", |c| {
            if let Some(cookie) = &hash.http_cookie {
                c.field("httpCookie", |c| {
                    c.error_if(cookie.name.is_empty(), "name required for HttpCookie");
                    c.error_if(cookie.ttl.is_some_and(|t| t.as_nanos() < 0), "ttl must not be negative");
                    let mut seen = BTreeSet::new();
                    c.each("attributes", &cookie.attributes, |c, a| {
                        c.error_if(a.name.is_empty(), "name required for HttpCookie attribute");
                        c.error_if(!seen.insert(a.name.as_str()), format!("duplicate attribute {:?}", a.name));
                    });
                });
            }
            for (name, value) in [
                ("httpHeaderName", &hash.http_header_name),
                ("httpQueryParameterName", &hash.http_query_parameter_name),
            ] {
                let empty = value.as_ref().is_some_and(String::is_empty);
                c.check(name, if empty { Err("must not be empty".into()) } else { Ok(()) });
            }
            if let Some(maglev) = &hash.maglev {
                let size = maglev.table_size;
                let ok = size == 0 || (is_prime(size) && size <= MAGLEV_TABLE_MAX);
                c.check(
                    "maglev.tableSize",
                    if ok { Ok(()) } else { Err(format!("{size} is not a prime number up to {MAGLEV_TABLE_MAX}")) },
                );
            }
        });
    }
    c.error_if(
        lb.backend_utilization.is_some() && lb.consistent_hash.is_some(),
        "backendUtilization and consistentHash exclude each other",
    );
    if lb.backend_utilization.is_some() {
        c.field("backendUtilization", |c| {
            c.warn("is accepted and has no effect (endpoint-reported utilization is not implemented)")
        });
    }
    c.check("warmupDurationSecs", optional_duration(lb.warmup_duration_secs));
    if let Some(warmup) = &lb.warmup {
        c.field("warmup", |c| {
            match warmup.duration {
                Some(d) => c.check("duration", duration(d)),
                None => c.field("duration", |c| c.error("Required value")),
            }
            if let Some(p) = warmup.minimum_percent {
                c.check("minimumPercent", percent(p).map_err(|e| format!("Invalid value: {e}")));
            }
            if let Some(a) = warmup.aggression {
                c.check(
                    "aggression",
                    if a >= 0.0 { Ok(()) } else { Err(format!("Invalid value: {a} is less than 0")) },
                );
            }
        });
    }
    let slow_start = lb.warmup.is_some() || lb.warmup_duration_secs.is_some();
    if slow_start
        && (lb.consistent_hash.is_some() || matches!(lb.simple, Some(SimpleLb::Random | SimpleLb::Passthrough)))
    {
        c.field("warmup", |c| c.warn("has an effect with ROUND_ROBIN and LEAST_REQUEST only"));
    }
    c.field("localityLbSetting", |c| locality_lb(c, lb.locality_lb_setting.as_ref(), outlier.is_some()));
    c.field("zoneAwareLbSetting", |c| zone_aware_lb(c, lb.zone_aware_lb_setting.as_ref(), outlier.is_some()));
}

fn is_prime(n: u32) -> bool {
    n > 1 && (2..).take_while(|d: &u32| d.saturating_mul(*d) <= n).all(|d| !n.is_multiple_of(d))
}

const TOPOLOGY: [&str; 3] =
    ["topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"];

/// Balancing between localities.
pub fn locality_lb(c: &mut Check, lb: Option<&LocalityLoadBalancerSetting>, outlier: bool) {
    let Some(lb) = lb else { return };
    c.error_if(
        !lb.distribute.is_empty() && !lb.failover.is_empty(),
        "can not simultaneously specify 'distribute' and 'failover'",
    );
    if !lb.failover.is_empty() {
        for label in lb.failover_priority.iter().filter(|l| TOPOLOGY.contains(&l.as_str())) {
            c.error(format!(
                "can not simultaneously set 'failover' and topology label '{label}' in 'failoverPriority'"
            ));
        }
    }
    let mut sources = Vec::new();
    c.each("distribute", &lb.distribute, |c, d| {
        sources.push(d.from.as_str());
        for (to, weight) in &d.to {
            c.error_if(
                !(1..=100).contains(weight),
                format!("locality weight must be in range [1, 100] ({to} has {weight})"),
            );
        }
        let total: u64 = d.to.values().map(|w| u64::from(*w)).sum();
        c.error_if(total != 100, format!("total locality weight {total} != 100"));
        let to: Vec<&str> = d.to.keys().map(String::as_str).collect();
        c.check("to", localities(&to));
    });
    c.check("distribute", localities(&sources));
    failover(c, &lb.failover, !lb.failover_priority.is_empty(), outlier);
}

fn failover(c: &mut Check, list: &[Failover], priority: bool, outlier: bool) {
    if (!list.is_empty() || priority) && !outlier {
        c.warn("outlier detection policy must be provided for failover (without it no endpoint ever fails over)");
    }
    c.each("failover", list, |c, f| {
        c.error_if(
            f.from == f.to,
            format!("locality lb failover settings must specify different regions ({})", f.from),
        );
        for region in [&f.from, &f.to] {
            c.error_if(region.contains('*'), "locality lb failover region should not contain '*' wildcard");
            c.error_if(region.contains('/'), format!("locality lb failover only specify region (found {region})"));
        }
    });
}

/// Envoy's zone-aware balancing.
pub fn zone_aware_lb(c: &mut Check, lb: Option<&ZoneAwareLoadBalancerSetting>, outlier: bool) {
    let Some(lb) = lb else { return };
    for label in lb.failover_priority.iter().filter(|l| TOPOLOGY.contains(&l.as_str())) {
        c.error(format!(
            "failoverPriority must not contain the topology label '{label}' (zones are handled by zone awareness)"
        ));
    }
    if let Some(0) = lb.min_cluster_size {
        c.field("minClusterSize", |c| c.error("must be at least 1"));
    }
    failover(c, &lb.failover, !lb.failover_priority.is_empty(), outlier);
}

/// A set of localities `region/zone/subzone` that do not overlap.
pub fn localities(list: &[&str]) -> Result<(), String> {
    type Zones<'a> = HashMap<&'a str, BTreeMap<&'a str, BTreeSet<&'a str>>>;
    let mut seen: Zones<'_> = HashMap::new();
    for locality in list {
        let stars = locality.matches('*').count();
        if stars > 1 || (stars == 1 && !locality.ends_with('*')) {
            return Err(format!("locality {locality} wildcard '*' number can not exceed 1 and must be in the end"));
        }
        let overlap = || Err(format!("locality {locality} overlap with previous specified ones"));
        if seen.contains_key("*") {
            return overlap();
        }
        let parts: Vec<&str> = locality.split('/').collect();
        if parts.len() > 3 || parts.iter().any(|p| p.is_empty()) {
            return Err(format!("locality {locality} must not contain empty region/zone/subzone info"));
        }
        let (region, zone, subzone) =
            (parts[0], parts.get(1).copied().unwrap_or("*"), parts.get(2).copied().unwrap_or("*"));
        let zones = seen.entry(region).or_default();
        if zones.contains_key("*") || (zone == "*" && !zones.is_empty()) {
            return overlap();
        }
        let subzones = zones.entry(zone).or_default();
        if subzones.contains("*") || (subzone == "*" && !subzones.is_empty()) || !subzones.insert(subzone) {
            return overlap();
        }
    }
    Ok(())
}

/// TLS towards an upstream.
pub fn client_tls(c: &mut Check, tls: Option<&Tls>) {
    let Some(t) = tls else { return };
    if t.insecure_skip_verify == Some(true) {
        let ca = !t.ca_certificates.is_empty() || !t.subject_alt_names.is_empty();
        let credential = t.mode == TlsMode::Simple && !t.credential_name.is_empty();
        c.error_if(
            matches!(t.mode, TlsMode::Simple | TlsMode::Mutual) && (ca || credential),
            "cannot specify caCertificates, credentialName or subjectAltNames when insecureSkipVerify is set true",
        );
    }
    if matches!(t.mode, TlsMode::Simple | TlsMode::Mutual) && !t.credential_name.is_empty() {
        let files = [&t.client_certificate, &t.ca_certificates, &t.private_key, &t.ca_crl];
        c.error_if(
            files.iter().any(|f| !f.is_empty()),
            "cannot specify client certificates, CA certificate or CA CRL if credentialName is set",
        );
        // Credentials come from the named secret.
        return;
    }
    if t.mode == TlsMode::Mutual {
        c.error_if(t.client_certificate.is_empty(), "client certificate required for mutual tls");
        c.error_if(t.private_key.is_empty(), "private key required for mutual tls");
    }
}
