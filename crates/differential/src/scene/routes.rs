//! Which virtual hosts and routes are there?

use super::{TYPE, actions, matchers, merge, operations};
use crate::rng::Rng;
use serde_json::{Value, json};

pub fn table(rng: &mut Rng) -> Value {
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
        hosts.push(virtual_host(rng, &format!("~v{i}"), &domains));
    }
    if !rng.one_in(3) {
        hosts.push(virtual_host(rng, "~rest", &["*"]));
    }
    let mut table = json!({"name": "table", "virtual_hosts": hosts, "validate_clusters": false});
    merge(&mut table, operations::some(rng, 3));
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
    merge(&mut host, operations::some(rng, 4));
    if rng.one_in(12) {
        merge(&mut host, json!({"require_tls": rng.pick(&["ALL", "EXTERNAL_ONLY"])}));
    }
    if rng.one_in(6) {
        merge(&mut host, json!({"include_request_attempt_count": true}));
    }
    if rng.one_in(6) {
        merge(&mut host, json!({"include_attempt_count_in_response": true}));
    }
    if rng.one_in(5) {
        let clusters = json!([{"name": "vc", "headers": [{"name": ":path", "string_match": {"prefix": "/a"}}]},
            {"name": "post", "headers": [{"name": ":method", "string_match": {"exact": "POST"}}]}]);
        merge(&mut host, json!({"virtual_clusters": clusters}));
    }
    if rng.one_in(6) {
        merge(&mut host, json!({"retry_policy": actions::retry(rng)}));
    }
    host
}

fn route(rng: &mut Rng, name: &str) -> Value {
    let mut route = json!({"name": name, "match": matchers::route(rng)});
    let action = match rng.below(10) {
        0 => json!({"redirect": actions::redirect(rng)}),
        1 => json!({"direct_response": {"status": 203, "body": {"inline_string": "direct"}}}),
        _ => json!({"route": actions::forward(rng)}),
    };
    merge(&mut route, action);
    merge(&mut route, operations::some(rng, 3));
    if rng.one_in(5) {
        let cors = json!({"@type": format!("{TYPE}filters.http.cors.v3.CorsPolicy"), "allow_origin_string_match": [{"prefix": "http://a"}],
            "allow_methods": "GET,POST", "allow_headers": "x-a", "expose_headers": "x-b", "max_age": "60", "allow_credentials": rng.one_in(2)});
        merge(&mut route, json!({"typed_per_filter_config": {"envoy.filters.http.cors": cors}}));
    } else if rng.one_in(5) {
        merge(&mut route, json!({"typed_per_filter_config": per_filter(rng)}));
    }
    route
}

/// What a route says about one filter: another configuration, or that it is off.
fn per_filter(rng: &mut Rng) -> Value {
    let name = rng.pick(&["rbac", "fault", "header_mutation", "local_ratelimit"]);
    let config = match rng.below(2) {
        0 => json!({"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": true}),
        _ => match name {
            "rbac" => {
                json!({"@type": format!("{TYPE}filters.http.rbac.v3.RBACPerRoute"), "rbac": {"rules": {"action": "DENY",
                "policies": {"route": {"permissions": [{"any": true}], "principals": [{"header": matchers::string_header(rng)}]}}}}})
            }
            "fault" => json!({"@type": format!("{TYPE}filters.http.fault.v3.HTTPFault"),
                "abort": {"http_status": 501, "percentage": {"numerator": 100}}}),
            "header_mutation" => {
                json!({"@type": format!("{TYPE}filters.http.header_mutation.v3.HeaderMutationPerRoute"),
                "mutations": {"response_mutations": [{"append": {"header": {"key": "x-route", "value": "%RESPONSE_CODE%"}}}]}})
            }
            _ => {
                json!({"@type": format!("{TYPE}filters.http.local_ratelimit.v3.LocalRateLimit"), "stat_prefix": "~route",
                "token_bucket": {"max_tokens": 2, "fill_interval": "3600s"},
                "filter_enabled": {"default_value": {"numerator": 100}}, "filter_enforced": {"default_value": {"numerator": 100}}})
            }
        },
    };
    json!({format!("envoy.filters.http.{name}"): config})
}
