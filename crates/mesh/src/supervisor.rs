//! Who keeps the mesh as its resources say? PID 1 of the mesh: watches the manifests, reconciles pods, addresses and
//! names with them, answers commands, and ends everything.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::rc::Rc;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::net::{UdpSocket, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc};

use crate::api::{Connection, Layout};
use crate::dns::NameServer;
use crate::egress::{self, Outside};
use crate::gateway::Door;
use crate::identity::Identity;
use crate::netns::{Addresses, DNS_ADDRESS, dial, prepare_router};
use crate::object::{Key, Kind, Object, merge};
use crate::pod::{Context, Pod};
use crate::process::Processes;
use crate::services::{Directory, assign_addresses, is_ready};
use crate::sidecar::{self, DataPlane, Proxies};
use crate::store::{Origin, Store};
use crate::{system, workload};

/// Changes that come together are reconciled together.
const SETTLE: Duration = Duration::from_millis(2);
/// How long the end of the mesh waits for its processes before they are killed.
const END_GRACE: Duration = Duration::from_millis(1500);
/// How long `dial` waits for a connection inside a pod.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Folders below the manifests whose files are applied only by hand.
const VARIANTS: &str = "variants";

/// What the supervisor is given: settings, and sockets opened in the machine's own network.
pub(crate) struct Setup {
    pub(crate) layout: Layout,
    pub(crate) manifests: PathBuf,
    pub(crate) program: PathBuf,
    pub(crate) proxies: Proxies,
    pub(crate) doors: Vec<Door>,
    pub(crate) resolver: Option<std::net::UdpSocket>,
    pub(crate) outside: Outside,
}

/// The running mesh.
pub(crate) struct Supervisor {
    context: Rc<Context>,
    layout: Layout,
    manifests: PathBuf,
    proxies: Proxies,
    pods: RefCell<BTreeMap<Key, Rc<Pod>>>,
    addresses: Addresses,
    directory: RefCell<Rc<Directory>>,
    names: Rc<NameServer>,
    doors: Vec<Door>,
    /// What is wrong with manifests, by file and message.
    problems: RefCell<BTreeSet<(String, String)>>,
    loaded: Cell<bool>,
    /// Address of a ready pod of the ingress gateway.
    ingress: Cell<Option<std::net::Ipv4Addr>>,
    end: Notify,
}

/// Runs the mesh until it is told to end; the calling process is PID 1 of its namespaces.
pub(crate) fn run(setup: Setup) -> Result<(), String> {
    let text = |error: io::Error| error.to_string();
    prepare_router().map_err(text)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(text)?;
    let local = tokio::task::LocalSet::new();
    runtime.block_on(local.run_until(async {
        let supervisor = Supervisor::start(setup)?;
        supervisor.main().await.map_err(text)
    }))
}

impl Supervisor {
    fn start(setup: Setup) -> Result<Rc<Self>, String> {
        let Setup { layout, manifests, program, proxies, doors, resolver, outside } = setup;
        let text = |error: io::Error| error.to_string();
        let store = Store::new(layout.config());
        let processes = Processes::default();
        tokio::task::spawn_local(processes.clone().reap());
        for object in system::objects(&layout.config()) {
            store.apply(object, system::SYSTEM, Origin::System)?;
        }
        tokio::task::spawn_local(async {
            if let Err(error) = egress::serve(outside).await {
                eprintln!("proa: connections to the outside: {error}");
            }
        });
        let resolver = resolver.map(UdpSocket::from_std).transpose().map_err(text)?;
        let context = Context {
            store,
            processes,
            identity: Identity::generate()?,
            state: layout.folder.clone(),
            program,
            data_plane: proxies.data_plane.clone(),
        };
        Ok(Rc::new(Self {
            context: Rc::new(context),
            layout,
            manifests,
            proxies,
            pods: RefCell::default(),
            addresses: Addresses::default(),
            directory: RefCell::default(),
            names: NameServer::new(resolver),
            doors,
            problems: RefCell::default(),
            loaded: Cell::new(false),
            ingress: Cell::new(None),
            end: Notify::new(),
        }))
    }

    async fn main(self: Rc<Self>) -> io::Result<()> {
        let listener = UnixListener::bind(self.layout.socket())?;
        let names = Rc::clone(&self.names);
        tokio::task::spawn_local(async move {
            if let Err(error) = names.serve(DNS_ADDRESS).await {
                eprintln!("proa: name server: {error}");
            }
        });
        for door in &self.doors {
            tokio::task::spawn_local(door.serve(Rc::clone(&self))?);
        }
        tokio::task::spawn_local(Rc::clone(&self).commands(listener));
        let (sender, mut batches) = mpsc::unbounded_channel();
        let options =
            source_file::Options { skip_directories: vec![VARIANTS.to_owned()], ..source_file::Options::default() };
        let source = source_file::FileSource::new([self.manifests.clone()], options);
        // Dropping the handle ends the watch.
        let _watch = source_file::watch(source, move |batch| sender.send(batch).is_ok());
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        loop {
            tokio::select! {
                () = self.context.store.changed() => {
                    tokio::time::sleep(SETTLE).await;
                    self.reconcile().await;
                }
                Some(batch) = batches.recv() => self.take(batch),
                _ = interrupt.recv() => break,
                _ = terminate.recv() => break,
                () = self.end.notified() => break,
            }
        }
        self.finish().await;
        Ok(())
    }

    async fn finish(&self) {
        let pods: Vec<Rc<Pod>> = self.pods.borrow().values().cloned().collect();
        for pod in &pods {
            pod.kill(Signal::SIGTERM);
            pod.stop();
        }
        let all = async {
            for pod in &pods {
                pod.ended().await;
            }
        };
        let _ = tokio::time::timeout(END_GRACE, all).await;
        // What is left dies with this process: it is PID 1.
    }

    /// Takes in what the manifests say now.
    fn take(&self, batch: source_file::Batch) {
        for event in batch.events {
            match event {
                source_file::Event::Applied(resource) => {
                    let file = resource.meta.place.as_ref().map_or("", |place| &place.file);
                    if let Err(reason) = self.context.store.apply((*resource.raw).clone(), "default", Origin::Folder) {
                        self.problem(file, &reason);
                    }
                }
                source_file::Event::Deleted(key) => {
                    let key = Key::new(key.kind.name(), &key.namespace, &key.name);
                    if self.context.store.origin(&key) == Some(Origin::Folder) {
                        self.context.store.remove(&key);
                    }
                }
                source_file::Event::Diagnostic(diagnostic) => {
                    let file = &diagnostic.place.file;
                    if diagnostic.severity == source_file::Severity::Resolved {
                        eprintln!("proa: {diagnostic}");
                        self.problems.borrow_mut().retain(|(known, _)| **known != **file);
                    } else {
                        self.problem(file, &diagnostic.to_string());
                    }
                }
            }
        }
        // Problems go with their files.
        self.problems.borrow_mut().retain(|(file, _)| Path::new(file).exists());
        self.loaded.set(true);
        self.context.store.poke();
    }

    fn problem(&self, file: &str, text: &str) {
        eprintln!("proa: {text}");
        self.problems.borrow_mut().insert((file.to_owned(), text.to_owned()));
    }

    /// Makes everything as the store says: addresses, pods, names, service rules, the mirror.
    async fn reconcile(self: &Rc<Self>) {
        let store = &self.context.store;
        assign_addresses(store);
        let plan = workload::plan(store);
        for pod in plan.create {
            let pod = sidecar::inject(store, pod, &self.proxies);
            if let Err(reason) = workload::create(store, pod) {
                eprintln!("proa: {reason}");
            }
        }
        for key in plan.delete {
            store.remove(&key);
        }
        self.run_pods();
        workload::publish(store);
        self.ingress.set(self.find_ingress());
        let directory = Rc::new(Directory::read(store));
        if directory != *self.directory.borrow() {
            self.names.publish(Rc::clone(&directory));
            if directory.ports != self.directory.borrow().ports
                && let Err(error) = intercept::nft::run(&directory.rules())
            {
                eprintln!("proa: service addresses: {error}");
            }
            *self.directory.borrow_mut() = directory;
        }
        if let Err(error) = store.flush_mirror() {
            eprintln!("proa: {}: {error}", self.layout.config().display());
        }
    }

    fn run_pods(self: &Rc<Self>) {
        let store = &self.context.store;
        let objects: BTreeMap<Key, Object> = store
            .list("Pod")
            .into_iter()
            .map(|pod| {
                let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default();
                (Key::new("Pod", text("namespace"), text("name")), pod.clone())
            })
            .collect();
        let mut pods = self.pods.borrow_mut();
        pods.retain(|key, pod| {
            let stays = objects.contains_key(key);
            if !stays {
                pod.stop();
            }
            stays
        });
        for (key, mut object) in objects {
            if pods.contains_key(&key) || object["status"]["phase"] == "Failed" {
                continue;
            }
            if object["metadata"]["annotations"]["proa.dev/deployment"].is_null() {
                // A bare pod: the deployments' pods were given their proxy when they were made.
                object = sidecar::inject(store, object, &self.proxies);
                store.update(&key, |stored| *stored = object.clone());
            }
            let Some((number, address)) = self.addresses.next() else {
                eprintln!("proa: {key}: no pod address is left");
                return;
            };
            match Pod::new(Rc::clone(&self.context), key.clone(), &object, number, address) {
                Ok(pod) => {
                    tokio::task::spawn_local(Rc::clone(&pod).run());
                    pods.insert(key, pod);
                }
                Err(reason) => {
                    eprintln!("proa: {key}: {reason}");
                    store.update(&key, |pod| {
                        pod["status"] = json!({"phase": "Failed", "message": reason});
                    });
                }
            }
        }
    }

    /// Address of a ready pod of the ingress gateway.
    pub(crate) fn ingress(&self) -> Option<std::net::Ipv4Addr> {
        self.ingress.get()
    }

    fn find_ingress(&self) -> Option<std::net::Ipv4Addr> {
        let pods = self.context.store.list("Pod");
        let gateway = |pod: &&Object| {
            pod["metadata"]["namespace"] == system::SYSTEM
                && pod["metadata"]["labels"]["app"] == system::INGRESS
                && is_ready(pod)
        };
        pods.iter().find(gateway).and_then(|pod| pod["status"]["podIP"].as_str()?.parse().ok())
    }

    async fn commands(self: Rc<Self>, listener: UnixListener) {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                continue;
            };
            let supervisor = Rc::clone(&self);
            tokio::task::spawn_local(async move {
                let mut connection = Connection::new(stream);
                while let Ok((request, descriptors)) = connection.request().await {
                    let result = tokio::select! {
                        result = supervisor.command(&request, descriptors) => result,
                        () = connection.closed() => return,
                    };
                    let (answer, descriptors) = match result {
                        Ok((value, descriptors)) => (json!({ "ok": value }), descriptors),
                        Err(reason) => (json!({ "error": reason }), Vec::new()),
                    };
                    if connection.answer(&answer, &descriptors).await.is_err() {
                        return;
                    }
                    if request["op"] == "down" {
                        supervisor.end.notify_one();
                    }
                }
            });
        }
    }

    async fn command(&self, request: &Value, descriptors: Vec<OwnedFd>) -> Result<(Value, Vec<OwnedFd>), String> {
        let text = |field: &str| request[field].as_str().unwrap_or_default();
        let plain = |value: Value| Ok((value, Vec::new()));
        match text("op") {
            "status" => plain(self.status()),
            "get" => plain(self.get(text("kind"), request["namespace"].as_str(), request["name"].as_str())?),
            "apply" | "create" | "replace" => {
                plain(self.put(text("op"), text("namespace"), request["object"].clone())?)
            }
            "delete" => plain(self.delete(text("kind"), text("namespace"), text("name"))?),
            "patch" => plain(self.patch(text("kind"), text("namespace"), text("name"), &request["patch"])?),
            "logs" => plain(self.logs(&*self.pod(text("namespace"), text("pod"))?)),
            "restart" => plain(self.restart(&*self.pod(text("namespace"), text("pod"))?)),
            "dial" => self.dial(request).await,
            "exec" => self.exec(request, descriptors).await,
            "down" => plain(Value::Null),
            other => Err(format!(
                "this mesh runs an older proa, which does not know {other:?}; restart it: proa down && proa up"
            )),
        }
    }

    fn status(&self) -> Value {
        // Problems go with their files.
        self.problems.borrow_mut().retain(|(file, _)| Path::new(file).exists());
        let pods = self.context.store.list("Pod");
        let settled = |pod: &Object| is_ready(pod) || pod["status"]["phase"] == "Succeeded";
        let deployments = self.context.store.list("Deployment");
        let complete = deployments.iter().all(|one| {
            one["status"]["readyReplicas"].as_u64().unwrap_or(0) >= one["spec"]["replicas"].as_u64().unwrap_or(1)
        });
        json!({
            "name": self.layout.name,
            "ready": self.loaded.get() && complete && pods.iter().all(settled),
            "loaded": self.loaded.get(),
            "manifests": self.manifests,
            "gateway": self.doors.first().map(Door::address),
            "doors": self.doors.iter().map(|door| json!({"host": door.address(), "port": door.target})).collect::<Vec<_>>(),
            "pods": pods,
            "services": self.context.store.list("Service"),
            "problems": self.problems.borrow().iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>(),
            "dataPlane": match &self.proxies.data_plane { DataPlane::Proa => "proa", DataPlane::Envoy(_) => "envoy" },
        })
    }

    fn get(&self, kind: &str, namespace: Option<&str>, name: Option<&str>) -> Result<Value, String> {
        let kind = Kind::find(kind).ok_or_else(|| unknown_kind(kind))?;
        let mut items = self.context.store.list(kind.name);
        if kind.namespaced
            && let Some(namespace) = namespace
        {
            items.retain(|item| item["metadata"]["namespace"] == namespace);
        }
        if let Some(name) = name {
            items.retain(|item| item["metadata"]["name"] == name);
            if items.is_empty() {
                return Err(not_found(kind, name, namespace));
            }
        }
        Ok(items.into())
    }

    fn put(&self, verb: &str, namespace: &str, object: Object) -> Result<Value, String> {
        let resource =
            ::api::Resource::from_value(object.clone(), None, namespace).map_err(|rejected| rejected.to_string())?;
        let verdict = ::api::validate::validate(&resource);
        if !verdict.is_valid() {
            return Err(format!(
                "{}: {}",
                resource.key(),
                verdict.errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
            ));
        }
        let warnings: Vec<String> = verdict.warnings.iter().map(ToString::to_string).collect();
        let key = resource.key();
        let key = Key::new(key.kind.name(), &key.namespace, &key.name);
        let there = self.context.store.get(&key).is_some();
        match (verb, there) {
            ("create", true) => {
                return Err(format!("{key} already exists; use: proa replace (or apply) -f FILE"));
            }
            ("replace", false) => {
                return Err(format!("{key} not found; use: proa create (or apply) -f FILE"));
            }
            _ => {}
        }
        let (key, applied) = self.context.store.apply(object, namespace, Origin::Command)?;
        let word = if verb == "replace" { "replaced" } else { applied.word() };
        Ok(json!({"key": key.to_string(), "done": word, "warnings": warnings}))
    }

    fn delete(&self, kind: &str, namespace: &str, name: &str) -> Result<Value, String> {
        let kind = Kind::find(kind).ok_or_else(|| unknown_kind(kind))?;
        let key = Key::new(kind.name, if kind.namespaced { namespace } else { "" }, name);
        match self.context.store.remove(&key) {
            Some(_) => Ok(json!({"key": key.to_string(), "done": "deleted"})),
            None => Err(not_found(kind, name, Some(namespace))),
        }
    }

    fn patch(&self, kind: &str, namespace: &str, name: &str, patch: &Value) -> Result<Value, String> {
        let kind = Kind::find(kind).ok_or_else(|| unknown_kind(kind))?;
        let key = Key::new(kind.name, if kind.namespaced { namespace } else { "" }, name);
        let mut object = self.context.store.get(&key).ok_or_else(|| not_found(kind, name, Some(namespace)))?;
        merge(&mut object, patch);
        let done = self.put("apply", namespace, object)?;
        Ok(
            json!({"key": key.to_string(), "done": if done["done"] == "unchanged" { "patched (no change)" } else { "patched" }}),
        )
    }

    /// Finds a pod by name, `deploy/NAME`, `svc/NAME` or `pod/NAME`.
    fn pod(&self, namespace: &str, reference: &str) -> Result<Rc<Pod>, String> {
        let pods = self.pods.borrow();
        let (kind, name) = reference.split_once('/').unwrap_or(("pod", reference));
        let kind = Kind::find(kind).ok_or_else(|| unknown_kind(kind))?;
        let pick = |condition: &dyn Fn(&Object) -> bool| {
            let all = self.context.store.list("Pod");
            let mut fitting: Vec<&Object> =
                all.iter().filter(|pod| pod["metadata"]["namespace"] == namespace && condition(pod)).collect();
            fitting.sort_by_key(|pod| !is_ready(pod));
            let name = fitting.first().and_then(|pod| pod["metadata"]["name"].as_str());
            name.and_then(|name| pods.get(&Key::new("Pod", namespace, name)).cloned())
        };
        let found = match kind.name {
            "Pod" => pods.get(&Key::new("Pod", namespace, name)).cloned(),
            "Deployment" => pick(&|pod| pod["metadata"]["annotations"]["proa.dev/deployment"] == name),
            "Service" => {
                let service = self.context.store.get(&Key::new("Service", namespace, name)).unwrap_or_default();
                pick(&|pod| crate::object::selects(&service["spec"]["selector"], &pod["metadata"]["labels"]))
            }
            other => {
                return Err(format!("{reference}: a {other} has no pods; use a pod, deploy/NAME or svc/NAME"));
            }
        };
        found.ok_or_else(|| {
            let there: Vec<String> =
                pods.keys().filter(|key| key.namespace == namespace).map(|key| key.name.clone()).collect();
            let elsewhere = pods.keys().find(|key| key.name == name || key.name.starts_with(&format!("{name}-")));
            match elsewhere {
                Some(key) if key.namespace != namespace => {
                    format!("no {reference} in namespace {namespace}; try: -n {}", key.namespace)
                }
                _ if there.is_empty() => {
                    format!("no {reference} in namespace {namespace}, which has no pods")
                }
                _ => format!("no {reference} in namespace {namespace}; there are: {}", there.join(", ")),
            }
        })
    }

    fn logs(&self, pod: &Pod) -> Value {
        let containers: Vec<Value> =
            pod.containers().map(|name| json!({"container": name, "path": pod.log_path(name)})).collect();
        json!({"pod": pod.key.name, "containers": containers})
    }

    fn restart(&self, pod: &Pod) -> Value {
        self.context.store.remove(&pod.key);
        json!({"key": pod.key.to_string(), "done": "deleted"})
    }

    async fn dial(&self, request: &Value) -> Result<(Value, Vec<OwnedFd>), String> {
        let pod =
            self.pod(request["namespace"].as_str().unwrap_or_default(), request["pod"].as_str().unwrap_or_default())?;
        let port = request["port"].as_u64().and_then(|port| u16::try_from(port).ok()).ok_or("port: not a port")?;
        let network = pod.network().ok_or_else(|| format!("{} is still starting", pod.key))?;
        let stream = dial(&network, ([127, 0, 0, 1], port).into(), DIAL_TIMEOUT).await;
        let stream = stream.map_err(|error| format!("{} port {port}: {error}", pod.key))?;
        Ok((json!({"pod": pod.key.name, "namespace": pod.key.namespace}), vec![stream.into()]))
    }

    async fn exec(&self, request: &Value, descriptors: Vec<OwnedFd>) -> Result<(Value, Vec<OwnedFd>), String> {
        let pod =
            self.pod(request["namespace"].as_str().unwrap_or_default(), request["pod"].as_str().unwrap_or_default())?;
        let default = pod.containers().find(|name| *name != "istio-proxy").or_else(|| pod.containers().next());
        let container = request["container"].as_str().or(default).unwrap_or_default().to_owned();
        let command: Vec<String> =
            request["command"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
        let io: [OwnedFd; 3] = descriptors.try_into().map_err(|_| "exec needs three descriptors".to_owned())?;
        let guard = Killed(pod.execute(&container, command, io.map(Stdio::from))?);
        let code = guard.0.clone().exited().await;
        Ok((json!({"code": code}), Vec::new()))
    }
}

/// Ends a process when its command is no longer waited for.
struct Killed(crate::process::Process);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.signal_all(Signal::SIGHUP);
        self.0.signal_all(Signal::SIGTERM);
    }
}

fn unknown_kind(kind: &str) -> String {
    let near = crate::object::KINDS.iter().filter(|known| known.plural.starts_with(kind.get(..2).unwrap_or(kind)));
    let near: Vec<&str> = near.map(|known| known.plural).collect();
    match near.is_empty() {
        true => {
            format!("unknown resource type {kind:?}; try pods, services, virtualservices, destinationrules, gateways")
        }
        false => format!("unknown resource type {kind:?}; did you mean {}?", near.join(" or ")),
    }
}

fn not_found(kind: &Kind, name: &str, namespace: Option<&str>) -> String {
    let place =
        namespace.filter(|_| kind.namespaced).map(|namespace| format!(" in namespace {namespace}")).unwrap_or_default();
    format!("{} {name:?} not found{place}; see: proa get {}", kind.name.to_ascii_lowercase(), kind.plural)
}

/// Removes what an earlier mesh of this name left, and makes the folders anew.
pub(crate) fn fresh_state(layout: &Layout) -> io::Result<()> {
    match std::fs::remove_dir_all(&layout.folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    for folder in ["config", "pods", "logs", "root"] {
        std::fs::create_dir_all(layout.folder.join(folder))?;
    }
    Ok(())
}

/// Writes the bundled example, for a machine without a checkout.
pub(crate) fn write_example(folder: &Path) -> io::Result<()> {
    for (name, text) in crate::examples::FILES {
        let path = folder.join(name);
        path.parent().map(std::fs::create_dir_all).transpose()?;
        std::fs::write(path, text)?;
    }
    Ok(())
}
