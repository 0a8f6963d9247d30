//! What a mesh, a `Sidecar` or a patch changes of clusters and listeners that are otherwise as always.

use std::collections::BTreeSet;

use model::{Interception, Resolution, Service};
use protos::envoy::config::cluster::v3 as cluster;
use protos::envoy::extensions::upstreams::http::v3 as upstreams;
use serde_json::{Value, json};

use super::listeners::{listeners, manager};
use super::policy::{clusters, world};
use super::{Outcome, flag, inputs, made, number, router, service, sidecar, word};
use crate::common::literal::{self, message, object, same, texts};

fn one_port(host: &str, number: u64, protocol: &str) -> Service {
    service(&json!({"Hostname": host, "Attributes": {"Namespace": "default"},
        "Ports": [{"Name": "p", "Port": number, "Protocol": protocol}]}))
}

/// Listeners of services on ports that a proxy may not be able to bind.
fn privileged(v: &Value) -> Result<(), String> {
    let ports: Vec<u64> = match v["ports"]["args"].as_array() {
        Some(lists) => {
            lists.iter().flat_map(|l| l.as_array().into_iter().flatten()).filter_map(Value::as_u64).collect()
        }
        None => v["ports"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect(),
    };
    for port in ports {
        let mut proxy = sidecar("default");
        proxy.unprivileged = flag(&v["unprivileged"]);
        if word(&v["mode"]) == "NONE" {
            proxy.interception = Interception::None;
        }
        let services = vec![one_port("test.com", port, "HTTP")];
        let all = listeners(&world(&json!({}), proxy, services, Vec::new(), true));
        let found = all.iter().any(|l| l.name.ends_with(&format!("_{port}")));
        if found != flag(&v["expectListener"]) {
            return Err(format!("{port}: {found}"));
        }
    }
    Ok(())
}

/// Whether the two listeners are there that captured connections come to.
fn captured(v: &Value) -> Result<(), String> {
    let mode = v["mode"].as_str().or(v["mode"]["args"][0].as_str()).unwrap_or_default();
    let fields = [("INTERCEPTION_MODE".to_owned(), translate::wire::text_value(mode))];
    let metadata = prost_types::Struct { fields: fields.into_iter().collect() };
    let proxy = model::Proxy::from_node("sidecar~1.1.1.1~app.default~default.svc.cluster.local", &metadata, "")
        .map_err(|e| format!("{e:?}"))?;
    let names: BTreeSet<String> =
        listeners(&inputs(&json!({}), proxy, Vec::new())).into_iter().map(|l| l.name).collect();
    same(names.contains("virtualInbound") && names.contains("virtualOutbound"), true)
}

/// A service that stands for whatever is asked for below a wildcard.
fn dynamic_dns(v: &Value) -> Result<(), String> {
    let mut s = one_port("*.svc.cluster.local", v["port"].as_u64().unwrap_or(0), word(&v["protocol"]));
    s.resolution = Resolution::DynamicDns;
    s.mesh_external = true;
    let mut rules = Vec::new();
    if !v["destinationRule"].is_null() {
        rules.push(made("DestinationRule", "r", "default", literal::plain(&v["destinationRule"]))?);
    }
    let all = clusters(&world(&json!({}), sidecar("default"), vec![s], rules, true))?;
    let c = all.get(&format!("outbound|{}||*.svc.cluster.local", v["port"]));
    same(c.is_some(), flag(&v["expectCluster"]))?;
    let Some(c) = c else { return Ok(()) };
    same(c.transport_socket.is_some(), flag(&v["expectTransportTLS"]))?;
    let options: upstreams::HttpProtocolOptions = c
        .typed_extension_protocol_options
        .get(translate::cluster::HTTP_OPTIONS)
        .and_then(|any| protos::unpack(any).ok())
        .unwrap_or_default();
    let http = options.upstream_http_protocol_options.unwrap_or_default();
    if flag(&v["validateTLS"]) {
        same(
            (http.auto_sni, http.auto_san_validation),
            (flag(&v["expectAutoSni"]), flag(&v["expectAutoSanValidation"])),
        )?;
    }
    Ok(())
}

/// The services that an inbound cluster's metadata names.
fn inbound_metadata(v: &Value) -> Outcome {
    let instances = v["svcInsts"].as_array()?;
    if word(&v["direction"]) != "inbound" || v["cluster"].is_null() || instances.is_empty() {
        return None;
    }
    Some((|| {
        let mut inputs = inputs(&json!({}), sidecar("default"), Vec::new());
        let view = std::sync::Arc::make_mut(&mut inputs.view);
        for i in instances {
            let n = number(&i["Port"]["ServicePort"]["Port"]);
            let port = super::port(&json!({"Name": "p", "Port": n, "Protocol": "HTTP"}));
            let service = std::sync::Arc::new(service(&i["Service"]));
            view.targets.push(model::ServiceTarget { service, port, target_port: n });
        }
        let all = clusters(&inputs)?;
        let c = all.get("inbound|80||").ok_or("no cluster")?;
        let services = |m: Option<&protos::envoy::config::core::v3::Metadata>| {
            m.and_then(|m| m.filter_metadata.get("istio")).and_then(|s| s.fields.get("services").cloned())
        };
        let want = if v["want"].is_null() { None } else { Some(message(&v["want"])?) };
        same(services(c.metadata.as_ref()), services(want.as_ref()))
    })())
}

/// Keep-alive of the mesh, of a rule, and of a rule that leaves it to the system.
fn keepalive(v: &Value) -> Result<(), String> {
    let rule = word(&v["rule"]["$ident"]);
    // Each level states its own time: the mesh 11 seconds, the rule 21.
    let mesh = if rule == "iota" { json!({}) } else { json!({"tcpKeepalive": {"time": "11s"}}) };
    let own = match rule {
        "DestinationRule" => Some(json!({"time": "21s"})),
        "DestinationRuleForOsDefault" => Some(json!({})),
        _ => None,
    };
    let mut rules = Vec::new();
    if let Some(own) = own {
        let policy = json!({"connectionPool": {"tcp": {"tcpKeepalive": own}}});
        rules.push(made("DestinationRule", "r", "default", json!({"host": "test.com", "trafficPolicy": policy}))?);
    }
    let services = vec![one_port("test.com", 8080, "HTTP")];
    let all = clusters(&world(&mesh, sidecar("default"), services, rules, true))?;
    let c = all.get("outbound|8080||test.com").ok_or("no cluster")?;
    let got = c.upstream_connection_options.as_ref().and_then(|o| o.tcp_keepalive);
    let want = if v["keepalive"].is_null() { None } else { Some(message(&v["keepalive"])?) };
    same(got, want)
}

/// `assert.Equal(t, VALUE, cs.GetFIELD()…)` lines on connection settings.
fn edge_profile(v: &Value) -> Result<(), String> {
    if v["cs"].is_null() {
        // Nothing stated stays nothing.
        let inputs = inputs(&json!({}), router("default"), Vec::new());
        return same(translate::listener::connection::settings(&inputs).is_none(), true);
    }
    let node = if word(&v["nodeType"]) == "router" { names::NodeType::Router } else { names::NodeType::Sidecar };
    let s = translate::listener::connection::with_profile(object(&v["cs"])?, node);
    fn shown<T: std::fmt::Debug>(value: Option<T>) -> String {
        value.map_or("nil".to_owned(), |v| format!("{v:?}"))
    }
    let seconds = |d: Option<api::Duration>| d.map_or("nil".to_owned(), |d| d.to_std().as_secs().to_string());
    let plain = |text: &str| text.replace('_', "").to_lowercase();
    for line in word(&v["verify"]["$func"]).lines().map(str::trim) {
        let Some(arguments) = line.strip_prefix("assert.Equal(t, ").and_then(|l| l.strip_suffix(')')) else {
            continue;
        };
        let (want, expression) = arguments.rsplit_once(", cs.Get").ok_or(line)?;
        let got = match expression.split("()").next().unwrap_or_default() {
            "ListenerPerConnectionBufferLimitBytes" => shown(s.listener_per_connection_buffer_limit_bytes),
            "ClusterPerConnectionBufferLimitBytes" => shown(s.cluster_per_connection_buffer_limit_bytes),
            "HttpMaxConcurrentStreams" => shown(s.http_max_concurrent_streams),
            "Http2InitialStreamWindowSize" => shown(s.http2_initial_stream_window_size),
            "Http2InitialConnectionWindowSize" => shown(s.http2_initial_connection_window_size),
            "HttpMergeSlashes" => shown(s.http_merge_slashes),
            "HttpIdleTimeout" => seconds(s.http_idle_timeout),
            "HttpRequestTimeout" => seconds(s.http_request_timeout),
            "HttpStreamIdleTimeout" => seconds(s.http_stream_idle_timeout),
            "HttpPathWithEscapedSlashesAction" => format!("{:?}", s.http_path_with_escaped_slashes_action),
            "HttpHeadersWithUnderscoresAction" => format!("{:?}", s.http_headers_with_underscores_action),
            other => return Err(format!("not understood: {other}")),
        };
        let value = match want {
            "time.Hour" => "3600".to_owned(),
            "5*time.Minute" | "5 * time.Minute" => "300".to_owned(),
            w => w.rsplit_once('(').map_or(w, |(_, n)| n).trim_end_matches(')').to_owned(),
        };
        if value != got && !plain(&value).ends_with(&plain(&got)) {
            return Err(format!("{line}: {got}"));
        }
    }
    Ok(())
}

/// Buffers and time limits of a gateway's listener.
fn gateway_settings(v: &Value) -> Result<(), String> {
    let mut proxy = router("default");
    let stated = literal::plain(&v["cs"]);
    if stated.is_object() {
        proxy.proxy_config = json!({"connectionSettings": stated});
    }
    let server = json!({"hosts": ["*"], "port": {"name": "http", "number": 8080, "protocol": "HTTP"}});
    let gateway =
        made("Gateway", "g", "default", json!({"selector": {"istio": "ingressgateway"}, "servers": [server]}))?;
    let all = listeners(&inputs(&json!({}), proxy, vec![gateway]));
    let l = all.first().ok_or("no listener")?;
    let m = l.filter_chains.iter().flat_map(|c| &c.filters).find_map(manager).ok_or("no manager")?;
    let numbers = |code: &str| -> Option<String> {
        let line = code.lines().map(str::trim).find(|l| l.starts_with("assert.Equal("))?;
        let value = line["assert.Equal(t, ".len()..].rsplit_once(", ")?.0;
        Some(value.rsplit_once('(')?.1.trim_end_matches(')').to_owned())
    };
    let buffer = l.per_connection_buffer_limit_bytes.map_or("nil".to_owned(), |b| b.to_string());
    same(Some(buffer), numbers(word(&v["verifyBuf"]["$func"])))?;
    let idle = m.stream_idle_timeout.map_or(0, |d| d.seconds).to_string();
    same(Some(idle), numbers(word(&v["verifyHCM"]["$func"])))
}

fn patched(v: &Value) -> Result<(), String> {
    let mut filters = Vec::new();
    for (n, f) in v["efs"].as_array().into_iter().flatten().enumerate() {
        filters.push(made("EnvoyFilter", &format!("f{n}"), "istio-system", literal::plain(f))?);
    }
    let proxy = if word(&v["proxy"]) == "router" { router("default") } else { sidecar("default") };
    let all = clusters(&world(&json!({}), proxy, vec![service(&v["svc"])], filters, true))?;
    same(all.into_keys().collect::<BTreeSet<_>>(), texts(&v["want"]).into_iter().collect())
}

fn services_equal(v: &Value) -> Result<(), String> {
    let of = |v: &Value| {
        let mut s = service(v);
        s.external_name = v["Attributes"]["K8sAttributes"]["ExternalName"].as_str().map(Into::into);
        s.subject_alt_names = texts(&v["ServiceAccounts"]);
        s
    };
    same(of(&v["first"]) == of(&v["other"]), flag(&v["shouldEq"]))
}

/// Connection pools of a `Sidecar` and of a rule, as circuit breakers and time limits of clusters.
fn pools(v: &Value) -> Result<(), String> {
    let mut s = service(&json!({"Hostname": "*.example.org", "Attributes": {"Namespace": "default"},
        "Ports": [{"Name": "default", "Port": 8080, "Protocol": "HTTP"}]}));
    s.resolution = Resolution::ClientSideLb;
    let mut resources = vec![made("DestinationRule", "r", "default", literal::plain(&v["destrule"]))?];
    let sidecar_spec = literal::plain(&v["sidecar"]);
    if sidecar_spec.is_object() {
        resources.push(made("Sidecar", "sc", "default", sidecar_spec)?);
    }
    let of = |resources: Vec<api::Resource>| {
        let mut inputs = world(&json!({}), sidecar("default"), vec![s.clone()], resources, true);
        let view = std::sync::Arc::make_mut(&mut inputs.view);
        for n in [10001, 10002] {
            let service = std::sync::Arc::new(s.clone());
            view.targets.push(model::ServiceTarget { service, port: s.ports[0].clone(), target_port: n });
        }
        clusters(&inputs)
    };
    let all = of(resources)?;
    for (name, pool) in v["want"].as_object().into_iter().flatten() {
        let got = all.get(name).ok_or_else(|| format!("no {name}: {:?}", all.keys()))?;
        // What the same pool makes of a cluster when it is stated in a rule for it alone.
        let pool = literal::plain(pool);
        let policy = if pool.is_object() { json!({"connectionPool": pool}) } else { json!({}) };
        let rule = made("DestinationRule", "r", "default", json!({"host": "*.example.org", "trafficPolicy": policy}))?;
        let want = of(vec![rule])?.get("outbound|8080||*.example.org").cloned().ok_or("no cluster")?;
        let facts = |c: &cluster::Cluster| {
            let t = c.circuit_breakers.as_ref().and_then(|b| b.thresholds.first().cloned()).unwrap_or_default();
            let keepalive = c.upstream_connection_options.as_ref().and_then(|o| o.tcp_keepalive);
            ((t.max_connections, t.max_requests, t.max_retries, t.max_pending_requests), c.connect_timeout, keepalive)
        };
        same(facts(got), facts(&want)).map_err(|e| format!("{name}: {e}"))?;
    }
    Ok(())
}

pub fn serve(func: &str, v: &Value) -> Outcome {
    Some(match func {
        "testPrivilegedPorts" => privileged(v),
        "TestVirtualListeners_TrafficRedirectionEnabled" => captured(v),
        "TestSidecarDynamicDNSClusters" => dynamic_dns(v),
        "TestTelemetryMetadata" => return inbound_metadata(v),
        "TestBuildSidecarClustersWithMeshWideTCPKeepalive" => keepalive(v),
        "TestApplyEdgeProfileDefaults" => edge_profile(v),
        "TestGatewayListenerConnectionSettings" => gateway_settings(v),
        "TestEnvoyFilterPatching" => patched(v),
        "TestServicesEqual" => services_equal(v),
        "TestConnectionPoolSettings" => pools(v),
        _ => return None,
    })
}
