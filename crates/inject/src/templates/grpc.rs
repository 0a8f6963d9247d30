//! What do the templates for applications that speak xDS themselves add? `grpc-agent`: an agent without a proxy.
//! `grpc-simple`: nothing but the bootstrap file, written once.

use serde_json::{Value, json};

use super::Context;
use crate::PROXY;

/// The patch.
pub fn render(c: &Context<'_>) -> Value {
    let pair = |name: &str, value: &str| json!({"name": name, "value": value});
    let mut env = vec![pair("ISTIO_META_GENERATOR", "grpc"), pair("OUTPUT_CERTS", "/var/lib/istio/data")];
    env.extend(c.environment(false).into_iter().filter(|e| e["name"] != "ISTIO_META_INTERCEPTION_MODE"));
    env.extend([pair("ISTIO_META_DNS_CAPTURE", "false"), pair("DISABLE_ENVOY", "true")]);
    let renamed = |items: Vec<Value>, drop: &[&str]| -> Vec<Value> {
        let kept = items.into_iter().filter(|i| !drop.iter().any(|d| i["name"] == *d));
        kept.map(|mut i| {
            if i["name"] == "istio-envoy" {
                i["name"] = "istio-xds".into();
            }
            i
        })
        .collect()
    };
    let mut agent = json!({
        "name": PROXY,
        "image": c.proxy_image(),
        "ports": [{"containerPort": 15020, "protocol": "TCP", "name": "mesh-metrics"}],
        "args": c.agent_args("sidecar"),
        "env": env,
        "lifecycle": {"postStart": {"exec": {"command": [
            "pilot-agent", "wait", format!("--url=http://localhost:{}/healthz/ready", c.status_port()),
        ]}}},
        "resources": c.resources(),
        "volumeMounts": renamed(c.volume_mounts(false), &["credential-socket"]),
    });
    c.pull_policy(&mut agent);
    if let Some(mut probe) = c.readiness_probe() {
        probe["httpGet"]["port"] = 15020.into();
        agent["readinessProbe"] = probe;
    }
    let mut containers = vec![agent];
    for app in c.app_containers() {
        containers.push(json!({
            "name": app["name"],
            "env": [
                pair("GRPC_XDS_EXPERIMENTAL_SECURITY_SUPPORT", "true"),
                pair("GRPC_XDS_BOOTSTRAP", "/etc/istio/proxy/grpc-bootstrap.json"),
            ],
            "volumeMounts": [
                {"name": "istio-data", "mountPath": "/var/lib/istio/data"},
                {"name": "istio-xds", "mountPath": "/etc/istio/proxy"},
                {"name": "workload-certs", "mountPath": "/var/run/secrets/workload-spiffe-credentials"},
            ],
        }));
    }
    let mut annotations = super::sidecar::common_annotations(c);
    annotations.insert("sidecar.istio.io/rewriteAppHTTPProbers".into(), "false".into());
    json!({
        "metadata": {"annotations": annotations, "labels": c.canonical_labels()},
        "spec": {"containers": containers, "volumes": renamed(c.volumes(false), &["credential-socket"])},
    })
}

/// Where `grpc-simple` leaves the bootstrap.
const SIMPLE_FOLDER: &str = "/var/lib/grpc/data/";
/// Writes it: the control plane's address and the node, as gRPC's xDS libraries read them.
const SIMPLE_SCRIPT: &str = r#"NODE_ID="sidecar~${INSTANCE_IP}~${POD_NAME}.${POD_NAMESPACE}~cluster.local"
SERVER_URI="dns:///istiod.${ISTIO_NAMESPACE}.svc:15010"
echo '
{
  "xds_servers": [
    {
      "server_uri": "'${SERVER_URI}'",
      "channel_creds": [{"type": "insecure"}],
      "server_features" : ["xds_v3"]
    }
  ],
  "node": {
    "id": "'${NODE_ID}'",
    "metadata": {
      "GENERATOR": "grpc"
    }
  }
}' > /var/lib/grpc/data/bootstrap.json"#;

/// The patch of `grpc-simple`.
pub fn simple(c: &Context<'_>) -> Value {
    let pair = |name: &str, value: &str| json!({"name": name, "value": value});
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let mount = json!([{"mountPath": SIMPLE_FOLDER, "name": "grpc-io-proxyless-bootstrap"}]);
    let containers: Vec<Value> = c
        .app_containers()
        .map(|app| {
            json!({
                "name": app["name"],
                "env": [
                    pair("GRPC_XDS_BOOTSTRAP", &format!("{SIMPLE_FOLDER}bootstrap.json")),
                    pair("GRPC_GO_LOG_VERBOSITY_LEVEL", "99"),
                    pair("GRPC_GO_LOG_SEVERITY_LEVEL", "info"),
                ],
                "volumeMounts": mount,
            })
        })
        .collect();
    json!({"spec": {
        "initContainers": [{
            "name": "grpc-bootstrap-init",
            "image": "busybox:1.28",
            "volumeMounts": mount,
            "env": [
                field("INSTANCE_IP", "status.podIP"),
                field("POD_NAME", "metadata.name"),
                field("POD_NAMESPACE", "metadata.namespace"),
                pair("ISTIO_NAMESPACE", &format!("{}\n", c.text("/global/istioNamespace"))),
            ],
            "command": ["sh", "-c", SIMPLE_SCRIPT],
        }],
        "containers": containers,
        "volumes": [{"name": "grpc-io-proxyless-bootstrap", "emptyDir": {}}],
    }})
}
