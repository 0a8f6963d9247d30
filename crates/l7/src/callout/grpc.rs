//! How is a gRPC method called through a cluster? Unary calls and bidirectional streams.
//!
//! Framing is five bytes and a message; the status is in trailers, or in the head when there is nothing else.

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http1::{HeaderBlock, HeaderId, push_decimal};
use protos::prost::Message;
use proxy_config::common::GrpcService;

use super::{CallError, Open, RESPONSE_BYTES_MAX, within};
use crate::exchange::Protocol;
use crate::reply::grpc_status;
use crate::worker::Worker;

/// Bytes before a message: a compression flag and the length.
const PREFIX: usize = 5;

/// Why a call failed: a gRPC status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Code, never 0.
    pub code: u32,
    /// The peer's words, or ours.
    pub message: String,
    /// The peer told it; else it is what became of the call.
    pub told: bool,
}

impl Status {
    /// Deadline exceeded, whoever noticed.
    pub const DEADLINE_EXCEEDED: u32 = 4;

    fn new(code: u32, message: impl Into<String>) -> Self {
        Status { code, message: message.into(), told: false }
    }
}

impl From<CallError> for Status {
    fn from(e: CallError) -> Self {
        match e {
            CallError::NoCluster => Status::new(14, "Cluster not available"),
            CallError::Timeout => Status::new(Status::DEADLINE_EXCEEDED, "upstream request timeout"),
            CallError::TooLarge => Status::new(8, "response too large"),
            CallError::Refused | CallError::Reset => Status::new(14, "upstream connect error or disconnect/reset"),
        }
    }
}

/// Calls a unary method, `/package.Service/Method`. `timeout` zero: no deadline.
pub async fn unary<Q: Message, R: Message + Default>(
    worker: &Rc<Worker>,
    service: &GrpcService,
    method: &str,
    request: &Q,
    timeout: Duration,
    metadata: &[(&str, &[u8])],
) -> Result<R, Status> {
    let work = async {
        let mut call = match Stream::open(worker, service, method, timeout, metadata).await {
            Ok(call) => call,
            Err(e) => return Ok(Err(Status::from(e))),
        };
        if let Err(e) = call.send(request).and_then(|()| call.finish()) {
            return Ok(Err(e.into()));
        }
        let first = std::future::poll_fn(|cx| call.poll_message::<R>(cx)).await;
        Ok(match first {
            Ok(Some(message)) => match std::future::poll_fn(|cx| call.poll_message::<R>(cx)).await {
                Ok(_) => Ok(message),
                Err(status) => Err(status),
            },
            Ok(None) => Err(Status::new(13, "no message")),
            Err(status) => Err(status),
        })
    };
    within(worker, &service.cluster, timeout, work).await.unwrap_or_else(|e| Err(e.into()))
}

/// An open call: messages in both directions.
pub struct Stream {
    /// `None` once the peer has ended.
    open: Option<Open>,
    received: Vec<u8>,
    outcome: Option<Result<(), Status>>,
}

impl Stream {
    /// Opens a call. Only the head is sent.
    pub async fn open(
        worker: &Rc<Worker>,
        service: &GrpcService,
        method: &str,
        timeout: Duration,
        metadata: &[(&str, &[u8])],
    ) -> Result<Stream, CallError> {
        let head = head(service, method, timeout, metadata);
        let open = Open::start(worker, &service.cluster, head, true, Protocol::Http2, timeout).await?;
        Ok(Stream { open: Some(open), received: Vec::new(), outcome: None })
    }

    /// Queues a message.
    pub fn send<Q: Message>(&mut self, message: &Q) -> Result<(), CallError> {
        let Some(open) = &mut self.open else { return Err(CallError::Reset) };
        let n = message.encoded_len();
        let mut frame = Vec::with_capacity(PREFIX + n);
        frame.push(0);
        frame.extend_from_slice(&(n as u32).to_be_bytes());
        message.encode_raw(&mut frame);
        open.send(&frame)
    }

    /// Ends our side of the call.
    pub fn finish(&mut self) -> Result<(), CallError> {
        self.open.as_mut().map_or(Err(CallError::Reset), Open::finish)
    }

    /// The peer has ended.
    pub fn is_over(&self) -> bool {
        self.open.is_none()
    }

    /// The next message; `None` when the peer ended with success.
    pub fn poll_message<R: Message + Default>(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<R>, Status>> {
        loop {
            if let Some(message) = self.take_message()? {
                return Poll::Ready(Ok(Some(message)));
            }
            let Some(open) = &mut self.open else {
                return Poll::Ready(self.outcome.clone().unwrap_or(Ok(())).map(|()| None));
            };
            if !open.answered() {
                match open.poll_head(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(e)) => return self.over(Err(e.into())),
                    Poll::Ready(Ok(200)) => {}
                    Poll::Ready(Ok(status)) => {
                        let status = said(open.response()).unwrap_or(Err(Status::new(grpc_status(status), "")));
                        return self.over(status.and(Err(Status::new(2, "HTTP status"))));
                    }
                }
            }
            match open.poll_read(cx, &mut self.received) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(Some(_))) if self.received.len() > RESPONSE_BYTES_MAX + PREFIX => {
                    return self.over(Err(CallError::TooLarge.into()));
                }
                Poll::Ready(Ok(Some(_))) => {}
                Poll::Ready(Ok(None)) => {
                    let (mut head, mut trailers) = (HeaderBlock::new(), HeaderBlock::new());
                    if let Some(open) = self.open.take() {
                        open.end(&mut head, &mut trailers);
                    }
                    let status = said(Some(&trailers)).or_else(|| said(Some(&head)));
                    self.outcome = Some(status.unwrap_or(Err(Status::new(2, "Missing status"))));
                }
                Poll::Ready(Err(e)) => return self.over(Err(e.into())),
            }
        }
    }

    fn over<R>(&mut self, outcome: Result<(), Status>) -> Poll<Result<Option<R>, Status>> {
        self.open = None;
        self.outcome = Some(outcome.clone());
        Poll::Ready(outcome.map(|()| None))
    }

    fn take_message<R: Message + Default>(&mut self) -> Result<Option<R>, Status> {
        let Some((prefix, rest)) = self.received.split_first_chunk::<PREFIX>() else { return Ok(None) };
        let n = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        let bad = |message: &str| Err(Status::new(13, message));
        if prefix[0] != 0 || n > RESPONSE_BYTES_MAX {
            return bad("bad frame");
        }
        if rest.len() < n {
            return Ok(None);
        }
        let Ok(message) = R::decode(&rest[..n]) else { return bad("bad message") };
        self.received.drain(..PREFIX + n);
        Ok(Some(message))
    }
}

/// The status in a block, if it has one.
fn said(block: Option<&HeaderBlock>) -> Option<Result<(), Status>> {
    let block = block?;
    let code = std::str::from_utf8(block.get_id(HeaderId::GRPC_STATUS)?).ok()?.parse().unwrap_or(2);
    if code == 0 {
        return Some(Ok(()));
    }
    let message = block.get_id(HeaderId::GRPC_MESSAGE).unwrap_or_default();
    let message = proxy_core::matcher::percent_decoded(message);
    Some(Err(Status { told: true, ..Status::new(code, String::from_utf8_lossy(&message)) }))
}

fn head(service: &GrpcService, method: &str, timeout: Duration, metadata: &[(&str, &[u8])]) -> HeaderBlock {
    let mut head = HeaderBlock::new();
    head.add_id(HeaderId::METHOD, b"POST");
    head.add_id(HeaderId::PATH, method.as_bytes());
    let authority = service.authority.as_ref().unwrap_or(&service.cluster);
    head.add_id(HeaderId::AUTHORITY, authority.as_bytes());
    head.add_id(HeaderId::SCHEME, b"http");
    head.add_id(HeaderId::TE, b"trailers");
    if !timeout.is_zero() {
        let mut text = Vec::new();
        push_decimal(&mut text, timeout.as_millis() as u64);
        text.push(b'm');
        head.add(b"grpc-timeout", &text);
    }
    head.add_id(HeaderId::CONTENT_TYPE, b"application/grpc");
    for (name, value) in &service.initial_metadata {
        head.add(name.as_bytes(), value.as_bytes());
    }
    for (name, value) in metadata {
        head.add(name.as_bytes(), value);
    }
    head
}
