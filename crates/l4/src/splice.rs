//! How do bulk bytes cross a TCP proxy without being copied? `splice(2)` through a pipe.
//!
//! Used by `relay` for plain TCP on both sides once a direction has proved to be bulk. A direction holds
//! a pipe only while bytes are on their way; pipes are pooled per worker.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Bytes that may be in a pipe; what an unprivileged process may ask for by default.
const PIPE_BYTES: usize = 1 << 20;
/// Idle pipes kept per worker.
const POOLED_PIPES_MAX: usize = 32;

/// A pipe with nothing or something in it.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    /// Bytes in the pipe.
    held: usize,
    capacity: usize,
}

thread_local! {
    static POOL: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

impl Pipe {
    /// A pipe from the pool, or a new one. Errors: out of file descriptors.
    pub fn take() -> io::Result<Pipe> {
        if let Some(pipe) = POOL.with_borrow_mut(Vec::pop) {
            return Ok(pipe);
        }
        let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        // The kernel may refuse (a limit per user); the default size serves as well.
        let capacity = fcntl_setpipe_size(&write, PIPE_BYTES).unwrap_or(64 * 1024);
        Ok(Pipe { read, write, held: 0, capacity })
    }

    /// Back to the pool. Only empty pipes are kept.
    pub fn give(self) {
        POOL.with_borrow_mut(|pool| {
            if self.held == 0 && pool.len() < POOLED_PIPES_MAX {
                pool.push(self);
            }
        });
    }

    /// Bytes on their way.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Fills the empty pipe from `from`. `Ok(0)`: end of stream.
    ///
    /// Only called when the pipe is empty, so that `WouldBlock` can only mean the socket.
    pub fn fill(&mut self, from: &TcpStream) -> io::Result<usize> {
        debug_assert_eq!(self.held, 0, "a full pipe would be taken for an empty socket");
        let n =
            from.try_io(Interest::READABLE, || Ok(splice(from, None, &self.write, None, self.capacity, flags())?))?;
        self.held += n;
        Ok(n)
    }

    /// Empties the pipe into `to`, as far as it takes it.
    pub fn empty(&mut self, to: &TcpStream) -> io::Result<usize> {
        let n = to.try_io(Interest::WRITABLE, || Ok(splice(&self.read, None, to, None, self.held, flags())?))?;
        self.held -= n;
        Ok(n)
    }
}

fn flags() -> SpliceFlags {
    SpliceFlags::MOVE | SpliceFlags::NONBLOCK
}
