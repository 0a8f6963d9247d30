//! Which names does the agent answer (NDS)? Every visible service with its addresses; headless services with their
//! pods, and each pod of them by its own name. Follows `pkg/dns/server`.

use model::{Health, Registry, Resolution, Service, service::UNSPECIFIED};
use protos::istio::networking::nds::v1::{NameTable, name_table::NameInfo};

use crate::Inputs;

/// The table of one proxy.
pub fn build(inputs: &Inputs) -> NameTable {
    let mut out = NameTable::default();
    for service in inputs.scope().services.iter() {
        let addresses = addresses(inputs, service);
        if addresses.is_empty() {
            continue;
        }
        let name = |hostname: &str, ips: Vec<String>, short: String| {
            let kubernetes = service.registry == Registry::Kubernetes;
            let info = NameInfo {
                ips,
                registry: service.registry.as_str().to_owned(),
                shortname: if kubernetes { short } else { String::new() },
                namespace: if kubernetes { service.namespace.to_string() } else { String::new() },
                alt_hosts: Vec::new(),
            };
            (hostname.to_owned(), info)
        };
        if service.is_headless() {
            for e in inputs.snapshot().endpoints_of(service).iter() {
                let w = &e.workload;
                if w.hostname.is_empty() || *w.subdomain != *service.name {
                    continue;
                }
                let host = format!("{}.{}", w.hostname, service.hostname);
                let short = format!("{}.{}", w.hostname, w.subdomain);
                let (key, info) = name(&host, vec![e.address.to_string()], short);
                out.table.insert(key, info);
            }
        }
        let (key, info) = name(&service.hostname, addresses, service.name.to_string());
        // The first declaration of a host wins, as in clusters.
        out.table.entry(key).or_insert(info);
    }
    for service in inputs.scope().services.iter() {
        let Some(target) = &service.external_name else {
            continue;
        };
        if let Some(info) = out.table.get(target.as_str()).cloned() {
            out.table.entry(service.hostname.to_string()).or_insert(info);
        }
    }
    out
}

fn addresses(inputs: &Inputs, service: &Service) -> Vec<String> {
    let vips = service.addresses_for(inputs.proxy().reach());
    let plain: Vec<String> = vips.iter().filter(|a| !a.contains('/') && *a != UNSPECIFIED).cloned().collect();
    if !plain.is_empty() || service.resolution != Resolution::Passthrough || service.registry != Registry::Kubernetes {
        return plain;
    }
    let endpoints = inputs.snapshot().endpoints_of(service);
    let ready = endpoints.iter().filter(|e| service.publish_not_ready || e.health == Health::Healthy);
    let mut ips: Vec<String> = ready.map(|e| e.address.to_string()).collect();
    ips.sort();
    ips.dedup();
    ips
}
