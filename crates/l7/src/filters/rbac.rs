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
use crate::facts::{facts, identities};
use crate::manager::Deps;
use crate::reply::LocalReply;

/// Namespace of the filter's dynamic metadata.
const NAMESPACE: &str = "envoy.filters.http.rbac";

/// What is left in the dynamic metadata.
type Note = Arc<BTreeMap<Name, Value>>;

/// The filter of one chain.
pub struct Rbac {
    config: Arc<config::HttpRbac>,
    namespace: Name,
    /// Notes of the rules and of the shadow rules.
    notes: Notes,
    shadow_notes: Notes,
    stats: Block<stat::Rbac>,
    shadow_stats: Block<stat::Rbac>,
}

/// What an engine says about a request, made before there is one.
struct Notes {
    /// By policy, in the rules' order.
    matched: Box<[Note]>,
    unmatched: Note,
    /// Some policy has a condition in CEL, which may ask for anything.
    conditions: bool,
}

impl Notes {
    fn new(rules: Option<&Arc<Rules>>, prefix: &str, engine: &str) -> Self {
        let action = rules.map_or(Action::Log, |r| r.action);
        let of = |(policy, _): &(Name, _)| note(prefix, engine, action != Action::Deny, Some(policy));
        Notes {
            matched: rules.iter().flat_map(|r| r.policies.iter().map(of)).collect(),
            unmatched: note(prefix, engine, action != Action::Allow, None),
            conditions: rules.is_some_and(|r| r.policies.iter().any(|(_, p)| p.condition.is_some())),
        }
    }
}

impl Rbac {
    /// Compiles the filter.
    pub fn new(config: Arc<config::HttpRbac>, stat_prefix: &Name, deps: &Deps<'_>) -> Self {
        let block = |own: &str| {
            let dot = if own.is_empty() || own.ends_with('.') { "" } else { "." };
            deps.store.block(&format!("http.{stat_prefix}.rbac.{own}{dot}"))
        };
        let rbac = &config.config;
        let stats = block(&rbac.rules_stat_prefix);
        let shadow_stats = block(&rbac.shadow_rules_stat_prefix);
        let notes = Notes::new(rbac.rules.as_ref(), &rbac.rules_stat_prefix, "enforced");
        let shadow_notes = Notes::new(rbac.shadow_rules.as_ref(), &rbac.shadow_rules_stat_prefix, "shadow");
        Rbac { namespace: NAMESPACE.into(), notes, shadow_notes, stats, shadow_stats, config }
    }

    /// Judges the request: first by the shadow rules, which only tell, then by the rules.
    pub fn on_request(&self, cx: &FilterCx<'_>, ex: &mut Exchange, over: Option<&FilterOverride>) -> Step {
        let config = match over {
            Some(FilterOverride::Rbac(c)) => &c.config,
            _ => &self.config.config,
        };
        let own = std::ptr::eq(config, &self.config.config);
        if let Some(rules) = &config.shadow_rules {
            let notes = own.then_some(&self.shadow_notes).ok_or(&*config.shadow_rules_stat_prefix);
            let (allowed, _) = self.judge(cx, ex, rules, notes, "shadow");
            self.shadow_stats.inc(if allowed { stat::SHADOW_ALLOWED } else { stat::SHADOW_DENIED });
        }
        let Some(rules) = &config.rules else {
            return Step::Continue;
        };
        let notes = own.then_some(&self.notes).ok_or(&*config.rules_stat_prefix);
        let (allowed, policy) = self.judge(cx, ex, rules, notes, "enforced");
        if rules.action == Action::Log {
            let hint = BTreeMap::from([("access_log_hint".into(), Value::Bool(policy.is_some()))]);
            super::merge_metadata(ex, "envoy.common", hint);
        }
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
            policy.unwrap_or("none")
        );
        let name = policy.unwrap_or("none");
        let details = format!("rbac_access_denied_matched_policy[{name}]").replace(' ', "_");
        let mut reply = LocalReply::text(403, "RBAC: access denied", "");
        reply.details = details.into();
        Step::reply(reply)
    }

    /// What the rules say, and which policy matched. That is left in the dynamic metadata: as prepared, or by a prefix.
    fn judge<'r>(
        &self,
        cx: &FilterCx<'_>,
        ex: &mut Exchange,
        rules: &'r Rules,
        notes: Result<&Notes, &str>,
        engine: &str,
    ) -> (bool, Option<&'r str>) {
        let verdict = match notes {
            Ok(Notes { conditions: false, .. }) => evaluate(rules, &identities(cx.conn, ex, cx.found)),
            _ => evaluate(rules, &facts(cx.conn, ex, cx.found)),
        };
        let left = match (notes, verdict.policy) {
            (Err(prefix), policy) => note(prefix, engine, verdict.allowed, policy),
            (Ok(notes), None) => notes.unmatched.clone(),
            (Ok(notes), Some(policy)) => {
                let which = rules.policies.iter().position(|(name, _)| std::ptr::eq(&**name, policy));
                which.and_then(|i| notes.matched.get(i)).unwrap_or(&notes.unmatched).clone()
            }
        };
        super::merge_note(ex, &self.namespace, left);
        (verdict.allowed, verdict.policy)
    }
}

/// What an engine leaves in the dynamic metadata.
fn note(prefix: &str, engine: &str, allowed: bool, policy: Option<&str>) -> Note {
    let result = if allowed { "allowed" } else { "denied" };
    let mut entries: BTreeMap<Name, Value> =
        BTreeMap::from([(format!("{prefix}{engine}_engine_result").into(), Value::String(result.into()))]);
    if let Some(p) = policy {
        entries.insert(format!("{prefix}{engine}_effective_policy_id").into(), Value::String(p.into()));
    }
    entries.into()
}
