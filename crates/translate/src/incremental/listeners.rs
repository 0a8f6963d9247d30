//! Listeners, one piece each for those that services share, and one for all others. Gateways and patched proxies have
//! their listeners made as a whole, and kept as long as nothing they read has moved.

use std::collections::BTreeSet;
use std::sync::Arc;

use model::gateway::is_https_terminated;
use model::virtual_service::VirtualServices;
use model::{Service, ServiceEndpoints, ServiceKey, SharedMap, SidecarScope};
use names::NodeType;
use protos::envoy::config::listener::v3::{self as listener, filter::ConfigType};

use super::moved::exchanged;
use super::{Assembly, Context, Facts, Key, Piece, Shared, Unit, resource};
use crate::listener::hcm::HCM;

/// Finished listeners, with what they were made from.
#[derive(Debug, Clone)]
pub(super) struct Made {
    pub(super) assembly: Assembly,
    scope: Arc<SidecarScope>,
    endpoints: SharedMap<ServiceKey, Arc<ServiceEndpoints>>,
    virtual_services: Arc<VirtualServices>,
    facts: Facts,
    /// What each shared listener is bound to: one piece per shared listener, then the others. `None` for gateways and
    /// patched proxies.
    bound: Option<Arc<[Bound]>>,
}

/// Address and port of a listener.
type Bound = (String, u16);
/// Pieces, and what all but the last are bound to.
type Pieces = (Arc<[Bound]>, Vec<Arc<Piece>>);

impl Made {
    fn new(context: &Context<'_>, assembly: Assembly, bound: Option<Arc<[Bound]>>) -> Self {
        let snapshot = context.inputs.snapshot();
        Made {
            assembly,
            scope: context.inputs.view.scope.clone(),
            endpoints: snapshot.endpoints.clone(),
            virtual_services: snapshot.virtual_services.clone(),
            facts: context.facts.clone(),
            bound,
        }
    }
}

/// The listeners of a view.
pub(super) fn listeners(context: &Context<'_>, before: Option<&Made>) -> Made {
    let inputs = context.inputs;
    let same_facts = before.filter(|b| b.facts.same_for_listeners(context.facts));
    let same = same_facts.filter(|b| {
        let snapshot = inputs.snapshot();
        let services = || Arc::ptr_eq(&b.scope, &inputs.view.scope) && b.endpoints.is_same(&snapshot.endpoints);
        let rules = || Arc::ptr_eq(&b.virtual_services, &snapshot.virtual_services);
        !reads_services(context) || (services() && rules())
    });
    if let Some(same) = same {
        return Made::new(context, same.assembly.clone(), same.bound.clone());
    }
    let old = before.map(|b| &b.assembly);
    if inputs.proxy().node_type != NodeType::Sidecar || crate::patch::listener::are_patched(inputs) {
        let pieces = crate::listener::build(inputs).iter().map(|l| Arc::new(piece(context, l))).collect();
        return Made::new(context, Assembly::of(pieces, old), None);
    }
    let usable = same_facts.filter(|b| b.bound.is_some());
    if let Some((bound, pieces)) = usable.and_then(|b| follow(context, b)) {
        return Made::new(context, Assembly::of(pieces, old), Some(bound));
    }
    let groups = crate::listener::groups(inputs);
    let mut pieces: Vec<Arc<Piece>> = groups.iter().map(|group| of_group(context, group)).collect();
    let bound = groups.iter().map(|g| (g.bind.clone(), g.port)).collect();
    let own = usable.and_then(|b| b.assembly.pieces.last().cloned());
    pieces.push(own.unwrap_or_else(|| {
        let mut out = Piece::default();
        for l in crate::listener::own(inputs) {
            let made = piece(context, &l);
            out.resources.extend(made.resources);
            out.refers.extend(made.refers);
        }
        Arc::new(out)
    }));
    Made::new(context, Assembly::of(pieces, old), Some(bound))
}

/// The listeners of `before`, those made again that services ask for which moved. `None`: a `Sidecar`, TLS or TCP rules
/// or listeners per endpoint decide as well, so all must be looked at.
fn follow(context: &Context<'_>, before: &Made) -> Option<Pieces> {
    let (inputs, scope) = (context.inputs, context.inputs.scope());
    let snapshot = inputs.snapshot();
    let ([was], [is]) = (before.scope.egress.as_slice(), scope.egress.as_slice()) else {
        return None;
    };
    let whole = before.scope.config.is_none() && scope.config.is_none() && was.port.is_none() && is.port.is_none();
    let rules = is.virtual_services.iter().chain(&was.virtual_services).any(|v| v.has_byte_rules());
    if !whole || rules {
        return None;
    }
    let (mut gone, mut come) = exchanged(&was.services, &is.services);
    let rules = scope.rules.changed_keys(&before.scope.rules, |a, b| super::facts::all_same(a, b));
    let same_rules = rules.is_empty();
    for host in rules {
        let of_host = |s: &&Arc<Service>| s.hostname == host;
        gone.extend(was.services.iter().filter(of_host).cloned());
        come.extend(is.services.iter().filter(of_host).cloned());
    }
    let endpoints = snapshot.endpoints.changed_keys(&before.endpoints, Arc::ptr_eq);
    let moved = endpoints.iter().filter_map(|k| snapshot.by_host.get(&k.hostname)?.get(&k.namespace));
    if moved.chain(&gone).chain(&come).any(|s| crate::listener::has_listeners_per_endpoint(inputs, s)) {
        return None;
    }
    let mut bound = before.bound.clone()?;
    let mut pieces = (*before.assembly.pieces).clone();
    if gone.is_empty() && come.is_empty() {
        return Some((bound, pieces));
    }
    let (asked, asks) = (crate::listener::asked_by(inputs, &gone), crate::listener::asked_by(inputs, &come));
    let paired = gone.len() == come.len() && gone.iter().zip(&come).all(|(a, b)| a.age_order(b).is_eq());
    let same = |place: &Bound| match (asked.get(place), asks.get(place)) {
        // HTTP asks for the same whoever asks.
        (Some(old), Some(new)) if paired => {
            // Other calls for the same come out otherwise when a rule moved.
            (old.only_http().is_some() && old.only_http() == new.only_http())
                || (same_rules && old.is_asked_the_same(new))
        }
        _ => false,
    };
    let places: BTreeSet<&Bound> = asked.keys().chain(asks.keys()).filter(|p| !same(p)).collect();
    if places.is_empty() {
        return Some((bound, pieces));
    }
    let ports: BTreeSet<u16> = places.iter().map(|(_, port)| *port).collect();
    let sharing: Vec<Arc<Service>> =
        is.services.iter().filter(|s| s.ports.iter().any(|p| ports.contains(&p.number))).cloned().collect();
    let groups = crate::listener::asked_by(inputs, &sharing);
    let mut table: Vec<Bound> = Vec::new();
    for place in places {
        let list = if table.is_empty() { &bound[..] } else { &table[..] };
        let known = list.binary_search(place);
        match (groups.get(place), known) {
            (Some(group), Ok(at)) => pieces[at] = of_group(context, group),
            (Some(group), Err(at)) => {
                if table.is_empty() {
                    table = bound.to_vec();
                }
                table.insert(at, place.clone());
                pieces.insert(at, of_group(context, group));
            }
            (None, Ok(at)) => {
                if table.is_empty() {
                    table = bound.to_vec();
                }
                table.remove(at);
                pieces.remove(at);
                if table.is_empty() {
                    return None;
                }
            }
            (None, Err(_)) => {}
        }
    }
    if !table.is_empty() {
        bound = table.into();
    }
    Some((bound, pieces))
}

/// Whether listeners depend on services and their rules at all. Those of gateways with only HTTP servers do not.
fn reads_services(context: &Context<'_>) -> bool {
    match &context.facts.gateway {
        None => true,
        Some(gateway) => gateway
            .ports
            .iter()
            .any(|p| !p.protocol.is_http() && p.servers.iter().any(|s| !is_https_terminated(&s.server))),
    }
}

fn of_group(context: &Context<'_>, group: &crate::listener::Group<'_>) -> Arc<Piece> {
    let (inputs, facts) = (context.inputs, context.facts);
    let make = || crate::listener::shared(inputs, group).map(|l| piece(context, &l)).unwrap_or_default();
    let Some(text) = group.text() else {
        return Arc::new(make());
    };
    let mut key = Key::new(Unit::Listener, &text)
        .bits(facts.listener_bits())
        .part(&facts.proxy)
        .part(&facts.mesh)
        .part(&facts.telemetries)
        .maybe(facts.sidecar.as_ref().map(|s| s as &dyn Shared));
    for service in group.services() {
        let rule = inputs.scope().rule(&service.hostname, &inputs.proxy().labels, false);
        key = key.part(service).maybe(rule.map(|r| r as &dyn Shared));
    }
    context.memo.get(&key, make)
}

fn piece(context: &Context<'_>, l: &listener::Listener) -> Piece {
    let filters = l.filter_chains.iter().chain(&l.default_filter_chain).flat_map(|c| &c.filters);
    let managers = filters.filter(|f| f.name == HCM).filter_map(|f| match &f.config_type {
        Some(ConfigType::TypedConfig(any)) => Some(&*any.value),
        _ => None,
    });
    let refers = managers.filter_map(route_name).map(Arc::from).collect();
    Piece { resources: vec![context.memo.intern(resource(&l.name, l))], refers }
}

/// `HttpConnectionManager.rds.route_config_name`, read off the wire: the rest of a connection manager is large.
fn route_name(manager: &[u8]) -> Option<&str> {
    const RDS: u32 = 3;
    const ROUTE_CONFIG_NAME: u32 = 2;
    std::str::from_utf8(field(field(manager, RDS)?, ROUTE_CONFIG_NAME)?).ok()
}

/// The last length-delimited field of this number.
fn field(mut bytes: &[u8], number: u32) -> Option<&[u8]> {
    use protos::prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
    let mut found = None;
    while !bytes.is_empty() {
        let (tag, wire) = decode_key(&mut bytes).ok()?;
        if wire == WireType::LengthDelimited {
            let len = usize::try_from(decode_varint(&mut bytes).ok()?).ok()?;
            let (value, rest) = bytes.split_at_checked(len)?;
            if tag == number {
                found = Some(value);
            }
            bytes = rest;
        } else {
            skip_field(wire, tag, &mut bytes, DecodeContext::default()).ok()?;
        }
    }
    found
}
