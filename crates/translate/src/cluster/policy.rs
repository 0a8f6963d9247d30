//! What does a destination rule's traffic policy do to a cluster? Connection pools, outlier detection, load
//! balancing, TLS, PROXY protocol. Follows `cluster_traffic_policy.go` and `cluster_tls.go`.

use api::destination_rule::{
    ConnectionPoolSettings, H2UpgradePolicy, LoadBalancerSettings, OutlierDetection, ProxyProtocolVersion, RetryBudget,
    SimpleLb, TcpKeepalive, Tls, TlsMode, TrafficPolicy,
};
use model::{MeshConfig, MtlsMode, Port, Registry, Resolution, Service};
use names::{ClusterName, PortProtocol};
use protos::envoy::config::cluster::v3 as cluster;
use protos::envoy::config::cluster::v3::cluster::{
    CommonLbConfig, LbConfig, LbPolicy, SlowStartConfig, TransportSocketMatch,
};
use protos::envoy::config::core::v3 as core;
use protos::envoy::r#type::v3 as typ;

use super::{Draft, default_thresholds, explicit_http2, mtls_match, use_downstream};
use crate::Inputs;
use crate::tls::{self, UpstreamFacts};
use crate::wire::{any, api_duration, raw_buffer, transport_socket};

/// Which kind of outbound cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterMode {
    /// `outbound|…`.
    Default,
    /// `outbound_.…`: TLS is passed on by SNI.
    SniDnat,
}

/// What the policies of one cluster depend on.
pub(crate) struct Context<'a> {
    pub(crate) inputs: &'a Inputs,
    pub(crate) service: &'a Service,
    pub(crate) port: &'a Port,
    pub(crate) mode: ClusterMode,
    pub(crate) subset: &'a str,
    pub(crate) policy: Option<TrafficPolicy>,
    pub(crate) rule_has_selector: bool,
}

/// The policy of a port: a port-level block replaces the four blocks it may hold, stated or not.
pub fn for_port(policy: Option<&TrafficPolicy>, port: u16) -> Option<TrafficPolicy> {
    let policy = policy?;
    let mut out = policy.clone();
    override_port(&mut out, policy, port);
    Some(out)
}

fn override_port(out: &mut TrafficPolicy, levels: &TrafficPolicy, port: u16) {
    let level =
        levels.port_level_settings.iter().find(|l| l.port.as_ref().is_some_and(|p| p.number == u32::from(port)));
    if let Some(level) = level {
        out.connection_pool = level.connection_pool.clone();
        out.load_balancer = level.load_balancer.clone();
        out.outlier_detection = level.outlier_detection.clone();
        out.tls = level.tls.clone();
    }
}

/// The policy of a subset over that of its host: block by block, then the subset's port-level block.
pub fn for_subset(base: Option<TrafficPolicy>, subset: Option<&TrafficPolicy>, port: u16) -> Option<TrafficPolicy> {
    let Some(subset) = subset else { return base };
    let mut out = base.unwrap_or_default();
    out.connection_pool = subset.connection_pool.clone().or(out.connection_pool);
    out.load_balancer = subset.load_balancer.clone().or(out.load_balancer);
    out.outlier_detection = subset.outlier_detection.clone().or(out.outlier_detection);
    out.tls = subset.tls.clone().or(out.tls);
    out.proxy_protocol = subset.proxy_protocol.clone().or(out.proxy_protocol);
    out.retry_budget = subset.retry_budget.clone().or(out.retry_budget);
    out.tunnel = subset.tunnel.clone().or(out.tunnel);
    override_port(&mut out, subset, port);
    Some(out)
}

/// Applies the policy to an outbound cluster.
pub(crate) fn apply(draft: &mut Draft, context: &Context<'_>) {
    let mesh = context.inputs.mesh();
    let empty = TrafficPolicy::default();
    let policy = context.policy.as_ref().unwrap_or(&empty);
    let defaults = mesh.default_traffic_policy.as_ref();
    let pool = policy.connection_pool.as_ref().or_else(|| defaults?.connection_pool.as_ref());
    connection_pool(draft, mesh, pool, policy.retry_budget.as_ref());
    h2_upgrade(draft, context.port, mesh, pool);
    if let Some(outlier) = policy.outlier_detection.as_ref().or_else(|| defaults?.outlier_detection.as_ref()) {
        outlier_detection(draft, outlier);
    }
    load_balancer(draft, context, policy.load_balancer.as_ref());
    if context.mode == ClusterMode::Default {
        upstream_tls(draft, context, policy.tls.as_ref());
        if let Some(proxy_protocol) = &policy.proxy_protocol {
            upstream_proxy_protocol(draft, proxy_protocol.version);
        }
    }
    if draft.is_original_dst() {
        draft.cluster.lb_policy = LbPolicy::ClusterProvided as i32;
    }
    draft.cluster.filters = super::exchange_filters(context.inputs);
}

fn positive(n: i32) -> Option<u32> {
    u32::try_from(n).ok().filter(|n| *n > 0)
}

/// Circuit breakers of a connection pool.
pub(crate) fn thresholds(pool: Option<&ConnectionPoolSettings>) -> cluster::circuit_breakers::Thresholds {
    let mut out = default_thresholds();
    if let Some(http) = pool.and_then(|p| p.http.as_ref()) {
        out.max_requests = positive(http.http2_max_requests).or(out.max_requests);
        out.max_pending_requests = positive(http.http1_max_pending_requests).or(out.max_pending_requests);
        out.max_retries = positive(http.max_retries).or(out.max_retries);
    }
    if let Some(tcp) = pool.and_then(|p| p.tcp.as_ref()) {
        out.max_connections = positive(tcp.max_connections).or(out.max_connections);
    }
    out
}

/// Thresholds, timeouts and keep-alive.
pub(crate) fn connection_pool(
    draft: &mut Draft,
    mesh: &MeshConfig,
    pool: Option<&ConnectionPoolSettings>,
    budget: Option<&RetryBudget>,
) {
    let mut thresholds = thresholds(pool);
    let http = pool.and_then(|p| p.http.as_ref());
    let tcp = pool.and_then(|p| p.tcp.as_ref());
    if let Some(timeout) = tcp.and_then(|t| t.connect_timeout) {
        draft.cluster.connect_timeout = Some(api_duration(timeout));
    }
    if let Some(budget) = budget {
        // Envoy's own default of the percentage is 20.
        thresholds.max_retries = None;
        thresholds.retry_budget = Some(cluster::circuit_breakers::thresholds::RetryBudget {
            budget_percent: Some(typ::Percent { value: budget.percent.unwrap_or(20.0) }),
            min_retry_concurrency: Some(if budget.min_retry_concurrency == 0 {
                3
            } else {
                budget.min_retry_concurrency
            }),
            budget_interval: budget.budget_interval.map(api_duration),
        });
    }
    keepalive(&mut draft.cluster, mesh, tcp.and_then(|t| t.tcp_keepalive.as_ref()));
    draft.cluster.circuit_breakers =
        Some(cluster::CircuitBreakers { thresholds: vec![thresholds], ..Default::default() });

    let idle = http.and_then(|h| h.idle_timeout).or_else(|| tcp.and_then(|t| t.idle_timeout));
    let max_duration = tcp.and_then(|t| t.max_connection_duration);
    let max_requests = http.and_then(|h| positive(h.max_requests_per_connection));
    let max_streams = http.and_then(|h| positive(h.max_concurrent_streams));
    if idle.is_some() || max_duration.is_some() || max_requests.is_some() || max_streams.is_some() {
        let common = draft.http().common_http_protocol_options.get_or_insert_default();
        common.idle_timeout = idle.map(api_duration);
        common.max_connection_duration = max_duration.map(api_duration);
        common.max_requests_per_connection = max_requests;
    }
    let ping = http.and_then(|h| h.http2_keep_alive.as_ref());
    if max_streams.is_some() || ping.is_some() {
        use protos::envoy::extensions::upstreams::http::v3::http_protocol_options as o;
        if let Some(o::UpstreamProtocolOptions::ExplicitHttpConfig(c)) = &mut draft.http().upstream_protocol_options
            && let Some(o::explicit_http_config::ProtocolConfig::Http2ProtocolOptions(h2)) = &mut c.protocol_config
        {
            h2.max_concurrent_streams = max_streams.or(h2.max_concurrent_streams);
            h2.connection_keepalive = ping.map(|p| core::KeepaliveSettings {
                interval: p.interval.map(api_duration),
                timeout: p.timeout.map(api_duration),
                ..Default::default()
            });
        }
    }
    if http.is_some_and(|h| h.use_client_protocol) {
        draft.http().upstream_protocol_options = Some(use_downstream());
    }
}

/// TCP keep-alive: the rule's over the mesh's.
pub(crate) fn keepalive(c: &mut cluster::Cluster, mesh: &MeshConfig, rule: Option<&TcpKeepalive>) {
    let seconds =
        |d: Option<api::Duration>| d.and_then(|d| u32::try_from(d.to_std().as_secs()).ok()).filter(|s| *s > 0);
    let nonzero = |n: u32| (n > 0).then_some(n);
    let mesh = mesh.tcp_keepalive.as_ref();
    if rule.is_none() && mesh.is_none() {
        return;
    }
    let tcp_keepalive = core::TcpKeepalive {
        keepalive_probes: rule.and_then(|r| nonzero(r.probes)).or_else(|| nonzero(mesh?.probes)),
        keepalive_time: rule.and_then(|r| seconds(r.time)).or_else(|| nonzero(mesh?.time_s)),
        keepalive_interval: rule.and_then(|r| seconds(r.interval)).or_else(|| nonzero(mesh?.interval_s)),
    };
    c.upstream_connection_options =
        Some(cluster::UpstreamConnectionOptions { tcp_keepalive: Some(tcp_keepalive), ..Default::default() });
}

fn h2_upgrade(draft: &mut Draft, port: &Port, mesh: &MeshConfig, pool: Option<&ConnectionPoolSettings>) {
    let http = pool.and_then(|p| p.http.as_ref());
    let upgrade = match http.map(|h| h.h2_upgrade_policy) {
        Some(H2UpgradePolicy::Upgrade) => true,
        Some(H2UpgradePolicy::DoNotUpgrade) => false,
        // Only ports that say HTTP: what is sniffed keeps the client's protocol.
        _ => mesh.h2_upgrade && port.protocol.is_http() && !http.is_some_and(|h| h.use_client_protocol),
    };
    if upgrade && !draft.is_http2() {
        draft.http().upstream_protocol_options = Some(explicit_http2());
    }
}

fn outlier_detection(draft: &mut Draft, o: &OutlierDetection) {
    let enforce = |n: u32| Some(if n > 0 { 100 } else { 0 });
    let mut out = cluster::OutlierDetection {
        enforcing_success_rate: Some(0),
        consecutive_5xx: o.consecutive_5xx_errors,
        enforcing_consecutive_5xx: o.consecutive_5xx_errors.and_then(enforce),
        consecutive_gateway_failure: o.consecutive_gateway_errors,
        enforcing_consecutive_gateway_failure: o.consecutive_gateway_errors.and_then(enforce),
        interval: o.interval.map(api_duration),
        base_ejection_time: o.base_ejection_time.map(api_duration),
        max_ejection_percent: positive(o.max_ejection_percent),
        ..Default::default()
    };
    if o.split_external_local_origin_errors {
        out.split_external_local_origin_errors = true;
        if let Some(n) = o.consecutive_local_origin_failures.filter(|n| *n > 0) {
            out.consecutive_local_origin_failure = Some(n);
            out.enforcing_consecutive_local_origin_failure = Some(100);
        }
        out.enforcing_local_origin_success_rate = Some(0);
    }
    draft.cluster.outlier_detection = Some(out);
    // Small services: spreading over unhealthy hosts is worse than using the healthy few.
    let percent = f64::from(o.min_health_percent.max(0));
    lb_config(draft).healthy_panic_threshold = Some(typ::Percent { value: percent });
    if !o.outlier_detection_http_error_codes.is_empty() {
        use protos::envoy::config::common::matcher::v3 as m;
        use protos::envoy::config::route::v3::{HeaderMatcher, header_matcher::HeaderMatchSpecifier};
        use protos::envoy::extensions::upstreams::http::v3::http_protocol_options as options;
        let exact = |code: &u32| {
            crate::wire::string_matcher(protos::envoy::r#type::matcher::v3::string_matcher::MatchPattern::Exact(
                code.to_string(),
            ))
        };
        let rules = o.outlier_detection_http_error_codes.iter().map(|code| m::MatchPredicate {
            rule: Some(m::match_predicate::Rule::HttpResponseHeadersMatch(m::HttpHeadersMatch {
                headers: vec![HeaderMatcher {
                    name: ":status".to_owned(),
                    header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(exact(code))),
                    ..Default::default()
                }],
            })),
        });
        let mut rules: Vec<_> = rules.collect();
        let rule = if rules.len() == 1 {
            rules.remove(0)
        } else {
            let set = m::match_predicate::MatchSet { rules };
            m::MatchPredicate { rule: Some(m::match_predicate::Rule::OrMatch(set)) }
        };
        draft.http().outlier_detection = Some(options::OutlierDetection { error_matcher: Some(rule) });
    }
}

fn lb_config(draft: &mut Draft) -> &mut CommonLbConfig {
    draft.cluster.common_lb_config.get_or_insert_default()
}

fn load_balancer(draft: &mut Draft, context: &Context<'_>, lb: Option<&LoadBalancerSettings>) {
    use cluster::cluster::common_lb_config::{LocalityConfigSpecifier, ZoneAwareLbConfig};
    let mesh = context.inputs.mesh();
    let settings = crate::locality::setting(mesh, lb);
    let failover = draft.cluster.outlier_detection.is_some();
    let effective = crate::locality::effective(
        mesh.locality_lb_setting.as_ref(),
        mesh.zone_aware_lb_setting.as_ref(),
        lb,
        context.service.traffic_distribution,
    );
    if let Some(zone) = effective.zone_aware.as_ref().filter(|_| effective.routing) {
        lb_config(draft).locality_config_specifier =
            Some(LocalityConfigSpecifier::ZoneAwareLbConfig(ZoneAwareLbConfig {
                min_cluster_size: zone.min_cluster_size.map(u64::from),
                ..Default::default()
            }));
    } else if settings.is_some_and(|s| {
        !s.distribute.is_empty() || (failover && (!s.failover.is_empty() || !s.failover_priority.is_empty()))
    }) {
        lb_config(draft).locality_config_specifier =
            Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(Default::default()));
    }
    if draft.is_original_dst() || matches!(context.service.resolution, Resolution::DynamicDns) {
        draft.cluster.lb_policy = LbPolicy::ClusterProvided as i32;
        return;
    }
    let slow_start = lb.and_then(slow_start);
    match lb.and_then(|l| l.simple) {
        Some(SimpleLb::Random) => draft.cluster.lb_policy = LbPolicy::Random as i32,
        Some(SimpleLb::RoundRobin) => {
            draft.cluster.lb_policy = LbPolicy::RoundRobin as i32;
            draft.cluster.lb_config = slow_start.map(|s| {
                LbConfig::RoundRobinLbConfig(cluster::cluster::RoundRobinLbConfig { slow_start_config: Some(s) })
            });
        }
        // Clients that shard keys want the same host for the same key.
        None if context.port.protocol == PortProtocol::Redis => draft.cluster.lb_policy = LbPolicy::Maglev as i32,
        _ => {
            draft.cluster.lb_policy = LbPolicy::LeastRequest as i32;
            draft.cluster.lb_config = slow_start.map(|s| {
                LbConfig::LeastRequestLbConfig(cluster::cluster::LeastRequestLbConfig {
                    slow_start_config: Some(s),
                    ..Default::default()
                })
            });
        }
    }
    let Some(hash) = lb.and_then(|l| l.consistent_hash.as_ref()) else {
        return;
    };
    if let Some(maglev) = &hash.maglev {
        draft.cluster.lb_policy = LbPolicy::Maglev as i32;
        draft.cluster.lb_config = (maglev.table_size > 0).then(|| {
            LbConfig::MaglevLbConfig(cluster::cluster::MaglevLbConfig { table_size: Some(maglev.table_size.into()) })
        });
        return;
    }
    // 1024 is Istio's minimum and Envoy's default.
    let stated = hash.ring_hash.as_ref().map_or(hash.minimum_ring_size, |r| r.minimum_ring_size);
    let size = if stated == 0 { 1024 } else { stated };
    draft.cluster.lb_policy = LbPolicy::RingHash as i32;
    draft.cluster.lb_config = Some(LbConfig::RingHashLbConfig(cluster::cluster::RingHashLbConfig {
        minimum_ring_size: Some(size.into()),
        ..Default::default()
    }));
}

fn slow_start(lb: &LoadBalancerSettings) -> Option<SlowStartConfig> {
    if let Some(warmup) = &lb.warmup {
        return Some(SlowStartConfig {
            slow_start_window: warmup.duration.map(api_duration),
            aggression: warmup
                .aggression
                .map(|a| core::RuntimeDouble { default_value: a, runtime_key: "lb.slow_start.aggression".to_owned() }),
            min_weight_percent: warmup.minimum_percent.map(|value| typ::Percent { value }),
        });
    }
    lb.warmup_duration_secs.map(|d| SlowStartConfig { slow_start_window: Some(api_duration(d)), ..Default::default() })
}

/// Whether clients should try mesh mTLS with a service that no rule speaks about: policies of its namespace and, for
/// connections that keep their destination, its endpoints decide.
fn auto_mtls(context: &Context<'_>, draft: &Draft) -> bool {
    let snapshot = context.inputs.snapshot();
    let service = context.service;
    if service.mesh_external || !snapshot.mesh.enable_auto_mtls {
        return false;
    }
    if service.resolution == Resolution::Passthrough || draft.is_original_dst() {
        let endpoints = snapshot.endpoints_of(service);
        let mut of_port = endpoints.iter().filter(|e| e.service_port == context.port.name).peekable();
        if of_port.peek().is_none() || of_port.any(|e| !e.workload.speaks_mtls) {
            return false;
        }
    }
    let root = &snapshot.mesh.root_namespace;
    let none = names::Labels::new();
    let own = model::security::peer_authentication(&snapshot.peer_authentications, &service.namespace, &none, root);
    own.mode != MtlsMode::Disable
}

/// Mesh mTLS with the workload's identity, or with the files that its metadata names.
fn mesh_socket(
    context: &Context<'_>,
    draft: &Draft,
    sans: &[String],
    sni: &str,
    exchange: bool,
) -> core::TransportSocket {
    if let Some(files) = tls::CertFiles::client(context.inputs.proxy()) {
        let settings = Tls {
            mode: TlsMode::Mutual,
            client_certificate: files.chain.to_owned(),
            private_key: files.key.to_owned(),
            ca_certificates: files.root.to_owned(),
            subject_alt_names: sans.to_vec(),
            sni: sni.to_owned(),
            ..Default::default()
        };
        let facts = UpstreamFacts {
            inputs: context.inputs,
            service_sans: &[],
            http2: draft.is_http2(),
            rule_has_selector: context.rule_has_selector,
        };
        if let Some(own) = tls::originate(&settings, facts) {
            return tls::upstream_socket(&own);
        }
    }
    tls::upstream_socket(&tls::outbound_mtls(sans, sni, draft.is_http2(), exchange))
}

fn upstream_tls(draft: &mut Draft, context: &Context<'_>, tls: Option<&Tls>) {
    let snapshot = context.inputs.snapshot();
    let identities = || snapshot.identities_of(context.service).into_iter().collect::<Vec<_>>();
    let default_sni = ClusterName::outbound(context.port.number, context.subset, &context.service.hostname).to_sni();
    let exchange = context.inputs.proxy().capabilities.peer_metadata;
    match tls {
        Some(t) if t.mode == TlsMode::Disable => {}
        Some(t) if t.mode == TlsMode::IstioMutual => {
            let sans = if t.subject_alt_names.is_empty() { identities() } else { t.subject_alt_names.clone() };
            let sni = if t.sni.is_empty() { &default_sni } else { &t.sni };
            if context.service.resolution == Resolution::DynamicDns {
                auto_sni(draft, t);
            }
            let socket = mesh_socket(context, draft, &sans, sni, exchange);
            draft.cluster.transport_socket = Some(socket);
        }
        Some(t) => {
            auto_sni(draft, t);
            let sans = match context.service.registry {
                Registry::External => context.service.subject_alt_names.clone(),
                Registry::Kubernetes => Vec::new(),
            };
            let facts = UpstreamFacts {
                inputs: context.inputs,
                service_sans: &sans,
                http2: draft.is_http2(),
                rule_has_selector: context.rule_has_selector,
            };
            draft.cluster.transport_socket = tls::originate(t, facts).map(|c| tls::upstream_socket(&c));
        }
        None if auto_mtls(context, draft) => {
            let socket = mesh_socket(context, draft, &identities(), &default_sni, exchange);
            if draft.is_original_dst() {
                draft.cluster.transport_socket = Some(socket);
                return;
            }
            draft.cluster.transport_socket_matches = vec![
                TransportSocketMatch {
                    name: "tlsMode-istio".to_owned(),
                    r#match: Some(mtls_match()),
                    transport_socket: Some(socket),
                },
                TransportSocketMatch {
                    name: "tlsMode-disabled".to_owned(),
                    r#match: Some(Default::default()),
                    transport_socket: Some(raw_buffer()),
                },
            ];
        }
        None => {}
    }
}

/// Without a stated SNI the request's host is used, and verified unless names were stated.
fn auto_sni(draft: &mut Draft, tls: &Tls) {
    if !tls.sni.is_empty() {
        return;
    }
    let verify = tls.subject_alt_names.is_empty() && tls.insecure_skip_verify != Some(true);
    let options = draft.http().upstream_http_protocol_options.get_or_insert_default();
    options.auto_sni = true;
    options.auto_san_validation = verify;
}

fn upstream_proxy_protocol(draft: &mut Draft, version: ProxyProtocolVersion) {
    use protos::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
    let wrap = |inner: core::TransportSocket| {
        use core::proxy_protocol_config::Version;
        let config = ProxyProtocolUpstreamTransport {
            config: Some(core::ProxyProtocolConfig {
                version: match version {
                    ProxyProtocolVersion::V1 => Version::V1,
                    ProxyProtocolVersion::V2 => Version::V2,
                } as i32,
                ..Default::default()
            }),
            transport_socket: Some(inner),
            ..Default::default()
        };
        transport_socket("envoy.transport_sockets.upstream_proxy_protocol", any(&config))
    };
    if draft.cluster.transport_socket_matches.is_empty() {
        let inner = draft.cluster.transport_socket.take().unwrap_or_else(raw_buffer);
        draft.cluster.transport_socket = Some(wrap(inner));
        return;
    }
    for m in &mut draft.cluster.transport_socket_matches {
        m.transport_socket = m.transport_socket.take().map(wrap);
    }
}
