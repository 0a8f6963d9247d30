//! What do routes do with a request? Forwarding with rewrites, retries and hashing; redirects.

use super::{clusters, merge, operations};
use crate::rng::Rng;
use serde_json::{Value, json};

pub fn redirect(rng: &mut Rng) -> Value {
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

pub fn forward(rng: &mut Rng) -> Value {
    let mut a = match rng.below(8) {
        0 => json!({"cluster_header": "x-cluster"}),
        1 => {
            json!({"weighted_clusters": {"clusters": [{"name": "~one", "weight": 0}, weighted(rng)]}})
        }
        _ => json!({"cluster": rng.pick(clusters::NAMES)}),
    };
    if a["cluster"] == "~hash" || a["cluster"] == "~half" || rng.one_in(8) {
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
        merge(&mut a, json!({"timeout": rng.pick(&["0s", "0.3s", "3s", "15s"])}));
    }
    if rng.one_in(3) {
        merge(&mut a, json!({"retry_policy": retry(rng)}));
    }
    if rng.one_in(10) {
        let policy = json!({"max_internal_redirects": 1 + rng.below(2), "redirect_response_codes": [302, 307]});
        merge(&mut a, json!({"internal_redirect_policy": policy}));
    }
    if rng.one_in(8) && (a["cluster"] == "~one" || a["cluster"] == "~two") {
        let fraction = json!({"default_value": {"numerator": rng.below(2) * 100}});
        merge(&mut a, json!({"request_mirror_policies": [{"cluster": "~shadow", "runtime_fraction": fraction}]}));
    }
    if rng.one_in(10) {
        merge(&mut a, json!({"max_stream_duration": {"max_stream_duration": "10s", "grpc_timeout_header_max": "0s"}}));
    }
    if rng.one_in(8) {
        merge(&mut a, json!({"cluster_not_found_response_code": "NOT_FOUND"}));
    }
    a
}

fn weighted(rng: &mut Rng) -> Value {
    // Without a hash policy a hashing cluster picks at random: `hash` stays out.
    let mut w = json!({"name": rng.pick(&["~one", "~two", "~none", "~refused", "~h2"]), "weight": 100});
    merge(&mut w, operations::some(rng, 2));
    w
}

pub fn retry(rng: &mut Rng) -> Value {
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
    let mut policy = json!({"retry_on": on, "num_retries": rng.below(4), "retriable_status_codes": [418, 503],
        "retriable_headers": [{"name": "x-retry", "present_match": true}],
        "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.002s"}});
    if rng.one_in(4) {
        merge(&mut policy, json!({"per_try_timeout": "0.3s"}));
    }
    if rng.one_in(6) {
        merge(&mut policy, json!({"retriable_request_headers": [{"name": "x-retry-me", "present_match": true}]}));
    }
    policy
}
