//! Which pods get a proxy, and what is put into them? The local mesh's call of the injector, with its settings.

use serde_json::{Value, json};

use crate::object::{Key, Object, strings};
use crate::store::Store;
use crate::system::SYSTEM;

/// Where a stock Envoy is mounted in pods when it is the data plane.
pub(crate) const ENVOY: &str = "/usr/local/bin/envoy";

/// Which program is every proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataPlane {
    /// Proa's own, in one process with the agent.
    Proa,
    /// A stock Envoy at this path, supervised by the agent.
    Envoy(std::path::PathBuf),
}

/// What every proxy of a mesh has in common.
#[derive(Clone, Debug)]
pub(crate) struct Proxies {
    pub(crate) data_plane: DataPlane,
    /// How long workload certificates live, as Go writes durations; the agent's default if not given.
    pub(crate) certificate_lifetime: Option<String>,
}

/// Rules that hold connections until the proxy listens: an application may start before it and loses nothing.
const HOLD: &str = "--hold-until-ready";

impl Proxies {
    /// Sets what is common in the proxy containers of a pod.
    fn adjust(&self, pod: &mut Object) {
        for field in ["containers", "initContainers"] {
            let containers = pod["spec"].get_mut(field).and_then(Value::as_array_mut).into_iter().flatten();
            for container in containers {
                if container["name"] == inject::INIT {
                    container["args"].as_array_mut().into_iter().for_each(|args| args.push(HOLD.into()));
                }
                if container["name"] != inject::PROXY {
                    continue;
                }
                if let (DataPlane::Envoy(_), Some(args)) = (&self.data_plane, container["args"].as_array_mut()) {
                    args.extend(["--proxy-binary".into(), ENVOY.into()]);
                }
                if let (Some(lifetime), Some(env)) = (&self.certificate_lifetime, container["env"].as_array_mut()) {
                    env.push(json!({"name": "SECRET_TTL", "value": lifetime}));
                }
            }
        }
    }
}

/// The injector as the local mesh sets it: rules over netlink, applications held until the proxy serves.
fn injector(store: &Store) -> Result<inject::Injector, String> {
    let config = store.get(&Key::new("ConfigMap", SYSTEM, "istio")).unwrap_or_default();
    let text = config["data"]["mesh"].as_str().unwrap_or_default();
    let mesh = match serde_norway::from_str::<Value>(text).map_err(|error| format!("ConfigMap istio: mesh: {error}"))? {
        Value::Null => api::MeshConfig::istio_default(),
        given => api::MeshConfig::overlay(&given).map_err(|problems| {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            format!("ConfigMap istio: mesh: {}", problems.join("; "))
        })?,
    };
    let mut values = inject::default_values();
    values["global"]["nativeNftables"] = true.into();
    values["global"]["hub"] = "proa".into();
    values["global"]["tag"] = "latest".into();
    let mut injector = inject::Injector::new(mesh, values);
    injector.proxy_configs = store.list("ProxyConfig").iter().filter_map(inject::proxy_config::Stated::read).collect();
    Ok(injector)
}

fn wanted(store: &Store, pod: &Object) -> bool {
    let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
    let labels = |value: &Value| strings(value).into_iter().collect();
    let of_namespace = store.get(&Key::new("Namespace", "", namespace)).unwrap_or_default();
    inject::policy::webhook_selects(
        &labels(&of_namespace["metadata"]["labels"]),
        &labels(&pod["metadata"]["labels"]),
        "default",
        false,
    )
}

/// Gives `pod` its proxy if its namespace or labels ask for one, and sets what all proxies have in common.
///
/// A pod whose proxy cannot be made runs without one, and the reason is said.
pub(crate) fn inject(store: &Store, mut pod: Object, proxies: &Proxies) -> Object {
    if wanted(store, &pod) {
        let deployment = pod["metadata"]["annotations"]["proa.dev/deployment"].as_str();
        let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default().to_owned();
        let owner = inject::Owner {
            api_version: if deployment.is_some() { "apps/v1" } else { "v1" }.to_owned(),
            kind: if deployment.is_some() { "Deployment" } else { "Pod" }.to_owned(),
            name: deployment.map_or_else(|| text("name"), str::to_owned),
            namespace: text("namespace"),
        };
        let injected =
            injector(store).and_then(|injector| injector.inject_pod(&pod, &owner).map_err(|error| error.to_string()));
        match injected {
            Ok(Some(injected)) => pod = injected,
            Ok(None) => {}
            Err(reason) => eprintln!("proa: pod/{} gets no sidecar: {reason}", text("name")),
        }
    }
    proxies.adjust(&mut pod);
    pod
}

fn field(name: &str, path: &str) -> Value {
    json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}})
}

/// The container and volumes of a gateway's proxy.
pub(crate) fn proxy_container(args: &[&str], owner: &str, workload: &str) -> (Value, Value) {
    let container = json!({
        "name": "istio-proxy",
        "image": "proa/proxyv2:latest",
        "args": args,
        "env": [
            {"name": "PILOT_CERT_PROVIDER", "value": "istiod"},
            {"name": "CA_ADDR", "value": "istiod.istio-system.svc:15012"},
            field("POD_NAME", "metadata.name"),
            field("POD_NAMESPACE", "metadata.namespace"),
            field("INSTANCE_IP", "status.podIP"),
            field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
            field("HOST_IP", "status.hostIP"),
            {"name": "PROXY_CONFIG", "value": "{}\n"},
            {"name": "ISTIO_META_CLUSTER_ID", "value": "Kubernetes"},
            field("ISTIO_META_NODE_NAME", "spec.nodeName"),
            {"name": "ISTIO_META_INTERCEPTION_MODE", "value": "REDIRECT"},
            {"name": "ISTIO_META_WORKLOAD_NAME", "value": workload},
            {"name": "ISTIO_META_OWNER", "value": owner},
            {"name": "ISTIO_META_MESH_ID", "value": "cluster.local"},
            {"name": "TRUST_DOMAIN", "value": "cluster.local"},
        ],
        "ports": [{"containerPort": 15090, "name": "http-envoy-prom", "protocol": "TCP"}],
        "readinessProbe": {"httpGet": {"path": "/healthz/ready", "port": 15021}, "periodSeconds": 15, "timeoutSeconds": 3, "failureThreshold": 4},
        "securityContext": {"runAsUser": 1337, "runAsGroup": 1337},
        "volumeMounts": [
            {"name": "istiod-ca-cert", "mountPath": "/var/run/secrets/istio"},
            {"name": "istio-data", "mountPath": "/var/lib/istio/data"},
            {"name": "istio-envoy", "mountPath": "/etc/istio/proxy"},
            {"name": "istio-token", "mountPath": "/var/run/secrets/tokens"},
            {"name": "istio-podinfo", "mountPath": "/etc/istio/pod"},
            {"name": "workload-socket", "mountPath": "/var/run/secrets/workload-spiffe-uds"},
        ],
    });
    let volumes = json!([
        {"name": "workload-socket", "emptyDir": {}},
        {"name": "istio-envoy", "emptyDir": {"medium": "Memory"}},
        {"name": "istio-data", "emptyDir": {}},
        {"name": "istio-podinfo", "downwardAPI": {"items": [
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
            {"path": "annotations", "fieldRef": {"fieldPath": "metadata.annotations"}},
        ]}},
        {"name": "istio-token", "projected": {"sources": [{"serviceAccountToken": {"audience": "istio-ca", "expirationSeconds": 43200, "path": "istio-token"}}]}},
        {"name": "istiod-ca-cert", "configMap": {"name": "istio-ca-root-cert"}},
    ]);
    (container, volumes)
}
