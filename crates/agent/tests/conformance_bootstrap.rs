//! Does our bootstrap equal the original's? Every case of `conformance/bootstrap`: proxy configuration in protobuf text,
//! environment and annotations in; both results compared as `envoy.config.bootstrap.v3.Bootstrap`.
//!
//! The data is read from `../shared/conformance` beside the checkout or from `PROA_CONFORMANCE`, never copied.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use agent::bootstrap::{Inputs, bootstrap};
use agent::config::ProxyConfig;
use agent::node::{self, Facts};
use serde_json::{Map, Value, json};

const MESSAGE: &str = "envoy.config.bootstrap.v3.Bootstrap";

fn data() -> Option<PathBuf> {
    let root = std::env::var_os("PROA_CONFORMANCE").map(PathBuf::from);
    let root = root.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance"));
    Some(root.join("bootstrap")).filter(|d| d.is_dir())
}

#[test]
fn bootstraps_equal_the_originals() {
    let Some(dir) = data() else {
        println!("conformance/bootstrap: not run, data folder absent (PROA_CONFORMANCE or ../shared/conformance)");
        return;
    };
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let tables: Value = serde_json::from_str(&read("cases.json")).unwrap();
    let (mut passed, mut failures) = (0, Vec::new());
    for case in tables.as_array().unwrap().iter().flat_map(|t| t["cases"].as_array().unwrap()) {
        let case = &case["v"];
        let base = case["base"].as_str().unwrap();
        let golden = dir.join(format!("{base}_golden.json"));
        if !golden.exists() {
            continue;
        }
        let golden: Value = serde_json::from_str(&std::fs::read_to_string(golden).unwrap()).unwrap();
        match compare(&make(base, case, &read(&format!("{base}.proxycfg"))), &golden) {
            Ok(()) => passed += 1,
            Err(difference) => failures.push(format!("{base}: {difference}")),
        }
    }
    for failure in &failures {
        println!("FAILED {failure}");
    }
    println!(
        "{}",
        json!({"area": "bootstrap", "passed": passed, "failed": failures.len(), "allowed": 0, "not_served": 0})
    );
    assert!(failures.is_empty() && passed > 0, "{} of {} differ", failures.len(), passed + failures.len());
}

fn make(base: &str, case: &Value, proxycfg: &str) -> Value {
    let strings = |v: &Value| -> BTreeMap<String, String> {
        let map = v.as_object().into_iter().flatten();
        map.map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned())).collect()
    };
    let mut config = ProxyConfig::from_json(text_format(proxycfg));
    config.set("configPath", format!("/tmp/bootstrap/{base}"));
    config.set("customConfigFile", "envoy_bootstrap.json");
    config.set("statusPort", 15020);
    let mut env = strings(&case["envVars"]);
    if !env.is_empty() {
        // The original's test hands variables over as the configuration's metadata.
        config.set("proxyMetadata", json!(env));
    }
    env.insert("ISTIO_META_ISTIO_VERSION".into(), "binary-1.0".into());
    env.insert("ISTIO_META_METADATA_DISCOVERY".into(), "false".into());
    let facts = Facts {
        env,
        annotations: strings(&case["annotations"]),
        ips: ["10.3.3.3", "10.4.4.4", "10.5.5.5", "10.6.6.6", "10.4.4.4"].map(String::from).into(),
        pilot_sans: vec!["spiffe://cluster.local/ns/istio-system/sa/istio-pilot-service-account".into()],
        outlier_log_path: "/dev/stdout".into(),
        identity_socket: "test.sock".into(),
        prometheus_port: 15090,
        status_port: 15021,
        ..Facts::default()
    };
    let node = node::node("sidecar~1.2.3.4~foo~bar", &facts, &config);
    bootstrap(&Inputs {
        node: &node,
        config: &config,
        xds_socket: "/tmp/XDS".into(),
        sds_socket: "./var/run/secrets/workload-spiffe-uds/test.sock".into(),
        ipv6_only: false,
        dual_stack: false,
        admin_socket: None,
        metrics_local_only: false,
    })
}

/// Both through the schema, so that spelling does not matter; the order of the stats patterns neither.
fn compare(ours: &Value, golden: &Value) -> Result<(), String> {
    let canonical = |v: &Value| -> Result<Value, String> {
        let bytes = protos::json::from_json(MESSAGE, v).map_err(|e| e.to_string())?;
        let mut v =
            protos::json::to_json(MESSAGE, &bytes, protos::json::Options::default()).map_err(|e| e.to_string())?;
        if let Some(patterns) =
            v.pointer_mut("/stats_config/stats_matcher/inclusion_list/patterns").and_then(Value::as_array_mut)
        {
            patterns.sort_by_key(Value::to_string);
        }
        // The token file's directory is the test machine's.
        if let Some(path) = v.pointer_mut("/tracing/http/typed_config/access_token_file") {
            *path = path.as_str().unwrap_or_default().rsplit('/').next().unwrap_or_default().into();
        }
        Ok(v)
    };
    let ours = canonical(ours).map_err(|e| format!("ours: {e}"))?;
    let golden = canonical(golden).map_err(|e| format!("golden: {e}"))?;
    difference("", &ours, &golden).map_or(Ok(()), Err)
}

/// The first place where two values differ.
fn difference(path: &str, ours: &Value, golden: &Value) -> Option<String> {
    match (ours, golden) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
            keys.into_iter().find_map(|k| {
                difference(&format!("{path}/{k}"), a.get(k).unwrap_or(&Value::Null), b.get(k).unwrap_or(&Value::Null))
            })
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().find_map(|(i, (a, b))| difference(&format!("{path}/{i}"), a, b))
        }
        // 2 and 2.0 are one number in a Struct.
        (Value::Number(a), Value::Number(b)) if a.as_f64() == b.as_f64() => None,
        (a, b) if a == b => None,
        (a, b) => Some(format!("{path}: ours {a}, original {b}")),
    }
}

/// Protobuf's text format, as far as the cases use it, into protobuf's JSON form: durations and wrappers become scalars.
fn text_format(text: &str) -> Value {
    let mut tokens = Vec::new();
    let text: String = text.lines().map(|l| l.split('#').next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
    let mut rest = text.as_str();
    while let Some(c) = rest.trim_start().chars().next() {
        rest = rest.trim_start();
        let len = match c {
            '"' => rest[1..].find('"').unwrap() + 2,
            '{' | '}' | ':' | '[' | ']' | ',' | ';' => 1,
            _ => rest.find(|c: char| c.is_whitespace() || "{}:[],;\"".contains(c)).unwrap_or(rest.len()),
        };
        tokens.push(rest[..len].to_owned());
        rest = &rest[len..];
    }
    let mut tokens = tokens.into_iter().peekable();
    message(&mut tokens)
}

type Tokens = std::iter::Peekable<std::vec::IntoIter<String>>;

fn message(tokens: &mut Tokens) -> Value {
    let mut out = Map::new();
    while let Some(token) = tokens.next() {
        match token.as_str() {
            "}" => break,
            "," | ";" => continue,
            _ => {}
        }
        if tokens.peek().is_some_and(|t| t == ":") {
            tokens.next();
        }
        let name = camel(&token);
        let value = value(tokens);
        match (out.get_mut(&name), value) {
            // Map entries: `runtime_values { key: "a" value: "b" }`.
            (Some(Value::Object(map)), Value::Object(entry)) if entry.contains_key("key") => {
                map.insert(entry["key"].as_str().unwrap().to_owned(), entry["value"].clone());
            }
            (None, Value::Object(entry)) if entry.contains_key("key") => {
                let map = Map::from_iter([(entry["key"].as_str().unwrap().to_owned(), entry["value"].clone())]);
                out.insert(name, map.into());
            }
            (_, value) => drop(out.insert(name, value)),
        }
    }
    let fields: Vec<&str> = out.keys().map(String::as_str).collect();
    match fields.as_slice() {
        ["seconds"] => format!("{}s", out["seconds"]).into(),
        ["value"] => out["value"].clone(),
        _ => out.into(),
    }
}

fn value(tokens: &mut Tokens) -> Value {
    let token = tokens.next().unwrap_or_default();
    match token.as_str() {
        "{" => message(tokens),
        "[" => {
            let mut list = Vec::new();
            while let Some(next) = tokens.peek().cloned() {
                match next.as_str() {
                    "]" => {
                        tokens.next();
                        break;
                    }
                    "," => drop(tokens.next()),
                    _ => list.push(value(tokens)),
                }
            }
            list.into()
        }
        "true" | "false" => (token == "true").into(),
        t if t.starts_with('"') => t.trim_matches('"').into(),
        t => t.parse::<i64>().map_or_else(|_| t.into(), Value::from),
    }
}

fn camel(name: &str) -> String {
    let mut parts = name.split('_');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |mut out, part| {
        out.push_str(&part[..1].to_uppercase());
        out.push_str(&part[1..]);
        out
    })
}
