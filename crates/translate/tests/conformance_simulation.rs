//! The original's traffic simulation: a configuration and a call, through our translation, our proxy's parsers and
//! our proxy's decision code, to the listener, chain, route and cluster it must reach. No sockets.
#![allow(missing_docs)]

mod common;

use std::net::{IpAddr, SocketAddr};

use common::conformance;
use model::{Change, MeshConfig, Proxy, Store};
use names::NodeType;
use proxy_config::listener::{DownstreamTransport, Listener, ListenerFilterKind, NetworkFilterKind};
use proxy_config::route::{ClusterSpecifier, RouteAction, RouteTable};
use proxy_config::tls::CertificateSource;
use proxy_core::filter_chain::ConnFacts;
use serde_json::Value;
use translate::Inputs;

/// Cases that differ on purpose, with the reason.
const ALLOWED: [(&str, &str); 0] = [];

const PROXY_IP: &str = "1.1.1.1";

/// A fragment of Go as the tables hold it: text, concatenation, and the helpers that write manifests.
fn go(text: &str) -> Option<String> {
    let mut p = Go { rest: text.trim() };
    let out = p.sum()?;
    p.rest.trim().is_empty().then_some(out)
}

struct Go<'a> {
    rest: &'a str,
}

enum Arg {
    Text(String),
    List(Vec<String>),
}

impl Go<'_> {
    fn eat(&mut self, token: &str) -> bool {
        self.rest = self.rest.trim_start();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn sum(&mut self) -> Option<String> {
        let mut out = self.term()?;
        while self.eat("+") {
            out.push_str(&self.term()?);
        }
        Some(out)
    }

    fn term(&mut self) -> Option<String> {
        if self.eat("`") {
            let (text, rest) = self.rest.split_once('`')?;
            self.rest = rest;
            return Some(text.to_owned());
        }
        if self.eat("\"") {
            let (text, rest) = self.rest.split_once('"')?;
            self.rest = rest;
            return Some(text.replace("\\n", "\n"));
        }
        let end = self.rest.find('(')?;
        let name = self.rest[..end].trim().to_owned();
        self.rest = &self.rest[end + 1..];
        let mut args = Vec::new();
        while !self.eat(")") {
            if self.eat("[]string{") {
                let mut list = Vec::new();
                while !self.eat("}") {
                    list.push(self.term()?);
                    self.eat(",");
                }
                args.push(Arg::List(list));
            } else {
                args.push(Arg::Text(self.sum()?));
            }
            self.eat(",");
        }
        call(&name, &args)
    }
}

fn call(name: &str, args: &[Arg]) -> Option<String> {
    let text = |i: usize| match args.get(i) {
        Some(Arg::Text(t)) => Some(t.as_str()),
        _ => None,
    };
    let servers = |from: usize| {
        (from..args.len())
            .filter_map(text)
            .map(|s| format!("  - {}\n", s.trim().replace('\n', "\n    ")))
            .collect::<String>()
    };
    let or = |s: &str, d: &str| {
        if s.is_empty() { d.to_owned() } else { s.to_owned() }
    };
    const HEAD: &str = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata:\n";
    Some(match name {
        "createGateway" => format!(
            "{HEAD}  name: {}\n  namespace: {}\nspec:\n  selector: {{istio: ingressgateway}}\n  servers:\n{}---\n",
            or(text(0)?, "default"),
            or(text(1)?, "default"),
            servers(2)
        ),
        "createGatewayWithServiceSelector" => format!(
            "{HEAD}  name: {}\n  namespace: istio-system\n  annotations: {{internal.istio.io/gateway-service: \"{}\"}}\nspec:\n  servers:\n{}---\n",
            or(text(0)?, "default"),
            text(1)?,
            servers(2)
        ),
        "tmpl.MustEvaluate" => match args.get(1)? {
            Arg::List(list) => text(0)?.replace("{{ . |toJson }}", &serde_json::to_string(list).ok()?),
            Arg::Text(_) => return None,
        },
        "peerAuthConfig" => format!(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: default}}\nspec: {{selector: {{matchLabels: {{app: foo}}}}, mtls: {{mode: STRICT}}, portLevelMtls: {{9080: {{mode: {}}}}}}}\n---\n",
            text(0)?
        ),
        "sidecarSimple" | "sidecarMutual" => {
            let (mode, ca) =
                if name == "sidecarSimple" { ("SIMPLE", "") } else { ("MUTUAL", "caCertificates: ca.pem, ") };
            format!(
                "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: sidecar, labels: {{app: foo}}}}\nspec: {{ingress: [{{defaultEndpoint: \"0.0.0.0:9080\", port: {{name: tls, number: 9080, protocol: {}}}, tls: {{mode: {mode}, privateKey: httpbinkey.pem, serverCertificate: httpbin.pem, {ca}}}}}], workloadSelector: {{labels: {{app: foo}}}}}}\n---\n",
                text(0)?
            )
        }
        _ => return None,
    })
}

/// The few template constructs of the tables, over the fields of their argument.
fn template(text: &str, input: &Value) -> Option<String> {
    let mut out = text.to_owned();
    for (i, a) in input["Addresses"].as_array().into_iter().flatten().enumerate() {
        out = out.replace(&format!("{{{{index .Addresses {i}}}}}"), a.as_str()?);
    }
    out = out.replace("{{.Protocol}}", input["Protocol"].as_str().unwrap_or_default());
    if let (Some(start), Some(end)) = (out.find("{{ if .VirtualService }}"), out.find("{{ end }}")) {
        let body = out[start + "{{ if .VirtualService }}".len()..end].to_owned();
        let keep = input["VirtualService"].as_bool().unwrap_or(false);
        out.replace_range(start..end + "{{ end }}".len(), if keep { &body } else { "" });
    }
    (!out.contains("{{")).then_some(out)
}

/// A configuration text, however it is written. `Err`: it cannot be evaluated here.
fn text_of(v: &Value) -> Result<String, String> {
    match v {
        Value::Null => Ok(String::new()),
        Value::String(s) => Ok(s.clone()),
        Value::Object(o) if o.contains_key("$expr") => {
            go(o["$expr"].as_str().unwrap_or_default()).ok_or_else(|| "expression".to_owned())
        }
        Value::Object(o) if o.get("$call").is_some_and(|c| c == "tmpl.MustEvaluate") => {
            template(o["args"][0].as_str().unwrap_or_default(), &o["args"][1]).ok_or_else(|| "template".to_owned())
        }
        _ => Err("reference".to_owned()),
    }
}

/// A call with its defaults.
struct Call {
    address: String,
    port: u16,
    path: String,
    protocol: String,
    tls: String,
    alpn: Option<String>,
    host: String,
    sni: String,
    mode: String,
}

fn parse_call(v: &Value, func: &str, mode: &str) -> Call {
    let word = |k: &str, d: &str| v[k].as_str().filter(|s| !s.is_empty()).unwrap_or(d).to_owned();
    let mut call = Call {
        address: word("Address", "9.9.9.9"),
        port: u16::try_from(v["Port"].as_u64().unwrap_or(80)).unwrap(),
        path: word("Path", "/"),
        protocol: word("Protocol", ""),
        tls: word("TLS", "plaintext"),
        alpn: v["Alpn"].as_str().map(str::to_owned),
        host: word("HostHeader", ""),
        sni: word("Sni", ""),
        mode: word("CallMode", mode),
    };
    if v["$call"] == "mkCall" {
        let args = v["args"].as_array().unwrap();
        call.port = u16::try_from(args[0].as_u64().unwrap()).unwrap();
        call.mode = "inbound".to_owned();
        if func == "TestInboundSidecarTLSModes" {
            call.protocol = args[1].as_str().unwrap().to_owned();
            call.tls = args[2].as_str().unwrap().to_owned();
        } else {
            call.tls = args[1].as_str().unwrap().to_owned();
            call.protocol = if func == "TestPeerAuthenticationPassthrough" { "http" } else { "tcp" }.to_owned();
        }
        call.address = PROXY_IP.to_owned();
    }
    if call.sni.is_empty() && call.tls == "tls" {
        call.sni = call.host.clone();
    }
    call
}

#[derive(Default, Debug, PartialEq)]
struct Outcome {
    error: String,
    listener: String,
    chain: String,
    route_config: String,
    vhost: String,
    route: String,
    cluster: String,
}

struct World {
    listeners: Vec<Listener>,
    routes: Vec<(String, RouteTable)>,
}

impl World {
    fn new(inputs: &Inputs) -> Result<World, String> {
        let lds = translate::listeners(inputs);
        let mut listeners = Vec::new();
        for l in &lds {
            let message = protos::unpack(&l.resource).map_err(|e| e.to_string())?;
            listeners.push(proxy_config::parse::listener(&message).map_err(|e| format!("{}: {e}", l.name))?);
        }
        let mut routes = Vec::new();
        for r in translate::routes(inputs, &common::route_names(&lds)) {
            let message = protos::unpack(&r.resource).map_err(|e| e.to_string())?;
            let table = proxy_config::parse::route_table(&message).map_err(|e| format!("{}: {e}", r.name))?;
            routes.push((r.name, table));
        }
        for c in translate::clusters(inputs) {
            let message = protos::unpack(&c.resource).map_err(|e| e.to_string())?;
            proxy_config::parse::cluster(&message).map_err(|e| format!("{}: {e}", c.name))?;
        }
        Ok(World { listeners, routes })
    }

    fn listener(&self, call: &Call) -> Option<&Listener> {
        let named = |n: &str| self.listeners.iter().find(|l| *l.name == *n);
        if call.mode == "inbound" {
            return named("virtualInbound");
        }
        named(&format!("{}_{}", call.address, call.port))
            .or_else(|| named(&format!("0.0.0.0_{}", call.port)))
            .or_else(|| named(if call.port == 15006 { "virtualInbound" } else { "virtualOutbound" }))
    }

    fn run(&self, call: &Call) -> Outcome {
        let mut out = Outcome::default();
        let fail = |mut out: Outcome, error: &str| {
            out.error = error.to_owned();
            out
        };
        let Some(l) = self.listener(call) else {
            return fail(out, "ErrNoListener");
        };
        out.listener = l.name.to_string();
        let has = |wanted: fn(&ListenerFilterKind) -> bool| {
            l.listener_filters
                .iter()
                .any(|f| wanted(&f.kind) && !f.disabled.as_ref().is_some_and(|d| d.matches(call.port)))
        };
        let tls = has(|k| matches!(k, ListenerFilterKind::TlsInspector { .. }));
        let http = has(|k| matches!(k, ListenerFilterKind::HttpInspector));
        let is_http = matches!(call.protocol.as_str(), "http" | "http2");
        let version = |h1: &'static str, h2: &'static str, other: &'static str| match call.protocol.as_str() {
            "http" => h1,
            "http2" => h2,
            _ => other,
        };
        let mut alpn = match (call.tls.as_str(), tls) {
            (_, false) => "",
            ("mtls", _) => version("istio-http/1.1", "istio-h2", "istio"),
            ("tls", _) => version("http/1.1", "h2", ""),
            _ => "",
        }
        .to_owned();
        if let (true, Some(stated)) = (tls, &call.alpn) {
            alpn = stated.clone();
        }
        if http && call.tls == "plaintext" {
            alpn = version("http/1.1", "h2c", "").to_owned();
        }
        let offered: Vec<&[u8]> = if alpn.is_empty() { vec![] } else { vec![alpn.as_bytes()] };
        let ip: Option<IpAddr> = call.address.parse().ok();
        let facts = ConnFacts {
            destination: ip.map(|ip| SocketAddr::new(ip, call.port)),
            server_name: if tls { &call.sni } else { "" },
            transport_protocol: if tls && call.tls != "plaintext" { "tls" } else { "raw_buffer" },
            application_protocols: &offered,
            ..Default::default()
        };
        let Some(chain) = proxy_core::filter_chain::select(&l.chains, &facts) else {
            return fail(out, "ErrNoFilterChain");
        };
        out.chain = chain.name.to_string();
        let terminates = match &chain.transport {
            DownstreamTransport::Raw => None,
            DownstreamTransport::Tls(t) => Some(t),
        };
        if let Some(t) = terminates {
            if call.tls == "plaintext" {
                return fail(out, "ErrTLSError");
            }
            let mesh = matches!(t.certificates.first(), Some(CertificateSource::Sds(n)) if **n == *"default");
            let mutual = mesh || t.require_client_certificate;
            if mutual != (call.tls == "mtls") {
                return fail(out, "ErrMTLSError");
            }
        }
        match chain.filters.last().map(|f| &f.kind) {
            Some(NetworkFilterKind::TcpProxy(t)) => {
                if let proxy_config::filters::network::TcpCluster::Cluster(c) = &t.cluster {
                    out.cluster = c.to_string();
                }
                out
            }
            Some(NetworkFilterKind::Hcm(h)) => {
                if (call.tls != "plaintext" && terminates.is_none()) || !is_http {
                    return fail(out, "ErrProtocolError");
                }
                let table: &RouteTable = match &h.routes {
                    proxy_config::hcm::RouteSource::Inline(t) => t,
                    proxy_config::hcm::RouteSource::Rds { name, .. } => {
                        out.route_config = name.to_string();
                        match self.routes.iter().find(|(n, _)| **n == **name) {
                            Some((_, t)) => t,
                            None => return fail(out, "ErrNoVirtualHost"),
                        }
                    }
                };
                self.route(table, call, out)
            }
            _ => out,
        }
    }

    fn route(&self, table: &RouteTable, call: &Call, mut out: Outcome) -> Outcome {
        use proxy_core::route::{RouteInput, Selection, select};
        let scheme = if call.tls == "plaintext" { "http" } else { "https" };
        let headers = proxy_core::header_view::HeaderList::of(&[
            (":authority", call.host.as_str()),
            (":path", call.path.as_str()),
            (":method", "GET"),
            (":scheme", scheme),
            ("x-forwarded-proto", scheme),
        ]);
        match select(table, &headers, &RouteInput::default()) {
            Selection::NoVirtualHost => out.error = "ErrNoVirtualHost".to_owned(),
            Selection::NoRoute { vhost } => {
                out.vhost = table.virtual_hosts[vhost as usize].name.to_string();
                out.error = "ErrNoRoute".to_owned();
            }
            Selection::TlsRedirect { vhost } => {
                out.vhost = table.virtual_hosts[vhost as usize].name.to_string();
                out.error = "ErrTLSRedirect".to_owned();
            }
            Selection::Route(r) => {
                out.vhost = r.vhost(table).name.to_string();
                out.route = r.route(table).name.to_string();
                if let RouteAction::Forward(f) = &r.route(table).action
                    && let ClusterSpecifier::Cluster(c) = &f.cluster
                {
                    out.cluster = c.to_string();
                }
            }
        }
        out
    }
}

fn inputs(config: &str, kube: &str, gateway: bool, labels: &[(&str, &str)]) -> Result<Inputs, String> {
    // Names in the tables' configuration have no cluster domain.
    let mut store = Store::with_config_domain(MeshConfig::default(), "");
    let mut all = common::try_resources(config, "default")?;
    all.extend(common::try_resources(kube, "default")?);
    store.apply(all.into_iter().map(Change::Apply));
    let proxy = if gateway {
        common::gateway(PROXY_IP)
    } else {
        let mut p: Proxy = common::sidecar(PROXY_IP, "default", labels);
        p.node_type = NodeType::Sidecar;
        p
    };
    Ok(common::inputs(&store, proxy))
}

fn compare(got: &Outcome, want: &Value) -> Result<(), String> {
    let word = |k: &str| want[k].as_str().unwrap_or_default();
    let error = want["Error"]["$ref"].as_str().and_then(|e| e.rsplit('.').next()).unwrap_or_default();
    let strict = want["StrictMatch"].as_bool().unwrap_or(false);
    if got.error != error {
        return Err(format!("error {:?}, {error:?} wanted: {got:?}", got.error));
    }
    let fields = [
        ("ListenerMatched", &got.listener),
        ("FilterChainMatched", &got.chain),
        ("RouteConfigMatched", &got.route_config),
        ("VirtualHostMatched", &got.vhost),
        ("RouteMatched", &got.route),
        ("ClusterMatched", &got.cluster),
    ];
    for (k, got_value) in fields {
        let stated = !word(k).is_empty();
        // The original's strict comparison knows chain names only where they were asked for.
        if stated && word(k) != got_value || (strict && !stated && k != "FilterChainMatched" && !got_value.is_empty()) {
            return Err(format!("{k}: {got_value:?}, {:?} wanted", word(k)));
        }
    }
    Ok(())
}

#[derive(Default)]
struct Report {
    passed: u32,
    failed: Vec<String>,
    allowed: u32,
    not_served: Vec<String>,
}

impl Report {
    fn add(&mut self, name: String, result: Result<(), String>) {
        match result {
            Ok(()) => self.passed += 1,
            Err(_) if ALLOWED.iter().any(|(n, _)| *n == name) => self.allowed += 1,
            Err(e) => self.failed.push(format!("{name}: {e}")),
        }
    }
}

/// A configuration with a list of calls.
fn scenario(report: &mut Report, func: &str, v: &Value) {
    let name = format!("{func}/{}", v["name"].as_str().unwrap_or_default());
    let Some(calls) = v["calls"].as_array() else {
        return;
    };
    let (config, kube) = match (text_of(&v["config"]), text_of(&v["kubeConfig"])) {
        (Ok(c), Ok(k)) => (c, k),
        (c, k) => {
            let why = c.err().or(k.err()).unwrap_or_default();
            report.not_served.push(format!("{name}: {why}"));
            return;
        }
    };
    if kube.contains("kind: Ingress") || config.contains("gateway.networking.k8s.io") {
        report.not_served.push(format!("{name}: another API"));
        return;
    }
    let gateway = ["Gateway", "TargetPort", "DisablePortTranslation", "Ingress"].iter().any(|w| func.contains(w));
    let mode = if gateway { "gateway" } else { "outbound" };
    let world = inputs(&config, &kube, gateway, &[("app", "foo")]).and_then(|i| World::new(&i));
    for c in calls {
        let name = format!("{name}/{}", c["Name"].as_str().unwrap_or_default());
        let result = match &world {
            Ok(w) => compare(&w.run(&parse_call(&c["Call"], func, mode)), &c["Result"]),
            Err(e) => Err(e.clone()),
        };
        report.add(name, result);
    }
}

const INBOUND: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: se}
spec:
  hosts: [foo.bar]
  endpoints: [{address: 1.1.1.1}]
  location: MESH_INTERNAL
  resolution: STATIC
  ports:
  - {name: tcp, number: 70, protocol: TCP}
  - {name: http, number: 80, protocol: HTTP}
  - {name: auto, number: 81}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: MODE}}
";

/// One call under each mTLS mode.
fn inbound(report: &mut Report, v: &Value) {
    for (key, mode) in [("Disabled", "DISABLE"), ("Permissive", "PERMISSIVE"), ("Strict", "STRICT")] {
        let name = format!("TestInbound/{}/{mode}", v["Name"].as_str().unwrap_or_default());
        let world = inputs(&INBOUND.replace("MODE", mode), "", false, &[]).and_then(|i| World::new(&i));
        let result = world.and_then(|w| compare(&w.run(&parse_call(&v["Call"], "TestInbound", "inbound")), &v[key]));
        report.add(name, result);
    }
}

/// `makeInstances(proxy, service, port, target port)` wherever it stands.
fn instances(v: &Value, out: &mut Vec<(String, u64, u64)>) {
    match v {
        Value::Object(o) if o.get("$call").and_then(Value::as_str) == Some("makeInstances") => {
            let a = &o["args"];
            let host = a[1]["Hostname"].as_str().unwrap_or_default().to_owned();
            out.push((host, a[2].as_u64().unwrap_or(0), a[3].as_u64().unwrap_or(0)));
        }
        Value::Object(o) => o.values().for_each(|v| instances(v, out)),
        Value::Array(a) => a.iter().for_each(|v| instances(v, out)),
        _ => {}
    }
}

/// Names of the clusters towards the application, with the addresses of those that have some.
fn inbound_clusters(report: &mut Report, v: &Value) {
    use protos::envoy::config::cluster::v3 as cluster;
    const OWN: &str = "1.2.3.4";
    let name = format!("TestInboundClusters/{}", v["name"].as_str().unwrap_or_default());
    let mut served = Vec::new();
    instances(&v["instances"], &mut served);
    let result = (|| {
        let mut resources = Vec::new();
        let hosts: std::collections::BTreeSet<&String> = served.iter().map(|(h, ..)| h).collect();
        for host in hosts {
            let short = host.split('.').next().unwrap_or_default();
            let of = || served.iter().filter(|(h, ..)| h == host).enumerate();
            let numbers: std::collections::BTreeSet<u64> = of().map(|(_, (_, p, _))| *p).collect();
            let ports: Vec<Value> =
                numbers.iter().map(|p| serde_json::json!({"name": format!("http-{p}"), "port": p})).collect();
            let service = serde_json::json!({"apiVersion": "v1", "kind": "Service",
                "metadata": {"name": short, "namespace": "default"},
                "spec": {"clusterIP": "10.0.0.1", "ports": ports}});
            resources.push(common::pruned(service, "default")?);
            for (n, (_, port, target)) in of() {
                let slice = serde_json::json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                    "metadata": {"name": format!("{short}-{n}"), "namespace": "default",
                        "labels": {"kubernetes.io/service-name": short}},
                    "addressType": "IPv4", "endpoints": [{"addresses": [OWN]}],
                    "ports": [{"name": format!("http-{port}"), "port": target}]});
                resources.push(common::pruned(slice, "default")?);
            }
        }
        for c in v["configs"].as_array().into_iter().flatten() {
            resources.push(common::literal::resource(c, "Sidecar", "sidecar", "default")?);
        }
        let local = v["disableInboundPassthrough"].as_bool() == Some(true);
        let mode = if local { "LOCALHOST" } else { "PASSTHROUGH" };
        let mesh = serde_json::json!({"inboundTrafficPolicy": {"mode": mode}});
        let mut store = Store::new(MeshConfig::from_json(&mesh));
        store.apply(resources.into_iter().map(Change::Apply));
        let inputs = common::inputs(&store, common::sidecar(OWN, "default", &[]));
        let mut got = serde_json::Map::new();
        for c in translate::clusters(&inputs).iter().filter(|c| c.name.starts_with("inbound|")) {
            let c: cluster::Cluster = protos::unpack(&c.resource).map_err(|e| e.to_string())?;
            let endpoints = c.load_assignment.iter().flat_map(|a| &a.endpoints).flat_map(|l| &l.lb_endpoints);
            let addresses: Vec<Value> = endpoints.map(|e| Value::from(address_of(e))).collect();
            got.insert(c.name, if addresses.is_empty() { Value::Null } else { addresses.into() });
        }
        let want = v["clusters"].as_object().cloned().unwrap_or_default();
        if got == want { Ok(()) } else { Err(format!("{got:?}, {want:?} wanted")) }
    })();
    report.add(name, result);
}

fn address_of(e: &protos::envoy::config::endpoint::v3::LbEndpoint) -> String {
    use protos::envoy::config::core::v3::{address::Address, socket_address::PortSpecifier};
    use protos::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
    let Some(HostIdentifier::Endpoint(endpoint)) = &e.host_identifier else {
        return String::new();
    };
    match endpoint.address.as_ref().and_then(|a| a.address.as_ref()) {
        Some(Address::SocketAddress(s)) => match s.port_specifier {
            Some(PortSpecifier::PortValue(port)) => format!("{}:{port}", s.address),
            _ => s.address.clone(),
        },
        Some(Address::Pipe(p)) => p.path.clone(),
        _ => String::new(),
    }
}

/// Host to clusters of one route configuration.
fn sidecar_routes(report: &mut Report, v: &Value) {
    let name = format!("TestSidecarRoutes/{}", v["name"].as_str().unwrap_or_default());
    let mut config = String::new();
    for host in ["known", "alt-known"] {
        config += &format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {host}, namespace: default}}\nspec: {{hosts: [{host}.default.svc.cluster.local], addresses: [2.0.0.{}], endpoints: [{{address: 1.0.0.0}}], resolution: STATIC, ports: [{{name: http, number: 80, protocol: HTTP}}, {{name: http-other, number: 8080, protocol: HTTP}}]}}\n---\n",
            host.len()
        );
    }
    for (i, c) in v["cfg"].as_array().into_iter().flatten().enumerate() {
        let word = |k: &str| c[k].as_str().unwrap_or_default();
        if c["$t"] == "scArgs" {
            config += &format!(
                "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: s{i}, namespace: {}}}\nspec: {{egress: [{{hosts: {}}}]}}\n---\n",
                word("Namespace"),
                c["Egress"]
            );
            continue;
        }
        let matches = match c["Matches"].as_array() {
            Some(m) => serde_json::to_string(m).unwrap(),
            None => format!("[\"{}\"]", word("Match")),
        };
        let port = c["Port"].as_u64().map_or(String::new(), |p| format!(", port: {{number: {p}}}"));
        let port_match = c["PortMatch"].as_u64().map_or(String::new(), |p| format!("match: [{{port: {p}}}], "));
        let time =
            if word("Time").is_empty() { String::new() } else { format!(", creationTimestamp: \"{}\"", word("Time")) };
        config += &format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: vs{i}, namespace: {}{time}}}\nspec: {{hosts: {matches}, http: [{{{port_match}route: [{{destination: {{host: {}{port}}}}}]}}]}}\n---\n",
            word("Namespace"),
            word("Dest")
        );
    }
    let namespace = v["proxy"]["args"][0].as_str().unwrap_or("default");
    let route_name = v["routeName"].as_str().unwrap_or("80").to_owned();
    let result = (|| {
        let mut store = Store::with_config_domain(MeshConfig::default(), "");
        store.apply(common::try_resources(&config, "default")?.into_iter().map(Change::Apply));
        let inputs = common::inputs(&store, common::sidecar(PROXY_IP, namespace, &[]));
        let rds = translate::routes(&inputs, &[route_name]);
        let r: protos::envoy::config::route::v3::RouteConfiguration = protos::unpack(&rds[0].resource).unwrap();
        let table = proxy_config::parse::route_table(&r).map_err(|e| e.to_string())?;
        for (host, want) in v["expected"].as_object().into_iter().flatten() {
            let found = table.virtual_hosts.iter().find(|h| h.name.rsplit_once(':').is_some_and(|(n, _)| n == host));
            let clusters: Vec<String> = found
                .iter()
                .flat_map(|h| h.routes.iter())
                .filter_map(|r| match &r.action {
                    RouteAction::Forward(f) => match &f.cluster {
                        ClusterSpecifier::Cluster(c) => Some(c.to_string()),
                        _ => None,
                    },
                    _ => None,
                })
                .collect();
            let want: Vec<String> =
                want.as_array().into_iter().flatten().filter_map(|c| c.as_str().map(str::to_owned)).collect();
            if clusters != want {
                return Err(format!("{host}: {clusters:?}, {want:?} wanted"));
            }
        }
        Ok(())
    })();
    report.add(name, result);
}

#[test]
fn simulation() {
    let Some(path) = conformance("networking/simulation.json") else {
        println!("networking-simulation: not run, no conformance data (PROA_CONFORMANCE)");
        return;
    };
    let tables: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let mut report = Report::default();
    for table in &tables {
        let func = table["func"].as_str().unwrap_or_default();
        for case in table["cases"].as_array().into_iter().flatten() {
            let v = &case["v"];
            match func {
                "TestInbound" if v.get("Call").is_some() => inbound(&mut report, v),
                "TestSidecarRoutes" => sidecar_routes(&mut report, v),
                "TestInboundClusters" => inbound_clusters(&mut report, v),
                "TestTLSRouteTermination" => {
                    report.not_served.push(format!("{func}: {}", v["name"].as_str().unwrap_or("")));
                }
                _ => scenario(&mut report, func, v),
            }
        }
    }
    println!(
        "{}",
        serde_json::json!({"area": "networking-simulation", "passed": report.passed, "failed": report.failed.len(),
            "allowed": report.allowed, "not_served": report.not_served.len()})
    );
    for n in &report.not_served {
        println!("not served: {n}");
    }
    assert!(report.failed.is_empty(), "{}", report.failed.join("\n"));
}
