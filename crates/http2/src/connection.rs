//! What is the state of a connection, and how does a stream's owner use it?
//!
//! `receive.rs` changes it by what the peer sends, `send.rs` puts frames into `out`.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::task::{Context, Poll, Waker};

use http1::HeaderBlock;

use crate::frame::{self, code, kind, setting};
use crate::hpack::{Decoder, Encoder, TABLE_BYTES_DEFAULT};
use crate::stream::{Failure, Head, Key, Stream, note};

/// Header blocks kept for the next streams.
const SPARE_BLOCKS_MAX: usize = 32;
/// Streams reset by us of which late frames are still ignored.
const FORGOTTEN_MAX: usize = 64;
/// Windows and stream numbers end here.
pub(crate) const NUMBER_MAX: u32 = 0x7fff_ffff;
/// The window that every connection and stream begins with.
pub(crate) const WINDOW_DEFAULT: u32 = 65_535;

/// Which end of a connection we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Requests come in.
    Server,
    /// Requests go out.
    Client,
}

/// What we tell the peer.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Which end.
    pub role: Role,
    /// SETTINGS_INITIAL_WINDOW_SIZE
    pub stream_window: u32,
    /// Window of the connection.
    pub connection_window: u32,
    /// SETTINGS_MAX_CONCURRENT_STREAMS (server).
    pub max_streams: u32,
    /// SETTINGS_MAX_HEADER_LIST_SIZE
    pub header_list_bytes_max: u32,
    /// SETTINGS_ENABLE_CONNECT_PROTOCOL (server).
    pub connect_protocol: bool,
}

/// The connection is over; a GOAWAY with this code is queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fatal(pub u32);

/// Hashes stream numbers.
#[derive(Default)]
pub(crate) struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.write_u32(u32::from(*b)));
    }
    fn write_u32(&mut self, n: u32) {
        self.0 = (self.0 ^ u64::from(n)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 ^= self.0 >> 32;
    }
}

/// What the peer told us.
pub(crate) struct PeerSettings {
    pub max_streams: u32,
    pub initial_window: u32,
    pub frame_bytes_max: usize,
    pub connect_protocol: bool,
    /// Its SETTINGS came.
    pub came: bool,
}

/// An HTTP/2 connection without its socket.
pub struct Connection {
    pub(crate) options: Options,
    pub(crate) peer: PeerSettings,
    pub(crate) decoder: Decoder,
    pub(crate) encoder: Encoder,
    pub(crate) input: crate::receive::Input,
    pub(crate) slots: Vec<Option<Box<Stream>>>,
    pub(crate) free: Vec<u32>,
    pub(crate) by_id: HashMap<u32, u32, BuildHasherDefault<Mix>>,
    /// Highest number that the peer opened (server), or that we opened (client).
    pub(crate) last_id: u32,
    pub(crate) recv_window: i64,
    pub(crate) taken: u32,
    pub(crate) send_window: i64,
    /// Slots that wait for the connection's window or the buffer.
    pub(crate) blocked: VecDeque<u32>,
    /// New requests (server).
    pub(crate) accepted: VecDeque<Key>,
    pub(crate) forgotten: VecDeque<u32>,
    pub(crate) spare: Vec<Box<HeaderBlock>>,
    pub(crate) spare_streams: Vec<Box<Stream>>,
    /// Control frames queued since the buffer was last empty.
    pub(crate) control: u32,
    pub(crate) resets: u32,
    pub(crate) requests: u32,
    pub(crate) empties: u32,
    /// Streams above this are not served: we are going away.
    pub(crate) serve_up_to: u32,
    /// The drain's PING was sent; its answer ends the acceptance.
    pub(crate) draining: bool,
    /// The peer is going away (client: no more requests), or we are.
    pub(crate) going_away: bool,
    pub(crate) over: Option<Failure>,
    pub(crate) out: Vec<u8>,
    pub(crate) out_at: usize,
    pub(crate) driver: Option<Waker>,
    pub(crate) driving: bool,
}

impl Connection {
    /// A connection; its first frames are queued.
    pub fn new(options: Options) -> Self {
        let mut out = Vec::with_capacity(256);
        if options.role == Role::Client {
            out.extend_from_slice(frame::PREFACE);
        }
        let mut settings: Vec<(u16, u32)> = Vec::with_capacity(4);
        match options.role {
            Role::Client => settings.push((setting::ENABLE_PUSH, 0)),
            Role::Server => {
                settings.push((setting::MAX_CONCURRENT_STREAMS, options.max_streams));
                settings.push((setting::MAX_HEADER_LIST_SIZE, options.header_list_bytes_max));
                if options.connect_protocol {
                    settings.push((setting::ENABLE_CONNECT_PROTOCOL, 1));
                }
            }
        }
        settings.push((setting::INITIAL_WINDOW_SIZE, options.stream_window.min(NUMBER_MAX)));
        frame::Head { len: settings.len() * 6, kind: kind::SETTINGS, flags: 0, id: 0 }.put(&mut out);
        for (name, value) in settings {
            out.extend_from_slice(&name.to_be_bytes());
            out.extend_from_slice(&value.to_be_bytes());
        }
        let window = options.connection_window.clamp(WINDOW_DEFAULT, NUMBER_MAX);
        if window > WINDOW_DEFAULT {
            frame::put_number(&mut out, kind::WINDOW_UPDATE, 0, window - WINDOW_DEFAULT);
        }
        Connection {
            input: crate::receive::Input::new(options.role),
            options,
            peer: PeerSettings {
                max_streams: u32::MAX,
                initial_window: WINDOW_DEFAULT,
                frame_bytes_max: frame::PAYLOAD_BYTES_MAX,
                connect_protocol: false,
                came: false,
            },
            decoder: Decoder::new(TABLE_BYTES_DEFAULT),
            encoder: Encoder::default(),
            slots: Vec::new(),
            free: Vec::new(),
            by_id: HashMap::default(),
            last_id: 0,
            recv_window: i64::from(window),
            taken: 0,
            send_window: i64::from(WINDOW_DEFAULT),
            blocked: VecDeque::new(),
            accepted: VecDeque::new(),
            forgotten: VecDeque::new(),
            spare: Vec::new(),
            spare_streams: Vec::new(),
            control: 0,
            resets: 0,
            requests: 0,
            empties: 0,
            serve_up_to: NUMBER_MAX,
            draining: false,
            going_away: false,
            over: None,
            out,
            out_at: 0,
            driver: None,
            driving: false,
        }
    }

    /// Bytes to be written.
    pub fn unsent(&self) -> &[u8] {
        &self.out[self.out_at..]
    }

    /// That many of [`Connection::unsent`] were written.
    pub fn sent(&mut self, n: usize) {
        self.out_at += n;
        if self.out_at == self.out.len() {
            self.out.clear();
            self.out_at = 0;
            self.control = 0;
            if self.by_id.is_empty() {
                // An idle connection holds no buffer.
                self.out = Vec::new();
            }
        }
        self.unblock();
    }

    /// The next new request (server).
    pub fn accept(&mut self) -> Option<Key> {
        while let Some(key) = self.accepted.pop_front() {
            if self.stream(key).is_some_and(|s| s.failed.is_none()) {
                return Some(key);
            }
            self.release(key);
        }
        None
    }

    /// Streams that are not over.
    pub fn active(&self) -> usize {
        self.by_id.len()
    }

    /// How many streams the peer lets us have at once (client).
    pub fn max_streams(&self) -> usize {
        self.peer.max_streams as usize
    }

    /// Whether the peer takes extended CONNECT requests.
    pub fn peer_connect_protocol(&self) -> bool {
        self.peer.connect_protocol
    }

    /// Whether a new request may be sent (client).
    pub fn is_open(&self) -> bool {
        self.over.is_none() && !self.going_away && self.last_id < NUMBER_MAX - 2
    }

    /// Whether the connection ended because the peer broke the protocol.
    pub fn protocol_error(&self) -> bool {
        self.over == Some(Failure::Protocol)
    }

    /// Whether nothing is left to do: we or the peer went away and all streams are over.
    pub fn is_done(&self) -> bool {
        self.over.is_some()
            || self.going_away
                && self.by_id.is_empty()
                && (self.options.role == Role::Client || self.serve_up_to < NUMBER_MAX)
    }

    /// The driver is at work: nothing needs to wake it. Ended by [`Connection::drove`].
    pub fn drive(&mut self) {
        self.driving = true;
    }

    /// The driver sleeps until somebody queues frames.
    pub fn drove(&mut self, waker: &Waker) {
        self.driving = false;
        note(&mut self.driver, waker);
    }

    /// The socket is gone or the connection failed: all streams break off.
    pub fn close(&mut self, failure: Failure) {
        self.over.get_or_insert(failure);
        for slot in 0..self.slots.len() {
            self.fail(slot as u32, failure);
        }
        self.by_id.clear();
    }

    #[inline]
    pub(crate) fn stream(&mut self, key: Key) -> Option<&mut Stream> {
        self.slots.get_mut(key.slot as usize)?.as_deref_mut().filter(|s| s.id == key.id)
    }

    pub(crate) fn insert(&mut self, id: u32) -> Key {
        let mut stream = self.spare_streams.pop().unwrap_or_default();
        stream.id = id;
        stream.recv_open = true;
        stream.send_open = true;
        stream.held = true;
        stream.recv_window = i64::from(self.options.stream_window);
        stream.send_window = i64::from(self.peer.initial_window);
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(stream);
                slot
            }
            None => {
                self.slots.push(Some(stream));
                self.slots.len() as u32 - 1
            }
        };
        self.by_id.insert(id, slot);
        Key { slot, id }
    }

    /// Forgets a stream's number once both directions are over, and the stream once nobody holds it.
    pub(crate) fn settle(&mut self, slot: u32) {
        let Some(Some(s)) = self.slots.get_mut(slot as usize) else { return };
        if !s.recv_open && !s.send_open {
            let (id, held) = (s.id, s.held);
            if self.by_id.get(&id) == Some(&slot) {
                self.by_id.remove(&id);
                if self.by_id.is_empty() && self.going_away {
                    self.wake_driver();
                }
            }
            if !held && let Some(mut s) = self.slots[slot as usize].take() {
                self.free.push(slot);
                while let Some(block) = s.heads.pop() {
                    self.keep(block);
                }
                if let Some(block) = s.trailers.take() {
                    self.keep(block);
                }
                if self.spare_streams.len() < SPARE_BLOCKS_MAX {
                    let (mut heads, mut body, mut queued) =
                        (std::mem::take(&mut s.heads), std::mem::take(&mut s.body), std::mem::take(&mut s.queued));
                    heads.clear();
                    body.clear();
                    body.shrink_to(1024);
                    queued.clear();
                    queued.shrink_to(1024);
                    *s = Stream { heads, body, queued, ..Stream::default() };
                    self.spare_streams.push(s);
                }
            }
        }
    }

    pub(crate) fn keep(&mut self, block: Box<HeaderBlock>) {
        if self.spare.len() < SPARE_BLOCKS_MAX {
            self.spare.push(block);
        }
    }

    /// A stream breaks off without a word to the peer.
    pub(crate) fn fail(&mut self, slot: u32, failure: Failure) {
        let Some(Some(s)) = self.slots.get_mut(slot as usize) else { return };
        if !s.recv_open && !s.send_open {
            return;
        }
        s.failed.get_or_insert(failure);
        s.recv_open = false;
        s.send_open = false;
        s.queued = Vec::new();
        s.queued_at = 0;
        s.wake_receiver();
        s.wake_sender();
        self.settle(slot);
    }

    /// The holder is done with the stream. What is still open is reset.
    pub fn release(&mut self, key: Key) {
        let over = self.over.is_some();
        let Some(s) = self.stream(key) else { return };
        s.held = false;
        s.receiver = None;
        s.sender = None;
        let left = s.body.len() as u32;
        s.body.clear();
        let (recv, send) = (s.recv_open, s.send_open);
        // A stream that only waits for its queue to be sent ends by itself.
        let finishing = send && !matches!(s.then, crate::stream::Then::More);
        if !over && !finishing && (recv || send) {
            let code = if self.options.role == Role::Server && !send { code::NO_ERROR } else { code::CANCEL };
            self.reset(key, code);
        }
        self.credit(left);
        self.settle(key.slot);
    }

    /// Swaps the next received head into `block`.
    pub fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        key: Key,
        block: &mut HeaderBlock,
    ) -> Poll<Result<Head, Failure>> {
        let Some(s) = self.stream(key) else { return Poll::Ready(Err(Failure::Closed)) };
        if !s.heads.is_empty() {
            let mut head = s.heads.remove(0);
            let ends = s.heads.is_empty()
                && s.headed
                && !s.recv_open
                && s.body.is_empty()
                && s.trailers.is_none()
                && s.failed.is_none();
            std::mem::swap(&mut *head, block);
            self.keep(head);
            return Poll::Ready(Ok(Head { ends }));
        }
        if let Some(f) = s.failed {
            return Poll::Ready(Err(f));
        }
        note(&mut s.receiver, cx.waker());
        Poll::Pending
    }

    /// Swaps received body bytes into `into` (cleared first). `Ok(false)`: the body is complete.
    pub fn poll_body(&mut self, cx: &mut Context<'_>, key: Key, into: &mut Vec<u8>) -> Poll<Result<bool, Failure>> {
        into.clear();
        let Some(s) = self.stream(key) else { return Poll::Ready(Err(Failure::Closed)) };
        if !s.body.is_empty() {
            std::mem::swap(&mut s.body, into);
            let n = into.len() as u32;
            if s.recv_open {
                s.taken += n;
            }
            let id = s.id;
            let due = s.taken >= self.options.stream_window / 2;
            if due && let Some(s) = self.stream(key) {
                let taken = std::mem::take(&mut s.taken);
                s.recv_window += i64::from(taken);
                frame::put_number(&mut self.out, kind::WINDOW_UPDATE, id, taken);
                self.wake_driver();
            }
            self.credit(n);
            return Poll::Ready(Ok(true));
        }
        if let Some(f) = s.failed {
            return Poll::Ready(Err(f));
        }
        if !s.recv_open {
            return Poll::Ready(Ok(false));
        }
        note(&mut s.receiver, cx.waker());
        Poll::Pending
    }

    /// Swaps received trailers into `block`; false: there were none.
    pub fn take_trailers(&mut self, key: Key, block: &mut HeaderBlock) -> bool {
        let Some(mut t) = self.stream(key).and_then(|s| s.trailers.take()) else { return false };
        std::mem::swap(&mut *t, block);
        self.keep(t);
        true
    }

    /// Ready when the stream broke off.
    pub fn poll_failed(&mut self, cx: &mut Context<'_>, key: Key) -> Poll<Failure> {
        let Some(s) = self.stream(key) else { return Poll::Ready(Failure::Closed) };
        if let Some(f) = s.failed {
            return Poll::Ready(f);
        }
        note(&mut s.sender, cx.waker());
        Poll::Pending
    }

    /// Gives received bytes back to the connection's window.
    pub(crate) fn credit(&mut self, n: u32) {
        self.taken += n;
        if self.taken >= self.options.connection_window / 2 {
            let taken = std::mem::take(&mut self.taken);
            self.recv_window += i64::from(taken);
            frame::put_number(&mut self.out, kind::WINDOW_UPDATE, 0, taken);
            self.wake_driver();
        }
    }

    pub(crate) fn wake_driver(&mut self) {
        if !self.driving
            && let Some(w) = self.driver.take()
        {
            w.wake();
        }
    }

    /// No more requests on this connection (client); it is done when those under way are.
    pub fn retire(&mut self) {
        self.going_away = true;
        self.wake_driver();
    }

    /// Starts a graceful end (server): no new streams once the peer has heard of it.
    pub fn drain(&mut self) {
        if self.draining || self.over.is_some() {
            return;
        }
        self.draining = true;
        self.put_goaway(NUMBER_MAX, code::NO_ERROR);
        frame::Head { len: 8, kind: kind::PING, flags: 0, id: 0 }.put(&mut self.out);
        self.out.extend_from_slice(crate::receive::DRAIN_PING);
        self.wake_driver();
    }

    /// Ends at once; for a connection without streams (server).
    pub fn shut(&mut self) {
        if self.over.is_none() {
            self.draining = true;
            self.going_away = true;
            self.serve_up_to = self.last_id;
            self.put_goaway(self.last_id, code::NO_ERROR);
            self.wake_driver();
        }
    }

    pub(crate) fn put_goaway(&mut self, last: u32, code: u32) {
        frame::Head { len: 8, kind: kind::GOAWAY, flags: 0, id: 0 }.put(&mut self.out);
        self.out.extend_from_slice(&last.to_be_bytes());
        self.out.extend_from_slice(&code.to_be_bytes());
    }

    pub(crate) fn forget(&mut self, id: u32) {
        if self.forgotten.len() == FORGOTTEN_MAX {
            self.forgotten.pop_front();
        }
        self.forgotten.push_back(id);
    }
}
