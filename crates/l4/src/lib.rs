//! How does a connection arrive? Listeners, listener filters, network filters, TCP proxy.
//!
//! The config thread compiles a [`Listener`] and binds its [`Sockets`]; each worker thread has a
//! [`Worker`] that accepts. The walk of a connection is `connection.rs`: listener filters (`inspect`) →
//! filter chain → TLS → network filters (`filters`) → `tcp_proxy`, or HTTP in `l7`.
//! Deliberately absent: HTTP, xDS, threads.

mod accepted;
mod bucket;
mod connection;
mod ext_authz;
mod filters;
mod http_inspector;
mod inspect;
mod listener;
mod metadata_exchange;
mod peek;
mod proxy_protocol;
mod relay;
mod sockets;
mod splice;
mod tcp_proxy;
mod tunnel;
mod worker;

pub use listener::{Chain, Deps, Listener};
pub use sockets::{Inherit, Sockets};
pub use worker::Worker;

#[doc(hidden)]
pub mod fuzz {
    //! Parsers of bytes from the network, for fuzz targets.
    pub use crate::http_inspector::inspect as http_inspector;
    pub use crate::metadata_exchange::read as metadata_exchange;
    pub use crate::proxy_protocol::parse as proxy_protocol;
}
