//! Which tracer does the bootstrap set up? Zipkin, Lightstep, Datadog or OpenCensus of the proxy configuration.

use serde_json::{Value, json};

use super::clusters::{dns, transport_socket};
use super::{http2, socket_address, type_url};
use crate::config::ProxyConfig;

fn address(config: &ProxyConfig, tracer: &str) -> Option<Value> {
    socket_address(config.text(&format!("/tracing/{tracer}/address")))
}

/// Clusters of the collector.
pub(super) fn clusters(config: &ProxyConfig) -> Vec<Value> {
    let tls = config.get("/tracing/tlsSettings");
    let mut out = Vec::new();
    if let Some(address) = address(config, "zipkin") {
        let host = address["socket_address"]["address"].as_str().unwrap_or_default().to_owned();
        let mut cluster = dns("zipkin", address);
        cluster["dns_refresh_rate"] = "30s".into();
        if let Some(socket) = tls.and_then(|t| transport_socket(t, Some(&host), false)) {
            cluster["transport_socket"] = socket;
        }
        out.push(cluster);
    }
    if let Some(address) = address(config, "lightstep") {
        let mut cluster = dns("lightstep", address);
        cluster["typed_extension_protocol_options"] = http2();
        if let Some(socket) = tls.and_then(|t| transport_socket(t, None, true)) {
            cluster["transport_socket"] = socket;
        }
        out.push(cluster);
    }
    if let Some(address) = address(config, "datadog") {
        let mut cluster = dns("datadog_agent", address);
        if let Some(socket) = tls.and_then(|t| transport_socket(t, None, false)) {
            cluster["transport_socket"] = socket;
        }
        out.push(cluster);
    }
    out
}

/// The tracer itself.
pub(super) fn config(config: &ProxyConfig) -> Option<Value> {
    let http = if address(config, "zipkin").is_some() {
        json!({
            "name": "envoy.tracers.zipkin",
            "typed_config": {
                "@type": type_url("envoy.config.trace.v3.ZipkinConfig"),
                "collector_cluster": "zipkin",
                "collector_endpoint": "/api/v2/spans",
                "collector_endpoint_version": "HTTP_JSON",
                "trace_id_128bit": true,
                "shared_span_context": false,
            },
        })
    } else if address(config, "lightstep").is_some() {
        json!({
            "name": "envoy.tracers.lightstep",
            "typed_config": {
                "@type": type_url("envoy.config.trace.v3.LightstepConfig"),
                "collector_cluster": "lightstep",
                "access_token_file": lightstep_token(config),
            },
        })
    } else if address(config, "datadog").is_some() {
        json!({
            "name": "envoy.tracers.datadog",
            "typed_config": {
                "@type": type_url("envoy.config.trace.v3.DatadogConfig"),
                "collector_cluster": "datadog_agent",
                "service_name": config.text("/serviceCluster"),
            },
        })
    } else {
        return None;
    };
    Some(json!({"http": http}))
}

/// Lightstep's token is put in a file beside the bootstrap.
pub fn lightstep_token(config: &ProxyConfig) -> String {
    format!("{}/lightstep_access_token.txt", config.text("/configPath"))
}
