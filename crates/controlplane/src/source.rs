//! What should one connected proxy have? Its view of the snapshot, translated type by type when asked for.
//!
//! A proxy's view is rebuilt only when a change can concern it, its endpoints only for the services that moved.
//! Equal resources of different proxies are one allocation.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, Weak};

use model::{Delta, Proxy, ProxyView};
use names::{ClusterName, Hostname, Identity};
use protos::envoy::config::core::v3::Node;
use tonic::Status;
use translate::{Inputs, NamedResource};
use xds::server::{Kind, Resource, ResourceSet, Want};
use xds_server::{Change, Source};

use crate::world::World;

/// A change of the world, as the hub hands it on.
#[derive(Debug, Clone)]
pub struct Moved(pub Delta);

impl Change for Moved {
    fn merge(&mut self, later: &Self) {
        self.0.merge(later.0.clone());
    }
}

/// Translates the world for connected proxies.
#[derive(Debug)]
pub struct ModelSource {
    world: Arc<World>,
    interned: Mutex<Interner>,
}

/// One connected proxy.
#[derive(Debug)]
pub struct Connected {
    proxy: Arc<Proxy>,
    inputs: Inputs,
    endpoints: BTreeMap<Arc<str>, Arc<Resource>>,
}

impl ModelSource {
    /// Over this world.
    pub fn new(world: Arc<World>) -> Self {
        ModelSource { world, interned: Mutex::default() }
    }

    fn view(&self, proxy: &Arc<Proxy>) -> Inputs {
        let snapshot = self.world.snapshot();
        let mut scopes = self.world.scopes.lock().unwrap_or_else(|e| e.into_inner());
        Inputs::new(Arc::new(ProxyView::with_cache(&snapshot, proxy, &mut scopes)))
    }

    fn intern(&self, kind: Kind, list: Vec<NamedResource>) -> impl Iterator<Item = Arc<Resource>> {
        let made = list.into_iter().map(|r| Resource::new(r.name, r.resource.value));
        let mut interned = self.interned.lock().unwrap_or_else(|e| e.into_inner());
        made.map(|r| interned.intern(kind, r)).collect::<Vec<_>>().into_iter()
    }

    fn endpoints(&self, connected: &mut Connected, names: &BTreeSet<Arc<str>>) -> ResourceSet {
        connected.endpoints.retain(|n, _| names.contains(n));
        let missing = names.iter().filter(|n| !connected.endpoints.contains_key(*n));
        let missing: Vec<String> = missing.map(|n| n.to_string()).collect();
        let made = self.intern(Kind::Endpoint, translate::endpoints(&connected.inputs, &missing));
        connected.endpoints.extend(made.map(|r| (Arc::clone(&r.name), r)));
        connected.endpoints.values().cloned().collect()
    }
}

impl Source for ModelSource {
    type Proxy = Connected;
    type Change = Moved;

    fn connect(&self, node: &Node, identities: &[String]) -> Result<Connected, Status> {
        let locality = node.locality.as_ref();
        let locality = locality.map(|l| [l.region.as_str(), &l.zone, &l.sub_zone].join("/")).unwrap_or_default();
        let locality = locality.trim_end_matches('/');
        let metadata = node.metadata.clone().unwrap_or_default();
        let proxy =
            Proxy::from_node(&node.id, &metadata, locality).map_err(|e| Status::invalid_argument(e.to_string()))?;
        authorize(&proxy, identities)?;
        let proxy = Arc::new(proxy);
        Ok(Connected { inputs: self.view(&proxy), proxy, endpoints: BTreeMap::new() })
    }

    fn update(&self, connected: &mut Connected, Moved(delta): &Moved) -> Vec<Kind> {
        // Old and new scope both decide: what was seen may have gone, what was not may have come.
        let affected = connected.inputs.view.is_affected_by(delta);
        let inputs = self.view(&connected.proxy);
        if !affected && !inputs.view.is_affected_by(delta) {
            return Vec::new();
        }
        connected.inputs = inputs;
        let own = connected.proxy.ips.iter().any(|ip| delta.workloads.contains(ip.as_str()));
        let kinds = concerned(delta, own);
        if delta.only_endpoints() && !own {
            let moved: BTreeSet<&Hostname> = delta.endpoints.iter().map(|k| &k.hostname).collect();
            connected.endpoints.retain(|name, _| host(name).is_some_and(|h| !moved.contains(&h)));
        } else if kinds.contains(&Kind::Endpoint) {
            connected.endpoints.clear();
        }
        kinds
    }

    fn generate(&self, connected: &mut Connected, want: &Want<'_>) -> Arc<ResourceSet> {
        let inputs = &connected.inputs;
        let names = || want.names.iter().map(|n| n.to_string()).collect::<Vec<_>>();
        let list = match want.kind {
            Kind::Endpoint => return Arc::new(self.endpoints(connected, want.names)),
            Kind::Cluster => translate::clusters(inputs),
            Kind::Listener => translate::listeners(inputs),
            Kind::Route => translate::routes(inputs, &names()),
            Kind::Secret => translate::secrets(inputs, &names()),
            Kind::NameTable => vec![translate::name_table(inputs)],
            _ => Vec::new(),
        };
        Arc::new(self.intern(want.kind, list).collect())
    }
}

/// A proxy may only be what its identity says: namespace and, where known, service account.
fn authorize(proxy: &Proxy, identities: &[String]) -> Result<(), Status> {
    if identities.is_empty() {
        return Ok(());
    }
    let matches = |id: &Identity| {
        id.namespace == proxy.namespace
            && (proxy.service_account.is_empty() || id.service_account == proxy.service_account)
    };
    if identities.iter().filter_map(|i| i.parse().ok()).any(|i| matches(&i)) {
        return Ok(());
    }
    let (namespace, account) = (&proxy.namespace, &proxy.service_account);
    Err(Status::permission_denied(format!(
        "authorization failed: no identities ({identities:?}) matched {namespace}/{account}"
    )))
}

/// Which types a change can concern. `own`: the proxy's own workload moved.
fn concerned(delta: &Delta, own: bool) -> Vec<Kind> {
    use names::Kind as Config;
    let all = vec![Kind::Cluster, Kind::Endpoint, Kind::Listener, Kind::Route, Kind::Secret, Kind::NameTable];
    if delta.everything || !delta.services.is_empty() || own {
        return all;
    }
    let mut kinds = BTreeSet::new();
    for key in &delta.configs {
        kinds.extend(match &key.kind {
            Config::Secret | Config::ConfigMap => vec![Kind::Secret],
            Config::AuthorizationPolicy | Config::RequestAuthentication => {
                vec![Kind::Listener, Kind::Cluster]
            }
            Config::Telemetry => vec![Kind::Listener, Kind::Route],
            Config::PeerAuthentication => vec![Kind::Listener, Kind::Cluster, Kind::Endpoint],
            Config::DestinationRule => {
                vec![Kind::Cluster, Kind::Endpoint, Kind::Listener, Kind::Route]
            }
            Config::Gateway => vec![Kind::Listener, Kind::Route, Kind::Cluster, Kind::Endpoint, Kind::Secret],
            _ => all.clone(),
        });
    }
    if !delta.endpoints.is_empty() {
        kinds.extend([Kind::Endpoint, Kind::NameTable]);
    }
    kinds.into_iter().collect()
}

fn host(cluster: &str) -> Option<Hostname> {
    Some(cluster.parse::<ClusterName>().ok()?.host)
}

/// Finds equal resources. Dead entries are swept when the table has doubled.
#[derive(Debug, Default)]
struct Interner {
    table: HashMap<(Kind, u64), Weak<Resource>>,
    sweep_at: usize,
}

impl Interner {
    fn intern(&mut self, kind: Kind, resource: Arc<Resource>) -> Arc<Resource> {
        let key = (kind, resource.version);
        if let Some(known) = self.table.get(&key).and_then(Weak::upgrade)
            && *known == *resource
        {
            return known;
        }
        if self.table.len() >= self.sweep_at {
            self.table.retain(|_, r| r.strong_count() > 0);
            self.sweep_at = (self.table.len() * 2).max(1024);
        }
        self.table.insert(key, Arc::downgrade(&resource));
        resource
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_resources_are_one_and_dead_ones_are_forgotten() {
        let mut interner = Interner::default();
        let make = |text: &str| Resource::new("n", text.as_bytes().to_vec());
        let first = interner.intern(Kind::Cluster, make("a"));
        assert!(Arc::ptr_eq(&first, &interner.intern(Kind::Cluster, make("a"))));
        assert!(!Arc::ptr_eq(&first, &interner.intern(Kind::Listener, make("a"))));
        for i in 0..10_000 {
            interner.intern(Kind::Route, make(&i.to_string()));
        }
        assert!(interner.table.len() < 2_000, "{}", interner.table.len());
    }
}
