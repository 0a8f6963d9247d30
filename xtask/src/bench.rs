//! What does a request cost, beside the peers? Runs proxybench's scenarios and prints the tables of docs/performance.md.
//!
//! proxybench lies outside the project: named by `--proxybench`, else beside the checkout in `../shared/tools`.

use crate::{root, tools};
use anyhow::{Result, bail};
use std::path::PathBuf;
use std::process::Command;

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
pub struct Args {
    /// Scenarios to run; without names: all.
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
}

const SCENARIOS: &[&str] = &["h1", "sidecar", "mtls", "h2", "tcp", "config"];
/// Scenarios for which proxybench has an HAProxy configuration.
const WITH_HAPROXY: &[&str] = &["h1", "tcp"];

pub fn run(args: &Args) -> Result<()> {
    let program = args.proxybench.clone().unwrap_or_else(|| root().join("../shared/tools/proxybench/proxybench"));
    if !program.is_file() {
        bail!("no proxybench at {}: name it with --proxybench", program.display());
    }
    tools::install(tools::BENCH_PACKAGES)?;
    let envoy = tools::envoy()?;
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(root())
        .args(["build", "--release", "--package", "proa"])
        .status()?;
    if !status.success() {
        bail!("the release build failed");
    }
    let proa = root().join("target/release/proa");
    let wanted: Vec<&str> = if args.scenarios.is_empty() {
        SCENARIOS.to_vec()
    } else {
        args.scenarios.iter().map(String::as_str).collect()
    };
    for scenario in wanted {
        let mut command = Command::new(&program);
        command.arg(scenario).args(["--rounds", &args.rounds.to_string(), "--seconds", &args.seconds.to_string()]);
        command.arg("--proxy").arg(format!("proa={} proxy -c {{config}} --concurrency 1 -l error", proa.display()));
        command
            .arg("--proxy")
            .arg(format!("envoy={} -c {{config}} --concurrency 1 -l error --disable-hot-restart", envoy.display()));
        if WITH_HAPROXY.contains(&scenario) {
            command.args(["--proxy", "haproxy"]);
        }
        println!("{command:?}");
        if !command.status()?.success() {
            bail!("proxybench {scenario} failed");
        }
    }
    Ok(())
}
