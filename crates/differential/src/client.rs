//! What came back? Sends exact bytes, reads one response.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Longest wait for a response: beyond any timeout that the generator sets.
const PATIENCE: Duration = Duration::from_secs(10);

/// A response, or how there was none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A whole response.
    Response {
        /// Status code.
        status: u16,
        /// Headers in order, names as sent.
        headers: Vec<(String, String)>,
        /// Body without its transfer coding.
        body: Vec<u8>,
    },
    /// The connection closed without a whole response.
    Closed,
}

/// Sends `request` on a new connection and reads the reply. `head` says that the reply to it has no body.
pub fn exchange(port: u16, request: &[u8], head: bool) -> std::io::Result<Reply> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    // A proxy may answer and close before it has read all: what it answered still counts.
    let _ = stream.write_all(request);
    let mut bytes = Vec::new();
    let mut chunk = [0; 16 * 1024];
    loop {
        match parse(&bytes, head, false) {
            Some(reply) => return Ok(reply),
            None => match stream.read(&mut chunk) {
                Ok(0) => return Ok(parse(&bytes, head, true).unwrap_or(Reply::Closed)),
                Ok(n) => bytes.extend_from_slice(&chunk[..n]),
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => {
                    return Ok(Reply::Closed);
                }
                Err(e) => return Err(e),
            },
        }
    }
}

fn parse(bytes: &[u8], head: bool, closed: bool) -> Option<Reply> {
    let mut storage = [httparse::EMPTY_HEADER; 128];
    let mut response = httparse::Response::new(&mut storage);
    let Ok(httparse::Status::Complete(at)) = response.parse(bytes) else {
        return None;
    };
    let status = response.code?;
    let headers: Vec<(String, String)> = response
        .headers
        .iter()
        .map(|h| {
            (
                h.name.to_owned(),
                String::from_utf8_lossy(h.value).into_owned(),
            )
        })
        .collect();
    let rest = &bytes[at..];
    if (100..200).contains(&status) && status != 101 {
        return parse(rest, head, closed);
    }
    let get = |name: &str| {
        headers
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.as_str())
    };
    let body = if head || matches!(status, 101 | 204 | 304) {
        Vec::new()
    } else if get("transfer-encoding").is_some() {
        dechunk(rest)?
    } else if let Some(length) = get("content-length") {
        rest.get(..length.parse().ok()?)?.to_vec()
    } else if closed {
        rest.to_vec()
    } else {
        return None;
    };
    Some(Reply::Response {
        status,
        headers,
        body,
    })
}

fn dechunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|w| w == b"\r\n")?;
        let size = usize::from_str_radix(
            std::str::from_utf8(&rest[..end]).ok()?.split(';').next()?,
            16,
        )
        .ok()?;
        rest = rest.get(end + 2..)?;
        if size == 0 {
            return (rest.starts_with(b"\r\n") || rest.windows(4).any(|w| w == b"\r\n\r\n"))
                .then_some(body);
        }
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size + 2..)?;
    }
}
