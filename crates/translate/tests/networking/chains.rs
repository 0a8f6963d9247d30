//! Filter chains and listener filters: what is inspected on which port, TLS of `Sidecar` ingress, chains per endpoint,
//! secrets of gateways from servers of their own.

use model::{Resolution, ServiceTarget};
use protos::envoy::config::core::v3 as core;
use protos::envoy::config::listener::v3 as listener;
use protos::envoy::extensions::transport_sockets::tls::v3 as tls;
use serde_json::{Value, json};

use super::listeners::{listeners, manager};
use super::policy::world;
use super::{Outcome, flag, made, number, router, service, sidecar, word};
use crate::common::literal::{self, same};

/// Whether a connection to this port is not inspected.
fn disabled(predicate: Option<&listener::ListenerFilterChainMatchPredicate>, port: i32) -> bool {
    use listener::listener_filter_chain_match_predicate::Rule;
    match predicate.and_then(|p| p.rule.as_ref()) {
        None => false,
        Some(Rule::OrMatch(set)) => set.rules.iter().any(|r| disabled(Some(r), port)),
        Some(Rule::AndMatch(set)) => set.rules.iter().all(|r| disabled(Some(r), port)),
        Some(Rule::NotMatch(inner)) => !disabled(Some(inner), port),
        Some(Rule::AnyMatch(any)) => *any,
        Some(Rule::DestinationPortRange(range)) => (range.start..range.end).contains(&port),
    }
}

/// Where an application has a port of HTTP, one that says nothing and one of TCP, and one port is no service's.
fn inspected(v: &Value) -> Result<(), String> {
    let s = service(&json!({"Hostname": "test.default.svc.cluster.local",
        "Attributes": {"Name": "test", "Namespace": "default"},
        "Ports": [{"Name": "http", "Port": 80, "Protocol": "HTTP"}, {"Name": "auto", "Port": 81, "Protocol": ""},
            {"Name": "tcp", "Port": 82, "Protocol": "TCP"}]}));
    let policies = crate::common::try_resources(word(&v["config"]), "default")?;
    let mut inputs = world(&json!({}), sidecar("default"), vec![s.clone()], policies, true);
    let s = std::sync::Arc::new(s);
    let target = |p: &model::Port| ServiceTarget { service: s.clone(), port: p.clone(), target_port: p.number };
    std::sync::Arc::make_mut(&mut inputs.view).targets = s.ports.iter().map(target).collect();
    let all = listeners(&inputs);
    let inbound = all.iter().find(|l| l.name == "virtualInbound").ok_or("no listener")?;
    for (key, name) in [("http", "http_inspector"), ("tls", "tls_inspector")] {
        let filter = inbound.listener_filters.iter().find(|f| f.name.ends_with(name));
        for (port, want) in v[key].as_object().into_iter().flatten() {
            let number: i32 = port.parse().map_err(|_| port.clone())?;
            let got = filter.is_none_or(|f| disabled(f.filter_disabled.as_ref(), number));
            same(got, flag(want)).map_err(|e| format!("{name} on {port}: {e}"))?;
        }
    }
    Ok(())
}

fn context(socket: Option<&core::TransportSocket>) -> Option<tls::DownstreamTlsContext> {
    match socket?.config_type.as_ref()? {
        core::transport_socket::ConfigType::TypedConfig(any) => protos::unpack(any).ok(),
    }
}

/// TLS of an ingress listener, which holds where the workload asks for no mTLS.
fn ingress_tls(v: &Value) -> Result<(), String> {
    let spec = literal::plain(&v["sidecarScope"]["Sidecar"]);
    let mode = word(&v["mtlsMode"]["$ref"]).rsplit("MTLS").next().unwrap_or_default().to_uppercase();
    let resources = vec![
        made("Sidecar", "s", "default", spec)?,
        made("PeerAuthentication", "p", "default", json!({"mtls": {"mode": mode}}))?,
    ];
    let all = listeners(&world(&json!({}), sidecar("default"), Vec::new(), resources, false));
    let to_port =
        |c: &&listener::FilterChain| c.filter_chain_match.as_ref().is_some_and(|m| m.destination_port == Some(80));
    let chains = all.iter().flat_map(|l| &l.filter_chains).filter(to_port);
    let found = chains.filter_map(|c| context(c.transport_socket.as_ref())).next().ok_or("no TLS")?;
    let code = word(&v["expectedResult"]["$func"]);
    let want = code.split("SdsSecretConfigs[0].Name != \"").nth(1).and_then(|c| c.split('"').next());
    let name = found.common_tls_context.as_ref().and_then(|c| c.tls_certificate_sds_secret_configs.first());
    same(name.map(|s| s.name.as_str()), want)?;
    if code.contains("expected RequireClientCertificate to be false") {
        same(found.require_client_certificate.unwrap_or(false), false)?;
    }
    Ok(())
}

/// A headless service of bytes: one listener for each endpoint but the proxy's own. (The original can also have one
/// listener with a chain for each, which is off by default; the table counts those chains.)
fn headless(v: &Value) -> Outcome {
    let built = v["services"][0]["args"].as_array()?;
    let selecting = word(&v["name"]).starts_with("external");
    let addresses: Vec<String> =
        v["instances"].as_array()?.iter().map(|i| i["args"][1].as_str().map(str::to_owned)).collect::<Option<_>>()?;
    let mut s = service(&json!({"Hostname": built[0], "Attributes": {"Namespace": "default",
        "ServiceRegistry": if selecting { "External" } else { "Kubernetes" }},
        "Ports": [{"Name": "default", "Port": built[1], "Protocol": built[2]}]}));
    s.resolution = Resolution::Passthrough;
    let mut inputs = world(&json!({}), sidecar("not-default"), vec![s.clone()], Vec::new(), false);
    let view = std::sync::Arc::make_mut(&mut inputs.view);
    let endpoint = |a: &String| model::Endpoint {
        service_port: s.ports[0].name.clone(),
        address: a.as_str().into(),
        port: s.ports[0].number,
        workload: Default::default(),
        health: Default::default(),
        weight: 0,
    };
    std::sync::Arc::make_mut(&mut view.snapshot)
        .endpoints
        .insert(s.key(), std::sync::Arc::new(addresses.iter().map(endpoint).collect()));
    let count = listeners(&inputs).iter().filter(|l| l.name.ends_with("_9999")).count() as u64;
    let want = v["numFilterChainsOnListener"].as_u64().or(v["numListenersOnServicePort"].as_u64());
    // Without an endpoint one listener takes what no address tells apart.
    Some(same(if addresses.is_empty() { 0 } else { count }, want.unwrap_or(0)))
}

/// Certificates from a server that the mesh names as a provider, else from the control plane.
fn secret_server(v: &Value) -> Result<(), String> {
    let mut mesh = json!({});
    let mut services = Vec::new();
    if !flag(&v["noSDSProvider"]) {
        let sds = json!({"service": v["providerService"], "port": v["providerPort"]});
        mesh["extensionProviders"] = json!([{"name": v["providerName"], "sds": sds}]);
        services.push(service(&json!({"Hostname": v["providerService"], "Attributes": {"Namespace": "sds-ns"},
            "Ports": [{"Name": "grpc", "Port": v["providerPort"], "Protocol": "GRPC"}]})));
    }
    let server = json!({"hosts": ["*"], "port": {"name": "https", "number": 443, "protocol": "HTTPS"},
        "tls": {"mode": v["tlsMode"], "credentialName": v["credentialName"]}});
    let spec = json!({"selector": {"istio": "ingressgateway"}, "servers": [server]});
    let gateway = made("Gateway", "g", "default", spec)?;
    let all = listeners(&world(&mesh, router("default"), services, vec![gateway], true));
    let mut chains = all.iter().flat_map(|l| &l.filter_chains);
    let found = chains.find_map(|c| context(c.transport_socket.as_ref())).ok_or("no TLS")?;
    let common = found.common_tls_context.unwrap_or_default();
    let config = common.tls_certificate_sds_secret_configs.first().and_then(|s| s.sds_config.clone());
    let text = format!("{config:?}");
    if flag(&v["expectSDS"]) {
        same(text.contains(&format!("cluster_name: {:?}", word(&v["expectedClusterName"]))), true).map_err(|_| text)
    } else {
        same(text.contains("Ads("), flag(&v["expectADSFallback"])).map_err(|_| text)
    }
}

/// Filters that resolve what a wildcard stands for when a connection or request comes.
fn resolved_late(v: &Value) -> Result<(), String> {
    let wildcard = flag(&v["wildcardHost"]);
    let host = if wildcard { "*.example.com" } else { "www.example.com" };
    let mut s = service(&json!({"Hostname": host, "Attributes": {"Namespace": "default"},
        "Ports": [{"Name": "p", "Port": number(&v["port"]), "Protocol": v["protocol"]}]}));
    s.resolution = if wildcard { Resolution::DynamicDns } else { Resolution::DnsLb };
    s.mesh_external = true;
    let all = listeners(&world(&json!({}), sidecar("default"), vec![s], Vec::new(), true));
    let of_port = all.iter().filter(|l| l.name.ends_with(&format!("_{}", v["port"])));
    let filters: Vec<&listener::Filter> =
        of_port.flat_map(|l| l.filter_chains.iter().chain(&l.default_filter_chain)).flat_map(|c| &c.filters).collect();
    let by_sni = filters.iter().any(|f| f.name.contains("sni_dynamic_forward_proxy"));
    let http = filters.iter().filter_map(|f| manager(f)).flat_map(|m| m.http_filters);
    let by_authority = http.into_iter().any(|f| f.name.contains("dynamic_forward_proxy"));
    same((by_sni, by_authority), (flag(&v["expectSNIFilter"]), flag(&v["expectHTTPFilter"])))
}

pub fn serve(func: &str, v: &Value) -> Outcome {
    Some(match func {
        "testInboundListenerFilters" => inspected(v),
        "testSidecarInboundListenerFilters" => ingress_tls(v),
        "TestOutboundListenerForHeadlessServices" => return headless(v),
        "TestGatewayExternalSDSProvider" => secret_server(v),
        "TestSidecarDynamicDNSFilters" => resolved_late(v),
        _ => return None,
    })
}
