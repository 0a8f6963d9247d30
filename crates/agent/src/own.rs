//! How does our own proxy run in this process? On threads of its own, steered by its handle; its end is our end.
//! Called by [`crate::run`] when no other program is named; a foreign proxy is `envoy`'s business.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, anyhow, bail};
use prost::Message as _;
use protos::istio::networking::nds::v1::NameTable;
use proxy::embedding::{BoxIo, Dialer, Dialled, Heard};
use proxy::options::Parsed;
use proxy::{Bootstrap, Embedding, Handle};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use xds::server::Kind;

use crate::control::Control;
use crate::envoy::{Drain, Options};
use crate::last_good::Change;
use crate::relay::{self, Learned};
use crate::sds;

/// The bootstrap's cluster of the control plane.
const XDS_CLUSTER: &str = "xds-grpc";
/// The bootstrap's cluster of secrets.
const SDS_CLUSTER: &str = "sds-grpc";

/// Exit code of a proxy that ended without being asked to.
const UNASKED: u8 = 1;

/// Where the proxy's management servers are in this process: secrets in memory (unless another program serves them), the
/// control plane without a relay in between.
pub fn embedding(
    control: &Arc<Control>,
    secrets: Option<mpsc::Sender<io::Result<DuplexStream>>>,
    learned: &Learned,
) -> Embedding {
    let mut dialers: HashMap<String, Dialer> = HashMap::new();
    if let Some(server) = secrets {
        let dialer: Dialer = Arc::new(move || {
            let server = server.clone();
            Box::pin(async move {
                let io = Box::pin(sds::connect(&server).await?) as BoxIo;
                Ok(Dialled { io, metadata: Vec::new() })
            })
        });
        dialers.insert(SDS_CLUSTER.to_owned(), dialer);
    }
    // Whether this proxy has configuration, from the control plane or from what was kept.
    let configured = Arc::new(AtomicBool::new(false));
    let (to, known, served) = (Arc::clone(control), Arc::clone(&configured), learned.clone());
    let dialer: Dialer = Arc::new(move || {
        let (to, known, learned) = (Arc::clone(&to), Arc::clone(&known), served.clone());
        Box::pin(async move {
            if !known.load(Ordering::Acquire)
                && let Some(io) = relay::connect_kept(&to, &learned)
            {
                return Ok(Dialled { io: Box::pin(io) as BoxIo, metadata: Vec::new() });
            }
            let connected = to.connect().await.map_err(|error| {
                learned.metrics.istiod_failures.add();
                tracing::warn!(target: "xdsproxy", "connection to control plane: {error:#}");
                io::Error::other(format!("{error:#}"))
            })?;
            tracing::info!(target: "xdsproxy", "connected to upstream XDS server");
            Ok(Dialled { io: Box::pin(connected) as BoxIo, metadata: to.metadata() })
        })
    });
    dialers.insert(XDS_CLUSTER.to_owned(), dialer);
    let recalled = learned.kept.clone();
    let learned = learned.clone();
    let types = if learned.want_names { vec![Kind::NameTable.type_url()] } else { Vec::new() };
    let heard: Heard = Arc::new(move |update, taken| {
        learned.metrics.xds_responses.add();
        let Some(kind) = Kind::from_type_url(&update.type_url) else { return };
        if kind == Kind::NameTable
            && let Some(table) = update.resources.first().and_then(|r| NameTable::decode(&*r.body.value).ok())
        {
            learned.names.send_replace(Arc::new(table));
        }
        if taken {
            configured.fetch_or(kind == Kind::Listener, Ordering::AcqRel);
            if let Some(kept) = &learned.kept {
                let removed = update.removed.iter().cloned().map(Change::Remove);
                let put = update.resources.iter().map(|r| Change::Put(r.name.clone(), r.body.value.clone()));
                kept.keep(kind, removed.chain(put).collect());
            }
        }
    });
    // A host that was not there has no message.
    let hosts = recalled.map(|kept| kept.resources(Kind::VirtualHost)).unwrap_or_default();
    let recall = hosts.iter().filter(|host| !host.value.is_empty()).map(|host| host.name.to_string()).collect();
    Embedding { dialers, types, heard: Some(heard), recall }
}

/// Starts the proxy as the same command line would start Envoy; static configuration is in force on return.
pub async fn start(options: &Options, embedding: Embedding) -> anyhow::Result<Handle> {
    let options = match proxy::options::parse(options.args(0).into_iter())? {
        Parsed::Run(options) => *options,
        Parsed::Print(text) => bail!("{text}"),
    };
    telemetry::log::set_all(options.log_level);
    telemetry::log::set_components(&options.component_log_level).map_err(|e| anyhow!("{e}"))?;
    let begin = move || {
        let bootstrap: Bootstrap = proxy::bootstrap::load(&options)?;
        anyhow::Ok(proxy::start_embedded(bootstrap, options, embedding)?)
    };
    // Static configuration may ask the sockets that this very thread serves.
    tokio::task::spawn_blocking(begin).await.context("starting the proxy")?
}

/// Waits until the proxy ends by itself, or until `stop` says that it has been drained. Returns the exit code.
pub async fn supervise(proxy: &Handle, stop: impl AsyncFnOnce() -> Drain) -> anyhow::Result<u8> {
    let (tell, mut exited) = tokio::sync::oneshot::channel();
    let waited = proxy.clone();
    std::thread::Builder::new().name("proxy-exit".into()).stack_size(WAITER_STACK_BYTES).spawn(move || {
        waited.wait();
        // Fails only when nobody waits any more.
        let _ = tell.send(());
    })?;
    let drain = tokio::select! {
        _ = &mut exited => {
            tracing::error!(target: "default", "the proxy ended by itself");
            return Ok(UNASKED);
        }
        drain = stop() => drain,
    };
    proxy.shutdown();
    if tokio::time::timeout(drain.patience, exited).await.is_err() {
        tracing::warn!(target: "default", "the proxy did not end within {:?}", drain.patience);
    }
    Ok(0)
}

/// The waiting thread does nothing but wait.
const WAITER_STACK_BYTES: usize = 64 << 10;
