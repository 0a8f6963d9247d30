//! What of a proxy and of the mesh do pieces of translation depend on beside services and rules? Gathered once per view,
//! compared by identity or by value. Two proxies with equal facts get equal resources from equal scopes.

use std::sync::Arc;

use api::security::{AuthorizationPolicy, RequestAuthentication};
use model::{Config, MergedGateway, MeshConfig, ServiceTarget, SidecarScope, Snapshot};
use names::NodeType;
use xxhash_rust::xxh64::Xxh64;

use crate::Inputs;

/// Everything but services, endpoints, virtual services and destination rules.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The proxy without what distinguishes replicas; equal ones share a view.
    pub(crate) proxy: Arc<model::Proxy>,
    /// Where the client is and what it is called, for endpoints that depend on it.
    pub(crate) place: Arc<str>,
    /// Where the proxy has its own certificates, if not over SDS: clusters that originate TLS name the files.
    pub(crate) certificates: Arc<str>,
    pub(crate) mesh: Arc<MeshConfig>,
    pub(crate) telemetries: Arc<Vec<Arc<Config<api::security::Telemetry>>>>,
    pub(crate) envoy_filters: Arc<Vec<Arc<Config<api::envoy_filter::EnvoyFilter>>>>,
    pub(crate) peer_authentications: Arc<Vec<Arc<Config<api::security::PeerAuthentication>>>>,
    pub(crate) gateway: Option<Arc<MergedGateway>>,
    pub(crate) sidecar: Option<Arc<Config<api::networking::Sidecar>>>,
    pub(crate) jwks: Arc<std::collections::BTreeMap<String, String>>,
    pub(crate) targets: Vec<ServiceTarget>,
    authorization: Vec<Arc<Config<AuthorizationPolicy>>>,
    request_authentication: Vec<Arc<Config<RequestAuthentication>>>,
    /// Services that providers of the mesh (logs, traces, authorizers) name: whether they exist decides what refers
    /// to them.
    providers: u64,
    /// Whether a service of the scope is resolved by its name at request time.
    pub(crate) dynamic: bool,
}

/// Metadata that says where a proxy has its own certificates.
const CERTIFICATES: [&str; 4] = ["TLS_CLIENT_CERT_CHAIN", "TLS_CLIENT_KEY", "TLS_CLIENT_ROOT_CERT", "credential"];

impl Facts {
    /// `before`: those of the view before, and its scope.
    pub(crate) fn of(inputs: &Inputs, before: Option<(&Facts, &Arc<SidecarScope>)>) -> Self {
        let (view, snapshot, proxy) = (&inputs.view, inputs.snapshot(), inputs.proxy());
        let same_scope = before.filter(|(_, scope)| Arc::ptr_eq(scope, &view.scope));
        let dynamic = || view.scope.services.iter().any(|s| s.resolution == model::Resolution::DynamicDns);
        let same_proxy = before.map(|(facts, _)| facts).filter(|facts| Arc::ptr_eq(&facts.proxy, &view.proxy));
        let (place, certificates) = match same_proxy {
            Some(facts) => (facts.place.clone(), facts.certificates.clone()),
            None => (
                format!("{}|{}|{}|{:?}", proxy.locality, proxy.network, proxy.node_name, proxy.labels).into(),
                CERTIFICATES.map(|k| proxy.metadata_text(k)).join("|").into(),
            ),
        };
        Facts {
            proxy: view.proxy.clone(),
            place,
            certificates,
            mesh: snapshot.mesh.clone(),
            telemetries: snapshot.telemetries.clone(),
            envoy_filters: snapshot.envoy_filters.clone(),
            peer_authentications: snapshot.peer_authentications.clone(),
            gateway: view.gateway.clone(),
            sidecar: view.scope.config.clone(),
            jwks: inputs.jwks.clone(),
            targets: view.targets.clone(),
            authorization: view.authorization.clone(),
            request_authentication: view.request_authentication.clone(),
            providers: providers(snapshot),
            dynamic: same_scope.map_or_else(dynamic, |(facts, _)| facts.dynamic),
        }
    }

    /// Facts that decide the clusters of a service, as bits.
    pub(crate) fn cluster_bits(&self) -> u64 {
        let p = &self.proxy;
        u64::from(p.node_type == NodeType::Sidecar)
            | u64::from(p.is_ipv6_only()) << 1
            | u64::from(p.capabilities.peer_metadata) << 2
            | u64::from(p.capabilities.istio_stats) << 3
            | u64::from(p.capabilities.istio_alpn) << 4
    }

    /// Facts that decide listeners, as bits.
    pub(crate) fn listener_bits(&self) -> u64 {
        self.providers << 1 | u64::from(self.dynamic)
    }

    /// Whether a listener or the own clusters made with `other` are the same as with these.
    pub(crate) fn same_for_listeners(&self, other: &Facts) -> bool {
        let Facts {
            proxy,
            place: _,
            certificates: _,
            mesh,
            telemetries,
            envoy_filters,
            peer_authentications,
            gateway,
            sidecar,
            jwks,
            targets,
            authorization,
            request_authentication,
            providers,
            dynamic,
        } = other;
        Arc::ptr_eq(&self.mesh, mesh)
            && Arc::ptr_eq(&self.telemetries, telemetries)
            && Arc::ptr_eq(&self.envoy_filters, envoy_filters)
            && Arc::ptr_eq(&self.peer_authentications, peer_authentications)
            && same(self.gateway.as_ref(), gateway.as_ref())
            && same(self.sidecar.as_ref(), sidecar.as_ref())
            && (Arc::ptr_eq(&self.jwks, jwks) || self.jwks == *jwks)
            && all_same(&self.authorization, authorization)
            && all_same(&self.request_authentication, request_authentication)
            && self.providers == *providers
            && self.dynamic == *dynamic
            && (Arc::ptr_eq(&self.proxy, proxy) || self.proxy == *proxy)
            // Of a router's own ports nothing is made but its gateways, unless a patch asks for them.
            && ((self.proxy.node_type == NodeType::Router && envoy_filters.is_empty()) || self.targets == *targets)
    }
}

fn same<T>(a: Option<&Arc<T>>, b: Option<&Arc<T>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (a, b) => a.is_none() && b.is_none(),
    }
}

/// Whether both lists hold the same allocations.
pub(crate) fn all_same<T>(a: &[Arc<T>], b: &[Arc<T>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
}

fn providers(snapshot: &Snapshot) -> u64 {
    let mut hash = Xxh64::new(0);
    let mut visit: Vec<&serde_json::Value> = snapshot.mesh.extension_providers.iter().map(|p| &p.config).collect();
    while let Some(value) = visit.pop() {
        match value {
            serde_json::Value::Array(list) => visit.extend(list),
            serde_json::Value::Object(map) => {
                for (key, value) in map {
                    match (key.as_str(), value.as_str()) {
                        ("service", Some(service)) => {
                            let (namespace, host) =
                                service.split_once('/').map_or((None, service), |(n, h)| (Some(n), h));
                            for (ns, s) in snapshot.by_host.get(host).into_iter().flatten() {
                                if namespace.is_none_or(|n| *n == **ns) {
                                    hash.update(&(Arc::as_ptr(s) as usize).to_le_bytes());
                                }
                            }
                            hash.update(&[0]);
                        }
                        _ => visit.push(value),
                    }
                }
            }
            _ => {}
        }
    }
    hash.digest()
}
