//! How long shall it soak? `soak --proa PATH [--seconds N]`.

use std::process::ExitCode;
use std::time::Duration;

fn main() -> anyhow::Result<ExitCode> {
    let (mut program, mut seconds) = (std::path::PathBuf::from("proa"), 60);
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().unwrap_or_default();
        match flag.as_str() {
            "--proa" => program = value.into(),
            "--seconds" => seconds = value.parse()?,
            other => anyhow::bail!("unknown flag {other}"),
        }
    }
    let report = differential::soak::run(&program, Duration::from_secs(seconds))?;
    report.lines.iter().for_each(|l| println!("{l}"));
    report.faults.iter().for_each(|f| println!("FAULT: {f}"));
    Ok(if report.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
