//! The control plane of the mesh scenario, driven over its standard input: `route N`, `endpoint N`, `service N` change
//! something and print this process's CPU time for it and how long each connection took to acknowledge; `memory` prints what is resident.

use std::io::{BufRead as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use controlplane::source::ModelSource;
use controlplane::world::{Input, World, run as world_run};
use model::MeshConfig;
use source_file::{Batch, Event};
use tonic::transport::Server;
use xds_server::{AdsService, DebounceOptions, Hub, Options};

use crate::mesh;

pub fn run() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(serve())
}

fn batch(values: impl Iterator<Item = serde_json::Value>) -> Input {
    let resource = |v| api::Resource::from_value(v, None, "default").expect("a resource of this example");
    Input::Files(Batch { events: values.map(|v| Event::Applied(resource(v))).collect(), ..Default::default() })
}

async fn serve() -> anyhow::Result<()> {
    // Logging as in production; the other process sends the lines nowhere.
    telemetry::log::istio::init(telemetry::log::istio::Options {
        levels: telemetry::log::istio::Levels::parse("default:info")?,
        json: false,
        stdout: false,
    });
    let world = World::new(MeshConfig::default());
    let start = Instant::now();
    world.apply(batch(mesh::all()));
    world.publish();
    let snapshot_ms = start.elapsed().as_secs_f64() * 1e3;
    let hub = Hub::new(Arc::new(ModelSource::new(Arc::clone(&world))), Options::default());
    let (inputs, receiver) = tokio::sync::mpsc::channel(64);
    tokio::spawn(controlplane::memory::tend(Arc::clone(&hub)));
    tokio::spawn(world_run(Arc::clone(&world), receiver, Arc::clone(&hub), DebounceOptions::default()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("{} {snapshot_ms:.0}", listener.local_addr()?.port());
    std::io::stdout().flush()?;
    let ads = AdsService::server(Arc::clone(&hub), |_: &_, _: &_| Ok(Vec::new()));
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(Server::builder().add_service(ads).serve_with_incoming(incoming));
    let (lines, mut commands) = tokio::sync::mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if lines.blocking_send(line).is_err() {
                return;
            }
        }
    });
    while let Some(command) = commands.recv().await {
        let mut words = command.split(' ');
        let what = words.next().unwrap_or_default().to_owned();
        let n: usize = words.next().and_then(|n| n.parse().ok()).unwrap_or(0);
        let namespace = n % mesh::namespaces();
        let change = match what.as_str() {
            "memory" => {
                println!("{} MB resident, {} MB of it allocated", resident_kb()? / 1024, crate::live() >> 20);
                std::io::stdout().flush()?;
                continue;
            }
            "connected" => {
                let status = hub.status();
                let synced = |c: &&xds_server::ConnectionStatus| {
                    c.types.len() >= 4 && c.types.iter().all(|t| t.state == xds::server::SyncState::Synced)
                };
                println!("{}", status.iter().filter(synced).count());
                std::io::stdout().flush()?;
                continue;
            }
            "route" => mesh::virtual_service(namespace, 2 + n),
            // Each round another pod goes: what changes nothing is pushed to nobody.
            "endpoint" => mesh::pod(namespace, 5, n / mesh::namespaces() % mesh::PODS, false),
            _ => {
                let mut service = mesh::service(namespace, 5);
                service["spec"]["ports"][0]["appProtocol"] =
                    if (n / mesh::namespaces()).is_multiple_of(2) { "grpc".into() } else { "http".into() };
                service
            }
        };
        let (before, connected, start) = (hub.metrics().convergence.count(), hub.len() as u64, Instant::now());
        let cpu = || crate::clock(libc::CLOCK_PROCESS_CPUTIME_ID);
        let cpu_before = cpu();
        inputs.send(batch([change].into_iter())).await?;
        while hub.metrics().convergence.count() < before + connected && start.elapsed() < Duration::from_secs(30) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let done = hub.metrics().convergence.count() - before;
        let cpu_ms = (cpu() - cpu_before).as_secs_f64() * 1e3;
        if done < connected {
            println!("only {done} of {connected} clients have confirmed it after 30 s");
            std::io::stdout().flush()?;
            continue;
        }
        let took: Vec<f64> =
            hub.status().iter().filter_map(|c| c.convergence.last).map(|t| t.as_secs_f64() * 1e3).collect();
        let took = took.iter().map(|t| format!("{t:.2}"));
        println!("{}", std::iter::once(format!("{cpu_ms:.2}")).chain(took).collect::<Vec<_>>().join(" "));
        std::io::stdout().flush()?;
    }
    Ok(())
}

fn resident_kb() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or_default();
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}
