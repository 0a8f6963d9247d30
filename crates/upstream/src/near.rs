//! What does a connection that never leaves this machine not need? Paced congestion control.
//!
//! Half of a sidecar's connections are to its own application. A system that sets BBR for all of them makes the kernel keep
//! bandwidth samples and pacing timers for a path without a bottleneck: up to some hundredths of a request's processor time.

use std::net::SocketAddr;

use socket2::SockRef;
use tokio::net::TcpStream;

/// The algorithm that every kernel has and every process may choose; it does the least.
const CONGESTION_CONTROL: &[u8] = b"reno";

/// Whether both ends are on this machine, as far as addresses tell: one is loopback's, or both are the same.
fn is_near(local: SocketAddr, remote: SocketAddr) -> bool {
    let (local, remote) = (local.ip().to_canonical(), remote.ip().to_canonical());
    local.is_loopback() || remote.is_loopback() || local == remote
}

/// Chooses the cheapest congestion control for a connection within this machine; others keep the system's.
pub fn cheapen(stream: &TcpStream, local: SocketAddr, remote: SocketAddr) {
    if is_near(local, remote) {
        // A kernel that refuses leaves the connection as it was.
        let _ = SockRef::from(stream).set_tcp_congestion(CONGESTION_CONTROL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearness_is_told_by_addresses() {
        let near = |a: &str, b: &str| is_near(a.parse().unwrap(), b.parse().unwrap());
        assert!(near("127.0.0.1:15001", "10.0.0.7:40000"));
        assert!(near("10.0.0.7:15006", "[::ffff:10.0.0.7]:40000"));
        assert!(near("[::1]:1", "[::1]:2"));
        assert!(!near("10.0.0.7:15006", "10.0.0.8:40000"));
    }

    #[tokio::test]
    async fn a_connection_to_loopback_is_not_paced() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        cheapen(&stream, stream.local_addr().unwrap(), stream.peer_addr().unwrap());
        let set = SockRef::from(&stream).tcp_congestion().unwrap();
        assert!(set.starts_with(CONGESTION_CONTROL), "{}", String::from_utf8_lossy(&set));
    }
}
