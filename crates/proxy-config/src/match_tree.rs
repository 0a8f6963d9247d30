//! What does a request lead to? Compiled generic matchers (`xds.type.matcher.v3.Matcher`): lists and maps over facts of the request,
//! whose leaves are numbers of actions. Evaluated by `proxy-core`; used by `ExtensionWithMatcher` and `composite`.

use crate::Name;
use crate::matcher::{HeaderName, StringMatcher};

/// Deepest tree; a deeper one is refused.
pub const DEPTH_MAX: usize = 32;

/// A tree whose leaves say which action is meant.
#[derive(Debug, Clone)]
pub struct MatchTree {
    /// How it is decided.
    pub branches: Branches,
    /// What holds when nothing else does.
    pub otherwise: Option<Leaf>,
}

/// The ways of one node.
#[derive(Debug, Clone)]
pub enum Branches {
    /// `matcher_list`: the first that holds and leads anywhere.
    List(Box<[(Predicate, Leaf)]>),
    /// `exact_match_map`, sorted by key.
    Exact(Input, Box<[(Name, Leaf)]>),
    /// `prefix_match_map`, longest first.
    Prefix(Input, Box<[(Name, Leaf)]>),
    /// Only `on_no_match` is stated.
    None,
}

/// Where a way leads.
#[derive(Debug, Clone)]
pub enum Leaf {
    /// The number of an action.
    Action(usize),
    /// Another tree.
    Tree(Box<MatchTree>),
}

/// A condition.
#[derive(Debug, Clone)]
pub enum Predicate {
    /// A fact that is like this.
    Value(Input, StringMatcher),
    /// All of them hold.
    All(Box<[Predicate]>),
    /// One of them holds.
    Any(Box<[Predicate]>),
    /// It does not hold.
    Not(Box<Predicate>),
}

/// A fact of the request.
#[derive(Debug, Clone)]
pub enum Input {
    /// `HttpRequestHeaderMatchInput`: values joined by commas
    Header(HeaderName),
    /// `HttpRequestQueryParamMatchInput`: the first value, decoded
    Query(Name),
}
