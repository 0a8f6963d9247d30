//! How does a process get into its pod? `proa __pod SPEC` joins the pod's namespaces, builds the container's file
//! system, drops to its user and becomes the container's command.
//!
//! A process of its own because namespaces, mounts and users are per thread or per process and the supervisor
//! keeps its own. The container sees the host's files, with its volumes, `resolv.conf`, `hosts` and a fresh `/run`
//! over them, in a mount namespace that vanishes with it: nothing is ever written to the host for a mount point.

use std::collections::BTreeSet;
use std::ffi::{CString, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{Gid, Uid};
use serde::{Deserialize, Serialize};

/// First word of the command line that leads here.
pub const POD_ENTRY: &str = "__pod";
/// In place of a spec: be the first process of a pod.
pub(crate) const PAUSE: &str = "pause";
/// Where the host's own root is seen inside a container.
const HOST: &str = "/.host";
/// Exit code when the command cannot be found or run, as a shell has it.
const CANNOT_RUN: u8 = 127;
/// Most symbolic links followed on the way to a mount point.
const LINKS_MAX: usize = 16;

/// A file or directory shown in the container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Mount {
    pub(crate) source: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) read_only: bool,
}

/// Everything about a process that its pod decides.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Spec {
    /// Network namespace, as a path that opens it.
    pub(crate) network: PathBuf,
    /// A running process whose file system is shared (`exec`); otherwise one is built.
    pub(crate) join: Option<i32>,
    /// An empty directory to build the file system on.
    pub(crate) root: PathBuf,
    pub(crate) mounts: Vec<Mount>,
    /// Names in `/usr/local/bin` that lead to `proa`.
    pub(crate) links: Vec<String>,
    /// A descriptor that is closed by running the command: whoever holds the other end then knows that it runs.
    pub(crate) started: Option<i32>,
    pub(crate) hostname: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) directory: Option<PathBuf>,
    pub(crate) command: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
}

/// Runs `proa __pod SPEC`; returns only if the command could not be run.
pub fn pod_entry(args: Vec<OsString>) -> ExitCode {
    let Some(path) = args.get(1) else {
        eprintln!("{POD_ENTRY} is how the local mesh starts processes; it is not for use by hand");
        return ExitCode::from(2);
    };
    if path == PAUSE {
        return pause();
    }
    let spec = fs::read(path).map_err(|error| error.to_string());
    let spec = spec.and_then(|text| serde_json::from_slice::<Spec>(&text).map_err(|error| error.to_string()));
    let error = match spec {
        Ok(spec) => match close_on_exec(&spec).and_then(|()| enter(&spec)) {
            Ok(()) => {
                let error = execute(&spec);
                refuse(&spec);
                error
            }
            Err(error) => {
                refuse(&spec);
                error
            }
        },
        Err(error) => format!("{}: {error}", Path::new(path).display()),
    };
    eprintln!("proa: {error}");
    ExitCode::from(CANNOT_RUN)
}

#[allow(unsafe_code)] // The descriptor was passed to us by number.
fn close_on_exec(spec: &Spec) -> Result<(), String> {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    use std::os::fd::BorrowedFd;
    let Some(number) = spec.started else {
        return Ok(());
    };
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map(drop).map_err(|error| format!("descriptor: {error}"))
}

/// Says to the other end of `started` that the command will not run.
#[allow(unsafe_code)] // As above.
fn refuse(spec: &Spec) {
    use std::os::fd::BorrowedFd;
    if let Some(number) = spec.started {
        let _ = nix::unistd::write(unsafe { BorrowedFd::borrow_raw(number) }, b"x");
    }
}

/// Reaps orphans until it is killed.
fn pause() -> ExitCode {
    use nix::sys::signal::{SigSet, Signal};
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    if children.thread_block().is_err() {
        return ExitCode::FAILURE;
    }
    loop {
        let _ = children.wait();
        while !matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive) | Err(_)) {}
    }
}

fn enter(spec: &Spec) -> Result<(), String> {
    let say = |what: &'static str| move |error: nix::Error| format!("{what}: {error}");
    if let Some(pid) = spec.join {
        for (name, flag) in
            [("net", CloneFlags::CLONE_NEWNET), ("uts", CloneFlags::CLONE_NEWUTS), ("mnt", CloneFlags::CLONE_NEWNS)]
        {
            let file =
                File::open(format!("/proc/{pid}/ns/{name}")).map_err(|_| "the container has exited".to_owned())?;
            setns(file, flag).map_err(say("joining the container"))?;
        }
    } else {
        let network = File::open(&spec.network).map_err(|error| format!("network namespace: {error}"))?;
        setns(network, CloneFlags::CLONE_NEWNET).map_err(say("joining the pod's network"))?;
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS)
            .map_err(say("mount namespace (needs CAP_SYS_ADMIN or user namespaces)"))?;
        nix::unistd::sethostname(&spec.hostname).map_err(say("host name"))?;
        Root::build(spec).map_err(|error| format!("container file system: {error}"))?;
    }
    let directory = spec.directory.as_deref().unwrap_or(Path::new("/"));
    std::env::set_current_dir(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    // A session of its own: signals go to the whole container, and a terminal stays the supervisor's.
    let _ = nix::unistd::setsid();
    if spec.uid != 0 || spec.gid != 0 {
        nix::unistd::setgroups(&[Gid::from_raw(spec.gid)]).map_err(say("setgroups"))?;
        let gid = Gid::from_raw(spec.gid);
        nix::unistd::setresgid(gid, gid, gid).map_err(say("setgid"))?;
        let uid = Uid::from_raw(spec.uid);
        nix::unistd::setresuid(uid, uid, uid).map_err(say("setuid: is this user mapped in the user namespace?"))?;
    }
    Ok(())
}

fn execute(spec: &Spec) -> String {
    let c_string = |text: &str| CString::new(text).unwrap_or_default();
    let path = spec.environment.iter().rev().find(|(name, _)| name == "PATH").map_or("", |(_, value)| value.as_str());
    let Some(name) = spec.command.first() else {
        return "the container has no command".to_owned();
    };
    let arguments: Vec<CString> = spec.command.iter().map(|word| c_string(word)).collect();
    let environment: Vec<CString> =
        spec.environment.iter().map(|(name, value)| c_string(&format!("{name}={value}"))).collect();
    let candidates: Vec<PathBuf> = if name.contains('/') {
        vec![PathBuf::from(name)]
    } else {
        path.split(':').map(|folder| Path::new(folder).join(name)).collect()
    };
    let mut error = nix::Error::ENOENT;
    for candidate in candidates {
        let file = CString::new(candidate.as_os_str().as_bytes()).unwrap_or_default();
        let Err(cause) = nix::unistd::execve(&file, &arguments, &environment);
        if cause != nix::Error::ENOENT || error == nix::Error::ENOENT {
            error = cause;
        }
    }
    format!("cannot run {name:?}: {error} (images are not pulled; the command must exist on this machine)")
}

/// The file system of one container, under construction.
struct Root<'a> {
    spec: &'a Spec,
    /// Directories that are rebuilt entry by entry, because a mount point inside them does not exist on the host.
    opened: BTreeSet<PathBuf>,
    targets: BTreeSet<PathBuf>,
}

impl<'a> Root<'a> {
    fn build(spec: &'a Spec) -> io::Result<()> {
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).map_err(named("/"))?;
        mount(Some("tmpfs"), &spec.root, Some("tmpfs"), MsFlags::MS_NOSUID, Some("mode=755"))
            .map_err(named("tmpfs"))?;
        let opened = ["/", "/etc", "/var", "/run"].into_iter().map(PathBuf::from).collect();
        let mut root = Self { spec, opened, targets: BTreeSet::new() };
        let mut mounts: Vec<Mount> = spec.mounts.clone();
        for mount in &mut mounts {
            mount.target = root.open_towards(&mount.target);
            root.targets.insert(mount.target.clone());
        }
        root.directory(Path::new("/"))?;
        mounts.sort_by_key(|mount| mount.target.components().count());
        for mount in &mounts {
            root.bind(mount)?;
        }
        for name in &spec.links {
            // Where the host has a program of this name, the host's wins.
            let _ = symlink("proa", root.inside(Path::new("/usr/local/bin")).join(name));
        }
        let host = root.inside(Path::new(HOST));
        fs::create_dir_all(&host)?;
        nix::unistd::pivot_root(&spec.root, &host).map_err(named("pivot_root"))?;
        std::env::set_current_dir("/")
    }

    fn inside(&self, path: &Path) -> PathBuf {
        self.spec.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Follows the host's links on the way to `target` and notes which directories must be opened for it.
    fn open_towards(&mut self, target: &Path) -> PathBuf {
        let mut pending: Vec<OsString> = components(target);
        pending.reverse();
        let mut at = PathBuf::from("/");
        let mut links = 0;
        while let Some(name) = pending.pop() {
            let next = at.join(&name);
            let fresh = next.starts_with("/run");
            match fs::symlink_metadata(&next) {
                Ok(meta) if meta.is_symlink() && !fresh && links < LINKS_MAX && !pending.is_empty() => {
                    links += 1;
                    let link = fs::read_link(&next).unwrap_or_default();
                    if link.is_absolute() {
                        at = PathBuf::from("/");
                    }
                    pending.extend(components(&link).into_iter().rev());
                }
                Ok(meta) if !fresh && !meta.is_symlink() => at = next,
                _ => {
                    self.opened.extend(at.ancestors().map(Path::to_path_buf));
                    at = next;
                }
            }
        }
        at
    }

    /// Rebuilds one opened directory: what a mount will cover is left out, directories are bound, files linked.
    fn directory(&self, path: &Path) -> io::Result<()> {
        let here = self.inside(path);
        fs::create_dir_all(&here)?;
        if path.starts_with("/run") {
            return Ok(());
        }
        let Ok(entries) = fs::read_dir(path) else {
            return Ok(());
        };
        for entry in entries.flatten() {
            let from = entry.path();
            let to = here.join(entry.file_name());
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            if from == Path::new("/proc") {
                fs::create_dir(&to)?;
                self.processes(&to)?;
            } else if self.opened.contains(&from) && kind.is_dir() {
                self.directory(&from)?;
            } else if self.targets.contains(&from) || from == self.spec.root {
                continue;
            } else if kind.is_symlink() {
                symlink(fs::read_link(&from)?, &to)?;
            } else if kind.is_dir() {
                fs::create_dir(&to)?;
                let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
                mount(Some(&from), &to, None::<&str>, flags, None::<&str>).map_err(named(&from.to_string_lossy()))?;
            } else {
                symlink(Path::new(HOST).join(from.strip_prefix("/").unwrap_or(&from)), &to)?;
            }
        }
        Ok(())
    }

    /// The pod's own processes; where a container around us forbids that, the mesh's.
    fn processes(&self, to: &Path) -> io::Result<()> {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("proc"), to, Some("proc"), flags, None::<&str>)
            .or_else(|_| mount(Some("/proc"), to, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>))
            .map_err(named("/proc"))
    }

    fn bind(&self, one: &Mount) -> io::Result<()> {
        let to = self.inside(&one.target);
        let name = format!("{} at {}", one.source.display(), one.target.display());
        if one.source.is_dir() {
            fs::create_dir_all(&to)?;
        } else if !to.exists() {
            to.parent().map(fs::create_dir_all).transpose()?;
            File::create(&to)?;
        }
        mount(Some(&one.source), &to, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
            .map_err(named(&name))?;
        if one.read_only {
            let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            // Locked flags of the source may forbid this in a user namespace; the mount itself is what matters.
            let _ = mount(None::<&str>, &to, None::<&str>, flags, None::<&str>);
        }
        Ok(())
    }
}

fn components(path: &Path) -> Vec<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}

fn named(what: &str) -> impl FnOnce(nix::Error) -> io::Error {
    let what = what.to_owned();
    move |error| io::Error::new(io::Error::from(error).kind(), format!("{what}: {error}"))
}
