//! Does any input make a parser misbehave? Builds `proa-fuzz` with coverage and lets its targets run, as many at a time as
//! there are processors.

use crate::{cargo, root};
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

/// Options of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub struct Args {
    /// Processor minutes of each target.
    #[arg(long, default_value_t = 10)]
    pub minutes: u64,
    /// Where the mutations begin.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Targets; without names, all.
    pub targets: Vec<String>,
}

pub fn run(args: &Args) -> Result<()> {
    // A folder of its own: the flag is part of what every crate is built with.
    let built = root().join("target").join("fuzz");
    let mut build = cargo::command();
    build.args(["build", "--package", "proa-fuzz", "--features", "guided", "--target-dir"]).arg(&built);
    build.env("RUSTFLAGS", "-C instrument-coverage").env("LLVM_PROFILE_FILE", "/dev/null");
    if !build.status()?.success() {
        bail!("the build failed");
    }
    let program = built.join("debug").join("proa-fuzz");
    let targets = if args.targets.is_empty() { list(&program)? } else { args.targets.clone() };
    let (waiting, failed) = (Mutex::new(targets.into_iter()), Mutex::new(Vec::new()));
    let jobs = std::thread::available_parallelism().map_or(1, Into::into);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(target) = waiting.lock().ok().and_then(|mut w| w.next()) {
                    if !campaign(&program, &target, args)
                        && let Ok(mut failed) = failed.lock()
                    {
                        failed.push(target);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_default();
    if !failed.is_empty() {
        bail!("findings in {}", failed.join(", "));
    }
    Ok(())
}

fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env("LLVM_PROFILE_FILE", "/dev/null");
    command
}

fn list(program: &Path) -> Result<Vec<String>> {
    let out = command(program).arg("--list").output().with_context(|| program.display().to_string())?;
    Ok(String::from_utf8_lossy(&out.stdout).lines().map(str::to_owned).collect())
}

fn campaign(program: &Path, target: &str, args: &Args) -> bool {
    let seconds = (args.minutes * 60).to_string();
    let seed = args.seed.to_string();
    let status = command(program).args([target, "--seconds", &seconds, "--seed", &seed]).status();
    status.is_ok_and(|s| s.success())
}
