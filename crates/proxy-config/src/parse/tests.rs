//! Whole resources as JSON through the protobuf schema into the runtime form, and where errors point.

use protos::envoy::config::cluster::v3::Cluster as ClusterProto;
use protos::envoy::config::listener::v3::Listener as ListenerProto;
use protos::envoy::config::route::v3::RouteConfiguration;
use serde_json::{Value, json};

use crate::cluster::{Discovery, LbPolicy, UpstreamProtocol, UpstreamTransport};
use crate::filters::FilterOverride;
use crate::filters::http::HttpFilterKind;
use crate::hcm::{CodecType, RouteSource};
use crate::listener::{NetworkFilterKind, TrafficDirection};
use crate::route::{ClusterSpecifier, PathMatch, RouteAction};

fn table(v: Value) -> crate::error::Result<crate::route::RouteTable> {
    super::route_table(&protos::json::decode_json::<RouteConfiguration>(&v).expect("the test's JSON fits the schema"))
}

fn cluster(v: Value) -> crate::error::Result<crate::cluster::Cluster> {
    super::cluster(&protos::json::decode_json::<ClusterProto>(&v).expect("the test's JSON fits the schema"))
}

fn listener(v: Value) -> crate::error::Result<crate::listener::Listener> {
    super::listener(&protos::json::decode_json::<ListenerProto>(&v).expect("the test's JSON fits the schema"))
}

const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
const HCM: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const FAULT: &str = "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault";
const CORS: &str = "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy";

fn http_listener(hcm: Value) -> Value {
    let mut hcm = hcm;
    hcm["@type"] = HCM.into();
    json!({
        "name": "l", "address": {"socket_address": {"address": "0.0.0.0", "port_value": 80}},
        "filter_chains": [{"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": hcm}]}]
    })
}

#[test]
fn istio_like_listener() {
    let l = listener(json!({
        "name": "virtualInbound", "traffic_direction": "INBOUND",
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": 15006}},
        "listener_filters": [
            {"name": "a", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst"}},
            {"name": "b", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector", "initial_read_buffer_size": 512},
             "filter_disabled": {"destination_port_range": {"start": 80, "end": 81}}}
        ],
        "listener_filters_timeout": "0s", "continue_on_listener_filters_timeout": true,
        "filter_chains": [{
            "name": "0.0.0.0_8080",
            "filter_chain_match": {"destination_port": 8080, "transport_protocol": "tls"},
            "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "common_tls_context": {
                    "tls_certificate_sds_secret_configs": [{"name": "default", "sds_config": {"ads": {}}}],
                    "alpn_protocols": ["h2", "http/1.1"],
                    "combined_validation_context": {
                        "default_validation_context": {"match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"prefix": "spiffe://cluster.local/"}}]},
                        "validation_context_sds_secret_config": {"name": "ROOTCA", "sds_config": {"ads": {}}}
                    }
                },
                "require_client_certificate": true
            }},
            "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": {
                "@type": HCM, "stat_prefix": "inbound_0.0.0.0_8080", "rds": {"config_source": {"ads": {}}, "route_config_name": "8080"},
                "http_filters": [
                    {"name": "istio.metadata_exchange", "typed_config": {"@type": "type.googleapis.com/udpa.type.v1.TypedStruct",
                        "type_url": "type.googleapis.com/io.istio.http.peer_metadata.Config",
                        "value": {"downstream_propagation": [{"istio_headers": {}}]}}},
                    {"name": "envoy.filters.http.router", "typed_config": {"@type": ROUTER}}
                ],
                "forward_client_cert_details": "APPEND_FORWARD", "set_current_client_cert_details": {"subject": true, "uri": true}
            }}]
        }],
        "default_filter_chain": {"filters": [{"name": "tcp", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "x", "cluster": "InboundPassthroughCluster"}}]}
    }))
    .unwrap();
    assert_eq!(l.traffic_direction, TrafficDirection::Inbound);
    assert!(l.listener_filters_timeout.is_zero());
    assert!(l.listener_filters[1].disabled.as_ref().unwrap().matches(80));
    assert!(!l.listener_filters[1].disabled.as_ref().unwrap().matches(81));
    let crate::listener::DownstreamTransport::Tls(tls) = &l.chains.chains[0].transport else { panic!("TLS") };
    assert_eq!(tls.secret_names().map(|n| n.to_string()).collect::<Vec<_>>(), ["default", "ROOTCA"]);
    let NetworkFilterKind::Hcm(hcm) = &l.chains.chains[0].filters[0].kind else { panic!("HCM") };
    assert_eq!(hcm.codec, CodecType::Auto);
    assert!(matches!(&hcm.routes, RouteSource::Rds { name, .. } if &**name == "8080"));
    assert!(matches!(&hcm.filters[0].kind, HttpFilterKind::PeerMetadata(p) if p.downstream_propagation));
    assert!(l.chains.default.is_some());
}

#[test]
fn errors_point_at_the_field() {
    let hcm = json!({
        "stat_prefix": "x", "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": ROUTER}}],
        "route_config": {"virtual_hosts": [
            {"name": "a", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {}}]}
        ]}
    });
    let e = listener(http_listener(hcm)).unwrap_err().to_string();
    assert_eq!(
        e,
        "filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[0].routes[0].route.cluster_specifier: value is required"
    );
    let e = listener(http_listener(json!({
        "stat_prefix": "x", "route_config": {},
        "http_filters": [{"name": "f", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm"}}]
    })))
    .unwrap_err()
    .to_string();
    assert_eq!(
        e,
        "filter_chains[0].filters[0].typed_config.http_filters[0].typed_config: Didn't find a registered implementation for 'f' with type URL: 'type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm'"
    );
}

#[test]
fn what_is_not_acted_on_is_refused() {
    let e = |v: Value| cluster(v).unwrap_err().to_string();
    assert_eq!(
        e(json!({"name": "c", "type": "STATIC", "lrs_server": {"self": {}}})),
        "lrs_server: this field is not supported"
    );
    assert_eq!(e(json!({"name": "c", "type": "ORIGINAL_DST"})).split(':').next(), Some("lb_policy"));
    let file = json!({"path_config_source": {"path": "/a"}});
    let hcm = json!({"@type": HCM, "stat_prefix": "s", "rds": {"route_config_name": "r", "config_source": file},
        "http_filters": [{"name": "r", "typed_config": {"@type": ROUTER}}]});
    assert_eq!(
        listener(http_listener(hcm)).unwrap_err().to_string(),
        "filter_chains[0].filters[0].typed_config.rds.config_source: a file as a source of this type is not supported"
    );
    let t = table(json!({"virtual_hosts": [{"name": "a", "domains": ["a", "A"], "routes": []}]})).unwrap_err();
    assert_eq!(t.path(), "virtual_hosts[0].domains[1]");
}

#[test]
fn routes_resolve_their_levels() {
    let t = table(json!({
        "name": "8000",
        "request_headers_to_add": [{"header": {"key": "x-table", "value": "1"}}],
        "virtual_hosts": [{
            "name": "v", "domains": ["a.com", "*.b.com"],
            "request_headers_to_add": [{"header": {"key": "x-host", "value": "1"}}],
            "typed_per_filter_config": {"envoy.filters.http.cors": {"@type": CORS, "allow_methods": "GET", "max_age": "1"}},
            "retry_policy": {"retry_on": "5xx", "num_retries": 3},
            "routes": [{
                "match": {"path_separated_prefix": "/p", "headers": [{"name": "X-Ver", "string_match": {"exact": "v3"}}]},
                "request_headers_to_add": [{"header": {"key": "x-route", "value": "%REQ(:path)%"}}],
                "typed_per_filter_config": {
                    "envoy.filters.http.fault": {"@type": FAULT, "delay": {"fixed_delay": "2s", "percentage": {"numerator": 100}}},
                    "envoy.filters.http.cors": {"@type": CORS, "allow_methods": "POST"}
                },
                "route": {"weighted_clusters": {"clusters": [
                    {"name": "a", "weight": 25, "request_headers_to_add": [{"header": {"key": "x-w", "value": "1"}}]},
                    {"name": "b", "weight": 75}]}, "timeout": "0s"}
            }, {"match": {"prefix": "/", "headers": [{"name": "x-ver", "present_match": true}]}, "route": {"cluster": "c"}}]
        }]
    }))
    .unwrap();
    let v = &t.virtual_hosts[0];
    assert_eq!(v.header_slots.len(), 1, "both routes test one header");
    let r = &v.routes[0];
    assert!(matches!(&r.matcher.path, PathMatch::Separated(p) if &**p == "/p"));
    let names = |c: &[std::sync::Arc<crate::headers::HeaderOps>]| {
        c.iter().map(|o| o.add[0].name.as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&r.request_headers), ["x-route", "x-host", "x-table"]);
    let RouteAction::Forward(f) = &r.action else { panic!("forward") };
    assert_eq!(f.timeout, None);
    assert_eq!(f.retry.as_ref().unwrap().num_retries, 3);
    let ClusterSpecifier::Weighted(w) = &f.cluster else { panic!("weighted") };
    assert_eq!(w.total_weight, 100);
    assert_eq!(names(&w.clusters[0].request_headers), ["x-w", "x-route", "x-host", "x-table"]);
    let Some(FilterOverride::Cors(c)) = r.per_filter.get("envoy.filters.http.cors") else { panic!("cors") };
    assert_eq!((&*c.allow_methods, &*c.max_age), ("POST", "1"));
    assert!(matches!(r.per_filter.get("envoy.filters.http.fault"), Some(FilterOverride::Fault(_))));
    assert!(v.routes[1].per_filter.get("envoy.filters.http.fault").is_none());
    assert_eq!(t.domains.find(b"x.b.com"), Some(0));
}

#[test]
fn clusters() {
    let c = cluster(json!({
        "name": "outbound|8000||httpbin.samples.svc.cluster.local", "type": "EDS", "connect_timeout": "10s", "lb_policy": "LEAST_REQUEST",
        "eds_cluster_config": {"eds_config": {"ads": {}}, "service_name": "s"},
        "circuit_breakers": {"thresholds": [{"max_connections": 1, "retry_budget": {}, "track_remaining": true}]},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}}}},
        "transport_socket_matches": [
            {"name": "tlsMode-istio", "match": {"tlsMode": "istio"}, "transport_socket": {"name": "envoy.transport_sockets.tls",
             "typed_config": {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", "sni": "s"}}},
            {"name": "tlsMode-disabled", "match": {}, "transport_socket": {"name": "envoy.transport_sockets.raw_buffer",
             "typed_config": {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"}}}]
    }))
    .unwrap();
    assert!(matches!(&c.discovery, Discovery::Eds { service_name, .. } if &**service_name == "s"));
    assert!(matches!(c.lb.policy, LbPolicy::LeastRequest { choice_count: 2, .. }));
    assert_eq!(c.http.protocol, UpstreamProtocol::Http2);
    assert_eq!(c.circuit_breakers.as_ref().unwrap().default.max_connections, 1);
    let meta = |v: &str| {
        let s = protos::json::decode_json::<protos::envoy::config::core::v3::Metadata>(
            &json!({"filter_metadata": {"envoy.transport_socket_match": {"tlsMode": v}}}),
        );
        super::common::metadata(&Some(s.expect("fits")))
    };
    let none = Default::default();
    assert!(matches!(c.transport_for(&meta("istio"), &none), UpstreamTransport::Tls(_)));
    assert!(matches!(c.transport_for(&meta("other"), &none), UpstreamTransport::Raw));
    assert!(matches!(c.transport_for(&none, &meta("istio")), UpstreamTransport::Tls(_)));
    assert!(
        std::mem::size_of::<crate::cluster::Cluster>() <= 512,
        "{}",
        std::mem::size_of::<crate::cluster::Cluster>()
    );
}

#[test]
fn garbage_never_panics() {
    use protos::prost::Message as _;
    let good = protos::json::decode_json::<ListenerProto>(&http_listener(
        json!({"stat_prefix": "x", "route_config": {}, "http_filters": []}),
    ))
    .expect("fits")
    .encode_to_vec();
    for i in 0..good.len() {
        for bit in 0..8 {
            let mut bytes = good.clone();
            bytes[i] ^= 1 << bit;
            if let Ok(l) = ListenerProto::decode(&*bytes) {
                let _ = super::listener(&l);
            }
        }
    }
}
