//! Which configurations are tried? Seeded bootstraps in Envoy's own format.
//!
//! Only what is deterministic in Envoy is generated: weights of 0 and 100, one host a cluster except where a hash places
//! the request, no jitter that shows.

use crate::rng::Rng;
use serde_json::{Map, Value, json};

/// Hosts that requests name and virtual hosts claim.
pub const HOSTS: &[&str] =
    &["a.test", "b.test", "x.a.test", "y.x.a.test", "a.org", "a.test:8080", "A.Test", "other", "b.test.", "10.0.0.1"];
/// Paths of requests; prefixes of them are what routes match.
pub const PATHS: &[&str] = &[
    "/",
    "/a",
    "/a/",
    "/a/b",
    "/ab",
    "/a/b/c",
    "/A/b",
    "/a?x=1",
    "/a/b?x=2&y=3",
    "/a//b",
    "/a/./b",
    "/a/../b",
    "/a%2Fb",
    "/a%2fb/c",
    "/%61",
    "/b/c;p=1",
    "/a/b#frag",
    "/c/12345",
    "/a?",
    "/a/b/?x",
    "/very/long/path/with/many/segments",
];
const TYPE: &str = "type.googleapis.com/envoy.extensions.";

/// Ports of one run of one proxy.
#[derive(Clone, Copy)]
pub struct Ports {
    /// The listener under test.
    pub listener: u16,
    /// The admin server.
    pub admin: u16,
}

/// Names of the generated clusters.
fn clusters(rng: &mut Rng, backends: &[u16], closed_port: u16) -> Vec<Value> {
    let host =
        |port: u16| json!({"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}});
    let cluster = |name: &str, hosts: Vec<Value>, more: Value| {
        let mut c = json!({"name": name, "type": "STATIC", "connect_timeout": "1s",
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": hosts}]}});
        merge(&mut c, more);
        c
    };
    let all: Vec<Value> = backends.iter().map(|p| host(*p)).collect();
    let hash = rng.pick(&["RING_HASH", "MAGLEV"]);
    let limits = json!({"circuit_breakers": {"thresholds": [{"max_requests": 1024, "max_retries": 10}]}});
    vec![
        cluster("one", vec![host(backends[0])], limits),
        cluster("two", vec![host(backends[1])], json!({})),
        cluster("hash", all, json!({"lb_policy": hash})),
        cluster("none", vec![], json!({})),
        cluster("refused", vec![host(closed_port)], json!({})),
        cluster("full", vec![host(backends[0])], json!({"circuit_breakers": {"thresholds": [{"max_requests": 0}]}})),
    ]
}

const CLUSTERS: &[&str] = &["one", "one", "two", "two", "hash", "none", "refused", "full", "missing"];

/// A bootstrap for one proxy. The same seed gives the same configuration but for `ports` and `log`.
pub fn bootstrap(seed: u64, ports: Ports, log: &str, backends: &[u16], closed_port: u16) -> Value {
    let rng = &mut Rng::new(seed);
    let clusters = clusters(rng, backends, closed_port);
    let hcm = hcm(rng, log);
    json!({
        "admin": {"address": address(ports.admin)},
        "node": {"id": "differential", "cluster": "differential"},
        "static_resources": {
            "listeners": [{"name": "l", "address": address(ports.listener), "filter_chains": [{"filters": [hcm]}]}],
            "clusters": clusters
        }
    })
}

fn address(port: u16) -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": port}})
}

fn merge(to: &mut Value, from: Value) {
    if let (Some(to), Value::Object(from)) = (to.as_object_mut(), from) {
        to.extend(from);
    }
}

/// One line of the access log per request, without times and generated ids.
const LOG: &str = "%REQ(X-CASE)% %REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL% %RESPONSE_CODE% \
%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %BYTES_RECEIVED% %REQ(:AUTHORITY)% %UPSTREAM_CLUSTER% %UPSTREAM_HOST% \
%ROUTE_NAME% %UPSTREAM_REQUEST_ATTEMPT_COUNT% %VIRTUAL_CLUSTER_NAME% %RESP(location)% %UPSTREAM_TRANSPORT_FAILURE_REASON%\n";

fn hcm(rng: &mut Rng, log: &str) -> Value {
    let mut config = json!({
        "@type": format!("{TYPE}filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "d",
        "route_config": route_table(rng),
        "http_filters": filters(rng),
        "access_log": [{"name": "f", "typed_config": {"@type": format!("{TYPE}access_loggers.file.v3.FileAccessLog"),
            "path": log, "log_format": {"text_format_source": {"inline_string": LOG}}}}]
    });
    let options = [
        json!({"use_remote_address": true}),
        json!({"use_remote_address": true, "xff_num_trusted_hops": 1}),
        json!({"use_remote_address": false, "xff_num_trusted_hops": 2}),
        json!({"skip_xff_append": true}),
        json!({"server_name": "custom"}),
        json!({"server_header_transformation": "APPEND_IF_ABSENT"}),
        json!({"server_header_transformation": "PASS_THROUGH"}),
        json!({"normalize_path": true}),
        json!({"normalize_path": true, "merge_slashes": true}),
        json!({"path_with_escaped_slashes_action": "UNESCAPE_AND_FORWARD"}),
        json!({"path_with_escaped_slashes_action": "REJECT_REQUEST"}),
        json!({"path_with_escaped_slashes_action": "UNESCAPE_AND_REDIRECT"}),
        json!({"strip_matching_host_port": true}),
        json!({"strip_any_host_port": true}),
        json!({"strip_trailing_host_dot": true}),
        json!({"generate_request_id": false}),
        json!({"preserve_external_request_id": true}),
        json!({"always_set_request_id_in_response": true}),
        json!({"via": "proxy"}),
        json!({"append_x_forwarded_port": true}),
        json!({"common_http_protocol_options": {"headers_with_underscores_action": "REJECT_REQUEST"}}),
        json!({"common_http_protocol_options": {"headers_with_underscores_action": "DROP_HEADER"}}),
        json!({"http_protocol_options": {"accept_http_10": true, "default_host_for_http_10": "a.test"}}),
        json!({"http_protocol_options": {"header_key_format": {"proper_case_words": {}}}}),
        json!({"add_user_agent": true}),
        json!({"forward_client_cert_details": "APPEND_FORWARD"}),
        json!({"local_reply_config": {"body_format": {"text_format_source": {"inline_string": "%RESPONSE_CODE%:%LOCAL_REPLY_BODY%"}}}}),
    ];
    for _ in 0..rng.below(4) {
        merge(&mut config, options[rng.below(options.len())].clone());
    }
    json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": config})
}

fn filters(rng: &mut Rng) -> Vec<Value> {
    let filter = |name: &str, ty: &str, config: Value| {
        let mut typed = json!({"@type": format!("{TYPE}filters.http.{ty}")});
        merge(&mut typed, config);
        json!({"name": format!("envoy.filters.http.{name}"), "typed_config": typed})
    };
    let mut out = Vec::new();
    if rng.one_in(3) {
        out.push(filter("rbac", "rbac.v3.RBAC", json!({"rules": rbac(rng)})));
    }
    if rng.one_in(4) {
        let abort = json!({"http_status": 418, "percentage": {"numerator": 100}});
        let header = string_header(rng);
        out.push(filter("fault", "fault.v3.HTTPFault", json!({"abort": abort, "headers": [header]})));
    }
    if rng.one_in(3) {
        out.push(filter("cors", "cors.v3.Cors", json!({})));
    }
    if rng.one_in(4) {
        let mutation = json!({"mutations": {"request_mutations": [{"append": {"header": {"key": "x-mutated", "value": "%REQ(:method)%"}, "append_action": "APPEND_IF_EXISTS_OR_ADD"}}, {"remove": "x-a"}],
            "response_mutations": [{"append": {"header": {"key": "x-done", "value": "1"}}}]}});
        out.push(filter("header_mutation", "header_mutation.v3.HeaderMutation", mutation));
    }
    if rng.one_in(5) {
        out.push(filter("buffer", "buffer.v3.Buffer", json!({"max_request_bytes": 20})));
    }
    out.push(filter("router", "router.v3.Router", json!({"suppress_envoy_headers": rng.one_in(6)})));
    out
}

fn rbac(rng: &mut Rng) -> Value {
    let permission = match rng.below(5) {
        0 => json!({"any": true}),
        1 => json!({"url_path": {"path": {"prefix": "/a"}}}),
        2 => json!({"header": string_header(rng)}),
        3 => {
            json!({"not_rule": {"header": {"name": ":method", "string_match": {"exact": "POST"}}}})
        }
        _ => {
            json!({"or_rules": {"rules": [{"destination_port": 1}, {"header": {"name": ":path", "string_match": {"contains": "b"}}}]}})
        }
    };
    let principal = match rng.below(3) {
        0 => json!({"any": true}),
        1 => json!({"direct_remote_ip": {"address_prefix": "127.0.0.0", "prefix_len": 8}}),
        _ => json!({"remote_ip": {"address_prefix": "10.0.0.0", "prefix_len": 8}}),
    };
    let action = rng.pick(&["ALLOW", "DENY"]);
    json!({"action": action, "policies": {"p": {"permissions": [permission], "principals": [principal]}}})
}

fn route_table(rng: &mut Rng) -> Value {
    let mut free = vec![
        "a.test",
        "b.test",
        "*.a.test",
        "*.x.a.test",
        "a.*",
        "a.org",
        "*.test",
        "a.test:8080",
        "b.test:*",
        "10.0.0.1",
    ];
    let mut hosts = Vec::new();
    for i in 0..=rng.below(4) {
        let domains: Vec<&str> = (0..=rng.below(2)).map(|_| free.remove(rng.below(free.len()))).collect();
        hosts.push(virtual_host(rng, &format!("v{i}"), &domains));
    }
    if !rng.one_in(3) {
        hosts.push(virtual_host(rng, "rest", &["*"]));
    }
    let mut table = json!({"name": "table", "virtual_hosts": hosts, "validate_clusters": false});
    merge(&mut table, header_operations(rng, 3));
    if rng.one_in(3) {
        merge(&mut table, json!({"most_specific_header_mutations_wins": true}));
    }
    if rng.one_in(6) {
        merge(&mut table, json!({"ignore_port_in_host_matching": true}));
    }
    table
}

fn virtual_host(rng: &mut Rng, name: &str, domains: &[&str]) -> Value {
    let routes: Vec<Value> = (0..=rng.below(5)).map(|i| route(rng, &format!("{name}-{i}"))).collect();
    let mut host = json!({"name": name, "domains": domains, "routes": routes});
    merge(&mut host, header_operations(rng, 4));
    if rng.one_in(12) {
        merge(&mut host, json!({"require_tls": rng.pick(&["ALL", "EXTERNAL_ONLY"])}));
    }
    if rng.one_in(6) {
        merge(&mut host, json!({"include_request_attempt_count": true}));
    }
    if rng.one_in(6) {
        merge(&mut host, json!({"retry_policy": retry(rng)}));
    }
    host
}

fn route(rng: &mut Rng, name: &str) -> Value {
    let mut route = json!({"name": name, "match": route_match(rng)});
    let action = match rng.below(10) {
        0 => json!({"redirect": redirect(rng)}),
        1 => json!({"direct_response": {"status": 203, "body": {"inline_string": "direct"}}}),
        _ => json!({"route": route_action(rng)}),
    };
    merge(&mut route, action);
    merge(&mut route, header_operations(rng, 3));
    if rng.one_in(5) {
        let cors = json!({"@type": format!("{TYPE}filters.http.cors.v3.CorsPolicy"), "allow_origin_string_match": [{"prefix": "http://a"}],
            "allow_methods": "GET,POST", "allow_headers": "x-a", "expose_headers": "x-b", "max_age": "60", "allow_credentials": rng.one_in(2)});
        merge(&mut route, json!({"typed_per_filter_config": {"envoy.filters.http.cors": cors}}));
    }
    route
}

fn route_match(rng: &mut Rng) -> Value {
    let mut m = match rng.below(12) {
        0 => json!({"path": "/a"}),
        1 => json!({"path": "/a/b"}),
        2 => json!({"safe_regex": {"regex": "/[ac]/[0-9b]+.*"}}),
        3 => json!({"path_separated_prefix": "/a"}),
        4 => json!({"prefix": "/a"}),
        5 => json!({"prefix": "/a/b"}),
        6 => json!({"prefix": "/A", "case_sensitive": false}),
        7 => json!({"path": "/A/B", "case_sensitive": false}),
        _ => json!({"prefix": "/"}),
    };
    if rng.one_in(4) {
        merge(&mut m, json!({"headers": [header_matcher(rng)]}));
    }
    if rng.one_in(6) {
        let query = match rng.below(3) {
            0 => json!({"name": "x", "present_match": true}),
            1 => json!({"name": "x", "string_match": {"exact": "1"}}),
            _ => json!({"name": "y", "string_match": {"safe_regex": {"regex": "[0-9]"}}}),
        };
        merge(&mut m, json!({"query_parameters": [query]}));
    }
    if rng.one_in(10) {
        merge(&mut m, json!({"runtime_fraction": {"default_value": {"numerator": rng.below(2) * 100}}}));
    }
    if rng.one_in(12) {
        merge(&mut m, json!({"grpc": {}}));
    }
    m
}

fn string_header(rng: &mut Rng) -> Value {
    let value = match rng.below(6) {
        0 => json!({"exact": "1"}),
        1 => json!({"prefix": "v"}),
        2 => json!({"suffix": "2"}),
        3 => json!({"contains": "b", "ignore_case": true}),
        4 => json!({"exact": "VALUE", "ignore_case": true}),
        _ => json!({"safe_regex": {"regex": "v[0-9]"}}),
    };
    json!({"name": rng.pick(&["x-a", "x-b", "user-agent"]), "string_match": value})
}

fn header_matcher(rng: &mut Rng) -> Value {
    let mut h = match rng.below(5) {
        0 => json!({"name": "x-a", "present_match": rng.one_in(2)}),
        1 => json!({"name": "x-n", "range_match": {"start": "1", "end": "10"}}),
        2 => json!({"name": ":method", "string_match": {"exact": "POST"}}),
        _ => string_header(rng),
    };
    if rng.one_in(4) {
        merge(&mut h, json!({"invert_match": true}));
    }
    if rng.one_in(6) {
        merge(&mut h, json!({"treat_missing_header_as_empty": true}));
    }
    h
}

fn redirect(rng: &mut Rng) -> Value {
    let mut r = json!({});
    let parts = [
        json!({"https_redirect": true}),
        json!({"scheme_redirect": "http"}),
        json!({"host_redirect": "new.test"}),
        json!({"port_redirect": 8443}),
        json!({"response_code": "TEMPORARY_REDIRECT"}),
        json!({"strip_query": true}),
    ];
    for _ in 0..rng.below(3) {
        merge(&mut r, parts[rng.below(4) + rng.below(3)].clone());
    }
    match rng.below(4) {
        0 => merge(&mut r, json!({"path_redirect": "/moved?z=9"})),
        1 => merge(&mut r, json!({"prefix_rewrite": "/p"})),
        2 => merge(&mut r, json!({"regex_rewrite": {"pattern": {"regex": "/(a)(.*)"}, "substitution": "/\\2/\\1"}})),
        _ => {}
    }
    if r.get("https_redirect").is_some() {
        r.as_object_mut().map(|o| o.remove("scheme_redirect"));
    }
    r
}

fn route_action(rng: &mut Rng) -> Value {
    let mut a = match rng.below(8) {
        0 => json!({"cluster_header": "x-cluster"}),
        1 => {
            json!({"weighted_clusters": {"clusters": [{"name": "one", "weight": 0}, weighted(rng)]}})
        }
        _ => json!({"cluster": rng.pick(CLUSTERS)}),
    };
    if a["cluster"] == "hash" || rng.one_in(8) {
        let policy = match rng.below(4) {
            0 => json!({"header": {"header_name": "x-a"}}),
            1 => json!({"connection_properties": {"source_ip": true}}),
            2 => json!({"query_parameter": {"name": "x"}}),
            _ => json!({"cookie": {"name": "k"}}),
        };
        merge(&mut a, json!({"hash_policy": [policy, {"header": {"header_name": ":path"}}]}));
    }
    match rng.below(9) {
        0 => merge(&mut a, json!({"prefix_rewrite": "/new"})),
        1 => merge(&mut a, json!({"prefix_rewrite": "/"})),
        2 => {
            merge(&mut a, json!({"regex_rewrite": {"pattern": {"regex": "/([a-z])/(.*)"}, "substitution": "/\\2-\\1"}}))
        }
        _ => {}
    }
    match rng.below(9) {
        0 => merge(&mut a, json!({"host_rewrite_literal": "rewritten"})),
        1 => merge(&mut a, json!({"host_rewrite_header": "x-a"})),
        2 => merge(&mut a, json!({"host_rewrite_literal": "rewritten", "append_x_forwarded_host": true})),
        3 => merge(
            &mut a,
            json!({"host_rewrite_path_regex": {"pattern": {"regex": "/(.+)/.*"}, "substitution": "\\1.host"}}),
        ),
        _ => {}
    }
    if rng.one_in(4) {
        merge(&mut a, json!({"timeout": rng.pick(&["0s", "3s", "15s"])}));
    }
    if rng.one_in(3) {
        merge(&mut a, json!({"retry_policy": retry(rng)}));
    }
    if rng.one_in(8) {
        merge(&mut a, json!({"cluster_not_found_response_code": "NOT_FOUND"}));
    }
    a
}

fn weighted(rng: &mut Rng) -> Value {
    // Without a hash policy a hashing cluster picks at random: `hash` stays out.
    let mut w = json!({"name": rng.pick(&["one", "two", "none", "refused"]), "weight": 100});
    merge(&mut w, header_operations(rng, 2));
    w
}

fn retry(rng: &mut Rng) -> Value {
    let on = rng.pick(&[
        "5xx",
        "gateway-error",
        "reset",
        "connect-failure",
        "retriable-status-codes",
        "retriable-4xx",
        "5xx,reset-before-request",
        "retriable-headers",
        "envoy-ratelimited",
        "http3-post-connect-failure,connect-failure,refused-stream",
    ]);
    json!({"retry_on": on, "num_retries": rng.below(4), "retriable_status_codes": [418, 503],
        "retriable_headers": [{"name": "x-retry", "present_match": true}],
        "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.002s"}})
}

/// Header operations on one in `n` occasions.
fn header_operations(rng: &mut Rng, n: usize) -> Value {
    let mut out = Map::new();
    let mut add = |rng: &mut Rng, field: &str| {
        let value = rng.pick(&[
            "plain",
            "%PROTOCOL%",
            "%REQ(x-a)%",
            "%REQ(x-none?x-b)%",
            "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
            "a%%b",
            "%REQ(x-b):1%",
            "%RESPONSE_CODE%",
            "%REQ(:path)%",
            "%ROUTE_NAME%",
            "%HOSTNAME_NOT%",
        ]);
        let value = if value == "%HOSTNAME_NOT%" { "%REQUESTED_SERVER_NAME%" } else { value };
        let action = rng.pick(&[
            "APPEND_IF_EXISTS_OR_ADD",
            "ADD_IF_ABSENT",
            "OVERWRITE_IF_EXISTS_OR_ADD",
            "OVERWRITE_IF_EXISTS",
        ]);
        let key = rng.pick(&["x-a", "x-new", "X-Upper", "server", "x-b"]);
        let keep = rng.one_in(5);
        out.insert(
            field.into(),
            json!([{"header": {"key": key, "value": value}, "append_action": action, "keep_empty_value": keep}]),
        );
    };
    if rng.one_in(n) {
        add(rng, "request_headers_to_add");
    }
    if rng.one_in(n) {
        add(rng, "response_headers_to_add");
    }
    if rng.one_in(n + 2) {
        out.insert("request_headers_to_remove".into(), json!(["x-b", "user-agent"]));
    }
    if rng.one_in(n + 2) {
        out.insert("response_headers_to_remove".into(), json!(["x-reply", "server"]));
    }
    Value::Object(out)
}
