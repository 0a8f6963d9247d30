//! What goes into an entry of the gRPC access log service? Filled as Envoy's `http_grpc` and `tcp_grpc` loggers do.

use std::net::SocketAddr;
use std::time::{Duration, UNIX_EPOCH};

use protos::envoy::config::core::v3 as core;
use protos::envoy::data::accesslog::v3 as p;
use protos::prost::Message as _;
use protos::prost_types as pt;
use proxy_config::access_log::GrpcLog;
use proxy_core::facts::TlsFacts;
use proxy_core::{Facts, HeaderView};
use telemetry::access_log::ResponseFlags as F;

/// An HTTP entry, encoded.
pub fn http_entry(log: &GrpcLog, facts: &Facts<'_>) -> Vec<u8> {
    let entry = p::HttpAccessLogEntry {
        common_properties: Some(common(log, facts)),
        protocol_version: match facts.protocol {
            "HTTP/1.0" => 1,
            "HTTP/1.1" => 2,
            "HTTP/2" => 3,
            "HTTP/3" => 4,
            _ => 0,
        },
        request: Some(request(log, facts)),
        response: Some(response(log, facts)),
    };
    entry.encode_to_vec()
}

/// A TCP entry, encoded.
pub fn tcp_entry(log: &GrpcLog, facts: &Facts<'_>) -> Vec<u8> {
    let entry = p::TcpAccessLogEntry {
        common_properties: Some(common(log, facts)),
        connection_properties: Some(p::ConnectionProperties {
            received_bytes: facts.bytes.received,
            sent_bytes: facts.bytes.sent,
        }),
    };
    entry.encode_to_vec()
}

fn address(a: Option<SocketAddr>) -> Option<core::Address> {
    let a = a?;
    let socket = core::SocketAddress {
        address: a.ip().to_string(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(a.port().into())),
        ..Default::default()
    };
    Some(core::Address { address: Some(core::address::Address::SocketAddress(socket)) })
}

fn duration(d: Option<Duration>) -> Option<pt::Duration> {
    d.map(|d| pt::Duration { seconds: d.as_secs() as i64, nanos: d.subsec_nanos() as i32 })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn common(log: &GrpcLog, f: &Facts<'_>) -> p::AccessLogCommon {
    let m = &f.marks;
    let mut metadata = core::Metadata::default();
    f.metadata.each(&mut |name, value| {
        if let Some(pt::value::Kind::StructValue(s)) = message(value).kind {
            metadata.filter_metadata.insert(name.to_owned(), s);
        }
    });
    let state = log
        .filter_state_to_log
        .iter()
        .filter_map(|key| Some((key.to_string(), protos::any(&text(f.metadata.filter_state(key)?)))));
    let start = f.start.duration_since(UNIX_EPOCH).unwrap_or_default();
    p::AccessLogCommon {
        downstream_remote_address: address(f.downstream_remote),
        downstream_local_address: address(f.downstream_local),
        downstream_direct_remote_address: address(f.downstream_direct_remote),
        tls_properties: f.downstream_tls.map(|t| tls(&t, f.requested_server_name)),
        start_time: Some(pt::Timestamp { seconds: start.as_secs() as i64, nanos: start.subsec_nanos() as i32 }),
        time_to_last_rx_byte: duration(m.request_end),
        time_to_first_upstream_tx_byte: duration(m.upstream_tx_begin),
        time_to_last_upstream_tx_byte: duration(m.upstream_tx_end.filter(|_| m.upstream_tx_begin.is_some())),
        time_to_first_upstream_rx_byte: duration(m.upstream_rx_begin),
        time_to_last_upstream_rx_byte: duration(m.upstream_rx_end),
        time_to_first_downstream_tx_byte: duration(m.response_begin),
        time_to_last_downstream_tx_byte: duration(m.response_end),
        upstream_remote_address: address(f.upstream_remote),
        upstream_local_address: address(f.upstream_local),
        upstream_cluster: f.upstream_cluster.to_owned(),
        response_flags: flags(f.flags),
        metadata: (!metadata.filter_metadata.is_empty()).then_some(metadata),
        upstream_transport_failure_reason: f.upstream_transport_failure.to_owned(),
        route_name: f.route_name.to_owned(),
        filter_state_objects: state.collect(),
        duration: duration(m.total),
        upstream_request_attempt_count: f.attempts,
        connection_termination_details: f.connection_termination_details.to_owned(),
        stream_id: f.request.and_then(|r| r.get(b"x-request-id")).map(text).unwrap_or_default(),
        downstream_transport_failure_reason: f.downstream_transport_failure.to_owned(),
        downstream_wire_bytes_sent: f.bytes.downstream_wire_sent,
        downstream_wire_bytes_received: f.bytes.downstream_wire_received,
        upstream_wire_bytes_sent: f.bytes.upstream_wire_sent,
        upstream_wire_bytes_received: f.bytes.upstream_wire_received,
        access_log_type: p::AccessLogType::from_str_name(f.log_type).map_or(0, |t| t as i32),
        ..Default::default()
    }
}

fn tls(t: &TlsFacts<'_>, sni: &str) -> p::TlsProperties {
    use p::tls_properties::certificate_properties::{SubjectAltName, subject_alt_name::San};
    use p::tls_properties::{CertificateProperties, TlsVersion};
    let sans = |uris: &[String], dns: &[String]| {
        let uris = uris.iter().map(|u| San::Uri(u.clone()));
        let dns = dns.iter().map(|d| San::Dns(d.clone()));
        uris.chain(dns).map(|san| SubjectAltName { san: Some(san) }).collect()
    };
    p::TlsProperties {
        tls_version: match t.version {
            "TLSv1" => TlsVersion::TlSv1,
            "TLSv1.1" => TlsVersion::TlSv11,
            "TLSv1.2" => TlsVersion::TlSv12,
            "TLSv1.3" => TlsVersion::TlSv13,
            _ => TlsVersion::VersionUnspecified,
        } as i32,
        tls_sni_hostname: sni.to_owned(),
        local_certificate_properties: Some(CertificateProperties {
            subject_alt_name: sans(t.local_uri_sans, t.local_dns_sans),
            subject: t.local_subject.to_owned(),
            issuer: String::new(),
        }),
        peer_certificate_properties: Some(CertificateProperties {
            subject_alt_name: sans(t.peer_uri_sans, t.peer_dns_sans),
            subject: t.peer_subject.to_owned(),
            issuer: t.peer_issuer.to_owned(),
        }),
        tls_session_id: t.session_id.to_owned(),
        ..Default::default()
    }
}

fn flags(f: F) -> Option<p::ResponseFlags> {
    if f.is_empty() {
        return None;
    }
    let has = |flag| f.contains(flag);
    Some(p::ResponseFlags {
        failed_local_healthcheck: has(F::FAILED_LOCAL_HEALTH_CHECK),
        no_healthy_upstream: has(F::NO_HEALTHY_UPSTREAM),
        upstream_request_timeout: has(F::UPSTREAM_REQUEST_TIMEOUT),
        local_reset: has(F::LOCAL_RESET),
        upstream_remote_reset: has(F::UPSTREAM_REMOTE_RESET),
        upstream_connection_failure: has(F::UPSTREAM_CONNECTION_FAILURE),
        upstream_connection_termination: has(F::UPSTREAM_CONNECTION_TERMINATION),
        upstream_overflow: has(F::UPSTREAM_OVERFLOW),
        no_route_found: has(F::NO_ROUTE_FOUND),
        delay_injected: has(F::DELAY_INJECTED),
        fault_injected: has(F::FAULT_INJECTED),
        rate_limited: has(F::RATE_LIMITED),
        unauthorized_details: has(F::UNAUTHORIZED_EXTERNAL_SERVICE).then_some(p::response_flags::Unauthorized {
            reason: p::response_flags::unauthorized::Reason::ExternalService as i32,
        }),
        rate_limit_service_error: has(F::RATE_LIMIT_SERVICE_ERROR),
        downstream_connection_termination: has(F::DOWNSTREAM_CONNECTION_TERMINATION),
        upstream_retry_limit_exceeded: has(F::UPSTREAM_RETRY_LIMIT_EXCEEDED),
        stream_idle_timeout: has(F::STREAM_IDLE_TIMEOUT),
        invalid_envoy_request_headers: has(F::INVALID_ENVOY_REQUEST_HEADERS),
        downstream_protocol_error: has(F::DOWNSTREAM_PROTOCOL_ERROR),
        upstream_max_stream_duration_reached: has(F::UPSTREAM_MAX_STREAM_DURATION_REACHED),
        response_from_cache_filter: has(F::RESPONSE_FROM_CACHE_FILTER),
        no_filter_config_found: has(F::NO_FILTER_CONFIG_FOUND),
        duration_timeout: has(F::DURATION_TIMEOUT),
        upstream_protocol_error: has(F::UPSTREAM_PROTOCOL_ERROR),
        no_cluster_found: has(F::NO_CLUSTER_FOUND),
        overload_manager: has(F::OVERLOAD_MANAGER),
        dns_resolution_failure: has(F::DNS_RESOLUTION_FAILED),
        downstream_remote_reset: has(F::DOWNSTREAM_REMOTE_RESET),
    })
}

fn named(headers: Option<&dyn HeaderView>, names: &[proxy_config::Name]) -> std::collections::BTreeMap<String, String> {
    let Some(headers) = headers else { return Default::default() };
    names.iter().filter_map(|n| Some((n.to_string(), text(&headers.joined(n.as_bytes())?)))).collect()
}

fn request(log: &GrpcLog, f: &Facts<'_>) -> p::HttpRequestProperties {
    let get = |name: &[u8]| f.request.and_then(|r| r.get(name)).map(text).unwrap_or_default();
    p::HttpRequestProperties {
        request_method: core::RequestMethod::from_str_name(&get(b":method")).map_or(0, |m| m as i32),
        scheme: get(b":scheme"),
        authority: get(b":authority"),
        path: get(b":path"),
        user_agent: get(b"user-agent"),
        referer: get(b"referer"),
        forwarded_for: get(b"x-forwarded-for"),
        request_id: get(b"x-request-id"),
        original_path: get(b"x-envoy-original-path"),
        request_headers_bytes: f.bytes.request_headers,
        request_body_bytes: f.bytes.received,
        request_headers: named(f.request, &log.request_headers),
        upstream_header_bytes_sent: f.bytes.upstream_header_sent,
        downstream_header_bytes_received: f.bytes.downstream_header_received,
        ..Default::default()
    }
}

fn response(log: &GrpcLog, f: &Facts<'_>) -> p::HttpResponseProperties {
    p::HttpResponseProperties {
        response_code: (f.response_code != 0).then_some(f.response_code.into()),
        response_headers_bytes: f.bytes.response_headers,
        response_body_bytes: f.bytes.sent,
        response_headers: named(f.response, &log.response_headers),
        response_trailers: named(f.trailers, &log.response_trailers),
        response_code_details: f.response_code_details.to_owned(),
        upstream_header_bytes_received: f.bytes.upstream_header_received,
        downstream_header_bytes_sent: f.bytes.downstream_header_sent,
    }
}

fn message(value: &proxy_config::common::Value) -> pt::Value {
    use proxy_config::common::Value as V;
    use pt::value::Kind;
    let kind = match value {
        V::Null => Kind::NullValue(0),
        V::Bool(b) => Kind::BoolValue(*b),
        V::Number(n) => Kind::NumberValue(*n),
        V::String(s) => Kind::StringValue(s.to_string()),
        V::List(l) => Kind::ListValue(pt::ListValue { values: l.iter().map(message).collect() }),
        V::Struct(m) => {
            Kind::StructValue(pt::Struct { fields: m.iter().map(|(k, v)| (k.to_string(), message(v))).collect() })
        }
    };
    pt::Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_say_what_is_known() {
        let log = GrpcLog {
            log_name: "l".into(),
            service: proxy_config::common::GrpcService {
                cluster: "c".into(),
                authority: None,
                timeout: None,
                initial_metadata: Box::default(),
            },
            tcp: false,
            flush_interval: Duration::from_secs(1),
            buffer_bytes: 1,
            filter_state_to_log: Box::default(),
            request_headers: Box::new(["x-a".into(), "x-none".into()]),
            response_headers: Box::default(),
            response_trailers: Box::default(),
        };
        let mut headers = http1::HeaderBlock::new();
        for (k, v) in [(":method", "GET"), (":path", "/p"), ("x-a", "1"), ("x-a", "2")] {
            headers.add(k.as_bytes(), v.as_bytes());
        }
        let facts = Facts {
            request: Some(&headers),
            response_code: 503,
            flags: F::NO_ROUTE_FOUND | F::UPSTREAM_OVERFLOW,
            protocol: "HTTP/1.1",
            log_type: "DownstreamEnd",
            downstream_remote: "10.0.0.1:5".parse().ok(),
            ..Facts::default()
        };
        let entry = p::HttpAccessLogEntry::decode(&*http_entry(&log, &facts)).expect("decodes");
        let common = entry.common_properties.expect("set");
        let flags = common.response_flags.expect("set");
        assert!(flags.no_route_found && flags.upstream_overflow && !flags.rate_limited);
        assert_eq!(common.access_log_type, p::AccessLogType::DownstreamEnd as i32);
        let request = entry.request.expect("set");
        assert_eq!((request.path.as_str(), request.request_method), ("/p", core::RequestMethod::Get as i32));
        assert_eq!(request.request_headers.len(), 1);
        assert_eq!(request.request_headers["x-a"], "1,2");
        assert_eq!(entry.response.expect("set").response_code, Some(503));
    }
}
