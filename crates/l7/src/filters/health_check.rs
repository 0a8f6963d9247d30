//! Is this node healthy, when a load balancer asks through a listener? Envoy's `HealthCheckFilter`.
//!
//! Answers from here, from the health of upstream clusters, or from what the application said last. While health checks fail
//! on purpose (`/healthcheck/fail`), every other response tells the peer so.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http1::HeaderId;
use proxy_config::filters::http as config;
use proxy_core::lb::Health;
use telemetry::access_log::ResponseFlags;
use tokio::time::Instant;

use super::{FilterCx, Step};
use crate::connection::Conn;
use crate::decide;
use crate::exchange::Exchange;
use crate::reply::LocalReply;

/// The filter of one chain.
pub struct HealthCheck {
    config: Arc<config::HealthCheckFilter>,
    began: Instant,
    /// What the application said last: interval, degraded, status, from high to low bits; 0: nothing.
    said: AtomicU64,
}

const STATUS_BITS: u32 = 16;
const INTERVAL_SHIFT: u32 = STATUS_BITS + 1;

impl HealthCheck {
    /// Compiles the filter.
    pub fn new(config: Arc<config::HealthCheckFilter>) -> Self {
        HealthCheck { config, began: Instant::now(), said: AtomicU64::new(0) }
    }

    /// Answers health checks that do not go upstream.
    pub fn on_request(&self, cx: &FilterCx<'_>, ex: &mut Exchange) -> Step {
        ex.health_check = decide::headers_match(&self.config.headers, &ex.request);
        if !ex.health_check {
            return Step::Continue;
        }
        if let Some(span) = &mut ex.span {
            span.leave_out();
        }
        let (status, degraded, details) = if cx.conn.manager.node.is_failing() {
            (503, false, "health_check_failed")
        } else if self.config.pass_through {
            match self.remembered() {
                Some((status, degraded)) => (status, degraded, "health_check_cached"),
                None => return Step::Continue,
            }
        } else {
            let (status, details) = self.of_clusters(cx.conn);
            (status, false, details)
        };
        Step::reply(LocalReply {
            status,
            details: Cow::Borrowed(details),
            flags: if (200..300).contains(&status) {
                ResponseFlags::default()
            } else {
                ResponseFlags::FAILED_LOCAL_HEALTH_CHECK
            },
            headers: if degraded { vec![("x-envoy-degraded".into(), Vec::new())] } else { Vec::new() },
            ..Default::default()
        })
    }

    /// Whether enough hosts of the configured clusters are available.
    fn of_clusters(&self, conn: &Conn) -> (u16, &'static str) {
        let mut details = "health_check_ok";
        for (name, least) in &self.config.cluster_min_healthy_percentages {
            details = "health_check_ok_cluster_healthy";
            let least = *least as u64;
            let Some(cluster) = conn.worker.upstream.registry().get(name) else {
                return (503, "health_check_failed_no_cluster_found");
            };
            let set = cluster.hosts_view();
            let total = set.hosts.len() as u64;
            if total == 0 {
                match least {
                    0 => continue,
                    _ => return (503, "health_check_failed_cluster_empty"),
                }
            }
            let available = |h: &&Arc<upstream::Host>| matches!(h.health(), Health::Healthy | Health::Degraded);
            if 100 * (set.hosts.iter().filter(available).count() as u64) < total * least {
                return (503, "health_check_failed_cluster_unhealthy");
            }
        }
        (200, details)
    }

    /// Marks the response, and keeps what the application said.
    pub fn on_response(&self, conn: &Conn, ex: &mut Exchange) {
        if ex.health_check {
            self.remember(ex);
            ex.response.set_id(HeaderId::X_ENVOY_UPSTREAM_HEALTHCHECKED_CLUSTER, conn.manager.node.cluster.as_bytes());
        }
        if conn.manager.node.is_failing() {
            ex.response.set_id(HeaderId::X_ENVOY_IMMEDIATE_HEALTH_CHECK_FAIL, b"true");
        }
    }

    /// The interval of `cache_time` that it is now, from 1; Envoy forgets at the end of each.
    fn interval(&self) -> u64 {
        let every = self.config.cache_time.as_millis().max(1);
        u64::try_from(self.began.elapsed().as_millis() / every).unwrap_or(u64::MAX >> INTERVAL_SHIFT) + 1
    }

    fn remember(&self, ex: &Exchange) {
        if self.config.cache_time.is_zero() {
            return;
        }
        let status = u64::from(ex.response.status().unwrap_or(0));
        let degraded = u64::from(ex.response.has(HeaderId::X_ENVOY_DEGRADED));
        self.said.store(self.interval() << INTERVAL_SHIFT | degraded << STATUS_BITS | status, Ordering::Relaxed);
    }

    fn remembered(&self) -> Option<(u16, bool)> {
        if self.config.cache_time.is_zero() {
            return None;
        }
        let said = self.said.load(Ordering::Relaxed);
        (said >> INTERVAL_SHIFT == self.interval()).then_some((said as u16, said >> STATUS_BITS & 1 == 1))
    }
}
