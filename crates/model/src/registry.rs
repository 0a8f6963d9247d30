//! Which services and endpoints do resources declare? Kubernetes services with their pods or slices, and service
//! entries with their inline, selected or resolved endpoints. Pure functions over the resource table.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::kube::{self, ServiceType};
use api::networking::{Location, Resolution as Written, ServiceEntry, WorkloadEntry};
use api::{Body, IntOrString, Resource};
use names::{Hostname, Kind, Labels, LabelsExt, PortProtocol, ResourceKey};

use crate::endpoint::{
    Endpoint, Health, ServiceEndpoints, TLS_MODE_ISTIO, TLS_MODE_LABEL, Workload, labels_speak_mtls,
};
use crate::index::Index;
use crate::mesh::MeshConfig;
use crate::service::{Port, Registry, Resolution, Service, ServiceKey, TargetPort, TrafficDistribution, Visibility};

/// All resources, by key.
pub type Resources = BTreeMap<ResourceKey, Resource>;

/// Annotation with the visibility of a Kubernetes service.
const EXPORT_TO: &str = "networking.istio.io/exportTo";
/// Annotation with the traffic distribution of a service.
const TRAFFIC_DISTRIBUTION: &str = "networking.istio.io/traffic-distribution";

/// Resources of a kind, optionally of one namespace.
pub fn of_kind<'a>(
    resources: &'a Resources,
    kind: &Kind,
    namespace: Option<&str>,
) -> impl Iterator<Item = &'a Resource> + use<'a> {
    let start = ResourceKey { kind: kind.clone(), namespace: namespace.unwrap_or_default().into(), name: "".into() };
    let (kind, namespace) = (kind.clone(), namespace.map(str::to_owned));
    resources
        .range(start..)
        .map(|(_, r)| r)
        .take_while(move |r| r.key().kind == kind && namespace.as_deref().is_none_or(|ns| r.meta.namespace() == ns))
}

/// Microseconds since 1970; 0 when unknown.
pub fn created_us(resource: &Resource) -> i64 {
    resource.meta.creation_timestamp.map_or(0, |t| t.as_microsecond())
}

/// Services declared by one resource: none, one, or one per host of a service entry.
pub fn services_of(resource: &Resource, mesh: &MeshConfig) -> Vec<Service> {
    match &resource.body {
        Body::Service(s) => vec![kube_service(resource, s, mesh)],
        Body::ServiceEntry(s) => entry_services(resource, s, mesh),
        _ => Vec::new(),
    }
}

/// Preference for near endpoints: the specification's, else the service's annotation, else its namespace's.
pub fn distribution(spec: Option<&str>, annotation: Option<&str>, namespace: Option<&str>) -> TrafficDistribution {
    match spec.or(annotation).or(namespace).unwrap_or_default().to_ascii_lowercase().as_str() {
        "preferclose" | "prefersamezone" => TrafficDistribution::PreferSameZone,
        "prefersamenode" => TrafficDistribution::PreferSameNode,
        _ => TrafficDistribution::Any,
    }
}

fn kube_service(resource: &Resource, service: &kube::Service, mesh: &MeshConfig) -> Service {
    let (meta, spec) = (&resource.meta, &service.spec);
    let hostname = Hostname::service(meta.name(), meta.namespace(), &mesh.domain);
    let alias = spec.kind == ServiceType::ExternalName && !spec.external_name.is_empty();
    let mut addresses: Vec<String> = spec.cluster_ips.clone();
    if addresses.is_empty() && !spec.cluster_ip.is_empty() {
        addresses.push(spec.cluster_ip.clone());
    }
    addresses.retain(|a| crate::service::is_plain_ip(a));
    let resolution = if alias {
        Resolution::Alias
    } else if spec.is_headless() {
        Resolution::Passthrough
    } else {
        Resolution::ClientSideLb
    };
    let ports = spec.ports.iter().filter_map(|p| {
        let number = u16::try_from(p.port).ok()?;
        let target = match &p.target_port {
            Some(IntOrString::Int(n)) if *n > 0 => TargetPort::Number(u16::try_from(*n).ok()?),
            Some(IntOrString::Str(s)) => {
                s.parse().map_or_else(|_| TargetPort::Name(s.as_str().into()), TargetPort::Number)
            }
            _ => TargetPort::Number(number),
        };
        Some(Port { name: p.name.as_str().into(), number, protocol: p.protocol(), target })
    });
    let export: Vec<String> = meta
        .annotations
        .get(EXPORT_TO)
        .map(|e| e.split(',').map(|s| s.trim().to_owned()).filter(|s| !s.is_empty()).collect())
        .unwrap_or_default();
    Service {
        name: meta.key.name.clone(),
        resource: meta.key.name.clone(),
        namespace: meta.key.namespace.clone(),
        registry: Registry::Kubernetes,
        ports: ports.collect(),
        addresses,
        auto_addresses: Vec::new(),
        resolution,
        mesh_external: false,
        external_name: alias.then(|| Hostname::from(spec.external_name.as_str())),
        aliases: Vec::new(),
        visibility: Visibility::parse(&export, &mesh.default_service_export_to, meta.namespace()),
        labels: meta.labels.clone(),
        selector: (!spec.selector.is_empty()).then(|| spec.selector.clone()),
        subject_alt_names: annotation_list(
            &meta.annotations,
            "alpha.istio.io/kubernetes-serviceaccounts",
            meta.namespace(),
            mesh,
        ),
        traffic_distribution: distribution(
            spec.traffic_distribution.as_deref(),
            meta.annotations.get(TRAFFIC_DISTRIBUTION).map(String::as_str),
            None,
        ),
        publish_not_ready: spec.publish_not_ready_addresses,
        created_us: created_us(resource),
        hostname,
    }
}

/// Service accounts named by an annotation, as identities.
fn annotation_list(annotations: &Labels, key: &str, namespace: &str, mesh: &MeshConfig) -> Vec<String> {
    let list = annotations.get(key).map_or("", String::as_str);
    let accounts = list.split(',').map(str::trim).filter(|s| !s.is_empty());
    accounts.map(|sa| names::Identity::new(&mesh.trust_domain, namespace, sa).to_string()).collect()
}

fn entry_services(resource: &Resource, entry: &ServiceEntry, mesh: &MeshConfig) -> Vec<Service> {
    let meta = &resource.meta;
    let resolution = match entry.resolution {
        Written::None => Resolution::Passthrough,
        Written::Static => Resolution::ClientSideLb,
        Written::Dns => Resolution::DnsLb,
        Written::DnsRoundRobin => Resolution::DnsRoundRobin,
        Written::DynamicDns => Resolution::DynamicDns,
    };
    let ports: Vec<Port> = entry
        .ports
        .iter()
        .filter_map(|p| {
            let number = u16::try_from(p.number).ok()?;
            let target = u16::try_from(p.target_port).ok().filter(|t| *t > 0).unwrap_or(number);
            Some(Port {
                name: p.name.as_str().into(),
                number,
                protocol: PortProtocol::parse(&p.protocol),
                target: TargetPort::Number(target),
            })
        })
        .collect();
    // A full-length prefix is an address.
    let addresses: Vec<String> = entry
        .addresses
        .iter()
        .filter_map(|a| match a.parse::<ipnet::IpNet>() {
            Ok(net) if net.prefix_len() == net.max_prefix_len() => Some(net.addr().to_string()),
            Ok(_) => Some(a.clone()),
            Err(_) => crate::service::is_plain_ip(a).then(|| a.clone()),
        })
        .collect();
    let hosts = entry.hosts.iter().map(|host| Service {
        hostname: host.as_str().into(),
        name: host.as_str().into(),
        resource: meta.key.name.clone(),
        namespace: meta.key.namespace.clone(),
        registry: Registry::External,
        ports: ports.clone(),
        addresses: addresses.clone(),
        auto_addresses: assigned_addresses(resource, host),
        resolution,
        mesh_external: entry.location == Location::MeshExternal,
        external_name: None,
        aliases: Vec::new(),
        visibility: Visibility::parse(&entry.export_to, &mesh.default_service_export_to, meta.namespace()),
        labels: meta.labels.clone(),
        selector: entry.workload_selector.as_ref().map(|s| s.labels.clone()),
        subject_alt_names: entry.subject_alt_names.clone(),
        traffic_distribution: distribution(None, meta.annotations.get(TRAFFIC_DISTRIBUTION).map(String::as_str), None),
        publish_not_ready: false,
        created_us: created_us(resource),
    });
    hosts.collect()
}

/// Addresses that an allocation controller wrote into `status.addresses`.
fn assigned_addresses(resource: &Resource, host: &str) -> Vec<String> {
    let list = resource.raw.pointer("/status/addresses").and_then(|v| v.as_array());
    let list = list.map(Vec::as_slice).unwrap_or_default();
    let of_host =
        |a: &&serde_json::Value| a.get("host").and_then(|h| h.as_str()).is_none_or(|h| h.is_empty() || h == host);
    list.iter().filter(of_host).filter_map(|a| a.get("value")?.as_str().map(str::to_owned)).collect()
}

/// Whether an address is allocated for a service: a service entry without one, unless its connections keep their
/// destination anyway.
pub fn wants_address(s: &Service) -> bool {
    s.registry == Registry::External
        && s.addresses.is_empty()
        && s.resolution != Resolution::Passthrough
        && (!s.hostname.is_wildcard() || s.resolution == Resolution::DynamicDns)
}

/// Gives every service entry without an address one of 240.240.0.0/16, by the hash of its identity; collisions
/// move to the next free one, older entries first.
pub fn allocate_addresses(services: &mut [Service]) {
    const SIZE: u32 = 0xffff;
    let mut taken: BTreeSet<u32> = BTreeSet::new();
    let offset = |a: &String| -> Option<u32> {
        let ip: std::net::Ipv4Addr = a.parse().ok()?;
        let [240, 240, c, d] = ip.octets() else {
            return None;
        };
        Some(u32::from(c) << 8 | u32::from(d))
    };
    taken.extend(services.iter().flat_map(|s| s.auto_addresses.iter().filter_map(offset)));
    for s in services.iter_mut() {
        if !wants_address(s) || !s.auto_addresses.is_empty() {
            continue;
        }
        let hash = xxhash_rust::xxh64::xxh64(format!("{}/{}", s.namespace, s.hostname).as_bytes(), 0);
        let mut at = u32::try_from(hash % u64::from(SIZE)).expect("below 65535");
        let mut tries = 0;
        while (taken.contains(&at) || at & 0xff == 0 || at & 0xff == 0xff) && tries < SIZE {
            at = (at + 1) % SIZE;
            tries += 1;
        }
        if tries < SIZE {
            taken.insert(at);
            s.auto_addresses = vec![format!("240.240.{}.{}", at >> 8, at & 0xff)];
        }
    }
}

/// Endpoints of a service.
pub fn endpoints_of(service: &Service, resources: &Resources, index: &Index) -> ServiceEndpoints {
    let mut out = match service.registry {
        Registry::Kubernetes => kube_endpoints(service, resources, index),
        Registry::External => entry_endpoints(service, resources, index),
    };
    out.sort_by(|a, b| (&a.service_port, &a.address, a.port).cmp(&(&b.service_port, &b.address, b.port)));
    out.dedup_by(|a, b| (&a.service_port, &a.address, a.port) == (&b.service_port, &b.address, b.port));
    out
}

fn kube_endpoints(service: &Service, resources: &Resources, index: &Index) -> ServiceEndpoints {
    if service.resolution == Resolution::Alias {
        return Vec::new();
    }
    let mut out = Vec::new();
    let slices = index.slices(&service.namespace, &service.name).filter_map(|k| resources.get(k));
    let mut from_slices = false;
    for slice in slices {
        from_slices = true;
        if let Body::EndpointSlice(s) = &slice.body {
            out.extend(slice_endpoints(service, s, resources));
        }
    }
    let Some(selector) = &service.selector else {
        return out;
    };
    if !from_slices {
        for pod in index.candidates(&service.namespace, selector, &Kind::Pod, resources) {
            if selector.subset_of(&pod.meta.labels) {
                pod_endpoints(service, pod, resources, &mut out);
            }
        }
    }
    selected_entries(service, selector, resources, index, &mut out);
    out
}

fn slice_endpoints(service: &Service, slice: &kube::EndpointSlice, resources: &Resources) -> ServiceEndpoints {
    let mut out = Vec::new();
    for e in &slice.endpoints {
        let workload = match e.target_ref.as_ref().filter(|t| t.kind == "Pod") {
            Some(target) => {
                let ns = if target.namespace.is_empty() { &*service.namespace } else { &target.namespace };
                resources.get(&ResourceKey::new(Kind::Pod, ns, &target.name)).and_then(|p| pod_workload(p, resources))
            }
            None => e.addresses.first().and_then(|ip| pod_by_ip(ip, &service.namespace, resources)),
        };
        let workload = workload
            .unwrap_or_else(|| Arc::new(Workload { namespace: service.namespace.clone(), ..Default::default() }));
        let c = &e.conditions;
        let health = match (c.ready.unwrap_or(true), c.serving.unwrap_or(true), c.terminating.unwrap_or(false)) {
            (true, ..) => Health::Healthy,
            (false, true, true) => Health::Draining,
            _ => Health::Unhealthy,
        };
        for p in &slice.ports {
            let Ok(number) = u16::try_from(p.port) else {
                continue;
            };
            if service.port_named(&p.name).is_none() && !(p.name.is_empty() && service.ports.len() == 1) {
                continue;
            }
            let name = if p.name.is_empty() { service.ports[0].name.clone() } else { p.name.as_str().into() };
            for address in &e.addresses {
                out.push(Endpoint {
                    address: address.as_str().into(),
                    port: number,
                    service_port: name.clone(),
                    workload: workload.clone(),
                    health,
                    weight: 0,
                });
            }
        }
    }
    out
}

fn pod_by_ip(ip: &str, namespace: &str, resources: &Resources) -> Option<Arc<Workload>> {
    of_kind(resources, &Kind::Pod, Some(namespace))
        .find(|r| matches!(&r.body, Body::Pod(p) if p.status.pod_ip == ip))
        .and_then(|r| pod_workload(r, resources))
}

/// Addresses of a pod, first one preferred.
fn pod_ips(pod: &kube::Pod) -> Vec<&str> {
    let mut ips: Vec<&str> = pod.status.pod_ips.iter().map(|i| i.ip.as_str()).filter(|i| !i.is_empty()).collect();
    if ips.is_empty() && !pod.status.pod_ip.is_empty() {
        ips.push(&pod.status.pod_ip);
    }
    ips
}

fn pod_endpoints(service: &Service, resource: &Resource, resources: &Resources, out: &mut ServiceEndpoints) {
    let Body::Pod(pod) = &resource.body else {
        return;
    };
    if matches!(pod.status.phase.as_str(), "Succeeded" | "Failed") {
        return;
    }
    let ips = pod_ips(pod);
    let (Some(ip), Some(workload)) = (ips.first(), pod_workload(resource, resources)) else {
        return;
    };
    let health = match (resource.meta.deleted, pod.status.is_ready() || service.publish_not_ready) {
        (true, _) => Health::Draining,
        (false, true) => Health::Healthy,
        (false, false) => Health::Unhealthy,
    };
    for p in &service.ports {
        let port = match &p.target {
            TargetPort::Number(n) => Some(*n),
            TargetPort::Name(name) => container_port(pod, name),
        };
        let Some(port) = port else { continue };
        out.push(Endpoint {
            address: (*ip).into(),
            port,
            service_port: p.name.clone(),
            workload: workload.clone(),
            health,
            weight: 0,
        });
    }
}

/// The number of a named container port; sidecar containers count.
pub fn container_port(pod: &kube::Pod, name: &str) -> Option<u16> {
    let sidecars = pod.spec.init_containers.iter().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let found = pod.spec.containers.iter().chain(sidecars).flat_map(|c| &c.ports).find(|p| p.name == name)?;
    u16::try_from(found.container_port).ok()
}

/// What is known of a pod's workload.
pub fn pod_workload(resource: &Resource, resources: &Resources) -> Option<Arc<Workload>> {
    let Body::Pod(pod) = &resource.body else {
        return None;
    };
    let meta = &resource.meta;
    let node = resources.get(&ResourceKey::new(Kind::Node, "", &pod.spec.node_name));
    let network = meta.labels.get("topology.istio.io/network").map_or("", String::as_str);
    Some(Arc::new(Workload {
        pod: meta.key.name.clone(),
        name: workload_name(resource).into(),
        namespace: meta.key.namespace.clone(),
        speaks_mtls: labels_speak_mtls(&meta.labels),
        service_account: pod.spec.service_account().into(),
        locality: locality(&meta.labels, node).into(),
        network: network.into(),
        node: pod.spec.node_name.as_str().into(),
        hostname: pod.spec.hostname.as_str().into(),
        subdomain: pod.spec.subdomain.as_str().into(),
        labels: meta.labels.clone(),
    }))
}

fn workload_name(resource: &Resource) -> String {
    match resource.meta.owner.as_deref() {
        Some(owner) if owner.kind == "ReplicaSet" => {
            owner.name.rsplit_once('-').map_or(owner.name.as_str(), |(base, _)| base).to_owned()
        }
        Some(owner) => owner.name.clone(),
        None => resource.meta.name().to_owned(),
    }
}

fn locality(labels: &Labels, node: Option<&Resource>) -> String {
    if let Some(own) = labels.get("istio-locality") {
        return if own.contains('/') { own.clone() } else { own.replace('.', "/") };
    }
    let Some(node) = node else {
        return String::new();
    };
    let text = |k: &str| node.meta.labels.get(k).map_or("", String::as_str);
    let parts =
        [text("topology.kubernetes.io/region"), text("topology.kubernetes.io/zone"), text("topology.istio.io/subzone")];
    let used = parts.iter().rposition(|p| !p.is_empty()).map_or(0, |i| i + 1);
    parts[..used].join("/")
}

/// Workload entries that a service selects.
fn selected_entries(
    service: &Service,
    selector: &Labels,
    resources: &Resources,
    index: &Index,
    out: &mut ServiceEndpoints,
) {
    for resource in index.candidates(&service.namespace, selector, &Kind::WorkloadEntry, resources) {
        let Body::WorkloadEntry(entry) = &resource.body else {
            continue;
        };
        let mut labels = entry.labels.clone();
        labels.extend(resource.meta.labels.clone());
        if selector.subset_of(&labels) {
            let name = resource.meta.name();
            out.extend(entry_endpoint(service, entry, &labels, name));
        }
    }
}

/// A workload entry (or inline endpoint) as endpoints of each service port.
fn entry_endpoint(service: &Service, entry: &WorkloadEntry, labels: &Labels, name: &str) -> ServiceEndpoints {
    let speaks_mtls = match labels.get(TLS_MODE_LABEL) {
        Some(mode) => mode == TLS_MODE_ISTIO,
        None => !entry.service_account.is_empty(),
    };
    let locality = if entry.locality.is_empty() {
        labels.get("istio-locality").map_or(String::new(), |l| l.replace('.', "/"))
    } else {
        entry.locality.clone()
    };
    let network = match entry.network.as_str() {
        "" => labels.get("topology.istio.io/network").map_or("", String::as_str),
        n => n,
    };
    let workload = Arc::new(Workload {
        pod: name.into(),
        name: name.into(),
        namespace: service.namespace.clone(),
        service_account: entry.service_account.as_str().into(),
        locality: locality.into(),
        network: network.into(),
        speaks_mtls,
        labels: labels.clone(),
        ..Default::default()
    });
    let unix = entry.address.starts_with("unix://");
    let ports = service.ports.iter().map(|p| {
        let stated = entry.ports.get(&*p.name).and_then(|n| u16::try_from(*n).ok());
        let target = match &p.target {
            TargetPort::Number(n) => *n,
            TargetPort::Name(_) => p.number,
        };
        Endpoint {
            address: entry.address.as_str().into(),
            port: if unix { 0 } else { stated.unwrap_or(target) },
            service_port: p.name.clone(),
            workload: workload.clone(),
            health: Health::Healthy,
            weight: entry.weight,
        }
    });
    ports.collect()
}

fn entry_endpoints(service: &Service, resources: &Resources, index: &Index) -> ServiceEndpoints {
    let mut out = Vec::new();
    // The service entry of this service: several may declare the host, the oldest of the namespace is meant.
    let entry = index
        .owners(&service.key())
        .filter_map(|k| resources.get(k))
        .filter_map(|r| match &r.body {
            Body::ServiceEntry(e) => Some((r, e)),
            _ => None,
        })
        .find(|(r, _)| created_us(r) == service.created_us);
    let Some((resource, entry)) = entry else { return out };
    if let Some(selector) = &service.selector {
        for pod in index.candidates(&service.namespace, selector, &Kind::Pod, resources) {
            if selector.subset_of(&pod.meta.labels) {
                pod_endpoints(service, pod, resources, &mut out);
            }
        }
        selected_entries(service, selector, resources, index, &mut out);
        return out;
    }
    // Endpoints without a name of their own bear the entry's, as the workload in telemetry.
    let name = resource.meta.name();
    for (n, endpoint) in entry.endpoints.iter().enumerate() {
        out.extend(entry_endpoint(service, endpoint, &endpoint.labels, &format!("{name}-{n}")));
    }
    let by_dns = matches!(service.resolution, Resolution::DnsLb | Resolution::DnsRoundRobin);
    if entry.endpoints.is_empty() && by_dns && !service.hostname.is_wildcard() {
        let itself = WorkloadEntry { address: service.hostname.to_string(), ..Default::default() };
        out.extend(entry_endpoint(service, &itself, &Labels::new(), name));
    }
    out
}

/// Services whose endpoints may change with a resource, given its labels before and after.
pub fn affected_services<'a>(
    services: impl Iterator<Item = &'a Arc<Service>>,
    namespace: &str,
    labels: &[Labels],
) -> BTreeSet<ServiceKey> {
    services
        .filter(|s| *s.namespace == *namespace)
        .filter(|s| s.selector.as_ref().is_some_and(|sel| labels.iter().any(|l| sel.subset_of(l))))
        .map(|s| s.key())
        .collect()
}
