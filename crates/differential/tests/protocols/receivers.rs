//! Do those who collect what a proxy tells read it? Prometheus scrapes it, statsd hears it over UDP and TCP, Zipkin keeps its spans.
//!
//! The programs are named by `PROA_PROMETHEUS`, `PROA_STATSD` (the folder of the npm package) and `PROA_ZIPKIN` (its
//! executable jar); each case says so when its program is not there.

use super::{Ended, programs, wait_for};
use differential::batch::{free_ports, ours};
use differential::proxy::Proxy;
use differential::{backend, tls::Certificates};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Requests sent before anybody is asked.
const REQUESTS: u64 = 7;
/// Longest wait for a figure to arrive.
const ARRIVES_MAX: Duration = Duration::from_secs(20);

/// A proxy that tells, and the folder of its files.
struct Told {
    proxy: Proxy,
    port: u16,
    admin: u16,
    dir: PathBuf,
}

impl Drop for Told {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn address(port: u16) -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": port}})
}

fn cluster(name: &str, port: u16) -> Value {
    json!({"name": name, "type": "STATIC", "load_assignment": {"cluster_name": name,
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(port)}}]}]}})
}

fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("proa-receivers-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a folder");
    dir
}

impl Told {
    /// A proxy whose bootstrap and connection manager are extended, with a cluster `receiver` on that port.
    fn start(program: &Path, name: &str, receiver: u16, more: &Value, manager: &Value) -> Told {
        let certificates = Certificates::make().expect("certificates");
        let upstream = backend::start(1, &certificates).expect("a backend")[0];
        let ports = free_ports(2).expect("ports");
        let ty = "type.googleapis.com/envoy.extensions.filters";
        let mut hcm = json!({"@type": format!("{ty}.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": "h", "route_config": {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [
                {"match": {"prefix": "/"}, "route": {"cluster": "app"}, "decorator": {"operation": "app:80/*"}}]}]},
            "http_filters": [{"name": "r", "typed_config": {"@type": format!("{ty}.http.router.v3.Router")}}]});
        extend(&mut hcm, manager);
        let mut bootstrap = json!({"node": {"id": "n", "cluster": "shop"}, "admin": {"address": address(ports[1])},
            "static_resources": {"clusters": [cluster("app", upstream), cluster("receiver", receiver)],
                "listeners": [{"name": "l", "address": address(ports[0]), "filter_chains": [{"filters": [
                    {"name": "hcm", "typed_config": hcm}]}]}]}});
        extend(&mut bootstrap, more);
        let dir = scratch(name);
        let proxy = Proxy::start(&ours(program), name, &dir, ports[1], &bootstrap).expect("a proxy");
        let told = Told { proxy, port: ports[0], admin: ports[1], dir };
        for _ in 0..REQUESTS {
            get(told.port, "/", "").expect("an answer");
        }
        told
    }

    fn stat(&self, name: &str) -> u64 {
        let stats = self.proxy.admin("/stats").expect("stats");
        stats.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(": ")?.parse().ok()).expect("the stat")
    }
}

fn extend(into: &mut Value, more: &Value) {
    for (key, value) in more.as_object().into_iter().flatten() {
        into[key] = value.clone();
    }
}

/// The answer to a request on a connection of its own, head included.
fn get(port: u16, path: &str, headers: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(ARRIVES_MAX))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: a\r\n{headers}connection: close\r\n\r\n")?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Waits until `look` finds what it looks for.
fn eventually<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) if start.elapsed() > ARRIVES_MAX => panic!("{what} did not arrive: {seen}"),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn quietly(command: &mut Command) -> Ended {
    Ended(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts"))
}

/// All at once: each waits most of the time, for a program that starts or looks again.
#[test]
fn receivers_read_what_is_told() {
    std::thread::scope(|scope| {
        scope.spawn(prometheus_reads_the_stats);
        scope.spawn(statsd_hears_the_stats);
        scope.spawn(zipkin_keeps_the_spans);
    });
}

fn prometheus_reads_the_stats() {
    let Some([proxy, prometheus]) = programs(["PROA_PROXY", "PROA_PROMETHEUS"]) else {
        return;
    };
    let told = Told::start(&proxy, "prometheus", 9, &json!({}), &json!({}));
    let port = free_ports(1).expect("a port")[0];
    let config = told.dir.join("prometheus.yml");
    let scrape = json!({"global": {"scrape_interval": "500ms", "scrape_timeout": "400ms"}, "scrape_configs": [{"job_name": "proxy",
        "metrics_path": "/stats/prometheus", "static_configs": [{"targets": [format!("127.0.0.1:{}", told.admin)]}]}]});
    std::fs::write(&config, scrape.to_string()).expect("written");
    let _prometheus = quietly(
        Command::new(prometheus)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", told.dir.join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}")),
    );
    let query = |text: &str| -> Result<String, String> {
        let answer = get(port, &format!("/api/v1/query?query={text}"), "").map_err(|e| e.to_string())?;
        let body = answer.split_once("\r\n\r\n").map_or("", |a| a.1);
        let json: Value = serde_json::from_str(body).map_err(|_| answer.clone())?;
        json["data"]["result"][0]["value"][1].as_str().map(str::to_owned).ok_or(answer)
    };
    let expect = |text: &str, value: &str| {
        eventually(text, || query(text).and_then(|v| if v == value { Ok(()) } else { Err(v) }));
    };
    // Tags have become labels, and histograms their buckets; all of the page was understood.
    expect("up%7Bjob=%22proxy%22%7D", "1");
    let sent = REQUESTS.to_string();
    expect("envoy_cluster_upstream_rq_total%7Benvoy_cluster_name=%22app%22%7D", &sent);
    expect("envoy_http_downstream_rq_time_count%7Benvoy_http_conn_manager_prefix=%22h%22%7D", &sent);
    expect("envoy_http_downstream_rq_time_bucket%7Benvoy_http_conn_manager_prefix=%22h%22,le=%22%2BInf%22%7D", &sent);
    expect("envoy_cluster_membership_healthy%7Benvoy_cluster_name=%22app%22%7D", "1");
}

fn statsd_hears_the_stats() {
    let Some([proxy, statsd]) = programs(["PROA_PROXY", "PROA_STATSD"]) else {
        return;
    };
    for over in ["udp", "tcp"] {
        let ports = free_ports(2).expect("ports");
        let dir = scratch(&format!("statsd-{over}"));
        let config = dir.join("config.js");
        let said = json!({"servers": [{"server": format!("./servers/{over}"), "address": "127.0.0.1", "port": ports[0]}],
            "mgmt_address": "127.0.0.1", "mgmt_port": ports[1], "backends": ["./backends/console"], "flushInterval": 600_000});
        std::fs::write(&config, said.to_string()).expect("written");
        let _statsd = quietly(Command::new("node").arg("stats.js").arg(&config).current_dir(&statsd));
        wait_for(ports[1]);
        let sink = match over {
            "udp" => json!({"address": address(ports[0])}),
            _ => json!({"tcp_cluster_name": "receiver"}),
        };
        let mut sink = sink;
        sink["@type"] = "type.googleapis.com/envoy.config.metrics.v3.StatsdSink".into();
        let more = json!({"stats_flush_interval": "0.2s",
            "stats_sinks": [{"name": "envoy.stat_sinks.statsd", "typed_config": sink}]});
        let told = Told::start(&proxy, &format!("statsd-{over}-proxy"), ports[0], &more, &json!({}));
        let ask = |what: &str| -> Result<String, String> {
            let mut stream = TcpStream::connect(("127.0.0.1", ports[1])).map_err(|e| e.to_string())?;
            stream.set_read_timeout(Some(ARRIVES_MAX)).map_err(|e| e.to_string())?;
            writeln!(stream, "{what}").map_err(|e| e.to_string())?;
            let mut text = String::new();
            let mut buffer = [0; 16 << 10];
            while !text.contains("END") {
                match stream.read(&mut buffer).map_err(|e| e.to_string())? {
                    0 => break,
                    n => text.push_str(&String::from_utf8_lossy(&buffer[..n])),
                }
            }
            Ok(text)
        };
        let has = |what: &str, line: String| {
            eventually(&format!("{over}: {line}"), || {
                let text = ask(what)?;
                if text.contains(&line) { Ok(()) } else { Err(text) }
            });
        };
        // Counters are sent as what came since, and add up there.
        has("counters", format!("'envoy.cluster.app.upstream_rq_total': {REQUESTS}"));
        has("gauges", "'envoy.cluster.app.membership_total': 1".to_owned());
        has("timers", "'envoy.http.h.downstream_rq_time':".to_owned());
        get(told.port, "/", "").expect("an answer");
        has("counters", format!("'envoy.cluster.app.upstream_rq_total': {}", REQUESTS + 1));
        has("counters", "'statsd.bad_lines_seen': 0".to_owned());
        assert_eq!(told.stat("cluster.app.upstream_rq_total"), REQUESTS + 1);
        let _ = std::fs::remove_dir_all(dir);
    }
}

fn zipkin_keeps_the_spans() {
    let Some([proxy, jar]) = programs(["PROA_PROXY", "PROA_ZIPKIN"]) else {
        return;
    };
    let port = free_ports(1).expect("a port")[0];
    let _zipkin = quietly(
        Command::new("java")
            .args(["-XX:TieredStopAtLevel=1", "-Xmx192m", "-jar"])
            .arg(jar)
            .env("QUERY_PORT", port.to_string()),
    );
    eventually("Zipkin", || {
        let answer = get(port, "/health", "").map_err(|e| e.to_string())?;
        if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(answer) }
    });
    let manager = json!({"tracing": {"provider": {"name": "envoy.tracers.zipkin", "typed_config": {
        "@type": "type.googleapis.com/envoy.config.trace.v3.ZipkinConfig", "collector_cluster": "receiver",
        "collector_endpoint": "/api/v2/spans", "collector_endpoint_version": "HTTP_JSON", "trace_id_128bit": true}}}});
    let told = Told::start(&proxy, "zipkin", port, &json!({}), &manager);
    let trace = "463ac35c9f6413ad48485a3953bb6124";
    let headers = format!("x-b3-traceid: {trace}\r\nx-b3-spanid: a2fb4a1d1a96d312\r\nx-b3-sampled: 1\r\n");
    // Spans are sent at once when there are five.
    for _ in 0..5 {
        get(told.port, "/traced", &headers).expect("an answer");
    }
    let spans: Value = eventually("the trace", || {
        let answer = get(port, &format!("/api/v2/trace/{trace}"), "").map_err(|e| e.to_string())?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        if !head.starts_with("HTTP/1.1 200") {
            return Err(answer);
        }
        let (from, to) = (body.find('['), body.rfind(']'));
        let list = from.zip(to).and_then(|(from, to)| body.get(from..=to)).unwrap_or_default();
        serde_json::from_str(list).map_err(|_| answer.clone())
    });
    let span = &spans[0];
    assert_eq!((&span["name"], &span["localEndpoint"]["serviceName"]), (&json!("app:80/*"), &json!("shop")), "{span}");
    assert_eq!((&span["kind"], &span["tags"]["http.status_code"]), (&json!("SERVER"), &json!("200")), "{span}");
    assert!(span["duration"].as_u64().is_some_and(|d| d > 0), "{span}");
}
