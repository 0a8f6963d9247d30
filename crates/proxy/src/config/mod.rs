//! What is in force? The life of configuration on the config thread: updates in, names and verdicts out.
//!
//! Everything here runs on one thread; what workers see are snapshots that `l4`, `l7` and `upstream` publish.
//! A refused resource is named in the verdict; its siblings are applied and its last good version stays.

pub mod clusters;
pub mod listeners;
pub mod record;
pub mod routes;
pub mod sds;
pub mod secrets;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost_types::Any;
use telemetry::stats::envoy::{rds, subscription};
use telemetry::stats::{Block, Store};
use tokio::time::Instant;
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
    store: Arc<Store>,
}

/// What is wanted from the streams after a change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    /// EDS names.
    pub endpoints: BTreeSet<String>,
    /// RDS names.
    pub routes: BTreeSet<String>,
    /// ECDS names.
    pub extensions: BTreeSet<String>,
    /// SDS names per source.
    pub secrets: BTreeMap<Source, BTreeSet<String>>,
}

/// A number for `version` gauges, as Envoy hashes version strings.
fn version_hash(version: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    version.hash(&mut hasher);
    hasher.finish() >> 1
}

impl Config {
    /// No configuration yet. `cds`, `lds`: whether the bootstrap asks for them, and so has their stats.
    pub fn new(
        store: Arc<Store>,
        cds: bool,
        lds: bool,
        clusters: Clusters,
        listeners: Listeners,
        routes: Routes,
        secrets: Secrets,
    ) -> Self {
        let scope = |is: bool, prefix| if is { store.block(prefix) } else { Block::detached() };
        let (cds, lds) = (scope(cds, "cluster_manager.cds."), scope(lds, "listener_manager.lds."));
        Self { clusters, listeners, routes, secrets, cds, lds, rds: BTreeMap::new(), store }
    }

    /// Applies an update; the verdict names what was refused.
    pub fn apply(&mut self, update: &Update) -> Result<(), Rejection> {
        let verdict = match update.type_url.as_str() {
            url::CLUSTER => self.apply_clusters(update),
            url::LISTENER => self.apply_listeners(update),
            url::ENDPOINT => each(update, "Error adding/updating cluster load assignment(s)", |name, version, body| {
                self.clusters.assign(name, version, body)
            }),
            url::ROUTE => self.apply_routes(update),
            url::SECRET => each(update, "Error adding/updating secret(s)", |name, version, body| {
                self.secrets.apply(name, version, body)
            }),
            url::EXTENSION => each(update, "Error adding/updating extension config(s)", |name, version, body| {
                self.listeners.apply_extension(name, version, body)
            }),
            other => Err(Rejection { detail: format!("Unexpected resource type {other}"), names: BTreeSet::new() }),
        };
        if let Err(rejection) = &verdict {
            telemetry::warn!(config, "gRPC config for {} rejected: {}", update.type_url, rejection.detail);
        }
        verdict
    }

    fn apply_clusters(&mut self, update: &Update) -> Result<(), Rejection> {
        self.cds.inc(subscription::UPDATE_ATTEMPT);
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
        settle(&self.cds, update, &verdict);
        if verdict.is_ok() {
            self.clusters.version = update.version.clone();
        }
        verdict
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
        self.clusters.warm(&self.secrets, now);
        self.listeners.warm(&self.routes, &self.secrets, now);
        self.clusters.forget_unused();
        self.listeners.forget_extensions();
        Wanted {
            endpoints: self.clusters.service_names().map(str::to_owned).collect(),
            routes: self.listeners.route_names(),
            extensions: self.listeners.extension_names(),
            secrets: self.secrets.names(),
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
