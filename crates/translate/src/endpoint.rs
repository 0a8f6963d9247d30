//! Which endpoints does a cluster have (EDS, and the inline ones of DNS clusters)? Filtered by subset, grouped by
//! locality, marked with the TLS mode that each one speaks.

use api::destination_rule::TrafficPolicy;
use model::service::TrafficDistribution;
use model::{Endpoint, Health, Port, Service, Workload};
use names::{ClusterName, LabelsExt};
use protos::envoy::config::core::v3 as core;
use protos::envoy::config::endpoint::v3 as endpoint;

use crate::Inputs;
use crate::cluster::{locality, policy};
use crate::load::Writer;
use crate::locality::Group;
use crate::wire::{address, object, text_value};

/// The cluster of a proxy's own replicas in its bootstrap (`ISTIO_META_ENABLE_SELF_DISCOVERY`): how they are spread over the
/// zones decides how much traffic stays in the own one.
pub const LOCAL_CLUSTER: &str = "local_cluster";

/// The endpoints of a cluster by its name; `None` when this proxy has no such cluster.
pub fn load_assignment(inputs: &Inputs, name: &str) -> Option<endpoint::ClusterLoadAssignment> {
    if name == LOCAL_CLUSTER {
        return Some(replicas(inputs));
    }
    of_cluster(inputs, name, |groups| message(inputs, name, groups))
}

/// The same, encoded.
pub(crate) fn encoded(inputs: &Inputs, writer: &mut Writer<'_>, name: &str) -> Option<Vec<u8>> {
    of_cluster(inputs, name, |groups| writer.assignment(name, &groups))
}

fn of_cluster<T>(inputs: &Inputs, name: &str, then: impl FnOnce(Vec<Group<'_>>) -> T) -> Option<T> {
    let (cluster, sni) = match name.parse::<ClusterName>() {
        Ok(c) => (c, false),
        Err(_) => (ClusterName::from_sni(name).ok()?, true),
    };
    let service = inputs.view.service(&cluster.host)?;
    let port = service.port(cluster.port)?;
    let rule = inputs.scope().rule(&service.hostname, &inputs.proxy().labels, false);
    let top = rule.and_then(|r| r.config.spec.traffic_policy.as_ref());
    let base = policy::for_port(top, port.number);
    let subset = rule.and_then(|r| r.config.spec.subsets.iter().find(|s| s.name == cluster.subset));
    let merged = policy::for_subset(base, subset.and_then(|s| s.traffic_policy.as_ref()), port.number);
    Some(with_groups(inputs, &service, port, &cluster.subset, merged.as_ref(), sni, then))
}

/// The proxy's replicas: endpoints of the first service that it serves, as far as they are of its region, its workload and
/// its version (a rollout's replicas have a hash of their own). Empty for a proxy that serves nothing, so that it does not
/// wait for an answer. Rules for the service's clients do not matter.
///
/// Follows: Istio's self-discovery cluster.
fn replicas(inputs: &Inputs) -> endpoint::ClusterLoadAssignment {
    let Some(target) = inputs.view.targets.first() else { return message(inputs, LOCAL_CLUSTER, Vec::new()) };
    let proxy = inputs.proxy();
    let region = |locality: &str| locality.split('/').next().unwrap_or_default().to_owned();
    let (own, workload) = (region(&proxy.locality), proxy.metadata_text("WORKLOAD_NAME"));
    let all = inputs.snapshot().endpoints_of(&target.service);
    let chosen: Vec<&Endpoint> = all
        .iter()
        .filter(|e| e.service_port == target.port.name && e.health == Health::Healthy)
        .filter(|e| region(&e.workload.locality) == own)
        .filter(|e| workload.is_empty() || *e.workload.name == *workload)
        .filter(|e| e.workload.labels.get(POD_HASH) == proxy.labels.get(POD_HASH))
        .collect();
    // All of one priority, however clients of the service prefer their own zone.
    let plain = Service { traffic_distribution: TrafficDistribution::Any, ..(*target.service).clone() };
    let groups = crate::locality::group(&chosen, proxy, &plain, None, false);
    message(inputs, LOCAL_CLUSTER, groups)
}

/// Label that tells the replicas of one version of a deployment.
const POD_HASH: &str = "pod-template-hash";

/// Whether the endpoints of a service's clusters differ between clients that have the same rule for it.
pub(crate) fn depends_on_client(
    inputs: &Inputs,
    service: &Service,
    rule: Option<&model::destination_rule::MergedRule>,
) -> bool {
    let spec = rule.map(|r| &r.config.spec);
    let top = spec.and_then(|s| s.traffic_policy.as_ref());
    let of_subsets = spec.into_iter().flat_map(|s| &s.subsets).filter_map(|s| s.traffic_policy.as_ref());
    let policies: Vec<&TrafficPolicy> = top.into_iter().chain(of_subsets).collect();
    // Port levels too: any of them may say where to go first.
    let ports = policies.iter().flat_map(|p| &p.port_level_settings);
    let lbs = policies.iter().map(|p| p.load_balancer.as_ref()).chain(ports.clone().map(|p| p.load_balancer.as_ref()));
    let failover =
        policies.iter().any(|p| p.outlier_detection.is_some()) || ports.clone().any(|p| p.outlier_detection.is_some());
    let depends = |lb| {
        let setting = crate::locality::setting(inputs.mesh(), lb);
        crate::locality::depends_on_client(service, setting, failover)
    };
    depends(None) || lbs.into_iter().any(depends)
}

/// The endpoints of a DNS cluster, for inlining.
pub(crate) fn inline(
    inputs: &Inputs,
    service: &Service,
    port: &Port,
    subset: &str,
    name: &str,
    policy: Option<&TrafficPolicy>,
) -> endpoint::ClusterLoadAssignment {
    with_groups(inputs, service, port, subset, policy, false, |groups| message(inputs, name, groups))
}

/// What a cluster's endpoints are, grouped for this client.
fn with_groups<T>(
    inputs: &Inputs,
    service: &Service,
    port: &Port,
    subset: &str,
    policy: Option<&TrafficPolicy>,
    only_mtls: bool,
    then: impl FnOnce(Vec<Group<'_>>) -> T,
) -> T {
    let all = inputs.snapshot().endpoints_of(service);
    let labels = inputs
        .scope()
        .rule(&service.hostname, &inputs.proxy().labels, false)
        .and_then(|r| r.config.spec.subsets.iter().find(|s| s.name == subset).map(|s| s.labels.clone()));
    // Those that are not ready are sent as such (`PILOT_AUTO_SEND_UNHEALTHY_ENDPOINTS`), unless a share of healthy hosts is
    // asked for: below it they would get traffic.
    let panics = policy.and_then(|p| p.outlier_detection.as_ref()).is_some_and(|o| o.min_health_percent > 0);
    let chosen: Vec<&Endpoint> = all
        .iter()
        .filter(|e| e.service_port == port.name)
        .filter(|e| e.health == Health::Healthy || (e.health == Health::Unhealthy && !panics))
        .filter(|e| labels.as_ref().is_none_or(|l| l.subset_of(&e.workload.labels)))
        .filter(|e| !only_mtls || e.workload.speaks_mtls)
        .collect();
    let lb = policy.and_then(|p| p.load_balancer.as_ref());
    let setting = crate::locality::setting(inputs.mesh(), lb);
    let failover = policy.is_some_and(|p| p.outlier_detection.is_some());
    let switched_off = lb.and_then(|l| l.locality_lb_setting.as_ref()).is_some_and(|s| s.enabled == Some(false));
    let groups = crate::locality::group(&chosen, inputs.proxy(), service, setting, failover && !switched_off);
    then(groups)
}

fn message(inputs: &Inputs, name: &str, groups: Vec<Group<'_>>) -> endpoint::ClusterLoadAssignment {
    let endpoints = groups.into_iter().map(|g| endpoint::LocalityLbEndpoints {
        locality: Some(locality(&g.locality)),
        lb_endpoints: g.endpoints.iter().map(|e| lb_endpoint(e, &inputs.proxy().cluster_id)).collect(),
        load_balancing_weight: Some(g.weight),
        priority: g.priority,
        ..Default::default()
    });
    endpoint::ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: endpoints.collect(),
        ..Default::default()
    }
}

fn lb_endpoint(e: &Endpoint, cluster: &str) -> endpoint::LbEndpoint {
    endpoint::LbEndpoint {
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint::Endpoint {
            address: Some(address(&e.address, e.port.into())),
            ..Default::default()
        })),
        health_status: match e.health {
            Health::Unhealthy => core::HealthStatus::Unhealthy as i32,
            Health::Healthy | Health::Draining => core::HealthStatus::Unknown as i32,
        },
        metadata: metadata(&e.workload, cluster),
        load_balancing_weight: Some(e.weight.max(1)),
    }
}

/// `envoy.transport_socket_match` for mTLS, and `istio.workload` = `name;namespace;canonical name;revision;cluster`.
///
/// Every endpoint is of the one cluster that the mesh knows, which is the proxy's.
pub fn metadata(w: &Workload, cluster: &str) -> Option<core::Metadata> {
    let mut out = core::Metadata::default();
    if w.speaks_mtls {
        out.filter_metadata.insert("envoy.transport_socket_match".to_owned(), crate::cluster::mtls_match());
    }
    let mut text = String::new();
    workload_text(&mut text, w, cluster);
    out.filter_metadata.insert("istio".to_owned(), object([("workload", text_value(text))]));
    Some(out)
}

/// The text of `istio.workload`, in place of what `out` holds.
pub(crate) fn workload_text(out: &mut String, w: &Workload, cluster: &str) {
    let label = |keys: &[&str]| keys.iter().find_map(|k| w.labels.get(*k)).map_or("", String::as_str);
    let parts = if w.name.is_empty() {
        ["", &w.namespace, "", "", cluster]
    } else {
        let canonical = label(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]);
        let canonical = if canonical.is_empty() { &*w.name } else { canonical };
        let revision = label(&["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]);
        // What stands for no revision is not sent.
        let revision = if revision == "latest" { "" } else { revision };
        [&w.name, &w.namespace, canonical, revision, cluster]
    };
    out.clear();
    for (n, part) in parts.into_iter().enumerate() {
        if n > 0 {
            out.push(';');
        }
        out.push_str(part);
    }
}
