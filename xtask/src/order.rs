//! In which order should functions lie in the program? Writes `crates/proa/functions.ld` from what callgrind saw.
//!
//! A release build, under `valgrind --tool=callgrind --demangle=no`, as a sidecar at rest (of its start: `--dump-every-bb`, the last
//! part) and as the proxy of proxybench's scenarios; their output in the order in which the functions shall lie.

use crate::root;
use anyhow::{Context, Result, bail};
use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::path::PathBuf;

/// Options of `cargo xtask order`.
#[derive(clap::Args)]
pub struct Args {
    /// Output of callgrind.
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

pub fn run(args: &Args) -> Result<()> {
    let (mut seen, mut order) = (HashSet::new(), Vec::new());
    for file in &args.files {
        let bytes = std::fs::read(file).with_context(|| file.display().to_string())?;
        for name in functions(&String::from_utf8_lossy(&bytes)) {
            if seen.insert(name.clone()) {
                order.push(name);
            }
        }
    }
    if order.is_empty() {
        bail!("no mangled names: was it run with --demangle=no?");
    }
    let mut script = String::from(
        "/* The order of functions in the program, made by `cargo xtask order`; see build.rs. What is not there is passed over. */\n\
         SECTIONS {\n  .text.frequent : {\n",
    );
    for name in &order {
        writeln!(script, "    *(.text.{name})")?;
    }
    script.push_str("  }\n}\nINSERT BEFORE .text;\n");
    std::fs::write(root().join("crates/proa/functions.ld"), script)?;
    println!("{} functions", order.len());
    Ok(())
}

/// Mangled names of the functions that ran, first come first. Names are told once: `fn=(3) name`, then `fn=(3)`. What link-time
/// optimisation and callgrind append, which no two builds have in common, becomes a wildcard or goes.
fn functions(text: &str) -> Vec<String> {
    let mut names: HashMap<&str, &str> = HashMap::new();
    let mut out = Vec::new();
    for line in text.lines() {
        let Some(rest) = line.strip_prefix("fn=(").or_else(|| line.strip_prefix("cfn=(")) else {
            continue;
        };
        let Some((id, name)) = rest.split_once(')') else {
            continue;
        };
        if let Some(name) = name.strip_prefix(' ') {
            names.insert(id, name);
        }
        let Some(name) = names.get(id).filter(|n| n.starts_with("_ZN") || n.starts_with("_R")) else {
            continue;
        };
        let name = name.split_once('\'').map_or(*name, |(name, _)| name);
        out.push(name.split_once(".llvm.").map_or_else(|| name.to_owned(), |(name, _)| format!("{name}.llvm.*")));
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_told_once() {
        let text = "fn=(1) _ZN1aE\n0 5\ncfn=(2) _ZN1bE.llvm.77\nfn=(2)\n0 1\nfn=(3) memcpy\nfn=(4) _ZN1cE'2\n";
        assert_eq!(super::functions(text), ["_ZN1aE", "_ZN1bE.llvm.*", "_ZN1bE.llvm.*", "_ZN1cE"]);
    }
}
