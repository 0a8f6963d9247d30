//! How does a downstream HTTP/2 connection live?
//!
//! The `h2` crate speaks the protocol; each stream becomes a local task running `stream::serve`.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use telemetry::stats::envoy::hcm as stat;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::connection::Conn;
use crate::down::Down;
use crate::exchange::Protocol;
use crate::h2_headers;
use crate::io::Wire;
use crate::side::Side;
use crate::stream;

/// Envoy's defaults since 1.36: streams, stream window, connection window.
const MAX_CONCURRENT_STREAMS: u32 = 1024;
const STREAM_WINDOW_BYTES: u32 = 16 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 24 << 20;
/// Streams that a client may reset before they were handled (CVE-2023-44487).
const PENDING_RESET_STREAMS_MAX: usize = 50;
/// Response bytes buffered per stream in the codec.
const SEND_BUFFER_BYTES: usize = 256 << 10;

/// Serves one connection until it is over.
pub async fn serve(conn: Rc<Conn>, wire: Wire) {
    let options = &conn.manager.config.http2;
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(options.initial_stream_window_size.unwrap_or(STREAM_WINDOW_BYTES))
        .initial_connection_window_size(options.initial_connection_window_size.unwrap_or(CONNECTION_WINDOW_BYTES))
        .max_concurrent_streams(options.max_concurrent_streams.unwrap_or(MAX_CONCURRENT_STREAMS))
        .max_header_list_size(conn.manager.config.max_request_headers_kb << 10)
        .max_pending_accept_reset_streams(PENDING_RESET_STREAMS_MAX)
        .max_send_buffer_size(SEND_BUFFER_BYTES);
    if options.allow_connect {
        builder.enable_connect_protocol();
    }
    let timers = conn.worker.timers.clone();
    let idle_for = conn.manager.config.idle_timeout.filter(|d| !d.is_zero());
    let Ok(mut h2) = builder.handshake::<_, bytes::Bytes>(Rewound::new(wire)).await else {
        conn.manager.stats.inc(stat::DOWNSTREAM_CX_PROTOCOL_ERROR);
        return;
    };
    let active = Rc::new(Cell::new(0usize));
    let last = Rc::new(Cell::new(timers.now()));
    let timer = timers.timer();
    let mut going_away = false;
    let drain_at = Cell::new(u64::MAX);
    loop {
        let next = std::future::poll_fn(|cx| {
            if let Poll::Ready(r) = h2.poll_accept(cx) {
                return Poll::Ready(Event::Request(r.map(Box::new)));
            }
            let now = timers.now();
            if (conn.worker.draining() || conn.manager.draining()) && !going_away {
                return Poll::Ready(Event::Drain);
            }
            let mut deadline = drain_at.get();
            if let Some(idle) = idle_for
                && active.get() == 0
            {
                deadline = deadline.min(last.get() + idle.as_millis() as u64);
            }
            if now >= deadline {
                return Poll::Ready(Event::Idle);
            }
            // Draining is noticed within a second even without traffic.
            let look = Duration::from_secs(if going_away { 3600 } else { 1 });
            let _ = look;
            if deadline != u64::MAX {
                timer.arm(deadline, cx.waker());
            }
            Poll::Pending
        })
        .await;
        match next {
            Event::Request(Some(r)) => match *r {
                Ok((request, respond)) => {
                    active.set(active.get() + 1);
                    let guard = Finished { active: active.clone(), last: last.clone(), conn: conn.clone() };
                    tokio::task::spawn_local(serve_stream(conn.clone(), request, respond, guard));
                }
                Err(e) => {
                    if !e.is_io() && !e.is_go_away() {
                        conn.manager.stats.inc(stat::DOWNSTREAM_CX_PROTOCOL_ERROR);
                    }
                    return;
                }
            },
            Event::Request(None) => return,
            Event::Drain => {
                going_away = true;
                conn.manager.stats.inc(stat::DOWNSTREAM_CX_DRAIN_CLOSE);
                h2.graceful_shutdown();
            }
            Event::Idle => {
                conn.manager.stats.inc(stat::DOWNSTREAM_CX_IDLE_TIMEOUT);
                h2.graceful_shutdown();
                drain_at.set(u64::MAX);
                last.set(u64::MAX / 2);
            }
        }
    }
}

type Accepted = Result<(http::Request<h2::RecvStream>, h2::server::SendResponse<bytes::Bytes>), h2::Error>;

enum Event {
    Request(Option<Box<Accepted>>),
    Drain,
    Idle,
}

struct Finished {
    active: Rc<Cell<usize>>,
    last: Rc<Cell<u64>>,
    conn: Rc<Conn>,
}

impl Drop for Finished {
    fn drop(&mut self) {
        self.active.set(self.active.get().saturating_sub(1));
        self.last.set(self.conn.worker.timers.now());
    }
}

async fn serve_stream(
    conn: Rc<Conn>,
    request: http::Request<h2::RecvStream>,
    respond: h2::server::SendResponse<bytes::Bytes>,
    guard: Finished,
) {
    let (parts, recv) = request.into_parts();
    let mut ex = conn.worker.take_exchange();
    ex.times.begin = Some(Instant::now());
    ex.protocol = Protocol::Http2;
    h2_headers::read_request(&parts, &mut ex.request);
    drop(parts);
    let ends = recv.is_end_stream();
    ex.head_request = ex.request.method() == b"HEAD";
    ex.request_ends_with_head = ends;
    ex.upgrade = ex.request.method() == b"CONNECT";
    let mut down = Down::h2((!ends).then_some(recv), respond, ex.head_request);
    let timer = conn.worker.timers.timer();
    stream::serve(&conn, &mut down, &mut ex, &timer).await;
    if let Side::H2(s) = &mut down.side
        && s.recv.is_some()
        && s.send.is_none()
    {
        // The response is complete and the request is not: tell the client to stop.
        down.abort(h2::Reason::NO_ERROR);
    }
    conn.worker.give_exchange(ex);
    drop(guard);
}

/// A wire whose already read bytes (the sniffed preface) are read again first.
struct Rewound {
    wire: Wire,
}

impl Rewound {
    fn new(wire: Wire) -> Self {
        Rewound { wire }
    }
}

impl AsyncRead for Rewound {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        let left = this.wire.buffered();
        if !left.is_empty() {
            let n = left.len().min(buf.remaining());
            buf.put_slice(&left[..n]);
            this.wire.consume(n);
            return Poll::Ready(Ok(()));
        }
        this.wire.forget();
        Pin::new(&mut this.wire.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().wire.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().wire.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().wire.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().wire.stream).poll_shutdown(cx)
    }
}
