//! Which security policies apply to a workload? mTLS mode by precedence; authorization and authentication policies by
//! selection. Follows `pilot/pkg/model/{authentication,authorization}.go`. Absent: what they become.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::networking::{LabelSelector, PolicyTargetReference};
use api::security::{AuthorizationPolicy, MutualTls, MutualTlsMode, PeerAuthentication, RequestAuthentication};
use names::{Labels, LabelsExt};

use crate::config::Config;
use crate::proxy::Proxy;
use crate::service::{Registry, Service};

/// What inbound connections must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MtlsMode {
    /// Plain text only; TLS is the application's business.
    Disable,
    /// Either.
    Permissive,
    /// Mesh mTLS only.
    Strict,
}

/// The mTLS requirement of one workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergedPeerAuthentication {
    /// For ports without their own.
    pub mode: MtlsMode,
    /// By workload port.
    pub per_port: BTreeMap<u16, MtlsMode>,
}

impl MergedPeerAuthentication {
    /// The mode of a workload port.
    pub fn for_port(&self, port: u16) -> MtlsMode {
        self.per_port.get(&port).copied().unwrap_or(self.mode)
    }
}

fn mode(mtls: Option<&MutualTls>) -> Option<MtlsMode> {
    match mtls?.mode {
        MutualTlsMode::Unset => None,
        MutualTlsMode::Disable => Some(MtlsMode::Disable),
        MutualTlsMode::Permissive => Some(MtlsMode::Permissive),
        MutualTlsMode::Strict => Some(MtlsMode::Strict),
    }
}

fn selected(selector: Option<&LabelSelector>, labels: &Labels) -> bool {
    selector.is_none_or(|s| s.match_labels.subset_of(labels))
}

fn is_empty(selector: Option<&LabelSelector>) -> bool {
    selector.is_none_or(|s| s.match_labels.is_empty())
}

/// Composes the policies that select a workload: workload over namespace over mesh; the oldest of each scope.
/// Port-level settings count only in a policy with a selector.
pub fn peer_authentication(
    policies: &[Arc<Config<PeerAuthentication>>],
    namespace: &str,
    labels: &Labels,
    root_namespace: &str,
) -> MergedPeerAuthentication {
    let oldest = |namespace: &str, with_selector: bool| {
        policies.iter().find(|p| {
            let selector = p.spec.selector.as_ref();
            *p.namespace == *namespace && is_empty(selector) != with_selector && selected(selector, labels)
        })
    };
    let mesh = oldest(root_namespace, false);
    let own = (namespace != root_namespace).then(|| oldest(namespace, false)).flatten();
    let workload = oldest(namespace, true);
    let mut out = MergedPeerAuthentication { mode: MtlsMode::Permissive, per_port: BTreeMap::new() };
    for policy in [mesh, own, workload].into_iter().flatten() {
        out.mode = mode(policy.spec.mtls.as_ref()).unwrap_or(out.mode);
    }
    for (port, mtls) in workload.iter().flat_map(|w| &w.spec.port_level_mtls) {
        if let Ok(port) = u16::try_from(*port) {
            out.per_port.insert(port, mode(Some(mtls)).unwrap_or(out.mode));
        }
    }
    out
}

/// What a policy may attach to: a workload, by selector; or a gateway or waypoint of the Gateway API, by target
/// references. Follows `pilot/pkg/model/policyattachment.go`.
#[derive(Clone, Copy, Debug)]
pub struct Attachment<'a> {
    /// Namespace of the workload.
    pub namespace: &'a str,
    /// Its labels; `gateway.networking.k8s.io/gateway-name` names the Gateway it is an instance of.
    pub labels: &'a Labels,
    /// Whose policies are everybody's.
    pub root_namespace: &'a str,
    /// Whether it is a waypoint, which heeds no selectors.
    pub waypoint: bool,
    /// Services whose traffic a waypoint judges.
    pub services: &'a [&'a Service],
    /// Whether gateways of the Gateway API heed policies without target references.
    pub selectors_for_gateways: bool,
}

/// The label with the name of the Gateway that a workload is an instance of.
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
/// The GatewayClass of waypoints.
const WAYPOINT_CLASS: &str = "istio-waypoint";

impl<'a> Attachment<'a> {
    /// That of a proxy.
    pub fn of(proxy: &'a Proxy, root_namespace: &'a str) -> Self {
        Attachment {
            namespace: &proxy.namespace,
            labels: &proxy.labels,
            root_namespace,
            waypoint: proxy.node_type == names::NodeType::Waypoint,
            services: &[],
            selectors_for_gateways: true,
        }
    }

    /// Whether a policy of `namespace` applies.
    pub fn takes(
        &self,
        namespace: &str,
        selector: Option<&LabelSelector>,
        one: Option<&PolicyTargetReference>,
        many: &[PolicyTargetReference],
    ) -> bool {
        let targets = if many.is_empty() { one.map(std::slice::from_ref).unwrap_or_default() } else { many };
        let Some(gateway) = self.labels.get(GATEWAY_NAME) else {
            return targets.is_empty() && selected(selector, self.labels);
        };
        if targets.is_empty() {
            return !self.waypoint && self.selectors_for_gateways && selected(selector, self.labels);
        }
        targets.iter().any(|t| self.is_target(t, namespace, gateway))
    }

    fn is_target(&self, target: &PolicyTargetReference, namespace: &str, gateway: &str) -> bool {
        let serves = |registry: Registry| {
            let named =
                |s: &&Service| s.registry == registry && *s.namespace == *namespace && *s.resource == *target.name;
            self.waypoint && self.services.iter().any(named)
        };
        let own = self.namespace == namespace && (target.namespace.is_empty() || target.namespace == self.namespace);
        match (target.group.as_str(), target.kind.as_str()) {
            ("" | "core", "Service") => serves(Registry::Kubernetes),
            ("networking.istio.io", "ServiceEntry") => serves(Registry::External),
            ("gateway.networking.k8s.io", "GatewayClass") => {
                self.waypoint && namespace == self.root_namespace && target.name == WAYPOINT_CLASS
            }
            ("gateway.networking.k8s.io", "Gateway") => own && target.name == gateway,
            _ => false,
        }
    }

    /// Those of the root namespace, then those of its own, then those of its services, each by age.
    fn chosen<T>(&self, policies: &[Arc<Config<T>>], takes: impl Fn(&Config<T>) -> bool) -> Vec<Arc<Config<T>>> {
        let mut out = Vec::new();
        let mut seen = Vec::new();
        let others = self.services.iter().map(|s| &*s.namespace);
        for namespace in [self.root_namespace, self.namespace].into_iter().chain(others) {
            if !seen.contains(&namespace) {
                seen.push(namespace);
                out.extend(policies.iter().filter(|p| *p.namespace == *namespace && takes(p)).cloned());
            }
        }
        out
    }
}

/// Authorization policies of a workload.
pub fn authorization_policies(
    policies: &[Arc<Config<AuthorizationPolicy>>],
    to: &Attachment<'_>,
) -> Vec<Arc<Config<AuthorizationPolicy>>> {
    to.chosen(policies, |p| {
        to.takes(&p.namespace, p.spec.selector.as_ref(), p.spec.target_ref.as_ref(), &p.spec.target_refs)
    })
}

/// Request authentications of a workload.
pub fn request_authentications(
    policies: &[Arc<Config<RequestAuthentication>>],
    to: &Attachment<'_>,
) -> Vec<Arc<Config<RequestAuthentication>>> {
    to.chosen(policies, |p| {
        to.takes(&p.namespace, p.spec.selector.as_ref(), p.spec.target_ref.as_ref(), &p.spec.target_refs)
    })
}
