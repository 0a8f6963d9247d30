//! What does the route make of a request on its way to a cluster: headers, host, path, and the hosts it wants?
//!
//! Called by the router once the route is known, and by mirroring. Absent: choosing the host itself (`pool.rs`).

use http1::HeaderId;
use proxy_config::route::{Forward, HostRewrite, PathRewrite, RouteAction};

use crate::connection::Conn;
use crate::decide;
use crate::exchange::Exchange;
use crate::stream::Found;

/// Header operations and rewrites of the route, in Envoy's order.
pub(super) fn rewrite(conn: &Conn, ex: &mut Exchange, found: &Found, f: &Forward) {
    let weighted = found.weighted();
    let chain = weighted.map_or(&found.route().request_headers, |w| &w.request_headers);
    if !chain.is_empty() {
        decide::request_headers(conn, ex, chain);
    }
    let literal = weighted.and_then(|w| w.host_rewrite.as_deref());
    let host = match (literal, &f.host_rewrite) {
        (Some(h), _) => Some(h.as_bytes().to_vec()),
        (None, HostRewrite::None | HostRewrite::Auto) => None,
        (None, rewrite) => decide::host_rewrite(conn, ex, rewrite),
    };
    if let Some(host) = host.filter(|h| !h.is_empty()) {
        set_host(conn, ex, &host, f.append_x_forwarded_host);
    }
    if !matches!(f.path_rewrite, PathRewrite::None)
        && let Some(path) = decide::path_rewrite(conn, ex, found, f)
    {
        if !conn.manager.router.suppress_envoy_headers {
            let old = ex.request.path().to_vec();
            ex.request.set_id(HeaderId::X_ENVOY_ORIGINAL_PATH, &old);
        }
        ex.request.set_id(HeaderId::PATH, &path);
    }
}

/// Replaces the authority and remembers the old one.
pub(super) fn set_host(conn: &Conn, ex: &mut Exchange, host: &[u8], append_forwarded: bool) {
    if append_forwarded && ex.request.authority() != host {
        let old = ex.request.authority().to_vec();
        ex.request.append_id(HeaderId::X_FORWARDED_HOST, b",", &old);
    }
    let old = ex.request.authority().to_vec();
    if !conn.manager.router.suppress_envoy_headers {
        ex.request.set(b"x-envoy-original-host", &old);
    }
    if old != host {
        ex.request.set_id(HeaderId::AUTHORITY, host);
    }
}

/// How the route terminates a CONNECT, or a POST that stands for one, if it does.
pub(super) fn terminates(found: &Found, ex: &Exchange) -> Option<proxy_config::route::ConnectConfig> {
    let RouteAction::Forward(f) = &found.route().action else { return None };
    let of = f.upgrades.iter().find(|u| u.enabled && &*u.upgrade_type == "connect")?;
    of.connect.filter(|connect| match ex.request.method() {
        b"CONNECT" => ex.upgrade && !ex.request.has(HeaderId::PROTOCOL),
        method => method == b"POST" && connect.allow_post,
    })
}

/// Metadata that the route wants of the host.
pub fn subset(found: &Found) -> &[(proxy_config::Name, proxy_config::common::Value)] {
    let own = found.weighted().and_then(|w| w.metadata_match.as_deref());
    let route = match &found.route().action {
        RouteAction::Forward(f) => f.metadata_match.as_deref(),
        _ => None,
    };
    own.or(route).unwrap_or(&[])
}
