//! What does the connection manager do to a response before it leaves?
//!
//! Follows Envoy's `ConnectionManagerUtility::mutateResponseHeaders` and `encodeHeaders`.

use http1::HeaderId;
use proxy_config::hcm::ServerHeader;
use telemetry::stats::envoy::hcm as stat;

use crate::connection::Conn;
use crate::decide;
use crate::down::Down;
use crate::exchange::{Exchange, Protocol};
use crate::stream::Found;

/// Response header operations of the route, its virtual host and its table.
pub fn route_headers(conn: &Conn, ex: &mut Exchange, found: &Found) {
    let chain = found.weighted().map_or(&found.route().response_headers, |w| &w.response_headers);
    if !chain.is_empty() {
        decide::response_headers(conn, ex, chain);
    }
}

/// The last touches to a response head, local or from upstream.
pub fn finish_head(conn: &Conn, down: &mut Down, ex: &mut Exchange) {
    if let Some(tracer) = &conn.manager.tracer {
        crate::trace::on_response(tracer, ex);
    }
    telemetry::debug!(
        http,
        "[C{}][S{}] encoding headers via codec:\n{}",
        conn.facts.id,
        ex.stream_id,
        crate::debug::Heads(&ex.response)
    );
    let hcm = &conn.manager.config;
    let tunnel = ex.upgrade && ex.response.get_id(HeaderId::STATUS) == Some(b"101");
    let response = &mut ex.response;
    if !tunnel {
        response.remove_id(HeaderId::CONNECTION);
        response.remove_id(HeaderId::UPGRADE);
    }
    response.remove_id(HeaderId::TRANSFER_ENCODING);
    response.remove_id(HeaderId::KEEP_ALIVE);
    response.remove_id(HeaderId::PROXY_CONNECTION);
    if let Some(via) = &hcm.via {
        response.append_id(HeaderId::VIA, b", ", via.as_bytes());
    }
    if (hcm.always_set_request_id_in_response || ex.request.has(HeaderId::X_ENVOY_FORCE_TRACE))
        && let Some(id) = ex.request.get_id(HeaderId::X_REQUEST_ID)
    {
        response.set_id(HeaderId::X_REQUEST_ID, id);
    }
    if !response.has(HeaderId::DATE) {
        let now = ex.times.upstream_first.unwrap_or_else(|| conn.worker.now());
        response.add_id(HeaderId::DATE, &conn.worker.date(now));
    }
    match hcm.server_header {
        ServerHeader::Overwrite => response.set_id(HeaderId::SERVER, hcm.server_name.as_bytes()),
        ServerHeader::AppendIfAbsent if !response.has(HeaderId::SERVER) => {
            response.add_id(HeaderId::SERVER, hcm.server_name.as_bytes());
        }
        _ => {}
    }
    if ex.protocol == Protocol::Http2 {
        return;
    }
    if let Some(overload) = conn.worker.overload()
        && overload.disable_keepalive.load(std::sync::atomic::Ordering::Relaxed)
    {
        conn.manager.stats.inc(stat::DOWNSTREAM_CX_OVERLOAD_DISABLE_KEEPALIVE);
        down.close = true;
    }
    if conn.worker.draining() || conn.manager.draining() {
        down.close = true;
    }
}
