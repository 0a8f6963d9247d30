//! How do heads and bodies become frames?
//!
//! Frames are put into the connection's buffer at once, as far as windows and the buffer's limit let them; the rest of a body
//! waits in its stream and goes on when room comes. A body's last bytes and its end leave in one frame.

use std::task::{Context, Poll};

use http1::{HeaderBlock, HeaderId};

use crate::connection::{Connection, Role};
use crate::frame::{self, code, flag, kind};
use crate::stream::{Failure, Key, Then, note};

/// Unsent frame bytes above which bodies wait in their streams.
const OUT_BYTES_MAX: usize = 256 << 10;
/// Queued body bytes above which a stream's owner waits.
const QUEUE_BYTES_MAX: usize = 64 << 10;

impl Connection {
    /// Opens a stream with a request (client). `None`: no more may be opened here.
    pub fn request(&mut self, block: &HeaderBlock, end: bool) -> Option<Key> {
        if !self.is_open() || self.active() >= self.max_streams() {
            return None;
        }
        let id = if self.last_id == 0 { 1 } else { self.last_id + 2 };
        self.last_id = id;
        let key = self.insert(id);
        self.put_head(id, block, end, Kind::Request);
        if end {
            self.end_sending(key);
        }
        self.wake_driver();
        Some(key)
    }

    /// Sends a response head; an informational one when `interim`.
    pub fn respond(&mut self, key: Key, block: &HeaderBlock, end: bool, interim: bool) -> Result<(), Failure> {
        let s = self.stream(key).ok_or(Failure::Closed)?;
        if let Some(f) = s.failed {
            return Err(f);
        }
        s.answered = true;
        self.put_head(key.id, block, end && !interim, Kind::Response);
        if end && !interim {
            self.end_sending(key);
        }
        self.wake_driver();
        Ok(())
    }

    /// Queues body bytes; they leave with [`Connection::flush`], [`Connection::finish`] or when much is queued.
    pub fn send(&mut self, key: Key, bytes: &[u8]) -> Result<(), Failure> {
        let s = self.stream(key).ok_or(Failure::Closed)?;
        if let Some(f) = s.failed {
            return Err(f);
        }
        s.queued.extend_from_slice(bytes);
        if s.queued() >= frame::PAYLOAD_BYTES_MAX {
            self.pump(key.slot);
        }
        Ok(())
    }

    /// Lets queued body bytes leave.
    pub fn flush(&mut self, key: Key) {
        if self.stream(key).is_some_and(|s| s.queued() > 0) {
            self.pump(key.slot);
        }
    }

    /// Ends the message being sent, with trailers if there are any.
    pub fn finish(&mut self, key: Key, trailers: Option<&HeaderBlock>) -> Result<(), Failure> {
        let s = self.stream(key).ok_or(Failure::Closed)?;
        if let Some(f) = s.failed {
            return Err(f);
        }
        s.then = match trailers {
            Some(t) => Then::Trailers(Box::new(t.clone())),
            None => Then::End,
        };
        self.pump(key.slot);
        Ok(())
    }

    /// Ready when more body bytes are wanted.
    pub fn poll_room(&mut self, cx: &mut Context<'_>, key: Key) -> Poll<Result<(), Failure>> {
        let s = self.stream(key).ok_or(Failure::Closed)?;
        if let Some(f) = s.failed {
            return Poll::Ready(Err(f));
        }
        if s.queued() >= QUEUE_BYTES_MAX {
            self.pump(key.slot);
            let s = self.stream(key).ok_or(Failure::Closed)?;
            if s.queued() >= QUEUE_BYTES_MAX {
                s.wants_room = true;
                note(&mut s.sender, cx.waker());
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Breaks the stream off.
    pub fn reset(&mut self, key: Key, code: u32) {
        let Some(s) = self.stream(key) else { return };
        if !s.recv_open && !s.send_open {
            return;
        }
        self.put_reset(key.id, code);
        self.fail(key.slot, Failure::Reset(code));
    }

    pub(crate) fn put_reset(&mut self, id: u32, code: u32) {
        frame::put_number(&mut self.out, kind::RST_STREAM, id, code);
        self.control += 1;
        self.forget(id);
        self.wake_driver();
    }

    /// Puts a header block, in as many frames as the peer's limit asks for.
    pub(crate) fn put_head(&mut self, id: u32, block: &HeaderBlock, end: bool, what: Kind) {
        let at = self.out.len();
        self.out.extend_from_slice(&[0; frame::HEADER_BYTES]);
        let start = self.out.len();
        let (encoder, out) = (&mut self.encoder, &mut self.out);
        encoder.begin(out);
        let pseudo: &[HeaderId] = match what {
            Kind::Request if block.method() == b"CONNECT" && !block.has(HeaderId::PROTOCOL) => {
                &[HeaderId::METHOD, HeaderId::AUTHORITY]
            }
            Kind::Request => {
                &[HeaderId::METHOD, HeaderId::PROTOCOL, HeaderId::SCHEME, HeaderId::AUTHORITY, HeaderId::PATH]
            }
            Kind::Response => &[HeaderId::STATUS],
            Kind::Trailers => &[],
        };
        for id in pseudo {
            match block.get_id(*id) {
                Some(value) => encoder.field(out, *id, id.name().as_bytes(), value),
                None if *id == HeaderId::SCHEME => encoder.field(out, *id, b":scheme", b"http"),
                None => {}
            }
        }
        for (id, name, value) in block.iter_ids() {
            if !id.is_pseudo() && name.first() != Some(&b':') && !HOP_BY_HOP.contains(&id) {
                encoder.field(out, id, name, value);
            }
        }
        let len = self.out.len() - start;
        let limit = self.peer.frame_bytes_max;
        let end = if end { flag::END_STREAM } else { 0 };
        if len <= limit {
            let head = frame::Head { len, kind: kind::HEADERS, flags: flag::END_HEADERS | end, id };
            self.out[at..start].copy_from_slice(&head.bytes());
            return;
        }
        let encoded = self.out.split_off(start);
        self.out.truncate(at);
        let last = encoded.chunks(limit).count() - 1;
        for (i, part) in encoded.chunks(limit).enumerate() {
            let kind = if i == 0 { kind::HEADERS } else { kind::CONTINUATION };
            let mut flags = if i == 0 { end } else { 0 };
            if i == last {
                flags |= flag::END_HEADERS;
            }
            frame::Head { len: part.len(), kind, flags, id }.put(&mut self.out);
            self.out.extend_from_slice(part);
        }
    }

    /// Sends what a stream has queued as far as it may go now.
    pub(crate) fn pump(&mut self, slot: u32) {
        loop {
            let unsent = self.out.len() - self.out_at;
            let Some(Some(s)) = self.slots.get_mut(slot as usize) else { return };
            if !s.send_open {
                return;
            }
            let queued = s.queued();
            let ends = matches!(s.then, Then::End);
            if queued == 0 && !ends {
                break;
            }
            let window = s.send_window.min(self.send_window).max(0) as usize;
            if queued > 0 && (s.send_window <= 0 || self.send_window <= 0 || unsent >= OUT_BYTES_MAX) {
                if s.send_window > 0 && !s.blocked {
                    s.blocked = true;
                    self.blocked.push_back(slot);
                }
                break;
            }
            let n = queued.min(window).min(self.peer.frame_bytes_max).min(frame::PAYLOAD_BYTES_MAX);
            let end = ends && n == queued;
            let flags = if end { flag::END_STREAM } else { 0 };
            frame::Head { len: n, kind: kind::DATA, flags, id: s.id }.put(&mut self.out);
            self.out.extend_from_slice(&s.queued[s.queued_at..s.queued_at + n]);
            s.queued_at += n;
            s.send_window -= n as i64;
            self.send_window -= n as i64;
            if s.queued_at == s.queued.len() {
                s.queued.clear();
                s.queued_at = 0;
            }
            if end {
                let key = Key { slot, id: s.id };
                self.end_sending(key);
                self.wake_driver();
                return;
            }
        }
        self.wake_driver();
        let Some(Some(s)) = self.slots.get_mut(slot as usize) else { return };
        if s.wants_room && s.queued() < QUEUE_BYTES_MAX {
            s.wake_sender();
        }
        if s.queued() == 0
            && let Then::Trailers(block) = std::mem::take(&mut s.then)
        {
            let key = Key { slot, id: s.id };
            self.put_head(key.id, &block, true, Kind::Trailers);
            self.end_sending(key);
        }
    }

    fn end_sending(&mut self, key: Key) {
        let Some(s) = self.stream(key) else { return };
        s.send_open = false;
        if s.recv_open && !s.held {
            // Nobody reads what still comes.
            let code = if self.options.role == Role::Server { code::NO_ERROR } else { code::CANCEL };
            return self.reset(key, code);
        }
        self.settle(key.slot);
    }

    /// Lets streams go on that waited for the connection's window or the buffer.
    pub(crate) fn unblock(&mut self) {
        let room = |c: &Connection| c.send_window > 0 && c.out.len() - c.out_at < OUT_BYTES_MAX;
        for _ in 0..self.blocked.len() {
            if !room(self) {
                return;
            }
            let Some(slot) = self.blocked.pop_front() else { return };
            if let Some(Some(s)) = self.slots.get_mut(slot as usize) {
                s.blocked = false;
                self.pump(slot);
            }
        }
    }
}

/// What a header block is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Request,
    Response,
    Trailers,
}

/// Fields of one hop, which HTTP/2 does not carry.
const HOP_BY_HOP: &[HeaderId] = &[
    HeaderId::CONNECTION,
    HeaderId::KEEP_ALIVE,
    HeaderId::PROXY_CONNECTION,
    HeaderId::TRANSFER_ENCODING,
    HeaderId::UPGRADE,
    HeaderId::HOST,
];
