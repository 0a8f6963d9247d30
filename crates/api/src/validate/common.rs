//! Which names, ports, durations, addresses and selectors are well formed? Leaves of all validators; each says what
//! is wrong in one sentence.

use std::collections::BTreeMap;
use std::net::IpAddr;

use names::{Hostname, is_ip};

use super::Check;
use crate::networking::{LabelSelector, PolicyTargetReference, WorkloadSelector};
use crate::scalar::Duration;

/// Prefix of Unix socket addresses.
pub const UNIX: &str = "unix://";

fn label_chars(s: &str) -> bool {
    let ok = |b: u8| b.is_ascii_alphanumeric();
    let bytes = s.as_bytes();
    !bytes.is_empty() && ok(bytes[0]) && ok(bytes[bytes.len() - 1]) && bytes.iter().all(|b| ok(*b) || *b == b'-')
}

/// Letters, digits and inner dashes, at most 63 (DNS-1123 with capitals, as Istio has it).
pub fn is_dns_label(s: &str) -> bool {
    s.len() <= 63 && label_chars(s)
}

fn is_wildcard_dns_label(s: &str) -> bool {
    let rest = s.strip_prefix("*-").or_else(|| s.strip_prefix('*')).unwrap_or(s);
    s == "*" || (s.len() <= 63 && label_chars(rest))
}

fn dns_preconditions(name: &str) -> Result<(), String> {
    match name.len() {
        0 => Err("empty domain name not allowed".into()),
        256.. => Err(format!("domain name {name:?} too long (max 255)")),
        _ => Ok(()),
    }
}

fn dns_labels(domain: &str) -> Result<(), String> {
    let labels: Vec<&str> = domain.split('.').collect();
    let last = labels.len() - 1;
    if labels[last].parse::<i64>().is_ok() {
        let top = labels[last];
        return Err(format!("domain name {domain:?} invalid (top level domain {top:?} cannot be all-numeric)"));
    }
    for (i, label) in labels.iter().enumerate() {
        // A trailing dot makes a name unambiguous.
        if i == last && label.is_empty() && i > 0 {
            return Ok(());
        }
        if !is_dns_label(label) {
            return Err(format!("domain name {domain:?} invalid (label {label:?} invalid)"));
        }
    }
    Ok(())
}

/// A complete domain name.
pub fn fqdn(name: &str) -> Result<(), String> {
    dns_preconditions(name)?;
    dns_labels(name)
}

/// A domain name whose first label may be or begin with `*`.
pub fn wildcard_domain(name: &str) -> Result<(), String> {
    dns_preconditions(name)?;
    let (first, rest) = name.split_once('.').map_or((name, None), |(f, r)| (f, Some(r)));
    if !is_wildcard_dns_label(first) {
        return Err(format!("domain name {name:?} invalid (label {first:?} invalid)"));
    }
    rest.map_or(Ok(()), dns_labels)
}

/// A wildcard domain, or (for SNI) a name of the form `outbound_.PORT_._.HOST`.
pub fn wildcard_domain_or_sni(name: &str, sni: bool) -> Result<(), String> {
    if sni && name.starts_with("outbound_") {
        return sni_domain(name).map(|_| ());
    }
    wildcard_domain(name)
}

/// Takes a name of the form `outbound_.PORT_.SUBSET_.HOST` apart: direction, port, host.
pub fn sni_domain(name: &str) -> Result<(&str, &str, &str), String> {
    let parts: Vec<&str> = name.splitn(4, "_.").collect();
    match parts[..] {
        [direction, port, _, host] if !host.is_empty() && port.parse::<u16>().is_ok() => Ok((direction, port, host)),
        _ => Err(format!("domain name {name} invalid, should follow 'outbound_.<PORT>_._.<HOSTNAME>' format")),
    }
}

/// `*bar.com` matches nothing in SNI.
pub fn partial_wildcard(host: &str) -> Result<(), String> {
    if host.contains('*') && host != "*" && !host.starts_with("*.") {
        return Err(format!(
            "partial wildcard {host:?} not allowed (use \"*\" or \"*.{}\")",
            host.trim_start_matches(['*', '-'])
        ));
    }
    Ok(())
}

/// 1 to 65535.
pub fn port(number: u32) -> Result<(), String> {
    match number {
        1..=65535 => Ok(()),
        _ => Err(format!("port number {number} must be in the range 1..65535")),
    }
}

/// A port's name.
pub fn port_name(name: &str) -> Result<(), String> {
    if is_dns_label(name) {
        Ok(())
    } else {
        Err(format!("invalid port name: {name} (letters, digits and dashes, at most 63)"))
    }
}

/// An IP address.
pub fn ip_address(text: &str) -> Result<(), String> {
    if is_ip(text) { Ok(()) } else { Err(format!("{text} is not a valid IP")) }
}

/// An IP address with optional prefix length.
pub fn ip_subnet(text: &str) -> Result<(), String> {
    let ok = match text.split_once('/') {
        Some(_) => text.parse::<ipnet::IpNet>().is_ok(),
        None => text.parse::<IpAddr>().is_ok(),
    };
    if ok { Ok(()) } else { Err(format!("{text} is not a valid CIDR block or IP address")) }
}

/// A Unix socket path: absolute or abstract, not a directory.
pub fn unix_address(path: &str) -> Result<(), String> {
    if path.is_empty() {
        return Err("unix address must not be empty".into());
    }
    // Linux abstract sockets begin with @.
    if !path.starts_with('@') && (!path.starts_with('/') || path.ends_with('/')) {
        return Err(format!("{path} is not an absolute path of a socket"));
    }
    Ok(())
}

/// At least a millisecond, in whole milliseconds.
pub fn duration(d: Duration) -> Result<(), String> {
    if d.as_nanos() < 1_000_000 {
        return Err("duration must be greater than 1ms".into());
    }
    if d.as_nanos() % 1_000_000 != 0 {
        return Err("only durations to ms precision are supported".into());
    }
    Ok(())
}

/// An optional duration, see [`duration`].
pub fn optional_duration(d: Option<Duration>) -> Result<(), String> {
    d.map_or(Ok(()), duration)
}

/// 0 to 100.
pub fn percent(value: f64) -> Result<(), String> {
    if (0.0..=100.0).contains(&value) { Ok(()) } else { Err(format!("percentage {value} is not in range 0..100")) }
}

/// Not below zero.
pub fn not_negative(c: &mut Check, name: &str, value: i32) {
    if value < 0 {
        c.field(name, |c| c.error(format!("must be greater than or equal to 0 (it is {value})")));
    }
}

/// A regular expression in RE2's syntax.
pub fn regex(pattern: &str) -> Result<(), String> {
    /// Most compiled bytes of a user's expression.
    const REGEX_BYTES_MAX: usize = 1 << 20;
    regex::RegexBuilder::new(pattern)
        .size_limit(REGEX_BYTES_MAX)
        .build()
        .map(|_| ())
        .map_err(|e| format!("invalid regex {pattern:?}: {}", e.to_string().lines().last().unwrap_or_default()))
}

fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// A header name, possibly a pseudo header.
pub fn header_name(name: &str) -> Result<(), String> {
    if is_token(name.strip_prefix(':').unwrap_or(name)) {
        Ok(())
    } else {
        Err(format!("header name {name:?} is not a valid header name"))
    }
}

/// A header name of letters, digits, `-` and `_`.
pub fn strict_header_name(name: &str) -> Result<(), String> {
    if !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
        Ok(())
    } else {
        Err(format!("header name {name:?} is not a valid header name"))
    }
}

/// A header value with Envoy's `%COMMAND%` substitutions; a lone `%` must be written `%%`.
pub fn header_value(value: &str) -> Result<(), String> {
    let err = || Err(format!("header value configuration {value} is invalid (write a literal % as %%)"));
    let mut rest = value;
    while let Some(at) = rest.find('%') {
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            rest = after;
            continue;
        }
        let name = rest.bytes().take_while(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || *b == b'_').count();
        if name == 0 || rest.as_bytes()[0].is_ascii_digit() {
            return err();
        }
        rest = &rest[name..];
        if rest.starts_with('(') {
            let Some(close) = rest.find(')') else {
                return err();
            };
            rest = &rest[close + 1..];
        }
        if let Some(after) = rest.strip_prefix(':') {
            rest = after.trim_start_matches(|c: char| c.is_ascii_digit());
        }
        match rest.strip_prefix('%') {
            Some(after) => rest = after,
            None => return err(),
        }
    }
    Ok(())
}

/// Labels with valid keys and values.
pub fn labels(labels: &BTreeMap<String, String>) -> Result<(), String> {
    let part = |s: &str| {
        let inner = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        let b = s.as_bytes();
        s.len() <= 63 && b.iter().all(inner) && edge(b.first()) && edge(b.last())
    };
    for (k, v) in labels {
        let name = match k.split_once('/') {
            Some((prefix, name)) if fqdn(prefix).is_ok() && !prefix.ends_with('.') => name,
            Some(_) => return Err(format!("invalid label key {k:?}")),
            None => k,
        };
        if !part(name) {
            return Err(format!("invalid label key {k:?}"));
        }
        if !v.is_empty() && !part(v) {
            return Err(format!("invalid label value {v:?} for key {k:?}"));
        }
    }
    Ok(())
}

fn selector_labels(c: &mut Check, labels: &BTreeMap<String, String>) {
    for (k, v) in labels {
        c.error_if(k.is_empty(), format!("empty key is not supported in selector: {k:?}={v:?}"));
        c.error_if(
            k.contains('*') || v.contains('*'),
            format!("wildcard is not supported in selector: {k:?}={v:?} (name the exact value)"),
        );
    }
    if labels.is_empty() {
        c.warn("workload selector specified without labels");
    }
}

/// A selector in the form of the networking kinds.
pub fn workload_selector(c: &mut Check, selector: Option<&WorkloadSelector>) {
    if let Some(selector) = selector {
        c.field("workloadSelector.labels", |c| selector_labels(c, &selector.labels));
    }
}

/// A selector in the form of the policies.
pub fn label_selector(c: &mut Check, name: &str, selector: Option<&LabelSelector>) {
    if let Some(selector) = selector {
        c.field(&format!("{name}.matchLabels"), |c| selector_labels(c, &selector.match_labels));
    }
}

/// What policies may attach to.
const TARGETS: [(&str, &str); 4] = [
    ("", "Service"),
    ("networking.istio.io", "ServiceEntry"),
    ("gateway.networking.k8s.io", "Gateway"),
    ("gateway.networking.k8s.io", "GatewayClass"),
];

/// A selector or references, not both.
pub fn selector_or_targets(
    c: &mut Check,
    selector: Option<&LabelSelector>,
    target: Option<&PolicyTargetReference>,
    targets: &[PolicyTargetReference],
) {
    label_selector(c, "selector", selector);
    let given = [selector.is_some(), target.is_some(), !targets.is_empty()].into_iter().filter(|g| *g).count();
    c.error_if(given > 1, "only one of targetRefs or selector can be set");
    if let Some(target) = target {
        c.field("targetRef", |c| target_reference(c, target));
    }
    c.each("targetRefs", targets, target_reference);
}

/// A reference to what a policy attaches to.
pub fn target_reference(c: &mut Check, target: &PolicyTargetReference) {
    c.error_if(target.name.is_empty(), "targetRef name must be set");
    c.error_if(
        !target.namespace.is_empty(),
        "targetRef namespace must not be set; cross namespace referencing is not supported",
    );
    let known = TARGETS.iter().any(|(group, kind)| {
        (*group == target.group || (group.is_empty() && target.group == "core")) && *kind == target.kind
    });
    if !known {
        let kinds: Vec<String> = TARGETS
            .iter()
            .map(|(g, k)| if g.is_empty() { format!("core/v1/{k}") } else { format!("{g}/v1/{k}") })
            .collect();
        c.error(format!("targetRef must be to one of [{}] but was {}/{}", kinds.join(" "), target.group, target.kind));
    }
}

/// Whom a resource is exported to: `.`, `*`, `~`, or namespaces.
pub fn export_to(c: &mut Check, namespace: &str, export_to: &[String], service_entry: bool, with_selector: bool) {
    if export_to.is_empty() {
        return;
    }
    c.field("exportTo", |c| {
        let mut seen: Vec<&str> = Vec::new();
        for entry in export_to {
            let key = if entry == "." { namespace } else { entry.as_str() };
            match entry.as_str() {
                "." | "*" => {}
                "~" => c.error_if(!service_entry, "exportTo \"~\" (nobody) is only valid for a ServiceEntry"),
                ns => c.error_if(
                    !is_dns_label(ns),
                    format!("exportTo {ns:?} is neither a namespace nor one of \".\", \"*\", \"~\""),
                ),
            }
            c.error_if(seen.contains(&key), format!("duplicate entries in exportTo: {entry}"));
            seen.push(key);
        }
        let alone = |word: &str| export_to.iter().any(|e| e == word) && export_to.len() > 1;
        c.error_if(alone("*"), "\"*\" exports to all namespaces and cannot be combined with other entries");
        c.error_if(alone("~"), "\"~\" exports to nobody and cannot be combined with other entries");
        c.error_if(
            with_selector && (export_to.len() != 1 || export_to[0] != "."),
            "a DestinationRule with a workloadSelector only applies to its own namespace: exportTo must be \".\"",
        );
    });
}

/// A host in `namespace/dnsName` form (gateways also accept the bare name).
pub fn namespaced_host(host: &str, gateway: bool) -> Result<(), String> {
    let Some((namespace, name)) = host.split_once('/') else {
        return if gateway {
            host_part(host, true)
        } else {
            Err(format!("host {host:?} must be of form namespace/dnsName (for example ./{host} or */*)"))
        };
    };
    if namespace.is_empty() || name.is_empty() {
        return Err(format!("config namespace and dnsName in host entry {host:?} cannot be empty"));
    }
    // `~ns/host` subtracts from what the other entries select.
    let plain = namespace.strip_prefix('~').filter(|n| !gateway && !n.is_empty()).unwrap_or(namespace);
    let special = plain == "*" || plain == "." || (!gateway && plain == "~");
    if !special && !is_dns_label(plain) {
        let what = if gateway { "gateway" } else { "sidecar" };
        return Err(format!("invalid namespace value {namespace:?} in {what}"));
    }
    host_part(name, gateway)
}

fn host_part(host: &str, gateway: bool) -> Result<(), String> {
    if host != "*" && !host.contains('.') && !is_ip(host) {
        return Err(format!("short names (non FQDN) are not allowed: {host:?}"));
    }
    match wildcard_domain(host) {
        Err(_) if gateway && is_ip(host) => Ok(()),
        result => result,
    }
}

/// Whether `host` lies within one of `hosts`.
pub fn within(host: &str, hosts: &[String]) -> bool {
    let host = Hostname::from(host);
    hosts.iter().any(|h| host.subset_of(&Hostname::from(h.as_str())))
}
