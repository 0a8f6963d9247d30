//! What does the command line ask? `istio-iptables`' flags and environment, turned into a [`Config`].
//!
//! Serves `proa agent istio-iptables`, `pilot-agent istio-iptables` and the init container's bare
//! `-p 15001 -u 1337 -m REDIRECT -i '*' -x "" -b "" -d ""`.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgAction, Parser};

use crate::apply::{Backend, apply};
use crate::config::Config;
use crate::ranges::Ranges;
use crate::{iptables, nftables, probe};

/// Capture a pod's traffic for its proxy.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "istio-iptables",
    about = "Capture a pod's traffic for its proxy",
    after_help = "Examples:\n  istio-iptables -p 15001 -z 15006 -u 1337 -m REDIRECT -i '*' -x '' -b '*' -d 15090,15021,15020\n  istio-iptables -i '*' -b '*' --dry-run\n  istio-iptables --cleanup-only"
)]
pub struct Args {
    /// Port that outbound TCP is redirected to
    #[arg(short = 'p', long = "envoy-port", env = "ENVOY_PORT", default_value = "15001", value_name = "PORT")]
    envoy_port: u16,
    /// Port that inbound TCP is redirected to
    #[arg(short = 'z', long, env = "INBOUND_CAPTURE_PORT", default_value = "15006", value_name = "PORT")]
    inbound_capture_port: u16,
    /// HBONE port, never redirected
    #[arg(short = 'e', long, env = "INBOUND_TUNNEL_PORT", default_value = "15008", value_name = "PORT")]
    inbound_tunnel_port: u16,
    /// Users whose traffic is not redirected: the proxy's (default 1337)
    #[arg(short = 'u', long, env = "PROXY_UID", default_value = "", hide_default_value = true, value_name = "UID,..")]
    proxy_uid: String,
    /// Groups whose traffic is not redirected (default: as -u)
    #[arg(short = 'g', long, env = "PROXY_GID", default_value = "", hide_default_value = true, value_name = "GID,..")]
    proxy_gid: String,
    /// REDIRECT, TPROXY or NONE
    #[arg(
        short = 'm',
        long = "istio-inbound-interception-mode",
        env = "ISTIO_INBOUND_INTERCEPTION_MODE",
        default_value = "REDIRECT",
        value_name = "MODE"
    )]
    mode: String,
    /// Inbound ports to redirect; '*' for all, empty for none
    #[arg(
        short = 'b',
        long,
        env = "ISTIO_INBOUND_PORTS",
        default_value = "",
        hide_default_value = true,
        value_name = "PORT,.."
    )]
    istio_inbound_ports: String,
    /// Inbound ports to leave alone, with -b '*'
    #[arg(
        short = 'd',
        long,
        env = "ISTIO_LOCAL_EXCLUDE_PORTS",
        default_value = "",
        hide_default_value = true,
        value_name = "PORT,.."
    )]
    istio_local_exclude_ports: String,
    /// Outbound ranges to redirect; '*' for all, empty for none
    #[arg(
        short = 'i',
        long,
        env = "ISTIO_SERVICE_CIDR",
        default_value = "",
        hide_default_value = true,
        value_name = "CIDR,.."
    )]
    istio_service_cidr: String,
    /// Outbound ranges to leave alone
    #[arg(
        short = 'x',
        long,
        env = "ISTIO_SERVICE_EXCLUDE_CIDR",
        default_value = "",
        hide_default_value = true,
        value_name = "CIDR,.."
    )]
    istio_service_exclude_cidr: String,
    /// Outbound ports to redirect whatever their address
    #[arg(
        short = 'q',
        long,
        env = "ISTIO_OUTBOUND_PORTS",
        default_value = "",
        hide_default_value = true,
        value_name = "PORT,.."
    )]
    istio_outbound_ports: String,
    /// Outbound ports to leave alone
    #[arg(
        short = 'o',
        long,
        env = "ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE",
        default_value = "",
        hide_default_value = true,
        value_name = "PORT,.."
    )]
    istio_local_outbound_ports_exclude: String,
    /// Interfaces to leave alone
    #[arg(
        short = 'c',
        long,
        env = "ISTIO_EXCLUDE_INTERFACES",
        default_value = "",
        hide_default_value = true,
        value_name = "NIC,.."
    )]
    istio_exclude_interfaces: String,
    /// Interfaces of virtual machines, whose inbound traffic counts as outbound
    #[arg(
        short = 'k',
        long,
        alias = "reroute-virtual-interfaces",
        env = "KUBE_VIRT_INTERFACES",
        default_value = "",
        hide_default_value = true,
        value_name = "NIC,.."
    )]
    kube_virt_interfaces: String,
    /// Mark of captured packets in TPROXY mode
    #[arg(short = 't', long, env = "ISTIO_INBOUND_TPROXY_MARK", default_value = "1337", value_name = "MARK")]
    istio_inbound_tproxy_mark: u32,
    /// Routing table for marked packets in TPROXY mode
    #[arg(short = 'r', long, env = "ISTIO_INBOUND_TPROXY_ROUTE_TABLE", default_value = "133", value_name = "TABLE")]
    istio_inbound_tproxy_route_table: u32,
    /// Groups whose outbound traffic is redirected; '*' for all
    #[arg(long, env = "ISTIO_OUTBOUND_OWNER_GROUPS", default_value = "*", value_name = "GID,..")]
    istio_outbound_owner_groups: String,
    /// Groups whose outbound traffic is left alone
    #[arg(
        long,
        env = "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE",
        default_value = "",
        hide_default_value = true,
        value_name = "GID,.."
    )]
    istio_outbound_owner_groups_exclude: String,
    /// What counts as loopback in IPv4
    #[arg(long, env = "HOST_IPV4_LOOPBACK_CIDR", default_value = "127.0.0.1/32", value_name = "CIDR")]
    host_ipv4_loopback_cidr: String,
    /// Print what would be done
    #[arg(short = 'n', long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", hide_default_value = true)]
    dry_run: bool,
    /// Port that --run-validation connects to
    #[arg(long, default_value = "15002", value_name = "PORT")]
    iptables_probe_port: u16,
    /// How long --run-validation waits
    #[arg(long, default_value = "5s", value_parser = duration, value_name = "DURATION")]
    probe_timeout: Duration,
    /// Apply nothing (with --run-validation: only validate)
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", hide_default_value = true)]
    skip_rule_apply: bool,
    /// Check by a connection that capture works; exit code 126 if it does not
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", hide_default_value = true)]
    run_validation: bool,
    /// Capture DNS for the agent on 15053
    #[arg(long, env = "ISTIO_META_DNS_CAPTURE", action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", hide_default_value = true)]
    redirect_dns: bool,
    /// Capture DNS to any server, not only those of /etc/resolv.conf
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", hide_default_value = true)]
    capture_all_dns: bool,
    /// Drop packets that conntrack calls invalid
    #[arg(long, env = "INVALID_DROP", action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", hide_default_value = true)]
    drop_invalid: bool,
    /// While the proxy does not listen, hold new connections instead of refusing them
    #[arg(long, env = "PROA_HOLD_UNTIL_READY", action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", hide_default_value = true)]
    hold_until_ready: bool,
    /// Rules for IPv4 and IPv6
    #[arg(long, env = "ISTIO_DUAL_STACK", action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", hide_default_value = true)]
    dual_stack: bool,
    /// Network namespace to work in, as a path
    #[arg(long, default_value = "", hide_default_value = true, value_name = "PATH")]
    network_namespace: String,
    /// Accepted for the CNI plugin; changes nothing here
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", hide_default_value = true)]
    cni_mode: bool,
    /// Replace rules that differ (always done)
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", hide_default_value = true)]
    reconcile: bool,
    /// Remove our rules and stop
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", hide_default_value = true)]
    cleanup_only: bool,
    /// Apply even if the rules are already there
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", hide_default_value = true)]
    force_apply: bool,
    /// Use nftables over netlink; needs no program
    #[arg(long, env = "NATIVE_NFTABLES", action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", hide_default_value = true)]
    native_nftables: bool,
    /// Use this variant of iptables: nft or legacy
    #[arg(long, env = "FORCE_IPTABLES_BINARY", default_value = "", hide_default_value = true, value_name = "VARIANT")]
    force_iptables_binary: String,
    /// Accepted for istio-iptables' sake: the version is not needed
    #[arg(long, default_value = "", hide = true)]
    iptables_version: String,
    /// Accepted for istio-iptables' sake (log levels)
    #[arg(long = "log_output_level", alias = "log-output-level", default_value = "", hide = true)]
    log_output_level: String,
}

fn duration(text: &str) -> Result<Duration, String> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len()));
    let number: f64 = digits.parse().map_err(|_| format!("{text:?} is not a duration such as 5s"))?;
    match unit {
        "ms" => Ok(Duration::from_secs_f64(number / 1000.0)),
        "s" | "" => Ok(Duration::from_secs_f64(number)),
        "m" => Ok(Duration::from_secs_f64(number * 60.0)),
        _ => Err(format!("{text:?} is not a duration such as 5s")),
    }
}

/// What a run will do: decided from flags, environment and two files, before anything is changed.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// The rules wanted.
    pub config: Config,
    /// Where they go.
    pub backend: Backend,
}

impl Args {
    /// Fills in what the flags leave open: the proxy's user, resolv.conf's servers, whether this pod has IPv6.
    ///
    /// # Errors
    /// A flag that does not fit, in words.
    pub fn resolve(&self) -> Result<Invocation, String> {
        let uid = if self.proxy_uid.is_empty() { "1337" } else { &self.proxy_uid };
        let mut config = Config {
            proxy_port: self.envoy_port,
            inbound_capture_port: self.inbound_capture_port,
            inbound_tunnel_port: self.inbound_tunnel_port,
            proxy_uid: uid.to_owned(),
            proxy_gid: if self.proxy_gid.is_empty() { uid.to_owned() } else { self.proxy_gid.clone() },
            mode: self.mode.parse().map_err(|error: crate::InvalidConfig| error.to_string())?,
            tproxy_mark: self.istio_inbound_tproxy_mark,
            tproxy_route_table: self.istio_inbound_tproxy_route_table,
            inbound_ports_include: self.istio_inbound_ports.clone(),
            inbound_ports_exclude: self.istio_local_exclude_ports.clone(),
            owner_groups_include: self.istio_outbound_owner_groups.clone(),
            owner_groups_exclude: self.istio_outbound_owner_groups_exclude.clone(),
            outbound_ports_include: self.istio_outbound_ports.clone(),
            outbound_ports_exclude: self.istio_local_outbound_ports_exclude.clone(),
            outbound_ranges_include: self.istio_service_cidr.clone(),
            outbound_ranges_exclude: self.istio_service_exclude_cidr.clone(),
            reroute_interfaces: self.kube_virt_interfaces.clone(),
            exclude_interfaces: self.istio_exclude_interfaces.clone(),
            redirect_dns: self.redirect_dns,
            capture_all_dns: self.capture_all_dns,
            drop_invalid: self.drop_invalid,
            hold: self.hold_until_ready,
            loopback_v4: self.host_ipv4_loopback_cidr.clone(),
            ipv6: self.dual_stack || has_ipv6(&fs::read_to_string("/proc/net/if_inet6").unwrap_or_default()),
            ..Config::default()
        };
        if self.redirect_dns && !self.capture_all_dns {
            let text = fs::read_to_string("/etc/resolv.conf").map_err(|error| format!("/etc/resolv.conf: {error}"))?;
            (config.dns_servers_v4, config.dns_servers_v6) = name_servers(&text);
        }
        config.validate().map_err(|error| error.to_string())?;
        let variant = Some(self.force_iptables_binary.clone()).filter(|name| !name.is_empty());
        let backend = if self.native_nftables { Backend::Nftables } else { Backend::Iptables(variant) };
        Ok(Invocation { config, backend })
    }
}

/// Whether `/proc/net/if_inet6` lists a global address outside loopback.
fn has_ipv6(if_inet6: &str) -> bool {
    if_inet6.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        matches!(fields[..], [_, _, _, "00", _, interface] if interface != "lo")
    })
}

fn name_servers(resolv_conf: &str) -> (Vec<String>, Vec<String>) {
    resolv_conf
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .map(|rest| rest.trim().to_owned())
        .filter(|server| server.parse::<std::net::IpAddr>().is_ok())
        .partition(|server| server.contains('.') && !server.contains(':'))
}

/// Runs `istio-iptables` with `args`, `args[0]` being the program's name.
///
/// Exit code 1: nothing or not all was applied; 126: applied, but the validation probe was not captured.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    match run(&args) {
        Ok(code) => code,
        Err(reason) => {
            eprintln!("istio-iptables: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<ExitCode, String> {
    if !args.network_namespace.is_empty() {
        let path = PathBuf::from(&args.network_namespace);
        let file = File::open(&path).map_err(|error| format!("--network-namespace {}: {error}", path.display()))?;
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET)
            .map_err(|error| format!("--network-namespace {}: {error}", path.display()))?;
    }
    let Invocation { config, backend } = args.resolve()?;
    for (flag, list) in [("-i", &config.outbound_ranges_include), ("-x", &config.outbound_ranges_exclude)] {
        for item in Ranges::split(list).2 {
            eprintln!("istio-iptables: {flag}: {item:?} is not a CIDR range and is ignored");
        }
    }
    if config.redirect_dns && !config.dns_captured() {
        eprintln!(
            "istio-iptables: --redirect-dns: no name server in /etc/resolv.conf, so DNS is not captured; --capture-all-dns does without"
        );
    }
    if args.dry_run {
        print!("{}", describe(&config, &backend, args.cleanup_only));
        return Ok(ExitCode::SUCCESS);
    }
    if !args.skip_rule_apply {
        apply(&config, &backend, args.cleanup_only, args.force_apply).map_err(|error| error.to_string())?;
    }
    if args.run_validation && !args.cleanup_only {
        return validate(args, &config);
    }
    Ok(ExitCode::SUCCESS)
}

/// What [`apply`] would run, for `--dry-run`.
fn describe(config: &Config, backend: &Backend, cleanup: bool) -> String {
    match (backend, cleanup) {
        (Backend::Nftables, true) => nftables::cleanup(),
        (Backend::Nftables, false) => nftables::render(config),
        (Backend::Iptables(_), false) => iptables::render(config).trace(config.ipv6),
        (Backend::Iptables(_), true) => iptables::render(config)
            .cleanup(iptables::Family::V4)
            .iter()
            .map(|command| format!("iptables {}\n", command.join(" ")))
            .collect(),
    }
}

/// Probes as the proxy's user: only its connections to the own pod are captured on the way out.
fn validate(args: &Args, config: &Config) -> Result<ExitCode, String> {
    let uid = config.proxy_uid.split(',').next().and_then(|uid| uid.parse::<u32>().ok()).unwrap_or(1337);
    if nix::unistd::geteuid().is_root() {
        use std::os::unix::process::CommandExt;
        let status = std::process::Command::new("/proc/self/exe")
            .arg0("istio-iptables")
            .args(["--skip-rule-apply", "--run-validation", "--proxy-uid", &uid.to_string()])
            .args(["--inbound-capture-port", &config.inbound_capture_port.to_string()])
            .args(["--iptables-probe-port", &args.iptables_probe_port.to_string()])
            .args(["--probe-timeout", &format!("{}ms", args.probe_timeout.as_millis())])
            .uid(uid)
            .gid(uid)
            .status()
            .map_err(|error| format!("validation as user {uid}: {error}"))?;
        return Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from));
    }
    match probe::run(config.inbound_capture_port, args.iptables_probe_port, args.probe_timeout) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("istio-iptables: validation failed, the workload's traffic is not captured: {error}");
            Ok(ExitCode::from(probe::EXIT_CODE))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Args {
        Args::try_parse_from([&["istio-iptables"], arguments].concat()).expect("flags parse")
    }

    #[test]
    fn init_container_arguments_of_the_first_releases() {
        let args = parse(&[
            "-p",
            "15001",
            "-u",
            "1337",
            "-m",
            "REDIRECT",
            "-i",
            "*",
            "-x",
            "",
            "-b",
            "",
            "-d",
            "",
            "--log_output_level=default:info",
        ]);
        let config = args.resolve().expect("fits").config;
        assert_eq!(config.outbound_ranges_include, "*");
        assert_eq!(config.inbound_ports_include, "");
        assert_eq!(config.proxy_gid, "1337");
    }

    #[test]
    fn booleans_may_carry_a_value() {
        assert!(parse(&["--dry-run"]).dry_run);
        assert!(parse(&["-n"]).dry_run);
        assert!(!parse(&["--redirect-dns=false"]).redirect_dns);
        assert_eq!(parse(&["--probe-timeout", "1500ms"]).probe_timeout, Duration::from_millis(1500));
    }

    #[test]
    fn environment_of_the_pod_is_read() {
        assert!(has_ipv6("20010db8000000000000000000000001 02 40 00 80 eth0\n"));
        assert!(!has_ipv6(
            "fe800000000000000000000000000001 02 40 20 80 eth0\n00000000000000000000000000000001 01 80 10 80 lo\n"
        ));
        let (v4, v6) = name_servers("search x\nnameserver 10.96.0.10\nnameserver fd00::a\nnameserver bogus\n");
        assert_eq!((v4, v6), (vec!["10.96.0.10".to_owned()], vec!["fd00::a".to_owned()]));
    }
}
