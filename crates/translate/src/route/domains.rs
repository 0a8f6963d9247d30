//! By which names do applications call a service? The domains of a virtual host: full name, the short forms that the
//! proxy's own domain allows, addresses. Follows `httproute.go`.

use std::collections::HashSet;
use std::sync::Arc;

use model::service::UNSPECIFIED;
use model::{Reach, Registry, Resolution, Service};

use crate::incremental::{Key, Memo, Unit};
use crate::wire::{bracketed, host_port};

/// The names of one virtual host.
#[derive(Debug, Default)]
pub(crate) struct Domains {
    /// The virtual host's own name.
    pub(crate) name: String,
    /// The full host, for shortened forms to give way to.
    host: String,
    /// Domains wanted, in order.
    pub(crate) all: Vec<String>,
    /// Those in lower case that are not so already, by position.
    lower: Vec<Option<String>>,
    /// Positions of shortened forms.
    short: Vec<bool>,
}

impl Domains {
    fn new(host: &str, port: u16, all: Vec<String>, short: &[String]) -> Self {
        let lower = |d: &String| d.bytes().any(|b| b.is_ascii_uppercase()).then(|| d.to_ascii_lowercase());
        Domains {
            name: host_port(host, port.into()),
            host: host.to_owned(),
            lower: all.iter().map(lower).collect(),
            short: all.iter().map(|d| short.contains(d)).collect(),
            all,
        }
    }

    /// Of a host that is no service. `spelled`: the port to add to domains, unless 0.
    pub(crate) fn plain(host: &str, port: u16, spelled: u16) -> Self {
        let mut all = Vec::new();
        push(&mut all, host, spelled);
        Domains::new(host, port, all, &[])
    }
}

/// Domains of a service on `port`. `spelled` is added to each unless 0. They are kept: a service is spelled with every
/// change of its neighbours.
pub(crate) fn of_service(
    memo: &Memo,
    service: &Arc<Service>,
    port: u16,
    spelled: u16,
    proxy_domain: &str,
    reach: Reach,
) -> Arc<Domains> {
    let bits =
        u64::from(port) | u64::from(spelled) << 16 | u64::from(reach.dns_capture) << 32 | u64::from(reach.ipv6) << 33;
    memo.get(&Key::new(Unit::Domains, decisive(service, proxy_domain)).bits(bits).part(service), || {
        let (all, short) = names_of(service, spelled, proxy_domain, reach);
        Domains::new(&service.hostname, port, all, &short)
    })
}

/// What of the proxy's domain decides the domains of a service: all namespaces but its own call it the same, and keep
/// its domains together.
fn decisive<'a>(service: &Service, proxy_domain: &'a str) -> &'a str {
    let Some(at) = proxy_domain.find(".svc.") else {
        return proxy_domain;
    };
    let (namespace, suffix) = proxy_domain.split_at(at);
    let own = |host: &str| {
        let base = host.strip_suffix(suffix).and_then(|base| base.split_once('.'));
        base.is_some_and(|(_, of)| of == namespace)
    };
    let hosts = std::iter::once(&service.hostname).chain(&service.aliases);
    if hosts.into_iter().any(|h| own(h)) { proxy_domain } else { suffix }
}

/// Whether both services have the same domains, wherever they are asked for.
pub(crate) fn are_same(a: &Service, b: &Service) -> bool {
    a.hostname == b.hostname
        && a.aliases == b.aliases
        && (a.resolution, a.registry) == (b.resolution, b.registry)
        && (&a.addresses, &a.auto_addresses) == (&b.addresses, &b.auto_addresses)
}

/// Domains of a service, and those among them that are shortened forms. `port` is added to each unless 0.
pub fn names_of(service: &Service, port: u16, proxy_domain: &str, reach: Reach) -> (Vec<String>, Vec<String>) {
    let mut out = Vec::new();
    let mut short = Vec::new();
    for host in std::iter::once(&service.hostname).chain(&service.aliases) {
        push(&mut out, host, port);
        // Resolvers' absolute form of the same name.
        if host.parse::<std::net::IpAddr>().is_err() {
            push(&mut out, &format!("{host}."), port);
        }
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
    for address in service.addresses_for(reach).iter().filter(|a| *a != UNSPECIFIED && !a.contains('/')) {
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
pub(crate) struct Taken<'a> {
    domains: HashSet<&'a str>,
    names: HashSet<&'a str>,
    known: HashSet<&'a str>,
}

impl<'a> Taken<'a> {
    /// Declares a full host name, with and without port.
    pub(crate) fn know(&mut self, domains: &'a Domains) {
        self.known.insert(&domains.host);
        self.known.insert(&domains.name);
    }

    /// Takes a virtual host's name; `false` when it exists.
    pub(crate) fn take_name(&mut self, name: &'a str) -> bool {
        self.names.insert(name)
    }

    /// The domains that are still free; `None`: all of them.
    pub(crate) fn take(&mut self, wanted: &'a Domains) -> Option<Vec<String>> {
        let mut out: Option<Vec<String>> = None;
        for (n, d) in wanted.all.iter().enumerate() {
            let yields = wanted.short[n] && self.known.contains(d.as_str());
            if yields || !self.domains.insert(wanted.lower[n].as_deref().unwrap_or(d)) {
                out.get_or_insert_with(|| wanted.all[..n].to_vec());
            } else if let Some(out) = &mut out {
                out.push(d.clone());
            }
        }
        out
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
