//! How is a large route configuration put together from routes that were translated before? Routes and virtual hosts as
//! the bytes they will be, so that assembling copies instead of building. Fields are written by number (protobuf allows
//! any order); `RouteConfiguration`s are read back where patches want messages.

use std::sync::Arc;

use names::Hostname;
use protos::envoy::config::route::v3 as route;
use protos::envoy::config::route::v3::virtual_host::TlsRequirementType;
use protos::prost::Message as _;
use protos::prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use xds::server::Part;

use super::action::{self, Context, Parts};
use super::domains::Domains;
use crate::Inputs;
use crate::incremental::{Key, Memo, Shared, Unit};

/// `RouteConfiguration.virtual_hosts`.
const VIRTUAL_HOSTS: u32 = 2;
/// `VirtualHost.name`, `.domains`, `.routes`.
const NAME: u32 = 1;
const DOMAINS: u32 = 2;
const ROUTES: u32 = 3;
/// Most bytes of a field's key and length.
const PREFIX_MAX: usize = 12;
/// More parts of routes than that are not copied into their virtual host. A virtual service has at most this many.
const COPIED_PARTS_MAX: usize = 2;
/// Odd and without pattern, so that hashes of parts do not cancel each other.
const HASH_FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// Starts a length-delimited field.
fn field(out: &mut Vec<u8>, number: u32, len: usize) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(len as u64, out);
}

fn field_len(number: u32, len: usize) -> usize {
    key_len(number) + encoded_len_varint(len as u64) + len
}

/// Routes as `VirtualHost.routes`, those that take everything at the end. In parts: the hosts that many rules share hold
/// what each rule became, not a copy of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct RouteList {
    first: Vec<Arc<Part>>,
    /// Routes that take everything.
    last: Vec<Arc<Part>>,
}

impl RouteList {
    /// Encodes routes in their order, except that those that take everything come last.
    pub(super) fn of(routes: Vec<route::Route>) -> Arc<Self> {
        Arc::new(Self::whole(routes))
    }

    fn whole(routes: Vec<route::Route>) -> Self {
        let rest: std::rc::Rc<[u8]> = Vec::new().into();
        Self::encode(routes.into_iter().map(|head| Parts { head, rest: rest.clone() }).collect())
    }

    fn encode(routes: Vec<Parts>) -> Self {
        let (last, first): (Vec<_>, Vec<_>) = routes.iter().partition(|r| action::is_catch_all(&r.head));
        let part = |list: &[&Parts]| -> Vec<Arc<Part>> {
            let mut out = Vec::new();
            for r in list {
                field(&mut out, ROUTES, r.head.encoded_len() + r.rest.len());
                r.head.encode_raw(&mut out);
                out.extend_from_slice(&r.rest);
            }
            out.shrink_to_fit();
            if out.is_empty() { Vec::new() } else { vec![Arc::new(Part::new(out))] }
        };
        RouteList { first: part(&first), last: part(&last) }
    }

    /// Several lists as one: the conditional routes of all, then those that take everything.
    pub(super) fn joined<'a>(lists: impl Iterator<Item = &'a Arc<RouteList>> + Clone) -> Arc<RouteList> {
        let mut one = lists.clone();
        if let (Some(only), None) = (one.next(), one.next()) {
            return only.clone();
        }
        let first = lists.clone().flat_map(|l| l.first.iter().cloned()).collect();
        Arc::new(RouteList { first, last: lists.flat_map(|l| l.last.iter().cloned()).collect() })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_empty() && self.last.is_empty()
    }

    fn parts(&self) -> impl Iterator<Item = &Arc<Part>> {
        self.first.iter().chain(&self.last)
    }

    fn len(&self) -> usize {
        self.parts().map(|p| p.len()).sum()
    }

    /// Equal lists have equal hashes.
    pub(super) fn hash(&self) -> u64 {
        self.parts().fold(0, |hash: u64, part| hash.rotate_left(5).wrapping_mul(HASH_FACTOR) ^ part.hash())
    }
}

/// The routes of a virtual service, kept by what they depend on: the rules, where they apply, and the services and rules
/// of their destinations.
pub(super) fn rules(memo: &Memo, context: &Context<'_>, v: &Arc<model::ResolvedVirtualService>) -> Arc<RouteList> {
    let (inputs, proxy) = (context.inputs, context.inputs.proxy());
    let text;
    let text = if v.asks_for_source {
        text = format!("{}|{}|{:?}", context.gateway, proxy.namespace, proxy.labels);
        &text
    } else {
        context.gateway
    };
    let services: Vec<_> = v.http_destinations.iter().map(|h| (context.lookup)(h)).collect();
    let mesh = &inputs.snapshot().mesh;
    let bits = u64::from(context.forwarded_host()) << 17 | u64::from(context.port) << 1 | u64::from(context.tls);
    let mut key = Key::new(Unit::Rules, text).bits(bits).part(v).part(mesh);
    for (host, service) in v.http_destinations.iter().zip(&services) {
        let rule = inputs.scope().rule(host, &proxy.labels, false);
        key = key.maybe(service.as_ref().map(|s| s as &dyn Shared)).maybe(rule.map(|r| r as &dyn Shared));
    }
    memo.get(&key, || RouteList::encode(action::routes(context, v)))
}

/// The route of a service that no virtual service shapes.
pub(super) fn default(inputs: &Inputs, memo: &Memo, service: &Arc<model::Service>, port: u16) -> Arc<RouteList> {
    let rule = inputs.scope().rule(&service.hostname, &inputs.proxy().labels, false);
    let key = Key::new(Unit::DefaultRoute, "")
        .bits(port.into())
        .part(service)
        .maybe(rule.map(|r| r as &dyn Shared))
        .part(&inputs.snapshot().mesh);
    memo.get(&key, || RouteList::whole(vec![action::default_outbound(inputs, service, port)]))
}

/// How a virtual host is called.
#[derive(Clone, Debug)]
pub(super) enum Names {
    /// By all the names of a service.
    Of(Arc<Domains>),
    /// By a name and domains of its own.
    Own { name: String, domains: Vec<String> },
}

/// A virtual host with its final name and domains.
#[derive(Clone, Debug)]
pub(super) struct Spelled {
    pub(super) names: Names,
    pub(super) routes: Arc<RouteList>,
    pub(super) attempts: bool,
    pub(super) require_tls: bool,
}

impl Spelled {
    pub(super) fn name(&self) -> &str {
        match &self.names {
            Names::Of(domains) => &domains.name,
            Names::Own { name, .. } => name,
        }
    }

    pub(super) fn domains(&self) -> &[String] {
        match &self.names {
            Names::Of(domains) => &domains.all,
            Names::Own { domains, .. } => domains,
        }
    }

    fn rest(&self) -> route::VirtualHost {
        let require_tls = if self.require_tls { TlsRequirementType::All } else { TlsRequirementType::None };
        route::VirtualHost {
            require_tls: require_tls as i32,
            include_request_attempt_count: self.attempts,
            ..Default::default()
        }
    }

    /// As a field of its route configuration; of services the same allocation each time.
    pub(super) fn part(&self, memo: &Memo) -> Arc<Part> {
        let Names::Of(domains) = &self.names else {
            return Arc::new(self.encode());
        };
        let bits = u64::from(self.attempts) << 1 | u64::from(self.require_tls);
        let key = Key::new(Unit::ServiceHost, "").bits(bits).part(domains).part(&self.routes);
        memo.get(&key, || self.encode())
    }

    /// The same in the parts of its routes, if they are many.
    pub(super) fn parts(&self, memo: &Memo) -> Vec<Arc<Part>> {
        if self.routes.parts().count() <= COPIED_PARTS_MAX {
            return vec![self.part(memo)];
        }
        let (head, rest) = self.around_routes(0);
        let (head, rest) = (Arc::new(Part::new(head)), Arc::new(Part::new(rest)));
        std::iter::once(head).chain(self.routes.parts().cloned()).chain([rest]).collect()
    }

    fn encode(&self) -> Part {
        let (mut out, rest) = self.around_routes(self.routes.len());
        self.routes.parts().for_each(|p| out.extend_from_slice(p.bytes()));
        out.extend_from_slice(&rest);
        out.shrink_to_fit();
        Part::new(out)
    }

    /// What comes before the routes, with room for as many bytes more, and what comes after them.
    fn around_routes(&self, room: usize) -> (Vec<u8>, Vec<u8>) {
        let (name, rest) = (self.name(), self.rest().encode_to_vec());
        let domains: usize = self.domains().iter().map(|d| field_len(DOMAINS, d.len())).sum();
        let names = field_len(NAME, name.len()) + domains;
        let mut out = Vec::with_capacity(names + PREFIX_MAX + room + rest.len());
        field(&mut out, VIRTUAL_HOSTS, names + self.routes.len() + rest.len());
        field(&mut out, NAME, name.len());
        out.extend_from_slice(name.as_bytes());
        for d in self.domains() {
            field(&mut out, DOMAINS, d.len());
            out.extend_from_slice(d.as_bytes());
        }
        (out, rest)
    }
}

/// A service reduced to one of its ports; the same allocation each time.
pub(super) fn reduced(memo: &Memo, service: &Arc<model::Service>, port: &model::Port) -> Arc<model::Service> {
    let key = Key::new(Unit::Reduced, "").bits(port.number.into()).part(service);
    memo.get(&key, || {
        let mut reduced = (**service).clone();
        reduced.ports = vec![port.clone()];
        reduced
    })
}

/// Exact and wildcard hosts of a table, to ask whether a host matches any of them without asking each.
pub(super) struct Hosts<'a> {
    all: &'a std::collections::BTreeMap<Hostname, Arc<model::Service>>,
    wildcards: Vec<&'a Hostname>,
}

impl<'a> Hosts<'a> {
    pub(super) fn new(all: &'a std::collections::BTreeMap<Hostname, Arc<model::Service>>) -> Self {
        Hosts { all, wildcards: all.keys().filter(|h| h.is_wildcard()).collect() }
    }

    /// Whether `host` and one of the table cover each other.
    pub(super) fn matched_by(&self, host: &Hostname) -> bool {
        if host.is_wildcard() {
            return self.all.keys().any(|s| host.matches(s));
        }
        self.all.contains_key(host) || self.wildcards.iter().any(|w| host.matches(w))
    }
}
