//! How does a connection's HTTP traffic get handled? The compiled `HttpConnectionManager`.
//!
//! Run by `l7`. Defaults that Envoy applies when a field is absent are applied here.

use std::sync::Arc;
use std::time::Duration;

use crate::Name;
use crate::access_log::AccessLog;
use crate::common::ConfigSource;
use crate::filters::http::HttpFilterKind;
use crate::format::SubstitutionFormat;
use crate::headers::HeaderOps;
use crate::route::{InternalAddressConfig, RouteTable, UpgradeConfig};
use crate::tracing::Tracing;

/// A compiled `HttpConnectionManager`.
#[derive(Debug, Clone)]
pub struct Hcm {
    /// `stat_prefix`
    pub stat_prefix: Name,
    /// `codec_type`
    pub codec: CodecType,
    /// Where routes come from.
    pub routes: RouteSource,
    /// HTTP filters in order; the last one is the router.
    pub filters: Arc<[HttpFilter]>,
    /// Access logs.
    pub access_logs: Arc<[AccessLog]>,
    /// Interval of periodic access log entries for long streams.
    pub access_log_flush_interval: Option<Duration>,
    /// Writes an entry when a request arrives.
    pub flush_access_log_on_new_request: bool,
    /// `server_name`; default `envoy`.
    pub server_name: Name,
    /// `server_header_transformation`
    pub server_header: ServerHeader,
    /// `use_remote_address`
    pub use_remote_address: bool,
    /// `xff_num_trusted_hops`
    pub xff_num_trusted_hops: u32,
    /// `skip_xff_append`
    pub skip_xff_append: bool,
    /// `original_ip_detection_extensions`; empty: x-forwarded-for as above.
    pub original_ip_detection: Box<[IpDetection]>,
    /// Internal networks.
    pub internal_addresses: InternalAddressConfig,
    /// `via`
    pub via: Option<Name>,
    /// `represent_ipv4_remote_address_as_ipv4_mapped_ipv6`
    pub ipv4_as_mapped: bool,
    /// Client certificate header.
    pub xfcc: ForwardClientCert,
    /// `generate_request_id`, default true.
    pub generate_request_id: bool,
    /// `preserve_external_request_id`
    pub preserve_external_request_id: bool,
    /// `always_set_request_id_in_response`
    pub always_set_request_id_in_response: bool,
    /// UUID extension: packs the trace reason into the id (default true).
    pub pack_trace_reason: bool,
    /// UUID extension: uses the id for the sampling decision (default true).
    pub use_request_id_for_trace_sampling: bool,
    /// `proxy_100_continue`
    pub proxy_100_continue: bool,
    /// Upgrades.
    pub upgrades: Box<[UpgradeConfig]>,
    /// `stream_idle_timeout`, default 5 min; `None` disables.
    pub stream_idle_timeout: Option<Duration>,
    /// `stream_flush_timeout`
    pub stream_flush_timeout: Option<Duration>,
    /// `request_timeout`
    pub request_timeout: Option<Duration>,
    /// `request_headers_timeout`
    pub request_headers_timeout: Option<Duration>,
    /// `drain_timeout`, default 5 s.
    pub drain_timeout: Duration,
    /// `delayed_close_timeout`, default 1 s; zero: immediate close.
    pub delayed_close_timeout: Duration,
    /// `common_http_protocol_options.idle_timeout`, default 1 h; `None` disables.
    pub idle_timeout: Option<Duration>,
    /// `common_http_protocol_options` limits.
    pub common: CommonHttp,
    /// Path treatment.
    pub path: PathNormalization,
    /// Strips the port from the authority.
    pub strip_port: StripPort,
    /// `strip_trailing_host_dot`
    pub strip_trailing_host_dot: bool,
    /// HTTP/1 options.
    pub http1: Http1Options,
    /// HTTP/2 options.
    pub http2: Http2Options,
    /// `max_request_headers_kb`, default 60.
    pub max_request_headers_kb: u32,
    /// `add_user_agent`
    pub add_user_agent: bool,
    /// `append_x_forwarded_port`
    pub append_x_forwarded_port: bool,
    /// `add_proxy_protocol_connection_state`, default true.
    pub add_proxy_protocol_connection_state: bool,
    /// `stream_error_on_invalid_http_message`
    pub stream_error_on_invalid_http_message: bool,
    /// `scheme_header_transformation`: overwrites `:scheme`.
    pub scheme_to_overwrite: Option<Name>,
    /// `match_upstream` of the same.
    pub scheme_match_upstream: bool,
    /// `append_local_overload`
    pub append_local_overload: bool,
    /// Tracing.
    pub tracing: Option<Arc<Tracing>>,
    /// Local reply rewriting.
    pub local_reply: Option<Arc<LocalReply>>,
}

/// `CodecType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CodecType {
    /// By ALPN, else by the first bytes.
    #[default]
    Auto,
    /// HTTP/1.1 only.
    Http1,
    /// HTTP/2 only.
    Http2,
    /// HTTP/3 only (refused by the parser for now).
    Http3,
}

/// Where an HCM's routes come from.
#[derive(Debug, Clone)]
pub enum RouteSource {
    /// `route_config`
    Inline(Arc<RouteTable>),
    /// `rds`
    Rds {
        /// Resource name.
        name: Name,
        /// Where from.
        source: ConfigSource,
    },
}

/// An HTTP filter with its configured name.
#[derive(Debug, Clone)]
pub struct HttpFilter {
    /// Configured name; key of per-route configuration.
    pub name: Name,
    /// What it is.
    pub kind: HttpFilterKind,
    /// Off unless a route enables it.
    pub disabled: bool,
}

/// `ServerHeaderTransformation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ServerHeader {
    /// Always this proxy's name.
    #[default]
    Overwrite,
    /// Only when the upstream sent none.
    AppendIfAbsent,
    /// Left alone.
    PassThrough,
}

/// `original_ip_detection_extensions`.
#[derive(Debug, Clone)]
pub enum IpDetection {
    /// `envoy.http.original_ip_detection.custom_header`
    CustomHeader {
        /// Header with the address.
        name: crate::matcher::HeaderName,
        /// The address found may be counted internal.
        allow_trusted: bool,
        /// Reject the request with this status when there is none.
        reject_status: Option<u16>,
    },
    /// `envoy.http.original_ip_detection.xff`
    Xff {
        /// Trusted hops.
        num_trusted_hops: u32,
        /// Trusted networks, searched from the right; `None`: by hops.
        trusted_cidrs: Option<crate::matcher::CidrSet>,
        /// Do not append the peer.
        skip_xff_append: bool,
    },
}

/// `forward_client_cert_details` and `set_current_client_cert_details`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ForwardClientCert {
    /// What to do with the header.
    pub mode: XfccMode,
    /// Adds `Subject`.
    pub subject: bool,
    /// Adds `Cert`.
    pub cert: bool,
    /// Adds `Chain`.
    pub chain: bool,
    /// Adds `DNS`.
    pub dns: bool,
    /// Adds `URI`.
    pub uri: bool,
}

/// `ForwardClientCertDetails`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum XfccMode {
    /// SANITIZE
    #[default]
    Sanitize,
    /// FORWARD_ONLY
    ForwardOnly,
    /// APPEND_FORWARD
    AppendForward,
    /// SANITIZE_SET
    SanitizeSet,
    /// ALWAYS_FORWARD_ONLY
    AlwaysForwardOnly,
}

/// `HttpProtocolOptions` (common to both codecs).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommonHttp {
    /// `max_connection_duration`
    pub max_connection_duration: Option<Duration>,
    /// `max_headers_count`, default 100.
    pub max_headers_count: u32,
    /// `max_stream_duration`
    pub max_stream_duration: Option<Duration>,
    /// `headers_with_underscores_action`
    pub underscores: Underscores,
    /// `max_requests_per_connection`; `None` unlimited.
    pub max_requests_per_connection: Option<u32>,
}

impl Default for CommonHttp {
    fn default() -> Self {
        Self {
            max_connection_duration: None,
            max_headers_count: 100,
            max_stream_duration: None,
            underscores: Underscores::Allow,
            max_requests_per_connection: None,
        }
    }
}

/// `HeadersWithUnderscoresAction`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Underscores {
    /// Kept.
    #[default]
    Allow,
    /// Request answered with 400.
    RejectRequest,
    /// Header dropped.
    DropHeader,
}

/// Path options.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PathNormalization {
    /// `normalize_path`
    pub normalize: bool,
    /// `merge_slashes`
    pub merge_slashes: bool,
    /// `path_with_escaped_slashes_action`
    pub escaped_slashes: EscapedSlashes,
}

/// `PathWithEscapedSlashesAction`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EscapedSlashes {
    /// Kept (also IMPLEMENTATION_SPECIFIC_DEFAULT).
    #[default]
    KeepUnchanged,
    /// 400.
    RejectRequest,
    /// 307 to the unescaped path.
    UnescapeAndRedirect,
    /// Unescaped and forwarded.
    UnescapeAndForward,
}

/// Port stripping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StripPort {
    /// Kept.
    #[default]
    Keep,
    /// `strip_matching_host_port`: when equal to the listener's port.
    Matching,
    /// `strip_any_host_port`
    Any,
}

/// `Http1ProtocolOptions`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Http1Options {
    /// `allow_absolute_url` (on by default in HCM).
    pub allow_absolute_url: bool,
    /// `accept_http_10`
    pub accept_http_10: bool,
    /// `default_host_for_http_10`
    pub default_host_for_http_10: Option<Name>,
    /// Header case on the way out.
    pub header_case: HeaderCase,
    /// `enable_trailers`
    pub enable_trailers: bool,
    /// `allow_chunked_length`
    pub allow_chunked_length: bool,
    /// `override_stream_error_on_invalid_http_message`
    pub stream_error_on_invalid: Option<bool>,
    /// `send_fully_qualified_url`
    pub send_fully_qualified_url: bool,
    /// `allow_custom_methods`
    pub allow_custom_methods: bool,
}

/// Header key format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HeaderCase {
    /// Lower case.
    #[default]
    Lower,
    /// `Content-Type`
    ProperCase,
    /// As received (`preserve_case` formatter).
    Preserve,
}

/// `Http2ProtocolOptions`. `None` leaves the codec's default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Http2Options {
    /// `hpack_table_size`
    pub hpack_table_size: Option<u32>,
    /// `max_concurrent_streams`
    pub max_concurrent_streams: Option<u32>,
    /// `initial_stream_window_size`
    pub initial_stream_window_size: Option<u32>,
    /// `initial_connection_window_size`
    pub initial_connection_window_size: Option<u32>,
    /// `allow_connect`: extended CONNECT.
    pub allow_connect: bool,
    /// `max_outbound_frames`
    pub max_outbound_frames: Option<u32>,
    /// `connection_keepalive.interval`
    pub keepalive_interval: Option<Duration>,
    /// `connection_keepalive.timeout`
    pub keepalive_timeout: Option<Duration>,
    /// `connection_keepalive.connection_idle_interval`
    pub keepalive_idle_interval: Option<Duration>,
    /// `override_stream_error_on_invalid_http_message`
    pub stream_error_on_invalid: Option<bool>,
}

/// `LocalReplyConfig`.
#[derive(Debug, Clone)]
pub struct LocalReply {
    /// First filter that matches applies.
    pub mappers: Box<[ReplyMapper]>,
    /// Body of all local replies.
    pub body_format: Option<SubstitutionFormat>,
}

/// `ResponseMapper`.
#[derive(Debug, Clone)]
pub struct ReplyMapper {
    /// When.
    pub filter: crate::access_log::LogFilter,
    /// New status.
    pub status: Option<u16>,
    /// New body text, itself subject to the body format.
    pub body: Option<Arc<[u8]>>,
    /// Its own format.
    pub body_format: Option<SubstitutionFormat>,
    /// Headers to add.
    pub headers: HeaderOps,
}
