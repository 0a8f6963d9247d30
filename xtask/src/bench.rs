//! What does a request cost, beside the peers, and what a sidecar at rest ([`sidecar_bench`])? Runs proxybench's scenarios and
//! prints the tables of docs/performance.md.
//!
//! What proxybench does not measure, idle connections, handshakes and latency at a given load, is measured here.
//! proxybench lies outside the project: named by `--proxybench`, else beside the checkout in `../shared/tools`.

mod connections;
mod handshakes;
mod latency;
mod process;

use crate::{cargo, root, sidecar_bench, tools};
use anyhow::{Result, bail};
use process::Candidate;
use std::path::PathBuf;
use std::process::Command;

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
pub struct Args {
    /// Scenarios to run (proxybench's, `connections`, `handshakes`, `latency`, `sidecar`); without names: all of the proxy's.
    /// `sidecar` is memory and start of a pod's proxy and agent, `sidecar-requests` proxybench's scenario of that name;
    /// `control-plane` measures pushes instead.
    scenarios: Vec<String>,
    /// Rounds per scenario; what counts is the median of the rounds' ratios.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds of load per round.
    #[arg(long, default_value_t = 4)]
    seconds: u32,
    /// The proxybench program.
    #[arg(long)]
    proxybench: Option<PathBuf>,
    /// A release build to measure, instead of making one.
    #[arg(long)]
    proa: Option<PathBuf>,
}

const SCENARIOS: &[&str] =
    &["sidecar", "h1", "sidecar-requests", "mtls", "h2", "tcp", "config", "connections", "handshakes", "latency"];
/// Numbers of clusters that `config` is run with.
const CLUSTERS: [&str; 2] = ["1000", "10000"];
/// Scenarios for which proxybench has an HAProxy configuration.
const WITH_HAPROXY: &[&str] = &["h1", "tcp"];

pub fn run(args: &Args) -> Result<()> {
    if args.scenarios == ["control-plane"] {
        return crate::push::run();
    }
    let program = args.proxybench.clone().unwrap_or_else(|| root().join("../shared/tools/proxybench/proxybench"));
    tools::install(tools::BENCH_PACKAGES)?;
    let envoy = tools::envoy()?;
    let proa = match &args.proa {
        Some(named) => named.clone(),
        None => build()?,
    };
    let wanted: Vec<&str> = if args.scenarios.is_empty() {
        SCENARIOS.to_vec()
    } else {
        args.scenarios.iter().map(String::as_str).collect()
    };
    let words = |line: &str| line.split(' ').map(str::to_owned).collect();
    let candidates = [
        Candidate {
            name: "proa",
            command: words(&format!("{} proxy -c {{config}} --concurrency 1 -l error", proa.display())),
        },
        Candidate {
            name: "envoy",
            command: words(&format!(
                "{} -c {{config}} --concurrency 1 -l error --disable-hot-restart",
                envoy.display()
            )),
        },
    ];
    let work = std::env::temp_dir().join(format!("proa-bench-{}", std::process::id()));
    std::fs::create_dir_all(&work)?;
    if wanted.contains(&"sidecar") {
        // A whole mesh, which is not held to one processor.
        sidecar_bench::run(&proa, &envoy)?;
    }
    if wanted == ["sidecar"] {
        return Ok(std::fs::remove_dir_all(&work)?);
    }
    process::settle()?;
    let measured = wanted.iter().try_for_each(|scenario| match *scenario {
        "connections" => connections::run(&candidates, &work),
        "handshakes" => handshakes::run(&candidates, args.rounds, args.seconds, &work),
        "sidecar" => Ok(()),
        "sidecar-requests" => compare(&program, "sidecar", &candidates, args, &[]),
        "latency" => latency::run(&candidates, args.rounds, args.seconds, &work),
        "config" => {
            CLUSTERS.iter().try_for_each(|n| compare(&program, scenario, &candidates, args, &["--clusters", n]))
        }
        scenario => compare(&program, scenario, &candidates, args, &[]),
    });
    std::fs::remove_dir_all(&work)?;
    measured
}

/// Makes the release build.
fn build() -> Result<PathBuf> {
    let status = cargo::command().args(["build", "--release", "--package", "proa"]).status()?;
    if !status.success() {
        bail!("the release build failed");
    }
    Ok(root().join("target/release/proa"))
}

/// Runs one of proxybench's scenarios.
fn compare(program: &PathBuf, scenario: &str, candidates: &[Candidate], args: &Args, more: &[&str]) -> Result<()> {
    let mut command = Command::new(program);
    command.arg(scenario).args(["--rounds", &args.rounds.to_string(), "--seconds", &args.seconds.to_string()]);
    command.args(more);
    for c in candidates {
        command.arg("--proxy").arg(format!("{}={}", c.name, c.command.join(" ")));
    }
    if WITH_HAPROXY.contains(&scenario) {
        command.args(["--proxy", "haproxy"]);
    }
    println!("{command:?}");
    if !command.status()?.success() {
        bail!("proxybench {scenario} failed");
    }
    Ok(())
}
