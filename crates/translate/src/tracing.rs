//! Which spans does a connection manager report? Providers, tags and sampling from Telemetry resources, else from the
//! proxy's configuration and the mesh. Follows `tracing.go`. Served providers: Zipkin, OpenTelemetry and Lightstep, which
//! is spoken as OpenTelemetry; SkyWalking, Datadog and the Dynatrace sampler reach proxies that are not our own.

use std::collections::BTreeMap;

use api::security::{Mode, Tracing};
use protos::envoy::config::core::v3 as core;
use protos::envoy::config::trace::v3 as trace;
use protos::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use protos::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager as h;
use protos::envoy::r#type::metadata::v3 as meta;
use protos::envoy::r#type::tracing::v3 as tag;
use protos::envoy::r#type::v3::Percent;
use serde_json::Value;

use crate::Inputs;
use crate::listener::Class;
use crate::telemetry;
use crate::wire::{any, duration};

/// Sampling when nobody says: one percent.
const DEFAULT_SAMPLING: f64 = 1.0;
/// Where Zipkin collectors take spans.
const ZIPKIN_PATH: &str = "/api/v2/spans";
/// How long an OpenTelemetry collector may take when nobody says.
const OTEL_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(3);

/// What is in force for one class: later entries win, field by field.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// Whether anything is said; else the proxy's configuration and the mesh decide alone.
    pub stated: bool,
    /// The provider; `None`: none is named.
    pub provider: Option<String>,
    /// No spans are reported.
    pub disabled: bool,
    /// Percentage of requests sampled, if stated.
    pub sampling: Option<f64>,
    /// Whether the request id carries the decision.
    pub by_request_id: Option<bool>,
    /// Whether spans carry Istio's own tags.
    pub istio_tags: Option<bool>,
    /// Whether the trace headers are not sent on.
    pub no_propagation: bool,
    /// Tags of the workload's owner, by name.
    pub tags: BTreeMap<String, api::security::CustomTag>,
}

/// The settings of the Telemetry resources, over the mesh's default providers.
pub fn settings(inputs: &Inputs, class: Class) -> Settings {
    let mesh = inputs.mesh();
    let known = |name: &String| mesh.provider(name).map(|_| name.clone());
    let default = mesh.default_providers.tracing.first();
    let mut out = Settings { provider: default.and_then(known), stated: default.is_some(), ..Default::default() };
    let entries = telemetry::applicable(inputs).into_iter().flat_map(|t| &t.tracing);
    let applies =
        |t: &&Tracing| telemetry::applies(t.matches.as_ref().map_or(Mode::ClientAndServer, |m| m.mode), class);
    for t in entries.inspect(|_| out.stated = true).filter(applies) {
        out.provider = t.providers.first().and_then(|p| known(&p.name)).or(out.provider);
        out.disabled = t.disable_span_reporting.unwrap_or(out.disabled);
        out.sampling = t.random_sampling_percentage.or(out.sampling);
        out.by_request_id = t.use_request_id_for_trace_sampling.or(out.by_request_id);
        out.istio_tags = t.enable_istio_tags.or(out.istio_tags);
        out.no_propagation = t.disable_context_propagation.unwrap_or(out.no_propagation);
        if !t.custom_tags.is_empty() {
            out.tags = t.custom_tags.clone();
        }
    }
    // Who states something and names nobody to report to reports nothing.
    out.disabled |= out.stated && out.provider.is_none();
    out
}

/// Sets up tracing; returns whether the request id carries the sampling decision.
pub(crate) fn configure(inputs: &Inputs, out: &mut hcm::HttpConnectionManager, class: Class) -> bool {
    let settings = settings(inputs, class);
    out.tracing = of_settings(inputs, &settings);
    settings.by_request_id.unwrap_or(true)
}

/// The tracing of a connection manager under these settings; `None`: it reports no spans.
///
/// Where nothing is stated and the mesh enables tracing, spans go to the static tracer of the bootstrap.
pub fn of_settings(inputs: &Inputs, settings: &Settings) -> Option<h::Tracing> {
    let mesh = inputs.mesh();
    if settings.disabled || !(settings.stated || mesh.enable_tracing) {
        return None;
    }
    let mut out = h::Tracing::default();
    let mut stated_length = None;
    let mut custom_sampler = false;
    if let Some(found) = settings.provider.as_ref().and_then(|name| mesh.provider(name)) {
        out.provider = Some(provider(inputs, &found.kind, &found.config)?);
        out.spawn_upstream_span = (found.kind == "skywalking").then_some(true);
        custom_sampler = sampler_of(inputs, &found.config).is_some();
        stated_length = found.config.get("maxTagLength").and_then(Value::as_u64).filter(|l| *l > 0);
    }
    let of_proxy = |field: &str| inputs.proxy().config(mesh, &format!("/tracing/{field}"));
    let percent = |value| Some(Percent { value });
    let of_proxy_sampling = of_proxy("sampling").and_then(Value::as_f64).filter(|s| *s > 0.0);
    // More than all is nothing that was meant.
    let sampling = settings.sampling.or(of_proxy_sampling.filter(|s| *s <= 100.0)).unwrap_or(DEFAULT_SAMPLING);
    out.client_sampling = percent(100.0);
    // Such a sampler decides alone, so that it is asked about every request.
    out.random_sampling = percent(if custom_sampler { 100.0 } else { sampling });
    out.overall_sampling = percent(100.0);
    let of_proxy_length = of_proxy("maxPathTagLength").and_then(Value::as_u64).filter(|l| *l > 0);
    out.max_path_tag_length = stated_length.or(of_proxy_length).and_then(|l| u32::try_from(l).ok());
    let istio_tags = settings.istio_tags.or_else(|| of_proxy("enableIstioTags").and_then(Value::as_bool));
    if istio_tags.unwrap_or(true) {
        out.custom_tags = istio_tags_of(inputs);
    }
    if settings.tags.is_empty() {
        let stated = of_proxy("customTags").and_then(Value::as_object).into_iter().flatten();
        out.custom_tags.extend(stated.filter_map(|(k, v)| custom_tag(k, &api::from_value(v).ok()?)));
    } else {
        out.custom_tags.extend(settings.tags.iter().filter_map(|(k, t)| custom_tag(k, t)));
    }
    out.custom_tags.sort_by(|a, b| a.tag.cmp(&b.tag));
    out.no_context_propagation = settings.no_propagation && !inputs.proxy().is_own();
    Some(out)
}

/// What every span says of the workload and of policies under trial.
fn istio_tags_of(inputs: &Inputs) -> Vec<tag::CustomTag> {
    use tag::custom_tag as c;
    let proxy = inputs.proxy();
    let or = |text: &str, default: &str| if text.is_empty() { default.to_owned() } else { text.to_owned() };
    let label = |k: &str| proxy.labels.get(k).map_or("", String::as_str);
    let policy = |name: &str, key: &str| tag::CustomTag {
        tag: format!("istio.authorization.dry_run.{name}"),
        r#type: Some(c::Type::Metadata(c::Metadata {
            kind: Some(meta::MetadataKind { kind: Some(meta::metadata_kind::Kind::Request(Default::default())) }),
            metadata_key: Some(meta::MetadataKey {
                key: "envoy.filters.http.rbac".to_owned(),
                path: vec![meta::metadata_key::PathSegment {
                    segment: Some(meta::metadata_key::path_segment::Segment::Key(key.to_owned())),
                }],
            }),
            default_value: String::new(),
        })),
    };
    let literal = |name: &str, value: String| tag::CustomTag {
        tag: format!("istio.{name}"),
        r#type: Some(c::Type::Literal(c::Literal { value })),
    };
    vec![
        policy("allow_policy.name", "istio_dry_run_allow_shadow_effective_policy_id"),
        policy("allow_policy.result", "istio_dry_run_allow_shadow_engine_result"),
        policy("deny_policy.name", "istio_dry_run_deny_shadow_effective_policy_id"),
        policy("deny_policy.result", "istio_dry_run_deny_shadow_engine_result"),
        literal("canonical_revision", or(label("service.istio.io/canonical-revision"), "latest")),
        literal("canonical_service", or(label("service.istio.io/canonical-name"), "unknown")),
        literal("cluster_id", or(&proxy.cluster_id, "unknown")),
        literal("mesh_id", or(proxy.metadata_text("MESH_ID"), "unknown")),
        literal("namespace", or(&proxy.namespace, "default")),
    ]
}

fn provider(inputs: &Inputs, kind: &str, config: &Value) -> Option<trace::tracing::Http> {
    let (cluster, authority) = crate::access_log::provider_cluster(inputs, config)?;
    let (name, typed) = match kind {
        "zipkin" => ("envoy.tracers.zipkin", any(&zipkin(&understood(inputs, config), &cluster, &authority))),
        "opentelemetry" => ("envoy.tracers.opentelemetry", any(&opentelemetry(inputs, config, &cluster, &authority))),
        "lightstep" => ("envoy.tracers.opentelemetry", any(&lightstep(config, &cluster, &authority))),
        // Tracers that our own proxy does not have.
        _ if inputs.proxy().is_own() => return None,
        "skywalking" => ("envoy.tracers.skywalking", any(&skywalking(config, &cluster, &authority))),
        "datadog" => {
            let config = trace::DatadogConfig {
                collector_cluster: cluster,
                collector_hostname: authority,
                service_name: service_name(inputs),
                ..Default::default()
            };
            ("envoy.tracers.datadog", any(&config))
        }
        _ => return None,
    };
    Some(trace::tracing::Http {
        name: name.to_owned(),
        config_type: Some(trace::tracing::http::ConfigType::TypedConfig(typed)),
    })
}

fn lightstep(config: &Value, cluster: &str, authority: &str) -> trace::OpenTelemetryConfig {
    let mut grpc_service = crate::access_log::envoy_grpc(cluster, authority);
    grpc_service.initial_metadata.push(core::HeaderValue {
        key: "lightstep-access-token".to_owned(),
        value: config.get("accessToken").and_then(Value::as_str).unwrap_or_default().to_owned(),
        ..Default::default()
    });
    trace::OpenTelemetryConfig { grpc_service: Some(grpc_service), ..Default::default() }
}

fn skywalking(config: &Value, cluster: &str, authority: &str) -> trace::SkyWalkingConfig {
    use trace::client_config::BackendTokenSpecifier;
    let token = config.get("accessToken").and_then(Value::as_str).filter(|t| !t.is_empty());
    trace::SkyWalkingConfig {
        grpc_service: Some(crate::access_log::envoy_grpc(cluster, authority)),
        client_config: token.map(|t| trace::ClientConfig {
            backend_token_specifier: Some(BackendTokenSpecifier::BackendToken(t.to_owned())),
            ..Default::default()
        }),
    }
}

/// The Dynatrace sampler of an OpenTelemetry provider. Without a service of its own it asks the exporter's.
fn sampler_of(inputs: &Inputs, config: &Value) -> Option<core::TypedExtensionConfig> {
    use protos::envoy::extensions::tracers::opentelemetry::samplers::v3 as samplers;
    let stated = config.get("dynatraceSampler").filter(|_| !inputs.proxy().is_own())?;
    let (service, headers_of, path, timeout_of) = match stated.get("httpService") {
        Some(own) => {
            let http = own.get("http").unwrap_or(&Value::Null);
            let path = http.get("path").and_then(Value::as_str).unwrap_or_default();
            (own, http, path.to_owned(), http)
        }
        // The exporter's service and headers, at the sampler's path.
        None => {
            let http = config.get("http")?;
            (config, http, "/api/v2/samplingConfiguration".to_owned(), http)
        }
    };
    let (cluster, authority) = crate::access_log::provider_cluster(inputs, service)?;
    let number = |k: &str| stated.get(k).and_then(Value::as_i64);
    let sampler = samplers::DynatraceSamplerConfig {
        tenant: stated.get("tenant").and_then(Value::as_str).unwrap_or_default().to_owned(),
        cluster_id: number("clusterId").and_then(|n| i32::try_from(n).ok()).unwrap_or(0),
        root_spans_per_minute: number("rootSpansPerMinute").and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
        http_service: Some(core::HttpService {
            http_uri: Some(core::HttpUri {
                uri: format!("{authority}{}", absolute(&path)),
                timeout: timeout(timeout_of).or_else(|| Some(duration(OTEL_TIMEOUT))),
                http_upstream_type: Some(core::http_uri::HttpUpstreamType::Cluster(cluster)),
            }),
            request_headers_to_add: headers(headers_of),
            ..Default::default()
        }),
    };
    Some(core::TypedExtensionConfig {
        name: "envoy.tracers.opentelemetry.samplers.dynatrace".to_owned(),
        typed_config: Some(any(&sampler)),
    })
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// Our own proxy reports to Zipkin without headers and with a timeout of its own.
fn understood(inputs: &Inputs, config: &Value) -> Value {
    let mut out = config.clone();
    if let (true, Some(fields)) = (inputs.proxy().is_own(), out.as_object_mut()) {
        fields.remove("timeout");
        fields.remove("headers");
    }
    out
}

/// Names and values of headers, as the mesh states them.
fn pairs(list: Option<&Value>) -> Vec<core::HeaderValue> {
    let text = |v: &Value, k: &str| v.get(k).and_then(Value::as_str).unwrap_or_default().to_owned();
    let list = list.and_then(Value::as_array).into_iter().flatten();
    list.map(|h| core::HeaderValue { key: text(h, "name"), value: text(h, "value"), ..Default::default() }).collect()
}

fn headers(config: &Value) -> Vec<core::HeaderValueOption> {
    let set = |header| core::HeaderValueOption {
        header: Some(header),
        append_action: core::header_value_option::HeaderAppendAction::OverwriteIfExistsOrAdd as i32,
        ..Default::default()
    };
    pairs(config.get("headers")).into_iter().map(set).collect()
}

fn timeout(config: &Value) -> Option<prost_types::Duration> {
    config.get("timeout").and_then(Value::as_str).and_then(api::Duration::parse).map(|d| duration(d.to_std()))
}

/// A Zipkin tracer. With a timeout or headers the collector is described as an HTTP service.
pub fn zipkin(config: &Value, cluster: &str, authority: &str) -> trace::ZipkinConfig {
    use trace::zipkin_config::{CollectorEndpointVersion, TraceContextOption};
    let path = config.get("path").and_then(Value::as_str).filter(|p| !p.is_empty()).unwrap_or(ZIPKIN_PATH);
    let both = config.get("traceContextOption").and_then(Value::as_str) == Some("USE_B3_WITH_W3C_PROPAGATION");
    let context = if both { TraceContextOption::UseB3WithW3cPropagation } else { TraceContextOption::UseB3 };
    let mut out = trace::ZipkinConfig {
        collector_endpoint_version: CollectorEndpointVersion::HttpJson as i32,
        // Istio's spelling of the field is about 64 bits and its default is 128.
        trace_id_128bit: config.get("enable64bitTraceId").and_then(Value::as_bool) != Some(true),
        shared_span_context: Some(false),
        trace_context_option: context as i32,
        ..Default::default()
    };
    let (timeout, headers) = (timeout(config), headers(config));
    if timeout.is_some() || !headers.is_empty() {
        out.collector_service = Some(core::HttpService {
            http_uri: Some(core::HttpUri {
                uri: format!("http://{authority}{path}"),
                timeout: timeout.or_else(|| Some(duration(std::time::Duration::from_secs(5)))),
                http_upstream_type: Some(core::http_uri::HttpUpstreamType::Cluster(cluster.to_owned())),
            }),
            request_headers_to_add: headers,
            ..Default::default()
        });
        return out;
    }
    out.collector_cluster = cluster.to_owned();
    out.collector_endpoint = path.to_owned();
    out.collector_hostname = authority.to_owned();
    out
}

fn opentelemetry(inputs: &Inputs, config: &Value, cluster: &str, authority: &str) -> trace::OpenTelemetryConfig {
    use protos::envoy::extensions::tracers::opentelemetry::resource_detectors::v3 as detectors;
    let semantic =
        config.get("serviceAttributeEnrichment").and_then(Value::as_str) == Some("OTEL_SEMANTIC_CONVENTIONS");
    let service_name = if semantic { otel_service_name(inputs.proxy()) } else { service_name(inputs) };
    let mut out = trace::OpenTelemetryConfig { service_name, ..Default::default() };
    match config.get("http") {
        Some(http) => {
            let path = http.get("path").and_then(Value::as_str).unwrap_or_default();
            out.http_service = Some(core::HttpService {
                http_uri: Some(core::HttpUri {
                    uri: format!("{authority}{}", absolute(path)),
                    timeout: timeout(http).or_else(|| Some(duration(OTEL_TIMEOUT))),
                    http_upstream_type: Some(core::http_uri::HttpUpstreamType::Cluster(cluster.to_owned())),
                }),
                request_headers_to_add: headers(http),
                ..Default::default()
            });
        }
        None => {
            let mut service = crate::access_log::envoy_grpc(cluster, authority);
            if let Some(grpc) = config.get("grpc") {
                service.timeout = timeout(grpc);
                service.initial_metadata = pairs(grpc.get("initialMetadata"));
            }
            out.grpc_service = Some(service);
        }
    }
    out.sampler = sampler_of(inputs, config);
    let typed = |name: &str, config| core::TypedExtensionConfig {
        name: format!("envoy.tracers.opentelemetry.resource_detectors.{name}"),
        typed_config: Some(config),
    };
    let wanted = config.get("resourceDetectors");
    if semantic || wanted.and_then(|d| d.get("environment")).is_some() {
        out.resource_detectors
            .push(typed("environment", any(&detectors::EnvironmentResourceDetectorConfig::default())));
    }
    if wanted.and_then(|d| d.get("dynatrace")).is_some() {
        out.resource_detectors.push(typed("dynatrace", any(&detectors::DynatraceResourceDetectorConfig::default())));
    }
    out
}

/// The name of the service by OpenTelemetry's conventions for Kubernetes: stated, instance, application, owner, pod,
/// container.
pub fn otel_service_name(proxy: &model::Proxy) -> String {
    let annotation = || match proxy.metadata.fields.get("ANNOTATIONS").and_then(|v| v.kind.as_ref()) {
        Some(prost_types::value::Kind::StructValue(s)) => {
            match s.fields.get("resource.opentelemetry.io/service.name")?.kind.as_ref()? {
                prost_types::value::Kind::StringValue(s) => Some(s.clone()),
                _ => None,
            }
        }
        _ => None,
    };
    let label = |k: &str| proxy.labels.get(k).filter(|l| !l.is_empty()).cloned();
    let text = |k: &str| Some(proxy.metadata_text(k).to_owned()).filter(|t| !t.is_empty());
    annotation()
        .or_else(|| label("app.kubernetes.io/instance"))
        .or_else(|| label("app.kubernetes.io/name"))
        .or_else(|| text("WORKLOAD_NAME"))
        .or_else(|| Some(proxy.pod.to_string()).filter(|p| !p.is_empty()))
        .or_else(|| text("APP_CONTAINERS").filter(|c| !c.contains(',')))
        .unwrap_or_else(|| "unknown_service".to_owned())
}

/// `app.namespace`, by the canonical name label.
fn service_name(inputs: &Inputs) -> String {
    let proxy = inputs.proxy();
    let app = ["service.istio.io/canonical-name", "app"].iter().find_map(|k| proxy.labels.get(*k));
    format!("{}.{}", app.map_or(&*proxy.pod, String::as_str), proxy.namespace)
}

fn custom_tag(name: &str, t: &api::security::CustomTag) -> Option<tag::CustomTag> {
    use tag::custom_tag as c;
    let kind = if let Some(l) = &t.literal {
        c::Type::Literal(c::Literal { value: l.value.clone() })
    } else if let Some(e) = &t.environment {
        c::Type::Environment(c::Environment { name: e.name.clone(), default_value: e.default_value.clone() })
    } else if let Some(h) = &t.header {
        c::Type::RequestHeader(c::Header { name: h.name.clone(), default_value: h.default_value.clone() })
    } else if let Some(f) = &t.formatter {
        c::Type::Value(f.value.clone())
    } else {
        return None;
    };
    Some(tag::CustomTag { tag: name.to_owned(), r#type: Some(kind) })
}
