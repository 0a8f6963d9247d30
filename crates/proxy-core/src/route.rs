//! Which route serves this request, and which cluster does the route choose?

use proxy_config::matcher::HeaderName;
use proxy_config::route::{
    Beginning, ClusterSpecifier, PathMatch, RequireTls, Route, RouteMatch, RouteTable, VirtualHost, WeightedCluster,
    WeightedClusters,
};
use smallvec::SmallVec;

use crate::HeaderView;
use crate::facts::{MetadataView, NoMetadata, TlsFacts};
use crate::matcher;

/// Position of a route in its table; hold the table's `Arc` beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RouteRef {
    /// Index into `virtual_hosts`.
    pub vhost: u32,
    /// Index into its `routes`.
    pub route: u32,
}

impl RouteRef {
    /// The route itself.
    pub fn route(self, table: &RouteTable) -> &Route {
        &table.virtual_hosts[self.vhost as usize].routes[self.route as usize]
    }

    /// Its virtual host.
    pub fn vhost(self, table: &RouteTable) -> &VirtualHost {
        &table.virtual_hosts[self.vhost as usize]
    }
}

/// What matching needs besides the headers.
#[derive(Clone, Copy)]
pub struct RouteInput<'a> {
    /// Drawn once per stream, so that repeated matching agrees (runtime fractions).
    pub random: u64,
    /// Downstream TLS.
    pub tls: Option<&'a TlsFacts<'a>>,
    /// Dynamic metadata.
    pub metadata: &'a dyn MetadataView,
}

impl Default for RouteInput<'_> {
    fn default() -> Self {
        Self { random: 0, tls: None, metadata: &NoMetadata }
    }
}

/// The outcome of routing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selection {
    /// A route.
    Route(RouteRef),
    /// The virtual host demands TLS: answer 301 to `https`.
    TlsRedirect {
        /// The virtual host.
        vhost: u32,
    },
    /// A virtual host, but none of its routes.
    NoRoute {
        /// The virtual host.
        vhost: u32,
    },
    /// No virtual host.
    NoVirtualHost,
}

/// Finds the virtual host for `authority`.
pub fn virtual_host(table: &RouteTable, authority: &[u8]) -> Option<u32> {
    let host = if table.ignore_port_in_host_matching { without_port(authority) } else { authority };
    table.domains.find(host)
}

/// `host` without `:port` (IPv6 literals keep their brackets).
pub fn without_port(authority: &[u8]) -> &[u8] {
    match memchr::memrchr(b':', authority) {
        Some(at)
            if authority[at + 1..].iter().all(u8::is_ascii_digit)
                && (authority.first() != Some(&b'[') || authority[at - 1] == b']') =>
        {
            &authority[..at]
        }
        _ => authority,
    }
}

/// Routes a request: virtual host by authority, then the first route whose match holds.
///
/// Follows: `envoy.config.route.v3.RouteConfiguration`. Each header that any route of the host tests is looked up at
/// most once.
pub fn select<H: HeaderView + ?Sized>(table: &RouteTable, headers: &H, input: &RouteInput<'_>) -> Selection {
    let Some(vhost) = virtual_host(table, headers.authority()) else {
        return Selection::NoVirtualHost;
    };
    let host = &table.virtual_hosts[vhost as usize];
    if host.require_tls != RequireTls::None && headers.get(b"x-forwarded-proto").is_none_or(|p| p != b"https") {
        let internal = headers.get(b"x-envoy-internal").is_some_and(|v| v == b"true");
        if host.require_tls == RequireTls::All || !internal {
            return Selection::TlsRedirect { vhost };
        }
    }
    match first(host, table.ignore_path_parameters_in_path_matching, headers, input) {
        Some(route) => Selection::Route(RouteRef { vhost, route }),
        None => Selection::NoRoute { vhost },
    }
}

type Slots<'a> = SmallVec<[Option<matcher::Values<'a>>; 4]>;

fn first<H: HeaderView + ?Sized>(
    host: &VirtualHost,
    ignore_parameters: bool,
    headers: &H,
    input: &RouteInput<'_>,
) -> Option<u32> {
    let full = headers.path();
    let mut path = matcher::path_only(full);
    if ignore_parameters && let Some(at) = memchr::memchr(b';', path) {
        path = &path[..at];
    }
    let connect = headers.method() == b"CONNECT";
    let mut slots: Slots<'_> = SmallVec::new();
    slots.resize(host.header_slots.len(), None);
    let mut matches = |r: &Route| {
        path_matches(&r.matcher.path, path, connect)
            && slots_match(&r.matcher, &host.header_slots, headers, &mut slots)
            && rest_matches(&r.matcher, full, headers, input)
    };
    let word = Beginning::word(path);
    let position = match &host.beginnings[..] {
        [] => host.routes.iter().position(matches),
        some => some.iter().zip(&host.routes).position(|(b, r)| b.may_match(word) && matches(r)),
    };
    position.map(|i| i as u32)
}

fn slots_match<'a, H: HeaderView + ?Sized>(
    m: &RouteMatch,
    names: &[HeaderName],
    headers: &'a H,
    slots: &mut Slots<'a>,
) -> bool {
    m.headers.iter().all(|h| {
        let slot = h.slot as usize;
        let value = slots[slot].get_or_insert_with(|| matcher::values(headers, names[slot].as_str().as_bytes()));
        matcher::header_value(&h.matcher, value)
    })
}

fn rest_matches<H: HeaderView + ?Sized>(m: &RouteMatch, full: &[u8], headers: &H, input: &RouteInput<'_>) -> bool {
    if m.grpc && !matcher::is_grpc(headers) {
        return false;
    }
    if !m.query.is_empty() {
        let query = matcher::query_of(full);
        if !m.query.iter().all(|q| matcher::query(q, query)) {
            return false;
        }
    }
    if let Some(tls) = &m.tls {
        let presented = input.tls.is_some_and(|t| t.peer_presented);
        let validated = input.tls.is_some_and(|t| t.peer_validated);
        if tls.presented.is_some_and(|p| p != presented) || tls.validated.is_some_and(|v| v != validated) {
            return false;
        }
    }
    m.cookies.iter().all(|c| matcher::cookie(c, headers))
        && m.dynamic_metadata.iter().all(|d| matcher::metadata(d, input.metadata))
        && m.fraction.is_none_or(|f| f.hit(input.random))
}

/// Evaluates a `RouteMatch` outside of a route table (`jwt_authn` rules).
pub fn matches<H: HeaderView + ?Sized>(m: &RouteMatch, headers: &H, input: &RouteInput<'_>) -> bool {
    let full = headers.path();
    path_matches(&m.path, matcher::path_only(full), headers.method() == b"CONNECT")
        && m.headers.iter().all(|h| matcher::header(&h.matcher, headers))
        && rest_matches(m, full, headers, input)
}

fn starts_no_case(text: &[u8], lower: &[u8]) -> bool {
    text.len() >= lower.len() && text[..lower.len()].eq_ignore_ascii_case(lower)
}

/// Matches `path` (without query). A CONNECT without path matches only a connect matcher.
#[inline]
pub fn path_matches(m: &PathMatch, path: &[u8], connect: bool) -> bool {
    if path.is_empty() {
        return connect && matches!(m, PathMatch::Connect);
    }
    let boundary = |len: usize| path.len() == len || path[len] == b'/';
    match m {
        PathMatch::Any => true,
        PathMatch::Prefix(p) => path.starts_with(p.as_bytes()),
        PathMatch::PrefixNoCase(p) => starts_no_case(path, p.as_bytes()),
        PathMatch::Exact(p) => path == p.as_bytes(),
        PathMatch::ExactNoCase(p) => path.eq_ignore_ascii_case(p.as_bytes()),
        PathMatch::Separated(p) => path.starts_with(p.as_bytes()) && boundary(p.len()),
        PathMatch::SeparatedNoCase(p) => starts_no_case(path, p.as_bytes()) && boundary(p.len()),
        PathMatch::Regex(r) => r.matches(path),
        PathMatch::Connect => connect,
        PathMatch::Template(t) => t.regex.is_match(path),
    }
}

/// The cluster that a route chose.
#[derive(Debug, Clone, Copy)]
pub enum ClusterChoice<'a> {
    /// This cluster, by name in configuration or header; with its weighted entry when there is one.
    Cluster(&'a str, Option<&'a WeightedCluster>),
    /// The header that should name the cluster is absent or empty: answer as "cluster not found".
    Missing,
}

/// Chooses among weighted clusters: `value % total`, walking the weights in order.
pub fn pick_weighted(w: &WeightedClusters, value: u64) -> &WeightedCluster {
    let mut left = value % w.total_weight;
    for c in &w.clusters {
        match left.checked_sub(u64::from(c.weight)) {
            None => return c,
            Some(rest) => left = rest,
        }
    }
    // The weights sum to `total_weight`, so the loop returns; keep the last one for safety.
    &w.clusters[w.clusters.len() - 1]
}

/// Resolves a route's cluster. `random` is the stream's draw, `hash` that of its hash policy.
pub fn cluster<'a, H: HeaderView + ?Sized>(
    specifier: &'a ClusterSpecifier,
    headers: &'a H,
    random: u64,
    hash: Option<u64>,
) -> ClusterChoice<'a> {
    let named = |name: &HeaderName, entry| {
        let value = headers.get(name.as_str().as_bytes()).and_then(|v| std::str::from_utf8(v).ok());
        value.filter(|v| !v.is_empty()).map_or(ClusterChoice::Missing, |v| ClusterChoice::Cluster(v, entry))
    };
    match specifier {
        ClusterSpecifier::Cluster(name) => ClusterChoice::Cluster(name, None),
        ClusterSpecifier::Header(name) => named(name, None),
        ClusterSpecifier::Weighted(w) => {
            let from_header = w
                .random_value_header
                .as_ref()
                .and_then(|h| std::str::from_utf8(headers.get(h.as_str().as_bytes())?).ok()?.parse::<u64>().ok());
            let value = match hash {
                Some(hash) if w.use_hash_policy => hash,
                _ => from_header.unwrap_or(random),
            };
            let entry = pick_weighted(w, value);
            match &entry.cluster {
                ClusterSpecifier::Header(name) => named(name, Some(entry)),
                ClusterSpecifier::Cluster(name) => ClusterChoice::Cluster(name, Some(entry)),
                ClusterSpecifier::Weighted(_) => ClusterChoice::Missing,
            }
        }
    }
}

#[cfg(test)]
mod tests;
