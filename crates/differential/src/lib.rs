//! Where does our proxy differ from stock Envoy? The same generated configuration and requests to both.
//!
//! A *world* is a bootstrap made from a seed; a *case* is one request to it. Compared are status, headers and body of the
//! response, the request as the upstream saw it, the chosen host, the access-log line with its flags and details, and the
//! counters that moved. A difference prints the world's seed and the case, which is all that is needed to see it again.
//! Absent: expectations by hand; Envoy is the expectation.

pub mod backend;
pub mod compare;
pub mod proxy;
pub mod request;
pub mod rng;
pub mod world;

use anyhow::{Context, Result};
use proxy::Proxy;
use rng::Rng;
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use world::Ports;

/// What to run.
pub struct Options {
    /// Stock Envoy's program.
    pub envoy: PathBuf,
    /// Our program; it is called as `proa proxy …`.
    pub proa: PathBuf,
    /// How many requests in all.
    pub cases: u64,
    /// How many requests per configuration.
    pub cases_per_world: u64,
    /// Seed of the first world; the next one's is one more.
    pub seed: u64,
    /// Differences to print before stopping.
    pub differences_max: usize,
}

/// What came of it.
#[derive(Default)]
pub struct Report {
    /// Requests compared.
    pub cases: u64,
    /// Configurations tried.
    pub worlds: u64,
    /// Configurations that Envoy refused, and why.
    pub refused: Vec<String>,
    /// Differences, printable, with seed and case.
    pub differences: Vec<String>,
}

/// Runs until all cases are compared or enough differences are found.
pub fn run(options: &Options) -> Result<Report> {
    let backends = backend::start(3)?;
    let closed_port = free_port()?;
    let dir = std::env::temp_dir().join(format!("proa-differential-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let mut report = Report::default();
    let mut seed = options.seed;
    while report.cases < options.cases && report.differences.len() < options.differences_max {
        let cases = options.cases_per_world.min(options.cases - report.cases);
        world_of(seed, cases, options, &dir, &backends, closed_port, &mut report)?;
        report.worlds += 1;
        seed += 1;
    }
    let _ = std::fs::remove_dir_all(&dir);
    Ok(report)
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn world_of(
    seed: u64,
    cases: u64,
    options: &Options,
    dir: &Path,
    backends: &[u16],
    closed_port: u16,
    report: &mut Report,
) -> Result<()> {
    let start = |name: &str, command: &[String]| -> Result<(Proxy, PathBuf)> {
        let ports = Ports { listener: free_port()?, admin: free_port()? };
        let log = dir.join(format!("{name}-{seed}.log"));
        std::fs::write(&log, "")?;
        let bootstrap = world::bootstrap(seed, ports, &log.display().to_string(), backends, closed_port);
        Ok((Proxy::start(command, name, dir, ports, &bootstrap)?, log))
    };
    let (envoy, envoy_log) = match start("envoy", &[options.envoy.display().to_string()]) {
        Ok(started) => started,
        Err(why) => {
            // A world that Envoy refuses says nothing about requests; the generator should not make many.
            report.refused.push(format!("seed {seed}: {why:#}"));
            return Ok(());
        }
    };
    let (mut proa, proa_log) = match start("proa", &[options.proa.display().to_string(), "proxy".into()]) {
        Ok(started) => started,
        Err(why) => {
            report.differences.push(format!("seed {seed}: Envoy accepts, we do not: {why:#}"));
            report.cases += cases;
            return Ok(());
        }
    };
    let mut rng = Rng::new(seed ^ 0x00c0_ffee);
    for case in 0..cases {
        let request = request::generate(&mut rng, case);
        let ask = |port: u16| {
            backend::forget_attempts();
            testkit::http::exchange(([127, 0, 0, 1], port).into(), &request.bytes, request.head)
        };
        let theirs = compare::reply(&ask(envoy.ports.listener).context("Envoy's reply")?);
        let ours = match ask(proa.ports.listener) {
            Ok(reply) => compare::reply(&reply),
            Err(e) => vec![format!("no reply: {e}")],
        };
        report.cases += 1;
        let difference = compare::difference(&theirs, &ours);
        if !difference.is_empty() {
            let sent = request.bytes.escape_ascii().to_string();
            let sent = &sent[..sent.len().min(600)];
            report.differences.push(format!("seed {seed} case {case}\n  sent {sent}\n  {}", difference.join("\n  ")));
        }
        if !proa.lives() {
            report.differences.push(format!("seed {seed} case {case}: our proxy died"));
            return Ok(());
        }
        if report.differences.len() >= options.differences_max {
            return Ok(());
        }
    }
    let stats = |p: &Proxy| -> Result<BTreeMap<String, String>> { Ok(compare::counters(&p.admin("/stats?usedonly")?)) };
    let lines = |stats: BTreeMap<String, String>| -> Vec<String> {
        stats.into_iter().map(|(n, v)| format!("{n}: {v}")).collect()
    };
    let difference = compare::difference(&lines(stats(&envoy)?), &lines(stats(&proa)?));
    if !difference.is_empty() {
        report.differences.push(format!("seed {seed}, counters\n  {}", difference.join("\n  ")));
    }
    envoy.stop()?;
    proa.stop()?;
    let read =
        |p: &Path| -> Result<Vec<String>> { Ok(std::fs::read_to_string(p)?.lines().map(str::to_owned).collect()) };
    let difference = compare::difference(&read(&envoy_log)?, &read(&proa_log)?);
    if !difference.is_empty() {
        report.differences.push(format!("seed {seed}, access log\n  {}", difference.join("\n  ")));
    }
    let _ = std::fs::remove_file(envoy_log);
    let _ = std::fs::remove_file(proa_log);
    Ok(())
}
