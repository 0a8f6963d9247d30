//! How are header additions, removals and mutation lists compiled?

use std::sync::Arc;

use protos::envoy::config::common::mutation_rules::v3 as mutation;
use protos::envoy::config::core::v3 as core;

use crate::error::{At, Result, invalid, missing};
use crate::filters::http::Mutation;
use crate::headers::{AppendAction, HeaderAdd, HeaderChain, HeaderOps};
use crate::matcher::HeaderName;

/// `HeaderValueOption`
pub(super) fn option(h: &core::HeaderValueOption) -> Result<HeaderAdd> {
    let header = h.header.as_ref().ok_or_else(|| missing("header"))?;
    check_name(&header.key).at("key").at("header")?;
    // `append` is the deprecated spelling; both at once is an error in Envoy.
    let action = match (h.append, h.append_action) {
        (Some(_), n) if n != 0 => {
            return Err(invalid("Both append and append_action are set and it's not allowed"));
        }
        (Some(false), _) => AppendAction::OverwriteIfExistsOrAdd,
        (Some(true), _) | (None, 0) => AppendAction::AppendIfExistsOrAdd,
        (None, 1) => AppendAction::AddIfAbsent,
        (None, 2) => AppendAction::OverwriteIfExistsOrAdd,
        (None, 3) => AppendAction::OverwriteIfExists,
        (None, n) => return Err(invalid(format!("unknown value {n}")).at("append_action")),
    };
    let raw;
    let text = if header.raw_value.is_empty() {
        &header.value
    } else {
        raw = String::from_utf8(header.raw_value.clone()).map_err(|_| invalid("not UTF-8").at("raw_value"))?;
        &raw
    };
    Ok(HeaderAdd {
        name: HeaderName::new(&header.key),
        name_as_given: header.key.as_str().into(),
        value: super::format::text(text).at("value").at("header")?,
        action,
        keep_empty: h.keep_empty_value,
    })
}

fn check_name(name: &str) -> Result<()> {
    if name.is_empty() {
        return Err(invalid("value length must be at least 1 characters"));
    }
    if name.bytes().any(|b| b == 0 || b == b'\r' || b == b'\n') {
        return Err(invalid("value contains a forbidden character"));
    }
    Ok(())
}

/// Additions and removals of one level. `what` is `request_headers` or `response_headers`.
pub(super) fn ops(what: &str, add: &[core::HeaderValueOption], remove: &[String]) -> Result<HeaderOps> {
    let add_field = format!("{what}_to_add");
    let add: Vec<HeaderAdd> = super::each(&add_field, add, |h| {
        // Envoy refuses to write :-headers and host by these lists.
        let option = option(h)?;
        if option.name_as_given.starts_with(':') || option.name_as_given.eq_ignore_ascii_case("host") {
            return Err(invalid(":-prefixed or host headers may not be modified").at("key").at("header"));
        }
        Ok(option)
    })?;
    let remove_field = format!("{what}_to_remove");
    let remove: Vec<HeaderName> = super::each(&remove_field, remove, |n: &String| {
        check_name(n)?;
        if n.starts_with(':') || n.eq_ignore_ascii_case("host") {
            return Err(invalid(":-prefixed or host headers may not be removed"));
        }
        Ok(HeaderName::new(n))
    })?;
    Ok(HeaderOps { remove: remove.into(), add: add.into() })
}

/// `None` when there is nothing to do.
pub(super) fn level(what: &str, add: &[core::HeaderValueOption], remove: &[String]) -> Result<Option<Arc<HeaderOps>>> {
    let ops = ops(what, add, remove)?;
    Ok((!ops.is_empty()).then(|| Arc::new(ops)))
}

/// Additions only, for filters.
pub(super) fn additions(field: &str, add: &[core::HeaderValueOption]) -> Result<HeaderOps> {
    let add: Vec<HeaderAdd> = super::each(field, add, option)?;
    Ok(HeaderOps { remove: Box::default(), add: add.into() })
}

/// Chains levels, given most specific first, in evaluation order.
///
/// Envoy evaluates from the most specific to the least specific, so that the least specific level wins;
/// `most_specific_wins` reverses that.
pub(super) fn chain(levels: &[Option<&Arc<HeaderOps>>], most_specific_wins: bool) -> HeaderChain {
    let mut chain: Vec<Arc<HeaderOps>> = levels.iter().filter_map(|l| l.cloned()).collect();
    if most_specific_wins {
        chain.reverse();
    }
    chain.into()
}

/// `HeaderMutation` list.
pub(super) fn mutations(field: &str, list: &[mutation::HeaderMutation]) -> Result<Box<[Mutation]>> {
    use mutation::header_mutation::Action;
    super::each(field, list, |m| match &m.action {
        Some(Action::Remove(name)) => {
            check_name(name).at("remove")?;
            Ok(Mutation::Remove(HeaderName::new(name)))
        }
        Some(Action::Append(h)) => Ok(Mutation::Add(option(h).at("append")?)),
        Some(Action::RemoveOnMatch(r)) => {
            let m = r.key_matcher.as_ref().ok_or_else(|| missing("key_matcher").at("remove_on_match"))?;
            Ok(Mutation::RemoveMatching(super::matcher::string(m).at("key_matcher").at("remove_on_match")?))
        }
        None => Err(missing("action")),
    })
}

/// Splits a mutation list into one level of operations, for mirrors.
pub(super) fn mutations_as_ops(field: &str, list: &[mutation::HeaderMutation]) -> Result<HeaderChain> {
    let mut chain = Vec::new();
    for mutation in mutations(field, list)? {
        let ops = match mutation {
            Mutation::Remove(name) => HeaderOps { remove: Box::new([name]), add: Box::default() },
            Mutation::Add(add) => HeaderOps { remove: Box::default(), add: Box::new([add]) },
            Mutation::RemoveMatching(_) => {
                return Err(crate::error::unsupported("remove_on_match").at(field));
            }
        };
        chain.push(Arc::new(ops));
    }
    Ok(chain.into())
}
