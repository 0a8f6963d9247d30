//! What does a pod look like with its sidecar? Pure function from pod, mesh configuration and values to pod.
//!
//! [`Injector::inject_pod`] is what the webhook and the local mesh call; [`Injector::inject_manifest`] is `kube-inject`.
//! Order of work: should it be injected ([`policy`]); render the templates ([`templates`]); merge them into the pod as
//! Kubernetes merges patches ([`merge`]); put the pod's own settings for injected containers back on top; then
//! probes, metrics, status and order ([`post`]). [`admission`] wraps it for the API server, [`config`] reads
//! an installation's settings. Deliberately absent: HTTP, files, and the data of a cluster.

pub mod admission;
pub mod annotations;
pub mod config;
pub mod document;
pub mod gotemplate;
pub mod json_patch;
pub mod merge;
pub mod policy;
pub mod post;
pub mod proxy_config;
pub mod templates;

use std::collections::BTreeMap;

use api::kube::PodTemplate;
use api::mesh::MeshConfig;
use api::shape::{Problem, Reader, Shape};
use serde_json::{Map, Value, json};

/// Name of the injected proxy container.
pub const PROXY: &str = "istio-proxy";
/// Name of the container that sets the interception rules.
pub const INIT: &str = "istio-init";
/// Name of the container that checks rules set by the CNI plugin.
pub const VALIDATION: &str = "istio-validation";
/// User and group of the proxy unless a platform wants others.
pub const DEFAULT_USER: i64 = 1337;
/// Image that means "whatever the template says".
pub const AUTO_IMAGE: &str = "auto";

/// What can be wrong with an injection.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum InjectError {
    /// An annotation cannot be used.
    #[error("annotation {name}: {reason}")]
    Annotation {
        /// The annotation.
        name: String,
        /// Why.
        reason: String,
    },
    /// `proxy.istio.io/config` cannot be read.
    #[error("annotation proxy.istio.io/config: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    ProxyConfig(Vec<Problem>),
    /// The pod asks for a template that does not exist.
    #[error("requested template {name:?} not found; have {have}")]
    NoTemplate {
        /// What was asked for.
        name: String,
        /// What there is.
        have: String,
    },
    /// A custom template does not render.
    #[error("template {name:?}: {reason}")]
    Template {
        /// Which.
        name: String,
        /// Why.
        reason: String,
    },
    /// The pod is not one.
    #[error("pod: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Pod(Vec<Problem>),
    /// A document is not YAML.
    #[error("{0}")]
    Yaml(#[from] api::yaml::SyntaxError),
}

/// Everything injection depends on besides the pod.
#[derive(Clone, Debug)]
pub struct Injector {
    /// Helm-style values, see [`default_values`].
    pub values: Value,
    /// The mesh configuration.
    pub mesh: MeshConfig,
    /// `ProxyConfig` resources of all namespaces.
    pub proxy_configs: Vec<proxy_config::Stated>,
    /// The revision, `default` when there is only one.
    pub revision: String,
    /// The sidecar is an init container that keeps running (Kubernetes 1.29 and later).
    pub native_sidecar: bool,
    /// Templates used when a pod names none.
    pub default_templates: Vec<String>,
    /// Custom templates in Go's template language, by name; they come before the built-in ones.
    pub templates: BTreeMap<String, String>,
    /// `COMPLIANCE_POLICY` of the control plane, passed on to proxies; usually empty.
    pub compliance_policy: String,
    /// Which pods are injected, see [`policy`].
    pub policy: policy::Policy,
    /// User and group of the proxy; rules exempt this user. OpenShift wants them from the namespace's range, see
    /// [`policy::openshift_user`].
    pub proxy_user: (i64, i64),
    /// Environment of every injected proxy, as the webhook's URL may give it, see [`path_environment`].
    pub proxy_env: BTreeMap<String, String>,
    /// Annotations added to every injected pod.
    pub injected_annotations: BTreeMap<String, String>,
}

/// Where a pod comes from; names the workload in metrics.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Owner {
    /// `apps/v1`.
    pub api_version: String,
    /// `Deployment`.
    pub kind: String,
    /// The workload's name.
    pub name: String,
    /// The namespace; `default` when empty.
    pub namespace: String,
}

impl Injector {
    /// An injector for mesh and values; everything else as Istio has it by default.
    pub fn new(mesh: MeshConfig, values: Value) -> Self {
        let webhook = &values["sidecarInjectorWebhook"];
        let strings = |v: &Value| -> Vec<String> {
            v.as_array().into_iter().flatten().filter_map(|s| s.as_str().map(str::to_owned)).collect()
        };
        let map = |v: &Value| -> BTreeMap<String, String> {
            v.as_object().into_iter().flatten().filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect()
        };
        let defaults = strings(&webhook["defaultTemplates"]);
        let revision = values["revision"].as_str().filter(|r| !r.is_empty()).unwrap_or("default").to_owned();
        Injector {
            default_templates: if defaults.is_empty() { vec!["sidecar".into()] } else { defaults },
            templates: map(&webhook["templates"]),
            injected_annotations: map(&webhook["injectedAnnotations"]),
            policy: policy::Policy::from_values(&values),
            values,
            mesh,
            proxy_configs: Vec::new(),
            revision,
            native_sidecar: true,
            compliance_policy: String::new(),
            proxy_user: (DEFAULT_USER, DEFAULT_USER),
            proxy_env: BTreeMap::new(),
        }
    }

    /// Injects a pod (or a pod template: an object with `metadata` and `spec`). `None`: it is to stay as it is.
    ///
    /// A pod that was injected before comes out as if it were injected for the first time.
    ///
    /// # Errors
    /// The pod's annotations or a custom template cannot be used.
    pub fn inject_pod(&self, pod: &Value, owner: &Owner) -> Result<Option<Value>, InjectError> {
        if !self.policy.requires_injection(pod, &owner.namespace) {
            return Ok(None);
        }
        self.force_inject(pod, owner).map(Some)
    }

    /// Injects without asking whether to.
    ///
    /// # Errors
    /// As [`Injector::inject_pod`].
    pub fn force_inject(&self, pod: &Value, owner: &Owner) -> Result<Value, InjectError> {
        check_shape(pod)?;
        let own = string_map(&pod["metadata"]["annotations"]);
        annotations::validate(&own)?;
        let labels = string_map(&pod["metadata"]["labels"]);
        let namespace = if owner.namespace.is_empty() { "default" } else { &owner.namespace };
        let annotation = own.get("proxy.istio.io/config").map(String::as_str);
        let proxy_config = proxy_config::effective(&self.mesh, &self.proxy_configs, namespace, &labels, annotation)
            .map_err(InjectError::ProxyConfig)?;
        let native = match own.get("sidecar.istio.io/nativeSidecar").map(String::as_str) {
            None | Some("") => self.native_sidecar,
            Some(word) => word != "false",
        };
        let stripped = post::strip(pod);
        let context = templates::Context {
            injector: self,
            owner,
            pod: &stripped,
            annotations: &own,
            labels: &labels,
            proxy_config: &proxy_config,
            native,
        };
        let mut template_pod = Value::Object(Map::new());
        let mut merged = stripped.clone();
        for name in self.selected_templates(&own) {
            let patch = self.render(&name, &context)?;
            template_pod = merge::apply(&template_pod, &patch);
            merged = merge::apply(&merged, &patch);
        }
        let merged =
            post::reapply_overrides(merged, &stripped, &template_pod, pod, context.interception_mode() == "TPROXY");
        Ok(post::finish(&context, merged, &template_pod))
    }

    fn selected_templates(&self, own: &BTreeMap<String, String>) -> Vec<String> {
        match own.get("inject.istio.io/templates") {
            Some(list) => list.split(',').map(|s| s.trim().to_owned()).filter(|s| !s.is_empty()).collect(),
            None => self.default_templates.clone(),
        }
    }

    fn render(&self, name: &str, context: &templates::Context<'_>) -> Result<Value, InjectError> {
        if let Some(text) = self.templates.get(name) {
            let err = |reason: String| InjectError::Template { name: name.to_owned(), reason };
            let rendered = gotemplate::render(text, &context.template_data()).map_err(|e| err(e.to_string()))?;
            return api::yaml::parse(&rendered).map_err(|e| err(e.to_string()));
        }
        match name {
            "sidecar" => Ok(templates::sidecar::render(context)),
            "gateway" => Ok(templates::gateway::render(context)),
            "grpc-agent" => Ok(templates::grpc::render(context)),
            "grpc-simple" => Ok(templates::grpc::simple(context)),
            _ => {
                let mut have: Vec<&str> = self.templates.keys().map(String::as_str).collect();
                have.extend(["sidecar", "gateway", "grpc-agent", "grpc-simple"]);
                Err(InjectError::NoTemplate { name: name.to_owned(), have: have.join(", ") })
            }
        }
    }
}

/// The environment a webhook's path carries, in either form: `/inject/cluster/NAME/net/NETWORK/my_var/value`, where a
/// slash inside of a value is written `--slash--`, or `/inject/:ENV:cluster=NAME:ENV:my_var=value`. Keys without a value
/// are left out.
pub fn path_environment(path: &str) -> BTreeMap<String, String> {
    const SEPARATOR: &str = ":ENV:";
    let rest = path.splitn(3, '/').nth(2).unwrap_or_default();
    let pairs: Vec<(String, String)> = if rest.starts_with(SEPARATOR) {
        let pairs = rest.split(SEPARATOR).filter_map(|pair| pair.split_once('='));
        pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    } else {
        let parts: Vec<&str> = rest.split('/').collect();
        parts.chunks_exact(2).map(|pair| (pair[0].to_owned(), pair[1].replace("--slash--", "/"))).collect()
    };
    let named = |key: String| match key.as_str() {
        "cluster" => "ISTIO_META_CLUSTER_ID".to_owned(),
        "net" => "ISTIO_META_NETWORK".to_owned(),
        other => other.to_uppercase(),
    };
    pairs.into_iter().filter(|(k, v)| !k.is_empty() && !v.is_empty()).map(|(k, v)| (named(k), v)).collect()
}

/// Refuses what cannot be worked on; fields that are merely unknown are none of the injector's business.
fn check_shape(pod: &Value) -> Result<(), InjectError> {
    let mut reader = Reader::default();
    PodTemplate::read(pod, &mut reader);
    let mut problems = reader.finish();
    problems.retain(|p| !p.message.starts_with("unknown field"));
    if !pod["spec"].is_object() {
        problems.push(Problem::new("spec", "required"));
    }
    if problems.is_empty() { Ok(()) } else { Err(InjectError::Pod(problems)) }
}

/// Text entries of a JSON object.
pub(crate) fn string_map(v: &Value) -> BTreeMap<String, String> {
    v.as_object().into_iter().flatten().filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect()
}

/// The values of an installation without options: what the injector reads of Istio's chart.
pub fn default_values() -> Value {
    json!({
        "global": {
            "caAddress": "", "hub": "docker.io/istio", "tag": "1.32.0", "variant": "", "imagePullPolicy": "",
            "imagePullSecrets": [], "istioNamespace": "istio-system", "logAsJson": false,
            "logging": {"level": "default:info"}, "meshID": "", "mountMtlsCerts": false,
            "multiCluster": {"clusterName": ""}, "nativeNftables": false, "network": "", "pilotCertProvider": "istiod",
            "proxy": {
                "autoInject": "enabled", "clusterDomain": "cluster.local", "componentLogLevel": "misc:error",
                "excludeIPRanges": "", "excludeInboundPorts": "", "excludeOutboundPorts": "", "image": "proxyv2",
                "includeIPRanges": "*", "includeInboundPorts": "*", "includeOutboundPorts": "", "logLevel": "warning",
                "outlierLogPath": "", "privileged": false, "readinessFailureThreshold": 4,
                "readinessInitialDelaySeconds": 0, "readinessPeriodSeconds": 15,
                "resources": {
                    "limits": {"cpu": "2000m", "memory": "1024Mi"}, "requests": {"cpu": "100m", "memory": "128Mi"},
                },
                "startupProbe": {"enabled": true, "failureThreshold": 600}, "statusPort": 15020, "tracer": "none",
            },
            "proxy_init": {"image": "proxyv2", "forceApplyIptables": false},
            "sds": {"token": {"aud": "istio-ca"}}, "sts": {"servicePort": 0},
        },
        "pilot": {"cni": {"enabled": false, "provider": "default"}},
        "revision": "",
        "sidecarInjectorWebhook": {
            "alwaysInjectSelector": [], "neverInjectSelector": [], "defaultTemplates": [],
            "enableNamespacesByDefault": false, "injectedAnnotations": {}, "rewriteAppHTTPProbe": true, "templates": {},
        },
    })
}
