//! Does this text, header, query parameter or value match? Compiled leaf matchers of `envoy.type.matcher.v3`.
//!
//! Built by the parsers; evaluated by `proxy-core`, which brings the request. Case folding is done when compiled.

use std::net::IpAddr;
use std::sync::Arc;

use regex::bytes::Regex;

use crate::Name;
use crate::common::{Cidr, Int64Range, Value};

/// Largest compiled size of one regular expression, bytes (Envoy limits RE2 programs likewise).
pub const REGEX_SIZE_BYTES_MAX: usize = 1 << 20;

/// A regular expression that must match the whole text, as RE2's `FullMatch` in Envoy.
#[derive(Debug, Clone)]
pub struct FullRegex(Arc<Regex>);

impl FullRegex {
    /// Compiles `pattern`; the error is the regex crate's own text.
    pub fn new(pattern: &str) -> Result<Self, String> {
        regex::bytes::RegexBuilder::new(&format!("^(?:{pattern})$"))
            .size_limit(REGEX_SIZE_BYTES_MAX)
            .dot_matches_new_line(false)
            .build()
            .map(|r| Self(Arc::new(r)))
            .map_err(|e| e.to_string())
    }

    /// True when the whole of `text` matches.
    pub fn matches(&self, text: &[u8]) -> bool {
        self.0.is_match(text)
    }
}

/// A regular expression that is searched for and replaced, `envoy.type.matcher.v3.RegexMatchAndSubstitute`.
#[derive(Debug, Clone)]
pub struct RegexRewrite {
    /// What to look for; every non-overlapping match is replaced.
    pub pattern: Regex,
    /// Replacement in the `regex` crate's syntax (Envoy's `\1` has become `${1}`).
    pub substitution: Arc<[u8]>,
}

impl RegexRewrite {
    /// Compiles the pattern and translates RE2's `\N` references. Errors: bad regex, bad reference.
    pub fn new(pattern: &str, substitution: &str) -> Result<Self, String> {
        let regex = regex::bytes::RegexBuilder::new(pattern)
            .size_limit(REGEX_SIZE_BYTES_MAX)
            .build()
            .map_err(|e| e.to_string())?;
        let mut out = Vec::with_capacity(substitution.len() + 8);
        let mut chars = substitution.chars();
        while let Some(c) = chars.next() {
            match c {
                '\\' => match chars.next() {
                    Some(d) if d.is_ascii_digit() => {
                        let group = d as usize - '0' as usize;
                        if group >= regex.captures_len() {
                            return Err(format!("substitution refers to group {group} that the pattern lacks"));
                        }
                        out.extend_from_slice(format!("${{{d}}}").as_bytes());
                    }
                    Some('\\') => out.push(b'\\'),
                    _ => return Err("invalid escape in substitution".to_owned()),
                },
                '$' => out.extend_from_slice(b"$$"),
                c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        Ok(Self { pattern: regex, substitution: out.into() })
    }

    /// `text` with every match replaced.
    pub fn apply(&self, text: &[u8]) -> Vec<u8> {
        self.pattern.replace_all(text, &self.substitution[..]).into_owned()
    }
}

/// `envoy.type.matcher.v3.StringMatcher`.
#[derive(Debug, Clone)]
pub enum StringMatcher {
    /// Whole text equal.
    Exact(Box<str>),
    /// Text starts so.
    Prefix(Box<str>),
    /// Text ends so.
    Suffix(Box<str>),
    /// Text contains it.
    Contains(Box<str>),
    /// As `Exact`, ASCII case ignored; the pattern is lower case.
    ExactNoCase(Box<str>),
    /// As `Prefix`, ASCII case ignored; the pattern is lower case.
    PrefixNoCase(Box<str>),
    /// As `Suffix`, ASCII case ignored; the pattern is lower case.
    SuffixNoCase(Box<str>),
    /// As `Contains`, ASCII case ignored; the pattern is lower case.
    ContainsNoCase(Box<str>),
    /// The whole text matches the expression.
    Regex(FullRegex),
}

impl StringMatcher {
    /// True when `text` matches.
    #[inline]
    pub fn matches(&self, text: &[u8]) -> bool {
        match self {
            Self::Exact(p) => text == p.as_bytes(),
            Self::Prefix(p) => text.starts_with(p.as_bytes()),
            Self::Suffix(p) => text.ends_with(p.as_bytes()),
            Self::Contains(p) => memchr::memmem::find(text, p.as_bytes()).is_some(),
            Self::ExactNoCase(p) => text.eq_ignore_ascii_case(p.as_bytes()),
            Self::PrefixNoCase(p) => text.len() >= p.len() && text[..p.len()].eq_ignore_ascii_case(p.as_bytes()),
            Self::SuffixNoCase(p) => {
                text.len() >= p.len() && text[text.len() - p.len()..].eq_ignore_ascii_case(p.as_bytes())
            }
            Self::ContainsNoCase(p) => {
                p.is_empty() || text.windows(p.len()).any(|w| w.eq_ignore_ascii_case(p.as_bytes()))
            }
            Self::Regex(r) => r.matches(text),
        }
    }
}

/// Which pseudo header a name denotes, so that views need not compare text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pseudo {
    /// An ordinary header.
    No,
    /// `:method`
    Method,
    /// `:path`
    Path,
    /// `:authority` (also `host`, as Envoy folds it)
    Authority,
    /// `:scheme`
    Scheme,
    /// `:protocol`
    Protocol,
    /// `:status`
    Status,
}

/// A lower-case header name, with pseudo headers recognised once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HeaderName {
    name: Name,
    pseudo: Pseudo,
}

impl HeaderName {
    /// Lower-cases `name`; `host` becomes `:authority`.
    pub fn new(name: &str) -> Self {
        let lower = name.to_ascii_lowercase();
        let pseudo = match lower.as_str() {
            ":method" => Pseudo::Method,
            ":path" => Pseudo::Path,
            ":authority" | "host" => Pseudo::Authority,
            ":scheme" => Pseudo::Scheme,
            ":protocol" => Pseudo::Protocol,
            ":status" => Pseudo::Status,
            _ => Pseudo::No,
        };
        let name = if lower == "host" { Name::from(":authority") } else { Name::from(lower) };
        Self { name, pseudo }
    }

    /// The lower-case name.
    #[inline]
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// Which pseudo header this is.
    #[inline]
    pub fn pseudo(&self) -> Pseudo {
        self.pseudo
    }
}

/// `envoy.config.route.v3.HeaderMatcher`.
#[derive(Debug, Clone)]
pub struct HeaderMatcher {
    /// The header.
    pub name: HeaderName,
    /// What its value must be. Several values are joined with `,` first, as Envoy does.
    pub value: HeaderValueMatch,
    /// Negates the result of the value test.
    pub invert: bool,
    /// Treats an absent header as the empty string instead of a failed match.
    pub missing_as_empty: bool,
}

/// The test of a [`HeaderMatcher`].
#[derive(Debug, Clone)]
pub enum HeaderValueMatch {
    /// The header is present (true) or absent (false).
    Present(bool),
    /// The value matches.
    String(StringMatcher),
    /// The value is a decimal integer in the range.
    Range(Int64Range),
}

/// `envoy.config.route.v3.QueryParameterMatcher`.
#[derive(Debug, Clone)]
pub struct QueryMatcher {
    /// Parameter name (exact).
    pub name: Box<str>,
    /// `None`: present is enough.
    pub value: Option<StringMatcher>,
    /// True when the parameter must be absent (`present_match: false`).
    pub absent: bool,
}

/// `envoy.config.route.v3.RouteMatch.cookies` / cookie matcher.
#[derive(Debug, Clone)]
pub struct CookieMatcher {
    /// Cookie name.
    pub name: Box<str>,
    /// Value test.
    pub value: StringMatcher,
    /// Negates.
    pub invert: bool,
}

/// `envoy.type.matcher.v3.MetadataMatcher` (and its filter-state sibling).
#[derive(Debug, Clone)]
pub struct MetadataMatcher {
    /// Metadata namespace.
    pub filter: Name,
    /// Keys to follow.
    pub path: Box<[Name]>,
    /// Test of the value found.
    pub value: ValueMatcher,
    /// Negates the result.
    pub invert: bool,
}

/// `envoy.type.matcher.v3.ValueMatcher`.
#[derive(Debug, Clone)]
pub enum ValueMatcher {
    /// Is null.
    Null,
    /// Number in range (`exact` is a range of one for integers, compared exactly here).
    Number(DoubleMatcher),
    /// String matches.
    String(StringMatcher),
    /// Boolean equals.
    Bool(bool),
    /// The path leads to a value (true) or not (false).
    Present(bool),
    /// Some element of the list matches.
    ListOneOf(Box<ValueMatcher>),
    /// Any of these match.
    Or(Box<[ValueMatcher]>),
}

/// `envoy.type.matcher.v3.DoubleMatcher`.
#[derive(Debug, Clone, Copy)]
pub enum DoubleMatcher {
    /// `[start, end)`.
    Range(f64, f64),
    /// Equal.
    Exact(f64),
}

impl ValueMatcher {
    /// True when the value at the path (absent: `None`) matches.
    pub fn matches(&self, value: Option<&Value>) -> bool {
        let Some(value) = value else {
            return matches!(self, Self::Present(false));
        };
        match self {
            Self::Present(want) => *want,
            Self::Null => matches!(value, Value::Null),
            Self::Bool(b) => matches!(value, Value::Bool(v) if v == b),
            Self::String(m) => value.as_str().is_some_and(|s| m.matches(s.as_bytes())),
            Self::Number(m) => match (value, m) {
                (Value::Number(n), DoubleMatcher::Range(start, end)) => start <= n && n < end,
                (Value::Number(n), DoubleMatcher::Exact(x)) => n == x,
                _ => false,
            },
            Self::ListOneOf(m) => match value {
                Value::List(items) => items.iter().any(|v| m.matches(Some(v))),
                _ => false,
            },
            Self::Or(any) => any.iter().any(|m| m.matches(Some(value))),
        }
    }
}

/// `envoy.config.common.matcher.v3.MatchPredicate`; evaluated by `proxy-core::matcher::predicate`.
#[derive(Debug, Clone)]
pub enum MatchPredicate {
    /// Any holds.
    Or(Box<[MatchPredicate]>),
    /// All hold.
    And(Box<[MatchPredicate]>),
    /// Does not hold.
    Not(Box<MatchPredicate>),
    /// Always.
    Any,
    /// All of these request headers match.
    RequestHeaders(Box<[HeaderMatcher]>),
    /// All of these response headers match (`:status` included).
    ResponseHeaders(Box<[HeaderMatcher]>),
}

/// A set of networks tested by linear scan (lists in policies are short) with v4-mapped addresses folded.
#[derive(Debug, Clone, Default)]
pub struct CidrSet(pub Box<[Cidr]>);

impl CidrSet {
    /// True when any network contains `ip`.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.0.iter().any(|n| n.contains(&ip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(m: StringMatcher, text: &str, expect: bool) {
        assert_eq!(m.matches(text.as_bytes()), expect, "{m:?} on {text:?}");
    }

    #[test]
    fn strings() {
        check(StringMatcher::Exact("a".into()), "a", true);
        check(StringMatcher::Exact("a".into()), "A", false);
        check(StringMatcher::PrefixNoCase("ab".into()), "ABc", true);
        check(StringMatcher::PrefixNoCase("ab".into()), "A", false);
        check(StringMatcher::SuffixNoCase("bc".into()), "aBC", true);
        check(StringMatcher::ContainsNoCase("b".into()), "aBC", true);
        check(StringMatcher::ContainsNoCase("".into()), "", true);
        check(StringMatcher::Contains("zz".into()), "azzb", true);
        check(StringMatcher::Regex(FullRegex::new("a|ab").unwrap()), "ab", true);
        check(StringMatcher::Regex(FullRegex::new("a.*").unwrap()), "ba", false);
    }

    #[test]
    fn regex_rewrite_translates_re2_references() {
        let r = RegexRewrite::new("^/service/([^/]+)(/.*)$", "\\2/instance/\\1").unwrap();
        assert_eq!(r.apply(b"/service/foo/v1/api"), b"/v1/api/instance/foo");
        let r = RegexRewrite::new("one", "$2").unwrap();
        assert_eq!(r.apply(b"/xx/one/yy/one/zz"), b"/xx/$2/yy/$2/zz");
        assert!(RegexRewrite::new("a", "\\1").is_err());
    }
}
