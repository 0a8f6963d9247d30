//! Nothing that a file may say makes reading, validating or printing panic.

use api::yaml::{parse, to_yaml};
use api::{MeshConfig, Resource, validate::validate};
use names::Kind;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// Words that lead into the shapes; random names would all stop at "unknown field".
const WORDS: [&str; 60] = [
    "hosts",
    "gateways",
    "http",
    "match",
    "route",
    "destination",
    "host",
    "port",
    "number",
    "subset",
    "weight",
    "uri",
    "prefix",
    "regex",
    "exact",
    "headers",
    "request",
    "set",
    "timeout",
    "retries",
    "attempts",
    "retryOn",
    "fault",
    "delay",
    "fixedDelay",
    "abort",
    "httpStatus",
    "mirrors",
    "percentage",
    "value",
    "tls",
    "sniHosts",
    "tcp",
    "trafficPolicy",
    "loadBalancer",
    "simple",
    "consistentHash",
    "localityLbSetting",
    "distribute",
    "from",
    "to",
    "subsets",
    "name",
    "labels",
    "servers",
    "protocol",
    "endpoints",
    "address",
    "ports",
    "resolution",
    "ingress",
    "egress",
    "rules",
    "source",
    "operation",
    "when",
    "key",
    "values",
    "configPatches",
    "patch",
];

fn any_json() -> impl Strategy<Value = Value> {
    let text = prop::sample::select(vec![
        "",
        "*",
        "*.com",
        "a/b",
        "~/x",
        "10.0.0.0/8",
        "::1",
        "1s",
        "-1h",
        "{*}/{**}",
        "[",
        "%A%%",
        "STRICT",
        "GET",
        "outbound_.80_._.a",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1e12..1e12f64).prop_map(Value::from),
        text.prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((prop::sample::select(WORDS.to_vec()), inner), 0..6).prop_map(|pairs| Value::Object(
                pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect::<Map<_, _>>()
            )),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn resources(kind in 0..Kind::KNOWN.len(), body in any_json(), metadata in any_json()) {
        let kind = &Kind::KNOWN[kind];
        for metadata in [json!({"name": "x"}), metadata] {
            let raw = json!({"apiVersion": kind.api_version(), "kind": kind.name(), "metadata": metadata, "spec": body});
            prop_assert_eq!(&parse(&to_yaml(&raw)).unwrap(), &raw);
            if let Ok(resource) = Resource::from_value(raw, None, "default") {
                let _ = validate(&resource);
            }
        }
        let _ = MeshConfig::overlay(&body);
    }
}
