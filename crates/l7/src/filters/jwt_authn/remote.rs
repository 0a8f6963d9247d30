//! Which keys are in force for a provider whose keys are elsewhere? Fetching, keeping, refreshing.
//!
//! The worker whose request needs keys fetches them through a cluster; all workers share what came.
//! With `async_fetch` one worker fetches ahead: at once, and again before what is kept is old.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http1::{HeaderBlock, HeaderId};
use proxy_config::filters::http::Jwks as Source;
use telemetry::stats::Block;
use telemetry::stats::envoy::jwt_authn as stat;
use tokio::time::Instant;

use super::jwks::Jwks;
use crate::callout::{self, Request};
use crate::worker::Worker;

/// Where the keys are, and what is known of them.
#[derive(Debug)]
pub struct Remote {
    uri: Box<str>,
    authority: Box<str>,
    path: Box<str>,
    cluster: proxy_config::Name,
    timeout: Duration,
    /// How long keys are good.
    cache: Duration,
    /// Fetched ahead; then keys never expire.
    ahead: bool,
    retry_failed: Duration,
    retries: u32,
    held: ArcSwapOption<Held>,
    started: AtomicBool,
}

#[derive(Debug)]
struct Held {
    keys: Arc<Jwks>,
    until: Option<Instant>,
}

impl Remote {
    /// The runtime form of a remote source; `None` for a local one.
    pub fn new(source: &Source) -> Option<Arc<Self>> {
        let Source::Remote { uri, cache, async_fetch, failed_refetch, retries, .. } = source else { return None };
        let rest = uri.uri.split_once("://").map_or(&*uri.uri, |(_, rest)| rest);
        let at = rest.find('/').unwrap_or(rest.len());
        Some(Arc::new(Remote {
            uri: (&*uri.uri).into(),
            authority: rest[..at].into(),
            path: if at < rest.len() { rest[at..].into() } else { "/".into() },
            cluster: uri.cluster.clone(),
            timeout: uri.timeout,
            cache: *cache,
            ahead: *async_fetch,
            retry_failed: *failed_refetch,
            retries: *retries,
            held: ArcSwapOption::empty(),
            started: AtomicBool::new(false),
        }))
    }

    /// The keys, if there are some that are still good.
    pub fn keys(&self) -> Option<Arc<Jwks>> {
        let held = self.held.load();
        let held = held.as_ref()?;
        held.until.is_none_or(|t| Instant::now() < t).then(|| held.keys.clone())
    }

    /// Fetches the keys and keeps them.
    pub async fn fetch(&self, worker: &Rc<Worker>, stats: &Block<stat::JwtAuthn>) -> Option<Arc<Jwks>> {
        let mut fetched = None;
        for _ in 0..=self.retries {
            fetched = self.fetch_once(worker).await;
            if fetched.is_some() {
                break;
            }
        }
        let Some(keys) = fetched else {
            stats.inc(stat::JWKS_FETCH_FAILED);
            return None;
        };
        stats.inc(stat::JWKS_FETCH_SUCCESS);
        let until = (!self.ahead).then(|| Instant::now() + self.cache);
        self.held.store(Some(Arc::new(Held { keys: keys.clone(), until })));
        Some(keys)
    }

    async fn fetch_once(&self, worker: &Rc<Worker>) -> Option<Arc<Jwks>> {
        let mut head = HeaderBlock::new();
        head.add_id(HeaderId::METHOD, b"GET");
        head.add_id(HeaderId::PATH, self.path.as_bytes());
        head.add_id(HeaderId::AUTHORITY, self.authority.as_bytes());
        // Envoy's fetcher calls itself so.
        head.set(b"user-agent", b"Go-browser");
        let request = Request { head, body: Vec::new(), timeout: self.timeout };
        let answer = callout::call(worker, &self.cluster, request).await;
        let why = match answer {
            Ok(a) if a.status == 200 => match Jwks::parse(&a.body) {
                Ok(keys) => return Some(Arc::new(keys)),
                Err(status) => status.text().to_owned(),
            },
            Ok(a) => format!("status {}", a.status),
            Err(e) => format!("{e:?}"),
        };
        telemetry::warn!(jwt, "fetching keys from {} through cluster {}: {why}", self.uri, self.cluster);
        None
    }

    /// Starts fetching ahead, if that is configured; only the first worker's call has effect.
    pub fn start(self: &Arc<Self>, worker: &Rc<Worker>, stats: &Block<stat::JwtAuthn>) {
        if !self.ahead || self.started.swap(true, Ordering::Relaxed) {
            return;
        }
        // Ends with the configuration that it belongs to.
        let (this, worker, stats) = (Arc::downgrade(self), worker.clone(), stats.clone());
        tokio::task::spawn_local(async move {
            while let Some(remote) = this.upgrade() {
                let fetched = remote.fetch(&worker, &stats).await.is_some();
                let wait = if fetched { remote.cache } else { remote.retry_failed };
                drop(remote);
                worker.timers.sleep(wait).await;
            }
        });
    }
}
