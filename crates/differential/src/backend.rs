//! What did the upstream see? Servers that answer with the request they received, on several ports.
//!
//! Every port speaks HTTP/1.1, HTTP/2 with prior knowledge, both of them over TLS, and an echo for connections that begin
//! with `TCP`. Request headers steer the answer: `x-status: N`; `x-reset: N` (break off without an answer for the first N
//! attempts of this `x-case`), `x-fail: N` (503 for the first N attempts), `x-delay: MS`, `x-chunked`, `x-half` (break off
//! in the body), `x-hint` (a 103 first), `x-bad-head` (no HTTP at all), `x-reply-header: name: value`,
//! `x-reply-trailer: name: value` (HTTP/2, and chunked HTTP/1).

use crate::tls::Certificates;
use bytes::Bytes;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio_rustls::TlsAcceptor;

/// Attempts seen so far, by case.
static ATTEMPTS: Mutex<BTreeMap<String, u32>> = Mutex::new(BTreeMap::new());
/// Longest request line, header line or body that is read.
const READ_MAX: u64 = 64 << 20;

/// Starts `count` servers on loopback and returns their ports; they live as long as the process.
pub fn start(count: usize, certificates: &Certificates) -> std::io::Result<Vec<u16>> {
    let mut ports = Vec::new();
    let mut listeners = Vec::new();
    for _ in 0..count {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        ports.push(listener.local_addr()?.port());
        listeners.push(listener);
    }
    let acceptor = TlsAcceptor::from(certificates.upstream_server());
    std::thread::spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
            return;
        };
        runtime.block_on(async {
            for (index, listener) in listeners.into_iter().enumerate() {
                tokio::spawn(accept(listener, index, acceptor.clone()));
            }
            std::future::pending::<()>().await;
        });
    });
    Ok(ports)
}

async fn accept(listener: std::net::TcpListener, index: usize, acceptor: TlsAcceptor) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
        return;
    };
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let _ = stream.set_nodelay(true);
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let mut first = [0u8; 3];
            let n = stream.peek(&mut first).await.unwrap_or(0);
            if n > 0 && first[0] == 0x16 {
                if let Ok(stream) = acceptor.accept(stream).await {
                    let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                    serve(stream, index, h2.then_some(*b"PRI")).await;
                }
            } else {
                serve(stream, index, (n == 3).then_some(first)).await;
            }
        });
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, index: usize, first: Option<[u8; 3]>) {
    match first.as_ref() {
        Some(b"PRI") => h2(stream, index).await,
        Some(b"TCP") => echo(stream, index).await,
        _ => h1(stream, index).await,
    }
}

/// Says which host it is, then echoes until the client is done.
async fn echo(stream: impl AsyncRead + AsyncWrite, index: usize) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    if writer.write_all(format!("host {index}\n").as_bytes()).await.is_ok() {
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
        let _ = writer.shutdown().await;
    }
}

async fn h1(stream: impl AsyncRead + AsyncWrite, index: usize) {
    let (reader, mut writer) = tokio::io::split(stream);
    let mut reader = BufReader::new(reader);
    while let Some(request) = read_request(&mut reader).await {
        let plan = Plan::of(&request, index);
        tokio::time::sleep(plan.delay).await;
        let Some(bytes) = plan.h1(&request) else {
            return;
        };
        if writer.write_all(&bytes).await.is_err() || plan.half || plan.bad_head {
            return;
        }
    }
}

async fn h2(stream: impl AsyncRead + AsyncWrite + Unpin, index: usize) {
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        return;
    };
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(h2_stream(request, respond, index));
    }
}

async fn h2_stream(
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    index: usize,
) -> Option<()> {
    let (head, mut body) = request.into_parts();
    let mut seen = Request { line: format!("{} {} HTTP/2", head.method, head.uri), ..Request::default() };
    seen.headers = head
        .headers
        .iter()
        .map(|(n, v)| (n.as_str().to_owned(), String::from_utf8_lossy(v.as_bytes()).into_owned()))
        .collect();
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        seen.body.extend_from_slice(&data);
    }
    let trailers = body.trailers().await.ok().flatten().unwrap_or_default();
    for (name, value) in &trailers {
        seen.trailers.push((name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
    }
    let plan = Plan::of(&seen, index);
    tokio::time::sleep(plan.delay).await;
    if plan.reset || plan.bad_head {
        respond.send_reset(if plan.bad_head { h2::Reason::REFUSED_STREAM } else { h2::Reason::INTERNAL_ERROR });
        return None;
    }
    let mut response = http::Response::builder().status(plan.status);
    for (name, value) in &plan.headers {
        response = response.header(name, value);
    }
    let bodiless = head.method == http::Method::HEAD || matches!(plan.status, 204 | 304);
    let body = if bodiless { Vec::new() } else { plan.body };
    if !bodiless && !plan.chunked {
        response = response.header("content-length", body.len());
    }
    let end = body.is_empty() && plan.trailers.is_empty();
    let mut send = respond.send_response(response.body(()).ok()?, end).ok()?;
    if end {
        return None;
    }
    if plan.half {
        let _ = send.send_data(Bytes::copy_from_slice(&body[..body.len().min(3)]), false);
        tokio::time::sleep(Duration::from_millis(5)).await;
        send.send_reset(h2::Reason::INTERNAL_ERROR);
        return None;
    }
    send.send_data(body.into(), plan.trailers.is_empty()).ok()?;
    if !plan.trailers.is_empty() {
        let mut map = http::HeaderMap::new();
        for (name, value) in &plan.trailers {
            map.append(http::HeaderName::try_from(name).ok()?, http::HeaderValue::try_from(value).ok()?);
        }
        send.send_trailers(map).ok()?;
    }
    Some(())
}

#[derive(Default)]
struct Request {
    line: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    trailers: Vec<(String, String)>,
}

impl Request {
    fn get(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    fn number(&self, name: &str) -> Option<u32> {
        self.get(name)?.parse().ok()
    }
}

async fn read_request(reader: &mut (impl AsyncBufReadExt + Unpin)) -> Option<Request> {
    let mut request = Request { line: read_line(reader).await?, ..Request::default() };
    request.headers = read_headers(reader).await?;
    if request.get("transfer-encoding").is_some() {
        loop {
            let size = usize::from_str_radix(read_line(reader).await?.split(';').next()?.trim(), 16).ok()?;
            let mut chunk = vec![0; size];
            reader.read_exact(&mut chunk).await.ok()?;
            request.body.extend_from_slice(&chunk);
            if size == 0 {
                request.trailers = read_headers(reader).await?;
                return Some(request);
            }
            read_line(reader).await?;
        }
    }
    let length = request.get("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
    request.body = vec![0; length];
    reader.read_exact(&mut request.body).await.ok()?;
    Some(request)
}

async fn read_headers(reader: &mut (impl AsyncBufReadExt + Unpin)) -> Option<Vec<(String, String)>> {
    let mut headers = Vec::new();
    loop {
        let line = read_line(reader).await?;
        if line.is_empty() {
            return Some(headers);
        }
        let (name, value) = line.split_once(':')?;
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
}

async fn read_line(reader: &mut (impl AsyncBufReadExt + Unpin)) -> Option<String> {
    let mut line = Vec::new();
    if reader.take(READ_MAX).read_until(b'\n', &mut line).await.ok()? == 0 {
        return None;
    }
    Some(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned())
}

/// What the request asks to be answered.
struct Plan {
    status: u16,
    reset: bool,
    delay: Duration,
    chunked: bool,
    half: bool,
    hint: bool,
    bad_head: bool,
    headers: Vec<(String, String)>,
    trailers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Plan {
    fn of(request: &Request, index: usize) -> Self {
        let attempt = {
            let mut attempts = ATTEMPTS.lock().unwrap_or_else(|e| e.into_inner());
            // A mirrored request goes to a host of its own and does not count for the other.
            let key = format!("{}@{index}", request.get("x-case").unwrap_or_default());
            let n = attempts.entry(key).or_default();
            *n += 1;
            *n
        };
        let until = |name: &str| request.number(name).is_some_and(|n| attempt <= n);
        let all = |name: &str| {
            let found = request.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
            found
                .filter_map(|(_, v)| v.split_once(": ").or(v.split_once(":")))
                .map(|(n, v)| (n.to_owned(), v.to_owned()))
                .collect()
        };
        Plan {
            status: if until("x-fail") { 503 } else { request.number("x-status").unwrap_or(200) as u16 },
            reset: until("x-reset"),
            delay: Duration::from_millis(request.number("x-delay").unwrap_or(0).into()),
            chunked: request.get("x-chunked").is_some(),
            half: request.get("x-half").is_some(),
            hint: request.get("x-hint").is_some(),
            bad_head: until("x-bad-head"),
            headers: all("x-reply-header"),
            trailers: all("x-reply-trailer"),
            body: seen(request, index, attempt).to_string().into_bytes(),
        }
    }

    /// The answer as HTTP/1 bytes; `None`: close instead.
    fn h1(&self, request: &Request) -> Option<Vec<u8>> {
        if self.reset {
            return None;
        }
        if self.bad_head {
            return Some(b"HTTP/9.9 what\r\nthis is none\r\n\r\n".to_vec());
        }
        let bodiless = request.line.starts_with("HEAD ") || matches!(self.status, 204 | 304);
        let mut out = Vec::new();
        if self.hint {
            out.extend_from_slice(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
        }
        out.extend_from_slice(format!("HTTP/1.1 {} Status\r\n", self.status).as_bytes());
        for (name, value) in &self.headers {
            out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        let body = if self.half { &self.body[..self.body.len() / 2] } else { &self.body };
        if self.chunked && !bodiless {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
            for piece in body.chunks(100) {
                out.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                out.extend_from_slice(piece);
                out.extend_from_slice(b"\r\n");
            }
            if !self.half {
                out.extend_from_slice(b"0\r\n");
                for (name, value) in &self.trailers {
                    out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
                }
                out.extend_from_slice(b"\r\n");
            }
            return Some(out);
        }
        if self.status != 204 {
            out.extend_from_slice(format!("content-length: {}\r\n", self.body.len()).as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        if !bodiless {
            out.extend_from_slice(body);
        }
        Some(out)
    }
}

fn seen(request: &Request, index: usize, attempt: u32) -> Value {
    let lines =
        |all: &[(String, String)]| -> Vec<Value> { all.iter().map(|(n, v)| json!(format!("{n}: {v}"))).collect() };
    json!({"host": index, "attempt": attempt, "line": request.line, "headers": lines(&request.headers),
        "trailers": lines(&request.trailers), "body": request.body.len()})
}
