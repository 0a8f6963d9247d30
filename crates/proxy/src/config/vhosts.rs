//! Which virtual hosts did a route configuration get one by one? VHDS: hosts by the names they were asked for, and the
//! configuration with them in it.

use std::collections::BTreeMap;

use prost_types::Any;
use protos::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
use proxy_config::common::ConfigSource;
use proxy_config::route::RouteTable;

use super::demand::Names;
use super::record::Record;

/// The hosts of one route configuration.
#[derive(Debug)]
pub struct VirtualHosts {
    /// Who is asked.
    pub source: ConfigSource,
    /// What requests asked for, without the prefix of the configuration's name.
    pub names: Names,
    /// The configuration as RDS brought it.
    base: Record,
    /// By resource name.
    hosts: BTreeMap<String, Record>,
}

impl VirtualHosts {
    /// None yet.
    pub fn new(source: ConfigSource, base: Record) -> Self {
        VirtualHosts { source, names: Names::default(), base, hosts: BTreeMap::new() }
    }

    /// RDS brought the configuration anew.
    pub fn rebase(&mut self, source: ConfigSource, base: Record) {
        (self.source, self.base) = (source, base);
    }

    /// The configuration with the hosts in it, and what it compiles to. `fresh`: hosts that come or, without a record,
    /// go. Nothing is kept of them; see [`VirtualHosts::take`].
    pub fn merge(&self, base: &Any, fresh: &BTreeMap<String, Option<Record>>) -> Result<(Any, RouteTable), String> {
        let mut merged: RouteConfiguration = protos::unpack(base).map_err(|e| e.to_string())?;
        let kept = self.hosts.iter().filter(|(name, _)| !fresh.contains_key(*name)).map(|(_, record)| record);
        let mut hosts = Vec::new();
        for record in fresh.values().flatten().chain(kept) {
            hosts.push(protos::unpack::<VirtualHost>(&record.body()).map_err(|e| e.to_string())?);
        }
        hosts.sort_by(|a, b| (&a.name, &a.domains).cmp(&(&b.name, &b.domains)));
        // Asked for by several names, a host comes as often.
        hosts.dedup_by(|a, b| a.name == b.name && a.domains == b.domains);
        merged.virtual_hosts.extend(hosts);
        let table = proxy_config::parse::route_table(&merged).map_err(|e| e.to_string())?;
        Ok((Any { type_url: base.type_url.clone(), value: prost::Message::encode_to_vec(&merged) }, table))
    }

    /// The configuration as RDS brought it.
    pub fn base(&self) -> Any {
        self.base.body()
    }

    /// Takes what [`VirtualHosts::merge`] accepted.
    pub fn take(&mut self, fresh: BTreeMap<String, Option<Record>>) {
        for (name, record) in fresh {
            match record {
                Some(record) => _ = self.hosts.insert(name, record),
                None => _ = self.hosts.remove(&name),
            }
        }
    }

    /// Hosts whose names were given up since the last call; they are to go.
    pub fn given_up(&mut self, table: &str) -> BTreeMap<String, Option<Record>> {
        let names = self.names.given_up().into_iter().map(|host| format!("{table}/{host}"));
        names.filter(|name| self.hosts.contains_key(name)).map(|name| (name, None)).collect()
    }
}

/// Whether a body is a virtual host that compiles by itself.
pub fn check(body: &Any) -> Result<(), String> {
    let host: VirtualHost = protos::unpack(body).map_err(|e| e.to_string())?;
    let alone = RouteConfiguration { virtual_hosts: vec![host], ..Default::default() };
    proxy_config::parse::route_table(&alone).map(drop).map_err(|e| e.to_string())
}

/// Route configuration and host in a name of VHDS, `CONFIGURATION/HOST`.
pub fn split(name: &str) -> Option<(&str, &str)> {
    name.rsplit_once('/')
}
