//! How are RBAC policies compiled?

use std::sync::Arc;

use protos::envoy::config::rbac::v3 as p;

use super::common::{cidr, port};
use super::{each, matcher, reject};
use crate::error::{At, Result, invalid, missing};
use crate::rbac::*;

/// An optional `RBAC` field.
pub(super) fn rules(field: &str, r: &Option<p::Rbac>) -> Result<Option<Arc<Rules>>> {
    r.as_ref().map(|r| one(r).map(Arc::new)).transpose().at(field)
}

fn one(r: &p::Rbac) -> Result<Rules> {
    reject!(r; audit_logging_options);
    let action = match r.action {
        0 => Action::Allow,
        1 => Action::Deny,
        2 => Action::Log,
        n => return Err(invalid(format!("unknown value {n}")).at("action")),
    };
    let policies = r
        .policies
        .iter()
        .map(|(name, p)| Ok((name.as_str().into(), policy(p).map_err(|e| e.at(&format!("policies[\"{name}\"]")))?)))
        .collect::<Result<Vec<_>>>()?;
    Ok(Rules { action, policies: policies.into() })
}

fn policy(p: &p::Policy) -> Result<Policy> {
    reject!(p; checked_condition, cel_config);
    if p.permissions.is_empty() {
        return Err(missing("permissions"));
    }
    if p.principals.is_empty() {
        return Err(missing("principals"));
    }
    Ok(Policy {
        permissions: each("permissions", &p.permissions, permission)?,
        principals: each("principals", &p.principals, principal)?,
        condition: p.condition.as_ref().map(super::cel::expr).transpose().at("condition")?.map(Arc::new),
    })
}

fn permission(x: &p::Permission) -> Result<Permission> {
    use p::permission::Rule as R;
    Ok(match x.rule.as_ref().ok_or_else(|| missing("rule"))? {
        R::AndRules(s) => Permission::And(each("rules", &s.rules, permission).at("and_rules")?),
        R::OrRules(s) => Permission::Or(each("rules", &s.rules, permission).at("or_rules")?),
        R::NotRule(r) => Permission::Not(Box::new(permission(r).at("not_rule")?)),
        R::Any(_) => Permission::Any,
        R::Header(h) => Permission::Header(Box::new(matcher::header(h).at("header")?)),
        R::UrlPath(m) => Permission::UrlPath(matcher::path(m).at("url_path")?),
        R::DestinationIp(c) => Permission::DestinationIp(cidr(c).at("destination_ip")?),
        R::DestinationPort(n) => Permission::DestinationPort(port(*n).at("destination_port")?),
        R::DestinationPortRange(r) => {
            let bound =
                |n: i32| u32::try_from(n).map_err(|_| invalid("range is out of bounds").at("destination_port_range"));
            Permission::DestinationPortRange(bound(r.start)?, bound(r.end)?)
        }
        R::Metadata(m) => Permission::Metadata(Box::new(matcher::metadata(m).at("metadata")?)),
        R::RequestedServerName(m) => Permission::RequestedServerName(matcher::string(m).at("requested_server_name")?),
        R::UriTemplate(e) => Permission::UriTemplate(Box::new(super::uri_template::matcher(e).at("uri_template")?)),
        R::SourcedMetadata(s) => {
            let m = matcher::metadata(s.metadata_matcher.as_ref().ok_or_else(|| missing("metadata_matcher"))?)
                .at("sourced_metadata")?;
            if s.metadata_source == 1 {
                Permission::RouteMetadata(Box::new(m))
            } else {
                Permission::Metadata(Box::new(m))
            }
        }
        R::Matcher(e) => return Err(super::any::no_config(&e.name).at("matcher")),
    })
}

fn principal(x: &p::Principal) -> Result<Principal> {
    use p::principal::Identifier as I;
    Ok(match x.identifier.as_ref().ok_or_else(|| missing("identifier"))? {
        I::AndIds(s) => Principal::And(each("ids", &s.ids, principal).at("and_ids")?),
        I::OrIds(s) => Principal::Or(each("ids", &s.ids, principal).at("or_ids")?),
        I::NotId(r) => Principal::Not(Box::new(principal(r).at("not_id")?)),
        I::Any(_) => Principal::Any,
        I::Authenticated(a) => Principal::Authenticated(
            a.principal_name.as_ref().map(matcher::string).transpose().at("principal_name").at("authenticated")?,
        ),
        I::SourceIp(c) => Principal::SourceIp(cidr(c).at("source_ip")?),
        I::DirectRemoteIp(c) => Principal::DirectRemoteIp(cidr(c).at("direct_remote_ip")?),
        I::RemoteIp(c) => Principal::RemoteIp(cidr(c).at("remote_ip")?),
        I::Header(h) => Principal::Header(Box::new(matcher::header(h).at("header")?)),
        I::UrlPath(m) => Principal::UrlPath(matcher::path(m).at("url_path")?),
        I::Metadata(m) => Principal::Metadata(Box::new(matcher::metadata(m).at("metadata")?)),
        I::FilterState(f) => {
            let (key, value) = matcher::filter_state(f).at("filter_state")?;
            Principal::FilterState(key, value)
        }
        I::SourcedMetadata(s) => {
            let m = matcher::metadata(s.metadata_matcher.as_ref().ok_or_else(|| missing("metadata_matcher"))?)
                .at("sourced_metadata")?;
            if s.metadata_source == 1 {
                Principal::RouteMetadata(Box::new(m))
            } else {
                Principal::Metadata(Box::new(m))
            }
        }
        I::Custom(e) => return Err(super::any::no_config(&e.name).at("custom")),
    })
}
