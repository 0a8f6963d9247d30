//! What does a PROXY protocol header say? Versions 1 (text) and 2 (binary), from peeked bytes.
//!
//! Called by the listener filter, possibly several times as more bytes arrive. Pure.
//! Follows the HAProxy specification and Envoy's `envoy.filters.listener.proxy_protocol`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest version 1 header, including CR LF.
pub const V1_BYTES_MAX: usize = 108;
/// Longest version 2 header that is accepted, addresses and TLVs included.
pub const V2_BYTES_MAX: usize = 16 + 4096;
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// 1 or 2.
    pub version: u8,
    /// Bytes to remove from the connection.
    pub len: usize,
    /// Source and destination; `None` for LOCAL and UNKNOWN: the socket's own are kept.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// Type-length-values of version 2.
    pub tlvs: Vec<(u8, Vec<u8>)>,
}

/// Outcome of looking at the bytes so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// May become a header.
    More,
    /// The connection does not begin with a header.
    Absent,
    /// It begins like one and is broken.
    Invalid(&'static str),
    /// A complete header.
    Header(Header),
}

/// Looks for a header at the start of `bytes`.
pub fn parse(bytes: &[u8]) -> Parsed {
    let prefix = |signature: &[u8]| {
        let n = bytes.len().min(signature.len());
        bytes[..n] == signature[..n]
    };
    if prefix(V2_SIGNATURE) {
        return if bytes.len() < 16 { Parsed::More } else { v2(bytes) };
    }
    if !prefix(b"PROXY ") {
        return Parsed::Absent;
    }
    let window = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    match window.windows(2).position(|w| w == b"\r\n") {
        Some(end) => v1(&bytes[..end], end + 2),
        None if bytes.len() >= V1_BYTES_MAX => Parsed::Invalid("version 1 header is not terminated"),
        None => Parsed::More,
    }
}

fn v1(line: &[u8], len: usize) -> Parsed {
    let header = |addresses| Parsed::Header(Header { version: 1, len, addresses, tlvs: Vec::new() });
    let Ok(line) = std::str::from_utf8(line) else {
        return Parsed::Invalid("version 1 header is not text");
    };
    let words: Vec<&str> = line.split(' ').collect();
    match words.as_slice() {
        ["PROXY", "UNKNOWN", ..] => header(None),
        ["PROXY", family @ ("TCP4" | "TCP6"), source, destination, source_port, destination_port] => {
            let address = |ip: &str, port: &str| -> Option<SocketAddr> {
                let ip: IpAddr = ip.parse().ok()?;
                let decimal = port.bytes().all(|b| b.is_ascii_digit());
                (ip.is_ipv4() == (*family == "TCP4") && decimal).then_some(())?;
                Some(SocketAddr::new(ip, port.parse().ok()?))
            };
            match (address(source, source_port), address(destination, destination_port)) {
                (Some(s), Some(d)) => header(Some((s, d))),
                _ => Parsed::Invalid("version 1 header has a bad address"),
            }
        }
        _ => Parsed::Invalid("version 1 header is malformed"),
    }
}

fn v2(bytes: &[u8]) -> Parsed {
    let (version_command, family) = (bytes[12], bytes[13]);
    let body_len = usize::from(bytes[14]) << 8 | usize::from(bytes[15]);
    let len = 16 + body_len;
    if version_command >> 4 != 2 {
        return Parsed::Invalid("version 2 header has another version");
    }
    if len > V2_BYTES_MAX {
        return Parsed::Invalid("version 2 header is too long");
    }
    let Some(body) = bytes.get(16..len) else {
        return Parsed::More;
    };
    let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    let v4 = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&body[at..at + 4]).map(Ipv4Addr::from).expect("four bytes"));
    let v6 =
        |at: usize| IpAddr::from(<[u8; 16]>::try_from(&body[at..at + 16]).map(Ipv6Addr::from).expect("sixteen bytes"));
    let (addresses, tlvs_at) = match (version_command & 0xf, family) {
        // LOCAL: the sender's own connection, whatever the family says.
        (0, _) => {
            return Parsed::Header(Header { version: 2, len, addresses: None, tlvs: Vec::new() });
        }
        // Datagrams over a stream: Envoy takes their addresses too.
        (1, 0x11 | 0x12) if body_len >= 12 => {
            (Some((SocketAddr::new(v4(0), port(8)), SocketAddr::new(v4(4), port(10)))), 12)
        }
        (1, 0x21 | 0x22) if body_len >= 36 => {
            (Some((SocketAddr::new(v6(0), port(32)), SocketAddr::new(v6(16), port(34)))), 36)
        }
        (1, 0x11 | 0x12 | 0x21 | 0x22) => {
            return Parsed::Invalid("version 2 header is too short for its addresses");
        }
        (1, _) => return Parsed::Invalid("version 2 header has an unsupported address family"),
        _ => return Parsed::Invalid("version 2 header has an unknown command"),
    };
    let mut tlvs = Vec::new();
    let mut rest = &body[tlvs_at..];
    while !rest.is_empty() {
        let [kind, hi, lo, tail @ ..] = rest else {
            return Parsed::Invalid("version 2 TLV is cut off");
        };
        let n = usize::from(*hi) << 8 | usize::from(*lo);
        let Some((value, next)) = tail.split_at_checked(n) else {
            return Parsed::Invalid("version 2 TLV is cut off");
        };
        tlvs.push((*kind, value.to_vec()));
        rest = next;
    }
    Parsed::Header(Header { version: 2, len, addresses, tlvs })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ok(version: u8, len: usize, pair: Option<(&str, &str)>, tlvs: &[(u8, &[u8])]) -> Parsed {
        let addresses = pair.map(|(s, d)| (s.parse().unwrap(), d.parse().unwrap()));
        let tlvs = tlvs.iter().map(|(k, v)| (*k, v.to_vec())).collect();
        Parsed::Header(Header { version, len, addresses, tlvs })
    }

    #[test]
    fn version_1() {
        let check = |text: &str, expect: Parsed| assert_eq!(parse(text.as_bytes()), expect, "{text:?}");
        check("PROXY TCP4 1.2.3.4 5.6.7.8 10 20\r\nGET", ok(1, 34, Some(("1.2.3.4:10", "5.6.7.8:20")), &[]));
        check("PROXY TCP6 ::1 ::2 1 2\r\n", ok(1, 24, Some(("[::1]:1", "[::2]:2")), &[]));
        check("PROXY UNKNOWN\r\n", ok(1, 15, None, &[]));
        check("PROXY UNKNOWN ff:: x 1 2\r\n", ok(1, 26, None, &[]));
        check("PRO", Parsed::More);
        check("PROXY TCP4 1.2.3.4", Parsed::More);
        check("GET / HTTP/1.1\r\n", Parsed::Absent);
        check("PROXY TCP4 ::1 ::2 1 2\r\n", Parsed::Invalid("version 1 header has a bad address"));
        check("PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n", Parsed::Invalid("version 1 header has a bad address"));
        check("PROXY TCP4 1.2.3.4 5.6.7.8 1 99999\r\n", Parsed::Invalid("version 1 header has a bad address"));
        check("PROXY TCP4\r\n", Parsed::Invalid("version 1 header is malformed"));
        check(&format!("PROXY {}", "x".repeat(200)), Parsed::Invalid("version 1 header is not terminated"));
    }

    fn v2_bytes(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut b = V2_SIGNATURE.to_vec();
        b.extend([0x20 | command, family, (body.len() >> 8) as u8, body.len() as u8]);
        b.extend_from_slice(body);
        b
    }

    #[test]
    fn version_2() {
        let v4 = [1, 2, 3, 4, 5, 6, 7, 8, 0, 10, 0, 20];
        let with_tlv = [&v4[..], &[0xea, 0, 2, b'h', b'i']].concat();
        let pair = Some(("1.2.3.4:10", "5.6.7.8:20"));
        for (bytes, expect) in [
            (v2_bytes(1, 0x11, &v4), ok(2, 28, pair, &[])),
            (v2_bytes(1, 0x11, &with_tlv), ok(2, 33, pair, &[(0xea, b"hi")])),
            (v2_bytes(0, 0, &[]), ok(2, 16, None, &[])),
            (v2_bytes(1, 0x11, &v4[..8]), Parsed::Invalid("version 2 header is too short for its addresses")),
            (v2_bytes(1, 0x31, &[0; 216]), Parsed::Invalid("version 2 header has an unsupported address family")),
            (v2_bytes(1, 0x11, &with_tlv[..15]), Parsed::Invalid("version 2 TLV is cut off")),
            (v2_bytes(1, 0x11, &v4)[..20].to_vec(), Parsed::More),
            (V2_SIGNATURE[..5].to_vec(), Parsed::More),
        ] {
            assert_eq!(parse(&bytes), expect, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_never_overruns(bytes in proptest::collection::vec(any::<u8>(), 0..300), how in 0..3u8) {
            let bytes = match how {
                0 => bytes,
                1 => [&b"PROXY "[..], &bytes].concat(),
                _ => [&V2_SIGNATURE[..], &[0x21], &bytes].concat(),
            };
            if let Parsed::Header(h) = parse(&bytes) {
                prop_assert!(h.len <= bytes.len());
            }
        }
    }
}
