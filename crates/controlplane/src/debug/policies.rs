//! Pages about policies and what is kept: `authorizationz`, `telemetryz`, `cachez`, `clusterz`.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::Config;
use serde_json::{Value, json};

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
