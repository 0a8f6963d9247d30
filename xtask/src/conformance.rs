//! How much of the original's own test data do we serve? Collects the area runners' counts into a table and JSON.
//!
//! The data lies outside the project: in the folder named by `PROA_CONFORMANCE`, or `../shared/conformance` beside the
//! checkout. Each area has a runner `crates/*/tests/conformance_*.rs` that prints one JSON line of counts; areas that
//! are in the folder and have no runner are listed as not yet served.

use crate::programs::{self, Program};
use crate::root;
use crate::suites::Outcome;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Counts of one area.
#[derive(Serialize, Deserialize, Clone)]
struct Area {
    area: String,
    passed: usize,
    failed: usize,
    /// Differences that the project lists with a reason.
    #[serde(default)]
    allowed: usize,
    #[serde(default)]
    not_served: usize,
}

/// Programs that run at a time.
const AT_A_TIME: usize = 2;

pub fn run(programs: Vec<Program>) -> Result<Outcome> {
    let data = match std::env::var_os("PROA_CONFORMANCE") {
        Some(named) => PathBuf::from(named),
        None => root().join("../shared/conformance"),
    };
    if !data.is_dir() {
        return Ok(Outcome::NotRun(format!(
            "no conformance data at {}: name the folder in PROA_CONFORMANCE",
            data.display()
        )));
    }
    let data = data.canonicalize()?;
    let (mut areas, mut broken) = (Vec::new(), Vec::new());
    let env = [("PROA_CONFORMANCE", data.to_str().context("the data's path is not UTF-8")?)];
    for said in programs::run(programs, AT_A_TIME, &["--nocapture"], &env) {
        let Program { package, name, .. } = &said.program;
        let before = areas.len();
        areas.extend(said.text.lines().filter_map(counts));
        if areas.len() == before {
            broken.push(format!("{package} {name} printed no counts"));
        } else if !said.passed {
            broken.push(format!("{package} {name} failed"));
        }
    }
    unserved(&data, &mut areas)?;
    areas.sort_by(|a, b| a.area.cmp(&b.area));
    table(&areas);
    write_json(&areas)?;
    let failed: usize = areas.iter().map(|a| a.failed).sum();
    Ok(match (broken.is_empty(), failed) {
        (true, 0) => Outcome::Passed,
        (true, n) => Outcome::Failed(format!("{n} cases differ from the original")),
        (false, _) => Outcome::Failed(broken.join("; ")),
    })
}

/// A runner's line of counts; the test harness may have printed something in front of it on the same line.
fn counts(line: &str) -> Option<Area> {
    serde_json::from_str(&line[line.find("{\"area\"")?..]).ok()
}

/// Names of every `crates/*/tests/conformance_*.rs`.
pub fn runners() -> Vec<String> {
    let folders = std::fs::read_dir(root().join("crates")).into_iter().flatten().flatten();
    let files = folders.flat_map(|krate| std::fs::read_dir(krate.path().join("tests")).into_iter().flatten().flatten());
    let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
    names.filter_map(|n| n.strip_suffix(".rs").filter(|t| t.starts_with("conformance_")).map(str::to_owned)).collect()
}

/// Adds the folders of the data that no runner spoke for. An area `networking-simulation` speaks for `networking`.
fn unserved(data: &Path, areas: &mut Vec<Area>) -> Result<()> {
    for folder in std::fs::read_dir(data)? {
        let folder = folder?;
        let name = folder.file_name().to_string_lossy().into_owned();
        let spoken = areas.iter().any(|a| a.area.starts_with(&name));
        if folder.path().is_dir() && !spoken {
            let cases = count_cases(&folder.path());
            areas.push(Area { area: name, passed: 0, failed: 0, allowed: 0, not_served: cases });
        }
    }
    Ok(())
}

/// A rough size of an area that nobody reads yet: entries of its JSON tables, else its files.
fn count_cases(folder: &Path) -> usize {
    let files: Vec<_> = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|f| f.path()).collect();
    let entries: usize = files
        .iter()
        .filter(|f| f.extension().is_some_and(|e| e == "json"))
        .filter_map(|f| serde_json::from_slice::<serde_json::Value>(&std::fs::read(f).ok()?).ok())
        .map(|v| v.as_array().map_or_else(|| v.as_object().map_or(0, |o| o.len()), Vec::len))
        .sum();
    entries.max(files.len())
}

fn table(areas: &[Area]) {
    println!("\n{:28} {:>7} {:>7} {:>8} {:>11}", "area", "passed", "failed", "allowed", "not served");
    for a in areas {
        println!("{:28} {:>7} {:>7} {:>8} {:>11}", a.area, a.passed, a.failed, a.allowed, a.not_served);
    }
}

fn write_json(areas: &[Area]) -> Result<()> {
    let path = root().join("target/conformance.json");
    std::fs::create_dir_all(root().join("target"))?;
    std::fs::write(&path, serde_json::to_string_pretty(areas)?)?;
    println!("{}", serde_json::to_string(areas)?);
    Ok(())
}
