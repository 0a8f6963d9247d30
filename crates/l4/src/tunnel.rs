//! How does a TCP proxy tunnel a connection through HTTP? CONNECT (or POST) over HTTP/2 or HTTP/1.1.
//!
//! Called by `tcp_proxy` in place of a plain connect. HTTP/2 connections are shared by a worker's tunnels to the same
//! host; HBONE is this over mutual TLS. The tunnel looks like a connection: one end of a pipe whose other end a task
//! pumps. Deliberately absent: response headers and trailers in filter state (refused when the chain is compiled).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http1::{HeadScanner, HeaderBlock, HeaderCase, HeaderId, ResponseOptions, Version};
use proxy_config::cluster::UpstreamProtocol;
use proxy_config::filters::network::Tunneling;
use proxy_core::Facts;
use telemetry::stats::envoy::cluster as stat;
use tls::{Pipe, Socket, Stream, TlsInfo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use upstream::{Account, Cluster, ConnectError, ConnectRequest, Host};

/// Bytes moved per turn.
const CHUNK_BYTES: usize = 16 * 1024;
/// Bytes of an HTTP/1.1 answer to CONNECT.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Windows of tunnelled connections: Envoy's defaults.
const STREAM_WINDOW_BYTES: u32 = 16 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 24 << 20;
/// How often a connection without idle timeout is looked at.
const IDLE_LOOK: std::time::Duration = std::time::Duration::from_secs(3600);
/// Streams on one HTTP/2 connection when neither side says less.
const STREAMS_MAX: usize = 1024;

/// HTTP/2 connections of one worker that tunnels share, by host.
#[derive(Default)]
pub struct Tunnels(RefCell<HashMap<usize, Vec<Rc<Shared>>>>);

struct Shared {
    sender: h2::client::SendRequest<Bytes>,
    usable: Rc<Cell<bool>>,
    streams: Rc<Cell<usize>>,
    facts: Below,
    _account: Account,
}

/// What logs tell of a connection.
#[derive(Clone)]
struct Below {
    local: Option<SocketAddr>,
    remote: Option<SocketAddr>,
    tls: Option<Arc<TlsInfo>>,
}

/// An open tunnel.
pub struct Tunnel {
    /// Our end.
    pub stream: Stream,
    /// Local address of the connection below.
    pub local: Option<SocketAddr>,
    /// Its remote address.
    pub remote: Option<SocketAddr>,
    /// Its TLS session.
    pub tls: Option<Arc<TlsInfo>>,
}

/// Why there is no tunnel.
pub enum Refused {
    /// No connection.
    Connect(ConnectError),
    /// The host does not tunnel: its status, 0 when it answered nothing of use.
    Status(u16),
}

/// Opens a tunnel through `host`.
pub async fn open(
    tunnels: &Tunnels,
    config: &Tunneling,
    cluster: &Arc<Cluster>,
    host: &Arc<Host>,
    request: &ConnectRequest<'_>,
    facts: &Facts<'_>,
) -> Result<Tunnel, Refused> {
    let head = head(config, cluster, facts);
    if let Some(shared) = tunnels.find(cluster, host) {
        return through_h2(shared, &head).await;
    }
    cluster.stats.inc(stat::UPSTREAM_RQ_PENDING_TOTAL);
    let count = |h2| cluster.stats.inc(if h2 { stat::UPSTREAM_CX_HTTP2_TOTAL } else { stat::UPSTREAM_CX_HTTP1_TOTAL });
    let known = match cluster.config.http.protocol {
        UpstreamProtocol::Http2 => Some(true),
        UpstreamProtocol::Auto => None,
        UpstreamProtocol::Http1 | UpstreamProtocol::UseDownstream => Some(false),
    };
    // One that fails counts, too, where its protocol is known before.
    known.into_iter().for_each(count);
    let opened = upstream::connect(cluster, host, request).await.map_err(Refused::Connect)?;
    let h2 = known.unwrap_or_else(|| {
        let h2 = matches!(opened.stream.alpn(), Some(b"h2"));
        count(h2);
        h2
    });
    let below = Below { local: opened.local, remote: opened.remote, tls: opened.tls };
    if !h2 {
        return through_h1(opened.stream, opened.account, below, &head).await;
    }
    let options = &cluster.config.http.http2;
    let (sender, driver) = h2::client::Builder::new()
        .initial_window_size(options.initial_stream_window_size.unwrap_or(STREAM_WINDOW_BYTES))
        .initial_connection_window_size(options.initial_connection_window_size.unwrap_or(CONNECTION_WINDOW_BYTES))
        .enable_push(false)
        .handshake::<_, Bytes>(opened.stream)
        .await
        .map_err(|_| Refused::Status(0))?;
    let (usable, streams) = (Rc::new(Cell::new(true)), Rc::new(Cell::new(0)));
    let (alive, busy, idle) = (usable.clone(), streams.clone(), cluster.config.http.idle_timeout);
    tokio::task::spawn_local(async move {
        let unused = async {
            loop {
                tokio::time::sleep(idle.unwrap_or(IDLE_LOOK)).await;
                if idle.is_some() && busy.get() == 0 {
                    return;
                }
            }
        };
        // How it ends makes no difference: streams have seen it.
        tokio::select! {
            _ = driver => {}
            () = unused => {}
        }
        alive.set(false);
    });
    let shared = Rc::new(Shared { sender, usable, streams, facts: below, _account: opened.account });
    tunnels.keep(host, shared.clone());
    through_h2(shared, &head).await
}

impl Tunnels {
    fn find(&self, cluster: &Cluster, host: &Arc<Host>) -> Option<Rc<Shared>> {
        let most = cluster.config.http.http2.max_concurrent_streams.map_or(STREAMS_MAX, |n| n as usize);
        let mut all = self.0.borrow_mut();
        let of_host = all.get_mut(&key(host))?;
        of_host.retain(|s| s.usable.get());
        let free = |s: &&Rc<Shared>| s.streams.get() < most.min(s.sender.current_max_send_streams());
        of_host.iter().find(free).cloned()
    }

    fn keep(&self, host: &Arc<Host>, shared: Rc<Shared>) {
        let mut all = self.0.borrow_mut();
        // Connections whose last tunnel is gone have ended by themselves.
        all.retain(|_, list| {
            list.retain(|s| s.usable.get());
            !list.is_empty()
        });
        all.entry(key(host)).or_default().push(shared);
    }
}

fn key(host: &Arc<Host>) -> usize {
    Arc::as_ptr(&host.stats) as usize
}

/// The request that asks for the tunnel.
fn head(config: &Tunneling, cluster: &Cluster, facts: &Facts<'_>) -> HeaderBlock {
    let mut authority = Vec::new();
    proxy_core::format::text(&config.hostname, facts, b"", &mut authority);
    let mut block = HeaderBlock::new();
    block.add_id(HeaderId::METHOD, if config.use_post { b"POST" } else { b"CONNECT" });
    block.add_id(HeaderId::AUTHORITY, &authority);
    if config.use_post {
        let path = if config.post_path.is_empty() { b"/" } else { config.post_path.as_bytes() };
        block.add_id(HeaderId::PATH, path);
        let tls = matches!(cluster.config.transport, proxy_config::cluster::UpstreamTransport::Tls(_));
        block.add_id(HeaderId::SCHEME, if tls { b"https" } else { b"http" });
    }
    proxy_core::headers::apply_level(&config.headers, &mut block, facts, true);
    block
}

fn h2_request(block: &HeaderBlock) -> Option<http::Request<()>> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut uri = http::Uri::builder().authority(&*text(block.authority()));
    if block.method() != b"CONNECT" {
        uri = uri.scheme(&*text(block.scheme())).path_and_query(&*text(block.path()));
    }
    let mut request = http::Request::builder().method(block.method()).uri(uri.build().ok()?);
    for (name, value) in block.iter().filter(|(n, _)| !n.starts_with(b":")) {
        request = request.header(name, value);
    }
    request.body(()).ok()
}

async fn through_h2(shared: Rc<Shared>, head: &HeaderBlock) -> Result<Tunnel, Refused> {
    struct Leave(Rc<Shared>);
    impl Drop for Leave {
        fn drop(&mut self) {
            self.0.streams.set(self.0.streams.get() - 1);
        }
    }
    shared.streams.set(shared.streams.get() + 1);
    let leave = Leave(shared.clone());
    let broken = |_: h2::Error| Refused::Status(0);
    let request = h2_request(head).ok_or(Refused::Status(0))?;
    let mut sender = shared.sender.clone().ready().await.map_err(broken)?;
    let (answer, send) = sender.send_request(request, false).map_err(broken)?;
    let (answer, receive) = answer.await.map_err(broken)?.into_parts();
    if answer.status != http::StatusCode::OK {
        return Err(Refused::Status(answer.status.as_u16()));
    }
    let (ours, theirs) = Pipe::pair();
    let Below { local, remote, tls } = shared.facts.clone();
    tokio::task::spawn_local(async move {
        let _leave = leave;
        let (mut from, mut to) = tokio::io::split(Stream::from(Socket::Pipe(theirs)));
        // One side's end leaves the other open; an error on either ends both.
        let up = async { pump_up(&mut from, send).await.ok_or(()) };
        let down = async { pump_down(receive, &mut to).await.ok_or(()) };
        let _ = tokio::try_join!(up, down);
    });
    Ok(Tunnel { stream: Stream::from(Socket::Pipe(ours)), local, remote, tls })
}

/// Bytes of the client into the stream. `None`: the stream broke.
async fn pump_up<R: AsyncReadExt + Unpin>(from: &mut R, mut send: h2::SendStream<Bytes>) -> Option<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let n = match from.read(&mut chunk).await {
            Ok(0) => return send.send_data(Bytes::new(), true).ok(),
            Ok(n) => n,
            Err(_) => {
                send.send_reset(h2::Reason::CANCEL);
                return None;
            }
        };
        let mut rest = Bytes::copy_from_slice(&chunk[..n]);
        while !rest.is_empty() {
            send.reserve_capacity(rest.len());
            let room = std::future::poll_fn(|cx| send.poll_capacity(cx)).await?.ok()?;
            send.send_data(rest.split_to(room.min(rest.len())), false).ok()?;
        }
    }
}

/// Bytes of the stream to the client. `None`: either broke.
async fn pump_down<W: AsyncWriteExt + Unpin>(mut receive: h2::RecvStream, to: &mut W) -> Option<()> {
    while let Some(bytes) = receive.data().await {
        let bytes = bytes.ok()?;
        to.write_all(&bytes).await.ok()?;
        receive.flow_control().release_capacity(bytes.len()).ok()?;
    }
    to.shutdown().await.ok()
}

async fn through_h1(mut stream: Stream, account: Account, below: Below, head: &HeaderBlock) -> Result<Tunnel, Refused> {
    if head.method() != b"CONNECT" {
        // A POST's body would have to be chunked on the way up and parsed on the way down.
        return Err(Refused::Status(0));
    }
    let mut out = Vec::new();
    http1::write_request_head(&mut out, head, Version::Http11, HeaderCase::Lower, b"");
    let broken = |_: std::io::Error| Refused::Status(0);
    stream.write_all(&out).await.map_err(broken)?;
    stream.flush().await.map_err(broken)?;
    let options = ResponseOptions { connect_request: true, ..Default::default() };
    let (mut input, mut scanner, mut block) = (Vec::new(), HeadScanner::default(), HeaderBlock::new());
    let answer = loop {
        match http1::parse_response(&input, &mut scanner, &options, &mut block) {
            Ok(Some(answer)) => break answer,
            Ok(None) if input.len() <= ANSWER_BYTES_MAX => {}
            _ => return Err(Refused::Status(0)),
        }
        if stream.read_buf(&mut input).await.map_err(broken)? == 0 {
            return Err(Refused::Status(0));
        }
    };
    if answer.status / 100 != 2 {
        return Err(Refused::Status(answer.status));
    }
    let (ours, theirs) = Pipe::pair();
    let Below { local, remote, tls } = below;
    tokio::task::spawn_local(async move {
        let _account = account;
        let mut pipe = Stream::from(Socket::Pipe(theirs));
        if pipe.write_all(&input[answer.consumed..]).await.is_ok() {
            // How it ends shows on the pipe.
            let _ = tokio::io::copy_bidirectional(&mut pipe, &mut stream).await;
        }
    });
    Ok(Tunnel { stream: Stream::from(Socket::Pipe(ours)), local, remote, tls })
}
