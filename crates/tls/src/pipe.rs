//! How do two parts of one process talk as if over a socket? A bounded duplex byte pipe.
//!
//! Internal listeners are connected with it, and tests use it in place of sockets.
//! Semantics are those of a stream socket: partial reads and writes, half-close, `WouldBlock`.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

/// Bytes that may be in flight in one direction before a write would block.
pub const PIPE_CAPACITY_BYTES: usize = 64 * 1024;

#[derive(Debug, Default)]
struct Lane {
    data: VecDeque<u8>,
    /// The writing end said that no more is coming (or was dropped).
    closed: bool,
    /// The reading end is gone: writes fail.
    abandoned: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// One end of a duplex pipe.
#[derive(Debug)]
pub struct Pipe {
    lanes: Arc<[Mutex<Lane>; 2]>,
    read: usize,
}

impl Pipe {
    /// A connected pair.
    pub fn pair() -> (Pipe, Pipe) {
        let lanes = Arc::new([Mutex::new(Lane::default()), Mutex::new(Lane::default())]);
        (Pipe { lanes: lanes.clone(), read: 0 }, Pipe { lanes, read: 1 })
    }

    fn inbound(&self) -> MutexGuard<'_, Lane> {
        self.lanes[self.read].lock().unwrap_or_else(|e| e.into_inner())
    }

    fn outbound(&self) -> MutexGuard<'_, Lane> {
        self.lanes[1 - self.read].lock().unwrap_or_else(|e| e.into_inner())
    }

    /// See [`crate::Socket::try_read`].
    pub fn try_read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut lane = self.inbound();
        if lane.data.is_empty() {
            return if lane.closed { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        let (a, b) = lane.data.as_slices();
        let from_a = a.len().min(buf.len());
        buf[..from_a].copy_from_slice(&a[..from_a]);
        let from_b = b.len().min(buf.len() - from_a);
        buf[from_a..from_a + from_b].copy_from_slice(&b[..from_b]);
        lane.data.drain(..from_a + from_b);
        if lane.data.is_empty() {
            lane.data = VecDeque::new();
        }
        if let Some(w) = lane.writer.take() {
            w.wake();
        }
        Ok(from_a + from_b)
    }

    /// See [`crate::Socket::try_write`].
    pub fn try_write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let mut lane = self.outbound();
        if lane.closed || lane.abandoned {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let n = buf.len().min(PIPE_CAPACITY_BYTES - lane.data.len().min(PIPE_CAPACITY_BYTES));
        if n == 0 && !buf.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        lane.data.extend(&buf[..n]);
        if let Some(w) = lane.reader.take() {
            w.wake();
        }
        Ok(n)
    }

    /// See [`crate::Socket::poll_read_ready`].
    pub fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut lane = self.inbound();
        if !lane.data.is_empty() || lane.closed {
            return Poll::Ready(Ok(()));
        }
        lane.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    /// See [`crate::Socket::poll_write_ready`].
    pub fn poll_write_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut lane = self.outbound();
        if lane.data.len() < PIPE_CAPACITY_BYTES || lane.closed || lane.abandoned {
            return Poll::Ready(Ok(()));
        }
        lane.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Half-closes the writing direction.
    pub fn shutdown_write(&mut self) {
        let mut lane = self.outbound();
        lane.closed = true;
        if let Some(w) = lane.reader.take() {
            w.wake();
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.shutdown_write();
        let mut lane = self.inbound();
        lane.abandoned = true;
        lane.data = VecDeque::new();
        if let Some(w) = lane.writer.take() {
            w.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carries_bytes_and_half_closes() {
        let (mut a, mut b) = Pipe::pair();
        let mut buf = [0; 8];
        assert_eq!(b.try_read(&mut buf).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(a.try_write(b"hello").unwrap(), 5);
        assert_eq!(b.try_read(&mut buf[..3]).unwrap(), 3);
        a.shutdown_write();
        assert_eq!(b.try_read(&mut buf).unwrap(), 2);
        assert_eq!(b.try_read(&mut buf).unwrap(), 0);
        assert_eq!(b.try_write(b"still").unwrap(), 5);
        assert_eq!(a.try_read(&mut buf).unwrap(), 5);
        drop(b);
        assert_eq!(a.try_write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn is_bounded() {
        let (mut a, mut b) = Pipe::pair();
        let big = vec![7; PIPE_CAPACITY_BYTES + 1];
        assert_eq!(a.try_write(&big).unwrap(), PIPE_CAPACITY_BYTES);
        assert_eq!(a.try_write(b"x").unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(b.try_read(&mut [0; 10]).unwrap(), 10);
        assert_eq!(a.try_write(&big).unwrap(), 10);
    }
}
