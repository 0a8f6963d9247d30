//! Where can a request go, and over which connection? Clusters, hosts, health, pools.
//!
//! The [`Registry`] is shared by all threads: the config thread sets clusters and endpoints, workers
//! look them up. Each worker keeps a [`Worker`] with its cursors and its idle connections, which are
//! of whatever type the protocol above needs. Deliberately absent: HTTP, listeners, xDS streams.

pub mod address;
mod aggregate;
mod breakers;
mod cluster;
mod connect;
mod demand;
pub mod dns;
mod dynamic;
mod event_json;
mod eyeballs;
pub mod health;
mod host;
mod idle;
pub mod internal;
mod near;
pub mod outlier;
mod outlier_events;
mod registry;
mod tables;
mod worker;
pub mod zone;

pub use breakers::{Breakers, Guard, Resource};
pub use cluster::{Cluster, HostSet};
pub use connect::{Account, ConnectError, ConnectRequest, Connection, Source, connect, proxy_header};
pub use demand::{Demand, WAITING_MAX, Wish};
pub use host::{Ejection, Host, HostStats, Outcome, Window};
pub use near::cheapen;
pub use registry::{Ground, Registry};
pub use worker::{PickRequest, PoolKey, Worker, WorkerCluster};
