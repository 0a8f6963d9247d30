//! What do the Kubernetes kinds say, as far as a mesh cares? Fields without meaning here are read past (they stay in
//! the resource's raw form, which injection and `get -o yaml` use); misspelt ones are reported.

use std::collections::BTreeMap;

use names::{Operator, PortProtocol, Requirement, Selector};

use crate::scalar::IntOrString;
use crate::{choice, shape};

shape! {
    /// A namespace.
    Namespace { }
    @ignore ["apiVersion", "kind", "metadata", "spec", "status"]
    /// A service.
    Service { spec: ServiceSpec, status: ServiceStatus }
    @ignore ["apiVersion", "kind", "metadata"]
    /// What a service is.
    ServiceSpec {
        kind = "type": ServiceType, cluster_ip = "clusterIP": String, cluster_ips = "clusterIPs": Vec<String>,
        ports: Vec<ServicePort>, selector: BTreeMap<String, String>, external_name: String,
        external_ips = "externalIPs": Vec<String>, publish_not_ready_addresses: bool, session_affinity: String,
        internal_traffic_policy: Option<String>, external_traffic_policy: String, traffic_distribution: Option<String>,
        load_balancer_ip = "loadBalancerIP": String,
    }
    @ignore ["ipFamilies", "ipFamilyPolicy", "allocateLoadBalancerNodePorts", "loadBalancerClass",
        "loadBalancerSourceRanges", "sessionAffinityConfig", "healthCheckNodePort", "topologyKeys", "ipFamily"]
    /// One port of a service.
    ServicePort {
        name: String, protocol: String, app_protocol: Option<String>, port: i32, target_port: Option<IntOrString>,
        node_port: i32,
    }
    /// What a load balancer gave.
    ServiceStatus { load_balancer: Option<LoadBalancerStatus> }
    @ignore ["conditions"]
    /// Addresses of a load balancer.
    LoadBalancerStatus { ingress: Vec<LoadBalancerIngress> }
    /// One address of a load balancer.
    LoadBalancerIngress { ip: String, hostname: String }
    @ignore ["ipMode", "ports"]

    /// Endpoints, the older form.
    Endpoints { subsets: Vec<EndpointSubset> }
    @ignore ["apiVersion", "kind", "metadata"]
    /// Addresses that share ports.
    EndpointSubset {
        addresses: Vec<EndpointAddress>, not_ready_addresses: Vec<EndpointAddress>, ports: Vec<EndpointPort>,
    }
    /// One address.
    EndpointAddress { ip: String, hostname: String, node_name: Option<String>, target_ref: Option<ObjectReference> }
    /// One port of endpoints.
    EndpointPort { name: String, port: i32, protocol: String, app_protocol: Option<String> }
    /// A reference to an object.
    ObjectReference { kind: String, namespace: String, name: String, uid: String }
    @ignore ["apiVersion", "resourceVersion", "fieldPath"]

    /// A part of a service's endpoints.
    EndpointSlice { address_type: String, endpoints: Vec<Endpoint>, ports: Vec<EndpointPort> }
    @ignore ["apiVersion", "kind", "metadata"]
    /// One endpoint.
    Endpoint {
        addresses: Vec<String>, conditions: EndpointConditions, hostname: Option<String>, node_name: Option<String>,
        zone: Option<String>, target_ref: Option<ObjectReference>,
    }
    @ignore ["hints", "deprecatedTopology", "topology"]
    /// State of an endpoint; unknown counts as ready.
    EndpointConditions { ready: Option<bool>, serving: Option<bool>, terminating: Option<bool> }

    /// A pod.
    Pod { spec: PodSpec, status: PodStatus }
    @ignore ["apiVersion", "kind", "metadata"]
    /// What a pod runs.
    PodSpec {
        containers: Vec<Container>, init_containers: Vec<Container>, service_account_name: String,
        service_account: String, host_network: bool, hostname: String, subdomain: String, node_name: String,
        restart_policy: String, termination_grace_period_seconds: Option<i64>, volumes: Vec<Volume>,
        security_context: Option<PodSecurityContext>, automount_service_account_token: Option<bool>,
        readiness_gates: Vec<serde_json::Value>,
    }
    @ignore ["activeDeadlineSeconds", "affinity", "dnsConfig", "dnsPolicy", "enableServiceLinks", "ephemeralContainers",
        "hostAliases", "hostIPC", "hostPID", "hostUsers", "imagePullSecrets", "nodeSelector", "os", "overhead",
        "preemptionPolicy", "priority", "priorityClassName", "resourceClaims", "resources", "runtimeClassName",
        "schedulerName", "schedulingGates", "setHostnameAsFQDN", "shareProcessNamespace", "tolerations",
        "topologySpreadConstraints", "hostnameOverride", "workloadRef"]
    /// User and group of a pod.
    PodSecurityContext { run_as_user: Option<i64>, run_as_group: Option<i64>, fs_group: Option<i64> }
    @ignore ["appArmorProfile", "fsGroupChangePolicy", "runAsNonRoot", "seLinuxOptions", "seccompProfile",
        "seLinuxChangePolicy", "supplementalGroups", "supplementalGroupsPolicy", "sysctls", "windowsOptions"]
    /// A container.
    Container {
        name: String, image: String, command: Vec<String>, args: Vec<String>, working_dir: String, env: Vec<EnvVar>,
        env_from: Vec<EnvFrom>, ports: Vec<ContainerPort>, readiness_probe: Option<Probe>,
        liveness_probe: Option<Probe>, startup_probe: Option<Probe>, security_context: Option<SecurityContext>,
        volume_mounts: Vec<VolumeMount>, restart_policy: Option<String>, lifecycle: Option<serde_json::Value>,
    }
    @ignore ["imagePullPolicy", "resizePolicy", "resources", "stdin", "stdinOnce", "terminationMessagePath",
        "terminationMessagePolicy", "tty", "volumeDevices", "restartPolicyRules"]
    /// User and group of a container.
    SecurityContext { run_as_user: Option<i64>, run_as_group: Option<i64>, privileged: Option<bool> }
    @ignore ["allowPrivilegeEscalation", "appArmorProfile", "capabilities", "procMount", "readOnlyRootFilesystem",
        "runAsNonRoot", "seLinuxOptions", "seccompProfile", "windowsOptions"]
    /// An environment variable.
    EnvVar { name: String, value: String, value_from: Option<EnvVarSource> }
    /// Where the value of a variable comes from.
    EnvVarSource {
        field_ref: Option<FieldRef>, config_map_key_ref: Option<KeyRef>, secret_key_ref: Option<KeyRef>,
    }
    @ignore ["resourceFieldRef", "fileKeyRef"]
    /// A field of the pod.
    FieldRef { field_path: String }
    @ignore ["apiVersion"]
    /// A key of a ConfigMap or Secret.
    KeyRef { name: String, key: String, optional: Option<bool> }
    /// All keys of a ConfigMap or Secret.
    EnvFrom { prefix: String, config_map_ref: Option<NameRef>, secret_ref: Option<NameRef> }
    /// A ConfigMap or Secret by name.
    NameRef { name: String, optional: Option<bool> }
    /// A declared port.
    ContainerPort {
        name: String, container_port: i32, protocol: String, host_port: i32, host_ip = "hostIP": String,
    }
    /// A probe.
    Probe {
        http_get: Option<HttpGetAction>, tcp_socket: Option<TcpSocketAction>, exec: Option<ExecAction>,
        grpc: Option<GrpcAction>, initial_delay_seconds: i32, timeout_seconds: i32, period_seconds: i32,
        success_threshold: i32, failure_threshold: i32,
    }
    @ignore ["terminationGracePeriodSeconds"]
    /// Probe by HTTP.
    HttpGetAction {
        path: String, port: IntOrString, host: String, scheme: String,
        http_headers: Vec<crate::networking::HttpHeader>,
    }
    /// Probe by connecting.
    TcpSocketAction { port: IntOrString, host: String }
    /// Probe by command.
    ExecAction { command: Vec<String> }
    /// Probe by gRPC health.
    GrpcAction { port: i32, service: Option<String> }
    /// Where a volume appears.
    VolumeMount { name: String, mount_path: String, sub_path: String, read_only: bool }
    @ignore ["mountPropagation", "recursiveReadOnly", "subPathExpr"]
    /// A volume; sources that the local mesh cannot provide are read past.
    Volume {
        name: String, config_map: Option<ConfigMapVolume>, secret: Option<SecretVolume>,
        empty_dir: Option<serde_json::Value>, host_path: Option<HostPathVolume>,
    }
    @ignore ["awsElasticBlockStore", "azureDisk", "azureFile", "cephfs", "cinder", "csi", "downwardAPI", "ephemeral",
        "fc", "flexVolume", "flocker", "gcePersistentDisk", "gitRepo", "glusterfs", "image", "iscsi", "nfs",
        "persistentVolumeClaim", "photonPersistentDisk", "portworxVolume", "projected", "quobyte", "rbd", "scaleIO",
        "storageos", "vsphereVolume"]
    /// Files from a ConfigMap.
    ConfigMapVolume { name: String, items: Vec<KeyToPath>, optional: Option<bool> }
    @ignore ["defaultMode"]
    /// Files from a Secret.
    SecretVolume { secret_name: String, items: Vec<KeyToPath>, optional: Option<bool> }
    @ignore ["defaultMode"]
    /// One key as a file.
    KeyToPath { key: String, path: String, mode: Option<i32> }
    /// A directory of the host.
    HostPathVolume { path: String, kind = "type": String }
    /// Where a pod runs and how it is.
    PodStatus {
        phase: String, pod_ip = "podIP": String, pod_ips = "podIPs": Vec<PodIp>, host_ip = "hostIP": String,
        conditions: Vec<PodCondition>,
    }
    @ignore ["containerStatuses", "ephemeralContainerStatuses", "hostIPs", "initContainerStatuses", "message",
        "nominatedNodeName", "qosClass", "reason", "resize", "resourceClaimStatuses", "startTime",
        "observedGeneration", "extendedResourceClaimStatus"]
    /// One address of a pod.
    PodIp { ip: String }
    /// One condition of a pod.
    PodCondition { kind = "type": String, status: String }
    @ignore ["lastProbeTime", "lastTransitionTime", "message", "reason", "observedGeneration"]

    /// A workload: Deployment, ReplicaSet, StatefulSet, DaemonSet, ReplicationController, Job.
    Workload { spec: WorkloadSpec }
    @ignore ["apiVersion", "kind", "metadata", "status"]
    /// What a workload runs, and how often.
    WorkloadSpec {
        replicas: Option<i32>, selector: Option<serde_json::Value>, template: PodTemplate, service_name: String,
        completions: Option<i32>, parallelism: Option<i32>, backoff_limit: Option<i32>,
    }
    @ignore ["activeDeadlineSeconds", "backoffLimitPerIndex", "completionMode", "manualSelector", "maxFailedIndexes",
        "minReadySeconds", "ordinals", "paused", "persistentVolumeClaimRetentionPolicy", "podFailurePolicy",
        "podManagementPolicy", "podReplacementPolicy", "progressDeadlineSeconds", "revisionHistoryLimit",
        "strategy", "successPolicy", "suspend", "ttlSecondsAfterFinished", "updateStrategy", "volumeClaimTemplates",
        "managedBy", "rollbackTo"]
    /// The pods of a workload.
    PodTemplate { metadata: TemplateMeta, spec: PodSpec }
    /// Labels and annotations of a template.
    TemplateMeta { labels: BTreeMap<String, String>, annotations: BTreeMap<String, String>, name: String, namespace: String }
    @ignore ["creationTimestamp", "finalizers", "generateName", "ownerReferences", "generation", "resourceVersion", "uid",
        "managedFields", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds"]
    /// Jobs by the clock.
    CronJob { spec: CronJobSpec }
    @ignore ["apiVersion", "kind", "metadata", "status"]
    /// When and what.
    CronJobSpec { schedule: String, job_template: JobTemplate, suspend: Option<bool> }
    @ignore ["concurrencyPolicy", "failedJobsHistoryLimit", "startingDeadlineSeconds", "successfulJobsHistoryLimit", "timeZone"]
    /// The job.
    JobTemplate { spec: WorkloadSpec }
    @ignore ["metadata"]

    /// A service account.
    ServiceAccount { }
    @ignore ["apiVersion", "kind", "metadata", "automountServiceAccountToken", "imagePullSecrets", "secrets"]
    /// Configuration data.
    ConfigMap { data: BTreeMap<String, String>, binary_data: BTreeMap<String, String>, immutable: Option<bool> }
    @ignore ["apiVersion", "kind", "metadata"]
    /// Secret data; `data` values are base64.
    Secret {
        kind = "type": String, data: BTreeMap<String, String>, string_data: BTreeMap<String, String>,
        immutable: Option<bool>,
    }
    @ignore ["apiVersion", "metadata"]
    /// A node.
    Node { status: NodeStatus }
    @ignore ["apiVersion", "kind", "metadata", "spec"]
    /// Addresses and version of a node.
    NodeStatus { addresses: Vec<NodeAddress>, node_info: Option<NodeInfo> }
    @ignore ["allocatable", "capacity", "conditions", "config", "daemonEndpoints", "features", "images", "phase",
        "runtimeHandlers", "volumesAttached", "volumesInUse", "declaredFeatures"]
    /// One address of a node.
    NodeAddress { kind = "type": String, address: String }
    /// Versions.
    NodeInfo { kubelet_version: String }
    @ignore ["architecture", "bootID", "containerRuntimeVersion", "kernelVersion", "kubeProxyVersion", "machineID",
        "operatingSystem", "osImage", "systemUUID", "swap"]

    /// Label selection as Kubernetes writes it.
    LabelSelector { match_labels: BTreeMap<String, String>, match_expressions: Vec<LabelSelectorRequirement> }
    /// One requirement.
    LabelSelectorRequirement { key: String, operator: SelectorOperator, values: Vec<String> }
}

choice! {
    /// How a service is reached.
    ServiceType { ClusterIp = 0 "ClusterIP", NodePort = 1 "NodePort", LoadBalancer = 2 "LoadBalancer", ExternalName = 3 "ExternalName" }
    /// Operator of a requirement.
    SelectorOperator { In = 0 "In", NotIn = 1 "NotIn", Exists = 2 "Exists", DoesNotExist = 3 "DoesNotExist" }
}

impl LabelSelector {
    /// The selector that can be evaluated.
    pub fn to_selector(&self) -> Selector {
        let operator = |o| match o {
            SelectorOperator::In => Operator::In,
            SelectorOperator::NotIn => Operator::NotIn,
            SelectorOperator::Exists => Operator::Exists,
            SelectorOperator::DoesNotExist => Operator::DoesNotExist,
        };
        Selector {
            match_labels: self.match_labels.clone(),
            match_expressions: self
                .match_expressions
                .iter()
                .map(|r| Requirement { key: r.key.clone(), operator: operator(r.operator), values: r.values.clone() })
                .collect(),
        }
    }
}

impl ServiceSpec {
    /// Whether the service has no address of its own.
    pub fn is_headless(&self) -> bool {
        self.cluster_ip == "None"
    }
}

impl ServicePort {
    /// The protocol the port speaks, by Istio's rules.
    pub fn protocol(&self) -> PortProtocol {
        PortProtocol::of_service_port(
            u16::try_from(self.port).unwrap_or_default(),
            &self.name,
            &self.protocol,
            self.app_protocol.as_deref(),
        )
    }
}

impl PodSpec {
    /// The service account, `default` when none is named.
    pub fn service_account(&self) -> &str {
        [self.service_account_name.as_str(), self.service_account.as_str()]
            .into_iter()
            .find(|s| !s.is_empty())
            .unwrap_or("default")
    }
}

impl PodStatus {
    /// Whether the pod says it is ready.
    pub fn is_ready(&self) -> bool {
        self.conditions.iter().any(|c| c.kind == "Ready" && c.status == "True")
    }
}

impl Secret {
    /// One value, decoded. `None` when the key is absent or not base64.
    pub fn value(&self, key: &str) -> Option<Vec<u8>> {
        use base64::Engine as _;
        if let Some(text) = self.string_data.get(key) {
            return Some(text.clone().into_bytes());
        }
        base64::engine::general_purpose::STANDARD.decode(self.data.get(key)?).ok()
    }
}
