//! Does a mesh that changed step by step look as one that started that way? Random changes from a pool of resources;
//! after each, what is derived and translated is compared with a fresh store's, and views that the delta calls
//! unaffected must not have changed.
#![allow(missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::random::{self, Random};
use common::{gateway, labels, resources, sidecar};
use model::{Change, MeshConfig, Proxy, ProxyView, ScopeCache, Store};
use translate::incremental::{Memo, Translation};
use translate::{Inputs, NamedResource};
use xds::server::ResourceSet;

/// More with `PROA_SEEDS`, one alone with `PROA_SEED`.
const SEEDS: u64 = 6;
const STEPS: usize = 25;

fn proxies() -> Vec<Proxy> {
    vec![
        sidecar("10.0.0.3", "a", &[("app", "client")]),
        sidecar("10.0.0.2", "a", &[("app", "web")]),
        sidecar("10.0.0.2", "samples", &[("app", "httpbin")]),
        gateway("10.0.0.9"),
        Proxy::new(names::NodeType::Sidecar, "10.9.9.9", "other", labels(&[])),
    ]
}

/// Everything a proxy would get: without and with endpoints, as those take another path.
type Answer = (Vec<NamedResource>, Vec<NamedResource>);

fn answer(store: &Store, proxy: &Proxy) -> (ProxyView, Answer) {
    let view = ProxyView::new(&store.snapshot(), &Arc::new(proxy.clone()));
    let inputs = Inputs::new(Arc::new(view.clone()));
    let clusters = translate::clusters(&inputs);
    let names: Vec<String> = clusters.iter().map(|c| c.name.clone()).collect();
    let endpoints = translate::endpoints(&inputs, &names);
    let mut all = clusters;
    let listeners = translate::listeners(&inputs);
    all.extend(translate::routes(&inputs, &common::route_names(&listeners)));
    all.extend(listeners);
    all.push(translate::name_table(&inputs));
    (view, (all, endpoints))
}

/// What proxies are really sent: views that share scopes, and translations that follow each other and share a memo.
struct Following {
    scopes: ScopeCache,
    memo: Arc<Memo>,
    proxies: Vec<Arc<Proxy>>,
    last: Vec<Option<Translation>>,
}

impl Following {
    fn new(proxies: &[Proxy]) -> Self {
        let last = proxies.iter().map(|_| None).collect();
        let proxies = proxies.iter().cloned().map(Arc::new).collect();
        Following { scopes: ScopeCache::default(), memo: Arc::default(), proxies, last }
    }

    /// Names of resources that differ from those made from scratch.
    fn follow(&mut self, store: &Store, n: usize, (all, endpoints): &Answer) -> Vec<String> {
        let view = ProxyView::with_cache(&store.snapshot(), &self.proxies[n], &mut self.scopes);
        let inputs = Inputs::new(Arc::new(view));
        let next = Translation::new(inputs, self.memo.clone(), self.last[n].as_ref());
        let scratch = |kind: &str, list: &[NamedResource]| -> BTreeMap<String, Vec<u8>> {
            let of_kind = list.iter().filter(|r| r.resource.type_url.ends_with(kind));
            // The first of a name counts, as in every set.
            let mut out = BTreeMap::new();
            for r in of_kind {
                out.entry(r.name.clone()).or_insert_with(|| r.resource.value.clone());
            }
            out
        };
        let compare = |kind: &str, set: &ResourceSet, list: &[NamedResource]| -> Vec<String> {
            let got: BTreeMap<String, Vec<u8>> = set.iter().map(|r| (r.name.to_string(), r.value.to_vec())).collect();
            let want = scratch(kind, list);
            let keys: std::collections::BTreeSet<&String> = got.keys().chain(want.keys()).collect();
            keys.into_iter().filter(|k| got.get(*k) != want.get(*k)).map(|k| format!("{kind} {k}")).collect()
        };
        let mut wrong = compare(".Cluster", &next.clusters(), all);
        // Of those clusters that take their endpoints over EDS.
        let over_eds = |name: &str| {
            use protos::envoy::config::cluster::v3::Cluster;
            use protos::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
            let of = all.iter().filter(|r| r.name == name).find_map(|r| protos::unpack::<Cluster>(&r.resource).ok());
            of.is_some_and(|c| c.cluster_discovery_type == Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)))
        };
        let endpoints: Vec<NamedResource> = endpoints.iter().filter(|r| over_eds(&r.name)).cloned().collect();
        wrong.extend(compare(".ClusterLoadAssignment", &next.endpoints(), &endpoints));
        wrong.extend(compare(".Listener", &next.listeners(), all));
        wrong.extend(compare(".RouteConfiguration", &next.routes(), all));
        self.last[n] = Some(next);
        wrong
    }
}

fn differing(a: &[NamedResource], b: &[NamedResource]) -> Vec<String> {
    let of = |list: &[NamedResource]| -> BTreeMap<(String, String), Vec<u8>> {
        list.iter().map(|r| ((r.resource.type_url.clone(), r.name.clone()), r.resource.value.clone())).collect()
    };
    let (a, b) = (of(a), of(b));
    a.keys().chain(b.keys()).filter(|k| a.get(*k) != b.get(*k)).map(|(t, n)| format!("{t} {n}")).collect()
}

#[test]
fn step_by_step_equals_from_scratch() {
    let mut pool = resources(include_str!("mesh/everything.yaml"), "a");
    pool.extend(resources(include_str!("mesh/httpbin.yaml"), "samples"));
    pool.extend(resources(include_str!("mesh/filters.yaml"), "samples"));
    let proxies = proxies();
    // Each seed is long: a hundredth of what the random meshes get.
    for seed in seeds(SEEDS, 100) {
        let mut random = Random(seed);
        let mut present: BTreeMap<usize, &api::Resource> = BTreeMap::new();
        let mut store = Store::new(MeshConfig::default());
        let mut before: Vec<(ProxyView, Answer)> = proxies.iter().map(|p| answer(&store, p)).collect();
        let mut following = Following::new(&proxies);
        for step in 0..STEPS {
            let mut changes = Vec::new();
            // Few at a time, except the first, which is half of the pool.
            let count = if step == 0 { pool.len() } else { 1 + random.below(3) };
            for _ in 0..count {
                let n = random.below(pool.len());
                if present.remove(&n).is_some() {
                    changes.push(Change::Delete(pool[n].meta.key.clone()));
                } else {
                    present.insert(n, &pool[n]);
                    changes.push(Change::Apply(pool[n].clone()));
                }
            }
            let delta = store.apply(changes);
            let mut fresh = Store::new(MeshConfig::default());
            fresh.apply(present.values().map(|r| Change::Apply((*r).clone())));
            for (n, proxy) in proxies.iter().enumerate() {
                let (view, got) = answer(&store, proxy);
                let (_, want) = answer(&fresh, proxy);
                let place = || format!("seed {seed}, step {step}, proxy {n}");
                let wrong = differing(&got.0, &want.0);
                assert!(wrong.is_empty(), "{}: differs from scratch: {wrong:?}", place());
                let wrong = differing(&got.1, &want.1);
                assert!(wrong.is_empty(), "{}: endpoints differ from scratch: {wrong:?}", place());
                let wrong = following.follow(&store, n, &want);
                assert!(wrong.is_empty(), "{}: what is sent differs from scratch: {wrong:?}", place());
                if !view.is_affected_by(&delta) && !before[n].0.is_affected_by(&delta) {
                    let wrong = differing(&got.0, &before[n].1.0);
                    assert!(wrong.is_empty(), "{}: changed though unaffected by {delta:?}: {wrong:?}", place());
                    let wrong = differing(&got.1, &before[n].1.1);
                    assert!(
                        wrong.is_empty(),
                        "{}: endpoints changed though unaffected by {delta:?}: {wrong:?}",
                        place()
                    );
                } else if delta.only_endpoints() {
                    let wrong: Vec<_> = differing(&got.0, &before[n].1.0)
                        .into_iter()
                        .filter(|k| k.contains("Listener") || k.contains("RouteConfiguration"))
                        .collect();
                    assert!(wrong.is_empty(), "{}: more than endpoints changed by {delta:?}: {wrong:?}", place());
                }
                before[n] = (view, got);
            }
        }
    }
}

fn seeds(few: u64, share: u64) -> std::ops::Range<u64> {
    let var = |name| std::env::var(name).ok().and_then(|s| s.parse::<u64>().ok());
    match var("PROA_SEED") {
        Some(one) => one..one + 1,
        None => 0..var("PROA_SEEDS").map_or(few, |n| n.div_ceil(share)),
    }
}

/// Random meshes in the test run.
const MESHES: u64 = 60;

#[test]
fn random_meshes_follow_as_from_scratch() {
    let proxies = vec![
        sidecar("10.0.0.3", "a", &[("app", "client")]),
        sidecar("10.0.0.2", "b", &[("app", "web")]),
        gateway("10.0.0.9"),
    ];
    let meshes = seeds(MESHES, 1);
    let count = meshes.end - meshes.start;
    for seed in meshes {
        let world = std::panic::AssertUnwindSafe(|| {
            let mut random = Random(seed);
            let mut present: BTreeMap<names::ResourceKey, api::Resource> = BTreeMap::new();
            let mut store = Store::new(MeshConfig::default());
            let mut following = Following::new(&proxies);
            for step in 0..6 {
                let count = if step == 0 { 30 } else { 1 + random.below(2) };
                let mut changes = Vec::new();
                for _ in 0..count {
                    let any = (!present.is_empty()).then(|| random.below(present.len()));
                    let any = any.and_then(|n| present.keys().nth(n).cloned());
                    let what = if step == 0 { 100 } else { random.below(100) };
                    let resource = match any {
                        Some(key) if what < 20 => {
                            present.remove(&key);
                            changes.push(Change::Delete(key));
                            continue;
                        }
                        Some(key) if what < 60 => random::variant(&mut random, &present[&key]),
                        _ => random::resource(&mut random),
                    };
                    if let Some(resource) = resource {
                        present.insert(random::key(&resource), resource.clone());
                        changes.push(Change::Apply(resource));
                    }
                }
                store.apply(changes);
                let mut fresh = Store::new(MeshConfig::default());
                fresh.apply(present.values().cloned().map(Change::Apply));
                for (n, proxy) in proxies.iter().enumerate() {
                    let (_, want) = answer(&fresh, proxy);
                    let wrong = following.follow(&store, n, &want);
                    assert!(wrong.is_empty(), "step {step}, proxy {n}: what is sent differs from scratch: {wrong:?}");
                }
            }
        });
        if let Err(panic) = std::panic::catch_unwind(world) {
            eprintln!("failing seed: PROA_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
    println!("{count} random meshes");
}
