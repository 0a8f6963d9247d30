//! What does the control plane say of this proxy? One question at a time on port 15004 of the pod's loopback, for operators
//! who can reach a pod and not the control plane: a request of a type below `istio.io/debug/` goes up with this proxy's
//! identity, its answer comes back, and the stream ends. Nothing else is carried.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use protos::envoy::config::core::v3::Node;
use protos::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use protos::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use protos::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use crate::control::Control;

/// Where operators ask.
const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15004);
/// Types that are carried.
const DEBUG: &str = "istio.io/debug/";
/// How long the control plane may take.
const ANSWER_MAX: Duration = Duration::from_secs(15);
/// Largest answer: a configuration dump of a big mesh.
const ANSWER_BYTES_MAX: usize = 256 << 20;

type Answer = Pin<Box<dyn Future<Output = Result<DiscoveryResponse, Status>> + Send>>;
/// Carries one question.
type Ask = Arc<dyn Fn(DiscoveryRequest) -> Answer + Send + Sync>;

/// Serves the port as long as the process lives. A port that is taken is a warning: the proxy works without.
pub async fn serve(control: Arc<Control>, node: Node) {
    match TcpListener::bind(ADDRESS).await {
        Ok(listener) => drop(tokio::spawn(serve_on(listener, upstream(control, node)))),
        Err(error) => tracing::warn!(target: "xdsproxy", "no debug port {ADDRESS}: {error}"),
    }
}

fn upstream(control: Arc<Control>, node: Node) -> Ask {
    Arc::new(move |question: DiscoveryRequest| -> Answer {
        let (control, node) = (Arc::clone(&control), node.clone());
        Box::pin(async move {
            let (questions, receiver) = mpsc::channel(1);
            // The sender outlives the answer: its end would be the stream's.
            let sent = questions.send(DiscoveryRequest { node: Some(node), ..question }).await;
            sent.map_err(|_| Status::internal("the question has no stream"))?;
            let mut request = Request::new(ReceiverStream::new(receiver));
            control.identify(&mut request);
            let client = AggregatedDiscoveryServiceClient::new(control.channel());
            let mut client = client.max_decoding_message_size(ANSWER_BYTES_MAX);
            let mut answers = client.stream_aggregated_resources(request).await?.into_inner();
            answers.message().await?.ok_or_else(|| Status::unavailable("the control plane gave no answer"))
        })
    })
}

async fn serve_on(listener: TcpListener, ask: Ask) {
    let service = AggregatedDiscoveryServiceServer::new(Tap { ask });
    let server = tonic::transport::Server::builder().add_service(service);
    if let Err(error) = server.serve_with_incoming(TcpListenerStream::new(listener)).await {
        tracing::error!(target: "xdsproxy", "debug port: {error}");
    }
}

struct Tap {
    ask: Ask,
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Tap {
    type StreamAggregatedResourcesStream = tokio_stream::Once<Result<DiscoveryResponse, Status>>;
    type DeltaAggregatedResourcesStream = tokio_stream::Empty<Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let question = request.into_inner().message().await?;
        let question = question.filter(|q| q.type_url.starts_with(DEBUG));
        let question = question.ok_or_else(|| Status::invalid_argument("only types below istio.io/debug/"))?;
        let answer = tokio::time::timeout(ANSWER_MAX, (self.ask)(question)).await;
        let answer = answer.map_err(|_| Status::deadline_exceeded(format!("no answer within {ANSWER_MAX:?}")))??;
        Ok(Response::new(tokio_stream::once(Ok(answer))))
    }

    async fn delta_aggregated_resources(
        &self,
        _: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("the debug port speaks the state-of-the-world dialect"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn carries_questions_of_debug_types_only() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let ask: Ask = Arc::new(|question: DiscoveryRequest| {
            let answer = DiscoveryResponse { type_url: question.type_url, ..Default::default() };
            Box::pin(std::future::ready(Ok(answer)))
        });
        tokio::spawn(serve_on(listener, ask));
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}")).expect("an address");
        let mut client = AggregatedDiscoveryServiceClient::new(channel.connect().await.expect("connected"));
        let mut ask = async |type_url: &str| {
            let question = DiscoveryRequest { type_url: type_url.into(), ..Default::default() };
            client.stream_aggregated_resources(tokio_stream::once(question)).await
        };
        let answer = ask("istio.io/debug/syncz").await.expect("carried").into_inner().message().await;
        assert_eq!(answer.expect("an answer").map(|a| a.type_url).as_deref(), Some("istio.io/debug/syncz"));
        let refused = ask("type.googleapis.com/envoy.config.cluster.v3.Cluster").await.expect_err("refused");
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    }
}
