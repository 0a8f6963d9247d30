//! Pages about policies and what is kept: `authorizationz`, `telemetryz`, `cachez`, `clusterz`, `push_status`.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::{Config, Resolution};
use serde_json::{Map, Value, json};

use super::clients::proxy_id;
use crate::run::Shared;

/// Istio's `AuthorizationDebug`.
pub fn authorizationz(shared: &Shared) -> Value {
    let snapshot = shared.world.snapshot();
    let policies = by_namespace(shared, names::Kind::AuthorizationPolicy, &snapshot.authorization_policies);
    json!({"authorization_policies": {"namespace_to_policies": policies, "root_namespace": snapshot.mesh.root_namespace}})
}

/// Istio's `TelemetryDebug`.
pub fn telemetryz(shared: &Shared) -> Value {
    let snapshot = shared.world.snapshot();
    let telemetries = by_namespace(shared, names::Kind::Telemetry, &snapshot.telemetries);
    json!({"telemetries": {"namespace_to_telemetries": telemetries, "root_namespace": snapshot.mesh.root_namespace}})
}

/// In the order in which they count, with the specification as it was written.
fn by_namespace<T>(shared: &Shared, kind: names::Kind, configs: &[Arc<Config<T>>]) -> Value {
    let store = shared.world.store();
    let mut out: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for c in configs {
        let key = names::ResourceKey::new(kind.clone(), &c.namespace, &c.name);
        let spec = store.resources().get(&key).map_or(Value::Null, |r| r.raw["spec"].clone());
        out.entry(&c.namespace).or_default().push(json!({"name": &*c.name, "namespace": &*c.namespace,
            "annotations": c.annotations, "spec": spec}));
    }
    json!(out)
}

/// What translation keeps, and how often it was of use.
pub fn cachez(shared: &Shared) -> Value {
    let (found, made) = shared.hub.source().memo().counts();
    json!({"entries": shared.hub.source().memo().len(), "hits": found, "misses": made})
}

/// The one cluster whose endpoints are read.
pub fn clusterz(shared: &Shared) -> Value {
    json!([{"id": shared.cluster_id, "secretName": "", "syncStatus": "synced"}])
}

/// Istio's `ProxyStatus`: what of the configuration could not be had, by metric and by what it concerns.
pub fn push_status(shared: &Shared) -> Value {
    let snapshot = shared.world.snapshot();
    let mut out: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for s in snapshot.services.iter().filter(|s| s.resolution == Resolution::ClientSideLb) {
        for port in s.ports.iter() {
            let endpoints = snapshot.endpoints_of(s);
            if !endpoints.iter().any(|e| e.service_port == port.name) {
                let cluster = names::ClusterName::outbound(port.number, "", &s.hostname).to_string();
                out.entry("pilot_eds_no_instances").or_default().insert(cluster, json!({}));
            }
        }
    }
    for connection in shared.hub.status() {
        let Some(view) = super::config::view(shared, &connection.node) else { continue };
        let rejected = view.gateway.as_ref().map(|g| g.rejected.as_slice()).unwrap_or_default();
        for (what, reason) in rejected {
            let entry = json!({"proxy": proxy_id(&connection), "message": reason});
            out.entry("pilot_conflict_gateway_server").or_default().insert(what.clone(), entry);
        }
    }
    json!(out)
}
