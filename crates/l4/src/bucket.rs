//! May another connection come now? A token bucket shared by all workers.
//!
//! Used by the local rate limit of listeners and network filters. One atomic word, no lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use proxy_config::filters::network::TokenBucket;

/// A token bucket that is refilled by the clock.
#[derive(Debug)]
pub struct Bucket {
    config: TokenBucket,
    start: Instant,
    /// Upper half: fills so far; lower half: tokens left.
    state: AtomicU64,
}

impl Bucket {
    /// A full bucket.
    pub fn new(config: TokenBucket) -> Self {
        Bucket { config, start: Instant::now(), state: AtomicU64::new(u64::from(config.max_tokens)) }
    }

    /// Takes a token if there is one.
    pub fn allows(&self) -> bool {
        let interval = self.config.fill_interval.as_nanos().max(1);
        self.take(u32::try_from(self.start.elapsed().as_nanos() / interval).unwrap_or(u32::MAX))
    }

    /// Takes a token at the time of the fill number `now`.
    fn take(&self, now: u32) -> bool {
        self.state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |s| {
                let (filled, left) = ((s >> 32) as u32, s as u32);
                let gained = now.saturating_sub(filled).saturating_mul(self.config.tokens_per_fill);
                let left = left.saturating_add(gained).min(self.config.max_tokens);
                left.checked_sub(1).map(|left| u64::from(now.max(filled)) << 32 | u64::from(left))
            })
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_up_to_its_size() {
        let b = Bucket::new(TokenBucket {
            max_tokens: 2,
            tokens_per_fill: 1,
            fill_interval: std::time::Duration::from_secs(1),
        });
        assert_eq!([b.take(0), b.take(0), b.take(0)], [true, true, false]);
        assert_eq!([b.take(1), b.take(1)], [true, false]);
        assert_eq!([b.take(100), b.take(100), b.take(100)], [true, true, false]);
    }
}
