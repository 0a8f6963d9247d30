//! How is a bootstrap compiled?

use std::sync::Arc;
use std::time::Duration;

use protos::envoy::config::bootstrap::v3 as p;
use protos::envoy::config::core::v3 as core;
use protos::envoy::config::metrics::v3 as metrics;
use protos::envoy::config::overload::v3 as overload;
use protos::envoy::extensions::resource_monitors as monitors;

use super::any::{Typed, no_config};
use super::common::{self, grpc_service, opt_duration, opt_name, required, required_grpc, streamed_source};
use super::{each, matcher, reject};
use crate::Name;
use crate::bootstrap::*;
use crate::common::Value;
use crate::error::{At, ConfigError, Reason, Result, invalid, missing, unsupported};
use crate::intern::Interner;

const STATS_FLUSH_INTERVAL: Duration = Duration::from_secs(5);

/// Compiles a bootstrap with all its static resources.
pub fn bootstrap(b: &p::Bootstrap) -> Result<Bootstrap> {
    reject!(b; hds_config, xds_delegate_extension, fatal_actions, certificate_provider_instances);
    let fixed = b.static_resources.clone().unwrap_or_default();
    let mut interner = Interner::default();
    let mut cluster = |c| super::cluster(c).map(|c| Arc::new(interner.cluster(c)));
    let clusters: Vec<_> = each("clusters", &fixed.clusters, &mut cluster).at("static_resources")?;
    let listeners: Vec<_> =
        each("listeners", &fixed.listeners, |l| super::listener(l).map(Arc::new)).at("static_resources")?;
    let secrets = each("secrets", &fixed.secrets, super::secret).at("static_resources")?;
    let mut internal_listeners = false;
    for (i, e) in b.bootstrap_extensions.iter().enumerate() {
        let any = e.typed_config.as_ref().ok_or_else(|| no_config(&e.name).at_index("bootstrap_extensions", i))?;
        let typed = Typed::open(&e.name, any).map_err(|e| e.at_index("bootstrap_extensions", i))?;
        match typed.message.as_str() {
            "envoy.extensions.bootstrap.internal_listener.v3.InternalListener" => internal_listeners = true,
            // Workload discovery is informational until peers use it; the extension only opens a subscription.
            "istio.workload.BootstrapExtension" => {}
            _ => {
                return Err(typed.unknown().at_index("bootstrap_extensions", i));
            }
        }
    }
    let manager = b.cluster_manager.clone().unwrap_or_default();
    let tracer = match b.tracing.as_ref().and_then(|t| t.http.as_ref()) {
        None => None,
        Some(h) => Some(Arc::new(super::tracing::provider(h).at("http").at("tracing")?)),
    };
    let node = b.node.clone().unwrap_or_default();
    Ok(Bootstrap {
        node: Node {
            id: crate::route::DefaultName(node.id.as_str().into()),
            cluster: crate::route::DefaultName(node.cluster.as_str().into()),
            locality: node.locality.as_ref().map(super::endpoint::locality_of),
            metadata: node.metadata.as_ref().map(common::value_of_struct),
        },
        admin: b.admin.as_ref().map(admin).transpose().at("admin")?.flatten(),
        listeners,
        clusters,
        secrets,
        dynamic: b.dynamic_resources.as_ref().map(dynamic).transpose().at("dynamic_resources")?.unwrap_or_default(),
        local_cluster: opt_name(&manager.local_cluster_name),
        outlier_event_log_path: manager.outlier_detection.as_ref().and_then(|o| opt_name(&o.event_log_path)),
        stats_sinks: each("stats_sinks", &b.stats_sinks, sink)?,
        stats: stats(&b.stats_config.clone().unwrap_or_default()).at("stats_config")?,
        stats_eviction_interval: match &b.stats_eviction {
            Some(p::bootstrap::StatsEviction::StatsEvictionInterval(d)) => {
                opt_duration("stats_eviction_interval", &Some(*d))?
            }
            None => None,
        },
        stats_flush_interval: opt_duration("stats_flush_interval", &b.stats_flush_interval)?
            .unwrap_or(STATS_FLUSH_INTERVAL),
        overload: b.overload_manager.as_ref().map(overload_manager).transpose().at("overload_manager")?.map(Arc::new),
        runtime: runtime(b.layered_runtime.as_ref()).at("layered_runtime")?,
        tracer,
        header_prefix: opt_name(&b.header_prefix).unwrap_or_else(|| "x-envoy".into()),
        default_regex_max_program_size: None,
        internal_listeners,
    })
}

fn admin(a: &p::Admin) -> Result<Option<Admin>> {
    let Some(address) = &a.address else {
        return Ok(None);
    };
    reject!(a; allow_paths);
    Ok(Some(Admin {
        address: common::address(address).at("address")?,
        access_logs: super::access_log::logs(&a.access_log)?,
        profile_path: opt_name(&a.profile_path),
        ignore_global_conn_limit: a.ignore_global_conn_limit,
    }))
}

fn dynamic(d: &p::bootstrap::DynamicResources) -> Result<Dynamic> {
    reject!(d; lds_resources_locator, cds_resources_locator);
    let ads = match &d.ads_config {
        None => None,
        Some(a) => {
            use core::api_config_source::ApiType;
            let delta = match ApiType::try_from(a.api_type) {
                Ok(ApiType::Grpc) => false,
                Ok(ApiType::DeltaGrpc) => true,
                _ => return Err(unsupported("this api_type").at("api_type").at("ads_config")),
            };
            let services: Vec<_> = each("grpc_services", &a.grpc_services, grpc_service).at("ads_config")?;
            if services.is_empty() {
                return Err(missing("grpc_services").at("ads_config"));
            }
            Some(Ads {
                initial_metadata: services[0].initial_metadata.to_vec(),
                clusters: services.into_iter().map(|s| s.cluster).collect(),
                delta,
                set_node_on_first_message_only: a.set_node_on_first_message_only,
            })
        }
    };
    Ok(Dynamic {
        lds: d.lds_config.as_ref().map(streamed_source).transpose().at("lds_config")?,
        cds: d.cds_config.as_ref().map(streamed_source).transpose().at("cds_config")?,
        ads,
    })
}

fn sink(s: &metrics::StatsSink) -> Result<StatsSink> {
    let Some(metrics::stats_sink::ConfigType::TypedConfig(any)) = &s.config_type else {
        return Err(no_config(&s.name));
    };
    let typed = Typed::open(&s.name, any)?;
    match typed.message.as_str() {
        "envoy.config.metrics.v3.StatsdSink" => {
            use metrics::statsd_sink::StatsdSpecifier as S;
            let c: metrics::StatsdSink = typed.decode()?;
            let (udp, tcp_cluster) = match c.statsd_specifier.as_ref().ok_or_else(|| missing("statsd_specifier"))? {
                S::Address(a) => {
                    // The address is UDP here, which the common parser refuses.
                    let mut a = a.clone();
                    if let Some(core::address::Address::SocketAddress(s)) = &mut a.address {
                        s.protocol = 0;
                    }
                    (Some(common::address(&a).at("address")?), None)
                }
                S::TcpClusterName(n) => (None, Some(required("tcp_cluster_name", n)?)),
            };
            Ok(StatsSink::Statsd { udp, tcp_cluster, prefix: opt_name(&c.prefix).unwrap_or_else(|| "envoy".into()) })
        }
        "envoy.config.metrics.v3.MetricsServiceConfig" => {
            use metrics::HistogramEmitMode as Mode;
            let c: metrics::MetricsServiceConfig = typed.decode()?;
            let mode = c.histogram_emit_mode();
            Ok(StatsSink::MetricsService(crate::bootstrap::MetricsService {
                service: required_grpc("grpc_service", &c.grpc_service)?,
                report_counters_as_deltas: c.report_counters_as_deltas.unwrap_or(false),
                emit_tags_as_labels: c.emit_tags_as_labels,
                summaries: mode != Mode::Histogram,
                histograms: mode != Mode::Summary,
                batch_size: c.batch_size,
            }))
        }
        _ => Err(typed.unknown()),
    }
    .at("typed_config")
}

/// The one look-ahead of Envoy's and Istio's tag expressions, in terms that a linear matcher has: "starts with a dot,
/// then anything" before an expression that begins with a dot itself.
fn without_look_ahead(regex: &str) -> String {
    regex.replace(r"(?=\.).*?\.", r"(?:\..*?)??\.")
}

fn stats(s: &metrics::StatsConfig) -> Result<StatsConfig> {
    use metrics::stats_matcher::StatsMatcher as M;
    use metrics::tag_specifier::TagValue as V;
    let tags = each("stats_tags", &s.stats_tags, |t| {
        let name: Name = required("tag_name", &t.tag_name)?;
        Ok(match &t.tag_value {
            None => StatsTag::Default(name),
            Some(V::Regex(r)) if r.is_empty() => StatsTag::Default(name),
            Some(V::Regex(r)) => {
                let regex = regex::Regex::new(&without_look_ahead(r))
                    .map_err(|e| ConfigError::new(Reason::Regex(e.to_string())).at("regex"))?;
                if regex.captures_len() < 2 {
                    return Err(invalid("the regex must have at least one capture group").at("regex"));
                }
                StatsTag::Regex { name, regex }
            }
            Some(V::FixedValue(v)) => StatsTag::Fixed { name, value: v.as_str().into() },
        })
    })?;
    let list = |l: &protos::envoy::r#type::matcher::v3::ListStringMatcher| {
        matcher::strings("patterns", &l.patterns).map(|b| b.into_vec()).at("stats_matcher")
    };
    let chosen = match s.stats_matcher.as_ref().and_then(|m| m.stats_matcher.as_ref()) {
        None | Some(M::RejectAll(false)) => StatsMatcher::All,
        Some(M::RejectAll(true)) => StatsMatcher::None,
        Some(M::InclusionList(l)) => StatsMatcher::Include(list(l)?),
        Some(M::ExclusionList(l)) => StatsMatcher::Exclude(list(l)?),
    };
    Ok(StatsConfig {
        tags,
        use_all_default_tags: s.use_all_default_tags.unwrap_or(true),
        matcher: chosen,
        histogram_buckets: each("histogram_bucket_settings", &s.histogram_bucket_settings, |h| {
            let m = h.r#match.as_ref().ok_or_else(|| missing("match"))?;
            Ok((matcher::string(m).at("match")?, h.buckets.clone()))
        })?,
    })
}

fn overload_manager(o: &overload::OverloadManager) -> Result<Overload> {
    reject!(o; loadshed_points);
    let monitors = each("resource_monitors", &o.resource_monitors, |m| {
        let Some(overload::resource_monitor::ConfigType::TypedConfig(any)) = &m.config_type else {
            return Err(no_config(&m.name));
        };
        let typed = Typed::open(&m.name, any)?;
        match typed.message.as_str() {
            "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig" => {
                let c: monitors::fixed_heap::v3::FixedHeapConfig = typed.decode()?;
                Ok(ResourceMonitor::FixedHeap(c.max_heap_size_bytes))
            }
            "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig" => {
                let c: monitors::downstream_connections::v3::DownstreamConnectionsConfig = typed.decode()?;
                let n = u64::try_from(c.max_active_downstream_connections).ok().filter(|n| *n > 0);
                Ok(ResourceMonitor::DownstreamConnections(
                    n.ok_or_else(|| missing("max_active_downstream_connections"))?,
                ))
            }
            "envoy.extensions.resource_monitors.injected_resource.v3.InjectedResourceConfig" => {
                let c: monitors::injected_resource::v3::InjectedResourceConfig = typed.decode()?;
                Ok(ResourceMonitor::Injected(required("filename", &c.filename)?))
            }
            _ => Err(typed.unknown()),
        }
        .at("typed_config")
    })?;
    let actions = each("actions", &o.actions, |a| {
        let triggers = each("triggers", &a.triggers, |t| {
            use overload::trigger::TriggerOneof as T;
            let trigger = match t.trigger_oneof.as_ref().ok_or_else(|| missing("trigger_oneof"))? {
                T::Threshold(t) => Trigger::Threshold(t.value),
                T::Scaled(s) => Trigger::Scaled(s.scaling_threshold, s.saturation_threshold),
            };
            Ok((required("name", &t.name)?, trigger))
        })?;
        Ok((required("name", &a.name)?, triggers))
    })?;
    let refresh_interval = opt_duration("refresh_interval", &o.refresh_interval)?.unwrap_or(Duration::from_secs(1));
    Ok(Overload { refresh_interval, monitors, actions })
}

/// Static layers flattened to dotted keys, later layers winning.
fn runtime(r: Option<&p::LayeredRuntime>) -> Result<Vec<(Name, Value)>> {
    use p::runtime_layer::LayerSpecifier as L;
    fn flatten(prefix: &str, v: &Value, out: &mut std::collections::BTreeMap<String, Value>) {
        match v {
            Value::Struct(fields) if !fields.contains_key("numerator") => {
                for (k, v) in fields.iter() {
                    let key = if prefix.is_empty() { k.to_string() } else { format!("{prefix}.{k}") };
                    flatten(&key, v, out);
                }
            }
            other => {
                out.insert(prefix.to_owned(), other.clone());
            }
        }
    }
    let mut out = std::collections::BTreeMap::new();
    for (i, layer) in r.iter().flat_map(|r| &r.layers).enumerate() {
        match &layer.layer_specifier {
            Some(L::StaticLayer(s)) => flatten("", &common::value_of_struct(s), &mut out),
            // The admin layer is empty until someone writes to it.
            Some(L::AdminLayer(_)) => {}
            Some(L::DiskLayer(_)) => {
                return Err(unsupported("disk_layer").at("disk_layer").at_index("layers", i));
            }
            Some(L::RtdsLayer(_)) => {
                return Err(unsupported("rtds_layer").at("rtds_layer").at_index("layers", i));
            }
            None => return Err(missing("layer_specifier").at_index("layers", i)),
        }
    }
    Ok(out.into_iter().map(|(k, v)| (k.into(), v)).collect())
}
