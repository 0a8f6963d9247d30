//! Which test programs are there, and what do they say? Cargo builds them, and they are run without it: all at once with the features
//! of the whole workspace, so that nothing is built twice, and so that suites can run while cargo builds something else.

use crate::cargo;
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;

/// A test program that is built.
#[derive(Clone)]
pub struct Program {
    /// Its package.
    pub package: String,
    /// Its target: `tests/NAME.rs`, else the library or program whose unit tests it holds.
    pub name: String,
    path: PathBuf,
    dir: PathBuf,
}

/// What a test program printed, and whether it held.
pub struct Said {
    pub program: Program,
    pub passed: bool,
    pub text: String,
}

/// What cargo says of each thing that it has built.
#[derive(Deserialize)]
struct Artifact {
    manifest_path: PathBuf,
    target: Target,
    profile: Profile,
    executable: PathBuf,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// Builds the programs of these integration tests, or without names all of the workspace, and ours that they start.
pub fn build(tests: &[&str]) -> Result<Vec<Program>> {
    let mut command = cargo::command();
    command.args(["test", "--workspace", "--no-run", "--quiet", "--message-format", "json-render-diagnostics"]);
    command.args(tests.iter().flat_map(|t| ["--test", t]));
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("cargo test")?;
    if !output.status.success() {
        bail!("the tests do not build");
    }
    let lines = output.stdout.split(|b| *b == b'\n');
    let built = lines.filter_map(|line| serde_json::from_slice::<Artifact>(line).ok()).filter(|a| a.profile.test);
    let mut programs = Vec::new();
    for artifact in built {
        let dir = artifact.manifest_path.parent().context("a manifest in no folder")?.to_owned();
        let folder = dir.file_name().unwrap_or_default().to_string_lossy();
        let package = if folder == "xtask" { folder.into_owned() } else { format!("proa-{folder}") };
        programs.push(Program { package, name: artifact.target.name, path: artifact.executable, dir });
    }
    programs.sort_by(|a, b| (&a.package, &a.name).cmp(&(&b.package, &b.name)));
    Ok(programs)
}

impl Program {
    /// The program, started where cargo would start it.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.current_dir(&self.dir).env("CARGO_MANIFEST_DIR", &self.dir).stdin(Stdio::null());
        command
    }

    fn run(self, args: &[&str], env: &[(&str, &str)]) -> Said {
        match self.command().args(args).envs(env.iter().copied()).output() {
            Ok(o) => {
                let text = String::from_utf8_lossy(&o.stdout) + String::from_utf8_lossy(&o.stderr);
                Said { passed: o.status.success(), text: text.into_owned(), program: self }
            }
            Err(e) => Said { passed: false, text: format!("{e}"), program: self },
        }
    }
}

/// Runs programs, some at a time, and tells what each said as it ends: one line of those that held, all of the others.
pub fn run(programs: Vec<Program>, at_a_time: usize, args: &[&str], env: &[(&str, &str)]) -> Vec<Said> {
    let left = Mutex::new(VecDeque::from(programs));
    let said = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..at_a_time {
            scope.spawn(|| {
                while let Some(program) = { left.lock().expect("no holder panics").pop_front() } {
                    let one = program.run(args, env);
                    let mut all = said.lock().expect("no holder panics");
                    one.tell();
                    all.push(one);
                }
            });
        }
    });
    said.into_inner().expect("no holder panics")
}

impl Said {
    fn tell(&self) {
        let Program { package, name, .. } = &self.program;
        let result = self.text.lines().rfind(|l| l.starts_with("test result"));
        println!("{package} {name}: {}", result.unwrap_or("ended without a result"));
        if !self.passed {
            println!("{}", self.text);
        }
    }
}
