//! Which security policies apply to a workload? mTLS mode by precedence; authorization and authentication policies by
//! selection. Follows `pilot/pkg/model/{authentication,authorization}.go`. Absent: what they become.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::networking::{LabelSelector, PolicyTargetReference};
use api::security::{AuthorizationPolicy, MutualTls, MutualTlsMode, PeerAuthentication, RequestAuthentication};
use names::{Labels, LabelsExt};

use crate::config::Config;

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

/// Whether a policy that may name its targets applies to sidecars and plain gateways: those with target references
/// are for Gateway API objects.
fn targets_workload(one: Option<&PolicyTargetReference>, many: &[PolicyTargetReference]) -> bool {
    one.is_none() && many.is_empty()
}

/// Authorization policies of a workload: the root namespace's, then its own, each by age.
pub fn authorization_policies(
    policies: &[Arc<Config<AuthorizationPolicy>>],
    namespace: &str,
    labels: &Labels,
    root_namespace: &str,
) -> Vec<Arc<Config<AuthorizationPolicy>>> {
    let of = |wanted: &str| -> Vec<_> {
        let chosen = policies.iter().filter(|p| {
            *p.namespace == *wanted
                && targets_workload(p.spec.target_ref.as_ref(), &p.spec.target_refs)
                && selected(p.spec.selector.as_ref(), labels)
        });
        chosen.cloned().collect()
    };
    let mut out = of(root_namespace);
    if namespace != root_namespace {
        out.extend(of(namespace));
    }
    out
}

/// Request authentications of a workload: the root namespace's, then its own, each by age.
pub fn request_authentications(
    policies: &[Arc<Config<RequestAuthentication>>],
    namespace: &str,
    labels: &Labels,
    root_namespace: &str,
) -> Vec<Arc<Config<RequestAuthentication>>> {
    let of = |wanted: &str| -> Vec<_> {
        let chosen = policies.iter().filter(|p| {
            *p.namespace == *wanted
                && targets_workload(p.spec.target_ref.as_ref(), &p.spec.target_refs)
                && selected(p.spec.selector.as_ref(), labels)
        });
        chosen.cloned().collect()
    };
    let mut out = of(root_namespace);
    if namespace != root_namespace {
        out.extend(of(namespace));
    }
    out
}
