//! What does a proxy have, in Envoy's words? `config_dump` and the per-type lists, from what was last sent.

use std::sync::Arc;

use protos::json::{Options, to_json};
use serde_json::{Value, json};
use xds::server::{Kind, Resource, version_string};

use super::Refused;
use crate::run::Shared;

/// `envoy.admin.v3.ConfigDump` of all types sent to a proxy.
pub fn config_dump(shared: &Shared, proxy: &str) -> Result<Value, Refused> {
    let sent = |kind| shared.hub.sent(proxy, kind).ok_or_else(|| Refused::NotConnected(proxy.to_owned()));
    let section = |dump: &str, list: &str, field: &str, kind: Kind| {
        let resources = sent(kind)?;
        let entry = |r: &Arc<Resource>| {
            let mut entry = json!({"version_info": version_string(r.version), field: typed(kind, r)});
            if kind == Kind::Secret || kind == Kind::Listener {
                entry["name"] = (*r.name).into();
            }
            // A listener's state is one level deeper.
            if kind == Kind::Listener {
                let state = json!({"version_info": entry["version_info"], "listener": entry["listener"]});
                entry = json!({"name": entry["name"], "active_state": state});
            }
            entry
        };
        let entries: Vec<_> = resources.iter().map(entry).collect();
        Ok(json!({"@type": format!("type.googleapis.com/envoy.admin.v3.{dump}"), list: entries}))
    };
    let configs = vec![
        section("ClustersConfigDump", "dynamic_active_clusters", "cluster", Kind::Cluster)?,
        section("ListenersConfigDump", "dynamic_listeners", "listener", Kind::Listener)?,
        section("RoutesConfigDump", "dynamic_route_configs", "route_config", Kind::Route)?,
        section("EndpointsConfigDump", "dynamic_endpoint_configs", "endpoint_config", Kind::Endpoint)?,
        section("SecretsConfigDump", "dynamic_active_secrets", "secret", Kind::Secret)?,
        section("EcdsConfigDump", "ecds_filters", "ecds_filter", Kind::Extension)?,
    ];
    Ok(json!({"configs": configs}))
}

/// Resources as a list of messages.
pub fn list(kind: Kind, resources: &[Arc<Resource>]) -> Value {
    Value::Array(resources.iter().map(|r| typed(kind, r)).collect())
}

/// A message with its `@type`; private keys are not shown.
fn typed(kind: Kind, resource: &Resource) -> Value {
    let mut value = to_json(protos::type_name(kind.type_url()), &resource.value.in_one_run(), Options::default())
        .unwrap_or_else(|error| json!({"error": error.to_string()}));
    if kind == Kind::Secret {
        redact(&mut value);
    }
    if let Some(object) = value.as_object_mut() {
        object.shift_insert(0, "@type".to_owned(), kind.type_url().into());
    }
    value
}

fn redact(value: &mut Value) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                if matches!(name.as_str(), "private_key" | "privateKey" | "password") {
                    *value = json!({"inline_bytes": "W3JlZGFjdGVkXQ=="});
                } else {
                    redact(value);
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(redact),
        _ => {}
    }
}
