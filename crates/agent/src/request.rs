//! How do `wait` and `request` ask? A plain HTTP/1 request on loopback, no more.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::args::{Request, Wait};

/// Largest answer kept in bytes (a config dump of a large mesh).
const ANSWER_BYTES_MAX: u64 = 256 << 20;

/// In front of an address that is a Unix socket.
pub const UNIX: &str = "unix:";

/// An HTTP answer.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Body.
    pub body: Vec<u8>,
}

/// Sends one request to `host:port` or `unix:PATH` and reads until the connection closes. HTTP/1.1, because Envoy's admin port
/// refuses 1.0.
pub fn http(address: &str, method: &str, path: &str, headers: &str, timeout: Duration) -> anyhow::Result<Answer> {
    if let Some(socket) = address.strip_prefix(UNIX) {
        let stream = UnixStream::connect(socket).with_context(|| format!("connecting to {socket}"))?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        return exchange(stream, "localhost", method, path, headers);
    }
    let resolved: Vec<_> = address.to_socket_addrs().with_context(|| format!("resolving {address}"))?.collect();
    let mut last = None;
    for address in resolved {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => {
                stream.set_read_timeout(Some(timeout))?;
                stream.set_write_timeout(Some(timeout))?;
                return exchange(stream, &address.to_string(), method, path, headers);
            }
            Err(error) => last = Some(error),
        }
    }
    match last {
        Some(error) => Err(error).with_context(|| format!("connecting to {address}")),
        None => bail!("{address}: no address"),
    }
}

fn exchange(
    mut stream: impl Read + Write,
    host: &str,
    method: &str,
    path: &str,
    headers: &str,
) -> anyhow::Result<Answer> {
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n{headers}Connection: close\r\n\r\n"
    )?;
    let mut bytes = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes)?;
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").context("no HTTP answer")?;
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).context("no HTTP status")?;
    let body = bytes.split_off(end + 4);
    let chunked = head.lines().any(|l| l.starts_with("transfer-encoding:") && l.contains("chunked"));
    let body = if chunked { unchunk(&body).context("broken chunked answer")? } else { body };
    Ok(Answer { status, body })
}

/// Joins the chunks of a body. `None`: cut off or malformed.
fn unchunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(rest.len());
    loop {
        let end = rest.windows(2).position(|w| w == b"\r\n")?;
        let size = std::str::from_utf8(&rest[..end]).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        rest = &rest[end + 2..];
        if size == 0 {
            return Some(out);
        }
        out.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size..)?.strip_prefix(b"\r\n")?;
    }
}

/// `request METHOD PATH`: prints the proxy's admin answer.
pub fn request(args: &Request) -> anyhow::Result<()> {
    let path = if args.path.starts_with('/') { args.path.clone() } else { format!("/{}", args.path) };
    let address = match &args.admin_socket {
        Some(socket) => format!("{UNIX}{}", socket.display()),
        None => format!("localhost:{}", args.debug_port),
    };
    let answer = http(&address, &args.method, &path, "", Duration::from_secs(60)).context("command failed")?;
    std::io::stdout().write_all(&answer.body)?;
    if answer.status != 200 {
        bail!("received unsuccessful status code {}", answer.status);
    }
    Ok(())
}

/// `wait`: returns when the URL answers 200.
pub fn wait(args: &Wait) -> anyhow::Result<()> {
    let rest = args.url.strip_prefix("http://").with_context(|| format!("{}: not an http:// URL", args.url))?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let address = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    let deadline = Instant::now() + Duration::from_secs(args.timeout_seconds);
    let timeout = Duration::from_millis(args.request_timeout_millis.max(1));
    loop {
        let reason = match http(&address, "GET", &format!("/{path}"), "", timeout) {
            Ok(answer) if answer.status == 200 => {
                println!("Envoy is ready!");
                return Ok(());
            }
            Ok(answer) => format!("HTTP status code {}", answer.status),
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() >= deadline {
            bail!("timeout waiting for Envoy proxy to become ready. Last error: {reason}");
        }
        std::thread::sleep(Duration::from_millis(args.period_millis.max(1)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_joined() {
        let check = |text: &str, expect: Option<&str>| {
            assert_eq!(unchunk(text.as_bytes()).as_deref(), expect.map(str::as_bytes), "{text:?}");
        };
        check("5\r\nhello\r\n1;x=y\r\n!\r\n0\r\n\r\n", Some("hello!"));
        check("0\r\n\r\n", Some(""));
        check("5\r\nhel", None);
        check("ffffffffffffffff\r\nx\r\n", None);
        check("zz\r\n", None);
        check("", None);
    }
}
