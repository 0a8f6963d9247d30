//! What does the gateway template add? A proxy that is the pod's main container.

use serde_json::{Map, Value, json};

use super::Context;
use crate::PROXY;

/// The patch.
pub fn render(c: &Context<'_>) -> Value {
    let mut proxy = json!({
        "name": PROXY,
        "image": c.proxy_image(),
        "ports": [{"containerPort": 15090, "protocol": "TCP", "name": "http-envoy-prom"}],
        "args": c.agent_args("router"),
        "env": c.environment(true),
        "securityContext": {"runAsUser": c.injector.proxy_user.0, "runAsGroup": c.injector.proxy_user.1},
        "volumeMounts": c.volume_mounts(false),
    });
    c.pull_policy(&mut proxy);
    if let Some(probe) = c.readiness_probe() {
        proxy["readinessProbe"] = probe;
    }
    let mut annotations = Map::new();
    annotations.insert("istio.io/rev".into(), c.injector.revision.as_str().into());
    for name in ["kubectl.kubernetes.io/default-logs-container", "kubectl.kubernetes.io/default-container"] {
        if !c.annotations.contains_key(name) {
            annotations.insert(name.into(), PROXY.into());
        }
    }
    let stated = |pointer: &str| Some(c.value(pointer)).filter(|v| v.as_object().is_some_and(|m| !m.is_empty()));
    let low_ports = json!({"sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]});
    let mut security = stated("/gateways/securityContext").cloned().unwrap_or(low_ports);
    if let Some(profile) = stated("/gateways/seccompProfile") {
        security["seccompProfile"] = profile.clone();
    }
    let mut spec = json!({
        "securityContext": security,
        "containers": [proxy],
        "volumes": c.volumes(false),
    });
    let secrets = c.image_pull_secrets();
    if !secrets.is_empty() {
        spec["imagePullSecrets"] = secrets.into();
    }
    json!({"metadata": {"annotations": annotations, "labels": c.canonical_labels()}, "spec": spec})
}
