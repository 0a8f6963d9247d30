//! What is a cluster at run time? Its configuration, hosts, breakers, transports and stats.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use arc_swap::ArcSwapOption;
use proxy_config::cluster::{self as config, Discovery, LoadAssignment, UpstreamTransport};
use proxy_config::common::{Address, Metadata};
use proxy_config::route::Priority;
use proxy_core::health::flag;
use proxy_core::lb::subset::Subsets;
use proxy_core::lb::{Balancer, Health, HostInfo, LocalityInfo};
use telemetry::access_log::Sink;
use telemetry::stats::envoy::{
    circuit_breakers, circuit_breakers_remaining, cluster as stat, health_check, outlier_detection, total_match_count,
};
use telemetry::stats::{Block, Expiring};
use tls::ClientContext;
use tokio::sync::Notify;

use crate::breakers::{Breakers, Resource};
use crate::host::{Host, HostStats, Outcome};
use crate::idle::{self, Members};
use crate::registry::Ground;
use crate::{dynamic, health, outlier, tables};

/// Hosts of an ORIGINAL_DST cluster that are remembered; more make room for new ones.
const ORIGINAL_DST_HOSTS_MAX: usize = 4096;
/// `overprovisioning_factor` when the assignment has none.
const OVERPROVISIONING_PERCENT: u32 = 140;

/// The hosts of a cluster at one moment, with the balancer built over them.
#[derive(Debug)]
pub struct HostSet {
    /// Hosts; a balancer's number is a position here.
    pub hosts: Box<[Arc<Host>]>,
    /// The balancer.
    pub balancer: Balancer,
    /// Subsets by metadata, when the cluster has them.
    pub subsets: Option<Box<Subsets>>,
    rules: Rules,
    /// Share of requests dropped on purpose, millionths.
    pub drop_ppm: u32,
}

/// What an assignment says about all its hosts.
#[derive(Debug, Clone)]
struct Rules {
    localities: Arc<[LocalityInfo]>,
    overprovisioning: u32,
    weighted_priority_health: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Rules {
            localities: Arc::default(),
            overprovisioning: OVERPROVISIONING_PERCENT,
            weighted_priority_health: false,
        }
    }
}

/// A cluster at run time; shared by all threads.
pub struct Cluster {
    /// Configuration.
    pub config: Arc<config::Cluster>,
    /// `cluster.<name>.`
    pub stats: Block<stat::Cluster>,
    /// `cluster.<name>.outlier_detection.`
    pub outlier_stats: OnceLock<Block<outlier_detection::OutlierDetection>>,
    /// `cluster.<name>.circuit_breakers.{default,high}.`
    pub breaker_stats: [OnceLock<Block<circuit_breakers::CircuitBreakers>>; 2],
    retry_stats: OnceLock<Block<retry::Retry>>,
    ssl_stats: OnceLock<Box<tls::stats::SessionStats>>,
    initialized: AtomicBool,
    resolved: AtomicBool,
    rare: OnceLock<Box<Rare>>,
    ground: Arc<Ground>,
    /// None until a worker first picks from a cluster that may wait for that.
    hosts: ArcSwapOption<HostSet>,
    update: Mutex<Waiting>,
    breakers: [OnceLock<Arc<Breakers>>; 2],
    transports: OnceLock<Transports>,
}

/// The assignment of a cluster whose hosts are not built yet. The lock around it lets one thread at a time change hosts.
type Waiting = Option<Arc<LoadAssignment>>;

/// What most clusters never need, made when first used.
struct Rare {
    health_stats: OnceLock<Block<health_check::HealthCheck>>,
    health_events: health::EventLog,
    judgement: Mutex<outlier::Judgement>,
    table_stats: OnceLock<tables::Stats>,
    membership: Notify,
    dynamic: dynamic::Cache,
    original: Mutex<HashMap<SocketAddr, Arc<Host>>>,
    match_stats: OnceLock<Box<[Block<total_match_count::TotalMatchCount>]>>,
    remaining_stats: [OnceLock<Block<circuit_breakers_remaining::CircuitBreakersRemaining>>; 2],
}

/// TLS contexts: the default's and those of the matches, in order.
struct Transports {
    default: Option<Arc<ClientContext>>,
    matches: Box<[Option<Arc<ClientContext>>]>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("name", &self.config.name).finish_non_exhaustive()
    }
}

impl Cluster {
    /// A cluster without hosts, or with those that its configuration names by address.
    pub fn new(config: Arc<config::Cluster>, ground: &Arc<Ground>) -> Arc<Self> {
        let stat_name = config.alt_stat_name.as_ref().unwrap_or(&config.name);
        let stats = ground.store.block(&format!("cluster.{}.", telemetry::stats::sanitize(stat_name)));
        let cluster = Arc::new(Cluster {
            stats,
            outlier_stats: OnceLock::new(),
            breaker_stats: Default::default(),
            retry_stats: OnceLock::new(),
            ssl_stats: OnceLock::new(),
            initialized: AtomicBool::new(!starts_slowly(&config)),
            resolved: AtomicBool::new(!is_dns(&config)),
            rare: OnceLock::new(),
            ground: ground.clone(),
            hosts: ArcSwapOption::empty(),
            update: Mutex::default(),
            breakers: Default::default(),
            transports: OnceLock::new(),
            config,
        });
        let raw = |t: &UpstreamTransport| matches!(t, UpstreamTransport::Raw);
        if !raw(&cluster.config.transport) || !cluster.config.transport_matches.iter().all(|m| raw(&m.transport)) {
            let holder: Weak<Cluster> = Arc::downgrade(&cluster);
            ground.store.expires(holder);
        }
        report_idle_settings(&cluster.config);
        if !cluster.config.health_checks.is_empty() {
            cluster.health_stats();
        }
        if cluster.config.outlier_detection.is_some() {
            cluster.outlier_stats();
        }
        if cluster.config.lb.is_consistent() {
            cluster.publish_tables(&cluster.hosts());
        }
        if let Discovery::Static(load) = &cluster.config.discovery {
            cluster.assign_numeric(load);
        }
        cluster
    }

    fn rare(&self) -> &Rare {
        self.rare.get_or_init(|| {
            Box::new(Rare {
                health_stats: OnceLock::new(),
                health_events: health::EventLog::open(&self.config, &self.ground),
                judgement: Mutex::default(),
                table_stats: OnceLock::new(),
                membership: Notify::new(),
                dynamic: dynamic::Cache::default(),
                original: Mutex::default(),
                match_stats: OnceLock::new(),
                remaining_stats: Default::default(),
            })
        })
    }

    /// Requests may be sent to it: names were resolved and hosts checked once, if that is asked for.
    pub fn is_initialized(&self) -> bool {
        self.initialized.load(Acquire)
    }

    pub(crate) fn dynamic_cache(&self) -> &dynamic::Cache {
        &self.rare().dynamic
    }

    /// Its names were looked up once, with whatever success.
    pub(crate) fn is_resolved(&self) -> bool {
        self.resolved.load(Acquire)
    }

    /// Notes that names were looked up. Without health checks, that is all a DNS cluster waits for.
    pub(crate) fn set_resolved(&self) {
        if !self.resolved.swap(true, Release) && self.config.health_checks.is_empty() {
            self.set_initialized();
        }
        self.wake_checker();
    }

    /// Lets whoever waits for it know that the cluster is ready.
    pub(crate) fn set_initialized(&self) {
        self.initialized.store(true, Release);
        self.ground.woken.notify_one();
    }

    /// Waits until the hosts may have changed.
    pub(crate) async fn membership_changed(&self) {
        self.rare().membership.notified().await;
    }

    /// Lets the checker look at its sessions again.
    pub(crate) fn wake_checker(&self) {
        if !self.config.health_checks.is_empty() {
            self.rare().membership.notify_one();
        }
    }

    /// `cluster.<name>.health_check.`
    pub(crate) fn health_stats(&self) -> &Block<health_check::HealthCheck> {
        self.rare()
            .health_stats
            .get_or_init(|| self.ground.store.block(&format!("{}health_check.", self.stats.prefix())))
    }

    pub(crate) fn health_events(&self) -> &health::EventLog {
        &self.rare().health_events
    }

    /// What outlier detection found last; held while hosts are ejected or returned.
    pub fn judgement(&self) -> MutexGuard<'_, outlier::Judgement> {
        self.rare().judgement.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A host passed its health check. True if that returned it from its ejection.
    pub(crate) fn uneject_after_check(&self, host: &Host) -> bool {
        outlier::check_passed(self, host)
    }

    /// Where ejections are written down.
    pub(crate) fn outlier_events(&self) -> Option<&Sink> {
        self.ground.outlier_events.get().map(|s| &**s)
    }

    /// The cluster of proxies like this one.
    pub(crate) fn local(&self) -> &crate::zone::Local {
        &self.ground.local
    }

    /// The hosts now, built if they were not yet.
    pub fn hosts(&self) -> Arc<HostSet> {
        self.hosts.load_full().unwrap_or_else(|| self.built(&mut self.lock()))
    }

    /// The hosts now, cheaply, for comparison; none while nobody has asked for them by [`Cluster::hosts`].
    pub fn hosts_ref(&self) -> arc_swap::Guard<Option<Arc<HostSet>>> {
        self.hosts.load()
    }

    /// The hosts as they are or would be, for a reader who does not use them: what is built for it is not kept.
    pub fn hosts_view(&self) -> Arc<HostSet> {
        if let Some(set) = self.hosts.load_full() {
            return set;
        }
        let waiting = self.lock().clone();
        match (waiting, self.hosts.load_full()) {
            (_, Some(set)) => set,
            (Some(load), None) => Arc::new(self.laid_out(&load, &HostSet::empty(&self.config.lb), numeric).0),
            (None, None) => Arc::new(HostSet::empty(&self.config.lb)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.update.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The hosts, built from what waits if need be.
    fn built(&self, waiting: &mut Waiting) -> Arc<HostSet> {
        if let Some(set) = self.hosts.load_full() {
            return set;
        }
        let empty = HostSet::empty(&self.config.lb);
        let set = Arc::new(match waiting.take() {
            Some(load) => self.laid_out(&load, &empty, numeric).0,
            None => empty,
        });
        self.hosts.store(Some(set.clone()));
        set
    }

    /// Replaces the endpoints, whose addresses are not names. Where only requests need the hosts they are built with the first.
    pub fn assign_numeric(&self, load: &Arc<LoadAssignment>) {
        if self.hosts_ref().is_none() && idle::may_wait(&self.config, load) {
            let mut waiting = self.lock();
            if self.hosts_ref().is_none() {
                let members = Members::of(load);
                let old = waiting.as_ref().map(|l| Members::of(l));
                self.stats.add(stat::MEMBERSHIP_CHANGE, members.changed(old.as_ref()));
                self.count_members(members.total(), |h| members.count(h));
                *waiting = Some(load.clone());
                return;
            }
        }
        self.assign(load, numeric);
    }

    /// Replaces the endpoints. `resolve` yields the addresses of one endpoint (names are resolved by
    /// the caller). Hosts whose address stays keep their state; under active health checking a host that
    /// is removed stays as long as it passes its check.
    pub fn assign(&self, load: &LoadAssignment, resolve: impl Fn(&Address) -> Vec<Address>) {
        let mut waiting = self.lock();
        let old = self.built(&mut waiting);
        let (set, changed) = self.laid_out(load, &old, resolve);
        // Counted for each priority.
        self.stats.add(stat::MEMBERSHIP_CHANGE, changed.len() as u64);
        self.publish(&old, set);
        self.wake_checker();
    }

    /// The host set of an assignment that replaces `old`, and the priorities that gain or lose hosts.
    fn laid_out(
        &self,
        load: &LoadAssignment,
        old: &HostSet,
        resolve: impl Fn(&Address) -> Vec<Address>,
    ) -> (HostSet, HashSet<u32>) {
        let checked = !self.config.health_checks.is_empty();
        let mut known: HashMap<&str, &Arc<Host>> = old.hosts.iter().map(|h| (&*h.text, h)).collect();
        let mut hosts: Vec<Arc<Host>> = Vec::new();
        let mut names = Vec::with_capacity(load.localities.len());
        let mut localities = Vec::with_capacity(load.localities.len());
        let mut changed: HashSet<u32> = HashSet::new();
        let mut seen: HashSet<(Arc<str>, u32)> = HashSet::new();
        let mut kept: HashSet<Arc<str>> = HashSet::new();
        for (i, l) in load.localities.iter().enumerate() {
            localities.push(LocalityInfo { weight: l.weight });
            names.push((l.locality.clone(), l.priority));
            for e in &l.endpoints {
                for address in resolve(&e.address) {
                    let text: Arc<str> = address.to_string().into();
                    if !seen.insert((text.clone(), l.priority)) {
                        continue;
                    }
                    let stats = match known.get(&*text) {
                        Some(h) => {
                            h.stats.flags.fetch_and(!flag::PENDING_DYNAMIC_REMOVAL, Relaxed);
                            h.stats.clone()
                        }
                        None => {
                            changed.insert(l.priority);
                            self.count_transport_match(&e.metadata);
                            self.fresh(e)
                        }
                    };
                    kept.insert(text);
                    let locality = l.locality.clone();
                    hosts.push(Arc::new(Host::new(e, address, l.priority, i as u32, locality, stats)));
                }
            }
        }
        known.retain(|text, _| !kept.contains(*text));
        changed.extend(known.values().map(|h| h.priority));
        if checked && !self.config.ignore_health_on_host_removal {
            for host in old.hosts.iter().filter(|h| known.contains_key(&*h.text)) {
                if host.has_flag(flag::FAILED_ACTIVE_HC) || host.told == config::HealthStatus::Unhealthy {
                    continue;
                }
                host.stats.flags.fetch_or(flag::PENDING_DYNAMIC_REMOVAL, Relaxed);
                let at = names.iter().position(|(l, p)| *l == host.locality && *p == host.priority);
                let at = at.unwrap_or_else(|| {
                    let weight = old.rules.localities.get(host.locality_index as usize).map_or(0, |l| l.weight);
                    localities.push(LocalityInfo { weight });
                    names.push((host.locality.clone(), host.priority));
                    names.len() - 1
                });
                hosts.push(Arc::new(Host { locality_index: at as u32, ..Host::clone(host) }));
            }
        }
        let rules = Rules {
            localities: localities.into(),
            overprovisioning: load.overprovisioning_factor.unwrap_or(OVERPROVISIONING_PERCENT),
            weighted_priority_health: load.weighted_priority_health,
        };
        (HostSet::build(&self.config.lb, hosts.into(), rules, load.drop_overload_ppm), changed)
    }

    /// The state of a host that appears: one that is checked starts as failing.
    fn fresh(&self, e: &config::Endpoint) -> Arc<HostStats> {
        let stats = HostStats::default();
        let disabled = e.health_check.as_ref().is_some_and(|h| h.disabled);
        if !self.config.health_checks.is_empty() && !disabled {
            let pending = if self.config.lb.ignore_new_hosts_until_first_hc { flag::PENDING_ACTIVE_HC } else { 0 };
            stats.flags.store(flag::FAILED_ACTIVE_HC | pending, Relaxed);
        }
        Arc::new(stats)
    }

    /// Rebuilds the balancer after a change of health.
    pub fn health_changed(&self) {
        self.rebuild(|_| true);
    }

    /// Lets hosts go that discovery removed and that fail their check now.
    pub(crate) fn drop_removed_hosts(&self) {
        self.stats.inc(stat::MEMBERSHIP_CHANGE);
        self.rebuild(|h| !h.has_flag(flag::PENDING_DYNAMIC_REMOVAL) || !h.has_flag(flag::FAILED_ACTIVE_HC));
        self.wake_checker();
    }

    fn rebuild(&self, keep: impl Fn(&Host) -> bool) {
        let mut waiting = self.lock();
        let old = self.built(&mut waiting);
        let hosts = old.hosts.iter().filter(|h| keep(h)).cloned().collect();
        self.publish(&old, HostSet::build(&self.config.lb, hosts, old.rules.clone(), old.drop_ppm));
    }

    /// Takes over hosts of the cluster that this one replaces. Not under active health checking: then they
    /// are checked anew before the replacement serves.
    pub fn inherit(&self, old: &Cluster) {
        if !self.config.health_checks.is_empty() || !old.config.health_checks.is_empty() {
            return;
        }
        let unused = { old.lock().clone() };
        let mut waiting = self.lock();
        match unused {
            Some(load) if self.hosts_ref().is_none() && idle::may_wait(&self.config, &load) => {
                let members = Members::of(&load);
                self.count_members(members.total(), |h| members.count(h));
                *waiting = Some(load);
            }
            _ => {
                let (set, own) = (old.hosts(), self.built(&mut waiting));
                self.publish(&own, HostSet::build(&self.config.lb, set.hosts.clone(), set.rules.clone(), set.drop_ppm));
            }
        }
        self.initialized.store(true, Release);
    }

    fn publish(&self, old: &HostSet, set: HostSet) {
        self.count_members(set.hosts.len(), |h| set.hosts.iter().filter(|x| x.health() == h).count() as u64);
        if self.config.outlier_detection.is_some() {
            let ejected = set.hosts.iter().filter(|h| h.stats.ejection.ejected.load(Relaxed)).count();
            self.outlier_stats().gauge_set(outlier_detection::EJECTIONS_ACTIVE, ejected as u64);
        }
        if let Some(subsets) = &set.subsets {
            let threads = self.ground.threads.load(Relaxed);
            let (created, removed) = subsets.difference(old.subsets.as_deref());
            self.stats.add(stat::LB_SUBSETS_CREATED, created * threads);
            self.stats.add(stat::LB_SUBSETS_REMOVED, removed * threads);
            self.stats.gauge_set(stat::LB_SUBSETS_ACTIVE, subsets.len() as u64 * threads);
        }
        self.publish_tables(&set);
        self.hosts.store(Some(Arc::new(set)));
    }

    /// `membership_*` gauges.
    fn count_members(&self, total: usize, count: impl Fn(Health) -> u64) {
        self.stats.gauge_set(stat::MEMBERSHIP_TOTAL, total as u64);
        self.stats.gauge_set(stat::MEMBERSHIP_HEALTHY, count(Health::Healthy));
        let (degraded, excluded) = (count(Health::Degraded), count(Health::Excluded));
        if degraded > 0 || self.stats.gauge(stat::MEMBERSHIP_DEGRADED) > 0 {
            self.stats.gauge_set(stat::MEMBERSHIP_DEGRADED, degraded);
        }
        if excluded > 0 || self.stats.gauge(stat::MEMBERSHIP_EXCLUDED) > 0 {
            self.stats.gauge_set(stat::MEMBERSHIP_EXCLUDED, excluded);
        }
    }

    /// `ring_hash_lb.` and `maglev_lb.` gauges.
    fn publish_tables(&self, set: &HostSet) {
        if set.balancer.is_consistent() {
            let stats = self
                .rare()
                .table_stats
                .get_or_init(|| tables::Stats::new(&self.ground.store, self.stats.prefix(), &self.config.lb));
            stats.publish(set.balancer.table_figures());
        }
    }

    /// The breakers of a priority.
    pub fn breakers(&self, priority: Priority) -> &Arc<Breakers> {
        let high = priority == Priority::High;
        self.breakers[usize::from(high)].get_or_init(|| {
            let t = self.config.circuit_breakers.as_ref().map(|c| if high { &c.high } else { &c.default });
            Breakers::new(t)
        })
    }

    /// Publishes whether a breaker is open.
    pub fn note_breaker(&self, priority: Priority, resource: Resource) {
        let gauge = match resource {
            Resource::Connections => circuit_breakers::CX_OPEN,
            Resource::Pending => circuit_breakers::RQ_PENDING_OPEN,
            Resource::Requests => circuit_breakers::RQ_OPEN,
            Resource::Retries => circuit_breakers::RQ_RETRY_OPEN,
        };
        let open = self.breakers(priority).open(resource);
        self.breaker_stats(priority).gauge_set(gauge, u64::from(open));
    }

    fn breaker_stats(&self, priority: Priority) -> &Block<circuit_breakers::CircuitBreakers> {
        self.breaker_stats[usize::from(priority == Priority::High)]
            .get_or_init(|| self.ground.store.block(&self.breaker_prefix(priority)))
    }

    fn breaker_prefix(&self, priority: Priority) -> String {
        let level = if priority == Priority::High { "high" } else { "default" };
        format!("{}circuit_breakers.{level}.", self.stats.prefix())
    }

    /// Brings the breakers' gauges up to date: those that were ever noted, and with `track_remaining` what is left.
    pub fn refresh_breakers(&self) {
        use circuit_breakers_remaining as left;
        for priority in [Priority::Default, Priority::High] {
            let high = usize::from(priority == Priority::High);
            if self.breaker_stats[high].get().is_some() {
                let all = [Resource::Connections, Resource::Pending, Resource::Requests, Resource::Retries];
                all.into_iter().for_each(|r| self.note_breaker(priority, r));
            }
            let limits = self.config.circuit_breakers.as_ref().map(|c| c.of(priority));
            let Some(limits) = limits.filter(|t| t.track_remaining) else { continue };
            let breakers = self.breakers(priority);
            let stats = self.rare().remaining_stats[high]
                .get_or_init(|| self.ground.store.block(&self.breaker_prefix(priority)));
            let rest = |r| u64::from(breakers.limit(r).saturating_sub(breakers.used(r)));
            stats.gauge_set(left::REMAINING_CX, rest(Resource::Connections));
            stats.gauge_set(left::REMAINING_PENDING, rest(Resource::Pending));
            stats.gauge_set(left::REMAINING_RQ, rest(Resource::Requests));
            stats.gauge_set(left::REMAINING_RETRIES, rest(Resource::Retries));
            let most =
                if limits.max_connection_pools == u32::MAX { u64::MAX } else { limits.max_connection_pools.into() };
            let hosts = self.hosts_ref();
            let hosts = hosts.iter().flat_map(|set| &set.hosts);
            let pools = hosts.filter(|h| h.stats.cx_active.load(Relaxed) > 0).count() as u64;
            stats.gauge_set(left::REMAINING_CX_POOLS, most.saturating_sub(pools));
        }
    }

    /// Outlier detection stats, made when first used.
    pub fn outlier_stats(&self) -> &Block<outlier_detection::OutlierDetection> {
        self.outlier_stats
            .get_or_init(|| self.ground.store.block(&format!("{}outlier_detection.", self.stats.prefix())))
    }

    /// Counts a response that is not passed on because the request is tried again.
    pub fn charge_retried(&self, status: u16) {
        let block = self.retry_stats.get_or_init(|| self.ground.store.block(&format!("{}retry.", self.stats.prefix())));
        block.inc(retry::UPSTREAM_RQ_COMPLETED);
        match status / 100 {
            2 => block.inc(retry::UPSTREAM_RQ_2XX),
            3 => block.inc(retry::UPSTREAM_RQ_3XX),
            4 => block.inc(retry::UPSTREAM_RQ_4XX),
            5 => block.inc(retry::UPSTREAM_RQ_5XX),
            _ => {}
        }
        block.code(retry::UPSTREAM_RQ, status);
    }

    /// Handshakes with upstreams, in `cluster.<name>.ssl.`.
    pub fn tls_stats(&self) -> &tls::stats::SessionStats {
        let make = || tls::stats::SessionStats::new(&self.ground.store, &format!("{}ssl.", self.stats.prefix()));
        self.ssl_stats.get_or_init(|| Box::new(make()))
    }

    /// Reports what came of a request to `host`.
    pub fn report(&self, host: &Host, outcome: Outcome) {
        if let Some(rules) = &self.config.outlier_detection {
            outlier::report(self, rules, host, outcome);
        }
    }

    /// The transport for a host, and its TLS context when it has one.
    ///
    /// `Err`: the TLS configuration is unusable.
    pub fn transport(&self, host: &Host) -> (&UpstreamTransport, Option<&Arc<ClientContext>>) {
        self.transport_for(&host.metadata)
    }

    /// The transport for these endpoint metadata.
    pub(crate) fn transport_for(&self, metadata: &Metadata) -> (&UpstreamTransport, Option<&Arc<ClientContext>>) {
        let transports = self.transports.get_or_init(|| Transports {
            default: self.context(&self.config.transport),
            matches: self.config.transport_matches.iter().map(|m| self.context(&m.transport)).collect(),
        });
        let matched = self.matched_transport(metadata);
        match matched {
            Some(i) => (&self.config.transport_matches[i].transport, transports.matches[i].as_ref()),
            None => (&self.config.transport, transports.default.as_ref()),
        }
    }

    fn matched_transport(&self, metadata: &Metadata) -> Option<usize> {
        self.config.transport_matches.iter().position(|m| {
            m.criteria.iter().all(|(key, value)| {
                metadata.get("envoy.transport_socket_match", std::slice::from_ref(key)) == Some(value)
            })
        })
    }

    /// `cluster.<name>.<match>.total_match_count`, counted for each host that appears.
    fn count_transport_match(&self, metadata: &Metadata) {
        if self.config.transport_matches.is_empty() {
            return;
        }
        let stats = self.rare().match_stats.get_or_init(|| {
            let names = self.config.transport_matches.iter().map(|m| &*m.name).chain(["default"]);
            names.map(|n| self.ground.store.block(&format!("{}{n}.", self.stats.prefix()))).collect()
        });
        let at = self.matched_transport(metadata).unwrap_or(self.config.transport_matches.len());
        stats[at].inc(total_match_count::TOTAL_MATCH_COUNT);
    }

    fn context(&self, transport: &UpstreamTransport) -> Option<Arc<ClientContext>> {
        match transport {
            UpstreamTransport::Raw => None,
            UpstreamTransport::Tls(t) => ClientContext::from_config(t, &self.ground.secrets).ok().map(Arc::new),
            UpstreamTransport::ProxyProtocol { inner, .. } | UpstreamTransport::InternalUpstream { inner, .. } => {
                self.context(inner)
            }
        }
    }

    /// The host of an ORIGINAL_DST cluster for this destination.
    pub fn original_host(&self, address: SocketAddr) -> Arc<Host> {
        let mut known = self.rare().original.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(h) = known.get(&address) {
            return h.clone();
        }
        if known.len() >= ORIGINAL_DST_HOSTS_MAX {
            known.retain(|_, h| Arc::strong_count(h) > 1);
        }
        let hostname = format!("{}{address}", self.config.name).into();
        let host = Arc::new(Host { hostname, ..Host::bare(address) });
        known.insert(address, host.clone());
        host
    }

    /// Hosts that an ORIGINAL_DST cluster remembers.
    pub fn original_hosts(&self) -> Vec<Arc<Host>> {
        self.rare().original.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

impl Expiring for Cluster {
    fn expiries(&self, each: &mut dyn FnMut(String, u64)) {
        let mut tell = |context: Arc<ClientContext>| {
            context.expiries(&mut |name, at| each(format!("{}ssl.certificate.{name}.", self.stats.prefix()), at));
        };
        match self.transports.get() {
            Some(t) => t.default.iter().chain(t.matches.iter().flatten()).cloned().for_each(tell),
            // Contexts that nobody used are made to be asked, and not kept.
            None => {
                let matches = self.config.transport_matches.iter().map(|m| &m.transport);
                matches.chain([&self.config.transport]).filter_map(|t| self.context(t)).for_each(&mut tell);
            }
        }
    }
}

/// Says which settings of a cluster have no effect here.
fn report_idle_settings(config: &config::Cluster) {
    let idle = |what: &str| telemetry::warn!(upstream, "cluster {}: {what} has no effect", config.name);
    if let Some(breakers) = &config.circuit_breakers {
        if breakers.per_host_max_connections.is_some() {
            idle("circuit_breakers.per_host_thresholds");
        }
        if breakers.default.max_connection_pools != u32::MAX || breakers.high.max_connection_pools != u32::MAX {
            idle("circuit_breakers.thresholds.max_connection_pools");
        }
    }
    if config.preconnect.is_some_and(|p| p.predictive_ratio > 1.0) {
        idle("preconnect_policy.predictive_preconnect_ratio");
    }
    if config.connection_pool_per_downstream_connection {
        idle("connection_pool_per_downstream_connection");
    }
    if config.lb.close_connections_on_host_set_change {
        idle("common_lb_config.close_connections_on_host_set_change");
    }
    if matches!(&config.discovery, Discovery::StrictDns(_, d) | Discovery::LogicalDns(_, d) if d.respect_ttl) {
        idle("respect_dns_ttl");
    }
}

/// An endpoint's address as it stands.
fn numeric(address: &Address) -> Vec<Address> {
    vec![address.clone()]
}

/// Whether a cluster needs something from the network before it can serve.
fn starts_slowly(config: &config::Cluster) -> bool {
    !config.health_checks.is_empty() || is_dns(config)
}

fn is_dns(config: &config::Cluster) -> bool {
    matches!(config.discovery, Discovery::StrictDns(..) | Discovery::LogicalDns(..))
}

impl HostSet {
    fn empty(lb: &config::LbConfig) -> Self {
        Self::build(lb, Box::default(), Rules::default(), 0)
    }

    fn build(lb: &config::LbConfig, hosts: Box<[Arc<Host>]>, rules: Rules, drop_ppm: u32) -> Self {
        let infos: Vec<HostInfo<'_>> = hosts
            .iter()
            .map(|h| HostInfo {
                priority: h.priority,
                locality: h.locality_index,
                weight: h.weight,
                health: h.health(),
                hash_key: hash_key(lb, h),
            })
            .collect();
        let Rules { localities, overprovisioning, weighted_priority_health, .. } = &rules;
        let balancer = Balancer::build(lb, &infos, localities, *overprovisioning, *weighted_priority_health);
        let subsets = lb.subset.as_deref().map(|config| {
            let of = |i: u32| &hosts[i as usize].metadata;
            Box::new(Subsets::build(config, lb, &infos, &of, localities, *overprovisioning, *weighted_priority_health))
        });
        HostSet { hosts, balancer, subsets, rules, drop_ppm }
    }
}

fn hash_key<'a>(lb: &config::LbConfig, h: &'a Host) -> &'a str {
    if let Some(key) = h.metadata.get("envoy.lb", &["hash_key"]).and_then(|v| v.as_str()) {
        return key;
    }
    if lb.use_hostname_for_hashing && !h.hostname.is_empty() { &h.hostname } else { &h.text }
}

/// Scope `cluster.<name>.retry.`, allocated when the first retry happens.
mod retry {
    telemetry::stat_schema! { Retry;
        counters {
            UPSTREAM_RQ_COMPLETED = "upstream_rq_completed",
            UPSTREAM_RQ_2XX = "upstream_rq_2xx",
            UPSTREAM_RQ_3XX = "upstream_rq_3xx",
            UPSTREAM_RQ_4XX = "upstream_rq_4xx",
            UPSTREAM_RQ_5XX = "upstream_rq_5xx",
        }
        gauges { }
        histograms { }
        texts { }
        codes { UPSTREAM_RQ = "upstream_rq_", }
    }
}
