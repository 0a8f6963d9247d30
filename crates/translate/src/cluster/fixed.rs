//! Clusters every proxy has, whatever the mesh holds: black hole and pass-through.

use protos::envoy::config::cluster::v3 as cluster;
use protos::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType, LbPolicy};
use protos::envoy::config::core::v3 as core;
use protos::envoy::extensions::clusters::dynamic_forward_proxy::v3 as dfp;
use protos::envoy::extensions::common::dynamic_forward_proxy::v3::DnsCacheConfig;

use super::{default_thresholds, exchange_filters, passthrough_options};
use crate::Inputs;
use crate::wire::{any, delimited, duration};

/// Source address of connections from the inbound side to the application: outside of capture rules.
pub(crate) const INBOUND_BIND_V4: &str = "127.0.0.6";
/// The same for IPv6.
pub(crate) const INBOUND_BIND_V6: &str = "::6";

/// Name of the cluster of a secret server beside the proxy.
pub(crate) const EXTERNAL_SDS: &str = "sds-external";
/// Its socket, where the injector mounts it.
const CREDENTIAL_SOCKET: &str = "./var/run/secrets/credential-uds/socket";

fn base(inputs: &Inputs, name: &str, kind: DiscoveryType, lb: LbPolicy) -> cluster::Cluster {
    cluster::Cluster {
        name: name.to_owned(),
        alt_stat_name: delimited(name),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(kind as i32)),
        connect_timeout: Some(duration(inputs.mesh().connect_timeout)),
        lb_policy: lb as i32,
        ..Default::default()
    }
}

/// `BlackHoleCluster`: no endpoints.
pub(super) fn black_hole(inputs: &Inputs) -> cluster::Cluster {
    base(inputs, names::well_known::BLACK_HOLE_CLUSTER, DiscoveryType::Static, LbPolicy::RoundRobin)
}

/// `PassthroughCluster`: where the application meant to go.
pub(super) fn passthrough(inputs: &Inputs) -> cluster::Cluster {
    let name = names::well_known::PASSTHROUGH_CLUSTER;
    let mut c = base(inputs, name, DiscoveryType::OriginalDst, LbPolicy::ClusterProvided);
    c.typed_extension_protocol_options = passthrough_options();
    c.filters = exchange_filters(inputs);
    let defaults = inputs.mesh().default_traffic_policy.as_ref().and_then(|p| p.connection_pool.as_ref());
    let thresholds = super::policy::thresholds(defaults);
    c.circuit_breakers = Some(cluster::CircuitBreakers { thresholds: vec![thresholds], ..Default::default() });
    let tcp = defaults.and_then(|p| p.tcp.as_ref());
    if let Some(timeout) = tcp.and_then(|t| t.connect_timeout) {
        c.connect_timeout = Some(crate::wire::api_duration(timeout));
    }
    super::policy::keepalive(&mut c, inputs.mesh(), tcp.and_then(|t| t.tcp_keepalive.as_ref()));
    c
}

/// `InboundPassthroughCluster`: to the application's port, from an address that is not captured again.
pub(super) fn inbound_passthrough(inputs: &Inputs) -> cluster::Cluster {
    let name = names::well_known::INBOUND_PASSTHROUGH_CLUSTER;
    let mut c = base(inputs, name, DiscoveryType::OriginalDst, LbPolicy::ClusterProvided);
    c.typed_extension_protocol_options = passthrough_options();
    c.circuit_breakers =
        Some(cluster::CircuitBreakers { thresholds: vec![default_thresholds()], ..Default::default() });
    c.upstream_bind_config = Some(inbound_bind(inputs));
    c
}

/// The source address towards the application.
pub(super) fn inbound_bind(inputs: &Inputs) -> core::BindConfig {
    let address = if inputs.proxy().is_ipv6_only() { INBOUND_BIND_V6 } else { INBOUND_BIND_V4 };
    core::BindConfig {
        source_address: Some(core::SocketAddress {
            address: address.to_owned(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(0)),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A cluster that resolves whatever host is asked for.
pub(super) fn dynamic_forward_proxy(inputs: &Inputs) -> cluster::cluster::CustomClusterType {
    cluster::cluster::CustomClusterType {
        name: "envoy.clusters.dynamic_forward_proxy".to_owned(),
        typed_config: Some(any(&dfp::ClusterConfig {
            cluster_implementation_specifier: Some(
                dfp::cluster_config::ClusterImplementationSpecifier::DnsCacheConfig(dns_cache(inputs)),
            ),
            ..Default::default()
        })),
    }
}

/// How names of clusters are resolved: with a new socket after so many queries, as c-ares is slow to leave a resolver
/// that has moved (`PILOT_DNS_CARES_UDP_MAX_QUERIES`).
pub(super) fn dns_resolver() -> core::TypedExtensionConfig {
    use protos::envoy::extensions::network::dns_resolver::cares::v3::CaresDnsResolverConfig;
    core::TypedExtensionConfig {
        name: "envoy.network.dns_resolver.cares".to_owned(),
        typed_config: Some(any(&CaresDnsResolverConfig { udp_max_queries: Some(100), ..Default::default() })),
    }
}

/// The secret server whose socket is mounted into a gateway's pod.
pub(super) fn external_sds(inputs: &Inputs) -> cluster::Cluster {
    use protos::envoy::config::endpoint::v3 as endpoint;
    let address = core::Address {
        address: Some(core::address::Address::Pipe(core::Pipe {
            path: CREDENTIAL_SOCKET.to_owned(),
            ..Default::default()
        })),
    };
    let host = endpoint::LbEndpoint {
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint::Endpoint {
            address: Some(address),
            ..Default::default()
        })),
        ..Default::default()
    };
    let mut c = base(inputs, EXTERNAL_SDS, DiscoveryType::Static, LbPolicy::RoundRobin);
    c.load_assignment = Some(endpoint::ClusterLoadAssignment {
        cluster_name: EXTERNAL_SDS.to_owned(),
        endpoints: vec![endpoint::LocalityLbEndpoints { lb_endpoints: vec![host], ..Default::default() }],
        ..Default::default()
    });
    let mut draft = super::Draft { cluster: c, http: None };
    draft.http().upstream_protocol_options = Some(super::explicit_http2());
    draft.build()
}

/// The DNS cache shared by the cluster and the filter of dynamic DNS services.
pub(crate) fn dns_cache(inputs: &Inputs) -> DnsCacheConfig {
    use cluster::cluster::DnsLookupFamily as F;
    DnsCacheConfig {
        name: "proa_dynamic_dns".to_owned(),
        dns_lookup_family: if inputs.proxy().is_ipv6_only() { F::V6Only } else { F::V4Only } as i32,
        dns_refresh_rate: Some(duration(inputs.mesh().dns_refresh_rate)),
        ..Default::default()
    }
}
