//! How does an HTTP/2 connection get its bytes in and out, and how do streams share it?
//!
//! `http2` knows the protocol; a [`Session`] is that with wakers around it. One task drives it with the socket
//! (`h2_server.rs`, `pool.rs`), each stream is held by the task that serves it.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use http1::HeaderBlock;
use http2::{Connection, Failure, Head, Key, Options};

use crate::io::Wire;
use crate::side::Lost;
use crate::worker::Worker;

/// Reads per turn before other tasks get theirs.
const READS_MAX: usize = 8;
/// Unsent bytes above which nothing more is read: a peer that asks and does not listen.
const UNSENT_BYTES_MAX: usize = 1 << 20;

/// An HTTP/2 connection as its streams and its driver share it.
pub struct Session(RefCell<Connection>);

/// One stream. Dropping it gives it up: what is still open is reset.
pub struct Stream {
    session: Rc<Session>,
    key: Key,
}

/// What a broken stream means to its owner.
fn lost(f: Failure) -> Lost {
    match f {
        Failure::Closed => Lost::Closed,
        Failure::Protocol => Lost::Protocol,
        Failure::Reset(code) => Lost::Reset(code),
    }
}

impl Session {
    /// A connection that has not begun.
    pub fn new(options: Options) -> Rc<Self> {
        Rc::new(Session(RefCell::new(Connection::new(options))))
    }

    /// Reads and writes what can be. Ready when the connection is over and its last bytes are out.
    pub fn poll_drive(&self, cx: &mut Context<'_>, wire: &mut Wire, worker: &Worker) -> Poll<()> {
        let mut core = self.0.borrow_mut();
        core.drive();
        let mut reads = 0;
        let mut failed = false;
        loop {
            if !wire.buffered().is_empty() {
                failed = core.receive(wire.buffered()).is_err();
                let n = wire.buffered().len();
                wire.consume(n);
                if failed {
                    break;
                }
            }
            if core.unsent().len() > UNSENT_BYTES_MAX {
                break;
            }
            if reads == READS_MAX {
                cx.waker().wake_by_ref();
                break;
            }
            reads += 1;
            match wire.poll_fill(cx, worker) {
                Poll::Ready(Ok(0) | Err(_)) => {
                    core.close(Failure::Closed);
                    return Poll::Ready(());
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => break,
            }
        }
        wire.release(worker);
        while !core.unsent().is_empty() {
            match wire.stream.try_write(core.unsent()) {
                Ok(n) => {
                    wire.sent += n as u64;
                    core.sent(n);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => match wire.stream.poll_write_ready(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => {
                        core.close(Failure::Closed);
                        return Poll::Ready(());
                    }
                    Poll::Pending => {
                        core.drove(cx.waker());
                        return Poll::Pending;
                    }
                },
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    core.close(Failure::Closed);
                    return Poll::Ready(());
                }
            }
        }
        if wire.stream.has_pending_write() && wire.stream.poll_flush_pending(cx).is_pending() {
            core.drove(cx.waker());
            return Poll::Pending;
        }
        if failed || core.is_done() {
            core.close(Failure::Closed);
            let _ = wire.stream.poll_shutdown_write(cx);
            return Poll::Ready(());
        }
        core.drove(cx.waker());
        Poll::Pending
    }

    /// The next new request.
    pub fn accept(self: &Rc<Self>) -> Option<Stream> {
        let key = self.0.borrow_mut().accept()?;
        Some(Stream { session: self.clone(), key })
    }

    /// Sends a request head. `None`: this connection takes no more requests.
    pub fn request(self: &Rc<Self>, block: &HeaderBlock, end: bool) -> Option<Stream> {
        let key = self.0.borrow_mut().request(block, end)?;
        Some(Stream { session: self.clone(), key })
    }

    /// Whether a request may be sent.
    pub fn is_open(&self) -> bool {
        self.0.borrow().is_open()
    }

    /// Whether the peer allows one stream more.
    pub fn has_room(&self) -> bool {
        let core = self.0.borrow();
        core.active() < core.max_streams()
    }

    /// Whether the connection ended because the peer broke the protocol.
    pub fn protocol_error(&self) -> bool {
        self.0.borrow().protocol_error()
    }

    /// Takes no more requests; ends with the last of those under way.
    pub fn retire(&self) {
        self.0.borrow_mut().retire();
    }

    /// Ends gracefully (server).
    pub fn drain(&self) {
        self.0.borrow_mut().drain();
    }

    /// Ends now, while there are no streams (server).
    pub fn shut(&self) {
        self.0.borrow_mut().shut();
    }

    /// The driver was dropped: streams must know.
    pub fn close(&self) {
        self.0.borrow_mut().close(Failure::Closed);
    }
}

impl Stream {
    fn core(&self) -> std::cell::RefMut<'_, Connection> {
        self.session.0.borrow_mut()
    }

    /// The next received head.
    pub fn poll_head(&self, cx: &mut Context<'_>, block: &mut HeaderBlock) -> Poll<Result<Head, Lost>> {
        self.core().poll_head(cx, self.key, block).map_err(lost)
    }

    /// Received body bytes; `Ok(false)`: there are no more.
    pub fn poll_body(&self, cx: &mut Context<'_>, into: &mut Vec<u8>) -> Poll<Result<bool, Lost>> {
        self.core().poll_body(cx, self.key, into).map_err(lost)
    }

    /// Received trailers.
    pub fn take_trailers(&self, block: &mut HeaderBlock) -> bool {
        self.core().take_trailers(self.key, block)
    }

    /// Sends a response head.
    pub fn respond(&self, block: &HeaderBlock, end: bool, interim: bool) -> Result<(), Lost> {
        self.core().respond(self.key, block, end, interim).map_err(lost)
    }

    /// Queues body bytes.
    pub fn send(&self, bytes: &[u8]) -> Result<(), Lost> {
        self.core().send(self.key, bytes).map_err(lost)
    }

    /// Lets queued bytes leave.
    pub fn flush(&self) {
        self.core().flush(self.key);
    }

    /// Ends the message being sent.
    pub fn finish(&self, trailers: Option<&HeaderBlock>) -> Result<(), Lost> {
        self.core().finish(self.key, trailers).map_err(lost)
    }

    /// Ready when more body bytes are wanted.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        self.core().poll_room(cx, self.key).map_err(lost)
    }

    /// Ready when the stream broke off.
    pub fn poll_failed(&self, cx: &mut Context<'_>) -> Poll<Lost> {
        self.core().poll_failed(cx, self.key).map(lost)
    }

    /// Breaks the stream off.
    pub fn reset(&self, code: u32) {
        self.core().reset(self.key, code);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.core().release(self.key);
    }
}
