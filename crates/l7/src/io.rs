//! How do bytes get in and out of an HTTP/1.1 connection without holding memory while it idles?
//!
//! [`Wire`] is a stream with a read buffer that exists only while it holds bytes and a write buffer
//! that exists only while bytes wait. Buffers come from the worker's pool.

use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use tls::Stream;

use crate::worker::Worker;

/// Bytes of a pooled buffer. One read, one TLS record.
pub const BUFFER_BYTES: usize = 16 << 10;
/// Data up to this size is copied behind what is queued, so that a head and its body leave together.
const COALESCE_BYTES: usize = 4 << 10;
/// Above this many unsent bytes a source is not asked for more.
pub const HIGH_WATERMARK_BYTES: usize = 64 << 10;

/// A byte stream with pooled buffers.
pub struct Wire {
    /// The stream below.
    pub stream: Stream,
    read: Vec<u8>,
    start: usize,
    end: usize,
    write: Vec<u8>,
    written: usize,
    /// The peer sent its end.
    pub eof: bool,
    /// Reading failed.
    failed: bool,
    /// Bytes received and sent, framing and heads included.
    pub received: u64,
    /// See `received`.
    pub sent: u64,
}

impl Wire {
    /// Wraps a connected stream.
    pub fn new(stream: Stream) -> Self {
        Wire {
            stream,
            read: Vec::new(),
            start: 0,
            end: 0,
            write: Vec::new(),
            written: 0,
            eof: false,
            failed: false,
            received: 0,
            sent: 0,
        }
    }

    /// Bytes read and not yet consumed.
    #[inline]
    pub fn buffered(&self) -> &[u8] {
        &self.read[self.start..self.end]
    }

    /// Where the buffered bytes start, for [`Wire::slice`].
    #[inline]
    pub fn position(&self) -> usize {
        self.start
    }

    /// Bytes by absolute position; valid until the next fill or release.
    #[inline]
    pub fn slice(&self, at: &std::ops::Range<usize>) -> &[u8] {
        &self.read[at.clone()]
    }

    /// Marks bytes as used.
    #[inline]
    pub fn consume(&mut self, n: usize) {
        self.start += n;
        debug_assert!(self.start <= self.end);
    }

    /// Gives the read buffer back when it is empty.
    #[inline]
    pub fn release(&mut self, worker: &Worker) {
        if self.start == self.end && !self.read.is_empty() {
            (self.start, self.end) = (0, 0);
            worker.give_read(std::mem::take(&mut self.read));
        }
    }

    /// Whether the peer closed or reset the stream, as far as reading has shown.
    pub fn is_gone(&self) -> bool {
        self.eof || self.failed
    }

    /// Reads once, keeping what is buffered. `Ok(0)` at the end of the stream.
    /// `Pending` holds no buffer unless unconsumed bytes are in it.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, worker: &Worker) -> Poll<io::Result<usize>> {
        let filled = self.poll_read_in(cx, worker);
        self.failed |= matches!(filled, Poll::Ready(Err(_)));
        filled
    }

    fn poll_read_in(&mut self, cx: &mut Context<'_>, worker: &Worker) -> Poll<io::Result<usize>> {
        if self.eof {
            return Poll::Ready(Ok(0));
        }
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.read.is_empty() {
                // Most calls only say whom to wake: no buffer for those.
                ready!(self.stream.poll_read_ready(cx))?;
                self.read = worker.take_read();
            }
        } else if self.end == self.read.len() {
            if self.start > 0 {
                self.read.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            } else {
                let more = self.read.len();
                self.read.resize(more * 2, 0);
            }
        }
        loop {
            match self.stream.try_read(&mut self.read[self.end..]) {
                Ok(0) => {
                    self.eof = true;
                    return Poll::Ready(Ok(0));
                }
                Ok(n) => {
                    self.end += n;
                    self.received += n as u64;
                    return Poll::Ready(Ok(n));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => match self.stream.poll_read_ready(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                    Poll::Pending => {
                        self.release(worker);
                        return Poll::Pending;
                    }
                },
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }

    /// The write buffer, to serialise a head into.
    #[inline]
    pub fn out(&mut self, worker: &Worker) -> &mut Vec<u8> {
        if self.write.capacity() == 0 {
            self.write = worker.take_write();
        }
        &mut self.write
    }

    /// Bytes waiting to be sent.
    #[inline]
    pub fn unsent(&self) -> usize {
        self.write.len() - self.written
    }

    /// Sends `data` behind what waits: small data is queued, large data is tried at once together with
    /// the queue. What the kernel does not take is kept.
    pub fn send(&mut self, data: &[u8], worker: &Worker) -> io::Result<()> {
        if data.len() <= COALESCE_BYTES && self.unsent() + data.len() <= BUFFER_BYTES {
            self.out(worker).extend_from_slice(data);
            return Ok(());
        }
        let mut data = data;
        loop {
            let queued = &self.write[self.written..];
            let r = if queued.is_empty() {
                self.stream.try_write(data)
            } else {
                self.stream.try_write_vectored(&[IoSlice::new(queued), IoSlice::new(data)])
            };
            match r {
                Ok(n) => {
                    self.sent += n as u64;
                    let from_queue = n.min(self.unsent());
                    self.advance(from_queue, worker);
                    data = &data[n - from_queue..];
                    if data.is_empty() {
                        return Ok(());
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.out(worker).extend_from_slice(data);
        Ok(())
    }

    /// Sends what waits. `Ready(Ok)` when nothing waits any more.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>, worker: &Worker) -> Poll<io::Result<()>> {
        while self.unsent() > 0 {
            match self.stream.try_write(&self.write[self.written..]) {
                Ok(n) => {
                    self.sent += n as u64;
                    self.advance(n, worker);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.stream.poll_write_ready(cx))?;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
        if self.stream.has_pending_write() {
            return self.stream.poll_flush_pending(cx);
        }
        Poll::Ready(Ok(()))
    }

    /// Whether an idle connection is unusable: closed, or the peer spoke out of turn.
    pub fn is_stale(&mut self) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        if self.eof || self.start != self.end {
            return true;
        }
        match self.stream.poll_read_ready(&mut cx) {
            Poll::Pending => false,
            Poll::Ready(Err(_)) => true,
            Poll::Ready(Ok(())) => {
                let mut byte = [0u8; 1];
                !matches!(self.stream.try_read(&mut byte), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
            }
        }
    }

    fn advance(&mut self, n: usize, worker: &Worker) {
        self.written += n;
        if self.written == self.write.len() {
            self.written = 0;
            worker.give_write(std::mem::take(&mut self.write));
        }
    }
}
