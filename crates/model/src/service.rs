//! What is a service to the mesh, whatever registry it came from? Built by `kube` and `service_entry`, read by
//! everything above. Follows `pilot/pkg/model.Service`. Absent: endpoints, which change on their own.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use names::{Hostname, Labels, PortProtocol};

/// Address of a service that has none: its listeners bind to the wildcard and hosts decide.
pub const UNSPECIFIED: &str = "0.0.0.0";

/// How the clients of a service find its endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Resolution {
    /// The control plane sends endpoints (EDS).
    ClientSideLb,
    /// The proxy resolves each endpoint by DNS and balances over all answers.
    DnsLb,
    /// The proxy resolves one name and uses the first answer.
    DnsRoundRobin,
    /// Connections go where the application meant them to.
    Passthrough,
    /// The service is another name of another one (`ExternalName`).
    Alias,
    /// The proxy resolves whatever host was asked for, within the service's wildcard.
    DynamicDns,
}

/// Where a service came from. Kubernetes services win over service entries of the same host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Registry {
    /// A Kubernetes `Service`.
    Kubernetes,
    /// A `ServiceEntry`.
    External,
}

impl Registry {
    /// Istio's name: `Kubernetes`, `External`.
    pub fn as_str(self) -> &'static str {
        match self {
            Registry::Kubernetes => "Kubernetes",
            Registry::External => "External",
        }
    }
}

/// Where endpoints listen for a service port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TargetPort {
    /// A number, by default the service port's.
    Number(u16),
    /// A named container port.
    Name(Arc<str>),
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Port {
    /// The name, unique within the service; may be empty for a single port.
    pub name: Arc<str>,
    /// The number that clients use.
    pub number: u16,
    /// The protocol, chosen or to be sniffed.
    pub protocol: PortProtocol,
    /// Where endpoints listen.
    pub target: TargetPort,
}

/// Who may see a resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Visibility {
    /// Every namespace.
    Public,
    /// Nobody (`~`).
    Nobody,
    /// These namespaces; `.` has been replaced by the resource's own.
    Namespaces(std::collections::BTreeSet<Arc<str>>),
}

impl Visibility {
    /// Reads an `exportTo` list; an empty one means `default`, and an empty default means everybody.
    pub fn parse(export_to: &[String], default: &[String], namespace: &str) -> Self {
        let list = if export_to.is_empty() { default } else { export_to };
        if list.is_empty() || list.iter().any(|e| e == "*") {
            return Visibility::Public;
        }
        if list.iter().any(|e| e == "~") {
            return Visibility::Nobody;
        }
        Visibility::Namespaces(
            list.iter().map(|e| if e == "." { namespace.into() } else { Arc::from(e.trim()) }).collect(),
        )
    }

    /// Whether a proxy of this namespace sees the resource.
    pub fn allows(&self, namespace: &str) -> bool {
        match self {
            Visibility::Public => true,
            Visibility::Nobody => false,
            Visibility::Namespaces(set) => set.contains(namespace),
        }
    }
}

/// Preference for near endpoints, from `trafficDistribution` or its annotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum TrafficDistribution {
    /// No preference.
    #[default]
    Any,
    /// Same zone first, then region.
    PreferSameZone,
    /// Same node first.
    PreferSameNode,
}

/// Which of a service's addresses a proxy uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reach {
    /// It answers DNS for the application, so that automatic addresses reach it.
    pub dns_capture: bool,
    /// It has IPv6 addresses only.
    pub ipv6: bool,
}

/// A service: a host with ports, visible to some namespaces.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// The fully qualified host.
    pub hostname: Hostname,
    /// The name of the Kubernetes service; the host for service entries.
    pub name: Arc<str>,
    /// Name of the resource.
    pub resource: Arc<str>,
    /// Namespace of the resource.
    pub namespace: Arc<str>,
    /// Where it came from.
    pub registry: Registry,
    /// Ports, in the order written.
    pub ports: Vec<Port>,
    /// Virtual addresses (IPs or CIDRs), first one preferred; empty when headless or unnamed.
    pub addresses: Vec<String>,
    /// Addresses from the automatic range, used by proxies that capture DNS when `addresses` is empty.
    pub auto_addresses: Vec<String>,
    /// How endpoints are found.
    pub resolution: Resolution,
    /// Outside of the mesh: no automatic mTLS.
    pub mesh_external: bool,
    /// The target of an `ExternalName` service.
    pub external_name: Option<Hostname>,
    /// Hosts of `ExternalName` services that point here.
    pub aliases: Vec<Hostname>,
    /// Who sees it.
    pub visibility: Visibility,
    /// Labels of the resource.
    pub labels: Labels,
    /// Pods or workload entries that serve it.
    pub selector: Option<Labels>,
    /// Identities expected of its endpoints beside those found from them.
    pub subject_alt_names: Vec<String>,
    /// Preference for near endpoints.
    pub traffic_distribution: TrafficDistribution,
    /// Whether endpoints that are not ready are sent too (`publishNotReadyAddresses`).
    pub publish_not_ready: bool,
    /// Creation time of the resource, microseconds since 1970; 0 when unknown.
    pub created_us: i64,
}

impl Service {
    /// Whether both are the same but for their ports.
    pub fn is_same_but_for_ports(&self, other: &Service) -> bool {
        let Service {
            hostname,
            name,
            resource,
            namespace,
            registry,
            ports: _,
            addresses,
            auto_addresses,
            resolution,
            mesh_external,
            external_name,
            aliases,
            visibility,
            labels,
            selector,
            subject_alt_names,
            traffic_distribution,
            publish_not_ready,
            created_us,
        } = self;
        *hostname == other.hostname
            && *name == other.name
            && *resource == other.resource
            && *namespace == other.namespace
            && *registry == other.registry
            && *addresses == other.addresses
            && *auto_addresses == other.auto_addresses
            && *resolution == other.resolution
            && *mesh_external == other.mesh_external
            && *external_name == other.external_name
            && *aliases == other.aliases
            && *visibility == other.visibility
            && *labels == other.labels
            && *selector == other.selector
            && *subject_alt_names == other.subject_alt_names
            && *traffic_distribution == other.traffic_distribution
            && *publish_not_ready == other.publish_not_ready
            && *created_us == other.created_us
    }

    /// The port with this number.
    pub fn port(&self, number: u16) -> Option<&Port> {
        self.ports.iter().find(|p| p.number == number)
    }

    /// The port with this name.
    pub fn port_named(&self, name: &str) -> Option<&Port> {
        self.ports.iter().find(|p| &*p.name == name)
    }

    /// Virtual addresses a proxy of this kind uses: those stated, else (with DNS capture) the automatic ones; of the
    /// family that the proxy has.
    pub fn addresses_for(&self, reach: Reach) -> Cow<'_, [String]> {
        let all = self.all_addresses(reach);
        let reached = |a: &&String| a.contains(':') == reach.ipv6;
        if all.iter().all(|a| reached(&a)) {
            return Cow::Borrowed(all);
        }
        Cow::Owned(all.iter().filter(reached).cloned().collect())
    }

    fn all_addresses(&self, reach: Reach) -> &[String] {
        if self.addresses.is_empty() && reach.dns_capture { &self.auto_addresses } else { &self.addresses }
    }

    /// Addresses its listeners match: those used, else the first whatever its family.
    pub fn listened_for(&self, reach: Reach) -> Cow<'_, [String]> {
        let used = self.addresses_for(reach);
        if used.is_empty() { Cow::Borrowed(self.all_addresses(reach).get(..1).unwrap_or_default()) } else { used }
    }

    /// Whether clients can be told where this port is: a name that the proxy resolves must be in the request or in the
    /// handshake.
    pub fn is_reachable(&self, port: &Port) -> bool {
        let p = port.protocol;
        p != PortProtocol::Udp && (self.resolution != Resolution::DynamicDns || !p.is_tcp() || p.is_tls())
    }

    /// Identity of a service among all, for keys.
    pub fn key(&self) -> ServiceKey {
        ServiceKey { namespace: self.namespace.clone(), hostname: self.hostname.clone() }
    }

    /// Whether a Kubernetes service without virtual address.
    pub fn is_headless(&self) -> bool {
        self.registry == Registry::Kubernetes && self.resolution == Resolution::Passthrough
    }

    /// Order of precedence: older first, then by name and namespace.
    pub fn age_order(&self, other: &Service) -> std::cmp::Ordering {
        (self.created_us, &self.name, &self.namespace).cmp(&(other.created_us, &other.name, &other.namespace))
    }
}

/// Identifies a service: the same host may be declared in several namespaces.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// Namespace of the resource.
    pub namespace: Arc<str>,
    /// The host.
    pub hostname: Hostname,
}

/// Whether the text is an address without prefix length.
pub fn is_plain_ip(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visibility() {
        let check = |export: &[&str], default: &[&str], asker: &str, want: bool| {
            let own = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
            assert_eq!(Visibility::parse(&own(export), &own(default), "a").allows(asker), want, "{export:?} {asker}");
        };
        check(&[], &[], "b", true);
        check(&[], &["."], "b", false);
        check(&[], &["."], "a", true);
        check(&["*"], &["."], "b", true);
        check(&["~"], &[], "a", false);
        check(&["b", "."], &[], "b", true);
        check(&["b"], &[], "a", false);
    }
}
