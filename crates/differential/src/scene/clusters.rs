//! Which clusters can routes name? Healthy, empty, refusing, full, hashing; HTTP/1, HTTP/2, with and without TLS.

use super::{Surroundings, TYPE, merge};
use crate::rng::Rng;
use serde_json::{Value, json};

/// Names that routes draw from; `missing` exists nowhere.
pub const NAMES: &[&str] = &[
    "~one", "~one", "~two", "~two", "~hash", "~none", "~refused", "~full", "~missing", "~h2", "~tls", "~half",
    "~h2tls", "~eject", "~noretry",
];

pub fn all(rng: &mut Rng, around: &Surroundings<'_>) -> Vec<Value> {
    let host =
        |port: u16| json!({"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}});
    let cluster = |name: &str, ports: &[u16], more: Value| {
        let hosts: Vec<Value> = ports.iter().map(|p| host(*p)).collect();
        let mut c = json!({"name": name, "type": "STATIC", "connect_timeout": "5s",
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": hosts}]}});
        merge(&mut c, more);
        c
    };
    let up = around.backends;
    let hash = rng.pick(&["RING_HASH", "MAGLEV"]);
    let limits = json!({"circuit_breakers": {"thresholds": [{"max_requests": 1024, "max_retries": 10}]}});
    let h2 = json!({"typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": format!("{TYPE}upstreams.http.v3.HttpProtocolOptions"),
        "explicit_http_config": {"http2_protocol_options": {}}}}});
    let mut tls = json!({"@type": format!("{TYPE}transport_sockets.tls.v3.UpstreamTlsContext"), "sni": "up.test"});
    let validation = match rng.below(3) {
        0 => json!({"trusted_ca": {"inline_string": around.certificates.root}}),
        1 => json!({"trusted_ca": {"inline_string": around.certificates.root}, "match_typed_subject_alt_names":
            [{"san_type": "URI", "matcher": {"exact": "spiffe://test/ns/u/sa/up"}}]}),
        _ => json!({"trusted_ca": {"inline_string": around.certificates.root}, "match_typed_subject_alt_names":
            [{"san_type": "DNS", "matcher": {"exact": "nobody.test"}}]}),
    };
    merge(&mut tls, json!({"common_tls_context": {"validation_context": validation}}));
    let socket = json!({"transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls}});
    let mut h2tls = h2.clone();
    merge(&mut h2tls, socket.clone());
    h2tls["transport_socket"]["typed_config"]["common_tls_context"]["alpn_protocols"] = json!(["h2"]);
    let panic = if rng.one_in(2) { 0.0 } else { 50.0 };
    let eject = json!({"outlier_detection": {"consecutive_5xx": 3, "consecutive_gateway_failure": 2,
            "enforcing_consecutive_gateway_failure": rng.below(2) * 100, "interval": "600s", "base_ejection_time": "600s",
            "max_ejection_percent": 100, "enforcing_success_rate": 0},
        "common_lb_config": {"healthy_panic_threshold": {"value": panic}}});
    vec![
        cluster("~one", &up[..1], limits),
        cluster("~two", &up[1..2], json!({})),
        cluster("~hash", up, json!({"lb_policy": hash})),
        cluster("~none", &[], json!({})),
        cluster("~refused", &[around.closed_port], json!({})),
        cluster("~full", &up[..1], json!({"circuit_breakers": {"thresholds": [{"max_requests": 0}]}})),
        cluster("~h2", &up[2..3], h2),
        cluster("~tls", &up[2..3], socket),
        cluster("~h2tls", &up[1..2], h2tls),
        cluster("~shadow", &up[2..3], json!({})),
        cluster("~noretry", &up[..1], json!({"circuit_breakers": {"thresholds": [{"max_retries": 0}]}})),
        cluster("~eject", &up[1..2], eject),
        // Which of the two is asked follows from a hash; a retry is asked the same again.
        cluster("~half", &[up[0], around.closed_port], json!({"lb_policy": "MAGLEV"})),
    ]
}
