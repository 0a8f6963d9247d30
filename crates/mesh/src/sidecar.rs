//! Which pods get a proxy, and what is put into them? The local mesh's call of the injector, with its settings.

use serde_json::{Value, json};

use crate::object::{Key, Object};
use crate::store::Store;

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

fn wanted(store: &Store, pod: &Object) -> bool {
    let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
    let labels = store.get(&Key::new("Namespace", "", namespace)).map(|object| object["metadata"]["labels"].clone());
    let labels = labels.unwrap_or_default();
    let meta = &pod["metadata"];
    let own = [&meta["labels"], &meta["annotations"]].into_iter().find_map(|map| map["sidecar.istio.io/inject"].as_str());
    let by_namespace = labels["istio-injection"].as_str().map(|value| value == "enabled");
    match (own, by_namespace) {
        (Some(own), _) => own == "true" || own == "yes" || own == "on",
        (None, Some(enabled)) => enabled,
        (None, None) => labels.get("istio.io/rev").is_some(),
    }
}

/// Gives `pod` its proxy if its namespace or labels ask for one, and sets the data plane of proxies it has.
pub(crate) fn inject(store: &Store, mut pod: Object, data_plane: &DataPlane) -> Object {
    let has_proxy = pod["spec"]["containers"].as_array().is_some_and(|all| all.iter().any(|one| one["name"] == "istio-proxy"));
    if !has_proxy && wanted(store, &pod) {
        add(&mut pod);
    }
    if let DataPlane::Envoy(_) = data_plane {
        for field in ["containers", "initContainers"] {
            for container in pod["spec"][field].as_array_mut().into_iter().flatten() {
                if container["name"] == "istio-proxy"
                    && let Some(args) = container["args"].as_array_mut()
                {
                    args.push("--proxy-binary".into());
                    args.push(ENVOY.into());
                }
            }
        }
    }
    pod
}

fn field(name: &str, path: &str) -> Value {
    json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}})
}

/// Environment, volumes and mounts that every proxy has.
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

fn append(list: &mut Value, items: Value) {
    if !list.is_array() {
        *list = json!([]);
    }
    if let (Some(list), Value::Array(items)) = (list.as_array_mut(), items) {
        list.extend(items);
    }
}

fn add(pod: &mut Object) {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let namespace = text(&pod["metadata"]["namespace"]).unwrap_or_default();
    let deployment = text(&pod["metadata"]["annotations"]["proa.dev/deployment"]);
    let name = deployment.or_else(|| text(&pod["metadata"]["name"])).unwrap_or_default();
    let owner = format!("kubernetes://apis/apps/v1/namespaces/{namespace}/deployments/{name}");
    let args = ["proxy", "sidecar", "--domain", "$(POD_NAMESPACE).svc.cluster.local", "--proxyLogLevel=warning", "--proxyComponentLogLevel=misc:error", "--log_output_level=default:info"];
    let (container, volumes) = proxy_container(&args, &owner, &name);
    let apps: Vec<Value> = pod["spec"]["containers"].as_array().into_iter().flatten().map(|container| container["name"].clone()).collect();
    let app = ["app.kubernetes.io/name", "app"].into_iter().find_map(|label| text(&pod["metadata"]["labels"][label]));
    let revision = ["app.kubernetes.io/version", "version"].into_iter().find_map(|label| text(&pod["metadata"]["labels"][label]));
    append(&mut pod["spec"]["volumes"], volumes);
    append(&mut pod["spec"]["containers"], json!([container]));
    append(&mut pod["spec"]["initContainers"], json!([{
        "name": "istio-init",
        "image": "proa/proxyv2:latest",
        "args": ["istio-iptables", "-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-x", "", "-b", "*", "-d", "15090,15021,15020", "--native-nftables"],
        "securityContext": {"runAsUser": 0, "runAsGroup": 0},
    }]));
    let labels = &mut pod["metadata"]["labels"];
    for (label, value) in [
        ("security.istio.io/tlsMode", "istio".to_owned()),
        ("service.istio.io/canonical-name", app.unwrap_or(name)),
        ("service.istio.io/canonical-revision", revision.unwrap_or_else(|| "latest".to_owned())),
    ] {
        if labels[label].is_null() {
            labels[label] = value.into();
        }
    }
    pod["metadata"]["annotations"]["sidecar.istio.io/status"] =
        json!({"initContainers": ["istio-init"], "containers": ["istio-proxy"], "apps": apps}).to_string().into();
}
