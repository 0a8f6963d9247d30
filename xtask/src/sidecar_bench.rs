//! What does a sidecar cost at rest, and how soon is it ready? A local mesh with as many listeners, clusters and endpoints as the
//! operators' notes count, once with our proxy in the agent's process and once with stock Envoy under our agent.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Sizes of the notes: lines of `proxy-config`, without the heading.
const LISTENERS: usize = 23;
const CLUSTERS: usize = 33;
const ENDPOINTS: usize = 31;
/// Runs per data plane; the median counts.
const ROUNDS: usize = 5;
/// A proxy that has done nothing for this long is idle.
const IDLE: Duration = Duration::from_secs(5);

struct Figures {
    rss_kib: u64,
    ready_ms: u64,
    sizes: [usize; 3],
}

/// A mesh that is ended when dropped.
struct Mesh<'a> {
    proa: &'a Path,
    state: PathBuf,
}

impl Mesh<'_> {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.proa);
        command.args(args).env("PROA_MESH", "bench").env("PROA_STATE_DIR", &self.state).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Result<String> {
        let output = self.command(args).output()?;
        if !output.status.success() {
            bail!("proa {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Mesh<'_> {
    fn drop(&mut self) {
        let _ = self.command(&["down"]).output();
        let _ = std::fs::remove_dir_all(&self.state);
    }
}

pub fn run(proa: &Path, envoy: &Path) -> Result<()> {
    println!(
        "sidecar at rest: {LISTENERS} listeners, {CLUSTERS} clusters, {ENDPOINTS} endpoints; median of {ROUNDS} runs"
    );
    println!("{:28} {:>10} {:>12}   listeners/clusters/endpoints", "", "RSS", "ready after");
    let envoy = envoy.display().to_string();
    for (name, flags) in [
        ("agent and proxy, one process", &[][..]),
        ("agent and stock Envoy", &["--data-plane", "envoy", "--envoy-path", envoy.as_str()]),
    ] {
        let mut rounds = (0..ROUNDS).map(|_| measure(proa, flags)).collect::<Result<Vec<_>>>()?;
        let sizes = rounds[0].sizes;
        rounds.sort_by_key(|f| f.rss_kib);
        let rss = rounds[ROUNDS / 2].rss_kib;
        rounds.sort_by_key(|f| f.ready_ms);
        let ready = rounds[ROUNDS / 2].ready_ms;
        println!("{name:28} {:>7.1} MB {ready:>9} ms   {sizes:?}", rss as f64 / 1024.0);
    }
    Ok(())
}

fn measure(proa: &Path, flags: &[&str]) -> Result<Figures> {
    let state = std::env::temp_dir().join(format!("proa-bench-{}", std::process::id()));
    let manifests = state.join("manifests");
    std::fs::create_dir_all(&manifests)?;
    std::fs::write(manifests.join("world.yaml"), world())?;
    let mesh = Mesh { proa, state };
    let state = mesh.state.display().to_string();
    let folder = manifests.display().to_string();
    let up = ["up", &folder, "--name", "bench", "--state-dir", &state, "--gateway-port", "0", "--detach", "--quiet"];
    mesh.run(&[&up, flags].concat())?;
    std::thread::sleep(IDLE);
    let exec = |script: &str| mesh.run(&["exec", "deploy/client", "-c", "istio-proxy", "--", "sh", "-c", script]);
    // Everything in the container but the shell that looks.
    let rss = exec("for p in $(pgrep -f '[a]gent proxy') $(pgrep -x envoy); do grep VmRSS /proc/$p/status; done")?;
    let rss_kib = rss.lines().filter_map(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok()).sum();
    let metrics = exec("curl -s localhost:15020/metrics")?;
    let ready =
        metrics.lines().find_map(|l| l.strip_prefix("istio_agent_startup_duration_seconds ")?.parse::<f64>().ok());
    let ready = ready.context("the agent says no startup_duration_seconds")?;
    let lines = |kind: &str| anyhow::Ok(mesh.run(&["proxy-config", kind, "deploy/client"])?.lines().count() - 1);
    let sizes = [lines("listeners")?, lines("clusters")?, lines("endpoints")?];
    Ok(Figures { rss_kib, ready_ms: (ready * 1000.0).round() as u64, sizes })
}

/// A client, and services so that its proxy has the wanted sizes: the ports of a service are listeners, its subsets clusters.
fn world() -> String {
    let mut out = String::from(
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: default, labels: {istio-injection: enabled}}\n---\n\
         apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: client}\nspec:\n  selector: {matchLabels: {app: client}}\n  \
         template:\n    metadata: {labels: {app: client}}\n    spec: {containers: [{name: client, image: proa/sleep}]}\n",
    );
    for i in 0..SERVICES {
        out.push_str(&format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: s{i}}}\nspec:\n  hosts: [s{i}.example.com]\n  \
             addresses: [10.200.0.{}]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  ports: [{{number: {}, name: {}, protocol: {}}}]\n  \
             endpoints: [{{address: 10.201.0.{}}}]\n",
            i + 1,
            9000 + i,
            if i % 2 == 0 { "http" } else { "tcp" },
            if i % 2 == 0 { "HTTP" } else { "TCP" },
            i + 1,
        ));
    }
    out
}

/// Services of the generated world; what the mesh itself has makes up the rest.
const SERVICES: usize = 14;
