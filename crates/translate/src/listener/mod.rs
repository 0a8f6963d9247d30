//! Which listeners does this proxy get (LDS)? Capture listeners, one per service address and port, gateway ports.
//! The kinds are built in `inbound`, `outbound` and `gateway`; what filter chains hold in `hcm` and `network`.

pub mod connection;
mod gateway;
pub(crate) mod hcm;
pub(crate) mod inbound;
pub mod network;
pub(crate) mod outbound;

pub(crate) use outbound::{Group, asked_by, fallback_cluster, groups, has_listeners_per_endpoint};

use names::NodeType;
use names::well_known::VIRTUAL_OUTBOUND;
use protos::envoy::config::core::v3 as core;
use protos::envoy::config::listener::v3 as listener;

use crate::Inputs;
use crate::patch::Patches;
use crate::wire::{any, cidr, listener_filter};

/// Which side of which proxy a piece of configuration is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// From the application of a sidecar.
    SidecarOutbound,
    /// To the application of a sidecar.
    SidecarInbound,
    /// A gateway.
    Gateway,
}

impl Class {
    /// The class of outbound-like configuration of a proxy.
    pub fn outbound(node: NodeType) -> Self {
        if node == NodeType::Sidecar { Class::SidecarOutbound } else { Class::Gateway }
    }
}

/// Transport protocol of plain bytes in filter chain matches.
pub(crate) const RAW_BUFFER: &str = "raw_buffer";
/// Transport protocol of TLS in filter chain matches.
pub(crate) const TLS: &str = "tls";

/// All listeners of the proxy, in no particular order.
pub fn build(inputs: &Inputs) -> Vec<listener::Listener> {
    let mut out = unpatched(inputs);
    crate::patch::listener::apply(inputs, &Patches::of(inputs, &crate::patch::listener::APPLY_TO), &mut out);
    out
}

/// The listeners before `EnvoyFilter`s.
pub(crate) fn unpatched(inputs: &Inputs) -> Vec<listener::Listener> {
    let mut out = match inputs.proxy().node_type {
        NodeType::Sidecar => {
            let mut out = outbound::build(inputs);
            out.extend(outbound::virtual_outbound(inputs));
            out.extend(inbound::build(inputs));
            out
        }
        _ => gateway::build(inputs),
    };
    for l in &mut out {
        common(inputs, l);
    }
    out
}

/// What every listener has, whatever its kind. Listeners of single services don't log by themselves: what no chain takes
/// goes by the capture.
fn common(inputs: &Inputs, l: &mut listener::Listener) {
    l.per_connection_buffer_limit_bytes = connection::listener_buffer(inputs);
    let of_service = inputs.proxy().node_type == NodeType::Sidecar
        && l.traffic_direction() == core::TrafficDirection::Outbound
        && l.name != VIRTUAL_OUTBOUND;
    if !of_service {
        l.access_log = crate::access_log::listener(inputs, l.traffic_direction());
    }
}

/// Listeners of a sidecar that belong to no service it calls, without patches: the captures and the HTTP proxy.
pub(crate) fn own(inputs: &Inputs) -> Vec<listener::Listener> {
    let mut out: Vec<_> = outbound::virtual_outbound(inputs).into_iter().collect();
    out.extend(inbound::build(inputs));
    out.extend(outbound::http_proxy(inputs));
    out.iter_mut().for_each(|l| common(inputs, l));
    out
}

/// The listener that some services share, without patches.
pub(crate) fn shared(inputs: &Inputs, group: &Group<'_>) -> Option<listener::Listener> {
    let mut out = outbound::shared(inputs, group)?;
    common(inputs, &mut out);
    Some(out)
}

/// What a filter chain matches on and holds, before it becomes one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chain {
    pub(crate) name: String,
    pub(crate) sni_hosts: Vec<String>,
    pub(crate) cidrs: Vec<String>,
    pub(crate) alpns: Vec<String>,
    pub(crate) transport: &'static str,
    pub(crate) metadata: Option<core::Metadata>,
    pub(crate) transport_socket: Option<core::TransportSocket>,
    pub(crate) filters: Vec<listener::Filter>,
    /// Whether an HTTP connection manager is among the filters.
    pub(crate) http: bool,
}

impl Chain {
    /// Whether it takes whatever no other chain takes.
    pub(crate) fn is_match_all(&self) -> bool {
        (self.sni_hosts.is_empty() || self.sni_hosts.iter().any(|h| h == "*"))
            && self.alpns.is_empty()
            && self.transport.is_empty()
            && self.cidrs.is_empty()
    }

    /// Whether Envoy would see the same match in both.
    pub(crate) fn conflicts_with(&self, other: &Chain) -> bool {
        let snis = |c: &Chain| {
            let mut s: Vec<String> = c.sni_hosts.iter().filter(|h| *h != "*").cloned().collect();
            s.sort();
            s
        };
        self.transport == other.transport
            && self.alpns == other.alpns
            && snis(self) == snis(other)
            && networks(&self.cidrs) == networks(&other.cidrs)
    }

    pub(crate) fn to_match(&self) -> Option<listener::FilterChainMatch> {
        if self.is_match_all() {
            return None;
        }
        let mut server_names = self.sni_hosts.clone();
        if server_names.iter().any(|h| h == "*") {
            server_names.clear();
        }
        server_names.sort();
        server_names.dedup();
        let mut ranges: Vec<String> = self.cidrs.clone();
        ranges.sort();
        ranges.dedup();
        Some(listener::FilterChainMatch {
            server_names,
            application_protocols: self.alpns.clone(),
            transport_protocol: self.transport.to_owned(),
            prefix_ranges: ranges.iter().filter_map(|c| cidr(c)).filter(|c| c.address_prefix != "0.0.0.0").collect(),
            ..Default::default()
        })
    }

    pub(crate) fn to_filter_chain(&self) -> listener::FilterChain {
        listener::FilterChain {
            filter_chain_match: self.to_match(),
            name: self.name.clone(),
            metadata: self.metadata.clone(),
            transport_socket: self.transport_socket.clone(),
            filters: self.filters.clone(),
            ..Default::default()
        }
    }
}

/// Networks without host bits, sorted, for comparison.
fn networks(cidrs: &[String]) -> Vec<String> {
    let mut out: Vec<String> = cidrs
        .iter()
        .filter_map(|c| {
            let net: ipnet::IpNet = match c.parse() {
                Ok(net) => net,
                Err(_) => c.parse::<std::net::IpAddr>().ok()?.into(),
            };
            (!net.addr().is_unspecified()).then(|| net.trunc().to_string())
        })
        .collect();
    out.sort();
    out.dedup();
    out
}

/// The TLS inspector; it reads little first, as most hellos are small.
pub(crate) fn tls_inspector() -> listener::ListenerFilter {
    use protos::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
    let config = TlsInspector { initial_read_buffer_size: Some(512), ..Default::default() };
    listener_filter("envoy.filters.listener.tls_inspector", any(&config))
}

/// The HTTP inspector.
pub(crate) fn http_inspector() -> listener::ListenerFilter {
    use protos::envoy::extensions::filters::listener::http_inspector::v3::HttpInspector;
    listener_filter("envoy.filters.listener.http_inspector", any(&HttpInspector::default()))
}

/// Restores the destination that was captured.
pub(crate) fn original_dst() -> listener::ListenerFilter {
    use protos::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
    listener_filter("envoy.filters.listener.original_dst", any(&OriginalDst::default()))
}

/// Keeps the client's address towards the application (TPROXY).
pub(crate) fn original_src() -> listener::ListenerFilter {
    use protos::envoy::extensions::filters::listener::original_src::v3::OriginalSrc;
    /// Packets with this mark are not captured again.
    const MARK: u32 = 1337;
    listener_filter("envoy.filters.listener.original_src", any(&OriginalSrc { mark: MARK, ..Default::default() }))
}

/// Whether a listener on the wildcard address would collide with the proxy's own ports.
pub(crate) fn is_reserved(port: u16) -> bool {
    use names::ports::{ADMIN, AGENT_STATUS, HEALTH, INBOUND_CAPTURE, OUTBOUND_CAPTURE, PROXY_METRICS};
    [ADMIN, OUTBOUND_CAPTURE, INBOUND_CAPTURE, AGENT_STATUS, HEALTH, PROXY_METRICS].contains(&port)
}
