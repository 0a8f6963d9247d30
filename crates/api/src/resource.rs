//! What is one document of a manifest? Its identity, its typed body, and its raw form with the place it came from.
//! Called by every source (`source-file`, later Kubernetes) and by the command line.

use std::fmt;
use std::sync::Arc;

use names::{Kind, Labels, ResourceKey};
use serde_json::Value;

use crate::shape::{Problem, Reader, Shape};
use crate::{destination_rule, envoy_filter, kube, networking, security};

/// Where a document begins.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The file, as the user named it, or another source's name.
    pub file: Arc<str>,
    /// The line of the document's first field, from 1; 0 when unknown.
    pub line: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 { f.write_str(&self.file) } else { write!(f, "{}:{}", self.file, self.line) }
    }
}

/// Metadata of a resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Meta {
    /// Kind, namespace, name.
    pub key: ResourceKey,
    /// Labels.
    pub labels: Labels,
    /// Annotations.
    pub annotations: Labels,
    /// When it was created, if its source knows. Ties between resources go to the older one.
    pub creation_timestamp: Option<jiff::Timestamp>,
    /// Unique id, if its source gives one.
    pub uid: String,
    /// Version, if its source counts them.
    pub resource_version: String,
    /// Generation of the spec, if its source counts them.
    pub generation: i64,
    /// It is being deleted (`deletionTimestamp` is set).
    pub deleted: bool,
    /// The first of `ownerReferences`.
    pub owner: Option<Box<Owner>>,
    /// Where it was written.
    pub place: Option<Place>,
}

/// `metav1.OwnerReference`, as far as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
}

impl Meta {
    /// The namespace; empty for cluster-scoped kinds.
    pub fn namespace(&self) -> &str {
        &self.key.namespace
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.key.name
    }

    /// Order of precedence among equals: older first (unknown age counts as oldest), then by name, then by namespace.
    pub fn age_order(&self, other: &Meta) -> std::cmp::Ordering {
        self.creation_timestamp
            .cmp(&other.creation_timestamp)
            .then_with(|| self.key.name.cmp(&other.key.name))
            .then_with(|| self.key.namespace.cmp(&other.key.namespace))
    }
}

/// One resource: said by a user, read and typed. Cheap to clone.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    /// Identity and metadata.
    pub meta: Arc<Meta>,
    /// The typed content.
    pub body: Body,
    /// The document as it was written.
    pub raw: Arc<Value>,
}

macro_rules! bodies {
    ($( $variant:ident($ty:ty) $how:ident ),* $(,)?) => {
        /// The typed content of a resource, by kind.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs)] // One variant per kind; see the type inside.
        pub enum Body {
            $( $variant(Arc<$ty>), )*
            /// A kind without meaning here; only the raw form is kept.
            Other,
        }

        impl Body {
            fn read(kind: &Kind, v: &Value, r: &mut Reader) -> Body {
                match kind {
                    $( Kind::$variant => Body::$variant(Arc::new($how::<$ty>(v, r))), )*
                    Kind::Other(_) => Body::Other,
                }
            }
        }
    };
}

bodies! {
    Namespace(kube::Namespace) whole,
    Service(kube::Service) whole,
    Endpoints(kube::Endpoints) whole,
    EndpointSlice(kube::EndpointSlice) whole,
    Pod(kube::Pod) whole,
    Node(kube::Node) whole,
    ServiceAccount(kube::ServiceAccount) whole,
    ConfigMap(kube::ConfigMap) whole,
    Secret(kube::Secret) whole,
    ReplicationController(kube::Workload) whole,
    Deployment(kube::Workload) whole,
    ReplicaSet(kube::Workload) whole,
    StatefulSet(kube::Workload) whole,
    DaemonSet(kube::Workload) whole,
    Job(kube::Workload) whole,
    CronJob(kube::CronJob) whole,
    VirtualService(networking::VirtualService) spec,
    DestinationRule(destination_rule::DestinationRule) spec,
    Gateway(networking::Gateway) spec,
    ServiceEntry(networking::ServiceEntry) spec,
    WorkloadEntry(networking::WorkloadEntry) spec,
    WorkloadGroup(networking::WorkloadGroup) spec,
    Sidecar(networking::Sidecar) spec,
    EnvoyFilter(envoy_filter::EnvoyFilter) spec,
    ProxyConfig(networking::ProxyConfig) spec,
    AuthorizationPolicy(security::AuthorizationPolicy) spec,
    PeerAuthentication(security::PeerAuthentication) spec,
    RequestAuthentication(security::RequestAuthentication) spec,
    Telemetry(security::Telemetry) spec,
    WasmPlugin(envoy_filter::WasmPlugin) spec,
    TrafficExtension(envoy_filter::TrafficExtension) spec,
}

fn whole<T: Shape>(v: &Value, r: &mut Reader) -> T {
    T::read(v, r)
}

fn spec<T: Shape>(v: &Value, r: &mut Reader) -> T {
    const KNOWN: [&str; 5] = ["apiVersion", "kind", "metadata", "spec", "status"];
    r.object(v, |_, key, _| KNOWN.contains(&key), &KNOWN);
    let null = Value::Null;
    r.field("spec", |r| T::read(v.get("spec").unwrap_or(&null), r))
}

/// A document that cannot be used, with everything that is wrong with it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub struct Rejected {
    /// Which resource it would have been, when that much could be read.
    pub key: Option<ResourceKey>,
    /// Where it was written.
    pub place: Option<Place>,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl Resource {
    /// Reads a document. Resources without a namespace get `default_namespace` when their kind needs one.
    ///
    /// # Errors
    /// The document is not a Kubernetes object, or fields cannot be read; all problems at once. Whether the content
    /// makes sense is [`crate::validate`]'s question.
    pub fn from_value(raw: Value, place: Option<Place>, default_namespace: &str) -> Result<Resource, Rejected> {
        let mut r = Reader::default();
        let key = read_key(&raw, default_namespace, &mut r);
        let Some(key) = key else {
            return Err(Rejected { key: None, place, problems: r.finish() });
        };
        let meta = Meta {
            labels: read_map(&raw, "labels", &mut r),
            annotations: read_map(&raw, "annotations", &mut r),
            creation_timestamp: text(&raw, "creationTimestamp").and_then(|t| t.parse().ok()),
            uid: text(&raw, "uid").unwrap_or_default().to_owned(),
            resource_version: text(&raw, "resourceVersion").unwrap_or_default().to_owned(),
            generation: raw["metadata"]["generation"].as_i64().unwrap_or_default(),
            deleted: raw.pointer("/metadata/deletionTimestamp").is_some_and(|t| !t.is_null()),
            owner: raw.pointer("/metadata/ownerReferences/0").and_then(owner).map(Box::new),
            place,
            key,
        };
        let body = Body::read(&meta.key.kind, &raw, &mut r);
        let problems = r.finish();
        if !problems.is_empty() {
            return Err(Rejected { key: Some(meta.key), place: meta.place, problems });
        }
        Ok(Resource { meta: Arc::new(meta), body, raw: Arc::new(raw) })
    }

    /// The resource's identity.
    pub fn key(&self) -> &ResourceKey {
        &self.meta.key
    }

    /// The pod template of a workload: metadata and spec.
    pub fn pod_template(&self) -> Option<&kube::PodTemplate> {
        match &self.body {
            Body::Deployment(w)
            | Body::ReplicaSet(w)
            | Body::StatefulSet(w)
            | Body::DaemonSet(w)
            | Body::ReplicationController(w)
            | Body::Job(w) => Some(&w.spec.template),
            Body::CronJob(c) => Some(&c.spec.job_template.spec.template),
            _ => None,
        }
    }
}

fn text<'a>(raw: &'a Value, field: &str) -> Option<&'a str> {
    raw.get("metadata")?.get(field)?.as_str()
}

fn owner(reference: &Value) -> Option<Owner> {
    let text = |field: &str| Some(reference.get(field)?.as_str()?.to_owned());
    Some(Owner { kind: text("kind")?, name: text("name")? })
}

fn read_map(raw: &Value, field: &str, r: &mut Reader) -> Labels {
    match raw.get("metadata").and_then(|m| m.get(field)) {
        Some(v) => r.field("metadata", |r| r.field(field, |r| Labels::read(v, r))),
        None => Labels::new(),
    }
}

fn read_key(raw: &Value, default_namespace: &str, r: &mut Reader) -> Option<ResourceKey> {
    if !raw.is_object() {
        r.expected("a Kubernetes object", raw);
        return None;
    }
    let mut required = |v: Option<&Value>, path: &str, hint: &str| match v.and_then(Value::as_str) {
        Some(s) if !s.is_empty() => Some(s.to_owned()),
        _ => {
            r.field(path, |r| r.problem(format!("required: {hint}")));
            None
        }
    };
    let api_version = required(raw.get("apiVersion"), "apiVersion", "for example networking.istio.io/v1");
    let kind = required(raw.get("kind"), "kind", "for example VirtualService");
    let metadata = raw.get("metadata");
    let name = metadata.and_then(|m| m.get("name").or_else(|| m.get("generateName")));
    let name = required(name, "metadata.name", "a resource needs a name");
    let kind = Kind::of(&api_version?, &kind?);
    let namespace = match metadata.and_then(|m| m.get("namespace")) {
        Some(Value::String(ns)) if !ns.is_empty() => ns.as_str(),
        _ => default_namespace,
    };
    Some(ResourceKey::new(kind, namespace, &name?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_a_virtual_service() {
        let raw = json!({"apiVersion": "networking.istio.io/v1alpha3", "kind": "VirtualService",
            "metadata": {"name": "a", "labels": {"x": "y"}},
            "spec": {"hosts": ["a"], "http": [{"match": [{"uri": {"prefix": "/x"}}], "timeout": "1s",
                "route": [{"destination": {"host": "a", "port": {"number": 80}}}]}]}});
        let r = Resource::from_value(raw, None, "ns").unwrap();
        assert_eq!(r.key().to_string(), "VirtualService ns/a");
        let Body::VirtualService(vs) = &r.body else { panic!("{:?}", r.body) };
        assert_eq!(vs.http[0].route[0].destination.as_ref().unwrap().port.as_ref().unwrap().number, 80);
    }

    #[test]
    fn rejects_with_paths() {
        let check = |raw: Value, want: &str| {
            let got = Resource::from_value(raw, None, "ns").unwrap_err().to_string();
            assert!(got.contains(want), "{got}");
        };
        check(json!([]), "expected a Kubernetes object, found a list");
        check(json!({"kind": "Service", "metadata": {"name": "a"}}), "apiVersion: required");
        check(json!({"apiVersion": "v1", "kind": "Service", "metadata": {}}), "metadata.name: required");
        check(
            json!({"apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": {"name": "g"},
                "spec": {"servers": [{"prot": {}}]}}),
            "Gateway ns/g: spec.servers[0].prot: unknown field \"prot\", did you mean \"port\"?",
        );
    }
}
