//! Do the rules work? The check behind `--run-validation`: a connection to this pod's own address on the probe
//! port must arrive at the inbound capture port. Run as the proxy's user, as Istio's validation container does.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt::OriginalDst};

/// Exit code by which the CNI repair controller recognises a pod without rules.
pub(crate) const EXIT_CODE: u8 = 126;

/// The address from which this pod would reach the world.
fn own_address() -> io::Result<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // Connecting a datagram socket sends nothing; it only picks the source address.
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
    Ok(socket.local_addr()?.ip())
}

/// Connects to `probe_port` and expects the connection at `capture_port` within `timeout`.
pub(crate) fn run(capture_port: u16, probe_port: u16, timeout: Duration) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, capture_port))?;
    listener.set_nonblocking(true)?;
    let target = SocketAddr::new(own_address()?, probe_port);
    let _client = TcpStream::connect_timeout(&target, timeout)
        .map_err(|error| io::Error::new(error.kind(), format!("connection to {target} was not captured: {error}")))?;
    let deadline = Instant::now() + timeout;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                let original = getsockopt(&stream, OriginalDst)?;
                let port = u16::from_be(original.sin_port);
                if port == probe_port {
                    return Ok(());
                }
                return Err(io::Error::other(format!("captured connection was for port {port}, not {probe_port}")));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error),
        }
    }
}
