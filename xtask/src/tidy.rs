//! What does no compiler check? Floors, file sizes, file heads, words that belong elsewhere.

use crate::{cargo, root};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Longest file by hand: past 800 lines a file has a second idea in it.
const FILE_LINES_MAX: usize = 800;

/// Crates that decide: no I/O, clock or runtime may reach them.
const PURE: &[&str] =
    &["names", "api", "pki", "xds", "http1", "proxy-config", "model", "proxy-core", "translate", "inject"];
/// What a pure crate may not depend on.
const ACTING: &[&str] = &["tokio", "hyper", "hyper-util", "tokio-rustls", "socket2", "nix", "notify", "axum", "kube"];

pub fn run() -> Result<()> {
    let mut wrong = floors()?;
    for dir in ["crates", "xtask"] {
        walk(&root().join(dir), &mut wrong)?;
    }
    if wrong.is_empty() {
        println!("tidy: nothing to say");
        return Ok(());
    }
    wrong.iter().for_each(|w| println!("{w}"));
    bail!("{} things out of place", wrong.len())
}

fn floors() -> Result<Vec<String>> {
    let output =
        cargo::command().args(["metadata", "--format-version", "1", "--no-deps"]).output().context("cargo metadata")?;
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata prints JSON")?;
    let packages = metadata["packages"].as_array().context("packages")?;
    let floor_of = |p: &Value| p["metadata"]["proa"]["floor"].as_u64();
    let floors: BTreeMap<&str, u64> =
        packages.iter().filter_map(|p| Some((p["name"].as_str()?, floor_of(p)?))).collect();
    let mut wrong = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        if name == "xtask" {
            continue;
        }
        let Some(&floor) = floors.get(name) else {
            wrong.push(format!("{name}: state its floor: [package.metadata.proa] floor = N"));
            continue;
        };
        let short = name.strip_prefix("proa-").unwrap_or(name);
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let on = dependency["name"].as_str().unwrap_or_default();
            if let Some(&below) = floors.get(on)
                && below >= floor
            {
                wrong.push(format!("{name} (floor {floor}) depends on {on} (floor {below}): only lower floors"));
            }
            let acts = ACTING.contains(&on) && dependency["kind"].is_null();
            if PURE.contains(&short) && acts {
                wrong.push(format!("{name} decides and may not act: drop {on}"));
            }
        }
    }
    Ok(wrong)
}

fn walk(dir: &Path, wrong: &mut Vec<String>) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, wrong)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            file(&path, wrong)?;
        }
    }
    Ok(())
}

fn file(path: &Path, wrong: &mut Vec<String>) -> Result<()> {
    let text = std::fs::read_to_string(path)?;
    let shown = path.strip_prefix(root()).unwrap_or(path).display();
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        wrong.push(format!("{shown}: {lines} lines, at most {FILE_LINES_MAX}: which two ideas are in it?"));
    }
    let is_test = shown.to_string().contains("/tests/") || shown.to_string().ends_with("tests.rs");
    if !is_test && !text.starts_with("//!") {
        wrong.push(format!("{shown}: begin with //! and the question that the file answers"));
    }
    Ok(())
}
