//! Route configurations by name. A name is made again only when something it could hold has moved; its routes come from
//! the memo, so that a change of one service among a thousand copies the other 999.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::virtual_service::VirtualServices;
use model::{ResolvedVirtualService, Service, SidecarScope};
use names::{Hostname, NodeType};
use xds::server::{Resource, ResourceSet};

use super::facts::all_same;
use super::{Context, Facts};

/// Finished routes, with what they were made from.
#[derive(Debug, Clone)]
pub(super) struct Made {
    pub(super) set: Arc<ResourceSet>,
    pub(super) names: Arc<[Arc<str>]>,
    scope: Arc<SidecarScope>,
    virtual_services: Arc<VirtualServices>,
    facts: Facts,
    by_name: Arc<BTreeMap<Arc<str>, Route>>,
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
    /// On rules of gateways and the services they send to.
    Rules(Vec<RuleAndServices>),
}

/// A rule and the services it names, in its order; `None`: not known.
type RuleAndServices = (Arc<ResolvedVirtualService>, Vec<Option<Arc<Service>>>);

/// The routes of these names.
pub(super) fn routes(context: &Context<'_>, names: &[Arc<str>], before: Option<&Made>) -> Made {
    let inputs = context.inputs;
    let snapshot = inputs.snapshot();
    let usable = before.filter(|b| b.facts.same_for_listeners(context.facts));
    let unmoved = usable.is_some_and(|b| {
        Arc::ptr_eq(&b.scope, &inputs.view.scope) && Arc::ptr_eq(&b.virtual_services, &snapshot.virtual_services)
    });
    let mut by_name = BTreeMap::new();
    for name in names {
        let known = usable.and_then(|b| Some((b, b.by_name.get(name)?)));
        let route = match known {
            Some((before, known)) if unmoved || is_current(context, name, known, before) => known.clone(),
            known => {
                let bytes = crate::route::encoded(inputs, context.memo, name);
                let made = Resource::new(Arc::clone(name), bytes);
                let same = known.map(|(_, k)| &k.resource).filter(|r| r.version == made.version).cloned();
                Route { resource: same.unwrap_or_else(|| context.memo.intern(made)), depends: depends(context, name) }
            }
        };
        by_name.insert(Arc::clone(name), route);
    }
    let set: ResourceSet = by_name.values().map(|r| Arc::clone(&r.resource)).collect();
    let set = match before {
        Some(before) if *before.set == set => Arc::clone(&before.set),
        _ => Arc::new(set),
    };
    let names = match before {
        Some(before) if *before.names == *names => Arc::clone(&before.names),
        _ => names.into(),
    };
    Made {
        set,
        names,
        scope: inputs.view.scope.clone(),
        virtual_services: snapshot.virtual_services.clone(),
        facts: context.facts.clone(),
        by_name: Arc::new(by_name),
    }
}

fn depends(context: &Context<'_>, name: &str) -> Depends {
    let inputs = context.inputs;
    if inputs.proxy().node_type == NodeType::Router {
        return match crate::route::gateway_rules(inputs, name) {
            Some(rules) => Depends::Rules(rules),
            None => Depends::All,
        };
    }
    let service = sniffed(context, name);
    service.map_or(Depends::All, |s| Depends::Service(s.clone()))
}

/// The service of `host:port`, if no virtual service has a say and nobody else can want its name.
fn sniffed<'a>(context: &Context<'a>, name: &str) -> Option<&'a Arc<Service>> {
    let scope = context.inputs.scope();
    let (host, port) = name.rsplit_once(':').filter(|_| !name.starts_with("unix://"))?;
    let egress = scope.egress_for_route(port.parse().ok()?, name)?;
    let host = Hostname::from(host);
    let shaped = egress.virtual_services.iter().any(|v| v.hosts.iter().any(|h| h.matches(&host)));
    if shaped || scope.config.is_some() {
        return None;
    }
    scope.by_host.get(&host)
}

fn is_current(context: &Context<'_>, name: &str, known: &Route, before: &Made) -> bool {
    let inputs = context.inputs;
    match &known.depends {
        Depends::All => false,
        Depends::Service(service) => {
            let rules = |scope: &SidecarScope| scope.rule(&service.hostname, &inputs.proxy().labels, false).cloned();
            let (old, new) = (rules(&before.scope), rules(inputs.scope()));
            let same_rule = match (&old, &new) {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                (a, b) => a.is_none() && b.is_none(),
            };
            same_rule && sniffed(context, name).is_some_and(|s| Arc::ptr_eq(s, service))
        }
        Depends::Rules(rules) => {
            let Some(now) = crate::route::gateway_rules(inputs, name) else {
                return false;
            };
            let hosts = |v: &Arc<ResolvedVirtualService>| v.http_destinations.clone();

            now.len() == rules.len()
                && now.iter().zip(rules).all(|((v, services), (w, known))| {
                    Arc::ptr_eq(v, w)
                        && services.len() == known.len()
                        && services.iter().zip(known).all(|(a, b)| match (a, b) {
                            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                            (a, b) => a.is_none() && b.is_none(),
                        })
                        && hosts(v).iter().all(|h| {
                            let empty = Vec::new();
                            let of = |s: &'_ SidecarScope| s.rules.get(h).cloned().unwrap_or_else(|| empty.clone());
                            all_same(&of(&before.scope), &of(inputs.scope()))
                        })
                })
        }
    }
}
