//! Who answers a freshly started proxy? The agent, at once, with what the proxy had before ([`crate::last_good`]): its life goes
//! on while the control plane is still being reached. Once that is so and the proxy has settled, the stream ends, and the proxy
//! goes to the control plane with the versions it has. Called by [`crate::relay`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::Stream;
use tonic::Status;
use xds::server::{Event, Kind, ResourceSet, Want};

use crate::control::Control;
use crate::last_good::LastGood;
use crate::stream::{self, Dialect, Source};

/// How often a control plane that is away is tried.
const TRY_EVERY: Duration = Duration::from_secs(1);
/// A proxy that has its listeners and then asks for nothing for this long has all it needs.
const QUIET: Duration = Duration::from_millis(300);
/// A proxy that refuses its kept listeners, or waits for what is not there, is not held longer.
const SETTLE_MAX: Duration = Duration::from_secs(3);

/// What was kept, and how far the proxy has come with it.
struct Kept {
    store: LastGood,
    progress: Arc<Progress>,
}

/// When the proxy, having taken its listeners, last said something: milliseconds since `begun`, 0 before.
struct Progress {
    begun: Instant,
    said: AtomicU64,
}

impl Progress {
    fn elapsed(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX).max(1)
    }

    fn hear(&self, event: &Event) {
        let listeners = event.kind == Kind::Listener && event.answer == Some(Ok(()));
        if listeners || self.said.load(Ordering::Relaxed) > 0 {
            self.said.store(self.elapsed(), Ordering::Relaxed);
        }
    }

    /// Resolves when the proxy needs nothing more, or with `false` when it does not come so far.
    async fn settled(&self) -> bool {
        while self.begun.elapsed() < SETTLE_MAX {
            let quiet = match self.said.load(Ordering::Relaxed) {
                0 => Duration::ZERO,
                said => Duration::from_millis(self.elapsed().saturating_sub(said)),
            };
            if quiet >= QUIET {
                return true;
            }
            tokio::time::sleep(QUIET - quiet).await;
        }
        false
    }
}

impl Source for Kept {
    fn make(&mut self, want: &Want<'_>) -> Option<ResourceSet> {
        let all = self.store.resources(want.kind);
        if want.wildcard {
            return Some(all);
        }
        Some(all.iter().filter(|r| want.names.contains(&r.name)).cloned().collect())
    }

    fn check(&mut self, event: &Event) -> Result<(), Status> {
        self.progress.hear(event);
        if let Some(Err(reason)) = &event.answer {
            tracing::warn!(target: "xdsproxy", "proxy refused kept {}: {reason}", event.kind);
        }
        Ok(())
    }
}

/// Serves one stream from what was kept, until the proxy leaves, or has settled and the control plane can be reached.
pub async fn serve<D: Dialect>(
    first: D::Request,
    inbound: impl Stream<Item = Result<D::Request, Status>> + Unpin,
    sender: &mpsc::Sender<Result<D::Response, Status>>,
    kept: &LastGood,
    control: &Arc<Control>,
) -> Result<(), Status> {
    tracing::info!(target: "xdsproxy", "serving the configuration accepted last");
    let progress = Arc::new(Progress { begun: Instant::now(), said: AtomicU64::new(0) });
    let source = Kept { store: kept.clone(), progress: Arc::clone(&progress) };
    let served = stream::serve::<D, _, ()>(Some(first), inbound, sender, source, None, None);
    let reachable = async {
        let settled = progress.settled().await;
        while let Err(error) = control.connect().await {
            tracing::warn!(target: "xdsproxy", "control plane is away: {error:#}");
            tokio::time::sleep(TRY_EVERY).await;
        }
        if !settled {
            tracing::warn!(target: "xdsproxy", "the configuration accepted last does not do any more");
            kept.doubt();
        }
    };
    tokio::select! {
        served = served => served,
        () = reachable => Err(Status::unavailable("the control plane can be reached")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: Kind, answer: Option<Result<(), String>>) -> Event {
        Event { kind, answer, subscribed: false, expired_nonce: false }
    }

    #[tokio::test(start_paused = true)]
    async fn a_proxy_has_settled_when_it_asks_for_nothing_after_its_listeners() {
        let progress = Progress { begun: Instant::now(), said: AtomicU64::new(0) };
        tokio::time::advance(Duration::from_secs(1)).await;
        progress.hear(&event(Kind::Cluster, Some(Ok(()))));
        progress.hear(&event(Kind::Listener, Some(Err("refused".into()))));
        assert_eq!(progress.said.load(Ordering::Relaxed), 0, "no listeners yet");
        progress.hear(&event(Kind::Listener, Some(Ok(()))));
        tokio::time::advance(QUIET / 2).await;
        progress.hear(&event(Kind::Route, None));
        assert!(progress.settled().await);
        assert!(progress.begun.elapsed() >= Duration::from_secs(1) + QUIET / 2 + QUIET);
        // One that never takes listeners is let go, too.
        let progress = Progress { begun: Instant::now(), said: AtomicU64::new(0) };
        assert!(!progress.settled().await);
        assert!(progress.begun.elapsed() >= SETTLE_MAX);
    }
}
