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
/// Shortest time between two resolutions.
const REFRESH_MIN: Duration = Duration::from_millis(100);

/// Resolves a cluster once. Returns when to do it again, or `None` when it is not a DNS cluster.
pub async fn resolve_once(cluster: &Cluster) -> Option<Duration> {
    let (load, dns, logical) = match &cluster.config.discovery {
        Discovery::StrictDns(l, d) => (l, d, false),
        Discovery::LogicalDns(l, d) => (l, d, true),
        _ => return None,
    };
    cluster.stats.inc(stat::UPDATE_ATTEMPT);
    match addresses(load, dns, logical).await {
        Ok(found) => {
            cluster.stats.inc(stat::UPDATE_SUCCESS);
            if changed(cluster, load, &found) {
                cluster.assign(load, |a| expand(a, &found));
            } else {
                cluster.stats.inc(stat::UPDATE_NO_REBUILD);
            }
        }
        Err(()) => cluster.stats.inc(stat::UPDATE_FAILURE),
    }
    Some(dns.refresh_rate.max(REFRESH_MIN))
}

/// Keeps a DNS cluster resolved until it is dropped from the registry.
pub async fn run(cluster: Arc<Cluster>) {
    while let Some(wait) = resolve_once(&cluster).await {
        tokio::time::sleep(wait).await;
        // Only this task holds the cluster: it was removed.
        if Arc::strong_count(&cluster) == 1 {
            return;
        }
    }
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
        let all: Vec<SocketAddr> =
            tokio::net::lookup_host((&**host, *port)).await.map_err(|_| ())?.take(ADDRESSES_PER_NAME_MAX).collect();
        let (v4, v6): (Vec<_>, Vec<_>) = all.into_iter().partition(SocketAddr::is_ipv4);
        let mut list = match dns.family {
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
        if logical {
            list.truncate(1);
        }
        found.insert((host.clone(), *port), list);
    }
    Ok(found)
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
