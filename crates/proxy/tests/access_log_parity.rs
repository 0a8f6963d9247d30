//! Does a log line say what stock Envoy's does? Every operator, for requests that end in different ways.
//!
//! Text and JSON, HTTP and TCP. Needs `PROA_ENVOY`; says so and passes when it is absent. What differs by nature
//! (times, ports of the moment, random ids) is compared by its shape.

mod support;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use support::*;

/// Operators whose value is another one each time: compared by shape.
const BY_SHAPE: &[&str] = &[
    "START_TIME",
    "EMIT_TIME",
    "DURATION",
    "PORT",
    "ADDRESS",
    "UPSTREAM_HOST",
    "CONNECTION_ID",
    "UNIQUE_ID",
    "STREAM_ID",
    "X-REQUEST-ID",
    "SERVICE-TIME",
    "HOSTNAME",
];

/// Operators that differ on purpose, and why.
const KNOWN: &[(&str, &str)] = &[
    ("CLUSTER_METADATA", "not given to access logs of HTTP"),
    ("CUSTOM_FLAGS", "printed as absent instead of empty"),
    ("STREAM_ID", "a number instead of the request id"),
    ("UPSTREAM_CONNECTION_ID", "upstream connections have no number"),
    ("UPSTREAM_HOST_NAME_WITHOUT_PORT", "absent instead of the address for hosts without a name"),
    ("QUERY_PARAMS", "empty instead of absent without a query"),
    ("REQUEST_DURATION", "absent for replies made here"),
    ("UPSTREAM_REMOTE_", "told also when connecting failed"),
    ("ENVIRONMENT", "null instead of a dash in JSON"),
    ("RESPONSE_FLAGS", "null instead of a dash in JSON"),
    ("COMMON_DURATION", "told also for byte streams"),
    ("UPSTREAM_WIRE_BYTES", "not counted per try"),
    ("UPSTREAM_HEADER_BYTES", "not counted per try"),
    ("DOWNSTREAM_HEADER_BYTES", "not counted apart from the wire's bytes"),
];

const OPERATORS: &[&str] = &[
    "START_TIME",
    "START_TIME(%s.%3f)",
    "BYTES_RECEIVED",
    "BYTES_SENT",
    "PROTOCOL",
    "UPSTREAM_PROTOCOL",
    "RESPONSE_CODE",
    "RESPONSE_CODE_DETAILS",
    "CONNECTION_TERMINATION_DETAILS",
    "DOWNSTREAM_WIRE_BYTES_SENT",
    "DOWNSTREAM_WIRE_BYTES_RECEIVED",
    "UPSTREAM_WIRE_BYTES_SENT",
    "UPSTREAM_WIRE_BYTES_RECEIVED",
    "UPSTREAM_HEADER_BYTES_SENT",
    "UPSTREAM_HEADER_BYTES_RECEIVED",
    "DOWNSTREAM_HEADER_BYTES_SENT",
    "DOWNSTREAM_HEADER_BYTES_RECEIVED",
    "DURATION",
    "REQUEST_DURATION",
    "REQUEST_TX_DURATION",
    "RESPONSE_DURATION",
    "RESPONSE_TX_DURATION",
    "COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)",
    "RESPONSE_FLAGS",
    "RESPONSE_FLAGS_LONG",
    "UPSTREAM_HOST",
    "UPSTREAM_HOST_NAME",
    "UPSTREAM_HOST_NAME_WITHOUT_PORT",
    "UPSTREAM_CLUSTER",
    "UPSTREAM_CLUSTER_RAW",
    "UPSTREAM_LOCAL_ADDRESS",
    "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    "UPSTREAM_LOCAL_PORT",
    "UPSTREAM_REMOTE_ADDRESS",
    "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    "UPSTREAM_REMOTE_PORT",
    "UPSTREAM_REQUEST_ATTEMPT_COUNT",
    "UPSTREAM_TLS_CIPHER",
    "UPSTREAM_TLS_VERSION",
    "UPSTREAM_PEER_ISSUER",
    "UPSTREAM_PEER_SUBJECT",
    "UPSTREAM_TRANSPORT_FAILURE_REASON",
    "DOWNSTREAM_TRANSPORT_FAILURE_REASON",
    "DOWNSTREAM_REMOTE_ADDRESS",
    "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_REMOTE_PORT",
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS",
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_LOCAL_ADDRESS",
    "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_LOCAL_PORT",
    "DOWNSTREAM_DIRECT_LOCAL_ADDRESS",
    "CONNECTION_ID",
    "UPSTREAM_CONNECTION_ID",
    "GRPC_STATUS",
    "GRPC_STATUS(CAMEL_STRING)",
    "GRPC_STATUS(SNAKE_STRING)",
    "GRPC_STATUS_NUMBER",
    "REQ(:METHOD)",
    "REQ(X-ENVOY-ORIGINAL-PATH?:PATH)",
    "REQ(X-LONG):3",
    "REQ(X-MANY)",
    "REQ(X-REQUEST-ID)",
    "REQ(:AUTHORITY)",
    "REQ(X-FORWARDED-FOR)",
    "RESP(CONTENT-LENGTH)",
    "RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)",
    "RESP(SERVER)",
    "TRAILER(GRPC-STATUS)",
    "DYNAMIC_METADATA(a:b)",
    "CLUSTER_METADATA(m:k)",
    "CLUSTER_METADATA(m)",
    "UPSTREAM_METADATA(m:k)",
    "METADATA(ROUTE:m:k)",
    "FILTER_STATE(nothing:PLAIN)",
    "REQUESTED_SERVER_NAME",
    "DOWNSTREAM_LOCAL_URI_SAN",
    "DOWNSTREAM_PEER_URI_SAN",
    "DOWNSTREAM_PEER_SUBJECT",
    "DOWNSTREAM_LOCAL_SUBJECT",
    "DOWNSTREAM_TLS_SESSION_ID",
    "DOWNSTREAM_TLS_CIPHER",
    "DOWNSTREAM_TLS_VERSION",
    "DOWNSTREAM_PEER_FINGERPRINT_256",
    "DOWNSTREAM_PEER_SERIAL",
    "DOWNSTREAM_PEER_ISSUER",
    "DOWNSTREAM_PEER_CERT_V_START",
    "HOSTNAME",
    "LOCAL_REPLY_BODY",
    "FILTER_CHAIN_NAME",
    "VIRTUAL_CLUSTER_NAME",
    "ROUTE_NAME",
    "ACCESS_LOG_TYPE",
    "UNIQUE_ID",
    "STREAM_ID",
    "TRACE_ID",
    "SPAN_ID",
    "QUERY_PARAM(x)",
    "QUERY_PARAMS",
    "PATH(WQ:PATH)",
    "PATH(NQ:ORIG_OR_PATH)",
    "ENVIRONMENT(NOT_SET_ANYWHERE)",
    "CUSTOM_FLAGS",
];

fn text_format() -> String {
    let mut out: String = OPERATORS.iter().map(|op| format!("{}=%{op}%\t", op.replace('%', "%%"))).collect();
    out.push('\n');
    out
}

fn json_format() -> Value {
    Value::Object(OPERATORS.iter().map(|op| ((*op).to_owned(), format!("%{op}%").into())).collect())
}

fn file(path: &str, format: Value) -> Value {
    json!({"name": "envoy.access_loggers.file", "typed_config": {
        "@type": format!("{TYPE}envoy.extensions.access_loggers.file.v3.FileAccessLog"), "path": path, "log_format": format}})
}

/// What is compared of a value.
fn shown(op: &str, value: &str) -> String {
    if !BY_SHAPE.iter().any(|part| op.contains(part)) {
        return value.to_owned();
    }
    let mut out = String::new();
    for c in value.chars() {
        let class = match c {
            '0'..='9' => '9',
            c => c,
        };
        if class != '9' || !out.ends_with('9') {
            out.push(class);
        }
    }
    // Random ids have letters among their digits.
    if op.contains("REQUEST-ID") || op == "UNIQUE_ID" || op == "HOSTNAME" {
        format!("{} characters", value.len())
    } else {
        out
    }
}

type Line = BTreeMap<String, String>;

fn text_lines(text: &str) -> Vec<Line> {
    let field = |f: &str| f.split_once('=').map(|(k, v)| (k.to_owned(), shown(k, v)));
    text.lines().map(|l| l.split('\t').filter_map(field).collect()).collect()
}

fn json_lines(text: &str) -> Vec<Line> {
    text.lines()
        .map(|l| {
            let value: Value = serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"));
            let fields = value.as_object().cloned().unwrap_or_default();
            fields.into_iter().map(|(k, v)| (k.clone(), shown(&k, &v.to_string()))).collect()
        })
        .collect()
}

/// Runs the traffic through one proxy and returns its lines: HTTP text, HTTP JSON, TCP text.
fn lines(start: impl Fn(&Value) -> Running, app: u16, dead: u16) -> [Vec<Line>; 3] {
    let dir = tempfile::tempdir().expect("temporary directory");
    let at = |name: &str| dir.path().join(name).display().to_string();
    let (port, tcp_port, dead_port) = (free_port(), free_port(), free_port());
    let logs = json!([
        file(&at("text"), json!({"text_format_source": {"inline_string": text_format()}})),
        file(&at("json"), json!({"json_format": json_format()}))
    ]);
    let metadata = json!({"filter_metadata": {"m": {"k": "v", "n": 1}}});
    let routes = json!([
        {"name": "direct", "match": {"path": "/direct"}, "direct_response": {"status": 418, "body": {"inline_string": "tea"}}},
        {"name": "redirect", "match": {"path": "/redirect"}, "redirect": {"path_redirect": "/other"}},
        {"name": "dead", "match": {"path": "/dead"}, "route": {"cluster": "dead"}},
        {"name": "none", "match": {"path": "/none"}, "route": {"cluster": "unknown"}},
        {"name": "app", "match": {"prefix": "/app"}, "route": {"cluster": "app", "prefix_rewrite": "/rewritten"}, "metadata": metadata}]);
    let mut with_metadata = cluster("app", app);
    with_metadata["metadata"] = metadata.clone();
    with_metadata["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["metadata"] = metadata;
    let proxy = |cluster: &str| {
        json!({"name": "envoy.filters.network.tcp_proxy", "typed_config": {
        "@type": format!("{TYPE}envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"), "stat_prefix": "t", "cluster": cluster,
        "access_log": [file(&at("tcp"), json!({"text_format_source": {"inline_string": text_format()}}))]}})
    };
    let mut http_filter = hcm(routes, &[], json!({"access_log": logs}));
    http_filter["typed_config"]["route_config"]["validate_clusters"] = false.into();
    let config = bootstrap(
        vec![
            listener(port, &[http_filter], json!({})),
            listener(tcp_port, &[proxy("app")], json!({})),
            listener(dead_port, &[proxy("dead")], json!({})),
        ],
        vec![with_metadata, cluster("dead", dead)],
    );
    let running = start(&config);
    let many = [("x-many", "1"), ("x-many", "2"), ("x-long", "abcdef")];
    for path in ["/app/a?x=1&y", "/direct", "/redirect", "/dead", "/none", "/nowhere"] {
        http(port, "GET", path, &many).expect("answered");
    }
    let _ = http(tcp_port, "GET", "/", &[]);
    let _ = http(dead_port, "GET", "/", &[]);
    // Files are written when the process ends.
    let wait = |name: &str, count: usize| {
        for _ in 0..1000 {
            let text = std::fs::read_to_string(at(name)).unwrap_or_default();
            if text.lines().count() >= count {
                return text;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
            running.get("/reopen_logs");
            let _ = http(running.admin, "POST", "/reopen_logs", &[]);
        }
        panic!("{name}: fewer than {count} lines");
    };
    // Two connections end in no particular order.
    let mut tcp = text_lines(&wait("tcp", 2));
    tcp.sort_by_key(|l| l.get("UPSTREAM_CLUSTER_RAW").cloned());
    [text_lines(&wait("text", 6)), json_lines(&wait("json", 6)), tcp]
}

#[test]
fn lines_are_envoys() {
    let Some(envoy) = envoy() else {
        return eprintln!("access_log_parity: not run, PROA_ENVOY does not name an Envoy binary");
    };
    let (app, _seen) = backend("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
    let dead = free_port();
    let theirs = lines(|c| Running::envoy(&envoy, c), app, dead);
    let ours = lines(|c| Running::ours(c, &[]), app, dead);
    let mut report = String::new();
    for (what, (theirs, ours)) in ["text", "json", "tcp"].iter().zip(theirs.iter().zip(&ours)) {
        assert_eq!(theirs.len(), ours.len(), "{what}");
        for (i, (theirs, ours)) in theirs.iter().zip(ours).enumerate() {
            for (op, value) in theirs {
                let known = KNOWN.iter().any(|(part, _)| op.contains(part));
                let own = ours.get(op).map_or("nothing", String::as_str);
                if own != value && !known {
                    report.push_str(&format!("{what} line {i}: {op}: Envoy {value:?}, here {own:?}\n"));
                }
            }
        }
    }
    assert!(report.is_empty(), "{report}");
}
