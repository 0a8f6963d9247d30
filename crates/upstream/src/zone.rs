//! Does the own zone come first? What a worker knows of a cluster's zones and of the local cluster (`local_cluster_name`), whose
//! hosts are proxies like this one. Decided by `proxy_core::lb::zone`, counted here.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use proxy_config::Name;
use proxy_config::cluster::{LbConfig, Locality, LocalityLb};
use proxy_core::lb::Health;
use proxy_core::lb::zone::{Way, Zone, ZoneRouting};
use telemetry::stats::envoy::cluster as stat;

use crate::cluster::{Cluster, HostSet};

/// The cluster of proxies like this one, and where this one is.
#[derive(Debug, Default)]
pub struct Local {
    about: OnceLock<(Name, Locality)>,
    cluster: ArcSwapOption<Cluster>,
}

impl Local {
    /// States the cluster's name and this proxy's place; once, before clusters come.
    pub fn set(&self, name: Name, locality: Locality) {
        // There is one bootstrap.
        let _ = self.about.set((name, locality));
    }

    /// A cluster came into service, or (`None`) went out of it.
    pub(crate) fn follow(&self, name: &str, cluster: Option<&Arc<Cluster>>) {
        if self.about.get().is_some_and(|(own, _)| **own == *name) {
            self.cluster.store(cluster.cloned());
        }
    }
}

/// One cluster's zones, as one worker saw them last.
#[derive(Debug)]
pub struct Zones {
    local: Arc<HostSet>,
    /// `None`: zones are not heeded.
    routing: Option<ZoneRouting>,
    /// Numbers of the localities, in the balancer's order.
    localities: Vec<u32>,
    /// Too few of the local cluster's hosts are healthy.
    panic: bool,
}

/// What zones say about one request.
pub enum Heed {
    /// Nothing.
    No,
    /// The hosts of this locality.
    Locality(u32),
    /// It fails (`fail_traffic_on_panic`).
    Fail,
}

impl Zones {
    /// Brings `zones` up to date with both clusters and says which zone a request goes to.
    pub fn heed(
        zones: &mut Option<Zones>,
        local: &Local,
        cluster: &Cluster,
        set: &HostSet,
        random: &mut dyn FnMut() -> u64,
    ) -> Heed {
        let LocalityLb::ZoneAware { routing_enabled_percent, min_cluster_size, fail_traffic_on_panic } =
            cluster.config.lb.locality
        else {
            return Heed::No;
        };
        let (Some((_, here)), Some(own)) = (local.about.get(), &*local.cluster.load()) else {
            return Heed::No;
        };
        let current = |zones: &Zones| own.hosts_ref().as_ref().is_some_and(|now| Arc::ptr_eq(&zones.local, now));
        let known = zones.take().filter(current);
        let zones = zones.insert(match known {
            Some(zones) => zones,
            None => Zones::new(cluster, set, own.hosts(), &own.config.lb, here, min_cluster_size),
        });
        let Some(routing) = &zones.routing else { return Heed::No };
        if routing_enabled_percent < 100.0 && (random() % 10_000) as f64 >= routing_enabled_percent * 100.0 {
            return Heed::No;
        }
        if zones.panic {
            cluster.stats.inc(stat::LB_LOCAL_CLUSTER_NOT_OK);
            return if fail_traffic_on_panic { Heed::Fail } else { Heed::No };
        }
        let (at, way) = routing.choose(random);
        cluster.stats.inc(match way {
            Way::Directly => stat::LB_ZONE_ROUTING_ALL_DIRECTLY,
            Way::Sampled => stat::LB_ZONE_ROUTING_SAMPLED,
            Way::Across | Way::AcrossAnywhere => stat::LB_ZONE_ROUTING_CROSS_ZONE,
        });
        if way == Way::AcrossAnywhere {
            cluster.stats.inc(stat::LB_ZONE_NO_CAPACITY_LEFT);
        }
        zones.localities.get(at).map_or(Heed::No, |locality| Heed::Locality(*locality))
    }

    fn new(
        cluster: &Cluster,
        set: &HostSet,
        local: Arc<HostSet>,
        local_lb: &LbConfig,
        here: &Locality,
        min_cluster_size: u64,
    ) -> Self {
        cluster.stats.inc(stat::LB_RECALCULATE_ZONE_STRUCTURES);
        let healthy = |set: &HostSet, of: &dyn Fn(&crate::Host) -> bool| {
            set.hosts.iter().filter(|h| h.priority == 0 && h.health() == Health::Healthy && of(h)).count() as u64
        };
        // In the order in which the balancer has them: that of their first hosts.
        let mut found: Vec<(u32, Arc<Locality>)> = Vec::new();
        for host in set.hosts.iter().filter(|h| h.priority == 0) {
            if found.iter().all(|(number, _)| *number != host.locality_index) {
                found.push((host.locality_index, host.locality.clone()));
            }
        }
        let local_total = healthy(&local, &|_| true);
        let zones: Vec<Zone> = found
            .iter()
            .map(|(number, locality)| Zone {
                upstream: healthy(set, &|h| h.locality_index == *number),
                local: healthy(&local, &|h| h.locality == *locality),
                here: **locality == *here,
            })
            .collect();
        let mut of_local: Vec<&Locality> =
            local.hosts.iter().filter(|h| h.priority == 0).map(|h| &*h.locality).collect();
        of_local.sort_by_key(|l| (&l.region, &l.zone, &l.sub_zone));
        of_local.dedup();
        let routing = if found.len() < 2 || of_local.len() < 2 {
            None
        } else if !of_local.contains(&here) {
            cluster.stats.inc(stat::LB_LOCAL_CLUSTER_NOT_OK);
            None
        } else if zones.iter().map(|z| z.upstream).sum::<u64>() < min_cluster_size {
            cluster.stats.inc(stat::LB_ZONE_CLUSTER_TOO_SMALL);
            None
        } else {
            Some(ZoneRouting::new(&zones, local_total))
        };
        let least = local_lb.panic_threshold_percent;
        let all = local.hosts.iter().filter(|h| h.priority == 0).count() as f64;
        let panic = all == 0.0 || (local_total as f64) * 100.0 / all < least;
        Zones { routing, localities: found.into_iter().map(|(number, _)| number).collect(), panic, local }
    }
}
