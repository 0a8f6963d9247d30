//! Which virtual hosts does a gateway's route configuration hold? The hosts that servers and virtual services share.
//! Follows `buildGatewayHTTPRouteConfig`.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use model::ResolvedVirtualService;
use names::Hostname;

use super::action::Context;
use super::list::{self, RouteList, Spelled};
use crate::Inputs;
use crate::incremental::Memo;
use crate::listener::Class;
use crate::listener::hcm::ProxyHeaders;
use crate::wire::host_port;

/// A virtual host under construction.
struct Host {
    port: u16,
    routes: Vec<Arc<RouteList>>,
    require_tls: bool,
}

/// Virtual hosts of `http.80` or `https.443.…`. `None`: no server has this route name.
pub(super) fn virtual_hosts(inputs: &Inputs, memo: &Memo, name: &str) -> Option<Vec<Spelled>> {
    let gateway = inputs.view.gateway.as_ref()?;
    let servers = gateway.by_route.get(name)?;
    let attempts = ProxyHeaders::new(inputs, Class::Gateway).attempt_count;
    let mut hosts: BTreeMap<Hostname, Host> = BTreeMap::new();
    let mut first_port = None;
    let mut rules: BTreeMap<&str, Rules> = BTreeMap::new();
    for server in servers {
        let s = &server.server;
        let port = s.port.as_ref().and_then(|p| u16::try_from(p.number).ok()).unwrap_or(0);
        first_port.get_or_insert(port);
        let redirect = s.tls.as_ref().is_some_and(|t| t.https_redirect);
        let new = || Host { port, routes: Vec::new(), require_tls: redirect };
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
            let lookup = |host: &Hostname| destination(inputs, v, host);
            let context = Context { inputs, port, gateway: &server.gateway, tls: s.tls.is_some(), lookup: &lookup };
            let routes = list::rules(memo, &context, v);
            if routes.is_empty() {
                continue;
            }
            for host in shared {
                let vhost = hosts.entry(lower(host)).or_insert_with(new);
                vhost.routes.push(routes.clone());
                vhost.require_tls |= redirect;
            }
        }
        if redirect {
            // Redirects need no virtual service.
            for host in &s.hosts {
                let host = Hostname::from(host.split_once('/').map_or(host.as_str(), |(_, h)| h));
                hosts.entry(lower(host)).or_insert_with(new).require_tls = true;
            }
        }
    }
    if hosts.is_empty() {
        return Some(vec![Spelled {
            name: host_port("blackhole", first_port.unwrap_or(0).into()),
            domains: vec!["*".to_owned()],
            routes: Arc::default(),
            attempts: false,
            require_tls: false,
        }]);
    }
    let mut out = collapse(hosts, attempts);
    out.sort_by(list::by_name);
    Some(out)
}

/// Virtual services that may have a say in a route name, with the services they send to.
pub(crate) type Dependencies = Vec<(Arc<ResolvedVirtualService>, Vec<Option<Arc<model::Service>>>)>;

/// What the virtual hosts of a route name are made from beside the merged gateway. `None`: no server has this name.
pub(crate) fn dependencies(inputs: &Inputs, name: &str) -> Option<Dependencies> {
    let servers = inputs.view.gateway.as_ref()?.by_route.get(name)?;
    let gateways: BTreeSet<&str> = servers.iter().map(|s| s.gateway.as_str()).collect();
    let rules =
        gateways.into_iter().flat_map(|g| inputs.snapshot().virtual_services.for_gateway(&inputs.proxy().namespace, g));
    Some(rules.map(|v| (v.clone(), v.http_destinations.iter().map(|h| destination(inputs, &v, h)).collect())).collect())
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

/// Virtual hosts with equal routes become one with several domains; the most specific host names it.
fn collapse(hosts: BTreeMap<Hostname, Host>, attempts: bool) -> Vec<Spelled> {
    let mut sorted: Vec<_> = hosts.into_iter().collect();
    sorted.sort_by(|(a, _), (b, _)| a.specificity(b));
    let mut out: Vec<Spelled> = Vec::with_capacity(sorted.len());
    let mut seen: HashMap<(bool, u64), usize> = HashMap::new();
    for (host, h) in sorted {
        let routes = RouteList::joined(&h.routes);
        if !routes.is_empty() {
            let key = (h.require_tls, xxhash_rust::xxh64::xxh64(routes.bytes(), 0));
            match seen.entry(key) {
                Entry::Occupied(at) if out[*at.get()].routes.bytes() == routes.bytes() => {
                    out[*at.get()].domains.push(host.to_string());
                    continue;
                }
                Entry::Occupied(_) => {}
                Entry::Vacant(free) => drop(free.insert(out.len())),
            }
        }
        let (name, domains) = (host_port(&host, h.port.into()), vec![host.to_string()]);
        out.push(Spelled { name, domains, routes, attempts, require_tls: h.require_tls });
    }
    out
}
