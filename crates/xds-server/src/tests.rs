//! Streams over an in-memory connection, with a source whose world is a list of texts.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use protos::envoy::config::core::v3::Node;
use protos::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use xds::server::{Kind, Push, Resource, ResourceSet, Want};

use crate::serve::serve;
use crate::service::Delta;
use crate::{Change, Hub, Options, Source};

#[derive(Debug, Clone, PartialEq)]
struct Kinds(Vec<Kind>);

impl Change for Kinds {
    fn merge(&mut self, later: &Self) {
        self.0.extend(&later.0);
    }
}

#[derive(Default)]
struct World {
    texts: Mutex<Vec<(Kind, String, String)>>,
    connected: Mutex<Vec<String>>,
}

impl World {
    fn set(&self, texts: &[(Kind, &str, &str)]) {
        *self.texts.lock().unwrap() = texts.iter().map(|(k, n, t)| (*k, n.to_string(), t.to_string())).collect();
    }
}

impl Source for World {
    type Proxy = String;
    type Change = Kinds;
    fn connect(&self, node: &Node, _: &[String]) -> Result<String, Status> {
        if node.id == "stranger" {
            return Err(Status::permission_denied("no"));
        }
        self.connected.lock().unwrap().push(node.id.clone());
        Ok(node.id.clone())
    }
    fn update(&self, _: &mut String, change: &Kinds) -> Vec<Kind> {
        change.0.clone()
    }
    fn generate(&self, _: &mut String, want: &Want<'_>) -> Arc<ResourceSet> {
        let texts = self.texts.lock().unwrap();
        let of_kind = texts.iter().filter(|(k, ..)| *k == want.kind);
        Arc::new(of_kind.map(|(_, n, t)| Resource::new(n.as_str(), t.clone().into_bytes())).collect())
    }
    fn disconnect(&self, proxy: String) {
        self.connected.lock().unwrap().retain(|p| *p != proxy);
    }
}

struct Client {
    up: mpsc::Sender<Result<DeltaDiscoveryRequest, Status>>,
    down: mpsc::Receiver<Result<Push, Status>>,
    task: tokio::task::JoinHandle<()>,
}

impl Client {
    fn connect(hub: &Arc<Hub<World>>) -> Client {
        let (up, inbound) = mpsc::channel(16);
        let (outbound, down) = mpsc::channel(1);
        let hub = Arc::clone(hub);
        let task = tokio::spawn(async move {
            let inbound = ReceiverStream::new(inbound);
            if let Err(status) = serve::<Delta, World>(hub, inbound, &outbound, Vec::new(), String::new()).await {
                let _ = outbound.send(Err(status)).await;
            }
        });
        Client { up, down, task }
    }

    async fn send(&self, kind: Kind, node: Option<&str>, nonce: &str) {
        let request = DeltaDiscoveryRequest {
            node: node.map(|id| Node { id: id.into(), ..Default::default() }),
            type_url: kind.type_url().into(),
            response_nonce: nonce.into(),
            ..Default::default()
        };
        self.up.send(Ok(request)).await.unwrap();
    }

    async fn receive(&mut self) -> DeltaDiscoveryResponse {
        self.down.recv().await.unwrap().unwrap().to_delta()
    }
}

fn names(response: &DeltaDiscoveryResponse) -> Vec<&str> {
    response.resources.iter().map(|r| r.name.as_str()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_change_reaches_the_client_once_and_convergence_is_recorded() {
    let world = Arc::new(World::default());
    world.set(&[(Kind::NameTable, "a", "1")]);
    let hub = Hub::new(Arc::clone(&world), Options::default());
    let mut client = Client::connect(&hub);
    client.send(Kind::NameTable, Some("sidecar~1.1.1.1~a.b~b.svc"), "").await;
    let first = client.receive().await;
    assert_eq!(names(&first), ["a"]);
    // Three changes while the first response is not answered are one push.
    for text in ["2", "3", "4"] {
        world.set(&[(Kind::NameTable, "a", text), (Kind::NameTable, "b", text)]);
        hub.push(&Kinds(vec![Kind::NameTable]), Instant::now());
    }
    client.send(Kind::NameTable, None, &first.nonce).await;
    let second = client.receive().await;
    assert_eq!(names(&second), ["a", "b"]);
    assert_eq!(second.resources[0].resource.as_ref().unwrap().value, b"4");
    client.send(Kind::NameTable, None, &second.nonce).await;
    while hub.status()[0].convergence.converged == 0 {
        tokio::task::yield_now().await;
    }
    let status = hub.status();
    assert_eq!(status[0].types[0].nonce_acked, second.nonce);
    assert_eq!(hub.sent("a.b", Kind::NameTable).unwrap().len(), 2);
    let mut text = String::new();
    hub.metrics().render("test", &mut text);
    assert!(text.contains("pilot_xds_pushes{type=\"nds\"} 2"), "{text}");
    assert!(text.contains("pilot_proxy_convergence_time_count 1"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_type_that_did_not_change_is_not_made_again() {
    let world = Arc::new(World::default());
    let hub = Hub::new(Arc::clone(&world), Options::default());
    let mut client = Client::connect(&hub);
    client.send(Kind::Cluster, Some("n"), "").await;
    let clusters = client.receive().await;
    client.send(Kind::Cluster, None, &clusters.nonce).await;
    world.set(&[(Kind::Cluster, "c", "1")]);
    hub.push(&Kinds(vec![Kind::Endpoint]), Instant::now());
    hub.push(&Kinds(vec![]), Instant::now());
    assert!(tokio::time::timeout(Duration::from_secs(60), client.down.recv()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn everyone_leaves_the_hub() {
    let world = Arc::new(World::default());
    let hub = Hub::new(Arc::clone(&world), Options { max_age: Some(Duration::from_secs(30)), ..Options::default() });
    let open = async |node: &str| {
        let mut client = Client::connect(&hub);
        client.send(Kind::Cluster, Some(node), "").await;
        client.receive().await;
        assert_eq!(hub.len(), 1);
        client
    };
    // The client hangs up.
    let Client { up, task, .. } = open("a").await;
    drop(up);
    task.await.unwrap();
    assert!(hub.is_empty());
    // It grows old.
    let mut client = open("b").await;
    assert!(client.down.recv().await.is_none());
    // The operator wants it.
    let mut client = open("c").await;
    assert!(hub.disconnect("c") && !hub.disconnect("unknown"));
    assert_eq!(client.down.recv().await.unwrap().unwrap_err().code(), tonic::Code::Aborted);
    // The server goes.
    let mut client = open("d").await;
    hub.drain();
    assert_eq!(client.down.recv().await.unwrap().unwrap_err().code(), tonic::Code::Unavailable);
    client.task.await.unwrap();
    assert!(hub.is_empty() && world.connected.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn large_responses_wait_for_each_other_but_not_for_the_silent() {
    let world = Arc::new(World::default());
    let text = "x".repeat(200 << 10);
    world.set(&[(Kind::Cluster, "c", &text)]);
    let hub = Hub::new(Arc::clone(&world), Options { in_flight_bytes: 300 << 10, ..Options::default() });
    let (mut first, mut second) = (Client::connect(&hub), Client::connect(&hub));
    first.send(Kind::Cluster, Some("a"), "").await;
    let sent = first.receive().await;
    second.send(Kind::Cluster, Some("b"), "").await;
    let soon = Duration::from_secs(1);
    assert!(tokio::time::timeout(soon, second.down.recv()).await.is_err(), "there was room for one only");
    first.send(Kind::Cluster, None, &sent.nonce).await;
    assert_eq!(names(&second.receive().await), ["c"]);
    // The second never answers; the third gets its own in the end.
    let mut third = Client::connect(&hub);
    third.send(Kind::Cluster, Some("c"), "").await;
    assert!(tokio::time::timeout(soon, third.down.recv()).await.is_err());
    assert_eq!(names(&third.receive().await), ["c"]);
}

#[tokio::test(start_paused = true)]
async fn strangers_and_nonsense_are_told_why() {
    let hub = Hub::new(Arc::new(World::default()), Options::default());
    for (node, kind, code) in [
        (Some("stranger"), Kind::Cluster, tonic::Code::PermissionDenied),
        (None, Kind::Cluster, tonic::Code::InvalidArgument),
    ] {
        let mut client = Client::connect(&hub);
        client.send(kind, node, "").await;
        assert_eq!(client.down.recv().await.unwrap().unwrap_err().code(), code);
    }
    assert!(hub.is_empty());
}
