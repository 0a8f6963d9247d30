//! Who is connected, what is each proxy still owed, and when is it sent? ADS over gRPC, delta and state of
//! the world.
//!
//! One task per stream owns an [`xds::server::Stream`]; a change of the world is put on each connection,
//! where later changes merge into it, so that a proxy has at most one pending push and one response per type
//! in flight. What the resources are is the [`Source`]'s business. Absent: listeners and TLS
//! (`controlplane`), Istio semantics (`model`, `translate`).

mod answers;
mod connection;
mod debounce;
mod hub;
mod limit;
mod metrics;
mod requests;
mod serve;
mod service;
#[cfg(test)]
mod tests;

pub use connection::{ConnectionStatus, Convergence};
pub use debounce::{Debounce, DebounceOptions};
pub use hub::{Hub, Options};
pub use metrics::{Histogram, Metrics};
pub use service::AdsService;

use std::sync::Arc;

use protos::envoy::config::core::v3::Node;
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Status};
use xds::server::{Kind, ResourceSet, Want};

/// Largest request accepted, in bytes: a client with 100,000 names to resume.
pub const REQUEST_BYTES_MAX: usize = 64 << 20;

/// A change of the world, as the source describes it.
pub trait Change: Clone + Send + Sync + 'static {
    /// Takes a later change in, so that one push covers both.
    fn merge(&mut self, later: &Self);
}

/// Where resources come from. Calls are synchronous: they compute, they do not wait.
pub trait Source: Send + Sync + 'static {
    /// What the source keeps for one connected proxy.
    type Proxy: Send + 'static;
    /// What the source says about a change.
    type Change: Change;

    /// A proxy has connected and said who it is. `Err` ends its stream.
    fn connect(&self, node: &Node, identities: &[String]) -> Result<Self::Proxy, Status>;

    /// The world has changed: moves `proxy` to the newest one and says which types it must be asked about.
    fn update(&self, proxy: &mut Self::Proxy, change: &Self::Change) -> Vec<Kind>;

    /// All that `proxy` should have of a type; may be more than it wants.
    fn generate(&self, proxy: &mut Self::Proxy, want: &Want<'_>) -> Arc<ResourceSet>;

    /// The proxy has gone.
    fn disconnect(&self, proxy: Self::Proxy) {
        drop(proxy);
    }
}

/// Decides who may open a stream.
pub trait Authenticate: Send + Sync + 'static {
    /// The caller's identities; empty on a plain port that asks for none.
    fn authenticate(&self, metadata: &MetadataMap, extensions: &Extensions) -> Result<Vec<String>, Status>;
}

impl<F> Authenticate for F
where
    F: Fn(&MetadataMap, &Extensions) -> Result<Vec<String>, Status> + Send + Sync + 'static,
{
    fn authenticate(&self, metadata: &MetadataMap, extensions: &Extensions) -> Result<Vec<String>, Status> {
        self(metadata, extensions)
    }
}
