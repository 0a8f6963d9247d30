//! How are generic matchers compiled? `xds.type.matcher.v3.Matcher`, and Envoy's older message of the same fields and numbers.

use protos::envoy::r#type::matcher::v3 as envoy;
use protos::prost::Message;
use protos::xds::core::v3::TypedExtensionConfig;
use protos::xds::r#type::matcher::v3::{self as m, matcher as p};

use super::any::{Typed, expect, no_config};
use super::matcher;
use crate::Name;
use crate::error::{At, Result, invalid, missing, unsupported};
use crate::match_tree::{Branches, DEPTH_MAX, Input, Leaf, MatchTree, Predicate};
use crate::matcher::{HeaderName, StringMatcher};

use p::matcher_list::{FieldMatcher, Predicate as WirePredicate, predicate as pp};

/// Compiles actions; what it returns is their number.
pub(super) type Actions<'a> = &'a mut dyn FnMut(&TypedExtensionConfig) -> Result<usize>;

/// The same message under its older name.
pub(super) fn of_envoy(old: &protos::envoy::config::common::matcher::v3::Matcher) -> Result<m::Matcher> {
    m::Matcher::decode(&*old.encode_to_vec()).map_err(|e| invalid(e.to_string()))
}

/// `Matcher`
pub(super) fn tree(wire: &m::Matcher, actions: Actions<'_>) -> Result<MatchTree> {
    node(wire, actions, 0)
}

fn node(wire: &m::Matcher, actions: Actions<'_>, depth: usize) -> Result<MatchTree> {
    if depth > DEPTH_MAX {
        return Err(invalid("matcher is nested too deeply"));
    }
    let branches = match &wire.matcher_type {
        None => Branches::None,
        Some(p::MatcherType::MatcherList(list)) => {
            let mut rows = Vec::with_capacity(list.matchers.len());
            for (i, FieldMatcher { predicate: condition, on_match }) in list.matchers.iter().enumerate() {
                let mut row = || -> Result<_> {
                    let condition = condition.as_ref().ok_or_else(|| missing("predicate"))?;
                    Ok((predicate(condition, 0).at("predicate")?, leaf(on_match.as_ref(), actions, depth)?))
                };
                rows.push(row().map_err(|e| e.at(&format!("matcher_list.matchers[{i}]")))?);
            }
            Branches::List(rows.into())
        }
        Some(p::MatcherType::MatcherTree(tree)) => {
            let on = input(tree.input.as_ref()).at("matcher_tree")?;
            let mut rows = |map: &p::matcher_tree::MatchMap| -> Result<Vec<(Name, Leaf)>> {
                let row = |(key, to): (&String, &p::OnMatch)| {
                    Ok((
                        key.as_str().into(),
                        leaf(Some(to), actions, depth).map_err(|e| e.at(&format!("map[{key:?}]")))?,
                    ))
                };
                map.map.iter().map(row).collect()
            };
            match tree.tree_type.as_ref().ok_or_else(|| missing("tree_type").at("matcher_tree"))? {
                p::matcher_tree::TreeType::ExactMatchMap(map) => {
                    Branches::Exact(on, rows(map).at("matcher_tree.exact_match_map")?.into())
                }
                p::matcher_tree::TreeType::PrefixMatchMap(map) => {
                    let mut rows = rows(map).at("matcher_tree.prefix_match_map")?;
                    rows.sort_by_key(|(key, _)| std::cmp::Reverse(key.len()));
                    Branches::Prefix(on, rows.into())
                }
                p::matcher_tree::TreeType::CustomMatch(c) => {
                    return Err(no_config(&c.name).at("matcher_tree.custom_match"));
                }
            }
        }
    };
    let otherwise = wire.on_no_match.as_deref();
    let otherwise = otherwise.map(|to| leaf(Some(to), actions, depth)).transpose().at("on_no_match")?;
    Ok(MatchTree { branches, otherwise })
}

fn leaf(to: Option<&p::OnMatch>, actions: Actions<'_>, depth: usize) -> Result<Leaf> {
    let to = to.ok_or_else(|| missing("on_match"))?;
    if to.keep_matching {
        return Err(unsupported("this field").at("keep_matching"));
    }
    Ok(match to.on_match.as_ref().ok_or_else(|| missing("on_match"))? {
        p::on_match::OnMatch::Action(action) => Leaf::Action(actions(action).at("action")?),
        p::on_match::OnMatch::Matcher(inner) => Leaf::Tree(Box::new(node(inner, actions, depth + 1).at("matcher")?)),
    })
}

fn predicate(wire: &WirePredicate, depth: usize) -> Result<Predicate> {
    if depth > DEPTH_MAX {
        return Err(invalid("predicate is nested too deeply"));
    }
    let all = |list: &pp::PredicateList| -> Result<Box<[Predicate]>> {
        list.predicate.iter().map(|one| predicate(one, depth + 1)).collect()
    };
    Ok(match wire.match_type.as_ref().ok_or_else(|| missing("match_type"))? {
        pp::MatchType::SinglePredicate(one) => {
            let on = input(one.input.as_ref()).at("single_predicate")?;
            match one.matcher.as_ref().ok_or_else(|| missing("matcher").at("single_predicate"))? {
                pp::single_predicate::Matcher::ValueMatch(value) => {
                    Predicate::Value(on, string(value).at("single_predicate.value_match")?)
                }
                pp::single_predicate::Matcher::CustomMatch(c) => {
                    return Err(no_config(&c.name).at("single_predicate.custom_match"));
                }
            }
        }
        pp::MatchType::OrMatcher(list) => Predicate::Any(all(list).at("or_matcher")?),
        pp::MatchType::AndMatcher(list) => Predicate::All(all(list).at("and_matcher")?),
        pp::MatchType::NotMatcher(one) => Predicate::Not(Box::new(predicate(one, depth + 1).at("not_matcher")?)),
    })
}

/// Envoy's own message has the same fields and numbers.
fn string(wire: &m::StringMatcher) -> Result<StringMatcher> {
    matcher::string(&envoy::StringMatcher::decode(&*wire.encode_to_vec()).map_err(|e| invalid(e.to_string()))?)
}

fn input(wire: Option<&TypedExtensionConfig>) -> Result<Input> {
    let wire = wire.ok_or_else(|| missing("input"))?;
    let any = wire.typed_config.as_ref().ok_or_else(|| no_config(&wire.name).at("input"))?;
    let typed = Typed::open(&wire.name, any).at("input")?;
    Ok(match typed.message.as_str() {
        "envoy.type.matcher.v3.HttpRequestHeaderMatchInput" => {
            let header = expect::<envoy::HttpRequestHeaderMatchInput>(&wire.name, any).at("input")?.header_name;
            Input::Header(HeaderName::new(&header))
        }
        "envoy.type.matcher.v3.HttpRequestQueryParamMatchInput" => {
            let name = expect::<envoy::HttpRequestQueryParamMatchInput>(&wire.name, any).at("input")?.query_param;
            Input::Query(name.as_str().into())
        }
        _ => return Err(typed.unknown().at("input")),
    })
}
