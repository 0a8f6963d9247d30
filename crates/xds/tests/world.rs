//! Do both ends of xDS agree in the end, whatever happens between them? The server's machine and the client's machine over
//! a network that loses what is under way when a stream breaks, delivers an answer twice, and delivers old answers late;
//! with refused resources, servers that restart and a configuration that keeps changing.
//!
//! Checked at every step: no listener or route that the client takes refers to a cluster it lacks, nor to one without
//! endpoints; no cluster goes that one refers to. Both unless the client let the server wait too long. At the end: the
//! client has what a full push would give it. `PROA_SEEDS` sets how many seeds run, `PROA_SEED` runs one.
#![allow(missing_docs)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use protos::envoy::config::cluster::v3::Cluster;
use protos::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use xds::client::{Client, Protocol, Rejection, Request, Update};
use xds::server::{self, Kind, Push, Resource, ResourceSet, Stream};

const KINDS: [Kind; 5] = [Kind::Cluster, Kind::Endpoint, Kind::Listener, Kind::Route, Kind::Secret];
/// Half of what lets the server go on without endpoints.
const TICK: Duration = Duration::from_secs(1);
/// What the server grants a slow client before listeners leave without the endpoints they need.
const PATIENCE: Duration = TICK.saturating_mul(2);

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

type Texts = BTreeMap<String, String>;

/// Per kind the text of each resource: words that name what it refers to, `bad` to be refused.
#[derive(Default, Debug)]
struct World(BTreeMap<Kind, Texts>);

impl World {
    fn random(rng: &mut Rng, bad: bool) -> World {
        let mut world = World::default();
        let pick = |rng: &mut Rng, letter: char, n: usize, percent: usize| -> Vec<String> {
            (0..n).filter(|_| rng.chance(percent)).map(|i| format!("{letter}{i}")).collect()
        };
        let (clusters, routes, secrets) = (pick(rng, 'c', 8, 60), pick(rng, 'r', 4, 60), pick(rng, 's', 3, 70));
        let some = |rng: &mut Rng, of: &[String], percent| -> String {
            of.iter().filter(|_| rng.chance(percent)).map(|w| format!("{w} ")).collect()
        };
        let mut texts: Vec<(Kind, String, String)> = Vec::new();
        for c in &clusters {
            texts.push((Kind::Cluster, c.clone(), format!("v{}", rng.below(3))));
            texts.push((Kind::Endpoint, c.clone(), format!("e{}", rng.below(3))));
        }
        for r in &routes {
            texts.push((Kind::Route, r.clone(), some(rng, &clusters, 40)));
        }
        for s in &secrets {
            texts.push((Kind::Secret, s.clone(), format!("k{}", rng.below(3))));
        }
        for l in pick(rng, 'l', 4, 60) {
            let text = some(rng, &clusters, 30) + &some(rng, &routes, 40) + &some(rng, &secrets, 40);
            texts.push((Kind::Listener, l, text));
        }
        for (kind, name, text) in texts {
            let text = if bad && rng.chance(7) { format!("{text} bad") } else { text };
            world.0.entry(kind).or_default().insert(name, text);
        }
        world
    }

    fn set(&self, kind: Kind, want: impl Fn(&str) -> bool) -> ResourceSet {
        let texts = self.0.get(&kind).into_iter().flatten();
        texts.filter(|(n, _)| want(n)).map(|(n, t)| Resource::new(n.as_str(), encode(kind, n, t))).collect()
    }
}

/// Every kind is encoded as a cluster, so that the text can be read back; only clusters say `EDS`.
fn encode(kind: Kind, name: &str, text: &str) -> Vec<u8> {
    let discovery = (kind == Kind::Cluster).then_some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32));
    let message = Cluster {
        name: name.to_owned(),
        alt_stat_name: text.to_owned(),
        cluster_discovery_type: discovery,
        ..Default::default()
    };
    message.encode_to_vec()
}

/// A response under way.
struct Sent {
    push: Push,
    left: Duration,
    /// The server waited long enough for a client that came back to name its listeners and routes, in vain.
    unnamed: bool,
}

struct Sim {
    rng: Rng,
    protocol: Protocol,
    world: World,
    server: Stream,
    client: Client,
    /// What the client has taken.
    has: BTreeMap<Kind, Texts>,
    up: VecDeque<Request>,
    /// Answers that were delivered once.
    old: Vec<Request>,
    down: VecDeque<Sent>,
    /// When the current server began to wait, and types the client has named to it.
    opened: Option<Duration>,
    named: BTreeSet<String>,
    /// When each cluster that the server has sent first left.
    cluster_left: BTreeMap<String, Duration>,
    refused: BTreeSet<String>,
    /// A state-of-the-world server cannot know what a client that came back has, so it cannot protect it.
    unprotected: bool,
    now: Duration,
}

impl Sim {
    fn new(seed: u64) -> Sim {
        let mut rng = Rng(seed);
        let world = World::random(&mut rng, true);
        let protocol = if rng.chance(50) { Protocol::Delta } else { Protocol::StateOfTheWorld };
        let mut client = Client::new(protocol, Default::default());
        for kind in [Kind::Cluster, Kind::Listener] {
            client.set_names(kind.type_url(), true, BTreeSet::new());
        }
        let mut sim = Sim {
            server: Stream::new(dialect(protocol)),
            rng,
            protocol,
            world,
            client,
            has: BTreeMap::new(),
            up: VecDeque::new(),
            old: Vec::new(),
            down: VecDeque::new(),
            opened: None,
            named: BTreeSet::new(),
            cluster_left: BTreeMap::new(),
            refused: BTreeSet::new(),
            unprotected: false,
            now: Duration::ZERO,
        };
        sim.speak();
        sim
    }

    /// The stream breaks: what is under way is lost, and another server answers.
    fn reconnect(&mut self) {
        self.server = Stream::new(dialect(self.protocol));
        self.up.clear();
        self.down.clear();
        self.old.clear();
        self.opened = None;
        self.named.clear();
        // The new server starts waiting now.
        self.cluster_left.values_mut().for_each(|at| *at = self.now);
        self.client.reconnect();
        self.unprotected = self.protocol == Protocol::StateOfTheWorld;
        self.speak();
    }

    /// What happens, for one seed on its own.
    fn trace(&self, what: impl FnOnce() -> String) {
        if std::env::var_os("PROA_SEED").is_some() {
            eprintln!("{:?} {}", self.now, what());
        }
    }

    fn speak(&mut self) {
        while let Some(request) = self.client.poll() {
            self.up.push_back(request);
        }
    }

    fn serve(&mut self) {
        while let Some(want) = self.server.wants() {
            let (kind, wildcard, names) = (want.kind, want.wildcard, want.names.clone());
            // Sometimes more than asked for, as a shared set may be.
            let generous = self.rng.chance(30);
            let set = self.world.set(kind, |n| wildcard || generous || names.contains(n));
            self.server.set_target(kind, Arc::new(set));
        }
        self.unprotected &= !(self.up.is_empty() && self.down.is_empty() && self.server.is_converged());
        while let Some(push) = self.server.poll(self.now) {
            if push.kind == Kind::Cluster {
                let full = self.protocol == Protocol::StateOfTheWorld;
                let there = |n: &str| push.resources.iter().any(|r| *r.name == *n);
                self.cluster_left.retain(|n, _| !push.removed.iter().any(|r| **r == **n) && (!full || there(n)));
                for resource in &push.resources {
                    self.cluster_left.entry(resource.name.to_string()).or_insert(self.now);
                }
            }
            self.trace(|| {
                let names: Vec<_> = push.resources.iter().map(|r| &r.name).collect();
                format!("send {} {} {names:?} -{:?}", push.kind, push.nonce, push.removed)
            });
            let waited = self.now >= *self.opened.get_or_insert(self.now) + PATIENCE;
            let named = |k: Kind| self.named.contains(k.type_url());
            let unnamed = waited && !(named(Kind::Listener) && named(Kind::Route));
            self.down.push_back(Sent { push, left: self.now, unnamed });
        }
    }

    fn hear(&mut self, request: &Request) {
        self.trace(|| match request {
            Request::Delta(r) => format!(
                "-> {} {:?} +{:?} -{:?} error {:?} has {:?}",
                protos::type_name(&r.type_url),
                r.response_nonce,
                r.resource_names_subscribe,
                r.resource_names_unsubscribe,
                r.error_detail.as_ref().map(|e| &e.message),
                r.initial_resource_versions.keys()
            ),
            Request::StateOfTheWorld(r) => format!(
                "-> {} {:?} {:?} version {:?} error {:?}",
                protos::type_name(&r.type_url),
                r.response_nonce,
                r.resource_names,
                r.version_info,
                r.error_detail.as_ref().map(|e| &e.message)
            ),
        });
        let (type_url, refused) = match request {
            Request::Delta(r) => (&r.type_url, self.server.on_delta(r).err()),
            Request::StateOfTheWorld(r) => (&r.type_url, self.server.on_sotw(r).err()),
        };
        self.named.insert(type_url.clone());
        self.opened.get_or_insert(self.now);
        assert!(refused.is_none(), "{refused:?}");
        self.serve();
    }

    /// Whether a request only answers: delivered twice or late it must do no harm. Subscriptions by difference cannot be
    /// repeated, and no stream does so.
    fn only_answers(request: &Request) -> bool {
        match request {
            Request::Delta(r) => {
                !r.response_nonce.is_empty()
                    && r.resource_names_subscribe.is_empty()
                    && r.resource_names_unsubscribe.is_empty()
            }
            Request::StateOfTheWorld(r) => !r.response_nonce.is_empty(),
        }
    }

    fn deliver_up(&mut self) -> bool {
        let Some(request) = self.up.pop_front() else { return false };
        self.hear(&request);
        if Self::only_answers(&request) {
            if self.rng.chance(10) {
                self.hear(&request);
            }
            self.old.push(request);
        }
        true
    }

    /// An answer of before, whose nonce says that it is of before. One with the latest nonce is no old answer.
    fn deliver_old(&mut self) {
        if self.old.is_empty() {
            return;
        }
        let request = self.old.swap_remove(self.rng.below(self.old.len()));
        let (url, nonce) = match &request {
            Request::Delta(r) => (&r.type_url, &r.response_nonce),
            Request::StateOfTheWorld(r) => (&r.type_url, &r.response_nonce),
        };
        let status = self.server.status();
        let latest = status.iter().any(|s| s.kind.type_url() == url && s.nonce_sent == *nonce);
        if !latest {
            self.hear(&request);
        }
    }

    fn deliver_down(&mut self) -> bool {
        let Some(sent) = self.down.pop_front() else { return false };
        self.take(&sent);
        if self.rng.chance(5) {
            self.take(&sent);
        }
        true
    }

    fn take(&mut self, sent: &Sent) {
        let push = &sent.push;
        self.trace(|| format!("<- {} {}", push.kind, push.nonce));
        let update = match self.protocol {
            Protocol::Delta => self.client.on_delta(push.to_delta()),
            Protocol::StateOfTheWorld => self.client.on_sotw(push.to_sotw()),
        };
        let Some(update) = update else { return };
        let verdict = self.apply(sent, &update);
        self.client.settle(&update, verdict);
        for kind in [Kind::Endpoint, Kind::Route, Kind::Secret] {
            let wanted = self.interest(kind);
            if let Some(has) = self.has.get_mut(&kind) {
                has.retain(|n, _| wanted.contains(n));
            }
            self.client.set_names(kind.type_url(), false, wanted);
        }
        self.speak();
    }

    /// Names the client must ask for, given what it has.
    fn interest(&self, kind: Kind) -> BTreeSet<String> {
        let words = |letter: char| {
            let listeners = self.has.get(&Kind::Listener).into_iter().flat_map(|m| m.values());
            listeners
                .flat_map(move |t| t.split(' ').filter(move |w| w.starts_with(letter)).map(str::to_owned))
                .collect()
        };
        match kind {
            Kind::Endpoint => self.has.get(&Kind::Cluster).into_iter().flat_map(|m| m.keys().cloned()).collect(),
            Kind::Route => words('r'),
            Kind::Secret => words('s'),
            _ => BTreeSet::new(),
        }
    }

    fn knows(&self, kind: Kind, name: &str) -> bool {
        self.has.get(&kind).is_some_and(|m| m.contains_key(name))
    }

    fn apply(&mut self, sent: &Sent, update: &Update) -> Result<(), Rejection> {
        let kind = sent.push.kind;
        let mut rejection = Rejection::default();
        let interest = self.interest(kind);
        for r in &update.resources {
            let text = Cluster::decode(&*r.body.value).expect("encoded by this test").alt_stat_name;
            if !kind.is_wildcard_by_default() && !interest.contains(&r.name) {
                continue;
            }
            if text.contains("bad") {
                self.refused.insert(r.name.clone());
                rejection.names.insert(r.name.clone());
                rejection.detail.push_str(&format!("{} is bad; ", r.name));
                continue;
            }
            if matches!(kind, Kind::Listener | Kind::Route) && !self.unprotected {
                for cluster in text.split(' ').filter(|w| w.starts_with('c')) {
                    let refused = self.refused.contains(cluster);
                    let known = self.knows(Kind::Cluster, cluster);
                    assert!(known || refused, "{kind} {} refers to {cluster}, which the client lacks", r.name);
                    let since = self.cluster_left.get(cluster).copied().unwrap_or_default();
                    let ready = self.knows(Kind::Endpoint, cluster) || sent.left >= since + PATIENCE;
                    assert!(ready || refused, "{kind} {} refers to {cluster}, which has no endpoints", r.name);
                }
            }
            self.has.entry(kind).or_default().insert(r.name.clone(), text);
        }
        for name in &update.removed {
            if kind == Kind::Cluster && !self.unprotected && !sent.unnamed {
                let live = self.interest(Kind::Route);
                for user in [Kind::Listener, Kind::Route] {
                    for (n, text) in self.has.get(&user).into_iter().flatten() {
                        let used = user == Kind::Listener || live.contains(n);
                        assert!(!used || !text.split(' ').any(|w| w == name), "{name} removed while {n} refers to it");
                    }
                }
            }
            self.has.entry(kind).or_default().remove(name);
        }
        if rejection.names.is_empty() { Ok(()) } else { Err(rejection) }
    }

    fn change(&mut self, bad: bool) {
        self.world = World::random(&mut self.rng, bad);
        self.server.invalidate(|_| true);
        self.serve();
    }

    fn step(&mut self) {
        match self.rng.below(100) {
            0..42 => drop(self.deliver_up()),
            42..84 => drop(self.deliver_down()),
            84..88 => self.deliver_old(),
            88..94 => self.change(true),
            94..97 => self.reconnect(),
            _ => {
                self.now += TICK;
                self.serve();
            }
        }
    }

    /// Delivers everything until nobody has anything to say.
    fn drain(&mut self) {
        for _ in 0..20_000 {
            if self.deliver_up() | self.deliver_down() {
                continue;
            }
            if self.server.is_converged() {
                return;
            }
            self.now += 2 * TICK;
            self.serve();
        }
        panic!("never quiet: {:?}", self.server.status());
    }

    fn assert_converged(&self) {
        for kind in KINDS {
            let mut expect = self.world.0.get(&kind).cloned().unwrap_or_default();
            if !kind.is_wildcard_by_default() {
                let interest = self.interest(kind);
                expect.retain(|n, _| interest.contains(n));
            }
            let mut has = self.has.get(&kind).cloned().unwrap_or_default();
            if self.protocol == Protocol::StateOfTheWorld && !kind.is_full_state() {
                // State of the world cannot say that one of these is gone.
                has.retain(|n, _| expect.contains_key(n));
            }
            assert_eq!(has, expect, "{kind}");
        }
    }
}

fn dialect(protocol: Protocol) -> server::Protocol {
    match protocol {
        Protocol::Delta => server::Protocol::Delta,
        Protocol::StateOfTheWorld => server::Protocol::Sotw,
    }
}

#[test]
fn both_ends_of_the_world_agree() {
    let var = |name| std::env::var(name).ok().and_then(|s| s.parse::<u64>().ok());
    let seeds = match var("PROA_SEED") {
        Some(one) => one..one + 1,
        None => 0..var("PROA_SEEDS").unwrap_or(1_000),
    };
    let count = seeds.end - seeds.start;
    for seed in seeds {
        let world = std::panic::AssertUnwindSafe(|| {
            let mut sim = Sim::new(seed);
            for _ in 0..sim.rng.below(200) {
                sim.step();
            }
            sim.change(false);
            sim.drain();
            sim.assert_converged();
            sim.reconnect();
            sim.drain();
            sim.assert_converged();
        });
        if let Err(panic) = std::panic::catch_unwind(world) {
            eprintln!("failing seed: PROA_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
    println!("{count} seeds converged");
}
