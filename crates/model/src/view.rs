//! What does one proxy see? Its scope, gateways, own ports and policies, chosen once per snapshot and proxy. This is
//! the input of translation; everything in it is shared and immutable.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::networking::{Gateway, Sidecar};
use api::security::{AuthorizationPolicy, RequestAuthentication};
use names::{Hostname, Kind, Labels, LabelsExt, NodeType, ResourceKey};

use crate::config::Config;
use crate::gateway::{self, MergedGateway};
use crate::proxy::Proxy;
use crate::referenced;
use crate::security::{self, MergedPeerAuthentication};
use crate::service::{Port, Service, TargetPort};
use crate::sidecar::{SidecarScope, select_sidecar};
use crate::snapshot::{Delta, Snapshot};

/// A port of a service that this proxy's workload serves.
#[derive(Clone, Debug)]
pub struct ServiceTarget {
    /// The service.
    pub service: Arc<Service>,
    /// Its port.
    pub port: Port,
    /// The port of the workload.
    pub target_port: u16,
}

impl PartialEq for ServiceTarget {
    fn eq(&self, other: &Self) -> bool {
        // Replicas hold the same allocation; they are compared with each change.
        let same = Arc::ptr_eq(&self.service, &other.service) || self.service == other.service;
        same && self.target_port == other.target_port && self.port == other.port
    }
}

/// One proxy's view of a snapshot.
#[derive(Clone, Debug)]
pub struct ProxyView {
    /// The mesh.
    pub snapshot: Arc<Snapshot>,
    /// Who looks.
    pub proxy: Arc<Proxy>,
    /// What it may talk to.
    pub scope: Arc<SidecarScope>,
    /// Ports its workload serves, by service precedence.
    pub targets: Vec<ServiceTarget>,
    /// Gateway servers, for routers.
    pub gateway: Option<Arc<MergedGateway>>,
    /// mTLS requirement.
    pub peer_authentication: MergedPeerAuthentication,
    /// Authorization policies that select it.
    pub authorization: Vec<Arc<Config<AuthorizationPolicy>>>,
    /// Request authentications that select it.
    pub request_authentication: Vec<Arc<Config<RequestAuthentication>>>,
}

/// A namespace and the `Sidecar` that governs there.
type ScopeKey = (Arc<str>, Option<ResourceKey>);

/// Remembers scopes and merged gateways, which are the expensive part and shared by all proxies of a namespace with the
/// same `Sidecar` or gateway. What nobody holds any more is forgotten with the next snapshot.
#[derive(Debug, Default)]
pub struct ScopeCache {
    version: u64,
    scopes: BTreeMap<ScopeKey, (Arc<Snapshot>, Arc<SidecarScope>)>,
    gateways: Vec<MergedFor>,
}

/// A merged gateway with all it was made from.
#[derive(Debug)]
struct MergedFor {
    gateways: Arc<Vec<Arc<Config<Gateway>>>>,
    namespace: Arc<str>,
    labels: Labels,
    targets: Vec<ServiceTarget>,
    merged: Arc<MergedGateway>,
}

impl ScopeCache {
    fn renew(&mut self, snapshot: &Snapshot) {
        if self.version != snapshot.version {
            self.scopes.retain(|_, (_, scope)| Arc::strong_count(scope) > 1);
            self.gateways.retain(|g| Arc::strong_count(&g.merged) > 1);
            self.version = snapshot.version;
        }
    }

    fn get(&mut self, snapshot: &Arc<Snapshot>, proxy: &Proxy) -> Arc<SidecarScope> {
        self.renew(snapshot);
        // Gateways are not bounded by sidecars.
        let sidecar = (proxy.node_type == NodeType::Sidecar)
            .then(|| select_sidecar(&snapshot.sidecars, &proxy.namespace, &proxy.labels, &snapshot.mesh.root_namespace))
            .flatten();
        let key = sidecar.as_ref().map(|s| ResourceKey::new(Kind::Sidecar, &s.namespace, &s.name));
        let key = (proxy.namespace.clone(), key);
        let known = self.scopes.get(&key);
        let made = match known {
            Some((at, scope)) if Arc::ptr_eq(at, snapshot) => return scope.clone(),
            Some((at, scope)) if same_world(at, snapshot) && same_sidecar(scope, sidecar.as_ref()) => scope.clone(),
            Some((at, scope)) if sidecar.is_none() => match scope.advance(at, snapshot) {
                Some(advanced) => Arc::new(advanced),
                None => Arc::new(SidecarScope::new(snapshot, &proxy.namespace, None)),
            },
            _ => Arc::new(SidecarScope::new(snapshot, &proxy.namespace, sidecar)),
        };
        self.scopes.insert(key, (snapshot.clone(), made.clone()));
        made
    }

    fn gateway(&mut self, snapshot: &Snapshot, proxy: &Proxy, targets: &[ServiceTarget]) -> Arc<MergedGateway> {
        self.renew(snapshot);
        let known = self.gateways.iter().find(|g| {
            Arc::ptr_eq(&g.gateways, &snapshot.gateways)
                && g.namespace == proxy.namespace
                && g.labels == proxy.labels
                && g.targets == targets
        });
        if let Some(known) = known {
            return known.merged.clone();
        }
        let made = gateway::merge(&snapshot.gateways, proxy, targets);
        // Most changes of a gateway's own services leave its ports as they are.
        let last = self.gateways.iter().rev().find(|g| g.namespace == proxy.namespace && g.labels == proxy.labels);
        let last = last.filter(|g| *g.merged == made).map(|g| g.merged.clone());
        let merged = last.unwrap_or_else(|| Arc::new(made));
        self.gateways.push(MergedFor {
            gateways: snapshot.gateways.clone(),
            namespace: proxy.namespace.clone(),
            labels: proxy.labels.clone(),
            targets: targets.to_vec(),
            merged: merged.clone(),
        });
        merged
    }
}

/// Whether nothing that scopes are made from moved between two snapshots.
fn same_world(a: &Snapshot, b: &Snapshot) -> bool {
    Arc::ptr_eq(&a.mesh, &b.mesh)
        && Arc::ptr_eq(&a.services, &b.services)
        && Arc::ptr_eq(&a.virtual_services, &b.virtual_services)
        && Arc::ptr_eq(&a.destination_rules, &b.destination_rules)
}

fn same_sidecar(scope: &SidecarScope, sidecar: Option<&Arc<Config<Sidecar>>>) -> bool {
    match (&scope.config, sidecar) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (a, b) => a.is_none() && b.is_none(),
    }
}

impl ProxyView {
    /// The view of `proxy`.
    pub fn new(snapshot: &Arc<Snapshot>, proxy: &Arc<Proxy>) -> Self {
        Self::with_cache(snapshot, proxy, &mut ScopeCache { version: snapshot.version, ..Default::default() })
    }

    /// The view of `proxy`, sharing scopes with others of the same snapshot.
    pub fn with_cache(snapshot: &Arc<Snapshot>, proxy: &Arc<Proxy>, cache: &mut ScopeCache) -> Self {
        Self::of_class(snapshot, proxy, targets(snapshot, proxy), cache)
    }

    /// The view of a proxy, or of all that differ from it in nothing that matters, whose workload serves `targets`.
    pub fn of_class(
        snapshot: &Arc<Snapshot>,
        proxy: &Arc<Proxy>,
        targets: Vec<ServiceTarget>,
        cache: &mut ScopeCache,
    ) -> Self {
        let root = snapshot.mesh.root_namespace.as_str();
        let router = proxy.node_type == NodeType::Router;
        let attachment = security::Attachment::of(proxy, root);
        let gateway = router.then(|| cache.gateway(snapshot, proxy, &targets));
        let request_authentication = security::request_authentications(&snapshot.request_authentications, &attachment);
        let mut scope = cache.get(snapshot, proxy);
        if let Some(gateway) = gateway.as_ref().filter(|_| snapshot.mesh.filter_gateway_clusters) {
            scope = Arc::new(referenced::narrowed(&scope, snapshot, gateway, &request_authentication));
        }
        ProxyView {
            scope,
            gateway,
            peer_authentication: security::peer_authentication(
                &snapshot.peer_authentications,
                &proxy.namespace,
                &proxy.labels,
                root,
            ),
            authorization: security::authorization_policies(&snapshot.authorization_policies, &attachment),
            request_authentication,
            targets,
            snapshot: snapshot.clone(),
            proxy: proxy.clone(),
        }
    }

    /// The service a host means to this proxy: in its scope, else (gateways route anywhere visible) in the mesh.
    pub fn service(&self, host: &Hostname) -> Option<Arc<Service>> {
        self.scope.by_host.get(host).cloned().or_else(|| self.snapshot.service_for(host, &self.proxy.namespace))
    }

    /// Whether a change can matter to this proxy at all. What the view before the change and the view after it both
    /// deny leaves everything the proxy got as it was.
    pub fn is_affected_by(&self, delta: &Delta) -> bool {
        delta.everything
            || delta.configs.iter().any(|k| self.config_matters(k))
            || delta.services.iter().chain(&delta.endpoints).any(|k| self.service_matters(k))
            || self.proxy.ips.iter().any(|ip| delta.workloads.contains(ip.as_str()))
    }

    fn config_matters(&self, key: &ResourceKey) -> bool {
        let root = self.snapshot.mesh.root_namespace.as_str();
        match key.kind {
            // Policies select workloads of their own namespace, or everybody from the root namespace.
            Kind::AuthorizationPolicy
            | Kind::RequestAuthentication
            | Kind::Telemetry
            | Kind::EnvoyFilter
            | Kind::WasmPlugin
            | Kind::TrafficExtension
            | Kind::Sidecar => *key.namespace == *self.proxy.namespace || *key.namespace == *root,
            Kind::Gateway => self.proxy.node_type == NodeType::Router,
            _ => true,
        }
    }

    fn service_matters(&self, key: &crate::service::ServiceKey) -> bool {
        self.scope.by_host.get(&key.hostname).is_none_or(|s| s.namespace == key.namespace)
    }
}

/// Ports that the proxy's workload serves: by the addresses of endpoints, else (the workload is not known yet) by
/// its labels.
pub fn targets(snapshot: &Snapshot, proxy: &Proxy) -> Vec<ServiceTarget> {
    let mut keys = std::collections::BTreeSet::new();
    for ip in &proxy.ips {
        keys.extend(snapshot.by_address.get(ip.as_str()).into_iter().flatten());
    }
    let mut out = Vec::new();
    let found = keys.iter().filter_map(|k| snapshot.by_host.get(&k.hostname)?.get(&k.namespace));
    for service in found {
        for e in snapshot.endpoints_of(service).iter().filter(|e| proxy.ips.iter().any(|ip| **ip == *e.address)) {
            let Some(port) = service.port_named(&e.service_port) else {
                continue;
            };
            let target = ServiceTarget { service: service.clone(), port: port.clone(), target_port: e.port };
            if !out.contains(&target) {
                out.push(target);
            }
        }
    }
    if keys.is_empty() {
        for service in snapshot.services.iter().filter(|s| *s.namespace == *proxy.namespace) {
            let selected = service.selector.as_ref().is_some_and(|s| s.subset_of(&proxy.labels));
            for port in service.ports.iter().filter(|_| selected) {
                if let TargetPort::Number(n) = port.target {
                    out.push(ServiceTarget { service: service.clone(), port: port.clone(), target_port: n });
                }
            }
        }
    }
    if out.len() > 1 {
        // By precedence of the services, ports in the order the service lists them.
        let place = |t: &ServiceTarget| {
            let start = snapshot.services.partition_point(|s| s.age_order(&t.service).is_lt());
            let within = snapshot.services[start..].iter().position(|s| Arc::ptr_eq(s, &t.service));
            within.map(|n| start + n)
        };
        out.sort_by_cached_key(|t| (place(t), t.service.ports.iter().position(|p| *p == t.port)));
    }
    out
}
