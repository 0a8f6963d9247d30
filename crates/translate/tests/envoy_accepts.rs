//! Does stock Envoy accept what we translate? Every resource of several meshes and proxies as static configuration,
//! through `envoy --mode validate`. Needs `PROA_ENVOY` (the binary); says so and passes when it is absent.
#![allow(missing_docs)]

mod common;

use std::process::Command;

use common::{gateway, inputs, route_names, sidecar, store};
use protos::envoy::config::bootstrap::v3::{Bootstrap, bootstrap};
use protos::envoy::config::{cluster::v3 as cluster, core::v3 as core, listener::v3 as listener, route::v3 as route};
use protos::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use protos::prost::Message as _;
use translate::Inputs;

/// Clusters that the agent's bootstrap brings along.
fn static_cluster(name: &str) -> cluster::Cluster {
    use cluster::cluster::{ClusterDiscoveryType, DiscoveryType};
    use protos::envoy::extensions::upstreams::http::v3 as upstreams;
    use upstreams::http_protocol_options::{
        ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
    };
    let http2 = upstreams::HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(Default::default())),
        })),
        ..Default::default()
    };
    cluster::Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static as i32)),
        typed_extension_protocol_options: [(
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned(),
            protos::any(&http2),
        )]
        .into(),
        ..Default::default()
    }
}

/// A listener that holds a route configuration inline, so that it is read at once.
fn route_holder(at: usize, config: route::RouteConfiguration) -> listener::Listener {
    let manager = hcm::HttpConnectionManager {
        stat_prefix: "routes".to_owned(),
        route_specifier: Some(hcm::http_connection_manager::RouteSpecifier::RouteConfig(config)),
        http_filters: ["fault", "cors", "router"]
            .iter()
            .map(|f| {
                let any = match *f {
                    "fault" => protos::any(&protos::envoy::extensions::filters::http::fault::v3::HttpFault::default()),
                    "cors" => protos::any(&protos::envoy::extensions::filters::http::cors::v3::Cors::default()),
                    _ => protos::any(&protos::envoy::extensions::filters::http::router::v3::Router::default()),
                };
                hcm::HttpFilter {
                    name: format!("envoy.filters.http.{f}"),
                    config_type: Some(hcm::http_filter::ConfigType::TypedConfig(any)),
                    ..Default::default()
                }
            })
            .collect(),
        ..Default::default()
    };
    listener::Listener {
        name: format!("routes-{at}"),
        address: Some(translate::wire::address("127.0.0.1", 30_000 + u32::try_from(at).unwrap())),
        filter_chains: vec![listener::FilterChain {
            filters: vec![listener::Filter {
                name: "envoy.filters.network.http_connection_manager".to_owned(),
                config_type: Some(listener::filter::ConfigType::TypedConfig(protos::any(&manager))),
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn bootstrap_of(inputs: &Inputs) -> Bootstrap {
    let lds = translate::listeners(inputs);
    let names = route_names(&lds);
    let mut listeners: Vec<listener::Listener> = lds.iter().map(|l| protos::unpack(&l.resource).unwrap()).collect();
    for (at, r) in translate::routes(inputs, &names).iter().enumerate() {
        listeners.push(route_holder(at, protos::unpack(&r.resource).unwrap()));
    }
    let mut clusters: Vec<cluster::Cluster> =
        translate::clusters(inputs).iter().map(|c| protos::unpack(&c.resource).unwrap()).collect();
    clusters.push(static_cluster("sds-grpc"));
    clusters.push(static_cluster("xds-grpc"));
    Bootstrap {
        node: Some(core::Node {
            id: "sidecar~1.1.1.1~a.b~b".to_owned(),
            cluster: "x".to_owned(),
            ..Default::default()
        }),
        static_resources: Some(bootstrap::StaticResources { listeners, clusters, secrets: vec![] }),
        dynamic_resources: Some(bootstrap::DynamicResources {
            ads_config: Some(core::ApiConfigSource {
                api_type: core::api_config_source::ApiType::Grpc as i32,
                transport_api_version: core::ApiVersion::V3 as i32,
                grpc_services: vec![core::GrpcService {
                    target_specifier: Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(
                        core::grpc_service::EnvoyGrpc { cluster_name: "xds-grpc".to_owned(), ..Default::default() },
                    )),
                    ..Default::default()
                }],
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn validate(what: &str, inputs: &Inputs) {
    let Some(envoy) = std::env::var_os("PROA_ENVOY") else {
        eprintln!("{what}: not run, PROA_ENVOY does not name an Envoy binary");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bootstrap.pb");
    std::fs::write(&path, bootstrap_of(inputs).encode_to_vec()).unwrap();
    let out = Command::new(envoy)
        .args(["--mode", "validate", "-l", "warning", "-c"])
        .arg(&path)
        .output()
        .expect("Envoy runs");
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{what}: {}", text.lines().rev().take(20).collect::<Vec<_>>().join("\n"));
}

const HTTPBIN: &str = include_str!("mesh/httpbin.yaml");
const EVERYTHING: &str = include_str!("mesh/everything.yaml");

#[test]
fn httpbin_and_sleep() {
    let store = store(HTTPBIN);
    validate("httpbin", &inputs(&store, sidecar("10.0.0.2", "samples", &[("app", "httpbin")])));
    validate("sleep", &inputs(&store, sidecar("10.0.0.3", "samples", &[("app", "sleep")])));
    validate("gateway", &inputs(&store, gateway("10.0.0.9")));
}

#[test]
fn everything() {
    let store = store(EVERYTHING);
    validate("client", &inputs(&store, sidecar("10.0.0.3", "a", &[("app", "client")])));
    validate("server", &inputs(&store, sidecar("10.0.0.2", "a", &[("app", "web")])));
    validate("gateway", &inputs(&store, gateway("10.0.0.9")));
}

#[test]
fn patched() {
    let store = store(&format!("{HTTPBIN}\n---\n{}", include_str!("mesh/filters.yaml")));
    validate("httpbin", &inputs(&store, sidecar("10.0.0.2", "samples", &[("app", "httpbin")])));
    validate("sleep", &inputs(&store, sidecar("10.0.0.3", "samples", &[("app", "sleep")])));
    validate("gateway", &inputs(&store, gateway("10.0.0.9")));
}

#[test]
fn telemetry() {
    let mesh = serde_json::json!({"extensionProviders": [
        {"name": "zipkin", "zipkin": {"service": "zipkin.a.svc.cluster.local", "port": 9411, "timeout": "2s",
            "headers": [{"name": "x-tenant", "value": "t"}], "traceContextOption": "USE_B3_WITH_W3C_PROPAGATION"}},
        {"name": "otel-http", "opentelemetry": {"service": "collector.a.svc.cluster.local", "port": 4318,
            "http": {"path": "v1/traces", "timeout": "1s"}, "resourceDetectors": {"environment": {}}}},
        {"name": "json", "envoyFileAccessLog": {"path": "/dev/null", "omitEmptyValues": true,
            "logFormat": {"labels": {"q": "%REQ_WITHOUT_QUERY(:PATH)%", "m": "%METADATA(ROUTE:istio)%"}}}},
        {"name": "grpc", "envoyHttpAls": {"service": "collector.a.svc.cluster.local", "port": 4317}},
        {"name": "otel", "envoyOtelAls": {"service": "collector.a.svc.cluster.local", "port": 4317}},
    ]});
    let mut store = model::Store::new(model::MeshConfig::from_json(&mesh));
    let resources = common::resources(include_str!("mesh/telemetry.yaml"), "a");
    store.apply(resources.into_iter().map(model::Change::Apply));
    validate("server", &inputs(&store, sidecar("10.0.0.2", "a", &[("app", "web")])));
    validate("client", &inputs(&store, sidecar("10.0.0.3", "a", &[("app", "client")])));
}
