//! How is a connection to a host opened? TCP or Unix socket, PROXY header, TLS, within the cluster's time.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use proxy_config::Name;
use proxy_config::cluster::UpstreamTransport;
use proxy_config::common::{Address, Metadata};
use proxy_config::route::Priority;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use telemetry::stats::envoy::cluster as stat;
use tls::{ConnectOptions, Stream, TlsInfo};
use tokio::net::{TcpSocket, TcpStream, UnixStream};

use crate::breakers::{Guard, Resource};
use crate::cluster::Cluster;
use crate::eyeballs;
use crate::host::Host;
use crate::internal;

/// What a connection asks for besides its host.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConnectRequest<'a> {
    /// Circuit breaker level.
    pub priority: Priority,
    /// ALPN offered instead of the configured list.
    pub alpn: Option<&'a [Box<[u8]>]>,
    /// SNI instead of the configured one.
    pub sni: Option<&'a str>,
    /// A DNS name that the peer must prove beside the configured rules.
    pub dns_san: Option<&'a str>,
    /// Downstream addresses for a PROXY protocol header: client, then destination.
    pub proxied: Option<(SocketAddr, SocketAddr)>,
    /// Filter state shared with upstream connections, for internal listeners.
    pub state: &'a [(Name, Arc<str>)],
    /// Where the connection is to seem to come from.
    pub source: Option<Source>,
}

/// The client's own address as the source of a connection (`original_src`). Needs CAP_NET_ADMIN, and rules that lead the answers
/// back here; the mark tells them which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    /// The client.
    pub address: IpAddr,
    /// `SO_MARK` of the socket; 0 leaves it alone.
    pub mark: u32,
}

/// An open connection and its accounting.
#[derive(Debug)]
pub struct Connection {
    /// The bytes.
    pub stream: Stream,
    /// Our address.
    pub local: Option<SocketAddr>,
    /// The host's address.
    pub remote: Option<SocketAddr>,
    /// TLS facts.
    pub tls: Option<Arc<TlsInfo>>,
    /// Counts the connection as long as it lives.
    pub account: Account,
}

/// Keeps a connection counted; drop it with the connection.
#[derive(Debug)]
pub struct Account {
    cluster: Arc<Cluster>,
    host: Arc<Host>,
    began: Instant,
    /// `HostStats::given_up` when the connection was opened.
    given_up: u32,
    _guard: Guard,
}

impl Account {
    /// How long the connection has lived.
    pub fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// Whether the connection takes no more requests, because its host failed meanwhile.
    pub fn is_given_up(&self) -> bool {
        self.host.stats.given_up.load(Relaxed) != self.given_up
    }

    /// The cluster.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// The host.
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let stats = &self.cluster.stats;
        stats.gauge_sub(stat::UPSTREAM_CX_ACTIVE, 1);
        stats.inc(stat::UPSTREAM_CX_DESTROY);
        stats.record(stat::UPSTREAM_CX_LENGTH_MS, self.began.elapsed().as_millis() as u64);
        self.host.stats.cx_active.fetch_sub(1, Relaxed);
    }
}

/// Why there is no connection.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{reason}")]
pub struct ConnectError {
    /// It took too long.
    pub timeout: bool,
    /// A circuit breaker is open; nothing was tried.
    pub overflow: bool,
    /// The transport's own words when it is not plain TCP (`TLS_error:...`), else empty.
    pub transport: Box<str>,
    /// For logs.
    pub reason: Box<str>,
}

/// Opens a connection. Bounded by the cluster's `connect_timeout`.
///
/// Counts `upstream_cx_*` of cluster and host. Cancel safe: dropping the future abandons the attempt.
pub async fn connect(
    cluster: &Arc<Cluster>,
    host: &Arc<Host>,
    request: &ConnectRequest<'_>,
) -> Result<Connection, ConnectError> {
    let stats = &cluster.stats;
    let guard = match cluster.breakers(request.priority).acquire(Resource::Connections) {
        Some(guard) => guard,
        None if host.stats.cx_active.load(Relaxed) == 0 => {
            // Every pool may have one connection, so that requests cannot starve.
            stats.inc(stat::UPSTREAM_CX_OVERFLOW);
            cluster.note_breaker(request.priority, Resource::Connections);
            cluster.breakers(request.priority).force(Resource::Connections)
        }
        None => {
            stats.inc(stat::UPSTREAM_CX_OVERFLOW);
            cluster.note_breaker(request.priority, Resource::Connections);
            return Err(ConnectError {
                timeout: false,
                overflow: true,
                transport: "".into(),
                reason: "connection limit reached".into(),
            });
        }
    };
    stats.inc(stat::UPSTREAM_CX_TOTAL);
    stats.gauge_add(stat::UPSTREAM_CX_ACTIVE, 1);
    host.stats.cx_total.fetch_add(1, Relaxed);
    host.stats.cx_active.fetch_add(1, Relaxed);
    let began = Instant::now();
    let given_up = host.stats.given_up.load(Relaxed);
    let account = Account { cluster: cluster.clone(), host: host.clone(), began, given_up, _guard: guard };
    let opened = match tokio::time::timeout(
        cluster.config.connect_timeout,
        open(cluster, &host.address, &host.more_addresses, &host.metadata, request),
    )
    .await
    {
        Ok(r) => r,
        Err(_) => {
            stats.inc(stat::UPSTREAM_CX_CONNECT_TIMEOUT);
            Err(ConnectError { timeout: true, overflow: false, transport: "".into(), reason: "connect timeout".into() })
        }
    };
    match opened {
        Ok(stream) => {
            stats.record(stat::UPSTREAM_CX_CONNECT_MS, began.elapsed().as_millis() as u64);
            let (local, remote) = (stream.local_addr(), stream.peer_addr());
            if let (Some(tcp), Some(local), Some(remote)) = (stream.socket().as_tcp(), local, remote) {
                crate::near::cheapen(tcp, local, remote);
            }
            let tls = stream.tls().map(|t| Arc::new(t.clone()));
            Ok(Connection { stream, local, remote, tls, account })
        }
        Err(e) => {
            stats.inc(stat::UPSTREAM_CX_CONNECT_FAIL);
            host.stats.cx_connect_fail.fetch_add(1, Relaxed);
            Err(e)
        }
    }
}

fn failed(reason: impl std::fmt::Display) -> ConnectError {
    let reason = reason.to_string().into();
    ConnectError { timeout: false, overflow: false, transport: "".into(), reason }
}

/// The socket could not be connected; the words are Envoy's.
fn refused(e: std::io::Error) -> ConnectError {
    let text = e.to_string();
    let words = text.split(" (os error").next().unwrap_or_default();
    let transport = format!("delayed connect error: {words}").into();
    ConnectError { timeout: false, overflow: false, transport, reason: text.into() }
}

/// Opens a connection that is not accounted for, to `address` (or one of `more`, whichever answers first) with the
/// transport that `metadata` asks for.
pub(crate) async fn open(
    cluster: &Arc<Cluster>,
    address: &Address,
    more: &[Address],
    metadata: &Metadata,
    request: &ConnectRequest<'_>,
) -> Result<Stream, ConnectError> {
    let (transport, context) = cluster.transport_for(metadata);
    let mut socket: tls::Socket = match address {
        Address::Socket(a) if more.is_empty() || request.source.is_some() => {
            let opened = match request.source {
                Some(client) => from_client(client, *a).await.and_then(|s| kept_alive(cluster, s)),
                None => tcp(cluster, *a).await,
            };
            tls::Socket::Tcp(opened.map_err(refused)?)
        }
        Address::Socket(a) => tls::Socket::Tcp(eyeballs::race(cluster, *a, more).await.map_err(refused)?),
        Address::Pipe { path, .. } => tls::Socket::Unix(UnixStream::connect(&**path).await.map_err(refused)?),
        Address::Dns { .. } => return Err(failed("host name is not resolved")),
        Address::Internal { listener, endpoint_id } => {
            let passed = internal::passed_through(transport, metadata, &cluster.config.metadata);
            internal::connect(listener, endpoint_id, passed, request.state)
                .ok_or_else(|| failed(format!("no internal listener {listener}")))?
        }
    };
    let mut transport = transport;
    loop {
        transport = match transport {
            UpstreamTransport::ProxyProtocol { version, inner } => {
                let header = proxy_header(*version, request.proxied);
                write_all(&mut socket, &header).await.map_err(failed)?;
                inner
            }
            UpstreamTransport::InternalUpstream { inner, .. } => inner,
            UpstreamTransport::Raw | UpstreamTransport::Tls(_) => break,
        };
    }
    let UpstreamTransport::Tls(_) = transport else {
        return Ok(Stream::from(socket));
    };
    let Some(context) = context else {
        return Err(failed("TLS configuration is unusable"));
    };
    let options = ConnectOptions { sni: request.sni, alpn: request.alpn, dns_san: request.dns_san };
    match context.connect(socket, options).await {
        Ok(stream) => {
            cluster.tls_stats().shaken(stream.info());
            Ok(Stream::from(stream))
        }
        Err(e) => {
            cluster.tls_stats().failed(e.failure());
            let (transport, reason) = (e.transport_failure_reason().into(), e.to_string().into());
            Err(ConnectError { timeout: false, overflow: false, transport, reason })
        }
    }
}

pub(crate) async fn tcp(cluster: &Cluster, address: SocketAddr) -> std::io::Result<TcpStream> {
    let source = cluster.config.bind.as_ref().and_then(|b| {
        let same = |s: &&SocketAddr| s.is_ipv4() == address.is_ipv4();
        b.sources.iter().find(same).map(|s| (*s, b.freebind))
    });
    let stream = match source {
        None => TcpStream::connect(address).await?,
        Some((source, freebind)) => {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
            socket.set_nonblocking(true)?;
            if freebind && source.is_ipv4() {
                socket.set_freebind_v4(true)?;
            }
            // Ports are shared between destinations; otherwise one source address exhausts them.
            socket.bind(&source.into())?;
            TcpSocket::from_std_stream(socket.into()).connect(address).await?
        }
    };
    kept_alive(cluster, stream)
}

/// A connection that the host takes for the client's own.
async fn from_client(client: Source, address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    let own = client.address.to_canonical();
    match own {
        IpAddr::V4(_) => socket.set_ip_transparent_v4(true)?,
        IpAddr::V6(_) => socket.set_ip_transparent_v6(true)?,
    }
    if client.mark != 0 {
        socket.set_mark(client.mark)?;
    }
    socket.bind(&SocketAddr::new(own, 0).into())?;
    TcpSocket::from_std_stream(socket.into()).connect(address).await
}

fn kept_alive(cluster: &Cluster, stream: TcpStream) -> std::io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    if let Some(k) = &cluster.config.tcp_keepalive {
        let mut keepalive = TcpKeepalive::new();
        if let Some(s) = k.time_s {
            keepalive = keepalive.with_time(Duration::from_secs(s.into()));
        }
        if let Some(s) = k.interval_s {
            keepalive = keepalive.with_interval(Duration::from_secs(s.into()));
        }
        if let Some(n) = k.probes {
            keepalive = keepalive.with_retries(n);
        }
        SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    }
    Ok(stream)
}

async fn write_all(socket: &mut tls::Socket, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match socket.try_write(bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                std::future::poll_fn(|cx| socket.poll_write_ready(cx)).await?;
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// A PROXY protocol header; without known addresses the "unknown" / LOCAL form.
pub fn proxy_header(version: u8, proxied: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
    match (version, proxied) {
        (1, Some((from, to))) if from.is_ipv4() == to.is_ipv4() => {
            let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
            let (f, t) = (from.ip(), to.ip());
            format!("PROXY {family} {f} {t} {} {}\r\n", from.port(), to.port()).into_bytes()
        }
        (1, _) => b"PROXY UNKNOWN\r\n".to_vec(),
        (_, proxied) => {
            let mut out = SIGNATURE.to_vec();
            let mut body = Vec::new();
            let family = match proxied {
                Some((SocketAddr::V4(f), SocketAddr::V4(t))) => {
                    body.extend_from_slice(&f.ip().octets());
                    body.extend_from_slice(&t.ip().octets());
                    0x11
                }
                Some((f, t)) => {
                    let v6 = |a: SocketAddr| match a.ip() {
                        std::net::IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
                        std::net::IpAddr::V6(a) => a.octets(),
                    };
                    body.extend_from_slice(&v6(f));
                    body.extend_from_slice(&v6(t));
                    0x21
                }
                None => 0,
            };
            if let Some((f, t)) = proxied {
                body.extend_from_slice(&f.port().to_be_bytes());
                body.extend_from_slice(&t.port().to_be_bytes());
            }
            out.push(if proxied.is_some() { 0x21 } else { 0x20 });
            out.push(family);
            out.extend_from_slice(&(body.len() as u16).to_be_bytes());
            out.extend_from_slice(&body);
            out
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_host_sees_the_client() {
        let host = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Source { address: "::ffff:127.0.0.9".parse().unwrap(), mark: 0 };
        match from_client(client, host.local_addr().unwrap()).await {
            Ok(_open) => {
                let (_, peer) = host.accept().await.unwrap();
                assert_eq!(peer.ip(), client.address.to_canonical());
            }
            Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::PermissionDenied, "only without CAP_NET_ADMIN: {e}"),
        }
    }

    #[test]
    fn proxy_headers() {
        let pair = Some(("1.2.3.4:5".parse().unwrap(), "6.7.8.9:10".parse().unwrap()));
        assert_eq!(proxy_header(1, pair), b"PROXY TCP4 1.2.3.4 6.7.8.9 5 10\r\n");
        assert_eq!(proxy_header(1, None), b"PROXY UNKNOWN\r\n");
        let v2 = proxy_header(2, pair);
        assert_eq!(&v2[12..], [0x21, 0x11, 0, 12, 1, 2, 3, 4, 6, 7, 8, 9, 0, 5, 0, 10]);
        assert_eq!(&proxy_header(2, None)[12..], [0x20, 0, 0, 0]);
    }
}
