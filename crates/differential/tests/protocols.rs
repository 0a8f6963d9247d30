//! Do clients and servers that were written by others get through the proxy? h2spec, gRPC's interop cases, WebSocket.
//!
//! Each needs its programs named by variables (`cargo xtask test protocols` installs them and sets all): `PROA_PROXY`,
//! `PROA_H2SPEC`, `PROA_GRPC_INTEROP` (a folder with `client` and `server`), `PROA_WEBSOCKETS` (a Python that has the
//! library), and what `receivers` names. A case without its program says that it did not run.

use differential::batch::free_ports;
use differential::stand::{Options, Stand};
use differential::{backend, tls::Certificates};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

#[path = "protocols/receivers.rs"]
mod receivers;

/// Cases of h2spec that fail and stay so, each with its reason.
const H2SPEC_ALLOWED: &[(&str, &str)] = &[];

/// The programs of the named variables, or `None` after saying what is missing.
fn programs<const N: usize>(names: [&str; N]) -> Option<[PathBuf; N]> {
    let found = names.map(|n| std::env::var_os(n).map(PathBuf::from).unwrap_or_default());
    for (name, path) in names.iter().zip(&found) {
        if path.as_os_str().is_empty() {
            println!("not run, because {name} names no program");
            return None;
        }
    }
    Some(found)
}

/// Ends its process when dropped.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn h2spec() {
    let Some([proxy, h2spec]) = programs(["PROA_PROXY", "PROA_H2SPEC"]) else {
        return;
    };
    let certificates = Certificates::make().expect("certificates");
    let upstream = backend::start(1, &certificates).expect("a backend")[0];
    let stand = Stand::start(&proxy, "h2spec", upstream, Options { h2: true, ..Options::default() }).expect("a proxy");
    let report = std::env::temp_dir().join(format!("proa-h2spec-{}.xml", std::process::id()));
    let output = Command::new(h2spec)
        .args(["-S", "-h", "127.0.0.1", "-p", &stand.port.to_string(), "-o", "2", "-j"])
        .arg(&report)
        .output()
        .expect("h2spec runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let xml = std::fs::read_to_string(&report).unwrap_or_default();
    let _ = std::fs::remove_file(&report);
    let summary = text.lines().rev().find(|l| l.contains(" tests, ")).unwrap_or("no summary").to_owned();
    println!("h2spec: {summary}");
    let failed: Vec<&str> = failed_cases(&xml);
    let unexpected: Vec<&&str> = failed.iter().filter(|f| !H2SPEC_ALLOWED.iter().any(|(a, _)| *f == a)).collect();
    assert!(summary.contains("146 tests"), "{text}");
    assert!(unexpected.is_empty(), "{unexpected:#?}\n{text}");
}

/// Names of the cases that hold a failure, as `package/classname`.
fn failed_cases(xml: &str) -> Vec<&str> {
    let cases = xml.split("<testcase ").skip(1);
    let failed =
        cases.filter(|c| c.split("</testcase>").next().is_some_and(|c| c.contains("<failure") || c.contains("<error")));
    failed.filter_map(|c| c.split("classname=\"").nth(1)?.split('"').next()).collect()
}

/// Cases of gRPC's interop suite that need nothing but client and server.
const GRPC_CASES: &[&str] = &[
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
    "rpc_soak",
    "channel_soak",
];

#[test]
fn grpc_interop() {
    let Some([proxy, folder]) = programs(["PROA_PROXY", "PROA_GRPC_INTEROP"]) else {
        return;
    };
    let port = free_ports(1).expect("a port")[0];
    let server = Command::new(folder.join("server"))
        .args(["--port", &port.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the server starts");
    let _server = Ended(server);
    wait_for(port);
    let options = Options { h2: true, h2_upstream: true, ..Options::default() };
    let stand = Stand::start(&proxy, "grpc", port, options).expect("a proxy");
    let mut failed = Vec::new();
    for case in GRPC_CASES {
        let output = Command::new(folder.join("client"))
            .args(["--server_host", "127.0.0.1", "--server_port", &stand.port.to_string(), "--test_case", case])
            .args(["--soak_overall_timeout_seconds", "60", "--soak_per_iteration_max_acceptable_latency_ms", "20000"])
            .output()
            .expect("the client runs");
        if !output.status.success() {
            failed.push(format!("{case}: {}", String::from_utf8_lossy(&output.stderr)));
        }
    }
    println!("gRPC interop: {} cases, {} failed", GRPC_CASES.len(), failed.len());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert_eq!(stand.stat("cluster.c.upstream_rq_active"), 0, "no stream is left");
}

fn wait_for(port: u16) {
    let start = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() && start.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Connections that are open at the same time.
const WEBSOCKETS: usize = 1_000;

#[test]
fn websocket() {
    let Some([proxy, python]) = programs(["PROA_PROXY", "PROA_WEBSOCKETS"]) else {
        return;
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/websocket.py");
    let mut server =
        Command::new(&python).args([script, "server"]).stdout(Stdio::piped()).spawn().expect("the server starts");
    let mut port = String::new();
    BufReader::new(server.stdout.take().expect("piped")).read_line(&mut port).expect("the server says its port");
    let _server = Ended(server);
    let port: u16 = port.trim().parse().expect("a port");
    let stand = Stand::start(&proxy, "ws", port, Options { upgrades: true, ..Options::default() }).expect("a proxy");
    let output = Command::new(&python)
        .args([script, "client", &stand.port.to_string(), &WEBSOCKETS.to_string()])
        .output()
        .expect("the client runs");
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let start = Instant::now();
    while stand.stat("http.h.downstream_cx_upgrades_active") > 0 && start.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(stand.stat("http.h.downstream_cx_upgrades_active"), 0, "no tunnel is left");
}
