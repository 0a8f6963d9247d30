//! In which order do functions lie in the program? `functions.ld`, made by `cargo xtask order`, puts those first that a sidecar at rest
//! runs, then those of requests. The kernel maps code in pieces of 64 kB around each function that runs: scattered over the whole
//! program they cost a sidecar megabytes.
//!
//! A linker that does not understand the script leaves the order as it is.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn main() {
    println!("cargo:rerun-if-changed=functions.ld");
    let var = |name: &str| std::env::var(name).unwrap_or_default();
    let script = PathBuf::from(var("CARGO_MANIFEST_DIR")).join("functions.ld");
    let flag = format!("-Wl,-T,{}", script.display());
    if var("PROFILE") == "release" && var("CARGO_CFG_TARGET_OS") == "linux" && links(&flag, Path::new(&var("OUT_DIR")))
    {
        println!("cargo:rustc-link-arg-bins={flag}");
    }
}

/// Whether a program can be linked with `flag`, in the way in which this one will be.
fn links(flag: &str, dir: &Path) -> bool {
    let source = dir.join("empty.rs");
    if std::fs::write(&source, "fn main() {}").is_err() {
        return false;
    }
    let flags = std::env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let target = std::env::var("TARGET").unwrap_or_default();
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.arg("--out-dir").arg(dir).args(["--target", &target, "-C", &format!("link-arg={flag}")]);
    rustc.args(flags.split('\x1f').filter(|f| !f.is_empty())).arg(&source);
    let run = rustc.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    run.is_ok_and(|status| status.success()) && Command::new(dir.join("empty")).status().is_ok_and(|s| s.success())
}
