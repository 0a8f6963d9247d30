//! Where does a request go when it is not balancing that decides, and which connections are opened ahead of need?
//!
//! Original destinations, hosts that requests name, preconnecting. Called by `router` and `pool`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use proxy_config::cluster::Discovery;
use proxy_config::route::Priority;
use telemetry::stats::envoy::cluster as stat;
use upstream::{ConnectRequest, Host};

use crate::connection::ConnFacts;
use crate::exchange::Exchange;
use crate::pool::{Cluster, Lease};

/// Connections opened ahead of need at once (the ratio is at most 3).
const PRECONNECT_MAX: u32 = 3;

/// Filter state that names the destination.
const ORIGINAL_DST_STATE: &str = "envoy.network.transport_socket.original_dst_address";

/// Where an ORIGINAL_DST cluster sends this request: filter state, header, metadata, then where the client wanted to go.
pub fn original_dst(facts: &ConnFacts, cluster: &upstream::Cluster, ex: &Exchange) -> Option<SocketAddr> {
    let Discovery::OriginalDst(o) = &cluster.config.discovery else {
        return None;
    };
    let parse = |text: Option<&str>| match text?.parse() {
        Ok(address) => Some(address),
        Err(_) => {
            cluster.stats.inc(stat::ORIGINAL_DST_HOST_INVALID);
            None
        }
    };
    let stated = ex.state.get(ORIGINAL_DST_STATE).map(|v| &**v);
    let of_connection = || facts.state.iter().rev().find(|(k, _)| **k == *ORIGINAL_DST_STATE).map(|(_, v)| &**v);
    let header = || {
        let name = o.use_http_header.then(|| o.http_header_name.as_str().as_bytes())?;
        std::str::from_utf8(ex.request.get(name)?).ok()
    };
    let metadata = || {
        let (namespace, path) = o.metadata_key.as_ref()?;
        ex.metadata.get(namespace)?.path(path)?.as_str()
    };
    let mut address: SocketAddr = parse(stated.or_else(of_connection))
        .or_else(|| parse(header()))
        .or_else(|| parse(metadata()))
        .or_else(|| facts.restored.then_some(facts.local))?;
    if let Some(port) = o.upstream_port_override {
        address.set_port(port);
    }
    Some(address)
}

/// The host that the request's authority names, for a dynamic forward proxy cluster; filter state may name another
/// (`envoy.upstream.dynamic_host`, `envoy.upstream.dynamic_port`).
pub async fn dynamic_host(cluster: &Cluster, ex: &Exchange) -> Option<Arc<Host>> {
    let entry = cluster.entry();
    let authority = ex.request.authority();
    let (host, port) = match crate::request::split_port(authority) {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    let stated = ex.state.get("envoy.upstream.dynamic_host");
    let host = stated.map(|s| &**s).or(std::str::from_utf8(host).ok())?;
    let port = ex.state.get("envoy.upstream.dynamic_port").and_then(|p| p.parse().ok()).or(port);
    let tls = matches!(entry.config.transport, proxy_config::cluster::UpstreamTransport::Tls(_));
    entry.dynamic_host(host, port.unwrap_or(if tls { 443 } else { 80 })).await
}

/// Opens connections ahead of need, so that a host has `ratio` times as many as requests (HTTP/1.1).
pub fn preconnect(
    lease: &Lease,
    ratio: f64,
    priority: Priority,
    alpn: Option<Arc<[Box<[u8]>]>>,
    sni: Option<String>,
    proxied: Option<(SocketAddr, SocketAddr)>,
    source: Option<upstream::Source>,
) {
    let stats = &lease.host().stats;
    let wanted = (f64::from(stats.rq_active.load(Relaxed)) * ratio).ceil() as u32;
    let missing = wanted.saturating_sub(stats.cx_active.load(Relaxed)).min(PRECONNECT_MAX);
    for _ in 0..missing {
        let (cluster, host, keep) = lease.another();
        let (alpn, sni) = (alpn.clone(), sni.clone());
        tokio::task::spawn_local(async move {
            let entry = cluster.entry();
            let request = ConnectRequest {
                priority,
                alpn: alpn.as_deref(),
                sni: sni.as_deref(),
                dns_san: sni.as_deref().filter(|_| entry.config.http.auto_san_validation),
                proxied,
                state: &[],
                source,
            };
            // Nobody waits for it; its failure is counted.
            if let Ok(opened) = upstream::connect(entry, &host, &request).await {
                keep(opened);
            }
        });
    }
}
