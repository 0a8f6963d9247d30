//! How many cases, from which seed? `proa-differential --envoy PATH --proa PATH [--cases N] [--seed S] [--per-scene N]
//! [--scenes N] [--show N] [--verbose 1]`.

use differential::{Options, Report, run};
use std::process::ExitCode;

fn main() -> anyhow::Result<ExitCode> {
    let mut options = Options {
        envoy: "envoy".into(),
        proa: "proa".into(),
        cases: 1_000,
        cases_per_scene: 50,
        scenes_per_batch: 20,
        seed: 1,
        differences_max: 20,
        verbose: false,
    };
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().unwrap_or_default();
        match flag.as_str() {
            "--envoy" => options.envoy = value.into(),
            "--proa" => options.proa = value.into(),
            "--cases" => options.cases = value.parse()?,
            "--per-scene" => options.cases_per_scene = value.parse()?,
            "--scenes" => options.scenes_per_batch = value.parse()?,
            "--seed" => options.seed = value.parse()?,
            "--show" => options.differences_max = value.parse()?,
            "--verbose" => options.verbose = value == "1",
            other => anyhow::bail!("unknown flag {other}"),
        }
    }
    let began = std::time::Instant::now();
    let report = run(&options)?;
    report.differences.iter().take(options.differences_max).for_each(|d| println!("{d}\n"));
    if let Some(first) = report.refused.first() {
        println!("Envoy refused {} scenes, such as {first}", report.refused.len());
    }
    let Report { cases, scenes, differences, .. } = &report;
    let seconds = began.elapsed().as_secs();
    println!("{cases} cases in {scenes} scenes, {} differences, {seconds} s", differences.len());
    Ok(if differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
