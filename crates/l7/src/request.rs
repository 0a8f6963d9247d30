//! What does the connection manager do to a request before any filter sees it?
//!
//! Follows Envoy's `ConnectionManagerImpl::ActiveStream::decodeHeaders` and
//! `ConnectionManagerUtility::mutateRequestHeaders`, in their order.

use std::net::{IpAddr, SocketAddr};

use http1::HeaderId;
use proxy_config::hcm::{EscapedSlashes, StripPort, XfccMode};
use telemetry::stats::envoy::hcm as stat;

use crate::connection::Conn;
use crate::exchange::{Exchange, Protocol};
use crate::path;
use crate::reply::LocalReply;

/// Judges and completes the request head. `Err`: answer at once, before any filter.
pub fn prepare(
    conn: &Conn,
    ex: &mut Exchange,
    internal_only: &[proxy_config::matcher::HeaderName],
) -> Result<(), LocalReply> {
    let hcm = &conn.manager.config;
    if !ex.request.has(HeaderId::AUTHORITY) {
        match (&hcm.http1.default_host_for_http_10, ex.protocol) {
            (Some(host), Protocol::Http10) => ex.request.set_id(HeaderId::AUTHORITY, host.as_bytes()),
            _ => return Err(LocalReply::bare(400, "missing_host_header")),
        }
    }
    let connect = ex.request.method() == b"CONNECT";
    if !connect || ex.request.has(HeaderId::PROTOCOL) {
        if ex.request.path().first() != Some(&b'/') {
            conn.manager.stats.inc(stat::DOWNSTREAM_RQ_NON_RELATIVE_PATH);
            return Err(LocalReply::bare(404, "absolute_path_rejected"));
        }
        normalize_path(conn, ex)?;
    }
    strip_port(conn, ex);
    mutate(conn, ex, internal_only);
    Ok(())
}

fn normalize_path(conn: &Conn, ex: &mut Exchange) -> Result<(), LocalReply> {
    let hcm = &conn.manager.config;
    if memchr::memchr(b'#', ex.request.path()).is_some() {
        conn.manager.stats.inc(stat::DOWNSTREAM_RQ_FAILED_PATH_NORMALIZATION);
        return Err(LocalReply::bare(400, "path_normalization_failed"));
    }
    let rules = &hcm.path;
    if rules.escaped_slashes != EscapedSlashes::KeepUnchanged
        && let Some(path) = path::unescape_slashes(ex.request.path())
    {
        ex.request.set_id(HeaderId::PATH, &path);
        // gRPC knows no redirects: it is refused instead.
        let redirects = rules.escaped_slashes == EscapedSlashes::UnescapeAndRedirect;
        if rules.escaped_slashes == EscapedSlashes::RejectRequest || redirects && ex.grpc {
            conn.manager.stats.inc(stat::DOWNSTREAM_RQ_FAILED_PATH_NORMALIZATION);
            return Err(LocalReply::bare(400, "path_normalization_failed"));
        }
        if redirects {
            let path = finish_path(conn, &path).unwrap_or(path);
            conn.manager.stats.inc(stat::DOWNSTREAM_RQ_REDIRECTED_WITH_NORMALIZED_PATH);
            return Err(LocalReply::redirect(307, path, "path_normalization_failed"));
        }
    }
    if (rules.normalize || rules.merge_slashes) && path::may_need_work(ex.request.path()) {
        match finish_path(conn, ex.request.path()) {
            Some(path) => {
                if path != ex.request.path() {
                    ex.request.set_id(HeaderId::PATH, &path);
                }
            }
            None => {
                conn.manager.stats.inc(stat::DOWNSTREAM_RQ_FAILED_PATH_NORMALIZATION);
                return Err(LocalReply::bare(400, "path_normalization_failed"));
            }
        }
    }
    Ok(())
}

fn finish_path(conn: &Conn, path: &[u8]) -> Option<Vec<u8>> {
    let rules = &conn.manager.config.path;
    let mut path = path.to_vec();
    if rules.normalize {
        path = path::canonical(&path)?;
    }
    if rules.merge_slashes {
        path = path::merge_slashes(&path);
    }
    Some(path)
}

fn strip_port(conn: &Conn, ex: &mut Exchange) {
    let hcm = &conn.manager.config;
    if hcm.strip_trailing_host_dot && ex.request.authority().ends_with(b".") {
        let host = ex.request.authority();
        let host = host[..host.len() - 1].to_vec();
        ex.request.set_id(HeaderId::AUTHORITY, &host);
    }
    if hcm.strip_port == StripPort::Keep {
        return;
    }
    let authority = ex.request.authority();
    let Some((host, port)) = split_port(authority) else {
        return;
    };
    let strip = match hcm.strip_port {
        StripPort::Any => true,
        _ => port == conn.facts.local.port(),
    };
    if strip {
        let host = host.to_vec();
        ex.request.set_id(HeaderId::AUTHORITY, &host);
    }
}

/// Splits `host:port`; an IPv6 literal keeps its brackets.
pub fn split_port(authority: &[u8]) -> Option<(&[u8], u16)> {
    let colon = memchr::memrchr(b':', authority)?;
    if memchr::memchr(b']', &authority[colon..]).is_some() {
        return None;
    }
    let port = std::str::from_utf8(&authority[colon + 1..]).ok()?.parse().ok()?;
    Some((&authority[..colon], port))
}

fn mutate(conn: &Conn, ex: &mut Exchange, internal_only: &[proxy_config::matcher::HeaderName]) {
    let hcm = &conn.manager.config;
    let tls = conn.facts.tls.is_some();
    let request = &mut ex.request;
    if !ex.upgrade {
        request.remove_id(HeaderId::CONNECTION);
        request.remove_id(HeaderId::UPGRADE);
    }
    request.remove_id(HeaderId::X_ENVOY_INTERNAL);
    request.remove_id(HeaderId::KEEP_ALIVE);
    request.remove_id(HeaderId::PROXY_CONNECTION);
    request.remove_id(HeaderId::TRANSFER_ENCODING);
    if let Some(te) = request.get_id(HeaderId::TE) {
        // Only `trailers` is forwarded.
        let trailers = te.split(|b| *b == b',').any(|v| v.trim_ascii().eq_ignore_ascii_case(b"trailers"));
        if trailers {
            request.set_id(HeaderId::TE, b"trailers");
        } else {
            request.remove_id(HeaderId::TE);
        }
    }

    let mut single_address = false;
    let mut remote = None;
    let peer = conn.facts.remote;
    if hcm.use_remote_address {
        single_address = !request.has(HeaderId::X_FORWARDED_FOR);
        if hcm.xff_num_trusted_hops > 0 {
            remote = last_address(ex, hcm.xff_num_trusted_hops - 1).map(|a| a.0);
        }
        let request = &mut ex.request;
        if !hcm.skip_xff_append {
            let mut text = IpText::default();
            let ip =
                if peer.ip().is_loopback() { conn.manager.local_ip.unwrap_or_else(|| peer.ip()) } else { peer.ip() };
            request.append_id(HeaderId::X_FORWARDED_FOR, b",", text.format(ip));
        }
        if hcm.xff_num_trusted_hops == 0 || !request.has(HeaderId::X_FORWARDED_PROTO) {
            request.set_id(HeaderId::X_FORWARDED_PROTO, if tls { b"https" } else { b"http" });
        }
        if hcm.xff_num_trusted_hops == 0 && hcm.append_x_forwarded_port {
            // What a client that is not trusted says of its port does not count.
            request.remove_id(HeaderId::X_FORWARDED_PORT);
        }
    } else if ex.request.has(HeaderId::X_FORWARDED_FOR)
        && let Some((address, alone)) = last_address(ex, hcm.xff_num_trusted_hops)
    {
        remote = Some(address);
        single_address = alone;
    }
    let request = &mut ex.request;
    if hcm.append_x_forwarded_port && !request.has(HeaderId::X_FORWARDED_PORT) {
        let port = conn.facts.local.port().to_string();
        request.set_id(HeaderId::X_FORWARDED_PORT, port.as_bytes());
    }
    if !request.has(HeaderId::X_FORWARDED_PROTO) {
        request.add_id(HeaderId::X_FORWARDED_PROTO, if tls { b"https" } else { b"http" });
    }
    if let Some(scheme) = &hcm.scheme_to_overwrite {
        request.set_id(HeaderId::SCHEME, scheme.as_bytes());
        request.set_id(HeaderId::X_FORWARDED_PROTO, scheme.as_bytes());
    }
    if !request.has(HeaderId::SCHEME) {
        let scheme: &[u8] = match request.get_id(HeaderId::X_FORWARDED_PROTO) {
            Some(b"https") => b"https",
            Some(b"http") => b"http",
            _ if tls => b"https",
            _ => b"http",
        };
        request.add_id(HeaderId::SCHEME, scheme);
    }

    let from_header = remote.is_some();
    let remote = remote.map_or(peer, |ip| SocketAddr::new(ip, if ip == peer.ip() { peer.port() } else { 0 }));
    ex.remote = Some(remote);
    ex.internal =
        single_address && (from_header || hcm.use_remote_address) && hcm.internal_addresses.cidrs.contains(remote.ip());
    let edge = !ex.internal && hcm.use_remote_address;
    if ex.internal {
        request.set_id(HeaderId::X_ENVOY_INTERNAL, b"true");
    } else {
        if edge {
            for id in EDGE_ONLY {
                request.remove_id(*id);
            }
        }
        for id in INTERNAL_ONLY {
            request.remove_id(*id);
        }
        for name in internal_only {
            request.remove(name.as_str().as_bytes());
        }
    }
    if hcm.add_user_agent {
        let node = &conn.manager.node;
        request.set_id(HeaderId::X_ENVOY_DOWNSTREAM_SERVICE_CLUSTER, node.cluster.as_bytes());
        if request.get(b"user-agent").is_none_or(<[u8]>::is_empty) {
            request.set(b"user-agent", node.cluster.as_bytes());
        }
        if !node.id.is_empty() {
            request.set_id(HeaderId::X_ENVOY_DOWNSTREAM_SERVICE_NODE, node.id.as_bytes());
        }
    }
    if let Some(via) = &hcm.via {
        request.append_id(HeaderId::VIA, b", ", via.as_bytes());
    }
    if edge {
        let mut text = IpText::default();
        request.set_id(HeaderId::X_ENVOY_EXTERNAL_ADDRESS, text.format(remote.ip()));
    }
    if hcm.generate_request_id && ((edge && !hcm.preserve_external_request_id) || !request.has(HeaderId::X_REQUEST_ID))
    {
        let id = uuid(conn.worker.random(), conn.worker.random());
        request.set_id(HeaderId::X_REQUEST_ID, &id);
    }
    xfcc(conn, ex);
}

/// Removed from requests of the outside when this is the edge.
const EDGE_ONLY: &[HeaderId] = &[
    HeaderId::X_ENVOY_DECORATOR_OPERATION,
    HeaderId::X_ENVOY_DOWNSTREAM_SERVICE_CLUSTER,
    HeaderId::X_ENVOY_DOWNSTREAM_SERVICE_NODE,
    HeaderId::X_ENVOY_ORIGINAL_PATH,
];

/// Removed from requests that are not internal.
const INTERNAL_ONLY: &[HeaderId] = &[
    HeaderId::X_ENVOY_RETRIABLE_STATUS_CODES,
    HeaderId::X_ENVOY_RETRIABLE_HEADER_NAMES,
    HeaderId::X_ENVOY_RETRY_ON,
    HeaderId::X_ENVOY_RETRY_GRPC_ON,
    HeaderId::X_ENVOY_MAX_RETRIES,
    HeaderId::X_ENVOY_UPSTREAM_ALT_STAT_NAME,
    HeaderId::X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS,
    HeaderId::X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS,
    HeaderId::X_ENVOY_UPSTREAM_RQ_TIMEOUT_ALT_RESPONSE,
    HeaderId::X_ENVOY_EXPECTED_RQ_TIMEOUT_MS,
    HeaderId::X_ENVOY_FORCE_TRACE,
    HeaderId::X_ENVOY_IP_TAGS,
    HeaderId::X_ENVOY_ORIGINAL_URL,
    HeaderId::X_ENVOY_HEDGE_ON_PER_TRY_TIMEOUT,
];

/// The address `skip` places before the last in x-forwarded-for, and whether it is the only one.
fn last_address(ex: &Exchange, skip: u32) -> Option<(IpAddr, bool)> {
    let value = ex.request.get_id(HeaderId::X_FORWARDED_FOR)?;
    let alone = memchr::memchr(b',', value).is_none();
    let part = value.rsplit(|b| *b == b',').nth(skip as usize)?;
    let text = std::str::from_utf8(part.trim_ascii()).ok()?;
    let ip = text.trim_start_matches('[').trim_end_matches(']').parse().ok()?;
    Some((ip, alone))
}

/// x-forwarded-client-cert, in all modes.
fn xfcc(conn: &Conn, ex: &mut Exchange) {
    let rules = &conn.manager.config.xfcc;
    if rules.mode == XfccMode::AlwaysForwardOnly {
        return;
    }
    let request = &mut ex.request;
    let tls = conn.facts.tls.as_deref();
    let Some((tls, peer)) = tls.and_then(|t| Some((t, t.peer.as_ref()?))) else {
        request.remove_id(HeaderId::X_FORWARDED_CLIENT_CERT);
        return;
    };
    match rules.mode {
        XfccMode::Sanitize => {
            request.remove_id(HeaderId::X_FORWARDED_CLIENT_CERT);
            return;
        }
        XfccMode::ForwardOnly => return,
        _ => {}
    }
    let value = conn.xfcc.get_or_init(|| {
        let mut out = String::new();
        let mut add = |key: &str, value: &str, quoted: bool| {
            if !out.is_empty() {
                out.push(';');
            }
            out.push_str(key);
            if quoted {
                out.push_str("=\"");
                out.push_str(value);
                out.push('"');
            } else {
                out.push('=');
                out.push_str(value);
            }
        };
        if let Some(by) = tls.local.as_ref().and_then(|c| c.facts().uri_sans.first().cloned()) {
            add("By", &by, false);
        }
        add("Hash", &peer.sha256_hex(), false);
        if rules.cert {
            add("Cert", &peer.pem_url_encoded(), true);
        }
        if rules.chain {
            add("Chain", &peer.chain_pem_url_encoded(), true);
        }
        if rules.subject {
            add("Subject", &peer.facts().subject, true);
        }
        if rules.uri {
            for uri in &peer.facts().uri_sans {
                add("URI", uri, false);
            }
            if peer.facts().uri_sans.is_empty() {
                add("URI", "", false);
            }
        }
        if rules.dns {
            for dns in &peer.facts().dns_sans {
                add("DNS", dns, false);
            }
        }
        out.into_boxed_str()
    });
    if rules.mode == XfccMode::AppendForward {
        request.append_id(HeaderId::X_FORWARDED_CLIENT_CERT, b",", value.as_bytes());
    } else {
        request.set_id(HeaderId::X_FORWARDED_CLIENT_CERT, value.as_bytes());
    }
}

/// A version 4 UUID in text.
pub fn uuid(a: u64, b: u64) -> [u8; 36] {
    let mut raw = [0u8; 16];
    raw[..8].copy_from_slice(&a.to_be_bytes());
    raw[8..].copy_from_slice(&b.to_be_bytes());
    raw[6] = raw[6] & 0x0f | 0x40;
    raw[8] = raw[8] & 0x3f | 0x80;
    let mut out = [b'-'; 36];
    let mut at = 0;
    for (i, byte) in raw.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            at += 1;
        }
        out[at] = b"0123456789abcdef"[(byte >> 4) as usize];
        out[at + 1] = b"0123456789abcdef"[(byte & 15) as usize];
        at += 2;
    }
    out
}

/// An IP address as text without an allocation.
pub struct IpText {
    text: [u8; 46],
    len: usize,
}

impl Default for IpText {
    fn default() -> Self {
        IpText { text: [0; 46], len: 0 }
    }
}

impl IpText {
    /// Formats and returns the bytes.
    pub fn format(&mut self, ip: IpAddr) -> &[u8] {
        self.len = 0;
        // 46 bytes hold any address.
        let _ = std::fmt::Write::write_fmt(self, format_args!("{ip}"));
        &self.text[..self.len]
    }
}

impl std::fmt::Write for IpText {
    fn write_str(&mut self, s: &str) -> std::fmt::Result {
        let room = self.text.get_mut(self.len..self.len + s.len()).ok_or(std::fmt::Error)?;
        room.copy_from_slice(s.as_bytes());
        self.len += s.len();
        Ok(())
    }
}
