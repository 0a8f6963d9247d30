//! Which virtual hosts does a sidecar's route configuration hold? One per service of the port, shaped by virtual
//! services. Follows `httproute.go` and `BuildSidecarVirtualHostWrapper`.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use model::{Resolution, ResolvedVirtualService, Service};
use names::well_known::MESH_GATEWAY;
use names::{Hostname, PortProtocol};

use super::action::Context;
use super::domains::{self, Domains, Taken};
use super::list::{self, Hosts, Names, RouteList, Spelled};
use crate::Inputs;
use crate::incremental::Memo;
use crate::listener::Class;
use crate::listener::hcm::ProxyHeaders;

/// Virtual hosts that share routes.
struct Wrapper {
    port: u16,
    services: Vec<Arc<Service>>,
    hosts: Vec<Hostname>,
    routes: Arc<RouteList>,
}

/// Virtual hosts of a route name: `80`, `host:80` (sniffed), `http_proxy` or a socket path. `None`: not such a name.
pub(super) fn virtual_hosts(inputs: &Inputs, memo: &Memo, name: &str) -> Option<Vec<Spelled>> {
    let unix = name.starts_with("unix://");
    let (sniffed_host, port) = match name.rsplit_once(':') {
        Some((host, port)) if !unix => (Some(host), port.parse().ok()?),
        _ if unix || name == super::HTTP_PROXY => (None, 0),
        _ => (None, name.parse().ok()?),
    };
    let mut out = for_port(inputs, memo, port, name, sniffed_host);
    if let Some(host) = sniffed_host {
        out.retain(|v| v.domains().iter().any(|d| d == name || d == host));
        if let [only] = out.as_mut_slice() {
            only.names = Names::Own { name: only.name().to_owned(), domains: vec!["*".to_owned()] };
        }
    }
    out.sort_by(|a, b| a.name().cmp(b.name()));
    if sniffed_host.is_none() {
        out.push(super::catch_all(inputs));
    }
    Some(out)
}

/// `only`: the one host that is wanted; other services without rules are left out.
fn for_port(inputs: &Inputs, memo: &Memo, port: u16, name: &str, only: Option<&str>) -> Vec<Spelled> {
    let Some(egress) = inputs.scope().egress_for_route(port, name) else {
        return Vec::new();
    };
    let proxy_style = egress.port.as_ref().is_some_and(|p| p.protocol == PortProtocol::HttpProxy);
    let port = if proxy_style { 0 } else { port };
    // The services of the port, reduced to it.
    let mut registry: BTreeMap<Hostname, Arc<Service>> = BTreeMap::new();
    for s in egress.services.iter() {
        let reduced = match (port, s.port(port)) {
            (0, _) => s.clone(),
            (_, Some(p)) if s.ports.len() > 1 => list::reduced(memo, s, p),
            (_, Some(_)) => s.clone(),
            (_, None) => continue,
        };
        registry.entry(s.hostname.clone()).or_insert(reduced);
    }
    let most_specific = most_specific(&egress.virtual_services, &registry);
    let hosts = Hosts::new(&registry);
    let relevant = egress.virtual_services.iter().filter(|v| {
        // Port 80 also carries hosts that are no services.
        port == 80 || v.hosts.iter().any(|h| hosts.matched_by(h))
    });
    let lookup = |host: &Hostname| registry.get(host).cloned();
    let context = Context { inputs, port, gateway: MESH_GATEWAY, tls: false, lookup: &lookup };
    let mut wrappers = Vec::new();
    for v in relevant {
        wrappers.extend(of_virtual_service(&context, memo, v, &registry, &most_specific));
    }
    let shaped: HashSet<Hostname> =
        wrappers.iter().flat_map(|w| w.services.iter().map(|s| s.hostname.clone())).collect();
    for (host, s) in &registry {
        let wanted = only.is_none_or(|o| host.as_str() == o);
        if !wanted || s.resolution == Resolution::Alias || shaped.contains(host) {
            continue;
        }
        for p in s.ports.iter().filter(|p| p.protocol.is_http() || p.protocol == PortProtocol::Unsupported) {
            wrappers.push(Wrapper {
                port: p.number,
                services: vec![s.clone()],
                hosts: Vec::new(),
                routes: list::default(inputs, memo, s, p.number),
            });
        }
    }
    spell(inputs, memo, port, wrappers)
}

/// For each service the virtual service whose host is closest to it; the older one of equal hosts.
fn most_specific<'a>(
    rules: &'a [Arc<ResolvedVirtualService>],
    registry: &BTreeMap<Hostname, Arc<Service>>,
) -> BTreeMap<Hostname, &'a Arc<ResolvedVirtualService>> {
    let mut index: model::config::HostIndex<Option<&'a Arc<ResolvedVirtualService>>> = Default::default();
    for v in rules {
        for h in &v.hosts {
            index.entry(h).get_or_insert(v);
        }
    }
    registry.keys().filter_map(|h| Some((h.clone(), (*index.most_specific(h)?)?))).collect()
}

fn of_virtual_service(
    context: &Context<'_>,
    memo: &Memo,
    v: &Arc<ResolvedVirtualService>,
    registry: &BTreeMap<Hostname, Arc<Service>>,
    most_specific: &BTreeMap<Hostname, &Arc<ResolvedVirtualService>>,
) -> Vec<Wrapper> {
    let routes = list::rules(memo, context, v);
    if routes.is_empty() {
        return Vec::new();
    }
    let mut hosts = Vec::new();
    let mut services: Vec<Arc<Service>> = Vec::new();
    for h in v.hosts.iter().filter(|h| !h.is_wildcard()) {
        match registry.get(h) {
            Some(s) => services.push(s.clone()),
            None => hosts.push(h.clone()),
        }
    }
    for h in v.hosts.iter().filter(|h| h.is_wildcard()) {
        let mut covered = registry.iter().filter(|(s, _)| s.matches(h)).peekable();
        if covered.peek().is_none() {
            hosts.push(h.clone());
        }
        let own = covered.filter(|(s, _)| most_specific.get(*s).is_some_and(|m| Arc::ptr_eq(m, v)));
        services.extend(own.map(|(_, s)| s.clone()));
    }
    let mut by_port: BTreeMap<u16, Vec<Arc<Service>>> = BTreeMap::new();
    for s in &services {
        for p in s.ports.iter().filter(|p| p.protocol.is_http() || p.protocol == PortProtocol::Unsupported) {
            by_port.entry(p.number).or_default().push(s.clone());
        }
    }
    if by_port.is_empty() && context.port == 80 {
        by_port.insert(80, Vec::new());
    }
    by_port
        .into_iter()
        .map(|(port, services)| Wrapper { port, services, hosts: hosts.clone(), routes: routes.clone() })
        .collect()
}

/// Names and domains; the first virtual host that wants a name or domain keeps it.
fn spell(inputs: &Inputs, memo: &Memo, port: u16, wrappers: Vec<Wrapper>) -> Vec<Spelled> {
    let attempts = ProxyHeaders::new(inputs, Class::SidecarOutbound).attempt_count;
    let proxy = inputs.proxy();
    // With a listener port, ports in authorities are ignored and need not be spelled.
    let spelled = |w: &Wrapper| if port == 0 { w.port } else { 0 };
    let of = |w: &Wrapper| -> (Vec<Arc<Domains>>, Vec<Arc<Domains>>) {
        let plain = w.hosts.iter().map(|h| Arc::new(Domains::plain(h, w.port, spelled(w))));
        let known = w
            .services
            .iter()
            .map(|s| domains::of_service(memo, s, w.port, spelled(w), &proxy.dns_domain, proxy.reach()));
        (plain.collect(), known.collect())
    };
    let wanted: Vec<_> = wrappers.iter().map(of).collect();
    let mut taken = Taken::default();
    for known in wanted.iter().flat_map(|(_, known)| known) {
        taken.know(known);
    }
    let mut out: Vec<Spelled> = Vec::with_capacity(wrappers.len());
    for (w, (plain, known)) in wrappers.iter().zip(&wanted).filter(|(w, _)| !w.routes.is_empty()) {
        for wanted in plain.iter().chain(known) {
            if !taken.take_name(&wanted.name) {
                continue;
            }
            let mut domains = taken.take(wanted);
            if port == 0 && w.port != 80 {
                domains.get_or_insert_with(|| wanted.all.clone()).retain(|d| d.contains(':'));
            }
            if domains.as_ref().unwrap_or(&wanted.all).is_empty() || (port != 0 && w.port != port) {
                continue;
            }
            let names = match domains {
                None => Names::Of(Arc::clone(wanted)),
                Some(domains) => Names::Own { name: wanted.name.clone(), domains },
            };
            out.push(Spelled { names, routes: w.routes.clone(), attempts, require_tls: false });
        }
    }
    out
}
