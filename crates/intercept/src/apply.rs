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
            for (family, wanted) in [(Family::V4, true), (Family::V6, config.ipv6)] {
                let tool = Tool { family, variant: variant.as_deref() };
                match (cleanup, wanted) {
                    (true, true) => tool.clean(config)?,
                    // Rules of a family that is not in use may still be there; a machine without its tools has none.
                    (true, false) => drop(tool.clean(config)),
                    (false, true) => tool.bring(config, &rules, force)?,
                    (false, false) => {}
                }
            }
        }
    }
    if cleanup { remove_routes(config) } else { addresses_and_routes(config) }
}

/// `::6` as a source for inbound connections, and the routes that deliver TPROXY's marked packets locally.
fn addresses_and_routes(config: &Config) -> Result<(), ApplyError> {
    let tproxy = config.mode == Mode::Tproxy;
    if !tproxy && !config.ipv6 {
        return Ok(());
    }
    let mut netlink = Netlink::open().map_err(failed("netlink"))?;
    let lo = netlink.index("lo").map_err(failed("interface lo"))?;
    if config.ipv6 {
        let address = iptables::PASSTHROUGH_V6.parse().expect("a literal prefix");
        netlink.address(lo, address).map_err(failed("address ::6/128"))?;
    }
    if tproxy {
        for ipv6 in [false, true].into_iter().take(if config.ipv6 { 2 } else { 1 }) {
            netlink.route(&everything_local(config, ipv6, lo)).map_err(failed("TPROXY route"))?;
            let rule = netlink.mark_rule(ipv6, config.tproxy_mark, config.tproxy_route_table);
            rule.map_err(failed("TPROXY policy rule"))?;
        }
    }
    Ok(())
}

/// Takes TPROXY's routes away, also where they were never set: cleaning up need not know how the rules were made. `::6` stays; it
/// is in nobody's way and connections may have it.
fn remove_routes(config: &Config) -> Result<(), ApplyError> {
    let mut netlink = Netlink::open().map_err(failed("netlink"))?;
    let lo = netlink.index("lo").map_err(failed("interface lo"))?;
    for ipv6 in [false, true] {
        let removed = netlink.remove_mark_rule(ipv6, config.tproxy_mark, config.tproxy_route_table);
        // A kernel without IPv6 has none of its rules.
        if ipv6 && removed.is_err() {
            return Ok(());
        }
        removed.map_err(failed("TPROXY policy rule"))?;
        netlink.remove_route(&everything_local(config, ipv6, lo)).map_err(failed("TPROXY route"))?;
    }
    Ok(())
}

fn everything_local(config: &Config, ipv6: bool, lo: u32) -> Route {
    let to = if ipv6 { "::/0" } else { "0.0.0.0/0" }.parse().expect("a literal prefix");
    Route { to, via: None, source: None, interface: lo, table: config.tproxy_route_table, local: true }
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> ApplyError {
    move |source| ApplyError::Netlink { what, source }
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

    fn bring(&self, config: &Config, rules: &Rules, force: bool) -> Result<(), ApplyError> {
        let rules_of_family = rules.of(self.family);
        let saved = self.run("-save", &[], None)?;
        if saved.contains("ISTIO_") {
            if !force && self.is_applied(rules_of_family, &saved) {
                return Ok(());
            }
            self.remove(config, &saved);
        }
        if rules_of_family.is_empty() {
            return Ok(());
        }
        self.run("-restore", &["--noflush".to_owned()], Some(&rules.restore(self.family))).map(|_| ())
    }

    fn clean(&self, config: &Config) -> Result<(), ApplyError> {
        let saved = self.run("-save", &[], None)?;
        self.remove(config, &saved);
        Ok(())
    }

    /// Removes what either mode would have set, and what else is ours: whoever cleans up need not know how it was made.
    fn remove(&self, config: &Config, saved: &str) {
        let of = |mode| iptables::render(&Config { mode, ..config.clone() }).cleanup(self.family);
        let commands = [of(Mode::Redirect), of(Mode::Tproxy), iptables::removal(saved)];
        for command in commands.iter().flatten() {
            // Half of these may not be there; what matters is that afterwards none is.
            let _ = self.run("", command, None);
        }
    }
}
