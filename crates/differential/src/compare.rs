//! Are two results the same? What differs by nature (times, generated ids) is masked first.

use serde_json::Value;
use std::collections::BTreeMap;
use testkit::http::Reply;

/// A result in a form that compares and prints: one line per fact.
pub type Facts = Vec<String>;

/// Response headers whose value is a time or a generated id.
const MASKED: &[&str] = &["date", "x-envoy-upstream-service-time"];

/// The facts of a reply: status, headers, what the upstream saw, else the body.
pub fn reply(reply: &Reply) -> Facts {
    let Reply::Response(response) = reply else {
        return vec!["closed".into()];
    };
    let mut facts: Facts = response.headers.iter().map(|(n, v)| format!("< {n}: {}", masked(n, v))).collect();
    facts.sort();
    facts.insert(0, format!("status {}", response.status));
    match serde_json::from_slice::<Value>(&response.body) {
        Ok(seen) if seen["line"].is_string() => facts.extend(upstream(&seen)),
        _ => facts.push(format!("body {:?}", response.text())),
    }
    facts
}

fn upstream(seen: &Value) -> Facts {
    let mut headers: Facts = seen["headers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|h| h.as_str()?.split_once(": "))
        .map(|(n, v)| format!("> {n}: {}", masked(n, v)))
        .collect();
    headers.sort();
    headers.insert(
        0,
        format!("> {} host {} attempt {} body {}", seen["line"], seen["host"], seen["attempt"], seen["body"]),
    );
    headers
}

fn masked<'a>(name: &str, value: &'a str) -> &'a str {
    let name = name.to_ascii_lowercase();
    let uuid = value.len() == 36 && value.bytes().filter(|b| *b == b'-').count() == 4;
    if MASKED.contains(&name.as_str()) || (name == "x-request-id" && uuid) {
        return "*";
    }
    // What is left of the timeout: a retry has spent some.
    if name == "x-envoy-expected-rq-timeout-ms" && value.len() > 3 {
        return "~";
    }
    // Each proxy listens on a port of its own.
    if name == "x-forwarded-port" && value.len() == 5 {
        return "*";
    }
    // The echoed request is as long as its masked values.
    if name == "content-length" && value.len() >= 3 { "*" } else { value }
}

/// The counters that moved: name and value, of the parts of the statistics that requests drive.
pub fn counters(stats: &str) -> BTreeMap<String, String> {
    stats
        .lines()
        .filter_map(|l| l.split_once(": "))
        .filter(|(name, value)| counted(name) && value.bytes().all(|b| b.is_ascii_digit()) && *value != "0")
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// Bytes differ with generated ids, connection counts with the moment a peer's close is seen.
const UNCOUNTED: &[&str] =
    &["_bytes_", "upstream_cx_", "downstream_cx_", "_time", "_ms", "ssl.", "admin", "_active", "assignment_"];

fn counted(name: &str) -> bool {
    let driven = ["http.d.", "cluster.", "vhost."].iter().any(|p| name.starts_with(p));
    driven && !UNCOUNTED.iter().any(|p| name.contains(p))
}

/// Lines that stand on one side only.
pub fn difference(envoy: &[String], proa: &[String]) -> Facts {
    let only = |a: &[String], b: &[String], mark: &str| -> Facts {
        let mut rest: Vec<&String> = b.iter().collect();
        a.iter()
            .filter(|line| match rest.iter().position(|r| r == line) {
                Some(at) => {
                    rest.swap_remove(at);
                    false
                }
                None => true,
            })
            .map(|line| format!("{mark} {line}"))
            .collect()
    };
    let mut out = only(envoy, proa, "envoy");
    out.extend(only(proa, envoy, " proa"));
    out
}
