//! How are comma-separated ranges and lists read? Shared by both renderers; only parsing lives here.

use ipnet::IpNet;

/// Splits a comma-separated list, dropping empty items (`"6000,7000,"` has two).
pub fn split_list(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// One family's share of an IP range list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    /// The list was `*`.
    pub wildcard: bool,
    /// The ranges as written, host bits kept.
    pub cidrs: Vec<IpNet>,
}

impl Ranges {
    /// Splits a list such as `10.0.0.0/8,2001:db8::/32` by family; `*` is a wildcard in both.
    ///
    /// Items that are no CIDR are left out and returned third, so that the caller can say so: istio-iptables
    /// ignores them as well.
    pub fn split(list: &str) -> (Self, Self, Vec<String>) {
        let (mut v4, mut v6, mut ignored) = (Self::default(), Self::default(), Vec::new());
        if list == "*" {
            v4.wildcard = true;
            v6.wildcard = true;
            return (v4, v6, ignored);
        }
        for item in split_list(list) {
            match item.parse::<IpNet>() {
                Ok(net @ IpNet::V4(_)) => v4.cidrs.push(net),
                Ok(net @ IpNet::V6(_)) => v6.cidrs.push(net),
                Err(_) => ignored.push(item.to_owned()),
            }
        }
        (v4, v6, ignored)
    }

    /// Whether a range starts at a loopback address; capturing loopback must then not be cut short.
    pub fn has_loopback(&self) -> bool {
        self.cidrs.iter().any(|net| net.addr().is_loopback())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_separated_and_garbage_is_reported() {
        let (v4, v6, ignored) = Ranges::split("127.1.2.3/32,2001:db8::/32, nonsense,10.0.0.1/8,");
        assert_eq!(v4.cidrs.iter().map(ToString::to_string).collect::<Vec<_>>(), ["127.1.2.3/32", "10.0.0.1/8"]);
        assert_eq!(v6.cidrs.len(), 1);
        assert!(v4.has_loopback() && !v6.has_loopback());
        assert_eq!(ignored, ["nonsense"]);
        let (v4, v6, _) = Ranges::split("*");
        assert!(v4.wildcard && v6.wildcard);
    }
}
