//! What happens to connections from the application? One listener per service address and port (bytes, TLS) or per
//! port (HTTP), and `virtualOutbound` for everything else. Follows `listener.go` and `tls.go`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::networking::CaptureMode;
use model::service::UNSPECIFIED;
use model::{EgressListener, Interception, OutboundMode, Port, Registry, Resolution, ResolvedVirtualService, Service};
use names::well_known::{
    BLACK_HOLE_CLUSTER, MESH_GATEWAY, PASSTHROUGH_CLUSTER, VIRTUAL_OUTBOUND, VIRTUAL_OUTBOUND_BLACKHOLE,
    VIRTUAL_OUTBOUND_CATCHALL_TCP,
};
use names::{ClusterName, LabelsExt, PortProtocol};
use protos::envoy::config::core::v3 as core;
use protos::envoy::config::listener::v3 as listener;

use super::hcm::{self, Options, Routes};
use super::{Chain, Class, RAW_BUFFER, network};
use crate::Inputs;
use crate::tls::{PLAINTEXT_HTTP_ALPNS, alpns};
use crate::wire::{address, config_metadata, delimited, duration, no_timeout};

/// The chain for bytes that match no service of a sniffed port.
const PASSTHROUGH_CHAIN: &str = "PassthroughFilterChain";

/// A listener under construction.
struct Entry {
    bind: String,
    port: u16,
    bind_to_port: bool,
    chains: Vec<Chain>,
    protocol: PortProtocol,
    /// What HTTP chains are made from; they are made last, as their stat prefix is the listener's name.
    rds: Option<(String, PortProtocol)>,
}

/// One service port to be given a listener.
#[derive(Clone)]
struct Wanted<'a> {
    service: &'a Arc<Service>,
    port: Port,
    /// Address to bind to; empty for the service's own.
    bind: String,
    bind_to_port: bool,
    /// Virtual services with TLS or TCP rules.
    rules: Arc<[Arc<ResolvedVirtualService>]>,
}

/// What a service port asks of the listener it shares.
struct Call<'a> {
    wanted: Wanted<'a>,
    /// A chain for HTTP; else one for bytes to these ranges.
    http: bool,
    cidrs: Vec<String>,
    /// The egress listener it comes from.
    egress: usize,
}

/// A listener that is to be: everybody who shares it, older services first. Nothing else decides what it holds beside
/// the facts of the proxy, so it is what `incremental::listeners` keeps it by.
pub(crate) struct Group<'a> {
    pub(crate) bind: String,
    pub(crate) port: u16,
    calls: Vec<Call<'a>>,
}

pub(crate) type Groups<'a> = BTreeMap<(String, u16), Group<'a>>;

/// The cluster for destinations nobody knows.
pub(crate) fn fallback_cluster(inputs: &Inputs) -> String {
    match (inputs.scope().outbound_mode, &inputs.scope().egress_proxy) {
        (OutboundMode::RegistryOnly, _) => BLACK_HOLE_CLUSTER.to_owned(),
        (OutboundMode::AllowAny, None) => PASSTHROUGH_CLUSTER.to_owned(),
        (OutboundMode::AllowAny, Some(proxy)) => crate::route::destination_cluster(proxy, None, 0),
    }
}

/// `virtualOutbound`: takes all captured connections and hands them to the listener of their destination.
pub(super) fn virtual_outbound(inputs: &Inputs) -> Option<listener::Listener> {
    let proxy = inputs.proxy();
    if proxy.interception == Interception::None {
        return None;
    }
    let port = inputs.mesh().proxy_listen_port;
    let chain = |name: &str, destination: Option<u16>, filters| listener::FilterChain {
        name: name.to_owned(),
        filter_chain_match: destination
            .map(|p| listener::FilterChainMatch { destination_port: Some(p.into()), ..Default::default() }),
        filters,
        ..Default::default()
    };
    let class = Class::SidecarOutbound;
    Some(listener::Listener {
        name: VIRTUAL_OUTBOUND.to_owned(),
        address: Some(address(proxy.wildcard(), port.into())),
        traffic_direction: core::TrafficDirection::Outbound as i32,
        use_original_dst: Some(true),
        transparent: (proxy.interception == Interception::Tproxy).then_some(true),
        max_connections_to_accept_per_socket_event: Some(1),
        filter_chains: vec![
            // A connection to the capture port itself would loop.
            chain(VIRTUAL_OUTBOUND_BLACKHOLE, Some(port), network::fixed(inputs, BLACK_HOLE_CLUSTER, class, false)),
            chain(VIRTUAL_OUTBOUND_CATCHALL_TCP, None, network::fixed(inputs, &fallback_cluster(inputs), class, true)),
        ],
        ..Default::default()
    })
}

/// Listeners for everything in scope.
pub(super) fn build(inputs: &Inputs) -> Vec<listener::Listener> {
    let mut out: Vec<listener::Listener> = groups(inputs).iter().filter_map(|g| shared(inputs, g)).collect();
    out.extend(http_proxy(inputs));
    out
}

/// Who wants which listener.
pub(crate) fn groups(inputs: &Inputs) -> Vec<Group<'_>> {
    let mut groups = Groups::new();
    for (n, egress) in inputs.scope().egress.iter().enumerate() {
        from_egress(inputs, egress, &egress.services, n, &mut groups);
    }
    groups.into_values().collect()
}

/// What some services of the catch-all ask for, in a scope without `Sidecar`.
pub(crate) fn asked_by<'a>(inputs: &'a Inputs, services: &'a [Arc<Service>]) -> Groups<'a> {
    let mut groups = Groups::new();
    if let [egress] = inputs.scope().egress.as_slice() {
        from_egress(inputs, egress, services, 0, &mut groups);
    }
    groups
}

/// Whether some listeners of a service follow its endpoints.
pub(crate) fn has_listeners_per_endpoint(inputs: &Inputs, service: &Service) -> bool {
    service.ports.iter().any(|p| per_endpoint(inputs, service, p))
}

/// The listener that a group shares.
pub(crate) fn shared(inputs: &Inputs, group: &Group<'_>) -> Option<listener::Listener> {
    let mut entry = None;
    for call in &group.calls {
        if call.http {
            http(inputs, group, call, &mut entry);
        } else {
            bytes(inputs, group, call, &mut entry);
        }
    }
    Some(finish(inputs, entry?))
}

impl<'a> Group<'a> {
    /// Services whose bytes it carries. HTTP chains are the same for all services: routes tell them apart.
    pub(crate) fn services(&self) -> impl Iterator<Item = &'a Arc<Service>> {
        self.calls.iter().filter(|c| !c.http).map(|c| c.wanted.service)
    }

    /// What they ask for if nobody asks for bytes.
    pub(crate) fn only_http(&self) -> Option<Vec<(PortProtocol, bool)>> {
        let asked = self.calls.iter().map(|c| c.http.then_some((c.wanted.port.protocol, c.wanted.bind_to_port)));
        asked.collect()
    }

    /// Whether `other` asks for a listener that comes out the same: services that differ in other ports only.
    pub(crate) fn is_asked_the_same(&self, other: &Group<'_>) -> bool {
        let same = |(a, b): (&Call<'_>, &Call<'_>)| {
            let (x, y) = (&a.wanted, &b.wanted);
            a.http == b.http
                && a.cidrs == b.cidrs
                && a.egress == b.egress
                && x.port == y.port
                && x.bind == y.bind
                && x.bind_to_port == y.bind_to_port
                && x.rules.is_empty()
                && y.rules.is_empty()
                && x.service.is_same_but_for_ports(y.service)
        };
        self.calls.len() == other.calls.len() && self.calls.iter().zip(&other.calls).all(same)
    }

    /// What they ask for, as text. `None`: rules of virtual services have a say, which depends on more.
    pub(crate) fn text(&self) -> Option<String> {
        use std::fmt::Write as _;
        let mut out = format!("{}:{}", self.bind, self.port);
        let mut last = None;
        for c in &self.calls {
            let (port, to_port) = (&c.wanted.port, c.wanted.bind_to_port);
            if c.http {
                // Asking for the same again changes nothing.
                let asked = (port.protocol, to_port);
                if last.replace(asked) != Some(asked) {
                    let _ = write!(out, "|http{}{:?}", u8::from(to_port), port.protocol);
                }
                continue;
            }
            last = None;
            if applicable(&c.wanted).next().is_some() {
                return None;
            }
            let _ = write!(out, "|{}{:?}{}", u8::from(to_port), port.protocol, port.name);
            for cidr in &c.cidrs {
                let _ = write!(out, ",{cidr}");
            }
        }
        Some(out)
    }
}

/// What `services` of an egress listener ask for.
fn from_egress<'a>(
    inputs: &'a Inputs,
    egress: &'a EgressListener,
    services: &'a [Arc<Service>],
    number: usize,
    groups: &mut Groups<'a>,
) {
    let proxy = inputs.proxy();
    let bind_to_port = proxy.interception == Interception::None
        || egress.capture_mode == CaptureMode::None
        || egress.bind.starts_with("unix://");
    let bind = match (egress.bind.as_str(), bind_to_port) {
        ("", true) => proxy.localhost().to_owned(),
        (bind, _) => bind.to_owned(),
    };
    let rules: Arc<[Arc<ResolvedVirtualService>]> =
        egress.virtual_services.iter().filter(|v| v.has_byte_rules()).cloned().collect();
    let wanted = |service, port: Port, bind: &str| Wanted {
        service,
        port,
        bind: bind.to_owned(),
        bind_to_port,
        rules: rules.clone(),
    };
    if let Some(stated) = &egress.port {
        if bind_to_port && proxy.unprivileged && stated.number < 1024 && stated.number > 0 {
            return;
        }
        for service in services {
            let port = Port {
                name: stated.name.as_str().into(),
                number: stated.number,
                protocol: stated.protocol,
                target: model::TargetPort::Number(stated.number),
            };
            add(inputs, wanted(service, port, &bind), number, groups);
        }
        return;
    }
    for service in services {
        for port in &service.ports {
            let reserved = super::is_reserved(port.number);
            if bind_to_port && (reserved || (proxy.unprivileged && port.number < 1024)) {
                continue;
            }
            if bind.is_empty() && per_endpoint(inputs, service, port) {
                let endpoints = inputs.snapshot().endpoints_of(service);
                let of_port = endpoints.iter().filter(|e| e.service_port == port.name && names::is_ip(&e.address));
                let addresses: BTreeSet<&str> = of_port.map(|e| &*e.address).collect();
                // Nothing to bind to: a plain service entry still deserves its port on the wildcard.
                if addresses.is_empty() && service.registry == Registry::External && service.selector.is_none() {
                    add(inputs, wanted(service, port.clone(), ""), number, groups);
                }
                // The workload's calls to itself do not pass here.
                for a in addresses.into_iter().filter(|a| !proxy.ips.iter().any(|ip| ip == a)) {
                    add(inputs, wanted(service, port.clone(), a), number, groups);
                }
                continue;
            }
            add(inputs, wanted(service, port.clone(), &bind), number, groups);
        }
    }
}

/// Headless services have no address to tell their connections by: bytes get a listener per endpoint.
fn per_endpoint(inputs: &Inputs, service: &Service, port: &Port) -> bool {
    let p = port.protocol;
    service.resolution == Resolution::Passthrough
        && service.listened_for(inputs.proxy().reach()).is_empty()
        && (p.is_tcp() || p == PortProtocol::Unsupported)
}

fn add<'a>(inputs: &Inputs, wanted: Wanted<'a>, egress: usize, groups: &mut Groups<'a>) {
    let protocol = wanted.port.protocol;
    if wanted.service.resolution == Resolution::Alias
        || !wanted.service.is_reachable(&wanted.port)
        || protocol == PortProtocol::Hbone
    {
        return;
    }
    let wildcard = inputs.proxy().wildcard();
    let mut call = |bind: String, http: bool, cidrs: Vec<String>| {
        // Captured bytes on such a port bind nothing.
        if (http || !wanted.bind.is_empty()) && conflicts_with_own_ports(inputs, &bind, wanted.port.number) {
            return;
        }
        let call = Call { wanted: wanted.clone(), http, cidrs, egress };
        let port = wanted.port.number;
        match groups.entry((bind.clone(), port)) {
            std::collections::btree_map::Entry::Vacant(free) => {
                free.insert(Group { bind, port, calls: vec![call] });
            }
            // What the `Sidecar` states is not joined by services found later.
            std::collections::btree_map::Entry::Occupied(mut taken) => {
                let catch_all = inputs.scope().egress.get(egress).is_some_and(|e| e.port.is_none());
                if !(catch_all && taken.get().calls.iter().any(|c| c.egress != egress)) {
                    taken.get_mut().calls.push(call);
                }
            }
        }
    };
    if protocol.is_http() {
        let bind = if wanted.bind.is_empty() { wildcard.to_owned() } else { wanted.bind.clone() };
        return call(bind, true, Vec::new());
    }
    if !wanted.bind.is_empty() {
        return call(wanted.bind.clone(), false, Vec::new());
    }
    let addresses = wanted.service.listened_for(inputs.proxy().reach());
    let (ranges, plain): (Vec<&String>, Vec<&String>) = addresses.iter().partition(|a| a.contains('/'));
    for ip in &plain {
        call((*ip).clone(), false, Vec::new());
    }
    if !ranges.is_empty() || plain.is_empty() {
        let cidrs = ranges.into_iter().cloned().collect();
        call(wildcard.to_owned(), false, cidrs);
    }
}

fn conflicts_with_own_ports(inputs: &Inputs, bind: &str, port: u16) -> bool {
    bind == inputs.proxy().wildcard() && super::is_reserved(port)
}

fn server_first(p: PortProtocol) -> bool {
    matches!(p, PortProtocol::Mongo | PortProtocol::Mysql)
}

/// Whether two protocols may share a port: those whose server speaks first cannot be inspected.
fn compatible(a: PortProtocol, b: PortProtocol) -> bool {
    a == b || (!server_first(a) && !server_first(b))
}

fn http(inputs: &Inputs, group: &Group<'_>, call: &Call<'_>, entry: &mut Option<Entry>) {
    let (bind, wanted) = (&group.bind, &call.wanted);
    let inspected = bind == inputs.proxy().wildcard() && wanted.port.protocol != PortProtocol::HttpProxy;
    let chain = Chain {
        http: true,
        alpns: if inspected { alpns(&PLAINTEXT_HTTP_ALPNS) } else { Vec::new() },
        transport: if inspected { RAW_BUFFER } else { "" },
        ..Default::default()
    };
    let rds = if wanted.port.number == 0 { bind.clone() } else { wanted.port.number.to_string() };
    match entry {
        None => {
            let protocol = if inspected { PortProtocol::Unsupported } else { wanted.port.protocol };
            *entry = Some(Entry {
                bind: bind.clone(),
                port: wanted.port.number,
                bind_to_port: wanted.bind_to_port,
                chains: vec![chain],
                protocol,
                rds: Some((rds, wanted.port.protocol)),
            });
        }
        // Routes tell HTTP services of a port apart.
        Some(e) if !e.protocol.is_tcp() || !compatible(wanted.port.protocol, e.protocol) => {}
        Some(e) => {
            merge(e, vec![chain]);
            e.rds.get_or_insert((rds, wanted.port.protocol));
            e.protocol = PortProtocol::Unsupported;
        }
    }
}

/// `false`: an older service has the listener, or a chain of it, in this one's place.
fn bytes(inputs: &Inputs, group: &Group<'_>, call: &Call<'_>, entry: &mut Option<Entry>) -> bool {
    let (bind, wanted, cidrs) = (&group.bind, &call.wanted, &call.cidrs);
    let port = &wanted.port;
    let sniffed = port.protocol == PortProtocol::Unsupported;
    let mut chains = byte_chains(inputs, wanted, bind, cidrs);
    let mut rds = None;
    if sniffed {
        let own = bind != inputs.proxy().wildcard();
        rds = Some((names::outbound_route_name(port.number, own.then_some(&wanted.service.hostname)), port.protocol));
        chains.push(Chain {
            http: true,
            alpns: alpns(&PLAINTEXT_HTTP_ALPNS),
            transport: RAW_BUFFER,
            ..Default::default()
        });
    }
    let new = |chains, rds| Entry {
        bind: bind.clone(),
        port: port.number,
        bind_to_port: wanted.bind_to_port,
        chains,
        protocol: port.protocol,
        rds,
    };
    match entry {
        None => *entry = Some(new(chains, rds)),
        Some(e) if !compatible(port.protocol, e.protocol) => return false,
        Some(e) if sniffed && e.protocol.is_http() => *entry = Some(new(chains, rds)),
        Some(e) if sniffed && !e.protocol.is_tcp() => {}
        Some(e) => {
            let upgrade = sniffed != (e.protocol == PortProtocol::Unsupported) || e.protocol.is_http();
            let all = merge(e, chains);
            if rds.is_some() && e.rds.is_none() {
                e.rds = rds;
            }
            if upgrade {
                e.protocol = PortProtocol::Unsupported;
            }
            return all;
        }
    }
    true
}

/// Adds chains whose match is not taken; the older service keeps what both want. `false`: one was left out.
fn merge(entry: &mut Entry, chains: Vec<Chain>) -> bool {
    let wanted = entry.chains.len() + chains.len();
    for chain in chains {
        if !entry.chains.iter().any(|c| c.conflicts_with(&chain)) {
            entry.chains.push(chain);
        }
    }
    entry.chains.len() == wanted
}

/// A service whose bytes cannot be told from those of older services of its listener.
pub(crate) struct Rejected<'a> {
    /// The listener's name.
    pub(crate) listener: String,
    /// Who has it.
    pub(crate) accepted: Vec<&'a Service>,
    /// Who has not.
    pub(crate) rejected: &'a Service,
    /// What the port speaks.
    pub(crate) protocol: PortProtocol,
}

/// Calls `told` for every service that lost its bytes to an older one. For people: the listeners are made for it.
pub(crate) fn rejected(inputs: &Inputs, mut told: impl FnMut(Rejected<'_>)) {
    for group in groups(inputs).iter().filter(|g| g.services().nth(1).is_some()) {
        let mut entry = None;
        let mut accepted: Vec<&Service> = Vec::new();
        for call in &group.calls {
            let service = &**call.wanted.service;
            if call.http {
                http(inputs, group, call, &mut entry);
            } else if bytes(inputs, group, call, &mut entry) {
                accepted.push(service);
            } else if !accepted.iter().any(|a| a.hostname == service.hostname) {
                let listener = names::listener_name(&group.bind, group.port);
                let protocol = call.wanted.port.protocol;
                told(Rejected { listener, accepted: accepted.clone(), rejected: service, protocol });
            }
        }
    }
}

/// Virtual services with TLS or TCP rules for a host.
fn applicable<'a>(wanted: &'a Wanted<'_>) -> impl Iterator<Item = &'a Arc<ResolvedVirtualService>> {
    wanted.rules.iter().filter(|v| v.hosts.iter().any(|h| h.matches(&wanted.service.hostname)))
}

/// The static conditions of a TLS or TCP rule: gateway, source labels and namespace, port.
struct Conditions<'a> {
    gateways: &'a [String],
    labels: &'a names::Labels,
    port: u32,
    namespace: &'a str,
}

impl Conditions<'_> {
    fn hold(&self, inputs: &Inputs, port: u16) -> bool {
        let proxy = inputs.proxy();
        (self.gateways.is_empty() || self.gateways.iter().any(|g| g == MESH_GATEWAY))
            && self.labels.subset_of(&proxy.labels)
            && (self.port == 0 || self.port == u32::from(port))
            && (self.namespace.is_empty() || *self.namespace == *proxy.namespace)
    }
}

fn byte_chains(inputs: &Inputs, wanted: &Wanted<'_>, bind: &str, cidrs: &[String]) -> Vec<Chain> {
    if wanted.port.protocol.is_tls() {
        tls_chains(inputs, wanted, bind, cidrs)
    } else {
        tcp_chains(inputs, wanted, cidrs)
    }
}

/// The chain to the service itself, when no rule takes all of its traffic.
fn default_chain(inputs: &Inputs, wanted: &Wanted<'_>, cidrs: &[String], sni_hosts: Vec<String>) -> Chain {
    let service = wanted.service;
    // A listener port that the service lacks means its only port.
    let port = if let [only] = service.ports.as_slice() { only.number } else { wanted.port.number };
    let cluster = ClusterName::outbound(port, "", &service.hostname).to_string();
    let stat = network::stat_prefix(inputs, Some(service), "", port, &cluster);
    let rule = inputs.scope().rule(&service.hostname, &inputs.proxy().labels, false).map(|r| &r.config);
    let mut filters = network::single(inputs, &cluster, &stat, "", rule, false);
    // What a wildcard stands for is resolved by the name that the client asks for.
    let by_sni = wanted.port.protocol.is_tls();
    if by_sni && wanted.service.resolution == Resolution::DynamicDns && wanted.service.hostname.is_wildcard() {
        filters.insert(0, network::sni_dynamic_forward_proxy(inputs, wanted.port.number));
    }
    Chain { sni_hosts, cidrs: cidrs.to_vec(), filters, ..Default::default() }
}

fn tls_chains(inputs: &Inputs, wanted: &Wanted<'_>, bind: &str, cidrs: &[String]) -> Vec<Chain> {
    let port = wanted.port.number;
    let mut out = Vec::new();
    let mut handled = BTreeSet::new();
    for v in applicable(wanted) {
        for rule in &v.config.spec.tls {
            for m in &rule.matches {
                let conditions = Conditions {
                    gateways: &m.gateways,
                    labels: &m.source_labels,
                    port: m.port,
                    namespace: &m.source_namespace,
                };
                // Equal conditions at run time: only the first can ever match.
                if !conditions.hold(inputs, port)
                    || !handled.insert((m.sni_hosts.clone(), m.destination_subnets.clone()))
                {
                    continue;
                }
                let subnets =
                    if m.destination_subnets.is_empty() || port == 0 { cidrs } else { &m.destination_subnets };
                let source = format!("{}.{}", v.config.name, v.config.namespace);
                out.push(Chain {
                    metadata: config_metadata(&v.config.kind, &v.config.namespace, &v.config.name),
                    sni_hosts: m.sni_hosts.clone(),
                    cidrs: subnets.to_vec(),
                    filters: network::routed(inputs, &rule.route, port, &source, false),
                    ..Default::default()
                });
            }
        }
    }
    out.retain(|c| !c.filters.is_empty());
    if !out.is_empty() {
        return out;
    }
    let service = wanted.service;
    let own = service.listened_for(inputs.proxy().reach());
    let wildcard = inputs.proxy().wildcard();
    // Where the address does not tell services apart, the server name must.
    let by_name = !cidrs.is_empty() || (bind == wildcard && own.iter().all(|a| a == UNSPECIFIED || a.contains('/')));
    let mut sni = Vec::new();
    if by_name {
        sni.push(service.hostname.to_string());
        for alias in &service.aliases {
            sni.push(alias.to_string());
            sni.extend(crate::route::domains::alternatives(alias, &inputs.proxy().dns_domain));
        }
    }
    vec![default_chain(inputs, wanted, cidrs, sni)]
}

fn tcp_chains(inputs: &Inputs, wanted: &Wanted<'_>, cidrs: &[String]) -> Vec<Chain> {
    let port = wanted.port.number;
    let mut out: Vec<Chain> = Vec::new();
    for v in applicable(wanted) {
        let source = format!("{}.{}", v.config.name, v.config.namespace);
        for rule in &v.config.spec.tcp {
            let chain = |cidrs: &[String]| Chain {
                metadata: config_metadata(&v.config.kind, &v.config.namespace, &v.config.name),
                cidrs: cidrs.to_vec(),
                filters: network::routed(inputs, &rule.route, port, &source, false),
                ..Default::default()
            };
            let holding: Vec<_> = rule
                .matches
                .iter()
                .filter(|m| {
                    let c = Conditions {
                        gateways: &m.gateways,
                        labels: &m.source_labels,
                        port: m.port,
                        namespace: &m.source_namespace,
                    };
                    c.hold(inputs, port)
                })
                .collect();
            let catch_all =
                rule.matches.is_empty() || holding.iter().any(|m| m.destination_subnets.is_empty() || port == 0);
            if catch_all {
                let c = chain(cidrs);
                if !c.filters.is_empty() {
                    out.push(c);
                    return out;
                }
            }
            let subnets: Vec<String> = holding.iter().flat_map(|m| m.destination_subnets.iter().cloned()).collect();
            if !subnets.is_empty() {
                out.push(chain(&subnets));
            }
        }
    }
    out.retain(|c| !c.filters.is_empty());
    let default = default_chain(inputs, wanted, cidrs, Vec::new());
    if !out.iter().any(|c| c.conflicts_with(&default)) {
        out.push(default);
    }
    out
}

fn finish(inputs: &Inputs, mut entry: Entry) -> listener::Listener {
    let unix = entry.bind.starts_with("unix://");
    let name = if unix { entry.bind.clone() } else { names::listener_name(&entry.bind, entry.port) };
    if let Some((rds, protocol)) = entry.rds.take() {
        for chain in entry.chains.iter_mut().filter(|c| c.http) {
            let options = Options {
                class: Class::SidecarOutbound,
                routes: Routes::Rds(rds.clone()),
                stat_prefix: delimited(&format!("outbound_{name}")),
                protocol,
            };
            chain.filters = vec![hcm::filter(inputs, options)];
        }
    }
    let needs_http = entry.chains.iter().any(|c| !c.alpns.is_empty());
    let needs_tls = needs_http || entry.chains.iter().any(|c| !c.sni_hosts.is_empty());
    let mut out = listener::Listener {
        address: Some(address(&entry.bind, entry.port.into())),
        traffic_direction: core::TrafficDirection::Outbound as i32,
        continue_on_listener_filters_timeout: true,
        bind_to_port: (!entry.bind_to_port).then_some(false),
        max_connections_to_accept_per_socket_event: entry.bind_to_port.then_some(1),
        listener_filters_timeout: Some(if needs_http {
            duration(inputs.mesh().protocol_detection_timeout)
        } else {
            no_timeout()
        }),
        name,
        ..Default::default()
    };
    // The TLS inspector comes along, or Envoy would add one of its own accord.
    if needs_tls {
        out.listener_filters.push(super::tls_inspector());
    }
    if needs_http {
        out.listener_filters.push(super::http_inspector());
    }
    for chain in &entry.chains {
        if chain.is_match_all() && out.default_filter_chain.is_none() {
            out.default_filter_chain = Some(chain.to_filter_chain());
        } else {
            out.filter_chains.push(chain.to_filter_chain());
        }
    }
    match &out.default_filter_chain {
        Some(_) if out.filter_chains.is_empty() => out.filter_chains.extend(out.default_filter_chain.take()),
        Some(_) => {}
        None => {
            out.default_filter_chain = Some(listener::FilterChain {
                name: PASSTHROUGH_CHAIN.to_owned(),
                filter_chain_match: Some(Default::default()),
                filters: network::fixed(inputs, &fallback_cluster(inputs), Class::SidecarOutbound, true),
                ..Default::default()
            });
        }
    }
    out
}

/// The listener of `proxyHttpPort`, for applications that use an HTTP proxy.
pub(super) fn http_proxy(inputs: &Inputs) -> Option<listener::Listener> {
    let port = inputs.mesh().proxy_http_port;
    if port == 0 {
        return None;
    }
    let entry = Entry {
        bind: inputs.proxy().localhost().to_owned(),
        port,
        bind_to_port: true,
        chains: vec![Chain { http: true, ..Default::default() }],
        protocol: PortProtocol::HttpProxy,
        rds: Some((crate::route::HTTP_PROXY.to_owned(), PortProtocol::HttpProxy)),
    };
    Some(finish(inputs, entry))
}
