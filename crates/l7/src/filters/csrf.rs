//! Does a state-changing request come from the site it is sent to? Envoy's `CsrfFilter`.

use std::sync::Arc;

use http1::HeaderId;
use proxy_config::Name;
use proxy_config::filters::FilterOverride;
use proxy_config::filters::http as config;
use telemetry::stats::Block;
use telemetry::stats::envoy::csrf as stat;

use super::{FilterCx, Step};
use crate::exchange::Exchange;
use crate::manager::Deps;
use crate::reply::LocalReply;

/// The filter of one chain.
pub struct Csrf {
    config: Arc<config::Csrf>,
    stats: Block<stat::Csrf>,
}

impl Csrf {
    /// Compiles the filter.
    pub fn new(config: Arc<config::Csrf>, stat_prefix: &Name, deps: &Deps<'_>) -> Self {
        Csrf { config, stats: deps.store.block(&format!("http.{stat_prefix}.csrf.")) }
    }

    /// Compares origin and target.
    pub fn on_request(&self, cx: &FilterCx<'_>, ex: &mut Exchange, over: Option<&FilterOverride>) -> Step {
        let config = match over {
            Some(FilterOverride::Csrf(c)) => c,
            _ => &self.config,
        };
        let enabled = config.enabled.hit(cx.conn.worker.random());
        if !enabled && !config.shadow_enabled.hit(cx.conn.worker.random()) {
            return Step::Continue;
        }
        if !matches!(ex.request.method(), b"POST" | b"PUT" | b"DELETE" | b"PATCH") {
            return Step::Continue;
        }
        let origin = ex.request.get_id(HeaderId::ORIGIN);
        // `null` is an origin, and not to be told: whence the request comes in the referer's words does not help.
        let source = match origin.filter(|o| *o != b"null").map(host_and_port) {
            Some(source) if !source.is_empty() => source,
            _ if origin == Some(b"null") => b"",
            _ => ex.request.get_id(HeaderId::REFERER).map_or(&b""[..], host_and_port),
        };
        let valid = if source.is_empty() {
            self.stats.inc(stat::MISSING_SOURCE_ORIGIN);
            false
        } else {
            let target = host_and_port(ex.request.authority());
            let valid = source == target || config.additional_origins.iter().any(|m| m.matches(source));
            self.stats.inc(if valid { stat::REQUEST_VALID } else { stat::REQUEST_INVALID });
            valid
        };
        if valid || !enabled {
            return Step::Continue;
        }
        Step::reply(LocalReply::text(403, "Invalid origin", "csrf_origin_mismatch"))
    }
}

/// `host[:port]` of an absolute URL or of an authority.
fn host_and_port(url: &[u8]) -> &[u8] {
    let rest = memchr::memmem::find(url, b"://").map_or(url, |i| &url[i + 3..]);
    let end = rest.iter().position(|b| matches!(b, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    &rest[..end]
}
