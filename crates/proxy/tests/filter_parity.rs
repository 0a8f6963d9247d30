//! Do filters that answer or choose by themselves do so as stock Envoy's? The same bootstrap and requests to both; status, body,
//! headers and the log's facts are compared. Needs `PROA_ENVOY`; without it our answers are only printed.

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::*;

/// Headers that are compared where either side has them.
const HEADERS: &[&str] = &[
    "x-envoy-upstream-healthchecked-cluster",
    "x-envoy-immediate-health-check-fail",
    "x-envoy-degraded",
    "connection",
    "x-a",
    "x-b",
];

/// A request, and what is posted to the admin interface before it.
type Step = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

fn filter(message: &str, mut config: Value) -> Value {
    config["@type"] = format!("{TYPE}{message}").into();
    json!({"name": message, "typed_config": config})
}

fn log(path: &Path) -> Value {
    json!({"name": "envoy.access_loggers.file", "typed_config": {
        "@type": format!("{TYPE}envoy.extensions.access_loggers.file.v3.FileAccessLog"), "path": path,
        "log_format": {"text_format_source": {"inline_string": "%RESPONSE_CODE% %RESPONSE_CODE_DETAILS% %RESPONSE_FLAGS%\n"}}}})
}

/// Everything that a proxy said: one line per request, then its log, then the named stats.
fn say(running: &Running, port: u16, steps: &[Step], log: &Path, stats: &[&str]) -> Vec<String> {
    let mut said = Vec::new();
    for (admin, path, headers) in steps {
        if !admin.is_empty() {
            http(running.admin, "POST", admin, &[]).expect("the admin interface answers");
        }
        let answer = http(port, "GET", path, headers).unwrap_or_else(|e| panic!("{path}: {e}"));
        let heads: Vec<_> = HEADERS.iter().filter_map(|n| Some(format!("{n}={}", answer.header(n)?))).collect();
        said.push(format!("{path} {headers:?}: {} {heads:?} {:?}", answer.status, answer.text()));
    }
    let begun = Instant::now();
    let lines = loop {
        // A log that is flushed later is waited for, not taken as empty.
        let text = std::fs::read_to_string(log).unwrap_or_default();
        if text.lines().count() >= steps.len() || begun.elapsed() > Duration::from_secs(12) {
            break text;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    said.extend(lines.lines().map(str::to_owned));
    let page = running.get("/stats").text();
    said.extend(page.lines().filter(|l| stats.iter().any(|s| l.contains(s))).map(str::to_owned));
    said
}

fn compare(
    what: &str,
    filters: &[Value],
    routes: Value,
    more: Vec<Value>,
    steps: &[Step],
    stats: &[&str],
) -> Vec<String> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (app, _seen) = backend("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\napp");
    let port = free_port();
    let run = |name: &str| {
        let file = dir.path().join(name);
        let manager = hcm(routes.clone(), filters, json!({"access_log": [log(&file)]}));
        let mut clusters = vec![cluster("app", app)];
        clusters.extend(more.iter().cloned());
        let mut bootstrap = bootstrap(vec![listener(port, &[manager], json!({}))], clusters);
        bootstrap["node"] = json!({"id": "node-1", "cluster": "front"});
        (bootstrap, file)
    };
    let (config, file) = run("ours");
    let ours = say(&Running::ours(&config, &[]), port, steps, &file, stats);
    let Some(envoy) = envoy() else {
        println!("{what}: not compared, PROA_ENVOY does not name an Envoy binary: {ours:#?}");
        return ours;
    };
    let (config, file) = run("envoy");
    let theirs = say(&Running::envoy(&envoy, &config), port, steps, &file, stats);
    assert_eq!(ours, theirs, "{what}: left ours, right Envoy's");
    ours
}

fn healthz(config: Value) -> Value {
    let mut config = config;
    config["headers"] = json!([{"name": ":path", "string_match": {"exact": "/healthz"}}]);
    filter("envoy.extensions.filters.http.health_check.v3.HealthCheck", config)
}

const HEALTHZ: Step = ("", "/healthz", &[]);
const COUNTS: &[&str] =
    &["http.ingress.downstream_rq_2xx", "http.ingress.downstream_rq_5xx", "http.ingress.downstream_rq_completed"];

#[test]
fn health_checks_are_answered_here() {
    let own = healthz(json!({"pass_through_mode": false}));
    let steps: &[Step] = &[
        ("", "/healthz", &[]),
        ("", "/", &[]),
        ("/healthcheck/fail", "/healthz", &[]),
        ("", "/", &[]),
        ("/healthcheck/ok", "/healthz", &[]),
        ("", "/", &[]),
    ];
    let said = compare("health_check", &[own], all_to("app"), vec![], steps, COUNTS);
    assert!(said.iter().any(|l| l.contains("health_check_failed") && l.contains("LH")), "{said:?}");
}

#[test]
fn health_checks_go_through_and_are_kept() {
    let pass = healthz(json!({"pass_through_mode": true}));
    let steps: &[Step] = &[("", "/healthz", &[]), ("", "/", &[]), ("/healthcheck/fail", "/healthz", &[])];
    compare("pass through", &[pass], all_to("app"), vec![], steps, COUNTS);
    let kept = healthz(json!({"pass_through_mode": true, "cache_time": "100s"}));
    let said = compare("cached", &[kept], all_to("app"), vec![], &[HEALTHZ; 3], COUNTS);
    assert!(said.iter().any(|l| l.contains("health_check_cached")), "{said:?}");
}

#[test]
fn health_of_clusters_decides() {
    let least = |cluster: &str, percent: f64| {
        healthz(json!({"pass_through_mode": false, "cluster_min_healthy_percentages": {cluster: {"value": percent}}}))
    };
    let empty = json!({"name": "empty", "type": "STATIC", "connect_timeout": "1s"});
    for (cluster, percent, want) in [
        ("app", 100.0, "health_check_ok_cluster_healthy"),
        ("nobody", 1.0, "health_check_failed_no_cluster_found"),
        ("empty", 50.0, "health_check_failed_cluster_empty"),
        ("empty", 0.0, "health_check_ok_cluster_healthy"),
    ] {
        let steps: &[Step] = &[("", "/healthz", &[])];
        let said = compare(cluster, &[least(cluster, percent)], all_to("app"), vec![empty.clone()], steps, &[]);
        assert!(said.iter().any(|l| l.contains(want)), "{want}: {said:?}");
    }
}

fn typed(message: &str, mut config: Value) -> Value {
    config["@type"] = format!("{TYPE}{message}").into();
    json!({"name": "n", "typed_config": config})
}

fn header(name: &str) -> Value {
    typed("envoy.type.matcher.v3.HttpRequestHeaderMatchInput", json!({"header_name": name}))
}

fn answers(name: &str, value: &str) -> Value {
    typed(
        "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
        json!({"mutations": {"response_mutations": [{"append": {"header": {"key": name, "value": value}}}]}}),
    )
}

fn skip() -> Value {
    json!({"action": typed("envoy.extensions.filters.common.matcher.action.v3.SkipFilter", json!({}))})
}

fn execute(filter: Value) -> Value {
    let action = json!({"typed_config": filter});
    json!({"action": typed("envoy.extensions.filters.http.composite.v3.ExecuteFilterAction", action)})
}

fn with_matcher(matcher: Value, inner: Value) -> Value {
    let config = json!({"xds_matcher": matcher, "extension_config": inner});
    filter("envoy.extensions.common.matching.v3.ExtensionWithMatcher", config)
}

#[test]
fn matchers_skip_filters() {
    let is =
        |name: &str, value: &str| json!({"single_predicate": {"input": header(name), "value_match": {"exact": value}}});
    let matcher = json!({"matcher_list": {"matchers": [
        {"predicate": {"and_matcher": {"predicate": [is("x-skip", "1"), {"not_matcher": is("x-but", "1")}]}}, "on_match": skip()},
        {"predicate": {"or_matcher": {"predicate": [is("x-one", "a"), is("x-one", "a,b")]}}, "on_match": skip()},
    ]}});
    let steps: &[Step] = &[
        ("", "/", &[]),
        ("", "/", &[("x-skip", "1")]),
        ("", "/", &[("x-skip", "1"), ("x-but", "1")]),
        ("", "/", &[("x-one", "a"), ("x-one", "b")]),
        ("", "/", &[("x-one", "b")]),
    ];
    let said = compare("skip", &[with_matcher(matcher, answers("x-a", "ran"))], all_to("app"), vec![], steps, &[]);
    let ran: Vec<bool> = said.iter().take(5).map(|l| l.contains("x-a=ran")).collect();
    assert_eq!(ran, [true, false, true, false, true], "{said:?}");
}

#[test]
fn composite_runs_what_the_request_chooses() {
    let deny = typed(
        "envoy.extensions.filters.http.rbac.v3.RBAC",
        json!({"rules": {"action": "DENY", "policies": {"all": {"permissions": [{"any": true}], "principals": [{"any": true}]}}}}),
    );
    let composite = typed("envoy.extensions.filters.http.composite.v3.Composite", json!({}));
    let exact = json!({"matcher_tree": {"input": header("x-do"), "exact_match_map": {"map": {
        "a": execute(answers("x-a", "1")),
        "b": execute(answers("x-b", "1")),
        "no": execute(deny),
    }}}});
    let prefix = json!({"matcher_tree": {"input": header(":path"), "prefix_match_map": {"map": {
        "/": execute(answers("x-a", "short")),
        "/long": execute(answers("x-a", "long")),
    }}}});
    let steps: &[Step] = &[
        ("", "/", &[]),
        ("", "/", &[("x-do", "a")]),
        ("", "/", &[("x-do", "b")]),
        ("", "/long/x", &[("x-do", "no")]),
        ("", "/long/x", &[("x-do", "other")]),
    ];
    let filters = [with_matcher(exact, composite.clone()), with_matcher(prefix, composite)];
    let said = compare("composite", &filters, all_to("app"), vec![], steps, &[]);
    assert!(said[3].contains("403"), "{said:?}");
    assert!(said[4].contains("x-a=long"), "{said:?}");
}

#[test]
fn virtual_clusters_are_counted() {
    let (up, _seen) = backend("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n");
    let (good, _seen) = backend("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let port = free_port();
    let by_path = |path: &str| json!([{"name": ":path", "string_match": {"prefix": path}}]);
    let manager = || {
        let retry = json!({"retry_on": "5xx", "num_retries": 1});
        let routes = json!([
            {"match": {"prefix": "/bad"}, "route": {"cluster": "bad", "retry_policy": retry}},
            {"match": {"prefix": "/none"}, "direct_response": {"status": 204}},
            {"match": {"prefix": "/"}, "route": {"cluster": "good"}}]);
        let host = json!({"name": "v:80", "domains": ["*"], "routes": routes, "virtual_clusters": [
            {"name": "bad", "headers": by_path("/bad")}, {"name": "a.b", "headers": by_path("/ab")}]});
        hcm(json!([]), &[], json!({"route_config": {"name": "r", "virtual_hosts": [host]}}))
    };
    let config = || {
        let clusters = vec![cluster("bad", up), cluster("good", good)];
        bootstrap(vec![listener(port, &[manager()], json!({}))], clusters)
    };
    let say = |running: &Running| {
        let mut said = Vec::new();
        for path in ["", "/bad", "/bad", "/ab", "/else", "/none"] {
            if !path.is_empty() {
                http(port, "GET", path, &[]).expect("an answer");
            }
            let page = running.get("/stats?filter=vcluster").text();
            // Histograms show when they are flushed.
            said.extend(page.lines().filter(|l| !l.contains("rq_time")).map(str::to_owned));
        }
        said
    };
    let ours = say(&Running::ours(&config(), &[]));
    assert!(ours.iter().any(|l| l == "vhost.v:80.vcluster.bad.upstream_rq_retry: 2"), "{ours:#?}");
    let Some(envoy) = envoy() else { return };
    assert_eq!(ours, say(&Running::envoy(&envoy, &config())), "left ours, right Envoy's");
}
