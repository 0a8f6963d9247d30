//! What does a proxy learn of its own replicas, for zone-aware routing?
#![allow(missing_docs)]

mod common;

use protos::envoy::config::endpoint::v3::ClusterLoadAssignment;

const WORLD: &str = r#"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: web}
spec:
  hosts: [web.example.com]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints:
  - {address: 10.0.0.1, locality: r1/z1, labels: {pod-template-hash: a}}
  - {address: 10.0.0.2, locality: r1/z1, labels: {pod-template-hash: a}}
  - {address: 10.0.0.3, locality: r1/z2, labels: {pod-template-hash: a}}
  - {address: 10.0.0.4, locality: r1/z2, labels: {pod-template-hash: b}}
  - {address: 10.0.0.5, locality: r2/z1, labels: {pod-template-hash: a}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web}
spec:
  host: web.example.com
  trafficPolicy: {outlierDetection: {}, loadBalancer: {localityLbSetting: {enabled: true}}}
"#;

fn replicas(ip: &str) -> Vec<(String, u32, usize)> {
    let store = common::store(WORLD);
    let mut proxy = common::sidecar(ip, "default", &[("pod-template-hash", "a")]);
    proxy.locality = "r1/z1".into();
    let inputs = common::inputs(&store, proxy);
    let all = translate::endpoints(&inputs, &["local_cluster".to_owned()]);
    let found: ClusterLoadAssignment = protos::unpack(&all[0].resource).expect("an assignment");
    let zone = |l: &protos::envoy::config::core::v3::Locality| l.zone.clone();
    let groups = found.endpoints.iter();
    groups.map(|g| (g.locality.as_ref().map(zone).unwrap_or_default(), g.priority, g.lb_endpoints.len())).collect()
}

#[test]
fn replicas_are_of_one_region_and_version() {
    // The rule that clients of the service follow gives zones no priorities here.
    assert_eq!(replicas("10.0.0.1"), [("z1".to_owned(), 0, 2), ("z2".to_owned(), 0, 1)]);
}

#[test]
fn a_proxy_that_serves_nothing_is_answered() {
    assert_eq!(replicas("10.9.9.9"), []);
}
