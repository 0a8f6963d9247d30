//! What is a cluster at run time? Its configuration, hosts, breakers, transports and stats.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use proxy_config::cluster::{self as config, Discovery, LoadAssignment, UpstreamTransport};
use proxy_config::common::Address;
use proxy_config::route::Priority;
use proxy_core::lb::{Balancer, HostInfo, LocalityInfo};
use telemetry::stats::envoy::{circuit_breakers, cluster as stat, outlier_detection};
use telemetry::stats::{Block, Store};
use tls::{ClientContext, SecretStore};

use crate::breakers::{Breakers, Resource};
use crate::host::{Host, HostStats, Outcome};
use crate::outlier;

/// Hosts of an ORIGINAL_DST cluster that are remembered; more make room for new ones.
const ORIGINAL_DST_HOSTS_MAX: usize = 4096;

/// The hosts of a cluster at one moment, with the balancer built over them.
#[derive(Debug)]
pub struct HostSet {
    /// Hosts; a balancer's number is a position here.
    pub hosts: Box<[Arc<Host>]>,
    /// The balancer.
    pub balancer: Balancer,
    localities: Box<[LocalityInfo]>,
    overprovisioning: u32,
    weighted_priority_health: bool,
    /// Share of requests dropped on purpose, millionths.
    pub drop_ppm: u32,
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
    ssl_stats: OnceLock<Block<telemetry::stats::envoy::ssl::Ssl>>,
    hosts: ArcSwap<HostSet>,
    update: Mutex<()>,
    breakers: [OnceLock<Arc<Breakers>>; 2],
    transports: OnceLock<Transports>,
    original: Mutex<HashMap<SocketAddr, Arc<Host>>>,
    store: Arc<Store>,
    secrets: Arc<SecretStore>,
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
    pub fn new(config: Arc<config::Cluster>, store: &Arc<Store>, secrets: &Arc<SecretStore>) -> Arc<Self> {
        let stat_name = config.alt_stat_name.as_ref().unwrap_or(&config.name);
        let stats = store.block(&format!("cluster.{}.", telemetry::stats::sanitize(stat_name)));
        let cluster = Arc::new(Cluster {
            stats,
            outlier_stats: OnceLock::new(),
            breaker_stats: Default::default(),
            retry_stats: OnceLock::new(),
            ssl_stats: OnceLock::new(),
            hosts: ArcSwap::from_pointee(HostSet::empty(&config.lb)),
            update: Mutex::new(()),
            breakers: Default::default(),
            transports: OnceLock::new(),
            original: Mutex::default(),
            store: store.clone(),
            secrets: secrets.clone(),
            config,
        });
        if let Discovery::Static(load) = &cluster.config.discovery {
            cluster.assign(load, |a| vec![a.clone()]);
        }
        cluster
    }

    /// The hosts now.
    pub fn hosts(&self) -> Arc<HostSet> {
        self.hosts.load_full()
    }

    /// The hosts now, cheaply, for comparison.
    pub fn hosts_ref(&self) -> arc_swap::Guard<Arc<HostSet>> {
        self.hosts.load()
    }

    /// Replaces the endpoints. `resolve` yields the addresses of one endpoint (names are resolved by
    /// the caller). Hosts whose address stays keep their state.
    pub fn assign(&self, load: &LoadAssignment, resolve: impl Fn(&Address) -> Vec<Address>) {
        let _one_at_a_time = self.update.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.hosts.load();
        let known: HashMap<&str, &Arc<HostStats>> = old.hosts.iter().map(|h| (&*h.text, &h.stats)).collect();
        let mut hosts: Vec<Arc<Host>> = Vec::new();
        let mut localities = Vec::with_capacity(load.localities.len());
        for (i, l) in load.localities.iter().enumerate() {
            localities.push(LocalityInfo { weight: l.weight });
            for e in &l.endpoints {
                for address in resolve(&e.address) {
                    let text = address.to_string();
                    if hosts.iter().rev().take(256).any(|h| *h.text == *text && h.priority == l.priority) {
                        continue;
                    }
                    let stats = known.get(&*text).map(|s| Arc::clone(s)).unwrap_or_default();
                    let locality = l.locality.clone();
                    hosts.push(Arc::new(Host::new(e, address, l.priority, i as u32, locality, stats)));
                }
            }
        }
        let overprovisioning = load.overprovisioning_factor.unwrap_or(140);
        let set = HostSet::build(
            &self.config.lb,
            hosts.into(),
            localities.into(),
            overprovisioning,
            load.weighted_priority_health,
            load.drop_overload_ppm,
        );
        if !set.hosts.is_empty() || !old.hosts.is_empty() {
            self.stats.inc(stat::MEMBERSHIP_CHANGE);
        }
        self.publish(set);
    }

    /// Rebuilds the balancer after a change of health.
    pub fn health_changed(&self) {
        let _one_at_a_time = self.update.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.hosts.load_full();
        self.publish(HostSet::build(
            &self.config.lb,
            old.hosts.clone(),
            old.localities.clone(),
            old.overprovisioning,
            old.weighted_priority_health,
            old.drop_ppm,
        ));
    }

    /// Takes over hosts of the cluster that this one replaces.
    pub fn inherit(&self, old: &Cluster) {
        let set = old.hosts.load_full();
        self.publish(HostSet::build(
            &self.config.lb,
            set.hosts.clone(),
            set.localities.clone(),
            set.overprovisioning,
            set.weighted_priority_health,
            set.drop_ppm,
        ));
    }

    fn publish(&self, set: HostSet) {
        use proxy_core::lb::Health;
        let count = |h| set.hosts.iter().filter(|x| x.health() == h).count() as u64;
        self.stats.gauge_set(stat::MEMBERSHIP_TOTAL, set.hosts.len() as u64);
        self.stats.gauge_set(stat::MEMBERSHIP_HEALTHY, count(Health::Healthy));
        let (degraded, excluded) = (count(Health::Degraded), count(Health::Excluded));
        if degraded > 0 {
            self.stats.gauge_set(stat::MEMBERSHIP_DEGRADED, degraded);
        }
        if excluded > 0 {
            self.stats.gauge_set(stat::MEMBERSHIP_EXCLUDED, excluded);
        }
        self.hosts.store(Arc::new(set));
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
        let high = priority == Priority::High;
        let block = self.breaker_stats[usize::from(high)].get_or_init(|| {
            let level = if high { "high" } else { "default" };
            self.store.block(&format!("{}circuit_breakers.{level}.", self.stats.prefix()))
        });
        let gauge = match resource {
            Resource::Connections => circuit_breakers::CX_OPEN,
            Resource::Pending => circuit_breakers::RQ_PENDING_OPEN,
            Resource::Requests => circuit_breakers::RQ_OPEN,
            Resource::Retries => circuit_breakers::RQ_RETRY_OPEN,
        };
        block.gauge_set(gauge, u64::from(self.breakers(priority).open(resource)));
    }

    /// Outlier detection stats, made when first used.
    pub fn outlier_stats(&self) -> &Block<outlier_detection::OutlierDetection> {
        self.outlier_stats.get_or_init(|| self.store.block(&format!("{}outlier_detection.", self.stats.prefix())))
    }

    /// Counts a response that is not passed on because the request is tried again.
    pub fn charge_retried(&self, status: u16) {
        let block = self.retry_stats.get_or_init(|| self.store.block(&format!("{}retry.", self.stats.prefix())));
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

    /// Counts a failed handshake with an upstream in `cluster.<name>.ssl.`.
    pub fn count_tls_failure(&self, failure: tls::Failure) {
        use telemetry::stats::envoy::ssl;
        use tls::Failure;
        let block = self.ssl_stats.get_or_init(|| self.store.block(&format!("{}ssl.", self.stats.prefix())));
        block.inc(ssl::CONNECTION_ERROR);
        match failure {
            Failure::NoCert => block.inc(ssl::FAIL_VERIFY_NO_CERT),
            Failure::VerifyError => block.inc(ssl::FAIL_VERIFY_ERROR),
            Failure::VerifySan => block.inc(ssl::FAIL_VERIFY_SAN),
            Failure::VerifyHash => block.inc(ssl::FAIL_VERIFY_CERT_HASH),
            _ => {}
        }
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
        let transports = self.transports.get_or_init(|| Transports {
            default: self.context(&self.config.transport),
            matches: self.config.transport_matches.iter().map(|m| self.context(&m.transport)).collect(),
        });
        let matched = self.config.transport_matches.iter().position(|m| {
            m.criteria.iter().all(|(key, value)| {
                host.metadata.get("envoy.transport_socket_match", std::slice::from_ref(key)) == Some(value)
            })
        });
        match matched {
            Some(i) => (&self.config.transport_matches[i].transport, transports.matches[i].as_ref()),
            None => (&self.config.transport, transports.default.as_ref()),
        }
    }

    fn context(&self, transport: &UpstreamTransport) -> Option<Arc<ClientContext>> {
        match transport {
            UpstreamTransport::Raw => None,
            UpstreamTransport::Tls(t) => ClientContext::from_config(t, &self.secrets).ok().map(Arc::new),
            UpstreamTransport::ProxyProtocol { inner, .. } | UpstreamTransport::InternalUpstream { inner, .. } => {
                self.context(inner)
            }
        }
    }

    /// The host of an ORIGINAL_DST cluster for this destination.
    pub fn original_host(&self, address: SocketAddr) -> Arc<Host> {
        let mut known = self.original.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(h) = known.get(&address) {
            return h.clone();
        }
        if known.len() >= ORIGINAL_DST_HOSTS_MAX {
            known.retain(|_, h| Arc::strong_count(h) > 1);
        }
        let host = Arc::new(Host {
            address: Address::Socket(address),
            text: address.to_string().into(),
            hostname: "".into(),
            weight: 1,
            priority: 0,
            locality_index: 0,
            locality: Arc::new(config::Locality { region: "".into(), zone: "".into(), sub_zone: "".into() }),
            metadata: Default::default(),
            told: config::HealthStatus::Healthy,
            stats: Default::default(),
        });
        known.insert(address, host.clone());
        host
    }

    /// Hosts that an ORIGINAL_DST cluster remembers.
    pub fn original_hosts(&self) -> Vec<Arc<Host>> {
        self.original.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

impl HostSet {
    fn empty(lb: &config::LbConfig) -> Self {
        Self::build(lb, Box::default(), Box::default(), 140, false, 0)
    }

    fn build(
        lb: &config::LbConfig,
        hosts: Box<[Arc<Host>]>,
        localities: Box<[LocalityInfo]>,
        overprovisioning: u32,
        weighted_priority_health: bool,
        drop_ppm: u32,
    ) -> Self {
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
        let balancer = Balancer::build(lb, &infos, &localities, overprovisioning, weighted_priority_health);
        HostSet { hosts, balancer, localities, overprovisioning, weighted_priority_health, drop_ppm }
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
