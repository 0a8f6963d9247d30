//! What does a listener do? `envoy.config.listener.v3.Listener`, its listener filters and network filters.
//!
//! Run by `l4`; filter-chain selection is `proxy-core::filter_chain` over [`crate::filter_chain::FilterChains`].

use std::sync::Arc;
use std::time::Duration;

use crate::Name;
use crate::access_log::AccessLog;
use crate::common::{Address, Metadata};
use crate::filter_chain::{FilterChains, PortSet};
use crate::filters::network::{
    ConnectionLimit, MetadataExchange, NetworkLocalRateLimit, NetworkRbac, SetFilterState, TcpProxy,
};
use crate::hcm::Hcm;
use crate::tls::TlsContext;

/// A validated listener.
#[derive(Debug, Clone)]
pub struct Listener {
    /// Name.
    pub name: Name,
    /// `stat_prefix`; else the address is used in stat names.
    pub stat_prefix: Option<Name>,
    /// Where it listens.
    pub address: ListenAddress,
    /// Further addresses of the same listener.
    pub additional_addresses: Box<[Address]>,
    /// False: no socket of its own; reached by hand-over from a `use_original_dst` listener.
    pub bind_to_port: bool,
    /// Hands connections over to the listener of the original destination.
    pub use_original_dst: bool,
    /// IP_TRANSPARENT.
    pub transparent: bool,
    /// IP_FREEBIND.
    pub freebind: bool,
    /// Direction, for stats and access log.
    pub traffic_direction: TrafficDirection,
    /// Listener filters in order.
    pub listener_filters: Box<[ListenerFilter]>,
    /// How long listener filters may take. Zero: no limit. Default 15 s.
    pub listener_filters_timeout: Duration,
    /// Goes on without the missing facts when the time is up, instead of closing.
    pub continue_on_listener_filters_timeout: bool,
    /// Chains and default chain.
    pub chains: FilterChains,
    /// Buffer limit per connection and direction, bytes. Default 1 MiB.
    pub per_connection_buffer_limit_bytes: u32,
    /// Listener access logs (connections that found no filter chain).
    pub access_logs: Arc<[AccessLog]>,
    /// `tcp_backlog_size`
    pub tcp_backlog_size: Option<u32>,
    /// `tcp_fast_open_queue_length`
    pub tcp_fast_open_queue_length: Option<u32>,
    /// Not counted in the global connection limit.
    pub ignore_global_conn_limit: bool,
    /// Drains only on removal or modification.
    pub drain_modify_only: bool,
    /// `metadata`
    pub metadata: Metadata,
}

/// Where a listener takes connections from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// An IP socket or Unix socket.
    Bound(Address),
    /// `internal_listener`: reached by name from inside the process.
    Internal,
}

/// `core.v3.TrafficDirection`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TrafficDirection {
    /// Unspecified.
    #[default]
    Unspecified,
    /// Inbound.
    Inbound,
    /// Outbound.
    Outbound,
}

/// A listener filter and where it is switched off.
#[derive(Debug, Clone)]
pub struct ListenerFilter {
    /// Configured name.
    pub name: Name,
    /// What it is.
    pub kind: ListenerFilterKind,
    /// `filter_disabled`: skipped when the predicate holds.
    pub disabled: Option<ListenerPredicate>,
}

/// The listener filters known here.
#[derive(Debug, Clone)]
pub enum ListenerFilterKind {
    /// `envoy.filters.listener.original_dst`
    OriginalDst,
    /// `envoy.filters.listener.original_src`
    OriginalSrc {
        /// SO_MARK for upstream sockets.
        mark: u32,
    },
    /// `envoy.filters.listener.proxy_protocol`
    ProxyProtocol(Arc<ProxyProtocol>),
    /// `envoy.filters.listener.tls_inspector`
    TlsInspector {
        /// `initial_read_buffer_size`, bytes.
        initial_read_bytes: Option<u32>,
    },
    /// `envoy.filters.listener.http_inspector`
    HttpInspector,
    /// `envoy.filters.listener.local_ratelimit`
    LocalRateLimit(Arc<NetworkLocalRateLimit>),
}

/// `ProxyProtocol` listener filter.
#[derive(Debug, Clone, Default)]
pub struct ProxyProtocol {
    /// `stat_prefix`
    pub stat_prefix: Name,
    /// Passes connections that do not begin with a PROXY header.
    pub allow_requests_without_proxy_protocol: bool,
    /// TLVs stored in dynamic metadata: type, namespace, key.
    pub rules: Box<[(u8, Name, Name)]>,
    /// Versions refused (1, 2).
    pub disallowed_versions: Box<[u8]>,
}

/// `ListenerFilterChainMatchPredicate`.
#[derive(Debug, Clone)]
pub enum ListenerPredicate {
    /// Any holds.
    Or(Box<[ListenerPredicate]>),
    /// All hold.
    And(Box<[ListenerPredicate]>),
    /// Does not hold.
    Not(Box<ListenerPredicate>),
    /// Always.
    Any,
    /// Destination port in one of the ranges.
    DestinationPort(PortSet),
}

impl ListenerPredicate {
    /// Evaluates the predicate for a connection to `port`.
    pub fn matches(&self, port: u16) -> bool {
        match self {
            Self::Or(list) => list.iter().any(|p| p.matches(port)),
            Self::And(list) => list.iter().all(|p| p.matches(port)),
            Self::Not(p) => !p.matches(port),
            Self::Any => true,
            Self::DestinationPort(set) => set.contains(port),
        }
    }
}

/// A filter chain.
#[derive(Debug, Clone)]
pub struct FilterChain {
    /// Name.
    pub name: Name,
    /// The transport.
    pub transport: DownstreamTransport,
    /// Network filters in order; the last one is terminal.
    pub filters: Box<[NetworkFilter]>,
    /// How long the TLS handshake and the like may take.
    pub transport_socket_connect_timeout: Option<Duration>,
    /// `metadata`
    pub metadata: Metadata,
}

/// Downstream transport sockets.
#[derive(Debug, Clone)]
pub enum DownstreamTransport {
    /// `envoy.transport_sockets.raw_buffer`
    Raw,
    /// `envoy.transport_sockets.tls`
    Tls(Arc<TlsContext>),
}

/// A network filter with its configured name.
#[derive(Debug, Clone)]
pub struct NetworkFilter {
    /// Configured name.
    pub name: Name,
    /// What it is.
    pub kind: NetworkFilterKind,
}

/// The network filters known here.
#[derive(Debug, Clone)]
pub enum NetworkFilterKind {
    /// `envoy.filters.network.http_connection_manager` (terminal)
    Hcm(Arc<Hcm>),
    /// `envoy.filters.network.tcp_proxy` (terminal)
    TcpProxy(Arc<TcpProxy>),
    /// `envoy.filters.network.rbac`
    Rbac(Arc<NetworkRbac>),
    /// `envoy.filters.network.set_filter_state`
    SetFilterState(Arc<SetFilterState>),
    /// `envoy.filters.network.local_ratelimit`
    LocalRateLimit(Arc<NetworkLocalRateLimit>),
    /// `envoy.filters.network.connection_limit`
    ConnectionLimit(Arc<ConnectionLimit>),
    /// `envoy.filters.network.ext_authz`
    ExtAuthz(Arc<crate::filters::network::NetworkExtAuthz>),
    /// `envoy.filters.network.sni_cluster`
    SniCluster,
    /// `envoy.filters.network.sni_dynamic_forward_proxy`
    SniDynamicForwardProxy {
        /// `port_value`
        port: u16,
    },
    /// `istio.metadata_exchange`
    MetadataExchange(Arc<MetadataExchange>),
    /// `istio.stats` on TCP
    IstioStats(Arc<crate::filters::http::IstioStats>),
    /// `envoy.filters.network.echo` (terminal)
    Echo,
    /// `envoy.filters.network.direct_response` (terminal): writes these bytes and closes
    DirectResponse(Arc<[u8]>),
    /// A protocol decoder that is not interpreted here (`mongo_proxy`, `redis_proxy` ...): bytes pass.
    PassThrough,
}

impl NetworkFilterKind {
    /// True for filters that must come last.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Hcm(_) | Self::TcpProxy(_) | Self::Echo | Self::DirectResponse(_))
    }
}
