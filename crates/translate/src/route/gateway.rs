//! Which virtual hosts does a gateway's route configuration hold? The hosts that servers and virtual services share.
//! Follows `buildGatewayHTTPRouteConfig`.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use model::ResolvedVirtualService;
use model::gateway::GatewayServer;
use names::Hostname;
use xds::server::Part;

use super::Reshaped;
use super::action::Context;
use super::list::{self, Names, RouteList, Spelled};
use crate::Inputs;
use crate::incremental::Memo;
use crate::listener::Class;
use crate::listener::hcm::ProxyHeaders;
use crate::wire::host_port;

/// A rule where a server applies it.
#[derive(Debug)]
struct Share {
    rule: Arc<ResolvedVirtualService>,
    server: Arc<GatewayServer>,
    routes: Arc<RouteList>,
}

/// A host that a server exposes and a rule or a redirect claims.
#[derive(Debug)]
struct Host {
    host: Hostname,
    port: u16,
    require_tls: bool,
    /// Positions of the shares that route it, in order.
    shares: Vec<usize>,
    routes: Arc<RouteList>,
}

/// Hosts with equal routes.
#[derive(Debug)]
struct Group {
    /// Positions of its hosts; the first, most specific one names it.
    hosts: Vec<usize>,
    parts: Vec<Arc<Part>>,
}

/// The virtual hosts of a route name (`http.80`, `https.443.…`), with what it takes to follow a change of a few services
/// or rules among a thousand.
#[derive(Debug)]
pub(crate) struct Table {
    shares: Vec<Arc<Share>>,
    /// The most specific host first.
    hosts: Vec<Arc<Host>>,
    /// By their first host.
    groups: Vec<Arc<Group>>,
    /// The groups in the order of their names.
    order: Vec<usize>,
    /// Port of the first server.
    port: u16,
}

/// A virtual host under construction.
struct Claim {
    port: u16,
    shares: Vec<usize>,
    require_tls: bool,
}

fn port(server: &GatewayServer) -> u16 {
    server.server.port.as_ref().and_then(|p| u16::try_from(p.number).ok()).unwrap_or(0)
}

fn routes(inputs: &Inputs, memo: &Memo, server: &GatewayServer, v: &Arc<ResolvedVirtualService>) -> Arc<RouteList> {
    let lookup = |host: &Hostname| destination(inputs, v, host);
    let tls = server.server.tls.is_some();
    let context = Context { inputs, port: port(server), gateway: &server.gateway, tls, lookup: &lookup };
    list::rules(memo, &context, v)
}

impl Table {
    /// `None`: no server has this route name.
    pub(crate) fn new(inputs: &Inputs, memo: &Memo, name: &str) -> Option<Table> {
        let gateway = inputs.view.gateway.as_ref()?;
        let servers = gateway.by_route.get(name)?;
        let mut shares: Vec<Arc<Share>> = Vec::new();
        let mut claims: BTreeMap<Hostname, Claim> = BTreeMap::new();
        let mut first_port = None;
        let mut rules: BTreeMap<&str, Rules> = BTreeMap::new();
        for server in servers {
            let s = &server.server;
            let port = port(server);
            first_port.get_or_insert(port);
            let redirect = s.tls.as_ref().is_some_and(|t| t.https_redirect);
            let new = || Claim { port, shares: Vec::new(), require_tls: redirect };
            let rules = rules.entry(server.gateway.as_str()).or_insert_with(|| {
                Rules::new(inputs.snapshot().virtual_services.for_gateway(&inputs.proxy().namespace, &server.gateway))
            });
            let mut exposed: BTreeMap<Arc<str>, Exposed> = BTreeMap::new();
            for v in rules.for_hosts(&s.hosts) {
                let exposed = match exposed.get(&v.config.namespace) {
                    Some(exposed) => exposed,
                    None => exposed
                        .entry(v.config.namespace.clone())
                        .or_insert(Exposed::new(Hostname::for_namespace(&s.hosts, &v.config.namespace))),
                };
                let shared = exposed.shared_with(&v.hosts);
                if shared.is_empty() {
                    continue;
                }
                let routes = routes(inputs, memo, server, v);
                let claim = !routes.is_empty();
                shares.push(Arc::new(Share { rule: v.clone(), server: server.clone(), routes }));
                for host in shared.into_iter().filter(|_| claim) {
                    let vhost = claims.entry(lower(host)).or_insert_with(new);
                    vhost.shares.push(shares.len() - 1);
                    vhost.require_tls |= redirect;
                }
            }
            if redirect {
                // Redirects need no virtual service.
                for host in &s.hosts {
                    let host = Hostname::from(host.split_once('/').map_or(host.as_str(), |(_, h)| h));
                    claims.entry(lower(host)).or_insert_with(new).require_tls = true;
                }
            }
        }
        let mut hosts: Vec<_> = claims
            .into_iter()
            .map(|(host, Claim { port, shares: of, require_tls })| {
                let routes = joined(&shares, &of);
                Arc::new(Host { host, port, require_tls, shares: of, routes })
            })
            .collect();
        hosts.sort_by(|a, b| a.host.specificity(&b.host));
        let (groups, order) = (Vec::new(), Vec::new());
        let mut table = Table { shares, hosts, groups, order, port: first_port.unwrap_or(0) };
        table.group(inputs, memo, &[], |_| false);
        Some(table)
    }

    /// The table after a change of services and rules of unchanged gateways. `exchanged`: the rule in place of one, of the
    /// same hosts and rank. `concerned`: whether a service it names moved. `Ok(None)`: nothing differs. `Err`: it must be
    /// made from scratch.
    pub(crate) fn follow(
        &self,
        inputs: &Inputs,
        memo: &Memo,
        exchanged: impl Fn(&Arc<ResolvedVirtualService>) -> Option<Arc<ResolvedVirtualService>>,
        concerned: impl Fn(&ResolvedVirtualService) -> bool,
    ) -> Result<Option<Table>, Reshaped> {
        let mut moved: BTreeMap<usize, Arc<Share>> = BTreeMap::new();
        for (n, share) in self.shares.iter().enumerate() {
            let rule = exchanged(&share.rule);
            if rule.is_none() && !concerned(&share.rule) {
                continue;
            }
            let rule = rule.unwrap_or_else(|| share.rule.clone());
            let routes = routes(inputs, memo, &share.server, &rule);
            if routes.is_empty() != share.routes.is_empty() {
                return Err(Reshaped);
            }
            moved.insert(n, Arc::new(Share { rule, server: share.server.clone(), routes }));
        }
        if moved.is_empty() {
            return Ok(None);
        }
        let mut shares = self.shares.clone();
        let differs = |n: &usize, to: &Arc<Share>| to.routes != self.shares[*n].routes;
        let differing: BTreeSet<usize> = moved.iter().filter(|(n, to)| differs(n, to)).map(|(n, _)| *n).collect();
        for (n, share) in moved {
            shares[n] = share;
        }
        let mut hosts = self.hosts.clone();
        let mut other = BTreeSet::new();
        for (n, host) in hosts.iter_mut().enumerate() {
            if host.shares.iter().any(|s| differing.contains(s)) {
                let routes = joined(&shares, &host.shares);
                let Host { port, require_tls, .. } = **host;
                let (name, of) = (host.host.clone(), host.shares.clone());
                *host = Arc::new(Host { host: name, port, require_tls, shares: of, routes });
                other.insert(n);
            }
        }
        let mut table = Table { shares, hosts, groups: Vec::new(), order: self.order.clone(), port: self.port };
        match table.same_groups(&self.groups, &other) {
            Some(changed) => {
                table.groups.clone_from(&self.groups);
                for at in changed {
                    table.groups[at] = table.finished(inputs, memo, self.groups[at].hosts.clone());
                }
            }
            None => table.group(inputs, memo, &self.groups, |n| !other.contains(&n)),
        }
        Ok(Some(table))
    }

    /// Positions of those groups of `old` whose routes changed, if all groups have the members still that they had: of the
    /// hosts in `other`, which have other routes, each went along with its whole group, and no two groups met.
    fn same_groups(&self, old: &[Arc<Group>], other: &BTreeSet<usize>) -> Option<Vec<usize>> {
        let key = |group: &Group| {
            let first = &self.hosts[group.hosts[0]];
            (first.require_tls, first.routes.hash())
        };
        let mut changed = Vec::new();
        for (at, group) in old.iter().enumerate() {
            let moved = group.hosts.iter().filter(|n| other.contains(n)).count();
            if moved == 0 {
                continue;
            }
            let routes = &self.hosts[group.hosts[0]].routes;
            let alike = group.hosts.iter().all(|n| self.hosts[*n].routes == *routes);
            if moved != group.hosts.len() || !alike || routes.is_empty() {
                return None;
            }
            changed.push((at, key(group)));
        }
        let met = |(at, group): (usize, &Arc<Group>)| {
            let key = key(group);
            changed.iter().any(|(other, of)| *other != at && *of == key)
        };
        if old.iter().enumerate().any(met) {
            return None;
        }
        Some(changed.into_iter().map(|(at, _)| at).collect())
    }

    /// A group of these hosts.
    fn finished(&self, inputs: &Inputs, memo: &Memo, hosts: Vec<usize>) -> Arc<Group> {
        let attempts = ProxyHeaders::new(inputs, Class::Gateway).attempt_count;
        let first = &self.hosts[hosts[0]];
        let domains = hosts.iter().map(|n| self.hosts[*n].host.to_string()).collect();
        let names = Names::Own { name: name(first), domains };
        let whole = Spelled { names, routes: first.routes.clone(), attempts, require_tls: first.require_tls };
        Arc::new(Group { hosts, parts: whole.parts(memo) })
    }

    /// Virtual hosts with equal routes become one with several domains; the most specific host names it. `old`: groups
    /// of the same hosts, of which those have their routes still that `same` selects.
    fn group(&mut self, inputs: &Inputs, memo: &Memo, old: &[Arc<Group>], same: impl Fn(usize) -> bool) {
        let mut members: Vec<Vec<usize>> = Vec::with_capacity(self.hosts.len());
        let mut seen: HashMap<(bool, u64), usize> = HashMap::with_capacity(self.hosts.len());
        for (n, host) in self.hosts.iter().enumerate() {
            if !host.routes.is_empty() {
                match seen.entry((host.require_tls, host.routes.hash())) {
                    Entry::Occupied(at) if *self.hosts[members[*at.get()][0]].routes == *host.routes => {
                        members[*at.get()].push(n);
                        continue;
                    }
                    Entry::Occupied(_) => {}
                    Entry::Vacant(free) => drop(free.insert(members.len())),
                }
            }
            members.push(vec![n]);
        }
        let known: HashMap<usize, &Arc<Group>> = old.iter().map(|g| (g.hosts[0], g)).collect();
        let named_alike = old.len() == members.len() && old.iter().zip(&members).all(|(a, b)| a.hosts[0] == b[0]);
        let of = |hosts: Vec<usize>| -> Arc<Group> {
            let known = known.get(&hosts[0]).filter(|g| g.hosts == hosts && same(hosts[0]));
            if let Some(known) = known {
                return Arc::clone(known);
            }
            self.finished(inputs, memo, hosts)
        };
        let groups: Vec<_> = members.into_iter().map(of).collect();
        if !named_alike {
            self.order = (0..groups.len()).collect();
            self.order.sort_by_cached_key(|n| name(&self.hosts[groups[*n].hosts[0]]));
        }
        self.groups = groups;
    }

    /// The virtual hosts, by name, each in one part or several.
    pub(crate) fn parts(&self) -> Vec<Arc<Part>> {
        if self.groups.is_empty() {
            let name = host_port("blackhole", self.port.into());
            let names = Names::Own { name, domains: vec!["*".to_owned()] };
            let nowhere = Spelled { names, routes: Arc::default(), attempts: false, require_tls: false };
            return vec![nowhere.part(&Memo::default())];
        }
        self.order.iter().flat_map(|n| self.groups[*n].parts.iter().cloned()).collect()
    }
}

fn name(host: &Host) -> String {
    host_port(&host.host, host.port.into())
}

fn joined(shares: &[Arc<Share>], of: &[usize]) -> Arc<RouteList> {
    RouteList::joined(of.iter().map(|n| &shares[*n].routes))
}

/// The service that a rule's destination means: that of the rule's namespace if the proxy sees it.
fn destination(inputs: &Inputs, v: &ResolvedVirtualService, host: &Hostname) -> Option<Arc<model::Service>> {
    let own = inputs.snapshot().by_host.get(host).and_then(|m| m.get(&v.config.namespace));
    own.filter(|s| s.visibility.allows(&inputs.proxy().namespace)).cloned().or_else(|| inputs.view.service(host))
}

fn lower(host: Hostname) -> Hostname {
    if host.bytes().any(|b| b.is_ascii_uppercase()) { Hostname::from(host.to_ascii_lowercase()) } else { host }
}

/// Virtual services of a gateway, in order, found by host: a gateway may have as many servers as rules.
struct Rules {
    all: Vec<Arc<ResolvedVirtualService>>,
    exact: BTreeMap<Hostname, Vec<usize>>,
    wildcard: Vec<usize>,
}

impl Rules {
    fn new(all: Vec<Arc<ResolvedVirtualService>>) -> Self {
        let mut exact: BTreeMap<Hostname, Vec<usize>> = BTreeMap::new();
        let mut wildcard = Vec::new();
        for (n, v) in all.iter().enumerate() {
            for h in v.hosts.iter().filter(|h| !h.is_wildcard()) {
                exact.entry(h.clone()).or_default().push(n);
            }
            if v.hosts.iter().any(Hostname::is_wildcard) {
                wildcard.push(n);
            }
        }
        Rules { all, exact, wildcard }
    }

    /// Those that may share a host with a server's.
    fn for_hosts(&self, hosts: &[String]) -> Vec<&Arc<ResolvedVirtualService>> {
        let mut found: BTreeSet<usize> = self.wildcard.iter().copied().collect();
        for h in hosts {
            let host = Hostname::from(h.split_once('/').map_or(h.as_str(), |(_, dns)| dns));
            if host.is_wildcard() {
                return self.all.iter().collect();
            }
            found.extend(self.exact.get(&host).into_iter().flatten());
        }
        found.iter().map(|n| &self.all[*n]).collect()
    }
}

/// Hosts of a server, ready for many virtual services to ask.
struct Exposed {
    all: BTreeSet<Hostname>,
    wildcards: Vec<Hostname>,
}

impl Exposed {
    fn new(hosts: Vec<Hostname>) -> Self {
        Exposed {
            wildcards: hosts.iter().filter(|h| h.is_wildcard()).cloned().collect(),
            all: hosts.into_iter().collect(),
        }
    }

    /// Hosts covered by both sides, each in its most specific form. Only wildcards look at every host.
    fn shared_with(&self, hosts: &[Hostname]) -> BTreeSet<Hostname> {
        let mut out = BTreeSet::new();
        for h in hosts {
            if self.all.contains(h) || self.wildcards.iter().any(|w| h.subset_of(w)) {
                out.insert(h.clone());
            }
            if h.is_wildcard() {
                out.extend(self.all.iter().filter(|x| x.subset_of(h)).cloned());
            }
        }
        out
    }
}
