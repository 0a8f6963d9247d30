//! What does the proxy under soak serve, and how does it change? A control plane with one world per revision.

use anyhow::Result;
use protos::json;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tonic::Status;
use xds::server::{Kind, Resource, ResourceSet, Want};
use xds_server::{AdsService, Change, Hub, Options, Source};

/// Ports that the world names.
pub struct Ports {
    /// HTTP listener.
    pub http: u16,
    /// TCP listener.
    pub tcp: u16,
    /// Listeners that come and go.
    pub passing: [u16; 2],
    /// Upstream servers.
    pub backends: Vec<u16>,
}

/// All resources, by revision.
pub struct World {
    ports: Ports,
    revision: AtomicU64,
}

/// Everything may have changed.
#[derive(Clone)]
pub struct Anything;

impl Change for Anything {
    fn merge(&mut self, _later: &Self) {}
}

impl Source for World {
    type Proxy = ();
    type Change = Anything;

    fn connect(&self, _node: &protos::envoy::config::core::v3::Node, _identities: &[String]) -> Result<(), Status> {
        Ok(())
    }

    fn update(&self, _proxy: &mut (), _change: &Anything) -> Vec<Kind> {
        vec![Kind::Cluster, Kind::Endpoint, Kind::Listener, Kind::Route]
    }

    fn generate(&self, _proxy: &mut (), want: &Want<'_>) -> Arc<ResourceSet> {
        let revision = self.revision.load(Ordering::Relaxed);
        let (message, resources) = match want.kind {
            Kind::Cluster => ("envoy.config.cluster.v3.Cluster", self.clusters(revision)),
            Kind::Endpoint => ("envoy.config.endpoint.v3.ClusterLoadAssignment", self.endpoints(revision)),
            Kind::Listener => ("envoy.config.listener.v3.Listener", self.listeners(revision)),
            Kind::Route => ("envoy.config.route.v3.RouteConfiguration", vec![routes(revision)]),
            _ => return Arc::new(ResourceSet::default()),
        };
        let encode = |(name, value): (String, Value)| {
            json::from_json(message, &value).ok().map(|bytes| Resource::new(name.as_str(), bytes))
        };
        Arc::new(resources.into_iter().filter_map(encode).collect())
    }
}

const TYPE: &str = "type.googleapis.com/envoy.extensions.";

fn address(port: u16) -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": port}})
}

impl World {
    fn clusters(&self, revision: u64) -> Vec<(String, Value)> {
        let ads = json!({"eds_config": {"ads": {}, "resource_api_version": "V3"}});
        let eds = |name: &str, more: Value| {
            let mut c = json!({"name": name, "type": "EDS", "eds_cluster_config": ads, "connect_timeout": "5s"});
            c.as_object_mut().zip(more.as_object()).into_iter().for_each(|(c, m)| c.extend(m.clone()));
            (name.to_owned(), c)
        };
        let h2 = json!({"typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": format!("{TYPE}upstreams.http.v3.HttpProtocolOptions"),
            "explicit_http_config": {"http2_protocol_options": {}}}}});
        // Every seventh revision the main cluster itself is another one: it warms while requests go on.
        let policy = if (revision / 7).is_multiple_of(2) { "ROUND_ROBIN" } else { "LEAST_REQUEST" };
        // All clients may ask for a failure at once; by default a cluster has three retries at a time.
        let retries = json!({"thresholds": [{"max_retries": 1000}]});
        let main = json!({"lb_policy": policy, "circuit_breakers": retries});
        let passing = format!("passing-{}", revision % 5);
        vec![eds("main", main), eds("h2", h2), eds(&passing, json!({}))]
    }

    fn endpoints(&self, revision: u64) -> Vec<(String, Value)> {
        let backends = &self.ports.backends;
        let one = |name: String| {
            // One host is missing at a time, and another one at the next revision.
            let gone = revision as usize % backends.len();
            let hosts: Vec<Value> = backends
                .iter()
                .enumerate()
                .filter(|(i, _)| *i != gone)
                .map(|(_, p)| json!({"endpoint": {"address": address(*p)}}))
                .collect();
            (name.clone(), json!({"cluster_name": name, "endpoints": [{"lb_endpoints": hosts}]}))
        };
        let names = ["main".to_owned(), "h2".to_owned()].into_iter().chain((0..5).map(|i| format!("passing-{i}")));
        names.map(one).collect()
    }

    fn listeners(&self, revision: u64) -> Vec<(String, Value)> {
        let http = |name: &str, port: u16, tag: u64| {
            let hcm = json!({"@type": format!("{TYPE}filters.network.http_connection_manager.v3.HttpConnectionManager"),
                "stat_prefix": name, "server_name": format!("soak-{tag}"),
                "rds": {"route_config_name": "routes", "config_source": {"ads": {}, "resource_api_version": "V3"}},
                "http_filters": [{"name": "envoy.filters.http.fault", "typed_config": {
                        "@type": format!("{TYPE}filters.http.fault.v3.HTTPFault"),
                        "abort": {"header_abort": {}, "percentage": {"numerator": 100}}}},
                    {"name": "envoy.filters.http.router", "typed_config": {"@type": format!("{TYPE}filters.http.router.v3.Router")}}]});
            let value = json!({"name": name, "address": address(port), "filter_chains": [{"filters": [
                {"name": "envoy.filters.network.http_connection_manager", "typed_config": hcm}]}]});
            (name.to_owned(), value)
        };
        let tcp = json!({"name": "tcp", "address": address(self.ports.tcp), "filter_chains": [{"filters": [
            {"name": "envoy.filters.network.tcp_proxy", "typed_config": {
                "@type": format!("{TYPE}filters.network.tcp_proxy.v3.TcpProxy"), "stat_prefix": "tcp", "cluster": "main"}}]}]});
        let passing = (revision % 2) as usize;
        vec![
            // The tag changes the chain: connections on the old one are drained.
            http("http", self.ports.http, revision / 11),
            http(&format!("passing-{passing}"), self.ports.passing[passing], 0),
            ("tcp".into(), tcp),
        ]
    }
}

fn routes(revision: u64) -> (String, Value) {
    let add = json!([{"header": {"key": "x-revision", "value": revision.to_string()}}]);
    let retry = json!({"retry_on": "5xx,reset,connect-failure,refused-stream", "num_retries": 3,
        "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.01s"}});
    let table = json!({"name": "routes", "response_headers_to_add": add, "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [
        {"match": {"prefix": "/retry"}, "route": {"cluster": "main", "retry_policy": retry}},
        {"match": {"prefix": "/h2"}, "route": {"cluster": "h2", "retry_policy": {"retry_on": "refused-stream,reset-before-request,connect-failure"}}},
        {"match": {"prefix": "/slow"}, "route": {"cluster": "main", "timeout": "0.3s"}},
        {"match": {"prefix": "/direct"}, "direct_response": {"status": 200, "body": {"inline_string": "direct"}}},
        {"match": {"prefix": "/"}, "route": {"cluster": "main", "retry_policy": {"retry_on": "connect-failure,reset-before-request"}}}]}]});
    ("routes".into(), table)
}

/// A running control plane.
pub struct Plane {
    /// Where proxies connect.
    pub port: u16,
    hub: Arc<Hub<World>>,
    world: Arc<World>,
}

impl Plane {
    /// Starts it on a thread of its own; it lives as long as the process.
    pub fn start(ports: Ports) -> Result<Self> {
        let world = Arc::new(World { ports, revision: AtomicU64::new(0) });
        let hub = Hub::new(world.clone(), Options::default());
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let service = AdsService::server(hub.clone(), |_: &_, _: &_| Ok(Vec::new()));
        std::thread::spawn(move || {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
                return;
            };
            runtime.block_on(async {
                if let Ok(listener) = tokio::net::TcpListener::from_std(listener) {
                    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
                    let _ =
                        tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await;
                }
            });
        });
        Ok(Self { port, hub, world })
    }

    /// The next revision, for everybody.
    pub fn advance(&self) -> u64 {
        let revision = self.world.revision.fetch_add(1, Ordering::Relaxed) + 1;
        self.hub.push(&Anything, std::time::Instant::now());
        revision
    }
}

/// The bootstrap of a proxy that takes everything from the plane.
pub fn bootstrap(admin: u16, plane: u16) -> Value {
    json!({"admin": {"address": address(admin)}, "node": {"id": "soak", "cluster": "soak"},
        "dynamic_resources": {
            "ads_config": {"api_type": "DELTA_GRPC", "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "plane"}}]},
            "cds_config": {"ads": {}, "resource_api_version": "V3"},
            "lds_config": {"ads": {}, "resource_api_version": "V3"}},
        "static_resources": {"clusters": [{"name": "plane", "type": "STATIC", "connect_timeout": "5s",
            "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": format!("{TYPE}upstreams.http.v3.HttpProtocolOptions"),
                "explicit_http_config": {"http2_protocol_options": {}}}},
            "load_assignment": {"cluster_name": "plane", "endpoints": [{"lb_endpoints": [
                {"endpoint": {"address": address(plane)}}]}]}}]}})
}
