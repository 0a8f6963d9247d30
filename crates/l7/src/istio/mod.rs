//! Istio's part of the data path: who the peers are, and the standard metrics.
//!
//! The HTTP filters in `filters/` and the network filters of `l4` call this module. What labels say is decided by
//! `proxy_core::istio`; here are the caches that make a known series cost one look-up.

pub(crate) mod node;
mod series;

pub use node::{KnownPeer, Node, PEERS_MAX};
pub use series::{End, Kind, Recorder, Series, evict};
