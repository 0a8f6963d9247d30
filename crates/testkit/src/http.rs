//! What came back? Sends exact bytes over one connection and reads whole responses.

use std::io::{ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest wait for a byte: beyond any timeout that a test configures.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Most header fields of a response.
const HEADERS_MAX: usize = 128;

/// A response, or how there was none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A whole response.
    Response(Response),
    /// The connection closed without a whole response.
    Closed,
}

/// A whole response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Headers in order, names as sent.
    pub headers: Vec<(String, String)>,
    /// Body without its transfer coding.
    pub body: Vec<u8>,
}

impl Response {
    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A connection that carries one exchange after the other.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects.
    pub fn open(to: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// Sends `request` and reads the reply. `head` says that the reply to it has no body.
    pub fn exchange(&mut self, request: &[u8], head: bool) -> Result<Reply> {
        // A peer may answer and close before it has read all: what it answered still counts.
        let _ = self.stream.write_all(request);
        let mut chunk = [0; 16 * 1024];
        loop {
            if let Some(reply) = self.take(head, false) {
                return Ok(Reply::Response(reply));
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => return Ok(self.take(head, true).map_or(Reply::Closed, Reply::Response)),
                Ok(n) => self.buffer.extend_from_slice(&chunk[..n]),
                Err(e) if e.kind() == ErrorKind::ConnectionReset => return Ok(Reply::Closed),
                Err(e) => return Err(e),
            }
        }
    }

    /// A whole response at the front of the buffer, removed from it. Interim responses are passed over.
    fn take(&mut self, head: bool, closed: bool) -> Option<Response> {
        loop {
            let (response, used) = parse(&self.buffer, head, closed)?;
            self.buffer.drain(..used);
            if !(100..200).contains(&response.status) || response.status == 101 {
                return Some(response);
            }
        }
    }
}

/// Sends `request` on a connection of its own.
pub fn exchange(to: SocketAddr, request: &[u8], head: bool) -> Result<Reply> {
    Connection::open(to)?.exchange(request, head)
}

/// GETs `path` with further `headers` (`name: value` each) on a connection of its own.
pub fn get(to: SocketAddr, path: &str, headers: &[&str]) -> Result<Response> {
    let mut request = format!("GET {path} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\n");
    for header in headers {
        // A header of the caller's takes the place of ours.
        if header.to_ascii_lowercase().starts_with("host:") {
            request = request.replace(&format!("host: {to}\r\n"), "");
        }
        request.push_str(header);
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    match exchange(to, request.as_bytes(), false)? {
        Reply::Response(response) => Ok(response),
        Reply::Closed => Err(ErrorKind::ConnectionReset.into()),
    }
}

/// The response at the front of `bytes`, if it is whole, and its length. `closed`: nothing follows.
pub fn parse(bytes: &[u8], head: bool, closed: bool) -> Option<(Response, usize)> {
    let mut storage = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Response::new(&mut storage);
    let Ok(httparse::Status::Complete(at)) = parsed.parse(bytes) else {
        return None;
    };
    let headers =
        parsed.headers.iter().map(|h| (h.name.to_owned(), String::from_utf8_lossy(h.value).into_owned())).collect();
    let mut response = Response { status: parsed.code?, headers, body: Vec::new() };
    let rest = &bytes[at..];
    let bodiless = head || matches!(response.status, 100..=199 | 204 | 304);
    let used = if bodiless {
        0
    } else if response.header("transfer-encoding").is_some() {
        let (body, used) = dechunk(rest)?;
        response.body = body;
        used
    } else if let Some(length) = response.header("content-length") {
        let length: usize = length.parse().ok()?;
        response.body = rest.get(..length)?.to_vec();
        length
    } else if closed {
        response.body = rest.to_vec();
        rest.len()
    } else {
        return None;
    };
    Some((response, at + used))
}

fn dechunk(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut body, mut at) = (Vec::new(), 0);
    let line = |at: usize| Some(at + bytes.get(at..)?.windows(2).position(|w| w == b"\r\n")?);
    loop {
        let end = line(at)?;
        let size = std::str::from_utf8(&bytes[at..end]).ok()?.split(';').next()?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        at = end + 2;
        if size == 0 {
            break;
        }
        body.extend_from_slice(bytes.get(at..at + size)?);
        at += size + 2;
    }
    loop {
        let end = line(at)?;
        let empty = end == at;
        at = end + 2;
        if empty {
            return Some((body, at));
        }
    }
}
