//! Options of HTTP filters: one closed enum and a small struct each.

use std::sync::Arc;
use std::time::Duration;

use crate::Name;
use crate::common::{ConfigSource, DataSource, Fraction, GrpcService, Metadata};
use crate::filters::network::{SetFilterState, TokenBucket};
use crate::headers::HeaderOps;
use crate::match_tree::MatchTree;
use crate::matcher::{HeaderMatcher, HeaderName, StringMatcher};

mod security;
pub use security::*;

/// The HTTP filters known here.
#[derive(Debug, Clone)]
pub enum HttpFilterKind {
    /// `envoy.filters.http.router`
    Router(Arc<Router>),
    /// `envoy.filters.http.upstream_codec` (upstream chains only)
    UpstreamCodec,
    /// `envoy.filters.http.fault`
    Fault(Arc<Fault>),
    /// `envoy.filters.http.cors`
    Cors,
    /// `envoy.filters.http.rbac`
    Rbac(Arc<HttpRbac>),
    /// `envoy.filters.http.ext_authz`
    ExtAuthz(Arc<ExtAuthz>),
    /// `envoy.filters.http.jwt_authn`
    JwtAuthn(Arc<JwtAuthn>),
    /// `envoy.filters.http.ext_proc`
    ExtProc(Arc<ExtProc>),
    /// `envoy.filters.http.grpc_web`
    GrpcWeb,
    /// `envoy.filters.http.grpc_stats`
    GrpcStats(Arc<GrpcStats>),
    /// `envoy.filters.http.grpc_http1_bridge`
    GrpcHttp1Bridge {
        /// Turns `application/x-protobuf` requests into gRPC.
        upgrade_protobuf: bool,
    },
    /// `envoy.filters.http.local_ratelimit`
    LocalRateLimit(Arc<LocalRateLimit>),
    /// `envoy.filters.http.ratelimit`
    RateLimit(Arc<RateLimitService>),
    /// `envoy.filters.http.buffer`: body bytes at most
    Buffer(u32),
    /// `envoy.filters.http.compressor`
    Compressor(Arc<Compressor>),
    /// `envoy.filters.http.decompressor`
    Decompressor(Arc<Decompressor>),
    /// `envoy.filters.http.csrf`
    Csrf(Arc<Csrf>),
    /// `envoy.filters.http.header_to_metadata`
    HeaderToMetadata(Arc<HeaderToMetadata>),
    /// `envoy.filters.http.header_mutation`
    HeaderMutation(Arc<HeaderMutation>),
    /// `envoy.filters.http.set_filter_state`
    SetFilterState(Arc<SetFilterState>),
    /// `envoy.filters.http.set_metadata`: entries to merge into dynamic metadata
    SetMetadata(Arc<[SetMetadataEntry]>),
    /// `envoy.filters.http.stateful_session`
    StatefulSession(Arc<StatefulSession>),
    /// `envoy.filters.http.health_check`
    HealthCheck(Arc<HealthCheckFilter>),
    /// `envoy.filters.http.dynamic_forward_proxy`
    DynamicForwardProxy(Arc<crate::cluster::DynamicForwardProxy>),
    /// `envoy.filters.http.on_demand`
    OnDemand(Arc<OnDemand>),
    /// `envoy.filters.http.lua`
    Lua(Arc<Lua>),
    /// `istio.alpn`
    Alpn(Arc<Alpn>),
    /// `istio.metadata_exchange` (`io.istio.http.peer_metadata.Config`)
    PeerMetadata(Arc<PeerMetadata>),
    /// `istio.stats` (`stats.PluginConfig`)
    IstioStats(Arc<IstioStats>),
    /// `config_discovery`: told by extension config discovery.
    Discovered(Arc<Discovered>),
    /// `ExtensionWithMatcher` and `envoy.filters.http.composite`: chosen per request.
    Matched(Arc<Matched>),
}

/// A filter that the request's own facts choose.
#[derive(Debug, Clone)]
pub struct Matched {
    /// Which action a request leads to; `None`: none, so that `filter` runs.
    pub tree: Option<MatchTree>,
    /// What the actions are.
    pub actions: Box<[MatchAction]>,
    /// What runs when nothing matches; `None` for `composite`: nothing.
    pub filter: Option<HttpFilterKind>,
}

/// What a matcher's leaf means.
#[derive(Debug, Clone)]
pub enum MatchAction {
    /// `SkipFilter`
    Skip,
    /// `ExecuteFilterAction`, for this share of the requests
    Execute(HttpFilterKind, Fraction),
}

/// `ExtensionConfigSource`.
#[derive(Debug, Clone)]
pub struct Discovered {
    /// Who tells.
    pub source: ConfigSource,
    /// In force until then.
    pub default: Option<HttpFilterKind>,
    /// Types that may be told.
    pub type_urls: Box<[Name]>,
    /// The listener does not wait.
    pub without_warming: bool,
}

/// `Router`.
#[derive(Debug, Clone)]
pub struct Router {
    /// Per-try upstream stats (default true).
    pub dynamic_stats: bool,
    /// Starts a child span.
    pub start_child_span: bool,
    /// Upstream access logs.
    pub upstream_logs: Arc<[crate::access_log::AccessLog]>,
    /// Does not add `x-envoy-*` request and response headers.
    pub suppress_envoy_headers: bool,
    /// `x-envoy-*` headers whose values are checked.
    pub strict_check_headers: Box<[Name]>,
    /// Leaves `x-envoy-expected-rq-timeout-ms` of the request in force.
    pub respect_expected_rq_timeout: bool,
    /// gRPC failures of the whole request, not of each try, are counted.
    pub suppress_grpc_request_failure_code_stats: bool,
}

/// `HTTPFault`.
#[derive(Debug, Clone)]
pub struct Fault {
    /// Delay.
    pub delay: Option<FaultDelay>,
    /// Abort.
    pub abort: Option<FaultAbort>,
    /// Only for this upstream cluster (empty: any).
    pub upstream_cluster: Name,
    /// Only requests whose headers match.
    pub headers: Box<[HeaderMatcher]>,
    /// Only for these downstream nodes (`x-envoy-downstream-service-node`).
    pub downstream_nodes: Box<[Name]>,
    /// Active faults at most.
    pub max_active_faults: Option<u32>,
    /// Response body rate limit.
    pub response_rate_limit: Option<FaultRateLimit>,
    /// Counts per downstream cluster unless disabled.
    pub disable_downstream_cluster_stats: bool,
    /// Put in the filter's metadata when it acts.
    pub filter_metadata: Metadata,
}

/// `FaultDelay`.
#[derive(Debug, Clone, PartialEq)]
pub struct FaultDelay {
    /// Fixed, or `None`: `x-envoy-fault-delay-request` says.
    pub fixed: Option<Duration>,
    /// Share.
    pub fraction: Fraction,
}

/// `FaultAbort`.
#[derive(Debug, Clone, PartialEq)]
pub struct FaultAbort {
    /// What to answer.
    pub kind: AbortKind,
    /// Share.
    pub fraction: Fraction,
}

/// `FaultAbort.error_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbortKind {
    /// HTTP status.
    Http(u16),
    /// gRPC status.
    Grpc(u32),
    /// `x-envoy-fault-abort-request` or `x-envoy-fault-abort-grpc-request` says.
    Header,
}

/// `FaultRateLimit`.
#[derive(Debug, Clone, PartialEq)]
pub struct FaultRateLimit {
    /// KiB per second; `None`: `x-envoy-fault-throughput-response` says.
    pub limit_kbps: Option<u64>,
    /// Share.
    pub fraction: Fraction,
}

/// `grpc_stats.FilterConfig`.
#[derive(Debug, Clone)]
pub struct GrpcStats {
    /// Stores counts in filter state.
    pub emit_filter_state: bool,
    /// Counts per method: all (true), or only the listed ones.
    pub all_methods: bool,
    /// Service and methods counted individually.
    pub allowlist: Box<[(Name, Box<[Name]>)]>,
    /// Upstream time histograms.
    pub enable_upstream_stats: bool,
    /// `_` instead of `.` in names.
    pub replace_dots_in_grpc_service_name: bool,
}

/// HTTP `LocalRateLimit`.
#[derive(Debug, Clone)]
pub struct LocalRateLimit {
    /// `stat_prefix`
    pub stat_prefix: Name,
    /// Status. Default 429.
    pub status: u16,
    /// The bucket; `None`: the filter does nothing at this level.
    pub bucket: Option<TokenBucket>,
    /// `filter_enabled`
    pub enabled: Fraction,
    /// `filter_enforced`
    pub enforced: Fraction,
    /// Response headers when limited.
    pub response_headers: HeaderOps,
    /// Request headers when limited but not enforced.
    pub request_headers_when_not_enforced: HeaderOps,
    /// Buckets of descriptors: entries and bucket, in order.
    pub descriptors: Box<[LocalDescriptor]>,
    /// Stage of rate limit actions.
    pub stage: u32,
    /// A bucket per downstream connection.
    pub per_downstream_connection: bool,
    /// Sends `x-ratelimit-*` (draft 03).
    pub ratelimit_headers: bool,
    /// Virtual host rate limits: 0 override, 1 include, 2 ignore.
    pub vh_rate_limits: u8,
    /// Takes a token from the default bucket besides a descriptor's (default true).
    pub always_consume_default_token_bucket: bool,
    /// gRPC answers RESOURCE_EXHAUSTED instead of UNAVAILABLE.
    pub rate_limited_as_resource_exhausted: bool,
    /// Own rate limit actions instead of the route's.
    pub rate_limits: Box<[crate::route::RateLimit]>,
}

/// `LocalRateLimitDescriptor`.
#[derive(Debug, Clone)]
pub struct LocalDescriptor {
    /// Keys and values; an empty value is a wildcard.
    pub entries: Box<[(Name, Name)]>,
    /// Bucket.
    pub bucket: TokenBucket,
}

/// Global `RateLimit`.
#[derive(Debug, Clone)]
pub struct RateLimitService {
    /// Domain.
    pub domain: Name,
    /// Stage.
    pub stage: u32,
    /// Only `internal`, only `external`, or both.
    pub request_type: RequestType,
    /// Timeout. Default 20 ms.
    pub timeout: Duration,
    /// 500 when the service fails instead of passing.
    pub failure_mode_deny: bool,
    /// gRPC answers RESOURCE_EXHAUSTED.
    pub rate_limited_as_resource_exhausted: bool,
    /// Service.
    pub service: GrpcService,
    /// Sends `x-ratelimit-*` (draft 03).
    pub ratelimit_headers: bool,
    /// Does not add `x-envoy-ratelimited`.
    pub disable_x_envoy_ratelimited: bool,
    /// Status. Default 429.
    pub status: u16,
    /// Response headers when limited.
    pub response_headers: HeaderOps,
}

/// `RateLimit.request_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RequestType {
    /// Both.
    #[default]
    Both,
    /// Internal requests.
    Internal,
    /// External requests.
    External,
}

/// `RateLimitPerRoute`.
#[derive(Debug, Clone)]
pub struct RateLimitPerRoute {
    /// Virtual host rate limits: 0 override, 1 include, 2 ignore.
    pub vh_rate_limits: u8,
    /// Domain instead of the filter's.
    pub domain: Option<Name>,
    /// Rate limits instead of the route's.
    pub rate_limits: Box<[crate::route::RateLimit]>,
}

/// Content codings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Coding {
    /// gzip
    Gzip,
    /// br
    Brotli,
    /// zstd
    Zstd,
}

/// `Compressor`.
#[derive(Debug, Clone)]
pub struct Compressor {
    /// Coding.
    pub coding: Coding,
    /// Name of the library, as stats show it.
    pub library: Name,
    /// Stats of responses have a scope of their own.
    pub split_stats: bool,
    /// Compression level of the library; 0: its default.
    pub level: i32,
    /// Response direction on.
    pub response: bool,
    /// Request direction on.
    pub request: bool,
    /// Least body bytes. Default 30.
    pub min_content_length: u32,
    /// Media types; the default list when empty was configured has been filled in.
    pub content_types: Box<[Name]>,
    /// Least body bytes of requests.
    pub request_min_content_length: u32,
    /// Media types of requests.
    pub request_content_types: Box<[Name]>,
    /// Does not compress responses with an ETag.
    pub disable_on_etag_header: bool,
    /// Removes `accept-encoding` towards the upstream.
    pub remove_accept_encoding_header: bool,
    /// Preferred among compressors.
    pub choose_first: bool,
}

/// `CompressorPerRoute`.
#[derive(Debug, Clone)]
pub struct CompressorPerRoute {
    /// Overrides `remove_accept_encoding_header`.
    pub remove_accept_encoding_header: Option<bool>,
}

/// `Decompressor`.
#[derive(Debug, Clone)]
pub struct Decompressor {
    /// Coding.
    pub coding: Coding,
    /// Name of the library, as stats show it.
    pub library: Name,
    /// Response direction on.
    pub response: bool,
    /// Request direction on.
    pub request: bool,
    /// Adds the coding to `accept-encoding`.
    pub advertise_accept_encoding: bool,
}

/// `CsrfPolicy`.
#[derive(Debug, Clone)]
pub struct Csrf {
    /// `filter_enabled`
    pub enabled: Fraction,
    /// `shadow_enabled`
    pub shadow_enabled: Fraction,
    /// Origins accepted besides the target.
    pub additional_origins: Box<[StringMatcher]>,
}

/// `header_to_metadata.Config`.
#[derive(Debug, Clone)]
pub struct HeaderToMetadata {
    /// Request rules.
    pub request_rules: Box<[HeaderToMetadataRule]>,
    /// Response rules.
    pub response_rules: Box<[HeaderToMetadataRule]>,
}

/// `Config.Rule`.
#[derive(Debug, Clone)]
pub struct HeaderToMetadataRule {
    /// Header, or cookie when the flag is set.
    pub name: HeaderName,
    /// Reads the cookie of that name.
    pub cookie: bool,
    /// When present.
    pub on_present: Option<MetadataPair>,
    /// When missing.
    pub on_missing: Option<MetadataPair>,
    /// Removes the header after.
    pub remove: bool,
}

/// `KeyValuePair`.
#[derive(Debug, Clone)]
pub struct MetadataPair {
    /// Namespace.
    pub namespace: Name,
    /// Key.
    pub key: Name,
    /// Fixed value; `None`: the header's.
    pub value: Option<Name>,
    /// 0 string, 1 number, 2 protobuf value.
    pub value_type: u8,
    /// Decodes base64 first.
    pub base64: bool,
    /// Rewrites the header's value first.
    pub rewrite: Option<crate::matcher::RegexRewrite>,
}

/// `HeaderMutation`.
#[derive(Debug, Clone, Default)]
pub struct HeaderMutation {
    /// On requests, in order.
    pub request: Box<[Mutation]>,
    /// On responses, in order.
    pub response: Box<[Mutation]>,
    /// On response trailers.
    pub response_trailers: Box<[Mutation]>,
    /// `most_specific_header_mutations_wins`
    pub most_specific_wins: bool,
}

/// `config.common.mutation_rules.v3.HeaderMutation`.
#[derive(Debug, Clone)]
pub enum Mutation {
    /// `remove`
    Remove(HeaderName),
    /// `append`
    Add(crate::headers::HeaderAdd),
    /// `remove_on_match`
    RemoveMatching(StringMatcher),
}

/// An entry of `set_metadata`.
#[derive(Debug, Clone)]
pub struct SetMetadataEntry {
    /// Namespace.
    pub namespace: Name,
    /// A struct.
    pub value: crate::common::Value,
    /// Replaces what is there.
    pub allow_overwrite: bool,
    /// Merges into what is there (the deprecated form).
    pub merge: bool,
}

/// `StatefulSession`.
#[derive(Debug, Clone)]
pub struct StatefulSession {
    /// State carrier; `None`: nothing is done.
    pub state: Option<SessionState>,
    /// Refuses requests whose host is gone (503) instead of balancing.
    pub strict: bool,
}

/// Session state carriers.
#[derive(Debug, Clone)]
pub enum SessionState {
    /// `envoy.http.stateful_session.cookie`
    Cookie {
        /// Cookie name.
        name: Name,
        /// Path.
        path: Name,
        /// Life; zero is a session cookie.
        ttl: Duration,
        /// Further attributes.
        attributes: Box<[(Name, Name)]>,
    },
    /// `envoy.http.stateful_session.header`
    Header(HeaderName),
}

/// `health_check` filter.
#[derive(Debug, Clone)]
pub struct HealthCheckFilter {
    /// Health checks go upstream.
    pub pass_through: bool,
    /// Answers of the upstream are cached so long.
    pub cache_time: Duration,
    /// Which requests are health checks.
    pub headers: Box<[HeaderMatcher]>,
    /// Clusters and least healthy percentages.
    pub cluster_min_healthy_percentages: Box<[(Name, f64)]>,
}

/// `dynamic_forward_proxy.PerRouteConfig`.
#[derive(Debug, Clone)]
pub enum DfpPerRoute {
    /// `host_rewrite_literal`
    Literal(Name),
    /// `host_rewrite_header`
    Header(HeaderName),
}

/// `OnDemand`.
#[derive(Debug, Clone, Default)]
pub struct OnDemand {
    /// Clusters that are not there are asked for; `None`: only virtual hosts are.
    pub odcds: Option<Odcds>,
}

/// `OnDemandCds`, and `TcpProxy.OnDemand`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Odcds {
    /// Whom to ask.
    pub source: ConfigSource,
    /// Longest wait. Default 5 s for HTTP, 60 s for TCP.
    pub timeout: Duration,
}

/// `Lua`.
#[derive(Debug, Clone)]
pub struct Lua {
    /// Chain-level script.
    pub default_source: Option<DataSource>,
    /// Named scripts for per-route use.
    pub sources: Box<[(Name, DataSource)]>,
    /// `stat_prefix`
    pub stat_prefix: Name,
    /// Drops the route cache after headers were changed.
    pub clear_route_cache: bool,
}

/// `LuaPerRoute`.
#[derive(Debug, Clone)]
pub enum LuaPerRoute {
    /// Named script.
    Name(Name),
    /// Own script.
    Source(DataSource),
}

/// `istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig`.
#[derive(Debug, Clone)]
pub struct Alpn {
    /// ALPN to offer upstream, by the upstream protocol in use: HTTP/1.0, HTTP/1.1, HTTP/2.
    pub http10: Box<[Name]>,
    /// HTTP/1.1.
    pub http11: Box<[Name]>,
    /// HTTP/2.
    pub http2: Box<[Name]>,
}

/// `io.istio.http.peer_metadata.Config`.
#[derive(Debug, Clone, Default)]
pub struct PeerMetadata {
    /// How the downstream peer is found, in order.
    pub downstream_discovery: Box<[PeerDiscovery]>,
    /// How the upstream peer is found, in order.
    pub upstream_discovery: Box<[PeerDiscovery]>,
    /// Adds `x-envoy-peer-metadata` and `-id` to responses.
    pub downstream_propagation: bool,
    /// Adds them to requests.
    pub upstream_propagation: bool,
    /// Adds `baggage` to requests.
    pub upstream_baggage: bool,
    /// Leaves them out towards clusters outside the mesh.
    pub skip_external_clusters: bool,
    /// Stores the peer so that it reaches the upstream connection's filters.
    pub shared_with_upstream: bool,
    /// Labels to carry.
    pub additional_labels: Box<[Name]>,
}

/// `DiscoveryMethod`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerDiscovery {
    /// By workload discovery.
    WorkloadDiscovery,
    /// By `x-envoy-peer-metadata` headers.
    IstioHeaders,
    /// By baggage.
    Baggage,
    /// By endpoint metadata of the chosen host.
    EndpointMetadata,
}

/// `stats.PluginConfig`.
#[derive(Debug, Clone, Default)]
pub struct IstioStats {
    /// Which side reports.
    pub reporter: IstioReporter,
    /// `stat_prefix`, `istio` by default.
    pub stat_prefix: Option<Name>,
    /// Metric overrides, in order.
    pub metrics: Box<[IstioMetricOverride]>,
    /// Metrics of one's own.
    pub definitions: Box<[IstioMetricDefinition]>,
    /// Uses no host header for the destination service.
    pub disable_host_header_fallback: bool,
    /// Interval of TCP reports. Default 5 s.
    pub tcp_reporting_duration: Option<Duration>,
    /// Interval after which unused series go.
    pub rotation_interval: Option<Duration>,
    /// How long after.
    pub graceful_deletion_interval: Option<Duration>,
}

/// `stats.Reporter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IstioReporter {
    /// By the listener's direction.
    #[default]
    Unspecified,
    /// SERVER_GATEWAY
    ServerGateway,
}

/// `stats.MetricConfig`.
#[derive(Debug, Clone)]
pub struct IstioMetricOverride {
    /// Metric without prefix; empty: all.
    pub name: Name,
    /// Labels to set, with their CEL expressions.
    pub dimensions: Box<[(Name, Name)]>,
    /// Labels to drop.
    pub tags_to_remove: Box<[Name]>,
    /// Condition, CEL.
    pub match_expression: Option<Name>,
    /// Dropped.
    pub drop: bool,
}

/// `stats.MetricDefinition`.
#[derive(Debug, Clone)]
pub struct IstioMetricDefinition {
    /// Name.
    pub name: Name,
    /// Value, CEL.
    pub value: Name,
    /// 0 counter, 1 gauge, 2 histogram.
    pub kind: u8,
}
