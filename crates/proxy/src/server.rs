//! The config thread: starts everything, applies what streams and signals bring, ends everything.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use telemetry::access_log::Sinks as LogFiles;
use telemetry::stats::envoy::{
    control_plane, filesystem, http1, overload, overload_action_count, router, runtime, server as stat,
    thread_local_cluster_manager, watchdog,
};
use telemetry::stats::{Block, Store};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use xds_client::Event;

use crate::bootstrap::Bootstrap;
use crate::config::clusters::{Clusters, INITIAL_FETCH_TIMEOUT};
use crate::config::listeners::{Deps, Listeners};
use crate::config::routes::Routes;
use crate::config::secrets::Secrets;
use crate::config::{Config, url};
use crate::handle::{Shared, Tell};
use crate::hot_restart::Parent;
use crate::options::{DrainStrategy, Options};
use crate::sinks::Sinks;
use crate::subscriptions::{EVENTS_MAX, Subscriptions};
use crate::workers::Workers;
use crate::{StartError, admin, hot_restart, memory, settings};

/// `envoy.admin.v3.ServerInfo.State`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Serving.
    Live,
    /// Draining, or failing health checks.
    Draining,
    /// Loading static configuration.
    PreInitializing,
    /// Waiting for the first dynamic configuration.
    Initializing,
}

impl State {
    /// Envoy's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "LIVE",
            Self::Draining => "DRAINING",
            Self::PreInitializing => "PRE_INITIALIZING",
            Self::Initializing => "INITIALIZING",
        }
    }
}

/// What the admin interface and the loop share, all on the config thread.
pub struct Server {
    /// The command line.
    pub options: Options,
    /// The bootstrap.
    pub bootstrap: Bootstrap,
    /// When the bootstrap was loaded.
    pub loaded: SystemTime,
    /// When this process started serving.
    pub started: Instant,
    /// Configuration in force.
    pub config: RefCell<Config>,
    /// Stats.
    pub store: Arc<Store>,
    /// Access log files.
    pub sinks: Arc<LogFiles>,
    /// Clusters.
    pub registry: Arc<upstream::Registry>,
    /// Secrets.
    pub secrets: Arc<tls::SecretStore>,
    /// `http.admin.`, `listener.admin.`
    pub counts: Rc<admin::Counts>,
    /// `server.`
    pub stats: Block<stat::Server>,
    /// Runtime overrides made by `/runtime_modify`.
    pub runtime: RefCell<std::collections::BTreeMap<String, String>>,
    /// What other threads see.
    pub shared: Arc<Shared>,
    /// Takes connections of the admin interface.
    admin: RefCell<Option<AbortHandle>>,
    /// The process that this one replaces.
    parent: Option<Arc<Parent>>,
    state: Cell<State>,
    node: Arc<l7::Node>,
    kept: Kept,
}

/// Scopes that Envoy prints though nothing here counts in them.
struct Kept {
    _watchdogs: [Block<watchdog::Watchdog>; 3],
    _async_client: Block<router::Router>,
    _http1: Block<http1::Http1>,
    _overload: Block<overload::Overload>,
    _overload_action: Block<overload_action_count::OverloadActionCount>,
    inflated: Block<thread_local_cluster_manager::ThreadLocalClusterManager>,
    runtime: Block<runtime::Runtime>,
    control_plane: Block<control_plane::ControlPlane>,
}

impl Server {
    /// Current state; failing health checks show as draining.
    pub fn state(&self) -> State {
        if self.node.is_failing() && self.state.get() == State::Live { State::Draining } else { self.state.get() }
    }

    /// `/healthcheck/fail` and `/healthcheck/ok`
    pub fn set_failing(&self, failing: bool) {
        self.node.failing.store(failing, Relaxed);
        self.publish();
    }

    fn set_state(&self, state: State) {
        self.state.set(state);
        self.publish();
    }

    fn publish(&self) {
        let state = self.state();
        self.stats.gauge_set(stat::LIVE, (state == State::Live) as u64);
        self.stats.gauge_set(stat::STATE, state as u64);
        self.shared.set_live(state == State::Live);
    }

    /// Brings gauges up to date that are read, not counted.
    pub fn refresh(&self) {
        self.kept.inflated.gauge_set(thread_local_cluster_manager::CLUSTERS_INFLATED, self.registry.all().len() as u64);
        self.registry.all().iter().for_each(|c| c.refresh_breakers());
        let figures = memory::figures();
        self.stats.gauge_set(stat::MEMORY_ALLOCATED, figures.allocated);
        self.stats.gauge_set(stat::MEMORY_HEAP_SIZE, figures.heap_size);
        self.stats.gauge_set(stat::MEMORY_PHYSICAL_SIZE, figures.total_physical_bytes);
        self.stats.gauge_set(stat::UPTIME, self.started.elapsed().as_secs());
        self.stats.gauge_set(stat::DAYS_UNTIL_FIRST_CERT_EXPIRING, admin::days_until_expiry(&self.secrets));
    }

    /// Starts draining: listeners stop once the drain time is over, or at once if not graceful.
    pub fn drain(self: &Rc<Self>, graceful: bool, inbound_only: bool, skip_stop: bool) {
        self.config.borrow_mut().listeners.drain(inbound_only);
        if skip_stop {
            return;
        }
        if !graceful {
            return self.config.borrow_mut().listeners.stop(inbound_only);
        }
        let server = self.clone();
        tokio::task::spawn_local(async move {
            tokio::time::sleep(server.options.drain_time).await;
            server.config.borrow_mut().listeners.stop(inbound_only);
        });
    }

    /// The task that serves the admin address.
    pub fn set_admin(&self, task: AbortHandle) {
        self.admin.replace(Some(task));
    }

    /// Gives up the admin address, for a successor process. When it returns, the address is free.
    pub async fn close_admin(&self) {
        let Some(task) = self.admin.take() else { return };
        task.abort();
        while !task.is_finished() {
            tokio::task::yield_now().await;
        }
    }

    /// A successor serves: stop accepting, let connections drain.
    pub fn hand_over(&self) {
        telemetry::info!(main, "hot restart: a successor serves; draining");
        let mut config = self.config.borrow_mut();
        config.listeners.stop(false);
        config.listeners.drain(false);
        drop(config);
        self.set_state(State::Draining);
    }

    /// This process serves: the parent drains, and ends after its time.
    fn take_over(&self) {
        let Some(parent) = self.parent.clone() else { return };
        parent.drain();
        let patience = self.options.parent_shutdown_time;
        tokio::task::spawn_local(async move {
            tokio::time::sleep(patience).await;
            telemetry::info!(main, "terminating parent process");
            parent.end();
        });
    }

    /// Reopens log files after rotation.
    pub fn reopen_logs(&self) {
        self.sinks.reopen();
        if let Err(e) = telemetry::log::reopen() {
            telemetry::error!(main, "cannot reopen the log: {e}");
        }
    }
}

/// Builds and runs a server until it is told to end. `ready` hears once whether the start worked.
pub(crate) async fn run(
    bootstrap: Bootstrap,
    options: Options,
    shared: Arc<Shared>,
    mut tell: mpsc::UnboundedReceiver<Tell>,
    ready: impl FnOnce(Result<(), StartError>),
) {
    let (events, mut received) = mpsc::channel(EVENTS_MAX);
    let (server, mut subscriptions) = match start(bootstrap, options, shared, events).await {
        Ok(started) => started,
        Err(e) => return ready(Err(e)),
    };
    ready(Ok(()));
    let mut phase = Phase::begin(&server, &mut subscriptions);
    let mut flush = interval(server.bootstrap.config.stats_flush_interval.max(Duration::from_millis(100)));
    flush.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut signals = match Signals::new(server.options.handle_signals) {
        Ok(signals) => signals,
        Err(e) => return telemetry::critical!(main, "cannot handle signals: {e}"),
    };
    tokio::task::spawn_local(detect_outliers(server.registry.clone()));
    let node = server.bootstrap.message.node.clone().unwrap_or_default();
    let sinks = Sinks::start(&server.bootstrap.config.stats_sinks, &server.registry, &node, &server.store);
    if let Some(every) = server.bootstrap.config.stats_eviction_interval {
        tokio::task::spawn_local(evict_stats(every));
    }
    tokio::task::spawn_local(crate::files::watch(server.clone()));
    loop {
        let wanted = server.config.borrow_mut().advance();
        subscriptions.want(wanted);
        phase.advance(&server, &mut subscriptions);
        let deadline = [server.config.borrow().deadline(), phase.deadline()].into_iter().flatten().min();
        tokio::select! {
            Some((id, event)) = received.recv() => on_event(&server, &mut subscriptions, &mut phase, id, event),
            () = server.registry.woken() => {}
            () = server.registry.demand().asked() => server.config.borrow_mut().heed(),
            () = async { sleep_until(deadline.unwrap_or_else(Instant::now)).await }, if deadline.is_some() => {}
            _ = flush.tick() => {
                server.refresh();
                server.store.flush();
                sinks.flush(&server.store);
            }
            told = tell.recv() => match told {
                Some(Tell::Drain { graceful }) => server.drain(graceful, false, false),
                Some(Tell::FailHealthCheck(failing)) => server.set_failing(failing),
                Some(Tell::Shutdown) | None => break,
            },
            what = signals.next() => match what {
                Signal::End => break,
                Signal::Reopen => server.reopen_logs(),
            },
        }
    }
    telemetry::info!(main, "shutting down server instance");
    server.set_state(State::Draining);
    server.config.borrow_mut().listeners.workers().stop();
    server.sinks.flush();
    telemetry::info!(main, "exiting");
}

async fn start(
    mut bootstrap: Bootstrap,
    options: Options,
    shared: Arc<Shared>,
    events: mpsc::Sender<(usize, Event)>,
) -> Result<(Rc<Server>, Subscriptions), StartError> {
    let resources = Static {
        messages: bootstrap.message.static_resources.take().unwrap_or_default(),
        clusters: std::mem::take(&mut bootstrap.config.clusters),
        listeners: std::mem::take(&mut bootstrap.config.listeners),
    };
    let store = shared.store.clone();
    let server_stats: Block<stat::Server> = store.block("server.");
    telemetry::info!(main, "initializing epoch {} (base id={})", options.restart_epoch, options.base_id);
    let sinks =
        Arc::new(LogFiles::new(options.file_flush_interval, store.block::<filesystem::Filesystem>("filesystem.")));
    let (registry, secret_store) = (shared.registry.clone(), shared.secrets.clone());
    let overload = bootstrap.config.overload.as_ref().map(|_| Arc::new(l7::overload::Overload::default()));
    if let (Some(config), Some(state)) = (bootstrap.config.overload.clone(), &overload) {
        if let Some(name) = crate::overload::unserved(&config) {
            return Err(StartError::Static(format!("overload_manager.actions: '{name}' is not served")));
        }
        let manager = crate::overload::Manager::new(&config, state.clone(), &store);
        tokio::task::spawn_local(async move {
            let mut tick = interval(config.refresh_interval);
            loop {
                tick.tick().await;
                manager.refresh();
            }
        });
    }
    let workers = Workers::start(options.concurrency, &registry, &store, options.drain_time, overload.as_ref())
        .map_err(StartError::Thread)?;
    registry.set_workers(options.concurrency);
    if let Some(name) = bootstrap.config.local_cluster.clone() {
        let none = || proxy_config::cluster::Locality { region: "".into(), zone: "".into(), sub_zone: "".into() };
        registry.local().set(name, bootstrap.config.node.locality.clone().unwrap_or_else(none));
    }
    let outlier_log = bootstrap.config.outlier_event_log_path.as_deref();
    registry
        .set_event_logs(sinks.clone(), outlier_log)
        .map_err(|e| StartError::Static(format!("unable to open file '{}': {e}", outlier_log.unwrap_or_default())))?;
    let parent = Parent::find(&options).map(Arc::new);
    if let Some(parent) = &parent {
        parent.close_admin();
    }
    let routes = Routes { recall: shared.embedding.recall.iter().cloned().collect(), ..Routes::default() };
    let (exports, opened) = l7::export::Exports::new(&store);
    let node = Arc::new(settings::node(&bootstrap));
    exports.set_default_tracer(bootstrap.config.tracer.clone());
    let deps = Deps {
        store: store.clone(),
        sinks: sinks.clone(),
        exports,
        registry: registry.clone(),
        secrets: secret_store.clone(),
        slots: routes.slots.clone(),
        node: node.clone(),
        parent: parent.clone(),
        keep_sockets: options.handle_signals && !options.disable_hot_restart,
        drain_over: match options.drain_strategy {
            DrainStrategy::Gradual => options.drain_time,
            DrainStrategy::Immediate => Duration::ZERO,
        },
    };
    let dynamic = &bootstrap.config.dynamic;
    let config = Config::new(
        store.clone(),
        registry.clone(),
        dynamic,
        Clusters::new(registry.clone(), store.block("cluster_manager.")),
        Listeners::new(deps, workers, store.block("listener_manager."), options.drain_time),
        routes,
        Secrets::new(secret_store.clone(), store.clone()),
    );
    let server = Rc::new(Server {
        loaded: SystemTime::now(),
        started: Instant::now(),
        config: RefCell::new(config),
        counts: admin::Counts::new(&store),
        sinks,
        registry: registry.clone(),
        secrets: secret_store,
        stats: server_stats,
        runtime: RefCell::default(),
        admin: RefCell::default(),
        parent,
        state: Cell::new(State::PreInitializing),
        node: node.clone(),
        kept: Kept {
            _watchdogs: [store.block("server.main_thread."), store.block("main_thread."), store.block("workers.")],
            _async_client: store.block("http.async-client."),
            _http1: store.block("http1."),
            _overload: store.block("overload."),
            _overload_action: store.block("envoy.overload_actions.reset_high_memory_stream."),
            inflated: store.block("thread_local_cluster_manager.main_thread."),
            runtime: store.block("runtime."),
            control_plane: if bootstrap.config.dynamic.ads.is_some() {
                store.block("control_plane.")
            } else {
                Block::detached()
            },
        },
        shared,
        store,
        options,
        bootstrap,
    });
    server.stats.gauge_set(stat::CONCURRENCY, server.options.concurrency as u64);
    server.stats.gauge_set(stat::HOT_RESTART_EPOCH, server.options.restart_epoch.into());
    server.kept.runtime.inc(runtime::LOAD_SUCCESS);
    server.kept.runtime.inc(runtime::OVERRIDE_DIR_NOT_EXISTS);
    let layers = server.bootstrap.message.layered_runtime.as_ref().map_or(0, |r| r.layers.len());
    server.kept.runtime.gauge_set(runtime::NUM_LAYERS, layers as u64);
    server.kept.runtime.gauge_set(runtime::NUM_KEYS, server.bootstrap.config.runtime.len() as u64);
    server.publish();
    server.refresh();
    if let Err(e) = hot_restart::serve(&server) {
        // Envoy does not start then; two processes that never replace each other need not care.
        let (base, epoch) = (server.options.base_id, server.options.restart_epoch);
        telemetry::warn!(main, "hot restart is off: cannot bind socket of base_id={base}, epoch {epoch}: {e}");
    }
    admin::serve(&server)?;
    load_static(&server, resources)?;
    let node = server.bootstrap.message.node.clone().unwrap_or_default();
    tokio::task::spawn_local(crate::export::serve(opened, registry.clone(), node.clone()));
    let embedding = server.shared.embedding.clone();
    let ads = server.bootstrap.config.dynamic.ads.clone();
    let subscriptions = Subscriptions::new(registry, node, ads, events, embedding);
    memory::trim();
    Ok((server, subscriptions))
}

/// The bootstrap's own resources, let go of once loaded.
struct Static {
    messages: protos::envoy::config::bootstrap::v3::bootstrap::StaticResources,
    clusters: Vec<Arc<proxy_config::cluster::Cluster>>,
    listeners: Vec<Arc<proxy_config::listener::Listener>>,
}

fn load_static(server: &Server, resources: Static) -> Result<(), StartError> {
    let mut config = server.config.borrow_mut();
    let Static { messages, clusters, listeners } = resources;
    telemetry::info!(config, "loading {} static secret(s)", messages.secrets.len());
    for secret in &messages.secrets {
        config.secrets.add_static(secret).map_err(|e| StartError::Static(format!("secret {}: {e}", secret.name)))?;
    }
    telemetry::info!(config, "loading {} cluster(s)", messages.clusters.len());
    for (proto, compiled) in messages.clusters.iter().zip(&clusters) {
        config.clusters.add_static(proto, compiled.clone());
    }
    config.clusters.count();
    telemetry::info!(config, "loading {} listener(s)", messages.listeners.len());
    for (proto, compiled) in messages.listeners.iter().zip(&listeners) {
        config.listeners.add_static(proto, compiled.clone()).map_err(StartError::Static)?;
    }
    Ok(())
}

fn on_event(server: &Rc<Server>, subscriptions: &mut Subscriptions, phase: &mut Phase, id: usize, event: Event) {
    let control = &server.kept.control_plane;
    match event {
        Event::Connected => {
            if subscriptions.is_ads(id) {
                control.gauge_set(control_plane::CONNECTED_STATE, 1);
            }
        }
        Event::Disconnected(reason) => {
            if subscriptions.is_ads(id) {
                control.gauge_set(control_plane::CONNECTED_STATE, 0);
            }
            telemetry::warn!(config, "gRPC config stream closed: {reason}");
        }
        Event::Update(update) if server.shared.embedding.is_foreign(&update) => {
            server.shared.embedding.hear(&update, true);
            subscriptions.settle(id, update, Ok(()));
        }
        Event::Update(update) => {
            let ads = subscriptions.is_ads(id);
            let verdict = server.config.borrow_mut().apply(&update, ads);
            if ads {
                server.shared.embedding.hear(&update, verdict.is_ok());
                phase.seen(&update.type_url);
            }
            // Names first: the answer then finds the server knowing what the new resources need.
            let wanted = server.config.borrow_mut().advance();
            subscriptions.want(wanted);
            subscriptions.settle(id, update, verdict);
            memory::trim();
        }
    }
}

/// Forgets series of Istio's metrics that nobody used for an interval.
async fn evict_stats(every: Duration) {
    let mut tick = interval(every);
    loop {
        tick.tick().await;
        l7::istio::evict();
    }
}

/// How far the start has come: clusters first, then listeners, then live.
struct Phase {
    clusters: Option<Instant>,
    listeners: Option<Instant>,
    seen_clusters: bool,
    seen_listeners: bool,
    wants_listeners: bool,
    opened: bool,
    live: bool,
}

impl Phase {
    fn begin(server: &Rc<Server>, subscriptions: &mut Subscriptions) -> Self {
        let dynamic = &server.bootstrap.config.dynamic;
        let patience = Instant::now() + INITIAL_FETCH_TIMEOUT;
        if dynamic.cds.is_some() {
            subscriptions.want_clusters();
        }
        server.set_state(State::Initializing);
        Self {
            clusters: dynamic.cds.is_some().then_some(patience),
            listeners: None,
            seen_clusters: dynamic.cds.is_none(),
            seen_listeners: dynamic.lds.is_none(),
            wants_listeners: dynamic.lds.is_some(),
            opened: false,
            live: false,
        }
    }

    fn seen(&mut self, type_url: &str) {
        match type_url {
            url::CLUSTER => self.seen_clusters = true,
            url::LISTENER => self.seen_listeners = true,
            _ => {}
        }
    }

    fn deadline(&self) -> Option<Instant> {
        if self.live { None } else { self.listeners.or(self.clusters) }
    }

    fn advance(&mut self, server: &Rc<Server>, subscriptions: &mut Subscriptions) {
        if self.live {
            return;
        }
        let now = Instant::now();
        let late = |deadline: Option<Instant>| deadline.is_some_and(|d| d <= now);
        let clusters = (self.seen_clusters && server.config.borrow().clusters.is_settled()) || late(self.clusters);
        if !clusters {
            return;
        }
        self.clusters = None;
        self.seen_clusters = true;
        if !std::mem::replace(&mut self.opened, true) {
            let mut config = server.config.borrow_mut();
            config.listeners.open();
            let wanted = config.advance();
            drop(config);
            subscriptions.want(wanted);
        }
        if self.wants_listeners && self.listeners.is_none() {
            telemetry::info!(upstream, "cm init: all clusters initialized");
            subscriptions.want_listeners();
            self.listeners = Some(now + INITIAL_FETCH_TIMEOUT);
        }
        let listeners = (self.seen_listeners && server.config.borrow().listeners.is_settled()) || late(self.listeners);
        if listeners {
            self.live = true;
            server.config.borrow().listeners.started();
            telemetry::info!(main, "all clusters initialized. initializing init manager");
            telemetry::info!(config, "all dependencies initialized. starting workers");
            server.stats.record(stat::INITIALIZATION_TIME_MS, server.started.elapsed().as_millis() as u64);
            server.set_state(State::Live);
            server.take_over();
            memory::forget_code();
            memory::trim();
            tokio::task::spawn_local(memory::rest());
            telemetry::info!(main, "starting main dispatch loop");
        }
    }
}

/// Runs the periodic part of outlier detection.
async fn detect_outliers(registry: Arc<upstream::Registry>) {
    /// Finest interval honoured.
    const INTERVAL_MIN: Duration = Duration::from_millis(10);
    let mut due: HashMap<Arc<str>, Instant> = HashMap::new();
    let mut watched = Vec::new();
    let mut version = 0;
    loop {
        let now = Instant::now();
        if version != registry.version() {
            version = registry.version();
            watched = registry.all();
            watched.retain(|c| c.config.outlier_detection.is_some());
            let names: HashSet<&str> = watched.iter().map(|c| &*c.config.name).collect();
            due.retain(|name, _| names.contains(&**name));
        }
        let mut next = None;
        for cluster in &watched {
            let Some(rules) = &cluster.config.outlier_detection else { continue };
            let interval = rules.interval.max(INTERVAL_MIN);
            let at = due.entry(cluster.config.name.clone()).or_insert(now + interval);
            if *at <= now {
                *at = now + interval;
                upstream::outlier::tick(cluster);
            }
            next = Some(next.map_or(*at, |n: Instant| n.min(*at)));
        }
        tokio::select! {
            () = registry.changed() => {}
            () = async { sleep_until(next.unwrap_or(now)).await }, if next.is_some() => {}
        }
    }
}

enum Signal {
    End,
    Reopen,
}

struct Signals(Option<[tokio::signal::unix::Signal; 4]>);

impl Signals {
    fn new(handle: bool) -> std::io::Result<Self> {
        if !handle {
            return Ok(Self(None));
        }
        let (term, int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Self(Some([term, int, signal(SignalKind::user_defined1())?, signal(SignalKind::hangup())?])))
    }

    async fn next(&mut self) -> Signal {
        let Some([term, int, reopen, hangup]) = &mut self.0 else { return std::future::pending().await };
        loop {
            tokio::select! {
                _ = term.recv() => {
                    telemetry::warn!(main, "caught ENVOY_SIGTERM");
                    return Signal::End;
                }
                _ = int.recv() => {
                    telemetry::warn!(main, "caught SIGINT");
                    return Signal::End;
                }
                _ = reopen.recv() => return Signal::Reopen,
                _ = hangup.recv() => telemetry::warn!(main, "caught and eating SIGHUP. See documentation about how to hot restart."),
            }
        }
    }
}
