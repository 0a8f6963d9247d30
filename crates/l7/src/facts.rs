//! What do matchers, formats and logs see of a stream? `proxy_core::Facts`, filled from an exchange.

use std::time::Duration;

use proxy_config::common::Value;
use proxy_core::facts::{Bytes, Facts, Marks, MetadataView, TlsFacts};
use tls::TlsInfo;
use tokio::time::Instant;

use crate::connection::Conn;
use crate::exchange::{Exchange, Protocol};
use crate::stream::Found;

/// Text forms of a certificate that cost something to make; kept per connection.
#[derive(Default)]
pub struct PeerText {
    sha256: String,
    sha1: String,
    pem: String,
}

impl PeerText {
    /// Makes the texts; the PEM only if somebody asks for it.
    pub fn of(tls: &TlsInfo, pem: bool) -> Self {
        let Some(peer) = &tls.peer else {
            return PeerText::default();
        };
        PeerText {
            sha256: peer.sha256_hex(),
            sha1: peer.sha1_hex(),
            pem: if pem { peer.pem_url_encoded() } else { String::new() },
        }
    }
}

impl MetadataView for Exchange {
    fn metadata(&self, namespace: &str) -> Option<&Value> {
        self.metadata.get(namespace).or_else(|| peer(self, namespace).map(|p| &p.value))
    }

    fn filter_state(&self, key: &str) -> Option<&[u8]> {
        self.state.get(key).map(|v| v.as_bytes()).or_else(|| peer(self, key).map(|p| p.text.as_bytes()))
    }

    fn each(&self, f: &mut dyn FnMut(&str, &Value)) {
        self.metadata.iter().for_each(|(name, value)| f(name, value));
    }
}

/// Peers are filter state under these names.
fn peer<'a>(ex: &'a Exchange, key: &str) -> Option<&'a crate::istio::KnownPeer> {
    match key {
        "downstream_peer" | "wasm.downstream_peer" => ex.downstream_peer.as_deref(),
        "upstream_peer" | "wasm.upstream_peer" => ex.upstream_peer.as_deref(),
        _ => None,
    }
}

/// TLS facts of the downstream connection.
pub fn downstream_tls(conn: &Conn) -> Option<TlsFacts<'_>> {
    let tls = conn.facts.tls.as_deref()?;
    let text = conn.peer_text.get_or_init(|| PeerText::of(tls, conn.manager.needs_peer_pem));
    Some(tls_facts(tls, text))
}

fn tls_facts<'a>(tls: &'a TlsInfo, text: &'a PeerText) -> TlsFacts<'a> {
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

/// Who asks for what, and from where: what permissions and principals look at. No points of time, nothing of the upstream.
pub fn identities<'a>(conn: &'a Conn, ex: &'a Exchange, found: Option<&'a Found>) -> Facts<'a> {
    Facts {
        request: Some(&ex.request),
        metadata: ex,
        route_metadata: found.map(|f| &f.route().metadata),
        downstream_remote: Some(ex.remote.unwrap_or(conn.facts.remote)),
        downstream_direct_remote: Some(conn.facts.direct_remote),
        downstream_local: Some(conn.facts.local),
        downstream_direct_local: Some(conn.facts.direct_local),
        downstream_tls: downstream_tls(conn),
        filter_chain_name: conn.facts.filter_chain.as_deref().unwrap_or(""),
        requested_server_name: conn.facts.server_name.as_deref().unwrap_or(""),
        ..Default::default()
    }
}

/// Everything known of a stream now.
pub fn facts<'a>(conn: &'a Conn, ex: &'a Exchange, found: Option<&'a Found>) -> Facts<'a> {
    static NO_TEXT: PeerText = PeerText { sha256: String::new(), sha1: String::new(), pem: String::new() };
    let begin = ex.times.begin.unwrap_or_else(|| conn.worker.now());
    let since = |t: Option<Instant>| t.map(|t| t.saturating_duration_since(begin));
    let up = &ex.upstream;
    Facts {
        request: Some(&ex.request),
        response: Some(&ex.response),
        trailers: Some(&ex.response_trailers),
        metadata: ex,
        route_metadata: found.map(|f| &f.route().metadata),
        vhost_metadata: found.map(|f| &f.virtual_host().metadata),
        start: conn.worker.wall(begin),
        now: conn.worker.wall(ex.times.response_end.unwrap_or(begin)),
        marks: Marks {
            request_end: since(ex.times.request_end),
            upstream_connect_begin: since(ex.times.connect_begin),
            upstream_connect_end: since(ex.times.connect_end),
            upstream_handshake_end: None,
            upstream_tx_begin: since(ex.times.upstream_begin),
            upstream_tx_end: since(ex.times.upstream_sent.or(ex.times.upstream_begin)),
            upstream_rx_begin: since(ex.times.upstream_first),
            upstream_rx_end: since(ex.times.upstream_last),
            response_begin: since(ex.times.response_begin),
            response_end: since(ex.times.response_end),
            total: since(ex.times.response_end),
            downstream_handshake: None::<Duration>,
            pool_ready: since(ex.times.connect_end),
        },
        bytes: Bytes {
            received: ex.bytes_received,
            sent: ex.bytes_sent,
            downstream_wire_received: ex.wire.0,
            downstream_wire_sent: ex.wire.1,
            request_headers: ex.request.byte_size() as u64,
            response_headers: ex.response.byte_size() as u64,
            ..Default::default()
        },
        protocol: ex.protocol.as_str(),
        upstream_protocol: up.protocol.map_or("", Protocol::as_str),
        response_code: ex.status,
        response_code_details: &ex.details,
        connection_termination_details: ex.termination.as_deref().unwrap_or(""),
        flags: ex.flags,
        downstream_remote: Some(ex.remote.unwrap_or(conn.facts.remote)),
        downstream_direct_remote: Some(conn.facts.direct_remote),
        downstream_local: Some(conn.facts.local),
        downstream_direct_local: Some(conn.facts.direct_local),
        upstream_host: up.remote,
        upstream_local: up.local,
        upstream_remote: up.remote,
        upstream_host_name: up.host.as_ref().map_or("", |h| &h.hostname),
        host_metadata: up.host.as_ref().map(|h| &h.metadata),
        upstream_cluster: up.cluster.as_deref().unwrap_or(""),
        upstream_cluster_raw: up.cluster.as_deref().unwrap_or(""),
        attempts: ex.attempts,
        upstream_transport_failure: up.transport_failure.as_deref().unwrap_or(""),
        downstream_tls: downstream_tls(conn),
        upstream_tls: up.tls.as_deref().map(|t| tls_facts(t, &NO_TEXT)),
        hostname: &conn.manager.node.hostname,
        filter_chain_name: conn.facts.filter_chain.as_deref().unwrap_or(""),
        virtual_cluster_name: ex.virtual_cluster.as_deref().unwrap_or(""),
        virtual_host_name: ex.virtual_host.as_deref().unwrap_or(""),
        route_name: ex.route_name.as_deref().unwrap_or(""),
        connection_id: conn.facts.id,
        stream_id: ex.stream_id,
        unique: (ex.stream_id as u128) << 64 | ex.random as u128,
        requested_server_name: conn.facts.server_name.as_deref().unwrap_or(""),
        trace_id: ex.span.as_ref().map_or("", |s| s.trace_id()),
        span_id: ex.span.as_ref().map_or("", |s| s.span_id()),
        traced: ex.span.as_ref().is_some_and(|s| s.decided()),
        log_type: "DownstreamEnd",
        health_check: ex.health_check,
        environment: |name| std::env::var(name).ok(),
        ..Default::default()
    }
}
