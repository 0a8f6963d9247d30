//! Do the admin pages show what stock Envoy's do? The same bootstraps to both, names and schemas compared.
//!
//! The scenarios are those of the performance bench. Needs `PROA_ENVOY`; says so and passes when it is absent.
//! What differs on purpose is listed here, each with its reason, and in `docs/differences.md`.

mod support;

use std::collections::BTreeSet;

use serde_json::{Value, json};
use support::*;

/// Stats that only Envoy has: (what the name contains or how it begins, why).
const ONLY_ENVOY: &[(&str, &str)] = &[
    ("dns.cares.", "names are resolved by the system's resolver, not by c-ares"),
    ("server.dropped_stat_flushes", "there is no flush that could be dropped"),
    ("server.hot_restart_generation", "hot restart has a protocol of its own"),
    (".http1.", "the upstream codec keeps no counts of its own"),
    ("upstream_rq_completed", "printed once a response was counted"),
    ("tcp.t.route_delayed_total", "routes of byte streams are never delayed"),
    ("tcp.t.downstream_cx_", "byte streams are not closed for overload or drain by their proxy"),
    (".client_ssl_socket_factory.", "secrets of upstream contexts are counted with their subscription"),
];

/// Stats that only we have.
const ONLY_OURS: &[(&str, &str)] = &[
    ("listener.admin.", "the admin listener has the table of every listener"),
    ("was_key_usage_invalid", "part of the table from the start"),
];

/// Parts of pages that only Envoy has, by path.
const PATHS_ONLY_ENVOY: &[(&str, &str)] = &[
    (".user_agent_build_version.", "the build has no revision"),
    (".node.extensions[]", "extensions are not announced"),
    (".computed_quantiles[].values[]", "whether an interval held values is a matter of the moment"),
];

/// Parts of pages that only we have.
const PATHS_ONLY_OURS: &[(&str, &str)] =
    &[(".computed_quantiles[].values[]", "whether an interval held values is a matter of the moment")];

struct Scenario {
    name: &'static str,
    bootstrap: Value,
    /// Ports that take an HTTP/1.1 request.
    ports: Vec<u16>,
}

fn scenarios(app: u16) -> Vec<Scenario> {
    let mut out = Vec::new();
    let mut add = |name, bootstrap, ports| out.push(Scenario { name, bootstrap, ports });
    let port = free_port();
    let plain = hcm(all_to("backend"), &[], json!({}));
    add("h1", bootstrap(vec![listener(port, &[plain], json!({}))], vec![cluster("backend", app)]), vec![port]);

    let port = free_port();
    let mut routes: Vec<Value> = (0..39)
        .map(|i| {
            json!({"match": {"prefix": format!("/service-{i}/"), "headers": [
                {"name": "end-user", "string_match": {"exact": format!("user{i}")}}]}, "route": {"cluster": "backend"}})
        })
        .collect();
    routes.push(json!({"match": {"prefix": "/"}, "decorator": {"operation": "httpbin:8000/*"}, "route": {"cluster": "backend",
        "timeout": "15s", "retry_policy": {"retry_on": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
        "num_retries": 2, "retriable_status_codes": [503]}}}));
    let filter = |name: &str, message: &str, mut config: Value| {
        config["@type"] = format!("{TYPE}envoy.extensions.filters.http.{message}").into();
        json!({"name": name, "typed_config": config})
    };
    let filters = [
        filter(
            "envoy.filters.http.rbac",
            "rbac.v3.RBAC",
            json!({"rules": {"action": "ALLOW", "policies": {"get": {
            "permissions": [{"header": {"name": ":method", "string_match": {"exact": "GET"}}}], "principals": [{"any": true}]}}}}),
        ),
        filter("envoy.filters.http.fault", "fault.v3.HTTPFault", json!({})),
        filter("envoy.filters.http.cors", "cors.v3.Cors", json!({})),
    ];
    let more = json!({"generate_request_id": true, "normalize_path": true, "access_log": [{"name": "envoy.access_loggers.file",
        "typed_config": {"@type": format!("{TYPE}envoy.extensions.access_loggers.file.v3.FileAccessLog"), "path": "/dev/null"}}]});
    let mut backend = cluster("backend", app);
    backend["circuit_breakers"] = json!({"thresholds": [{"max_connections": 4294967295u32, "max_pending_requests": 4294967295u32,
        "max_requests": 4294967295u32, "max_retries": 4294967295u32}]});
    let sidecar = hcm(Value::Array(routes), &filters, more);
    add("sidecar", bootstrap(vec![listener(port, &[sidecar], json!({}))], vec![backend]), vec![port]);

    let port = free_port();
    let h2 = hcm(all_to("backend"), &[], json!({"codec_type": "HTTP2"}));
    add("h2", bootstrap(vec![listener(port, &[h2], json!({}))], vec![h2_cluster("backend", app)]), vec![]);

    let port = free_port();
    let tcp = json!({"name": "envoy.filters.network.tcp_proxy", "typed_config": {
        "@type": format!("{TYPE}envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"), "stat_prefix": "t", "cluster": "backend"}});
    add("tcp", bootstrap(vec![listener(port, &[tcp], json!({}))], vec![cluster("backend", app)]), vec![port]);

    let port = free_port();
    let names: Vec<String> = (0..30).map(|i| format!("outbound|80||svc-{i}.ns.svc.cluster.local")).collect();
    let hosts: Vec<Value> = names
        .iter()
        .map(|n| json!({"name": n, "domains": [n.rsplit('|').next()], "routes": all_to(n)}))
        .chain([json!({"name": "b", "domains": ["*"], "routes": all_to("backend")})])
        .collect();
    let config = hcm(json!([]), &[], json!({"route_config": {"name": "r", "virtual_hosts": hosts}}));
    let clusters = std::iter::once(cluster("backend", app)).chain(names.iter().map(|n| cluster(n, app))).collect();
    add("config", bootstrap(vec![listener(port, &[config], json!({}))], clusters), vec![port]);

    if let Some(mtls) = mtls(app) {
        out.extend(mtls);
    }
    out
}

/// A client proxy and a server proxy with mutual TLS; certificates come from `openssl`.
fn mtls(app: u16) -> Option<[Scenario; 1]> {
    let dir = tempfile::tempdir().ok()?.keep();
    let at = |name: &str| dir.join(name).display().to_string();
    let run =
        |args: &[&str]| std::process::Command::new("openssl").args(args).output().is_ok_and(|o| o.status.success());
    let (key, cert, request, ext) = (at("key"), at("cert"), at("csr"), at("ext"));
    let (ca_key, ca) = (at("ca.key"), at("ca"));
    std::fs::write(dir.join("ext"), "subjectAltName=critical,URI:spiffe://cluster.local/ns/a/sa/b\n").ok()?;
    let ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let made =
        run(&[&["req", "-x509"][..], &ec[..], &["-keyout", &ca_key, "-out", &ca, "-days", "2", "-subj", "/O=t"]]
            .concat())
            && run(&[&["req"][..], &ec[..], &["-keyout", &key, "-out", &request, "-subj", "/"]].concat())
            && run(&[
                "x509",
                "-req",
                "-in",
                &request,
                "-CA",
                &ca,
                "-CAkey",
                &ca_key,
                "-CAcreateserial",
                "-days",
                "2",
                "-extfile",
                &ext,
                "-out",
                &cert,
            ]);
    if !made {
        eprintln!("mtls: not run, openssl cannot make certificates");
        return None;
    }
    let common = json!({"alpn_protocols": ["http/1.1"],
        "tls_certificates": [{"certificate_chain": {"filename": cert}, "private_key": {"filename": key}}],
        "validation_context": {"trusted_ca": {"filename": ca}}});
    let socket = |message: &str, mut config: Value| {
        config["@type"] = format!("{TYPE}envoy.extensions.transport_sockets.tls.v3.{message}").into();
        config["common_tls_context"] = common.clone();
        json!({"name": "envoy.transport_sockets.tls", "typed_config": config})
    };
    let (outside, inside) = (free_port(), free_port());
    let mut server = cluster("server", inside);
    server["transport_socket"] = socket("UpstreamTlsContext", json!({"sni": "outbound_.8000_._.httpbin"}));
    let down = socket("DownstreamTlsContext", json!({"require_client_certificate": true}));
    let chain = json!([{"filters": [hcm(all_to("app"), &[], json!({}))], "transport_socket": down}]);
    let listeners = vec![
        listener(outside, &[hcm(all_to("server"), &[], json!({"stat_prefix": "outside"}))], json!({})),
        listener(inside, &[], json!({"filter_chains": chain})),
    ];
    let bootstrap = bootstrap(listeners, vec![server, cluster("app", app)]);
    Some([Scenario { name: "mtls", bootstrap, ports: vec![outside] }])
}

/// Every place of a document, lists folded: `configs[].dynamic_listeners[].name`.
fn places(value: &Value, at: &str, out: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (key, inner) in fields {
                // A message of its own type has its own fields; keys that are data are folded.
                let key = if key.contains(['|', '/']) { "*" } else { key };
                places(inner, &format!("{at}.{key}"), out);
            }
        }
        Value::Array(items) => items.iter().for_each(|i| places(i, &format!("{at}[]"), out)),
        Value::Null => drop(out.insert(format!("{at}: null"))),
        Value::Bool(_) => drop(out.insert(format!("{at}: bool"))),
        Value::Number(_) => drop(out.insert(format!("{at}: number"))),
        Value::String(_) => drop(out.insert(format!("{at}: string"))),
    }
}

/// What the pages of a proxy consist of after some traffic.
struct Shape {
    stats: BTreeSet<String>,
    places: BTreeSet<String>,
}

fn shape(running: &Running, scenario: &Scenario) -> Shape {
    for port in &scenario.ports {
        for path in ["/", "/service-1/x", "/missing"] {
            let answer = http(*port, "GET", path, &[]).unwrap_or_else(|e| panic!("{}: {e}", scenario.name));
            assert_eq!(answer.status, 200, "{}", scenario.name);
        }
    }
    let stats = running.get("/stats").text();
    let stats = stats.lines().filter_map(|l| Some(l.split_once(": ")?.0.to_owned())).collect();
    let mut found = BTreeSet::new();
    for page in [
        "/config_dump?include_eds",
        "/clusters?format=json",
        "/listeners?format=json",
        "/server_info",
        "/stats?format=json",
    ] {
        places(&running.get(page).json(), page.split('?').next().unwrap_or(page), &mut found);
    }
    Shape { stats, places: found }
}

fn left<'a>(a: &'a BTreeSet<String>, b: &'a BTreeSet<String>, known: &[(&str, &str)]) -> Vec<&'a String> {
    a.difference(b).filter(|name| !known.iter().any(|(part, _)| name.contains(part))).collect()
}

#[test]
fn pages_are_built_like_envoys() {
    let Some(envoy) = envoy() else {
        return eprintln!("admin_parity: not run, PROA_ENVOY does not name an Envoy binary");
    };
    let (app, _seen) = backend("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    let mut report = String::new();
    for scenario in scenarios(app) {
        let theirs = shape(&Running::envoy(&envoy, &scenario.bootstrap), &scenario);
        let ours = shape(&Running::ours(&scenario.bootstrap, &[]), &scenario);
        let mut tell = |what: &str, names: Vec<&String>| {
            names.iter().for_each(|n| report.push_str(&format!("{}: {what}: {n}\n", scenario.name)));
        };
        tell("stat only in Envoy", left(&theirs.stats, &ours.stats, ONLY_ENVOY));
        tell("stat only here", left(&ours.stats, &theirs.stats, ONLY_OURS));
        tell("place only in Envoy", left(&theirs.places, &ours.places, PATHS_ONLY_ENVOY));
        tell("place only here", left(&ours.places, &theirs.places, PATHS_ONLY_OURS));
    }
    assert!(report.is_empty(), "{report}");
}
