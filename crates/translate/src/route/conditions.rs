//! When does an HTTP rule apply? Paths, headers, claims and query parameters as a route match.

use api::StringMatch;
use api::networking::HttpMatchRequest;
use protos::envoy::config::route::v3 as route;
use protos::envoy::r#type::matcher::v3 as matcher;

use super::action::any_path;
use crate::wire::{api_string_match, regex};

/// The request conditions of a rule.
pub fn route_match(m: &HttpMatchRequest) -> route::RouteMatch {
    use route::route_match::PathSpecifier as P;
    let mut out = any_path();
    for (name, value) in &m.headers {
        match claims(name) {
            Some(path) => out.dynamic_metadata.push(claim_match(&path, value, false)),
            None => out.headers.push(header_match(name, value)),
        }
    }
    for (name, value) in &m.without_headers {
        match claims(name) {
            Some(path) => out.dynamic_metadata.push(claim_match(&path, value, true)),
            None => {
                let mut h = header_match(name, value);
                h.invert_match = true;
                // Absence is not the stated value; for mere presence Envoy knows without being told.
                h.treat_missing_header_as_empty = api_string_match(value).is_some();
                out.headers.push(h);
            }
        }
    }
    out.headers.sort_by(|a, b| a.name.cmp(&b.name));
    match &m.uri {
        Some(StringMatch::Exact(p)) => out.path_specifier = Some(P::Path(p.clone())),
        Some(StringMatch::Prefix(p)) => out.path_specifier = Some(P::Prefix(p.clone())),
        Some(StringMatch::Regex(p)) => out.path_specifier = Some(P::SafeRegex(regex(p.clone()))),
        Some(StringMatch::Present) | None => {}
    }
    out.case_sensitive = Some(!m.ignore_uri_case);
    for (name, value) in [(":method", &m.method), (":authority", &m.authority), (":scheme", &m.scheme)] {
        if let Some(value) = value {
            out.headers.push(header_match(name, value));
        }
    }
    for (name, value) in &m.query_params {
        use route::query_parameter_matcher::QueryParameterMatchSpecifier as Q;
        let specifier = match api_string_match(value) {
            Some(s) => Q::StringMatch(s),
            None => Q::PresentMatch(true),
        };
        out.query_parameters.push(route::QueryParameterMatcher {
            name: name.clone(),
            query_parameter_match_specifier: Some(specifier),
        });
    }
    out
}

fn header_match(name: &str, value: &StringMatch) -> route::HeaderMatcher {
    use route::header_matcher::HeaderMatchSpecifier as H;
    let specifier = match api_string_match(value) {
        Some(s) => H::StringMatch(s),
        None => H::PresentMatch(true),
    };
    route::HeaderMatcher { name: name.to_owned(), header_match_specifier: Some(specifier), ..Default::default() }
}

/// The claim path of `@request.auth.claims.a.b` or `@request.auth.claims[a][b]`.
fn claims(header: &str) -> Option<Vec<String>> {
    const PREFIX: &str = "@request.auth.claims";
    if header.len() < PREFIX.len() || !header[..PREFIX.len()].eq_ignore_ascii_case(PREFIX) {
        return None;
    }
    let rest = &header[PREFIX.len()..];
    if let Some(dotted) = rest.strip_prefix('.') {
        let parts: Vec<String> = dotted.split('.').map(str::to_owned).collect();
        return (!dotted.is_empty()).then_some(parts);
    }
    crate::authz::nested_names(rest).filter(|names| names.iter().all(|n| !n.is_empty()))
}

fn claim_match(path: &[String], value: &StringMatch, invert: bool) -> matcher::MetadataMatcher {
    let string = api_string_match(value)
        .unwrap_or_else(|| crate::wire::string_matcher(matcher::string_matcher::MatchPattern::SafeRegex(regex(".+"))));
    let mut out = crate::authz::claims_matcher(path, string);
    out.invert = invert;
    out
}
