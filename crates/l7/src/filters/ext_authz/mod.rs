//! Does somebody else allow this request? Envoy's `ext_authz`, asking a gRPC or an HTTP service.

pub mod answer;
pub mod check;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use http1::HeaderId;
use protos::envoy::service::auth::v3 as auth;
use proxy_config::Name;
use proxy_config::filters::FilterOverride;
use proxy_config::filters::http::{self as config, BufferSettings, ExtAuthzService};
use proxy_core::matcher;
use telemetry::access_log::ResponseFlags;
use telemetry::stats::Block;
use telemetry::stats::envoy::{charge, cluster_ext_authz, ext_authz as stat};

use self::answer::{Kind, Verdict};
use super::per_cluster::PerCluster;
use super::{FilterCx, FilterState, Step};
use crate::callout::wire::{HeaderEdit, is_name, is_removable};
use crate::exchange::Exchange;
use crate::manager::Deps;
use crate::pool;
use crate::reply::{Body, LocalReply};
use crate::worker::Worker;

/// Namespace of the filter's dynamic metadata.
const NAMESPACE: &str = "envoy.filters.http.ext_authz";

/// The filter of one chain.
pub struct ExtAuthz {
    config: Arc<config::ExtAuthz>,
    stats: Block<stat::ExtAuthz>,
    clusters: PerCluster<cluster_ext_authz::ExtAuthz>,
}

/// Headers that an accepted request's response gets.
pub struct Accepted(Vec<HeaderEdit>);

impl ExtAuthz {
    /// Compiles the filter.
    pub fn new(config: Arc<config::ExtAuthz>, stat_prefix: &Name, deps: &Deps<'_>) -> Arc<Self> {
        let own = config.stat_prefix.as_ref().map_or(String::new(), |p| format!("{p}."));
        let stats = deps.store.block(&format!("http.{stat_prefix}.ext_authz.{own}"));
        let scope = config.stat_prefix.as_ref().map_or("ext_authz.".to_owned(), |p| format!("ext_authz.{p}."));
        Arc::new(ExtAuthz { config, stats, clusters: PerCluster::new(deps.store, scope) })
    }

    /// Asks, unless the body is to be sent and not here yet.
    pub fn on_request(self: &Arc<Self>, cx: &FilterCx<'_>, ex: &mut Exchange, over: Option<&FilterOverride>) -> Step {
        let c = &self.config;
        let wanted = c.filter_enabled_metadata.as_ref().is_none_or(|m| matcher::metadata(m, &*ex));
        if !c.enabled.hit(cx.conn.worker.random()) || !wanted {
            self.stats.inc(stat::DISABLED);
            if c.deny_at_disable {
                return self.refuse(c.status_on_error, "ext_authz_error", false);
            }
            return Step::Continue;
        }
        match self.body(over).filter(|_| !ex.request_ends_with_head && !ex.upgrade) {
            Some(b) if !ex.body_collected && b.allow_partial_message => Step::Beginning(b.max_request_bytes as usize),
            Some(b) if !ex.body_collected => Step::Body(b.max_request_bytes as usize),
            body => self.ask(cx, ex, body, over),
        }
    }

    /// The body, or its beginning, is here.
    pub fn on_body(self: &Arc<Self>, cx: &FilterCx<'_>, ex: &mut Exchange, over: Option<&FilterOverride>) -> Step {
        self.ask(cx, ex, self.body(over), over)
    }

    fn body(&self, over: Option<&FilterOverride>) -> Option<BufferSettings> {
        match over {
            Some(FilterOverride::ExtAuthz(o)) if o.disable_request_body_buffering => None,
            Some(FilterOverride::ExtAuthz(o)) => o.body.or(self.config.body),
            _ => self.config.body,
        }
    }

    fn ask(
        self: &Arc<Self>,
        cx: &FilterCx<'_>,
        ex: &Exchange,
        body: Option<BufferSettings>,
        over: Option<&FilterOverride>,
    ) -> Step {
        let extensions = match over {
            Some(FilterOverride::ExtAuthz(o)) => &o.context_extensions[..],
            _ => &[],
        };
        let extensions = extensions.iter().map(|(k, v)| (k.to_string(), v.to_string()));
        let check = check::request(&self.config, cx, ex, body.as_ref(), extensions);
        let (this, worker) = (self.clone(), cx.conn.worker.clone());
        Step::Call(Box::pin(async move {
            let verdict = this.verdict(&worker, &check).await;
            let answer: super::Answer = Box::new(move |ex| this.apply(&worker, ex, verdict));
            answer
        }))
    }

    async fn verdict(&self, worker: &Rc<Worker>, check: &auth::CheckRequest) -> Verdict {
        match &self.config.service {
            ExtAuthzService::Grpc(service) => answer::ask_grpc(worker, service, check).await,
            ExtAuthzService::Http(service) => answer::ask_http(worker, service, check).await,
        }
    }

    fn apply(&self, worker: &Worker, ex: &mut Exchange, v: Verdict) -> Step {
        if !v.metadata.is_empty() {
            super::merge_metadata(ex, NAMESPACE, v.metadata.clone());
        }
        if self.config.validate_mutations && !is_valid(&v) {
            self.stats.inc(stat::INVALID);
            return self.refuse(500, "ext_authz_invalid", true);
        }
        match v.kind {
            Kind::Ok => {
                self.clusters.inc(ex, cluster_ext_authz::OK);
                self.stats.inc(stat::OK);
                self.accept(ex, v)
            }
            Kind::Denied => {
                self.clusters.inc(ex, cluster_ext_authz::DENIED);
                self.stats.inc(stat::DENIED);
                let status = v.status.unwrap_or(403);
                if let Some(cluster) = ex.upstream.cluster.as_ref().and_then(|n| pool::cluster(worker, n)) {
                    charge(cluster.stats(), status, true, false);
                }
                let Step::Reply(mut reply) = self.refuse(status, "ext_authz_denied", true) else {
                    return Step::Continue;
                };
                reply.body = Body::Owned(v.body);
                reply.edits = v.headers;
                Step::Reply(reply)
            }
            Kind::Error | Kind::Timeout => {
                self.clusters.inc(ex, cluster_ext_authz::ERROR);
                self.stats.inc(stat::ERROR);
                if v.kind == Kind::Timeout {
                    self.stats.inc(stat::TIMEOUT);
                }
                if self.config.failure_mode_allow {
                    self.clusters.inc(ex, cluster_ext_authz::FAILURE_MODE_ALLOWED);
                    self.stats.inc(stat::FAILURE_MODE_ALLOWED);
                    if self.config.failure_mode_allow_header_add {
                        ex.request.set(b"x-envoy-auth-failure-mode-allowed", b"true");
                    }
                    return Step::Continue;
                }
                let status = v.status.unwrap_or(self.config.status_on_error);
                let Step::Reply(mut reply) = self.refuse(status, "ext_authz_error", true) else {
                    return Step::Continue;
                };
                reply.body = Body::Owned(v.body);
                reply.edits = v.headers;
                Step::Reply(reply)
            }
        }
    }

    fn accept(&self, ex: &mut Exchange, v: Verdict) -> Step {
        let query = !v.query_set.is_empty() || !v.query_remove.is_empty();
        if self.config.clear_route_cache && (!v.headers.is_empty() || !v.remove.is_empty() || query) {
            ex.route_cleared = true;
        }
        for edit in v.headers.iter().filter(|e| e.is_valid()) {
            edit.apply(&mut ex.request);
        }
        for name in v.remove.iter().filter(|n| is_removable(n)) {
            ex.request.remove(name);
        }
        if query {
            let path = with_query(ex.request.path(), &v.query_set, &v.query_remove);
            ex.request.set_id(HeaderId::PATH, &path);
        }
        if !v.response_headers.is_empty() {
            ex.filters.push(FilterState::ExtAuthz(Accepted(v.response_headers)));
        }
        Step::Continue
    }

    fn refuse(&self, status: u16, details: &'static str, after_wait: bool) -> Step {
        let mut reply = LocalReply { status, details: details.into(), after_wait, ..Default::default() };
        reply.flags = ResponseFlags::UNAUTHORIZED_EXTERNAL_SERVICE;
        Step::reply(reply)
    }

    /// Adds the headers that the service asked for.
    pub fn on_response(&self, ex: &mut Exchange) {
        let Some(FilterState::ExtAuthz(accepted)) = ex.filters.iter().find(|s| matches!(s, FilterState::ExtAuthz(_)))
        else {
            return;
        };
        for edit in accepted.0.iter().filter(|e| e.is_valid()) {
            edit.apply(&mut ex.response);
        }
    }
}

fn is_valid(v: &Verdict) -> bool {
    !v.invalid
        && v.headers.iter().chain(&v.response_headers).all(HeaderEdit::is_valid)
        && v.remove.iter().all(|n| is_name(n))
}

/// The path with query parameters changed; they come out sorted by name, as Envoy rebuilds them.
fn with_query(path: &[u8], set: &[(String, String)], remove: &[String]) -> Vec<u8> {
    let mut params: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for pair in matcher::query_of(path).split(|b| *b == b'&').filter(|p| !p.is_empty()) {
        let at = memchr::memchr(b'=', pair).unwrap_or(pair.len());
        params.entry(pair[..at].to_vec()).or_insert_with(|| pair.get(at + 1..).unwrap_or_default().to_vec());
    }
    for (key, value) in set {
        params.insert(key.as_bytes().to_vec(), value.as_bytes().to_vec());
    }
    for key in remove {
        params.remove(key.as_bytes());
    }
    let mut out = matcher::path_only(path).to_vec();
    for (i, (key, value)) in params.iter().enumerate() {
        out.push(if i == 0 { b'?' } else { b'&' });
        out.extend_from_slice(key);
        out.push(b'=');
        out.extend_from_slice(value);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let set = [("b".to_owned(), "2".to_owned())];
        assert_eq!(with_query(b"/p?c=3&a=1", &set, &["c".to_owned()]), b"/p?a=1&b=2");
        assert_eq!(with_query(b"/p?c=3", &[], &["c".to_owned()]), b"/p");
    }
}
