//! What does a gateway proxy listen on? One listener per merged port: HTTP by routes, HTTPS by server name, TCP and
//! TLS pass-through by virtual services. Follows `gateway.go`.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::networking::{L4MatchAttributes, Server, ServerTlsMode};
use model::gateway::{is_https_terminated, is_passthrough, is_tcp_with_tls, protocol};
use model::{GatewayServer, ResolvedVirtualService};
use names::{ClusterName, Hostname, PortProtocol};
use protos::envoy::config::core::v3 as core;
use protos::envoy::config::listener::v3 as listener;

use super::hcm::{self, Options, Routes};
use super::{Chain, Class, network};
use crate::Inputs;
use crate::tls::{self, MTLS_ALPNS, alpns};
use crate::wire::{address, any, config_metadata, delimited, listener_filter, no_timeout};

/// Server names taken on a port, with the bind address of their server.
type TakenNames = BTreeMap<u16, BTreeMap<String, String>>;

pub(super) fn build(inputs: &Inputs) -> Vec<listener::Listener> {
    let Some(gateway) = &inputs.view.gateway else {
        return Vec::new();
    };
    let mut taken = TakenNames::new();
    let mut by_name: BTreeMap<String, (String, u16, Vec<Chain>)> = BTreeMap::new();
    for port in &gateway.ports {
        if inputs.proxy().unprivileged && port.number < 1024 {
            continue;
        }
        let bind = if port.bind.is_empty() { inputs.proxy().wildcard().to_owned() } else { port.bind.clone() };
        let name = names::listener_name(&bind, port.number);
        let mut chains = Vec::new();
        if port.protocol.is_http() {
            chains.push(http_chain(inputs, &port.route_name, &name, "", port.protocol));
        } else {
            for server in &port.servers {
                chains.extend(server_chains(inputs, server, port.number, &name, &mut taken));
            }
        }
        by_name.entry(name).or_insert_with(|| (bind, port.number, Vec::new())).2.extend(chains);
    }
    by_name
        .into_iter()
        .filter(|(_, (.., chains))| !chains.is_empty())
        .map(|(name, (bind, port, chains))| finish(inputs, name, &bind, port, &chains))
        .collect()
}

fn finish(inputs: &Inputs, name: String, bind: &str, port: u16, chains: &[Chain]) -> listener::Listener {
    let mut filters = Vec::new();
    if inputs.proxy().config(inputs.mesh(), "/gatewayTopology/proxyProtocol").is_some() {
        use protos::envoy::extensions::filters::listener::proxy_protocol::v3::ProxyProtocol;
        filters.push(listener_filter("envoy.filters.listener.proxy_protocol", any(&ProxyProtocol::default())));
    }
    if chains.iter().any(|c| !c.sni_hosts.is_empty() || c.transport_socket.is_some()) {
        filters.push(super::tls_inspector());
    }
    listener::Listener {
        name,
        address: Some(address(bind, port.into())),
        traffic_direction: core::TrafficDirection::Outbound as i32,
        listener_filters: filters,
        // Nothing here is server-first: a client that asked for TLS may take its time.
        listener_filters_timeout: Some(no_timeout()),
        filter_chains: chains
            .iter()
            .map(|c| listener::FilterChain {
                transport_socket_connect_timeout: Some(tls::handshake_timeout()),
                ..c.to_filter_chain()
            })
            .collect(),
        max_connections_to_accept_per_socket_event: Some(1),
        ..Default::default()
    }
}

fn http_chain(inputs: &Inputs, route: &str, listener: &str, stat: &str, protocol: PortProtocol) -> Chain {
    let stat = if stat.is_empty() { delimited(&format!("outbound_{listener}")) } else { stat.to_owned() };
    let options = Options { class: Class::Gateway, routes: Routes::Rds(route.to_owned()), stat_prefix: stat, protocol };
    Chain { http: true, filters: vec![hcm::filter(inputs, options)], ..Default::default() }
}

fn server_chains(
    inputs: &Inputs,
    server: &Arc<GatewayServer>,
    port: u16,
    listener: &str,
    taken: &mut TakenNames,
) -> Vec<Chain> {
    let s = &server.server;
    let terminate = |tcp: bool| s.tls.as_ref().and_then(|t| tls::server_socket(t, inputs, tcp));
    if is_https_terminated(s) {
        let mut chain = http_chain(inputs, &server.route_name, listener, &s.name, protocol(s));
        chain.sni_hosts = server.sni_hosts.clone();
        chain.transport_socket = terminate(false);
        return vec![chain];
    }
    if is_passthrough(s) {
        return passthrough_chains(inputs, server, port, taken);
    }
    let Some((filters, v)) = tcp_filters(inputs, server) else {
        return Vec::new();
    };
    vec![Chain {
        sni_hosts: server.sni_hosts.clone(),
        transport_socket: if is_tcp_with_tls(s) { terminate(true) } else { None },
        metadata: config_metadata(&v.config.kind, &v.config.namespace, &v.config.name),
        filters,
        ..Default::default()
    }]
}

/// Whether a virtual service has a host that the server exposes to its namespace.
pub(crate) fn exposes(server: &Server, v: &ResolvedVirtualService) -> bool {
    v.hosts.iter().any(|host| {
        server.hosts.iter().any(|exposed| {
            let exposed = match exposed.split_once('/') {
                Some((ns, _)) if *ns != *v.config.namespace => return false,
                Some((_, dns)) => dns,
                None => exposed,
            };
            Hostname::from(exposed).matches(host)
        })
    })
}

fn l4_matches(server: &Server, gateway: &str, port: u32, gateways: &[String]) -> bool {
    let number = server.port.as_ref().map_or(0, |p| p.number);
    (port == 0 || port == number) && (gateways.is_empty() || gateways.iter().any(|g| g == gateway))
}

fn server_port(server: &Server) -> u16 {
    server.port.as_ref().and_then(|p| u16::try_from(p.number).ok()).unwrap_or(0)
}

/// The first TCP rule that applies to an opaque server.
fn tcp_filters(
    inputs: &Inputs,
    server: &GatewayServer,
) -> Option<(Vec<listener::Filter>, Arc<ResolvedVirtualService>)> {
    let rules = inputs.snapshot().virtual_services.for_gateway(&inputs.proxy().namespace, &server.gateway);
    let s = &server.server;
    let exchange = s.tls.as_ref().is_some_and(|t| t.mode == ServerTlsMode::IstioMutual);
    for v in rules.into_iter().filter(|v| exposes(s, v)) {
        for rule in &v.config.spec.tcp {
            let fits = |m: &L4MatchAttributes| l4_matches(s, &server.gateway, m.port, &m.gateways);
            if !rule.matches.is_empty() && !rule.matches.iter().any(fits) {
                continue;
            }
            let source = format!("{}.{}", v.config.name, v.config.namespace);
            let filters = network::routed(inputs, &rule.route, server_port(s), &source, exchange);
            if !filters.is_empty() {
                return Some((filters, v));
            }
        }
    }
    None
}

fn passthrough_chains(inputs: &Inputs, server: &GatewayServer, port: u16, taken: &mut TakenNames) -> Vec<Chain> {
    let s = &server.server;
    if s.tls.as_ref().is_some_and(|t| t.mode == ServerTlsMode::AutoPassthrough) {
        return auto_passthrough(inputs, &server.sni_hosts);
    }
    let mut out = Vec::new();
    let rules = inputs.snapshot().virtual_services.for_gateway(&inputs.proxy().namespace, &server.gateway);
    for v in rules.iter().filter(|v| exposes(s, v)) {
        for rule in v.config.spec.tls.iter().filter(|r| !r.route.is_empty()) {
            for m in &rule.matches {
                if !l4_matches(s, &server.gateway, m.port, &m.gateways) {
                    continue;
                }
                // Envoy refuses a listener with two equal matches: the older rule keeps the name.
                let known = taken.entry(port).or_default();
                if m.sni_hosts.iter().any(|h| known.get(h).is_some_and(|b| *b == s.bind)) {
                    continue;
                }
                known.extend(m.sni_hosts.iter().map(|h| (h.clone(), s.bind.clone())));
                let source = format!("{}.{}", v.config.name, v.config.namespace);
                let filters = network::routed(inputs, &rule.route, server_port(s), &source, false);
                if filters.is_empty() {
                    continue;
                }
                out.push(Chain {
                    metadata: config_metadata(&v.config.kind, &v.config.namespace, &v.config.name),
                    sni_hosts: m.sni_hosts.clone(),
                    filters,
                    ..Default::default()
                });
            }
        }
    }
    out
}

/// East-west gateways: the server name is the cluster's, and only mesh mTLS gets in.
fn auto_passthrough(inputs: &Inputs, hosts: &[String]) -> Vec<Chain> {
    let exposed = |host: &Hostname| hosts.iter().any(|h| host.subset_of(&Hostname::from(h.as_str())));
    let mut out = Vec::new();
    for service in inputs.scope().services.iter().filter(|s| !s.mesh_external && exposed(&s.hostname)) {
        let rule = inputs.scope().rule(&service.hostname, &inputs.proxy().labels, false);
        let subsets = rule.iter().flat_map(|r| r.config.spec.subsets.iter().map(|s| s.name.as_str()));
        let subsets: Vec<&str> = std::iter::once("").chain(subsets).collect();
        for port in service.ports.iter().filter(|p| p.protocol != PortProtocol::Udp) {
            for subset in &subsets {
                let cluster = ClusterName::outbound(port.number, subset, &service.hostname).to_sni();
                let stat = network::stat_prefix(inputs, Some(service), subset, port.number, &cluster);
                out.push(Chain {
                    sni_hosts: vec![cluster.clone()],
                    alpns: alpns(&MTLS_ALPNS),
                    filters: network::single(inputs, &cluster, &stat, subset, None, false),
                    ..Default::default()
                });
            }
        }
    }
    out
}
