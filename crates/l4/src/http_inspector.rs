//! Does a connection begin with HTTP? Envoy's HTTP inspector on peeked bytes.
//!
//! Called by the listener filter as bytes arrive. Pure. Only the first line is looked at.

/// Bytes after which a first line without end is given up.
pub const BYTES_MAX: usize = 8 * 1024;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Methods that Envoy's parser knows.
const METHODS: [&str; 33] = [
    "GET",
    "POST",
    "PUT",
    "HEAD",
    "DELETE",
    "OPTIONS",
    "PATCH",
    "CONNECT",
    "TRACE",
    "COPY",
    "LOCK",
    "MKCOL",
    "MOVE",
    "PROPFIND",
    "PROPPATCH",
    "SEARCH",
    "UNLOCK",
    "BIND",
    "REBIND",
    "UNBIND",
    "ACL",
    "REPORT",
    "MKACTIVITY",
    "CHECKOUT",
    "MERGE",
    "M-SEARCH",
    "NOTIFY",
    "SUBSCRIBE",
    "UNSUBSCRIBE",
    "PURGE",
    "MKCALENDAR",
    "LINK",
    "UNLINK",
];

/// Outcome of looking at the bytes so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inspected {
    /// May become HTTP.
    More,
    /// Something else.
    NotHttp,
    /// HTTP/1.0 request.
    Http10,
    /// HTTP/1.1 request.
    Http11,
    /// HTTP/2 with prior knowledge.
    Http2,
}

impl Inspected {
    /// The application protocol that filter chains match on.
    pub fn protocol(self) -> Option<&'static [u8]> {
        match self {
            Inspected::Http10 => Some(b"http/1.0"),
            Inspected::Http11 => Some(b"http/1.1"),
            Inspected::Http2 => Some(b"h2c"),
            Inspected::More | Inspected::NotHttp => None,
        }
    }
}

/// Looks for the start of HTTP.
pub fn inspect(bytes: &[u8]) -> Inspected {
    let n = bytes.len().min(PREFACE.len());
    if bytes[..n] == PREFACE[..n] {
        return if n == PREFACE.len() { Inspected::Http2 } else { Inspected::More };
    }
    let line_end = bytes.iter().position(|b| matches!(b, b'\r' | b'\n'));
    let line = &bytes[..line_end.unwrap_or(bytes.len())];
    let method_end = line.iter().position(|b| *b == b' ');
    let method = &line[..method_end.unwrap_or(line.len())];
    let plausible = METHODS.iter().any(|m| match method_end {
        Some(_) => m.as_bytes() == method,
        None => m.as_bytes().starts_with(method),
    });
    if !plausible || line.iter().any(|b| *b < 0x20 || *b == 0x7f) {
        return Inspected::NotHttp;
    }
    if line_end.is_none() {
        return if bytes.len() >= BYTES_MAX { Inspected::NotHttp } else { Inspected::More };
    }
    let mut words = line.split(|b| *b == b' ');
    let (_, target, version, rest) = (words.next(), words.next(), words.next(), words.next());
    match (target, version, rest) {
        (Some(t), Some(b"HTTP/1.1"), None) if !t.is_empty() => Inspected::Http11,
        (Some(t), Some(b"HTTP/1.0"), None) if !t.is_empty() => Inspected::Http10,
        _ => Inspected::NotHttp,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn first_lines() {
        use Inspected::*;
        for (text, expect) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n", Http11),
            ("GET /a?b HTTP/1.0\n", Http10),
            ("M-SEARCH * HTTP/1.1\r\n", Http11),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Http2),
            ("PRI * HTTP/2.0\r\n\r\nSM", More),
            ("P", More),
            ("GE", More),
            ("GET /very/long", More),
            ("", More),
            ("GETX / HTTP/1.1\r\n", NotHttp),
            ("get / HTTP/1.1\r\n", NotHttp),
            ("GET /\r\n", NotHttp),
            ("GET / HTTP/2.0\r\n", NotHttp),
            ("GET  HTTP/1.1\r\n", NotHttp),
            ("\r\nGET / HTTP/1.1\r\n", NotHttp),
            ("\x16\x03\x01", NotHttp),
            ("SSH-2.0-OpenSSH\r\n", NotHttp),
        ] {
            assert_eq!(inspect(text.as_bytes()), expect, "{text:?}");
        }
        assert_eq!(inspect(format!("GET /{}", "x".repeat(BYTES_MAX)).as_bytes()), NotHttp);
    }

    proptest! {
        #[test]
        fn a_verdict_stands(bytes in "[ -~\r\n]{0,60}", more in "[ -~\r\n]{0,20}") {
            let verdict = inspect(bytes.as_bytes());
            if verdict != Inspected::More {
                prop_assert_eq!(inspect(format!("{bytes}{more}").as_bytes()), verdict);
            }
        }
    }
}
