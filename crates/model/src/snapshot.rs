//! What is true of the mesh right now? The [`Store`] takes changes to resources and derives an immutable
//! [`Snapshot`], rebuilding only the tables that a change touches, and says in a [`Delta`] what moved.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::Resource;
use api::envoy_filter::EnvoyFilter;
use api::networking::{Gateway, Sidecar};
use api::security::{AuthorizationPolicy, PeerAuthentication, RequestAuthentication, Telemetry};
use names::{Hostname, Labels, ResourceKey};

use crate::config::Config;
use crate::derive::{Derivation, Touched};
use crate::destination_rule::DestinationRules;
use crate::endpoint::ServiceEndpoints;
use crate::mesh::MeshConfig;
use crate::registry::Resources;
use crate::service::{Registry, Service, ServiceKey};
use crate::shared_map::SharedMap;
use crate::virtual_service::VirtualServices;

pub use crate::derive::config;

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
pub type ServicesByHost = SharedMap<Hostname, BTreeMap<Arc<str>, Arc<Service>>>;

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
    /// Whether all namespaces see all services; `false` when not known.
    pub all_public: bool,
    /// Whether any service is an alias of another.
    pub has_aliases: bool,
    /// Services by host and namespace.
    pub by_host: ServicesByHost,
    /// Endpoints by service.
    pub endpoints: SharedMap<ServiceKey, Arc<ServiceEndpoints>>,
    /// Services that have an endpoint at an address.
    pub by_address: SharedMap<Arc<str>, BTreeSet<ServiceKey>>,
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
            all_public: false,
            has_aliases: false,
            by_host: SharedMap::default(),
            endpoints: SharedMap::default(),
            by_address: SharedMap::default(),
            virtual_services: Arc::default(),
            destination_rules: Arc::new(DestinationRules::empty(&mesh.root_namespace)),
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
    pub fn services_visible_to(&self, namespace: &str) -> Arc<Vec<Arc<Service>>> {
        if self.all_public {
            return Arc::clone(&self.services);
        }
        Arc::new(self.services.iter().filter(|s| s.visibility.allows(namespace)).cloned().collect())
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
        // A thousand endpoints are a few accounts: each is spelled once.
        let accounts: BTreeMap<(&str, &str), &crate::Workload> =
            endpoints.iter().map(|e| ((&*e.workload.namespace, &*e.workload.service_account), &*e.workload)).collect();
        let found = accounts.into_values().filter_map(|w| w.identity(&self.mesh.trust_domain));
        found.chain(service.subject_alt_names.iter().cloned()).collect()
    }
}

/// Holds the resources and derives snapshots.
#[derive(Debug)]
pub struct Store {
    resources: Resources,
    derivation: Derivation,
    snapshot: Arc<Snapshot>,
    /// In place of a document that is not kept.
    unsaid: Arc<serde_json::Value>,
}

impl Store {
    /// An empty mesh.
    pub fn new(mesh: MeshConfig) -> Self {
        let domain = mesh.domain.as_str().into();
        Self::over(Snapshot::empty(Arc::new(mesh), domain))
    }

    /// An empty mesh whose configuration completes short names with another domain (empty: only the namespace).
    pub fn with_config_domain(mesh: MeshConfig, domain: &str) -> Self {
        Self::over(Snapshot::empty(Arc::new(mesh), domain.into()))
    }

    fn over(snapshot: Snapshot) -> Self {
        Store {
            resources: Resources::new(),
            derivation: Derivation::default(),
            snapshot: Arc::new(snapshot),
            unsaid: Arc::default(),
        }
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
                Change::Apply(mut resource) => {
                    let key = resource.key().clone();
                    if key.kind == names::Kind::Pod {
                        // Most of what a mesh is told are pods, and all that is asked of them is typed.
                        resource.raw = self.unsaid.clone();
                    }
                    let old = self.resources.get(&key).cloned();
                    if old
                        .as_ref()
                        .is_some_and(|o| o.meta == resource.meta && o.body == resource.body && o.raw == resource.raw)
                    {
                        continue;
                    }
                    touched.note(old.as_ref(), Some(&resource), &key);
                    self.derivation.index.note(old.as_ref(), Some(&resource));
                    self.resources.insert(key, resource);
                }
                Change::Delete(key) => {
                    if let Some(old) = self.resources.remove(&key) {
                        touched.note(Some(&old), None, &key);
                        self.derivation.index.note(Some(&old), None);
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
        self.derivation.advance(&self.resources, &mut next, &touched, &mut delta);
        self.snapshot = Arc::new(next);
        delta
    }
}
