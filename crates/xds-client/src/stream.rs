//! The life of a subscription: connect, speak, listen, lose, wait, connect again.

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use protos::envoy::config::core::v3::Node;
use protos::envoy::service::discovery::v3 as discovery;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use xds::client::{Client, Protocol, Rejection, Request, Update};

use crate::backoff::Backoff;
use crate::grpc::{GrpcError, Stream};

/// How long a connection may take to be made, handshakes included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A stream that lived this long was good: the next back-off starts small.
const GOOD_STREAM: Duration = Duration::from_secs(10);

/// Updates not yet applied; the stream is not read beyond.
const UPDATES_MAX: usize = 8;

/// Any duplex byte stream.
pub trait Io: AsyncRead + AsyncWrite {}
impl<T: AsyncRead + AsyncWrite> Io for T {}

/// A boxed connection.
pub type BoxIo = Pin<Box<dyn Io>>;

/// A connection and what goes with the stream on it.
pub struct Connection {
    /// The bytes.
    pub io: BoxIo,
    /// Headers besides [`Settings::metadata`], true for this connection only (a token that is rotated).
    pub metadata: Vec<(String, String)>,
}

/// Makes a connection to the control plane, TLS included.
pub type Connector = Rc<dyn Fn() -> Pin<Box<dyn Future<Output = io::Result<Connection>>>>>;

/// Which gRPC service is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// The aggregated service, all types on one stream.
    Aggregated,
    /// `SecretDiscoveryService`
    Secret,
    /// `ListenerDiscoveryService`
    Listener,
    /// `ClusterDiscoveryService`
    Cluster,
    /// `EndpointDiscoveryService`
    Endpoint,
    /// `RouteDiscoveryService`
    Route,
    /// `ExtensionConfigDiscoveryService`
    Extension,
    /// `VirtualHostDiscoveryService`, which speaks delta only
    VirtualHost,
}

impl Service {
    fn path(self, protocol: Protocol) -> &'static str {
        match (self, protocol) {
            (Self::Aggregated, Protocol::Delta) => {
                "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
            }
            (Self::Aggregated, _) => "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
            (Self::Secret, Protocol::Delta) => "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets",
            (Self::Secret, _) => "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets",
            (Self::Listener, Protocol::Delta) => "/envoy.service.listener.v3.ListenerDiscoveryService/DeltaListeners",
            (Self::Listener, _) => "/envoy.service.listener.v3.ListenerDiscoveryService/StreamListeners",
            (Self::Cluster, Protocol::Delta) => "/envoy.service.cluster.v3.ClusterDiscoveryService/DeltaClusters",
            (Self::Cluster, _) => "/envoy.service.cluster.v3.ClusterDiscoveryService/StreamClusters",
            (Self::Endpoint, Protocol::Delta) => "/envoy.service.endpoint.v3.EndpointDiscoveryService/DeltaEndpoints",
            (Self::Endpoint, _) => "/envoy.service.endpoint.v3.EndpointDiscoveryService/StreamEndpoints",
            (Self::Extension, Protocol::Delta) => {
                "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/DeltaExtensionConfigs"
            }
            (Self::Extension, _) => {
                "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/StreamExtensionConfigs"
            }
            (Self::Route, Protocol::Delta) => "/envoy.service.route.v3.RouteDiscoveryService/DeltaRoutes",
            (Self::VirtualHost, _) => "/envoy.service.route.v3.VirtualHostDiscoveryService/DeltaVirtualHosts",
            (Self::Route, _) => "/envoy.service.route.v3.RouteDiscoveryService/StreamRoutes",
        }
    }
}

/// How the stream is opened.
#[derive(Clone)]
pub struct Settings {
    /// Which service.
    pub service: Service,
    /// Which dialect.
    pub protocol: Protocol,
    /// Who we are.
    pub node: Node,
    /// `:authority` of the requests: the cluster's name, as Envoy sends.
    pub authority: String,
    /// `initial_metadata`
    pub metadata: Vec<(String, String)>,
    /// Send the node on each request.
    pub node_always: bool,
    /// Makes connections.
    pub connector: Connector,
    /// Waits between attempts.
    pub backoff: Backoff,
}

/// What the stream tells.
#[derive(Debug)]
pub enum Event {
    /// A stream is open.
    Connected,
    /// The stream is gone, or could not be opened; another attempt follows.
    Disconnected(String),
    /// Resources arrived; answer with [`Handle::settle`].
    Update(Update),
}

enum Command {
    Open(String),
    Names { type_url: String, wildcard: bool, names: BTreeSet<String> },
    Settle { update: Update, verdict: Result<(), Rejection> },
}

/// Steers a stream; dropping all handles ends it.
#[derive(Clone)]
pub struct Handle(mpsc::UnboundedSender<Command>);

impl Handle {
    /// States what is wanted of a type from now on.
    pub fn set_names(&self, type_url: &str, wildcard: bool, names: BTreeSet<String>) {
        // Fails only when the stream's task has ended with the runtime.
        let _ = self.0.send(Command::Names { type_url: type_url.to_owned(), wildcard, names });
    }

    /// Begins to speak of a type although nothing of it is wanted yet.
    pub fn open(&self, type_url: &str) {
        // As above.
        let _ = self.0.send(Command::Open(type_url.to_owned()));
    }

    /// Answers an update. Names set before are told to the server with or before the answer's effects.
    pub fn settle(&self, mut update: Update, verdict: Result<(), Rejection>) {
        // Bodies are not needed for the answer.
        update.resources.iter_mut().for_each(|r| r.body.value = Vec::new());
        let _ = self.0.send(Command::Settle { update, verdict });
    }
}

/// Starts a subscription as a task of the current `LocalSet`.
pub fn spawn(settings: Settings) -> (Handle, mpsc::Receiver<Event>) {
    let (commands, receiver) = mpsc::unbounded_channel();
    let (events, updates) = mpsc::channel(UPDATES_MAX);
    tokio::task::spawn_local(run(settings, receiver, events));
    (Handle(commands), updates)
}

fn obey(client: &mut Client, command: Command) {
    match command {
        Command::Open(type_url) => client.open(&type_url),
        Command::Names { type_url, wildcard, names } => client.set_names(&type_url, wildcard, names),
        Command::Settle { update, verdict } => client.settle(&update, verdict),
    }
}

async fn run(settings: Settings, mut commands: mpsc::UnboundedReceiver<Command>, events: mpsc::Sender<Event>) {
    let mut client = Client::new(settings.protocol, settings.node.clone()).with_node_always(settings.node_always);
    let mut backoff = settings.backoff.clone();
    loop {
        let started = tokio::time::Instant::now();
        let reason = match connect(&settings).await {
            Ok(stream) => {
                client.reconnect();
                if events.send(Event::Connected).await.is_err() {
                    return;
                }
                match speak(stream, &settings, &mut client, &mut commands, &events).await {
                    Ok(()) => return,
                    Err(e) => e.to_string(),
                }
            }
            Err(reason) => reason,
        };
        if events.send(Event::Disconnected(reason)).await.is_err() {
            return;
        }
        if started.elapsed() > GOOD_STREAM {
            backoff.reset();
        }
        let wait = sleep(backoff.next(rand::random()));
        tokio::pin!(wait);
        loop {
            tokio::select! {
                () = &mut wait => break,
                command = commands.recv() => match command {
                    Some(command) => obey(&mut client, command),
                    None => return,
                },
            }
        }
    }
}

async fn connect(settings: &Settings) -> Result<Stream, String> {
    let open = async {
        let Connection { io, mut metadata } = (settings.connector)().await.map_err(|e| e.to_string())?;
        metadata.extend_from_slice(&settings.metadata);
        Stream::open(io, &settings.authority, settings.service.path(settings.protocol), &metadata)
            .await
            .map_err(|e| e.to_string())
    };
    timeout(CONNECT_TIMEOUT, open).await.unwrap_or_else(|_| Err("connection timeout".into()))
}

/// Ends with `Ok` when all handles are gone.
async fn speak(
    mut stream: Stream,
    settings: &Settings,
    client: &mut Client,
    commands: &mut mpsc::UnboundedReceiver<Command>,
    events: &mpsc::Sender<Event>,
) -> Result<(), GrpcError> {
    loop {
        // All that is to be said belongs together: names first, then the requests that follow from them.
        while let Ok(command) = commands.try_recv() {
            obey(client, command);
        }
        while let Some(request) = client.poll() {
            match request {
                Request::Delta(r) => stream.send(&*r)?,
                Request::StateOfTheWorld(r) => stream.send(&*r)?,
            }
        }
        let update = tokio::select! {
            command = commands.recv() => {
                let Some(command) = command else { return Ok(()) };
                obey(client, command);
                continue;
            }
            update = receive(&mut stream, settings.protocol, client) => update?,
        };
        if let Some(update) = update
            && events.send(Event::Update(update)).await.is_err()
        {
            return Ok(());
        }
    }
}

async fn receive(stream: &mut Stream, protocol: Protocol, client: &mut Client) -> Result<Option<Update>, GrpcError> {
    Ok(match protocol {
        Protocol::Delta => client.on_delta(stream.receive::<discovery::DeltaDiscoveryResponse>().await?),
        Protocol::StateOfTheWorld => client.on_sotw(stream.receive::<discovery::DiscoveryResponse>().await?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::{BufMut, Bytes, BytesMut};
    use prost::Message;
    use std::cell::RefCell;
    use tokio::task::{LocalSet, spawn_local};

    const CDS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";

    /// A server that takes one stream on `io`, reports each request and sends what it is told.
    async fn serve(
        io: tokio::io::DuplexStream,
        seen: mpsc::UnboundedSender<discovery::DeltaDiscoveryRequest>,
        mut say: mpsc::UnboundedReceiver<discovery::DeltaDiscoveryResponse>,
    ) {
        let mut connection = h2::server::handshake(io).await.expect("handshake");
        let (request, mut respond) = connection.accept().await.expect("one stream").expect("valid");
        spawn_local(async move { while connection.accept().await.is_some() {} });
        assert_eq!(request.uri().path(), Service::Aggregated.path(Protocol::Delta));
        let mut send = respond.send_response(http::Response::new(()), false).expect("headers");
        let mut body = request.into_body();
        let mut buffer = BytesMut::new();
        loop {
            tokio::select! {
                data = body.data() => {
                    let Some(Ok(data)) = data else { return };
                    buffer.extend_from_slice(&data);
                    while buffer.len() >= 5 {
                        let n = u32::from_be_bytes(buffer[1..5].try_into().expect("four")) as usize;
                        if buffer.len() < 5 + n { break }
                        let frame = buffer.split_to(5 + n);
                        let _ = seen.send(discovery::DeltaDiscoveryRequest::decode(&frame[5..]).expect("valid"));
                    }
                }
                message = say.recv() => {
                    let Some(message) = message else {
                        let mut trailers = http::HeaderMap::new();
                        trailers.insert("grpc-status", 14.into());
                        let _ = send.send_trailers(trailers);
                        tokio::task::yield_now().await;
                        continue;
                    };
                    let bytes = message.encode_to_vec();
                    let mut frame = BytesMut::new();
                    frame.put_u8(0);
                    frame.put_u32(bytes.len() as u32);
                    frame.extend_from_slice(&bytes);
                    send.send_data(frame.freeze() as Bytes, false).expect("open");
                }
            }
        }
    }

    #[test]
    fn subscribes_answers_and_resumes() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("runtime");
        LocalSet::new().block_on(&runtime, async {
            let (sockets_in, sockets) = mpsc::unbounded_channel::<tokio::io::DuplexStream>();
            let sockets = Rc::new(RefCell::new(sockets));
            let connector: Connector = Rc::new(move || {
                let next = sockets.borrow_mut().try_recv();
                Box::pin(async move {
                    match next {
                        Ok(io) => Ok(Connection { io: Box::pin(io) as BoxIo, metadata: Vec::new() }),
                        Err(_) => Err(io::Error::other("refused")),
                    }
                })
            });
            let settings = Settings {
                service: Service::Aggregated,
                protocol: Protocol::Delta,
                node: Node { id: "n".into(), ..Default::default() },
                authority: "xds".into(),
                metadata: vec![("authorization".into(), "Bearer t".into())],
                node_always: false,
                connector,
                backoff: Backoff::default(),
            };
            let (seen_in, mut seen) = mpsc::unbounded_channel();
            let start = |seen_in: mpsc::UnboundedSender<_>| {
                let (client, server) = tokio::io::duplex(1 << 16);
                let (say, said) = mpsc::unbounded_channel();
                sockets_in.send(client).expect("client lives");
                spawn_local(serve(server, seen_in, said));
                say
            };
            let say = start(seen_in.clone());
            let (handle, mut events) = spawn(settings);
            handle.set_names(CDS, true, BTreeSet::new());
            assert!(matches!(events.recv().await, Some(Event::Connected)));
            let first = seen.recv().await.expect("request");
            assert_eq!((first.type_url.as_str(), first.node.map(|n| n.id)), (CDS, Some("n".into())));
            let resource = discovery::Resource { name: "a".into(), version: "v1".into(), ..Default::default() };
            let push = discovery::DeltaDiscoveryResponse {
                type_url: CDS.into(),
                nonce: "1".into(),
                resources: vec![resource],
                ..Default::default()
            };
            say.send(push).expect("server lives");
            let Some(Event::Update(update)) = events.recv().await else { panic!("no update") };
            handle.settle(update, Ok(()));
            assert_eq!(seen.recv().await.expect("ACK").response_nonce, "1");
            drop(say);
            let Some(Event::Disconnected(reason)) = events.recv().await else { panic!("still connected") };
            assert!(reason.contains("gRPC status 14"), "{reason}");
            // One refused attempt, then a server again: the version held is resumed.
            assert!(matches!(events.recv().await, Some(Event::Disconnected(_))));
            let _say = start(seen_in);
            assert!(matches!(events.recv().await, Some(Event::Connected)));
            let again = seen.recv().await.expect("request");
            assert_eq!(again.initial_resource_versions.get("a").map(String::as_str), Some("v1"));
        });
    }
}
