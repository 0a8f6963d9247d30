//! Which endpoints does a client hear of, and as how healthy?
#![allow(missing_docs)]

mod common;

use std::sync::Arc;

use model::{Change, MeshConfig, ProxyView, Store};
use protos::envoy::config::core::v3::HealthStatus;
use protos::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use translate::Inputs;

const MESH: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web, namespace: a}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: ready, namespace: a, labels: {app: web}}
spec: {containers: [{name: c, image: i}]}
status: {phase: Running, podIP: 10.0.0.1, conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: starting, namespace: a, labels: {app: web}}
spec: {containers: [{name: c, image: i}]}
status: {phase: Running, podIP: 10.0.0.2, conditions: [{type: Ready, status: "False"}]}
"#;

/// Asks for a share of healthy hosts below which all get traffic.
const SHARE: &str = r#"
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web, namespace: a}
spec: {host: web, trafficPolicy: {outlierDetection: {minHealthPercent: 50}}}
"#;

fn endpoints(resources: &str) -> Vec<(String, HealthStatus)> {
    let mut store = Store::new(MeshConfig::default());
    store.apply(common::resources(resources, "a").into_iter().map(Change::Apply));
    let proxy = common::sidecar("10.0.0.9", "a", &[]);
    let inputs = Inputs::new(Arc::new(ProxyView::new(&store.snapshot(), &Arc::new(proxy))));
    let cluster = "outbound|80||web.a.svc.cluster.local";
    let load = translate::endpoint::load_assignment(&inputs, cluster).expect("the cluster is known");
    let mut out: Vec<_> = load
        .endpoints
        .iter()
        .flat_map(|l| &l.lb_endpoints)
        .map(|e| {
            let Some(HostIdentifier::Endpoint(at)) = &e.host_identifier else { panic!("an address: {e:?}") };
            (format!("{:?}", at.address), e.health_status())
        })
        .collect();
    out.sort();
    out
}

#[test]
fn endpoints_that_are_not_ready_are_sent_as_unhealthy() {
    let found = endpoints(MESH);
    let health: Vec<_> = found.iter().map(|(_, h)| *h).collect();
    assert_eq!(health, [HealthStatus::Unknown, HealthStatus::Unhealthy], "{found:?}");
    assert!(found[1].0.contains("10.0.0.2"), "{found:?}");
}

#[test]
fn where_panic_would_reach_them_they_are_left_out() {
    let found = endpoints(&format!("{MESH}{SHARE}"));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].0.contains("10.0.0.1"), "{found:?}");
}
