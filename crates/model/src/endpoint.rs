//! Who serves a service port, and how is each one reached? Built from pods, slices, workload entries and the inline
//! endpoints of service entries; read by EDS and DNS clusters.

use std::sync::Arc;

use names::{Identity, Labels};

/// Whether labels say that the workload terminates mesh mTLS.
pub fn labels_speak_mtls(labels: &Labels) -> bool {
    labels.get(TLS_MODE_LABEL).is_some_and(|m| m == TLS_MODE_ISTIO)
}

/// Label that says whether a workload terminates mutual TLS.
pub const TLS_MODE_LABEL: &str = "security.istio.io/tlsMode";
/// The value of [`TLS_MODE_LABEL`] that means mesh mTLS.
pub const TLS_MODE_ISTIO: &str = "istio";

/// Readiness of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Health {
    /// Takes traffic.
    #[default]
    Healthy,
    /// Not ready.
    Unhealthy,
    /// Terminating: keeps its sessions.
    Draining,
}

/// One place where a service port is served.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// An IP address, a DNS name (DNS resolution only) or a Unix socket path.
    pub address: Arc<str>,
    /// The port; 0 for Unix sockets.
    pub port: u16,
    /// Name of the service port served.
    pub service_port: Arc<str>,
    /// What is known of the workload behind it, shared by its ports.
    pub workload: Arc<Workload>,
    /// Readiness.
    pub health: Health,
    /// Load-balancing weight; 0 when not stated.
    pub weight: u32,
}

/// What is known of the workload that serves an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Workload {
    /// Name of the pod or workload entry.
    pub pod: Arc<str>,
    /// Name of the deployment or the like.
    pub name: Arc<str>,
    /// Namespace.
    pub namespace: Arc<str>,
    /// Labels.
    pub labels: Labels,
    /// Service account.
    pub service_account: Arc<str>,
    /// `region/zone/subzone`.
    pub locality: Arc<str>,
    /// Network, for multi-network meshes.
    pub network: Arc<str>,
    /// Node it runs on.
    pub node: Arc<str>,
    /// `hostname` of the pod, for names below headless services.
    pub hostname: Arc<str>,
    /// `subdomain` of the pod.
    pub subdomain: Arc<str>,
    /// Whether it terminates mesh mTLS.
    pub speaks_mtls: bool,
}

impl Workload {
    /// Its SPIFFE identity; empty without a service account.
    pub fn identity(&self, trust_domain: &str) -> Option<String> {
        (!self.service_account.is_empty())
            .then(|| Identity::new(trust_domain, &self.namespace, &self.service_account).to_string())
    }
}

/// Endpoints of one service, ordered by port name, address and port.
pub type ServiceEndpoints = Vec<Endpoint>;
