//! Does injection give what Istio's injector gives? Runs the cases of the conformance folder, which is read from beside
//! the checkout (`../shared/conformance`) or from `PROA_CONFORMANCE`, and is never copied into the project.
//!
//! Compared structurally. Allowed differences, by field, applied to both sides:
//! * empty objects, empty lists and nulls (Go prints zero values: `resources: {}`, `status: {}`);
//! * quantities by value (`2000m` = `2`, `1024Mi` = `1Gi`);
//! * JSON inside strings by value (`PROXY_CONFIG`, `ISTIO_META_POD_PORTS`, probers, annotations, overrides);
//! * `status` of workloads, and `minReadySeconds: 0`, `paused: false`, `test: false` (zero values again);
//! * empty `value` of an environment variable (the same as none);
//! * order of `volumes`, `volumeMounts`, `env` and `imagePullSecrets` (they are sets by name).
//!
//! Two inputs differ on purpose, see [`ON_PURPOSE`].
//!
//! Prints one JSON line with the counts; `PROA_CONFORMANCE_VERBOSE=1` lists the differences.

use std::path::{Path, PathBuf};

use api::MeshConfig;
use inject::Injector;
use serde_json::{Map, Value, json};

/// Inputs whose goldens we do not want, with the reason.
const ON_PURPOSE: [(&str, &str); 2] = [
    (
        "cronjob.yaml",
        "labels and annotations go to the pod template, where pods get them; kube-inject puts them on the job",
    ),
    (
        "merge-probers.yaml",
        "a pod injected before with a plain sidecar is injected afresh; its old proxy's settings are not kept",
    ),
];

#[test]
fn injection() {
    let Some(dir) = folder() else {
        println!("injection: not run, the conformance data is absent (set PROA_CONFORMANCE)");
        println!(
            "{}",
            json!({"area": "injection", "passed": 0, "failed": 0, "allowed": 0, "not_served": 0, "skipped": "no conformance data"})
        );
        return;
    };
    let read = |name: &str| std::fs::read_to_string(dir.join(name));
    let cases: Vec<Value> = serde_json::from_str(&read("cases.json").expect("cases.json")).expect("JSON");
    let values: Value = serde_json::from_str(&read("values.json").expect("values.json")).expect("JSON");
    let (mut passed, mut allowed, mut failed, mut not_served) = (0, 0, Vec::new(), Vec::new());
    for case in &cases {
        let input = case["in"].as_str().unwrap_or_default();
        let want = case["want"].as_str().unwrap_or_default();
        let name = format!("{input} -> {want}{}", case["expectedError"].as_str().unwrap_or_default());
        let Some(injector) = injector(&dir, case, &values) else {
            not_served.push(name);
            continue;
        };
        match run(&dir, case, &injector) {
            Ok(true) => passed += 1,
            Ok(false) => not_served.push(name),
            Err(_) if ON_PURPOSE.iter().any(|(case, _)| *case == input) => allowed += 1,
            Err(difference) => failed.push(format!("{name}: {difference}")),
        }
    }
    if std::env::var_os("PROA_CONFORMANCE_VERBOSE").is_some() {
        failed.iter().for_each(|line| println!("FAILED {line}"));
        not_served.iter().for_each(|line| println!("not served {line}"));
    }
    println!(
        "{}",
        json!({"area": "injection", "passed": passed, "failed": failed.len(), "allowed": allowed, "not_served": not_served.len()})
    );
    assert!(failed.is_empty(), "{} cases differ from Istio:\n{}", failed.len(), failed.join("\n"));
}

fn folder() -> Option<PathBuf> {
    let dir = match std::env::var_os("PROA_CONFORMANCE") {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance"),
    };
    Some(dir.join("injection")).filter(|d| d.is_dir())
}

/// The injector a case asks for; `None` when its set-up is not data.
fn injector(dir: &Path, case: &Value, values: &Value) -> Option<Injector> {
    let mut values = values.clone();
    if let Some(file) = case["inFilePath"].as_str() {
        let overlay = api::yaml::parse(&std::fs::read_to_string(dir.join(file)).ok()?).ok()?;
        overlay_values(&mut values, &overlay["spec"]["values"]);
    }
    for flag in case["setFlags"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let (path, text) = flag.split_once('=')?;
        let value = text.parse::<i64>().map(Value::from).unwrap_or_else(|_| match text {
            "true" => true.into(),
            "false" => false.into(),
            text => text.into(),
        });
        let pointer = match path {
            "components.cni.enabled" => "pilot.cni.enabled".to_owned(),
            "values.cni.provider" => "pilot.cni.provider".to_owned(),
            other => other.strip_prefix("values.").unwrap_or(other).to_owned(),
        };
        set(&mut values, &pointer, value);
    }
    let mut mesh = json!({
        "defaultConfig": {"discoveryAddress": "istiod.istio-system.svc:15012"},
        "defaultProviders": {"metrics": ["prometheus"]}, "enablePrometheusMerge": true,
        "rootNamespace": "istio-system", "trustDomain": "cluster.local",
    });
    if let Some(sets) = case["mesh"]["$set"].as_object() {
        for (path, value) in sets {
            let path: Vec<String> = path.split('.').map(lower_first).collect();
            let mut value = value.clone();
            if let Some(map) = value.as_object_mut() {
                map.remove("$t");
            }
            set(&mut mesh, &path.join("."), value);
        }
    } else if case["mesh"]["$func"].as_str().is_some_and(|f| f.contains("ISTIO_META_TLS_CLIENT_KEY")) {
        mesh["defaultConfig"]["proxyMetadata"] =
            json!({"ISTIO_META_TLS_CLIENT_KEY": "/etc/identity/client/keys/client-key.pem"});
    } else if !case["mesh"].is_null() {
        return None;
    }
    let mut injector = Injector::new(MeshConfig::overlay(&mesh).ok()?, values);
    injector.native_sidecar = case["test"] != "TestInjectionOlderVersion";
    match case["setup"]["$func"].as_str() {
        None => {}
        Some(f) if f.contains("NativeSidecarModeDisabled") => injector.native_sidecar = false,
        Some(f) if f.contains("fips-140-3") => injector.compliance_policy = "fips-140-3".into(),
        Some(f) if f.contains("OpenShift") => {
            let range = ("openshift.io/sa.scc.uid-range".to_owned(), "1000620000/10000".to_owned());
            injector.proxy_user = inject::policy::openshift_user(&[range].into())?;
        }
        Some(_) => return None,
    }
    Some(injector)
}

fn lower_first(s: &str) -> String {
    let mut chars = s.chars();
    chars.next().map(|c| c.to_ascii_lowercase()).into_iter().chain(chars).collect()
}

fn overlay_values(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (k, v) in over {
                overlay_values(base.entry(k.clone()).or_insert(Value::Null), v);
            }
        }
        (base, over) => *base = over.clone(),
    }
}

fn set(v: &mut Value, path: &str, value: Value) {
    let mut place = v;
    for part in path.split('.') {
        place = &mut place[part];
    }
    *place = value;
}

fn run(dir: &Path, case: &Value, injector: &Injector) -> Result<bool, String> {
    let input = case["in"].as_str().unwrap_or_default();
    let Ok(text) = std::fs::read_to_string(dir.join(input)) else {
        return Ok(false);
    };
    let injected = injector.inject_manifest(&text);
    if let Some(fragment) = case["expectedError"].as_str() {
        return match injected {
            Err(e) if e.to_string().to_lowercase().contains(fragment) => Ok(true),
            other => Err(format!("want an error with {fragment:?}, found {other:?}")),
        };
    }
    let injected = injected.map_err(|e| e.to_string())?;
    let Ok(golden) = std::fs::read_to_string(dir.join(case["want"].as_str().unwrap_or_default())) else {
        return Ok(false);
    };
    let documents = |text: &str| -> Result<Vec<Value>, String> {
        api::yaml::documents(text)
            .into_iter()
            .map(|d| d.map(|d| normal("", &d.value)).map_err(|e| e.to_string()))
            .collect()
    };
    let (found, want) = (documents(&injected)?, documents(&golden)?);
    if found.len() != want.len() {
        return Err(format!("{} documents, want {}", found.len(), want.len()));
    }
    let mut differences = Vec::new();
    for (found, want) in found.iter().zip(&want) {
        compare("", found, want, &mut differences);
    }
    if differences.is_empty() { Ok(true) } else { Err(format!("\n    {}", differences.join("\n    "))) }
}

/// The value with the allowed differences taken out.
fn normal(field: &str, v: &Value) -> Value {
    match v {
        Value::Object(map) => {
            let resources = field == "limits" || field == "requests";
            let mut out = Map::new();
            for (k, v) in map {
                let zero = *v == json!(0) || *v == json!(false);
                if (matches!(k.as_str(), "minReadySeconds" | "paused" | "test") && zero)
                    || (k == "status" && v.as_object().is_some_and(|m| m.values().all(|v| *v == json!(0))))
                    || (k == "value" && *v == json!(""))
                {
                    continue;
                }
                let v = if resources { quantity(v) } else { normal(k, v) };
                let empty =
                    v.is_null() || v.as_object().is_some_and(Map::is_empty) || v.as_array().is_some_and(Vec::is_empty);
                if !empty {
                    out.insert(k.clone(), v);
                }
            }
            Value::Object(out)
        }
        Value::Array(items) => {
            let mut items: Vec<Value> = items.iter().map(|i| normal("", i)).collect();
            if matches!(field, "volumes" | "volumeMounts" | "env" | "imagePullSecrets") {
                items.sort_by_key(|i| format!("{}{}", i["name"], i["mountPath"]));
            }
            items.into()
        }
        Value::String(s) if s.trim_start().starts_with(['{', '[']) => {
            serde_json::from_str::<Value>(s).map_or_else(|_| v.clone(), |inner| json!({"json": normal("", &inner)}))
        }
        other => other.clone(),
    }
}

fn quantity(v: &Value) -> Value {
    let text = v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let units =
        [("m", 1e-3), ("Ki", 1024.0), ("Mi", 1048576.0), ("Gi", 1073741824.0), ("k", 1e3), ("M", 1e6), ("G", 1e9)];
    let (number, scale) =
        units.iter().find_map(|(u, s)| Some((text.strip_suffix(u)?.to_owned(), *s))).unwrap_or((text.clone(), 1.0));
    number.parse::<f64>().map_or_else(|_| v.clone(), |n| format!("{}", n * scale).into())
}

fn compare(path: &str, found: &Value, want: &Value, out: &mut Vec<String>) {
    match (found, want) {
        (Value::Object(f), Value::Object(w)) => {
            let mut keys: Vec<&String> = f.keys().chain(w.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                compare(
                    &format!("{path}.{key}"),
                    f.get(key).unwrap_or(&Value::Null),
                    w.get(key).unwrap_or(&Value::Null),
                    out,
                );
            }
        }
        (Value::Array(f), Value::Array(w)) if f.len() == w.len() => {
            for (i, (f, w)) in f.iter().zip(w).enumerate() {
                compare(&format!("{path}[{i}]"), f, w, out);
            }
        }
        (f, w) if f == w => {}
        (f, w) => {
            let short = |v: &Value| v.to_string().chars().take(700).collect::<String>();
            out.push(format!("{path}: found {} want {}", short(f), short(w)));
        }
    }
}
