//! Which action does a request lead to? Walks a compiled generic matcher; used by HTTP filters that are chosen per request.

use std::borrow::Cow;

use proxy_config::match_tree::{Branches, Input, Leaf, MatchTree, Predicate};

use crate::HeaderView;
use crate::matcher::{percent_decoded, query_of, query_value};

/// The number of the action; `None`: nothing matched.
///
/// A way whose own tree matches nothing is as if it were not there, as in Envoy.
pub fn walk<H: HeaderView + ?Sized>(tree: &MatchTree, headers: &H) -> Option<usize> {
    let found = match &tree.branches {
        Branches::None => None,
        Branches::List(rows) => {
            rows.iter().filter(|(on, _)| holds(on, headers)).find_map(|(_, to)| follow(to, headers))
        }
        Branches::Exact(input, rows) => value(input, headers).and_then(|text| {
            let at = rows.binary_search_by(|(key, _)| key.as_bytes().cmp(&text)).ok()?;
            follow(&rows[at].1, headers)
        }),
        Branches::Prefix(input, rows) => value(input, headers).and_then(|text| {
            let fits = rows.iter().filter(|(key, _)| text.starts_with(key.as_bytes()));
            fits.into_iter().find_map(|(_, to)| follow(to, headers))
        }),
    };
    found.or_else(|| follow(tree.otherwise.as_ref()?, headers))
}

fn follow<H: HeaderView + ?Sized>(to: &Leaf, headers: &H) -> Option<usize> {
    match to {
        Leaf::Action(number) => Some(*number),
        Leaf::Tree(tree) => walk(tree, headers),
    }
}

fn holds<H: HeaderView + ?Sized>(on: &Predicate, headers: &H) -> bool {
    match on {
        Predicate::Value(input, matcher) => value(input, headers).is_some_and(|text| matcher.matches(&text)),
        Predicate::All(all) => all.iter().all(|one| holds(one, headers)),
        Predicate::Any(any) => any.iter().any(|one| holds(one, headers)),
        Predicate::Not(one) => !holds(one, headers),
    }
}

/// `None`: the request does not have it.
fn value<'a, H: HeaderView + ?Sized>(input: &Input, headers: &'a H) -> Option<Cow<'a, [u8]>> {
    match input {
        Input::Header(name) => headers.joined(name.as_str().as_bytes()),
        Input::Query(name) => query_value(query_of(headers.get(b":path")?), name.as_bytes()).map(percent_decoded),
    }
}
