//! Which services does a gateway send anything to? Asked for views of routers where the control plane is told to leave
//! the clusters of all others out (`PILOT_FILTER_GATEWAY_CLUSTER_CONFIG`). Follows `GatewayServices` of
//! `push_context.go`.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::security::RequestAuthentication;
use names::Hostname;
use serde_json::Value;

use crate::config::Config;
use crate::gateway::MergedGateway;
use crate::sidecar::{SidecarScope, destinations};
use crate::snapshot::Snapshot;

/// Names services that an `EnvoyFilter`'s patches send to, separated by commas.
const REFERENCED_ANNOTATION: &str = "envoyfilter.istio.io/referenced-services";

/// The scope with those services only that the gateway's virtual services route to, and that its filters ask: providers
/// of the mesh, key servers, and what `EnvoyFilter`s name. Gateways that pass connections on by SNI keep all.
pub(crate) fn narrowed(
    scope: &SidecarScope,
    snapshot: &Snapshot,
    gateway: &MergedGateway,
    authentications: &[Arc<Config<RequestAuthentication>>],
) -> SidecarScope {
    let mut out = scope.clone();
    if !gateway.auto_passthrough_hosts.is_empty() {
        return out;
    }
    let mut hosts = providers(snapshot);
    let names: BTreeSet<&str> = gateway.ports.iter().flat_map(|p| &p.servers).map(|s| s.gateway.as_str()).collect();
    for name in names {
        for rule in snapshot.virtual_services.for_gateway(&scope.namespace, name) {
            hosts.extend(destinations(&rule));
        }
    }
    let rules = authentications.iter().flat_map(|a| &a.spec.jwt_rules);
    for host in rules.filter_map(|r| host_of(&r.jwks_uri)) {
        hosts.insert(Hostname::from(format!("{host}.svc.{}", snapshot.mesh.domain).as_str()));
        hosts.insert(Hostname::from(host));
    }
    let root = snapshot.mesh.root_namespace.as_str();
    let filters = snapshot.envoy_filters.iter().filter(|f| *f.namespace == *root || f.namespace == scope.namespace);
    for named in filters.filter_map(|f| f.annotations.get(REFERENCED_ANNOTATION)) {
        hosts.extend(named.split(',').map(str::trim).filter(|h| !h.is_empty()).map(Hostname::from));
    }
    // Who stands for another service sends to that one.
    let targets: Vec<Hostname> = hosts.iter().filter_map(|h| scope.by_host.get(h)?.external_name.clone()).collect();
    hosts.extend(targets);
    Arc::make_mut(&mut out.services)
        .retain(|s| hosts.contains(&s.hostname) || s.aliases.iter().any(|a| hosts.contains(a)));
    out
}

/// Hosts of the mesh's extension providers, wherever in them a service is named.
fn providers(snapshot: &Snapshot) -> BTreeSet<Hostname> {
    let mut hosts = BTreeSet::new();
    let mut visit: Vec<&Value> = snapshot.mesh.extension_providers.iter().map(|p| &p.config).collect();
    while let Some(value) = visit.pop() {
        match value {
            Value::Array(list) => visit.extend(list),
            Value::Object(map) => {
                if let Some(service) = map.get("service").and_then(Value::as_str) {
                    hosts.insert(Hostname::from(service.split_once('/').map_or(service, |(_, host)| host)));
                }
                visit.extend(map.values());
            }
            _ => {}
        }
    }
    hosts
}

fn host_of(uri: &str) -> Option<&str> {
    let authority = uri.split_once("://")?.1.split(['/', '?']).next()?;
    Some(authority.rsplit_once(':').map_or(authority, |(host, _)| host))
}
