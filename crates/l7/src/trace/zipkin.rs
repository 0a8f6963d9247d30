//! How does Zipkin read a span? Its v2 JSON, one object per span.

use std::time::UNIX_EPOCH;

use proxy_config::tracing::Zipkin;

use super::{Side, Span, Tracer};

/// One span, as JSON.
pub(super) fn span(config: &Zipkin, tracer: &Tracer, span: &Span) -> Vec<u8> {
    let mut out = serde_json::Map::new();
    let context = &span.context;
    out.insert("traceId".into(), context.trace_hex().into());
    out.insert("name".into(), span.name.as_str().into());
    out.insert("id".into(), context.span_hex().into());
    if let Some(parent) = context.parent {
        out.insert("parentId".into(), format!("{parent:016x}").into());
    }
    let micros = |d: std::time::Duration| d.as_micros().min(u64::MAX as u128) as u64;
    out.insert("timestamp".into(), micros(span.began.duration_since(UNIX_EPOCH).unwrap_or_default()).into());
    out.insert("duration".into(), micros(span.duration()).max(1).into());
    match span.side {
        Side::Client => out.insert("kind".into(), "CLIENT".into()),
        Side::Server => {
            if config.shared_span_context && context.shared {
                out.insert("shared".into(), true.into());
            }
            out.insert("kind".into(), "SERVER".into())
        }
    };
    let mut endpoint = serde_json::Map::new();
    endpoint.insert("serviceName".into(), serde_json::Value::from(&*tracer.service));
    if let Some(ip) = tracer.address {
        endpoint.insert(if ip.is_ipv4() { "ipv4" } else { "ipv6" }.into(), ip.to_string().into());
    }
    endpoint.insert("port".into(), 0.into());
    out.insert("localEndpoint".into(), endpoint.into());
    let tags = span.tags.iter().map(|(k, v)| (k.to_string(), v.as_str().into())).collect::<serde_json::Map<_, _>>();
    out.insert("tags".into(), tags.into());
    serde_json::Value::Object(out).to_string().into_bytes()
}
