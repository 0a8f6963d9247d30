//! Do a `ServiceEntry`, `WorkloadEntry` and `WorkloadGroup` make sense?

use std::collections::BTreeSet;

use names::{Labels, PortProtocol, is_ip};

use super::Check;
use super::common::{
    UNIX, export_to, fqdn, ip_subnet, labels, partial_wildcard, port, port_name, strict_header_name, unix_address,
    wildcard_domain, workload_selector,
};
use crate::networking::{Location, ReadinessProbe, Resolution, ServiceEntry, WorkloadEntry, WorkloadGroup};

/// CRD bounds.
const ENTRIES_MAX: usize = 256;

/// Validates the whole resource.
pub fn service_entry(c: &mut Check, se: &ServiceEntry, namespace: &str, meta_labels: &Labels) {
    workload_selector(c, se.workload_selector.as_ref());
    c.error_if(
        se.workload_selector.is_some() && !se.endpoints.is_empty(),
        "only one of WorkloadSelector or Endpoints can be set",
    );
    c.error_if(se.hosts.is_empty(), "hosts: Required value: a service entry must have at least one host");
    for (name, len) in [("hosts", se.hosts.len()), ("addresses", se.addresses.len()), ("ports", se.ports.len())] {
        c.field(name, |c| c.error_if(len > ENTRIES_MAX, format!("must have at most {ENTRIES_MAX} items")));
    }
    c.each("hosts", &se.hosts, |c, host| {
        if host == "*" {
            return c.error("hostname cannot be wildcard: invalid host *");
        }
        c.result(wildcard_domain(host));
        if let Err(message) = partial_wildcard(host) {
            c.warn(message);
        }
    });
    let mut cidr = false;
    c.each("addresses", &se.addresses, |c, address| {
        cidr |= address.contains('/');
        c.result(ip_subnet(address));
    });
    c.error_if(
        cidr && !matches!(se.resolution, Resolution::None | Resolution::Static),
        "CIDR addresses are allowed only for NONE/STATIC resolution types",
    );
    let names = ports(c, se);
    endpoints(c, se, &names);
    if se.resolution == Resolution::DynamicDns {
        dynamic_dns(c, se, meta_labels);
    }
    export_to(c, namespace, &se.export_to, true, false);
}

fn ports<'a>(c: &mut Check, se: &'a ServiceEntry) -> BTreeSet<&'a str> {
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    c.each("ports", &se.ports, |c, p| {
        c.error_if(!names.insert(p.name.as_str()), format!("Duplicate value: service entry port name {:?} already defined", p.name));
        c.error_if(
            !numbers.insert(p.number),
            format!("port number cannot be duplicated: service entry port {} already defined", p.number),
        );
        c.check("name", port_name(&p.name));
        c.check("number", port(p.number).map_err(|e| format!("port must be between 1-65535: {e}")));
        if p.target_port != 0 {
            c.check("targetPort", port(p.target_port).map_err(|e| format!("port must be between 1-65535: {e}")));
            if se.resolution == Resolution::None && p.target_port != p.number {
                c.field("targetPort", |c| c.warn("has no effect when resolution is NONE (the original port is kept)"));
            }
        }
        let protocol = PortProtocol::parse(&p.protocol);
        let known = p.protocol.is_empty() || !protocol.is_unsupported();
        c.field("protocol", |c| c.error_if(!known, format!("invalid protocol {:?}", p.protocol)));
        if se.addresses.is_empty() && se.resolution != Resolution::DynamicDns {
            let opaque = p.protocol.is_empty() || protocol == PortProtocol::Tcp;
            if opaque {
                c.field("protocol", |c| {
                    c.warn("addresses are required for ports serving TCP (or unset) protocol, unless they are allocated automatically");
                });
            }
        }
    });
    names
}

fn endpoints(c: &mut Check, se: &ServiceEntry, ports: &BTreeSet<&str>) {
    match se.resolution {
        Resolution::None => {
            if se.workload_selector.is_some() {
                c.field("workloadSelector", |c| c.warn("has no effect when resolution is NONE (use STATIC)"));
            }
            c.error_if(!se.endpoints.is_empty(), "NONE mode cannot set endpoints");
        }
        Resolution::Static => {
            let mut unix = false;
            c.each("endpoints", &se.endpoints, |c, e| {
                unix |= e.address.starts_with(UNIX);
                endpoint(c, e, Some(ports), false);
            });
            c.error_if(unix && se.ports.len() != 1, "exactly 1 service port required for unix endpoints");
        }
        Resolution::Dns | Resolution::DnsRoundRobin => {
            if se.endpoints.is_empty() && se.workload_selector.is_none() {
                c.each("hosts", &se.hosts, |c, host| {
                    let message = |e| {
                        format!(
                            "hosts must be FQDN if no endpoints are provided for resolution mode {}: {e}",
                            se.resolution
                        )
                    };
                    c.result(fqdn(host).map_err(message));
                });
            }
            c.error_if(
                se.resolution == Resolution::DnsRoundRobin && se.endpoints.len() > 1,
                "DNS_ROUND_ROBIN mode cannot have multiple endpoints",
            );
            c.each("endpoints", &se.endpoints, |c, e| {
                c.error_if(e.address.starts_with(UNIX), "unix endpoints need resolution STATIC");
                endpoint(c, e, Some(ports), true);
            });
        }
        Resolution::DynamicDns => {
            c.error_if(!se.endpoints.is_empty(), "endpoints must not be provided for resolution mode DYNAMIC_DNS");
        }
    }
}

fn dynamic_dns(c: &mut Check, se: &ServiceEntry, meta_labels: &Labels) {
    c.error_if(!se.addresses.is_empty(), "addresses must not be set for resolution mode DYNAMIC_DNS");
    c.error_if(se.workload_selector.is_some(), "workloadSelector must not be set for resolution mode DYNAMIC_DNS");
    c.each("hosts", &se.hosts, |c, host| {
        c.error_if(!host.starts_with("*."), "hosts must be wildcards (*.example.com) for resolution mode DYNAMIC_DNS");
    });
    c.each("ports", &se.ports, |c, p| {
        let protocol = PortProtocol::parse(&p.protocol);
        c.error_if(
            !protocol.is_http() && !protocol.is_tls(),
            format!(
                "protocol {:?} is not supported for resolution mode DYNAMIC_DNS (HTTP, HTTP2, GRPC, HTTPS or TLS)",
                p.protocol
            ),
        );
    });
    c.error_if(
        se.location == Location::MeshInternal && meta_labels.contains_key("istio.io/use-waypoint"),
        "MESH_INTERNAL with a waypoint is not supported for resolution mode DYNAMIC_DNS",
    );
}

fn endpoint(c: &mut Check, e: &WorkloadEntry, ports: Option<&BTreeSet<&str>>, names_allowed: bool) {
    if let Some(path) = e.address.strip_prefix(UNIX) {
        c.check("address", unix_address(path));
        c.error_if(!e.ports.is_empty(), format!("unix endpoint {} must not include ports", e.address));
    } else if e.address.is_empty() {
        if e.network.is_empty() {
            c.error("address is required");
        } else {
            c.field("address", |c| {
                c.warn("is unset with a network set: the endpoint is only reached through a gateway of that network")
            });
        }
    } else if !is_ip(&e.address) {
        let name = if names_allowed { fqdn(&e.address) } else { Err(String::new()) };
        let what = if names_allowed { "valid FQDN or an IP address" } else { "valid IP address" };
        c.check("address", name.map_err(|_| format!("endpoint address {:?} is not a {what}", e.address)));
    }
    for (name, number) in &e.ports {
        c.field(&format!("ports.{name}"), |c| {
            if let Some(ports) = ports {
                c.error_if(
                    !ports.contains(name.as_str()),
                    format!("endpoint port {name} is not defined by the service entry"),
                );
            }
            c.result(port_name(name));
            c.result(port(*number));
        });
    }
    c.check("labels", labels(&e.labels));
}

/// A workload by itself; its address may be a name.
pub fn workload_entry(c: &mut Check, e: &WorkloadEntry, needs_address: bool) {
    if needs_address || !e.address.is_empty() {
        endpoint(c, e, None, true);
    } else {
        for (name, number) in &e.ports {
            c.check(&format!("ports.{name}"), port(*number));
        }
        c.check("labels", labels(&e.labels));
    }
}

/// A template of workloads.
pub fn workload_group(c: &mut Check, group: &WorkloadGroup) {
    match &group.template {
        Some(template) => c.field("template", |c| workload_entry(c, template, false)),
        None => c.error("template is required"),
    }
    if let Some(meta) = &group.metadata {
        c.check("metadata.labels", labels(&meta.labels));
    }
    if let Some(p) = &group.probe {
        c.field("probe", |c| probe(c, p));
    }
}

/// A readiness probe.
pub fn probe(c: &mut Check, p: &ReadinessProbe) {
    for (name, value) in [
        ("initialDelaySeconds", p.initial_delay_seconds),
        ("timeoutSeconds", p.timeout_seconds),
        ("periodSeconds", p.period_seconds),
        ("successThreshold", p.success_threshold),
        ("failureThreshold", p.failure_threshold),
    ] {
        super::common::not_negative(c, name, value);
    }
    let checked = |number| port(number).map_err(|e| format!("port must be between 1-65535: {e}"));
    if let Some(http) = &p.http_get {
        c.field("httpGet", |c| {
            c.check("port", checked(http.port));
            let scheme = matches!(http.scheme.as_str(), "" | "HTTP" | "HTTPS" | "http" | "https");
            c.error_if(!scheme, format!("scheme must be one of [HTTP, HTTPS] (it is {:?})", http.scheme));
            c.each("httpHeaders", &http.http_headers, |c, h| c.check("name", strict_header_name(&h.name)));
        });
    }
    if let Some(tcp) = &p.tcp_socket {
        c.check("tcpSocket.port", checked(tcp.port));
    }
    if let Some(exec) = &p.exec {
        c.field("exec", |c| c.error_if(exec.command.is_empty(), "command is required"));
    }
    if let Some(grpc) = &p.grpc {
        c.check("grpc.port", checked(grpc.port));
    }
    let none = p.http_get.is_none() && p.tcp_socket.is_none() && p.exec.is_none() && p.grpc.is_none();
    c.error_if(none, "a probe needs one of httpGet, tcpSocket, exec, grpc");
}
