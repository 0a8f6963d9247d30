//! How long do requests take at a given load? Requests leave on a fixed schedule, whether or not earlier ones were answered
//! in time, and their time counts from when they should have left.

use super::process::{Candidate, backend, bootstrap, free_port, request};
use anyhow::{Result, anyhow};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

const CONNECTIONS: u32 = 32;
/// Requests per second offered, all connections together.
const RATES: [u32; 3] = [1_000, 4_000, 8_000];

/// Prints percentiles per rate; rounds alternate between the candidates.
pub fn run(candidates: &[Candidate], rounds: u32, seconds: u32, work: &Path) -> Result<()> {
    let backend = backend()?;
    for rate in RATES {
        let mut all: Vec<Vec<Duration>> = vec![Vec::new(); candidates.len()];
        for _ in 0..rounds {
            for (c, times) in candidates.iter().zip(&mut all) {
                let port = free_port()?;
                let config = work.join("latency.json");
                std::fs::write(&config, bootstrap(port, backend, None)?.to_string())?;
                let _proxy = c.start(&config, port)?;
                let mut round = offer(port, rate, seconds)?;
                round.sort_unstable();
                times.push(round[round.len() * 99 / 100]);
            }
        }
        for (c, times) in candidates.iter().zip(&mut all) {
            times.sort_unstable();
            println!("latency {rate:6}/s {:8} p99 {:?} (median of {rounds})", c.name, times[times.len() / 2]);
        }
    }
    Ok(())
}

fn offer(port: u16, rate: u32, seconds: u32) -> Result<Vec<Duration>> {
    let gap = Duration::from_secs(1) * CONNECTIONS / rate;
    let count = rate * seconds / CONNECTIONS;
    let begin = Instant::now() + Duration::from_millis(100);
    let threads: Vec<_> = (0..CONNECTIONS)
        .map(|i| {
            std::thread::spawn(move || -> Result<Vec<Duration>> {
                let mut stream = TcpStream::connect(("127.0.0.1", port))?;
                stream.set_nodelay(true)?;
                let mut times = Vec::with_capacity(count as usize);
                let first = begin + gap * i / CONNECTIONS;
                for n in 0..count {
                    let due = first + gap * n;
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    request(&mut stream)?;
                    times.push(due.elapsed());
                }
                Ok(times)
            })
        })
        .collect();
    let mut all = Vec::new();
    for t in threads {
        all.extend(t.join().map_err(|_| anyhow!("a client panicked"))??);
    }
    Ok(all)
}
