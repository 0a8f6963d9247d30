//! Is this request within the local rate? Envoy's `LocalRateLimitFilter` with its token buckets.
//!
//! One bucket per configured level and descriptor, shared by all workers through atomics, or by the requests
//! of one connection.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use proxy_config::filters::FilterOverride;
use proxy_config::filters::http as config;
use proxy_config::filters::network::TokenBucket;
use telemetry::access_log::ResponseFlags;
use telemetry::stats::Block;
use telemetry::stats::envoy::local_rate_limit as stat;

use super::{FilterCx, FilterState, Step, descriptors};
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
    max_tokens: u32,
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
        let empty_at = AtomicU64::new(OFFSET_NANOS - max_nanos);
        Bucket { began: Instant::now(), nanos_per_token, max_nanos, max_tokens: c.max_tokens, empty_at }
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

impl Bucket {
    /// What is left: tokens, and seconds until there is one when there is none.
    fn left(&self) -> Left {
        let now = OFFSET_NANOS + self.began.elapsed().as_nanos() as u64;
        let held = (now - self.empty_at.load(Ordering::Relaxed).max(now - self.max_nanos)).min(self.max_nanos);
        let missing = Duration::from_nanos(self.nanos_per_token.saturating_sub(held));
        Left {
            limit: self.max_tokens,
            remaining: (held / self.nanos_per_token) as u32,
            reset: missing.as_secs_f64().ceil() as u64,
        }
    }
}

/// What `x-ratelimit-*` say of the bucket that decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    limit: u32,
    remaining: u32,
    reset: u64,
}

impl Left {
    fn headers(self) -> [(&'static str, u64); 3] {
        [
            ("x-ratelimit-limit", self.limit.into()),
            ("x-ratelimit-remaining", self.remaining.into()),
            ("x-ratelimit-reset", self.reset),
        ]
    }
}

/// The filter of one chain.
pub struct LocalRateLimit {
    level: Level,
    store: Arc<telemetry::stats::Store>,
    routes: std::sync::RwLock<Vec<(Arc<config::LocalRateLimit>, Arc<Level>)>>,
}

/// The buckets of one level: of all requests, or of one connection's.
pub struct Buckets {
    default: Option<Bucket>,
    descriptors: Box<[Of]>,
}

/// The buckets of a configured descriptor.
enum Of {
    /// One.
    All(Arc<Bucket>),
    /// One for each value that its wildcards took; the oldest go first.
    Each(Mutex<VecDeque<(Values, Arc<Bucket>)>>),
}

/// Values of a descriptor.
type Values = Vec<Box<str>>;

impl Of {
    fn new(config: &config::LocalDescriptor) -> Self {
        match config.entries.iter().any(|e| e.1.is_empty()) {
            true => Of::Each(Mutex::default()),
            false => Of::All(Arc::new(Bucket::new(&config.bucket))),
        }
    }

    /// The bucket for these values, of which at most `most` are told apart.
    fn bucket(&self, config: &config::LocalDescriptor, values: Values, most: usize) -> Arc<Bucket> {
        let each = match self {
            Of::All(bucket) => return bucket.clone(),
            Of::Each(each) => each,
        };
        let mut each = each.lock().unwrap_or_else(PoisonError::into_inner);
        let (values, bucket) = match each.iter().position(|(v, _)| *v == values).and_then(|at| each.remove(at)) {
            Some(found) => found,
            None => (values, Arc::new(Bucket::new(&config.bucket))),
        };
        while each.len() >= most.max(1) {
            each.pop_front();
        }
        each.push_back((values, bucket.clone()));
        bucket
    }
}

/// Values of wildcards told apart per descriptor, as Envoy's `max_dynamic_descriptors` has it by default.
const DYNAMIC_MAX: usize = 20;

impl Buckets {
    /// Full buckets.
    pub fn new(config: &config::LocalRateLimit) -> Self {
        Buckets {
            default: config.bucket.as_ref().map(Bucket::new),
            descriptors: config.descriptors.iter().map(Of::new).collect(),
        }
    }
}

struct Level {
    config: Arc<config::LocalRateLimit>,
    buckets: Buckets,
    stats: Block<stat::LocalRateLimit>,
}

impl Level {
    fn new(config: Arc<config::LocalRateLimit>, store: &Arc<telemetry::stats::Store>) -> Self {
        Level {
            buckets: Buckets::new(&config),
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
}

/// Says what is left, if that is configured.
pub fn on_response(ex: &mut Exchange) {
    let left = ex.filters.iter().find_map(|s| match s {
        FilterState::LocalRateLimit(left) => Some(*left),
        _ => None,
    });
    for (name, value) in left.iter().flat_map(|l| l.headers()) {
        ex.response.set(name.as_bytes(), value.to_string().as_bytes());
    }
}

fn check(level: &Level, cx: &FilterCx<'_>, ex: &mut Exchange) -> Step {
    let c = &level.config;
    if c.bucket.is_none() || !c.enabled.hit(cx.conn.worker.random()) {
        return Step::Continue;
    }
    level.stats.inc(stat::ENABLED);
    let (ok, left) = if c.per_downstream_connection {
        cx.conn.with_buckets(c, |buckets| draw(c, buckets, cx, ex))
    } else {
        draw(c, &level.buckets, cx, ex)
    };
    if c.ratelimit_headers
        && let Some(left) = left
    {
        ex.filters.push(FilterState::LocalRateLimit(left));
    }
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

/// Takes a token of every bucket that the request's descriptors fall into, the slowest first, and of the
/// default one. Tells whether there were all, and what is left of the bucket that decided.
fn draw(c: &config::LocalRateLimit, buckets: &Buckets, cx: &FilterCx<'_>, ex: &Exchange) -> (bool, Option<Left>) {
    let Some(default) = &buckets.default else { return (true, None) };
    let mut matched: Vec<Arc<Bucket>> = Vec::new();
    if !c.descriptors.is_empty() {
        for d in descriptors::of(cx, ex, &c.rate_limits, c.stage, c.vh_rate_limits.into()) {
            let fits = |want: &[(proxy_config::Name, proxy_config::Name)]| {
                want.len() == d.len()
                    && want.iter().zip(&d).all(|(w, e)| *w.0 == *e.0 && (w.1.is_empty() || *w.1 == *e.1))
            };
            let found = c.descriptors.iter().zip(&buckets.descriptors).find(|(d, _)| fits(&d.entries));
            let values = || d.iter().map(|e| Box::from(&*e.1)).collect();
            matched.extend(found.map(|(d, of)| of.bucket(d, values(), DYNAMIC_MAX)));
        }
        matched.sort_by_key(|b| std::cmp::Reverse(b.nanos_per_token));
    }
    for bucket in &matched {
        if !bucket.take() {
            return (false, Some(bucket.left()));
        }
    }
    let wanted = matched.is_empty() || c.always_consume_default_token_bucket;
    let ok = !wanted || default.take();
    let decided = matched.iter().map(|b| &**b).chain(wanted.then_some(default)).map(Bucket::left);
    (ok, decided.min_by_key(|l| l.remaining))
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

    #[test]
    fn each_value_of_a_wildcard_has_its_bucket() {
        let bucket = TokenBucket { max_tokens: 1, tokens_per_fill: 1, fill_interval: Duration::from_secs(3600) };
        let config = config::LocalDescriptor { entries: [("who".into(), "".into())].into(), bucket };
        let of = Of::new(&config);
        let take = |who: &str| of.bucket(&config, vec![who.into()], 2).take();
        assert_eq!([take("a"), take("b"), take("a"), take("b")], [true, true, false, false]);
        // The third has the oldest go, whose bucket is full when it comes back.
        assert_eq!([take("c"), take("a")], [true, true]);
    }
}
