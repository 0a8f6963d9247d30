//! May all of that be in our tree? Licences, bans and sources by the rules of deny.toml.
//!
//! cargo-deny does it where it is installed. Elsewhere the same file is read here: the expressions by the `spdx` crate,
//! the tree from `cargo tree`. Absent: advisories, whose database is not in a package registry.

use crate::suites::Outcome;
use crate::{cargo, root};
use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::BTreeSet;
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
        let status = command.current_dir(root()).args(["check", "licenses", "bans", "sources"]).status()?;
        return Ok(if status.success() { Outcome::Passed } else { Outcome::Failed(format!("cargo-deny: {status}")) });
    }
    let rules: Rules = toml::from_str(&std::fs::read_to_string(root().join("deny.toml"))?).context("deny.toml")?;
    let allowed = rules.licenses.allow.iter().map(|l| spdx::Licensee::parse(l));
    let allowed = allowed.collect::<Result<Vec<_>, _>>().context("deny.toml: licenses.allow")?;
    let wrong: Vec<String> = packages()?.iter().filter_map(|p| judge(p, &allowed, &rules.bans.deny)).collect();
    wrong.iter().for_each(|w| println!("{w}"));
    println!("checked with xtask's own reading of deny.toml; install cargo-deny for duplicates and advisories");
    Ok(match wrong.len() {
        0 => Outcome::Passed,
        n => Outcome::Failed(format!("{n} packages against deny.toml")),
    })
}

/// A package of the tree, as `cargo tree` prints it: `name v1.2.3 (place)` and its licence.
struct Package {
    name: String,
    /// Version, and the place where it is not the registry.
    rest: String,
    license: String,
}

/// Every package that is built for our targets, our own left out.
fn packages() -> Result<Vec<Package>> {
    let output = cargo::command()
        .args(["tree", "--workspace", "--edges", "normal,build,dev", "--prefix", "none", "--format", "{p}|{l}"])
        .output()
        .context("cargo tree")?;
    let text = String::from_utf8(output.stdout).context("cargo tree prints UTF-8")?;
    let lines: BTreeSet<&str> = text.lines().map(|l| l.trim_end_matches(" (*)")).collect();
    let parse = |line: &str| {
        let (package, license) = line.split_once('|')?;
        let (name, rest) = package.split_once(' ')?;
        Some(Package { name: name.into(), rest: rest.into(), license: license.into() })
    };
    Ok(lines
        .into_iter()
        .filter_map(parse)
        .filter(|p| p.name != "proa" && p.name != "xtask" && !p.name.starts_with("proa-"))
        .collect())
}

/// What is wrong with a package, if anything.
fn judge(package: &Package, allowed: &[spdx::Licensee], banned: &[Banned]) -> Option<String> {
    let Package { name, rest, license } = package;
    if banned.iter().any(|b| b.name == *name) {
        return Some(format!("{name} {rest} is banned"));
    }
    if rest.contains("://") || rest.contains("(/") {
        return Some(format!("{name} {rest} does not come from the registry"));
    }
    let Ok(expression) = spdx::Expression::parse_mode(license, spdx::ParseMode::LAX) else {
        return Some(format!("{name} {rest}: licence {license:?} is no SPDX expression"));
    };
    let fits = expression.evaluate(|wanted| allowed.iter().any(|a| a.satisfies(wanted)));
    (!fits).then(|| format!("{name} {rest}: licence {license} is not allowed"))
}
