//! Which virtual hosts did a route configuration get one by one? VHDS: hosts by the names they were asked for, each
//! compiled once, and the table with them in it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost_types::Any;
use protos::envoy::config::route::v3::{self as p, RouteConfiguration};
use proxy_config::common::ConfigSource;
use proxy_config::route::{RouteTable, VirtualHost};
use telemetry::stats::Store;

use super::demand::Names;
use super::record::Record;

/// A virtual host that was told by itself.
#[derive(Debug, Clone)]
pub struct Host {
    record: Record,
    domains: Vec<String>,
    compiled: Arc<VirtualHost>,
}

/// Hosts that come or, where there is none, go, by their names in VHDS.
pub type Fresh = BTreeMap<String, Option<Host>>;

/// A route configuration as RDS brought it.
#[derive(Debug)]
pub struct Base {
    /// As it came.
    pub record: Record,
    /// Without its virtual hosts: what those that come later inherit.
    frame: RouteConfiguration,
    table: RouteTable,
}

/// The hosts of one route configuration.
#[derive(Debug)]
pub struct VirtualHosts {
    /// Who is asked.
    pub source: ConfigSource,
    /// What requests asked for, without the prefix of the configuration's name.
    pub names: Names,
    base: Base,
    hosts: BTreeMap<String, Host>,
}

impl Host {
    /// What tells hosts apart, and their order in the table.
    fn key(&self) -> (&str, &[String]) {
        (&self.compiled.name, &self.domains)
    }
}

impl Base {
    /// A configuration and what it compiled to.
    pub fn new(record: Record, mut frame: RouteConfiguration, table: RouteTable) -> Self {
        frame.virtual_hosts.clear();
        Base { record, frame, table }
    }

    fn host(&self, record: Record, host: &p::VirtualHost, store: &Arc<Store>) -> Result<Host, String> {
        let compiled = proxy_config::parse::on_demand_host(&self.frame, host).map_err(|e| e.to_string())?;
        l7::vcluster::open_host(&compiled, store);
        Ok(Host { record, domains: host.domains.clone(), compiled: Arc::new(compiled) })
    }

    /// The table with these hosts in it. Asked for by several names, a host comes as often.
    fn with<'a>(&self, hosts: impl Iterator<Item = &'a Host>) -> Result<RouteTable, String> {
        let mut all: Vec<&Host> = hosts.collect();
        all.sort_by(|a, b| a.key().cmp(&b.key()));
        all.dedup_by(|a, b| a.key() == b.key());
        self.table.with_hosts(all.into_iter().map(|h| (&*h.domains, &h.compiled))).map_err(|e| e.to_string())
    }
}

impl VirtualHosts {
    /// None yet.
    pub fn new(source: ConfigSource, base: Base) -> Self {
        VirtualHosts { source, names: Names::default(), base, hosts: BTreeMap::new() }
    }

    /// RDS brought the configuration anew: the hosts are compiled in it and, if they fit, kept.
    pub fn rebase(&mut self, source: ConfigSource, base: Base, store: &Arc<Store>) -> Result<RouteTable, String> {
        let mut hosts = BTreeMap::new();
        for (name, host) in &self.hosts {
            let told: p::VirtualHost = protos::unpack(&host.record.body()).map_err(|e| e.to_string())?;
            hosts.insert(name.clone(), base.host(host.record.clone(), &told, store)?);
        }
        let table = base.with(hosts.values())?;
        (self.source, self.base, self.hosts) = (source, base, hosts);
        Ok(table)
    }

    /// Compiles a host that was told.
    pub fn compile(&self, version: &str, body: &Any, store: &Arc<Store>) -> Result<Host, String> {
        let host: p::VirtualHost = protos::unpack(body).map_err(|e| e.to_string())?;
        self.base.host(Record::new(version, body), &host, store)
    }

    /// The table with `fresh` in it, and what it replaces out of it. An error leaves all as it was.
    pub fn take(&mut self, fresh: Fresh) -> Result<RouteTable, String> {
        let kept = self.hosts.iter().filter(|(name, _)| !fresh.contains_key(*name)).map(|(_, host)| host);
        let table = self.base.with(fresh.values().flatten().chain(kept))?;
        for (name, host) in fresh {
            match host {
                Some(host) => _ = self.hosts.insert(name, host),
                None => _ = self.hosts.remove(&name),
            }
        }
        Ok(table)
    }

    /// The configuration with its hosts, as `/config_dump` shows it.
    pub fn shown(&self) -> Any {
        let base = self.base.record.body();
        let Ok(mut merged) = protos::unpack::<RouteConfiguration>(&base) else { return base };
        let mut seen = BTreeSet::new();
        for host in self.hosts.values().filter(|h| seen.insert(h.key())) {
            merged.virtual_hosts.extend(protos::unpack::<p::VirtualHost>(&host.record.body()));
        }
        Any { type_url: base.type_url, value: prost::Message::encode_to_vec(&merged) }
    }

    /// A record of now of the configuration as RDS brought it; [`VirtualHosts::shown`] has the rest.
    pub fn record(&self, version: &str) -> Record {
        self.base.record.again(version)
    }

    /// Hosts whose names were given up since the last call; they are to go.
    pub fn given_up(&mut self, table: &str) -> Fresh {
        let names = self.names.given_up().into_iter().map(|host| format!("{table}/{host}"));
        names.filter(|name| self.hosts.contains_key(name)).map(|name| (name, None)).collect()
    }
}

/// Route configuration and host in a name of VHDS, `CONFIGURATION/HOST`.
pub fn split(name: &str) -> Option<(&str, &str)> {
    name.rsplit_once('/')
}
