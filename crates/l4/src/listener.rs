//! What does a listener need at run time? Compiled once by the config thread, shared by all workers.
//!
//! Chains whose configuration did not change are carried over from the listener that is replaced, so
//! that their connections, limits and connection managers live on undisturbed.
//! Deliberately absent: sockets (`sockets`), accepting (`worker`).

use std::collections::HashMap;
use std::fmt::Write;
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::ArcSwapOption;
use l7::log::{Logger, Targets, loggers};
use proxy_config::common::Address;
use proxy_config::listener::NetworkFilterKind;
use proxy_config::listener::{self as config, DownstreamTransport, ListenAddress, ListenerFilterKind};
use proxy_config::route::RouteTable;
use proxy_core::filter_chain;
use telemetry::access_log::Sinks;
use telemetry::stats::envoy::{
    http_inspector, listener as stat, proxy_proto, proxy_proto_root, ssl_context, tls_inspector,
};
use telemetry::stats::{Block, Expiring, Store};
use tls::{SecretStore, ServerContext};
use upstream::Registry;

use crate::accepted::About;
use crate::bucket::Bucket;
use crate::filters::Filter;
use crate::sockets::{self, Inherit, Sockets};
use crate::tcp_proxy::TcpProxy;

/// What a listener takes from the process.
pub struct Deps<'a> {
    /// Stats.
    pub store: &'a Arc<Store>,
    /// Access log files.
    pub sinks: &'a Sinks,
    /// What leaves for collectors.
    pub exports: &'a Arc<l7::export::Exports>,
    /// Clusters.
    pub registry: &'a Arc<Registry>,
    /// Secrets.
    pub secrets: &'a Arc<SecretStore>,
    /// Route tables by RDS name: the slot that the subscription fills.
    pub routes: &'a dyn Fn(&str) -> Arc<ArcSwapOption<RouteTable>>,
    /// Facts of this node.
    pub node: Arc<l7::Node>,
}

impl Deps<'_> {
    /// Where access logs go to.
    pub(crate) fn targets(&self) -> Targets<'_> {
        Targets { sinks: self.sinks, exports: self.exports, node: &self.node }
    }
}

/// A compiled listener.
pub struct Listener {
    /// Its configuration.
    pub config: Arc<config::Listener>,
    /// `listener.<address>.`
    pub stats: Block<stat::Listener>,
    /// `listener.<address>.ssl.`
    pub ssl: Option<tls::stats::SessionStats>,
    /// `listener.<address>.server_ssl_socket_factory.`
    pub ssl_context: Block<ssl_context::SslContext>,
    pub(crate) tls_inspector: Block<tls_inspector::TlsInspector>,
    pub(crate) http_inspector: Block<http_inspector::HttpInspector>,
    pub(crate) listener_filters: Box<[FilterState]>,
    pub(crate) loggers: Box<[Logger]>,
    pub(crate) node: Arc<l7::Node>,
    /// By the address of the configured chain, which `config` keeps alive.
    chains: HashMap<usize, Arc<Chain>>,
    bound: Mutex<Vec<SocketAddr>>,
    stat_name: String,
}

impl Expiring for Listener {
    fn expiries(&self, each: &mut dyn FnMut(String, u64)) {
        for context in self.chains.values().filter_map(|c| c.tls.as_ref()) {
            context.expiries(&mut |name, at| each(format!("{}ssl.certificate.{name}.", self.stats.prefix()), at));
        }
    }
}

/// State of a listener filter beside its configuration.
pub(crate) enum FilterState {
    /// None.
    Stateless,
    /// `local_ratelimit`
    RateLimit(Bucket),
    /// `proxy_protocol`
    ProxyProtocol(Block<proxy_proto::ProxyProto>, Block<proxy_proto_root::Root>),
}

/// A compiled filter chain.
pub struct Chain {
    /// Its configuration.
    pub config: Arc<config::FilterChain>,
    /// Unique in this process.
    pub id: u64,
    pub(crate) tls: Option<Arc<ServerContext>>,
    pub(crate) filters: Box<[Filter]>,
    pub(crate) terminal: Terminal,
    /// `istio.stats` for byte streams.
    pub(crate) recorder: Option<Box<l7::istio::Recorder>>,
    /// Hash of the configuration: chains with the same one are the same.
    fingerprint: u64,
    draining: AtomicBool,
}

/// The filter that owns the bytes.
pub(crate) enum Terminal {
    /// `http_connection_manager`
    Http(Arc<l7::Manager>),
    /// `tcp_proxy`
    Tcp(Arc<TcpProxy>),
    /// `echo`
    Echo,
    /// `direct_response`
    DirectResponse(Arc<[u8]>),
}

impl Listener {
    /// Compiles a listener that replaces none.
    ///
    /// Errors name the chain and filter that cannot be served.
    pub fn new(config: Arc<config::Listener>, deps: &Deps<'_>) -> Result<Arc<Self>, String> {
        Self::succeed(config, deps, None)
    }

    /// Compiles a listener that takes over from `previous`: chains with equal configuration are kept.
    pub fn succeed(
        config: Arc<config::Listener>,
        deps: &Deps<'_>,
        previous: Option<&Listener>,
    ) -> Result<Arc<Self>, String> {
        let stat_name = stat_name(&config);
        let kept: HashMap<u64, &Arc<Chain>> =
            previous.iter().flat_map(|p| p.chains.values()).map(|c| (c.fingerprint, c)).collect();
        let mut chains = HashMap::new();
        for c in config.chains.all() {
            let fingerprint = fingerprint(c, &stat_name);
            let chain = match kept.get(&fingerprint) {
                Some(chain) if !chain.draining() => Arc::clone(chain),
                _ => Arc::new(
                    Chain::new(c.clone(), fingerprint, &stat_name, &config, deps)
                        .map_err(|e| format!("listener {}: filter chain '{}': {e}", config.name, c.name))?,
                ),
            };
            chains.insert(Arc::as_ptr(c) as usize, chain);
        }
        let listener_filters = config
            .listener_filters
            .iter()
            .map(|f| match &f.kind {
                ListenerFilterKind::LocalRateLimit(c) => Ok(FilterState::RateLimit(Bucket::new(c.bucket))),
                ListenerFilterKind::OriginalDst => Ok(FilterState::Stateless),
                _ if matches!(config.address, ListenAddress::Internal) => Err(format!(
                    "listener {}: listener filter {} is not supported on an internal listener",
                    config.name, f.name
                )),
                ListenerFilterKind::ProxyProtocol(c) => {
                    let dot = if c.stat_prefix.is_empty() { "" } else { "." };
                    let own = deps.store.block(&format!("proxy_proto.{}{dot}", c.stat_prefix));
                    Ok(FilterState::ProxyProtocol(own, deps.store.block("")))
                }
                _ => Ok(FilterState::Stateless),
            })
            .collect::<Result<_, _>>()?;
        let prefix = format!("listener.{stat_name}.");
        // Stats of what a listener does not have do not exist, as in Envoy.
        let tls = chains.values().any(|c| c.tls.is_some());
        let has =
            |wanted: &dyn Fn(&ListenerFilterKind) -> bool| config.listener_filters.iter().any(|f| wanted(&f.kind));
        let listener = Arc::new(Listener {
            stats: deps.store.block(&prefix),
            ssl: tls.then(|| tls::stats::SessionStats::new(deps.store, &format!("{prefix}ssl."))),
            ssl_context: if tls {
                deps.store.block(&format!("{prefix}server_ssl_socket_factory."))
            } else {
                Block::detached()
            },
            tls_inspector: if has(&|k| matches!(k, ListenerFilterKind::TlsInspector { .. })) {
                deps.store.block("tls_inspector.")
            } else {
                Block::detached()
            },
            http_inspector: if has(&|k| matches!(k, ListenerFilterKind::HttpInspector)) {
                deps.store.block("http_inspector.")
            } else {
                Block::detached()
            },
            listener_filters,
            loggers: loggers(&config.access_logs, deps.targets())
                .map_err(|e| format!("listener {}: {e}", config.name))?,
            node: deps.node.clone(),
            chains,
            bound: Mutex::new(previous.map_or_else(Vec::new, |p| p.local_addresses())),
            stat_name,
            config,
        });
        if tls {
            let holder: Weak<Listener> = Arc::downgrade(&listener);
            deps.store.expires(holder);
        }
        Ok(listener)
    }

    /// Binds its sockets and has them listen: one bundle per worker, empty ones when it is reached by hand-over only.
    pub fn bind(&self, workers: usize) -> io::Result<Vec<Sockets>> {
        let all = self.bind_or_inherit(workers, &|_| Vec::new())?;
        all.iter().try_for_each(|sockets| sockets.listen(&self.config))?;
        Ok(all)
    }

    /// Binds them only, taking sockets from a predecessor process where it has them; see [`Sockets::listen`].
    pub fn bind_or_inherit(&self, workers: usize, inherit: Inherit<'_>) -> io::Result<Vec<Sockets>> {
        let all = sockets::bind(&self.config, workers, inherit)?;
        *self.bound.lock().unwrap_or_else(PoisonError::into_inner) =
            all.first().map(Sockets::addresses).unwrap_or_default();
        Ok(all)
    }

    /// Where it listens (with real ports), or would if it were bound.
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        let bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
        if bound.is_empty() { self.configured_addresses() } else { bound.clone() }
    }

    /// The numeric addresses of its configuration.
    pub fn configured_addresses(&self) -> Vec<SocketAddr> {
        let main = match &self.config.address {
            ListenAddress::Bound(a) => Some(a),
            ListenAddress::Internal => None,
        };
        main.into_iter().chain(&self.config.additional_addresses).filter_map(Address::socket).collect()
    }

    /// `0.0.0.0_8000`: its name in stats.
    pub fn stat_name(&self) -> &str {
        &self.stat_name
    }

    /// The chain for a connection; `None`: nothing matches.
    pub(crate) fn select(&self, about: &About) -> Option<&Arc<Chain>> {
        let protocols: Vec<&[u8]> = about.application_protocols.iter().map(|p| &**p).collect();
        let conn = filter_chain::ConnFacts {
            destination: Some(about.local),
            source: Some(about.remote),
            direct_source: Some(about.direct_remote.ip()),
            server_name: about.server_name.as_deref().unwrap_or(""),
            transport_protocol: about.transport_protocol,
            application_protocols: &protocols,
        };
        let chain = filter_chain::select(&self.config.chains, &conn)?;
        self.chains.get(&(Arc::as_ptr(chain) as usize))
    }

    /// Whether `chain` is one of this listener's.
    pub(crate) fn has(&self, chain: &Chain) -> bool {
        self.chains.values().any(|c| c.id == chain.id)
    }

    /// Puts a filter that is discovered into force in all chains that have a place for it.
    pub fn set_discovered(
        &self,
        name: &str,
        type_url: &str,
        kind: &proxy_config::filters::http::HttpFilterKind,
        deps: &Deps<'_>,
    ) -> Result<(), String> {
        for chain in self.chains() {
            if let Terminal::Http(manager) = &chain.terminal {
                manager.set_discovered(name, type_url, kind, &http_deps(deps, self.stat_name(), &self.config))?;
            }
        }
        Ok(())
    }

    /// Puts the default back into the places of a filter that is discovered no more.
    pub fn clear_discovered(&self, name: &str) {
        for chain in self.chains() {
            if let Terminal::Http(manager) = &chain.terminal {
                manager.clear_discovered(name);
            }
        }
    }

    /// Names of filters that are discovered.
    pub fn discovered(&self) -> std::collections::BTreeSet<String> {
        let managers = self.chains().filter_map(|c| match &c.terminal {
            Terminal::Http(m) => Some(m),
            _ => None,
        });
        managers.flat_map(|m| m.discovered().map(str::to_owned)).collect()
    }

    /// Its chains, in no order.
    pub fn chains(&self) -> impl Iterator<Item = &Arc<Chain>> {
        self.chains.values()
    }
}

impl Chain {
    fn new(
        config: Arc<config::FilterChain>,
        fingerprint: u64,
        stat_name: &str,
        listener: &config::Listener,
        deps: &Deps<'_>,
    ) -> Result<Self, String> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let tls = match &config.transport {
            DownstreamTransport::Raw => None,
            DownstreamTransport::Tls(c) => {
                Some(Arc::new(ServerContext::from_config(c, deps.secrets).map_err(|e| e.to_string())?))
            }
        };
        let (last, before) = config.filters.split_last().ok_or("no network filters")?;
        let mut filters = Vec::new();
        for f in before {
            filters.extend(Filter::new(f, &deps.node, deps.store)?);
        }
        let recorder = before.iter().find_map(|f| match &f.kind {
            NetworkFilterKind::IstioStats(c) => {
                Some(Box::new(l7::istio::Recorder::new(c, listener.traffic_direction, &deps.node, deps.store)))
            }
            _ => None,
        });
        let terminal = match &last.kind {
            NetworkFilterKind::Hcm(hcm) => {
                Terminal::Http(l7::Manager::new(hcm.clone(), &http_deps(deps, stat_name, listener))?)
            }
            NetworkFilterKind::TcpProxy(c) if last.name.contains("redis") => {
                telemetry::info!(config, "network filter {} lets bytes pass uninterpreted", last.name);
                Terminal::Tcp(Arc::new(TcpProxy::new(c.clone(), deps)?))
            }
            NetworkFilterKind::TcpProxy(c) => Terminal::Tcp(Arc::new(TcpProxy::new(c.clone(), deps)?)),
            NetworkFilterKind::Echo => Terminal::Echo,
            NetworkFilterKind::DirectResponse(bytes) => Terminal::DirectResponse(bytes.clone()),
            _ => {
                return Err(format!("the last network filter, {}, is not terminal", last.name));
            }
        };
        Ok(Chain {
            config,
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            tls,
            filters: filters.into(),
            terminal,
            recorder,
            fingerprint,
            draining: AtomicBool::new(false),
        })
    }

    /// Starts draining: HTTP connections are asked to close; nothing is cut off.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        if let Terminal::Http(m) = &self.terminal {
            m.drain();
        }
    }

    /// Whether it drains.
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Certificates it presents, for the admin's `/certs`.
    pub fn certificates(&self) -> Vec<Arc<tls::Certificate>> {
        self.tls.as_ref().map(|t| t.certificates()).unwrap_or_default()
    }
}

/// What a connection manager takes from the process.
fn http_deps<'a>(deps: &Deps<'a>, stat_name: &'a str, listener: &config::Listener) -> l7::Deps<'a> {
    l7::Deps {
        store: deps.store,
        sinks: deps.sinks,
        exports: deps.exports,
        routes: deps.routes,
        listener: stat_name,
        node: deps.node.clone(),
        direction: listener.traffic_direction,
        drain_modify_only: listener.drain_modify_only,
    }
}

/// Two chains with the same fingerprint are configured alike. Hashes the debug form, which shows
/// every field of a configuration.
fn fingerprint(c: &config::FilterChain, stat_name: &str) -> u64 {
    struct Hashed(DefaultHasher);
    impl Write for Hashed {
        fn write_str(&mut self, s: &str) -> std::fmt::Result {
            self.0.write(s.as_bytes());
            Ok(())
        }
    }
    let mut h = Hashed(DefaultHasher::new());
    // Hashing cannot fail.
    let _ = write!(h, "{stat_name} {c:?}");
    h.0.finish()
}

fn stat_name(c: &config::Listener) -> String {
    match (&c.stat_prefix, &c.address) {
        (Some(prefix), _) if !prefix.is_empty() => prefix.to_string(),
        (_, ListenAddress::Bound(a)) => a.to_string().replace(':', "_"),
        (_, ListenAddress::Internal) => format!("envoy_internal_{}", c.name),
    }
}
