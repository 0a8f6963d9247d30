//! How many cases, from which seed? `proa-differential --envoy PATH --proa PATH [--cases N] [--seed S] [--per-world N] [--show N]`.

use differential::{Options, Report, run};
use std::process::ExitCode;

fn main() -> anyhow::Result<ExitCode> {
    let mut options = Options {
        envoy: "envoy".into(),
        proa: "proa".into(),
        cases: 1_000,
        cases_per_world: 100,
        seed: 1,
        differences_max: 20,
    };
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().unwrap_or_default();
        match flag.as_str() {
            "--envoy" => options.envoy = value.into(),
            "--proa" => options.proa = value.into(),
            "--cases" => options.cases = value.parse()?,
            "--per-world" => options.cases_per_world = value.parse()?,
            "--seed" => options.seed = value.parse()?,
            "--show" => options.differences_max = value.parse()?,
            other => anyhow::bail!("unknown flag {other}"),
        }
    }
    let report = run(&options)?;
    report.differences.iter().for_each(|d| println!("{d}\n"));
    if let Some(first) = report.refused.first() {
        println!("Envoy refused {} worlds, such as {first}", report.refused.len());
    }
    let Report { cases, worlds, differences, .. } = &report;
    println!("{cases} cases in {worlds} worlds, {} differences", differences.len());
    Ok(if differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
