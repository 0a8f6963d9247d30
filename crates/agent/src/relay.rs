//! Who answers a proxy's xDS stream? A fresh proxy gets what was kept of its earlier life ([`crate::kept`]); any other stream is
//! carried over one stream to istiod, message by message, delta or state of the world. The agent rides along: it asks for the
//! name table and keeps what comes. A separate proxy is served on a Unix socket; our own in this process reaches the control
//! plane itself, and is served from memory only what was kept.

use std::collections::VecDeque;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use prost::Message as _;
use protos::envoy::service::discovery::v3 as discovery;
use protos::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use protos::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use protos::istio::networking::nds::v1::NameTable;
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};
use xds::server::Kind;

use crate::certificate::full_message;
use crate::control::Control;
use crate::kept;
use crate::last_good::{Change, LastGood};
use crate::metrics::Metrics;
use crate::stream::{Delta, Dialect, Sotw};

/// Largest message, both ways.
const MESSAGE_BYTES_MAX: usize = 256 << 20;
/// Requests that wait for the control plane.
const PENDING_MAX: usize = 64;

/// Bytes on their way between our own proxy and what is kept.
const MEMORY_PIPE_BYTES: usize = 64 << 10;
/// Responses of one stream that wait for the proxy's verdict before they are kept.
const UNSETTLED_MAX: usize = 64;

/// What the agent does with what passes by.
#[derive(Debug, Clone)]
pub struct Learned {
    /// The name table for DNS, replaced whole.
    pub names: watch::Sender<Arc<NameTable>>,
    /// Ask for it?
    pub want_names: bool,
    /// Where accepted resources are kept.
    pub kept: Option<LastGood>,
    /// The agent's counters.
    pub metrics: Arc<Metrics>,
}

/// Serves the proxy on `socket`, if `private` for processes of our own user alone.
pub fn serve(socket: &Path, private: bool, control: Arc<Control>, learned: Learned) -> std::io::Result<()> {
    let socket = crate::unix::bind(socket, private)?;
    let relay = Relay { control, learned, carries: true };
    let service = AggregatedDiscoveryServiceServer::new(relay).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(async move {
        if let Err(error) = server.serve_with_incoming(socket.connections()).await {
            tracing::error!(target: "xdsproxy", "xDS relay: {error}");
        }
    });
    Ok(())
}

/// A connection to what was kept, for our own proxy in this process; `None`: nothing usable was.
pub fn connect_kept(control: &Arc<Control>, learned: &Learned) -> Option<DuplexStream> {
    learned.usable()?;
    let (own, theirs) = tokio::io::duplex(MEMORY_PIPE_BYTES);
    let relay = Relay { control: Arc::clone(control), learned: learned.clone(), carries: false };
    let server = tonic::transport::Server::builder().add_service(AggregatedDiscoveryServiceServer::new(relay));
    tokio::spawn(async move {
        // One connection; its end is not worth a word.
        let _ = server.serve_with_incoming(tokio_stream::once(Ok::<_, std::io::Error>(theirs))).await;
    });
    Some(own)
}

impl Learned {
    /// What was kept, if a proxy can start from it.
    fn usable(&self) -> Option<&LastGood> {
        self.kept.as_ref().filter(|kept| kept.is_complete())
    }
}

struct Relay {
    control: Arc<Control>,
    learned: Learned,
    /// Streams that are not answered from what was kept go on to the control plane.
    carries: bool,
}

type Answers<R> = Pin<Box<dyn Stream<Item = Result<R, Status>> + Send>>;
type Client = AggregatedDiscoveryServiceClient<Channel>;

/// What the relay must know of either dialect's messages.
trait Wire: Dialect {
    /// The agent's own request for the name table; with a nonce, its acknowledgement.
    fn names_request(nonce: &str, version: &str) -> Self::Request;
    /// The name table, if the response is the agent's.
    fn names_response(response: &Self::Response) -> Option<(String, String, Option<NameTable>)>;
    /// What a response changes, with its nonce.
    fn changes(response: &Self::Response) -> Option<(String, Kind, Vec<Change>)>;
    /// The nonce that a request accepts.
    fn accepted(request: &Self::Request) -> Option<&str>;
    fn open(
        client: &mut Client,
        request: Request<ReceiverStream<Self::Request>>,
    ) -> impl Future<Output = Result<Streaming<Self::Response>, Status>> + Send;
}

fn table(value: &[u8]) -> Option<NameTable> {
    NameTable::decode(value).ok()
}

impl Wire for Delta {
    fn names_request(nonce: &str, _: &str) -> Self::Request {
        Self::Request {
            type_url: Kind::NameTable.type_url().into(),
            response_nonce: nonce.into(),
            ..Default::default()
        }
    }
    fn names_response(response: &Self::Response) -> Option<(String, String, Option<NameTable>)> {
        (response.type_url == Kind::NameTable.type_url()).then(|| {
            let value = response.resources.first().and_then(|r| r.resource.as_ref());
            (response.nonce.clone(), String::new(), value.and_then(|v| table(&v.value)))
        })
    }
    fn changes(response: &Self::Response) -> Option<(String, Kind, Vec<Change>)> {
        let kind = Kind::from_type_url(&response.type_url)?;
        let put = |r: &discovery::Resource| Change::Put(r.name.clone(), r.resource.clone().unwrap_or_default().value);
        let removed = response.removed_resources.iter().map(|name| Change::Remove(name.clone()));
        Some((response.nonce.clone(), kind, removed.chain(response.resources.iter().map(put)).collect()))
    }
    fn accepted(request: &Self::Request) -> Option<&str> {
        (request.error_detail.is_none() && !request.response_nonce.is_empty()).then_some(&request.response_nonce)
    }
    async fn open(
        client: &mut Client,
        request: Request<ReceiverStream<Self::Request>>,
    ) -> Result<Streaming<Self::Response>, Status> {
        Ok(client.delta_aggregated_resources(request).await?.into_inner())
    }
}

impl Wire for Sotw {
    fn names_request(nonce: &str, version: &str) -> Self::Request {
        Self::Request {
            type_url: Kind::NameTable.type_url().into(),
            response_nonce: nonce.into(),
            version_info: version.into(),
            ..Default::default()
        }
    }
    fn names_response(response: &Self::Response) -> Option<(String, String, Option<NameTable>)> {
        (response.type_url == Kind::NameTable.type_url()).then(|| {
            let value = response.resources.first().and_then(|v| table(&v.value));
            (response.nonce.clone(), response.version_info.clone(), value)
        })
    }
    fn changes(response: &Self::Response) -> Option<(String, Kind, Vec<Change>)> {
        let kind = Kind::from_type_url(&response.type_url)?;
        let put =
            |any: &prost_types::Any| xds::client::resource_name(any).map(|name| Change::Put(name, any.value.clone()));
        let reset = kind.is_full_state().then_some(Change::Reset);
        Some((
            response.nonce.clone(),
            kind,
            reset.into_iter().chain(response.resources.iter().filter_map(put)).collect(),
        ))
    }
    fn accepted(request: &Self::Request) -> Option<&str> {
        (request.error_detail.is_none() && !request.response_nonce.is_empty()).then_some(&request.response_nonce)
    }
    async fn open(
        client: &mut Client,
        request: Request<ReceiverStream<Self::Request>>,
    ) -> Result<Streaming<Self::Response>, Status> {
        Ok(client.stream_aggregated_resources(request).await?.into_inner())
    }
}

impl Relay {
    fn open<W: Wire>(&self, inbound: Streaming<W::Request>) -> Response<Answers<W::Response>> {
        let (down, receiver) = mpsc::channel(1);
        let (control, learned, carries) = (Arc::clone(&self.control), self.learned.clone(), self.carries);
        tokio::spawn(async move {
            if let Err(status) = answer::<W>(inbound, &down, &control, &learned, carries).await {
                tracing::info!(target: "xdsproxy", "xDS stream ended: {}: {}", status.code(), full_message(&status));
                // The proxy keeps what it has and comes back with its own back-off.
                let _ = down.send(Err(Status::unavailable(full_message(&status)))).await;
            }
        });
        Response::new(Box::pin(ReceiverStream::new(receiver)))
    }
}

/// What the proxy has been sent and not yet judged, by nonce.
#[derive(Default)]
struct Unsettled(VecDeque<(String, Kind, Vec<Change>)>);

impl Unsettled {
    fn sent(&mut self, response: Option<(String, Kind, Vec<Change>)>) {
        // A proxy that answers nothing costs its history, not our memory.
        if self.0.len() == UNSETTLED_MAX {
            self.0.pop_front();
        }
        self.0.extend(response);
    }

    fn accepted(&mut self, nonce: &str) -> Option<(Kind, Vec<Change>)> {
        let at = self.0.iter().position(|(sent, ..)| sent == nonce)?;
        self.0.remove(at).map(|(_, kind, changes)| (kind, changes))
    }
}

async fn answer<W: Wire>(
    mut inbound: Streaming<W::Request>,
    down: &mpsc::Sender<Result<W::Response, Status>>,
    control: &Arc<Control>,
    learned: &Learned,
    carries: bool,
) -> Result<(), Status> {
    let Some(first) = inbound.next().await.transpose()? else {
        return Ok(());
    };
    match learned.usable().filter(|_| !W::resumes(&first)) {
        Some(kept) => kept::serve::<W>(first, inbound, down, kept, control).await,
        None if carries => carry::<W>(first, inbound, down, control, learned).await,
        None => Err(Status::unavailable("the proxy has its configuration")),
    }
}

/// Carries one stream to the control plane and back.
async fn carry<W: Wire>(
    first: W::Request,
    mut inbound: Streaming<W::Request>,
    down: &mpsc::Sender<Result<W::Response, Status>>,
    control: &Arc<Control>,
    learned: &Learned,
) -> Result<(), Status> {
    let (up, requests) = mpsc::channel(PENDING_MAX);
    let gone = || Status::unavailable("control plane closed the stream");
    let metrics = &learned.metrics;
    up.send(first).await.map_err(|_| gone())?;
    if learned.want_names {
        up.send(W::names_request("", "")).await.map_err(|_| gone())?;
    }
    let mut request = Request::new(ReceiverStream::new(requests));
    control.identify(&mut request);
    let mut client = Client::new(control.channel()).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let mut answers = W::open(&mut client, request).await.inspect_err(|_| metrics.istiod_failures.add())?;
    tracing::info!(target: "xdsproxy", "connected to upstream XDS server");
    let mut unsettled = Unsettled::default();
    loop {
        tokio::select! {
            request = inbound.next() => match request {
                Some(Ok(request)) => {
                    if let (Some(kept), Some((kind, changes))) =
                        (&learned.kept, W::accepted(&request).and_then(|nonce| unsettled.accepted(nonce)))
                    {
                        kept.keep(kind, changes);
                    }
                    metrics.xds_requests.add();
                    up.send(request).await.map_err(|_| gone())?;
                }
                Some(Err(_)) | None => {
                    metrics.envoy_terminations.add();
                    return Ok(());
                }
            },
            answer = answers.next() => {
                let Some(answer) = answer.transpose().inspect_err(|_| metrics.istiod_terminations.add())? else {
                    metrics.istiod_terminations.add();
                    return Err(gone());
                };
                metrics.xds_responses.add();
                if let Some((nonce, version, names)) = W::names_response(&answer).filter(|_| learned.want_names) {
                    if let (Some(kept), Some((_, kind, changes))) = (&learned.kept, W::changes(&answer)) {
                        kept.keep(kind, changes);
                    }
                    if let Some(names) = names {
                        learned.names.send_replace(Arc::new(names));
                    }
                    up.send(W::names_request(&nonce, &version)).await.map_err(|_| gone())?;
                } else {
                    if learned.kept.is_some() {
                        unsettled.sent(W::changes(&answer));
                    }
                    if down.send(Ok(answer)).await.is_err() {
                        return Ok(());
                    }
                }
            }
        }
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Relay {
    type StreamAggregatedResourcesStream = Answers<discovery::DiscoveryResponse>;
    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<discovery::DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Ok(self.open::<Sotw>(request.into_inner()))
    }

    type DeltaAggregatedResourcesStream = Answers<discovery::DeltaDiscoveryResponse>;
    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<discovery::DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Ok(self.open::<Delta>(request.into_inner()))
    }
}
