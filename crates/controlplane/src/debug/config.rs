//! Pages about what the control plane knows: resources, services, endpoints, scopes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model::{Proxy, ProxyView, Service};
use serde_json::{Map, Value, json};

use super::Refused;
use super::clients::proxy_id;
use crate::run::Shared;

/// Proxies whose patches are looked at for one page.
const PATCHED_PROXIES_MAX: usize = 64;

/// Every Istio resource as it was written, with what the mesh made of it as conditions of its status.
pub fn configz(shared: &Shared) -> Value {
    let conditions = conditions(shared);
    let store = shared.world.store();
    let one = |r: &api::Resource| {
        let mut raw = (*r.raw).clone();
        if let (Some(found), Some(object)) = (conditions.get(r.key()), raw.as_object_mut()) {
            let status = object.entry("status").or_insert_with(|| json!({}));
            let earlier = status.get("conditions").and_then(Value::as_array).cloned().unwrap_or_default();
            if let Some(status) = status.as_object_mut() {
                status.insert("conditions".into(), earlier.into_iter().chain(found.iter().cloned()).collect());
            }
        }
        raw
    };
    Value::Array(store.resources().values().filter(|r| r.key().kind.is_istio()).map(one).collect())
}

/// What to know of resources: findings of the model, and patches that change nothing of any connected proxy they are
/// for.
fn conditions(shared: &Shared) -> BTreeMap<names::ResourceKey, Vec<Value>> {
    let mut out: BTreeMap<names::ResourceKey, Vec<Value>> = BTreeMap::new();
    let condition = |reason: &str, message: String| json!({"type": reason, "status": "True", "message": message});
    for (key, found) in model::findings::findings(&shared.world.snapshot()) {
        out.insert(key, found.into_iter().map(|f| condition(f.reason.as_str(), f.message)).collect());
    }
    // A patch counts as applied if one of the proxies shows it.
    let mut unapplied: BTreeMap<(String, usize), &'static str> = BTreeMap::new();
    let mut applied: BTreeSet<(String, usize)> = BTreeSet::new();
    for c in shared.hub.status().into_iter().take(PATCHED_PROXIES_MAX) {
        let Some(view) = view(shared, &c.node) else {
            continue;
        };
        let inputs = translate::Inputs::new(Arc::new(view));
        let here: BTreeMap<_, _> =
            translate::patch::unapplied(&inputs).into_iter().map(|u| ((u.filter, u.position), u.reason)).collect();
        applied.extend(translate::patch::considered(&inputs).into_iter().filter(|p| !here.contains_key(p)));
        unapplied.extend(here);
    }
    unapplied.retain(|patch, _| !applied.contains(patch));
    for ((filter, position), reason) in unapplied {
        if let Some((namespace, name)) = filter.split_once('/') {
            let key = names::ResourceKey::new(names::Kind::EnvoyFilter, namespace, name);
            out.entry(key).or_default().push(condition("NotApplied", format!("configPatches[{position}]: {reason}")));
        }
    }
    out
}

/// What is wrong with resources as the mesh reads them together, by kind of finding.
pub fn push_status(shared: &Shared) -> Value {
    let mut out: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for (key, found) in conditions(shared) {
        for c in found {
            let reason = c["type"].as_str().unwrap_or_default().to_owned();
            let list = out.entry(reason).or_default().entry(key.to_string()).or_insert_with(|| json!([]));
            if let Some(list) = list.as_array_mut() {
                list.push(json!({"message": c["message"]}));
            }
        }
    }
    json!(out)
}

/// Every service, in the shape of Istio's `model.Service`.
pub fn registryz(shared: &Shared) -> Value {
    Value::Array(shared.world.snapshot().services.iter().map(|s| service(s)).collect())
}

fn service(service: &Service) -> Value {
    let ports =
        service.ports.iter().map(|p| json!({"name": &*p.name, "port": p.number, "protocol": p.protocol.to_string()}));
    json!({
        "Attributes": {
            "ServiceRegistry": service.registry.as_str(),
            "Name": &*service.name,
            "Namespace": &*service.namespace,
            "Labels": labels(&service.labels),
            "LabelSelectors": service.selector.as_ref().map(labels),
        },
        "hostname": service.hostname.to_string(),
        "ports": ports.collect::<Vec<_>>(),
        "defaultAddress": service.addresses.first(),
        "addresses": service.addresses,
        "Resolution": format!("{:?}", service.resolution),
        "MeshExternal": service.mesh_external,
    })
}

fn labels(labels: &names::Labels) -> Value {
    Value::Object(labels.iter().map(|(k, v)| (k.to_string(), Value::from(v.to_string()))).collect::<Map<_, _>>())
}

/// Endpoints by host and namespace, in the shape of Istio's endpoint shards.
pub fn endpointz(shared: &Shared) -> Value {
    let snapshot = shared.world.snapshot();
    let mut hosts: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for (key, endpoints) in snapshot.endpoints.iter() {
        let list = endpoints.iter().map(|e| {
            json!({
                "Addresses": [&*e.address],
                "ServicePortName": &*e.service_port,
                "EndpointPort": e.port,
                "ServiceAccount": e.workload.identity(&snapshot.mesh.trust_domain),
                "WorkloadName": &*e.workload.name,
                "Namespace": &*e.workload.namespace,
                "HealthStatus": format!("{:?}", e.health),
            })
        });
        let shard = json!({"Shards": {"Kubernetes/Kubernetes": list.collect::<Vec<_>>()}});
        hosts.entry(key.hostname.to_string()).or_default().insert(key.namespace.to_string(), shard);
    }
    json!(hosts)
}

/// Which service ports each connected proxy serves.
pub fn instancesz(shared: &Shared) -> Value {
    let views = shared.hub.status().into_iter().filter_map(|c| Some((proxy_id(&c), view(shared, &c.node)?)));
    let targets = views.map(|(id, view)| {
        let targets = view.targets.iter().map(
            |t| json!({"service": t.service.hostname.to_string(), "port": t.port.number, "targetPort": t.target_port}),
        );
        (id, Value::Array(targets.collect()))
    });
    Value::Object(targets.collect())
}

/// The scope of one proxy.
pub fn sidecarz(shared: &Shared, proxy: &str) -> Result<Value, Refused> {
    let missing = || Refused::NotConnected(proxy.to_owned());
    let connection = shared.hub.status().into_iter().find(|c| proxy_id(c) == proxy || c.node.id == proxy);
    let view = view(shared, &connection.ok_or_else(missing)?.node).ok_or_else(missing)?;
    let services: Vec<_> = view.scope.by_host.keys().map(ToString::to_string).collect();
    Ok(json!({"name": proxy, "namespace": &*view.proxy.namespace, "services": services}))
}

/// What a node sees now.
pub fn view(shared: &Shared, node: &protos::envoy::config::core::v3::Node) -> Option<ProxyView> {
    let proxy = Proxy::from_node(&node.id, &node.metadata.clone().unwrap_or_default(), "").ok()?;
    Some(ProxyView::new(&shared.world.snapshot(), &Arc::new(proxy)))
}

/// Counts of what pushes are made from.
pub fn pushcontext(shared: &Shared) -> Value {
    let s = shared.world.snapshot();
    json!({
        "PushVersion": s.version.to_string(),
        "Services": s.services.len(),
        "VirtualServices": s.virtual_services.iter().count(),
        "Gateways": s.gateways.len(),
        "Sidecars": s.sidecars.len(),
        "PeerAuthentications": s.peer_authentications.len(),
        "RequestAuthentications": s.request_authentications.len(),
        "AuthorizationPolicies": s.authorization_policies.len(),
        "Telemetries": s.telemetries.len(),
        "EnvoyFilters": s.envoy_filters.len(),
        "ClusterLocalHosts": {},
    })
}
