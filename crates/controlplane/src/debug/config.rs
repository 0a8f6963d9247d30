//! Pages about what the control plane knows: resources, services, endpoints, scopes.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::{Proxy, ProxyView, Service};
use serde_json::{Map, Value, json};

use super::Refused;
use super::clients::proxy_id;
use crate::run::Shared;

/// Every Istio resource as it was written, with what the mesh made of it as its status.
pub fn configz(shared: &Shared) -> Value {
    let statuses = crate::statuses::of(shared);
    let now = jiff::Timestamp::now().to_string();
    let store = shared.world.store();
    let one = |r: &api::Resource| {
        let mut raw = (*r.raw).clone();
        if let (Some(status), Some(object)) = (statuses.get(r.key()), raw.as_object_mut()) {
            let written = object.get("status").cloned().unwrap_or_default();
            object.insert("status".into(), status.over(&written, &now));
        }
        raw
    };
    Value::Array(store.resources().values().filter(|r| r.key().kind.is_istio()).map(one).collect())
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
