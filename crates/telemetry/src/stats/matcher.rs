//! Which names? Envoy's string matchers over stat names, and the inclusion and exclusion lists made of them.

use regex::Regex;

/// One matcher of a stat name, from `envoy.type.matcher.v3.StringMatcher`.
#[derive(Clone)]
pub enum NameMatcher {
    /// The whole name.
    Exact(String),
    /// Its beginning.
    Prefix(String),
    /// Its end.
    Suffix(String),
    /// Any part of it.
    Contains(String),
    /// The whole name, by regular expression.
    Regex(Box<Regex>),
    /// Whatever the caller's own matcher says.
    Any(std::sync::Arc<dyn Fn(&str) -> bool + Send + Sync>),
}

impl std::fmt::Debug for NameMatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(s) => write!(f, "Exact({s:?})"),
            Self::Prefix(s) => write!(f, "Prefix({s:?})"),
            Self::Suffix(s) => write!(f, "Suffix({s:?})"),
            Self::Contains(s) => write!(f, "Contains({s:?})"),
            Self::Regex(r) => write!(f, "Regex({:?})", r.as_str()),
            Self::Any(_) => write!(f, "Any"),
        }
    }
}

impl NameMatcher {
    /// A matcher of whole names by RE2 expression.
    pub fn regex(pattern: &str) -> Result<Self, regex::Error> {
        Regex::new(&format!("^(?:{pattern})$")).map(|r| Self::Regex(Box::new(r)))
    }

    /// Does `name` match?
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(s) => name == s,
            Self::Prefix(s) => name.starts_with(s.as_str()),
            Self::Suffix(s) => name.ends_with(s.as_str()),
            Self::Contains(s) => name.contains(s.as_str()),
            Self::Regex(r) => r.is_match(name),
            Self::Any(m) => m(name),
        }
    }
}

/// `envoy.config.metrics.v3.StatsMatcher`.
#[derive(Debug, Clone, Default)]
pub enum StatsMatcher {
    /// Everything is kept.
    #[default]
    All,
    /// Nothing is kept (`reject_all`).
    None,
    /// Only what matches is kept.
    Inclusion(Vec<NameMatcher>),
    /// What matches is dropped.
    Exclusion(Vec<NameMatcher>),
}

impl StatsMatcher {
    /// Is a stat of this name left out?
    pub fn rejects(&self, name: &str) -> bool {
        match self {
            Self::All => false,
            Self::None => true,
            Self::Inclusion(list) => !list.iter().any(|m| m.matches(name)),
            Self::Exclusion(list) => list.iter().any(|m| m.matches(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        let list = vec![
            NameMatcher::Prefix("server.".into()),
            NameMatcher::Suffix("rbac.allowed".into()),
            NameMatcher::regex(r"cluster\.x.*_total").expect("valid"),
        ];
        let check = |name: &str, kept: bool| {
            assert_eq!(!StatsMatcher::Inclusion(list.clone()).rejects(name), kept, "{name}");
            assert_eq!(StatsMatcher::Exclusion(list.clone()).rejects(name), kept, "{name}");
        };
        check("server.live", true);
        check("http.a.rbac.allowed", true);
        check("cluster.xds.upstream_rq_total", true);
        check("my.cluster.xds.upstream_rq_total", false);
        check("listener.admin.x", false);
        assert!(StatsMatcher::None.rejects("a") && !StatsMatcher::All.rejects("a"));
    }
}
