//! What do the benches of this crate measure on? Proxies pinned to one processor, a small backend, the kernel's accounts.

use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a proxy may take to listen.
const START: Duration = Duration::from_secs(20);

/// A proxy to be measured: its name, and its command line up to the configuration's path.
pub struct Candidate {
    /// As the tables call it.
    pub name: &'static str,
    /// Program and arguments; `{config}` stands for the path.
    pub command: Vec<String>,
}

/// A running proxy; killed when dropped.
pub struct Proxy(Child);

impl Candidate {
    /// Starts it on processor 0 and waits until it listens.
    pub fn start(&self, config: &Path, port: u16) -> Result<Proxy> {
        let config = config.to_string_lossy();
        let words = self.command.iter().map(|w| w.replace("{config}", &config));
        let child = Command::new("taskset")
            .args(["-c", "0"])
            .args(words)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("taskset")?;
        let mut proxy = Proxy(child);
        let until = Instant::now() + START;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if Instant::now() > until || proxy.0.try_wait()?.is_some() {
                bail!("{} does not listen on {port}", self.name);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_secs(1));
        Ok(proxy)
    }
}

impl Proxy {
    /// Resident memory, kB.
    pub fn rss_kb(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    /// Processor time of all threads.
    pub fn cpu(&self) -> Result<Duration> {
        let mut ns = 0;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.0.id()))? {
            let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
            ns += text.split(' ').next().context("schedstat")?.parse::<u64>()?;
        }
        Ok(Duration::from_nanos(ns))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Files that a bench of connections may open.
const OPEN_FILES: u64 = 65_536;

/// As many files as this process may allow itself.
fn open_files_max() -> u64 {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|l| l.strip_prefix("Max open files"));
    line.and_then(|l| l.split_whitespace().nth(1)?.parse().ok()).unwrap_or(OPEN_FILES)
}

/// Keeps this process off the proxies' processor, and lets it and its children open many files.
pub fn settle() -> Result<()> {
    let me = std::process::id().to_string();
    let files = format!("--nofile={}", OPEN_FILES.min(open_files_max()));
    for (program, args) in [("taskset", ["-acp", "1", &me]), ("prlimit", [&files, "--pid", &me])] {
        if !Command::new(program).args(args).stdout(Stdio::null()).status()?.success() {
            bail!("{program} failed");
        }
    }
    Ok(())
}

/// A port that nobody listens on now.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Answers every request with 100 bytes, one thread per connection.
pub fn backend() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream));
        }
    });
    Ok(address)
}

fn answer(mut stream: TcpStream) {
    let response = format!("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{}", "0123456789".repeat(10));
    let mut buffer = [0; 4096];
    // Without TCP_NODELAY nothing changes: each response is one write.
    while let Ok(n) = stream.read(&mut buffer) {
        if n == 0 || stream.write_all(response.as_bytes()).is_err() {
            return;
        }
    }
}

/// Sends one request and reads its response, which fits one buffer.
pub fn request(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: bench\r\n\r\n")?;
    let mut buffer = [0; 4096];
    let mut have = 0;
    loop {
        let n = stream.read(&mut buffer[have..])?;
        if n == 0 {
            bail!("closed early");
        }
        have += n;
        let head = buffer[..have].windows(4).position(|w| w == b"\r\n\r\n");
        if head.is_some_and(|at| have >= at + 4 + 100) {
            if !buffer.starts_with(b"HTTP/1.1 200") {
                bail!("{}", String::from_utf8_lossy(&buffer[..have]));
            }
            return Ok(());
        }
    }
}

/// A bootstrap with one listener, one route and one cluster; `tls` is the listener's transport socket.
pub fn bootstrap(listen: u16, backend: SocketAddr, tls: Option<serde_json::Value>) -> Result<serde_json::Value> {
    use serde_json::json;
    let address = |port: u16| json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    let base = "type.googleapis.com/envoy.extensions.filters";
    let mut chain = json!({"filters": [{
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": format!("{base}.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": "bench",
            "route_config": {"virtual_hosts": [{
                "name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "backend"}}]
            }]},
            "http_filters": [{
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": format!("{base}.http.router.v3.Router")}
            }]
        }
    }]});
    if let Some(tls) = tls {
        chain["transport_socket"] = tls;
    }
    Ok(json!({
        "admin": {"address": address(free_port()?)},
        "static_resources": {
            "listeners": [{"name": "bench", "address": address(listen), "filter_chains": [chain]}],
            "clusters": [{
                "name": "backend", "type": "STATIC", "connect_timeout": "1s",
                "circuit_breakers": {"thresholds": [{"max_connections": 100_000, "max_requests": 100_000}]},
                "load_assignment": {"cluster_name": "backend", "endpoints": [{"lb_endpoints": [{
                    "endpoint": {"address": address(backend.port())}
                }]}]}
            }]
        }
    }))
}
