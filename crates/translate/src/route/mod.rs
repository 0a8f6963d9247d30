//! Which routes does an HTTP listener follow (RDS)? Virtual hosts of sidecars by port, of gateways by server, and the
//! inline routes of inbound listeners. Single rules are translated in `action`, domains spelled in `domains`.

pub mod action;
pub mod conditions;
pub mod domains;
mod gateway;
mod list;
pub mod retry;
mod sidecar;

use std::sync::Arc;

use api::envoy_filter::PatchContext;
use api::networking::Destination;
use model::{OutboundMode, Service};
use names::well_known::{ALLOW_ANY, BLACK_HOLE_CLUSTER, BLOCK_ALL};
use names::{ClusterName, Hostname, NodeType, PortProtocol};
use protos::envoy::config::route::v3 as route;
use protos::prost::Message as _;
use xds::server::{Part, Value};

use crate::Inputs;
use crate::incremental::Memo;
use crate::listener::Class;
use crate::listener::hcm::ProxyHeaders;
use crate::patch::Patches;
use crate::wire::no_timeout;
use list::{Names, RouteList, Spelled};

/// Route name of the HTTP proxy listener.
pub(crate) const HTTP_PROXY: &str = "http_proxy";
/// Largest body of a direct response.
const DIRECT_RESPONSE_BODY_MAX: u32 = 1024 * 1024;

/// The route configuration of this name; empty when the proxy has no listener that asks for it.
pub fn build(inputs: &Inputs, name: &str) -> route::RouteConfiguration {
    let mut out = before_patches(inputs, name);
    let patches = Patches::of(inputs, &crate::patch::route::APPLY_TO);
    // Set on every configuration that a listener asks for.
    let known = out.ignore_port_in_host_matching;
    if known && !patches.is_empty() {
        crate::patch::route::apply(&patches, patch_context(inputs), &mut out);
    }
    out
}

/// Which context patches of route configurations are for.
pub(crate) fn patch_context(inputs: &Inputs) -> PatchContext {
    match inputs.proxy().node_type {
        NodeType::Sidecar => PatchContext::SidecarOutbound,
        _ => PatchContext::Gateway,
    }
}

/// The route configuration before `EnvoyFilter`s.
pub(crate) fn before_patches(inputs: &Inputs, name: &str) -> route::RouteConfiguration {
    let bytes = unpatched(inputs, &Memo::default(), name).to_vec();
    route::RouteConfiguration::decode(&*bytes).expect("encoded above")
}

/// The virtual hosts of a route configuration, with what it takes to follow a change of a few services or rules.
#[derive(Debug)]
pub(crate) enum Table {
    /// Of a gateway.
    Gateway(gateway::Table),
    /// Of a sidecar's port.
    Port(sidecar::Table),
}

/// Hosts came or went: a table cannot be followed.
pub(crate) struct Reshaped;

impl Table {
    /// `None`: no server has this route name, or it is one of a sidecar that is no plain port.
    pub(crate) fn new(inputs: &Inputs, memo: &Memo, name: &str) -> Option<Table> {
        match inputs.proxy().node_type {
            NodeType::Router => gateway::Table::new(inputs, memo, name).map(Table::Gateway),
            _ => sidecar::Table::new(inputs, memo, name).map(Table::Port),
        }
    }

    /// The virtual hosts, by name, each in one part or several.
    pub(crate) fn parts(&self) -> Vec<Arc<Part>> {
        match self {
            Table::Gateway(table) => table.parts(),
            Table::Port(table) => table.parts(),
        }
    }
}

/// The same, encoded, from pieces that were translated before.
pub(crate) fn encoded(inputs: &Inputs, memo: &Memo, name: &str) -> Value {
    if is_patched(inputs) { build(inputs, name).encode_to_vec().into() } else { unpatched(inputs, memo, name) }
}

/// Whether `EnvoyFilter`s may change route configurations of the proxy.
pub(crate) fn is_patched(inputs: &Inputs) -> bool {
    !Patches::of(inputs, &crate::patch::route::APPLY_TO).is_empty()
}

fn unpatched(inputs: &Inputs, memo: &Memo, name: &str) -> Value {
    let virtual_hosts = match Table::new(inputs, memo, name) {
        Some(table) => Some(table.parts()),
        None if inputs.proxy().node_type == NodeType::Router => None,
        None => {
            let list = sidecar::virtual_hosts(inputs, memo, name);
            list.map(|list| list.iter().map(|v| v.part(memo)).collect())
        }
    };
    configuration(name, virtual_hosts)
}

/// A route configuration as its virtual hosts one after the other. `None`: no listener asks for it.
pub(crate) fn configuration(name: &str, virtual_hosts: Option<Vec<Arc<Part>>>) -> Value {
    let head = |known: bool| route::RouteConfiguration {
        name: name.to_owned(),
        validate_clusters: Some(false),
        ignore_port_in_host_matching: known,
        max_direct_response_body_size_bytes: known.then_some(DIRECT_RESPONSE_BODY_MAX),
        ..Default::default()
    };
    let Some(virtual_hosts) = virtual_hosts else {
        return head(false).encode_to_vec().into();
    };
    Value::of_parts(head(true).encode_to_vec(), virtual_hosts)
}

/// The route to the application: everything on one port, no timeouts, retries for requests that never left, but for
/// gRPC, whose clients retry themselves.
pub(crate) fn inbound(
    inputs: &Inputs,
    cluster: &str,
    host: &str,
    port: u16,
    protocol: PortProtocol,
) -> route::RouteConfiguration {
    let stated = inputs.mesh().default_inbound_http_retry_policy.as_ref();
    let action = route::RouteAction {
        cluster_specifier: Some(route::route_action::ClusterSpecifier::Cluster(cluster.to_owned())),
        timeout: Some(no_timeout()),
        max_stream_duration: Some(route::route_action::MaxStreamDuration {
            max_stream_duration: Some(no_timeout()),
            grpc_timeout_header_max: Some(no_timeout()),
            ..Default::default()
        }),
        retry_policy: retry::inbound(stated).filter(|_| protocol != PortProtocol::Grpc),
        ..Default::default()
    };
    let vhost = route::VirtualHost {
        name: format!("inbound|http|{port}"),
        domains: vec!["*".to_owned()],
        routes: vec![action::plain("default", action, &format!("{host}:{port}/*"))],
        ..Default::default()
    };
    route::RouteConfiguration {
        name: cluster.to_owned(),
        virtual_hosts: vec![vhost],
        validate_clusters: Some(false),
        ..Default::default()
    }
}

/// The cluster a destination means on a listener port. `ExternalName` services stand for what they name.
pub(crate) fn destination_cluster(destination: &Destination, service: Option<&Service>, listener_port: u16) -> String {
    let host = match service.and_then(|s| s.external_name.clone()) {
        Some(target) => target,
        None => Hostname::from(destination.host.as_str()),
    };
    let stated = destination.port.as_ref().and_then(|p| u16::try_from(p.number).ok()).filter(|p| *p > 0);
    let port = stated.unwrap_or_else(|| match service.map(|s| s.ports.as_slice()) {
        Some([only]) => only.number,
        _ => listener_port,
    });
    ClusterName::outbound(port, &destination.subset, &host).to_string()
}

/// The virtual host for unknown authorities: pass through or refuse, as the mesh or `Sidecar` says.
fn catch_all(inputs: &Inputs) -> Spelled {
    let include_request_attempt_count = ProxyHeaders::new(inputs, Class::SidecarOutbound).attempt_count;
    let domains = vec!["*".to_owned()];
    if inputs.scope().outbound_mode == OutboundMode::RegistryOnly {
        let response = route::DirectResponseAction { status: 502, ..Default::default() };
        return Spelled {
            names: Names::Own { name: BLOCK_ALL.to_owned(), domains },
            routes: RouteList::of(vec![route::Route {
                name: BLOCK_ALL.to_owned(),
                r#match: Some(action::any_path()),
                action: Some(route::route::Action::DirectResponse(response)),
                ..Default::default()
            }]),
            attempts: include_request_attempt_count,
            require_tls: false,
        };
    }
    let cluster = crate::listener::fallback_cluster(inputs);
    debug_assert_ne!(cluster, BLACK_HOLE_CLUSTER);
    #[allow(deprecated)]
    let action = route::RouteAction {
        cluster_specifier: Some(route::route_action::ClusterSpecifier::Cluster(cluster)),
        timeout: Some(no_timeout()),
        max_grpc_timeout: Some(no_timeout()),
        ..Default::default()
    };
    Spelled {
        names: Names::Own { name: ALLOW_ANY.to_owned(), domains },
        routes: RouteList::of(vec![route::Route {
            name: ALLOW_ANY.to_owned(),
            r#match: Some(action::any_path()),
            action: Some(route::route::Action::Route(action)),
            ..Default::default()
        }]),
        attempts: include_request_attempt_count,
        require_tls: false,
    }
}
