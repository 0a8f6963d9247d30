//! What did the command line say? pilot-discovery's commands and flags.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

/// Either a command to run, or everything is said (help, errors).
pub enum Parsed {
    /// Run this.
    Run(Command),
    /// Nothing left to do.
    Exit(ExitCode),
}

#[derive(Parser)]
#[command(name = "pilot-discovery", about = "Istio Pilot: the control plane", disable_version_flag = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// pilot-discovery's commands.
#[derive(Subcommand)]
pub enum Command {
    /// Start the control plane
    Discovery(Box<Discovery>),
    /// Makes an HTTP request to the control plane's metrics and debug port
    Request {
        /// HTTP method
        method: String,
        /// Path, such as /debug/syncz
        path: String,
    },
    /// Prints out build version information
    Version {
        /// Only the version
        #[arg(short, long)]
        short: bool,
        /// json or yaml
        #[arg(short, long)]
        output: Option<String>,
    },
}

/// Flags of `discovery`, under Istio's names.
#[derive(Args, Debug, Clone)]
#[command(rename_all = "camelCase")]
pub struct Discovery {
    /// Registries to read from: Kubernetes, Mock; accepted, the directory of --configDir is always read
    #[arg(long, value_delimiter = ',', default_value = "Kubernetes")]
    pub registries: Vec<String>,
    /// Directory to watch for manifests (Kubernetes and Istio resources)
    #[arg(long)]
    pub config_dir: Vec<PathBuf>,
    /// File with the mesh configuration
    #[arg(long, default_value = "./etc/istio/config/mesh")]
    pub mesh_config: PathBuf,
    /// File with the mesh networks configuration
    #[arg(long, default_value = "./etc/istio/config/meshNetworks")]
    pub networks_config: PathBuf,
    /// Namespace of the control plane
    #[arg(short, long, env = "POD_NAMESPACE", default_value = "istio-system")]
    pub namespace: String,
    /// DNS domain suffix
    #[arg(long, default_value = "cluster.local")]
    pub domain: String,
    /// The ID of the cluster
    #[arg(long, alias = "clusterID", env = "CLUSTER_ID", default_value = "Kubernetes")]
    pub cluster_id: String,
    /// Discovery service HTTP address; empty turns it off
    #[arg(long, default_value = ":8080")]
    pub http_addr: String,
    /// Injection and validation HTTPS address
    #[arg(long, default_value = ":15017")]
    pub https_addr: String,
    /// Discovery service gRPC address without TLS; empty turns it off
    #[arg(long, default_value = ":15010")]
    pub grpc_addr: String,
    /// Discovery service gRPC address with TLS; empty turns it off
    #[arg(long, alias = "secureGRPCAddr", default_value = ":15012")]
    pub secure_grpc_addr: String,
    /// Monitoring address; empty turns it off
    #[arg(long, default_value = ":15014")]
    pub monitoring_addr: String,
    /// How long to wait for open streams on shutdown
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub shutdown_duration: Duration,
    /// Own roots instead of the CA's, for our server certificate
    #[arg(long)]
    pub ca_cert_file: Option<PathBuf>,
    /// Own server certificate
    #[arg(long)]
    pub tls_cert_file: Option<PathBuf>,
    /// Key of the own server certificate
    #[arg(long)]
    pub tls_key_file: Option<PathBuf>,
    /// Streams are closed after this time; 0: never
    #[arg(long, default_value = "0s", value_parser = duration)]
    pub keepalive_max_server_connection_age: Duration,
    /// Interval of keep-alive pings
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub keepalive_interval: Duration,
    /// How long an answer to a ping may take
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub keepalive_timeout: Duration,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub log: LogArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub ignored: Ignored,
}

/// Istio's log flags.
#[derive(Args, Debug, Clone, Default)]
pub struct LogArgs {
    /// Comma-separated minimum level per scope: <scope>:<level>,...
    #[arg(long = "log_output_level", default_value = "default:info")]
    pub log_output_level: String,
    /// Minimum level at which stack traces are captured; accepted
    #[arg(long = "log_stacktrace_level", default_value = "default:none")]
    pub log_stacktrace_level: String,
    /// Scopes for which the caller is logged
    #[arg(long = "log_caller", default_value = "")]
    pub log_caller: String,
    /// JSON lines
    #[arg(long = "log_as_json", num_args = 0..=1, default_missing_value = "true", default_value = "false")]
    pub log_as_json: bool,
    /// Where logs go: stdout, stderr or files
    #[arg(long = "log_target", default_value = "stdout")]
    pub log_target: Vec<String>,
}

/// Flags that concern what is not here (remote clusters, Kubernetes clients, ControlZ): accepted, so that
/// existing command lines work.
#[derive(Args, Debug, Clone)]
#[command(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Ignored {
    #[arg(long, hide = true)]
    pub cluster_registries_namespace: Option<String>,
    #[arg(long, hide = true)]
    pub kubeconfig: Option<String>,
    #[arg(long, hide = true)]
    pub cni_namespace: Option<String>,
    #[arg(long, hide = true)]
    pub cluster_aliases: Option<String>,
    #[arg(long, hide = true)]
    pub profile: Option<String>,
    #[arg(long = "tls-cipher-suites", hide = true)]
    pub tls_cipher_suites: Option<String>,
    #[arg(long = "tls-min-version", hide = true)]
    pub tls_min_version: Option<String>,
    #[arg(long, alias = "kubernetesApiQPS", hide = true)]
    pub kubernetes_api_qps: Option<String>,
    #[arg(long, hide = true)]
    pub kubernetes_api_burst: Option<String>,
    #[arg(long = "ctrlz_port", hide = true)]
    pub ctrlz_port: Option<String>,
    #[arg(long = "ctrlz_address", hide = true)]
    pub ctrlz_address: Option<String>,
    #[arg(long = "log_rotate", hide = true)]
    pub log_rotate: Option<String>,
    #[arg(long = "log_rotate_max_age", hide = true)]
    pub log_rotate_max_age: Option<String>,
    #[arg(long = "log_rotate_max_backups", hide = true)]
    pub log_rotate_max_backups: Option<String>,
    #[arg(long = "log_rotate_max_size", hide = true)]
    pub log_rotate_max_size: Option<String>,
}

/// Reads the command line; prints help and errors itself.
pub fn parse(mut args: Vec<OsString>) -> Parsed {
    let known = ["discovery", "request", "version", "help", "-h", "--help"];
    if args.is_empty() {
        args.push("pilot-discovery".into());
    }
    if args.get(1).is_none_or(|a| !known.iter().any(|k| a == k)) {
        args.insert(1, "discovery".into());
    }
    match Cli::try_parse_from(args) {
        Ok(cli) => Parsed::Run(cli.command),
        Err(error) => {
            let _ = error.print();
            Parsed::Exit(if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        }
    }
}

/// Go's durations: `10s`, `1h30m`, `100ms`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let parsed = api::Duration::parse(text).map(api::Duration::to_std);
    parsed.ok_or_else(|| format!("{text:?} is no duration such as 10s or 1h30m"))
}

/// `version` in the shapes of istioctl.
pub fn print_version(short: bool, output: Option<&str>) {
    let version = crate::VERSION;
    match output {
        Some("json") => println!("{:#}", serde_json::json!({"clientVersion": {"version": version}})),
        Some("yaml") => println!("clientVersion:\n  version: {version}"),
        _ if short => println!("{version}"),
        _ => println!("version.BuildInfo{{Version:\"{version}\", BuildStatus:\"Clean\"}}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn discovery(line: &str) -> Discovery {
        let args = line.split_whitespace().map(OsString::from).collect();
        match parse(args) {
            Parsed::Run(Command::Discovery(d)) => *d,
            _ => panic!("{line}"),
        }
    }

    #[test]
    fn istios_spellings_are_accepted() {
        let d = discovery(
            "pilot-discovery discovery --configDir=/a --configDir /b --secureGRPCAddr=:1 --clusterID c --log_output_level default:debug,ads:info --kubernetesApiQPS 80",
        );
        assert_eq!(d.config_dir, ["/a", "/b"].map(PathBuf::from));
        assert_eq!((d.secure_grpc_addr.as_str(), d.cluster_id.as_str()), (":1", "c"));
        assert_eq!(d.log.log_output_level, "default:debug,ads:info");
        assert_eq!(discovery("proa --httpAddr=").http_addr, "");
        assert!(discovery("proa --log_as_json").log.log_as_json);
        assert_eq!(discovery("x --shutdownDuration 1m30s").shutdown_duration, Duration::from_secs(90));
    }

    #[test]
    fn mistakes_end_the_program() {
        for line in ["x --noSuchFlag", "x --shutdownDuration soon", "x request GET"] {
            let args = line.split_whitespace().map(OsString::from).collect();
            assert!(matches!(parse(args), Parsed::Exit(code) if code == ExitCode::FAILURE), "{line}");
        }
    }
}
