//! The story of one stream: the first request says who it is, then requests, changes and time drive it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::Sender;
use tokio::time::{Instant as TokioInstant, sleep, sleep_until};
use tokio_stream::{Stream as Inbound, StreamExt as _};
use tonic::Status;
use xds::server::{Event, Push};

use crate::connection::{Connection, lock};
use crate::service::Wire;
use crate::{Hub, Source};

/// Responses from this size on count against [`Options::in_flight_bytes`](crate::Options): smaller ones are sent at once.
const LARGE_BYTES: usize = 64 << 10;
/// Longest time that a client which does not answer keeps others waiting.
const HELD_MAX: Duration = Duration::from_secs(10);

/// A far moment, for timers that are off.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Takes the connection off the hub however the stream ends.
struct Registered<'a, S: Source> {
    hub: &'a Hub<S>,
    number: u64,
    proxy: Option<S::Proxy>,
    id: String,
}

impl<S: Source> Drop for Registered<'_, S> {
    fn drop(&mut self) {
        self.hub.unregister(self.number);
        if let Some(proxy) = self.proxy.take() {
            self.hub.source.disconnect(proxy);
        }
        tracing::info!(target: "ads", "ADS: {:?} terminated", self.id);
    }
}

/// Serves one stream until the client goes (`Ok`) or is sent away (`Err`).
pub(crate) async fn serve<W: Wire, S: Source>(
    hub: Arc<Hub<S>>,
    mut inbound: impl Inbound<Item = Result<W::Request, Status>> + Send + Unpin,
    outbound: &Sender<Result<Push, Status>>,
    identities: Vec<String>,
    address: String,
) -> Result<(), Status> {
    let wait = lock(&hub.limit).acquire(hub.start.elapsed());
    if !wait.is_zero() {
        sleep(wait).await;
    }
    let mut draining = hub.draining.subscribe();
    let Some(mut request) = inbound.next().await.transpose()? else {
        return Ok(());
    };
    let node = W::node(&mut request).filter(|n| !n.id.is_empty());
    let node = node.ok_or_else(|| Status::invalid_argument("missing node information"))?;
    let proxy = hub.source.connect(&node, &identities)?;
    let (number, connection) = hub.register(node, identities, address, W::PROTOCOL);
    let mut registered = Registered { hub: &hub, number, proxy: Some(proxy), id: connection.id.clone() };
    tracing::info!(target: "ads", "ADS: new {}connection for node:{}", if W::PROTOCOL == xds::server::Protocol::Delta { "delta " } else { "" }, connection.id);

    // What this client has not answered yet of the bytes that may be under way.
    let mut held: Option<(OwnedSemaphorePermit, TokioInstant)> = None;
    let age = sleep(hub.options.max_age.unwrap_or(NEVER));
    tokio::pin!(age);
    receive::<W, S>(&hub, &connection, &request)?;
    loop {
        let proxy = registered.proxy.as_mut().expect("taken only on drop");
        while let Some(push) = next_push(&hub, &connection, proxy) {
            // A whole mesh that connects at once must not be encoded at once. Who holds a share does not wait for
            // another: nobody waits for itself.
            if held.is_none() && push.bytes() >= LARGE_BYTES {
                held = hub.in_flight(push.bytes()).await.map(|share| (share, TokioInstant::now() + HELD_MAX));
            }
            if outbound.send(Ok(push)).await.is_err() {
                return Ok(());
            }
        }
        let deadline = connection.stream().deadline();
        let deadline = TokioInstant::from(hub.start + deadline.unwrap_or_else(|| hub.start.elapsed() + NEVER));
        let deadline = held.as_ref().map_or(deadline, |(_, until)| deadline.min(*until));
        tokio::select! {
            message = inbound.next() => match message {
                Some(Ok(request)) => {
                    held = None;
                    receive::<W, S>(&hub, &connection, &request)?;
                }
                // The client went away; that is no error of ours.
                Some(Err(_)) | None => return Ok(()),
            },
            () = connection.wake.notified() => {
                if let Some((change, started)) = connection.take() {
                    hub.metrics.queue.record(started.elapsed().as_secs_f64());
                    let kinds = hub.source.update(proxy, &change);
                    connection.stream().invalidate(|k| kinds.contains(&k));
                }
            }
            () = sleep_until(deadline) => held = held.filter(|(_, until)| *until > TokioInstant::now()),
            () = &mut age => return Ok(()),
            () = connection.close.notified() => return Err(Status::aborted("disconnected by the operator")),
            changed = draining.wait_for(|d| *d) => {
                drop(changed);
                return Err(Status::unavailable("server is shutting down"));
            }
        }
    }
}

/// Makes what is stale, then takes the next response that may leave.
fn next_push<S: Source>(hub: &Hub<S>, connection: &Connection<S::Change>, proxy: &mut S::Proxy) -> Option<Push> {
    let mut stream = connection.stream();
    while let Some(want) = stream.wants() {
        let (kind, started) = (want.kind, Instant::now());
        let target = hub.source.generate(proxy, &want);
        hub.metrics.generated(kind, started.elapsed());
        stream.set_target(kind, target);
    }
    let push = stream.poll(hub.start.elapsed());
    let converged = push.is_none() && stream.is_converged();
    drop(stream);
    if converged && let Some(took) = connection.converged() {
        hub.metrics.convergence.record(took.as_secs_f64());
    }
    let push = push?;
    hub.metrics.pushed(push.kind, push.bytes());
    let (kind, resources, removed) = (push.kind, push.resources.len(), push.removed.len());
    tracing::info!(target: "ads", "{kind}: PUSH for node:{} resources:{resources} removed:{removed} size:{}B nonce:{}", connection.id, push.bytes(), push.nonce);
    Some(push)
}

fn receive<W: Wire, S: Source>(
    hub: &Hub<S>,
    connection: &Connection<S::Change>,
    request: &W::Request,
) -> Result<(), Status> {
    let event = W::feed(&mut connection.stream(), request).map_err(|e| Status::invalid_argument(e.to_string()))?;
    let Event { kind, answer, subscribed, expired_nonce } = event;
    if expired_nonce {
        hub.metrics.expired_nonce(kind);
    }
    match answer {
        Some(Err(reason)) => {
            hub.metrics.rejected(kind);
            tracing::warn!(target: "ads", "{kind}: ACK ERROR {} {reason}", connection.id);
        }
        Some(Ok(())) => tracing::debug!(target: "ads", "{kind}: ACK {}", connection.id),
        None if subscribed => tracing::debug!(target: "ads", "{kind}: REQ {}", connection.id),
        None => {}
    }
    Ok(())
}
