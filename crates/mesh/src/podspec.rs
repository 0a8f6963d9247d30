//! Which parts of a Pod does the runner act on? Kubernetes' field names; everything else is carried along unread.

use serde::Deserialize;
use serde_json::Value;

/// `spec` of a Pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodSpec {
    pub(crate) containers: Vec<Container>,
    pub(crate) init_containers: Vec<Container>,
    pub(crate) volumes: Vec<Volume>,
    pub(crate) restart_policy: Option<String>,
    pub(crate) service_account_name: Option<String>,
    pub(crate) termination_grace_period_seconds: Option<u64>,
    pub(crate) hostname: Option<String>,
    pub(crate) security_context: Option<SecurityContext>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Container {
    pub(crate) name: String,
    pub(crate) image: String,
    pub(crate) command: Vec<String>,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<EnvVar>,
    pub(crate) env_from: Vec<Value>,
    pub(crate) ports: Vec<Port>,
    pub(crate) working_dir: Option<String>,
    pub(crate) volume_mounts: Vec<VolumeMount>,
    pub(crate) readiness_probe: Option<Probe>,
    pub(crate) liveness_probe: Option<Probe>,
    pub(crate) startup_probe: Option<Probe>,
    pub(crate) lifecycle: Option<Lifecycle>,
    pub(crate) security_context: Option<SecurityContext>,
    pub(crate) restart_policy: Option<String>,
    pub(crate) resources: Value,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct SecurityContext {
    pub(crate) run_as_user: Option<u32>,
    pub(crate) run_as_group: Option<u32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct EnvVar {
    pub(crate) name: String,
    pub(crate) value: Option<String>,
    pub(crate) value_from: Option<Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Port {
    pub(crate) name: Option<String>,
    pub(crate) container_port: u16,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct VolumeMount {
    pub(crate) name: String,
    pub(crate) mount_path: String,
    pub(crate) sub_path: Option<String>,
    pub(crate) read_only: bool,
}

/// A volume; which kind it is, is which field is set.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Volume {
    pub(crate) name: String,
    pub(crate) config_map: Option<Value>,
    pub(crate) secret: Option<Value>,
    pub(crate) projected: Option<Value>,
    #[serde(rename = "downwardAPI")]
    pub(crate) downward_api: Option<Value>,
    pub(crate) host_path: Option<Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Lifecycle {
    pub(crate) post_start: Option<Handler>,
    pub(crate) pre_stop: Option<Handler>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Handler {
    pub(crate) exec: Option<Exec>,
    pub(crate) http_get: Option<HttpGet>,
    pub(crate) tcp_socket: Option<TcpSocket>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Exec {
    pub(crate) command: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct HttpGet {
    pub(crate) path: Option<String>,
    pub(crate) port: Value,
    pub(crate) http_headers: Vec<Header>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Header {
    pub(crate) name: String,
    pub(crate) value: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct TcpSocket {
    pub(crate) port: Value,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Probe {
    #[serde(flatten)]
    pub(crate) handler: Handler,
    pub(crate) period_seconds: Option<f64>,
    pub(crate) timeout_seconds: Option<f64>,
    pub(crate) failure_threshold: Option<u32>,
}

/// A copy without members that are null: Kubernetes takes `env: null` as no `env`.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().filter(|(_, value)| !value.is_null());
            kept.map(|(key, value)| (key.clone(), without_nulls(value))).collect()
        }
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}

impl PodSpec {
    /// Reads a Pod's spec.
    ///
    /// # Errors
    /// The field that has the wrong shape, or a pod without containers.
    pub(crate) fn read(pod: &Value) -> Result<Self, String> {
        let spec: Self =
            serde_json::from_value(without_nulls(&pod["spec"])).map_err(|error| format!("spec: {error}"))?;
        if spec.containers.is_empty() {
            return Err("spec.containers: a pod needs at least one container".to_owned());
        }
        Ok(spec)
    }

    /// A container or init container by name.
    pub(crate) fn container(&self, name: &str) -> Option<&Container> {
        self.containers.iter().chain(&self.init_containers).find(|container| container.name == name)
    }

    /// The service account, `default` if none is named.
    pub(crate) fn service_account(&self) -> &str {
        self.service_account_name.as_deref().filter(|name| !name.is_empty()).unwrap_or("default")
    }
}

impl Container {
    /// A port given as number or by name.
    pub(crate) fn port(&self, port: &Value) -> Option<u16> {
        if let Some(number) = port.as_u64() {
            return u16::try_from(number).ok();
        }
        let name = port.as_str()?;
        let named = self.ports.iter().find(|port| port.name.as_deref() == Some(name)).map(|port| port.container_port);
        named.or_else(|| name.parse().ok())
    }
}
