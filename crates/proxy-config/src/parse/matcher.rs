//! How are `envoy.type.matcher.v3` and route header/query/cookie matchers compiled?

use protos::envoy::config::common::matcher::v3 as common_matcher;
use protos::envoy::config::route::v3 as route;
use protos::envoy::r#type::matcher::v3 as m;

use crate::Name;
use crate::common::Int64Range;
use crate::error::{At, ConfigError, Reason, Result, invalid, missing, unsupported};
use crate::matcher::MatchPredicate;
use crate::matcher::{
    CookieMatcher, DoubleMatcher, FullRegex, HeaderMatcher, HeaderName, HeaderValueMatch, MetadataMatcher,
    QueryMatcher, RegexRewrite, StringMatcher, ValueMatcher,
};

/// `RegexMatcher`
pub(super) fn regex(r: &m::RegexMatcher) -> Result<FullRegex> {
    if r.regex.is_empty() {
        return Err(missing("regex"));
    }
    FullRegex::new(&r.regex).map_err(|e| ConfigError::new(Reason::Regex(e)).at("regex"))
}

/// `RegexMatchAndSubstitute`
pub(super) fn rewrite(r: &m::RegexMatchAndSubstitute) -> Result<RegexRewrite> {
    let pattern = r.pattern.as_ref().ok_or_else(|| missing("pattern"))?;
    RegexRewrite::new(&pattern.regex, &r.substitution).map_err(|e| ConfigError::new(Reason::Regex(e)).at("pattern"))
}

/// `StringMatcher`
pub(super) fn string(s: &m::StringMatcher) -> Result<StringMatcher> {
    use m::string_matcher::MatchPattern as P;
    let lower = |t: &str| t.to_ascii_lowercase().into_boxed_str();
    Ok(match (s.match_pattern.as_ref().ok_or_else(|| missing("match_pattern"))?, s.ignore_case) {
        (P::Exact(t), false) => StringMatcher::Exact(t.as_str().into()),
        (P::Exact(t), true) => StringMatcher::ExactNoCase(lower(t)),
        (P::Prefix(t), no_case) => {
            non_empty("prefix", t)?;
            if no_case { StringMatcher::PrefixNoCase(lower(t)) } else { StringMatcher::Prefix(t.as_str().into()) }
        }
        (P::Suffix(t), no_case) => {
            non_empty("suffix", t)?;
            if no_case { StringMatcher::SuffixNoCase(lower(t)) } else { StringMatcher::Suffix(t.as_str().into()) }
        }
        (P::Contains(t), no_case) => {
            non_empty("contains", t)?;
            if no_case { StringMatcher::ContainsNoCase(lower(t)) } else { StringMatcher::Contains(t.as_str().into()) }
        }
        (P::SafeRegex(_), true) => {
            return Err(invalid("ignore_case has no effect for safe_regex."));
        }
        (P::SafeRegex(r), false) => StringMatcher::Regex(regex(r).at("safe_regex")?),
        (P::Custom(c), _) => return Err(super::any::no_config(&c.name).at("custom")),
    })
}

fn non_empty(field: &str, text: &str) -> Result<()> {
    if text.is_empty() { Err(invalid("value length must be at least 1 characters").at(field)) } else { Ok(()) }
}

/// A list of string matchers.
pub(super) fn strings(field: &str, list: &[m::StringMatcher]) -> Result<Box<[StringMatcher]>> {
    super::each(field, list, string)
}

/// An optional `ListStringMatcher`.
pub(super) fn string_list(field: &str, list: &Option<m::ListStringMatcher>) -> Result<Box<[StringMatcher]>> {
    list.as_ref().map_or(Ok(Box::default()), |l| strings("patterns", &l.patterns).at(field))
}

/// `HeaderMatcher`
pub(super) fn header(h: &route::HeaderMatcher) -> Result<HeaderMatcher> {
    use route::header_matcher::HeaderMatchSpecifier as S;
    non_empty("name", &h.name)?;
    let text = |t: &String| t.as_str().into();
    let value = match &h.header_match_specifier {
        None => HeaderValueMatch::Present(true),
        Some(S::PresentMatch(p)) => HeaderValueMatch::Present(*p),
        Some(S::ExactMatch(t)) => HeaderValueMatch::String(StringMatcher::Exact(text(t))),
        Some(S::PrefixMatch(t)) => HeaderValueMatch::String(StringMatcher::Prefix(text(t))),
        Some(S::SuffixMatch(t)) => HeaderValueMatch::String(StringMatcher::Suffix(text(t))),
        Some(S::ContainsMatch(t)) => HeaderValueMatch::String(StringMatcher::Contains(text(t))),
        Some(S::SafeRegexMatch(r)) => HeaderValueMatch::String(StringMatcher::Regex(regex(r).at("safe_regex_match")?)),
        Some(S::StringMatch(s)) => HeaderValueMatch::String(string(s).at("string_match")?),
        Some(S::RangeMatch(r)) => HeaderValueMatch::Range(Int64Range { start: r.start, end: r.end }),
    };
    Ok(HeaderMatcher {
        name: HeaderName::new(&h.name),
        value,
        invert: h.invert_match,
        missing_as_empty: h.treat_missing_header_as_empty,
    })
}

/// A list of header matchers.
pub(super) fn headers(field: &str, list: &[route::HeaderMatcher]) -> Result<Box<[HeaderMatcher]>> {
    super::each(field, list, header)
}

/// `QueryParameterMatcher`
pub(super) fn query(q: &route::QueryParameterMatcher) -> Result<QueryMatcher> {
    use route::query_parameter_matcher::QueryParameterMatchSpecifier as S;
    non_empty("name", &q.name)?;
    let (value, absent) = match &q.query_parameter_match_specifier {
        None => (None, false),
        Some(S::PresentMatch(p)) => (None, !p),
        Some(S::StringMatch(s)) => (Some(string(s).at("string_match")?), false),
    };
    Ok(QueryMatcher { name: q.name.as_str().into(), value, absent })
}

/// `CookieMatcher`
pub(super) fn cookie(c: &route::CookieMatcher) -> Result<CookieMatcher> {
    non_empty("name", &c.name)?;
    let value = string(c.string_match.as_ref().ok_or_else(|| missing("string_match"))?).at("string_match")?;
    Ok(CookieMatcher { name: c.name.as_str().into(), value, invert: c.invert_match })
}

/// `MetadataMatcher`
pub(super) fn metadata(x: &m::MetadataMatcher) -> Result<MetadataMatcher> {
    use m::metadata_matcher::path_segment::Segment;
    non_empty("filter", &x.filter)?;
    let path = super::each("path", &x.path, |s| match &s.segment {
        Some(Segment::Key(k)) => Ok(Name::from(k.as_str())),
        None => Err(missing("segment")),
    })?;
    let value = value(x.value.as_ref().ok_or_else(|| missing("value"))?).at("value")?;
    Ok(MetadataMatcher { filter: x.filter.as_str().into(), path, value, invert: x.invert })
}

/// `ValueMatcher`
pub(super) fn value(v: &m::ValueMatcher) -> Result<ValueMatcher> {
    use m::value_matcher::MatchPattern as P;
    Ok(match v.match_pattern.as_ref().ok_or_else(|| missing("match_pattern"))? {
        P::NullMatch(_) => ValueMatcher::Null,
        P::BoolMatch(b) => ValueMatcher::Bool(*b),
        P::PresentMatch(p) => ValueMatcher::Present(*p),
        P::StringMatch(s) => ValueMatcher::String(string(s).at("string_match")?),
        P::DoubleMatch(d) => ValueMatcher::Number(match &d.match_pattern {
            Some(m::double_matcher::MatchPattern::Range(r)) => DoubleMatcher::Range(r.start, r.end),
            Some(m::double_matcher::MatchPattern::Exact(x)) => DoubleMatcher::Exact(*x),
            None => return Err(missing("match_pattern").at("double_match")),
        }),
        P::ListMatch(l) => match &l.match_pattern {
            Some(m::list_matcher::MatchPattern::OneOf(inner)) => {
                ValueMatcher::ListOneOf(Box::new(value(inner).at("one_of").at("list_match")?))
            }
            None => return Err(missing("one_of").at("list_match")),
        },
        P::OrMatch(o) => ValueMatcher::Or(super::each("value_matchers", &o.value_matchers, value).at("or_match")?),
    })
}

/// `FilterStateMatcher`: object name and test of its text.
pub(super) fn filter_state(f: &m::FilterStateMatcher) -> Result<(Name, ValueMatcher)> {
    use m::filter_state_matcher::Matcher as M;
    match &f.matcher {
        Some(M::StringMatch(s)) => Ok((f.key.as_str().into(), ValueMatcher::String(string(s).at("string_match")?))),
        Some(M::AddressMatch(_)) => Err(unsupported("address_match").at("address_match")),
        None => Err(missing("matcher")),
    }
}

/// `PathMatcher`
pub(super) fn path(p: &m::PathMatcher) -> Result<StringMatcher> {
    match &p.rule {
        Some(m::path_matcher::Rule::Path(s)) => string(s).at("path"),
        None => Err(missing("rule")),
    }
}

/// `MatchPredicate`
pub(super) fn predicate(p: &common_matcher::MatchPredicate) -> Result<MatchPredicate> {
    use common_matcher::match_predicate::Rule as R;
    Ok(match p.rule.as_ref().ok_or_else(|| missing("rule"))? {
        R::OrMatch(s) => MatchPredicate::Or(super::each("rules", &s.rules, predicate).at("or_match")?),
        R::AndMatch(s) => MatchPredicate::And(super::each("rules", &s.rules, predicate).at("and_match")?),
        R::NotMatch(p) => MatchPredicate::Not(Box::new(predicate(p).at("not_match")?)),
        R::AnyMatch(_) => MatchPredicate::Any,
        R::HttpRequestHeadersMatch(h) => {
            MatchPredicate::RequestHeaders(headers("headers", &h.headers).at("http_request_headers_match")?)
        }
        R::HttpResponseHeadersMatch(h) => {
            MatchPredicate::ResponseHeaders(headers("headers", &h.headers).at("http_response_headers_match")?)
        }
        _ => return Err(unsupported("this rule").at("rule")),
    })
}
