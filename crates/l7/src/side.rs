//! How does a body travel on either side of the proxy, whichever protocol is spoken there?
//!
//! A [`Side`] is one message exchange on one connection: HTTP/1.1 over a [`Wire`], or one HTTP/2
//! stream. The relay pulls pieces from one side and pushes them into the other; bytes are borrowed
//! from the source's buffer and copied only when the sink's socket does not take them.

use std::ops::Range;
use std::task::{Context, Poll, ready};

use http1::{BodyKind, BodyReader, HeaderBlock, HeaderCase, push_chunk_head, write_trailers};

use crate::h2_session::Stream;
use crate::io::{HIGH_WATERMARK_BYTES, Wire};
use crate::worker::Worker;

/// Why a side ended before its message did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// The connection was closed or reset by the peer.
    Closed,
    /// The peer broke the protocol.
    Protocol,
    /// HTTP/2: the peer reset the stream, with this reason code.
    Reset(u32),
}

/// How a body is framed on the way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum SendMode {
    /// No body follows the head.
    #[default]
    Nothing,
    /// Bytes as they are: a declared length, a tunnel, or until close.
    Plain,
    /// Chunked: framing is added here.
    Chunked,
    /// Chunked: validated framing of the source is passed on.
    RawChunked,
}

/// A piece of a body.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes in the source's buffer, to be had by [`Side::bytes`]; `data` counts those that are not framing.
    Bytes {
        /// Where.
        at: Range<usize>,
        /// Body bytes among them.
        data: usize,
    },
    /// The body is complete; trailers, if any, are had by [`Side::take_trailers`].
    End,
}

/// One message exchange on one connection.
#[allow(clippy::large_enum_variant)] // One per connection or stream, never in bulk.
pub enum Side {
    /// HTTP/1.1.
    H1(H1Side),
    /// HTTP/2.
    H2(H2Side),
}

/// HTTP/1.1 state of a [`Side`].
pub struct H1Side {
    /// The bytes.
    pub wire: Wire,
    /// Position in the body being received.
    pub reader: BodyReader,
    /// Framing of the body being sent.
    pub mode: SendMode,
    /// Header case on the way out.
    pub case: HeaderCase,
}

/// HTTP/2 state of a [`Side`].
#[derive(Default)]
pub struct H2Side {
    /// The stream; `None` before the request was sent.
    pub stream: Option<Stream>,
    /// A body is being received.
    pub recv: bool,
    /// A body is being sent.
    pub send: bool,
    current: Vec<u8>,
}

impl H1Side {
    /// A side over a connected wire.
    pub fn new(wire: Wire, case: HeaderCase) -> Self {
        H1Side { wire, reader: BodyReader::default(), mode: SendMode::Nothing, case }
    }

    /// See [`Side::poll_piece`].
    pub fn poll_piece(&mut self, cx: &mut Context<'_>, raw: bool, worker: &Worker) -> Poll<Result<Piece, Lost>> {
        loop {
            if self.reader.is_done() {
                self.wire.release(worker);
                return Poll::Ready(Ok(Piece::End));
            }
            if !self.wire.buffered().is_empty() {
                let base = self.wire.position();
                let input = self.wire.buffered();
                let (range, used, data) = if raw {
                    self.reader.next_raw(input).map_err(|_| Lost::Protocol)?
                } else {
                    let (range, used) = self.reader.next_data(input).map_err(|_| Lost::Protocol)?;
                    let n = range.len();
                    (range, used, n)
                };
                self.wire.consume(used);
                if !range.is_empty() {
                    let at = base + range.start..base + range.end;
                    return Poll::Ready(Ok(Piece::Bytes { at, data }));
                }
                continue;
            }
            match ready!(self.wire.poll_fill(cx, worker)) {
                Ok(0) if self.reader.eof() => {}
                Ok(0) | Err(_) => return Poll::Ready(Err(Lost::Closed)),
                Ok(_) => {}
            }
        }
    }
}

impl H2Side {
    /// A side on a stream.
    pub fn new(stream: Stream, recv: bool) -> Self {
        H2Side { stream: Some(stream), recv, send: false, current: Vec::new() }
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, Lost>> {
        let Some(stream) = self.stream.as_ref().filter(|_| self.recv) else {
            return Poll::Ready(Ok(Piece::End));
        };
        // Room is given back when the piece is taken: the relay asks only when the sink has room.
        if ready!(stream.poll_body(cx, &mut self.current))? {
            let n = self.current.len();
            return Poll::Ready(Ok(Piece::Bytes { at: 0..n, data: n }));
        }
        self.recv = false;
        Poll::Ready(Ok(Piece::End))
    }
}

impl Side {
    /// The next piece of the body being received. `raw` keeps chunk framing (HTTP/1.1 only).
    pub fn poll_piece(&mut self, cx: &mut Context<'_>, raw: bool, worker: &Worker) -> Poll<Result<Piece, Lost>> {
        match self {
            Side::H1(s) => s.poll_piece(cx, raw, worker),
            Side::H2(s) => s.poll_piece(cx),
        }
    }

    /// The bytes of a piece just received.
    #[inline]
    pub fn bytes(&self, at: &Range<usize>) -> &[u8] {
        match self {
            Side::H1(s) => s.wire.slice(at),
            Side::H2(s) => &s.current[at.clone()],
        }
    }

    /// Trailers that ended the received body, appended to `into`. Returns whether there were any.
    /// HTTP/1.1 trailers that are malformed count as none; their framing was valid.
    pub fn take_trailers(&mut self, into: &mut HeaderBlock) -> bool {
        match self {
            Side::H1(s) => {
                let raw = s.reader.trailers();
                !raw.is_empty() && http1::parse_trailers(raw, &http1::Limits::default(), into).is_ok()
            }
            Side::H2(s) => s.stream.as_ref().is_some_and(|s| s.take_trailers(into)),
        }
    }

    /// Whether the received body is complete or was never there.
    pub fn received_all(&self) -> bool {
        match self {
            Side::H1(s) => s.reader.is_done(),
            Side::H2(s) => !s.recv,
        }
    }

    /// Whether the received body is chunked HTTP/1.1, so that raw framing may be had.
    pub fn receives_chunked(&self) -> bool {
        matches!(self, Side::H1(s) if s.reader.is_chunked())
    }

    /// Ready when the sink wants more: its unsent bytes are below the high watermark.
    pub fn poll_room(&mut self, cx: &mut Context<'_>, worker: &Worker) -> Poll<Result<(), Lost>> {
        match self {
            Side::H1(s) => {
                if s.wire.unsent() < HIGH_WATERMARK_BYTES {
                    return Poll::Ready(Ok(()));
                }
                s.wire.poll_flush(cx, worker).map_err(|_| Lost::Closed)
            }
            Side::H2(s) => match s.stream.as_ref().filter(|_| s.send) {
                Some(stream) => stream.poll_room(cx),
                None => Poll::Ready(Ok(())),
            },
        }
    }

    /// Sends body bytes; see [`SendMode`] for who frames them.
    pub fn send(&mut self, bytes: &[u8], worker: &Worker) -> Result<(), Lost> {
        if bytes.is_empty() {
            return Ok(());
        }
        match self {
            Side::H1(s) => {
                let r = match s.mode {
                    SendMode::Nothing => return Ok(()),
                    SendMode::Plain | SendMode::RawChunked => s.wire.send(bytes, worker),
                    SendMode::Chunked => {
                        push_chunk_head(s.wire.out(worker), bytes.len());
                        s.wire.send(bytes, worker).and_then(|()| s.wire.send(b"\r\n", worker))
                    }
                };
                r.map_err(|_| Lost::Closed)
            }
            Side::H2(s) => match s.stream.as_ref().filter(|_| s.send) {
                Some(stream) => stream.send(bytes),
                None => Ok(()),
            },
        }
    }

    /// Ends the body being sent.
    pub fn finish(&mut self, trailers: Option<&HeaderBlock>, worker: &Worker) -> Result<(), Lost> {
        match self {
            Side::H1(s) => {
                if s.mode == SendMode::Chunked {
                    let case = s.case;
                    let out = s.wire.out(worker);
                    out.extend_from_slice(b"0\r\n");
                    match trailers {
                        Some(t) => write_trailers(out, t, case),
                        None => out.extend_from_slice(b"\r\n"),
                    }
                }
                s.mode = SendMode::Nothing;
                Ok(())
            }
            Side::H2(s) => match s.stream.as_ref().filter(|_| std::mem::take(&mut s.send)) {
                Some(stream) => stream.finish(trailers),
                None => Ok(()),
            },
        }
    }

    /// Hands everything queued to the connection.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>, worker: &Worker) -> Poll<Result<(), Lost>> {
        match self {
            Side::H1(s) => s.wire.poll_flush(cx, worker).map_err(|_| Lost::Closed),
            Side::H2(s) => {
                if let Some(stream) = s.stream.as_ref().filter(|_| s.send) {
                    stream.flush();
                }
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Ready when the peer is gone while nothing is expected from it. HTTP/1.1 bytes that arrive early
    /// (pipelining) are kept, up to one buffer.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>, worker: &Worker) -> Poll<Lost> {
        match self {
            Side::H1(s) => {
                while s.wire.buffered().len() < crate::io::BUFFER_BYTES {
                    match ready!(s.wire.poll_fill(cx, worker)) {
                        Ok(0) | Err(_) => return Poll::Ready(Lost::Closed),
                        Ok(_) => {}
                    }
                }
                Poll::Pending
            }
            Side::H2(s) => match &s.stream {
                Some(stream) => stream.poll_failed(cx),
                None => Poll::Pending,
            },
        }
    }

    /// Starts receiving a body of that framing (HTTP/1.1).
    pub fn expect_body(&mut self, kind: BodyKind) {
        if let Side::H1(s) = self {
            s.reader = BodyReader::new(kind);
        }
    }
}
