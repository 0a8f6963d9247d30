//! Who serves? One thread per worker, each with a runtime, listeners and upstream pools of its own.
//!
//! The config thread sends [`Command`]s; nothing on the request path is shared with it but immutable snapshots.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use telemetry::stats::envoy::{thread_local_cluster_manager, watchdog};
use telemetry::stats::{Block, Store};
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use upstream::Registry;

use crate::allocator;

/// What a worker is told.
pub enum Command {
    /// Serve a new listener on these sockets.
    Add(Arc<l4::Listener>, l4::Sockets),
    /// Serve a listener of the same name and address in place of the old one; the sockets stay.
    Replace(Arc<l4::Listener>),
    /// Ask the connections of a listener to close; new ones are still taken.
    Drain(String),
    /// Close a listener's sockets; its connections live on.
    Stop(String),
    /// Ask all connections to close as they become idle, over this time (`/drain_listeners?graceful`, hot restart).
    Draining(Duration),
    /// End; connections are cut.
    Exit,
}

/// A running worker.
struct Worker {
    commands: mpsc::UnboundedSender<Command>,
    thread: Option<JoinHandle<()>>,
}

/// All workers.
pub struct Workers {
    all: Vec<Worker>,
    /// Keeps scopes alive that Envoy prints for each worker.
    _stats: Vec<(Block<watchdog::Watchdog>, Block<thread_local_cluster_manager::ThreadLocalClusterManager>)>,
}

impl Workers {
    /// Starts `count` threads.
    pub fn start(
        count: usize,
        registry: &Arc<Registry>,
        store: &Arc<Store>,
        drain_time: Duration,
        overload: Option<&Arc<l7::overload::Overload>>,
    ) -> io::Result<Self> {
        let mut all = Vec::new();
        let mut stats = Vec::new();
        for id in 0..count {
            let (commands, receiver) = mpsc::unbounded_channel();
            let (registry, own_store, overload) = (registry.clone(), store.clone(), overload.cloned());
            let thread = std::thread::Builder::new()
                .name(format!("wrk:worker_{id}"))
                .spawn(move || run(id, registry, own_store, drain_time, overload, receiver))?;
            all.push(Worker { commands, thread: Some(thread) });
            stats.push((
                store.block(&format!("server.worker_{id}.")),
                store.block(&format!("thread_local_cluster_manager.worker_{id}.")),
            ));
        }
        Ok(Self { all, _stats: stats })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// Tells each worker; `command` is called once per worker.
    pub fn tell(&self, mut command: impl FnMut(usize) -> Command) {
        for (id, worker) in self.all.iter().enumerate() {
            // Fails only when the worker's thread is gone, and with it what the command was for.
            let _ = worker.commands.send(command(id));
        }
    }

    /// Ends all workers and waits for their threads.
    pub fn stop(&mut self) {
        self.tell(|_| Command::Exit);
        for worker in &mut self.all {
            if let Some(thread) = worker.thread.take() {
                // A panic has been reported by its own hook.
                let _ = thread.join();
            }
        }
    }
}

fn run(
    id: usize,
    registry: Arc<Registry>,
    store: Arc<Store>,
    drain_time: Duration,
    overload: Option<Arc<l7::overload::Overload>>,
    mut commands: mpsc::UnboundedReceiver<Command>,
) {
    telemetry::stats::set_worker(id);
    allocator::shelve();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return telemetry::critical!(main, "worker {id}: cannot start: {e}"),
    };
    let seed = rand::random::<u64>();
    let local = LocalSet::new();
    local.block_on(&runtime, async move {
        let http = l7::Worker::new(id, seed, registry.clone());
        if let Some(overload) = overload {
            http.set_overload(overload);
        }
        let deadlines = http.clone();
        tokio::task::spawn_local(async move { deadlines.run().await });
        let worker: Rc<l4::Worker> = l4::Worker::new(id, http.clone(), registry, store);
        worker.set_drain_time(drain_time);
        while let Some(command) = commands.recv().await {
            match command {
                Command::Add(listener, sockets) => {
                    let name = listener.config.name.clone();
                    if let Err(e) = worker.add(listener, sockets) {
                        telemetry::error!(config, "worker {id}: listener {name}: {e}");
                    }
                }
                Command::Replace(listener) => {
                    let name = listener.config.name.clone();
                    if !worker.replace(listener) {
                        telemetry::error!(config, "worker {id}: no listener {name} to replace");
                    }
                }
                Command::Drain(name) => worker.drain(&name),
                Command::Stop(name) => worker.stop(&name),
                Command::Draining(over) => http.set_draining(Some(over)),
                Command::Exit => return,
            }
        }
    });
}
