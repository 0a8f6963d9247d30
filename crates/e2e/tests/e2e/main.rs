//! Scenarios on whole meshes, in one program so that those which wait do so together (`--test-threads`).

mod churn;
mod commands;
mod fields;
mod httpbin;
mod life;
mod nodebook;
mod protocols;
mod sidecar;
