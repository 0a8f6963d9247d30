//! The original's authorization tables: policies in, RBAC and `ext_authz` filters out, compared as messages.
#![allow(missing_docs)]

mod common;

use std::sync::Arc;

use common::conformance;
use model::{Change, MeshConfig, Proxy, ProxyView, Store};
use names::NodeType;
use serde_json::Value;
use translate::Inputs;

/// Cases that differ on purpose, with the reason.
const ALLOWED: [(&str, &str); 0] = [];

fn yaml(text: &str) -> Vec<Value> {
    use serde::Deserialize as _;
    serde_norway::Deserializer::from_str(text).map(|d| Value::deserialize(d).expect("YAML")).collect()
}

/// `{name, typedConfig}` as the message it describes, so that field order and spelling do not matter.
fn canonical(name: &str, mut config: Value) -> Result<(String, Vec<u8>), String> {
    let object = config.as_object_mut().ok_or("no typedConfig")?;
    let url = object.remove("@type").and_then(|t| t.as_str().map(str::to_owned)).ok_or("no @type")?;
    let bytes = protos::json::from_json(protos::type_name(&url), &config).map_err(|e| format!("{e:?}"))?;
    Ok((name.to_owned(), normal(&url, &bytes)))
}

/// Bytes as our own encoder writes them.
fn normal(url: &str, bytes: &[u8]) -> Vec<u8> {
    use protos::envoy::extensions::filters as f;
    use protos::prost::Message;
    fn again<T: Message + Default>(bytes: &[u8]) -> Vec<u8> {
        T::decode(bytes).expect("decodes").encode_to_vec()
    }
    match protos::type_name(url) {
        "envoy.extensions.filters.http.rbac.v3.RBAC" => again::<f::http::rbac::v3::Rbac>(bytes),
        "envoy.extensions.filters.network.rbac.v3.RBAC" => again::<f::network::rbac::v3::Rbac>(bytes),
        "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz" => again::<f::http::ext_authz::v3::ExtAuthz>(bytes),
        "envoy.extensions.filters.network.ext_authz.v3.ExtAuthz" => again::<f::network::ext_authz::v3::ExtAuthz>(bytes),
        other => panic!("unexpected {other}"),
    }
}

fn plain(v: &Value) -> Value {
    match v {
        Value::Object(o) => {
            Value::Object(o.iter().filter(|(k, _)| *k != "$t").map(|(k, v)| (k.clone(), plain(v))).collect())
        }
        Value::Array(a) => a.iter().map(plain).collect(),
        other => other.clone(),
    }
}

fn inputs(case: &Value, policies: &str) -> Inputs {
    let mut mesh = case.get("meshConfig").map(plain).unwrap_or(Value::Null);
    if let Some(args) = case.pointer("/tdBundle/args").and_then(Value::as_array) {
        mesh = serde_json::json!({"trustDomain": args[0], "trustDomainAliases": args[1]});
    }
    let mut store = Store::new(MeshConfig::from_json(&mesh));
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: my-custom-ext-authz, namespace: foo}\n\
                   spec: {clusterIP: 10.0.0.1, ports: [{name: grpc, port: 9000}]}";
    let all = [common::resources(service, "foo"), common::resources(policies, "foo")].concat();
    store.apply(all.into_iter().map(Change::Apply));
    let labels = common::labels(&[("app", "httpbin"), ("version", "v1")]);
    let proxy = Arc::new(Proxy::new(NodeType::Sidecar, "10.0.0.2", "foo", labels));
    Inputs::new(Arc::new(ProxyView::new(&store.snapshot(), &proxy)))
}

fn run(case: &Value, dir: &std::path::Path, tcp: bool) -> Result<(), String> {
    let text = |name: &str| std::fs::read_to_string(dir.join(name));
    let input = text(case["input"].as_str().ok_or("no input")?).map_err(|e| format!("input: {e}"))?;
    let inputs = inputs(case, &input);
    let got: Vec<(String, Vec<u8>)> = if tcp {
        use protos::envoy::config::listener::v3::filter::ConfigType;
        let filters = translate::authz::tcp_filters(&inputs);
        filters
            .into_iter()
            .map(|f| match f.config_type {
                Some(ConfigType::TypedConfig(any)) => (f.name, normal(&any.type_url, &any.value)),
                _ => unreachable!("all are typed"),
            })
            .collect()
    } else {
        use protos::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType;
        let filters = translate::authz::http_filters(&inputs);
        filters
            .into_iter()
            .map(|f| match f.config_type {
                Some(ConfigType::TypedConfig(any)) => (f.name, normal(&any.type_url, &any.value)),
                _ => unreachable!("all are typed"),
            })
            .collect()
    };
    let want = case["want"].as_array().map(Vec::as_slice).unwrap_or_default();
    if got.len() != want.len() {
        return Err(format!("{} filters, {} wanted", got.len(), want.len()));
    }
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        // Held-out outputs are not here; what is here must agree.
        let Ok(text) = text(want.as_str().ok_or("want")?) else {
            continue;
        };
        let doc = yaml(&text).remove(0);
        let want = canonical(doc["name"].as_str().unwrap_or_default(), doc["typedConfig"].clone())?;
        if *got != want {
            return Err(format!("filter {i} ({}) differs", got.0));
        }
    }
    Ok(())
}

#[test]
fn tables() {
    let Some(path) = conformance("authorization/cases.json") else {
        println!("authorization: not run, no conformance data (PROA_CONFORMANCE)");
        return;
    };
    let root = path.parent().unwrap();
    let tables: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let (mut passed, mut failed, mut allowed) = (0, Vec::new(), 0);
    for table in &tables {
        let tcp = table["func"].as_str().unwrap_or_default().contains("TCP");
        let dir = root.join(if tcp { "tcp" } else { "http" });
        for case in table["cases"].as_array().unwrap() {
            let v = &case["v"];
            let name = format!("{}/{}", if tcp { "tcp" } else { "http" }, v["name"].as_str().unwrap_or_default());
            match run(v, &dir, tcp) {
                Ok(()) => passed += 1,
                Err(_) if ALLOWED.iter().any(|(n, _)| *n == name) => allowed += 1,
                Err(e) => failed.push(format!("{name}: {e}")),
            }
        }
    }
    println!(
        "{}",
        serde_json::json!({"area": "authorization", "passed": passed, "failed": failed.len(), "allowed": allowed, "not_served": 0})
    );
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
