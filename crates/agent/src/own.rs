//! How does our own proxy run in this process? On threads of its own, steered by its handle; its end is our end.
//! Called by [`crate::run`] when no other program is named; a foreign proxy is `envoy`'s business.

use anyhow::{Context as _, anyhow, bail};
use proxy::options::Parsed;
use proxy::{Bootstrap, Handle};

use crate::envoy::{Drain, Options};

/// Exit code of a proxy that ended without being asked to.
const UNASKED: u8 = 1;

/// Starts the proxy as the same command line would start Envoy; static configuration is in force on return.
pub async fn start(options: &Options) -> anyhow::Result<Handle> {
    let options = match proxy::options::parse(options.args().into_iter())? {
        Parsed::Run(options) => *options,
        Parsed::Print(text) => bail!("{text}"),
    };
    telemetry::log::set_all(options.log_level);
    telemetry::log::set_components(&options.component_log_level).map_err(|e| anyhow!("{e}"))?;
    let begin = move || {
        let bootstrap: Bootstrap = proxy::bootstrap::load(&options)?;
        anyhow::Ok(proxy::start(bootstrap, options)?)
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
