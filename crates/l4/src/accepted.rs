//! What is known of a connection from its accept on? Addresses and what listener filters found.
//!
//! Filled by `worker` and `inspect`, read by filter-chain selection, network filters and logs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use proxy_config::Name;
use proxy_config::common::Value;
use proxy_core::facts::{Facts, MetadataView, TlsFacts};
use tls::{Socket, TlsInfo};

/// An accepted connection before its transport is set up.
#[derive(Debug)]
pub struct Accepted {
    /// The bytes.
    pub socket: Socket,
    /// Everything else.
    pub about: Box<About>,
}

/// Facts of a downstream connection.
#[derive(Debug, Clone)]
pub struct About {
    /// Unique in this process; `[C…]` in logs.
    pub id: u64,
    /// The client, after PROXY protocol.
    pub remote: SocketAddr,
    /// The peer of the socket.
    pub direct_remote: SocketAddr,
    /// What the client connected to, after original-destination restoration.
    pub local: SocketAddr,
    /// Our end of the socket.
    pub direct_local: SocketAddr,
    /// `local` was restored by a listener filter.
    pub restored: bool,
    /// Upstream connections come from `remote`, with this mark.
    pub original_src: Option<u32>,
    /// `tls` when the inspector found a ClientHello, else `raw_buffer`.
    pub transport_protocol: &'static str,
    /// SNI, from the inspector (a handshake alone does not set it, as in Envoy).
    pub server_name: Option<Arc<str>>,
    /// Offered or sniffed application protocols.
    pub application_protocols: Vec<Box<[u8]>>,
    /// Filter state.
    pub state: Vec<(Name, Arc<str>)>,
    /// Of that, what upstream connections share.
    pub shared: Vec<(Name, Arc<str>)>,
    /// Dynamic metadata of the connection, by namespace.
    pub metadata: Vec<(Name, Value)>,
    /// When it was accepted.
    pub began: Instant,
    /// The same by the clock.
    pub began_at: SystemTime,
    /// Name of the chosen filter chain.
    pub filter_chain: Option<Name>,
    /// The TLS session, when it is terminated here.
    pub tls: Option<Arc<TlsInfo>>,
    /// Who the client is (`istio.metadata_exchange`).
    pub peer: Option<Arc<l7::istio::KnownPeer>>,
    /// Bytes that were read before the terminal filter and are its to have.
    pub early: Vec<u8>,
}

impl MetadataView for About {
    fn metadata(&self, namespace: &str) -> Option<&Value> {
        let own = self.metadata.iter().rev().find(|(n, _)| **n == *namespace).map(|(_, v)| v);
        own.or_else(|| self.peer.as_ref().filter(|_| namespace == "downstream_peer").map(|p| &p.value))
    }

    fn filter_state(&self, key: &str) -> Option<&[u8]> {
        let peer = || self.peer.as_ref().filter(|_| key == "downstream_peer").map(|p| p.text.as_bytes());
        self.state_text(key).map(str::as_bytes).or_else(peer)
    }

    fn each(&self, f: &mut dyn FnMut(&str, &Value)) {
        self.metadata.iter().for_each(|(name, value)| f(name, value));
    }
}

/// Texts of the peer's certificate that cost something to make.
#[derive(Debug, Default)]
pub struct PeerText {
    sha256: String,
    sha1: String,
    pem: String,
}

impl PeerText {
    /// Makes them.
    pub fn of(tls: Option<&TlsInfo>) -> Self {
        tls.and_then(|t| t.peer.as_ref()).map_or_else(PeerText::default, |peer| PeerText {
            sha256: peer.sha256_hex(),
            sha1: peer.sha1_hex(),
            pem: peer.pem_url_encoded(),
        })
    }
}

/// A TLS session as decisions and formats see it.
pub fn tls_facts<'a>(tls: &'a TlsInfo, text: &'a PeerText) -> TlsFacts<'a> {
    let mut facts = TlsFacts {
        cipher: tls.cipher,
        version: tls.version,
        peer_presented: tls.peer.is_some(),
        peer_validated: tls.peer_validated,
        peer_fingerprint_256: &text.sha256,
        peer_fingerprint_1: &text.sha1,
        peer_cert_pem: &text.pem,
        ..Default::default()
    };
    if let Some(peer) = &tls.peer {
        let said = peer.facts();
        facts.peer_subject = &said.subject;
        facts.peer_issuer = &said.issuer;
        facts.peer_serial = &said.serial;
        facts.peer_uri_sans = &said.uri_sans;
        facts.peer_dns_sans = &said.dns_sans;
        facts.peer_not_before = said.not_before;
        facts.peer_not_after = said.not_after;
    }
    if let Some(local) = &tls.local {
        let said = local.facts();
        facts.local_subject = &said.subject;
        facts.local_uri_sans = &said.uri_sans;
        facts.local_dns_sans = &said.dns_sans;
    }
    facts
}

impl About {
    /// The filter state object `key`; the last one set wins.
    pub fn state_text(&self, key: &str) -> Option<&str> {
        self.state.iter().rev().find(|(k, _)| **k == *key).map(|(_, v)| &**v)
    }

    /// What decisions and logs see. `text` comes from [`PeerText::of`].
    pub fn facts<'a>(&'a self, text: &'a PeerText) -> Facts<'a> {
        Facts {
            metadata: self,
            start: self.began_at,
            now: SystemTime::now(),
            downstream_remote: Some(self.remote),
            downstream_direct_remote: Some(self.direct_remote),
            downstream_local: Some(self.local),
            downstream_direct_local: Some(self.direct_local),
            downstream_tls: self.tls.as_deref().map(|t| tls_facts(t, text)),
            connection_id: self.id,
            filter_chain_name: self.filter_chain.as_deref().unwrap_or(""),
            requested_server_name: self.server_name.as_deref().unwrap_or(""),
            environment: |name| std::env::var(name).ok(),
            ..Default::default()
        }
    }
}

impl About {
    /// Sets one key of dynamic metadata.
    pub fn set_metadata(&mut self, namespace: &Name, key: &Name, value: Value) {
        let mut map = match self.metadata.iter().position(|(n, _)| n == namespace) {
            Some(i) => match self.metadata.swap_remove(i).1 {
                Value::Struct(m) => Arc::unwrap_or_clone(m),
                _ => Default::default(),
            },
            None => Default::default(),
        };
        map.insert(key.clone(), value);
        self.metadata.push((namespace.clone(), Value::Struct(Arc::new(map))));
    }
}
