//! What may the server send next on one ADS stream? The sans-IO state machine behind `xds-server`.
//!
//! A [`Stream`] is fed the client's requests and, per type, the [`ResourceSet`] the client should have; it
//! says which sets it needs ([`Stream::wants`]) and which response may leave now ([`Stream::poll`]). It is
//! level-triggered: a change that arrives while a response is in flight simply replaces the target, so at
//! most one response per type is in flight and later changes merge.
//!
//! Order is part of the contract ("make before break"): new clusters, their endpoints, listeners, routes,
//! and only then the removal of clusters nobody can refer to any more. Absent: sockets, clocks, where
//! resources come from.

mod kind;
mod push;
mod resource;
mod status;
mod stream;
mod subscription;
#[cfg(test)]
mod tests;
mod value;

pub use kind::Kind;
pub use push::{Push, Writer};
pub use resource::{Changes, Resource, ResourceSet, version_string};
pub use status::{SyncState, TypeStatus};
pub use stream::{Event, Protocol, Refused, Stream, Want};
pub use value::{Part, Value};
