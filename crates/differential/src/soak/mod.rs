//! Does the proxy stay what it is for a long time? Mixed traffic, changing configuration, faults and broken connections.
//!
//! A control plane of our own changes endpoints, clusters, routes and listeners all the time; clients speak HTTP/1.1, HTTP/2
//! and TCP, ask for failures and break off. Judged are: no request failed that was not to fail, memory is flat, and nothing
//! is left open when all is quiet again. Absent: figures of speed.

mod plane;
mod traffic;

use crate::batch::{free_ports, ours};
use crate::proxy::Proxy;
use crate::{backend, tls};
use anyhow::{Context, Result};
use plane::{Plane, Ports};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use traffic::Tally;

/// Time between two revisions of the configuration.
const CHURN: Duration = Duration::from_millis(500);
/// Time between two looks at memory and descriptors.
const LOOK: Duration = Duration::from_secs(5);
/// Memory may grow by this share, and this much, from the second fifth of the time to the last.
const GROWTH_SHARE: f64 = 0.10;
const GROWTH_KB: f64 = 2048.0;
/// Time for everything to end after the traffic: beyond the drain of old listeners that `--drain-time-s` below sets.
const QUIET: Duration = Duration::from_secs(20);
/// Descriptors that may stay open: idle upstream connections of every worker, and the control plane's.
const DESCRIPTORS_MORE: usize = 64;

/// What came of it.
pub struct Report {
    /// Printable lines.
    pub lines: Vec<String>,
    /// What did not hold.
    pub faults: Vec<String>,
}

/// Soaks `program` for `duration`.
pub fn run(program: &Path, duration: Duration) -> Result<Report> {
    let certificates = tls::Certificates::make()?;
    let backends = backend::start(3, &certificates)?;
    let p = free_ports(5)?;
    let (http, tcp, admin) = (p[0], p[1], p[4]);
    let plane = Plane::start(Ports { http, tcp, passing: [p[2], p[3]], backends })?;
    let dir = std::env::temp_dir().join(format!("proa-soak-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let mut command = ours(program);
    command.extend(["--drain-time-s".into(), "5".into()]);
    let mut proxy = Proxy::start(&command, "proxy", &dir, admin, &plane::bootstrap(admin, plane.port))?;
    wait_for(http)?;
    let pid = proxy.id();
    let idle_descriptors = descriptors(pid);
    let tally = Arc::new(Tally::default());
    let load = traffic::start(http, tcp, tally.clone())?;
    let (began, mut looked, mut memory) = (Instant::now(), Instant::now(), Vec::new());
    let mut revision = 0;
    while began.elapsed() < duration {
        std::thread::sleep(CHURN);
        revision = plane.advance();
        if looked.elapsed() >= LOOK {
            looked = Instant::now();
            memory.push(resident_kb(pid));
        }
        if !proxy.lives() {
            break;
        }
    }
    load.stop();
    std::thread::sleep(QUIET);
    let mut faults = Vec::new();
    if !proxy.lives() {
        faults.push("the proxy died".to_owned());
    }
    let failed = tally.failed();
    if !failed.is_empty() {
        faults.push(format!("requests failed that should not: {failed:?}"));
    }
    let fifth = memory.len() / 5;
    let (early, late) = (median(&memory[fifth..2 * fifth]), median(&memory[memory.len() - fifth..]));
    if fifth > 0 && late > early * (1.0 + GROWTH_SHARE) + GROWTH_KB {
        faults.push(format!("memory grew from {early} to {late} KB"));
    }
    let stats = proxy.admin("/stats").unwrap_or_default();
    for gauge in ["downstream_cx_active", "downstream_rq_active", "upstream_rq_active", "upstream_rq_pending_active"] {
        let left = stats.lines().filter_map(|l| l.split_once(": "));
        let left =
            left.filter(|(n, v)| n.ends_with(gauge) && !n.contains("admin") && !n.contains("plane") && *v != "0");
        faults.extend(left.map(|(n, v)| format!("left over: {n} is {v}")));
    }
    let now = descriptors(pid);
    if now > idle_descriptors + DESCRIPTORS_MORE {
        faults.push(format!("descriptors: {idle_descriptors} before, {now} after"));
    }
    let lines = vec![
        format!("{} s, {revision} revisions, {}", duration.as_secs(), tally.summary()),
        format!("resident KB: early {early}, late {late}, all {memory:?}"),
        format!("descriptors: {idle_descriptors} before, {now} after"),
    ];
    let _ = std::fs::remove_dir_all(&dir);
    Ok(Report { lines, faults })
}

fn wait_for(port: u16) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(30) {
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    anyhow::bail!("the proxy does not listen")
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

fn resident_kb(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("VmRSS");
    line.ok().and_then(|l| l.trim().trim_end_matches("kB").trim().parse().ok()).unwrap_or_default()
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}
