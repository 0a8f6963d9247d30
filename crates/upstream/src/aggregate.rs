//! Which of an aggregate cluster's clusters gets a request? Their priorities, one after another, form one list.
//!
//! Kept by each worker and rebuilt when a part's hosts change. Follows: `envoy.clusters.aggregate`: the aggregate spreads
//! load over the list as one cluster would over its priorities; the part picks within the priority that was chosen.

use std::rc::Rc;
use std::sync::Arc;

use proxy_config::cluster::LbConfig;
use proxy_core::lb::{HostInfo, PriorityLoad, loads};

use crate::cluster::HostSet;
use crate::worker::WorkerCluster;

/// Overprovisioning between the parts, percent.
const OVERPROVISIONING_PERCENT: u32 = 140;

/// The flattened priorities.
pub struct Flat<T> {
    parts: Vec<Rc<WorkerCluster<T>>>,
    sets: Vec<Arc<HostSet>>,
    /// (part, priority there)
    places: Vec<(usize, u32)>,
    load: PriorityLoad,
}

impl<T> Flat<T> {
    /// Flattens the parts as they are now.
    pub fn new(parts: Vec<Rc<WorkerCluster<T>>>, lb: &LbConfig) -> Self {
        let sets: Vec<_> = parts.iter().map(|p| p.cluster.hosts()).collect();
        let mut places = Vec::new();
        let mut infos = Vec::new();
        for (part, set) in sets.iter().enumerate() {
            let mut priorities: Vec<u32> = set.hosts.iter().map(|h| h.priority).collect();
            priorities.sort_unstable();
            priorities.dedup();
            for priority in priorities {
                let of = set.hosts.iter().filter(|h| h.priority == priority);
                infos.extend(of.map(|h| HostInfo {
                    priority: places.len() as u32,
                    locality: 0,
                    weight: h.weight,
                    health: h.health(),
                    hash_key: "",
                }));
                places.push((part, priority));
            }
        }
        let load = loads(&infos, places.len(), lb.panic_threshold_percent, OVERPROVISIONING_PERCENT, false);
        Flat { parts, sets, places, load }
    }

    /// These are still the parts and their hosts.
    pub fn is_current(&self, parts: &[Rc<WorkerCluster<T>>]) -> bool {
        parts.len() == self.parts.len()
            && parts.iter().zip(&self.parts).all(|(a, b)| Rc::ptr_eq(a, b))
            && self
                .parts
                .iter()
                .zip(&self.sets)
                .all(|(p, s)| p.cluster.hosts_ref().as_ref().is_some_and(|now| Arc::ptr_eq(now, s)))
    }

    /// The part for a request, the priority there, and whether its degraded hosts serve.
    pub fn choose(&self, random: u64, excluded: &[u32]) -> Option<(&Rc<WorkerCluster<T>>, u32, bool)> {
        let (at, degraded) = self.load.choose(random, excluded)?;
        let (part, priority) = *self.places.get(at as usize)?;
        Some((&self.parts[part], priority, degraded))
    }
}
