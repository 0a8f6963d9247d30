//! Which headers does the configuration write or remove? Envoy's `HeaderMutation` filter.

use std::sync::Arc;

use proxy_config::filters::FilterOverride;
use proxy_config::filters::http as config;

use super::{FilterCx, Step};
use crate::decide;
use crate::exchange::Exchange;

/// The filter of one chain.
pub struct HeaderMutation {
    /// Its options.
    pub config: Arc<config::HeaderMutation>,
}

impl HeaderMutation {
    /// Request mutations: the chain's, then those of the route's levels.
    pub fn on_request(&self, cx: &FilterCx<'_>, ex: &mut Exchange, over: Option<&FilterOverride>) -> Step {
        decide::mutate(cx.conn, ex, &self.config.request, true);
        if let Some(FilterOverride::HeaderMutation(levels)) = over {
            for level in levels.iter() {
                decide::mutate(cx.conn, ex, &level.request, true);
            }
        }
        Step::Continue
    }

    /// Response mutations.
    pub fn on_response(&self, cx: &FilterCx<'_>, ex: &mut Exchange, over: Option<&FilterOverride>) {
        decide::mutate(cx.conn, ex, &self.config.response, false);
        if let Some(FilterOverride::HeaderMutation(levels)) = over {
            for level in levels.iter() {
                decide::mutate(cx.conn, ex, &level.response, false);
            }
        }
    }
}
