//! Who answers a freshly started proxy while the control plane is away? The agent, with what the proxy had before
//! ([`crate::last_good`]). As soon as the control plane can be reached the stream ends, and the proxy goes to it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use protos::envoy::service::discovery::v3 as discovery;
use protos::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};
use xds::server::{Event, ResourceSet, Want};

use crate::control::Control;
use crate::last_good::LastGood;
use crate::stream::{self, Delta, Dialect, Sotw, Source};

/// How often the control plane is tried meanwhile.
const TRY_EVERY: Duration = Duration::from_secs(1);
/// Bytes on their way between our own proxy and what is kept.
const MEMORY_PIPE_BYTES: usize = 64 << 10;

struct Kept(LastGood);

impl Source for Kept {
    fn make(&mut self, want: &Want<'_>) -> Option<ResourceSet> {
        let all = self.0.resources(want.kind);
        if want.wildcard {
            return Some(all);
        }
        Some(all.iter().filter(|r| want.names.contains(&r.name)).cloned().collect())
    }

    fn check(&mut self, event: &Event) -> Result<(), Status> {
        if let Some(Err(reason)) = &event.answer {
            tracing::warn!(target: "xdsproxy", "proxy refused kept {}: {reason}", event.kind);
        }
        Ok(())
    }
}

/// Serves one stream from what was kept, until the proxy leaves or the control plane is back.
pub async fn serve<D: Dialect>(
    first: D::Request,
    inbound: impl Stream<Item = Result<D::Request, Status>> + Unpin,
    sender: &mpsc::Sender<Result<D::Response, Status>>,
    kept: &LastGood,
    control: &Arc<Control>,
) -> Result<(), Status> {
    if D::resumes(&first) {
        return Err(Status::unavailable("the proxy has its configuration, the control plane is away"));
    }
    tracing::warn!(target: "xdsproxy", "control plane is away, serving the configuration accepted last");
    let source = Kept(kept.clone());
    let served = stream::serve::<D, _, ()>(Some(first), inbound, sender, source, None, None);
    let back = async {
        loop {
            tokio::time::sleep(TRY_EVERY).await;
            if control.connect().await.is_ok() {
                return;
            }
        }
    };
    tokio::select! {
        served = served => served,
        () = back => Err(Status::unavailable("control plane is back")),
    }
}

/// A connection to what was kept, for our own proxy in this process.
///
/// # Errors
/// Nothing usable was kept.
pub fn connect(kept: &LastGood, control: &Arc<Control>) -> io::Result<DuplexStream> {
    if !kept.is_complete() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "no configuration was kept"));
    }
    let (own, theirs) = tokio::io::duplex(MEMORY_PIPE_BYTES);
    let service = AggregatedDiscoveryServiceServer::new(Service { kept: kept.clone(), control: Arc::clone(control) });
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(async move {
        // One connection; its end is not worth a word.
        let _ = server.serve_with_incoming(tokio_stream::once(Ok::<_, io::Error>(theirs))).await;
    });
    Ok(own)
}

struct Service {
    kept: LastGood,
    control: Arc<Control>,
}

type Answers<R> = Pin<Box<dyn Stream<Item = Result<R, Status>> + Send>>;

impl Service {
    fn open<D: Dialect>(&self, mut inbound: Streaming<D::Request>) -> Response<Answers<D::Response>> {
        let (sender, receiver) = mpsc::channel(1);
        let (kept, control) = (self.kept.clone(), Arc::clone(&self.control));
        tokio::spawn(async move {
            let served = match inbound.next().await {
                Some(Ok(first)) => serve::<D>(first, inbound, &sender, &kept, &control).await,
                _ => return,
            };
            if let Err(status) = served {
                let _ = sender.send(Err(status)).await;
            }
        });
        Response::new(Box::pin(ReceiverStream::new(receiver)))
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
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
