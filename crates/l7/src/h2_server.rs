//! How does a downstream HTTP/2 connection live?
//!
//! `http2` speaks the protocol; each stream becomes a local task running `stream::serve`.

use std::cell::Cell;
use std::rc::Rc;
use std::task::Poll;

use telemetry::access_log::ResponseFlags;
use telemetry::stats::envoy::hcm as stat;

use crate::connection::{Conn, End};
use crate::down::Down;
use crate::exchange::Protocol;
use crate::h2_session::{Session, Stream};
use crate::io::Wire;
use crate::stream;
use crate::stream_task::StreamTasks;

/// Envoy's defaults since 1.36: streams, stream window, connection window.
const MAX_CONCURRENT_STREAMS: u32 = 1024;
const STREAM_WINDOW_BYTES: u32 = 16 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 24 << 20;

/// Serves one connection until it is over.
pub async fn serve(conn: Rc<Conn>, mut wire: Wire) {
    let options = &conn.manager.config.http2;
    let session = Session::new(http2::Options {
        role: http2::Role::Server,
        stream_window: options.initial_stream_window_size.unwrap_or(STREAM_WINDOW_BYTES),
        connection_window: options.initial_connection_window_size.unwrap_or(CONNECTION_WINDOW_BYTES),
        max_streams: options.max_concurrent_streams.unwrap_or(MAX_CONCURRENT_STREAMS),
        header_list_bytes_max: conn.manager.config.max_request_headers_kb << 10,
        connect_protocol: options.allow_connect,
    });
    let _ended = Ended(session.clone());
    let worker = &conn.worker;
    let timers = worker.timers.clone();
    let idle_ms = conn.manager.config.idle_timeout.map(|d| d.as_millis() as u64).filter(|d| *d > 0);
    let active = Rc::new(Cell::new(0usize));
    let last = Rc::new(Cell::new(timers.now()));
    let timer = timers.timer();
    let mut draining = false;
    std::future::poll_fn(|cx| {
        let over = session.poll_drive(cx, &mut wire, worker).is_ready();
        while let Some(stream) = session.accept() {
            active.set(active.get() + 1);
            let guard = Finished { active: active.clone(), last: last.clone(), conn: conn.clone() };
            let job = Job { conn: conn.clone(), stream, guard };
            StreamTasks::serve(worker, |w| &w.stream_tasks, job, serve_stream);
        }
        let (received, sent) = (std::mem::take(&mut wire.received), std::mem::take(&mut wire.sent));
        conn.manager.stats.add(stat::DOWNSTREAM_CX_RX_BYTES_TOTAL, received);
        conn.manager.stats.add(stat::DOWNSTREAM_CX_TX_BYTES_TOTAL, sent);
        if over {
            if session.protocol_error() {
                conn.manager.stats.inc(stat::DOWNSTREAM_CX_PROTOCOL_ERROR);
            }
            conn.ends(End { remote: wire.is_gone(), active: active.get() > 0 });
            return Poll::Ready(());
        }
        if !draining {
            let idle = idle_ms.filter(|_| active.get() == 0).map_or(u64::MAX, |ms| last.get() + ms);
            if worker.draining() || conn.manager.draining() {
                conn.manager.stats.inc(stat::DOWNSTREAM_CX_DRAIN_CLOSE);
                draining = true;
                session.drain();
            } else if timers.now() >= idle {
                conn.manager.stats.inc(stat::DOWNSTREAM_CX_IDLE_TIMEOUT);
                draining = true;
                session.shut();
            } else if idle != u64::MAX {
                timer.arm(idle, cx.waker());
            }
            if draining {
                cx.waker().wake_by_ref();
            }
        }
        Poll::Pending
    })
    .await;
}

/// However the connection ends, its streams hear of it.
struct Ended(Rc<Session>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.close();
    }
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

/// A stream to be served.
pub struct Job {
    conn: Rc<Conn>,
    stream: Stream,
    guard: Finished,
}

async fn serve_stream(job: Job) {
    let Job { conn, stream, guard } = job;
    let mut ex = conn.worker.take_exchange();
    ex.times.begin = Some(conn.worker.now());
    ex.protocol = Protocol::Http2;
    // The head is there: it is what made the stream known.
    let head = std::future::poll_fn(|cx| stream.poll_head(cx, &mut ex.request)).await;
    let Ok(head) = head else {
        return conn.worker.give_exchange(ex);
    };
    if !underscores(&conn, &mut ex) {
        let stats = &conn.manager.stats;
        stats.inc(stat::DOWNSTREAM_RQ_TOTAL);
        stats.inc(stat::DOWNSTREAM_RQ_HTTP2_TOTAL);
        stats.inc(stat::DOWNSTREAM_RQ_RX_RESET);
        stream.reset(http2::frame::code::INTERNAL_ERROR);
        // What the log knows of a request that was refused as it was read.
        ex.request.clear();
        ex.flags.insert(ResponseFlags::DOWNSTREAM_REMOTE_RESET);
        ex.details = stream::UNEXPECTED_UNDERSCORE.into();
        stream::log(&conn, &ex, None);
        return conn.worker.give_exchange(ex);
    }
    ex.head_request = ex.request.method() == b"HEAD";
    ex.request_ends_with_head = head.ends;
    ex.upgrade = ex.request.method() == b"CONNECT";
    let mut down = Down::h2(stream, !head.ends, ex.head_request);
    crate::connection::answer_expect(&conn, &mut down, &mut ex);
    let timer = conn.worker.timers.timer();
    stream::serve(&conn, &mut down, &mut ex, &timer).await;
    // When the response is complete and the request is not, giving the stream up tells the client to stop (NO_ERROR) after
    // what is queued; an explicit reset would overtake the response.
    drop(down);
    conn.worker.give_exchange(ex);
    drop(guard);
}

/// Whether the request may pass: names with underscores are dropped or refused where that is configured.
fn underscores(conn: &Conn, ex: &mut crate::exchange::Exchange) -> bool {
    use proxy_config::hcm::Underscores;
    match conn.manager.config.common.underscores {
        Underscores::Allow => true,
        Underscores::RejectRequest => !ex.request.iter().any(|(name, _)| name.contains(&b'_')),
        Underscores::DropHeader => {
            ex.underscore_dropped = ex.request.remove_where(|_, name, _| name.contains(&b'_'));
            true
        }
    }
}
