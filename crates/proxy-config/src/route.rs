//! What does a route table look like once compiled? Virtual hosts, routes, and all that a route may ask for.
//!
//! Follows `envoy.config.route.v3`. Matching is `proxy-core::route`; execution is `l7::router`. Levels that Envoy
//! resolves per request (header operations, per-filter configuration, retry and hedge policies) are resolved here once.

use std::any::Any;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::Name;
use crate::common::{ConfigSource, Fraction, Metadata, Value};
use crate::filters::PerFilter;
use crate::format::{Format, SubstitutionFormat};
use crate::headers::HeaderChain;
use crate::matcher::{
    CidrSet, CookieMatcher, FullRegex, HeaderMatcher, HeaderName, MetadataMatcher, QueryMatcher, RegexRewrite,
    StringMatcher,
};
use crate::vhost::DomainIndex;

mod rate_limit;
mod retry;
pub use rate_limit::{RateLimit, RateLimitAction};
pub use retry::{HedgePolicy, HostPredicate, RateLimitedBackoff, ResetHeader, RetryOn, RetryPolicy};

/// `RouteConfiguration`.
#[derive(Debug, Clone, Default)]
pub struct RouteTable {
    /// Name (the RDS resource name).
    pub name: DefaultName,
    /// Domain to index into `virtual_hosts`.
    pub domains: DomainIndex,
    /// Virtual hosts in configured order, then those told one by one.
    pub virtual_hosts: Box<[Arc<VirtualHost>]>,
    /// Lower-case names of headers that are removed from requests of external clients (`internal_only_headers`).
    pub internal_only_headers: Box<[HeaderName]>,
    /// `validate_clusters`: the caller checks that clusters exist (default: true inline, false over RDS).
    pub validate_clusters: Option<bool>,
    /// Strips `:port` from the authority before the lookup.
    pub ignore_port_in_host_matching: bool,
    /// Ignores `;params` of the path when matching.
    pub ignore_path_parameters_in_path_matching: bool,
    /// Largest direct response body, bytes.
    pub max_direct_response_body_bytes: u32,
    /// Response header operations when no route matched (`RouteConfiguration` level only).
    pub response_headers: HeaderChain,
    /// Where virtual hosts that are not here are asked for (VHDS).
    pub vhds: Option<ConfigSource>,
    /// `metadata`
    pub metadata: Metadata,
}

impl RouteTable {
    /// This table with more virtual hosts (VHDS), each with its domains. Errors: a domain that is there already.
    pub fn with_hosts<'a>(
        &self,
        more: impl Iterator<Item = (&'a [String], &'a Arc<VirtualHost>)>,
    ) -> Result<RouteTable, crate::ConfigError> {
        let mut table = self.clone();
        let mut hosts = std::mem::take(&mut table.virtual_hosts).into_vec();
        for (domains, host) in more {
            for domain in domains {
                table.domains.insert(domain, hosts.len() as u32)?;
            }
            hosts.push(host.clone());
        }
        table.virtual_hosts = hosts.into();
        Ok(table)
    }
}

/// Newtype so that route tables can be `Default`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DefaultName(pub Name);

impl Default for DefaultName {
    fn default() -> Self {
        Self("".into())
    }
}

impl std::ops::Deref for DefaultName {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

/// `VirtualHost`.
#[derive(Debug, Clone)]
pub struct VirtualHost {
    /// Name, for stats and logs.
    pub name: Name,
    /// Routes in order; the first that matches wins.
    pub routes: Box<[Route]>,
    /// How the paths of the routes begin, in their order; empty where there are too few routes for it to pay.
    pub beginnings: Box<[Beginning]>,
    /// Distinct header names that the routes of this host test; [`RouteHeaderMatch::slot`] indexes it, so that
    /// each is looked up at most once per request.
    pub header_slots: Box<[HeaderName]>,
    /// `require_tls`
    pub require_tls: RequireTls,
    /// `virtual_clusters`
    pub virtual_clusters: Box<[VirtualCluster]>,
    /// `rate_limits`
    pub rate_limits: Arc<[RateLimit]>,
    /// Sends `x-envoy-attempt-count` upstream.
    pub include_request_attempt_count: bool,
    /// Sends `x-envoy-attempt-count` downstream.
    pub include_attempt_count_in_response: bool,
    /// Sends `x-envoy-is-timeout-retry` upstream.
    pub include_is_timeout_retry_header: bool,
    /// Per-filter configuration of this host over the table's, for requests that match no route.
    pub per_filter: PerFilter,
    /// Response header operations when no route matched (host and table levels).
    pub response_headers: HeaderChain,
    /// `metadata`
    pub metadata: Metadata,
}

/// The first bytes of the paths that a route can match: tells for most routes of a long list that they cannot, without
/// looking at them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beginning {
    word: u64,
    mask: u64,
}

impl Beginning {
    /// Of a route.
    pub fn of(path: &PathMatch) -> Self {
        let text: &[u8] = match path {
            PathMatch::Prefix(p) | PathMatch::Exact(p) | PathMatch::Separated(p) => p.as_bytes(),
            _ => b"",
        };
        // A zero byte would look like the end of a shorter path.
        let known = text.iter().take(8).take_while(|&&b| b != 0).count();
        let mask = if known == 8 { u64::MAX } else { (1 << (8 * known)) - 1 };
        Beginning { word: Self::word(&text[..known]), mask }
    }

    /// The first bytes of a path, to be asked about.
    #[inline]
    pub fn word(path: &[u8]) -> u64 {
        match path.first_chunk() {
            Some(first) => u64::from_le_bytes(*first),
            None => path.iter().rev().fold(0, |word, &b| word << 8 | u64::from(b)),
        }
    }

    /// Whether a path that begins so may match. False is certain.
    #[inline]
    pub fn may_match(self, word: u64) -> bool {
        (word ^ self.word) & self.mask == 0
    }
}

/// `VirtualHost.TlsRequirementType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RequireTls {
    /// None.
    #[default]
    None,
    /// Requests from outside are redirected (301) to https.
    ExternalOnly,
    /// All requests are redirected to https.
    All,
}

/// `VirtualCluster`: a stat name for requests whose headers match.
#[derive(Debug, Clone)]
pub struct VirtualCluster {
    /// Stat name.
    pub name: Name,
    /// Tests, all of which must hold.
    pub headers: Box<[HeaderMatcher]>,
    /// The last of a host that has any: requests that are in no other. It has no name in logs.
    pub catch_all: bool,
    /// Its stats.
    pub kept: Kept,
}

/// Where whoever serves a table keeps something of its own with a part of it. Set once, read without a lock.
#[derive(Clone, Default)]
pub struct Kept(OnceLock<Arc<dyn Any + Send + Sync>>);

impl Kept {
    /// What is kept, if it is of this type.
    pub fn get<T: 'static>(&self) -> Option<&T> {
        self.0.get()?.downcast_ref()
    }

    /// Keeps it, unless something is kept already.
    pub fn set(&self, value: impl Any + Send + Sync) {
        let _ = self.0.set(Arc::new(value));
    }
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.get().is_some() { "Kept(..)" } else { "Kept()" })
    }
}

/// `Route`.
#[derive(Debug, Clone)]
pub struct Route {
    /// Name; empty when absent.
    pub name: Name,
    /// When it applies.
    pub matcher: RouteMatch,
    /// What it does.
    pub action: RouteAction,
    /// Request header operations of all levels, in evaluation order (without weighted cluster's own).
    pub request_headers: HeaderChain,
    /// Response header operations of all levels.
    pub response_headers: HeaderChain,
    /// Per-filter configuration, resolved over table, virtual host and route.
    pub per_filter: PerFilter,
    /// `metadata`
    pub metadata: Metadata,
    /// Tracing operation.
    pub decorator: Option<Box<Decorator>>,
    /// `tracing`
    pub tracing: Option<Box<crate::tracing::RouteTracing>>,
    /// `stat_prefix`: extra per-route stats.
    pub stat_prefix: Option<Name>,
    /// Body bytes buffered for retries and mirrors at most (route, else virtual host; `None`: the listener's limit).
    pub request_body_buffer_limit: Option<u64>,
}

/// `Decorator`.
#[derive(Debug, Clone)]
pub struct Decorator {
    /// Operation name of the span.
    pub operation: Name,
    /// Sends `x-envoy-decorator-operation`.
    pub propagate: bool,
}

/// `RouteMatch`; every part must hold.
#[derive(Debug, Clone)]
pub struct RouteMatch {
    /// The path.
    pub path: PathMatch,
    /// Headers.
    pub headers: Box<[RouteHeaderMatch]>,
    /// Query parameters.
    pub query: Box<[QueryMatcher]>,
    /// Cookies.
    pub cookies: Box<[CookieMatcher]>,
    /// Only `application/grpc` requests.
    pub grpc: bool,
    /// Share of requests.
    pub fraction: Option<Fraction>,
    /// Client certificate conditions.
    pub tls: Option<TlsMatch>,
    /// Dynamic metadata (JWT claims, for instance).
    pub dynamic_metadata: Box<[MetadataMatcher]>,
}

/// A header test with its lookup slot, see [`VirtualHost::header_slots`].
#[derive(Debug, Clone)]
pub struct RouteHeaderMatch {
    /// Index into the virtual host's `header_slots`.
    pub slot: u16,
    /// The test.
    pub matcher: HeaderMatcher,
}

/// `RouteMatch.TlsContextMatchOptions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TlsMatch {
    /// A certificate was (true) or was not presented.
    pub presented: Option<bool>,
    /// It was (true) or was not validated.
    pub validated: Option<bool>,
}

/// `RouteMatch.path_specifier`. Query strings are not part of the path. `*NoCase` patterns are lower case.
#[derive(Debug, Clone)]
pub enum PathMatch {
    /// `prefix: "/"`: every path except that of CONNECT.
    Any,
    /// `prefix`
    Prefix(Box<str>),
    /// `prefix`, `case_sensitive: false`
    PrefixNoCase(Box<str>),
    /// `path`
    Exact(Box<str>),
    /// `path`, `case_sensitive: false`
    ExactNoCase(Box<str>),
    /// `path_separated_prefix`: equal, or followed by `/`
    Separated(Box<str>),
    /// `path_separated_prefix`, `case_sensitive: false`
    SeparatedNoCase(Box<str>),
    /// `safe_regex`, whole path
    Regex(FullRegex),
    /// `connect_matcher`: CONNECT and extended CONNECT
    Connect,
    /// `envoy.path.match.uri_template.uri_template_matcher`
    Template(Box<UriTemplate>),
}

/// A compiled URI template: segments such as `/api/{version}/*/**`.
#[derive(Debug, Clone)]
pub struct UriTemplate {
    /// The template as configured.
    pub text: Name,
    /// Equivalent expression with a named group per variable.
    pub regex: regex::bytes::Regex,
}

/// `Route.action`.
#[derive(Debug, Clone)]
pub enum RouteAction {
    /// `route`
    Forward(Box<Forward>),
    /// `redirect`
    Redirect(Box<Redirect>),
    /// `direct_response`
    Direct(Box<DirectResponse>),
    /// `non_forwarding_action`: the filters answer, else 404
    NonForwarding,
}

/// `RedirectAction`.
#[derive(Debug, Clone)]
pub struct Redirect {
    /// Scheme to redirect to.
    pub scheme: Option<SchemeRedirect>,
    /// `host_redirect`
    pub host: Option<Box<str>>,
    /// `port_redirect`
    pub port: Option<u16>,
    /// Path part.
    pub path: RedirectPath,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// Drops the query.
    pub strip_query: bool,
}

/// `RedirectAction.scheme_rewrite_specifier`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SchemeRedirect {
    /// `https_redirect`
    Https,
    /// `scheme_redirect`, lower case
    Scheme(Box<str>),
}

/// `RedirectAction.path_rewrite_specifier`.
#[derive(Debug, Clone)]
pub enum RedirectPath {
    /// Path kept.
    Keep,
    /// `path_redirect`; a `?` in it replaces the query too.
    Replace(Box<str>),
    /// `prefix_rewrite`
    Prefix(Box<str>),
    /// `regex_rewrite`
    Regex(RegexRewrite),
}

/// `DirectResponseAction`.
#[derive(Debug, Clone)]
pub struct DirectResponse {
    /// Status.
    pub status: u16,
    /// Body bytes.
    pub body: Arc<[u8]>,
    /// `body_format`: overrides `body` as a local-reply style format.
    pub body_format: Option<Box<SubstitutionFormat>>,
}

/// `RouteAction`.
#[derive(Debug, Clone)]
pub struct Forward {
    /// Where to.
    pub cluster: ClusterSpecifier,
    /// All else; routes of a table that differ in nothing of it share it.
    pub options: Arc<ForwardOptions>,
}

impl std::ops::Deref for Forward {
    type Target = ForwardOptions;
    fn deref(&self) -> &ForwardOptions {
        &self.options
    }
}

/// `RouteAction` but for the cluster.
#[derive(Debug, Clone)]
pub struct ForwardOptions {
    /// Status when the cluster does not exist: 503 (default), 404 or 500.
    pub cluster_not_found_status: u16,
    /// Subset wanted, sorted by key (`metadata_match` of `envoy.lb`).
    pub metadata_match: Option<SubsetMatch>,
    /// Path rewrite.
    pub path_rewrite: PathRewrite,
    /// Authority rewrite.
    pub host_rewrite: HostRewrite,
    /// Appends the old authority to `x-forwarded-host`.
    pub append_x_forwarded_host: bool,
    /// Whole-response timeout; `None` means none. Default 15 s.
    pub timeout: Option<Duration>,
    /// Stream idle timeout: `None` leaves the HCM's in force, `Some(0)` disables it.
    pub idle_timeout: Option<Duration>,
    /// `flush_timeout`
    pub flush_timeout: Option<Duration>,
    /// Retry policy (route's own, else the virtual host's).
    pub retry: Option<Arc<RetryPolicy>>,
    /// Hedge policy (route's own, else the virtual host's).
    pub hedge: Option<HedgePolicy>,
    /// Copies sent elsewhere.
    pub mirrors: Box<[Mirror]>,
    /// Priority of connection pools and circuit breakers.
    pub priority: Priority,
    /// Rate limit actions of the route.
    pub rate_limits: Arc<[RateLimit]>,
    /// Applies the virtual host's rate limits too.
    pub include_vh_rate_limits: bool,
    /// Hash of ring hash, maglev and the like.
    pub hash_policy: Box<[HashPolicy]>,
    /// Limits from `max_stream_duration` and the deprecated `max_grpc_timeout`.
    pub max_stream_duration: MaxStreamDuration,
    /// Upgrades allowed here over the HCM's.
    pub upgrades: Box<[UpgradeConfig]>,
    /// `internal_redirect_policy`
    pub internal_redirect: Option<Box<InternalRedirect>>,
}

/// `RouteAction.cluster_specifier`.
#[derive(Debug, Clone)]
pub enum ClusterSpecifier {
    /// `cluster`
    Cluster(Name),
    /// `weighted_clusters`
    Weighted(Box<WeightedClusters>),
    /// `cluster_header`: the request header names the cluster
    Header(HeaderName),
}

/// `WeightedCluster`.
#[derive(Debug, Clone)]
pub struct WeightedClusters {
    /// The choices.
    pub clusters: Box<[WeightedCluster]>,
    /// Sum of weights, at least 1.
    pub total_weight: u64,
    /// A header whose decimal value replaces the random draw.
    pub random_value_header: Option<HeaderName>,
    /// Draws by the route's hash policy instead of at random.
    pub use_hash_policy: bool,
}

/// `WeightedCluster.ClusterWeight`.
#[derive(Debug, Clone)]
pub struct WeightedCluster {
    /// Cluster name, or the header that names it.
    pub cluster: ClusterSpecifier,
    /// Weight; zero is never drawn.
    pub weight: u32,
    /// Subset wanted, merged over the route's.
    pub metadata_match: Option<SubsetMatch>,
    /// Request header operations of **all** levels including this one; replaces the route's chain.
    pub request_headers: HeaderChain,
    /// Response header operations of all levels including this one; replaces the route's chain.
    pub response_headers: HeaderChain,
    /// Per-filter configuration of all levels including this one; replaces the route's.
    pub per_filter: PerFilter,
    /// Authority rewrite that replaces the route's.
    pub host_rewrite: Option<Name>,
}

/// Keys and values that a host's `envoy.lb` metadata must have, sorted by key.
pub type SubsetMatch = Arc<[(Name, Value)]>;

/// Path rewrite of a forwarding route.
#[derive(Debug, Clone)]
pub enum PathRewrite {
    /// None.
    None,
    /// `prefix_rewrite`: replaces what the path matcher matched.
    Prefix(Box<str>),
    /// `regex_rewrite` on the path without query.
    Regex(Box<RegexRewrite>),
    /// `path_rewrite`: a format string that yields the new path.
    Format(Box<Format>),
    /// `envoy.path.rewrite.uri_template.uri_template_rewriter`, `{name}` parts.
    Template(Box<[TemplatePart]>),
}

/// A part of a URI template rewrite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplatePart {
    /// Text.
    Text(Box<str>),
    /// The named variable's match.
    Var(Box<str>),
}

/// Authority rewrite.
#[derive(Debug, Clone)]
pub enum HostRewrite {
    /// None.
    None,
    /// `host_rewrite_literal`
    Literal(Name),
    /// `auto_host_rewrite`: the chosen host's DNS name
    Auto,
    /// `host_rewrite_header`
    Header(HeaderName),
    /// `host_rewrite_path_regex`: applied to the path without query
    PathRegex(Box<RegexRewrite>),
    /// `host_rewrite`: a format string
    Format(Box<Format>),
}

/// `RoutingPriority`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Priority {
    /// DEFAULT
    #[default]
    Default,
    /// HIGH
    High,
}

/// `RouteAction.RequestMirrorPolicy`.
#[derive(Debug, Clone)]
pub struct Mirror {
    /// Where the copy goes ([`ClusterSpecifier::Cluster`] or `Header`).
    pub cluster: ClusterSpecifier,
    /// Share of requests.
    pub fraction: Fraction,
    /// Samples with the trace when set.
    pub trace_sampled: Option<bool>,
    /// Does not add `-shadow` to the authority.
    pub disable_shadow_host_suffix: bool,
    /// Header operations on the copy.
    pub request_headers: HeaderChain,
    /// Authority of the copy.
    pub host_rewrite: Option<Name>,
}

/// `RouteAction.HashPolicy`.
#[derive(Debug, Clone)]
pub struct HashPolicy {
    /// What is hashed.
    pub kind: HashPolicyKind,
    /// Stops when this policy yielded a hash.
    pub terminal: bool,
}

/// `HashPolicy.policy_specifier`.
#[derive(Debug, Clone)]
pub enum HashPolicyKind {
    /// Header value (all values sorted), after an optional rewrite.
    Header {
        /// Name.
        name: HeaderName,
        /// Rewrite before hashing.
        rewrite: Option<Box<RegexRewrite>>,
    },
    /// Cookie value; generated when `ttl` is set and the cookie is absent.
    Cookie {
        /// Name.
        name: Name,
        /// Life of a generated cookie; zero is a session cookie.
        ttl: Option<Duration>,
        /// Path of a generated cookie.
        path: Name,
        /// Further attributes of a generated cookie.
        attributes: Box<[(Name, Name)]>,
    },
    /// Client address.
    SourceIp,
    /// Query parameter (first value).
    QueryParameter(Name),
    /// Filter state object that knows how to hash itself.
    FilterState(Name),
}

/// `RouteAction.UpgradeConfig` and the HCM's.
#[derive(Debug, Clone)]
pub struct UpgradeConfig {
    /// Upgrade type, lower case (`websocket`, `connect`).
    pub upgrade_type: Name,
    /// Allowed.
    pub enabled: bool,
    /// CONNECT is terminated here and its payload forwarded as TCP (`connect_config`).
    pub connect: Option<ConnectConfig>,
    /// The HTTP filters for upgraded streams (HCM only); `None`: the normal ones.
    pub filters: Option<Arc<[crate::hcm::HttpFilter]>>,
}

/// `UpgradeConfig.ConnectConfig`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConnectConfig {
    /// Sends a PROXY protocol header first: version 1 or 2.
    pub proxy_protocol: Option<u8>,
    /// POST is terminated as CONNECT too.
    pub allow_post: bool,
}

/// `InternalRedirectPolicy`.
#[derive(Debug, Clone)]
pub struct InternalRedirect {
    /// Redirects followed at most. Default 1.
    pub max_internal_redirects: u32,
    /// Response statuses that are followed (default 302).
    pub response_codes: Box<[u16]>,
    /// Follows from https to http and back.
    pub allow_cross_scheme_redirect: bool,
    /// Response headers copied to the new request.
    pub response_headers_to_copy: Box<[HeaderName]>,
}

/// `RouteAction.MaxStreamDuration`. Absent fields inherit from the HCM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MaxStreamDuration {
    /// Zero disables the HCM's limit.
    pub max_stream_duration: Option<Duration>,
    /// Honour `grpc-timeout` up to this (zero: without bound).
    pub grpc_timeout_header_max: Option<Duration>,
    /// Subtracted from `grpc-timeout`.
    pub grpc_timeout_header_offset: Option<Duration>,
    /// Deprecated `max_grpc_timeout` in the route: as above, replacing `timeout`.
    pub max_grpc_timeout: Option<Duration>,
    /// Deprecated `grpc_timeout_offset`.
    pub grpc_timeout_offset: Option<Duration>,
}

/// `CorsPolicy`, compiled and merged over levels.
#[derive(Debug, Clone)]
pub struct CorsPolicy {
    /// Origins allowed.
    pub allow_origin: Box<[StringMatcher]>,
    /// `access-control-allow-methods`
    pub allow_methods: Name,
    /// `access-control-allow-headers`
    pub allow_headers: Name,
    /// `access-control-expose-headers`
    pub expose_headers: Name,
    /// `access-control-max-age`
    pub max_age: Name,
    /// `access-control-allow-credentials`
    pub allow_credentials: bool,
    /// `allow_private_network_access`
    pub allow_private_network_access: bool,
    /// Preflights that do not match go upstream (default true).
    pub forward_not_matching_preflights: bool,
    /// `filter_enabled`
    pub enabled: Fraction,
    /// `shadow_enabled`
    pub shadow_enabled: Fraction,
}

/// Networks counted as internal, `HttpConnectionManager.InternalAddressConfig`.
#[derive(Debug, Clone, Default)]
pub struct InternalAddressConfig {
    /// Unix sockets count as internal.
    pub unix_sockets: bool,
    /// Networks; `None` means RFC 1918 and loopback of older Envoys, empty means none.
    pub cidrs: CidrSet,
}
