//! What carries the bytes of a connection below TLS? A TCP or Unix socket, or an in-process pipe.
//!
//! Used by [`crate::Stream`] and the TLS session. All calls are non-blocking; readiness is polled
//! separately, so that nobody has to hold a buffer while a connection idles.
//! Deliberately absent: buffering, TLS, socket options (see `l4` and `upstream`).

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::task::{Context, Poll};

use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};

use crate::pipe::Pipe;

/// A plain byte stream.
#[derive(Debug)]
pub enum Socket {
    /// A TCP connection.
    Tcp(TcpStream),
    /// A Unix stream socket (Envoy's `pipe` address).
    Unix(UnixStream),
    /// One end of an in-process duplex pipe: internal listeners, and tests without sockets.
    Pipe(Pipe),
}

/// A read that came up short emptied the socket: forget its readiness, as tokio's own `poll_read`
/// does, and save the system call that would only say so. Edge-triggered epoll tells of new bytes.
fn would_block() -> io::Result<()> {
    Err(io::ErrorKind::WouldBlock.into())
}

fn drained(_: io::Result<()>) {}

impl Socket {
    /// Reads what is there. `WouldBlock` when nothing is, `Ok(0)` at end of stream.
    pub fn try_read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(s) => {
                let n = s.try_read(buf)?;
                if 0 < n && n < buf.len() {
                    drained(s.try_io(Interest::READABLE, would_block));
                }
                Ok(n)
            }
            Socket::Unix(s) => {
                let n = s.try_read(buf)?;
                if 0 < n && n < buf.len() {
                    drained(s.try_io(Interest::READABLE, would_block));
                }
                Ok(n)
            }
            Socket::Pipe(s) => s.try_read(buf),
        }
    }

    /// Writes as much as the socket takes now. `WouldBlock` when it takes nothing.
    pub fn try_write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(s) => s.try_write(buf),
            Socket::Unix(s) => s.try_write(buf),
            Socket::Pipe(s) => s.try_write(buf),
        }
    }

    /// Like [`Socket::try_write`] for several slices in one system call.
    pub fn try_write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Socket::Tcp(s) => s.try_write_vectored(bufs),
            Socket::Unix(s) => s.try_write_vectored(bufs),
            Socket::Pipe(s) => {
                let first = bufs.iter().find(|b| !b.is_empty());
                s.try_write(first.map_or(&[][..], |b| b))
            }
        }
    }

    /// Ready when a read may make progress (data, end of stream or error).
    pub fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Socket::Tcp(s) => s.poll_read_ready(cx),
            Socket::Unix(s) => s.poll_read_ready(cx),
            Socket::Pipe(s) => s.poll_read_ready(cx),
        }
    }

    /// Ready when a write may make progress.
    pub fn poll_write_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Socket::Tcp(s) => s.poll_write_ready(cx),
            Socket::Unix(s) => s.poll_write_ready(cx),
            Socket::Pipe(s) => s.poll_write_ready(cx),
        }
    }

    /// Half-closes: no more writes from this side; reads go on.
    pub fn shutdown_write(&mut self) -> io::Result<()> {
        let gone_is_fine = |r: io::Result<()>| match r {
            Err(e) if e.kind() == io::ErrorKind::NotConnected => Ok(()),
            r => r,
        };
        match self {
            Socket::Tcp(s) => {
                gone_is_fine(rustix::net::shutdown(s.as_fd(), rustix::net::Shutdown::Write).map_err(Into::into))
            }
            Socket::Unix(s) => {
                gone_is_fine(rustix::net::shutdown(s.as_fd(), rustix::net::Shutdown::Write).map_err(Into::into))
            }
            Socket::Pipe(s) => {
                s.shutdown_write();
                Ok(())
            }
        }
    }

    /// The TCP stream below, when there is one (socket options, `splice`).
    pub fn as_tcp(&self) -> Option<&TcpStream> {
        match self {
            Socket::Tcp(s) => Some(s),
            _ => None,
        }
    }

    /// The file descriptor, except for in-process pipes.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Socket::Tcp(s) => Some(s.as_fd()),
            Socket::Unix(s) => Some(s.as_fd()),
            Socket::Pipe(_) => None,
        }
    }

    /// Our address of a TCP connection.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.as_tcp().and_then(|s| s.local_addr().ok())
    }

    /// The peer's address of a TCP connection.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.as_tcp().and_then(|s| s.peer_addr().ok())
    }

    /// Makes the next close send RST instead of FIN. No effect on other than TCP.
    pub fn set_reset_on_close(&self) {
        if let Some(s) = self.as_tcp() {
            let linger = Some(std::time::Duration::ZERO);
            // A socket that is already gone needs no reset.
            let _ = rustix::net::sockopt::set_socket_linger(s.as_fd(), linger);
        }
    }
}
