//! Does a `VirtualService` make sense? Matches, destinations, chaining, rules that are never reached.

use std::collections::HashMap;

use serde_json::Value;

use super::Check;
use super::common::{
    export_to, fqdn, header_name, header_value, ip_subnet, is_dns_label, labels, optional_duration, partial_wildcard,
    port, regex, wildcard_domain, wildcard_domain_or_sni, within,
};
use super::http_route::{cors_policy, direct_response, fault_injection, percentage, redirect, retry, rewrite};
use crate::networking::{
    Destination, HeaderOperations, Headers, HttpMatchRequest, HttpRoute, HttpRouteDestination, RouteDestination,
    TcpRoute, TlsRoute, VirtualService,
};
use crate::scalar::StringMatch;
use crate::shape::Shape;

/// Header prefix that routes by JWT claim.
const CLAIM_PREFIX: &str = "@request.auth.claims";
/// Which rules of chaining apply to a route.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The virtual service has hosts; the route may delegate.
    Root,
    /// The virtual service has none: others delegate to it.
    Delegate,
}

/// Validates the whole resource.
pub fn virtual_service(c: &mut Check, vs: &VirtualService, namespace: &str) {
    let role = if vs.hosts.is_empty() { Role::Delegate } else { Role::Root };
    if role == Role::Delegate {
        c.error_if(!vs.gateways.is_empty(), "a virtual service without hosts (a delegate) must not name gateways");
        c.error_if(
            !vs.tls.is_empty() || !vs.tcp.is_empty(),
            "a virtual service without hosts (a delegate) may only hold http routes, no tls or tcp",
        );
    }
    gateway_names(c, &vs.gateways);
    let to_mesh = vs.gateways.is_empty() || vs.gateways.iter().any(|g| g == "mesh");
    let to_gateway = vs.gateways.iter().any(|g| g != "mesh");
    hosts(c, vs, to_mesh, to_gateway);
    c.error_if(
        vs.http.is_empty() && vs.tcp.is_empty() && vs.tls.is_empty(),
        "http, tcp or tls must be provided in virtual service",
    );
    c.each("http", &vs.http, |c, route| {
        http_route(c, route, role);
        if !to_gateway {
            no_claims(c, route);
        }
    });
    c.each("tls", &vs.tls, |c, route| tls_route(c, route, vs));
    c.each("tcp", &vs.tcp, tcp_route);
    export_to(c, namespace, &vs.export_to, false, false);
    unused_rules(c, vs);
}

fn hosts(c: &mut Check, vs: &VirtualService, to_mesh: bool, to_gateway: bool) {
    let sni = !vs.tls.is_empty();
    let mut all_valid = true;
    c.each("hosts", &vs.hosts, |c, host| {
        let result = if to_gateway { wildcard_domain_or_sni(host, sni) } else { wildcard_domain(host) };
        match result {
            Err(message) if !names::is_ip(host) => {
                all_valid = false;
                c.error(message);
            }
            Ok(()) if to_mesh && host == "*" => {
                all_valid = false;
                c.error("wildcard host * is not allowed for virtual services bound to the mesh gateway");
            }
            _ => {}
        }
    });
    if !all_valid {
        return;
    }
    for (i, a) in vs.hosts.iter().enumerate() {
        for b in &vs.hosts[i + 1..] {
            let (a, b) = (names::Hostname::from(a.as_str()), names::Hostname::from(b.as_str()));
            c.error_if(a.matches(&b), format!("duplicate hosts in virtual service: {a} & {b}"));
        }
    }
}

/// Names of gateways: `mesh`, `namespace/name`, `name`, or the legacy `name.namespace.svc…`.
pub fn gateway_names(c: &mut Check, gateways: &[String]) {
    c.each("gateways", gateways, |c, gateway| {
        let Some((namespace, name)) = gateway.split_once('/') else {
            if gateway.contains('.') {
                let mut parts = gateway.split('.');
                let (name, ns) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
                c.warn(format!(
                    "using legacy gatewayName format {gateway:?}; prefer the <namespace>/<name> format: \"{ns}/{name}\""
                ));
            }
            return c.result(fqdn(gateway));
        };
        if namespace.is_empty() || name.is_empty() {
            return c.error("config namespace and gateway name cannot be empty");
        }
        c.error_if(!is_dns_label(namespace), format!("invalid value for namespace: {namespace:?}"));
        c.error_if(!is_dns_label(name), format!("invalid value for gateway name: {name:?}"));
    });
}

fn no_claims(c: &mut Check, route: &HttpRoute) {
    c.each("match", &route.matches, |c, m| {
        for key in m.headers.keys().chain(m.without_headers.keys()) {
            if key.starts_with(CLAIM_PREFIX) {
                c.error(format!(
                    "JWT claim based routing (key: {key}) is only supported for gateway, found no gateways"
                ));
            }
        }
    });
}

/// One HTTP rule.
pub fn http_route(c: &mut Check, route: &HttpRoute, role: Role) {
    conflicts(c, route, role);
    c.each("match", &route.matches, http_match);
    headers(c, route.headers.as_ref());
    c.field("corsPolicy", |c| cors_policy(c, route.cors_policy.as_ref()));
    if let Some(fault) = &route.fault {
        c.field("fault", |c| fault_injection(c, fault));
    }
    mirrors(c, route);
    c.field("redirect", |c| redirect(c, route.redirect.as_ref()));
    if route.redirect.as_ref().is_some_and(|r| !r.prefix_rewrite.is_empty()) {
        let needs_prefix =
            route.matches.iter().any(|m| matches!(m.uri, Some(StringMatch::Regex(_) | StringMatch::Exact(_))));
        let regex_match = route.matches.iter().any(|m| matches!(m.uri, Some(StringMatch::Regex(_))));
        c.error_if(needs_prefix && regex_match, "redirect.prefixRewrite needs uri prefix matches, found a regex match");
    }
    c.field("directResponse", |c| direct_response(c, route.direct_response.as_ref()));
    c.field("retries", |c| retry(c, route.retries.as_ref()));
    c.field("rewrite", |c| rewrite(c, route.rewrite.as_ref()));
    authority_set_twice(c, route);
    route_destinations(c, &route.route);
    c.check("timeout", optional_duration(route.timeout));
}

fn conflicts(c: &mut Check, route: &HttpRoute, role: Role) {
    if role == Role::Root && route.delegate.is_some() {
        c.error_if(!route.route.is_empty(), "root HTTP route must not specify route (it has a delegate)");
        c.error_if(route.redirect.is_some(), "root HTTP route must not specify redirect (it has a delegate)");
        c.error_if(
            route.direct_response.is_some(),
            "root HTTP route must not specify directResponse (it has a delegate)",
        );
        return;
    }
    c.error_if(role == Role::Delegate && route.delegate.is_some(), "delegate HTTP route must not contain delegate");
    let mut exclusive = |name: &str| {
        c.error_if(!route.route.is_empty(), format!("HTTP route cannot contain both route and {name}"));
        c.error_if(route.fault.is_some(), format!("HTTP route cannot contain both fault and {name}"));
        c.error_if(route.rewrite.is_some(), format!("HTTP route rule cannot contain both rewrite and {name}"));
    };
    if route.redirect.is_some() {
        exclusive("redirect");
        c.error_if(route.direct_response.is_some(), "HTTP route cannot contain both redirect and directResponse");
    } else if route.direct_response.is_some() {
        exclusive("directResponse");
    } else if route.route.is_empty() && route.delegate.is_none() {
        c.error("HTTP route, redirect or directResponse is required");
    }
    c.error_if(
        route.mirror.is_some() && !route.mirrors.is_empty(),
        "HTTP route cannot contain both mirror and mirrors (put all into mirrors)",
    );
}

/// Conditions of an HTTP rule.
pub fn http_match(c: &mut Check, m: &HttpMatchRequest) {
    for (field, value) in [("scheme", &m.scheme), ("method", &m.method), ("authority", &m.authority)] {
        if let Some(value) = value {
            c.check(field, string_match(value, field));
        }
    }
    match &m.uri {
        // An empty prefix matches everything and is allowed.
        Some(StringMatch::Prefix(p)) if p.is_empty() => {}
        Some(value) => c.check("uri", string_match(value, "uri")),
        None => {}
    }
    for (field, map) in [("headers", &m.headers), ("withoutHeaders", &m.without_headers)] {
        for (name, value) in map {
            c.field(&format!("{field}.{name}"), |c| {
                if !name.starts_with(CLAIM_PREFIX) {
                    c.result(header_name(name));
                }
                c.result(string_match(value, field));
            });
        }
    }
    for (name, value) in &m.query_params {
        c.field(&format!("queryParams.{name}"), |c| {
            c.error_if(name.is_empty(), "query parameter name must not be empty");
            c.result(string_match(value, "queryParams"));
        });
    }
    if m.port != 0 {
        c.check("port", port(m.port));
    }
    c.check("sourceLabels", labels(&m.source_labels));
    gateway_names(c, &m.gateways);
    if !m.source_namespace.is_empty() {
        c.field("sourceNamespace", |c| {
            c.error_if(
                !is_dns_label(&m.source_namespace),
                format!("sourceNamespace match {} is invalid", m.source_namespace),
            );
        });
    }
    if m.ignore_uri_case && matches!(m.uri, Some(StringMatch::Regex(_))) {
        c.field("ignoreUriCase", |c| c.warn("has no effect on a regex match (begin the expression with (?i))"));
    }
}

fn string_match(m: &StringMatch, what: &str) -> Result<(), String> {
    match m {
        StringMatch::Prefix(p) if p.is_empty() => Err(format!("{what}: prefix match cannot be empty")),
        StringMatch::Regex(r) if r.is_empty() => Err(format!("{what}: regex match cannot be empty")),
        StringMatch::Regex(r) => regex(r),
        _ => Ok(()),
    }
}

fn headers(c: &mut Check, headers: Option<&Headers>) {
    let Some(headers) = headers else { return };
    let mut operations = |name: &str, ops: Option<&HeaderOperations>, request: bool| {
        let Some(ops) = ops else { return };
        c.field(&format!("headers.{name}"), |c| {
            for (verb, map) in [("set", &ops.set), ("add", &ops.add)] {
                for (key, value) in map {
                    c.field(verb, |c| {
                        c.result(operation_name(key, request && verb == "set"));
                        c.result(header_value(value));
                    });
                }
            }
            for key in &ops.remove {
                c.check("remove", operation_name(key, false));
            }
        });
    };
    operations("request", headers.request.as_ref(), true);
    operations("response", headers.response.as_ref(), false);
}

fn operation_name(name: &str, authority_allowed: bool) -> Result<(), String> {
    if name.is_empty() {
        return Err("header name cannot be empty".into());
    }
    if name.starts_with(':') && !(authority_allowed && name.eq_ignore_ascii_case(":authority")) {
        return Err(format!("invalid header {name:?}: header cannot have a `:` prefix"));
    }
    header_name(name)
}

fn authority_set_twice(c: &mut Check, route: &HttpRoute) {
    let is_authority = |k: &String| k.eq_ignore_ascii_case("host") || k.eq_ignore_ascii_case(":authority");
    let set = |h: &Option<Headers>| -> bool {
        h.as_ref().and_then(|h| h.request.as_ref()).is_some_and(|r| r.set.keys().any(is_authority))
    };
    let mut times = usize::from(set(&route.headers));
    times += usize::from(route.rewrite.as_ref().is_some_and(|r| !r.authority.is_empty()));
    c.error_if(times > 1, "the authority may be set by rewrite or by headers, not by both");
}

fn mirrors(c: &mut Check, route: &HttpRoute) {
    if let Some(value) = route.mirror_percent {
        c.field("mirrorPercent", |c| {
            c.error_if(value > 100, format!("mirror_percent must have a max value of 100 (it has {value})"));
            c.warn("using deprecated setting \"mirrorPercent\", use \"mirrorPercentage\" instead");
        });
    }
    percentage(c, "mirrorPercentage", route.mirror_percentage.as_ref());
    if let Some(mirror) = &route.mirror {
        c.field("mirror", |c| destination(c, mirror));
    }
    c.each("mirrors", &route.mirrors, |c, mirror| {
        match &mirror.destination {
            Some(d) => c.field("destination", |c| destination(c, d)),
            None => c.error("destination is required for mirrors"),
        }
        percentage(c, "percentage", mirror.percentage.as_ref());
    });
}

/// Where traffic goes.
pub fn destination(c: &mut Check, d: &Destination) {
    if d.host == "*" {
        c.field("host", |c| c.error("invalid destination host *"));
    } else {
        c.check("host", wildcard_domain(&d.host));
    }
    if !d.subset.is_empty() {
        c.check("subset", subset_name(&d.subset));
    }
    if let Some(selector) = &d.port {
        c.check("port.number", port(selector.number));
    }
}

/// The name of a destination rule's subset.
pub fn subset_name(name: &str) -> Result<(), String> {
    match name {
        "" => Err("subset name cannot be empty".into()),
        name if !is_dns_label(name) => Err(format!("subset name is invalid: {name}")),
        _ => Ok(()),
    }
}

/// Destinations of an HTTP rule.
pub fn route_destinations(c: &mut Check, routes: &[HttpRouteDestination]) {
    c.each("route", routes, |c, route| {
        weighted(c, route.destination.as_ref(), route.weight);
        headers(c, route.headers.as_ref());
    });
    total_weight(c, routes.iter().map(|r| r.weight));
}

/// Destinations of a TLS or TCP rule.
pub fn l4_destinations(c: &mut Check, routes: &[RouteDestination]) {
    c.each("route", routes, |c, route| weighted(c, route.destination.as_ref(), route.weight));
    total_weight(c, routes.iter().map(|r| r.weight));
}

fn weighted(c: &mut Check, to: Option<&Destination>, weight: i32) {
    match to {
        Some(d) => c.field("destination", |c| destination(c, d)),
        None => c.error("destination is required"),
    }
    c.error_if(weight < 0, format!("weight {weight} < 0"));
}

fn total_weight(c: &mut Check, weights: impl ExactSizeIterator<Item = i32>) {
    let several = weights.len() > 1;
    let total: i64 = weights.map(i64::from).sum();
    c.error_if(several && total == 0, "total destination weight = 0");
}

fn tls_route(c: &mut Check, route: &TlsRoute, vs: &VirtualService) {
    c.error_if(route.matches.is_empty(), "TLS route must have at least one match condition");
    c.each("match", &route.matches, |c, m| {
        c.error_if(m.sni_hosts.is_empty(), "TLS match must have at least one SNI host");
        c.each("sniHosts", &m.sni_hosts, |c, host| {
            if let Err(message) = wildcard_domain_or_sni(host, true) {
                return c.error(message);
            }
            c.result(partial_wildcard(host));
            let message = || {
                format!(
                    "SNI host {host:?} is not a compatible subset of any of the virtual service hosts: [{}]",
                    vs.hosts.join(", ")
                )
            };
            if !within(host, &vs.hosts) {
                c.error(message());
            }
        });
        l4_match(c, &m.destination_subnets, m.port, &m.source_labels, &m.gateways, &m.source_namespace);
    });
    c.error_if(route.route.is_empty(), "TLS route is required");
    l4_destinations(c, &route.route);
}

fn tcp_route(c: &mut Check, route: &TcpRoute) {
    c.each("match", &route.matches, |c, m| {
        l4_match(c, &m.destination_subnets, m.port, &m.source_labels, &m.gateways, &m.source_namespace);
        if !m.source_subnet.is_empty() {
            c.field("sourceSubnet", |c| {
                c.result(ip_subnet(&m.source_subnet));
                c.warn("is accepted and has no effect (it was never implemented); match sourceLabels instead");
            });
        }
    });
    c.error_if(route.route.is_empty(), "TCP route is required");
    l4_destinations(c, &route.route);
}

fn l4_match(
    c: &mut Check,
    subnets: &[String],
    number: u32,
    source_labels: &names::Labels,
    gateways: &[String],
    source_namespace: &str,
) {
    c.each("destinationSubnets", subnets, |c, subnet| c.result(ip_subnet(subnet)));
    if number != 0 {
        c.check("port", port(number));
    }
    c.check("sourceLabels", labels(source_labels));
    gateway_names(c, gateways);
    if !source_namespace.is_empty() && !is_dns_label(source_namespace) {
        c.error(format!("sourceNamespace match {source_namespace} is invalid"));
    }
}

/// Warns about rules that can never be reached.
fn unused_rules(c: &mut Check, vs: &VirtualService) {
    let http = vs.http.iter().map(|r| r.matches.iter().map(Shape::write).collect()).collect();
    let tls = vs.tls.iter().map(|r| r.matches.iter().map(Shape::write).collect()).collect();
    let tcp = vs.tcp.iter().map(|r| r.matches.iter().map(Shape::write).collect()).collect();
    for (name, rules) in [("http", http), ("tls", tls), ("tcp", tcp)] {
        let rules: Vec<Vec<Value>> = rules;
        let mut seen: HashMap<String, usize> = HashMap::new();
        let mut catch_all: Option<usize> = None;
        for (i, matches) in rules.iter().enumerate() {
            c.field(&format!("{name}[{i}]"), |c| {
                if let Some(first) = catch_all {
                    let reason = if matches.is_empty() {
                        "only the last rule can have no matches"
                    } else {
                        "a rule without matches comes before it"
                    };
                    return c.warn(format!("virtualService rule is not used ({reason}: {name}[{first}])"));
                }
                if matches.is_empty() {
                    catch_all = Some(i);
                    return;
                }
                let mut duplicates = 0;
                for (j, m) in matches.iter().enumerate() {
                    let text = strip_name(m);
                    if let Some(first) = seen.get(&text) {
                        duplicates += 1;
                        c.field(&format!("match[{j}]"), |c| {
                            c.warn(format!("is not used (duplicate of a match in {name}[{first}])"))
                        });
                    } else {
                        seen.insert(text, i);
                    }
                }
                if duplicates == matches.len() {
                    c.warn("virtualService rule is not used (all matches used by prior rules)");
                }
            });
        }
    }
}

fn strip_name(m: &Value) -> String {
    let mut m = m.clone();
    if let Value::Object(map) = &mut m {
        map.remove("name");
    }
    m.to_string()
}
