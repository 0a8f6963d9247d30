//! What do listener filters find out about a connection before a filter chain is chosen?
//!
//! Called by `connection` once per listener that the connection passes through. Filters run in the
//! configured order; those that look at bytes peek and leave them in the socket, save for PROXY headers.

use proxy_config::common::Value;
use proxy_config::listener::{ListenerFilterKind, ProxyProtocol};
use socket2::SockRef;
use telemetry::stats::Block;
use telemetry::stats::envoy::{
    http_inspector as http_stat, proxy_proto as proto_stat, proxy_proto_root, tls_inspector as tls_stat,
};
use tls::Socket;
use tls::client_hello::{self, CLIENT_HELLO_BYTES_MAX};
use tokio::net::TcpStream;

use crate::accepted::{About, Accepted};
use crate::http_inspector::{self, Inspected};
use crate::listener::{FilterState, Listener};
use crate::peek::{consume, peek_beyond};
use crate::proxy_protocol::{self, Header, Parsed};

/// Bytes that are looked at first; most ClientHellos and all request lines fit.
const FIRST_PEEK_BYTES: usize = 2048;

/// Why a connection did not get through its listener filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejected {
    /// `listener_filters_timeout` passed.
    Timeout,
    /// The peer closed while its first bytes were awaited.
    RemoteClose,
    /// A filter refused the connection, or reading failed.
    Error,
    /// A listener's rate limit is used up.
    RateLimited,
}

/// Restores the destination for a `use_original_dst` listener, which implies the filter (Envoy adds it at the end).
pub fn restore(listener: &Listener, conn: &mut Accepted) {
    if listener.config.use_original_dst
        && !conn.about.restored
        && let Socket::Tcp(stream) = &conn.socket
    {
        original_dst(listener.config.transparent, stream, &mut conn.about);
    }
}

/// Runs all listener filters of `listener`.
pub async fn run(listener: &Listener, conn: &mut Accepted) -> Result<(), Rejected> {
    if listener.config.listener_filters.is_empty() {
        return Ok(());
    }
    let limit = listener.config.listener_filters_timeout;
    if limit.is_zero() {
        return run_all(listener, conn).await;
    }
    match tokio::time::timeout(limit, run_all(listener, conn)).await {
        Ok(r) => r,
        Err(_) if listener.config.continue_on_listener_filters_timeout => Ok(()),
        Err(_) => Err(Rejected::Timeout),
    }
}

async fn run_all(listener: &Listener, conn: &mut Accepted) -> Result<(), Rejected> {
    for (filter, state) in listener.config.listener_filters.iter().zip(&listener.listener_filters) {
        if filter.disabled.as_ref().is_some_and(|p| p.matches(conn.about.local.port())) {
            continue;
        }
        let about = &mut conn.about;
        let Socket::Tcp(stream) = &conn.socket else {
            if matches!(filter.kind, ListenerFilterKind::OriginalDst) {
                original_dst_of_state(about);
            }
            continue;
        };
        match &filter.kind {
            ListenerFilterKind::OriginalDst => original_dst(listener.config.transparent, stream, about),
            ListenerFilterKind::ProxyProtocol(c) => {
                let verdict = proxy_protocol(c, stream, about).await;
                if let FilterState::ProxyProtocol(stats, all) = state {
                    count_header(stats, all, &verdict);
                }
                if !matches!(verdict, Ok(Found::Header(_) | Found::Nothing)) {
                    return Err(verdict.err().unwrap_or(Rejected::Error));
                }
            }
            ListenerFilterKind::TlsInspector { .. } => tls_inspector(listener, stream, about).await?,
            ListenerFilterKind::HttpInspector => http_inspector(listener, stream, about).await?,
            ListenerFilterKind::LocalRateLimit(_) => {
                if let FilterState::RateLimit(bucket) = state
                    && !bucket.allows()
                {
                    return Err(Rejected::RateLimited);
                }
            }
            ListenerFilterKind::OriginalSrc { mark } => about.original_src = Some(*mark),
        }
    }
    Ok(())
}

/// Where the connection was going before it was redirected here.
fn original_dst(transparent: bool, stream: &TcpStream, about: &mut About) {
    if transparent {
        // TPROXY leaves the destination on the socket itself.
        about.restored = true;
        return;
    }
    let socket = SockRef::from(stream);
    let found = match about.direct_local.is_ipv4() {
        true => socket.original_dst_v4(),
        false => socket.original_dst_v6(),
    };
    // An error means that the connection was not redirected.
    if let Some(address) = found.ok().and_then(|a| a.as_socket()) {
        about.local = address;
        about.restored = true;
    }
}

/// The same for an internal connection: its addresses are in filter state, or in metadata passed through.
fn original_dst_of_state(about: &mut About) {
    const NAME: &str = "envoy.filters.listener.original_dst";
    let state = |key: &str| about.state_text(&format!("{NAME}.{key}")).and_then(|a| a.parse().ok());
    let metadata = || {
        let of = about.metadata.iter().rev().find(|(n, _)| **n == *NAME)?;
        of.1.get("local")?.as_str()?.parse().ok()
    };
    let (local, remote) = (state("local_ip").or_else(metadata), state("remote_ip"));
    if let Some(local) = local {
        about.local = local;
        about.restored = true;
    }
    if let Some(remote) = remote {
        about.remote = remote;
    }
}

/// What a connection begins with.
enum Found {
    /// A header of this version.
    Header(u8),
    /// None, which is allowed.
    Nothing,
    /// None, which is not.
    Missing,
    /// A header of a version that is not allowed.
    Disallowed(u8),
    /// A broken one.
    Broken(u8),
}

/// Counts what a connection begins with.
fn count_header(
    stats: &Block<proto_stat::ProxyProto>,
    all: &Block<proxy_proto_root::Root>,
    found: &Result<Found, Rejected>,
) {
    let Ok(found) = found else { return };
    let of = |version: u8, v1, v2| stats.inc(if version == 1 { v1 } else { v2 });
    match *found {
        Found::Header(v) => of(v, proto_stat::V1_FOUND, proto_stat::V2_FOUND),
        Found::Nothing => stats.inc(proto_stat::NOT_FOUND_ALLOWED),
        Found::Missing => stats.inc(proto_stat::NOT_FOUND_DISALLOWED),
        Found::Disallowed(v) => {
            of(v, proto_stat::V1_FOUND, proto_stat::V2_FOUND);
            of(v, proto_stat::V1_DISALLOWED, proto_stat::V2_DISALLOWED);
        }
        Found::Broken(v) => of(v, proto_stat::V1_ERROR, proto_stat::V2_ERROR),
    }
    if matches!(found, Found::Missing | Found::Broken(_)) {
        all.inc(proxy_proto_root::DOWNSTREAM_CX_PROXY_PROTO_ERROR);
    }
}

async fn proxy_protocol(config: &ProxyProtocol, stream: &TcpStream, about: &mut About) -> Result<Found, Rejected> {
    let mut buf = Vec::new();
    let mut known = 0;
    let header = loop {
        let peeked =
            peek_beyond(stream, known, &mut buf, proxy_protocol::V2_BYTES_MAX).await.map_err(|_| Rejected::Error)?;
        // The first byte tells which version it may be.
        let version = if peeked.bytes.first() == Some(&b'P') { 1 } else { 2 };
        let disallowed = config.disallowed_versions.contains(&version);
        match proxy_protocol::parse(peeked.bytes) {
            Parsed::Absent if config.allow_requests_without_proxy_protocol => return Ok(Found::Nothing),
            Parsed::Absent => return Ok(Found::Missing),
            Parsed::Header(_) | Parsed::Invalid(_) if disallowed => return Ok(Found::Disallowed(version)),
            Parsed::Header(h) => break h,
            Parsed::Invalid(_) => return Ok(Found::Broken(version)),
            Parsed::More if peeked.ended => return Err(Rejected::RemoteClose),
            Parsed::More => known = peeked.bytes.len(),
        }
    };
    let version = header.version;
    consume(stream, header.len).map_err(|_| Rejected::Error)?;
    let Header { addresses, tlvs, .. } = header;
    if let Some((source, destination)) = addresses {
        about.remote = source;
        about.restored |= destination != about.local;
        about.local = destination;
    }
    for (kind, value) in tlvs {
        for (_, namespace, key) in config.rules.iter().filter(|(k, ..)| *k == kind) {
            let text = Value::String(String::from_utf8_lossy(&value).into());
            about.set_metadata(namespace, key, text);
        }
    }
    Ok(Found::Header(version))
}

async fn tls_inspector(listener: &Listener, stream: &TcpStream, about: &mut About) -> Result<(), Rejected> {
    let stats = &listener.tls_inspector;
    let mut buf = Vec::new();
    let (mut known, mut limit) = (0, FIRST_PEEK_BYTES);
    loop {
        let peeked = peek_beyond(stream, known, &mut buf, limit).await.map_err(|_| Rejected::Error)?;
        match client_hello::peek(peeked.bytes) {
            client_hello::Peek::Tls(hello) => {
                stats.inc(tls_stat::TLS_FOUND);
                stats.inc(if hello.sni.is_some() { tls_stat::SNI_FOUND } else { tls_stat::SNI_NOT_FOUND });
                let offered = !hello.alpn.is_empty();
                stats.inc(if offered { tls_stat::ALPN_FOUND } else { tls_stat::ALPN_NOT_FOUND });
                stats.record(tls_stat::BYTES_PROCESSED, peeked.bytes.len() as u64);
                about.transport_protocol = "tls";
                about.server_name = hello.sni.map(Into::into);
                about.application_protocols = hello.alpn;
                return Ok(());
            }
            client_hello::Peek::NotTls => {
                stats.inc(tls_stat::TLS_NOT_FOUND);
                return Ok(());
            }
            client_hello::Peek::More if peeked.ended => {
                if peeked.bytes.is_empty() {
                    return Err(Rejected::RemoteClose);
                }
                stats.inc(tls_stat::TLS_NOT_FOUND);
                return Ok(());
            }
            client_hello::Peek::More => {
                known = peeked.bytes.len();
                if known == limit {
                    if limit > CLIENT_HELLO_BYTES_MAX {
                        stats.inc(tls_stat::CLIENT_HELLO_TOO_LARGE);
                        return Err(Rejected::Error);
                    }
                    limit = (limit * 4).min(CLIENT_HELLO_BYTES_MAX + 1024);
                }
            }
        }
    }
}

async fn http_inspector(listener: &Listener, stream: &TcpStream, about: &mut About) -> Result<(), Rejected> {
    if about.transport_protocol == "tls" {
        return Ok(());
    }
    let stats = &listener.http_inspector;
    let mut buf = Vec::new();
    let (mut known, mut limit) = (0, FIRST_PEEK_BYTES);
    let verdict = loop {
        let Ok(peeked) = peek_beyond(stream, known, &mut buf, limit).await else {
            stats.inc(http_stat::READ_ERROR);
            return Err(Rejected::Error);
        };
        match http_inspector::inspect(peeked.bytes) {
            Inspected::More if peeked.ended && peeked.bytes.is_empty() => {
                return Err(Rejected::RemoteClose);
            }
            Inspected::More if peeked.ended => break Inspected::NotHttp,
            Inspected::More => {
                known = peeked.bytes.len();
                if known == limit {
                    limit = http_inspector::BYTES_MAX;
                }
            }
            verdict => break verdict,
        }
    };
    stats.inc(match verdict {
        Inspected::Http10 => http_stat::HTTP10_FOUND,
        Inspected::Http11 => http_stat::HTTP11_FOUND,
        Inspected::Http2 => http_stat::HTTP2_FOUND,
        Inspected::NotHttp | Inspected::More => http_stat::HTTP_NOT_FOUND,
    });
    if let Some(protocol) = verdict.protocol() {
        about.application_protocols = vec![protocol.into()];
    }
    Ok(())
}
