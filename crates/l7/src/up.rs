//! How is a request put on an upstream connection, and how does the response head come back?
//!
//! Used by the router for each try. Choosing the host and keeping idle connections is `pool.rs`.

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use http1::{
    BodyKind, HeadScanner, HeaderBlock, HeaderId, Limits, ResponseOptions, Version, parse_response, write_request_head,
};

use crate::h2_session::Session;
use crate::side::{H2Side, Lost, SendMode, Side};
use crate::worker::Worker;

/// A request in flight on an upstream connection.
pub struct Up {
    /// The bytes.
    pub side: Side,
    session: Option<Rc<Session>>,
    scanner: HeadScanner,
    options: ResponseOptions,
    /// HTTP/1.1: the connection may serve another request after this one.
    pub keep_alive: bool,
    /// Some byte of the response arrived.
    pub answered: bool,
    /// No HTTP is spoken upstream: a CONNECT (or a POST for one) ends here, its payload goes on as bytes.
    pub raw: bool,
    /// The protocol of an HTTP/1.1 upgrade that went up as an extended CONNECT.
    upgrade: Option<Box<[u8]>>,
}

/// A response head just received; its fields are in the block that was passed.
#[derive(Clone, Copy, Debug)]
pub struct UpHead {
    /// Status.
    pub status: u16,
    /// The response has no body.
    pub ends: bool,
    /// The connection became a tunnel.
    pub tunnel: bool,
}

impl Up {
    /// A request over an HTTP/1.1 connection.
    pub fn h1(side: Side, limits: Limits, preserve_case: bool) -> Self {
        let options = ResponseOptions { limits, preserve_case, ..Default::default() };
        Up {
            side,
            session: None,
            scanner: HeadScanner::default(),
            options,
            keep_alive: true,
            answered: false,
            raw: false,
            upgrade: None,
        }
    }

    /// The payload of a CONNECT that is terminated here, over a bare connection.
    pub fn raw(side: Side) -> Self {
        Up { raw: true, keep_alive: false, ..Up::h1(side, Limits::default(), false) }
    }

    /// A request over an HTTP/2 connection.
    pub fn h2(session: Rc<Session>) -> Self {
        Up {
            side: Side::H2(Default::default()),
            session: Some(session),
            scanner: HeadScanner::default(),
            options: ResponseOptions::default(),
            keep_alive: false,
            answered: false,
            raw: false,
            upgrade: None,
        }
    }

    /// Makes an idle HTTP/1.1 connection ready for its next request.
    pub fn renew(&mut self) {
        self.scanner.reset();
        self.keep_alive = true;
        self.answered = false;
        if let Side::H1(s) = &mut self.side {
            s.reader = http1::BodyReader::default();
            s.mode = SendMode::Nothing;
        }
    }

    /// Whether an idle HTTP/1.1 connection is unusable: closed, or the peer spoke out of turn.
    pub fn is_stale(&mut self) -> bool {
        match &mut self.side {
            Side::H1(s) => s.wire.is_stale(),
            Side::H2(_) => true,
        }
    }

    /// Queues the request head. `body` says what follows it; an upgrade or CONNECT counts as a tunnel.
    pub fn send_head(&mut self, block: &HeaderBlock, body: RequestBody, worker: &Worker) -> Result<(), Lost> {
        if self.raw {
            if let Side::H1(s) = &mut self.side {
                s.mode = SendMode::Plain;
            }
            return Ok(());
        }
        let method = block.method();
        self.options.head_request = method == b"HEAD";
        self.options.connect_request = method == b"CONNECT";
        match &mut self.side {
            Side::H1(s) => {
                let has_length = block.has(HeaderId::CONTENT_LENGTH);
                let (mode, extra): (_, &[u8]) = match body {
                    RequestBody::Tunnel => (SendMode::Plain, b""),
                    RequestBody::None if has_length => (SendMode::Nothing, b""),
                    RequestBody::None => {
                        let bodiless = matches!(method, b"GET" | b"HEAD" | b"DELETE" | b"TRACE" | b"CONNECT");
                        (SendMode::Nothing, if bodiless { b"" } else { b"content-length: 0\r\n" })
                    }
                    RequestBody::Stream { .. } if has_length => (SendMode::Plain, b""),
                    RequestBody::Stream { raw } => {
                        (if raw { SendMode::RawChunked } else { SendMode::Chunked }, b"transfer-encoding: chunked\r\n")
                    }
                };
                s.mode = mode;
                let case = s.case;
                write_request_head(s.wire.out(worker), block, Version::Http11, case, extra);
                Ok(())
            }
            Side::H2(s) => {
                let session = self.session.as_ref().ok_or(Lost::Closed)?;
                let end = body == RequestBody::None;
                let upgrade = block.get_id(HeaderId::UPGRADE).filter(|_| body == RequestBody::Tunnel);
                let stream = match upgrade.filter(|_| !self.options.connect_request) {
                    Some(protocol) => {
                        self.upgrade = Some(protocol.into());
                        session.request(&extended_connect(block, protocol), end)
                    }
                    None => session.request(block, end),
                };
                let stream = stream.ok_or(Lost::Closed)?;
                *s = H2Side::new(stream, false);
                s.send = !end;
                Ok(())
            }
        }
    }

    /// The next response head; informational ones are delivered too.
    pub fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        block: &mut HeaderBlock,
        worker: &Worker,
    ) -> Poll<Result<UpHead, Lost>> {
        if self.raw && !self.answered {
            // The connection is all the answer there is.
            self.answered = true;
            block.clear();
            block.set_status(200);
            if let Side::H1(s) = &mut self.side {
                s.reader = http1::BodyReader::new(BodyKind::Tunnel);
            }
            return Poll::Ready(Ok(UpHead { status: 200, ends: false, tunnel: true }));
        }
        match &mut self.side {
            Side::H1(s) => loop {
                if !s.wire.buffered().is_empty() {
                    self.answered = true;
                    let parsed = parse_response(s.wire.buffered(), &mut self.scanner, &self.options, block);
                    if let Some(head) = parsed.map_err(|_| Lost::Protocol)? {
                        s.wire.consume(head.consumed);
                        self.scanner.reset();
                        if head.status / 100 == 1 && head.status != 101 {
                            return Poll::Ready(Ok(UpHead { status: head.status, ends: false, tunnel: false }));
                        }
                        if head.status == 204 && block.has(HeaderId::CONTENT_LENGTH) {
                            // As Envoy's codec: a length that is none is overlooked, another is an error.
                            if block.get_id(HeaderId::CONTENT_LENGTH) != Some(b"0") {
                                return Poll::Ready(Err(Lost::Protocol));
                            }
                            block.remove_id(HeaderId::CONTENT_LENGTH);
                        }
                        self.keep_alive = head.keep_alive;
                        s.reader = http1::BodyReader::new(head.body);
                        block.remove_id(HeaderId::TRANSFER_ENCODING);
                        return Poll::Ready(Ok(UpHead {
                            status: head.status,
                            ends: s.reader.is_done(),
                            tunnel: head.body == BodyKind::Tunnel,
                        }));
                    }
                }
                match ready!(s.wire.poll_fill(cx, worker)) {
                    Ok(0) | Err(_) => return Poll::Ready(Err(Lost::Closed)),
                    Ok(_) => {}
                }
            },
            Side::H2(s) => {
                let Some(stream) = &s.stream else {
                    return Poll::Ready(Err(Lost::Closed));
                };
                let head = ready!(stream.poll_head(cx, block))?;
                let status = block.status().unwrap_or(0);
                if status / 100 == 1 {
                    return Poll::Ready(Ok(UpHead { status, ends: false, tunnel: false }));
                }
                self.answered = true;
                s.recv = !head.ends;
                if let Some(protocol) = self.upgrade.take().filter(|_| status == 200) {
                    block.set_status(101);
                    block.set_id(HeaderId::CONNECTION, b"upgrade");
                    block.set_id(HeaderId::UPGRADE, &protocol);
                    block.remove_id(HeaderId::CONTENT_LENGTH);
                    return Poll::Ready(Ok(UpHead { status: 101, ends: head.ends, tunnel: true }));
                }
                let tunnel = self.options.connect_request && status / 100 == 2;
                Poll::Ready(Ok(UpHead { status, ends: head.ends, tunnel }))
            }
        }
    }

    /// Whether the connection may be used again: HTTP/1.1, both messages complete, nothing left over.
    pub fn reusable(&self) -> bool {
        match &self.side {
            Side::H1(s) => {
                self.keep_alive
                    && s.reader.is_done()
                    && s.mode == SendMode::Nothing
                    && s.wire.unsent() == 0
                    && s.wire.buffered().is_empty()
                    && !s.wire.eof
            }
            Side::H2(_) => false,
        }
    }

    /// Abandons the request: an HTTP/2 stream is reset, an HTTP/1.1 connection will be closed by dropping it.
    pub fn reset(&mut self) {
        self.keep_alive = false;
        if let Side::H2(s) = &mut self.side {
            if let Some(stream) = &s.stream {
                stream.reset(http2::frame::code::CANCEL);
            }
            s.recv = false;
            s.send = false;
        }
    }
}

/// An HTTP/1.1 upgrade as HTTP/2 has it (RFC 8441).
fn extended_connect(block: &HeaderBlock, protocol: &[u8]) -> HeaderBlock {
    let mut out = block.clone();
    out.set_id(HeaderId::METHOD, b"CONNECT");
    out.set_id(HeaderId::PROTOCOL, protocol);
    out.remove_id(HeaderId::UPGRADE);
    out.remove_id(HeaderId::CONNECTION);
    if out.get_id(HeaderId::CONTENT_LENGTH) == Some(b"0") {
        out.remove_id(HeaderId::CONTENT_LENGTH);
    }
    out
}

/// What follows a request head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestBody {
    /// Nothing.
    None,
    /// A body; `raw` when chunk framing of the source is passed on.
    Stream {
        /// See [`SendMode::RawChunked`].
        raw: bool,
    },
    /// Bytes of an upgraded protocol.
    Tunnel,
}
