//! Which commands and flags are there? istioctl's names where istioctl has the command, kubectl's where kubectl has it.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::context::Global;

const EXAMPLES: &str = "\
Examples:
  proa up                                     start a mesh with the bundled example
  proa up ./manifests --detach                start one from your own manifests
  proa ps                                     what runs, and what it waits for
  proa create -f nodebook-service.yaml        a bundled file by name, or one of yours
  proa pc routes deploy/istio-ingressgateway -n istio-system
  proa logs -f deploy/nodebook-v3 -c istio-proxy
  proa down

Servers (each has its own --help):
  proa discovery    the control plane (istiod)      proa proxy    the data plane (Envoy)
  proa agent        the sidecar (pilot-agent)       proa sample   small programs for pods";

/// A service mesh in one binary: Istio's API, Envoy's xDS, one command to start.
#[derive(Debug, Parser)]
#[command(name = "proa", bin_name = "proa", version, disable_version_flag = true, after_help = EXAMPLES)]
pub struct Cli {
    /// Flags of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Every command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a mesh on this machine
    Up(Up),
    /// End a mesh and leave nothing behind
    Down,
    /// List pods: are they ready, and what do they wait for
    Ps(Ps),
    /// Print a container's output
    #[command(visible_alias = "log")]
    Logs(Logs),
    /// Run a command in a pod
    Exec(Exec),
    /// Copy a file or folder out of a pod or into one
    Cp(Cp),
    /// Lead ports of this machine to a pod
    PortForward(PortForward),
    /// Show resources
    Get(Get),
    /// Add resources that are not there yet
    Create(Files),
    /// Replace resources that are there
    Replace(Files),
    /// Add or change resources
    Apply(Files),
    /// Remove resources
    Delete(Delete),
    /// Change a resource in $EDITOR
    Edit(Named),
    /// Change fields of a resource
    Patch(Patch),
    /// Set or remove labels
    Label(Label),
    /// What a proxy was told
    #[command(visible_alias = "pc")]
    ProxyConfig(ProxyConfig),
    /// Which proxies are in step with the control plane
    #[command(visible_alias = "status")]
    ProxyStatus(ProxyStatus),
    /// Add sidecars to manifests
    KubeInject(KubeInject),
    /// Versions of this program, the control plane and the proxies
    Version(Version),
}

/// `kube-inject`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  proa kube-inject -f deployment.yaml -o deployment-injected.yaml\n  proa kube-inject -f deployment.yaml | kubectl apply -f -"
)]
pub struct KubeInject {
    /// Manifests (- for standard input)
    #[arg(short, long = "filename", required = true, value_name = "FILE")]
    pub file: String,
    /// Where to write [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<String>,
    /// Mesh configuration
    #[arg(long = "meshConfigFile", value_name = "FILE")]
    pub mesh_config: Option<String>,
    /// Values of the injection templates
    #[arg(long = "valuesFile", value_name = "FILE")]
    pub values: Option<String>,
    /// Injection configuration: templates and policy
    #[arg(long = "injectConfigFile", value_name = "FILE")]
    pub inject_config: Option<String>,
    /// One value, as PATH=VALUE (global.hub=docker.io/istio)
    #[arg(short, long, value_name = "PATH=VALUE")]
    pub set: Vec<String>,
    /// Revision of the control plane
    #[arg(short, long, default_value = "default")]
    pub revision: String,
}

/// `proa up`
#[derive(Debug, Args)]
#[command(after_help = "\
DIR holds ordinary Kubernetes manifests and Istio resources; it is watched. Folders named `variants` are left out.
Images are not pulled: `command:` runs as given, well-known images map to programs on this machine:
  proxyv2, agent: proa agent      pilot, discovery: proa discovery      nodebook, httpbin, echo: proa sample …
  sleep, curl, pause: proa sample sleep      any other: the program of that name on PATH

Examples:
  proa up                              the bundled example, gateway on http://127.0.0.1:8080
  proa up examples/httpbin --detach    another one, in the background
  proa up --data-plane envoy           stock Envoy as every proxy (from PATH or --envoy-path)
  proa up --name two --gateway-port 0  a second mesh beside the first, on a free port")]
pub struct Up {
    /// Manifests [default: the bundled example nodebook]
    pub dir: Option<PathBuf>,
    /// Name of the mesh; several can run at once (other commands: --mesh)
    #[arg(long)]
    pub name: Option<String>,
    /// Return when the mesh is ready and leave it running
    #[arg(short, long)]
    pub detach: bool,
    /// What every proxy is
    #[arg(long, value_enum, default_value = "proa")]
    pub data_plane: DataPlane,
    /// The Envoy of --data-plane envoy [default: envoy on PATH]
    #[arg(long, value_name = "PATH")]
    pub envoy_path: Option<PathBuf>,
    /// Port of the ingress gateway on this machine; 0 for any
    #[arg(long, default_value = "8080", value_name = "PORT")]
    pub gateway_port: u16,
    /// HTTPS port of the ingress gateway on this machine
    #[arg(long, value_name = "PORT")]
    pub gateway_https_port: Option<u16>,
    /// Address of the ingress gateway on this machine
    #[arg(long, default_value = "127.0.0.1", value_name = "IP")]
    pub gateway_address: IpAddr,
    /// How long workload certificates live, such as 10s or 1h [default: a day]
    #[arg(long, value_name = "DURATION")]
    pub certificate_lifetime: Option<String>,
    /// Print nothing but the gateway's address
    #[arg(short, long)]
    pub quiet: bool,
}

/// Which program is every proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DataPlane {
    /// Proa's own.
    Proa,
    /// Stock Envoy.
    Envoy,
}

/// `proa ps`
#[derive(Debug, Args)]
pub struct Ps {
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// `proa logs`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  proa logs deploy/nodebook-v3\n  proa logs -f deploy/nodebook-v3 -c istio-proxy\n  proa logs -n istio-system -l app=istiod --tail=100"
)]
pub struct Logs {
    /// Pod, deploy/NAME or svc/NAME
    #[arg(required_unless_present = "selector")]
    pub pod: Option<String>,
    /// Container, also as -c
    #[arg(value_name = "CONTAINER", hide = true)]
    pub container_name: Option<String>,
    /// Container [default: the application's]
    #[arg(short, long)]
    pub container: Option<String>,
    /// Go on as more comes
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last lines
    #[arg(long, value_name = "LINES")]
    pub tail: Option<i64>,
    /// Pods with these labels
    #[arg(short = 'l', long)]
    pub selector: Option<String>,
    /// All containers
    #[arg(long)]
    pub all_containers: bool,
}

/// `proa exec`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  proa exec -n samples-1 deploy/sleep -- curl -s httpbin.samples:8000/headers\n  proa exec deploy/nodebook-v3 -c istio-proxy -- curl -s localhost:15000/config_dump\n  proa exec -it deploy/nodebook-v3 -- sh"
)]
pub struct Exec {
    /// Pod, deploy/NAME or svc/NAME
    pub pod: String,
    /// Container [default: the application's]
    #[arg(short, long)]
    pub container: Option<String>,
    /// Pass standard input
    #[arg(short = 'i', long)]
    pub stdin: bool,
    /// Accepted for kubectl's sake: the terminal is always passed
    #[arg(short = 't', long)]
    pub tty: bool,
    /// Command and arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    pub command: Vec<String>,
}

/// `proa cp`
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  proa cp istio-system/istio-ingressgateway-5c8:/etc/istio/proxy/envoy-rev0.json . -c istio-proxy"
)]
pub struct Cp {
    /// File or folder; in a pod: [NAMESPACE/]POD:PATH
    pub from: String,
    /// Where to; in a pod: [NAMESPACE/]POD:PATH
    pub to: String,
    /// Container [default: the application's]
    #[arg(short, long)]
    pub container: Option<String>,
}

/// `proa port-forward`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  proa port-forward deploy/nodebook-v3 15000          the sidecar's admin pages on localhost:15000\n  proa port-forward -n istio-system svc/istiod 9000:15014"
)]
pub struct PortForward {
    /// Pod, deploy/NAME or svc/NAME
    pub pod: String,
    /// PORT or LOCAL:PORT
    #[arg(required = true)]
    pub ports: Vec<String>,
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    pub address: IpAddr,
}

/// `proa get`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  proa get pods -A\n  proa get virtualservices -o yaml\n  proa get pod -l app=httpbin -n samples -o 'jsonpath={.items[0].metadata.name}'"
)]
pub struct Get {
    /// Type, or type/name, or several types with commas
    pub kind: String,
    /// Names
    pub names: Vec<String>,
    /// yaml, json, name, wide or jsonpath=…
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<String>,
    /// With these labels: app=a,version!=v1
    #[arg(short = 'l', long)]
    pub selector: Option<String>,
    /// In every namespace
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Without the headings
    #[arg(long)]
    pub no_headers: bool,
    /// Show labels as a column
    #[arg(long)]
    pub show_labels: bool,
}

/// `-f`
#[derive(Debug, Args)]
pub struct Files {
    /// A file, a folder, - for standard input, or the name of a bundled file
    #[arg(short, long = "filename", required = true, value_name = "FILE")]
    pub files: Vec<String>,
}

/// `proa delete`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  proa delete -f nodebook-service.yaml\n  proa delete virtualservice nodebook\n  proa delete pod/nodebook-v3-55769d7fd6-dp69c"
)]
pub struct Delete {
    /// Type, or type/name
    #[arg(required_unless_present = "files")]
    pub kind: Option<String>,
    /// Names
    pub names: Vec<String>,
    /// What these files hold
    #[arg(short, long = "filename", value_name = "FILE")]
    pub files: Vec<String>,
    /// No error if it is not there
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", action = clap::ArgAction::Set)]
    pub ignore_not_found: bool,
}

/// A type and a name.
#[derive(Debug, Args)]
pub struct Named {
    /// Type, or type/name
    pub kind: String,
    /// Name
    pub name: Option<String>,
}

/// `proa patch`
#[derive(Debug, Args)]
pub struct Patch {
    /// Type, or type/name
    pub kind: String,
    /// Name
    pub name: Option<String>,
    /// The change, as JSON or YAML
    #[arg(short, long)]
    pub patch: String,
    /// merge (also taken for strategic)
    #[arg(long = "type", default_value = "merge")]
    pub patch_type: String,
}

/// `proa label`
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  proa label ns default istio-injection=enabled --overwrite")]
pub struct Label {
    /// Type, or type/name
    pub kind: String,
    /// Name, then KEY=VALUE or KEY-
    #[arg(required = true)]
    pub rest: Vec<String>,
    /// Accepted for kubectl's sake: labels are always overwritten
    #[arg(long)]
    pub overwrite: bool,
}

/// `proxy-config`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  proa pc clusters deploy/nodebook-v3\n  proa pc routes nodebook-v4-55769d7fd6-dp69c --name 3000 -o json\n  proa pc endpoints deploy/nodebook-v3 --cluster 'outbound|3000||nodebook.default.svc.cluster.local'\n  proa pc log deploy/nodebook-v3 --level http:debug"
)]
pub struct ProxyConfig {
    /// What to show.
    #[command(subcommand)]
    pub what: ProxyConfigKind,
}

/// Where a proxy's configuration is read from, and how it is printed.
#[derive(Debug, Args)]
pub struct Source {
    /// Pod, deploy/NAME or svc/NAME; also NAME.NAMESPACE
    pub pod: Option<String>,
    /// A config dump in a file instead (- for standard input)
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<String>,
    /// json, yaml or short
    #[arg(short, long, default_value = "short", value_name = "FORMAT")]
    pub output: String,
    /// Port of the proxy's admin pages
    #[arg(long, default_value = "15000", value_name = "PORT")]
    pub proxy_admin_port: u16,
}

/// The parts of a proxy's configuration.
#[derive(Debug, Subcommand)]
pub enum ProxyConfigKind {
    /// Clusters
    #[command(visible_aliases = ["clusters", "c"])]
    Cluster {
        /// Where from.
        #[command(flatten)]
        source: Source,
        /// Only this host
        #[arg(long)]
        fqdn: Option<String>,
        /// inbound or outbound
        #[arg(long)]
        direction: Option<String>,
        /// Only this subset
        #[arg(long)]
        subset: Option<String>,
        /// Only this port
        #[arg(long)]
        port: Option<u32>,
    },
    /// Listeners
    #[command(visible_aliases = ["listeners", "l"])]
    Listener {
        /// Where from.
        #[command(flatten)]
        source: Source,
        /// Only this address
        #[arg(long)]
        address: Option<String>,
        /// Only this port
        #[arg(long)]
        port: Option<u32>,
        /// HTTP, TCP, HTTP+TCP or UNKNOWN
        #[arg(long = "type")]
        kind: Option<String>,
        /// Matches and destinations
        #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true", action = clap::ArgAction::Set)]
        verbose: bool,
        /// Accepted for istioctl's sake
        #[arg(long, hide = true)]
        waypoint: bool,
    },
    /// Routes
    #[command(visible_aliases = ["routes", "r"])]
    Route {
        /// Where from.
        #[command(flatten)]
        source: Source,
        /// Only this route configuration
        #[arg(long)]
        name: Option<String>,
        /// Virtual hosts and matches
        #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true", action = clap::ArgAction::Set)]
        verbose: bool,
    },
    /// Endpoints as the proxy uses them
    #[command(visible_aliases = ["endpoints", "ep"])]
    Endpoint {
        /// Where from.
        #[command(flatten)]
        source: Source,
        /// Only this address
        #[arg(long)]
        address: Option<String>,
        /// Only this port
        #[arg(long)]
        port: Option<u32>,
        /// Only this cluster
        #[arg(long)]
        cluster: Option<String>,
        /// healthy or unhealthy
        #[arg(long)]
        status: Option<String>,
    },
    /// Endpoints as the control plane sent them
    #[command(hide = true)]
    Eds {
        /// Where from.
        #[command(flatten)]
        source: Source,
        /// Only this address
        #[arg(long)]
        address: Option<String>,
        /// Only this port
        #[arg(long)]
        port: Option<u32>,
        /// Only this cluster
        #[arg(long)]
        cluster: Option<String>,
        /// healthy or unhealthy
        #[arg(long)]
        status: Option<String>,
    },
    /// The configuration the proxy started with
    #[command(visible_alias = "b")]
    Bootstrap {
        /// Where from.
        #[command(flatten)]
        source: Source,
    },
    /// Certificates
    #[command(visible_aliases = ["secrets", "s"])]
    Secret {
        /// Where from.
        #[command(flatten)]
        source: Source,
    },
    /// Extension configuration
    #[command(visible_alias = "ec")]
    Ecds {
        /// Where from.
        #[command(flatten)]
        source: Source,
    },
    /// Everything
    #[command(visible_alias = "a")]
    All {
        /// Where from.
        #[command(flatten)]
        source: Source,
    },
    /// Log levels of the proxy
    #[command(visible_alias = "o")]
    Log {
        /// Pod, deploy/NAME or svc/NAME
        pod: String,
        /// LEVEL, or LOGGER:LEVEL,…
        #[arg(long)]
        level: Option<String>,
        /// Back to warning
        #[arg(short, long)]
        reset: bool,
        /// Port of the proxy's admin pages
        #[arg(long, default_value = "15000", value_name = "PORT")]
        proxy_admin_port: u16,
    },
}

/// `proxy-status`
#[derive(Debug, Args)]
pub struct ProxyStatus {
    /// Only this pod
    pub pod: Option<String>,
    /// table, json or yaml
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    pub output: String,
    /// 1: every type in a column of its own
    #[arg(short, long, default_value = "0")]
    pub verbosity: u8,
}

/// `version`
#[derive(Debug, Args)]
pub struct Version {
    /// Only the number
    #[arg(short, long)]
    pub short: bool,
    /// Ask the running mesh as well
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true", action = clap::ArgAction::Set)]
    pub remote: bool,
    /// json or yaml
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn flags_do_not_collide() {
        Cli::command().debug_assert();
    }

    #[test]
    fn commands_of_the_seeds_parse() {
        for line in [
            "istioctl create -f nodebook-service.yaml",
            "istioctl get virtualservices -o yaml",
            "istioctl replace -f nodebook-service-v4.yaml",
            "istioctl proxy-config clusters nodebook-v4-55769d7fd6-dp69c",
            "istioctl proxy-config routes nodebook-v4-55769d7fd6-dp69c --name 3000 -o json",
            "istioctl proxy-config listeners nodebook-v4-55769d7fd6-dp69c --address 0.0.0.0 --port 3000 -o json",
            "istioctl -n samples proxy-config endpoints httpbin-1 --cluster outbound|8000||httpbin.samples.svc.cluster.local",
            "istioctl pc secret deploy/istio-ingressgateway -n istio-system",
            "istioctl proxy-status",
            "istioctl delete -f xxx.yaml",
            "istioctl delete virtualservice a b",
            "kubectl -n samples-1 patch svc sleep -p {}",
            "kubectl -n samples exec -it httpbin-1 -c istio-proxy sh",
            "kubectl -n samples exec -it httpbin-1 -c istio-proxy -- curl localhost:15000/config_dump -s",
            "kubectl -n samples logs -f httpbin-1 istio-proxy",
            "kubectl logs -n istio-system -l app=istiod --tail=10000",
            "kubectl port-forward deploy/istio-ingressgateway -n istio-system 15000",
            "kubectl label ns servicea istio-injection=enabled",
            "kubectl get pod -n istio-system -l istio=ingressgateway",
            "kubectl -n istio-system edit deploy istio-pilot",
        ] {
            let parsed = Cli::try_parse_from(line.split(' '));
            assert!(parsed.is_ok(), "{line}: {}", parsed.map(|_| ()).expect_err("failed"));
        }
    }
}
