//! What does a worker keep of the clusters that it uses? Cursors of balancing and idle connections.
//!
//! `!Send`: nothing here is locked. Connections are of type `T`, whatever the protocol above needs.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use proxy_config::Name;
use proxy_config::cluster::{Discovery, HealthStatus, LbPolicy, SlowStart};
use proxy_config::common::Value;
use proxy_core::lb::subset::{self, How, Place, Subsets};
use proxy_core::lb::{Balancer, Health, LbState, PickInput, slow_start_factor};
use telemetry::stats::envoy::cluster as stat;

use crate::aggregate;
use crate::cluster::{Cluster, HostSet};
use crate::host::Host;
use crate::registry::Registry;
use crate::zone::{Heed, Zones};

/// Idle connections kept per host and kind on one worker; further ones are closed.
const IDLE_PER_HOST_MAX: usize = 1024;

/// What distinguishes connections to the same host: protocol and TLS options.
pub type PoolKey = u64;

/// Hashes keys that are addresses or hashes themselves.
#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.write_u64(u64::from(*b)));
    }

    #[inline]
    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0.rotate_left(23) ^ n).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 ^= self.0 >> 32;
    }

    #[inline]
    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }
}

/// Per-thread state of upstream connections.
pub struct Worker<T> {
    registry: Arc<Registry>,
    version: Cell<u64>,
    clusters: RefCell<HashMap<Name, Rc<WorkerCluster<T>>>>,
    /// The cluster asked for last: requests ask several times, and often for the same.
    last: RefCell<Option<Rc<WorkerCluster<T>>>>,
    seed: u64,
}

/// Idle connections by host and kind.
type Idle<T> = HashMap<(usize, PoolKey), (Arc<Host>, Vec<T>), BuildHasherDefault<Mix>>;

/// A cluster as one worker uses it.
pub struct WorkerCluster<T> {
    /// The cluster.
    pub cluster: Arc<Cluster>,
    balancing: RefCell<Balancing>,
    aggregate: RefCell<Option<aggregate::Flat<T>>>,
    idle: RefCell<Idle<T>>,
    freed: tokio::sync::Notify,
    /// How many wait for `freed`, or are about to.
    waiting: Cell<usize>,
    seed: u64,
}

/// The host set that this worker picks from, and its cursors.
struct Balancing {
    set: Arc<HostSet>,
    whole: LbState,
    subsets: HashMap<u32, LbState>,
    zones: Option<Zones>,
}

/// What a pick depends on.
#[derive(Default, Clone, Copy)]
pub struct PickRequest<'a> {
    /// Hash of the request.
    pub hash: Option<u64>,
    /// Hosts (by address text) that this try avoids.
    pub avoid: &'a [Arc<str>],
    /// Hosts with these `envoy.lb` metadata are avoided by this try.
    pub omit: Option<&'a [(Name, Value)]>,
    /// How often to look for one that need not be avoided; 0 counts as 1.
    pub attempts: u32,
    /// Where the connection was going, for ORIGINAL_DST.
    pub original_dst: Option<SocketAddr>,
    /// Priorities tried before.
    pub excluded_priorities: &'a [u32],
    /// `envoy.lb` metadata that the host should have, sorted by key (subsets).
    pub wanted: &'a [(Name, Value)],
    /// The host (by address text) that an earlier answer bound the client to.
    pub preferred: Option<&'a str>,
    /// No other host will do than the preferred one.
    pub strict: bool,
    /// Only this priority, its degraded hosts if so said (aggregate clusters).
    pub only: Option<(u32, bool)>,
    /// Only this locality of the first priority; zone-aware routing says so, not the caller.
    pub locality: Option<u32>,
}

impl<T> Worker<T> {
    /// State of one worker. `seed` staggers the cursors of workers.
    pub fn new(registry: Arc<Registry>, seed: u64) -> Rc<Self> {
        Rc::new(Worker {
            registry,
            version: Cell::new(0),
            clusters: RefCell::default(),
            last: RefCell::default(),
            seed,
        })
    }

    /// The registry.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// The cluster of that name; one comparison and one map lookup in steady state.
    pub fn cluster(&self, name: &str) -> Option<Rc<WorkerCluster<T>>> {
        if self.version.get() != self.registry.version() {
            self.refresh();
        }
        if let Some(c) = &*self.last.borrow()
            && *c.cluster.config.name == *name
        {
            return Some(c.clone());
        }
        let known = self.clusters.borrow().get(name).cloned();
        let entry = match known {
            Some(entry) => entry,
            None => {
                let entry = Rc::new(WorkerCluster::new(self.registry.get(name)?, self.seed));
                self.clusters.borrow_mut().insert(entry.cluster.config.name.clone(), entry.clone());
                entry
            }
        };
        self.last.replace(Some(entry.clone()));
        Some(entry)
    }

    /// Where a request to an aggregate cluster goes: one of its clusters and a host there.
    ///
    /// `None`: none of them has a usable host.
    pub fn pick_aggregate(
        &self,
        cluster: &WorkerCluster<T>,
        request: &PickRequest<'_>,
        random: &mut dyn FnMut() -> u64,
    ) -> Option<(Rc<WorkerCluster<T>>, Arc<Host>)> {
        let Discovery::Aggregate(names) = &cluster.cluster.config.discovery else { return None };
        let mut flat = cluster.aggregate.borrow_mut();
        let parts: Vec<_> = names.iter().filter_map(|n| self.cluster(n)).collect();
        let current = flat.take().filter(|f| f.is_current(&parts));
        let flat = flat.insert(match current {
            Some(f) => f,
            None => aggregate::Flat::new(parts, &cluster.cluster.config.lb),
        });
        let (part, priority, degraded) = flat.choose(random(), request.excluded_priorities)?;
        // Priorities are numbered within the part from here on.
        let request = PickRequest { only: Some((priority, degraded)), excluded_priorities: &[], ..*request };
        let host = part.pick(&request, random)?;
        Some((part.clone(), host))
    }

    /// Forgets clusters that were replaced or removed, and with them their idle connections.
    fn refresh(&self) {
        self.version.set(self.registry.version());
        self.last.take();
        self.clusters
            .borrow_mut()
            .retain(|name, c| self.registry.get(name).is_some_and(|now| Arc::ptr_eq(&now, &c.cluster)));
    }

    /// Drops idle connections for which `stale` holds, and those of hosts that are gone. Call it about
    /// once a second.
    pub fn sweep(&self, mut stale: impl FnMut(&Cluster, &mut T) -> bool) {
        if self.version.get() != self.registry.version() {
            self.refresh();
        }
        for c in self.clusters.borrow().values() {
            c.sweep(&mut stale);
        }
    }
}

impl<T> WorkerCluster<T> {
    fn new(cluster: Arc<Cluster>, seed: u64) -> Self {
        let set = cluster.hosts();
        let state = set.balancer.state(seed);
        WorkerCluster {
            cluster,
            balancing: RefCell::new(Balancing { set, whole: state, subsets: HashMap::new(), zones: None }),
            aggregate: RefCell::default(),
            idle: RefCell::default(),
            freed: tokio::sync::Notify::new(),
            waiting: Cell::new(0),
            seed,
        }
    }

    /// Picks a host. `None`: there is no usable one.
    pub fn pick(&self, request: &PickRequest<'_>, random: &mut dyn FnMut() -> u64) -> Option<Arc<Host>> {
        if let Discovery::OriginalDst(_) = &self.cluster.config.discovery {
            return request.original_dst.map(|a| self.cluster.original_host(a));
        }
        let mut balancing = self.balancing.borrow_mut();
        {
            let now = self.cluster.hosts_ref();
            // Hosts were built when this worker met the cluster.
            if let Some(now) = &*now
                && !Arc::ptr_eq(now, &balancing.set)
            {
                let set = Arc::clone(now);
                let whole = set.balancer.state(self.seed);
                *balancing = Balancing { set, whole, subsets: HashMap::new(), zones: None };
            }
        }
        let Balancing { set, whole, subsets, zones } = &mut *balancing;
        let plain = request.attempts <= 1 && request.only.is_none();
        let plain = plain && request.preferred.is_none() && set.subsets.is_none();
        let load = set.balancer.load();
        let calm = load.healthy.first() == Some(&100) && load.panic.first() == Some(&false);
        if plain && set.hosts.len() == 1 && calm {
            return Some(set.hosts[0].clone());
        }
        if let Some(preferred) = request.preferred {
            if let Some(host) = self.preferred(set, preferred) {
                return Some(host);
            }
            if request.strict {
                return None;
            }
        }
        let picked = match &set.subsets {
            None => {
                let locality = match Zones::heed(zones, self.cluster.local(), &self.cluster, set, random) {
                    Heed::No => None,
                    Heed::Locality(locality) => Some(locality),
                    Heed::Fail => return None,
                };
                self.pick_in(set, &set.balancer, whole, None, &PickRequest { locality, ..*request }, random)
            }
            Some(all) => self.pick_subset(set, all, whole, subsets, request, random),
        };
        // A set without hosts is in panic too, unless panic is off.
        let nobody = set.hosts.is_empty() && self.cluster.config.lb.panic_threshold_percent > 0.0;
        if picked.is_none() && (nobody || set.balancer.load().panic.first() == Some(&true)) {
            self.cluster.stats.inc(stat::LB_HEALTHY_PANIC);
        }
        Some(set.hosts[picked? as usize].clone())
    }

    /// The preferred host, if it is in a state that such a host may have (`override_host_status`).
    fn preferred(&self, set: &HostSet, address: &str) -> Option<Arc<Host>> {
        let host = set.hosts.iter().find(|h| *h.text == *address)?;
        let status = match host.health() {
            Health::Healthy => HealthStatus::Healthy,
            Health::Degraded => HealthStatus::Degraded,
            Health::Excluded if host.told == HealthStatus::Draining => HealthStatus::Draining,
            Health::Unhealthy | Health::Excluded => HealthStatus::Unhealthy,
        };
        self.cluster.config.lb.override_host_status.has(status).then(|| host.clone())
    }

    fn pick_subset(
        &self,
        set: &HostSet,
        all: &Subsets,
        whole: &mut LbState,
        states: &mut HashMap<u32, LbState>,
        request: &PickRequest<'_>,
        random: &mut dyn FnMut() -> u64,
    ) -> Option<u32> {
        let stats = &self.cluster.stats;
        let (place, how) = all.find(request.wanted)?;
        if how == How::Selected {
            stats.inc(stat::LB_SUBSETS_SELECTED);
        }
        let mut within = |place, random: &mut dyn FnMut() -> u64| match place {
            Place::Whole => self.pick_in(set, &set.balancer, whole, None, request, random),
            Place::Subset(id) => {
                let subset = all.get(id);
                let state = states.entry(id).or_insert_with(|| subset.balancer.state(self.seed));
                self.pick_in(set, &subset.balancer, state, Some(&subset.members), request, random)
            }
        };
        let picked = within(place, random);
        match (how, picked) {
            (How::Fallback, Some(_)) => stats.inc(stat::LB_SUBSETS_FALLBACK),
            (How::Fallback, None) if all.panics_to_any() => {
                let picked = within(Place::Whole, random);
                if picked.is_some() {
                    stats.inc(stat::LB_SUBSETS_FALLBACK_PANIC);
                }
                return picked;
            }
            _ => {}
        }
        picked
    }

    /// Picks with one balancer, whose numbers are positions in `members` or, without, in the set.
    fn pick_in(
        &self,
        set: &HostSet,
        balancer: &Balancer,
        state: &mut LbState,
        members: Option<&[u32]>,
        request: &PickRequest<'_>,
        random: &mut dyn FnMut() -> u64,
    ) -> Option<u32> {
        let hosts = &set.hosts;
        let number = |i: u32| members.map_or(i, |m| m[i as usize]);
        let host = |i: u32| &hosts[number(i) as usize];
        let slow_start = slow_start(&self.cluster.config.lb.policy);
        let weight = |i: u32| {
            let h = host(i);
            let factor = slow_start.map_or(1.0, |s| slow_start_factor(s, h.stats.born.elapsed()));
            f64::from(h.weight) * factor
        };
        let bounded = self.cluster.config.lb.hash_balance_factor.is_some();
        let mut input = PickInput {
            hash: request.hash,
            random,
            active: &|i| host(i).stats.rq_active.load(Ordering::Relaxed),
            all_active: if bounded { self.cluster.stats.gauge(stat::UPSTREAM_RQ_ACTIVE) } else { 0 },
            avoid: &|i| {
                let omitted = |o: &[_]| !o.is_empty() && subset::contains(o, &host(i).metadata, false);
                request.avoid.iter().any(|a| **a == *host(i).text) || request.omit.is_some_and(omitted)
            },
            attempts: request.attempts.max(1),
            weight: slow_start.is_some().then_some(&weight as &dyn Fn(u32) -> f64),
            excluded_priorities: request.excluded_priorities,
            only: request.only,
            locality: request.locality,
        };
        let picked = number(balancer.pick(state, &mut input)?);
        if balancer.load().panic.get(hosts[picked as usize].priority as usize) == Some(&true) {
            self.cluster.stats.inc(stat::LB_HEALTHY_PANIC);
        }
        Some(picked)
    }

    /// Waits until a request of this worker on this cluster is over (for callers that met an open
    /// connection breaker).
    pub fn freed(&self) -> impl Future<Output = ()> {
        struct Waiting<'a>(&'a Cell<usize>);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.set(self.0.get() - 1);
            }
        }
        self.waiting.set(self.waiting.get() + 1);
        let waiting = Waiting(&self.waiting);
        async move {
            self.freed.notified().await;
            drop(waiting);
        }
    }

    /// A request is over: lets one waiter look again.
    #[inline]
    pub fn notify_freed(&self) {
        if self.waiting.get() > 0 {
            self.freed.notify_one();
        }
    }

    /// Takes the idle connection used last, if there is one.
    pub fn take(&self, host: &Arc<Host>, key: PoolKey) -> Option<T> {
        self.idle.borrow_mut().get_mut(&(pool_of(host), key))?.1.pop()
    }

    /// Looks at the newest idle connection of a host without taking it (multiplexed protocols).
    pub fn peek<R>(&self, host: &Arc<Host>, key: PoolKey, look: impl FnOnce(&mut Vec<T>) -> R) -> R {
        let mut idle = self.idle.borrow_mut();
        let entry = idle.entry((pool_of(host), key)).or_insert_with(|| (host.clone(), Vec::new()));
        look(&mut entry.1)
    }

    /// Keeps an idle connection. It is dropped when there are too many or the host left the cluster.
    pub fn give(&self, host: &Arc<Host>, key: PoolKey, connection: T) {
        let mut idle = self.idle.borrow_mut();
        let entry = idle.entry((pool_of(host), key)).or_insert_with(|| (host.clone(), Vec::new()));
        if entry.1.len() < IDLE_PER_HOST_MAX {
            entry.1.push(connection);
        }
    }

    fn sweep(&self, stale: &mut impl FnMut(&Cluster, &mut T) -> bool) {
        let set = self.cluster.hosts();
        let original =
            matches!(self.cluster.config.discovery, Discovery::OriginalDst(_) | Discovery::DynamicForwardProxy(_));
        self.idle.borrow_mut().retain(|(pool, _), (_, connections)| {
            let of = set.hosts.iter().find(|h| pool_of(h) == *pool);
            if !original && of.is_none() {
                return false;
            }
            let failing = || of.is_some_and(|h| h.health() == Health::Unhealthy);
            if self.cluster.config.close_connections_on_host_health_failure && failing() {
                return false;
            }
            connections.retain_mut(|c| !stale(&self.cluster, c));
            connections.shrink_to(4);
            !connections.is_empty()
        });
    }
}

/// A host is the same as long as its state is.
fn pool_of(host: &Arc<Host>) -> usize {
    Arc::as_ptr(&host.stats) as usize
}

fn slow_start(policy: &LbPolicy) -> Option<&SlowStart> {
    match policy {
        LbPolicy::RoundRobin(s) => s.as_ref(),
        LbPolicy::LeastRequest { slow_start, .. } => slow_start.as_ref(),
        _ => None,
    }
}
