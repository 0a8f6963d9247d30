//! What does an Envoy configuration mean? Envoy protobuf to validated, compiled, immutable runtime form.
//!
//! Called by the xDS client and the bootstrap loader (off the request path); read by `proxy-core`, `l4`, `l7`
//! and `upstream` on it. Every type here is immutable, `Send + Sync` and cheap to hold in an [`std::sync::Arc`].
//! Absent on purpose: I/O, clocks, the raw protobuf (the proxy keeps the bytes it needs for `/config_dump`).
//!
//! A set field that would change behaviour and that this proxy does not act on is an error naming the field;
//! the few that are accepted without effect are listed in [`ignored`].

pub mod access_log;
pub mod bootstrap;
pub mod cel;
pub mod cluster;
pub mod common;
pub mod error;
pub mod filter_chain;
pub mod filters;
pub mod format;
pub mod hash;
pub mod hcm;
pub mod headers;
pub mod ignored;
pub mod intern;
pub mod listener;
pub mod match_tree;
pub mod matcher;
pub mod parse;
pub mod rbac;
pub mod route;
pub mod tls;
pub mod tracing;
pub mod vhost;

pub use error::{ConfigError, Reason};

/// An interned, shared configuration name (cluster, route, listener, filter, ...).
pub type Name = std::sync::Arc<str>;
