//! How does a separate proxy's xDS reach the control plane? Each stream on the agent's Unix socket is carried
//! over one stream to istiod, message by message, delta or state of the world. The agent rides along: it asks
//! for the name table and keeps what comes.

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
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};
use xds::server::Kind;

use crate::certificate::full_message;
use crate::control::Control;

/// Largest message, both ways.
const MESSAGE_BYTES_MAX: usize = 256 << 20;
/// Requests that wait for the control plane.
const PENDING_MAX: usize = 64;

/// What the agent learns from the stream.
#[derive(Debug, Clone)]
pub struct Learned {
    /// The name table for DNS, replaced whole.
    pub names: watch::Sender<Arc<NameTable>>,
    /// Ask for it?
    pub want_names: bool,
}

/// Serves the proxy on `socket`.
pub fn serve(socket: &Path, control: Arc<Control>, learned: Learned) -> std::io::Result<()> {
    let listener = crate::unix::bind(socket)?;
    let relay = Relay { control, learned };
    let service = AggregatedDiscoveryServiceServer::new(relay).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(async move {
        if let Err(error) = server.serve_with_incoming(UnixListenerStream::new(listener)).await {
            tracing::error!(target: "xdsproxy", "xDS relay: {error}");
        }
    });
    Ok(())
}

struct Relay {
    control: Arc<Control>,
    learned: Learned,
}

type Answers<R> = Pin<Box<dyn Stream<Item = Result<R, Status>> + Send>>;
type Client = AggregatedDiscoveryServiceClient<Channel>;

/// What the relay must know of either protocol's messages.
trait Wire: Send + 'static {
    type Request: Send + 'static;
    type Response: Send + 'static;
    /// The agent's own request for the name table; with a nonce, its acknowledgement.
    fn names_request(nonce: &str, version: &str) -> Self::Request;
    /// The name table, if the response is the agent's.
    fn names_response(response: &Self::Response) -> Option<(String, String, Option<NameTable>)>;
    fn open(
        client: &mut Client,
        request: Request<ReceiverStream<Self::Request>>,
    ) -> impl Future<Output = Result<Streaming<Self::Response>, Status>> + Send;
}

struct Delta;
struct Sotw;

fn table(value: &[u8]) -> Option<NameTable> {
    NameTable::decode(value).ok()
}

impl Wire for Delta {
    type Request = discovery::DeltaDiscoveryRequest;
    type Response = discovery::DeltaDiscoveryResponse;
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
    async fn open(
        client: &mut Client,
        request: Request<ReceiverStream<Self::Request>>,
    ) -> Result<Streaming<Self::Response>, Status> {
        Ok(client.delta_aggregated_resources(request).await?.into_inner())
    }
}

impl Wire for Sotw {
    type Request = discovery::DiscoveryRequest;
    type Response = discovery::DiscoveryResponse;
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
        let (control, learned) = (Arc::clone(&self.control), self.learned.clone());
        tokio::spawn(async move {
            if let Err(status) = carry::<W>(inbound, &down, &control, &learned).await {
                tracing::warn!(target: "xdsproxy", "connection to control plane: {}: {}", status.code(), full_message(&status));
                // The proxy keeps what it has and comes back with its own back-off.
                let _ = down.send(Err(Status::unavailable(full_message(&status)))).await;
            }
        });
        Response::new(Box::pin(ReceiverStream::new(receiver)))
    }
}

async fn carry<W: Wire>(
    mut inbound: Streaming<W::Request>,
    down: &mpsc::Sender<Result<W::Response, Status>>,
    control: &Arc<Control>,
    learned: &Learned,
) -> Result<(), Status> {
    let (up, requests) = mpsc::channel(PENDING_MAX);
    let Some(first) = inbound.next().await.transpose()? else {
        return Ok(());
    };
    let gone = || Status::unavailable("control plane closed the stream");
    up.send(first).await.map_err(|_| gone())?;
    if learned.want_names {
        up.send(W::names_request("", "")).await.map_err(|_| gone())?;
    }
    let mut request = Request::new(ReceiverStream::new(requests));
    if let Some(token) = control.authorization() {
        request.metadata_mut().insert("authorization", token);
    }
    let mut client = Client::new(control.channel()).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let mut answers = W::open(&mut client, request).await?;
    tracing::info!(target: "xdsproxy", "connected to upstream XDS server");
    loop {
        tokio::select! {
            request = inbound.next() => match request {
                Some(Ok(request)) => up.send(request).await.map_err(|_| gone())?,
                Some(Err(_)) | None => return Ok(()),
            },
            answer = answers.next() => {
                let Some(answer) = answer.transpose()? else { return Err(gone()) };
                if let Some((nonce, version, names)) = W::names_response(&answer).filter(|_| learned.want_names) {
                    if let Some(names) = names {
                        learned.names.send_replace(Arc::new(names));
                    }
                    up.send(W::names_request(&nonce, &version)).await.map_err(|_| gone())?;
                } else if down.send(Ok(answer)).await.is_err() {
                    return Ok(());
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
