//! What destination rules make of clusters: whole rules on services of the tables, TLS, and which clusters a change moves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model::{Change, Endpoint, MeshConfig, Proxy, ProxyView, Resolution, Service, Store};
use protos::envoy::config::cluster::v3 as cluster;
use protos::envoy::config::core::v3 as core;
use protos::envoy::extensions::transport_sockets::tls::v3 as tls;
use serde_json::{Value, json};
use translate::Inputs;

use super::{Outcome, flag, made, router, service, sidecar, word};
use crate::common::literal::{self, message, same, texts};

pub type Clusters = BTreeMap<String, cluster::Cluster>;

/// What a proxy sees of services that a table states, with one endpoint each where `with_endpoints`.
pub fn world(
    mesh: &Value,
    proxy: Proxy,
    services: Vec<Service>,
    resources: Vec<api::Resource>,
    with_endpoints: bool,
) -> Inputs {
    world_in("cluster.local", mesh, proxy, services, resources, with_endpoints)
}

/// The same, where short names in resources are completed with this domain.
pub fn world_in(
    domain: &str,
    mesh: &Value,
    proxy: Proxy,
    services: Vec<Service>,
    resources: Vec<api::Resource>,
    with_endpoints: bool,
) -> Inputs {
    world_of(domain, MeshConfig::from_json(mesh), proxy, services, resources, with_endpoints)
}

fn world_of(
    domain: &str,
    mesh: MeshConfig,
    proxy: Proxy,
    services: Vec<Service>,
    resources: Vec<api::Resource>,
    with_endpoints: bool,
) -> Inputs {
    let mut store = Store::with_config_domain(mesh, domain);
    store.apply(resources.into_iter().map(Change::Apply));
    let mut snapshot = super::scope::with_services(&store.snapshot(), services);
    for s in snapshot.services.iter().filter(|_| with_endpoints) {
        let endpoints = s.ports.iter().map(|p| Endpoint {
            service_port: p.name.clone(),
            address: "10.1.1.1".into(),
            port: p.number,
            workload: Arc::new(model::Workload { labels: s.labels.clone(), ..Default::default() }),
            health: Default::default(),
            weight: 0,
        });
        snapshot.endpoints.insert(s.key(), Arc::new(endpoints.collect()));
    }
    Inputs::new(Arc::new(ProxyView::new(&Arc::new(snapshot), &Arc::new(proxy))))
}

pub fn clusters(inputs: &Inputs) -> Result<Clusters, String> {
    let all = translate::clusters(inputs);
    let unpacked = all.iter().map(|c| Ok((c.name.clone(), protos::unpack(&c.resource).map_err(|e| e.to_string())?)));
    unpacked.collect()
}

/// A literal in which ports of the service are named by expressions (`servicePort[0].Port`).
fn with_ports(v: &Value, ports: &[Value]) -> Value {
    match v {
        Value::Object(o) if o.contains_key("$ref") && word(&o["$ref"]).contains("ervicePort[") => {
            let index = word(&o["$ref"]).split(['[', ']']).nth(1).and_then(|n| n.parse::<usize>().ok());
            index.and_then(|n| ports.get(n)).map_or(Value::Null, |p| p["Port"].clone())
        }
        Value::Object(o) => {
            o.iter().map(|(k, v)| (k.clone(), with_ports(v, ports))).collect::<serde_json::Map<_, _>>().into()
        }
        Value::Array(a) => a.iter().map(|v| with_ports(v, ports)).collect(),
        other => other.clone(),
    }
}

fn discovery(c: &cluster::Cluster) -> Option<i32> {
    match c.cluster_discovery_type {
        Some(cluster::cluster::ClusterDiscoveryType::Type(t)) => Some(t),
        _ => None,
    }
}

fn upstream_context(socket: Option<&core::TransportSocket>) -> Result<Option<tls::UpstreamTlsContext>, String> {
    let Some(core::transport_socket::ConfigType::TypedConfig(any)) = socket.and_then(|s| s.config_type.as_ref()) else {
        return Ok(None);
    };
    if any.type_url.ends_with("ProxyProtocolUpstreamTransport") {
        let outer: protos::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport =
            protos::unpack(any).map_err(|e| e.to_string())?;
        return upstream_context(outer.transport_socket.as_ref());
    }
    Ok(protos::unpack(any).ok())
}

/// The service of a row with its rule, as clusters of a sidecar, or of a gateway that passes connections on by SNI.
fn of_rule(v: &Value) -> Result<(Clusters, Service), String> {
    let ports = literal::elements(&v["service"]["Ports"]);
    let mut s = service(&v["service"]);
    if matches!(discovery(&message(&v["cluster"])?), Some(t) if t == cluster::cluster::DiscoveryType::StrictDns as i32)
    {
        s.resolution = Resolution::DnsLb;
    }
    let by_sni = word(&v["clusterMode"]) == "sni-dnat";
    let mut resources = Vec::new();
    let rule = literal::plain(&with_ports(&v["destRule"], &ports));
    if rule.is_object() {
        resources.push(made("DestinationRule", "acme", &s.namespace, rule)?);
    }
    if by_sni {
        let server = json!({"hosts": ["*.local"], "port": {"name": "tls", "number": 15443, "protocol": "TLS"},
            "tls": {"mode": "AUTO_PASSTHROUGH"}});
        resources.push(made(
            "Gateway",
            "east-west",
            "istio-system",
            json!({"selector": {"istio": "ingressgateway"}, "servers": [server]}),
        )?);
    }
    let proxy = if by_sni { router("istio-system") } else { sidecar("bar") };
    let inputs = world(&json!({}), proxy, vec![s.clone()], resources, true);
    Ok((clusters(&inputs)?, s))
}

fn named(v: &Value, s: &Service, subset: &str) -> String {
    let ports = literal::elements(&v["service"]["Ports"]);
    let index = word(&v["port"]["$expr"]).split(['[', ']']).nth(1).and_then(|n| n.parse::<usize>().ok()).unwrap_or(0);
    let number = ports.get(index).map_or(0, |p| super::number(&p["Port"]));
    let name = names::ClusterName::outbound(number, subset, &s.hostname);
    if word(&v["clusterMode"]) == "sni-dnat" { name.to_sni() } else { name.to_string() }
}

fn destination_rule(v: &Value) -> Result<(), String> {
    let (all, s) = of_rule(v)?;
    let mut wanted = BTreeSet::new();
    for want in literal::elements(&v["expectedSubsetClusters"]) {
        let want: cluster::Cluster = message(&want)?;
        let got = all.get(&want.name).ok_or_else(|| format!("no {}: {:?}", want.name, all.keys()))?;
        same(discovery(got), discovery(&want))?;
        let service_name = |c: &cluster::Cluster| c.eds_cluster_config.as_ref().map(|e| e.service_name.clone());
        if want.eds_cluster_config.is_some() {
            same(service_name(got), service_name(&want))?;
        }
        let thresholds = |c: &cluster::Cluster| {
            c.circuit_breakers.as_ref().and_then(|b| b.thresholds.first().cloned()).unwrap_or_default()
        };
        if want.circuit_breakers.is_some() {
            let (got, want) = (thresholds(got), thresholds(&want));
            same(got.retry_budget, want.retry_budget)?;
            if want.retry_budget.is_none() {
                same(got.max_retries, want.max_retries)?;
            }
        }
        wanted.insert(want.name);
    }
    if !s.hostname.is_empty() {
        let name = named(v, &s, "");
        let base = all.get(&name).ok_or_else(|| format!("no {name}: {:?}", all.keys()))?;
        if let Some(want) = v["expectedCaCertificateName"].as_str() {
            let context = upstream_context(base.transport_socket.as_ref())?.and_then(|c| c.common_tls_context);
            let text = format!("{context:?}");
            same(text.contains(want) || text.contains("system_root_certs"), true).map_err(|_| text)?;
        }
        // Which subsets there are for the row's port.
        let prefix = name.split("foo.").next().unwrap_or_default();
        let separator = if prefix.contains("_.") { "_." } else { "|" };
        let stem = prefix.trim_end_matches(separator).to_owned() + separator;
        let got: BTreeSet<String> = all
            .keys()
            .filter(|n| n.starts_with(&stem) && **n != name && n.ends_with(s.hostname.as_str()))
            .cloned()
            .collect();
        same(got, wanted)?;
    }
    Ok(())
}

fn skip_verify(v: &Value) -> Result<(), String> {
    let (all, s) = of_rule(v)?;
    let c = all.get(&named(v, &s, "")).ok_or("no cluster")?;
    let want = if v["expectTLSContext"].is_null() {
        None
    } else {
        Some(message(&super::small::with_exact_matches(&v["expectTLSContext"]))?)
    };
    same(upstream_context(c.transport_socket.as_ref())?, want)
}

/// Conditions on a TLS context: `if got := EXPRESSION; CONDITION`.
fn context_holds(code: &str, context: &tls::UpstreamTlsContext, settings: &Value) -> Result<(), String> {
    let setting = |key: &str| word(&settings[key]).to_owned();
    let common = context.common_tls_context.clone().unwrap_or_default();
    let root = match &common.validation_context_type {
        Some(tls::common_tls_context::ValidationContextType::CombinedValidationContext(c)) =>
        {
            #[allow(deprecated)]
            c.validation_context_sds_secret_config.as_ref().map(|s| s.name.clone()).unwrap_or_default()
        }
        _ => String::new(),
    };
    for line in code.lines().map(str::trim).filter(|l| l.starts_with("if got := ")) {
        let (expression, condition) = line["if got := ".len()..].split_once("; ").ok_or(line)?;
        let alpns = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let (got, want) = match expression {
            "ctx.CommonTlsContext.GetAlpnProtocols()" => {
                let want = if condition.contains("ALPNInMeshH2WithMxc") {
                    alpns(&["istio-peer-exchange", "istio", "h2"])
                } else if condition.contains("ALPNInMeshWithMxc") {
                    alpns(&["istio-peer-exchange", "istio"])
                } else if condition.contains("ALPNH2Only") {
                    alpns(&["h2"])
                } else {
                    Vec::new()
                };
                (common.alpn_protocols.clone(), want)
            }
            "ctx.GetSni()" => (vec![context.sni.clone()], vec![setting("sni")]),
            e if e.contains("GetValidationContextSdsSecretConfig") => {
                (vec![root.clone()], vec![format!("file-root:{}", setting("caCertificates"))])
            }
            e if e.contains("GetTlsCertificateSdsSecretConfigs") => (
                common.tls_certificate_sds_secret_configs.iter().take(1).map(|s| s.name.clone()).collect(),
                vec![format!("file-cert:{}~{}", setting("clientCertificate"), setting("privateKey"))],
            ),
            _ => return Err(format!("not understood: {line}")),
        };
        same(got, want)?;
    }
    Ok(())
}

fn upstream_tls(v: &Value) -> Result<(), String> {
    let detected = word(&v["mtlsCtx"]["$ident"]) == "autoDetected";
    let settings = literal::plain(&v["tls"]);
    let mut policy = json!({});
    // What is detected is not said.
    if !detected && settings.is_object() {
        policy["tls"] = settings.clone();
    }
    let proxy_protocol = literal::plain(&v["proxyProtocolSettings"]);
    if proxy_protocol.is_object() {
        policy["proxyProtocol"] = proxy_protocol;
    }
    let mut s = service(&json!({"Hostname": "foo.com", "Attributes": {"Namespace": "bar"},
        "Ports": [{"Name": "p", "Port": 8080, "Protocol": if flag(&v["h2"]) { "HTTP2" } else { "HTTP" }}]}));
    let kind = v["discoveryType"].as_str().or(v["discoveryType"]["$ref"].as_str()).unwrap_or_default();
    s.resolution = match kind.rsplit(['.', '_']).next() {
        Some("DST") => Resolution::Passthrough,
        Some("DNS") => Resolution::DnsLb,
        _ => Resolution::ClientSideLb,
    };
    let rule = made("DestinationRule", "r", "bar", json!({"host": "foo.com", "trafficPolicy": policy}))?;
    let all = clusters(&world(&json!({}), sidecar("bar"), vec![s], vec![rule], true))?;
    let c = all.get("outbound|8080||foo.com").ok_or("no cluster")?;
    let sockets = (c.transport_socket.is_some(), !c.transport_socket_matches.is_empty());
    // Without TLS, a socket that writes the PROXY protocol over plain text stays a socket.
    same(sockets.1, flag(&v["expectTransportSocketMatch"]))?;
    if !flag(&v["expectTransportSocketMatch"]) {
        same(sockets.0, flag(&v["expectTransportSocket"]))?;
    }
    let first = c.transport_socket_matches.first().and_then(|m| m.transport_socket.as_ref());
    match upstream_context(c.transport_socket.as_ref().or(first))? {
        Some(mut context) => {
            // The table's SNI and names come from its settings also where they are detected.
            if detected {
                context.sni = word(&settings["sni"]).to_owned();
            }
            context_holds(word(&v["validateTLSContext"]["$func"]), &context, &settings)
        }
        None if v["validateTLSContext"].is_null() => Ok(()),
        None => Err("no TLS".to_owned()),
    }
}

/// What is there after a change: what it brings, and what was watched and is not taken away.
fn delta(v: &Value) -> Result<(), String> {
    let services: Vec<Service> = v["services"].as_array().into_iter().flatten().map(service).collect();
    let mut resources = Vec::new();
    for (n, c) in v["configs"].as_array().into_iter().flatten().enumerate() {
        resources.push(literal::resource(c, "DestinationRule", &format!("c{n}"), "foo")?);
    }
    let mut inputs = world(&json!({}), sidecar("foo"), services, resources, true);
    let view = Arc::make_mut(&mut inputs.view);
    for i in v["instances"].as_array().into_iter().flatten() {
        let s = Arc::new(service(&i["Service"]));
        let number = super::number(&i["ServicePort"]["Port"]);
        let port = s.port(number).cloned().ok_or("no such port")?;
        view.targets.push(model::ServiceTarget {
            target_port: super::number(&i["Endpoint"]["EndpointPort"]),
            service: s,
            port,
        });
    }
    same_delta(v, &clusters(&inputs)?)
}

fn same_delta(v: &Value, got: &Clusters) -> Result<(), String> {
    let got: BTreeSet<String> = got.keys().cloned().collect();
    let watched: BTreeSet<String> = texts(&v["watchedResourceNames"]).into_iter().collect();
    let removed: BTreeSet<String> = texts(&v["removedClusters"]).into_iter().collect();
    let kept = watched.difference(&removed).cloned();
    let want: BTreeSet<String> = texts(&v["expectedClusters"]).into_iter().chain(kept).collect();
    if flag(&v["usedDelta"]) {
        same(watched.difference(&got).cloned().collect(), removed)?;
        return same(got, want);
    }
    same(got, texts(&v["expectedClusters"]).into_iter().collect())
}

/// The same for a gateway that is told of services only that it sends to.
fn gateway_delta(v: &Value) -> Result<(), String> {
    let services: Vec<Service> = v["services"].as_array().into_iter().flatten().map(service).collect();
    let mut resources = Vec::new();
    for (n, c) in v["configs"].as_array().into_iter().flatten().enumerate() {
        resources.push(match word(&c["$call"]) {
            // A virtual service of the gateway: its name, and the hosts that it routes to.
            "virtualServiceForGateway" => {
                let args = texts(&c["args"]);
                let route = |host: &String| json!({"destination": {"host": host}, "weight": 100});
                let hosts: Vec<Value> = args.iter().skip(1).map(route).collect();
                let spec = json!({"hosts": ["*.com"], "gateways": ["foo/test-gateway"], "http": [{"route": hosts}]});
                made("VirtualService", &args[0], "bar", spec)?
            }
            _ => literal::resource(c, "DestinationRule", &format!("c{n}"), "foo")?,
        });
    }
    let mesh = MeshConfig { filter_gateway_clusters: true, ..MeshConfig::from_json(&json!({})) };
    let proxy = router("not-default");
    same_delta(v, &clusters(&world_of("cluster.local", mesh, proxy, services, resources, true))?)
}

pub fn serve(func: &str, v: &Value) -> Outcome {
    Some(match func {
        "TestApplyDestinationRule" | "TestApplyDestinationRuleOSCACert" => destination_rule(v),
        "TestInsecureSkipVerify" => skip_verify(v),
        "TestApplyUpstreamTLSSettings" | "TestApplyUpstreamProxyProtocol" => upstream_tls(v),
        "TestBuildDeltaClusters" => delta(v),
        "TestBuildDeltaClustersForFilteredGateway" => gateway_delta(v),
        _ => return None,
    })
}
