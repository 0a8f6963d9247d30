//! How do patches change a route configuration, its virtual hosts and routes?

use api::envoy_filter::{ApplyTo, Operation, PatchContext, RouteAction};
use names::ClusterName;
use protos::envoy::config::route::v3 as route;

use super::{Patch, Patches, edit};

/// What route patches apply to.
pub(crate) const APPLY_TO: [ApplyTo; 3] = [ApplyTo::RouteConfiguration, ApplyTo::VirtualHost, ApplyTo::HttpRoute];

/// Applies patches to a route configuration.
pub(crate) fn apply(patches: &Patches, context: PatchContext, config: &mut route::RouteConfiguration) {
    let name = config.name.clone();
    let here = |p: &&Patch| p.is_for(context) && configuration_matches(p, context, &name);
    for patch in patches.to(ApplyTo::RouteConfiguration).filter(here) {
        if patch.is_merge() {
            patch.merge_into(config);
        }
    }
    let hosts: Vec<&Patch> = patches.to(ApplyTo::VirtualHost).filter(here).collect();
    let routes: Vec<&Patch> = patches.to(ApplyTo::HttpRoute).filter(here).collect();
    config.virtual_hosts.retain_mut(|vhost| {
        for patch in &hosts {
            if !host_matches(patch, vhost) {
                continue;
            }
            match patch.operation {
                Operation::Remove => return false,
                Operation::Replace => *vhost = patch.value(),
                _ if patch.is_merge() => patch.merge_into(vhost),
                _ => {}
            }
        }
        apply_routes(&routes, vhost);
        true
    });
    let added = hosts.iter().filter(|p| p.operation == Operation::Add);
    config.virtual_hosts.extend(added.map(|p| p.value()));
}

fn apply_routes(patches: &[&Patch], vhost: &mut route::VirtualHost) {
    let here: Vec<&&Patch> = patches.iter().filter(|p| host_matches(p, vhost)).collect();
    vhost.routes.retain_mut(|r| {
        for patch in &here {
            if !route_matches(patch, r) {
                continue;
            }
            if patch.operation == Operation::Remove {
                return false;
            }
            if patch.is_merge() {
                patch.merge_into(r);
            }
        }
        true
    });
    for patch in here {
        let named = patch.route_configuration().and_then(|m| m.vhost.as_ref()).is_some_and(|v| v.route.is_some());
        match patch.operation {
            // At the front too, once the named route is known to be there.
            Operation::InsertFirst if named && !vhost.routes.iter().any(|r| route_matches(patch, r)) => {}
            Operation::Add | Operation::InsertFirst | Operation::InsertBefore | Operation::InsertAfter => {
                edit(&mut vhost.routes, patch, named, |r| route_matches(patch, r));
            }
            _ => {}
        }
    }
}

fn configuration_matches(patch: &Patch, context: PatchContext, name: &str) -> bool {
    let Some(m) = patch.route_configuration() else {
        return true;
    };
    if !m.name.is_empty() && m.name != name {
        return false;
    }
    if context == PatchContext::Gateway {
        let (port, port_name, gateway) = names::parse_gateway_route_name(name).unwrap_or_default();
        let port = u32::from(port);
        return (m.port_number == 0 || m.port_number == port)
            && (m.port_name.is_empty() || m.port_name == port_name)
            && (m.gateway.is_empty() || m.gateway == gateway);
    }
    let port = match name.parse::<ClusterName>() {
        Ok(n) => u32::from(n.port),
        Err(_) => name.parse().unwrap_or(0),
    };
    m.port_number == 0 || m.port_number == port
}

fn host_matches(patch: &Patch, vhost: &route::VirtualHost) -> bool {
    let m = patch.route_configuration().and_then(|m| m.vhost.as_ref());
    m.is_none_or(|m| {
        (m.name.is_empty() || m.name == vhost.name)
            && (m.domain_name.is_empty() || vhost.domains.contains(&m.domain_name))
    })
}

fn route_matches(patch: &Patch, r: &route::Route) -> bool {
    use route::route::Action;
    let vhost = patch.route_configuration().and_then(|m| m.vhost.as_ref());
    let Some(m) = vhost.and_then(|v| v.route.as_ref()) else {
        return true;
    };
    let action = match r.action {
        Some(Action::Route(_)) => RouteAction::Route,
        Some(Action::Redirect(_)) => RouteAction::Redirect,
        Some(Action::DirectResponse(_)) => RouteAction::DirectResponse,
        _ => m.action,
    };
    (m.name.is_empty() || m.name == r.name) && (m.action == RouteAction::Any || m.action == action)
}
