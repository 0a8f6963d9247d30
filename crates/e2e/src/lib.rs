//! Does the whole mesh do what the operators' notes say? Scenarios on real processes, both data planes.
//!
//! [`Mesh`] starts `proa up` on one of the examples and is driven through the same commands that people type. Absent:
//! knowledge of anything inside; what a scenario asserts is what a person would see.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use testkit::http::{self, Response};

/// Longest wait for a change to reach every proxy: push, acknowledge and apply on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Which proxies the mesh runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DataPlane {
    /// Ours, in one process with the agent.
    Proa,
    /// Stock Envoy under our agent.
    Envoy,
}

/// A local mesh, ended and checked for leftovers when dropped.
pub struct Mesh {
    name: String,
    state: TempDir,
    /// Where the ingress gateway listens on this machine.
    pub gateway: SocketAddr,
}

/// The checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("crates/e2e lies in the workspace").to_owned()
}

/// The binary under test: `PROA_BIN`, else the debug build beside this test.
pub fn program() -> PathBuf {
    if let Some(named) = std::env::var_os("PROA_BIN") {
        return named.into();
    }
    let test = std::env::current_exe().expect("a test knows its own path");
    let built = test.ancestors().nth(2).expect("target/debug/deps/test").join("proa");
    assert!(built.is_file(), "build the binary first: cargo build --package proa ({})", built.display());
    built
}

impl Mesh {
    /// Starts the example of that name; returns when the mesh says that it is ready.
    pub fn up(example: &str, plane: DataPlane) -> Self {
        Self::up_with(example, plane, &[])
    }

    /// The same with further flags.
    pub fn up_with(example: &str, plane: DataPlane, flags: &[&str]) -> Self {
        Self::up_on(&root().join("examples").join(example), plane, flags)
    }

    /// The same with a folder of manifests.
    pub fn up_on(dir: &Path, plane: DataPlane, flags: &[&str]) -> Self {
        static MESHES: AtomicU32 = AtomicU32::new(0);
        let name = format!("e2e{}-{}", std::process::id(), MESHES.fetch_add(1, Ordering::Relaxed));
        let state = TempDir::new().expect("a temporary folder");
        let mut command = Command::new(program());
        command.arg("up").arg(dir).args(["--name", &name, "--gateway-port", "0", "--detach", "--quiet"]);
        command.arg("--state-dir").arg(state.path()).args(flags);
        if plane == DataPlane::Envoy {
            let envoy = std::env::var("PROA_ENVOY").expect("PROA_ENVOY names stock Envoy");
            command.args(["--data-plane", "envoy", "--envoy-path", &envoy]);
        }
        let output = command.stdin(Stdio::null()).output().expect("proa starts");
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let mut mesh = Self { name, state, gateway: ([127, 0, 0, 1], 0).into() };
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "proa up: {text} {said}{}", mesh.proa(&["ps"]));
        let address = text.rsplit("http://").next().unwrap_or_default().trim_end_matches('/');
        mesh.gateway = address.parse().unwrap_or_else(|_| panic!("the gateway's address, got {text:?}"));
        mesh
    }

    /// Runs a command of ours on this mesh.
    pub fn run(&self, args: &[&str]) -> Output {
        self.run_as("proa", args)
    }

    /// The same under another of the program's names (`istioctl`, `kubectl`).
    pub fn run_as(&self, name: &str, args: &[&str]) -> Output {
        use std::os::unix::process::CommandExt;
        Command::new(program())
            .arg0(name)
            .args(args)
            .env("PROA_MESH", &self.name)
            .env("PROA_STATE_DIR", self.state.path())
            .current_dir(root())
            .stdin(Stdio::null())
            .output()
            .expect("proa runs")
    }

    /// Runs a command that must succeed; what it printed.
    pub fn proa(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "proa {args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// Runs a command line as people type it, `istioctl …` or `kubectl …`; it must succeed. What it printed.
    pub fn typed(&self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        let output = self.run_as(words[0], &words[1..]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{line}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// A folder of this mesh for files of a test.
    pub fn folder(&self) -> &Path {
        self.state.path()
    }

    /// Applies manifests given as text.
    pub fn apply_text(&self, manifests: &str) {
        let file = self.state.path().join("applied.yaml");
        std::fs::write(&file, manifests).expect("a temporary file");
        self.proa(&["apply", "-f", &file.display().to_string()]);
    }

    /// GETs a path through the gateway.
    pub fn get(&self, path: &str, headers: &[&str]) -> std::io::Result<Response> {
        http::get(self.gateway, path, headers)
    }

    /// Runs a command in a pod; its output, whatever its exit code. A container is named by `-c NAME --` before the command.
    pub fn exec(&self, namespace: &str, pod: &str, command: &[&str]) -> String {
        let mut args = vec!["-n", namespace, "exec", pod];
        if !command.contains(&"--") {
            args.push("--");
        }
        args.extend(command);
        String::from_utf8_lossy(&self.run(&args).stdout).into_owned()
    }

    /// What a container has written, also of a pod that is gone.
    pub fn log(&self, namespace: &str, pod: &str, container: &str) -> String {
        let file =
            self.state.path().join(&self.name).join("logs").join(namespace).join(pod).join(format!("{container}.log"));
        std::fs::read_to_string(file).unwrap_or_default()
    }

    /// Pods as `(namespace, name)`.
    pub fn pods(&self) -> Vec<(String, String)> {
        let listed = self.proa(&["get", "pods", "-A", "-o", "json"]);
        let listed: serde_json::Value = serde_json::from_str(&listed).expect("a list as JSON");
        let text = |v: &serde_json::Value| v.as_str().unwrap_or_default().to_owned();
        let items = listed["items"].as_array().cloned().unwrap_or_default();
        items.iter().map(|p| (text(&p["metadata"]["namespace"]), text(&p["metadata"]["name"]))).collect()
    }

    /// The pod of that app (and, where given, version), as `kubectl get pod -l` would find it.
    pub fn pod(&self, namespace: &str, prefix: &str) -> String {
        let pods = self.pods();
        let found = pods.iter().find(|(ns, name)| ns == namespace && name.starts_with(prefix));
        found.unwrap_or_else(|| panic!("no pod {prefix}* in {namespace}: {pods:?}")).1.clone()
    }

    /// The admin page of a pod's proxy.
    pub fn admin(&self, namespace: &str, pod: &str, path: &str) -> String {
        let url = format!("localhost:15000/{path}");
        let args = ["-n", namespace, "exec", pod, "-c", "istio-proxy", "--", "curl", "-s", &url];
        String::from_utf8_lossy(&self.run(&args).stdout).into_owned()
    }

    /// Every proxy's rejected updates, as `pod: stat`; empty where each took all that it was sent.
    pub fn rejected_updates(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (namespace, pod) in self.pods() {
            let stats = self.admin(&namespace, &pod, "stats?filter=update_rejected");
            let moved = stats.lines().filter(|l| !l.ends_with(": 0"));
            found.extend(moved.map(|l| format!("{pod}: {l}")));
        }
        found
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let listed = self.run(&["ps"]);
            eprintln!("{}", String::from_utf8_lossy(&listed.stdout));
            for (namespace, pod) in self.pods() {
                let log = self.run(&["-n", &namespace, "logs", &pod, "-c", "istio-proxy"]);
                let log = String::from_utf8_lossy(&log.stdout);
                let tail: Vec<&str> = log.lines().rev().take(8).collect();
                eprintln!("--- {namespace}/{pod}\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
            }
        }
        let output = self.run(&["down"]);
        if !std::thread::panicking() {
            assert!(output.status.success(), "proa down: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

/// Waits until `what` holds, trying again as often as a person would look. Panics with what was seen last.
pub fn eventually<T: std::fmt::Debug>(what: &str, mut look: impl FnMut() -> T, good: impl Fn(&T) -> bool) -> T {
    let start = Instant::now();
    loop {
        let seen = look();
        if good(&seen) {
            return seen;
        }
        assert!(start.elapsed() < PATIENCE, "{what}: last seen {seen:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A scenario for each data plane, as a test of its own.
#[macro_export]
macro_rules! both_planes {
    ($($scenario:ident),* $(,)?) => { $(
        mod $scenario {
            #[test]
            fn proa() { super::$scenario($crate::DataPlane::Proa) }
            #[test]
            fn envoy() { super::$scenario($crate::DataPlane::Envoy) }
        }
    )* };
}
