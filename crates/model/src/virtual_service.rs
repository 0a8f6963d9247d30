//! Which virtual services apply where? Short names resolved, delegates merged, indexed by gateway and visibility.
//! Follows `pilot/pkg/model/virtualservice.go`. Deliberately absent: route translation.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::StringMatch;
use api::networking::{Destination, HttpMatchRequest, HttpRoute, VirtualService};
use names::Hostname;
use names::well_known::MESH_GATEWAY;

use crate::config::Config;
use crate::service::Visibility;

/// A virtual service with complete names and merged delegates.
#[derive(Clone, Debug, PartialEq)]
pub struct ResolvedVirtualService {
    /// The resource, with hosts, gateways and destinations in full form.
    pub config: Config<VirtualService>,
    /// Hosts, in full form.
    pub hosts: Vec<Hostname>,
    /// Who sees it.
    pub visibility: Visibility,
    /// `NAMESPACE/NAME` of the delegates merged in.
    pub delegates: Vec<String>,
    /// `NAMESPACE/NAME` of the delegates that do not exist or are not exported to it.
    pub missing_delegates: Vec<String>,
    /// Hosts that HTTP rules send to, each once.
    pub http_destinations: Vec<Hostname>,
    /// Whether a rule asks for labels or a namespace of the client.
    pub asks_for_source: bool,
    /// Whether every destination of HTTP rules states its port.
    pub states_ports: bool,
}

impl ResolvedVirtualService {
    /// Whether it has rules for TLS or TCP.
    pub fn has_byte_rules(&self) -> bool {
        !self.config.spec.tls.is_empty() || !self.config.spec.tcp.is_empty()
    }

    /// Whether its rules are all its own.
    fn delegates_nothing(&self) -> bool {
        self.config.spec.http.iter().all(|r| r.delegate.is_none())
    }

    /// Notes what rules depend on, for those who keep their translation.
    fn note_dependencies(&mut self) {
        let http = &self.config.spec.http;
        let destinations = || {
            http.iter().flat_map(|h| {
                let routes = h.route.iter().filter_map(|r| r.destination.as_ref());
                routes.chain(h.mirror.as_ref()).chain(h.mirrors.iter().filter_map(|m| m.destination.as_ref()))
            })
        };
        let hosts: std::collections::BTreeSet<&str> = destinations().map(|d| d.host.as_str()).collect();
        self.states_ports = destinations().all(|d| d.port.as_ref().is_some_and(|p| p.number > 0));
        self.http_destinations = hosts.into_iter().map(Hostname::from).collect();
        self.asks_for_source =
            http.iter().flat_map(|h| &h.matches).any(|m| !m.source_labels.is_empty() || !m.source_namespace.is_empty());
    }
}

/// All virtual services, in the order they take precedence.
#[derive(Debug, Default)]
pub struct VirtualServices {
    all: Vec<Arc<ResolvedVirtualService>>,
    /// Gateway name (`mesh` or `NAMESPACE/NAME`) to positions in `all`.
    by_gateway: Arc<BTreeMap<String, Vec<usize>>>,
}

impl VirtualServices {
    /// Merges delegates and indexes. What came out equal in `old` stays the same allocation.
    pub(crate) fn of_resolved(
        resolved: impl Iterator<Item = Arc<ResolvedVirtualService>>,
        old: &VirtualServices,
    ) -> Self {
        let mut resolved: Vec<_> = resolved.collect();
        resolved.sort_by(|a, b| a.config.age_order(&b.config));
        let (roots, leaves): (Vec<_>, Vec<_>) = resolved.into_iter().partition(|v| !v.hosts.is_empty());
        let leaves: BTreeMap<String, Arc<ResolvedVirtualService>> =
            leaves.into_iter().map(|v| (v.config.qualified(), v)).collect();
        let mut all = Vec::with_capacity(roots.len());
        let mut by_gateway: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for root in roots {
            let merged = if root.delegates_nothing() {
                root
            } else {
                let merged = merge_delegates((*root).clone(), &leaves);
                let known = old.all.iter().find(|v| ***v == merged);
                known.cloned().unwrap_or_else(|| Arc::new(merged))
            };
            for gateway in &merged.config.spec.gateways {
                match by_gateway.get_mut(gateway) {
                    Some(list) if list.last() == Some(&all.len()) => {}
                    Some(list) => list.push(all.len()),
                    None => drop(by_gateway.insert(gateway.clone(), vec![all.len()])),
                }
            }
            all.push(merged);
        }
        VirtualServices { all, by_gateway: Arc::new(by_gateway) }
    }

    /// These with some in place of others. `None`: delegates are among them, or one is not where the other was.
    pub(crate) fn exchanged(
        &self,
        list: &[(Arc<ResolvedVirtualService>, Arc<ResolvedVirtualService>)],
    ) -> Option<VirtualServices> {
        let mut all = self.all.clone();
        for (old, new) in list {
            let whole = |v: &ResolvedVirtualService| !v.hosts.is_empty() && v.delegates_nothing();
            let same_place = old.config.age_order(&new.config).is_eq()
                && old.config.spec.gateways == new.config.spec.gateways
                && whole(old)
                && whole(new);
            let at = all.iter().position(|v| Arc::ptr_eq(v, old)).filter(|_| same_place)?;
            all[at] = new.clone();
        }
        Some(VirtualServices { all, by_gateway: Arc::clone(&self.by_gateway) })
    }

    /// Virtual services bound to a gateway that a namespace sees: its own private ones first, then those exported to
    /// it by name, then the public ones; each by age.
    pub fn for_gateway(&self, namespace: &str, gateway: &str) -> Vec<Arc<ResolvedVirtualService>> {
        let rank = |v: &ResolvedVirtualService| match &v.visibility {
            Visibility::Public => Some(2),
            Visibility::Nobody => None,
            Visibility::Namespaces(set) if !set.contains(namespace) => None,
            Visibility::Namespaces(set) if set.len() == 1 && *v.config.namespace == *namespace => Some(0),
            Visibility::Namespaces(_) => Some(1),
        };
        let positions = self.by_gateway.get(gateway).map(Vec::as_slice).unwrap_or_default();
        let mut found: Vec<_> =
            positions.iter().filter_map(|&i| Some((rank(&self.all[i])?, self.all[i].clone()))).collect();
        found.sort_by_key(|(rank, _)| *rank);
        found.into_iter().map(|(_, v)| v).collect()
    }

    /// All of them, by age.
    pub fn as_slice(&self) -> &[Arc<ResolvedVirtualService>] {
        &self.all
    }

    /// All of them, by age.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<ResolvedVirtualService>> {
        self.all.iter()
    }
}

/// A gateway reference in full form: `mesh`, `NAMESPACE/NAME`; also reads `./NAME`, `NAME` and `NAME.NAMESPACE…`.
pub fn gateway_name(name: &str, namespace: &str) -> String {
    if name == MESH_GATEWAY {
        return name.to_owned();
    }
    if let Some(own) = name.strip_prefix("./") {
        return format!("{namespace}/{own}");
    }
    if name.contains('/') {
        return name.to_owned();
    }
    match name.split_once('.') {
        None => format!("{namespace}/{name}"),
        Some((gateway, rest)) => format!("{}/{gateway}", rest.split('.').next().unwrap_or(rest)),
    }
}

pub(crate) fn resolve(
    config: &Config<VirtualService>,
    domain: &str,
    default_export_to: &[String],
) -> ResolvedVirtualService {
    let namespace = &*config.namespace;
    let mut spec = config.spec.clone();
    let full = |host: &str| Hostname::resolve(host, namespace, domain);
    let hosts: Vec<Hostname> = spec.hosts.iter().map(|h| full(h)).collect();
    spec.hosts = hosts.iter().map(|h| h.to_string()).collect();
    if spec.gateways.is_empty() && !hosts.is_empty() {
        spec.gateways.push(MESH_GATEWAY.to_owned());
    }
    let gateways = |list: &mut Vec<String>| list.iter_mut().for_each(|g| *g = gateway_name(g, namespace));
    let destination = |d: &mut Option<Destination>| {
        if let Some(d) = d {
            d.host = full(&d.host).to_string();
        }
    };
    gateways(&mut spec.gateways);
    for http in &mut spec.http {
        http.matches.iter_mut().for_each(|m| gateways(&mut m.gateways));
        http.route.iter_mut().for_each(|r| destination(&mut r.destination));
        destination(&mut http.mirror);
        http.mirrors.iter_mut().for_each(|m| destination(&mut m.destination));
    }
    for tcp in &mut spec.tcp {
        tcp.matches.iter_mut().for_each(|m| gateways(&mut m.gateways));
        tcp.route.iter_mut().for_each(|r| destination(&mut r.destination));
    }
    for tls in &mut spec.tls {
        tls.matches.iter_mut().for_each(|m| gateways(&mut m.gateways));
        tls.route.iter_mut().for_each(|r| destination(&mut r.destination));
    }
    let mut out = ResolvedVirtualService {
        visibility: Visibility::parse(&spec.export_to, default_export_to, namespace),
        hosts,
        config: config.with(spec),
        delegates: Vec::new(),
        missing_delegates: Vec::new(),
        http_destinations: Vec::new(),
        asks_for_source: false,
        states_ports: false,
    };
    out.note_dependencies();
    out
}

fn merge_delegates(
    mut root: ResolvedVirtualService,
    leaves: &BTreeMap<String, Arc<ResolvedVirtualService>>,
) -> ResolvedVirtualService {
    let mut routes = Vec::with_capacity(root.config.spec.http.len());
    for route in std::mem::take(&mut root.config.spec.http) {
        let Some(reference) = &route.delegate else {
            routes.push(route);
            continue;
        };
        let namespace = if reference.namespace.is_empty() { &*root.config.namespace } else { &reference.namespace };
        let key = format!("{namespace}/{}", reference.name);
        // A delegate that is missing or not exported to the root takes its rule with it.
        let Some(leaf) = leaves.get(&key).filter(|l| l.visibility.allows(&root.config.namespace)) else {
            root.missing_delegates.push(key);
            continue;
        };
        routes.extend(leaf.config.spec.http.iter().filter_map(|r| merge_route(&route, r)));
        root.delegates.push(key);
    }
    root.config.spec.http = routes;
    root.note_dependencies();
    root
}

fn join(root: &str, leaf: &str) -> String {
    match (root.is_empty(), leaf.is_empty()) {
        (false, false) => format!("{root}-{leaf}"),
        (true, _) => leaf.to_owned(),
        (_, true) => root.to_owned(),
    }
}

/// The delegate's rule under the root's conditions; `None` when they exclude each other.
pub fn merge_route(root: &HttpRoute, leaf: &HttpRoute) -> Option<HttpRoute> {
    let mut out = leaf.clone();
    out.name = join(&root.name, &leaf.name);
    out.matches = merge_matches(&root.matches, &leaf.matches)?;
    out.rewrite = out.rewrite.or_else(|| root.rewrite.clone());
    out.direct_response = out.direct_response.or_else(|| root.direct_response.clone());
    out.timeout = out.timeout.or(root.timeout);
    out.retries = out.retries.or_else(|| root.retries.clone());
    out.fault = out.fault.or_else(|| root.fault.clone());
    out.mirror = out.mirror.or_else(|| root.mirror.clone());
    out.mirror_percent = out.mirror_percent.or(root.mirror_percent);
    out.mirror_percentage = out.mirror_percentage.or_else(|| root.mirror_percentage.clone());
    out.cors_policy = out.cors_policy.or_else(|| root.cors_policy.clone());
    out.headers = out.headers.or_else(|| root.headers.clone());
    if out.mirrors.is_empty() {
        out.mirrors = root.mirrors.clone();
    }
    Some(out)
}

/// Every condition of the delegate under every root condition it is compatible with. `None`: one of them is
/// compatible with none.
pub fn merge_matches(root: &[HttpMatchRequest], leaf: &[HttpMatchRequest]) -> Option<Vec<HttpMatchRequest>> {
    if root.is_empty() {
        return Some(leaf.to_vec());
    }
    if leaf.is_empty() {
        return Some(root.to_vec());
    }
    let mut out = Vec::new();
    for l in leaf {
        let before = out.len();
        out.extend(root.iter().filter(|r| !conflicts(r, l)).map(|r| merge_match(r, l)));
        if out.len() == before {
            return None;
        }
    }
    Some(out)
}

fn merge_match(root: &HttpMatchRequest, leaf: &HttpMatchRequest) -> HttpMatchRequest {
    let mut out = leaf.clone();
    out.name = join(&root.name, &leaf.name);
    out.uri = out.uri.or_else(|| root.uri.clone());
    out.scheme = out.scheme.or_else(|| root.scheme.clone());
    out.method = out.method.or_else(|| root.method.clone());
    out.authority = out.authority.or_else(|| root.authority.clone());
    for (into, from) in [
        (&mut out.headers, &root.headers),
        (&mut out.without_headers, &root.without_headers),
        (&mut out.query_params, &root.query_params),
    ] {
        for (k, v) in from {
            into.entry(k.clone()).or_insert_with(|| v.clone());
        }
    }
    for (k, v) in &root.source_labels {
        out.source_labels.entry(k.clone()).or_insert_with(|| v.clone());
    }
    if out.port == 0 {
        out.port = root.port;
    }
    if out.gateways.is_empty() {
        out.gateways = root.gateways.clone();
    }
    if out.source_namespace.is_empty() {
        out.source_namespace = root.source_namespace.clone();
    }
    if out.stat_prefix.is_empty() {
        out.stat_prefix = root.stat_prefix.clone();
    }
    out
}

/// Whether a delegate's condition is not a narrowing of the root's.
pub fn conflicts(root: &HttpMatchRequest, leaf: &HttpMatchRequest) -> bool {
    if root.ignore_uri_case != leaf.ignore_uri_case {
        return true;
    }
    let texts = [
        (&root.uri, &leaf.uri),
        (&root.scheme, &leaf.scheme),
        (&root.method, &leaf.method),
        (&root.authority, &leaf.authority),
    ];
    if texts.iter().any(|(r, l)| text_conflicts(r.as_ref(), l.as_ref())) {
        return true;
    }
    let maps = [
        (&root.headers, &leaf.headers),
        (&root.without_headers, &leaf.without_headers),
        (&root.query_params, &leaf.query_params),
    ];
    if maps.iter().any(|(r, l)| l.iter().any(|(k, v)| text_conflicts(r.get(k), Some(v)))) {
        return true;
    }
    if root.port > 0 && leaf.port > 0 && root.port != leaf.port {
        return true;
    }
    if leaf.source_labels.iter().any(|(k, v)| root.source_labels.get(k).is_some_and(|r| r != v)) {
        return true;
    }
    if !root.source_namespace.is_empty()
        && !leaf.source_namespace.is_empty()
        && root.source_namespace != leaf.source_namespace
    {
        return true;
    }
    !root.gateways.is_empty() && leaf.gateways.iter().any(|g| !root.gateways.contains(g))
}

fn text_conflicts(root: Option<&StringMatch>, leaf: Option<&StringMatch>) -> bool {
    use StringMatch::{Exact, Prefix, Present, Regex};
    match (root, leaf) {
        (None | Some(Present), _) | (_, None | Some(Present)) => false,
        (Some(Regex(_)), _) | (_, Some(Regex(_))) => true,
        (Some(Exact(r)), Some(Exact(l))) => r != l,
        (Some(Exact(_)), Some(Prefix(_))) => true,
        (Some(Prefix(r)), Some(Exact(l) | Prefix(l))) => !l.starts_with(r.as_str()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateway_names() {
        let check = |name: &str, want: &str| assert_eq!(gateway_name(name, "ns"), want);
        check("mesh", "mesh");
        check("gw", "ns/gw");
        check("./gw", "ns/gw");
        check("other/gw", "other/gw");
        check("gw.other.svc.cluster.local", "other/gw");
    }
}
