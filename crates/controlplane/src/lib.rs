//! How do sources, model, translation and serving make one istiod? `proa discovery`, pilot-discovery's
//! command line.
//!
//! Config: `source-file` → [`world`] (store, debounce, snapshot) → [`source`] (one view per connected proxy,
//! translated on demand) → `xds-server` ⇒ proxies. Each module here is wiring; what decides is below.

mod args;
mod certificate;
mod debug;
mod env;
mod http;
pub mod jwks;
pub mod memory;
mod metrics;
mod push_status;
mod run;
pub mod source;
mod statuses;
mod tls;
mod webhook;
pub mod world;

use std::ffi::OsString;
use std::process::ExitCode;

use args::{Command, Parsed};

/// The version we report, in our own numbering.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Runs `pilot-discovery` with the given arguments, the first being the program's name (a following
/// `discovery` may be left out). Returns when told to stop.
pub fn main(args: Vec<OsString>) -> ExitCode {
    match args::parse(args) {
        Parsed::Exit(code) => code,
        Parsed::Run(Command::Version { short, output }) => {
            args::print_version(short, output.as_deref());
            ExitCode::SUCCESS
        }
        Parsed::Run(Command::Request { method, path }) => report(run::request(&method, &path)),
        Parsed::Run(Command::Discovery(discovery)) => report(run::discovery(*discovery)),
    }
}

fn report(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
