//! What do configuration and request say together? The bridge to `proxy-core`. SHIM.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use http1::HeaderBlock;
use proxy_config::Name;
use proxy_config::filters::http::{LocalRateLimit, Mutation};
use proxy_config::filters::network::SetFilterState;
use proxy_config::format::SubstitutionFormat;
use proxy_config::hcm::LocalReply as LocalReplyConfig;
use proxy_config::headers::{HeaderChain, HeaderOps};
use proxy_config::matcher::HeaderMatcher;
use proxy_config::route::*;

use crate::connection::Conn;
use crate::exchange::Exchange;
use crate::filters::FilterCx;
use crate::reply::LocalReply;
use crate::stream::Found;

pub fn route(_conn: &Conn, ex: &mut Exchange, table: &Rc<Arc<RouteTable>>) -> Option<(usize, usize)> {
    let v = table.domains.find(ex.request.authority())? as usize;
    let path = ex.request.path();
    let r = table.virtual_hosts[v].routes.iter().position(|r| match &r.matcher.path {
        PathMatch::Any => true,
        PathMatch::Prefix(p) => path.starts_with(p.as_bytes()),
        PathMatch::Exact(p) => path == p.as_bytes(),
        _ => false,
    })?;
    Some((v, r))
}
pub fn weighted(ex: &Exchange, w: &WeightedClusters) -> usize {
    let mut n = ex.random % w.total_weight;
    w.clusters.iter().position(|c| { let hit = n < c.weight as u64; n = n.saturating_sub(c.weight as u64); hit }).unwrap_or(0)
}
pub fn cluster_name(found: &Found, ex: &Exchange) -> Option<Name> {
    let RouteAction::Forward(f) = &found.route().action else { return None };
    let spec = found.weighted().map_or(&f.cluster, |w| &w.cluster);
    match spec {
        ClusterSpecifier::Cluster(n) => Some(n.clone()),
        ClusterSpecifier::Header(h) => {
            let v = ex.request.get(h.as_str().as_bytes())?;
            Some(std::str::from_utf8(v).ok()?.into())
        }
        ClusterSpecifier::Weighted(_) => None,
    }
}
pub fn headers_match(all: &[HeaderMatcher], _b: &HeaderBlock) -> bool { all.is_empty() }
pub fn header_matches(_m: &HeaderMatcher, _b: &HeaderBlock) -> bool { false }
pub fn local_descriptor(_cx: &FilterCx<'_>, _ex: &Exchange, _c: &LocalRateLimit) -> Option<usize> { None }
pub fn apply_ops(_conn: &Conn, _ex: &mut Exchange, _ops: &HeaderOps, _request: bool) {}
pub fn literal_headers(_ops: &HeaderOps) -> Vec<(Cow<'static, str>, Vec<u8>)> { Vec::new() }
pub fn mutate(_conn: &Conn, _ex: &mut Exchange, _m: &[Mutation], _request: bool) {}
pub fn set_filter_state(_conn: &Conn, _ex: &mut Exchange, _c: &SetFilterState) {}
pub fn request_headers(_conn: &Conn, _ex: &mut Exchange, _c: &HeaderChain) {}
pub fn response_headers(_conn: &Conn, _ex: &mut Exchange, _c: &HeaderChain) {}
pub fn local_reply(_conn: &Conn, _ex: &mut Exchange, _c: &LocalReplyConfig, _r: &LocalReply, has: bool) -> bool { has }
pub fn body_format(_conn: &Conn, _ex: &mut Exchange, _f: &SubstitutionFormat, b: &[u8]) -> Vec<u8> { b.to_vec() }
pub fn host_rewrite(_conn: &Conn, _ex: &Exchange, _r: &HostRewrite) -> Option<Vec<u8>> { None }
pub fn path_rewrite(_conn: &Conn, _ex: &Exchange, _f: &Found, _fw: &Forward) -> Option<Vec<u8>> { None }
pub fn matched_prefix(_f: &Found, _path: &[u8]) -> usize { 0 }
pub fn replay_limit(found: &Found) -> Option<usize> { found.route().request_body_buffer_limit.map(|n| n as usize) }
pub fn hash(_conn: &Conn, _ex: &mut Exchange, _f: &Forward) -> Option<u64> { None }
