//! How much of the original's own test data do we serve? Collects the area runners' counts into a table and JSON.
//!
//! The data lies outside the project: in the folder named by `PROA_CONFORMANCE`, or `../shared/conformance` beside the
//! checkout. Each area has a runner `crates/*/tests/conformance_*.rs` that prints one JSON line of counts; areas that
//! are in the folder and have no runner are listed as not yet served.

use crate::suites::{Outcome, test_of_units};
use crate::{cargo, root};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::Stdio;

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

pub fn run() -> Result<Outcome> {
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
    for (package, test) in runners()? {
        println!("running {package} {test}");
        let output = cargo::command()
            .args(test_of_units())
            .args(["--quiet", "--test", &test, "--", "--nocapture"])
            .env("PROA_CONFORMANCE", &data)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .context("cargo test")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let found = text.lines().filter_map(counts);
        let before = areas.len();
        areas.extend(found);
        if areas.len() == before || !output.status.success() {
            print!("{text}");
        }
        if areas.len() == before {
            broken.push(format!("{package} {test} printed no counts"));
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

/// A runner's line of counts; cargo may have printed something in front of it on the same line.
fn counts(line: &str) -> Option<Area> {
    serde_json::from_str(&line[line.find("{\"area\"")?..]).ok()
}

/// `(package, test)` of every `crates/*/tests/conformance_*.rs`.
fn runners() -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for krate in std::fs::read_dir(root().join("crates"))? {
        let krate = krate?;
        let Ok(tests) = std::fs::read_dir(krate.path().join("tests")) else {
            continue;
        };
        for file in tests {
            let file = file?.file_name().to_string_lossy().into_owned();
            if let Some(test) = file.strip_suffix(".rs").filter(|t| t.starts_with("conformance_")) {
                found.push((format!("proa-{}", krate.file_name().to_string_lossy()), test.to_owned()));
            }
        }
    }
    found.sort();
    Ok(found)
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
