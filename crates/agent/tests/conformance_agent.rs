//! Does port 15020 answer as pilot-agent's does? Every table of `conformance/agent` against the real status server over real
//! sockets: probes, merged metrics, formats, compression, readiness, ways to end, configuration of the proxy.
//!
//! The data is read from `../shared/conformance` beside the checkout or from `PROA_CONFORMANCE`, never copied. What the
//! original's test sets up in code (the application that answers, the ports, the shown results of merges) is set up here again.

mod agent_tables;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

fn data() -> Option<PathBuf> {
    let root = std::env::var_os("PROA_CONFORMANCE").map(PathBuf::from);
    let root = root.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance"));
    Some(root.join("agent/status.json")).filter(|f| f.is_file())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_answers_as_the_original() {
    let Some(file) = data() else {
        println!("conformance/agent: not run, data folder absent (PROA_CONFORMANCE or ../shared/conformance)");
        return;
    };
    let tables: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let (mut passed, mut failures, mut not_served) = (0, Vec::new(), Vec::new());
    for table in tables.as_array().unwrap() {
        let function = table["func"].as_str().unwrap();
        for (at, case) in table["cases"].as_array().unwrap().iter().enumerate() {
            let name = format!("{function} {}", case["v"]["name"].as_str().unwrap_or(&at.to_string()));
            match agent_tables::run(function, &case["v"]).await {
                Some(Ok(())) => passed += 1,
                Some(Err(why)) => failures.push(format!("{name}: {why}")),
                None => not_served.push(name),
            }
        }
    }
    not_served.iter().for_each(|name| println!("not served {name}"));
    failures.iter().for_each(|failure| println!("FAILED {failure}"));
    println!(
        "{}",
        json!({"area": "agent", "passed": passed, "failed": failures.len(), "allowed": 0, "not_served": not_served.len()})
    );
    assert!(failures.is_empty() && passed > 0, "{} of {} differ", failures.len(), passed + failures.len());
}
