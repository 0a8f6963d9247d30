//! May all of that be in our tree? Licences, bans and sources by the rules of deny.toml.
//!
//! cargo-deny does it where it is installed. Elsewhere the same file is read here: the expressions by the `spdx` crate,
//! the tree from `cargo metadata`. Absent: advisories, whose database is not in a package registry.

use crate::root;
use crate::suites::Outcome;
use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;
use std::process::Command;

#[derive(Deserialize)]
struct Rules {
    licenses: Licenses,
    bans: Bans,
}

#[derive(Deserialize)]
struct Licenses {
    allow: Vec<String>,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Banned>,
}

#[derive(Deserialize)]
struct Banned {
    name: String,
}

pub fn run() -> Result<Outcome> {
    if crate::tools::has("cargo-deny") {
        let mut command = Command::new("cargo-deny");
        let status = command
            .current_dir(root())
            .args(["check", "licenses", "bans", "sources"])
            .status()?;
        return Ok(if status.success() {
            Outcome::Passed
        } else {
            Outcome::Failed(format!("cargo-deny: {status}"))
        });
    }
    let rules: Rules =
        toml::from_str(&std::fs::read_to_string(root().join("deny.toml"))?).context("deny.toml")?;
    let allowed = rules
        .licenses
        .allow
        .iter()
        .map(|l| spdx::Licensee::parse(l));
    let allowed = allowed
        .collect::<Result<Vec<_>, _>>()
        .context("deny.toml: licenses.allow")?;
    let wrong: Vec<String> = packages()?
        .iter()
        .filter_map(|p| judge(p, &allowed, &rules.bans.deny))
        .collect();
    wrong.iter().for_each(|w| println!("{w}"));
    println!(
        "checked with xtask's own reading of deny.toml; install cargo-deny for duplicates and advisories"
    );
    Ok(match wrong.len() {
        0 => Outcome::Passed,
        n => Outcome::Failed(format!("{n} packages against deny.toml")),
    })
}

/// Every package of the tree for our targets, our own left out.
fn packages() -> Result<Vec<Value>> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(root())
        .args([
            "metadata",
            "--format-version",
            "1",
            "--filter-platform",
            "x86_64-unknown-linux-gnu",
        ])
        .output()?;
    let metadata: Value =
        serde_json::from_slice(&output.stdout).context("cargo metadata prints JSON")?;
    let all = metadata["packages"].as_array().context("packages")?;
    let resolved: Vec<&str> = metadata["resolve"]["nodes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|n| n["id"].as_str())
        .collect();
    let ours = |p: &&Value| p["source"].is_null();
    let used = |p: &&Value| p["id"].as_str().is_some_and(|id| resolved.contains(&id));
    Ok(all
        .iter()
        .filter(|p| used(p) && !ours(p))
        .cloned()
        .collect())
}

/// What is wrong with a package, if anything.
fn judge(package: &Value, allowed: &[spdx::Licensee], banned: &[Banned]) -> Option<String> {
    let name = package["name"].as_str()?;
    let version = package["version"].as_str()?;
    if banned.iter().any(|b| b.name == name) {
        return Some(format!("{name} {version} is banned"));
    }
    if !package["source"].as_str()?.starts_with("registry+") {
        return Some(format!("{name} {version} comes from {}", package["source"]));
    }
    let Some(license) = package["license"].as_str() else {
        return Some(format!("{name} {version} states no licence"));
    };
    let Ok(expression) = spdx::Expression::parse_mode(license, spdx::ParseMode::LAX) else {
        return Some(format!(
            "{name} {version}: licence {license:?} is no SPDX expression"
        ));
    };
    let fits = expression.evaluate(|wanted| allowed.iter().any(|a| a.satisfies(wanted)));
    (!fits).then(|| format!("{name} {version}: licence {license} is not allowed"))
}
