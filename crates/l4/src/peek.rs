//! How are a connection's first bytes seen without taking them? `MSG_PEEK` with honest readiness.
//!
//! Used by the listener filters. What they consume (a PROXY header) is read for good afterwards;
//! everything else stays in the socket for TLS or HTTP.

use std::io;

use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// What is in the socket.
pub struct Peeked<'a> {
    /// The bytes.
    pub bytes: &'a [u8],
    /// The peer has closed its side: no more will come.
    pub ended: bool,
}

/// Waits until there is more in the socket than `known` bytes (or its end), and peeks at it all.
///
/// Readiness is dropped when nothing is new, so that waiting for the rest does not spin: the kernel
/// tells again when bytes arrive. Cancel safe.
pub async fn peek_beyond<'a>(
    stream: &TcpStream,
    known: usize,
    buf: &'a mut Vec<u8>,
    limit: usize,
) -> io::Result<Peeked<'a>> {
    buf.resize(limit, 0);
    loop {
        let ready = stream.ready(Interest::READABLE).await?;
        let peeked = stream.try_io(Interest::READABLE, || {
            let (n, _) = recv(stream, &mut buf[..], RecvFlags::PEEK)?;
            if n <= known && n > 0 && !ready.is_read_closed() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(n)
        });
        match peeked {
            Ok(n) => {
                let ended = n == 0 || (n <= known && ready.is_read_closed());
                return Ok(Peeked { bytes: &buf[..n], ended });
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
}

/// Removes exactly `n` bytes that were peeked before.
pub fn consume(stream: &TcpStream, n: usize) -> io::Result<()> {
    let mut gone = 0;
    let mut scratch = [0; 512];
    while gone < n {
        let want = (n - gone).min(scratch.len());
        match stream.try_read(&mut scratch[..want]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(m) => gone += m,
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
