//! Which suites are there, what did each show, and which could not run? `cargo xtask test`.

use crate::{cargo, conformance, deny, differential, protocols, tidy, tools};
use anyhow::{Result, bail};
use clap::ValueEnum;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// One suite of the test command, in the order in which all of them run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Suite {
    /// Formatting is rustfmt's.
    Fmt,
    /// Floors, file sizes, file heads.
    Tidy,
    /// clippy, warnings denied.
    Clippy,
    /// rustdoc, warnings denied.
    Doc,
    /// Licences, sources and banned crates.
    Deny,
    /// Unit, property, golden and component tests of every crate.
    Unit,
    /// The original's own test data.
    Conformance,
    /// Fuzz targets over their corpora and a fixed number of mutations.
    Fuzz,
    /// Generated configurations and requests through our proxy and stock Envoy.
    Differential,
    /// h2spec, gRPC interop, WebSocket and ambiguous HTTP/1 through the proxy.
    Protocols,
    /// Whole meshes, both data planes.
    E2e,
}

/// What came of a suite.
pub enum Outcome {
    /// All of it held.
    Passed,
    /// Something did not hold.
    Failed(String),
    /// Did not run, and why.
    NotRun(String),
}

pub fn run(wanted: &[Suite]) -> Result<()> {
    let wanted = if wanted.is_empty() { Suite::value_variants() } else { wanted };
    let mut rows = Vec::new();
    for &suite in wanted {
        println!("\n=== {}", name(suite));
        let start = Instant::now();
        let outcome = one(suite).unwrap_or_else(|e| Outcome::Failed(format!("{e:#}")));
        if let Outcome::Failed(why) | Outcome::NotRun(why) = &outcome {
            println!("{}: {why}", name(suite));
        }
        rows.push((suite, outcome, start.elapsed()));
    }
    summary(&rows)
}

fn name(suite: Suite) -> String {
    suite.to_possible_value().expect("no suite is hidden").get_name().to_owned()
}

fn one(suite: Suite) -> Result<Outcome> {
    Ok(match suite {
        Suite::Fmt => cargo(&["fmt", "--all", "--check"], &[]),
        Suite::Tidy => tidy::run().map(|()| Outcome::Passed)?,
        Suite::Clippy => cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"], &[]),
        Suite::Doc => cargo(&["doc", "--workspace", "--no-deps", "--quiet"], &[("RUSTDOCFLAGS", "-D warnings")]),
        Suite::Deny => deny::run()?,
        Suite::Unit => unit()?,
        Suite::Conformance => conformance::run()?,
        Suite::Fuzz => cargo(&[&test_of_units()[..], &["--test", "corpora"]].concat(), &[]),
        Suite::Differential => {
            differential::run(&differential::Args { cases: CASES, seed: 20_000, per_scene: 50, scenes: 20, show: 10 })
                .map(|()| Outcome::Passed)?
        }
        Suite::Protocols => protocols::run()?,
        Suite::E2e => e2e()?,
    })
}

/// Requests that the test command compares; `cargo xtask differential` goes on for as long as asked.
const CASES: u64 = 2_500;

/// Crates with tests of their own suite; `unit` leaves them out.
const NOT_UNIT: &[&str] = &["proa-e2e", "proa-differential"];

/// `cargo test` of what `unit` builds. Other suites ask for their tests in the same words, since another selection of
/// packages is another set of features, and cargo would build everything again.
pub fn test_of_units() -> Vec<&'static str> {
    test_without(NOT_UNIT)
}

/// `cargo test` of what `unit` builds and of `proa-differential`, which adds a package but no feature.
pub fn test_of_differential() -> Vec<&'static str> {
    test_without(&["proa-e2e"])
}

fn test_without(excluded: &[&'static str]) -> Vec<&'static str> {
    let mut args = vec!["test", "--workspace"];
    excluded.iter().for_each(|c| args.extend(["--exclude", c]));
    args
}

fn unit() -> Result<Outcome> {
    tools::install(tools::PACKAGES)?;
    let envoy = tools::envoy()?;
    let mut args = test_of_units();
    args.push("--no-fail-fast");
    Ok(cargo(&args, &[("PROA_ENVOY", &envoy.display().to_string()), ("PROA_CONFORMANCE", "/nonexistent")]))
}

fn e2e() -> Result<Outcome> {
    tools::install(tools::PACKAGES)?;
    tools::rootless_user();
    let envoy = tools::envoy()?.display().to_string();
    // The binary is built for the tests of its own package.
    let mut build = test_of_units();
    build.extend(["--no-run", "--quiet", "--test", "local_mesh"]);
    if let Outcome::Failed(why) = cargo(&build, &[]) {
        return Ok(Outcome::Failed(why));
    }
    let threads = format!("--test-threads={MESHES}");
    let args = ["test", "--package", "proa-e2e", "--no-fail-fast", "--", "--nocapture", &threads];
    Ok(cargo(&args, &[("PROA_ENVOY", &envoy)]))
}

/// Meshes that run at a time: much of what they do is to wait.
const MESHES: usize = 2;

/// Runs cargo in the workspace.
pub fn cargo(args: &[&str], env: &[(&str, &str)]) -> Outcome {
    let mut command = cargo::command();
    command.args(args).envs(env.iter().copied()).stdin(Stdio::null());
    match command.status() {
        Ok(status) if status.success() => Outcome::Passed,
        Ok(status) => Outcome::Failed(format!("cargo {}: {status}", args.join(" "))),
        Err(e) => Outcome::Failed(format!("cargo {}: {e}", args.join(" "))),
    }
}

fn summary(rows: &[(Suite, Outcome, Duration)]) -> Result<()> {
    println!("\n{:12} {:8} {:>7}  why", "suite", "result", "time");
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (suite, outcome, time) in rows {
        let (result, why) = match outcome {
            Outcome::Passed => {
                passed += 1;
                ("passed", "")
            }
            Outcome::Failed(why) => {
                failed += 1;
                ("FAILED", why.as_str())
            }
            Outcome::NotRun(why) => {
                skipped += 1;
                ("not run", why.as_str())
            }
        };
        println!("{:12} {result:8} {:>6.1}s  {why}", name(*suite), time.as_secs_f32());
    }
    println!("suites: {passed} passed, {failed} failed, {skipped} skipped");
    if failed > 0 {
        bail!("{failed} of {} suites failed", rows.len());
    }
    Ok(())
}
