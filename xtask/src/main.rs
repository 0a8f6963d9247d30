//! Which chore is it? `cargo xtask test|tidy|bench|simulate|differential|fuzz|soak|protos`: everything CI and people run.
//!
//! Absent: any knowledge of how the mesh works. xtask starts other programs and reads what they print.

mod bench;
mod cargo;
mod conformance;
mod deny;
mod differential;
mod fuzz;
mod programs;
mod protocols;
mod protos;
mod push;
mod sidecar_bench;
mod simulate;
mod soak;
mod suites;
mod tidy;
mod tools;

use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// Chores of the Proa workspace.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Xtask {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Run the test suites, installing what they need. Without names: all of them.
    ///
    /// Suites: fmt, tidy, clippy, doc, deny, unit, conformance, fuzz, differential, protocols, e2e.
    Test {
        /// Suites to run.
        #[arg(value_enum)]
        suites: Vec<suites::Suite>,
    },
    /// Check what no compiler checks: floors, file sizes, file heads.
    Tidy,
    /// Compare our proxy with stock Envoy on generated configurations and requests.
    Differential(differential::Args),
    /// Let every parser that a peer or a person can reach eat mutated input, guided by the code it reaches.
    Fuzz(fuzz::Args),
    /// Mixed traffic, changing configuration, faults and broken connections for a long time; judges memory and leftovers.
    Soak(soak::Args),
    /// Measure the proxy beside its peers with proxybench, and print the tables of docs/performance.md.
    Bench(bench::Args),
    /// Run the seeded worlds of the test suites with many seeds.
    Simulate(simulate::Args),
    /// Refresh crates/protos/descriptor.bin from the registries' Envoy, xDS and OTLP definitions and our own.
    Protos,
}

fn main() -> std::process::ExitCode {
    match chore() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("xtask: {why:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn chore() -> anyhow::Result<()> {
    match Xtask::parse().chore {
        Chore::Test { suites } => suites::run(&suites),
        Chore::Tidy => tidy::run(),
        Chore::Differential(args) => differential::run(&args),
        Chore::Fuzz(args) => fuzz::run(&args),
        Chore::Soak(args) => soak::run(&args),
        Chore::Bench(args) => bench::run(&args),
        Chore::Simulate(args) => simulate::run(&args),
        Chore::Protos => protos::run(),
    }
}

/// The workspace root: where this crate's manifest has its parent.
fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("xtask lies in the workspace").to_owned()
}
