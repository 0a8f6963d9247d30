//! Which clusters does the proxy know before the control plane speaks? Its own admin and agent, the two sockets, and
//! those of tracing and metrics services.

use serde_json::{Value, json};

use super::{Inputs, LOCAL_CLUSTER, assignment, http2, is_self_discovering, socket_address, tracing, type_url};

/// All static clusters.
pub(super) fn build(inputs: &Inputs<'_>, localhost: &str, admin: u16) -> Vec<Value> {
    let config = inputs.config;
    let local = |port: u16| json!({"socket_address": {"protocol": "TCP", "address": localhost, "port_value": port}});
    let pipe = |path: &str| json!({"pipe": {"path": path}});
    let mut out = vec![
        plain("prometheus_stats", "0.250s", inputs.admin_socket.as_deref().map_or_else(|| local(admin), pipe)),
        plain("agent", "0.250s", local(config.port("/statusPort", 15020))),
    ];
    let mut sds = plain("sds-grpc", "1s", pipe(&inputs.sds_socket));
    sds["typed_extension_protocol_options"] = http2();
    out.push(sds);
    let mut xds = plain("xds-grpc", "1s", pipe(&inputs.xds_socket));
    let threshold = |priority: &str| json!({"priority": priority, "max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000});
    xds["circuit_breakers"] = json!({"thresholds": [threshold("DEFAULT"), threshold("HIGH")]});
    xds["upstream_connection_options"] = json!({"tcp_keepalive": {"keepalive_time": 300}});
    xds["max_requests_per_connection"] = 1.into();
    xds["typed_extension_protocol_options"] = http2();
    out.push(xds);
    if is_self_discovering(inputs.node) {
        out.push(json!({
            "name": LOCAL_CLUSTER,
            "type": "EDS",
            "connect_timeout": "1s",
            "lb_policy": "ROUND_ROBIN",
            "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3"}},
        }));
    }
    out.extend(tracing::clusters(config));
    for (name, field) in
        [("envoy_metrics_service", "/envoyMetricsService"), ("envoy_accesslog_service", "/envoyAccessLogService")]
    {
        if let Some(address) = socket_address(config.text(&format!("{field}/address"))) {
            let mut cluster = dns(name, address);
            cluster["typed_extension_protocol_options"] = http2();
            if let Some(tls) = config.get(&format!("{field}/tlsSettings")).and_then(|t| transport_socket(t, None, true))
            {
                cluster["transport_socket"] = tls;
            }
            if let Some(keepalive) = config.get(&format!("{field}/tcpKeepalive")).and_then(keepalive) {
                cluster["upstream_connection_options"] = json!({"tcp_keepalive": keepalive});
            }
            out.push(cluster);
        }
    }
    out
}

fn plain(name: &str, timeout: &str, address: Value) -> Value {
    json!({
        "name": name,
        "alt_stat_name": format!("{name};"),
        "type": "STATIC",
        "connect_timeout": timeout,
        "lb_policy": "ROUND_ROBIN",
        "load_assignment": assignment(name, address),
    })
}

/// A cluster found by DNS.
pub(super) fn dns(name: &str, address: Value) -> Value {
    json!({
        "name": name,
        "alt_stat_name": format!("{name};"),
        "type": "STRICT_DNS",
        "respect_dns_ttl": true,
        "dns_lookup_family": "V4_ONLY",
        "connect_timeout": "1s",
        "lb_policy": "ROUND_ROBIN",
        "load_assignment": assignment(name, address),
    })
}

/// A secret by its name, from the agent.
pub(super) fn sds(name: &str) -> Value {
    json!({"name": name, "sds_config": {
        "api_config_source": {
            "api_type": "GRPC",
            "grpc_services": [{"envoy_grpc": {"cluster_name": "sds-grpc"}}],
            "set_node_on_first_message_only": true,
            "transport_api_version": "V3",
        },
        "resource_api_version": "V3",
    }})
}

fn keepalive(settings: &Value) -> Option<Value> {
    let seconds = |name: &str| {
        let duration = api::Duration::parse(settings.get(name)?.as_str()?)?;
        Some(Value::from(duration.to_std().as_secs()))
    };
    let fields = [
        ("keepalive_probes", settings.get("probes").cloned()),
        ("keepalive_time", seconds("time")),
        ("keepalive_interval", seconds("interval")),
    ];
    let set = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Some(Value::Object(set.collect()))
}

/// Client TLS of a `ClientTLSSettings`: certificates from files through the secret server. `None`: no TLS.
pub(super) fn transport_socket(tls: &Value, default_sni: Option<&str>, http2: bool) -> Option<Value> {
    let text = |name: &str| tls.get(name).and_then(Value::as_str).unwrap_or_default();
    let mode = match text("mode") {
        "" | "DISABLE" => return None,
        mode => mode,
    };
    let sds = |name: String| sds(&name);
    let mut validation = json!({});
    let sans = tls.get("subjectAltNames").and_then(Value::as_array).cloned().unwrap_or_default();
    if !sans.is_empty() {
        let matchers = sans.iter().map(|s| json!({"exact": s}));
        validation["match_subject_alt_names"] = matchers.collect();
    }
    let mut common = json!({});
    if http2 {
        common["alpn_protocols"] = json!(["h2"]);
    }
    let (certificate, root) = match mode {
        "ISTIO_MUTUAL" => (Some("default".to_owned()), Some("ROOTCA".to_owned())),
        _ => {
            let pair = format!("file-cert:{}~{}", text("clientCertificate"), text("privateKey"));
            let ca = Some(text("caCertificates")).filter(|c| !c.is_empty());
            ((mode == "MUTUAL").then_some(pair), ca.map(|ca| format!("file-root:{ca}")))
        }
    };
    if let Some(root) = root {
        common["combined_validation_context"] =
            json!({"default_validation_context": validation, "validation_context_sds_secret_config": sds(root)});
    }
    if let Some(certificate) = certificate {
        common["tls_certificate_sds_secret_configs"] = json!([sds(certificate)]);
    }
    let mut context = json!({
        "@type": type_url("envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"),
        "common_tls_context": common,
    });
    let sni = Some(text("sni")).filter(|s| !s.is_empty()).or(default_sni);
    if let Some(sni) = sni {
        context["sni"] = sni.into();
    }
    Some(json!({"name": "envoy.transport_sockets.tls", "typed_config": context}))
}
