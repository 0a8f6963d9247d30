//! A running proxy (ours or stock Envoy), a plain HTTP client and a plain backend for the tests of this crate.
#![allow(dead_code)] // Every test binary uses its own part.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A port that nobody listens on now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port()
}

/// An answer: status, raw head, body.
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|l| l.split_once(": ").filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|h| h.1))
    }
}

/// One HTTP/1.1 request on a connection of its own.
pub fn http(port: u16, method: &str, path: &str, headers: &[(&str, &str)]) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port)))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
    if headers.iter().all(|(name, _)| *name != "host") {
        head.push_str("host: test\r\n");
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 << 10];
    // A byte stream's other end may keep the connection: a declared length ends the answer, too.
    while !complete(&bytes) {
        match stream.read(&mut buffer)? {
            0 => break,
            n => bytes.extend_from_slice(&buffer[..n]),
        }
    }
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    let body = bytes.split_off(end + 4);
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Ok(Answer { status, head, body: if chunked { unchunk(&body) } else { body } })
}

fn complete(bytes: &[u8]) -> bool {
    let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")?.trim().parse::<usize>().ok());
    length.is_some_and(|length| bytes.len() >= end + 4 + length)
}

fn unchunk(mut body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(end) = body.windows(2).position(|w| w == b"\r\n") {
        let size = usize::from_str_radix(String::from_utf8_lossy(&body[..end]).trim(), 16).unwrap_or(0);
        let rest = &body[end + 2..];
        if size == 0 || rest.len() < size {
            break;
        }
        out.extend_from_slice(&rest[..size]);
        body = rest.get(size + 2..).unwrap_or_default();
    }
    out
}

/// A backend that answers every request with `reply` and tells what it saw.
pub fn backend(reply: &'static str) -> (u16, std::sync::mpsc::Receiver<String>) {
    backend_at("127.0.0.1", reply)
}

/// The same on an address of this machine's.
pub fn backend_at(ip: &str, reply: &'static str) -> (u16, std::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind((ip, 0)).expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let (seen, requests) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(mut stream), seen) = (stream, seen.clone()) else { return };
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                let mut buffer = [0; 4096];
                while let Ok(n @ 1..) = stream.read(&mut buffer) {
                    bytes.extend_from_slice(&buffer[..n]);
                    while let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
                        let length = head
                            .lines()
                            .find_map(|l| l.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned))
                            .and_then(|l| l.trim().parse::<usize>().ok())
                            .unwrap_or(0);
                        if bytes.len() < end + 4 + length {
                            break;
                        }
                        let body = String::from_utf8_lossy(&bytes[end + 4..end + 4 + length]).into_owned();
                        bytes.drain(..end + 4 + length);
                        let _ = seen.send(format!("{head}\r\n\r\n{body}"));
                        if stream.write_all(reply.as_bytes()).is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    (port, requests)
}

/// A running proxy with an admin interface.
pub struct Running {
    pub admin: u16,
    kind: Kind,
    _dir: tempfile::TempDir,
}

enum Kind {
    Ours(proxy::Handle),
    Envoy(Child),
}

/// Where stock Envoy is, if it is.
pub fn envoy() -> Option<OsString> {
    std::env::var_os("PROA_ENVOY").filter(|e| PathBuf::from(e).is_file())
}

impl Running {
    /// Starts our proxy in this process and waits until it is live.
    pub fn ours(bootstrap: &Value, args: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let file = dir.path().join("bootstrap.json");
        std::fs::write(&file, bootstrap.to_string()).expect("written");
        let mut line: Vec<OsString> = ["-c".into(), file.into(), "--concurrency".into(), "1".into()].to_vec();
        line.extend(args.iter().map(OsString::from));
        let options = match proxy::options::parse(line.into_iter()).expect("valid arguments") {
            proxy::options::Parsed::Run(options) => *options,
            _ => panic!("asked to run"),
        };
        let loaded = proxy::bootstrap::load(&options).unwrap_or_else(|e| panic!("{e}"));
        let handle = proxy::start(loaded, options).unwrap_or_else(|e| panic!("{e}"));
        Running { admin: admin_port(bootstrap), kind: Kind::Ours(handle), _dir: dir }.ready()
    }

    /// Starts stock Envoy and waits until it is live.
    pub fn envoy(program: &OsString, bootstrap: &Value) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let file = dir.path().join("bootstrap.json");
        std::fs::write(&file, bootstrap.to_string()).expect("written");
        let log = std::fs::File::create(dir.path().join("log")).expect("created");
        let child = Command::new(program)
            .arg("-c")
            .arg(&file)
            .args(["--concurrency", "1", "--use-dynamic-base-id", "--log-level", "error"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("PROA_ENVOY starts");
        Running { admin: admin_port(bootstrap), kind: Kind::Envoy(child), _dir: dir }.ready()
    }

    fn ready(self) -> Self {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match http(self.admin, "GET", "/ready", &[]) {
                Ok(answer) if answer.status == 200 => return self,
                _ if Instant::now() > deadline => panic!("not live after {PATIENCE:?}"),
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// `GET` on the admin interface.
    pub fn get(&self, path: &str) -> Answer {
        http(self.admin, "GET", path, &[]).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    /// Waits until the page holds `needle`, and returns it.
    pub fn page_with(&self, path: &str, needle: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let page = self.get(path).text();
            if page.contains(needle) {
                return page;
            }
            assert!(Instant::now() < deadline, "{path} never shows {needle}:\n{page}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        match &mut self.kind {
            Kind::Ours(handle) => {
                handle.shutdown();
                handle.wait();
            }
            Kind::Envoy(child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

fn admin_port(bootstrap: &Value) -> u16 {
    bootstrap["admin"]["address"]["socket_address"]["port_value"].as_u64().expect("a port") as u16
}

pub const TYPE: &str = "type.googleapis.com/";

pub fn address(port: u16) -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": port}})
}

pub fn cluster(name: &str, port: u16) -> Value {
    json!({"name": name, "type": "STATIC", "connect_timeout": "1s", "load_assignment": {
        "cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(port)}}]}]}})
}

pub fn h2_cluster(name: &str, port: u16) -> Value {
    let mut cluster = cluster(name, port);
    cluster["typed_extension_protocol_options"] = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": format!("{TYPE}envoy.extensions.upstreams.http.v3.HttpProtocolOptions"),
        "explicit_http_config": {"http2_protocol_options": {}}}});
    cluster
}

pub fn router() -> Value {
    json!({"name": "envoy.filters.http.router",
        "typed_config": {"@type": format!("{TYPE}envoy.extensions.filters.http.router.v3.Router")}})
}

/// A connection manager; `more` adds and replaces fields.
pub fn hcm(routes: Value, filters: &[Value], more: Value) -> Value {
    let mut all = filters.to_vec();
    all.push(router());
    let mut config = json!({"@type": format!("{TYPE}envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "ingress", "codec_type": "AUTO", "http_filters": all,
        "route_config": {"name": "r", "virtual_hosts": [{"name": "b", "domains": ["*"], "routes": routes}]}});
    for (key, value) in more.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": config})
}

pub fn listener(port: u16, filters: &[Value], more: Value) -> Value {
    let mut listener =
        json!({"name": format!("l{port}"), "address": address(port), "filter_chains": [{"filters": filters}]});
    for (key, value) in more.as_object().into_iter().flatten() {
        listener[key] = value.clone();
    }
    listener
}

pub fn all_to(cluster: &str) -> Value {
    json!([{"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}}])
}

pub fn bootstrap(listeners: Vec<Value>, clusters: Vec<Value>) -> Value {
    json!({"admin": {"address": address(free_port())},
        "static_resources": {"listeners": listeners, "clusters": clusters}})
}
