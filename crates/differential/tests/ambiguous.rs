//! Is our proxy ever laxer than Envoy on requests that implementations read differently?
//!
//! Needs `PROA_ENVOY` and `PROA_PROXY` (programs); without them it says so and passes, as `cargo xtask test` sets both.

use differential::ambiguous::TABLE;
use differential::{backend, proxy::Proxy, tls::Certificates};
use serde_json::{Value, json};
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What comes last on every connection.
const LAST: &str = "GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
/// How long a connection may say nothing before it counts as waiting for more.
const QUIET: Duration = Duration::from_millis(1500);
/// Options of the connection manager, each of which changes some verdicts.
const OPTIONS: &[&str] = &[
    "{}",
    r#"{"http_protocol_options": {"allow_chunked_length": true, "enable_trailers": true, "accept_http_10": true}}"#,
    r#"{"normalize_path": true, "merge_slashes": true, "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "http_protocol_options": {"allow_custom_methods": true}, "upgrade_configs": [{"upgrade_type": "websocket"}, {"upgrade_type": "CONNECT"}]}"#,
];

fn bootstrap(ports: &[u16], admin: u16, backend: u16) -> Value {
    let address = |port: u16| json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    let ty = "type.googleapis.com/envoy.extensions.filters";
    let listener = |(port, options): (&u16, &&str)| {
        let mut hcm = json!({"@type": format!("{ty}.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": "h", "route_config": {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [
                {"match": {"connect_matcher": {}}, "route": {"cluster": "c"}},
                {"match": {"prefix": "/"}, "route": {"cluster": "c"}}]}]},
            "http_filters": [{"name": "envoy.filters.http.router",
                "typed_config": {"@type": format!("{ty}.http.router.v3.Router")}}]});
        let more: Value = serde_json::from_str(options).expect("options are JSON");
        for (k, v) in more.as_object().into_iter().flatten() {
            hcm[k] = v.clone();
        }
        json!({"name": format!("l{port}"), "address": address(*port), "filter_chains": [{"filters": [
            {"name": "envoy.filters.network.http_connection_manager", "typed_config": hcm}]}]})
    };
    let listeners: Vec<Value> = ports.iter().zip(OPTIONS).map(listener).collect();
    json!({"admin": {"address": address(admin)}, "static_resources": {"listeners": listeners, "clusters": [
        {"name": "c", "type": "STATIC", "load_assignment": {"cluster_name": "c", "endpoints": [
            {"lb_endpoints": [{"endpoint": {"address": address(backend)}}]}]}}]}})
}

/// What a proxy made of the bytes: statuses of its answers, and the requests that reached the upstream.
#[derive(PartialEq, Debug, Default)]
struct Verdict {
    statuses: Vec<u16>,
    reached: Vec<String>,
    waits: bool,
}

async fn judge(port: u16, text: &str) -> Verdict {
    let mut verdict = Verdict::default();
    let bytes: Vec<u8> = text.replace('…', LAST).chars().map(|c| c as u8).collect();
    let Ok(mut stream) = tokio::net::TcpStream::connect(("127.0.0.1", port)).await else {
        return verdict;
    };
    let _ = stream.write_all(&bytes).await;
    let head = text.starts_with("HEAD");
    let (mut buffer, mut chunk, mut closed) = (Vec::new(), vec![0; 16384], false);
    loop {
        while let Some((response, used)) = testkit::http::parse(&buffer, head && verdict.statuses.is_empty(), closed) {
            buffer.drain(..used);
            // An interim answer says nothing about the verdict.
            if response.status != 100 {
                verdict.statuses.push(response.status);
            }
            if let Ok(seen) = serde_json::from_slice::<Value>(&response.body)
                && seen["line"].is_string()
            {
                let mut headers: Vec<String> =
                    seen["headers"].as_array().into_iter().flatten().map(|h| h.to_string()).collect();
                headers.retain(|h| !h.contains("x-request-id"));
                headers.sort();
                verdict.reached.push(format!("{} {headers:?} body {}", seen["line"], seen["body"]));
            }
        }
        if closed {
            return verdict;
        }
        match tokio::time::timeout(QUIET, stream.read(&mut chunk)).await {
            Ok(Ok(n)) if n > 0 => buffer.extend_from_slice(&chunk[..n]),
            Ok(_) => closed = true,
            Err(_) => {
                verdict.waits = true;
                return verdict;
            }
        }
    }
}

/// Why ours is laxer, if it is.
fn laxer(envoy: &Verdict, proa: &Verdict) -> Option<&'static str> {
    if proa.reached.len() > envoy.reached.len() {
        return Some("more requests reached the upstream");
    }
    if proa.reached.iter().zip(&envoy.reached).any(|(ours, theirs)| ours != theirs) {
        return Some("another request reached the upstream");
    }
    let accepted = |v: &Verdict| v.statuses.iter().filter(|s| **s < 400).count();
    (accepted(proa) > accepted(envoy)).then_some("more requests were answered")
}

#[test]
fn verdicts_are_never_laxer() {
    let (Some(envoy), Some(proa)) = (std::env::var_os("PROA_ENVOY"), std::env::var_os("PROA_PROXY")) else {
        println!("not run, because PROA_ENVOY and PROA_PROXY name no programs");
        return;
    };
    let certificates = Certificates::make().expect("certificates");
    let backend = backend::start(1, &certificates).expect("a backend")[0];
    let dir = std::env::temp_dir().join(format!("proa-ambiguous-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a folder");
    let start = |name: &str, command: Vec<String>| {
        let held: Vec<TcpListener> =
            (0..=OPTIONS.len()).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
        let mut ports: Vec<u16> = held.iter().map(|l| l.local_addr().expect("bound").port()).collect();
        drop(held);
        let admin = ports.pop().expect("one more than options");
        let proxy = Proxy::start(&command, name, &dir, admin, &bootstrap(&ports, admin, backend)).expect(name);
        (proxy, ports)
    };
    let envoy = start("envoy", vec![envoy.to_string_lossy().into_owned()]);
    let proa = start("proa", differential::batch::ours(Path::new(&proa)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (mut wrong, mut same, mut stricter) = (Vec::new(), 0, Vec::new());
    for (option, options) in OPTIONS.iter().enumerate() {
        let verdicts = |port: u16| async move {
            let tasks: Vec<_> = TABLE.iter().map(|(_, text)| tokio::spawn(judge(port, text))).collect();
            let mut out = Vec::new();
            for task in tasks {
                out.push(task.await.expect("no verdict panics"));
            }
            out
        };
        let theirs = runtime.block_on(verdicts(envoy.1[option]));
        let ours = runtime.block_on(verdicts(proa.1[option]));
        for (((name, _), theirs), ours) in TABLE.iter().zip(&theirs).zip(&ours) {
            match laxer(theirs, ours) {
                Some(why) => wrong.push(format!("{name} ({options}): {why}\n  envoy {theirs:?}\n  proa  {ours:?}")),
                None if theirs == ours => same += 1,
                None => stricter.push(format!("{name} ({options})\n  envoy {theirs:?}\n  proa  {ours:?}")),
            }
        }
    }
    let _ = std::fs::remove_dir_all(&dir);
    println!(
        "{} requests x {} configurations: {same} the same, {} stricter",
        TABLE.len(),
        OPTIONS.len(),
        stricter.len()
    );
    if std::env::var_os("PROA_SHOW_STRICTER").is_some() {
        println!("stricter:\n{}", stricter.join("\n"));
    }
    assert!(wrong.is_empty(), "{} laxer:\n{}", wrong.len(), wrong.join("\n"));
}
