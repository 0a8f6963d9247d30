//! Does a request wait for what the control plane knows and the proxy does not? VHDS and ODCDS against a scripted delta
//! server, beside stock Envoy where `PROA_ENVOY` names one.

mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use protos::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
use protos::envoy::service::cluster::v3::cluster_discovery_service_server as cds;
use protos::envoy::service::discovery::v3 as discovery;
use protos::envoy::service::discovery::v3::aggregated_discovery_service_server as ads;
use protos::envoy::service::route::v3::virtual_host_discovery_service_server as vhds;
use serde_json::{Value, json};
use support::*;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status, Streaming};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
const HOST: &str = "type.googleapis.com/envoy.config.route.v3.VirtualHost";

type Answers = Pin<Box<dyn tokio_stream::Stream<Item = Result<discovery::DeltaDiscoveryResponse, Status>> + Send>>;
type Asked = Request<Streaming<discovery::DeltaDiscoveryRequest>>;

/// What the server has, what it was asked, and who listens.
#[derive(Default)]
struct State {
    /// By type and name: the aliases and the message.
    resources: BTreeMap<(&'static str, String), (Vec<String>, prost_types::Any)>,
    /// Names that are never answered.
    silent: Vec<String>,
    /// Type and names of each subscription, in order.
    asked: Vec<(String, Vec<String>)>,
    refused: Vec<String>,
    tasks: Vec<tokio::task::AbortHandle>,
    streams: Vec<(String, UnboundedSender<Result<discovery::DeltaDiscoveryResponse, Status>>)>,
    nonce: u64,
}

#[derive(Clone, Default)]
struct Server(Arc<Mutex<State>>);

fn response(state: &mut State, type_url: &str, names: &[String]) -> discovery::DeltaDiscoveryResponse {
    state.nonce += 1;
    let mut answer = discovery::DeltaDiscoveryResponse {
        type_url: type_url.into(),
        nonce: state.nonce.to_string(),
        system_version_info: state.nonce.to_string(),
        ..Default::default()
    };
    for name in names.iter().filter(|n| !state.silent.contains(n)) {
        let found = state.resources.iter().find(|((t, n), (a, _))| *t == type_url && (n == name || a.contains(name)));
        let mut resource = discovery::Resource { version: "1".into(), ..Default::default() };
        match found {
            Some(((_, name), (aliases, body))) => {
                (resource.name, resource.aliases, resource.resource) =
                    (name.clone(), aliases.clone(), Some(body.clone()));
            }
            // Virtual hosts that are not there are said so by an empty resource.
            None if type_url == HOST => (resource.name, resource.aliases) = (name.clone(), vec![name.clone()]),
            None => {
                answer.removed_resources.push(name.clone());
                continue;
            }
        }
        answer.resources.push(resource);
    }
    answer
}

impl Server {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().expect("no test panics with it")
    }

    fn start(&self) -> u16 {
        let (port, server) = (free_port(), self.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            let serve = tonic::transport::Server::builder()
                .add_service(ads::AggregatedDiscoveryServiceServer::new(server.clone()))
                .add_service(vhds::VirtualHostDiscoveryServiceServer::new(server.clone()))
                .add_service(cds::ClusterDiscoveryServiceServer::new(server))
                .serve(([127, 0, 0, 1], port).into());
            runtime.block_on(serve).expect("served");
        });
        port
    }

    /// Answers each subscription once, unless it names what is never answered; pushes go to the stream that asked for the type last.
    fn converse(&self, asked: Asked) -> Response<Answers> {
        let (send, receive) = unbounded_channel();
        let (server, mut requests) = (self.clone(), asked.into_inner());
        let state = self.0.clone();
        let task = tokio::spawn(async move {
            let mut opened = std::collections::BTreeSet::new();
            while let Some(Ok(request)) = requests.next().await {
                let state = &mut *server.state();
                let first = opened.insert(request.type_url.clone());
                if let Some(error) = &request.error_detail {
                    state.refused.push(error.message.clone());
                }
                let names = request.resource_names_subscribe;
                if !first && names.is_empty() {
                    continue;
                }
                state.streams.push((request.type_url.clone(), send.clone()));
                state.asked.push((request.type_url.clone(), names.clone()));
                if names.iter().any(|n| state.silent.contains(n)) {
                    continue;
                }
                let answer = response(state, &request.type_url, &names);
                if send.send(Ok(answer)).is_err() {
                    return;
                }
            }
        });
        state.lock().expect("no test panics with it").tasks.push(task.abort_handle());
        Response::new(Box::pin(UnboundedReceiverStream::new(receive)))
    }

    /// Has this from now on.
    fn put(&self, type_url: &'static str, name: &str, aliases: &[&str], body: prost_types::Any) {
        let aliases = aliases.iter().map(|a| a.to_string()).collect();
        self.state().resources.insert((type_url, name.into()), (aliases, body));
    }

    /// Tells what it has, or has no more, under a name.
    fn push(&self, type_url: &'static str, name: &str) {
        let state = &mut *self.state();
        let mut answer = response(state, type_url, &[name.to_owned()]);
        if answer.resources.iter().all(|r| r.resource.is_none()) {
            answer.resources.clear();
            answer.removed_resources = vec![name.to_owned()];
        }
        let stream = state.streams.iter().rev().find(|s| s.0 == type_url).expect("somebody asked");
        stream.1.send(Ok(answer)).expect("still open");
    }

    /// Ends all streams.
    fn cut(&self) {
        let state = &mut *self.state();
        state.tasks.drain(..).for_each(|task| task.abort());
        state.streams.clear();
    }

    /// Waits until `done` holds.
    fn wait(&self, what: &str, done: impl Fn(&State) -> bool) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !done(&self.state()) {
            assert!(std::time::Instant::now() < deadline, "{what}: {:?}", self.state().asked);
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// How often a name was asked for.
    fn times(&self, type_url: &str, name: &str) -> usize {
        self.state().asked.iter().filter(|a| a.0 == type_url && a.1.iter().any(|n| n == name)).count()
    }
}

#[tonic::async_trait]
impl ads::AggregatedDiscoveryService for Server {
    type StreamAggregatedResourcesStream =
        Pin<Box<dyn tokio_stream::Stream<Item = Result<discovery::DiscoveryResponse, Status>> + Send>>;
    type DeltaAggregatedResourcesStream = Answers;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<discovery::DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("delta only"))
    }

    async fn delta_aggregated_resources(&self, asked: Asked) -> Result<Response<Answers>, Status> {
        Ok(self.converse(asked))
    }
}

#[tonic::async_trait]
impl vhds::VirtualHostDiscoveryService for Server {
    type DeltaVirtualHostsStream = Answers;

    async fn delta_virtual_hosts(&self, asked: Asked) -> Result<Response<Answers>, Status> {
        Ok(self.converse(asked))
    }
}

#[tonic::async_trait]
impl cds::ClusterDiscoveryService for Server {
    type StreamClustersStream =
        Pin<Box<dyn tokio_stream::Stream<Item = Result<discovery::DiscoveryResponse, Status>> + Send>>;
    type DeltaClustersStream = Answers;

    async fn stream_clusters(
        &self,
        _: Request<Streaming<discovery::DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamClustersStream>, Status> {
        Err(Status::unimplemented("delta only"))
    }

    async fn delta_clusters(&self, asked: Asked) -> Result<Response<Answers>, Status> {
        Ok(self.converse(asked))
    }

    async fn fetch_clusters(
        &self,
        _: Request<discovery::DiscoveryRequest>,
    ) -> Result<Response<discovery::DiscoveryResponse>, Status> {
        Err(Status::unimplemented("delta only"))
    }
}

fn of<T: prost::Message + prost::Name + Default>(message: Value) -> prost_types::Any {
    protos::any(&protos::json::decode_json::<T>(&message).unwrap_or_else(|e| panic!("{e}: {message}")))
}

/// Where single names are asked for.
#[derive(Clone, Copy)]
enum Where {
    Aggregated,
    Alone,
}

fn source(of: Where) -> Value {
    match of {
        Where::Aggregated => json!({"ads": {}, "resource_api_version": "V3"}),
        Where::Alone => json!({"resource_api_version": "V3", "api_config_source": {"api_type": "DELTA_GRPC",
            "transport_api_version": "V3", "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}]}}),
    }
}

fn on_demand(odcds: Option<Value>) -> Value {
    let mut config = json!({"@type": format!("{TYPE}envoy.extensions.filters.http.on_demand.v3.OnDemand")});
    if let Some(odcds) = odcds {
        config["odcds"] = odcds;
    }
    json!({"name": "envoy.filters.http.on_demand", "typed_config": config})
}

fn log() -> Value {
    json!([{"name": "l", "typed_config": {"@type": format!("{TYPE}envoy.extensions.access_loggers.file.v3.FileAccessLog"),
        "path": "/dev/null"}}])
}

/// A proxy whose route configuration `r` comes from the server, with its virtual hosts on demand.
fn by_host(port: u16, app: u16, xds: u16, odcds: Option<Value>) -> Value {
    let rds =
        json!({"rds": {"route_config_name": "r", "config_source": source(Where::Aggregated)}, "access_log": log()});
    let mut manager = hcm(json!([]), &[on_demand(odcds)], rds);
    manager["typed_config"].as_object_mut().expect("an object").remove("route_config");
    let mut config =
        bootstrap(vec![listener(port, &[manager], json!({}))], vec![cluster("app", app), h2_cluster("xds", xds)]);
    config["node"] = json!({"id": "n", "cluster": "c"});
    config["dynamic_resources"] = json!({"ads_config": {"api_type": "DELTA_GRPC", "transport_api_version": "V3",
        "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}]}});
    config
}

fn virtual_host(name: &str, domains: &[&str], cluster: &str) -> prost_types::Any {
    of::<VirtualHost>(json!({"name": name, "domains": domains, "routes": all_to(cluster)}))
}

fn get(port: u16, host: &str) -> u16 {
    http(port, "GET", "/", &[("host", host)]).unwrap_or_else(|e| panic!("{host}: {e}")).status
}

/// The first line of the answer to a request with a body.
fn with_body(port: u16, host: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connected");
    stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).expect("set");
    let request = format!("POST / HTTP/1.1\r\nhost: {host}\r\ncontent-length: 4\r\n\r\nbody");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut bytes = [0; 15];
    stream.read_exact(&mut bytes).unwrap_or_else(|e| panic!("{host}: {e}"));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What a proxy does, started as it is told to be.
type Script<'a> = &'a dyn Fn(Start<'_>) -> Vec<String>;
type Start<'a> = &'a dyn Fn(&Value) -> Running;

/// Runs a script against our proxy and, where there is one, against stock Envoy; both must say the same.
fn both(what: &str, script: Script<'_>) {
    let ours = script(&|config| Running::ours(config, &[]));
    match envoy() {
        Some(envoy) => assert_eq!(ours, script(&|c| Running::envoy(&envoy, c)), "{what}: left ours, right Envoy's"),
        None => println!("{what}: not compared, PROA_ENVOY does not name an Envoy binary: {ours:?}"),
    }
}

/// Lines of counters that are not zero, under a prefix.
fn counted(running: &Running, prefix: &str) -> Vec<String> {
    let stats = running.get(&format!("/stats?filter=^{prefix}")).text();
    let plain = |l: &&str| l.split(": ").count() == 2 && !l.contains("version") && !l.contains("update_time");
    stats.lines().filter(|l| !l.ends_with(": 0")).filter(plain).map(str::to_owned).collect()
}

fn hosts_wait(of_hosts: Where) {
    let script = |start: Start<'_>| {
        let server = Server::default();
        let routes = json!({"name": "r", "vhds": {"config_source": source(of_hosts)},
            "virtual_hosts": [{"name": "r/fixed", "domains": ["fixed.test"], "routes": all_to("app")}]});
        server.put(ROUTE, "r", &[], of::<RouteConfiguration>(routes));
        server.put(HOST, "r/known.test", &[], virtual_host("r/known.test", &["known.test"], "app"));
        server.put(HOST, "r/real", &["r/alias.test"], virtual_host("r/real", &["alias.test", "twin.test"], "app"));
        let (app, _seen) = backend(OK);
        let port = free_port();
        let running = start(&by_host(port, app, server.start(), None));
        let mut said = Vec::new();
        for host in ["fixed.test", "known.test", "KNOWN.test", "alias.test", "twin.test", "unknown.test"] {
            said.push(format!("{host} {}", get(port, host)));
        }
        for host in ["fixed.test", "known.test", "alias.test", "twin.test", "unknown.test"] {
            said.push(format!("{host} asked for {} times", server.times(HOST, &format!("r/{host}"))));
        }
        // What the server learns later it tells by itself.
        server.put(HOST, "r/known.test", &[], virtual_host("r/known.test", &["known.test"], "nowhere"));
        server.push(HOST, "r/known.test");
        running.page_with("/config_dump?resource=dynamic_route_configs", "nowhere");
        said.push(format!("changed {}", get(port, "known.test")));
        // One that cannot be is refused; what was there stays.
        server.put(HOST, "r/known.test", &[], virtual_host("r/known.test", &[], "app"));
        server.push(HOST, "r/known.test");
        server.wait("no refusal", |state| !state.refused.is_empty());
        said.push(format!("refused {}", get(port, "known.test")));
        // A request with a body waits as well.
        server.put(HOST, "r/body.test", &[], virtual_host("r/body.test", &["body.test"], "app"));
        said.push(with_body(port, "body.test"));
        // On another stream all is asked for again, and nothing is lost.
        server.cut();
        server.wait("not asked again", |state| {
            state.asked.iter().filter(|a| a.0 == HOST && a.1.iter().any(|n| n == "r/body.test")).count() == 2
        });
        said.push(format!("again {} {}", get(port, "body.test"), get(port, "twin.test")));
        said.extend(counted(&running, "http.ingress.(no_route|no_cluster|rq_total|downstream_rq_completed)"));
        said
    };
    both("virtual hosts", &script);
}

#[test]
fn hosts_are_asked_for_on_the_aggregated_stream() {
    hosts_wait(Where::Aggregated);
}

#[test]
fn hosts_are_asked_for_on_a_stream_of_their_own() {
    hosts_wait(Where::Alone);
}

/// A listener whose routes name clusters that are asked for.
fn by_cluster(port: u16, app: u16, xds: u16, of: Where, odcds: Value) -> Value {
    let mut filter = on_demand(Some(odcds));
    let to = |path: &str, mut action: Value| {
        action["timeout"] = "0s".into();
        json!({"match": {"prefix": path}, "route": action})
    };
    let mut overridden = to("/over", json!({"cluster": "over"}));
    overridden["typed_per_filter_config"] = json!({"envoy.filters.http.on_demand": {
        "@type": format!("{TYPE}envoy.extensions.filters.http.on_demand.v3.PerRouteConfig")}});
    let routes =
        json!([to("/header", json!({"cluster_header": "x-to"})), overridden, to("/", json!({"cluster": "late"}))]);
    filter["name"] = "envoy.filters.http.on_demand".into();
    let mut manager = hcm(routes, &[filter], json!({}));
    manager["typed_config"]["route_config"]["validate_clusters"] = false.into();
    let mut config =
        bootstrap(vec![listener(port, &[manager], json!({}))], vec![cluster("app", app), h2_cluster("xds", xds)]);
    config["node"] = json!({"id": "n", "cluster": "c"});
    if let Where::Aggregated = of {
        config["dynamic_resources"] = json!({"ads_config": {"api_type": "DELTA_GRPC", "transport_api_version": "V3",
            "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}]}});
    }
    config
}

fn post(port: u16, path: &str, to: &str) -> String {
    let answer =
        http(port, "POST", path, &[("x-to", to), ("content-length", "0")]).unwrap_or_else(|e| panic!("{path}: {e}"));
    format!("{path} {to} {}", answer.status)
}

fn clusters_wait(of: Where) {
    let script = |start: Start<'_>| {
        let server = Server::default();
        let (app, _seen) = backend(OK);
        let late = |name: &str| {
            protos::any(
                &protos::json::decode_json::<protos::envoy::config::cluster::v3::Cluster>(&cluster(name, app))
                    .expect("a cluster"),
            )
        };
        server.put(CLUSTER, "late", &[], late("late"));
        server.put(CLUSTER, "other", &[], late("other"));
        server.put(CLUSTER, "over", &[], late("over"));
        server.state().silent.push("silent".into());
        let port = free_port();
        let running =
            start(&by_cluster(port, app, server.start(), of, json!({"source": source(of), "timeout": "0.4s"})));
        let mut said = Vec::new();
        for (path, to) in [
            ("/", ""),
            ("/", ""),
            ("/header", "other"),
            ("/header", "missing"),
            ("/header", "silent"),
            ("/header", "app"),
            ("/header", ""),
            ("/over", ""),
        ] {
            said.push(post(port, path, to));
        }
        for name in ["late", "other", "missing", "app", "over"] {
            said.push(format!("{name} asked for {} times", server.times(CLUSTER, name)));
        }
        // One that goes, and comes again.
        server.state().resources.remove(&(CLUSTER, "late".into()));
        server.push(CLUSTER, "late");
        running.page_with("/stats?filter=cluster_manager.cluster_removed", "cluster_removed: 1");
        server.put(CLUSTER, "missing", &[], late("missing"));
        server.push(CLUSTER, "missing");
        running.page_with("/clusters", "missing::");
        said.extend([post(port, "/header", "late"), post(port, "/header", "missing")]);
        said.extend(counted(
            &running,
            "http.ingress.(no_route|no_cluster|rq_total|downstream_rq_completed|downstream_rq_5xx)",
        ));
        said.extend(counted(&running, "cluster_manager.cluster_(added|removed)"));
        said
    };
    both("clusters", &script);
}

#[test]
fn clusters_are_asked_for_on_the_aggregated_stream() {
    clusters_wait(Where::Aggregated);
}

#[test]
fn clusters_are_asked_for_on_a_stream_of_their_own() {
    clusters_wait(Where::Alone);
}

/// Bytes through a TCP proxy until it closes.
fn through(port: u16) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connected");
    stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).expect("set");
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    let mut bytes = [0; 15];
    match stream.read_exact(&mut bytes) {
        Ok(()) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => "closed".into(),
    }
}

#[test]
fn connections_wait_for_their_cluster() {
    let script = |start: Start<'_>| {
        let server = Server::default();
        let (app, _seen) = backend(OK);
        let late = protos::json::decode_json::<protos::envoy::config::cluster::v3::Cluster>(&cluster("late", app));
        server.put(CLUSTER, "late", &[], protos::any(&late.expect("a cluster")));
        server.state().silent.push("silent".into());
        let xds = server.start();
        let ports = [free_port(), free_port(), free_port()];
        let proxies = ports.iter().zip(["late", "missing", "silent"]).map(|(port, name)| {
            let filter = json!({"name": "envoy.filters.network.tcp_proxy", "typed_config": {
                "@type": format!("{TYPE}envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"), "stat_prefix": name,
                "cluster": name, "on_demand": {"odcds_config": source(Where::Alone), "timeout": "0.4s"}}});
            listener(*port, &[filter], json!({}))
        });
        let mut config = bootstrap(proxies.collect(), vec![h2_cluster("xds", xds)]);
        config["node"] = json!({"id": "n", "cluster": "c"});
        let running = start(&config);
        let mut said: Vec<String> = ports.iter().chain(&ports[..1]).map(|port| through(*port)).collect();
        said.extend(counted(&running, "tcp.*(on_demand|no_route)"));
        said
    };
    both("connections", &script);
}
