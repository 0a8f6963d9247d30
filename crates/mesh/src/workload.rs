//! Which pods should there be? Deployments become pods with Kubernetes' names; a changed template replaces them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::object::{Key, Object};
use crate::services::is_ready;
use crate::store::{Origin, Store, now};

/// Kubernetes' alphabet for generated names: no vowels, no digits that look like letters.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Most pods one deployment may ask for on this machine.
const REPLICAS_MAX: u64 = 250;

/// The `pod-template-hash` of a template: FNV-1a in Kubernetes' safe alphabet.
pub(crate) fn template_hash(template: &Value) -> String {
    let hash = template
        .to_string()
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash.to_string().bytes().map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()])).collect()
}

fn suffix() -> String {
    (0..5).map(|_| char::from(ALPHABET[rand::random_range(0..ALPHABET.len())])).collect()
}

/// What has to be done so that the pods are those that the deployments ask for.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) create: Vec<Object>,
    pub(crate) delete: Vec<Key>,
}

/// Compares deployments with pods.
///
/// Pods of an older template go once as many new ones are ready as the deployment asks for.
pub(crate) fn plan(store: &Store) -> Plan {
    let mut plan = Plan::default();
    let mut owned: BTreeMap<(String, String), Vec<Object>> = BTreeMap::new();
    for pod in store.list("Pod") {
        if let Some(owner) = pod["metadata"]["annotations"]["proa.dev/deployment"].as_str() {
            let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
            owned.entry((namespace, owner.to_owned())).or_default().push(pod);
        }
    }
    for deployment in store.list("Deployment") {
        let text = |field: &str| deployment["metadata"][field].as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (text("namespace"), text("name"));
        let pods = owned.remove(&(namespace.clone(), name.clone())).unwrap_or_default();
        plan.deployment(&deployment, &namespace, &name, pods);
    }
    // What is left belongs to deployments that are gone.
    for pod in owned.into_values().flatten() {
        plan.delete.push(key(&pod));
    }
    plan
}

fn key(pod: &Object) -> Key {
    let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default();
    Key::new("Pod", text("namespace"), text("name"))
}

impl Plan {
    fn deployment(&mut self, deployment: &Object, namespace: &str, name: &str, pods: Vec<Object>) {
        let template = &deployment["spec"]["template"];
        let hash = template_hash(template);
        let wanted = deployment["spec"]["replicas"].as_u64().unwrap_or(1).min(REPLICAS_MAX) as usize;
        let (mut current, old): (Vec<_>, Vec<_>) =
            pods.into_iter().partition(|pod| pod["metadata"]["labels"]["pod-template-hash"] == hash.as_str());
        for _ in current.len()..wanted {
            self.create.push(from_template(template, namespace, name, &hash));
        }
        // As in Kubernetes, those go first that do not serve yet, then the newest.
        let made = |pod: &Object| pod["metadata"]["creationTimestamp"].as_str().unwrap_or_default().to_owned();
        current.sort_by_key(|pod| (!is_ready(pod), made(pod)));
        let surplus = current.iter().skip(wanted);
        let replaced = current.iter().take(wanted).filter(|pod| is_ready(pod)).count() >= wanted;
        self.delete.extend(surplus.map(key));
        self.delete.extend(old.iter().filter(|_| replaced).map(key));
    }
}

fn from_template(template: &Value, namespace: &str, deployment: &str, hash: &str) -> Object {
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": template["metadata"].clone(),
        "spec": template["spec"].clone(),
        "status": {"phase": "Pending"},
    });
    let meta = &mut pod["metadata"];
    meta["name"] = format!("{deployment}-{hash}-{}", suffix()).into();
    meta["generateName"] = format!("{deployment}-{hash}-").into();
    meta["namespace"] = namespace.into();
    meta["labels"]["pod-template-hash"] = hash.into();
    meta["annotations"]["proa.dev/deployment"] = deployment.into();
    meta["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{deployment}-{hash}"), "controller": true}]);
    if pod["spec"]["serviceAccountName"].is_null() {
        pod["spec"]["serviceAccountName"] = "default".into();
    }
    pod
}

/// Counts pods into the deployments' status.
pub(crate) fn publish(store: &Store) {
    let pods = store.list("Pod");
    for deployment in store.list("Deployment") {
        let text = |field: &str| deployment["metadata"][field].as_str().unwrap_or_default();
        let own = |pod: &&Object| {
            pod["metadata"]["namespace"] == text("namespace")
                && pod["metadata"]["annotations"]["proa.dev/deployment"] == text("name")
        };
        let hash = template_hash(&deployment["spec"]["template"]);
        let (mut all, mut ready, mut updated) = (0, 0, 0);
        for pod in pods.iter().filter(own) {
            all += 1;
            ready += usize::from(is_ready(pod));
            updated += usize::from(pod["metadata"]["labels"]["pod-template-hash"] == hash.as_str());
        }
        store.update(&Key::new("Deployment", text("namespace"), text("name")), |deployment| {
            deployment["status"] = json!({"replicas": all, "readyReplicas": ready, "availableReplicas": ready, "updatedReplicas": updated});
        });
    }
}

/// Puts a new pod into the store, already given its proxy.
pub(crate) fn create(store: &Store, pod: Object) -> Result<Key, String> {
    let mut pod = pod;
    pod["metadata"]["creationTimestamp"] = now().into();
    store.apply(pod, "default", Origin::System).map(|(key, _)| key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_look_like_kubernetes() {
        let hash = template_hash(&json!({"spec": {}}));
        assert!((8..=10).contains(&hash.len()), "{hash}");
        assert!(hash.bytes().all(|byte| ALPHABET.contains(&byte)));
        assert_eq!(hash, template_hash(&json!({"spec": {}})));
        assert_eq!(suffix().len(), 5);
    }

    #[test]
    fn a_new_template_waits_for_its_pods() {
        let store = Store::new(std::env::temp_dir());
        let deployment = |image: &str| {
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "namespace": "x"},
            "spec": {"replicas": 2, "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": image}]}}}})
        };
        store.apply(deployment("one"), "x", Origin::Folder).expect("valid");
        let first = plan(&store);
        assert_eq!((first.create.len(), first.delete.len()), (2, 0));
        let keys: Vec<Key> = first.create.into_iter().map(|pod| create(&store, pod).expect("valid")).collect();
        assert!(keys[0].name.starts_with("a-"));
        assert!(plan(&store).create.is_empty());

        store.apply(deployment("two"), "x", Origin::Folder).expect("valid");
        let second = plan(&store);
        assert_eq!((second.create.len(), second.delete.len()), (2, 0), "old pods stay until the new ones are ready");
        for pod in second.create {
            let key = create(&store, pod).expect("valid");
            store.update(&key, |pod| crate::store::set_condition(pod, "Ready", true));
        }
        assert_eq!(plan(&store).delete.len(), 2);

        store.remove(&Key::new("Deployment", "x", "a"));
        assert_eq!(plan(&store).delete.len(), 4);
    }

    #[test]
    fn a_pod_that_serves_is_kept() {
        let store = Store::new(std::env::temp_dir());
        let deployment = |replicas: usize| {
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "namespace": "x"},
            "spec": {"replicas": replicas, "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}}})
        };
        store.apply(deployment(8), "x", Origin::Folder).expect("valid");
        let pods: Vec<Key> = plan(&store).create.into_iter().map(|pod| create(&store, pod).expect("valid")).collect();
        store.update(&pods[5], |pod| crate::store::set_condition(pod, "Ready", true));
        store.apply(deployment(1), "x", Origin::Folder).expect("valid");
        let deleted = plan(&store).delete;
        assert!(deleted.len() == 7 && !deleted.contains(&pods[5]));
    }
}
