//! How does a mesh start? Takes the lock, opens what must stay in the machine's network, puts the supervisor into
//! namespaces of its own (all of them, so that one dead process takes everything with it), then shows progress.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal, Read, Write};
use std::net::{IpAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::api::{Client, Layout};
use crate::gateway::Door;
use crate::report;
use crate::sidecar::{DataPlane, Proxies};
use crate::supervisor::{Setup, fresh_state, run, write_example};
use crate::{dns, egress};

/// How long `up` waits for every pod before it says which ones are missing.
const READY_MAX: Duration = Duration::from_secs(60);
/// A mesh whose containers keep ending is reported after this long already.
const HOPELESS_AFTER: Duration = Duration::from_secs(10);
/// Restarts of a pod that is not ready after which it counts as such.
const HOPELESS_RESTARTS: u64 = 5;
/// How long `down` waits for the mesh to end by itself.
const DOWN_MAX: Duration = Duration::from_secs(10);
/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// Ports of the ingress gateway's pod.
const HTTP: u16 = 8080;
const HTTPS: u16 = 8443;

/// What `proa up` was asked.
#[derive(Clone, Debug)]
pub struct Up {
    /// Manifests; the bundled example if not given.
    pub manifests: Option<PathBuf>,
    /// Which mesh.
    pub layout: Layout,
    /// Return once the mesh is ready, and leave it running.
    pub detach: bool,
    /// Which program is every proxy.
    pub data_plane: DataPlane,
    /// Address on which the gateway is reachable.
    pub gateway_address: IpAddr,
    /// Its HTTP port; 0 picks a free one.
    pub gateway_port: u16,
    /// Its HTTPS port, if wanted.
    pub gateway_https_port: Option<u16>,
    /// How long workload certificates live (`10s`, `1h`); the agent's default if not given.
    pub certificate_lifetime: Option<String>,
    /// Say nothing but the gateway's address.
    pub quiet: bool,
}

/// Starts the mesh; returns when it has ended, or with `detach` when it is ready.
///
/// Must be called while the process has one thread. The result is the exit code.
///
/// # Errors
/// What is in the way and what helps, in words.
pub fn up(options: &Up) -> Result<u8, String> {
    let layout = &options.layout;
    let mut manifests = options.manifests.clone();
    if let Some(folder) = &manifests {
        let found = fs::canonicalize(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        if !found.is_dir() && !found.is_file() {
            return Err(format!("{}: neither a folder nor a file of manifests", folder.display()));
        }
        manifests = Some(found);
    } else if Path::new("examples/nodebook/nodebook.yaml").exists() {
        manifests = fs::canonicalize("examples/nodebook").ok();
    }
    // Before anything is opened that it would hold.
    let outside = egress::stay().map_err(|error| format!("a process for connections to the outside: {error}"))?;
    let program = std::env::current_exe().map_err(|error| format!("this program's path: {error}"))?;
    let lock = lock(layout)?;
    fresh_state(layout).map_err(|error| format!("{}: {error}", layout.folder.display()))?;
    open_to_pods(layout);
    let manifests = match manifests {
        Some(folder) => folder,
        None => {
            let folder = layout.folder.join("examples");
            write_example(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
            folder.join("nodebook")
        }
    };
    let mut doors = vec![door(options.gateway_address, options.gateway_port, HTTP, "--gateway-port")?];
    if let Some(port) = options.gateway_https_port {
        doors.push(door(options.gateway_address, port, HTTPS, "--gateway-https-port")?);
    }
    let setup = Setup {
        layout: layout.clone(),
        manifests,
        program,
        proxies: Proxies {
            data_plane: options.data_plane.clone(),
            certificate_lifetime: options.certificate_lifetime.clone(),
        },
        doors,
        resolver: dns::upstream(),
        outside,
    };
    let supervisor = spawn(setup, options.detach)?;
    let _ = fs::write(layout.folder.join("pid"), format!("{supervisor}\n"));
    let outcome = follow(options, supervisor);
    drop(lock);
    outcome
}

fn lock(layout: &Layout) -> Result<Flock<File>, String> {
    let path = layout.lock();
    let open = || {
        path.parent().map(fs::create_dir_all).transpose()?;
        OpenOptions::new().create(true).write(true).truncate(false).open(&path)
    };
    let file = open().map_err(|error| format!("{}: {error} (another folder: --state-dir)", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        Errno::EWOULDBLOCK => format!(
            "a mesh named {:?} is running already; end it with: proa down{}, or start another: proa up --name NAME",
            layout.name,
            if layout.name == "default" { String::new() } else { format!(" --mesh {}", layout.name) }
        ),
        other => format!("{}: {other}", path.display()),
    })
}

/// Pods of other users must be able to pass through the state folder; what is secret in it is mounted, not reached.
fn open_to_pods(layout: &Layout) {
    for folder in [Some(layout.folder.as_path()), layout.folder.parent()].into_iter().flatten() {
        let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o755));
    }
}

fn door(address: IpAddr, port: u16, target: u16, flag: &str) -> Result<Door, String> {
    let listener = TcpListener::bind((address, port)).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("port {port} on this machine is taken; choose another: {flag} PORT (0 for any)")
        }
        io::ErrorKind::PermissionDenied => {
            format!("port {port} needs root; choose one above 1023: {flag} PORT")
        }
        _ => format!("{address}:{port}: {error}"),
    })?;
    Ok(Door { listener, target })
}

/// Puts the supervisor into its namespaces. It is their PID 1: when it dies, the kernel ends everything in them.
#[allow(unsafe_code)] // clone(2) has no safe form; without a stack it returns twice, as fork(2) does.
fn spawn(setup: Setup, detach: bool) -> Result<Pid, String> {
    let root = nix::unistd::geteuid().is_root();
    let mut flags = CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC;
    let maps = if root { None } else { Some(UserMaps::find()?) };
    if maps.is_some() {
        flags |= CloneFlags::CLONE_NEWUSER;
    }
    let (wait, go) = nix::unistd::pipe().map_err(|error| format!("pipe: {error}"))?;
    let _ = io::stdout().flush();
    // SAFETY: this process has one thread, so the child may run any code.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone,
            libc::c_long::from(flags.bits() | libc::SIGCHLD),
            0_usize,
            0_usize,
            0_usize,
            0_usize,
        )
    };
    match pid {
        -1 => Err(namespace_hint(Errno::last(), root)),
        0 => {
            drop(go);
            let mut byte = [0];
            let ready = File::from(wait).read(&mut byte).unwrap_or(0);
            let code = if ready == 1 { child(setup, detach) } else { 1 };
            std::process::exit(code)
        }
        pid => {
            drop(wait);
            let pid = Pid::from_raw(i32::try_from(pid).map_err(|error| error.to_string())?);
            if let Some(maps) = maps {
                maps.apply(pid)?;
            }
            File::from(go).write_all(b"x").map_err(|error| format!("the supervisor did not start: {error}"))?;
            Ok(pid)
        }
    }
}

fn namespace_hint(error: Errno, root: bool) -> String {
    let what = "namespaces (CONFIG_NET_NS, CONFIG_PID_NS, CONFIG_UTS_NS, CONFIG_IPC_NS)";
    match (error, root) {
        (Errno::EPERM, true) => {
            format!("{what}: {error}: this container lacks CAP_SYS_ADMIN; run it with --privileged")
        }
        (Errno::EPERM | Errno::ENOSPC | Errno::EUSERS, false) => format!(
            "user namespaces: {error}: this kernel does not let ordinary users make them (kernel.unprivileged_userns_clone, user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns); allow them or run as root"
        ),
        (Errno::EINVAL, _) => format!("{what}: {error}: this kernel was built without one of them"),
        _ => format!("{what}: {error}"),
    }
}

/// Which users exist in the mesh's user namespace: root is ourselves, the others (the proxy's 1337) are ours to give.
struct UserMaps {
    uid: (u32, u32, u32),
    gid: (u32, u32, u32),
}

impl UserMaps {
    fn find() -> Result<Self, String> {
        let name = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().map(|user| user.name);
        let range = |path: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let own = nix::unistd::geteuid().to_string();
            let found = text.lines().find_map(|line| {
                let mut fields = line.split(':');
                let who = fields.next()?;
                let (first, count) = (fields.next()?.parse::<u32>().ok()?, fields.next()?.parse::<u32>().ok()?);
                (Some(who) == name.as_deref() || who == own).then_some((first, count))
            });
            found.filter(|(_, count)| *count > 1337).ok_or_else(|| {
                format!("{path}: no range of at least 2000 subordinate ids for you; as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {}", name.as_deref().unwrap_or("USER"))
            })
        };
        let (first_uid, uids) = range("/etc/subuid")?;
        let (first_gid, gids) = range("/etc/subgid")?;
        Ok(Self {
            uid: (nix::unistd::geteuid().as_raw(), first_uid, uids),
            gid: (nix::unistd::getegid().as_raw(), first_gid, gids),
        })
    }

    fn apply(&self, pid: Pid) -> Result<(), String> {
        for (program, (own, first, count)) in [("newuidmap", self.uid), ("newgidmap", self.gid)] {
            let numbers = [0, own, 1, 1, first, count].map(|number| number.to_string());
            let status = Command::new(program).arg(pid.to_string()).args(numbers).status();
            let failed = match status {
                Ok(status) if status.success() => continue,
                Ok(status) => format!("{program} failed with {status}"),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    format!(
                        "{program} is not installed, and without it the proxy has no user of its own (Debian: apt-get install uidmap; or run as root)"
                    )
                }
                Err(error) => format!("{program}: {error}"),
            };
            let _ = kill(pid, Signal::SIGKILL);
            return Err(failed);
        }
        Ok(())
    }
}

/// The supervisor's process, in its namespaces.
fn child(setup: Setup, detach: bool) -> i32 {
    let log = setup.layout.folder.join("mesh.log");
    if detach {
        let _ = nix::unistd::setsid();
        if let (Ok(null), Ok(log)) = (File::open("/dev/null"), File::create(&log)) {
            let _ = nix::unistd::dup2_stdin(null.as_fd());
            let _ = nix::unistd::dup2_stdout(log.as_fd());
            let _ = nix::unistd::dup2_stderr(log.as_fd());
        }
    } else {
        // Whatever ends the starter, however suddenly, ends the mesh.
        let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
    }
    let _ = nix::unistd::setresuid(0.into(), 0.into(), 0.into());
    let _ = nix::unistd::setresgid(0.into(), 0.into(), 0.into());
    use nix::mount::{MsFlags, mount};
    let _ = mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>);
    // Where a container masks parts of /proc this is refused; the outer one then serves as well.
    let _ = mount(
        Some("proc"),
        "/proc",
        Some("proc"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        None::<&str>,
    );
    match run(setup) {
        Ok(()) => 0,
        Err(reason) => {
            eprintln!("proa: {reason}");
            1
        }
    }
}

/// Shows the mesh coming up, then waits for its end (or not).
fn follow(options: &Up, supervisor: Pid) -> Result<u8, String> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block().map_err(|error| format!("signals: {error}"))?;
    let requests = nix::sys::signalfd::SignalFd::with_flags(&signals, nix::sys::signalfd::SfdFlags::SFD_NONBLOCK)
        .map_err(|error| format!("signals: {error}"))?;
    let bar = report::Progress::new(io::stderr().is_terminal() && !options.quiet);
    let begun = Instant::now();
    let mut client = None;
    let mut shown = false;
    let mut told = false;
    loop {
        while let Ok(Some(_)) = requests.read_signal() {
            // The second request is not a question any more.
            let _ = kill(supervisor, if told { Signal::SIGKILL } else { Signal::SIGTERM });
            told = true;
        }
        match waitpid(supervisor, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => {}
            Ok(WaitStatus::Exited(_, code)) => {
                bar.finish();
                if code == 0 {
                    clean(&options.layout);
                }
                return Ok(u8::try_from(code).unwrap_or(1));
            }
            other => {
                bar.finish();
                return Err(format!("the mesh ended: {other:?}"));
            }
        }
        if !shown {
            let status = status(&mut client, &options.layout);
            if let Some(status) = status {
                let hopeless = begun.elapsed() > HOPELESS_AFTER && is_hopeless(&status);
                let late = hopeless || begun.elapsed() > READY_MAX;
                bar.show(&status);
                if status["ready"] == true || late {
                    bar.finish();
                    shown = true;
                    if options.quiet {
                        println!("http://{}", status["gateway"].as_str().unwrap_or_default());
                    } else {
                        print!("{}", report::ready(&status, begun.elapsed(), options));
                    }
                    let _ = io::stdout().flush();
                    if options.detach {
                        return Ok(if status["ready"] == true { 0 } else { 1 });
                    }
                }
            }
        }
        std::thread::sleep(if shown { LOOK * 3 } else { LOOK });
    }
}

/// Whether a pod that is not ready has been started again and again.
fn is_hopeless(status: &Value) -> bool {
    let pods = status["pods"].as_array().into_iter().flatten();
    pods.filter(|pod| !crate::services::is_ready(pod)).any(|pod| report::restarts(pod) >= HOPELESS_RESTARTS)
}

fn status(client: &mut Option<Client>, layout: &Layout) -> Option<Value> {
    if client.is_none() {
        *client = Client::connect(layout).ok();
    }
    client.as_mut()?.ask(&json!({"op": "status"})).ok()
}

fn clean(layout: &Layout) {
    let _ = fs::remove_dir_all(&layout.folder);
    let _ = fs::remove_file(layout.lock());
    // Our own common folder goes with the last mesh; one that was given stays.
    if let Some(parent) = layout.folder.parent().filter(|parent| parent.ends_with("proa")) {
        let _ = fs::remove_dir(parent);
    }
}

/// Ends a mesh and waits until it is gone. `Ok(false)`: none was running.
///
/// # Errors
/// A mesh that cannot be ended (it belongs to someone else).
pub fn down(layout: &Layout) -> Result<bool, String> {
    let asked = match Client::connect(layout) {
        Ok(mut client) => client.ask(&json!({"op": "down"})).is_ok(),
        Err(error @ crate::ApiError::Denied { .. }) => return Err(error.to_string()),
        Err(_) => false,
    };
    let deadline = Instant::now() + if asked { DOWN_MAX } else { Duration::ZERO };
    let free = || -> Option<Flock<File>> {
        let file = OpenOptions::new().write(true).open(layout.lock()).ok()?;
        Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()
    };
    if !layout.lock().exists() && !layout.folder.exists() {
        return Ok(asked);
    }
    let mut killed = false;
    loop {
        if !layout.lock().exists() {
            return Ok(true);
        }
        if let Some(lock) = free() {
            clean(layout);
            drop(lock);
            return Ok(asked || killed);
        }
        if Instant::now() > deadline && !killed {
            let pid = fs::read_to_string(layout.folder.join("pid")).ok().and_then(|text| text.trim().parse().ok());
            let Some(pid) = pid else {
                return Err(format!("{} is locked, but by no mesh that can be asked to end", layout.lock().display()));
            };
            kill(Pid::from_raw(pid), Signal::SIGKILL).map_err(|error| format!("process {pid}: {error}"))?;
            killed = true;
        }
        if killed && Instant::now() > deadline + DOWN_MAX {
            return Err(format!("{} stays locked", layout.lock().display()));
        }
        std::thread::sleep(LOOK);
    }
}
