//! What did the command line say? pilot-agent's commands and flags.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Either a command to run, or everything is said.
pub enum Parsed {
    /// Run this.
    Run(Command),
    /// Nothing left to do.
    Exit(ExitCode),
}

#[derive(Parser)]
#[command(
    name = "pilot-agent",
    about = "Istio Pilot agent: runs in the sidecar or gateway container and bootstraps the proxy",
    disable_version_flag = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// pilot-agent's commands (`istio-iptables` is the `intercept` crate's).
#[derive(Subcommand)]
pub enum Command {
    /// XDS proxy agent
    Proxy(Box<Proxy>),
    /// Waits until the proxy is ready
    Wait(Wait),
    /// Makes an HTTP request to the proxy's admin API
    Request(Request),
    /// Prints out build version information
    Version {
        /// Only the version
        #[arg(short, long)]
        short: bool,
    },
}

/// `proxy [sidecar|router]`
#[derive(Args, Debug, Clone)]
pub struct Proxy {
    /// sidecar or router
    #[arg(default_value = "sidecar")]
    pub role: String,
    /// DNS domain suffix; default: POD_NAMESPACE.svc.cluster.local
    #[arg(long, default_value = "")]
    pub domain: String,
    /// File with the mesh configuration
    #[arg(long = "meshConfig", default_value = "./etc/istio/config/mesh")]
    pub mesh_config: PathBuf,
    /// Service cluster; over the ProxyConfig's
    #[arg(long = "serviceCluster")]
    pub service_cluster: Option<String>,
    /// Envoy's log level
    #[arg(long = "proxyLogLevel", default_value = "warning,misc:error")]
    pub proxy_log_level: String,
    /// Envoy's log level per component
    #[arg(long = "proxyComponentLogLevel", default_value = "")]
    pub proxy_component_log_level: String,
    /// Worker threads; 0: by CPUs
    #[arg(long)]
    pub concurrency: Option<u32>,
    /// Bootstrap template: a JSON file merged over the generated bootstrap
    #[arg(long = "templateFile", default_value = "")]
    pub template_file: String,
    /// Where outlier events are logged
    #[arg(long = "outlierLogPath", default_value = "")]
    pub outlier_log_path: String,
    /// Run this program as the proxy (stock Envoy or `proa proxy`) instead of our own in this process
    #[arg(long = "proxy-binary", env = "PROXY_BINARY")]
    pub proxy_binary: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub log: LogArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub ignored: Ignored,
}

/// Istio's log flags.
#[derive(Args, Debug, Clone)]
pub struct LogArgs {
    /// Comma-separated minimum level per scope: <scope>:<level>,...
    #[arg(long = "log_output_level", default_value = "default:info")]
    pub log_output_level: String,
    /// JSON lines
    #[arg(long = "log_as_json", num_args = 0..=1, default_missing_value = "true", default_value = "false")]
    pub log_as_json: bool,
}

/// Accepted, so that existing command lines work.
#[derive(Args, Debug, Clone)]
#[allow(missing_docs)]
pub struct Ignored {
    #[arg(long = "stsPort", hide = true)]
    pub sts_port: Option<u16>,
    #[arg(long = "tokenManagerPlugin", hide = true)]
    pub token_manager_plugin: Option<String>,
    #[arg(long = "profiling", hide = true, num_args = 0..=1)]
    pub profiling: Option<String>,
    #[arg(long = "controlPlaneAuthPolicy", hide = true)]
    pub control_plane_auth_policy: Option<String>,
    #[arg(long = "log_stacktrace_level", hide = true)]
    pub log_stacktrace_level: Option<String>,
    #[arg(long = "log_caller", hide = true)]
    pub log_caller: Option<String>,
    #[arg(long = "log_target", hide = true)]
    pub log_target: Option<String>,
}

/// `wait`
#[derive(Args, Debug, Clone)]
pub struct Wait {
    /// How long to wait at most
    #[arg(long = "timeoutSeconds", default_value_t = 60)]
    pub timeout_seconds: u64,
    /// How long one request may take
    #[arg(long = "requestTimeoutMillis", default_value_t = 500)]
    pub request_timeout_millis: u64,
    /// Time between requests
    #[arg(long = "periodMillis", default_value_t = 500)]
    pub period_millis: u64,
    /// What to ask
    #[arg(long, default_value = "http://localhost:15021/healthz/ready")]
    pub url: String,
}

/// `request METHOD PATH`
#[derive(Args, Debug, Clone)]
pub struct Request {
    /// HTTP method
    pub method: String,
    /// Path and query
    pub path: String,
    /// Port of the admin API
    #[arg(long = "debug-port", default_value_t = 15000)]
    pub debug_port: u16,
    /// Unix socket of the admin API, instead of a port
    #[arg(long = "admin-socket", env = "PROA_ADMIN_SOCKET")]
    pub admin_socket: Option<PathBuf>,
}

/// Reads the command line; prints help and errors itself.
pub fn parse(mut args: Vec<OsString>) -> Parsed {
    if args.get(1).is_some_and(|a| a == "agent") {
        args.remove(1);
    }
    match Cli::try_parse_from(args) {
        Ok(cli) => Parsed::Run(cli.command),
        Err(error) => {
            let _ = error.print();
            Parsed::Exit(if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        }
    }
}
