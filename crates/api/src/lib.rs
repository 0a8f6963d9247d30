//! What did the user write? Kubernetes and Istio shapes, parsed and validated, with their place in the file.
//!
//! A source hands documents (JSON values) to [`Resource::from_value`]; [`validate`] says what is wrong with the
//! content and what would be right. Shapes follow Istio's API field by field; [`MeshConfig`] and [`mesh::ProxyConfig`]
//! are here too. Deliberately absent: files (see `source-file`), Envoy, and what resources mean together (`model`).

pub mod admission;
pub mod destination_rule;
pub mod envoy_filter;
pub mod kube;
pub mod mesh;
pub mod mesh_networks;
pub mod networking;
pub mod resource;
pub mod scalar;
pub mod security;
pub mod shape;
pub mod validate;
pub mod yaml;

pub use mesh::MeshConfig;
pub use resource::{Body, Meta, Place, Rejected, Resource};
pub use scalar::{Duration, IntOrString, StringMatch};
pub use shape::{Problem, Shape, from_value};
