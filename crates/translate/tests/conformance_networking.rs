//! The original's tables of networking and model: names, clusters, listeners, routes, scopes, telemetry, by value.
#![allow(missing_docs)]

mod common;
mod networking;

use common::conformance;
use common::literal::{Report, case_name, plain};
use serde_json::Value;

/// Cases that differ on purpose; the reasons are in docs/differences.md.
const ALLOWED: [(&str, &str); 1] = [("TestMergeGateways", "http-http2-server-config")];

fn run(file: &str, area: &str) {
    let Some(path) = conformance(file) else {
        println!("{area}: not run, no conformance data (PROA_CONFORMANCE)");
        return;
    };
    let tables: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let mut report = Report::default();
    for table in &tables {
        let func = table["func"].as_str().or(table["var"].as_str()).unwrap_or_default();
        for case in table["cases"].as_array().into_iter().flatten() {
            // Tables keyed by name.
            let (v, name) = match (case["v"].get("$key"), case["v"].get("$val")) {
                (Some(key), Some(value)) => (value, key.as_str().unwrap_or_default().to_owned()),
                _ => (&case["v"], case_name(&plain(&case["v"]))),
            };
            let result = networking::small::serve(func, v)
                .or_else(|| networking::cluster::serve(func, v))
                .or_else(|| networking::route::serve(func, v))
                .or_else(|| networking::scope::serve(func, v))
                .or_else(|| networking::telemetry::serve(func, v))
                .or_else(|| networking::patch::serve(func, v));
            report.add(func, &name, ALLOWED.contains(&(func, name.as_str())), result);
        }
    }
    report.finish(area);
}

#[test]
fn core() {
    run("networking/core.json", "networking-core");
}

#[test]
fn model() {
    run("networking/model.json", "networking-model");
}
