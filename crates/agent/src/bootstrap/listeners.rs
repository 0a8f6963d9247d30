//! Which listeners does the proxy have before the control plane speaks? Prometheus on 15090, readiness on 15021.

use serde_json::{Value, json};

use super::{Inputs, type_url};

const HCM: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

/// Both static listeners.
pub(super) fn build(inputs: &Inputs<'_>) -> Vec<Value> {
    let port = |name: &str, default: u16| {
        let meta = inputs.node.metadata.get(name).and_then(Value::as_u64);
        meta.and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0).unwrap_or(default)
    };
    let mut filters = Vec::new();
    if inputs.config.get("/statsCompression").and_then(Value::as_bool) != Some(false) {
        filters.extend(["brotli", "zstd", "gzip"].map(compressor));
    }
    vec![
        listener(
            inputs,
            port("ENVOY_PROMETHEUS_PORT", 15090),
            "stats",
            "/stats/prometheus",
            "prometheus_stats",
            filters,
        ),
        listener(inputs, port("ENVOY_STATUS_PORT", 15021), "agent", "/healthz/ready", "agent", Vec::new()),
    ]
}

fn listener(
    inputs: &Inputs<'_>,
    port: u16,
    stat_prefix: &str,
    prefix: &str,
    cluster: &str,
    mut filters: Vec<Value>,
) -> Value {
    let wildcard = if inputs.ipv6_only { "::" } else { "0.0.0.0" };
    filters.push(json!({
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": type_url("envoy.extensions.filters.http.router.v3.Router")},
    }));
    let mut out = json!({
        "name": format!("{wildcard}_{port}"),
        "address": {"socket_address": {"protocol": "TCP", "address": wildcard, "port_value": port}},
        "ignore_global_conn_limit": true,
        "bypass_overload_manager": true,
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": type_url(HCM),
                "codec_type": "AUTO",
                "stat_prefix": stat_prefix,
                "route_config": {"virtual_hosts": [{
                    "name": "backend",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": prefix}, "route": {"cluster": cluster}}],
                }]},
                "http_filters": filters,
            },
        }]}],
    });
    if inputs.dual_stack {
        let other = if inputs.ipv6_only { "0.0.0.0" } else { "::" };
        out["additional_addresses"] =
            json!([{"address": {"socket_address": {"protocol": "TCP", "address": other, "port_value": port}}}]);
    }
    out
}

fn compressor(name: &str) -> Value {
    let mut kind = name.to_owned();
    kind[..1].make_ascii_uppercase();
    json!({
        "name": format!("envoy.filters.http.compressor.{name}"),
        "typed_config": {
            "@type": type_url("envoy.extensions.filters.http.compressor.v3.Compressor"),
            "compressor_library": {
                "name": format!("stats_{name}"),
                "typed_config": {"@type": type_url(&format!("envoy.extensions.compression.{name}.compressor.v3.{kind}"))},
            },
            "response_direction_config": {"common_config": {"content_type": [
                "text/plain",
                "application/vnd.google.protobuf",
                "application/openmetrics-text",
                "application/openmetrics-protobuf",
            ]}},
        },
    })
}
