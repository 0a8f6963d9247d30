//! Is a list of header fields a message of HTTP/2, and what does it say? RFC 9113, sections 8.2 and 8.3.
//!
//! Fed field by field by the HPACK decoder, so that nothing is stored twice. A malformed list resets its stream; the block
//! is decoded to its end all the same, for the table's sake.

use http1::{HeaderBlock, HeaderId};

/// What an entry counts beside its bytes (SETTINGS_MAX_HEADER_LIST_SIZE).
const FIELD_OVERHEAD: usize = 32;

/// What the fields should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A request's head.
    Request,
    /// A response's head.
    Response,
    /// What follows a body.
    Trailers,
}

/// What is wrong with a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bad {
    /// Not a message.
    Malformed,
    /// Above the limit.
    TooLarge,
}

/// A list being read into a block.
pub struct Fields<'a> {
    block: &'a mut HeaderBlock,
    kind: Kind,
    room: usize,
    bad: Option<Bad>,
    regular: bool,
    host: bool,
    length: Option<u64>,
}

impl<'a> Fields<'a> {
    /// Reads into `block`, which is cleared; at most `limit` bytes.
    pub fn new(block: &'a mut HeaderBlock, kind: Kind, limit: usize) -> Self {
        block.clear();
        Fields { block, kind, room: limit, bad: None, regular: false, host: false, length: None }
    }

    /// Takes the next field.
    pub fn push(&mut self, id: HeaderId, name: &[u8], value: &[u8]) {
        if self.bad.is_some() {
            return;
        }
        let size = name.len() + value.len() + FIELD_OVERHEAD;
        match self.room.checked_sub(size) {
            Some(room) => self.room = room,
            None => return self.bad = Some(Bad::TooLarge),
        }
        if !self.fits(id, name, value) {
            self.bad = Some(Bad::Malformed);
        }
    }

    fn fits(&mut self, id: HeaderId, name: &[u8], value: &[u8]) -> bool {
        if !value.iter().all(|b| matches!(b, b'\t' | b' '..=b'~' | 0x80..)) {
            return false;
        }
        if name.first() == Some(&b':') {
            let expected = match id {
                HeaderId::METHOD | HeaderId::SCHEME | HeaderId::PATH | HeaderId::AUTHORITY | HeaderId::PROTOCOL => {
                    self.kind == Kind::Request && value.iter().all(|b| !matches!(b, b'\t' | b' '))
                }
                HeaderId::STATUS => self.kind == Kind::Response,
                _ => false,
            };
            if !expected || self.regular || self.block.has(id) {
                return false;
            }
            self.block.add_as(id, name, value);
            return true;
        }
        self.regular = true;
        match id {
            HeaderId::CONNECTION
            | HeaderId::KEEP_ALIVE
            | HeaderId::PROXY_CONNECTION
            | HeaderId::TRANSFER_ENCODING
            | HeaderId::UPGRADE => return false,
            HeaderId::TE if value != b"trailers" => return false,
            HeaderId::HOST if self.kind == Kind::Request => {
                // Requests know `host` as `:authority`, which wins.
                if !self.block.has(HeaderId::AUTHORITY) {
                    self.block.add_id(HeaderId::AUTHORITY, value);
                } else if std::mem::replace(&mut self.host, true) {
                    return false;
                }
                return true;
            }
            // RFC 9113, 8.2.3: cookie crumbs are joined.
            HeaderId::COOKIE if self.kind == Kind::Request => {
                self.block.append_id(HeaderId::COOKIE, b"; ", value);
                return true;
            }
            HeaderId::CONTENT_LENGTH if self.kind != Kind::Trailers => {
                let text = std::str::from_utf8(value).ok().filter(|t| t.bytes().all(|b| b.is_ascii_digit()));
                let Some(n) = text.and_then(|t| t.parse().ok()) else { return false };
                match self.length.replace(n) {
                    Some(before) if before != n => return false,
                    Some(_) => return true,
                    None => {}
                }
            }
            HeaderId::OTHER if name.is_empty() || !name.iter().all(|b| TOKEN[usize::from(*b)]) => return false,
            _ => {}
        }
        self.block.add_received(id, name, value, self.kind == Kind::Request);
        true
    }

    /// The list is complete. Yields the declared length of the body.
    pub fn finish(self) -> Result<Option<u64>, Bad> {
        if let Some(bad) = self.bad {
            return Err(bad);
        }
        let block = &*self.block;
        let complete = match self.kind {
            Kind::Trailers => true,
            Kind::Response => block.status().is_some(),
            Kind::Request => {
                let extended = block.has(HeaderId::PROTOCOL);
                let (scheme, path) = (block.has(HeaderId::SCHEME), block.has(HeaderId::PATH));
                match block.get_id(HeaderId::METHOD) {
                    None | Some(b"") => false,
                    Some(b"CONNECT") if !extended => !scheme && !path && block.has(HeaderId::AUTHORITY),
                    Some(method) => scheme && !block.path().is_empty() && (!extended || method == b"CONNECT"),
                }
            }
        };
        if complete { Ok(self.length) } else { Err(Bad::Malformed) }
    }
}

/// Bytes of a lower-case field name.
static TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let text = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz";
    let mut i = 0;
    while i < text.len() {
        table[text[i] as usize] = true;
        i += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: Kind, list: &[(&str, &str)], expect: Result<Option<u64>, Bad>) {
        let mut block = HeaderBlock::new();
        let mut fields = Fields::new(&mut block, kind, 1000);
        for (n, v) in list {
            fields.push(HeaderId::of(n.as_bytes()), n.as_bytes(), v.as_bytes());
        }
        assert_eq!(fields.finish(), expect, "{list:?}");
    }

    #[test]
    fn requests() {
        const GET: [(&str, &str); 3] = [(":method", "GET"), (":scheme", "http"), (":path", "/")];
        let bad = Err(Bad::Malformed);
        let with = |more: &[(&'static str, &'static str)]| [&GET[..], more].concat();
        check(Kind::Request, &GET, Ok(None));
        check(Kind::Request, &with(&[("content-length", "5")]), Ok(Some(5)));
        check(Kind::Request, &with(&[("content-length", "5"), ("content-length", "5")]), Ok(Some(5)));
        check(Kind::Request, &with(&[("te", "trailers"), ("x", "y")]), Ok(None));
        for more in [
            ("Upper", "x"),
            ("te", "gzip"),
            ("connection", "close"),
            ("upgrade", "x"),
            (":status", "200"),
            (":path", "/"),
            (":other", "x"),
            ("x", "a\rb"),
            ("", "x"),
            ("a b", "x"),
            ("content-length", "-1"),
            ("content-length", "+1"),
        ] {
            check(Kind::Request, &with(&[more]), bad);
        }
        check(Kind::Request, &with(&[("x", "y"), (":authority", "late")]), bad);
        check(Kind::Request, &with(&[("content-length", "5"), ("content-length", "6")]), bad);
        check(Kind::Request, &GET[..2], bad);
        check(Kind::Request, &[(":method", "GET"), (":scheme", "http"), (":path", "")], bad);
        check(Kind::Request, &[(":method", "CONNECT"), (":authority", "a:1")], Ok(None));
        check(Kind::Request, &[(":method", "CONNECT"), (":authority", "a:1"), (":path", "/")], bad);
        check(Kind::Request, &with(&[(":protocol", "websocket")]), bad);
        let big = "x".repeat(1000);
        check(Kind::Request, &[GET[0], GET[1], GET[2], ("big", &big)], Err(Bad::TooLarge));
    }

    #[test]
    fn responses_and_trailers() {
        check(Kind::Response, &[(":status", "200"), ("x", "y")], Ok(None));
        check(Kind::Response, &[("x", "y")], Err(Bad::Malformed));
        check(Kind::Response, &[(":status", "20")], Err(Bad::Malformed));
        check(Kind::Trailers, &[("x", "y")], Ok(None));
        check(Kind::Trailers, &[(":status", "200")], Err(Bad::Malformed));
    }

    #[test]
    fn host_and_cookies() {
        let mut block = HeaderBlock::new();
        let mut fields = Fields::new(&mut block, Kind::Request, 1000);
        for (n, v) in [
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/"),
            ("host", "h"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
        ] {
            fields.push(HeaderId::of(n.as_bytes()), n.as_bytes(), v.as_bytes());
        }
        assert_eq!(fields.finish(), Ok(None));
        assert_eq!((block.authority(), block.get(b"cookie")), (&b"h"[..], Some(&b"a=1; b=2"[..])));
    }
}
