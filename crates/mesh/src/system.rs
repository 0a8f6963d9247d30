//! What does every mesh have before a manifest is read? The namespace `istio-system` with istiod and an ingress gateway,
//! as ordinary resources that a manifest of the same name overrides.

use serde_json::{Value, json};

use crate::object::Object;
use crate::sidecar::proxy_container;

/// Namespace of control plane and gateway.
pub(crate) const SYSTEM: &str = "istio-system";
/// Name of the gateway's deployment and service.
pub(crate) const INGRESS: &str = "istio-ingressgateway";
/// The mesh configuration, unless a manifest replaces the ConfigMap `istio`.
const MESH: &str = "\
accessLogFile: /dev/stdout
defaultConfig:
  discoveryAddress: istiod.istio-system.svc:15012
  holdApplicationUntilProxyStarts: true
enablePrometheusMerge: true
rootNamespace: istio-system
trustDomain: cluster.local
";

fn meta(name: &str, labels: Value) -> Value {
    json!({"name": name, "namespace": SYSTEM, "labels": labels})
}

fn ports(list: &[(&str, u16, u16)]) -> Value {
    list.iter()
        .map(|(name, port, target)| json!({"name": name, "port": port, "targetPort": target, "protocol": "TCP"}))
        .collect()
}

/// The resources that every mesh starts with; `config` is the folder that istiod watches.
pub(crate) fn objects(config: &std::path::Path) -> Vec<Object> {
    let istiod = json!({"app": "istiod", "istio": "pilot"});
    let ingress = json!({"app": INGRESS, "istio": "ingressgateway"});
    let mut objects = vec![
        crate::object::namespace("default"),
        crate::object::namespace("kube-system"),
        crate::object::namespace(SYSTEM),
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "proa", "labels": {"kubernetes.io/hostname": "proa"}},
            "status": {"addresses": [{"type": "InternalIP", "address": crate::netns::NODE_ADDRESS.to_string()}]}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "kube-dns", "namespace": "kube-system"},
            "spec": {"clusterIP": crate::netns::DNS_ADDRESS.to_string(), "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]}}),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta("istio", json!({})), "data": {"mesh": MESH, "meshNetworks": "networks: {}"}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": meta("istiod", istiod.clone()), "spec": {
            "selector": istiod, "ports": ports(&[("grpc-xds", 15010, 15010), ("https-dns", 15012, 15012), ("https-webhook", 443, 15017), ("http-monitoring", 15014, 15014)])}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": meta(INGRESS, ingress.clone()), "spec": {
            "type": "LoadBalancer", "selector": ingress,
            "ports": ports(&[("status-port", 15021, 15021), ("http2", 80, 8080), ("https", 443, 8443), ("tcp", 31400, 31400)])}}),
        istiod_deployment(istiod, config),
        gateway_deployment(ingress),
    ];
    for account in ["istiod", INGRESS] {
        objects.push(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta(account, json!({}))}));
    }
    objects
}

fn deployment(name: &str, labels: Value, spec: Value) -> Object {
    let mut template = labels.clone();
    template["sidecar.istio.io/inject"] = "false".into();
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta(name, labels.clone()), "spec": {
        "replicas": 1, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": template}, "spec": spec}}})
}

fn istiod_deployment(labels: Value, config: &std::path::Path) -> Object {
    deployment(
        "istiod",
        labels,
        json!({
            "serviceAccountName": "istiod",
            "terminationGracePeriodSeconds": 2,
            "containers": [{
                "name": "discovery",
                "image": "proa/pilot:latest",
                "args": ["--configDir", "/etc/proa/config", "--meshConfig", "/etc/istio/config/mesh", "--log_output_level=default:info"],
                "env": [
                    {"name": "REVISION", "value": "default"},
                    {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "POD_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
                    {"name": "SERVICE_ACCOUNT", "valueFrom": {"fieldRef": {"fieldPath": "spec.serviceAccountName"}}},
                    {"name": "PROA_TOKEN_JWKS", "value": "/etc/cacerts/token-jwks.json"},
                    {"name": "CLUSTER_ID", "value": "Kubernetes"},
                ],
                "ports": [{"containerPort": 8080}, {"containerPort": 15010}, {"containerPort": 15012}, {"containerPort": 15014}, {"containerPort": 15017}],
                "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 3, "timeoutSeconds": 5},
                "volumeMounts": [
                    {"name": "config", "mountPath": "/etc/proa/config", "readOnly": true},
                    {"name": "mesh", "mountPath": "/etc/istio/config"},
                    {"name": "cacerts", "mountPath": "/etc/cacerts", "readOnly": true},
                ],
            }],
            "volumes": [
                {"name": "config", "hostPath": {"path": config}},
                {"name": "mesh", "configMap": {"name": "istio"}},
                {"name": "cacerts", "secret": {"secretName": "cacerts"}},
            ],
        }),
    )
}

fn gateway_deployment(labels: Value) -> Object {
    let args = [
        "proxy",
        "router",
        "--domain",
        "$(POD_NAMESPACE).svc.cluster.local",
        "--proxyLogLevel=warning",
        "--proxyComponentLogLevel=misc:error",
        "--log_output_level=default:info",
    ];
    let owner = format!("kubernetes://apis/apps/v1/namespaces/{SYSTEM}/deployments/{INGRESS}");
    let (mut container, volumes) = proxy_container(&args, &owner, INGRESS);
    if let Some(env) = container["env"].as_array_mut() {
        env.retain(|variable| variable["name"] != "ISTIO_META_INTERCEPTION_MODE");
        env.push(json!({"name": "ISTIO_META_UNPRIVILEGED_POD", "value": "true"}));
    }
    container["ports"] = json!([{"containerPort": 15021}, {"containerPort": 8080}, {"containerPort": 8443}, {"containerPort": 15090, "name": "http-envoy-prom"}]);
    let spec = json!({"serviceAccountName": INGRESS, "terminationGracePeriodSeconds": 5, "containers": [container], "volumes": volumes});
    deployment(INGRESS, labels, spec)
}
