//! What does the injection webhook answer? A pod in, a JSON patch out. Called by the control plane's HTTPS port.

use api::admission::{Answer, Review};
use serde_json::Value;

use crate::document::workload_of;
use crate::{Injector, Owner, json_patch, path_environment};

/// What became of the pod, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It gets a proxy.
    Injected,
    /// It is to stay as it is.
    Skipped,
    /// It could not be injected.
    Failed,
}

/// Answers for the pod of `review`. `path`: the request's, which may hold environment for the proxy.
pub fn admit(injector: &Injector, review: &Review, path: &str) -> (Answer, Outcome) {
    let pod = &review.object;
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let meta = &pod["metadata"];
    let named = [text(&meta["name"]), text(&meta["generateName"]).trim_end_matches('-').to_owned()];
    let own = Owner {
        api_version: "v1".into(),
        kind: "Pod".into(),
        name: named.into_iter().find(|n| !n.is_empty()).unwrap_or_default(),
        namespace: String::new(),
    };
    // The API server states the namespace beside the pod.
    let owner = Owner { namespace: review.namespace.clone(), ..workload_of(pod).unwrap_or(own) };
    let mut injector = std::borrow::Cow::Borrowed(injector);
    let environment = path_environment(path);
    if !environment.is_empty() {
        injector.to_mut().proxy_env.extend(environment);
    }
    match injector.inject_pod(pod, &owner) {
        Ok(Some(injected)) => {
            let patch = Value::Array(json_patch::diff(pod, &injected));
            (Answer { patch: Some(patch), ..Answer::allow() }, Outcome::Injected)
        }
        Ok(None) => (Answer::allow(), Outcome::Skipped),
        Err(error) => (Answer::deny(error.to_string()), Outcome::Failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn review(pod: Value) -> Review {
        Review {
            api_version: "admission.k8s.io/v1".into(),
            uid: "u".into(),
            operation: "CREATE".into(),
            kind: "Pod".into(),
            namespace: "shop".into(),
            object: pod,
        }
    }

    fn injector() -> Injector {
        Injector::new(api::MeshConfig::istio_default(), crate::default_values())
    }

    fn pod(labels: Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "web-7f9-", "labels": labels},
            "spec": {"containers": [{"name": "app", "image": "app"}]}})
    }

    fn variable(patch: &Value, name: &str) -> Option<String> {
        let mut values = patch.as_array()?.iter().map(|operation| &operation["value"]).collect::<Vec<_>>();
        while let Some(v) = values.pop() {
            match v {
                Value::Object(o) if o.get("name").is_some_and(|n| n == name) => {
                    return Some(o.get("value")?.as_str()?.to_owned());
                }
                Value::Object(o) => values.extend(o.values()),
                Value::Array(list) => values.extend(list),
                _ => {}
            }
        }
        None
    }

    #[test]
    fn the_path_has_the_last_word_on_the_environment() {
        let (answer, outcome) = admit(&injector(), &review(pod(json!({}))), "/inject/cluster/east/net/n1");
        assert_eq!((answer.allowed, outcome), (true, Outcome::Injected));
        let patch = answer.patch.expect("a patch");
        assert_eq!(variable(&patch, "ISTIO_META_CLUSTER_ID").as_deref(), Some("east"));
        assert_eq!(variable(&patch, "ISTIO_META_NETWORK").as_deref(), Some("n1"));
        assert_eq!(variable(&patch, "ISTIO_META_WORKLOAD_NAME").as_deref(), Some("web-7f9"));
    }

    #[test]
    fn pods_that_do_not_want_it_stay_as_they_are() {
        let (answer, outcome) =
            admit(&injector(), &review(pod(json!({"sidecar.istio.io/inject": "false"}))), "/inject");
        assert_eq!((answer, outcome), (Answer::allow(), Outcome::Skipped));
    }

    #[test]
    fn a_pod_that_cannot_be_injected_is_refused_with_the_reason() {
        let mut pod = pod(json!({}));
        pod["metadata"]["annotations"] = json!({"sidecar.istio.io/proxyCPU": "much"});
        let (answer, outcome) = admit(&injector(), &review(pod), "/inject");
        assert!(!answer.allowed && answer.message.contains("sidecar.istio.io/proxyCPU"), "{answer:?}");
        assert_eq!(outcome, Outcome::Failed);
    }
}
