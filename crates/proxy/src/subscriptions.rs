//! Who tells this proxy what? The aggregated stream and those of single types, over clusters of the bootstrap.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use protos::envoy::config::core::v3::Node;
use proxy_config::bootstrap::Ads;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use upstream::{ConnectRequest, Registry};
use xds::client::{Protocol, Rejection, Update};
use xds_client::{Backoff, BoxIo, Connection, Connector, Event, Handle, Service, Settings};

use crate::config::sds::Source;
use crate::config::{Wanted, url};
use crate::embedding::{Dialer, Embedding};

/// How long a connection attempt waits for its cluster to have a host (its name may be resolving).
const HOSTS_WAIT: Duration = Duration::from_secs(4);
/// How often it looks.
const HOSTS_POLL: Duration = Duration::from_millis(20);

/// Events of all streams that wait for the config thread.
pub const EVENTS_MAX: usize = 64;

/// Which stream an event is of.
pub type StreamId = usize;

struct Stream {
    service: Service,
    source: Source,
    handle: Handle,
}

/// All streams.
pub struct Subscriptions {
    registry: Arc<Registry>,
    node: Node,
    ads: Option<Ads>,
    streams: Vec<Stream>,
    events: mpsc::Sender<(StreamId, Event)>,
    wanted: Wanted,
    /// CDS was asked for.
    clusters: bool,
    /// LDS was asked for.
    listeners: bool,
    embedding: Embedding,
}

impl Subscriptions {
    /// No streams yet.
    pub fn new(
        registry: Arc<Registry>,
        node: Node,
        ads: Option<Ads>,
        events: mpsc::Sender<(StreamId, Event)>,
        embedding: Embedding,
    ) -> Self {
        Self {
            registry,
            node,
            ads,
            streams: Vec::new(),
            events,
            wanted: Wanted::default(),
            clusters: false,
            listeners: false,
            embedding,
        }
    }

    /// The aggregated stream, opened if it is not yet. `None`: the bootstrap has none.
    fn ads(&mut self) -> Option<StreamId> {
        self.stream(&Source::Ads, Service::Aggregated)
    }

    /// The stream of a source, opened if it is not yet; `service` is what it speaks unless it is the aggregated one.
    /// `None`: nothing serves that source.
    fn stream(&mut self, source: &Source, service: Service) -> Option<StreamId> {
        let service = if *source == Source::Ads { Service::Aggregated } else { service };
        if let Some(id) = self.streams.iter().position(|s| s.service == service && s.source == *source) {
            return Some(id);
        }
        let (protocol, cluster, metadata, node_always) = match source {
            Source::Ads => {
                let ads = self.ads.as_ref()?;
                let protocol = if ads.delta { Protocol::Delta } else { Protocol::StateOfTheWorld };
                let metadata = ads.initial_metadata.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
                (protocol, ads.clusters.first()?.to_string(), metadata, !ads.set_node_on_first_message_only)
            }
            Source::Grpc { cluster, delta } => {
                let protocol = if *delta { Protocol::Delta } else { Protocol::StateOfTheWorld };
                (protocol, cluster.clone(), Vec::new(), false)
            }
            Source::Static | Source::File(_) => return None,
        };
        let settings = Settings {
            service,
            protocol,
            node: self.node.clone(),
            authority: cluster.clone(),
            metadata,
            node_always,
            connector: match self.embedding.dialers.get(&cluster) {
                Some(dialer) => dialled(dialer.clone()),
                None => h2_connector(self.registry.clone(), cluster),
            },
            backoff: Backoff::default(),
        };
        let (handle, mut receiver) = xds_client::spawn(settings);
        let (id, events) = (self.streams.len(), self.events.clone());
        tokio::task::spawn_local(async move {
            while let Some(event) = receiver.recv().await {
                if events.send((id, event)).await.is_err() {
                    return;
                }
            }
        });
        self.streams.push(Stream { service, source: source.clone(), handle });
        Some(id)
    }

    /// Asks for all clusters.
    pub fn want_clusters(&mut self) {
        if let Some(id) = self.ads() {
            self.clusters = true;
            self.streams[id].handle.set_names(url::CLUSTER, true, BTreeSet::new());
            for foreign in &self.embedding.types {
                self.streams[id].handle.set_names(foreign, true, BTreeSet::new());
            }
        }
    }

    /// Asks for all listeners, once.
    pub fn want_listeners(&mut self) {
        if !std::mem::replace(&mut self.listeners, true)
            && let Some(id) = self.ads()
        {
            self.streams[id].handle.set_names(url::LISTENER, true, BTreeSet::new());
        }
    }

    /// Asks for what the configuration names now.
    pub fn want(&mut self, wanted: Wanted) {
        if wanted == self.wanted {
            return;
        }
        let ads = self.ads();
        if let Some(id) = ads {
            let handle = &self.streams[id].handle;
            if wanted.endpoints != self.wanted.endpoints {
                handle.set_names(url::ENDPOINT, false, wanted.endpoints.clone());
            }
            if wanted.routes != self.wanted.routes {
                handle.set_names(url::ROUTE, false, wanted.routes.clone());
            }
        }
        self.follow(url::EXTENSION, Service::Extension, |w| &mut w.extensions, &wanted.extensions);
        self.follow(url::SECRET, Service::Secret, |w| &mut w.secrets, &wanted.secrets);
        for (source, names) in &wanted.clusters {
            if self.wanted.clusters.get(source) != Some(names)
                && let Some(id) = self.stream(source, Service::Cluster)
            {
                let all = *source == Source::Ads && self.clusters;
                self.streams[id].handle.set_names(url::CLUSTER, all, names.clone());
            }
        }
        let before = std::mem::take(&mut self.wanted.virtual_hosts);
        let sources: BTreeSet<&Source> = before.keys().chain(wanted.virtual_hosts.keys()).collect();
        for source in sources {
            let names = wanted.virtual_hosts.get(source);
            if before.get(source) != names
                && let Some(id) = self.stream(source, Service::VirtualHost)
            {
                self.streams[id].handle.open(url::VIRTUAL_HOST);
                self.streams[id].handle.set_names(url::VIRTUAL_HOST, false, names.cloned().unwrap_or_default());
            }
        }
        self.wanted = wanted;
    }

    /// Asks each source of a type for what is wanted of it now, if that is another than before.
    fn follow(
        &mut self,
        type_url: &str,
        service: Service,
        of: impl Fn(&mut Wanted) -> &mut BTreeMap<Source, BTreeSet<String>>,
        wanted: &BTreeMap<Source, BTreeSet<String>>,
    ) {
        let before = std::mem::take(of(&mut self.wanted));
        let sources: BTreeSet<&Source> = before.keys().chain(wanted.keys()).collect();
        for source in sources {
            let names = wanted.get(source).cloned().unwrap_or_default();
            if before.get(source) != Some(&names)
                && let Some(id) = self.stream(source, service)
            {
                self.streams[id].handle.set_names(type_url, false, names);
            }
        }
    }

    /// Answers an update.
    pub fn settle(&self, id: StreamId, update: Update, verdict: Result<(), Rejection>) {
        if let Some(stream) = self.streams.get(id) {
            stream.handle.settle(update, verdict);
        }
    }

    /// Is this the aggregated stream?
    pub fn is_ads(&self, id: StreamId) -> bool {
        self.streams.get(id).is_some_and(|s| s.source == Source::Ads)
    }
}

/// Lets the surrounding process connect.
fn dialled(dialer: Dialer) -> Connector {
    std::rc::Rc::new(move || {
        let dialling = dialer();
        Box::pin(async move {
            let dialled = dialling.await?;
            Ok(Connection { io: dialled.io, metadata: dialled.metadata })
        })
    })
}

/// Connects through a cluster of the registry, as all gRPC of Envoy does.
fn h2_connector(registry: Arc<Registry>, name: String) -> Connector {
    std::rc::Rc::new(move || {
        let (registry, name) = (registry.clone(), name.clone());
        Box::pin(async move {
            let io = connect(&registry, &name, Some(b"h2")).await?;
            Ok(Connection { io, metadata: Vec::new() })
        })
    })
}

/// Connects to a host of a cluster, offering `alpn` instead of what the cluster's TLS says.
pub(crate) async fn connect(registry: &Registry, name: &str, alpn: Option<&[u8]>) -> io::Result<BoxIo> {
    let cluster = registry.get(name).ok_or_else(|| io::Error::other(format!("unknown cluster '{name}'")))?;
    let mut waited = Duration::ZERO;
    let hosts = loop {
        let hosts = cluster.hosts();
        if !hosts.hosts.is_empty() {
            break hosts;
        }
        if waited >= HOSTS_WAIT {
            return Err(io::Error::other(format!("cluster '{name}' has no host")));
        }
        tokio::time::sleep(HOSTS_POLL).await;
        waited += HOSTS_POLL;
    };
    let host = &hosts.hosts[rand::random_range(0..hosts.hosts.len())];
    let alpn = alpn.map(|a| [Box::<[u8]>::from(a)]);
    let request = ConnectRequest { alpn: alpn.as_ref().map(|a| &a[..]), ..ConnectRequest::default() };
    let connection =
        upstream::connect(&cluster, host, &request).await.map_err(|e| io::Error::other(e.reason.to_string()))?;
    Ok(Box::pin(Counted { stream: connection.stream, _account: connection.account }) as BoxIo)
}

/// A stream that stays counted in its cluster for as long as it lives.
struct Counted {
    stream: tls::Stream,
    _account: upstream::Account,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
