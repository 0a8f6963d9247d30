//! The original's tables of networking and model: names, clusters, listeners, routes, scopes, telemetry, by value.
#![allow(missing_docs)]

mod common;
mod networking;

use common::conformance;
use common::literal::{Report, case_name, plain};
use serde_json::Value;

/// Cases that differ on purpose; the reasons are in docs/differences.md.
const ALLOWED: [(&str, &str); 1] = [("TestMergeGateways", "http-http2-server-config")];

/// Tables whose runner is in the crate that decides them: keys of token issuers in `controlplane`, what a proxy starts
/// with in `inject`.
const ELSEWHERE: [&str; 2] = ["jwks_resolver_test.go", "proxy_config_test.go"];

/// The value of a row and its name; some tables are keyed by name.
fn row(v: &Value) -> (Value, String) {
    match (v.get("$key"), v.get("$val")) {
        (Some(key), Some(value)) => (value.clone(), key.as_str().unwrap_or_default().to_owned()),
        _ => (v.clone(), case_name(&plain(v))),
    }
}

fn run(file: &str, area: &str) {
    let Some(path) = conformance(file) else {
        println!("{area}: not run, no conformance data (PROA_CONFORMANCE)");
        return;
    };
    let tables: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let mut report = Report::default();
    let elsewhere = |table: &&Value| ELSEWHERE.iter().any(|f| table["file"].as_str().is_some_and(|t| t.ends_with(f)));
    for table in tables.iter().filter(|t| !elsewhere(t)) {
        let func = table["func"].as_str().or(table["var"].as_str()).unwrap_or_default();
        let cases: Vec<(Value, String)> =
            table["cases"].as_array().into_iter().flatten().map(|c| row(&c["v"])).collect();
        let all: Vec<Value> = cases.iter().map(|(v, _)| v.clone()).collect();
        for (v, name) in &cases {
            if networking::differences::is_listed(func) {
                report.allowed += 1;
                continue;
            }
            let allowed = ALLOWED.contains(&(func, name.as_str()));
            match networking::serve(func, v, &all) {
                None | Some(Err(_)) if networking::differences::is_on_purpose(func, v) => report.allowed += 1,
                result => report.add(func, name, allowed, result),
            }
        }
    }
    for (table, rows) in &report.not_served {
        let reason = networking::differences::not_served(table).unwrap_or("no runner yet");
        println!("not served: {table}, {rows} rows: {reason}");
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

/// Every table that is left out has its line, with the reason, in the list of differences.
#[test]
fn differences_are_listed() {
    let text = include_str!("../../../docs/differences.md");
    for table in networking::differences::TABLES.iter().flat_map(|(_, tables)| *tables) {
        assert!(text.contains(&format!("`{table}`")), "{table} is not in docs/differences.md");
    }
}
