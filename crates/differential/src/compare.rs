//! Are two results the same? What differs by nature (times, generated ids) is masked first.

use crate::client::Answer;
use crate::scene::Protocol;
use serde_json::Value;
use std::collections::BTreeMap;

/// A result in a form that compares and prints: one line per fact.
pub type Facts = Vec<String>;

/// Response headers whose value is a time or a generated id.
const MASKED: &[&str] = &["date", "x-envoy-upstream-service-time"];

/// The facts of an answer: status, headers, what the upstream saw, else the body.
pub fn answer(answer: &Answer) -> Facts {
    let (response, trailers, hints) = match answer {
        Answer::Response { response, trailers, hints } => (response, trailers, hints),
        // Whether a close is clean depends on who was faster.
        Answer::Bytes(bytes) if bytes.is_empty() => return vec!["closed".into()],
        Answer::Bytes(bytes) => return vec![format!("bytes {:?}", String::from_utf8_lossy(bytes))],
        Answer::None(why) => return vec![why.clone()],
    };
    let mut facts: Facts = response.headers.iter().map(|(n, v)| format!("< {n}: {}", masked(n, v))).collect();
    facts.sort();
    facts.insert(0, format!("status {}", response.status));
    facts.extend(hints.iter().map(|h| format!("hint {h}")));
    facts.extend(trailers.iter().map(|(n, v)| format!("< trailer {n}: {}", masked(n, v))));
    match serde_json::from_slice::<Value>(&response.body) {
        Ok(seen) if seen["line"].is_string() => facts.extend(upstream(&seen)),
        _ => facts.push(format!("body {:?}", response.text())),
    }
    facts
}

fn upstream(seen: &Value) -> Facts {
    // What is left of the timeout: another try has spent some.
    let spent = |n: &str| {
        seen["attempt"] != 1
            && ["x-envoy-expected-rq-timeout-ms", "grpc-timeout"].iter().any(|t| n.eq_ignore_ascii_case(t))
    };
    let lines = |field: &str, mark: &str| -> Facts {
        let all = seen[field].as_array().into_iter().flatten();
        let split = all.filter_map(|h| h.as_str()?.split_once(": "));
        split.map(|(n, v)| format!("> {mark}{n}: {}", if spent(n) { "~" } else { masked(n, v) })).collect()
    };
    let mut headers = lines("headers", "");
    headers.sort();
    headers.extend(lines("trailers", "trailer "));
    headers.insert(
        0,
        format!("> {} host {} attempt {} body {}", seen["line"], seen["host"], seen["attempt"], seen["body"]),
    );
    headers
}

fn masked<'a>(name: &str, value: &'a str) -> &'a str {
    let name = name.to_ascii_lowercase();
    let uuid = value.len() == 36 && value.bytes().filter(|b| *b == b'-').count() == 4;
    if MASKED.contains(&name.as_str()) && value != "today" || (name == "x-request-id" && uuid) {
        return "*";
    }
    // The echoed request is as long as its masked values.
    if name == "content-length" && value.len() >= 3 { "*" } else { value }
}

/// The counters that moved: name and value, of the parts of the statistics that requests drive.
pub fn counters(stats: &str, prefix: &str) -> Facts {
    let driven = ["http.", "cluster.", "vhost.", "tcp.", "listener."];
    let mut all: Facts = stats
        .lines()
        .filter(|line| {
            let name = driven.iter().find_map(|p| line.strip_prefix(p));
            name.is_some_and(|n| n.starts_with(prefix)) && line.split_once(": ").is_some_and(|(n, v)| counted(n, v))
        })
        .map(str::to_owned)
        .collect();
    all.sort();
    all
}

/// Bytes differ with times in headers and with compressed heads, what ends of connections count with who sees the other's
/// close first.
const UNCOUNTED: &[&str] = &[
    "_bytes_",
    "upstream_cx_destroy",
    "_cx_close_notify",
    "_time",
    "_ms",
    "ssl.",
    "_active",
    "assignment_",
    "worker_",
];

/// Counters that we do not keep; `docs/differences.md` lists them.
const UNKEPT: &[&str] = &[".total_match_count", ".ring_hash_lb.", ".maglev_lb.", ".http2.", "flow_control"];

fn counted(name: &str, value: &str) -> bool {
    value != "0"
        && value.bytes().all(|b| b.is_ascii_digit())
        && !UNCOUNTED.iter().chain(UNKEPT).any(|p| name.contains(p))
}

/// TCP connections that end before we ask a host, and after Envoy did (docs/differences.md).
pub struct Early {
    /// Handshakes that failed.
    unshaken: usize,
    /// Handshakes come first: our connection managers and TCP proxies count what finished them.
    shakes: bool,
    /// A network filter refused some.
    refused: bool,
}

impl Early {
    /// Reads from the facts of the scene's cases and from our log.
    pub fn of(protocol: Protocol, cases: &[Facts], log: &Facts) -> Self {
        // The client takes its handshake for done when the proxy may still miss a certificate.
        let served = |facts: &&Facts| facts.iter().any(|f| f.starts_with("bytes "));
        let unshaken = if protocol == Protocol::TlsTcp { cases.len() - cases.iter().filter(served).count() } else { 0 };
        Early { unshaken, shakes: protocol.tls(), refused: !protocol.http() && log.iter().any(|l| l.contains(REFUSED)) }
    }

    /// The log without bytes and host of refused connections, and without as many lines of connections that carried
    /// nothing as handshakes failed.
    pub fn log(&self, lines: &Facts) -> Facts {
        let mut unshaken = self.unshaken;
        let mut keep = |line: &&String| {
            let idle = unshaken > 0 && line.split('|').skip(1).take(2).eq(["0", "0"]) && !line.contains(REFUSED);
            unshaken -= usize::from(idle);
            !idle
        };
        let plain = |line: &String| {
            let masked = self.refused && line.contains(REFUSED);
            let field = |(i, f)| if masked && matches!(i, 1 | 2 | 4) { "*" } else { f };
            line.split('|').enumerate().map(field).collect::<Vec<_>>().join("|")
        };
        lines.iter().filter(|l| keep(l)).map(plain).collect()
    }

    /// The counters without those that asking a host moves.
    pub fn counters(&self, lines: &Facts) -> Facts {
        let asked = |l: &&String| ASKED.iter().any(|name| l.contains(name));
        let any = self.refused || self.unshaken > 0;
        let begun = |l: &&String| !l.starts_with("listener.") && BEGUN.iter().any(|name| l.contains(name));
        lines.iter().filter(|l| !(any && asked(l) || self.shakes && begun(l))).cloned().collect()
    }
}

/// What the log says of a connection that a network filter refused.
const REFUSED: &str = "rbac_access_denied";
/// Counters that move when a TCP proxy asks a host.
const ASKED: &[&str] = &[
    ".upstream_rq_total:",
    ".upstream_rq_pending_total:",
    ".upstream_rq_cancelled:",
    ".upstream_cx_total:",
    ".upstream_cx_connect_fail:",
];

/// Counters that move when a network filter sees a connection.
const BEGUN: &[&str] = &[".downstream_cx_total:", ".downstream_cx_ssl_total:", ".downstream_cx_destroy"];

/// Retries of a request whose earlier tries had the only host ejected (docs/differences.md): Envoy's main thread ejects, and
/// a retry whose random wait is nothing may be there before it; ours meets the ejection always.
pub struct Raced {
    cases: Vec<String>,
    /// Retries in the scene, if a host was ejected.
    retries: u64,
}

impl Raced {
    /// Reads from the logs and from our counters.
    pub fn of(theirs: &Facts, ours: &Facts, counters: &Facts) -> Self {
        let ejected = counters.iter().any(|c| c.contains("-eject.outlier_detection.ejections_enforced_total:"));
        let field = |line: &str, n: usize| line.split('|').nth(n).unwrap_or_default().to_owned();
        let tries = |line: &String| match field(line, 9) == "eject" {
            true => field(line, 12).parse().unwrap_or(0u64),
            false => 0,
        };
        let refused = |line: &&String| tries(line) > 1 && field(line, 6) == "no_healthy_upstream";
        let raced = |line: &&String| {
            let same = |t: &&String| field(t, 0) == field(line, 0) && tries(t) == tries(line);
            theirs.iter().find(same).is_some_and(|t| !refused(&t))
        };
        let cases = ours.iter().filter(|l| ejected && refused(l) && raced(l)).map(|l| field(l, 0)).collect();
        let retries = ours.iter().map(|l| tries(l).saturating_sub(1)).sum::<u64>() * u64::from(ejected);
        Raced { cases, retries }
    }

    /// Whether what came of this case depends on who was faster.
    pub fn has(&self, case: u64) -> bool {
        self.cases.contains(&format!("case {case}"))
    }

    /// The log without those cases.
    pub fn log(&self, lines: Facts) -> Facts {
        lines.into_iter().filter(|l| !self.cases.iter().any(|c| l.split('|').next() == Some(c))).collect()
    }

    /// Both sides' counters without those that a retry too many or too few moves.
    pub fn counters(&self, (theirs, ours): (Facts, Facts)) -> (Facts, Facts) {
        let panic = |l: &&String| l.contains("-eject.lb_healthy_panic:");
        let value = |all: &Facts| -> u64 {
            all.iter().find(panic).and_then(|l| l.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
        };
        let near = self.retries > 0 && value(&theirs).abs_diff(value(&ours)) <= self.retries;
        let keep = |l: &String| {
            let request = !self.cases.is_empty() && l.contains("-eject.") && l.contains("upstream_rq_");
            !(request || near && panic(&l))
        };
        let kept = |all: Facts| all.into_iter().filter(keep).collect();
        (kept(theirs), kept(ours))
    }
}

/// Lines that stand on one side only.
pub fn difference(envoy: &[String], proa: &[String]) -> Facts {
    if envoy == proa {
        return Facts::new();
    }
    let mut balance: BTreeMap<&str, i64> = BTreeMap::new();
    envoy.iter().for_each(|line| *balance.entry(line).or_default() += 1);
    proa.iter().for_each(|line| *balance.entry(line).or_default() -= 1);
    let mut out = Facts::new();
    for (mark, lines, sign) in [("envoy", envoy, 1), (" proa", proa, -1)] {
        for line in lines {
            if let Some(n) = balance.get_mut(line.as_str())
                && *n * sign > 0
            {
                *n -= sign;
                out.push(format!("{mark} {line}"));
            }
        }
    }
    out
}
