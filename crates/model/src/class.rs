//! Which proxies get the same configuration? A class is a proxy without what distinguishes replicas of one
//! workload, as long as nothing in the mesh looks at that. Called by the control plane to share views.

use std::sync::Arc;

use crate::proxy::{Interception, Proxy};
use crate::service::{Resolution, TrafficDistribution};
use crate::snapshot::Snapshot;
use crate::view::ServiceTarget;

/// Metadata that every replica has of its own.
const OF_REPLICA: [&str; 3] = ["NAME", "INSTANCE_IPS", "NODE_NAME"];

/// What of a single replica the mesh looks at. All false in most meshes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LooksAt {
    /// The node it runs on: endpoints of the same node come first somewhere.
    pub node: bool,
    /// Its metadata: an `EnvoyFilter` selects by them.
    pub metadata: bool,
    /// Its addresses.
    pub addresses: bool,
}

impl LooksAt {
    /// What a snapshot looks at, whichever proxy it is.
    pub fn anyone(snapshot: &Snapshot) -> Self {
        let by_node = |s: Option<&api::destination_rule::LocalityLoadBalancerSetting>| {
            s.is_some_and(|s| !s.failover_priority.is_empty())
        };
        LooksAt {
            node: snapshot.services.iter().any(|s| s.traffic_distribution == TrafficDistribution::PreferSameNode)
                || by_node(snapshot.mesh.locality_lb_setting.as_ref())
                || snapshot.destination_rules.has_failover_priority(),
            metadata: snapshot.envoy_filters.iter().flat_map(|f| &f.spec.config_patches).any(|p| {
                let m = p.matches.as_ref().and_then(|m| m.proxy.as_ref());
                m.is_some_and(|m| !m.metadata.is_empty())
            }),
            addresses: false,
        }
    }

    /// The same for one proxy: its addresses matter to listeners it binds itself, to those a `Sidecar` binds to the
    /// pod's address, and to listeners per pod of a headless service it belongs to.
    pub fn of(self, snapshot: &Snapshot, proxy: &Proxy, targets: &[ServiceTarget]) -> Self {
        let ingress = snapshot.sidecars.iter().any(|s| *s.namespace == *proxy.namespace && !s.spec.ingress.is_empty());
        let headless = targets.iter().any(|t| t.service.resolution == Resolution::Passthrough);
        let own = proxy.interception == Interception::None;
        LooksAt { addresses: ingress || headless || own, ..self }
    }
}

impl Proxy {
    /// The proxy without what is not looked at.
    pub fn class(&self, looks_at: LooksAt) -> Proxy {
        let mut out = self.clone();
        out.id.clear();
        if !looks_at.addresses {
            out.ips = vec![if self.is_ipv6_only() { "::" } else { "0.0.0.0" }.to_owned()];
        }
        if !looks_at.node {
            out.node_name = Arc::from("");
        }
        // The pod names the service in traces where no label does.
        if ["service.istio.io/canonical-name", "app"].iter().any(|l| self.labels.contains_key(*l)) {
            out.pod = Arc::from("");
        }
        if !looks_at.metadata {
            OF_REPLICA.iter().for_each(|k| drop(out.metadata.fields.remove(*k)));
        }
        out
    }
}
