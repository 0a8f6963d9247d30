//! Are the hosts of a cluster well? Active health checks, run on the config thread.
//!
//! [`run`] keeps one session per host; a session probes (`probe`), lets `proxy_core::health` judge, and waits.
//! A cluster counts as initialized once every host of its first set has been checked once.

mod events;
mod probe;

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use proxy_config::cluster::HealthCheck;
use proxy_core::health::{Event, FailureKind, Session, Transition, Verdict, flag, initial, interval};
use telemetry::stats::envoy::{cluster as cluster_stat, health_check as stat};
use tokio::task::{AbortHandle, JoinSet};

use crate::cluster::Cluster;
use crate::host::Host;

pub(crate) use events::EventLog;

/// The host that a session checks, as the newest host set has it.
type Current = Rc<RefCell<Arc<Host>>>;

struct Running {
    host: Current,
    task: AbortHandle,
}

/// Checks a cluster's hosts until the future is dropped. Returns at once when the cluster has no health check.
pub async fn run(cluster: Arc<Cluster>) {
    let Some(check) = cluster.config.health_checks.first() else {
        return cluster.set_initialized();
    };
    let mut tasks = JoinSet::new();
    let mut sessions: HashMap<usize, Running> = HashMap::new();
    // Each session holds a token until its first verdict.
    let token = Rc::new(());
    loop {
        let set = cluster.hosts();
        let mut seen = HashSet::new();
        for host in set.hosts.iter().filter(|h| !h.is_check_disabled()) {
            let key = Arc::as_ptr(&host.stats) as usize;
            if !seen.insert(key) {
                continue;
            }
            match sessions.get(&key) {
                Some(running) => drop(running.host.replace(host.clone())),
                None => {
                    let current = Rc::new(RefCell::new(host.clone()));
                    let task = tasks.spawn_local(session(cluster.clone(), current.clone(), token.clone()));
                    sessions.insert(key, Running { host: current, task });
                }
            }
        }
        sessions.retain(|key, running| {
            let stays = seen.contains(key);
            if !stays {
                running.task.abort();
            }
            stays
        });
        while tasks.try_join_next().is_some() {}
        publish(&cluster);
        drop(set);
        if !cluster.is_initialized() && cluster.is_resolved() && Rc::strong_count(&token) == 1 {
            telemetry::debug!(
                hc,
                "cluster {}: first round of health checks is over ({})",
                cluster.config.name,
                kind(check)
            );
            cluster.set_initialized();
        }
        cluster.membership_changed().await;
    }
}

/// Envoy's word for the kind of check.
fn kind(check: &HealthCheck) -> &'static str {
    use proxy_config::cluster::HealthProbe;
    match check.probe {
        HealthProbe::Http { .. } => "HTTP",
        HealthProbe::Tcp { .. } => "TCP",
        HealthProbe::Grpc { .. } => "GRPC",
    }
}

async fn session(cluster: Arc<Cluster>, current: Current, token: Rc<()>) {
    let Some(check) = cluster.config.health_checks.first() else { return };
    let mut token = Some(token);
    let mut state = Session::default();
    let mut idle = probe::Idle::default();
    let mut random = rand::random::<u64>;
    let wait = initial(check, &mut random);
    if !wait.is_zero() {
        tokio::time::sleep(wait).await;
    }
    loop {
        let host = current.borrow().clone();
        cluster.health_stats().inc(stat::ATTEMPT);
        let verdict = match tokio::time::timeout(check.timeout, probe::run(&cluster, check, &host, &mut idle)).await {
            Ok(verdict) => verdict,
            Err(_) => {
                idle = probe::Idle::default();
                Verdict::Failure { kind: FailureKind::NetworkTimeout, retriable: false }
            }
        };
        let transition = apply(&cluster, check, &host, &mut state, verdict);
        if token.take().is_some() {
            cluster.wake_checker();
        }
        let healthy = matches!(verdict, Verdict::Success { .. });
        let traffic = cluster.stats.counter(cluster_stat::UPSTREAM_CX_TOTAL) > 0;
        tokio::time::sleep(interval(check, healthy, transition, traffic, &mut random)).await;
    }
}

/// Puts a verdict into force.
fn apply(cluster: &Cluster, check: &HealthCheck, host: &Host, state: &mut Session, verdict: Verdict) -> Transition {
    let old = host.stats.flags.load(Relaxed);
    let judged = state.judge(check, old, verdict);
    // Bit by bit: workers may set others meanwhile.
    host.stats.flags.fetch_or(judged.flags & !old, Relaxed);
    host.stats.flags.fetch_and(!(old & !judged.flags), Relaxed);
    let stats = cluster.health_stats();
    match verdict {
        Verdict::Success { .. } => stats.inc(stat::SUCCESS),
        Verdict::Failure { kind, .. } => count_failure(cluster, kind),
    }
    log(cluster, check, host, &judged.events);
    let well = judged.flags & flag::FAILED_ACTIVE_HC == 0;
    let mut changed = judged.transition == Transition::Changed;
    if matches!(verdict, Verdict::Success { .. }) && well {
        changed |= cluster.uneject_after_check(host);
    }
    if judged.transition == Transition::Changed && !well {
        host.give_up_connections();
    }
    if changed {
        if !well && judged.flags & flag::PENDING_DYNAMIC_REMOVAL != 0 {
            cluster.drop_removed_hosts();
        } else {
            cluster.health_changed();
        }
        publish(cluster);
    }
    judged.transition
}

fn count_failure(cluster: &Cluster, kind: FailureKind) {
    let stats = cluster.health_stats();
    stats.inc(stat::FAILURE);
    match kind {
        FailureKind::Network | FailureKind::NetworkTimeout => stats.inc(stat::NETWORK_FAILURE),
        FailureKind::Passive => stats.inc(stat::PASSIVE_FAILURE),
        FailureKind::Active(_) => {}
    }
}

fn log(cluster: &Cluster, check: &HealthCheck, host: &Host, events: &[Event]) {
    for event in events {
        telemetry::debug!(hc, "cluster {}: host {}: {event:?}", cluster.config.name, host.text);
        cluster.health_events().write(cluster, kind(check), host, *event);
    }
}

/// A host said in a response that it must not be used (`x-envoy-immediate-health-check-fail`).
///
/// Called by workers. Nothing happens unless the cluster is actively checked, as in Envoy.
pub fn fail_at_once(cluster: &Cluster, host: &Host) {
    let Some(check) = cluster.config.health_checks.first() else { return };
    let set = flag::FAILED_ACTIVE_HC | flag::EXCLUDED_VIA_IMMEDIATE_HC_FAIL;
    let old = host.stats.flags.fetch_or(set, Relaxed);
    count_failure(cluster, FailureKind::Passive);
    if old & set == set {
        return;
    }
    if old & flag::FAILED_ACTIVE_HC == 0 {
        log(cluster, check, host, &[Event::EjectUnhealthy(FailureKind::Passive)]);
        host.give_up_connections();
    }
    cluster.health_changed();
    publish(cluster);
}

/// The gauges of the cluster's checks.
fn publish(cluster: &Cluster) {
    let set = cluster.hosts();
    let checked = || set.hosts.iter().filter(|h| !h.is_check_disabled()).map(|h| h.stats.flags.load(Relaxed));
    let stats = cluster.health_stats();
    stats.gauge_set(stat::HEALTHY, checked().filter(|f| f & flag::FAILED_ACTIVE_HC == 0).count() as u64);
    stats.gauge_set(stat::DEGRADED, checked().filter(|f| f & flag::DEGRADED_ACTIVE_HC != 0).count() as u64);
}
