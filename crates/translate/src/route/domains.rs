//! By which names do applications call a service? The domains of a virtual host: full name, the short forms that the
//! proxy's own domain allows, addresses. Follows `httproute.go`.

use model::service::UNSPECIFIED;
use model::{Registry, Resolution, Service};
use names::Hostname;

use crate::wire::{bracketed, host_port};

/// Domains of a service, and those among them that are shortened forms. `port` is added to each unless 0.
pub(crate) fn of_service(
    service: &Service,
    port: u16,
    proxy_domain: &str,
    dns_capture: bool,
) -> (Vec<String>, Vec<String>) {
    let mut out = Vec::new();
    let mut short = Vec::new();
    for host in std::iter::once(&service.hostname).chain(&service.aliases) {
        push(&mut out, host, port);
        for alternative in alternatives(host, proxy_domain) {
            push(&mut out, &alternative, port);
            push(&mut short, &alternative, port);
        }
    }
    if service.resolution == Resolution::Passthrough && service.registry == Registry::Kubernetes {
        // Pods of headless services have names below the service's.
        let below: Vec<String> = out.iter().map(|d| format!("*.{d}")).collect();
        out.extend(below);
    }
    for address in service.addresses_for(dns_capture).iter().filter(|a| *a != UNSPECIFIED && !a.contains('/')) {
        push(&mut out, address, port);
    }
    (out, short)
}

fn push(out: &mut Vec<String>, host: &str, port: u16) {
    out.push(bracketed(host));
    if port != 0 {
        out.push(host_port(host, port.into()));
    }
}

/// Shorter names by which a host can be called from a proxy's domain.
///
/// For Kubernetes domains (`ns.svc.cluster.local`): `name` in the same namespace, `name.ns`, `name.ns.svc`; only for
/// hosts of the same cluster domain. Otherwise: what remains of the host without the shared suffix.
pub(crate) fn alternatives(host: &str, proxy_domain: &str) -> Vec<String> {
    if let Some(at) = proxy_domain.find(".svc.") {
        let suffix = &proxy_domain[at..];
        let Some(base) = host.strip_suffix(suffix) else {
            return Vec::new();
        };
        let Some((name, namespace)) = base.split_once('.') else {
            return Vec::new();
        };
        if namespace == &proxy_domain[..at] {
            return vec![name.to_owned(), format!("{base}.svc"), base.to_owned()];
        }
        return vec![base.to_owned(), format!("{base}.svc")];
    }
    let ours: Vec<&str> = host.split('.').collect();
    let theirs: Vec<&str> = proxy_domain.split('.').collect();
    let shared = ours.iter().rev().zip(theirs.iter().rev()).take_while(|(a, b)| a == b).count();
    if shared == 0 {
        return Vec::new();
    }
    let unique = &ours[..ours.len() - shared];
    let mut out = vec![unique.join(".")];
    if unique.len() == 2 {
        out.push(format!("{}.{}", unique.join("."), ours[unique.len()]));
    }
    out
}

/// Keeps each domain for the first virtual host that wants it; a shortened form gives way to a host of that very name.
#[derive(Default)]
pub(crate) struct Taken {
    domains: std::collections::BTreeSet<String>,
    names: std::collections::BTreeSet<String>,
    known: std::collections::BTreeSet<String>,
}

impl Taken {
    /// Declares a full host name, with and without port.
    pub(crate) fn know(&mut self, host: &Hostname, port: u16) {
        self.known.insert(host.to_string());
        self.known.insert(host_port(host, port.into()));
    }

    /// Takes a virtual host's name; `false` when it exists.
    pub(crate) fn take_name(&mut self, name: &str) -> bool {
        self.names.insert(name.to_owned())
    }

    /// The domains that are still free.
    pub(crate) fn take(&mut self, domains: Vec<String>, short: &[String]) -> Vec<String> {
        domains
            .into_iter()
            .filter(|d| !(short.contains(d) && self.known.contains(d)))
            .filter(|d| self.domains.insert(d.to_ascii_lowercase()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names() {
        let check = |host: &str, domain: &str, want: &[&str]| assert_eq!(alternatives(host, domain), want, "{host}");
        check("foo.ns.svc.cluster.local", "ns.svc.cluster.local", &["foo", "foo.ns.svc", "foo.ns"]);
        check("foo.ns.svc.cluster.local", "other.svc.cluster.local", &["foo.ns", "foo.ns.svc"]);
        check("foo.com", "ns.svc.cluster.local", &[]);
        check("foo.local.campus.net", "local.campus.net", &["foo"]);
        check("foo.local.campus.net", "remote.campus.net", &["foo.local", "foo.local.campus"]);
        check("foo.local.campus.net", "example.com", &[]);
    }
}
