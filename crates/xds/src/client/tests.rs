//! The client against our own server machine, in a seeded world that loses streams and rejects resources.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::server::{self, Kind, ResourceSet};
use protos::envoy::config::cluster::v3::Cluster;
use protos::envoy::config::endpoint::v3::ClusterLoadAssignment;

const CDS: &str = ORDER[0];
const EDS: &str = ORDER[1];

fn names(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(|n| (*n).to_owned()).collect()
}

fn delta(client: &mut Client) -> Option<discovery::DeltaDiscoveryRequest> {
    match client.poll()? {
        Request::Delta(r) => Some(*r),
        Request::StateOfTheWorld(_) => panic!("wrong dialect"),
    }
}

fn sotw(client: &mut Client) -> Option<discovery::DiscoveryRequest> {
    match client.poll()? {
        Request::StateOfTheWorld(r) => Some(*r),
        Request::Delta(_) => panic!("wrong dialect"),
    }
}

fn response(type_url: &str, nonce: &str, list: &[(&str, &str)], removed: &[&str]) -> discovery::DeltaDiscoveryResponse {
    discovery::DeltaDiscoveryResponse {
        type_url: type_url.into(),
        nonce: nonce.into(),
        resources: list
            .iter()
            .map(|(name, version)| discovery::Resource {
                name: (*name).into(),
                version: (*version).into(),
                ..Default::default()
            })
            .collect(),
        removed_resources: removed.iter().map(|n| (*n).to_owned()).collect(),
        ..Default::default()
    }
}

#[test]
fn delta_order_ack_and_resume() {
    let mut client = Client::new(Protocol::Delta, Node { id: "n".into(), ..Default::default() });
    client.set_names(EDS, false, names(&[]));
    client.set_names(ORDER[2], true, names(&[]));
    client.set_names(CDS, true, names(&[]));
    let first = delta(&mut client).expect("CDS first");
    assert_eq!((first.type_url.as_str(), first.resource_names_subscribe.len()), (CDS, 0));
    assert_eq!(first.node.map(|n| n.id), Some("n".into()));
    let second = delta(&mut client).expect("then LDS");
    assert_eq!((second.type_url.as_str(), second.node), (ORDER[2], None));
    assert_eq!(delta(&mut client), None);

    let update = client.on_delta(response(CDS, "1", &[("a", "v1"), ("b", "v1")], &[])).expect("subscribed");
    client.set_names(EDS, false, names(&["a", "b"]));
    client.settle(&update, Ok(()));
    let ack = delta(&mut client).expect("ACK");
    assert_eq!((ack.type_url.as_str(), ack.response_nonce.as_str(), ack.error_detail), (CDS, "1", None));
    let eds = delta(&mut client).expect("EDS");
    assert_eq!((eds.type_url.as_str(), eds.resource_names_subscribe), (EDS, vec!["a".to_owned(), "b".to_owned()]));

    // One of two rejected: NACK; the good one is held in its new version.
    let update = client.on_delta(response(CDS, "2", &[("a", "v2"), ("b", "v2")], &[])).expect("subscribed");
    client.settle(&update, Err(Rejection { detail: "b: bad".into(), names: names(&["b"]) }));
    let nack = delta(&mut client).expect("NACK");
    assert_eq!(nack.error_detail.map(|e| (e.code, e.message)), Some((13, "b: bad".into())));

    client.set_names(EDS, false, names(&["b", "c"]));
    let change = delta(&mut client).expect("names");
    assert_eq!(
        (change.resource_names_subscribe, change.resource_names_unsubscribe),
        (vec!["c".to_owned()], vec!["a".to_owned()])
    );

    client.reconnect();
    let again = delta(&mut client).expect("CDS");
    let held: BTreeMap<String, String> = [("a".into(), "v2".into()), ("b".into(), "v1".into())].into();
    assert_eq!((again.initial_resource_versions, again.node.is_some()), (held, true));
    assert_eq!(
        delta(&mut client).map(|r| (r.type_url, r.resource_names_subscribe)),
        Some((EDS.into(), vec!["b".into(), "c".into()]))
    );
    assert!(client.on_delta(response("type.googleapis.com/other", "9", &[], &[])).is_none());
}

#[test]
fn sotw_versions_and_removal() {
    let mut client = Client::new(Protocol::StateOfTheWorld, Node::default());
    client.set_names(CDS, true, names(&[]));
    let first = sotw(&mut client).expect("first");
    assert_eq!((first.version_info.as_str(), first.response_nonce.as_str()), ("", ""));
    let resources = |list: &[&str]| {
        list.iter()
            .map(|n| protos::any(&Cluster { name: (*n).into(), alt_stat_name: "x".into(), ..Default::default() }))
            .collect::<Vec<_>>()
    };
    let push = |version: &str, nonce: &str, list: &[&str]| discovery::DiscoveryResponse {
        type_url: CDS.into(),
        version_info: version.into(),
        nonce: nonce.into(),
        resources: resources(list),
        ..Default::default()
    };
    let update = client.on_sotw(push("1", "n1", &["a", "b"])).expect("subscribed");
    assert_eq!(update.resources.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    client.settle(&update, Ok(()));
    let ack = sotw(&mut client).expect("ACK");
    assert_eq!((ack.version_info.as_str(), ack.response_nonce.as_str()), ("1", "n1"));
    let update = client.on_sotw(push("2", "n2", &["b"])).expect("subscribed");
    assert_eq!(update.removed, ["a"]);
    client.settle(&update, Err(Rejection { detail: "no".into(), names: names(&["b"]) }));
    let nack = sotw(&mut client).expect("NACK");
    assert_eq!(
        (nack.version_info.as_str(), nack.response_nonce.as_str(), nack.error_detail.is_some()),
        ("1", "n2", true)
    );
    client.reconnect();
    let again = sotw(&mut client).expect("again");
    assert_eq!((again.version_info.as_str(), again.response_nonce.as_str()), ("1", ""));
}

/// What the proxy of the world below does with an update: rejects resources called `bad*`.
fn apply(have: &mut BTreeMap<String, Vec<u8>>, update: &Update) -> Result<(), Rejection> {
    let mut rejection = Rejection::default();
    for resource in &update.resources {
        if resource.name.starts_with("bad") {
            rejection.names.insert(resource.name.clone());
            rejection.detail = "bad".into();
        } else {
            have.insert(resource.name.clone(), resource.body.value.clone());
        }
    }
    update.removed.iter().for_each(|n| {
        have.remove(n);
    });
    if rejection.names.is_empty() { Ok(()) } else { Err(rejection) }
}

/// The server's world: clusters, and an endpoint resource for each.
struct World {
    clusters: BTreeMap<String, u32>,
}

impl World {
    fn target(&self, kind: Kind) -> Arc<ResourceSet> {
        let list = self.clusters.iter().filter_map(|(name, generation)| match kind {
            Kind::Cluster => {
                let body = Cluster { name: name.clone(), alt_stat_name: generation.to_string(), ..Default::default() };
                Some(server::Resource::new(name.as_str(), protos::any(&body).value))
            }
            Kind::Endpoint => {
                let body = ClusterLoadAssignment { cluster_name: name.clone(), ..Default::default() };
                Some(server::Resource::new(name.as_str(), protos::any(&body).value))
            }
            _ => None,
        });
        Arc::new(ResourceSet::new(list.collect()))
    }
}

fn converge(protocol: Protocol, script: &[(u8, u8)]) {
    let mut client = Client::new(protocol, Node::default());
    client.set_names(CDS, true, names(&[]));
    let mut world = World { clusters: BTreeMap::new() };
    let mut have: BTreeMap<Kind, BTreeMap<String, Vec<u8>>> = BTreeMap::new();
    let mut now = Duration::ZERO;
    let dialect = || match protocol {
        Protocol::Delta => server::Protocol::Delta,
        Protocol::StateOfTheWorld => server::Protocol::Sotw,
    };
    let mut stream = server::Stream::new(dialect());
    // One round: everything the client wants to say, then at most `pushes` responses.
    let mut round = |client: &mut Client,
                     stream: &mut server::Stream,
                     world: &World,
                     have: &mut BTreeMap<Kind, BTreeMap<String, Vec<u8>>>,
                     pushes: usize| {
        now += Duration::from_millis(500);
        let mut pushed = 0;
        loop {
            while let Some(request) = client.poll() {
                let taken = match request {
                    Request::Delta(r) => stream.on_delta(&r).map(|_| ()),
                    Request::StateOfTheWorld(r) => stream.on_sotw(&r).map(|_| ()),
                };
                taken.expect("our client follows the protocol");
            }
            while let Some(kind) = stream.wants().map(|w| w.kind) {
                stream.set_target(kind, world.target(kind));
            }
            if pushed == pushes {
                return;
            }
            let Some(push) = stream.poll(now) else { return };
            pushed += 1;
            let update = match protocol {
                Protocol::Delta => client.on_delta(push.to_delta()),
                Protocol::StateOfTheWorld => client.on_sotw(push.to_sotw()),
            };
            let update = update.expect("subscribed");
            let kind = Kind::from_type_url(&update.type_url).expect("known");
            let verdict = apply(have.entry(kind).or_default(), &update);
            if kind == Kind::Cluster {
                let clusters: BTreeSet<String> = have[&kind].keys().cloned().collect();
                have.entry(Kind::Endpoint).or_default().retain(|n, _| clusters.contains(n));
                client.set_names(EDS, false, clusters);
            }
            client.settle(&update, verdict);
        }
    };
    for &(action, which) in script {
        let name = if which % 16 == 15 { format!("bad{}", which % 3) } else { format!("c{}", which % 8) };
        match action % 8 {
            0 | 1 => *world.clusters.entry(name).or_default() += 1,
            2 => {
                world.clusters.remove(&name);
            }
            3 => {
                client.reconnect();
                stream = server::Stream::new(dialect());
            }
            _ => round(&mut client, &mut stream, &world, &mut have, which as usize % 3),
        }
        stream.invalidate(|_| true);
    }
    for _ in 0..64 {
        round(&mut client, &mut stream, &world, &mut have, usize::MAX);
    }
    let good: BTreeSet<&String> = world.clusters.keys().filter(|n| !n.starts_with("bad")).collect();
    for kind in [Kind::Cluster, Kind::Endpoint] {
        let held = have.remove(&kind).unwrap_or_default();
        let target = world.target(kind);
        assert_eq!(held.keys().collect::<BTreeSet<_>>(), good, "{kind:?}");
        for (name, bytes) in &held {
            assert_eq!(target.get(name).map(|r| r.value.to_vec()), Some(bytes.clone()), "{kind:?} {name}");
        }
    }
}

proptest::proptest! {
    #[test]
    fn both_ends_converge_by_delta(script in proptest::collection::vec((0u8..8, 0u8..48), 0..60)) {
        converge(Protocol::Delta, &script);
    }

    #[test]
    fn both_ends_converge_by_state_of_the_world(script in proptest::collection::vec((0u8..8, 0u8..48), 0..60)) {
        converge(Protocol::StateOfTheWorld, &script);
    }
}
