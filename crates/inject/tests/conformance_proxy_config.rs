//! Does a proxy start with what Istio would give it? The tables of `ProxyConfig` out of `networking/model.json` of the
//! conformance folder (see `conformance_injection.rs` for where it is read from).

use std::collections::BTreeMap;
use std::path::PathBuf;

use api::mesh::{MeshConfig, ProxyConfig};
use api::shape::Shape as _;
use inject::proxy_config::{Stated, as_overlay, effective};
use serde_json::{Map, Value, json};

#[test]
fn proxy_config() {
    let dir = match std::env::var_os("PROA_CONFORMANCE") {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance"),
    };
    let Ok(text) = std::fs::read_to_string(dir.join("networking/model.json")) else {
        println!("proxy config: not run, the conformance data is absent (set PROA_CONFORMANCE)");
        return;
    };
    let tables: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    let (mut passed, mut failed, mut not_served) = (0, Vec::new(), 0);
    for table in &tables {
        let function = table["func"].as_str().unwrap_or_default();
        let run = match function {
            "TestConvertToMeshConfigProxyConfig" => converted,
            "TestMergeWithPrecedence" => merged,
            "TestEffectiveProxyConfig" => in_force,
            _ => continue,
        };
        for case in table["cases"].as_array().into_iter().flatten() {
            match run(&case["v"]) {
                None => not_served += 1,
                Some((found, want)) if found == want => passed += 1,
                Some((found, want)) => {
                    failed.push(format!("{function} {}: found {found} want {want}", case["v"]["name"]))
                }
            }
        }
    }
    println!(
        "{}",
        json!({"area": "networking-proxy-config", "passed": passed, "failed": failed.len(), "allowed": 0, "not_served": not_served})
    );
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// A literal without the extraction's annotations; what a call is given stands for what it makes.
fn plain(v: &Value) -> Value {
    match v {
        Value::Object(map) if map.contains_key("$call") => map["args"].get(0).map_or(Value::Null, plain),
        Value::Object(map) => {
            let fields = map.iter().filter(|(k, v)| !matches!(k.as_str(), "$t" | "") && !v.is_null());
            Value::Object(fields.map(|(k, v)| (k.clone(), plain(v))).filter(|(_, v)| !v.is_null()).collect())
        }
        Value::Array(items) => items.iter().map(plain).collect(),
        other => other.clone(),
    }
}

/// The mesh's message; none is an empty one.
fn message(v: &Value) -> Option<ProxyConfig> {
    match plain(v) {
        Value::Null => Some(ProxyConfig::default()),
        v => api::from_value(&v).ok(),
    }
}

fn converted(v: &Value) -> Option<(Value, Value)> {
    let spec: api::networking::ProxyConfig = api::from_value(&plain(&v["pc"])).ok()?;
    Some((as_overlay(&spec), message(&v["expected"])?.write()))
}

fn merged(v: &Value) -> Option<(Value, Value)> {
    let found = message(&v["second"])?.overlay(&message(&v["first"])?.write()).ok()?;
    Some((found.write(), message(&v["expected"])?.write()))
}

/// `newProxyConfig(name, namespace, spec)`, perhaps with a time of creation around it.
fn stated(v: &Value, age: usize) -> Option<Stated> {
    let args = v["args"].as_array()?;
    if v["$call"] == "setCreationTimestamp" {
        // The first of them was made now, all others an hour later.
        let later = args[1]["$call"].as_str().is_some_and(|c| c.ends_with("Add"));
        return stated(&args[0], age + usize::from(later) * 10);
    }
    let document = json!({"metadata": {"name": args[0], "namespace": args[1],
        "creationTimestamp": format!("2026-01-01T00:00:{age:02}Z")}, "spec": with_selector(&args[2])});
    Stated::read(&document)
}

/// `selector(labels)` makes a selector of its labels.
fn with_selector(spec: &Value) -> Value {
    let mut out = plain(spec);
    if spec["selector"]["$call"] == "selector" {
        out["selector"] = json!({"matchLabels": plain(&spec["selector"]["args"][0])});
    }
    out
}

/// `newMeta(namespace, labels, annotations)`.
fn in_force(v: &Value) -> Option<(Value, Value)> {
    let proxy = v["proxy"]["args"].as_array()?;
    let texts = |v: &Value| -> BTreeMap<String, String> {
        let map = v.as_object().cloned().unwrap_or_default();
        map.into_iter()
            .filter(|(k, _)| k != "$t")
            .filter_map(|(k, v)| Some((key(&k), v.as_str()?.to_owned())))
            .collect()
    };
    let annotations = texts(&proxy[2]);
    let all: Vec<Stated> =
        v["configs"].as_array().into_iter().flatten().enumerate().map(|(n, c)| stated(c, n)).collect::<Option<_>>()?;
    let mut mesh = MeshConfig::istio_default();
    let default = mesh.proxy_config().overlay(&plain_object(&v["defaultConfig"])).ok()?;
    mesh.default_config = Some(default);
    let annotation = annotations.get("proxy.istio.io/config").map(String::as_str);
    let found = effective(&mesh, &all, proxy[0].as_str()?, &texts(&proxy[1]), annotation).ok()?;
    let want = ProxyConfig::istio_default().overlay(&plain_object(&v["expected"])).ok()?;
    Some((found.write(), want.write()))
}

fn plain_object(v: &Value) -> Value {
    match plain(v) {
        Value::Object(map) => Value::Object(map),
        _ => Value::Object(Map::new()),
    }
}

/// A key that names a constant stands for its value.
fn key(text: &str) -> String {
    if text.contains("annotation.ProxyConfig") { "proxy.istio.io/config".to_owned() } else { text.to_owned() }
}
