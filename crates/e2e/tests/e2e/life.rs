//! How does a local mesh begin and end? Quickly, and without a trace, however it ends.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use e2e::{DataPlane, Mesh, both_planes, eventually, program, root};

both_planes!(warm_start);

/// Six pods: the control plane, the gateway, both versions twice.
fn warm_start(plane: DataPlane) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for name in
        ["nodebook.yaml", "nodebook-gateway.yaml", "variants/nodebook-rule.yaml", "variants/nodebook-service.yaml"]
    {
        let text = std::fs::read_to_string(root().join("examples/nodebook").join(name)).expect("an example");
        let to = folder.path().join(Path::new(name).file_name().expect("a name"));
        std::fs::write(to, text.replace("replicas: 1", "replicas: 2")).expect("a temporary file");
    }
    // Once before, so that programs and libraries are in memory.
    drop(Mesh::up_on(folder.path(), plane, &[]));
    let begun = Instant::now();
    let mesh = Mesh::up_on(folder.path(), plane, &[]);
    let up = begun.elapsed();
    let status = || mesh.get("/version", &[]).map(|r| r.status).ok();
    eventually("the service answers", status, |s| *s == Some(200));
    println!(
        "warm start, {plane:?}: 6 pods ready after {up:.2?}, first successful request after {:.2?}",
        begun.elapsed()
    );
    assert_eq!(mesh.pods().len(), 6);
}

/// A mesh in the foreground, as somebody at a terminal has it.
struct Foreground {
    child: Child,
    program: PathBuf,
    state: PathBuf,
}

impl Foreground {
    fn up(program: &Path, state: &Path) -> Self {
        let child = Command::new(program)
            .args(["up", "--quiet", "--gateway-port", "0", "--name", "life", "--state-dir"])
            .arg(state)
            .arg(root().join("examples/nodebook"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .process_group(0)
            .spawn()
            .expect("proa starts");
        let mesh = Self { child, program: program.to_owned(), state: state.to_owned() };
        eventually(
            "the mesh is up",
            || mesh.run(&["ps", "--json"]),
            |(ok, text)| *ok && text.matches("\"Running\"").count() >= 4,
        );
        mesh
    }

    fn run(&self, args: &[&str]) -> (bool, String) {
        let output = Command::new(&self.program)
            .args(args)
            .env("PROA_MESH", "life")
            .env("PROA_STATE_DIR", &self.state)
            .stdin(Stdio::null())
            .output()
            .expect("proa runs");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().expect("kill runs").success());
    }
}

/// Processes of a program, mounts below the state folder, network namespaces, and rules of this machine.
#[derive(Debug)]
struct Traces {
    processes: BTreeSet<String>,
    mounts: Vec<String>,
    namespaces: BTreeSet<PathBuf>,
    rules: String,
}

impl Traces {
    fn look(program: &Path, state: &Path) -> Self {
        let (mut processes, mut namespaces) = (BTreeSet::new(), BTreeSet::new());
        for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
            let folder = entry.path();
            // A process that has ended meanwhile, or one of another user, tells nothing.
            if std::fs::read_link(folder.join("exe")).is_ok_and(|exe| exe == program) {
                processes.insert(entry.file_name().to_string_lossy().into_owned());
                namespaces.extend(std::fs::read_link(folder.join("ns/net")));
            }
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let below = state.display().to_string();
        let rules = Command::new("nft").args(["list", "ruleset"]).output().map(|o| o.stdout).unwrap_or_default();
        Self {
            processes,
            mounts: mounts.lines().filter(|l| l.contains(&below)).map(str::to_owned).collect(),
            namespaces,
            rules: String::from_utf8_lossy(&rules).into_owned(),
        }
    }

    /// What came since; what was there before may go by itself.
    fn since(mut self, before: &Self) -> Self {
        self.processes.retain(|p| !before.processes.contains(p));
        self.mounts.retain(|m| !before.mounts.contains(m));
        self.namespaces.retain(|n| !before.namespaces.contains(n));
        self.rules = self.rules.lines().filter(|l| !before.rules.contains(l)).map(|l| format!("{l}\n")).collect();
        self
    }

    fn none(&self) -> bool {
        self.processes.is_empty() && self.mounts.is_empty() && self.namespaces.is_empty() && self.rules.is_empty()
    }
}

#[test]
fn nothing_is_left_behind() {
    let (folder, place) = (tempfile::tempdir(), tempfile::tempdir());
    let (folder, place) = (folder.expect("a temporary folder"), place.expect("a temporary folder"));
    let state = folder.path();
    // Under a path of its own, so that its processes are told from those of other meshes.
    let own = std::fs::canonicalize(place.path()).expect("just made").join("proa");
    std::fs::hard_link(program(), &own).or_else(|_| std::fs::copy(program(), &own).map(drop)).expect("room for a copy");
    let look = || Traces::look(&own, state);
    let before = look();
    let gone = |how: &str| {
        eventually(&format!("nothing is left after {how}"), || look().since(&before), Traces::none);
    };
    let up = || Foreground::up(&own, state);

    let mut mesh = up();
    assert!(!look().since(&before).none(), "a running mesh is seen");
    mesh.signal("-INT");
    assert!(mesh.child.wait().expect("ours").success());
    gone("Ctrl-C");
    assert_eq!(std::fs::read_dir(state).expect("the folder").count(), 0, "Ctrl-C leaves no file");

    let mut mesh = up();
    assert!(mesh.run(&["down"]).0);
    mesh.child.wait().expect("ours");
    gone("down");
    assert_eq!(std::fs::read_dir(state).expect("the folder").count(), 0, "down leaves no file");

    // The sudden end, and a new mesh of the same name on what it left.
    let mut mesh = up();
    mesh.signal("-KILL");
    mesh.child.wait().expect("ours");
    gone("kill -9");
    let mut mesh = up();
    assert!(mesh.run(&["down"]).0);
    mesh.child.wait().expect("ours");
    gone("kill -9, up and down");
    assert_eq!(std::fs::read_dir(state).expect("the folder").count(), 0, "no file is left");
}

/// The user that the test command makes for this (`cargo xtask test e2e`, as root), with subordinate ids of its own.
const ROOTLESS: &str = "proa-test";

/// An ordinary user's mesh, in a user namespace, with mutual TLS and the interception rules of everybody's.
#[test]
fn without_root() {
    let ids = Command::new("id").args(["-u", ROOTLESS]).output().expect("id runs");
    let uid = String::from_utf8_lossy(&ids.stdout).trim().parse::<u32>();
    let (Ok(uid), true) = (uid, Command::new("newuidmap").output().is_ok()) else {
        println!("rootless: did not run, it needs a user {ROOTLESS} with subordinate ids and the package uidmap");
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::os::unix::fs::chown(folder.path(), Some(uid), Some(uid)).expect("we are root");
    let as_user = |args: &[&str]| {
        Command::new("setpriv")
            .args(["--reuid", ROOTLESS, "--regid", ROOTLESS, "--init-groups"])
            .arg(program())
            .args(args)
            .env_remove("XDG_RUNTIME_DIR")
            .env("HOME", folder.path())
            .env("PROA_MESH", "rootless")
            .env("PROA_STATE_DIR", folder.path())
            .current_dir("/")
            .stdin(Stdio::null())
            .output()
            .expect("setpriv runs")
    };
    let example = root().join("examples/httpbin").display().to_string();
    let state = folder.path().display().to_string();
    let up = as_user(&[
        "up",
        &example,
        "--name",
        "rootless",
        "--state-dir",
        &state,
        "--gateway-port",
        "0",
        "--detach",
        "--quiet",
    ]);
    let said = String::from_utf8_lossy(&up.stderr).into_owned();
    if said.contains("user namespaces:") {
        println!("rootless: did not run, this kernel forbids it: {said}");
        return;
    }
    assert!(up.status.success(), "{said}{}", String::from_utf8_lossy(&as_user(&["ps"]).stdout));
    let call = || {
        let out = as_user(&[
            "-n",
            "samples-1",
            "exec",
            "deploy/sleep",
            "--",
            "curl",
            "-s",
            "-m",
            "10",
            "http://httpbin.samples:8000/headers",
        ]);
        String::from_utf8_lossy(&out.stdout).to_lowercase()
    };
    let identity = "uri=spiffe://cluster.local/ns/samples-1/sa/sleep";
    eventually("sleep reaches httpbin over mutual TLS", call, |text| text.contains(identity));
    assert!(as_user(&["down"]).status.success());
}
