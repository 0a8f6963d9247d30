//! What may one proxy talk to? The scope a `Sidecar` (or its absence) gives to the workloads of a namespace.
//! Follows `pilot/pkg/model/sidecar.go`. Computed once per scope and shared by its proxies.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::networking::{CaptureMode, Destination, OutboundTrafficPolicyMode, Sidecar};
use names::well_known::MESH_GATEWAY;
use names::{Hostname, Labels, LabelsExt, PortProtocol};

use crate::config::Config;
use crate::destination_rule::{MergedRule, select};
use crate::mesh::OutboundMode;
use crate::service::{Registry, Service};
use crate::shared_map::SharedMap;
use crate::snapshot::Snapshot;
use crate::virtual_service::ResolvedVirtualService;

/// The port of an egress listener.
#[derive(Clone, Debug, PartialEq)]
pub struct EgressPort {
    /// Number; 0 for Unix sockets.
    pub number: u16,
    /// Name.
    pub name: String,
    /// Protocol.
    pub protocol: PortProtocol,
}

/// One egress listener and what it imports.
#[derive(Clone, Debug, PartialEq)]
pub struct EgressListener {
    /// The port; `None` for the catch-all.
    pub port: Option<EgressPort>,
    /// Address or socket to bind to; empty for the default.
    pub bind: String,
    /// Whether traffic is captured.
    pub capture_mode: CaptureMode,
    /// Services imported, possibly reduced to the listener's port.
    pub services: Arc<Vec<Arc<Service>>>,
    /// Virtual services imported.
    pub virtual_services: Vec<Arc<ResolvedVirtualService>>,
}

/// What the proxies of one scope may see.
#[derive(Clone, Debug, PartialEq)]
pub struct SidecarScope {
    /// The resource, if there is one.
    pub config: Option<Arc<Config<Sidecar>>>,
    /// Name used where no service gives one.
    pub name: String,
    /// Namespace of the proxies.
    pub namespace: Arc<str>,
    /// Egress listeners; the catch-all last.
    pub egress: Vec<EgressListener>,
    /// All services imported; one allocation with those of the catch-all and of the mesh where they are the same.
    pub services: Arc<Vec<Arc<Service>>>,
    /// The service that a host means in this scope.
    pub by_host: SharedMap<Hostname, Arc<Service>>,
    /// Destination rules of those services.
    pub rules: SharedMap<Hostname, Vec<Arc<MergedRule>>>,
    /// Unknown destinations.
    pub outbound_mode: OutboundMode,
    /// Where unknown traffic goes when it is allowed.
    pub egress_proxy: Option<Destination>,
}

/// The name of the scope of namespaces without `Sidecar`.
const DEFAULT_SIDECAR: &str = "default-sidecar";

impl SidecarScope {
    /// The scope of `namespace` under `sidecar`, or without one.
    pub fn new(snapshot: &Snapshot, namespace: &Arc<str>, sidecar: Option<Arc<Config<Sidecar>>>) -> Self {
        let visible = snapshot.services_visible_to(namespace);
        let rules = snapshot.virtual_services.for_gateway(namespace, MESH_GATEWAY);
        let egress = match sidecar.as_deref().map(|s| s.spec.egress.as_slice()) {
            None | Some([]) => vec![EgressListener {
                port: None,
                bind: String::new(),
                capture_mode: CaptureMode::Default,
                services: visible.clone(),
                virtual_services: rules.clone(),
            }],
            Some(listeners) => listeners.iter().map(|l| listener(l, namespace, &visible, &rules)).collect(),
        };
        let mut scope = SidecarScope {
            name: sidecar.as_ref().map_or(DEFAULT_SIDECAR.to_owned(), |s| s.name.to_string()),
            namespace: namespace.clone(),
            outbound_mode: snapshot.mesh.outbound_traffic_policy,
            egress_proxy: None,
            services: Arc::default(),
            by_host: SharedMap::default(),
            rules: SharedMap::default(),
            egress,
            config: sidecar.clone(),
        };
        if let Some(policy) = sidecar.as_deref().and_then(|s| s.spec.outbound_traffic_policy.as_ref()) {
            scope.outbound_mode = match policy.mode {
                OutboundTrafficPolicyMode::RegistryOnly => OutboundMode::RegistryOnly,
                _ => OutboundMode::AllowAny,
            };
            scope.egress_proxy = policy.egress_proxy.clone().map(|mut d| {
                d.host = Hostname::resolve(&d.host, namespace, &snapshot.config_domain).to_string();
                d
            });
        }
        scope.collect_services(snapshot, sidecar.is_some());
        let same = |(a, b): (&Arc<Service>, &Arc<Service>)| Arc::ptr_eq(a, b);
        if scope.services.len() == visible.len() && scope.services.iter().zip(visible.iter()).all(same) {
            scope.services = visible;
        }
        for service in scope.services.iter() {
            let found = snapshot.destination_rules.lookup(namespace, &service.hostname, &service.namespace);
            if !found.is_empty() && !scope.rules.contains_key(&service.hostname) {
                scope.rules.insert(service.hostname.clone(), found);
            }
        }
        scope
    }

    /// This scope, made from `old`, as it is in `new`. `None`: a `Sidecar` or another mesh decides, it must be made
    /// from scratch. The result is what [`SidecarScope::new`] gives; only hosts that moved are looked up.
    pub(crate) fn advance(&self, old: &Snapshot, new: &Snapshot) -> Option<SidecarScope> {
        if self.config.is_some() || !Arc::ptr_eq(&old.mesh, &new.mesh) {
            return None;
        }
        let [egress] = self.egress.as_slice() else {
            return None;
        };
        let (same_services, same_rules) =
            (Arc::ptr_eq(&old.services, &new.services), Arc::ptr_eq(&old.destination_rules, &new.destination_rules));
        let mut scope = SidecarScope {
            config: None,
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            egress: Vec::new(),
            services: Arc::default(),
            by_host: self.by_host.clone(),
            rules: self.rules.clone(),
            outbound_mode: self.outbound_mode,
            egress_proxy: self.egress_proxy.clone(),
        };
        let look_up = |rules: &mut SharedMap<Hostname, Vec<Arc<MergedRule>>>, service: &Service| {
            let found = new.destination_rules.lookup(&self.namespace, &service.hostname, &service.namespace);
            let same = |known: &Vec<Arc<MergedRule>>| {
                known.len() == found.len() && known.iter().zip(&found).all(|(a, b)| Arc::ptr_eq(a, b))
            };
            match rules.get(&service.hostname) {
                Some(known) if same(known) => {}
                None if found.is_empty() => {}
                _ if found.is_empty() => drop(rules.remove(&service.hostname)),
                _ => drop(rules.insert(service.hostname.clone(), found)),
            }
        };
        if !same_services {
            let same = |a: &BTreeMap<Arc<str>, Arc<Service>>, b: &BTreeMap<Arc<str>, Arc<Service>>| {
                a.len() == b.len() && a.values().zip(b.values()).all(|(a, b)| Arc::ptr_eq(a, b))
            };
            for host in new.by_host.changed_keys(&old.by_host, same) {
                match winner(new, &host, &self.namespace) {
                    Some(service) => {
                        look_up(&mut scope.rules, &service);
                        scope.by_host.insert(host, service);
                    }
                    None => {
                        scope.by_host.remove(&host);
                        scope.rules.remove(&host);
                    }
                }
            }
        }
        let visible = if same_services { egress.services.clone() } else { new.services_visible_to(&self.namespace) };
        scope.services = if same_services {
            self.services.clone()
        } else if new.services.len() == new.by_host.len() {
            visible.clone()
        } else {
            let wins = |s: &&Arc<Service>| scope.by_host.get(&s.hostname).is_some_and(|w| Arc::ptr_eq(w, s));
            Arc::new(visible.iter().filter(wins).cloned().collect())
        };
        if !same_rules {
            for service in scope.services.iter() {
                look_up(&mut scope.rules, service);
            }
        }
        let virtual_services = if Arc::ptr_eq(&old.virtual_services, &new.virtual_services) {
            egress.virtual_services.clone()
        } else {
            new.virtual_services.for_gateway(&self.namespace, MESH_GATEWAY)
        };
        scope.egress = vec![EgressListener {
            port: None,
            bind: String::new(),
            capture_mode: CaptureMode::Default,
            services: visible,
            virtual_services,
        }];
        Some(scope)
    }

    fn collect_services(&mut self, snapshot: &Snapshot, explicit: bool) {
        for i in 0..self.egress.len() {
            let services = Arc::clone(&self.egress[i].services);
            for service in services.iter() {
                self.add_service(service.clone(), explicit);
            }
            if !explicit {
                continue;
            }
            // Destinations of imported virtual services are reachable too, after what was asked for by name.
            let listener = &self.egress[i];
            let only_port = port_to_match(listener.port.as_ref());
            let mut wanted: Vec<(Hostname, BTreeSet<u16>)> = Vec::new();
            for v in &listener.virtual_services {
                wanted.extend(destination_ports(v, Some(&self.namespace)));
            }
            for (host, ports) in wanted {
                let found = snapshot.service_for(&host, &self.namespace);
                let found = match only_port {
                    Some(port) => found.and_then(|s| with_only_port(&s, port)),
                    None => found.and_then(|s| with_ports(&s, &ports)),
                };
                if let Some(service) = found {
                    self.add_service(service, true);
                }
            }
        }
    }

    fn add_service(&mut self, service: Arc<Service>, explicit: bool) {
        match self.by_host.get(&service.hostname) {
            None => {
                self.by_host.insert(service.hostname.clone(), service.clone());
                Arc::make_mut(&mut self.services).push(service);
            }
            // A service entry adds nothing to a Kubernetes service, which in turn replaces it.
            Some(old)
                if explicit
                    && old.namespace == service.namespace
                    && (old.registry == Registry::Kubernetes) != (service.registry == Registry::Kubernetes) =>
            {
                if service.registry == Registry::Kubernetes {
                    Arc::make_mut(&mut self.services).retain(|s| s.hostname != service.hostname);
                    self.by_host.insert(service.hostname.clone(), service.clone());
                    Arc::make_mut(&mut self.services).push(service);
                }
            }
            Some(old) if explicit && old.namespace == service.namespace => {
                let missing: Vec<_> = service.ports.iter().filter(|p| old.port(p.number).is_none()).cloned().collect();
                if missing.is_empty() {
                    return;
                }
                let mut merged = (**old).clone();
                merged.ports.extend(missing);
                let merged = Arc::new(merged);
                for s in Arc::make_mut(&mut self.services) {
                    if s.hostname == merged.hostname && s.namespace == merged.namespace {
                        *s = merged.clone();
                    }
                }
                self.by_host.insert(merged.hostname.clone(), merged);
            }
            // Kubernetes services take over hosts that a service entry squats.
            Some(old)
                if !explicit && old.registry != Registry::Kubernetes && service.registry == Registry::Kubernetes =>
            {
                Arc::make_mut(&mut self.services).retain(|s| s.hostname != service.hostname);
                self.by_host.insert(service.hostname.clone(), service.clone());
                Arc::make_mut(&mut self.services).push(service);
            }
            Some(_) => {}
        }
    }

    /// The destination rule for this host and workload.
    pub fn rule(&self, host: &Hostname, labels: &Labels, inbound: bool) -> Option<&Arc<MergedRule>> {
        select(self.rules.get(host)?, &self.namespace, labels, inbound)
    }

    /// Whether the resource declares inbound listeners.
    pub fn has_ingress(&self) -> bool {
        self.config.as_ref().is_some_and(|c| !c.spec.ingress.is_empty())
    }

    /// The egress listener whose routes a route configuration holds: that of the port, else the catch-all.
    pub fn egress_for_route(&self, port: u16, bind: &str) -> Option<&EgressListener> {
        self.egress.iter().find(|l| match &l.port {
            None => true,
            Some(p) => p.number == port && (port != 0 || l.bind == bind),
        })
    }
}

/// The service that a host means in a scope without `Sidecar`: the oldest visible one, but Kubernetes's before others.
fn winner(snapshot: &Snapshot, host: &Hostname, namespace: &str) -> Option<Arc<Service>> {
    let visible = snapshot.by_host.get(host)?.values().filter(|s| s.visibility.allows(namespace));
    visible
        .min_by(|a, b| {
            (a.registry != Registry::Kubernetes).cmp(&(b.registry != Registry::Kubernetes)).then_with(|| a.age_order(b))
        })
        .cloned()
}

/// The port that services must have to be imported; HTTP proxy listeners import all.
fn port_to_match(port: Option<&EgressPort>) -> Option<u16> {
    port.filter(|p| p.number != 0 && p.protocol != PortProtocol::HttpProxy).map(|p| p.number)
}

fn with_only_port(service: &Arc<Service>, port: u16) -> Option<Arc<Service>> {
    let found = service.port(port)?;
    if service.ports.len() == 1 {
        return Some(service.clone());
    }
    let mut trimmed = (**service).clone();
    trimmed.ports = vec![found.clone()];
    Some(Arc::new(trimmed))
}

/// A service reduced to some of its ports; all for none or 0, which stands for a destination without port.
fn with_ports(service: &Arc<Service>, ports: &BTreeSet<u16>) -> Option<Arc<Service>> {
    if ports.is_empty() || ports.contains(&0) || service.ports.iter().all(|p| ports.contains(&p.number)) {
        return Some(service.clone());
    }
    let mut trimmed = (**service).clone();
    trimmed.ports.retain(|p| ports.contains(&p.number));
    (!trimmed.ports.is_empty()).then(|| Arc::new(trimmed))
}

/// Hosts named by the destinations of a virtual service, each once.
pub fn destinations(virtual_service: &ResolvedVirtualService) -> BTreeSet<Hostname> {
    destination_ports(virtual_service, None).into_keys().collect()
}

/// Hosts and ports (0 when unstated) named by the destinations of a virtual service, without HTTP rules that are only
/// for other namespaces than `source`.
fn destination_ports(
    virtual_service: &ResolvedVirtualService,
    source: Option<&str>,
) -> BTreeMap<Hostname, BTreeSet<u16>> {
    let spec = &virtual_service.config.spec;
    let elsewhere = |m: &api::networking::HttpMatchRequest| {
        !m.source_namespace.is_empty() && source.is_some_and(|s| s != m.source_namespace)
    };
    let rules = spec.http.iter().filter(|h| h.matches.is_empty() || !h.matches.iter().all(elsewhere));
    let http = rules.flat_map(|h| {
        let routes = h.route.iter().filter_map(|r| r.destination.as_ref());
        routes.chain(h.mirror.as_ref()).chain(h.mirrors.iter().filter_map(|m| m.destination.as_ref()))
    });
    let tcp = spec.tcp.iter().flat_map(|t| t.route.iter()).filter_map(|r| r.destination.as_ref());
    let tls = spec.tls.iter().flat_map(|t| t.route.iter()).filter_map(|r| r.destination.as_ref());
    let mut out: BTreeMap<Hostname, BTreeSet<u16>> = BTreeMap::new();
    for d in http.chain(tcp).chain(tls) {
        let port = d.port.as_ref().map_or(0, |p| u16::try_from(p.number).unwrap_or(0));
        out.entry(Hostname::from(d.host.as_str())).or_default().insert(port);
    }
    out
}

/// Hosts of an egress listener, by namespace; `~ns/host` subtracts.
struct Imports {
    by_namespace: BTreeMap<String, Vec<Hostname>>,
    excluded: BTreeMap<String, Vec<Hostname>>,
}

impl Imports {
    fn new(hosts: &[String], namespace: &str) -> Self {
        let mut out = Imports { by_namespace: BTreeMap::new(), excluded: BTreeMap::new() };
        for host in hosts {
            let Some((ns, dns)) = host.split_once('/') else {
                continue;
            };
            let (map, ns) = match ns.strip_prefix('~') {
                Some(ns) if !ns.is_empty() => (&mut out.excluded, ns),
                _ => (&mut out.by_namespace, ns),
            };
            let ns = if ns == "." { namespace } else { ns };
            map.entry(ns.to_owned()).or_default().push(dns.into());
        }
        out
    }

    /// Hosts listed for this namespace and those of `*`.
    fn of<'a>(map: &'a BTreeMap<String, Vec<Hostname>>, namespace: &str) -> impl Iterator<Item = &'a Hostname> {
        map.get(namespace).into_iter().chain(map.get("*")).flatten()
    }

    fn service(&self, service: &Service) -> bool {
        let host = &service.hostname;
        Self::of(&self.by_namespace, &service.namespace).any(|h| host.subset_of(h))
            && !Self::of(&self.excluded, &service.namespace).any(|h| host.subset_of(h))
    }

    fn virtual_service(&self, v: &ResolvedVirtualService) -> bool {
        let namespace = &v.config.namespace;
        v.hosts.iter().any(|h| {
            Self::of(&self.by_namespace, namespace).any(|w| h.matches(w))
                && !Self::of(&self.excluded, namespace).any(|e| h.subset_of(e))
        })
    }
}

fn listener(
    written: &api::networking::IstioEgressListener,
    namespace: &Arc<str>,
    visible: &[Arc<Service>],
    rules: &[Arc<ResolvedVirtualService>],
) -> EgressListener {
    let imports = Imports::new(&written.hosts, namespace);
    let port = written.port.as_ref().map(|p| EgressPort {
        number: u16::try_from(p.number).unwrap_or(0),
        name: p.name.clone(),
        protocol: PortProtocol::parse(&p.protocol),
    });
    let only_port = port_to_match(port.as_ref());
    let mut imported: Vec<Arc<Service>> = Vec::new();
    for service in visible.iter().filter(|s| imports.service(s)) {
        let service = match only_port {
            Some(port) => with_only_port(service, port),
            None => Some(service.clone()),
        };
        imported.extend(service);
    }
    // One namespace per host: the proxy's own if it is among them, else Kubernetes's, else the first.
    let mut chosen: BTreeMap<Hostname, (Arc<str>, Registry)> = BTreeMap::new();
    for s in &imported {
        let better = match chosen.get(&s.hostname) {
            None => true,
            Some((ns, registry)) => {
                **ns != **namespace
                    && (*s.namespace == **namespace
                        || (*registry != Registry::Kubernetes && s.registry == Registry::Kubernetes))
            }
        };
        if better {
            chosen.insert(s.hostname.clone(), (s.namespace.clone(), s.registry));
        }
    }
    imported.retain(|s| chosen.get(&s.hostname).is_some_and(|(ns, _)| *ns == s.namespace));
    EgressListener {
        port,
        bind: written.bind.clone(),
        capture_mode: written.capture_mode,
        services: Arc::new(imported),
        virtual_services: rules.iter().filter(|v| imports.virtual_service(v)).cloned().collect(),
    }
}

/// The `Sidecar` for a workload: one that selects it, else its namespace's default, else the root namespace's.
pub fn select_sidecar(
    sidecars: &[Arc<Config<Sidecar>>],
    namespace: &str,
    labels: &Labels,
    root_namespace: &str,
) -> Option<Arc<Config<Sidecar>>> {
    let selector =
        |c: &Config<Sidecar>| c.spec.workload_selector.as_ref().map(|s| s.labels.clone()).unwrap_or_default();
    let own = || sidecars.iter().filter(|c| *c.namespace == *namespace);
    let selecting = own().find(|c| {
        let s = selector(c);
        !s.is_empty() && s.subset_of(labels)
    });
    let default = |namespace: &str| sidecars.iter().find(|c| *c.namespace == *namespace && selector(c).is_empty());
    selecting.or_else(|| default(namespace)).or_else(|| default(root_namespace)).cloned()
}
