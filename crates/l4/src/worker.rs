//! What does a worker thread listen on, and which connections are its own?
//!
//! `proxy` makes one per worker thread, inside its `LocalSet`, and tells it of listeners. A connection
//! is accepted here and lives here. Deliberately absent: configuration, binding.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use l7::overload::Place;
use proxy_config::Name;
use proxy_config::listener::ListenAddress;
use telemetry::stats::envoy::{listener as stat, listener_worker};
use telemetry::stats::{Block, Store};
use tls::Socket;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::task::AbortHandle;
use upstream::internal::InternalConnection;

use crate::accepted::{About, Accepted};
use crate::connection;
use crate::listener::{Chain, Listener, Terminal};
use crate::sockets::Sockets;

/// First wait after the process ran out of descriptors or memory; doubled up to the second.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(10);
const ACCEPT_BACKOFF_MAX: Duration = Duration::from_secs(1);
/// How long replaced chains may keep their connections unless the process says otherwise.
const DRAIN_TIME_DEFAULT: Duration = Duration::from_secs(600);

/// Unix sockets and internal connections have no address that chains or formats could use.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

static NEXT_CONNECTION_ID: AtomicU64 = AtomicU64::new(1);

/// One worker's listeners and connections.
pub struct Worker {
    /// Which worker, from 0.
    pub id: usize,
    /// The HTTP side of this worker.
    pub http: Rc<l7::Worker>,
    /// Balancing state of TCP proxies.
    pub(crate) upstream: Rc<upstream::Worker<()>>,
    store: Arc<Store>,
    listeners: RefCell<HashMap<Name, Rc<Active>>>,
    by_address: RefCell<HashMap<SocketAddr, Rc<Active>>>,
    connections: RefCell<HashMap<u64, Entry>>,
    drain_time: Cell<Duration>,
    /// HTTP/2 connections that TCP proxies tunnel through.
    pub(crate) tunnels: crate::tunnel::Tunnels,
    /// The place of the connection that is being taken in.
    place: Cell<Option<Place>>,
}

struct Entry {
    task: AbortHandle,
    /// `None` while listener filters run.
    chain: Option<Arc<Chain>>,
    /// Counted against the process's limit.
    _place: Option<Place>,
}

/// A listener in service.
pub(crate) struct Active {
    listener: RefCell<Arc<Listener>>,
    /// `listener.<address>.worker_<n>.`
    pub stats: Block<listener_worker::ListenerWorker>,
    accepting: RefCell<Vec<AbortHandle>>,
    stopped: Cell<bool>,
}

impl Active {
    /// The configuration in force.
    pub fn listener(&self) -> Arc<Listener> {
        self.listener.borrow().clone()
    }
}

impl Worker {
    /// A worker without listeners. Call it on the worker's own thread.
    pub fn new(id: usize, http: Rc<l7::Worker>, registry: Arc<upstream::Registry>, store: Arc<Store>) -> Rc<Self> {
        let seed = http.random();
        let worker = Rc::new(Worker {
            id,
            http,
            upstream: upstream::Worker::new(registry, seed),
            store,
            listeners: RefCell::default(),
            by_address: RefCell::default(),
            connections: RefCell::default(),
            drain_time: Cell::new(DRAIN_TIME_DEFAULT),
            tunnels: Default::default(),
            place: Cell::new(None),
        });
        let weak = Rc::downgrade(&worker);
        upstream::internal::on_connect(Rc::new(move |c| weak.upgrade().is_some_and(|w| w.connected_internally(c))));
        worker
    }

    /// How long connections of replaced and removed chains may live on (`--drain-time-s`).
    pub fn set_drain_time(&self, d: Duration) {
        self.drain_time.set(d);
    }

    /// Takes a listener into service. One of the same name is replaced, sockets and all.
    ///
    /// Errors: a socket that the runtime does not take.
    pub fn add(self: &Rc<Self>, listener: Arc<Listener>, sockets: Sockets) -> io::Result<()> {
        let name = listener.config.name.clone();
        self.stop(&name);
        self.start(&listener);
        let stats = self.store.block(&format!("listener.{}.worker_{}.", listener.stat_name(), self.id));
        let active = Rc::new(Active {
            listener: RefCell::new(listener),
            stats,
            accepting: RefCell::default(),
            stopped: Cell::new(false),
        });
        for (_, socket) in sockets.tcp {
            let task = accept_tcp(self.clone(), active.clone(), TcpListener::from_std(socket)?);
            active.accepting.borrow_mut().push(tokio::task::spawn_local(task).abort_handle());
        }
        for (_, socket) in sockets.unix {
            let task = accept_unix(self.clone(), active.clone(), UnixListener::from_std(socket)?);
            active.accepting.borrow_mut().push(tokio::task::spawn_local(task).abort_handle());
        }
        let mut by_address = self.by_address.borrow_mut();
        for address in active.listener().local_addresses() {
            by_address.insert(address, active.clone());
        }
        let old = self.listeners.borrow_mut().insert(name, active);
        drop(by_address);
        if let Some(old) = old {
            self.retire(old.listener().chains().cloned().collect());
        }
        Ok(())
    }

    /// Puts a new configuration of a listener in force; its sockets stay. Connections of chains that
    /// the new one keeps are undisturbed, those of other chains drain. False: there is no such listener.
    pub fn replace(self: &Rc<Self>, listener: Arc<Listener>) -> bool {
        let Some(active) = self.listeners.borrow().get(&listener.config.name).cloned() else {
            return false;
        };
        self.start(&listener);
        let old = active.listener.replace(listener.clone());
        self.retire(old.chains().filter(|c| !listener.has(c)).cloned().collect());
        true
    }

    /// The first worker starts what a listener's HTTP filters do ahead of requests.
    fn start(&self, listener: &Listener) {
        if self.id != 0 {
            return;
        }
        for chain in listener.chains() {
            if let Terminal::Http(manager) = &chain.terminal {
                manager.start(&self.http);
            }
        }
    }

    /// Drains a listener: its HTTP connections are asked to close, and after the drain time what is
    /// left is closed. It goes on accepting until [`Worker::stop`].
    pub fn drain(self: &Rc<Self>, name: &str) {
        if let Some(active) = self.listeners.borrow().get(name) {
            self.retire(active.listener().chains().cloned().collect());
        }
    }

    /// Closes a listener's sockets. Its connections live on.
    pub fn stop(&self, name: &str) {
        let Some(active) = self.listeners.borrow().get(name).cloned() else {
            return;
        };
        active.stopped.set(true);
        for task in active.accepting.take() {
            task.abort();
        }
        self.by_address.borrow_mut().retain(|_, a| !Rc::ptr_eq(a, &active));
    }

    /// Drains a listener and closes its sockets.
    pub fn remove(self: &Rc<Self>, name: &str) {
        self.drain(name);
        self.stop(name);
        self.listeners.borrow_mut().remove(name);
    }

    /// Connections that have found their filter chain.
    pub fn connections(&self) -> usize {
        self.connections.borrow().values().filter(|e| e.chain.is_some()).count()
    }

    /// A random number for balancing and sampling.
    pub(crate) fn random(&self) -> u64 {
        self.http.random()
    }

    /// Lets chains drain, and closes what is left of them after the drain time.
    fn retire(self: &Rc<Self>, chains: Vec<Arc<Chain>>) {
        if chains.is_empty() {
            return;
        }
        for chain in &chains {
            chain.drain();
        }
        let worker = self.clone();
        tokio::task::spawn_local(async move {
            tokio::time::sleep(worker.drain_time.get()).await;
            worker.close(&chains);
        });
    }

    fn close(&self, chains: &[Arc<Chain>]) {
        let gone = |c: &Arc<Chain>| chains.iter().any(|g| g.id == c.id);
        for entry in self.connections.borrow().values() {
            if entry.chain.as_ref().is_some_and(gone) {
                entry.task.abort();
            }
        }
    }

    /// The listener for a restored destination: its exact address, else the wildcard of its port.
    pub(crate) fn find(&self, to: SocketAddr) -> Option<Rc<Active>> {
        let all = self.by_address.borrow();
        let any4 = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), to.port());
        let any6 = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), to.port());
        let wildcard = if to.is_ipv4() { [any4, any6] } else { [any6, any4] };
        std::iter::once(to).chain(wildcard).find_map(|a| all.get(&a)).cloned()
    }

    /// Notes which chain a connection belongs to.
    pub(crate) fn enter(&self, id: u64, chain: &Arc<Chain>) {
        if let Some(entry) = self.connections.borrow_mut().get_mut(&id) {
            entry.chain = Some(chain.clone());
        }
    }

    /// Waits while the overload manager has no connection accepted; the one that came before this was known waits, too.
    async fn accepting(&self) {
        if let Some(overload) = self.http.overload() {
            overload.accepting().await;
        }
    }

    /// Whether the overload manager lets a connection in. One that is not let in is closed at once, and counted.
    fn admits(&self, active: &Active) -> bool {
        let Some(overload) = self.http.overload() else { return true };
        let listener = active.listener();
        if overload.reject_connections.load(Ordering::Relaxed) {
            listener.stats.inc(stat::DOWNSTREAM_CX_OVERLOAD_REJECT);
            return false;
        }
        let exempt = listener.config.ignore_global_conn_limit;
        let place = overload.enter(exempt);
        if place.is_none() {
            listener.stats.inc(stat::DOWNSTREAM_GLOBAL_CX_OVERFLOW);
        }
        let admitted = place.is_some();
        self.place.set(place);
        admitted
    }

    fn accepted(self: &Rc<Self>, active: &Rc<Active>, socket: Socket, remote: SocketAddr, local: SocketAddr) {
        let about = self.about(remote, local);
        self.serve(active, Accepted { socket, about });
    }

    /// A connection of this process to one of its internal listeners. False: there is no such listener.
    fn connected_internally(self: &Rc<Self>, c: InternalConnection) -> bool {
        let Some(active) = self.listeners.borrow().get(&c.listener).cloned() else { return false };
        if active.stopped.get() || !matches!(active.listener().config.address, ListenAddress::Internal) {
            return false;
        }
        let mut about = self.about(NOWHERE, NOWHERE);
        about.state.clone_from(&c.state);
        about.shared = c.state;
        about.metadata = c.metadata;
        self.serve(&active, Accepted { socket: c.socket, about });
        true
    }

    fn about(&self, remote: SocketAddr, local: SocketAddr) -> Box<About> {
        let began = Instant::now();
        Box::new(About {
            id: NEXT_CONNECTION_ID.fetch_add(1, Ordering::Relaxed),
            remote,
            direct_remote: remote,
            local,
            direct_local: local,
            restored: false,
            original_src: None,
            transport_protocol: "raw_buffer",
            server_name: None,
            application_protocols: Vec::new(),
            state: Vec::new(),
            shared: Vec::new(),
            metadata: Vec::new(),
            began,
            began_at: self.http.wall(began.into()),
            filter_chain: None,
            tls: None,
            peer: None,
            early: Vec::new(),
        })
    }

    fn serve(self: &Rc<Self>, active: &Rc<Active>, accepted: Accepted) {
        let id = accepted.about.id;
        telemetry::debug!(conn_handler, "[C{id}] new connection from {}", accepted.about.remote);
        let (worker, active) = (self.clone(), active.clone());
        let task = tokio::task::spawn_local(async move {
            struct Leave(Rc<Worker>, u64);
            impl Drop for Leave {
                fn drop(&mut self) {
                    self.0.connections.borrow_mut().remove(&self.1);
                }
            }
            let timers = worker.http.timers.clone();
            // Made here: a future that is captured and then awaited would be held twice.
            let serving = pin!(connection::serve(worker.clone(), active, accepted));
            let _leave = Leave(worker, id);
            timers.polling(serving).await;
        });
        let _place = self.place.take();
        self.connections.borrow_mut().insert(id, Entry { task: task.abort_handle(), chain: None, _place });
    }
}

async fn accept_tcp(worker: Rc<Worker>, active: Rc<Active>, socket: TcpListener) {
    let mut backoff = ACCEPT_BACKOFF;
    loop {
        match socket.accept().await {
            Ok((stream, remote)) => {
                backoff = ACCEPT_BACKOFF;
                worker.accepting().await;
                if worker.admits(&active)
                    && let Some((stream, local)) = prepared(stream, remote)
                {
                    worker.accepted(&active, Socket::Tcp(stream), remote, local);
                }
            }
            Err(e) => refused(&active, &e, &mut backoff).await,
        }
    }
}

/// Options of an accepted socket. `None`: the peer is already gone.
fn prepared(stream: TcpStream, remote: SocketAddr) -> Option<(TcpStream, SocketAddr)> {
    stream.set_nodelay(true).ok()?;
    let local = stream.local_addr().ok()?;
    upstream::cheapen(&stream, local, remote);
    Some((stream, local))
}

async fn accept_unix(worker: Rc<Worker>, active: Rc<Active>, socket: UnixListener) {
    let mut backoff = ACCEPT_BACKOFF;
    loop {
        match socket.accept().await {
            Ok((stream, _)) => {
                backoff = ACCEPT_BACKOFF;
                worker.accepting().await;
                if !worker.admits(&active) {
                    continue;
                }
                worker.accepted(&active, Socket::Unix(stream), NOWHERE, NOWHERE);
            }
            Err(e) => refused(&active, &e, &mut backoff).await,
        }
    }
}

/// An accept failed: wait if the process is out of something, go on at once if only the peer left.
async fn refused(active: &Active, e: &io::Error, backoff: &mut Duration) {
    let code = e.raw_os_error().map(rustix::io::Errno::from_raw_os_error);
    use rustix::io::Errno;
    if matches!(code, Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) {
        active.listener().stats.inc(stat::DOWNSTREAM_CX_OVERLOAD_REJECT);
        telemetry::warn!(conn_handler, "accept failed, waiting {backoff:?}: {e}");
        tokio::time::sleep(*backoff).await;
        *backoff = (*backoff * 2).min(ACCEPT_BACKOFF_MAX);
    }
}
