//! When is a change pushed? Pure: fed with the times of events, it names the time of the push.
//!
//! Follows Istio's `PILOT_DEBOUNCE_AFTER` and `PILOT_DEBOUNCE_MAX`: a push waits until nothing has happened
//! for `after`, but never longer than `max` after the first event. Differs: the first event after a quiet
//! time waits for a tenth of `after` only, so that a single change is not held back for a storm that does
//! not come, and endpoint-only changes always do.

use std::time::Duration;

/// How long to wait for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DebounceOptions {
    /// Quiet time before a push in a storm (`PILOT_DEBOUNCE_AFTER`).
    pub after: Duration,
    /// Longest time a change waits (`PILOT_DEBOUNCE_MAX`).
    pub max: Duration,
}

impl Default for DebounceOptions {
    fn default() -> Self {
        DebounceOptions { after: Duration::from_millis(100), max: Duration::from_secs(10) }
    }
}

/// Share of the quiet time that a lone change waits.
const LONE_SHARE: u32 = 10;

/// The state between events. Times count from any fixed moment.
#[derive(Debug, Clone)]
pub struct Debounce {
    options: DebounceOptions,
    waiting: Option<Waiting>,
    pushed: Option<Duration>,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    first: Duration,
    due: Duration,
    events: usize,
}

impl Debounce {
    /// Nothing waits yet.
    pub fn new(options: DebounceOptions) -> Self {
        Debounce { options, waiting: None, pushed: None }
    }

    /// Something changed at `now`; `light` changes (endpoints only) wait shortly even in a storm.
    pub fn event(&mut self, now: Duration, light: bool) {
        let DebounceOptions { after, max } = self.options;
        let quiet = self.pushed.is_none_or(|at| now >= at + after);
        let first = self.waiting.map_or(now, |w| w.first);
        let events = self.waiting.map_or(1, |w| w.events + 1);
        let lone = light || events == 1 && quiet;
        let mut due = now + if lone { after / LONE_SHARE } else { after };
        if let (true, Some(waiting)) = (light, self.waiting) {
            // A light change rides along with whatever leaves first.
            due = due.min(waiting.due);
        }
        self.waiting = Some(Waiting { first, due: due.min(first + max), events });
    }

    /// When to push; `None` while nothing waits.
    pub fn due(&self) -> Option<Duration> {
        self.waiting.map(|w| w.due)
    }

    /// The push leaves at `now`. Returns how long the first event waited and how many events it covers.
    pub fn take(&mut self, now: Duration) -> Option<(Duration, usize)> {
        let waiting = self.waiting.take()?;
        self.pushed = Some(now);
        Some((now.saturating_sub(waiting.first), waiting.events))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// Feeds (time, light) events, taking pushes as they become due; expects the times of the pushes.
    fn check(events: &[(u64, bool)], expect: &[u64]) {
        let mut debounce = Debounce::new(DebounceOptions { after: ms(100), max: ms(1000) });
        let mut pushes = Vec::new();
        for (at, light) in events {
            while let Some(due) = debounce.due().filter(|d| *d <= ms(*at)) {
                debounce.take(due);
                pushes.push(due.as_millis() as u64);
            }
            debounce.event(ms(*at), *light);
        }
        if let Some(due) = debounce.due() {
            pushes.push(due.as_millis() as u64);
        }
        assert_eq!(pushes, expect, "{events:?}");
    }

    #[test]
    fn a_lone_change_leaves_at_once() {
        check(&[(0, false)], &[10]);
        check(&[(0, false), (500, false)], &[10, 510]);
    }

    #[test]
    fn a_storm_is_collected_until_it_is_quiet() {
        check(&[(0, false), (5, false), (50, false)], &[150]);
        check(&[(0, false), (20, false), (60, false)], &[10, 160]);
    }

    #[test]
    fn a_storm_is_bounded() {
        let storm: Vec<_> = (0..40).map(|i| (i * 50, false)).collect();
        let mut debounce = Debounce::new(DebounceOptions { after: ms(100), max: ms(1000) });
        debounce.event(ms(0), false);
        for (at, _) in &storm[..20] {
            debounce.event(ms(*at), false);
        }
        assert!(debounce.due().unwrap() <= ms(1000));
        assert_eq!(debounce.take(ms(1000)), Some((ms(1000), 21)));
    }

    #[test]
    fn endpoints_take_the_short_path() {
        check(&[(0, false), (20, true)], &[10, 30]);
        check(&[(0, false), (5, true)], &[10]);
        check(&[(0, false), (20, false), (30, true)], &[10, 40]);
    }
}
