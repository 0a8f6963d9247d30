//! Pages about connected proxies: `syncz`, `adsz`, `connections`, `resourcesz`.

use std::time::Instant;

use model::Delta;
use serde_json::{Map, Value, json};
use xds::server::{Kind, TypeStatus};
use xds_server::ConnectionStatus;

use super::Refused;
use crate::run::Shared;
use crate::source::Moved;

/// Istio's `SyncStatus` per proxy; empty fields are left out.
pub fn syncz(shared: &Shared) -> Value {
    Value::Array(shared.hub.status().iter().map(sync_status).collect())
}

fn sync_status(connection: &ConnectionStatus) -> Value {
    let mut out = Map::new();
    let mut put = |name: &str, value: String| {
        if !value.is_empty() {
            out.insert(name.to_owned(), value.into());
        }
    };
    let metadata = |key| text(connection, key);
    put("cluster_id", metadata("CLUSTER_ID"));
    put("proxy", proxy_id(connection));
    put("proxy_type", connection.node.id.split('~').next().unwrap_or_default().to_owned());
    put("proxy_version", metadata("ISTIO_VERSION"));
    put("istio_version", metadata("ISTIO_VERSION"));
    for status in &connection.types {
        let name = match status.kind {
            Kind::Cluster => "cluster",
            Kind::Listener => "listener",
            Kind::Route => "route",
            Kind::Endpoint => "endpoint",
            Kind::Extension => "extensionconfig",
            _ => continue,
        };
        put(&format!("{name}_sent"), status.nonce_sent.clone());
        put(&format!("{name}_acked"), status.nonce_acked.clone());
    }
    // Beyond Istio: what istioctl derives, and why.
    let states = connection.types.iter().map(|t| (t.kind.short().to_owned(), state(t)));
    out.insert("types".into(), Value::Object(states.collect()));
    out.insert("address".into(), connection.address.clone().into());
    if let Some(last) = connection.convergence.last {
        out.insert("last_convergence_seconds".into(), last.as_secs_f64().into());
    }
    Value::Object(out)
}

fn state(status: &TypeStatus) -> Value {
    let mut out = json!({
        "state": status.state.as_str(),
        "version": status.version,
        "resources": status.resources,
        "acks": status.acks,
        "nacks": status.nacks,
    });
    if let Some(reason) = &status.nack {
        out["error"] = reason.as_str().into();
    }
    out
}

/// Istio's `AdsClients` with labels, metadata and watches.
pub fn adsz(shared: &Shared) -> Value {
    clients(shared, |connection, client| {
        let metadata = connection.node.metadata.clone().unwrap_or_default();
        let metadata =
            model::proxy::to_json(&prost_types::Value { kind: Some(prost_types::value::Kind::StructValue(metadata)) });
        if let Some(labels) = metadata.get("LABELS") {
            client["labels"] = labels.clone();
        }
        client["metadata"] = metadata;
        if let Some(locality) = &connection.node.locality {
            client["locality"] =
                json!({"region": locality.region, "zone": locality.zone, "sub_zone": locality.sub_zone});
        }
        client["watches"] = watches(connection);
    })
}

/// Istio's `AdsClients`, short.
pub fn connections(shared: &Shared) -> Value {
    clients(shared, |_, _| {})
}

fn clients(shared: &Shared, extend: impl Fn(&ConnectionStatus, &mut Value)) -> Value {
    let status = shared.hub.status();
    let client = |c: &ConnectionStatus| {
        let connected = jiff::Timestamp::try_from(c.connected_at).unwrap_or_default();
        let mut client = json!({"connectionId": c.id, "connectedAt": connected.to_string(), "address": c.address});
        if !c.identities.is_empty() {
            client["identities"] = json!(c.identities);
        }
        extend(c, &mut client);
        client
    };
    json!({"totalClients": status.len(), "clients": status.iter().map(client).collect::<Vec<_>>()})
}

fn watches(connection: &ConnectionStatus) -> Value {
    let watch =
        |t: &TypeStatus| (t.kind.type_url().to_owned(), json!(t.names.iter().map(|n| &**n).collect::<Vec<_>>()));
    Value::Object(connection.types.iter().map(watch).collect())
}

/// What one proxy watches.
pub fn resourcesz(shared: &Shared, proxy: &str) -> Result<Value, Refused> {
    let status = shared.hub.status();
    let found = status.iter().rev().find(|c| c.id == proxy || c.node.id == proxy || proxy_id(c) == proxy);
    found.map(watches).ok_or_else(|| Refused::NotConnected(proxy.to_owned()))
}

/// Pushes the current state to everybody, as if everything had changed.
pub fn push_all(shared: &Shared) {
    let everything = Delta { everything: true, ..Delta::default() };
    shared.hub.push(&Moved(std::sync::Arc::new(everything)), Instant::now());
}

/// `pod.namespace`.
pub fn proxy_id(connection: &ConnectionStatus) -> String {
    connection.node.id.split('~').nth(2).unwrap_or(&connection.node.id).to_owned()
}

fn text(connection: &ConnectionStatus, key: &str) -> String {
    let value = connection.node.metadata.as_ref().and_then(|m| m.fields.get(key)).and_then(|v| v.kind.as_ref());
    match value {
        Some(prost_types::value::Kind::StringValue(s)) => s.clone(),
        _ => String::new(),
    }
}
