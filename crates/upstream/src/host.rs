//! What is known of one upstream host? Its address, its health, its counts.
//!
//! A host keeps its state when its cluster's endpoints are updated and its address stays.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use proxy_config::Name;
use proxy_config::cluster::{Endpoint, HealthStatus, Locality};
use proxy_config::common::{Address, Metadata};
use proxy_core::lb::Health;

/// A host as one host set knows it.
#[derive(Debug)]
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
    /// Failed its active health check.
    pub failed_health_check: AtomicBool,
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
            failed_health_check: AtomicBool::new(false),
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
    /// How often it was ejected lately.
    pub times: AtomicU32,
    /// When it was last ejected, ms of the detector's clock.
    pub since_ms: AtomicU64,
    /// Requests of this interval.
    pub interval_total: AtomicU32,
    /// Of which succeeded.
    pub interval_success: AtomicU32,
}

/// What came of a request, for outlier detection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A response with this status.
    Status(u16),
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
            hostname: e.hostname.clone(),
            weight: e.weight.max(1),
            priority,
            locality_index,
            locality,
            metadata: e.metadata.clone(),
            told: e.health,
            stats,
        }
    }

    /// The numeric address, if it is one.
    pub fn socket(&self) -> Option<SocketAddr> {
        self.address.socket()
    }

    /// Health as balancing sees it.
    pub fn health(&self) -> Health {
        let s = &self.stats;
        if s.ejection.ejected.load(Ordering::Relaxed) || s.failed_health_check.load(Ordering::Relaxed) {
            return Health::Unhealthy;
        }
        match self.told {
            HealthStatus::Unknown | HealthStatus::Healthy => Health::Healthy,
            HealthStatus::Degraded => Health::Degraded,
            HealthStatus::Draining => Health::Excluded,
            HealthStatus::Unhealthy | HealthStatus::Timeout => Health::Unhealthy,
        }
    }
}
