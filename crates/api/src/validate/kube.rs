//! Do a `Service` and a pod's specification make sense, as far as a mesh needs them to? The API server's rules are
//! its own; these are the ones whose breach would be confusing later.

use std::collections::BTreeSet;

use names::is_ip;

use super::Check;
use super::common::{fqdn, port};
use crate::kube::{PodSpec, ServiceSpec, ServiceType};

/// A service.
pub fn service(c: &mut Check, s: &ServiceSpec) {
    if s.kind == ServiceType::ExternalName {
        c.check("externalName", fqdn(&s.external_name));
        return;
    }
    c.error_if(s.ports.is_empty() && !s.is_headless(), "ports: a service needs at least one port");
    let ip = s.cluster_ip.as_str();
    c.field("clusterIP", |c| {
        c.error_if(!matches!(ip, "" | "None") && !is_ip(ip), format!("{ip:?} is neither an IP address nor None"))
    });
    let several = s.ports.len() > 1;
    let mut seen = BTreeSet::new();
    c.each("ports", &s.ports, |c, p| {
        c.check(
            "port",
            u32::try_from(p.port)
                .map_err(|_| format!("port number {} must be in the range 1..65535", p.port))
                .and_then(port),
        );
        c.error_if(several && p.name.is_empty(), "name: required when a service has several ports");
        c.error_if(!seen.insert((p.port, p.protocol.as_str())), format!("port {} is defined twice", p.port));
        let known = matches!(p.protocol.as_str(), "" | "TCP" | "UDP" | "SCTP");
        c.field("protocol", |c| c.error_if(!known, format!("{:?} is not one of TCP, UDP, SCTP", p.protocol)));
    });
}

/// A pod.
pub fn pod(c: &mut Check, spec: &PodSpec) {
    c.error_if(spec.containers.is_empty(), "containers: a pod needs at least one container");
    let mut seen = BTreeSet::new();
    for (field, list) in [("initContainers", &spec.init_containers), ("containers", &spec.containers)] {
        c.each(field, list, |c, container| {
            c.error_if(container.name.is_empty(), "name: required");
            c.error_if(
                !seen.insert(container.name.as_str()),
                format!("container {:?} is defined twice", container.name),
            );
        });
    }
}
