//! Who sees what: `exportTo` of rules, virtual services and services, `Sidecar`s by namespace, filters by workload.
//! The tables state questions and answers; the worlds they are asked in are stated here.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::{Change, MeshConfig, Proxy, ProxyView, Store};
use names::{Hostname, NodeType};
use serde_json::{Value, json};
use translate::Inputs;

use super::policy::{clusters, world};
use super::{Outcome, inputs, made, service, sidecar, word};
use crate::common::literal::{self, same, texts};

fn stored(mesh: &Value, resources: Vec<Result<api::Resource, String>>) -> Result<Store, String> {
    let mut store = Store::with_config_domain(MeshConfig::from_json(mesh), "");
    store.apply(resources.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().map(Change::Apply));
    Ok(store)
}

/// A resource that is younger than those with lower numbers.
fn aged(kind: &str, name: &str, namespace: &str, spec: Value, age: usize) -> Result<api::Resource, String> {
    let mut raw = made(kind, name, namespace, spec)?.raw.as_ref().clone();
    raw["metadata"]["creationTimestamp"] = json!(format!("2026-01-01T00:00:{:02}Z", age % 60));
    crate::common::pruned(raw, namespace)
}

/// Name, namespace, host, `exportTo` and subsets of a rule.
type Exported = (&'static str, &'static str, &'static str, &'static [&'static str], [&'static str; 2]);

/// Rules of one host in many namespaces, told apart by their subsets.
fn exported_rules(v: &Value) -> Result<(), String> {
    const RULES: [Exported; 10] = [
        ("rule1", "test1", "httpbin.org", &[".", "ns1"], ["subset1", "subset2"]),
        ("rule2", "test2", "httpbin.org", &["test2", "ns1", "test1", "newNS"], ["subset3", "subset4"]),
        ("rule3", "test3", "httpbin.org", &["test1", "test2", "*"], ["subset5", "subset6"]),
        ("rule4-local", "test4", "httpbin.org", &["test4"], ["subset15", "subset16"]),
        ("rule4", "istio-system", "httpbin.org", &[], ["subset7", "subset8"]),
        ("rule1", "istio-system", "httpbin.org", &["."], ["subset9", "subset10"]),
        ("rule2", "istio-system", "*.org", &["."], ["subset11", "subset12"]),
        ("rule3", "istio-system", "*.app.org", &["."], ["subset13", "subset14"]),
        ("rule5", "test5", "api.test.com", &["istio-system"], ["subset5-0", "subset5-1"]),
        ("rule6", "test6", "api.test.com", &["istio-system"], ["subset6-0", "subset6-1"]),
    ];
    let rule = |(name, namespace, host, to, subsets): &Exported| {
        let subsets: Vec<Value> = subsets.iter().map(|s| json!({"name": s})).collect();
        made("DestinationRule", name, namespace, json!({"host": host, "exportTo": to, "subsets": subsets}))
    };
    let store = stored(&json!({}), RULES.iter().map(rule).collect())?;
    let host = Hostname::from(word(&v["host"]));
    let found = store.snapshot().destination_rules.lookup(word(&v["proxyNs"]), &host, word(&v["serviceNs"]));
    let got = found.first().map(|r| r.config.spec.subsets.iter().map(|s| s.name.clone()).collect());
    same(got, (!v["wantSubsets"].is_null()).then(|| texts(&v["wantSubsets"])))
}

/// Rules for chosen workloads beside the one of their namespace.
fn selecting_rules(v: &Value) -> Result<(), String> {
    let rule = |n: usize, app: &str| {
        let mut spec = json!({"host": "httpbin.org", "exportTo": [".", "test2"]});
        if !app.is_empty() {
            spec["workloadSelector"] = json!({"matchLabels": {"app": app}});
        }
        aged("DestinationRule", &format!("nsrule{n}"), "test", spec, n)
    };
    let store = stored(&json!({}), vec![rule(1, "app1"), rule(2, "app2"), rule(3, "app2"), rule(4, "")])?;
    let host = Hostname::from(word(&v["serviceHostname"]));
    let found = store.snapshot().destination_rules.lookup(word(&v["proxyNs"]), &host, word(&v["serviceNs"]));
    same(found.len() as u64, v["expectedDrCount"].as_u64().unwrap_or(0))?;
    let names: Vec<String> = found.iter().map(|r| r.config.name.to_string()).collect();
    same(names, texts(&v["expectedDrName"]).iter().map(|n| n.to_lowercase()).collect())?;
    // Which rule each was made from: the tables name them by the variables that hold them.
    let origin = |r: &Value| match word(&r["$call"]).split("DestinationRule").next().unwrap_or_default() {
        "app1" => "test/nsrule1",
        "app2" => "test/nsrule2",
        "app3" => "test/nsrule3",
        _ => "test/nsrule4",
    };
    let want = v["expectedNamespacedFrom"].as_object().into_iter().flatten().map(|(name, from)| {
        let from: Vec<String> = from.as_array().into_iter().flatten().map(|r| origin(r).to_owned()).collect();
        (name.to_lowercase(), from)
    });
    let want: BTreeMap<String, Vec<String>> = want.collect();
    let got: BTreeMap<_, _> = found.iter().map(|r| (r.config.name.to_string(), r.from.clone())).collect();
    if want.is_empty() { Ok(()) } else { same(got, want) }
}

/// Hosts of the virtual services that a namespace sees bound to a gateway.
fn seen(store: &Store, v: &Value) -> Vec<String> {
    let found = store.snapshot().virtual_services.for_gateway(word(&v["proxyNs"]), word(&v["gateway"]));
    found.iter().flat_map(|s| s.config.spec.hosts.clone()).collect()
}

fn exported_services(v: &Value) -> Result<(), String> {
    let service = |n: usize, name: &str, namespace: &str, host: &str, to: &[&str], gateways: &[&str]| {
        let route = json!([{"route": [{"destination": {"host": host}}]}]);
        let mut spec = json!({"hosts": [host], "http": route, "exportTo": to});
        if !gateways.is_empty() {
            spec["gateways"] = json!(gateways);
        }
        aged("VirtualService", name, namespace, spec, n)
    };
    let gateway = "default/gateway";
    let store = stored(
        &json!({"rootNamespace": "zzz"}),
        vec![
            service(1, "rule1", "test1", "rule1.com", &[".", "ns1"], &[]),
            service(2, "rule2", "test2", "rule2.com", &["test2", "ns1", "test1"], &[]),
            service(3, "rule2gw", "test2", "rule2gw.com", &["test2", "ns1", "test1"], &[gateway, "mesh"]),
            service(4, "rule3", "test3", "rule3.com", &["test1", "test2", "*"], &["mesh"]),
            service(5, "rule3gw", "test3", "rule3gw.com", &["test1", "test2", "*"], &[gateway]),
            service(6, "zzz", "zzz", "rootNS.com", &[], &[]),
        ],
    )?;
    let sorted = |mut list: Vec<String>| {
        list.iter_mut().for_each(|h| h.make_ascii_lowercase());
        list
    };
    same(sorted(seen(&store, v)), sorted(texts(&v["wantHosts"])))
}

/// Virtual services that say nothing, where the mesh exports them to their own namespace and one more.
fn default_exports(v: &Value) -> Outcome {
    // What is bound to the gateway is in the original's code only; here nothing is.
    if word(&v["gateway"]) != "mesh" && !texts(&v["wantHosts"]).is_empty() {
        return None;
    }
    let service = |name: &str, namespace: &str| {
        let host = format!("{name}.com");
        let route = json!([{"route": [{"destination": {"host": host}}]}]);
        made("VirtualService", name, namespace, json!({"hosts": [host], "http": route}))
    };
    let mesh = json!({"defaultVirtualServiceExportTo": [".", "ns1"]});
    let store = stored(&mesh, vec![service("mesh-rule1", "test1"), service("mesh-rule2", "test2")]);
    Some(store.and_then(|store| same(seen(&store, v), texts(&v["wantHosts"]))))
}

fn visible_services(v: &Value) -> Result<(), String> {
    let one = |host: &str, namespace: &str, to: &[&str], registry: &str| {
        service(&json!({"Hostname": host, "Attributes": {"Namespace": namespace, "ExportTo": to,
            "ServiceRegistry": registry}}))
    };
    let services = vec![
        one("svc1", "test1", &[".", "ns1"], ""),
        one("svc2", "test2", &["test1", "ns1", "test2"], ""),
        one("svc3", "test3", &["test1", "*", "test2"], ""),
        one("svc4", "test4", &[], "External"),
        one("svc4", "test4", &[], "External"),
        one("svc4", "test4", &[], "Kubernetes"),
    ];
    let store = Store::new(MeshConfig::from_json(&json!({"rootNamespace": "zzz"})));
    let snapshot = super::scope::with_services(&store.snapshot(), services);
    let seen = snapshot.services_visible_to(word(&v["proxyNs"]));
    same(seen.iter().map(|s| s.hostname.to_string()).collect(), texts(&v["wantHosts"]))
}

/// The `Sidecar` that governs a proxy: its own namespace's for chosen workloads, and one for everybody.
fn governing_sidecar(v: &Value) -> Result<(), String> {
    let egress = json!([{"hosts": ["default/*"]}]);
    let chosen = json!({"workloadSelector": {"labels": {"app": "foo"}}, "egress": egress});
    let store = stored(
        &json!({}),
        vec![
            made("Sidecar", "foo", "default", chosen),
            made("Sidecar", "global", "istio-system", json!({"egress": egress})),
        ],
    )?;
    let router = v["proxy"]["Type"].to_string().contains("Router");
    let node_type = if router { NodeType::Router } else { NodeType::Sidecar };
    let namespace = word(&v["proxy"]["ConfigNamespace"]);
    let proxy = Proxy::new(node_type, "1.1.1.1", namespace, literal::labels(&v["labels"]));
    let view = ProxyView::new(&store.snapshot(), &Arc::new(proxy));
    let name = view.scope.config.as_ref().map_or_else(|| "default-sidecar".to_owned(), |c| c.name.to_string());
    same(format!("{namespace}/{name}").as_str(), word(&v["sidecar"]))
}

/// How clients should speak with a service that no rule speaks about.
fn inferred_mtls(v: &Value) -> Result<(), String> {
    let namespace = word(&v["serviceNamespace"]);
    let host = format!("some-service.{namespace}.svc.cluster.local");
    let passthrough = word(&v["serviceResolution"]["$ident"]) == "Passthrough";
    let policy = |name: &str, namespace: &str, spec: Value| made("PeerAuthentication", name, namespace, spec);
    let chosen = json!({"selector": {"matchLabels": {"app": "httpbin", "version": "v1"}}, "mtls": {"mode": "DISABLE"}});
    let policies =
        [policy("default", "whole", json!({"mtls": {"mode": "STRICT"}})), policy("workload", "partial", chosen)];
    let policies: Vec<_> = policies.into_iter().collect::<Result<_, _>>()?;
    let mut s = service(&json!({"Hostname": host, "Attributes": {"Namespace": namespace},
        "Ports": [{"Name": "p", "Port": v["servicePort"], "Protocol": "HTTP"}]}));
    if passthrough {
        s.resolution = model::Resolution::Passthrough;
    }
    let speaks = |s: model::Service| -> Result<bool, String> {
        let with_endpoints = v["serviceInstances"].is_array();
        let name = names::ClusterName::outbound(s.ports[0].number, "", &s.hostname).to_string();
        let all = clusters(&world(&json!({}), sidecar("client"), vec![s], policies.clone(), with_endpoints))?;
        let c = all.get(&name).ok_or("no cluster")?;
        Ok(c.transport_socket.is_some() || !c.transport_socket_matches.is_empty())
    };
    let mut external = s.clone();
    external.mesh_external = true;
    same(speaks(external)?, false)?;
    let got = if speaks(s)? {
        let store = stored(&json!({}), policies.into_iter().map(Ok).collect())?;
        let none = names::Labels::new();
        let all = &store.snapshot().peer_authentications;
        format!("MTLS{:?}", model::security::peer_authentication(all, namespace, &none, "istio-system").mode)
    } else {
        "MTLSDisable".to_owned()
    };
    same(got.as_str(), word(&v["wanted"]["$ident"]))
}

/// How many patches of the filters in both of the table's namespaces are for a proxy.
fn filters(v: &Value) -> Result<(), String> {
    let patch = |apply_to: &str, version: &str| {
        let mut matches = json!({});
        if !version.is_empty() {
            matches["proxy"] = json!({"proxyVersion": version});
        }
        let value = json!({"name": "x"});
        json!([{"applyTo": apply_to, "match": matches, "patch": {"operation": "MERGE", "value": value}}])
    };
    let app = json!({"labels": {"app": "v1"}});
    let gateway = |name: &str| json!([{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": name}]);
    let mut resources = Vec::new();
    for namespace in ["istio-system", "test-ns"] {
        let mut add = |name: &str, spec: Value| made("EnvoyFilter", name, namespace, spec).map(|r| resources.push(r));
        add("ef1-listener", json!({"workloadSelector": app, "configPatches": patch("LISTENER", "1\\.4.*")}))?;
        add("ef2-cluster", json!({"workloadSelector": app, "configPatches": patch("CLUSTER", "1\\.4.*")}))?;
    }
    // The table's two lists hold the same filter.
    for name in ["ef3-cluster", "ef3-again-cluster"] {
        let spec = json!({"targetRefs": gateway("gateway-1"), "configPatches": patch("CLUSTER", "1\\.4.*")});
        resources.push(made("EnvoyFilter", name, "test-ns", spec)?);
    }
    let mut proxy = sidecar(word(&v["proxy"]["ConfigNamespace"]));
    proxy.labels = literal::labels(&v["proxy"]["Labels"]);
    if proxy.labels.contains_key("gateway.networking.k8s.io/gateway-name") {
        proxy.node_type = NodeType::Router;
    }
    let version = translate::wire::text_value(word(&v["proxy"]["Metadata"]["IstioVersion"]));
    proxy.metadata.fields.insert("ISTIO_VERSION".to_owned(), version);
    let inputs: Inputs = inputs(&json!({}), proxy, resources);
    let others: Vec<(String, usize)> = translate::patch::unapplied(&inputs)
        .into_iter()
        .filter(|u| u.reason.contains("another version"))
        .map(|u| (u.filter, u.position))
        .collect();
    let found: Vec<(String, usize)> =
        translate::patch::considered(&inputs).into_iter().filter(|p| !others.contains(p)).collect();
    let count = |kind: &str| found.iter().filter(|(f, _)| f.ends_with(kind)).count() as u64;
    let want = |key: &str| v[key].as_u64().unwrap_or(0);
    same(
        (count("listener"), count("cluster"), 0),
        (want("expectedListenerPatches"), want("expectedClusterPatches"), want("expectedHTTPFilterPatches")),
    )
}

pub fn serve(func: &str, v: &Value) -> Outcome {
    Some(match func {
        "TestSetDestinationRuleWithExportTo" => exported_rules(v),
        "TestSetDestinationRuleWithWorkloadSelector" => selecting_rules(v),
        "TestVirtualServiceWithExportTo" => exported_services(v),
        "TestVirtualServiceWithDefaultExportTo" => return default_exports(v),
        "TestServiceWithExportTo" => visible_services(v),
        "TestSidecarScope" => governing_sidecar(v),
        "TestBestEffortInferServiceMTLSMode" => inferred_mtls(v),
        // Waypoints come later.
        "TestEnvoyFilters" if v["proxy"]["Type"] == "waypoint" => return None,
        "TestEnvoyFilters" => filters(v),
        _ => return None,
    })
}
