//! Which clusters does this proxy get (CDS)? One per service, port and subset; one per own port; the fixed ones.
//! Follows `pilot/pkg/networking/core/cluster.go`. Policies are applied in `policy`.

pub(crate) mod fixed;
mod inbound;
pub mod policy;

use std::collections::BTreeMap;
use std::sync::Arc;

use api::destination_rule::{SimpleLb, TrafficPolicy};
use model::{Port, Registry, Resolution, Service};
use names::{ClusterName, NodeType, PortProtocol};
use protos::envoy::config::cluster::v3 as cluster;
use protos::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use protos::envoy::config::core::v3 as core;
use protos::envoy::extensions::upstreams::http::v3 as upstreams;

use crate::Inputs;
use crate::patch::Patches;
use crate::wire::{
    ads, any, bool_value, config_path, delimited, duration, istio_metadata, list_value, number_value, object_value,
    text_value,
};
use policy::{ClusterMode, Context};

/// Key of HTTP options in `typed_extension_protocol_options`.
pub const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// A cluster under construction, with the HTTP options that end up packed inside it.
pub(crate) struct Draft {
    pub(crate) cluster: cluster::Cluster,
    pub(crate) http: Option<upstreams::HttpProtocolOptions>,
}

impl Draft {
    pub(crate) fn http(&mut self) -> &mut upstreams::HttpProtocolOptions {
        self.http.get_or_insert_default()
    }

    pub(crate) fn is_original_dst(&self) -> bool {
        self.cluster.cluster_discovery_type == Some(ClusterDiscoveryType::Type(DiscoveryType::OriginalDst as i32))
    }

    pub(crate) fn is_eds(&self) -> bool {
        self.cluster.cluster_discovery_type == Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32))
    }

    pub(crate) fn is_http2(&self) -> bool {
        use upstreams::http_protocol_options::{
            UpstreamProtocolOptions as U, explicit_http_config::ProtocolConfig as P,
        };
        matches!(
            self.http.as_ref().and_then(|h| h.upstream_protocol_options.as_ref()),
            Some(U::ExplicitHttpConfig(c)) if matches!(c.protocol_config, Some(P::Http2ProtocolOptions(_)))
        )
    }

    pub(crate) fn build(mut self) -> cluster::Cluster {
        if let Some(mut http) = self.http {
            // Envoy insists on a protocol choice once options are given.
            if http.upstream_protocol_options.is_none() {
                http.upstream_protocol_options = Some(explicit_http1());
            }
            self.cluster.typed_extension_protocol_options.insert(HTTP_OPTIONS.to_owned(), any(&http));
        }
        self.cluster
    }
}

fn explicit_http1() -> upstreams::http_protocol_options::UpstreamProtocolOptions {
    use upstreams::http_protocol_options::{
        ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
    };
    UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
        protocol_config: Some(ProtocolConfig::HttpProtocolOptions(Default::default())),
    })
}

/// HTTP/2 towards the upstream.
pub(crate) fn explicit_http2() -> upstreams::http_protocol_options::UpstreamProtocolOptions {
    use upstreams::http_protocol_options::{
        ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
    };
    UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
        protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(Default::default())),
    })
}

/// Whatever the client spoke.
pub(crate) fn use_downstream() -> upstreams::http_protocol_options::UpstreamProtocolOptions {
    use upstreams::http_protocol_options::{UpstreamProtocolOptions, UseDownstreamHttpConfig};
    UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
        http_protocol_options: Some(Default::default()),
        http2_protocol_options: Some(Default::default()),
        http3_protocol_options: None,
    })
}

/// All clusters of the proxy, in no particular order.
pub fn build(inputs: &Inputs) -> Vec<cluster::Cluster> {
    let mut out = unpatched(inputs);
    crate::patch::cluster::apply(inputs, &Patches::of(inputs, &crate::patch::cluster::APPLY_TO), &mut out);
    out
}

/// The clusters before `EnvoyFilter`s.
pub(crate) fn unpatched(inputs: &Inputs) -> Vec<cluster::Cluster> {
    let mut out = Vec::new();
    for service in inputs.scope().services.iter() {
        of_service(inputs, service, &mut out);
    }
    own(inputs, &mut out);
    out
}

/// Outbound clusters of one service. Beside the mesh, peer authentications and what the proxy can do, they depend on
/// this service, its endpoints and its rule only: `incremental::clusters` keeps them by these.
pub(crate) fn of_service(inputs: &Inputs, service: &Arc<Service>, out: &mut Vec<cluster::Cluster>) {
    outbound(inputs, service, ClusterMode::Default, out);
}

/// Clusters that belong to no single service: fixed and inbound ones, and those of east-west gateways.
pub(crate) fn own(inputs: &Inputs, out: &mut Vec<cluster::Cluster>) {
    out.push(fixed::black_hole(inputs));
    match inputs.proxy().node_type {
        NodeType::Sidecar => {
            out.push(fixed::passthrough(inputs));
            out.push(fixed::inbound_passthrough(inputs));
            inbound::build(inputs, out);
        }
        _ => {
            if inputs.proxy().metadata_text("credential") == "true" {
                out.push(fixed::external_sds(inputs));
            }
            if is_east_west(inputs) {
                let internal = inputs.scope().services.iter().filter(|s| !s.mesh_external);
                internal.for_each(|s| outbound(inputs, s, ClusterMode::SniDnat, out));
            }
        }
    }
}

/// Whether the proxy passes connections on by server name.
pub(crate) fn is_east_west(inputs: &Inputs) -> bool {
    inputs.view.gateway.as_ref().is_some_and(|g| !g.auto_passthrough_hosts.is_empty())
}

/// The discovery type of a service's clusters. Gateways have no original destination to go to: they get endpoints.
fn discovery(service: &Service, proxy: NodeType) -> DiscoveryType {
    match service.resolution {
        Resolution::DnsLb => DiscoveryType::StrictDns,
        Resolution::DnsRoundRobin => DiscoveryType::LogicalDns,
        Resolution::Passthrough if proxy == NodeType::Sidecar => DiscoveryType::OriginalDst,
        _ => DiscoveryType::Eds,
    }
}

fn outbound(inputs: &Inputs, service: &Arc<Service>, mode: ClusterMode, out: &mut Vec<cluster::Cluster>) {
    if service.resolution == Resolution::Alias {
        return;
    }
    let labels = &inputs.proxy().labels;
    let rule = inputs.scope().rule(&service.hostname, labels, false);
    for port in service.ports.iter().filter(|p| service.is_reachable(p)) {
        let top = rule.and_then(|r| r.config.spec.traffic_policy.as_ref());
        let base = policy::for_port(top, port.number);
        let rule_has_selector = rule.is_some_and(|r| r.config.spec.workload_selector.is_some());
        let mut push = |subset: &str, policy: Option<TrafficPolicy>| {
            let context = Context { inputs, service, port, mode, subset, policy, rule_has_selector };
            let Some(mut draft) = start(&context) else {
                return;
            };
            policy::apply(&mut draft, &context);
            finish(&mut draft, &context, rule.map(|r| &**r));
            out.push(draft.build());
        };
        push("", base.clone());
        for subset in rule.iter().flat_map(|r| &r.config.spec.subsets) {
            let merged = policy::for_subset(base.clone(), subset.traffic_policy.as_ref(), port.number);
            push(&subset.name, merged);
        }
    }
}

fn start(context: &Context<'_>) -> Option<Draft> {
    let Context { inputs, service, port, subset, mode, .. } = context;
    let name = ClusterName::outbound(port.number, subset, &service.hostname);
    let name = if *mode == ClusterMode::SniDnat { name.to_sni() } else { name.to_string() };
    let passthrough = context.policy.as_ref().and_then(|p| p.load_balancer.as_ref()).and_then(|l| l.simple);
    let kind = match passthrough {
        Some(SimpleLb::Passthrough) => DiscoveryType::OriginalDst,
        _ => discovery(service, inputs.proxy().node_type),
    };
    let mut draft = draft(&name, kind, inputs);
    // Too few healthy hosts are no reason to ask others, unless the rule says from where on.
    draft.cluster.common_lb_config.get_or_insert_default().healthy_panic_threshold = Some(Default::default());
    if service.resolution == Resolution::DynamicDns {
        draft.cluster.cluster_discovery_type =
            Some(ClusterDiscoveryType::ClusterType(fixed::dynamic_forward_proxy(inputs)));
        draft.cluster.lb_policy = cluster::cluster::LbPolicy::ClusterProvided as i32;
    } else if matches!(kind, DiscoveryType::StrictDns | DiscoveryType::LogicalDns) {
        let assignment = crate::endpoint::inline(inputs, service, port, subset, &name, context.policy.as_ref());
        if assignment.endpoints.is_empty() {
            return None;
        }
        draft.cluster.load_assignment = Some(assignment);
    }
    if kind == DiscoveryType::OriginalDst {
        let target = match &port.target {
            model::TargetPort::Number(n) if *n != port.number && service.registry == Registry::External => Some(*n),
            _ => None,
        };
        if let Some(target) = target {
            draft.cluster.lb_config =
                Some(cluster::cluster::LbConfig::OriginalDstLbConfig(cluster::cluster::OriginalDstLbConfig {
                    upstream_port_override: Some(target.into()),
                    ..Default::default()
                }));
        }
    }
    set_protocol(&mut draft, port, inputs.proxy().node_type);
    Some(draft)
}

/// A cluster with what every cluster has.
#[allow(deprecated)] // The DNS fields have no successor outside of the extension that stock proxies may lack.
fn draft(name: &str, kind: DiscoveryType, inputs: &Inputs) -> Draft {
    let mesh = inputs.mesh();
    let mut c = cluster::Cluster {
        name: name.to_owned(),
        alt_stat_name: delimited(name),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(kind as i32)),
        connect_timeout: Some(duration(mesh.connect_timeout)),
        common_lb_config: Some(Default::default()),
        per_connection_buffer_limit_bytes: crate::listener::connection::cluster_buffer(inputs),
        ..Default::default()
    };
    if matches!(kind, DiscoveryType::StrictDns | DiscoveryType::LogicalDns) {
        use cluster::cluster::DnsLookupFamily as F;
        c.dns_lookup_family = if inputs.proxy().is_ipv6_only() { F::V6Only } else { F::V4Only } as i32;
        c.dns_refresh_rate = Some(duration(mesh.dns_refresh_rate));
        c.respect_dns_ttl = true;
        c.typed_dns_resolver_config = Some(fixed::dns_resolver());
        c.dns_jitter = Some(duration(std::time::Duration::from_millis(100)));
    }
    Draft { cluster: c, http: None }
}

fn set_protocol(draft: &mut Draft, port: &Port, proxy: NodeType) {
    if port.protocol.is_http2() {
        draft.http().upstream_protocol_options = Some(explicit_http2());
    } else if port.protocol == PortProtocol::Unsupported && proxy == NodeType::Sidecar {
        draft.http().upstream_protocol_options = Some(use_downstream());
    }
}

/// What comes after the policies: where endpoints come from, and metadata for telemetry and provenance.
fn finish(draft: &mut Draft, context: &Context<'_>, rule: Option<&model::destination_rule::MergedRule>) {
    if draft.is_eds() {
        draft.cluster.eds_cluster_config = Some(cluster::cluster::EdsClusterConfig {
            eds_config: Some(ads()),
            service_name: draft.cluster.name.clone(),
        });
    }
    let stat = &context.inputs.mesh().outbound_cluster_stat_name;
    if !stat.is_empty() {
        let name = stat_name(stat, context.service, context.subset, context.port);
        draft.cluster.alt_stat_name = delimited(&name);
    }
    let metadata = istio_metadata(&mut draft.cluster.metadata);
    metadata.insert("default_original_port".to_owned(), number_value(context.port.number.into()));
    metadata.insert("services".to_owned(), list_value(vec![service_metadata(context.service)]));
    if context.service.mesh_external {
        metadata.insert("external".to_owned(), bool_value(true));
    }
    if let Some(rule) = rule {
        let config = &rule.config;
        metadata.insert("config".to_owned(), text_value(config_path(&config.kind, &config.namespace, &config.name)));
        if !context.subset.is_empty() {
            metadata.insert("subset".to_owned(), text_value(context.subset));
        }
        let mode = context.policy.as_ref().and_then(|p| p.tls.as_ref()).map(|t| t.mode);
        if matches!(mode, Some(api::destination_rule::TlsMode::Simple | api::destination_rule::TlsMode::Mutual)) {
            metadata.insert("alpn_override".to_owned(), text_value("false"));
        }
    }
}

/// `{host, name, namespace}` of a service.
fn service_metadata(service: &Service) -> prost_types::Value {
    object_value([
        ("host", text_value(service.hostname.as_str())),
        ("name", text_value(&*service.name)),
        ("namespace", text_value(&*service.namespace)),
    ])
}

pub(crate) use fixed::dns_cache;

/// A stat name by the patterns of `outboundClusterStatName` and `inboundClusterStatName`.
pub fn stat_name(pattern: &str, service: &Service, subset: &str, port: &Port) -> String {
    let short = match service.registry {
        Registry::Kubernetes => format!("{}.{}", service.name, service.namespace),
        Registry::External => service.hostname.to_string(),
    };
    let target = match &port.target {
        model::TargetPort::Number(n) if *n > 0 => n.to_string(),
        _ => String::new(),
    };
    pattern
        .replace("%SERVICE_FQDN%", &service.hostname)
        .replace("%SERVICE_NAME%", &service.name)
        .replace("%SERVICE%", &short)
        .replace("%SERVICE_PORT_NAME%", &port.name)
        .replace("%SERVICE_PORT%", &port.number.to_string())
        .replace("%TARGET_PORT%", &target)
        .replace("%SUBSET_NAME%", subset)
}

/// Packed transport-socket match for endpoints that speak mesh mTLS.
pub(crate) fn mtls_match() -> prost_types::Struct {
    crate::wire::object([("tlsMode", text_value("istio"))])
}

/// Filters every cluster gets when the proxy exchanges peer metadata.
fn exchange_filters(inputs: &Inputs) -> Vec<cluster::Filter> {
    if !inputs.proxy().capabilities.peer_metadata {
        return Vec::new();
    }
    vec![cluster::Filter {
        name: "istio.metadata_exchange".to_owned(),
        typed_config: Some(any(&protos::envoy::tcp::metadataexchange::config::MetadataExchange {
            protocol: crate::tls::ALPN_PEER_EXCHANGE.to_owned(),
            ..Default::default()
        })),
        ..Default::default()
    }]
}

/// Circuit breaker thresholds of Istio: none.
pub(crate) fn default_thresholds() -> cluster::circuit_breakers::Thresholds {
    cluster::circuit_breakers::Thresholds {
        max_connections: Some(u32::MAX),
        max_pending_requests: Some(u32::MAX),
        max_requests: Some(u32::MAX),
        max_retries: Some(u32::MAX),
        ..Default::default()
    }
}

/// A locality from `region/zone/subzone`.
pub fn locality(text: &str) -> core::Locality {
    // A fourth part (a rack) has no place in Envoy's localities.
    let mut parts = text.split('/');
    let mut next = || parts.next().unwrap_or_default().to_owned();
    core::Locality { region: next(), zone: next(), sub_zone: next() }
}

/// Typed options of a pass-through cluster: speak what the client spoke, close idle connections after five minutes.
fn passthrough_options() -> BTreeMap<String, prost_types::Any> {
    let options = upstreams::HttpProtocolOptions {
        common_http_protocol_options: Some(core::HttpProtocolOptions {
            idle_timeout: Some(duration(std::time::Duration::from_secs(300))),
            ..Default::default()
        }),
        upstream_protocol_options: Some(use_downstream()),
        ..Default::default()
    };
    [(HTTP_OPTIONS.to_owned(), any(&options))].into()
}
