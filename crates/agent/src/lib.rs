//! How does a proxy start and stay served? pilot-agent: bootstrap, certificates, status, DNS, supervision.
//!
//! `proa agent proxy sidecar` reads who it is ([`node`], [`config`]), writes Envoy's bootstrap
//! ([`bootstrap`]), keeps a workload certificate ([`certificate`]), serves it (`sds`), carries xDS to the
//! control plane (`relay`), answers probes ([`status`]) and DNS ([`dns`]), and runs the proxy: our own in this
//! process (`own`) or another program (`envoy`). What the proxy accepted outlives it (`last_good`), so that it
//! starts without the control plane (`kept`).

mod args;
pub mod bootstrap;
pub mod certificate;
pub mod config;
mod control;
pub mod dns;
mod drain;
mod envoy;
pub mod grpc_bootstrap;
mod kept;
mod last_good;
pub mod metrics;
pub mod node;
mod own;
mod relay;
mod request;
mod run;
mod sds;
pub mod status;
mod stream;
mod tap;
mod unix;

use std::ffi::OsString;
use std::process::ExitCode;

use args::{Command, Parsed};

/// The version we report as `ISTIO_VERSION`, in our own numbering.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Runs `pilot-agent` with the given arguments, the first being the program's name (a following `agent` is
/// skipped). Returns when the proxy has gone, with its exit code.
pub fn main(args: Vec<OsString>) -> ExitCode {
    match args::parse(args) {
        Parsed::Exit(code) => code,
        Parsed::Run(command) => {
            let result = match command {
                Command::Proxy(proxy) => run::proxy(*proxy),
                Command::Wait(wait) => request::wait(&wait).map(|()| ExitCode::SUCCESS),
                Command::Request(request) => request::request(&request).map(|()| ExitCode::SUCCESS),
                Command::Version { short } => {
                    println!("{}{VERSION}", if short { "" } else { "version: " });
                    Ok(ExitCode::SUCCESS)
                }
            };
            result.unwrap_or_else(|error| {
                eprintln!("Error: {error:#}");
                ExitCode::from(255)
            })
        }
    }
}
