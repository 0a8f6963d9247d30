//! What do configuration and request say together? The bridge from exchanges to `proxy-core`.
//!
//! Every decision is made there; this file gathers its inputs and applies its results.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use http1::{HeaderBlock, HeaderId};
use proxy_config::Name;
use proxy_config::filters::http::Mutation;
use proxy_config::filters::network::SetFilterState;
use proxy_config::format::SubstitutionFormat;
use proxy_config::hcm::LocalReply as LocalReplyConfig;
use proxy_config::headers::{HeaderChain, HeaderOps};
use proxy_config::matcher::HeaderMatcher;
use proxy_config::route::*;
use proxy_core::facts::Facts;
use proxy_core::route::{RouteInput, Selection};
use proxy_core::{format, headers, matcher};

use crate::connection::Conn;
use crate::exchange::Exchange;
use crate::facts::{downstream_tls, facts};
use crate::reply::LocalReply;
use crate::stream::Found;

/// Where a request goes: indices of virtual host and route, and whether TLS is demanded first.
pub enum Routed {
    /// This route.
    To(usize, usize),
    /// The virtual host demands TLS.
    TlsFirst,
    /// Nowhere.
    Nowhere,
}

/// Routes a request.
pub fn route(conn: &Conn, ex: &Exchange, table: &Rc<Arc<RouteTable>>) -> Routed {
    let tls = conn.facts.tls.as_ref().and_then(|_| downstream_tls(conn));
    let input = RouteInput { random: ex.random, tls: tls.as_ref(), metadata: ex };
    match proxy_core::route::select(table, &ex.request, &input) {
        Selection::Route(r) => Routed::To(r.vhost as usize, r.route as usize),
        Selection::TlsRedirect { .. } => Routed::TlsFirst,
        Selection::NoRoute { .. } | Selection::NoVirtualHost => Routed::Nowhere,
    }
}

/// Index of the weighted cluster that this request drew.
pub fn weighted(conn: &Conn, ex: &Exchange, f: &Forward, w: &WeightedClusters) -> usize {
    let from_header = w
        .random_value_header
        .as_ref()
        .and_then(|h| std::str::from_utf8(ex.request.get(h.as_str().as_bytes())?).ok()?.parse().ok());
    let value = match w.use_hash_policy.then(|| peek_hash(conn, ex, f)).flatten() {
        Some(hash) => hash,
        None => from_header.unwrap_or(ex.random),
    };
    let chosen = proxy_core::route::pick_weighted(w, value);
    w.clusters.iter().position(|c| std::ptr::eq(c, chosen)).unwrap_or(0)
}

/// The cluster that the route chose, or `None` when a header should name it and does not.
pub fn cluster_name(found: &Found, ex: &Exchange) -> Option<Name> {
    let RouteAction::Forward(f) = &found.route().action else {
        return None;
    };
    match found.weighted().map_or(&f.cluster, |w| &w.cluster) {
        ClusterSpecifier::Cluster(n) => Some(n.clone()),
        ClusterSpecifier::Header(h) => {
            let value = ex.request.get(h.as_str().as_bytes()).filter(|v| !v.is_empty())?;
            Some(std::str::from_utf8(value).ok()?.into())
        }
        ClusterSpecifier::Weighted(_) => None,
    }
}

/// Whether all header tests hold.
pub fn headers_match(all: &[HeaderMatcher], block: &HeaderBlock) -> bool {
    matcher::headers(all, block)
}

/// Whether one header test holds.
pub fn header_matches(m: &HeaderMatcher, block: &HeaderBlock) -> bool {
    matcher::header(m, block)
}

/// Applies header operations that belong to no route.
pub fn apply_ops(conn: &Conn, ex: &mut Exchange, ops: &HeaderOps, request: bool) {
    edit(conn, ex, request, |block, facts| headers::apply_level(ops, block, facts, request));
}

/// The headers of operations whose values are constant.
pub fn literal_headers(ops: &HeaderOps) -> Vec<(Cow<'static, str>, Vec<u8>)> {
    let mut out = Vec::new();
    for add in &ops.add {
        let mut value = Vec::new();
        format::header_value(&add.value, &Facts::default(), &mut value);
        out.push((add.name.as_str().to_owned().into(), value));
    }
    out
}

/// Applies the mutations of the `header_mutation` filter.
pub fn mutate(conn: &Conn, ex: &mut Exchange, list: &[Mutation], request: bool) {
    if !list.is_empty() {
        edit(conn, ex, request, |block, facts| headers::mutate(list, block, facts, request));
    }
}

/// Takes the block that is changed out of the exchange while the rest of it is looked at.
fn edit(conn: &Conn, ex: &mut Exchange, request: bool, change: impl FnOnce(&mut HeaderBlock, &Facts<'_>)) {
    let mut block = std::mem::take(if request { &mut ex.request } else { &mut ex.response });
    {
        let mut facts = facts(conn, ex, None);
        if request {
            facts.request = None;
        } else {
            facts.response = None;
        }
        change(&mut block, &facts);
    }
    *(if request { &mut ex.request } else { &mut ex.response }) = block;
}

/// Evaluates and stores filter state.
pub fn set_filter_state(conn: &Conn, ex: &mut Exchange, config: &SetFilterState) {
    for v in &config.values {
        let mut text = Vec::new();
        let absent: &[u8] = if v.omit_empty_values { b"" } else { b"-" };
        format::text(&v.value, &facts(conn, ex, None), absent, &mut text);
        if text.is_empty() && v.skip_if_empty {
            continue;
        }
        let text = String::from_utf8_lossy(&text).into_owned();
        ex.state.set_shared(v.key.clone(), text.into(), v.shared_with_upstream > 0);
    }
}

/// Request header operations of a route, all levels.
pub fn request_headers(conn: &Conn, ex: &mut Exchange, chain: &HeaderChain) {
    edit(conn, ex, true, |block, facts| headers::apply(chain, block, facts, true));
}

/// Response header operations of a route, all levels.
pub fn response_headers(conn: &Conn, ex: &mut Exchange, chain: &HeaderChain) {
    edit(conn, ex, false, |block, facts| headers::apply(chain, block, facts, false));
}

/// Rewrites a local reply as configured. Leaves the body in `ex.buffered`; returns whether there is one.
pub fn local_reply(
    conn: &Conn,
    ex: &mut Exchange,
    config: &LocalReplyConfig,
    reply: &LocalReply,
    has_body: bool,
) -> bool {
    ex.status = reply.status;
    let mut body = if has_body || ex.grpc { reply.body.as_bytes().to_vec() } else { Vec::new() };
    let mut body_format = config.body_format.as_ref();
    let chosen = config
        .mappers
        .iter()
        .find(|m| crate::log::passes(&m.filter, &facts(conn, ex, None), ex.random, &|| conn.worker.random()));
    if let Some(m) = chosen {
        if let Some(status) = m.status {
            if ex.grpc {
                let mut digits = [0u8; 20];
                let code = u64::from(crate::reply::grpc_status(status));
                ex.response.set_id(HeaderId::GRPC_STATUS, crate::timeouts::decimal(&mut digits, code));
            } else {
                ex.response.set_status(status);
            }
            ex.status = status;
        }
        if let Some(b) = &m.body {
            body = b.to_vec();
        }
        body_format = m.body_format.as_ref().or(body_format);
        apply_ops(conn, ex, &m.headers, false);
    }
    if let Some(f) = body_format {
        let mut out = Vec::new();
        let mut facts = facts(conn, ex, None);
        facts.local_reply_body = &body;
        format::substitution(f, &facts, &mut out);
        let kind = match (&f.content_type, &f.body) {
            (Some(t), _) => t.as_bytes().to_vec(),
            (None, proxy_config::format::FormatBody::Json(_)) => b"application/json".to_vec(),
            _ => b"text/plain".to_vec(),
        };
        body = out;
        if !ex.grpc {
            ex.response.set_id(HeaderId::CONTENT_TYPE, &kind);
        }
    }
    if ex.grpc {
        // The line end of a JSON format stays out of the message.
        let body = body.strip_suffix(b"\n").unwrap_or(&body);
        if !body.is_empty() && !ex.head_request {
            ex.response.set_id(HeaderId::GRPC_MESSAGE, &crate::reply::percent_encode(body));
        }
        return false;
    }
    if body.is_empty() {
        ex.response.remove_id(HeaderId::CONTENT_LENGTH);
        ex.response.remove_id(HeaderId::CONTENT_TYPE);
        return false;
    }
    if !ex.response.has(HeaderId::CONTENT_TYPE) {
        ex.response.add_id(HeaderId::CONTENT_TYPE, b"text/plain");
    }
    let mut digits = [0u8; 20];
    let length = crate::timeouts::decimal(&mut digits, body.len() as u64);
    ex.response.set_id(HeaderId::CONTENT_LENGTH, length);
    ex.buffered = body;
    true
}

/// Body of a direct response with a format.
pub fn body_format(conn: &Conn, ex: &Exchange, f: &SubstitutionFormat, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut facts = facts(conn, ex, None);
    facts.local_reply_body = body;
    format::substitution(f, &facts, &mut out);
    out
}

/// The new authority, when the route rewrites it.
pub fn host_rewrite(conn: &Conn, ex: &Exchange, rewrite: &HostRewrite) -> Option<Vec<u8>> {
    match rewrite {
        HostRewrite::None | HostRewrite::Auto => None,
        HostRewrite::Literal(h) => Some(h.as_bytes().to_vec()),
        HostRewrite::Header(h) => ex.request.get(h.as_str().as_bytes()).map(<[u8]>::to_vec),
        HostRewrite::PathRegex(r) => Some(r.apply(matcher::path_only(ex.request.path()))),
        HostRewrite::Format(f) => {
            let mut out = Vec::new();
            format::header_value(f, &facts(conn, ex, None), &mut out);
            Some(out)
        }
    }
}

/// The new path with query, when the route rewrites it.
pub fn path_rewrite(conn: &Conn, ex: &Exchange, found: &Found, f: &Forward) -> Option<Vec<u8>> {
    let full = ex.request.path();
    let path = matcher::path_only(full);
    let mut out = match &f.path_rewrite {
        PathRewrite::None => return None,
        PathRewrite::Prefix(p) => {
            let mut out = p.as_bytes().to_vec();
            out.extend_from_slice(&path[matched_prefix(found, path)..]);
            out
        }
        PathRewrite::Regex(r) => r.apply(path),
        PathRewrite::Format(format) => {
            let mut out = Vec::new();
            format::header_value(format, &facts(conn, ex, None), &mut out);
            out
        }
        PathRewrite::Template(parts) => {
            let PathMatch::Template(t) = &found.route().matcher.path else {
                return None;
            };
            let found = t.regex.captures(path)?;
            let mut out = Vec::new();
            for part in parts.iter() {
                match part {
                    TemplatePart::Text(s) => out.extend_from_slice(s.as_bytes()),
                    TemplatePart::Var(v) => {
                        out.extend_from_slice(found.name(v).map_or(&b""[..], |m| m.as_bytes()));
                    }
                }
            }
            out
        }
    };
    out.extend_from_slice(&full[path.len()..]);
    Some(out)
}

/// How much of `path` the route's path matcher matched.
pub fn matched_prefix(found: &Found, path: &[u8]) -> usize {
    let n = match &found.route().matcher.path {
        PathMatch::Any => 1,
        PathMatch::Prefix(p) | PathMatch::PrefixNoCase(p) => p.len(),
        PathMatch::Separated(p) | PathMatch::SeparatedNoCase(p) => p.len(),
        _ => path.len(),
    };
    n.min(path.len())
}

/// Bytes of a request body that may be kept for another try.
pub fn replay_limit(found: &Found) -> Option<usize> {
    found.route().request_body_buffer_limit.map(|n| usize::try_from(n).unwrap_or(usize::MAX))
}

/// The hash for consistent balancing; may ask for a cookie on the response.
pub fn hash(conn: &Conn, ex: &mut Exchange, f: &Forward) -> Option<u64> {
    if f.hash_policy.is_empty() {
        return None;
    }
    hash_with(conn, ex, f)
}

fn peek_hash(conn: &Conn, ex: &Exchange, f: &Forward) -> Option<u64> {
    let remote = ex.remote.unwrap_or(conn.facts.remote).ip();
    proxy_core::hash::request(&f.hash_policy, &ex.request, Some(remote), ex, ex.random).0
}

fn hash_with(conn: &Conn, ex: &mut Exchange, f: &Forward) -> Option<u64> {
    let remote = ex.remote.unwrap_or(conn.facts.remote).ip();
    let (hash, cookie) = proxy_core::hash::request(&f.hash_policy, &ex.request, Some(remote), &*ex, ex.random);
    let cookie = cookie.map(|c| c.header().into_bytes());
    ex.set_cookie = cookie;
    hash
}
