//! How do rendered rules reach the kernel? Thin: runs `iptables-restore` or sends a netlink transaction.
//!
//! Applying twice leaves the same rules as applying once. Failures name the package that is missing.

use std::io::{self, Write};
use std::process::{Command, Stdio};

use crate::config::{Config, Mode};
use crate::iptables::{self, Family, Rules};
use crate::netlink::{Netlink, Route};
use crate::{nft, nftables};

/// Which kernel interface the rules go through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// `iptables-restore`, or the variant with this suffix or prefix (`nft`, `legacy`, or a whole name).
    Iptables(Option<String>),
    /// nftables over netlink; needs no program.
    Nftables,
}

/// Why rules were not applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A program is missing.
    #[error(
        "{0} is not installed; install it (Debian: apt-get install iptables), or use --native-nftables, which needs no program"
    )]
    Missing(String),
    /// A program refused.
    #[error("{program} failed: {reason}")]
    Refused {
        /// What was run.
        program: String,
        /// What it said.
        reason: String,
    },
    /// The kernel refused nftables rules.
    #[error(transparent)]
    Nft(#[from] nft::NftError),
    /// The kernel refused an address, a route or a policy rule.
    #[error("{what}: {source} (CAP_NET_ADMIN in the pod's network namespace is needed)")]
    Netlink {
        /// What was being set.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Applies `config` in the calling thread's network namespace; with `cleanup`, removes what it would have set.
///
/// # Errors
/// See [`ApplyError`]; nothing is left half applied within one table.
pub fn apply(config: &Config, backend: &Backend, cleanup: bool, force: bool) -> Result<(), ApplyError> {
    match backend {
        Backend::Nftables => {
            let script = if cleanup { nftables::cleanup() } else { nftables::render(config) };
            nft::run(&script)?;
        }
        Backend::Iptables(variant) => {
            let rules = iptables::render(config);
            for family in [Family::V4, Family::V6].into_iter().take(if config.ipv6 { 2 } else { 1 }) {
                Tool { family, variant: variant.as_deref() }.bring(&rules, cleanup, force)?;
            }
        }
    }
    if !cleanup {
        addresses_and_routes(config)?;
    }
    Ok(())
}

/// `::6` as a source for inbound connections, and the routes that deliver TPROXY's marked packets locally.
fn addresses_and_routes(config: &Config) -> Result<(), ApplyError> {
    let tproxy = config.mode == Mode::Tproxy;
    if !tproxy && !config.ipv6 {
        return Ok(());
    }
    let mut netlink = Netlink::open().map_err(|source| ApplyError::Netlink { what: "netlink", source })?;
    let lo = netlink.index("lo").map_err(|source| ApplyError::Netlink { what: "interface lo", source })?;
    if config.ipv6 {
        let address = iptables::PASSTHROUGH_V6.parse().expect("a literal prefix");
        netlink.address(lo, address).map_err(|source| ApplyError::Netlink { what: "address ::6/128", source })?;
    }
    if tproxy {
        let families: &[(bool, &str)] =
            if config.ipv6 { &[(false, "0.0.0.0/0"), (true, "::/0")] } else { &[(false, "0.0.0.0/0")] };
        for (ipv6, everything) in families {
            let to = everything.parse().expect("a literal prefix");
            let route =
                Route { to, via: None, source: None, interface: lo, table: config.tproxy_route_table, local: true };
            netlink.route(&route).map_err(|source| ApplyError::Netlink { what: "TPROXY route", source })?;
            netlink
                .mark_rule(*ipv6, config.tproxy_mark, config.tproxy_route_table)
                .map_err(|source| ApplyError::Netlink { what: "TPROXY policy rule", source })?;
        }
    }
    Ok(())
}

/// One family's iptables programs.
struct Tool<'a> {
    family: Family,
    variant: Option<&'a str>,
}

impl Tool<'_> {
    /// `iptables-nft-save` for suffix `save` of variant `nft`.
    fn program(&self, suffix: &str) -> String {
        let base = match self.family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        let variant = match self.variant {
            None | Some("") => String::new(),
            Some("legacy" | "iptables-legacy") => "-legacy".to_owned(),
            Some("nft" | "iptables-nft") => "-nft".to_owned(),
            Some(other) => format!("-{other}"),
        };
        format!("{base}{variant}{suffix}")
    }

    fn run(&self, suffix: &str, arguments: &[String], input: Option<&str>) -> Result<String, ApplyError> {
        let program = self.program(suffix);
        let missing = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => ApplyError::Missing(program.clone()),
            _ => ApplyError::Refused { program: program.clone(), reason: error.to_string() },
        };
        let mut child = Command::new(&program)
            .args(arguments)
            .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(missing)?;
        if let (Some(input), Some(mut pipe)) = (input, child.stdin.take()) {
            // A program that dies early closes its pipe; its exit status says more than EPIPE would.
            let _ = pipe.write_all(input.as_bytes());
        }
        let output = child.wait_with_output().map_err(missing)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(ApplyError::Refused { program, reason })
    }

    /// Whether every rule is there, and nothing of ours besides.
    fn is_applied(&self, rules: &[iptables::Rule], saved: &str) -> bool {
        let ours = |line: &&str| line.starts_with("-A ISTIO_") || line.contains("-j ISTIO_");
        let present = saved.lines().filter(ours).count();
        let expected = rules.iter().map(iptables::Rule::line).filter(|line| {
            let chain = line.split(' ').nth(1).unwrap_or_default();
            chain.starts_with("ISTIO_") || line.contains("-j ISTIO_")
        });
        present == expected.count() && rules.iter().all(|rule| self.run("", &rule.command("-C"), None).is_ok())
    }

    fn bring(&self, rules: &Rules, cleanup: bool, force: bool) -> Result<(), ApplyError> {
        let rules_of_family = rules.of(self.family);
        let saved = self.run("-save", &[], None)?;
        let residue = saved.contains("ISTIO_");
        if !cleanup && !force && residue && self.is_applied(rules_of_family, &saved) {
            return Ok(());
        }
        if cleanup || residue {
            for command in rules.cleanup(self.family) {
                // Half of these may not be there; what matters is that afterwards none is.
                let _ = self.run("", &command, None);
            }
        }
        if cleanup || rules_of_family.is_empty() {
            return Ok(());
        }
        self.run("-restore", &["--noflush".to_owned()], Some(&rules.restore(self.family))).map(|_| ())
    }
}
