//! When is a certificate replaced? Pure arithmetic on its validity; called by the agent and the CA's own
//! server certificate.
//!
//! Follows Istio's `SECRET_GRACE_PERIOD_RATIO` 0.5 and `SECRET_GRACE_PERIOD_RATIO_JITTER` 0.01: renewal
//! begins when the remaining life falls below the grace share, spread so that a fleet does not renew at once.

use std::time::{Duration, SystemTime};

/// Share of the life time that is left when renewal begins.
pub const ROTATION_GRACE: f64 = 0.5;
/// Largest deviation of the share, in both directions.
pub const ROTATION_JITTER: f64 = 0.01;

/// How early to renew.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RotationPolicy {
    /// Share of the life time that is left when renewal begins, 0 to 1.
    pub grace: f64,
    /// Largest deviation of the share.
    pub jitter: f64,
}

impl Default for RotationPolicy {
    fn default() -> Self {
        RotationPolicy { grace: ROTATION_GRACE, jitter: ROTATION_JITTER }
    }
}

/// The moment at which to renew a certificate valid from `not_before` to `not_after`.
///
/// `random` is uniform in 0..1 and places the moment inside the jitter. The life time is counted from the
/// signing (`not_before` plus the clock skew allowance is not subtracted, as Istio). A certificate that ends
/// before it starts is renewed at once (`not_before`).
pub fn rotation_at(not_before: SystemTime, not_after: SystemTime, policy: RotationPolicy, random: f64) -> SystemTime {
    let Ok(life) = not_after.duration_since(not_before) else {
        return not_before;
    };
    let share = (policy.grace + policy.jitter * (2.0 * random.clamp(0.0, 1.0) - 1.0)).clamp(0.0, 1.0);
    let grace = Duration::from_secs_f64(life.as_secs_f64() * share);
    not_after.checked_sub(grace).map_or(not_before, |t| t.max(not_before))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::UNIX_EPOCH;

    fn check(life: u64, random: f64, expect: f64) {
        let from = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let at = rotation_at(from, from + Duration::from_secs(life), RotationPolicy::default(), random);
        let got = at.duration_since(from).unwrap().as_secs_f64();
        assert!((got - expect).abs() < 1e-3, "{got} != {expect}");
    }

    #[test]
    fn half_the_life_with_jitter() {
        check(86_400, 0.5, 43_200.0);
        check(86_400, 0.0, 86_400.0 * 0.51);
        check(86_400, 1.0, 86_400.0 * 0.49);
        check(10, 0.5, 5.0);
        check(0, 0.5, 0.0);
    }

    #[test]
    fn an_inverted_validity_renews_at_once() {
        let from = UNIX_EPOCH + Duration::from_secs(10);
        assert_eq!(rotation_at(from, UNIX_EPOCH, RotationPolicy::default(), 0.3), from);
    }

    proptest! {
        #[test]
        fn always_inside_the_validity(life in 0u64..10_000_000, random in -1f64..2.0, grace in -1f64..2.0, jitter in 0f64..1.0) {
            let from = UNIX_EPOCH + Duration::from_secs(1_000_000);
            let to = from + Duration::from_secs(life);
            let at = rotation_at(from, to, RotationPolicy { grace, jitter }, random);
            prop_assert!(from <= at && at <= to);
        }
    }
}
