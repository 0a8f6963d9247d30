//! How does a response leave? A stream's responses as the body of its HTTP response: gRPC frames written chunk by chunk,
//! each when the connection has room for it, so that a slow client holds a chunk and not a mesh.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::sync::mpsc::Receiver;
use tonic::Status;
use tonic::codegen::http::HeaderMap;
use xds::server::{Protocol, Push, Writer};

use crate::requests::PREFIX_BYTES;

/// Bytes that are written at once. HTTP/2 sends them in frames of its own size.
const CHUNK_BYTES: usize = 64 << 10;

/// What leaves on one stream, in the order in which it is put into the channel.
pub(crate) struct Answers {
    pushes: Receiver<Result<Push, Status>>,
    protocol: Protocol,
    identifier: Arc<str>,
    writing: Option<Writer>,
    ended: bool,
}

impl Answers {
    pub(crate) fn new(pushes: Receiver<Result<Push, Status>>, protocol: Protocol, identifier: &str) -> Self {
        Answers { pushes, protocol, identifier: identifier.into(), writing: None, ended: false }
    }

    /// The next bytes of the response that is under way, if one is.
    fn chunk(&mut self) -> Option<Vec<u8>> {
        let writer = self.writing.as_mut()?;
        let mut out = Vec::with_capacity(CHUNK_BYTES);
        writer.fill(&mut out, CHUNK_BYTES);
        if writer.is_empty() {
            self.writing = None;
        }
        Some(out)
    }

    /// Begins the next response.
    fn begin(&mut self, push: Push) -> Result<Vec<u8>, Status> {
        let mut writer = push.into_writer(self.protocol, &self.identifier);
        let len = writer.len();
        let len32 = u32::try_from(len).map_err(|_| Status::resource_exhausted(format!("a response of {len} bytes")))?;
        let mut out = Vec::with_capacity((PREFIX_BYTES + len).min(CHUNK_BYTES));
        out.push(0);
        out.extend_from_slice(&len32.to_be_bytes());
        writer.fill(&mut out, CHUNK_BYTES);
        if !writer.is_empty() {
            self.writing = Some(writer);
        }
        Ok(out)
    }

    fn end(&mut self, status: &Status) -> Frame<Bytes> {
        self.ended = true;
        let mut trailers = HeaderMap::new();
        // It fails for a text that no header can carry; the code is there nevertheless.
        let _ = status.add_header(&mut trailers);
        Frame::trailers(trailers)
    }
}

impl Body for Answers {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Some(chunk) = self.chunk() {
            return Poll::Ready(Some(Ok(Frame::data(chunk.into()))));
        }
        Poll::Ready(Some(Ok(match ready!(self.pushes.poll_recv(context)) {
            Some(Ok(push)) => match self.begin(push) {
                Ok(bytes) => Frame::data(bytes.into()),
                Err(status) => self.end(&status),
            },
            Some(Err(status)) => self.end(&status),
            None => self.end(&Status::ok("")),
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}
