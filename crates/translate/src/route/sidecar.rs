//! Which virtual hosts does a sidecar's route configuration hold? One per service of the port, shaped by virtual
//! services. Follows `httproute.go` and `BuildSidecarVirtualHostWrapper`.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use model::{Resolution, ResolvedVirtualService, Service};
use names::well_known::MESH_GATEWAY;
use names::{Hostname, PortProtocol};

use xds::server::Part;

use super::Reshaped;
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
    source: Source,
    routes: Arc<RouteList>,
}

/// Where the routes of a virtual host come from.
#[derive(Clone, Debug)]
enum Source {
    /// A rule, by its position among those of the port.
    Rule(usize),
    /// The service of this host, which no rule shapes.
    Service(Hostname),
    /// Nothing that moves.
    Fixed,
}

/// A rule on a port.
#[derive(Clone, Debug)]
struct Rule {
    rule: Arc<ResolvedVirtualService>,
    routes: Arc<RouteList>,
}

/// One virtual host, finished.
#[derive(Clone, Debug)]
struct Host {
    spelled: Spelled,
    source: Source,
    part: Arc<Part>,
}

/// The virtual hosts of a port, with what it takes to follow a change of services and rules that stay where they are.
#[derive(Debug)]
pub(crate) struct Table {
    port: u16,
    rules: Vec<Rule>,
    hosts: Vec<Arc<Host>>,
}

impl Table {
    /// `None`: the name is not a plain port.
    pub(crate) fn new(inputs: &Inputs, memo: &Memo, name: &str) -> Option<Table> {
        let port = name.parse().ok().filter(|p| *p != 0)?;
        let (rules, mut list) = for_port(inputs, memo, port, name, None);
        list.sort_by(|(a, _), (b, _)| a.name().cmp(b.name()));
        list.push((super::catch_all(inputs), Source::Fixed));
        let finished =
            |(spelled, source): (Spelled, Source)| Arc::new(Host { part: spelled.part(memo), spelled, source });
        Some(Table { port, rules, hosts: list.into_iter().map(finished).collect() })
    }

    /// The table after a change of services and rules that are still in their places, under the same names.
    /// `exchanged`: the rule in place of one. `concerned`: whether a service it sends to moved. `moved`: whether the service
    /// of a host did. `Ok(None)`: nothing differs. `Err`: it must be made from scratch.
    pub(crate) fn follow(
        &self,
        inputs: &Inputs,
        memo: &Memo,
        exchanged: impl Fn(&Arc<ResolvedVirtualService>) -> Option<Arc<ResolvedVirtualService>>,
        concerned: impl Fn(&ResolvedVirtualService) -> bool,
        moved: impl Fn(&Hostname) -> bool,
    ) -> Result<Option<Table>, Reshaped> {
        let lookup = |host: &Hostname| on_port(inputs, memo, self.port, host);
        let context = Context { inputs, port: self.port, gateway: MESH_GATEWAY, tls: false, lookup: &lookup };
        let mut rules: Option<Vec<Rule>> = None;
        let mut differing = Vec::new();
        for (n, Rule { rule, routes }) in self.rules.iter().enumerate() {
            let other = exchanged(rule);
            if other.is_none() && !concerned(rule) {
                continue;
            }
            let rule = other.unwrap_or_else(|| rule.clone());
            let made = list::rules(memo, &context, &rule);
            if made.is_empty() != routes.is_empty() {
                return Err(Reshaped);
            }
            if made != *routes {
                differing.push(n);
            }
            rules.get_or_insert_with(|| self.rules.clone())[n] = Rule { rule, routes: made };
        }
        let rules_now = rules.as_ref().unwrap_or(&self.rules);
        let mut hosts: Option<Vec<Arc<Host>>> = None;
        for (n, host) in self.hosts.iter().enumerate() {
            let routes = match &host.source {
                Source::Rule(at) if differing.contains(at) => rules_now[*at].routes.clone(),
                Source::Service(name) if moved(name) => {
                    let service = lookup(name).ok_or(Reshaped)?;
                    list::default(inputs, memo, &service, self.port)
                }
                _ => continue,
            };
            if routes == host.spelled.routes {
                continue;
            }
            let spelled = Spelled { routes, ..host.spelled.clone() };
            let other = Host { part: spelled.part(memo), spelled, source: host.source.clone() };
            hosts.get_or_insert_with(|| self.hosts.clone())[n] = Arc::new(other);
        }
        if rules.is_none() && hosts.is_none() {
            return Ok(None);
        }
        let (rules, hosts) = (rules.unwrap_or_else(|| self.rules.clone()), hosts.unwrap_or_else(|| self.hosts.clone()));
        Ok(Some(Table { port: self.port, rules, hosts }))
    }

    /// Whether a service that moved still has its place on the port: it has it or not as before, speaks HTTP or not as
    /// before, and is called the same.
    pub(crate) fn keeps(&self, old: &Service, new: &Service) -> bool {
        let http = |s: &Service| s.port(self.port).map(|p| is_routed(p.protocol));
        http(old) == http(new) && domains::are_same(old, new)
    }

    /// The virtual hosts, by name.
    pub(crate) fn parts(&self) -> Vec<Arc<Part>> {
        self.hosts.iter().map(|h| Arc::clone(&h.part)).collect()
    }
}

/// Whether a port of this protocol has virtual hosts.
fn is_routed(protocol: PortProtocol) -> bool {
    protocol.is_http() || protocol == PortProtocol::Unsupported
}

/// The service that a host means on a port, reduced to it: the first by precedence that the scope sees.
fn on_port(inputs: &Inputs, memo: &Memo, port: u16, host: &Hostname) -> Option<Arc<Service>> {
    let visible = |s: &&Arc<Service>| s.visibility.allows(&inputs.scope().namespace) && s.port(port).is_some();
    let all = inputs.snapshot().by_host.get(host)?.values().filter(visible);
    let first = all.min_by(|a, b| a.age_order(b))?;
    reduced(memo, first, port)
}

/// A service as its port has it, if it has the port; 0: with all of them.
fn reduced(memo: &Memo, service: &Arc<Service>, port: u16) -> Option<Arc<Service>> {
    match (port, service.port(port)) {
        (0, _) => Some(service.clone()),
        (_, Some(p)) if service.ports.len() > 1 => Some(list::reduced(memo, service, p)),
        (_, found) => found.map(|_| service.clone()),
    }
}

/// Virtual hosts of a route name that is no plain port: `host:80` (sniffed), `http_proxy` or a socket path. `None`: not
/// such a name.
pub(super) fn virtual_hosts(inputs: &Inputs, memo: &Memo, name: &str) -> Option<Vec<Spelled>> {
    let unix = name.starts_with("unix://");
    let (sniffed_host, port) = match name.rsplit_once(':') {
        Some((host, port)) if !unix => (Some(host), port.parse().ok()?),
        _ if unix || name == super::HTTP_PROXY => (None, 0),
        _ => (None, name.parse().ok()?),
    };
    let (_, list) = for_port(inputs, memo, port, name, sniffed_host);
    let mut out: Vec<Spelled> = list.into_iter().map(|(spelled, _)| spelled).collect();
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

/// The rules of a port, and its virtual hosts. `only`: the one host that is wanted; other services without rules are
/// left out.
fn for_port(
    inputs: &Inputs,
    memo: &Memo,
    port: u16,
    name: &str,
    only: Option<&str>,
) -> (Vec<Rule>, Vec<(Spelled, Source)>) {
    let Some(egress) = inputs.scope().egress_for_route(port, name) else {
        return Default::default();
    };
    let proxy_style = egress.port.as_ref().is_some_and(|p| p.protocol == PortProtocol::HttpProxy);
    let port = if proxy_style { 0 } else { port };
    // The services of the port, reduced to it.
    let mut registry: BTreeMap<Hostname, Arc<Service>> = BTreeMap::new();
    for s in egress.services.iter() {
        if let Some(reduced) = reduced(memo, s, port) {
            registry.entry(s.hostname.clone()).or_insert(reduced);
        }
    }
    let most_specific = most_specific(&egress.virtual_services, &registry);
    let hosts = Hosts::new(&registry);
    let relevant = egress.virtual_services.iter().filter(|v| {
        // Port 80 also carries hosts that are no services.
        port == 80 || v.hosts.iter().any(|h| hosts.matched_by(h))
    });
    let lookup = |host: &Hostname| registry.get(host).cloned();
    let context = Context { inputs, port, gateway: MESH_GATEWAY, tls: false, lookup: &lookup };
    let (mut rules, mut wrappers) = (Vec::new(), Vec::new());
    for v in relevant {
        let rule = Rule { rule: v.clone(), routes: list::rules(memo, &context, v) };
        wrappers.extend(of_rule(port, &rule, rules.len(), &registry, &most_specific));
        rules.push(rule);
    }
    let shaped: HashSet<Hostname> =
        wrappers.iter().flat_map(|w| w.services.iter().map(|s| s.hostname.clone())).collect();
    for (host, s) in &registry {
        let wanted = only.is_none_or(|o| host.as_str() == o);
        if !wanted || s.resolution == Resolution::Alias || shaped.contains(host) {
            continue;
        }
        for p in s.ports.iter().filter(|p| is_routed(p.protocol)) {
            wrappers.push(Wrapper {
                port: p.number,
                services: vec![s.clone()],
                hosts: Vec::new(),
                source: Source::Service(host.clone()),
                routes: list::default(inputs, memo, s, p.number),
            });
        }
    }
    (rules, spell(inputs, memo, port, wrappers))
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

/// What the rule at this position among those of the port shapes.
fn of_rule(
    port: u16,
    Rule { rule: v, routes }: &Rule,
    position: usize,
    registry: &BTreeMap<Hostname, Arc<Service>>,
    most_specific: &BTreeMap<Hostname, &Arc<ResolvedVirtualService>>,
) -> Vec<Wrapper> {
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
        for p in s.ports.iter().filter(|p| is_routed(p.protocol)) {
            by_port.entry(p.number).or_default().push(s.clone());
        }
    }
    if by_port.is_empty() && port == 80 {
        by_port.insert(80, Vec::new());
    }
    by_port
        .into_iter()
        .map(|(port, services)| Wrapper {
            port,
            services,
            hosts: hosts.clone(),
            source: Source::Rule(position),
            routes: routes.clone(),
        })
        .collect()
}

/// Names and domains; the first virtual host that wants a name or domain keeps it.
fn spell(inputs: &Inputs, memo: &Memo, port: u16, wrappers: Vec<Wrapper>) -> Vec<(Spelled, Source)> {
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
    let mut out = Vec::with_capacity(wrappers.len());
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
            let spelled = Spelled { names, routes: w.routes.clone(), attempts, require_tls: false };
            out.push((spelled, w.source.clone()));
        }
    }
    out
}
