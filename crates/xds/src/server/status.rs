//! How far is one client with one type? Plain records for `syncz`, `proxy-status` and metrics.

use std::sync::Arc;

use super::Kind;

/// Istio's words for `proxy-status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncState {
    /// The client never asked for this type.
    Ignored,
    /// Asked, but nothing was sent (nothing exists).
    NotSent,
    /// All that was sent is acknowledged and current.
    Synced,
    /// Something was sent and not acknowledged yet, or is still to be sent.
    Stale,
    /// The client refused the last response.
    Error,
}

impl SyncState {
    /// As `istioctl proxy-status` prints it.
    pub fn as_str(self) -> &'static str {
        match self {
            SyncState::Ignored => "IGNORED",
            SyncState::NotSent => "NOT SENT",
            SyncState::Synced => "SYNCED",
            SyncState::Stale => "STALE",
            SyncState::Error => "ERROR",
        }
    }
}

/// The record of one type on one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeStatus {
    /// Which type.
    pub kind: Kind,
    /// How it stands.
    pub state: SyncState,
    /// Does the client want everything?
    pub wildcard: bool,
    /// Names asked for one by one.
    pub names: Vec<Arc<str>>,
    /// Nonce of the last response, empty before the first.
    pub nonce_sent: String,
    /// Nonce of the last acknowledged response.
    pub nonce_acked: String,
    /// Version of the last response.
    pub version: String,
    /// The reason of the last refusal, until the next acknowledgement.
    pub nack: Option<String>,
    /// Acknowledgements so far.
    pub acks: u64,
    /// Refusals so far.
    pub nacks: u64,
    /// Requests with a nonce that is not the latest.
    pub expired_nonces: u64,
    /// Resources the client has of this type.
    pub resources: usize,
}
