//! How long may a certificate live?

use std::time::Duration;

/// Life times of workload certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TtlPolicy {
    /// Given to callers that do not say (`DEFAULT_WORKLOAD_CERT_TTL`).
    pub default: Duration,
    /// More is refused (`MAX_WORKLOAD_CERT_TTL`).
    pub max: Duration,
}

impl Default for TtlPolicy {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        TtlPolicy { default: DAY, max: DAY * 90 }
    }
}

impl TtlPolicy {
    /// The life time for a request of `seconds` (0 or less: not said). `None`: longer than allowed.
    pub fn decide(&self, seconds: i64) -> Option<Duration> {
        match u64::try_from(seconds) {
            Ok(0) | Err(_) => Some(self.default.min(self.max)),
            Ok(s) => Some(Duration::from_secs(s)).filter(|t| *t <= self.max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decides() {
        let policy = TtlPolicy { default: Duration::from_secs(100), max: Duration::from_secs(1000) };
        let check =
            |asked, expect: Option<u64>| assert_eq!(policy.decide(asked), expect.map(Duration::from_secs), "{asked}");
        check(0, Some(100));
        check(-5, Some(100));
        check(10, Some(10));
        check(1000, Some(1000));
        check(1001, None);
        check(i64::MAX, None);
    }
}
