//! Which services, endpoints and rules exist, and what may one proxy see of them? Snapshot and ProxyView.
//!
//! A source's resources go into a [`Store`]; each [`Store::apply`] derives an immutable [`Snapshot`] and a [`Delta`]
//! that says what moved. A [`ProxyView`] is what one [`Proxy`] may see of a snapshot, and the input of `translate`.
//! Pure and synchronous: no I/O, no clock, no tasks. Everything is ordered, so equal inputs give equal outputs.

pub mod class;
pub mod config;
mod derive;
pub mod destination_rule;
pub mod endpoint;
pub mod findings;
pub mod gateway;
pub mod index;
pub mod mesh;
pub mod proxy;
mod referenced;
pub mod registry;
pub mod security;
pub mod service;
pub mod shared_map;
pub mod sidecar;
pub mod snapshot;
pub mod status;
pub mod view;
pub mod virtual_service;

pub use class::LooksAt;
pub use config::Config;
pub use endpoint::{Endpoint, Health, ServiceEndpoints, Workload};
pub use gateway::{GatewayServer, MergedGateway};
pub use mesh::{MeshConfig, OutboundMode};
pub use proxy::{Capabilities, Interception, Proxy};
pub use security::{MergedPeerAuthentication, MtlsMode};
pub use service::{Port, Reach, Registry, Resolution, Service, ServiceKey, TargetPort, Visibility};
pub use shared_map::SharedMap;
pub use sidecar::{EgressListener, SidecarScope};
pub use snapshot::{Change, Delta, Snapshot, Store};
pub use view::{ProxyView, ScopeCache, ServiceTarget};
pub use virtual_service::ResolvedVirtualService;
