//! What is true of the mesh right now? The [`Store`] takes changes to resources and derives an immutable
//! [`Snapshot`], rebuilding only the tables that a change touches, and says in a [`Delta`] what moved.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::envoy_filter::EnvoyFilter;
use api::networking::{Gateway, Sidecar};
use api::security::{AuthorizationPolicy, PeerAuthentication, RequestAuthentication, Telemetry};
use api::{Body, Resource};
use names::{Hostname, Kind, Labels, ResourceKey};

use crate::config::Config;
use crate::destination_rule::DestinationRules;
use crate::endpoint::ServiceEndpoints;
use crate::mesh::MeshConfig;
use crate::registry::{self, Resources, of_kind};
use crate::service::{Registry, Resolution, Service, ServiceKey};
use crate::virtual_service::VirtualServices;

/// A change to the resources or the mesh.
#[derive(Clone, Debug)]
pub enum Change {
    /// A resource is new or different.
    Apply(Resource),
    /// A resource is gone.
    Delete(ResourceKey),
    /// The mesh configuration is different.
    Mesh(Box<MeshConfig>),
}

/// What a set of changes moved; decides who is pushed what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Everything may be different (mesh configuration, namespaces, nodes).
    pub everything: bool,
    /// Configuration resources that changed, by kind and name.
    pub configs: BTreeSet<ResourceKey>,
    /// Services whose definition, identities or listener addresses changed.
    pub services: BTreeSet<ServiceKey>,
    /// Services whose endpoints changed.
    pub endpoints: BTreeSet<ServiceKey>,
    /// Addresses of workloads whose own ports or labels may have changed.
    pub workloads: BTreeSet<Arc<str>>,
}

impl Delta {
    /// Whether nothing moved.
    pub fn is_empty(&self) -> bool {
        *self == Delta::default()
    }

    /// Whether only endpoints moved: EDS alone suffices for proxies other than `workloads`.
    pub fn only_endpoints(&self) -> bool {
        !self.everything && self.configs.is_empty() && self.services.is_empty()
    }

    /// Adds another delta.
    pub fn merge(&mut self, other: Delta) {
        self.everything |= other.everything;
        self.configs.extend(other.configs);
        self.services.extend(other.services);
        self.endpoints.extend(other.endpoints);
        self.workloads.extend(other.workloads);
    }
}

/// Services by host, then namespace.
pub type ServicesByHost = BTreeMap<Hostname, BTreeMap<Arc<str>, Arc<Service>>>;

/// The mesh at one moment. Tables are shared between snapshots that did not change them.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Counts the snapshots of a store.
    pub version: u64,
    /// Mesh configuration.
    pub mesh: Arc<MeshConfig>,
    /// Domain that completes short names of configuration.
    pub config_domain: Arc<str>,
    /// Services, by precedence.
    pub services: Arc<Vec<Arc<Service>>>,
    /// Services by host and namespace.
    pub by_host: Arc<ServicesByHost>,
    /// Endpoints by service.
    pub endpoints: Arc<BTreeMap<ServiceKey, Arc<ServiceEndpoints>>>,
    /// Services that have an endpoint at an address.
    pub by_address: Arc<BTreeMap<Arc<str>, BTreeSet<ServiceKey>>>,
    /// Virtual services.
    pub virtual_services: Arc<VirtualServices>,
    /// Destination rules.
    pub destination_rules: Arc<DestinationRules>,
    /// Gateways, by age.
    pub gateways: Arc<Vec<Arc<Config<Gateway>>>>,
    /// Sidecars, by age.
    pub sidecars: Arc<Vec<Arc<Config<Sidecar>>>>,
    /// Peer authentications, by age.
    pub peer_authentications: Arc<Vec<Arc<Config<PeerAuthentication>>>>,
    /// Request authentications, by age.
    pub request_authentications: Arc<Vec<Arc<Config<RequestAuthentication>>>>,
    /// Authorization policies, by age.
    pub authorization_policies: Arc<Vec<Arc<Config<AuthorizationPolicy>>>>,
    /// Telemetry resources, by age.
    pub telemetries: Arc<Vec<Arc<Config<Telemetry>>>>,
    /// Envoy filters, by age.
    pub envoy_filters: Arc<Vec<Arc<Config<EnvoyFilter>>>>,
    /// Secrets and ConfigMaps with certificates, by key.
    pub credentials: Arc<BTreeMap<ResourceKey, Resource>>,
    /// Labels of namespaces.
    pub namespaces: Arc<BTreeMap<Arc<str>, Labels>>,
}

impl Snapshot {
    fn empty(mesh: Arc<MeshConfig>, config_domain: Arc<str>) -> Self {
        Snapshot {
            version: 0,
            services: Arc::default(),
            by_host: Arc::default(),
            endpoints: Arc::default(),
            by_address: Arc::default(),
            virtual_services: Arc::default(),
            destination_rules: Arc::new(DestinationRules::new(
                std::iter::empty(),
                &config_domain,
                &[],
                &mesh.root_namespace,
            )),
            gateways: Arc::default(),
            sidecars: Arc::default(),
            peer_authentications: Arc::default(),
            request_authentications: Arc::default(),
            authorization_policies: Arc::default(),
            telemetries: Arc::default(),
            envoy_filters: Arc::default(),
            credentials: Arc::default(),
            namespaces: Arc::default(),
            mesh,
            config_domain,
        }
    }

    /// Services a namespace sees, by precedence.
    pub fn services_visible_to(&self, namespace: &str) -> Vec<Arc<Service>> {
        self.services.iter().filter(|s| s.visibility.allows(namespace)).cloned().collect()
    }

    /// The service a host means for a namespace: its own, else Kubernetes's, else the first by namespace; only
    /// visible ones.
    pub fn service_for(&self, host: &Hostname, namespace: &str) -> Option<Arc<Service>> {
        let by_namespace = self.by_host.get(host)?;
        if let Some(own) = by_namespace.get(namespace) {
            return Some(own.clone());
        }
        let visible = || by_namespace.values().filter(|s| s.visibility.allows(namespace));
        visible().find(|s| s.registry == Registry::Kubernetes).or_else(|| visible().next()).cloned()
    }

    /// Endpoints of a service.
    pub fn endpoints_of(&self, service: &Service) -> Arc<ServiceEndpoints> {
        self.endpoints.get(&service.key()).cloned().unwrap_or_default()
    }

    /// Identities of a service's endpoints, with those its declaration adds.
    pub fn identities_of(&self, service: &Service) -> BTreeSet<String> {
        let endpoints = self.endpoints_of(service);
        let found = endpoints.iter().filter_map(|e| e.workload.identity(&self.mesh.trust_domain));
        found.chain(service.subject_alt_names.iter().cloned()).collect()
    }
}

/// Holds the resources and derives snapshots.
#[derive(Debug)]
pub struct Store {
    resources: Resources,
    snapshot: Arc<Snapshot>,
}

impl Store {
    /// An empty mesh.
    pub fn new(mesh: MeshConfig) -> Self {
        let domain = mesh.domain.as_str().into();
        Store { resources: Resources::new(), snapshot: Arc::new(Snapshot::empty(Arc::new(mesh), domain)) }
    }

    /// An empty mesh whose configuration completes short names with another domain (empty: only the namespace).
    pub fn with_config_domain(mesh: MeshConfig, domain: &str) -> Self {
        Store { resources: Resources::new(), snapshot: Arc::new(Snapshot::empty(Arc::new(mesh), domain.into())) }
    }

    /// The current snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.clone()
    }

    /// The resources as they are.
    pub fn resources(&self) -> &Resources {
        &self.resources
    }

    /// Applies changes in order and derives the next snapshot. Equal resources cause nothing.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>) -> Delta {
        let mut touched = Touched::default();
        let mut mesh = None;
        for change in changes {
            match change {
                Change::Mesh(m) if *m != *self.snapshot.mesh => mesh = Some(m),
                Change::Mesh(_) => {}
                Change::Apply(resource) => {
                    let key = resource.key().clone();
                    let old = self.resources.get(&key).cloned();
                    if old
                        .as_ref()
                        .is_some_and(|o| o.meta == resource.meta && o.body == resource.body && o.raw == resource.raw)
                    {
                        continue;
                    }
                    touched.note(old.as_ref(), Some(&resource), &key);
                    self.resources.insert(key, resource);
                }
                Change::Delete(key) => {
                    if let Some(old) = self.resources.remove(&key) {
                        touched.note(Some(&old), None, &key);
                    }
                }
            }
        }
        if touched.keys.is_empty() && mesh.is_none() {
            return Delta::default();
        }
        let mut next = (*self.snapshot).clone();
        next.version += 1;
        let mut delta = Delta::default();
        if let Some(mesh) = mesh {
            if *next.config_domain == *next.mesh.domain {
                next.config_domain = mesh.domain.as_str().into();
            }
            next.mesh = Arc::new(*mesh);
            delta.everything = true;
        }
        self.derive(&mut next, &touched, &mut delta);
        self.snapshot = Arc::new(next);
        delta
    }

    fn derive(&self, next: &mut Snapshot, touched: &Touched, delta: &mut Delta) {
        let all = delta.everything;
        let kind = |k: &Kind| all || touched.kinds.contains(k);
        delta.everything |= kind(&Kind::Namespace);
        let old_services = next.services.clone();
        if kind(&Kind::Service) || kind(&Kind::ServiceEntry) {
            self.derive_services(next, delta);
        }
        let mut stale: BTreeSet<ServiceKey> = delta.services.clone();
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
            self.derive_endpoints(next, &old_services, stale, delta);
        }
        delta.workloads.extend(touched.addresses.iter().cloned());

        macro_rules! table {
            ($field:ident, $variant:ident) => {
                if kind(&Kind::$variant) {
                    let mut list: Vec<_> = of_kind(&self.resources, &Kind::$variant, None)
                        .filter_map(|r| match &r.body {
                            Body::$variant(spec) => Some(Arc::new(config(r, (**spec).clone()))),
                            _ => None,
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
            let configs: Vec<_> = of_kind(&self.resources, &Kind::VirtualService, None)
                .filter_map(|r| match &r.body {
                    Body::VirtualService(spec) => Some(config(r, (**spec).clone())),
                    _ => None,
                })
                .collect();
            let export = &next.mesh.default_virtual_service_export_to;
            next.virtual_services = Arc::new(VirtualServices::new(configs.iter(), &next.config_domain, export));
        }
        if kind(&Kind::DestinationRule) {
            let configs: Vec<_> = of_kind(&self.resources, &Kind::DestinationRule, None)
                .filter_map(|r| match &r.body {
                    Body::DestinationRule(spec) => Some(config(r, (**spec).clone())),
                    _ => None,
                })
                .collect();
            let mesh = &next.mesh;
            next.destination_rules = Arc::new(DestinationRules::new(
                configs.iter(),
                &next.config_domain,
                &mesh.default_destination_rule_export_to,
                &mesh.root_namespace,
            ));
        }
        if kind(&Kind::Secret) || kind(&Kind::ConfigMap) {
            let of = |k| of_kind(&self.resources, &k, None).map(|r| (r.key().clone(), r.clone()));
            next.credentials = Arc::new(of(Kind::Secret).chain(of(Kind::ConfigMap)).collect());
        }
        if kind(&Kind::Namespace) {
            let list = of_kind(&self.resources, &Kind::Namespace, None);
            next.namespaces = Arc::new(list.map(|r| (r.meta.key.name.clone(), r.meta.labels.clone())).collect());
        }
        let workload_kinds = [
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
        delta.configs.extend(touched.keys.iter().filter(|k| !workload_kinds.contains(&k.kind)).cloned());
        // A ConfigMap or Secret of an application is not configuration of the mesh.
        delta.configs.retain(|k| !matches!(k.kind, Kind::ConfigMap | Kind::Other(_)));
    }

    fn derive_services(&self, next: &mut Snapshot, delta: &mut Delta) {
        let mesh = next.mesh.clone();
        let declared =
            of_kind(&self.resources, &Kind::Service, None).chain(of_kind(&self.resources, &Kind::ServiceEntry, None));
        let mut services: Vec<Service> = declared.flat_map(|r| registry::services_of(r, &mesh)).collect();
        services.sort_by(|a, b| a.age_order(b));
        registry::allocate_addresses(&mut services);
        add_aliases(&mut services);
        let old: BTreeMap<ServiceKey, &Arc<Service>> = next.services.iter().map(|s| (s.key(), s)).collect();
        let mut seen: BTreeSet<ServiceKey> = BTreeSet::new();
        let mut by_host: BTreeMap<Hostname, BTreeMap<Arc<str>, Arc<Service>>> = BTreeMap::new();
        let mut list: Vec<Arc<Service>> = Vec::with_capacity(services.len());
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
        next.services = Arc::new(list);
        next.by_host = Arc::new(by_host);
    }

    fn derive_endpoints(
        &self,
        next: &mut Snapshot,
        old_services: &[Arc<Service>],
        stale: BTreeSet<ServiceKey>,
        delta: &mut Delta,
    ) {
        let _ = old_services;
        let mut endpoints = (*next.endpoints).clone();
        let mut by_address = (*next.by_address).clone();
        for key in stale {
            let service = next.by_host.get(&key.hostname).and_then(|m| m.get(&key.namespace)).cloned();
            let new = service.as_ref().map(|s| registry::endpoints_of(s, &self.resources, &next.mesh));
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
            for e in before {
                if let Some(set) = by_address.get_mut(&e.address) {
                    set.remove(&key);
                    if set.is_empty() {
                        by_address.remove(&e.address);
                    }
                }
            }
            for e in after {
                by_address.entry(e.address.clone()).or_default().insert(key.clone());
            }
            let addresses = |l: &ServiceEndpoints| l.iter().map(|e| e.address.clone()).collect::<BTreeSet<_>>();
            delta.workloads.extend(addresses(before).symmetric_difference(&addresses(after)).cloned());
            delta.endpoints.insert(key.clone());
            match new {
                Some(list) => endpoints.insert(key, Arc::new(list)),
                None => endpoints.remove(&key),
            };
        }
        next.endpoints = Arc::new(endpoints);
        next.by_address = Arc::new(by_address);
    }
}

/// Tells services which `ExternalName` services point to them.
fn add_aliases(services: &mut [Service]) {
    let targets: BTreeMap<Hostname, Hostname> =
        services.iter().filter_map(|s| Some((s.hostname.clone(), s.external_name.clone()?))).collect();
    if targets.is_empty() {
        return;
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

#[derive(Default)]
struct Touched {
    keys: BTreeSet<ResourceKey>,
    kinds: BTreeSet<Kind>,
    /// Labels, before and after, of changed pods and workload entries.
    workload_labels: BTreeMap<Arc<str>, Vec<Labels>>,
    /// Services of changed slices.
    slices: BTreeSet<(Arc<str>, Arc<str>)>,
    addresses: BTreeSet<Arc<str>>,
}

impl Touched {
    fn note(&mut self, old: Option<&Resource>, new: Option<&Resource>, key: &ResourceKey) {
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
                    if let Some(name) = labels.get("kubernetes.io/service-name") {
                        self.slices.insert((key.namespace.clone(), name.as_str().into()));
                    }
                }
                _ => {}
            }
        }
    }
}
