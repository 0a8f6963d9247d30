//! What does a sidecar cost at rest, how soon is it ready, and how soon again when its proxy was killed? A local mesh with as many
//! listeners, clusters and endpoints as the operators' notes count, once with our proxy in the agent's process and once with
//! stock Envoy under our agent.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Sizes of the notes.
const LISTENERS: usize = 23;
const CLUSTERS: usize = 33;
const ENDPOINTS: usize = 31;
/// Runs per data plane; the median counts.
const ROUNDS: usize = 5;
/// Until a pod is replaced, and its proxy has done nothing for some time: then it is idle.
const IDLE: Duration = Duration::from_secs(12);

struct Figures {
    rss_kib: u64,
    /// Of it, what is not pages of the programs' own files, which all sidecars of a machine share.
    own_kib: u64,
    ready_ms: u64,
    again_ms: u64,
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
    println!("{:28} {:>10} {:>16} {:>12} {:>22}", "", "RSS", "without files", "ready after", "kill -9, ready after");
    let envoy = envoy.display().to_string();
    for (name, proxy, flags) in [
        ("agent and proxy, one process", "pgrep -f '[a]gent proxy'", &[][..]),
        ("agent and stock Envoy", "pgrep -x envoy", &["--data-plane", "envoy", "--envoy-path", envoy.as_str()]),
    ] {
        let rounds = (0..ROUNDS).map(|_| measure(proa, proxy, flags)).collect::<Result<Vec<_>>>()?;
        let median = |figure: fn(&Figures) -> u64| {
            let mut all: Vec<u64> = rounds.iter().map(figure).collect();
            all.sort_unstable();
            all[ROUNDS / 2]
        };
        let (ready, again) = (median(|f| f.ready_ms), median(|f| f.again_ms));
        let [rss, own] = [median(|f| f.rss_kib), median(|f| f.own_kib)].map(|kib| kib as f64 / 1024.0);
        println!("{name:28} {rss:>7.1} MB {own:>13.1} MB {ready:>9} ms {again:>19} ms");
    }
    Ok(())
}

/// Ends the process that `find` prints and looks until the pod says again that it is ready; prints milliseconds. In one shell, so
/// that no start of a command lies between the end and the first look.
fn killed(find: &str) -> String {
    let look = "curl -sf -m 0.2 -o /dev/null localhost:15021/healthz/ready";
    format!(
        "kill -9 $({find}); t=$(date +%s%N); while {look}; do :; done; until {look}; do sleep 0.005; done; \
         echo $((($(date +%s%N)-t)/1000000))"
    )
}

fn measure(proa: &Path, proxy: &str, flags: &[&str]) -> Result<Figures> {
    let state = std::env::temp_dir().join(format!("proa-rest-{}", std::process::id()));
    let manifests = state.join("manifests");
    std::fs::create_dir_all(&manifests)?;
    std::fs::write(manifests.join("world.yaml"), world())?;
    let mesh = Mesh { proa, state };
    let state = mesh.state.display().to_string();
    let folder = manifests.display().to_string();
    let up = ["up", &folder, "--name", "bench", "--state-dir", &state, "--gateway-port", "0", "--detach", "--quiet"];
    mesh.run(&[&up, flags].concat())?;
    // The first pod came with the control plane; one that finds it there is measured.
    let pods = mesh.run(&["get", "pods", "-l", "app=client", "-o", "jsonpath={.items[0].metadata.name}"])?;
    mesh.run(&["delete", "pod", pods.trim()])?;
    std::thread::sleep(IDLE);
    let exec = |script: &str| mesh.run(&["exec", "deploy/client", "-c", "istio-proxy", "--", "sh", "-c", script]);
    // Everything in the container but the shell that looks.
    let rss = exec("for p in $(pgrep -f '[a]gent proxy') $(pgrep -x envoy); do cat /proc/$p/status; done")?;
    let sum = |name: &str| -> u64 {
        rss.lines().filter_map(|l| l.strip_prefix(name)?.split_whitespace().next()?.parse::<u64>().ok()).sum()
    };
    let (rss_kib, own_kib) = (sum("VmRSS:"), sum("RssAnon:"));
    let metrics = exec("curl -s localhost:15020/metrics")?;
    let ready =
        metrics.lines().find_map(|l| l.strip_prefix("istio_agent_startup_duration_seconds ")?.parse::<f64>().ok());
    let ready = ready.context("the agent says no startup_duration_seconds")?;
    let lines = |kind: &str| anyhow::Ok(mesh.run(&["proxy-config", kind, "deploy/client"])?.lines().count() - 1);
    // Its lines are filter chains.
    let listeners = mesh.run(&["proxy-config", "listeners", "deploy/client", "-o", "json"])?;
    let listeners = serde_json::from_str::<Vec<serde_json::Value>>(&listeners)?.len();
    let sizes = [listeners, lines("clusters")?, lines("endpoints")?];
    if sizes != [LISTENERS, CLUSTERS, ENDPOINTS] {
        bail!("the generated mesh has {sizes:?} listeners, clusters and endpoints");
    }
    let again = exec(&killed(proxy))?;
    let again_ms = again.trim().parse().with_context(|| format!("milliseconds, got {again:?}"))?;
    Ok(Figures { rss_kib, own_kib, ready_ms: (ready * 1000.0).round() as u64, again_ms })
}

/// A client, and services so that its proxy has the wanted sizes: the ports of a service are listeners, its subsets clusters.
fn world() -> String {
    let mut out = String::from(
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: default, labels: {istio-injection: enabled}}\n---\n\
         apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: client}\nspec:\n  selector: {matchLabels: {app: client}}\n  \
         template:\n    metadata: {labels: {app: client}}\n    spec: {containers: [{name: client, image: proa/sleep}]}\n",
    );
    for i in 0..SERVICES {
        let (number, protocol) = (9000 + i, if i % 2 == 0 { "HTTP" } else { "TCP" });
        let endpoint = |at: usize| format!("{{address: 10.201.{at}.{}, labels: {{version: v1}}}}", i + 1);
        let endpoints =
            if (SUBSETS..SUBSETS + PAIRS).contains(&i) { vec![endpoint(0), endpoint(1)] } else { vec![endpoint(0)] };
        out.push_str(&format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: s{i}}}\nspec:\n  hosts: [s{i}.example.com]\n  \
             addresses: [10.200.0.{}]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  ports: [{{number: {number}, name: {}, protocol: {protocol}}}]\n  \
             endpoints: [{}]\n",
            i + 1,
            protocol.to_lowercase(),
            endpoints.join(", "),
        ));
        if i < SUBSETS {
            out.push_str(&format!(
                "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: s{i}}}\nspec:\n  host: s{i}.example.com\n  \
                 subsets: [{{name: v1, labels: {{version: v1}}}}]\n"
            ));
        }
    }
    out
}

/// Services of the generated world, each a listener, a cluster and an endpoint; what the mesh itself has makes up the rest.
const SERVICES: usize = 10;
/// How many of them have a subset: a cluster and an endpoint more.
const SUBSETS: usize = 6;
/// How many of the others have a second endpoint.
const PAIRS: usize = 3;
