//! Which requests are copied elsewhere? Mirrors: fire and forget.
//!
//! A copy without body starts beside the request; one with a body starts when the body has passed,
//! from what was kept of it. Responses are read and dropped.

use std::rc::Rc;
use std::task::Poll;

use http1::HeaderBlock;
use proxy_config::Name;
use proxy_config::route::{ClusterSpecifier, Forward, Mirror};

use crate::connection::Conn;
use crate::decide;
use crate::destination;
use crate::exchange::Exchange;
use crate::pool::{self, Lease};
use crate::request::{IpText, split_port};
use crate::retry::Failure;
use crate::router;
use crate::side::{Lost, Piece, Side};
use crate::stream::Found;
use crate::up::RequestBody;

/// Copies in flight per worker; more are not made.
const SHADOWS_MAX: usize = 4096;
/// A copy's response is waited for at most this long when the route has no timeout.
const TIMEOUT_MS: u64 = 15_000;

/// The mirrors drawn for a request.
pub struct Shadows {
    clusters: Vec<(Name, usize)>,
    timeout_ms: u64,
}

impl Shadows {
    /// Draws the mirrors of a route.
    pub fn draw(conn: &Conn, ex: &Exchange, f: &Forward) -> Self {
        let mut clusters = Vec::new();
        for (i, m) in f.mirrors.iter().enumerate() {
            let name = match &m.cluster {
                ClusterSpecifier::Cluster(n) => n.clone(),
                ClusterSpecifier::Header(h) => {
                    match ex.request.get(h.as_str().as_bytes()).and_then(|v| std::str::from_utf8(v).ok()) {
                        Some(n) if !n.is_empty() => n.into(),
                        _ => continue,
                    }
                }
                ClusterSpecifier::Weighted(_) => continue,
            };
            if m.fraction.hit(conn.worker.random()) {
                clusters.push((name, i));
            }
        }
        let timeout_ms = f.timeout.map_or(TIMEOUT_MS, |d| d.as_millis() as u64);
        Shadows { clusters, timeout_ms }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.clusters.is_empty()
    }

    /// Starts the copies; `body` is the whole request body.
    pub fn start(&mut self, conn: &Rc<Conn>, ex: &Exchange, found: &Found, f: &Forward, body: &[u8]) {
        for (name, index) in self.clusters.drain(..) {
            if conn.worker.shadows() >= SHADOWS_MAX {
                return;
            }
            let mirror = &f.mirrors[index];
            let Some(cluster) = pool::cluster(&conn.worker, &name) else {
                continue;
            };
            let mut copy = conn.worker.take_exchange();
            copy.request = ex.request.clone();
            copy.protocol = ex.protocol;
            copy.grpc = ex.grpc;
            copy.remote = ex.remote;
            copy.internal = true;
            copy.times.begin = ex.times.begin;
            copy.request_ends_with_head = body.is_empty() && ex.request_ends_with_head;
            prepare(conn, &mut copy, mirror);
            let task = run(conn.clone(), cluster, copy, found.clone(), body.to_vec(), self.timeout_ms);
            tokio::task::spawn_local(task);
        }
    }
}

/// A copy comes from this proxy, as requests of Envoy's own client do: internal, and sent on by this node.
fn prepare(conn: &Conn, copy: &mut Exchange, mirror: &Mirror) {
    copy.request.set_id(http1::HeaderId::X_ENVOY_INTERNAL, b"true");
    if let Some(ip) = conn.manager.local_ip {
        copy.request.append_id(http1::HeaderId::X_FORWARDED_FOR, b",", IpText::default().format(ip));
    }
    if let Some(host) = &mirror.host_rewrite {
        copy.request.set_id(http1::HeaderId::AUTHORITY, host.as_bytes());
    } else if !mirror.disable_shadow_host_suffix {
        let host = shadow_host(copy.request.authority());
        copy.request.set_id(http1::HeaderId::AUTHORITY, &host);
    }
    if !mirror.request_headers.is_empty() {
        decide::request_headers(conn, copy, &mirror.request_headers);
    }
}

/// `host` or `host:port` with `-shadow` after the host.
fn shadow_host(authority: &[u8]) -> Vec<u8> {
    match split_port(authority) {
        Some((host, _)) => [host, b"-shadow", &authority[host.len()..]].concat(),
        None => [authority, b"-shadow"].concat(),
    }
}

struct Count(Rc<Conn>);

impl Drop for Count {
    fn drop(&mut self) {
        self.0.worker.count_shadow(-1);
    }
}

async fn run(
    conn: Rc<Conn>,
    cluster: pool::Cluster,
    mut copy: Box<Exchange>,
    found: Found,
    body: Vec<u8>,
    timeout_ms: u64,
) {
    conn.worker.count_shadow(1);
    let _count = Count(conn.clone());
    let worker = conn.worker.clone();
    let timer = worker.timers.timer();
    let deadline = if timeout_ms == 0 { u64::MAX } else { worker.timers.now() + timeout_ms };
    let mut lease = None;
    let outcome = {
        let mut work = Box::pin(exchange(&conn, &cluster, &mut copy, &found, &body, &mut lease));
        std::future::poll_fn(|cx| {
            if let Poll::Ready(outcome) = work.as_mut().poll(cx) {
                return Poll::Ready(outcome);
            }
            if worker.timers.now() >= deadline {
                return Poll::Ready(Err(Failure::GlobalTimeout));
            }
            timer.arm(deadline, cx.waker());
            Poll::Pending
        })
        .await
    };
    conclude(&cluster, &mut copy, lease, outcome);
    worker.give_exchange(copy);
}

/// Counts how a copy ended. One without a response counts as the answer that a client would have got.
fn conclude(cluster: &pool::Cluster, copy: &mut Exchange, lease: Option<Lease>, outcome: Result<(), Failure>) {
    let answered = copy.status != 0;
    match (outcome, lease) {
        (Ok(()), Some(lease)) => lease.finish(copy),
        (Ok(()), None) => {}
        (Err(failure), lease) => {
            if !answered {
                cluster.charge_local(copy, failure.reply(copy).status);
            }
            match lease {
                Some(lease) if answered => lease.broken(copy, &failure),
                Some(lease) => lease.fail(copy, &failure),
                None => {}
            }
        }
    }
}

/// Sends the copy and reads what comes back. `lease` is the request as long as it may be under way.
async fn exchange(
    conn: &Rc<Conn>,
    cluster: &pool::Cluster,
    copy: &mut Exchange,
    found: &Found,
    body: &[u8],
    lease: &mut Option<Lease>,
) -> Result<(), Failure> {
    let ask = pool::Ask {
        hash: None,
        attempt: 1,
        avoid: &[],
        omit: None,
        excluded_priorities: &[],
        found: Some(found),
        connect: None,
        host: if cluster.is_dynamic() { destination::dynamic_host(cluster, copy).await } else { None },
        wanted: router::subset(found),
    };
    let lease =
        lease.insert(match pool::try_checkout((&**conn).into(), cluster, copy, &ask).map_err(Failure::Pool)? {
            Ok(lease) => lease,
            Err(ticket) => pool::connect((&**conn).into(), ticket).await.map_err(Failure::Pool)?,
        });
    lease.note(copy);
    let reused = lease.reused;
    let lost = |lost, answered| Failure::Upstream { lost, answered, reused };
    let worker = &conn.worker;
    let kind = if copy.request_ends_with_head { RequestBody::None } else { RequestBody::Stream { raw: false } };
    lease.up.send_head(&copy.request, kind, worker).map_err(|l| lost(l, false))?;
    if kind != RequestBody::None {
        let side = &mut lease.up.side;
        side.send(body, worker).and_then(|()| side.finish(None, worker)).map_err(|l| lost(l, false))?;
    }
    let mut block = HeaderBlock::new();
    let head = std::future::poll_fn(|cx| {
        if let Poll::Ready(Err(e)) = lease.up.side.poll_flush(cx, worker) {
            return Poll::Ready(Err(e));
        }
        loop {
            match lease.up.poll_head(cx, &mut block, worker) {
                Poll::Ready(Ok(h)) if h.status / 100 == 1 => cluster.charge_local(copy, h.status),
                other => return other,
            }
        }
    })
    .await
    .map_err(|l| lost(l, false))?;
    copy.status = head.status;
    lease.answered(copy, head.status, false, cluster);
    if head.ends {
        return Ok(());
    }
    let h1 = matches!(lease.up.side, Side::H1(_));
    std::future::poll_fn(|cx| {
        loop {
            match lease.up.side.poll_piece(cx, false, worker) {
                // An HTTP/1 body that ends early is a protocol error.
                Poll::Ready(Err(Lost::Closed)) if h1 => return Poll::Ready(Err(lost(Lost::Protocol, true))),
                Poll::Ready(Ok(Piece::Bytes { .. })) => {}
                Poll::Ready(Ok(Piece::End)) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(l)) => return Poll::Ready(Err(lost(l, true))),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        assert_eq!(shadow_host(b"a.b"), b"a.b-shadow");
        assert_eq!(shadow_host(b"a.b:80"), b"a.b-shadow:80");
    }
}
