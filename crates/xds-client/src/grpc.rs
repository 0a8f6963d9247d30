//! gRPC calls over HTTP/2 connections of our own: streams and unary calls, and nothing more of gRPC than that.
//!
//! Messages are length-prefixed protobuf without compression. The connection's driver is a task of the current
//! `LocalSet`; it ends with the stream.

use std::future::poll_fn;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use prost::Message;
use tokio::task::AbortHandle;

use crate::stream::BoxIo;

/// Largest message accepted from the control plane: ten times the biggest push known (10,000 clusters, 10 MB).
pub const MESSAGE_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Flow-control windows: a push of some megabytes should not wait for the proxy's reading.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub enum GrpcError {
    /// The connection broke or the peer broke HTTP/2.
    #[error("{0}")]
    Http2(#[from] h2::Error),
    /// The response is not gRPC.
    #[error("HTTP status {0}")]
    Http(u16),
    /// The server ended the stream with this status.
    #[error("gRPC status {code}: {message}")]
    Status {
        /// gRPC code; 0 when a server ends an endless stream politely.
        code: u32,
        /// Its words.
        message: String,
    },
    /// A message is larger than [`MESSAGE_BYTES_MAX`].
    #[error("message of {0} bytes")]
    TooLarge(usize),
    /// A compressed message, which we did not ask for.
    #[error("compressed message")]
    Compressed,
    /// A message does not decode.
    #[error("{0}")]
    Decode(#[from] prost::DecodeError),
    /// The request head could not be built from the configuration.
    #[error("{0}")]
    Head(#[from] http::Error),
}

/// A connection that carries calls.
pub struct Channel {
    sender: h2::client::SendRequest<Bytes>,
    driver: AbortHandle,
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Channel {
    /// Speaks HTTP/2 on a fresh connection. Must run on a `LocalSet`.
    pub async fn connect(io: BoxIo) -> Result<Self, GrpcError> {
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(STREAM_WINDOW_BYTES)
            .handshake(io)
            .await?;
        let driver = tokio::task::spawn_local(async move {
            // Its end shows at the streams.
            let _ = connection.await;
        })
        .abort_handle();
        Ok(Self { sender, driver })
    }

    /// Starts a call of `path`.
    pub async fn open(&self, authority: &str, path: &str, metadata: &[(String, String)]) -> Result<Stream, GrpcError> {
        let mut sender = self.sender.clone().ready().await?;
        let mut head = Request::post(format!("http://{authority}{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("user-agent", concat!("proa/", env!("CARGO_PKG_VERSION")));
        for (key, value) in metadata {
            head = head.header(
                HeaderName::try_from(key.as_str()).map_err(http::Error::from)?,
                HeaderValue::try_from(value.as_str()).map_err(http::Error::from)?,
            );
        }
        let (response, send) = sender.send_request(head.body(())?, false)?;
        Ok(Stream { send, response: Some(response), receive: None, buffer: BytesMut::new(), _channel: None })
    }

    /// Calls `path` with one encoded message; its answer is not looked at.
    pub async fn call(
        &self,
        authority: &str,
        path: &str,
        metadata: &[(String, String)],
        message: &[u8],
    ) -> Result<(), GrpcError> {
        let mut stream = self.open(authority, path, metadata).await?;
        stream.send_encoded(message).await?;
        stream.send.send_data(Bytes::new(), true)?;
        loop {
            match stream.receive::<()>().await {
                Ok(()) => {}
                Err(GrpcError::Status { code: 0, .. }) => return Ok(()),
                Err(e) => return Err(e),
            }
        }
    }
}

/// An open stream.
pub struct Stream {
    send: SendStream<Bytes>,
    response: Option<h2::client::ResponseFuture>,
    receive: Option<RecvStream>,
    buffer: BytesMut,
    /// The connection, when it is the stream's own.
    _channel: Option<Channel>,
}

impl Stream {
    /// Opens `path` on a fresh connection.
    pub(crate) async fn open(
        io: BoxIo,
        authority: &str,
        path: &str,
        metadata: &[(String, String)],
    ) -> Result<Self, GrpcError> {
        let channel = Channel::connect(io).await?;
        let stream = channel.open(authority, path, metadata).await?;
        Ok(Self { _channel: Some(channel), ..stream })
    }

    /// Sends an encoded message once the peer's window takes it.
    pub async fn send_encoded(&mut self, message: &[u8]) -> Result<(), GrpcError> {
        let mut frame = BytesMut::with_capacity(5 + message.len());
        frame.put_u8(0);
        frame.put_u32(message.len() as u32);
        frame.extend_from_slice(message);
        let mut frame = frame.freeze();
        while !frame.is_empty() {
            self.send.reserve_capacity(frame.len());
            let room = match self.send.capacity() {
                0 => match poll_fn(|cx| self.send.poll_capacity(cx)).await {
                    Some(room) => room?,
                    None => return Err(GrpcError::Status { code: 0, message: "stream closed".into() }),
                },
                room => room,
            };
            self.send.send_data(frame.split_to(room.min(frame.len())), false)?;
        }
        Ok(())
    }

    /// Queues a message; h2 sends it as the window allows.
    pub(crate) fn send(&mut self, message: &impl Message) -> Result<(), GrpcError> {
        let length = message.encoded_len();
        let mut frame = BytesMut::with_capacity(5 + length);
        frame.put_u8(0);
        frame.put_u32(length as u32);
        message.encode_raw(&mut frame);
        Ok(self.send.send_data(frame.freeze(), false)?)
    }

    /// The next message. Cancel safe: what has arrived stays buffered.
    pub async fn receive<M: Message + Default>(&mut self) -> Result<M, GrpcError> {
        if let Some(response) = &mut self.response {
            let response = response.await?;
            self.response = None;
            if response.status() != 200 {
                return Err(GrpcError::Http(response.status().as_u16()));
            }
            if let Some(status) = status(response.headers()) {
                return Err(status);
            }
            self.receive = Some(response.into_body());
        }
        loop {
            if let Some(message) = take(&mut self.buffer)? {
                return Ok(M::decode(message)?);
            }
            let Some(body) = &mut self.receive else {
                return Err(GrpcError::Status { code: 0, message: "stream closed".into() });
            };
            match poll_fn(|cx| body.poll_data(cx)).await {
                Some(data) => {
                    let data = data?;
                    body.flow_control().release_capacity(data.len())?;
                    self.buffer.extend_from_slice(&data);
                }
                None => {
                    let trailers = poll_fn(|cx| body.poll_trailers(cx)).await?;
                    let closed = GrpcError::Status { code: 0, message: "stream closed".into() };
                    return Err(trailers.as_ref().and_then(status).unwrap_or(closed));
                }
            }
        }
    }
}

/// `grpc-status` and `grpc-message`, if there.
fn status(headers: &HeaderMap) -> Option<GrpcError> {
    let code = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    let message = headers.get("grpc-message").and_then(|m| m.to_str().ok()).unwrap_or_default();
    Some(GrpcError::Status { code, message: message.to_owned() })
}

/// Cuts one whole message off the front.
fn take(buffer: &mut BytesMut) -> Result<Option<Bytes>, GrpcError> {
    let Some(head) = buffer.get(..5) else {
        return Ok(None);
    };
    let (compressed, length) = (head[0], u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize);
    if compressed != 0 {
        return Err(GrpcError::Compressed);
    }
    if length > MESSAGE_BYTES_MAX {
        return Err(GrpcError::TooLarge(length));
    }
    if buffer.len() < 5 + length {
        return Ok(None);
    }
    buffer.advance(5);
    let message = buffer.split_to(length).freeze();
    if buffer.is_empty() {
        // A push of megabytes must not keep its buffer while the stream idles.
        *buffer = BytesMut::new();
    }
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_cut_at_any_split() {
        let bytes = [&[0, 0, 0, 0, 2][..], b"ab", &[0, 0, 0, 0, 0], &[0, 0, 0, 0, 1], b"c"].concat();
        for split in 0..=bytes.len() {
            let mut buffer = BytesMut::new();
            let mut got = Vec::new();
            for part in [&bytes[..split], &bytes[split..]] {
                buffer.extend_from_slice(part);
                while let Some(message) = take(&mut buffer).expect("valid") {
                    got.push(message);
                }
            }
            assert_eq!(got, [&b"ab"[..], b"", b"c"]);
        }
        assert!(matches!(take(&mut BytesMut::from(&[1u8, 0, 0, 0, 0][..])), Err(GrpcError::Compressed)));
        assert!(matches!(take(&mut BytesMut::from(&[0u8, 255, 0, 0, 0][..])), Err(GrpcError::TooLarge(_))));
    }
}
