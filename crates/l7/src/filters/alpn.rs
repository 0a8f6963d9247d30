//! Which protocols does the upstream handshake offer? Istio's `istio.alpn` filter.

use std::sync::Arc;

use proxy_config::filters::http as config;

use super::Step;
use crate::exchange::{Exchange, Protocol};

/// Protocol names as they go into a handshake.
type Names = Arc<[Box<[u8]>]>;

/// The filter of one chain.
pub struct Alpn {
    http10: Names,
    http11: Names,
    http2: Names,
}

impl Alpn {
    /// Compiles the filter.
    pub fn new(config: &config::Alpn) -> Self {
        let names = |list: &[proxy_config::Name]| list.iter().map(|n| n.as_bytes().into()).collect();
        Alpn { http10: names(&config.http10), http11: names(&config.http11), http2: names(&config.http2) }
    }

    /// Offers all lists; the router picks by the protocol that the cluster speaks.
    pub fn on_request(&self, ex: &mut Exchange) -> Step {
        ex.alpn = Some([self.http10.clone(), self.http11.clone(), self.http2.clone()]);
        Step::Continue
    }
}

/// The list for an upstream protocol.
pub fn for_protocol(ex: &Exchange, upstream: Protocol) -> Option<Names> {
    let lists = ex.alpn.as_ref()?;
    let list = match upstream {
        Protocol::Http10 => &lists[0],
        Protocol::Http11 => &lists[1],
        Protocol::Http2 => &lists[2],
    };
    (!list.is_empty()).then(|| list.clone())
}
