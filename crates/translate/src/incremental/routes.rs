//! Route configurations by name. A name is made again only when something it could hold has moved (`moved`); its routes
//! come from the memo, so that a change of one service among a thousand copies the other 999.

use std::collections::BTreeSet;
use std::sync::Arc;

use model::snapshot::ServicesByHost;
use model::virtual_service::VirtualServices;
use model::{ResolvedVirtualService, Service, SharedMap, SidecarScope};
use names::{Hostname, NodeType};
use xds::server::{Resource, ResourceSet};

use super::facts::all_same;
use super::moved::{Exchanged, InScope, Services, exchanged};
use super::{Context, Facts};
use crate::route::{Reshaped, Table};

/// Finished routes, with what they were made from.
#[derive(Debug, Clone)]
pub(super) struct Made {
    pub(super) set: Arc<ResourceSet>,
    pub(super) names: Arc<[Arc<str>]>,
    scope: Arc<SidecarScope>,
    virtual_services: Arc<VirtualServices>,
    by_host: ServicesByHost,
    facts: Facts,
    by_name: SharedMap<Arc<str>, Route>,
}

/// One route configuration, with what else it was made from.
#[derive(Debug, Clone)]
struct Route {
    resource: Arc<Resource>,
    depends: Depends,
}

#[derive(Debug, Clone)]
enum Depends {
    /// On anything in the scope.
    All,
    /// On one service and its rule: the host of a sniffed port that no virtual service shapes.
    Service(Arc<Service>),
    /// On rules and the services they send to, and on those services that no rule shapes.
    Table(Arc<Table>),
}

/// What moved since a view's routes were made.
enum Moved {
    Sidecar(InScope),
    Gateway {
        /// Those that lost or won rules.
        gateways: BTreeSet<String>,
        exchanged: Exchanged,
        services: Services,
    },
}

/// What becomes of a route configuration.
enum Fate {
    Same,
    Again,
    From(Table),
}

impl Moved {
    fn since(before: &Made, context: &Context<'_>) -> Moved {
        let (inputs, snapshot) = (context.inputs, context.inputs.snapshot());
        if inputs.proxy().node_type != NodeType::Router {
            let hosts = [&before.by_host, &snapshot.by_host];
            return Moved::Sidecar(InScope::between(&before.scope, inputs.scope(), hosts));
        }
        let (lost, won) = exchanged(before.virtual_services.as_slice(), snapshot.virtual_services.as_slice());
        let in_place = Exchanged::new(&lost, &won);
        let mut gateways = BTreeSet::new();
        if in_place.is_none() {
            gateways.extend(lost.iter().chain(&won).flat_map(|v| v.config.spec.gateways.iter().cloned()));
        }
        let hosts = snapshot.by_host.changed_keys(&before.by_host, |a, b| {
            a.len() == b.len() && a.values().zip(b.values()).all(|(a, b)| Arc::ptr_eq(a, b))
        });
        let of = |table: &ServicesByHost| -> Vec<Arc<Service>> {
            hosts.iter().filter_map(|h| table.get(h)).flat_map(|m| m.values().cloned()).collect()
        };
        let (gone, come) = exchanged(&of(&before.by_host), &of(&snapshot.by_host));
        let rules = inputs.scope().rules.changed_keys(&before.scope.rules, |a, b| all_same(a, b));
        let services = Services::new(&gone, &come, rules);
        Moved::Gateway { gateways, exchanged: in_place.unwrap_or_default(), services }
    }

    fn fate(&self, context: &Context<'_>, name: &str, known: &Route, before: &Made) -> Fate {
        let inputs = context.inputs;
        let followed = match (self, &known.depends) {
            (Moved::Sidecar(moved), _) if !moved.concern(name) => return Fate::Same,
            (Moved::Sidecar(_), Depends::Service(service)) if is_current(context, name, service, before) => {
                return Fate::Same;
            }
            (Moved::Sidecar(moved), Depends::Table(table)) => {
                let Table::Port(port) = &**table else { return Fate::Again };
                let Some(exchanged) = moved.in_place(|a, b| port.keeps(a, b)) else { return Fate::Again };
                let concerned = |v: &ResolvedVirtualService| moved.services.concern(v);
                let is_moved = |host: &Hostname| moved.services.contains(host);
                let table = port.follow(inputs, context.memo, |v| exchanged.get(v), concerned, is_moved);
                table.map(|t| t.map(Table::Port))
            }
            (Moved::Gateway { gateways, exchanged, services }, Depends::Table(table)) => {
                let Table::Gateway(table) = &**table else { return Fate::Again };
                let gateway = inputs.view.gateway.as_ref();
                let mut servers = gateway.and_then(|g| g.by_route.get(name)).into_iter().flatten();
                if !gateways.is_empty() && servers.any(|s| gateways.contains(&s.gateway)) {
                    return Fate::Again;
                }
                if exchanged.is_empty() && services.is_empty() {
                    return Fate::Same;
                }
                let table = table.follow(inputs, context.memo, |v| exchanged.get(v), |v| services.concern(v));
                table.map(|t| t.map(Table::Gateway))
            }
            _ => return Fate::Again,
        };
        match followed {
            Ok(None) => Fate::Same,
            Ok(Some(table)) => Fate::From(table),
            Err(Reshaped) => Fate::Again,
        }
    }
}

/// The routes of these names.
pub(super) fn routes(context: &Context<'_>, names: &Arc<[Arc<str>]>, before: Option<&Made>) -> Made {
    let inputs = context.inputs;
    let usable = before.filter(|b| b.facts.same_for_listeners(context.facts));
    let moved = usable.map(|b| Moved::since(b, context));
    let mut by_name = usable.map(|b| b.by_name.clone()).unwrap_or_default();
    let (mut gone, mut come) = (Vec::new(), Vec::new());
    let (router, patched) = (inputs.proxy().node_type == NodeType::Router, crate::route::is_patched(inputs));
    // Both are in order: looking each name up costs more than all that most of them need.
    let last = by_name.clone();
    let mut last = last.iter().peekable();
    for name in names.iter() {
        while last.next_if(|(n, _)| *n < name).is_some() {}
        let known = last.next_if(|(n, _)| *n == name).map(|(_, route)| route);
        let fate = match (known, &moved, usable) {
            (Some(known), Some(moved), Some(before)) => moved.fate(context, name, known, before),
            _ => Fate::Again,
        };
        let table = match fate {
            Fate::Same => continue,
            Fate::From(table) => Some(table),
            Fate::Again if router || !patched => Table::new(inputs, context.memo, name),
            Fate::Again => None,
        };
        let value = match &table {
            Some(table) if !patched => crate::route::configuration(name, Some(table.parts())),
            _ => crate::route::encoded(inputs, context.memo, name),
        };
        let made = Resource::new(Arc::clone(name), value);
        let same = known.map(|k| &k.resource).filter(|r| r.version == made.version).cloned();
        let resource = same.unwrap_or_else(|| {
            come.push(context.memo.intern(made));
            come[come.len() - 1].clone()
        });
        let depends = match table {
            Some(table) => Depends::Table(Arc::new(table)),
            None if router => Depends::All,
            None => sniffed(context, name).map_or(Depends::All, |s| Depends::Service(s.clone())),
        };
        by_name.insert(Arc::clone(name), Route { resource, depends });
    }
    if by_name.len() != names.len() {
        let unwanted = |n: &&Arc<str>| names.binary_search(n).is_err();
        for name in by_name.keys().filter(unwanted).cloned().collect::<Vec<_>>() {
            gone.extend(by_name.remove(&name).map(|r| r.resource));
        }
    }
    let set = match usable {
        Some(before) if gone.is_empty() && come.is_empty() => Arc::clone(&before.set),
        Some(before) if gone.len() + come.len() <= PATCH_MAX => Arc::new(before.set.patched(gone.iter(), come.iter())),
        _ => {
            let set: ResourceSet = by_name.values().map(|r| Arc::clone(&r.resource)).collect();
            match before {
                Some(before) if *before.set == set => Arc::clone(&before.set),
                _ => Arc::new(set),
            }
        }
    };
    let names = match before {
        Some(before) if *before.names == **names => Arc::clone(&before.names),
        _ => Arc::clone(names),
    };
    Made {
        set,
        names,
        scope: inputs.view.scope.clone(),
        virtual_services: inputs.snapshot().virtual_services.clone(),
        by_host: inputs.snapshot().by_host.clone(),
        facts: context.facts.clone(),
        by_name,
    }
}

/// Larger differences are put together anew.
const PATCH_MAX: usize = 16;

/// The service of `host:port`, if no virtual service has a say and nobody else can want its name.
fn sniffed<'a>(context: &Context<'a>, name: &str) -> Option<&'a Arc<Service>> {
    let scope = context.inputs.scope();
    let (host, port) = name.rsplit_once(':').filter(|_| !name.starts_with("unix://"))?;
    let egress = scope.egress_for_route(port.parse().ok()?, name)?;
    let host = Hostname::from(host);
    let shaped = egress.virtual_services.iter().any(|v| v.hosts.iter().any(|h| h.matches(&host)));
    // Of a host in several namespaces, the one counts that has the port.
    let several = context.inputs.snapshot().by_host.get(&host).is_some_and(|m| m.len() > 1);
    if shaped || several || scope.config.is_some() {
        return None;
    }
    scope.by_host.get(&host)
}

/// Whether a sniffed host is still this service, with the same rule.
fn is_current(context: &Context<'_>, name: &str, service: &Arc<Service>, before: &Made) -> bool {
    let inputs = context.inputs;
    let rule = |scope: &SidecarScope| scope.rule(&service.hostname, &inputs.proxy().labels, false).cloned();
    let same_rule = match (rule(&before.scope), rule(inputs.scope())) {
        (Some(a), Some(b)) => Arc::ptr_eq(&a, &b),
        (a, b) => a.is_none() && b.is_none(),
    };
    same_rule && sniffed(context, name).is_some_and(|s| Arc::ptr_eq(s, service))
}
