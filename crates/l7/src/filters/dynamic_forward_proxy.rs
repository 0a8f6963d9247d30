//! Which host does a request name? Envoy's `dynamic_forward_proxy`.
//!
//! Only the route's rewrite of the name is done here; the name is resolved with its cluster
//! (`destination::dynamic_host`), which shares its cache with TCP.

use http1::HeaderId;
use proxy_config::filters::FilterOverride;
use proxy_config::filters::http::DfpPerRoute;

use super::Step;
use crate::exchange::Exchange;

/// Rewrites the host, if the route says so.
pub fn on_request(ex: &mut Exchange, over: Option<&FilterOverride>) -> Step {
    if let Some(FilterOverride::DynamicForwardProxy(o)) = over {
        let host = match &**o {
            DfpPerRoute::Literal(host) => Some(host.as_bytes().to_vec()),
            DfpPerRoute::Header(name) => ex.request.get(name.as_str().as_bytes()).map(<[u8]>::to_vec),
        };
        if let Some(host) = host.filter(|h| !h.is_empty()) {
            ex.request.set_id(HeaderId::AUTHORITY, &host);
        }
    }
    Step::Continue
}
