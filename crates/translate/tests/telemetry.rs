//! Metrics, traces and logs as Telemetry resources ask for them, by class and by what the proxy knows.
#![allow(missing_docs)]

mod common;

use std::sync::Arc;

use model::{Capabilities, Change, MeshConfig, Proxy, ProxyView, Store};
use serde_json::json;
use translate::Inputs;
use translate::listener::Class;

fn world(app: &str) -> Inputs {
    let mesh = json!({"extensionProviders": [
        {"name": "zipkin", "zipkin": {"service": "zipkin.a.svc.cluster.local", "port": 9411, "maxTagLength": 64,
            "timeout": "2s", "headers": [{"name": "x-tenant", "value": "t"}]}},
        {"name": "otel-http", "opentelemetry": {"service": "collector.a.svc.cluster.local", "port": 4318,
            "http": {"path": "v1/traces", "timeout": "1s"}, "resourceDetectors": {"environment": {}}}},
        {"name": "json", "envoyFileAccessLog": {"path": "/dev/stdout", "omitEmptyValues": true,
            "logFormat": {"labels": {"q": "%REQ_WITHOUT_QUERY(:PATH)%"}}}},
        {"name": "grpc", "envoyHttpAls": {"service": "collector.a.svc.cluster.local", "port": 4317,
            "additionalRequestHeadersToLog": ["x-a"]}},
        {"name": "otel", "envoyOtelAls": {"service": "collector.a.svc.cluster.local", "port": 4317}},
    ]});
    let mut store = Store::new(MeshConfig::from_json(&mesh));
    store.apply(common::resources(include_str!("mesh/telemetry.yaml"), "a").into_iter().map(Change::Apply));
    let proxy = Proxy { capabilities: Capabilities::ALL, ..common::sidecar("10.0.0.9", "a", &[("app", app)]) };
    Inputs::new(Arc::new(ProxyView::new(&store.snapshot(), &Arc::new(proxy))))
}

#[test]
fn metrics_follow_overrides() {
    let server = translate::telemetry::stats(&world("other"), Class::SidecarInbound).expect("metrics");
    assert!(server.disable_host_header_fallback);
    assert_eq!(server.tcp_reporting_duration.map(|d| d.seconds), Some(10));
    let names: Vec<_> = server.metrics.iter().map(|m| (m.name.as_str(), m.drop)).collect();
    assert_eq!(names, [("requests_total", false), ("request_bytes", true)]);
    let count = &server.metrics[0];
    assert_eq!(count.dimensions.get("method").map(String::as_str), Some("request.method"));
    assert_eq!(count.tags_to_remove, ["source_app"]);
    let client = translate::telemetry::stats(&world("other"), Class::SidecarOutbound).expect("metrics");
    assert_eq!(client.metrics.len(), 1, "what is for servers is not for clients");
}

#[test]
fn switched_off_metrics_send_nothing() {
    assert_eq!(translate::telemetry::stats(&world("web"), Class::SidecarOutbound), None);
    assert!(translate::telemetry::stats(&world("web"), Class::SidecarInbound).is_some());
}

#[test]
fn the_nearest_tracer_wins() {
    let settings = translate::tracing::settings(&world("web"), Class::SidecarInbound);
    assert_eq!(settings.provider.as_deref(), Some("otel-http"));
    assert_eq!((settings.sampling, settings.istio_tags), (Some(50.0), Some(false)));
    let settings = translate::tracing::settings(&world("other"), Class::SidecarInbound);
    assert_eq!(settings.provider.as_deref(), Some("zipkin"));
}

#[test]
fn loggers_are_those_named() {
    let logs = translate::access_log::http(&world("web"), Class::SidecarInbound);
    let names: Vec<_> = logs.iter().map(|l| l.name.as_str()).collect();
    // By the providers' names: grpc, json, otel.
    assert_eq!(
        names,
        ["envoy.access_loggers.http_grpc", "envoy.access_loggers.file", "envoy.access_loggers.open_telemetry"]
    );
    assert!(logs.iter().all(|l| l.filter.is_some()));
}
