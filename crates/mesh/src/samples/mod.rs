//! Which small programs can a pod run without a container image? `proa sample nodebook|httpbin|sleep|echo`.
//!
//! They exist for the examples, for tests and for a newcomer's first minute; none is tuned or configurable
//! beyond what the examples need.

mod echo;
mod http;
mod httpbin;
mod nodebook;
mod websocket;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Small programs for pods
#[derive(Debug, Parser)]
#[command(
    after_help = "Examples:\n  proa sample nodebook --port 3000 --version v3\n  proa sample httpbin --port 8000\n  proa sample echo --port 8080 --tcp-port 9000"
)]
struct Args {
    #[command(subcommand)]
    sample: Sample,
}

#[derive(Debug, Subcommand)]
enum Sample {
    /// The seeds' application: /version, /total (requests served), /delay/{ms}
    Nodebook {
        /// Port to listen on
        #[arg(long, env = "PORT", default_value = "3000")]
        port: u16,
        /// What /version says
        #[arg(long, env = "APP_VERSION", default_value = "v3")]
        version: String,
    },
    /// Shows requests: /get /post /headers /ip /anything /status/{code} /delay/{s} /bytes/{n} /stream/{n} …
    Httpbin {
        /// Port to listen on
        #[arg(long, env = "PORT", default_value = "80")]
        port: u16,
    },
    /// Does nothing until it is told to stop
    Sleep {
        /// Accepted for /bin/sleep's sake
        #[arg(hide = true)]
        duration: Vec<String>,
    },
    /// Answers HTTP requests with what it got, and gRPC, WebSocket and TCP with the same bytes
    Echo {
        /// HTTP port
        #[arg(long, env = "PORT", default_value = "8080")]
        port: u16,
        /// TCP ports that return what they get; the first line sent is the name of this instance if --hello is given
        #[arg(long)]
        tcp_port: Vec<u16>,
        /// Name to greet TCP clients with and to report over HTTP
        #[arg(long, env = "HOSTNAME", default_value = "echo")]
        name: String,
        /// Greet TCP clients with a line `hello NAME`
        #[arg(long)]
        hello: bool,
    },
}

/// Runs a sample; `args[0]` is the program's name.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    let local = tokio::task::LocalSet::new();
    let result = runtime.block_on(local.run_until(run(args.sample)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("proa sample: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(sample: Sample) -> std::io::Result<()> {
    match sample {
        Sample::Nodebook { port, version } => nodebook::serve(port, version).await,
        Sample::Httpbin { port } => httpbin::serve(port).await,
        Sample::Sleep { .. } => {
            stopped().await;
            Ok(())
        }
        Sample::Echo { port, tcp_port, name, hello } => echo::serve(port, tcp_port, name, hello).await,
    }
}

/// Resolves on SIGTERM or SIGINT.
async fn stopped() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}
