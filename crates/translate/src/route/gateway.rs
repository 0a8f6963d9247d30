//! Which virtual hosts does a gateway's route configuration hold? The hosts that servers and virtual services share.
//! Follows `buildGatewayHTTPRouteConfig`.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model::ResolvedVirtualService;
use names::Hostname;
use protos::envoy::config::route::v3 as route;
use protos::envoy::config::route::v3::virtual_host::TlsRequirementType;
use protos::prost::Message as _;

use super::action::{self, Context};
use crate::Inputs;
use crate::listener::Class;
use crate::listener::hcm::ProxyHeaders;
use crate::wire::host_port;

/// Virtual hosts of `http.80` or `https.443.…`. `None`: no server has this route name.
pub(super) fn virtual_hosts(inputs: &Inputs, name: &str) -> Option<Vec<route::VirtualHost>> {
    let gateway = inputs.view.gateway.as_ref()?;
    let servers = gateway.by_route.get(name)?;
    let attempts = ProxyHeaders::new(inputs, Class::Gateway).attempt_count;
    let mut hosts: BTreeMap<Hostname, route::VirtualHost> = BTreeMap::new();
    let mut first_port = None;
    let new = |host: &Hostname, port: u16, redirect: bool| route::VirtualHost {
        name: host_port(host, port.into()),
        domains: vec![host.to_string()],
        include_request_attempt_count: attempts,
        require_tls: if redirect { TlsRequirementType::All } else { TlsRequirementType::None } as i32,
        ..Default::default()
    };
    let mut rules: BTreeMap<&str, Rules> = BTreeMap::new();
    for server in servers {
        let s = &server.server;
        let port = s.port.as_ref().and_then(|p| u16::try_from(p.number).ok()).unwrap_or(0);
        first_port.get_or_insert(port);
        let redirect = s.tls.as_ref().is_some_and(|t| t.https_redirect);
        let rules = rules.entry(server.gateway.as_str()).or_insert_with(|| {
            Rules::new(inputs.snapshot().virtual_services.for_gateway(&inputs.proxy().namespace, &server.gateway))
        });
        let mut exposed: BTreeMap<Arc<str>, Exposed> = BTreeMap::new();
        for v in rules.for_hosts(&s.hosts) {
            let exposed = exposed
                .entry(v.config.namespace.clone())
                .or_insert_with(|| Exposed::new(hosts_for_namespace(&s.hosts, &v.config.namespace)));
            let shared = exposed.shared_with(&v.hosts);
            if shared.is_empty() {
                continue;
            }
            let lookup = |host: &Hostname| {
                let own = inputs.snapshot().by_host.get(host).and_then(|m| m.get(&v.config.namespace));
                own.filter(|s| s.visibility.allows(&inputs.proxy().namespace))
                    .cloned()
                    .or_else(|| inputs.view.service(host))
            };
            let context = Context { inputs, port, gateway: &server.gateway, tls: s.tls.is_some(), lookup: &lookup };
            let routes = action::routes(&context, v);
            if routes.is_empty() {
                continue;
            }
            for host in shared {
                let host = Hostname::from(host.to_ascii_lowercase());
                let vhost = hosts.entry(host.clone()).or_insert_with(|| new(&host, port, redirect));
                vhost.routes.extend(routes.iter().cloned());
                if redirect {
                    vhost.require_tls = TlsRequirementType::All as i32;
                }
            }
        }
        if redirect {
            // Redirects need no virtual service.
            for host in &s.hosts {
                let host = host.split_once('/').map_or(host.as_str(), |(_, h)| h).to_ascii_lowercase();
                let host = Hostname::from(host);
                let vhost = hosts.entry(host.clone()).or_insert_with(|| new(&host, port, true));
                vhost.require_tls = TlsRequirementType::All as i32;
            }
        }
    }
    if hosts.is_empty() {
        return Some(vec![route::VirtualHost {
            name: host_port("blackhole", first_port.unwrap_or(0).into()),
            domains: vec!["*".to_owned()],
            ..Default::default()
        }]);
    }
    let mut out = collapse(hosts);
    for v in &mut out {
        v.routes = action::catch_all_last(std::mem::take(&mut v.routes));
    }
    out.sort_by(|a, b| a.name.cmp(&b.name));
    Some(out)
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

/// Hosts a server exposes to a namespace: those without namespace, and those of it.
pub(crate) fn hosts_for_namespace(hosts: &[String], namespace: &str) -> Vec<Hostname> {
    let of = |h: &String| match h.split_once('/') {
        None => Some(Hostname::from(h.as_str())),
        Some((ns, dns)) if ns == namespace || ns == "*" => Some(Hostname::from(dns)),
        Some(_) => None,
    };
    hosts.iter().filter_map(of).collect()
}

/// Virtual hosts with equal routes become one with several domains; the most specific host names it.
fn collapse(hosts: BTreeMap<Hostname, route::VirtualHost>) -> Vec<route::VirtualHost> {
    let mut sorted: Vec<_> = hosts.into_iter().collect();
    sorted.sort_by(|(a, _), (b, _)| a.specificity(b));
    let mut out: Vec<route::VirtualHost> = Vec::new();
    // By everything but name and domains; the encoding is deterministic.
    let mut seen: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    for (_, mut v) in sorted {
        if v.routes.is_empty() {
            out.push(v);
            continue;
        }
        let (name, domains) = (std::mem::take(&mut v.name), std::mem::take(&mut v.domains));
        match seen.entry(v.encode_to_vec()) {
            Entry::Occupied(at) => out[*at.get()].domains.extend(domains),
            Entry::Vacant(free) => {
                free.insert(out.len());
                out.push(route::VirtualHost { name, domains, ..v });
            }
        }
    }
    out
}
