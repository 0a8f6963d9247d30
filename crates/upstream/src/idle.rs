//! What is known of the hosts of a cluster that nobody has used? Their assignment, and how many there are.
//!
//! Most clusters of a mesh never see a request from a given proxy. Their hosts and balancer are built when a worker first picks;
//! until then `cluster` keeps the assignment as it came, and its membership stats come from here.

use std::collections::{HashMap, HashSet};

use proxy_config::cluster::{Cluster, LbPolicy, LoadAssignment};
use proxy_config::common::Address;
use proxy_core::lb::Health;

use crate::host::told_health;

/// Endpoints of an assignment that may wait at most: building more would be felt by the request that comes first.
const ENDPOINTS_MAX: usize = 64;

/// Whether nothing but requests needs the hosts: nobody checks, ejects, warms, selects or counts them one by one.
pub fn may_wait(config: &Cluster, load: &LoadAssignment) -> bool {
    let lb = &config.lb;
    let plain = match &lb.policy {
        LbPolicy::RoundRobin(slow_start) | LbPolicy::LeastRequest { slow_start, .. } => slow_start.is_none(),
        LbPolicy::Random => true,
        LbPolicy::RingHash { .. } | LbPolicy::Maglev { .. } | LbPolicy::ClusterProvided => false,
    };
    plain
        && lb.subset.is_none()
        && config.health_checks.is_empty()
        && config.outlier_detection.is_none()
        && config.transport_matches.is_empty()
        && load.localities.iter().map(|l| l.endpoints.len()).sum::<usize>() <= ENDPOINTS_MAX
}

/// The distinct hosts of an assignment: address and priority, with the health that discovery told.
pub struct Members<'a>(HashMap<(&'a Address, u32), Health>);

impl<'a> Members<'a> {
    /// The hosts of `load`; of two with the same address and priority the first counts.
    pub fn of(load: &'a LoadAssignment) -> Self {
        let mut all = HashMap::new();
        for l in &load.localities {
            for e in &l.endpoints {
                all.entry((&e.address, l.priority)).or_insert_with(|| told_health(e.health));
            }
        }
        Members(all)
    }

    /// All hosts.
    pub fn total(&self) -> usize {
        self.0.len()
    }

    /// Those in this state.
    pub fn count(&self, health: Health) -> u64 {
        self.0.values().filter(|h| **h == health).count() as u64
    }

    /// Priorities that gain or lose hosts when these take the place of `old`.
    pub fn changed(&self, old: Option<&Members<'_>>) -> u64 {
        let has = |members: &Members<'_>, address: &Address| members.0.keys().any(|k| k.0 == address);
        let gained = self.0.keys().filter(|k| !old.is_some_and(|o| has(o, k.0)));
        let lost = old.into_iter().flat_map(|o| o.0.keys()).filter(|k| !has(self, k.0));
        gained.map(|k| k.1).chain(lost.map(|k| k.1)).collect::<HashSet<u32>>().len() as u64
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};
    use telemetry::stats::Store;
    use telemetry::stats::envoy::cluster as stat;

    use super::*;
    use crate::Registry;

    fn load(addresses: &[(&str, &str)]) -> Value {
        let endpoint = |(address, health): &(&str, &str)| {
            json!({"endpoint": {"address": {"socket_address": {"address": address, "port_value": 80}}},
                "health_status": health})
        };
        let all: Vec<_> = addresses.iter().map(endpoint).collect();
        json!({"cluster_name": "a", "endpoints": [{"lb_endpoints": all}]})
    }

    fn cluster(extra: &Value) -> (Arc<Registry>, Arc<crate::Cluster>) {
        let mut json = json!({"name": "a", "type": "STATIC",
            "load_assignment": load(&[("10.0.0.1", "HEALTHY"), ("10.0.0.1", "UNKNOWN"), ("10.0.0.2", "DEGRADED")])});
        json.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let config = proxy_config::parse::cluster(&protos::json::decode_json(&json).unwrap()).unwrap();
        let registry = Registry::new(Store::new(Default::default()), Arc::default());
        let cluster = registry.set(Arc::new(config));
        (registry, cluster)
    }

    fn counts(c: &crate::Cluster) -> [u64; 4] {
        let gauge = |g| c.stats.gauge(g);
        let change = c.stats.counter(stat::MEMBERSHIP_CHANGE);
        [gauge(stat::MEMBERSHIP_TOTAL), gauge(stat::MEMBERSHIP_HEALTHY), gauge(stat::MEMBERSHIP_DEGRADED), change]
    }

    fn assign(c: &crate::Cluster, addresses: &[(&str, &str)]) {
        let load = protos::json::decode_json(&load(addresses)).unwrap();
        c.assign_numeric(&Arc::new(proxy_config::parse::load_assignment(&load).unwrap()));
    }

    #[test]
    fn an_unused_cluster_counts_like_a_used_one() {
        // A ring is built at once: its size is a stat.
        let eager = json!({"lb_policy": "RING_HASH"});
        for (extra, waits) in [(json!({}), true), (eager, false)] {
            let (_registry, c) = cluster(&extra);
            assert_eq!((c.hosts_ref().is_none(), counts(&c)), (waits, [2, 1, 1, 1]));
            assert_eq!((c.hosts_view().hosts.len(), c.hosts_ref().is_none()), (2, waits));
            assign(&c, &[("10.0.0.2", "DEGRADED"), ("10.0.0.1", "HEALTHY")]);
            assert_eq!((c.hosts_ref().is_none(), counts(&c)), (waits, [2, 1, 1, 1]));
            assign(&c, &[("10.0.0.2", "HEALTHY"), ("10.0.0.3", "DRAINING")]);
            assert_eq!((c.hosts_ref().is_none(), counts(&c)), (waits, [2, 1, 0, 2]));
            assert_eq!(c.hosts().hosts.len(), 2);
            assert_eq!((c.hosts_ref().is_none(), counts(&c)), (false, [2, 1, 0, 2]));
            assign(&c, &[]);
            assert_eq!((c.hosts().hosts.len(), counts(&c)), (0, [0, 0, 0, 3]));
        }
    }

    #[test]
    fn a_replacement_takes_over_what_waits() {
        let (registry, c) = cluster(&json!({}));
        let eds = json!({"name": "b", "type": "EDS", "eds_cluster_config": {"eds_config": {"ads": {}}}});
        let config: Arc<Cluster> =
            Arc::new(proxy_config::parse::cluster(&protos::json::decode_json(&eds).unwrap()).unwrap());
        let first = registry.set(config.clone());
        assign(&first, &[("10.0.0.1", "HEALTHY")]);
        let second = registry.build(config);
        assert_eq!((second.hosts_ref().is_none(), second.hosts().hosts.len()), (true, 1));
        assert_eq!(counts(&second), [1, 1, 0, 1]);
        drop(c);
    }

    #[test]
    fn those_whose_hosts_are_watched_do_not_wait() {
        let check = json!({"timeout": "1s", "interval": "1s", "unhealthy_threshold": 1, "healthy_threshold": 1, "tcp_health_check": {}});
        for extra in [
            json!({"health_checks": [check]}),
            json!({"outlier_detection": {}}),
            json!({"round_robin_lb_config": {"slow_start_config": {"slow_start_window": "60s"}}}),
            json!({"lb_subset_config": {"subset_selectors": [{"keys": ["v"]}]}}),
        ] {
            let (_registry, c) = cluster(&extra);
            assert!(c.hosts_ref().is_some(), "{extra}");
        }
    }
}
