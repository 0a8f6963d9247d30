//! Does a `Sidecar` make sense?

use std::collections::{BTreeMap, BTreeSet};

use names::PortProtocol;

use super::Check;
use super::common::{UNIX, fqdn, ip_address, namespaced_host, port, port_name, unix_address, workload_selector};
use super::destination_rule::connection_pool;
use super::gateway::server_tls;
use crate::networking::{
    CaptureMode, IstioEgressListener, IstioIngressListener, OutboundTrafficPolicy, OutboundTrafficPolicyMode,
    ServerTls, ServerTlsMode, Sidecar, SidecarPort,
};

const LOCAL: [&str; 5] = ["", "127.0.0.1", "0.0.0.0", "::1", "::"];

/// Validates the whole resource.
pub fn sidecar(c: &mut Check, s: &Sidecar) {
    workload_selector(c, s.workload_selector.as_ref());
    c.error_if(
        s.egress.is_empty()
            && s.ingress.is_empty()
            && s.outbound_traffic_policy.is_none()
            && s.inbound_connection_pool.is_none(),
        "sidecar: empty configuration provided",
    );
    let mut ports = BTreeSet::new();
    c.each("ingress", &s.ingress, |c, i| {
        let Some(p) = &i.port else {
            return c.error("sidecar: port is required for ingress listeners");
        };
        c.error_if(!ports.insert(p.number), "sidecar: ports on IP bound listeners must be unique");
        ingress(c, i, p);
    });
    c.field("inboundConnectionPool", |c| connection_pool(c, s.inbound_connection_pool.as_ref()));
    egress(c, s);
    if let Some(policy) = &s.outbound_traffic_policy {
        c.field("outboundTrafficPolicy", |c| outbound_traffic_policy(c, policy));
    }
}

fn ingress(c: &mut Check, i: &IstioIngressListener, p: &SidecarPort) {
    c.check("port.number", port(p.number));
    if !p.name.is_empty() {
        c.check("port.name", port_name(&p.name));
    }
    if !i.bind.is_empty() {
        c.check("bind", ip_address(&i.bind));
    }
    let protocol = protocol(c, p);
    if p.target_port != 0 {
        c.field("port.targetPort", |c| c.warn("is accepted and has no effect"));
    }
    if !i.default_endpoint.is_empty() {
        c.check("defaultEndpoint", default_endpoint(&i.default_endpoint));
    }
    c.field("connectionPool", |c| connection_pool(c, i.connection_pool.as_ref()));
    if let Some(tls) = &i.tls {
        c.field("tls", |c| ingress_tls(c, tls, protocol));
    }
}

fn protocol(c: &mut Check, p: &SidecarPort) -> PortProtocol {
    let protocol = PortProtocol::parse(&p.protocol);
    let known = p.protocol.is_empty() || !protocol.is_unsupported();
    c.field("port.protocol", |c| c.error_if(!known, format!("invalid protocol {:?}", p.protocol)));
    protocol
}

fn default_endpoint(endpoint: &str) -> Result<(), String> {
    if let Some(path) = endpoint.strip_prefix(UNIX) {
        return unix_address(path);
    }
    let form = || {
        format!(
            "sidecar: defaultEndpoint {endpoint:?} must be of form 127.0.0.1:<port>, 0.0.0.0:<port>, [::1]:<port>, [::]:<port>, unix://filepath or unset"
        )
    };
    let (host, number) = endpoint.rsplit_once(':').ok_or_else(form)?;
    let bare = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(v6) => v6,
        None if host.contains(':') => return Err(form()),
        None => host,
    };
    if !LOCAL.contains(&bare) {
        return Err(form());
    }
    port(number.parse().map_err(|_| form())?)
}

fn ingress_tls(c: &mut Check, tls: &ServerTls, protocol: PortProtocol) {
    c.error_if(!tls.subject_alt_names.is_empty(), "sidecar: subjectAltNames is not supported in ingress tls");
    c.error_if(tls.https_redirect, "sidecar: httpsRedirect is not supported");
    c.error_if(
        !tls.credential_name.is_empty() || !tls.credential_names.is_empty(),
        "sidecar: credentialName is not supported (mount certificates and name their files)",
    );
    c.error_if(!tls.tls_certificates.is_empty(), "sidecar: tlsCertificates is not supported");
    c.error_if(
        matches!(tls.mode, ServerTlsMode::IstioMutual | ServerTlsMode::AutoPassthrough),
        format!("configuration is invalid: cannot set mode to {} in sidecar ingress tls", tls.mode),
    );
    c.error_if(!protocol.is_tls(), "server cannot have TLS settings for non HTTPS/TLS ports");
    server_tls(c, Some(tls));
}

fn egress(c: &mut Check, s: &Sidecar) {
    let (mut ports, mut sockets, mut catch_all) = (BTreeSet::new(), BTreeSet::new(), false);
    let last = s.egress.len().saturating_sub(1);
    let mut index = 0;
    c.each("egress", &s.egress, |c, e| {
        let is_last = index == last;
        index += 1;
        match &e.port {
            None => {
                c.error_if(catch_all, "sidecar: egress can have only one listener with empty port");
                c.error_if(
                    !is_last,
                    "sidecar: the egress listener with empty port should be the last listener in the list",
                );
                catch_all = true;
            }
            Some(p) if p.number == 0 => {
                c.error_if(!sockets.insert(&e.bind), "sidecar: unix domain socket values for listeners must be unique");
            }
            Some(p) => c.error_if(!ports.insert(p.number), "sidecar: ports on IP bound listeners must be unique"),
        }
        if let Some(p) = &e.port {
            egress_port(c, e, p);
        }
        egress_hosts(c, &e.hosts);
    });
}

fn egress_port(c: &mut Check, e: &IstioEgressListener, p: &SidecarPort) {
    if !p.name.is_empty() {
        c.check("port.name", port_name(&p.name));
    }
    protocol(c, p);
    if p.number == 0 {
        let path = e.bind.strip_prefix(UNIX).unwrap_or(&e.bind);
        c.check("bind", unix_address(path));
        c.error_if(
            !matches!(e.capture_mode, CaptureMode::Default | CaptureMode::None),
            "sidecar: captureMode must be DEFAULT/NONE for unix domain socket listeners",
        );
    } else {
        c.check("port.number", port(p.number));
        if !e.bind.is_empty() {
            c.check("bind", ip_address(&e.bind));
        }
    }
}

fn egress_hosts(c: &mut Check, hosts: &[String]) {
    c.error_if(hosts.is_empty(), "sidecar: egress listener must contain at least one host");
    let mut seen: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    c.each("hosts", hosts, |c, host| {
        c.result(namespaced_host(host, false));
        if let Some((namespace, name)) = host.split_once('/') {
            let names = seen.entry(namespace).or_default();
            if names.contains("*") || !names.insert(name) {
                c.warn(format!("duplicated egress host: {host}"));
            } else if name == "*" && names.len() > 1 {
                c.warn(format!(
                    "duplicated egress host: {host} selects what other entries of the namespace already select"
                ));
            }
        }
    });
    let everything = seen.get("*").is_some_and(|names| names.contains("*"));
    if everything && seen.keys().filter(|ns| !ns.starts_with('~')).count() > 1 {
        c.field("hosts", |c| c.warn("`*/*` host select all resources, no other hosts can be added"));
    }
}

/// What happens to unknown outbound traffic.
pub fn outbound_traffic_policy(c: &mut Check, policy: &OutboundTrafficPolicy) {
    let Some(proxy) = &policy.egress_proxy else {
        return;
    };
    c.error_if(
        policy.mode != OutboundTrafficPolicyMode::AllowAny,
        "sidecar: egress_proxy must be set only with ALLOW_ANY outbound_traffic_policy mode",
    );
    c.check("egressProxy.host", fqdn(&proxy.host));
    match &proxy.port {
        Some(p) => c.check("egressProxy.port.number", port(p.number)),
        None => c.error("sidecar: egress_proxy port must be set"),
    }
}
