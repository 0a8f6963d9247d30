//! What does a span say? Envoy's default tags, and those of the configuration.

use proxy_config::common::Value;
use proxy_config::format::MetadataKind;
use proxy_config::tracing::{CustomTag, RouteTracing, TagValue};
use proxy_core::{Facts, format};

use super::{Span, Tracer};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Tags of the span that the client's request is.
pub(super) fn downstream(tracer: &Tracer, route: Option<&RouteTracing>, f: &Facts<'_>, span: &mut Span) {
    span.tag("node_id", &*tracer.node_id);
    span.tag("zone", &*tracer.zone);
    if let Some(request) = f.request {
        let get = |name: &[u8]| request.get(name).map(text);
        if let Some(id) = get(b"x-request-id") {
            span.tag("guid:x-request-id", id);
        }
        span.tag("http.url", url(f, tracer.config.max_path_tag_length as usize));
        span.tag("http.method", get(b":method").unwrap_or_default());
        span.tag("downstream_cluster", get(b"x-envoy-downstream-service-cluster").unwrap_or("-".into()));
        span.tag("user_agent", get(b"user-agent").unwrap_or("-".into()));
        span.tag("http.protocol", f.protocol);
        if let Some(peer) = f.downstream_direct_remote {
            span.tag("peer.address", peer.ip().to_string());
        }
        if let Some(id) = get(b"x-client-trace-id") {
            span.tag("guid:x-client-trace-id", id);
        }
        if get(b"content-type").is_some_and(|t| t.starts_with("application/grpc")) {
            span.tag("grpc.path", get(b":path").unwrap_or_default());
            span.tag("grpc.authority", get(b":authority").unwrap_or_default());
            span.tag("grpc.content_type", get(b"content-type").unwrap_or_default());
            if let Some(timeout) = get(b"grpc-timeout") {
                span.tag("grpc.timeout", timeout);
            }
            grpc_status(f, span);
        }
    }
    span.tag("request_size", f.bytes.received.to_string());
    span.tag("response_size", f.bytes.sent.to_string());
    common(tracer, route, f, span);
}

/// Tags of the span that one try is.
pub(super) fn upstream(tracer: &Tracer, route: Option<&RouteTracing>, f: &Facts<'_>, span: &mut Span) {
    span.tag("http.protocol", f.upstream_protocol);
    if let Some(host) = f.upstream_host {
        span.tag("upstream_address", host.to_string());
        span.tag("peer.address", host.to_string());
    }
    common(tracer, route, f, span);
}

fn grpc_status(f: &Facts<'_>, span: &mut Span) {
    let get = |name: &[u8]| {
        f.trailers.and_then(|h| h.get(name).map(text)).or_else(|| f.response.and_then(|h| h.get(name).map(text)))
    };
    let Some(status) = get(b"grpc-status") else { return };
    span.tag("grpc.message", get(b"grpc-message").unwrap_or_default());
    // Codes that are the server's fault.
    if matches!(status.as_str(), "1" | "2" | "4" | "8" | "10" | "12" | "13" | "14" | "15") {
        span.tag("error", "true");
        span.error = true;
    }
    span.tag("grpc.status_code", status);
}

fn common(tracer: &Tracer, route: Option<&RouteTracing>, f: &Facts<'_>, span: &mut Span) {
    span.tag("component", "proxy");
    if !f.upstream_cluster_raw.is_empty() {
        span.tag("upstream_cluster", f.upstream_cluster_raw);
        span.tag("upstream_cluster.name", f.upstream_cluster);
    }
    span.tag("http.status_code", f.response_code.to_string());
    let mut flags = Vec::new();
    f.flags.write(false, &mut flags);
    span.tag("response_flags", text(&flags));
    if f.response_code == 0 || f.response_code / 100 == 5 {
        span.tag("error", "true");
        span.error = true;
    }
    let of_route = route.map_or(&[][..], |r| &r.custom_tags);
    let own = tracer.config.custom_tags.iter().filter(|t| !of_route.iter().any(|r| r.tag == t.tag));
    for tag in own.chain(of_route) {
        if let Some(value) = custom(tag, f) {
            span.tag(&tag.tag, value);
        }
    }
}

/// The value of a configured tag; `None`: it has none, and the tag is left out.
fn custom(tag: &CustomTag, f: &Facts<'_>) -> Option<String> {
    let or = |value: Option<String>, default: &str| value.or_else(|| (!default.is_empty()).then(|| default.to_owned()));
    match &tag.value {
        TagValue::Literal(value) => Some(value.to_string()),
        TagValue::Environment { name, default } => or((f.environment)(name), default),
        TagValue::RequestHeader { name, default } => {
            or(f.request.and_then(|r| r.get(name.as_str().as_bytes())).map(text), default)
        }
        TagValue::Metadata { kind, filter, path, default } => {
            let of = |m: Option<&proxy_config::common::Metadata>| m.and_then(|m| m.get(filter, path).map(shown));
            let value = match kind {
                MetadataKind::Route => of(f.route_metadata),
                MetadataKind::Cluster => of(f.cluster_metadata),
                MetadataKind::UpstreamHost => of(f.host_metadata),
                _ => f.metadata.metadata(filter).and_then(|v| v.path(path)).map(shown),
            };
            or(value.flatten(), default)
        }
        TagValue::Format(format) => {
            let mut out = Vec::new();
            format::text(format, f, b"", &mut out);
            (!out.is_empty()).then(|| text(&out))
        }
    }
}

fn shown(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(s) => Some(s.to_string()),
        other => {
            let mut out = Vec::new();
            format::write_json_value(other, &mut out);
            Some(text(&out))
        }
    }
}

/// `scheme://host/path`, the path as the client wrote it, cut at `max`.
fn url(f: &Facts<'_>, max: usize) -> String {
    let Some(request) = f.request else { return String::new() };
    let path = request.get(b"x-envoy-original-path").or_else(|| request.get(b":path")).unwrap_or_default();
    let path = &path[..path.len().min(max)];
    format!("{}://{}{}", text(request.scheme()), text(request.authority()), text(path))
}
