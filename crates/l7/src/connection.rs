//! How does a downstream connection live, from its first byte to its last?
//!
//! `l4` (or a test) calls [`serve_connection`]; it returns when the connection is over. HTTP/1.1 runs
//! here, HTTP/2 in `h2_server.rs`; both hand each request to `stream::serve`.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use http1::{BodyKind, HeadError, HeadScanner, HeaderId, RequestHead, Version, parse_request};
use proxy_config::filters::http::LocalRateLimit;
use proxy_config::hcm::CodecType;
use proxy_config::route::RouteTable;
use telemetry::access_log::ResponseFlags;
use telemetry::stats::envoy::hcm as stat;
use tls::{Stream, TlsInfo};
use tokio::time::Instant;

use crate::down::Down;
use crate::exchange::{Exchange, Protocol};
use crate::filters::local_ratelimit::Buckets;
use crate::io::Wire;
use crate::manager::Manager;
use crate::reply::LocalReply;
use crate::side::{H1Side, Side};
use crate::state::StateObjects;
use crate::timers::Timer;
use crate::worker::Worker;
use crate::{h2_server, stream};

/// The first bytes of an HTTP/2 connection.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What `l4` knows about a connection.
#[derive(Clone, Debug)]
pub struct ConnFacts {
    /// Connection number, unique in the process.
    pub id: u64,
    /// The client: after PROXY protocol and original source.
    pub remote: SocketAddr,
    /// The peer of the socket.
    pub direct_remote: SocketAddr,
    /// The address that the client meant: after original destination.
    pub local: SocketAddr,
    /// Our end of the socket.
    pub direct_local: SocketAddr,
    /// Upstream connections come from `remote`, with this mark.
    pub original_src: Option<u32>,
    /// Server name from TLS or the inspector.
    pub server_name: Option<Arc<str>>,
    /// TLS session.
    pub tls: Option<Arc<TlsInfo>>,
    /// Name of the filter chain.
    pub filter_chain: Option<proxy_config::Name>,
    /// Name of the listener.
    pub listener: Option<proxy_config::Name>,
    /// Filter state set by listener and network filters.
    pub state: Vec<(proxy_config::Name, Arc<str>)>,
    /// Of that, what upstream connections share.
    pub shared: Vec<(proxy_config::Name, Arc<str>)>,
    /// `local` was restored by a listener filter.
    pub restored: bool,
}

/// One downstream connection, shared by its streams.
pub struct Conn {
    /// What `l4` knows.
    pub facts: ConnFacts,
    /// The connection manager.
    pub manager: Arc<Manager>,
    /// The worker.
    pub worker: Rc<Worker>,
    /// Value of x-forwarded-client-cert, made once.
    pub xfcc: OnceCell<Box<str>>,
    /// Filter state of the connection.
    pub state: StateObjects,
    /// Texts of the peer's certificate, made once.
    pub peer_text: OnceCell<crate::facts::PeerText>,
    routes: RefCell<Option<Rc<Arc<RouteTable>>>>,
    requests: Cell<u64>,
    began: Instant,
    /// Token buckets of this connection, by the configuration that they belong to.
    buckets: RefCell<Option<Box<Vec<(Arc<LocalRateLimit>, Rc<Buckets>)>>>>,
    end: Cell<End>,
}

/// How a connection ends. As long as nobody says otherwise: by us, with no request under way.
#[derive(Clone, Copy, Default)]
pub(crate) struct End {
    /// The client closed it.
    pub(crate) remote: bool,
    /// A request was under way.
    pub(crate) active: bool,
}

impl Conn {
    /// The route table in force now. A request keeps what it got.
    pub fn routes(&self) -> Option<Rc<Arc<RouteTable>>> {
        let mut cached = self.routes.borrow_mut();
        self.manager.routes(&mut cached);
        cached.clone()
    }

    /// Looks at this connection's token buckets for a configuration, made when first asked for.
    pub fn with_buckets<T>(&self, of: &Arc<LocalRateLimit>, look: impl FnOnce(&Buckets) -> T) -> T {
        let buckets = {
            let mut all = self.buckets.borrow_mut();
            let all = all.get_or_insert_default();
            match all.iter().find(|(c, _)| Arc::ptr_eq(c, of)) {
                Some((_, buckets)) => buckets.clone(),
                None => {
                    let buckets = Rc::new(Buckets::new(of));
                    all.push((of.clone(), buckets.clone()));
                    buckets
                }
            }
        };
        look(&buckets)
    }

    /// Counts a request; returns true when the connection must not serve more after this one.
    pub fn count_request(&self) -> bool {
        let n = self.requests.get() + 1;
        self.requests.set(n);
        self.manager.config.common.max_requests_per_connection.is_some_and(|max| n >= max as u64)
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.requests.get()
    }

    /// Says how the connection ends.
    pub(crate) fn ends(&self, end: End) {
        self.end.set(end);
    }

    /// When the connection was accepted.
    pub fn began(&self) -> Instant {
        self.began
    }
}

/// Serves one connection until it is over.
///
/// Cancel safe: dropping the future closes the connection. `stream` has finished its TLS handshake.
pub async fn serve_connection(stream: Stream, facts: ConnFacts, manager: Arc<Manager>, worker: Rc<Worker>) {
    let stats = manager.stats.clone();
    let tls = facts.tls.is_some();
    stats.inc(stat::DOWNSTREAM_CX_TOTAL);
    stats.gauge_add(stat::DOWNSTREAM_CX_ACTIVE, 1);
    if tls {
        stats.inc(stat::DOWNSTREAM_CX_SSL_TOTAL);
        stats.gauge_add(stat::DOWNSTREAM_CX_SSL_ACTIVE, 1);
    }
    let mut state = StateObjects::default();
    for (name, value) in &facts.state {
        state.set(name.clone(), value.clone());
    }
    let conn = Rc::new(Conn {
        facts,
        manager,
        worker,
        xfcc: OnceCell::new(),
        state,
        peer_text: OnceCell::new(),
        routes: RefCell::new(None),
        requests: Cell::new(0),
        began: Instant::now(),
        buckets: RefCell::default(),
        end: Cell::default(),
    });
    let _guard = ConnGuard { conn: conn.clone(), tls };
    let mut wire = Wire::new(stream);
    match protocol(&conn, &mut wire).await {
        Some(CodecType::Http2) => {
            stats.inc(stat::DOWNSTREAM_CX_HTTP2_TOTAL);
            stats.gauge_add(stat::DOWNSTREAM_CX_HTTP2_ACTIVE, 1);
            let _active = GaugeGuard(&conn, stat::DOWNSTREAM_CX_HTTP2_ACTIVE);
            match begins_with_preface(&conn, &mut wire).await {
                Some(true) => Box::pin(h2_server::serve(conn.clone(), wire)).await,
                Some(false) => Box::pin(refuse_h2(&conn, wire)).await,
                None => conn.ends(End { remote: wire.is_gone(), active: false }),
            }
        }
        Some(_) => {
            stats.inc(stat::DOWNSTREAM_CX_HTTP1_TOTAL);
            stats.gauge_add(stat::DOWNSTREAM_CX_HTTP1_ACTIVE, 1);
            let _active = GaugeGuard(&conn, stat::DOWNSTREAM_CX_HTTP1_ACTIVE);
            serve_h1(&conn, wire).await;
        }
        None => conn.ends(End { remote: wire.is_gone(), active: false }),
    }
}

struct ConnGuard {
    conn: Rc<Conn>,
    tls: bool,
}

impl Drop for ConnGuard {
    fn drop(&mut self) {
        let stats = &self.conn.manager.stats;
        stats.inc(stat::DOWNSTREAM_CX_DESTROY);
        let End { remote, active } = self.conn.end.get();
        stats.inc(if remote { stat::DOWNSTREAM_CX_DESTROY_REMOTE } else { stat::DOWNSTREAM_CX_DESTROY_LOCAL });
        if active {
            stats.inc(stat::DOWNSTREAM_CX_DESTROY_ACTIVE_RQ);
            stats.inc(if remote {
                stat::DOWNSTREAM_CX_DESTROY_REMOTE_ACTIVE_RQ
            } else {
                stat::DOWNSTREAM_CX_DESTROY_LOCAL_ACTIVE_RQ
            });
        }
        stats.gauge_sub(stat::DOWNSTREAM_CX_ACTIVE, 1);
        if self.tls {
            stats.gauge_sub(stat::DOWNSTREAM_CX_SSL_ACTIVE, 1);
        }
        let ms = self.conn.began.elapsed().as_millis() as u64;
        stats.record(stat::DOWNSTREAM_CX_LENGTH_MS, ms);
    }
}

struct GaugeGuard<'a>(&'a Conn, telemetry::stats::Gauge<stat::Hcm>);

impl Drop for GaugeGuard<'_> {
    fn drop(&mut self) {
        self.0.manager.stats.gauge_sub(self.1, 1);
    }
}

/// Which codec to speak: configured, agreed by ALPN, or told by the first bytes. `None`: closed before.
async fn protocol(conn: &Conn, wire: &mut Wire) -> Option<CodecType> {
    match conn.manager.config.codec {
        CodecType::Auto => {}
        codec => return Some(codec),
    }
    match wire.stream.alpn() {
        Some(b"h2" | b"istio-h2") => return Some(CodecType::Http2),
        Some(b"http/1.1" | b"http/1.0") => return Some(CodecType::Http1),
        _ => {}
    }
    let h2 = begins_with_preface(conn, wire).await?;
    Some(if h2 { CodecType::Http2 } else { CodecType::Http1 })
}

/// Whether the first bytes are HTTP/2's. `None`: closed, or idle for too long, before they said so.
async fn begins_with_preface(conn: &Conn, wire: &mut Wire) -> Option<bool> {
    let timer = conn.worker.timers.timer();
    let deadline = idle_deadline(conn);
    std::future::poll_fn(|cx| {
        loop {
            let seen = wire.buffered();
            let n = seen.len().min(PREFACE.len());
            if seen[..n] != PREFACE[..n] {
                return Poll::Ready(Some(false));
            }
            if n == PREFACE.len() {
                return Poll::Ready(Some(true));
            }
            match wire.poll_fill(cx, &conn.worker) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(None),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => {
                    if conn.worker.timers.now() >= deadline {
                        return Poll::Ready(None);
                    }
                    timer.arm(deadline, cx.waker());
                    return Poll::Pending;
                }
            }
        }
    })
    .await
}

/// Closes gently a connection that should speak HTTP/2 and does not.
async fn refuse_h2(conn: &Conn, wire: Wire) {
    conn.manager.stats.inc(stat::DOWNSTREAM_CX_PROTOCOL_ERROR);
    let timer = conn.worker.timers.timer();
    let mut down = Down::h1(Side::H1(H1Side::new(wire, conn.manager.header_case)));
    close(conn, &mut down, &timer).await;
}

fn idle_deadline(conn: &Conn) -> u64 {
    match conn.manager.config.idle_timeout {
        Some(d) if !d.is_zero() => conn.worker.timers.now() + d.as_millis() as u64,
        _ => u64::MAX,
    }
}

/// Why a request head is not complete.
enum NoHead {
    Closed,
    HeaderTimeout,
    Refused(HeadError),
}

async fn serve_h1(conn: &Rc<Conn>, wire: Wire) {
    let mut down = Down::h1(Side::H1(H1Side::new(wire, conn.manager.header_case)));
    let timer = conn.worker.timers.timer();
    let mut active = false;
    while first_byte(conn, &mut down, &timer).await {
        // An idle connection holds none of what a request needs.
        let go_on = Box::pin(serve_request(conn, &mut down, &timer, &mut active)).await;
        count_bytes(conn, &mut down);
        if !go_on || down.close {
            if go_on {
                Box::pin(close(conn, &mut down, &timer)).await;
            }
            break;
        }
    }
    count_bytes(conn, &mut down);
    let remote = matches!(&down.side, Side::H1(side) if side.wire.is_gone());
    conn.ends(End { remote, active });
}

/// Waits for the first byte of a request. False: none came.
async fn first_byte(conn: &Conn, down: &mut Down, timer: &Timer) -> bool {
    let worker = &conn.worker;
    let Side::H1(side) = &mut down.side else {
        return false;
    };
    let mut deadline = u64::MAX;
    std::future::poll_fn(|cx: &mut Context<'_>| {
        if !side.wire.buffered().is_empty() {
            return Poll::Ready(true);
        }
        match side.wire.poll_fill(cx, worker) {
            Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(false),
            Poll::Ready(Ok(_)) => Poll::Ready(true),
            Poll::Pending => {
                if deadline == u64::MAX {
                    deadline = idle_deadline(conn);
                }
                if deadline == u64::MAX {
                    timer.disarm();
                } else if worker.timers.now() >= deadline {
                    conn.manager.stats.inc(stat::DOWNSTREAM_CX_IDLE_TIMEOUT);
                    return Poll::Ready(false);
                } else {
                    timer.arm(deadline, cx.waker());
                }
                Poll::Pending
            }
        }
    })
    .await
}

/// Serves the request whose first byte is here. False: the connection ended before its head was complete. `active`: it ended
/// before the response did.
async fn serve_request(conn: &Rc<Conn>, down: &mut Down, timer: &Timer, active: &mut bool) -> bool {
    let manager = &conn.manager;
    let mut ex = conn.worker.take_exchange();
    ex.times.begin = Some(conn.worker.now());
    let head = next_head(conn, down, &mut ex, timer).await;
    let go_on = !matches!(head, Err(NoHead::Closed));
    match head {
        Ok(head) => {
            begin(conn, down, &mut ex, &head);
            stream::serve(conn, down, &mut ex, timer).await;
            *active = ex.flags.contains(ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION);
        }
        Err(NoHead::Refused(e)) => {
            manager.stats.inc(stat::DOWNSTREAM_CX_PROTOCOL_ERROR);
            if e == HeadError::TooLarge {
                manager.stats.inc(stat::DOWNSTREAM_RQ_TOO_LARGE);
            }
            ex.request.clear();
            let reply = LocalReply::protocol_error(e.status(), e.details());
            stream::answer_only(conn, down, &mut ex, reply, timer).await;
        }
        Err(NoHead::HeaderTimeout) => {
            manager.stats.inc(stat::DOWNSTREAM_RQ_HEADER_TIMEOUT);
            ex.request.clear();
            let mut reply = LocalReply::text(408, "request header timeout", "request_header_timeout");
            reply.close = true;
            stream::answer_only(conn, down, &mut ex, reply, timer).await;
        }
        Err(NoHead::Closed) => {}
    }
    conn.worker.give_exchange(ex);
    go_on
}

/// Reads the rest of a request head.
async fn next_head(conn: &Conn, down: &mut Down, ex: &mut Exchange, timer: &Timer) -> Result<RequestHead, NoHead> {
    let worker = &conn.worker;
    let manager = &conn.manager;
    let Side::H1(side) = &mut down.side else {
        return Err(NoHead::Closed);
    };
    let mut scanner = HeadScanner::default();
    let limit = manager.config.request_headers_timeout.filter(|d| !d.is_zero());
    let mut deadline = u64::MAX;
    std::future::poll_fn(|cx: &mut Context<'_>| {
        loop {
            let options = &manager.request_options;
            match parse_request(side.wire.buffered(), &mut scanner, options, &mut ex.request) {
                Ok(Some(head)) => {
                    side.wire.consume(head.consumed);
                    return Poll::Ready(Ok(head));
                }
                Ok(None) => {}
                Err(e) => return Poll::Ready(Err(NoHead::Refused(e))),
            }
            match side.wire.poll_fill(cx, worker) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(NoHead::Closed)),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => {
                    let Some(limit) = limit else {
                        timer.disarm();
                        return Poll::Pending;
                    };
                    if deadline == u64::MAX {
                        deadline = worker.timers.now() + limit.as_millis() as u64;
                    }
                    if worker.timers.now() >= deadline {
                        return Poll::Ready(Err(NoHead::HeaderTimeout));
                    }
                    timer.arm(deadline, cx.waker());
                    return Poll::Pending;
                }
            }
        }
    })
    .await
}

/// Makes a request head the start of an exchange.
fn begin(conn: &Conn, down: &mut Down, ex: &mut Exchange, head: &RequestHead) {
    ex.protocol = match head.version {
        Version::Http10 => Protocol::Http10,
        Version::Http11 => Protocol::Http11,
    };
    ex.head_request = ex.request.method() == b"HEAD";
    ex.upgrade = head.upgrade || head.body == BodyKind::Tunnel;
    ex.request_ends_with_head = head.body == BodyKind::None;
    down.start(head);
    answer_expect(conn, down, ex);
    if conn.worker.draining() || conn.manager.draining() {
        down.close = true;
    }
}

/// Tells a client that waits with its body to go on, unless the upstream shall do that.
pub(crate) fn answer_expect(conn: &Conn, down: &mut Down, ex: &mut Exchange) {
    let waits = ex.request.get_id(HeaderId::EXPECT).is_some_and(|e| e.eq_ignore_ascii_case(b"100-continue"));
    if !waits || conn.manager.config.proxy_100_continue {
        return;
    }
    ex.request.remove_id(HeaderId::EXPECT);
    // The response code so far, as formats see it.
    ex.status = 100;
    down.send_continue(&conn.worker);
    stream::count_response(conn, 100);
}

fn count_bytes(conn: &Conn, down: &mut Down) {
    if let Side::H1(s) = &mut down.side {
        let (rx, tx) = (std::mem::take(&mut s.wire.received), std::mem::take(&mut s.wire.sent));
        conn.manager.stats.add(stat::DOWNSTREAM_CX_RX_BYTES_TOTAL, rx);
        conn.manager.stats.add(stat::DOWNSTREAM_CX_TX_BYTES_TOTAL, tx);
    }
}

/// Closes gently: our end is shut, and what the client still sends is read and dropped until it closes
/// or `delayed_close_timeout` is over, so that no reset destroys the response on its way.
async fn close(conn: &Conn, down: &mut Down, timer: &Timer) {
    let wait = conn.manager.config.delayed_close_timeout;
    let worker = &conn.worker;
    let at_once = down.closes_at_once();
    let Side::H1(side) = &mut down.side else {
        return;
    };
    let deadline = worker.timers.now() + wait.as_millis() as u64;
    let mut shut = false;
    std::future::poll_fn(|cx| {
        if !shut {
            match side.wire.poll_flush(cx, worker) {
                Poll::Ready(Ok(())) => match side.wire.stream.poll_shutdown_write(cx) {
                    Poll::Ready(Ok(())) => shut = true,
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => {}
                },
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => {}
            }
        }
        if side.wire.eof || shut && (at_once || wait.is_zero()) {
            return Poll::Ready(());
        }
        loop {
            let n = side.wire.buffered().len();
            side.wire.consume(n);
            match side.wire.poll_fill(cx, worker) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => break,
            }
        }
        if worker.timers.now() >= deadline {
            conn.manager.stats.inc(stat::DOWNSTREAM_CX_DELAYED_CLOSE_TIMEOUT);
            return Poll::Ready(());
        }
        timer.arm(deadline, cx.waker());
        Poll::Pending
    })
    .await;
}
