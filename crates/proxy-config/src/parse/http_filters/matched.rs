//! How are filters compiled that a request's own facts choose? `ExtensionWithMatcher` around any filter, and `composite`.

use protos::envoy::extensions::common::matching::v3::ExtensionWithMatcher;
use protos::envoy::extensions::filters::http::composite::v3 as f;
use protos::xds::core::v3::TypedExtensionConfig;
use protos::xds::r#type::matcher::v3::Matcher;

use super::super::any::{Typed, no_config};
use super::super::{common, match_tree, reject};
use super::http_filter_config;
use crate::common::Fraction;
use crate::error::{At, Result, missing};
use crate::filters::http::{HttpFilterKind, MatchAction, Matched};

/// `ExtensionWithMatcher`
pub(super) fn extension(e: &ExtensionWithMatcher) -> Result<Matched> {
    let inner = e.extension_config.as_ref().ok_or_else(|| missing("extension_config"))?;
    let any = inner.typed_config.as_ref().ok_or_else(|| no_config(&inner.name).at("extension_config"))?;
    let filter = http_filter_config(&inner.name, any).at("typed_config").at("extension_config")?;
    let old = e.matcher.as_ref().map(match_tree::of_envoy).transpose().at("matcher")?;
    // A composite has no filter of its own; what it executes, the matcher around it says.
    let filter = match filter {
        HttpFilterKind::Matched(m) if m.filter.is_none() && m.tree.is_none() => None,
        filter => Some(filter),
    };
    build(e.xds_matcher.as_ref().or(old.as_ref()), "xds_matcher", filter)
}

/// `Composite`
pub(super) fn composite(c: &f::Composite) -> Result<Matched> {
    reject!(c; named_filter_chains);
    build(c.matcher.as_ref(), "matcher", None)
}

fn build(wire: Option<&Matcher>, field: &str, filter: Option<HttpFilterKind>) -> Result<Matched> {
    let mut actions = Vec::new();
    let mut compile = |wire: &TypedExtensionConfig| {
        actions.push(action(wire)?);
        Ok(actions.len() - 1)
    };
    let tree = wire.map(|wire| match_tree::tree(wire, &mut compile)).transpose().at(field)?;
    Ok(Matched { tree, actions: actions.into(), filter })
}

fn action(wire: &TypedExtensionConfig) -> Result<MatchAction> {
    let any = wire.typed_config.as_ref().ok_or_else(|| no_config(&wire.name))?;
    let typed = Typed::open(&wire.name, any)?;
    match typed.message.as_str() {
        "envoy.extensions.filters.common.matcher.action.v3.SkipFilter" => Ok(MatchAction::Skip),
        "envoy.extensions.filters.http.composite.v3.ExecuteFilterAction" => {
            let e: f::ExecuteFilterAction = typed.decode()?;
            reject!(e; dynamic_config, filter_chain, filter_chain_name);
            let inner = e.typed_config.as_ref().ok_or_else(|| missing("typed_config"))?;
            let any = inner.typed_config.as_ref().ok_or_else(|| no_config(&inner.name).at("typed_config"))?;
            let share = common::runtime_fraction("sample_percent", &e.sample_percent, Fraction::ALWAYS)?;
            Ok(MatchAction::Execute(http_filter_config(&inner.name, any).at("typed_config")?, share))
        }
        _ => Err(typed.unknown()),
    }
}
