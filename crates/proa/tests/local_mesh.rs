//! Does a local mesh do what it says, and leave nothing behind? Pods, names, service addresses, commands, endings; the
//! sidecar's part is the end-to-end suite's. Needs root; says so and passes elsewhere.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const PROA: &str = env!("CARGO_BIN_EXE_proa");
/// Generous: machines that build at the same time are slow.
const PATIENCE: Duration = Duration::from_secs(60);
const MANIFESTS: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: echo}
spec: {selector: {app: echo}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: echo}
spec:
  replicas: 2
  template:
    metadata: {labels: {app: echo}}
    spec: {containers: [{name: echo, image: echo, ports: [{containerPort: 8080}], readinessProbe: {httpGet: {path: /, port: 8080}}}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: words}
data: {greeting: hello}
---
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {tier: front}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - name: c
      image: any
      command: [sleep, infinity]
      env: [{name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}, {name: GREETING, valueFrom: {configMapKeyRef: {name: words, key: greeting}}}]
      volumeMounts: [{name: words, mountPath: /etc/words}]
  volumes: [{name: words, configMap: {name: words}}]
"#;

/// A mesh of its own for one test.
struct Mesh {
    folder: PathBuf,
    name: &'static str,
    up: Option<Child>,
}

impl Mesh {
    /// Starts one; `None` where that is not allowed.
    fn start(name: &'static str) -> Option<Self> {
        let root = Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout == b"0\n");
        if !root {
            println!("local mesh: did not run, needs root");
            return None;
        }
        let folder = std::env::temp_dir().join(format!("proa-test-{name}-{}", std::process::id()));
        fs::create_dir_all(folder.join("manifests")).expect("a temporary folder");
        fs::write(folder.join("manifests/all.yaml"), MANIFESTS).expect("writable");
        let mut mesh = Self { folder, name, up: None };
        mesh.up();
        Some(mesh)
    }

    fn up(&mut self) {
        let up = Command::new(PROA)
            .args(["up", "--gateway-port", "0", "--quiet", "--mesh", self.name, "--state-dir"])
            .arg(self.folder.join("state"))
            .arg(self.folder.join("manifests"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        self.up = Some(up.expect("proa starts"));
        self.until("the pods are ready", || {
            let pods = self.text(&["get", "pods"]);
            pods.lines().filter(|line| line.contains("1/1") && line.contains("Running")).count() == 3
        });
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let state = self.folder.join("state");
        let mut command = Command::new(PROA);
        command.env("PROA_MESH", self.name).env("PROA_STATE_DIR", state).args(arguments);
        command.output().expect("proa runs")
    }

    fn text(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }

    fn in_client(&self, command: &str) -> String {
        self.text(&["exec", "client", "--", "sh", "-c", command]).trim().to_owned()
    }

    fn until(&self, what: &str, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition() {
            assert!(Instant::now() < deadline, "waited for: {what}; {}", self.text(&["ps"]));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends the starter as suddenly as possible.
    fn kill(&mut self) {
        if let Some(mut up) = self.up.take() {
            let _ = up.kill();
            let _ = up.wait();
        }
    }

    /// Processes whose command line names this mesh's state folder or that live in its namespaces.
    fn processes(&self) -> usize {
        let state = self.folder.join("state").display().to_string();
        let ours =
            |process: &Path| fs::read_to_string(process.join("mountinfo")).is_ok_and(|mounts| mounts.contains(&state));
        fs::read_dir("/proc").expect("/proc").flatten().filter(|entry| ours(&entry.path())).count()
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        let _ = self.run(&["down"]);
        self.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn pods_names_addresses_and_commands() {
    let Some(mesh) = Mesh::start("words") else { return };
    // Environment, volumes, names and service addresses.
    assert_eq!(mesh.in_client("echo $POD $GREETING; cat /etc/words/greeting"), "client hello\nhello");
    assert!(mesh.in_client("curl -s -m 5 http://echo/a").contains("\"path\": \"/a\""));
    assert!(mesh.in_client("curl -s -m 5 http://echo.default.svc.cluster.local/b").contains("\"path\": \"/b\""));
    assert_ne!(mesh.in_client("curl -s -m 5 http://nobody/ ; echo $?"), "0");
    assert!(mesh.in_client("ip route").contains("default via"), "a network of its own");
    assert_eq!(
        mesh.in_client("cat /proc/1/cmdline | tr '\\0' ' '"),
        "/proc/self/exe __pod pause",
        "processes of its own"
    );
    // Exit codes, selectors, jsonpath, refusals that say what helps.
    assert_eq!(mesh.run(&["exec", "client", "--", "sh", "-c", "exit 7"]).status.code(), Some(7));
    assert_eq!(mesh.text(&["get", "pod", "-l", "tier=front", "-o", "jsonpath={.items..metadata.name}"]), "client");
    assert!(mesh.text(&["exec", "clien", "--", "true"]).contains("there are: client"));
    assert!(mesh.text(&["create", "-f", "nodebook-rule.yaml"]).contains("destinationrule/nodebook created"));
    assert!(mesh.text(&["create", "-f", "nodebook-rule.yaml"]).contains("already exists"));
    assert!(mesh.text(&["delete", "-f", "nodebook-rule.yaml"]).contains("deleted"));
    // Scale, and a change of the manifests.
    mesh.run(&["patch", "deploy/echo", "-p", r#"{"spec":{"replicas":3}}"#]);
    mesh.until("three pods", || mesh.text(&["get", "deploy", "echo"]).contains("3/3"));
    fs::write(mesh.folder.join("manifests/all.yaml"), MANIFESTS.replace("replicas: 2", "replicas: 1"))
        .expect("writable");
    mesh.until("one pod", || mesh.text(&["get", "deploy", "echo"]).contains("1/1"));
    // A broken file is reported, and nothing else changes.
    fs::write(mesh.folder.join("manifests/broken.yaml"), "kind: [\n").expect("writable");
    mesh.until("the problem is shown", || mesh.text(&["ps"]).contains("broken.yaml:"));
    assert!(mesh.in_client("curl -s -m 5 http://echo/c").contains("\"path\": \"/c\""));
}

#[test]
fn down_leaves_nothing() {
    let Some(mesh) = Mesh::start("down") else { return };
    assert!(mesh.text(&["down"]).contains("Mesh ended."));
    mesh.until("no process is left", || mesh.processes() == 0);
    assert!(fs::read_dir(mesh.folder.join("state")).expect("given folders stay").next().is_none());
}

#[test]
fn a_killed_mesh_leaves_no_process_and_starts_again() {
    let Some(mut mesh) = Mesh::start("killed") else { return };
    mesh.kill();
    mesh.until("no process is left", || mesh.processes() == 0);
    mesh.up();
    assert!(mesh.in_client("curl -s -m 5 http://echo/again").contains("\"path\": \"/again\""));
}
