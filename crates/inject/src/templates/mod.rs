//! What do the built-in templates add to a pod? Shared answers: images, environment, resources, volumes. Each template
//! is a function from [`Context`] to a strategic-merge patch; its shape follows Istio's chart.

pub mod gateway;
pub mod grpc;
mod otel;
pub mod sidecar;

use std::collections::BTreeMap;

use api::mesh::{InboundInterceptionMode, ProxyConfig};
use api::shape::Shape;
use serde_json::{Map, Value, json};

use crate::{Injector, Owner, PROXY};

/// Everything a template may look at.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Values, mesh, revision.
    pub injector: &'a Injector,
    /// The workload.
    pub owner: &'a Owner,
    /// The pod without what an earlier injection added.
    pub pod: &'a Value,
    /// The pod's annotations.
    pub annotations: &'a BTreeMap<String, String>,
    /// The pod's labels.
    pub labels: &'a BTreeMap<String, String>,
    /// The mesh's proxy configuration with the pod's on top.
    pub proxy_config: &'a ProxyConfig,
    /// The sidecar is an init container that keeps running.
    pub native: bool,
}

impl<'a> Context<'a> {
    /// A value of the installation, by JSON pointer; `null` when absent.
    pub fn value(&self, pointer: &str) -> &'a Value {
        self.injector.values.pointer(pointer).unwrap_or(&Value::Null)
    }

    /// The same, as text (`15020`, `true`, `proxyv2`; empty when absent).
    pub fn text(&self, pointer: &str) -> String {
        match self.value(pointer) {
            Value::String(s) => s.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        }
    }

    /// Whether a value is set and true.
    pub fn flag(&self, pointer: &str) -> bool {
        matches!(self.value(pointer), Value::Bool(true)) || self.text(pointer) == "true"
    }

    /// An annotation, or else the value.
    pub fn annotation(&self, name: &str, pointer: &str) -> String {
        self.annotations.get(name).cloned().unwrap_or_else(|| self.text(pointer))
    }

    /// Port of the agent's status server, as text; `0` turns it off.
    pub fn status_port(&self) -> String {
        let said = self.annotation("status.sidecar.istio.io/port", "/global/proxy/statusPort");
        if said.is_empty() { self.proxy_config.status_port.to_string() } else { said }
    }

    /// `REDIRECT`, `TPROXY` or `NONE`.
    pub fn interception_mode(&self) -> String {
        let own = self.annotations.get("sidecar.istio.io/interceptionMode").cloned();
        own.unwrap_or_else(|| self.proxy_config.interception_mode.to_string())
    }

    /// Whether the application waits for the proxy: when the installation or the proxy's configuration says so.
    pub fn hold_application(&self) -> bool {
        self.flag("/global/proxy/holdApplicationUntilProxyStarts")
            || self.proxy_config.hold_application_until_proxy_starts.unwrap_or(false)
    }

    /// An environment variable of the proxy's configuration; empty when it is not there.
    pub fn metadata(&self, name: &str) -> &'a str {
        self.proxy_config.proxy_metadata.get(name).map_or("", String::as_str)
    }

    /// Where the mesh's proxies send inbound traffic: `PASSTHROUGH` or `LOCALHOST`.
    fn inbound_policy(&self) -> String {
        self.injector.mesh.inbound_traffic_policy.as_ref().map_or("PASSTHROUGH".into(), |p| p.mode.to_string())
    }

    /// Adds the installation's seccomp profile to the security context of an injected container.
    pub fn seccomp_profile(&self, security: &mut Value) {
        let profile = self.value("/global/proxy/seccompProfile");
        if profile.as_object().is_some_and(|m| !m.is_empty()) {
            security["seccompProfile"] = profile.clone();
        }
    }

    /// The mesh's trust domain, or the installation's where the mesh states none.
    fn trust_domain(&self) -> String {
        let mesh = self.injector.mesh.trust_domain.clone();
        if mesh.is_empty() { self.text("/global/trustDomain") } else { mesh }
    }

    /// Directory of the certificates that a Lightstep tracer's TLS wants, as the bootstrap of older proxies reads them.
    fn lightstep_certificates(&self) -> Option<String> {
        let tls = self.proxy_config.write().pointer("/tracing/tlsSettings").cloned()?;
        (self.text("/global/proxy/tracer") == "lightstep")
            .then(|| directory(tls["caCertificates"].as_str().unwrap_or_default()))
    }

    /// Containers of the pod that are the application's.
    pub fn app_containers(&self) -> impl Iterator<Item = &'a Value> {
        self.pod["spec"]["containers"].as_array().into_iter().flatten().filter(|c| c["name"] != PROXY)
    }

    fn namespace(&self) -> &str {
        if self.owner.namespace.is_empty() { "default" } else { &self.owner.namespace }
    }

    /// The proxy's image: annotations, proxy configuration's image type, values.
    pub fn proxy_image(&self) -> String {
        let said = self.annotation("sidecar.istio.io/proxyImage", "/global/proxy/image");
        if said.contains('/') {
            return said;
        }
        // A bare name in the annotation names no image: the installation's is used.
        let image = self.text("/global/proxy/image");
        let annotated = self.annotations.get("sidecar.istio.io/proxyImageType").map(String::as_str);
        let configured = self.proxy_config.image.as_ref().map(|i| i.image_type.as_str());
        let kind = match annotated.or(configured) {
            Some(kind) if !kind.is_empty() => kind.to_owned(),
            _ => self.text("/global/variant"),
        };
        let image = if image.is_empty() { "proxyv2".to_owned() } else { image };
        format!("{}/{image}:{}", self.text("/global/hub"), typed_tag(&self.text("/global/tag"), &kind))
    }

    /// The image of the container that sets rules.
    pub fn init_image(&self) -> String {
        let image = self.text("/global/proxy_init/image");
        let said = self.annotation("sidecar.istio.io/proxyImage", "/global/proxy_init/image");
        match said {
            said if said.contains('/') => said,
            _ if image.is_empty() || image == "proxyv2" => self.proxy_image(),
            _ => format!("{}/{image}:{}", self.text("/global/hub"), self.text("/global/tag")),
        }
    }

    /// Adds the pull policy when one is set.
    pub fn pull_policy(&self, container: &mut Value) {
        let policy = self.text("/global/imagePullPolicy");
        if !policy.is_empty() {
            container["imagePullPolicy"] = policy.into();
        }
    }

    /// Requests and limits: annotations, or else the values without their nulls.
    pub fn resources(&self) -> Value {
        let own = |name: &str| self.annotations.get(name).cloned();
        let said = [
            ("requests", "cpu", own("sidecar.istio.io/proxyCPU")),
            ("requests", "memory", own("sidecar.istio.io/proxyMemory")),
            ("limits", "cpu", own("sidecar.istio.io/proxyCPULimit")),
            ("limits", "memory", own("sidecar.istio.io/proxyMemoryLimit")),
        ];
        if said.iter().all(|(_, _, v)| v.is_none()) {
            return without_nulls(self.value("/global/proxy/resources"));
        }
        let mut out = json!({});
        for (kind, resource, value) in said {
            if let Some(value) = value {
                out[kind][resource] = value.into();
            }
        }
        out
    }

    /// The agent's command line.
    pub fn agent_args(&self, role: &str) -> Vec<String> {
        let mut args: Vec<String> = ["proxy", role, "--domain"].map(str::to_owned).to_vec();
        args.push(format!("$(POD_NAMESPACE).svc.{}", self.text("/global/proxy/clusterDomain")));
        args.push(format!(
            "--proxyLogLevel={}",
            self.annotation("sidecar.istio.io/logLevel", "/global/proxy/logLevel")
        ));
        let component = self.annotation("sidecar.istio.io/componentLogLevel", "/global/proxy/componentLogLevel");
        args.push(format!("--proxyComponentLogLevel={component}"));
        args.push(format!(
            "--log_output_level={}",
            self.annotation("sidecar.istio.io/agentLogLevel", "/global/logging/level")
        ));
        let sts = self.text("/global/sts/servicePort");
        if !sts.is_empty() && sts != "0" {
            args.push(format!("--stsPort={sts}"));
        }
        if self.flag("/global/logAsJson") {
            args.push("--log_as_json".into());
        }
        let outlier = self.text("/global/proxy/outlierLogPath");
        if !outlier.is_empty() {
            args.push(format!("--outlierLogPath={outlier}"));
        }
        args
    }

    /// The environment that sidecars and gateways share.
    pub fn environment(&self, cpu_limit: bool) -> Vec<Value> {
        let pair = |name: &str, value: String| json!({"name": name, "value": value});
        let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
        let limit = |name: &str, resource: &str| json!({"name": name, "valueFrom": {"resourceFieldRef": {"resource": resource, "divisor": "1"}}});
        let mut env = Vec::new();
        if self.inbound_policy() == "LOCALHOST" {
            env.push(pair("REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION", "true".into()));
        }
        env.extend([
            pair("PILOT_CERT_PROVIDER", self.text("/global/pilotCertProvider")),
            pair("CA_ADDR", self.ca_address()),
            field("POD_NAME", "metadata.name"),
            field("POD_NAMESPACE", "metadata.namespace"),
            field("INSTANCE_IP", "status.podIP"),
            field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
            field("HOST_IP", "status.hostIP"),
        ]);
        if cpu_limit {
            env.push(limit("ISTIO_CPU_LIMIT", "limits.cpu"));
        }
        env.push(pair("PROXY_CONFIG", format!("{}\n", clean_proxy_config(self.proxy_config))));
        env.push(pair("ISTIO_META_POD_PORTS", self.pod_ports()));
        let names: Vec<&str> = self.app_containers().filter_map(|c| c["name"].as_str()).collect();
        env.push(pair("ISTIO_META_APP_CONTAINERS", names.join(",")));
        if cpu_limit {
            env.push(limit("GOMEMLIMIT", "limits.memory"));
        }
        let policy = &self.injector.compliance_policy;
        if !policy.is_empty() {
            env.push(pair("COMPLIANCE_POLICY", policy.clone()));
            if policy == "fips-140-3" {
                env.push(pair("GODEBUG", "fips140=only".into()));
            }
        }
        let cluster = self.text("/global/multiCluster/clusterName");
        env.push(pair("ISTIO_META_CLUSTER_ID", if cluster.is_empty() { "Kubernetes".into() } else { cluster }));
        env.push(field("ISTIO_META_NODE_NAME", "spec.nodeName"));
        env.push(pair("ISTIO_META_INTERCEPTION_MODE", self.interception_mode()));
        let label = self.labels.get("service.istio.io/workload-name").filter(|l| !l.is_empty());
        let workload = label.unwrap_or(&self.owner.name);
        if !workload.is_empty() {
            env.push(pair("ISTIO_META_WORKLOAD_NAME", workload.clone()));
        }
        if !self.owner.name.is_empty() && !self.owner.api_version.is_empty() {
            let plural = format!("{}s", self.owner.kind.to_ascii_lowercase());
            let (api, ns, name) = (&self.owner.api_version, self.namespace(), &self.owner.name);
            env.push(pair("ISTIO_META_OWNER", format!("kubernetes://apis/{api}/namespaces/{ns}/{plural}/{name}")));
        }
        if self.annotations.contains_key("sidecar.istio.io/bootstrapOverride") {
            env.push(pair("ISTIO_BOOTSTRAP_OVERRIDE", "/etc/istio/custom-bootstrap/custom_bootstrap.json".into()));
        }
        let trust_domain = &self.trust_domain();
        let mesh_id = [self.text("/global/meshID"), self.proxy_config.mesh_id.clone(), trust_domain.clone()];
        if let Some(id) = mesh_id.into_iter().find(|id| !id.is_empty()) {
            env.push(pair("ISTIO_META_MESH_ID", id));
        }
        let domain = if trust_domain.is_empty() { "cluster.local" } else { trust_domain };
        env.push(pair("TRUST_DOMAIN", domain.into()));
        if let Some(attributes) = otel::attributes(self) {
            env.push(pair("OTEL_RESOURCE_ATTRIBUTES", attributes));
        }
        if self.text("/global/proxy/tracer") == "datadog" {
            let text = self.annotations.get("apm.datadoghq.com/env").map_or("{}", String::as_str);
            if let Ok(Value::Object(variables)) = serde_json::from_str(text) {
                let plain = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
                env.extend(variables.iter().map(|(name, value)| pair(name, plain(value))));
            }
        }
        for (name, value) in &self.proxy_config.proxy_metadata {
            env.push(pair(name, value.clone()));
        }
        env
    }

    fn ca_address(&self) -> String {
        let said = self.text("/global/caAddress");
        if !said.is_empty() {
            return said;
        }
        let revision = self.text("/revision");
        let suffix = if revision.is_empty() || revision == "default" { String::new() } else { format!("-{revision}") };
        format!("istiod{suffix}.{}.svc:15012", self.text("/global/istioNamespace"))
    }

    fn pod_ports(&self) -> String {
        let ports = self.pod["spec"]["containers"].as_array().into_iter().flatten();
        let ports: Vec<String> = ports
            .flat_map(|c| c["ports"].as_array().into_iter().flatten())
            .filter(|p| p["protocol"] != "UDP" && p["protocol"] != "SCTP")
            .map(Value::to_string)
            .collect();
        if ports.is_empty() { "[\n]".into() } else { format!("[\n    {}\n]", ports.join("\n    ,")) }
    }

    /// Readiness of the proxy; absent when the status port is off.
    pub fn readiness_probe(&self) -> Option<Value> {
        if self.status_port() == "0" {
            return None;
        }
        let number = |name: &str, pointer: &str| {
            let name = format!("readiness.status.sidecar.istio.io/{name}");
            self.annotation(&name, pointer).parse::<i64>().unwrap_or_default()
        };
        let mut probe = json!({
            "httpGet": {"path": "/healthz/ready", "port": 15021},
            "periodSeconds": number("periodSeconds", "/global/proxy/readinessPeriodSeconds"),
            "timeoutSeconds": 3,
            "failureThreshold": number("failureThreshold", "/global/proxy/readinessFailureThreshold"),
        });
        let delay = number("initialDelaySeconds", "/global/proxy/readinessInitialDelaySeconds");
        if delay != 0 {
            probe["initialDelaySeconds"] = delay.into();
        }
        Some(probe)
    }

    /// Mounts that every proxy has; `crl` adds the revocation list.
    pub fn volume_mounts(&self, crl: bool) -> Vec<Value> {
        let mount = |path: &str, name: &str| json!({"mountPath": path, "name": name});
        let istiod = self.text("/global/pilotCertProvider") == "istiod";
        let mut mounts = vec![
            mount("/var/run/secrets/workload-spiffe-uds", "workload-socket"),
            mount("/var/run/secrets/credential-uds", "credential-socket"),
        ];
        mounts.push(if self.text("/global/caName") == GKE_CA {
            json!({"mountPath": CREDENTIALS, "name": "gke-workload-certificate", "readOnly": true})
        } else {
            mount(CREDENTIALS, "workload-certs")
        });
        if istiod {
            mounts.push(mount("/var/run/secrets/istio", "istiod-ca-cert"));
            if crl {
                mounts.push(mount("/var/run/secrets/istio/crl", "istio-ca-crl"));
            }
        }
        mounts.push(mount("/var/lib/istio/data", "istio-data"));
        if self.annotations.contains_key("sidecar.istio.io/bootstrapOverride") {
            mounts.push(mount("/etc/istio/custom-bootstrap", "custom-bootstrap-volume"));
        }
        mounts.push(mount("/etc/istio/proxy", "istio-envoy"));
        mounts.push(mount("/var/run/secrets/tokens", "istio-token"));
        if self.flag("/global/mountMtlsCerts") {
            mounts.push(json!({"mountPath": "/etc/certs/", "name": "istio-certs", "readOnly": true}));
        }
        mounts.push(mount("/etc/istio/pod", "istio-podinfo"));
        if let Some(directory) = self.lightstep_certificates() {
            mounts.push(json!({"mountPath": directory, "name": "lightstep-certs", "readOnly": true}));
        }
        for (name, value) in self.annotation_object("sidecar.istio.io/userVolumeMount") {
            let mut mount = value;
            mount["name"] = name.into();
            mounts.push(mount);
        }
        mounts
    }

    /// Volumes that every proxy has.
    pub fn volumes(&self, crl: bool) -> Vec<Value> {
        let mut volumes = Vec::new();
        if let Some(name) = self.annotations.get("sidecar.istio.io/bootstrapOverride") {
            volumes.push(json!({"name": "custom-bootstrap-volume", "configMap": {"name": name}}));
        }
        for name in ["workload-socket", "credential-socket"] {
            volumes.push(json!({"name": name, "emptyDir": {}}));
        }
        volumes.push(if self.text("/global/caName") == GKE_CA {
            json!({"name": "gke-workload-certificate", "csi": {"driver": "workloadcertificates.security.cloud.google.com"}})
        } else {
            json!({"name": "workload-certs", "emptyDir": {}})
        });
        let path = |path: &str| json!({"path": path, "fieldRef": {"fieldPath": format!("metadata.{path}")}});
        volumes.extend([
            json!({"name": "istio-envoy", "emptyDir": {"medium": "Memory"}}),
            json!({"name": "istio-data", "emptyDir": {}}),
            json!({"name": "istio-podinfo", "downwardAPI": {"items": [path("labels"), path("annotations")]}}),
            json!({"name": "istio-token", "projected": {"sources": [{"serviceAccountToken": {
                "path": "istio-token", "expirationSeconds": 43200, "audience": self.text("/global/sds/token/aud"),
            }}]}}),
        ]);
        if self.text("/global/pilotCertProvider") == "istiod" {
            volumes.push(json!({"name": "istiod-ca-cert", "configMap": {"name": "istio-ca-root-cert"}}));
            if crl {
                volumes.push(json!({"name": "istio-ca-crl", "configMap": {"name": "istio-ca-crl", "optional": true}}));
            }
        }
        if self.flag("/global/mountMtlsCerts") {
            let account =
                self.pod["spec"]["serviceAccountName"].as_str().filter(|s| !s.is_empty()).unwrap_or("default");
            volumes.push(
                json!({"name": "istio-certs", "secret": {"optional": true, "secretName": format!("istio.{account}")}}),
            );
        }
        if self.lightstep_certificates().is_some() {
            volumes.push(
                json!({"name": "lightstep-certs", "secret": {"optional": true, "secretName": "lightstep.cacert"}}),
            );
        }
        for (name, value) in self.annotation_object("sidecar.istio.io/userVolume") {
            let mut volume = value;
            volume["name"] = name.into();
            volumes.push(volume);
        }
        volumes
    }

    fn annotation_object(&self, name: &str) -> Map<String, Value> {
        let text = self.annotations.get(name).map_or("{}", String::as_str);
        match serde_json::from_str(text) {
            Ok(Value::Object(map)) => map.into_iter().filter(|(_, v)| v.is_object()).collect(),
            _ => Map::new(),
        }
    }

    /// Labels that telemetry groups by.
    pub fn canonical_labels(&self) -> Map<String, Value> {
        let first = |keys: &[&str]| keys.iter().find_map(|k| self.labels.get(*k).filter(|v| !v.is_empty()));
        let name = first(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]);
        let name = name.unwrap_or(&self.owner.name).chars().take(63).collect::<String>();
        let revision = first(&["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]);
        let mut out = Map::new();
        out.insert("service.istio.io/canonical-name".into(), name.trim_end_matches('-').into());
        out.insert("service.istio.io/canonical-revision".into(), revision.map_or("latest", String::as_str).into());
        out
    }

    /// Pull secrets of the installation.
    pub fn image_pull_secrets(&self) -> Vec<Value> {
        let names = self.value("/global/imagePullSecrets").as_array().into_iter().flatten();
        names.map(|name| json!({ "name": name })).collect()
    }

    /// What custom templates see. Fields below the first level keep their JSON names; lookup does not mind the case.
    pub fn template_data(&self) -> Value {
        let mut spec = self.pod["spec"].clone();
        if spec.get("containers").is_none() {
            spec["containers"] = json!([]);
        }
        let meta = &self.pod["metadata"];
        json!({
            "TypeMeta": {"APIVersion": self.owner.api_version, "Kind": self.owner.kind},
            "DeploymentMeta": {"Name": self.owner.name, "Namespace": self.owner.namespace},
            "ObjectMeta": {
                "Name": meta["name"], "Namespace": meta["namespace"],
                "Labels": self.labels, "Annotations": self.annotations,
            },
            "Spec": spec,
            "ProxyConfig": self.proxy_config.write(),
            "MeshConfig": self.injector.mesh.write(),
            "Values": self.injector.values,
            "Revision": self.injector.revision,
            "NativeSidecars": self.native,
            "ProxyImage": self.proxy_image(),
            "ProxyUID": self.injector.proxy_user.0, "ProxyGID": self.injector.proxy_user.1,
            "InboundTrafficPolicyMode": self.inbound_policy().to_ascii_lowercase(),
            "CompliancePolicy": self.injector.compliance_policy,
        })
    }
}

/// Where a workload's certificates are found when something else than the agent issues them.
const CREDENTIALS: &str = "/var/run/secrets/workload-spiffe-credentials";
/// `global.caName` of certificates that Google's clusters issue.
const GKE_CA: &str = "GkeWorkloadCertificate";

/// A path up to its last slash, that included; empty for a bare name.
pub fn directory(path: &str) -> String {
    path.rfind('/').map_or_else(String::new, |at| path[..=at].to_owned())
}

/// `tag-distroless` for an image type, with an earlier type removed.
fn typed_tag(tag: &str, kind: &str) -> String {
    let base = ["-distroless", "-debug"].iter().find_map(|s| tag.strip_suffix(s)).unwrap_or(tag);
    match kind {
        "" => tag.to_owned(),
        "default" => base.to_owned(),
        kind => format!("{base}-{kind}"),
    }
}

fn without_nulls(v: &Value) -> Value {
    match v {
        Value::Object(map) => Value::Object(
            map.iter()
                .filter(|(_, v)| !v.is_null())
                .map(|(k, v)| (k.clone(), without_nulls(v)))
                .filter(|(_, v)| v != &json!({}))
                .collect(),
        ),
        other => other.clone(),
    }
}

/// The proxy configuration as `PROXY_CONFIG` carries it: only what differs from Istio's defaults.
pub fn clean_proxy_config(config: &ProxyConfig) -> Value {
    clean(&config.write())
}

/// The same for a configuration that a template hands on; other messages stay as they are.
pub fn clean(message: &Value) -> Value {
    let defaults = ProxyConfig::istio_default().write();
    match message {
        // Every proxy configuration names its program, nothing else does.
        Value::Object(map) if map.contains_key("binaryPath") => {
            let kept = map.iter().filter(|(k, v)| defaults.get(*k) != Some(*v));
            Value::Object(kept.map(|(k, v)| (k.clone(), v.clone())).collect())
        }
        other => other.clone(),
    }
}

/// Whether the mesh redirects inbound traffic at all.
pub fn intercepts(mode: &str) -> bool {
    mode != InboundInterceptionMode::None.as_str()
}
