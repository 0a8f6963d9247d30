//! Which clusters do patches add, change or remove?

use api::envoy_filter::{ApplyTo, Operation, PatchContext};
use names::well_known::INBOUND_PASSTHROUGH_CLUSTER;
use names::{ClusterName, NodeType, TrafficDirection};
use protos::envoy::config::cluster::v3 as cluster;
use protos::envoy::config::core::v3::transport_socket::ConfigType;

use super::{Patch, Patches};
use crate::Inputs;

/// What these patches apply to.
pub(crate) const APPLY_TO: [ApplyTo; 1] = [ApplyTo::Cluster];

/// Applies `CLUSTER` patches.
pub(crate) fn apply(inputs: &Inputs, patches: &Patches, clusters: &mut Vec<cluster::Cluster>) {
    if patches.is_empty() {
        return;
    }
    clusters.retain_mut(|c| {
        let context = context(inputs, &c.name);
        for patch in patches.to(ApplyTo::Cluster) {
            if !patch.is_for(context) || !matches(inputs, patch, &c.name) {
                continue;
            }
            if patch.operation == Operation::Remove {
                return false;
            }
            if patch.is_merge() && !merge_socket(patch, c) {
                patch.merge_into(c);
            }
        }
        true
    });
    let contexts: &[PatchContext] = match inputs.proxy().node_type {
        NodeType::Sidecar => &[PatchContext::SidecarOutbound, PatchContext::SidecarInbound],
        _ => &[PatchContext::Gateway],
    };
    for context in contexts {
        for patch in patches.to(ApplyTo::Cluster).filter(|p| p.adds(*context)) {
            clusters.push(patch.value());
        }
    }
}

fn context(inputs: &Inputs, name: &str) -> PatchContext {
    if inputs.proxy().node_type != NodeType::Sidecar {
        PatchContext::Gateway
    } else if name.starts_with("inbound|") || name == INBOUND_PASSTHROUGH_CLUSTER {
        PatchContext::SidecarInbound
    } else {
        PatchContext::SidecarOutbound
    }
}

fn matches(inputs: &Inputs, patch: &Patch, name: &str) -> bool {
    let Some(m) = patch.cluster() else {
        return true;
    };
    if !m.name.is_empty() {
        return m.name == name;
    }
    let parsed: Option<ClusterName> = name.parse().ok();
    let (subset, port) = parsed.as_ref().map_or(("", 0), |p| (p.subset.as_str(), p.port));
    // Inbound clusters carry no host: those of the services behind the port count.
    let host = || match &parsed {
        Some(p) if p.direction == TrafficDirection::Inbound && p.host.as_str().is_empty() => {
            let mut targets = inputs.view.targets.iter();
            targets.any(|t| t.target_port == p.port && t.service.hostname.as_str() == m.service)
        }
        Some(p) => p.host.as_str() == m.service,
        None => false,
    };
    (m.subset.is_empty() || m.subset == subset)
        && (m.port_number == 0 || m.port_number == u32::from(port))
        && (m.service.is_empty() || host())
}

/// Merges the patch's transport socket into the cluster's, one level down. Returns whether that was all of it.
fn merge_socket(patch: &Patch, c: &mut cluster::Cluster) -> bool {
    let value: cluster::Cluster = patch.value();
    let Some(from) = value.transport_socket else {
        return false;
    };
    let socket = if c.transport_socket_matches.is_empty() {
        match c.transport_socket.as_mut() {
            Some(s) if s.name == from.name => s,
            _ => {
                c.transport_socket = Some(from);
                return true;
            }
        }
    } else {
        let mut sockets = c.transport_socket_matches.iter_mut().filter_map(|m| m.transport_socket.as_mut());
        // A socket beside alternatives would be invalid: the patch is dropped.
        match sockets.find(|s| s.name == from.name) {
            Some(s) => s,
            None => return true,
        }
    };
    if let (Some(ConfigType::TypedConfig(into)), Some(ConfigType::TypedConfig(from))) =
        (socket.config_type.as_mut(), &from.config_type)
    {
        patch.merge_any(into, from);
    }
    true
}
