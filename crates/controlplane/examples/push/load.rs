//! A thousand delta clients, each with a connection of its own, that ask for what a sidecar asks for and acknowledge
//! everything; and the questions put to the server about them.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use protos::envoy::config::core::v3::Node;
use protos::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use protos::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use tokio_stream::StreamExt as _;
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
    let empty_kb: u64 = server.ask("memory")?.trim().parse()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let received = Arc::new(AtomicU64::new(0));
    for n in 0..mesh::NAMESPACES {
        for p in 0..mesh::PODS {
            runtime.spawn(client(port, n, p, Arc::clone(&received)));
        }
    }
    let wanted = mesh::NAMESPACES * mesh::PODS;
    let start = std::time::Instant::now();
    while server.ask("connected")?.trim().parse::<usize>()? < wanted {
        anyhow::ensure!(start.elapsed() < Duration::from_secs(300), "not all clients got what they asked for");
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("{wanted} clients complete after {:.1} s", start.elapsed().as_secs_f64());
    for what in ["route", "endpoint", "service"] {
        let mut all = Vec::new();
        let bytes = received.load(Ordering::Relaxed);
        for round in 0..ROUNDS {
            std::thread::sleep(Duration::from_millis(300));
            let took = server.ask(&format!("{what} {round}"))?;
            let mut took: Vec<f64> = took.split_whitespace().filter_map(|t| t.parse().ok()).collect();
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
        println!(
            "{what}: acknowledged by {} clients; p50 {:.1} ms, p99 {:.1} ms (median of {ROUNDS} changes), worst p99 {:.1} ms, {} kB in all",
            all.last().map_or(0, Vec::len),
            p50[p50.len() / 2],
            p99[p99.len() / 2],
            p99.last().copied().unwrap_or_default(),
            per_round / 1000,
        );
    }
    let kb: u64 = server.ask("memory")?.trim().parse()?;
    println!("resident: {} MB with all connected, {} MB with none", kb / 1024, empty_kb / 1024);
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

async fn client(port: u16, n: usize, p: usize, received: Arc<AtomicU64>) -> anyhow::Result<()> {
    let channel = Endpoint::from_shared(format!("http://127.0.0.1:{port}"))?
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(4 << 20)
        .connect()
        .await?;
    let (up, outbound) = tokio::sync::mpsc::channel::<DeltaDiscoveryRequest>(16);
    let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(1 << 30);
    let request = |kind: Kind| DeltaDiscoveryRequest { type_url: kind.type_url().into(), ..Default::default() };
    up.send(DeltaDiscoveryRequest { node: Some(node(n, p)), ..request(Kind::Cluster) }).await?;
    up.send(request(Kind::Listener)).await?;
    let outbound = tokio_stream::wrappers::ReceiverStream::new(outbound);
    let mut inbound = client.delta_aggregated_resources(outbound).await?.into_inner();
    let mut asked = [false; 2];
    while let Some(response) = inbound.next().await {
        let response = response?;
        let bytes = response.resources.iter().filter_map(|r| r.resource.as_ref()).map(|a| a.value.len()).sum::<usize>();
        received.fetch_add(bytes as u64, Ordering::Relaxed);
        let kind = Kind::from_type_url(&response.type_url);
        let acknowledge = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..Default::default()
        };
        up.send(acknowledge).await?;
        let (wanted, names): (Kind, Vec<String>) = match kind {
            Some(Kind::Cluster) if !asked[0] => (
                Kind::Endpoint,
                response.resources.iter().map(|r| r.name.clone()).filter(|n| n.starts_with("outbound|")).collect(),
            ),
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
