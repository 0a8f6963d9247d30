//! Which resources declare a service, and which may be its endpoints? Kept beside the resource table so that deriving
//! one service looks at what concerns it and not at its whole namespace. Written by [`Store`](crate::Store) only.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::{Body, Resource};
use names::{Kind, Labels, ResourceKey};

use crate::mesh::MeshConfig;
use crate::registry::{self, Resources, of_kind};
use crate::service::{Service, ServiceKey};

/// Label that ties a slice to its service.
pub(crate) const SLICE_SERVICE: &str = "kubernetes.io/service-name";

type Keys = BTreeSet<ResourceKey>;

/// Look-ups over the resource table.
#[derive(Debug, Default)]
pub struct Index {
    declared: BTreeMap<ResourceKey, Vec<Arc<Service>>>,
    owners: BTreeMap<ServiceKey, Keys>,
    /// Slices by namespace and name of their service.
    slices: BTreeMap<(Arc<str>, Arc<str>), Keys>,
    /// Pods and workload entries by namespace and those labels that selectors begin with.
    workloads: BTreeMap<(Arc<str>, String, String), Keys>,
    /// Label keys that selectors begin with.
    selector_keys: BTreeSet<String>,
}

impl Index {
    /// A resource changed from `old` to `new`.
    pub(crate) fn note(&mut self, old: Option<&Resource>, new: Option<&Resource>) {
        for (resource, gone) in [(old, true), (new, false)] {
            let Some(resource) = resource else { continue };
            let key = resource.key();
            match &resource.body {
                Body::EndpointSlice(_) => {
                    if let Some(service) = resource.meta.labels.get(SLICE_SERVICE) {
                        let place = (key.namespace.clone(), service.as_str().into());
                        edit(&mut self.slices, place, key, gone);
                    }
                }
                Body::Pod(_) | Body::WorkloadEntry(_) => {
                    for (k, v) in labels_of(resource) {
                        if self.selector_keys.contains(k) {
                            let place = (key.namespace.clone(), k.clone(), v.clone());
                            edit(&mut self.workloads, place, key, gone);
                        }
                    }
                }
                _ => {}
            }
        }
    }

    /// Declares the services of a resource anew; returns those before and after.
    pub(crate) fn declare(
        &mut self,
        key: &ResourceKey,
        resources: &Resources,
        mesh: &MeshConfig,
    ) -> (Vec<Arc<Service>>, Vec<Arc<Service>>) {
        let new: Vec<Arc<Service>> = match resources.get(key) {
            Some(r) => registry::services_of(r, mesh).into_iter().map(Arc::new).collect(),
            None => Vec::new(),
        };
        let old = self.declared.remove(key).unwrap_or_default();
        for s in &old {
            edit(&mut self.owners, s.key(), key, true);
        }
        for s in &new {
            edit(&mut self.owners, s.key(), key, false);
            if let Some((k, _)) = s.selector.as_ref().and_then(|s| s.first_key_value()) {
                self.select_by(k, resources);
            }
        }
        if !new.is_empty() {
            self.declared.insert(key.clone(), new.clone());
        }
        (old, new)
    }

    /// All declared services: of Kubernetes first, then of entries; by resource.
    pub(crate) fn declared(&self) -> impl Iterator<Item = &Arc<Service>> {
        let of = |kind: Kind| {
            let entries = self.declared.iter().filter(move |(k, _)| k.kind == kind);
            entries.flat_map(|(_, list)| list.iter())
        };
        of(Kind::Service).chain(of(Kind::ServiceEntry))
    }

    /// Forgets all declarations.
    pub(crate) fn forget_declared(&mut self) {
        self.declared.clear();
        self.owners.clear();
    }

    /// Resources that declare a service, in order.
    pub fn owners(&self, service: &ServiceKey) -> impl Iterator<Item = &ResourceKey> {
        self.owners.get(service).into_iter().flatten()
    }

    /// Slices of a service, in order.
    pub(crate) fn slices(&self, namespace: &Arc<str>, service: &Arc<str>) -> impl Iterator<Item = &ResourceKey> {
        self.slices.get(&(namespace.clone(), service.clone())).into_iter().flatten()
    }

    /// Pods and workload entries of a namespace that a selector may choose, pods first; an empty selector chooses all.
    pub(crate) fn candidates<'a>(
        &'a self,
        namespace: &Arc<str>,
        selector: &Labels,
        kind: &Kind,
        resources: &'a Resources,
    ) -> Vec<&'a Resource> {
        let Some((k, v)) = selector.first_key_value() else {
            return of_kind(resources, kind, Some(namespace)).collect();
        };
        let keys = self.workloads.get(&(namespace.clone(), k.clone(), v.clone()));
        keys.into_iter().flatten().filter(|r| r.kind == *kind).filter_map(|r| resources.get(r)).collect()
    }

    fn select_by(&mut self, label: &str, resources: &Resources) {
        if !self.selector_keys.insert(label.to_owned()) {
            return;
        }
        let pods = of_kind(resources, &Kind::Pod, None);
        for resource in pods.chain(of_kind(resources, &Kind::WorkloadEntry, None)) {
            let found = labels_of(resource).find(|(k, _)| *k == label);
            if let Some((k, v)) = found {
                let place = (resource.key().namespace.clone(), k.clone(), v.clone());
                edit(&mut self.workloads, place, resource.key(), false);
            }
        }
    }
}

/// Labels of a workload; an entry's metadata overrides what it says inside.
fn labels_of(resource: &Resource) -> impl Iterator<Item = (&String, &String)> {
    let inner = match &resource.body {
        Body::WorkloadEntry(e) => Some(&e.labels),
        _ => None,
    };
    let own = &resource.meta.labels;
    own.iter().chain(inner.into_iter().flatten().filter(move |(k, _)| !own.contains_key(*k)))
}

fn edit<P: Ord>(map: &mut BTreeMap<P, Keys>, place: P, key: &ResourceKey, gone: bool) {
    if !gone {
        map.entry(place).or_default().insert(key.clone());
    } else if let Some(set) = map.get_mut(&place) {
        set.remove(key);
        if set.is_empty() {
            map.remove(&place);
        }
    }
}
