//! Does this header, query parameter, cookie or metadata match?

use proxy_config::matcher::{
    CookieMatcher, HeaderMatcher, HeaderValueMatch, MatchPredicate, MetadataMatcher, QueryMatcher,
};

use crate::HeaderView;
use crate::facts::MetadataView;

/// The values of one header; nearly always none or one.
pub type Values<'a> = smallvec::SmallVec<[&'a [u8]; 2]>;

/// All values of `name`.
pub fn values<'a, H: HeaderView + ?Sized>(headers: &'a H, name: &[u8]) -> Values<'a> {
    let mut out = Values::new();
    headers.each(name, &mut |v| out.push(v));
    out
}

/// Evaluates a header matcher.
pub fn header<H: HeaderView + ?Sized>(m: &HeaderMatcher, headers: &H) -> bool {
    header_value(m, &values(headers, m.name.as_str().as_bytes()))
}

/// Evaluates a header matcher on the header's values.
///
/// As Envoy 1.40 does: any of several values suffices (before `invert`); an absent header fails a test of its value,
/// also an inverted one, unless `treat_missing_header_as_empty` makes it the empty string.
#[inline]
pub fn header_value(m: &HeaderMatcher, values: &[&[u8]]) -> bool {
    let hit = match &m.value {
        HeaderValueMatch::Present(want) => (!values.is_empty() || m.missing_as_empty) == *want,
        _ if values.is_empty() && !m.missing_as_empty => return false,
        other if values.is_empty() => value_matches(other, b""),
        other => values.iter().any(|v| value_matches(other, v)),
    };
    hit != m.invert
}

#[inline]
fn value_matches(m: &HeaderValueMatch, value: &[u8]) -> bool {
    match m {
        HeaderValueMatch::Present(_) => true,
        HeaderValueMatch::String(s) => s.matches(value),
        HeaderValueMatch::Range(r) => std::str::from_utf8(value)
            .ok()
            .and_then(|t| t.trim().parse::<i64>().ok())
            .is_some_and(|n| r.start <= n && n < r.end),
    }
}

/// True when all of `list` match.
pub fn headers<H: HeaderView + ?Sized>(list: &[HeaderMatcher], view: &H) -> bool {
    list.iter().all(|m| header(m, view))
}

/// The part of `path` after `?`, without fragment.
pub fn query_of(path: &[u8]) -> &[u8] {
    match memchr::memchr(b'?', path) {
        Some(at) => {
            let q = &path[at + 1..];
            &q[..memchr::memchr(b'#', q).unwrap_or(q.len())]
        }
        None => b"",
    }
}

/// The part of `path` before `?` and `#`.
#[inline]
pub fn path_only(path: &[u8]) -> &[u8] {
    &path[..memchr::memchr2(b'?', b'#', path).unwrap_or(path.len())]
}

/// The first value of query parameter `name` (values are not decoded, as in Envoy's matchers).
pub fn query_value<'a>(query: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    query.split(|b| *b == b'&').find_map(|pair| {
        let at = memchr::memchr(b'=', pair).unwrap_or(pair.len());
        (&pair[..at] == name).then(|| pair.get(at + 1..).unwrap_or_default())
    })
}

/// `value` with `%XX` escapes undone (malformed ones stay).
pub fn percent_decoded(value: &[u8]) -> std::borrow::Cow<'_, [u8]> {
    if memchr::memchr(b'%', value).is_none() {
        return value.into();
    }
    let digit = |b: &u8| (*b as char).to_digit(16).map(|d| d as u8);
    let mut out = Vec::with_capacity(value.len());
    let mut i = 0;
    while i < value.len() {
        let pair = value.get(i + 1).and_then(digit).zip(value.get(i + 2).and_then(digit));
        match pair {
            Some((high, low)) if value[i] == b'%' => {
                out.push(high << 4 | low);
                i += 3;
            }
            _ => {
                out.push(value[i]);
                i += 1;
            }
        }
    }
    out.into()
}

/// Evaluates a query parameter matcher on a query string.
pub fn query(m: &QueryMatcher, query: &[u8]) -> bool {
    match (query_value(query, m.name.as_bytes()), &m.value) {
        (found, None) => found.is_some() != m.absent,
        (Some(v), Some(s)) => s.matches(v),
        (None, Some(_)) => false,
    }
}

/// The value of cookie `name` in all `cookie` headers.
pub fn cookie_value<'a, H: HeaderView + ?Sized>(headers: &'a H, name: &[u8]) -> Option<&'a [u8]> {
    let mut out = None;
    headers.each(b"cookie", &mut |line| {
        for pair in line.split(|b| *b == b';') {
            let pair = pair.trim_ascii();
            if out.is_none()
                && let Some(at) = memchr::memchr(b'=', pair)
                && &pair[..at] == name
            {
                let v = &pair[at + 1..];
                let quoted = v.len() >= 2 && v[0] == b'"' && v[v.len() - 1] == b'"';
                out = Some(if quoted { &v[1..v.len() - 1] } else { v });
            }
        }
    });
    out
}

/// Evaluates a cookie matcher; an absent cookie fails unless inverted.
pub fn cookie<H: HeaderView + ?Sized>(m: &CookieMatcher, headers: &H) -> bool {
    cookie_value(headers, m.name.as_bytes()).is_some_and(|v| m.value.matches(v)) != m.invert
}

/// Evaluates a metadata matcher.
pub fn metadata(m: &MetadataMatcher, view: &dyn MetadataView) -> bool {
    m.value.matches(view.metadata(&m.filter).and_then(|v| v.path(&m.path))) != m.invert
}

/// Evaluates a predicate on a request and its response.
pub fn predicate<Q: HeaderView + ?Sized, R: HeaderView + ?Sized>(
    p: &MatchPredicate,
    request: &Q,
    response: &R,
) -> bool {
    match p {
        MatchPredicate::Or(list) => list.iter().any(|p| predicate(p, request, response)),
        MatchPredicate::And(list) => list.iter().all(|p| predicate(p, request, response)),
        MatchPredicate::Not(p) => !predicate(p, request, response),
        MatchPredicate::Any => true,
        MatchPredicate::RequestHeaders(list) => headers(list, request),
        MatchPredicate::ResponseHeaders(list) => headers(list, response),
    }
}

/// True for requests that Envoy treats as gRPC: `application/grpc`, also with `+suffix`.
pub fn is_grpc<H: HeaderView + ?Sized>(headers: &H) -> bool {
    headers.get(b"content-type").is_some_and(|t| {
        t.strip_prefix(b"application/grpc").is_some_and(|rest| rest.is_empty() || rest[0] == b'+' || rest[0] == b';')
    })
}

#[cfg(test)]
mod tests {
    use proxy_config::matcher::{HeaderName, StringMatcher};

    use super::*;
    use crate::header_view::HeaderList;

    fn m(value: HeaderValueMatch, invert: bool, missing_as_empty: bool) -> HeaderMatcher {
        HeaderMatcher { name: HeaderName::new("X-A"), value, invert, missing_as_empty }
    }

    #[test]
    fn header_table() {
        let exact = |s: &str| HeaderValueMatch::String(StringMatcher::Exact(s.into()));
        let range = HeaderValueMatch::Range(proxy_config::common::Int64Range { start: -10, end: 0 });
        let h = |v: &[&str]| HeaderList(v.iter().map(|v| (b"x-a".to_vec(), v.as_bytes().to_vec())).collect());
        let cases = [
            (m(exact("1"), false, false), h(&["1"]), true),
            (m(exact("1"), true, false), h(&["1"]), false),
            (m(exact("1"), true, false), h(&["2"]), true),
            (m(exact("1"), false, false), h(&[]), false),
            (m(exact("1"), true, false), h(&[]), false),
            (m(exact("1"), true, true), h(&[]), true),
            (m(exact(""), false, true), h(&[]), true),
            (m(exact("1,2"), false, false), h(&["1", "2"]), false),
            (m(exact("2"), false, false), h(&["1", "2"]), true),
            (m(exact("2"), true, false), h(&["1", "2"]), false),
            (m(HeaderValueMatch::Present(true), false, false), h(&[]), false),
            (m(HeaderValueMatch::Present(true), true, false), h(&[]), true),
            (m(HeaderValueMatch::Present(false), false, false), h(&[]), true),
            (m(range.clone(), false, false), h(&["-1"]), true),
            (m(range.clone(), false, false), h(&["0"]), false),
            (m(range, false, false), h(&["somestring"]), false),
        ];
        for (i, (m, h, expect)) in cases.iter().enumerate() {
            assert_eq!(header(m, h), *expect, "case {i}");
        }
    }

    #[test]
    fn queries_and_cookies() {
        assert_eq!(query_value(b"a=1&b&c=", b"b"), Some(&b""[..]));
        assert_eq!(query_value(b"a=1&b&c=x=y", b"c"), Some(&b"x=y"[..]));
        assert_eq!(query_value(b"a=1", b"z"), None);
        let h = HeaderList::of(&[("cookie", "a=1; b=\"2\""), ("cookie", "c=3")]);
        assert_eq!(cookie_value(&h, b"b"), Some(&b"2"[..]));
        assert_eq!(cookie_value(&h, b"c"), Some(&b"3"[..]));
        assert_eq!(path_only(b"/a?b#c"), b"/a");
        assert_eq!(query_of(b"/a?b#c"), b"b");
        for (t, expect) in
            [("application/grpc", true), ("application/grpc+proto", true), ("application/grpc-web", false)]
        {
            assert_eq!(is_grpc(&HeaderList::of(&[("content-type", t)])), expect, "{t}");
        }
    }
}
