//! How much may be going on in a cluster at once? Envoy's circuit breakers.
//!
//! Counts are shared by all workers, as Envoy's are. A [`Guard`] holds one unit and gives it back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use proxy_config::cluster::{RetryBudget, Thresholds};

/// What a breaker limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Connections.
    Connections,
    /// Requests waiting for a connection.
    Pending,
    /// Requests.
    Requests,
    /// Retries.
    Retries,
}

/// The breakers of one priority of one cluster.
#[derive(Debug)]
pub struct Breakers {
    limits: [u32; 4],
    used: [AtomicU32; 4],
    budget: Option<RetryBudget>,
}

impl Breakers {
    /// Breakers with these limits.
    pub fn new(t: Option<&Thresholds>) -> Arc<Self> {
        let limits = t.map_or([1024, 1024, 1024, 3], |t| {
            [t.max_connections, t.max_pending_requests, t.max_requests, t.max_retries]
        });
        let budget = t.and_then(|t| t.retry_budget);
        Arc::new(Breakers { limits, used: Default::default(), budget })
    }

    /// Takes a unit, or `None` when the limit is reached.
    pub fn acquire(self: &Arc<Self>, resource: Resource) -> Option<Guard> {
        let used = &self.used[resource as usize];
        let before = used.fetch_add(1, Ordering::Relaxed);
        if before >= self.limit(resource) {
            used.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Guard { breakers: self.clone(), resource })
    }

    /// Takes a unit even above the limit (the first connection of a pool).
    pub fn force(self: &Arc<Self>, resource: Resource) -> Guard {
        self.used[resource as usize].fetch_add(1, Ordering::Relaxed);
        Guard { breakers: self.clone(), resource }
    }

    /// Units in use.
    pub fn used(&self, resource: Resource) -> u32 {
        self.used[resource as usize].load(Ordering::Relaxed)
    }

    /// The limit in force now; that of retries follows the budget.
    pub fn limit(&self, resource: Resource) -> u32 {
        match (&self.budget, resource) {
            (Some(b), Resource::Retries) => {
                let active = self.used(Resource::Requests) + self.used(Resource::Pending);
                let share = (b.budget_percent / 100.0 * f64::from(active)) as u32;
                share.max(b.min_retry_concurrency)
            }
            _ => self.limits[resource as usize],
        }
    }

    /// Whether the limit is reached.
    pub fn open(&self, resource: Resource) -> bool {
        self.used(resource) >= self.limit(resource)
    }
}

/// One unit of a resource.
#[derive(Debug)]
pub struct Guard {
    breakers: Arc<Breakers>,
    resource: Resource,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.breakers.used[self.resource as usize].fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_hold_and_units_come_back() {
        let b = Breakers::new(None);
        let held: Vec<_> = (0..3).filter_map(|_| b.acquire(Resource::Retries)).collect();
        assert_eq!(held.len(), 3);
        assert!(b.acquire(Resource::Retries).is_none() && b.open(Resource::Retries));
        drop(held);
        assert_eq!(b.used(Resource::Retries), 0);
        assert!(b.acquire(Resource::Retries).is_some());
    }
}
