//! Do others' clients and servers get through the proxy, and do receivers read what it tells? Installs h2spec, gRPC's interop
//! programs, a WebSocket library, Prometheus, statsd, Zipkin and what the services of HTTP filters are written with, then runs the tests of `crates/differential` against our proxy and
//! stock Envoy.

use crate::programs::{self, Program};
use crate::suites::{Outcome, held};
use crate::{root, tools};
use anyhow::Result;
use std::path::PathBuf;

/// h2spec's Go package.
const H2SPEC: &str = "github.com/summerwind/h2spec/cmd/h2spec@latest";
/// gRPC's interop client and server.
const GRPC: &[(&str, &str)] = &[
    ("client", "google.golang.org/grpc/interop/client@latest"),
    ("server", "google.golang.org/grpc/interop/server@latest"),
];
/// The WebSocket library, from PyPI.
const WEBSOCKETS: &[&str] = &["websockets==15.0.1"];
/// Zipkin's server, from Maven Central.
const ZIPKIN: (&str, &str) = ("io.zipkin:zipkin-server:3.5.1:jar:exec", "zipkin-server.jar");
/// statsd, from npm.
const STATSD: &str = "statsd@0.9.0";
/// What the scripts of `crates/differential/tests/filters` import, from PyPI.
const FILTERS: &[&str] = &["grpcio", "xds-protos", "pyyaml", "pyjwt", "cryptography"];

/// What the tests are told, and what of it cannot be had.
pub fn tools() -> (Vec<(&'static str, String)>, Vec<String>) {
    let mut missing = Vec::new();
    let mut env = vec![("PROA_PROXY", root().join("target/debug/proa").display().to_string())];
    let mut add = |name: &'static str, found: Result<PathBuf>| match found {
        Ok(path) => env.push((name, path.display().to_string())),
        Err(why) => missing.push(format!("{name}: {why:#}")),
    };
    add("PROA_H2SPEC", tools::from_go("h2spec", H2SPEC));
    let interop = GRPC.iter().map(|(name, package)| tools::from_go(name, package)).collect::<Result<Vec<_>>>();
    add("PROA_GRPC_INTEROP", interop.map(|_| tools::go_programs()));
    add("PROA_WEBSOCKETS", tools::python_with(WEBSOCKETS, "websockets"));
    add("PROA_PROMETHEUS", tools::from_debian("prometheus", "prometheus"));
    add("PROA_STATSD", tools::from_npm("statsd", STATSD));
    add("PROA_ZIPKIN", tools::from_maven(ZIPKIN.0, ZIPKIN.1));
    let imports = "grpc, yaml, jwt, cryptography, envoy.service.ext_proc.v3.external_processor_pb2";
    add("PROA_FILTERS_PYTHON", tools::python_with(FILTERS, imports));
    (env, missing)
}

pub fn run(programs: Vec<Program>) -> Result<Outcome> {
    let (mut env, missing) = tools();
    env.push(("PROA_ENVOY", tools::envoy()?.display().to_string()));
    let env: Vec<(&str, &str)> = env.iter().map(|(k, v)| (*k, v.as_str())).collect();
    // The scripts wait most of their time for what they started: side by side.
    let (scripts, others) = programs.into_iter().partition(|p| p.name == "filters");
    let mut said = programs::run(others, 1, &["--test-threads=1", "--nocapture"], &env);
    said.extend(programs::run(scripts, 1, &["--test-threads=4", "--nocapture"], &env));
    Ok(match held(&said) {
        Outcome::Passed if !missing.is_empty() => {
            Outcome::NotRun(format!("{}; the other cases passed", missing.join("; ")))
        }
        outcome => outcome,
    })
}
