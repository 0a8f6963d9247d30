//! Which clusters exist? CDS and EDS applied to the registry, new clusters warmed first.
//!
//! A cluster that awaits endpoints or secrets is warming: requests go on to its predecessor, if there is one.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use prost_types::Any;
use protos::envoy::config::cluster::v3::Cluster as Proto;
use protos::envoy::config::endpoint::v3::ClusterLoadAssignment;
use proxy_config::Name;
use proxy_config::cluster::{Cluster, Discovery, LoadAssignment};
use proxy_config::common::ConfigSource;
use proxy_config::intern::Interner;
use telemetry::stats::Block;
use telemetry::stats::envoy::{cluster as cluster_stats, cluster_manager};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use upstream::Registry;

use super::record::{Failure, Record};
use super::sds::{self, SecretRef};
use super::secrets::Secrets;

/// How long a resource that awaits others holds up what depends on it, unless its source says otherwise.
pub const INITIAL_FETCH_TIMEOUT: Duration = Duration::from_secs(15);

/// A cluster in force.
struct Active {
    record: Record,
    config: Arc<Cluster>,
    secrets: Box<[SecretRef]>,
    _tasks: Tasks,
}

impl Active {
    fn eds(&self) -> Option<&str> {
        service_of(&self.config)
    }
}

/// Resolves names and checks hosts until it is dropped.
struct Tasks(Box<[AbortHandle]>);

impl Tasks {
    /// Starts what the cluster needs.
    fn start(cluster: &Arc<upstream::Cluster>) -> Self {
        let mut tasks = Vec::new();
        if matches!(cluster.config.discovery, Discovery::StrictDns(..) | Discovery::LogicalDns(..)) {
            tasks.push(tokio::task::spawn_local(upstream::dns::run(cluster.clone())).abort_handle());
        }
        if !cluster.config.health_checks.is_empty() {
            tasks.push(tokio::task::spawn_local(upstream::health::run(cluster.clone())).abort_handle());
        }
        Tasks(tasks.into())
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

struct Warming {
    record: Record,
    config: Arc<Cluster>,
    secrets: Box<[SecretRef]>,
    deadline: Option<Instant>,
    /// It has its endpoints and secrets; its names are being resolved and its hosts checked for the first time.
    built: Option<(Arc<upstream::Cluster>, Tasks)>,
}

impl Warming {
    fn eds(&self) -> Option<&str> {
        service_of(&self.config)
    }
}

/// One name's clusters.
#[derive(Default)]
struct Entry {
    is_static: bool,
    active: Option<Box<Active>>,
    warming: Option<Box<Warming>>,
    failed: Option<Box<Failure>>,
}

/// An answer of EDS.
struct Assignment {
    record: Record,
    load: Arc<LoadAssignment>,
}

/// All clusters and their endpoints.
pub struct Clusters {
    registry: Arc<Registry>,
    stats: Block<cluster_manager::ClusterManager>,
    entries: BTreeMap<Name, Entry>,
    /// EDS names that are not their cluster's own, and who has used them; what they use now is in `entries`.
    aliases: BTreeMap<String, BTreeSet<String>>,
    interner: Interner,
    /// A cluster was added, changed or removed.
    changed: Rc<Notify>,
    assignments: BTreeMap<String, Assignment>,
    failed_assignments: BTreeMap<String, Failure>,
    /// Version of the last CDS response.
    pub version: String,
}

/// The EDS name that a cluster takes its endpoints by.
fn service_of(cluster: &Cluster) -> Option<&str> {
    match &cluster.discovery {
        Discovery::Eds { service_name, .. } => Some(service_name),
        _ => None,
    }
}

/// How long a cluster waits for its endpoints.
fn timeout_of(cluster: &Cluster) -> Duration {
    match &cluster.discovery {
        Discovery::Eds {
            source: ConfigSource::Ads { initial_fetch_timeout } | ConfigSource::Grpc { initial_fetch_timeout, .. },
            ..
        } => *initial_fetch_timeout,
        _ => INITIAL_FETCH_TIMEOUT,
    }
}

/// Where its endpoints come from, when that is a file.
fn file_of(cluster: &Cluster) -> Option<String> {
    match &cluster.discovery {
        Discovery::Eds { source: ConfigSource::Path(path), .. } => Some(path.to_string()),
        _ => None,
    }
}

/// Notes who uses an EDS name that is not its own.
fn note_alias(aliases: &mut BTreeMap<String, BTreeSet<String>>, cluster: &str, eds: Option<&str>) {
    if let Some(service) = eds.filter(|s| *s != cluster) {
        aliases.entry(service.to_owned()).or_default().insert(cluster.to_owned());
    }
}

impl Clusters {
    /// No clusters yet.
    pub fn new(registry: Arc<Registry>, stats: Block<cluster_manager::ClusterManager>) -> Self {
        Self {
            registry,
            stats,
            entries: BTreeMap::new(),
            aliases: BTreeMap::new(),
            interner: Interner::default(),
            changed: Rc::default(),
            assignments: BTreeMap::new(),
            failed_assignments: BTreeMap::new(),
            version: String::new(),
        }
    }

    /// Brings the gauges up to date; after [`Clusters::add_static`] its caller does, once for all of them.
    pub fn count(&self) {
        let of = |f: fn(&Entry) -> bool| self.entries.values().filter(|e| f(e)).count() as u64;
        self.stats.gauge_set(cluster_manager::ACTIVE_CLUSTERS, of(|e| e.active.is_some()));
        self.stats.gauge_set(cluster_manager::WARMING_CLUSTERS, of(|e| e.warming.is_some()));
    }

    /// Adds a cluster of the bootstrap, at once. The bootstrap keeps its message.
    pub fn add_static(&mut self, proto: &Proto, config: Arc<Cluster>) {
        let name = config.name.clone();
        let entry = self.entries.entry(name.clone()).or_default();
        entry.is_static = true;
        note_alias(&mut self.aliases, &name, service_of(&config));
        entry.warming = Some(Box::new(Warming {
            record: Record::of_bootstrap(),
            secrets: sds::of_cluster(proto).into(),
            config,
            deadline: None,
            built: None,
        }));
        self.stats.inc(cluster_manager::CLUSTER_ADDED);
        self.changed.notify_one();
        self.advance(&name);
    }

    /// Takes a cluster of CDS; an error leaves the last good one in force. `Ok(false)`: nothing changed.
    pub fn apply(&mut self, name: &str, version: &str, body: &Any) -> Result<bool, String> {
        if let Some(entry) = self.entries.get_mut(name) {
            if entry.is_static {
                // As in Envoy, a static cluster cannot be replaced.
                return Ok(false);
            }
            let newest = entry.warming.as_ref().map(|w| &w.record).or(entry.active.as_ref().map(|a| &a.record));
            if newest.is_some_and(|r| r.is(body)) {
                entry.failed = None;
                return Ok(false);
            }
        }
        let record = Record::new(version, body);
        let parsed = protos::unpack::<Proto>(body).map_err(|e| e.to_string()).and_then(|proto| {
            let config = proxy_config::parse::cluster(&proto).map_err(|e| e.to_string())?;
            Ok((sds::of_cluster(&proto).into(), Arc::new(self.interner.cluster(config))))
        });
        let (secrets, config): (_, Arc<Cluster>) = match parsed {
            Ok(parsed) => parsed,
            Err(details) => {
                let entry = self.entries.entry(name.into()).or_default();
                entry.failed = Some(Box::new(Failure { record, details: details.clone() }));
                return Err(details);
            }
        };
        note_alias(&mut self.aliases, name, service_of(&config));
        self.changed.notify_one();
        let key = if *config.name == *name { config.name.clone() } else { name.into() };
        let entry = self.entries.entry(key).or_default();
        let known = entry.active.is_some() || entry.warming.is_some();
        let timeout = timeout_of(&config);
        let deadline = (!timeout.is_zero()).then(|| Instant::now() + timeout);
        entry.warming = Some(Box::new(Warming { record, config, secrets, deadline, built: None }));
        entry.failed = None;
        self.stats.inc(if known { cluster_manager::CLUSTER_MODIFIED } else { cluster_manager::CLUSTER_ADDED });
        Ok(true)
    }

    /// Removes a cluster of CDS.
    pub fn remove(&mut self, name: &str) {
        if self.entries.get(name).is_none_or(|e| e.is_static) {
            return;
        }
        let had = self.entries.remove(name).is_some_and(|e| e.active.is_some() || e.warming.is_some());
        self.registry.remove(name);
        self.aliases.retain(|_, clusters| {
            clusters.remove(name);
            !clusters.is_empty()
        });
        self.changed.notify_one();
        if had {
            self.stats.inc(cluster_manager::CLUSTER_REMOVED);
        }
        self.count();
    }

    /// Takes an answer of EDS.
    pub fn assign(&mut self, name: &str, version: &str, body: &Any) -> Result<(), String> {
        let users: Vec<&Entry> = self.users(name).map(|(_, e)| e).collect();
        if users.is_empty() {
            return Ok(());
        }
        let record = Record::new(version, body);
        let parsed = protos::unpack::<ClusterLoadAssignment>(body)
            .map_err(|e| e.to_string())
            .and_then(|a| proxy_config::parse::load_assignment(&a).map_err(|e| e.to_string()));
        match parsed {
            Ok(load) => {
                let load = Arc::new(load);
                for cluster in self.of_service(name) {
                    cluster.stats.inc(cluster_stats::UPDATE_ATTEMPT);
                    cluster.stats.inc(cluster_stats::UPDATE_SUCCESS);
                    cluster.assign_numeric(&load);
                }
                let warming = users.iter().filter_map(|e| e.warming.as_ref().filter(|w| w.eds() == Some(name)));
                for (cluster, _) in warming.filter_map(|w| w.built.as_ref()) {
                    cluster.assign_numeric(&load);
                }
                self.failed_assignments.remove(name);
                self.assignments.insert(name.into(), Assignment { record, load });
                Ok(())
            }
            Err(details) => {
                self.of_service(name).iter().for_each(|c| c.stats.inc(cluster_stats::UPDATE_FAILURE));
                self.failed_assignments.insert(name.into(), Failure { record, details: details.clone() });
                Err(details)
            }
        }
    }

    /// Clusters in service whose endpoints have this name.
    fn of_service(&self, service: &str) -> Vec<Arc<upstream::Cluster>> {
        let active = self.users(service).filter(|(_, e)| e.active.as_ref().and_then(|a| a.eds()) == Some(service));
        active.filter_map(|(name, _)| self.registry.get(name)).collect()
    }

    /// Entries whose active or warming cluster takes its endpoints by this name. Nearly always it is the cluster's own.
    fn users<'a>(&'a self, service: &'a str) -> impl Iterator<Item = (&'a str, &'a Entry)> {
        let others = self.aliases.get(service).into_iter().flatten().map(String::as_str);
        let named = std::iter::once(service).chain(others.filter(move |n| *n != service));
        let found = named.filter_map(|n| self.entries.get_key_value(n).map(|(name, e)| (&**name, e)));
        found.filter(move |(_, e)| {
            let active = e.active.as_ref().and_then(|a| a.eds());
            active == Some(service) || e.warming.as_ref().and_then(|w| w.eds()) == Some(service)
        })
    }

    /// Told whenever a cluster is added, changed or removed.
    pub fn changed(&self) -> Rc<Notify> {
        self.changed.clone()
    }

    /// Files that clusters take their endpoints from, warming ones included.
    pub fn endpoint_files(&self) -> BTreeSet<String> {
        let active = self.entries.values().filter_map(|e| file_of(&e.active.as_ref()?.config));
        let warming = self.entries.values().filter_map(|e| file_of(&e.warming.as_ref()?.config));
        active.chain(warming).collect()
    }

    /// EDS names that clusters use, warming ones included.
    pub fn service_names(&self) -> impl Iterator<Item = &str> {
        self.entries.values().flat_map(|e| {
            let active = e.active.as_ref().and_then(|a| a.eds());
            active.into_iter().chain(e.warming.as_ref().and_then(|w| w.eds()))
        })
    }

    /// Secrets that clusters use, warming ones included.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretRef> {
        self.entries.values().flat_map(|e| {
            let active = e.active.iter().flat_map(|a| &a.secrets);
            active.chain(e.warming.iter().flat_map(|w| &w.secrets))
        })
    }

    /// Forgets endpoints nobody uses.
    pub fn forget_unused(&mut self) {
        let used: BTreeSet<String> = self.service_names().map(str::to_owned).collect();
        self.assignments.retain(|name, _| used.contains(name));
        self.failed_assignments.retain(|name, _| used.contains(name));
    }

    /// Puts into force what has all it needs, or has waited long enough. True if something moved.
    pub fn warm(&mut self, secrets: &Secrets, now: Instant) -> bool {
        let ready: Vec<Name> = self
            .entries
            .iter()
            .filter(|(_, e)| {
                e.warming.as_ref().is_some_and(|w| {
                    let late = w.deadline.is_some_and(|d| d <= now);
                    let fed = w.eds().is_none_or(|n| self.assignments.contains_key(n))
                        && w.secrets.iter().all(|s| secrets.is_ready(s));
                    match &w.built {
                        Some((cluster, _)) => cluster.is_initialized(),
                        None => late || fed,
                    }
                })
            })
            .map(|(name, _)| name.clone())
            .collect();
        let moved = ready.iter().filter(|name| self.advance(name)).count();
        self.count();
        moved > 0
    }

    /// Takes a warming cluster a step further: built, then in service. True if it serves now.
    fn advance(&mut self, name: &str) -> bool {
        let Some(entry) = self.entries.get_mut(name) else { return false };
        let Some(warming) = &mut entry.warming else { return false };
        if warming.built.is_none() {
            let load = warming.eds().and_then(|n| self.assignments.get(n)).map(|a| a.load.clone());
            let cluster = self.registry.build(warming.config.clone());
            if let Some(load) = load {
                cluster.assign_numeric(&load);
            }
            let tasks = Tasks::start(&cluster);
            warming.built = Some((cluster, tasks));
            warming.deadline = None;
        }
        if !warming.built.as_ref().is_some_and(|(c, _)| c.is_initialized()) {
            return false;
        }
        let Some(Warming { record, config, secrets, built: Some((cluster, tasks)), .. }) =
            entry.warming.take().map(|w| *w)
        else {
            return false;
        };
        self.registry.publish(&cluster);
        entry.active = Some(Box::new(Active { record, config, secrets, _tasks: tasks }));
        telemetry::debug!(upstream, "warming cluster {name} complete");
        true
    }

    /// When the next warming cluster gives up waiting.
    pub fn deadline(&self) -> Option<Instant> {
        self.entries.values().filter_map(|e| e.warming.as_ref()?.deadline).min()
    }

    /// Nothing is warming.
    pub fn is_settled(&self) -> bool {
        self.entries.values().all(|e| e.warming.is_none())
    }

    /// Names that are warming, for `/init_dump`.
    pub fn warming(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().filter(|(_, e)| e.warming.is_some()).map(|(n, _)| &**n)
    }

    /// (name, static, active, warming, refused), for `/config_dump`. The bodies of static ones are in the bootstrap.
    #[allow(clippy::type_complexity)]
    pub fn dump(&self) -> impl Iterator<Item = (&str, bool, Option<&Record>, Option<&Record>, Option<&Failure>)> {
        self.entries.iter().map(|(name, e)| {
            (
                &**name,
                e.is_static,
                e.active.as_ref().map(|a| &a.record),
                e.warming.as_ref().map(|w| &w.record),
                e.failed.as_deref(),
            )
        })
    }

    /// Is this cluster from CDS?
    pub fn is_dynamic(&self, name: &str) -> bool {
        self.entries.get(name).is_some_and(|e| !e.is_static)
    }

    /// Version of the EDS answer for a service name.
    pub fn assignment(&self, service: &str) -> Option<&Record> {
        self.assignments.get(service).map(|a| &a.record)
    }
}
