//! What does Envoy start with? The bootstrap of Istio's proxies as JSON, from the node and the proxy configuration.
//! Pure; the same for stock Envoy, `proa proxy` and our proxy in this process.

mod clusters;
mod listeners;
mod stats;
mod tracing;

use serde_json::{Map, Value, json};

use crate::config::ProxyConfig;
use crate::node::Node;

/// All that the bootstrap depends on.
#[derive(Debug, Clone)]
pub struct Inputs<'a> {
    /// Who we are.
    pub node: &'a Node,
    /// How we are configured.
    pub config: &'a ProxyConfig,
    /// Unix socket of the xDS relay.
    pub xds_socket: String,
    /// Unix socket of the secret server.
    pub sds_socket: String,
    /// Listen on IPv6 only.
    pub ipv6_only: bool,
    /// Listen on both families.
    pub dual_stack: bool,
    /// The admin interface on a Unix socket that only the proxy's own user may open, instead of on a port of loopback.
    pub admin_socket: Option<String>,
    /// The proxy's plain metrics port listens on loopback only (`METRICS_LOCALHOST_ACCESS_ONLY`).
    pub metrics_local_only: bool,
}

/// Read and write for the owner alone.
const ADMIN_SOCKET_MODE: u32 = 0o600;

/// Annotations that set statistics, by field of the bootstrap.
const FLUSH: &str = "sidecar.istio.io/statsFlushInterval";
const EVICTION: &str = "sidecar.istio.io/statsEvictionInterval";
/// Envoy's default flush interval in seconds; the eviction interval must be a multiple of it.
const FLUSH_DEFAULT_S: f64 = 5.0;
/// The cluster of the proxy's own replicas: how many there are in each zone decides how much traffic stays in the own one.
pub const LOCAL_CLUSTER: &str = "local_cluster";
/// "No limit" of connections, as Istio writes it.
const CONNECTIONS_UNLIMITED: u64 = 2_147_483_647;

/// A static cluster of this name speaking to an address.
pub(crate) fn assignment(name: &str, address: Value) -> Value {
    json!({
        "cluster_name": name,
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
    })
}

/// Speak HTTP/2 to this cluster.
pub(crate) fn http2() -> Value {
    const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    json!({OPTIONS: {"@type": type_url(OPTIONS), "explicit_http_config": {"http2_protocol_options": {}}}})
}

pub(crate) fn type_url(name: &str) -> String {
    format!("type.googleapis.com/{name}")
}

/// `host:port` as a socket address.
pub(crate) fn socket_address(text: &str) -> Option<Value> {
    let (host, port) = text.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    Some(json!({"socket_address": {"address": host.trim_matches(['[', ']']), "port_value": port}}))
}

/// The whole bootstrap.
pub fn bootstrap(inputs: &Inputs<'_>) -> Value {
    let Inputs { node, config, ipv6_only, .. } = inputs;
    let localhost = if *ipv6_only { "::1" } else { "127.0.0.1" };
    let admin_port = config.port("/proxyAdminPort", 15000);
    let admin = match &inputs.admin_socket {
        Some(path) => json!({"pipe": {"path": path, "mode": ADMIN_SOCKET_MODE}}),
        None => json!({"socket_address": {"address": localhost, "port_value": admin_port}}),
    };
    let mut out = json!({
        "application_log_config": {
            "log_format": {"text_format": "%Y-%m-%dT%T.%fZ\t%l\tenvoy %n %g:%#\t%v\tthread=%t"},
        },
        "node": node_json(node),
        "layered_runtime": {"layers": [
            {"name": "global config", "static_layer": runtime(config)},
            {"name": "admin", "admin_layer": {}},
        ]},
        "bootstrap_extensions": [{
            "name": "envoy.bootstrap.internal_listener",
            "typed_config": {
                "@type": type_url("udpa.type.v1.TypedStruct"),
                "type_url": type_url("envoy.extensions.bootstrap.internal_listener.v3.InternalListener"),
                "value": {"buffer_size_kb": 64},
            },
        }],
        "stats_config": stats::config(node, config),
        "admin": {
            "access_log": [{
                "name": "envoy.access_loggers.file",
                "typed_config": {"@type": type_url("envoy.extensions.access_loggers.file.v3.FileAccessLog"), "path": "/dev/null"},
            }],
            "profile_path": "/var/lib/istio/data/envoy.prof",
            "address": admin,
        },
        "dynamic_resources": dynamic_resources(node),
        "static_resources": {
            "clusters": clusters::build(inputs, localhost, admin_port),
            "listeners": listeners::build(inputs),
        },
        "overload_manager": {"resource_monitors": [{
            "name": "envoy.resource_monitors.global_downstream_max_connections",
            "typed_config": {
                "@type": type_url("envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"),
                "max_active_downstream_connections": connections_max(node, config),
            },
        }]},
        "cluster_manager": {"enable_deferred_cluster_creation": true},
        "deferred_stat_options": {"enable_deferred_creation_stats": true},
    });
    if is_self_discovering(node) {
        out["cluster_manager"]["local_cluster_name"] = LOCAL_CLUSTER.into();
    }
    if let Some(path) = text(node, "OUTLIER_LOG_PATH") {
        out["cluster_manager"]["outlier_detection"] = json!({"event_log_path": path});
    }
    if let Some(tracing) = tracing::config(config) {
        out["tracing"] = tracing;
    }
    let sinks = stats::sinks(config);
    if !sinks.is_empty() {
        out["stats_sinks"] = sinks.into();
    }
    let (flush, eviction) = intervals(node);
    if let Some(flush) = flush {
        out["stats_flush_interval"] = flush.into();
    }
    if let Some(eviction) = eviction {
        out["stats_eviction_interval"] = eviction.into();
    }
    out
}

fn node_json(node: &Node) -> Value {
    let mut locality = Map::new();
    for (name, value) in ["region", "zone", "sub_zone"].into_iter().zip(&node.locality).filter(|(_, v)| !v.is_empty()) {
        locality.insert(name.to_owned(), value.as_str().into());
    }
    json!({"id": node.id, "cluster": node.cluster, "locality": locality, "metadata": node.metadata})
}

fn runtime(config: &ProxyConfig) -> Value {
    let mut layer = json!({
        "envoy.deprecated_features:envoy.config.listener.v3.Listener.hidden_envoy_deprecated_use_original_dst": true,
        "envoy.reloadable_features.http_reject_path_with_fragment": false,
        "envoy.reloadable_features.coalesce_lb_rebuilds_on_batch_update": false,
        "envoy.reloadable_features.fixed_heap_use_allocated": true,
        "re2.max_program_size.error_level": "32768",
    });
    if let (Some(layer), Some(values)) =
        (layer.as_object_mut(), config.get("/runtimeValues").and_then(Value::as_object))
    {
        for (name, value) in values {
            // An empty value takes a default away.
            if value.as_str() == Some("") {
                layer.shift_remove(name);
            } else {
                layer.insert(name.clone(), value.clone());
            }
        }
    }
    layer
}

/// Whether the proxy asks for its own replicas (`ISTIO_META_ENABLE_SELF_DISCOVERY`).
fn is_self_discovering(node: &Node) -> bool {
    let said = node.metadata.get("ENABLE_SELF_DISCOVERY");
    said.is_some_and(|v| *v == Value::Bool(true) || matches!(v.as_str(), Some("true" | "1")))
}

fn dynamic_resources(node: &Node) -> Value {
    let ads = json!({"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"});
    let delta = text(node, "PROXY_XDS_MODE").as_deref() != Some("SOTW");
    json!({
        "lds_config": ads,
        "cds_config": ads,
        "ads_config": {
            "api_type": if delta { "DELTA_GRPC" } else { "GRPC" },
            "set_node_on_first_message_only": true,
            "transport_api_version": "V3",
            "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc"}}],
        },
    })
}

/// Metadata first, then the runtime value, then no limit.
fn connections_max(node: &Node, config: &ProxyConfig) -> u64 {
    let parse = |v: &Value| v.as_u64().or_else(|| v.as_str()?.parse().ok());
    let meta = node.metadata.get("GLOBAL_DOWNSTREAM_MAX_CONNECTIONS").and_then(parse);
    let values = config.get("/runtimeValues").and_then(Value::as_object);
    let runtime = || parse(values?.get("overload.global_downstream_max_connections")?);
    meta.or_else(runtime).unwrap_or(CONNECTIONS_UNLIMITED)
}

/// Flush and eviction interval from the annotations; an eviction that is no multiple of the flush is dropped, as
/// Envoy would refuse it.
fn intervals(node: &Node) -> (Option<String>, Option<String>) {
    let annotation = |name: &str| node.metadata.get("ANNOTATIONS")?.get(name)?.as_str().map(str::to_owned);
    let seconds = |text: &str| api::Duration::parse(text).map(|d| d.to_std().as_secs_f64());
    let flush = annotation(FLUSH).filter(|t| seconds(t).is_some());
    let per = flush.as_deref().and_then(seconds).unwrap_or(FLUSH_DEFAULT_S);
    let eviction = annotation(EVICTION).filter(|t| seconds(t).is_some_and(|s| s > 0.0 && (s / per).fract() == 0.0));
    (flush, eviction)
}

pub(crate) fn text(node: &Node, key: &str) -> Option<String> {
    node.metadata.get(key)?.as_str().filter(|s| !s.is_empty()).map(str::to_owned)
}
