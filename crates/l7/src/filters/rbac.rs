//! Who may do this? Envoy's HTTP RBAC filter, with its shadow rules.

use std::collections::BTreeMap;
use std::sync::Arc;

use proxy_config::Name;
use proxy_config::common::Value;
use proxy_config::filters::FilterOverride;
use proxy_config::filters::http as config;
use proxy_config::rbac::{Action, Rules};
use proxy_core::rbac::evaluate;
use telemetry::stats::Block;
use telemetry::stats::envoy::rbac as stat;

use super::{FilterCx, Step};
use crate::exchange::Exchange;
use crate::facts::facts;
use crate::manager::Deps;
use crate::reply::LocalReply;

/// Namespace of the filter's dynamic metadata.
const NAMESPACE: &str = "envoy.filters.http.rbac";

/// The filter of one chain.
pub struct Rbac {
    config: Arc<config::HttpRbac>,
    stats: Block<stat::Rbac>,
    shadow_stats: Block<stat::Rbac>,
}

impl Rbac {
    /// Compiles the filter.
    pub fn new(config: Arc<config::HttpRbac>, stat_prefix: &Name, deps: &Deps<'_>) -> Self {
        let block = |own: &str| {
            let dot = if own.is_empty() || own.ends_with('.') { "" } else { "." };
            deps.store.block(&format!("http.{stat_prefix}.rbac.{own}{dot}"))
        };
        let stats = block(&config.config.rules_stat_prefix);
        let shadow_stats = block(&config.config.shadow_rules_stat_prefix);
        Rbac { config, stats, shadow_stats }
    }

    /// Judges the request: first by the shadow rules, which only tell, then by the rules.
    pub fn on_request(&self, cx: &FilterCx<'_>, ex: &mut Exchange, over: Option<&FilterOverride>) -> Step {
        let config = match over {
            Some(FilterOverride::Rbac(c)) => &c.config,
            _ => &self.config.config,
        };
        if let Some(rules) = &config.shadow_rules {
            self.shadow(cx, ex, rules, &config.shadow_rules_stat_prefix);
        }
        let Some(rules) = &config.rules else {
            return Step::Continue;
        };
        let (allowed, policy) = {
            let facts = facts(cx.conn, ex, cx.found);
            let verdict = evaluate(rules, &facts);
            (verdict.allowed, verdict.policy.map(str::to_owned))
        };
        if rules.action == Action::Log {
            let hint = BTreeMap::from([("access_log_hint".into(), Value::Bool(policy.is_some()))]);
            super::merge_metadata(ex, "envoy.common", hint);
        }
        note(ex, &config.rules_stat_prefix, "enforced", allowed, policy.as_deref());
        if allowed {
            self.stats.inc(stat::ALLOWED);
            return Step::Continue;
        }
        self.stats.inc(stat::DENIED);
        telemetry::debug!(
            rbac,
            "[C{}][S{}] enforced denied, matched policy {}",
            cx.conn.facts.id,
            ex.stream_id,
            policy.as_deref().unwrap_or("none")
        );
        let name = policy.as_deref().unwrap_or("none");
        let details = format!("rbac_access_denied_matched_policy[{name}]").replace(' ', "_");
        let mut reply = LocalReply::text(403, "RBAC: access denied", "");
        reply.details = details.into();
        Step::reply(reply)
    }

    fn shadow(&self, cx: &FilterCx<'_>, ex: &mut Exchange, rules: &Rules, prefix: &str) {
        let (allowed, policy) = {
            let facts = facts(cx.conn, ex, cx.found);
            let verdict = evaluate(rules, &facts);
            (verdict.allowed, verdict.policy.map(str::to_owned))
        };
        self.shadow_stats.inc(if allowed { stat::SHADOW_ALLOWED } else { stat::SHADOW_DENIED });
        note(ex, prefix, "shadow", allowed, policy.as_deref());
    }
}

/// Leaves what an engine found in the dynamic metadata.
fn note(ex: &mut Exchange, prefix: &str, engine: &str, allowed: bool, policy: Option<&str>) {
    let result = if allowed { "allowed" } else { "denied" };
    let mut entries: BTreeMap<Name, Value> =
        BTreeMap::from([(format!("{prefix}{engine}_engine_result").into(), Value::String(result.into()))]);
    if let Some(p) = policy {
        entries.insert(format!("{prefix}{engine}_effective_policy_id").into(), Value::String(p.into()));
    }
    super::merge_metadata(ex, NAMESPACE, entries);
}
