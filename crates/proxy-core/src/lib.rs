//! What should happen to this connection or request? Pure decisions: chains, routes, RBAC, retries, balancing.
//!
//! Called by `l4`, `l7` and `upstream` on the hot path, and by `explain` and simulation off it. Nothing here waits,
//! reads a clock or draws a random number by itself: time and randomness are arguments.

pub mod cel;
pub mod cors;
pub mod facts;
pub mod fault;
pub mod filter_chain;
pub mod format;
pub mod hash;
pub mod header_view;
pub mod headers;
pub mod health;
pub mod ingress;
pub mod istio;
pub mod lb;
pub mod match_tree;
pub mod matcher;
pub mod outcome;
pub mod path;
pub mod rbac;
pub mod redirect;
pub mod retry;
pub mod rewrite;
pub mod route;
pub mod timeout;

pub use facts::Facts;
pub use header_view::{HeaderEdit, HeaderView};
