//! Where can a request go, and over which connection? Clusters, hosts, health, pools.
//!
//! The [`Registry`] is shared by all threads: the config thread sets clusters and endpoints, workers
//! look them up. Each worker keeps a [`Worker`] with its cursors and its idle connections, which are
//! of whatever type the protocol above needs. Deliberately absent: HTTP, listeners, xDS streams.

mod breakers;
mod cluster;
mod connect;
pub mod dns;
mod host;
pub mod outlier;
mod registry;
mod worker;

pub use breakers::{Breakers, Guard, Resource};
pub use cluster::{Cluster, HostSet};
pub use connect::{Account, ConnectError, ConnectRequest, Connection, connect};
pub use host::{Ejection, Host, HostStats, Outcome};
pub use registry::Registry;
pub use worker::{PickRequest, PoolKey, Worker, WorkerCluster};
