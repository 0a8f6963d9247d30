//! Which filters does the control plane tell? ECDS: what was told by name, and how long listeners wait for it.
//!
//! `Listeners` puts what is told into force; here is what is known of each name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proxy_config::common::ConfigSource;
use proxy_config::filters::http::{Discovered, HttpFilterKind};
use proxy_config::listener::{Listener as Config, NetworkFilterKind};
use telemetry::stats::envoy::extension_config_discovery as stat;
use telemetry::stats::{Block, Store};
use tokio::time::Instant;

use super::clusters::INITIAL_FETCH_TIMEOUT;
use super::record::Record;
use super::sds::Source;

/// A filter that was told.
pub struct Told {
    /// As it came.
    pub record: Record,
    /// Type of its configuration.
    pub type_url: String,
    /// Compiled.
    pub kind: HttpFilterKind,
}

struct Extension {
    source: Source,
    /// When listeners stop waiting. `None`: never, or they did.
    deadline: Option<Instant>,
    /// Nobody waits (any more).
    ready: bool,
    told: Option<Told>,
    stats: Block<stat::ExtensionConfigDiscovery>,
}

/// All filters that listeners have told to them, by name.
#[derive(Default)]
pub struct Extensions(BTreeMap<String, Extension>);

/// The places of a listener that are filled by discovery.
pub fn places(config: &Config) -> impl Iterator<Item = (&str, &Discovered)> {
    let filters = config.chains.all().flat_map(|c| c.filters.iter());
    let managers = filters.filter_map(|f| match &f.kind {
        NetworkFilterKind::Hcm(hcm) => Some(hcm),
        _ => None,
    });
    managers.flat_map(|hcm| hcm.filters.iter()).filter_map(|f| match &f.kind {
        HttpFilterKind::Discovered(d) => Some((&*f.name, &**d)),
        _ => None,
    })
}

fn timeout(source: &ConfigSource) -> Duration {
    match source {
        ConfigSource::Ads { initial_fetch_timeout } | ConfigSource::Grpc { initial_fetch_timeout, .. } => {
            *initial_fetch_timeout
        }
        ConfigSource::Path(_) => INITIAL_FETCH_TIMEOUT,
    }
}

impl Extensions {
    /// A listener has a place for a filter. The time to wait begins with the first one.
    pub fn want(&mut self, name: &str, place: &Discovered, store: &Arc<Store>) {
        if !self.0.contains_key(name) {
            let timeout = timeout(&place.source);
            let extension = Extension {
                source: Source::of(&place.source),
                deadline: (!timeout.is_zero()).then(|| Instant::now() + timeout),
                ready: false,
                told: None,
                stats: store.block(&format!("extension_config_discovery.http_filter.{name}.")),
            };
            self.0.insert(name.to_owned(), extension);
        }
    }

    /// What was told of a name.
    pub fn told(&self, name: &str) -> Option<&Told> {
        self.0.get(name)?.told.as_ref()
    }

    /// All that was told, by name.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Told)> {
        self.0.iter().filter_map(|(name, e)| Some((name.as_str(), e.told.as_ref()?)))
    }

    /// A listener has a place for one.
    pub fn any(&self) -> bool {
        !self.0.is_empty()
    }

    /// Listeners need not wait for that name.
    pub fn is_ready(&self, name: &str) -> bool {
        self.0.get(name).is_none_or(|e| e.ready)
    }

    /// Takes what was told; a refusal (`None`) is counted and leaves the last one.
    pub fn take(&mut self, name: &str, told: Option<Told>) {
        let Some(e) = self.0.get_mut(name) else { return };
        match told {
            Some(told) => {
                e.stats.inc(stat::CONFIG_RELOAD);
                (e.told, e.ready, e.deadline) = (Some(told), true, None);
            }
            None => e.stats.inc(stat::CONFIG_FAIL),
        }
    }

    /// The server has no such filter any more. False: it never had.
    pub fn remove(&mut self, name: &str) -> bool {
        let Some(e) = self.0.get_mut(name).filter(|e| e.told.is_some()) else { return false };
        e.told = None;
        e.stats.inc(stat::CONFIG_RELOAD);
        true
    }

    /// Ends the wait for what did not come in time.
    pub fn expire(&mut self, now: Instant) {
        for e in self.0.values_mut().filter(|e| e.deadline.is_some_and(|d| d <= now)) {
            (e.deadline, e.ready) = (None, true);
            e.stats.inc(stat::CONFIG_FAIL);
        }
    }

    /// When the next wait ends.
    pub fn deadline(&self) -> Option<Instant> {
        self.0.values().filter_map(|e| e.deadline).min()
    }

    /// Forgets all but those names.
    pub fn retain(&mut self, names: &BTreeSet<String>) {
        self.0.retain(|name, _| names.contains(name));
    }

    /// Names to ask for, by who tells.
    pub fn wanted(&self) -> BTreeMap<Source, BTreeSet<String>> {
        let mut wanted: BTreeMap<Source, BTreeSet<String>> = BTreeMap::new();
        for (name, e) in &self.0 {
            wanted.entry(e.source.clone()).or_default().insert(name.clone());
        }
        wanted
    }
}
