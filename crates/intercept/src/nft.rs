//! How does an nftables script reach the kernel without `nft`? Compiles the subset that [`crate::nftables`] and the
//! local mesh write to one netlink transaction: all of it is in force afterwards, or none.
//!
//! The language is `nft`'s own (`add table|chain|rule`, `insert rule … index n`, `flush table`, `delete table` in family
//! `inet`), so every script can be read by, and tried with, the original. Words outside the subset are refused.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use crate::netlink::{self, Message, NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST};

const NETLINK_NETFILTER: i32 = 12;
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = 0;
const DEL_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const DEL_RULE: u16 = 8;
const NLM_F_APPEND: u16 = 0x800;
const NFPROTO_INET: u8 = 1;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
/// The one data register that our rules need.
const REGISTER: u32 = 1;
/// A second one, for a NAT target's port.
const REGISTER_2: u32 = 2;

/// Why a script was refused.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The script uses a word outside the subset.
    #[error("nftables: line {line}: cannot compile {word:?} in {text:?}")]
    Syntax {
        /// Line, counted from 1.
        line: usize,
        /// The word.
        word: String,
        /// The line's text.
        text: String,
    },
    /// The kernel refused a line.
    #[error("nftables: the kernel refuses {text:?}: {source}{}", hint(source))]
    Refused {
        /// The line's text.
        text: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// No netlink socket.
    #[error("nftables: {0}: the kernel has no nf_tables (CONFIG_NF_TABLES)")]
    Socket(io::Error),
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => " (CAP_NET_ADMIN in this network namespace is needed)",
        io::ErrorKind::NotFound => {
            " (the kernel lacks a module: CONFIG_NF_TABLES_INET, CONFIG_NFT_NAT, CONFIG_NFT_REDIR, CONFIG_NFT_CT or CONFIG_NFT_TPROXY)"
        }
        _ => "",
    }
}

/// Compiles and applies `script` in the calling thread's network namespace.
///
/// # Errors
/// See [`NftError`]; the rules in force are then unchanged.
pub fn run(script: &str) -> Result<(), NftError> {
    let lines = compile(script)?;
    if lines.is_empty() {
        return Ok(());
    }
    let socket = netlink::open(NETLINK_NETFILTER).map_err(NftError::Socket)?;
    let mut bytes = batch_edge(BATCH_BEGIN, 0);
    let last = lines.len();
    for (at, line) in lines.iter().enumerate() {
        let sequence = u32::try_from(at + 1).expect("scripts are far shorter than 2^32 lines");
        let acknowledge = if at + 1 == last { NLM_F_ACK } else { 0 };
        let family_header = [NFPROTO_INET, 0, 0, 0];
        let kind = SUBSYSTEM << 8 | line.kind;
        let mut message = Message::new(kind, NLM_F_REQUEST | line.flags | acknowledge, sequence, &family_header);
        message.bytes.extend(&line.attributes);
        bytes.extend(message.finish());
    }
    let last = u32::try_from(last).expect("as above");
    bytes.extend(batch_edge(BATCH_END, last + 1));
    let refused = |sequence: u32, source: io::Error| {
        let text =
            lines.get((sequence as usize).wrapping_sub(1)).map_or("the transaction", |line| &line.text).to_owned();
        NftError::Refused { text, source }
    };
    (&socket).write_all(&bytes).map_err(|source| refused(0, source))?;
    let mut reply = vec![0; 1 << 16];
    loop {
        let length = (&socket).read(&mut reply).map_err(|source| refused(0, source))?;
        let mut rest = &reply[..length];
        while let Some(size) = rest.get(..4) {
            let size = u32::from_ne_bytes(size.try_into().expect("four bytes")) as usize;
            let sequence = u32::from_ne_bytes(rest.get(8..12).unwrap_or(&[0; 4]).try_into().expect("four bytes"));
            match netlink::acknowledgement(rest) {
                Some(0) if sequence == last => return Ok(()),
                Some(0) | None => {}
                Some(code) => return Err(refused(sequence, io::Error::from_raw_os_error(-code))),
            }
            rest = rest.get(size.max(16).next_multiple_of(4)..).unwrap_or(&[]);
        }
    }
}

fn batch_edge(kind: u16, sequence: u32) -> Vec<u8> {
    let [high, low] = SUBSYSTEM.to_be_bytes();
    Message::new(kind, NLM_F_REQUEST, sequence, &[0, 0, high, low]).finish()
}

/// One compiled line: a netlink message without its header.
#[derive(Debug)]
struct Line {
    kind: u16,
    flags: u16,
    attributes: Vec<u8>,
    text: String,
}

/// Rules are collected per chain first, so that `insert … index n` needs no handles from the kernel.
#[derive(Default)]
struct Script {
    head: Vec<Line>,
    rules: BTreeMap<usize, Vec<Line>>,
    chains: Vec<(String, String)>,
}

fn compile(script: &str) -> Result<Vec<Line>, NftError> {
    let mut out = Script::default();
    for (at, text) in script.lines().enumerate() {
        let words: Vec<&str> = text.split_whitespace().collect();
        if words.is_empty() || words[0].starts_with('#') {
            continue;
        }
        let bad = |word: &str| NftError::Syntax { line: at + 1, word: word.to_owned(), text: text.to_owned() };
        out.line(text, &words).map_err(|word| bad(&word))?;
    }
    let mut lines = out.head;
    lines.extend(out.rules.into_values().flatten());
    Ok(lines)
}

impl Script {
    fn line(&mut self, text: &str, words: &[&str]) -> Result<(), String> {
        match words {
            ["add", "table", "inet", table] => self.table(NEW_TABLE, NLM_F_CREATE, table, text),
            ["delete", "table", "inet", table] => self.table(DEL_TABLE, 0, table, text),
            ["flush", "table", "inet", table] => {
                let mut message = attributes();
                message.attr(1, &c_string(table));
                self.push(DEL_RULE, 0, message, text);
            }
            ["add", "chain", "inet", table, chain, hook @ ..] => {
                let mut message = attributes();
                message.attr(1, &c_string(table)).attr(3, &c_string(chain));
                base_chain(&mut message, hook)?;
                self.push(NEW_CHAIN, NLM_F_CREATE, message, text);
            }
            ["insert", "rule", "inet", table, chain, "index", index, rule @ ..] => {
                let index = index.parse().map_err(|_| (*index).to_owned())?;
                self.rule(table, chain, Some(index), rule, text)?;
            }
            ["add", "rule", "inet", table, chain, rule @ ..] => self.rule(table, chain, None, rule, text)?,
            [first, ..] => return Err((*first).to_owned()),
            [] => {}
        }
        Ok(())
    }

    fn table(&mut self, kind: u16, flags: u16, table: &str, text: &str) {
        let mut message = attributes();
        message.attr(1, &c_string(table));
        self.push(kind, flags, message, text);
    }

    fn push(&mut self, kind: u16, flags: u16, message: Message, text: &str) {
        self.head.push(Line { kind, flags, attributes: message.bytes, text: text.to_owned() });
    }

    fn rule(
        &mut self,
        table: &str,
        chain: &str,
        index: Option<usize>,
        words: &[&str],
        text: &str,
    ) -> Result<(), String> {
        let mut message = attributes();
        message.attr(1, &c_string(table)).attr(2, &c_string(chain));
        let mut result = Ok(());
        message.nest(4, |list| result = Expressions { list, protocol: None, network: None }.all(words));
        result?;
        let line = Line {
            kind: NEW_RULE,
            flags: NLM_F_CREATE | NLM_F_APPEND,
            attributes: message.bytes,
            text: text.to_owned(),
        };
        let key = (table.to_owned(), chain.to_owned());
        let chain = self.chains.iter().position(|known| *known == key).unwrap_or_else(|| {
            self.chains.push(key);
            self.chains.len() - 1
        });
        let rules = self.rules.entry(chain).or_default();
        let at = index.unwrap_or(rules.len()).min(rules.len());
        rules.insert(at, line);
        Ok(())
    }
}

/// A message that is all attributes: the header is put before it when it is sent.
fn attributes() -> Message {
    Message { bytes: Vec::new() }
}

fn c_string(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

/// `{ type nat hook output priority -100 ; }`, or nothing for a regular chain.
fn base_chain(message: &mut Message, hook: &[&str]) -> Result<(), String> {
    let (kind, hook, priority) = match hook {
        [] => return Ok(()),
        ["{", "type", kind, "hook", hook, "priority", priority, ";", "}"] => (kind, hook, priority),
        _ => return Err(hook.join(" ")),
    };
    let number: u32 = match *hook {
        "prerouting" => 0,
        "input" => 1,
        "forward" => 2,
        "output" => 3,
        "postrouting" => 4,
        other => return Err(other.to_owned()),
    };
    let priority: i32 = priority.parse().map_err(|_| (*priority).to_owned())?;
    message.nest(4, |nest| {
        nest.attr(1, &number.to_be_bytes()).attr(2, &priority.to_be_bytes());
    });
    message.attr(7, &c_string(kind));
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Op {
    Equal = 0,
    NotEqual = 1,
}

/// Compiles one rule's words to expressions.
struct Expressions<'a> {
    list: &'a mut Message,
    /// `meta l4proto` already checked.
    protocol: Option<u8>,
    /// `meta nfproto` already checked.
    network: Option<u8>,
}

impl Expressions<'_> {
    fn expression(&mut self, name: &str, fill: impl FnOnce(&mut Message)) {
        self.list.nest(1, |element| {
            element.attr(1, &c_string(name)).nest(2, fill);
        });
    }

    fn all(mut self, words: &[&str]) -> Result<(), String> {
        let mut rest = words;
        while !rest.is_empty() {
            rest = self.one(rest)?;
        }
        Ok(())
    }

    /// Compiles the match or statement at the front, returns what follows it.
    fn one<'w>(&mut self, words: &'w [&'w str]) -> Result<&'w [&'w str], String> {
        match words {
            ["meta", "l4proto", protocol, rest @ ..] => {
                let number = protocol_number(protocol)?;
                self.l4_protocol(number);
                Ok(rest)
            }
            ["iifname", name, rest @ ..] => self.interface(6, name, rest),
            ["oifname", name, rest @ ..] => self.interface(7, name, rest),
            [ip @ ("ip" | "ip6"), side @ ("saddr" | "daddr"), rest @ ..] => self.address(ip, side, rest),
            [protocol @ ("tcp" | "udp"), side @ ("sport" | "dport"), rest @ ..] => self.port(protocol, side, rest),
            ["meta", owner @ ("skuid" | "skgid"), rest @ ..] | [owner @ ("skuid" | "skgid"), rest @ ..] => {
                let (op, value, rest) = operand(rest)?;
                let id = if *owner == "skuid" { user(value)? } else { group(value)? };
                self.meta(if *owner == "skuid" { 10 } else { 11 });
                self.compare(op, &id.to_ne_bytes());
                Ok(rest)
            }
            ["mark", rest @ ..] => {
                let (op, value, rest) = operand(rest)?;
                self.meta(3);
                self.compare(op, &number(value)?.to_ne_bytes());
                Ok(rest)
            }
            ["tcp", "flags", "&", "(syn|ack)", "==", "syn", rest @ ..] => {
                self.l4_protocol(protocol_number("tcp")?);
                self.payload(2, 13, 1);
                self.mask(&[0x12]);
                self.compare(Op::Equal, &[0x02]);
                Ok(rest)
            }
            ["socket", "wildcard", value @ ("0" | "1"), rest @ ..] => {
                self.expression("socket", |data| {
                    data.attr(1, &2_u32.to_be_bytes()).attr(2, &REGISTER.to_be_bytes());
                });
                self.compare(Op::Equal, &[u8::from(*value == "1")]);
                Ok(rest)
            }
            ["ct", "state", states, rest @ ..] => self.state(states).map(|()| rest),
            ["ct", "mark", "set", "mark", rest @ ..] => {
                self.meta(3);
                self.ct_set(3);
                Ok(rest)
            }
            ["ct", "mark", rest @ ..] => {
                let (op, value, rest) = operand(rest)?;
                self.ct(3);
                self.compare(op, &number(value)?.to_ne_bytes());
                Ok(rest)
            }
            ["ct", "zone", "set", zone, rest @ ..] => {
                let zone: u16 = zone.parse().map_err(|_| (*zone).to_owned())?;
                self.immediate(REGISTER, &zone.to_ne_bytes());
                self.ct_set(17);
                Ok(rest)
            }
            ["meta", "mark", "set", "ct", "mark", rest @ ..] => {
                self.ct(3);
                self.meta_set(3);
                Ok(rest)
            }
            ["meta", "mark", "set", value, rest @ ..] => {
                self.immediate(REGISTER, &number(value)?.to_ne_bytes());
                self.meta_set(3);
                Ok(rest)
            }
            ["numgen", "random", "mod", modulus, "==", value, rest @ ..] => {
                let (modulus, value) = (number(modulus)?, number(value)?);
                self.expression("numgen", |data| {
                    data.attr(1, &REGISTER.to_be_bytes()).attr(2, &modulus.to_be_bytes());
                    data.attr(3, &1_u32.to_be_bytes());
                });
                self.compare(Op::Equal, &value.to_ne_bytes());
                Ok(rest)
            }
            _ => self.statement(words),
        }
    }

    fn statement<'w>(&mut self, words: &'w [&'w str]) -> Result<&'w [&'w str], String> {
        match words {
            ["counter", rest @ ..] => {
                self.expression("counter", |_| ());
                Ok(rest)
            }
            ["drop", rest @ ..] => self.verdict(0, None, rest),
            ["accept", rest @ ..] => self.verdict(1, None, rest),
            ["return", rest @ ..] => self.verdict(-5, None, rest),
            ["jump", chain, rest @ ..] => self.verdict(-3, Some(chain), rest),
            ["goto", chain, rest @ ..] => self.verdict(-4, Some(chain), rest),
            ["redirect", "to", port, rest @ ..] => {
                self.immediate(REGISTER, &colon_port(port)?.to_be_bytes());
                self.expression("redir", |data| {
                    data.attr(1, &REGISTER.to_be_bytes());
                });
                Ok(rest)
            }
            ["tproxy", ip @ ("ip" | "ip6"), "to", port, rest @ ..] => {
                let family = u32::from(if *ip == "ip" { NFPROTO_IPV4 } else { NFPROTO_IPV6 });
                self.immediate(REGISTER, &colon_port(port)?.to_be_bytes());
                self.expression("tproxy", |data| {
                    data.attr(1, &family.to_be_bytes()).attr(3, &REGISTER.to_be_bytes());
                });
                Ok(rest)
            }
            ["dnat", "ip", "to", target, rest @ ..] => {
                let target: std::net::SocketAddrV4 = target.parse().map_err(|_| (*target).to_owned())?;
                self.immediate(REGISTER, &target.ip().octets());
                self.immediate(REGISTER_2, &target.port().to_be_bytes());
                self.expression("nat", |data| {
                    data.attr(1, &1_u32.to_be_bytes()).attr(2, &u32::from(NFPROTO_IPV4).to_be_bytes());
                    data.attr(3, &REGISTER.to_be_bytes()).attr(5, &REGISTER_2.to_be_bytes());
                });
                Ok(rest)
            }
            ["masquerade", rest @ ..] => {
                self.expression("masq", |_| ());
                Ok(rest)
            }
            [word, ..] => Err((*word).to_owned()),
            [] => Err(String::new()),
        }
    }

    fn verdict<'w>(&mut self, code: i32, chain: Option<&str>, rest: &'w [&'w str]) -> Result<&'w [&'w str], String> {
        self.expression("immediate", |data| {
            data.attr(1, &0_u32.to_be_bytes()).nest(2, |value| {
                value.nest(2, |verdict| {
                    verdict.attr(1, &code.to_be_bytes());
                    if let Some(chain) = chain {
                        verdict.attr(2, &c_string(chain));
                    }
                });
            });
        });
        Ok(rest)
    }

    fn meta(&mut self, key: u32) {
        self.expression("meta", |data| {
            data.attr(1, &REGISTER.to_be_bytes()).attr(2, &key.to_be_bytes());
        });
    }

    fn meta_set(&mut self, key: u32) {
        self.expression("meta", |data| {
            data.attr(2, &key.to_be_bytes()).attr(3, &REGISTER.to_be_bytes());
        });
    }

    fn ct(&mut self, key: u32) {
        self.expression("ct", |data| {
            data.attr(1, &REGISTER.to_be_bytes()).attr(2, &key.to_be_bytes());
        });
    }

    fn ct_set(&mut self, key: u32) {
        self.expression("ct", |data| {
            data.attr(2, &key.to_be_bytes()).attr(4, &REGISTER.to_be_bytes());
        });
    }

    fn compare(&mut self, op: Op, value: &[u8]) {
        self.expression("cmp", |data| {
            data.attr(1, &REGISTER.to_be_bytes()).attr(2, &(op as u32).to_be_bytes()).nest(3, |nest| {
                nest.attr(1, value);
            });
        });
    }

    fn immediate(&mut self, register: u32, value: &[u8]) {
        self.expression("immediate", |data| {
            data.attr(1, &register.to_be_bytes()).nest(2, |nest| {
                nest.attr(1, value);
            });
        });
    }

    fn mask(&mut self, mask: &[u8]) {
        let length = u32::try_from(mask.len()).expect("at most sixteen");
        self.expression("bitwise", |data| {
            data.attr(1, &REGISTER.to_be_bytes()).attr(2, &REGISTER.to_be_bytes()).attr(3, &length.to_be_bytes());
            data.nest(4, |nest| {
                nest.attr(1, mask);
            });
            data.nest(5, |nest| {
                nest.attr(1, &vec![0; mask.len()]);
            });
        });
    }

    fn payload(&mut self, base: u32, offset: u32, length: u32) {
        self.expression("payload", |data| {
            data.attr(1, &REGISTER.to_be_bytes()).attr(2, &base.to_be_bytes());
            data.attr(3, &offset.to_be_bytes()).attr(4, &length.to_be_bytes());
        });
    }

    fn l4_protocol(&mut self, protocol: u8) {
        if self.protocol != Some(protocol) {
            self.meta(16);
            self.compare(Op::Equal, &[protocol]);
            self.protocol = Some(protocol);
        }
    }

    fn interface<'w>(&mut self, key: u32, name: &str, rest: &'w [&'w str]) -> Result<&'w [&'w str], String> {
        let mut padded = [0_u8; 16];
        padded.get_mut(..name.len()).ok_or(name)?.copy_from_slice(name.as_bytes());
        self.meta(key);
        self.compare(Op::Equal, &padded);
        Ok(rest)
    }

    fn address<'w>(&mut self, ip: &str, side: &str, rest: &'w [&'w str]) -> Result<&'w [&'w str], String> {
        let (op, value, rest) = operand(rest)?;
        let net: ipnet::IpNet = match value.parse() {
            Ok(net) => net,
            Err(_) => value.parse::<std::net::IpAddr>().map_err(|_| value.to_owned())?.into(),
        };
        let (family, offset, bytes, mask) = match (ip, net) {
            ("ip", ipnet::IpNet::V4(net)) => {
                (NFPROTO_IPV4, 12, net.network().octets().to_vec(), net.netmask().octets().to_vec())
            }
            ("ip6", ipnet::IpNet::V6(net)) => {
                (NFPROTO_IPV6, 8, net.network().octets().to_vec(), net.netmask().octets().to_vec())
            }
            _ => return Err(value.to_owned()),
        };
        if self.network != Some(family) {
            self.meta(15);
            self.compare(Op::Equal, &[family]);
            self.network = Some(family);
        }
        let length = u32::try_from(bytes.len()).expect("four or sixteen");
        let offset = if side == "saddr" { offset } else { offset + length };
        self.payload(1, offset, length);
        if mask.iter().any(|byte| *byte != 0xff) {
            self.mask(&mask);
        }
        self.compare(op, &bytes);
        Ok(rest)
    }

    fn port<'w>(&mut self, protocol: &str, side: &str, rest: &'w [&'w str]) -> Result<&'w [&'w str], String> {
        let (op, value, rest) = operand(rest)?;
        self.l4_protocol(protocol_number(protocol)?);
        self.payload(2, if side == "sport" { 0 } else { 2 }, 2);
        let port = |text: &str| text.parse::<u16>().map_err(|_| text.to_owned());
        if value != "{" {
            self.compare(op, &port(value)?.to_be_bytes());
            return Ok(rest);
        }
        let end = rest.iter().position(|word| *word == "}").ok_or("{")?;
        if op != Op::NotEqual {
            // Only "none of these" can be said as a row of comparisons.
            return Err("{".to_owned());
        }
        for item in &rest[..end] {
            self.compare(op, &port(item.trim_end_matches(','))?.to_be_bytes());
        }
        Ok(&rest[end + 1..])
    }

    fn state(&mut self, states: &str) -> Result<(), String> {
        let mut bits = 0_u32;
        for state in states.split(',') {
            bits |= match state {
                "invalid" => 1,
                "established" => 2,
                "related" => 4,
                "new" => 8,
                other => return Err(other.to_owned()),
            };
        }
        self.ct(0);
        self.mask(&bits.to_ne_bytes());
        self.compare(Op::NotEqual, &[0; 4]);
        Ok(())
    }
}

fn operand<'w>(words: &'w [&'w str]) -> Result<(Op, &'w str, &'w [&'w str]), String> {
    match words {
        ["!=", value, rest @ ..] => Ok((Op::NotEqual, value, rest)),
        [value, rest @ ..] => Ok((Op::Equal, value, rest)),
        [] => Err("end of line".to_owned()),
    }
}

fn number(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| text.to_owned())
}

fn colon_port(text: &str) -> Result<u16, String> {
    text.strip_prefix(':').and_then(|port| port.parse().ok()).ok_or_else(|| text.to_owned())
}

fn protocol_number(text: &str) -> Result<u8, String> {
    match text {
        "tcp" => Ok(6),
        "udp" => Ok(17),
        other => Err(other.to_owned()),
    }
}

fn user(text: &str) -> Result<u32, String> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let user = nix::unistd::User::from_name(text).ok().flatten();
    user.map(|user| user.uid.as_raw()).ok_or_else(|| text.to_owned())
}

fn group(text: &str) -> Result<u32, String> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let group = nix::unistd::Group::from_name(text).ok().flatten();
    group.map(|group| group.gid.as_raw()).ok_or_else(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, Mode, nftables};

    #[test]
    fn everything_we_render_compiles() {
        let config = Config {
            mode: Mode::Tproxy,
            inbound_ports_include: "*".into(),
            inbound_ports_exclude: "15090,15021".into(),
            outbound_ranges_include: "10.0.0.0/8,2001:db8::/32".into(),
            outbound_ranges_exclude: "1.1.0.0/16".into(),
            redirect_dns: true,
            capture_all_dns: true,
            drop_invalid: true,
            ipv6: true,
            exclude_interfaces: "eth9".into(),
            reroute_interfaces: "eth1,eth2".into(),
            ..Config::default()
        };
        let script = nftables::render(&config) + &nftables::cleanup();
        assert_eq!(compile(&script).expect("compiles").len(), script.lines().count());
    }

    #[test]
    fn foreign_words_are_refused_with_their_line() {
        let error = compile("add table inet t\nadd rule inet t c quota 5 bytes").expect_err("not in the subset");
        assert_eq!(
            error.to_string(),
            "nftables: line 2: cannot compile \"quota\" in \"add rule inet t c quota 5 bytes\""
        );
        assert!(compile("add rule inet t c tcp dport { 1, 2 } accept").is_err());
        assert!(compile("add rule inet t c ip daddr ::1/128 accept").is_err());
    }

    #[test]
    fn inserts_are_ordered_here() {
        let script = "add rule inet t c accept\ninsert rule inet t c index 0 drop\ninsert rule inet t c index 7 return";
        let order: Vec<String> = compile(script).expect("compiles").into_iter().map(|line| line.text).collect();
        assert_eq!(order[0], "insert rule inet t c index 0 drop");
        assert_eq!(order[2], "insert rule inet t c index 7 return");
    }
}
