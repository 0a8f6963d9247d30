//! Conditions of `EnvoyFilter` patches: a patch that leaves a mark, and whether the mark is there.

use protos::envoy::config::cluster::v3 as cluster;
use protos::envoy::config::route::v3 as route;
use serde_json::{Value, json};

use super::{Outcome, flag, inputs, made, router, sidecar, word};
use crate::common::literal::{self, message, same};

fn world(apply_to: &str, condition: Value, mark: Value, gateway: bool) -> Result<translate::Inputs, String> {
    let patch = json!({"applyTo": apply_to, "match": condition, "patch": {"operation": "MERGE", "value": mark}});
    let filter = made("EnvoyFilter", "f", "istio-system", json!({"configPatches": [patch]}))?;
    let proxy = if gateway { router("istio-system") } else { sidecar("istio-system") };
    Ok(inputs(&json!({}), proxy, vec![filter]))
}

fn condition(v: &Value) -> Value {
    let c = literal::plain(v);
    if c.is_object() { c } else { json!({}) }
}

fn cluster_match(v: &Value) -> Result<(), String> {
    let args = &v["args"];
    let inputs = world("CLUSTER", condition(&args["matchCondition"]), json!({"alt_stat_name": "patched"}), false)?;
    let mut clusters: Vec<cluster::Cluster> = vec![message(&args["cluster"])?];
    translate::patch::apply_to_clusters(&inputs, &mut clusters);
    same(clusters[0].alt_stat_name == "patched", flag(&v["want"]))
}

fn configuration_match(v: &Value) -> Result<(), String> {
    let args = &v["args"];
    let gateway = word(&args["patchContext"]) == "GATEWAY";
    let mark = json!({"max_direct_response_body_size_bytes": 7});
    let inputs = world("ROUTE_CONFIGURATION", condition(&args["cp"]["Match"]), mark, gateway)?;
    let mut config: route::RouteConfiguration =
        if args["rc"].is_null() { Default::default() } else { message(&args["rc"])? };
    translate::patch::apply_to_routes(&inputs, &mut config);
    same(config.max_direct_response_body_size_bytes == Some(7), flag(&v["want"]))
}

fn route_match(v: &Value) -> Result<(), String> {
    let args = &v["args"];
    let inputs = world("HTTP_ROUTE", condition(&args["cp"]["Match"]), json!({"stat_prefix": "patched"}), false)?;
    let r: route::Route = if args["httpRoute"].is_null() { Default::default() } else { message(&args["httpRoute"])? };
    let vhost = route::VirtualHost { name: "v".to_owned(), routes: vec![r], ..Default::default() };
    let mut config = route::RouteConfiguration { virtual_hosts: vec![vhost], ..Default::default() };
    translate::patch::apply_to_routes(&inputs, &mut config);
    same(config.virtual_hosts[0].routes[0].stat_prefix == "patched", flag(&v["want"]))
}

fn host_match(v: &Value) -> Result<(), String> {
    let args = &v["args"];
    let mark = json!({"include_request_attempt_count": true});
    let inputs = world("VIRTUAL_HOST", condition(&args["cp"]["Match"]), mark, false)?;
    let vhost: route::VirtualHost = if args["vh"].is_null() { Default::default() } else { message(&args["vh"])? };
    let mut config = route::RouteConfiguration { virtual_hosts: vec![vhost], ..Default::default() };
    translate::patch::apply_to_routes(&inputs, &mut config);
    same(config.virtual_hosts[0].include_request_attempt_count, flag(&v["want"]))
}

pub fn serve(func: &str, v: &Value) -> Outcome {
    // Facts that the messages do not hold: the inbound cluster's service, listener ports behind others.
    if !v["args"]["portMap"].is_null() || func == "Test_clusterMatch" && !v["args"]["host"].is_null() {
        return None;
    }
    Some(match func {
        "Test_clusterMatch" => cluster_match(v),
        "Test_routeConfigurationMatch" => configuration_match(v),
        "Test_routeMatch" => route_match(v),
        "Test_virtualHostMatch" => host_match(v),
        _ => return None,
    })
}
