//! Which iptables rules does a [`Config`] mean? Pure; order and text are those of istio-iptables.
//!
//! [`render`] yields the rules of both families; [`Rules::restore`] prints one family for `iptables-restore
//! --noflush`, [`Rules::cleanup`] the commands that undo it.

use crate::config::{Config, Mode, OwnerGroups};
use crate::ranges::{Ranges, split_list};

/// Port of the agent's DNS proxy.
pub(crate) const DNS_PORT: u16 = 15053;
/// Source address of the proxy's connections to the application (`InboundPassthroughCluster` and inbound clusters).
pub(crate) const PASSTHROUGH_V4: &str = "127.0.0.6/32";
/// The same for IPv6.
pub(crate) const PASSTHROUGH_V6: &str = "::6/128";
/// IPv6 loopback.
pub(crate) const LOOPBACK_V6: &str = "::1/128";
/// Mark of the proxy's own packets to this pod in TPROXY mode.
pub(crate) const OUTBOUND_MARK: u32 = 1338;

/// Address family of a rule set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `iptables`
    V4,
    /// `ip6tables`
    V6,
}

/// One rule, as it stands after `-A CHAIN` or `-I CHAIN n`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// `nat`, `mangle` or `raw`.
    pub table: &'static str,
    /// Chain that holds the rule.
    pub chain: &'static str,
    /// Position for `-I`, counted from 1; `None` appends.
    pub insert: Option<u32>,
    /// Matches and target.
    pub spec: String,
}

impl Rule {
    /// The rule as a line of an iptables-restore file.
    pub fn line(&self) -> String {
        match self.insert {
            Some(at) => format!("-I {} {at} {}", self.chain, self.spec),
            None => format!("-A {} {}", self.chain, self.spec),
        }
    }

    /// The rule as arguments after a verb such as `-C` or `-D`.
    pub fn command(&self, verb: &str) -> Vec<String> {
        let head = ["-t", self.table, verb, self.chain].into_iter();
        head.chain(self.spec.split(' ')).map(str::to_owned).collect()
    }
}

/// The rules of both families.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    v4: Vec<Rule>,
    v6: Vec<Rule>,
}

/// Whether a chain is ours, so created by us and removed on cleanup.
fn is_ours(chain: &str) -> bool {
    chain.starts_with("ISTIO_")
}

impl Rules {
    fn push(&mut self, families: &[Family], table: &'static str, chain: &'static str, insert: Option<u32>, spec: &str) {
        for family in families {
            let rule = Rule { table, chain, insert, spec: spec.to_owned() };
            match family {
                Family::V4 => self.v4.push(rule),
                Family::V6 => self.v6.push(rule),
            }
        }
    }

    fn add(&mut self, table: &'static str, chain: &'static str, spec: &str) {
        self.push(&[Family::V4, Family::V6], table, chain, None, spec);
    }

    fn add_in(&mut self, family: Family, table: &'static str, chain: &'static str, spec: &str) {
        self.push(&[family], table, chain, None, spec);
    }

    /// Appends one rule per family, with the family's address where the rule has one.
    fn add_each(
        &mut self,
        v4: &str,
        v6: &str,
        table: &'static str,
        chain: &'static str,
        spec: impl Fn(&str) -> String,
    ) {
        self.add_in(Family::V4, table, chain, &spec(v4));
        self.add_in(Family::V6, table, chain, &spec(v6));
    }

    /// The rules of one family in order.
    pub fn of(&self, family: Family) -> &[Rule] {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    /// Tables in the order in which they are written: by name.
    fn tables(rules: &[Rule]) -> impl Iterator<Item = &'static str> {
        ["mangle", "nat", "raw"].into_iter().filter(|table| rules.iter().any(|rule| rule.table == *table))
    }

    /// Our chains of `table`, in order of first use.
    pub fn chains<'a>(rules: &'a [Rule], table: &'a str) -> Vec<&'static str> {
        let mut chains: Vec<&'static str> = Vec::new();
        for rule in rules.iter().filter(|rule| rule.table == table && is_ours(rule.chain)) {
            if !chains.contains(&rule.chain) {
                chains.push(rule.chain);
            }
        }
        chains
    }

    /// One family as input for `iptables-restore --noflush`; empty when there is no rule.
    pub fn restore(&self, family: Family) -> String {
        let rules = self.of(family);
        let mut text = String::new();
        for table in Self::tables(rules) {
            text.push_str(&format!("* {table}\n"));
            for chain in Self::chains(rules, table) {
                text.push_str(&format!("-N {chain}\n"));
            }
            for rule in rules.iter().filter(|rule| rule.table == table) {
                text.push_str(&rule.line());
                text.push('\n');
            }
            text.push_str("COMMIT\n");
        }
        text
    }

    /// The `iptables` invocations that remove everything [`restore`](Self::restore) adds: jumps from built-in chains, then chains.
    pub fn cleanup(&self, family: Family) -> Vec<Vec<String>> {
        let rules = self.of(family);
        let mut commands: Vec<Vec<String>> =
            rules.iter().filter(|rule| !is_ours(rule.chain)).map(|rule| rule.command("-D")).collect();
        for verb in ["-F", "-X"] {
            for table in Self::tables(rules) {
                for chain in Self::chains(rules, table) {
                    commands.push(["-t", table, verb, chain].map(str::to_owned).to_vec());
                }
            }
        }
        commands
    }

    /// The trace that `istio-iptables` leaves of a first, successful run: probes, restore input, final state.
    pub fn trace(&self, ipv6: bool) -> String {
        let mut text = String::from("iptables-save\nip6tables-save\n");
        text.push_str(&self.restore(Family::V4));
        if ipv6 {
            text.push_str(&self.restore(Family::V6));
        }
        text.push_str("iptables-save\n");
        if ipv6 {
            text.push_str("ip6tables-save\n");
        }
        text
    }
}

/// The `iptables` invocations that remove what `iptables-save` shows of us, whatever settings it was made with: jumps into our
/// chains, then the chains.
pub fn removal(saved: &str) -> Vec<Vec<String>> {
    let (mut jumps, mut flushes, mut deletions) = (Vec::new(), Vec::new(), Vec::new());
    let mut table = "";
    let command = |words: &[&str]| -> Vec<String> { words.iter().map(|word| (*word).to_owned()).collect() };
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name.trim();
        } else if let Some(chain) = line.strip_prefix(':').and_then(|l| l.split(' ').next()).filter(|c| is_ours(c)) {
            flushes.push(command(&["-t", table, "-F", chain]));
            deletions.push(command(&["-t", table, "-X", chain]));
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let words: Vec<&str> = rule.split(' ').collect();
            if !is_ours(words[0]) && words.windows(2).any(|pair| pair[0] == "-j" && is_ours(pair[1])) {
                jumps.push(command(&[&["-t", table, "-D"], &words[..]].concat()));
            }
        }
    }
    [jumps, flushes, deletions].concat()
}

/// Renders the rules of `config`, which must have passed [`Config::validate`].
///
/// [`Mode::None`] has none. The IPv6 half is rendered always; whether it is applied is [`Config::ipv6`].
pub fn render(config: &Config) -> Rules {
    let mut rules = Rules::default();
    if config.mode == Mode::None {
        return rules;
    }
    let (v4_include, v6_include, _) = Ranges::split(&config.outbound_ranges_include);
    let (v4_exclude, v6_exclude, _) = Ranges::split(&config.outbound_ranges_exclude);
    interfaces(config, &mut rules);
    if config.drop_invalid {
        rules.add("mangle", "PREROUTING", "-m conntrack --ctstate INVALID -j ISTIO_DROP");
        rules.add("mangle", "ISTIO_DROP", "-j DROP");
    }
    rules.add("nat", "ISTIO_INBOUND", &format!("-p tcp --dport {} -j RETURN", config.inbound_tunnel_port));
    rules.add("nat", "ISTIO_REDIRECT", &format!("-p tcp -j REDIRECT --to-ports {}", config.proxy_port));
    rules.add("nat", "ISTIO_IN_REDIRECT", &format!("-p tcp -j REDIRECT --to-ports {}", config.inbound_capture_port));
    inbound(config, &mut rules);

    rules.add("nat", "OUTPUT", "-j ISTIO_OUTPUT");
    for port in split_list(&config.outbound_ports_exclude) {
        rules.add("nat", "ISTIO_OUTPUT", &format!("-p tcp --dport {port} -j RETURN"));
        rules.add("nat", "ISTIO_OUTPUT", &format!("-p udp --dport {port} -j RETURN"));
    }
    rules.add_each(PASSTHROUGH_V4, PASSTHROUGH_V6, "nat", "ISTIO_OUTPUT", |ip| format!("-o lo -s {ip} -j RETURN"));
    let loopback_wanted = v4_include.has_loopback() || v6_include.has_loopback();
    for uid in split_list(&config.proxy_uid) {
        own_traffic(config, &mut rules, "--uid-owner", uid, loopback_wanted, config.dns_captured());
    }
    for gid in split_list(&config.proxy_gid) {
        own_traffic(config, &mut rules, "--gid-owner", gid, loopback_wanted, false);
    }
    owner_groups(config, &mut rules);
    if config.dns_captured() {
        dns(config, &mut rules);
    }
    rules.add_each(&config.loopback_v4, LOOPBACK_V6, "nat", "ISTIO_OUTPUT", |ip| format!("-d {ip} -j RETURN"));
    for (family, ranges) in [(Family::V4, &v4_exclude), (Family::V6, &v6_exclude)] {
        for cidr in &ranges.cidrs {
            rules.add_in(family, "nat", "ISTIO_OUTPUT", &format!("-d {cidr} -j RETURN"));
        }
    }
    for port in split_list(&config.outbound_ports_include) {
        rules.add("nat", "ISTIO_OUTPUT", &format!("-p tcp --dport {port} -j ISTIO_REDIRECT"));
    }
    outbound(config, &mut rules, Family::V4, &v4_include);
    outbound(config, &mut rules, Family::V6, &v6_include);
    if config.mode == Mode::Tproxy {
        tproxy_marks(config, &mut rules);
    }
    if config.hold {
        hold(config, &mut rules);
    }
    rules
}

/// Drops the first packets of connections to a port of the proxy on which nobody listens; see [`Config::hold`].
fn hold(config: &Config, rules: &mut Rules) {
    rules.add("mangle", "INPUT", "-j ISTIO_HOLD");
    for port in [config.proxy_port, config.inbound_capture_port] {
        let first = format!("-p tcp -m tcp --dport {port} --tcp-flags SYN,ACK SYN");
        rules.add("mangle", "ISTIO_HOLD", &format!("{first} -m socket --nowildcard -j RETURN"));
        rules.add("mangle", "ISTIO_HOLD", &format!("{first} -j DROP"));
    }
}

/// Leaves excluded interfaces alone, and virtual machines' interfaces until [`outbound`] says otherwise.
fn interfaces(config: &Config, rules: &mut Rules) {
    let tables: &[&'static str] = if config.mode == Mode::Tproxy { &["nat", "mangle"] } else { &["nat"] };
    for table in tables {
        for interface in split_list(&config.exclude_interfaces) {
            rules.add(table, "PREROUTING", &format!("-i {interface} -j RETURN"));
            rules.add(table, "OUTPUT", &format!("-o {interface} -j RETURN"));
        }
    }
    for interface in split_list(&config.reroute_interfaces) {
        let both = [Family::V4, Family::V6];
        rules.push(&both, "nat", "PREROUTING", Some(1), &format!("-i {interface} -j RETURN"));
    }
}

/// Inbound capture: by NAT, or by mark and TPROXY so that established connections stay with their socket.
fn inbound(config: &Config, rules: &mut Rules) {
    if config.inbound_ports_include.is_empty() {
        return;
    }
    let tproxy = config.mode == Mode::Tproxy;
    let table = if tproxy { "mangle" } else { "nat" };
    if tproxy {
        let mark = config.tproxy_mark;
        rules.add("mangle", "ISTIO_DIVERT", &format!("-j MARK --set-mark {mark}"));
        rules.add("mangle", "ISTIO_DIVERT", "-j ACCEPT");
        rules.add_each(&config.loopback_v4, LOOPBACK_V6, "mangle", "ISTIO_TPROXY", |ip| {
            let port = config.inbound_capture_port;
            format!("! -d {ip} -p tcp -j TPROXY --tproxy-mark {mark}/0xffffffff --on-port {port}")
        });
    }
    rules.add(table, "PREROUTING", "-p tcp -j ISTIO_INBOUND");
    let capture = |rules: &mut Rules, dport: &str| {
        if tproxy {
            let established = format!("-p tcp{dport} -m conntrack --ctstate RELATED,ESTABLISHED -j ISTIO_DIVERT");
            rules.add("mangle", "ISTIO_INBOUND", &established);
            rules.add("mangle", "ISTIO_INBOUND", &format!("-p tcp{dport} -j ISTIO_TPROXY"));
        } else {
            rules.add("nat", "ISTIO_INBOUND", &format!("-p tcp{dport} -j ISTIO_IN_REDIRECT"));
        }
    };
    if config.inbound_ports_include == "*" {
        for port in split_list(&config.inbound_ports_exclude) {
            rules.add(table, "ISTIO_INBOUND", &format!("-p tcp --dport {port} -j RETURN"));
        }
        capture(rules, "");
    } else {
        for port in split_list(&config.inbound_ports_include) {
            capture(rules, &format!(" --dport {port}"));
        }
    }
}

/// The proxy's own traffic, by user or group: back into the inbound listener when it calls its own pod by a
/// service address, otherwise never captured (no loops). `spare_dns` keeps TCP DNS out of the first rule.
fn own_traffic(config: &Config, rules: &mut Rules, owner: &str, id: &str, loopback_wanted: bool, spare_dns: bool) {
    let tunnel = config.inbound_tunnel_port;
    let ports = if spare_dns { format!("-m multiport ! --dports 53,{tunnel}") } else { format!("! --dport {tunnel}") };
    rules.add_each(&config.loopback_v4, LOOPBACK_V6, "nat", "ISTIO_OUTPUT", |ip| {
        format!("-o lo ! -d {ip} -p tcp {ports} -m owner {owner} {id} -j ISTIO_IN_REDIRECT")
    });
    if !loopback_wanted {
        // An application that talks to its own pod address stays on loopback; DNS on loopback may still be captured.
        let not_dns = if config.dns_captured() { " -p tcp ! --dport 53" } else { "" };
        rules.add("nat", "ISTIO_OUTPUT", &format!("-o lo{not_dns} -m owner ! {owner} {id} -j RETURN"));
    }
    rules.add("nat", "ISTIO_OUTPUT", &format!("-m owner {owner} {id} -j RETURN"));
}

fn owner_groups(config: &Config, rules: &mut Rules) {
    match config.owner_groups() {
        OwnerGroups::AllBut(groups) => {
            for group in groups {
                rules.add("nat", "ISTIO_OUTPUT", &format!("-m owner --gid-owner {group} -j RETURN"));
            }
        }
        OwnerGroups::Only(groups) => {
            let none: String = groups.iter().map(|group| format!("-m owner ! --gid-owner {group} ")).collect();
            rules.add("nat", "ISTIO_OUTPUT", &format!("{none}-j RETURN"));
        }
    }
}

fn outbound(config: &Config, rules: &mut Rules, family: Family, include: &Ranges) {
    let insert = |rules: &mut Rules, to: &str| {
        for interface in split_list(&config.reroute_interfaces) {
            rules.push(&[family], "nat", "PREROUTING", Some(1), &format!("-i {interface}{to} -j ISTIO_REDIRECT"));
        }
    };
    if include.wildcard {
        rules.add_in(family, "nat", "ISTIO_OUTPUT", "-j ISTIO_REDIRECT");
        insert(rules, "");
    }
    for cidr in &include.cidrs {
        insert(rules, &format!(" -d {cidr}"));
        rules.add_in(family, "nat", "ISTIO_OUTPUT", &format!("-d {cidr} -j ISTIO_REDIRECT"));
    }
}

/// DNS to the agent, with the agent's own queries and the applications' in separate conntrack zones: both use
/// the same five-tuple otherwise.
fn dns(config: &Config, rules: &mut Rules) {
    let all = config.capture_all_dns;
    let servers = [(Family::V4, &config.dns_servers_v4, 32), (Family::V6, &config.dns_servers_v6, 128)];
    rules.add("raw", "OUTPUT", "-j ISTIO_OUTPUT_DNS");
    for (family, servers, _) in servers {
        if all || !servers.is_empty() {
            rules.add_in(family, "nat", "ISTIO_OUTPUT", "-j ISTIO_OUTPUT_DNS");
        }
    }
    for (protocol, to) in [("tcp", "--to-ports"), ("udp", "--to-port")] {
        if all {
            let spec = format!("-p {protocol} --dport 53 -j REDIRECT {to} {DNS_PORT}");
            rules.add("nat", "ISTIO_OUTPUT_DNS", &spec);
            continue;
        }
        for (family, servers, bits) in servers {
            for server in servers {
                let spec = format!("-p {protocol} --dport 53 -d {server}/{bits} -j REDIRECT {to} {DNS_PORT}");
                rules.add_in(family, "nat", "ISTIO_OUTPUT_DNS", &spec);
            }
        }
    }
    let owners = split_list(&config.proxy_uid)
        .map(|uid| ("--uid-owner", uid))
        .chain(split_list(&config.proxy_gid).map(|gid| ("--gid-owner", gid)));
    for (owner, id) in owners {
        rules.add("raw", "ISTIO_OUTPUT_DNS", &format!("-p udp --dport 53 -m owner {owner} {id} -j CT --zone 1"));
        rules.add(
            "raw",
            "ISTIO_OUTPUT_DNS",
            &format!("-p udp --sport {DNS_PORT} -m owner {owner} {id} -j CT --zone 2"),
        );
    }
    if all {
        rules.add("raw", "PREROUTING", "-j ISTIO_INBOUND");
        rules.add("raw", "ISTIO_OUTPUT_DNS", "-p udp --dport 53 -j CT --zone 2");
        rules.add("raw", "ISTIO_INBOUND", "-p udp --sport 53 -j CT --zone 1");
        return;
    }
    for (family, servers, bits) in servers {
        if !servers.is_empty() {
            rules.add_in(family, "raw", "PREROUTING", "-j ISTIO_INBOUND");
        }
        for server in servers {
            let to = format!("-p udp --dport 53 -d {server}/{bits} -j CT --zone 2");
            rules.add_in(family, "raw", "ISTIO_OUTPUT_DNS", &to);
            let from = format!("-p udp --sport 53 -s {server}/{bits} -j CT --zone 1");
            rules.add_in(family, "raw", "ISTIO_INBOUND", &from);
        }
    }
}

/// Marks that carry a TPROXY connection's identity from packet to connection and back.
fn tproxy_marks(config: &Config, rules: &mut Rules) {
    let mark = config.tproxy_mark;
    rules.add("mangle", "PREROUTING", &format!("-p tcp -m mark --mark {mark} -j CONNMARK --save-mark"));
    rules.add("mangle", "OUTPUT", &format!("-p tcp -o lo -m mark --mark {mark} -j RETURN"));
    let owners = split_list(&config.proxy_uid)
        .map(|uid| ("--uid-owner", uid))
        .chain(split_list(&config.proxy_gid).map(|gid| ("--gid-owner", gid)));
    for (owner, id) in owners {
        rules.add_each(&config.loopback_v4, LOOPBACK_V6, "mangle", "OUTPUT", |ip| {
            format!("! -d {ip} -p tcp -o lo -m owner {owner} {id} -j MARK --set-mark {OUTBOUND_MARK}")
        });
    }
    rules.add("mangle", "OUTPUT", &format!("-p tcp -m connmark --mark {mark} -j CONNMARK --restore-mark"));
    let both = [Family::V4, Family::V6];
    let (table, chain) = ("mangle", "ISTIO_INBOUND");
    rules.push(&both, table, chain, Some(1), &format!("-p tcp -m mark --mark {mark} -j RETURN"));
    rules.push(&[Family::V4], table, chain, Some(2), &format!("-p tcp -s {PASSTHROUGH_V4} -i lo -j RETURN"));
    rules.push(&[Family::V6], table, chain, Some(2), &format!("-p tcp -s {PASSTHROUGH_V6} -i lo -j RETURN"));
    rules.push(&both, table, chain, Some(3), &format!("-p tcp -i lo -m mark ! --mark {OUTBOUND_MARK} -j RETURN"));
}
