//! What does each end of an xDS stream owe the other? ACK, NACK, nonce and version machines, sans-IO.

pub mod client;
pub mod server;
