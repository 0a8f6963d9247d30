//! How are network filters compiled?

use std::sync::Arc;
use std::time::Duration;

use protos::envoy::extensions::filters::network as f;
use protos::prost_types::Any;

use super::any::Typed;
use super::common::{self, disabling, metadata_match, opt_duration, required};
use super::{each, reject};
use crate::error::{At, Result, invalid, missing, unsupported};
use crate::filters::http::Odcds;
use crate::filters::network::*;
use crate::listener::{NetworkFilter, NetworkFilterKind as K};
use crate::route::{HashPolicy, HashPolicyKind};

const TCP_IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// How long a connection waits for a cluster that is asked for.
const TCP_ODCDS_TIMEOUT: Duration = Duration::from_secs(60);
/// Decoders whose bytes pass uninterpreted.
const PASS_THROUGH: [&str; 5] = ["mongo_proxy", "mysql_proxy", "postgres_proxy", "kafka_broker", "zookeeper_proxy"];

/// `RedisProxy`: its commands pass uninterpreted to the cluster that takes what no prefix route does.
fn redis_proxy(r: &f::redis_proxy::v3::RedisProxy) -> Result<TcpProxy> {
    let routes = r.prefix_routes.clone().unwrap_or_default();
    if !routes.routes.is_empty() {
        return Err(unsupported("routing by key prefix").at("routes").at("prefix_routes"));
    }
    let cluster = routes.catch_all_route.as_ref().map(|c| c.cluster.as_str()).unwrap_or_default();
    Ok(TcpProxy {
        stat_prefix: required("stat_prefix", &r.stat_prefix)?,
        cluster: TcpCluster::Cluster(required("cluster", cluster).at("catch_all_route").at("prefix_routes")?),
        metadata_match: None,
        idle_timeout: Some(TCP_IDLE_TIMEOUT),
        max_downstream_connection_duration: None,
        max_downstream_connection_duration_jitter_percent: None,
        max_connect_attempts: 1,
        backoff: None,
        access_logs: Arc::new([]),
        access_log_flush_interval: None,
        flush_access_log_on_connected: false,
        hash_policy: Box::default(),
        tunneling: None,
        on_demand: None,
    })
}

/// A network filter by its typed config.
pub(super) fn filter(name: &str, any: &Any) -> Result<NetworkFilter> {
    let typed = Typed::open(name, any)?;
    let short = typed.message.strip_prefix("envoy.extensions.filters.network.").unwrap_or(&typed.message);
    let kind = match short {
        "http_connection_manager.v3.HttpConnectionManager" => K::Hcm(Arc::new(super::hcm::hcm(&typed.decode()?)?)),
        "tcp_proxy.v3.TcpProxy" => K::TcpProxy(Arc::new(tcp_proxy(&typed.decode()?)?)),
        "rbac.v3.RBAC" => K::Rbac(Arc::new(rbac(&typed.decode()?)?)),
        "set_filter_state.v3.Config" => K::SetFilterState(Arc::new(set_filter_state(&typed.decode()?)?)),
        "local_ratelimit.v3.LocalRateLimit" => K::LocalRateLimit(Arc::new(local_rate_limit(&typed.decode()?)?)),
        "connection_limit.v3.ConnectionLimit" => K::ConnectionLimit(Arc::new(connection_limit(&typed.decode()?)?)),
        "ext_authz.v3.ExtAuthz" => K::ExtAuthz(Arc::new(ext_authz(&typed.decode()?)?)),
        "sni_cluster.v3.SniCluster" => K::SniCluster,
        "sni_dynamic_forward_proxy.v3.FilterConfig" => {
            let c: f::sni_dynamic_forward_proxy::v3::FilterConfig = typed.decode()?;
            let port = match c.port_specifier {
                Some(f::sni_dynamic_forward_proxy::v3::filter_config::PortSpecifier::PortValue(p)) => {
                    common::port(p).at("port_value")?
                }
                None => 443,
            };
            K::SniDynamicForwardProxy { port }
        }
        "envoy.tcp.metadataexchange.config.MetadataExchange" => {
            let c: protos::envoy::tcp::metadataexchange::config::MetadataExchange = typed.decode()?;
            K::MetadataExchange(Arc::new(MetadataExchange {
                protocol: c.protocol.as_str().into(),
                enable_discovery: c.enable_discovery,
                additional_labels: c.additional_labels.iter().map(|s| s.as_str().into()).collect(),
            }))
        }
        "stats.PluginConfig" => K::IstioStats(Arc::new(super::http_filters::istio_stats(&typed.decode()?)?)),
        "echo.v3.Echo" => K::Echo,
        "direct_response.v3.Config" => {
            let c: f::direct_response::v3::Config = typed.decode()?;
            K::DirectResponse(c.response.as_ref().map(common::inline).transpose().at("response")?.unwrap_or_default())
        }
        "redis_proxy.v3.RedisProxy" => K::TcpProxy(Arc::new(redis_proxy(&typed.decode()?)?)),
        other if PASS_THROUGH.iter().any(|p| other.contains(p)) => K::PassThrough,
        _ => return Err(typed.unknown()),
    };
    Ok(NetworkFilter { name: name.into(), kind })
}

/// `OnDemand`; without `odcds_config` nothing is asked for.
fn on_demand(o: &f::tcp_proxy::v3::tcp_proxy::OnDemand) -> Result<Option<Odcds>> {
    reject!(o; resources_locator);
    let Some(source) = &o.odcds_config else { return Ok(None) };
    let source = super::http_filters::delta_source(source).at("odcds_config")?;
    Ok(Some(Odcds { source, timeout: opt_duration("timeout", &o.timeout)?.unwrap_or(TCP_ODCDS_TIMEOUT) }))
}

fn tcp_proxy(t: &f::tcp_proxy::v3::TcpProxy) -> Result<TcpProxy> {
    use f::tcp_proxy::v3::tcp_proxy::ClusterSpecifier as C;
    use protos::envoy::r#type::v3::hash_policy::PolicySpecifier as H;
    reject!(t; downstream_idle_timeout, upstream_idle_timeout, proxy_protocol_tlvs, upstream_connect_mode);
    let cluster = match t.cluster_specifier.as_ref().ok_or_else(|| missing("cluster_specifier"))? {
        C::Cluster(c) => TcpCluster::Cluster(required("cluster", c)?),
        C::WeightedClusters(w) => {
            let clusters: Box<[_]> = each("clusters", &w.clusters, |c| {
                if c.weight == 0 {
                    return Err(invalid("value must be greater than or equal to 1").at("weight"));
                }
                Ok((required("name", &c.name)?, c.weight, metadata_match(&c.metadata_match)))
            })
            .at("weighted_clusters")?;
            let total_weight = clusters.iter().map(|(_, w, _)| u64::from(*w)).sum();
            if total_weight == 0 {
                return Err(missing("clusters").at("weighted_clusters"));
            }
            TcpCluster::Weighted { clusters, total_weight }
        }
    };
    let hash_policy = each("hash_policy", &t.hash_policy, |h| {
        let kind = match h.policy_specifier.as_ref().ok_or_else(|| missing("policy_specifier"))? {
            H::SourceIp(_) => HashPolicyKind::SourceIp,
            H::FilterState(f) => HashPolicyKind::FilterState(required("key", &f.key)?),
        };
        Ok(HashPolicy { kind, terminal: false })
    })?;
    let tunneling = match &t.tunneling_config {
        None => None,
        Some(c) => {
            reject!(c; request_id_extension, request_id_header, request_id_metadata_key);
            Some(Arc::new(Tunneling {
                hostname: super::format::text(&c.hostname).at("hostname").at("tunneling_config")?,
                use_post: c.use_post,
                post_path: c.post_path.as_str().into(),
                headers: Arc::new(
                    super::headers::additions("headers_to_add", &c.headers_to_add).at("tunneling_config")?,
                ),
                propagate_response_headers: c.propagate_response_headers,
                propagate_response_trailers: c.propagate_response_trailers,
            }))
        }
    };
    let log = t.access_log_options.unwrap_or_default();
    Ok(TcpProxy {
        stat_prefix: required("stat_prefix", &t.stat_prefix)?,
        cluster,
        metadata_match: metadata_match(&t.metadata_match),
        idle_timeout: disabling("idle_timeout", &t.idle_timeout, Some(TCP_IDLE_TIMEOUT))?,
        max_downstream_connection_duration: opt_duration(
            "max_downstream_connection_duration",
            &t.max_downstream_connection_duration,
        )?,
        max_downstream_connection_duration_jitter_percent: t
            .max_downstream_connection_duration_jitter_percentage
            .map(|p| p.value),
        max_connect_attempts: t.max_connect_attempts.unwrap_or(1),
        backoff: t
            .backoff_options
            .as_ref()
            .map(|b| common::backoff(&b.base_interval, &b.max_interval))
            .transpose()
            .at("backoff_options")?,
        access_logs: super::access_log::logs(&t.access_log)?,
        access_log_flush_interval: opt_duration("access_log_flush_interval", &log.access_log_flush_interval)?
            .or(opt_duration("access_log_flush_interval", &t.access_log_flush_interval)?),
        flush_access_log_on_connected: t.flush_access_log_on_connected || log.flush_access_log_on_connected,
        hash_policy,
        tunneling,
        on_demand: t.on_demand.as_ref().map(on_demand).transpose().at("on_demand")?.flatten(),
    })
}

fn rbac(r: &f::rbac::v3::Rbac) -> Result<NetworkRbac> {
    reject!(r; matcher, shadow_matcher);
    Ok(NetworkRbac {
        config: crate::rbac::RbacConfig {
            rules: super::rbac::rules("rules", &r.rules)?,
            shadow_rules: super::rbac::rules("shadow_rules", &r.shadow_rules)?,
            shadow_rules_stat_prefix: crate::route::DefaultName(r.shadow_rules_stat_prefix.as_str().into()),
            ..Default::default()
        },
        stat_prefix: required("stat_prefix", &r.stat_prefix)?,
        continuous: r.enforcement_type == 1,
        delay_deny: opt_duration("delay_deny", &r.delay_deny)?.unwrap_or_default(),
    })
}

fn set_filter_state(c: &f::set_filter_state::v3::Config) -> Result<SetFilterState> {
    reject!(c; on_downstream_tls_handshake, on_downstream_data);
    filter_state_values("on_new_connection", &c.on_new_connection)
}

/// A list of `FilterStateValue`.
pub(super) fn filter_state_values(
    field: &str,
    list: &[protos::envoy::extensions::filters::common::set_filter_state::v3::FilterStateValue],
) -> Result<SetFilterState> {
    use protos::envoy::extensions::filters::common::set_filter_state::v3::filter_state_value::{Key, Value};
    let values = each(field, list, |v| {
        let Some(Key::ObjectKey(key)) = &v.key else {
            return Err(missing("object_key"));
        };
        let Some(Value::FormatString(format)) = &v.value else {
            return Err(missing("format_string"));
        };
        let format = super::format::substitution(format).at("format_string")?;
        let value = match format.body {
            crate::format::FormatBody::Text(f) => f,
            crate::format::FormatBody::Json(_) => {
                return Err(unsupported("json_format").at("format_string"));
            }
        };
        Ok(FilterStateValue {
            key: required("object_key", key)?,
            factory: if v.factory_key.is_empty() { key.as_str() } else { &v.factory_key }.into(),
            value,
            read_only: v.read_only,
            shared_with_upstream: u8::try_from(v.shared_with_upstream).unwrap_or(0),
            omit_empty_values: format.omit_empty_values,
            skip_if_empty: v.skip_if_empty,
        })
    })?;
    Ok(SetFilterState { values })
}

fn local_rate_limit(r: &f::local_ratelimit::v3::LocalRateLimit) -> Result<NetworkLocalRateLimit> {
    let bucket = r.token_bucket.as_ref().ok_or_else(|| missing("token_bucket"))?;
    Ok(NetworkLocalRateLimit {
        stat_prefix: required("stat_prefix", &r.stat_prefix)?,
        bucket: common::token_bucket(bucket).at("token_bucket")?,
        enabled: r.runtime_enabled.as_ref().and_then(|e| e.default_value).unwrap_or(true),
        share_key: common::opt_name(&r.share_key),
    })
}

fn connection_limit(c: &f::connection_limit::v3::ConnectionLimit) -> Result<ConnectionLimit> {
    Ok(ConnectionLimit {
        stat_prefix: required("stat_prefix", &c.stat_prefix)?,
        max_connections: c.max_connections.filter(|n| *n > 0).ok_or_else(|| missing("max_connections"))?,
        delay: opt_duration("delay", &c.delay)?.unwrap_or_default(),
        enabled: c.runtime_enabled.as_ref().and_then(|e| e.default_value).unwrap_or(true),
    })
}

fn ext_authz(e: &f::ext_authz::v3::ExtAuthz) -> Result<NetworkExtAuthz> {
    reject!(e; bootstrap_metadata_labels_key, send_tls_alert_on_denial, metadata_context_namespaces,
        typed_metadata_context_namespaces, shadow_mode);
    Ok(NetworkExtAuthz {
        stat_prefix: required("stat_prefix", &e.stat_prefix)?,
        service: common::required_grpc("grpc_service", &e.grpc_service)?,
        failure_mode_allow: e.failure_mode_allow,
        include_peer_certificate: e.include_peer_certificate,
        include_tls_session: e.include_tls_session,
        filter_enabled_metadata: e
            .filter_enabled_metadata
            .as_ref()
            .map(super::matcher::metadata)
            .transpose()
            .at("filter_enabled_metadata")?,
        enabled: crate::common::Fraction::ALWAYS,
    })
}
