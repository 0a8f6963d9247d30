//! Does the proxy stay what it is for a long time? Builds it and runs `proa-soak`.

use crate::{cargo, root};
use anyhow::{Result, bail};
use std::process::Command;

/// Options of `cargo xtask soak`.
#[derive(clap::Args)]
pub struct Args {
    /// How long the traffic lasts.
    #[arg(long, default_value_t = 30)]
    pub minutes: u64,
    /// With the release build.
    #[arg(long)]
    pub release: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let mut build = cargo::command();
    build.args(["build", "--package", "proa", "--package", "proa-differential"]);
    if args.release {
        build.arg("--release");
    }
    if !build.status()?.success() {
        bail!("the build failed");
    }
    let built = root().join("target").join(if args.release { "release" } else { "debug" });
    let seconds = (args.minutes * 60).to_string();
    let status = Command::new(built.join("proa-soak"))
        .arg("--proa")
        .arg(built.join("proa"))
        .args(["--seconds", &seconds])
        .status()?;
    if !status.success() {
        bail!("the soak found faults");
    }
    Ok(())
}
