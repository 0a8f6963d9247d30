//! What does one rule of a policy become? Permissions from operations, principals from sources, conditions to
//! whichever side they speak of. Follows `pilot/pkg/security/authz/model`.

use api::security::{Operation, Rule, Source};
use protos::envoy::config::rbac::v3 as rbac;
use rbac::{Permission, Principal, permission, principal};

use super::generator::{Attribute, Error, Generated, Peer};
use super::trust_domain::Bundle;

/// One attribute with the values wanted and unwanted.
#[derive(Clone)]
struct Test {
    attribute: Attribute,
    values: Vec<String>,
    not_values: Vec<String>,
}

fn test(attribute: Attribute, values: &[String], not_values: &[String]) -> Option<Test> {
    (!values.is_empty() || !not_values.is_empty()).then(|| Test {
        attribute,
        values: values.to_vec(),
        not_values: not_values.to_vec(),
    })
}

/// How a rule is generated.
struct Context<'a> {
    namespace: &'a str,
    domains: &'a Bundle,
    for_tcp: bool,
    allow: bool,
}

/// The RBAC policy of a rule. `None`: nothing of it means anything here.
pub(super) fn translate(
    r: &Rule,
    namespace: &str,
    domains: &Bundle,
    for_tcp: bool,
    allow: bool,
) -> Option<rbac::Policy> {
    let context = Context { namespace, domains, for_tcp, allow };
    let (mut on_permission, mut on_principal) = (Vec::new(), Vec::new());
    for c in &r.when {
        let attribute = Attribute::of_condition(&c.key)?;
        let side = if attribute.is_permission() { &mut on_permission } else { &mut on_principal };
        side.extend(test(attribute, &c.values, &c.not_values));
    }
    let sides =
        |own: Vec<Test>, conditions: &[Test]| own.into_iter().chain(conditions.iter().cloned()).collect::<Vec<_>>();
    let mut principals: Vec<Vec<Test>> =
        r.from.iter().map(|f| sides(f.source.as_ref().map(source).unwrap_or_default(), &on_principal)).collect();
    if principals.is_empty() {
        principals.push(on_principal);
    }
    let mut permissions: Vec<Vec<Test>> =
        r.to.iter().map(|t| sides(t.operation.as_ref().map(operation).unwrap_or_default(), &on_permission)).collect();
    if permissions.is_empty() {
        permissions.push(on_permission);
    }
    // One part that cannot be said makes the whole rule unsayable where that would widen what is allowed.
    let permissions: Result<Vec<_>, Error> = permissions.iter().map(|t| context.permission(t)).collect();
    let principals: Result<Vec<_>, Error> = principals.iter().map(|t| context.principal(t)).collect();
    Some(rbac::Policy { permissions: permissions.ok()?, principals: principals.ok()?, ..Default::default() })
}

fn operation(o: &Operation) -> Vec<Test> {
    [
        test(Attribute::Host, &o.hosts, &o.not_hosts),
        test(Attribute::Method, &o.methods, &o.not_methods),
        test(Attribute::Path, &o.paths, &o.not_paths),
        test(Attribute::DestinationPort, &o.ports, &o.not_ports),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn source(s: &Source) -> Vec<Test> {
    [
        test(Attribute::Principal, &s.principals, &s.not_principals),
        test(Attribute::RequestPrincipal, &s.request_principals, &s.not_request_principals),
        test(Attribute::Namespace, &s.namespaces, &s.not_namespaces),
        test(Attribute::TrustDomain, &s.trust_domains, &s.not_trust_domains),
        test(Attribute::RemoteIp, &s.remote_ip_blocks, &s.not_remote_ip_blocks),
        test(Attribute::SourceIp, &s.ip_blocks, &s.not_ip_blocks),
        test(Attribute::ServiceAccount, &s.service_accounts, &s.not_service_accounts),
    ]
    .into_iter()
    .flatten()
    .collect()
}

impl Context<'_> {
    /// What the values mean, one result per alternative. Unsayable ones are an error for allow rules and skipped for
    /// others.
    fn alternatives(&self, t: &Test, values: &[String]) -> Result<Vec<Generated>, Error> {
        let expanded = match t.attribute {
            Attribute::Principal => self.domains.expand(values),
            _ => values.to_vec(),
        };
        match t.attribute.generate(&expanded, self.namespace, self.for_tcp, Peer::Certificate) {
            Ok(list) => Ok(list),
            Err(e) if self.allow => Err(e),
            Err(_) => Ok(Vec::new()),
        }
    }

    fn permission(&self, tests: &[Test]) -> Result<Permission, Error> {
        use permission::{Rule, Set};
        let wrap = |rule| Permission { rule: Some(rule) };
        let any_of = |list: Vec<Generated>, whole: bool| {
            let mut rules: Vec<Permission> = list.into_iter().map(Generated::into_permission).collect();
            if whole { rules.remove(0) } else { wrap(Rule::OrRules(Set { rules })) }
        };
        let mut all = Vec::new();
        for t in tests {
            let whole = t.attribute.is_whole();
            let wanted = self.alternatives(t, &t.values)?;
            if !wanted.is_empty() {
                all.push(any_of(wanted, whole));
            }
            let unwanted = self.alternatives(t, &t.not_values)?;
            if !unwanted.is_empty() {
                all.push(wrap(Rule::NotRule(Box::new(any_of(unwanted, whole)))));
            }
        }
        if all.is_empty() {
            all.push(wrap(Rule::Any(true)));
        }
        Ok(wrap(Rule::AndRules(Set { rules: all })))
    }

    fn principal(&self, tests: &[Test]) -> Result<Principal, Error> {
        use principal::{Identifier, Set};
        let wrap = |identifier| Principal { identifier: Some(identifier) };
        let any_of = |list: Vec<Generated>, whole: bool| {
            let mut ids: Vec<Principal> = list.into_iter().map(Generated::into_principal).collect();
            if whole { ids.remove(0) } else { wrap(Identifier::OrIds(Set { ids })) }
        };
        let mut all = Vec::new();
        for t in tests {
            let whole = t.attribute.is_whole();
            let wanted = self.alternatives(t, &t.values)?;
            if !wanted.is_empty() {
                all.push(any_of(wanted, whole));
            }
            let unwanted = self.alternatives(t, &t.not_values)?;
            if !unwanted.is_empty() {
                all.push(wrap(Identifier::NotId(Box::new(any_of(unwanted, whole)))));
            }
        }
        if all.is_empty() {
            all.push(wrap(Identifier::Any(true)));
        }
        Ok(wrap(Identifier::AndIds(Set { ids: all })))
    }
}
