//! Two proxies in a row, as sidecars are: who do Istio's metrics say talked to whom?

mod support;

use serde_json::{Value, json};
use support::*;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn filter(name: &str, message: &str, mut config: Value) -> Value {
    config["@type"] = format!("{TYPE}{message}").into();
    json!({"name": name, "typed_config": config})
}

fn node(workload: &str, app: &str) -> Value {
    json!({"id": format!("sidecar~10.0.0.1~{workload}-1.ns-{app}~ns.svc.cluster.local"), "cluster": app, "metadata": {
        "NAME": format!("{workload}-1"), "NAMESPACE": format!("ns-{app}"), "WORKLOAD_NAME": workload,
        "OWNER": format!("kubernetes://apis/apps/v1/namespaces/ns-{app}/deployments/{workload}"),
        "CLUSTER_ID": "c1", "ISTIO_VERSION": "1.32.0", "LABELS": {"app": app, "version": "v1",
            "service.istio.io/canonical-name": app, "service.istio.io/canonical-revision": "v1"}}})
}

#[test]
fn both_ends_name_both_workloads() {
    let (app, seen) = backend(OK);
    let (inbound, outbound) = (free_port(), free_port());
    let mx = |config| filter("istio.metadata_exchange", "io.istio.http.peer_metadata.Config", config);
    let stats = |config| filter("istio.stats", "stats.PluginConfig", config);
    let server_filters = [
        mx(json!({"downstream_discovery": [{"istio_headers": {}}], "downstream_propagation": [{"istio_headers": {}}]})),
        stats(json!({"disable_host_header_fallback": true})),
    ];
    let mut server = bootstrap(
        vec![listener(
            inbound,
            &[hcm(all_to("inbound|8080||"), &server_filters, json!({}))],
            json!({"traffic_direction": "INBOUND"}),
        )],
        vec![cluster("inbound|8080||", app)],
    );
    server["node"] = node("reviews", "reviews");
    let server = Running::ours(&server, &[]);

    let client_filters = [
        mx(json!({"upstream_discovery": [{"istio_headers": {}}],
            "upstream_propagation": [{"istio_headers": {"skip_external_clusters": true}}]})),
        stats(json!({"metrics": [
            {"name": "requests_total", "dimensions": {"url": "request.url_path"}},
            {"name": "request_bytes", "drop": true},
            {"tags_to_remove": ["source_cluster"]}]})),
    ];
    let mut to_server = cluster("outbound|8080||reviews.ns-reviews.svc.cluster.local", inbound);
    to_server["metadata"] = json!({"filter_metadata": {"istio": {"services": [{
        "host": "reviews.ns-reviews.svc.cluster.local", "name": "reviews", "namespace": "ns-reviews"}]}}});
    let routes = all_to("outbound|8080||reviews.ns-reviews.svc.cluster.local");
    let mut client = bootstrap(
        vec![listener(outbound, &[hcm(routes, &client_filters, json!({}))], json!({"traffic_direction": "OUTBOUND"}))],
        vec![to_server],
    );
    client["node"] = node("productpage", "productpage");
    let client = Running::ours(&client, &[]);

    for _ in 0..3 {
        let answer = http(outbound, "GET", "/api?x=1", &[]).expect("answered");
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
        // Peers' metadata is for proxies only.
        assert!(!answer.head.contains("x-envoy-peer-metadata"), "{}", answer.head);
        assert!(!seen.recv().expect("forwarded").contains("x-envoy-peer-metadata"));
    }

    let page = client.page_with("/stats/prometheus", "istio_requests_total");
    let line =
        |page: &str, name: &str| page.lines().find(|l| l.starts_with(name)).map(str::to_owned).unwrap_or_default();
    assert_eq!(
        line(&page, "istio_requests_total"),
        "istio_requests_total{reporter=\"source\",source_workload=\"productpage\",\
         source_canonical_service=\"productpage\",source_canonical_revision=\"v1\",\
         source_workload_namespace=\"ns-productpage\",source_principal=\"unknown\",source_app=\"productpage\",\
         source_version=\"v1\",destination_workload=\"reviews\",\
         destination_workload_namespace=\"ns-reviews\",destination_principal=\"unknown\",destination_app=\"reviews\",\
         destination_version=\"v1\",destination_service=\"reviews.ns-reviews.svc.cluster.local\",\
         destination_canonical_service=\"reviews\",destination_canonical_revision=\"v1\",\
         destination_service_name=\"reviews\",destination_service_namespace=\"ns-reviews\",\
         destination_cluster=\"c1\",request_protocol=\"http\",response_code=\"200\",grpc_response_status=\"\",\
         response_flags=\"-\",connection_security_policy=\"unknown\",url=\"/api\"} 3"
    );
    assert!(page.contains("# TYPE istio_requests_total counter\n"));
    assert!(page.contains("# TYPE istio_request_duration_milliseconds histogram\n"));
    assert!(line(&page, "istio_request_bytes").is_empty());
    assert!(page.contains("istio_build{component=\"proxy\",tag=\"1.32.0\"} 1\n"));

    let page = server.page_with("/stats/prometheus", "istio_requests_total");
    let requests = line(&page, "istio_requests_total");
    for label in [
        "reporter=\"destination\"",
        "source_workload=\"productpage\"",
        "source_workload_namespace=\"ns-productpage\"",
        "destination_service=\"reviews\"",
        "source_cluster=\"c1\"",
        "connection_security_policy=\"none\"",
    ] {
        assert!(requests.contains(label), "{label} in {requests}");
    }
    assert!(requests.ends_with("} 3"), "{requests}");
    let plain = server.get("/stats?filter=istio_requests_total").text();
    assert!(
        plain.starts_with("istiocustom.istio_requests_total.reporter.destination.source_workload.productpage."),
        "{plain}"
    );
    assert!(plain.contains(".grpc_response_status.response_flags.-."), "{plain}");
}

#[test]
fn byte_streams_are_counted() {
    let (app, _seen) = backend(OK);
    let port = free_port();
    let tcp = json!({"name": "envoy.filters.network.tcp_proxy", "typed_config": {
        "@type": format!("{TYPE}envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"), "stat_prefix": "t", "cluster": "app"}});
    let stats = filter("istio.stats", "stats.PluginConfig", json!({}));
    let mut config = bootstrap(
        vec![listener(port, &[stats, tcp], json!({"traffic_direction": "INBOUND"}))],
        vec![cluster("app", app)],
    );
    config["node"] = node("db", "db");
    let running = Running::ours(&config, &[]);
    let answer = http(port, "GET", "/", &[]).expect("relayed");
    assert_eq!(answer.status, 200);
    let page = running.page_with("/stats/prometheus?filter=istio_tcp", "istio_tcp_connections_closed_total");
    let value = |name: &str| {
        let line = page.lines().find(|l| l.starts_with(name)).unwrap_or_else(|| panic!("{name} in {page}"));
        line.rsplit(' ').next().and_then(|n| n.parse::<u64>().ok()).expect("a number")
    };
    assert_eq!(value("istio_tcp_connections_opened_total"), 1);
    assert_eq!(value("istio_tcp_sent_bytes_total"), OK.len() as u64);
    assert!(value("istio_tcp_received_bytes_total") > 0);
    assert!(page.contains("request_protocol=\"tcp\""));
}
