//! How are admin pages read? One HTTP/1.1 request over a connection into a pod.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::context::{Failure, Global};

/// How long an admin page may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Sends one request to a pod's port and returns the body of a 200 answer.
pub(crate) fn fetch(context: &Global, pod: &str, port: u16, method: &str, path: &str) -> Result<Vec<u8>, Failure> {
    let stream = context.dial(pod, port)?;
    let (status, body) = request(stream, method, path).map_err(Failure::io(&format!("{pod} port {port}")))?;
    if status == 200 {
        return Ok(body);
    }
    let text = String::from_utf8_lossy(&body);
    Err(Failure::Said(format!("{pod} port {port} answers {method} {path} with {status}: {}", text.trim())))
}

fn request(mut stream: TcpStream, method: &str, path: &str) -> std::io::Result<(u16, Vec<u8>)> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    parse(&answer).ok_or_else(|| std::io::Error::new(std::io::ErrorKind::InvalidData, "no HTTP answer"))
}

fn parse(answer: &[u8]) -> Option<(u16, Vec<u8>)> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let chunked = lines.any(|line| {
        let line = line.to_ascii_lowercase();
        line.starts_with("transfer-encoding:") && line.contains("chunked")
    });
    let body = &answer[end + 4..];
    Some((status, if chunked { dechunk(body)? } else { body.to_vec() }))
}

fn dechunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n")?;
        let size = std::str::from_utf8(&rest[..end]).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        rest = &rest[end + 2..];
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nxy"), Some((200, b"xy".to_vec())));
        let chunked = b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x\r\nc\r\n0\r\n\r\n";
        assert_eq!(parse(chunked), Some((404, b"abc".to_vec())));
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"), None);
        assert_eq!(parse(b"nonsense"), None);
    }
}
