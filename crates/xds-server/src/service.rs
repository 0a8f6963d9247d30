//! The gRPC face: `envoy.service.discovery.v3.AggregatedDiscoveryService`, delta and state of the world.

use std::sync::Arc;

use protos::envoy::config::core::v3::{ControlPlane, Node};
use protos::envoy::service::discovery::v3 as discovery;
use protos::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use xds::server::{Event, Protocol, Push, Refused, Stream};

use crate::serve::serve;
use crate::{Authenticate, Hub, REQUEST_BYTES_MAX, Source};

/// One of the two protocols, as messages.
pub(crate) trait Wire: Send + 'static {
    type Request: Send + 'static;
    type Response: Send + 'static;
    const PROTOCOL: Protocol;
    fn node(request: &mut Self::Request) -> Option<Node>;
    fn feed(stream: &mut Stream, request: &Self::Request) -> Result<Event, Refused>;
    fn encode(push: &Push, identifier: &str) -> Self::Response;
}

pub(crate) struct Delta;
pub(crate) struct Sotw;

fn control_plane(identifier: &str) -> Option<ControlPlane> {
    Some(ControlPlane { identifier: identifier.to_owned() })
}

impl Wire for Delta {
    type Request = discovery::DeltaDiscoveryRequest;
    type Response = discovery::DeltaDiscoveryResponse;
    const PROTOCOL: Protocol = Protocol::Delta;
    fn node(request: &mut Self::Request) -> Option<Node> {
        request.node.take()
    }
    fn feed(stream: &mut Stream, request: &Self::Request) -> Result<Event, Refused> {
        stream.on_delta(request)
    }
    fn encode(push: &Push, identifier: &str) -> Self::Response {
        Self::Response { control_plane: control_plane(identifier), ..push.to_delta() }
    }
}

impl Wire for Sotw {
    type Request = discovery::DiscoveryRequest;
    type Response = discovery::DiscoveryResponse;
    const PROTOCOL: Protocol = Protocol::Sotw;
    fn node(request: &mut Self::Request) -> Option<Node> {
        request.node.take()
    }
    fn feed(stream: &mut Stream, request: &Self::Request) -> Result<Event, Refused> {
        stream.on_sotw(request)
    }
    fn encode(push: &Push, identifier: &str) -> Self::Response {
        Self::Response { control_plane: control_plane(identifier), ..push.to_sotw() }
    }
}

/// Serves the hub's source to callers that the authenticator knows.
pub struct AdsService<S: Source> {
    hub: Arc<Hub<S>>,
    authenticate: Arc<dyn Authenticate>,
}

impl<S: Source> AdsService<S> {
    /// A tonic service, with the message limits set.
    pub fn server(hub: Arc<Hub<S>>, authenticate: impl Authenticate) -> AggregatedDiscoveryServiceServer<Self> {
        let service = AdsService { hub, authenticate: Arc::new(authenticate) };
        AggregatedDiscoveryServiceServer::new(service).max_decoding_message_size(REQUEST_BYTES_MAX)
    }

    async fn open<W: Wire>(&self, request: Request<Streaming<W::Request>>) -> Result<Answers<W>, Status> {
        let identities = self.authenticate.authenticate(request.metadata(), request.extensions())?;
        let forwarded = request.metadata().get("x-forwarded-for").and_then(|v| v.to_str().ok());
        let address = request.remote_addr().map(|a| a.to_string());
        let address = address.or_else(|| forwarded.map(str::to_owned)).unwrap_or_default();
        let (sender, receiver) = mpsc::channel(1);
        let hub = Arc::clone(&self.hub);
        tokio::spawn(async move {
            let inbound = request.into_inner();
            if let Err(status) = serve::<W, S>(hub, inbound, &sender, identities, address).await {
                let _ = sender.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

type Answers<W> = Response<ReceiverStream<Result<<W as Wire>::Response, Status>>>;

#[tonic::async_trait]
impl<S: Source> AggregatedDiscoveryService for AdsService<S> {
    type StreamAggregatedResourcesStream = ReceiverStream<Result<discovery::DiscoveryResponse, Status>>;
    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<discovery::DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        self.open::<Sotw>(request).await
    }

    type DeltaAggregatedResourcesStream = ReceiverStream<Result<discovery::DeltaDiscoveryResponse, Status>>;
    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<discovery::DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        self.open::<Delta>(request).await
    }
}
