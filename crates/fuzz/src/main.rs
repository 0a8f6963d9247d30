//! How long shall it run? `proa-fuzz [TARGET] [--seconds N] [--seed S]`: a campaign bounded in time, `proa-fuzz --list`: the
//! targets. Seconds are those of the processor, so that a busy machine doesn't shorten a campaign.

use fuzz::targets::TARGETS;
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (mut wanted, mut seconds, mut seed) = (None, 60, 1);
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|n| n.parse::<u64>().ok());
        match arg.as_str() {
            "--seconds" => seconds = number().unwrap_or(seconds),
            "--list" => {
                TARGETS.iter().for_each(|t| println!("{}", t.name));
                return ExitCode::SUCCESS;
            }
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
        let end = spent() + Duration::from_secs(seconds);
        let ran = fuzz::campaign(target, seed, |_| spent() < end);
        let (name, fuzz::Ran { inputs, kept, places }) = (target.name, ran);
        println!("{name}: {inputs} inputs in {seconds} s, {kept} of them kept, {places} places reached, clean");
    }
    ExitCode::SUCCESS
}

/// Processor time of this process.
#[allow(unsafe_code)] // A plain C call that fills the structure it is given; std has none for it.
fn spent() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is valid for the call.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}
