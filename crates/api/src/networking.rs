//! What does a `VirtualService`, `Gateway`, `Sidecar`, `ServiceEntry` (and the rest of `networking.istio.io`) say?
//! Shapes only, as istio.io/api/networking/v1 has them; `destination_rule.rs` and `envoy_filter.rs` hold two more.

use std::collections::BTreeMap;

use crate::destination_rule::{ConnectionPoolSettings, Tls as ClientTls};
use crate::scalar::{Duration, StringMatch};
use crate::{choice, shape};

shape! {
    /// A destination by service name; short names expand with the namespace of the configuration.
    Destination { host: String, subset: String, port: Option<PortSelector> }
    /// A port by number.
    PortSelector { number: u32 }
    /// A percentage from 0 to 100.
    Percent { value: f64 }
    /// Labels that select workloads of the resource's namespace.
    WorkloadSelector { labels: BTreeMap<String, String> }
    /// Labels that select workloads, in the form of the newer kinds.
    LabelSelector { match_labels: BTreeMap<String, String> }
    /// A reference to the resource that a policy attaches to.
    PolicyTargetReference { group: String, kind: String, name: String, namespace: String }

    /// Routing rules for hosts.
    VirtualService {
        hosts: Vec<String>, gateways: Vec<String>, http: Vec<HttpRoute>, tls: Vec<TlsRoute>, tcp: Vec<TcpRoute>,
        export_to: Vec<String>,
    }
    /// A reference to the virtual service that continues a rule.
    Delegate { name: String, namespace: String }
    /// One HTTP rule.
    HttpRoute {
        name: String, matches = "match": Vec<HttpMatchRequest>, route: Vec<HttpRouteDestination>,
        redirect: Option<HttpRedirect>, direct_response: Option<HttpDirectResponse>, delegate: Option<Delegate>,
        rewrite: Option<HttpRewrite>, timeout: Option<Duration>, retries: Option<HttpRetry>,
        fault: Option<HttpFaultInjection>, mirror: Option<Destination>, mirrors: Vec<HttpMirrorPolicy>,
        mirror_percent: Option<u32>, mirror_percentage: Option<Percent>, cors_policy: Option<CorsPolicy>,
        headers: Option<Headers>,
    }
    /// Header operations on request and response.
    Headers { request: Option<HeaderOperations>, response: Option<HeaderOperations> }
    /// Set, add, remove.
    HeaderOperations { set: BTreeMap<String, String>, add: BTreeMap<String, String>, remove: Vec<String> }
    /// Conditions of an HTTP rule; all must hold.
    HttpMatchRequest {
        name: String, uri: Option<StringMatch>, scheme: Option<StringMatch>, method: Option<StringMatch>,
        authority: Option<StringMatch>, headers: BTreeMap<String, StringMatch>, port: u32,
        source_labels: BTreeMap<String, String>, gateways: Vec<String>,
        query_params: BTreeMap<String, StringMatch>, ignore_uri_case: bool,
        without_headers: BTreeMap<String, StringMatch>, source_namespace: String, stat_prefix: String,
    }
    /// A weighted destination of an HTTP rule.
    HttpRouteDestination { destination: Option<Destination>, weight: i32, headers: Option<Headers> }
    /// A redirect.
    HttpRedirect {
        uri: String, prefix_rewrite: String, authority: String, port: Option<u32>,
        derive_port: Option<RedirectPortSelection>, scheme: String, redirect_code: u32,
    }
    @oneof [port, derive_port]
    /// A response made by the proxy.
    HttpDirectResponse { status: u32, body: Option<HttpBody> }
    /// Body of a direct response; `bytes` is base64.
    HttpBody { string: Option<String>, bytes: Option<String> }
    @oneof [string, bytes]
    /// Path and authority rewriting.
    HttpRewrite { uri: String, authority: String, uri_regex_rewrite: Option<RegexRewrite> }
    /// Rewrite by regular expression.
    RegexRewrite { matches = "match": String, rewrite: String }
    /// Retry policy.
    HttpRetry {
        attempts: i32, per_try_timeout: Option<Duration>, retry_on: String, retry_remote_localities: Option<bool>,
        retry_ignore_previous_hosts: Option<bool>, backoff: Option<Duration>,
    }
    /// CORS policy.
    CorsPolicy {
        allow_origin: Vec<String>, allow_origins: Vec<StringMatch>, allow_methods: Vec<String>,
        allow_headers: Vec<String>, expose_headers: Vec<String>, max_age: Option<Duration>,
        allow_credentials: Option<bool>, unmatched_preflights: UnmatchedPreflights,
    }
    /// Fault injection.
    HttpFaultInjection { delay: Option<FaultDelay>, abort: Option<FaultAbort> }
    /// Delay before forwarding.
    FaultDelay {
        percent: i32, fixed_delay: Option<Duration>, exponential_delay: Option<Duration>, percentage: Option<Percent>,
    }
    @oneof [fixed_delay, exponential_delay]
    /// Abort instead of forwarding.
    FaultAbort {
        http_status: Option<i32>, grpc_status: Option<String>, http2_error: Option<String>, percentage: Option<Percent>,
    }
    @oneof [http_status, grpc_status, http2_error]
    /// A mirror among several.
    HttpMirrorPolicy { destination: Option<Destination>, percentage: Option<Percent> }

    /// One TLS rule, by SNI.
    TlsRoute { matches = "match": Vec<TlsMatchAttributes>, route: Vec<RouteDestination> }
    /// Conditions of a TLS rule.
    TlsMatchAttributes {
        sni_hosts: Vec<String>, destination_subnets: Vec<String>, port: u32, source_labels: BTreeMap<String, String>,
        gateways: Vec<String>, source_namespace: String,
    }
    /// One TCP rule.
    TcpRoute { matches = "match": Vec<L4MatchAttributes>, route: Vec<RouteDestination> }
    /// Conditions of a TCP rule.
    L4MatchAttributes {
        destination_subnets: Vec<String>, port: u32, source_subnet: String, source_labels: BTreeMap<String, String>,
        gateways: Vec<String>, source_namespace: String,
    }
    /// A weighted destination of a TLS or TCP rule.
    RouteDestination { destination: Option<Destination>, weight: i32 }

    /// Ports of an edge proxy.
    Gateway { servers: Vec<Server>, selector: BTreeMap<String, String> }
    /// One port of a gateway.
    Server {
        port: Option<Port>, bind: String, hosts: Vec<String>, tls: Option<ServerTls>, default_endpoint: String,
        name: String,
    }
    /// A port of a gateway.
    Port { number: u32, protocol: String, name: String, target_port: u32 }
    /// TLS of a gateway port or sidecar ingress.
    ServerTls {
        https_redirect: bool, mode: ServerTlsMode, server_certificate: String, private_key: String,
        ca_certificates: String, ca_crl: String, credential_name: String, credential_names: Vec<String>,
        ca_cert_credential_name: String, tls_certificates: Vec<TlsCertificate>, subject_alt_names: Vec<String>,
        verify_certificate_spki: Vec<String>, verify_certificate_hash: Vec<String>,
        min_protocol_version: TlsProtocol, max_protocol_version: TlsProtocol, cipher_suites: Vec<String>,
        ecdh_curves: Vec<String>, insecure_skip_verify: Option<bool>,
    }
    /// One of several certificates of a port.
    TlsCertificate { server_certificate: String, private_key: String, ca_certificates: String }

    /// A service outside of the registry.
    ServiceEntry {
        hosts: Vec<String>, addresses: Vec<String>, ports: Vec<ServicePort>, location: Location,
        resolution: Resolution, endpoints: Vec<WorkloadEntry>, workload_selector: Option<WorkloadSelector>,
        export_to: Vec<String>, subject_alt_names: Vec<String>,
    }
    /// A port of a service entry.
    ServicePort { number: u32, protocol: String, name: String, target_port: u32 }
    /// One workload: address, ports, labels.
    WorkloadEntry {
        address: String, ports: BTreeMap<String, u32>, labels: BTreeMap<String, String>, network: String,
        locality: String, weight: u32, service_account: String,
    }
    /// Template of workload entries.
    WorkloadGroup { metadata: Option<ObjectMeta>, template: Option<WorkloadEntry>, probe: Option<ReadinessProbe> }
    /// Labels and annotations for the entries of a group.
    ObjectMeta { labels: BTreeMap<String, String>, annotations: BTreeMap<String, String> }
    /// How readiness of a workload is found out.
    ReadinessProbe {
        initial_delay_seconds: i32, timeout_seconds: i32, period_seconds: i32, success_threshold: i32,
        failure_threshold: i32, http_get: Option<HttpHealthCheck>, tcp_socket: Option<TcpHealthCheck>,
        exec: Option<ExecHealthCheck>, grpc: Option<GrpcHealthCheck>,
    }
    @oneof [http_get, tcp_socket, exec, grpc]
    /// Probe by HTTP.
    HttpHealthCheck { path: String, port: u32, host: String, scheme: String, http_headers: Vec<HttpHeader> }
    /// Name and value.
    HttpHeader { name: String, value: String }
    /// Probe by connecting.
    TcpHealthCheck { host: String, port: u32 }
    /// Probe by command.
    ExecHealthCheck { command: Vec<String> }
    /// Probe by gRPC health.
    GrpcHealthCheck { port: u32, service: String }

    /// What a sidecar sees and serves.
    Sidecar {
        workload_selector: Option<WorkloadSelector>, ingress: Vec<IstioIngressListener>,
        egress: Vec<IstioEgressListener>, inbound_connection_pool: Option<ConnectionPoolSettings>,
        outbound_traffic_policy: Option<OutboundTrafficPolicy>,
    }
    /// An inbound port of a sidecar.
    IstioIngressListener {
        port: Option<SidecarPort>, bind: String, capture_mode: CaptureMode, default_endpoint: String,
        tls: Option<ServerTls>, connection_pool: Option<ConnectionPoolSettings>,
    }
    /// An outbound port of a sidecar and the hosts it may reach.
    IstioEgressListener { port: Option<SidecarPort>, bind: String, capture_mode: CaptureMode, hosts: Vec<String> }
    /// A port of a sidecar.
    SidecarPort { number: u32, protocol: String, name: String, target_port: u32 }
    /// What happens to unknown outbound traffic.
    OutboundTrafficPolicy { mode: OutboundTrafficPolicyMode, egress_proxy: Option<Destination>, tls: Option<ClientTls> }

    /// Start-up settings of the selected proxies (the CRD, not the mesh-wide message).
    ProxyConfig {
        selector: Option<LabelSelector>, concurrency: Option<i32>, environment_variables: BTreeMap<String, String>,
        image: Option<ProxyImage>,
    }
    /// Which image the proxy runs.
    ProxyImage { image_type: String }
}

choice! {
    /// Which port a redirect names.
    RedirectPortSelection { FromProtocolDefault = 0 "FROM_PROTOCOL_DEFAULT", FromRequestPort = 1 "FROM_REQUEST_PORT" }
    /// What to do with preflights of origins that do not match.
    UnmatchedPreflights { Unspecified = 0 "UNSPECIFIED", Forward = 1 "FORWARD", Ignore = 2 "IGNORE" }
    /// TLS mode of a gateway port.
    ServerTlsMode {
        Passthrough = 0 "PASSTHROUGH", Simple = 1 "SIMPLE", Mutual = 2 "MUTUAL",
        AutoPassthrough = 3 "AUTO_PASSTHROUGH", IstioMutual = 4 "ISTIO_MUTUAL", OptionalMutual = 5 "OPTIONAL_MUTUAL",
    }
    /// TLS version bound.
    TlsProtocol { Auto = 0 "TLS_AUTO", V1_0 = 1 "TLSV1_0", V1_1 = 2 "TLSV1_1", V1_2 = 3 "TLSV1_2", V1_3 = 4 "TLSV1_3" }
    /// Whether a service entry is outside of the mesh.
    Location { MeshExternal = 0 "MESH_EXTERNAL", MeshInternal = 1 "MESH_INTERNAL" }
    /// How endpoints of a service entry are found.
    Resolution {
        None = 0 "NONE", Static = 1 "STATIC", Dns = 2 "DNS", DnsRoundRobin = 3 "DNS_ROUND_ROBIN",
        DynamicDns = 4 "DYNAMIC_DNS",
    }
    /// Whether traffic to a sidecar listener is captured.
    CaptureMode { Default = 0 "DEFAULT", Iptables = 1 "IPTABLES", None = 2 "NONE" }
    /// What happens to unknown outbound traffic. In a `Sidecar` the zero value is `REGISTRY_ONLY`; absence of the
    /// whole block is `ALLOW_ANY`.
    OutboundTrafficPolicyMode {
        RegistryOnly = 0 "REGISTRY_ONLY", AllowAny = 1 "ALLOW_ANY", AllowAnyDynamicDns = 3 "ALLOW_ANY_DYNAMIC_DNS",
    }
}
