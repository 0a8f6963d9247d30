//! How long shall it run? `proa-fuzz [TARGET] [--seconds N] [--seed S]`: a campaign bounded in time.

use fuzz::targets::TARGETS;
use std::process::ExitCode;
use std::time::{Duration, Instant};

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (mut wanted, mut seconds, mut seed) = (None, 60, 1);
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|n| n.parse::<u64>().ok());
        match arg.as_str() {
            "--seconds" => seconds = number().unwrap_or(seconds),
            "--seed" => seed = number().unwrap_or(seed),
            _ => wanted = Some(arg),
        }
    }
    let chosen: Vec<_> = TARGETS.iter().filter(|t| wanted.as_deref().is_none_or(|w| w == t.name)).collect();
    if chosen.is_empty() {
        let known: Vec<_> = TARGETS.iter().map(|t| t.name).collect();
        eprintln!("no such target; there are {}", known.join(", "));
        return ExitCode::FAILURE;
    }
    for target in chosen {
        let end = Instant::now() + Duration::from_secs(seconds);
        let count = fuzz::campaign(target, seed, |_| Instant::now() < end);
        println!("{}: {count} inputs in {seconds} s, clean", target.name);
    }
    ExitCode::SUCCESS
}
