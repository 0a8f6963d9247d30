//! Where do access log lines go? Files shared by all workers, buffered; and the response flags that lines carry.
//!
//! Formats are compiled by `proxy-config` and evaluated by `proxy-core`; this crate takes finished lines.
//! Deliberately absent: gRPC and OpenTelemetry sinks, which need the network.

mod flags;
mod sink;

pub use flags::{FLAGS, ResponseFlags};
pub use sink::{FLUSH_BYTES, Sink, Sinks};
