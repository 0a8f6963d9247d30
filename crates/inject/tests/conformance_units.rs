//! Do the injector's small decisions equal Istio's? Runs `injection/units.json` of the conformance folder (see
//! `conformance_injection.rs` for where it is read from).

use std::path::PathBuf;

use api::admission::{Answer, Review};
use inject::config::Watch;
use inject::{Injector, Owner, admission, annotations, gotemplate, path_environment, post, templates};
use serde_json::{Map, Value, json};

#[test]
fn units() {
    let dir = match std::env::var_os("PROA_CONFORMANCE") {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance"),
    };
    let Ok(text) = std::fs::read_to_string(dir.join("injection/units.json")) else {
        println!("injection units: not run, the conformance data is absent (set PROA_CONFORMANCE)");
        return;
    };
    let tables: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    let (mut passed, mut failed, mut not_served) = (0, Vec::new(), 0);
    for table in &tables {
        let function = table["func"].as_str().unwrap_or_default();
        // Whole manifests, which `conformance_injection.rs` runs.
        if function == "TestInjectionOlderVersion" {
            continue;
        }
        // Its rows are steps of one story.
        let mut watch = Watch::default();
        for case in table["cases"].as_array().into_iter().flatten() {
            let v = &case["v"];
            let outcome = match function {
                "TestNewConfigMapWatcher" => Some(watched(&mut watch, v)),
                "TestRunAndServe" => Some(asked(v)),
                _ => run(function, &json_names(v)),
            };
            match outcome {
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
        json!({"area": "injection-units", "passed": passed, "failed": failed.len(), "allowed": 0, "not_served": not_served})
    );
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Go's struct fields as their JSON names, without the extraction's annotations.
fn json_names(v: &Value) -> Value {
    match v {
        Value::Object(map) => {
            if map.get("$call").is_some() {
                return map["args"].get(0).cloned().unwrap_or(Value::Null);
            }
            if map.get("$t").and_then(Value::as_str) == Some("intstr.IntOrString") {
                return map.get("IntVal").or(map.get("StrVal")).cloned().unwrap_or(Value::Null);
            }
            if let Some(name) = map.get("$ref").and_then(Value::as_str) {
                return name.trim_start_matches("corev1.Protocol").trim_start_matches("corev1.URIScheme").into();
            }
            let typed = map.contains_key("$t");
            let mut out = Map::new();
            for (k, v) in map.iter().filter(|(k, _)| *k != "$t") {
                let v = json_names(v);
                match (k.as_str(), v) {
                    ("ProbeHandler", Value::Object(inner)) => out.extend(inner),
                    (k, v) => {
                        let name = match k {
                            "HTTPGet" => "httpGet".to_owned(),
                            "TCPSocket" => "tcpSocket".to_owned(),
                            "GRPC" => "grpc".to_owned(),
                            k if typed => {
                                k.chars().take(1).map(|c| c.to_ascii_lowercase()).chain(k.chars().skip(1)).collect()
                            }
                            k => k.to_owned(),
                        };
                        out.insert(name, v);
                    }
                }
            }
            Value::Object(out)
        }
        Value::Array(items) => items.iter().map(json_names).collect(),
        other => other.clone(),
    }
}

/// A step of the watcher: it tells new settings when both keys are there and can be read, and keeps the last ones else.
fn watched(watch: &mut Watch, v: &Value) -> (Value, Value) {
    let before = watch.current().cloned();
    let step = |kind: &str| v.get(kind).map(|map| map["args"][1].clone());
    let data = step("added").or_else(|| step("updated"));
    let good = data.as_ref().is_some_and(|d| d["values"].is_string() && d["config"] == "policy: enabled");
    let told = watch.update(data.as_ref()).is_ok_and(|told| told.is_some());
    let kept = watch.current() == before.as_ref();
    (json!([told, kept || told]), json!([good, true]))
}

/// A request to the webhook: its status code, whether the pod is allowed, and whether it comes with a proxy.
fn asked(v: &Value) -> (Value, Value) {
    let body = match &v["body"] {
        Value::Array(bytes) => bytes.iter().filter_map(|b| u8::try_from(b.as_u64()?).ok()).collect(),
        call if call.is_object() => {
            let annotations =
                if call["args"][1] == true { json!({"sidecar.istio.io/inject": "false"}) } else { json!({}) };
            let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "test", "annotations": annotations},
                "spec": {"containers": [{"name": "c1"}], "volumes": [{"name": "v0"}]}});
            let version = format!("admission.k8s.io/{}", call["args"][2].as_str().unwrap_or_default());
            let request = json!({"uid": "1", "operation": "CREATE", "kind": {"kind": "Pod"}, "object": pod});
            json!({"kind": "AdmissionReview", "apiVersion": version, "request": request}).to_string().into_bytes()
        }
        _ => Vec::new(),
    };
    let injector = Injector::new(api::MeshConfig::istio_default(), inject::default_values());
    let read = Review::read(v["contentType"].as_str().unwrap_or_default(), &body);
    let answer = read.as_ref().ok().map(|read| match read {
        Ok(review) => admission::admit(&injector, review, "/inject").0,
        Err(reason) => Answer::deny(reason.as_str()),
    });
    let status = read.as_ref().err().map_or(200, |unusable| unusable.response().0);
    let allowed = answer.as_ref().is_some_and(|a| a.allowed);
    let patched = answer.is_some_and(|a| a.patch.is_some());
    let want = match v["wantStatusCode"]["$ref"].as_str().unwrap_or_default() {
        "http.StatusOK" => 200,
        "http.StatusUnsupportedMediaType" => 415,
        "http.StatusBadRequest" => 400,
        _ => 0,
    };
    let injected = v["name"].as_str().is_some_and(|n| n.starts_with("valid"));
    (json!([status, allowed, patched]), json!([want, v["wantAllowed"], injected]))
}

fn run(function: &str, v: &Value) -> Option<(Value, Value)> {
    let text = |field: &str| v[field].as_str().unwrap_or_default();
    Some(match function {
        "TestAppendMultusNetwork" => {
            (templates::sidecar::append_multus_network(text("in"), "istio-cni").into(), v["want"].clone())
        }
        "TestOmitNil" => (gotemplate::omit_nil(&v["in"]), v["want"].clone()),
        "TestValidateResourceQuantity" => (annotations::quantity(text("value")).is_err().into(), v["wantErr"].clone()),
        "TestValidateAnnotations" => {
            let map = v["annotations"].as_object().into_iter().flatten();
            let map = map.map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned())).collect();
            (annotations::validate(&map).is_err().into(), v["wantErr"].clone())
        }
        "TestParseInjectEnvs" if v["in"].is_string() => (json!(path_environment(text("in"))), v["want"].clone()),
        "TestNativeSidecarAnnotationOverride" => {
            let mut injector = Injector::new(api::MeshConfig::istio_default(), inject::default_values());
            injector.native_sidecar = v["nativeSidecar"].as_bool()?;
            let pod = json!({"metadata": {"annotations": v["annotations"]}, "spec": {"containers": [{"name": "a"}]}});
            let out = injector.force_inject(&pod, &Owner::default()).expect("a pod that can be injected");
            let has = |field: &str| {
                out["spec"][field].as_array().is_some_and(|l| l.iter().any(|c| c["name"] == "istio-proxy"))
            };
            let found = ["containers", "initContainers"].into_iter().find(|f| has(f))?;
            (found.into(), v["expectContainer"].clone())
        }
        "TestFindSidecar" => {
            let found = post::proxy(&v["containers"]);
            (found.map_or(Value::Null, |c| c["name"].clone()), v["want"]["name"].clone())
        }
        "TestPatchRewriteProbe" => {
            let mut pod = v["pod"].clone();
            post::point_at_agent(&mut pod, 15020);
            (pod, v["expected"].clone())
        }
        "TestSkipUDPPorts" => {
            let want = if v["ports"].is_null() { json!([]) } else { v["ports"].clone() };
            (json!(gotemplate::tcp_ports(&v["c"])), want)
        }
        "Test_updateClusterEnvs" => {
            let mut container = v["args"]["container"].clone();
            for (name, value) in path_environment(v["args"]["newKVs"].as_str()?) {
                post::set_variable(&mut container, &name, &value);
            }
            (container, v["want"].clone())
        }
        "TestParseStatus" => {
            let found = post::Injected::parse(text("status")).unwrap_or_default();
            let names = |field: &str| -> Vec<String> {
                let list = v["want"][field].as_array().into_iter().flatten();
                list.filter_map(|c| Some(c["name"].as_str()?.to_owned())).collect()
            };
            (json!([found.containers, found.init_containers]), json!([names("containers"), names("initContainers")]))
        }
        "TestMergeOrAppendProbers" => {
            // What was rewritten before is restored and rewritten together with what is new.
            let probers = |text: Option<&str>| -> Map<String, Value> {
                text.and_then(|t| serde_json::from_str(t).ok()).unwrap_or_default()
            };
            let env = v["in"].as_array().cloned().unwrap_or_default();
            let before = env.iter().find(|e| e["name"] == "ISTIO_KUBE_APP_PROBERS").and_then(|e| e["value"].as_str());
            let name = |path: &str| path.split('/').nth(2).unwrap_or_default().to_owned();
            let mut containers = vec![json!({"name": "istio-proxy", "env": env})];
            containers.extend(
                probers(before).keys().map(
                    |path| json!({"name": name(path), "livenessProbe": {"httpGet": {"path": path, "port": 15020}}}),
                ),
            );
            let new = probers(v["probers"].as_str());
            containers.extend(new.iter().map(|(path, probe)| json!({"name": name(path), "livenessProbe": probe})));
            let mut pod = json!({"spec": {"containers": containers}});
            post::restore_probes(&mut pod);
            post::tell_agent(&mut pod, 15020);
            (pod["spec"]["containers"][0]["env"].clone(), v["want"].clone())
        }
        "TestDumpAppGRPCProbers" => {
            let found = post::app_probers(&v["pod"], 15020);
            let want: Value = serde_json::from_str(text("expected")).expect("JSON");
            (json!(found), want)
        }
        _ => return None,
    })
}
