//! Where does our proxy differ from stock Envoy? The same generated configuration and requests to both.
//!
//! A *scene* is a listener with its clusters, made from a seed; a *case* is one request to it. Scenes run in batches, one
//! process of each proxy per batch, both sides at the same time. Compared are status, headers, trailers and body of the
//! response, what the handshake agreed on, the request as the upstream saw it, the chosen host, the access-log line with
//! its flags and details, and the counters that moved. A difference prints the scene's seed and the case, which is all that
//! is needed to see it again. Absent: expectations by hand; Envoy is the expectation.

pub mod ambiguous;
pub mod backend;
pub mod batch;
pub mod client;
pub mod compare;
pub mod proxy;
pub mod request;
pub mod rng;
pub mod scene;
pub mod soak;
pub mod stand;
pub mod tls;

use anyhow::Result;
use batch::Batch;
use scene::{Scene, Surroundings};
use std::path::PathBuf;

/// Upstream servers.
const BACKENDS: usize = 3;
/// A port on which no system listens: Debian's services begin above it.
const CLOSED_PORT: u16 = 1;

/// What to run.
pub struct Options {
    /// Stock Envoy's program.
    pub envoy: PathBuf,
    /// Our program; called as `proa proxy …` when that is its name, else as the proxy itself.
    pub proa: PathBuf,
    /// How many requests in all.
    pub cases: u64,
    /// How many requests per scene.
    pub cases_per_scene: u64,
    /// How many scenes per process.
    pub scenes_per_batch: u64,
    /// Seed of the first scene; the next one's is one more.
    pub seed: u64,
    /// Differences to print before stopping.
    pub differences_max: usize,
    /// Print the first scene's configuration and all facts.
    pub verbose: bool,
}

/// What came of it.
#[derive(Default)]
pub struct Report {
    /// Requests compared.
    pub cases: u64,
    /// Scenes tried.
    pub scenes: u64,
    /// Scenes that Envoy refused, and why.
    pub refused: Vec<String>,
    /// Differences, printable, with seed and case.
    pub differences: Vec<String>,
}

/// Runs until all cases are compared or enough differences are found.
pub fn run(options: &Options) -> Result<Report> {
    let certificates = tls::Certificates::make()?;
    let backends = backend::start(BACKENDS, &certificates)?;
    let around = Surroundings { backends: &backends, closed_port: CLOSED_PORT, certificates: &certificates };
    let dir = std::env::temp_dir().join(format!("proa-differential-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let mut report = Report::default();
    let mut seed = options.seed;
    while report.cases < options.cases && report.differences.len() < options.differences_max {
        let left = (options.cases - report.cases).div_ceil(options.cases_per_scene);
        let scenes: Vec<Scene> = (0..options.scenes_per_batch.min(left)).map(|i| Scene::new(seed + i)).collect();
        seed += scenes.len() as u64;
        let batch = Batch { options, around: &around, dir: &dir };
        batch.run(&scenes, &mut report)?;
        if report.scenes % 200 < options.scenes_per_batch {
            eprintln!("{} cases, {} differences", report.cases, report.differences.len());
        }
    }
    let _ = std::fs::remove_dir_all(&dir);
    Ok(report)
}
