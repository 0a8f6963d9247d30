//! Who is told the stats without asking? Stat sinks: statsd over UDP and TCP, and the metrics service.
//!
//! The config thread hands every sink a [`Snapshot`] each `stats_flush_interval`; a sink that is still busy with the
//! last one skips a turn and reports both together, since it keeps what it told before.

mod metrics_service;
mod statsd;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use protos::envoy::config::core::v3::Node;
use proxy_config::bootstrap::StatsSink;
use telemetry::stats::{Bins, MetricKind, Store};
use tokio::sync::mpsc;
use upstream::Registry;

/// One used stat at one moment.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Full name.
    pub name: Box<str>,
    /// Its value.
    pub value: Value,
    /// The name without its tags, and those; only where a sink wants them.
    pub tagged: Option<Box<Tagged>>,
}

/// A name in parts.
#[derive(Debug, Clone, Default)]
pub struct Tagged {
    /// Without tags.
    pub name: String,
    /// Names and values.
    pub tags: Vec<(String, String)>,
}

/// What a stat shows.
#[derive(Debug, Clone)]
pub enum Value {
    /// Since start.
    Counter(u64),
    /// Now.
    Gauge(u64),
    /// Since start, and within the last interval.
    Histogram(Bins, Bins),
}

/// All used stats at one moment.
pub type Snapshot = Rc<Vec<Sample>>;

/// All sinks of this process.
pub struct Sinks {
    all: Vec<mpsc::Sender<Snapshot>>,
    /// One of them wants names in parts.
    tagged: bool,
}

impl Sinks {
    /// Starts the configured sinks. Must run on the config thread's `LocalSet`.
    pub fn start(config: &[StatsSink], registry: &Arc<Registry>, node: &Node, store: &Arc<Store>) -> Self {
        let start = |sink: &StatsSink| {
            let (sender, receiver) = mpsc::channel(1);
            match sink {
                StatsSink::Statsd { udp, tcp_cluster, prefix } => {
                    let to = match (udp, tcp_cluster) {
                        (Some(address), _) => statsd::To::Udp(address.clone()),
                        (None, Some(cluster)) => statsd::To::Tcp(cluster.clone()),
                        (None, None) => return None,
                    };
                    tokio::task::spawn_local(statsd::run(to, prefix.clone(), registry.clone(), receiver));
                }
                StatsSink::MetricsService(config) => {
                    let (config, registry, node) = (config.clone(), registry.clone(), node.clone());
                    let task = metrics_service::run(config, registry, node, store.clone(), receiver);
                    tokio::task::spawn_local(task);
                }
            }
            Some(sender)
        };
        let tagged = |s: &StatsSink| matches!(s, StatsSink::MetricsService(c) if c.emit_tags_as_labels);
        Sinks { all: config.iter().filter_map(start).collect(), tagged: config.iter().any(tagged) }
    }

    /// Tells all sinks; called after `Store::flush`.
    pub fn flush(&self, store: &Store) {
        if self.all.is_empty() {
            return;
        }
        let mut all = Vec::new();
        let extraction = self.tagged.then(|| store.extractor().compile());
        store.visit(|m| {
            if !m.used {
                return;
            }
            let value = match &m.value {
                MetricKind::Counter(n) => Value::Counter(*n),
                MetricKind::Gauge(n) => Value::Gauge(*n),
                MetricKind::Histogram { cumulative, interval } => {
                    Value::Histogram(cumulative.clone(), interval.clone())
                }
                MetricKind::Text(_) => return,
            };
            let tagged = extraction.as_ref().map(|extraction| {
                let mut tagged = Box::<Tagged>::default();
                let Tagged { name, tags } = &mut *tagged;
                m.untag(extraction, name, |tag, value| tags.push((tag.to_owned(), value.to_owned())));
                tagged
            });
            all.push(Sample { name: m.name.into(), value, tagged });
        });
        let all = Rc::new(all);
        for sink in &self.all {
            // Full: the sink is behind and will tell the difference next time.
            let _ = sink.try_send(all.clone());
        }
    }
}

/// Differences of counters from one report to the next.
#[derive(Debug, Default)]
pub struct Deltas(HashMap<Box<str>, u64>);

impl Deltas {
    /// What came since the last call for that name.
    pub fn of(&mut self, name: &str, now: u64) -> u64 {
        match self.0.get_mut(name) {
            // A counter that went back was reset: all of it is new.
            Some(before) => {
                let delta = now.checked_sub(*before).unwrap_or(now);
                *before = now;
                delta
            }
            None => {
                self.0.insert(name.into(), now);
                now
            }
        }
    }

    /// Forgets names that are not there any more.
    pub fn keep(&mut self, there: &[Sample]) {
        if self.0.len() > 2 * there.len() {
            let names: std::collections::HashSet<&str> = there.iter().map(|s| &*s.name).collect();
            self.0.retain(|name, _| names.contains(&**name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deltas_survive_resets() {
        let mut deltas = Deltas::default();
        assert_eq!([5, 9, 9, 3].map(|n| deltas.of("a", n)), [5, 4, 0, 3]);
    }
}
