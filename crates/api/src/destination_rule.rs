//! What does a `DestinationRule` say? Traffic policies, which `MeshConfig` and `Sidecar` share in part.

use std::collections::BTreeMap;

use crate::networking::LabelSelector;
use crate::scalar::Duration;
use crate::{choice, shape};

shape! {
    /// Policies for traffic to a host.
    DestinationRule {
        host: String, traffic_policy: Option<TrafficPolicy>, subsets: Vec<Subset>, export_to: Vec<String>,
        workload_selector: Option<LabelSelector>,
    }
    /// A named part of a service's endpoints.
    Subset { name: String, labels: BTreeMap<String, String>, traffic_policy: Option<TrafficPolicy> }
    /// How to connect to, balance over and watch the endpoints.
    TrafficPolicy {
        load_balancer: Option<LoadBalancerSettings>, connection_pool: Option<ConnectionPoolSettings>,
        outlier_detection: Option<OutlierDetection>, tls: Option<Tls>, port_level_settings: Vec<PortTrafficPolicy>,
        tunnel: Option<TunnelSettings>, proxy_protocol: Option<ProxyProtocol>, retry_budget: Option<RetryBudget>,
    }
    /// The policy for one port.
    PortTrafficPolicy {
        port: Option<crate::networking::PortSelector>, load_balancer: Option<LoadBalancerSettings>,
        connection_pool: Option<ConnectionPoolSettings>, outlier_detection: Option<OutlierDetection>, tls: Option<Tls>,
    }
    /// TCP in HTTP.
    TunnelSettings { protocol: String, target_host: String, target_port: u32 }
    /// PROXY protocol towards the upstream.
    ProxyProtocol { version: ProxyProtocolVersion }
    /// Limit on concurrent retries.
    RetryBudget { percent: Option<f64>, min_retry_concurrency: u32, budget_interval: Option<Duration> }
    /// Load balancing.
    LoadBalancerSettings {
        simple: Option<SimpleLb>, consistent_hash: Option<ConsistentHashLb>,
        backend_utilization: Option<BackendUtilization>,
        locality_lb_setting: Option<LocalityLoadBalancerSetting>,
        zone_aware_lb_setting: Option<ZoneAwareLoadBalancerSetting>, warmup_duration_secs: Option<Duration>,
        warmup: Option<WarmupConfiguration>,
    }
    @oneof [simple, consistent_hash, backend_utilization]
    /// ORCA weights. Read and reported; Istio does not implement it either.
    BackendUtilization {
        error_utilization_penalty_percent: Option<u32>, metric_names_for_computing_utilization: Vec<String>,
        weight_expiration_period: Option<Duration>, weight_stabilization_period: Option<Duration>,
        weight_update_period: Option<Duration>,
    }
    /// Affinity by hash.
    ConsistentHashLb {
        http_header_name: Option<String>, http_cookie: Option<HttpCookie>, use_source_ip: Option<bool>,
        http_query_parameter_name: Option<String>, ring_hash: Option<RingHash>, maglev: Option<MagLev>,
        minimum_ring_size: u32,
    }
    @oneof [http_header_name, http_cookie, use_source_ip, http_query_parameter_name]
    @oneof [ring_hash, maglev]
    /// Ring hash parameters.
    RingHash { minimum_ring_size: u32 }
    /// Maglev parameters.
    MagLev { table_size: u32 }
    /// Affinity cookie.
    HttpCookie { name: String, path: String, ttl: Option<Duration>, attributes: Vec<CookieAttribute> }
    /// Further attribute of an affinity cookie.
    CookieAttribute { name: String, value: String }
    /// Slow start.
    WarmupConfiguration { duration: Option<Duration>, minimum_percent: Option<f64>, aggression: Option<f64> }
    /// Balancing between localities.
    LocalityLoadBalancerSetting {
        distribute: Vec<Distribute>, failover: Vec<Failover>, failover_priority: Vec<String>, enabled: Option<bool>,
    }
    /// Weights from one locality to others.
    Distribute { from: String, to: BTreeMap<String, u32> }
    /// Where traffic of a region goes when it fails.
    Failover { from: String, to: String }
    /// Envoy's zone-aware balancing.
    ZoneAwareLoadBalancerSetting {
        enabled: Option<bool>, failover: Vec<Failover>, failover_priority: Vec<String>, min_cluster_size: Option<u32>,
    }
    /// Connection pools.
    ConnectionPoolSettings { tcp: Option<TcpSettings>, http: Option<HttpSettings> }
    /// TCP (and HTTP/1) connections.
    TcpSettings {
        max_connections: i32, connect_timeout: Option<Duration>, tcp_keepalive: Option<TcpKeepalive>,
        max_connection_duration: Option<Duration>, idle_timeout: Option<Duration>,
    }
    /// `SO_KEEPALIVE`.
    TcpKeepalive { probes: u32, time: Option<Duration>, interval: Option<Duration> }
    /// HTTP requests.
    HttpSettings {
        http1_max_pending_requests: i32, http2_max_requests: i32, max_requests_per_connection: i32, max_retries: i32,
        idle_timeout: Option<Duration>, h2_upgrade_policy: H2UpgradePolicy, use_client_protocol: bool,
        max_concurrent_streams: i32, http2_keep_alive: Option<Http2KeepAlive>,
    }
    /// HTTP/2 PING.
    Http2KeepAlive { interval: Option<Duration>, timeout: Option<Duration> }
    /// Passive health checking.
    OutlierDetection {
        consecutive_errors: i32, split_external_local_origin_errors: bool,
        consecutive_local_origin_failures: Option<u32>, consecutive_gateway_errors: Option<u32>,
        consecutive_5xx_errors: Option<u32>, interval: Option<Duration>, base_ejection_time: Option<Duration>,
        max_ejection_percent: i32, min_health_percent: i32, outlier_detection_http_error_codes: Vec<u32>,
    }
    /// TLS towards the upstream.
    Tls {
        mode: TlsMode, client_certificate: String, private_key: String, ca_certificates: String,
        credential_name: String, subject_alt_names: Vec<String>, sni: String, insecure_skip_verify: Option<bool>,
        ca_crl: String,
    }
}

choice! {
    /// PROXY protocol version.
    ProxyProtocolVersion { V1 = 0 "V1", V2 = 1 "V2" }
    /// Algorithm without parameters.
    SimpleLb {
        Unspecified = 0 "UNSPECIFIED", LeastConn = 1 "LEAST_CONN", Random = 2 "RANDOM", Passthrough = 3 "PASSTHROUGH",
        RoundRobin = 4 "ROUND_ROBIN", LeastRequest = 5 "LEAST_REQUEST",
    }
    /// Whether HTTP/1.1 becomes HTTP/2 upstream.
    H2UpgradePolicy { Default = 0 "DEFAULT", DoNotUpgrade = 1 "DO_NOT_UPGRADE", Upgrade = 2 "UPGRADE" }
    /// TLS mode towards the upstream.
    TlsMode { Disable = 0 "DISABLE", Simple = 1 "SIMPLE", Mutual = 2 "MUTUAL", IstioMutual = 3 "ISTIO_MUTUAL" }
}
