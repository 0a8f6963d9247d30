use super::*;
use crate::schema::MessageType;
use proptest::prelude::*;
use prost_reflect::{DescriptorPool, DynamicMessage, ReflectMessage, SerializeOptions};
use serde_json::json;
use std::sync::OnceLock;

fn pool() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| {
        DescriptorPool::decode(&include_bytes!("../../descriptor.bin")[..]).expect("committed descriptor")
    })
}

/// Reads with ours and with prost-reflect, and wants the same message back from both printers.
fn check(type_name: &str, input: Value) {
    let ours = from_json(type_name, &input).unwrap_or_else(|e| panic!("{type_name}: {e}"));
    let descriptor = pool().get_message_by_name(type_name).expect("known type");
    let theirs = DynamicMessage::deserialize(descriptor.clone(), input.clone()).expect("the oracle reads it");
    let decoded = DynamicMessage::decode(descriptor, &*ours).expect("our bytes are well formed");
    assert_eq!(decoded, theirs, "{type_name} from {input}");
    let options = SerializeOptions::new().skip_default_fields(true).stringify_64_bit_integers(true);
    let canonical =
        theirs.serialize_with_options(serde_json::value::Serializer, &options).expect("the oracle prints it");
    let printed = to_json(type_name, &ours, Options { camel_case: true }).expect("we print it");
    assert_eq!(normal(&printed), normal(&canonical), "{type_name}");
    let again = from_json(type_name, &printed).expect("we read what we print");
    assert_eq!(
        DynamicMessage::decode(theirs.descriptor(), &*again).expect("well formed"),
        theirs,
        "{type_name} printed"
    );
}

/// Integral floats as integers: prost-reflect prints `1.0` where Envoy prints `1`.
fn normal(v: &Value) -> Value {
    match v {
        Value::Number(n) if n.is_f64() && n.as_f64().is_some_and(|f| f.fract() == 0.0) => {
            json!(n.as_f64().expect("f64") as i64)
        }
        Value::Array(a) => a.iter().map(normal).collect(),
        Value::Object(o) => o.iter().map(|(k, v)| (k.clone(), normal(v))).collect::<serde_json::Map<_, _>>().into(),
        other => other.clone(),
    }
}

#[test]
fn agrees_with_the_oracle() {
    check(
        "envoy.config.cluster.v3.Cluster",
        json!({"name": "a", "type": "STRICT_DNS", "connect_timeout": "0.25s", "lbPolicy": 5, "perConnectionBufferLimitBytes": 32768,
            "circuit_breakers": {"thresholds": [{"max_requests": 7, "retry_budget": {"budget_percent": {"value": 12.5}}}]},
            "metadata": {"filter_metadata": {"istio": {"list": [1, "x", null, true, {"k": 1.5}], "empty": {}}}},
            "typed_extension_protocol_options": {"h": {"@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions", "explicit_http_config": {"http2_protocol_options": {"max_concurrent_streams": 3}}}},
            "load_assignment": {"cluster_name": "a", "endpoints": [{"priority": 1, "lb_endpoints": [{"load_balancing_weight": 4, "endpoint": {"address": {"socket_address": {"address": "::1", "port_value": 80}}}}]}]}}),
    );
    check(
        "google.protobuf.Any",
        json!({"@type": "type.googleapis.com/google.protobuf.Duration", "value": "-1.000000500s"}),
    );
    check("google.protobuf.Any", json!({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": "x"}));
    check("google.protobuf.Timestamp", json!("2026-02-28T23:59:59.120Z"));
    check("envoy.config.core.v3.DataSource", json!({"inline_bytes": "aGVsbG8_"}));
    check(
        "envoy.config.route.v3.HeaderMatcher",
        json!({"name": ":path", "range_match": {"start": "-3", "end": 9007199254740993i64}}),
    );
    check("envoy.config.trace.v3.DatadogConfig", json!({"collector_cluster": "x"}));
    check("udpa.type.v1.TypedStruct", json!({"type_url": "t", "value": {"a": [[], {}]}}));
    check("envoy.config.route.v3.RetryPolicy", json!({"retriable_status_codes": [503, 504], "num_retries": 0}));
    check(
        "xds.type.matcher.v3.Matcher",
        json!({"matcher_tree": {"input": {"name": "i", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.DestinationPortInput"}}, "exact_match_map": {"map": {"80": {"matcher": {}}}}}}),
    );
}

#[test]
fn refuses_with_place_and_remedy() {
    let refuse = |type_name: &str, input: Value, want: &str| {
        let error = from_json(type_name, &input).expect_err("refused").to_string();
        assert!(error.starts_with(want), "{error}");
    };
    let cluster = "envoy.config.cluster.v3.Cluster";
    refuse(cluster, json!({"nme": 1}), "nme: unknown field of envoy.config.cluster.v3.Cluster");
    refuse(
        cluster,
        json!({"connectTimeouts": "1s"}),
        "connectTimeouts: unknown field of envoy.config.cluster.v3.Cluster; did you mean \"connect_timeout\"?",
    );
    refuse(cluster, json!({"connect_timeout": "1"}), "connect_timeout: expected a duration");
    refuse(
        cluster,
        json!({"lb_policy": "MAGIC"}),
        "lb_policy: \"MAGIC\" is not a value of envoy.config.cluster.v3.Cluster.LbPolicy; known: ROUND_ROBIN",
    );
    refuse(cluster, json!({"type": "EDS", "cluster_type": {}}), "cluster_type: excludes \"type\"");
    refuse(cluster, json!({"name": "a", "name ": 1}), "name : unknown field");
    refuse(
        cluster,
        json!({"load_assignment": {"endpoints": [{}, {"priority": -1}]}}),
        "load_assignment.endpoints[1].priority: expected an integer from 0",
    );
    refuse("google.protobuf.Any", json!({"a": 1}), "an Any needs \"@type\"");
    refuse("google.protobuf.Any", json!({"@type": "x/no.Such"}), "@type: unknown message type");
    refuse("no.Such", json!({}), "unknown message type");
    let deep = (0..200).fold(json!(1), |v, _| json!([v]));
    assert!(from_json("google.protobuf.Value", &deep).expect_err("too deep").to_string().contains("nested more than"));
}

#[test]
fn an_any_of_an_unknown_type_is_shown_as_bytes() {
    let any = prost_types::Any { type_url: "type.googleapis.com/no.Such".into(), value: vec![1, 2] };
    assert_eq!(encode_json(&any), json!({"@type": "type.googleapis.com/no.Such", "value": "AQI="}));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), which in 0usize..4) {
        let name = ["envoy.config.cluster.v3.Cluster", "envoy.config.listener.v3.Listener", "google.protobuf.Struct", "google.protobuf.Any"][which];
        let _ = to_json(name, &bytes, Options::default());
    }

    #[test]
    fn durations_round_trip(seconds in -315_576_000_000i64..=315_576_000_000, nanos in 0i32..1_000_000_000) {
        let nanos = if seconds < 0 { -nanos } else { nanos };
        let text = wkt::print_duration(seconds, nanos);
        prop_assert_eq!(wkt::parse_duration(&text), Some((seconds, nanos)));
    }

    #[test]
    fn timestamps_round_trip(seconds in -62_135_596_800i64..=253_402_300_799, nanos in 0i32..1_000_000_000) {
        let text = wkt::print_timestamp(seconds, nanos);
        prop_assert_eq!(wkt::parse_timestamp(&text), Some((seconds, nanos)));
    }
}

#[test]
fn every_message_of_the_schema_prints_empty() {
    for file in pool().files() {
        for m in file.messages() {
            assert!(MessageType::find(m.full_name()).is_some(), "{}", m.full_name());
            to_json(m.full_name(), &[], Options::default()).expect("empty bytes are any message");
        }
    }
}
