//! What do `EnvoyFilter`s change? A mesh with one of most kinds of patches; that stock Envoy takes the result is shown
//! in `envoy_accepts`.
#![allow(missing_docs)]

mod common;

use common::{gateway, inputs, sidecar, store};
use serde_json::{Value, json};
use translate::{Inputs, NamedResource};

fn mesh() -> model::Store {
    store(&format!("{}\n---\n{}", include_str!("mesh/httpbin.yaml"), include_str!("mesh/filters.yaml")))
}

fn httpbin() -> Inputs {
    inputs(&mesh(), sidecar("10.0.0.2", "samples", &[("app", "httpbin")]))
}

fn sleep() -> Inputs {
    inputs(&mesh(), sidecar("10.0.0.3", "samples", &[("app", "sleep")]))
}

fn print(r: &NamedResource) -> Value {
    protos::json::to_json(protos::type_name(&r.resource.type_url), &r.resource.value, Default::default())
        .expect("prints")
}

fn of(list: &[NamedResource], name: &str) -> Value {
    print(list.iter().find(|r| r.name == name).unwrap_or_else(|| panic!("no {name}")))
}

fn managers(listener: &Value) -> Vec<(&Value, &Value)> {
    let mut out = Vec::new();
    for chain in listener["filter_chains"].as_array().into_iter().flatten() {
        for f in chain["filters"].as_array().into_iter().flatten() {
            if f["name"] == "envoy.filters.network.http_connection_manager" {
                out.push((chain, &f["typed_config"]));
            }
        }
    }
    out
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(|f| f["name"].as_str()).collect()
}

#[test]
fn http_filters_of_one_inbound_port() {
    let listeners = translate::listeners(&httpbin());
    let inbound = of(&listeners, "virtualInbound");
    let managers = managers(&inbound);
    assert!(!managers.is_empty());
    for (chain, manager) in managers {
        let filters = names(&manager["http_filters"]);
        let patched = chain["filter_chain_match"]["destination_port"] == 8080;
        let at = filters.iter().position(|f| *f == "lua");
        assert_eq!(at.is_some(), patched, "{filters:?}");
        if let Some(at) = at {
            assert_eq!(filters[at + 1..], ["limit", "envoy.filters.http.router"], "{filters:?}");
        }
        assert_eq!(manager["xff_num_trusted_hops"], 5, "the mesh-wide patch");
        assert_eq!(manager["common_http_protocol_options"]["idle_timeout"], "1800s");
    }
}

#[test]
fn inbound_routes_and_listener_filters() {
    let listeners = translate::listeners(&httpbin());
    let inbound = of(&listeners, "virtualInbound");
    let filters = names(&inbound["listener_filters"]);
    let proxy = filters.iter().position(|f| *f == "proxy").expect("inserted");
    assert_eq!(filters[proxy + 1], "envoy.filters.listener.http_inspector", "{filters:?}");
    let (_, manager) = managers(&inbound)
        .into_iter()
        .find(|(c, _)| c["filter_chain_match"]["destination_port"] == 8080)
        .expect("a chain");
    let route = &manager["route_config"]["virtual_hosts"][0]["routes"][0];
    assert_eq!(route["request_headers_to_add"][0]["header"]["key"], "x-patched");
}

#[test]
fn extension_configs_by_name() {
    let got = translate::extension_configs(&httpbin(), &["limit".to_owned(), "other".to_owned()]);
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].name, "limit");
    assert!(translate::extension_configs(&sleep(), &["limit".to_owned()]).is_empty());
}

#[test]
fn clusters_added_merged_removed() {
    let clusters = translate::clusters(&sleep());
    let has = |n: &str| clusters.iter().any(|c| c.name == n);
    assert!(has("extra") && !has("BlackHoleCluster"));
    let c = of(&clusters, "outbound|8000||httpbin.samples.svc.cluster.local");
    assert_eq!(c["connect_timeout"], "0.500s");
    assert!(c["common_lb_config"]["locality_weighted_lb_config"].is_object());
    let other = of(&clusters, "outbound|9000||httpbin.samples.svc.cluster.local");
    assert_ne!(other["connect_timeout"], "0.500s");
    assert!(!translate::clusters(&httpbin()).iter().any(|c| c.name == "extra"), "not selected");
}

#[test]
fn outbound_routes_and_listeners() {
    let inputs = sleep();
    let routes = translate::routes(&inputs, &["8000".to_owned()]);
    let table = print(&routes[0]);
    for vhost in table["virtual_hosts"].as_array().expect("hosts") {
        let patched = vhost["name"] == "httpbin.samples.svc.cluster.local:8000";
        assert_eq!(vhost["routes"][0]["name"] == "first", patched);
        let removed = vhost["request_headers_to_remove"] == json!(["x-secret"]);
        assert_eq!(removed, patched);
    }
    let listeners = translate::listeners(&inputs);
    let l = of(&listeners, "0.0.0.0_8000");
    assert_eq!(l["per_connection_buffer_limit_bytes"], 4096);
    let chains = l["filter_chains"].as_array().expect("chains").iter();
    for chain in chains.chain(l.get("default_filter_chain")) {
        assert_eq!(chain["transport_socket_connect_timeout"], "0.250s");
    }
    let outbound = of(&listeners, "virtualOutbound");
    let mut seen = 0;
    let chains = outbound["filter_chains"].as_array().expect("chains").iter();
    for chain in chains.chain(outbound.get("default_filter_chain")) {
        let filters = names(&chain["filters"]);
        assert_eq!(filters[filters.len() - 2..], ["tcp-limit", "envoy.filters.network.tcp_proxy"]);
        seen += 1;
    }
    assert!(seen > 0, "and the version that does not match removed nothing");
}

#[test]
fn gateway_routes() {
    let inputs = inputs(&mesh(), gateway("10.0.0.9"));
    let listeners = translate::listeners(&inputs);
    let names = common::route_names(&listeners);
    let table = print(&translate::routes(&inputs, &names)[0]);
    assert_eq!(table["request_headers_to_add"][0]["header"]["key"], "x-gateway");
    let hosts = table["virtual_hosts"].as_array().expect("hosts");
    assert_eq!(hosts.last().expect("one")["name"], "more");
}

#[test]
fn patches_without_effect_are_reported() {
    let filter = "
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: mixed, namespace: samples}
spec:
  configPatches:
  - applyTo: CLUSTER
    match: {cluster: {service: nowhere.example}}
    patch: {operation: MERGE, value: {connect_timeout: 7s}}
  - applyTo: CLUSTER
    match: {context: SIDECAR_OUTBOUND, cluster: {service: httpbin.samples.svc.cluster.local}}
    patch: {operation: MERGE, value: {connect_timeout: 7s}}
  - applyTo: HTTP_FILTER
    match: {proxy: {proxyVersion: '^1\\.2\\.'}}
    patch: {operation: INSERT_FIRST, value: {name: x}}
  - applyTo: BOOTSTRAP
    patch: {operation: MERGE, value: {}}
";
    let store = store(&format!("{}\n---\n{filter}", include_str!("mesh/httpbin.yaml")));
    let inputs = inputs(&store, sidecar("10.0.0.3", "samples", &[("app", "sleep")]));
    let told: Vec<usize> = translate::patch::unapplied(&inputs).into_iter().map(|u| u.position).collect();
    assert_eq!(told, [0, 2, 3]);
    assert_eq!(translate::patch::considered(&inputs).len(), 4);
}
