//! Where in a request are tokens, and of which issuers may they be? Pure.

use std::collections::BTreeMap;

use http1::{HeaderBlock, HeaderId};
use proxy_config::Name;
use proxy_config::filters::http::JwtProvider;
use proxy_core::matcher::{cookie_value, path_only, percent_decoded, query_of, query_value};

/// The locations of one provider, or of all.
#[derive(Debug, Default)]
pub struct Extractor {
    /// Keyed by name and prefix together, as Envoy orders them.
    headers: BTreeMap<String, (Name, Name, Issuers)>,
    params: BTreeMap<Name, Issuers>,
    cookies: BTreeMap<Name, Issuers>,
    /// Headers that only verification may write.
    sanitize: Vec<Name>,
}

#[derive(Debug, Default)]
struct Issuers {
    any: bool,
    names: Vec<Name>,
}

impl Issuers {
    fn add(&mut self, issuer: &Name) {
        if issuer.is_empty() {
            self.any = true;
        } else {
            self.names.push(issuer.clone());
        }
    }
}

/// A token found in a request.
#[derive(Debug)]
pub struct Token<'a> {
    /// Its text.
    pub text: String,
    issuers: &'a Issuers,
    place: Place<'a>,
}

#[derive(Debug)]
enum Place<'a> {
    Header(&'a Name),
    Param(&'a Name),
    Cookie,
}

impl Extractor {
    /// The locations of these providers.
    pub fn new<'p>(providers: impl IntoIterator<Item = &'p JwtProvider>) -> Self {
        let mut out = Extractor::default();
        for p in providers {
            let mut header = |name: &str, prefix: &str| {
                let slot = out.headers.entry(format!("{name}{prefix}"));
                slot.or_insert_with(|| (name.into(), prefix.into(), Issuers::default())).2.add(&p.issuer);
            };
            for (name, prefix) in &p.from_headers {
                header(name.as_str(), prefix);
            }
            let default = p.from_headers.is_empty() && p.from_params.is_empty() && p.from_cookies.is_empty();
            if default {
                header("authorization", "Bearer ");
                out.params.entry("access_token".into()).or_default().add(&p.issuer);
            }
            for name in &p.from_params {
                out.params.entry(name.clone()).or_default().add(&p.issuer);
            }
            for name in &p.from_cookies {
                out.cookies.entry(name.clone()).or_default().add(&p.issuer);
            }
            let claims = p.claim_to_headers.iter().map(|(name, _)| name);
            out.sanitize.extend(p.forward_payload_header.iter().chain(claims).map(|n| Name::from(n.as_str())));
        }
        out
    }

    /// Headers that must not come from the client and do.
    pub fn sanitize<'a>(&'a self, request: &HeaderBlock) -> Vec<&'a Name> {
        self.sanitize.iter().filter(|n| request.get(n.as_bytes()).is_some()).collect()
    }

    /// All tokens of a request, in Envoy's order.
    pub fn extract(&self, request: &HeaderBlock) -> Vec<Token<'_>> {
        let mut found = Vec::new();
        let text = |v: &[u8]| String::from_utf8_lossy(v).into_owned();
        for (name, prefix, issuers) in self.headers.values() {
            for value in request.get_all(name.as_bytes()) {
                let mut value = value;
                if !prefix.is_empty() {
                    let Some(at) = memchr::memmem::find(value, prefix.as_bytes()) else { continue };
                    value = from_first_token_byte(value, at + prefix.len());
                }
                found.push(Token { text: text(value), issuers, place: Place::Header(name) });
            }
        }
        let query = query_of(request.path());
        for (name, issuers) in &self.params {
            if let Some(value) = query_value(query, name.as_bytes()) {
                let value = percent_decoded(value);
                found.push(Token { text: text(&value), issuers, place: Place::Param(name) });
            }
        }
        for (name, issuers) in &self.cookies {
            if let Some(value) = cookie_value(request, name.as_bytes()) {
                found.push(Token { text: text(value), issuers, place: Place::Cookie });
            }
        }
        found
    }
}

/// From the first byte that a token may begin with; the whole value if there is none.
fn from_first_token_byte(value: &[u8], after: usize) -> &[u8] {
    let legal = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    value[after..].iter().position(legal).map_or(value, |i| &value[after + i..])
}

impl Token<'_> {
    /// Whether a token of that issuer may be here.
    pub fn allows_issuer(&self, issuer: &str) -> bool {
        self.issuers.any || self.issuers.names.iter().any(|n| &**n == issuer)
    }

    /// Takes the token out of the request. Cookies stay, as in Envoy.
    pub fn remove(&self, request: &mut HeaderBlock) {
        match self.place {
            Place::Header(name) => {
                request.remove(name.as_bytes());
            }
            Place::Param(name) => {
                let path = without_param(request.path(), name.as_bytes());
                request.set_id(HeaderId::PATH, &path);
            }
            Place::Cookie => {}
        }
    }
}

/// The path without a query parameter; the others come out decoded and sorted by name, as Envoy rebuilds them.
fn without_param(path: &[u8], name: &[u8]) -> Vec<u8> {
    let mut params: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
    for pair in query_of(path).split(|b| *b == b'&').filter(|p| !p.is_empty()) {
        let at = memchr::memchr(b'=', pair).unwrap_or(pair.len());
        let key = percent_decoded(&pair[..at]).into_owned();
        let value = percent_decoded(pair.get(at + 1..).unwrap_or_default()).into_owned();
        params.entry(key).or_default().push(value);
    }
    params.remove(name);
    let mut out = path_only(path).to_vec();
    let mut separator = b'?';
    for (key, values) in params {
        for value in values {
            out.push(separator);
            out.extend_from_slice(&key);
            out.push(b'=');
            out.extend_from_slice(&value);
            separator = b'&';
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_paths() {
        assert_eq!(from_first_token_byte(b"Bearer  \"a.b.c\"", 7), b"a.b.c\"");
        assert_eq!(from_first_token_byte(b"Bearer  ", 7), b"Bearer  ");
        assert_eq!(without_param(b"/p?b=1&t=x&a=2", b"t"), b"/p?a=2&b=1");
        assert_eq!(without_param(b"/p?t=x", b"t"), b"/p");
    }
}
