//! What does a client want, judging from its first bytes? A ClientHello parser that consumes nothing.
//!
//! Called by `l4`'s TLS inspector on peeked bytes, possibly several times as more arrive.
//! Pure. Deliberately absent: certificates, key shares, JA3/JA4.

/// The most bytes of a ClientHello that are looked at (Envoy's `max_client_hello_size` default).
pub const CLIENT_HELLO_BYTES_MAX: usize = 16 * 1024;

/// What a ClientHello says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// `server_name`, lower-cased.
    pub sni: Option<Box<str>>,
    /// Offered application protocols in order.
    pub alpn: Vec<Box<[u8]>>,
}

/// Outcome of looking at the bytes so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peek {
    /// Could be TLS; more bytes are needed.
    More,
    /// Not TLS, or no ClientHello that we understand.
    NotTls,
    /// A complete ClientHello.
    Tls(ClientHello),
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    fn u8(&mut self) -> Option<usize> {
        self.take(1).map(|b| usize::from(b[0]))
    }

    fn u16(&mut self) -> Option<usize> {
        self.take(2).map(|b| usize::from(b[0]) << 8 | usize::from(b[1]))
    }

    fn vec8(&mut self) -> Option<Reader<'a>> {
        let n = self.u8()?;
        self.take(n).map(Reader)
    }

    fn vec16(&mut self) -> Option<Reader<'a>> {
        let n = self.u16()?;
        self.take(n).map(Reader)
    }
}

/// Looks for a ClientHello at the start of `bytes`, which may span several records.
pub fn peek(bytes: &[u8]) -> Peek {
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        // Judge a record by what there is of its header: handshake (22), version 3.x.
        if rest.first().is_some_and(|b| *b != 22) || rest.get(1).is_some_and(|b| *b != 3) {
            return Peek::NotTls;
        }
        if rest.get(2).is_some_and(|b| *b > 4) {
            return Peek::NotTls;
        }
        let Some(header) = rest.get(..5) else {
            return Peek::More;
        };
        let len = usize::from(header[3]) << 8 | usize::from(header[4]);
        if len == 0 || len > 16 * 1024 + 256 {
            return Peek::NotTls;
        }
        let body = &rest[5..];
        message.extend_from_slice(&body[..len.min(body.len())]);
        if message.first().is_some_and(|b| *b != 1) {
            return Peek::NotTls;
        }
        if message.len() >= 4 {
            let want = usize::from(message[1]) << 16 | usize::from(message[2]) << 8 | usize::from(message[3]);
            if want > CLIENT_HELLO_BYTES_MAX {
                return Peek::NotTls;
            }
            if let Some(hello) = message.get(4..4 + want) {
                return parse(hello).map_or(Peek::NotTls, Peek::Tls);
            }
        }
        if body.len() < len {
            return Peek::More;
        }
        rest = &body[len..];
    }
}

fn parse(hello: &[u8]) -> Option<ClientHello> {
    let mut r = Reader(hello);
    r.take(2 + 32)?; // version, random
    r.vec8()?; // session id
    r.vec16()?; // cipher suites
    r.vec8()?; // compression
    let mut out = ClientHello::default();
    if r.0.is_empty() {
        return Some(out);
    }
    let mut extensions = r.vec16()?;
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let mut body = extensions.vec16()?;
        match kind {
            0 => out.sni = server_name(body.vec16()?)?,
            16 => {
                let mut list = body.vec16()?;
                while !list.0.is_empty() {
                    let name = list.vec8()?.0;
                    if name.is_empty() {
                        return None;
                    }
                    out.alpn.push(name.into());
                }
            }
            _ => {}
        }
    }
    Some(out)
}

fn server_name(mut list: Reader<'_>) -> Option<Option<Box<str>>> {
    while !list.0.is_empty() {
        let kind = list.u8()?;
        let name = list.vec16()?.0;
        if kind == 0 {
            let text = std::str::from_utf8(name).ok().filter(|t| !t.is_empty() && !t.contains('\0'))?;
            return Some(Some(text.to_ascii_lowercase().into()));
        }
    }
    Some(None)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use rustls::RootCertStore;

    use super::*;

    /// A real client's first flight.
    fn hello(sni: &str, alpn: &[&str]) -> Vec<u8> {
        let mut config = rustls::ClientConfig::builder_with_provider(crate::default_provider().clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|a| a.as_bytes().to_vec()).collect();
        let name = rustls::pki_types::ServerName::try_from(sni.to_owned()).unwrap();
        let mut conn = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut out = Vec::new();
        conn.write_tls(&mut out).unwrap();
        out
    }

    fn expect(sni: Option<&str>, alpn: &[&str]) -> Peek {
        Peek::Tls(ClientHello { sni: sni.map(Into::into), alpn: alpn.iter().map(|a| a.as_bytes().into()).collect() })
    }

    #[test]
    fn real_hellos() {
        let istio = "outbound_.8000_._.httpbin.samples.svc.cluster.local";
        for (sni, alpn) in [("Example.COM", &["h2", "http/1.1"][..]), (istio, &["istio"]), ("a.b", &[])] {
            assert_eq!(peek(&hello(sni, alpn)), expect(Some(&sni.to_ascii_lowercase()), alpn));
        }
        assert_eq!(peek(&hello("10.0.0.1", &[])), expect(None, &[]));
    }

    #[test]
    fn every_prefix_wants_more() {
        let bytes = hello("example.com", &["h2"]);
        for n in 0..bytes.len() {
            assert_eq!(peek(&bytes[..n]), Peek::More, "{n}");
        }
    }

    #[test]
    fn split_over_records() {
        let bytes = hello("example.com", &["h2"]);
        let mut split = Vec::new();
        for part in bytes[5..].chunks(50) {
            split.extend_from_slice(&[22, 3, 1, 0, part.len() as u8]);
            split.extend_from_slice(part);
        }
        assert_eq!(peek(&split), expect(Some("example.com"), &["h2"]));
    }

    #[test]
    fn others_are_told_at_once() {
        for other in
            [&b"GET / HTTP/1.1\r\n"[..], b"\x16\x02", b"SSH-2.0", b"\x16\x03\x01\x00\x00", b"\x16\x03\x01\x00\x05\x02"]
        {
            assert_eq!(peek(other), Peek::NotTls, "{other:?}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..600), tls in any::<bool>()) {
            if tls && bytes.len() > 6 {
                bytes[..3].copy_from_slice(&[22, 3, 1]);
                bytes[5] = 1;
            }
            let _ = peek(&bytes);
        }

        #[test]
        fn mutations_never_panic(at in 0usize..200, value in any::<u8>()) {
            let mut bytes = hello("example.com", &["h2"]);
            let at = at % bytes.len();
            bytes[at] = value;
            let _ = peek(&bytes);
        }
    }
}
