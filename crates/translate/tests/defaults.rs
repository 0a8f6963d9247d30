//! What does a sidecar get where nobody says anything? Istio's choices that a resource does not show: retries, mirrored
//! hosts, listeners' logs, peers' headers, names of workloads. Each was compared with stock istiod 1.32-dev.
#![allow(missing_docs)]

mod common;

use std::sync::Arc;

use model::{Capabilities, Change, MeshConfig, Proxy, ProxyView, Store};
use protos::envoy::config::core::v3 as core;
use protos::envoy::config::route::v3::route::Action;
use protos::envoy::config::route::v3::{RetryPolicy, RouteAction};
use protos::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use protos::io::istio::http::peer_metadata::Config as PeerMetadata;
use protos::prost::{Message as _, Name as _};
use serde_json::{Value, json};
use translate::Inputs;

const MESH: &str = r#"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: shop, namespace: a}
spec:
  hosts: [shop.example]
  addresses: [10.7.0.1]
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 9000, name: tcp, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: 10.8.0.1}, {address: 10.8.0.2}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: bank, namespace: a}
spec:
  hosts: [bank.example]
  ports: [{number: 8080, name: http, protocol: HTTP}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop, namespace: a}
spec:
  hosts: [shop.example]
  http:
  - match: [{uri: {prefix: /mirrored}}]
    mirror: {host: bank.example, port: {number: 8080}}
    route: [{destination: {host: shop.example}}]
  - match: [{uri: {prefix: /thrice}}]
    retries: {attempts: 3}
    route: [{destination: {host: shop.example}}]
  - route: [{destination: {host: shop.example}}]
"#;

fn inputs(mesh: Value) -> Inputs {
    let mut store = Store::new(MeshConfig::from_json(&mesh));
    store.apply(common::resources(MESH, "a").into_iter().map(Change::Apply));
    let proxy = Proxy { capabilities: Capabilities::ALL, ..common::sidecar("10.0.0.9", "a", &[]) };
    Inputs::new(Arc::new(ProxyView::new(&store.snapshot(), &Arc::new(proxy))))
}

/// The actions of the shop's routes, in order.
fn actions() -> Vec<RouteAction> {
    let table = translate::route::build(&inputs(Value::Null), "80");
    let host = table.virtual_hosts.iter().find(|v| v.domains.iter().any(|d| d == "shop.example")).expect("the shop");
    let actions = host.routes.iter().map(|r| match &r.action {
        Some(Action::Route(action)) => action.clone(),
        other => panic!("{other:?}"),
    });
    actions.collect()
}

#[test]
fn retries_leave_unsafe_answers_alone() {
    let told = |p: &RetryPolicy| (p.num_retries, p.retriable_status_codes.clone());
    let policies: Vec<_> = actions().iter().map(|a| told(a.retry_policy.as_ref().expect("a policy"))).collect();
    assert_eq!(policies, [(Some(2), vec![]), (Some(3), vec![]), (Some(2), vec![])]);
}

#[test]
fn mirrored_requests_keep_their_host() {
    let actions = actions();
    let [mirror] = actions[0].request_mirror_policies.as_slice() else { panic!("{actions:?}") };
    assert!(mirror.disable_shadow_host_suffix_append);
}

#[test]
fn only_the_capture_logs_connections_that_no_chain_takes() {
    let listeners = translate::listener::build(&inputs(json!({"accessLogFile": "/dev/stdout"})));
    let outbound = listeners.iter().filter(|l| l.traffic_direction() == core::TrafficDirection::Outbound);
    let logging: Vec<&str> = outbound.clone().filter(|l| !l.access_log.is_empty()).map(|l| l.name.as_str()).collect();
    assert!(outbound.count() > 2);
    assert_eq!(logging, ["virtualOutbound"]);
}

/// Whether the outbound side withholds its name from services outside of the mesh.
fn withholds(mesh: Value) -> bool {
    let listeners = translate::listener::build(&inputs(mesh));
    let chains = listeners.iter().flat_map(|l| l.filter_chains.iter().chain(&l.default_filter_chain));
    let configs = chains.flat_map(|c| &c.filters).filter_map(|f| {
        use protos::envoy::config::listener::v3::filter::ConfigType;
        let Some(ConfigType::TypedConfig(any)) = &f.config_type else { return None };
        (any.type_url == HttpConnectionManager::type_url()).then(|| HttpConnectionManager::decode(&*any.value).ok())?
    });
    let filters = configs.flat_map(|hcm| hcm.http_filters).filter_map(|f| {
        use protos::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType;
        let Some(ConfigType::TypedConfig(any)) = f.config_type else { return None };
        (f.name == "istio.metadata_exchange").then(|| PeerMetadata::decode(&*any.value).expect("the filter"))
    });
    let outbound: Vec<PeerMetadata> = filters.filter(|p| !p.upstream_propagation.is_empty()).collect();
    assert!(!outbound.is_empty());
    outbound.iter().flat_map(|p| &p.upstream_propagation).all(|method| {
        use protos::io::istio::http::peer_metadata::config::propagation_method::MethodSpecifier;
        matches!(&method.method_specifier, Some(MethodSpecifier::IstioHeaders(h)) if h.skip_external_clusters)
    })
}

#[test]
fn peers_are_told_to_everybody_unless_the_mesh_keeps_them() {
    assert!(!withholds(Value::Null));
    let mode = json!({"metadataExchangeHeaders": {"mode": "IN_MESH"}});
    assert!(withholds(json!({"defaultConfig": {"proxyHeaders": mode}})));
}

/// `istio.workload` of the endpoints of a cluster, in order.
fn workloads(load: &protos::envoy::config::endpoint::v3::ClusterLoadAssignment) -> Vec<String> {
    let endpoints = load.endpoints.iter().flat_map(|l| &l.lb_endpoints);
    let text = endpoints.map(|e| {
        let metadata = e.metadata.as_ref().expect("metadata");
        match &metadata.filter_metadata["istio"].fields["workload"].kind {
            Some(prost_types::value::Kind::StringValue(text)) => text.clone(),
            other => panic!("{other:?}"),
        }
    });
    text.collect()
}

#[test]
fn endpoints_of_an_entry_are_named_after_it() {
    let inputs = inputs(Value::Null);
    let shop = translate::endpoint::load_assignment(&inputs, "outbound|80||shop.example").expect("known");
    let cluster = inputs.proxy().cluster_id.clone();
    assert_eq!(workloads(&shop), [format!("shop-0;a;shop-0;;{cluster}"), format!("shop-1;a;shop-1;;{cluster}")]);
    let clusters = translate::cluster::build(&inputs);
    let bank = clusters.iter().find(|c| c.name == "outbound|8080||bank.example").expect("the bank");
    assert_eq!(workloads(bank.load_assignment.as_ref().expect("inline")), [format!("bank;a;bank;;{cluster}")]);
    let resolver = bank.typed_dns_resolver_config.as_ref().expect("a limit of queries");
    assert_eq!(resolver.name, "envoy.network.dns_resolver.cares");
    let thresholds = bank.circuit_breakers.iter().flat_map(|b| &b.thresholds);
    assert!(thresholds.clone().count() > 0 && thresholds.clone().all(|t| !t.track_remaining));
}
