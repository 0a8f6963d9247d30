//! Who asks, what for, and what should come of it?

use crate::rng::Rng;
use anyhow::Result;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Clients of each kind.
const CLIENTS: u64 = 6;
/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes of the large body, and of what goes through the TCP proxy.
const LARGE: usize = 300_000;
/// Kinds of failure kept.
const FAILURES_MAX: usize = 50;

/// What happened so far.
#[derive(Default)]
pub struct Tally {
    asked: AtomicU64,
    again: AtomicU64,
    broken: AtomicU64,
    failed: Mutex<BTreeMap<String, u64>>,
}

impl Tally {
    /// Failures by kind.
    pub fn failed(&self) -> BTreeMap<String, u64> {
        self.failed.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// One line.
    pub fn summary(&self) -> String {
        let of = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let failed: u64 = self.failed().values().sum();
        format!(
            "{} requests, {} asked again on a new connection, {} broken off by the client, {failed} failed",
            of(&self.asked),
            of(&self.again),
            of(&self.broken)
        )
    }

    fn fail(&self, why: String) {
        let mut failed = self.failed.lock().unwrap_or_else(|e| e.into_inner());
        if failed.len() < FAILURES_MAX || failed.contains_key(&why) {
            *failed.entry(why).or_default() += 1;
        }
    }
}

/// Running traffic.
pub struct Load {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Load {
    /// Lets every client finish what it is doing.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.join();
    }
}

/// Starts all clients on a thread of their own.
pub fn start(http: u16, tcp: u16, tally: Arc<Tally>) -> Result<Load> {
    let stop = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = stop.clone();
    let thread = std::thread::spawn(move || {
        runtime.block_on(async {
            let mut all = tokio::task::JoinSet::new();
            for n in 0..CLIENTS {
                let shared = || (ended.clone(), tally.clone());
                let (stop, t) = shared();
                all.spawn(async move { h1(http, n, &stop, &t).await });
                let (stop, t) = shared();
                all.spawn(async move { h2(http, n, &stop, &t).await });
                let (stop, t) = shared();
                all.spawn(async move { bytes(tcp, n, &stop, &t).await });
            }
            while all.join_next().await.is_some() {}
        });
    });
    Ok(Load { stop, thread })
}

/// A request, and the status that it should get.
fn wish(rng: &mut Rng) -> (&'static str, &'static str, &'static str, u16, usize) {
    match rng.below(40) {
        0 => ("GET", "/plain", "x-reset: 99", 503, 0),
        // One failure per host and at most three hosts: three retries are enough.
        1 => ("GET", "/retry", "x-fail: 1", 200, 0),
        2 => ("GET", "/plain", "x-envoy-fault-abort-request: 418", 418, 0),
        3 => ("GET", "/slow", "x-delay: 900", 504, 0),
        4 => ("GET", "/plain", "x-bad-head: 1", 502, 0),
        5 => ("GET", "/plain", "x-status: 404", 404, 0),
        6..=8 => ("POST", "/plain", "x-chunked: 1", 200, LARGE),
        9..=12 => ("GET", "/direct", "x-a: 1", 200, 0),
        13..=16 => ("POST", "/h2", "x-a: 1", 200, 5000),
        17 => ("GET", "/h2", "x-reset: 99", 503, 0),
        18..=20 => ("GET", "/plain", "x-chunked: 1", 200, 0),
        _ => ("GET", "/plain", "x-a: 1", 200, 0),
    }
}

async fn h1(port: u16, n: u64, stop: &AtomicBool, tally: &Tally) {
    let rng = &mut Rng::new(n + 1);
    let mut kept: Option<TcpStream> = None;
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let (method, path, header, expected, size) = wish(rng);
        let key = format!("h1-{n}-{number}");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: soak\r\nx-case: {key}\r\n{header}\r\ncontent-length: {size}\r\n\r\n"
        );
        let mut wire = head.into_bytes();
        wire.resize(wire.len() + size, b'x');
        if rng.one_in(30) {
            break_off(port, &wire, rng).await;
            tally.broken.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        tally.asked.fetch_add(1, Ordering::Relaxed);
        let reused = kept.is_some();
        let mut outcome = ask(kept.take(), port, &wire).await;
        if reused && matches!(outcome, Err(Asked::NothingCame)) {
            // The proxy closed an idle connection while we wrote: any client asks again.
            tally.again.fetch_add(1, Ordering::Relaxed);
            outcome = ask(None, port, &wire).await;
        }
        match outcome {
            Ok((response, stream)) => {
                if response.status != expected {
                    let body: String = response.text().chars().take(120).collect();
                    tally.fail(format!("h1 {path} {header}: {} for {expected}: {body}", response.status));
                }
                let closes = response.header("connection").is_some_and(|v| v == "close");
                kept = (!closes && !rng.one_in(20)).then_some(stream);
            }
            Err(e) => tally.fail(format!("h1 {path} {header}: {e:?}")),
        }
    }
}

#[derive(Debug)]
enum Asked {
    NothingCame,
    Incomplete,
    TooLate,
    NoConnection,
}

async fn ask(kept: Option<TcpStream>, port: u16, wire: &[u8]) -> Result<(testkit::http::Response, TcpStream), Asked> {
    let exchange = async {
        let mut stream = match kept {
            Some(stream) => stream,
            None => TcpStream::connect(("127.0.0.1", port)).await.map_err(|_| Asked::NoConnection)?,
        };
        let _ = stream.write_all(wire).await;
        let (mut buffer, mut chunk) = (Vec::new(), vec![0; 65536]);
        loop {
            if let Some((response, _)) = testkit::http::parse(&buffer, false, false) {
                return Ok((response, stream));
            }
            match stream.read(&mut chunk).await {
                Ok(n) if n > 0 => buffer.extend_from_slice(&chunk[..n]),
                _ if buffer.is_empty() => return Err(Asked::NothingCame),
                _ => return Err(Asked::Incomplete),
            }
        }
    };
    tokio::time::timeout(PATIENCE, exchange).await.unwrap_or(Err(Asked::TooLate))
}

/// Dropping the stream resets the connection.
fn reset_on_drop(stream: &TcpStream) {
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Sends a part of a request, or all of it, and resets the connection.
async fn break_off(port: u16, wire: &[u8], rng: &mut Rng) {
    if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await {
        let _ = stream.write_all(&wire[..rng.below(wire.len() + 1)]).await;
        if rng.one_in(2) {
            tokio::time::sleep(Duration::from_millis(rng.below(5) as u64)).await;
        }
        reset_on_drop(&stream);
    }
}

async fn h2(port: u16, n: u64, stop: &AtomicBool, tally: &Tally) {
    let rng = &mut Rng::new(n + 1000);
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let Ok(stream) = TcpStream::connect(("127.0.0.1", port)).await else {
            tally.fail("h2: no connection".into());
            continue;
        };
        let Ok((mut sender, connection)) = h2::client::handshake(stream).await else {
            tally.fail("h2: no handshake".into());
            continue;
        };
        let driver = tokio::spawn(connection);
        for _ in 0..rng.below(200) {
            number += 1;
            let (method, path, header, expected, size) = wish(rng);
            let (name, value) = header.split_once(": ").unwrap_or((header, ""));
            let request = http::Request::builder()
                .method(method)
                .uri(format!("http://soak{path}"))
                .header("x-case", format!("h2-{n}-{number}"))
                .header(name, value);
            let Ok(request) = request.body(()) else {
                continue;
            };
            // A connection that drains takes no more: the next one does.
            let Ok(ready) = sender.clone().ready().await else {
                break;
            };
            sender = ready;
            tally.asked.fetch_add(1, Ordering::Relaxed);
            let give_up = rng.one_in(40);
            match tokio::time::timeout(PATIENCE, h2_one(&mut sender, request, size, give_up)).await {
                Ok(Ok(Some(status))) if status != expected => {
                    tally.fail(format!("h2 {path} {header}: {status} for {expected}"));
                }
                Ok(Ok(_)) => {}
                // Refused by a connection that is going away: not handled, so it may be asked again.
                Ok(Err(e)) if e.is_go_away() || e.reason() == Some(h2::Reason::REFUSED_STREAM) => {
                    tally.again.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                Ok(Err(e)) => {
                    tally.fail(format!("h2 {path} {header}: {e}"));
                    break;
                }
                Err(_) => tally.fail(format!("h2 {path} {header}: too late")),
            }
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
        driver.abort();
    }
}

async fn h2_one(
    sender: &mut h2::client::SendRequest<bytes::Bytes>,
    request: http::Request<()>,
    size: usize,
    give_up: bool,
) -> Result<Option<u16>, h2::Error> {
    let (response, mut send) = sender.send_request(request, size == 0)?;
    if give_up {
        send.send_reset(h2::Reason::CANCEL);
        return Ok(None);
    }
    if size > 0 {
        // A server that answers early does not want the rest.
        let _ = send.send_data(vec![b'x'; size].into(), true);
    }
    let (head, mut body) = response.await?.into_parts();
    while let Some(data) = body.data().await {
        let data = data?;
        let _ = body.flow_control().release_capacity(data.len());
    }
    Ok(Some(head.status.as_u16()))
}

async fn bytes(port: u16, n: u64, stop: &AtomicBool, tally: &Tally) {
    let rng = &mut Rng::new(n + 2000);
    while !stop.load(Ordering::Relaxed) {
        tally.asked.fetch_add(1, Ordering::Relaxed);
        let size = 1 + rng.below(LARGE);
        let aborts = rng.one_in(10);
        let exchange = async {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
            let mut sent = b"TCP ".to_vec();
            sent.resize(size + 4, b'y');
            let (mut reader, mut writer) = stream.split();
            if aborts {
                writer.write_all(&sent).await?;
                reset_on_drop(&stream);
                return Ok(None);
            }
            let write = async {
                writer.write_all(&sent).await?;
                writer.shutdown().await
            };
            let mut got = Vec::new();
            let (wrote, read) = tokio::join!(write, reader.read_to_end(&mut got));
            wrote?;
            read?;
            Ok::<_, std::io::Error>(Some(got.len()))
        };
        match tokio::time::timeout(PATIENCE, exchange).await {
            Ok(Ok(Some(got))) if got != size + 4 + "host 0\n".len() => {
                tally.fail(format!("tcp: {} bytes missing", (size + 11) as i64 - got as i64 > 0));
            }
            Ok(Ok(_)) => {}
            Ok(Err(e)) => tally.fail(format!("tcp: {e}")),
            Err(_) => tally.fail("tcp: too late".into()),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
