//! Where does crates/protos/descriptor.bin come from? From packages in the public registries and our own definitions.
//!
//! envoy-types carries Envoy's API and its imports, @grpc/grpc-js-xds the xDS files it omits, data-plane-api ORCA,
//! opentelemetry-proto OTLP; protoc-bin-vendored brings a protoc. Run by hand when Envoy's API moves; needs cargo, npm, tar.

use crate::root;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

const MANIFEST: &str = r#"[package]
name = "proto-vendor"
version = "0.0.0"
edition = "2024"
[workspace]
[dependencies]
envoy-types = "=0.7.7"
data-plane-api = "=0.1.1"
opentelemetry-proto = "=0.33.1"
protoc-bin-vendored = "=3.3.0"
"#;
const GRPC_XDS: &str = "@grpc/grpc-js-xds@1.14.1";
/// Roots of definitions below `vendor/`, in order of preference.
const ROOTS: &[&str] = &[
    "envoy-types/proto/data-plane-api",
    "envoy-types/proto/googleapis",
    "envoy-types/proto/protoc-gen-validate",
    "envoy-types/proto/client_model",
    "envoy-types/proto/xds",
    "envoy-types/proto/cel-spec/proto",
    "envoy-types/proto/ratelimit/api",
    "opentelemetry-proto/src/proto/opentelemetry-proto",
];
const ORCA: &[&str] = &["xds/data/orca/v3/orca_load_report.proto", "xds/service/orca/v3/orca.proto"];

pub fn run() -> Result<()> {
    let work = root().join("target/protos");
    let tree = work.join("proto");
    std::fs::create_dir_all(work.join("src"))?;
    std::fs::create_dir_all(&tree)?;
    std::fs::write(work.join("Cargo.toml"), MANIFEST)?;
    std::fs::write(work.join("src/lib.rs"), "")?;
    must(Command::new("cargo").args(["vendor", "--quiet", "vendor"]).current_dir(&work))?;
    must(Command::new("npm").args(["pack", "--silent", GRPC_XDS]).current_dir(&work))?;
    must(Command::new("tar").args(["xzf", "grpc-grpc-js-xds-1.14.1.tgz"]).current_dir(&work))?;
    for from in ROOTS {
        copy_protos(&work.join("vendor").join(from), &tree, false)?;
    }
    copy_protos(&work.join("package/deps/xds"), &tree, true)?;
    for file in ORCA {
        copy(&work.join("vendor/data-plane-api/xds").join(file), &tree.join(file))?;
    }
    let own = root().join("crates/protos/istio");
    let mut files = protos_below(&tree)?;
    files.extend(protos_below(&own)?);
    let protoc = find(&work.join("vendor/protoc-bin-vendored-linux-x86_64"), "protoc")?;
    let includes = protoc.parent().and_then(Path::parent).context("protoc lies in bin/")?.join("include");
    let mut command = Command::new(&protoc);
    command.arg("--include_imports").arg("-o").arg(root().join("crates/protos/descriptor.bin"));
    for include in [&tree, &own, &includes] {
        command.arg(format!("-I{}", include.display()));
    }
    must(command.args(&files))?;
    println!("wrote crates/protos/descriptor.bin from {} files", files.len());
    Ok(())
}

fn must(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}

/// Paths of all .proto files, relative to `dir`.
fn protos_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(d) = open.pop() {
        for entry in std::fs::read_dir(&d).with_context(|| d.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "proto") {
                found.push(path.strip_prefix(dir).expect("below dir").to_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}

fn copy_protos(from: &Path, to: &Path, only_missing: bool) -> Result<()> {
    for file in protos_below(from)? {
        if !(only_missing && to.join(&file).exists()) {
            copy(&from.join(&file), &to.join(&file))?;
        }
    }
    Ok(())
}

/// Copies text, with one kind of line end.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let text = std::fs::read_to_string(from).with_context(|| from.display().to_string())?;
    std::fs::create_dir_all(to.parent().context("a file in a folder")?)?;
    Ok(std::fs::write(to, text.replace('\r', ""))?)
}

fn find(dir: &Path, name: &str) -> Result<PathBuf> {
    let mut open = vec![dir.to_owned()];
    while let Some(d) = open.pop() {
        for entry in std::fs::read_dir(&d)? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else if path.file_name().is_some_and(|n| n == name) {
                must(Command::new("chmod").arg("+x").arg(&path))?;
                return Ok(path);
            }
        }
    }
    bail!("no {name} below {}", dir.display())
}
