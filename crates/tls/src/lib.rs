//! Who is on the other end? rustls configurations, SPIFFE verification, the stream type of both planes.
//!
//! [`Stream`] is what `l4`, `l7` and `upstream` read and write. [`ServerContext`] and
//! [`ClientContext`] shake hands; they follow the [`SecretStore`], whose slots SDS, files or inline
//! secrets fill. [`client_hello`] looks at a client's first bytes without consuming them.
//!
//! [`stats`] counts how handshakes end.
//!
//! Deliberately absent: listening and connecting, time-outs, xDS.

pub mod client_hello;
pub mod config;
mod context;
mod error;
mod peer;
mod pipe;
mod provider;
mod secret;
mod session;
mod socket;
pub mod stats;
mod stream;
mod verify;

pub use config::TlsConfigError;
pub use context::{CertificateSource, ClientContext, CommonSpec, ConnectOptions, ServerContext, ValidationSource};
pub use error::{Failure, HandshakeError};
pub use peer::{Certificate, CertificateFacts, TlsInfo};
pub use pipe::{PIPE_CAPACITY_BYTES, Pipe};
pub use provider::{default_provider, provider, suite_name, version_name};
pub use secret::{CertificateSecret, Secret, SecretError, SecretSlot, SecretStore, TrustRoots};
pub use session::TlsStream;
pub use socket::Socket;
pub use stream::Stream;
pub use verify::{PeerRules, Refused, SanKind, names_match};

#[cfg(test)]
mod tests;
