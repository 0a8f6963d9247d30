//! What is in force? The life of configuration on the config thread: updates in, names and verdicts out.
//!
//! Everything here runs on one thread; what workers see are snapshots that `l4`, `l7` and `upstream` publish.
//! A refused resource is named in the verdict; its siblings are applied and its last good version stays.

pub mod clusters;
pub mod demand;
pub mod extensions;
pub mod listeners;
pub mod record;
pub mod routes;
pub mod sds;
pub mod secrets;
pub mod vhosts;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost_types::Any;
use proxy_config::bootstrap::Dynamic;
use proxy_config::common::ConfigSource;
use telemetry::stats::envoy::{rds, subscription, vhds};
use telemetry::stats::{Block, Store};
use tokio::time::Instant;
use upstream::Wish;
use xds::client::{Rejection, Update};

use clusters::Clusters;
use listeners::Listeners;
use routes::Routes;
use sds::Source;
use secrets::Secrets;

/// Type URLs of the resources handled here.
pub mod url {
    /// CDS
    pub const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
    /// EDS
    pub const ENDPOINT: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
    /// LDS
    pub const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
    /// RDS
    pub const ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
    /// VHDS
    pub const VIRTUAL_HOST: &str = "type.googleapis.com/envoy.config.route.v3.VirtualHost";
    /// ECDS
    pub const EXTENSION: &str = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig";
    /// SDS
    pub const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
}

/// All configuration of a proxy.
pub struct Config {
    /// Clusters and endpoints.
    pub clusters: Clusters,
    /// Listeners and the workers that serve them.
    pub listeners: Listeners,
    /// Route tables.
    pub routes: Routes,
    /// Secrets.
    pub secrets: Secrets,
    /// `cluster_manager.cds.`
    pub cds: Block<subscription::Subscription>,
    /// `listener_manager.lds.`
    pub lds: Block<subscription::Subscription>,
    /// By (stat prefix of the connection manager, route configuration).
    rds: BTreeMap<(String, String), Block<rds::Rds>>,
    /// The same of those that VHDS completes.
    vhds: BTreeMap<(String, String), Block<vhds::Vhds>>,
    /// Clusters that were asked for.
    asked: demand::Clusters,
    /// `cluster_manager.odcds.`, once one was.
    odcds: Option<Block<subscription::Subscription>>,
    /// The aggregated stream speaks delta: single names can be asked for on it.
    delta: bool,
    registry: Arc<upstream::Registry>,
    store: Arc<Store>,
}

/// What is wanted from the streams after a change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    /// EDS names.
    pub endpoints: BTreeSet<String>,
    /// RDS names.
    pub routes: BTreeSet<String>,
    /// ECDS names per source.
    pub extensions: BTreeMap<Source, BTreeSet<String>>,
    /// SDS names per source.
    pub secrets: BTreeMap<Source, BTreeSet<String>>,
    /// Clusters by name per source (ODCDS), beside all of CDS.
    pub clusters: BTreeMap<Source, BTreeSet<String>>,
    /// VHDS names per source; one without names is spoken to all the same.
    pub virtual_hosts: BTreeMap<Source, BTreeSet<String>>,
}

/// A number for `version` gauges, as Envoy hashes version strings.
fn version_hash(version: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    version.hash(&mut hasher);
    hasher.finish() >> 1
}

impl Config {
    /// No configuration yet.
    pub fn new(
        store: Arc<Store>,
        registry: Arc<upstream::Registry>,
        dynamic: &Dynamic,
        clusters: Clusters,
        listeners: Listeners,
        routes: Routes,
        secrets: Secrets,
    ) -> Self {
        let scope = |is: bool, prefix| if is { store.block(prefix) } else { Block::detached() };
        // Only what the bootstrap asks for has stats.
        let cds = scope(dynamic.cds.is_some(), "cluster_manager.cds.");
        let lds = scope(dynamic.lds.is_some(), "listener_manager.lds.");
        let delta = dynamic.ads.as_ref().is_some_and(|ads| ads.delta);
        let (rds, vhds, asked, odcds) = Default::default();
        Self { clusters, listeners, routes, secrets, cds, lds, rds, vhds, asked, odcds, delta, registry, store }
    }

    /// Applies an update; the verdict names what was refused. `ads`: it came on the aggregated stream.
    pub fn apply(&mut self, update: &Update, ads: bool) -> Result<(), Rejection> {
        let verdict = match update.type_url.as_str() {
            url::CLUSTER => self.apply_clusters(update, ads),
            url::VIRTUAL_HOST => self.apply_virtual_hosts(update),
            url::LISTENER => self.apply_listeners(update),
            url::ENDPOINT => each(update, "Error adding/updating cluster load assignment(s)", |name, version, body| {
                self.clusters.assign(name, version, body)
            }),
            url::ROUTE => self.apply_routes(update),
            url::SECRET => each(update, "Error adding/updating secret(s)", |name, version, body| {
                self.secrets.apply(name, version, body)
            }),
            url::EXTENSION => {
                update.removed.iter().for_each(|name| self.listeners.remove_extension(name));
                each(update, "Error adding/updating extension config(s)", |name, version, body| {
                    self.listeners.apply_extension(name, version, body)
                })
            }
            other => Err(Rejection { detail: format!("Unexpected resource type {other}"), names: BTreeSet::new() }),
        };
        if let Err(rejection) = &verdict {
            telemetry::warn!(config, "gRPC config for {} rejected: {}", update.type_url, rejection.detail);
        }
        verdict
    }

    fn apply_clusters(&mut self, update: &Update, ads: bool) -> Result<(), Rejection> {
        let odcds = if ads { None } else { self.odcds.as_ref() };
        odcds.unwrap_or(&self.cds).inc(subscription::UPDATE_ATTEMPT);
        let (mut added, mut unchanged) = (0, 0);
        let verdict = each(update, "Error adding/updating cluster(s)", |name, version, body| {
            if self.clusters.apply(name, version, body)? {
                added += 1;
            } else {
                unchanged += 1;
            }
            Ok(())
        });
        update.removed.iter().for_each(|name| self.clusters.remove(name));
        telemetry::info!(
            upstream,
            "cds: add {} cluster(s), remove {} cluster(s); added/updated {added} cluster(s), skipped {unchanged} unmodified cluster(s)",
            update.resources.len(),
            update.removed.len()
        );
        settle(odcds.unwrap_or(&self.cds), update, &verdict);
        let refused = verdict.as_ref().err().into_iter().flat_map(|r| &r.names);
        for name in update.removed.iter().chain(refused).filter(|n| self.registry.get(n).is_none()) {
            self.asked.learn(name, false);
            self.answer_cluster(name, false);
        }
        if verdict.is_ok() && ads {
            self.clusters.version = update.version.clone();
        }
        verdict
    }

    /// Lets go on who waits for a cluster, whoever was asked for it.
    fn answer_cluster(&self, name: &str, there: bool) {
        self.registry
            .demand()
            .answer_where(there, |wish| matches!(wish, Wish::Cluster { name: n, .. } if **n == *name));
    }

    fn apply_virtual_hosts(&mut self, update: &Update) -> Result<(), Rejection> {
        let mut tables: BTreeMap<String, vhosts::Fresh> = BTreeMap::new();
        // What is learnt of each name: whether its host is there.
        let mut learnt: Vec<(&str, &str)> = Vec::new();
        let verdict = each(update, "Error adding/updating virtual host(s)", |name, version, body| {
            let Some((table, _)) = vhosts::split(name) else { return Err("no route configuration in the name".into()) };
            if body.type_url.is_empty() {
                tables.entry(table.to_owned()).or_default().insert(name.to_owned(), None);
                return Ok(());
            }
            if let Some(host) = self.routes.compile_host(table, version, body, &self.store)? {
                tables.entry(table.to_owned()).or_default().insert(name.to_owned(), Some(host));
            }
            Ok(())
        });
        for resource in &update.resources {
            learnt.extend(
                std::iter::once(&resource.name).chain(&resource.aliases).map(|alias| (&**alias, &*resource.name)),
            );
        }
        for name in &update.removed {
            let Some((table, _)) = vhosts::split(name) else { continue };
            tables.entry(table.to_owned()).or_default().insert(name.clone(), None);
            learnt.push((name, name));
        }
        let mut rejection = verdict.err().unwrap_or_default();
        let mut there: BTreeSet<&str> = BTreeSet::new();
        for (table, fresh) in &tables {
            let verdict = self.routes.apply_hosts(table, &update.version, fresh.clone());
            self.count_virtual_hosts(table, update, verdict.is_ok());
            match verdict {
                Ok(()) => there.extend(fresh.iter().filter(|(_, host)| host.is_some()).map(|(name, _)| &**name)),
                Err(reason) => {
                    let separator = if rejection.detail.is_empty() { "" } else { ", " };
                    rejection.detail += &format!("{separator}{table}: {reason}");
                    rejection.names.extend(fresh.keys().cloned());
                }
            }
        }
        for (alias, name) in learnt {
            let Some((table, host)) = vhosts::split(alias) else { continue };
            let there = there.contains(name);
            if let Some(hosts) = self.routes.dynamic.get_mut(table).and_then(|d| d.vhds.as_mut()) {
                hosts.names.learn(host, there);
            }
            self.registry.demand().answer(&Wish::VirtualHost { table: table.into(), host: host.into() }, there);
        }
        if rejection.detail.is_empty() { Ok(()) } else { Err(rejection) }
    }

    fn count_virtual_hosts(&self, table: &str, update: &Update, taken: bool) {
        for stats in self.vhds.iter().filter(|((_, of), _)| of == table).map(|s| s.1) {
            stats.inc(vhds::UPDATE_ATTEMPT);
            if taken {
                stats.inc(vhds::UPDATE_SUCCESS);
                stats.inc(vhds::CONFIG_RELOAD);
                stats.text_set(vhds::VERSION_TEXT, &update.version);
                stats.gauge_set(vhds::VERSION, version_hash(&update.version));
            } else {
                stats.inc(vhds::UPDATE_REJECTED);
            }
        }
    }

    /// Takes what requests have asked for since the last call; answers what is known.
    pub fn heed(&mut self) {
        for wish in self.registry.demand().take() {
            let known = match &wish {
                Wish::Cluster { name, .. } if self.registry.get(name).is_some() => Some(true),
                Wish::Cluster { source, name } => {
                    self.odcds.get_or_insert_with(|| self.store.block("cluster_manager.odcds."));
                    if self.can_ask(source) { self.asked.ask(source, name) } else { Some(false) }
                }
                Wish::VirtualHost { table, host } => {
                    let source = self.routes.dynamic.get(&**table).and_then(|d| Some(d.vhds.as_ref()?.source.clone()));
                    let can_ask = source.is_some_and(|source| self.can_ask(&source));
                    if can_ask { self.routes.ask(table, host) } else { Some(false) }
                }
            };
            if let Some(there) = known {
                self.registry.demand().answer(&wish, there);
            }
        }
    }

    fn can_ask(&self, source: &ConfigSource) -> bool {
        self.delta || !matches!(source, ConfigSource::Ads { .. })
    }

    fn apply_listeners(&mut self, update: &Update) -> Result<(), Rejection> {
        self.lds.inc(subscription::UPDATE_ATTEMPT);
        // Removals first: a new listener may want the address of one that goes.
        update.removed.iter().for_each(|name| self.listeners.remove(name));
        let verdict = each(update, "Error adding/updating listener(s)", |name, version, body| {
            if self.listeners.apply(name, version, body)? {
                telemetry::info!(upstream, "lds: add/update listener '{name}'");
            }
            Ok(())
        });
        settle(&self.lds, update, &verdict);
        if verdict.is_ok() {
            self.listeners.version = update.version.clone();
        }
        verdict
    }

    fn apply_routes(&mut self, update: &Update) -> Result<(), Rejection> {
        let verdict = each(update, "Error adding/updating route configuration(s)", |name, version, body| {
            let verdict = self.routes.apply(name, version, body, &self.store);
            for stats in self.rds.iter().filter(|((_, of), _)| of == name).map(|r| r.1) {
                stats.inc(rds::UPDATE_ATTEMPT);
                match &verdict {
                    Ok(()) => {
                        stats.inc(rds::UPDATE_SUCCESS);
                        stats.inc(rds::CONFIG_RELOAD);
                        stats.text_set(rds::VERSION_TEXT, version);
                        stats.gauge_set(rds::VERSION, version_hash(version));
                    }
                    Err(_) => stats.inc(rds::UPDATE_REJECTED),
                }
            }
            verdict
        });
        update.removed.iter().for_each(|name| self.routes.missing(name));
        verdict
    }

    /// Moves everything that became ready into force and says what is wanted now.
    pub fn advance(&mut self) -> Wanted {
        let now = Instant::now();
        let mut secrets: BTreeSet<_> = self.clusters.secrets().cloned().collect();
        secrets.extend(self.listeners.secrets().cloned());
        self.secrets.want(&secrets);
        let routes = self.listeners.route_names();
        self.routes.want(&routes);
        let scopes = self.listeners.route_scopes();
        self.rds.retain(|scope, _| scopes.contains(scope));
        for (prefix, name) in scopes {
            let block = || self.store.block(&format!("http.{prefix}.rds.{name}."));
            self.rds.entry((prefix.clone(), name.clone())).or_insert_with(block);
        }
        self.follow_virtual_hosts();
        self.clusters.warm(&self.secrets, now);
        self.listeners.warm(&self.routes, &self.secrets, now);
        for name in self.asked.asked() {
            if self.registry.get(&name).is_some() {
                self.asked.learn(&name, true);
                self.answer_cluster(&name, true);
            }
        }
        self.clusters.forget_unused();
        self.listeners.forget_extensions();
        Wanted {
            endpoints: self.clusters.service_names().map(str::to_owned).collect(),
            routes: self.listeners.route_names(),
            extensions: self.listeners.extensions.wanted(),
            secrets: self.secrets.names(),
            clusters: self.asked.wanted(),
            virtual_hosts: self.routes.host_names(),
        }
    }

    /// Stats of the route configurations that VHDS completes now.
    fn follow_virtual_hosts(&mut self) {
        let completed = |name: &str| self.routes.dynamic.get(name).is_some_and(|d| d.vhds.is_some());
        self.vhds.retain(|scope, _| self.rds.contains_key(scope) && completed(&scope.1));
        for scope in self.rds.keys().filter(|scope| completed(&scope.1)) {
            let block = || self.store.block(&format!("http.{}.vhds.{}.", scope.0, scope.1));
            self.vhds.entry(scope.clone()).or_insert_with(block);
        }
    }

    /// When `advance` must be called again without any update.
    pub fn deadline(&self) -> Option<Instant> {
        [self.clusters.deadline(), self.listeners.deadline()].into_iter().flatten().min()
    }
}

/// Applies each resource; gathers refusals in Envoy's words.
fn each(
    update: &Update,
    what: &str,
    mut apply: impl FnMut(&str, &str, &Any) -> Result<(), String>,
) -> Result<(), Rejection> {
    let mut names = BTreeSet::new();
    let mut details = Vec::new();
    let mut seen = BTreeSet::new();
    for resource in &update.resources {
        let verdict = if !seen.insert(resource.name.as_str()) {
            Err(format!("duplicate resource {} found", resource.name))
        } else {
            apply(&resource.name, &resource.version, &resource.body)
        };
        if let Err(reason) = verdict {
            names.insert(resource.name.clone());
            details.push(format!("{}: {reason}", resource.name));
        }
    }
    if names.is_empty() { Ok(()) } else { Err(Rejection { detail: format!("{what} {}", details.join(", ")), names }) }
}

fn settle(stats: &Block<subscription::Subscription>, update: &Update, verdict: &Result<(), Rejection>) {
    match verdict {
        Ok(()) => {
            stats.inc(subscription::UPDATE_SUCCESS);
            stats.text_set(subscription::VERSION_TEXT, &update.version);
            stats.gauge_set(subscription::VERSION, version_hash(&update.version));
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            stats.gauge_set(subscription::UPDATE_TIME, now.as_millis() as u64);
        }
        Err(_) => stats.inc(subscription::UPDATE_REJECTED),
    }
}
