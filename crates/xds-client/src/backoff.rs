//! When may the next attempt start? Exponential back-off with full jitter, as Envoy's gRPC streams do.

use std::time::Duration;

/// Back-off between attempts.
#[derive(Debug, Clone)]
pub struct Backoff {
    base: Duration,
    max: Duration,
    next: Duration,
}

impl Default for Backoff {
    /// Envoy's defaults for xDS streams: 500 ms, at most 30 s.
    fn default() -> Self {
        Self::new(Duration::from_millis(500), Duration::from_secs(30))
    }
}

impl Backoff {
    /// First and greatest interval.
    pub fn new(base: Duration, max: Duration) -> Self {
        Self { base, max, next: base }
    }

    /// How long to wait now; `random` is any 64 bits. The bound doubles each time.
    pub fn next(&mut self, random: u64) -> Duration {
        let bound = self.next;
        self.next = (bound * 2).min(self.max);
        // Never zero: a server that refuses at once must not be hammered.
        bound.mul_f64(0.1 + 0.9 * (random >> 11) as f64 / (1u64 << 53) as f64)
    }

    /// The attempt worked: start small again.
    pub fn reset(&mut self) {
        self.next = self.base;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_limit_within_jitter() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        for bound in [1.0, 2.0, 4.0, 5.0, 5.0] {
            let mut low = backoff.clone();
            assert!(low.next(0).as_secs_f64() >= bound * 0.09);
            let wait = backoff.next(u64::MAX).as_secs_f64();
            assert!(wait <= bound && wait > bound * 0.99, "{wait} {bound}");
        }
        backoff.reset();
        assert!(backoff.next(u64::MAX) <= Duration::from_secs(1));
    }
}
