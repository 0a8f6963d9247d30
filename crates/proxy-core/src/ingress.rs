//! Who is the client, and is it trusted? x-forwarded-for, -proto, x-envoy-internal and x-forwarded-client-cert.
//!
//! `l7` calls [`mutate_request`] once per request before routing. Follows `ConnectionManagerUtility` of Envoy.

use std::net::{IpAddr, SocketAddr};

use proxy_config::hcm::{ForwardClientCert, Hcm, IpDetection, XfccMode};
use proxy_config::matcher::HeaderName;

use crate::facts::TlsFacts;
use crate::{HeaderEdit, HeaderView};

/// What was decided about the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// The client's address, for logs, RBAC and rate limits.
    pub remote: SocketAddr,
    /// The request comes from inside.
    pub internal: bool,
    /// The request comes straight from outside (`use_remote_address` and not internal).
    pub edge: bool,
    /// An IP detection extension refuses the request with this status.
    pub reject: Option<u16>,
}

/// What is known of the downstream connection.
#[derive(Debug, Clone, Copy)]
pub struct Connection<'a> {
    /// The peer (after PROXY protocol).
    pub remote: SocketAddr,
    /// Our address.
    pub local: SocketAddr,
    /// TLS, if any.
    pub tls: Option<&'a TlsFacts<'a>>,
    /// A Unix socket peer.
    pub unix: bool,
}

/// Headers of external requests that only internal clients may send.
const INTERNAL_ONLY: [&[u8]; 13] = [
    b"x-envoy-retriable-status-codes",
    b"x-envoy-retriable-header-names",
    b"x-envoy-retry-on",
    b"x-envoy-retry-grpc-on",
    b"x-envoy-max-retries",
    b"x-envoy-upstream-alt-stat-name",
    b"x-envoy-upstream-rq-timeout-ms",
    b"x-envoy-upstream-rq-per-try-timeout-ms",
    b"x-envoy-expected-rq-timeout-ms",
    b"x-envoy-force-trace",
    b"x-envoy-ip-tags",
    b"x-envoy-original-url",
    b"x-envoy-hedge-on-per-try-timeout",
];

const EDGE_ONLY: [&[u8]; 3] =
    [b"x-envoy-decorator-operation", b"x-envoy-downstream-service-cluster", b"x-envoy-downstream-service-node"];

/// The address `skip` places from the right of x-forwarded-for, and whether the header has just one.
pub fn last_xff<H: HeaderView + ?Sized>(headers: &H, skip: u32) -> Option<(IpAddr, bool)> {
    let joined = headers.joined(b"x-forwarded-for")?;
    let text = std::str::from_utf8(&joined).ok()?;
    let single = !text.contains(',');
    let word = text.rsplit(',').nth(skip as usize)?.trim();
    parse_ip(word).map(|ip| (ip, single))
}

/// An address, with brackets or port as some proxies send it.
fn parse_ip(word: &str) -> Option<IpAddr> {
    word.parse::<IpAddr>().ok().or_else(|| word.parse::<SocketAddr>().ok().map(|a| a.ip()))
}

fn append(headers: &mut impl HeaderEdit, name: &[u8], value: &[u8]) {
    let joined = match headers.joined(name) {
        Some(old) if !old.is_empty() => [&old[..], b",", value].concat(),
        _ => value.to_vec(),
    };
    headers.set(name, &joined);
}

/// Decides who the client is and rewrites the request's forwarding headers.
///
/// `internal_only` are the route table's own internal headers. Hop-by-hop headers and `x-request-id` are the caller's.
pub fn mutate_request<H: HeaderEdit>(
    hcm: &Hcm,
    headers: &mut H,
    conn: &Connection<'_>,
    internal_only: &[HeaderName],
) -> Client {
    mutate_request_at(hcm, headers, conn, internal_only, None)
}

/// As [`mutate_request`]; `own` is this machine's address, which stands for a loopback peer in x-forwarded-for.
pub fn mutate_request_at<H: HeaderEdit>(
    hcm: &Hcm,
    headers: &mut H,
    conn: &Connection<'_>,
    internal_only: &[HeaderName],
    own: Option<IpAddr>,
) -> Client {
    let peer = conn.remote.ip().to_canonical();
    let peer = own.filter(|_| peer.is_loopback()).unwrap_or(peer).to_string();
    for name in [&b"x-envoy-internal"[..], b"keep-alive", b"proxy-connection"] {
        headers.remove(name);
    }
    let scheme: &[u8] = if conn.tls.is_some() { b"https" } else { b"http" };
    let mut remote = conn.remote;
    let mut single = false;
    let mut reject = None;
    if hcm.use_remote_address {
        single = headers.get(b"x-forwarded-for").is_none();
        if hcm.xff_num_trusted_hops > 0
            && let Some((ip, _)) = last_xff(headers, hcm.xff_num_trusted_hops - 1)
        {
            remote = SocketAddr::new(ip, 0);
        }
        if !hcm.skip_xff_append {
            append(headers, b"x-forwarded-for", peer.as_bytes());
        }
        if hcm.xff_num_trusted_hops == 0 {
            headers.set(b"x-forwarded-proto", scheme);
        }
        if hcm.append_x_forwarded_port && (hcm.xff_num_trusted_hops == 0 || headers.get(b"x-forwarded-port").is_none())
        {
            headers.set(b"x-forwarded-port", conn.local.port().to_string().as_bytes());
        }
    } else {
        let found = detect(hcm, headers, conn);
        if let Some((ip, trusted)) = found.address {
            remote = SocketAddr::new(ip, 0);
            single = trusted;
        }
        reject = found.reject;
        if found.append {
            append(headers, b"x-forwarded-for", peer.as_bytes());
        }
    }
    if headers.get(b"x-forwarded-proto").is_none_or(<[u8]>::is_empty) {
        headers.set(b"x-forwarded-proto", scheme);
    }
    if headers.scheme().is_empty() {
        // x-forwarded-proto if it is a scheme, else by encryption; the two may differ when both were sent.
        let proto = headers.get(b"x-forwarded-proto").filter(|p| matches!(*p, b"http" | b"https"));
        let proto = proto.unwrap_or(scheme).to_vec();
        headers.set(b":scheme", &proto);
    }
    let config = &hcm.internal_addresses;
    let inside = if conn.unix { config.unix_sockets } else { config.cidrs.contains(remote.ip()) };
    let internal = single && inside;
    let edge = !internal && hcm.use_remote_address;
    if internal {
        headers.set(b"x-envoy-internal", b"true");
    } else {
        if edge {
            for name in EDGE_ONLY {
                headers.remove(name);
            }
            headers.set(b"x-envoy-external-address", remote.ip().to_canonical().to_string().as_bytes());
        }
        for name in INTERNAL_ONLY {
            headers.remove(name);
        }
        for name in internal_only {
            headers.remove(name.as_str().as_bytes());
        }
    }
    if let Some(via) = &hcm.via {
        append(headers, b"via", via.as_bytes());
    }
    client_cert(&hcm.xfcc, headers, conn.tls);
    Client { remote, internal, edge, reject }
}

#[derive(Default)]
struct Found {
    address: Option<(IpAddr, bool)>,
    reject: Option<u16>,
    append: bool,
}

fn detect<H: HeaderView + ?Sized>(hcm: &Hcm, headers: &H, conn: &Connection<'_>) -> Found {
    if hcm.original_ip_detection.is_empty() {
        return Found { address: last_xff(headers, hcm.xff_num_trusted_hops), ..Found::default() };
    }
    let mut out = Found::default();
    for d in &hcm.original_ip_detection {
        match d {
            IpDetection::CustomHeader { name, allow_trusted, reject_status } => {
                let ip = headers
                    .get(name.as_str().as_bytes())
                    .and_then(|v| std::str::from_utf8(v).ok())
                    .and_then(|t| parse_ip(t.trim()));
                match ip {
                    Some(ip) => out.address = Some((ip, *allow_trusted)),
                    None => out.reject = *reject_status,
                }
            }
            IpDetection::Xff { num_trusted_hops, trusted_cidrs: None, skip_xff_append } => {
                out.append |= !skip_xff_append;
                out.address = last_xff(headers, *num_trusted_hops);
            }
            IpDetection::Xff { trusted_cidrs: Some(trusted), skip_xff_append, .. } => {
                out.append |= !skip_xff_append;
                if !trusted.contains(conn.remote.ip()) {
                    continue;
                }
                let joined = headers.joined(b"x-forwarded-for");
                let text = joined.as_deref().and_then(|v| std::str::from_utf8(v).ok()).unwrap_or_default();
                // From the right, the first address that is not trusted is the client.
                let mut last = None;
                for word in text.rsplit(',') {
                    let Some(ip) = parse_ip(word.trim()) else {
                        break;
                    };
                    last = Some(ip);
                    if !trusted.contains(ip) {
                        break;
                    }
                }
                out.address = last.map(|ip| (ip, false));
            }
        }
        if out.address.is_some() || out.reject.is_some() {
            break;
        }
    }
    out
}

/// Treats `x-forwarded-client-cert`.
pub fn client_cert<H: HeaderEdit>(config: &ForwardClientCert, headers: &mut H, tls: Option<&TlsFacts<'_>>) {
    const XFCC: &[u8] = b"x-forwarded-client-cert";
    if config.mode == XfccMode::AlwaysForwardOnly {
        return;
    }
    let Some(tls) = tls.filter(|t| t.peer_presented && config.mode != XfccMode::Sanitize) else {
        headers.remove(XFCC);
        return;
    };
    if config.mode == XfccMode::ForwardOnly {
        return;
    }
    let mut parts: Vec<String> = tls.local_uri_sans.iter().map(|u| format!("By={u}")).collect();
    if !tls.peer_fingerprint_256.is_empty() {
        parts.push(format!("Hash={}", tls.peer_fingerprint_256));
    }
    if config.cert && !tls.peer_cert_pem.is_empty() {
        parts.push(format!("Cert=\"{}\"", tls.peer_cert_pem));
    }
    if config.chain && !tls.peer_cert_pem.is_empty() {
        parts.push(format!("Chain=\"{}\"", tls.peer_cert_pem));
    }
    if config.subject {
        parts.push(format!("Subject=\"{}\"", tls.peer_subject));
    }
    if config.uri {
        match tls.peer_uri_sans {
            [] => parts.push("URI=".to_owned()),
            sans => parts.extend(sans.iter().map(|u| format!("URI={u}"))),
        }
    }
    if config.dns {
        parts.extend(tls.peer_dns_sans.iter().map(|d| format!("DNS={d}")));
    }
    let value = parts.join(";");
    if config.mode == XfccMode::AppendForward {
        append(headers, XFCC, value.as_bytes());
    } else {
        headers.set(XFCC, value.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header_view::HeaderList;

    #[test]
    fn xff_places() {
        let h = HeaderList::of(&[("x-forwarded-for", "1.1.1.1, 2.2.2.2"), ("x-forwarded-for", "3.3.3.3")]);
        let ip = |s: &str| s.parse::<IpAddr>().unwrap();
        assert_eq!(last_xff(&h, 0), Some((ip("3.3.3.3"), false)));
        assert_eq!(last_xff(&h, 2), Some((ip("1.1.1.1"), false)));
        assert_eq!(last_xff(&h, 3), None);
        assert_eq!(last_xff(&HeaderList::of(&[("x-forwarded-for", "::1")]), 0), Some((ip("::1"), true)));
        assert_eq!(last_xff(&HeaderList::of(&[("x-forwarded-for", "junk")]), 0), None);
    }

    #[test]
    fn client_certificates() {
        let sans = vec!["spiffe://td/ns/a/sa/b".to_owned()];
        let local = vec!["spiffe://td/ns/c/sa/d".to_owned()];
        let tls = TlsFacts {
            peer_presented: true,
            peer_uri_sans: &sans,
            local_uri_sans: &local,
            peer_fingerprint_256: "ab",
            ..Default::default()
        };
        let check = |mode, tls: Option<&TlsFacts<'_>>, expect: Option<&str>| {
            let config = ForwardClientCert { mode, subject: true, uri: true, ..Default::default() };
            let mut h = HeaderList::of(&[("x-forwarded-client-cert", "old")]);
            client_cert(&config, &mut h, tls);
            let got = h.get(b"x-forwarded-client-cert").map(|v| String::from_utf8_lossy(v).into_owned());
            assert_eq!(got.as_deref(), expect, "{mode:?}");
        };
        let made = "By=spiffe://td/ns/c/sa/d;Hash=ab;Subject=\"\";URI=spiffe://td/ns/a/sa/b";
        check(XfccMode::Sanitize, Some(&tls), None);
        check(XfccMode::SanitizeSet, Some(&tls), Some(made));
        check(XfccMode::AppendForward, Some(&tls), Some(&format!("old,{made}")));
        check(XfccMode::ForwardOnly, Some(&tls), Some("old"));
        check(XfccMode::AppendForward, None, None);
        check(XfccMode::AlwaysForwardOnly, None, Some("old"));
    }
}
