//! Do clusters behave over real sockets? Whole proxies as child processes of this test, real upstreams on loopback.
//!
//! The test binary is its own proxy: called with `PROA_TEST_PROXY` in its environment it runs `proxy::main`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Longest wait for something that will happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// Not a test of its own: the proxy, when this binary is started as one.
#[test]
fn proxy_process() {
    let Ok(args) = std::env::var("PROA_TEST_PROXY") else { return };
    let args: Vec<String> = serde_json::from_str(&args).expect("arguments");
    let _ = proxy::main(args.into_iter().map(Into::into).collect());
    std::process::exit(0);
}

/// An HTTP server whose answers the test steers.
struct Upstream {
    port: u16,
    status: AtomicU16,
    health: AtomicU16,
    hits: AtomicUsize,
}

impl Upstream {
    fn start(name: &'static str) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("port");
        let this = Arc::new(Upstream {
            port: listener.local_addr().expect("bound").port(),
            status: AtomicU16::new(200),
            health: AtomicU16::new(200),
            hits: AtomicUsize::new(0),
        });
        let server = this.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = server.clone();
                thread::spawn(move || server.serve(stream, name));
            }
        });
        this
    }

    fn serve(&self, mut stream: TcpStream, name: &str) {
        let mut reader = BufReader::new(stream.try_clone().expect("clone"));
        while let Some(line) = head(&mut reader) {
            let status = match line.contains(" /hc ") {
                true => self.health.load(SeqCst),
                false => {
                    self.hits.fetch_add(1, SeqCst);
                    self.status.load(SeqCst)
                }
            };
            let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n{name}", name.len());
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }
}

/// Reads a message head; its first line.
fn head(reader: &mut impl BufRead) -> Option<String> {
    let mut first = None;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            return first;
        }
        first.get_or_insert(line);
    }
}

struct Proxy {
    child: Child,
    port: u16,
    admin: u16,
    _dir: tempfile::TempDir,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("port").port()
}

fn socket(port: u16) -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": port}})
}

fn typed(name: &str, mut config: Value) -> Value {
    config["@type"] = json!(format!("type.googleapis.com/{name}"));
    config
}

fn hcm(routes: Value) -> Value {
    let router = typed("envoy.extensions.filters.http.router.v3.Router", json!({}));
    let config = json!({
        "stat_prefix": "i",
        "route_config": {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": routes}]},
        "http_filters": [{"name": "r", "typed_config": router}],
        "http2_protocol_options": {"allow_connect": true},
        "upgrade_configs": [{"upgrade_type": "CONNECT"}],
    });
    const NAME: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    json!([{"name": "h", "typed_config": typed(NAME, config)}])
}

fn to(cluster: &str) -> Value {
    json!([{"match": {"prefix": "/"}, "route": {"cluster": cluster}}])
}

fn listener(name: &str, port: u16, filters: Value) -> Value {
    json!({"name": name, "address": socket(port), "filter_chains": [{"filters": filters}]})
}

fn cluster(name: &str, endpoints: Value, more: Value) -> Value {
    let mut out = json!({
        "name": name, "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
    });
    for (key, value) in more.as_object().expect("an object") {
        out[key] = value.clone();
    }
    out
}

fn endpoint(port: u16) -> Value {
    json!({"endpoint": {"address": socket(port)}})
}

impl Proxy {
    fn start(clusters: Value, routes: Value) -> Self {
        let port = free_port();
        Self::with(port, json!([listener("l", port, hcm(routes))]), clusters, &["--disable-hot-restart"])
    }

    fn with(port: u16, listeners: Value, clusters: Value, args: &[&str]) -> Self {
        let admin = free_port();
        Self::on(port, admin, listeners, clusters, args)
    }

    fn on(port: u16, admin: u16, listeners: Value, clusters: Value, args: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("bootstrap.json");
        let internal = typed("envoy.extensions.bootstrap.internal_listener.v3.InternalListener", json!({}));
        let bootstrap = json!({
            "admin": {"address": socket(admin)},
            "bootstrap_extensions": [{"name": "i", "typed_config": internal}],
            "static_resources": {"listeners": listeners, "clusters": clusters},
        });
        std::fs::write(&path, bootstrap.to_string()).expect("written");
        let mut all = vec!["-c", path.to_str().expect("UTF-8"), "-l", "warn"];
        all.extend(args);
        let child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "proxy_process", "--nocapture"])
            .env("PROA_TEST_PROXY", serde_json::to_string(&all).expect("arguments"))
            .stdout(Stdio::null())
            .spawn()
            .expect("started");
        let mut proxy = Proxy { child, port, admin, _dir: dir };
        proxy.until("live", |p| p.admin("/ready").is_some_and(|r| r.contains("LIVE")));
        proxy
    }

    fn until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let began = Instant::now();
        while !holds(self) {
            assert!(began.elapsed() < PATIENCE, "never: {what}");
            assert!(matches!(self.child.try_wait(), Ok(None)), "the proxy ended while waiting: {what}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn admin(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.admin)).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text.split_once("\r\n\r\n")?.1.to_owned())
    }

    fn stat(&self, name: &str) -> u64 {
        let text = self.admin(&format!("/stats?filter=^{name}$")).unwrap_or_default();
        let value = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(": "));
        value.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
    }

    fn flags(&self, port: u16) -> String {
        let text = self.admin("/clusters").unwrap_or_default();
        let key = format!("::127.0.0.1:{port}::health_flags::");
        text.lines().find_map(|l| Some(l.split_once(&key)?.1.to_owned())).unwrap_or_default()
    }

    fn get(&self, path: &str) -> (u16, String) {
        get(&mut TcpStream::connect(("127.0.0.1", self.port)).expect("connected"), path).expect("an answer").0
    }

    fn tally(&self, n: usize) -> BTreeMap<String, usize> {
        let mut all = BTreeMap::new();
        (0..n).for_each(|_| *all.entry(self.get("/").1).or_default() += 1);
        all
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One request over `stream`: (status, body), and whether the connection stays.
fn get(stream: &mut TcpStream, path: &str) -> std::io::Result<((u16, String), bool)> {
    let gone = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")?;
    let mut reader = BufReader::new(stream);
    let (mut status, mut length, mut keep) = (0, 0, true);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(gone());
        }
        let line = line.trim_end().to_ascii_lowercase();
        match line.split_once(": ") {
            None if line.is_empty() => break,
            None => status = line.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(gone)?,
            Some(("content-length", n)) => length = n.parse().map_err(|_| gone())?,
            Some(("connection", "close")) => keep = false,
            Some(_) => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(((status, String::from_utf8_lossy(&body).into_owned()), keep))
}

#[test]
fn active_health_checks_keep_traffic_off_failing_hosts() {
    let (a, b) = (Upstream::start("a"), Upstream::start("b"));
    b.health.store(503, SeqCst);
    let check = json!({"timeout": "1s", "interval": "0.05s", "no_traffic_interval": "0.05s", "unhealthy_threshold": 2,
        "healthy_threshold": 2, "http_health_check": {"path": "/hc"}});
    let of = cluster(
        "c",
        json!([endpoint(a.port), endpoint(b.port), endpoint(free_port())]),
        json!({"health_checks": [check], "common_lb_config": {"healthy_panic_threshold": {"value": 0}}}),
    );
    let mut p = Proxy::start(json!([of]), to("c"));
    // It went live only after each host had been checked.
    assert_eq!(p.tally(6), BTreeMap::from([("a".into(), 6)]));
    assert_eq!(p.flags(b.port), "/failed_active_hc");
    assert_eq!(p.stat("cluster.c.membership_healthy"), 1);
    b.health.store(200, SeqCst);
    p.until("b is back", |p| p.flags(b.port) == "healthy");
    assert_eq!(p.tally(6).len(), 2);
    assert_eq!(p.stat("cluster.c.health_check.healthy"), 2);
    a.health.store(500, SeqCst);
    p.until("a is out", |p| p.flags(a.port) == "/failed_active_hc");
    assert_eq!(p.tally(4), BTreeMap::from([("b".into(), 4)]));
}

#[test]
fn outliers_are_ejected_and_return() {
    let all: Vec<_> = ["a", "b", "c"].into_iter().map(Upstream::start).collect();
    let rules =
        json!({"consecutive_5xx": 3, "interval": "0.1s", "base_ejection_time": "0.3s", "max_ejection_percent": 40});
    let endpoints: Vec<_> = all.iter().map(|u| endpoint(u.port)).collect();
    let mut p = Proxy::start(json!([cluster("c", json!(endpoints), json!({"outlier_detection": rules}))]), to("c"));
    all[0].status.store(503, SeqCst);
    p.until("a is ejected", |p| {
        p.get("/");
        p.flags(all[0].port) == "/failed_outlier_check"
    });
    assert_eq!(p.stat("cluster.c.outlier_detection.ejections_enforced_consecutive_5xx"), 1);
    assert_eq!(p.stat("cluster.c.outlier_detection.ejections_active"), 1);
    all[0].status.store(200, SeqCst);
    p.until("a is back", |p| p.flags(all[0].port) == "healthy");
    assert_eq!(p.tally(9).len(), 3);
    // A second host would be too many.
    all.iter().for_each(|u| u.status.store(503, SeqCst));
    p.until("the limit holds", |p| {
        p.get("/");
        p.stat("cluster.c.outlier_detection.ejections_overflow") > 0
    });
}

#[test]
fn subsets_and_aggregates() {
    let (a, b) = (Upstream::start("a"), Upstream::start("b"));
    let of = |port, v: &str| {
        let mut e = endpoint(port);
        e["metadata"] = json!({"filter_metadata": {"envoy.lb": {"v": v}}});
        e
    };
    let subsets =
        json!({"lb_subset_config": {"fallback_policy": "NO_FALLBACK", "subset_selectors": [{"keys": ["v"]}]}});
    let aggregate =
        typed("envoy.extensions.clusters.aggregate.v3.ClusterConfig", json!({"clusters": ["empty", "second"]}));
    let clusters = json!([
        cluster("c", json!([of(a.port, "1"), of(b.port, "2")]), subsets),
        cluster("empty", json!([]), json!({})),
        cluster("second", json!([endpoint(b.port)]), json!({})),
        {"name": "agg", "connect_timeout": "1s", "lb_policy": "CLUSTER_PROVIDED",
         "cluster_type": {"name": "envoy.clusters.aggregate", "typed_config": aggregate}},
    ]);
    let route = |path: &str, v: &str| {
        let wanted = json!({"filter_metadata": {"envoy.lb": {"v": v}}});
        json!({"match": {"prefix": path}, "route": {"cluster": "c", "metadata_match": wanted}})
    };
    let routes = json!([
        route("/1", "1"), route("/2", "2"), route("/3", "3"),
        {"match": {"prefix": "/agg"}, "route": {"cluster": "agg"}},
    ]);
    let p = Proxy::start(clusters, routes);
    for (path, expected) in [("/1", "a"), ("/2", "b"), ("/agg", "b")] {
        assert_eq!(p.get(path), (200, expected.to_owned()), "{path}");
    }
    assert_eq!(p.get("/3").0, 503);
    assert_eq!(p.stat("cluster.c.lb_subsets_selected"), 2);
    assert_eq!(p.stat("cluster.second.upstream_rq_total"), 1);
    assert_eq!(p.stat("cluster.agg.upstream_rq_200"), 1);
}

#[test]
fn tunnels_through_an_internal_listener_and_connect() {
    let back = Upstream::start("back");
    let (front, gate) = (free_port(), free_port());
    let tcp = |stat: &str, cluster: &str, tunnel: bool| {
        let mut c = json!({"stat_prefix": stat, "cluster": cluster});
        if tunnel {
            c["tunneling_config"] = json!({"hostname": "svc.example:80"});
        }
        json!([{"name": "t", "typed_config": typed("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", c)}])
    };
    let connect = json!([{"match": {"connect_matcher": {}}, "route": {"cluster": "back",
        "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}]}}]);
    let listeners = json!([
        listener("front", front, tcp("front", "inner", false)),
        {"name": "inner", "internal_listener": {}, "filter_chains": [{"filters": tcp("inner", "gate", true)}]},
        listener("gate", gate, hcm(connect)),
    ]);
    const HTTP: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let h2 = typed(HTTP, json!({"explicit_http_config": {"http2_protocol_options": {}}}));
    let inner = json!({"endpoint": {"address": {"envoy_internal_address": {"server_listener_name": "inner"}}}});
    let raw = typed("envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer", json!({}));
    let passing = typed(
        "envoy.extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport",
        json!({"transport_socket": {"name": "raw", "typed_config": raw}}),
    );
    let clusters = json!([
        cluster("inner", json!([inner]), json!({"transport_socket": {"name": "i", "typed_config": passing}})),
        cluster("gate", json!([endpoint(gate)]), json!({"typed_extension_protocol_options": {HTTP: h2}})),
        cluster("back", json!([endpoint(back.port)]), json!({})),
    ]);
    let p = Proxy::with(front, listeners, clusters, &["--disable-hot-restart", "--concurrency", "1"]);
    for _ in 0..3 {
        assert_eq!(p.get("/"), (200, "back".to_owned()));
    }
    // The tunnels shared one HTTP/2 connection.
    assert_eq!(p.stat("cluster.gate.upstream_cx_http2_total").max(p.stat("cluster.gate.upstream_cx_total")), 1);
    assert_eq!(p.stat("tcp.inner.downstream_cx_total"), 3);
}

#[test]
fn a_successor_takes_over_without_a_failed_request() {
    let back = Upstream::start("back");
    let (port, admin) = (free_port(), free_port());
    let base = (u32::from(port) << 8 | std::process::id() & 0xff).to_string();
    let start = |epoch: &str| {
        let listeners = json!([listener("l", port, hcm(to("c")))]);
        let clusters = json!([cluster("c", json!([endpoint(back.port)]), json!({}))]);
        let args =
            ["--base-id", &base, "--restart-epoch", epoch, "--drain-time-s", "1", "--parent-shutdown-time-s", "2"];
        Proxy::on(port, admin, listeners, clusters, &[&args[..], &["--concurrency", "2"]].concat())
    };
    let mut first = start("0");
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..6)
        .map(|n| {
            let stop = stop.clone();
            thread::spawn(move || {
                let (mut done, mut stream) = (0, None);
                while !stop.load(SeqCst) {
                    let mut s = stream
                        .take()
                        .unwrap_or_else(|| TcpStream::connect(("127.0.0.1", port)).expect("somebody listens"));
                    let ((status, _), keep) = get(&mut s, "/").expect("an answer");
                    assert_eq!(status, 200);
                    done += 1;
                    // Half of the clients open a connection for each request.
                    stream = (keep && n % 2 == 0).then_some(s);
                }
                done
            })
        })
        .collect();
    for epoch in ["1", "2"] {
        let next = start(epoch);
        first.until_ended();
        first = next;
        first.until("the successor serves", |p| p.stat("http.i.downstream_rq_2xx") > 10);
    }
    stop.store(true, SeqCst);
    let done: usize = clients.into_iter().map(|c| c.join().expect("no request failed")).sum();
    assert!(done > 100 && back.hits.load(SeqCst) >= done, "{done}");
}

impl Proxy {
    /// Waits until the process has ended by itself.
    fn until_ended(&mut self) {
        let began = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            assert!(began.elapsed() < PATIENCE, "the predecessor does not end");
            thread::sleep(Duration::from_millis(10));
        }
    }
}
