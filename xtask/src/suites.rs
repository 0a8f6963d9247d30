//! Which suites are there, what did each show, and which could not run? `cargo xtask test`.

use crate::programs::{self, Program, Said};
use crate::{cargo, conformance, deny, differential, protocols, tidy, tools};
use anyhow::{Result, bail};
use clap::ValueEnum;
use std::process::Stdio;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

/// One suite of the test command.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Suite {
    /// Formatting is rustfmt's.
    Fmt,
    /// Floors, file sizes, file heads.
    Tidy,
    /// clippy, warnings denied.
    Clippy,
    /// rustdoc, warnings denied, and the examples in documentation.
    Doc,
    /// Licences, sources and banned crates.
    Deny,
    /// Unit, property, golden and component tests of every crate.
    Unit,
    /// The original's own test data.
    Conformance,
    /// Fuzz targets over their corpora and a fixed number of mutations.
    Fuzz,
    /// Generated configurations and requests through our proxy and stock Envoy.
    Differential,
    /// h2spec, gRPC interop, WebSocket and ambiguous HTTP/1 through the proxy.
    Protocols,
    /// Whole meshes, both data planes.
    E2e,
}

/// What came of a suite.
pub enum Outcome {
    /// All of it held.
    Passed,
    /// Something did not hold.
    Failed(String),
    /// Did not run, and why.
    NotRun(String),
}

/// Suites that run one after the other, beside another row of the same stage.
type Row = &'static [Suite];

/// Rows that run beside each other, stage after stage. What only compiles goes beside what is built and mostly waits; what compares
/// with Envoy under load has the machine for itself.
const STAGES: &[&[Row]] = &[
    &[&[Suite::Fmt, Suite::Tidy, Suite::Deny]],
    &[&[Suite::Unit, Suite::Conformance, Suite::Fuzz], &[Suite::Clippy, Suite::Doc]],
    &[&[Suite::Differential, Suite::Protocols, Suite::E2e]],
];

pub fn run(wanted: &[Suite]) -> Result<()> {
    let wanted = |s: &Suite| wanted.is_empty() || wanted.contains(s);
    let begin = Instant::now();
    let built = OnceLock::new();
    let rows = Mutex::new(Vec::new());
    let several = Suite::value_variants().iter().filter(|s| wanted(s)).count() > 1;
    std::thread::scope(|scope| {
        // What is fetched from elsewhere arrives while the tests are built.
        let fetches = several && Suite::value_variants().iter().any(|s| wanted(s) && s.runs_programs());
        let fetched = fetches.then(|| scope.spawn(fetch));
        for stage in STAGES {
            let needs = stage.iter().copied().flatten().any(|s| wanted(s) && s.runs_programs());
            if needs && several && built.get().is_none() {
                let start = Instant::now();
                let outcome = programs::build(&[]);
                println!("tests built in {:.0} s", start.elapsed().as_secs_f32());
                let _ = built.set(outcome.map_err(|e| format!("{e:#}")));
                // Whoever needs something that could not be had says so itself.
                fetched.as_ref().inspect(|f| {
                    while !f.is_finished() {
                        std::thread::sleep(Duration::from_millis(50))
                    }
                });
            }
            std::thread::scope(|beside| {
                for row in *stage {
                    let (rows, built) = (&rows, built.get());
                    beside.spawn(move || {
                        for &suite in row.iter().filter(|s| wanted(s)) {
                            let start = Instant::now();
                            println!("\n=== {}", name(suite));
                            let outcome = match built {
                                Some(Err(why)) if suite.runs_programs() => Outcome::Failed(why.clone()),
                                built => one(suite, built.and_then(|b| b.as_ref().ok()))
                                    .unwrap_or_else(|e| Outcome::Failed(format!("{e:#}"))),
                            };
                            if let Outcome::Failed(why) | Outcome::NotRun(why) = &outcome {
                                println!("{}: {why}", name(suite));
                            }
                            rows.lock().expect("no holder panics").push((suite, outcome, start.elapsed()));
                        }
                    });
                }
            });
        }
    });
    let mut rows = rows.into_inner().expect("no holder panics");
    rows.sort_by_key(|(suite, ..)| *suite as usize);
    summary(&rows, begin.elapsed())
}

fn name(suite: Suite) -> String {
    suite.to_possible_value().expect("no suite is hidden").get_name().to_owned()
}

impl Suite {
    /// Whether it runs test programs, or what is built for them.
    fn runs_programs(self) -> bool {
        !matches!(self, Suite::Fmt | Suite::Tidy | Suite::Deny | Suite::Clippy | Suite::Doc)
    }

    /// The integration tests that are this suite's alone; none of them are `unit`'s.
    fn tests(self) -> Vec<String> {
        let named = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        match self {
            Suite::Conformance => conformance::runners(),
            Suite::Fuzz => named(&["corpora"]),
            Suite::Protocols => named(&["ambiguous", "protocols", "filters"]),
            Suite::E2e => named(&["e2e"]),
            // The programs that it starts are built for the tests of their own packages.
            Suite::Differential => named(&["local_mesh", "ambiguous"]),
            _ => Vec::new(),
        }
    }
}

/// Gets what the suites need from elsewhere. What cannot be had is told by the suite that misses it.
fn fetch() {
    let _ = tools::install(tools::PACKAGES).and_then(|()| tools::envoy());
    let _ = protocols::tools();
}

fn one(suite: Suite, built: Option<&Vec<Program>>) -> Result<Outcome> {
    let own = suite.tests();
    let programs = match built {
        Some(all) => all.clone(),
        None if !suite.runs_programs() => Vec::new(),
        None if suite == Suite::E2e => programs::build(&["e2e", "local_mesh"])?,
        None if suite == Suite::Protocols => programs::build(&["ambiguous", "protocols", "filters", "local_mesh"])?,
        None => programs::build(&own.iter().map(String::as_str).collect::<Vec<_>>())?,
    };
    let own = |programs: Vec<Program>| programs.into_iter().filter(|p| own.contains(&p.name)).collect();
    Ok(match suite {
        Suite::Fmt => cargo(&["fmt", "--all", "--check"], &[]),
        Suite::Tidy => tidy::run().map(|()| Outcome::Passed)?,
        Suite::Clippy => cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"], &[]),
        Suite::Doc => doc(),
        Suite::Deny => deny::run()?,
        Suite::Unit => unit(programs)?,
        Suite::Conformance => conformance::run(own(programs))?,
        Suite::Fuzz => held(&programs::run(own(programs), 1, &[], &[])),
        Suite::Differential => differential::compare(&differential::Args {
            cases: CASES,
            seed: 20_000,
            per_scene: 50,
            scenes: 20,
            show: 10,
        })
        .map(|()| Outcome::Passed)?,
        Suite::Protocols => protocols::run(own(programs))?,
        Suite::E2e => e2e(own(programs))?,
    })
}

/// The documentation, and the examples in it.
fn doc() -> Outcome {
    match cargo(&["doc", "--workspace", "--no-deps", "--quiet"], &[("RUSTDOCFLAGS", "-D warnings")]) {
        Outcome::Passed => cargo(&["test", "--workspace", "--doc", "--quiet"], &[]),
        outcome => outcome,
    }
}

/// Requests that the test command compares; `cargo xtask differential` goes on for as long as asked.
const CASES: u64 = 2_500;

/// All programs but those of other suites.
fn unit(programs: Vec<Program>) -> Result<Outcome> {
    tools::install(tools::PACKAGES)?;
    let envoy = tools::envoy()?;
    let others = [Suite::Conformance, Suite::Fuzz, Suite::Protocols, Suite::E2e].map(Suite::tests).concat();
    let programs = programs.into_iter().filter(|p| !others.contains(&p.name)).collect();
    Ok(held(&programs::run(programs, 1, &[], &[("PROA_ENVOY", &envoy.display().to_string())])))
}

/// Whether all programs held.
pub fn held(said: &[Said]) -> Outcome {
    let failed: Vec<String> =
        said.iter().filter(|s| !s.passed).map(|s| format!("{} {}", s.program.package, s.program.name)).collect();
    match (said.is_empty(), failed.is_empty()) {
        (true, _) => Outcome::Failed("no test program was found".into()),
        (_, true) => Outcome::Passed,
        _ => Outcome::Failed(format!("tests failed in {}", failed.join(", "))),
    }
}

fn e2e(programs: Vec<Program>) -> Result<Outcome> {
    tools::install(tools::PACKAGES)?;
    tools::rootless_user();
    let envoy = tools::envoy()?.display().to_string();
    let threads = format!("--test-threads={MESHES}");
    if programs.is_empty() {
        return Ok(Outcome::Failed("no test program was found".into()));
    }
    let mut failed = false;
    for program in programs {
        failed |= !program.command().args(["--nocapture", &threads]).env("PROA_ENVOY", &envoy).status()?.success();
    }
    Ok(if failed { Outcome::Failed("scenarios failed".into()) } else { Outcome::Passed })
}

/// Meshes that run at a time: much of what they do is to wait.
const MESHES: usize = 2;

/// Runs cargo in the workspace.
pub fn cargo(args: &[&str], env: &[(&str, &str)]) -> Outcome {
    let mut command = cargo::command();
    command.args(args).envs(env.iter().copied()).stdin(Stdio::null());
    match command.status() {
        Ok(status) if status.success() => Outcome::Passed,
        Ok(status) => Outcome::Failed(format!("cargo {}: {status}", args.join(" "))),
        Err(e) => Outcome::Failed(format!("cargo {}: {e}", args.join(" "))),
    }
}

fn summary(rows: &[(Suite, Outcome, Duration)], whole: Duration) -> Result<()> {
    println!("\n{:12} {:8} {:>7}  why", "suite", "result", "time");
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (suite, outcome, time) in rows {
        let (result, why) = match outcome {
            Outcome::Passed => {
                passed += 1;
                ("passed", "")
            }
            Outcome::Failed(why) => {
                failed += 1;
                ("FAILED", why.as_str())
            }
            Outcome::NotRun(why) => {
                skipped += 1;
                ("not run", why.as_str())
            }
        };
        println!("{:12} {result:8} {:>6.1}s  {why}", name(*suite), time.as_secs_f32());
    }
    println!("suites: {passed} passed, {failed} failed, {skipped} skipped, in {:.0} s", whole.as_secs_f32());
    if failed > 0 {
        bail!("{failed} of {} suites failed", rows.len());
    }
    Ok(())
}
