//! What is to be captured? The settings of istio-iptables in one struct, checked once.

use crate::ranges::split_list;

/// Most owner groups that an include list may name; each costs a match in one rule.
const OWNER_GROUPS_MAX: usize = 64;

/// How inbound connections reach the proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// NAT to the inbound capture port.
    #[default]
    Redirect,
    /// Transparent proxying: the application sees the client's address.
    Tproxy,
    /// No rules at all.
    None,
}

impl std::str::FromStr for Mode {
    type Err = InvalidConfig;

    fn from_str(text: &str) -> Result<Self, InvalidConfig> {
        match text {
            "" | "REDIRECT" => Ok(Self::Redirect),
            "TPROXY" => Ok(Self::Tproxy),
            "NONE" => Ok(Self::None),
            other => Err(InvalidConfig::Mode(other.to_owned())),
        }
    }
}

/// Everything that decides the rules. Lists are kept as written (comma-separated, `*` for all), because the
/// order and text of user and group names are part of the output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Outbound capture port of the proxy (15001).
    pub proxy_port: u16,
    /// Inbound capture port of the proxy (15006).
    pub inbound_capture_port: u16,
    /// HBONE port that is never redirected (15008).
    pub inbound_tunnel_port: u16,
    /// Users whose traffic is the proxy's own.
    pub proxy_uid: String,
    /// Groups whose traffic is the proxy's own.
    pub proxy_gid: String,
    /// How inbound connections are captured.
    pub mode: Mode,
    /// Mark of captured packets in TPROXY mode.
    pub tproxy_mark: u32,
    /// Routing table that delivers marked packets locally in TPROXY mode.
    pub tproxy_route_table: u32,
    /// Inbound ports to capture; `*` all, empty none.
    pub inbound_ports_include: String,
    /// Inbound ports left alone when all are captured.
    pub inbound_ports_exclude: String,
    /// Owner groups whose outbound traffic is captured; `*` all.
    pub owner_groups_include: String,
    /// Owner groups left alone when all are captured.
    pub owner_groups_exclude: String,
    /// Outbound ports captured whatever their address.
    pub outbound_ports_include: String,
    /// Outbound ports left alone.
    pub outbound_ports_exclude: String,
    /// Outbound ranges to capture; `*` all, empty none.
    pub outbound_ranges_include: String,
    /// Outbound ranges left alone.
    pub outbound_ranges_exclude: String,
    /// Interfaces whose inbound traffic counts as outbound (virtual machines).
    pub reroute_interfaces: String,
    /// Interfaces that are not captured at all.
    pub exclude_interfaces: String,
    /// Capture DNS.
    pub redirect_dns: bool,
    /// Capture DNS to any server rather than only to `dns_servers_*`.
    pub capture_all_dns: bool,
    /// IPv4 servers of resolv.conf.
    pub dns_servers_v4: Vec<String>,
    /// IPv6 servers of resolv.conf.
    pub dns_servers_v6: Vec<String>,
    /// Drop packets that conntrack calls invalid instead of letting the kernel reset.
    pub drop_invalid: bool,
    /// Render rules for IPv6 as well.
    pub ipv6: bool,
    /// What counts as loopback in IPv4.
    pub loopback_v4: String,
    /// Hold new connections while the proxy does not listen, instead of refusing them: their first packet is dropped and sent
    /// again by its sender until somebody is there. Ours; istio-iptables has nothing like it.
    pub hold: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            proxy_port: 15001,
            inbound_capture_port: 15006,
            inbound_tunnel_port: 15008,
            proxy_uid: "1337".into(),
            proxy_gid: "1337".into(),
            mode: Mode::Redirect,
            tproxy_mark: 1337,
            tproxy_route_table: 133,
            inbound_ports_include: String::new(),
            inbound_ports_exclude: String::new(),
            owner_groups_include: "*".into(),
            owner_groups_exclude: String::new(),
            outbound_ports_include: String::new(),
            outbound_ports_exclude: String::new(),
            outbound_ranges_include: String::new(),
            outbound_ranges_exclude: String::new(),
            reroute_interfaces: String::new(),
            exclude_interfaces: String::new(),
            redirect_dns: false,
            capture_all_dns: false,
            dns_servers_v4: Vec::new(),
            dns_servers_v6: Vec::new(),
            drop_invalid: false,
            ipv6: false,
            loopback_v4: "127.0.0.1/32".into(),
            hold: false,
        }
    }
}

/// Why a configuration cannot be turned into rules.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidConfig {
    /// Unknown `-m`.
    #[error("istio-inbound-interception-mode: {0:?} is none of REDIRECT, TPROXY, NONE")]
    Mode(String),
    /// `-x '*'` would exclude everything.
    #[error("istio-service-exclude-cidr: \"*\" is not a range; leave -i empty to capture nothing outbound")]
    ExcludeWildcard,
    /// Too many groups.
    #[error(
        "ISTIO_OUTBOUND_OWNER_GROUPS: number of owner groups whose outgoing traffic should be redirected to Envoy cannot exceed {max}, got {0}", max = OWNER_GROUPS_MAX
    )]
    OwnerGroups(usize),
    /// The loopback range is not one.
    #[error("host-ipv4-loopback-cidr: {0:?} is not an IPv4 loopback range such as 127.0.0.1/32")]
    Loopback(String),
    /// Text that would end the rule it is put in.
    #[error("{field}: {value:?} holds a character that a rule cannot carry")]
    Character {
        /// The flag.
        field: &'static str,
        /// Its value.
        value: String,
    },
    /// A port outside 1-65535.
    #[error("{field}: {value:?} is not a port")]
    Port {
        /// The flag.
        field: &'static str,
        /// The item.
        value: String,
    },
}

/// Which owner groups are captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnerGroups {
    /// Only these.
    Only(Vec<String>),
    /// All but these.
    AllBut(Vec<String>),
}

impl Config {
    /// The owner group lists as one filter; the exclude list counts only when all are included.
    pub fn owner_groups(&self) -> OwnerGroups {
        let list = |text: &str| split_list(text).map(str::to_owned).collect();
        if self.owner_groups_include == "*" {
            OwnerGroups::AllBut(list(&self.owner_groups_exclude))
        } else {
            OwnerGroups::Only(list(&self.owner_groups_include))
        }
    }

    /// Whether DNS is really captured: it needs servers, or `capture_all_dns`.
    pub fn dns_captured(&self) -> bool {
        self.redirect_dns
            && (self.capture_all_dns || !self.dns_servers_v4.is_empty() || !self.dns_servers_v6.is_empty())
    }

    /// Checks what the renderers rely on.
    ///
    /// # Errors
    /// The first field that is wrong, under the name of its flag.
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        if self.outbound_ranges_exclude.trim() == "*" {
            return Err(InvalidConfig::ExcludeWildcard);
        }
        if let OwnerGroups::Only(groups) = self.owner_groups()
            && groups.len() > OWNER_GROUPS_MAX
        {
            return Err(InvalidConfig::OwnerGroups(groups.len()));
        }
        let loopback = self.loopback_v4.parse::<ipnet::Ipv4Net>();
        if !loopback.is_ok_and(|net| net.addr().is_loopback() && net.prefix_len() >= 8) {
            return Err(InvalidConfig::Loopback(self.loopback_v4.clone()));
        }
        for (field, value) in self.ports() {
            for item in split_list(value).filter(|item| *item != "*") {
                let (from, to) = item.split_once(':').unwrap_or((item, item));
                if !from.parse::<u16>().is_ok_and(|p| p > 0) || !to.parse::<u16>().is_ok_and(|p| p > 0) {
                    return Err(InvalidConfig::Port { field, value: item.to_owned() });
                }
            }
        }
        for (field, value) in self.words() {
            let fine =
                |c: char| c.is_ascii_alphanumeric() || matches!(c, ',' | '*' | '.' | '-' | '_' | '@' | '+' | ' ');
            if !value.chars().all(fine) || value.starts_with('-') {
                return Err(InvalidConfig::Character { field, value: value.to_owned() });
            }
        }
        Ok(())
    }

    fn ports(&self) -> [(&'static str, &str); 4] {
        [
            ("istio-inbound-ports", &self.inbound_ports_include),
            ("istio-local-exclude-ports", &self.inbound_ports_exclude),
            ("istio-outbound-ports", &self.outbound_ports_include),
            ("istio-local-outbound-ports-exclude", &self.outbound_ports_exclude),
        ]
    }

    fn words(&self) -> [(&'static str, &str); 6] {
        [
            ("proxy-uid", &self.proxy_uid),
            ("proxy-gid", &self.proxy_gid),
            ("ISTIO_OUTBOUND_OWNER_GROUPS", &self.owner_groups_include),
            ("ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", &self.owner_groups_exclude),
            ("istio-exclude-interfaces", &self.exclude_interfaces),
            ("kube-virt-interfaces", &self.reroute_interfaces),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl Fn(&mut Config), expect: Result<(), &str>) {
        let mut config = Config::default();
        change(&mut config);
        let got = config.validate().map_err(|error| error.to_string());
        match expect {
            Ok(()) => assert_eq!(got, Ok(())),
            Err(fragment) => {
                let text = got.expect_err(fragment);
                assert!(text.contains(fragment), "{text:?} lacks {fragment:?}");
            }
        }
    }

    #[test]
    fn validation() {
        check(|_| {}, Ok(()));
        check(|c| c.loopback_v4 = "127.0.0.1/8".into(), Ok(()));
        check(|c| c.loopback_v4 = "128.0.0.1/32".into(), Err("host-ipv4-loopback-cidr"));
        check(|c| c.loopback_v4 = "::1/128".into(), Err("host-ipv4-loopback-cidr"));
        check(|c| c.outbound_ranges_exclude = "*".into(), Err("istio-service-exclude-cidr"));
        check(|c| c.inbound_ports_include = "80,x".into(), Err("istio-inbound-ports: \"x\""));
        check(|c| c.inbound_ports_include = "80,443,".into(), Ok(()));
        check(|c| c.exclude_interfaces = "eth0\n-A OUTPUT -j DROP".into(), Err("istio-exclude-interfaces"));
        check(|c| c.owner_groups_include = vec!["1"; 65].join(","), Err("cannot exceed 64, got 65"));
        check(|c| c.owner_groups_include = vec!["1"; 64].join(","), Ok(()));
    }

    #[test]
    fn dns_needs_a_server() {
        let mut config = Config { redirect_dns: true, ..Config::default() };
        assert!(!config.dns_captured());
        config.dns_servers_v6.push("::1".into());
        assert!(config.dns_captured());
    }
}
