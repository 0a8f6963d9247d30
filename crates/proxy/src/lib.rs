//! How does the data plane run? Bootstrap, workers, the life of configuration, the admin interface.
//!
//! `proa proxy` calls [`main`] with Envoy's command line; the agent calls [`start`] and steers the [`Handle`].
//! One config thread owns configuration and admin, N workers serve; see `workers` for who shares what.
//! Deliberately absent: protocols, balancing, filters; those are the floors below.

mod admin;
mod allocator;
pub mod bootstrap;
pub mod config;
pub mod embedding;
mod export;
mod files;
mod handle;
mod hot_restart;
pub mod memory;
pub mod options;
mod overload;
mod packed;
pub mod server;
mod settings;
mod sinks;
mod subscriptions;
mod workers;

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc;

pub use bootstrap::{Bootstrap, BootstrapError};
pub use embedding::Embedding;
pub use handle::{Handle, Shared};
pub use options::Options;

use options::{Mode, Parsed};
use telemetry::log::Pattern;
use telemetry::stats::Store;

/// Why a proxy did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A thread or its runtime could not be made.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    /// The admin address cannot be had.
    #[error("cannot bind admin address '{address}': {error}")]
    Admin {
        /// The address.
        address: String,
        /// The system's words.
        error: std::io::Error,
    },
    /// A static resource cannot be served.
    #[error("{0}")]
    Static(String),
}

/// Starts a proxy on threads of its own. Returns once static configuration is in force.
pub fn start(bootstrap: Bootstrap, options: Options) -> Result<Handle, StartError> {
    start_embedded(bootstrap, options, Embedding::default())
}

/// The same with parts that the surrounding process provides.
///
/// # Errors
/// As [`start`].
pub fn start_embedded(bootstrap: Bootstrap, options: Options, embedding: Embedding) -> Result<Handle, StartError> {
    memory::prepare();
    apply_log_config(&bootstrap);
    let store = Store::new(settings::stats(&bootstrap, &options));
    let (tell, told) = tokio::sync::mpsc::unbounded_channel();
    let shared = Shared::new(store, tell, embedding);
    let handle = Handle(shared.clone());
    let (ready, started) = mpsc::sync_channel(1);
    std::thread::Builder::new()
        .name("proxy-config".into())
        .spawn(move || {
            let exit = OnExit(shared.clone());
            let runtime =
                match tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(4).build() {
                    Ok(runtime) => runtime,
                    Err(e) => {
                        let _ = ready.send(Err(StartError::Thread(e)));
                        return;
                    }
                };
            // The receiver waits for exactly this.
            let ready = move |result| drop(ready.send(result));
            tokio::task::LocalSet::new().block_on(&runtime, server::run(bootstrap, options, shared, told, ready));
            drop(exit);
        })
        .map_err(StartError::Thread)?;
    match started.recv() {
        Ok(result) => result.map(|()| handle),
        Err(_) => Err(StartError::Static("the config thread ended".into())),
    }
}

/// Tells waiters that the proxy has ended, also when its thread panics.
struct OnExit(Arc<Shared>);

impl Drop for OnExit {
    fn drop(&mut self) {
        self.0.set_exited();
    }
}

/// The bootstrap's own log format (`application_log_config`), which overrides the flag as in Envoy.
fn apply_log_config(bootstrap: &Bootstrap) {
    use protos::envoy::config::bootstrap::v3::bootstrap::application_log_config::log_format::LogFormat as Format;
    let format =
        bootstrap.message.application_log_config.as_ref().and_then(|c| c.log_format.as_ref()?.log_format.as_ref());
    match format {
        Some(Format::TextFormat(text)) => telemetry::log::set_pattern(Pattern::parse(text)),
        Some(Format::JsonFormat(fields)) => {
            let object: Vec<String> = fields.fields.iter().filter_map(json_field).collect();
            telemetry::log::set_pattern(Pattern::parse(&format!("{{{}}}", object.join(","))));
        }
        None => {}
    }
}

/// One field of a JSON log format; `%v` becomes the escaped message.
fn json_field((key, value): (&String, &prost_types::Value)) -> Option<String> {
    match &value.kind {
        Some(prost_types::value::Kind::StringValue(text)) => Some(format!(
            "{}:\"{}\"",
            serde_json::Value::String(key.clone()),
            text.replace("%v", "%j").replace("%_", "%j")
        )),
        _ => None,
    }
}

/// Applies the logging flags to this process.
fn set_up_logging(options: &Options) -> Result<(), String> {
    telemetry::log::set_all(options.log_level);
    telemetry::log::set_components(&options.component_log_level).map_err(|e| e.to_string())?;
    telemetry::log::set_pattern(Pattern::parse(&options.log_format));
    if !options.log_path.is_empty() {
        telemetry::log::set_path(options.log_path.as_ref())
            .map_err(|e| format!("Failed to open log-file '{}': {e}", options.log_path))?;
    }
    Ok(())
}

/// `envoy`'s command line, without the program's name.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let options = match options::parse(args.into_iter()) {
        Ok(Parsed::Run(options)) => *options,
        Ok(Parsed::Print(text)) => {
            println!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(e) => {
            eprintln!("{e}");
            return ExitCode::FAILURE;
        }
    };
    match run(Options { handle_signals: true, ..options }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> Result<(), String> {
    set_up_logging(&options)?;
    let bootstrap = bootstrap::load(&options).map_err(|e| {
        telemetry::critical!(main, "error initializing config '{} {}': {e}", options.config_yaml, options.config_path);
        e.to_string()
    })?;
    if options.mode != Mode::Serve {
        println!("configuration '{}' OK", options.config_path);
        return Ok(());
    }
    let handle = start(bootstrap, options).map_err(|e| {
        telemetry::critical!(main, "error initializing: {e}");
        e.to_string()
    })?;
    handle.wait();
    Ok(())
}
