//! Which listeners are served? LDS compiled, bound, warmed, handed to the workers, replaced in place, drained.
//!
//! A listener that awaits routes or secrets is warming: its predecessor goes on serving. Removal drains first.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use prost_types::Any;
use protos::envoy::config::core::v3::TypedExtensionConfig;
use protos::envoy::config::listener::v3::Listener as Proto;
use proxy_config::common::ConfigSource;
use proxy_config::filters::http::HttpFilterKind;
use proxy_config::hcm::RouteSource;
use proxy_config::listener::{Listener as Config, NetworkFilterKind, TrafficDirection};
use telemetry::stats::Block;
use telemetry::stats::envoy::listener_manager as stat;
use tokio::time::Instant;

use super::clusters::INITIAL_FETCH_TIMEOUT;
use super::extensions::{self, Extensions, Told};
use super::record::{Failure, Record};
use super::routes::{Routes, Slots};
use super::sds::{self, SecretRef};
use super::secrets::Secrets;
use crate::hot_restart::Parent;
use crate::workers::{Command, Workers};

/// A compiled listener and what it needs.
struct Compiled {
    record: Record,
    listener: Arc<l4::Listener>,
    routes: BTreeSet<String>,
    /// (stat prefix of the connection manager, route configuration)
    route_scopes: BTreeSet<(String, String)>,
    secrets: Vec<SecretRef>,
    /// Filters that extension config discovery tells.
    extensions: BTreeSet<String>,
    /// Those that it waits for.
    awaited: BTreeSet<String>,
}

struct Warming {
    compiled: Compiled,
    /// Bound already: a port that cannot be had is refused with the update.
    sockets: Option<Vec<l4::Sockets>>,
    deadline: Option<Instant>,
}

/// A listener that was removed and whose connections are given time.
struct Draining {
    record: Record,
    name: String,
    until: Instant,
}

#[derive(Default)]
struct Entry {
    is_static: bool,
    active: Option<Compiled>,
    warming: Option<Warming>,
    failed: Option<Failure>,
    /// Duplicates of the sockets in service, for a successor process.
    held: Vec<l4::Sockets>,
}

/// What compiling a listener takes from the process.
pub struct Deps {
    /// Stats.
    pub store: Arc<telemetry::stats::Store>,
    /// Access log files.
    pub sinks: Arc<telemetry::access_log::Sinks>,
    /// What leaves for collectors.
    pub exports: Arc<l7::export::Exports>,
    /// Clusters.
    pub registry: Arc<upstream::Registry>,
    /// Secrets.
    pub secrets: Arc<tls::SecretStore>,
    /// Route tables.
    pub slots: Arc<Slots>,
    /// Facts of this node.
    pub node: Arc<l7::Node>,
    /// The process that this one replaces.
    pub parent: Option<Arc<Parent>>,
    /// Sockets are kept for a successor process.
    pub keep_sockets: bool,
    /// How fast connections are asked to close when the process drains; zero is at once.
    pub drain_over: Duration,
}

/// All listeners.
pub struct Listeners {
    deps: Deps,
    workers: Workers,
    stats: Block<stat::ListenerManager>,
    entries: BTreeMap<String, Entry>,
    draining: Vec<Draining>,
    drain_time: Duration,
    /// Clusters are ready, so listeners may serve.
    open: bool,
    /// Filters of extension config discovery.
    pub extensions: Extensions,
    /// Version of the last LDS response.
    pub version: String,
}

/// Route configurations that a listener takes from RDS, and the longest time it waits for them (zero: for ever).
fn rds_of(config: &Config) -> (BTreeSet<(String, String)>, Duration) {
    let mut names = BTreeSet::new();
    let mut timeout = INITIAL_FETCH_TIMEOUT;
    for filter in config.chains.all().flat_map(|c| c.filters.iter()) {
        if let NetworkFilterKind::Hcm(hcm) = &filter.kind
            && let RouteSource::Rds { name, source } = &hcm.routes
        {
            names.insert((hcm.stat_prefix.to_string(), name.to_string()));
            if let ConfigSource::Ads { initial_fetch_timeout } | ConfigSource::Grpc { initial_fetch_timeout, .. } =
                source
            {
                timeout = *initial_fetch_timeout;
            }
        }
    }
    (names, timeout)
}

/// Discovered filters without which a listener is not served.
fn awaited(config: &Config) -> BTreeSet<String> {
    extensions::places(config).filter(|(_, d)| !d.without_warming).map(|(name, _)| name.to_owned()).collect()
}

impl Deps {
    fn lend<'a>(&'a self, routes: &'a dyn Fn(&str) -> super::routes::Slot) -> l4::Deps<'a> {
        l4::Deps {
            store: &self.store,
            sinks: &self.sinks,
            exports: &self.exports,
            registry: &self.registry,
            secrets: &self.secrets,
            routes,
            node: self.node.clone(),
        }
    }
}

impl Listeners {
    /// No listeners yet.
    pub fn new(deps: Deps, workers: Workers, stats: Block<stat::ListenerManager>, drain_time: Duration) -> Self {
        stats.gauge_set(stat::WORKERS_STARTED, 0);
        Self {
            deps,
            workers,
            stats,
            entries: BTreeMap::new(),
            draining: Vec::new(),
            drain_time,
            open: false,
            extensions: Extensions::default(),
            version: String::new(),
        }
    }

    /// The workers.
    pub fn workers(&mut self) -> &mut Workers {
        &mut self.workers
    }

    /// Lets listeners serve from now on: before, clusters may not be ready.
    pub fn open(&mut self) {
        self.open = true;
    }

    /// Duplicates of the sockets that listen on an address, for a successor process.
    pub fn hand_over(&self, address: &str) -> Vec<OwnedFd> {
        self.entries.values().flat_map(|e| &e.held).flat_map(|s| s.of(address)).collect()
    }

    fn count(&self) {
        let of = |f: fn(&Entry) -> bool| self.entries.values().filter(|e| f(e)).count() as u64;
        self.stats.gauge_set(stat::TOTAL_LISTENERS_ACTIVE, of(|e| e.active.is_some()));
        self.stats.gauge_set(stat::TOTAL_LISTENERS_WARMING, of(|e| e.warming.is_some()));
        self.stats.gauge_set(stat::TOTAL_LISTENERS_DRAINING, self.draining.len() as u64);
    }

    /// The server has finished its start: `listener_manager.workers_started`.
    pub fn started(&self) {
        self.stats.gauge_set(stat::WORKERS_STARTED, 1);
    }

    /// Adds a listener of the bootstrap.
    pub fn add_static(&mut self, proto: &Proto, config: Arc<Config>) -> Result<(), String> {
        let name = if proto.name.is_empty() { config.name.to_string() } else { proto.name.clone() };
        self.take(&name, Record::new("", &protos::any(proto)), proto, config)?;
        if let Some(entry) = self.entries.get_mut(&name) {
            entry.is_static = true;
        }
        Ok(())
    }

    /// Takes a listener of LDS; an error leaves the last good one serving. `Ok(false)`: nothing changed.
    pub fn apply(&mut self, name: &str, version: &str, body: &Any) -> Result<bool, String> {
        let entry = self.entries.entry(name.to_owned()).or_default();
        if entry.is_static {
            // As in Envoy, a static listener cannot be replaced.
            return Ok(false);
        }
        let newest = entry.warming.as_ref().map(|w| &w.compiled.record).or(entry.active.as_ref().map(|a| &a.record));
        if newest.is_some_and(|r| r.is(body)) {
            entry.failed = None;
            return Ok(false);
        }
        let record = Record::new(version, body);
        let parsed = protos::unpack::<Proto>(body).map_err(|e| e.to_string()).and_then(|proto| {
            let config = proxy_config::parse::listener(&proto).map_err(|e| e.to_string())?;
            Ok((proto, Arc::new(config)))
        });
        let taken = parsed.and_then(|(proto, config)| self.take(name, record.clone(), &proto, config));
        if let Err(details) = taken {
            self.stats.inc(stat::LISTENER_CREATE_FAILURE);
            if let Some(entry) = self.entries.get_mut(name) {
                entry.failed = Some(Failure { record, details: details.clone() });
            }
            return Err(details);
        }
        Ok(true)
    }

    fn take(&mut self, name: &str, record: Record, proto: &Proto, config: Arc<Config>) -> Result<(), String> {
        let previous = self.entries.get(name).and_then(|e| e.active.as_ref()).map(|a| a.listener.clone());
        let slots = self.deps.slots.clone();
        let routes = move |name: &str| slots.get(name);
        let deps = self.deps.lend(&routes);
        let listener = l4::Listener::succeed(config.clone(), &deps, previous.as_deref())?;
        let extensions = listener.discovered();
        for name in &extensions {
            if let Some(told) = self.extensions.told(name) {
                listener.set_discovered(name, &told.type_url, &told.kind, &deps)?;
            }
        }
        for (name, place) in extensions::places(&config) {
            self.extensions.want(name, place, &self.deps.store);
        }
        let awaited = awaited(&config);
        let keeps_sockets = previous.as_ref().is_some_and(|p| {
            p.config.address == config.address
                && p.config.additional_addresses == config.additional_addresses
                && p.config.bind_to_port == config.bind_to_port
                && p.config.transparent == config.transparent
        });
        let sockets = if keeps_sockets { None } else { Some(self.bind(&listener)?) };
        let (route_scopes, timeout) = rds_of(&config);
        let routes = route_scopes.iter().map(|s| s.1.clone()).collect();
        let known = self.entries.get(name).is_some_and(|e| e.active.is_some() || e.warming.is_some());
        let entry = self.entries.entry(name.to_owned()).or_default();
        entry.failed = None;
        entry.warming = Some(Warming {
            compiled: Compiled {
                record,
                listener,
                routes,
                route_scopes,
                secrets: sds::of_listener(proto),
                extensions,
                awaited,
            },
            sockets,
            deadline: (!timeout.is_zero()).then(|| Instant::now() + timeout),
        });
        self.stats.inc(if known { stat::LISTENER_MODIFIED } else { stat::LISTENER_ADDED });
        Ok(())
    }

    fn bind(&self, listener: &l4::Listener) -> Result<Vec<l4::Sockets>, String> {
        let inherit = |address: &str| self.deps.parent.as_ref().map_or_else(Vec::new, |p| p.sockets(address));
        listener.bind_or_inherit(self.workers.count(), &inherit).map_err(|e| e.to_string())
    }

    /// Removes a listener of LDS: it stops accepting, its connections are asked to close and given the drain time.
    pub fn remove(&mut self, name: &str) {
        if self.entries.get(name).is_none_or(|e| e.is_static) {
            return;
        }
        let Some(entry) = self.entries.remove(name) else { return };
        if entry.active.is_none() && entry.warming.is_none() {
            return;
        }
        self.stats.inc(stat::LISTENER_REMOVED);
        if let Some(active) = entry.active {
            self.retire(name, active.record);
        }
        self.count();
    }

    fn retire(&mut self, name: &str, record: Record) {
        telemetry::info!(config, "lds: remove listener '{name}'");
        self.workers.tell(|_| Command::Stop(name.to_owned()));
        self.workers.tell(|_| Command::Drain(name.to_owned()));
        self.draining.push(Draining { record, name: name.to_owned(), until: Instant::now() + self.drain_time });
    }

    /// Serves what has all it needs, or has waited long enough. True if something moved.
    pub fn warm(&mut self, routes: &Routes, secrets: &Secrets, now: Instant) -> bool {
        self.extensions.expire(now);
        if !self.open {
            return false;
        }
        let ready: Vec<String> = self
            .entries
            .iter()
            .filter(|(_, e)| {
                e.warming.as_ref().is_some_and(|w| {
                    let late = w.deadline.is_some_and(|d| d <= now);
                    let told = w.compiled.routes.iter().all(|r| routes.is_ready(r))
                        && w.compiled.secrets.iter().all(|s| secrets.is_ready(s));
                    (late || told) && w.compiled.awaited.iter().all(|e| self.extensions.is_ready(e))
                })
            })
            .map(|(name, _)| name.clone())
            .collect();
        ready.iter().for_each(|name| self.promote(name));
        self.draining.retain(|d| d.until > now);
        self.count();
        !ready.is_empty()
    }

    fn promote(&mut self, name: &str) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        let Some(Warming { compiled, sockets, .. }) = entry.warming.take() else { return };
        let listener = compiled.listener.clone();
        let replaced = entry.active.replace(compiled);
        match sockets {
            Some(sockets) => {
                if replaced.is_some() {
                    self.workers.tell(|_| Command::Stop(name.to_owned()));
                    self.workers.tell(|_| Command::Drain(name.to_owned()));
                }
                // Here, so that they listen before the process says that it is live.
                if let Err(e) = sockets.iter().try_for_each(|s| s.listen(&listener.config)) {
                    telemetry::error!(config, "listener {name}: {e}");
                }
                if self.deps.keep_sockets {
                    // Without a duplicate there is nothing to hand over, which costs only that.
                    entry.held = sockets.iter().filter_map(|s| s.try_clone().ok()).collect();
                }
                let mut sockets = sockets.into_iter();
                self.workers.tell(|_| Command::Add(listener.clone(), sockets.next().unwrap_or_default()));
            }
            None => {
                self.stats.inc(stat::LISTENER_IN_PLACE_UPDATED);
                self.workers.tell(|_| Command::Replace(listener.clone()));
            }
        }
        self.stats.add(stat::LISTENER_CREATE_SUCCESS, self.workers.count() as u64);
        telemetry::debug!(config, "warm complete. starting listener '{name}'");
    }

    /// Stops all listeners, or the inbound ones.
    pub fn stop(&mut self, inbound_only: bool) {
        for (name, entry) in &mut self.entries {
            let Some(active) = &entry.active else { continue };
            if !inbound_only || active.listener.config.traffic_direction == TrafficDirection::Inbound {
                self.stats.inc(stat::LISTENER_STOPPED);
                entry.held.clear();
                self.workers.tell(|_| Command::Stop(name.clone()));
            }
        }
    }

    /// Asks connections to close as they become idle: all over the drain time, or those of inbound listeners at once.
    pub fn drain(&mut self, inbound_only: bool) {
        if !inbound_only {
            return self.workers.tell(|_| Command::Draining(self.deps.drain_over));
        }
        for (name, entry) in &self.entries {
            let Some(active) = &entry.active else { continue };
            if active.listener.config.traffic_direction == TrafficDirection::Inbound {
                self.workers.tell(|_| Command::Drain(name.clone()));
            }
        }
    }

    /// Route configurations that listeners use, warming ones included.
    pub fn route_names(&self) -> BTreeSet<String> {
        self.compiled().flat_map(|c| c.routes.iter().cloned()).collect()
    }

    /// Takes a filter of extension config discovery; an error leaves the last good one in force.
    pub fn apply_extension(&mut self, name: &str, version: &str, body: &Any) -> Result<(), String> {
        if !self.extension_names().contains(name) {
            // Not asked for any more: the answer crossed our request.
            return Ok(());
        }
        if self.extensions.told(name).is_some_and(|t| t.record.is(body)) {
            return Ok(());
        }
        let record = Record::new(version, body);
        let taken = self.told_filter(name, body).map(|(type_url, kind)| Told { record, type_url, kind });
        let (told, verdict) = match taken {
            Ok(told) => (Some(told), Ok(())),
            Err(e) => (None, Err(e)),
        };
        self.extensions.take(name, told);
        verdict
    }

    /// A filter is told no more: the default ones stand in its places again.
    pub fn remove_extension(&mut self, name: &str) {
        if self.extensions.remove(name) {
            self.compiled().for_each(|c| c.listener.clear_discovered(name));
        }
    }

    fn told_filter(&self, name: &str, body: &Any) -> Result<(String, HttpFilterKind), String> {
        let told = protos::unpack::<TypedExtensionConfig>(body).map_err(|e| e.to_string())?;
        let any = told.typed_config.ok_or("no typed_config")?;
        let kind = proxy_config::parse::http_filter_config(name, &any).map_err(|e| e.to_string())?;
        let slots = self.deps.slots.clone();
        let routes = move |name: &str| slots.get(name);
        let deps = self.deps.lend(&routes);
        for listener in self.compiled().filter(|c| c.extensions.contains(name)).map(|c| &c.listener) {
            listener.set_discovered(name, &any.type_url, &kind, &deps)?;
        }
        Ok((any.type_url, kind))
    }

    /// Filters that listeners have discovered, warming ones included.
    pub fn extension_names(&self) -> BTreeSet<String> {
        self.compiled().flat_map(|c| c.extensions.iter().cloned()).collect()
    }

    /// Forgets filters that no listener has any more.
    pub fn forget_extensions(&mut self) {
        let names = self.extension_names();
        self.extensions.retain(&names);
    }

    /// Scopes of `rds` stats: (stat prefix of the connection manager, route configuration).
    pub fn route_scopes(&self) -> BTreeSet<(String, String)> {
        self.compiled().flat_map(|c| c.route_scopes.iter().cloned()).collect()
    }

    /// Secrets that listeners use, warming ones included.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretRef> {
        self.compiled().flat_map(|c| &c.secrets)
    }

    fn compiled(&self) -> impl Iterator<Item = &Compiled> {
        self.entries.values().flat_map(|e| e.active.iter().chain(e.warming.as_ref().map(|w| &w.compiled)))
    }

    /// When the next warming listener gives up waiting, or a draining one is done.
    pub fn deadline(&self) -> Option<Instant> {
        let warming = self.entries.values().filter_map(|e| e.warming.as_ref()?.deadline);
        warming.chain(self.draining.iter().map(|d| d.until)).chain(self.extensions.deadline()).min()
    }

    /// Nothing is warming.
    pub fn is_settled(&self) -> bool {
        self.entries.values().all(|e| e.warming.is_none())
    }

    /// Names that are warming, for `/init_dump`.
    pub fn warming(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().filter(|(_, e)| e.warming.is_some()).map(|(n, _)| n.as_str())
    }

    /// Listeners that serve, by name.
    pub fn active(&self) -> impl Iterator<Item = (&str, &Arc<l4::Listener>)> {
        self.entries.iter().filter_map(|(name, e)| Some((name.as_str(), &e.active.as_ref()?.listener)))
    }

    /// (name, static, active, warming, refused), for `/config_dump`.
    #[allow(clippy::type_complexity)]
    pub fn dump(&self) -> impl Iterator<Item = (&str, bool, Option<&Record>, Option<&Record>, Option<&Failure>)> {
        self.entries.iter().map(|(name, e)| {
            let warming = e.warming.as_ref().map(|w| &w.compiled.record);
            (name.as_str(), e.is_static, e.active.as_ref().map(|a| &a.record), warming, e.failed.as_ref())
        })
    }

    /// Listeners that drain.
    pub fn dump_draining(&self) -> impl Iterator<Item = (&str, &Record)> {
        self.draining.iter().map(|d| (d.name.as_str(), &d.record))
    }
}
