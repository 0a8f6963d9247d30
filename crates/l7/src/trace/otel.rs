//! How does OpenTelemetry read a span? OTLP's `Span`, and the resource of all spans of this process.

use std::time::{SystemTime, UNIX_EPOCH};

use protos::opentelemetry::proto::resource::v1::Resource;
use protos::opentelemetry::proto::trace::v1 as p;
use protos::prost::Message as _;
use proxy_config::tracing::OpenTelemetry;

use super::{Side, Span};
use crate::export::text;

fn nanos(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
}

/// One span, encoded.
pub(super) fn span(span: &Span) -> Vec<u8> {
    let context = &span.context;
    let mut trace_id = context.high.to_be_bytes().to_vec();
    trace_id.extend_from_slice(&context.low.to_be_bytes());
    let kind = match span.side {
        Side::Client => p::span::SpanKind::Client,
        Side::Server => p::span::SpanKind::Server,
    };
    let out = p::Span {
        trace_id,
        span_id: context.span.to_be_bytes().to_vec(),
        trace_state: context.state.to_string(),
        parent_span_id: context.parent.map(|p| p.to_be_bytes().to_vec()).unwrap_or_default(),
        name: span.name.clone(),
        kind: kind as i32,
        start_time_unix_nano: nanos(span.began),
        end_time_unix_nano: nanos(span.ended.unwrap_or(span.began)),
        attributes: span.tags.iter().map(|(k, v)| text(k, v)).collect(),
        status: Some(p::Status {
            code: if span.error { p::status::StatusCode::Error } else { p::status::StatusCode::Unset } as i32,
            ..Default::default()
        }),
        ..Default::default()
    };
    out.encode_to_vec()
}

/// What all spans have in common, encoded.
pub(super) fn resource(config: &OpenTelemetry) -> Vec<u8> {
    let mut attributes = vec![
        text("service.name", &config.service_name),
        text("telemetry.sdk.language", "rust"),
        text("telemetry.sdk.name", "proa"),
        text("telemetry.sdk.version", env!("CARGO_PKG_VERSION")),
    ];
    if config.resource_detectors.iter().any(|d| d.contains("environment")) {
        let told = std::env::var("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
        for (key, value) in told.split(',').filter_map(|p| p.split_once('=')) {
            attributes.push(text(key.trim(), value.trim()));
        }
    }
    Resource { attributes, ..Resource::default() }.encode_to_vec()
}
