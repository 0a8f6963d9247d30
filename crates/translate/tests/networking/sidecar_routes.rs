//! Virtual hosts of sidecars' routes: which there are, for which domains, and where they lead.

use std::collections::{BTreeMap, BTreeSet};

use model::Service;
use protos::envoy::config::route::v3 as route;
use serde_json::{Value, json};

use super::policy::world_in;
use super::{Outcome, flag, service, sidecar, word};
use crate::common::literal::{self, same, texts};

/// `buildHTTPService(host, visibility, address, namespace, port…)`: without an address of its own it is headless.
fn built(v: &Value) -> Option<Service> {
    let args = v["args"].as_array()?;
    let to = match args[1]["$ref"].as_str().map(|r| r.rsplit('.').next().unwrap_or_default()) {
        Some("Private") => ".",
        Some(_) => "*",
        None => args[1].as_str().unwrap_or("*"),
    };
    Some(http(word(&args[0]), to, word(&args[2]), word(&args[3]), &args[4..]))
}

fn http(host: &str, to: &str, address: &str, namespace: &str, ports: &[Value]) -> Service {
    let headless = address == "0.0.0.0";
    let ports: Vec<Value> =
        ports.iter().map(|p| json!({"Name": format!("http-{p}"), "Port": p, "Protocol": "HTTP"})).collect();
    let resolution = if headless { "model.Passthrough" } else { "model.DNSLB" };
    service(&json!({"Hostname": host, "DefaultAddress": address, "Ports": ports, "Resolution": {"$ref": resolution},
        "Attributes": {"Namespace": namespace, "ExportTo": [to], "ServiceRegistry": "Kubernetes"}}))
}

/// The services that the table of `Sidecar`s looks at.
fn services() -> Vec<Service> {
    let of = |host: &str, to: &str, address: &str, namespace: &str, ports: &[u16]| {
        let ports: Vec<Value> = ports.iter().map(|p| (*p).into()).collect();
        http(host, to, address, namespace, &ports)
    };
    vec![
        of("bookinfo.com", "*", "0.0.0.0", "default", &[9999, 70]),
        of("private.com", ".", "0.0.0.0", "default", &[9999, 80]),
        of("test.com", "*", "8.8.8.8", "not-default", &[8080]),
        of("test-private.com", ".", "9.9.9.9", "not-default", &[80, 70]),
        of("test-private-2.com", ".", "9.9.9.10", "not-default", &[60]),
        of("test-headless.com", "*", "0.0.0.0", "not-default", &[8888]),
        of("service-A.default.svc.cluster.local", "*", "", "default", &[7777]),
    ]
}

fn routes(inputs: &translate::Inputs, name: &str) -> Result<route::RouteConfiguration, String> {
    let found = translate::routes(inputs, &[name.to_owned()]);
    protos::unpack(&found.first().ok_or("no routes")?.resource).map_err(|e| e.to_string())
}

fn domains(config: &route::RouteConfiguration) -> BTreeMap<String, BTreeSet<String>> {
    config.virtual_hosts.iter().map(|h| (h.name.clone(), h.domains.iter().cloned().collect())).collect()
}

fn with_sidecar(v: &Value) -> Result<(), String> {
    let mut resources = Vec::new();
    for (n, s) in v["virtualServiceConfigs"].as_array().into_iter().flatten().enumerate() {
        let mut r = literal::resource(s, "VirtualService", &format!("v{n}"), "not-default")?.raw.as_ref().clone();
        // Names repeat within a row; order counts.
        r["metadata"]["name"] = json!(format!("{}-{n}", word(&r["metadata"]["name"])));
        resources.push(crate::common::pruned(r, "not-default")?);
    }
    if !v["sidecarConfig"].is_null() {
        resources.push(literal::resource(&v["sidecarConfig"], "Sidecar", "foo", "not-default")?);
    }
    let mesh =
        if flag(&v["registryOnly"]) { json!({"outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}}) } else { json!({}) };
    let mut proxy = sidecar("not-default");
    proxy.dns_domain = "default.example.org".to_owned();
    let config = routes(&world_in("", &mesh, proxy, services(), resources, true), word(&v["routeName"]))?;
    let want: BTreeMap<String, BTreeSet<String>> = v["expectedHosts"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, hosts)| (name.clone(), hosts.as_object().into_iter().flatten().map(|(h, _)| h.clone()).collect()))
        .collect();
    same(domains(&config), want)?;
    let count: usize = config.virtual_hosts.iter().map(|h| h.routes.len()).sum();
    let expected = v["expectedRoutes"].as_i64().unwrap_or(0);
    let expected = if expected == 0 { config.virtual_hosts.len() as i64 } else { expected };
    if expected > 0 {
        same(count as i64, expected)?;
    }
    same(config.virtual_hosts.iter().all(|h| h.include_request_attempt_count), true)
}

/// Services whose names are other services' short ones, and where they lead.
fn duplicates(v: &Value) -> Outcome {
    let services: Vec<Service> = v["services"].as_array()?.iter().map(built).collect::<Option<_>>()?;
    Some((|| {
        let resources = match &v["config"] {
            Value::String(yaml) => crate::common::try_resources(yaml, "default")?,
            list => {
                let list = list.as_array().into_iter().flatten().enumerate();
                list.map(|(n, c)| literal::resource(c, "VirtualService", &format!("v{n}"), "default"))
                    .collect::<Result<_, _>>()?
            }
        };
        let mut proxy = sidecar("default");
        proxy.dns_domain = "default.svc.cluster.local".to_owned();
        let config = routes(&world_in("", &json!({}), proxy, services, resources, true), "80")?;
        let want = v["expectedHosts"].as_object().into_iter().flatten();
        same(domains(&config), want.map(|(n, d)| (n.clone(), texts(d).into_iter().collect())).collect())?;
        let cluster = |h: &route::VirtualHost| {
            h.routes.first().and_then(|r| match &r.action {
                Some(route::route::Action::Route(a)) => match &a.cluster_specifier {
                    Some(route::route_action::ClusterSpecifier::Cluster(c)) => Some(c.clone()),
                    _ => None,
                },
                _ => None,
            })
        };
        let got: BTreeMap<String, String> =
            config.virtual_hosts.iter().filter_map(|h| Some((h.name.clone(), cluster(h)?))).collect();
        let want = v["expectedDestination"].as_object().into_iter().flatten();
        same(got, want.map(|(n, c)| (n.clone(), word(c).to_owned())).collect())
    })())
}

pub fn serve(func: &str, v: &Value) -> Outcome {
    match func {
        "TestSidecarOutboundHTTPRouteConfig" => Some(with_sidecar(v)),
        "TestSidecarOutboundHTTPRouteConfigWithDuplicateHosts" => duplicates(v),
        _ => None,
    }
}
