//! What is logged, where and how? The mesh's access log file, Telemetry resources and their providers, for HTTP, TCP
//! and listeners. Follows `accesslog.go` and `telemetry_logging.go`.

use api::security::{AccessLogging, Mode};
use model::mesh::ExtensionProvider;
use protos::envoy::config::accesslog::v3 as accesslog;
use protos::envoy::config::core::v3 as core;
use protos::envoy::extensions::access_loggers::file::v3 as file;
use protos::envoy::extensions::access_loggers::grpc::v3 as grpc;

use crate::Inputs;
use crate::listener::Class;
use crate::telemetry;
use crate::wire::any;

/// Istio's default text format.
pub const DEFAULT_FORMAT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

/// Fields of the default JSON format.
const DEFAULT_JSON: [(&str, &str); 24] = [
    ("start_time", "%START_TIME%"),
    ("route_name", "%ROUTE_NAME%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("connection_termination_details", "%CONNECTION_TERMINATION_DETAILS%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("duration", "%DURATION%"),
    ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("authority", "%REQ(:AUTHORITY)%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("upstream_transport_failure_reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
];

/// What gRPC logs carry of the connection's state when nobody says: who the peers are.
const FILTER_STATE: [&str; 6] = [
    "upstream_peer",
    "downstream_peer",
    "wasm.upstream_peer",
    "wasm.upstream_peer_id",
    "wasm.downstream_peer",
    "wasm.downstream_peer_id",
];

/// Which protocol's log is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Level {
    Http,
    Tcp,
    Listener,
}

/// Logs of an HTTP connection manager.
pub fn http(inputs: &Inputs, class: Class) -> Vec<accesslog::AccessLog> {
    logs(inputs, class, Level::Http)
}

/// Logs of a TCP proxy.
pub fn tcp(inputs: &Inputs, class: Class) -> Vec<accesslog::AccessLog> {
    logs(inputs, class, Level::Tcp)
}

/// Logs of a listener: only connections that found no filter chain, as others are logged by their chain.
pub(crate) fn listener(inputs: &Inputs, direction: core::TrafficDirection) -> Vec<accesslog::AccessLog> {
    if inputs.mesh().disable_envoy_listener_log {
        return Vec::new();
    }
    let class = match direction {
        core::TrafficDirection::Inbound => Class::SidecarInbound,
        _ => Class::outbound(inputs.proxy().node_type),
    };
    let mut out = logs(inputs, class, Level::Listener);
    for log in &mut out {
        let flags = accesslog::ResponseFlagFilter { flags: vec!["NR".to_owned()] };
        log.filter = Some(accesslog::AccessLogFilter {
            filter_specifier: Some(accesslog::access_log_filter::FilterSpecifier::ResponseFlagFilter(flags)),
        });
    }
    out
}

/// A provider chosen by Telemetry resources, with the filter it was chosen with.
struct Chosen {
    provider: String,
    filter: String,
}

/// Providers by Telemetry resources; each may add, replace filters or disable. `None`: no resource speaks about access
/// logs.
fn chosen(inputs: &Inputs, class: Class) -> Option<Vec<Chosen>> {
    let levels = telemetry::applicable(inputs);
    let entries = |t: &api::security::Telemetry| -> Vec<AccessLogging> {
        let applies = |e: &&AccessLogging| {
            telemetry::applies(e.matches.as_ref().map_or(Mode::ClientAndServer, |m| m.mode), class)
        };
        t.access_logging.iter().filter(applies).cloned().collect()
    };
    // The nearest level that names providers takes the place of those above it.
    let mut scope: Vec<String> = inputs.mesh().default_providers.access_logging.clone();
    for level in &levels {
        let named: Vec<String> =
            entries(level).iter().flat_map(|e| e.providers.iter().map(|p| p.name.clone())).collect();
        if !named.is_empty() {
            scope = named;
        }
    }
    let mut out: Option<Vec<Chosen>> = None;
    for entry in levels.into_iter().flat_map(entries) {
        apply(inputs, &entry, &mut out);
    }
    let mut list = out?;
    list.retain(|c| scope.is_empty() || scope.contains(&c.provider));
    list.sort_by(|a, b| a.provider.cmp(&b.provider));
    Some(list)
}

/// Names of the providers that log connections of this class; `None`: no Telemetry resource and no default provider
/// speaks about access logs.
pub fn providers(inputs: &Inputs, class: Class) -> Option<Vec<String>> {
    match chosen(inputs, class) {
        Some(list) => Some(list.into_iter().map(|c| c.provider).collect()),
        None => {
            let defaults = &inputs.mesh().default_providers.access_logging;
            (!defaults.is_empty()).then(|| defaults.clone())
        }
    }
}

fn apply(inputs: &Inputs, entry: &AccessLogging, out: &mut Option<Vec<Chosen>>) {
    let list = out.get_or_insert_default();
    let mut names: Vec<String> = entry.providers.iter().map(|p| p.name.clone()).collect();
    if names.is_empty() {
        names = list.iter().map(|c| c.provider.clone()).collect();
    }
    if names.is_empty() {
        names = inputs.mesh().default_providers.access_logging.clone();
    }
    if names.is_empty() {
        names.push("envoy".to_owned());
    }
    for name in names {
        list.retain(|c| c.provider != name);
        if entry.disabled != Some(true) {
            let filter = entry.filter.as_ref().map_or(String::new(), |f| f.expression.clone());
            list.push(Chosen { provider: name, filter });
        }
    }
}

fn logs(inputs: &Inputs, class: Class, level: Level) -> Vec<accesslog::AccessLog> {
    inputs.once.logs(class, level, || build(inputs, class, level))
}

fn build(inputs: &Inputs, class: Class, level: Level) -> Vec<accesslog::AccessLog> {
    let mesh = inputs.mesh();
    let Some(chosen) = chosen(inputs, class) else {
        let defaults = mesh.default_providers.access_logging.iter();
        let mut out: Vec<_> = defaults.filter_map(|name| of_provider(inputs, mesh.provider(name)?, level)).collect();
        if out.is_empty() && !mesh.access_log_file.is_empty() {
            out.push(file_log(&mesh.access_log_file, mesh_format(inputs), false));
        }
        return out;
    };
    let of = |c: &Chosen| {
        let mut log = of_provider(inputs, mesh.provider(&c.provider)?, level)?;
        log.filter = cel_filter(&c.filter);
        Some(log)
    };
    chosen.iter().filter_map(of).collect()
}

fn text(format: String) -> core::substitution_format_string::Format {
    core::substitution_format_string::Format::TextFormatSource(core::DataSource {
        specifier: Some(core::data_source::Specifier::InlineString(format)),
        ..Default::default()
    })
}

fn mesh_format(inputs: &Inputs) -> core::substitution_format_string::Format {
    use core::substitution_format_string::Format;
    let mesh = inputs.mesh();
    if mesh.access_log_json {
        let custom = serde_json::from_str::<serde_json::Value>(&mesh.access_log_format).ok();
        let fields = custom.filter(serde_json::Value::is_object).map(|v| model::proxy::from_json(&v));
        let given = fields.and_then(|v| match v.kind {
            Some(prost_types::value::Kind::StructValue(s)) => Some(s),
            _ => None,
        });
        return Format::JsonFormat(given.unwrap_or_else(default_json));
    }
    text(text_format(&mesh.access_log_format))
}

fn default_json() -> prost_types::Struct {
    let field = |(k, v): &(&str, &str)| ((*k).to_owned(), crate::wire::text_value(*v));
    prost_types::Struct { fields: DEFAULT_JSON.iter().map(field).collect() }
}

/// The default for an empty format; every format ends its line.
pub fn text_format(stated: &str) -> String {
    match stated {
        "" => DEFAULT_FORMAT.to_owned(),
        s if s.ends_with('\n') => s.to_owned(),
        s => format!("{s}\n"),
    }
}

fn file_log(path: &str, format: core::substitution_format_string::Format, omit_empty: bool) -> accesslog::AccessLog {
    let config = file::FileAccessLog {
        path: path.to_owned(),
        access_log_format: Some(file::file_access_log::AccessLogFormat::LogFormat(core::SubstitutionFormatString {
            formatters: formatters(&format),
            json_format_options: matches!(format, core::substitution_format_string::Format::JsonFormat(_))
                .then(core::JsonFormatOptions::default),
            format: Some(format),
            omit_empty_values: omit_empty,
            ..Default::default()
        })),
    };
    log("envoy.access_loggers.file", any(&config))
}

/// Extensions that the commands of a format need.
pub fn formatters(format: &core::substitution_format_string::Format) -> Vec<core::TypedExtensionConfig> {
    use core::substitution_format_string::Format;
    use protos::envoy::extensions::formatter as f;
    let text = match format {
        Format::TextFormatSource(core::DataSource {
            specifier: Some(core::data_source::Specifier::InlineString(text)),
            ..
        }) => text.clone(),
        Format::JsonFormat(json) => format!("{json:?}"),
        _ => String::new(),
    };
    let typed = |name: &str, config| core::TypedExtensionConfig { name: name.to_owned(), typed_config: Some(config) };
    let mut out = Vec::new();
    if text.contains("%REQ_WITHOUT_QUERY") {
        let config = any(&f::req_without_query::v3::ReqWithoutQuery::default());
        out.push(typed("envoy.formatter.req_without_query", config));
    }
    out
}

fn log(name: &str, config: prost_types::Any) -> accesslog::AccessLog {
    accesslog::AccessLog {
        name: name.to_owned(),
        filter: None,
        config_type: Some(accesslog::access_log::ConfigType::TypedConfig(config)),
    }
}

fn of_provider(inputs: &Inputs, provider: &ExtensionProvider, level: Level) -> Option<accesslog::AccessLog> {
    let config = &provider.config;
    match provider.kind.as_str() {
        "envoyFileAccessLog" => {
            use core::substitution_format_string::Format;
            let omit = config.get("omitEmptyValues").and_then(serde_json::Value::as_bool).unwrap_or(false);
            let path = config.get("path").and_then(|p| p.as_str()).filter(|p| !p.is_empty()).unwrap_or("/dev/stdout");
            let labels = config.pointer("/logFormat/labels").filter(|l| l.is_object());
            let format = match labels.map(model::proxy::from_json).and_then(|v| v.kind) {
                Some(prost_types::value::Kind::StructValue(s)) if s.fields.is_empty() => {
                    Format::JsonFormat(default_json())
                }
                Some(prost_types::value::Kind::StructValue(s)) => Format::JsonFormat(s),
                _ => match config.pointer("/logFormat/text").and_then(|t| t.as_str()) {
                    Some(stated) if !stated.is_empty() => text(text_format(stated)),
                    _ => mesh_format(inputs),
                },
            };
            Some(file_log(path, format, omit))
        }
        "envoyHttpAls" if level == Level::Http => {
            let common_config = Some(grpc_config(inputs, config, "http_envoy_accesslog")?);
            let config = grpc::HttpGrpcAccessLogConfig {
                common_config,
                additional_request_headers_to_log: texts(config, "additionalRequestHeadersToLog"),
                additional_response_headers_to_log: texts(config, "additionalResponseHeadersToLog"),
                additional_response_trailers_to_log: texts(config, "additionalResponseTrailersToLog"),
            };
            Some(log("envoy.access_loggers.http_grpc", any(&config)))
        }
        "envoyTcpAls" if level != Level::Http => {
            let name = if level == Level::Tcp { "tcp_envoy_accesslog" } else { "listener_envoy_accesslog" };
            let config = grpc::TcpGrpcAccessLogConfig { common_config: Some(grpc_config(inputs, config, name)?) };
            Some(log("envoy.tcp_grpc_access_log", any(&config)))
        }
        "envoyOtelAls" => {
            let common = grpc_config(inputs, config, "otel_envoy_accesslog")?;
            let config = open_telemetry(common, config.get("logFormat").unwrap_or(&serde_json::Value::Null));
            Some(log("envoy.access_loggers.open_telemetry", any(&config)))
        }
        _ => None,
    }
}

/// A log over OpenTelemetry: the text is the record's body, labels are its attributes.
fn open_telemetry(
    common: grpc::CommonGrpcAccessLogConfig,
    format: &serde_json::Value,
) -> protos::envoy::extensions::access_loggers::open_telemetry::v3::OpenTelemetryAccessLogConfig {
    use protos::opentelemetry::proto::common::v1 as otlp;
    let stated = format.get("text").and_then(|t| t.as_str()).filter(|t| !t.is_empty());
    let body = stated.unwrap_or(DEFAULT_FORMAT);
    let value = |text: &str| otlp::AnyValue { value: Some(otlp::any_value::Value::StringValue(text.to_owned())) };
    let labels = format.get("labels").and_then(|l| l.as_object());
    let mut values: Vec<otlp::KeyValue> = labels
        .into_iter()
        .flatten()
        .filter_map(|(k, v)| {
            Some(otlp::KeyValue { key: k.clone(), value: Some(value(v.as_str()?)), ..Default::default() })
        })
        .collect();
    values.sort_by(|a, b| a.key.cmp(&b.key));
    let all = values.iter().fold(body.to_owned(), |all, kv| format!("{all}{:?}", kv.value));
    #[allow(deprecated)]
    protos::envoy::extensions::access_loggers::open_telemetry::v3::OpenTelemetryAccessLogConfig {
        common_config: Some(common),
        body: Some(value(body)),
        attributes: (!values.is_empty()).then_some(otlp::KeyValueList { values }),
        disable_builtin_labels: true,
        formatters: formatters(&text(all)),
        ..Default::default()
    }
}

fn grpc_config(inputs: &Inputs, config: &serde_json::Value, log_name: &str) -> Option<grpc::CommonGrpcAccessLogConfig> {
    let (cluster, authority) = provider_cluster(inputs, config)?;
    let name = config.get("logName").and_then(|n| n.as_str()).filter(|n| !n.is_empty()).unwrap_or(log_name);
    Some(grpc::CommonGrpcAccessLogConfig {
        log_name: name.to_owned(),
        grpc_service: Some(envoy_grpc(&cluster, &authority)),
        transport_api_version: core::ApiVersion::V3 as i32,
        filter_state_objects_to_log: match texts(config, "filterStateObjectsToLog") {
            stated if !stated.is_empty() => stated,
            _ => FILTER_STATE.map(str::to_owned).to_vec(),
        },
        ..Default::default()
    })
}

fn texts(config: &serde_json::Value, field: &str) -> Vec<String> {
    let list = config.get(field).and_then(serde_json::Value::as_array).into_iter().flatten();
    list.filter_map(|t| t.as_str().map(str::to_owned)).collect()
}

/// A gRPC service behind a cluster of this proxy.
pub(crate) fn envoy_grpc(cluster: &str, authority: &str) -> core::GrpcService {
    core::GrpcService {
        target_specifier: Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(core::grpc_service::EnvoyGrpc {
            cluster_name: cluster.to_owned(),
            authority: authority.to_owned(),
            ..Default::default()
        })),
        ..Default::default()
    }
}

/// The cluster and authority of a provider's `service` (`HOST` or `NAMESPACE/HOST`) and `port`. `None`: no such
/// service or port.
pub(crate) fn provider_cluster(inputs: &Inputs, config: &serde_json::Value) -> Option<(String, String)> {
    let service = config.get("service")?.as_str()?;
    let port = u16::try_from(config.get("port")?.as_u64()?).ok()?;
    let snapshot = inputs.snapshot();
    let host = match service.split_once('/') {
        Some((namespace, host)) => {
            let host = names::Hostname::from(host);
            snapshot.by_host.get(&host)?.get(namespace)?;
            host
        }
        None => {
            let host = names::Hostname::from(service);
            snapshot.by_host.get(&host)?;
            host
        }
    };
    Some((names::ClusterName::outbound(port, "", &host).to_string(), host.to_string()))
}

fn cel_filter(expression: &str) -> Option<accesslog::AccessLogFilter> {
    use protos::envoy::extensions::access_loggers::filters::cel::v3::ExpressionFilter;
    if expression.is_empty() {
        return None;
    }
    let filter = accesslog::ExtensionFilter {
        name: "cel".to_owned(),
        config_type: Some(accesslog::extension_filter::ConfigType::TypedConfig(any(&ExpressionFilter {
            expression: expression.to_owned(),
            ..Default::default()
        }))),
    };
    Some(accesslog::AccessLogFilter {
        filter_specifier: Some(accesslog::access_log_filter::FilterSpecifier::ExtensionFilter(filter)),
    })
}
