//! How does a response go out on a downstream connection?

use http1::{BodyKind, BodyReader, HeaderBlock, HeaderId, Reason, RequestHead, Version, write_response_head};

use crate::exchange::Exchange;
use crate::h2_session::Stream;
use crate::side::{H2Side, Lost, SendMode, Side};
use crate::worker::Worker;

/// Bytes before the payload of an HTTP/2 frame.
const H2_FRAME_HEAD_BYTES: u64 = 9;

/// The downstream end of an exchange.
pub struct Down {
    /// The bytes.
    pub side: Side,
    version: Version,
    head_request: bool,
    connect: bool,
    /// The connection ends after this response (HTTP/1).
    pub close: bool,
    /// The request asked for that, by a header or by its version.
    asked_close: bool,
    /// The response was broken off.
    cut: bool,
    /// The reply is our own, made as soon as the request's head was there.
    pub at_head: bool,
    /// A 100-continue waits to be flushed.
    pub continue_pending: bool,
    /// A response head was sent.
    pub responded: bool,
    /// The request counts as incomplete, whatever has arrived: its head or body was refused half-way.
    pub incomplete: bool,
}

/// What follows a response head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseBody {
    /// Nothing: the message ends with its head.
    None,
    /// A body; `raw` when chunk framing of the source is passed on.
    Stream {
        /// See [`SendMode::RawChunked`].
        raw: bool,
    },
    /// Bytes of an upgraded protocol.
    Tunnel,
}

impl Down {
    /// A downstream HTTP/1.1 connection.
    pub fn h1(side: Side) -> Self {
        Down {
            side,
            version: Version::Http11,
            head_request: false,
            connect: false,
            close: false,
            asked_close: false,
            cut: false,
            at_head: false,
            continue_pending: false,
            responded: false,
            incomplete: false,
        }
    }

    /// A downstream HTTP/2 stream.
    pub fn h2(stream: Stream, recv: bool, head: bool) -> Self {
        Down { head_request: head, ..Down::h1(Side::H2(H2Side::new(stream, recv))) }
    }

    /// Starts the next HTTP/1.1 request.
    pub fn start(&mut self, head: &RequestHead) {
        self.version = head.version;
        self.close = !head.keep_alive;
        self.asked_close = self.close;
        self.cut = false;
        self.at_head = false;
        self.responded = false;
        self.incomplete = false;
        self.continue_pending = false;
        if let Side::H1(s) = &mut self.side {
            // The body of an upgrade request is a tunnel once the upgrade is accepted.
            s.reader = match head.body {
                BodyKind::Tunnel => BodyReader::new(BodyKind::None),
                kind => BodyReader::new(kind),
            };
        }
    }

    /// Whether a connection that ends here is closed without waiting for the client to do it: what was broken off, and where a
    /// client that asked for the end has sent all. Elsewhere bytes on their way would have the response lost in a reset.
    ///
    /// Follows: `ConnectionManagerImpl::doEndStream`, which takes no request for complete as long as its head is being decoded.
    pub fn closes_at_once(&self) -> bool {
        let done = matches!(&self.side, Side::H1(s) if s.reader.is_done()) && !self.incomplete;
        self.cut || self.asked_close && done && !self.at_head
    }

    /// Notes what the request method means for the response's framing.
    pub fn set_method(&mut self, head_request: bool, connect: bool) {
        self.head_request = head_request;
        self.connect = connect;
    }

    /// The bytes that follow are a tunnel's, in both directions.
    pub fn start_tunnel(&mut self) {
        if let Side::H1(s) = &mut self.side {
            s.reader = BodyReader::new(BodyKind::Tunnel);
        }
    }

    /// Whether chunk framing can be passed on to this side.
    pub fn takes_raw_chunks(&self) -> bool {
        matches!(self.side, Side::H1(_)) && self.version == Version::Http11
    }

    /// Queues the response head.
    pub fn send_head(&mut self, block: &mut HeaderBlock, body: ResponseBody, worker: &Worker) -> Result<(), Lost> {
        self.responded = true;
        match &mut self.side {
            Side::H1(s) => {
                let status = block.status().unwrap_or(500);
                let has_length = block.has(HeaderId::CONTENT_LENGTH);
                let bodiless = self.head_request || status / 100 == 1 || matches!(status, 204 | 304);
                let mut extra: &[u8] = b"";
                s.mode = match body {
                    ResponseBody::Tunnel => {
                        self.close = true;
                        SendMode::Plain
                    }
                    ResponseBody::None => {
                        let silent = has_length || status / 100 == 1 || matches!(status, 204 | 304);
                        if !silent {
                            extra = match (self.head_request, self.version) {
                                (false, _) => b"content-length: 0\r\n",
                                (true, Version::Http10) => b"",
                                (true, _) => b"transfer-encoding: chunked\r\n",
                            };
                        }
                        SendMode::Nothing
                    }
                    ResponseBody::Stream { .. } if bodiless => SendMode::Nothing,
                    ResponseBody::Stream { .. } if has_length => SendMode::Plain,
                    ResponseBody::Stream { .. } if self.version == Version::Http10 => {
                        self.close = true;
                        SendMode::Plain
                    }
                    ResponseBody::Stream { raw } => {
                        extra = b"transfer-encoding: chunked\r\n";
                        if raw { SendMode::RawChunked } else { SendMode::Chunked }
                    }
                };
                if body != ResponseBody::Tunnel {
                    if self.close {
                        block.set_id(HeaderId::CONNECTION, b"close");
                    } else if self.version == Version::Http10 {
                        block.set_id(HeaderId::CONNECTION, b"keep-alive");
                    }
                }
                let (case, version) = (s.case, self.version);
                write_response_head(s.wire.out(worker), block, version, case, Reason::Standard, extra);
                Ok(())
            }
            Side::H2(s) => {
                let end = body == ResponseBody::None;
                s.stream.as_ref().ok_or(Lost::Closed)?.respond(block, end, false)?;
                s.send = !end;
                Ok(())
            }
        }
    }

    /// Queues `100 Continue`.
    pub fn send_continue(&mut self, worker: &Worker) {
        match &mut self.side {
            Side::H1(s) => {
                s.wire.out(worker).extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
                self.continue_pending = true;
            }
            Side::H2(s) => {
                let mut head = HeaderBlock::new();
                head.set_status(100);
                if let Some(stream) = &s.stream {
                    // A stream that cannot take it is told so by its response.
                    let _ = stream.respond(&head, false, true);
                }
            }
        }
    }

    /// Queues an informational response.
    pub fn send_informational(&mut self, block: &HeaderBlock, worker: &Worker) -> Result<(), Lost> {
        match &mut self.side {
            Side::H1(s) => {
                let case = s.case;
                write_response_head(s.wire.out(worker), block, Version::Http11, case, Reason::Standard, b"");
                Ok(())
            }
            Side::H2(s) => s.stream.as_ref().map_or(Ok(()), |s| s.respond(block, false, true)),
        }
    }

    /// Bytes of the exchange that ends: (received, sent), heads and framing included.
    ///
    /// Over HTTP/1.1 they are counted on the wire. Over HTTP/2 header compression is not undone by counting:
    /// heads count as their names and values, bodies with one frame head.
    pub fn wire_bytes(&self, ex: &Exchange) -> (u64, u64) {
        match &self.side {
            Side::H1(s) => {
                let received = s.wire.received.saturating_sub(s.wire.buffered().len() as u64);
                (received, s.wire.sent + s.wire.unsent() as u64)
            }
            Side::H2(_) => {
                let heads = |a: &HeaderBlock, b: &HeaderBlock| (a.byte_size() + b.byte_size()) as u64;
                let framed = |n: u64| if n > 0 { n + H2_FRAME_HEAD_BYTES } else { 0 };
                (
                    heads(&ex.request, &ex.request_trailers) + H2_FRAME_HEAD_BYTES + framed(ex.bytes_received),
                    heads(&ex.response, &ex.response_trailers) + H2_FRAME_HEAD_BYTES + framed(ex.bytes_sent),
                )
            }
        }
    }

    /// Breaks off, with this code in HTTP/2: the client must notice that the response is incomplete.
    pub fn abort(&mut self, code: u32) {
        self.close = true;
        self.cut = true;
        match &mut self.side {
            Side::H1(_) => {}
            Side::H2(s) => {
                if let Some(stream) = &s.stream {
                    stream.reset(code);
                }
                s.recv = false;
                s.send = false;
            }
        }
    }
}
