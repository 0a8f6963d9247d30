//! What does a connection look like to the rest of the data plane? One stream type, TLS or not.
//!
//! `l4`, `l7` and `upstream` read and write through it without knowing what is below.
//! The non-blocking calls (`try_*`, `poll_*_ready`) let a session take a buffer from its worker's
//! pool only while it has something to do; `AsyncRead`/`AsyncWrite` serve `h2`.
//! Deliberately absent: connecting, accepting, timeouts.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::peer::TlsInfo;
use crate::session::TlsStream;
use crate::socket::Socket;

/// A connection, downstream or upstream.
#[derive(Debug)]
pub enum Stream {
    /// No TLS of ours (`raw_buffer`).
    Plain(Socket),
    /// TLS terminated or originated here; the handshake is complete.
    Tls(Box<TlsStream>),
}

impl From<TcpStream> for Stream {
    fn from(s: TcpStream) -> Self {
        Stream::Plain(Socket::Tcp(s))
    }
}

impl From<UnixStream> for Stream {
    fn from(s: UnixStream) -> Self {
        Stream::Plain(Socket::Unix(s))
    }
}

impl From<Socket> for Stream {
    fn from(s: Socket) -> Self {
        Stream::Plain(s)
    }
}

impl From<TlsStream> for Stream {
    fn from(s: TlsStream) -> Self {
        Stream::Tls(Box::new(s))
    }
}

impl Stream {
    /// Reads what is there. `WouldBlock`: nothing now, wait with [`Stream::poll_read_ready`].
    /// `Ok(0)` for a non-empty `buf`: the peer sent its end (FIN or close_notify).
    #[inline]
    pub fn try_read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(s) => s.try_read(buf),
            Stream::Tls(s) => s.try_read(buf),
        }
    }

    /// Writes as much as is taken now. `WouldBlock`: nothing, wait with [`Stream::poll_write_ready`].
    /// Over TLS an accepted byte may still sit encrypted in the session; [`Stream::poll_flush_pending`]
    /// (also driven by both readiness polls) sends it on.
    #[inline]
    pub fn try_write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(s) => s.try_write(buf),
            Stream::Tls(s) => s.try_write_vectored(&[IoSlice::new(buf)]),
        }
    }

    /// Like [`Stream::try_write`] for several slices: one system call, and one TLS record if they fit.
    #[inline]
    pub fn try_write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Stream::Plain(s) => s.try_write_vectored(bufs),
            Stream::Tls(s) => s.try_write_vectored(bufs),
        }
    }

    /// Ready when [`Stream::try_read`] may make progress. Spurious readiness is possible.
    #[inline]
    pub fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Plain(s) => s.poll_read_ready(cx),
            Stream::Tls(s) => s.poll_read_ready(cx),
        }
    }

    /// Ready when [`Stream::try_write`] may make progress. Spurious readiness is possible.
    #[inline]
    pub fn poll_write_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Plain(s) => s.poll_write_ready(cx),
            Stream::Tls(s) => s.poll_write_ready(cx),
        }
    }

    /// Whether accepted bytes still wait inside the TLS session. Always false without TLS.
    pub fn has_pending_write(&self) -> bool {
        match self {
            Stream::Plain(_) => false,
            Stream::Tls(s) => s.has_pending_write(),
        }
    }

    /// Sends what [`Stream::has_pending_write`] reports.
    pub fn poll_flush_pending(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Plain(_) => Poll::Ready(Ok(())),
            Stream::Tls(s) => s.poll_flush(cx),
        }
    }

    /// Half-closes: flushes, sends close_notify over TLS, then FIN. Reads go on.
    pub fn poll_shutdown_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Plain(s) => Poll::Ready(s.shutdown_write()),
            Stream::Tls(s) => s.poll_shutdown_write(cx),
        }
    }

    /// Waits until a read may make progress. Cancel safe.
    pub async fn readable(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_read_ready(cx)).await
    }

    /// Waits until a write may make progress. Cancel safe.
    pub async fn writable(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_write_ready(cx)).await
    }

    /// Facts of the TLS session; `None` without TLS.
    pub fn tls(&self) -> Option<&TlsInfo> {
        match self {
            Stream::Plain(_) => None,
            Stream::Tls(s) => Some(s.info()),
        }
    }

    /// The ALPN protocol agreed by TLS.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.tls().and_then(|t| t.alpn.as_deref())
    }

    /// The socket below.
    pub fn socket(&self) -> &Socket {
        match self {
            Stream::Plain(s) => s,
            Stream::Tls(s) => s.socket(),
        }
    }

    /// The TCP stream when there is no TLS in between: what `splice` may work on.
    pub fn plain_tcp(&self) -> Option<&TcpStream> {
        match self {
            Stream::Plain(s) => s.as_tcp(),
            Stream::Tls(_) => None,
        }
    }

    /// Our address, for TCP.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.socket().local_addr()
    }

    /// The peer's address, for TCP.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.socket().peer_addr()
    }

    /// Makes dropping the stream send RST instead of FIN (TCP only).
    pub fn set_reset_on_close(&self) {
        self.socket().set_reset_on_close();
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            match this.try_read(buf.initialize_unfilled()) {
                Ok(n) => {
                    buf.advance(n);
                    return Poll::Ready(Ok(()));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => ready!(this.poll_read_ready(cx))?,
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        loop {
            match this.try_write_vectored(bufs) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => ready!(this.poll_write_ready(cx))?,
                r => return Poll::Ready(r),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_flush_pending(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_shutdown_write(cx)
    }
}
