//! How is tracing configuration compiled?

use std::sync::Arc;

use protos::envoy::config::core::v3 as core;
use protos::envoy::config::route::v3 as route;
use protos::envoy::config::trace::v3 as trace;
use protos::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager as hcm;
use protos::envoy::r#type::tracing::v3 as tag;

use super::any::{Typed, no_config};
use super::common::{self, metadata_key, opt_name, required};
use super::{each, reject};
use crate::common::Fraction;
use crate::error::{At, Result, invalid, missing, unsupported};
use crate::format::MetadataKind;
use crate::matcher::HeaderName;
use crate::tracing::*;

/// Envoy's default of `max_path_tag_length`.
const PATH_TAG_LENGTH: u32 = 256;

/// `HttpConnectionManager.Tracing`
pub(super) fn hcm(t: &hcm::Tracing) -> Result<Tracing> {
    reject!(t; no_context_propagation);
    Ok(Tracing {
        client_sampling: common::percent("client_sampling", &t.client_sampling, Fraction::ALWAYS)?,
        random_sampling: common::percent("random_sampling", &t.random_sampling, Fraction::ALWAYS)?,
        overall_sampling: common::percent("overall_sampling", &t.overall_sampling, Fraction::ALWAYS)?,
        verbose: t.verbose,
        max_path_tag_length: t.max_path_tag_length.unwrap_or(PATH_TAG_LENGTH),
        custom_tags: tags(&t.custom_tags)?,
        spawn_upstream_span: t.spawn_upstream_span.unwrap_or(false),
        provider: t.provider.as_ref().map(provider).transpose().at("provider")?.map(Arc::new),
        operation: (!t.operation.is_empty()).then(|| super::format::text(&t.operation)).transpose().at("operation")?,
    })
}

/// `Route.tracing`
pub(super) fn route(t: &route::Tracing) -> Result<RouteTracing> {
    let sampling = |field: &str, f: &Option<_>| f.as_ref().map(common::fraction).transpose().at(field);
    Ok(RouteTracing {
        client_sampling: sampling("client_sampling", &t.client_sampling)?,
        random_sampling: sampling("random_sampling", &t.random_sampling)?,
        overall_sampling: sampling("overall_sampling", &t.overall_sampling)?,
        custom_tags: tags(&t.custom_tags)?,
        operation: (!t.operation.is_empty()).then(|| super::format::text(&t.operation)).transpose().at("operation")?,
    })
}

fn tags(list: &[tag::CustomTag]) -> Result<Arc<[CustomTag]>> {
    each("custom_tags", list, custom_tag)
}

fn custom_tag(t: &tag::CustomTag) -> Result<CustomTag> {
    use protos::envoy::r#type::metadata::v3::metadata_kind::Kind;
    use tag::custom_tag::Type as T;
    let value = match t.r#type.as_ref().ok_or_else(|| missing("type"))? {
        T::Literal(l) => TagValue::Literal(l.value.as_str().into()),
        T::Environment(e) => TagValue::Environment {
            name: required("name", &e.name).at("environment")?,
            default: e.default_value.as_str().into(),
        },
        T::RequestHeader(h) => TagValue::RequestHeader {
            name: HeaderName::new(&required("name", &h.name).at("request_header")?),
            default: h.default_value.as_str().into(),
        },
        T::Metadata(m) => {
            let kind = match m.kind.as_ref().and_then(|k| k.kind.as_ref()) {
                Some(Kind::Request(_)) => MetadataKind::Dynamic,
                Some(Kind::Route(_)) => MetadataKind::Route,
                Some(Kind::Cluster(_)) => MetadataKind::Cluster,
                Some(Kind::Host(_)) => MetadataKind::UpstreamHost,
                None => return Err(missing("kind").at("metadata")),
            };
            let (filter, path) = metadata_key(&m.metadata_key).at("metadata")?;
            TagValue::Metadata { kind, filter, path, default: m.default_value.as_str().into() }
        }
        T::Value(f) => TagValue::Format(super::format::text(f).at("value")?),
    };
    Ok(CustomTag { tag: required("tag", &t.tag)?, value })
}

/// `envoy.config.trace.v3.Tracing.Http`
pub(super) fn provider(h: &trace::tracing::Http) -> Result<TraceProvider> {
    let Some(trace::tracing::http::ConfigType::TypedConfig(any)) = &h.config_type else {
        return Err(no_config(&h.name));
    };
    let typed = Typed::open(&h.name, any)?;
    match typed.message.as_str() {
        "envoy.config.trace.v3.ZipkinConfig" => Ok(TraceProvider::Zipkin(zipkin(&typed.decode()?)?)),
        "envoy.config.trace.v3.OpenTelemetryConfig" => {
            Ok(TraceProvider::OpenTelemetry(open_telemetry(&typed.decode()?)?))
        }
        _ => Err(typed.unknown()),
    }
    .at("typed_config")
}

fn zipkin(z: &trace::ZipkinConfig) -> Result<Zipkin> {
    reject!(z; collector_service, timestamp_trace_ids);
    if z.collector_endpoint_version == trace::zipkin_config::CollectorEndpointVersion::HttpProto as i32 {
        return Err(unsupported("HTTP_PROTO").at("collector_endpoint_version"));
    }
    if z.collector_endpoint_version == trace::zipkin_config::CollectorEndpointVersion::Grpc as i32 {
        return Err(unsupported("GRPC").at("collector_endpoint_version"));
    }
    Ok(Zipkin {
        collector_cluster: required("collector_cluster", &z.collector_cluster)?,
        collector_endpoint: required("collector_endpoint", &z.collector_endpoint)?,
        collector_hostname: opt_name(&z.collector_hostname),
        trace_id_128bit: z.trace_id_128bit,
        shared_span_context: z.shared_span_context.unwrap_or(true),
        w3c: z.trace_context_option == trace::zipkin_config::TraceContextOption::UseB3WithW3cPropagation as i32,
        split_spans_for_request: z.split_spans_for_request,
    })
}

fn open_telemetry(o: &trace::OpenTelemetryConfig) -> Result<OpenTelemetry> {
    reject!(o; exporter, sampler);
    let (http, http_headers) = match &o.http_service {
        None => (None, Box::default()),
        Some(s) => http_service(s).at("http_service")?,
    };
    if o.grpc_service.is_some() && http.is_some() {
        return Err(invalid(
            "OpenTelemetry Tracer cannot have both gRPC and HTTP exporters configured. OpenTelemetry tracing will not be enabled.",
        ));
    }
    Ok(OpenTelemetry {
        grpc: o.grpc_service.as_ref().map(common::grpc_service).transpose().at("grpc_service")?,
        http,
        http_headers,
        service_name: if o.service_name.is_empty() {
            "unknown_service:envoy".into()
        } else {
            o.service_name.as_str().into()
        },
        resource_detectors: o.resource_detectors.iter().map(|d| d.name.as_str().into()).collect(),
    })
}

type HttpService = (Option<crate::common::HttpUri>, Box<[(crate::Name, crate::Name)]>);

fn http_service(s: &core::HttpService) -> Result<HttpService> {
    let uri = common::http_uri(s.http_uri.as_ref().ok_or_else(|| missing("http_uri"))?).at("http_uri")?;
    let headers = s
        .request_headers_to_add
        .iter()
        .filter_map(|h| h.header.as_ref())
        .map(|h| (h.key.to_ascii_lowercase().into(), h.value.as_str().into()))
        .collect();
    Ok((Some(uri), headers))
}
