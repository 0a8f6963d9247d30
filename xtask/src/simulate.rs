//! Does it hold for many seeds? The seeded worlds of the test suites, with as many seeds as asked for: xDS at both ends,
//! and random resources applied step by step against from scratch. The small numbers run with `cargo xtask test`.

use anyhow::{Result, bail};

use crate::cargo;

/// Options of `cargo xtask simulate`.
#[derive(clap::Args)]
pub struct Args {
    /// Seeds per world.
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// Only this one seed, as a failure prints it.
    #[arg(long)]
    seed: Option<u64>,
    /// Worlds to run; without names: all.
    #[arg(value_enum)]
    worlds: Vec<World>,
}

/// A seeded world.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum World {
    /// Both ends of xDS under loss, duplication, refusal and reconnection.
    Xds,
    /// Random resources: what is sent after each change against what a fresh control plane would send.
    Incremental,
}

pub fn run(args: &Args) -> Result<()> {
    let all = [World::Xds, World::Incremental];
    for world in all.into_iter().filter(|w| args.worlds.is_empty() || args.worlds.contains(w)) {
        let (package, test): (&str, &[&str]) = match world {
            World::Xds => ("proa-xds", &["--lib", "--test", "world", "world"]),
            World::Incremental => ("proa-translate", &["--test", "incremental"]),
        };
        let mut command = cargo::command();
        command.args(["test", "--package", package]).args(test).args(["--", "--nocapture", "--include-ignored"]);
        command.env("PROA_SEEDS", args.seeds.to_string());
        if let Some(seed) = args.seed {
            command.env("PROA_SEED", seed.to_string());
        }
        println!("{command:?}");
        if !command.status()?.success() {
            bail!("{package} failed; the output names the seed, --seed runs it alone");
        }
    }
    Ok(())
}
