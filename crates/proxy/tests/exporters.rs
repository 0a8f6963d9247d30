//! Do log entries and spans reach a collector, as it reads them? Collectors here only take and keep what comes.

mod support;

use std::sync::mpsc;
use std::time::Duration;

use protos::envoy::service::accesslog::v3 as als;
use protos::opentelemetry::proto::collector::logs::v1 as otel_logs;
use protos::opentelemetry::proto::common::v1::any_value::Value as Any;
use serde_json::{Value, json};
use support::*;
use tonic::{Request, Response, Status, Streaming};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const ACCEPTED: &str = "HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n";
const PATIENCE: Duration = Duration::from_secs(20);

/// Keeps what it is sent.
#[derive(Clone)]
struct Collector {
    logs: mpsc::Sender<als::StreamAccessLogsMessage>,
    records: mpsc::Sender<otel_logs::ExportLogsServiceRequest>,
}

#[tonic::async_trait]
impl als::access_log_service_server::AccessLogService for Collector {
    async fn stream_access_logs(
        &self,
        request: Request<Streaming<als::StreamAccessLogsMessage>>,
    ) -> Result<Response<als::StreamAccessLogsResponse>, Status> {
        let mut stream = request.into_inner();
        while let Some(message) = stream.message().await? {
            let _ = self.logs.send(message);
        }
        Ok(Response::new(als::StreamAccessLogsResponse {}))
    }
}

#[tonic::async_trait]
impl otel_logs::logs_service_server::LogsService for Collector {
    async fn export(
        &self,
        request: Request<otel_logs::ExportLogsServiceRequest>,
    ) -> Result<Response<otel_logs::ExportLogsServiceResponse>, Status> {
        let _ = self.records.send(request.into_inner());
        Ok(Response::new(otel_logs::ExportLogsServiceResponse::default()))
    }
}

fn collector()
-> (u16, mpsc::Receiver<als::StreamAccessLogsMessage>, mpsc::Receiver<otel_logs::ExportLogsServiceRequest>) {
    let port = free_port();
    let ((logs, seen_logs), (records, seen_records)) = (mpsc::channel(), mpsc::channel());
    let collector = Collector { logs, records };
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let serve = tonic::transport::Server::builder()
            .add_service(als::access_log_service_server::AccessLogServiceServer::new(collector.clone()))
            .add_service(otel_logs::logs_service_server::LogsServiceServer::new(collector))
            .serve(([127, 0, 0, 1], port).into());
        runtime.block_on(serve).expect("served");
    });
    (port, seen_logs, seen_records)
}

fn service(cluster: &str) -> Value {
    json!({"envoy_grpc": {"cluster_name": cluster}})
}

#[test]
fn access_logs_over_grpc() {
    let (to, logs, records) = collector();
    let (app, _seen) = backend(OK);
    let port = free_port();
    let log = |name: &str, message: &str, mut config: Value| {
        config["@type"] = format!("{TYPE}envoy.extensions.access_loggers.{message}").into();
        json!({"name": name, "typed_config": config})
    };
    let common = json!({"log_name": "mine", "grpc_service": service("collector"), "buffer_flush_interval": "0.1s"});
    let mut als = log(
        "als",
        "grpc.v3.HttpGrpcAccessLogConfig",
        json!({"common_config": common, "additional_request_headers_to_log": ["x-wanted"]}),
    );
    als["filter"] = json!({"header_filter": {"header": {"name": "x-wanted", "present_match": true}}});
    let otel = log(
        "otel",
        "open_telemetry.v3.OpenTelemetryAccessLogConfig",
        json!({
        "log_name": "otel", "grpc_service": service("collector"), "buffer_flush_interval": "0.1s",
        "body": {"string_value": "%REQ(:METHOD)% %RESPONSE_CODE%"},
        "attributes": {"values": [{"key": "path", "value": {"string_value": "%REQ(:PATH)%"}}]}}),
    );
    let logged = hcm(all_to("app"), &[], json!({"access_log": [als, otel]}));
    let config =
        bootstrap(vec![listener(port, &[logged], json!({}))], vec![cluster("app", app), h2_cluster("collector", to)]);
    let running = Running::ours(&config, &[]);
    http(port, "GET", "/unwanted", &[]).expect("answered");
    http(port, "GET", "/wanted", &[("x-wanted", "1")]).expect("answered");

    let message = logs.recv_timeout(PATIENCE).expect("a message");
    assert_eq!(message.identifier.expect("said first").log_name, "mine");
    let Some(als::stream_access_logs_message::LogEntries::HttpLogs(entries)) = message.log_entries else {
        panic!("HTTP entries")
    };
    assert_eq!(entries.log_entry.len(), 1);
    let request = entries.log_entry[0].request.clone().expect("set");
    assert_eq!((request.path.as_str(), request.request_headers["x-wanted"].as_str()), ("/wanted", "1"));
    assert_eq!(entries.log_entry[0].common_properties.clone().expect("set").upstream_cluster, "app");

    let mut bodies = Vec::new();
    while bodies.len() < 2 {
        let request = records.recv_timeout(PATIENCE).expect("records");
        for record in request.resource_logs.into_iter().flat_map(|r| r.scope_logs).flat_map(|s| s.log_records) {
            let text = |v: Option<protos::opentelemetry::proto::common::v1::AnyValue>| match v.and_then(|v| v.value) {
                Some(Any::StringValue(s)) => s,
                other => panic!("{other:?}"),
            };
            bodies.push((text(record.body), text(record.attributes[0].value.clone())));
        }
    }
    bodies.sort();
    let expect = |path: &str| ("GET 200".to_owned(), path.to_owned());
    assert_eq!(bodies, [expect("/unwanted"), expect("/wanted")]);
    running.page_with("/stats?filter=access_logs", "access_logs.grpc_access_log.logs_written: 1");
}

#[test]
fn spans_reach_zipkin_and_travel_on() {
    let (to, spans) = backend(ACCEPTED);
    let (app, seen) = backend(OK);
    let port = free_port();
    let tracing = json!({"provider": {"name": "envoy.tracers.zipkin", "typed_config": {
        "@type": format!("{TYPE}envoy.config.trace.v3.ZipkinConfig"), "collector_cluster": "zipkin",
        "collector_endpoint": "/api/v2/spans", "collector_endpoint_version": "HTTP_JSON", "trace_id_128bit": true}},
        "custom_tags": [{"tag": "lit", "literal": {"value": "v"}}, {"tag": "hdr", "request_header": {"name": "x-h", "default_value": "none"}}]});
    let routes =
        json!([{"match": {"prefix": "/"}, "route": {"cluster": "app"}, "decorator": {"operation": "app:80/*"}}]);
    let traced = hcm(routes, &[], json!({"tracing": tracing}));
    let mut config =
        bootstrap(vec![listener(port, &[traced], json!({}))], vec![cluster("app", app), cluster("zipkin", to)]);
    config["node"] = json!({"id": "n1", "cluster": "svc"});
    let _running = Running::ours(&config, &[]);
    let told = [
        ("x-b3-traceid", "463ac35c9f6413ad48485a3953bb6124"),
        ("x-b3-spanid", "a2fb4a1d1a96d312"),
        ("x-b3-sampled", "1"),
    ];
    http(port, "GET", "/p", &told).expect("answered");
    let forwarded = seen.recv_timeout(PATIENCE).expect("forwarded");
    // The server's span is the client's: the same ids go on.
    for header in ["x-b3-traceid: 463ac35c9f6413ad48485a3953bb6124", "x-b3-spanid: a2fb4a1d1a96d312", "x-b3-sampled: 1"]
    {
        assert!(forwarded.contains(header), "{header} in {forwarded}");
    }
    let posted = spans.recv_timeout(PATIENCE).expect("reported");
    let (head, body) = posted.split_once("\r\n\r\n").expect("a body");
    assert!(head.starts_with("POST /api/v2/spans HTTP/1.1"), "{head}");
    let spans: Value = serde_json::from_str(body).expect("JSON");
    let span = &spans[0];
    assert_eq!(span["traceId"], "463ac35c9f6413ad48485a3953bb6124");
    assert_eq!((&span["kind"], &span["shared"], &span["name"]), (&json!("SERVER"), &json!(true), &json!("app:80/*")));
    assert_eq!(span["localEndpoint"]["serviceName"], "svc");
    let tags = &span["tags"];
    for (key, value) in [
        ("component", "proxy"),
        ("http.method", "GET"),
        ("http.status_code", "200"),
        ("lit", "v"),
        ("hdr", "none"),
        ("upstream_cluster", "app"),
        ("node_id", "n1"),
        ("response_flags", "-"),
    ] {
        assert_eq!(tags[key], value, "{key} in {tags}");
    }
}

#[test]
fn unsampled_requests_are_told_so_and_not_reported() {
    let (app, seen) = backend(OK);
    let (to, posted) = backend(ACCEPTED);
    let port = free_port();
    let tracing = json!({"random_sampling": {"value": 0}, "provider": {"name": "envoy.tracers.opentelemetry", "typed_config": {
        "@type": format!("{TYPE}envoy.config.trace.v3.OpenTelemetryConfig"), "service_name": "s",
        "http_service": {"http_uri": {"uri": "http://otel/v1/traces", "cluster": "otel", "timeout": "1s"}}}}});
    let traced = hcm(all_to("app"), &[], json!({"tracing": tracing}));
    let config = bootstrap(vec![listener(port, &[traced], json!({}))], vec![cluster("app", app), cluster("otel", to)]);
    let running = Running::ours(&config, &[]);
    http(port, "GET", "/", &[]).expect("answered");
    let forwarded = seen.recv_timeout(PATIENCE).expect("forwarded");
    let parent = forwarded.lines().find(|l| l.starts_with("traceparent: 00-")).unwrap_or_else(|| panic!("{forwarded}"));
    assert!(parent.ends_with("-00"), "{parent}");
    // A client that forces the trace is heard, when it is trusted; here it is not internal, but asks for itself.
    http(port, "GET", "/forced", &[("x-client-trace-id", "abc")]).expect("answered");
    let forwarded = seen.recv_timeout(PATIENCE).expect("forwarded");
    assert!(forwarded.lines().any(|l| l.starts_with("traceparent: 00-") && l.ends_with("-01")), "{forwarded}");
    let request = posted.recv_timeout(PATIENCE).expect("reported");
    assert!(request.starts_with("POST /v1/traces HTTP/1.1"), "{request}");
    running.page_with("/stats?filter=tracing", "http.ingress.tracing.client_enabled: 1");
}
