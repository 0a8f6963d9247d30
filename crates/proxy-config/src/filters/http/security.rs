//! Options of HTTP filters that decide about access: RBAC, ext_authz, jwt_authn, ext_proc.

use std::sync::Arc;
use std::time::Duration;

use crate::Name;
use crate::common::{DataSource, Fraction, GrpcService, HttpUri};
use crate::matcher::{HeaderName, MetadataMatcher, StringMatcher};
use crate::rbac::RbacConfig;
use crate::route::RouteMatch;

/// HTTP `RBAC` and `RBACPerRoute`.
#[derive(Debug, Clone)]
pub struct HttpRbac {
    /// Rules; both absent in a per-route config means RBAC is off there.
    pub config: RbacConfig,
}

/// `ExtAuthz`.
#[derive(Debug, Clone)]
pub struct ExtAuthz {
    /// Service.
    pub service: ExtAuthzService,
    /// `stat_prefix`
    pub stat_prefix: Option<Name>,
    /// Allows when the service fails.
    pub failure_mode_allow: bool,
    /// Marks such requests with `x-envoy-auth-failure-mode-allowed`.
    pub failure_mode_allow_header_add: bool,
    /// Request body to send.
    pub body: Option<BufferSettings>,
    /// Drops the route cache after headers were changed.
    pub clear_route_cache: bool,
    /// Status when the service fails. Default 403.
    pub status_on_error: u16,
    /// Refuses bad header mutations with 500.
    pub validate_mutations: bool,
    /// Dynamic metadata namespaces sent.
    pub metadata_context_namespaces: Box<[Name]>,
    /// Only requests whose metadata match.
    pub filter_enabled_metadata: Option<MetadataMatcher>,
    /// Share of requests.
    pub enabled: Fraction,
    /// When not enabled: deny (true) or pass.
    pub deny_at_disable: bool,
    /// Sends the peer certificate.
    pub include_peer_certificate: bool,
    /// Sends the TLS session facts.
    pub include_tls_session: bool,
    /// Headers sent to the service; `None`: all (gRPC) or the standard four (HTTP).
    pub allowed_headers: Option<Box<[StringMatcher]>>,
    /// Headers never sent.
    pub disallowed_headers: Box<[StringMatcher]>,
    /// Sends headers as raw bytes.
    pub encode_raw_headers: bool,
    /// Adds the service's latency and details to filter state.
    pub emit_filter_state_stats: bool,
}

/// `ExtAuthz.services`.
#[derive(Debug, Clone)]
pub enum ExtAuthzService {
    /// `grpc_service`
    Grpc(GrpcService),
    /// `http_service`
    Http(Arc<ExtAuthzHttp>),
}

/// `HttpService` of ext_authz.
#[derive(Debug, Clone)]
pub struct ExtAuthzHttp {
    /// Server.
    pub server: HttpUri,
    /// Prepended to the path.
    pub path_prefix: Name,
    /// Headers added to the check.
    pub headers_to_add: Box<[(HeaderName, Name)]>,
    /// Response headers copied to the upstream request.
    pub allowed_upstream_headers: Box<[StringMatcher]>,
    /// The same, appended.
    pub allowed_upstream_headers_to_append: Box<[StringMatcher]>,
    /// Response headers sent to the client when denied; empty: all but `:authority`-like ones.
    pub allowed_client_headers: Box<[StringMatcher]>,
    /// Response headers added to the client's response when allowed.
    pub allowed_client_headers_on_success: Box<[StringMatcher]>,
    /// Response headers stored in dynamic metadata.
    pub dynamic_metadata_from_headers: Box<[StringMatcher]>,
}

/// `BufferSettings`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BufferSettings {
    /// Most bytes.
    pub max_request_bytes: u32,
    /// Sends the first bytes instead of answering 413.
    pub allow_partial_message: bool,
    /// Sends bytes, not text.
    pub pack_as_bytes: bool,
}

/// `CheckSettings`.
#[derive(Debug, Clone)]
pub struct ExtAuthzPerRoute {
    /// Context extensions sent.
    pub context_extensions: Box<[(Name, Name)]>,
    /// Does not send the body here.
    pub disable_request_body_buffering: bool,
    /// Overrides the body settings.
    pub body: Option<BufferSettings>,
}

/// `JwtAuthentication`.
#[derive(Debug, Clone)]
pub struct JwtAuthn {
    /// Providers by name.
    pub providers: Box<[JwtProvider]>,
    /// First match decides.
    pub rules: Box<[JwtRule]>,
    /// Named requirements for per-route use.
    pub requirements: Box<[(Name, JwtRequirement)]>,
    /// Passes CORS preflights.
    pub bypass_cors_preflight: bool,
    /// Leaves out the reason of failures.
    pub strip_failure_response: bool,
    /// Requirement by filter state: object name and value to requirement.
    pub filter_state_rules: Option<JwtFilterStateRules>,
}

/// `FilterStateRule`.
#[derive(Debug, Clone)]
pub struct JwtFilterStateRules {
    /// Filter state object.
    pub name: Name,
    /// Its value to the requirement.
    pub requires: Box<[(Name, JwtRequirement)]>,
}

/// `RequirementRule`.
#[derive(Debug, Clone)]
pub struct JwtRule {
    /// When (headers use their own slots: `slot` indexes nothing here).
    pub matcher: RouteMatch,
    /// What; `None`: no token needed.
    pub requirement: Option<JwtRequirement>,
}

/// `JwtRequirement`.
#[derive(Debug, Clone)]
pub enum JwtRequirement {
    /// `provider_name`, with `provider_and_audiences` if not empty: index into providers
    Provider(usize, Box<[Name]>),
    /// `requires_any`
    Any(Box<[JwtRequirement]>),
    /// `requires_all`
    All(Box<[JwtRequirement]>),
    /// `allow_missing_or_failed`
    AllowMissingOrFailed,
    /// `allow_missing`
    AllowMissing,
    /// No `requires_type`: tokens are not looked at.
    Nothing,
}

/// `JwtProvider`.
#[derive(Debug, Clone)]
pub struct JwtProvider {
    /// Name.
    pub name: Name,
    /// Required `iss`, any when empty.
    pub issuer: Name,
    /// Accepted `aud`, any when empty.
    pub audiences: Box<[Name]>,
    /// `sub` test.
    pub subjects: Option<StringMatcher>,
    /// Keys.
    pub jwks: Jwks,
    /// Forwards the token.
    pub forward: bool,
    /// Headers with the token: name and value prefix.
    pub from_headers: Box<[(HeaderName, Name)]>,
    /// Query parameters with the token.
    pub from_params: Box<[Name]>,
    /// Cookies with the token.
    pub from_cookies: Box<[Name]>,
    /// Sends the payload (base64url) in this header.
    pub forward_payload_header: Option<HeaderName>,
    /// Pads it.
    pub pad_forward_payload_header: bool,
    /// Stores the payload in dynamic metadata under this key.
    pub payload_in_metadata: Option<Name>,
    /// Normalises space-separated claims there.
    pub normalize_payload: Box<[Name]>,
    /// Stores the header in dynamic metadata under this key.
    pub header_in_metadata: Option<Name>,
    /// Stores the failure in dynamic metadata under this key.
    pub failed_status_in_metadata: Option<Name>,
    /// Clock skew, s. Default 60.
    pub clock_skew_seconds: u32,
    /// Longest life of a token.
    pub max_lifetime: Option<Duration>,
    /// Requires `exp`.
    pub require_expiration: bool,
    /// Claims copied to headers.
    pub claim_to_headers: Box<[(HeaderName, Box<[Name]>)]>,
    /// Drops the route cache on success.
    pub clear_route_cache: bool,
    /// Cached tokens; 0 disables.
    pub cache_size: u32,
}

/// Where keys come from.
#[derive(Debug, Clone)]
pub enum Jwks {
    /// `local_jwks`
    Local(DataSource),
    /// `remote_jwks`
    Remote {
        /// URI and cluster.
        uri: HttpUri,
        /// How long keys are kept. Default 10 min.
        cache: Duration,
        /// Fetches before the first use.
        async_fetch: bool,
        /// The listener waits for the first fetch.
        fast_listener: bool,
        /// Wait after a failed fetch ahead of use. Default 1 s.
        failed_refetch: Duration,
        /// Tries after a failed one.
        retries: u32,
    },
}

/// `ExternalProcessor`.
#[derive(Debug, Clone)]
pub struct ExtProc {
    /// Service.
    pub service: GrpcService,
    /// `stat_prefix`
    pub stat_prefix: Option<Name>,
    /// Passes when the service fails.
    pub failure_mode_allow: bool,
    /// What is sent.
    pub mode: ProcessingMode,
    /// The service may change it.
    pub allow_mode_override: bool,
    /// Wait for each answer. Default 200 ms.
    pub message_timeout: Duration,
    /// Longest time the service may ask for.
    pub max_message_timeout: Duration,
    /// Only observes.
    pub observability_mode: bool,
    /// Ignores immediate responses.
    pub disable_immediate_response: bool,
    /// Request attributes sent.
    pub request_attributes: Box<[Name]>,
    /// Response attributes sent.
    pub response_attributes: Box<[Name]>,
    /// Dynamic metadata namespaces sent.
    pub forwarding_namespaces: Box<[Name]>,
    /// Dynamic metadata namespaces accepted.
    pub receiving_namespaces: Box<[Name]>,
    /// Headers sent; empty: all.
    pub allowed_headers: Box<[StringMatcher]>,
    /// Headers not sent.
    pub disallowed_headers: Box<[StringMatcher]>,
}

/// `ProcessingMode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessingMode {
    /// Sends request headers (default true).
    pub request_headers: bool,
    /// Sends response headers (default true).
    pub response_headers: bool,
    /// Request body.
    pub request_body: BodyMode,
    /// Response body.
    pub response_body: BodyMode,
    /// Sends request trailers.
    pub request_trailers: bool,
    /// Sends response trailers.
    pub response_trailers: bool,
}

/// `ProcessingMode.BodySendMode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BodyMode {
    /// NONE
    #[default]
    None,
    /// STREAMED
    Streamed,
    /// BUFFERED
    Buffered,
    /// BUFFERED_PARTIAL
    BufferedPartial,
    /// FULL_DUPLEX_STREAMED
    FullDuplexStreamed,
}

/// `ExtProcOverrides`.
#[derive(Debug, Clone)]
pub struct ExtProcPerRoute {
    /// Mode.
    pub mode: Option<ProcessingMode>,
    /// Service.
    pub service: Option<GrpcService>,
    /// Failure mode.
    pub failure_mode_allow: Option<bool>,
}
