//! Which parsers take bytes from a peer or a person? One function each.

use crate::Target;
use http1::{BodyReader, HeadScanner, HeaderBlock, Limits, RequestOptions, ResponseOptions};
use protos::envoy::config::bootstrap::v3::Bootstrap;
use protos::envoy::config::cluster::v3::Cluster;
use protos::envoy::config::endpoint::v3::ClusterLoadAssignment;
use protos::envoy::config::listener::v3::Listener;
use protos::envoy::config::route::v3::RouteConfiguration;
use protos::envoy::extensions::transport_sockets::tls::v3::Secret;
use protos::istio::networking::nds::v1::{NameTable, name_table::NameInfo};
use protos::json::{self, Options};
use protos::prost::{Message, Name};
use std::sync::LazyLock;
use std::time::Duration;

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "json_to_wire", run: json_to_wire },
    Target { name: "wire_to_json", run: wire_to_json },
    Target { name: "http1_request", run: http1_request },
    Target { name: "http1_response", run: http1_response },
    Target { name: "http1_body", run: http1_body },
    Target { name: "http2_server", run: crate::http2::server },
    Target { name: "http2_client", run: crate::http2::client },
    Target { name: "yaml", run: yaml },
    Target { name: "xds_resource", run: xds_resource },
    Target { name: "xds_wire", run: xds_wire },
    Target { name: "client_hello", run: client_hello },
    Target { name: "proxy_protocol", run: proxy_protocol },
    Target { name: "http_inspector", run: http_inspector },
    Target { name: "connection", run: crate::connection::run },
    Target { name: "metadata_exchange", run: metadata_exchange },
    Target { name: "token", run: l7::fuzz::token },
    Target { name: "certificate", run: certificate },
    Target { name: "dns", run: dns },
];

/// What an xDS server or a bootstrap may send.
const RESOURCES: &[&str] = &[
    "envoy.config.listener.v3.Listener",
    "envoy.config.cluster.v3.Cluster",
    "envoy.config.route.v3.RouteConfiguration",
    "envoy.config.bootstrap.v3.Bootstrap",
];

fn json_to_wire(data: &[u8]) {
    let Ok(value) = serde_json::from_slice(data) else {
        return;
    };
    for name in RESOURCES {
        if let Ok(bytes) = json::from_json(name, &value) {
            json::to_json(name, &bytes, Options::default()).expect("what we wrote we can read");
        }
    }
}

fn wire_to_json(data: &[u8]) {
    for name in RESOURCES {
        let _ = json::to_json(name, data, Options::default());
    }
}

/// A request head, whole and in two pieces: the verdict may not depend on where the bytes were cut.
fn http1_request(data: &[u8]) {
    let options = RequestOptions::default();
    let (mut block, mut scanner) = (HeaderBlock::new(), HeadScanner::default());
    let whole = http1::parse_request(data, &mut scanner, &options, &mut block);
    let (mut block, mut scanner) = (HeaderBlock::new(), HeadScanner::default());
    if let Ok(None) = http1::parse_request(&data[..data.len() / 2], &mut scanner, &options, &mut block) {
        let pieces = http1::parse_request(data, &mut scanner, &options, &mut block);
        // An incomplete head may be refused sooner or later; a complete one is accepted either way or not at all.
        let complete = |verdict: &Result<Option<_>, _>| matches!(verdict, Ok(Some(_)));
        if complete(&whole) || complete(&pieces) {
            assert_eq!(format!("{whole:?}"), format!("{pieces:?}"));
        }
    }
}

fn http1_response(data: &[u8]) {
    let (mut block, mut scanner) = (HeaderBlock::new(), HeadScanner::default());
    let _ = http1::parse_response(data, &mut scanner, &ResponseOptions::default(), &mut block);
    let _ = http1::parse_trailers(data, &Limits::default(), &mut block);
}

/// A chunked body, whole and in two pieces: the same data come out, and no more is consumed than there is.
fn http1_body(data: &[u8]) {
    let read = |reader: &mut BodyReader, input: &[u8], out: &mut Vec<u8>| {
        let relay = reader.decode(input, |piece| out.extend_from_slice(piece)).ok()?;
        assert!(relay.consumed <= input.len());
        Some(relay.done)
    };
    let (mut whole, mut pieces) = (Vec::new(), Vec::new());
    let mut reader = BodyReader::new(http1::BodyKind::Chunked);
    let verdict = read(&mut reader, data, &mut whole);
    let mut reader = BodyReader::new(http1::BodyKind::Chunked);
    let (head, tail) = data.split_at(data.len() / 2);
    let halves = match read(&mut reader, head, &mut pieces) {
        Some(false) => read(&mut reader, tail, &mut pieces),
        ended => ended,
    };
    assert_eq!(verdict, halves);
    if verdict.is_some() {
        assert_eq!(whole, pieces);
    }
}

/// Manifests as a person writes them, down to validation.
fn yaml(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for document in api::yaml::documents(&text).into_iter().flatten() {
        if let Ok(resource) = api::Resource::from_value(document.value, None, "default") {
            api::validate::validate(&resource);
        }
    }
}

/// Resources as a control plane sends them, in JSON so that mutations stay close to valid ones.
fn xds_resource(data: &[u8]) {
    let Ok(value) = serde_json::from_slice(data) else {
        return;
    };
    let wire = |name: String| json::from_json(&name, &value).unwrap_or_default();
    compile(&wire(Listener::full_name()), &wire(Cluster::full_name()), &wire(RouteConfiguration::full_name()));
    if let Ok(bootstrap) = json::decode_json::<Bootstrap>(&value) {
        let _ = proxy_config::parse::bootstrap(&bootstrap);
    }
}

fn xds_wire(data: &[u8]) {
    compile(data, data, data);
    if let Ok(load) = ClusterLoadAssignment::decode(data) {
        let _ = proxy_config::parse::load_assignment(&load);
    }
    if let Ok(secret) = Secret::decode(data) {
        let _ = proxy_config::parse::secret(&secret);
    }
}

fn compile(listener: &[u8], cluster: &[u8], routes: &[u8]) {
    if let Ok(listener) = Listener::decode(listener) {
        let _ = proxy_config::parse::listener(&listener);
    }
    if let Ok(cluster) = Cluster::decode(cluster) {
        let _ = proxy_config::parse::cluster(&cluster);
    }
    if let Ok(routes) = RouteConfiguration::decode(routes) {
        let _ = proxy_config::parse::route_table(&routes);
    }
}

fn client_hello(data: &[u8]) {
    tls::client_hello::peek(data);
}

/// A header in any number of pieces: a verdict once given stays.
fn proxy_protocol(data: &[u8]) {
    let whole = l4::fuzz::proxy_protocol(data);
    let half = l4::fuzz::proxy_protocol(&data[..data.len() / 2]);
    if !format!("{half:?}").starts_with("More") {
        assert_eq!(half, whole);
    }
}

fn http_inspector(data: &[u8]) {
    let _ = l4::fuzz::http_inspector(data).protocol();
}

fn metadata_exchange(data: &[u8]) {
    let _ = l4::fuzz::metadata_exchange(data);
}

/// What a peer presents in a handshake, and what a workload asks the authority to sign.
fn certificate(data: &[u8]) {
    let _ = tls::CertificateFacts::parse(data);
    let _ = pki::cert::CertFacts::parse(data);
    let _ = pki::csr::CertRequest::parse(data);
}

/// A query of the application, answered from a table with names of every kind: what comes back can be read.
fn dns(data: &[u8]) {
    static TABLE: LazyLock<NameTable> = LazyLock::new(|| {
        let info = |ip: &str| NameInfo { ips: vec![ip.to_owned()], ..NameInfo::default() };
        let table = [("a.b.svc.cluster.local", "10.0.0.1"), ("*.wild.example", "fd00::1"), ("plain", "10.0.0.2")];
        NameTable { table: table.map(|(name, ip)| (name.to_owned(), info(ip))).into() }
    });
    let options = agent::dns::Options {
        namespace: "b".to_owned(),
        domain: "b.svc.cluster.local".to_owned(),
        forward_timeout: Duration::from_secs(1),
        parallel: false,
        listen: String::new(),
    };
    for tcp in [false, true] {
        if let Some(answer) = agent::dns::answer_of_table(&TABLE, data, &options, tcp) {
            assert_eq!(answer[..2], data[..2], "the answer bears the query's id");
        }
    }
}
