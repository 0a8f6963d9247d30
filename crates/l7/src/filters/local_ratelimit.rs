//! Is this request within the local rate? Envoy's `LocalRateLimitFilter` with its token buckets.
//!
//! One bucket per configured level, shared by all workers through atomics.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proxy_config::filters::FilterOverride;
use proxy_config::filters::http as config;
use proxy_config::filters::network::TokenBucket;
use telemetry::access_log::ResponseFlags;
use telemetry::stats::Block;
use telemetry::stats::envoy::local_rate_limit as stat;

use super::{FilterCx, Step};
use crate::decide;
use crate::exchange::Exchange;
use crate::manager::Deps;
use crate::reply::LocalReply;

/// Buckets of per-route configurations remembered per filter.
const ROUTE_BUCKETS_MAX: usize = 4096;

/// A token bucket that any thread may draw from.
///
/// Follows Envoy's atomic bucket: the fill is continuous, the state is one number.
pub struct Bucket {
    began: Instant,
    /// Nanoseconds per token.
    nanos_per_token: u64,
    max_nanos: u64,
    /// Time (ns since `began`) at which the bucket was last empty.
    empty_at: AtomicU64,
}

/// Offset that lets `empty_at` start a full bucket in the past.
const OFFSET_NANOS: u64 = 1 << 62;

impl Bucket {
    /// A full bucket.
    pub fn new(c: &TokenBucket) -> Self {
        let fill = c.fill_interval.max(Duration::from_millis(1)).as_nanos() as u64;
        let nanos_per_token = (fill / c.tokens_per_fill.max(1) as u64).max(1);
        let max_nanos = nanos_per_token.saturating_mul(c.max_tokens as u64).min(OFFSET_NANOS / 2);
        Bucket { began: Instant::now(), nanos_per_token, max_nanos, empty_at: AtomicU64::new(OFFSET_NANOS - max_nanos) }
    }

    /// Takes a token if there is one.
    pub fn take(&self) -> bool {
        let now = OFFSET_NANOS + self.began.elapsed().as_nanos() as u64;
        self.empty_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |empty| {
                let empty = empty.max(now - self.max_nanos);
                (now - empty >= self.nanos_per_token).then_some(empty + self.nanos_per_token)
            })
            .is_ok()
    }
}

/// The filter of one chain.
pub struct LocalRateLimit {
    level: Level,
    store: Arc<telemetry::stats::Store>,
    routes: std::sync::RwLock<Vec<(Arc<config::LocalRateLimit>, Arc<Level>)>>,
}

struct Level {
    config: Arc<config::LocalRateLimit>,
    bucket: Option<Bucket>,
    descriptors: Box<[Bucket]>,
    stats: Block<stat::LocalRateLimit>,
}

impl Level {
    fn new(config: Arc<config::LocalRateLimit>, store: &Arc<telemetry::stats::Store>) -> Self {
        Level {
            bucket: config.bucket.as_ref().map(Bucket::new),
            descriptors: config.descriptors.iter().map(|d| Bucket::new(&d.bucket)).collect(),
            stats: store.block(&format!("{}.http_local_rate_limit.", config.stat_prefix)),
            config,
        }
    }
}

impl LocalRateLimit {
    /// Compiles the filter.
    pub fn new(config: Arc<config::LocalRateLimit>, deps: &Deps<'_>) -> Self {
        LocalRateLimit { level: Level::new(config, deps.store), store: deps.store.clone(), routes: Default::default() }
    }

    /// The level of a per-route configuration, made when first met.
    fn route_level(&self, config: &Arc<config::LocalRateLimit>) -> Arc<Level> {
        let find = |all: &Vec<(Arc<config::LocalRateLimit>, Arc<Level>)>| {
            all.iter().find(|(c, _)| Arc::ptr_eq(c, config)).map(|(_, l)| l.clone())
        };
        if let Some(level) = find(&self.routes.read().unwrap_or_else(|e| e.into_inner())) {
            return level;
        }
        let mut all = self.routes.write().unwrap_or_else(|e| e.into_inner());
        if let Some(level) = find(&all) {
            return level;
        }
        // Configurations that only this list holds belong to replaced route tables.
        all.retain(|(c, _)| Arc::strong_count(c) > 2);
        if all.len() >= ROUTE_BUCKETS_MAX {
            all.remove(0);
        }
        let level = Arc::new(Level::new(config.clone(), &self.store));
        all.push((config.clone(), level.clone()));
        level
    }

    /// Draws a token.
    pub fn on_request(&self, cx: &FilterCx<'_>, ex: &mut Exchange, over: Option<&FilterOverride>) -> Step {
        match over {
            Some(FilterOverride::LocalRateLimit(c)) => {
                let level = self.route_level(c);
                check(&level, cx, ex)
            }
            _ => check(&self.level, cx, ex),
        }
    }

    /// Nothing yet: `x-ratelimit-*` are added to the reply itself.
    pub fn on_response(&self, _ex: &mut Exchange) {}
}

fn check(level: &Level, cx: &FilterCx<'_>, ex: &mut Exchange) -> Step {
    let c = &level.config;
    let Some(default) = &level.bucket else {
        return Step::Continue;
    };
    if !c.enabled.hit(cx.conn.worker.random()) {
        return Step::Continue;
    }
    level.stats.inc(stat::ENABLED);
    let matched = decide::local_descriptor(cx, ex, c);
    let ok = match matched {
        Some(i) => {
            level.descriptors.get(i).is_none_or(Bucket::take)
                && (!c.always_consume_default_token_bucket || default.take())
        }
        None => default.take(),
    };
    if ok {
        level.stats.inc(stat::OK);
        return Step::Continue;
    }
    level.stats.inc(stat::RATE_LIMITED);
    if !c.enforced.hit(cx.conn.worker.random()) {
        decide::apply_ops(cx.conn, ex, &c.request_headers_when_not_enforced, true);
        return Step::Continue;
    }
    level.stats.inc(stat::ENFORCED);
    let mut reply = LocalReply::text(c.status, "local_rate_limited", "local_rate_limited");
    reply.flags = ResponseFlags::RATE_LIMITED;
    reply.grpc_status = Some(if c.rate_limited_as_resource_exhausted { 8 } else { 14 });
    reply.headers = decide::literal_headers(&c.response_headers);
    Step::reply(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_holds_what_it_says() {
        let bucket =
            Bucket::new(&TokenBucket { max_tokens: 3, tokens_per_fill: 1, fill_interval: Duration::from_secs(3600) });
        assert_eq!((0..5).map(|_| bucket.take()).collect::<Vec<_>>(), [true, true, true, false, false]);
    }
}
