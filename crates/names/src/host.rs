//! Which host does a name mean, and which of two names is more specific? Used wherever hosts are matched:
//! virtual services, destination rules, gateways, service lookup. Follows `istio.io/istio/pkg/config/host`.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A host as written in configuration: a DNS name, `*`, or a name with a leading wildcard (`*.example.com`).
///
/// Cheap to clone. Ordering (`Ord`) is textual; [`Hostname::specificity`] is the matching order.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hostname(Arc<str>);

impl Hostname {
    /// Wraps a name without changing it. Istio compares hosts by bytes; validation has already refused upper case
    /// where it matters.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Hostname(name.into())
    }

    /// The fully qualified name of a Kubernetes service: `name.namespace.svc.domain`.
    pub fn service(name: &str, namespace: &str, domain: &str) -> Self {
        Hostname(format!("{name}.{namespace}.svc.{domain}").into())
    }

    /// Expands a short name with the namespace of the configuration that mentions it.
    ///
    /// Names with a dot, `*` and IP addresses are already complete.
    pub fn resolve(name: &str, namespace: &str, domain: &str) -> Self {
        if name.is_empty() || name == "*" || name.contains('.') || is_ip(name) {
            return Hostname(name.into());
        }
        let mut out = name.to_owned();
        if !namespace.is_empty() {
            out.push('.');
            out.push_str(namespace);
        }
        if !domain.is_empty() {
            out.push_str(".svc.");
            out.push_str(domain);
        }
        Hostname(out.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the first character is `*`.
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with('*')
    }

    /// Whether some concrete host belongs to both names. Symmetric; either side may be a wildcard.
    pub fn matches(&self, other: &Hostname) -> bool {
        match (self.suffix(), other.suffix()) {
            (Some(a), Some(b)) => {
                if a.len() < b.len() {
                    b.ends_with(a)
                } else {
                    a.ends_with(b)
                }
            }
            (Some(a), None) => other.0.ends_with(a),
            (None, Some(b)) => self.0.ends_with(b),
            (None, None) => self.0 == other.0,
        }
    }

    /// Whether every concrete host of `self` also belongs to `other`.
    pub fn subset_of(&self, other: &Hostname) -> bool {
        match (self.suffix(), other.suffix()) {
            (Some(a), Some(b)) => a.len() >= b.len() && a.ends_with(b),
            (Some(_), None) => false,
            (None, Some(b)) => self.0.ends_with(b),
            (None, None) => self.0 == other.0,
        }
    }

    /// Orders most specific first: exact names before wildcards, longer before shorter, then by text.
    pub fn specificity(&self, other: &Hostname) -> Ordering {
        self.is_wildcard()
            .cmp(&other.is_wildcard())
            .then_with(|| other.0.len().cmp(&self.0.len()))
            .then_with(|| self.0.cmp(&other.0))
    }

    /// Hosts covered by both lists, each pair in its more specific form.
    pub fn intersection(a: &[Hostname], b: &[Hostname]) -> Vec<Hostname> {
        let mut out: Vec<Hostname> = Vec::new();
        for x in a {
            for y in b {
                let narrower = if x.subset_of(y) {
                    x
                } else if y.subset_of(x) {
                    y
                } else {
                    continue;
                };
                if !out.contains(narrower) {
                    out.push(narrower.clone());
                }
            }
        }
        out
    }

    /// Hosts of a list of `HOST` and `NAMESPACE/HOST` that are meant for a namespace: those without one, those of `*`,
    /// and its own.
    pub fn for_namespace(hosts: &[String], namespace: &str) -> Vec<Hostname> {
        let of = |h: &String| match h.split_once('/') {
            None => Some(Hostname::from(h.as_str())),
            Some((ns, dns)) if ns == namespace || ns == "*" => Some(Hostname::from(dns)),
            Some(_) => None,
        };
        hosts.iter().filter_map(of).collect()
    }

    /// For `name.namespace.svc.domain`: the name and the namespace.
    pub fn kube_service(&self) -> Option<(&str, &str)> {
        let (name, rest) = self.0.split_once('.')?;
        let (namespace, rest) = rest.split_once('.')?;
        (rest == "svc" || rest.starts_with("svc.")).then_some((name, namespace))
    }

    fn suffix(&self) -> Option<&str> {
        self.0.strip_prefix('*')
    }
}

/// Whether the text is an IPv4 or IPv6 address.
pub fn is_ip(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl From<&str> for Hostname {
    fn from(name: &str) -> Self {
        Hostname(name.into())
    }
}

impl From<String> for Hostname {
    fn from(name: String) -> Self {
        Hostname(name.into())
    }
}

impl AsRef<str> for Hostname {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Hostname {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl std::ops::Deref for Hostname {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl Default for Hostname {
    fn default() -> Self {
        Hostname("".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn h(s: &str) -> Hostname {
        s.into()
    }

    #[test]
    fn matching() {
        let check = |a: &str, b: &str, matches: bool, subset: bool| {
            assert_eq!(h(a).matches(&h(b)), matches, "{a} matches {b}");
            assert_eq!(h(b).matches(&h(a)), matches, "{b} matches {a}");
            assert_eq!(h(a).subset_of(&h(b)), subset, "{a} subset of {b}");
        };
        check("foo.com", "foo.com", true, true);
        check("foo.com", "bar.com", false, false);
        check("foo.com", "*.com", true, true);
        check("*.com", "foo.com", true, false);
        check("*", "foo.com", true, false);
        check("*.foo.com", "*.com", true, true);
        check("*.com", "*.foo.com", true, false);
        check("*.foo.com", "*.bar.com", false, false);
        check("*", "*", true, true);
    }

    #[test]
    fn short_names() {
        let check = |name: &str, want: &str| assert_eq!(Hostname::resolve(name, "ns", "cluster.local").as_str(), want);
        check("a", "a.ns.svc.cluster.local");
        check("a.b", "a.b");
        check("*", "*");
        check("10.0.0.1", "10.0.0.1");
        check("::1", "::1");
        check("", "");
    }

    #[test]
    fn order() {
        let mut hosts = ["*", "*.com", "a.com", "*.foo.com", "longer.a.com", "b.com"].map(h);
        hosts.sort_by(Hostname::specificity);
        assert_eq!(hosts.map(|h| h.to_string()), ["longer.a.com", "a.com", "b.com", "*.foo.com", "*.com", "*"]);
    }

    #[test]
    fn kube_parts() {
        assert_eq!(h("a.b.svc.cluster.local").kube_service(), Some(("a", "b")));
        assert_eq!(h("a.b.com").kube_service(), None);
    }

    proptest::proptest! {
        #[test]
        fn matching_laws(a in "[*]?[a-c.]{0,6}", b in "[*]?[a-c.]{0,6}") {
            let (a, b) = (h(&a), h(&b));
            proptest::prop_assert_eq!(a.matches(&b), b.matches(&a));
            proptest::prop_assert!(!a.subset_of(&b) || a.matches(&b));
            proptest::prop_assert!(a.subset_of(&a) && a.matches(&a));
            proptest::prop_assert_eq!(a.specificity(&b), b.specificity(&a).reverse());
        }

        #[test]
        fn parsers_never_panic(text in "\\PC*") {
            let _ = text.parse::<crate::ClusterName>();
            let _ = crate::ClusterName::from_sni(&text);
            let _ = text.parse::<crate::NodeId>();
            let _ = text.parse::<crate::Identity>();
            let _ = crate::Kind::from_word(&text);
        }
    }
}
