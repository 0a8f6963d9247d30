//! How is one host asked whether it is well? HTTP, TCP and gRPC probes over connections of their own.
//!
//! Probes are counted in `health_check.` only, not among the cluster's connections. The caller bounds their time.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use http1::{
    BodyReader, HeadScanner, HeaderBlock, HeaderCase, HeaderId, Limits, ResponseOptions, Version, parse_response,
    push_decimal, write_request_head,
};
use proxy_config::cluster::{HealthCheck, HealthProbe};
use proxy_config::common::Address;
use proxy_config::headers::HeaderOps;
use proxy_core::Facts;
use proxy_core::health::{FailureKind, Verdict};
use telemetry::stats::envoy::health_check as stat;
use tls::Stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::cluster::Cluster;
use crate::connect::{self, ConnectRequest};
use crate::host::Host;

/// Bytes of an answer that are read at most; a longer one is cut off there and its connection not kept.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// What probes call themselves.
const USER_AGENT: &str = "Envoy/HC";
const GRPC_STATUS_SERVING: i32 = 1;

/// A connection kept between probes.
#[derive(Default)]
pub enum Idle {
    /// None.
    #[default]
    None,
    /// HTTP/1.1 or plain bytes.
    Bytes(Box<Stream>),
    /// HTTP/2.
    H2(h2::client::SendRequest<Bytes>),
}

/// Probes once.
pub async fn run(cluster: &Arc<Cluster>, check: &HealthCheck, host: &Arc<Host>, idle: &mut Idle) -> Verdict {
    let asked = match &check.probe {
        HealthProbe::Http { http2: false, .. } => http1(cluster, check, host, idle).await,
        HealthProbe::Http { http2: true, .. } => http2(cluster, check, host, idle).await,
        HealthProbe::Tcp { send, receive } => tcp(cluster, check, host, idle, send, receive).await,
        HealthProbe::Grpc { service, .. } => grpc(cluster, check, host, idle, service).await,
    };
    asked.unwrap_or_else(|Broken| {
        *idle = Idle::None;
        Verdict::Failure { kind: FailureKind::Network, retriable: false }
    })
}

/// The connection failed.
struct Broken;

impl<E: std::error::Error> From<E> for Broken {
    fn from(_: E) -> Self {
        Broken
    }
}

async fn open(cluster: &Arc<Cluster>, check: &HealthCheck, host: &Arc<Host>) -> Result<Stream, Broken> {
    let alpn = (!check.alpn.is_empty()).then_some(&*check.alpn);
    let own = host.health_check.as_deref();
    let mut address = own.and_then(|h| h.address.clone()).unwrap_or_else(|| host.address.clone());
    if let (Some(port), Address::Socket(a)) = (own.and_then(|h| h.port).or(check.alt_port), &mut address) {
        a.set_port(port);
    }
    let more: &[Address] = if address == host.address { &host.more_addresses } else { &[] };
    let request = ConnectRequest { alpn, ..Default::default() };
    let metadata = check.transport_match.as_ref().unwrap_or(&host.metadata);
    connect::open(cluster, &address, more, metadata, &request).await.map_err(|e| {
        telemetry::debug!(hc, "cluster {}: host {}: {e}", cluster.config.name, host.text);
        Broken
    })
}

/// Host, then configuration, then the cluster's name.
fn authority<'a>(cluster: &'a Cluster, host: &'a Host, configured: Option<&'a str>) -> &'a str {
    let own = host.health_check.as_deref().map(|h| &*h.hostname).filter(|h| !h.is_empty());
    own.or(configured).unwrap_or(&cluster.config.name)
}

fn request(cluster: &Cluster, host: &Host, check: &HealthCheck, http2: bool) -> HeaderBlock {
    let mut block = HeaderBlock::new();
    let (configured, path, method, ops): (_, _, _, &HeaderOps) = match &check.probe {
        HealthProbe::Http { host, path, method, headers, .. } => (host, &**path, &**method, headers),
        HealthProbe::Grpc { authority, metadata, .. } => (authority, "/grpc.health.v1.Health/Check", "POST", metadata),
        HealthProbe::Tcp { .. } => return block,
    };
    block.add_id(HeaderId::METHOD, method.as_bytes());
    block.add_id(HeaderId::AUTHORITY, authority(cluster, host, configured.as_deref()).as_bytes());
    block.add_id(HeaderId::PATH, path.as_bytes());
    if http2 {
        let tls = matches!(cluster.transport(host).0, proxy_config::cluster::UpstreamTransport::Tls(_));
        block.add_id(HeaderId::SCHEME, if tls { b"https" } else { b"http" });
    }
    if matches!(check.probe, HealthProbe::Grpc { .. }) {
        block.add(b"te", b"trailers");
        block.add(b"content-type", b"application/grpc");
    }
    block.add(b"user-agent", USER_AGENT.as_bytes());
    let facts =
        Facts { cluster_metadata: Some(&cluster.config.metadata), upstream_remote: host.socket(), ..Facts::default() };
    proxy_core::headers::apply_level(ops, &mut block, &facts, true);
    block
}

/// What an HTTP answer means.
struct Answer {
    status: u16,
    degraded: bool,
    service: Option<Vec<u8>>,
    body: Vec<u8>,
}

fn judge(cluster: &Cluster, check: &HealthCheck, answer: &Answer) -> Verdict {
    let HealthProbe::Http { expected, retriable, receive, service_name, .. } = &check.probe else {
        return Verdict::Failure { kind: FailureKind::Active(answer.status), retriable: false };
    };
    let within = |ranges: &[(u16, u16)]| ranges.iter().any(|(from, to)| (*from..*to).contains(&answer.status));
    let failed = |retriable| Verdict::Failure { kind: FailureKind::Active(answer.status), retriable };
    if !within(expected) {
        return failed(within(retriable));
    }
    if !receive.is_empty() && !contains_in_order(&answer.body, receive) {
        return failed(false);
    }
    if let Some(matcher) = service_name {
        cluster.health_stats().inc(stat::VERIFY_CLUSTER);
        if !answer.service.as_deref().is_some_and(|s| matcher.matches(s)) {
            return failed(false);
        }
    }
    Verdict::Success { degraded: answer.degraded }
}

/// Whether the pieces occur in this order, with anything between them.
fn contains_in_order(mut bytes: &[u8], pieces: &[Arc<[u8]>]) -> bool {
    pieces.iter().all(|piece| {
        let found = if piece.is_empty() { Some(0) } else { bytes.windows(piece.len()).position(|w| *w == **piece) };
        found.is_some_and(|at| {
            bytes = &bytes[at + piece.len()..];
            true
        })
    })
}

async fn http1(
    cluster: &Arc<Cluster>,
    check: &HealthCheck,
    host: &Arc<Host>,
    idle: &mut Idle,
) -> Result<Verdict, Broken> {
    let kept = match std::mem::take(idle) {
        Idle::Bytes(mut s) => {
            let quiet = s.try_read(&mut [0]).is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock);
            quiet.then_some(s)
        }
        _ => None,
    };
    let mut stream = match kept {
        Some(s) => s,
        None => Box::new(open(cluster, check, host).await?),
    };
    let block = request(cluster, host, check, false);
    let body: &[u8] = match &check.probe {
        HealthProbe::Http { send, .. } => send,
        _ => &[],
    };
    let mut bytes = Vec::new();
    let mut framing = Vec::new();
    if !body.is_empty() {
        framing.extend_from_slice(b"content-length: ");
        push_decimal(&mut framing, body.len() as u64);
        framing.extend_from_slice(b"\r\n");
    }
    write_request_head(&mut bytes, &block, Version::Http11, HeaderCase::Lower, &framing);
    bytes.extend_from_slice(body);
    stream.write_all(&bytes).await?;
    stream.flush().await?;
    let options = ResponseOptions {
        limits: Limits::default(),
        head_request: block.method() == b"HEAD",
        ..ResponseOptions::default()
    };
    let (mut input, mut scanner, mut response) = (Vec::with_capacity(1024), HeadScanner::default(), HeaderBlock::new());
    let head = loop {
        if let Some(head) = parse_response(&input, &mut scanner, &options, &mut response).map_err(|_| Broken)? {
            input.drain(..head.consumed);
            if head.status / 100 != 1 {
                break head;
            }
            scanner = HeadScanner::default();
            continue;
        }
        if input.len() > ANSWER_BYTES_MAX || stream.read_buf(&mut input).await? == 0 {
            return Err(Broken);
        }
    };
    let mut answer = Answer {
        status: head.status,
        degraded: response.get(b"x-envoy-degraded").is_some(),
        service: response.get(b"x-envoy-upstream-healthchecked-cluster").map(<[u8]>::to_vec),
        body: Vec::new(),
    };
    let mut reader = BodyReader::new(head.body);
    let mut total = 0;
    while !reader.is_done() && total < ANSWER_BYTES_MAX {
        let (data, used) = reader.next_data(&input).map_err(|_| Broken)?;
        if used > 0 {
            total += data.len();
            answer.body.extend_from_slice(&input[data]);
            input.drain(..used);
            continue;
        }
        if stream.read_buf(&mut input).await? == 0 {
            if !reader.eof() {
                return Err(Broken);
            }
            break;
        }
    }
    if check.reuse_connection && head.keep_alive && reader.is_done() && !reader.is_until_close() && input.is_empty() {
        *idle = Idle::Bytes(stream);
    }
    cut(check, &mut answer);
    Ok(judge(cluster, check, &answer))
}

/// Only the first bytes of a body are looked at.
fn cut(check: &HealthCheck, answer: &mut Answer) {
    if let HealthProbe::Http { response_buffer_bytes: most @ 1.., .. } = check.probe {
        answer.body.truncate(most as usize);
    }
}

/// A sender on a new or kept HTTP/2 connection.
async fn sender(
    cluster: &Arc<Cluster>,
    check: &HealthCheck,
    host: &Arc<Host>,
    idle: &mut Idle,
) -> Result<h2::client::SendRequest<Bytes>, Broken> {
    if let Idle::H2(sender) = std::mem::take(idle)
        && let Ok(ready) = sender.ready().await
    {
        return Ok(ready);
    }
    let stream = open(cluster, check, host).await?;
    let (sender, driver) = h2::client::handshake(stream).await?;
    // The driver ends with the connection, when the last sender is dropped.
    tokio::task::spawn_local(async move { drop(driver.await) });
    Ok(sender.ready().await?)
}

async fn ask(
    sender: &mut h2::client::SendRequest<Bytes>,
    block: &HeaderBlock,
    body: Bytes,
) -> Result<http::Response<h2::RecvStream>, Broken> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let uri = http::Uri::builder()
        .scheme(&*text(block.scheme()))
        .authority(&*text(block.authority()))
        .path_and_query(&*text(block.path()))
        .build()?;
    let mut head = http::Request::builder().method(&*text(block.method())).uri(uri).version(http::Version::HTTP_2);
    for (name, value) in block.iter().filter(|(n, _)| !n.starts_with(b":")) {
        head = head.header(name, value);
    }
    let (answer, mut out) = sender.send_request(head.body(())?, body.is_empty())?;
    if !body.is_empty() {
        out.send_data(body, true)?;
    }
    Ok(answer.await?)
}

async fn collect(body: &mut h2::RecvStream) -> Result<Vec<u8>, Broken> {
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        all.extend_from_slice(&data);
        if all.len() > ANSWER_BYTES_MAX {
            return Err(Broken);
        }
    }
    Ok(all)
}

async fn http2(
    cluster: &Arc<Cluster>,
    check: &HealthCheck,
    host: &Arc<Host>,
    idle: &mut Idle,
) -> Result<Verdict, Broken> {
    let mut sender = sender(cluster, check, host, idle).await?;
    let block = request(cluster, host, check, true);
    let body = match &check.probe {
        HealthProbe::Http { send, .. } => Bytes::copy_from_slice(send),
        _ => Bytes::new(),
    };
    let (head, mut body) = ask(&mut sender, &block, body).await?.into_parts();
    let mut answer = Answer {
        status: head.status.as_u16(),
        degraded: head.headers.contains_key("x-envoy-degraded"),
        service: head.headers.get("x-envoy-upstream-healthchecked-cluster").map(|v| v.as_bytes().to_vec()),
        body: collect(&mut body).await?,
    };
    if check.reuse_connection {
        *idle = Idle::H2(sender);
    }
    cut(check, &mut answer);
    Ok(judge(cluster, check, &answer))
}

/// `grpc.health.v1.HealthCheckRequest { service }` in a gRPC frame.
fn grpc_request(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut n = service.len();
        while n >= 0x80 {
            message.push(n as u8 | 0x80);
            n >>= 7;
        }
        message.push(n as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let mut frame = vec![0];
    frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
    frame.extend_from_slice(&message);
    frame.into()
}

/// The status of a `grpc.health.v1.HealthCheckResponse` frame. `None`: not one.
fn grpc_serving(mut frame: &[u8]) -> Option<bool> {
    if frame.len() < 5 || frame.get_u8() != 0 {
        return None;
    }
    let len = frame.get_u32() as usize;
    let message = frame.get(..len)?;
    // Only field 1, an enum, is known; an absent one is UNKNOWN.
    let status = match message {
        [] => 0,
        [0x08, status, ..] if *status < 0x80 => i32::from(*status),
        _ => return None,
    };
    Some(status == GRPC_STATUS_SERVING)
}

async fn grpc(
    cluster: &Arc<Cluster>,
    check: &HealthCheck,
    host: &Arc<Host>,
    idle: &mut Idle,
    service: &str,
) -> Result<Verdict, Broken> {
    let mut sender = sender(cluster, check, host, idle).await?;
    let block = request(cluster, host, check, true);
    let (head, mut body) = ask(&mut sender, &block, grpc_request(service)).await?.into_parts();
    let frame = collect(&mut body).await?;
    let trailers = body.trailers().await?.unwrap_or_default();
    let status = trailers.get("grpc-status").or(head.headers.get("grpc-status"));
    let ok = head.status == http::StatusCode::OK && status.is_some_and(|s| s == "0");
    if check.reuse_connection {
        *idle = Idle::H2(sender);
    }
    Ok(if ok && grpc_serving(&frame) == Some(true) {
        Verdict::Success { degraded: head.headers.contains_key("x-envoy-degraded") }
    } else {
        Verdict::Failure { kind: FailureKind::Active(0), retriable: false }
    })
}

async fn tcp(
    cluster: &Arc<Cluster>,
    check: &HealthCheck,
    host: &Arc<Host>,
    idle: &mut Idle,
    send: &[u8],
    receive: &[Arc<[u8]>],
) -> Result<Verdict, Broken> {
    let mut stream = match std::mem::take(idle) {
        Idle::Bytes(s) => s,
        _ => Box::new(open(cluster, check, host).await?),
    };
    if !send.is_empty() {
        stream.write_all(send).await?;
        stream.flush().await?;
    }
    let mut input = Vec::new();
    while !receive.is_empty() && !contains_in_order(&input, receive) {
        if input.len() > ANSWER_BYTES_MAX || stream.read_buf(&mut input).await? == 0 {
            return Err(Broken);
        }
    }
    // A check that only connects must connect each time.
    if check.reuse_connection && !(send.is_empty() && receive.is_empty()) {
        *idle = Idle::Bytes(stream);
    }
    Ok(Verdict::Success { degraded: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_in_order() {
        let pieces = |all: &[&str]| all.iter().map(|p| Arc::from(p.as_bytes())).collect::<Vec<Arc<[u8]>>>();
        assert!(contains_in_order(b"xxPONG..OK", &pieces(&["PONG", "OK"])));
        assert!(!contains_in_order(b"OK PONG", &pieces(&["PONG", "OK"])));
        assert!(contains_in_order(b"", &[]));
    }

    #[test]
    fn grpc_frames() {
        assert_eq!(&grpc_request("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&grpc_request("a")[..], [0, 0, 0, 0, 3, 0x0a, 1, b'a']);
        assert_eq!(grpc_serving(&[0, 0, 0, 0, 2, 8, 1]), Some(true));
        assert_eq!(grpc_serving(&[0, 0, 0, 0, 2, 8, 2]), Some(false));
        assert_eq!(grpc_serving(&[0, 0, 0, 0, 0]), Some(false));
        assert_eq!(grpc_serving(&[0, 0, 0]), None);
    }
}
