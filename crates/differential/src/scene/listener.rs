//! How do connections reach the manager or the TCP proxy? Filter chains, TLS, server names.

use super::{Protocol, Surroundings, TYPE, address, hcm, merge};
use crate::rng::Rng;
use crate::tls::Leaf;
use serde_json::{Value, json};

/// One line of the TCP log per connection.
const TCP_LOG: &str = "%RESPONSE_FLAGS%|%BYTES_RECEIVED%|%BYTES_SENT%|%UPSTREAM_CLUSTER%|%UPSTREAM_HOST%|\
%REQUESTED_SERVER_NAME%|%DOWNSTREAM_PEER_URI_SAN%|%CONNECTION_TERMINATION_DETAILS%|%FILTER_CHAIN_NAME%|\
%UPSTREAM_TRANSPORT_FAILURE_REASON%|%DOWNSTREAM_TLS_VERSION%|%RESPONSE_CODE_DETAILS%\n";

pub fn one(rng: &mut Rng, protocol: Protocol, port: u16, log: &str, around: &Surroundings<'_>) -> Value {
    let filters =
        |rng: &mut Rng| if protocol.http() { vec![hcm::one(rng, protocol, log)] } else { tcp(rng, protocol, log) };
    let mut listener = json!({"name": "~l", "stat_prefix": "~l", "address": address(port)});
    if !protocol.tls() {
        merge(&mut listener, json!({"filter_chains": [{"name": "plain", "filters": filters(rng)}]}));
        return listener;
    }
    let demands = rng.one_in(3);
    let h2 = protocol == Protocol::TlsHttp2;
    let chain = |rng: &mut Rng, name: &str, names: &[&str], leaf: &Leaf| {
        let socket = socket(leaf, around, demands, h2, rng.one_in(2));
        let mut chain = json!({"name": name, "filters": filters(rng), "transport_socket": socket});
        if !names.is_empty() {
            merge(&mut chain, json!({"filter_chain_match": {"server_names": names}}));
        }
        chain
    };
    let certs = around.certificates;
    let mut chains = vec![
        chain(rng, "first", &["a.test", "*.a.test"], &certs.first),
        chain(rng, "second", &["b.test"], &certs.second),
    ];
    if rng.one_in(2) {
        chains.push(chain(rng, "rest", &[], &certs.first));
    }
    let inspector = json!([{"name": "envoy.filters.listener.tls_inspector",
        "typed_config": {"@type": format!("{TYPE}filters.listener.tls_inspector.v3.TlsInspector")}}]);
    merge(&mut listener, json!({"filter_chains": chains, "listener_filters": inspector}));
    listener
}

fn socket(leaf: &Leaf, around: &Surroundings<'_>, demands: bool, h2: bool, validates: bool) -> Value {
    let alpn = if h2 { json!(["h2", "http/1.1"]) } else { json!(["http/1.1"]) };
    let mut common = json!({"alpn_protocols": alpn, "tls_certificates": [{
        "certificate_chain": {"inline_string": leaf.certificate}, "private_key": {"inline_string": leaf.key}}]});
    if validates || demands {
        merge(&mut common, json!({"validation_context": {"trusted_ca": {"inline_string": around.certificates.root}}}));
    }
    json!({"name": "envoy.transport_sockets.tls", "typed_config": {
        "@type": format!("{TYPE}transport_sockets.tls.v3.DownstreamTlsContext"),
        "require_client_certificate": demands, "common_tls_context": common}})
}

fn tcp(rng: &mut Rng, protocol: Protocol, log: &str) -> Vec<Value> {
    let mut out = Vec::new();
    if rng.one_in(4) {
        let principal = match rng.below(3) {
            0 => json!({"any": true}),
            1 => json!({"direct_remote_ip": {"address_prefix": "127.0.0.0", "prefix_len": 8}}),
            _ => json!({"authenticated": {"principal_name": {"exact": "spiffe://test/ns/c/sa/client"}}}),
        };
        let rules = json!({"action": rng.pick(&["ALLOW", "DENY"]),
            "policies": {"p": {"permissions": [{"any": true}], "principals": [principal]}}});
        out.push(json!({"name": "envoy.filters.network.rbac", "typed_config": {
            "@type": format!("{TYPE}filters.network.rbac.v3.RBAC"), "stat_prefix": "~r.", "rules": rules}}));
    }
    let mut proxy = json!({"@type": format!("{TYPE}filters.network.tcp_proxy.v3.TcpProxy"), "stat_prefix": "~t",
        "access_log": [{"name": "f", "typed_config": {"@type": format!("{TYPE}access_loggers.file.v3.FileAccessLog"),
            "path": log, "log_format": {"text_format_source": {"inline_string": TCP_LOG}}}}]});
    // Envoy connects before a handshake is done and before filters judge, we after: only targets that accept then
    // (docs/differences.md).
    let target = match rng.below(if protocol.tls() || !out.is_empty() { 3 } else { 6 }) {
        0 => json!({"weighted_clusters": {"clusters": [{"name": "~one", "weight": 100}]}}),
        1 => json!({"cluster": "~one"}),
        2 => json!({"cluster": "~two"}),
        3 => json!({"cluster": "~refused"}),
        4 => json!({"cluster": "~none"}),
        _ => json!({"cluster": "~missing"}),
    };
    merge(&mut proxy, target);
    if rng.one_in(3) {
        merge(&mut proxy, json!({"max_connect_attempts": 2}));
    }
    out.push(json!({"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}));
    out
}
