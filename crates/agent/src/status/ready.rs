//! Is the proxy ready, and if not, why not? First configuration, started workers, live state, as pilot-agent's probe has it.

use telemetry::stats::Block;
use telemetry::stats::envoy::subscription::{self, Subscription};

/// The statistics that the verdict needs, as a path of the proxy's admin interface.
pub const STATS_PATH: &str = "/stats?filter=%5E(cluster_manager%5C.cds%5C.update_(success%7Crejected)%7Clistener_manager%5C.(lds%5C.update_(success%7Crejected)%7Cworkers_started)%7Cserver%5C.state)%24";

/// Successes and rejections of CDS and LDS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Updates {
    /// Clusters: accepted, rejected.
    pub cds: [u64; 2],
    /// Listeners: accepted, rejected.
    pub lds: [u64; 2],
}

impl std::fmt::Display for Updates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ([cds, cds_rejected], [lds, lds_rejected]) = (self.cds, self.lds);
        write!(
            f,
            "cds updates: {cds} successful, {cds_rejected} rejected; lds updates: {lds} successful, {lds_rejected} rejected"
        )
    }
}

/// Why the proxy is not ready, in the words of Istio 1.32.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// Nothing came.
    #[error("config not received from XDS server (is Istiod running?): {0}")]
    NotReceived(Updates),
    /// Something was refused.
    #[error("config received from XDS server, but was rejected: {0}")]
    Rejected(Updates),
    /// Half of it came.
    #[error("config not fully received from XDS server: {0}")]
    Partly(Updates),
    /// Envoy's workers.
    #[error("workers have not yet started")]
    Workers,
    /// Envoy's state.
    #[error("server is not live, current state is: {0}")]
    NotLive(&'static str),
    /// On its way out.
    #[error("server is terminated: draining")]
    Draining,
    /// The admin interface does not answer.
    #[error("failed to get readiness stats: {0}")]
    Admin(String),
    /// Another part of the agent is not.
    #[error("{0}")]
    Other(String),
}

impl NotReady {
    /// For the log and the page: where the operators' notes have a phrase of their own, that one.
    pub fn for_people(&self) -> String {
        match self {
            Self::NotReceived(updates) => format!("config not received from Pilot (is Pilot running?): {updates}"),
            other => other.to_string(),
        }
    }
}

impl Updates {
    /// From the figures of our own proxy.
    pub fn of(proxy: &proxy::Handle) -> Self {
        let of = |prefix: &str| {
            let block: Block<Subscription> = proxy.stats().block(prefix);
            [block.counter(subscription::UPDATE_SUCCESS), block.counter(subscription::UPDATE_REJECTED)]
        };
        Self { cds: of("cluster_manager.cds."), lds: of("listener_manager.lds.") }
    }

    /// Has the first configuration arrived?
    ///
    /// # Errors
    /// Which part has not.
    pub fn verdict(self) -> Result<(), NotReady> {
        if self.cds[0] > 0 && self.lds[0] > 0 {
            return Ok(());
        }
        if self.cds[1] > 0 || self.lds[1] > 0 {
            return Err(NotReady::Rejected(self));
        }
        Err(if self.cds[0] == 0 && self.lds[0] == 0 { NotReady::NotReceived(self) } else { NotReady::Partly(self) })
    }
}

/// The verdict on an Envoy's statistics page.
///
/// # Errors
/// Why it is not ready.
pub fn check_stats(page: &str) -> Result<(), NotReady> {
    let stat = |name: &str| {
        let value = |line: &str| line.trim().strip_prefix(name)?.strip_prefix(':')?.trim().parse::<u64>().ok();
        page.lines().find_map(value)
    };
    let number = |name: &str| stat(name).unwrap_or(0);
    Updates {
        cds: [number("cluster_manager.cds.update_success"), number("cluster_manager.cds.update_rejected")],
        lds: [number("listener_manager.lds.update_success"), number("listener_manager.lds.update_rejected")],
    }
    .verdict()?;
    match stat("server.state") {
        Some(0) => {}
        state => return Err(NotReady::NotLive(state_name(state))),
    }
    if number("listener_manager.workers_started") == 0 {
        return Err(NotReady::Workers);
    }
    Ok(())
}

/// `envoy.admin.v3.ServerInfo.State`
fn state_name(state: Option<u64>) -> &'static str {
    match state {
        Some(0) => "LIVE",
        Some(1) => "DRAINING",
        Some(2) => "PRE_INITIALIZING",
        _ => "INITIALIZING",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_says_why() {
        let check = |page: &str, expect: &str| {
            let got = check_stats(page).err().map(|e| e.for_people()).unwrap_or_default();
            assert_eq!(got, expect, "{page}");
        };
        let updates = "cluster_manager.cds.update_success: 1\nlistener_manager.lds.update_success: 1\n";
        check(&format!("{updates}listener_manager.workers_started: 1\nserver.state: 0"), "");
        check(
            &format!("{updates}listener_manager.workers_started: 0\nserver.state: 0"),
            "workers have not yet started",
        );
        check(&format!("{updates}server.state: 2"), "server is not live, current state is: PRE_INITIALIZING");
        check(
            "",
            "config not received from Pilot (is Pilot running?): cds updates: 0 successful, 0 rejected; lds updates: 0 successful, 0 rejected",
        );
        check(
            "cluster_manager.cds.update_success: 1\nlistener_manager.lds.update_rejected: 2",
            "config received from XDS server, but was rejected: cds updates: 1 successful, 0 rejected; lds updates: 0 successful, 2 rejected",
        );
    }
}
