//! Does a connection arrive where its listener says? Whole listeners over loopback.

use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

struct World {
    store: Arc<telemetry::stats::Store>,
    sinks: telemetry::access_log::Sinks,
    secrets: Arc<tls::SecretStore>,
    registry: Arc<upstream::Registry>,
    worker: Rc<l4::Worker>,
}

const TYPE: &str = "type.googleapis.com/envoy.extensions.filters";

impl World {
    fn new() -> World {
        let store = telemetry::stats::Store::new(Default::default());
        let secrets = Arc::new(tls::SecretStore::default());
        let registry = upstream::Registry::new(store.clone(), secrets.clone());
        let http = l7::Worker::new(0, 7, registry.clone());
        tokio::task::spawn_local(http.clone().run());
        World {
            sinks: telemetry::access_log::Sinks::new(Duration::from_secs(1), store.block("filesystem.")),
            worker: l4::Worker::new(0, http, registry.clone(), store.clone()),
            store,
            secrets,
            registry,
        }
    }

    fn cluster(&self, name: &str, to: SocketAddr) {
        let json = json!({"name": name, "type": "STATIC", "connect_timeout": "1s", "load_assignment": {
            "cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(to)}}]}]}});
        let proto: protos::envoy::config::cluster::v3::Cluster = protos::json::decode_json(&json).unwrap();
        self.registry.set(Arc::new(proxy_config::parse::cluster(&proto).unwrap()));
    }

    fn compile(&self, json: &Value, previous: Option<&l4::Listener>) -> Arc<l4::Listener> {
        let proto: protos::envoy::config::listener::v3::Listener = protos::json::decode_json(json).unwrap();
        let config = Arc::new(proxy_config::parse::listener(&proto).unwrap());
        let deps = l4::Deps {
            store: &self.store,
            sinks: &self.sinks,
            exports: &l7::export::Exports::new(&self.store).0,
            registry: &self.registry,
            secrets: &self.secrets,
            routes: &|_| Arc::default(),
            node: Arc::default(),
        };
        l4::Listener::succeed(config, &deps, previous).unwrap()
    }

    fn listen(&self, json: Value) -> (Arc<l4::Listener>, SocketAddr) {
        let listener = self.compile(&json, None);
        let sockets = listener.bind(1).unwrap().remove(0);
        let at = listener.local_addresses()[0];
        self.worker.add(listener.clone(), sockets).unwrap();
        (listener, at)
    }

    fn stat(&self, name: &str) -> u64 {
        let mut found = 0;
        self.store.visit(|m| {
            if m.name == name
                && let telemetry::stats::MetricKind::Counter(value) = m.value
            {
                found = value;
            }
        });
        found
    }
}

fn address(a: SocketAddr) -> Value {
    json!({"socket_address": {"address": a.ip().to_string(), "port_value": a.port()}})
}

fn tcp_proxy(cluster: &str) -> Value {
    json!({"name": "tcp", "typed_config": {"@type": format!("{TYPE}.network.tcp_proxy.v3.TcpProxy"),
        "stat_prefix": cluster, "cluster": cluster}})
}

fn direct(text: &str) -> Value {
    json!({"name": "direct", "typed_config": {"@type": format!("{TYPE}.network.direct_response.v3.Config"),
        "response": {"inline_string": text}}})
}

fn listener_filter(name: &str, message: &str) -> Value {
    json!({"name": name, "typed_config": {"@type": format!("{TYPE}.listener.{message}")}})
}

fn listener(name: &str, chains: Value, more: Value) -> Value {
    let at: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let mut all = json!({"name": name, "address": address(at), "filter_chains": chains});
    all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    all
}

fn run<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(Duration::from_secs(20), test()).await.expect("the test hangs")
    });
}

/// A server that answers each connection with `serve`.
async fn backend<F: Future<Output = ()> + 'static>(serve: impl Fn(TcpStream) -> F + 'static) -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = socket.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = socket.accept().await {
            tokio::task::spawn_local(serve(stream));
        }
    });
    at
}

async fn ask(at: SocketAddr, send: &[u8]) -> Vec<u8> {
    let mut c = TcpStream::connect(at).await.unwrap();
    c.write_all(send).await.unwrap();
    c.shutdown().await.unwrap();
    let mut got = Vec::new();
    // A refused connection may end in a reset.
    let _ = c.read_to_end(&mut got).await;
    got
}

/// Reads everything, then answers with its length and itself backwards.
async fn reverse(mut s: TcpStream) {
    let mut all = Vec::new();
    s.read_to_end(&mut all).await.unwrap();
    all.reverse();
    s.write_all(&all).await.unwrap();
}

#[test]
fn tcp_proxy_passes_half_close_and_bulk() {
    run(|| async {
        let w = World::new();
        w.cluster("b", backend(reverse).await);
        let (_, at) = w.listen(listener("l", json!([{"filters": [tcp_proxy("b")]}]), json!({})));
        for size in [0, 1, 1000, 200_000, 5_000_000] {
            let data: Vec<u8> = (0..size).map(|i: u32| (i * 31 + i / 253) as u8).collect();
            let mut got = ask(at, &data).await;
            got.reverse();
            assert!(got == data, "{size} bytes went, {} came back, or others", got.len());
        }
        let total: u64 = 1 + 1000 + 200_000 + 5_000_000;
        assert_eq!(w.stat("tcp.b.downstream_cx_rx_bytes_total"), total);
        assert_eq!(w.stat("cluster.b.upstream_cx_rx_bytes_total"), total);
        assert_eq!(w.stat("tcp.b.downstream_cx_total"), 5);
    });
}

#[test]
fn server_speaks_first_and_ends_first() {
    run(|| async {
        let w = World::new();
        let at = backend(|mut s| async move {
            s.write_all(b"220 hello\r\n").await.unwrap();
            s.shutdown().await.unwrap();
            let mut rest = Vec::new();
            s.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, b"late");
        });
        w.cluster("b", at.await);
        let (_, at) = w.listen(listener("l", json!([{"filters": [tcp_proxy("b")]}]), json!({})));
        let mut c = TcpStream::connect(at).await.unwrap();
        let mut got = Vec::new();
        c.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"220 hello\r\n");
        c.write_all(b"late").await.unwrap();
        c.shutdown().await.unwrap();
    });
}

#[test]
fn no_host_no_cluster_no_connection() {
    run(|| async {
        let w = World::new();
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        w.cluster("dead", nobody);
        let (_, at) = w.listen(listener("a", json!([{"filters": [tcp_proxy("dead")]}]), json!({})));
        assert_eq!(ask(at, b"").await, b"");
        assert_eq!(w.stat("cluster.dead.upstream_cx_connect_fail"), 1);
        let (_, at) = w.listen(listener("b", json!([{"filters": [tcp_proxy("missing")]}]), json!({})));
        assert_eq!(ask(at, b"").await, b"");
        assert_eq!(w.stat("tcp.missing.downstream_cx_no_route"), 1);
    });
}

#[test]
fn inspectors_choose_the_chain() {
    run(|| async {
        let w = World::new();
        let chains = json!([
            {"filter_chain_match": {"transport_protocol": "tls", "server_names": ["a.example"]}, "filters": [direct("tls a")]},
            {"filter_chain_match": {"transport_protocol": "tls"}, "filters": [direct("tls")]},
            {"filter_chain_match": {"transport_protocol": "raw_buffer", "application_protocols": ["http/1.1", "h2c"]}, "filters": [direct("http")]},
            {"filter_chain_match": {"transport_protocol": "raw_buffer"}, "filters": [direct("raw")]},
        ]);
        let filters = [
            listener_filter("envoy.filters.listener.tls_inspector", "tls_inspector.v3.TlsInspector"),
            listener_filter("envoy.filters.listener.http_inspector", "http_inspector.v3.HttpInspector"),
        ];
        let (_, at) = w.listen(listener("l", chains, json!({"listener_filters": filters})));
        for (first, expect) in [
            (hello("a.example"), "tls a"),
            (hello("b.example"), "tls"),
            (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "http"),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), "http"),
            (b"SSH-2.0-x\r\n".to_vec(), "raw"),
            (b"GE".to_vec(), "raw"),
        ] {
            // In two pieces, so that the inspectors have to wait for the rest.
            let mut c = TcpStream::connect(at).await.unwrap();
            c.set_nodelay(true).unwrap();
            c.write_all(&first[..1]).await.unwrap();
            tokio::task::yield_now().await;
            c.write_all(&first[1..]).await.unwrap();
            c.shutdown().await.unwrap();
            let mut got = vec![0; 16];
            let n = c.read(&mut got).await.unwrap();
            assert_eq!(std::str::from_utf8(&got[..n]).unwrap(), expect);
        }
        assert_eq!(w.stat("tls_inspector.tls_found"), 2);
        assert_eq!(w.stat("http_inspector.http_not_found"), 2);
    });
}

#[test]
fn silent_clients_time_out_or_go_on() {
    run(|| async {
        let w = World::new();
        let filters = [listener_filter("envoy.filters.listener.http_inspector", "http_inspector.v3.HttpInspector")];
        let chains = json!([{"filters": [direct("hi")]}]);
        for (go_on, expect) in [(true, "hi"), (false, "")] {
            let name = format!("l{go_on}");
            let more = json!({"listener_filters": filters, "listener_filters_timeout": "0.05s",
                "continue_on_listener_filters_timeout": go_on});
            let (_, at) = w.listen(listener(&name, chains.clone(), more));
            let mut c = TcpStream::connect(at).await.unwrap();
            let mut got = String::new();
            c.read_to_string(&mut got).await.unwrap();
            assert_eq!(got, expect);
        }
    });
}

#[test]
fn restored_destinations_are_handed_over() {
    run(|| async {
        let w = World::new();
        let proxy = listener_filter("envoy.filters.listener.proxy_protocol", "proxy_protocol.v3.ProxyProtocol");
        let more = json!({"use_original_dst": true, "listener_filters": [proxy]});
        let (_, at) = w.listen(listener("capture", json!([{"filters": [direct("capture")]}]), more));
        for (name, ip, port, text) in [("a", "10.0.0.1", 80, "exact"), ("b", "0.0.0.0", 80, "wildcard")] {
            let mut l = listener(name, json!([{"filters": [direct(text)]}]), json!({"bind_to_port": false}));
            l["address"] = json!({"socket_address": {"address": ip, "port_value": port}});
            let l = w.compile(&l, None);
            let none = l.bind(1).unwrap().remove(0);
            w.worker.add(l, none).unwrap();
        }
        for (to, expect) in [("10.0.0.1 9 80", "exact"), ("10.0.0.2 9 80", "wildcard"), ("10.0.0.2 9 81", "capture")] {
            let got = ask(at, format!("PROXY TCP4 1.2.3.4 {to}\r\n").as_bytes()).await;
            assert_eq!(std::str::from_utf8(&got).unwrap(), expect, "{to}");
        }
        assert_eq!(ask(at, b"no header").await, b"");
    });
}

#[test]
fn rbac_and_limits_close() {
    run(|| async {
        let w = World::new();
        let rbac = |action: &str, ip: &str| {
            json!({"name": "rbac", "typed_config": {"@type": format!("{TYPE}.network.rbac.v3.RBAC"), "stat_prefix": "tcp.",
                "rules": {"action": action, "policies": {"p": {"permissions": [{"any": true}],
                    "principals": [{"direct_remote_ip": {"address_prefix": ip, "prefix_len": 32}}]}}}}})
        };
        for (action, ip, expect) in [
            ("ALLOW", "127.0.0.1", "in"),
            ("ALLOW", "10.0.0.1", ""),
            ("DENY", "127.0.0.1", ""),
            ("DENY", "10.0.0.1", "in"),
        ] {
            let name = format!("{action}{ip}");
            let (_, at) = w.listen(listener(&name, json!([{"filters": [rbac(action, ip), direct("in")]}]), json!({})));
            assert_eq!(ask(at, b"").await, expect.as_bytes(), "{name}");
        }
        assert_eq!((w.stat("tcp.rbac.allowed"), w.stat("tcp.rbac.denied")), (2, 2));

        let limit = json!({"name": "limit", "typed_config": {"@type": format!("{TYPE}.network.connection_limit.v3.ConnectionLimit"),
            "stat_prefix": "l", "max_connections": 1}});
        let echo = json!({"name": "echo", "typed_config": {"@type": format!("{TYPE}.network.echo.v3.Echo")}});
        let (_, at) = w.listen(listener("limit", json!([{"filters": [limit, echo]}]), json!({})));
        let mut first = TcpStream::connect(at).await.unwrap();
        first.write_all(b"x").await.unwrap();
        first.read_exact(&mut [0; 1]).await.unwrap();
        assert_eq!(ask(at, b"").await, b"");
        drop(first);
        assert_eq!(w.stat("connection_limit.l.limited_connections"), 1);
    });
}

#[test]
fn updates_keep_unchanged_chains() {
    run(|| async {
        let w = World::new();
        w.worker.set_drain_time(Duration::ZERO);
        w.cluster("b", backend(reverse).await);
        let chain = |name: &str, alpn: &str, filters: Value| json!({"name": name, "filter_chain_match": {"application_protocols": [alpn]}, "filters": filters});
        let http = json!({"listener_filters": [listener_filter("envoy.filters.listener.http_inspector", "http_inspector.v3.HttpInspector")]});
        let keep = chain("keep", "http/1.1", json!([tcp_proxy("b")]));
        let before = listener("l", json!([keep, chain("change", "http/1.0", json!([tcp_proxy("b")]))]), http.clone());
        let after = listener("l", json!([keep, chain("change", "http/1.0", json!([direct("new")]))]), http);
        let (old, at) = w.listen(before);
        let mut kept = TcpStream::connect(at).await.unwrap();
        kept.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut cut = TcpStream::connect(at).await.unwrap();
        cut.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
        while w.worker.connections() < 2 {
            tokio::task::yield_now().await;
        }
        assert!(w.worker.replace(w.compile(&after, Some(&old))));
        // The changed chain's connection ends with the drain time; the other one lives.
        let mut rest = Vec::new();
        let _ = cut.read_to_end(&mut rest).await;
        assert_eq!(rest, b"");
        kept.write_all(b"!").await.unwrap();
        kept.shutdown().await.unwrap();
        kept.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"!\n\r\n\r1.1/PTTH / TEG");
        assert_eq!(ask(at, b"GET / HTTP/1.0\r\n\r\n").await, b"new");
    });
}

/// The first flight of a real TLS client.
fn hello(sni: &str) -> Vec<u8> {
    let mut b = vec![3, 3];
    b.extend([7; 32]);
    b.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    let name = [&[0, (sni.len() >> 8) as u8, sni.len() as u8][..], sni.as_bytes()].concat();
    let list = [&[(name.len() >> 8) as u8, name.len() as u8][..], &name].concat();
    let ext = [&[0, 0, (list.len() >> 8) as u8, list.len() as u8][..], &list].concat();
    b.extend([(ext.len() >> 8) as u8, ext.len() as u8]);
    b.extend(ext);
    let hs = [&[1, 0, (b.len() >> 8) as u8, b.len() as u8][..], &b].concat();
    [&[22, 3, 1, (hs.len() >> 8) as u8, hs.len() as u8][..], &hs].concat()
}
