//! What do the mesh-wide settings say? `MeshConfig` and the `ProxyConfig` message, as istio.io/api/mesh/v1alpha1
//! has them, with Istio's defaults. Read from the `istio` ConfigMap, from `proxy.istio.io/config` and `PROXY_CONFIG`.

use std::collections::BTreeMap;

use crate::destination_rule::{
    ConnectionPoolSettings, LocalityLoadBalancerSetting, OutlierDetection, TcpKeepalive, Tls,
    ZoneAwareLoadBalancerSetting,
};
use crate::kube::LabelSelector;
use crate::networking::{HttpRetry, ProxyImage, ReadinessProbe};
use crate::scalar::Duration;
use crate::shape::{Problem, Shape, Struct, from_value};
use crate::{choice, shape};

shape! {
    /// `MeshConfig`.
    MeshConfig {
        proxy_listen_port: i32, proxy_inbound_listen_port: i32, proxy_http_port: i32, connect_timeout:
        Option<Duration>, hbone_idle_timeout: Option<Duration>, protocol_detection_timeout: Option<Duration>,
        tcp_keepalive: Option<TcpKeepalive>, ingress_class: String, ingress_service: String, ingress_controller_mode:
        IngressControllerMode, ingress_selector: String, enable_tracing: bool, access_log_file: String,
        access_log_format: String, access_log_encoding: AccessLogEncoding, enable_envoy_access_log_service: bool,
        disable_envoy_listener_log: bool, default_config: Option<ProxyConfig>, outbound_traffic_policy:
        Option<MeshOutboundTrafficPolicy>, inbound_traffic_policy: Option<InboundTrafficPolicy>, config_sources:
        Vec<ConfigSource>, enable_auto_mtls: Option<bool>, trust_domain: String, trust_domain_aliases: Vec<String>,
        ca_certificates: Vec<CertificateData>, default_service_export_to: Vec<String>,
        default_virtual_service_export_to: Vec<String>, default_destination_rule_export_to: Vec<String>,
        root_namespace: String, locality_lb_setting: Option<LocalityLoadBalancerSetting>, zone_aware_lb_setting:
        Option<ZoneAwareLoadBalancerSetting>, dns_refresh_rate: Option<Duration>, h2_upgrade_policy:
        MeshH2UpgradePolicy, inbound_cluster_stat_name: String, outbound_cluster_stat_name: String, certificates:
        Vec<Certificate>, service_settings: Vec<ServiceSettings>, service_scope_configs: Vec<ServiceScopeConfigs>,
        enable_prometheus_merge: Option<bool>, verify_certificate_at_client: Option<bool>, ca: Option<CaSettings>,
        extension_providers: Vec<ExtensionProvider>, default_providers: Option<DefaultProviders>, discovery_selectors:
        Vec<LabelSelector>, path_normalization: Option<ProxyPathNormalization>, default_http_retry_policy:
        Option<HttpRetry>, default_inbound_http_retry_policy: Option<HttpRetry>, mesh_mtls = "meshMTLS":
        Option<TlsConfig>, tls_defaults: Option<TlsConfig>, default_traffic_policy: Option<DefaultTrafficPolicy>,
        service_entry_visibility: Option<ServiceEntryVisibility>, on_demand_virtual_hosts: bool,
    }
    /// `OutboundTrafficPolicy`.
    MeshOutboundTrafficPolicy { mode: MeshOutboundTrafficPolicyMode, tls: Option<Tls> }
    /// `InboundTrafficPolicy`.
    InboundTrafficPolicy { mode: InboundTrafficPolicyMode }
    /// `CertificateData`.
    CertificateData {
        pem: Option<String>, spiffe_bundle_url: Option<String>, cert_signers: Vec<String>, trust_domains: Vec<String>,
    }
    @oneof [pem, spiffe_bundle_url]
    /// `ServiceSettings.Settings`.
    ServiceSettingsSettings { cluster_local: bool }
    /// `ServiceSettings`.
    ServiceSettings { settings: Option<ServiceSettingsSettings>, hosts: Vec<String> }
    /// `ServiceScopeConfigs`.
    ServiceScopeConfigs {
        namespace_selector: Option<LabelSelector>, services_selector: Option<LabelSelector>, scope: ServiceScope,
    }
    /// `CA`.
    CaSettings { address: String, tls_settings: Option<Tls>, request_timeout: Option<Duration>, istiod_side: bool }
    /// `ExtensionProvider`.
    ExtensionProvider {
        name: String, envoy_ext_authz_http: Option<EnvoyExternalAuthorizationHttpProvider>, envoy_ext_authz_grpc:
        Option<EnvoyExternalAuthorizationGrpcProvider>, zipkin: Option<ZipkinTracingProvider>, lightstep:
        Option<LightstepTracingProvider>, datadog: Option<DatadogTracingProvider>, stackdriver:
        Option<StackdriverProvider>, opencensus: Option<OpenCensusAgentTracingProvider>, skywalking:
        Option<SkyWalkingTracingProvider>, opentelemetry: Option<OpenTelemetryTracingProvider>, prometheus:
        Option<PrometheusMetricsProvider>, envoy_file_access_log: Option<EnvoyFileAccessLogProvider>, envoy_http_als:
        Option<EnvoyHttpGrpcV3LogProvider>, envoy_tcp_als: Option<EnvoyTcpGrpcV3LogProvider>, envoy_otel_als:
        Option<EnvoyOpenTelemetryLogProvider>, sds: Option<SdsProvider>,
    }
    @oneof [envoy_ext_authz_http, envoy_ext_authz_grpc, zipkin, lightstep, datadog, stackdriver, opencensus,
        skywalking, opentelemetry, prometheus, envoy_file_access_log, envoy_http_als, envoy_tcp_als, envoy_otel_als,
        sds]
    /// `ExtensionProvider.EnvoyExternalAuthorizationRequestBody`.
    EnvoyExternalAuthorizationRequestBody { max_request_bytes: u32, allow_partial_message: bool, pack_as_bytes: bool }
    /// `ExtensionProvider.EnvoyExternalAuthorizationHttpProvider`.
    EnvoyExternalAuthorizationHttpProvider {
        service: String, port: u32, timeout: Option<Duration>, path_prefix: String, fail_open: bool,
        clear_route_cache: bool, status_on_error: String, include_headers_in_check: Vec<String>,
        include_request_headers_in_check: Vec<String>, include_additional_headers_in_check: BTreeMap<String, String>,
        include_request_body_in_check: Option<EnvoyExternalAuthorizationRequestBody>, headers_to_upstream_on_allow:
        Vec<String>, headers_to_downstream_on_deny: Vec<String>, headers_to_downstream_on_allow: Vec<String>,
    }
    /// `ExtensionProvider.EnvoyExternalAuthorizationGrpcProvider`.
    EnvoyExternalAuthorizationGrpcProvider {
        service: String, port: u32, timeout: Option<Duration>, fail_open: bool, clear_route_cache: bool,
        status_on_error: String, include_request_body_in_check: Option<EnvoyExternalAuthorizationRequestBody>,
    }
    /// `ExtensionProvider.ZipkinTracingProvider`.
    ZipkinTracingProvider {
        service: String, port: u32, max_tag_length: u32, enable_64bit_trace_id: bool, path: String,
        trace_context_option: TraceContextOption, timeout: Option<Duration>, headers: Vec<ProviderHeader>,
    }
    /// `ExtensionProvider.LightstepTracingProvider`.
    LightstepTracingProvider { service: String, port: u32, access_token: String, max_tag_length: u32 }
    /// `ExtensionProvider.DatadogTracingProvider`.
    DatadogTracingProvider { service: String, port: u32, max_tag_length: u32 }
    /// `ExtensionProvider.SkyWalkingTracingProvider`.
    SkyWalkingTracingProvider { service: String, port: u32, access_token: String }
    /// `ExtensionProvider.StackdriverProvider`.
    StackdriverProvider {
        debug: bool, max_number_of_attributes: Option<i64>, max_number_of_annotations: Option<i64>,
        max_number_of_message_events: Option<i64>, max_tag_length: u32, logging: Option<StackdriverLogging>,
    }
    /// `ExtensionProvider.StackdriverProvider.Logging`.
    StackdriverLogging { labels: BTreeMap<String, String> }
    /// `ExtensionProvider.OpenCensusAgentTracingProvider`.
    OpenCensusAgentTracingProvider { service: String, port: u32, context: Vec<TraceContext>, max_tag_length: u32 }
    /// `ExtensionProvider.EnvoyFileAccessLogProvider`.
    EnvoyFileAccessLogProvider { path: String, log_format: Option<FileLogFormat>, omit_empty_values: bool }
    /// `ExtensionProvider.EnvoyFileAccessLogProvider.LogFormat`.
    FileLogFormat { text: Option<String>, labels: Option<Struct> }
    @oneof [text, labels]
    /// `ExtensionProvider.EnvoyHttpGrpcV3LogProvider`.
    EnvoyHttpGrpcV3LogProvider {
        service: String, port: u32, log_name: String, filter_state_objects_to_log: Vec<String>,
        additional_request_headers_to_log: Vec<String>, additional_response_headers_to_log: Vec<String>,
        additional_response_trailers_to_log: Vec<String>,
    }
    /// `ExtensionProvider.EnvoyTcpGrpcV3LogProvider`.
    EnvoyTcpGrpcV3LogProvider {
        service: String, port: u32, log_name: String, filter_state_objects_to_log: Vec<String>,
    }
    /// `ExtensionProvider.EnvoyOpenTelemetryLogProvider`.
    EnvoyOpenTelemetryLogProvider { service: String, port: u32, log_name: String, log_format: Option<OtelLogFormat> }
    /// `ExtensionProvider.EnvoyOpenTelemetryLogProvider.LogFormat`.
    OtelLogFormat { text: String, labels: Option<Struct> }
    /// `ExtensionProvider.OpenTelemetryTracingProvider`.
    OpenTelemetryTracingProvider {
        service: String, port: u32, max_tag_length: u32, http: Option<HttpService>, grpc: Option<GrpcService>,
        resource_detectors: Option<ResourceDetectors>, service_attribute_enrichment: ServiceAttributeEnrichment,
        dynatrace_sampler: Option<DynatraceSampler>,
    }
    /// `ExtensionProvider.OpenTelemetryTracingProvider.DynatraceSampler`.
    DynatraceSampler {
        tenant: String, cluster_id: i32, root_spans_per_minute: u32, http_service: Option<DynatraceApi>,
    }
    /// `ExtensionProvider.OpenTelemetryTracingProvider.DynatraceSampler.DynatraceApi`.
    DynatraceApi { service: String, port: u32, http: Option<HttpService> }
    /// `ExtensionProvider.SdsProvider`.
    SdsProvider { name: String, service: String, port: u32 }
    /// `ExtensionProvider.HttpService`.
    HttpService { path: String, timeout: Option<Duration>, headers: Vec<ProviderHeader> }
    /// `ExtensionProvider.HttpHeader`.
    ProviderHeader { name: String, value: Option<String>, env_name: Option<String> }
    @oneof [value, env_name]
    /// `ExtensionProvider.ResourceDetectors`.
    ResourceDetectors {
        environment: Option<EnvironmentResourceDetector>, dynatrace: Option<DynatraceResourceDetector>,
    }
    /// `ExtensionProvider.GrpcService`.
    GrpcService { timeout: Option<Duration>, initial_metadata: Vec<ProviderHeader> }
    /// `DefaultProviders`.
    DefaultProviders { tracing: Vec<String>, metrics: Vec<String>, access_logging: Vec<String> }
    /// `ProxyPathNormalization`.
    ProxyPathNormalization { normalization: PathNormalization }
    /// `TLSConfig`.
    TlsConfig { min_protocol_version: MeshTlsProtocol, ecdh_curves: Vec<String>, cipher_suites: Vec<String> }
    /// `DefaultTrafficPolicy`.
    DefaultTrafficPolicy {
        connection_pool: Option<ConnectionPoolSettings>, outlier_detection: Option<OutlierDetection>,
    }
    /// `ServiceEntryVisibility`.
    ServiceEntryVisibility {
        default_visibility: Visibility, apply_to_sidecars: bool, policies: Vec<VisibilityPolicy>,
    }
    /// `ServiceEntryVisibility.Policy`.
    VisibilityPolicy { visibility: Visibility, matching_rules: Vec<MatchRule> }
    /// `ServiceEntryVisibility.MatchRule`.
    MatchRule { namespace_selector: Option<LabelSelector> }
    /// `ConfigSource`.
    ConfigSource { address: String, tls_settings: Option<Tls>, subscribed_resources: Vec<ConfigSourceResource> }
    /// `Certificate`.
    Certificate { secret_name: String, dns_names: Vec<String> }
    /// `Tracing.Zipkin`.
    Zipkin { address: String }
    /// `Tracing.Lightstep`.
    Lightstep { address: String, access_token: String }
    /// `Tracing.Datadog`.
    Datadog { address: String }
    /// `Tracing.Stackdriver`.
    Stackdriver {
        debug: bool, max_number_of_attributes: Option<i64>, max_number_of_annotations: Option<i64>,
        max_number_of_message_events: Option<i64>,
    }
    /// `Tracing.OpenCensusAgent`.
    OpenCensusAgent { address: String, context: Vec<TraceContext> }
    /// `Tracing`.
    ProxyTracing {
        zipkin: Option<Zipkin>, lightstep: Option<Lightstep>, datadog: Option<Datadog>, stackdriver:
        Option<Stackdriver>, open_census_agent: Option<OpenCensusAgent>, custom_tags: BTreeMap<String,
        TracingCustomTag>, max_path_tag_length: u32, sampling: f64, tls_settings: Option<Tls>, enable_istio_tags:
        Option<bool>,
    }
    @oneof [zipkin, lightstep, datadog, stackdriver, open_census_agent]
    /// `Tracing.CustomTag`.
    TracingCustomTag {
        literal: Option<TracingLiteral>, environment: Option<TracingEnvironment>, header:
        Option<TracingRequestHeader>,
    }
    @oneof [literal, environment, header]
    /// `Tracing.Literal`.
    TracingLiteral { value: String }
    /// `Tracing.Environment`.
    TracingEnvironment { name: String, default_value: String }
    /// `Tracing.RequestHeader`.
    TracingRequestHeader { name: String, default_value: String }
    /// `SDS`.
    SdsSettings { enabled: bool, k8s_sa_jwt_path: String }
    /// `Topology`.
    Topology {
        num_trusted_proxies: u32, forward_client_cert_details: ForwardClientCertDetails, proxy_protocol:
        Option<ProxyProtocolConfiguration>,
    }
    /// `PrivateKeyProvider.CryptoMb`.
    CryptoMb { poll_delay: Option<Duration>, fallback: Option<bool> }
    /// `PrivateKeyProvider.QAT`.
    Qat { poll_delay: Option<Duration>, fallback: Option<bool> }
    /// `PrivateKeyProvider`.
    PrivateKeyProvider { cryptomb: Option<CryptoMb>, qat: Option<Qat> }
    @oneof [cryptomb, qat]
    /// `ProxyConfig`.
    ProxyConfig {
        config_path: String, binary_path: String, service_cluster: Option<String>, tracing_service_name:
        Option<TracingServiceName>, drain_duration: Option<Duration>, discovery_address: String,
        discovery_refresh_delay: Option<Duration>, zipkin_address: String, statsd_udp_address: String,
        envoy_metrics_service_address: String, proxy_admin_port: i32, availability_zone: String,
        control_plane_auth_policy: AuthenticationPolicy, custom_config_file: String, stat_name_length: i32,
        concurrency: Option<i32>, proxy_bootstrap_template_path: String, interception_mode: InboundInterceptionMode,
        tracing: Option<ProxyTracing>, sds: Option<SdsSettings>, envoy_access_log_service: Option<RemoteService>,
        envoy_metrics_service: Option<RemoteService>, proxy_metadata: BTreeMap<String, String>, runtime_values:
        BTreeMap<String, String>, status_port: i32, extra_stat_tags: Vec<String>, gateway_topology: Option<Topology>,
        termination_drain_duration: Option<Duration>, mesh_id: String, readiness_probe: Option<ReadinessProbe>,
        proxy_stats_matcher: Option<ProxyStatsMatcher>, hold_application_until_proxy_starts: Option<bool>,
        ca_certificates_pem: Vec<String>, image: Option<ProxyImage>, private_key_provider: Option<PrivateKeyProvider>,
        proxy_headers: Option<ProxyHeaders>, file_flush_interval: Option<Duration>, file_flush_min_size_kb: u32,
        stats_compression: Option<bool>, connection_settings: Option<ConnectionSettings>,
    }
    @oneof [service_cluster, tracing_service_name]
    /// `ProxyStatsMatcher`.
    ProxyStatsMatcher {
        inclusion_prefixes: Vec<String>, inclusion_suffixes: Vec<String>, inclusion_regexps: Vec<String>,
    }
    /// `ProxyHeaders.Server`.
    ProxyHeadersServer { disabled: Option<bool>, value: String }
    /// `ProxyHeaders.RequestId`.
    ProxyHeadersRequestId { disabled: Option<bool> }
    /// `ProxyHeaders.AttemptCount`.
    AttemptCount { disabled: Option<bool> }
    /// `ProxyHeaders.XForwardedHost`.
    XForwardedHost { enabled: Option<bool> }
    /// `ProxyHeaders.XForwardedPort`.
    XForwardedPort { enabled: Option<bool> }
    /// `ProxyHeaders.EnvoyDebugHeaders`.
    EnvoyDebugHeaders { disabled: Option<bool> }
    /// `ProxyHeaders.MetadataExchangeHeaders`.
    MetadataExchangeHeaders { mode: MetadataExchangeMode }
    /// `ProxyHeaders.SetCurrentClientCertDetails`.
    SetCurrentClientCertDetails {
        subject: Option<bool>, cert: Option<bool>, chain: Option<bool>, dns: Option<bool>, uri: Option<bool>,
    }
    /// `ProxyHeaders`.
    ProxyHeaders {
        forwarded_client_cert: ForwardClientCertDetails, set_current_client_cert_details:
        Option<SetCurrentClientCertDetails>, request_id: Option<ProxyHeadersRequestId>, server:
        Option<ProxyHeadersServer>, attempt_count: Option<AttemptCount>, envoy_debug_headers:
        Option<EnvoyDebugHeaders>, metadata_exchange_headers: Option<MetadataExchangeHeaders>,
        preserve_http1_header_case: Option<bool>, x_forwarded_host: Option<XForwardedHost>, x_forwarded_port:
        Option<XForwardedPort>,
    }
    /// `ConnectionSettings`.
    ConnectionSettings {
        profile: ConnectionProfile, listener_per_connection_buffer_limit_bytes: Option<i32>,
        cluster_per_connection_buffer_limit_bytes: Option<i32>, http_idle_timeout: Option<Duration>,
        http_max_connection_duration: Option<Duration>, http_drain_timeout: Option<Duration>, http_request_timeout:
        Option<Duration>, http_request_headers_timeout: Option<Duration>, http_stream_idle_timeout: Option<Duration>,
        http_max_stream_duration: Option<Duration>, http_max_concurrent_streams: Option<i32>,
        http2_initial_stream_window_size: Option<i32>, http2_initial_connection_window_size: Option<i32>,
        http_headers_with_underscores_action: HeadersWithUnderscoresAction, http_merge_slashes: Option<bool>,
        http_path_with_escaped_slashes_action: PathWithEscapedSlashesAction, listener_connection_limit: Option<i32>,
        global_downstream_connection_limit: Option<i32>,
    }
    /// `RemoteService`.
    RemoteService { address: String, tls_settings: Option<Tls>, tcp_keepalive: Option<TcpKeepalive> }
    /// `DynatraceResourceDetector`, a message without fields here.
    DynatraceResourceDetector {}
    /// `EnvironmentResourceDetector`, a message without fields here.
    EnvironmentResourceDetector {}
    /// `PrometheusMetricsProvider`, a message without fields here.
    PrometheusMetricsProvider {}
    /// `ProxyProtocolConfiguration`, a message without fields here.
    ProxyProtocolConfiguration {}
}

choice! {
    /// Values of `IngressControllerMode`.
    IngressControllerMode { Unspecified = 0 "UNSPECIFIED", Off = 1 "OFF", Default = 2 "DEFAULT", Strict = 3 "STRICT" }
    /// Values of `AccessLogEncoding`.
    AccessLogEncoding { Text = 0 "TEXT", Json = 1 "JSON" }
    /// Values of `MeshH2UpgradePolicy`.
    MeshH2UpgradePolicy { DoNotUpgrade = 0 "DO_NOT_UPGRADE", Upgrade = 1 "UPGRADE" }
    /// Values of `MeshOutboundTrafficPolicyMode`.
    MeshOutboundTrafficPolicyMode {
        RegistryOnly = 0 "REGISTRY_ONLY", AllowAny = 1 "ALLOW_ANY", AllowAnyDynamicDns = 2 "ALLOW_ANY_DYNAMIC_DNS",
    }
    /// Values of `InboundTrafficPolicyMode`.
    InboundTrafficPolicyMode { Passthrough = 0 "PASSTHROUGH", Localhost = 1 "LOCALHOST" }
    /// Values of `ServiceScope`.
    ServiceScope { Local = 0 "LOCAL", Global = 1 "GLOBAL" }
    /// Values of `TraceContextOption`.
    TraceContextOption { UseB3 = 0 "USE_B3", UseB3WithW3cPropagation = 1 "USE_B3_WITH_W3C_PROPAGATION" }
    /// Values of `TraceContext`.
    TraceContext {
        Unspecified = 0 "UNSPECIFIED", W3cTraceContext = 1 "W3C_TRACE_CONTEXT", GrpcBin = 2 "GRPC_BIN",
        CloudTraceContext = 3 "CLOUD_TRACE_CONTEXT", B3 = 4 "B3",
    }
    /// Values of `ServiceAttributeEnrichment`.
    ServiceAttributeEnrichment {
        IstioCanonical = 0 "ISTIO_CANONICAL", OtelSemanticConventions = 1 "OTEL_SEMANTIC_CONVENTIONS",
    }
    /// Values of `PathNormalization`.
    PathNormalization {
        Default = 0 "DEFAULT", None = 1 "NONE", Base = 2 "BASE", MergeSlashes = 3 "MERGE_SLASHES",
        DecodeAndMergeSlashes = 4 "DECODE_AND_MERGE_SLASHES",
    }
    /// Values of `MeshTlsProtocol`.
    MeshTlsProtocol { Auto = 0 "TLS_AUTO", V1_2 = 1 "TLSV1_2", V1_3 = 2 "TLSV1_3" }
    /// Values of `Visibility`.
    Visibility {
        Unspecified = 0 "VISIBILITY_UNSPECIFIED", None = 1 "NONE", Namespace = 2 "NAMESPACE", Public = 3 "PUBLIC",
    }
    /// Values of `ConfigSourceResource`.
    ConfigSourceResource { ServiceRegistry = 0 "SERVICE_REGISTRY" }
    /// Values of `ForwardClientCertDetails`.
    ForwardClientCertDetails {
        Undefined = 0 "UNDEFINED", Sanitize = 1 "SANITIZE", ForwardOnly = 2 "FORWARD_ONLY", AppendForward = 3
        "APPEND_FORWARD", SanitizeSet = 4 "SANITIZE_SET", AlwaysForwardOnly = 5 "ALWAYS_FORWARD_ONLY",
    }
    /// Values of `TracingServiceName`.
    TracingServiceName {
        AppLabelAndNamespace = 0 "APP_LABEL_AND_NAMESPACE", CanonicalNameOnly = 1 "CANONICAL_NAME_ONLY",
        CanonicalNameAndNamespace = 2 "CANONICAL_NAME_AND_NAMESPACE",
    }
    /// Values of `AuthenticationPolicy`.
    AuthenticationPolicy { None = 0 "NONE", MutualTls = 1 "MUTUAL_TLS", Inherit = 2 "INHERIT" }
    /// Values of `InboundInterceptionMode`.
    InboundInterceptionMode { Redirect = 0 "REDIRECT", Tproxy = 1 "TPROXY", None = 2 "NONE" }
    /// Values of `MetadataExchangeMode`.
    MetadataExchangeMode { Undefined = 0 "UNDEFINED", InMesh = 1 "IN_MESH" }
    /// Values of `ConnectionProfile`.
    ConnectionProfile { Sidecar = 0 "SIDECAR", Edge = 1 "EDGE" }
    /// Values of `HeadersWithUnderscoresAction`.
    HeadersWithUnderscoresAction {
        Unspecified = 0 "HEADERS_WITH_UNDERSCORES_UNSPECIFIED", Allow = 1 "HEADERS_WITH_UNDERSCORES_ALLOW",
        RejectRequest = 2 "HEADERS_WITH_UNDERSCORES_REJECT_REQUEST", DropHeader = 3
        "HEADERS_WITH_UNDERSCORES_DROP_HEADER",
    }
    /// Values of `PathWithEscapedSlashesAction`.
    PathWithEscapedSlashesAction {
        Unspecified = 0 "PATH_WITH_ESCAPED_SLASHES_UNSPECIFIED", KeepUnchanged = 1 "KEEP_UNCHANGED", RejectRequest = 2
        "REJECT_REQUEST", UnescapeAndRedirect = 3 "UNESCAPE_AND_REDIRECT", UnescapeAndForward = 4
        "UNESCAPE_AND_FORWARD",
    }
}

impl MeshConfig {
    /// Istio's defaults: what an empty `istio` ConfigMap means.
    pub fn istio_default() -> Self {
        let all = || vec!["*".to_owned()];
        MeshConfig {
            enable_tracing: true,
            protocol_detection_timeout: Some(Duration::from_secs(0)),
            ingress_service: "istio-ingressgateway".into(),
            ingress_controller_mode: IngressControllerMode::Strict,
            ingress_class: "istio".into(),
            trust_domain: "cluster.local".into(),
            enable_auto_mtls: Some(true),
            outbound_traffic_policy: Some(MeshOutboundTrafficPolicy {
                mode: MeshOutboundTrafficPolicyMode::AllowAny,
                tls: None,
            }),
            inbound_traffic_policy: Some(InboundTrafficPolicy::default()),
            locality_lb_setting: Some(LocalityLoadBalancerSetting { enabled: Some(true), ..Default::default() }),
            root_namespace: "istio-system".into(),
            proxy_listen_port: 15001,
            proxy_inbound_listen_port: 15006,
            connect_timeout: Some(Duration::from_secs(10)),
            default_service_export_to: all(),
            default_virtual_service_export_to: all(),
            default_destination_rule_export_to: all(),
            dns_refresh_rate: Some(Duration::from_secs(60)),
            enable_prometheus_merge: Some(true),
            default_config: Some(ProxyConfig::istio_default()),
            extension_providers: vec![
                ExtensionProvider {
                    name: "prometheus".into(),
                    prometheus: Some(PrometheusMetricsProvider {}),
                    ..Default::default()
                },
                ExtensionProvider {
                    name: "stackdriver".into(),
                    stackdriver: Some(StackdriverProvider::default()),
                    ..Default::default()
                },
                ExtensionProvider {
                    name: "envoy".into(),
                    envoy_file_access_log: Some(EnvoyFileAccessLogProvider {
                        path: "/dev/stdout".into(),
                        ..Default::default()
                    }),
                    ..Default::default()
                },
            ],
            ..Default::default()
        }
    }

    /// The defaults, overlaid with what a mesh configuration document says.
    ///
    /// # Errors
    /// Everything in the document that cannot be read.
    pub fn overlay(v: &serde_json::Value) -> Result<Self, Vec<Problem>> {
        MeshConfig::istio_default().overlaid(v)
    }

    /// This configuration overlaid with a document.
    ///
    /// Fields that are present replace the earlier value as a whole, with four exceptions: `defaultConfig` and
    /// `defaultProviders` are overlaid field by field, entries of `extensionProviders` replace those of the same name,
    /// and `trustDomainAliases` add up.
    ///
    /// # Errors
    /// Everything in the document that cannot be read.
    pub fn overlaid(&self, v: &serde_json::Value) -> Result<Self, Vec<Problem>> {
        let said: MeshConfig = from_value(v)?;
        let mut merged = overlay_object(self.write(), v, MeshConfig::canonical);
        if let Some(config) = field(v, "defaultConfig", "default_config") {
            let proxy = overlay_object(self.proxy_config().write(), config, ProxyConfig::canonical);
            merged.insert("defaultConfig".into(), proxy.into());
        }
        if let (Some(providers), Some(base)) =
            (field(v, "defaultProviders", "default_providers"), &self.default_providers)
        {
            let providers = overlay_object(base.write(), providers, ProxyConfig::canonical);
            merged.insert("defaultProviders".into(), providers.into());
        }
        let mut out: MeshConfig = from_value(&merged.into())?;
        out.extension_providers = self
            .extension_providers
            .iter()
            .filter(|d| said.extension_providers.iter().all(|p| p.name != d.name))
            .chain(&said.extension_providers)
            .cloned()
            .collect();
        let aliases: std::collections::BTreeSet<String> =
            self.trust_domain_aliases.iter().chain(&said.trust_domain_aliases).cloned().collect();
        if !self.trust_domain_aliases.is_empty() {
            out.trust_domain_aliases = aliases.into_iter().collect();
        }
        Ok(out)
    }

    fn canonical(name: &str) -> String {
        if name == "mesh_mTLS" || name == "mesh_mtls" { "meshMTLS".into() } else { camel_case(name) }
    }

    /// The proxy defaults of this mesh.
    pub fn proxy_config(&self) -> ProxyConfig {
        self.default_config.clone().unwrap_or_else(ProxyConfig::istio_default)
    }
}

impl ProxyConfig {
    /// Istio's defaults for every proxy.
    pub fn istio_default() -> Self {
        ProxyConfig {
            config_path: "/etc/istio/proxy".into(),
            binary_path: "/usr/local/bin/envoy".into(),
            service_cluster: Some("istio-proxy".into()),
            drain_duration: Some(Duration::from_secs(45)),
            termination_drain_duration: Some(Duration::from_secs(5)),
            proxy_admin_port: 15000,
            control_plane_auth_policy: AuthenticationPolicy::MutualTls,
            discovery_address: "istiod.istio-system.svc:15012".into(),
            stat_name_length: 189,
            status_port: 15020,
            ..Default::default()
        }
    }

    /// This configuration overlaid with a document such as the annotation `proxy.istio.io/config`: present fields
    /// replace, `proxyMetadata` is merged by key.
    ///
    /// # Errors
    /// Everything in the document that cannot be read.
    pub fn overlay(&self, v: &serde_json::Value) -> Result<Self, Vec<Problem>> {
        from_value::<ProxyConfig>(v)?;
        let mut merged = overlay_object(self.write(), v, ProxyConfig::canonical);
        if let Some(serde_json::Value::Object(said)) = field(v, "proxyMetadata", "proxy_metadata") {
            let mut all: serde_json::Map<_, _> =
                self.proxy_metadata.iter().map(|(k, v)| (k.clone(), v.as_str().into())).collect();
            all.extend(said.clone());
            merged.insert("proxyMetadata".into(), all.into());
        }
        from_value(&merged.into())
    }

    fn canonical(name: &str) -> String {
        camel_case(name)
    }
}

fn field<'a>(v: &'a serde_json::Value, camel: &str, snake: &str) -> Option<&'a serde_json::Value> {
    v.get(camel).or_else(|| v.get(snake)).filter(|v| !v.is_null())
}

fn camel_case(name: &str) -> String {
    let mut upper = false;
    name.chars()
        .filter_map(|c| match c {
            '_' => {
                upper = true;
                None
            }
            c if std::mem::take(&mut upper) => Some(c.to_ascii_uppercase()),
            c => Some(c),
        })
        .collect()
}

fn overlay_object(
    base: serde_json::Value,
    over: &serde_json::Value,
    canonical: fn(&str) -> String,
) -> serde_json::Map<String, serde_json::Value> {
    let mut out = match base {
        serde_json::Value::Object(map) => map,
        _ => Default::default(),
    };
    if let serde_json::Value::Object(over) = over {
        for (k, v) in over {
            if !v.is_null() {
                out.insert(canonical(k), v.clone());
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn overlay_keeps_defaults() {
        let mesh = MeshConfig::overlay(&json!({
            "accessLogFile": "/dev/stdout", "enable_tracing": false,
            "defaultConfig": {"discoveryAddress": "x:1", "proxyMetadata": {"A": "b"}},
            "extensionProviders": [{"name": "envoy", "envoyFileAccessLog": {"path": "/tmp/log"}}],
        }))
        .unwrap();
        assert_eq!(mesh.access_log_file, "/dev/stdout");
        assert!(!mesh.enable_tracing);
        assert_eq!(mesh.root_namespace, "istio-system");
        let proxy = mesh.proxy_config();
        assert_eq!((proxy.discovery_address.as_str(), proxy.status_port), ("x:1", 15020));
        assert_eq!(mesh.extension_providers.len(), 3);
        let over = proxy.overlay(&json!({"concurrency": 3, "proxyMetadata": {"C": "d"}})).unwrap();
        assert_eq!((over.concurrency, over.proxy_metadata.len()), (Some(3), 2));
        assert!(MeshConfig::overlay(&json!({"defaultConfig": {"foo": 1}})).is_err());
    }
}
