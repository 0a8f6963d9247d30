//! Who is the peer? Istio's `istio.metadata_exchange` for HTTP: told in headers, by baggage or not at all.
//!
//! The downstream peer's headers are read and taken away; ours are added towards the upstream, and the other way
//! round for responses. Workload discovery by xDS is not served: the other methods, and endpoint metadata in
//! `istio.stats`, stand in.

use std::sync::Arc;

use http1::{HeaderBlock, HeaderId};
use proxy_config::common::Value;
use proxy_config::filters::http::{self as config, PeerDiscovery};
use proxy_core::istio::Peer;

use super::{FilterCx, FilterState, Step};
use crate::exchange::Exchange;
use crate::istio::{KnownPeer, Node, node};
use crate::pool;

/// The filter of one chain.
pub struct PeerMetadata {
    config: Arc<config::PeerMetadata>,
    node: Node,
}

/// Which headers the client sent: only they are answered.
#[derive(Clone, Copy, Default)]
pub struct Asked {
    id: bool,
    metadata: bool,
}

impl PeerMetadata {
    /// Compiles the filter.
    pub fn new(config: Arc<config::PeerMetadata>, node: &crate::Node) -> Self {
        if config.downstream_discovery.contains(&PeerDiscovery::WorkloadDiscovery)
            && config.downstream_discovery.len() == 1
        {
            telemetry::warn!(filter, "peer metadata: workload discovery is not served; peers stay unknown");
        }
        PeerMetadata { node: Node::new(node, &config.additional_labels), config }
    }

    fn discover(&self, methods: &[PeerDiscovery], headers: &HeaderBlock) -> Option<Arc<KnownPeer>> {
        methods.iter().find_map(|m| match m {
            PeerDiscovery::IstioHeaders => {
                let value = headers.get_id(HeaderId::X_ENVOY_PEER_METADATA).filter(|v| !v.is_empty())?;
                let id = headers.get_id(HeaderId::X_ENVOY_PEER_METADATA_ID);
                node::from_header(id, value, &self.config.additional_labels)
            }
            PeerDiscovery::Baggage => {
                let value = std::str::from_utf8(headers.get_id(HeaderId::BAGGAGE)?).ok()?;
                Some(KnownPeer::new(Peer::from_baggage(value)))
            }
            PeerDiscovery::WorkloadDiscovery | PeerDiscovery::EndpointMetadata => None,
        })
    }

    /// The request head: learns who sent it, tells the upstream who we are.
    pub fn on_request(&self, cx: &FilterCx<'_>, ex: &mut Exchange) -> Step {
        let methods = &self.config.downstream_discovery;
        if !methods.is_empty() {
            let peer = self.discover(methods, &ex.request);
            if ex.downstream_peer.is_none() {
                ex.downstream_peer = peer;
            }
            if methods.contains(&PeerDiscovery::IstioHeaders) {
                let id = ex.request.remove_id(HeaderId::X_ENVOY_PEER_METADATA_ID);
                let metadata = ex.request.remove_id(HeaderId::X_ENVOY_PEER_METADATA);
                if id || metadata {
                    ex.filters.push(FilterState::PeerMetadata(Asked { id, metadata }));
                }
            }
        }
        if self.config.upstream_propagation && !self.skips(cx, ex) {
            ex.request.set_id(HeaderId::X_ENVOY_PEER_METADATA_ID, self.node.id.as_bytes());
            ex.request.set_id(HeaderId::X_ENVOY_PEER_METADATA, self.node.header.as_bytes());
        }
        if self.config.upstream_baggage {
            ex.request.set_id(HeaderId::BAGGAGE, self.node.baggage.as_bytes());
        }
        Step::Continue
    }

    /// Whether the chosen cluster is not to learn who we are.
    fn skips(&self, cx: &FilterCx<'_>, ex: &Exchange) -> bool {
        let Some(name) = &ex.upstream.cluster else { return false };
        let skip = self.config.skip_external_clusters;
        if skip && **name == *"PassthroughCluster" {
            return true;
        }
        let Some(cluster) = pool::cluster(&cx.conn.worker, name) else { return false };
        let flag = |key: &str| matches!(cluster.metadata().get("istio", &[key]), Some(Value::Bool(true)));
        (skip && flag("external")) || flag("disable_mx")
    }

    /// The response head: learns who answered, tells a client that asked.
    pub fn on_response(&self, ex: &mut Exchange) {
        let methods = &self.config.upstream_discovery;
        if !methods.is_empty() {
            if ex.upstream_peer.is_none() {
                ex.upstream_peer = self.discover(methods, &ex.response);
            }
            if methods.contains(&PeerDiscovery::IstioHeaders) {
                ex.response.remove_id(HeaderId::X_ENVOY_PEER_METADATA_ID);
                ex.response.remove_id(HeaderId::X_ENVOY_PEER_METADATA);
            }
        }
        if self.config.downstream_propagation {
            let asked = ex.filters.iter().find_map(|s| match s {
                FilterState::PeerMetadata(a) => Some(*a),
                _ => None,
            });
            let asked = asked.unwrap_or_default();
            if asked.id {
                ex.response.set_id(HeaderId::X_ENVOY_PEER_METADATA_ID, self.node.id.as_bytes());
            }
            if asked.metadata {
                ex.response.set_id(HeaderId::X_ENVOY_PEER_METADATA, self.node.header.as_bytes());
            }
        }
    }
}
