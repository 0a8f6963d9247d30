//! How are plaintext and TLS records exchanged without holding buffers while idle?
//!
//! [`TlsStream`] drives rustls's unbuffered API. Records are read into and encrypted from one
//! scratch area per thread; a connection owns memory only for a record that arrived in part, for
//! plaintext that its reader did not take, or for ciphertext that the socket did not take.
//! Called by [`crate::Stream`] and by the handshakes in [`crate::ServerContext`] and
//! [`crate::ClientContext`]. Deliberately absent: who is trusted (`verify`), timeouts.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{CommonState, Error};

use crate::peer::TlsInfo;
use crate::socket::Socket;

/// Plaintext that one TLS record may hold.
const RECORD_PLAINTEXT_MAX: usize = 16 * 1024;
/// Plaintext encrypted per system call: four records.
const WRITE_PLAINTEXT_MAX: usize = 4 * RECORD_PLAINTEXT_MAX;
/// Header, tag, padding byte and explicit nonce of one record, rounded up.
const RECORD_OVERHEAD: usize = 64;
/// Ciphertext read per system call.
const READ_CIPHERTEXT_MAX: usize = 64 * 1024;
/// The most a peer may make us hold before its handshake is complete (certificate chains).
const HANDSHAKE_BYTES_MAX: usize = 128 * 1024;
/// Slices smaller than this are gathered into one record before encryption.
const GATHER_BELOW: usize = RECORD_PLAINTEXT_MAX;

thread_local! {
    static READ_SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static WRITE_SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` with this thread's scratch area of at least `len` bytes.
fn with_scratch<R>(
    which: &'static std::thread::LocalKey<RefCell<Vec<u8>>>,
    len: usize,
    f: impl FnOnce(&mut [u8]) -> R,
) -> R {
    which.with(|cell| {
        let mut scratch = cell.take();
        if scratch.len() < len {
            scratch.resize(len, 0);
        }
        let r = f(&mut scratch);
        cell.replace(scratch);
        r
    })
}

pub(crate) enum Side {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// Where a step of the session left off.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// The input is used up (or the sink is full); application data may be written.
    Open,
    /// The handshake needs more input.
    Blocked,
    /// Both directions are closed.
    Closed,
}

/// What a step does with application data.
struct Sink<'a> {
    buf: &'a mut [u8],
    filled: usize,
}

/// A TLS connection whose handshake is complete (or being completed by the contexts).
pub struct TlsStream {
    socket: Socket,
    side: Side,
    info: TlsInfo,
    /// Ciphertext received but not yet a whole record (or not yet wanted by the reader).
    received: Vec<u8>,
    /// `received` may hold whole records.
    received_unprocessed: bool,
    /// Plaintext that did not fit the reader's buffer.
    plaintext: Vec<u8>,
    plaintext_at: usize,
    /// Ciphertext that the socket did not take.
    pending: Vec<u8>,
    pending_at: usize,
    peer_closed: bool,
    close_sent: bool,
    fin_sent: bool,
    /// TLS failed: nothing but the alert was or will be sent, nothing more is read.
    failed: bool,
}

impl std::fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsStream").field("socket", &self.socket).field("info", &self.info).finish_non_exhaustive()
    }
}

fn tls_error(e: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, e)
}

/// One pass over `input` until rustls needs more of it, the sink is full, or the session ends.
///
/// Returns how many bytes at the front of `input` are used up, and where it left off. Handshake and
/// post-handshake messages to send are appended to `pending`; data beyond the sink to `overflow`.
macro_rules! drive {
    ($conn:expr, $input:expr, $sink:expr, $overflow:expr, $pending:expr, $peer_closed:expr) => {{
        let mut used = 0;
        loop {
            let UnbufferedStatus { discard, state } = $conn.process_tls_records(&mut $input[used..]);
            let mut more = discard;
            let step = match state {
                Err(e) => {
                    used += more;
                    break (used, Err(e));
                }
                Ok(ConnectionState::ReadTraffic(mut read)) => {
                    let mut failed = None;
                    while let Some(record) = read.next_record() {
                        match record {
                            Ok(record) => {
                                more += record.discard;
                                let room = $sink.buf.len() - $sink.filled;
                                let n = room.min(record.payload.len());
                                $sink.buf[$sink.filled..$sink.filled + n].copy_from_slice(&record.payload[..n]);
                                $sink.filled += n;
                                $overflow.extend_from_slice(&record.payload[n..]);
                            }
                            Err(e) => failed = Some(e),
                        }
                    }
                    if let Some(e) = failed {
                        used += more;
                        break (used, Err(e));
                    }
                    // A full sink stops here; the rest of the input waits for the next read.
                    ($sink.filled == $sink.buf.len()).then_some(Step::Open)
                }
                Ok(ConnectionState::EncodeTlsData(mut encode)) => {
                    let at = $pending.len();
                    let mut size = 1024;
                    loop {
                        $pending.resize(at + size, 0);
                        match encode.encode(&mut $pending[at..]) {
                            Ok(n) => {
                                $pending.truncate(at + n);
                                break;
                            }
                            Err(EncodeError::InsufficientSize(e)) => size = e.required_size,
                            Err(EncodeError::AlreadyEncoded) => {
                                $pending.truncate(at);
                                break;
                            }
                        }
                    }
                    None
                }
                Ok(ConnectionState::TransmitTlsData(transmit)) => {
                    // What was encoded is in `pending`, which is sent in order before anything else.
                    transmit.done();
                    None
                }
                Ok(ConnectionState::PeerClosed) => {
                    *$peer_closed = true;
                    None
                }
                Ok(ConnectionState::Closed) => Some(Step::Closed),
                Ok(ConnectionState::BlockedHandshake) => Some(Step::Blocked),
                Ok(ConnectionState::WriteTraffic(_)) => Some(Step::Open),
                // Early data is never enabled, and states unknown to us cannot be driven.
                Ok(_) => {
                    used += more;
                    break (used, Err(Error::General("unexpected TLS session state".into())));
                }
            };
            used += more;
            if let Some(step) = step {
                break (used, Ok(step));
            }
        }
    }};
}

fn drive_client(
    conn: &mut UnbufferedClientConnection,
    input: &mut [u8],
    sink: &mut Sink<'_>,
    overflow: &mut Vec<u8>,
    pending: &mut Vec<u8>,
    peer_closed: &mut bool,
) -> (usize, Result<Step, Error>) {
    drive!(conn, input, sink, overflow, pending, peer_closed)
}

fn drive_server(
    conn: &mut UnbufferedServerConnection,
    input: &mut [u8],
    sink: &mut Sink<'_>,
    overflow: &mut Vec<u8>,
    pending: &mut Vec<u8>,
    peer_closed: &mut bool,
) -> (usize, Result<Step, Error>) {
    drive!(conn, input, sink, overflow, pending, peer_closed)
}

/// Encrypts (or closes) with whichever side we are; `input` must hold no whole record.
enum Outgoing<'a> {
    Data(&'a [u8]),
    CloseNotify,
}

fn encrypt<D>(
    state: Result<ConnectionState<'_, '_, D>, Error>,
    what: &Outgoing<'_>,
    out: &mut [u8],
) -> io::Result<usize> {
    match state.map_err(tls_error)? {
        ConnectionState::WriteTraffic(mut w) => match what {
            Outgoing::Data(data) => w.encrypt(data, out),
            Outgoing::CloseNotify => w.queue_close_notify(out),
        }
        .map_err(|e| match e {
            EncryptError::EncryptExhausted => io::Error::other("TLS record counter exhausted"),
            e => io::Error::other(e),
        }),
        _ => Err(io::ErrorKind::BrokenPipe.into()),
    }
}

impl TlsStream {
    pub(crate) fn new(socket: Socket, side: Side) -> Self {
        TlsStream {
            socket,
            side,
            info: TlsInfo::default(),
            received: Vec::new(),
            received_unprocessed: false,
            plaintext: Vec::new(),
            plaintext_at: 0,
            pending: Vec::new(),
            pending_at: 0,
            peer_closed: false,
            close_sent: false,
            fin_sent: false,
            failed: false,
        }
    }

    /// A session whose first bytes from the peer were already read.
    pub(crate) fn with_received(socket: Socket, side: Side, received: Vec<u8>) -> Self {
        TlsStream { received, ..TlsStream::new(socket, side) }
    }

    pub(crate) fn common(&self) -> &CommonState {
        match &self.side {
            Side::Client(c) => c,
            Side::Server(c) => c,
        }
    }

    pub(crate) fn set_info(&mut self, info: TlsInfo) {
        self.info = info;
    }

    /// Facts of the session and of the peer.
    pub fn info(&self) -> &TlsInfo {
        &self.info
    }

    /// The socket below.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    #[cfg(test)]
    pub(crate) fn into_socket(self) -> Socket {
        self.socket
    }

    /// Completes the handshake. Not cancel safe: dropping it drops the connection's progress.
    /// On a TLS failure the alert is sent to the peer before the error is returned.
    pub(crate) async fn handshake(&mut self) -> io::Result<()> {
        loop {
            // What another handshake left is not ours.
            crate::verify::take_verified();
            let stepped = self.step_received(&mut Sink { buf: &mut [], filled: 0 });
            if let Some(scheme) = crate::verify::take_verified() {
                self.info.signature = crate::provider::signature_name(scheme);
            }
            if let Err(e) = stepped {
                return Err(self.fail(e));
            }
            std::future::poll_fn(|cx| self.poll_flush(cx)).await?;
            if !self.common().is_handshaking() {
                break;
            }
            if self.received.len() > HANDSHAKE_BYTES_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "TLS handshake too large"));
            }
            self.fill_received().await?;
        }
        self.received.shrink_to_fit();
        self.pending = Vec::new();
        Ok(())
    }

    async fn fill_received(&mut self) -> io::Result<()> {
        loop {
            std::future::poll_fn(|cx| self.socket.poll_read_ready(cx)).await?;
            let (socket, received) = (&mut self.socket, &mut self.received);
            let read: io::Result<usize> = with_scratch(&READ_SCRATCH, READ_CIPHERTEXT_MAX, |scratch| {
                let n = socket.try_read(scratch)?;
                received.extend_from_slice(&scratch[..n]);
                Ok(n)
            });
            match read {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {
                    self.received_unprocessed = true;
                    return Ok(());
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Lets rustls work on `received`.
    fn step_received(&mut self, sink: &mut Sink<'_>) -> io::Result<Step> {
        let mut input = std::mem::take(&mut self.received);
        let (used, step) = self.step(&mut input, sink);
        input.drain(..used);
        self.received = input;
        self.received_unprocessed =
            matches!(step, Ok(Step::Open)) && sink.filled == sink.buf.len() && !sink.buf.is_empty();
        step.map_err(tls_error)
    }

    fn step(&mut self, input: &mut [u8], sink: &mut Sink<'_>) -> (usize, Result<Step, Error>) {
        let (overflow, pending, closed) = (&mut self.plaintext, &mut self.pending, &mut self.peer_closed);
        match &mut self.side {
            Side::Client(c) => drive_client(c, input, sink, overflow, pending, closed),
            Side::Server(c) => drive_server(c, input, sink, overflow, pending, closed),
        }
    }

    /// Sends the alert that rustls queued with the error `e`, and lets the session rest.
    ///
    /// rustls must not be driven further than to that alert: it would judge the same input again.
    fn fail(&mut self, e: io::Error) -> io::Error {
        fn take_alert<D>(state: Result<ConnectionState<'_, '_, D>, Error>, pending: &mut Vec<u8>) {
            if let Ok(ConnectionState::EncodeTlsData(mut encode)) = state {
                let mut alert = [0; 1024];
                if let Ok(n) = encode.encode(&mut alert) {
                    pending.extend_from_slice(&alert[..n]);
                }
            }
        }
        if !std::mem::replace(&mut self.failed, true) {
            match &mut self.side {
                Side::Client(c) => take_alert(c.process_tls_records(&mut self.received).state, &mut self.pending),
                Side::Server(c) => take_alert(c.process_tls_records(&mut self.received).state, &mut self.pending),
            }
            // A peer that is gone does not need the alert.
            let _ = self.flush_pending();
        }
        e
    }

    fn take_plaintext(&mut self, buf: &mut [u8]) -> usize {
        let rest = &self.plaintext[self.plaintext_at..];
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        self.plaintext_at += n;
        if self.plaintext_at == self.plaintext.len() {
            self.plaintext = Vec::new();
            self.plaintext_at = 0;
        }
        n
    }

    /// See [`crate::Stream::try_read`].
    pub fn try_read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        if self.plaintext_at < self.plaintext.len() {
            return Ok(self.take_plaintext(buf));
        }
        let mut sink = Sink { buf, filled: 0 };
        if self.failed {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if self.received_unprocessed {
            if let Err(e) = self.step_received(&mut sink) {
                return Err(self.fail(e));
            }
            if sink.filled > 0 {
                return Ok(sink.filled);
            }
        }
        while !self.peer_closed {
            let held = self.received.len();
            let want = (sink.buf.len() + 2 * RECORD_OVERHEAD).clamp(RECORD_PLAINTEXT_MAX + 512, READ_CIPHERTEXT_MAX);
            let (got, step) = with_scratch(&READ_SCRATCH, held + want, |scratch| {
                let got = match self.socket.try_read(&mut scratch[held..held + want]) {
                    Ok(n) => n,
                    Err(e) => return (Err(e), Ok(Step::Open)),
                };
                scratch[..held].copy_from_slice(&self.received);
                let input = &mut scratch[..held + got];
                let (used, step) = self.step(input, &mut sink);
                self.received.clear();
                self.received.extend_from_slice(&input[used..]);
                (Ok(got), step)
            });
            let got = got?;
            self.received_unprocessed = sink.filled == sink.buf.len() && !self.received.is_empty();
            if self.received.is_empty() {
                self.received = Vec::new();
            }
            // Answers such as key updates go out on the way; alerts too before an error is shown.
            if self.has_pending_write() {
                let _ = self.flush_pending();
            }
            if let Err(e) = step {
                return Err(self.fail(tls_error(e)));
            }
            if sink.filled > 0 {
                return Ok(sink.filled);
            }
            if got == 0 {
                // FIN without close_notify. Envoy treats it as the peer's end as well.
                self.peer_closed = true;
            }
        }
        Ok(0)
    }

    /// See [`crate::Stream::try_write_vectored`].
    pub fn try_write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.has_pending_write() {
            self.flush_pending()?;
        }
        let Some(first) = bufs.iter().position(|b| !b.is_empty()) else {
            return Ok(0);
        };
        let rest = &bufs[first..];
        if rest.len() > 1 && rest[0].len() < GATHER_BELOW {
            return with_scratch(&READ_SCRATCH, WRITE_PLAINTEXT_MAX, |gathered| {
                let mut n = 0;
                for b in rest {
                    let part = b.len().min(gathered.len().min(WRITE_PLAINTEXT_MAX) - n);
                    gathered[n..n + part].copy_from_slice(&b[..part]);
                    n += part;
                    if part < b.len() {
                        break;
                    }
                }
                self.write_now(Outgoing::Data(&gathered[..n]), n)
            });
        }
        let data = &rest[0][..rest[0].len().min(WRITE_PLAINTEXT_MAX)];
        self.write_now(Outgoing::Data(data), data.len())
    }

    /// Encrypts `what` and sends it; what the socket does not take stays pending.
    fn write_now(&mut self, what: Outgoing<'_>, len: usize) -> io::Result<usize> {
        if self.close_sent || self.failed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        // Bring the session to the state that may write: it may first want to hand out data it
        // already decrypted, or to answer a key update.
        if self.received_unprocessed {
            self.step_received(&mut Sink { buf: &mut [], filled: 0 })?;
            self.received_unprocessed = !self.received.is_empty();
        }
        let need = len + (len / RECORD_PLAINTEXT_MAX + 2) * RECORD_OVERHEAD;
        with_scratch(&WRITE_SCRATCH, need, |out| {
            let mut encrypted = None;
            while encrypted.is_none() {
                encrypted = self.encrypt_once(&what, out)?;
            }
            let n = encrypted.unwrap_or(0);
            if matches!(what, Outgoing::CloseNotify) {
                self.close_sent = true;
            }
            if self.has_pending_write() {
                self.pending.extend_from_slice(&out[..n]);
                return match self.flush_pending() {
                    Ok(()) => Ok(len),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(len),
                    Err(e) => Err(e),
                };
            }
            let mut sent = 0;
            while sent < n {
                match self.socket.try_write(&out[sent..n]) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(m) => sent += m,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                        self.pending.extend_from_slice(&out[sent..n]);
                        break;
                    }
                    Err(e) => return Err(e),
                }
            }
            Ok(len)
        })
    }

    /// `Ok(None)`: the session had something else to do first; call again.
    fn encrypt_once(&mut self, what: &Outgoing<'_>, out: &mut [u8]) -> io::Result<Option<usize>> {
        fn ready_to_write<D>(state: &Result<ConnectionState<'_, '_, D>, Error>) -> bool {
            matches!(state, Err(_) | Ok(ConnectionState::WriteTraffic(_) | ConnectionState::Closed))
        }
        let mut input = std::mem::take(&mut self.received);
        let (discard, result) = match &mut self.side {
            Side::Client(c) => {
                let UnbufferedStatus { discard, state } = c.process_tls_records(&mut input);
                (discard, ready_to_write::<ClientConnectionData>(&state).then(|| encrypt(state, what, out)))
            }
            Side::Server(c) => {
                let UnbufferedStatus { discard, state } = c.process_tls_records(&mut input);
                (discard, ready_to_write::<ServerConnectionData>(&state).then(|| encrypt(state, what, out)))
            }
        };
        input.drain(..discard);
        self.received = input;
        match result {
            Some(r) => r.map(Some),
            None => {
                // Data, key updates and the peer's close come first; they are kept for the reader.
                self.step_received(&mut Sink { buf: &mut [], filled: 0 })?;
                Ok(None)
            }
        }
    }

    /// Whether ciphertext waits for the socket.
    pub fn has_pending_write(&self) -> bool {
        self.pending_at < self.pending.len()
    }

    fn flush_pending(&mut self) -> io::Result<()> {
        while self.has_pending_write() {
            match self.socket.try_write(&self.pending[self.pending_at..])? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                n => self.pending_at += n,
            }
        }
        self.pending = Vec::new();
        self.pending_at = 0;
        Ok(())
    }

    /// Sends pending ciphertext.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.has_pending_write() {
            match self.flush_pending() {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => ready!(self.socket.poll_write_ready(cx))?,
                r => return Poll::Ready(r),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// See [`crate::Stream::poll_read_ready`]. Also keeps pending ciphertext moving, so that a
    /// session that only waits for the peer does not strand its last write.
    pub fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.plaintext_at < self.plaintext.len() || self.received_unprocessed || self.peer_closed || self.failed {
            return Poll::Ready(Ok(()));
        }
        if self.has_pending_write()
            && let Poll::Ready(Err(_)) = self.poll_flush(cx)
        {
            // The read will show the error.
            return Poll::Ready(Ok(()));
        }
        self.socket.poll_read_ready(cx)
    }

    /// See [`crate::Stream::poll_write_ready`].
    pub fn poll_write_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        self.socket.poll_write_ready(cx)
    }

    /// See [`crate::Stream::poll_shutdown_write`].
    pub fn poll_shutdown_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.close_sent {
            self.write_now(Outgoing::CloseNotify, 0)?;
        }
        ready!(self.poll_flush(cx))?;
        if !self.fin_sent {
            self.fin_sent = true;
            self.socket.shutdown_write()?;
        }
        Poll::Ready(Ok(()))
    }
}
