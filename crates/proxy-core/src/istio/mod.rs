//! What does Istio's proxy know beyond Envoy's? Workload peers, and the standard metrics' labels.
//!
//! Used by the peer metadata and `istio.stats` filters of `l4` and `l7`. Pure: header values, structs and names go in,
//! peers and labels come out. Absent: counting, caching, the wire.

mod labels;
mod overrides;
mod peer;

pub use labels::{Labels, Local, Reporter, Said, Security, add_end, labels};
pub use overrides::{Custom, CustomKind, METRICS, Metric, Overrides, Values};
pub use peer::{Peer, WorkloadKind};
