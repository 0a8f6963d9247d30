//! How is a filter chain found quickly? `FilterChainMatch` criteria compiled to nested maps in Envoy's order.
//!
//! `proxy-core::filter_chain::select` walks it: destination port, destination prefix, server name, transport
//! protocol, application protocol, direct source prefix, source type, source prefix, source port. Each level holds
//! what the more specific ones left; a step never backtracks.

use std::net::IpAddr;
use std::sync::Arc;

use crate::common::Cidr;
use crate::error::{ConfigError, Result, invalid};
use crate::hash::FastMap;
use crate::listener::FilterChain;

/// Most leaves one match may expand to (the product of its lists).
pub const MATCH_PRODUCT_MAX: usize = 65_536;

/// All chains of a listener with their index.
#[derive(Debug, Clone, Default)]
pub struct FilterChains {
    /// Chains in configured order.
    pub chains: Box<[Arc<FilterChain>]>,
    /// `default_filter_chain`
    pub default: Option<Arc<FilterChain>>,
    /// First level of the index; leaves are numbers into `chains`.
    pub index: PortLevel,
}

/// `FilterChainMatch.ConnectionSourceType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SourceType {
    /// ANY
    #[default]
    Any,
    /// SAME_IP_OR_LOOPBACK
    SameIpOrLoopback,
    /// EXTERNAL
    External,
}

/// `envoy.config.listener.v3.FilterChainMatch`; empty lists and `None` mean "any".
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FilterChainMatch {
    /// `destination_port`
    pub destination_port: Option<u16>,
    /// `prefix_ranges`
    pub prefix_ranges: Vec<Cidr>,
    /// `server_names`, lower case, `*.x` allowed
    pub server_names: Vec<String>,
    /// `transport_protocol`: `raw_buffer`, `tls`, ...
    pub transport_protocol: String,
    /// `application_protocols`
    pub application_protocols: Vec<String>,
    /// `direct_source_prefix_ranges`
    pub direct_source_prefix_ranges: Vec<Cidr>,
    /// `source_type`
    pub source_type: SourceType,
    /// `source_prefix_ranges`
    pub source_prefix_ranges: Vec<Cidr>,
    /// `source_ports`
    pub source_ports: Vec<u16>,
}

/// Destination port.
#[derive(Debug, Clone, Default)]
pub struct PortLevel {
    /// By port.
    pub exact: FastMap<u16, CidrLevel<NameLevel>>,
    /// Chains without a port.
    pub any: CidrLevel<NameLevel>,
}

/// Longest-prefix match.
#[derive(Debug, Clone)]
pub struct CidrLevel<T> {
    /// Prefix length with the networks of that length, longest first.
    v4: Vec<(u8, FastMap<u32, T>)>,
    v6: Vec<(u8, FastMap<u128, T>)>,
    any: Option<Box<T>>,
}

impl<T> Default for CidrLevel<T> {
    fn default() -> Self {
        Self { v4: Vec::new(), v6: Vec::new(), any: None }
    }
}

/// Server name.
#[derive(Debug, Clone, Default)]
pub struct NameLevel {
    exact: FastMap<Box<str>, TransportLevel>,
    /// `*.foo.com` is stored as `.foo.com`.
    wildcard: FastMap<Box<str>, TransportLevel>,
    any: Option<Box<TransportLevel>>,
}

/// Transport protocol.
#[derive(Debug, Clone, Default)]
pub struct TransportLevel {
    exact: Vec<(Box<str>, AlpnLevel)>,
    any: Option<Box<AlpnLevel>>,
}

/// Application protocol.
#[derive(Debug, Clone, Default)]
pub struct AlpnLevel {
    exact: Vec<(Box<str>, CidrLevel<SourceTypeLevel>)>,
    any: Option<Box<CidrLevel<SourceTypeLevel>>>,
}

/// Source type, then source prefix, then source port.
#[derive(Debug, Clone, Default)]
pub struct SourceTypeLevel {
    /// ANY
    pub any: CidrLevel<SourcePortLevel>,
    /// SAME_IP_OR_LOOPBACK
    pub local: CidrLevel<SourcePortLevel>,
    /// EXTERNAL
    pub external: CidrLevel<SourcePortLevel>,
}

/// Source port; the leaf is a chain number.
#[derive(Debug, Clone, Default)]
pub struct SourcePortLevel {
    exact: FastMap<u16, u32>,
    any: Option<u32>,
}

fn mask4(ip: u32, len: u8) -> u32 {
    if len == 0 { 0 } else { ip & (u32::MAX << (32 - len)) }
}

fn mask6(ip: u128, len: u8) -> u128 {
    if len == 0 { 0 } else { ip & (u128::MAX << (128 - len)) }
}

impl<T: Default> CidrLevel<T> {
    /// The most specific entry for `ip` (`None` for non-IP peers: only the "any" entry).
    #[inline]
    pub fn find(&self, ip: Option<IpAddr>) -> Option<&T> {
        match ip.map(|ip| ip.to_canonical()) {
            Some(IpAddr::V4(ip)) => {
                let ip = u32::from(ip);
                for (len, map) in &self.v4 {
                    if let Some(t) = map.get(&mask4(ip, *len)) {
                        return Some(t);
                    }
                }
            }
            Some(IpAddr::V6(ip)) => {
                let ip = u128::from(ip);
                for (len, map) in &self.v6 {
                    if let Some(t) = map.get(&mask6(ip, *len)) {
                        return Some(t);
                    }
                }
            }
            None => {}
        }
        self.any.as_deref()
    }

    /// True when no chain is here.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty() && self.any.is_none()
    }

    fn entry(&mut self, net: Option<&Cidr>) -> &mut T {
        fn level<K: std::hash::Hash + Eq, T: Default>(v: &mut Vec<(u8, FastMap<K, T>)>, len: u8, key: K) -> &mut T {
            let at = v.binary_search_by(|(l, _)| len.cmp(l)).unwrap_or_else(|i| {
                v.insert(i, (len, FastMap::default()));
                i
            });
            v[at].1.entry(key).or_default()
        }
        match net {
            None => self.any.get_or_insert_default(),
            Some(Cidr::V4(n)) => level(&mut self.v4, n.prefix_len(), mask4(u32::from(n.addr()), n.prefix_len())),
            Some(Cidr::V6(n)) => level(&mut self.v6, n.prefix_len(), mask6(u128::from(n.addr()), n.prefix_len())),
        }
    }
}

impl NameLevel {
    /// Exact name, else the longest wildcard, else "any". `name` is lower case, empty when unknown.
    #[inline]
    pub fn find(&self, name: &str) -> Option<&TransportLevel> {
        if !name.is_empty() && (!self.exact.is_empty() || !self.wildcard.is_empty()) {
            if let Some(t) = self.exact.get(name) {
                return Some(t);
            }
            if !self.wildcard.is_empty() {
                let mut from = 1;
                while let Some(dot) = name.get(from..).and_then(|s| s.find('.')) {
                    let at = from + dot;
                    if at + 1 >= name.len() {
                        break;
                    }
                    if let Some(t) = self.wildcard.get(&name[at..]) {
                        return Some(t);
                    }
                    from = at + 1;
                }
            }
        }
        self.any.as_deref()
    }

    fn entry(&mut self, name: Option<&str>) -> &mut TransportLevel {
        match name {
            None | Some("" | "*") => self.any.get_or_insert_default(),
            Some(n) => match n.strip_prefix('*') {
                Some(rest) => self.wildcard.entry(rest.into()).or_default(),
                None => self.exact.entry(n.into()).or_default(),
            },
        }
    }
}

fn vec_entry<'a, T: Default>(v: &'a mut Vec<(Box<str>, T)>, key: &str) -> &'a mut T {
    let at = v.iter().position(|(k, _)| &**k == key).unwrap_or_else(|| {
        v.push((key.into(), T::default()));
        v.len() - 1
    });
    &mut v[at].1
}

impl TransportLevel {
    /// The entry for this transport protocol, else "any".
    #[inline]
    pub fn find(&self, protocol: &str) -> Option<&AlpnLevel> {
        self.exact.iter().find(|(k, _)| &**k == protocol).map(|(_, v)| v).or(self.any.as_deref())
    }

    fn entry(&mut self, protocol: &str) -> &mut AlpnLevel {
        if protocol.is_empty() { self.any.get_or_insert_default() } else { vec_entry(&mut self.exact, protocol) }
    }
}

impl AlpnLevel {
    /// The entry of the first of the peer's protocols that has one, else "any".
    #[inline]
    pub fn find<'a>(&self, protocols: impl Iterator<Item = &'a [u8]>) -> Option<&CidrLevel<SourceTypeLevel>> {
        if !self.exact.is_empty() {
            for p in protocols {
                if let Some((_, v)) = self.exact.iter().find(|(k, _)| k.as_bytes() == p) {
                    return Some(v);
                }
            }
        }
        self.any.as_deref()
    }

    fn entry(&mut self, protocol: Option<&str>) -> &mut CidrLevel<SourceTypeLevel> {
        match protocol {
            None | Some("") => self.any.get_or_insert_default(),
            Some(p) => vec_entry(&mut self.exact, p),
        }
    }
}

impl SourcePortLevel {
    /// Exact port, else "any".
    #[inline]
    pub fn find(&self, port: u16) -> Option<u32> {
        self.exact.get(&port).copied().or(self.any)
    }
}

/// One empty entry stands for "any" in a product.
fn or_any<T>(list: &[T]) -> Vec<Option<&T>> {
    if list.is_empty() { vec![None] } else { list.iter().map(Some).collect() }
}

impl FilterChains {
    /// Compiles chains with their matches.
    ///
    /// Errors: two chains that match the same, or a match whose lists multiply beyond [`MATCH_PRODUCT_MAX`].
    pub fn build(
        chains: Vec<(FilterChainMatch, Arc<FilterChain>)>,
        default: Option<Arc<FilterChain>>,
    ) -> Result<FilterChains> {
        let mut index = PortLevel::default();
        for (number, (m, _)) in chains.iter().enumerate() {
            insert(&mut index, m, number as u32).map_err(|e| e.at_index("filter_chains", number))?;
        }
        Ok(FilterChains { chains: chains.into_iter().map(|(_, c)| c).collect(), default, index })
    }

    /// All chains including the default one.
    pub fn all(&self) -> impl Iterator<Item = &Arc<FilterChain>> {
        self.chains.iter().chain(self.default.as_ref())
    }
}

fn insert(index: &mut PortLevel, m: &FilterChainMatch, number: u32) -> Result<()> {
    let product = m.prefix_ranges.len().max(1)
        * m.server_names.len().max(1)
        * m.application_protocols.len().max(1)
        * m.direct_source_prefix_ranges.len().max(1)
        * m.source_prefix_ranges.len().max(1)
        * m.source_ports.len().max(1);
    if product > MATCH_PRODUCT_MAX {
        return Err(invalid(format!("filter chain match expands to {product} rules")).at("filter_chain_match"));
    }
    let ports = match m.destination_port {
        Some(p) => index.exact.entry(p).or_default(),
        None => &mut index.any,
    };
    for dest in or_any(&m.prefix_ranges) {
        let names = ports.entry(dest);
        for name in or_any(&m.server_names) {
            let alpns = names.entry(name.map(String::as_str)).entry(&m.transport_protocol);
            for alpn in or_any(&m.application_protocols) {
                let direct = alpns.entry(alpn.map(String::as_str));
                for net in or_any(&m.direct_source_prefix_ranges) {
                    let types = direct.entry(net);
                    let sources = match m.source_type {
                        SourceType::Any => &mut types.any,
                        SourceType::SameIpOrLoopback => &mut types.local,
                        SourceType::External => &mut types.external,
                    };
                    for source in or_any(&m.source_prefix_ranges) {
                        let leaf = sources.entry(source);
                        for port in or_any(&m.source_ports) {
                            let old = match port {
                                Some(p) => leaf.exact.insert(*p, number),
                                None => leaf.any.replace(number),
                            };
                            if old.is_some() {
                                return Err(overlap());
                            }
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

fn overlap() -> ConfigError {
    invalid("multiple filter chains with overlapping matching rules are defined").at("filter_chain_match")
}

/// A set of ports as sorted, disjoint ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortSet(pub Box<[(u16, u16)]>);

impl PortSet {
    /// True when `port` is in one of the inclusive ranges.
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|(a, b)| (*a..=*b).contains(&port))
    }
}
