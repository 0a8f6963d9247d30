//! What is known of one upstream host? Its address, its health, its counts.
//!
//! A host keeps its state when its cluster's endpoints are updated and its address stays.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use proxy_config::Name;
use proxy_config::cluster::{Endpoint, EndpointHealthCheck, HealthStatus, Locality};
use proxy_config::common::{Address, Metadata};
use proxy_core::health::flag;
use proxy_core::lb::Health;

/// A host as one host set knows it.
#[derive(Debug, Clone)]
pub struct Host {
    /// Where it is.
    pub address: Address,
    /// The address as Envoy prints it.
    pub text: Arc<str>,
    /// Host name, empty when it has none.
    pub hostname: Name,
    /// Balancing weight, at least 1.
    pub weight: u32,
    /// Priority, 0 is the highest.
    pub priority: u32,
    /// Index into the host set's localities.
    pub locality_index: u32,
    /// Locality.
    pub locality: Arc<Locality>,
    /// Endpoint metadata.
    pub metadata: Metadata,
    /// Health told by discovery.
    pub told: HealthStatus,
    /// How its health checks differ from the cluster's.
    pub health_check: Option<Box<EndpointHealthCheck>>,
    /// Further addresses, tried when the first does not answer soon.
    pub more_addresses: Box<[Address]>,
    /// State that outlives updates.
    pub stats: Arc<HostStats>,
}

/// Counts and health of a host; shared by all threads.
#[derive(Debug)]
pub struct HostStats {
    /// Connections open.
    pub cx_active: AtomicU32,
    /// Connections opened.
    pub cx_total: AtomicU64,
    /// Connections that failed.
    pub cx_connect_fail: AtomicU64,
    /// Requests in flight.
    pub rq_active: AtomicU32,
    /// Requests.
    pub rq_total: AtomicU64,
    /// Responses that were not 5xx.
    pub rq_success: AtomicU64,
    /// 5xx responses and resets.
    pub rq_error: AtomicU64,
    /// Tries that timed out.
    pub rq_timeout: AtomicU64,
    /// Outlier detection.
    pub ejection: Ejection,
    /// Active health checks: bits of [`proxy_core::health::flag`].
    pub flags: AtomicU32,
    /// How often its connections were given up: those opened before serve no further request.
    pub given_up: AtomicU32,
    /// When the host appeared.
    pub born: Instant,
}

impl Default for HostStats {
    fn default() -> Self {
        HostStats {
            cx_active: Default::default(),
            cx_total: Default::default(),
            cx_connect_fail: Default::default(),
            rq_active: Default::default(),
            rq_total: Default::default(),
            rq_success: Default::default(),
            rq_error: Default::default(),
            rq_timeout: Default::default(),
            ejection: Ejection::default(),
            flags: AtomicU32::new(0),
            given_up: AtomicU32::new(0),
            born: Instant::now(),
        }
    }
}

/// Outlier detection's view of a host.
#[derive(Debug, Default)]
pub struct Ejection {
    /// Ejected now.
    pub ejected: AtomicBool,
    /// Consecutive 5xx.
    pub consecutive_5xx: AtomicU32,
    /// Consecutive gateway failures (502, 503, 504).
    pub consecutive_gateway: AtomicU32,
    /// Consecutive failures to reach the host at all.
    pub consecutive_local: AtomicU32,
    /// Multiplies the ejection time: grows with ejections, shrinks with intervals without.
    pub backoff: AtomicU32,
    /// How often it was ejected.
    pub count: AtomicU32,
    /// When it was last ejected, ms of the detector's clock; 0: never.
    pub since_ms: AtomicU64,
    /// When it last returned; 0: never.
    pub until_ms: AtomicU64,
    /// Added to this ejection's time.
    pub jitter_ms: AtomicU64,
    /// What the host answered.
    pub external: Window,
    /// Whether the host could be reached.
    pub local: Window,
}

/// Outcomes of one interval, and the rate of the one before.
#[derive(Debug, Default)]
pub struct Window {
    total: AtomicU32,
    success: AtomicU32,
    /// Bits of the success rate plus one; 0: not known.
    rate: AtomicU64,
}

impl Window {
    /// Counts one outcome.
    pub fn count(&self, success: bool) {
        self.total.fetch_add(1, Ordering::Relaxed);
        if success {
            self.success.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Ends the interval: outcomes and success rate, percent.
    pub fn take(&self) -> (u32, f64) {
        let total = self.total.swap(0, Ordering::Relaxed);
        let success = self.success.swap(0, Ordering::Relaxed);
        (total, 100.0 * f64::from(success) / f64::from(total.max(1)))
    }

    /// Publishes the rate of the interval.
    pub fn set_rate(&self, rate: Option<f64>) {
        self.rate.store(rate.map_or(0, |r| (r + 1.0).to_bits()), Ordering::Relaxed);
    }

    /// The rate of the last interval, -1 when not known.
    pub fn rate(&self) -> f64 {
        match self.rate.load(Ordering::Relaxed) {
            0 => -1.0,
            bits => f64::from_bits(bits) - 1.0,
        }
    }
}

/// What came of a request, for outlier detection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A response with this status.
    Status(u16),
    /// A connection that serves no requests (TCP).
    Connected,
    /// No connection.
    ConnectFailed,
    /// The connection broke or timed out under the request.
    Reset,
    /// The try timed out.
    Timeout,
}

impl Host {
    /// A host of an endpoint.
    pub fn new(
        e: &Endpoint,
        address: Address,
        priority: u32,
        locality_index: u32,
        locality: Arc<Locality>,
        stats: Arc<HostStats>,
    ) -> Self {
        Host {
            text: address.to_string().into(),
            address,
            // A resolved name is the host's name unless it has another.
            hostname: match &e.address {
                Address::Dns { host, .. } if e.hostname.is_empty() => host.clone(),
                _ => e.hostname.clone(),
            },
            weight: e.weight.max(1),
            priority,
            locality_index,
            locality,
            metadata: e.metadata.clone(),
            told: e.health,
            health_check: e.health_check.clone(),
            more_addresses: e.additional_addresses.clone(),
            stats,
        }
    }

    /// A host of which nothing is known but its address.
    pub fn bare(address: SocketAddr) -> Self {
        Host {
            address: Address::Socket(address),
            text: address.to_string().into(),
            hostname: "".into(),
            weight: 1,
            priority: 0,
            locality_index: 0,
            locality: Arc::new(Locality { region: "".into(), zone: "".into(), sub_zone: "".into() }),
            metadata: Default::default(),
            told: HealthStatus::Healthy,
            health_check: None,
            more_addresses: Box::default(),
            stats: Default::default(),
        }
    }

    /// The numeric address, if it is one.
    pub fn socket(&self) -> Option<SocketAddr> {
        self.address.socket()
    }

    /// It is never checked actively.
    pub fn is_check_disabled(&self) -> bool {
        self.health_check.as_ref().is_some_and(|h| h.disabled)
    }

    /// A flag of active checking is set.
    pub fn has_flag(&self, flag: u32) -> bool {
        self.stats.flags.load(Ordering::Relaxed) & flag != 0
    }

    /// Its connections take no more requests: another one may reach the host where these do not. As Envoy does when a host
    /// is ejected or begins to fail its checks.
    pub fn give_up_connections(&self) {
        self.stats.given_up.fetch_add(1, Ordering::Relaxed);
    }

    /// Health as balancing sees it.
    pub fn health(&self) -> Health {
        let s = &self.stats;
        let flags = s.flags.load(Ordering::Relaxed);
        if flags & (flag::PENDING_ACTIVE_HC | flag::EXCLUDED_VIA_IMMEDIATE_HC_FAIL) != 0
            || self.told == HealthStatus::Draining
        {
            return Health::Excluded;
        }
        if s.ejection.ejected.load(Ordering::Relaxed) || flags & flag::FAILED_ACTIVE_HC != 0 {
            return Health::Unhealthy;
        }
        match told_health(self.told) {
            Health::Healthy if flags & flag::DEGRADED_ACTIVE_HC != 0 => Health::Degraded,
            told => told,
        }
    }
}

/// What discovery told, as balancing sees it.
pub(crate) fn told_health(told: HealthStatus) -> Health {
    match told {
        HealthStatus::Unhealthy | HealthStatus::Timeout => Health::Unhealthy,
        HealthStatus::Draining => Health::Excluded,
        HealthStatus::Degraded => Health::Degraded,
        HealthStatus::Unknown | HealthStatus::Healthy => Health::Healthy,
    }
}
