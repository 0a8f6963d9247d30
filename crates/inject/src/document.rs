//! How is a manifest injected before it is applied? Every document that holds pods, in any kind of workload.

use serde_json::Value;

use crate::{InjectError, Injector, Owner};

/// Where workloads keep their pods.
const TEMPLATES: [&str; 2] = ["/spec/template", "/spec/jobTemplate/spec/template"];

impl Injector {
    /// `kube-inject`: injects every pod of a YAML file and leaves everything else as it is.
    ///
    /// # Errors
    /// A document is not YAML, or an annotation cannot be used.
    pub fn inject_manifest(&self, text: &str) -> Result<String, InjectError> {
        let mut out = String::new();
        for document in api::yaml::documents(text) {
            out.push_str(&api::yaml::to_yaml(&self.inject_document(&document?.value)?));
            out.push_str("---\n");
        }
        Ok(out)
    }

    /// Injects one document: a pod, a workload, or a list of them.
    ///
    /// # Errors
    /// As [`Injector::inject_pod`].
    pub fn inject_document(&self, document: &Value) -> Result<Value, InjectError> {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let kind = text(&document["kind"]);
        let mut out = document.clone();
        if let Some(items) = out.get_mut("items").and_then(Value::as_array_mut).filter(|_| kind.ends_with("List")) {
            for item in items {
                *item = self.inject_document(item)?;
            }
            return Ok(out);
        }
        let meta = &document["metadata"];
        let mut owner = Owner {
            api_version: text(&document["apiVersion"]),
            kind: kind.clone(),
            name: text(&meta["name"]),
            namespace: text(&meta["namespace"]),
        };
        if kind == "Pod" {
            if let Some(found) = workload_of(document) {
                owner = Owner { namespace: owner.namespace, ..found };
            }
            if let Some(injected) = self.inject_pod(document, &owner)? {
                out = injected;
            }
            return Ok(out);
        }
        for pointer in TEMPLATES {
            if let Some(template) = document.pointer(pointer).filter(|t| t["spec"]["containers"].is_array())
                && let Some(injected) = self.inject_pod(template, &owner)?
                && let Some(place) = out.pointer_mut(pointer)
            {
                *place = injected;
            }
        }
        Ok(out)
    }
}

/// The workload behind a pod: its controller; a ReplicaSet `NAME-HASH` stands for the Deployment (or Argo's Rollout) `NAME`,
/// a ReplicationController for the DeploymentConfig that its label names, a Job of a CronJob for the CronJob.
pub fn workload_of(pod: &Value) -> Option<Owner> {
    let meta = &pod["metadata"];
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let namespace = text(&meta["namespace"]);
    let owners = meta["ownerReferences"].as_array()?;
    let owner = owners.iter().find(|o| o["controller"] == Value::Bool(true))?;
    let (mut api_version, mut kind, mut name) =
        (text(&owner["apiVersion"]), text(&owner["kind"]), text(&owner["name"]));
    let label = |name: &str| text(&meta["labels"][name]);
    let (hash, rollout, openshift) =
        (label("pod-template-hash"), label("rollouts-pod-template-hash"), label("deploymentconfig"));
    if kind == "ReplicaSet" && !hash.is_empty() && name.ends_with(&format!("-{hash}")) {
        name.truncate(name.len() - hash.len() - 1);
        kind = "Deployment".into();
        api_version = "apps/v1".into();
    } else if kind == "ReplicaSet" && !rollout.is_empty() && name.ends_with(&format!("-{rollout}")) {
        name.truncate(name.len() - rollout.len() - 1);
        kind = "Rollout".into();
        api_version = "v1alpha1".into();
    } else if kind == "ReplicationController" && !openshift.is_empty() {
        name = openshift;
        kind = "DeploymentConfig".into();
    } else if kind == "Job" {
        let stem = name
            .rsplit_once('-')
            .filter(|(_, tail)| (8..=10).contains(&tail.len()) && tail.bytes().all(|b| b.is_ascii_digit()));
        if let Some(stem) = stem.map(|(stem, _)| stem.to_owned()) {
            name = stem;
            kind = "CronJob".into();
            api_version = "batch/v1".into();
        }
    }
    Some(Owner { api_version, kind, name, namespace })
}
