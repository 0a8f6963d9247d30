//! What is known of a stream or connection when a decision or a log line is made? One borrowed struct.
//!
//! Filled by `l4` and `l7` from what they hold; read by formats, RBAC and CEL. Everything is optional or empty by default.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use proxy_config::common::Value;
use telemetry::access_log::ResponseFlags;

use crate::HeaderView;

/// Dynamic metadata of a stream, and filter state.
pub trait MetadataView {
    /// The struct under `namespace`.
    fn metadata(&self, namespace: &str) -> Option<&Value>;
    /// The text of the filter state object `key`.
    fn filter_state(&self, key: &str) -> Option<&[u8]> {
        let _ = key;
        None
    }
    /// Calls `f` with every namespace and its struct.
    fn each(&self, f: &mut dyn FnMut(&str, &Value)) {
        let _ = f;
    }
}

/// Neither metadata nor filter state.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoMetadata;

impl MetadataView for NoMetadata {
    fn metadata(&self, _: &str) -> Option<&Value> {
        None
    }
}

/// Facts of one TLS connection.
#[derive(Debug, Clone, Copy, Default)]
pub struct TlsFacts<'a> {
    /// Hex session id.
    pub session_id: &'a str,
    /// OpenSSL cipher name.
    pub cipher: &'a str,
    /// `TLSv1.3`
    pub version: &'a str,
    /// The peer presented a certificate.
    pub peer_presented: bool,
    /// ... and it was validated.
    pub peer_validated: bool,
    /// RFC 2253 subject.
    pub peer_subject: &'a str,
    /// RFC 2253 subject of our certificate.
    pub local_subject: &'a str,
    /// RFC 2253 issuer.
    pub peer_issuer: &'a str,
    /// Hex serial.
    pub peer_serial: &'a str,
    /// URI SANs of the peer.
    pub peer_uri_sans: &'a [String],
    /// URI SANs of our certificate.
    pub local_uri_sans: &'a [String],
    /// DNS SANs of the peer.
    pub peer_dns_sans: &'a [String],
    /// DNS SANs of our certificate.
    pub local_dns_sans: &'a [String],
    /// Hex SHA-256 of the peer's certificate.
    pub peer_fingerprint_256: &'a str,
    /// Hex SHA-1 of the peer's certificate.
    pub peer_fingerprint_1: &'a str,
    /// URL-encoded PEM of the peer's certificate.
    pub peer_cert_pem: &'a str,
    /// Start of validity.
    pub peer_not_before: Option<SystemTime>,
    /// End of validity.
    pub peer_not_after: Option<SystemTime>,
}

/// Points in a stream's life, as offsets from its start.
#[derive(Debug, Clone, Copy, Default)]
pub struct Marks {
    /// Last request byte received.
    pub request_end: Option<Duration>,
    /// Upstream connect began.
    pub upstream_connect_begin: Option<Duration>,
    /// Upstream connected.
    pub upstream_connect_end: Option<Duration>,
    /// Upstream TLS handshake ended.
    pub upstream_handshake_end: Option<Duration>,
    /// First request byte sent upstream.
    pub upstream_tx_begin: Option<Duration>,
    /// Last request byte sent upstream.
    pub upstream_tx_end: Option<Duration>,
    /// First response byte received.
    pub upstream_rx_begin: Option<Duration>,
    /// Last response byte received.
    pub upstream_rx_end: Option<Duration>,
    /// First response byte sent.
    pub response_begin: Option<Duration>,
    /// Last response byte sent.
    pub response_end: Option<Duration>,
    /// Whole stream.
    pub total: Option<Duration>,
    /// Downstream TLS handshake, how long it took.
    pub downstream_handshake: Option<Duration>,
    /// Until the upstream pool gave a connection.
    pub pool_ready: Option<Duration>,
}

/// Byte counts.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bytes {
    /// Request body.
    pub received: u64,
    /// Response body.
    pub sent: u64,
    /// Names and values of the request head.
    pub request_headers: u64,
    /// Names and values of the response head.
    pub response_headers: u64,
    /// On the wire, from the client.
    pub downstream_wire_received: u64,
    /// On the wire, to the client.
    pub downstream_wire_sent: u64,
    /// Header bytes from the client.
    pub downstream_header_received: u64,
    /// Header bytes to the client.
    pub downstream_header_sent: u64,
    /// On the wire, from the upstream.
    pub upstream_wire_received: u64,
    /// On the wire, to the upstream.
    pub upstream_wire_sent: u64,
    /// Header bytes from the upstream.
    pub upstream_header_received: u64,
    /// Header bytes to the upstream.
    pub upstream_header_sent: u64,
}

/// All that is known.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// Request headers as they are now.
    pub request: Option<&'a dyn HeaderView>,
    /// Response headers.
    pub response: Option<&'a dyn HeaderView>,
    /// Response trailers.
    pub trailers: Option<&'a dyn HeaderView>,
    /// Dynamic metadata and filter state.
    pub metadata: &'a dyn MetadataView,
    /// Metadata of the route, cluster, host, listener, filter chain and virtual host in force.
    pub route_metadata: Option<&'a proxy_config::common::Metadata>,
    /// Cluster metadata.
    pub cluster_metadata: Option<&'a proxy_config::common::Metadata>,
    /// Endpoint metadata.
    pub host_metadata: Option<&'a proxy_config::common::Metadata>,
    /// Listener metadata.
    pub listener_metadata: Option<&'a proxy_config::common::Metadata>,
    /// Filter chain metadata.
    pub chain_metadata: Option<&'a proxy_config::common::Metadata>,
    /// Virtual host metadata.
    pub vhost_metadata: Option<&'a proxy_config::common::Metadata>,
    /// When the stream began.
    pub start: SystemTime,
    /// Now (for `EMIT_TIME`).
    pub now: SystemTime,
    /// Points in time.
    pub marks: Marks,
    /// Byte counts.
    pub bytes: Bytes,
    /// `HTTP/1.1`, empty for TCP.
    pub protocol: &'a str,
    /// Protocol towards the upstream.
    pub upstream_protocol: &'a str,
    /// Response status, 0 when none.
    pub response_code: u16,
    /// Response code details.
    pub response_code_details: &'a str,
    /// Why the connection was terminated.
    pub connection_termination_details: &'a str,
    /// Response flags.
    pub flags: ResponseFlags,
    /// The client after x-forwarded-for and PROXY protocol.
    pub downstream_remote: Option<SocketAddr>,
    /// The peer of the socket.
    pub downstream_direct_remote: Option<SocketAddr>,
    /// Our address after original-destination restoration.
    pub downstream_local: Option<SocketAddr>,
    /// Our address of the socket.
    pub downstream_direct_local: Option<SocketAddr>,
    /// The chosen host.
    pub upstream_host: Option<SocketAddr>,
    /// Our address towards the upstream.
    pub upstream_local: Option<SocketAddr>,
    /// The upstream's address.
    pub upstream_remote: Option<SocketAddr>,
    /// The chosen host's name.
    pub upstream_host_name: &'a str,
    /// Cluster for display (`alt_stat_name` when set).
    pub upstream_cluster: &'a str,
    /// Cluster name.
    pub upstream_cluster_raw: &'a str,
    /// Tries made.
    pub attempts: u32,
    /// Upstream connection id, 0 when none.
    pub upstream_connection_id: u64,
    /// Why the upstream transport failed.
    pub upstream_transport_failure: &'a str,
    /// Why the downstream transport failed.
    pub downstream_transport_failure: &'a str,
    /// TLS towards the client.
    pub downstream_tls: Option<TlsFacts<'a>>,
    /// TLS towards the upstream.
    pub upstream_tls: Option<TlsFacts<'a>>,
    /// This machine's name.
    pub hostname: &'a str,
    /// Filter chain.
    pub filter_chain_name: &'a str,
    /// Virtual cluster.
    pub virtual_cluster_name: &'a str,
    /// Virtual host.
    pub virtual_host_name: &'a str,
    /// Route.
    pub route_name: &'a str,
    /// Connection id.
    pub connection_id: u64,
    /// Stream id (request id in logs).
    pub stream_id: u64,
    /// A random value for `UNIQUE_ID`.
    pub unique: u128,
    /// SNI.
    pub requested_server_name: &'a str,
    /// Trace id.
    pub trace_id: &'a str,
    /// Span id.
    pub span_id: &'a str,
    /// Body of the local reply.
    pub local_reply_body: &'a [u8],
    /// `DownstreamEnd`, `TcpConnectionEnd`, ...
    pub log_type: &'a str,
    /// The request was sampled for tracing.
    pub traced: bool,
    /// The request is a health check.
    pub health_check: bool,
    /// Values of `ENVIRONMENT(X)`.
    pub environment: fn(&str) -> Option<String>,
}

impl Default for Facts<'_> {
    fn default() -> Self {
        Self {
            request: None,
            response: None,
            trailers: None,
            metadata: &NoMetadata,
            route_metadata: None,
            cluster_metadata: None,
            host_metadata: None,
            listener_metadata: None,
            chain_metadata: None,
            vhost_metadata: None,
            start: SystemTime::UNIX_EPOCH,
            now: SystemTime::UNIX_EPOCH,
            marks: Marks::default(),
            bytes: Bytes::default(),
            protocol: "",
            upstream_protocol: "",
            response_code: 0,
            response_code_details: "",
            connection_termination_details: "",
            flags: ResponseFlags::default(),
            downstream_remote: None,
            downstream_direct_remote: None,
            downstream_local: None,
            downstream_direct_local: None,
            upstream_host: None,
            upstream_local: None,
            upstream_remote: None,
            upstream_host_name: "",
            upstream_cluster: "",
            upstream_cluster_raw: "",
            attempts: 0,
            upstream_connection_id: 0,
            upstream_transport_failure: "",
            downstream_transport_failure: "",
            downstream_tls: None,
            upstream_tls: None,
            hostname: "",
            filter_chain_name: "",
            virtual_cluster_name: "",
            virtual_host_name: "",
            route_name: "",
            connection_id: 0,
            stream_id: 0,
            unique: 0,
            requested_server_name: "",
            trace_id: "",
            span_id: "",
            local_reply_body: b"",
            log_type: "",
            traced: false,
            health_check: false,
            environment: |_| None,
        }
    }
}
