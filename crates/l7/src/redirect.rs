//! Where is a request sent instead? Redirect responses, and internal redirects that are followed here.

use std::rc::Rc;

use http1::HeaderId;
use proxy_config::route::{Redirect, RedirectPath, RouteAction, SchemeRedirect};
use telemetry::stats::envoy::cluster as stat;
use telemetry::stats::envoy::router as router_stat;

use crate::connection::Conn;
use crate::decide;
use crate::down::Down;
use crate::exchange::Exchange;
use crate::pool;
use crate::relay::Relay;
use crate::reply::LocalReply;
use crate::request::split_port;
use crate::router;
use crate::stream::{self, Found};
use crate::timers::Timer;

/// The redirect to https that a virtual host demands.
pub fn to_tls(ex: &Exchange) -> LocalReply {
    let mut location = b"https://".to_vec();
    location.extend_from_slice(ex.request.authority());
    location.extend_from_slice(ex.request.path());
    LocalReply::redirect(301, location, "direct_response")
}

/// The response of a redirect route (`RouteEntryImplBase::newUri`).
pub fn reply(conn: &Conn, ex: &mut Exchange, found: &Found, r: &Redirect) -> LocalReply {
    let request = &ex.request;
    let scheme: &[u8] = match &r.scheme {
        Some(SchemeRedirect::Https) => b"https",
        Some(SchemeRedirect::Scheme(s)) => s.as_bytes(),
        None => request.scheme(),
    };
    let mut location = scheme.to_vec();
    location.extend_from_slice(b"://");
    let authority = request.authority();
    match &r.host {
        Some(h) => {
            location.extend_from_slice(h.as_bytes());
            if let Some(port) = r.port {
                location.extend_from_slice(format!(":{port}").as_bytes());
            }
        }
        None => {
            // A default port of the old scheme does not stay when the scheme changes.
            let (host, port) = split_port(authority).map_or((authority, None), |(h, p)| (h, Some(p)));
            location.extend_from_slice(host);
            let old = request.scheme();
            let drop = r.scheme.is_some()
                && scheme != old
                && matches!((old, port), (b"http", Some(80)) | (b"https", Some(443)));
            match (r.port, port) {
                (Some(p), _) => location.extend_from_slice(format!(":{p}").as_bytes()),
                (None, Some(p)) if !drop => location.extend_from_slice(format!(":{p}").as_bytes()),
                _ => {}
            }
        }
    }
    let full = request.path();
    let split = full.iter().position(|b| *b == b'?').unwrap_or(full.len());
    let (path, query) = full.split_at(split);
    let (mut has_query, mut rewritten) = (false, None);
    match &r.path {
        RedirectPath::Keep => location.extend_from_slice(path),
        RedirectPath::Replace(p) => {
            has_query = p.contains('?');
            location.extend_from_slice(p.as_bytes());
        }
        RedirectPath::Prefix(p) => {
            let matched = decide::matched_prefix(found, path);
            rewritten = Some([p.as_bytes(), &path[matched..]].concat());
        }
        RedirectPath::Regex(rewrite) => rewritten = Some(rewrite.apply(path)),
    }
    location.extend_from_slice(rewritten.as_deref().unwrap_or_default());
    if !r.strip_query && !has_query {
        location.extend_from_slice(query);
    }
    if let Some(path) = rewritten {
        // Logs see the request as it would have gone on.
        let (old, new) = (full.to_vec(), [&path, query].concat());
        if !conn.manager.router.suppress_envoy_headers {
            ex.request.set_id(HeaderId::X_ENVOY_ORIGINAL_PATH, &old);
        }
        ex.request.set_id(HeaderId::PATH, &new);
    }
    LocalReply::redirect(r.status, location, "direct_response")
}

/// Whether the upstream's response is a redirect that is followed here.
pub fn wanted(conn: &Conn, ex: &mut Exchange, found: &Found, relay: &Relay) -> bool {
    let RouteAction::Forward(f) = &found.route().action else {
        return false;
    };
    let Some(policy) = &f.internal_redirect else {
        return false;
    };
    let Some(status) = ex.response.status() else {
        return false;
    };
    if !policy.response_codes.contains(&status) {
        return false;
    }
    let stats = &conn.manager.router_stats;
    let fail = |why: Option<_>| {
        why.into_iter().for_each(|counter| stats.inc(counter));
        if let Some(c) = ex.upstream.cluster.as_ref().and_then(|n| pool::cluster(&conn.worker, n)) {
            c.stats().inc(stat::UPSTREAM_INTERNAL_REDIRECT_FAILED_TOTAL);
        }
        false
    };
    // Envoy counts a redirect that it may not follow, and why only when there is a place to go.
    let complete = !relay.replay_lost && (relay.request_done || ex.request_ends_with_head);
    let Some(location) = ex.response.get_id(HeaderId::LOCATION).filter(|_| complete) else {
        return fail(None);
    };
    let Some((scheme, _, _)) = parse(location) else {
        return fail(Some(router_stat::PASSTHROUGH_INTERNAL_REDIRECT_BAD_LOCATION));
    };
    let secure = conn.facts.tls.is_some();
    let target_secure = scheme.eq_ignore_ascii_case(b"https");
    if secure != target_secure && !policy.allow_cross_scheme_redirect {
        return fail(Some(router_stat::PASSTHROUGH_INTERNAL_REDIRECT_UNSAFE_SCHEME));
    }
    if ex.redirects >= policy.max_internal_redirects {
        return fail(Some(router_stat::PASSTHROUGH_INTERNAL_REDIRECT_TOO_MANY_REDIRECTS));
    }
    true
}

/// Scheme, authority and path of an absolute URL.
fn parse(url: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let colon = memchr::memmem::find(url, b"://")?;
    let rest = &url[colon + 3..];
    let end = rest.iter().position(|b| matches!(b, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    (end > 0).then(|| (&url[..colon], &rest[..end], &rest[end..]))
}

/// Sends the request where the response pointed.
pub async fn follow(
    conn: &Rc<Conn>,
    down: &mut Down,
    ex: &mut Exchange,
    timer: &Timer,
    found: &Found,
) -> Result<(), LocalReply> {
    let location = ex.response.get_id(HeaderId::LOCATION).unwrap_or(b"").to_vec();
    let Some((scheme, host, path)) = parse(&location) else {
        return Err(LocalReply::bare(502, "internal_redirect"));
    };
    let request = &mut ex.request;
    let original = [request.scheme(), b"://", request.authority(), request.path()].concat();
    if !request.has(HeaderId::X_ENVOY_ORIGINAL_URL) {
        request.set_id(HeaderId::X_ENVOY_ORIGINAL_URL, &original);
    }
    request.set_id(HeaderId::SCHEME, scheme);
    request.set_id(HeaderId::AUTHORITY, host);
    let path = match path.first() {
        Some(b'/') => path.to_vec(),
        _ => [b"/", path].concat(),
    };
    let path = path.split(|b| *b == b'#').next().unwrap_or(b"/").to_vec();
    request.set_id(HeaderId::PATH, &path);
    request.remove_id(HeaderId::X_ENVOY_ORIGINAL_PATH);
    if ex.response.status() == Some(303) && !matches!(request.method(), b"GET" | b"HEAD") {
        request.set_id(HeaderId::METHOD, b"GET");
        request.remove_id(HeaderId::CONTENT_LENGTH);
        ex.buffered.clear();
        ex.request_ends_with_head = true;
    }
    ex.redirects += 1;
    let Some(next) = stream::find_route(conn, ex, &found.table) else {
        conn.manager.router_stats.inc(router_stat::PASSTHROUGH_INTERNAL_REDIRECT_NO_ROUTE);
        return Err(LocalReply::bare(404, "route_not_found"));
    };
    if let Some(c) = ex.upstream.cluster.as_ref().and_then(|n| pool::cluster(&conn.worker, n)) {
        c.stats().inc(stat::UPSTREAM_INTERNAL_REDIRECT_SUCCEEDED_TOTAL);
    }
    if !ex.buffered.is_empty() {
        ex.body_collected = true;
    }
    router::serve(conn, down, ex, timer, &next).await
}
