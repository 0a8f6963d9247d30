//! Do the mesh-wide settings make sense? `MeshConfig`, the `ProxyConfig` message and resource, extension providers.

use std::collections::BTreeSet;

use names::is_ip;

use super::Check;
use super::common::{
    duration, fqdn, ip_subnet, is_dns_label, label_selector, not_negative, optional_duration, percent, port,
    wildcard_domain,
};
use super::destination_rule::{client_tls, connection_pool, locality_lb, outlier_detection, zone_aware_lb};
use super::http_route::retry;
use super::service_entry::probe;
use crate::mesh::{
    ConnectionSettings, DefaultTrafficPolicy, ExtensionProvider, MeshConfig, PrivateKeyProvider, ProxyConfig,
    ProxyTracing,
};
use crate::mesh_networks::MeshNetworks;
use crate::networking::{self, HttpRetry};
use crate::scalar::Duration;

/// The `ProxyConfig` resource.
pub fn proxy_config_resource(c: &mut Check, p: &networking::ProxyConfig) {
    if let Some(selector) = &p.selector {
        label_selector(c, "selector", Some(selector));
        for key in selector.match_labels.keys() {
            c.error_if(key.is_empty(), "key must not be empty");
        }
    }
    c.field("concurrency", |c| {
        c.error_if(p.concurrency.is_some_and(|n| n < 0), "in body should be greater than or equal to 0");
    });
}

/// The mesh configuration.
pub fn mesh_config(c: &mut Check, m: &MeshConfig) {
    let number =
        |n: i32| u32::try_from(n).map_err(|_| format!("port number {n} must be in the range 1..65535")).and_then(port);
    c.check("proxyListenPort", number(m.proxy_listen_port));
    c.check("proxyInboundListenPort", number(m.proxy_inbound_listen_port));
    if let Some(timeout) = m.connect_timeout {
        c.check("connectTimeout", connect_timeout(timeout));
    }
    if let Some(timeout) = m.protocol_detection_timeout {
        c.check("protocolDetectionTimeout", protocol_detection_timeout(timeout));
    }
    if let Some(config) = &m.default_config {
        c.field("defaultConfig", |c| proxy_config(c, config));
    }
    c.field("localityLbSetting", |c| locality_lb(c, m.locality_lb_setting.as_ref(), true));
    c.field("zoneAwareLbSetting", |c| zone_aware_lb(c, m.zone_aware_lb_setting.as_ref(), true));
    c.field("defaultTrafficPolicy", |c| default_traffic_policy(c, m.default_traffic_policy.as_ref()));
    c.field("defaultHttpRetryPolicy", |c| retry(c, m.default_http_retry_policy.as_ref()));
    c.field("defaultInboundHttpRetryPolicy", |c| inbound_retry(c, m.default_inbound_http_retry_policy.as_ref()));
    c.check("trustDomain", trust_domain(&m.trust_domain));
    c.each("trustDomainAliases", &m.trust_domain_aliases, |c, td| c.result(trust_domain(td)));
    c.each("serviceSettings", &m.service_settings, |c, s| service_hosts(c, &s.hosts));
    let mut seen = BTreeSet::new();
    c.each("extensionProviders", &m.extension_providers, |c, p| {
        c.error_if(!seen.insert(p.name.as_str()), format!("duplicate extension provider name {}", p.name));
        extension_provider(c, p);
    });
    let defaults = m.default_providers.clone().unwrap_or_default();
    for (field, list) in
        [("tracing", defaults.tracing), ("metrics", defaults.metrics), ("accessLogging", defaults.access_logging)]
    {
        for name in list {
            let known = m.extension_providers.iter().any(|p| p.name == name);
            c.field(&format!("defaultProviders.{field}"), |c| {
                c.error_if(!known, format!("extension provider {name:?} is not defined"))
            });
        }
    }
}

/// Hosts of service settings.
pub fn service_hosts(c: &mut Check, hosts: &[String]) {
    c.each("hosts", hosts, |c, host| c.result(wildcard_domain(host)));
}

/// Upstream connect timeout: 1 ms to 1 h.
pub fn connect_timeout(d: Duration) -> Result<(), String> {
    duration(d)?;
    if d > Duration::from_secs(3600) || d < Duration::from_millis(1) {
        return Err(format!("time {d} must be >1ms and <1h"));
    }
    Ok(())
}

/// Sniffing timeout: zero or 10 ms to 60 s.
pub fn protocol_detection_timeout(d: Duration) -> Result<(), String> {
    if d.is_zero() {
        return Ok(());
    }
    duration(d)
}

/// Keep-alive age of server connections.
pub fn max_server_connection_age(d: Duration) -> Result<(), String> {
    duration(d)
}

/// Drain time: whole seconds, above zero.
pub fn drain_duration(d: Duration) -> Result<(), String> {
    duration(d).map_err(|e| format!("invalid drain duration: {e}"))?;
    if d.as_nanos() % 1_000_000_000 != 0 {
        return Err("drain time only supports durations to seconds precision".into());
    }
    Ok(())
}

/// A trust domain.
pub fn trust_domain(domain: &str) -> Result<(), String> {
    if domain.is_empty() {
        return Err("empty domain name not allowed".into());
    }
    for (i, label) in domain.split('.').enumerate() {
        let trailing = label.is_empty() && i > 0 && domain.ends_with('.');
        let plain = label.replace('_', "");
        if !trailing && !is_dns_label(if plain.is_empty() { label } else { &plain }) {
            return Err(format!("trust domain {domain:?} invalid (part {label:?} invalid)"));
        }
    }
    Ok(())
}

/// `host:port`; the host is a name, an address, or `$(VARIABLE)`.
pub fn proxy_address(address: &str) -> Result<(), String> {
    let (host, number) =
        address.rsplit_once(':').ok_or_else(|| format!("unable to split {address:?}: missing port in address"))?;
    number.parse().map_err(|_| format!("port ({number}) is not a number")).and_then(port)?;
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    let variable = host.starts_with("$(") && host.ends_with(')');
    if variable || is_ip(bare) {
        Ok(())
    } else {
        fqdn(host).map_err(|e| format!("{host:?} is not a valid host name or an IP address: {e}"))
    }
}

/// The proxy's start-up settings.
pub fn proxy_config(c: &mut Check, p: &ProxyConfig) {
    c.error_if(p.config_path.is_empty(), "configPath: config path must be set");
    c.error_if(p.binary_path.is_empty(), "binaryPath: binary path must be set");
    if p.tracing_service_name.is_none() {
        c.error_if(
            p.service_cluster.as_deref().unwrap_or_default().is_empty(),
            "serviceCluster: service cluster must be set",
        );
    }
    match p.drain_duration {
        Some(d) => c.check("drainDuration", drain_duration(d)),
        None => c.error("drainDuration: required"),
    }
    c.check("discoveryAddress", proxy_address(&p.discovery_address));
    c.check("terminationDrainDuration", optional_duration(p.termination_drain_duration));
    if let Some(tracing) = &p.tracing {
        c.field("tracing", |c| proxy_tracing(c, tracing));
    }
    for (name, address) in [
        ("statsdUdpAddress", p.statsd_udp_address.as_str()),
        ("envoyMetricsServiceAddress", &p.envoy_metrics_service_address),
        ("zipkinAddress", &p.zipkin_address),
        ("envoyMetricsService.address", p.envoy_metrics_service.as_ref().map_or("", |s| &s.address)),
        ("envoyAccessLogService.address", p.envoy_access_log_service.as_ref().map_or("", |s| &s.address)),
    ] {
        if !address.is_empty() {
            c.check(name, proxy_address(address));
        }
    }
    let number =
        |n: i32| u32::try_from(n).map_err(|_| format!("port number {n} must be in the range 1..65535")).and_then(port);
    c.check("proxyAdminPort", number(p.proxy_admin_port));
    c.check("statusPort", number(p.status_port));
    if let Some(concurrency) = p.concurrency {
        not_negative(c, "concurrency", concurrency);
    }
    if let Some(provider) = &p.private_key_provider {
        c.field("privateKeyProvider", |c| private_key_provider(c, provider));
    }
    if let Some(p) = &p.readiness_probe {
        c.field("readinessProbe", |c| probe(c, p));
    }
    if let Some(settings) = &p.connection_settings {
        c.field("connectionSettings", |c| connection_settings(c, settings));
    }
}

fn proxy_tracing(c: &mut Check, t: &ProxyTracing) {
    if let Some(zipkin) = &t.zipkin {
        c.check("zipkin.address", proxy_address(&zipkin.address));
    }
    if let Some(lightstep) = &t.lightstep {
        c.check("lightstep.address", proxy_address(&lightstep.address));
        c.error_if(lightstep.access_token.is_empty(), "lightstep.accessToken: access token is required");
    }
    if let Some(datadog) = &t.datadog {
        c.check("datadog.address", proxy_address(&datadog.address));
    }
    c.check("sampling", percent(t.sampling));
    for (name, tag) in &t.custom_tags {
        c.field(&format!("customTags.{name}"), |c| {
            let none = tag.literal.is_none() && tag.environment.is_none() && tag.header.is_none();
            c.error_if(none, "one of literal, environment, header must be set");
            c.error_if(tag.literal.as_ref().is_some_and(|l| l.value.is_empty()), "literal value must be set");
            c.error_if(tag.environment.as_ref().is_some_and(|e| e.name.is_empty()), "environment name must be set");
            c.error_if(tag.header.as_ref().is_some_and(|h| h.name.is_empty()), "header name must be set");
        });
    }
    c.field("tlsSettings", |c| client_tls(c, t.tls_settings.as_ref()));
}

fn private_key_provider(c: &mut Check, p: &PrivateKeyProvider) {
    let delays =
        [("cryptomb", p.cryptomb.as_ref().map(|x| x.poll_delay)), ("qat", p.qat.as_ref().map(|x| x.poll_delay))];
    for (name, delay) in delays.into_iter().filter_map(|(n, d)| Some((n, d?))) {
        let positive = delay.is_some_and(|d| d.as_nanos() > 0);
        c.field(&format!("{name}.pollDelay"), |c| {
            c.error_if(!positive, "pollDelay is required and must be above zero")
        });
    }
    c.error_if(p.cryptomb.is_none() && p.qat.is_none(), "one of cryptomb, qat must be set");
}

/// Connection handling settings.
pub fn connection_settings(c: &mut Check, s: &ConnectionSettings) {
    for (name, value) in [
        ("listenerPerConnectionBufferLimitBytes", s.listener_per_connection_buffer_limit_bytes),
        ("clusterPerConnectionBufferLimitBytes", s.cluster_per_connection_buffer_limit_bytes),
        ("httpMaxConcurrentStreams", s.http_max_concurrent_streams),
        ("listenerConnectionLimit", s.listener_connection_limit),
        ("globalDownstreamConnectionLimit", s.global_downstream_connection_limit),
    ] {
        if let Some(value) = value {
            not_negative(c, name, value);
        }
    }
    /// HTTP/2's smallest initial window.
    const WINDOW_MIN: i32 = 65_535;
    for (name, value) in [
        ("http2InitialStreamWindowSize", s.http2_initial_stream_window_size),
        ("http2InitialConnectionWindowSize", s.http2_initial_connection_window_size),
    ] {
        let small = value.is_some_and(|v| v < WINDOW_MIN);
        c.field(name, |c| c.error_if(small, format!("must be in the range {WINDOW_MIN}..{}", i32::MAX)));
    }
    for (name, value) in [
        ("httpIdleTimeout", s.http_idle_timeout),
        ("httpMaxConnectionDuration", s.http_max_connection_duration),
        ("httpDrainTimeout", s.http_drain_timeout),
        ("httpRequestTimeout", s.http_request_timeout),
        ("httpRequestHeadersTimeout", s.http_request_headers_timeout),
        ("httpStreamIdleTimeout", s.http_stream_idle_timeout),
        ("httpMaxStreamDuration", s.http_max_stream_duration),
    ] {
        let negative = value.is_some_and(|d| d.as_nanos() < 0);
        c.field(name, |c| c.error_if(negative, "must not be negative"));
    }
}

/// Mesh defaults for outbound clusters.
pub fn default_traffic_policy(c: &mut Check, policy: Option<&DefaultTrafficPolicy>) {
    let Some(p) = policy else { return };
    c.field("connectionPool", |c| connection_pool(c, p.connection_pool.as_ref()));
    c.field("outlierDetection", |c| outlier_detection(c, p.outlier_detection.as_ref()));
}

/// Inbound retries.
pub fn inbound_retry(c: &mut Check, policy: Option<&HttpRetry>) {
    let Some(p) = policy else { return };
    let mut checked = p.clone();
    for (name, set) in [
        ("retryRemoteLocalities", checked.retry_remote_localities.take().is_some()),
        ("retryIgnorePreviousHosts", checked.retry_ignore_previous_hosts.take().is_some()),
    ] {
        if set {
            c.field(name, |c| c.warn("is ignored for inbound retries"));
        }
    }
    retry(c, Some(&checked));
}

/// The service of a provider: `[namespace/]host`.
pub fn provider_service(service: &str) -> Result<(), String> {
    if service.is_empty() {
        return Err("service must not be empty".into());
    }
    let host = match service.split_once('/') {
        Some((namespace, host)) => {
            if !is_dns_label(namespace) {
                return Err(format!("invalid namespace {namespace:?} in service {service:?}"));
            }
            host
        }
        None => service,
    };
    if is_ip(host) { Ok(()) } else { fqdn(host) }
}

fn service_and_port(c: &mut Check, service: &str, number: u32) {
    c.check("service", provider_service(service));
    c.check("port", port(number));
}

/// One extension provider.
pub fn extension_provider(c: &mut Check, p: &ExtensionProvider) {
    c.error_if(p.name.is_empty(), "name: must not be empty");
    if let Some(x) = &p.envoy_ext_authz_http {
        c.field("envoyExtAuthzHttp", |c| {
            service_and_port(c, &x.service, x.port);
            c.check("timeout", optional_duration(x.timeout));
            status_on_error(c, &x.status_on_error);
            let prefix = x.path_prefix.as_str();
            c.error_if(!prefix.is_empty() && !prefix.starts_with('/'), "pathPrefix: must start with /");
        });
    }
    if let Some(x) = &p.envoy_ext_authz_grpc {
        c.field("envoyExtAuthzGrpc", |c| {
            service_and_port(c, &x.service, x.port);
            c.check("timeout", optional_duration(x.timeout));
            status_on_error(c, &x.status_on_error);
        });
    }
    let services = [
        ("zipkin", p.zipkin.as_ref().map(|x| (x.service.as_str(), x.port))),
        ("lightstep", p.lightstep.as_ref().map(|x| (x.service.as_str(), x.port))),
        ("datadog", p.datadog.as_ref().map(|x| (x.service.as_str(), x.port))),
        ("opencensus", p.opencensus.as_ref().map(|x| (x.service.as_str(), x.port))),
        ("skywalking", p.skywalking.as_ref().map(|x| (x.service.as_str(), x.port))),
        ("opentelemetry", p.opentelemetry.as_ref().map(|x| (x.service.as_str(), x.port))),
        ("envoyHttpAls", p.envoy_http_als.as_ref().map(|x| (x.service.as_str(), x.port))),
        ("envoyTcpAls", p.envoy_tcp_als.as_ref().map(|x| (x.service.as_str(), x.port))),
        ("envoyOtelAls", p.envoy_otel_als.as_ref().map(|x| (x.service.as_str(), x.port))),
        ("sds", p.sds.as_ref().map(|x| (x.service.as_str(), x.port))),
    ];
    for (name, (service, number)) in services.into_iter().filter_map(|(n, s)| Some((n, s?))) {
        c.field(name, |c| service_and_port(c, service, number));
    }
    let tokenless = p.lightstep.as_ref().is_some_and(|l| l.access_token.is_empty());
    c.error_if(tokenless, "lightstep.accessToken: access token is required");
    if let Some(otel) = &p.opentelemetry {
        c.field("opentelemetry", |c| {
            c.error_if(otel.http.is_some() && otel.grpc.is_some(), "only one of http or grpc may be set");
            if let Some(http) = &otel.http {
                c.error_if(http.path.is_empty(), "http.path: must not be empty");
                c.check("http.timeout", optional_duration(http.timeout));
                c.each("http.headers", &http.headers, |c, h| {
                    c.error_if(h.name.is_empty(), "name: must not be empty");
                    c.error_if(h.value.is_none() && h.env_name.is_none(), "one of value or envName must be set");
                });
            }
        });
    }
    if let Some(file) = &p.envoy_file_access_log {
        c.error_if(file.path.is_empty(), "envoyFileAccessLog.path: must not be empty");
    }
}

fn status_on_error(c: &mut Check, status: &str) {
    if !status.is_empty() {
        let ok = status.parse::<u32>().is_ok_and(|s| (100..600).contains(&s));
        c.field("statusOnError", |c| c.error_if(!ok, format!("{status:?} is not an HTTP status code")));
    }
}

/// Networks of the mesh.
pub fn mesh_networks(c: &mut Check, m: &MeshNetworks) {
    for (name, network) in &m.networks {
        c.field(&format!("networks.{name}"), |c| {
            c.each("endpoints", &network.endpoints, |c, e| {
                if let Some(cidr) = &e.from_cidr {
                    c.check("fromCidr", ip_subnet(cidr));
                }
                if let Some(registry) = &e.from_registry {
                    let ok = is_dns_label(registry);
                    c.field("fromRegistry", |c| c.error_if(!ok, format!("invalid registry name: {registry}")));
                }
                c.error_if(
                    e.from_cidr.is_none() && e.from_registry.is_none(),
                    "one of fromCidr, fromRegistry must be set",
                );
            });
            c.each("gateways", &network.gateways, |c, g| {
                if let Some(service) = &g.registry_service_name {
                    c.check("registryServiceName", fqdn(service));
                }
                if let Some(address) = &g.address {
                    c.check("address", if is_ip(address) { Ok(()) } else { fqdn(address) });
                }
                c.check("port", port(g.port));
            });
        });
    }
}
