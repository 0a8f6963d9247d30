//! Each mesh of the original's benchmarks, through the whole translation for one proxy. The best of some rounds counts.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use model::{Change, MeshConfig, Proxy, ProxyView, ScopeCache, Store};
use names::NodeType;
use translate::Inputs;
use translate::incremental::{Memo, Translation};

use crate::allocated;

const ROUNDS: usize = 7;

/// Time and allocated bytes.
#[derive(Clone, Copy)]
struct Cost(Duration, u64);

impl Cost {
    fn of<T>(f: impl FnOnce() -> T) -> (Cost, T) {
        let (bytes, start) = (allocated(), cpu_time());
        let value = f();
        (Cost(cpu_time() - start, allocated() - bytes), value)
    }

    fn least(self, other: Cost) -> Cost {
        Cost(self.0.min(other.0), self.1.min(other.1))
    }
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&format!("{:.3} ms {} kB", self.0.as_secs_f64() * 1e3, self.1.div_ceil(1000)))
    }
}

/// CPU time of this thread: what others do on the machine is not counted.
fn cpu_time() -> Duration {
    crate::clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

const NONE: Cost = Cost(Duration::MAX, u64::MAX);

struct World {
    store: Store,
    scopes: ScopeCache,
    memo: Arc<Memo>,
    proxy: Arc<Proxy>,
}

impl World {
    fn new(resources: &[api::Resource], gateway: bool) -> World {
        let mesh = serde_json::json!({"extensionProviders": [{"name": "envoy-json", "envoyFileAccessLog":
            {"path": "/dev/stdout", "logFormat": {"labels": {}}}}]});
        let mut store = Store::new(MeshConfig::from_json(&mesh));
        store.apply(resources.iter().cloned().map(Change::Apply));
        let (node_type, namespace) =
            if gateway { (NodeType::Router, "gateway") } else { (NodeType::Sidecar, "default") };
        let labels = ["istio.io/benchmark", "istio"].map(|k| (k.to_owned(), "true".to_owned()));
        let proxy = Proxy::new(node_type, "1.1.1.1", namespace, labels.into_iter().collect());
        World { store, scopes: ScopeCache::default(), memo: Arc::default(), proxy: Arc::new(proxy) }
    }

    fn translation(&mut self, before: Option<&Translation>) -> Translation {
        let view = ProxyView::with_cache(&self.store.snapshot(), &self.proxy, &mut self.scopes);
        Translation::new(Inputs::new(Arc::new(view)), Arc::clone(&self.memo), before)
    }

    /// Applies a change and makes every type again; what each of [`STEPS`] cost.
    fn follow(&mut self, change: &api::Resource, before: &Translation) -> ([Cost; STEPS.len()], Translation) {
        let change = change.clone();
        let (snapshot, _) = Cost::of(|| self.store.apply([Change::Apply(change)]));
        let (view, next) = Cost::of(|| self.translation(Some(before)));
        let (cds, _) = Cost::of(|| next.clusters());
        let (eds, _) = Cost::of(|| next.endpoints());
        let (lds, _) = Cost::of(|| next.listeners());
        let (rds, _) = Cost::of(|| next.routes());
        ([snapshot, view, cds, eds, lds, rds], next)
    }
}

/// The steps of a translation.
const STEPS: [&str; 6] = ["snapshot", "view", "CDS", "EDS", "LDS", "RDS"];

fn sum(steps: &[Cost]) -> Cost {
    if steps.iter().any(|c| c.0 == Duration::MAX) {
        return NONE;
    }
    Cost(steps.iter().map(|c| c.0).sum(), steps.iter().map(|c| c.1).sum())
}

/// `steps`: instead of the table, what each step of following a change costs.
pub fn run(files: &[String], steps: bool) -> anyhow::Result<()> {
    if steps {
        println!(
            "| case | one change of a | {} | all |\n|---|---|{}---|",
            STEPS.join(" | "),
            "---|".repeat(STEPS.len())
        );
    } else {
        println!(
            "| case | resources | kB sent | snapshot | view | CDS | EDS | LDS | RDS | cold, all | one service | share | one rule | one endpoint |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    }
    for file in files {
        case(Path::new(file), steps)?;
    }
    Ok(())
}

fn case(file: &Path, steps: bool) -> anyhow::Result<()> {
    let name = file.file_stem().map_or(String::new(), |n| n.to_string_lossy().into_owned());
    let resources = read(file)?;
    let gateway = name.contains("gateway");
    let mut cost = [NONE; 6];
    let mut changes = [[NONE; STEPS.len()]; 3];
    let (mut count, mut bytes) = (0, 0);
    for _ in 0..ROUNDS {
        let (snapshot, mut world) = Cost::of(|| World::new(&resources, gateway));
        let (view, cold) = Cost::of(|| world.translation(None));
        let (cds, clusters) = Cost::of(|| cold.clusters());
        let (eds, endpoints) = Cost::of(|| cold.endpoints());
        let (lds, listeners) = Cost::of(|| cold.listeners());
        let (rds, routes) = Cost::of(|| cold.routes());
        for (best, now) in cost.iter_mut().zip([snapshot, view, cds, eds, lds, rds]) {
            *best = best.least(now);
        }
        let sets = [&clusters, &endpoints, &listeners, &routes];
        count = sets.iter().map(|s| s.len()).sum();
        bytes = sets.iter().map(|s| s.bytes()).sum::<usize>();
        let mut last = cold;
        for (best, change) in changes.iter_mut().zip(of_each_kind(&resources)) {
            let Some(change) = change else { continue };
            let (now, next) = world.follow(&change, &last);
            for (best, now) in best.iter_mut().zip(now) {
                *best = best.least(now);
            }
            last = next;
        }
    }
    if steps {
        for (what, steps) in
            ["service", "rule", "endpoint"].iter().zip(&changes).filter(|(_, s)| s[0].0 != Duration::MAX)
        {
            let each: Vec<_> = steps.iter().map(ToString::to_string).collect();
            println!("| {name} | {what} | {} | {} |", each.join(" | "), sum(steps));
        }
        return Ok(());
    }
    let [snapshot, view, cds, eds, lds, rds] = cost;
    let all = sum(&[view, cds, eds, lds, rds]);
    let shown = |c: Cost| if c.0 == Duration::MAX { "-".to_owned() } else { c.to_string() };
    let [service, rule, endpoint] = changes.map(|steps| sum(&steps));
    let share = if service.0 == Duration::MAX {
        "-".to_owned()
    } else {
        format!("{:.1} %", service.0.as_secs_f64() / all.0.as_secs_f64() * 100.0)
    };
    println!(
        "| {name} | {count} | {} | {snapshot} | {view} | {cds} | {eds} | {lds} | {rds} | {all} | {} | {share} | {} | {} |",
        bytes / 1000,
        shown(service),
        shown(rule),
        shown(endpoint)
    );
    Ok(())
}

fn read(file: &Path) -> anyhow::Result<Vec<api::Resource>> {
    use serde::Deserialize as _;
    let text = std::fs::read_to_string(file)?;
    let mut out = Vec::new();
    for document in serde_norway::Deserializer::from_str(&text) {
        let value = serde_json::Value::deserialize(document)?;
        if !value.is_null() {
            out.push(api::Resource::from_value(value, None, "default").map_err(|e| anyhow::anyhow!("{e}"))?);
        }
    }
    Ok(out)
}

/// A change of a service (another port beside its own), of a rule (another timeout), of an endpoint (another address),
/// each to one resource in the middle of those there are.
fn of_each_kind(resources: &[api::Resource]) -> [Option<api::Resource>; 3] {
    let middle = |kind: &str, fits: &dyn Fn(&serde_json::Value) -> bool| -> Option<serde_json::Value> {
        let all: Vec<_> = resources
            .iter()
            .filter(|r| r.key().kind.name() == kind && fits(&r.raw) && r.meta.name() != "proxy-service-instance")
            .collect();
        all.get(all.len() / 2).map(|r| (*r.raw).clone())
    };
    let any = |_: &serde_json::Value| true;
    let made = |value: serde_json::Value| api::Resource::from_value(value, None, "default").ok();
    let service = middle("ServiceEntry", &any).or_else(|| middle("Service", &any)).and_then(|mut v| {
        let port = match v["kind"].as_str() {
            Some("Service") => serde_json::json!({"port": 9999, "name": "tcp-more"}),
            _ => serde_json::json!({"number": 9999, "name": "tcp-more", "protocol": "TCP"}),
        };
        v.pointer_mut("/spec/ports")?.as_array_mut()?.push(port);
        made(v)
    });
    let rule = middle("VirtualService", &any).and_then(|mut v| {
        v.pointer_mut("/spec/http/0")?.as_object_mut()?.insert("timeout".to_owned(), "7s".into());
        made(v)
    });
    let inline = |v: &serde_json::Value| v.pointer("/spec/endpoints/0/address").is_some();
    let endpoint = middle("ServiceEntry", &inline).and_then(|mut v| {
        *v.pointer_mut("/spec/endpoints/0/address")? = "9.9.9.9".into();
        made(v)
    });
    [service, rule, endpoint]
}
