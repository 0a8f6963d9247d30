//! How does one pod live? Network, volumes, init containers, containers with probes and restarts, and its end; the
//! pod's status in the store says at each moment where it stands.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};

use crate::entry::{Mount, PAUSE, POD_ENTRY, Spec};
use crate::identity::Identity;
use crate::netns;
use crate::object::{Key, Object};
use crate::podspec::{Container, Handler, PodSpec, Probe};
use crate::process::{Process, Processes};
use crate::sidecar::{DataPlane, ENVOY};
use crate::standing::{State, status};
use crate::store::{Store, now, set_condition};
use crate::volumes::{PodFiles, expand};
use crate::{images, probe};

/// How long a pod serves on after it was withdrawn from its services. The proxies hear of it within the control plane's
/// debounce and push; an application that stopped at once would fail the requests that are still sent to it meanwhile.
const UNPUBLISH: Duration = Duration::from_secs(1);

/// Pause before the first restart of a container that has run; doubled for each further one.
const BACK_OFF_MIN: Duration = Duration::from_millis(20);
/// Longest pause between restarts.
const BACK_OFF_MAX: Duration = Duration::from_secs(10);
/// A container that ran this long starts over with the shortest pause.
const BACK_OFF_RESET: Duration = Duration::from_secs(10);
/// How often a container that has not been ready yet is asked, whatever its probe's period: starting must be quick.
const EAGER: Duration = Duration::from_millis(25);
/// How long starting waits for a container that others depend on.
const HOLD_MAX: Duration = Duration::from_secs(60);
/// Between leaving the endpoints and the first signal: the proxies of those who call this pod learn of it in that time.
const LEAVE: Duration = Duration::from_millis(300);
/// Names under which `proa` is found in a container, where the host has no such program itself.
const LINKS: [&str; 4] = ["pilot-agent", "pilot-discovery", "istioctl", "istio-iptables"];

/// What all pods of a mesh share.
pub(crate) struct Context {
    pub(crate) store: Store,
    pub(crate) processes: Processes,
    pub(crate) identity: Identity,
    /// The mesh's state folder.
    pub(crate) state: PathBuf,
    /// This program.
    pub(crate) program: PathBuf,
    pub(crate) data_plane: DataPlane,
}

/// One pod of the mesh.
pub(crate) struct Pod {
    context: Rc<Context>,
    pub(crate) key: Key,
    spec: PodSpec,
    pub(crate) address: Ipv4Addr,
    number: u32,
    network: RefCell<Option<Rc<OwnedFd>>>,
    /// The pod's process namespace and its first process, with which all others end.
    first: RefCell<Option<(OwnedFd, Process)>>,
    volumes: RefCell<BTreeMap<String, PathBuf>>,
    running: RefCell<BTreeMap<String, State>>,
    changed: Notify,
    stop: watch::Sender<bool>,
    gone: watch::Sender<bool>,
    /// The application has finished for good.
    done: Cell<bool>,
    /// The whole mesh ends, so nobody calls this pod any more.
    hurry: Cell<bool>,
}

impl Pod {
    /// Prepares a pod for [`run`](Self::run); `number` is unique in the mesh, `address` its IP.
    ///
    /// # Errors
    /// A spec that cannot be run, in words.
    pub(crate) fn new(
        context: Rc<Context>,
        key: Key,
        object: &Object,
        number: u32,
        address: Ipv4Addr,
    ) -> Result<Rc<Self>, String> {
        let spec = PodSpec::read(object)?;
        Ok(Rc::new(Self {
            context,
            key,
            spec,
            address,
            number,
            network: RefCell::default(),
            first: RefCell::default(),
            volumes: RefCell::default(),
            running: RefCell::default(),
            changed: Notify::new(),
            stop: watch::Sender::new(false),
            gone: watch::Sender::new(false),
            done: Cell::new(false),
            hurry: Cell::new(false),
        }))
    }

    fn folder(&self) -> PathBuf {
        self.context.state.join("pods").join(format!("{}_{}", self.key.namespace, self.key.name))
    }

    /// Where the output of `container` is kept.
    pub(crate) fn log_path(&self, container: &str) -> PathBuf {
        log_path(&self.context.state, &self.key, container)
    }

    /// The containers' names, init containers last.
    pub(crate) fn containers(&self) -> impl Iterator<Item = &str> {
        self.spec.containers.iter().chain(&self.spec.init_containers).map(|container| container.name.as_str())
    }

    /// The pod's network namespace, once it has one.
    pub(crate) fn network(&self) -> Option<Rc<OwnedFd>> {
        self.network.borrow().clone()
    }

    /// Asks the pod to end; [`ended`](Self::ended) resolves when it has.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Resolves when every process of the pod is gone.
    pub(crate) async fn ended(&self) {
        let _ = self.gone.subscribe().wait_for(|gone| *gone).await;
    }

    /// Runs the pod until it is stopped.
    pub(crate) async fn run(self: Rc<Self>) {
        let mut stop = self.stop.subscribe();
        let life = async {
            if let Err(reason) = self.live().await {
                self.fail(&reason);
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = life => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
        if !self.hurry.get() {
            tokio::time::sleep(LEAVE).await;
        }
        self.terminate().await;
        let _ = fs::remove_dir_all(self.folder());
        netns::remove(self.number).await;
        self.network.take();
        self.gone.send_replace(true);
    }

    fn fail(&self, reason: &str) {
        eprintln!("proa: {}: {reason}", self.key);
        self.context.store.update(&self.key, |pod| {
            pod["status"]["phase"] = "Failed".into();
            pod["status"]["message"] = reason.into();
        });
    }

    async fn live(self: &Rc<Self>) -> Result<(), String> {
        let text = |error: io::Error| error.to_string();
        let network = netns::pod(self.number, self.address).await.map_err(text)?;
        *self.network.borrow_mut() = Some(Rc::new(network));
        self.context.store.update(&self.key, |pod| {
            pod["spec"]["nodeName"] = "proa".into();
            pod["status"]["phase"] = "Pending".into();
            pod["status"]["podIP"] = self.address.to_string().into();
            pod["status"]["podIPs"] = json!([{ "ip": self.address.to_string() }]);
            pod["status"]["hostIP"] = netns::NODE_ADDRESS.to_string().into();
            pod["status"]["startTime"] = now().into();
        });
        self.prepare_files().map_err(text)?;
        self.pause().map_err(text)?;
        for container in &self.spec.init_containers {
            self.initialise(container).await?;
        }
        // In the order of the list, as Kubernetes: who holds the others says so with its postStart hook.
        for container in &self.spec.containers {
            self.begin(container).await;
        }
        // From here on each container looks after itself; sidecars of work that is done are not needed any more.
        for container in &self.spec.containers {
            self.until(container, |state| state.finished).await;
        }
        self.end_sidecars().await;
        Ok(())
    }

    fn with_files<T>(&self, work: impl FnOnce(&PodFiles<'_>, &Path) -> T) -> T {
        let object = self.context.store.get(&self.key).unwrap_or_default();
        let folder = self.folder();
        let files = PodFiles {
            store: &self.context.store,
            identity: &self.context.identity,
            pod: &object,
            spec: &self.spec,
            address: self.address,
            folder: &folder,
        };
        work(&files, &folder)
    }

    fn prepare_files(&self) -> io::Result<()> {
        let folder = self.folder();
        fs::create_dir_all(&folder)?;
        self.log_path("x").parent().map(fs::create_dir_all).transpose()?;
        let volumes = self.with_files(|files, _| files.volumes())?;
        *self.volumes.borrow_mut() = volumes;
        Ok(())
    }

    /// Starts the pod's first process: PID 1 of its namespace, which reaps orphans and does nothing else.
    fn pause(&self) -> io::Result<()> {
        let mut command = Command::new("/proc/self/exe");
        command.arg(POD_ENTRY).arg(PAUSE).env_clear().stdin(Stdio::null()).stdout(Stdio::null());
        let process = self.context.processes.spawn_in(&mut command, None)?;
        let namespace = fs::File::open(format!("/proc/{}/ns/pid", process.pid))?;
        *self.first.borrow_mut() = Some((namespace.into(), process));
        Ok(())
    }

    /// Runs an init container to its end, again and again until it succeeds; a native sidecar only until it has started.
    async fn initialise(self: &Rc<Self>, container: &Container) -> Result<(), String> {
        if container.restart_policy.as_deref() == Some("Always") {
            self.begin(container).await;
            return Ok(());
        }
        let mut pause = BACK_OFF_MIN;
        loop {
            let code = match self.start(container) {
                Ok((mut process, _)) => process.finished().await,
                Err(error) => {
                    self.note(container, |state| state.reason = Some(error.to_string()));
                    -1
                }
            };
            let said = last_line(&self.log_path(&container.name));
            self.note(container, |state| {
                if state.process.take().is_some() && code != 0 {
                    state.reason = Some(format!("exit code {code}: {said}"));
                }
                state.exit = Some(code);
                state.finished = code == 0;
            });
            if code == 0 {
                return Ok(());
            }
            if self.spec.restart_policy.as_deref() == Some("Never") {
                return Err(format!("init container {} failed with {code}", container.name));
            }
            self.note(container, |state| state.restarts += 1);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(BACK_OFF_MAX);
        }
    }

    /// Starts a container for good and returns when the next one may start: after its postStart hook, and where it is a native
    /// sidecar once it serves.
    async fn begin(self: &Rc<Self>, container: &Container) {
        tokio::task::spawn_local(Rc::clone(self).keep(container.clone()));
        let sidecar = container.restart_policy.as_deref() == Some("Always");
        let hook = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref());
        let started = async {
            self.until(container, |state| state.process.is_some()).await;
            if let Some(handler) = hook {
                let timeout = HOLD_MAX;
                if let Err(reason) = self.ask(container, handler, timeout).await {
                    eprintln!("proa: {}: postStart of {}: {reason}", self.key, container.name);
                }
            }
            if sidecar {
                self.until(container, |state| state.ready).await;
            }
        };
        if tokio::time::timeout(HOLD_MAX, started).await.is_err() {
            eprintln!(
                "proa: {}: {} is not ready after {HOLD_MAX:?}; starting the rest (see: proa logs)",
                self.key, container.name
            );
        }
    }

    async fn until(&self, container: &Container, condition: impl Fn(&State) -> bool) {
        loop {
            let changed = self.changed.notified();
            if self.running.borrow().get(&container.name).is_some_and(&condition) {
                return;
            }
            changed.await;
        }
    }

    /// Starts `container` whenever it is not running, as the restart policy says.
    async fn keep(self: Rc<Self>, container: Container) {
        let native_sidecar = container.restart_policy.as_deref() == Some("Always");
        let policy = self.spec.restart_policy.clone().unwrap_or_else(|| "Always".to_owned());
        // Once at once, as the kubelet does.
        let mut pause = Duration::ZERO;
        while !*self.stop.borrow() {
            let begun = Instant::now();
            let code = match self.start(&container) {
                Ok((mut process, running)) => {
                    let watcher =
                        tokio::task::spawn_local(Rc::clone(&self).watch(container.clone(), process.clone(), running));
                    let code = process.finished().await;
                    watcher.abort();
                    code
                }
                Err(error) => {
                    self.note(&container, |state| state.reason = Some(error.to_string()));
                    -1
                }
            };
            let done = self.done.get() || !native_sidecar && (policy == "Never" || policy == "OnFailure" && code == 0);
            let said = last_line(&self.log_path(&container.name));
            self.note(&container, |state| {
                if state.process.take().is_some() && code != 0 {
                    state.reason = Some(format!("exit code {code}: {said}"));
                }
                state.ready = false;
                state.exit = Some(code);
                state.finished = done;
            });
            if done || *self.stop.borrow() {
                return;
            }
            if begun.elapsed() > BACK_OFF_RESET {
                pause = Duration::ZERO;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).clamp(BACK_OFF_MIN, BACK_OFF_MAX);
            self.note(&container, |state| state.restarts += 1);
        }
    }

    /// Asks the container's probes while `process` runs.
    async fn watch(self: Rc<Self>, container: Container, process: Process, running: OwnedFd) {
        if let Some(startup) = &container.startup_probe {
            while self.probe(&container, startup).await.is_err() {
                tokio::time::sleep(EAGER).await;
            }
        }
        if let Some(liveness) = container.liveness_probe.clone() {
            let (pod, container, process) = (Rc::clone(&self), container.clone(), process.clone());
            tokio::task::spawn_local(async move {
                let mut failures = 0;
                while process.is_running() {
                    tokio::time::sleep(period(&liveness)).await;
                    failures = if pod.probe(&container, &liveness).await.is_ok() { 0 } else { failures + 1 };
                    if failures >= liveness.failure_threshold.unwrap_or(3).max(1) {
                        eprintln!("proa: {}: {} failed its liveness probe, restarting it", pod.key, container.name);
                        process.signal(Signal::SIGTERM);
                        return;
                    }
                }
            });
        }
        let Some(readiness) = &container.readiness_probe else {
            if runs(running).await {
                self.note(&container, |state| state.ready = true);
            }
            return;
        };
        let mut failures = 0;
        loop {
            let ready = self.running.borrow().get(&container.name).is_some_and(|state| state.ready);
            match self.probe(&container, readiness).await {
                Ok(()) => {
                    failures = 0;
                    self.note(&container, |state| {
                        state.ready = true;
                        state.reason = None;
                    });
                }
                Err(reason) => {
                    failures += 1;
                    let give_up = ready && failures >= readiness.failure_threshold.unwrap_or(3).max(1);
                    self.note(&container, |state| {
                        state.ready = state.ready && !give_up;
                        state.reason = Some(format!("not ready: {reason}"));
                    });
                }
            }
            let ready = self.running.borrow().get(&container.name).is_some_and(|state| state.ready);
            tokio::time::sleep(if ready { period(readiness) } else { EAGER }).await;
        }
    }

    async fn probe(&self, container: &Container, probe: &Probe) -> Result<(), String> {
        let timeout = Duration::from_secs_f64(probe.timeout_seconds.unwrap_or(1.0).clamp(0.1, 600.0));
        self.ask(container, &probe.handler, timeout).await
    }

    async fn ask(&self, container: &Container, handler: &Handler, timeout: Duration) -> Result<(), String> {
        let execute = async |command: Vec<String>| {
            let log = self.log_path(&container.name);
            let output = open_log(&log).map_err(|error| error.to_string())?;
            let io = [Stdio::null(), output.try_clone().map_or_else(|_| Stdio::null(), Stdio::from), output.into()];
            let mut process = self.execute(&container.name, command, io)?;
            match process.exited().await {
                0 => Ok(()),
                code => Err(format!("exit code {code}")),
            }
        };
        probe::ask(handler, container, self.address, timeout, execute).await
    }

    /// Runs `command` in a running container.
    ///
    /// # Errors
    /// Why not, in words.
    pub(crate) fn execute(&self, container: &str, command: Vec<String>, io: [Stdio; 3]) -> Result<Process, String> {
        let of = self.spec.container(container).ok_or_else(|| {
            let names: Vec<&str> = self.containers().collect();
            format!("{} has no container {container:?}; it has {}", self.key, names.join(", "))
        })?;
        let running = self.running.borrow().get(container).and_then(|state| state.process.clone());
        let process =
            running.filter(Process::is_running).ok_or_else(|| format!("container {container} is not running"))?;
        let mut spec = self.entry(of);
        spec.join = Some(process.pid);
        spec.command = command;
        let name = format!("{container}.exec");
        self.launch(&name, &spec, io).map_err(|error| error.to_string())
    }

    fn entry(&self, container: &Container) -> Spec {
        let security = |part: fn(&crate::podspec::SecurityContext) -> Option<u32>| {
            let of = |context: &Option<crate::podspec::SecurityContext>| context.as_ref().and_then(part);
            of(&container.security_context).or_else(|| of(&self.spec.security_context))
        };
        let uid = security(|context| context.run_as_user).unwrap_or(0);
        let network = self.network.borrow().as_ref().and_then(|network| netns::path(network).ok());
        let (environment, mounts) = self.with_files(|files, _| {
            let mut mounts = files.mounts(container, &self.volumes.borrow(), &self.context.program);
            if let DataPlane::Envoy(path) = &self.context.data_plane {
                mounts.push(Mount { source: path.clone(), target: ENVOY.into(), read_only: true });
            }
            (files.environment(container), mounts)
        });
        let line = images::command_line(&container.image, &container.command, &container.args);
        Spec {
            network: network.unwrap_or_default(),
            join: None,
            started: None,
            root: self.context.state.join("root"),
            mounts,
            links: LINKS.map(str::to_owned).to_vec(),
            hostname: self.spec.hostname.clone().unwrap_or_else(|| self.key.name.clone()),
            uid,
            gid: security(|context| context.run_as_group).unwrap_or(uid),
            directory: container.working_dir.as_ref().map(PathBuf::from),
            command: line.iter().map(|word| expand(word, &environment)).collect(),
            environment,
        }
    }

    fn launch(&self, name: &str, spec: &Spec, [stdin, stdout, stderr]: [Stdio; 3]) -> io::Result<Process> {
        let number = rand::random::<u32>();
        let path = self.folder().join(format!("{name}.{number:08x}.json"));
        fs::write(&path, serde_json::to_vec(spec)?)?;
        let mut command = Command::new("/proc/self/exe");
        command.arg(POD_ENTRY).arg(&path).env_clear().stdin(stdin).stdout(stdout).stderr(stderr);
        let first = self.first.borrow();
        let (pids, _) = first.as_ref().ok_or_else(|| io::Error::other("the pod has ended"))?;
        self.context.processes.spawn_in(&mut command, Some(pids.as_fd()))
    }

    /// Starts `container`; the pipe ends without a byte once its command runs.
    fn start(&self, container: &Container) -> io::Result<(Process, OwnedFd)> {
        let log = open_log(&self.log_path(&container.name))?;
        let io = [Stdio::null(), log.try_clone()?.into(), log.into()];
        let (running, started) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        // Inherited by this one child: nothing else is started while it is.
        nix::fcntl::fcntl(&started, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))?;
        let mut spec = self.entry(container);
        spec.started = Some(std::os::fd::AsRawFd::as_raw_fd(&started));
        let process = self.launch(&container.name, &spec, io)?;
        self.note(container, |state| {
            state.process = Some(process.clone());
            state.started = Some(now());
            state.reason = None;
        });
        Ok((process, running))
    }

    /// Changes a container's state and the pod's status with it.
    fn note(&self, container: &Container, change: impl FnOnce(&mut State)) {
        change(self.running.borrow_mut().entry(container.name.clone()).or_default());
        self.changed.notify_waiters();
        self.publish();
    }

    fn publish(&self) {
        let running = self.running.borrow();
        let none = State::default();
        let status_of = |container: &Container| status(container, running.get(&container.name).unwrap_or(&none));
        let containers: Vec<Value> = self.spec.containers.iter().map(status_of).collect();
        let init: Vec<Value> = self.spec.init_containers.iter().map(status_of).collect();
        let state_of = |container: &Container| running.get(&container.name).cloned().unwrap_or_default();
        let native = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
        let ready = self
            .spec
            .containers
            .iter()
            .chain(self.spec.init_containers.iter().filter(native))
            .all(|c| state_of(c).ready);
        let states: Vec<State> = self.spec.containers.iter().map(state_of).collect();
        let phase = if states.iter().all(|state| state.finished) {
            if states.iter().all(|state| state.exit == Some(0)) { "Succeeded" } else { "Failed" }
        } else if states.iter().any(|state| state.started.is_some()) {
            "Running"
        } else {
            "Pending"
        };
        let initialized = self.spec.init_containers.iter().filter(|c| !native(c)).all(|c| state_of(c).finished);
        self.context.store.update(&self.key, |pod| {
            pod["status"]["phase"] = phase.into();
            pod["status"]["containerStatuses"] = containers.into();
            if !init.is_empty() {
                pod["status"]["initContainerStatuses"] = init.into();
            }
            set_condition(pod, "PodScheduled", true);
            set_condition(pod, "Initialized", initialized);
            set_condition(pod, "ContainersReady", ready);
            set_condition(pod, "Ready", ready);
        });
    }

    /// Ends the pod: applications first, then what served them, then whatever is left in its network.
    async fn terminate(&self) {
        let grace = self.spec.termination_grace_period_seconds.unwrap_or(30);
        let deadline = tokio::time::Instant::now() + Duration::from_secs(grace);
        tokio::time::sleep(UNPUBLISH).await;
        let native = |name: &str| self.spec.init_containers.iter().any(|container| container.name == name);
        for sidecars in [false, true] {
            let processes: Vec<(String, Process)> = {
                let running = self.running.borrow();
                let states = running.iter().filter(|(name, _)| native(name) == sidecars);
                states.filter_map(|(name, state)| Some((name.clone(), state.process.clone()?))).collect()
            };
            let ends = processes.into_iter().map(|(name, process)| self.end(name, process, deadline));
            futures::future::join_all(ends).await;
        }
        self.kill_rest();
    }

    /// Ends one container: its hook, the request to end, and at the deadline the end.
    async fn end(&self, name: String, mut process: Process, deadline: tokio::time::Instant) {
        let hook = self
            .spec
            .container(&name)
            .and_then(|container| Some((container, container.lifecycle.as_ref()?.pre_stop.as_ref()?)));
        if let Some((container, handler)) = hook {
            let _ = self.ask(container, handler, deadline.saturating_duration_since(tokio::time::Instant::now())).await;
        }
        process.signal(Signal::SIGTERM);
        if tokio::time::timeout_at(deadline, process.exited()).await.is_err() {
            process.signal_all(Signal::SIGKILL);
        }
    }

    /// Ends native sidecars after the last application container has finished for good.
    async fn end_sidecars(&self) {
        self.done.set(true);
        let sidecars =
            self.spec.init_containers.iter().filter(|container| container.restart_policy.as_deref() == Some("Always"));
        for container in sidecars {
            let process = self.running.borrow().get(&container.name).and_then(|state| state.process.clone());
            if let Some(process) = process {
                process.signal(Signal::SIGTERM);
            }
        }
    }

    /// Kills at once; for the end of the whole mesh.
    pub(crate) fn kill(&self, signal: Signal) {
        self.hurry.set(true);
        for state in self.running.borrow().values() {
            if let Some(process) = &state.process {
                process.signal(signal);
            }
        }
    }

    /// Kills what is left: containers may have left children behind, and they go with the first process.
    fn kill_rest(&self) {
        if let Some((_, first)) = self.first.take() {
            first.signal(Signal::SIGKILL);
        }
    }
}

/// Resolves when the command behind [`Pod::start`]'s pipe runs, or has been found impossible to run.
async fn runs(pipe: OwnedFd) -> bool {
    use tokio::io::AsyncReadExt;
    let Ok(mut pipe) = tokio::net::unix::pipe::Receiver::from_owned_fd(pipe) else {
        return true;
    };
    matches!(pipe.read(&mut [0]).await, Ok(0))
}

/// The last line of a log, shortened: it usually says why a program ended.
fn last_line(path: &Path) -> String {
    use std::io::{Read, Seek, SeekFrom};
    const TAIL: i64 = 2048;
    const SHOWN: usize = 200;
    let mut text = Vec::new();
    if let Ok(mut file) = fs::File::open(path) {
        let _ = file.seek(SeekFrom::End(-TAIL)).or_else(|_| file.seek(SeekFrom::Start(0)));
        let _ = file.read_to_end(&mut text);
    }
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    line.chars().take(SHOWN).collect()
}

/// A container's log, open to its user as well: programs open `/dev/stdout` anew.
fn open_log(path: &Path) -> io::Result<fs::File> {
    use std::os::unix::fs::PermissionsExt;
    let file = OpenOptions::new().append(true).create(true).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o666))?;
    Ok(file)
}

/// Where the output of a container is kept.
pub(crate) fn log_path(state: &Path, pod: &Key, container: &str) -> PathBuf {
    state.join("logs").join(&pod.namespace).join(&pod.name).join(format!("{container}.log"))
}

fn period(probe: &Probe) -> Duration {
    Duration::from_secs_f64(probe.period_seconds.unwrap_or(10.0).clamp(0.1, 3600.0))
}
