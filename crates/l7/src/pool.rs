//! Which host serves a try, and over which connection? SHIM until `upstream` lands.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http1::{HeaderCase, Limits};
use telemetry::stats::Block;
use telemetry::stats::envoy::cluster as stat;

use crate::connection::Conn;
use crate::exchange::{Exchange, Protocol};
use crate::io::Wire;
use crate::retry::Failure;
use crate::side::{H1Side, Side};
use crate::stream::Found;
use crate::up::Up;
use crate::worker::Worker;

pub type HostKey = SocketAddr;

#[derive(Default)]
pub struct Directory {
    pub clusters: RefCell<HashMap<Arc<str>, Cluster>>,
}

#[derive(Clone)]
pub struct Cluster(pub Rc<Inner>);

pub struct Inner {
    pub addr: SocketAddr,
    pub text: Arc<str>,
    pub h2: bool,
    pub stats: Block<stat::Cluster>,
    pub idle: RefCell<Vec<Wire>>,
    pub sender: RefCell<Option<h2::client::SendRequest<bytes::Bytes>>>,
}

impl Cluster {
    pub fn stats(&self) -> &Block<stat::Cluster> {
        &self.0.stats
    }
    pub fn try_retry(&self) -> Option<RetryGuard> {
        Some(RetryGuard)
    }
}

pub struct RetryGuard;

#[derive(Debug, Clone)]
pub enum Refused {
    NoHost,
    Overflow,
    Connect { timeout: bool, reason: Option<Box<str>>, host: HostKey },
}

impl Refused {
    pub fn host(&self) -> Option<HostKey> {
        match self {
            Refused::Connect { host, .. } => Some(*host),
            _ => None,
        }
    }
    pub fn note(&self, ex: &mut Exchange) {
        if let Refused::Connect { host, .. } = self {
            ex.upstream.host = Some(host.to_string().into());
        }
    }
}

pub struct Ask<'a> {
    pub hash: Option<u64>,
    pub attempt: u32,
    pub avoid: &'a [HostKey],
    pub found: Option<&'a Found>,
}

pub struct Lease {
    pub up: Up,
    pub reused: bool,
    cluster: Cluster,
    worker: Rc<Worker>,
}

pub fn cluster(worker: &Worker, name: &str) -> Option<Cluster> {
    worker.directory.clusters.borrow().get(name).cloned()
}

pub fn maintenance(_cluster: &Cluster, _worker: &Worker) -> bool {
    false
}

pub fn try_checkout(conn: &Conn, cluster: &Cluster, _ex: &mut Exchange, _ask: &Ask<'_>) -> Result<Option<Lease>, Refused> {
    let c = &cluster.0;
    if c.h2 {
        if let Some(s) = &*c.sender.borrow() {
            let up = Up::h2(s.clone());
            return Ok(Some(Lease { up, reused: true, cluster: cluster.clone(), worker: conn.worker.clone() }));
        }
        return Ok(None);
    }
    loop {
        let Some(mut wire) = c.idle.borrow_mut().pop() else { return Ok(None) };
        if wire.is_stale() {
            continue;
        }
        let up = Up::h1(Side::H1(H1Side::new(wire, HeaderCase::Lower)), Limits::default(), false);
        return Ok(Some(Lease { up, reused: true, cluster: cluster.clone(), worker: conn.worker.clone() }));
    }
}

pub async fn connect(conn: &Conn, cluster: &Cluster, _ex: &Exchange, _ask: &Ask<'_>) -> Result<(Lease, Option<HostKey>), Refused> {
    let host = cluster.0.addr;
    let stream = tokio::net::TcpStream::connect(host)
        .await
        .map_err(|_| Refused::Connect { timeout: false, reason: None, host })?;
    let _ = stream.set_nodelay(true);
    let up = if cluster.0.h2 {
        let (sender, driver) = h2::client::Builder::new()
            .initial_window_size(1 << 20)
            .initial_connection_window_size(1 << 24)
            .handshake(tls::Stream::from(stream))
            .await
            .map_err(|_| Refused::Connect { timeout: false, reason: None, host })?;
        tokio::task::spawn_local(async move {
            let _ = driver.await;
        });
        *cluster.0.sender.borrow_mut() = Some(sender.clone());
        Up::h2(sender)
    } else {
        let wire = Wire::new(stream.into());
        Up::h1(Side::H1(H1Side::new(wire, HeaderCase::Lower)), Limits::default(), false)
    };
    Ok((Lease { up, reused: false, cluster: cluster.clone(), worker: conn.worker.clone() }, Some(host)))
}

impl Lease {
    pub fn note(&mut self, ex: &mut Exchange) {
        self.cluster.0.stats.inc(stat::UPSTREAM_RQ_TOTAL);
        ex.upstream.host = Some(self.cluster.0.text.clone());
        ex.upstream.remote = Some(self.cluster.0.addr);
        ex.upstream.protocol = Some(match self.up.side {
            Side::H1(_) => Protocol::Http11,
            Side::H2(_) => Protocol::Http2,
        });
    }
    pub fn sends_trailers(&self) -> bool {
        matches!(self.up.side, Side::H2(_))
    }
    pub fn start_tunnel(&mut self) {}
    pub fn fail(self, _ex: &mut Exchange) {}
    pub fn answered(&mut self, _ex: &mut Exchange, _status: u16) {}
    pub fn abandon(self, ex: &mut Exchange, _ends: bool) {
        self.finish(ex);
    }
    pub fn broken(self, _ex: &mut Exchange, _failure: &Failure) {}
    pub fn finish(self, _ex: &mut Exchange) {
        if self.up.reusable()
            && let Side::H1(mut s) = self.up.side
        {
            s.wire.release(&self.worker);
            self.cluster.0.idle.borrow_mut().push(s.wire);
        }
    }
}
