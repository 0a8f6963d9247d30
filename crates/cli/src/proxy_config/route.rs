//! `proxy-config route`: which requests go where?

use serde_json::Value;

use super::dump::{Dump, MISSING, camel};
use super::{management, text};
use crate::context::Failure;
use crate::tabwriter::table;

/// Most domains shown of one virtual host.
const DOMAINS_SHOWN: usize = 2;

pub(super) fn select(dump: &Dump, name: Option<&str>) -> Result<Vec<Value>, Failure> {
    let mut routes = dump.routes().ok_or_else(|| Failure::Said(MISSING.to_owned()))?;
    routes.retain(|route| name.is_none_or(|wanted| route["name"] == wanted));
    // Ports in order; names stay where they were.
    routes.sort_by(|a, b| {
        let number = |route: &Value| text(&route["name"]).parse::<u32>().ok();
        match (number(a), number(b)) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => std::cmp::Ordering::Equal,
        }
    });
    Ok(routes.iter().map(|route| camel(route, false)).collect())
}

pub(super) fn summary(routes: &[Value], verbose: bool) -> String {
    let head: &[&str] = if verbose {
        &["NAME", "VHOST NAME", "DOMAINS", "MATCH", "VIRTUAL SERVICE"]
    } else {
        &["NAME", "VIRTUAL HOSTS"]
    };
    let mut rows = vec![head.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>()];
    for route in routes {
        let Ok(route) = Dump::read(route).map(|dump| dump.whole().clone()) else {
            continue;
        };
        let name = text(&route["name"]).to_owned();
        let hosts = route["virtual_hosts"].as_array().map(Vec::as_slice).unwrap_or_default();
        if !verbose {
            rows.push(vec![name, hosts.len().to_string()]);
            continue;
        }
        for host in hosts {
            let domains: Vec<&str> = host["domains"].as_array().into_iter().flatten().map(text).collect();
            let domains = describe_domains(&domains);
            let vhost = text(&host["name"]).to_owned();
            let entries = host["routes"].as_array().map(Vec::as_slice).unwrap_or_default();
            for entry in entries.iter().filter(|entry| entry["route"]["cluster"] != "PassthroughCluster") {
                rows.push(vec![
                    name.clone(),
                    vhost.clone(),
                    domains.clone(),
                    describe_match(&entry["match"]),
                    management(&entry["metadata"]),
                ]);
            }
            if entries.is_empty() {
                rows.push(vec![name.clone(), vhost, domains, "/*".to_owned(), "404".to_owned()]);
            }
        }
    }
    table(rows, 5)
}

/// The domains worth showing: without ports, without the longer spellings of a shorter one.
pub(super) fn describe_domains(domains: &[&str]) -> String {
    if let [only] = domains {
        return (*only).to_owned();
    }
    let without_port: Vec<&str> = domains.iter().copied().filter(|domain| !has_port(domain)).collect();
    let redundant = |domain: &&str| {
        [".svc.cluster.local", ".svc"]
            .iter()
            .any(|suffix| domain.strip_suffix(suffix).is_some_and(|shorter| without_port.contains(&shorter)))
    };
    let shown: Vec<&str> = without_port.iter().copied().filter(|domain| !redundant(domain)).collect();
    if shown.len() > DOMAINS_SHOWN {
        return format!("{} + {} more...", shown[..DOMAINS_SHOWN].join(", "), shown.len() - DOMAINS_SHOWN);
    }
    shown.join(", ")
}

fn has_port(domain: &str) -> bool {
    match domain.strip_prefix('[') {
        Some(v6) => v6.contains("]:"),
        None => domain.contains(':'),
    }
}

/// A route's path condition; headers and the like are not shown, as in istioctl.
pub(super) fn describe_match(condition: &Value) -> String {
    let mut parts = Vec::new();
    let mut add = |value: &Value, shape: fn(&str) -> String| {
        if let Some(text) = value.as_str().filter(|text| !text.is_empty()) {
            parts.push(shape(text));
        }
    };
    add(&condition["prefix"], |path| format!("{path}*"));
    add(&condition["path_separated_prefix"], |path| format!("PathPrefix:{path}"));
    add(&condition["path"], str::to_owned);
    add(&condition["safe_regex"]["regex"], |regex| format!("regex {regex}"));
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains() {
        for (domains, expect) in [
            (&[][..], ""),
            (&["example.com"], "example.com"),
            (&["example.com", "example.com:8080"], "example.com"),
            (
                &["example.com", "example.com:8080", "[fd00:10:96::7fc7]", "[fd00:10:96::7fc7]:8080"],
                "example.com, [fd00:10:96::7fc7]",
            ),
            (&["a.b.svc.cluster.local", "a.b.svc", "a.b", "a"], "a.b, a"),
            (&["a", "b", "c", "d"], "a, b + 2 more..."),
        ] {
            assert_eq!(describe_domains(domains), expect);
        }
    }
}
