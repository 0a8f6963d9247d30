//! Which servers does a gateway proxy run? All `Gateway` resources that select it, merged port by port; what does
//! not fit is reported. Follows `pilot/pkg/model/gateway.go`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::networking::{Gateway, Server, ServerTlsMode};
use names::{LabelsExt, PortProtocol};

use crate::config::Config;
use crate::proxy::Proxy;
use crate::view::ServiceTarget;

/// Names the services whose pods run a gateway; then ports mean service ports.
pub const GATEWAY_SERVICE_ANNOTATION: &str = "internal.istio.io/gateway-service";
/// Services with this label do not translate gateway ports.
pub const DISABLE_PORT_TRANSLATION_LABEL: &str = "experimental.istio.io/disable-gateway-port-translation";

/// A server of a gateway, on a port the proxy listens on.
#[derive(Clone, Debug, PartialEq)]
pub struct GatewayServer {
    /// `NAMESPACE/NAME` of its gateway.
    pub gateway: String,
    /// The server; hosts are `HOST` or `NAMESPACE/HOST`.
    pub server: Server,
    /// Hosts without namespaces, for SNI.
    pub sni_hosts: Vec<String>,
    /// Name of its route configuration; empty for TCP.
    pub route_name: String,
}

/// Servers that share a listener.
#[derive(Clone, Debug, PartialEq)]
pub struct MergedPort {
    /// The port listened on.
    pub number: u16,
    /// Protocol of the first server.
    pub protocol: PortProtocol,
    /// Address; empty for the wildcard.
    pub bind: String,
    /// Route configuration of plain HTTP ports.
    pub route_name: String,
    /// Servers, in order of precedence.
    pub servers: Vec<Arc<GatewayServer>>,
}

/// Everything a gateway proxy serves.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MergedGateway {
    /// Ports, in order of first mention.
    pub ports: Vec<MergedPort>,
    /// Servers per route configuration.
    pub by_route: BTreeMap<String, Vec<Arc<GatewayServer>>>,
    /// Gateways and servers left out, with the reason.
    pub rejected: Vec<(String, String)>,
    /// Hosts of `AUTO_PASSTHROUGH` servers.
    pub auto_passthrough_hosts: BTreeSet<String>,
}

/// The server's protocol.
pub fn protocol(server: &Server) -> PortProtocol {
    PortProtocol::parse(server.port.as_ref().map_or("", |p| &p.protocol))
}

/// Whether TLS bytes are passed on as they are.
pub fn is_passthrough(server: &Server) -> bool {
    let mode = server.tls.as_ref().map(|t| t.mode);
    matches!(mode, Some(ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough))
}

/// HTTP, or HTTPS that is terminated.
pub fn is_http(server: &Server) -> bool {
    protocol(server).is_http() || is_https_terminated(server)
}

/// HTTPS that is terminated.
pub fn is_https_terminated(server: &Server) -> bool {
    protocol(server) == PortProtocol::Https && server.tls.is_some() && !is_passthrough(server)
}

/// TLS settings on something other than plain HTTP.
pub fn is_tls(server: &Server) -> bool {
    server.tls.is_some() && !protocol(server).is_http()
}

/// Opaque TCP behind TLS that is terminated.
pub fn is_tcp_with_tls(server: &Server) -> bool {
    server.tls.is_some() && !is_http(server) && !is_passthrough(server)
}

fn route_name(server: &Server, port: u16, config: &Config<Gateway>) -> String {
    if protocol(server).is_http() {
        let name = names::gateway_route_name(port, None);
        return if server.bind.is_empty() { name } else { format!("{name}.{}", server.bind) };
    }
    if is_https_terminated(server) {
        let name = server.port.as_ref().map_or("", |p| &p.name);
        return names::gateway_route_name(port, Some((name, &config.name, &config.namespace)));
    }
    String::new()
}

/// `./host` → `NS/host`, `*/host` → `host`, `*/*` → only `*`.
fn sanitize_hosts(hosts: &mut Vec<String>, namespace: &str) {
    for host in hosts.iter_mut() {
        let Some((ns, dns)) = host.split_once('/') else {
            continue;
        };
        match (ns, dns) {
            (".", dns) => *host = format!("{namespace}/{dns}"),
            ("*", "*") => {
                *hosts = vec!["*".to_owned()];
                return;
            }
            ("*", dns) => *host = dns.to_owned(),
            _ => {}
        }
    }
}

struct Selected<'a> {
    config: &'a Config<Gateway>,
    targets: Vec<&'a ServiceTarget>,
    by_labels: bool,
}

fn selects<'a>(config: &'a Config<Gateway>, proxy: &Proxy, targets: &'a [ServiceTarget]) -> Option<Selected<'a>> {
    if let Some(services) = config.annotations.get(GATEWAY_SERVICE_ANNOTATION) {
        let wanted: Vec<&str> = services.split(',').collect();
        let targets: Vec<_> = targets.iter().filter(|t| wanted.contains(&t.service.hostname.as_str())).collect();
        return (!targets.is_empty()).then_some(Selected { config, targets, by_labels: false });
    }
    config.spec.selector.subset_of(&proxy.labels).then(|| Selected {
        config,
        targets: targets.iter().collect(),
        by_labels: true,
    })
}

/// Ports the proxy listens on for a gateway port: service ports are translated to the pod's.
fn resolve_ports(number: u16, selected: &Selected<'_>) -> Vec<u16> {
    let mut ports = BTreeSet::new();
    for t in &selected.targets {
        if selected.by_labels && t.service.labels.contains_key(DISABLE_PORT_TRANSLATION_LABEL) {
            continue;
        }
        if t.port.number == number {
            if selected.by_labels {
                return vec![t.target_port];
            }
            ports.insert(t.target_port);
        }
    }
    if ports.is_empty() && selected.by_labels { vec![number] } else { ports.into_iter().collect() }
}

/// Hosts already taken with this bind address; takes them all when none is.
fn duplicates(hosts: &[String], bind: &str, known: &mut BTreeMap<String, String>) -> Vec<String> {
    let taken: Vec<String> = hosts.iter().filter(|h| known.get(*h).is_some_and(|b| b == bind)).cloned().collect();
    if taken.is_empty() {
        known.extend(hosts.iter().map(|h| (h.clone(), bind.to_owned())));
    }
    taken
}

#[derive(Default)]
struct Merger {
    out: MergedGateway,
    ports: BTreeSet<u16>,
    plain: BTreeMap<u16, usize>,
    tls_binds: BTreeMap<u16, BTreeSet<String>>,
    tls_hosts: BTreeMap<u16, BTreeMap<String, String>>,
}

/// Merges the gateways (in order of age) that select the proxy.
pub fn merge(gateways: &[Arc<Config<Gateway>>], proxy: &Proxy, targets: &[ServiceTarget]) -> MergedGateway {
    let mut merger = Merger::default();
    for config in gateways {
        let Some(selected) = selects(config, proxy, targets) else {
            continue;
        };
        for server in &config.spec.servers {
            let Some(number) = server.port.as_ref().and_then(|p| u16::try_from(p.number).ok()) else {
                continue;
            };
            let mut server = server.clone();
            sanitize_hosts(&mut server.hosts, &selected.config.namespace);
            for port in resolve_ports(number, &selected) {
                if let Err(reason) = merger.add(config, &server, port) {
                    let what = format!("{} port {number}", config.qualified());
                    merger.out.rejected.push((what, reason));
                }
            }
        }
    }
    let auto = merger
        .out
        .ports
        .iter()
        .flat_map(|p| &p.servers)
        .filter(|s| s.server.tls.as_ref().is_some_and(|t| t.mode == ServerTlsMode::AutoPassthrough));
    merger.out.auto_passthrough_hosts = auto.flat_map(|s| s.server.hosts.iter().cloned()).collect();
    merger.out
}

impl Merger {
    fn add(&mut self, config: &Config<Gateway>, server: &Server, port: u16) -> Result<(), String> {
        let route = route_name(server, port, config);
        let proto = protocol(server);
        if server.tls.is_some() {
            let taken = duplicates(&server.hosts, &server.bind, self.tls_hosts.entry(port).or_default());
            if !taken.is_empty() {
                return Err(format!("hosts {} are served by an older gateway", taken.join(", ")));
            }
        }
        let mut sni: Vec<String> =
            server.hosts.iter().map(|h| h.split_once('/').map_or(h.as_str(), |(_, h)| h).to_owned()).collect();
        sni.sort();
        sni.dedup();
        let entry = Arc::new(GatewayServer {
            gateway: config.qualified(),
            server: server.clone(),
            sni_hosts: if server.tls.is_some() { sni } else { Vec::new() },
            route_name: route.clone(),
        });
        if !self.ports.contains(&port) {
            self.ports.insert(port);
            if !is_tls(server) {
                self.plain.insert(port, self.out.ports.len());
            }
            if is_http(server) {
                self.out.by_route.insert(route.clone(), vec![entry.clone()]);
            }
            self.push(port, proto, server, &route, entry);
            return Ok(());
        }
        if let Some(&at) = self.plain.get(&port) {
            let current = &self.out.ports[at];
            let same_bind = current.bind == server.bind;
            let mergeable = (proto.is_http() || proto == current.protocol) && current.protocol.is_http();
            if same_bind && !mergeable {
                return Err(format!("port {port} is {:?} by an older gateway", current.protocol));
            }
            if same_bind && route.is_empty() {
                return Err("not an HTTP server".to_owned());
            }
            if same_bind {
                self.out.ports[at].servers.push(entry.clone());
            } else {
                self.push(port, proto, server, &route, entry.clone());
            }
            self.out.by_route.entry(route).or_default().push(entry);
            return Ok(());
        }
        if is_http(server) {
            if self.out.by_route.contains_key(&route) {
                return Err(format!("port name {:?} is not unique", server.port.as_ref().map_or("", |p| &p.name)));
            }
            self.out.by_route.insert(route.clone(), vec![entry.clone()]);
        }
        let new_bind = self.tls_binds.entry(port).or_default().insert(server.bind.clone());
        if server.tls.is_none() && !new_bind {
            return Err(format!("port {port} is TLS by an older gateway and this server has no TLS settings"));
        }
        self.push(port, proto, server, &route, entry);
        Ok(())
    }

    fn push(&mut self, number: u16, protocol: PortProtocol, server: &Server, route: &str, entry: Arc<GatewayServer>) {
        let same = |p: &&mut MergedPort| p.number == number && p.protocol == protocol && p.bind == server.bind;
        match self.out.ports.iter_mut().find(same) {
            Some(p) => p.servers.push(entry),
            None => self.out.ports.push(MergedPort {
                number,
                protocol,
                bind: server.bind.clone(),
                route_name: route.to_owned(),
                servers: vec![entry],
            }),
        }
    }
}
