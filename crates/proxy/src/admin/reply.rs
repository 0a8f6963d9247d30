//! How does an answer travel? Status, type, and a body that is whole or made while it is sent.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Response};
use http_body::Frame;
use tokio::sync::mpsc;

/// Bytes gathered before a piece of a streamed body leaves.
const PIECE_BYTES: usize = 32 * 1024;

/// Pieces made ahead of the reader.
const PIECES_MAX: usize = 2;

/// A response body.
pub enum Body {
    /// All of it.
    Full(Option<Bytes>),
    /// Made by a thread while it is read.
    Stream(mpsc::Receiver<Bytes>),
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut *self {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Self::Stream(pieces) => pieces.poll_recv(cx).map(|p| p.map(|b| Ok(Frame::data(b)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Full(None))
    }
}

/// An answer.
pub struct Reply {
    status: u16,
    content_type: &'static str,
    body: Body,
}

impl Reply {
    /// Plain text.
    pub fn text(status: u16, text: impl Into<String>) -> Self {
        Self { status, content_type: "text/plain; charset=UTF-8", body: full(text.into()) }
    }

    /// `OK\n`
    pub fn ok() -> Self {
        Self::text(200, "OK\n")
    }

    /// JSON text.
    pub fn json(text: impl Into<String>) -> Self {
        Self { status: 200, content_type: "application/json", body: full(text.into()) }
    }

    /// HTML.
    pub fn html(text: impl Into<String>) -> Self {
        Self { status: 200, content_type: "text/html; charset=UTF-8", body: full(text.into()) }
    }

    /// A body that `make` writes piece by piece on a thread of its own, so that a large page is never held whole.
    pub fn stream(content_type: &'static str, make: impl FnOnce(&mut dyn FnMut(&str)) + Send + 'static) -> Self {
        let (sender, pieces) = mpsc::channel(PIECES_MAX);
        let spawned = std::thread::Builder::new().name("admin-page".into()).spawn(move || {
            let mut buffer = BytesMut::with_capacity(PIECE_BYTES + 4096);
            make(&mut |text| {
                buffer.extend_from_slice(text.as_bytes());
                if buffer.len() >= PIECE_BYTES {
                    // Fails when the reader is gone; the rest is made for nobody, soon done.
                    let _ = sender.blocking_send(buffer.split().freeze());
                }
            });
            let _ = sender.blocking_send(buffer.freeze());
        });
        match spawned {
            Ok(_) => Self { status: 200, content_type, body: Body::Stream(pieces) },
            Err(e) => Self::text(503, format!("{e}\n")),
        }
    }

    /// As hyper wants it, with Envoy's headers.
    pub fn into_response(self, head_only: bool) -> Response<Body> {
        let mut response = Response::new(if head_only { Body::Full(None) } else { self.body });
        *response.status_mut() =
            http::StatusCode::from_u16(self.status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert("content-type", HeaderValue::from_static(self.content_type));
        headers.insert("cache-control", HeaderValue::from_static("no-cache, max-age=0"));
        headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
        headers.insert("server", HeaderValue::from_static("envoy"));
        response
    }
}

fn full(text: String) -> Body {
    Body::Full((!text.is_empty()).then(|| text.into()))
}

/// Reads a request body up to `max` bytes; `None` beyond or on error.
pub async fn collect(mut body: hyper::body::Incoming, max: usize) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| http_body::Body::poll_frame(Pin::new(&mut body), cx)).await {
        if let Ok(data) = frame.ok()?.into_data() {
            out.extend_from_slice(&data);
            if out.len() > max {
                return None;
            }
        }
    }
    Some(out)
}
