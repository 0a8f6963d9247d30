//! What does the peer say? Bytes to frames, frames to changes of state, errors to resets and GOAWAY.
//!
//! Follows RFC 9113; the limits against abuse follow Envoy's (`Http2ProtocolOptions`) where it has one.

use http1::HeaderBlock;

use crate::connection::{Connection, Fatal, NUMBER_MAX, Role};
use crate::fields::{Bad, Fields, Kind};
use crate::frame::{self, HEADER_BYTES, Head, PAYLOAD_BYTES_MAX, PREFACE, code, flag, kind, setting};
use crate::send;
use crate::stream::{Failure, Key};

/// Marks the PING whose answer ends the first half of a drain.
pub(crate) const DRAIN_PING: &[u8; 8] = b"goodbye!";
/// Bytes of a header block before decoding; a list within the limit is never longer.
const BLOCK_BYTES_MAX: usize = 1 << 20;
/// Control frames that may wait to be sent (`max_outbound_control_frames` is 1,000 in Envoy).
const CONTROL_MAX: u32 = 1_000;
/// Frames without content in a row (`max_consecutive_inbound_frames_with_empty_payload`).
const EMPTIES_MAX: u32 = 64;
/// Requests reset before they were answered, when they are more than half of all (`premature_reset_total_stream_count`).
const RESETS_MAX: u32 = 500;

/// Where in the byte stream we are.
pub(crate) struct Input {
    preface: usize,
    header: [u8; HEADER_BYTES],
    header_len: usize,
    /// The frame being read, once its header is complete.
    head: Option<Head>,
    /// Payload of a frame that came in pieces.
    payload: Vec<u8>,
    /// DATA is passed on as it comes: bytes still to come.
    left: usize,
    /// A header block in pieces: stream, whether it ends, and what came.
    block: Option<(u32, bool)>,
    fragments: Vec<u8>,
    /// The first frame must be SETTINGS.
    begun: bool,
}

impl Input {
    pub fn new(role: Role) -> Self {
        Input {
            preface: if role == Role::Server { 0 } else { PREFACE.len() },
            header: [0; HEADER_BYTES],
            header_len: 0,
            head: None,
            payload: Vec::new(),
            left: 0,
            block: None,
            fragments: Vec::new(),
            begun: false,
        }
    }
}

type Result<T = ()> = std::result::Result<T, Fatal>;

fn fatal<T>(code: u32) -> Result<T> {
    Err(Fatal(code))
}

impl Connection {
    /// Takes bytes from the peer, all of them. An error ends the connection: write what is unsent, then close.
    pub fn receive(&mut self, mut input: &[u8]) -> Result {
        if self.over.is_some() {
            return fatal(code::PROTOCOL_ERROR);
        }
        let result = loop {
            if input.is_empty() {
                break Ok(());
            }
            match self.take(input) {
                Ok(n) => input = &input[n..],
                Err(e) => break Err(e),
            }
        };
        let result = match result {
            Ok(()) if self.control > CONTROL_MAX => fatal(code::ENHANCE_YOUR_CALM),
            r => r,
        };
        if let Err(Fatal(code)) = result {
            let last = if self.options.role == Role::Server { self.last_id } else { 0 };
            self.put_goaway(last, code);
            self.close(Failure::Protocol);
        }
        result
    }

    /// Takes the next piece; returns its length.
    fn take(&mut self, input: &[u8]) -> Result<usize> {
        let i = &mut self.input;
        if i.preface < PREFACE.len() {
            let rest = &PREFACE[i.preface..];
            let n = rest.len().min(input.len());
            if rest[..n] != input[..n] {
                return fatal(code::PROTOCOL_ERROR);
            }
            i.preface += n;
            return Ok(n);
        }
        let Some(head) = i.head else {
            let n = (HEADER_BYTES - i.header_len).min(input.len());
            i.header[i.header_len..i.header_len + n].copy_from_slice(&input[..n]);
            i.header_len += n;
            if i.header_len == HEADER_BYTES {
                i.header_len = 0;
                let head = Head::read(&i.header);
                i.head = Some(head);
                i.left = head.len;
                self.begin_frame(head)?;
                if head.len == 0 {
                    self.end_frame(head, &[])?;
                }
            }
            return Ok(n);
        };
        let whole_data = head.kind == kind::DATA && !head.has(flag::PADDED);
        let n = i.left.min(input.len());
        if whole_data {
            i.left -= n;
            let last = i.left == 0;
            if last {
                i.head = None;
            }
            self.on_data(head.id, &input[..n], n, last && head.has(flag::END_STREAM))?;
            return Ok(n);
        }
        if n == head.len {
            // The usual case: the frame lies in the caller's buffer.
            self.end_frame(head, &input[..n])?;
            return Ok(n);
        }
        i.payload.extend_from_slice(&input[..n]);
        i.left -= n;
        if i.left == 0 {
            let payload = std::mem::take(&mut i.payload);
            self.end_frame(head, &payload)?;
            self.input.payload = payload;
            self.input.payload.clear();
        }
        Ok(n)
    }

    /// Checks what a frame's header alone says.
    fn begin_frame(&mut self, head: Head) -> Result {
        if head.len > PAYLOAD_BYTES_MAX {
            return fatal(code::FRAME_SIZE_ERROR);
        }
        if !self.input.begun {
            if head.kind != kind::SETTINGS || head.has(flag::ACK) {
                return fatal(code::PROTOCOL_ERROR);
            }
            self.input.begun = true;
        }
        if let Some((id, _)) = self.input.block
            && (head.kind != kind::CONTINUATION || head.id != id)
        {
            return fatal(code::PROTOCOL_ERROR);
        }
        let on_stream = matches!(
            head.kind,
            kind::DATA | kind::HEADERS | kind::PRIORITY | kind::RST_STREAM | kind::CONTINUATION | kind::PUSH_PROMISE
        );
        let on_connection = matches!(head.kind, kind::SETTINGS | kind::PING | kind::GOAWAY);
        if on_stream && head.id == 0 || on_connection && head.id != 0 {
            return fatal(code::PROTOCOL_ERROR);
        }
        let size_is_wrong = match head.kind {
            kind::RST_STREAM | kind::WINDOW_UPDATE => head.len != 4,
            kind::SETTINGS => !head.len.is_multiple_of(6) || head.has(flag::ACK) && head.len != 0,
            kind::PING => head.len != 8,
            kind::GOAWAY => head.len < 8,
            _ => false,
        };
        if size_is_wrong {
            return fatal(code::FRAME_SIZE_ERROR);
        }
        let empty = head.len == 0
            && matches!(head.kind, kind::DATA | kind::HEADERS | kind::CONTINUATION)
            && !head.has(flag::END_STREAM);
        self.empties = if empty { self.empties + 1 } else { 0 };
        if self.empties > EMPTIES_MAX {
            return fatal(code::ENHANCE_YOUR_CALM);
        }
        Ok(())
    }

    fn end_frame(&mut self, head: Head, payload: &[u8]) -> Result {
        self.input.head = None;
        match head.kind {
            kind::DATA => {
                let body = unpad(head, payload)?;
                self.on_data(head.id, body, payload.len(), head.has(flag::END_STREAM))
            }
            kind::HEADERS => {
                let mut block = unpad(head, payload)?;
                if head.has(flag::PRIORITY) {
                    let (priority, rest) = block.split_at_checked(5).ok_or(Fatal(code::FRAME_SIZE_ERROR))?;
                    if frame::number(priority) & NUMBER_MAX == head.id {
                        return fatal(code::PROTOCOL_ERROR);
                    }
                    block = rest;
                }
                let end = head.has(flag::END_STREAM);
                if head.has(flag::END_HEADERS) {
                    return self.on_block(head.id, block, end);
                }
                self.input.block = Some((head.id, end));
                self.input.fragments.clear();
                self.input.fragments.extend_from_slice(block);
                Ok(())
            }
            kind::CONTINUATION => {
                let Some((id, end)) = self.input.block else { return fatal(code::PROTOCOL_ERROR) };
                if self.input.fragments.len() + payload.len() > BLOCK_BYTES_MAX {
                    return fatal(code::ENHANCE_YOUR_CALM);
                }
                self.input.fragments.extend_from_slice(payload);
                if head.has(flag::END_HEADERS) {
                    self.input.block = None;
                    let block = std::mem::take(&mut self.input.fragments);
                    return self.on_block(id, &block, end);
                }
                Ok(())
            }
            kind::PRIORITY => {
                if payload.len() != 5 {
                    self.stream_error(head.id, code::FRAME_SIZE_ERROR);
                } else if frame::number(payload) & NUMBER_MAX == head.id {
                    self.stream_error(head.id, code::PROTOCOL_ERROR);
                }
                Ok(())
            }
            kind::RST_STREAM => self.on_reset(head.id, frame::number(payload)),
            kind::SETTINGS => self.on_settings(head, payload),
            kind::PUSH_PROMISE => fatal(code::PROTOCOL_ERROR),
            kind::PING => {
                if !head.has(flag::ACK) {
                    Head { flags: flag::ACK, ..head }.put(&mut self.out);
                    self.out.extend_from_slice(payload);
                    self.control += 1;
                } else if payload == DRAIN_PING && self.draining && !self.going_away {
                    self.going_away = true;
                    self.serve_up_to = self.last_id;
                    self.put_goaway(self.last_id, code::NO_ERROR);
                }
                Ok(())
            }
            kind::GOAWAY => {
                self.going_away = true;
                if self.options.role == Role::Client {
                    let last = frame::number(payload) & NUMBER_MAX;
                    let unserved: Vec<u32> = self.by_id.iter().filter(|(id, _)| **id > last).map(|(_, s)| *s).collect();
                    for slot in unserved {
                        self.fail(slot, Failure::Reset(code::REFUSED_STREAM));
                    }
                } else {
                    self.serve_up_to = self.last_id;
                }
                Ok(())
            }
            kind::WINDOW_UPDATE => self.on_window_update(head.id, frame::number(payload) & NUMBER_MAX),
            _ => Ok(()),
        }
    }

    /// Whether a stream of that number was never opened.
    fn is_idle(&self, id: u32) -> bool {
        let theirs = id % 2 == 1;
        // Only requests of the client open streams, in either role.
        !theirs || id > self.last_id
    }

    fn key_of(&self, id: u32) -> Option<Key> {
        self.by_id.get(&id).map(|slot| Key { slot: *slot, id })
    }

    /// Resets a stream because the peer broke the protocol on it.
    fn stream_error(&mut self, id: u32, code: u32) {
        self.put_reset(id, code);
        if let Some(key) = self.key_of(id) {
            self.fail(key.slot, Failure::Protocol);
        }
    }

    fn on_data(&mut self, id: u32, body: &[u8], counted: usize, end: bool) -> Result {
        self.recv_window -= counted as i64;
        if self.recv_window < 0 {
            return fatal(code::FLOW_CONTROL_ERROR);
        }
        let Some(key) = self.key_of(id) else {
            if self.is_idle(id) {
                return fatal(code::PROTOCOL_ERROR);
            }
            self.credit(counted as u32);
            if !self.forgotten.contains(&id) {
                self.put_reset(id, code::STREAM_CLOSED);
            }
            return Ok(());
        };
        let Some(s) = self.stream(key) else { return Ok(()) };
        let mut error = None;
        s.recv_window -= counted as i64;
        if !s.recv_open {
            error = Some(code::STREAM_CLOSED);
        } else if s.recv_window < 0 {
            error = Some(code::FLOW_CONTROL_ERROR);
        } else if !s.headed {
            error = Some(code::PROTOCOL_ERROR);
        } else if let Some(left) = &mut s.expected {
            match left.checked_sub(body.len() as u64) {
                Some(n) if !(end && n > 0) => *left = n,
                _ => error = Some(code::PROTOCOL_ERROR),
            }
        }
        if let Some(code) = error {
            self.credit(counted as u32);
            self.stream_error(id, code);
            return Ok(());
        }
        let mut unread = (counted - body.len()) as u32;
        // Padding is nobody's to take.
        s.recv_window += i64::from(unread);
        if s.held {
            s.body.extend_from_slice(body);
        } else {
            unread += body.len() as u32;
        }
        if end {
            s.recv_open = false;
        }
        s.wake_receiver();
        if unread > 0 {
            self.credit(unread);
        }
        if end {
            self.settle(key.slot);
        }
        Ok(())
    }

    fn on_block(&mut self, id: u32, block: &[u8], end: bool) -> Result {
        let mut into = self.spare.pop().unwrap_or_default();
        let known = self.key_of(id);
        let kind = match (self.options.role, known) {
            (Role::Server, None) => Kind::Request,
            (Role::Client, Some(key)) if self.stream(key).is_some_and(|s| !s.headed) => Kind::Response,
            _ => Kind::Trailers,
        };
        let limit = self.options.header_list_bytes_max as usize;
        let mut fields = Fields::new(&mut into, kind, limit);
        let decoded = self.decoder.decode(block, |id, name, value| fields.push(id, name, value));
        let list = fields.finish();
        if decoded.is_err() {
            return fatal(code::COMPRESSION_ERROR);
        }
        match known {
            Some(key) => self.on_fields(key, into, list, kind, end),
            None if self.options.role == Role::Server => self.on_request(id, into, list, end),
            None if self.is_idle(id) => fatal(code::PROTOCOL_ERROR),
            // A response to a stream that we gave up.
            None => {
                self.keep(into);
                Ok(())
            }
        }
    }

    fn on_request(
        &mut self,
        id: u32,
        block: Box<HeaderBlock>,
        list: std::result::Result<Option<u64>, Bad>,
        end: bool,
    ) -> Result {
        if id.is_multiple_of(2) {
            return fatal(code::PROTOCOL_ERROR);
        }
        if id <= self.last_id {
            self.keep(block);
            return if self.forgotten.contains(&id) { Ok(()) } else { fatal(code::STREAM_CLOSED) };
        }
        self.last_id = id;
        if id > self.serve_up_to {
            self.keep(block);
            return Ok(());
        }
        self.requests += 1;
        if self.active() >= self.options.max_streams as usize {
            self.keep(block);
            self.put_reset(id, code::REFUSED_STREAM);
            return Ok(());
        }
        match list {
            Err(Bad::Malformed) => {
                self.keep(block);
                self.put_reset(id, code::PROTOCOL_ERROR);
            }
            Err(Bad::TooLarge) => {
                let mut block = block;
                block.clear();
                block.set_status(431);
                self.put_head(id, &block, true, send::Kind::Response);
                self.put_reset(id, code::NO_ERROR);
                self.keep(block);
            }
            Ok(length) => {
                if end && length.is_some_and(|n| n > 0) {
                    self.keep(block);
                    self.put_reset(id, code::PROTOCOL_ERROR);
                    return Ok(());
                }
                let key = self.insert(id);
                if let Some(s) = self.stream(key) {
                    s.headed = true;
                    s.expected = length;
                    s.recv_open = !end;
                    s.heads.push(block);
                }
                self.accepted.push_back(key);
            }
        }
        Ok(())
    }

    /// A head or trailers for a stream that is there.
    fn on_fields(
        &mut self,
        key: Key,
        block: Box<HeaderBlock>,
        list: std::result::Result<Option<u64>, Bad>,
        kind: Kind,
        end: bool,
    ) -> Result {
        let Some(s) = self.stream(key) else { return Ok(()) };
        if !s.recv_open {
            self.keep(block);
            self.stream_error(key.id, code::STREAM_CLOSED);
            return Ok(());
        }
        let Ok(length) = list else {
            self.keep(block);
            self.stream_error(key.id, code::PROTOCOL_ERROR);
            return Ok(());
        };
        let interim = kind == Kind::Response && block.status().is_some_and(|c| c / 100 == 1);
        let fits = match kind {
            Kind::Trailers => end && s.headed && s.expected.is_none_or(|n| n == 0),
            _ => !(interim && end),
        };
        if !fits {
            self.keep(block);
            self.stream_error(key.id, code::PROTOCOL_ERROR);
            return Ok(());
        }
        if kind == Kind::Trailers {
            s.trailers = Some(block);
        } else {
            s.headed = !interim;
            // What a length means for HEAD and 304 is for those to know who know the request.
            s.expected = length.filter(|_| !end && !interim);
            s.heads.push(block);
        }
        if end {
            s.recv_open = false;
        }
        s.wake_receiver();
        if end {
            self.settle(key.slot);
        }
        Ok(())
    }

    fn on_reset(&mut self, id: u32, code: u32) -> Result {
        let Some(key) = self.key_of(id) else {
            return if self.is_idle(id) { fatal(code::PROTOCOL_ERROR) } else { Ok(()) };
        };
        if self.options.role == Role::Server && self.stream(key).is_some_and(|s| !s.answered) {
            self.resets += 1;
            if self.resets >= RESETS_MAX && self.resets > self.requests / 2 {
                return fatal(code::ENHANCE_YOUR_CALM);
            }
        }
        // A server that has answered in full may tell us so: what was received stays good.
        let complete = code == code::NO_ERROR && self.stream(key).is_some_and(|s| s.headed && !s.recv_open);
        if complete {
            if let Some(s) = self.stream(key) {
                s.send_open = false;
                s.queued = Vec::new();
                s.queued_at = 0;
                s.wake_sender();
            }
            self.settle(key.slot);
        } else {
            self.fail(key.slot, Failure::Reset(code));
        }
        Ok(())
    }

    fn on_settings(&mut self, head: Head, payload: &[u8]) -> Result {
        if head.has(flag::ACK) {
            return Ok(());
        }
        self.peer.came = true;
        for s in payload.as_chunks::<6>().0 {
            let (name, value) = (u16::from_be_bytes([s[0], s[1]]), u32::from_be_bytes([s[2], s[3], s[4], s[5]]));
            match name {
                setting::HEADER_TABLE_SIZE => self.encoder.resize(value as usize),
                setting::ENABLE_PUSH if value > 1 => return fatal(code::PROTOCOL_ERROR),
                setting::ENABLE_PUSH if value == 1 && self.options.role == Role::Client => {
                    return fatal(code::PROTOCOL_ERROR);
                }
                setting::MAX_CONCURRENT_STREAMS => self.peer.max_streams = value,
                setting::INITIAL_WINDOW_SIZE => {
                    if value > NUMBER_MAX {
                        return fatal(code::FLOW_CONTROL_ERROR);
                    }
                    let change = i64::from(value) - i64::from(self.peer.initial_window);
                    self.peer.initial_window = value;
                    for slot in 0..self.slots.len() as u32 {
                        if let Some(Some(s)) = self.slots.get_mut(slot as usize) {
                            s.send_window += change;
                            if s.send_window > i64::from(NUMBER_MAX) {
                                return fatal(code::FLOW_CONTROL_ERROR);
                            }
                            self.pump(slot);
                        }
                    }
                }
                setting::MAX_FRAME_SIZE => {
                    if !(PAYLOAD_BYTES_MAX..1 << 24).contains(&(value as usize)) {
                        return fatal(code::PROTOCOL_ERROR);
                    }
                    self.peer.frame_bytes_max = value as usize;
                }
                setting::ENABLE_CONNECT_PROTOCOL => {
                    if value > 1 {
                        return fatal(code::PROTOCOL_ERROR);
                    }
                    self.peer.connect_protocol = value == 1;
                }
                _ => {}
            }
        }
        Head { len: 0, kind: kind::SETTINGS, flags: flag::ACK, id: 0 }.put(&mut self.out);
        self.control += 1;
        Ok(())
    }

    fn on_window_update(&mut self, id: u32, n: u32) -> Result {
        if id == 0 {
            if n == 0 {
                return fatal(code::PROTOCOL_ERROR);
            }
            self.send_window += i64::from(n);
            if self.send_window > i64::from(NUMBER_MAX) {
                return fatal(code::FLOW_CONTROL_ERROR);
            }
            self.unblock();
            return Ok(());
        }
        let Some(key) = self.key_of(id) else {
            return if self.is_idle(id) { fatal(code::PROTOCOL_ERROR) } else { Ok(()) };
        };
        if n == 0 {
            self.stream_error(id, code::PROTOCOL_ERROR);
            return Ok(());
        }
        let Some(s) = self.stream(key) else { return Ok(()) };
        s.send_window += i64::from(n);
        if s.send_window > i64::from(NUMBER_MAX) {
            self.stream_error(id, code::FLOW_CONTROL_ERROR);
            return Ok(());
        }
        if s.queued() > 0 {
            self.pump(key.slot);
        }
        Ok(())
    }
}

/// A payload without its padding.
fn unpad(head: Head, payload: &[u8]) -> Result<&[u8]> {
    if !head.has(flag::PADDED) {
        return Ok(payload);
    }
    let (pad, rest) = payload.split_first().ok_or(Fatal(code::FRAME_SIZE_ERROR))?;
    rest.len().checked_sub(usize::from(*pad)).map(|n| &rest[..n]).ok_or(Fatal(code::PROTOCOL_ERROR))
}
