//! How does a proxy hear from its control plane? gRPC streams around the machine of [`xds::client`].
//!
//! `proxy` gives a [`Connector`] (it knows clusters and TLS) and gets [`Event`]s; names wanted and verdicts go back
//! through the [`Handle`]. A lost stream is opened again after back-off with jitter; what was applied stays applied.
//! Deliberately absent: what a resource means, DNS, TLS.

mod backoff;
mod grpc;
mod stream;

pub use backoff::Backoff;
pub use grpc::{Channel, GrpcError, MESSAGE_BYTES_MAX, Stream};
pub use stream::{BoxIo, Connection, Connector, Event, Handle, Io, Service, Settings, spawn};
