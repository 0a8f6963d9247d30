//! Which tables of a snapshot change with a set of resources? Each table is derived from the last one by what was
//! touched; entries that did not change stay the same allocation, which is what later stages compare.
//! Called by [`Store::apply`](crate::Store::apply) only.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use api::{Body, Resource};
use names::{Hostname, Kind, Labels, ResourceKey};

use crate::config::Config;
use crate::destination_rule::DestinationRules;
use crate::endpoint::ServiceEndpoints;
use crate::index::{Index, SLICE_SERVICE};
use crate::registry::{self, Resources, of_kind};
use crate::service::{Registry, Resolution, Service, ServiceKey, Visibility};
use crate::snapshot::{Delta, ServicesByHost, Snapshot};
use crate::virtual_service::{ResolvedVirtualService, VirtualServices};

/// A service as the last snapshot had it and as the next will.
type BeforeAndAfter = (Option<Arc<Service>>, Option<Arc<Service>>);

/// Kinds that say where workloads are. They move services and endpoints; as configuration they mean nothing.
const WORKLOAD_KINDS: [Kind; 15] = [
    Kind::Pod,
    Kind::EndpointSlice,
    Kind::Endpoints,
    Kind::WorkloadEntry,
    Kind::Service,
    Kind::Node,
    Kind::Deployment,
    Kind::ReplicaSet,
    Kind::StatefulSet,
    Kind::DaemonSet,
    Kind::Job,
    Kind::CronJob,
    Kind::ServiceAccount,
    Kind::ReplicationController,
    Kind::Namespace,
];

/// What deriving remembers between snapshots.
#[derive(Debug, Default)]
pub(crate) struct Derivation {
    pub(crate) index: Index,
    virtual_services: BTreeMap<ResourceKey, Arc<ResolvedVirtualService>>,
    destination_rules: BTreeMap<ResourceKey, Arc<Config<api::destination_rule::DestinationRule>>>,
}

impl Derivation {
    /// Brings `next`, a copy of the last snapshot, up to date.
    pub(crate) fn advance(&mut self, resources: &Resources, next: &mut Snapshot, touched: &Touched, delta: &mut Delta) {
        let all = delta.everything;
        let kind = |k: &Kind| all || touched.kinds.contains(k);
        delta.everything |= kind(&Kind::Namespace);
        let mut stale: BTreeSet<ServiceKey> = BTreeSet::new();
        if kind(&Kind::Service) || kind(&Kind::ServiceEntry) {
            // A service entry may have other endpoints though the service is the same.
            stale = self.services(resources, next, touched, all, delta);
        }
        stale.extend(delta.services.iter().cloned());
        if all || touched.kinds.contains(&Kind::Node) {
            stale.extend(next.services.iter().map(|s| s.key()));
        }
        for (namespace, labels) in &touched.workload_labels {
            stale.extend(registry::affected_services(next.services.iter(), namespace, labels));
        }
        for (namespace, name) in &touched.slices {
            let host = Hostname::service(name, namespace, &next.mesh.domain);
            stale.insert(ServiceKey { namespace: namespace.clone(), hostname: host });
        }
        if !stale.is_empty() {
            self.endpoints(resources, next, stale, delta);
        }
        delta.workloads.extend(touched.addresses.iter().cloned());

        macro_rules! table {
            ($field:ident, $variant:ident) => {
                if kind(&Kind::$variant) {
                    let known: HashMap<_, _> = next.$field.iter().map(|c| ((&c.namespace, &c.name), c)).collect();
                    let mut list: Vec<_> = of_kind(resources, &Kind::$variant, None)
                        .filter_map(|r| {
                            let Body::$variant(spec) = &r.body else { return None };
                            let key = r.key();
                            match known.get(&(&key.namespace, &key.name)) {
                                Some(same) if !touched.keys.contains(key) => Some(Arc::clone(same)),
                                _ => Some(Arc::new(config(r, (**spec).clone()))),
                            }
                        })
                        .collect();
                    list.sort_by(|a, b| a.age_order(b));
                    next.$field = Arc::new(list);
                }
            };
        }
        table!(gateways, Gateway);
        table!(sidecars, Sidecar);
        table!(peer_authentications, PeerAuthentication);
        table!(request_authentications, RequestAuthentication);
        table!(authorization_policies, AuthorizationPolicy);
        table!(telemetries, Telemetry);
        table!(envoy_filters, EnvoyFilter);
        if kind(&Kind::VirtualService) {
            self.virtual_services(resources, next, touched, all);
        }
        if kind(&Kind::DestinationRule) {
            self.destination_rules(resources, next, touched, all);
        }
        if kind(&Kind::Secret) || kind(&Kind::ConfigMap) {
            let of = |k| of_kind(resources, &k, None).map(|r| (r.key().clone(), r.clone()));
            next.credentials = Arc::new(of(Kind::Secret).chain(of(Kind::ConfigMap)).collect());
        }
        if kind(&Kind::Namespace) {
            let list = of_kind(resources, &Kind::Namespace, None);
            next.namespaces = Arc::new(list.map(|r| (r.meta.key.name.clone(), r.meta.labels.clone())).collect());
        }
        delta.configs.extend(touched.keys.iter().filter(|k| !WORKLOAD_KINDS.contains(&k.kind)).cloned());
        // A ConfigMap or Secret of an application is not configuration of the mesh.
        delta.configs.retain(|k| !matches!(k.kind, Kind::ConfigMap | Kind::Other(_)));
    }

    /// Keys of a kind that must be read again.
    fn reread(&self, resources: &Resources, touched: &Touched, kind: &Kind, all: bool) -> BTreeSet<ResourceKey> {
        let mut keys: BTreeSet<_> = touched.keys.iter().filter(|k| k.kind == *kind).cloned().collect();
        if all {
            keys.extend(of_kind(resources, kind, None).map(|r| r.key().clone()));
        }
        keys
    }

    fn virtual_services(&mut self, resources: &Resources, next: &mut Snapshot, touched: &Touched, all: bool) {
        let mut exchanged = Some(Vec::new());
        for key in self.reread(resources, touched, &Kind::VirtualService, all) {
            let new = match resources.get(&key).map(|r| (r, &r.body)) {
                Some((r, Body::VirtualService(spec))) => {
                    let written = config(r, (**spec).clone());
                    let export = &next.mesh.default_virtual_service_export_to;
                    Some(Arc::new(crate::virtual_service::resolve(&written, &next.config_domain, export)))
                }
                _ => None,
            };
            let old = match &new {
                Some(new) => self.virtual_services.insert(key, new.clone()),
                None => self.virtual_services.remove(&key),
            };
            match (old, new, &mut exchanged) {
                (Some(old), Some(new), Some(list)) => list.push((old, new)),
                _ => exchanged = None,
            }
        }
        let in_place = exchanged.and_then(|list| next.virtual_services.exchanged(&list));
        let anew = || VirtualServices::of_resolved(self.virtual_services.values().cloned(), &next.virtual_services);
        next.virtual_services = Arc::new(in_place.unwrap_or_else(anew));
    }

    fn destination_rules(&mut self, resources: &Resources, next: &mut Snapshot, touched: &Touched, all: bool) {
        for key in self.reread(resources, touched, &Kind::DestinationRule, all) {
            match resources.get(&key).map(|r| (r, &r.body)) {
                Some((r, Body::DestinationRule(spec))) => {
                    let mut rule = config(r, (**spec).clone());
                    rule.spec.host =
                        Hostname::resolve(&rule.spec.host, &rule.namespace, &next.config_domain).to_string();
                    self.destination_rules.insert(key, Arc::new(rule));
                }
                _ => drop(self.destination_rules.remove(&key)),
            }
        }
        let mesh = &next.mesh;
        // With another mesh the same rule may be exported elsewhere.
        let old = (!all).then_some(&*next.destination_rules);
        next.destination_rules = Arc::new(DestinationRules::of_resolved(
            self.destination_rules.values(),
            &mesh.default_destination_rule_export_to,
            &mesh.root_namespace,
            old,
        ));
    }

    fn services(
        &mut self,
        resources: &Resources,
        next: &mut Snapshot,
        touched: &Touched,
        all: bool,
        delta: &mut Delta,
    ) -> BTreeSet<ServiceKey> {
        if all {
            self.index.forget_declared();
        }
        let mut keys = self.reread(resources, touched, &Kind::Service, all);
        keys.extend(self.reread(resources, touched, &Kind::ServiceEntry, all));
        let (mut gone, mut come) = (Vec::new(), Vec::new());
        for key in &keys {
            let (old, new) = self.index.declare(key, resources, &next.mesh);
            gone.extend(old);
            come.extend(new);
        }
        let public = |list: &[Arc<Service>]| list.iter().all(|s| s.visibility == Visibility::Public);
        if !all && self.replace_services(next, &gone, &come, delta) {
            next.all_public = if next.all_public { public(&come) } else { public(&next.services) };
        } else {
            self.all_services(next, delta);
            next.all_public = public(&next.services);
        }
        gone.iter().chain(&come).map(|s| s.key()).collect()
    }

    /// Exchanges a few services in the tables. `false`: they touch others (a host declared twice, an alias, an
    /// address to be allocated), so all must be looked at.
    fn replace_services(
        &self,
        next: &mut Snapshot,
        gone: &[Arc<Service>],
        come: &[Arc<Service>],
        delta: &mut Delta,
    ) -> bool {
        let mut changed: BTreeMap<ServiceKey, BeforeAndAfter> = BTreeMap::new();
        for s in gone {
            let known = next.by_host.get(&s.hostname).and_then(|m| m.get(&s.namespace)).cloned();
            changed.insert(s.key(), (known, None));
        }
        for s in come {
            changed.entry(s.key()).or_default().1 = Some(s.clone());
        }
        if changed.len() * 4 > next.services.len() {
            return false;
        }
        let has_aliases = next.has_aliases;
        for (key, (old, new)) in &mut changed {
            let alias_of = |s: &Option<Arc<Service>>| s.as_ref().and_then(|s| s.external_name.clone());
            let same_age = matches!((&*old, &*new), (Some(a), Some(b)) if a.age_order(b).is_eq());
            // An alias of the same host as before, at the same place, leaves everybody's aliases as they are.
            let same_alias = alias_of(old) == alias_of(new) && (same_age || alias_of(old).is_none());
            // Another resource declares the host as well: who counts is decided among all.
            let others = self.index.owners(key).count() > usize::from(new.is_some());
            if others || !same_alias || (has_aliases && old.is_none()) {
                return false;
            }
            let allocates = |s: &Option<Arc<Service>>| s.as_ref().is_some_and(|s| registry::wants_address(s));
            let kept = |s: &Option<Arc<Service>>| s.as_ref().is_some_and(|s| !s.auto_addresses.is_empty());
            let stated = new.as_ref().is_some_and(|s| !s.auto_addresses.is_empty());
            let same_address = kept(old) && allocates(new) && !stated;
            if (allocates(new) || kept(old) || stated) && !same_address {
                return false;
            }
            if let (Some(old), Some(new)) = (old, new) {
                // What others gave it stays: its place among allocated addresses, and who points to it.
                if same_address || !old.aliases.is_empty() {
                    let new = Arc::make_mut(new);
                    new.aliases.clone_from(&old.aliases);
                    if same_address {
                        new.auto_addresses.clone_from(&old.auto_addresses);
                    }
                }
            }
        }
        changed.retain(|_, (old, new)| match (old, new) {
            (Some(old), Some(new)) => **old != **new,
            (old, new) => old.is_some() || new.is_some(),
        });
        if changed.is_empty() {
            return true;
        }
        let mut list = (*next.services).clone();
        for (key, (old, new)) in changed {
            if let Some(old) = &old {
                let start = list.partition_point(|s| s.age_order(old).is_lt());
                let Some(at) = list[start..].iter().position(|s| Arc::ptr_eq(s, old)) else {
                    return false;
                };
                list.remove(start + at);
                let inner = next.by_host.entry(key.hostname.clone());
                inner.remove(&key.namespace);
                if inner.is_empty() {
                    next.by_host.remove(&key.hostname);
                }
            }
            if let Some(new) = new {
                let at = list.partition_point(|s| s.age_order(&new).is_lt());
                if list.get(at).is_some_and(|s| s.age_order(&new).is_eq()) {
                    return false;
                }
                next.by_host.entry(key.hostname.clone()).insert(key.namespace.clone(), new.clone());
                list.insert(at, new);
            }
            delta.services.insert(key);
        }
        next.services = Arc::new(list);
        true
    }

    fn all_services(&self, next: &mut Snapshot, delta: &mut Delta) {
        let old = next.services.clone();
        let mut services: Vec<Service> = self.index.declared().map(|s| (**s).clone()).collect();
        services.sort_by(|a, b| a.age_order(b));
        registry::allocate_addresses(&mut services);
        next.has_aliases = add_aliases(&mut services);
        let old: BTreeMap<ServiceKey, &Arc<Service>> = old.iter().map(|s| (s.key(), s)).collect();
        let mut seen: BTreeSet<ServiceKey> = BTreeSet::new();
        let mut by_host: BTreeMap<Hostname, BTreeMap<Arc<str>, Arc<Service>>> = BTreeMap::new();
        let mut list: Vec<Arc<Service>> = Vec::with_capacity(services.len());
        delta.services.clear();
        for service in services {
            let key = service.key();
            // The oldest declaration of a host within a namespace counts, but Kubernetes's before any other.
            if let Some(taken) = by_host.get(&key.hostname).and_then(|m| m.get(&key.namespace)) {
                if taken.registry == Registry::Kubernetes || service.registry == Registry::External {
                    continue;
                }
                list.retain(|s| s.key() != key);
            }
            let shared = match old.get(&key) {
                Some(same) if ***same == service => (*same).clone(),
                _ => {
                    delta.services.insert(key.clone());
                    Arc::new(service)
                }
            };
            seen.insert(key.clone());
            by_host.entry(key.hostname).or_default().insert(key.namespace, shared.clone());
            list.push(shared);
        }
        delta.services.extend(old.keys().filter(|k| !seen.contains(*k)).cloned());
        // Entries that stay keep their place in the shared table.
        let mut table: ServicesByHost = next.by_host.clone();
        let stale: Vec<Hostname> = table.keys().filter(|h| !by_host.contains_key(*h)).cloned().collect();
        for host in stale {
            table.remove(&host);
        }
        for (host, inner) in by_host {
            let same = |old: &BTreeMap<Arc<str>, Arc<Service>>| {
                old.len() == inner.len() && old.iter().zip(&inner).all(|((a, x), (b, y))| a == b && Arc::ptr_eq(x, y))
            };
            if !table.get(&host).is_some_and(same) {
                table.insert(host, inner);
            }
        }
        if list.len() != next.services.len() || !list.iter().zip(&*next.services).all(|(a, b)| Arc::ptr_eq(a, b)) {
            next.services = Arc::new(list);
        }
        next.by_host = table;
    }

    fn endpoints(&self, resources: &Resources, next: &mut Snapshot, stale: BTreeSet<ServiceKey>, delta: &mut Delta) {
        let mut endpoints = next.endpoints.clone();
        let mut by_address = next.by_address.clone();
        for key in stale {
            let service = next.by_host.get(&key.hostname).and_then(|m| m.get(&key.namespace)).cloned();
            let new = service.as_ref().map(|s| registry::endpoints_of(s, resources, &self.index));
            let old = endpoints.get(&key).cloned();
            if old.as_deref() == new.as_ref() {
                continue;
            }
            let identities = |list: &ServiceEndpoints| -> BTreeSet<(Arc<str>, Arc<str>)> {
                list.iter().map(|e| (e.workload.namespace.clone(), e.workload.service_account.clone())).collect()
            };
            let empty = ServiceEndpoints::new();
            let (before, after) = (old.as_deref().unwrap_or(&empty), new.as_ref().unwrap_or(&empty));
            let in_cluster = service.as_ref().is_some_and(|s| s.resolution != Resolution::ClientSideLb);
            if in_cluster || identities(before) != identities(after) {
                delta.services.insert(key.clone());
            }
            let addresses = |l: &ServiceEndpoints| l.iter().map(|e| e.address.clone()).collect::<BTreeSet<_>>();
            let (was, is) = (addresses(before), addresses(after));
            for address in was.difference(&is) {
                let set = by_address.entry(address.clone());
                set.remove(&key);
                if set.is_empty() {
                    by_address.remove(address);
                }
            }
            for address in is.difference(&was) {
                by_address.entry(address.clone()).insert(key.clone());
            }
            delta.workloads.extend(was.symmetric_difference(&is).cloned());
            delta.endpoints.insert(key.clone());
            match new {
                Some(list) => endpoints.insert(key, Arc::new(list)),
                None => endpoints.remove(&key),
            };
        }
        next.endpoints = endpoints;
        next.by_address = by_address;
    }
}

/// Tells services which `ExternalName` services point to them. Returns whether there are any.
fn add_aliases(services: &mut [Service]) -> bool {
    let targets: BTreeMap<Hostname, Hostname> =
        services.iter().filter_map(|s| Some((s.hostname.clone(), s.external_name.clone()?))).collect();
    if targets.is_empty() {
        return false;
    }
    let mut aliases: BTreeMap<Hostname, Vec<Hostname>> = BTreeMap::new();
    for alias in targets.keys() {
        let mut at = alias;
        // A chain longer than the number of aliases is a loop.
        for _ in 0..targets.len() {
            match targets.get(at) {
                Some(next) => at = next,
                None => break,
            }
        }
        if !targets.contains_key(at) {
            aliases.entry(at.clone()).or_default().push(alias.clone());
        }
    }
    for s in services {
        if let Some(list) = aliases.get(&s.hostname) {
            s.aliases = list.clone();
        }
    }
    true
}

/// The configuration in a resource.
pub fn config<T>(resource: &Resource, spec: T) -> Config<T> {
    Config {
        kind: resource.key().kind.clone(),
        name: resource.meta.key.name.clone(),
        namespace: resource.meta.key.namespace.clone(),
        labels: resource.meta.labels.clone(),
        annotations: resource.meta.annotations.clone(),
        created_us: registry::created_us(resource),
        spec,
    }
}

/// What a set of changes touched, before anything is derived.
#[derive(Default)]
pub(crate) struct Touched {
    pub(crate) keys: BTreeSet<ResourceKey>,
    kinds: BTreeSet<Kind>,
    /// Labels, before and after, of changed pods and workload entries.
    workload_labels: BTreeMap<Arc<str>, Vec<Labels>>,
    /// Services of changed slices.
    slices: BTreeSet<(Arc<str>, Arc<str>)>,
    addresses: BTreeSet<Arc<str>>,
}

impl Touched {
    pub(crate) fn note(&mut self, old: Option<&Resource>, new: Option<&Resource>, key: &ResourceKey) {
        self.keys.insert(key.clone());
        self.kinds.insert(key.kind.clone());
        for r in [old, new].into_iter().flatten() {
            let labels = r.meta.labels.clone();
            match &r.body {
                Body::Pod(p) => {
                    self.workload_labels.entry(key.namespace.clone()).or_default().push(labels);
                    let relabelled = old.is_none_or(|o| new.is_none_or(|n| o.meta.labels != n.meta.labels));
                    if relabelled && !p.status.pod_ip.is_empty() {
                        self.addresses.insert(p.status.pod_ip.as_str().into());
                    }
                }
                Body::WorkloadEntry(e) => {
                    let mut all = e.labels.clone();
                    all.extend(labels);
                    self.workload_labels.entry(key.namespace.clone()).or_default().push(all);
                }
                Body::EndpointSlice(_) => {
                    if let Some(name) = labels.get(SLICE_SERVICE) {
                        self.slices.insert((key.namespace.clone(), name.as_str().into()));
                    }
                }
                _ => {}
            }
        }
    }
}
