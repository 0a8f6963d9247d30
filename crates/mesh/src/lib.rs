//! How does a whole mesh run on this machine? Pods as processes in network namespaces, with the real sidecar, the real
//! rules and real mTLS. Called by `proa up` and, through [`Client`], by every command that looks at a running mesh.
//!
//! [`up`] puts a supervisor into namespaces of its own; it keeps pods, names and addresses as the resources say. Deliberately
//! absent: scheduling over machines, storage, resource limits; past one machine the engine is Kubernetes.

mod api;
mod dns;
mod egress;
mod entry;
pub mod examples;
mod gateway;
mod identity;
pub mod images;
mod netns;
pub mod object;
mod pod;
mod podspec;
mod probe;
mod process;
pub mod report;
pub mod samples;
mod services;
mod sidecar;
mod standing;
mod store;
mod supervisor;
mod system;
mod up;
mod volumes;
mod workload;

pub use api::{ApiError, Client, Layout};
pub use entry::{POD_ENTRY, pod_entry};
pub use sidecar::DataPlane;
pub use up::{Up, down, up};
