//! Who are we, and whom did we meet? This node's metadata in all its forms, and the peers that told theirs.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use proxy_config::Name;
use proxy_config::common::Value;
use proxy_core::istio::Peer;

/// Peers remembered per worker by their node id; a quarter is forgotten when there are more.
pub const PEERS_MAX: usize = 500;

/// A peer with the forms in which expressions and logs read it.
#[derive(Debug)]
pub struct KnownPeer {
    /// What it said.
    pub peer: Peer,
    /// Its fields, for expressions.
    pub value: Value,
    /// In one line, for logs.
    pub text: Box<str>,
}

impl KnownPeer {
    /// Prepares a peer.
    pub fn new(peer: Peer) -> Arc<Self> {
        Arc::new(KnownPeer { value: peer.value(), text: peer.text().into(), peer })
    }
}

/// This node as it presents itself to peers.
#[derive(Debug)]
pub struct Node {
    /// Value of `x-envoy-peer-metadata-id`.
    pub id: Box<str>,
    /// Value of `x-envoy-peer-metadata`.
    pub header: Box<str>,
    /// Value of `baggage`.
    pub baggage: Box<str>,
    /// What the TCP exchange sends: the same, as a message.
    pub peer: Peer,
}

impl Node {
    /// From the node's id and metadata. `additional`: labels told beside the usual ones.
    pub fn new(node: &crate::Node, additional: &[Name]) -> Self {
        let peer = Peer::from_struct(node.metadata.as_deref().unwrap_or(&Value::Null), additional);
        Node { id: node.id.as_str().into(), header: peer.header().into(), baggage: peer.baggage().into(), peer }
    }
}

thread_local! {
    static PEERS: RefCell<HashMap<Box<[u8]>, Arc<KnownPeer>>> = RefCell::default();
}

/// The peer of that node id, read from `header` when it is met for the first time. A peer without an id is read each time.
pub(crate) fn from_header(id: Option<&[u8]>, header: &[u8], additional: &[Name]) -> Option<Arc<KnownPeer>> {
    let id = id.filter(|id| !id.is_empty());
    PEERS.with_borrow_mut(|peers| {
        if let Some(known) = id.and_then(|id| peers.get(id)) {
            return Some(known.clone());
        }
        let peer = KnownPeer::new(Peer::from_header(header, additional)?);
        if let Some(id) = id {
            if peers.len() >= PEERS_MAX {
                let mut doomed = PEERS_MAX / 4;
                peers.retain(|_, _| {
                    doomed = doomed.saturating_sub(1);
                    doomed == 0
                });
            }
            peers.insert(id.into(), peer.clone());
        }
        Some(peer)
    })
}

/// The peer that an endpoint's metadata describes, made once per text and worker.
pub(crate) fn from_endpoint(text: &str) -> Option<Arc<KnownPeer>> {
    // An endpoint's text cannot be mistaken for a node id: those have no semicolon.
    PEERS.with_borrow_mut(|peers| {
        if let Some(known) = peers.get(text.as_bytes()) {
            return Some(known.clone());
        }
        let peer = KnownPeer::new(Peer::from_endpoint(text)?);
        if peers.len() >= PEERS_MAX {
            peers.clear();
        }
        peers.insert(text.as_bytes().into(), peer.clone());
        Some(peer)
    })
}
