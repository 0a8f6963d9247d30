//! What holds for the whole mesh? `MeshConfig` and the default `ProxyConfig`, read leniently from JSON with Istio's
//! defaults. Absent: fields that belong to the agent or the installer only; they stay in `raw`.

use std::time::Duration;

use api::destination_rule::{LocalityLoadBalancerSetting, TrafficPolicy, ZoneAwareLoadBalancerSetting};
use api::networking::HttpRetry;
use serde_json::Value;

/// What happens to outbound traffic without a known destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum OutboundMode {
    /// Only known destinations.
    RegistryOnly,
    /// Unknown destinations pass through.
    #[default]
    AllowAny,
}

impl OutboundMode {
    /// Reads `REGISTRY_ONLY` and `ALLOW_ANY` (also `ALLOW_ANY_DYNAMIC_DNS`).
    pub fn parse(text: &str) -> Self {
        if text == "REGISTRY_ONLY" { OutboundMode::RegistryOnly } else { OutboundMode::AllowAny }
    }
}

/// `pathNormalization.normalization`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum PathNormalization {
    /// Paths are used as sent.
    None,
    /// RFC 3986 normalisation.
    #[default]
    Base,
    /// And adjacent slashes merge.
    MergeSlashes,
    /// And escaped slashes are decoded first.
    DecodeAndMergeSlashes,
}

/// TCP keep-alive settings, in seconds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct TcpKeepalive {
    /// Probes before giving up; 0 means the system's default, as for the others.
    pub probes: u32,
    /// Idle time before the first probe.
    pub time_s: u32,
    /// Time between probes.
    pub interval_s: u32,
}

/// A named provider of access logs, traces, metrics or external authorization.
#[derive(Clone, Debug, PartialEq)]
pub struct ExtensionProvider {
    /// The name that policies refer to.
    pub name: String,
    /// The field that says what kind it is, such as `envoyFileAccessLog`.
    pub kind: String,
    /// Settings of that kind.
    pub config: Value,
}

/// `defaultProviders`: names per signal.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct DefaultProviders {
    /// Tracers.
    pub tracing: Vec<String>,
    /// Metrics.
    pub metrics: Vec<String>,
    /// Access logs.
    pub access_logging: Vec<String>,
}

/// Settings of the mesh. Follows `istio.mesh.v1alpha1.MeshConfig`.
#[derive(Clone, Debug, PartialEq)]
pub struct MeshConfig {
    /// Port of `virtualOutbound`.
    pub proxy_listen_port: u16,
    /// Port of `virtualInbound`.
    pub proxy_inbound_listen_port: u16,
    /// Port of the HTTP proxy listener; 0 for none.
    pub proxy_http_port: u16,
    /// Connect timeout of clusters.
    pub connect_timeout: Duration,
    /// Time to wait for the first bytes when sniffing; zero waits for ever.
    pub protocol_detection_timeout: Duration,
    /// DNS refresh rate of DNS clusters.
    pub dns_refresh_rate: Duration,
    /// Keep-alive of upstream connections.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Namespace whose policies apply everywhere.
    pub root_namespace: String,
    /// Trust domain.
    pub trust_domain: String,
    /// Other names of the trust domain.
    pub trust_domain_aliases: Vec<String>,
    /// Cluster domain.
    pub domain: String,
    /// mTLS to workloads that speak it, without being told.
    pub enable_auto_mtls: bool,
    /// Unknown outbound destinations.
    pub outbound_traffic_policy: OutboundMode,
    /// Inbound traffic keeps its destination address (else it goes to localhost).
    pub inbound_passthrough: bool,
    /// Access log path; empty for none.
    pub access_log_file: String,
    /// Access log format; empty for the default.
    pub access_log_format: String,
    /// Access logs in JSON.
    pub access_log_json: bool,
    /// Listener-level access logs do not report errors.
    pub disable_envoy_listener_log: bool,
    /// Tracing without Telemetry resources.
    pub enable_tracing: bool,
    /// Visibility of services that do not say.
    pub default_service_export_to: Vec<String>,
    /// Visibility of virtual services that do not say.
    pub default_virtual_service_export_to: Vec<String>,
    /// Visibility of destination rules that do not say.
    pub default_destination_rule_export_to: Vec<String>,
    /// `defaultHttpRetryPolicy`.
    pub default_http_retry_policy: Option<HttpRetry>,
    /// Retries towards the application when no route says.
    pub default_inbound_http_retry_policy: Option<HttpRetry>,
    /// `defaultTrafficPolicy`.
    pub default_traffic_policy: Option<TrafficPolicy>,
    /// `localityLbSetting`.
    pub locality_lb_setting: Option<LocalityLoadBalancerSetting>,
    /// Zone-aware routing of all services; excludes locality load balancing.
    pub zone_aware_lb_setting: Option<ZoneAwareLoadBalancerSetting>,
    /// Upgrade HTTP/1.1 ports to HTTP/2 between proxies.
    pub h2_upgrade: bool,
    /// Stat name pattern of outbound clusters.
    pub outbound_cluster_stat_name: String,
    /// Stat name pattern of inbound clusters.
    pub inbound_cluster_stat_name: String,
    /// `onDemandVirtualHosts`: proxies that can get virtual hosts of outbound ports one by one. Not Istio's.
    pub on_demand_virtual_hosts: bool,
    /// Path normalisation.
    pub path_normalization: PathNormalization,
    /// Providers that policies refer to.
    pub extension_providers: Vec<ExtensionProvider>,
    /// Providers used without Telemetry resources.
    pub default_providers: DefaultProviders,
    /// Minimum TLS version between workloads: `TLSV1_2` (default) or `TLSV1_3`.
    pub mesh_mtls_tls13: bool,
    /// Cipher suites between workloads; empty for the default.
    pub mesh_mtls_cipher_suites: Vec<String>,
    /// Curves between workloads.
    pub mesh_mtls_ecdh_curves: Vec<String>,
    /// Cipher suites elsewhere.
    pub tls_default_cipher_suites: Vec<String>,
    /// Curves elsewhere.
    pub tls_default_ecdh_curves: Vec<String>,
    /// Minimum TLS version elsewhere is 1.3.
    pub tls_default_tls13: bool,
    /// Class of Ingress resources served.
    pub ingress_class: String,
    /// Gateways get clusters of services that they send to only. Not part of the message: the control plane is told so.
    pub filter_gateway_clusters: bool,
    /// Default `ProxyConfig`, as written.
    pub default_config: Value,
    /// Everything, as written.
    pub raw: Value,
}

impl Default for MeshConfig {
    fn default() -> Self {
        MeshConfig::from_json(&Value::Null)
    }
}

impl MeshConfig {
    /// Reads a mesh configuration; absent or malformed fields take Istio's defaults.
    pub fn from_json(value: &Value) -> Self {
        let text = |path: &str| value.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let or = |text: String, default: &str| {
            if text.is_empty() { default.to_owned() } else { text }
        };
        let port = |key: &str, default: u16| {
            value.get(key).and_then(Value::as_u64).and_then(|p| u16::try_from(p).ok()).unwrap_or(default)
        };
        let duration = |key: &str| value.get(key).and_then(Value::as_str).and_then(duration_of);
        let flag = |key: &str, default: bool| value.get(key).and_then(Value::as_bool).unwrap_or(default);
        let list = |path: &str| strings(value.pointer(path));
        let export = |key: &str| {
            let l = strings(value.get(key));
            if l.is_empty() { vec!["*".to_owned()] } else { l }
        };
        MeshConfig {
            proxy_listen_port: port("proxyListenPort", names::ports::OUTBOUND_CAPTURE),
            proxy_inbound_listen_port: port("proxyInboundListenPort", names::ports::INBOUND_CAPTURE),
            proxy_http_port: port("proxyHttpPort", 0),
            connect_timeout: duration("connectTimeout").unwrap_or(Duration::from_secs(10)),
            protocol_detection_timeout: duration("protocolDetectionTimeout").unwrap_or_default(),
            dns_refresh_rate: duration("dnsRefreshRate").unwrap_or(Duration::from_secs(60)),
            tcp_keepalive: value.get("tcpKeepalive").map(TcpKeepalive::from_json),
            root_namespace: or(text("/rootNamespace"), names::well_known::ISTIO_SYSTEM),
            trust_domain: or(text("/trustDomain"), names::well_known::CLUSTER_LOCAL),
            trust_domain_aliases: list("/trustDomainAliases"),
            domain: or(text("/domain"), names::well_known::CLUSTER_LOCAL),
            enable_auto_mtls: flag("enableAutoMtls", true),
            outbound_traffic_policy: OutboundMode::parse(&text("/outboundTrafficPolicy/mode")),
            inbound_passthrough: text("/inboundTrafficPolicy/mode") != "LOCALHOST",
            access_log_file: text("/accessLogFile"),
            access_log_format: text("/accessLogFormat"),
            access_log_json: text("/accessLogEncoding") == "JSON",
            disable_envoy_listener_log: flag("disableEnvoyListenerLog", false),
            enable_tracing: flag("enableTracing", false),
            default_service_export_to: export("defaultServiceExportTo"),
            default_virtual_service_export_to: export("defaultVirtualServiceExportTo"),
            default_destination_rule_export_to: export("defaultDestinationRuleExportTo"),
            default_http_retry_policy: typed(value.get("defaultHttpRetryPolicy")),
            default_inbound_http_retry_policy: typed(value.get("defaultInboundHttpRetryPolicy")),
            default_traffic_policy: typed(value.get("defaultTrafficPolicy")),
            locality_lb_setting: typed(value.get("localityLbSetting")),
            zone_aware_lb_setting: typed(value.get("zoneAwareLbSetting")),
            h2_upgrade: text("/h2UpgradePolicy") == "UPGRADE",
            outbound_cluster_stat_name: text("/outboundClusterStatName"),
            inbound_cluster_stat_name: text("/inboundClusterStatName"),
            on_demand_virtual_hosts: flag("onDemandVirtualHosts", false),
            path_normalization: match text("/pathNormalization/normalization").as_str() {
                "NONE" => PathNormalization::None,
                "MERGE_SLASHES" => PathNormalization::MergeSlashes,
                "DECODE_AND_MERGE_SLASHES" => PathNormalization::DecodeAndMergeSlashes,
                _ => PathNormalization::Base,
            },
            extension_providers: providers(value),
            default_providers: DefaultProviders {
                tracing: list("/defaultProviders/tracing"),
                // As every installation sets it; an explicit empty list means none.
                metrics: match value.pointer("/defaultProviders/metrics") {
                    Some(_) => list("/defaultProviders/metrics"),
                    None => vec!["prometheus".to_owned()],
                },
                access_logging: list("/defaultProviders/accessLogging"),
            },
            mesh_mtls_tls13: text("/meshMTLS/minProtocolVersion") == "TLSV1_3",
            mesh_mtls_cipher_suites: list("/meshMTLS/cipherSuites"),
            mesh_mtls_ecdh_curves: list("/meshMTLS/ecdhCurves"),
            tls_default_cipher_suites: list("/tlsDefaults/cipherSuites"),
            tls_default_ecdh_curves: list("/tlsDefaults/ecdhCurves"),
            tls_default_tls13: text("/tlsDefaults/minProtocolVersion") == "TLSV1_3",
            ingress_class: or(text("/ingressClass"), "istio"),
            filter_gateway_clusters: false,
            default_config: value.get("defaultConfig").cloned().unwrap_or(Value::Null),
            raw: value.clone(),
        }
    }

    /// How many percent of requests are traced where neither the mesh nor a proxy says; what is no percentage is ignored.
    pub fn set_default_sampling(&mut self, percent: f64) {
        let unstated =
            self.default_config.pointer("/tracing/sampling").and_then(Value::as_f64).is_none_or(|s| s == 0.0);
        if unstated && (0.0..=100.0).contains(&percent) {
            self.default_config["tracing"]["sampling"] = percent.into();
        }
    }

    /// The provider with this name.
    pub fn provider(&self, name: &str) -> Option<&ExtensionProvider> {
        self.extension_providers.iter().find(|p| p.name == name)
    }
}

impl TcpKeepalive {
    /// Reads `{probes, time, interval}`.
    pub fn from_json(value: &Value) -> Self {
        let seconds = |key: &str| {
            let parsed = value.get(key).and_then(Value::as_str).and_then(duration_of);
            parsed.map_or(0, |d| u32::try_from(d.as_secs()).unwrap_or(u32::MAX))
        };
        TcpKeepalive {
            probes: value.get("probes").and_then(Value::as_u64).and_then(|p| u32::try_from(p).ok()).unwrap_or(0),
            time_s: seconds("time"),
            interval_s: seconds("interval"),
        }
    }
}

/// The built-in providers, which a mesh may redefine.
const BUILT_IN: [(&str, &str, &str); 2] =
    [("prometheus", "prometheus", "{}"), ("envoy", "envoyFileAccessLog", r#"{"path":"/dev/stdout"}"#)];

fn providers(value: &Value) -> Vec<ExtensionProvider> {
    let stated = value.get("extensionProviders").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut out: Vec<ExtensionProvider> = stated
        .iter()
        .filter_map(|p| {
            let name = p.get("name")?.as_str()?.to_owned();
            let (kind, config) = p.as_object()?.iter().find(|(k, _)| *k != "name")?;
            Some(ExtensionProvider { name, kind: kind.clone(), config: config.clone() })
        })
        .collect();
    for (name, kind, config) in BUILT_IN {
        if !out.iter().any(|p| p.name == name) {
            let config = serde_json::from_str(config).expect("constants are JSON");
            out.push(ExtensionProvider { name: name.to_owned(), kind: kind.to_owned(), config });
        }
    }
    out
}

fn duration_of(text: &str) -> Option<Duration> {
    api::Duration::parse(text).map(api::Duration::to_std)
}

fn typed<T: api::shape::Shape>(value: Option<&Value>) -> Option<T> {
    api::shape::from_value(value?).ok()
}

fn strings(value: Option<&Value>) -> Vec<String> {
    let items = value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    items.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_and_overrides() {
        let mesh = MeshConfig::default();
        assert!(mesh.enable_auto_mtls && mesh.inbound_passthrough);
        assert_eq!((mesh.proxy_listen_port, mesh.connect_timeout.as_secs()), (15001, 10));
        assert_eq!(mesh.provider("envoy").map(|p| p.kind.as_str()), Some("envoyFileAccessLog"));
        let mesh = MeshConfig::from_json(&serde_json::json!({
            "outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}, "connectTimeout": "1s", "accessLogFile": "/dev/stdout",
        }));
        assert_eq!(mesh.outbound_traffic_policy, OutboundMode::RegistryOnly);
        assert_eq!((mesh.connect_timeout.as_secs(), mesh.access_log_file.as_str()), (1, "/dev/stdout"));
    }
}
