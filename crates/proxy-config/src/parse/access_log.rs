//! How are access logs and their filters compiled?

use std::sync::Arc;
use std::time::Duration;

use protos::envoy::config::accesslog::v3 as p;
use protos::envoy::extensions::access_loggers as ext;
use protos::opentelemetry::proto::common::v1 as otel;

use super::any::{Typed, no_config};
use super::common::{self, opt_duration, required, required_grpc};
use super::{each, reject};
use crate::Name;
use crate::access_log::*;
use crate::common::Fraction;
use crate::error::{At, Result, missing, unsupported};
use crate::format::{FormatBody, JsonFormat, SubstitutionFormat};

const FLUSH_INTERVAL: Duration = Duration::from_secs(1);
const BUFFER_BYTES: u32 = 16 * 1024;

/// The field `access_log`.
pub(super) fn logs(list: &[p::AccessLog]) -> Result<Arc<[AccessLog]>> {
    each("access_log", list, log)
}

fn log(l: &p::AccessLog) -> Result<AccessLog> {
    let Some(p::access_log::ConfigType::TypedConfig(any)) = &l.config_type else {
        return Err(no_config(&l.name));
    };
    let typed = Typed::open(&l.name, any).at("typed_config")?;
    let short = typed.message.strip_prefix("envoy.extensions.access_loggers.").unwrap_or_default();
    let sink = match short {
        "file.v3.FileAccessLog" => typed.decode().and_then(|c| file(&c)),
        "stream.v3.StdoutAccessLog" => typed.decode().and_then(|c: ext::stream::v3::StdoutAccessLog| {
            use ext::stream::v3::stdout_access_log::AccessLogFormat::LogFormat;
            let f = c.access_log_format.as_ref().map(|LogFormat(f)| super::format::substitution(f).at("log_format"));
            Ok(LogSink::Stdout(Arc::new(f.transpose()?.map_or_else(default_format, Ok)?)))
        }),
        "stream.v3.StderrAccessLog" => typed.decode().and_then(|c: ext::stream::v3::StderrAccessLog| {
            use ext::stream::v3::stderr_access_log::AccessLogFormat::LogFormat;
            let f = c.access_log_format.as_ref().map(|LogFormat(f)| super::format::substitution(f).at("log_format"));
            Ok(LogSink::Stderr(Arc::new(f.transpose()?.map_or_else(default_format, Ok)?)))
        }),
        "grpc.v3.HttpGrpcAccessLogConfig" => typed.decode().and_then(|c: ext::grpc::v3::HttpGrpcAccessLogConfig| {
            let names = |l: &[String]| l.iter().map(|s| s.to_ascii_lowercase().into()).collect();
            let mut g = grpc(&c.common_config, false)?;
            g.request_headers = names(&c.additional_request_headers_to_log);
            g.response_headers = names(&c.additional_response_headers_to_log);
            g.response_trailers = names(&c.additional_response_trailers_to_log);
            Ok(LogSink::Grpc(Arc::new(g)))
        }),
        "grpc.v3.TcpGrpcAccessLogConfig" => typed.decode().and_then(|c: ext::grpc::v3::TcpGrpcAccessLogConfig| {
            Ok(LogSink::Grpc(Arc::new(grpc(&c.common_config, true)?)))
        }),
        "open_telemetry.v3.OpenTelemetryAccessLogConfig" => typed.decode().and_then(|c| open_telemetry(&c)),
        _ => Err(typed.unknown()),
    };
    Ok(AccessLog {
        name: l.name.as_str().into(),
        filter: l.filter.as_ref().map(filter).transpose().at("filter")?,
        sink: sink.at("typed_config")?,
    })
}

fn default_format() -> Result<SubstitutionFormat> {
    Ok(plain(FormatBody::Text(super::format::text(DEFAULT_FORMAT)?)))
}

fn plain(body: FormatBody) -> SubstitutionFormat {
    SubstitutionFormat { body, omit_empty_values: false, content_type: None }
}

fn file(f: &ext::file::v3::FileAccessLog) -> Result<LogSink> {
    use ext::file::v3::file_access_log::AccessLogFormat as F;
    let format = match &f.access_log_format {
        None => default_format()?,
        Some(F::Format(t)) if t.is_empty() => default_format()?,
        Some(F::Format(t)) => plain(FormatBody::Text(super::format::text(t).at("format")?)),
        Some(F::JsonFormat(s) | F::TypedJsonFormat(s)) => {
            plain(FormatBody::Json(super::format::json(s).at("json_format")?))
        }
        Some(F::LogFormat(f)) => super::format::substitution(f).at("log_format")?,
    };
    Ok(LogSink::File { path: required("path", &f.path)?, format: Arc::new(format) })
}

fn grpc(c: &Option<ext::grpc::v3::CommonGrpcAccessLogConfig>, tcp: bool) -> Result<GrpcLog> {
    let c = c.as_ref().ok_or_else(|| missing("common_config"))?;
    reject!(c; custom_tags);
    Ok(GrpcLog {
        log_name: required("log_name", &c.log_name).at("common_config")?,
        service: required_grpc("grpc_service", &c.grpc_service).at("common_config")?,
        tcp,
        flush_interval: opt_duration("buffer_flush_interval", &c.buffer_flush_interval)?.unwrap_or(FLUSH_INTERVAL),
        buffer_bytes: c.buffer_size_bytes.unwrap_or(BUFFER_BYTES),
        filter_state_to_log: c.filter_state_objects_to_log.iter().map(|s| s.as_str().into()).collect(),
        request_headers: Box::default(),
        response_headers: Box::default(),
        response_trailers: Box::default(),
    })
}

fn open_telemetry(o: &ext::open_telemetry::v3::OpenTelemetryAccessLogConfig) -> Result<LogSink> {
    reject!(o; http_service, custom_tags, resource_detectors);
    let old = o.common_config.clone().unwrap_or_default();
    let service = o.grpc_service.as_ref().or(old.grpc_service.as_ref()).ok_or_else(|| missing("grpc_service"))?;
    let name = if o.log_name.is_empty() { &old.log_name } else { &o.log_name };
    Ok(LogSink::OpenTelemetry(Arc::new(OtelLog {
        log_name: name.as_str().into(),
        service: common::grpc_service(service).at("grpc_service")?,
        body: o.body.as_ref().map(any_value).transpose().at("body")?,
        attributes: attributes(&o.attributes).at("attributes")?,
        resource_attributes: attributes(&o.resource_attributes).at("resource_attributes")?,
        disable_builtin_labels: o.disable_builtin_labels,
        flush_interval: opt_duration("buffer_flush_interval", &o.buffer_flush_interval)?
            .or(opt_duration("buffer_flush_interval", &old.buffer_flush_interval)?)
            .unwrap_or(FLUSH_INTERVAL),
        buffer_bytes: o.buffer_size_bytes.or(old.buffer_size_bytes).unwrap_or(BUFFER_BYTES),
    })))
}

type Attributes = Box<[(Box<str>, JsonFormat)]>;

fn attributes(l: &Option<otel::KeyValueList>) -> Result<Attributes> {
    l.iter().flat_map(|l| &l.values).map(key_value).collect()
}

fn key_value(kv: &otel::KeyValue) -> Result<(Box<str>, JsonFormat)> {
    let value = kv.value.as_ref().map_or(Ok(JsonFormat::Null), any_value).at(&kv.key)?;
    Ok((kv.key.as_str().into(), value))
}

fn any_value(v: &otel::AnyValue) -> Result<JsonFormat> {
    use otel::any_value::Value as V;
    Ok(match &v.value {
        None => JsonFormat::Null,
        Some(V::StringValue(s)) => JsonFormat::String(super::format::text(s)?),
        Some(V::BoolValue(b)) => JsonFormat::Bool(*b),
        Some(V::IntValue(n)) => JsonFormat::Number(*n as f64),
        Some(V::DoubleValue(n)) => JsonFormat::Number(*n),
        Some(V::ArrayValue(a)) => JsonFormat::List(a.values.iter().map(any_value).collect::<Result<Vec<_>>>()?.into()),
        Some(V::KvlistValue(l)) => {
            JsonFormat::Struct(l.values.iter().map(key_value).collect::<Result<Vec<_>>>()?.into())
        }
        Some(_) => return Err(unsupported("this value type")),
    })
}

fn comparison(c: &Option<p::ComparisonFilter>) -> Result<Comparison> {
    let c = c.as_ref().ok_or_else(|| missing("comparison"))?;
    let op = match c.op {
        0 => CompareOp::Eq,
        1 => CompareOp::Ge,
        2 => CompareOp::Le,
        3 => CompareOp::Ne,
        _ => return Err(unsupported("this op").at("op").at("comparison")),
    };
    Ok(Comparison { op, value: c.value.as_ref().map_or(0, |v| v.default_value) })
}

/// `AccessLogFilter`
pub(super) fn filter(f: &p::AccessLogFilter) -> Result<LogFilter> {
    use p::access_log_filter::FilterSpecifier as S;
    Ok(match f.filter_specifier.as_ref().ok_or_else(|| missing("filter_specifier"))? {
        S::StatusCodeFilter(c) => LogFilter::StatusCode(comparison(&c.comparison).at("status_code_filter")?),
        S::DurationFilter(c) => LogFilter::Duration(comparison(&c.comparison).at("duration_filter")?),
        S::NotHealthCheckFilter(_) => LogFilter::NotHealthCheck,
        S::TraceableFilter(_) => LogFilter::Traceable,
        S::RuntimeFilter(r) => LogFilter::Runtime {
            fraction: r.percent_sampled.as_ref().map_or(Ok(Fraction::NEVER), common::fraction).at("runtime_filter")?,
            independent: r.use_independent_randomness,
        },
        S::AndFilter(a) => LogFilter::And(each("filters", &a.filters, filter).at("and_filter")?),
        S::OrFilter(a) => LogFilter::Or(each("filters", &a.filters, filter).at("or_filter")?),
        S::HeaderFilter(h) => {
            let header = h.header.as_ref().ok_or_else(|| missing("header").at("header_filter"))?;
            LogFilter::Header(super::matcher::header(header).at("header").at("header_filter")?)
        }
        S::ResponseFlagFilter(r) => LogFilter::ResponseFlag(r.flags.iter().map(|s| s.as_str().into()).collect()),
        S::GrpcStatusFilter(g) => {
            LogFilter::GrpcStatus { statuses: g.statuses.iter().map(|n| *n as u32).collect(), exclude: g.exclude }
        }
        S::MetadataFilter(m) => LogFilter::Metadata {
            matcher: m.matcher.as_ref().map(super::matcher::metadata).transpose().at("metadata_filter")?,
            match_if_key_not_found: m.match_if_key_not_found.unwrap_or(true),
        },
        S::LogTypeFilter(l) => {
            LogFilter::LogType { types: l.types.iter().map(|n| log_type_name(*n)).collect(), exclude: l.exclude }
        }
        S::ExtensionFilter(e) => {
            let Some(p::extension_filter::ConfigType::TypedConfig(any)) = &e.config_type else {
                return Err(no_config(&e.name).at("extension_filter"));
            };
            let c: ext::filters::cel::v3::ExpressionFilter = super::any::expect(&e.name, any).at("extension_filter")?;
            let expr = crate::cel::parse(&c.expression)
                .map_err(|e| crate::error::invalid(e.to_string()).at("expression").at("extension_filter"))?;
            LogFilter::Cel(Arc::new(crate::cel::CelSource { text: c.expression.as_str().into(), expr }))
        }
    })
}

fn log_type_name(n: i32) -> Name {
    use protos::envoy::data::accesslog::v3::AccessLogType;
    // Envoy's filter compares the enum; the names used elsewhere are these in camel case.
    AccessLogType::try_from(n).map_or("NotSet", |t| t.as_str_name()).into()
}
