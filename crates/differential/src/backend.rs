//! What did the upstream see? A server that answers with the request it received, on several ports.
//!
//! Request headers steer it: `x-status: N`, `x-reset: N` (close the connection without an answer for the first N
//! attempts of this `x-case`), `x-fail: N` (503 for the first N attempts), `x-chunked`, `x-reply-header: name: value`.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;

/// Attempts seen so far, by case.
static ATTEMPTS: Mutex<BTreeMap<String, u32>> = Mutex::new(BTreeMap::new());

/// Forgets earlier attempts: the next request with the same case is a first one.
pub fn forget_attempts() {
    ATTEMPTS.lock().expect("no holder panics").clear();
}

/// Starts `count` servers on loopback and returns their ports; they live as long as the process.
pub fn start(count: usize) -> std::io::Result<Vec<u16>> {
    (0..count)
        .map(|i| {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let port = listener.local_addr()?.port();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    std::thread::spawn(move || serve(stream, i));
                }
            });
            Ok(port)
        })
        .collect()
}

fn serve(stream: TcpStream, index: usize) {
    let Ok(clone) = stream.try_clone() else {
        return;
    };
    let (mut reader, mut writer) = (BufReader::new(clone), stream);
    while let Some(request) = Request::read(&mut reader) {
        match answer(&request, index) {
            Some(bytes) if writer.write_all(&bytes).is_ok() => {}
            _ => return,
        }
    }
}

struct Request {
    line: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    fn read(reader: &mut impl BufRead) -> Option<Self> {
        let line = read_line(reader)?;
        let mut headers = Vec::new();
        loop {
            let l = read_line(reader)?;
            if l.is_empty() {
                break;
            }
            let (name, value) = l.split_once(':')?;
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        let mut request = Self { line, headers, body: Vec::new() };
        request.read_body(reader)?;
        Some(request)
    }

    fn read_body(&mut self, reader: &mut impl BufRead) -> Option<()> {
        if self.get("transfer-encoding").is_some() {
            loop {
                let size = usize::from_str_radix(read_line(reader)?.split(';').next()?.trim(), 16).ok()?;
                let mut chunk = vec![0; size];
                reader.read_exact(&mut chunk).ok()?;
                self.body.extend_from_slice(&chunk);
                if size == 0 {
                    while !read_line(reader)?.is_empty() {}
                    return Some(());
                }
                read_line(reader)?;
            }
        }
        let length = self.get("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
        self.body = vec![0; length];
        reader.read_exact(&mut self.body).ok()
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    fn number(&self, name: &str) -> Option<u32> {
        self.get(name)?.parse().ok()
    }
}

fn read_line(reader: &mut impl BufRead) -> Option<String> {
    let mut line = String::new();
    if reader.read_line(&mut line).ok()? == 0 {
        return None;
    }
    Some(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn answer(request: &Request, index: usize) -> Option<Vec<u8>> {
    let case = request.get("x-case").unwrap_or_default().to_owned();
    let attempt = {
        let mut attempts = ATTEMPTS.lock().expect("no holder panics");
        let n = attempts.entry(case).or_default();
        *n += 1;
        *n
    };
    if request.number("x-reset").is_some_and(|n| attempt <= n) {
        return None;
    }
    let failing = request.number("x-fail").is_some_and(|n| attempt <= n);
    let status = if failing { 503 } else { request.number("x-status").unwrap_or(200) };
    let body = seen(request, index, attempt).to_string().into_bytes();
    let bodiless = request.line.starts_with("HEAD ") || matches!(status, 204 | 304);
    let mut out = format!("HTTP/1.1 {status} Status\r\n").into_bytes();
    for (name, value) in &request.headers {
        if name.eq_ignore_ascii_case("x-reply-header") {
            out.extend_from_slice(format!("{value}\r\n").as_bytes());
        }
    }
    if request.get("x-chunked").is_some() && !bodiless {
        out.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
        for piece in body.chunks(100) {
            out.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            out.extend_from_slice(piece);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"0\r\n\r\n");
        return Some(out);
    }
    if status != 204 {
        out.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    if !bodiless {
        out.extend_from_slice(&body);
    }
    Some(out)
}

fn seen(request: &Request, index: usize, attempt: u32) -> Value {
    let headers: Vec<Value> = request.headers.iter().map(|(n, v)| json!(format!("{n}: {v}"))).collect();
    json!({"host": index, "attempt": attempt, "line": request.line, "headers": headers, "body": request.body.len()})
}
