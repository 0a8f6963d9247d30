//! How is a `Cluster` compiled?

use std::sync::Arc;
use std::time::Duration;

use protos::envoy::config::cluster::v3 as p;
use protos::envoy::config::core::v3 as core;
use protos::envoy::extensions as ext;

use super::any::{Typed, no_config};
use super::common::{self, config_source, metadata, metadata_key, opt_duration, opt_name, required};
use super::{each, lb, options, reject};
use crate::cluster::*;
use crate::common::Backoff;
use crate::error::{At, Result, invalid, missing, unsupported};
use crate::hcm::{CommonHttp, Http1Options, Http2Options};
use crate::matcher::HeaderName;

const BUFFER_BYTES: u32 = 1024 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// Compiles a `Cluster`.
pub fn cluster(c: &p::Cluster) -> Result<Cluster> {
    reject!(c; transport_socket_matcher, stats_matcher, lrs_server, lrs_report_endpoint_metrics, upstream_config,
        queuing_policies, per_connection_buffer_high_watermark_timeout);
    let discovery = discovery(c)?;
    let lb = lb::config(c)?;
    check_policy(&discovery, &lb.policy)?;
    if lb.use_hostname_for_hashing
        && c.common_lb_config.as_ref().is_some_and(|l| l.consistent_hashing_lb_config.is_some())
        && !matches!(discovery, Discovery::StrictDns(..) | Discovery::LogicalDns(..))
    {
        return Err(invalid("Cannot use hostname for consistent hashing loadbalancing for this type of cluster")
            .at("consistent_hashing_lb_config")
            .at("common_lb_config"));
    }
    let http = http(c)?;
    let health_checks = health_checks(c)?;
    let grpc = health_checks.iter().any(|h| matches!(h.probe, HealthProbe::Grpc { .. }));
    if grpc && http.protocol == UpstreamProtocol::Http1 {
        let reason = format!("{} cluster must support HTTP/2 for gRPC healthchecking", c.name);
        return Err(invalid(reason).at("health_checks"));
    }
    let connection = c.upstream_connection_options.unwrap_or_default();
    let track = c.track_cluster_stats.unwrap_or_default();
    let options = ClusterOptions {
        lb: Arc::new(lb),
        connect_timeout: opt_duration("connect_timeout", &c.connect_timeout)?.unwrap_or(CONNECT_TIMEOUT),
        per_connection_buffer_limit_bytes: c.per_connection_buffer_limit_bytes.unwrap_or(BUFFER_BYTES),
        circuit_breakers: c.circuit_breakers.as_ref().map(breakers).transpose().at("circuit_breakers")?.map(Arc::new),
        outlier_detection: c.outlier_detection.as_ref().map(outlier).transpose().at("outlier_detection")?.map(Arc::new),
        http: Arc::new(http),
        health_checks,
        bind: c.upstream_bind_config.as_ref().map(bind).transpose().at("upstream_bind_config")?.map(Arc::new),
        tcp_keepalive: connection.tcp_keepalive.map(|k| TcpKeepalive {
            probes: k.keepalive_probes,
            time_s: k.keepalive_time,
            interval_s: k.keepalive_interval,
        }),
        filters: each("filters", &c.filters, |f| {
            reject!(f; config_discovery);
            let any = f.typed_config.as_ref().ok_or_else(|| no_config(&f.name))?;
            super::network::filter(&f.name, any)
        })?,
        max_requests_per_connection: c.max_requests_per_connection.filter(|n| *n > 0),
        preconnect: c.preconnect_policy.as_ref().map(|p| Preconnect {
            per_upstream_ratio: p.per_upstream_preconnect_ratio.unwrap_or(1.0),
            predictive_ratio: p.predictive_preconnect_ratio.unwrap_or(1.0),
        }),
        close_connections_on_host_health_failure: c.close_connections_on_host_health_failure,
        ignore_health_on_host_removal: c.ignore_health_on_host_removal,
        connection_pool_per_downstream_connection: c.connection_pool_per_downstream_connection,
        set_local_interface_name: connection.set_local_interface_name_on_upstream_connections,
        track: TrackStats {
            timeout_budgets: track.timeout_budgets || c.track_timeout_budgets,
            request_response_sizes: track.request_response_sizes,
            per_endpoint: track.per_endpoint_stats,
        },
    };
    Ok(Cluster {
        name: required("name", &c.name)?,
        alt_stat_name: opt_name(&c.alt_stat_name),
        discovery,
        transport: transport(c.transport_socket.as_ref()).at("transport_socket")?,
        transport_matches: matches(c)?,
        metadata: metadata(&c.metadata),
        options: Arc::new(options),
    })
}

fn check_policy(discovery: &Discovery, policy: &LbPolicy) -> Result<()> {
    let provided = matches!(policy, LbPolicy::ClusterProvided);
    match discovery {
        Discovery::OriginalDst(_) if !provided => Err(invalid(
            "cluster: LB policy is not valid for Cluster type ORIGINAL_DST. Only 'CLUSTER_PROVIDED' is allowed with cluster type 'ORIGINAL_DST'",
        )),
        Discovery::Static(_) | Discovery::StrictDns(..) | Discovery::LogicalDns(..) | Discovery::Eds { .. } if provided => {
            Err(invalid("cluster: LB policy CLUSTER_PROVIDED is not valid for this cluster type"))
        }
        _ => Ok(()),
    }
    .at("lb_policy")
}

fn matches(c: &p::Cluster) -> Result<Arc<[TransportMatch]>> {
    if c.transport_socket_matches.is_empty() {
        return Ok(Arc::default());
    }
    each("transport_socket_matches", &c.transport_socket_matches, |m| {
        Ok(TransportMatch {
            name: required("name", &m.name)?,
            criteria: m.r#match.as_ref().map(|s| common::entries(s).to_vec().into()).unwrap_or_default(),
            transport: transport(m.transport_socket.as_ref()).at("transport_socket")?,
        })
    })
}

fn assignment(c: &p::Cluster) -> Result<Arc<LoadAssignment>> {
    let a = c.load_assignment.as_ref().map(super::load_assignment).transpose().at("load_assignment")?;
    Ok(Arc::new(a.unwrap_or_default()))
}

fn dns_family(n: i32) -> Result<DnsFamily> {
    Ok(match n {
        0 => DnsFamily::Auto,
        1 => DnsFamily::V4Only,
        2 => DnsFamily::V6Only,
        3 => DnsFamily::V4Preferred,
        4 => DnsFamily::All,
        n => return Err(invalid(format!("unknown value {n}")).at("dns_lookup_family")),
    })
}

const DNS_REFRESH: Duration = Duration::from_secs(5);

fn dns(c: &p::Cluster) -> Result<DnsConfig> {
    Ok(DnsConfig {
        refresh_rate: opt_duration("dns_refresh_rate", &c.dns_refresh_rate)?.unwrap_or(DNS_REFRESH),
        respect_ttl: c.respect_dns_ttl,
        family: dns_family(c.dns_lookup_family)?,
        failure_refresh: refresh_rate("dns_failure_refresh_rate", &c.dns_failure_refresh_rate)?,
        jitter: opt_duration("dns_jitter", &c.dns_jitter)?.unwrap_or_default(),
    })
}

fn refresh_rate(field: &str, r: &Option<p::cluster::RefreshRate>) -> Result<Option<Backoff>> {
    r.as_ref().map(|r| common::backoff(&r.base_interval, &r.max_interval)).transpose().at(field)
}

fn discovery(c: &p::Cluster) -> Result<Discovery> {
    use p::cluster::{ClusterDiscoveryType as T, DiscoveryType as D};
    let kind = match &c.cluster_discovery_type {
        None => D::Static,
        Some(T::Type(n)) => D::try_from(*n).map_err(|_| invalid(format!("unknown value {n}")).at("type"))?,
        Some(T::ClusterType(t)) => return custom(c, t).at("typed_config").at("cluster_type"),
    };
    Ok(match kind {
        D::Static => Discovery::Static(assignment(c)?),
        D::StrictDns => Discovery::StrictDns(assignment(c)?, dns(c)?),
        D::LogicalDns => Discovery::LogicalDns(one_endpoint(assignment(c)?)?, dns(c)?),
        D::Eds => {
            let eds = c.eds_cluster_config.as_ref().ok_or_else(|| missing("eds_cluster_config"))?;
            let source = eds.eds_config.as_ref().ok_or_else(|| missing("eds_config").at("eds_cluster_config"))?;
            Discovery::Eds {
                service_name: if eds.service_name.is_empty() { c.name.as_str() } else { &eds.service_name }.into(),
                source: config_source(source).at("eds_config").at("eds_cluster_config")?,
            }
        }
        D::OriginalDst => Discovery::OriginalDst(original_dst(c)?),
    })
}

fn one_endpoint(a: Arc<LoadAssignment>) -> Result<Arc<LoadAssignment>> {
    if a.localities.len() == 1 && a.localities[0].endpoints.len() == 1 {
        Ok(a)
    } else {
        Err(invalid("LOGICAL_DNS clusters must have a single locality_lb_endpoint and a single lb_endpoint")
            .at("load_assignment"))
    }
}

fn original_dst(c: &p::Cluster) -> Result<OriginalDst> {
    let o = match &c.lb_config {
        Some(p::cluster::LbConfig::OriginalDstLbConfig(o)) => o.clone(),
        _ => Default::default(),
    };
    let header = if o.http_header_name.is_empty() { "x-envoy-original-dst-host" } else { &o.http_header_name };
    Ok(OriginalDst {
        use_http_header: o.use_http_header,
        http_header_name: HeaderName::new(header),
        upstream_port_override: o.upstream_port_override.map(common::port).transpose().at("original_dst_lb_config")?,
        metadata_key: o.metadata_key.map(|k| metadata_key(&Some(k))).transpose().at("original_dst_lb_config")?,
        cleanup_interval: opt_duration("cleanup_interval", &c.cleanup_interval)?.unwrap_or(DNS_REFRESH),
    })
}

fn custom(c: &p::Cluster, t: &p::cluster::CustomClusterType) -> Result<Discovery> {
    use ext::clusters::dynamic_forward_proxy::v3::cluster_config::ClusterImplementationSpecifier as S;
    let any = t.typed_config.as_ref().ok_or_else(|| no_config(&t.name))?;
    let typed = Typed::open(&t.name, any)?;
    match typed.message.as_str() {
        "envoy.extensions.clusters.aggregate.v3.ClusterConfig" => {
            let a: ext::clusters::aggregate::v3::ClusterConfig = typed.decode()?;
            if a.clusters.is_empty() {
                return Err(missing("clusters"));
            }
            Ok(Discovery::Aggregate(a.clusters.iter().map(|s| s.as_str().into()).collect()))
        }
        "envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig" => {
            let d: ext::clusters::dynamic_forward_proxy::v3::ClusterConfig = typed.decode()?;
            Ok(Discovery::DynamicForwardProxy(Arc::new(match &d.cluster_implementation_specifier {
                Some(S::DnsCacheConfig(x)) => dns_cache(x).at("dns_cache_config")?,
                Some(S::SubClustersConfig(s)) => DynamicForwardProxy {
                    cache_name: c.name.as_str().into(),
                    dns: dns(c)?,
                    host_ttl: opt_duration("sub_cluster_ttl", &s.sub_cluster_ttl)?.unwrap_or(Duration::from_secs(300)),
                    max_hosts: s.max_sub_clusters.unwrap_or(1024),
                    query_timeout: DNS_REFRESH,
                    sub_clusters: true,
                },
                None => return Err(missing("cluster_implementation_specifier")),
            })))
        }
        "envoy.extensions.clusters.dns.v3.DnsCluster" => {
            let d: ext::clusters::dns::v3::DnsCluster = typed.decode()?;
            let failure = d.dns_failure_refresh_rate.as_ref();
            let dns = DnsConfig {
                refresh_rate: opt_duration("dns_refresh_rate", &d.dns_refresh_rate)?.unwrap_or(DNS_REFRESH),
                respect_ttl: d.respect_dns_ttl,
                family: dns_family_common(d.dns_lookup_family)?,
                failure_refresh: failure
                    .map(|r| common::backoff(&r.base_interval, &r.max_interval))
                    .transpose()
                    .at("dns_failure_refresh_rate")?,
                jitter: opt_duration("dns_jitter", &d.dns_jitter)?.unwrap_or_default(),
            };
            let a = assignment(c)?;
            Ok(if d.all_addresses_in_single_endpoint {
                Discovery::LogicalDns(one_endpoint(a)?, dns)
            } else {
                Discovery::StrictDns(a, dns)
            })
        }
        _ => Err(typed.unknown()),
    }
}

/// `envoy.extensions.clusters.common.dns.v3.DnsLookupFamily`, which has UNSPECIFIED and AUTO first.
fn dns_family_common(n: i32) -> Result<DnsFamily> {
    if n <= 1 { Ok(DnsFamily::Auto) } else { dns_family(n - 1) }
}

/// `DnsCacheConfig`
pub(super) fn dns_cache(d: &ext::common::dynamic_forward_proxy::v3::DnsCacheConfig) -> Result<DynamicForwardProxy> {
    reject!(d; key_value_config, resolved_address_filter);
    Ok(DynamicForwardProxy {
        cache_name: required("name", &d.name)?,
        dns: DnsConfig {
            refresh_rate: opt_duration("dns_refresh_rate", &d.dns_refresh_rate)?.unwrap_or(Duration::from_secs(60)),
            respect_ttl: true,
            family: dns_family(d.dns_lookup_family)?,
            failure_refresh: refresh_rate("dns_failure_refresh_rate", &d.dns_failure_refresh_rate)?,
            jitter: Duration::ZERO,
        },
        host_ttl: opt_duration("host_ttl", &d.host_ttl)?.unwrap_or(Duration::from_secs(300)),
        max_hosts: d.max_hosts.unwrap_or(1024),
        query_timeout: opt_duration("dns_query_timeout", &d.dns_query_timeout)?.unwrap_or(DNS_REFRESH),
        sub_clusters: false,
    })
}

fn breakers(c: &p::CircuitBreakers) -> Result<CircuitBreakers> {
    let mut out = CircuitBreakers::default();
    for (i, t) in c.thresholds.iter().enumerate() {
        let slot = match super::route::priority(t.priority).at("priority").at_index("thresholds", i)? {
            crate::route::Priority::Default => &mut out.default,
            crate::route::Priority::High => &mut out.high,
        };
        let base = Thresholds::default();
        let budget = match &t.retry_budget {
            None => None,
            Some(b) => {
                reject!(b; budget_interval);
                Some(RetryBudget {
                    budget_percent: common::percent_value("budget_percent", &b.budget_percent, 20.0)
                        .at("retry_budget")
                        .at_index("thresholds", i)?,
                    min_retry_concurrency: b.min_retry_concurrency.unwrap_or(3),
                })
            }
        };
        *slot = Thresholds {
            max_connections: t.max_connections.unwrap_or(base.max_connections),
            max_pending_requests: t.max_pending_requests.unwrap_or(base.max_pending_requests),
            max_requests: t.max_requests.unwrap_or(base.max_requests),
            max_retries: t.max_retries.unwrap_or(base.max_retries),
            retry_budget: budget,
            track_remaining: t.track_remaining,
            max_connection_pools: t.max_connection_pools.unwrap_or(base.max_connection_pools),
        };
    }
    for (i, t) in c.per_host_thresholds.iter().enumerate() {
        if t.max_pending_requests.is_some() || t.max_requests.is_some() || t.max_retries.is_some() {
            return Err(invalid("only max_connections may be set per host").at_index("per_host_thresholds", i));
        }
        if t.priority == 0 {
            out.per_host_max_connections = t.max_connections;
        }
    }
    Ok(out)
}

fn outlier(o: &p::OutlierDetection) -> Result<OutlierDetection> {
    reject!(o; monitors);
    if o.detect_degraded_hosts == Some(true) {
        return Err(unsupported("this field").at("detect_degraded_hosts"));
    }
    let base = OutlierDetection::default();
    let time = |field: &str, d: &Option<_>, default: Duration| {
        Ok::<_, crate::ConfigError>(opt_duration(field, d)?.unwrap_or(default))
    };
    let pct = |field: &str, n: Option<u32>, default: u32| match n {
        Some(n) if n > 100 => Err(invalid("value must be less than or equal to 100").at(field)),
        n => Ok(n.unwrap_or(default)),
    };
    let base_ejection_time = time("base_ejection_time", &o.base_ejection_time, base.base_ejection_time)?;
    Ok(OutlierDetection {
        consecutive_5xx: o.consecutive_5xx.unwrap_or(base.consecutive_5xx),
        interval: time("interval", &o.interval, base.interval)?,
        base_ejection_time,
        max_ejection_time: time(
            "max_ejection_time",
            &o.max_ejection_time,
            base.max_ejection_time.max(base_ejection_time),
        )?,
        max_ejection_time_jitter: time("max_ejection_time_jitter", &o.max_ejection_time_jitter, Duration::ZERO)?,
        max_ejection_percent: pct("max_ejection_percent", o.max_ejection_percent, base.max_ejection_percent)?,
        always_eject_one_host: o.always_eject_one_host.unwrap_or(false),
        enforcing_consecutive_5xx: pct("enforcing_consecutive_5xx", o.enforcing_consecutive_5xx, 100)?,
        consecutive_gateway_failure: o.consecutive_gateway_failure.unwrap_or(base.consecutive_gateway_failure),
        enforcing_consecutive_gateway_failure: pct(
            "enforcing_consecutive_gateway_failure",
            o.enforcing_consecutive_gateway_failure,
            0,
        )?,
        split_external_local_origin_errors: o.split_external_local_origin_errors,
        consecutive_local_origin_failure: o.consecutive_local_origin_failure.unwrap_or(5),
        enforcing_consecutive_local_origin_failure: pct(
            "enforcing_consecutive_local_origin_failure",
            o.enforcing_consecutive_local_origin_failure,
            100,
        )?,
        enforcing_success_rate: pct("enforcing_success_rate", o.enforcing_success_rate, 100)?,
        enforcing_local_origin_success_rate: pct(
            "enforcing_local_origin_success_rate",
            o.enforcing_local_origin_success_rate,
            100,
        )?,
        success_rate_minimum_hosts: o.success_rate_minimum_hosts.unwrap_or(5),
        success_rate_request_volume: o.success_rate_request_volume.unwrap_or(100),
        success_rate_stdev_factor: o.success_rate_stdev_factor.unwrap_or(1900),
        failure_percentage_threshold: pct("failure_percentage_threshold", o.failure_percentage_threshold, 85)?,
        enforcing_failure_percentage: pct("enforcing_failure_percentage", o.enforcing_failure_percentage, 0)?,
        enforcing_failure_percentage_local_origin: pct(
            "enforcing_failure_percentage_local_origin",
            o.enforcing_failure_percentage_local_origin,
            0,
        )?,
        failure_percentage_minimum_hosts: o.failure_percentage_minimum_hosts.unwrap_or(5),
        failure_percentage_request_volume: o.failure_percentage_request_volume.unwrap_or(50),
        successful_active_health_check_uneject_host: o.successful_active_health_check_uneject_host.unwrap_or(true),
    })
}

/// An upstream transport socket; absent means raw.
pub(super) fn transport(t: Option<&core::TransportSocket>) -> Result<UpstreamTransport> {
    let Some(t) = t else {
        return Ok(UpstreamTransport::Raw);
    };
    let Some(core::transport_socket::ConfigType::TypedConfig(any)) = &t.config_type else {
        return if t.name.contains("raw_buffer") { Ok(UpstreamTransport::Raw) } else { Err(no_config(&t.name)) };
    };
    let typed = Typed::open(&t.name, any).at("typed_config")?;
    let short = typed.message.strip_prefix("envoy.extensions.transport_sockets.").unwrap_or_default();
    match short {
        "raw_buffer.v3.RawBuffer" => Ok(UpstreamTransport::Raw),
        "tls.v3.UpstreamTlsContext" => Ok(UpstreamTransport::Tls(Arc::new(super::tls::upstream(&typed.decode()?)?))),
        "proxy_protocol.v3.ProxyProtocolUpstreamTransport" => {
            let p: ext::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport = typed.decode()?;
            reject!(p; tlv_as_pool_key);
            let c = p.config.unwrap_or_default();
            reject!(c; added_tlvs, pass_through_tlvs);
            Ok(UpstreamTransport::ProxyProtocol {
                version: if c.version == 0 { 1 } else { 2 },
                inner: Box::new(transport(p.transport_socket.as_ref()).at("transport_socket")?),
            })
        }
        "internal_upstream.v3.InternalUpstreamTransport" => {
            use crate::format::MetadataKind;
            use protos::envoy::r#type::metadata::v3::metadata_kind::Kind;
            let p: ext::transport_sockets::internal_upstream::v3::InternalUpstreamTransport = typed.decode()?;
            let passthrough = each("passthrough_metadata", &p.passthrough_metadata, |m| {
                let kind = match m.kind.as_ref().and_then(|k| k.kind.as_ref()) {
                    Some(Kind::Host(_)) => MetadataKind::UpstreamHost,
                    Some(Kind::Cluster(_)) => MetadataKind::Cluster,
                    _ => return Err(unsupported("this kind").at("kind")),
                };
                Ok((kind, required("name", &m.name)?))
            })?;
            Ok(UpstreamTransport::InternalUpstream {
                passthrough,
                inner: Box::new(transport(p.transport_socket.as_ref()).at("transport_socket")?),
            })
        }
        _ => Err(typed.unknown()),
    }
    .at("typed_config")
}

fn http(c: &p::Cluster) -> Result<UpstreamHttp> {
    use ext::upstreams::http::v3::HttpProtocolOptions;
    use ext::upstreams::http::v3::http_protocol_options::{
        UpstreamProtocolOptions as U, explicit_http_config::ProtocolConfig as E,
    };
    const KEY: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let mut out = UpstreamHttp {
        protocol: UpstreamProtocol::Http1,
        common: CommonHttp { max_headers_count: 100, ..CommonHttp::default() },
        idle_timeout: Some(IDLE_TIMEOUT),
        http1: Http1Options::default(),
        http2: Http2Options::default(),
        auto_sni: false,
        auto_san_validation: false,
        override_auto_sni_header: None,
        outlier_error_matcher: None,
        filters: Arc::default(),
    };
    let mut common_options = c.common_http_protocol_options;
    let mut upstream = c.upstream_http_protocol_options.clone();
    if let Some(o) = &c.http_protocol_options {
        out.http1 = options::http1(o, false).at("http_protocol_options")?;
    }
    if let Some(o) = &c.http2_protocol_options {
        out.protocol = UpstreamProtocol::Http2;
        out.http2 = options::http2(o).at("http2_protocol_options")?;
    }
    if c.protocol_selection == 1 {
        out.protocol = UpstreamProtocol::UseDownstream;
    }
    for (key, any) in &c.typed_extension_protocol_options {
        let field = format!("typed_extension_protocol_options[\"{key}\"]");
        if key != KEY {
            return Err(Typed::open(key, any)?.unknown().at(&field));
        }
        let o: HttpProtocolOptions = super::any::expect(key, any).at(&field)?;
        reject!(o; header_validation_config, request_mirror_policies, hash_policy, retry_policy);
        out.outlier_error_matcher = o
            .outlier_detection
            .as_ref()
            .and_then(|d| d.error_matcher.as_ref())
            .map(super::matcher::predicate)
            .transpose()
            .at("error_matcher")
            .at("outlier_detection")
            .at(&field)?
            .map(Arc::new);
        common_options = o.common_http_protocol_options;
        upstream = o.upstream_http_protocol_options;
        let mut both =
            |h1: &Option<core::Http1ProtocolOptions>, h2: &Option<core::Http2ProtocolOptions>| -> Result<()> {
                out.http1 = h1.as_ref().map_or(Ok(Http1Options::default()), |o| options::http1(o, false))?;
                out.http2 = h2.as_ref().map_or(Ok(Http2Options::default()), options::http2)?;
                Ok(())
            };
        out.protocol = match &o.upstream_protocol_options {
            Some(U::ExplicitHttpConfig(e)) => match &e.protocol_config {
                Some(E::HttpProtocolOptions(h)) => {
                    both(&Some(h.clone()), &None).at(&field)?;
                    UpstreamProtocol::Http1
                }
                Some(E::Http2ProtocolOptions(h)) => {
                    both(&None, &Some(h.clone())).at(&field)?;
                    UpstreamProtocol::Http2
                }
                Some(E::Http3ProtocolOptions(_)) => {
                    return Err(unsupported("HTTP/3").at("explicit_http_config").at(&field));
                }
                None => {
                    return Err(missing("protocol_config").at("explicit_http_config").at(&field));
                }
            },
            Some(U::UseDownstreamProtocolConfig(d)) => {
                both(&d.http_protocol_options, &d.http2_protocol_options).at(&field)?;
                UpstreamProtocol::UseDownstream
            }
            Some(U::AutoConfig(a)) => {
                if a.http3_protocol_options.is_some() {
                    return Err(unsupported("HTTP/3").at("auto_config").at(&field));
                }
                both(&a.http_protocol_options, &a.http2_protocol_options).at(&field)?;
                UpstreamProtocol::Auto
            }
            None => return Err(missing("upstream_protocol_options").at(&field)),
        };
        out.filters = each("http_filters", &o.http_filters, super::http_filters::filter)
            .map(|f: Vec<Option<_>>| f.into_iter().flatten().collect())
            .at(&field)?;
    }
    if let Some(o) = &common_options {
        out.common = options::common(o).at("common_http_protocol_options")?;
        out.idle_timeout = common::disabling("idle_timeout", &o.idle_timeout, Some(IDLE_TIMEOUT))
            .at("common_http_protocol_options")?;
    }
    if let Some(u) = &upstream {
        out.auto_sni = u.auto_sni;
        out.auto_san_validation = u.auto_san_validation;
        out.override_auto_sni_header = opt_name(&u.override_auto_sni_header).map(|n| HeaderName::new(&n));
    }
    Ok(out)
}

fn health_checks(c: &p::Cluster) -> Result<Box<[HealthCheck]>> {
    if c.health_checks.len() > 1 {
        return Err(invalid("Multiple health checks not supported").at("health_checks"));
    }
    each("health_checks", &c.health_checks, health_check)
}

fn health_check(h: &core::HealthCheck) -> Result<HealthCheck> {
    use core::health_check::HealthChecker as H;
    reject!(h; event_service);
    let payload = |p: &core::health_check::Payload| -> Result<Arc<[u8]>> {
        use core::health_check::payload::Payload as P;
        match p.payload.as_ref().ok_or_else(|| missing("payload"))? {
            P::Binary(b) => Ok(b.as_slice().into()),
            P::Text(hex) => {
                let digits = hex.len() % 2 == 0 && hex.bytes().all(|b| b.is_ascii_hexdigit());
                let bytes =
                    (0..hex.len() / 2).map(|i| u8::from_str_radix(hex.get(2 * i..2 * i + 2).unwrap_or("x"), 16));
                match bytes.collect::<std::result::Result<Vec<u8>, _>>() {
                    Ok(b) if digits => Ok(b.into()),
                    _ => Err(invalid(format!("invalid hex string {hex}")).at("text")),
                }
            }
        }
    };
    let probe = match h.health_checker.as_ref().ok_or_else(|| missing("health_checker"))? {
        H::HttpHealthCheck(x) => {
            let methods = ["GET", "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
            let method = usize::try_from(x.method)
                .ok()
                .and_then(|n| methods.get(n))
                .ok_or_else(|| invalid("unknown method").at("method"))?;
            let expected: Box<[(u16, u16)]> = if x.expected_statuses.is_empty() {
                Box::new([(200, 201)])
            } else {
                each("expected_statuses", &x.expected_statuses, statuses).at("http_health_check")?
            };
            HealthProbe::Http {
                host: opt_name(&x.host),
                path: required("path", &x.path).at("http_health_check")?,
                method: (*method).into(),
                expected,
                retriable: each("retriable_statuses", &x.retriable_statuses, statuses).at("http_health_check")?,
                receive: each("receive", &x.receive, payload).at("http_health_check")?,
                response_buffer_bytes: x.response_buffer_size.unwrap_or(1024),
                send: x.send.as_ref().map(payload).transpose().at("send").at("http_health_check")?.unwrap_or_default(),
                service_name: x
                    .service_name_matcher
                    .as_ref()
                    .map(super::matcher::string)
                    .transpose()
                    .at("service_name_matcher")?,
                http2: match x.codec_client_type {
                    0 => false,
                    1 => true,
                    _ => {
                        return Err(unsupported("HTTP/3").at("codec_client_type").at("http_health_check"));
                    }
                },
                headers: Arc::new(super::headers::ops(
                    "request_headers",
                    &x.request_headers_to_add,
                    &x.request_headers_to_remove,
                )?),
            }
        }
        H::TcpHealthCheck(x) => {
            reject!(x; proxy_protocol_config);
            HealthProbe::Tcp {
                send: x.send.as_ref().map(payload).transpose().at("send").at("tcp_health_check")?.unwrap_or_default(),
                receive: each("receive", &x.receive, payload).at("tcp_health_check")?,
            }
        }
        H::GrpcHealthCheck(x) => HealthProbe::Grpc {
            service: x.service_name.as_str().into(),
            authority: opt_name(&x.authority),
            metadata: Arc::new(super::headers::ops("initial_metadata", &x.initial_metadata, &[])?),
        },
        H::CustomHealthCheck(x) => return Err(no_config(&x.name).at("custom_health_check")),
    };
    let d = |field: &str, v: &Option<protos::prost_types::Duration>| opt_duration(field, v);
    let interval = common::required_duration("interval", &h.interval)?;
    Ok(HealthCheck {
        timeout: common::required_duration("timeout", &h.timeout)?,
        interval,
        initial_jitter: d("initial_jitter", &h.initial_jitter)?.unwrap_or_default(),
        interval_jitter: d("interval_jitter", &h.interval_jitter)?.unwrap_or_default(),
        interval_jitter_percent: h.interval_jitter_percent,
        unhealthy_threshold: h.unhealthy_threshold.ok_or_else(|| missing("unhealthy_threshold"))?,
        healthy_threshold: h.healthy_threshold.ok_or_else(|| missing("healthy_threshold"))?,
        no_traffic_interval: d("no_traffic_interval", &h.no_traffic_interval)?.unwrap_or(Duration::from_secs(60)),
        no_traffic_healthy_interval: d("no_traffic_healthy_interval", &h.no_traffic_healthy_interval)?,
        unhealthy_interval: d("unhealthy_interval", &h.unhealthy_interval)?,
        unhealthy_edge_interval: d("unhealthy_edge_interval", &h.unhealthy_edge_interval)?,
        healthy_edge_interval: d("healthy_edge_interval", &h.healthy_edge_interval)?,
        reuse_connection: h.reuse_connection.unwrap_or(true),
        probe,
        alpn: h.tls_options.iter().flat_map(|t| &t.alpn_protocols).map(|s| s.as_bytes().into()).collect(),
        alt_port: h.alt_port.filter(|p| *p != 0).map(common::port).transpose().at("alt_port")?,
        transport_match: h.transport_socket_match_criteria.as_ref().map(|s| {
            let fields = protos::envoy::config::core::v3::Metadata {
                filter_metadata: [("envoy.transport_socket_match".to_owned(), s.clone())].into(),
                ..Default::default()
            };
            metadata(&Some(fields))
        }),
        event_logs: event_logs(h)?,
        log_failures: h.always_log_health_check_failures,
        log_successes: h.always_log_health_check_success,
    })
}

/// `[start, end)`
fn statuses(r: &protos::envoy::r#type::v3::Int64Range) -> Result<(u16, u16)> {
    let bound = |n: i64| match n {
        100..=600 => Ok(n as u16),
        _ => Err(invalid(format!(
            "Invalid http status range: expecting start >= 100 and end <= 600, but found [{}, {})",
            r.start, r.end
        ))),
    };
    let (start, end) = (bound(r.start)?, bound(r.end)?);
    if start >= end {
        return Err(invalid(format!(
            "Invalid http status range: expecting start < end, but found start={start} and end={end}"
        )));
    }
    Ok((start, end))
}

/// `event_log_path` and the file sinks of `event_logger`.
fn event_logs(h: &core::HealthCheck) -> Result<Box<[crate::Name]>> {
    let mut paths: Vec<crate::Name> = opt_name(&h.event_log_path).into_iter().collect();
    for (i, sink) in h.event_logger.iter().enumerate() {
        let path = (|| {
            let any = sink.typed_config.as_ref().ok_or_else(|| no_config(&sink.name))?;
            let typed = Typed::open(&sink.name, any)?;
            match typed.message.as_str() {
                "envoy.extensions.health_check.event_sinks.file.v3.HealthCheckEventFileSink" => {
                    let f: ext::health_check::event_sinks::file::v3::HealthCheckEventFileSink = typed.decode()?;
                    required("event_log_path", &f.event_log_path)
                }
                _ => Err(typed.unknown()),
            }
        })();
        paths.push(path.at("typed_config").at_index("event_logger", i)?);
    }
    Ok(paths.into())
}

fn bind(b: &core::BindConfig) -> Result<UpstreamBind> {
    reject!(b; local_address_selector);
    let all = b
        .source_address
        .iter()
        .chain(b.extra_source_addresses.iter().filter_map(|e| e.address.as_ref()))
        .chain(&b.additional_source_addresses);
    let sources: Vec<std::net::SocketAddr> = each("source_address", all, |a| {
        common::socket_address(a)?.socket().ok_or_else(|| invalid("malformed IP address").at("address"))
    })?;
    let socket_options = each("socket_options", &b.socket_options, |o| match &o.value {
        Some(core::socket_option::Value::IntValue(v)) => Ok((o.level, o.name, *v)),
        Some(core::socket_option::Value::BufValue(_)) => Err(unsupported("buf_value").at("buf_value")),
        None => Err(missing("value")),
    })?;
    Ok(UpstreamBind { sources: sources.into(), freebind: b.freebind.unwrap_or(false), socket_options })
}
