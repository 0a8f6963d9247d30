//! Who may do what? Authorization policies as RBAC filters (audit, deny, allow) and external authorization (custom).
//! Single rules are translated in `rule`, their attributes in `generator`. Follows `pilot/pkg/security/authz`.

mod external;
pub mod generator;
mod rule;
pub mod trust_domain;

use std::collections::BTreeMap;
use std::sync::Arc;

use api::security::{AuthorizationAction, AuthorizationPolicy};
use model::Config;
use protos::envoy::config::listener::v3 as listener;
use protos::envoy::config::rbac::v3 as rbac;
use protos::envoy::extensions::filters::http::rbac::v3 as http_rbac;
use protos::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use protos::envoy::extensions::filters::network::rbac::v3 as network_rbac;

use crate::Inputs;
use crate::wire::{any, http_filter, network_filter};

pub(crate) use external::{http as custom_http, tcp as custom_tcp};
pub(crate) use generator::{claims_matcher, nested_names};

/// Name of the HTTP filter.
const HTTP_RBAC: &str = "envoy.filters.http.rbac";
/// Name of the network filter.
const NETWORK_RBAC: &str = "envoy.filters.network.rbac";
/// Stat prefix of network filters.
const TCP_PREFIX: &str = "tcp.";
/// Marks a policy that only reports.
const DRY_RUN: &str = "istio.io/dry-run";

type Policy = Arc<Config<AuthorizationPolicy>>;

/// Enforced and reported rules of one action.
struct Rules {
    enforced: Option<rbac::Rbac>,
    shadow: Option<rbac::Rbac>,
}

impl Rules {
    fn shadow_prefix(&self) -> String {
        let denies = self.shadow.as_ref().is_some_and(|s| s.action == rbac::rbac::Action::Deny as i32);
        if denies { "istio_dry_run_deny_" } else { "istio_dry_run_allow_" }.to_owned()
    }
}

/// A policy that never matches: what a policy without rules means.
fn never() -> rbac::Policy {
    use rbac::{permission::Rule, principal::Identifier};
    let permission = rbac::Permission { rule: Some(Rule::Any(true)) };
    let principal = rbac::Principal { identifier: Some(Identifier::Any(true)) };
    rbac::Policy {
        permissions: vec![rbac::Permission { rule: Some(Rule::NotRule(Box::new(permission))) }],
        principals: vec![rbac::Principal { identifier: Some(Identifier::NotId(Box::new(principal))) }],
        ..Default::default()
    }
}

/// Rules of policies under `ns[NS]-policy[NAME]-rule[N]`. Rules that mean nothing to the protocol are left out, which
/// makes an allow policy narrower and others wider.
fn policies<'a>(
    inputs: &Inputs,
    chosen: impl Iterator<Item = &'a Policy>,
    action: rbac::rbac::Action,
    for_tcp: bool,
    name: impl Fn(&str) -> String,
) -> BTreeMap<String, rbac::Policy> {
    let domains = trust_domain::Bundle::new(inputs.mesh());
    let mut out = BTreeMap::new();
    for policy in chosen {
        let base = |i: usize| name(&format!("ns[{}]-policy[{}]-rule[{i}]", policy.namespace, policy.name));
        if policy.spec.rules.is_empty() {
            out.insert(base(0), never());
        }
        for (i, r) in policy.spec.rules.iter().enumerate() {
            let allow = action == rbac::rbac::Action::Allow;
            if let Some(generated) = rule::translate(r, &policy.namespace, &domains, for_tcp, allow) {
                out.insert(base(i), generated);
            }
        }
    }
    out
}

/// Filters' rules in order of evaluation: audit, deny, allow.
fn rules(inputs: &Inputs, for_tcp: bool) -> Vec<Rules> {
    use AuthorizationAction as A;
    let actions = [
        (A::Audit, rbac::rbac::Action::Log),
        (A::Deny, rbac::rbac::Action::Deny),
        (A::Allow, rbac::rbac::Action::Allow),
    ];
    let of = |(wanted, action): (A, rbac::rbac::Action)| {
        let all: Vec<&Policy> = inputs.view.authorization.iter().filter(|p| p.spec.action == wanted).collect();
        let is_dry = |p: &Policy| p.annotations.get(DRY_RUN).is_some_and(|v| v == "true");
        let part = |dry: bool| {
            let mut chosen = all.iter().copied().filter(|p| is_dry(p) == dry).peekable();
            chosen.peek()?;
            let policies = policies(inputs, chosen, action, for_tcp, str::to_owned);
            Some(rbac::Rbac { action: action as i32, policies, ..Default::default() })
        };
        (!all.is_empty()).then(|| Rules { enforced: part(false), shadow: part(true) })
    };
    actions.into_iter().filter_map(of).collect()
}

/// RBAC filters of an HTTP connection manager.
pub(crate) fn http(inputs: &Inputs) -> Vec<hcm::HttpFilter> {
    let filter = |r: Rules| {
        let config = http_rbac::Rbac {
            shadow_rules_stat_prefix: r.shadow_prefix(),
            rules: r.enforced,
            shadow_rules: r.shadow,
            ..Default::default()
        };
        http_filter(HTTP_RBAC, any(&config))
    };
    rules(inputs, false).into_iter().map(filter).collect()
}

/// RBAC filters of a TCP filter chain.
pub(crate) fn tcp(inputs: &Inputs) -> Vec<listener::Filter> {
    let filter = |r: Rules| {
        let config = network_rbac::Rbac {
            shadow_rules_stat_prefix: r.shadow_prefix(),
            rules: r.enforced,
            shadow_rules: r.shadow,
            stat_prefix: TCP_PREFIX.to_owned(),
            ..Default::default()
        };
        network_filter(NETWORK_RBAC, any(&config))
    };
    rules(inputs, true).into_iter().map(filter).collect()
}

/// The filters a policy set gives, for tests and `x authz`: custom ones first.
pub fn http_filters(inputs: &Inputs) -> Vec<hcm::HttpFilter> {
    custom_http(inputs).into_iter().chain(http(inputs)).collect()
}

/// The same for TCP.
pub fn tcp_filters(inputs: &Inputs) -> Vec<listener::Filter> {
    custom_tcp(inputs).into_iter().chain(tcp(inputs)).collect()
}
