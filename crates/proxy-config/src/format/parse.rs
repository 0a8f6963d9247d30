//! How is a format string read? Envoy's grammar: `%NAME%`, `%NAME(args)%`, `%NAME(args):length%`, `%%`.

use super::*;

/// Parses a format string.
pub fn parse(text: &str) -> Result<Format, FormatError> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        literal.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        let position = text.len() - tail.len() - 1;
        if let Some(after) = tail.strip_prefix('%') {
            literal.push('%');
            rest = after;
            continue;
        }
        let syntax = || FormatError::Syntax(text.to_owned(), position);
        let (token, args, after) = split_operator(tail).ok_or_else(syntax)?;
        let (length, after) = match after.strip_prefix(':') {
            Some(a) => {
                let digits = a.len() - a.trim_start_matches(|c: char| c.is_ascii_digit()).len();
                (Some(a[..digits].parse::<u32>().map_err(|_| syntax())?), &a[digits..])
            }
            None => (None, after),
        };
        rest = after.strip_prefix('%').ok_or_else(syntax)?;
        if !literal.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut literal).into()));
        }
        parts.push(Part::Op(operator(token, args)?, length));
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        parts.push(Part::Text(literal.into()));
    }
    Ok(Format(parts.into()))
}

/// Splits `NAME(args)rest` (args may hold balanced or JSON text up to the `)` that ends the operator).
fn split_operator(tail: &str) -> Option<(&str, Option<&str>, &str)> {
    let name_end = tail.find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))?;
    if name_end == 0 {
        return None;
    }
    let (name, after) = tail.split_at(name_end);
    let Some(inner) = after.strip_prefix('(') else {
        return Some((name, None, after));
    };
    // The operator ends at the first `)` that is followed by `%` or `:digits%`.
    let mut from = 0;
    while let Some(close) = inner[from..].find(')').map(|i| i + from) {
        let next = &inner[close + 1..];
        let ended = next.starts_with('%')
            || next.strip_prefix(':').is_some_and(|n| {
                let t = n.trim_start_matches(|c: char| c.is_ascii_digit());
                t.len() < n.len() && t.starts_with('%')
            });
        if ended {
            return Some((name, Some(&inner[..close]), next));
        }
        from = close + 1;
    }
    None
}

fn argument(operator: &str, detail: &str) -> FormatError {
    FormatError::Argument { operator: operator.to_owned(), detail: detail.to_owned() }
}

/// `X?Y`
fn header_names(op: &str, args: Option<&str>) -> Result<(HeaderName, Option<HeaderName>), FormatError> {
    let args = args.filter(|a| !a.is_empty()).ok_or_else(|| argument(op, "header name is required"))?;
    let mut names = args.split('?');
    let first = names.next().unwrap_or_default();
    let second = names.next();
    if names.next().is_some() {
        return Err(argument(op, "more than one alternative header"));
    }
    if args.bytes().any(|b| b == 0 || b == b'\n' || b == b'\r') {
        return Err(argument(op, "header name contains a forbidden character"));
    }
    Ok((HeaderName::new(first), second.filter(|s| !s.is_empty()).map(HeaderName::new)))
}

fn metadata(kind: MetadataKind, op: &str, args: Option<&str>) -> Result<Operator, FormatError> {
    let args = args.filter(|a| !a.is_empty()).ok_or_else(|| argument(op, "namespace is required"))?;
    // Legacy header form: ["namespace", "key", ...]
    let list: Vec<String> = if args.starts_with('[') {
        args.trim_matches(|c| c == '[' || c == ']').split(',').map(|s| s.trim().trim_matches('"').to_owned()).collect()
    } else {
        args.split(':').map(str::to_owned).collect()
    };
    let mut names = list.into_iter().map(Name::from);
    let filter = names.next().ok_or_else(|| argument(op, "namespace is required"))?;
    Ok(Operator::Metadata { kind, filter, path: names.collect() })
}

fn typed_metadata(op: &str, args: Option<&str>) -> Result<Operator, FormatError> {
    let (kind, rest) = args.and_then(|a| a.split_once(':')).ok_or_else(|| argument(op, "type is required"))?;
    let kind = match kind {
        "DYNAMIC" => MetadataKind::Dynamic,
        "CLUSTER" => MetadataKind::Cluster,
        "ROUTE" => MetadataKind::Route,
        "UPSTREAM_HOST" => MetadataKind::UpstreamHost,
        "LISTENER" => MetadataKind::Listener,
        "LISTENER_FILTER_CHAIN" => MetadataKind::FilterChain,
        "VIRTUAL_HOST" => MetadataKind::VirtualHost,
        other => return Err(argument(op, &format!("{other} is not a kind of metadata"))),
    };
    metadata(kind, op, Some(rest))
}

fn filter_state(side: Side, op: &str, args: Option<&str>) -> Result<Operator, FormatError> {
    let args = args.filter(|a| !a.is_empty()).ok_or_else(|| argument(op, "key is required"))?;
    let mut words = args.split(':');
    let key = words.next().unwrap_or_default().into();
    let (plain, field) = match (words.next(), words.next()) {
        (None | Some("TYPED"), _) => (false, None),
        (Some("PLAIN"), _) => (true, None),
        (Some("FIELD"), Some(name)) => (true, Some(name.into())),
        (Some(other), _) => {
            return Err(argument(op, &format!("invalid serialization type {other}")));
        }
    };
    Ok(Operator::FilterState { side, key, plain, field })
}

fn time_point(op: &str, word: Option<&str>) -> Result<TimePoint, FormatError> {
    Ok(match word {
        Some("DS_RX_BEG") => TimePoint::DownstreamRxBegin,
        Some("DS_RX_END") => TimePoint::DownstreamRxEnd,
        Some("US_CX_BEG") => TimePoint::UpstreamConnectBegin,
        Some("US_CX_END") => TimePoint::UpstreamConnectEnd,
        Some("US_HS_END") => TimePoint::UpstreamHandshakeEnd,
        Some("US_TX_BEG") => TimePoint::UpstreamTxBegin,
        Some("US_TX_END") => TimePoint::UpstreamTxEnd,
        Some("US_RX_BEG") => TimePoint::UpstreamRxBegin,
        Some("US_RX_END") => TimePoint::UpstreamRxEnd,
        Some("DS_TX_BEG") => TimePoint::DownstreamTxBegin,
        Some("DS_TX_END") => TimePoint::DownstreamTxEnd,
        Some("DS_HS_END") => TimePoint::DownstreamHandshakeEnd,
        _ => return Err(argument(op, "unknown time point")),
    })
}

fn path_source(op: &str, word: Option<&str>) -> Result<PathSource, FormatError> {
    Ok(match word {
        None | Some("" | "ORIG_OR_PATH") => PathSource::OriginalOrPath,
        Some("PATH") => PathSource::Path,
        Some("ORIG") => PathSource::Original,
        Some(other) => return Err(argument(op, &format!("unknown path source {other}"))),
    })
}

/// An operator by name.
fn operator(name: &str, args: Option<&str>) -> Result<Operator, FormatError> {
    use ByteCount as B;
    use Operator as O;
    let time = || TimeFormat { pattern: args.filter(|a| !a.is_empty()).map(Into::into) };
    let required = || args.filter(|a| !a.is_empty()).ok_or_else(|| argument(name, "argument is required"));
    if let Some(op) = address(name).or_else(|| tls(name, &time)) {
        return Ok(op);
    }
    let op = match name {
        "REQ" | "RESP" | "TRAILER" => {
            let (n, alternative) = header_names(name, args)?;
            let block = match name {
                "REQ" => HeaderBlock::Request,
                "RESP" => HeaderBlock::Response,
                _ => HeaderBlock::Trailer,
            };
            O::Header { block, name: n, alternative }
        }
        "REQ_WITHOUT_QUERY" => {
            let (n, alternative) = header_names(name, args)?;
            O::HeaderWithoutQuery { name: n, alternative }
        }
        "START_TIME" => O::StartTime(time()),
        "START_TIME_LOCAL" => O::StartTimeLocal(time()),
        "EMIT_TIME" => O::EmitTime(time()),
        "BYTES_RECEIVED" => O::Bytes(B::Received),
        "BYTES_SENT" => O::Bytes(B::Sent),
        "DOWNSTREAM_WIRE_BYTES_RECEIVED" => O::Bytes(B::DownstreamWireReceived),
        "DOWNSTREAM_WIRE_BYTES_SENT" => O::Bytes(B::DownstreamWireSent),
        "DOWNSTREAM_HEADER_BYTES_RECEIVED" => O::Bytes(B::DownstreamHeaderReceived),
        "DOWNSTREAM_HEADER_BYTES_SENT" => O::Bytes(B::DownstreamHeaderSent),
        "UPSTREAM_WIRE_BYTES_RECEIVED" => O::Bytes(B::UpstreamWireReceived),
        "UPSTREAM_WIRE_BYTES_SENT" => O::Bytes(B::UpstreamWireSent),
        "UPSTREAM_HEADER_BYTES_RECEIVED" => O::Bytes(B::UpstreamHeaderReceived),
        "UPSTREAM_HEADER_BYTES_SENT" => O::Bytes(B::UpstreamHeaderSent),
        "REQUEST_HEADERS_BYTES" => O::Bytes(B::RequestHeaders),
        "RESPONSE_HEADERS_BYTES" => O::Bytes(B::ResponseHeaders),
        "RESPONSE_TRAILERS_BYTES" => O::Bytes(B::ResponseTrailers),
        "BYTES_RETRANSMITTED" => O::Bytes(B::Retransmitted),
        "PACKETS_RETRANSMITTED" => O::Bytes(B::PacketsRetransmitted),
        "PROTOCOL" => O::Protocol,
        "UPSTREAM_PROTOCOL" => O::UpstreamProtocol,
        "RESPONSE_CODE" => O::ResponseCode,
        "RESPONSE_CODE_DETAILS" => O::ResponseCodeDetails(args == Some("ALLOW_WHITESPACES")),
        "CONNECTION_TERMINATION_DETAILS" => O::ConnectionTerminationDetails,
        "DURATION" => O::Duration,
        "REQUEST_DURATION" => O::RequestDuration,
        "REQUEST_TX_DURATION" => O::RequestTxDuration,
        "RESPONSE_DURATION" => O::ResponseDuration,
        "RESPONSE_TX_DURATION" => O::ResponseTxDuration,
        "ROUNDTRIP_DURATION" => O::RoundtripDuration,
        "DOWNSTREAM_HANDSHAKE_DURATION" => O::DownstreamHandshakeDuration,
        "UPSTREAM_CONNECTION_POOL_READY_DURATION" => O::UpstreamPoolReadyDuration,
        "COMMON_DURATION" => {
            let mut words = args.unwrap_or_default().split(':');
            let start = time_point(name, words.next())?;
            let end = time_point(name, words.next())?;
            let unit = match words.next() {
                None | Some("ms") => TimeUnit::Millis,
                Some("us") => TimeUnit::Micros,
                Some("ns") => TimeUnit::Nanos,
                Some(other) => return Err(argument(name, &format!("invalid precision {other}"))),
            };
            O::CommonDuration(start, end, unit)
        }
        "RESPONSE_FLAGS" => O::ResponseFlags,
        "RESPONSE_FLAGS_LONG" => O::ResponseFlagsLong,
        "UPSTREAM_HOST_NAME" => O::UpstreamHostName,
        "UPSTREAM_HOST_NAME_WITHOUT_PORT" => O::UpstreamHostNameWithoutPort,
        "UPSTREAM_CLUSTER" => O::UpstreamCluster,
        "UPSTREAM_CLUSTER_RAW" => O::UpstreamClusterRaw,
        "UPSTREAM_REQUEST_ATTEMPT_COUNT" => O::UpstreamRequestAttemptCount,
        "UPSTREAM_CONNECTION_ID" => O::UpstreamConnectionId,
        "UPSTREAM_TRANSPORT_FAILURE_REASON" => O::TransportFailureReason(Side::Upstream),
        "DOWNSTREAM_TRANSPORT_FAILURE_REASON" => O::TransportFailureReason(Side::Downstream),
        "DOWNSTREAM_LOCAL_CLOSE_REASON" => O::LocalCloseReason(Side::Downstream),
        "UPSTREAM_LOCAL_CLOSE_REASON" => O::LocalCloseReason(Side::Upstream),
        "DOWNSTREAM_DETECTED_CLOSE_TYPE" => O::DetectedCloseType(Side::Downstream),
        "UPSTREAM_DETECTED_CLOSE_TYPE" => O::DetectedCloseType(Side::Upstream),
        "HOSTNAME" => O::Hostname,
        "FILTER_CHAIN_NAME" => O::FilterChainName,
        "VIRTUAL_CLUSTER_NAME" => O::VirtualClusterName,
        "ROUTE_NAME" => O::RouteName,
        "CONNECTION_ID" => O::ConnectionId,
        "STREAM_ID" => O::StreamId,
        "UNIQUE_ID" => O::UniqueId,
        "REQUESTED_SERVER_NAME" => O::RequestedServerName,
        "TLS_JA3_FINGERPRINT" => O::Ja3,
        "TLS_JA4_FINGERPRINT" => O::Ja4,
        "DYNAMIC_METADATA" => metadata(MetadataKind::Dynamic, name, args)?,
        "CLUSTER_METADATA" => metadata(MetadataKind::Cluster, name, args)?,
        "UPSTREAM_METADATA" => metadata(MetadataKind::UpstreamHost, name, args)?,
        "METADATA" => typed_metadata(name, args)?,
        "FILTER_STATE" => filter_state(Side::Downstream, name, args)?,
        "UPSTREAM_FILTER_STATE" => filter_state(Side::Upstream, name, args)?,
        "GRPC_STATUS_NUMBER" => O::GrpcStatus(GrpcStatusStyle::Number),
        "GRPC_STATUS" => O::GrpcStatus(match args {
            None | Some("" | "CAMEL_STRING") => GrpcStatusStyle::Camel,
            Some("SNAKE_STRING") => GrpcStatusStyle::Snake,
            Some("NUMBER") => GrpcStatusStyle::Number,
            Some(other) => {
                return Err(argument(name, &format!("unsupported GRPC_STATUS format {other}")));
            }
        }),
        "TRACE_ID" => O::TraceId,
        "SPAN_ID" => O::SpanId,
        "QUERY_PARAM" => O::QueryParam(required()?.into()),
        "QUERY_PARAMS" => O::QueryParams(path_source(name, args)?),
        "PATH" => {
            let mut words = args.unwrap_or_default().split(':');
            let with_query = match words.next() {
                None | Some("" | "WQ") => true,
                Some("NQ") => false,
                Some(other) => {
                    return Err(argument(name, &format!("unknown query option {other}")));
                }
            };
            O::Path { with_query, source: path_source(name, words.next())? }
        }
        "ENVIRONMENT" => O::Environment(required()?.into()),
        "LOCAL_REPLY_BODY" => O::LocalReplyBody,
        "ACCESS_LOG_TYPE" => O::AccessLogType,
        "CUSTOM_FLAGS" => O::CustomFlags,
        "CEL" | "TYPED_CEL" => O::Cel(required()?.into()),
        _ => return Err(FormatError::UnknownOperator(name.to_owned())),
    };
    Ok(op)
}

/// All `*_ADDRESS*` and `*_PORT` operators.
fn address(name: &str) -> Option<Operator> {
    use AddressKind as K;
    use AddressPart as P;
    let (stem, part) = if let Some(stem) = name.strip_suffix("_ADDRESS_WITHOUT_PORT") {
        (stem, P::WithoutPort)
    } else if let Some(stem) = name.strip_suffix("_ADDRESS_ENDPOINT_ID") {
        (stem, P::EndpointId)
    } else if let Some(stem) = name.strip_suffix("_ADDRESS") {
        (stem, P::Full)
    } else if let Some(stem) = name.strip_suffix("_PORT") {
        (stem, P::Port)
    } else if name == "UPSTREAM_HOST" {
        return Some(Operator::Address(K::UpstreamHost, P::Full));
    } else {
        return None;
    };
    let kind = match stem {
        "DOWNSTREAM_REMOTE" => K::DownstreamRemote,
        "DOWNSTREAM_DIRECT_REMOTE" => K::DownstreamDirectRemote,
        "DOWNSTREAM_LOCAL" => K::DownstreamLocal,
        "DOWNSTREAM_DIRECT_LOCAL" => K::DownstreamDirectLocal,
        "UPSTREAM_LOCAL" => K::UpstreamLocal,
        "UPSTREAM_REMOTE" => K::UpstreamRemote,
        _ => return None,
    };
    Some(Operator::Address(kind, part))
}

/// All certificate and session operators.
fn tls(name: &str, time: &dyn Fn() -> TimeFormat) -> Option<Operator> {
    use TlsFact as F;
    let (side, rest) = if let Some(r) = name.strip_prefix("DOWNSTREAM_") {
        (Side::Downstream, r)
    } else {
        (Side::Upstream, name.strip_prefix("UPSTREAM_")?)
    };
    let downstream_only = ["LOCAL_SUBJECT", "PEER_SERIAL", "PEER_FINGERPRINT_256", "PEER_FINGERPRINT_1"];
    if side == Side::Upstream && downstream_only.contains(&rest) {
        return None;
    }
    let fact = match rest {
        "TLS_SESSION_ID" => F::SessionId,
        "TLS_CIPHER" => F::Cipher,
        "TLS_VERSION" => F::Version,
        "PEER_SUBJECT" => F::PeerSubject,
        "LOCAL_SUBJECT" => F::LocalSubject,
        "PEER_ISSUER" => F::PeerIssuer,
        "PEER_SERIAL" => F::PeerSerial,
        "PEER_URI_SAN" => F::PeerUriSan,
        "LOCAL_URI_SAN" => F::LocalUriSan,
        "PEER_DNS_SAN" => F::PeerDnsSan,
        "LOCAL_DNS_SAN" => F::LocalDnsSan,
        "PEER_IP_SAN" => F::PeerIpSan,
        "LOCAL_IP_SAN" => F::LocalIpSan,
        "PEER_FINGERPRINT_256" => F::PeerFingerprint256,
        "PEER_FINGERPRINT_1" => F::PeerFingerprint1,
        "PEER_CERT" => F::PeerCert,
        "PEER_CERT_V_START" => return Some(Operator::CertTime(side, F::PeerCertStart, time())),
        "PEER_CERT_V_END" => return Some(Operator::CertTime(side, F::PeerCertEnd, time())),
        _ => return None,
    };
    Some(Operator::Tls(side, fact))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn istio_default_format_parses() {
        let f = parse(concat!(
            "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% ",
            "%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% ",
            "\"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% ",
            "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" ",
            "\"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% ",
            "%UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% ",
            "%REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"
        ))
        .unwrap();
        assert_eq!(f.0.iter().filter(|p| matches!(p, Part::Op(..))).count(), 24);
        assert!(parse(crate::access_log::DEFAULT_FORMAT).is_ok());
    }

    #[test]
    fn lengths_times_and_percent() {
        let f = parse("100%% %REQ(a):3% %START_TIME(%Y/%m (%s)):5%x").unwrap();
        assert_eq!(f.0[0], Part::Text("100% ".into()));
        assert!(matches!(&f.0[1], Part::Op(Operator::Header { .. }, Some(3))));
        assert!(
            matches!(&f.0[3], Part::Op(Operator::StartTime(t), Some(5)) if t.pattern.as_deref() == Some("%Y/%m (%s)"))
        );
    }

    #[test]
    fn errors() {
        assert!(matches!(parse("%REQ(a"), Err(FormatError::Syntax(..))));
        assert!(matches!(parse("%NOPE%"), Err(FormatError::UnknownOperator(_))));
        assert!(matches!(parse("%REQ(a?b?c)%"), Err(FormatError::Argument { .. })));
        assert!(parse("%REQ%").is_err());
        // Refused by Envoy 1.40 too.
        for name in ["VIRTUAL_HOST_NAME", "PER_REQUEST_STATE(a)", "UPSTREAM_PEER_SERIAL", "UPSTREAM_LOCAL_SUBJECT"] {
            assert!(parse(&format!("%{name}%")).is_err(), "{name}");
        }
        assert!(parse("%").is_err());
        assert!(parse("%req(a)%").is_err());
    }
}
