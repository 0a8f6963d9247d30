//! What did the mesh make of each resource: which one counts, which is shadowed, which was merged into another, what
//! refers to nothing? For statuses and debug pages; pushes never wait for it. Pure over a [`Snapshot`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use names::well_known::MESH_GATEWAY;
use names::{Hostname, Kind, Labels, ResourceKey};

use crate::config::Config;
use crate::service::Registry;
use crate::snapshot::Snapshot;

/// Findings kept for one resource; more say nothing new.
const FINDINGS_MAX: usize = 32;

/// What kind of finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// An older or nearer resource counts instead, in whole or in part.
    Shadowed,
    /// Its content counts as part of another resource.
    Merged,
    /// It refers to something that does not exist.
    NotFound,
}

impl Reason {
    /// The word in conditions.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Shadowed => "Shadowed",
            Reason::Merged => "Merged",
            Reason::NotFound => "ReferenceNotFound",
        }
    }
}

/// One thing to know about a resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// What kind.
    pub reason: Reason,
    /// Which part, by what other resource.
    pub message: String,
}

/// Findings by resource; those without any are absent.
pub type Findings = BTreeMap<ResourceKey, Vec<Finding>>;

struct Notes(Findings);

impl Notes {
    fn add(&mut self, kind: Kind, namespace: &str, name: &str, reason: Reason, message: String) {
        let list = self.0.entry(ResourceKey::new(kind, namespace, name)).or_default();
        let finding = Finding { reason, message };
        if list.len() < FINDINGS_MAX && !list.contains(&finding) {
            list.push(finding);
        }
    }

    fn of<T>(&mut self, config: &Config<T>, reason: Reason, message: String) {
        self.add(config.kind.clone(), &config.namespace, &config.name, reason, message);
    }
}

/// Everything worth telling.
pub fn findings(snapshot: &Snapshot) -> Findings {
    let mut notes = Notes(Findings::new());
    virtual_services(snapshot, &mut notes);
    destination_rules(snapshot, &mut notes);
    gateways(snapshot, &mut notes);
    services(snapshot, &mut notes);
    let root = &snapshot.mesh.root_namespace;
    let none = Labels::new();
    one_per_scope(&snapshot.peer_authentications, &mut notes, |p| {
        p.selector.as_ref().map_or_else(|| none.clone(), |s| s.match_labels.clone())
    });
    one_per_scope(&snapshot.telemetries, &mut notes, |t| {
        t.selector.as_ref().map_or_else(|| none.clone(), |s| s.match_labels.clone())
    });
    one_per_scope(&snapshot.sidecars, &mut notes, |s| {
        s.workload_selector.as_ref().map_or_else(|| none.clone(), |s| s.labels.clone())
    });
    for s in snapshot.sidecars.iter().filter(|s| *s.namespace == **root) {
        let selects = s.spec.workload_selector.as_ref().is_some_and(|s| !s.labels.is_empty());
        if selects {
            let message =
                format!("selects workloads of {root} only; without workloadSelector it would hold everywhere");
            notes.of(s, Reason::Shadowed, message);
        }
    }
    notes.0
}

/// Of resources of which one counts per namespace and selection, all but the oldest.
fn one_per_scope<T>(list: &[Arc<Config<T>>], notes: &mut Notes, selection: impl Fn(&T) -> Labels) {
    let mut first: BTreeMap<(Arc<str>, Labels), &Arc<Config<T>>> = BTreeMap::new();
    for config in list {
        match first.entry((config.namespace.clone(), selection(&config.spec))) {
            std::collections::btree_map::Entry::Vacant(free) => {
                free.insert(config);
            }
            std::collections::btree_map::Entry::Occupied(taken) => {
                let message = format!("{} is older and selects the same workloads", taken.get().qualified());
                notes.of(config, Reason::Shadowed, message);
            }
        }
    }
}

/// On the mesh gateway one virtual service counts per host; on others they are joined. Delegates and gateways must exist.
fn virtual_services(snapshot: &Snapshot, notes: &mut Notes) {
    let mut first: BTreeMap<(Hostname, crate::service::Visibility), String> = BTreeMap::new();
    let known: BTreeSet<String> = snapshot.gateways.iter().map(|g| g.qualified()).collect();
    for v in snapshot.virtual_services.iter() {
        for gateway in v.config.spec.gateways.iter().filter(|g| *g != MESH_GATEWAY && !known.contains(*g)) {
            notes.of(&v.config, Reason::NotFound, format!("Gateway {gateway} does not exist"));
        }
        for delegate in &v.missing_delegates {
            let message = format!("delegate VirtualService {delegate} does not exist or is not exported here");
            notes.of(&v.config, Reason::NotFound, message);
        }
        for delegate in &v.delegates {
            if let Some((namespace, name)) = delegate.split_once('/') {
                let message = format!("its routes are part of {}", v.config.qualified());
                notes.add(Kind::VirtualService, namespace, name, Reason::Merged, message);
            }
        }
        if !v.config.spec.gateways.iter().any(|g| g == MESH_GATEWAY) {
            continue;
        }
        for host in &v.hosts {
            let key = (host.clone(), v.visibility.clone());
            match first.get(&key) {
                Some(older) => {
                    let message = format!("host {host}: {older} is older; only its rules hold for sidecars");
                    notes.of(&v.config, Reason::Shadowed, message);
                }
                None => {
                    first.insert(key, v.config.qualified());
                }
            }
        }
    }
}

/// Rules of one host are merged into the oldest: new subsets are taken over, a second traffic policy is not.
fn destination_rules(snapshot: &Snapshot, notes: &mut Notes) {
    for rule in snapshot.destination_rules.iter() {
        for (subset, other) in &rule.duplicates {
            if let Some((namespace, name)) = other.split_once('/') {
                let message = format!("subset {subset}: {} is older and has it", rule.config.qualified());
                notes.add(Kind::DestinationRule, namespace, name, Reason::Shadowed, message);
            }
        }
        // What a rule for chosen workloads takes from the one for all is not lost to that one.
        let general: Vec<&String> = match rule.config.spec.workload_selector {
            Some(_) => snapshot
                .destination_rules
                .iter()
                .filter(|r| r.config.spec.workload_selector.is_none())
                .flat_map(|r| &r.from)
                .collect(),
            None => Vec::new(),
        };
        let Some((oldest, others)) = rule.from.split_first() else {
            continue;
        };
        for other in others.iter().filter(|o| !general.contains(o)) {
            let Some((namespace, name)) = other.split_once('/') else {
                continue;
            };
            let host = &rule.config.spec.host;
            let message =
                format!("host {host}: merged into {oldest}; its trafficPolicy and the subsets it has count first");
            notes.add(Kind::DestinationRule, namespace, name, Reason::Merged, message);
        }
    }
}

/// Servers that an older gateway keeps from being served, for each set of labels that some gateway selects.
fn gateways(snapshot: &Snapshot, notes: &mut Notes) {
    let selectors: BTreeSet<&Labels> = snapshot.gateways.iter().map(|g| &g.spec.selector).collect();
    for labels in selectors {
        let proxy = crate::Proxy::new(names::NodeType::Router, "0.0.0.0", "", labels.clone());
        for (what, reason) in crate::gateway::merge(&snapshot.gateways, &proxy, &[]).rejected {
            let Some((gateway, port)) = what.split_once(' ') else {
                continue;
            };
            if let Some((namespace, name)) = gateway.split_once('/') {
                notes.add(Kind::Gateway, namespace, name, Reason::Shadowed, format!("{port}: {reason}"));
            }
        }
    }
}

/// A host is declared once per namespace, and Kubernetes's services come before entries.
fn services(snapshot: &Snapshot, notes: &mut Notes) {
    for s in snapshot.services.iter().filter(|s| s.registry == Registry::External) {
        let by_namespace = snapshot.by_host.get(&s.hostname);
        let kubernetes = by_namespace.into_iter().flatten().find(|(_, k)| k.registry == Registry::Kubernetes);
        if let Some((namespace, _)) = kubernetes.filter(|(ns, _)| **ns != s.namespace) {
            let message =
                format!("host {}: the Kubernetes service of namespace {namespace} counts elsewhere", s.hostname);
            notes.add(Kind::ServiceEntry, &s.namespace, &s.resource, Reason::Shadowed, message);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{Change, MeshConfig, Store};

    fn resource(kind: &str, name: &str, second: u32, spec: Value) -> Change {
        let group = if kind == "PeerAuthentication" { "security.istio.io/v1" } else { "networking.istio.io/v1" };
        let value = json!({"apiVersion": group, "kind": kind, "spec": spec, "metadata": {"name": name,
            "namespace": "ns", "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z")}});
        Change::Apply(api::Resource::from_value(value, None, "ns").expect("valid"))
    }

    fn told(changes: Vec<Change>) -> Vec<(String, &'static str)> {
        let mut store = Store::new(MeshConfig::default());
        store.apply(changes);
        let all = findings(&store.snapshot());
        all.into_iter()
            .flat_map(|(k, list)| list.into_iter().map(move |f| (k.name.to_string(), f.reason.as_str())))
            .collect()
    }

    #[test]
    fn older_ones_count() {
        let route = json!([{"route": [{"destination": {"host": "web"}}]}]);
        let vs = |name, second| resource("VirtualService", name, second, json!({"hosts": ["web"], "http": route}));
        assert_eq!(told(vec![vs("young", 2), vs("old", 1)]), [("young".to_owned(), "Shadowed")]);
        let dr = |name, second| resource("DestinationRule", name, second, json!({"host": "web"}));
        assert_eq!(told(vec![dr("young", 2), dr("old", 1)]), [("young".to_owned(), "Merged")]);
        let with = |name, second| {
            let subsets = json!([{"name": "v1", "labels": {"version": name}}]);
            resource("DestinationRule", name, second, json!({"host": "web", "subsets": subsets}))
        };
        let got = told(vec![with("young", 2), with("old", 1)]);
        assert_eq!(got, [("young".to_owned(), "Shadowed"), ("young".to_owned(), "Merged")]);
        let pa = |name, second| resource("PeerAuthentication", name, second, json!({"mtls": {"mode": "STRICT"}}));
        assert_eq!(told(vec![pa("young", 2), pa("old", 1)]), [("young".to_owned(), "Shadowed")]);
    }

    #[test]
    fn references_are_looked_up() {
        let spec = json!({"hosts": ["a.example"], "gateways": ["none"],
            "http": [{"delegate": {"name": "gone"}}]});
        let got = told(vec![resource("VirtualService", "vs", 1, spec)]);
        assert_eq!(got, [("vs".to_owned(), "ReferenceNotFound"), ("vs".to_owned(), "ReferenceNotFound")]);
    }

    #[test]
    fn gateway_conflicts_are_told() {
        let gw = |name, second| {
            let server = json!({"port": {"number": 443, "name": "https", "protocol": "HTTPS"}, "hosts": ["a.example"],
                "tls": {"mode": "SIMPLE", "credentialName": "c"}});
            resource("Gateway", name, second, json!({"selector": {"istio": "gw"}, "servers": [server]}))
        };
        assert_eq!(told(vec![gw("young", 2), gw("old", 1)]), [("young".to_owned(), "Shadowed")]);
    }
}
