//! What should one connected proxy have? The resources of its view, which it shares with all proxies that see the same.
//!
//! Proxies of one class with the same ports share one [`Translation`] per snapshot; the next snapshot's starts from the
//! last one's. A proxy's view is exchanged only when a change can concern it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use model::{Delta, LooksAt, Proxy, ProxyView, ServiceTarget, Snapshot};
use names::Identity;
use protos::envoy::config::core::v3::Node;
use tonic::Status;
use translate::Inputs;
use translate::incremental::{Memo, Translation, encoded};
use xds::server::{Kind, Resource, ResourceSet, Want};
use xds_server::{Change, Source};

use crate::world::World;

/// A change of the world, as the hub hands it on.
#[derive(Debug, Clone)]
pub struct Moved(pub Arc<Delta>);

impl Change for Moved {
    fn merge(&mut self, later: &Self) {
        Arc::make_mut(&mut self.0).merge((*later.0).clone());
    }
}

/// Translates the world for connected proxies.
#[derive(Debug)]
pub struct ModelSource {
    world: Arc<World>,
    memo: Arc<Memo>,
    views: Mutex<Views>,
}

/// Views of the current snapshot, and the classes of connected proxies.
#[derive(Debug, Default)]
struct Views {
    /// Version of the snapshot that `current` and `looks_at` are of.
    version: u64,
    looks_at: LooksAt,
    /// By the address of the class, which is compared and never followed.
    current: HashMap<usize, Vec<Weak<Translation>>>,
    /// By everything that is in them.
    classes: HashMap<String, Weak<Proxy>>,
    sweep_at: usize,
}

/// What a proxy looks at, and the proxy that stands for all that look at the same.
type ClassOf = (LooksAt, Arc<Proxy>);

/// One connected proxy.
#[derive(Debug)]
pub struct Connected {
    proxy: Arc<Proxy>,
    class: ClassOf,
    view: Arc<Translation>,
    endpoints: Further,
    routes: Further,
}

/// Names that a proxy asks for beside those that its view refers to: listeners that drain still ask for their routes,
/// patched clusters for endpoints of services. Compared again only when either side changed.
#[derive(Debug, Default)]
struct Further {
    asked: u64,
    known: Vec<Arc<str>>,
    of: Option<Arc<[Arc<str>]>>,
}

impl ModelSource {
    /// Over this world.
    pub fn new(world: Arc<World>) -> Self {
        ModelSource { world, memo: Arc::default(), views: Mutex::default() }
    }

    fn views(&self, snapshot: &Snapshot) -> MutexGuard<'_, Views> {
        // A panic elsewhere leaves finished views behind, which stay right.
        let mut views = self.views.lock().unwrap_or_else(|e| e.into_inner());
        if views.version != snapshot.version {
            views.version = snapshot.version;
            views.looks_at = LooksAt::anyone(snapshot);
            views.current.clear();
        }
        views
    }

    /// The view of a proxy in the current snapshot. `last`: the class and view it had.
    fn view(&self, proxy: &Proxy, last: Option<(&ClassOf, &Arc<Translation>)>) -> (ClassOf, Arc<Translation>) {
        let snapshot = self.world.snapshot();
        let jwks = self.world.jwks.load_full();
        let targets = model::view::targets(&snapshot, proxy);
        let mut views = self.views(&snapshot);
        let looks_at = views.looks_at.of(&snapshot, proxy, &targets);
        let class = match last {
            Some(((at, class), _)) if *at == looks_at => Arc::clone(class),
            _ => views.class(proxy.class(looks_at)),
        };
        let translation = views.translation(&snapshot, &class, targets, &jwks, |targets| {
            let mut scopes = self.world.scopes.lock().unwrap_or_else(|e| e.into_inner());
            let view = ProxyView::of_class(&snapshot, &class, targets, &mut scopes);
            let last = last.map(|(_, view)| &**view);
            let inputs = Inputs::new(Arc::new(view)).with_jwks(Arc::clone(&jwks));
            Translation::new(inputs, Arc::clone(&self.memo), last)
        });
        ((looks_at, class), translation)
    }

    /// The memo, for debug and metrics.
    pub fn memo(&self) -> &Memo {
        &self.memo
    }
}

impl Views {
    fn class(&mut self, proxy: Proxy) -> Arc<Proxy> {
        let key = format!("{proxy:?}");
        if let Some(known) = self.classes.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        if self.classes.len() >= self.sweep_at {
            self.classes.retain(|_, c| c.strong_count() > 0);
            self.sweep_at = (self.classes.len() * 2).max(64);
        }
        let class = Arc::new(proxy);
        self.classes.insert(key, Arc::downgrade(&class));
        class
    }

    fn translation(
        &mut self,
        snapshot: &Arc<Snapshot>,
        class: &Arc<Proxy>,
        targets: Vec<ServiceTarget>,
        jwks: &Arc<BTreeMap<String, String>>,
        make: impl FnOnce(Vec<ServiceTarget>) -> Translation,
    ) -> Arc<Translation> {
        // Another thread may have moved on to a newer snapshot.
        let current = self.version == snapshot.version;
        let list = self.current.entry(Arc::as_ptr(class) as usize).or_default();
        let same = |t: &Arc<Translation>| {
            Arc::ptr_eq(&t.inputs().view.snapshot, snapshot)
                && Arc::ptr_eq(&t.inputs().jwks, jwks)
                && t.inputs().view.targets == targets
        };
        if let Some(known) = list.iter().filter_map(Weak::upgrade).find(same) {
            return known;
        }
        let made = Arc::new(make(targets));
        if current {
            list.retain(|t| t.strong_count() > 0);
            list.push(Arc::downgrade(&made));
        }
        made
    }
}

impl Further {
    /// The wanted names that are not among `names`.
    fn of(&mut self, want: &Want<'_>, names: &Arc<[Arc<str>]>) -> &[Arc<str>] {
        let same = self.of.as_ref().is_some_and(|of| Arc::ptr_eq(of, names));
        if self.asked != want.asked || !same {
            let known = |n: &&Arc<str>| names.binary_search(*n).is_err();
            self.known = want.names.iter().filter(known).cloned().collect();
            self.asked = want.asked;
            self.of = Some(Arc::clone(names));
        }
        &self.known
    }
}

fn with(set: Arc<ResourceSet>, further: Vec<Arc<Resource>>) -> Arc<ResourceSet> {
    if further.is_empty() {
        return set;
    }
    Arc::new(set.patched(std::iter::empty(), further.iter()))
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
        let (class, view) = self.view(&proxy, None);
        Ok(Connected { proxy: Arc::new(proxy), class, view, endpoints: Further::default(), routes: Further::default() })
    }

    fn update(&self, connected: &mut Connected, Moved(delta): &Moved) -> Vec<Kind> {
        // Old and new scope both decide: what was seen may have gone, what was not may have come.
        let own = connected.proxy.ips.iter().any(|ip| delta.workloads.contains(ip.as_str()));
        let affected = own || connected.view.inputs().view.is_affected_by(delta);
        let (class, view) = self.view(&connected.proxy, Some((&connected.class, &connected.view)));
        let affected = affected || view.inputs().view.is_affected_by(delta);
        (connected.class, connected.view) = (class, view);
        if affected { concerned(delta, own) } else { Vec::new() }
    }

    fn generate(&self, connected: &mut Connected, want: &Want<'_>) -> Arc<ResourceSet> {
        let view = &connected.view;
        let names = || want.names.iter().map(|n| n.to_string()).collect::<Vec<_>>();
        let list = match want.kind {
            Kind::Cluster => return view.clusters(),
            Kind::Listener => return view.listeners(),
            Kind::NameTable => return view.name_table(),
            Kind::Endpoint => {
                let (names, set) = view.endpoint_names_and_set();
                let further = connected.endpoints.of(want, &names);
                return with(set, further.iter().filter_map(|n| view.endpoint(n)).collect());
            }
            Kind::Route => {
                let (names, set) = view.routes_as_sent();
                let further = connected.routes.of(want, &names);
                return with(set, further.iter().map(|n| view.as_sent(view.route(n))).collect());
            }
            Kind::VirtualHost => return Arc::new(want.names.iter().filter_map(|n| view.virtual_host(n)).collect()),
            Kind::Secret => translate::secrets(view.inputs(), &names()),
            Kind::Extension => translate::extension_configs(view.inputs(), &names()),
            _ => Vec::new(),
        };
        Arc::new(encoded(list).map(|r| self.memo.intern(r)).collect())
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
    let all = vec![
        Kind::Cluster,
        Kind::Endpoint,
        Kind::Listener,
        Kind::Route,
        Kind::VirtualHost,
        Kind::Secret,
        Kind::Extension,
        Kind::NameTable,
    ];
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
            Config::EnvoyFilter => all.iter().copied().chain([Kind::Extension]).collect(),
            Config::Telemetry => vec![Kind::Listener, Kind::Route, Kind::VirtualHost],
            Config::PeerAuthentication => vec![Kind::Listener, Kind::Cluster, Kind::Endpoint],
            Config::DestinationRule => {
                vec![Kind::Cluster, Kind::Endpoint, Kind::Listener, Kind::Route, Kind::VirtualHost]
            }
            Config::Gateway => {
                vec![Kind::Listener, Kind::Route, Kind::VirtualHost, Kind::Cluster, Kind::Endpoint, Kind::Secret]
            }
            _ => all.clone(),
        });
    }
    if !delta.endpoints.is_empty() {
        kinds.extend([Kind::Endpoint, Kind::NameTable]);
    }
    kinds.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::Input;
    use model::MeshConfig;
    use serde_json::{Value, json};
    use source_file::{Batch, Event};

    fn apply(world: &World, value: Value) -> Delta {
        let resource = api::Resource::from_value(value, None, "a").expect("a resource");
        let delta = world.apply(Input::Files(Batch { events: vec![Event::Applied(resource)], ..Default::default() }));
        world.publish();
        delta
    }

    fn service(name: &str, port: u16) -> Value {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "a"},
            "spec": {"clusterIP": "10.0.0.9", "selector": {"app": name}, "ports": [{"name": "http", "port": port}]}})
    }

    fn connect(source: &ModelSource, ip: &str, namespace: &str, app: &str) -> Connected {
        let text = |t: &str| prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(t.to_owned())) };
        let labels = prost_types::Struct { fields: [("app".to_owned(), text(app))].into() };
        let labels = prost_types::Value { kind: Some(prost_types::value::Kind::StructValue(labels)) };
        let fields =
            [("LABELS".to_owned(), labels), ("INSTANCE_IPS".to_owned(), text(ip)), ("NAME".to_owned(), text(ip))];
        let node = Node {
            id: format!("sidecar~{ip}~{app}-{ip}.{namespace}~{namespace}.svc.cluster.local"),
            metadata: Some(prost_types::Struct { fields: fields.into() }),
            ..Default::default()
        };
        source.connect(&node, &[]).expect("a node")
    }

    fn clusters(source: &ModelSource, proxy: &mut Connected) -> Arc<ResourceSet> {
        let names = BTreeSet::new();
        source.generate(proxy, &Want { kind: Kind::Cluster, wildcard: true, names: &names, asked: 0 })
    }

    fn hosts(source: &ModelSource, proxy: &mut Connected, kind: Kind, names: &[&str]) -> Arc<ResourceSet> {
        let names = names.iter().map(|n| Arc::from(*n)).collect();
        source.generate(proxy, &Want { kind, wildcard: false, names: &names, asked: 1 })
    }

    #[test]
    fn virtual_hosts_come_one_by_one_to_proxies_that_can_ask() {
        use prost::Message as _;
        use protos::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
        let mesh = json!({"onDemandVirtualHosts": true});
        let world = World::new(MeshConfig::from_json(&mesh));
        apply(&world, service("web", 80));
        apply(&world, service("shop", 80));
        let source = ModelSource::new(Arc::clone(&world));
        let mut able = connect(&source, "10.1.0.1", "a", "x");
        let mut proxy = (*able.proxy).clone();
        proxy.capabilities.on_demand_hosts = true;
        (able.class, able.view) = source.view(&proxy, None);
        able.proxy = Arc::new(proxy);
        let mut other = connect(&source, "10.1.0.2", "a", "x");
        let routes = |proxy: &mut Connected| {
            let set = hosts(&source, proxy, Kind::Route, &["80"]);
            RouteConfiguration::decode(&*set.get("80").expect("there").value.in_one_run()).expect("well formed")
        };
        assert!(routes(&mut other).vhds.is_none() && routes(&mut other).virtual_hosts.len() > 2);
        assert!(routes(&mut able).vhds.is_some() && routes(&mut able).virtual_hosts.is_empty());
        let names = ["80/web.a", "80/unknown.org:80", "nothing/web.a", "80/late.a"];
        let named = |set: &ResourceSet, name: &str| {
            let value = &set.get(name).expect("there").value;
            (!value.is_empty()).then(|| VirtualHost::decode(&*value.in_one_run()).expect("well formed").name)
        };
        let before = hosts(&source, &mut able, Kind::VirtualHost, &names);
        assert_eq!(named(&before, "80/web.a").as_deref(), Some("web.a.svc.cluster.local:80"));
        assert_eq!(named(&before, "80/unknown.org:80").as_deref(), Some("allow_any"));
        assert_eq!(named(&before, "nothing/web.a"), None);
        // A service that comes changes the host that was asked for in its place, and nothing else.
        let moved = Moved(Arc::new(apply(&world, service("late", 80))));
        assert!(source.update(&mut able, &moved).contains(&Kind::VirtualHost));
        let slim = hosts(&source, &mut able, Kind::Route, &["80"]);
        let after = hosts(&source, &mut able, Kind::VirtualHost, &names);
        let changed: Vec<_> = after.changes_since(&before).changed.iter().map(|r| r.name.to_string()).collect();
        assert_eq!(changed, ["80/late.a"]);
        assert_eq!(named(&after, "80/late.a").as_deref(), Some("late.a.svc.cluster.local:80"));
        assert_eq!(hosts(&source, &mut able, Kind::Route, &["80"]), slim);
        assert!(routes(&mut able).virtual_hosts.is_empty());
    }

    #[test]
    fn replicas_share_what_they_get_and_a_change_costs_one_set() {
        let world = World::new(MeshConfig::default());
        apply(&world, service("web", 80));
        let source = ModelSource::new(Arc::clone(&world));
        let mut replicas = [connect(&source, "10.1.0.1", "a", "x"), connect(&source, "10.1.0.2", "a", "x")];
        let mut other = connect(&source, "10.1.0.3", "b", "x");
        let before = replicas.each_mut().map(|p| clusters(&source, p));
        assert!(Arc::ptr_eq(&before[0], &before[1]));
        assert!(!Arc::ptr_eq(&replicas[0].view, &other.view));
        // Equal clusters of different views are one allocation each.
        let elsewhere = clusters(&source, &mut other);
        let name = "outbound|80||web.a.svc.cluster.local";
        assert!(Arc::ptr_eq(before[0].get(name).expect("there"), elsewhere.get(name).expect("there")));

        let moved = Moved(Arc::new(apply(&world, service("shop", 8080))));
        for p in &mut replicas {
            assert!(source.update(p, &moved).contains(&Kind::Cluster));
        }
        let after = replicas.each_mut().map(|p| clusters(&source, p));
        assert!(Arc::ptr_eq(&after[0], &after[1]));
        let changes = after[0].changes_since(&before[0]);
        let changed: Vec<_> = changes.changed.iter().map(|r| &*r.name).collect();
        assert_eq!((changed, changes.removed.len()), (vec!["outbound|8080||shop.a.svc.cluster.local"], 0));
        // Nothing of this concerns a policy of another namespace.
        let policy = json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": {"name": "p", "namespace": "b"}, "spec": {}});
        let moved = Moved(Arc::new(apply(&world, policy)));
        assert!(source.update(&mut replicas[0], &moved).is_empty());
        assert!(!source.update(&mut other, &moved).is_empty());
    }
}
