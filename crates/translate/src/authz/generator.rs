//! How is one attribute of a request tested? Values with their wildcards as Envoy matchers. Follows
//! `pilot/pkg/security/authz/{matcher,model/generator}`.

#![allow(deprecated)] // RBAC metadata in the form that Istio and every Envoy use.

use matcher::string_matcher::MatchPattern;
use protos::envoy::config::core::v3 as core;
use protos::envoy::config::rbac::v3 as rbac;
use protos::envoy::config::route::v3 as route;
use protos::envoy::r#type::matcher::v3 as matcher;
use rbac::{Permission, Principal, permission, principal};

use crate::jwt::{JWT_AUTHN, PAYLOAD};
use crate::wire::{any, cidr, regex, string_matcher};

/// Where the identity of a peer is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Peer {
    /// In the certificate of the connection.
    #[default]
    Certificate,
    /// In filter state, where a tunnel's end left it.
    FilterState,
}

/// Key of the peer's identity in filter state.
const PEER_PRINCIPAL: &str = "io.istio.peer_principal";

/// What a rule may test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// The authority.
    Host,
    /// The method.
    Method,
    /// The path.
    Path,
    /// The port that was connected to.
    DestinationPort,
    /// The address that was connected to.
    DestinationIp,
    /// The server name of the client's hello.
    Sni,
    /// `experimental.envoy.filters.a.b[c]`: dynamic metadata.
    EnvoyFilter {
        /// Name of the filter.
        filter: String,
        /// Key in its metadata.
        key: String,
    },
    /// The peer's identity.
    Principal,
    /// Issuer and subject of the token.
    RequestPrincipal,
    /// The peer's namespace.
    Namespace,
    /// The peer's trust domain.
    TrustDomain,
    /// The client's address, from forwarding headers too.
    RemoteIp,
    /// The address of the connection's other end.
    SourceIp,
    /// The peer's service account.
    ServiceAccount,
    /// A header.
    Header(String),
    /// A claim of the verified token.
    Claim(Vec<String>),
}

/// The attribute cannot be tested here: the protocol lacks it, or a value is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error;

/// One alternative of a test.
#[derive(Clone, Debug, PartialEq)]
pub enum Generated {
    /// Of what is wanted.
    Permission(permission::Rule),
    /// Of who wants it.
    Principal(principal::Identifier),
}

impl Generated {
    /// As a permission; a principal permits anything.
    pub fn into_permission(self) -> Permission {
        match self {
            Generated::Permission(rule) => Permission { rule: Some(rule) },
            Generated::Principal(_) => Permission { rule: Some(permission::Rule::Any(true)) },
        }
    }

    /// As a principal; a permission is anybody's.
    pub fn into_principal(self) -> Principal {
        match self {
            Generated::Principal(id) => Principal { identifier: Some(id) },
            Generated::Permission(_) => Principal { identifier: Some(principal::Identifier::Any(true)) },
        }
    }
}

/// The name in brackets: `[a]`. `None`: not of that form.
pub fn bracketed_name(text: &str) -> Option<&str> {
    text.strip_prefix('[')?.strip_suffix(']')
}

/// Names in brackets: `[a][b]`. `None`: not of that form.
pub fn nested_names(text: &str) -> Option<Vec<String>> {
    Some(bracketed_name(text)?.split("][").map(str::to_owned).collect())
}

/// A matcher for a claim that may be a text or a list.
pub(crate) fn claims_matcher(path: &[String], value: matcher::StringMatcher) -> matcher::MetadataMatcher {
    let list = matcher::ListMatcher {
        match_pattern: Some(matcher::list_matcher::MatchPattern::OneOf(Box::new(string_value(value.clone())))),
    };
    let value = or_value(vec![
        matcher::ValueMatcher { match_pattern: Some(matcher::value_matcher::MatchPattern::ListMatch(Box::new(list))) },
        string_value(value),
    ]);
    payload_matcher(path, value)
}

fn string_value(m: matcher::StringMatcher) -> matcher::ValueMatcher {
    matcher::ValueMatcher { match_pattern: Some(matcher::value_matcher::MatchPattern::StringMatch(m)) }
}

fn or_value(value_matchers: Vec<matcher::ValueMatcher>) -> matcher::ValueMatcher {
    let or = matcher::OrMatcher { value_matchers };
    matcher::ValueMatcher { match_pattern: Some(matcher::value_matcher::MatchPattern::OrMatch(or)) }
}

fn one_or_many(mut values: Vec<matcher::ValueMatcher>) -> matcher::ValueMatcher {
    if values.len() == 1 { values.remove(0) } else { or_value(values) }
}

fn key(name: &str) -> matcher::metadata_matcher::PathSegment {
    matcher::metadata_matcher::PathSegment {
        segment: Some(matcher::metadata_matcher::path_segment::Segment::Key(name.to_owned())),
    }
}

fn payload_matcher(path: &[String], value: matcher::ValueMatcher) -> matcher::MetadataMatcher {
    matcher::MetadataMatcher {
        filter: JWT_AUTHN.to_owned(),
        path: std::iter::once(key(PAYLOAD)).chain(path.iter().map(|p| key(p))).collect(),
        value: Some(value),
        invert: false,
    }
}

/// `*` (anything), `x*`, `*x` or the value itself, each after `prefix`.
pub fn text(value: &str, prefix: &str) -> matcher::StringMatcher {
    string_matcher(match (value.strip_prefix('*'), value.strip_suffix('*')) {
        _ if value == "*" => MatchPattern::SafeRegex(regex(".+")),
        (Some(tail), _) if prefix.is_empty() => MatchPattern::Suffix(tail.to_owned()),
        (Some(tail), _) => MatchPattern::SafeRegex(regex(format!("{prefix}.*{}", quote(tail)))),
        (None, Some(head)) => MatchPattern::Prefix(format!("{prefix}{head}")),
        (None, None) => MatchPattern::Exact(format!("{prefix}{value}")),
    })
}

/// Escapes what RE2 would read as an operator.
pub(super) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if r"\.+*?()|[]{}^$".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// A header's value; `*` asks for its presence.
pub fn header(name: &str, value: &str, ignore_case: bool) -> route::HeaderMatcher {
    use route::header_matcher::HeaderMatchSpecifier as H;
    let specifier = if value == "*" {
        H::PresentMatch(true)
    } else {
        H::StringMatch(matcher::StringMatcher { ignore_case, ..text(value, "") })
    };
    route::HeaderMatcher { name: name.to_owned(), header_match_specifier: Some(specifier), ..Default::default() }
}

/// A path, or a path template.
pub fn path(value: &str) -> permission::Rule {
    if value.contains("{*}") || value.contains("{**}") {
        use protos::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
        let template = value.replace("{*}", "*").replace("{**}", "**");
        return permission::Rule::UriTemplate(core::TypedExtensionConfig {
            name: "uri-template".to_owned(),
            typed_config: Some(any(&UriTemplateMatchConfig { path_template: template })),
        });
    }
    let rule = Some(matcher::path_matcher::Rule::Path(text(value, "")));
    permission::Rule::UrlPath(matcher::PathMatcher { rule })
}

fn authenticated(name: matcher::StringMatcher, peer: Peer) -> principal::Identifier {
    match peer {
        Peer::Certificate => {
            principal::Identifier::Authenticated(principal::Authenticated { principal_name: Some(name) })
        }
        Peer::FilterState => principal::Identifier::FilterState(matcher::FilterStateMatcher {
            key: PEER_PRINCIPAL.to_owned(),
            matcher: Some(matcher::filter_state_matcher::Matcher::StringMatch(name)),
        }),
    }
}

fn by_regex(pattern: String, peer: Peer) -> principal::Identifier {
    authenticated(string_matcher(MatchPattern::SafeRegex(regex(pattern))), peer)
}

/// `*` within a quoted value matches any text.
fn wild(value: &str, any: &str) -> String {
    quote(value).replace(r"\*", any)
}

fn service_account(value: &str, own_namespace: &str, peer: Peer) -> Result<principal::Identifier, Error> {
    let (namespace, account) = value.split_once('/').unwrap_or((own_namespace, value));
    if account.is_empty() || account.contains('/') {
        return Err(Error);
    }
    Ok(by_regex(format!("spiffe://.+/ns/{}/(.+/|)sa/{}(/.+)?", quote(namespace), quote(account)), peer))
}

fn trust_domain(value: &str, peer: Peer) -> principal::Identifier {
    if value.contains('*') {
        return by_regex(format!("spiffe://{}/.*", wild(value, "[^/]*")), peer);
    }
    authenticated(string_matcher(MatchPattern::Prefix(format!("spiffe://{value}/"))), peer)
}

/// `ISSUER/SUBJECT`: the two claims of the token that make a request principal.
pub fn request_principal(value: &str) -> principal::Identifier {
    let anything = || string_matcher(MatchPattern::SafeRegex(regex(".+")));
    let (issuer, subject) = match value.rsplit_once('/') {
        Some((issuer, subject)) => (text(issuer, ""), text(subject, "")),
        None if value == "*" => (anything(), anything()),
        None if value.starts_with('*') => (anything(), text(value, "")),
        None if value.ends_with('*') => (text(value, ""), anything()),
        None => (text(value, ""), string_matcher(MatchPattern::Exact(String::new()))),
    };
    let claim = |name: &str, m| Principal {
        identifier: Some(principal::Identifier::Metadata(payload_matcher(&[name.to_owned()], string_value(m)))),
    };
    principal::Identifier::AndIds(principal::Set { ids: vec![claim("iss", issuer), claim("sub", subject)] })
}

/// `[a, b]` asks for a list that has the value; anything else for a text.
fn filter_value(value: &str) -> matcher::ValueMatcher {
    match value.strip_prefix('[').and_then(|v| v.strip_suffix(']')) {
        Some(inner) => matcher::ValueMatcher {
            match_pattern: Some(matcher::value_matcher::MatchPattern::ListMatch(Box::new(matcher::ListMatcher {
                match_pattern: Some(matcher::list_matcher::MatchPattern::OneOf(Box::new(string_value(text(
                    inner, "",
                ))))),
            }))),
        },
        None => string_value(text(value, "")),
    }
}

impl Attribute {
    /// The attribute of a condition's key; `None` for unknown keys.
    pub fn of_condition(name: &str) -> Option<Attribute> {
        Some(match name {
            "destination.ip" => Attribute::DestinationIp,
            "destination.port" => Attribute::DestinationPort,
            "connection.sni" => Attribute::Sni,
            "source.ip" => Attribute::SourceIp,
            "remote.ip" => Attribute::RemoteIp,
            "source.namespace" => Attribute::Namespace,
            "source.principal" => Attribute::Principal,
            "source.serviceAccount" => Attribute::ServiceAccount,
            "source.trustDomain" => Attribute::TrustDomain,
            "request.auth.principal" => Attribute::RequestPrincipal,
            "request.auth.audiences" => Attribute::Claim(vec!["aud".to_owned()]),
            "request.auth.presenter" => Attribute::Claim(vec!["azp".to_owned()]),
            _ => {
                if let Some(rest) = name.strip_prefix("request.headers") {
                    Attribute::Header(bracketed_name(rest)?.to_owned())
                } else if let Some(rest) = name.strip_prefix("request.auth.claims") {
                    Attribute::Claim(nested_names(rest)?)
                } else {
                    let rest = name.strip_prefix("experimental.")?;
                    let (filter, key) = rest.split_once('[')?;
                    let key = key.strip_suffix(']')?;
                    Attribute::EnvoyFilter { filter: filter.to_owned(), key: key.to_owned() }
                }
            }
        })
    }

    /// Whether it speaks of what is wanted, not of who wants it.
    pub fn is_permission(&self) -> bool {
        matches!(
            self,
            Attribute::Host
                | Attribute::Method
                | Attribute::Path
                | Attribute::DestinationPort
                | Attribute::DestinationIp
                | Attribute::Sni
                | Attribute::EnvoyFilter { .. }
        )
    }

    /// Whether all values together make one matcher.
    pub fn is_whole(&self) -> bool {
        matches!(self, Attribute::EnvoyFilter { .. } | Attribute::Claim(_))
    }

    fn needs_http(&self) -> bool {
        matches!(
            self,
            Attribute::Host
                | Attribute::Method
                | Attribute::Path
                | Attribute::Header(_)
                | Attribute::Claim(_)
                | Attribute::RequestPrincipal
        )
    }

    /// The alternatives that `values` stand for; `namespace` completes service accounts.
    ///
    /// # Errors
    /// The protocol lacks the attribute, or a value is malformed.
    pub fn generate(
        &self,
        values: &[String],
        namespace: &str,
        for_tcp: bool,
        peer: Peer,
    ) -> Result<Vec<Generated>, Error> {
        if values.is_empty() {
            return Ok(Vec::new());
        }
        if for_tcp && self.needs_http() {
            return Err(Error);
        }
        match self {
            Attribute::EnvoyFilter { filter, key: name } => {
                let value = one_or_many(values.iter().map(|v| filter_value(v)).collect());
                let m = matcher::MetadataMatcher {
                    filter: filter.clone(),
                    path: vec![key(name)],
                    value: Some(value),
                    invert: false,
                };
                Ok(vec![Generated::Permission(permission::Rule::Metadata(m))])
            }
            Attribute::Claim(path) => {
                let value = one_or_many(values.iter().map(|v| string_value(text(v, ""))).collect());
                let list = matcher::ListMatcher {
                    match_pattern: Some(matcher::list_matcher::MatchPattern::OneOf(Box::new(value.clone()))),
                };
                let list = matcher::value_matcher::MatchPattern::ListMatch(Box::new(list));
                let either = or_value(vec![matcher::ValueMatcher { match_pattern: Some(list) }, value]);
                Ok(vec![Generated::Principal(principal::Identifier::Metadata(payload_matcher(path, either)))])
            }
            _ => values.iter().map(|v| self.one(v, namespace, peer)).collect(),
        }
    }

    fn one(&self, v: &str, namespace: &str, peer: Peer) -> Result<Generated, Error> {
        use permission::Rule as R;
        use principal::Identifier as I;
        let range = || cidr(v).ok_or(Error);
        Ok(match self {
            Attribute::Host => Generated::Permission(R::Header(header(":authority", v, true))),
            Attribute::Method => Generated::Permission(R::Header(header(":method", v, false))),
            Attribute::Path => Generated::Permission(path(v)),
            Attribute::DestinationPort => {
                Generated::Permission(R::DestinationPort(v.parse::<u16>().map_err(|_| Error)?.into()))
            }
            Attribute::DestinationIp => Generated::Permission(R::DestinationIp(range()?)),
            Attribute::Sni => Generated::Permission(R::RequestedServerName(text(v, ""))),
            Attribute::Principal => Generated::Principal(authenticated(text(v, "spiffe://"), peer)),
            Attribute::RequestPrincipal => Generated::Principal(request_principal(v)),
            Attribute::Namespace => Generated::Principal(by_regex(format!(".*/ns/{}/.*", wild(v, ".*")), peer)),
            Attribute::TrustDomain => Generated::Principal(trust_domain(v, peer)),
            Attribute::RemoteIp => Generated::Principal(I::RemoteIp(range()?)),
            Attribute::SourceIp => Generated::Principal(I::DirectRemoteIp(range()?)),
            Attribute::ServiceAccount => Generated::Principal(service_account(v, namespace, peer)?),
            Attribute::Header(name) => Generated::Principal(I::Header(header(name, v, false))),
            Attribute::EnvoyFilter { .. } | Attribute::Claim(_) => return Err(Error),
        })
    }
}
