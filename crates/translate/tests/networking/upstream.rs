//! How clusters reach their hosts: load balancing, pools, TLS that is detected, fixed clusters.

use model::{Resolution, Service};
use protos::envoy::config::cluster::v3 as cluster;
use protos::envoy::config::core::v3 as core;
use protos::envoy::extensions::transport_sockets::tls::v3 as tls;
use protos::envoy::extensions::upstreams::http::v3 as upstreams;
use serde_json::{Value, json};

use super::policy::{clusters, world};
use super::{Outcome, flag, made, service, sidecar, word};
use crate::common::literal::{self, message, same, texts};

const NAME: &str = "outbound|80||foo.com";

fn foo(protocol: &str, resolution: Resolution) -> Service {
    let mut s = service(&json!({"Hostname": "foo.com", "Attributes": {"Namespace": "bar"},
        "Ports": [{"Name": "p", "Port": 80, "Protocol": protocol}]}));
    s.resolution = resolution;
    s
}

/// The cluster of a service under a traffic policy.
fn under(s: Service, policy: Value) -> Result<cluster::Cluster, String> {
    let rule = made("DestinationRule", "r", "bar", json!({"host": "foo.com", "trafficPolicy": policy}))?;
    let all = clusters(&world(&json!({}), sidecar("bar"), vec![s], vec![rule], true))?;
    all.get(NAME).cloned().ok_or_else(|| "no cluster".to_owned())
}

fn resolution(discovery: &str) -> Resolution {
    match discovery {
        "STRICT_DNS" => Resolution::DnsLb,
        "LOGICAL_DNS" => Resolution::DnsRoundRobin,
        "ORIGINAL_DST" => Resolution::Passthrough,
        _ => Resolution::ClientSideLb,
    }
}

fn load_balancer(v: &Value) -> Outcome {
    // Switches of the original's environment about hosts that are not healthy.
    if v.as_object()?.keys().any(|k| k.to_lowercase().contains("unhealthy")) {
        return None;
    }
    Some((|| {
        let protocol = v["port"]["Protocol"].as_str().unwrap_or("HTTP");
        let lb = literal::plain(&v["lbSettings"]);
        let policy = if lb.is_object() { json!({"loadBalancer": lb}) } else { json!({}) };
        let got = under(foo(protocol, resolution(word(&v["discoveryType"]))), policy)?;
        let want = v["expectedLbPolicy"].as_str().unwrap_or("LEAST_REQUEST");
        same(got.lb_policy().as_str_name(), want)?;
        let weighted = got.common_lb_config.as_ref().is_some_and(|c| {
            use cluster::cluster::common_lb_config::LocalityConfigSpecifier as L;
            matches!(c.locality_config_specifier, Some(L::LocalityWeightedLbConfig(_)))
        });
        same(weighted, flag(&v["expectedLocalityWeightedConfig"]))?;
        if flag(&v["expectClusterLoadAssignmenttoBeNil"]) {
            same(got.load_assignment.is_none(), true)?;
        }
        Ok(())
    })())
}

fn pool(v: &Value) -> Result<(), String> {
    let mut policy = json!({"connectionPool": literal::plain(&v["connectionPool"])});
    let budget = literal::plain(&v["retryBudget"]);
    if budget.is_object() {
        policy["retryBudget"] = budget;
    }
    let got = under(foo("HTTP", Resolution::ClientSideLb), policy)?;
    let want: cluster::CircuitBreakers = message(&v["expectedCircuitBreakers"])?;
    same(thresholds(&got), thresholds_of(&want))?;
    let options: Option<upstreams::HttpProtocolOptions> = got
        .typed_extension_protocol_options
        .get(translate::cluster::HTTP_OPTIONS)
        .and_then(|any| protos::unpack(any).ok());
    let common = options.and_then(|o| o.common_http_protocol_options).unwrap_or_default();
    let of = |v: &Value| -> Result<core::HttpProtocolOptions, String> {
        let options: upstreams::HttpProtocolOptions = message(v)?;
        Ok(options.common_http_protocol_options.unwrap_or_default())
    };
    let (before, want) = (of(&v["httpProtocolOptions"])?, of(&v["expectedHTTPPOpt"])?);
    // The table starts from options that a whole cluster does not have.
    same(common.idle_timeout, want.idle_timeout.filter(|t| Some(t) != before.idle_timeout.as_ref()))?;
    let requests = want.max_requests_per_connection;
    same(common.max_requests_per_connection, requests.filter(|_| requests != before.max_requests_per_connection))
}

type Limits = (Option<u32>, Option<u32>, Option<u32>, Option<u32>, Option<(f64, u32)>);

fn thresholds(c: &cluster::Cluster) -> Limits {
    thresholds_of(&c.circuit_breakers.clone().unwrap_or_default())
}

fn thresholds_of(b: &cluster::CircuitBreakers) -> Limits {
    let t = b.thresholds.first().cloned().unwrap_or_default();
    let budget =
        t.retry_budget.map(|b| (b.budget_percent.map_or(20.0, |p| p.value), b.min_retry_concurrency.unwrap_or(3)));
    // Under a budget the number of retries has no meaning.
    let retries = if budget.is_some() { None } else { t.max_retries };
    (t.max_connections, t.max_pending_requests, t.max_requests, retries, budget)
}

/// Own clusters take the rule of their service, where no port level speaks of another port.
fn inbound_limits(v: &Value) -> Result<(), String> {
    let mut s = service(&json!({"Hostname": "backend.default.svc.cluster.local",
        "Attributes": {"Name": "backend", "Namespace": "default"},
        "Ports": [{"Name": "default", "Port": 80, "Protocol": "HTTP"}]}));
    s.addresses = vec!["1.1.1.1".to_owned()];
    let rule = made("DestinationRule", "r", "default", literal::plain(&v["destRule"]))?;
    let mut inputs = world(&json!({}), sidecar("default"), vec![s.clone()], vec![rule], true);
    let port = s.ports[0].clone();
    let target = model::ServiceTarget { service: std::sync::Arc::new(s), port, target_port: 10001 };
    std::sync::Arc::make_mut(&mut inputs.view).targets = vec![target];
    let all = clusters(&inputs)?;
    let got = all.iter().find(|(n, _)| n.starts_with("inbound|")).ok_or("no cluster")?.1;
    let want = cluster::CircuitBreakers { thresholds: vec![message(&v["expected"])?], ..Default::default() };
    same(thresholds(got), thresholds_of(&want))
}

/// Which address connections to the application come from.
fn passthrough(v: &Value) -> Result<(), String> {
    let mut proxy = sidecar("default");
    proxy.ips = texts(&v["ips"]);
    let all = clusters(&world(&json!({}), proxy, Vec::new(), Vec::new(), false))?;
    let bind = all.get("InboundPassthroughCluster").and_then(|c| c.upstream_bind_config.clone()).unwrap_or_default();
    let source = bind.source_address.map(|a| a.address).unwrap_or_default();
    let extra: Vec<String> =
        bind.extra_source_addresses.into_iter().filter_map(|a| a.address.map(|a| a.address)).collect();
    let has = |address: &str| source == address || extra.iter().any(|e| e == address);
    same((has("127.0.0.6"), has("::6")), (flag(&v["ipv4Expected"]), flag(&v["ipv6Expected"])))
}

/// The cluster of a secret server beside a gateway.
fn external_sds(v: &Value) -> Result<(), String> {
    let mut proxy = super::router("default");
    proxy.metadata.fields.insert("credential".to_owned(), translate::wire::text_value("true"));
    let all = clusters(&world(&json!({}), proxy, Vec::new(), Vec::new(), false))?;
    let c = all.get(word(&v["expectedName"])).ok_or("no cluster")?;
    same(format!("{:?}", c.load_assignment).contains(&format!("path: {:?}", word(&v["expectedPath"]))), true)
}

fn context(c: &cluster::Cluster) -> Option<tls::UpstreamTlsContext> {
    let first = c.transport_socket_matches.first().and_then(|m| m.transport_socket.as_ref());
    match c.transport_socket.as_ref().or(first)?.config_type.as_ref()? {
        core::transport_socket::ConfigType::TypedConfig(any) => protos::unpack(any).ok(),
    }
}

/// What TLS settings become of a rule's, of what is detected, and of files that the proxy names.
fn auto_mtls(v: &Value) -> Result<(), String> {
    let mut s = foo("HTTP", Resolution::ClientSideLb);
    s.mesh_external = flag(&v["meshExternal"]);
    let settings = literal::plain(&v["tls"]);
    let mut resources = Vec::new();
    if settings.is_object() {
        let rule = json!({"host": "foo.com", "trafficPolicy": {"tls": settings}});
        resources.push(made("DestinationRule", "r", "bar", rule)?);
    }
    if v["serviceMTLSMode"]["$ref"].as_str().is_some_and(|r| r.ends_with("Disable")) {
        resources.push(made("PeerAuthentication", "p", "bar", json!({"mtls": {"mode": "DISABLE"}}))?);
    }
    let mut proxy = sidecar("bar");
    for (go, key) in [
        ("TLSClientCertChain", "TLS_CLIENT_CERT_CHAIN"),
        ("TLSClientKey", "TLS_CLIENT_KEY"),
        ("TLSClientRootCert", "TLS_CLIENT_ROOT_CERT"),
    ] {
        if let Some(path) = v["proxy"]["Metadata"][go].as_str() {
            proxy.metadata.fields.insert(key.to_owned(), translate::wire::text_value(path));
        }
    }
    let mesh = json!({"enableAutoMtls": v["autoMTLSEnabled"]});
    let all = clusters(&world(&mesh, proxy, vec![s], resources, true))?;
    let c = all.get(NAME).ok_or("no cluster")?;
    let detected = word(&v["wantCtxType"]["$ident"]) == "autoDetected";
    same(!c.transport_socket_matches.is_empty(), detected)?;
    let want = literal::plain(&v["want"]);
    let Some(got) = context(c) else {
        return same(want.is_object(), false);
    };
    same(want.is_object(), true)?;
    let common = got.common_tls_context.unwrap_or_default();
    let (text, path) = (format!("{common:?}"), |key: &str| word(&want[key]).to_owned());
    let certificate = common.tls_certificate_sds_secret_configs.first().map(|s| s.name.clone());
    let expected = match word(&want["mode"]) {
        "ISTIO_MUTUAL" => Some("default".to_owned()),
        "MUTUAL" => Some(format!("file-cert:{}~{}", path("clientCertificate"), path("privateKey"))),
        // A client that only looks at the server's certificate has none.
        _ => None,
    };
    same(certificate, expected)?;
    if !path("caCertificates").is_empty() {
        same(text.contains(&format!("file-root:{}", path("caCertificates"))), true)?;
    }
    // What the rule says is taken over; the rest stands for what the table hands to the original's function.
    if settings["sni"].is_string() {
        same(got.sni.as_str(), word(&want["sni"]))?;
    }
    for name in settings["subjectAltNames"].as_array().into_iter().flatten() {
        same(text.contains(word(name)), true)?;
    }
    Ok(())
}

fn default_cluster(v: &Value) -> Outcome {
    let want = &v["expectedCluster"];
    // Endpoints in place are given by locality, whole; services have theirs from the registry.
    if word(&v["discovery"]) == "STATIC" {
        return None;
    }
    Some((|| {
        let mut s = foo("HTTP", resolution(word(&v["discovery"])));
        s.mesh_external = flag(&v["external"]);
        let with_endpoints = word(&v["discovery"]) == "EDS";
        let all = clusters(&world(
            &json!({"connectTimeout": "10.000000001s", "enableAutoMtls": false}),
            sidecar("bar"),
            vec![s],
            Vec::new(),
            with_endpoints,
        ))?;
        let got = all.get(NAME);
        if want.is_null() {
            return same(got.is_none_or(|c| c.load_assignment.as_ref().is_none_or(|l| l.endpoints.is_empty())), true);
        }
        let got = got.ok_or("no cluster")?;
        let mut plain = want.clone();
        // Filters of the original's proxy by the names of variables.
        plain.as_object_mut().map(|o| o.remove("filters"));
        plain["lbPolicy"] = json!("LEAST_REQUEST");
        let want: cluster::Cluster = message(&plain)?;
        same(got.cluster_discovery_type.clone(), want.cluster_discovery_type.clone())?;
        same(thresholds(got), thresholds(&want))?;
        same(got.lb_policy, want.lb_policy)?;
        same(got.connect_timeout, want.connect_timeout)?;
        let panic = |c: &cluster::Cluster| c.common_lb_config.as_ref().and_then(|c| c.healthy_panic_threshold);
        same(panic(got), panic(&want))
    })())
}

pub fn serve(func: &str, v: &Value) -> Outcome {
    Some(match func {
        "TestApplyLoadBalancer" => return load_balancer(v),
        "TestApplyConnectionPool" => pool(v),
        "TestBuildInboundClustersPortLevelCircuitBreakerThresholds" => inbound_limits(v),
        "TestBuildPassthroughClusters" => passthrough(v),
        "TestBuildExternalSDSClusters" => external_sds(v),
        "TestBuildAutoMtlsSettings" => auto_mtls(v),
        "TestBuildDefaultCluster" => return default_cluster(v),
        _ => return None,
    })
}
