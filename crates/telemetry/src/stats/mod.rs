//! How many, how long, how big? Counters, gauges and histograms under Envoy's names.
//!
//! A [`Block`] is one scope (`cluster.outbound|80||a.`) over a static table of stats ([`stat_schema!`](crate::stat_schema)). Each worker
//! writes cells of its own with plain loads and stores; readers add them up. Cells are allocated on first touch,
//! so that an idle cluster costs about a hundred bytes and still prints all its zeros. Threads that are not workers write through a mutex.
//! Deliberately absent: any knowledge of what is counted.

mod block;
mod cells;
pub mod envoy;
mod histogram;
mod matcher;
mod prometheus;
mod render;
mod schema;
mod store;
mod tags;

pub use block::{Block, set_worker, worker};
pub use histogram::{BUCKETS, Bins, Quantiles, SUPPORTED_QUANTILES};
pub use matcher::{NameMatcher, StatsMatcher};
pub use prometheus::prometheus;
pub use render::{HistogramMode, Query, TypeFilter, json, text};
pub use schema::{Code, CodeDef, Counter, Gauge, Histogram, Schema, SchemaDef, StatDef, Text, Unit};
pub use store::{Expiring, HistogramBuckets, Metric, MetricKind, Store, StoreOptions, sanitize};
pub use tags::{Extraction, TagExtractor, TagSpec};
