//! Who may do this? Envoy's HTTP RBAC filter, with its shadow rules.

use std::sync::Arc;

use proxy_config::Name;
use proxy_config::filters::FilterOverride;
use proxy_config::filters::http as config;
use telemetry::stats::Block;
use telemetry::stats::envoy::rbac as stat;

use super::{FilterCx, Step};
use crate::exchange::Exchange;
use crate::manager::Deps;

/// The filter of one chain.
pub struct Rbac {
    #[allow(dead_code)]
    config: Arc<config::HttpRbac>,
    #[allow(dead_code)]
    stats: Block<stat::Rbac>,
}

impl Rbac {
    /// Compiles the filter.
    pub fn new(config: Arc<config::HttpRbac>, stat_prefix: &Name, deps: &Deps<'_>) -> Self {
        let own = &config.config.rules_stat_prefix;
        let stats = deps.store.block(&format!("http.{stat_prefix}.rbac.{}", &**own));
        Rbac { config, stats }
    }

    /// Judges the request.
    pub fn on_request(&self, _cx: &FilterCx<'_>, _ex: &mut Exchange, _over: Option<&FilterOverride>) -> Step {
        Step::Continue
    }
}
