//! A thousand delta clients, each with a connection of its own, that ask for what a sidecar asks for and acknowledge
//! everything; and the questions put to the server about them. Clients read of a response what its answer takes: they
//! share two cores with the server, and what a thousand proxies do with their configuration is not its cost.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prost::Message as _;
use prost::bytes::Buf as _;
use protos::envoy::config::core::v3::Node;
use protos::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use tokio_stream::StreamExt as _;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Endpoint;
use xds::server::Kind;

use crate::mesh;

const ROUNDS: usize = 10;

struct Server {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Server {
    fn start() -> anyhow::Result<(Server, u16)> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("serve")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let mut server = Server { child, input, output };
        let first = server.line()?;
        let (port, snapshot_ms) = first.trim().split_once(' ').unwrap_or((first.trim(), ""));
        println!("snapshot of the whole mesh: {snapshot_ms} ms");
        let port = port.parse()?;
        Ok((server, port))
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line)
    }

    fn ask(&mut self, command: &str) -> anyhow::Result<String> {
        writeln!(self.input, "{command}")?;
        self.line()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn run() -> anyhow::Result<()> {
    let (mut server, port) = Server::start()?;
    let settled = || std::thread::sleep(controlplane::memory::QUIET * 3);
    settled();
    println!("with nobody connected: {}", server.ask("memory")?.trim());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let (received, complete) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    for n in 0..mesh::namespaces() {
        for p in 0..mesh::PODS {
            runtime.spawn(client(port, n, p, Arc::clone(&received), Arc::clone(&complete)));
        }
    }
    let wanted = (mesh::namespaces() * mesh::PODS) as u64;
    let start = std::time::Instant::now();
    let wait = |what: &mut dyn FnMut() -> anyhow::Result<u64>, pause| -> anyhow::Result<()> {
        while what()? < wanted {
            anyhow::ensure!(start.elapsed() < Duration::from_secs(300), "not all clients got what they asked for");
            std::thread::sleep(Duration::from_millis(pause));
        }
        Ok(())
    };
    // Asking the server costs it more than a push.
    wait(&mut || Ok(complete.load(Ordering::Relaxed)), 10)?;
    let took = start.elapsed().as_secs_f64();
    let gb = received.load(Ordering::Relaxed) as f64 / 1e9;
    println!("{wanted} clients complete after {took:.1} s, {gb:.2} GB");
    wait(&mut || Ok(server.ask("connected")?.trim().parse()?), 500)?;
    settled();
    println!("with all connected: {}", server.ask("memory")?.trim());
    for what in ["route", "endpoint", "service"] {
        let (mut all, mut cpu) = (Vec::new(), Vec::new());
        let bytes = received.load(Ordering::Relaxed);
        for round in 0..ROUNDS {
            std::thread::sleep(Duration::from_millis(300));
            let took = server.ask(&format!("{what} {round}"))?;
            anyhow::ensure!(!took.starts_with("only"), "{what} {round}: {took}");
            let mut took: Vec<f64> = took.split_whitespace().filter_map(|t| t.parse().ok()).collect();
            anyhow::ensure!(!took.is_empty(), "{what} {round}: no answer");
            cpu.push(took.remove(0));
            took.sort_by(f64::total_cmp);
            all.push(took);
        }
        let per_round = (received.load(Ordering::Relaxed) - bytes) / ROUNDS as u64;
        let at = |share: f64| -> Vec<f64> {
            let mut of: Vec<f64> =
                all.iter().filter_map(|t| t.get((t.len() as f64 * share) as usize)).copied().collect();
            of.sort_by(f64::total_cmp);
            of
        };
        let (p50, p99) = (at(0.5), at(0.99));
        cpu.sort_by(f64::total_cmp);
        println!(
            "{what}: acknowledged by {} clients; p50 {:.1} ms, p99 {:.1} ms (median of {ROUNDS} changes), worst p99 {:.1} ms, {:.0} ms CPU of the server, {} kB in all",
            all.last().map_or(0, Vec::len),
            p50[p50.len() / 2],
            p99[p99.len() / 2],
            p99.last().copied().unwrap_or_default(),
            cpu[cpu.len() / 2],
            per_round / 1000,
        );
    }
    settled();
    println!("after all changes: {}", server.ask("memory")?.trim());
    Ok(())
}

/// A replica of the first service of a namespace.
fn node(n: usize, p: usize) -> Node {
    use prost_types::value::Kind as K;
    let text = |t: String| prost_types::Value { kind: Some(K::StringValue(t)) };
    let labels = [("app".to_owned(), text("s0".to_owned())), ("version".to_owned(), text("v1".to_owned()))];
    let labels = prost_types::Struct { fields: labels.into_iter().collect() };
    let fields = [
        ("NAMESPACE".to_owned(), text(format!("n{n}"))),
        ("NAME".to_owned(), text(format!("s0-{p}"))),
        ("INSTANCE_IPS".to_owned(), text(mesh::ip(n, 0, p))),
        ("LABELS".to_owned(), prost_types::Value { kind: Some(K::StructValue(labels)) }),
    ];
    Node {
        id: format!("sidecar~{}~s0-{p}.n{n}~n{n}.svc.cluster.local", mesh::ip(n, 0, p)),
        metadata: Some(prost_types::Struct { fields: fields.into_iter().collect() }),
        ..Default::default()
    }
}

/// What a client reads of a response; prost skips the rest without copying it.
#[derive(Clone, PartialEq, prost::Message)]
struct Answered {
    #[prost(message, repeated, tag = "2")]
    resources: Vec<Named>,
    #[prost(string, tag = "4")]
    type_url: String,
    #[prost(string, tag = "5")]
    nonce: String,
}

/// What a client reads of a resource.
#[derive(Clone, PartialEq, prost::Message)]
struct Named {
    #[prost(string, tag = "3")]
    name: String,
}

/// Counts what is received.
#[derive(Clone)]
struct Light(Arc<AtomicU64>);

impl Codec for Light {
    type Encode = DeltaDiscoveryRequest;
    type Decode = Answered;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        self.clone()
    }
    fn decoder(&mut self) -> Self {
        self.clone()
    }
}

impl Encoder for Light {
    type Item = DeltaDiscoveryRequest;
    type Error = Status;
    fn encode(&mut self, request: DeltaDiscoveryRequest, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        request.encode(out).map_err(|e| Status::internal(e.to_string()))
    }
}

impl Decoder for Light {
    type Item = Answered;
    type Error = Status;
    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<Answered>, Status> {
        self.0.fetch_add(bytes.remaining() as u64, Ordering::Relaxed);
        Answered::decode(bytes).map(Some).map_err(|e| Status::internal(e.to_string()))
    }
}

const DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/// The four types that a client asks for.
const TYPES: usize = 4;

async fn client(
    port: u16,
    n: usize,
    p: usize,
    received: Arc<AtomicU64>,
    complete: Arc<AtomicU64>,
) -> anyhow::Result<()> {
    let channel = Endpoint::from_shared(format!("http://127.0.0.1:{port}"))?
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(4 << 20)
        .connect()
        .await?;
    let (up, outbound) = tokio::sync::mpsc::channel::<DeltaDiscoveryRequest>(16);
    let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(1 << 30);
    let request = |kind: Kind| DeltaDiscoveryRequest { type_url: kind.type_url().into(), ..Default::default() };
    up.send(DeltaDiscoveryRequest { node: Some(node(n, p)), ..request(Kind::Cluster) }).await?;
    up.send(request(Kind::Listener)).await?;
    let outbound = tonic::Request::new(tokio_stream::wrappers::ReceiverStream::new(outbound));
    client.ready().await?;
    let mut inbound = client.streaming(outbound, DELTA.parse()?, Light(received)).await?.into_inner();
    let mut asked = [false; 2];
    let mut seen = BTreeSet::new();
    while let Some(response) = inbound.next().await {
        let response = response?;
        let kind = Kind::from_type_url(&response.type_url);
        let acknowledge =
            DeltaDiscoveryRequest { type_url: response.type_url, response_nonce: response.nonce, ..Default::default() };
        up.send(acknowledge).await?;
        if seen.len() < TYPES && seen.insert(kind) && seen.len() == TYPES {
            complete.fetch_add(1, Ordering::Relaxed);
        }
        let (wanted, names): (Kind, Vec<String>) = match kind {
            Some(Kind::Cluster) if !asked[0] => {
                let names = response.resources.into_iter().map(|r| r.name);
                (Kind::Endpoint, names.filter(|n| n.starts_with("outbound|")).collect())
            }
            Some(Kind::Listener) if !asked[1] => {
                (Kind::Route, (0..mesh::PORTS).map(|p| (8000 + p).to_string()).collect())
            }
            _ => continue,
        };
        asked[usize::from(wanted == Kind::Route)] = true;
        up.send(DeltaDiscoveryRequest { resource_names_subscribe: names, ..request(wanted) }).await?;
    }
    Ok(())
}
