//! How is a large route configuration put together from routes that were translated before? Routes and virtual hosts as
//! the bytes they will be, so that assembling copies instead of building. Fields are written by number (protobuf allows
//! any order); `RouteConfiguration`s are read back where patches want messages.

use std::sync::{Arc, OnceLock};

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

/// Starts a length-delimited field.
fn field(out: &mut Vec<u8>, number: u32, len: usize) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(len as u64, out);
}

fn field_len(number: u32, len: usize) -> usize {
    key_len(number) + encoded_len_varint(len as u64) + len
}

/// Routes as `VirtualHost.routes`, those that take everything at the end.
#[derive(Clone, Debug, Default)]
pub(super) struct RouteList {
    bytes: Vec<u8>,
    /// Where the first route begins that takes everything.
    catch_all: usize,
    /// Of the bytes, once somebody asks.
    hash: OnceLock<u64>,
}

impl PartialEq for RouteList {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes && self.catch_all == other.catch_all
    }
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
        let mut out = RouteList::default();
        let (last, first): (Vec<_>, Vec<_>) = routes.iter().partition(|r| action::is_catch_all(&r.head));
        let put = |out: &mut Vec<u8>, r: &Parts| {
            field(out, ROUTES, r.head.encoded_len() + r.rest.len());
            r.head.encode_raw(out);
            out.extend_from_slice(&r.rest);
        };
        first.iter().for_each(|r| put(&mut out.bytes, r));
        out.catch_all = out.bytes.len();
        last.iter().for_each(|r| put(&mut out.bytes, r));
        out.bytes.shrink_to_fit();
        out
    }

    /// Several lists as one: the conditional routes of all, then those that take everything.
    pub(super) fn joined(lists: &[Arc<RouteList>]) -> Arc<RouteList> {
        if let [only] = lists {
            return only.clone();
        }
        let mut bytes = Vec::with_capacity(lists.iter().map(|l| l.bytes.len()).sum());
        lists.iter().for_each(|l| bytes.extend_from_slice(&l.bytes[..l.catch_all]));
        let catch_all = bytes.len();
        lists.iter().for_each(|l| bytes.extend_from_slice(&l.bytes[l.catch_all..]));
        Arc::new(RouteList { bytes, catch_all, ..Default::default() })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// xxHash64 of the routes.
    pub(super) fn hash(&self) -> u64 {
        *self.hash.get_or_init(|| xxhash_rust::xxh64::xxh64(&self.bytes, 0))
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

    fn encode(&self) -> Part {
        let (name, rest) = (self.name(), self.rest());
        let domains: usize = self.domains().iter().map(|d| field_len(DOMAINS, d.len())).sum();
        let len = field_len(NAME, name.len()) + domains + self.routes.bytes.len() + rest.encoded_len();
        let mut out = Vec::with_capacity(len + PREFIX_MAX);
        field(&mut out, VIRTUAL_HOSTS, len);
        field(&mut out, NAME, name.len());
        out.extend_from_slice(name.as_bytes());
        for d in self.domains() {
            field(&mut out, DOMAINS, d.len());
            out.extend_from_slice(d.as_bytes());
        }
        out.extend_from_slice(&self.routes.bytes);
        rest.encode_raw(&mut out);
        out.shrink_to_fit();
        Part::new(out)
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
