//! May one more proxy connect now? A token bucket over given times, so that a fleet that reconnects does not
//! bury the server (`PILOT_MAX_REQUESTS_PER_SECOND`).

use std::time::Duration;

/// Accepts `rate` events per second on average and `burst` at once.
#[derive(Debug, Clone)]
pub struct Limit {
    rate: f64,
    burst: f64,
    tokens: f64,
    at: Duration,
}

impl Limit {
    /// A full bucket. A rate of 0 accepts everything.
    pub fn new(rate: f64, burst: f64) -> Self {
        Limit { rate, burst, tokens: burst, at: Duration::ZERO }
    }

    /// Takes a token at `now`; otherwise says how long to wait before it is there. The token is then reserved.
    pub fn acquire(&mut self, now: Duration) -> Duration {
        if self.rate <= 0.0 {
            return Duration::ZERO;
        }
        let gained = now.saturating_sub(self.at).as_secs_f64() * self.rate;
        self.at = self.at.max(now);
        self.tokens = (self.tokens + gained).min(self.burst) - 1.0;
        if self.tokens >= 0.0 { Duration::ZERO } else { Duration::from_secs_f64(-self.tokens / self.rate) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bursts_then_rates() {
        let mut limit = Limit::new(10.0, 2.0);
        let now = Duration::from_secs(5);
        let waits: Vec<_> = (0..4).map(|_| limit.acquire(now).as_millis()).collect();
        assert_eq!(waits, [0, 0, 100, 200]);
        assert_eq!(limit.acquire(now + Duration::from_secs(1)), Duration::ZERO);
        assert_eq!(Limit::new(0.0, 0.0).acquire(now), Duration::ZERO);
    }
}
