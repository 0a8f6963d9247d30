//! How do bytes flow between two streams until both directions have ended?
//!
//! Used by `tcp_proxy`. Each direction ends on its own (half-close is passed on, exactly once and after
//! the last byte). A direction that has nothing to do holds no buffer and no pipe.
//! Deliberately absent: time-outs, statistics, who the peers are.

use std::cell::RefCell;
use std::io;
use std::task::{Context, Poll, ready};

use tls::Stream;

use crate::splice::Pipe;

/// Bytes read per call on the copying path.
const BUFFER_BYTES: usize = 64 * 1024;
/// A direction is bulk, and spliced, after this many bytes.
const BULK_AFTER_BYTES: u64 = 128 * 1024;
/// Reads per direction and wake-up before other connections get their turn.
const TURNS_MAX: usize = 16;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// One direction.
#[derive(Debug, Default)]
pub struct Lane {
    /// Bytes taken from the reading side.
    pub bytes: u64,
    /// Bytes read that the writing side did not take yet.
    rest: Vec<u8>,
    rest_at: usize,
    pipe: Option<Pipe>,
    read_ended: bool,
    done: bool,
}

/// Which side broke, when one did.
#[derive(Debug)]
pub enum Broken {
    /// Reading from or writing to the client.
    Downstream(io::Error),
    /// Reading from or writing to the upstream.
    Upstream(io::Error),
}

enum Side {
    Read(io::Error),
    Write(io::Error),
}

impl Lane {
    /// Moves what can be moved. Ready: the direction has ended.
    fn poll(&mut self, cx: &mut Context<'_>, from: &mut Stream, to: &mut Stream) -> Poll<Result<(), Side>> {
        if self.done {
            return Poll::Ready(Ok(()));
        }
        for _ in 0..TURNS_MAX {
            ready!(self.poll_write_rest(cx, to)).map_err(Side::Write)?;
            if self.read_ended {
                ready!(to.poll_shutdown_write(cx)).map_err(Side::Write)?;
                self.done = true;
                return Poll::Ready(Ok(()));
            }
            match self.turn(from, to) {
                Ok(0) => self.read_ended = true,
                Ok(n) => self.bytes += n as u64,
                Err(Side::Read(e)) if e.kind() == io::ErrorKind::WouldBlock => {
                    if let Some(pipe) = self.pipe.take() {
                        pipe.give();
                    }
                    // Over TLS the last write may still sit in the session.
                    if to.has_pending_write()
                        && let Poll::Ready(Err(e)) = to.poll_flush_pending(cx)
                    {
                        return Poll::Ready(Err(Side::Write(e)));
                    }
                    ready!(from.poll_read_ready(cx)).map_err(Side::Read)?;
                }
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// One read, and a try to write what was read. Errors of the write come with the next turn.
    fn turn(&mut self, from: &mut Stream, to: &mut Stream) -> Result<usize, Side> {
        if self.bytes >= BULK_AFTER_BYTES
            && let (Some(source), Some(_)) = (from.plain_tcp(), to.plain_tcp())
        {
            if self.pipe.is_none() {
                // Without a pipe (out of descriptors) bytes are copied.
                self.pipe = Pipe::take().ok();
            }
            if let Some(pipe) = &mut self.pipe {
                return pipe.fill(source).map_err(Side::Read);
            }
        }
        BUFFER.with_borrow_mut(|buffer| {
            if buffer.is_empty() {
                buffer.resize(BUFFER_BYTES, 0);
            }
            let n = from.try_read(buffer).map_err(Side::Read)?;
            let mut sent = 0;
            while sent < n {
                match to.try_write(&buffer[sent..n]) {
                    Ok(m) => sent += m,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                        self.rest.extend_from_slice(&buffer[sent..n]);
                        break;
                    }
                    Err(e) => return Err(Side::Write(e)),
                }
            }
            Ok(n)
        })
    }

    fn poll_write_rest(&mut self, cx: &mut Context<'_>, to: &mut Stream) -> Poll<io::Result<()>> {
        while let Some(pipe) = self.pipe.as_mut().filter(|p| p.held() > 0) {
            let Some(sink) = to.plain_tcp() else {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            };
            match pipe.empty(sink) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => ready!(to.poll_write_ready(cx))?,
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
        while self.rest_at < self.rest.len() {
            match to.try_write(&self.rest[self.rest_at..]) {
                Ok(n) => self.rest_at += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => ready!(to.poll_write_ready(cx))?,
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
        self.rest = Vec::new();
        self.rest_at = 0;
        Poll::Ready(Ok(()))
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if let Some(pipe) = self.pipe.take() {
            pipe.give();
        }
    }
}

impl Lane {
    /// Bytes to be passed on before those of the reading side.
    pub fn begin_with(&mut self, early: Vec<u8>) {
        self.bytes += early.len() as u64;
        self.rest = early;
    }
}

/// Both directions of a proxied connection.
#[derive(Debug, Default)]
pub struct Relay {
    /// Client to upstream.
    pub up: Lane,
    /// Upstream to client.
    pub down: Lane,
}

impl Relay {
    /// Moves what can be moved. Ready: both directions have ended, or one side broke.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        downstream: &mut Stream,
        upstream: &mut Stream,
    ) -> Poll<Result<(), Broken>> {
        let up = self.up.poll(cx, downstream, upstream);
        if let Poll::Ready(Err(e)) = up {
            return Poll::Ready(Err(match e {
                Side::Read(e) => Broken::Downstream(e),
                Side::Write(e) => Broken::Upstream(e),
            }));
        }
        let down = self.down.poll(cx, upstream, downstream);
        if let Poll::Ready(Err(e)) = down {
            return Poll::Ready(Err(match e {
                Side::Read(e) => Broken::Upstream(e),
                Side::Write(e) => Broken::Downstream(e),
            }));
        }
        if up.is_ready() && down.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}
