//! What text does a compiled format give for these facts?
//!
//! Used for access logs (absent values print `-`), header values and local replies (absent values print nothing), and
//! JSON logs (absent values are null, numbers stay numbers).

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use http1::push_decimal;
use proxy_config::common::{Metadata, Value};
use proxy_config::format::{
    AddressKind, AddressPart, ByteCount, Format, FormatBody, GrpcStatusStyle, HeaderBlock, JsonFormat, MetadataKind,
    Operator, Part, PathSource, Side, SubstitutionFormat, TimeFormat, TimePoint, TimeUnit, TlsFact,
};
use telemetry::time::Civil;

use crate::facts::{Facts, TlsFacts};
use crate::{HeaderView, matcher};

mod json;
pub use json::{json, write_json_value};

/// Writes `format` with `absent` for values that are not there.
pub fn text(format: &Format, facts: &Facts<'_>, absent: &[u8], out: &mut Vec<u8>) {
    for part in &format.0 {
        match part {
            Part::Text(t) => out.extend_from_slice(t.as_bytes()),
            Part::Op(op, max) => {
                let start = out.len();
                if !value(op, facts, out) {
                    out.truncate(start);
                    out.extend_from_slice(absent);
                }
                if let Some(max) = max {
                    out.truncate(out.len().min(start + *max as usize));
                }
            }
        }
    }
}

/// Writes one log entry or body in text or JSON. JSON entries end with a newline.
pub fn substitution(format: &SubstitutionFormat, facts: &Facts<'_>, out: &mut Vec<u8>) {
    match &format.body {
        FormatBody::Text(f) => text(f, facts, if format.omit_empty_values { b"" } else { b"-" }, out),
        FormatBody::Json(f) => {
            json(f, facts, format.omit_empty_values, out);
            out.push(b'\n');
        }
    }
}

/// Header value or host rewrite: absent values are empty.
pub fn header_value(format: &Format, facts: &Facts<'_>, out: &mut Vec<u8>) {
    text(format, facts, b"", out);
}

/// A value that JSON prints as a number, if it is one and present.
pub fn number(op: &Operator, f: &Facts<'_>) -> Option<f64> {
    Some(match op {
        Operator::Bytes(b) => bytes(*b, f)? as f64,
        Operator::ResponseCode => f64::from(f.response_code),
        Operator::Duration => ms(f.marks.total?) as f64,
        Operator::RequestDuration => ms(f.marks.request_end?) as f64,
        Operator::RequestTxDuration => ms(f.marks.upstream_tx_end?) as f64,
        Operator::ResponseDuration => ms(f.marks.upstream_rx_begin?) as f64,
        Operator::ResponseTxDuration => ms(f.marks.response_end?.checked_sub(f.marks.upstream_rx_begin?)?) as f64,
        Operator::DownstreamHandshakeDuration => ms(f.marks.downstream_handshake?) as f64,
        Operator::UpstreamPoolReadyDuration => ms(f.marks.pool_ready?) as f64,
        Operator::RoundtripDuration => return None,
        Operator::CommonDuration(a, b, unit) => {
            let d = point(*b, f)?.checked_sub(point(*a, f)?)?;
            match unit {
                TimeUnit::Millis => d.as_millis() as f64,
                TimeUnit::Micros => d.as_micros() as f64,
                TimeUnit::Nanos => d.as_nanos() as f64,
            }
        }
        Operator::UpstreamRequestAttemptCount => f64::from(f.attempts),
        Operator::ConnectionId if f.connection_id != 0 => f.connection_id as f64,
        Operator::UpstreamConnectionId if f.upstream_connection_id != 0 => f.upstream_connection_id as f64,
        Operator::Address(kind, AddressPart::Port) => f64::from(address(*kind, f)?.port()),
        Operator::GrpcStatus(GrpcStatusStyle::Number) => f64::from(grpc_status(f)?),
        _ => return None,
    })
}

fn ms(d: Duration) -> u64 {
    d.as_millis() as u64
}

fn bytes(b: ByteCount, f: &Facts<'_>) -> Option<u64> {
    let header_bytes = |h: Option<&dyn HeaderView>| {
        let mut n = 0;
        if let Some(h) = h {
            h.all(&mut |name, value| n += (name.len() + value.len()) as u64);
        }
        n
    };
    Some(match b {
        ByteCount::Received => f.bytes.received,
        ByteCount::Sent => f.bytes.sent,
        ByteCount::DownstreamWireReceived => f.bytes.downstream_wire_received,
        ByteCount::DownstreamWireSent => f.bytes.downstream_wire_sent,
        ByteCount::DownstreamHeaderReceived => f.bytes.downstream_header_received,
        ByteCount::DownstreamHeaderSent => f.bytes.downstream_header_sent,
        ByteCount::UpstreamWireReceived => f.bytes.upstream_wire_received,
        ByteCount::UpstreamWireSent => f.bytes.upstream_wire_sent,
        ByteCount::UpstreamHeaderReceived => f.bytes.upstream_header_received,
        ByteCount::UpstreamHeaderSent => f.bytes.upstream_header_sent,
        ByteCount::RequestHeaders => header_bytes(f.request),
        ByteCount::ResponseHeaders => header_bytes(f.response),
        ByteCount::ResponseTrailers => header_bytes(f.trailers),
        ByteCount::Retransmitted | ByteCount::PacketsRetransmitted => return None,
    })
}

fn point(p: TimePoint, f: &Facts<'_>) -> Option<Duration> {
    let m = &f.marks;
    match p {
        TimePoint::DownstreamRxBegin => Some(Duration::ZERO),
        TimePoint::DownstreamRxEnd => m.request_end,
        TimePoint::UpstreamConnectBegin => m.upstream_connect_begin,
        TimePoint::UpstreamConnectEnd => m.upstream_connect_end,
        TimePoint::UpstreamHandshakeEnd => m.upstream_handshake_end,
        TimePoint::UpstreamTxBegin => m.upstream_tx_begin,
        TimePoint::UpstreamTxEnd => m.upstream_tx_end,
        TimePoint::UpstreamRxBegin => m.upstream_rx_begin,
        TimePoint::UpstreamRxEnd => m.upstream_rx_end,
        TimePoint::DownstreamTxBegin => m.response_begin,
        TimePoint::DownstreamTxEnd => m.response_end,
        TimePoint::DownstreamHandshakeEnd => m.downstream_handshake,
    }
}

fn address(kind: AddressKind, f: &Facts<'_>) -> Option<SocketAddr> {
    match kind {
        AddressKind::DownstreamRemote => f.downstream_remote,
        AddressKind::DownstreamDirectRemote => f.downstream_direct_remote,
        AddressKind::DownstreamLocal => f.downstream_local,
        AddressKind::DownstreamDirectLocal => f.downstream_direct_local,
        AddressKind::UpstreamHost => f.upstream_host,
        AddressKind::UpstreamLocal => f.upstream_local,
        AddressKind::UpstreamRemote => f.upstream_remote,
    }
}

fn grpc_status(f: &Facts<'_>) -> Option<u32> {
    let get =
        |h: Option<&dyn HeaderView>| -> Option<u32> { std::str::from_utf8(h?.get(b"grpc-status")?).ok()?.parse().ok() };
    let request_is_grpc = f.request.is_some_and(matcher::is_grpc);
    get(f.trailers).or_else(|| get(f.response)).or_else(|| {
        (request_is_grpc && f.response_code != 0 && f.response_code != 200)
            .then(|| crate::outcome::grpc_status(f.response_code))
    })
}

const GRPC_NAMES: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

fn metadata_of<'a>(kind: MetadataKind, filter: &str, f: &Facts<'a>) -> Option<&'a Value> {
    let of = |m: Option<&'a Metadata>| m?.filter(filter);
    match kind {
        MetadataKind::Dynamic => f.metadata.metadata(filter),
        MetadataKind::Cluster => of(f.cluster_metadata),
        MetadataKind::UpstreamHost => of(f.host_metadata),
        MetadataKind::Route => of(f.route_metadata),
        MetadataKind::Listener => of(f.listener_metadata),
        MetadataKind::FilterChain => of(f.chain_metadata),
        MetadataKind::VirtualHost => of(f.vhost_metadata),
    }
}

/// The metadata value that an operator names.
pub fn metadata<'a>(op: &Operator, f: &Facts<'a>) -> Option<&'a Value> {
    match op {
        Operator::Metadata { kind, filter, path } => metadata_of(*kind, filter, f)?.path(path),
        _ => None,
    }
}

fn put(text: &str, out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(text.as_bytes());
    !text.is_empty()
}

/// An address as `Display` has it. Formatting machinery is left to IPv6: a log line holds several addresses.
fn put_address(address: SocketAddr, out: &mut Vec<u8>) -> bool {
    match address {
        SocketAddr::V4(v4) => {
            put_ip((*v4.ip()).into(), out);
            out.push(b':');
            push_decimal(out, v4.port().into());
            true
        }
        SocketAddr::V6(v6) => write!(out, "{v6}").is_ok(),
    }
}

fn put_ip(ip: IpAddr, out: &mut Vec<u8>) -> bool {
    match ip {
        IpAddr::V4(v4) => {
            for (i, octet) in v4.octets().into_iter().enumerate() {
                if i > 0 {
                    out.push(b'.');
                }
                push_decimal(out, octet.into());
            }
            true
        }
        IpAddr::V6(v6) => write!(out, "{v6}").is_ok(),
    }
}

fn put_opt(text: Option<&[u8]>, out: &mut Vec<u8>) -> bool {
    text.is_some_and(|t| {
        out.extend_from_slice(t);
        true
    })
}

/// Writes the value of `op`; false when there is none (what was written is then dropped).
pub fn value(op: &Operator, f: &Facts<'_>, out: &mut Vec<u8>) -> bool {
    if let Some(n) = number(op, f) {
        // Whole numbers all, and none below zero.
        push_decimal(out, n as u64);
        return true;
    }
    match op {
        Operator::Header { block, name, alternative } => {
            let view = match block {
                HeaderBlock::Request => f.request,
                HeaderBlock::Response => f.response,
                HeaderBlock::Trailer => f.trailers,
            };
            let find = |h: &proxy_config::matcher::HeaderName| view.and_then(|v| v.get(h.as_str().as_bytes()));
            put_opt(find(name).or_else(|| alternative.as_ref().and_then(find)), out)
        }
        Operator::HeaderWithoutQuery { name, alternative } => {
            let find = |h: &proxy_config::matcher::HeaderName| f.request.and_then(|v| v.get(h.as_str().as_bytes()));
            let found = find(name).or_else(|| alternative.as_ref().and_then(find));
            put_opt(found.map(|v| &v[..memchr::memchr(b'?', v).unwrap_or(v.len())]), out)
        }
        Operator::StartTime(t) | Operator::StartTimeLocal(t) => time(f.start, t, out),
        Operator::EmitTime(t) => time(f.now, t, out),
        Operator::CertTime(side, fact, t) => tls_of(*side, f)
            .and_then(|tls| if *fact == TlsFact::PeerCertStart { tls.peer_not_before } else { tls.peer_not_after })
            .is_some_and(|at| time(at, t, out)),
        Operator::Protocol => put(f.protocol, out),
        Operator::UpstreamProtocol => put(f.upstream_protocol, out),
        Operator::ResponseCodeDetails(_) => put(f.response_code_details, out),
        Operator::ConnectionTerminationDetails => put(f.connection_termination_details, out),
        Operator::ResponseFlags | Operator::ResponseFlagsLong => {
            if f.flags.is_empty() {
                return false;
            }
            f.flags.write(matches!(op, Operator::ResponseFlagsLong), out);
            true
        }
        Operator::UpstreamHostName => {
            if f.upstream_host_name.is_empty() {
                return f.upstream_host.is_some_and(|a| put_address(a, out));
            }
            put(f.upstream_host_name, out)
        }
        Operator::UpstreamHostNameWithoutPort => {
            put_opt(Some(crate::route::without_port(f.upstream_host_name.as_bytes())), out)
                && !f.upstream_host_name.is_empty()
        }
        Operator::UpstreamCluster => put(f.upstream_cluster, out),
        Operator::UpstreamClusterRaw => put(f.upstream_cluster_raw, out),
        Operator::Address(kind, part) => address(*kind, f).is_some_and(|a| match part {
            AddressPart::Full => put_address(a, out),
            AddressPart::WithoutPort => put_ip(a.ip(), out),
            AddressPart::Port | AddressPart::EndpointId => false,
        }),
        Operator::TransportFailureReason(Side::Upstream) => {
            put(&crate::outcome::detail_text(f.upstream_transport_failure), out)
        }
        Operator::TransportFailureReason(Side::Downstream) => {
            put(&crate::outcome::detail_text(f.downstream_transport_failure), out)
        }
        Operator::Tls(side, fact) => tls_of(*side, f).is_some_and(|tls| tls_fact(tls, *fact, out)),
        Operator::Hostname => put(f.hostname, out),
        Operator::FilterChainName => put(f.filter_chain_name, out),
        Operator::VirtualClusterName => put(f.virtual_cluster_name, out),
        Operator::RouteName => put(f.route_name, out),
        Operator::StreamId => f.stream_id != 0 && write!(out, "{}", f.stream_id).is_ok(),
        Operator::UniqueId => {
            let u = f.unique;
            let _ = write!(
                out,
                "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
                (u >> 96) as u32,
                (u >> 80) as u16,
                ((u >> 64) as u16 & 0x0fff) | 0x4000,
                ((u >> 48) as u16 & 0x3fff) | 0x8000,
                u & 0xffff_ffff_ffff
            );
            true
        }
        Operator::RequestedServerName => put(f.requested_server_name, out),
        Operator::Metadata { .. } => metadata(op, f).is_some_and(|v| {
            match v {
                Value::String(s) => out.extend_from_slice(s.as_bytes()),
                Value::Null => return false,
                other => write_json_value(other, out),
            }
            true
        }),
        Operator::FilterState { side: Side::Downstream, key, .. } => put_opt(f.metadata.filter_state(key), out),
        Operator::GrpcStatus(style) => grpc_status(f).is_some_and(|n| {
            let names = GRPC_NAMES.get(n as usize);
            match (style, names) {
                (GrpcStatusStyle::Camel, Some((camel, _))) => put(camel, out),
                (GrpcStatusStyle::Snake, Some((_, snake))) => put(snake, out),
                _ => write!(out, "{n}").is_ok(),
            }
        }),
        Operator::TraceId => put(f.trace_id, out),
        Operator::SpanId => put(f.span_id, out),
        Operator::QueryParam(name) => f
            .request
            .and_then(|r| matcher::query_value(matcher::query_of(r.path()), name.as_bytes()))
            .is_some_and(|v| {
                out.extend_from_slice(&matcher::percent_decoded(v));
                true
            }),
        Operator::QueryParams(source) => put_opt(path(*source, f).map(matcher::query_of), out),
        Operator::Path { with_query, source } => {
            put_opt(path(*source, f).map(|p| if *with_query { p } else { matcher::path_only(p) }), out)
        }
        Operator::Environment(name) => (f.environment)(name).is_some_and(|v| put(&v, out)),
        Operator::LocalReplyBody => put_opt(Some(f.local_reply_body), out),
        Operator::AccessLogType => put(f.log_type, out),
        Operator::Cel(text) => proxy_config::cel::parse(text)
            .ok()
            .and_then(|e| crate::cel::eval(&e, f).ok())
            .is_some_and(|v| crate::cel::write(&v, out)),
        Operator::Coalesce(list) => list.iter().any(|(op, _)| {
            let start = out.len();
            let hit = value(op, f, out);
            if !hit {
                out.truncate(start);
            }
            hit
        }),
        _ => false,
    }
}

fn path<'a>(source: PathSource, f: &Facts<'a>) -> Option<&'a [u8]> {
    let request = f.request?;
    let original = || request.get(b"x-envoy-original-path");
    match source {
        PathSource::OriginalOrPath => original().or_else(|| request.get(b":path")),
        PathSource::Path => request.get(b":path"),
        PathSource::Original => original(),
    }
}

fn time(at: SystemTime, format: &TimeFormat, out: &mut Vec<u8>) -> bool {
    let civil = Civil::from(at);
    match &format.pattern {
        None => out.extend_from_slice(&civil.rfc3339_millis()),
        Some(p) => {
            let mut text = String::with_capacity(32);
            civil.format(p, &mut text);
            return put(&text, out);
        }
    }
    true
}

fn tls_of<'a>(side: Side, f: &Facts<'a>) -> Option<TlsFacts<'a>> {
    match side {
        Side::Downstream => f.downstream_tls,
        Side::Upstream => f.upstream_tls,
    }
}

fn tls_fact(tls: TlsFacts<'_>, fact: TlsFact, out: &mut Vec<u8>) -> bool {
    let joined = |names: &[String], out: &mut Vec<u8>| put(&names.join(","), out);
    match fact {
        TlsFact::SessionId => put(tls.session_id, out),
        TlsFact::Cipher => put(tls.cipher, out),
        TlsFact::Version => put(tls.version, out),
        TlsFact::PeerSubject => put(tls.peer_subject, out),
        TlsFact::LocalSubject => put(tls.local_subject, out),
        TlsFact::PeerIssuer => put(tls.peer_issuer, out),
        TlsFact::PeerSerial => put(tls.peer_serial, out),
        TlsFact::PeerUriSan => joined(tls.peer_uri_sans, out),
        TlsFact::LocalUriSan => joined(tls.local_uri_sans, out),
        TlsFact::PeerDnsSan => joined(tls.peer_dns_sans, out),
        TlsFact::LocalDnsSan => joined(tls.local_dns_sans, out),
        TlsFact::PeerIpSan | TlsFact::LocalIpSan => false,
        TlsFact::PeerFingerprint256 => put(tls.peer_fingerprint_256, out),
        TlsFact::PeerFingerprint1 => put(tls.peer_fingerprint_1, out),
        TlsFact::PeerCert => put(tls.peer_cert_pem, out),
        TlsFact::PeerCertStart | TlsFact::PeerCertEnd => false,
    }
}

/// True for formats whose JSON value is the operator's own type rather than text.
fn single(format: &Format) -> Option<(&Operator, Option<u32>)> {
    match &format.0[..] {
        [Part::Op(op, max)] => Some((op, *max)),
        _ => None,
    }
}

/// Convenience for tests and `explain`.
pub fn to_string(format: &JsonFormat, facts: &Facts<'_>) -> String {
    let mut out = Vec::new();
    json(format, facts, false, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}
