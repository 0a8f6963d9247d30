//! When does a host count as healthy? The state machine of active health checks, and the wait between two.
//!
//! Run by `upstream::health`, which probes; the flags live in the host, where balancing and `/clusters` read them.
//! Absent: sockets, clocks, events (named in the result, written by the caller).

use std::time::Duration;

use proxy_config::cluster::HealthCheck;

/// Health flags of a host that active checking sets; Envoy's bits.
pub mod flag {
    /// Its active health check fails.
    pub const FAILED_ACTIVE_HC: u32 = 0x01;
    /// Its active health check says that it is degraded.
    pub const DEGRADED_ACTIVE_HC: u32 = 0x08;
    /// Discovery removed it, but it still passes its check.
    pub const PENDING_DYNAMIC_REMOVAL: u32 = 0x20;
    /// Not checked yet; left out of all arithmetic.
    pub const PENDING_ACTIVE_HC: u32 = 0x40;
    /// It asked, in a response, to be taken out at once.
    pub const EXCLUDED_VIA_IMMEDIATE_HC_FAIL: u32 = 0x80;
    /// Its check fails by timeout.
    pub const ACTIVE_HC_TIMEOUT: u32 = 0x100;
}

/// Why a check failed; Envoy's `HealthCheckFailureType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The host answered that it is not well, with this HTTP status (0: not by HTTP).
    Active(u16),
    /// The host said so in an ordinary response.
    Passive,
    /// No connection, or it broke.
    Network,
    /// No answer in time.
    NetworkTimeout,
}

impl FailureKind {
    fn is_network(self) -> bool {
        matches!(self, Self::Network | Self::NetworkTimeout)
    }
}

/// The result of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Well, perhaps degraded.
    Success {
        /// The answer carried `x-envoy-degraded`.
        degraded: bool,
    },
    /// Not well.
    Failure {
        /// Why.
        kind: FailureKind,
        /// Counted against the threshold, although the host answered (`retriable_statuses`).
        retriable: bool,
    },
}

/// What a check changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// Nothing.
    Unchanged,
    /// The host's health; balancing must look again.
    Changed,
    /// Nothing yet, but a threshold is being approached.
    Pending,
}

/// What happened, for the event log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Was healthy, is not.
    EjectUnhealthy(FailureKind),
    /// Was not healthy, is.
    AddHealthy {
        /// By the first check ever.
        first: bool,
    },
    /// A check passed that changed nothing.
    Successful,
    /// A check failed.
    Failure {
        /// Why.
        kind: FailureKind,
        /// It was the first check ever.
        first: bool,
    },
    /// Became degraded.
    Degraded,
    /// Is no longer degraded.
    NoLongerDegraded,
}

/// Checks of one host so far.
#[derive(Debug, Clone)]
pub struct Session {
    first: bool,
    healthy: u32,
    unhealthy: u32,
}

impl Default for Session {
    fn default() -> Self {
        Session { first: true, healthy: 0, unhealthy: 0 }
    }
}

/// What a verdict means for the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// The host's flags now.
    pub flags: u32,
    /// What changed.
    pub transition: Transition,
    /// What happened, in order.
    pub events: Vec<Event>,
}

impl Session {
    /// True until the first verdict.
    pub fn is_first(&self) -> bool {
        self.first
    }

    /// Takes a verdict on a host with `flags`.
    ///
    /// Follows: Envoy's `ActiveHealthCheckSession`: the first success makes healthy at once; an answer that says "not
    /// well" makes unhealthy at once; network failures and retriable statuses count up to the threshold.
    pub fn judge(&mut self, check: &HealthCheck, mut flags: u32, verdict: Verdict) -> Judged {
        let mut events = Vec::new();
        let mut transition = Transition::Unchanged;
        match verdict {
            Verdict::Success { degraded } => {
                self.unhealthy = 0;
                if flags & flag::FAILED_ACTIVE_HC != 0 {
                    self.healthy += 1;
                    if self.first || self.healthy == check.healthy_threshold {
                        flags &=
                            !(flag::FAILED_ACTIVE_HC | flag::ACTIVE_HC_TIMEOUT | flag::EXCLUDED_VIA_IMMEDIATE_HC_FAIL);
                        transition = Transition::Changed;
                        events.push(Event::AddHealthy { first: self.first });
                    } else {
                        transition = Transition::Pending;
                    }
                }
                if transition != Transition::Changed && check.log_successes {
                    events.push(Event::Successful);
                }
                clear_pending(&mut flags, &mut transition);
                if degraded != (flags & flag::DEGRADED_ACTIVE_HC != 0) {
                    flags ^= flag::DEGRADED_ACTIVE_HC;
                    events.push(if degraded { Event::Degraded } else { Event::NoLongerDegraded });
                    if transition == Transition::Unchanged {
                        transition = Transition::Changed;
                    }
                }
            }
            Verdict::Failure { kind, retriable } => {
                self.healthy = 0;
                if flags & flag::FAILED_ACTIVE_HC == 0 {
                    let counts = kind.is_network() || retriable;
                    self.unhealthy += u32::from(counts);
                    if !counts || self.unhealthy == check.unhealthy_threshold {
                        flags |= flag::FAILED_ACTIVE_HC;
                        transition = Transition::Changed;
                        events.push(Event::EjectUnhealthy(kind));
                    } else {
                        transition = Transition::Pending;
                    }
                }
                if kind == FailureKind::NetworkTimeout && flags & flag::FAILED_ACTIVE_HC != 0 {
                    flags |= flag::ACTIVE_HC_TIMEOUT;
                } else {
                    flags &= !flag::ACTIVE_HC_TIMEOUT;
                }
                clear_pending(&mut flags, &mut transition);
                if self.first || check.log_failures {
                    events.push(Event::Failure { kind, first: self.first });
                }
            }
        }
        self.first = false;
        Judged { flags, transition, events }
    }
}

fn clear_pending(flags: &mut u32, transition: &mut Transition) {
    if *flags & flag::PENDING_ACTIVE_HC != 0 {
        *flags &= !flag::PENDING_ACTIVE_HC;
        *transition = Transition::Changed;
    }
}

/// How long until the next check. `traffic`: the cluster has ever opened a connection; `random` draws jitter.
///
/// A failing host's `Changed` counts as settled: the edge intervals are those of a threshold being approached.
pub fn interval(
    check: &HealthCheck,
    healthy: bool,
    transition: Transition,
    traffic: bool,
    random: &mut dyn FnMut() -> u64,
) -> Duration {
    let pending = transition == Transition::Pending;
    let unhealthy = check.unhealthy_interval.unwrap_or(check.interval);
    let base = match (traffic, healthy, pending) {
        (false, true, false) => check.no_traffic_healthy_interval.unwrap_or(check.no_traffic_interval),
        (false, ..) => check.no_traffic_interval,
        (true, false, true) => check.unhealthy_edge_interval.unwrap_or(unhealthy),
        (true, false, false) => unhealthy,
        (true, true, true) => check.healthy_edge_interval.unwrap_or(check.interval),
        (true, true, false) => check.interval,
    };
    jittered(check, base, check.interval_jitter, random)
}

/// The wait before the first check.
pub fn initial(check: &HealthCheck, random: &mut dyn FnMut() -> u64) -> Duration {
    if check.initial_jitter.is_zero() {
        Duration::ZERO
    } else {
        jittered(check, Duration::ZERO, check.initial_jitter, random)
    }
}

fn jittered(check: &HealthCheck, base: Duration, jitter: Duration, random: &mut dyn FnMut() -> u64) -> Duration {
    let mut ms = base.as_millis() as u64;
    for span in [u64::from(check.interval_jitter_percent) * ms / 100, jitter.as_millis() as u64] {
        if span > 0 {
            ms += random() % span;
        }
    }
    Duration::from_millis(ms.max(1))
}

#[cfg(test)]
mod tests {
    use proxy_config::cluster::HealthProbe;

    use super::*;

    fn check() -> HealthCheck {
        HealthCheck {
            timeout: Duration::from_secs(1),
            interval: Duration::from_secs(10),
            initial_jitter: Duration::ZERO,
            interval_jitter: Duration::ZERO,
            interval_jitter_percent: 0,
            unhealthy_threshold: 2,
            healthy_threshold: 2,
            no_traffic_interval: Duration::from_secs(60),
            no_traffic_healthy_interval: None,
            unhealthy_interval: Some(Duration::from_secs(3)),
            unhealthy_edge_interval: Some(Duration::from_secs(1)),
            healthy_edge_interval: Some(Duration::from_secs(2)),
            reuse_connection: true,
            probe: HealthProbe::Tcp { send: [].into(), receive: Box::default() },
            alpn: Box::default(),
            alt_port: None,
            transport_match: None,
            event_logs: Box::default(),
            log_failures: false,
            log_successes: false,
        }
    }

    const BAD: u32 = flag::FAILED_ACTIVE_HC;

    #[test]
    fn thresholds_and_first_check() {
        let (c, mut s) = (check(), Session::default());
        let up = Verdict::Success { degraded: false };
        let net = Verdict::Failure { kind: FailureKind::Network, retriable: false };
        let said = Verdict::Failure { kind: FailureKind::Active(500), retriable: false };
        let j = s.judge(&c, BAD, up);
        assert_eq!((j.flags, j.transition), (0, Transition::Changed));
        assert_eq!(j.events, [Event::AddHealthy { first: true }]);
        assert_eq!(s.judge(&c, 0, net).transition, Transition::Pending);
        assert_eq!(s.judge(&c, 0, up).transition, Transition::Unchanged);
        assert_eq!(s.judge(&c, 0, net).flags, 0);
        assert_eq!(s.judge(&c, 0, net).events, [Event::EjectUnhealthy(FailureKind::Network)]);
        assert_eq!(s.judge(&c, BAD, up).transition, Transition::Pending);
        assert_eq!(s.judge(&c, BAD, up).flags, 0);
        // An answer that says "not well" needs no second one.
        assert_eq!(s.judge(&c, 0, said).flags, BAD);
        assert_eq!(s.judge(&c, 0, Verdict::Failure { kind: FailureKind::Active(500), retriable: true }).flags, 0);
        let timeout = Verdict::Failure { kind: FailureKind::NetworkTimeout, retriable: false };
        assert_eq!(s.judge(&c, BAD, timeout).flags, BAD | flag::ACTIVE_HC_TIMEOUT);
        assert_eq!(s.judge(&c, BAD | flag::ACTIVE_HC_TIMEOUT, net).flags, BAD);
    }

    #[test]
    fn pending_and_degraded() {
        let (c, mut s) = (check(), Session::default());
        let net = Verdict::Failure { kind: FailureKind::Network, retriable: false };
        let j = s.judge(&c, BAD | flag::PENDING_ACTIVE_HC, net);
        assert_eq!((j.flags, j.transition), (BAD, Transition::Changed));
        assert_eq!(j.events, [Event::Failure { kind: FailureKind::Network, first: true }]);
        let j = s.judge(&c, 0, Verdict::Success { degraded: true });
        assert_eq!((j.flags, j.transition), (flag::DEGRADED_ACTIVE_HC, Transition::Changed));
        assert_eq!(j.events, [Event::Degraded]);
    }

    #[test]
    fn intervals() {
        let c = check();
        let mut none = || 0;
        let mut at = |healthy, t, traffic| interval(&c, healthy, t, traffic, &mut none).as_secs();
        assert_eq!(at(true, Transition::Unchanged, true), 10);
        assert_eq!(at(true, Transition::Pending, true), 2);
        assert_eq!(at(false, Transition::Pending, true), 1);
        assert_eq!(at(false, Transition::Changed, true), 3);
        assert_eq!(at(true, Transition::Unchanged, false), 60);
        let jittery = HealthCheck { interval_jitter_percent: 50, ..check() };
        assert_eq!(interval(&jittery, true, Transition::Unchanged, true, &mut || 4_999).as_millis(), 14_999);
    }
}
