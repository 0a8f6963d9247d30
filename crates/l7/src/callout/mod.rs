//! How does the proxy itself ask another service? One exchange through a cluster of its own.
//!
//! Used by filters that depend on somebody's answer (keys, authorization, rate limits, processing). The
//! request takes the same way as a client's: host selection, breakers, pool, TLS, stats of the cluster.
//! It stays on the worker that asks. Absent: retries, and what the answer means.

pub mod grpc;
pub mod wire;

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http1::{HeaderBlock, HeaderId};
use telemetry::stats::envoy::cluster as stat;

use crate::destination;
use crate::exchange::{Exchange, Protocol};
use crate::manager;
use crate::pool::{self, Ask, Cluster, Lease, Origin};
use crate::retry::Failure;
use crate::side::{Lost, Piece};
use crate::timeouts::decimal;
use crate::up::{RequestBody, UpHead};
use crate::worker::Worker;

/// Bytes of an answer's body that are read; a longer one is an error.
pub const RESPONSE_BYTES_MAX: usize = 4 << 20;

/// What is asked.
#[derive(Default)]
pub struct Request {
    /// Head, pseudo headers included.
    pub head: HeaderBlock,
    /// Body.
    pub body: Vec<u8>,
    /// How long the answer is waited for; zero: for ever.
    pub timeout: Duration,
}

/// The answer.
#[derive(Default)]
pub struct Response {
    /// Status.
    pub status: u16,
    /// Head.
    pub head: HeaderBlock,
    /// Body.
    pub body: Vec<u8>,
    /// Trailers.
    pub trailers: HeaderBlock,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallError {
    /// The cluster is unknown.
    NoCluster,
    /// No host, no connection, or an open breaker.
    Refused,
    /// The exchange broke off.
    Reset,
    /// It took too long.
    Timeout,
    /// The answer is longer than [`RESPONSE_BYTES_MAX`].
    TooLarge,
}

/// Asks, and waits for the whole answer. Cancel safe: dropping it resets the request.
pub async fn call(worker: &Rc<Worker>, cluster: &str, request: Request) -> Result<Response, CallError> {
    let timeout = request.timeout;
    within(worker, cluster, timeout, exchange(worker, cluster, request)).await
}

/// Runs `work` against a deadline of `timeout`, unless that is zero; a late answer is counted on the cluster.
async fn within<T>(
    worker: &Rc<Worker>,
    cluster: &str,
    timeout: Duration,
    work: impl Future<Output = Result<T, CallError>>,
) -> Result<T, CallError> {
    let mut work = Box::pin(work);
    if timeout.is_zero() {
        return work.await;
    }
    let timer = worker.timers.timer();
    let deadline = worker.timers.now() + timeout.as_millis() as u64;
    let done = std::future::poll_fn(|cx| {
        if let Poll::Ready(r) = work.as_mut().poll(cx) {
            return Poll::Ready(r);
        }
        if worker.timers.now() >= deadline {
            return Poll::Ready(Err(CallError::Timeout));
        }
        timer.arm(deadline, cx.waker());
        Poll::Pending
    })
    .await;
    if matches!(done, Err(CallError::Timeout))
        && let Some(cluster) = pool::cluster(worker, cluster)
    {
        cluster.stats().inc(stat::UPSTREAM_RQ_TIMEOUT);
        cluster.charge_local(&Exchange { internal: true, ..Default::default() }, 504);
    }
    done
}

async fn exchange(worker: &Rc<Worker>, cluster: &str, request: Request) -> Result<Response, CallError> {
    let body = !request.body.is_empty();
    let mut open = Open::start(worker, cluster, request.head, body, Protocol::Http11, request.timeout).await?;
    if body {
        open.send(&request.body)?;
        open.finish()?;
    }
    let mut response = Response { status: open.head().await?, ..Default::default() };
    while let Some(n) = open.read(&mut response.body).await? {
        if response.body.len() > RESPONSE_BYTES_MAX {
            return Err(CallError::TooLarge);
        }
        debug_assert!(n > 0);
    }
    open.end(&mut response.head, &mut response.trailers);
    Ok(response)
}

/// An exchange under way: both directions are open.
pub struct Open {
    worker: Rc<Worker>,
    cluster: Cluster,
    /// `None` once it has ended.
    lease: Option<Lease>,
    ex: Option<Box<Exchange>>,
    /// The head of the answer is here.
    answered: bool,
    ended: bool,
}

impl Open {
    /// Takes a connection and queues the request head.
    pub async fn start(
        worker: &Rc<Worker>,
        cluster: &str,
        head: HeaderBlock,
        body: bool,
        protocol: Protocol,
        timeout: Duration,
    ) -> Result<Open, CallError> {
        let cluster = pool::cluster(worker, cluster).ok_or(CallError::NoCluster)?;
        let mut ex = worker.take_exchange();
        ex.request = head;
        ex.protocol = protocol;
        ex.internal = true;
        ex.request_ends_with_head = !body;
        mark(&mut ex.request, timeout);
        let origin = Origin { worker, client: None };
        let ask = Ask {
            hash: None,
            attempt: 1,
            avoid: &[],
            omit: None,
            excluded_priorities: &[],
            found: None,
            connect: None,
            host: if cluster.is_dynamic() { destination::dynamic_host(&cluster, &ex).await } else { None },
            wanted: &[],
        };
        let lease = match pool::try_checkout(origin, &cluster, &mut ex, &ask) {
            Ok(Ok(lease)) => Ok(lease),
            Ok(Err(ticket)) => pool::connect(origin, ticket).await,
            Err(refused) => Err(refused),
        };
        let Ok(mut lease) = lease else {
            cluster.charge_local(&ex, 503);
            worker.give_exchange(ex);
            return Err(CallError::Refused);
        };
        lease.note(&mut ex);
        let kind = if body { RequestBody::Stream { raw: false } } else { RequestBody::None };
        let sent = lease.up.send_head(&ex.request, kind, worker);
        let mut open =
            Open { worker: worker.clone(), cluster, lease: Some(lease), ex: Some(ex), answered: false, ended: false };
        match sent {
            Ok(()) => Ok(open),
            Err(lost) => Err(open.fail(lost)),
        }
    }

    /// Queues body bytes.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), CallError> {
        let Some(lease) = &mut self.lease else { return Err(CallError::Reset) };
        match lease.up.side.send(bytes, &self.worker) {
            Ok(()) => Ok(()),
            Err(lost) => Err(self.fail(lost)),
        }
    }

    /// Ends the request.
    pub fn finish(&mut self) -> Result<(), CallError> {
        let Some(lease) = &mut self.lease else { return Err(CallError::Reset) };
        match lease.up.side.finish(None, &self.worker) {
            Ok(()) => Ok(()),
            Err(lost) => Err(self.fail(lost)),
        }
    }

    /// Hands queued bytes over; pending while the peer does not take them.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        let Some(lease) = &mut self.lease else { return Poll::Ready(Err(CallError::Reset)) };
        match lease.up.side.poll_flush(cx, &self.worker) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
            Poll::Ready(Err(lost)) => Poll::Ready(Err(self.fail(lost))),
            Poll::Pending => Poll::Pending,
        }
    }

    /// The status of the answer, when its head is here.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<u16, CallError>> {
        // The answer may come before the request is taken completely.
        if let Poll::Ready(Err(e)) = self.poll_flush(cx) {
            return Poll::Ready(Err(e));
        }
        let (Some(lease), Some(ex)) = (&mut self.lease, &mut self.ex) else {
            return Poll::Ready(Err(CallError::Reset));
        };
        loop {
            match lease.up.poll_head(cx, &mut ex.response, &self.worker) {
                Poll::Ready(Ok(UpHead { status, .. })) if status / 100 == 1 => {}
                Poll::Ready(Ok(head)) => {
                    lease.answered(ex, head.status, false, &self.cluster);
                    self.answered = true;
                    self.ended = head.ends;
                    return Poll::Ready(Ok(head.status));
                }
                Poll::Ready(Err(lost)) => return Poll::Ready(Err(self.fail(lost))),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    async fn head(&mut self) -> Result<u16, CallError> {
        std::future::poll_fn(|cx| self.poll_head(cx)).await
    }

    /// Appends what arrives of the answer's body; `None` when it is complete. The head must be here.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut Vec<u8>) -> Poll<Result<Option<usize>, CallError>> {
        if self.ended {
            return Poll::Ready(Ok(None));
        }
        if let Poll::Ready(Err(e)) = self.poll_flush(cx) {
            return Poll::Ready(Err(e));
        }
        let Some(lease) = &mut self.lease else { return Poll::Ready(Err(CallError::Reset)) };
        match lease.up.side.poll_piece(cx, false, &self.worker) {
            Poll::Ready(Ok(Piece::Bytes { at, data })) => {
                into.extend_from_slice(lease.up.side.bytes(&at));
                Poll::Ready(Ok(Some(data)))
            }
            Poll::Ready(Ok(Piece::End)) => {
                self.ended = true;
                Poll::Ready(Ok(None))
            }
            Poll::Ready(Err(lost)) => Poll::Ready(Err(self.fail(lost))),
            Poll::Pending => Poll::Pending,
        }
    }

    async fn read(&mut self, into: &mut Vec<u8>) -> Result<Option<usize>, CallError> {
        std::future::poll_fn(|cx| self.poll_read(cx, into)).await
    }

    /// The head of the answer, once it is here.
    pub fn response(&self) -> Option<&HeaderBlock> {
        self.ex.as_deref().filter(|_| self.answered).map(|ex| &ex.response)
    }

    /// Whether the head of the answer is here.
    pub fn answered(&self) -> bool {
        self.answered
    }

    /// Takes head and trailers of a complete answer, and gives the connection back.
    pub fn end(mut self, head: &mut HeaderBlock, trailers: &mut HeaderBlock) {
        if let (Some(mut lease), Some(ex)) = (self.lease.take(), &mut self.ex) {
            lease.up.side.take_trailers(&mut ex.response_trailers);
            std::mem::swap(head, &mut ex.response);
            std::mem::swap(trailers, &mut ex.response_trailers);
            lease.finish(ex);
        }
    }

    fn fail(&mut self, lost: Lost) -> CallError {
        if let (Some(lease), Some(ex)) = (self.lease.take(), &mut self.ex) {
            if self.answered {
                lease.broken(ex, &Failure::Upstream { lost, answered: true, reused: false });
            } else {
                self.cluster.charge_local(ex, 503);
                lease.fail(ex, &Failure::Upstream { lost, answered: false, reused: false });
            }
        }
        CallError::Reset
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        drop(self.lease.take());
        if let Some(ex) = self.ex.take() {
            self.worker.give_exchange(ex);
        }
    }
}

/// What every request of the proxy's own carries.
fn mark(head: &mut HeaderBlock, timeout: Duration) {
    head.set_id(HeaderId::X_ENVOY_INTERNAL, b"true");
    if let Some(ip) = manager::local_ip() {
        head.append_id(HeaderId::X_FORWARDED_FOR, b",", ip.to_string().as_bytes());
    }
    if !timeout.is_zero() {
        let mut digits = [0; 20];
        let ms = decimal(&mut digits, timeout.as_millis() as u64);
        head.set(b"x-envoy-expected-rq-timeout-ms", ms);
    }
    if !head.has(HeaderId::SCHEME) {
        head.add_id(HeaderId::SCHEME, b"http");
    }
}
