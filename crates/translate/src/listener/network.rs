//! What does a TCP filter chain hold? Authorization, metrics and the TCP proxy with its cluster or weights.
//! Follows `networkfilter.go`.

use api::destination_rule::DestinationRule;
use api::networking::RouteDestination;
use model::Config;
use names::Hostname;
use protos::envoy::config::listener::v3 as listener;
use protos::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use protos::envoy::r#type::v3 as typ;

use super::Class;
use crate::Inputs;
use crate::route::destination_cluster;
use crate::wire::{any, api_duration, duration, network_filter};

/// Name of the network filter.
const TCP_PROXY: &str = "envoy.filters.network.tcp_proxy";

/// A TCP proxy to one fixed cluster, without policies.
pub(crate) fn fixed(inputs: &Inputs, cluster: &str, class: Class, logged: bool) -> Vec<listener::Filter> {
    let mut proxy = tcp::TcpProxy {
        stat_prefix: cluster.to_owned(),
        cluster_specifier: Some(tcp::tcp_proxy::ClusterSpecifier::Cluster(cluster.to_owned())),
        ..Default::default()
    };
    if logged {
        proxy.idle_timeout = inputs.proxy().idle_timeout.map(duration);
        proxy.access_log = crate::access_log::tcp(inputs, class);
    }
    let mut out = metrics(inputs, class);
    out.push(network_filter(TCP_PROXY, any(&proxy)));
    out
}

/// Metrics of byte streams, for proxies that have them.
fn metrics(inputs: &Inputs, class: Class) -> Vec<listener::Filter> {
    if !inputs.proxy().capabilities.istio_stats {
        return Vec::new();
    }
    let make = || crate::telemetry::stats(inputs, class).map(|s| network_filter("istio.stats", any(&s)));
    inputs.once.metrics(class, make).into_iter().collect()
}

/// Exchange of peer metadata on inbound byte streams.
pub(crate) fn metadata_exchange(inputs: &Inputs) -> Vec<listener::Filter> {
    if !inputs.proxy().capabilities.peer_metadata {
        return Vec::new();
    }
    let config = protos::envoy::tcp::metadataexchange::config::MetadataExchange {
        protocol: crate::tls::ALPN_PEER_EXCHANGE.to_owned(),
        enable_discovery: true,
        ..Default::default()
    };
    vec![network_filter("istio.metadata_exchange", any(&config))]
}

fn complete(inputs: &Inputs, class: Class, exchange: bool, mut proxy: tcp::TcpProxy) -> Vec<listener::Filter> {
    let mut out = if exchange { metadata_exchange(inputs) } else { Vec::new() };
    if class != Class::SidecarOutbound {
        out.extend(inputs.once.byte_policies(|| crate::authz::tcp_filters(inputs)));
    }
    out.extend(metrics(inputs, class));
    proxy.access_log = crate::access_log::tcp(inputs, class);
    out.push(network_filter(TCP_PROXY, any(&proxy)));
    out
}

/// To the application: one cluster, with inbound policies.
pub(crate) fn inbound(inputs: &Inputs, cluster: &str, stat_prefix: &str) -> Vec<listener::Filter> {
    let proxy = tcp::TcpProxy {
        stat_prefix: stat_prefix.to_owned(),
        cluster_specifier: Some(tcp::tcp_proxy::ClusterSpecifier::Cluster(cluster.to_owned())),
        idle_timeout: inputs.proxy().idle_timeout.map(duration),
        ..Default::default()
    };
    complete(inputs, Class::SidecarInbound, true, proxy)
}

/// To one cluster of a service, with what its destination rule says of byte streams.
pub(crate) fn single(
    inputs: &Inputs,
    cluster: &str,
    stat_prefix: &str,
    subset: &str,
    rule: Option<&Config<DestinationRule>>,
    exchange: bool,
) -> Vec<listener::Filter> {
    let specifier = tcp::tcp_proxy::ClusterSpecifier::Cluster(cluster.to_owned());
    let proxy = tcp_proxy(inputs, stat_prefix, specifier, subset, rule);
    complete(inputs, Class::outbound(inputs.proxy().node_type), exchange, proxy)
}

/// Resolves the server name that a client asks for, for the dynamic forward proxy cluster behind it.
pub(crate) fn sni_dynamic_forward_proxy(inputs: &Inputs, port: u16) -> listener::Filter {
    use protos::envoy::extensions::filters::network::sni_dynamic_forward_proxy::v3 as sni;
    let config = sni::FilterConfig {
        dns_cache_config: Some(crate::cluster::dns_cache(inputs)),
        port_specifier: Some(sni::filter_config::PortSpecifier::PortValue(port.into())),
        ..Default::default()
    };
    network_filter("envoy.filters.network.sni_dynamic_forward_proxy", any(&config))
}

fn tcp_proxy(
    inputs: &Inputs,
    stat_prefix: &str,
    specifier: tcp::tcp_proxy::ClusterSpecifier,
    subset: &str,
    rule: Option<&Config<DestinationRule>>,
) -> tcp::TcpProxy {
    let policy = rule.and_then(|r| r.spec.traffic_policy.as_ref());
    let settings = policy.and_then(|p| p.connection_pool.as_ref()).and_then(|c| c.tcp.as_ref());
    let own = inputs.proxy().idle_timeout.map(duration);
    let mut proxy = tcp::TcpProxy {
        stat_prefix: stat_prefix.to_owned(),
        cluster_specifier: Some(specifier),
        idle_timeout: settings.and_then(|s| s.idle_timeout).map(api_duration).or(own),
        max_downstream_connection_duration: settings.and_then(|s| s.max_connection_duration).map(api_duration),
        ..Default::default()
    };
    let of_subset = rule.and_then(|r| r.spec.subsets.iter().find(|s| s.name == subset));
    let subset_policy = of_subset.and_then(|s| s.traffic_policy.as_ref());
    let lb = subset_policy.and_then(|p| p.load_balancer.as_ref()).or_else(|| policy?.load_balancer.as_ref());
    if lb.and_then(|l| l.consistent_hash.as_ref()).is_some_and(|h| h.use_source_ip == Some(true)) {
        proxy.hash_policy = vec![typ::HashPolicy {
            policy_specifier: Some(typ::hash_policy::PolicySpecifier::SourceIp(Default::default())),
        }];
    }
    let tunnel = subset_policy.and_then(|p| p.tunnel.as_ref()).or_else(|| policy?.tunnel.as_ref());
    proxy.tunneling_config = tunnel.map(|t| tcp::tcp_proxy::TunnelingConfig {
        hostname: crate::wire::host_port(&t.target_host, t.target_port),
        use_post: t.protocol.eq_ignore_ascii_case("POST"),
        ..Default::default()
    });
    proxy
}

/// To the destinations of a TCP or TLS rule. Empty when it has none.
pub fn routed(
    inputs: &Inputs,
    routes: &[RouteDestination],
    port: u16,
    source: &str,
    exchange: bool,
) -> Vec<listener::Filter> {
    let Some(first) = routes.iter().find_map(|r| r.destination.as_ref()) else {
        return Vec::new();
    };
    let lookup = |host: &str| inputs.view.service(&Hostname::from(host));
    let service = lookup(&first.host);
    let labels = &inputs.proxy().labels;
    let rule = service.as_ref().and_then(|s| inputs.scope().rule(&s.hostname, labels, false)).map(|r| &r.config);
    if let [_] = routes {
        let cluster = destination_cluster(first, service.as_deref(), port);
        let stat = stat_prefix(inputs, service.as_deref(), &first.subset, port, &cluster);
        return single(inputs, &cluster, &stat, &first.subset, rule, exchange);
    }
    let weighted = routes.iter().filter(|r| r.weight > 0).filter_map(|r| {
        let destination = r.destination.as_ref()?;
        let service = lookup(&destination.host);
        Some(tcp::tcp_proxy::weighted_cluster::ClusterWeight {
            name: destination_cluster(destination, service.as_deref(), port),
            weight: u32::try_from(r.weight).unwrap_or(0),
            metadata_match: None,
        })
    });
    let clusters: Vec<_> = weighted.collect();
    if clusters.is_empty() {
        return Vec::new();
    }
    let specifier = tcp::tcp_proxy::ClusterSpecifier::WeightedClusters(tcp::tcp_proxy::WeightedCluster { clusters });
    let proxy = tcp_proxy(inputs, source, specifier, "", rule);
    complete(inputs, Class::outbound(inputs.proxy().node_type), exchange, proxy)
}

/// The stat prefix of a cluster's byte streams: its name, unless the mesh has a pattern.
pub(crate) fn stat_prefix(
    inputs: &Inputs,
    service: Option<&model::Service>,
    subset: &str,
    port: u16,
    cluster: &str,
) -> String {
    let pattern = &inputs.mesh().outbound_cluster_stat_name;
    match service.and_then(|s| Some((s, s.port(port)?))) {
        Some((service, port)) if !pattern.is_empty() => crate::cluster::stat_name(pattern, service, subset, port),
        _ => cluster.to_owned(),
    }
}
