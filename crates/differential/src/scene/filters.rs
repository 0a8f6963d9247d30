//! Which HTTP filters stand before the router, and what do they ask?

use super::{Protocol, TYPE, matchers, merge};
use crate::rng::Rng;
use serde_json::{Value, json};

pub fn chain(rng: &mut Rng, protocol: Protocol) -> Vec<Value> {
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
        let header = matchers::string_header(rng);
        let mut fault = json!({"abort": abort, "headers": [header]});
        if rng.one_in(4) {
            let delay = json!({"fixed_delay": "0.01s", "percentage": {"numerator": 100}});
            merge(&mut fault, json!({"delay": delay}));
        }
        if rng.one_in(4) {
            merge(&mut fault, json!({"abort": {"header_abort": {}, "percentage": {"numerator": 100}}}));
        }
        out.push(filter("fault", "fault.v3.HTTPFault", fault));
    }
    if rng.one_in(6) {
        let bucket = json!({"max_tokens": 5 + rng.below(20), "fill_interval": "3600s"});
        let always = json!({"default_value": {"numerator": 100}});
        let more = json!({"stat_prefix": "~limit", "token_bucket": bucket, "filter_enabled": always, "filter_enforced": always,
            "response_headers_to_add": [{"header": {"key": "x-limited", "value": "yes"}}]});
        out.push(filter("local_ratelimit", "local_ratelimit.v3.LocalRateLimit", more));
    }
    if rng.one_in(6) {
        let always = json!({"default_value": {"numerator": 100}});
        let more = json!({"filter_enabled": always, "additional_origins": [{"exact": "b.test"}]});
        out.push(filter("csrf", "csrf.v3.CsrfPolicy", more));
    }
    if rng.one_in(3) {
        out.push(filter("cors", "cors.v3.Cors", json!({})));
    }
    if rng.one_in(4) {
        let mutation = json!({"mutations": {"request_mutations": [{"append": {"header": {"key": "x-mutated", "value": "%REQ(:method)%"}, "append_action": "APPEND_IF_EXISTS_OR_ADD"}}, {"remove": "x-a"}],
            "response_mutations": [{"append": {"header": {"key": "x-done", "value": "1"}}}]}});
        out.push(filter("header_mutation", "header_mutation.v3.HeaderMutation", mutation));
    }
    // Envoy's limit does not hold for a body that comes in one piece, as over HTTP/2 or after a delay (docs/differences.md).
    let delayed = out.iter().any(|f| f.to_string().contains("fixed_delay"));
    if rng.one_in(5) && matches!(protocol, Protocol::Http1 | Protocol::TlsHttp1) && !delayed {
        out.push(filter("buffer", "buffer.v3.Buffer", json!({"max_request_bytes": 20})));
    }
    out.push(filter("router", "router.v3.Router", json!({"suppress_envoy_headers": rng.one_in(6)})));
    out
}

fn rbac(rng: &mut Rng) -> Value {
    let permission = match rng.below(5) {
        0 => json!({"any": true}),
        1 => json!({"url_path": {"path": {"prefix": "/a"}}}),
        2 => json!({"header": matchers::string_header(rng)}),
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
