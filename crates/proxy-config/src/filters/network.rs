//! Options of network (L4) filters.

use std::sync::Arc;
use std::time::Duration;

use crate::Name;
use crate::access_log::AccessLog;
use crate::common::{Fraction, GrpcService};
use crate::filters::http::Odcds;
use crate::format::Format;
use crate::rbac::RbacConfig;
use crate::route::{HashPolicy, SubsetMatch};

/// `TcpProxy`.
#[derive(Debug, Clone)]
pub struct TcpProxy {
    /// `stat_prefix`
    pub stat_prefix: Name,
    /// Where to.
    pub cluster: TcpCluster,
    /// Subset wanted.
    pub metadata_match: Option<SubsetMatch>,
    /// `idle_timeout`, default 1 h; `None` disables.
    pub idle_timeout: Option<Duration>,
    /// Longest life of a downstream connection.
    pub max_downstream_connection_duration: Option<Duration>,
    /// Random addition to it, percent.
    pub max_downstream_connection_duration_jitter_percent: Option<f64>,
    /// Connect tries at most. Default 1.
    pub max_connect_attempts: u32,
    /// Back-off between connect tries.
    pub backoff: Option<crate::common::Backoff>,
    /// Access logs.
    pub access_logs: Arc<[AccessLog]>,
    /// Interval of periodic entries.
    pub access_log_flush_interval: Option<Duration>,
    /// Writes an entry when connected.
    pub flush_access_log_on_connected: bool,
    /// Hash of the source address or a filter state object.
    pub hash_policy: Box<[HashPolicy]>,
    /// Tunnels through HTTP CONNECT or POST.
    pub tunneling: Option<Arc<Tunneling>>,
    /// A cluster that is not there is asked for.
    pub on_demand: Option<Odcds>,
}

/// `TcpProxy.cluster_specifier`.
#[derive(Debug, Clone)]
pub enum TcpCluster {
    /// `cluster`
    Cluster(Name),
    /// `weighted_clusters`
    Weighted {
        /// Choices: name, weight, subset wanted.
        clusters: Box<[(Name, u32, Option<SubsetMatch>)]>,
        /// Sum of weights.
        total_weight: u64,
    },
}

/// `TunnelingConfig`.
#[derive(Debug, Clone)]
pub struct Tunneling {
    /// `:authority` of the CONNECT, a format string.
    pub hostname: Format,
    /// POST instead of CONNECT.
    pub use_post: bool,
    /// Path of the POST.
    pub post_path: Name,
    /// Headers of the CONNECT.
    pub headers: Arc<crate::headers::HeaderOps>,
    /// Stores response headers in filter state.
    pub propagate_response_headers: bool,
    /// Stores response trailers in filter state.
    pub propagate_response_trailers: bool,
}

/// Network `RBAC`.
#[derive(Debug, Clone)]
pub struct NetworkRbac {
    /// Rules.
    pub config: RbacConfig,
    /// `stat_prefix`
    pub stat_prefix: Name,
    /// Evaluated at every read instead of once.
    pub continuous: bool,
    /// Wait before closing a denied connection.
    pub delay_deny: Duration,
}

/// `set_filter_state` (network and HTTP).
#[derive(Debug, Clone)]
pub struct SetFilterState {
    /// Assignments in order.
    pub values: Box<[FilterStateValue]>,
}

/// One assignment.
#[derive(Debug, Clone)]
pub struct FilterStateValue {
    /// `object_key`
    pub key: Name,
    /// `factory_key`, the key when absent.
    pub factory: Name,
    /// Value.
    pub value: Format,
    /// May not be overwritten.
    pub read_only: bool,
    /// Shared with upstream connections: 0 none, 1 once, 2 transitive.
    pub shared_with_upstream: u8,
    /// What is not there is written as nothing, not as `-`.
    pub omit_empty_values: bool,
    /// Not set when the value came out empty.
    pub skip_if_empty: bool,
}

/// Network (and listener) `LocalRateLimit`.
#[derive(Debug, Clone)]
pub struct NetworkLocalRateLimit {
    /// `stat_prefix`
    pub stat_prefix: Name,
    /// Bucket.
    pub bucket: TokenBucket,
    /// `runtime_enabled`
    pub enabled: bool,
    /// Buckets with the same key are one.
    pub share_key: Option<Name>,
}

/// `TokenBucket`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenBucket {
    /// Most tokens.
    pub max_tokens: u32,
    /// Tokens added per interval.
    pub tokens_per_fill: u32,
    /// Interval.
    pub fill_interval: Duration,
}

/// `ConnectionLimit`.
#[derive(Debug, Clone)]
pub struct ConnectionLimit {
    /// `stat_prefix`
    pub stat_prefix: Name,
    /// Most connections.
    pub max_connections: u64,
    /// Wait before closing a refused connection.
    pub delay: Duration,
    /// `runtime_enabled`
    pub enabled: bool,
}

/// Network `ExtAuthz`.
#[derive(Debug, Clone)]
pub struct NetworkExtAuthz {
    /// `stat_prefix`
    pub stat_prefix: Name,
    /// Service.
    pub service: GrpcService,
    /// Allows when the service fails.
    pub failure_mode_allow: bool,
    /// Sends the peer certificate.
    pub include_peer_certificate: bool,
    /// Sends the server name.
    pub include_tls_session: bool,
    /// Only connections whose metadata match.
    pub filter_enabled_metadata: Option<crate::matcher::MetadataMatcher>,
    /// Share of connections.
    pub enabled: Fraction,
}

/// Istio's `MetadataExchange`.
#[derive(Debug, Clone)]
pub struct MetadataExchange {
    /// ALPN that starts the exchange (`istio-peer-exchange`).
    pub protocol: Name,
    /// Discovers peers by xDS instead.
    pub enable_discovery: bool,
    /// Labels to add.
    pub additional_labels: Box<[Name]>,
}
