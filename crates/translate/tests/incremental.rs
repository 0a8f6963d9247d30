//! Does a mesh that changed step by step look as one that started that way? Random changes from a pool of resources;
//! after each, what is derived and translated is compared with a fresh store's, and views that the delta calls
//! unaffected must not have changed.
#![allow(missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{gateway, labels, resources, sidecar};
use model::{Change, MeshConfig, Proxy, ProxyView, Store};
use translate::{Inputs, NamedResource};

/// More with `PROA_SEEDS`.
const SEEDS: u64 = 6;
const STEPS: usize = 25;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

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
    let seeds = std::env::var("PROA_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(SEEDS);
    for seed in 0..seeds {
        let mut random = Random(seed);
        let mut present: BTreeMap<usize, &api::Resource> = BTreeMap::new();
        let mut store = Store::new(MeshConfig::default());
        let mut before: Vec<(ProxyView, Answer)> = proxies.iter().map(|p| answer(&store, p)).collect();
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
