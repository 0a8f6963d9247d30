//! How does a proxy start? The compiled `envoy.config.bootstrap.v3.Bootstrap`.
//!
//! Read once by the `proxy` crate.

use std::sync::Arc;
use std::time::Duration;

use crate::Name;
use crate::access_log::AccessLog;
use crate::cluster::Cluster;
use crate::common::{Address, ConfigSource, Value};
use crate::listener::Listener;
use crate::matcher::StringMatcher;
use crate::tls::Secret;
use crate::tracing::TraceProvider;

/// A validated bootstrap.
#[derive(Debug, Clone)]
pub struct Bootstrap {
    /// Node identity.
    pub node: Node,
    /// Admin interface.
    pub admin: Option<Admin>,
    /// Static listeners.
    pub listeners: Vec<Arc<Listener>>,
    /// Static clusters.
    pub clusters: Vec<Arc<Cluster>>,
    /// Static secrets.
    pub secrets: Vec<Secret>,
    /// Dynamic resources.
    pub dynamic: Dynamic,
    /// The cluster of this proxy (zone-aware routing).
    pub local_cluster: Option<Name>,
    /// `cluster_manager.outlier_detection.event_log_path`
    pub outlier_event_log_path: Option<Name>,
    /// Stat sinks.
    pub stats_sinks: Vec<StatsSink>,
    /// Stat tags, matcher and histogram buckets.
    pub stats: StatsConfig,
    /// Interval after which unused evictable stats go (`stats_eviction_interval`).
    pub stats_eviction_interval: Option<Duration>,
    /// Interval of flushes to sinks. Default 5 s.
    pub stats_flush_interval: Duration,
    /// Watchdog and the like have no effect here.
    pub overload: Option<Arc<Overload>>,
    /// Static runtime layers merged in order: dotted key to value.
    pub runtime: Vec<(Name, Value)>,
    /// Default tracer.
    pub tracer: Option<Arc<TraceProvider>>,
    /// Header prefix, `x-envoy` by default.
    pub header_prefix: Name,
    /// Certificates trusted by default (`default_socket_interface` and the like are not configurable).
    pub default_regex_max_program_size: Option<u32>,
    /// Inline headers registered; informational.
    pub internal_listeners: bool,
}

/// `Node`.
#[derive(Debug, Clone, Default)]
pub struct Node {
    /// `id`
    pub id: crate::route::DefaultName,
    /// `cluster`
    pub cluster: crate::route::DefaultName,
    /// `locality`
    pub locality: Option<crate::cluster::Locality>,
    /// `metadata`, a struct or `None`.
    pub metadata: Option<Value>,
}

/// `Admin`.
#[derive(Debug, Clone)]
pub struct Admin {
    /// Where it listens.
    pub address: Address,
    /// Access logs.
    pub access_logs: Arc<[AccessLog]>,
    /// `profile_path`
    pub profile_path: Option<Name>,
    /// Not counted in the global connection limit.
    pub ignore_global_conn_limit: bool,
}

/// `DynamicResources`.
#[derive(Debug, Clone, Default)]
pub struct Dynamic {
    /// `lds_config`
    pub lds: Option<ConfigSource>,
    /// `cds_config`
    pub cds: Option<ConfigSource>,
    /// `ads_config`: the cluster of the aggregated stream
    pub ads: Option<Ads>,
}

/// `ads_config`.
#[derive(Debug, Clone)]
pub struct Ads {
    /// Clusters in order of preference.
    pub clusters: Vec<Name>,
    /// Delta.
    pub delta: bool,
    /// Sends the node only on the first request of a stream.
    pub set_node_on_first_message_only: bool,
    /// `initial_metadata`
    pub initial_metadata: Vec<(Name, Name)>,
}

/// Stat sinks known here.
#[derive(Debug, Clone)]
pub enum StatsSink {
    /// `envoy.stat_sinks.statsd`
    Statsd {
        /// UDP address.
        udp: Option<Address>,
        /// TCP cluster.
        tcp_cluster: Option<Name>,
        /// Prefix, `envoy` by default.
        prefix: Name,
    },
    /// `envoy.stat_sinks.metrics_service`
    MetricsService(MetricsService),
}

/// `MetricsServiceConfig`.
#[derive(Debug, Clone)]
pub struct MetricsService {
    /// Service.
    pub service: crate::common::GrpcService,
    /// Sends deltas of counters.
    pub report_counters_as_deltas: bool,
    /// Sends tags as labels.
    pub emit_tags_as_labels: bool,
    /// Sends the interval's values of histograms as summaries.
    pub summaries: bool,
    /// Sends all values of histograms since start.
    pub histograms: bool,
    /// Families per message; 0: all in one.
    pub batch_size: u32,
}

/// `StatsConfig`.
#[derive(Debug, Clone)]
pub struct StatsConfig {
    /// Tag extraction, in order.
    pub tags: Vec<StatsTag>,
    /// Envoy's default tags too (default true).
    pub use_all_default_tags: bool,
    /// Which stats exist.
    pub matcher: StatsMatcher,
    /// Buckets by stat name, first match wins.
    pub histogram_buckets: Vec<(StringMatcher, Vec<f64>)>,
}

/// `TagSpecifier`.
#[derive(Debug, Clone)]
pub enum StatsTag {
    /// `regex`: first group is removed from the name, second (or first) is the value
    Regex {
        /// Tag.
        name: Name,
        /// Expression.
        regex: regex::Regex,
    },
    /// `fixed_value`
    Fixed {
        /// Tag.
        name: Name,
        /// Value.
        value: Name,
    },
    /// A well-known default tag by name.
    Default(Name),
}

/// `StatsMatcher`.
#[derive(Debug, Clone)]
pub enum StatsMatcher {
    /// All stats.
    All,
    /// `reject_all`
    None,
    /// `inclusion_list`
    Include(Vec<StringMatcher>),
    /// `exclusion_list`
    Exclude(Vec<StringMatcher>),
}

impl StatsMatcher {
    /// True when the stat of this name exists.
    pub fn accepts(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::None => false,
            Self::Include(list) => list.iter().any(|m| m.matches(name.as_bytes())),
            Self::Exclude(list) => !list.iter().any(|m| m.matches(name.as_bytes())),
        }
    }
}

/// `OverloadManager`.
#[derive(Debug, Clone)]
pub struct Overload {
    /// Refresh interval. Default 1 s.
    pub refresh_interval: Duration,
    /// Monitors.
    pub monitors: Vec<ResourceMonitor>,
    /// Actions: name, and triggers as monitor name with threshold or scaled range.
    pub actions: Vec<(Name, Vec<(Name, Trigger)>)>,
}

/// Resource monitors known here.
#[derive(Debug, Clone)]
pub enum ResourceMonitor {
    /// `envoy.resource_monitors.fixed_heap`, bytes
    FixedHeap(u64),
    /// `envoy.resource_monitors.global_downstream_max_connections`
    DownstreamConnections(u64),
    /// `envoy.resource_monitors.injected_resource`: a file that holds the pressure
    Injected(Name),
}

/// A trigger.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Trigger {
    /// At or above.
    Threshold(f64),
    /// From the first to the second.
    Scaled(f64, f64),
}
