//! Which host gets the request? Priorities, panic, localities and the algorithms of Envoy.
//!
//! `upstream` builds a [`Balancer`] whenever hosts or their health change (shared by all workers) and keeps one
//! [`LbState`] per worker for cursors. Picking reads no clock: load, weights under slow start and randomness are arguments.

mod bounded;
mod edf;
mod maglev;
mod priority;
mod ring;
pub mod subset;
pub mod zone;

pub use maglev::Maglev;
pub use priority::{PriorityLoad, loads};
pub use ring::Ring;

use std::collections::HashMap;
use std::time::Duration;

use proxy_config::cluster::{LbConfig, LbPolicy, LocalityLb, RingHashFunction, SlowStart};
use smallvec::SmallVec;

use self::edf::Edf;

/// Health as balancing sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Health {
    /// Healthy.
    #[default]
    Healthy,
    /// Used when healthy hosts do not suffice.
    Degraded,
    /// Unhealthy or ejected: used in panic only.
    Unhealthy,
    /// Draining or otherwise excluded: counted nowhere.
    Excluded,
}

/// A host. Its number is its position in the slice given to [`Balancer::build`].
#[derive(Debug, Clone)]
pub struct HostInfo<'a> {
    /// 0 is the highest.
    pub priority: u32,
    /// Index into the localities.
    pub locality: u32,
    /// At least 1.
    pub weight: u32,
    /// Health.
    pub health: Health,
    /// What consistent hashing hashes: `envoy.lb` metadata `hash_key`, else the hostname when configured, else
    /// the address `ip:port`.
    pub hash_key: &'a str,
}

/// A locality of one priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalityInfo {
    /// Load balancing weight, 0 when absent.
    pub weight: u32,
}

/// Which list of a priority's hosts is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Source {
    Healthy,
    Degraded,
    All,
}

/// Most clusters have one priority and few hosts: their numbers lie where they belong.
type Numbers = SmallVec<[u32; 4]>;

#[derive(Debug, Default)]
struct Lists {
    healthy: Numbers,
    degraded: Numbers,
    all: Numbers,
}

impl Lists {
    fn of(&self, source: Source) -> &[u32] {
        match source {
            Source::Healthy => &self.healthy,
            Source::Degraded => &self.degraded,
            Source::All => &self.all,
        }
    }

    fn push(&mut self, host: u32, health: Health) {
        self.all.push(host);
        match health {
            Health::Healthy => self.healthy.push(host),
            Health::Degraded => self.degraded.push(host),
            Health::Unhealthy | Health::Excluded => {}
        }
    }
}

#[derive(Debug)]
enum Slots {
    Ring(Ring),
    Maglev(Maglev),
}

#[derive(Debug)]
struct Table {
    slots: Slots,
    /// Hosts and their shares, kept under bounded loads only.
    shares: Box<[(u32, f64)]>,
}

/// How well a table is filled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TableFigures {
    /// Entries.
    pub size: u64,
    /// Entries of the host that has fewest.
    pub least: u64,
    /// Entries of the host that has most.
    pub most: u64,
}

#[derive(Debug, Default)]
struct PriorityHosts {
    lists: Lists,
    /// (locality number, weight, hosts); only under locality-weighted balancing and zone-aware routing.
    localities: Vec<(u32, u32, Lists)>,
    /// Consistent hashing: tables of the healthy, degraded and all hosts, built for those that can be asked for.
    tables: Option<Box<[Option<Table>; 3]>>,
}

impl PriorityHosts {
    /// Healthy hosts of a locality, or all where it has none.
    fn zone(&self, locality: u32) -> (u32, &[u32]) {
        let at = self.localities.iter().position(|l| l.0 == locality && !l.2.healthy.is_empty());
        at.map_or((u32::MAX, &self.lists.healthy[..]), |i| (i as u32, &self.localities[i].2.healthy[..]))
    }
}

/// An immutable picture of a cluster's hosts that requests pick from.
#[derive(Debug)]
pub struct Balancer {
    policy: LbPolicy,
    weights: Numbers,
    equal_weights: bool,
    priorities: Vec<PriorityHosts>,
    load: PriorityLoad,
    locality_weighted: bool,
    fail_traffic_on_panic: bool,
    overprovisioning: u32,
    hash_balance_factor: Option<u32>,
    figures: TableFigures,
}

/// Cursors of one worker. Make a new one when the [`Balancer`] is replaced.
#[derive(Debug)]
pub struct LbState {
    cursors: HashMap<(u32, Source, u32), Cursor>,
    localities: HashMap<(u32, Source), Edf>,
    seed: u64,
}

#[derive(Debug)]
enum Cursor {
    Next(u64),
    Edf(Edf),
}

/// What a pick depends on besides the hosts.
pub struct PickInput<'a> {
    /// Hash of the request, for ring hash and maglev.
    pub hash: Option<u64>,
    /// A fresh uniform random number.
    pub random: &'a mut dyn FnMut() -> u64,
    /// Active requests of a host, for least request.
    pub active: &'a dyn Fn(u32) -> u32,
    /// Active requests of the whole cluster, for bounded loads.
    pub all_active: u64,
    /// True for hosts that this try must avoid (retry host predicates).
    pub avoid: &'a dyn Fn(u32) -> bool,
    /// How often to look for a host that need not be avoided; the last one found is used then
    /// (`host_selection_retry_max_attempts`). At least 1.
    pub attempts: u32,
    /// Replaces a host's weight while it warms up (slow start).
    pub weight: Option<&'a dyn Fn(u32) -> f64>,
    /// Priorities that were tried already (`previous_priorities`); their load goes to the others.
    pub excluded_priorities: &'a [u32],
    /// Only this priority, its degraded hosts if so said (aggregate clusters choose it).
    pub only: Option<(u32, bool)>,
    /// Of the first priority's healthy hosts, those of this locality (zone-aware routing chose it).
    pub locality: Option<u32>,
}

impl Balancer {
    /// Builds the picture. Cost is linear in hosts (tables of consistent hashing apart).
    ///
    /// `overprovisioning` is percent, 140 by default.
    pub fn build(
        config: &LbConfig,
        hosts: &[HostInfo<'_>],
        localities: &[LocalityInfo],
        overprovisioning: u32,
        weighted_priority_health: bool,
    ) -> Balancer {
        let locality_weighted = config.locality == LocalityLb::Weighted;
        let by_locality = config.locality != LocalityLb::None;
        let count = hosts.iter().map(|h| h.priority as usize + 1).max().unwrap_or(0);
        let mut priorities: Vec<PriorityHosts> = (0..count).map(|_| PriorityHosts::default()).collect();
        for (i, h) in hosts.iter().enumerate() {
            let p = &mut priorities[h.priority as usize];
            p.lists.push(i as u32, h.health);
            if by_locality {
                let at = p.localities.iter().position(|(l, ..)| *l == h.locality).unwrap_or_else(|| {
                    let weight = localities.get(h.locality as usize).map_or(0, |l| l.weight);
                    p.localities.push((h.locality, weight, Lists::default()));
                    p.localities.len() - 1
                });
                p.localities[at].2.push(i as u32, h.health);
            }
        }
        let load = loads(hosts, count, config.panic_threshold_percent, overprovisioning, weighted_priority_health);
        let mut balancer = Balancer {
            policy: config.policy.clone(),
            weights: hosts.iter().map(|h| h.weight.max(1)).collect(),
            equal_weights: hosts.windows(2).all(|w| w[0].weight == w[1].weight),
            priorities,
            load,
            locality_weighted,
            fail_traffic_on_panic: config.fail_traffic_on_panic,
            overprovisioning,
            hash_balance_factor: config.hash_balance_factor,
            figures: TableFigures::default(),
        };
        balancer.build_tables(hosts);
        balancer
    }

    fn build_tables(&mut self, hosts: &[HostInfo<'_>]) {
        if !self.is_consistent() {
            return;
        }
        for p in 0..self.priorities.len() {
            for (slot, source) in [Source::Healthy, Source::Degraded, Source::All].into_iter().enumerate() {
                let wanted = match source {
                    Source::Healthy => self.load.healthy[p] > 0 && !self.load.panic[p],
                    Source::Degraded => self.load.degraded[p] > 0 && !self.load.panic[p],
                    Source::All => self.load.panic[p],
                };
                if wanted {
                    let table = self.table(p, source, hosts);
                    self.priorities[p].tables.get_or_insert_default()[slot] = table;
                }
            }
        }
    }

    /// Weights normalised to a sum of one, by locality when that is asked for.
    fn normalized(&self, p: usize, source: Source) -> Vec<(u32, f64)> {
        let priority = &self.priorities[p];
        let share = |list: &[u32], whole: f64, out: &mut Vec<(u32, f64)>| {
            let sum: f64 = list.iter().map(|h| f64::from(self.weights[*h as usize])).sum();
            out.extend(list.iter().map(|h| (*h, f64::from(self.weights[*h as usize]) * whole / sum)));
        };
        let mut out = Vec::new();
        if self.locality_weighted {
            let total: u64 =
                priority.localities.iter().filter(|l| !l.2.of(source).is_empty()).map(|l| u64::from(l.1)).sum();
            if total > 0 {
                for (_, weight, lists) in &priority.localities {
                    share(lists.of(source), f64::from(*weight) / total as f64, &mut out);
                }
                out.retain(|(_, w)| *w > 0.0);
                return out;
            }
        }
        share(priority.lists.of(source), 1.0, &mut out);
        out
    }

    fn table(&mut self, p: usize, source: Source, hosts: &[HostInfo<'_>]) -> Option<Table> {
        let weights = self.normalized(p, source);
        if weights.is_empty() {
            return None;
        }
        let keyed: Vec<(u32, &str, f64)> = weights.iter().map(|(h, w)| (*h, hosts[*h as usize].hash_key, *w)).collect();
        let slots = match self.policy {
            LbPolicy::RingHash { minimum_ring_size, maximum_ring_size, hash } => Slots::Ring(Ring::build(
                &keyed,
                minimum_ring_size,
                maximum_ring_size,
                hash == RingHashFunction::MurmurHash2,
            )),
            LbPolicy::Maglev { table_size } => Slots::Maglev(Maglev::build(&keyed, table_size)),
            _ => return None,
        };
        let mut counts: HashMap<u32, u64> = keyed.iter().map(|k| (k.0, 0)).collect();
        match &slots {
            Slots::Ring(r) => r.owners().for_each(|h| *counts.entry(h).or_default() += 1),
            Slots::Maglev(m) => m.slots().iter().for_each(|h| *counts.entry(*h).or_default() += 1),
        }
        self.figures = TableFigures {
            size: counts.values().sum(),
            least: counts.values().copied().min().unwrap_or(0),
            most: counts.values().copied().max().unwrap_or(0),
        };
        let shares = if self.hash_balance_factor.is_some() { weights.into() } else { Box::default() };
        Some(Table { slots, shares })
    }

    /// Keys are placed by hash.
    pub fn is_consistent(&self) -> bool {
        matches!(self.policy, LbPolicy::RingHash { .. } | LbPolicy::Maglev { .. })
    }

    /// Figures of the table built last.
    pub fn table_figures(&self) -> TableFigures {
        self.figures
    }

    /// A fresh set of cursors. `seed` staggers workers, as Envoy does.
    pub fn state(&self, seed: u64) -> LbState {
        LbState { cursors: HashMap::new(), localities: HashMap::new(), seed }
    }

    /// True when no host can be picked at all.
    pub fn is_empty(&self) -> bool {
        self.weights.is_empty()
    }

    /// The load of each priority and whether it panics.
    pub fn load(&self) -> &PriorityLoad {
        &self.load
    }

    /// Picks a host. `None`: no usable host (answer "no healthy upstream").
    pub fn pick(&self, state: &mut LbState, input: &mut PickInput<'_>) -> Option<u32> {
        let mut last = None;
        for attempt in 0..input.attempts.max(1) {
            let Some(host) = self.pick_once(state, input, attempt) else {
                return last;
            };
            last = Some(host);
            if !(input.avoid)(host) {
                return last;
            }
        }
        last
    }

    fn pick_once(&self, state: &mut LbState, input: &mut PickInput<'_>, attempt: u32) -> Option<u32> {
        let hash = match input.hash {
            Some(h) if self.is_consistent() => h,
            _ => (input.random)(),
        };
        let (p, degraded) = match input.only {
            Some(only) => only,
            None => self.load.choose(hash, input.excluded_priorities)?,
        };
        let priority = self.priorities.get(p as usize)?;
        let source = if self.load.panic[p as usize] {
            if self.fail_traffic_on_panic {
                return None;
            }
            Source::All
        } else if degraded {
            Source::Degraded
        } else {
            Source::Healthy
        };
        let slot = match source {
            Source::Healthy => 0,
            Source::Degraded => 1,
            Source::All => 2,
        };
        if let Some(table) = priority.tables.as_ref().and_then(|t| t[slot].as_ref()) {
            let host = match &table.slots {
                Slots::Ring(r) => r.pick(hash, attempt),
                Slots::Maglev(m) => m.pick(hash, attempt),
            };
            return Some(match self.hash_balance_factor {
                Some(f) => bounded::pick(host, &table.shares, hash, f, input.all_active, input.active),
                None => host,
            });
        }
        let (locality, list) = match input.locality {
            Some(locality) if p == 0 && source == Source::Healthy => priority.zone(locality),
            _ => self.list(state, p, priority, source),
        };
        self.algorithm(state, (p, source, locality), list, input)
    }

    /// The list to pick from: the whole priority, or a locality by weight.
    fn list<'a>(&self, state: &mut LbState, p: u32, priority: &'a PriorityHosts, source: Source) -> (u32, &'a [u32]) {
        let whole = (u32::MAX, priority.lists.of(source));
        if !self.locality_weighted || source == Source::All {
            return whole;
        }
        let factor = self.overprovisioning;
        let edf = state.localities.entry((p, source)).or_insert_with(|| {
            // A locality's effective weight shrinks as its hosts fail, beyond the overprovisioning factor.
            let weights = priority.localities.iter().enumerate().filter_map(|(i, (_, weight, lists))| {
                let usable = lists.of(source).len() as f64;
                let available = (f64::from(factor) / 100.0 * usable / lists.all.len() as f64).min(1.0);
                let effective = f64::from(*weight) * available;
                (effective > 0.0).then_some((i as u32, effective))
            });
            Edf::new(weights)
        });
        let chosen = edf.pick(|i| {
            let (_, weight, lists) = &priority.localities[i as usize];
            let usable = lists.of(source).len() as f64;
            f64::from(*weight) * (f64::from(factor) / 100.0 * usable / lists.all.len() as f64).min(1.0)
        });
        match chosen {
            Some(i) => (i, priority.localities[i as usize].2.of(source)),
            None => whole,
        }
    }

    fn algorithm(
        &self,
        state: &mut LbState,
        key: (u32, Source, u32),
        list: &[u32],
        input: &mut PickInput<'_>,
    ) -> Option<u32> {
        if list.is_empty() {
            return None;
        }
        let any = |random: u64| list[(random % list.len() as u64) as usize];
        let warming = input.weight.is_some();
        match &self.policy {
            LbPolicy::Random => Some(any((input.random)())),
            LbPolicy::LeastRequest { full_scan: true, .. } if self.equal_weights && !warming => {
                self.full_scan(list, input)
            }
            LbPolicy::LeastRequest { choice_count, .. } if self.equal_weights && !warming => {
                let mut best = any((input.random)());
                let mut least = (input.active)(best);
                for _ in 1..(*choice_count).max(1) {
                    let other = any((input.random)());
                    let load = (input.active)(other);
                    if load < least {
                        (best, least) = (other, load);
                    }
                }
                Some(best)
            }
            LbPolicy::LeastRequest { active_request_bias, .. } => {
                let bias = *active_request_bias;
                let weigh = |h: u32| {
                    let active = f64::from((input.active)(h));
                    let share = if bias == 1.0 { active + 1.0 } else { (active + 1.0).powf(bias) };
                    self.weight(h, input.weight) / share
                };
                self.edf(state, key, list, &weigh)
            }
            _ if self.equal_weights && !warming => {
                let seed = state.seed;
                let cursor = state.cursors.entry(key).or_insert(Cursor::Next(seed));
                let Cursor::Next(n) = cursor else {
                    *cursor = Cursor::Next(seed);
                    return Some(any(seed));
                };
                let host = any(*n);
                *n = n.wrapping_add(1);
                Some(host)
            }
            _ => {
                let weigh = |h: u32| self.weight(h, input.weight);
                self.edf(state, key, list, &weigh)
            }
        }
    }

    /// The host with the fewest active requests; among equals, one at random.
    fn full_scan(&self, list: &[u32], input: &mut PickInput<'_>) -> Option<u32> {
        let mut best: Option<(u32, u32)> = None;
        let mut equals = 0u64;
        for host in list {
            let load = (input.active)(*host);
            match best {
                Some((_, least)) if load > least => {}
                Some((_, least)) if load == least => {
                    equals += 1;
                    if (input.random)().is_multiple_of(equals) {
                        best = Some((*host, load));
                    }
                }
                _ => (best, equals) = (Some((*host, load)), 1),
            }
        }
        best.map(|b| b.0)
    }

    fn weight(&self, host: u32, warm: Option<&dyn Fn(u32) -> f64>) -> f64 {
        warm.map_or_else(|| f64::from(self.weights[host as usize]), |w| w(host).max(f64::MIN_POSITIVE))
    }

    fn edf(
        &self,
        state: &mut LbState,
        key: (u32, Source, u32),
        list: &[u32],
        weigh: &dyn Fn(u32) -> f64,
    ) -> Option<u32> {
        let seed = state.seed;
        let cursor = state.cursors.entry(key).or_insert_with(|| {
            let mut edf = Edf::new(list.iter().map(|h| (*h, weigh(*h))));
            // Workers start at different places of the schedule.
            for _ in 0..seed % list.len() as u64 {
                edf.pick(weigh);
            }
            Cursor::Edf(edf)
        });
        match cursor {
            Cursor::Edf(edf) => edf.pick(weigh),
            Cursor::Next(_) => {
                *cursor = Cursor::Edf(Edf::new(list.iter().map(|h| (*h, weigh(*h)))));
                list.first().copied()
            }
        }
    }
}

/// The share of its weight that a host of this age gets under slow start.
pub fn slow_start_factor(config: &SlowStart, age: Duration) -> f64 {
    if age >= config.window {
        return 1.0;
    }
    let time = (age.as_secs_f64().max(0.001) / config.window.as_secs_f64()).min(1.0);
    let factor =
        if config.aggression == 1.0 || config.aggression <= 0.0 { time } else { time.powf(1.0 / config.aggression) };
    factor.max(config.min_weight_percent)
}

#[cfg(test)]
mod tests;
