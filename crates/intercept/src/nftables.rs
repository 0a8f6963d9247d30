//! Which nftables rules does a [`Config`] mean? Pure; order and text are those of Istio's native nftables mode.
//!
//! One `inet` table per hook family (`istio-proxy-nat`, `-mangle`, `-raw`), so one transaction serves both address
//! families. [`render`] yields a script for `nft -f -` (or for [`crate::nft`]); [`cleanup`] its undoing. The script
//! replaces what an earlier run left, hence is idempotent.

use crate::config::{Config, Mode, OwnerGroups};
use crate::iptables::{DNS_PORT, LOOPBACK_V6, OUTBOUND_MARK, PASSTHROUGH_V4, PASSTHROUGH_V6};
use crate::ranges::{Ranges, split_list};

/// The tables that mirror iptables', in the order in which they are written, and the one of [`Config::hold`].
pub const TABLES: [&str; 4] = ["istio-proxy-nat", "istio-proxy-mangle", "istio-proxy-raw", HOLD];
/// Table of [`Config::hold`].
const HOLD: &str = "istio-proxy-hold";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Table {
    Nat,
    Mangle,
    Raw,
}

impl Table {
    fn name(self) -> &'static str {
        TABLES[self as usize]
    }

    /// Every chain the table can have, in order; base chains with their hook.
    fn chains(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Nat => &[
                ("prerouting", " { type nat hook prerouting priority -100 ; }"),
                ("output", " { type nat hook output priority -100 ; }"),
                ("istio-inbound", ""),
                ("istio-redirect", ""),
                ("istio-in-redirect", ""),
                ("istio-output", ""),
                ("istio-output-dns", ""),
            ],
            Self::Mangle => &[
                ("prerouting", " { type filter hook prerouting priority -150 ; }"),
                ("output", " { type route hook output priority -150 ; }"),
                ("istio-divert", ""),
                ("istio-tproxy", ""),
                ("istio-inbound", ""),
                ("istio-drop", ""),
            ],
            Self::Raw => &[
                ("prerouting", " { type filter hook prerouting priority -300 ; }"),
                ("output", " { type filter hook output priority -300 ; }"),
                ("istio-inbound", ""),
                ("istio-output-dns", ""),
            ],
        }
    }
}

struct Rule {
    table: Table,
    chain: &'static str,
    index: Option<u32>,
    text: String,
}

struct Rules {
    rules: Vec<Rule>,
    ipv6: bool,
}

impl Rules {
    /// Appends `matches counter verdict`.
    fn add(&mut self, table: Table, chain: &'static str, matches: &str, verdict: &str) {
        self.put(table, chain, None, matches, verdict);
    }

    fn add6(&mut self, table: Table, chain: &'static str, matches: &str, verdict: &str) {
        if self.ipv6 {
            self.put(table, chain, None, matches, verdict);
        }
    }

    fn put(&mut self, table: Table, chain: &'static str, index: Option<u32>, matches: &str, verdict: &str) {
        let space = if matches.is_empty() { "" } else { " " };
        self.rules.push(Rule { table, chain, index, text: format!("{matches}{space}counter {verdict}") });
    }

    /// One transaction: only tables and chains that hold rules are made. Inserting behind the last rule is an append,
    /// because nftables has no such index.
    fn script(&self) -> String {
        let mut out = String::new();
        for table in [Table::Nat, Table::Mangle, Table::Raw] {
            let rules: Vec<&Rule> = self.rules.iter().filter(|rule| rule.table == table).collect();
            if rules.is_empty() {
                continue;
            }
            let name = table.name();
            out.push_str(&format!("add table inet {name}\nflush table inet {name}\n"));
            for (chain, hook) in table.chains() {
                if rules.iter().any(|rule| rule.chain == *chain) {
                    out.push_str(&format!("add chain inet {name} {chain}{hook}\n"));
                }
            }
            for (at, rule) in rules.iter().enumerate() {
                let before = rules[..at].iter().filter(|earlier| earlier.chain == rule.chain).count();
                match rule.index.filter(|index| (*index as usize) < before) {
                    Some(index) => out.push_str(&format!("insert rule inet {name} {} index {index} ", rule.chain)),
                    None => out.push_str(&format!("add rule inet {name} {} ", rule.chain)),
                }
                out.push_str(&rule.text);
                out.push('\n');
            }
        }
        out
    }
}

/// Drops the first packets of connections to a port of the proxy on which nobody listens. Packets of older connections are still
/// answered by a reset, so that nobody waits for a proxy that is gone.
fn hold(config: &Config) -> String {
    let mut out = format!("add table inet {HOLD}\nflush table inet {HOLD}\n");
    out.push_str(&format!("add chain inet {HOLD} input {{ type filter hook input priority 0 ; }}\n"));
    for port in [config.proxy_port, config.inbound_capture_port] {
        let first = format!("add rule inet {HOLD} input tcp dport {port} tcp flags & (syn|ack) == syn");
        // A socket is there, bound to one address or to all.
        out.push_str(&format!("{first} socket wildcard 0 accept\n{first} socket wildcard 1 accept\n"));
        out.push_str(&format!("{first} counter drop\n"));
    }
    out
}

/// The script that removes our tables, present or not.
pub fn cleanup() -> String {
    TABLES.iter().map(|table| format!("add table inet {table}\ndelete table inet {table}\n")).collect()
}

/// Renders `config`, which must have passed [`Config::validate`]. Empty for [`Mode::None`].
pub fn render(config: &Config) -> String {
    if config.mode == Mode::None {
        return String::new();
    }
    let mut rules = Rules { rules: Vec::new(), ipv6: config.ipv6 };
    let (v4_include, v6_include, _) = Ranges::split(&config.outbound_ranges_include);
    let (v4_exclude, v6_exclude, _) = Ranges::split(&config.outbound_ranges_exclude);
    let loopback = &config.loopback_v4;
    interfaces(config, &mut rules);
    if config.drop_invalid {
        rules.add(Table::Mangle, "prerouting", "meta l4proto tcp ct state invalid", "jump istio-drop");
        rules.add(Table::Mangle, "istio-drop", "", "drop");
    }
    let tunnel = config.inbound_tunnel_port;
    rules.add(Table::Nat, "istio-inbound", &format!("meta l4proto tcp tcp dport {tunnel}"), "return");
    rules.add(Table::Nat, "istio-redirect", "meta l4proto tcp", &format!("redirect to :{}", config.proxy_port));
    let inbound_port = format!("redirect to :{}", config.inbound_capture_port);
    rules.add(Table::Nat, "istio-in-redirect", "meta l4proto tcp", &inbound_port);
    inbound(config, &mut rules);

    rules.add(Table::Nat, "output", "", "jump istio-output");
    for port in split_list(&config.outbound_ports_exclude) {
        rules.add(Table::Nat, "istio-output", &format!("tcp dport {port}"), "return");
        rules.add(Table::Nat, "istio-output", &format!("udp dport {port}"), "return");
    }
    rules.add(Table::Nat, "istio-output", &format!("oifname lo ip saddr {PASSTHROUGH_V4}"), "return");
    rules.add6(Table::Nat, "istio-output", &format!("oifname lo ip6 saddr {PASSTHROUGH_V6}"), "return");
    let loopback_wanted = v4_include.has_loopback() || v6_include.has_loopback();
    for uid in split_list(&config.proxy_uid) {
        own_traffic(config, &mut rules, "skuid", uid, loopback_wanted, config.dns_captured());
    }
    for gid in split_list(&config.proxy_gid) {
        own_traffic(config, &mut rules, "skgid", gid, loopback_wanted, false);
    }
    match config.owner_groups() {
        OwnerGroups::AllBut(groups) => {
            for group in groups {
                rules.add(Table::Nat, "istio-output", &format!("skgid {group}"), "return");
            }
        }
        OwnerGroups::Only(groups) => {
            let none: Vec<String> = groups.iter().map(|group| format!("skgid != {group}")).collect();
            rules.add(Table::Nat, "istio-output", &none.join(" "), "return");
        }
    }
    if config.dns_captured() {
        dns(config, &mut rules);
    }
    rules.add(Table::Nat, "istio-output", &format!("ip daddr {loopback}"), "return");
    rules.add6(Table::Nat, "istio-output", &format!("ip6 daddr {LOOPBACK_V6}"), "return");
    for cidr in &v4_exclude.cidrs {
        rules.add(Table::Nat, "istio-output", &format!("ip daddr {cidr}"), "return");
    }
    for cidr in &v6_exclude.cidrs {
        rules.add6(Table::Nat, "istio-output", &format!("ip6 daddr {cidr}"), "return");
    }
    for port in split_list(&config.outbound_ports_include) {
        rules.add(Table::Nat, "istio-output", &format!("tcp dport {port}"), "jump istio-redirect");
    }
    outbound(config, &mut rules, &v4_include, &v6_include);
    if config.mode == Mode::Tproxy {
        tproxy_marks(config, &mut rules);
    }
    let mut script = rules.script();
    if config.hold {
        script.push_str(&hold(config));
    }
    script
}

fn interfaces(config: &Config, rules: &mut Rules) {
    let tables: &[Table] = if config.mode == Mode::Tproxy { &[Table::Nat, Table::Mangle] } else { &[Table::Nat] };
    for table in tables {
        for interface in split_list(&config.exclude_interfaces) {
            rules.add(*table, "prerouting", &format!("iifname {interface}"), "return");
            rules.add(*table, "output", &format!("oifname {interface}"), "return");
        }
    }
    for interface in split_list(&config.reroute_interfaces) {
        rules.put(Table::Nat, "prerouting", Some(0), &format!("iifname {interface}"), "return");
    }
}

fn inbound(config: &Config, rules: &mut Rules) {
    if config.inbound_ports_include.is_empty() {
        return;
    }
    let tproxy = config.mode == Mode::Tproxy;
    let table = if tproxy { Table::Mangle } else { Table::Nat };
    if tproxy {
        let (mark, port, loopback) = (config.tproxy_mark, config.inbound_capture_port, &config.loopback_v4);
        rules.add(Table::Mangle, "istio-divert", "", &format!("meta mark set {mark}"));
        rules.add(Table::Mangle, "istio-divert", "", "accept");
        let divert = |ip: &str, not: &str| {
            format!("meta l4proto tcp {ip} daddr != {not} tproxy {ip} to :{port} meta mark set {mark}")
        };
        rules.add(Table::Mangle, "istio-tproxy", &divert("ip", loopback), "accept");
        rules.add6(Table::Mangle, "istio-tproxy", &divert("ip6", LOOPBACK_V6), "accept");
    }
    rules.add(table, "prerouting", "meta l4proto tcp", "jump istio-inbound");
    let capture = |rules: &mut Rules, dport: &str| {
        if tproxy {
            let established = format!("meta l4proto tcp ct state related,established{dport}");
            rules.add(table, "istio-inbound", &established, "jump istio-divert");
            rules.add(table, "istio-inbound", &format!("meta l4proto tcp{dport}"), "jump istio-tproxy");
        } else {
            rules.add(table, "istio-inbound", &format!("meta l4proto tcp{dport}"), "jump istio-in-redirect");
        }
    };
    if config.inbound_ports_include == "*" {
        for port in split_list(&config.inbound_ports_exclude) {
            rules.add(table, "istio-inbound", &format!("meta l4proto tcp tcp dport {port}"), "return");
        }
        capture(rules, "");
    } else {
        for port in split_list(&config.inbound_ports_include) {
            capture(rules, &format!(" tcp dport {port}"));
        }
    }
}

fn own_traffic(config: &Config, rules: &mut Rules, owner: &str, id: &str, loopback_wanted: bool, spare_dns: bool) {
    let (tunnel, loopback) = (config.inbound_tunnel_port, &config.loopback_v4);
    let ports = if spare_dns { format!("{{ 53, {tunnel} }}") } else { tunnel.to_string() };
    let to_self = |ip: &str, not: &str| {
        format!("oifname lo meta l4proto tcp {ip} daddr != {not} tcp dport != {ports} {owner} {id}")
    };
    rules.add(Table::Nat, "istio-output", &to_self("ip", loopback), "jump istio-in-redirect");
    rules.add6(Table::Nat, "istio-output", &to_self("ip6", LOOPBACK_V6), "jump istio-in-redirect");
    if !loopback_wanted {
        let not_dns = if config.dns_captured() { " meta l4proto tcp tcp dport != 53" } else { "" };
        rules.add(Table::Nat, "istio-output", &format!("oifname lo{not_dns} {owner} != {id}"), "return");
    }
    rules.add(Table::Nat, "istio-output", &format!("{owner} {id}"), "return");
}

fn outbound(config: &Config, rules: &mut Rules, v4: &Ranges, v6: &Ranges) {
    let redirect = "jump istio-redirect";
    let interfaces: Vec<&str> = split_list(&config.reroute_interfaces).collect();
    if v4.wildcard || v6.wildcard {
        rules.add(Table::Nat, "istio-output", "", redirect);
        for interface in &interfaces {
            rules.put(Table::Nat, "prerouting", Some(0), &format!("iifname {interface}"), redirect);
        }
    }
    for (ip, ranges) in [("ip", v4), ("ip6", v6)] {
        if ip == "ip6" && !config.ipv6 {
            continue;
        }
        for cidr in &ranges.cidrs {
            for interface in &interfaces {
                let from = format!("iifname {interface} {ip} daddr {cidr}");
                rules.put(Table::Nat, "prerouting", Some(0), &from, redirect);
            }
            rules.add(Table::Nat, "istio-output", &format!("{ip} daddr {cidr}"), redirect);
        }
    }
}

fn dns(config: &Config, rules: &mut Rules) {
    let all = config.capture_all_dns;
    let v4 = config.dns_servers_v4.iter().map(|server| ("ip", format!("{server}/32")));
    let v6 = config.dns_servers_v6.iter().map(|server| ("ip6", format!("{server}/128")));
    let servers: Vec<(&str, String)> = v4.chain(v6.filter(|_| config.ipv6)).collect();
    let redirect = format!("redirect to :{DNS_PORT}");
    rules.add(Table::Raw, "output", "", "jump istio-output-dns");
    if all || !servers.is_empty() {
        rules.add(Table::Nat, "istio-output", "", "jump istio-output-dns");
    }
    if all {
        rules.add(Table::Nat, "istio-output-dns", "meta l4proto tcp tcp dport 53", &redirect);
        rules.add(Table::Nat, "istio-output-dns", "udp dport 53", &redirect);
    } else {
        for protocol in ["tcp", "udp"] {
            for (ip, server) in &servers {
                let to = format!("{ip} daddr {server} {protocol} dport 53");
                rules.add(Table::Nat, "istio-output-dns", &to, &redirect);
            }
        }
    }
    let owners = split_list(&config.proxy_uid)
        .map(|uid| ("skuid", uid))
        .chain(split_list(&config.proxy_gid).map(|gid| ("skgid", gid)));
    for (owner, id) in owners {
        rules.add(Table::Raw, "istio-output-dns", &format!("udp dport 53 meta {owner} {id}"), "ct zone set 1");
        rules.add(Table::Raw, "istio-output-dns", &format!("udp sport {DNS_PORT} meta {owner} {id}"), "ct zone set 2");
    }
    rules.add(Table::Raw, "prerouting", "", "jump istio-inbound");
    if all {
        rules.add(Table::Raw, "istio-output-dns", "udp dport 53", "ct zone set 2");
        rules.add(Table::Raw, "istio-inbound", "udp sport 53", "ct zone set 1");
        return;
    }
    for (ip, server) in &servers {
        rules.add(Table::Raw, "istio-output-dns", &format!("udp dport 53 {ip} daddr {server}"), "ct zone set 2");
        rules.add(Table::Raw, "istio-inbound", &format!("udp sport 53 {ip} saddr {server}"), "ct zone set 1");
    }
}

fn tproxy_marks(config: &Config, rules: &mut Rules) {
    let (mark, loopback) = (config.tproxy_mark, &config.loopback_v4);
    let mangle = Table::Mangle;
    rules.add(mangle, "prerouting", &format!("meta l4proto tcp mark {mark}"), "ct mark set mark");
    rules.add(mangle, "output", &format!("oifname lo meta l4proto tcp mark {mark}"), "return");
    let owners = split_list(&config.proxy_uid)
        .map(|uid| ("skuid", uid))
        .chain(split_list(&config.proxy_gid).map(|gid| ("skgid", gid)));
    for (owner, id) in owners {
        let set = format!("meta mark set {OUTBOUND_MARK}");
        let own = |ip: &str, not: &str| format!("oifname lo meta l4proto tcp {ip} daddr != {not} {owner} {id}");
        rules.add(mangle, "output", &own("ip", loopback), &set);
        rules.add6(mangle, "output", &own("ip6", LOOPBACK_V6), &set);
    }
    rules.add(mangle, "output", &format!("meta l4proto tcp ct mark {mark}"), "meta mark set ct mark");
    let chain = "istio-inbound";
    rules.put(mangle, chain, Some(0), &format!("meta l4proto tcp mark {mark}"), "return");
    let lo = "iifname lo meta l4proto tcp";
    rules.put(mangle, chain, Some(1), &format!("{lo} ip saddr {PASSTHROUGH_V4}"), "return");
    if config.ipv6 {
        rules.put(mangle, chain, Some(1), &format!("{lo} ip6 saddr {PASSTHROUGH_V6}"), "return");
    }
    rules.put(mangle, chain, Some(2), &format!("{lo} mark != {OUTBOUND_MARK}"), "return");
}
