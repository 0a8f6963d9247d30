//! Which route tables are in force? Slots that connection managers read, filled by RDS.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use prost_types::Any;
use protos::envoy::config::route::v3::RouteConfiguration;
use proxy_config::route::RouteTable;
use telemetry::stats::Store;

use super::record::{Failure, Record};
use super::sds::Source;
use super::vhosts::{Base, Fresh, Host, VirtualHosts};

/// A slot that a connection manager reads.
pub type Slot = Arc<ArcSwapOption<RouteTable>>;

/// Slots by name; made while listeners are compiled.
#[derive(Debug, Default)]
pub struct Slots(Mutex<BTreeMap<String, Slot>>);

impl Slots {
    /// The slot of a route configuration.
    pub fn get(&self, name: &str) -> Slot {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(name.to_owned()).or_default().clone()
    }

    fn remove(&self, name: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

/// One route configuration of RDS.
#[derive(Debug, Default)]
pub struct Dynamic {
    /// In force, without the hosts of VHDS; `None` while awaited.
    pub active: Option<Record>,
    /// Last refused version.
    pub failed: Option<Failure>,
    /// The hosts that came one by one, if it is completed by VHDS.
    pub vhds: Option<Box<VirtualHosts>>,
}

impl Dynamic {
    /// The message as it is in force, hosts of VHDS included.
    pub fn shown(&self) -> Option<Any> {
        let active = self.active.as_ref()?;
        Some(self.vhds.as_ref().map_or_else(|| active.body(), |hosts| hosts.shown()))
    }

    /// The table of a configuration that RDS brought. An error leaves all as it was.
    fn take(
        &mut self,
        name: &str,
        record: Record,
        recall: &BTreeSet<String>,
        store: &Arc<Store>,
    ) -> Result<RouteTable, String> {
        let message: RouteConfiguration = protos::unpack(&record.body()).map_err(|e| e.to_string())?;
        let table = proxy_config::parse::route_table(&message).map_err(|e| e.to_string())?;
        let Some(source) = table.vhds.clone() else {
            self.vhds = None;
            return Ok(table);
        };
        let base = Base::new(record, message, table.clone());
        if let Some(hosts) = &mut self.vhds {
            return hosts.rebase(source, base, store);
        }
        let mut hosts = VirtualHosts::new(source, base);
        let prefix = format!("{name}/");
        for host in recall.range(prefix.clone()..).map_while(|n| n.strip_prefix(&prefix)) {
            hosts.names.ask(host);
        }
        self.vhds = Some(Box::new(hosts));
        Ok(table)
    }
}

/// All route configurations.
#[derive(Debug, Default)]
pub struct Routes {
    /// Where managers read.
    pub slots: Arc<Slots>,
    /// Those written into listeners.
    pub statics: BTreeMap<String, Record>,
    /// By RDS.
    pub dynamic: BTreeMap<String, Dynamic>,
    /// Virtual hosts to ask for as soon as their configuration is there, by their names in VHDS.
    pub recall: BTreeSet<String>,
}

impl Routes {
    /// Takes a route configuration of RDS; an error leaves the last good one in force.
    pub fn apply(&mut self, name: &str, version: &str, body: &Any, store: &Arc<Store>) -> Result<(), String> {
        let Some(entry) = self.dynamic.get_mut(name) else {
            // Not asked for any more: the answer crossed our request.
            return Ok(());
        };
        let record = Record::new(version, body);
        match entry.take(name, record.clone(), &self.recall, store) {
            Ok(table) => {
                l7::vcluster::open(&table, store);
                self.slots.get(name).store(Some(Arc::new(table)));
                entry.active = Some(record);
                entry.failed = None;
                telemetry::debug!(router, "rds: loading new configuration: config_name={name}");
                Ok(())
            }
            Err(details) => {
                entry.failed = Some(Failure { record, details: details.clone() });
                Err(details)
            }
        }
    }

    /// Compiles a virtual host in its configuration. `None`: nobody asks for that any more, the answer crossed our request.
    pub fn compile_host(
        &self,
        name: &str,
        version: &str,
        body: &Any,
        store: &Arc<Store>,
    ) -> Result<Option<Host>, String> {
        let hosts = self.dynamic.get(name).and_then(|d| d.vhds.as_ref());
        hosts.map(|hosts| hosts.compile(version, body, store)).transpose()
    }

    /// A request needs a virtual host: whether it is there, if that is known.
    pub fn ask(&mut self, name: &str, host: &str) -> Option<bool> {
        let Some(hosts) = self.dynamic.get_mut(name).and_then(|d| d.vhds.as_mut()) else {
            return Some(false);
        };
        let known = hosts.names.ask(host);
        let gone = hosts.given_up(name);
        if !gone.is_empty()
            && let Err(e) = self.apply_hosts(name, "", gone)
        {
            // Fewer hosts than before cannot conflict.
            telemetry::warn!(router, "vhds: config_name={name}: {e}");
        }
        known
    }

    /// Puts virtual hosts into a configuration, or takes them out; an error leaves all as it was.
    pub fn apply_hosts(&mut self, name: &str, version: &str, fresh: Fresh) -> Result<(), String> {
        let Some((entry, hosts)) = self.dynamic.get_mut(name).and_then(|d| Some((&mut d.active, d.vhds.as_mut()?)))
        else {
            // Not asked for any more: the answer crossed our request.
            return Ok(());
        };
        let table = hosts.take(fresh)?;
        self.slots.get(name).store(Some(Arc::new(table)));
        *entry = Some(hosts.record(version));
        telemetry::debug!(router, "vhds: loading new configuration: config_name={name}");
        Ok(())
    }

    /// VHDS names, by who is asked.
    pub fn host_names(&self) -> BTreeMap<Source, BTreeSet<String>> {
        let mut all: BTreeMap<Source, BTreeSet<String>> = BTreeMap::new();
        for (name, hosts) in self.dynamic.iter().filter_map(|(name, d)| Some((name, d.vhds.as_ref()?))) {
            let names = hosts.names.all().map(|host| format!("{name}/{host}"));
            all.entry(Source::of(&hosts.source)).or_default().extend(names);
        }
        all
    }

    /// The server says that it has no such configuration (any more). The last one stays, as in Envoy.
    pub fn missing(&mut self, _name: &str) {}

    /// True once the table is there.
    pub fn is_ready(&self, name: &str) -> bool {
        self.dynamic.get(name).is_none_or(|d| d.active.is_some())
    }

    /// States which names listeners use. True if they changed.
    pub fn want(&mut self, names: &BTreeSet<String>) -> bool {
        let before = self.dynamic.len();
        self.dynamic.retain(|name, _| {
            let keep = names.contains(name);
            if !keep {
                self.slots.remove(name);
            }
            keep
        });
        let mut changed = self.dynamic.len() != before;
        for name in names {
            if !self.dynamic.contains_key(name) {
                self.dynamic.insert(name.clone(), Dynamic::default());
                changed = true;
            }
        }
        changed
    }
}
