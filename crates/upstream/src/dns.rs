//! Which addresses have the names of a DNS cluster? Resolution on the config thread.
//!
//! STRICT_DNS takes every address of every name, LOGICAL_DNS the first of its one name. A failed
//! resolution keeps the last hosts.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proxy_config::cluster::{Discovery, DnsConfig, DnsFamily, LoadAssignment};
use proxy_config::common::Address;
use telemetry::stats::envoy::cluster as stat;

use crate::cluster::Cluster;

/// Addresses taken of one name.
const ADDRESSES_PER_NAME_MAX: usize = 1024;
/// How long a resolution may take; after that it counts as failed.
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);
/// Shortest time between two resolutions.
const REFRESH_MIN: Duration = Duration::from_millis(100);

/// Keeps a DNS cluster resolved until the future is dropped.
///
/// Waits for the refresh rate, and after a failure for the failure refresh rate, which backs off. The system's resolver
/// does not tell TTLs, so `respect_dns_ttl` changes nothing.
pub async fn run(cluster: Arc<Cluster>) {
    let (load, dns, logical) = match &cluster.config.discovery {
        Discovery::StrictDns(l, d) => (l, d, false),
        Discovery::LogicalDns(l, d) => (l, d, true),
        _ => return,
    };
    let mut failures = 0u32;
    loop {
        cluster.stats.inc(stat::UPDATE_ATTEMPT);
        let answer = tokio::time::timeout(QUERY_TIMEOUT, addresses(load, dns, logical)).await.unwrap_or(Err(()));
        let wait = match &answer {
            Ok(found) => {
                failures = 0;
                cluster.stats.inc(stat::UPDATE_SUCCESS);
                if !found.is_empty() && found.values().all(Vec::is_empty) {
                    cluster.stats.inc(stat::UPDATE_EMPTY);
                }
                if changed(&cluster, load, found) {
                    cluster.assign(load, |a| expand(a, found));
                } else {
                    cluster.stats.inc(stat::UPDATE_NO_REBUILD);
                }
                dns.refresh_rate
            }
            Err(()) => {
                failures = failures.saturating_add(1);
                cluster.stats.inc(stat::UPDATE_FAILURE);
                match &dns.failure_refresh {
                    None => dns.refresh_rate,
                    Some(b) => jittered(b.base.saturating_mul(1 << (failures - 1).min(20)).min(b.max)),
                }
            }
        };
        cluster.set_resolved();
        let jitter = if dns.jitter.is_zero() { Duration::ZERO } else { jittered(dns.jitter) };
        tokio::time::sleep(wait.max(REFRESH_MIN) + jitter).await;
    }
}

fn jittered(most: Duration) -> Duration {
    most.mul_f64(rand::random::<f64>())
}

type Found = HashMap<(proxy_config::Name, u16), Vec<SocketAddr>>;

async fn addresses(load: &LoadAssignment, dns: &DnsConfig, logical: bool) -> Result<Found, ()> {
    let mut found = Found::new();
    for e in load.localities.iter().flat_map(|l| l.endpoints.iter()) {
        let Address::Dns { host, port } = &e.address else {
            continue;
        };
        if found.contains_key(&(host.clone(), *port)) {
            continue;
        }
        let all: Vec<SocketAddr> = tokio::net::lookup_host((&**host, *port)).await.map_err(|_| ())?.collect();
        let mut list = of_family(dns.family, all);
        if logical {
            list.truncate(1);
        }
        found.insert((host.clone(), *port), list);
    }
    Ok(found)
}

/// The addresses of the wanted family, sorted.
pub(crate) fn of_family(family: DnsFamily, all: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let (v4, v6): (Vec<_>, Vec<_>) = all.into_iter().take(ADDRESSES_PER_NAME_MAX).partition(SocketAddr::is_ipv4);
    let mut list = match family {
        DnsFamily::V4Only => v4,
        DnsFamily::V6Only => v6,
        DnsFamily::Auto if !v6.is_empty() => v6,
        DnsFamily::Auto => v4,
        DnsFamily::V4Preferred if !v4.is_empty() => v4,
        DnsFamily::V4Preferred => v6,
        DnsFamily::All => v4.into_iter().chain(v6).collect(),
    };
    list.sort();
    list.dedup();
    list
}

fn expand(a: &Address, found: &Found) -> Vec<Address> {
    match a {
        Address::Dns { host, port } => found
            .get(&(host.clone(), *port))
            .map(|l| l.iter().map(|a| Address::Socket(*a)).collect())
            .unwrap_or_default(),
        other => vec![other.clone()],
    }
}

fn changed(cluster: &Cluster, load: &LoadAssignment, found: &Found) -> bool {
    let mut want: Vec<String> = load
        .localities
        .iter()
        .flat_map(|l| l.endpoints.iter())
        .flat_map(|e| expand(&e.address, found))
        .map(|a| a.to_string())
        .collect();
    let mut have: Vec<String> = cluster.hosts().hosts.iter().map(|h| h.text.to_string()).collect();
    want.sort();
    want.dedup();
    have.sort();
    want != have
}
