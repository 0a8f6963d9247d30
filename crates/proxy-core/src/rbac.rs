//! Is this request or connection allowed? Evaluation of RBAC rules and shadow rules.

use std::net::IpAddr;

use proxy_config::matcher::{MetadataMatcher, StringMatcher};
use proxy_config::rbac::{Action, Permission, Policy, Principal, Rules};

use crate::facts::Facts;
use crate::matcher;

/// The result of a set of rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict<'r> {
    /// The request may go on.
    pub allowed: bool,
    /// The policy that matched, if any.
    pub policy: Option<&'r str>,
}

/// Evaluates `rules` (the caller has handled absent rules, which allow everything).
///
/// ALLOW: allowed if some policy matches. DENY: denied if some policy matches. LOG: always allowed; a match asks for
/// the `access_log_hint` metadata.
pub fn evaluate<'r>(rules: &'r Rules, facts: &Facts<'_>) -> Verdict<'r> {
    let hit = rules.policies.iter().find(|(_, p)| policy(p, facts)).map(|(name, _)| &**name);
    let allowed = match rules.action {
        Action::Allow => hit.is_some(),
        Action::Deny => hit.is_none(),
        Action::Log => true,
    };
    Verdict { allowed, policy: hit }
}

fn policy(p: &Policy, f: &Facts<'_>) -> bool {
    p.permissions.iter().any(|x| permission(x, f))
        && p.principals.iter().any(|x| principal(x, f))
        && p.condition.as_ref().is_none_or(|c| crate::cel::is_true(c, f))
}

fn within(net: &proxy_config::common::Cidr, ip: Option<IpAddr>) -> bool {
    ip.is_some_and(|ip| proxy_config::common::contains(net, ip))
}

fn url_path(m: &StringMatcher, f: &Facts<'_>) -> bool {
    f.request.is_some_and(|h| h.get(b":path").is_some_and(|p| m.matches(matcher::path_only(p))))
}

fn route_metadata(m: &MetadataMatcher, f: &Facts<'_>) -> bool {
    m.value.matches(f.route_metadata.and_then(|r| r.get(&m.filter, &m.path))) != m.invert
}

fn permission(p: &Permission, f: &Facts<'_>) -> bool {
    match p {
        Permission::And(list) => list.iter().all(|p| permission(p, f)),
        Permission::Or(list) => list.iter().any(|p| permission(p, f)),
        Permission::Not(p) => !permission(p, f),
        Permission::Any => true,
        Permission::Header(m) => header(m, f),
        Permission::UrlPath(m) => url_path(m, f),
        Permission::DestinationIp(net) => within(net, f.downstream_local.map(|a| a.ip())),
        Permission::DestinationPort(port) => f.downstream_local.is_some_and(|a| a.port() == *port),
        Permission::DestinationPortRange(start, end) => {
            f.downstream_local.is_some_and(|a| (*start..*end).contains(&u32::from(a.port())))
        }
        Permission::Metadata(m) => matcher::metadata(m, f.metadata),
        Permission::RouteMetadata(m) => route_metadata(m, f),
        Permission::RequestedServerName(m) => m.matches(f.requested_server_name.as_bytes()),
        Permission::UriTemplate(t) => {
            f.request.is_some_and(|h| h.get(b":path").is_some_and(|p| t.regex.is_match(matcher::path_only(p))))
        }
    }
}

/// A header test; on a TCP connection there are no headers, so only tests of absence can hold.
fn header(m: &proxy_config::matcher::HeaderMatcher, f: &Facts<'_>) -> bool {
    match f.request {
        Some(h) => matcher::header(m, h),
        None => matcher::header_value(m, &[]),
    }
}

fn principal(p: &Principal, f: &Facts<'_>) -> bool {
    match p {
        Principal::And(list) => list.iter().all(|p| principal(p, f)),
        Principal::Or(list) => list.iter().any(|p| principal(p, f)),
        Principal::Not(p) => !principal(p, f),
        Principal::Any => true,
        Principal::Authenticated(m) => authenticated(m.as_ref(), f),
        Principal::DirectRemoteIp(net) => within(net, f.downstream_direct_remote.map(|a| a.ip())),
        Principal::SourceIp(net) => within(net, f.downstream_direct_remote.map(|a| a.ip())),
        Principal::RemoteIp(net) => within(net, f.downstream_remote.map(|a| a.ip())),
        Principal::Header(m) => header(m, f),
        Principal::UrlPath(m) => url_path(m, f),
        Principal::Metadata(m) => matcher::metadata(m, f.metadata),
        Principal::RouteMetadata(m) => route_metadata(m, f),
        Principal::FilterState(key, m) => f.metadata.filter_state(key).is_some_and(|v| {
            let text = proxy_config::common::Value::String(String::from_utf8_lossy(v).into());
            m.matches(Some(&text))
        }),
    }
}

/// URI SANs if there are any, else DNS SANs, else the subject.
fn authenticated(m: Option<&StringMatcher>, f: &Facts<'_>) -> bool {
    let Some(tls) = &f.downstream_tls else {
        return false;
    };
    let Some(m) = m else {
        return tls.peer_presented;
    };
    let any = |names: &[String]| names.iter().any(|n| m.matches(n.as_bytes()));
    if !tls.peer_uri_sans.is_empty() {
        any(tls.peer_uri_sans)
    } else if !tls.peer_dns_sans.is_empty() {
        any(tls.peer_dns_sans)
    } else {
        m.matches(tls.peer_subject.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::TlsFacts;
    use crate::header_view::HeaderList;

    fn rules(action: Action, permission: Permission, principal: Principal) -> Rules {
        let policy = Policy { permissions: Box::new([permission]), principals: Box::new([principal]), condition: None };
        Rules { action, policies: Box::new([("p".into(), policy)]) }
    }

    #[test]
    fn actions_and_identities() {
        let h = HeaderList::of(&[(":path", "/info?x"), (":method", "GET")]);
        let sans = vec!["spiffe://cluster.local/ns/a/sa/b".to_owned()];
        let tls = TlsFacts { peer_presented: true, peer_uri_sans: &sans, ..Default::default() };
        let f = Facts {
            request: Some(&h),
            downstream_tls: Some(tls),
            downstream_local: Some("10.0.0.1:8080".parse().unwrap()),
            ..Default::default()
        };
        let path = || Permission::UrlPath(StringMatcher::Exact("/info".into()));
        let who = |s: &str| Principal::Authenticated(Some(StringMatcher::Exact(s.into())));
        let good = "spiffe://cluster.local/ns/a/sa/b";
        let check =
            |r: Rules, allowed: bool, policy: Option<&str>| assert_eq!(evaluate(&r, &f), Verdict { allowed, policy });
        check(rules(Action::Allow, path(), who(good)), true, Some("p"));
        check(rules(Action::Allow, path(), who("other")), false, None);
        check(rules(Action::Deny, path(), who(good)), false, Some("p"));
        check(rules(Action::Deny, path(), who("other")), true, None);
        check(rules(Action::Log, Permission::DestinationPort(8080), Principal::Any), true, Some("p"));
        check(rules(Action::Allow, Permission::Not(Box::new(path())), Principal::Any), false, None);
        check(Rules { action: Action::Allow, policies: Box::default() }, false, None);
    }
}
