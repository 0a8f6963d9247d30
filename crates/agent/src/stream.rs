//! How does the agent answer a proxy's xDS stream itself? The loop around [`xds::server`]'s machine, for whatever makes resources:
//! secrets ([`crate::sds`]) or what was kept of an earlier life ([`crate::kept`]).

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use protos::envoy::service::discovery::v3 as discovery;
use tokio::sync::{mpsc, watch};
use tokio_stream::{Stream, StreamExt as _};
use tonic::Status;
use xds::server::{Event, Protocol, Push, Refused, ResourceSet, Stream as Machine, Want};

/// What the requests and responses of one dialect are.
pub trait Dialect: 'static {
    /// What a proxy sends.
    type Request: Send + 'static;
    /// What it gets.
    type Response: Send + 'static;
    /// The machine's name for it.
    const PROTOCOL: Protocol;
    /// Feeds the machine.
    fn feed(machine: &mut Machine, request: &Self::Request) -> Result<Event, Refused>;
    /// Writes a response.
    fn encode(push: &Push) -> Self::Response;
    /// The proxy says that it has been served before.
    fn resumes(request: &Self::Request) -> bool;
}

/// Incremental xDS.
pub struct Delta;
/// State of the world.
pub struct Sotw;

impl Dialect for Delta {
    type Request = discovery::DeltaDiscoveryRequest;
    type Response = discovery::DeltaDiscoveryResponse;
    const PROTOCOL: Protocol = Protocol::Delta;
    fn feed(machine: &mut Machine, request: &Self::Request) -> Result<Event, Refused> {
        machine.on_delta(request)
    }
    fn encode(push: &Push) -> Self::Response {
        push.to_delta()
    }
    fn resumes(request: &Self::Request) -> bool {
        !request.initial_resource_versions.is_empty()
    }
}

impl Dialect for Sotw {
    type Request = discovery::DiscoveryRequest;
    type Response = discovery::DiscoveryResponse;
    const PROTOCOL: Protocol = Protocol::Sotw;
    fn feed(machine: &mut Machine, request: &Self::Request) -> Result<Event, Refused> {
        machine.on_sotw(request)
    }
    fn encode(push: &Push) -> Self::Response {
        push.to_sotw()
    }
    fn resumes(request: &Self::Request) -> bool {
        request.response_nonce.is_empty() && !request.version_info.is_empty()
    }
}

/// Where resources come from.
pub trait Source: Send {
    /// Makes what is wanted. `None`: it is still on its way, so the proxy waits without an answer.
    fn make(&mut self, want: &Want<'_>) -> Option<ResourceSet>;
    /// Judges a request. `Err` ends the stream.
    fn check(&mut self, event: &Event) -> Result<(), Status>;
    /// Whether what it made may change without anybody saying so, so that it must look again.
    fn looks_again(&self) -> bool {
        false
    }
}

/// Serves one stream until the proxy leaves, `changed` closes, or `again` says that a look at files is due.
pub async fn serve<D: Dialect, S: Source, T>(
    first: Option<D::Request>,
    mut inbound: impl Stream<Item = Result<D::Request, Status>> + Unpin,
    sender: &mpsc::Sender<Result<D::Response, Status>>,
    mut source: S,
    mut changed: Option<watch::Receiver<T>>,
    again: Option<Duration>,
) -> Result<(), Status> {
    let start = Instant::now();
    let mut machine = Machine::new(D::PROTOCOL);
    let feed = |machine: &mut Machine, source: &mut S, request: &D::Request| {
        let event = D::feed(machine, request).map_err(|refused| Status::invalid_argument(refused.to_string()))?;
        source.check(&event)
    };
    if let Some(first) = first {
        feed(&mut machine, &mut source, &first)?;
    }
    let mut ticks = again.map(tokio::time::interval);
    loop {
        while let Some(want) = machine.wants() {
            let kind = want.kind;
            let Some(set) = source.make(&want) else { break };
            machine.set_target(kind, Arc::new(set));
        }
        while let Some(push) = machine.poll(start.elapsed()) {
            if sender.send(Ok(D::encode(&push))).await.is_err() {
                return Ok(());
            }
        }
        let deadline = machine.deadline();
        tokio::select! {
            message = inbound.next() => match message {
                Some(Ok(request)) => feed(&mut machine, &mut source, &request)?,
                Some(Err(_)) | None => return Ok(()),
            },
            still = async { match &mut changed { Some(changed) => changed.changed().await, None => pending().await } } => match still {
                Ok(()) => machine.invalidate(|_| true),
                Err(_) => return Err(Status::unavailable("agent is stopping")),
            },
            () = async { match &mut ticks { Some(ticks) => drop(ticks.tick().await), None => pending().await } } => {
                if source.looks_again() {
                    machine.invalidate(|_| true);
                }
            }
            () = async { match deadline { Some(at) => tokio::time::sleep(at.saturating_sub(start.elapsed())).await, None => pending().await } } => {}
        }
    }
}
