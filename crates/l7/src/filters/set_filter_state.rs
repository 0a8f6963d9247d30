//! Which filter state does the configuration write? Envoy's `set_filter_state`.

use std::sync::Arc;

use proxy_config::filters::FilterOverride;
use proxy_config::filters::network as config;

use super::{FilterCx, Step};
use crate::decide;
use crate::exchange::Exchange;

/// The filter of one chain.
pub struct SetFilterState {
    /// Its options.
    pub config: Arc<config::SetFilterState>,
}

impl SetFilterState {
    /// Evaluates and stores the values.
    pub fn on_request(&self, cx: &FilterCx<'_>, ex: &mut Exchange, over: Option<&FilterOverride>) -> Step {
        let config = match over {
            Some(FilterOverride::SetFilterState(c)) => c,
            _ => &self.config,
        };
        decide::set_filter_state(cx.conn, ex, config);
        Step::Continue
    }
}
