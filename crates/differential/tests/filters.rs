//! Do filters, health checks and access logs act as stock Envoy's do? Scripts with their own services, hosts and receivers.
//!
//! Needs the programs named by `PROA_PROXY`, `PROA_ENVOY` and `PROA_FILTERS_PYTHON` (a Python that has grpcio, xds-protos,
//! pyyaml, pyjwt and cryptography). Each test says that it did not run when one is missing.

use std::path::Path;
use std::process::Command;

fn run(script: &str) {
    let names = ["PROA_PROXY", "PROA_ENVOY", "PROA_FILTERS_PYTHON"];
    if let Some(missing) = names.iter().find(|n| std::env::var_os(n).is_none()) {
        println!("not run, because {missing} names no program");
        return;
    }
    let python = std::env::var_os("PROA_FILTERS_PYTHON").expect("named above");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/filters");
    let output = Command::new(python).arg(format!("{script}.py")).current_dir(folder).output().expect("Python runs");
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn jwt_authn() {
    run("jwt_authn");
}

#[test]
fn ext_authz() {
    run("ext_authz");
}

#[test]
fn ratelimit() {
    run("ratelimit");
}

#[test]
fn compressor() {
    run("compressor");
}

#[test]
fn ext_proc() {
    run("ext_proc");
}

#[test]
fn lua() {
    run("lua");
}

#[test]
fn simple() {
    run("simple");
}

#[test]
fn network() {
    run("network");
}

#[test]
fn observe() {
    run("observe");
}

#[test]
fn tunnels() {
    run("tunnels");
}

#[test]
fn discovery() {
    run("discovery");
}

#[test]
fn overload() {
    run("overload");
}

#[test]
fn peers() {
    run("peers");
}
