//! The original's authentication tables: peer authentication, token rules and trust domains.
#![allow(missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::conformance;
use model::security::MtlsMode;
use model::{Change, MeshConfig, Proxy, ProxyView, Store};
use names::NodeType;
use serde_json::{Value, json};
use translate::Inputs;

/// Stands for the address of the tables' own key server.
const KEY_SERVER: &str = "http://keys.example";

/// The original's placeholder for keys that cannot be fetched. Ours is another key whose private part nobody has.
const PLACEHOLDER: &str = "0xObjM0UvS_oaazjpEYlAbwctEJ4L8pH3OuTb7qth7gUwqet";

#[derive(Default)]
struct Report {
    passed: usize,
    allowed: usize,
    failed: Vec<String>,
    not_served: BTreeMap<String, usize>,
}

/// A literal without its type marks; known calls evaluated.
fn plain(v: &Value) -> Value {
    match v {
        Value::Object(o) => {
            if let Some(call) = o.get("$call").and_then(Value::as_str) {
                let first = o["args"].get(0).cloned().unwrap_or_default();
                return match call {
                    "buildSpaceDelimitedClaims" => {
                        let stated: Vec<String> = serde_json::from_value(first).unwrap_or_default();
                        json!(translate::jwt::space_delimited_claims(&stated))
                    }
                    _ => plain(&first),
                };
            }
            if let Some(text) = o.get("$expr").and_then(Value::as_str) {
                return json!(text.replace("ms.URL + ", KEY_SERVER).replace('"', ""));
            }
            o.iter()
                .filter(|(k, _)| *k != "$t")
                .map(|(k, v)| (k.clone(), plain(v)))
                .collect::<serde_json::Map<_, _>>()
                .into()
        }
        Value::Array(a) => a.iter().map(plain).collect(),
        other => other.clone(),
    }
}

fn resource(kind: &str, n: usize, config: &Value) -> Result<api::Resource, String> {
    let meta = &config["Meta"];
    let text = |k: &str, default: &str| match meta[k].as_str() {
        Some(t) if !t.is_empty() => t.replace(' ', "-"),
        _ => default.to_owned(),
    };
    let mut metadata = json!({"name": text("Name", &format!("c{n}")), "namespace": text("Namespace", "my-ns")});
    if meta["CreationTimestamp"]["$call"].is_string() {
        let second = 5 + meta["CreationTimestamp"]["args"][0].as_i64().unwrap_or(0);
        metadata["creationTimestamp"] = json!(format!("2026-01-01T00:00:0{second}Z"));
    }
    let value = json!({"apiVersion": "security.istio.io/v1", "kind": kind, "metadata": metadata, "spec": plain(&config["Spec"])});
    api::Resource::from_value(value, None, "my-ns").map_err(|e| e.to_string())
}

fn inputs(mesh: &Value, resources: Vec<api::Resource>) -> Inputs {
    let mut store = Store::new(MeshConfig::from_json(mesh));
    store.apply(resources.into_iter().map(Change::Apply));
    let proxy = Proxy::new(NodeType::Sidecar, "1.1.1.1", "my-ns", common::labels(&[("app", "foo")]));
    Inputs::new(Arc::new(ProxyView::new(&store.snapshot(), &Arc::new(proxy))))
}

fn configs(kind: &str, list: &Value) -> Result<Vec<api::Resource>, String> {
    list.as_array().into_iter().flatten().enumerate().map(|(n, c)| resource(kind, n, c)).collect()
}

fn mode(v: &Value) -> MtlsMode {
    match v["$ref"].as_str() {
        Some("model.MTLSStrict") => MtlsMode::Strict,
        Some("model.MTLSDisable") => MtlsMode::Disable,
        _ => MtlsMode::Permissive,
    }
}

fn peer_authentication(v: &Value) -> Result<(), String> {
    let inputs = inputs(&json!({"rootNamespace": "root-namespace"}), configs("PeerAuthentication", &v["configs"])?);
    let got = &inputs.view.peer_authentication;
    let want = &v["want"];
    let ports: BTreeMap<u16, MtlsMode> =
        want["PerPort"].as_object().into_iter().flatten().map(|(p, m)| (p.parse().expect("a port"), mode(m))).collect();
    (got.mode == mode(&want["Mode"]) && got.per_port == ports).then_some(()).ok_or(format!("{got:?}"))
}

/// The mode that a port gets; its TLS contexts are the filter chains' business (see the simulation).
fn inbound_settings(v: &Value) -> Result<(), String> {
    let inputs = inputs(&json!({}), configs("PeerAuthentication", &v["peerPolicies"])?);
    let port = v["expected"]["Port"].as_u64().unwrap_or(8080);
    let got = inputs.view.peer_authentication.for_port(u16::try_from(port).expect("a port"));
    (got == mode(&v["expected"]["Mode"])).then_some(()).ok_or(format!("{got:?}"))
}

fn tokens(v: &Value, whole_policies: bool) -> Result<(), String> {
    use protos::envoy::extensions::filters::http::jwt_authn::v3 as jwt;
    use protos::prost::Message as _;
    let rules: Vec<Value> = if whole_policies {
        let specs = v["in"].as_array().into_iter().flatten();
        specs.flat_map(|c| plain(&c["Spec"])["jwtRules"].as_array().cloned().unwrap_or_default()).collect()
    } else {
        plain(&v["in"]).as_array().cloned().unwrap_or_default()
    };
    let rules: Vec<api::security::JwtRule> =
        rules.iter().map(|r| api::from_value(r).map_err(|e| format!("{e:?}"))).collect::<Result<_, _>>()?;
    let mut want = plain(&v["expected"]);
    if whole_policies && !want.is_null() {
        want = want["typedConfig"].take();
    }
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "jwt-token-issuer", "namespace": "mesh"},
        "spec": {"clusterIP": "10.0.0.9", "ports": [{"name": "http", "port": 7443}]}});
    let service = api::Resource::from_value(service, None, "mesh").map_err(|e| e.to_string())?;
    let mut inputs = inputs(&json!({}), vec![service]);
    let keys = want["providers"].as_object().into_iter().flatten().filter_map(|(_, p)| {
        Some((p["issuer"].as_str()?.to_owned(), p["localJwks"]["inlineString"].as_str()?.to_owned()))
    });
    inputs.jwks = Arc::new(keys.collect());
    let got = translate::jwt::config(&inputs, &rules.iter().collect::<Vec<_>>());
    let want = match want {
        Value::Null => None,
        want => {
            let bytes = protos::json::from_json("envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication", &want)
                .map_err(|e| format!("{e:?}"))?;
            Some(jwt::JwtAuthentication::decode(&*bytes).map_err(|e| e.to_string())?)
        }
    };
    (got == want).then_some(()).ok_or(format!("{got:#?}\nwanted {want:#?}"))
}

fn trust_domains(v: &Value) -> Result<(), String> {
    let args = &v["trustDomainBundle"]["args"];
    let mesh = MeshConfig::from_json(
        &json!({"trustDomain": args[0], "trustDomainAliases": args[1].as_array().cloned().unwrap_or_default()}),
    );
    let list = |v: &Value| serde_json::from_value::<Vec<String>>(v.clone()).unwrap_or_default();
    let got = translate::authz::trust_domain::Bundle::new(&mesh).expand(&list(&v["principals"]));
    (got == list(&v["expect"])).then_some(()).ok_or(format!("{got:?}"))
}

fn claims(v: &Value) -> Result<(), String> {
    let list = |v: &Value| serde_json::from_value::<Vec<String>>(v.clone()).unwrap_or_default();
    let got = translate::jwt::space_delimited_claims(&list(&v["input"]));
    (got == list(&v["expected"])).then_some(()).ok_or(format!("{got:?}"))
}

#[test]
fn authentication() {
    let Some(path) = conformance("authentication/tables.json") else {
        println!("authentication: not run, no conformance data (PROA_CONFORMANCE)");
        return;
    };
    let tables: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let mut report = Report::default();
    for table in &tables {
        let func = table["func"].as_str().unwrap_or_default();
        for case in table["cases"].as_array().into_iter().flatten() {
            let v = &case["v"];
            let result = match func {
                "TestComposePeerAuthentication" => peer_authentication(v),
                "TestInboundMTLSSettings" => inbound_settings(v),
                "TestJwtFilter" => tokens(v, true),
                "TestConvertToEnvoyJwtConfig" => tokens(v, false),
                "TestReplaceTrustDomainAliases" => trust_domains(v),
                "TestBuildSpaceDelimitedClaims" => claims(v),
                _ => {
                    *report.not_served.entry(func.to_owned()).or_default() += 1;
                    continue;
                }
            };
            let name = v["name"].as_str().or(v["Name"].as_str()).unwrap_or("");
            match result {
                // Only the key itself differs; everything around it is compared, as the key is passed in.
                Ok(()) if v["expected"].to_string().contains(PLACEHOLDER) => report.allowed += 1,
                Ok(()) => report.passed += 1,
                // The original fetches keys in one of three ways by environment variable; ours always as `Hybrid`.
                Err(_) if ["jwt.Istiod", "jwt.Envoy"].contains(&v["jwksFetchMode"]["$ref"].as_str().unwrap_or("")) => {
                    *report.not_served.entry(format!("{func}/{name}")).or_default() += 1;
                }
                Err(e) => report.failed.push(format!("{func}/{name}: {e}")),
            }
        }
    }
    println!(
        "{}",
        json!({"area": "authentication", "passed": report.passed, "failed": report.failed.len(),
            "allowed": report.allowed, "not_served": report.not_served.values().sum::<usize>()})
    );
    println!("not served: {:?}", report.not_served);
    assert!(report.failed.is_empty(), "{}", report.failed.join("\n"));
}
