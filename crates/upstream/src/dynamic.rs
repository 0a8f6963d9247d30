//! Where is a host that only the request names? The DNS cache of a dynamic forward proxy cluster.
//!
//! A name is looked up when it is first asked for, and anew when its answer is older than the refresh rate; what nobody
//! asked for during `host_ttl` makes room. Called by the routers of `l7` and `l4` before they pick.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use proxy_config::cluster::{Discovery, DynamicForwardProxy};
use proxy_config::common::Address;
use telemetry::stats::envoy::cluster as stat;

use crate::cluster::Cluster;
use crate::dns::of_family;
use crate::host::Host;

/// Names that were looked up.
#[derive(Debug, Default)]
pub struct Cache(Mutex<HashMap<Box<str>, Entry>>);

#[derive(Debug)]
struct Entry {
    host: Arc<Host>,
    resolved: Instant,
    used: Instant,
}

impl Cluster {
    /// Whether requests name the hosts of this cluster themselves.
    pub fn is_dynamic(&self) -> bool {
        matches!(self.config.discovery, Discovery::DynamicForwardProxy(_))
    }

    /// The host of that name and port. `None`: it cannot be resolved, or there are too many.
    pub async fn dynamic_host(&self, name: &str, port: u16) -> Option<Arc<Host>> {
        let Discovery::DynamicForwardProxy(options) = &self.config.discovery else { return None };
        let key: Box<str> = format!("{name}:{port}").into();
        let cache = self.dynamic_cache();
        let now = Instant::now();
        if let Some(entry) = cache.lock().get_mut(&key) {
            entry.used = now;
            if now.duration_since(entry.resolved) < options.dns.refresh_rate {
                return Some(entry.host.clone());
            }
        }
        self.stats.inc(stat::UPDATE_ATTEMPT);
        let found = match name.trim_start_matches('[').trim_end_matches(']').parse() {
            Ok(ip) => Some(SocketAddr::new(ip, port)),
            Err(_) => lookup(options, name, port).await,
        };
        let mut all = cache.lock();
        let Some(address) = found else {
            self.stats.inc(stat::UPDATE_FAILURE);
            // The last good answer serves on.
            return all.get(&key).map(|e| e.host.clone());
        };
        self.stats.inc(stat::UPDATE_SUCCESS);
        if let Some(entry) = all.get_mut(&key) {
            entry.resolved = now;
            if entry.host.socket() != Some(address) {
                entry.host = Arc::new(Host {
                    address: Address::Socket(address),
                    text: address.to_string().into(),
                    ..Host::clone(&entry.host)
                });
            }
            return Some(entry.host.clone());
        }
        all.retain(|_, e| now.duration_since(e.used) < options.host_ttl);
        if all.len() >= options.max_hosts as usize {
            return None;
        }
        let host = Arc::new(Host { hostname: name.into(), ..Host::bare(address) });
        all.insert(key, Entry { host: host.clone(), resolved: now, used: now });
        Some(host)
    }

    /// Hosts that requests named.
    pub fn dynamic_hosts(&self) -> Vec<Arc<Host>> {
        if !self.is_dynamic() {
            return Vec::new();
        }
        self.dynamic_cache().lock().values().map(|e| e.host.clone()).collect()
    }
}

impl Cache {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Box<str>, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn lookup(options: &DynamicForwardProxy, name: &str, port: u16) -> Option<SocketAddr> {
    let asked = tokio::time::timeout(options.query_timeout, tokio::net::lookup_host((name, port))).await;
    of_family(options.dns.family, asked.ok()?.ok()?.collect()).into_iter().next()
}
