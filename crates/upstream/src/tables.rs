//! How well are a cluster's hash tables filled? Gauges `ring_hash_lb.*` and `maglev_lb.*`.

use proxy_config::cluster::{LbConfig, LbPolicy};
use proxy_core::lb::TableFigures;
use telemetry::stats::{Block, Store};

/// The gauges of the one kind of table that a cluster has.
#[derive(Debug)]
pub enum Stats {
    /// Ring hash.
    Ring(Block<ring::Ring>),
    /// Maglev.
    Maglev(Block<maglev::Maglev>),
}

impl Stats {
    /// Gauges below `prefix`.
    pub fn new(store: &Store, prefix: &str, lb: &LbConfig) -> Self {
        match lb.policy {
            LbPolicy::Maglev { .. } => Stats::Maglev(store.block(&format!("{prefix}maglev_lb."))),
            _ => Stats::Ring(store.block(&format!("{prefix}ring_hash_lb."))),
        }
    }

    /// Publishes the figures of the table built last.
    pub fn publish(&self, figures: TableFigures) {
        match self {
            Stats::Ring(b) => {
                b.gauge_set(ring::SIZE, figures.size);
                b.gauge_set(ring::MIN_HASHES_PER_HOST, figures.least);
                b.gauge_set(ring::MAX_HASHES_PER_HOST, figures.most);
            }
            Stats::Maglev(b) => {
                b.gauge_set(maglev::MIN_ENTRIES_PER_HOST, figures.least);
                b.gauge_set(maglev::MAX_ENTRIES_PER_HOST, figures.most);
            }
        }
    }
}

/// Scope `cluster.<name>.ring_hash_lb.`.
pub mod ring {
    telemetry::stat_schema! { Ring;
        counters { }
        gauges {
            MAX_HASHES_PER_HOST = "max_hashes_per_host",
            MIN_HASHES_PER_HOST = "min_hashes_per_host",
            SIZE = "size",
        }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `cluster.<name>.maglev_lb.`.
pub mod maglev {
    telemetry::stat_schema! { Maglev;
        counters { }
        gauges {
            MAX_ENTRIES_PER_HOST = "max_entries_per_host",
            MIN_ENTRIES_PER_HOST = "min_entries_per_host",
        }
        histograms { }
        texts { }
        codes { }
    }
}
