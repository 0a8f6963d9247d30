//! What does a client ask? The messages of a stream, cut from the body of its HTTP request. A long request leaves no
//! buffer of its length behind: a thousand clients name a thousand clusters each, once.

use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use http_body::Body;
use protos::prost::Message;
use tokio_stream::Stream;
use tonic::Status;
use tonic::codegen::StdError;

use crate::REQUEST_BYTES_MAX;

/// Bytes before a gRPC message: whether it is compressed, and its length.
pub(crate) const PREFIX_BYTES: usize = 5;

/// The messages of type `M` in a body. Ends with it; after an error nothing comes.
pub(crate) struct Requests<B, M> {
    body: Pin<Box<B>>,
    buffer: BytesMut,
    ended: bool,
    message: PhantomData<fn() -> M>,
}

impl<B, M: Message + Default> Requests<B, M> {
    pub(crate) fn new(body: B) -> Self {
        Requests { body: Box::pin(body), buffer: BytesMut::new(), ended: false, message: PhantomData }
    }

    /// The next message, once all of it is there.
    fn take(&mut self) -> Result<Option<M>, Status> {
        let Some((prefix, rest)) = self.buffer.split_first_chunk::<PREFIX_BYTES>() else {
            return Ok(None);
        };
        let [compressed, length @ ..] = *prefix;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if compressed != 0 {
            return Err(Status::unimplemented("compressed requests are not supported"));
        }
        if length > REQUEST_BYTES_MAX {
            return Err(Status::out_of_range(format!("a request of {length} bytes, more than {REQUEST_BYTES_MAX}")));
        }
        let Some(bytes) = rest.get(..length) else {
            return Ok(None);
        };
        let message = M::decode(bytes).map_err(|e| Status::invalid_argument(e.to_string()))?;
        self.buffer.advance(PREFIX_BYTES + length);
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        Ok(Some(message))
    }
}

impl<B, M> Stream for Requests<B, M>
where
    B: Body<Error: Into<StdError>>,
    M: Message + Default,
{
    type Item = Result<M, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        while !self.ended {
            match self.take() {
                Ok(Some(message)) => return Poll::Ready(Some(Ok(message))),
                Ok(None) => {}
                Err(status) => {
                    self.ended = true;
                    return Poll::Ready(Some(Err(status)));
                }
            }
            match ready!(self.body.as_mut().poll_frame(context)) {
                Some(Ok(frame)) => {
                    if let Ok(mut data) = frame.into_data() {
                        while data.has_remaining() {
                            let chunk = data.chunk();
                            self.buffer.extend_from_slice(chunk);
                            let length = chunk.len();
                            data.advance(length);
                        }
                    }
                }
                Some(Err(error)) => {
                    self.ended = true;
                    return Poll::Ready(Some(Err(Status::from_error(error.into()))));
                }
                None => self.ended = true,
            }
        }
        Poll::Ready(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use protos::envoy::service::discovery::v3::DeltaDiscoveryRequest;
    use std::collections::VecDeque;
    use tokio_stream::StreamExt as _;

    /// A body of these chunks.
    struct Chunks(VecDeque<Vec<u8>>);

    impl Body for Chunks {
        type Data = Bytes;
        type Error = Status;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.pop_front().map(|c| Ok(http_body::Frame::data(c.into()))))
        }
    }

    async fn read(chunks: &[&[u8]]) -> Vec<Result<String, tonic::Code>> {
        let body = Chunks(chunks.iter().map(|c| c.to_vec()).collect());
        let mut requests = Requests::<_, DeltaDiscoveryRequest>::new(body);
        let mut out = Vec::new();
        while let Some(request) = requests.next().await {
            out.push(request.map(|r| r.type_url).map_err(|s| s.code()));
        }
        assert_eq!(requests.buffer.capacity() > 0, !requests.buffer.is_empty(), "nothing is kept for nothing");
        out
    }

    #[tokio::test]
    async fn messages_are_cut_at_any_split() {
        let message = |url: &str| {
            let bytes = DeltaDiscoveryRequest { type_url: url.into(), ..Default::default() }.encode_to_vec();
            [&[0][..], &(bytes.len() as u32).to_be_bytes(), &bytes].concat()
        };
        let bytes = [message("first"), message(""), message("second")].concat();
        let want = || ["first", "", "second"].map(|url| Ok(url.to_owned())).to_vec();
        for split in 0..=bytes.len() {
            assert_eq!(read(&[&bytes[..split], &bytes[split..]]).await, want());
        }
        assert_eq!(read(&bytes.chunks(1).collect::<Vec<_>>()).await, want());
        assert_eq!(read(&[&bytes[..bytes.len() - 1]]).await, want()[..2]);
        for (bad, code) in [
            (&[1, 0, 0, 0, 0][..], tonic::Code::Unimplemented),
            (&[0, 255, 255, 255, 255], tonic::Code::OutOfRange),
            (&[0, 0, 0, 0, 1, 255], tonic::Code::InvalidArgument),
        ] {
            assert_eq!(read(&[bad, &message("never")]).await, [Err(code)]);
        }
    }
}
