//! Routing as configured in JSON, through the real parser.

use proptest::prelude::*;
use protos::envoy::config::route::v3::RouteConfiguration;

use super::*;
use crate::header_view::HeaderList;

fn table(json: &str) -> RouteTable {
    let value = serde_json::from_str(json).expect("JSON");
    let proto = protos::json::decode_json::<RouteConfiguration>(&value).expect("fits the schema");
    proxy_config::parse::route_table(&proto).expect("valid")
}

fn check(t: &RouteTable, headers: &[(&str, &str)], expect: &str) {
    let h = HeaderList::of(headers);
    let got = match select(t, &h, &RouteInput::default()) {
        Selection::Route(r) => r.route(t).name.to_string(),
        other => format!("{other:?}"),
    };
    assert_eq!(got, expect, "{headers:?}");
}

const TABLE: &str = r#"{"virtual_hosts": [
  {"name": "a", "domains": ["a.com", "a.com:80"], "routes": [
    {"name": "v3", "match": {"prefix": "/version", "headers": [{"name": "app-ver", "string_match": {"exact": "v3"}}]}, "route": {"cluster": "v3"}},
    {"name": "q", "match": {"path": "/q", "query_parameters": [{"name": "x", "string_match": {"prefix": "1"}}]}, "route": {"cluster": "q"}},
    {"name": "post", "match": {"prefix": "/", "headers": [{"name": ":method", "string_match": {"exact": "POST"}}]}, "route": {"cluster": "p"}},
    {"name": "sep", "match": {"path_separated_prefix": "/sep"}, "route": {"cluster": "s"}},
    {"name": "nocase", "match": {"path": "/NoCase", "case_sensitive": false}, "route": {"cluster": "n"}},
    {"name": "re", "match": {"safe_regex": {"regex": "/r/[0-9]+"}}, "route": {"cluster": "r"}},
    {"name": "grpc", "match": {"prefix": "/g", "grpc": {}}, "route": {"cluster": "g"}},
    {"name": "tmpl", "match": {"path_match_policy": {"name": "t", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig", "path_template": "/t/{id}/*/**"}}}, "route": {"cluster": "t"}},
    {"name": "connect", "match": {"connect_matcher": {}}, "route": {"cluster": "c"}}
  ]},
  {"name": "tls", "domains": ["tls.com"], "require_tls": "ALL", "routes": [{"name": "t", "match": {"prefix": "/"}, "route": {"cluster": "t"}}]},
  {"name": "w", "domains": ["*.w.com"], "routes": [{"name": "w", "match": {"prefix": "/"}, "route": {"cluster": "w"}}]}
]}"#;

#[test]
fn selection() {
    let t = table(TABLE);
    let a = |path: &'static str, more: &[(&'static str, &'static str)], expect: &str| {
        let mut h = vec![(":authority", "A.com"), (":path", path), (":method", "GET")];
        h.extend_from_slice(more);
        check(&t, &h, expect);
    };
    a("/version", &[("app-ver", "v3")], "v3");
    a("/version", &[], "NoRoute { vhost: 0 }");
    a("/q?x=12", &[], "q");
    a("/q?x=2", &[], "NoRoute { vhost: 0 }");
    a("/sep?x", &[], "sep");
    a("/sep/y", &[], "sep");
    a("/separate", &[], "NoRoute { vhost: 0 }");
    a("/nocASE", &[], "nocase");
    a("/r/12", &[], "re");
    a("/r/12/", &[], "NoRoute { vhost: 0 }");
    a("/g/x", &[("content-type", "application/grpc")], "grpc");
    a("/t/1/2/3/4", &[], "tmpl");
    check(&t, &[(":authority", "a.com"), (":path", "/zz"), (":method", "POST")], "post");
    check(&t, &[(":authority", "a.com"), (":method", "CONNECT")], "connect");
    check(&t, &[(":authority", "x.w.com"), (":path", "/")], "w");
    check(&t, &[(":authority", "w.com"), (":path", "/")], "NoVirtualHost");
    check(&t, &[(":authority", "tls.com"), (":path", "/")], "TlsRedirect { vhost: 1 }");
    check(&t, &[(":authority", "tls.com"), (":path", "/"), ("x-forwarded-proto", "https")], "t");
}

#[test]
fn ports() {
    assert_eq!(without_port(b"a:80"), b"a");
    assert_eq!(without_port(b"[::1]:80"), b"[::1]");
    assert_eq!(without_port(b"[::1]"), b"[::1]");
    assert_eq!(without_port(b":80"), b"");
    assert_eq!(without_port(b"a:b"), b"a:b");
    assert_eq!(without_port(b""), b"");
}

/// Not a timing assertion: prints the cost so that a person can look. Run with `--release -- --ignored --nocapture`.
#[test]
#[ignore = "prints a measurement"]
fn cost_of_forty_routes() {
    let routes: Vec<String> = (0..40)
        .map(|i| format!(r#"{{"name": "r{i}", "match": {{"prefix": "/api", "headers": [{{"name": "x-ver", "string_match": {{"exact": "v{i}"}}}}, {{"name": "x-b", "present_match": true}}]}}, "route": {{"cluster": "c"}}}}"#))
        .collect();
    let t = table(&format!(
        r#"{{"virtual_hosts": [{{"name": "v", "domains": ["a.com"], "routes": [{}]}}]}}"#,
        routes.join(",")
    ));
    let mut h = http1::HeaderBlock::new();
    for (n, v) in [
        (":method", "GET"),
        (":path", "/api/x?y"),
        (":authority", "a.com"),
        ("user-agent", "curl"),
        ("accept", "*/*"),
        ("x-a", "1"),
        ("x-b", "1"),
        ("x-ver", "v39"),
    ] {
        h.add(n.as_bytes(), v.as_bytes());
    }
    let start = std::time::Instant::now();
    let mut sum = 0u64;
    for _ in 0..1_000_000 {
        if let Selection::Route(r) = select(&t, std::hint::black_box(&h), &RouteInput::default()) {
            sum += u64::from(r.route);
        }
    }
    println!("{} ns per selection, {sum}", start.elapsed().as_nanos() / 1_000_000);
}

proptest! {
    /// A route that a path's beginning rules out does not match it.
    #[test]
    fn beginnings_rule_out_only_what_cannot_match(text in "[/a\\x00]{0,12}", path in "[/a\\x00]{0,12}", kind in 0..4) {
        let text = text.into_boxed_str();
        let m = match kind {
            0 => PathMatch::Prefix(text),
            1 => PathMatch::Exact(text),
            2 => PathMatch::Separated(text),
            _ => PathMatch::PrefixNoCase(text),
        };
        let may = Beginning::of(&m).may_match(Beginning::word(path.as_bytes()));
        prop_assert!(may || !path_matches(&m, path.as_bytes(), false));
        // What shares the first eight bytes is looked at; what does not is not.
        if kind < 3 && !path.contains('\0') && path.len() >= 8 && m_text(&m).len() >= 8 && !m_text(&m).contains('\0') {
            prop_assert_eq!(may, path[..8] == m_text(&m)[..8]);
        }
    }

    #[test]
    fn weights_are_walked_exactly(weights in prop::collection::vec(0u32..50, 1..6), value in any::<u64>()) {
        let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
        prop_assume!(total > 0);
        let entry = |(i, w): (usize, &u32)| WeightedCluster {
            cluster: ClusterSpecifier::Cluster(i.to_string().into()),
            weight: *w,
            metadata_match: None,
            request_headers: Box::default(),
            response_headers: Box::default(),
            per_filter: Default::default(),
            host_rewrite: None,
        };
        let w = WeightedClusters {
            clusters: weights.iter().enumerate().map(entry).collect(),
            total_weight: total,
            random_value_header: None,
            use_hash_policy: false,
        };
        prop_assert!(pick_weighted(&w, value).weight > 0);
    }

    #[test]
    fn any_bytes_are_routed_without_panic(authority in prop::collection::vec(any::<u8>(), 0..40), path in prop::collection::vec(any::<u8>(), 0..40)) {
        let t = table(TABLE);
        let h = HeaderList(vec![(b":authority".to_vec(), authority), (b":path".to_vec(), path), (b":method".to_vec(), b"GET".to_vec())]);
        let _ = select(&t, &h, &RouteInput::default());
    }
}

fn m_text(m: &PathMatch) -> &str {
    match m {
        PathMatch::Prefix(p) | PathMatch::Exact(p) | PathMatch::Separated(p) => p,
        _ => "",
    }
}
