//! Which spans does a connection manager report? Providers and sampling from Telemetry resources, else the mesh.
//! Follows `tracing.go`. Served providers: Zipkin and OpenTelemetry over gRPC.

use api::security::{Mode, Tracing};
use names::LabelsExt;
use protos::envoy::config::trace::v3 as trace;
use protos::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use protos::envoy::r#type::tracing::v3 as tag;
use protos::envoy::r#type::v3::Percent;

use crate::Inputs;
use crate::listener::Class;
use crate::wire::any;

/// Sampling when nobody says: one percent.
const DEFAULT_SAMPLING: f64 = 1.0;
/// Longest path tag.
const PATH_TAG_MAX: u32 = 256;

/// Sets up tracing; returns whether the request id carries the sampling decision.
pub(crate) fn configure(inputs: &Inputs, out: &mut hcm::HttpConnectionManager, class: Class) -> bool {
    let settings = settings(inputs, class);
    let by_request_id = settings.last().and_then(|s| s.use_request_id_for_trace_sampling).unwrap_or(true);
    let mesh = inputs.mesh();
    let names = settings.iter().rev().find(|s| !s.providers.is_empty()).map(|s| s.providers[0].name.clone());
    let name = names.or_else(|| mesh.default_providers.tracing.first().cloned());
    let disabled = settings.iter().rev().find_map(|s| s.disable_span_reporting).unwrap_or(false);
    let provider = match name {
        Some(name) => mesh.provider(&name).and_then(|p| provider(inputs, &p.kind, &p.config)),
        // The static tracer of the bootstrap, as older meshes configure it.
        None if mesh.enable_tracing => None,
        None => return by_request_id,
    };
    if disabled || (provider.is_none() && !mesh.enable_tracing) {
        return by_request_id;
    }
    let stated = settings.iter().rev().find_map(|s| s.random_sampling_percentage);
    let from_mesh = || inputs.proxy().config(mesh, "/tracing/sampling").and_then(serde_json::Value::as_f64);
    let sampling = stated.or_else(from_mesh).unwrap_or(DEFAULT_SAMPLING);
    let percent = |value| Some(Percent { value });
    let tags = settings.iter().flat_map(|s| &s.custom_tags).filter_map(|(k, t)| custom_tag(k, t));
    out.tracing = Some(hcm::http_connection_manager::Tracing {
        client_sampling: percent(100.0),
        random_sampling: percent(sampling),
        overall_sampling: percent(100.0),
        max_path_tag_length: Some(PATH_TAG_MAX),
        custom_tags: tags.collect(),
        provider,
        ..Default::default()
    });
    by_request_id
}

/// Tracing entries in force, outermost first.
fn settings(inputs: &Inputs, class: Class) -> Vec<Tracing> {
    let (snapshot, proxy) = (inputs.snapshot(), inputs.proxy());
    let root = snapshot.mesh.root_namespace.as_str();
    let labels = |t: &api::security::Telemetry| t.selector.as_ref().map(|s| s.match_labels.clone()).unwrap_or_default();
    let default = |ns: &str| snapshot.telemetries.iter().find(|t| *t.namespace == *ns && labels(&t.spec).is_empty());
    let own = snapshot.telemetries.iter().find(|t| {
        let l = labels(&t.spec);
        *t.namespace == *proxy.namespace && !l.is_empty() && l.subset_of(&proxy.labels)
    });
    let namespace = (*proxy.namespace != *root).then(|| default(&proxy.namespace)).flatten();
    let all = [default(root), namespace, own].into_iter().flatten().flat_map(|t| &t.spec.tracing);
    let applies = |t: &&Tracing| match t.matches.as_ref().map_or(Mode::ClientAndServer, |m| m.mode) {
        Mode::ClientAndServer => true,
        Mode::Client => class != Class::SidecarInbound,
        Mode::Server => class == Class::SidecarInbound,
    };
    all.filter(applies).cloned().collect()
}

fn provider(inputs: &Inputs, kind: &str, config: &serde_json::Value) -> Option<trace::tracing::Http> {
    let (cluster, authority) = crate::access_log::provider_cluster(inputs, config)?;
    let (name, typed) = match kind {
        "zipkin" => {
            let zipkin = trace::ZipkinConfig {
                collector_cluster: cluster,
                collector_endpoint: "/api/v2/spans".to_owned(),
                collector_endpoint_version: trace::zipkin_config::CollectorEndpointVersion::HttpJson as i32,
                collector_hostname: authority,
                trace_id_128bit: true,
                shared_span_context: Some(false),
                ..Default::default()
            };
            ("envoy.tracers.zipkin", any(&zipkin))
        }
        "opentelemetry" => {
            let otel = trace::OpenTelemetryConfig {
                grpc_service: Some(crate::access_log::envoy_grpc(&cluster, &authority)),
                service_name: service_name(inputs),
                ..Default::default()
            };
            ("envoy.tracers.opentelemetry", any(&otel))
        }
        _ => return None,
    };
    Some(trace::tracing::Http {
        name: name.to_owned(),
        config_type: Some(trace::tracing::http::ConfigType::TypedConfig(typed)),
    })
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
    } else {
        return None;
    };
    Some(tag::CustomTag { tag: name.to_owned(), r#type: Some(kind) })
}
