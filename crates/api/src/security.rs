//! What do the kinds of `security.istio.io` and `telemetry.istio.io` say? Shapes only.

use std::collections::BTreeMap;

use crate::networking::{LabelSelector, PolicyTargetReference};
use crate::scalar::Duration;
use crate::{choice, shape};

shape! {
    /// Who may do what.
    AuthorizationPolicy {
        selector: Option<LabelSelector>, target_ref: Option<PolicyTargetReference>,
        target_refs: Vec<PolicyTargetReference>, rules: Vec<Rule>, action: AuthorizationAction,
        provider: Option<ExtensionProviderRef>,
    }
    /// The provider of `CUSTOM`.
    ExtensionProviderRef { name: String }
    /// Matches when one `from`, one `to` and all `when` match.
    Rule { from: Vec<RuleFrom>, to: Vec<RuleTo>, when: Vec<Condition> }
    /// A source.
    RuleFrom { source: Option<Source> }
    /// An operation.
    RuleTo { operation: Option<Operation> }
    /// Where a request comes from.
    Source {
        principals: Vec<String>, not_principals: Vec<String>, request_principals: Vec<String>,
        not_request_principals: Vec<String>, namespaces: Vec<String>, not_namespaces: Vec<String>,
        ip_blocks: Vec<String>, not_ip_blocks: Vec<String>, remote_ip_blocks: Vec<String>,
        not_remote_ip_blocks: Vec<String>, service_accounts: Vec<String>, not_service_accounts: Vec<String>,
        trust_domains: Vec<String>, not_trust_domains: Vec<String>,
    }
    /// What a request wants.
    Operation {
        hosts: Vec<String>, not_hosts: Vec<String>, ports: Vec<String>, not_ports: Vec<String>,
        methods: Vec<String>, not_methods: Vec<String>, paths: Vec<String>, not_paths: Vec<String>,
    }
    /// A further condition.
    Condition { key: String, values: Vec<String>, not_values: Vec<String> }

    /// Requirements on peer certificates.
    PeerAuthentication {
        selector: Option<LabelSelector>, mtls: Option<MutualTls>, port_level_mtls: BTreeMap<u32, MutualTls>,
    }
    /// Mutual TLS mode.
    MutualTls { mode: MutualTlsMode }

    /// Accepted tokens.
    RequestAuthentication {
        selector: Option<LabelSelector>, target_ref: Option<PolicyTargetReference>,
        target_refs: Vec<PolicyTargetReference>, jwt_rules: Vec<JwtRule>,
    }
    /// One issuer.
    JwtRule {
        issuer: String, audiences: Vec<String>, jwks_uri: String, jwks: String, from_headers: Vec<JwtHeader>,
        from_params: Vec<String>, output_payload_to_header: String, from_cookies: Vec<String>,
        forward_original_token: bool, output_claim_to_headers: Vec<ClaimToHeader>, timeout: Option<Duration>,
        space_delimited_claims: Vec<String>, presence: JwtPresence,
    }
    /// A header that holds a token.
    JwtHeader { name: String, prefix: String }
    /// A claim copied to a header.
    ClaimToHeader { header: String, claim: String }

    /// What is measured, traced and logged.
    Telemetry {
        selector: Option<LabelSelector>, target_ref: Option<PolicyTargetReference>,
        target_refs: Vec<PolicyTargetReference>, tracing: Vec<Tracing>, metrics: Vec<Metrics>,
        access_logging: Vec<AccessLogging>,
    }
    /// Tracing settings.
    Tracing {
        matches = "match": Option<TracingSelector>, providers: Vec<ProviderRef>,
        random_sampling_percentage: Option<f64>, disable_span_reporting: Option<bool>,
        custom_tags: BTreeMap<String, CustomTag>, use_request_id_for_trace_sampling: Option<bool>,
        enable_istio_tags: Option<bool>, disable_context_propagation: Option<bool>,
    }
    /// Direction of traced traffic.
    TracingSelector { mode: Mode }
    /// Name of an extension provider.
    ProviderRef { name: String }
    /// A span tag.
    CustomTag {
        literal: Option<LiteralTag>, environment: Option<EnvironmentTag>, header: Option<HeaderTag>,
        formatter: Option<FormatterTag>,
    }
    @oneof [literal, environment, header, formatter]
    /// A constant.
    LiteralTag { value: String }
    /// An environment variable of the proxy.
    EnvironmentTag { name: String, default_value: String }
    /// A request header.
    HeaderTag { name: String, default_value: String }
    /// An access log format expression.
    FormatterTag { value: String }
    /// Metrics settings.
    Metrics { providers: Vec<ProviderRef>, overrides: Vec<MetricsOverrides>, reporting_interval: Option<Duration> }
    /// Changes to metrics.
    MetricsOverrides {
        matches = "match": Option<MetricSelector>, disabled: Option<bool>, tag_overrides: BTreeMap<String, TagOverride>,
    }
    /// Which metrics.
    MetricSelector { metric: Option<IstioMetric>, custom_metric: Option<String>, mode: Mode }
    @oneof [metric, custom_metric]
    /// A change to one tag; `value` is a CEL expression.
    TagOverride { operation: TagOperation, value: String }
    /// Access log settings.
    AccessLogging {
        matches = "match": Option<TracingSelector>, providers: Vec<ProviderRef>, disabled: Option<bool>,
        filter: Option<AccessLogFilter>,
    }
    /// A CEL expression that chooses what is logged.
    AccessLogFilter { expression: String }
}

choice! {
    /// What a policy does when it matches.
    AuthorizationAction { Allow = 0 "ALLOW", Deny = 1 "DENY", Audit = 2 "AUDIT", Custom = 3 "CUSTOM" }
    /// Mutual TLS mode.
    MutualTlsMode { Unset = 0 "UNSET", Disable = 1 "DISABLE", Permissive = 2 "PERMISSIVE", Strict = 3 "STRICT" }
    /// Whether a token must be there.
    JwtPresence { Optional = 0 "OPTIONAL", Required = 1 "REQUIRED" }
    /// Side of the traffic.
    Mode { ClientAndServer = 0 "CLIENT_AND_SERVER", Client = 1 "CLIENT", Server = 2 "SERVER" }
    /// A standard metric.
    IstioMetric {
        AllMetrics = 0 "ALL_METRICS", RequestCount = 1 "REQUEST_COUNT", RequestDuration = 2 "REQUEST_DURATION",
        RequestSize = 3 "REQUEST_SIZE", ResponseSize = 4 "RESPONSE_SIZE",
        TcpOpenedConnections = 5 "TCP_OPENED_CONNECTIONS", TcpClosedConnections = 6 "TCP_CLOSED_CONNECTIONS",
        TcpSentBytes = 7 "TCP_SENT_BYTES", TcpReceivedBytes = 8 "TCP_RECEIVED_BYTES",
        GrpcRequestMessages = 9 "GRPC_REQUEST_MESSAGES", GrpcResponseMessages = 10 "GRPC_RESPONSE_MESSAGES",
    }
    /// Change to a tag.
    TagOperation { Upsert = 0 "UPSERT", Remove = 1 "REMOVE" }
}
