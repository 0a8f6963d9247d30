//! The original's small tables: hosts, protocols, labels, gateways, mesh merging, policy values, credentials.
#![allow(missing_docs)]

mod common;

use std::cmp::Ordering;

use api::validate::security;
use common::conformance;
use common::literal::{Report, case_name, elements, labels, object, plain, same, text, texts};
use model::{Change, MeshConfig, Proxy, ProxyView, Store};
use names::{Hostname, LabelsExt, NodeType, PortProtocol};
use serde_json::{Value, json};
use translate::Inputs;

type Outcome = Option<Result<(), String>>;

fn hosts(v: &Value) -> Vec<Hostname> {
    texts(v).iter().map(|h| Hostname::from(h.as_str())).collect()
}

fn flag(v: &Value) -> bool {
    v.as_bool().unwrap_or(false)
}

fn host_tables(func: &str, v: &Value) -> Outcome {
    let (a, b) = (Hostname::from(text(&v["a"])), Hostname::from(text(&v["b"])));
    Some(match func {
        "TestNameMatches" => same(a.matches(&b), flag(&v["out"])),
        "TestNameSubsetOf" => same(a.subset_of(&b), flag(&v["out"])),
        "TestNamesIntersection" => {
            same(Hostname::intersection(&hosts(&v["a"]), &hosts(&v["b"])), hosts(&v["intersection"]))
        }
        "TestNamesForNamespace" => {
            same(Hostname::for_namespace(&texts(&v["hosts"]), v["namespace"].as_str()?), hosts(&v["want"]))
        }
        "TestNamesSortOrder" => {
            let mut list = hosts(&v["in"]);
            list.sort_by(Hostname::specificity);
            same(list, hosts(&v["want"]))
        }
        "TestMoreSpecific" => {
            let (a, b) = (Hostname::from(text(&v["host1"])), Hostname::from(text(&v["host2"])));
            same(a.specificity(&b) != Ordering::Greater, flag(&v["expected"]))
        }
        _ => return None,
    })
}

fn protocol_tables(func: &str, v: &Value) -> Outcome {
    let want = || PortProtocol::parse(v["out"].as_str().unwrap_or_default());
    Some(match func {
        "TestParse" => same(PortProtocol::parse(v["name"].as_str()?), want()),
        "TestConvertProtocol" => {
            let transport = v["proto"]["$ref"].as_str().map_or("TCP", |r| r.trim_start_matches("corev1.Protocol"));
            let app = text(&v["appProtocol"]);
            let app = (!app.is_empty()).then_some(app.as_str());
            let port = u16::try_from(v["port"].as_u64().unwrap_or(0)).unwrap_or(0);
            same(PortProtocol::of_service_port(port, v["name"].as_str().unwrap_or_default(), transport, app), want())
        }
        _ => return None,
    })
}

fn label_tables(func: &str, v: &Value) -> Outcome {
    Some(match func {
        "TestInstance" => {
            let (left, right) = (labels(&v["left"]), labels(&v["right"]));
            // A selector without labels selects nothing there; here whoever asks says so.
            let selected = !left.is_empty() && left.subset_of(&right);
            same(
                (left.subset_of(&right), selected),
                (flag(&v["expected"]["subsetOf"]), flag(&v["expected"]["selected"])),
            )
        }
        "TestString" => {
            let parts = labels(&v["input"])
                .iter()
                .map(|(k, v)| if v.is_empty() { k.clone() } else { format!("{k}={v}") })
                .collect::<Vec<_>>();
            same(parts.join(","), text(&v["expected"]))
        }
        "TestInstanceValidate" => same(api::validate::common::labels(&labels(&v["tags"])).is_ok(), flag(&v["valid"])),
        _ => return None,
    })
}

fn gateway_tables(func: &str, v: &Value) -> Outcome {
    use model::gateway as g;
    let is: fn(&api::networking::Server) -> bool = match func {
        "TestIsTLSServer" => g::is_tls,
        "TestIsHTTPServer" => g::is_http,
        "TestIsHTTPSServerWithTLSTermination" => g::is_https_terminated,
        "TestIsPassThroughServer" => g::is_passthrough,
        "TestIsTCPServerWithTLSTermination" => g::is_tcp_with_tls,
        _ => return None,
    };
    Some(object(&v["server"]).and_then(|server| same(is(&server), flag(&v["expected"]))))
}

fn yaml(v: &Value) -> Value {
    let text = v.as_str().unwrap_or_default();
    let value: Value = serde_norway::from_str(text).unwrap_or(Value::Null);
    if value.is_null() { json!({}) } else { value }
}

fn mesh_tables(func: &str, v: &Value) -> Outcome {
    let problems = |e: Vec<api::Problem>| format!("{e:?}");
    Some(match func {
        "TestProxyConfigMerge" => (|| {
            let base: api::mesh::ProxyConfig = api::from_value(&yaml(&v["base"])).map_err(problems)?;
            let want: api::mesh::ProxyConfig = api::from_value(&yaml(&v["result"])).map_err(problems)?;
            same(base.overlay(&yaml(&v["overlay"])).map_err(problems)?, want)
        })(),
        "TestApplyMeshConfigLocalityZoneAware" => (|| {
            let got = api::MeshConfig::overlay(&yaml(&v["yaml"])).map_err(problems)?;
            let locality = got.locality_lb_setting.as_ref();
            let zone = got.zone_aware_lb_setting.as_ref();
            let facts = (
                locality.is_some(),
                locality.is_some_and(|l| l.enabled == Some(true)),
                zone.is_some(),
                zone.is_some_and(|z| z.enabled == Some(true)),
            );
            let want = ["wantLocality", "wantLocEnabled", "wantZoneAware", "wantZAEnabled"].map(|k| flag(&v[k]));
            same(facts, (want[0], want[1], want[2], want[3]))
        })(),
        "TestDeepMerge" => (|| {
            let base = json!({"defaultProviders": {"metrics": ["stackdriver"]}, "trustDomainAliases": ["both", "default"],
                "extensionProviders": [{"name": "stackdriver", "stackdriver": {"maxNumberOfAttributes": 3}}]});
            let base: api::MeshConfig = api::from_value(&base).map_err(problems)?;
            let want: api::MeshConfig = api::from_value(&yaml(&v["out"])).map_err(problems)?;
            let got = base.overlaid(&yaml(&v["in"])).map_err(problems)?;
            same(
                (got.default_providers, got.extension_providers, got.trust_domain_aliases),
                (want.default_providers, want.extension_providers, want.trust_domain_aliases),
            )
        })(),
        _ => return None,
    })
}

fn security_tables(func: &str, v: &Value) -> Outcome {
    let values = texts(&v["values"]);
    let each = |f: fn(&str) -> Result<(), String>| same(values.iter().any(|v| f(v).is_err()), flag(&v["wantError"]));
    Some(match func {
        "TestParseJwksURI" => same(security::jwks_uri(v["in"].as_str()?).is_err(), flag(&v["expectedError"])),
        "TestCheckWildcardValues" => each(security::wildcard_value),
        "TestCheckTrustDomainValues" => each(security::trust_domain_value),
        "TestCheckValidPathTemplate" => each(security::path_template),
        "TestValidateCondition" => {
            same(security::attribute(v["key"].as_str()?, &values).is_err(), flag(&v["wantError"]))
        }
        "TestIsValidLiteral" => same(security::is_path_literal(v["glob"].as_str()?), flag(&v["expected"])),
        "TestContainsPathTemplate" => same(security::is_path_template(v["path"].as_str()?), flag(&v["isPathTemplate"])),
        _ => return None,
    })
}

fn export_annotation(v: &Value) -> Outcome {
    let annotation = v["Annotation"].as_str()?;
    let service = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "s", "namespace": "default", "annotations": {"networking.istio.io/exportTo": annotation}},
        "spec": {"clusterIP": "10.0.0.1", "ports": [{"name": "http", "port": 80}]}});
    let resource = match api::Resource::from_value(service, None, "default") {
        Ok(r) => r,
        Err(e) => return Some(Err(e.to_string())),
    };
    let got = model::registry::services_of(&resource, &MeshConfig::default());
    let want: Vec<String> = elements(&v["Want"]).iter().map(text).collect();
    Some(same(&got[0].visibility, &model::Visibility::parse(&want, &[], "default")))
}

/// The secret of a row, as far as the row itself tells: its values, and the keys that its errors list as found.
fn secret(v: &Value) -> serde_json::Map<String, Value> {
    let word = |k: &str| v[k].as_str().unwrap_or_default();
    let found = [word("expectedError"), word("expectedCAError")].into_iter().find_map(|e| e.split_once("found: "));
    let listed: Vec<&str> =
        found.map_or(Vec::new(), |(_, keys)| keys.split(", ").filter(|k| !k.starts_with("and ")).collect());
    let generic = listed.iter().any(|k| ["cert", "key", "cacert"].contains(k)) || word("name").starts_with("generic");
    let names = if generic { ["cert", "key", "cacert"] } else { ["tls.crt", "tls.key", "ca.crt"] };
    let mut out: serde_json::Map<String, Value> = listed.iter().map(|k| ((*k).to_owned(), "other".into())).collect();
    let fields = [
        (names[0], "cert"),
        (names[1], "key"),
        (names[2], "caCert"),
        ("tls.ocsp-staple", "staple"),
        ("ca.crl", "caCrl"),
    ];
    for (key, field) in fields {
        if !word(field).is_empty() {
            out.insert(key.to_owned(), word(field).into());
        }
    }
    out
}

fn credentials(v: &Value) -> Result<(), String> {
    use protos::envoy::config::core::v3::{DataSource, data_source::Specifier};
    use protos::envoy::extensions::transport_sockets::tls::v3::{Secret, secret::Type};
    let mut store = Store::new(MeshConfig::default());
    if !v["expectedError"].as_str().unwrap_or_default().contains("not found") {
        let secret = json!({"apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": v["name"], "namespace": "default"}, "stringData": secret(v)});
        let resource = api::Resource::from_value(secret, None, "default").map_err(|e| e.to_string())?;
        store.apply([Change::Apply(resource)]);
    }
    let namespace = v["namespace"].as_str().unwrap_or("default");
    let proxy = Proxy::new(NodeType::Router, "1.1.1.1", namespace, Default::default());
    let inputs = Inputs::new(std::sync::Arc::new(ProxyView::new(&store.snapshot(), &std::sync::Arc::new(proxy))));
    let fetch = |name: &str| -> Option<Type> {
        let found = translate::secrets(&inputs, &[format!("kubernetes://{name}")]);
        protos::unpack::<Secret>(&found.first()?.resource).ok()?.r#type
    };
    let bytes = |d: Option<DataSource>| match d.and_then(|d| d.specifier) {
        Some(Specifier::InlineBytes(b)) => String::from_utf8(b).unwrap_or_default(),
        _ => String::new(),
    };
    let name = v["name"].as_str().unwrap_or_default();
    let word = |k: &str| v[k].as_str().unwrap_or_default().to_owned();
    let (cert, key, staple) = match fetch(name) {
        Some(Type::TlsCertificate(c)) => (bytes(c.certificate_chain), bytes(c.private_key), bytes(c.ocsp_staple)),
        _ => Default::default(),
    };
    same((cert, key, staple), (word("cert"), word("key"), word("staple")))?;
    let ca_name = if name.ends_with("-cacert") { name.to_owned() } else { format!("{name}-cacert") };
    let (ca, crl) = match fetch(&ca_name) {
        Some(Type::ValidationContext(c)) => (bytes(c.trusted_ca), bytes(c.crl)),
        _ => Default::default(),
    };
    // Where the table expects an error for the name itself, a companion secret may still answer.
    if word("expectedCAError").is_empty() {
        same((ca, crl), (word("caCert"), word("caCrl")))?;
    }
    Ok(())
}

/// Tables that are not compared; docs/differences.md has a line for each.
const NOT_COMPARED: [&str; 7] = [
    "TestAuthorize",
    "TestDockerCredentials",
    "TestForCluster",
    "TestForClusterWithRemoteCredentialsDisabled",
    "TestNewConfigMapWatcher",
    "TestSecretsControllerMulticluster",
    "TestIsEligibleForHTTP3Upgrade",
];

#[test]
fn differences_are_listed() {
    let text = include_str!("../../../docs/differences.md");
    for table in NOT_COMPARED {
        assert!(text.contains(&format!("`{table}`")), "{table} is not in docs/differences.md");
    }
}

#[test]
fn semantics() {
    let Some(path) = conformance("networking/semantics.json") else {
        println!("semantics: not run, no conformance data (PROA_CONFORMANCE)");
        return;
    };
    let tables: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let mut report = Report::default();
    for table in &tables {
        let func = table["func"].as_str().unwrap_or_default();
        for case in table["cases"].as_array().into_iter().flatten() {
            if NOT_COMPARED.contains(&func) {
                report.allowed += 1;
                continue;
            }
            let v = &case["v"];
            let result = match func {
                "TestServiceConversionWithExportToAnnotation" => export_annotation(v),
                "TestSecretsController" => Some(credentials(v)),
                _ => host_tables(func, v)
                    .or_else(|| protocol_tables(func, v))
                    .or_else(|| label_tables(func, v))
                    .or_else(|| gateway_tables(func, v))
                    .or_else(|| mesh_tables(func, v))
                    .or_else(|| security_tables(func, v)),
            };
            report.add(func, &case_name(&plain(v)), false, result);
        }
    }
    report.finish("networking-semantics");
}
