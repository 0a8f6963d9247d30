//! Which endpoints come first for a client at a place? Priorities by locality or labels, and weights by distribution.
//! Follows `pilot/pkg/networking/core/loadbalancer`.

use std::collections::BTreeMap;

use api::destination_rule::{LoadBalancerSettings, LocalityLoadBalancerSetting, ZoneAwareLoadBalancerSetting};
use model::service::TrafficDistribution;
use model::{Endpoint, MeshConfig, Proxy, Service};

/// The setting in force: the rule's, else the mesh's; `None` when switched off.
pub fn setting<'a>(
    mesh: &'a MeshConfig,
    lb: Option<&'a LoadBalancerSettings>,
) -> Option<&'a LocalityLoadBalancerSetting> {
    let stated = lb.and_then(|l| l.locality_lb_setting.as_ref()).or(mesh.locality_lb_setting.as_ref())?;
    (stated.enabled != Some(false)).then_some(stated)
}

/// Whether [`group`] looks at the place of the client at all. What it denies makes endpoints equal for all proxies.
pub fn depends_on_client(
    service: &Service,
    setting: Option<&LocalityLoadBalancerSetting>,
    failover_enabled: bool,
) -> bool {
    service.traffic_distribution != TrafficDistribution::Any || setting.is_some() || failover_enabled
}

/// Locality load balancing in force for a service: one of the two kinds, or neither.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Effective {
    /// Failover and distribution by locality.
    pub locality: Option<LocalityLoadBalancerSetting>,
    /// Zone-aware routing by the proxy.
    pub zone_aware: Option<ZoneAwareLoadBalancerSetting>,
    /// Whether priorities hold without outlier detection.
    pub force: bool,
    /// Whether the proxy balances between zones.
    pub routing: bool,
}

/// Labels that `PreferSameZone` prefers, in order.
const SAME_ZONE: [&str; 3] =
    ["topology.istio.io/network", "topology.kubernetes.io/region", "topology.kubernetes.io/zone"];
/// Labels that `PreferSameNode` prefers, in order.
const SAME_NODE: [&str; 4] = [
    "topology.istio.io/network",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "kubernetes.io/hostname",
];

/// What holds for a service: the rule, else the service's own traffic distribution, else the mesh; zone-aware settings
/// before locality settings at each level.
pub fn effective(
    mesh_locality: Option<&LocalityLoadBalancerSetting>,
    mesh_zone_aware: Option<&ZoneAwareLoadBalancerSetting>,
    lb: Option<&LoadBalancerSettings>,
    distribution: TrafficDistribution,
) -> Effective {
    let zone_aware = |z: &ZoneAwareLoadBalancerSetting| {
        let on = z.enabled != Some(false);
        Effective { zone_aware: Some(z.clone()), force: on, routing: on, ..Default::default() }
    };
    let locality = |l: &LocalityLoadBalancerSetting| Effective {
        locality: (l.enabled != Some(false)).then(|| l.clone()),
        ..Default::default()
    };
    if let Some(z) = lb.and_then(|l| l.zone_aware_lb_setting.as_ref()) {
        return zone_aware(z);
    }
    if let Some(l) = lb.and_then(|l| l.locality_lb_setting.as_ref()) {
        return locality(l);
    }
    let preferred: &[&str] = match distribution {
        TrafficDistribution::PreferSameZone => &SAME_ZONE,
        TrafficDistribution::PreferSameNode => &SAME_NODE,
        TrafficDistribution::Any => &[],
    };
    if !preferred.is_empty() {
        let setting = LocalityLoadBalancerSetting {
            enabled: Some(true),
            failover_priority: preferred.iter().map(|l| (*l).to_owned()).collect(),
            ..Default::default()
        };
        return Effective { locality: Some(setting), force: true, ..Default::default() };
    }
    match (mesh_zone_aware, mesh_locality) {
        (Some(z), _) => zone_aware(z),
        (None, Some(l)) => locality(l),
        (None, None) => Effective::default(),
    }
}

/// Endpoints of one locality at one priority.
pub struct Group<'a> {
    /// `region/zone/subzone`.
    pub locality: String,
    /// 0 is tried first.
    pub priority: u32,
    /// Weight among the groups of a priority.
    pub weight: u32,
    /// Its endpoints.
    pub endpoints: Vec<&'a Endpoint>,
}

/// Groups endpoints for a client.
///
/// Failover (by regions or by labels) applies only with outlier detection, as otherwise nothing would ever fail over;
/// a service's own traffic distribution always applies. Priorities come out consecutive.
pub fn group<'a>(
    endpoints: &[&'a Endpoint],
    proxy: &Proxy,
    service: &Service,
    setting: Option<&LocalityLoadBalancerSetting>,
    failover_enabled: bool,
) -> Vec<Group<'a>> {
    let priority = |e: &Endpoint| -> u32 {
        match service.traffic_distribution {
            TrafficDistribution::PreferSameZone => {
                return by_place(&proxy.locality, &e.workload.locality, 2);
            }
            TrafficDistribution::PreferSameNode => {
                let same = !proxy.node_name.is_empty() && proxy.node_name == e.workload.node;
                return if same { 0 } else { 1 + by_place(&proxy.locality, &e.workload.locality, 2) };
            }
            TrafficDistribution::Any => {}
        }
        let Some(setting) = setting.filter(|s| failover_enabled && s.distribute.is_empty()) else {
            let has_default =
                failover_enabled && !proxy.locality.is_empty() && setting.is_none_or(|s| s.distribute.is_empty());
            return if has_default { failover(proxy, e, &[]) } else { 0 };
        };
        if setting.failover_priority.is_empty() {
            if proxy.locality.is_empty() { 0 } else { failover(proxy, e, &setting.failover) }
        } else {
            by_labels(proxy, e, &setting.failover_priority)
        }
    };
    let mut groups: BTreeMap<(u32, &str), Vec<&'a Endpoint>> = BTreeMap::new();
    for &e in endpoints {
        groups.entry((priority(e), &e.workload.locality)).or_default().push(e);
    }
    let mut levels: Vec<u32> = groups.keys().map(|(p, _)| *p).collect();
    levels.dedup();
    let mut out: Vec<Group<'a>> = groups
        .into_iter()
        .map(|((p, locality), endpoints)| Group {
            priority: u32::try_from(levels.iter().position(|l| *l == p).unwrap_or(0)).unwrap_or(0),
            weight: endpoints.iter().map(|e| e.weight.max(1)).sum(),
            locality: locality.to_owned(),
            endpoints,
        })
        .collect();
    if let Some(setting) = setting.filter(|s| !s.distribute.is_empty()) {
        distribute(&mut out, proxy, setting);
    }
    out
}

/// How far apart two places are: 0 same down to `levels` parts, then one more per part that differs.
fn by_place(from: &str, to: &str, levels: usize) -> u32 {
    if from.is_empty() {
        return 0;
    }
    let mut same = 0;
    let (mut a, mut b) = (from.split('/'), to.split('/'));
    while same < levels && a.next().unwrap_or("") == b.next().unwrap_or("") {
        same += 1;
    }
    u32::try_from(levels - same).unwrap_or(0)
}

fn failover(proxy: &Proxy, e: &Endpoint, rules: &[api::destination_rule::Failover]) -> u32 {
    let near = by_place(&proxy.locality, &e.workload.locality, 3);
    if near < 3 {
        return near;
    }
    let region = |l: &str| l.split('/').next().unwrap_or_default().to_owned();
    let own = region(&proxy.locality);
    match rules.iter().find(|f| f.from == own) {
        Some(rule) if rule.to != region(&e.workload.locality) => 4,
        _ => 3,
    }
}

/// One less for every label of the list, from its start, that client and endpoint share.
fn by_labels(proxy: &Proxy, e: &Endpoint, labels: &[String]) -> u32 {
    let place = |locality: &str, at: usize| locality.split('/').nth(at).unwrap_or_default().to_owned();
    let value = |name: &str, labels: &names::Labels, locality: &str, network: &str, node: &str| match name {
        "topology.kubernetes.io/region" => place(locality, 0),
        "topology.kubernetes.io/zone" => place(locality, 1),
        "topology.istio.io/subzone" => place(locality, 2),
        "topology.istio.io/network" => network.to_owned(),
        "kubernetes.io/hostname" => node.to_owned(),
        other => labels.get(other).cloned().unwrap_or_default(),
    };
    let shared = labels.iter().take_while(|label| {
        let (name, wanted) = label.split_once('=').map_or((label.as_str(), None), |(n, v)| (n, Some(v)));
        let w = &e.workload;
        let theirs = value(name, &w.labels, &w.locality, &w.network, &w.node);
        match wanted {
            Some(v) => theirs == v,
            None => theirs == value(name, &proxy.labels, &proxy.locality, &proxy.network, &proxy.node_name),
        }
    });
    u32::try_from(labels.len() - shared.count()).unwrap_or(0)
}

/// Whether a pattern such as `region/*` or `region/zone` covers a locality.
pub fn covers(pattern: &str, locality: &str) -> bool {
    let mut parts = locality.split('/');
    for p in pattern.split('/') {
        let part = parts.next().unwrap_or("");
        if p == "*" {
            return true;
        }
        if p != part {
            return false;
        }
    }
    true
}

fn distribute(groups: &mut Vec<Group<'_>>, proxy: &Proxy, setting: &LocalityLoadBalancerSetting) {
    let Some(rule) = setting.distribute.iter().find(|d| covers(&d.from, &proxy.locality)) else {
        return;
    };
    // The longest pattern that covers a locality decides.
    let pattern_of = |locality: &str| rule.to.keys().filter(|p| covers(p, locality)).max_by_key(|p| p.len()).cloned();
    let mut totals: BTreeMap<String, u32> = BTreeMap::new();
    for g in groups.iter() {
        if let Some(p) = pattern_of(&g.locality) {
            *totals.entry(p).or_default() += g.weight;
        }
    }
    groups.retain_mut(|g| {
        let Some(p) = pattern_of(&g.locality) else {
            return false;
        };
        let share = f64::from(rule.to[&p]) * f64::from(g.weight) / f64::from(totals[&p].max(1));
        g.weight = share.ceil() as u32;
        g.priority = 0;
        g.weight > 0
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        assert_eq!(by_place("r/z/s", "r/z/s", 3), 0);
        assert_eq!(by_place("r/z/s", "r/z/t", 3), 1);
        assert_eq!(by_place("r/z", "q/z", 3), 3);
        assert!(covers("r/*", "r/z/s") && covers("r/z", "r/z/s") && !covers("r/y", "r/z/s") && covers("*", "r"));
    }
}
