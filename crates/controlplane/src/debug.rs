//! What do the debug pages show? Istio's JSON shapes over our state; read-only, computed when asked.

pub(crate) mod clients;
pub(crate) mod config;
mod dump;
mod policies;

use std::collections::HashMap;

use serde_json::{Value, json};
use xds::server::Kind;

use crate::run::Shared;

/// Why a page cannot be shown.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// No page of this name.
    NoSuchPage,
    /// A query parameter is needed.
    Missing(&'static str),
    /// The proxy asked about is not connected here.
    NotConnected(String),
}

const PAGES: &[(&str, &str)] = &[
    ("adsz", "Status and debug interface for ADS; ?push=true initiates a push to all clients"),
    ("config_dump", "ConfigDump in the form of the Envoy admin config dump API for passed in proxyID"),
    ("authorizationz", "Internal authorization policies"),
    ("cachez", "Info about the internal XDS caches"),
    ("clusterz", "List remote clusters where istiod reads endpoints"),
    ("configz", "Debug support for config"),
    ("connections", "Info about the connected XDS clients"),
    ("ecdsz", "Status and debug interface for ECDS"),
    ("edsz", "Status and debug interface for EDS"),
    ("endpointShardz", "Info about the endpoint shards"),
    ("endpointz", "Obsolete, use endpointShardz"),
    ("force_disconnect", "Disconnects a proxy from this Pilot"),
    ("instancesz", "Debug support for service instances"),
    ("list", "List all supported debug commands in json"),
    ("mesh", "Active mesh config"),
    ("ndsz", "Status and debug interface for NDS"),
    ("push_status", "Last PushContext Details"),
    ("pushcontext", "Debug support for current push context"),
    ("registryz", "Debug support for registry"),
    ("resourcesz", "Debug support for watched resources"),
    ("sidecarz", "Debug sidecar scope for a proxy"),
    ("syncz", "Synchronization status of all Envoys connected to this Pilot instance"),
    ("telemetryz", "Debug Telemetry configuration"),
];

/// All pages.
pub fn list() -> Value {
    let pages = PAGES.iter().map(|(name, help)| json!({"name": format!("/debug/{name}"), "help": help}));
    Value::Array(pages.collect())
}

/// One page. `proxyID` in the query is `pod.namespace`, the node id or the connection id.
pub fn page(shared: &Shared, name: &str, query: &HashMap<String, String>) -> Result<Value, Refused> {
    let proxy = || {
        let id = query.get("proxyID").filter(|p| !p.is_empty());
        id.ok_or(Refused::Missing("You must provide a proxyID in the query string"))
    };
    let sent = |kind| {
        let proxy = proxy()?;
        shared.hub.sent(proxy, kind).ok_or_else(|| Refused::NotConnected(proxy.clone()))
    };
    Ok(match name {
        "adsz" => {
            if query.get("push").is_some_and(|p| p == "true") {
                clients::push_all(shared);
                return Ok(json!(format!("Pushed to {} servers", shared.hub.len())));
            }
            clients::adsz(shared)
        }
        "connections" => clients::connections(shared),
        "syncz" => clients::syncz(shared),
        "resourcesz" => clients::resourcesz(shared, proxy()?)?,
        "force_disconnect" => {
            if !shared.hub.disconnect(proxy()?) {
                return Err(Refused::NotConnected(proxy()?.clone()));
            }
            json!("OK")
        }
        "config_dump" => dump::config_dump(shared, proxy()?)?,
        "edsz" => dump::list(Kind::Endpoint, &sent(Kind::Endpoint)?),
        "ecdsz" => dump::list(Kind::Extension, &sent(Kind::Extension)?),
        "ndsz" => dump::list(Kind::NameTable, &sent(Kind::NameTable)?),
        "configz" => config::configz(shared),
        "registryz" => config::registryz(shared),
        "endpointz" | "endpointShardz" => config::endpointz(shared),
        "instancesz" => config::instancesz(shared),
        "sidecarz" => config::sidecarz(shared, proxy()?)?,
        "mesh" => shared.world.snapshot().mesh.raw.clone(),
        "push_status" => {
            let mut status = crate::push_status::of(shared).to_json();
            if let (Some(all), Value::Object(found)) = (status.as_object_mut(), crate::statuses::by_reason(shared)) {
                all.extend(found);
            }
            status
        }
        "authorizationz" => policies::authorizationz(shared),
        "cachez" => policies::cachez(shared),
        "clusterz" => policies::clusterz(shared),
        "pushcontext" => config::pushcontext(shared),
        "telemetryz" => policies::telemetryz(shared),
        "list" => list(),
        _ => return Err(Refused::NoSuchPage),
    })
}
