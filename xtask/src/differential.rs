//! Where does our proxy differ from stock Envoy? Builds both sides and runs `proa-differential`.

use crate::{programs, tools};
use anyhow::{Result, bail};
use std::process::Command;

/// Options of `cargo xtask differential`.
#[derive(clap::Args)]
pub struct Args {
    /// Requests to compare.
    #[arg(long, default_value_t = 1_000)]
    pub cases: u64,
    /// Seed of the first configuration.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Requests per configuration.
    #[arg(long, default_value_t = 50)]
    pub per_scene: u64,
    /// Configurations per process.
    #[arg(long, default_value_t = 20)]
    pub scenes: u64,
    /// Differences to print before stopping.
    #[arg(long, default_value_t = 20)]
    pub show: usize,
}

/// Builds both programs, then compares.
pub fn run(args: &Args) -> Result<()> {
    // Programs are built for the tests of their own package.
    programs::build(&["local_mesh", "ambiguous"])?;
    compare(args)
}

/// Compares with what is built.
pub fn compare(args: &Args) -> Result<()> {
    let envoy = tools::envoy()?;
    // This program lies beside what it has just built.
    let built = std::env::current_exe()?;
    let built = built.parent().unwrap_or(&built);
    let status = Command::new(built.join("proa-differential"))
        .arg("--envoy")
        .arg(envoy)
        .arg("--proa")
        .arg(built.join("proa"))
        .args(["--cases", &args.cases.to_string(), "--seed", &args.seed.to_string()])
        .args(["--per-scene", &args.per_scene.to_string(), "--scenes", &args.scenes.to_string()])
        .args(["--show", &args.show.to_string()])
        .status()?;
    if !status.success() {
        bail!("differences found");
    }
    Ok(())
}
