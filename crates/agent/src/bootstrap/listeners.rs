//! Which listeners does the proxy have before the control plane speaks? Prometheus on 15090, readiness on 15021,
//! metrics over mTLS where asked for.

use serde_json::{Value, json};

use super::clusters::sds;
use super::{Inputs, type_url};

const HCM: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

/// What tells one static listener from another.
struct Of<'a> {
    port: u16,
    stat_prefix: &'a str,
    prefix: &'a str,
    cluster: &'a str,
    filters: Vec<Value>,
    /// Only for this pod.
    local: bool,
    /// Only for clients with a certificate of the mesh.
    mtls: bool,
}

/// All static listeners: metrics, readiness, and where asked for the same metrics once more over mTLS, of the proxy alone
/// (`ENVOY_SECURE_METRICS_PORT`) and merged by the agent (`ENVOY_SECURE_MERGED_METRICS_PORT`).
pub(super) fn build(inputs: &Inputs<'_>) -> Vec<Value> {
    let port = |name: &str| {
        let meta = inputs.node.metadata.get(name).and_then(Value::as_u64);
        meta.and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0)
    };
    let mut filters = Vec::new();
    if inputs.config.get("/statsCompression").and_then(Value::as_bool) != Some(false) {
        filters.extend(["brotli", "zstd", "gzip"].map(compressor));
    }
    let metrics = Of {
        port: port("ENVOY_PROMETHEUS_PORT").unwrap_or(15090),
        stat_prefix: "stats",
        prefix: "/stats/prometheus",
        cluster: "prometheus_stats",
        filters: filters.clone(),
        local: inputs.metrics_local_only,
        mtls: false,
    };
    let readiness = Of {
        port: port("ENVOY_STATUS_PORT").unwrap_or(15021),
        stat_prefix: "agent",
        prefix: "/healthz/ready",
        cluster: "agent",
        filters: Vec::new(),
        local: false,
        mtls: false,
    };
    let secure = |name: &str, cluster, filters| {
        let (stat_prefix, prefix) = ("secure_stats", "/stats/prometheus");
        port(name).map(|port| Of { port, stat_prefix, prefix, cluster, filters, local: false, mtls: true })
    };
    // The agent compresses what it merges itself.
    let further = [
        secure("ENVOY_SECURE_METRICS_PORT", "prometheus_stats", filters),
        secure("ENVOY_SECURE_MERGED_METRICS_PORT", "agent", Vec::new()),
    ];
    [metrics, readiness].into_iter().chain(further.into_iter().flatten()).map(|of| listener(inputs, of)).collect()
}

fn listener(inputs: &Inputs<'_>, of: Of<'_>) -> Value {
    let Of { port, stat_prefix, prefix, cluster, mut filters, local, mtls } = of;
    let (v4, v6) = if local { ("127.0.0.1", "::1") } else { ("0.0.0.0", "::") };
    let (bind, other) = if inputs.ipv6_only { (v6, v4) } else { (v4, v6) };
    filters.push(json!({
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": type_url("envoy.extensions.filters.http.router.v3.Router")},
    }));
    let mut out = json!({
        "name": format!("{bind}_{port}"),
        "address": {"socket_address": {"protocol": "TCP", "address": bind, "port_value": port}},
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
    if mtls {
        out["filter_chains"][0]["transport_socket"] = json!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": type_url("envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"),
                "require_client_certificate": true,
                "common_tls_context": {
                    "alpn_protocols": ["h2", "http/1.1"],
                    "tls_certificate_sds_secret_configs": [sds("default")],
                    "combined_validation_context": {
                        "default_validation_context": {},
                        "validation_context_sds_secret_config": sds("ROOTCA"),
                    },
                },
            },
        });
    }
    if inputs.dual_stack {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ProxyConfig;
    use crate::node::{self, Facts};

    fn made(env: &[(&str, &str)], metrics_local_only: bool) -> Vec<Value> {
        let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let facts = Facts { env, prometheus_port: 15090, status_port: 15021, ..Facts::default() };
        let config = ProxyConfig::defaults();
        let node = node::node("sidecar~10.0.0.1~a.b~b.svc.cluster.local", &facts, &config);
        build(&Inputs {
            node: &node,
            config: &config,
            xds_socket: "XDS".into(),
            sds_socket: "SDS".into(),
            ipv6_only: false,
            dual_stack: false,
            admin_socket: None,
            metrics_local_only,
        })
    }

    #[test]
    fn secure_metrics_want_a_certificate_of_the_mesh() {
        let none = made(&[("ENVOY_SECURE_METRICS_PORT", "0")], false);
        assert_eq!(none.len(), 2);
        assert_eq!(none[0]["address"]["socket_address"]["address"], "0.0.0.0");
        let env = [("ENVOY_SECURE_METRICS_PORT", "15091"), ("ENVOY_SECURE_MERGED_METRICS_PORT", "15092")];
        let all = made(&env, true);
        assert_eq!(all[0]["address"]["socket_address"]["address"], "127.0.0.1");
        let of = |listener: &Value| {
            let chain = &listener["filter_chains"][0];
            let routes = "/filters/0/typed_config/route_config/virtual_hosts/0/routes/0/route/cluster";
            let tls = &chain["transport_socket"]["typed_config"];
            (listener["name"].clone(), chain.pointer(routes).cloned(), tls["require_client_certificate"] == true)
        };
        assert_eq!(of(&all[2]), ("0.0.0.0_15091".into(), Some("prometheus_stats".into()), true));
        assert_eq!(of(&all[3]), ("0.0.0.0_15092".into(), Some("agent".into()), true));
    }
}
