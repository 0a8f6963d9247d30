//! What is an upstream cluster, and which endpoints has it? Compiled `Cluster` and `ClusterLoadAssignment`.
//!
//! Run by `upstream`; balancing decisions are in `proxy-core::lb`. Rare options sit behind one `Box`/`Arc`
//! so that an idle cluster stays below a kilobyte.

mod endpoint;

use std::sync::Arc;
use std::time::Duration;

pub use endpoint::{Endpoint, EndpointHealthCheck, HealthStatus, LoadAssignment, Locality, LocalityEndpoints};

use crate::Name;
use crate::common::{ConfigSource, Metadata, Value};
use crate::hcm::{CommonHttp, Http1Options, Http2Options};
use crate::matcher::{HeaderName, StringMatcher};
use crate::tls::TlsContext;

/// A validated cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Name.
    pub name: Name,
    /// `alt_stat_name`; the name when absent.
    pub alt_stat_name: Option<Name>,
    /// How hosts are found.
    pub discovery: Discovery,
    /// Transport when nothing in `transport_matches` applies.
    pub transport: UpstreamTransport,
    /// `transport_socket_matches`, first match wins.
    pub transport_matches: Arc<[TransportMatch]>,
    /// `metadata`
    pub metadata: Metadata,
    /// What clusters of a mesh have in common.
    pub options: Arc<ClusterOptions>,
}

impl std::ops::Deref for Cluster {
    type Target = ClusterOptions;
    fn deref(&self) -> &ClusterOptions {
        &self.options
    }
}

/// The part of a cluster that many share; see [`crate::intern`].
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// How a host is picked.
    pub lb: Arc<LbConfig>,
    /// `connect_timeout`, default 5 s.
    pub connect_timeout: Duration,
    /// Buffer limit per connection, bytes. Default 1 MiB.
    pub per_connection_buffer_limit_bytes: u32,
    /// Circuit breakers; defaults when absent.
    pub circuit_breakers: Option<Arc<CircuitBreakers>>,
    /// Outlier detection.
    pub outlier_detection: Option<Arc<OutlierDetection>>,
    /// HTTP options.
    pub http: Arc<UpstreamHttp>,
    /// Active health checks.
    pub health_checks: Box<[HealthCheck]>,
    /// Source address and socket options of upstream connections.
    pub bind: Option<Arc<UpstreamBind>>,
    /// TCP keepalive.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Cluster network filters of Istio that this proxy recognises.
    pub filters: Box<[crate::listener::NetworkFilter]>,
    /// `max_requests_per_connection` (deprecated place), else `http.common`'s.
    pub max_requests_per_connection: Option<u32>,
    /// `preconnect_policy`
    pub preconnect: Option<Preconnect>,
    /// `close_connections_on_host_health_failure`
    pub close_connections_on_host_health_failure: bool,
    /// `ignore_health_on_host_removal`
    pub ignore_health_on_host_removal: bool,
    /// `connection_pool_per_downstream_connection`
    pub connection_pool_per_downstream_connection: bool,
    /// `upstream_connection_options.happy_eyeballs_config` absent means Envoy's default.
    pub set_local_interface_name: bool,
    /// `track_cluster_stats`
    pub track: TrackStats,
}

/// `TrackClusterStats`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TrackStats {
    /// Timeout budget histograms.
    pub timeout_budgets: bool,
    /// Request and response size histograms.
    pub request_response_sizes: bool,
    /// Per-endpoint stats.
    pub per_endpoint: bool,
}

/// How a cluster's hosts are found.
#[derive(Debug, Clone)]
pub enum Discovery {
    /// STATIC
    Static(Arc<LoadAssignment>),
    /// STRICT_DNS: every address of every name is a host
    StrictDns(Arc<LoadAssignment>, DnsConfig),
    /// LOGICAL_DNS: one host, the first address
    LogicalDns(Arc<LoadAssignment>, DnsConfig),
    /// EDS
    Eds {
        /// Resource name: `service_name`, else the cluster's name.
        service_name: Name,
        /// Where from.
        source: ConfigSource,
    },
    /// ORIGINAL_DST
    OriginalDst(OriginalDst),
    /// `envoy.clusters.aggregate`: the listed clusters as priorities
    Aggregate(Box<[Name]>),
    /// `envoy.clusters.dynamic_forward_proxy`
    DynamicForwardProxy(Arc<DynamicForwardProxy>),
}

/// DNS options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DnsConfig {
    /// `dns_refresh_rate`, default 5 s.
    pub refresh_rate: Duration,
    /// `respect_dns_ttl`
    pub respect_ttl: bool,
    /// `dns_lookup_family`
    pub family: DnsFamily,
    /// `dns_failure_refresh_rate` base and maximum, default the refresh rate.
    pub failure_refresh: Option<crate::common::Backoff>,
    /// `dns_jitter`
    pub jitter: Duration,
}

/// `DnsLookupFamily`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DnsFamily {
    /// IPv6 if there is any, else IPv4.
    #[default]
    Auto,
    /// IPv4 only.
    V4Only,
    /// IPv6 only.
    V6Only,
    /// IPv4 if there is any, else IPv6.
    V4Preferred,
    /// Both.
    All,
}

/// `OriginalDstLbConfig`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginalDst {
    /// Takes the address from `http_header_name` (default `x-envoy-original-dst-host`).
    pub use_http_header: bool,
    /// The header.
    pub http_header_name: HeaderName,
    /// Overrides the port.
    pub upstream_port_override: Option<u16>,
    /// Takes the address from this dynamic metadata.
    pub metadata_key: Option<(Name, Box<[Name]>)>,
    /// `cleanup_interval`, default 5 s.
    pub cleanup_interval: Duration,
}

/// `dynamic_forward_proxy` cluster and DNS cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DynamicForwardProxy {
    /// `dns_cache_config.name`
    pub cache_name: Name,
    /// DNS options.
    pub dns: DnsConfig,
    /// `host_ttl`, default 5 min.
    pub host_ttl: Duration,
    /// `max_hosts`, default 1024.
    pub max_hosts: u32,
    /// `dns_query_timeout`, default 5 s.
    pub query_timeout: Duration,
    /// Uses hosts named by the request, one sub-cluster each.
    pub sub_clusters: bool,
}

/// How a host is picked.
#[derive(Debug, Clone, PartialEq)]
pub struct LbConfig {
    /// Algorithm within a priority (and locality or subset).
    pub policy: LbPolicy,
    /// `healthy_panic_threshold`, percent. Default 50; 0 disables panic.
    pub panic_threshold_percent: f64,
    /// `fail_traffic_on_panic`
    pub fail_traffic_on_panic: bool,
    /// Locality treatment.
    pub locality: LocalityLb,
    /// Subset selection.
    pub subset: Option<Box<SubsetConfig>>,
    /// `ignore_new_hosts_until_first_hc`
    pub ignore_new_hosts_until_first_hc: bool,
    /// `close_connections_on_host_set_change`
    pub close_connections_on_host_set_change: bool,
    /// `update_merge_window`, default 1 s.
    pub update_merge_window: Duration,
    /// Hash with the host name instead of its address (consistent hashing).
    pub use_hostname_for_hashing: bool,
    /// `hash_balance_factor`: a host takes at most this percentage of the average load (consistent hashing).
    pub hash_balance_factor: Option<u32>,
    /// `override_host_status` bits accepted for a session's host; default healthy and degraded.
    pub override_host_status: HealthBits,
    /// Prefers the host that a request header or metadata names (`override_host` policy).
    pub override_host: Option<Box<OverrideHost>>,
}

impl LbConfig {
    /// Keys are placed by hash.
    pub fn is_consistent(&self) -> bool {
        matches!(self.policy, LbPolicy::RingHash { .. } | LbPolicy::Maglev { .. })
    }
}

/// A set of health states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthBits(pub u8);

impl HealthBits {
    /// UNKNOWN, HEALTHY and DEGRADED.
    pub const DEFAULT: HealthBits = HealthBits(0b10_0011);

    /// The bit of `status`.
    pub fn bit(status: HealthStatus) -> u8 {
        1 << status as u8
    }

    /// True when `status` is in the set.
    pub fn has(self, status: HealthStatus) -> bool {
        self.0 & Self::bit(status) != 0
    }
}

/// `envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost`.
#[derive(Debug, Clone, PartialEq)]
pub struct OverrideHost {
    /// Sources tried in order.
    pub sources: Box<[OverrideHostSource]>,
}

/// Where the preferred host's address comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum OverrideHostSource {
    /// Request header.
    Header(HeaderName),
    /// Dynamic metadata.
    Metadata(Name, Box<[Name]>),
}

/// Algorithms.
#[derive(Debug, Clone, PartialEq)]
pub enum LbPolicy {
    /// ROUND_ROBIN
    RoundRobin(Option<SlowStart>),
    /// LEAST_REQUEST
    LeastRequest {
        /// Hosts drawn. Default 2.
        choice_count: u32,
        /// Exponent of active requests when weights differ. Default 1.
        active_request_bias: f64,
        /// Slow start.
        slow_start: Option<SlowStart>,
        /// Looks at all hosts instead of drawing some (FULL_SCAN).
        full_scan: bool,
    },
    /// RANDOM
    Random,
    /// RING_HASH
    RingHash {
        /// Default 1024, at most 8 Mi.
        minimum_ring_size: u64,
        /// Default and maximum 8 Mi.
        maximum_ring_size: u64,
        /// Hash.
        hash: RingHashFunction,
    },
    /// MAGLEV
    Maglev {
        /// Default 65537, prime.
        table_size: u64,
    },
    /// CLUSTER_PROVIDED (original destination, dynamic forward proxy, aggregate)
    ClusterProvided,
}

/// Ring hash functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RingHashFunction {
    /// XX_HASH
    #[default]
    XxHash,
    /// MURMUR_HASH_2
    MurmurHash2,
}

/// `SlowStartConfig`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SlowStart {
    /// How long a new host is warmed.
    pub window: Duration,
    /// Curve, 1.0 is linear.
    pub aggression: f64,
    /// Least share of the weight. Default 0.10.
    pub min_weight_percent: f64,
}

/// Locality treatment.
#[derive(Debug, Clone, PartialEq)]
pub enum LocalityLb {
    /// Ignored.
    None,
    /// Zone-aware routing.
    ZoneAware {
        /// Share of requests. Default 100 %.
        routing_enabled_percent: f64,
        /// Below this many hosts: not zone aware. Default 6.
        min_cluster_size: u64,
        /// Fails instead of panicking.
        fail_traffic_on_panic: bool,
    },
    /// Locality weights of the assignment.
    Weighted,
}

/// `LbSubsetConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct SubsetConfig {
    /// When no subset matches.
    pub fallback: SubsetFallback,
    /// Metadata of the default subset, sorted by key.
    pub default_subset: crate::route::SubsetMatch,
    /// Key sets.
    pub selectors: Box<[SubsetSelector]>,
    /// `locality_weight_aware`
    pub locality_weight_aware: bool,
    /// `scale_locality_weight`
    pub scale_locality_weight: bool,
    /// `panic_mode_any`
    pub panic_mode_any: bool,
    /// `list_as_any`
    pub list_as_any: bool,
}

/// `LbSubsetFallbackPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SubsetFallback {
    /// No host.
    #[default]
    NoFallback,
    /// Any host.
    AnyEndpoint,
    /// The default subset.
    DefaultSubset,
    /// The subset that fewer keys select (selectors only).
    KeysSubset,
}

/// `LbSubsetSelector`.
#[derive(Debug, Clone, PartialEq)]
pub struct SubsetSelector {
    /// Keys, sorted.
    pub keys: Box<[Name]>,
    /// Overrides the general fallback.
    pub fallback: Option<SubsetFallback>,
    /// Keys kept by `KEYS_SUBSET`.
    pub fallback_keys: Box<[Name]>,
    /// One host per subset.
    pub single_host_per_subset: bool,
}

/// Thresholds of one priority.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thresholds {
    /// Default 1024.
    pub max_connections: u32,
    /// Default 1024.
    pub max_pending_requests: u32,
    /// Default 1024.
    pub max_requests: u32,
    /// Default 3.
    pub max_retries: u32,
    /// Replaces `max_retries`.
    pub retry_budget: Option<RetryBudget>,
    /// Publishes `remaining_*` gauges.
    pub track_remaining: bool,
    /// Default unlimited.
    pub max_connection_pools: u32,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_pending_requests: 1024,
            max_requests: 1024,
            max_retries: 3,
            retry_budget: None,
            track_remaining: false,
            max_connection_pools: u32::MAX,
        }
    }
}

/// `RetryBudget`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryBudget {
    /// Percent of active and pending requests. Default 20.
    pub budget_percent: f64,
    /// Default 3.
    pub min_retry_concurrency: u32,
}

/// `CircuitBreakers`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct CircuitBreakers {
    /// DEFAULT priority.
    pub default: Thresholds,
    /// HIGH priority.
    pub high: Thresholds,
    /// `per_host_thresholds` max_connections of DEFAULT priority.
    pub per_host_max_connections: Option<u32>,
}

impl CircuitBreakers {
    /// The thresholds of `priority`.
    pub fn of(&self, priority: crate::route::Priority) -> &Thresholds {
        match priority {
            crate::route::Priority::Default => &self.default,
            crate::route::Priority::High => &self.high,
        }
    }
}

/// `OutlierDetection`, all defaults filled in. Percentages 0-100.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutlierDetection {
    /// Default 5.
    pub consecutive_5xx: u32,
    /// Default 10 s.
    pub interval: Duration,
    /// Default 30 s.
    pub base_ejection_time: Duration,
    /// Default 300 s (or the base when larger).
    pub max_ejection_time: Duration,
    /// Default 0.
    pub max_ejection_time_jitter: Duration,
    /// Default 10.
    pub max_ejection_percent: u32,
    /// `always_eject_one_host`
    pub always_eject_one_host: bool,
    /// Default 100.
    pub enforcing_consecutive_5xx: u32,
    /// Default 5.
    pub consecutive_gateway_failure: u32,
    /// Default 0.
    pub enforcing_consecutive_gateway_failure: u32,
    /// Default false.
    pub split_external_local_origin_errors: bool,
    /// Default 5.
    pub consecutive_local_origin_failure: u32,
    /// Default 100.
    pub enforcing_consecutive_local_origin_failure: u32,
    /// Default 100.
    pub enforcing_success_rate: u32,
    /// Default 100.
    pub enforcing_local_origin_success_rate: u32,
    /// Default 5.
    pub success_rate_minimum_hosts: u32,
    /// Default 100.
    pub success_rate_request_volume: u32,
    /// Thousandths of a standard deviation. Default 1900.
    pub success_rate_stdev_factor: u32,
    /// Default 85.
    pub failure_percentage_threshold: u32,
    /// Default 0.
    pub enforcing_failure_percentage: u32,
    /// Default 0.
    pub enforcing_failure_percentage_local_origin: u32,
    /// Default 5.
    pub failure_percentage_minimum_hosts: u32,
    /// Default 50.
    pub failure_percentage_request_volume: u32,
    /// `successful_active_health_check_uneject_host`, default true.
    pub successful_active_health_check_uneject_host: bool,
}

impl Default for OutlierDetection {
    fn default() -> Self {
        Self {
            consecutive_5xx: 5,
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            max_ejection_time_jitter: Duration::ZERO,
            max_ejection_percent: 10,
            always_eject_one_host: false,
            enforcing_consecutive_5xx: 100,
            consecutive_gateway_failure: 5,
            enforcing_consecutive_gateway_failure: 0,
            split_external_local_origin_errors: false,
            consecutive_local_origin_failure: 5,
            enforcing_consecutive_local_origin_failure: 100,
            enforcing_success_rate: 100,
            enforcing_local_origin_success_rate: 100,
            success_rate_minimum_hosts: 5,
            success_rate_request_volume: 100,
            success_rate_stdev_factor: 1900,
            failure_percentage_threshold: 85,
            enforcing_failure_percentage: 0,
            enforcing_failure_percentage_local_origin: 0,
            failure_percentage_minimum_hosts: 5,
            failure_percentage_request_volume: 50,
            successful_active_health_check_uneject_host: true,
        }
    }
}

/// Upstream transport sockets.
#[derive(Debug, Clone)]
pub enum UpstreamTransport {
    /// `envoy.transport_sockets.raw_buffer`
    Raw,
    /// `envoy.transport_sockets.tls`
    Tls(Arc<TlsContext>),
    /// `envoy.transport_sockets.upstream_proxy_protocol`
    ProxyProtocol {
        /// 1 or 2.
        version: u8,
        /// What follows the header.
        inner: Box<UpstreamTransport>,
    },
    /// `envoy.transport_sockets.internal_upstream`
    InternalUpstream {
        /// Metadata passed through to the internal listener: kind and namespace.
        passthrough: Box<[(crate::format::MetadataKind, Name)]>,
        /// What runs over it.
        inner: Box<UpstreamTransport>,
    },
}

/// `TransportSocketMatch`.
#[derive(Debug, Clone)]
pub struct TransportMatch {
    /// Name, for stats.
    pub name: Name,
    /// Keys and values that the endpoint's `envoy.transport_socket_match` metadata must have; empty matches all.
    pub criteria: Box<[(Name, Value)]>,
    /// The transport.
    pub transport: UpstreamTransport,
}

impl Cluster {
    /// The transport for an endpoint with this metadata (endpoint's own first, then its locality's).
    pub fn transport_for(&self, endpoint: &Metadata, locality: &Metadata) -> &UpstreamTransport {
        let holds = |m: &Metadata, t: &TransportMatch| {
            t.criteria.iter().all(|(k, v)| m.get("envoy.transport_socket_match", &[k]) == Some(v))
        };
        self.transport_matches
            .iter()
            .find(|t| t.criteria.is_empty() || holds(endpoint, t) || holds(locality, t))
            .map_or(&self.transport, |t| &t.transport)
    }
}

/// HTTP side of a cluster.
#[derive(Debug, Clone)]
pub struct UpstreamHttp {
    /// Protocol.
    pub protocol: UpstreamProtocol,
    /// Common options (idle timeout apart).
    pub common: CommonHttp,
    /// `common_http_protocol_options.idle_timeout`, default 1 h; `None` disables.
    pub idle_timeout: Option<Duration>,
    /// HTTP/1 options.
    pub http1: Http1Options,
    /// HTTP/2 options.
    pub http2: Http2Options,
    /// `upstream_http_protocol_options.auto_sni`
    pub auto_sni: bool,
    /// `auto_san_validation`
    pub auto_san_validation: bool,
    /// `override_auto_sni_header`
    pub override_auto_sni_header: Option<HeaderName>,
    /// Responses that outlier detection counts as errors although their status is none
    /// (`outlier_detection.error_matcher`).
    pub outlier_error_matcher: Option<Arc<crate::matcher::MatchPredicate>>,
    /// Upstream HTTP filters (before the codec), empty for the codec alone.
    pub filters: Arc<[crate::hcm::HttpFilter]>,
}

/// Upstream protocol selection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UpstreamProtocol {
    /// HTTP/1.1
    #[default]
    Http1,
    /// HTTP/2
    Http2,
    /// `auto_config`: by ALPN
    Auto,
    /// `use_downstream_protocol_config`
    UseDownstream,
}

/// `HealthCheck`.
#[derive(Debug, Clone)]
pub struct HealthCheck {
    /// Probe timeout.
    pub timeout: Duration,
    /// Interval.
    pub interval: Duration,
    /// First delay at random up to this.
    pub initial_jitter: Duration,
    /// Random addition to the interval.
    pub interval_jitter: Duration,
    /// The same as a share of the interval.
    pub interval_jitter_percent: u32,
    /// Failures until unhealthy.
    pub unhealthy_threshold: u32,
    /// Successes until healthy.
    pub healthy_threshold: u32,
    /// Interval while no traffic was sent. Default 60 s.
    pub no_traffic_interval: Duration,
    /// The same for a healthy host; `no_traffic_interval` when absent.
    pub no_traffic_healthy_interval: Option<Duration>,
    /// Interval while unhealthy.
    pub unhealthy_interval: Option<Duration>,
    /// Interval just after turning unhealthy.
    pub unhealthy_edge_interval: Option<Duration>,
    /// Interval just after turning healthy.
    pub healthy_edge_interval: Option<Duration>,
    /// Keeps connections between probes (default true).
    pub reuse_connection: bool,
    /// Probe.
    pub probe: HealthProbe,
    /// Probe's TLS ALPN.
    pub alpn: Box<[Box<[u8]>]>,
    /// `alt_port`: probes go here instead of the endpoint's port.
    pub alt_port: Option<u16>,
    /// `transport_socket_match_criteria`: the probe's transport is matched with these instead of the host's metadata.
    pub transport_match: Option<Metadata>,
    /// Files that events are written to.
    pub event_logs: Box<[Name]>,
    /// `always_log_health_check_failures`
    pub log_failures: bool,
    /// `always_log_health_check_success`
    pub log_successes: bool,
}

/// Health check kinds.
#[derive(Debug, Clone)]
pub enum HealthProbe {
    /// `http_health_check`
    Http {
        /// Authority; the cluster's name when absent.
        host: Option<Name>,
        /// Path.
        path: Name,
        /// Method, `GET` by default.
        method: Name,
        /// Statuses that count as healthy, `[start, end)`; default 200.
        expected: Box<[(u16, u16)]>,
        /// Statuses that count against the threshold instead of failing at once, `[start, end)`.
        retriable: Box<[(u16, u16)]>,
        /// Looked for in the body, in order.
        receive: Box<[Arc<[u8]>]>,
        /// Bytes of the body that are looked at; 0: all that come.
        response_buffer_bytes: u64,
        /// Sent as the body.
        send: Arc<[u8]>,
        /// Expected `x-envoy-upstream-healthchecked-cluster`.
        service_name: Option<StringMatcher>,
        /// Speaks HTTP/2.
        http2: bool,
        /// Headers to add.
        headers: Arc<crate::headers::HeaderOps>,
    },
    /// `tcp_health_check`: bytes to send, and bytes to find in order
    Tcp {
        /// Sent after connecting.
        send: Arc<[u8]>,
        /// Looked for in the answer, in order.
        receive: Box<[Arc<[u8]>]>,
    },
    /// `grpc_health_check`
    Grpc {
        /// Service.
        service: Name,
        /// Authority; the cluster's name when absent.
        authority: Option<Name>,
        /// `initial_metadata`
        metadata: Arc<crate::headers::HeaderOps>,
    },
}

/// `upstream_bind_config`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamBind {
    /// Source addresses; one per family is used.
    pub sources: Box<[std::net::SocketAddr]>,
    /// IP_FREEBIND.
    pub freebind: bool,
    /// Integer socket options: level, name, value.
    pub socket_options: Box<[(i64, i64, i64)]>,
}

/// `TcpKeepalive`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpKeepalive {
    /// Probes.
    pub probes: Option<u32>,
    /// Seconds of idleness before the first probe.
    pub time_s: Option<u32>,
    /// Seconds between probes.
    pub interval_s: Option<u32>,
}

/// `PreconnectPolicy`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preconnect {
    /// Per host, 1.0 to 3.0.
    pub per_upstream_ratio: f64,
    /// Over the cluster.
    pub predictive_ratio: f64,
}
