//! Which statistics does the proxy keep, under which tags, and where are they sent? Istio's tag expressions and its
//! short default list, extended by annotations and `proxyStatsMatcher`.

use serde_json::{Map, Value, json};

use super::{socket_address, type_url};
use crate::config::ProxyConfig;
use crate::node::Node;

/// Tag name and regular expression (first group removed from the name, second one the value), as Istio's bootstrap.
const TAGS: &[(&str, &str)] = &[
    ("cluster_name", r"^cluster(\.(.+);)"),
    ("http_conn_manager_prefix", r"^http\.(((?:[_.[:digit:]\w]*|[_\[\]aAbBcCdDeEfF[:digit:]\w\:]*));\.)"),
    ("thread_name", r"^server(\.(.+))\.watchdog"),
    ("tcp_prefix", r"^tcp\.((.*?)\.)\w+?$"),
    ("response_code", r"_rq(_(\d{3}))$"),
    ("response_code_class", r"_rq(_(\dxx))$"),
    (
        "http_conn_manager_listener_prefix",
        r"^listener(?=\.).*?\.http\.(((?:[_.[:digit:]]*|[_\[\]aAbBcCdDeEfF[:digit:]]*))\.)",
    ),
    ("listener_address", r"^listener\.(((?:[_.[:digit:]]*|[_\[\]aAbBcCdDeEfF[:digit:]]*))\.)"),
    ("mongo_prefix", r"^mongo\.(.+?)\.(collection|cmd|cx_|op_|delays_|decoding_)(.*?)$"),
];
/// Tags after the user's own.
const TAGS_LAST: &[(&str, &str)] = &[
    ("cache", r"(cache\.(.+?)\.)"),
    ("component", r"(component\.(.+?)\.)"),
    ("tag", r"(tag\.(.+?);\.)"),
    ("wasm_filter", r"(wasm_filter\.(.+?)\.)"),
    ("authz_enforce_result", r"rbac(\.(allowed|denied))"),
    ("authz_dry_run_action", r"(\.istio_dry_run_(allow|deny)_)"),
    ("authz_dry_run_result", r"(\.shadow_(allowed|denied))"),
];
const PREFIXES: &[&str] = &["reporter=", "cluster_manager", "listener_manager", "server", "cluster.xds-grpc", "wasm"];
const SUFFIXES: &[&str] = &["rbac.allowed", "rbac.denied", "shadow_allowed", "shadow_denied"];
const REGEXES: &[&str] = &[r"vhost\..*\.route\..*"];
const PREFIXES_LAST: &[&str] = &["component", "istio"];

/// `stats_config`.
pub(super) fn config(node: &Node, config: &ProxyConfig) -> Value {
    let tag = |name: &str, regex: &str| json!({"tag_name": name, "regex": regex});
    let mut tags: Vec<_> = TAGS.iter().map(|(n, r)| tag(n, r)).collect();
    tags.extend(extra_tags(node, config).iter().map(|t| tag(t, &format!(r"({t}=\.=(.*?);\.;)"))));
    tags.extend(TAGS_LAST.iter().map(|(n, r)| tag(n, r)));
    let mut out = json!({
        "use_all_default_tags": false,
        "stats_tags": tags,
        "stats_matcher": {"inclusion_list": {"patterns": patterns(node, config)}},
    });
    let buckets = histogram_buckets(node);
    if !buckets.is_empty() {
        out["histogram_bucket_settings"] = buckets.into();
    }
    out
}

fn annotation<'a>(node: &'a Node, name: &str) -> Option<&'a str> {
    node.metadata.get("ANNOTATIONS")?.get(format!("sidecar.istio.io/{name}"))?.as_str()
}

fn list(config: &ProxyConfig, pointer: &str) -> Vec<String> {
    let values = config.get(pointer).and_then(Value::as_array);
    values.into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

fn extra_tags(node: &Node, config: &ProxyConfig) -> Vec<String> {
    let mut tags = list(config, "/extraStatTags");
    for tag in annotation(node, "extraStatTags").into_iter().flat_map(|t| t.split(',')).map(str::trim) {
        if !tag.is_empty() && !tags.iter().any(|t| t == tag) {
            tags.push(tag.to_owned());
        }
    }
    tags
}

fn patterns(node: &Node, config: &ProxyConfig) -> Vec<Value> {
    let ips = node.metadata.get("INSTANCE_IPS").and_then(Value::as_str).unwrap_or_default();
    // The annotation replaces the configuration's list.
    let wanted = |annotation_name: &str, pointer: &str| -> Vec<String> {
        let listed = match annotation(node, annotation_name) {
            Some(text) => text.split(',').map(str::to_owned).collect(),
            None => list(config, &format!("/proxyStatsMatcher/{pointer}")),
        };
        let expand = |s: String| -> Vec<String> {
            if s.contains("{pod_ip}") { ips.split(',').map(|ip| s.replace("{pod_ip}", ip)).collect() } else { vec![s] }
        };
        listed.into_iter().filter(|s| !s.is_empty()).flat_map(expand).collect()
    };
    let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    let of = |kind: &'static str| move |s: String| json!({kind: s});
    let mut out: Vec<Value> = Vec::new();
    out.extend(
        wanted("statsInclusionPrefixes", "inclusionPrefixes").into_iter().chain(own(PREFIXES)).map(of("prefix")),
    );
    out.extend(
        wanted("statsInclusionSuffixes", "inclusionSuffixes").into_iter().chain(own(SUFFIXES)).map(of("suffix")),
    );
    let regexes = wanted("statsInclusionRegexps", "inclusionRegexps").into_iter().chain(own(REGEXES));
    out.extend(regexes.map(|r| json!({"safe_regex": {"regex": r}})));
    out.extend(own(PREFIXES_LAST).into_iter().map(of("prefix")));
    out
}

fn histogram_buckets(node: &Node) -> Vec<Value> {
    let text = annotation(node, "statsHistogramBuckets");
    let Some(Value::Object(map)) = text.and_then(|t| serde_json::from_str::<Value>(t).ok()) else {
        return Vec::new();
    };
    let mut sorted: Vec<_> = map.into_iter().collect::<Map<_, _>>().into_iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    sorted.into_iter().map(|(prefix, buckets)| json!({"match": {"prefix": prefix}, "buckets": buckets})).collect()
}

/// `stats_sinks`.
pub(super) fn sinks(config: &ProxyConfig) -> Vec<Value> {
    let mut out = Vec::new();
    if socket_address(config.text("/envoyMetricsService/address")).is_some() {
        out.push(json!({
            "name": "envoy.stat_sinks.metrics_service",
            "typed_config": {
                "@type": type_url("envoy.config.metrics.v3.MetricsServiceConfig"),
                "transport_api_version": "V3",
                "grpc_service": {"envoy_grpc": {"cluster_name": "envoy_metrics_service"}},
            },
        }));
    }
    if let Some(address) = socket_address(config.text("/statsdUdpAddress")) {
        out.push(json!({
            "name": "envoy.stat_sinks.statsd",
            "typed_config": {"@type": type_url("envoy.config.metrics.v3.StatsdSink"), "address": address},
        }));
    }
    out
}
