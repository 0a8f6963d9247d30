//! What does a push cost? Runs the control plane's example `push` over the original's benchmark meshes, and over a served
//! mesh with a thousand clients, and prints the tables of docs/performance.md.
//!
//! The meshes lie outside the project: in the folder named by `PROA_CONFORMANCE`, or `../shared/conformance` beside the
//! checkout.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::{cargo, root};

pub fn run() -> Result<()> {
    let data = std::env::var_os("PROA_CONFORMANCE").map_or_else(|| root().join("../shared/conformance"), PathBuf::from);
    let data = data.join("push-benchmarks");
    let mut files: Vec<PathBuf> = match std::fs::read_dir(&data) {
        Ok(found) => found.flatten().map(|f| f.path()).collect(),
        Err(e) => bail!("no meshes at {}: {e}; name the folder above in PROA_CONFORMANCE", data.display()),
    };
    files.sort();
    let status = cargo::command()
        .args(["build", "--release", "--package", "proa-controlplane", "--example", "push"])
        .status()?;
    if !status.success() {
        bail!("the release build failed");
    }
    let program = root().join("target/release/examples/push");
    for args in [vec!["cases"], vec!["mesh"]] {
        let mut command = Command::new(&program);
        command.args(&args);
        if args == ["cases"] {
            command.args(&files);
        }
        if !command.status()?.success() {
            bail!("push {} failed", args[0]);
        }
    }
    Ok(())
}
