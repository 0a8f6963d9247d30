//! What happens to connections towards the application? `virtualInbound` with chains per port and mTLS mode, the
//! pass-through chains, and real listeners where nothing is captured. Follows `listener_inbound.go`.

use std::collections::BTreeMap;

use api::networking::{CaptureMode, ServerTls};
use model::{Interception, MtlsMode, Service, ServiceTarget};
use names::well_known::{INBOUND_PASSTHROUGH_CLUSTER, VIRTUAL_INBOUND, VIRTUAL_INBOUND_BLACKHOLE};
use names::{ClusterName, PortProtocol};
use protos::envoy::config::core::v3 as core;
use protos::envoy::config::listener::v3 as listener;
use protos::envoy::r#type::v3::Int32Range;

use super::hcm::{self, Options, Routes};
use super::{Class, RAW_BUFFER, TLS, network};
use crate::Inputs;
use crate::tls::{self, MTLS_ALPNS, MTLS_HTTP_ALPNS, MTLS_TCP_ALPNS, PLAINTEXT_HTTP_ALPNS, alpns};
use crate::wire::{address, config_metadata, delimited, duration};

/// The HTTP chain of the pass-through chains.
const CATCHALL_HTTP: &str = "virtualInbound-catchall-http";

/// What the chains of one port are made from.
struct ChainConfig {
    cluster: String,
    /// The service port, for route and virtual host names.
    port: u16,
    /// The workload port; 0 for the pass-through chains of all ports.
    target: u16,
    protocol: PortProtocol,
    bind: String,
    bind_to_port: bool,
    tls: Option<ServerTls>,
    passthrough: bool,
    host: String,
    /// Stat prefix of byte streams.
    stat: String,
    metadata: Option<core::Metadata>,
}

impl ChainConfig {
    fn name(&self, http: bool) -> String {
        match (self.passthrough, http) {
            (true, true) => CATCHALL_HTTP.to_owned(),
            (true, false) => VIRTUAL_INBOUND.to_owned(),
            _ => names::listener_name(&self.bind, self.target),
        }
    }
}

/// One way to reach a port: bytes as they come or TLS, HTTP or not.
struct Match {
    alpns: Vec<String>,
    transport: &'static str,
    http: bool,
    terminate: bool,
}

fn m(alpn: &[&str], transport: &'static str, http: bool, terminate: bool) -> Match {
    Match { alpns: alpns(alpn), transport, http, terminate }
}

/// `None`: sniffed; `Some(true)`: HTTP; `Some(false)`: bytes.
fn is_http(protocol: PortProtocol) -> Option<bool> {
    match protocol {
        PortProtocol::Unsupported => None,
        p => Some(p.is_http()),
    }
}

/// The chains a port needs for its mTLS mode and protocol.
fn matches(mode: MtlsMode, http: Option<bool>) -> Vec<Match> {
    match (mode, http) {
        (MtlsMode::Permissive, None) => vec![
            m(&MTLS_HTTP_ALPNS, TLS, true, true),
            m(&PLAINTEXT_HTTP_ALPNS, RAW_BUFFER, true, false),
            m(&MTLS_TCP_ALPNS, TLS, false, true),
            m(&[], RAW_BUFFER, false, false),
            // The application's own TLS.
            m(&[], TLS, false, false),
        ],
        (MtlsMode::Permissive, Some(true)) => vec![m(&MTLS_ALPNS, TLS, true, true), m(&[], RAW_BUFFER, true, false)],
        (MtlsMode::Permissive, Some(false)) => {
            vec![m(&MTLS_ALPNS, TLS, false, true), m(&[], TLS, false, false), m(&[], RAW_BUFFER, false, false)]
        }
        (MtlsMode::Strict, None) => vec![m(&MTLS_HTTP_ALPNS, TLS, true, true), m(&[], TLS, false, true)],
        (MtlsMode::Strict, Some(http)) => vec![m(&[], TLS, http, true)],
        // No transport in either: Envoy does not come back from `raw_buffer` to "any".
        (MtlsMode::Disable, None) => vec![m(&PLAINTEXT_HTTP_ALPNS, "", true, false), m(&[], "", false, false)],
        (MtlsMode::Disable, Some(http)) => vec![m(&[], "", http, false)],
    }
}

/// All inbound listeners.
pub(super) fn build(inputs: &Inputs) -> Vec<listener::Listener> {
    let mut out = Vec::new();
    let mut captured = Vec::new();
    for config in configs(inputs) {
        let chains = chains(inputs, &config);
        if config.bind_to_port {
            let name = names::listener_name(&config.bind, config.target);
            out.push(listener(inputs, &name, &config.bind, config.target, true, chains));
        } else {
            captured.extend(chains);
        }
    }
    if inputs.proxy().interception != Interception::None {
        let mut all = vec![blackhole(inputs)];
        all.extend(passthrough(inputs));
        all.extend(captured);
        let port = inputs.mesh().proxy_inbound_listen_port;
        out.push(listener(inputs, VIRTUAL_INBOUND, inputs.proxy().wildcard(), port, false, all));
    }
    out
}

fn chains(inputs: &Inputs, config: &ChainConfig) -> Vec<listener::FilterChain> {
    let mode = inputs.view.peer_authentication.for_port(config.target);
    let custom = config.tls.as_ref().filter(|_| mode == MtlsMode::Disable);
    let options = match custom {
        // The application's certificate is served here; what remains is plain.
        Some(_) => vec![m(&[], TLS, is_http(config.protocol) == Some(true), true)],
        None => matches(mode, is_http(config.protocol)),
    };
    options
        .into_iter()
        .map(|option| {
            let socket = option.terminate.then(|| match custom {
                Some(tls) => tls::server_socket(tls, inputs, false),
                None => Some(tls::inbound_mtls(
                    inputs.mesh(),
                    inputs.proxy(),
                    !option.http && inputs.proxy().capabilities.peer_metadata,
                )),
            });
            let filters = if option.http {
                http_filters(inputs, config)
            } else {
                network::inbound(inputs, &config.cluster, &config.stat)
            };
            listener::FilterChain {
                name: config.name(option.http),
                filter_chain_match: Some(listener::FilterChainMatch {
                    destination_port: (config.target > 0).then_some(config.target.into()),
                    application_protocols: option.alpns,
                    transport_protocol: option.transport.to_owned(),
                    ..Default::default()
                }),
                transport_socket: socket.flatten(),
                filters,
                metadata: config.metadata.clone(),
                ..Default::default()
            }
        })
        .collect()
}

fn http_filters(inputs: &Inputs, config: &ChainConfig) -> Vec<listener::Filter> {
    let stat = if config.passthrough { config.cluster.clone() } else { format!("inbound_{}", config.name(true)) };
    let mut out = network::metadata_exchange(inputs);
    out.push(hcm::filter(
        inputs,
        Options {
            class: Class::SidecarInbound,
            routes: Routes::Inline(Box::new(crate::route::inbound(
                inputs,
                &config.cluster,
                &config.host,
                config.port,
                config.protocol,
            ))),
            stat_prefix: delimited(&stat),
            protocol: config.protocol,
        },
    ));
    out
}

/// One configuration per own port: of the `Sidecar` if it lists ports, else of the services.
/// Ports of the workload that two services claim with different protocols: the port, who has it, who has not.
pub(crate) fn rejected(inputs: &Inputs) -> Vec<(u16, &Service, &Service)> {
    let mut first: BTreeMap<u16, &ServiceTarget> = BTreeMap::new();
    let mut out = Vec::new();
    if inputs.scope().has_ingress() {
        return out;
    }
    for t in inputs.view.targets.iter().filter(|t| t.port.protocol != PortProtocol::Udp) {
        let has = first.entry(t.target_port).or_insert(t);
        if has.port.protocol != t.port.protocol && has.service.hostname != t.service.hostname {
            out.push((t.target_port, &*has.service, &*t.service));
        }
    }
    out
}

fn configs(inputs: &Inputs) -> Vec<ChainConfig> {
    let proxy = inputs.proxy();
    let mut out: BTreeMap<u16, ChainConfig> = BTreeMap::new();
    if !inputs.scope().has_ingress() {
        if proxy.interception == Interception::None {
            return Vec::new();
        }
        for t in inputs.view.targets.iter().filter(|t| t.port.protocol != PortProtocol::Udp) {
            // The oldest service decides the protocol of a shared port.
            out.entry(t.target_port).or_insert_with(|| ChainConfig {
                cluster: ClusterName::inbound(t.target_port).to_string(),
                port: t.port.number,
                target: t.target_port,
                protocol: t.port.protocol,
                bind: proxy.wildcard().to_owned(),
                bind_to_port: false,
                tls: None,
                passthrough: false,
                host: t.service.hostname.to_string(),
                stat: match inputs.mesh().inbound_cluster_stat_name.as_str() {
                    "" => ClusterName::inbound(t.target_port).to_string(),
                    pattern => crate::cluster::stat_name(pattern, &t.service, "", &t.port),
                },
                metadata: None,
            });
        }
        return out.into_values().collect();
    }
    let Some(sidecar) = &inputs.scope().config else {
        return Vec::new();
    };
    for i in &sidecar.spec.ingress {
        let Some(port) = i.port.as_ref() else {
            continue;
        };
        let Ok(number) = u16::try_from(port.number) else {
            continue;
        };
        let bind_to_port = match i.capture_mode {
            CaptureMode::Default => proxy.interception == Interception::None,
            mode => mode == CaptureMode::None,
        };
        if bind_to_port && proxy.unprivileged && number < 1024 {
            continue;
        }
        let own = proxy.ips.first().map_or(proxy.wildcard(), String::as_str);
        let mut protocol = PortProtocol::parse(&port.protocol);
        if i.tls.is_some() {
            protocol = match protocol {
                PortProtocol::Https => PortProtocol::Http,
                PortProtocol::Tls => PortProtocol::Tcp,
                other => other,
            };
        }
        out.entry(number).or_insert_with(|| ChainConfig {
            cluster: ClusterName::inbound(number).to_string(),
            port: number,
            target: number,
            protocol,
            bind: if i.bind.is_empty() { own.to_owned() } else { i.bind.clone() },
            bind_to_port,
            tls: i.tls.clone(),
            passthrough: false,
            host: format!("{}.{}", sidecar.name, inputs.scope().namespace),
            stat: ClusterName::inbound(number).to_string(),
            metadata: config_metadata(&sidecar.kind, &sidecar.namespace, &sidecar.name),
        });
    }
    out.into_values().collect()
}

/// Chains for ports that no service declares, and for those with an mTLS mode of their own.
fn passthrough(inputs: &Inputs) -> Vec<listener::FilterChain> {
    let view = &inputs.view;
    let declared: Vec<u16> = match (&view.scope.config, view.scope.has_ingress()) {
        (Some(c), true) => {
            let ports = c.spec.ingress.iter().filter_map(|i| i.port.as_ref());
            ports.filter_map(|p| u16::try_from(p.number).ok()).collect()
        }
        _ => view.targets.iter().map(|t| t.target_port).collect(),
    };
    let own = view.peer_authentication.per_port.keys().copied().filter(|p| !declared.contains(p));
    std::iter::once(0)
        .chain(own)
        .flat_map(|target| {
            chains(
                inputs,
                &ChainConfig {
                    cluster: INBOUND_PASSTHROUGH_CLUSTER.to_owned(),
                    port: 0,
                    target,
                    protocol: PortProtocol::Unsupported,
                    bind: String::new(),
                    bind_to_port: false,
                    tls: None,
                    passthrough: true,
                    host: String::new(),
                    stat: INBOUND_PASSTHROUGH_CLUSTER.to_owned(),
                    metadata: None,
                },
            )
        })
        .collect()
}

/// Connections to the capture port itself would loop.
fn blackhole(inputs: &Inputs) -> listener::FilterChain {
    let mut filters = network::metadata_exchange(inputs);
    filters.extend(network::fixed(inputs, names::well_known::BLACK_HOLE_CLUSTER, Class::SidecarInbound, false));
    listener::FilterChain {
        name: VIRTUAL_INBOUND_BLACKHOLE.to_owned(),
        filter_chain_match: Some(listener::FilterChainMatch {
            destination_port: Some(inputs.mesh().proxy_inbound_listen_port.into()),
            ..Default::default()
        }),
        filters,
        ..Default::default()
    }
}

fn listener(
    inputs: &Inputs,
    name: &str,
    bind: &str,
    port: u16,
    bind_to_port: bool,
    chains: Vec<listener::FilterChain>,
) -> listener::Listener {
    let tproxy = !bind_to_port && inputs.proxy().interception == Interception::Tproxy;
    let mut filters = Vec::new();
    if !bind_to_port {
        filters.push(super::original_dst());
    }
    if tproxy {
        filters.push(super::original_src());
    }
    filters.extend(inspectors(&chains));
    listener::Listener {
        name: name.to_owned(),
        address: Some(address(bind, port.into())),
        traffic_direction: core::TrafficDirection::Inbound as i32,
        continue_on_listener_filters_timeout: true,
        listener_filters_timeout: Some(duration(inputs.mesh().protocol_detection_timeout)),
        transparent: tproxy.then_some(true),
        filter_chains: chains,
        listener_filters: filters,
        max_connections_to_accept_per_socket_event: Some(1),
        ..Default::default()
    }
}

/// The inspectors that the chains' matches need, switched off on ports that need none: inspection delays
/// server-first protocols.
fn inspectors(chains: &[listener::FilterChain]) -> Vec<listener::ListenerFilter> {
    let mut needs: BTreeMap<u32, (bool, bool)> = BTreeMap::new();
    for chain in chains {
        let m = chain.filter_chain_match.clone().unwrap_or_default();
        let entry = needs.entry(m.destination_port.unwrap_or(0)).or_default();
        entry.0 |= m.transport_protocol == TLS;
        entry.1 |= m.application_protocols.iter().any(|a| PLAINTEXT_HTTP_ALPNS.contains(&a.as_str()));
    }
    let filter = |mut base: listener::ListenerFilter, wanted: &dyn Fn(&(bool, bool)) -> bool| {
        if !needs.values().any(wanted) {
            return None;
        }
        let ports =
            |on: bool| needs.iter().filter(|(p, n)| **p != 0 && wanted(n) == on).map(|(p, _)| *p).collect::<Vec<_>>();
        let by_default = needs.get(&0).is_some_and(wanted);
        base.filter_disabled = match (by_default, ports(!by_default)) {
            (_, list) if list.is_empty() => None,
            (true, off) => Some(port_predicate(&off)),
            (false, on) => Some(not(port_predicate(&on))),
        };
        Some(base)
    };
    let tls = filter(super::tls_inspector(), &|n| n.0);
    let http = filter(super::http_inspector(), &|n| n.1);
    [tls, http].into_iter().flatten().collect()
}

type Predicate = listener::ListenerFilterChainMatchPredicate;
use listener::listener_filter_chain_match_predicate::{MatchSet, Rule};

fn port_predicate(ports: &[u32]) -> Predicate {
    let range = |p: &u32| {
        let start = i32::try_from(*p).expect("ports are below 65536");
        Predicate { rule: Some(Rule::DestinationPortRange(Int32Range { start, end: start + 1 })) }
    };
    let mut rules: Vec<Predicate> = ports.iter().map(range).collect();
    if rules.len() == 1 {
        return rules.remove(0);
    }
    Predicate { rule: Some(Rule::OrMatch(MatchSet { rules })) }
}

fn not(predicate: Predicate) -> Predicate {
    Predicate { rule: Some(Rule::NotMatch(Box::new(predicate))) }
}
