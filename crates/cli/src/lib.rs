//! What did the operator ask? istioctl's commands and our own, over public APIs only.
//!
//! [`main`] serves `proa`, and the same commands under the names `istioctl` and `kubectl`, so that what people type today
//! works against a local mesh. One file per command or family of commands; output formats are in `output` and `tabwriter`.
//! Deliberately absent: the servers themselves (`proa discovery`, `agent`, `proxy`), which the binary dispatches.

mod args;
mod context;
mod copy;
mod http;
mod jsonpath;
mod kube_inject;
mod output;
mod pods;
pub mod proxy_config;
mod proxy_status;
mod resources;
mod tabwriter;
mod up;
mod version;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

pub use args::{Cli, Command};
pub use context::Failure;

/// Runs the command line. `args[0]` decides under which name help is printed.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    match run(&cli) {
        Ok(code) => ExitCode::from(code),
        Err(Failure::BrokenPipe) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<u8, Failure> {
    let context = &cli.global;
    match &cli.command {
        Command::Up(args) => up::up(context, args),
        Command::Down => up::down(context),
        Command::Ps(args) => up::ps(context, args),
        Command::Logs(args) => pods::logs(context, args),
        Command::Exec(args) => pods::exec(context, args),
        Command::Cp(args) => copy::cp(context, args),
        Command::PortForward(args) => pods::port_forward(context, args),
        Command::Get(args) => resources::get(context, args),
        Command::Create(args) => resources::put(context, "create", args),
        Command::Replace(args) => resources::put(context, "replace", args),
        Command::Apply(args) => resources::put(context, "apply", args),
        Command::Delete(args) => resources::delete(context, args),
        Command::Edit(args) => resources::edit(context, args),
        Command::Patch(args) => resources::patch(context, args),
        Command::Label(args) => resources::label(context, args),
        Command::ProxyConfig(args) => proxy_config::run(context, args),
        Command::ProxyStatus(args) => proxy_status::run(context, args),
        Command::KubeInject(args) => kube_inject::run(args),
        Command::Version(args) => version::run(context, args),
    }
}
