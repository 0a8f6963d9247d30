//! How does an HTTP request travel? Connection manager, HTTP filters, router.
//!
//! `l4` hands over a connection with [`serve_connection`]; `proxy` makes one [`Worker`] per thread and
//! one [`Manager`] per configured connection manager. The walk of a request: `connection.rs` (codec,
//! keep-alive) → `stream.rs` (the story) → `request.rs` → `filters/` → `router.rs` → `pool.rs` →
//! `relay.rs` → `response.rs` → `log.rs`. Absent on purpose: listeners, host selection (`upstream`),
//! matching (`proxy-core`).

// A worker shares a route table by a plain counter; the atomic one is touched once per change.
#![allow(clippy::redundant_allocation)]
// Exchanges are large and change hands; rarely used maps cost a pointer while absent.
#![allow(clippy::vec_box, clippy::box_collection, clippy::type_complexity)]

pub mod callout;
pub mod connection;
mod debug;
mod decide;
mod destination;
mod down;
pub mod exchange;
pub mod export;
mod facts;
pub mod filters;
mod h2_server;
mod h2_session;
mod hold;
mod io;
pub mod istio;
pub mod log;
pub mod manager;
pub mod overload;
mod path;
pub mod pool;
mod redirect;
mod relay;
pub mod reply;
mod request;
mod response;
mod retry;
mod router;
mod shadow;
mod side;
pub mod state;
mod stream;
mod stream_task;
mod timeouts;
mod timers;
pub mod trace;
mod up;
pub mod vcluster;
mod worker;

pub use connection::{ConnFacts, serve_connection};
pub use manager::{Deps, Manager, Node};
pub use timers::{Timer, Timers};
pub use worker::Worker;

#[doc(hidden)]
pub mod fuzz {
    //! Parsers of bytes from the network, for fuzz targets.
    use crate::filters::jwt_authn;

    /// A key set, and a token judged by it: `KEYS NUL TOKEN`.
    pub fn token(bytes: &[u8]) {
        let at = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        let (keys, token) = (jwt_authn::jwks::Jwks::parse(&bytes[..at]), bytes.get(at + 1..).unwrap_or_default());
        let token = std::str::from_utf8(token).ok().and_then(|t| jwt_authn::token::Jwt::parse(t).ok());
        if let (Ok(keys), Some(token)) = (keys, token) {
            let _ = keys.verify(&token);
        }
    }
}
