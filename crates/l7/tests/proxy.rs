//! Does the data path answer as Envoy does? Exact bytes in, exact bytes out, over in-memory streams
//! downstream and loopback sockets upstream.

use std::sync::Arc;
use std::time::Duration;

use proxy_config::listener::NetworkFilterKind;
use tls::{Pipe, Socket, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::LocalSet;

const HCM: &str = r#"{
  "static_resources": {
    "listeners": [{"name": "l", "address": {"socket_address": {"address": "127.0.0.1", "port_value": 1}},
      "filter_chains": [{"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "t", "generate_request_id": false,
        "route_config": {"name": "r", "validate_clusters": false, "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": ROUTES}]},
        "http_filters": [FILTERS {"name": "envoy.filters.http.router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]
      }}]}]}],
    "clusters": [{"name": "up", "connect_timeout": "1s", "load_assignment": {"cluster_name": "up", "endpoints": [{"lb_endpoints": [
      {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": PORT}}}}]}]}}]
  }}"#;

/// One scenario: routes and filters, what the client sends, what the upstream answers to each request.
struct Case {
    routes: &'static str,
    filters: &'static str,
    answers: &'static [&'static str],
    input: &'static str,
}

/// Runs a case; returns (what the client got, what the upstream saw), dates blanked.
fn run(case: Case) -> (String, String) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let upstream = tokio::task::spawn_local(async move {
            let mut seen = String::new();
            let mut answers = case.answers.iter();
            let mut next = answers.next();
            while let Some(first) = next {
                let (mut s, _) = listener.accept().await.unwrap();
                let mut answer = Some(first);
                while let Some(a) = answer {
                    let mut buf = vec![0; 65536];
                    let mut got = String::new();
                    loop {
                        let n = s.read(&mut buf).await.unwrap_or(0);
                        got.push_str(&String::from_utf8_lossy(&buf[..n]));
                        let complete = got.split_once("\r\n\r\n").is_some_and(|(head, body)| {
                            if head.contains("transfer-encoding") {
                                body.ends_with("0\r\n\r\n")
                            } else {
                                let len = head.lines().find_map(|l| l.strip_prefix("content-length: "));
                                body.len() >= len.map_or(0, |n| n.parse().unwrap())
                            }
                        });
                        if n == 0 || complete {
                            break;
                        }
                    }
                    if got.is_empty() {
                        break;
                    }
                    seen.push_str(&got);
                    s.write_all(a.as_bytes()).await.unwrap();
                    next = answers.next();
                    answer = next;
                    if a.is_empty() || a.contains("connection: close") {
                        break;
                    }
                }
            }
            seen
        });
        let text =
            HCM.replace("ROUTES", case.routes).replace("FILTERS", case.filters).replace("PORT", &port.to_string());
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let proto: protos::envoy::config::bootstrap::v3::Bootstrap = protos::json::decode_json(&json).unwrap();
        let bootstrap = proxy_config::parse::bootstrap(&proto).unwrap();
        let store = telemetry::stats::Store::new(Default::default());
        let (exports, _new) = l7::export::Exports::new(&store);
        let sinks = telemetry::access_log::Sinks::new(Duration::from_secs(1), store.block("filesystem."));
        let registry = upstream::Registry::new(store.clone(), Arc::default());
        registry.set(bootstrap.clusters[0].clone());
        let NetworkFilterKind::Hcm(hcm) = &bootstrap.listeners[0].chains.chains[0].filters[0].kind else { panic!() };
        let deps = l7::Deps {
            store: &store,
            sinks: &sinks,
            exports: &exports,
            routes: &|_| Arc::default(),
            listener: "t",
            node: Arc::default(),
            direction: Default::default(),
            drain_modify_only: false,
        };
        let manager = l7::Manager::new(hcm.clone(), &deps).unwrap();
        let worker = l7::Worker::new(0, 1, registry);
        tokio::task::spawn_local(worker.clone().run());
        let (client, server) = Pipe::pair();
        let peer = "10.0.0.1:1000".parse().unwrap();
        let facts = l7::ConnFacts {
            id: 1,
            remote: peer,
            direct_remote: peer,
            local: "10.0.0.2:80".parse().unwrap(),
            direct_local: "10.0.0.2:80".parse().unwrap(),
            server_name: None,
            tls: None,
            filter_chain: None,
            listener: None,
            state: Vec::new(),
            shared: Vec::new(),
            restored: false,
            original_src: None,
        };
        let serving =
            tokio::task::spawn_local(l7::serve_connection(Stream::Plain(Socket::Pipe(server)), facts, manager, worker));
        let mut client = Stream::Plain(Socket::Pipe(client));
        client.write_all(case.input.as_bytes()).await.unwrap();
        let mut out = Vec::new();
        let mut buf = vec![0; 65536];
        loop {
            let n = client.read(&mut buf).await.unwrap_or(0);
            out.extend_from_slice(&buf[..n]);
            if n == 0 {
                break;
            }
        }
        drop(client);
        serving.await.unwrap();
        let mut seen = String::new();
        if !case.answers.is_empty() {
            seen = upstream.await.unwrap();
        }
        (blank(&String::from_utf8_lossy(&out)), seen)
    })
}

fn blank(text: &str) -> String {
    text.split_inclusive("\r\n")
        .filter(|l| !l.starts_with("date: ") && !l.starts_with("x-envoy-upstream-service-time: "))
        .collect()
}

const TO_UP: &str = r#"[{"match": {"prefix": "/"}, "route": {"cluster": "up", "timeout": "0s"}}]"#;

#[test]
fn get_is_forwarded_and_connection_closed_on_request() {
    let (got, seen) = run(Case {
        routes: TO_UP,
        filters: "",
        answers: &["HTTP/1.1 200 Fine\r\nServer: x\r\nX-A: 1\r\ncontent-length: 2\r\n\r\nok"],
        input: "GET /a?b HTTP/1.1\r\nHost: h\r\nX-B: 2\r\nConnection: close\r\n\r\n",
    });
    assert_eq!(seen, "GET /a?b HTTP/1.1\r\nhost: h\r\nx-b: 2\r\nx-forwarded-proto: http\r\n\r\n");
    assert_eq!(got, "HTTP/1.1 200 OK\r\nserver: envoy\r\nx-a: 1\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
}

#[test]
fn pipelined_requests_are_answered_in_order_over_one_upstream_connection() {
    let (got, seen) = run(Case {
        routes: TO_UP,
        filters: "",
        answers: &[
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n1",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;x=y\r\n2\r\n0\r\nT: t\r\n\r\n",
            "HTTP/1.1 204 No\r\n\r\n",
        ],
        input: "POST /1 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabcPOST /2 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2;e\r\nde\r\n0\r\n\r\nGET /3 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    });
    let expect = "POST /1 HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\nx-forwarded-proto: http\r\n\r\nabc\
        POST /2 HTTP/1.1\r\nhost: h\r\nx-forwarded-proto: http\r\ntransfer-encoding: chunked\r\n\r\n2\r\nde\r\n0\r\n\r\n\
        GET /3 HTTP/1.1\r\nhost: h\r\nx-forwarded-proto: http\r\n\r\n";
    assert_eq!(seen, expect);
    let expect = "HTTP/1.1 200 OK\r\ncontent-length: 1\r\nserver: envoy\r\n\r\n1\
        HTTP/1.1 200 OK\r\nserver: envoy\r\ntransfer-encoding: chunked\r\n\r\n1\r\n2\r\n0\r\n\r\n\
        HTTP/1.1 204 No Content\r\nserver: envoy\r\nconnection: close\r\n\r\n";
    assert_eq!(got, expect);
}

#[test]
fn retries_on_status_and_gives_the_last_answer() {
    let routes = r#"[{"match": {"prefix": "/"}, "route": {"cluster": "up", "timeout": "0s",
        "retry_policy": {"retry_on": "5xx", "num_retries": 2, "retry_back_off": {"base_interval": "0.001s"}}}}]"#;
    let (got, seen) = run(Case {
        routes,
        filters: "",
        answers: &[
            "HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n",
            "",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        ],
        input: "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody",
    });
    assert_eq!(seen.matches("\r\n\r\nbody").count(), 3);
    assert!(got.starts_with("HTTP/1.1 200 OK\r\n") && got.ends_with("ok"), "{got}");
}

#[test]
fn upstream_that_breaks_off_is_503_and_details_are_envoys() {
    let (got, _) = run(Case {
        routes: TO_UP,
        filters: "",
        answers: &[""],
        input: "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    });
    assert_eq!(
        got,
        "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 95\r\ncontent-type: text/plain\r\nserver: envoy\r\nconnection: close\r\n\r\nupstream connect error or disconnect/reset before headers. reset reason: connection termination"
    );
}

#[test]
fn answers_made_here() {
    let routes = r#"[{"match": {"path": "/d"}, "direct_response": {"status": 418, "body": {"inline_string": "tea"}}},
        {"match": {"prefix": "/r"}, "redirect": {"host_redirect": "x", "prefix_rewrite": "/s"}},
        {"match": {"prefix": "/n"}, "route": {"cluster": "none"}}]"#;
    let check = |input: &'static str, expect: &str| {
        let (got, _) = run(Case { routes, filters: "", answers: &[], input });
        assert_eq!(got, expect, "{input}");
    };
    check(
        "GET /d HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        "HTTP/1.1 418 Unknown\r\ncontent-length: 3\r\ncontent-type: text/plain\r\nserver: envoy\r\nconnection: close\r\n\r\ntea",
    );
    check(
        "GET /r/a?q HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        "HTTP/1.1 301 Moved Permanently\r\nlocation: http://x/s/a?q\r\nserver: envoy\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
    );
    check(
        "GET /n HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        "HTTP/1.1 503 Service Unavailable\r\nserver: envoy\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
    );
    check(
        "GET /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        "HTTP/1.1 404 Not Found\r\nserver: envoy\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
    );
    check(
        "GET / HTTP/1.0\r\n\r\n",
        "HTTP/1.1 426 Upgrade Required\r\ncontent-length: 16\r\ncontent-type: text/plain\r\nserver: envoy\r\nconnection: close\r\n\r\nUpgrade Required",
    );
}

#[test]
fn filters_answer_before_the_router() {
    let fault = r#"{"name": "envoy.filters.http.fault", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
        "abort": {"http_status": 418, "percentage": {"numerator": 100}}, "delay": {"fixed_delay": "0.01s", "percentage": {"numerator": 100}}}},"#;
    let (got, _) = run(Case {
        routes: TO_UP,
        filters: fault,
        answers: &[],
        input: "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    });
    assert!(got.ends_with("\r\n\r\nfault filter abort") && got.starts_with("HTTP/1.1 418"), "{got}");
    let rbac = r#"{"name": "envoy.filters.http.rbac", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
        "rules": {"action": "DENY", "policies": {"p": {"permissions": [{"header": {"name": ":method", "string_match": {"exact": "GET"}}}], "principals": [{"any": true}]}}}}},"#;
    let (got, _) = run(Case {
        routes: TO_UP,
        filters: rbac,
        answers: &[],
        input: "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    });
    assert!(got.starts_with("HTTP/1.1 403") && got.ends_with("\r\n\r\nRBAC: access denied"), "{got}");
}
