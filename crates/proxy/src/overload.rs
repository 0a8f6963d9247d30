//! When is it too much? The overload manager: resource monitors, and the actions they trigger.
//!
//! Every refresh interval the pressure of each resource is read, 0 to 1; an action is active while one of its triggers
//! is. What an active action does is `l7::overload`'s and `l4`'s to know. Follows `envoy.config.overload.v3`; an action
//! that is not served is refused when the bootstrap is loaded. Differs: scaled triggers act when saturated.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use proxy_config::bootstrap::{self as config, ResourceMonitor, Trigger};
use telemetry::stats::envoy::{overload_action, overload_resource, shrink_heap};
use telemetry::stats::{Block, Store};

use crate::memory;

/// Names of monitors and actions are their well-known ones.
const FIXED_HEAP: &str = "envoy.resource_monitors.fixed_heap";
const CONNECTIONS: &str = "envoy.resource_monitors.global_downstream_max_connections";
const INJECTED: &str = "envoy.resource_monitors.injected_resource";
/// How often memory is given back while `shrink_heap` is active.
const SHRINK_EVERY: Duration = Duration::from_secs(10);

/// The actions that are served.
pub const ACTIONS: [&str; 5] = [
    "envoy.overload_actions.stop_accepting_requests",
    "envoy.overload_actions.disable_http_keepalive",
    "envoy.overload_actions.stop_accepting_connections",
    "envoy.overload_actions.reject_incoming_connections",
    "envoy.overload_actions.shrink_heap",
];

struct Action {
    name: Box<str>,
    triggers: Vec<(Box<str>, Trigger)>,
    stats: Block<overload_action::OverloadAction>,
}

/// The manager of one process.
pub struct Manager {
    monitors: Vec<(ResourceMonitor, Block<overload_resource::OverloadResource>)>,
    actions: Vec<Action>,
    state: Arc<l7::overload::Overload>,
    shrinks: Block<shrink_heap::ShrinkHeap>,
    /// When memory was given back last, while that is asked for.
    shrunk: Cell<Option<Instant>>,
}

/// Which configured action is not served, if any.
pub fn unserved(config: &config::Overload) -> Option<&str> {
    config.actions.iter().map(|a| &*a.0).find(|name| !ACTIONS.contains(name))
}

impl Manager {
    /// Compiles the configuration; sets limits that need no measuring.
    pub fn new(config: &config::Overload, state: Arc<l7::overload::Overload>, store: &Arc<Store>) -> Self {
        let monitors = config.monitors.iter().map(|m| {
            let name = match m {
                ResourceMonitor::FixedHeap(_) => FIXED_HEAP,
                ResourceMonitor::DownstreamConnections(max) => {
                    state.connections_max.store(*max, Relaxed);
                    CONNECTIONS
                }
                ResourceMonitor::Injected(_) => INJECTED,
            };
            (m.clone(), store.block(&format!("overload.{name}.")))
        });
        let monitors = monitors.collect();
        let actions = config.actions.iter().map(|(name, triggers)| Action {
            name: (**name).into(),
            triggers: triggers.iter().map(|(monitor, t)| ((**monitor).into(), *t)).collect(),
            stats: store.block(&format!("overload.{name}.")),
        });
        let shrinks = match config.actions.iter().any(|a| &*a.0 == ACTIONS[4]) {
            true => store.block(&format!("overload.{}.", ACTIONS[4])),
            false => Block::detached(),
        };
        Manager { monitors, actions: actions.collect(), state, shrinks, shrunk: Cell::new(None) }
    }

    /// Reads the resources and sets the switches.
    pub fn refresh(&self) {
        let mut pressures: HashMap<&str, f64> = HashMap::new();
        for (monitor, stats) in &self.monitors {
            let (name, pressure) = match monitor {
                ResourceMonitor::FixedHeap(max) => (FIXED_HEAP, ratio(memory::figures().allocated, *max)),
                ResourceMonitor::DownstreamConnections(max) => (CONNECTIONS, ratio(self.state.connections(), *max)),
                ResourceMonitor::Injected(file) => match injected(file) {
                    Some(pressure) => (INJECTED, pressure),
                    None => {
                        stats.inc(overload_resource::FAILED_UPDATES);
                        continue;
                    }
                },
            };
            stats.gauge_set(overload_resource::PRESSURE, (pressure * 100.0) as u64);
            pressures.insert(name, pressure);
        }
        let mut active = [false; ACTIONS.len()];
        for action in &self.actions {
            let value =
                action.triggers.iter().map(|(monitor, t)| scale(*t, *pressures.get(&**monitor).unwrap_or(&0.0)));
            let value = value.fold(0.0, f64::max);
            action.stats.gauge_set(overload_action::ACTIVE, u64::from(value >= 1.0));
            action.stats.gauge_set(overload_action::SCALE_PERCENT, (value * 100.0) as u64);
            if let Some(at) = ACTIONS.iter().position(|n| *n == &*action.name) {
                active[at] |= value >= 1.0;
            }
        }
        let told = |on: bool, what: &str| {
            telemetry::warn!(main, "overload: {what} is {}", if on { "active" } else { "no longer active" });
        };
        let set = |switch: &AtomicBool, on: bool, what: &str| {
            if switch.swap(on, Relaxed) != on {
                told(on, what);
            }
        };
        set(&self.state.stop_requests, active[0], ACTIONS[0]);
        set(&self.state.disable_keepalive, active[1], ACTIONS[1]);
        if self.state.stop_accepting(active[2]) {
            told(active[2], ACTIONS[2]);
        }
        set(&self.state.reject_connections, active[3], ACTIONS[3]);
        self.shrink(active[4]);
    }

    fn shrink(&self, wanted: bool) {
        let due = self.shrunk.get().is_none_or(|at| at.elapsed() >= SHRINK_EVERY);
        if wanted && due {
            self.shrinks.inc(shrink_heap::SHRINK_COUNT);
            memory::trim();
        }
        self.shrunk.set(match (wanted, due) {
            (true, true) => Some(Instant::now()),
            (true, false) => self.shrunk.get(),
            (false, _) => None,
        });
    }
}

/// The pressure that a file holds.
fn injected(file: &str) -> Option<f64> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok().filter(|p| (0.0..=1.0).contains(p))
}

fn ratio(now: u64, max: u64) -> f64 {
    if max == 0 { 0.0 } else { now as f64 / max as f64 }
}

/// How far a trigger has fired, 0 to 1.
fn scale(trigger: Trigger, pressure: f64) -> f64 {
    match trigger {
        Trigger::Threshold(at) => f64::from(u8::from(pressure >= at)),
        Trigger::Scaled(from, to) if pressure < from || to <= from => f64::from(u8::from(to <= from && pressure >= to)),
        Trigger::Scaled(from, to) => ((pressure - from) / (to - from)).min(1.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn triggers() {
        assert_eq!([0.89, 0.9].map(|p| scale(Trigger::Threshold(0.9), p)), [0.0, 1.0]);
        assert_eq!([0.5, 0.75, 2.0].map(|p| scale(Trigger::Scaled(0.5, 1.0), p)), [0.0, 0.5, 1.0]);
        assert_eq!(scale(Trigger::Scaled(0.5, 1.0), 0.1), 0.0);
    }

    #[test]
    fn a_full_heap_stops_requests() {
        let config = config::Overload {
            refresh_interval: std::time::Duration::from_secs(1),
            monitors: vec![ResourceMonitor::FixedHeap(1)],
            actions: vec![(ACTIONS[0].into(), vec![(FIXED_HEAP.into(), Trigger::Threshold(0.95))])],
        };
        let (state, store) = (Arc::new(l7::overload::Overload::default()), Store::new(Default::default()));
        let manager = Manager::new(&config, state.clone(), &store);
        manager.refresh();
        assert!(state.stop_requests.load(Relaxed) && !state.disable_keepalive.load(Relaxed));
        assert_eq!(unserved(&config), None);
    }
}
