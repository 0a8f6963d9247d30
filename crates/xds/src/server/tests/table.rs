//! Single rules, one by one.

use super::*;

fn ask(kind: Kind) -> discovery::DeltaDiscoveryRequest {
    discovery::DeltaDiscoveryRequest { type_url: kind.type_url().into(), ..Default::default() }
}

fn subscribe(kind: Kind, names: &[&str]) -> discovery::DeltaDiscoveryRequest {
    let resource_names_subscribe = names.iter().map(|n| n.to_string()).collect();
    discovery::DeltaDiscoveryRequest { resource_names_subscribe, ..ask(kind) }
}

fn set(kind: Kind, resources: &[(&str, &str)]) -> Arc<ResourceSet> {
    Arc::new(resources.iter().map(|(n, t)| Resource::new(*n, encode(kind, n, t))).collect())
}

fn ack(stream: &mut Stream, push: &Push) -> Event {
    let request = discovery::DeltaDiscoveryRequest { response_nonce: push.nonce.clone(), ..ask(push.kind) };
    stream.on_delta(&request).unwrap()
}

fn names(push: &Push) -> Vec<&str> {
    push.resources.iter().map(|r| &*r.name).collect()
}

#[test]
fn a_fresh_client_gets_an_answer_even_if_there_is_nothing() {
    let mut stream = Stream::new(Protocol::Delta);
    stream.on_delta(&ask(Kind::Listener)).unwrap();
    assert!(stream.poll(Duration::ZERO).is_none(), "no target yet");
    stream.set_target(Kind::Listener, Arc::default());
    let push = stream.poll(Duration::ZERO).unwrap();
    assert!(push.resources.is_empty() && push.removed.is_empty());
    assert_eq!(ack(&mut stream, &push).answer, Some(Ok(())));
    assert!(stream.poll(Duration::ZERO).is_none());
    assert!(stream.is_converged());
}

#[test]
fn a_name_that_does_not_exist_is_reported_as_removed() {
    let mut stream = Stream::new(Protocol::Delta);
    stream.on_delta(&subscribe(Kind::Route, &["80", "81"])).unwrap();
    stream.set_target(Kind::Route, set(Kind::Route, &[("80", "")]));
    let push = stream.poll(Duration::ZERO).unwrap();
    assert_eq!((names(&push), push.removed.clone()), (vec!["80"], vec!["81".into()]));
}

#[test]
fn a_cluster_asked_for_by_name_is_answered_while_others_are_held() {
    let mut stream = Stream::new(Protocol::Delta);
    stream.on_delta(&ask(Kind::Cluster)).unwrap();
    stream.on_delta(&ask(Kind::Listener)).unwrap();
    stream.set_target(Kind::Cluster, set(Kind::Cluster, &[("a", "1"), ("b", "1")]));
    stream.set_target(Kind::Listener, set(Kind::Listener, &[("l", "a b")]));
    let first = stream.poll(Duration::ZERO).unwrap();
    ack(&mut stream, &first);
    let listeners = stream.poll(WARMING_MAX).unwrap();
    assert_eq!(listeners.kind, Kind::Listener);
    // The listeners are not answered: what goes is held, what never was is said.
    stream.on_delta(&subscribe(Kind::Cluster, &["b", "missing"])).unwrap();
    stream.set_target(Kind::Cluster, set(Kind::Cluster, &[("b", "1")]));
    let push = stream.poll(WARMING_MAX).unwrap();
    assert_eq!((names(&push), push.removed.clone()), (vec!["b"], vec!["missing".into()]));
    ack(&mut stream, &push);
    ack(&mut stream, &listeners);
    let push = stream.poll(WARMING_MAX).unwrap();
    assert_eq!((names(&push), push.removed.clone()), (vec![], vec!["a".into()]));
}

#[test]
fn one_response_per_type_is_in_flight_and_changes_merge() {
    let mut stream = Stream::new(Protocol::Delta);
    stream.on_delta(&ask(Kind::NameTable)).unwrap();
    stream.set_target(Kind::NameTable, set(Kind::NameTable, &[("a", "1")]));
    let first = stream.poll(Duration::ZERO).unwrap();
    stream.set_target(Kind::NameTable, set(Kind::NameTable, &[("a", "2"), ("b", "1")]));
    assert!(stream.poll(Duration::ZERO).is_none());
    stream.set_target(Kind::NameTable, set(Kind::NameTable, &[("b", "2")]));
    ack(&mut stream, &first);
    let second = stream.poll(Duration::ZERO).unwrap();
    assert_eq!((names(&second), second.removed.clone()), (vec!["b"], vec!["a".into()]));
}

#[test]
fn equal_content_is_never_sent_again() {
    let mut stream = Stream::new(Protocol::Delta);
    stream.on_delta(&ask(Kind::NameTable)).unwrap();
    stream.set_target(Kind::NameTable, set(Kind::NameTable, &[("a", "1")]));
    let push = stream.poll(Duration::ZERO).unwrap();
    ack(&mut stream, &push);
    stream.set_target(Kind::NameTable, set(Kind::NameTable, &[("a", "1")]));
    assert!(stream.poll(Duration::ZERO).is_none());
}

#[test]
fn a_refusal_is_recorded_and_not_answered_until_something_changes() {
    let mut stream = Stream::new(Protocol::Delta);
    stream.on_delta(&ask(Kind::Cluster)).unwrap();
    stream.set_target(Kind::Cluster, set(Kind::Cluster, &[("a", "1"), ("b", "1")]));
    let push = stream.poll(Duration::ZERO).unwrap();
    let error_detail = Some(protos::google::rpc::Status { message: "b: no".into(), ..Default::default() });
    let nack = discovery::DeltaDiscoveryRequest { response_nonce: push.nonce, error_detail, ..ask(Kind::Cluster) };
    assert_eq!(stream.on_delta(&nack).unwrap().answer, Some(Err("b: no".into())));
    assert!(stream.poll(Duration::ZERO).is_none());
    assert_eq!(stream.status()[0].state, SyncState::Error);
    stream.set_target(Kind::Cluster, set(Kind::Cluster, &[("a", "1"), ("b", "2")]));
    let push = stream.poll(Duration::ZERO).unwrap();
    assert_eq!(names(&push), ["b"]);
    ack(&mut stream, &push);
    assert_eq!(stream.status()[0].state, SyncState::Synced);
}

#[test]
fn endpoints_of_a_changed_cluster_are_sent_again() {
    let mut stream = Stream::new(Protocol::Delta);
    stream.on_delta(&ask(Kind::Cluster)).unwrap();
    stream.set_target(Kind::Cluster, set(Kind::Cluster, &[("a", "1"), ("b", "1")]));
    let clusters = stream.poll(Duration::ZERO).unwrap();
    ack(&mut stream, &clusters);
    stream.on_delta(&subscribe(Kind::Endpoint, &["a", "b"])).unwrap();
    stream.set_target(Kind::Endpoint, set(Kind::Endpoint, &[("a", "e"), ("b", "e")]));
    let endpoints = stream.poll(Duration::ZERO).unwrap();
    ack(&mut stream, &endpoints);
    stream.set_target(Kind::Cluster, set(Kind::Cluster, &[("a", "2"), ("b", "1")]));
    assert_eq!(names(&stream.poll(Duration::ZERO).unwrap()), ["a"]);
    let again = stream.poll(Duration::ZERO).unwrap();
    assert_eq!((again.kind, names(&again)), (Kind::Endpoint, vec!["a"]));
}

#[test]
fn a_client_without_endpoints_waits_no_longer_than_the_bound() {
    let mut stream = Stream::new(Protocol::Delta);
    stream.on_delta(&ask(Kind::Cluster)).unwrap();
    stream.on_delta(&ask(Kind::Listener)).unwrap();
    stream.set_target(Kind::Cluster, set(Kind::Cluster, &[("a", "1")]));
    stream.set_target(Kind::Listener, set(Kind::Listener, &[("l", "a")]));
    let clusters = stream.poll(Duration::ZERO).unwrap();
    assert_eq!(clusters.kind, Kind::Cluster);
    ack(&mut stream, &clusters);
    assert!(stream.poll(Duration::ZERO).is_none());
    assert_eq!(stream.deadline(), Some(WARMING_MAX));
    assert_eq!(stream.poll(WARMING_MAX).unwrap().kind, Kind::Listener);
}

/// Envoy owes its answer for as long as one of its clusters does not get warm.
#[test]
fn clusters_leave_before_listeners_though_earlier_ones_are_unanswered() {
    let mut stream = Stream::new(Protocol::Delta);
    stream.on_delta(&ask(Kind::Cluster)).unwrap();
    stream.on_delta(&ask(Kind::Listener)).unwrap();
    stream.set_target(Kind::Cluster, set(Kind::Cluster, &[("a", "1")]));
    stream.set_target(Kind::Listener, Arc::default());
    let first = stream.poll(Duration::ZERO).unwrap();
    stream.set_target(Kind::Cluster, set(Kind::Cluster, &[("a", "1"), ("b", "1")]));
    stream.set_target(Kind::Listener, set(Kind::Listener, &[("l", "b")]));
    assert!(stream.poll(WARMING_MAX / 2).is_none(), "the client may still answer");
    assert_eq!(stream.deadline(), Some(WARMING_MAX));
    let second = stream.poll(WARMING_MAX).unwrap();
    assert_eq!((second.kind, names(&second)), (Kind::Cluster, vec!["b"]));
    assert_eq!(stream.deadline(), Some(WARMING_MAX * 2));
    let third = stream.poll(WARMING_MAX * 2).unwrap();
    assert_eq!((third.kind, names(&third)), (Kind::Listener, vec!["l"]));
    // Both answers count when they come at last.
    let error_detail = Some(protos::google::rpc::Status { message: "a: no".into(), ..Default::default() });
    let nack = discovery::DeltaDiscoveryRequest { response_nonce: first.nonce, error_detail, ..ask(Kind::Cluster) };
    assert_eq!(stream.on_delta(&nack).unwrap().answer, Some(Err("a: no".into())));
    assert_eq!(ack(&mut stream, &second).answer, Some(Ok(())));
    assert_eq!(stream.status()[0].state, SyncState::Error, "a is still refused");
}

/// However often clusters change, what a silent client is owed stays bounded.
#[test]
fn unanswered_responses_are_bounded() {
    use crate::server::subscription::UNANSWERED_MAX;
    let mut stream = Stream::new(Protocol::Delta);
    stream.on_delta(&ask(Kind::Cluster)).unwrap();
    let mut last = None;
    for n in 0..3 * UNANSWERED_MAX as u32 {
        stream.set_target(Kind::Cluster, set(Kind::Cluster, &[("a", &n.to_string())]));
        last = stream.poll(WARMING_MAX * n);
        assert!(last.is_some(), "{n}");
    }
    assert_eq!(ack(&mut stream, &last.unwrap()).answer, Some(Ok(())));
    assert!(stream.is_converged());
}

#[test]
fn a_client_that_comes_back_gets_only_what_differs() {
    let target = set(Kind::Cluster, &[("a", "1"), ("b", "2"), ("n", "1")]);
    let version = |n: &str| version_string(target.get(n).unwrap().version);
    let had = [("a", version("a")), ("b", "0000000000000001".into()), ("c", "not ours".into())];
    let initial_resource_versions = had.into_iter().map(|(n, v)| (n.to_owned(), v)).collect();
    let mut stream = Stream::new(Protocol::Delta);
    stream.on_delta(&discovery::DeltaDiscoveryRequest { initial_resource_versions, ..ask(Kind::Cluster) }).unwrap();
    stream.set_target(Kind::Cluster, Arc::clone(&target));
    let push = stream.poll(Duration::ZERO).unwrap();
    assert_eq!((names(&push), push.removed.len()), (vec!["b", "n"], 0));
    ack(&mut stream, &push);
    assert!(stream.poll(Duration::ZERO).is_none(), "a listener not named yet may refer to c");
    let push = stream.poll(stream.deadline().unwrap()).unwrap();
    assert_eq!((names(&push), push.removed.clone()), (vec![], vec!["c".into()]));
}

#[test]
fn too_many_names_and_unknown_types_end_the_stream() {
    let mut stream = Stream::new(Protocol::Delta);
    let names = (0..=crate::server::subscription::NAMES_MAX).map(|i| i.to_string()).collect();
    let request = discovery::DeltaDiscoveryRequest { resource_names_subscribe: names, ..ask(Kind::Route) };
    assert_eq!(stream.on_delta(&request), Err(Refused::TooManyNames { kind: Kind::Route }));
    let request = discovery::DeltaDiscoveryRequest { type_url: "x/y".into(), ..Default::default() };
    assert_eq!(stream.on_delta(&request), Err(Refused::UnknownType("x/y".into())));
}
