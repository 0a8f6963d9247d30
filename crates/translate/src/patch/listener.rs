//! How do patches change listeners, their filter chains and filters?

use api::envoy_filter::{ApplyTo, Operation, PatchContext};
use names::NodeType;
use names::well_known::{VIRTUAL_INBOUND, VIRTUAL_OUTBOUND};
use prost_types::Any;
use protos::envoy::config::core::v3::{
    TrafficDirection, address::Address, socket_address::PortSpecifier, transport_socket::ConfigType as SocketConfig,
};
use protos::envoy::config::listener::v3 as listener;
use protos::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;

use super::{Patch, Patches, edit, route};
use crate::Inputs;
use crate::wire::any;

const HCM: &str = "envoy.filters.network.http_connection_manager";
/// What these patches apply to.
pub(crate) const APPLY_TO: [ApplyTo; 8] = [
    ApplyTo::Listener,
    ApplyTo::ListenerFilter,
    ApplyTo::FilterChain,
    ApplyTo::NetworkFilter,
    ApplyTo::HttpFilter,
    // Routes of inbound listeners are inside.
    ApplyTo::RouteConfiguration,
    ApplyTo::VirtualHost,
    ApplyTo::HttpRoute,
];

/// Applies patches to all listeners.
pub(crate) fn apply(inputs: &Inputs, patches: &Patches, listeners: &mut Vec<listener::Listener>) {
    if patches.is_empty() {
        return;
    }
    let sidecar = inputs.proxy().node_type == NodeType::Sidecar;
    listeners.retain_mut(|l| {
        let context = match l.traffic_direction() {
            _ if !sidecar => PatchContext::Gateway,
            TrafficDirection::Inbound => PatchContext::SidecarInbound,
            _ => PatchContext::SidecarOutbound,
        };
        one(patches, context, l)
    });
    let contexts: &[PatchContext] =
        if sidecar { &[PatchContext::SidecarOutbound, PatchContext::SidecarInbound] } else { &[PatchContext::Gateway] };
    for context in contexts {
        for patch in patches.to(ApplyTo::Listener).filter(|p| p.adds(*context)) {
            listeners.push(patch.value());
        }
    }
}

/// Whether any patch may concern the listeners of this proxy.
pub(crate) fn are_patched(inputs: &Inputs) -> bool {
    !Patches::of(inputs, &APPLY_TO).is_empty()
}

/// Returns whether the listener stays.
fn one(patches: &Patches, context: PatchContext, l: &mut listener::Listener) -> bool {
    for patch in patches.to(ApplyTo::Listener) {
        if !patch.is_for(context) || !listener_matches(patch, ApplyTo::Listener, l) {
            continue;
        }
        if patch.operation == Operation::Remove {
            return false;
        }
        if patch.is_merge() {
            patch.merge_into(l);
        }
    }
    // The listener does not change under these, so one look at it is enough.
    let of = |apply_to| -> Vec<&Patch> {
        patches.to(apply_to).filter(|p| p.is_for(context) && listener_matches(p, apply_to, l)).collect()
    };
    let here = Here {
        patches,
        context,
        is_virtual: is_virtual(&l.name),
        chains: of(ApplyTo::FilterChain),
        network: of(ApplyTo::NetworkFilter),
        http: of(ApplyTo::HttpFilter),
    };
    for patch in of(ApplyTo::ListenerFilter) {
        let named = patch.listener().map_or("", |m| m.listener_filter.as_str());
        edit(&mut l.listener_filters, patch, !named.is_empty(), |f| f.name == named);
    }
    l.filter_chains.retain_mut(|c| here.chain(c));
    if l.default_filter_chain.as_mut().is_some_and(|c| !here.chain(c)) {
        l.default_filter_chain = None;
    }
    let added = here.chains.iter().filter(|p| p.operation == Operation::Add);
    l.filter_chains.extend(added.map(|p| p.value()));
    true
}

fn is_virtual(name: &str) -> bool {
    name == VIRTUAL_INBOUND || name == VIRTUAL_OUTBOUND
}

fn listener_matches(patch: &Patch, apply_to: ApplyTo, l: &listener::Listener) -> bool {
    let Some(m) = patch.listener() else {
        return true;
    };
    if !m.name.is_empty() && m.name != l.name {
        return false;
    }
    // Ports of capture listeners are those of their chains.
    if m.port_number == 0 || (apply_to != ApplyTo::Listener && is_virtual(&l.name)) {
        return true;
    }
    match l.address.as_ref().and_then(|a| a.address.as_ref()) {
        Some(Address::SocketAddress(s)) => s.port_specifier == Some(PortSpecifier::PortValue(m.port_number)),
        _ => false,
    }
}

/// Patches for one listener.
struct Here<'a> {
    patches: &'a Patches,
    context: PatchContext,
    is_virtual: bool,
    chains: Vec<&'a Patch>,
    network: Vec<&'a Patch>,
    http: Vec<&'a Patch>,
}

impl Here<'_> {
    /// Returns whether the chain stays.
    fn chain(&self, c: &mut listener::FilterChain) -> bool {
        for patch in &self.chains {
            if !self.chain_matches(patch, c) {
                continue;
            }
            if patch.operation == Operation::Remove {
                return false;
            }
            if patch.is_merge() && !merge_socket(patch, c) {
                patch.merge_into(c);
            }
        }
        let network: Vec<&&Patch> = self.network.iter().filter(|p| self.chain_matches(p, c)).collect();
        for patch in &network {
            let named = filter_name(patch);
            edit(&mut c.filters, patch, named.is_some(), |f| Some(f.name.as_str()) == named);
        }
        let http: Vec<&&Patch> = self.http.iter().filter(|p| self.chain_matches(p, c)).collect();
        for f in &mut c.filters {
            for patch in network.iter().filter(|p| p.is_merge()) {
                if filter_name(patch).is_none_or(|n| n == f.name)
                    && let Some(listener::filter::ConfigType::TypedConfig(config)) = f.config_type.as_mut()
                {
                    let value: listener::Filter = patch.value();
                    let from = match &value.config_type {
                        Some(listener::filter::ConfigType::TypedConfig(any)) => Some(any),
                        _ => None,
                    };
                    merge_filter(patch, (&mut f.name, config), (&value.name, from));
                }
            }
            if f.name == HCM {
                let here: Vec<&Patch> =
                    http.iter().filter(|p| filter_name(p).is_none_or(|n| n == f.name)).map(|p| **p).collect();
                self.connection_manager(&here, f);
            }
        }
        true
    }

    fn connection_manager(&self, http: &[&Patch], f: &mut listener::Filter) {
        use hcm::http_connection_manager::RouteSpecifier;
        use hcm::http_filter::ConfigType;
        let Some(listener::filter::ConfigType::TypedConfig(config)) = f.config_type.as_mut() else {
            return;
        };
        let Ok(mut manager) = protos::unpack::<hcm::HttpConnectionManager>(config) else {
            return;
        };
        if let Some(RouteSpecifier::RouteConfig(routes)) = manager.route_specifier.as_mut() {
            route::apply(self.patches, self.context, routes);
        }
        for patch in http {
            let named = sub_filter_name(patch);
            edit(&mut manager.http_filters, patch, named.is_some(), |h| Some(h.name.as_str()) == named);
        }
        for h in &mut manager.http_filters {
            for patch in http.iter().filter(|p| p.is_merge()) {
                if sub_filter_name(patch).is_none_or(|n| n == h.name)
                    && let Some(ConfigType::TypedConfig(config)) = h.config_type.as_mut()
                {
                    let value: hcm::HttpFilter = patch.value();
                    let from = match &value.config_type {
                        Some(ConfigType::TypedConfig(any)) => Some(any),
                        _ => None,
                    };
                    merge_filter(patch, (&mut h.name, config), (&value.name, from));
                }
            }
        }
        *config = any(&manager);
    }

    fn chain_matches(&self, patch: &Patch, c: &listener::FilterChain) -> bool {
        let Some(m) = patch.listener() else {
            return true;
        };
        let of = c.filter_chain_match.as_ref();
        let port = of.and_then(|f| f.destination_port).unwrap_or(0);
        if self.is_virtual && m.port_number > 0 && port != m.port_number {
            return false;
        }
        let Some(m) = &m.filter_chain else {
            return true;
        };
        let alpns = || {
            let mut stated = m.application_protocols.split(',');
            stated.all(|a| of.is_some_and(|f| f.application_protocols.iter().any(|x| x == a)))
        };
        (m.name.is_empty() || m.name == c.name)
            && (m.sni.is_empty() || of.is_some_and(|f| f.server_names.contains(&m.sni)))
            && (m.transport_protocol.is_empty() || of.is_some_and(|f| f.transport_protocol == m.transport_protocol))
            && (m.application_protocols.is_empty() || alpns())
            && (m.destination_port == 0 || port == m.destination_port)
    }
}

fn filter_name(patch: &Patch) -> Option<&str> {
    let chain = patch.listener()?.filter_chain.as_ref()?;
    chain.filter.as_ref().map(|f| f.name.as_str())
}

fn sub_filter_name(patch: &Patch) -> Option<&str> {
    let chain = patch.listener()?.filter_chain.as_ref()?;
    let sub = chain.filter.as_ref()?.sub_filter.as_ref()?;
    Some(&sub.name)
}

/// A filter may be renamed; its configuration is joined under the type it has.
fn merge_filter(patch: &Patch, into: (&mut String, &mut Any), from: (&str, Option<&Any>)) {
    if let Some(config) = from.1 {
        patch.merge_any(into.1, config);
    }
    if !from.0.is_empty() {
        from.0.clone_into(into.0);
    }
}

/// Merges the patch's transport socket one level down. Returns whether that was all of it.
fn merge_socket(patch: &Patch, c: &mut listener::FilterChain) -> bool {
    let value: listener::FilterChain = patch.value();
    let (Some(from), Some(into)) = (value.transport_socket, c.transport_socket.as_mut()) else {
        return false;
    };
    if from.name != into.name {
        return false;
    }
    if let (Some(SocketConfig::TypedConfig(into)), Some(SocketConfig::TypedConfig(from))) =
        (into.config_type.as_mut(), &from.config_type)
    {
        patch.merge_any(into, from);
    }
    true
}
