//! Do `AuthorizationPolicy`, `PeerAuthentication` and `RequestAuthentication` make sense?

use names::Labels;
use serde_json::Value;

use super::Check;
use super::common::{ip_subnet, label_selector, optional_duration, port, selector_or_targets, strict_header_name};
use crate::security::{
    AuthorizationAction, AuthorizationPolicy, Condition, JwtPresence, JwtRule, Operation, PeerAuthentication,
    RequestAuthentication, Rule, Source,
};

/// The annotation that turns a policy into a rehearsal.
const DRY_RUN: &str = "istio.io/dry-run";

/// Validates the whole resource; `raw` tells an empty list from an absent one.
pub fn authorization_policy(c: &mut Check, p: &AuthorizationPolicy, raw: &Value, annotations: &Labels) {
    selector_or_targets(c, p.selector.as_ref(), p.target_ref.as_ref(), &p.target_refs);
    let no_rules = p.rules.is_empty() && raw.get("rules").is_none_or(Value::is_null);
    if no_rules && matches!(p.action, AuthorizationAction::Custom | AuthorizationAction::Deny) {
        c.error(format!(
            "`{}` action without `rules` is meaningless as it will never be triggered, specify at least one rule or remove the policy",
            p.action
        ));
    }
    match (&p.provider, p.action) {
        (Some(provider), AuthorizationAction::Custom) => {
            c.error_if(provider.name.is_empty(), "`provider.name` must not be empty");
        }
        (None, AuthorizationAction::Custom) => c.error("`provider` must not be empty with the CUSTOM action"),
        (Some(_), action) => c.error(format!("`provider` must not be set with non CUSTOM action, found {action}")),
        (None, _) => {}
    }
    if let Some(value) = annotations.get(DRY_RUN) {
        match value.as_str() {
            "true" | "1" | "t" | "T" | "TRUE" | "True" => c.error_if(
                !matches!(p.action, AuthorizationAction::Allow | AuthorizationAction::Deny),
                format!("annotation {DRY_RUN} is only supported with the ALLOW and DENY actions"),
            ),
            "false" | "0" | "f" | "F" | "FALSE" | "False" => {}
            other => c.error(format!("annotation {DRY_RUN} must be true or false (it is {other:?})")),
        }
    }
    let raw_rules = raw.get("rules").and_then(Value::as_array);
    let mut index = 0;
    c.each("rules", &p.rules, |c, r| {
        let raw = raw_rules.and_then(|rules| rules.get(index)).unwrap_or(&Value::Null);
        index += 1;
        rule(c, r, raw);
        if p.action == AuthorizationAction::Deny && denies_all_tcp(r) {
            c.warn(
                "configured AuthorizationPolicy will deny all traffic to TCP ports under its scope due to the use of \
                 only HTTP attributes in a DENY rule; it is recommended to explicitly specify the port",
            );
        }
    });
}

/// A DENY rule with HTTP-only conditions and no port also denies every TCP connection.
fn denies_all_tcp(r: &Rule) -> bool {
    let sources = r.from.iter().filter_map(|f| f.source.as_ref());
    let operations: Vec<&Operation> = r.to.iter().filter_map(|t| t.operation.as_ref()).collect();
    let http = sources.into_iter().any(|s| !s.request_principals.is_empty() || !s.not_request_principals.is_empty())
        || operations.iter().any(|o| {
            [&o.hosts, &o.not_hosts, &o.methods, &o.not_methods, &o.paths, &o.not_paths].iter().any(|l| !l.is_empty())
        })
        || r.when.iter().any(|w| w.key.starts_with("request."));
    let port = operations.iter().any(|o| !o.ports.is_empty() || !o.not_ports.is_empty())
        || r.when.iter().any(|w| w.key == "destination.port");
    http && !port
}

fn rule(c: &mut Check, r: &Rule, raw: &Value) {
    let empty = |name: &str| raw.get(name).and_then(Value::as_array).is_some_and(Vec::is_empty);
    for name in ["from", "to"] {
        c.error_if(empty(name), format!("`{name}` cannot be empty, should have at least one item"));
    }
    c.each("from", &r.from, |c, from| match &from.source {
        Some(s) => c.field("source", |c| source(c, s)),
        None => c.error("`from.source` cannot be nil"),
    });
    c.each("to", &r.to, |c, to| match &to.operation {
        Some(o) => c.field("operation", |c| operation(c, o)),
        None => c.error("`to.operation` cannot be nil"),
    });
    c.each("when", &r.when, condition);
}

fn source(c: &mut Check, s: &Source) {
    let lists: [(&str, &[String]); 14] = [
        ("principals", &s.principals),
        ("notPrincipals", &s.not_principals),
        ("requestPrincipals", &s.request_principals),
        ("notRequestPrincipals", &s.not_request_principals),
        ("namespaces", &s.namespaces),
        ("notNamespaces", &s.not_namespaces),
        ("ipBlocks", &s.ip_blocks),
        ("notIpBlocks", &s.not_ip_blocks),
        ("remoteIpBlocks", &s.remote_ip_blocks),
        ("notRemoteIpBlocks", &s.not_remote_ip_blocks),
        ("serviceAccounts", &s.service_accounts),
        ("notServiceAccounts", &s.not_service_accounts),
        ("trustDomains", &s.trust_domains),
        ("notTrustDomains", &s.not_trust_domains),
    ];
    items(c, "from.source", &lists);
    for (name, list) in lists {
        if name.ends_with("pBlocks") {
            c.each(name, list, |c, block| c.result(ip_subnet(block)));
        }
        if name.ends_with("erviceAccounts") {
            c.each(name, list, |c, account| c.result(service_account(account)));
            c.field(name, |c| c.error_if(list.len() > 16, "must have at most 16 items"));
        }
        if name.ends_with("rustDomains") {
            c.each(name, list, |c, domain| {
                if !domain.is_empty() {
                    c.result(trust_domain_value(domain));
                }
            });
        }
    }
    let accounts = !s.service_accounts.is_empty() || !s.not_service_accounts.is_empty();
    let others = [&s.namespaces, &s.not_namespaces, &s.principals, &s.not_principals];
    c.error_if(
        accounts && others.iter().any(|l| !l.is_empty()),
        "Cannot set serviceAccounts with namespaces or principals",
    );
}

fn service_account(account: &str) -> Result<(), String> {
    let parts: Vec<&str> = account.split('/').collect();
    let ok = parts.len() <= 2 && parts.iter().all(|p| !p.is_empty() && !p.contains('*')) && account.len() <= 320;
    if ok {
        Ok(())
    } else {
        Err(format!("service account {account:?} must be of form name or namespace/name, without wildcards"))
    }
}

fn operation(c: &mut Check, o: &Operation) {
    let lists: [(&str, &[String]); 8] = [
        ("hosts", &o.hosts),
        ("notHosts", &o.not_hosts),
        ("ports", &o.ports),
        ("notPorts", &o.not_ports),
        ("methods", &o.methods),
        ("notMethods", &o.not_methods),
        ("paths", &o.paths),
        ("notPaths", &o.not_paths),
    ];
    items(c, "to.operation", &lists);
    for (name, list) in lists {
        if name.ends_with("orts") {
            c.each(name, list, |c, p| c.result(port_text(p)));
        }
        if name.ends_with("aths") {
            c.each(name, list, |c, path| c.result(path_template(path)));
        }
    }
}

fn items(c: &mut Check, what: &str, lists: &[(&str, &[String])]) {
    c.error_if(lists.iter().all(|(_, l)| l.is_empty()), format!("`{what}` must have at least one field"));
    for (name, list) in lists {
        c.each(name, *list, |c, item| c.error_if(item.is_empty(), format!("`{name}` must not contain empty strings")));
    }
}

fn port_text(text: &str) -> Result<(), String> {
    text.parse().map_err(|_| format!("invalid port {text:?}")).and_then(port)
}

/// Whether a path uses templates.
pub fn is_path_template(path: &str) -> bool {
    path.contains("{*}") || path.contains("{**}")
}

/// Whether a segment of a path template is plain text: pchars of RFC 3986, without `*` and braces.
pub fn is_path_literal(segment: &str) -> bool {
    let ok = |b: u8| b.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@=".contains(&b);
    !segment.is_empty() && segment.bytes().all(ok)
}

/// `{*}` matches one path segment, `{**}` any number; `*` may stand at either end of a path without templates.
pub fn path_template(path: &str) -> Result<(), String> {
    let err = |what: &str| Err(format!("invalid or unsupported path {path}: {what}"));
    let template = is_path_template(path);
    let mut many = false;
    for segment in path.trim_matches('/').split('/') {
        match segment {
            "{*}" | "{**}" if many => return err("nothing but text may follow {**}"),
            "{*}" => {}
            "{**}" => many = true,
            s if s.contains(['{', '}']) => return err("{*} and {**} must be a path segment of their own"),
            s if template && !is_path_literal(s) => {
                return err("beside templates only plain text is supported; use {*} or {**} for \"*\"");
            }
            _ => {}
        }
    }
    Ok(())
}

/// A value that is exact, a prefix (`x*`), a suffix (`*x`) or `*`.
pub fn wildcard_value(value: &str) -> Result<(), String> {
    if value.is_empty() {
        return Err("empty value not allowed".into());
    }
    let inner = value.strip_prefix('*').or_else(|| value.strip_suffix('*')).unwrap_or(value);
    if inner.contains('*') {
        return Err(format!("{value:?}: only one wildcard is supported, at the start or the end"));
    }
    Ok(())
}

/// A trust domain, possibly with one wildcard.
pub fn trust_domain_value(value: &str) -> Result<(), String> {
    if value.contains('/') {
        return Err(format!("trust domain {value:?} must not contain a slash"));
    }
    wildcard_value(value)
}

fn condition(c: &mut Check, w: &Condition) {
    if w.key.is_empty() {
        return c.error("`key` cannot be empty");
    }
    c.error_if(
        w.values.is_empty() && w.not_values.is_empty(),
        format!("at least one of `values` or `notValues` must be set for condition with key {}", w.key),
    );
    for (name, values) in [("values", &w.values), ("notValues", &w.not_values)] {
        c.each(name, values, |c, v| c.error_if(v.is_empty(), format!("`{name}` must not contain empty strings")));
        c.check(name, attribute(&w.key, values));
    }
}

/// Whether a condition's key is known and its values fit it.
pub fn attribute(key: &str, values: &[String]) -> Result<(), String> {
    let with_key = |prefix: &str| {
        key.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('[') && rest.ends_with(']') && rest.len() > 2)
    };
    let map = |prefix: &str| {
        if with_key(prefix) { Ok(()) } else { Err(format!("bad key ({key}): should have format a[b]")) }
    };
    match key {
        "source.ip" | "remote.ip" | "destination.ip" => values.iter().try_for_each(|v| ip_subnet(v)),
        "destination.port" => values.iter().try_for_each(|v| port_text(v)),
        "source.serviceAccount" => values.iter().try_for_each(|v| service_account(v)),
        "source.trustDomain" => values.iter().try_for_each(|v| trust_domain_value(v)),
        "source.namespace"
        | "source.principal"
        | "request.auth.principal"
        | "request.auth.audiences"
        | "request.auth.presenter"
        | "connection.sni" => Ok(()),
        "source.user" => Err("attribute source.user is replaced by source.principal".into()),
        k if k.starts_with("request.headers") => map("request.headers"),
        k if k.starts_with("request.auth.claims") => map("request.auth.claims"),
        k if k.starts_with("experimental.envoy.filters.") => {
            if k.ends_with(']') && k.contains('[') {
                Ok(())
            } else {
                Err(format!("bad key ({key}): should have format a[b]"))
            }
        }
        k if k.starts_with("source.labels")
            || k.starts_with("destination.labels")
            || k == "destination.name"
            || k == "destination.namespace"
            || k == "destination.user" =>
        {
            Err(format!("attribute {k} is not supported: select workloads by the policy's selector"))
        }
        _ => Err(format!("unknown attribute: {key}")),
    }
}

/// Validates the whole resource; `raw` tells an empty map from an absent one.
pub fn peer_authentication(c: &mut Check, p: &PeerAuthentication, raw: &Value) {
    label_selector(c, "selector", p.selector.as_ref());
    let given = raw.get("portLevelMtls").is_some_and(Value::is_object);
    if given {
        c.field("portLevelMtls", |c| {
            c.error_if(p.port_level_mtls.is_empty(), "in body should have at least 1 properties");
            let selects = p.selector.as_ref().is_some_and(|s| !s.match_labels.is_empty());
            c.error_if(!selects, "portLevelMtls requires selector (mTLS by port needs selected workloads)");
            for number in p.port_level_mtls.keys() {
                c.check(&number.to_string(), port(*number).map_err(|_| "port must be between 1-65535".into()));
            }
        });
    }
}

/// Validates the whole resource.
pub fn request_authentication(c: &mut Check, r: &RequestAuthentication, annotations: &Labels) {
    c.error_if(
        annotations.contains_key(DRY_RUN),
        format!("annotation {DRY_RUN} is not supported for RequestAuthentication"),
    );
    selector_or_targets(c, r.selector.as_ref(), r.target_ref.as_ref(), &r.target_refs);
    c.each("jwtRules", &r.jwt_rules, jwt_rule);
}

/// One issuer.
pub fn jwt_rule(c: &mut Check, rule: &JwtRule) {
    if rule.issuer.is_empty() {
        c.field("issuer", |c| c.warn("is empty: tokens of every issuer are accepted if their signature verifies"));
    }
    no_empty(c, "audiences", &rule.audiences);
    no_empty(c, "fromParams", &rule.from_params);
    no_empty(c, "fromCookies", &rule.from_cookies);
    no_empty(c, "spaceDelimitedClaims", &rule.space_delimited_claims);
    c.error_if(!rule.jwks.is_empty() && !rule.jwks_uri.is_empty(), "only one of jwks or jwksUri can be set");
    if !rule.jwks_uri.is_empty() {
        c.check("jwksUri", jwks_uri(&rule.jwks_uri));
    }
    if !rule.jwks.is_empty() {
        match jwks(&rule.jwks) {
            Ok(None) => {}
            Ok(Some(warning)) => c.field("jwks", |c| c.warn(warning)),
            Err(message) => c.field("jwks", |c| c.error(message)),
        }
    }
    c.each("fromHeaders", &rule.from_headers, |c, h| c.error_if(h.name.is_empty(), "header name must be set"));
    c.each("outputClaimToHeaders", &rule.output_claim_to_headers, |c, o| {
        c.error_if(o.claim.is_empty(), "outputClaimToHeaders.claim must be set");
        c.check("header", strict_header_name(&o.header));
    });
    c.check("timeout", optional_duration(rule.timeout));
    if rule.presence == JwtPresence::Required {
        c.field("presence", |c| {
            c.warn("is accepted and has no effect; require a token by an AuthorizationPolicy on requestPrincipals")
        });
    }
}

fn no_empty(c: &mut Check, name: &str, list: &[String]) {
    c.each(name, list, |c, item| c.error_if(item.is_empty(), format!("{name} must not contain empty strings")));
}

/// An `http` or `https` URI with a host.
pub fn jwks_uri(uri: &str) -> Result<(), String> {
    let rest = uri.strip_prefix("https://").or_else(|| uri.strip_prefix("http://"));
    let Some(rest) = rest else {
        return Err(format!("URI scheme of {uri:?} is not supported, must be http:// or https://"));
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let number =
        authority.rsplit_once(':').filter(|(h, _)| !h.ends_with(':') && !authority.ends_with(']')).map(|(_, p)| p);
    if authority.is_empty() {
        return Err(format!("{uri:?} names no host"));
    }
    match number {
        Some(p) => port_text(p),
        None => Ok(()),
    }
}

/// A key set, and what is odd about it.
fn jwks(text: &str) -> Result<Option<String>, String> {
    let mut odd = None;
    let v: Value = serde_json::from_str(text).map_err(|e| format!("jwks is not JSON: {e}"))?;
    let Some(keys) = v.get("keys").and_then(Value::as_array) else {
        return Err("jwks has no \"keys\" list".into());
    };
    for (i, key) in keys.iter().enumerate() {
        let text = |name: &str| key.get(name).and_then(Value::as_str);
        let complete = match text("kty") {
            Some("RSA") => text("n").is_some() && text("e").is_some(),
            Some("EC") => text("crv").is_some() && text("x").is_some() && text("y").is_some(),
            Some("OKP") => text("crv").is_some() && text("x").is_some(),
            Some("oct") => text("k").is_some(),
            Some(other) => return Err(format!("keys[{i}]: unknown key type {other:?}")),
            None => return Err(format!("keys[{i}]: kty is missing")),
        };
        if !complete {
            return Err(format!("keys[{i}]: parameters of the key are missing"));
        }
        if text("d").is_some() {
            odd = Some(format!("keys[{i}]: is a private key; only publish the public part"));
        }
    }
    Ok(odd)
}
