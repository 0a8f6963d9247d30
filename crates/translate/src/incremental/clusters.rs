//! Clusters and their endpoints, service by service. A piece is everything of one service; what belongs to no single
//! service (fixed and inbound clusters) is one more piece.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::envoy_filter::ApplyTo;
use model::destination_rule::{DestinationRules, MergedRule};
use model::{Service, ServiceEndpoints, ServiceKey, SharedMap, SidecarScope};
use names::Hostname;
use protos::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use xds::server::Resource;

use super::{Assembly, Context, Facts, Key, Piece, Unit, resource};
use crate::load::Writer;
use crate::patch::Patches;

/// Finished clusters or endpoints of a view, with what they were made from.
#[derive(Debug, Clone)]
pub(super) struct Made {
    pub(super) assembly: Assembly,
    /// Names of clusters that take their endpoints over EDS, sorted.
    pub(super) names: Arc<[Arc<str>]>,
    scope: Arc<SidecarScope>,
    endpoints: SharedMap<ServiceKey, Arc<ServiceEndpoints>>,
    rules: Arc<DestinationRules>,
    facts: Facts,
    /// One piece per service, then `own`. Not so when patches made everything one piece.
    by_service: bool,
}

impl Made {
    /// `names`: of clusters, if not those that the pieces refer to.
    fn new(context: &Context<'_>, assembly: Assembly, names: Option<Arc<[Arc<str>]>>, by_service: bool) -> Self {
        let snapshot = context.inputs.snapshot();
        Made {
            names: names.unwrap_or_else(|| assembly.refers.clone()),
            assembly,
            scope: context.inputs.view.scope.clone(),
            endpoints: snapshot.endpoints.clone(),
            rules: snapshot.destination_rules.clone(),
            facts: context.facts.clone(),
            by_service,
        }
    }

    /// Whether everything this was made from is as it was.
    fn is_current(&self, context: &Context<'_>) -> bool {
        let snapshot = context.inputs.snapshot();
        Arc::ptr_eq(&self.scope, &context.inputs.view.scope)
            && self.endpoints.is_same(&snapshot.endpoints)
            && Arc::ptr_eq(&self.rules, &snapshot.destination_rules)
            && self.facts.same_for_listeners(context.facts)
    }

    /// Hosts of which the rule or the endpoints moved.
    fn moved(&self, context: &Context<'_>) -> BTreeSet<Hostname> {
        let (scope, snapshot) = (&context.inputs.view.scope, context.inputs.snapshot());
        let same_rules = |a: &Vec<Arc<MergedRule>>, b: &Vec<Arc<MergedRule>>| super::facts::all_same(a, b);
        let rules = scope.rules.changed_keys(&self.scope.rules, same_rules);
        let endpoints = snapshot.endpoints.changed_keys(&self.endpoints, Arc::ptr_eq);
        rules.into_iter().chain(endpoints.into_iter().map(|k| k.hostname)).collect()
    }

    /// The pieces of the services of the scope, those that moved made again, and the rest with the piece that each had.
    fn reuse(
        &self,
        context: &Context<'_>,
        mut make: impl FnMut(&Arc<Service>, usize) -> Arc<Piece>,
    ) -> Vec<Arc<Piece>> {
        let moved = self.moved(context);
        let old = &self.scope.services;
        let mut at = 0;
        let services = &context.inputs.view.scope.services;
        let mut out = Vec::with_capacity(services.len() + 1);
        for (n, service) in services.iter().enumerate() {
            while old.get(at).is_some_and(|o| !Arc::ptr_eq(o, service) && o.age_order(service).is_lt()) {
                at += 1;
            }
            let same = old.get(at).is_some_and(|o| Arc::ptr_eq(o, service));
            if same && !is_among(&moved, service) {
                out.push(Arc::clone(&self.assembly.pieces[at]));
            } else {
                out.push(make(service, n));
            }
            at += usize::from(same);
        }
        out
    }

    /// The assembly after a change of endpoints or rules, if the scope is the same otherwise and `own` did not move.
    fn follow(&self, context: &Context<'_>, make: impl Fn(&Arc<Service>, usize) -> Arc<Piece>) -> Option<Assembly> {
        if !Arc::ptr_eq(&self.scope, &context.inputs.view.scope) {
            return None;
        }
        let moved = self.moved(context);
        let services = &context.inputs.view.scope.services;
        let exchanged: Vec<(usize, Arc<Piece>)> = services
            .iter()
            .enumerate()
            .filter(|(_, s)| is_among(&moved, s))
            .map(|(n, s)| (n, make(s, n)))
            .filter(|(n, piece)| !piece.is_same(&self.assembly.pieces[*n]))
            .collect();
        if exchanged.is_empty() {
            return Some(self.assembly.clone());
        }
        let mut pieces = (*self.assembly.pieces).clone();
        for (n, piece) in exchanged {
            pieces[n] = piece;
        }
        Some(Assembly::of(pieces, Some(&self.assembly)))
    }
}

/// Most services did not move: comparing with a few hosts is less than searching among them.
fn is_among(moved: &BTreeSet<Hostname>, service: &Service) -> bool {
    match moved.len() {
        0..=8 => moved.iter().any(|h| *h == service.hostname),
        _ => moved.contains(&service.hostname),
    }
}

/// The clusters of a view.
pub(super) fn clusters(context: &Context<'_>, before: Option<&Made>) -> Made {
    let inputs = context.inputs;
    if let Some(same) = before.filter(|b| b.is_current(context)) {
        return Made::new(context, same.assembly.clone(), None, same.by_service);
    }
    let old = before.map(|b| &b.assembly);
    if !Patches::of(inputs, &[ApplyTo::Cluster]).is_empty() {
        let pieces = vec![Arc::new(piece(crate::cluster::build(inputs)))];
        return Made::new(context, Assembly::of(pieces, old), None, false);
    }
    let usable = before.filter(|b| b.by_service && b.facts.same_for_listeners(context.facts));
    let same_own = |b: &&Made| {
        Arc::ptr_eq(&b.rules, &inputs.snapshot().destination_rules) && !crate::cluster::is_east_west(inputs)
    };
    let followed = usable.filter(same_own).and_then(|b| b.follow(context, |s, _| of_service(context, s)));
    if let Some(assembly) = followed {
        return Made::new(context, assembly, None, true);
    }
    let mut pieces: Vec<Arc<Piece>> = match usable {
        Some(before) => before.reuse(context, |s, _| of_service(context, s)),
        None => inputs.scope().services.iter().map(|s| of_service(context, s)).collect(),
    };
    let own = usable.filter(same_own).and_then(|b| b.assembly.pieces.last().cloned());
    pieces.push(own.unwrap_or_else(|| {
        let mut out = Vec::new();
        crate::cluster::own(inputs, &mut out);
        Arc::new(piece(out))
    }));
    Made::new(context, Assembly::of(pieces, old), None, true)
}

fn of_service(context: &Context<'_>, service: &Arc<Service>) -> Arc<Piece> {
    let (inputs, facts) = (context.inputs, context.facts);
    let rule = inputs.scope().rule(&service.hostname, &inputs.proxy().labels, false);
    let endpoints = inputs.snapshot().endpoints.get(&service.key());
    // Clusters with inline endpoints order them for the client.
    let inline = matches!(service.resolution, model::Resolution::DnsLb | model::Resolution::DnsRoundRobin);
    let depends = inline && crate::endpoint::depends_on_client(inputs, service, rule.map(|r| &**r));
    let text = format!("{}{}", facts.certificates, if depends { &facts.place } else { "" });
    let key = Key::new(Unit::ServiceClusters, &text)
        .bits(facts.cluster_bits())
        .part(service)
        .maybe(rule.map(|r| r as _))
        .maybe(endpoints.map(|e| e as _))
        .part(&facts.mesh)
        .part(&facts.peer_authentications);
    context.memo.get(&key, || {
        let mut out = Vec::new();
        crate::cluster::of_service(inputs, service, &mut out);
        piece(out)
    })
}

fn piece(clusters: Vec<protos::envoy::config::cluster::v3::Cluster>) -> Piece {
    let mut out = Piece::default();
    let mut seen = BTreeSet::new();
    for c in &clusters {
        if !seen.insert(&c.name) {
            continue;
        }
        let made = resource(&c.name, c);
        if c.cluster_discovery_type == Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)) {
            out.refers.push(Arc::clone(&made.name));
        }
        out.resources.push(made);
    }
    out
}

/// The endpoints of those clusters.
pub(super) fn endpoints(context: &Context<'_>, clusters: &super::clusters::Made, before: Option<&Made>) -> Made {
    let inputs = context.inputs;
    let old = before.map(|b| &b.assembly);
    if !clusters.by_service {
        let names: Vec<String> = clusters.names.iter().map(ToString::to_string).collect();
        let resources = super::encoded(crate::endpoints(inputs, &names)).collect();
        let pieces = vec![Arc::new(Piece { resources, refers: Vec::new() })];
        return Made::new(context, Assembly::of(pieces, old), Some(clusters.names.clone()), false);
    }
    if let Some(same) = before.filter(|b| b.by_service && b.is_current(context)) {
        return Made::new(context, same.assembly.clone(), Some(clusters.names.clone()), true);
    }
    let of = |service: &Arc<Service>, n: usize| endpoints_of(context, service, &clusters.assembly.pieces[n]);
    let usable = before.filter(|b| b.by_service && b.facts.same_for_listeners(context.facts));
    // Own clusters over EDS are those of east-west gateways.
    let own = clusters.assembly.pieces.last().map(|p| p.refers.iter().map(ToString::to_string).collect::<Vec<_>>());
    let own = own.unwrap_or_default();
    if let Some(assembly) = usable.filter(|_| own.is_empty()).and_then(|b| b.follow(context, of)) {
        return Made::new(context, assembly, Some(clusters.names.clone()), true);
    }
    let mut pieces: Vec<Arc<Piece>> = match usable {
        Some(before) => before.reuse(context, of),
        None => inputs.scope().services.iter().enumerate().map(|(n, s)| of(s, n)).collect(),
    };
    let resources = super::encoded(crate::endpoints(inputs, &own)).collect();
    let last = Arc::new(Piece { resources, refers: Vec::new() });
    let same = usable.and_then(|b| b.assembly.pieces.last()).filter(|p| p.is_same(&last));
    pieces.push(same.cloned().unwrap_or(last));
    Made::new(context, Assembly::of(pieces, old), Some(clusters.names.clone()), true)
}

fn endpoints_of(context: &Context<'_>, service: &Arc<Service>, clusters: &Arc<Piece>) -> Arc<Piece> {
    let (inputs, facts) = (context.inputs, context.facts);
    let rule = inputs.scope().rule(&service.hostname, &inputs.proxy().labels, false);
    let depends = crate::endpoint::depends_on_client(inputs, service, rule.map(|r| &**r));
    let endpoints = inputs.snapshot().endpoints.get(&service.key());
    let key = Key::new(Unit::ServiceEndpoints, if depends { &facts.place } else { "" })
        .part(service)
        .maybe(rule.map(|r| r as _))
        .maybe(endpoints.map(|e| e as _))
        .part(&facts.mesh)
        .part(clusters);
    context.memo.get(&key, || {
        let mut writer = Writer::new(&inputs.proxy().cluster_id);
        let mut of = |name: &Arc<str>| {
            Some(Resource::new(Arc::clone(name), crate::endpoint::encoded(inputs, &mut writer, name)?))
        };
        Piece { resources: clusters.refers.iter().filter_map(&mut of).collect(), refers: Vec::new() }
    })
}
