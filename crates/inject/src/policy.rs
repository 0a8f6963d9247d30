//! Should this pod be injected? Namespace and pod labels, annotations, selectors, revision.

use std::collections::BTreeMap;

use api::kube::LabelSelector;
use api::shape::{Reader, Shape};
use names::Labels;
use serde_json::Value;

use crate::string_map;

/// Namespaces of the cluster itself, never injected.
const SYSTEM_NAMESPACES: [&str; 4] = ["kube-system", "kube-public", "kube-node-lease", "local-path-storage"];
const INJECT: &str = "sidecar.istio.io/inject";

/// Injection policy of an installation.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Pods that say nothing are injected.
    pub enabled: bool,
    /// Pods with these labels never are (unless they say so themselves).
    pub never: Vec<LabelSelector>,
    /// Pods with these labels always are.
    pub always: Vec<LabelSelector>,
}

impl Policy {
    /// Reads `global.proxy.autoInject` (a word that is neither `enabled` nor `disabled` injects nothing) and the webhook's
    /// selectors.
    pub fn from_values(values: &Value) -> Self {
        let webhook = &values["sidecarInjectorWebhook"];
        let selectors = |v: &Value| Vec::<LabelSelector>::read(v, &mut Reader::default());
        Policy {
            enabled: values["global"]["proxy"]["autoInject"].as_str().unwrap_or("enabled") == "enabled",
            never: selectors(&webhook["neverInjectSelector"]),
            always: selectors(&webhook["alwaysInjectSelector"]),
        }
    }

    /// Whether a pod that reached the injector is injected: by its own label or annotation, else by the selectors,
    /// else by the policy. Pods on the host's network and of system namespaces never are.
    pub fn requires_injection(&self, pod: &Value, namespace: &str) -> bool {
        if pod["spec"]["hostNetwork"] == Value::Bool(true) || SYSTEM_NAMESPACES.contains(&namespace) {
            return false;
        }
        let labels: Labels = string_map(&pod["metadata"]["labels"]);
        let annotations = string_map(&pod["metadata"]["annotations"]);
        let said = labels.get(INJECT).or_else(|| annotations.get(INJECT)).map(|word| word.to_lowercase());
        match said.as_deref() {
            Some("true" | "y" | "yes" | "on") => return true,
            Some("") | None => {}
            Some(_) => return false,
        }
        let any = |selectors: &[LabelSelector]| {
            selectors.iter().map(LabelSelector::to_selector).any(|s| !s.is_empty() && s.matches(&labels))
        };
        if any(&self.never) {
            return false;
        }
        any(&self.always) || self.enabled
    }
}

/// Whether the webhook of `revision` is asked about a pod at all, from the labels of its namespace and its own.
///
/// `istio-injection=disabled` on the namespace and `sidecar.istio.io/inject=false` on the pod win; then the
/// namespace's `istio-injection=enabled` (default revision) or `istio.io/rev`; then the pod's own labels.
pub fn webhook_selects(namespace: &Labels, pod: &Labels, revision: &str, all_namespaces: bool) -> bool {
    let get = |map: &BTreeMap<String, String>, key: &str| map.get(key).cloned();
    let asked = get(pod, INJECT);
    if asked.as_deref() == Some("false") {
        return false;
    }
    let default = revision.is_empty() || revision == "default";
    let is_ours = |rev: &str| rev == revision || (default && rev == "default");
    match get(namespace, "istio-injection").as_deref() {
        Some("disabled") => return false,
        Some("enabled") => return default,
        _ => {}
    }
    if let Some(rev) = get(namespace, "istio.io/rev") {
        return is_ours(&rev);
    }
    if let Some(rev) = get(pod, "istio.io/rev") {
        return is_ours(&rev);
    }
    default && (asked.as_deref() == Some("true") || all_namespaces)
}

/// The proxy's user and group on OpenShift: the last of the ranges that the namespace's annotations allot
/// (`1000620000/10000` or `1000620000-1000629999`).
pub fn openshift_user(namespace_annotations: &Labels) -> Option<(i64, i64)> {
    let last = |name: &str| -> Option<i64> {
        let range = namespace_annotations.get(name)?.split(',').next()?;
        if let Some((start, size)) = range.split_once('/') {
            return start.parse::<i64>().ok()?.checked_add(size.parse::<i64>().ok()? - 1);
        }
        range.split_once('-')?.1.parse().ok()
    };
    let user = last("openshift.io/sa.scc.uid-range")?;
    Some((user, last("openshift.io/sa.scc.supplemental-groups").unwrap_or(user)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods() {
        let policy = |enabled| Policy {
            enabled,
            never: vec![LabelSelector { match_labels: [("never".into(), "y".into())].into(), ..Default::default() }],
            always: vec![LabelSelector { match_labels: [("always".into(), "y".into())].into(), ..Default::default() }],
        };
        let check = |enabled: bool, pod: Value, ns: &str, want: bool| {
            assert_eq!(policy(enabled).requires_injection(&pod, ns), want, "{enabled} {pod} {ns}");
        };
        check(true, json!({}), "a", true);
        check(false, json!({}), "a", false);
        check(false, json!({"metadata": {"labels": {INJECT: "true"}}}), "a", true);
        check(true, json!({"metadata": {"annotations": {INJECT: "false"}}}), "a", false);
        check(true, json!({"metadata": {"labels": {INJECT: "true"}, "annotations": {INJECT: "false"}}}), "a", true);
        check(true, json!({"spec": {"hostNetwork": true}}), "a", false);
        check(true, json!({}), "kube-system", false);
        check(false, json!({"metadata": {"labels": {INJECT: "Yes"}}}), "a", true);
        check(true, json!({"metadata": {"labels": {"never": "y"}}}), "a", false);
        check(false, json!({"metadata": {"labels": {"always": "y"}}}), "a", true);
    }

    #[test]
    fn webhook() {
        let labels = |pairs: &[(&str, &str)]| -> Labels {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let check = |ns: &[(&str, &str)], pod: &[(&str, &str)], rev: &str, want: bool| {
            assert_eq!(webhook_selects(&labels(ns), &labels(pod), rev, false), want, "{ns:?} {pod:?} {rev}");
        };
        check(&[], &[], "default", false);
        check(&[("istio-injection", "enabled")], &[], "default", true);
        check(&[("istio-injection", "enabled")], &[], "canary", false);
        check(&[("istio-injection", "enabled")], &[(INJECT, "false")], "default", false);
        check(&[("istio-injection", "disabled")], &[(INJECT, "true")], "default", false);
        check(&[("istio.io/rev", "canary")], &[], "canary", true);
        check(&[("istio.io/rev", "canary")], &[], "default", false);
        check(&[], &[(INJECT, "true")], "default", true);
        check(&[], &[("istio.io/rev", "canary")], "canary", true);
    }

    #[test]
    fn openshift() {
        let range = |r: &str| openshift_user(&[("openshift.io/sa.scc.uid-range".to_owned(), r.to_owned())].into());
        assert_eq!(range("1000620000/10000"), Some((1_000_629_999, 1_000_629_999)));
        assert_eq!(range("5-9"), Some((9, 9)));
        assert_eq!(range("x"), None);
    }
}
