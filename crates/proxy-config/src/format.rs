//! What does a substitution format string say? `%REQ(:METHOD)% %RESPONSE_CODE%\n` compiled to operators.
//!
//! Used for access logs, header values and local reply bodies. The values come from `proxy-core::format::FormatSource`;
//! nothing is evaluated here.

use crate::Name;
use crate::matcher::HeaderName;

mod parse;
pub use parse::parse;

/// A compiled format string.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Format(pub Box<[Part]>);

/// One piece of a [`Format`].
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// Text copied as it is.
    Text(Box<str>),
    /// A value, cut to at most this many bytes when a length was given.
    Op(Operator, Option<u32>),
}

impl Format {
    /// A format that is only text.
    pub fn literal(text: &str) -> Self {
        if text.is_empty() { Self::default() } else { Self(Box::new([Part::Text(text.into())])) }
    }

    /// The text when there is no operator in it.
    pub fn as_literal(&self) -> Option<&str> {
        match &self.0[..] {
            [] => Some(""),
            [Part::Text(t)] => Some(t),
            _ => None,
        }
    }
}

/// Why a format string was refused, in Envoy's words where it has them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// A `%` without its closing `%`, or a malformed operator.
    #[error("Incorrect configuration: {0}. Couldn't find valid command at position {1}")]
    Syntax(String, usize),
    /// An operator that Envoy does not have either.
    #[error("Not supported field in StreamInfo: {0}")]
    UnknownOperator(String),
    /// A wrong or missing argument.
    #[error("Invalid configuration of operator {operator}: {detail}")]
    Argument {
        /// The operator.
        operator: String,
        /// What is wrong.
        detail: String,
    },
}

/// Which side's connection a value speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// Between client and proxy.
    Downstream,
    /// Between proxy and host.
    Upstream,
}

/// Which part of an address to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressPart {
    /// `1.2.3.4:80`
    Full,
    /// `1.2.3.4`
    WithoutPort,
    /// `80`
    Port,
    /// The endpoint id of an internal address.
    EndpointId,
}

/// Which address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressKind {
    /// `DOWNSTREAM_REMOTE_ADDRESS`: the client, after x-forwarded-for and PROXY protocol.
    DownstreamRemote,
    /// `DOWNSTREAM_DIRECT_REMOTE_ADDRESS`: the peer of the socket.
    DownstreamDirectRemote,
    /// `DOWNSTREAM_LOCAL_ADDRESS`: after original-destination restoration.
    DownstreamLocal,
    /// `DOWNSTREAM_DIRECT_LOCAL_ADDRESS`: of the socket.
    DownstreamDirectLocal,
    /// `UPSTREAM_HOST`: the chosen host's address.
    UpstreamHost,
    /// `UPSTREAM_LOCAL_ADDRESS`
    UpstreamLocal,
    /// `UPSTREAM_REMOTE_ADDRESS`
    UpstreamRemote,
}

/// A fact about a TLS connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TlsFact {
    /// `*_TLS_SESSION_ID`
    SessionId,
    /// `*_TLS_CIPHER`
    Cipher,
    /// `*_TLS_VERSION`
    Version,
    /// `*_PEER_SUBJECT`
    PeerSubject,
    /// `*_LOCAL_SUBJECT`
    LocalSubject,
    /// `*_PEER_ISSUER`
    PeerIssuer,
    /// `*_PEER_SERIAL`
    PeerSerial,
    /// `*_PEER_URI_SAN`
    PeerUriSan,
    /// `*_LOCAL_URI_SAN`
    LocalUriSan,
    /// `*_PEER_DNS_SAN`
    PeerDnsSan,
    /// `*_LOCAL_DNS_SAN`
    LocalDnsSan,
    /// `*_PEER_IP_SAN`
    PeerIpSan,
    /// `*_LOCAL_IP_SAN`
    LocalIpSan,
    /// `*_PEER_FINGERPRINT_256`
    PeerFingerprint256,
    /// `*_PEER_FINGERPRINT_1`
    PeerFingerprint1,
    /// `*_PEER_CERT` (URL-encoded PEM)
    PeerCert,
    /// `*_PEER_CERT_V_START`
    PeerCertStart,
    /// `*_PEER_CERT_V_END`
    PeerCertEnd,
}

/// Which bytes are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ByteCount {
    /// `BYTES_RECEIVED`: request body.
    Received,
    /// `BYTES_SENT`: response body.
    Sent,
    /// `DOWNSTREAM_WIRE_BYTES_RECEIVED`
    DownstreamWireReceived,
    /// `DOWNSTREAM_WIRE_BYTES_SENT`
    DownstreamWireSent,
    /// `DOWNSTREAM_HEADER_BYTES_RECEIVED`
    DownstreamHeaderReceived,
    /// `DOWNSTREAM_HEADER_BYTES_SENT`
    DownstreamHeaderSent,
    /// `UPSTREAM_WIRE_BYTES_RECEIVED`
    UpstreamWireReceived,
    /// `UPSTREAM_WIRE_BYTES_SENT`
    UpstreamWireSent,
    /// `UPSTREAM_HEADER_BYTES_RECEIVED`
    UpstreamHeaderReceived,
    /// `UPSTREAM_HEADER_BYTES_SENT`
    UpstreamHeaderSent,
    /// `REQUEST_HEADERS_BYTES`
    RequestHeaders,
    /// `RESPONSE_HEADERS_BYTES`
    ResponseHeaders,
    /// `RESPONSE_TRAILERS_BYTES`
    ResponseTrailers,
    /// `BYTES_RETRANSMITTED`
    Retransmitted,
    /// `PACKETS_RETRANSMITTED`
    PacketsRetransmitted,
}

/// Points of time within a stream, for durations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TimePoint {
    /// `DS_RX_BEG`: request received, first byte.
    DownstreamRxBegin,
    /// `DS_RX_END`: request received, last byte.
    DownstreamRxEnd,
    /// `US_CX_BEG`: upstream connect started.
    UpstreamConnectBegin,
    /// `US_CX_END`: upstream connected.
    UpstreamConnectEnd,
    /// `US_HS_END`: upstream TLS handshake done.
    UpstreamHandshakeEnd,
    /// `US_TX_BEG`: request sent, first byte.
    UpstreamTxBegin,
    /// `US_TX_END`: request sent, last byte.
    UpstreamTxEnd,
    /// `US_RX_BEG`: response received, first byte.
    UpstreamRxBegin,
    /// `US_RX_END`: response received, last byte.
    UpstreamRxEnd,
    /// `DS_TX_BEG`: response sent, first byte.
    DownstreamTxBegin,
    /// `DS_TX_END`: response sent, last byte.
    DownstreamTxEnd,
    /// Downstream TLS handshake done.
    DownstreamHandshakeEnd,
}

/// Unit of a `COMMON_DURATION`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TimeUnit {
    /// Milliseconds.
    Millis,
    /// Microseconds.
    Micros,
    /// Nanoseconds.
    Nanos,
}

/// How `%GRPC_STATUS(...)%` is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GrpcStatusStyle {
    /// `InvalidArgument`
    Camel,
    /// `INVALID_ARGUMENT`
    Snake,
    /// `3`
    Number,
}

/// Which header block a header operator reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HeaderBlock {
    /// Request headers.
    Request,
    /// Response headers.
    Response,
    /// Response trailers.
    Trailer,
}

/// Which metadata an operator reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MetadataKind {
    /// `DYNAMIC_METADATA`
    Dynamic,
    /// `CLUSTER_METADATA` (also `METADATA(CLUSTER:...)`)
    Cluster,
    /// `UPSTREAM_METADATA` (also `METADATA(UPSTREAM_HOST:...)`)
    UpstreamHost,
    /// `METADATA(ROUTE:...)`
    Route,
    /// `METADATA(LISTENER:...)`
    Listener,
    /// `METADATA(LISTENER_FILTER_CHAIN:...)`
    FilterChain,
    /// `METADATA(VIRTUAL_HOST:...)`
    VirtualHost,
}

/// Which part of the path `%PATH(...)%` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PathSource {
    /// `x-envoy-original-path`, else `:path`.
    OriginalOrPath,
    /// `:path`
    Path,
    /// `x-envoy-original-path`
    Original,
}

/// Time format: text and strftime-like fields with Envoy's `%f` extensions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TimeFormat {
    /// `None`: `%Y-%m-%dT%H:%M:%E3SZ`, the default.
    pub pattern: Option<Box<str>>,
}

/// A value to substitute. Names follow Envoy's operators.
#[derive(Debug, Clone, PartialEq)]
pub enum Operator {
    /// `REQ(X?Y)`, `RESP(X?Y)`, `TRAILER(X?Y)`: first header present of the two.
    Header {
        /// Where to look.
        block: HeaderBlock,
        /// Main header.
        name: HeaderName,
        /// Used when the main one is absent.
        alternative: Option<HeaderName>,
    },
    /// `REQ_WITHOUT_QUERY(X?Y)`: as `REQ`, cut at `?`.
    HeaderWithoutQuery {
        /// Main header.
        name: HeaderName,
        /// Used when the main one is absent.
        alternative: Option<HeaderName>,
    },
    /// `START_TIME(fmt)`
    StartTime(TimeFormat),
    /// `START_TIME_LOCAL(fmt)`
    StartTimeLocal(TimeFormat),
    /// `EMIT_TIME(fmt)`
    EmitTime(TimeFormat),
    /// `DOWNSTREAM_PEER_CERT_V_START(fmt)` and its like.
    CertTime(Side, TlsFact, TimeFormat),
    /// `BYTES_*` and its like.
    Bytes(ByteCount),
    /// `PROTOCOL`
    Protocol,
    /// `UPSTREAM_PROTOCOL`
    UpstreamProtocol,
    /// `RESPONSE_CODE`
    ResponseCode,
    /// `RESPONSE_CODE_DETAILS`; whitespace replaced by `_` unless `true`.
    ResponseCodeDetails(bool),
    /// `CONNECTION_TERMINATION_DETAILS`
    ConnectionTerminationDetails,
    /// `DURATION` ms, from the first request byte to the last response byte.
    Duration,
    /// `REQUEST_DURATION` ms.
    RequestDuration,
    /// `REQUEST_TX_DURATION` ms.
    RequestTxDuration,
    /// `RESPONSE_DURATION` ms.
    ResponseDuration,
    /// `RESPONSE_TX_DURATION` ms.
    ResponseTxDuration,
    /// `ROUNDTRIP_DURATION` ms.
    RoundtripDuration,
    /// `DOWNSTREAM_HANDSHAKE_DURATION` ms.
    DownstreamHandshakeDuration,
    /// `UPSTREAM_CONNECTION_POOL_READY_DURATION` ms.
    UpstreamPoolReadyDuration,
    /// `COMMON_DURATION(start:end:precision)`
    CommonDuration(TimePoint, TimePoint, TimeUnit),
    /// `RESPONSE_FLAGS`, `-` when none.
    ResponseFlags,
    /// `RESPONSE_FLAGS_LONG`
    ResponseFlagsLong,
    /// `UPSTREAM_HOST_NAME`
    UpstreamHostName,
    /// `UPSTREAM_HOST_NAME_WITHOUT_PORT`
    UpstreamHostNameWithoutPort,
    /// `UPSTREAM_CLUSTER` (alt_stat_name when set).
    UpstreamCluster,
    /// `UPSTREAM_CLUSTER_RAW`
    UpstreamClusterRaw,
    /// `UPSTREAM_HOST`, `DOWNSTREAM_REMOTE_ADDRESS` and all other addresses.
    Address(AddressKind, AddressPart),
    /// `UPSTREAM_REQUEST_ATTEMPT_COUNT`
    UpstreamRequestAttemptCount,
    /// `UPSTREAM_CONNECTION_ID`
    UpstreamConnectionId,
    /// `UPSTREAM_TRANSPORT_FAILURE_REASON`, `DOWNSTREAM_TRANSPORT_FAILURE_REASON`
    TransportFailureReason(Side),
    /// `DOWNSTREAM_LOCAL_CLOSE_REASON`, `UPSTREAM_LOCAL_CLOSE_REASON`
    LocalCloseReason(Side),
    /// `DOWNSTREAM_DETECTED_CLOSE_TYPE`, `UPSTREAM_DETECTED_CLOSE_TYPE`
    DetectedCloseType(Side),
    /// Certificate and session facts.
    Tls(Side, TlsFact),
    /// `HOSTNAME`
    Hostname,
    /// `FILTER_CHAIN_NAME`
    FilterChainName,
    /// `VIRTUAL_CLUSTER_NAME`
    VirtualClusterName,
    /// `ROUTE_NAME`
    RouteName,
    /// `CONNECTION_ID`
    ConnectionId,
    /// `STREAM_ID`
    StreamId,
    /// `UNIQUE_ID`: a new UUID each time.
    UniqueId,
    /// `REQUESTED_SERVER_NAME`
    RequestedServerName,
    /// `TLS_JA3_FINGERPRINT`
    Ja3,
    /// `TLS_JA4_FINGERPRINT`
    Ja4,
    /// `DYNAMIC_METADATA(ns:key:key)` and its like.
    Metadata {
        /// Whose metadata.
        kind: MetadataKind,
        /// Namespace.
        filter: Name,
        /// Keys.
        path: Box<[Name]>,
    },
    /// `FILTER_STATE(key:PLAIN|TYPED|FIELD:name)`
    FilterState {
        /// Downstream or upstream filter state.
        side: Side,
        /// Object name.
        key: Name,
        /// `TYPED` (the default) or `PLAIN`.
        plain: bool,
        /// `FIELD:name`
        field: Option<Name>,
    },
    /// `GRPC_STATUS(...)`, `GRPC_STATUS_NUMBER`
    GrpcStatus(GrpcStatusStyle),
    /// `TRACE_ID`
    TraceId,
    /// `SPAN_ID`
    SpanId,
    /// `QUERY_PARAM(name)`
    QueryParam(Name),
    /// `QUERY_PARAMS(ORIG)`...
    QueryParams(PathSource),
    /// `PATH(WQ|NQ:source)`
    Path {
        /// Keep the query.
        with_query: bool,
        /// Which path.
        source: PathSource,
    },
    /// `ENVIRONMENT(X)`, read once when the resource was parsed by the caller's environment.
    Environment(Name),
    /// `LOCAL_REPLY_BODY`
    LocalReplyBody,
    /// `ACCESS_LOG_TYPE`
    AccessLogType,
    /// `CUSTOM_FLAGS`
    CustomFlags,
    /// `CEL(expression text)` or `TYPED_CEL`
    Cel(Name),
    /// `COALESCE(...)`: not evaluated yet by anyone; parsed as its operators in order.
    Coalesce(Box<[(Operator, Option<u32>)]>),
}

/// `envoy.config.core.v3.SubstitutionFormatString`.
#[derive(Debug, Clone)]
pub struct SubstitutionFormat {
    /// Text or JSON.
    pub body: FormatBody,
    /// `omit_empty_values`
    pub omit_empty_values: bool,
    /// `content_type`; default `text/plain` or `application/json`.
    pub content_type: Option<Name>,
}

/// The two shapes of a format.
#[derive(Debug, Clone)]
pub enum FormatBody {
    /// `text_format`, `text_format_source`
    Text(Format),
    /// `json_format`
    Json(JsonFormat),
}

/// A JSON tree whose strings are formats. A string that is exactly one operator yields that operator's own JSON type.
#[derive(Debug, Clone, PartialEq)]
pub enum JsonFormat {
    /// null
    Null,
    /// true, false
    Bool(bool),
    /// Number
    Number(f64),
    /// String
    String(Format),
    /// Array
    List(Box<[JsonFormat]>),
    /// Object, in key order
    Struct(Box<[(Box<str>, JsonFormat)]>),
}
