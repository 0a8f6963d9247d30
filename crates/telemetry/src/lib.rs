//! What happened, in Envoy's words: stats, access logs and log scopes.
//!
//! Every crate of the data plane calls this one; it knows none of them. Stats are per-worker cells merged on
//! read ([`stats`]), access logs are compiled formats over borrowed facts ([`access_log`]), log scopes carry
//! Envoy's logger names and cost one relaxed load when silent ([`mod@log`]).
//! Deliberately absent: HTTP endpoints (the admin server of `proxy` renders from here), network sinks, and the
//! async runtime.

pub mod access_log;
pub mod log;
pub mod stats;
pub mod time;
