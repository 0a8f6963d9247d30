//! May a page of that origin read this response?
//!
//! Follows Envoy's `CorsFilter`: preflights are answered here, others get their headers on the way out.

use std::sync::Arc;

use http1::HeaderId;
use proxy_config::Name;
use proxy_config::filters::FilterOverride;
use proxy_config::route::CorsPolicy;
use telemetry::stats::Block;
use telemetry::stats::envoy::cors as stat;

use super::{FilterCx, FilterState, Step};
use crate::exchange::Exchange;
use crate::manager::Deps;
use crate::reply::LocalReply;

/// The filter of one chain.
pub struct Cors {
    stats: Block<stat::Cors>,
}

/// The request's origin was accepted under this policy.
pub struct Accepted {
    origin: Vec<u8>,
    policy: Arc<CorsPolicy>,
}

impl Cors {
    /// Compiles the filter.
    pub fn new(stat_prefix: &Name, deps: &Deps<'_>) -> Self {
        Cors { stats: deps.store.block(&format!("http.{stat_prefix}.cors.")) }
    }

    /// Answers preflights, remembers accepted origins.
    pub fn on_request(&self, cx: &FilterCx<'_>, ex: &mut Exchange, over: Option<&FilterOverride>) -> Step {
        let Some(FilterOverride::Cors(policy)) = over else {
            return Step::Continue;
        };
        // A route that does not forward has no policy in force.
        if !cx.found.is_some_and(|f| matches!(f.route().action, proxy_config::route::RouteAction::Forward(_))) {
            return Step::Continue;
        }
        let enabled = policy.enabled.hit(cx.conn.worker.random());
        let shadow = !enabled && policy.shadow_enabled.hit(cx.conn.worker.random());
        if !enabled && !shadow {
            return Step::Continue;
        }
        let Some(origin) = ex.request.get_id(HeaderId::ORIGIN).filter(|o| !o.is_empty()) else {
            return Step::Continue;
        };
        let preflight = ex.request.method() == b"OPTIONS"
            && ex.request.get_id(HeaderId::ACCESS_CONTROL_REQUEST_METHOD).is_some_and(|m| !m.is_empty());
        if !policy.allow_origin.iter().any(|m| m.matches(origin)) {
            self.stats.inc(stat::ORIGIN_INVALID);
            if enabled && preflight && !policy.forward_not_matching_preflights {
                return Step::reply(LocalReply { status: 200, details: "cors_response".into(), ..Default::default() });
            }
            return Step::Continue;
        }
        self.stats.inc(stat::ORIGIN_VALID);
        if shadow {
            return Step::Continue;
        }
        let origin = origin.to_vec();
        if preflight {
            let mut reply = LocalReply { status: 200, details: "cors_response".into(), ..Default::default() };
            let mut add = |name: &'static str, value: &[u8]| {
                if !value.is_empty() {
                    reply.headers.push((name.into(), value.to_vec()));
                }
            };
            add("access-control-allow-origin", &origin);
            if policy.allow_credentials {
                add("access-control-allow-credentials", b"true");
            }
            add("access-control-allow-methods", policy.allow_methods.as_bytes());
            add("access-control-allow-headers", policy.allow_headers.as_bytes());
            add("access-control-expose-headers", policy.expose_headers.as_bytes());
            add("access-control-max-age", policy.max_age.as_bytes());
            if policy.allow_private_network_access
                && ex.request.get_id(HeaderId::ACCESS_CONTROL_REQUEST_PRIVATE_NETWORK) == Some(b"true")
            {
                add("access-control-allow-private-network", b"true");
            }
            return Step::reply(reply);
        }
        ex.filters.push(FilterState::Cors(Accepted { origin, policy: policy.clone() }));
        Step::Continue
    }

    /// Adds the headers for an accepted origin.
    pub fn on_response(&self, ex: &mut Exchange) {
        let Some(FilterState::Cors(accepted)) = ex.filters.iter().find(|s| matches!(s, FilterState::Cors(_))) else {
            return;
        };
        let response = &mut ex.response;
        response.set_id(HeaderId::ACCESS_CONTROL_ALLOW_ORIGIN, &accepted.origin);
        if accepted.policy.allow_credentials {
            response.set_id(HeaderId::ACCESS_CONTROL_ALLOW_CREDENTIALS, b"true");
        }
        if !accepted.policy.expose_headers.is_empty() {
            let expose = accepted.policy.expose_headers.as_bytes();
            response.set_id(HeaderId::ACCESS_CONTROL_EXPOSE_HEADERS, expose);
        }
    }
}
