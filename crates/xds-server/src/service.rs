//! The gRPC face: `envoy.service.discovery.v3.AggregatedDiscoveryService`, delta and state of the world. By hand, because
//! responses are written as clients take them (`answers`), where generated code would build and encode a message each.

use std::convert::Infallible;
use std::sync::Arc;

use protos::envoy::config::core::v3::Node;
use protos::envoy::service::discovery::v3 as discovery;
use protos::envoy::service::discovery::v3::aggregated_discovery_service_server::SERVICE_NAME;
use protos::prost::Message;
use tokio::sync::mpsc;
use tonic::codegen::{Body, Context, Poll, Service, StdError, http};
use tonic::metadata::MetadataMap;
use tonic::server::NamedService;
use tonic::{Request, Status};
use xds::server::{Event, Protocol, Refused, Stream};

use crate::answers::Answers;
use crate::requests::Requests;
use crate::serve::serve;
use crate::{Authenticate, Hub, Source};

/// One of the two protocols, as messages.
pub(crate) trait Wire: Send + 'static {
    type Request: Message + Default + 'static;
    const PROTOCOL: Protocol;
    fn node(request: &mut Self::Request) -> Option<Node>;
    fn feed(stream: &mut Stream, request: &Self::Request) -> Result<Event, Refused>;
}

pub(crate) struct Delta;
pub(crate) struct Sotw;

impl Wire for Delta {
    type Request = discovery::DeltaDiscoveryRequest;
    const PROTOCOL: Protocol = Protocol::Delta;
    fn node(request: &mut Self::Request) -> Option<Node> {
        request.node.take()
    }
    fn feed(stream: &mut Stream, request: &Self::Request) -> Result<Event, Refused> {
        stream.on_delta(request)
    }
}

impl Wire for Sotw {
    type Request = discovery::DiscoveryRequest;
    const PROTOCOL: Protocol = Protocol::Sotw;
    fn node(request: &mut Self::Request) -> Option<Node> {
        request.node.take()
    }
    fn feed(stream: &mut Stream, request: &Self::Request) -> Result<Event, Refused> {
        stream.on_sotw(request)
    }
}

/// Serves the hub's source to callers that the authenticator knows.
pub struct AdsService<S: Source> {
    hub: Arc<Hub<S>>,
    authenticate: Arc<dyn Authenticate>,
}

impl<S: Source> Clone for AdsService<S> {
    fn clone(&self) -> Self {
        AdsService { hub: Arc::clone(&self.hub), authenticate: Arc::clone(&self.authenticate) }
    }
}

impl<S: Source> AdsService<S> {
    /// A tonic service.
    pub fn server(hub: Arc<Hub<S>>, authenticate: impl Authenticate) -> Self {
        AdsService { hub, authenticate: Arc::new(authenticate) }
    }

    fn open<W: Wire, B>(&self, request: http::Request<B>) -> Result<Answers, Status>
    where
        B: Body<Error: Into<StdError> + Send> + Send + 'static,
    {
        let (parts, body) = request.into_parts();
        let inbound = Requests::<B, W::Request>::new(body);
        let request = Request::from_parts(MetadataMap::from_headers(parts.headers), parts.extensions, inbound);
        let identities = self.authenticate.authenticate(request.metadata(), request.extensions())?;
        let forwarded = request.metadata().get("x-forwarded-for").and_then(|v| v.to_str().ok());
        let address = request.remote_addr().map(|a| a.to_string());
        let address = address.or_else(|| forwarded.map(str::to_owned)).unwrap_or_default();
        let (sender, receiver) = mpsc::channel(1);
        let hub = Arc::clone(&self.hub);
        let answers = Answers::new(receiver, W::PROTOCOL, hub.options.identifier.as_str());
        tokio::spawn(async move {
            let inbound = request.into_inner();
            if let Err(status) = serve::<W, S>(hub, inbound, &sender, identities, address).await {
                let _ = sender.send(Err(status)).await;
            }
        });
        Ok(answers)
    }

    fn answer<W: Wire, B>(&self, request: http::Request<B>) -> http::Response<tonic::body::Body>
    where
        B: Body<Error: Into<StdError> + Send> + Send + 'static,
    {
        match self.open::<W, B>(request) {
            Err(status) => status.into_http(),
            Ok(answers) => {
                let mut response = http::Response::new(tonic::body::Body::new(answers));
                let grpc = http::HeaderValue::from_static("application/grpc");
                response.headers_mut().insert(http::header::CONTENT_TYPE, grpc);
                response
            }
        }
    }
}

impl<S: Source> NamedService for AdsService<S> {
    const NAME: &'static str = SERVICE_NAME;
}

impl<S: Source, B> Service<http::Request<B>> for AdsService<S>
where
    B: Body<Error: Into<StdError> + Send> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        std::future::ready(Ok(match request.uri().path().rsplit('/').next() {
            Some("StreamAggregatedResources") => self.answer::<Sotw, B>(request),
            Some("DeltaAggregatedResources") => self.answer::<Delta, B>(request),
            _ => Status::unimplemented("no such method").into_http(),
        }))
    }
}
