//! Which resources are in force? The effective set of a local mesh: manifests, what commands applied over them, and
//! what the mesh itself adds (pods, addresses, status), mirrored to a folder that `proa discovery` watches.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;

use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::object::{Key, Object, identify, namespace};

/// Who put an object into the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The mesh itself.
    System,
    /// A manifest in the watched folder.
    Folder,
    /// A command.
    Command,
}

struct Entry {
    object: Object,
    origin: Origin,
}

/// The store; cheap to clone, single-threaded.
#[derive(Clone)]
pub(crate) struct Store(Rc<Inner>);

struct Inner {
    entries: RefCell<BTreeMap<Key, Entry>>,
    dirty: RefCell<BTreeSet<Key>>,
    changed: Notify,
    mirror: PathBuf,
    version: RefCell<u64>,
}

/// What an `apply` did, in kubectl's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Applied {
    Created,
    Configured,
    Unchanged,
}

impl Applied {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Configured => "configured",
            Self::Unchanged => "unchanged",
        }
    }
}

pub(crate) fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn uid() -> String {
    let hex = format!("{:032x}", rand::random::<u128>());
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// The parts of an object that a user writes.
fn written(object: &Object) -> Value {
    let mut copy = object.clone();
    if let Some(map) = copy.as_object_mut() {
        map.remove("status");
    }
    if let Some(meta) = copy["metadata"].as_object_mut() {
        for field in ["uid", "resourceVersion", "creationTimestamp", "generation", "managedFields"] {
            meta.remove(field);
        }
    }
    copy
}

impl Store {
    /// An empty store that mirrors to `mirror`, which must exist.
    pub(crate) fn new(mirror: PathBuf) -> Self {
        Self(Rc::new(Inner {
            entries: RefCell::default(),
            dirty: RefCell::default(),
            changed: Notify::new(),
            mirror,
            version: RefCell::new(0),
        }))
    }

    /// Resolves when something has changed since the last time.
    pub(crate) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// Wakes whoever waits for changes, without one.
    pub(crate) fn poke(&self) {
        self.0.changed.notify_one();
    }

    fn touch(&self, key: &Key) {
        self.0.dirty.borrow_mut().insert(key.clone());
        self.0.changed.notify_one();
    }

    /// Puts an object in, keeping identity and status of an earlier version; unknown namespaces come to be.
    pub(crate) fn apply(&self, mut object: Object, into: &str, origin: Origin) -> Result<(Key, Applied), String> {
        let key = identify(&mut object, into).map_err(|error| error.to_string())?;
        if !key.namespace.is_empty()
            && !self.0.entries.borrow().contains_key(&Key::new("Namespace", "", &key.namespace))
        {
            self.apply(namespace(&key.namespace), "", Origin::System)?;
        }
        let mut entries = self.0.entries.borrow_mut();
        let mut applied = Applied::Created;
        object["metadata"]["uid"] = uid().into();
        object["metadata"]["creationTimestamp"] = now().into();
        let mut generation = 1;
        if let Some(old) = entries.get_mut(&key) {
            let service = key.kind == "Service";
            if service && object["spec"]["clusterIP"].is_null() {
                object["spec"]["clusterIP"] = old.object["spec"]["clusterIP"].clone();
            }
            if written(&old.object) == written(&object) {
                old.origin = origin;
                return Ok((key, Applied::Unchanged));
            }
            applied = Applied::Configured;
            generation = old.object["metadata"]["generation"].as_u64().unwrap_or(1) + 1;
            for field in ["uid", "creationTimestamp"] {
                object["metadata"][field] = old.object["metadata"][field].clone();
            }
            if !old.object["status"].is_null() {
                object["status"] = old.object["status"].clone();
            }
        }
        object["metadata"]["generation"] = generation.into();
        object["metadata"]["resourceVersion"] = self.next_version();
        entries.insert(key.clone(), Entry { object, origin });
        drop(entries);
        self.touch(&key);
        Ok((key, applied))
    }

    fn next_version(&self) -> Value {
        let mut version = self.0.version.borrow_mut();
        *version += 1;
        version.to_string().into()
    }

    /// Changes an object in place; does nothing if it is gone or `change` leaves it as it was.
    pub(crate) fn update(&self, key: &Key, change: impl FnOnce(&mut Object)) {
        let mut entries = self.0.entries.borrow_mut();
        let Some(entry) = entries.get_mut(key) else {
            return;
        };
        let before = entry.object.clone();
        change(&mut entry.object);
        if entry.object == before {
            return;
        }
        entry.object["metadata"]["resourceVersion"] = self.next_version();
        drop(entries);
        self.touch(key);
    }

    /// Takes an object out; a namespace takes its content with it.
    pub(crate) fn remove(&self, key: &Key) -> Option<Object> {
        let removed = self.0.entries.borrow_mut().remove(key)?.object;
        self.touch(key);
        if key.kind == "Namespace" {
            let inside: Vec<Key> =
                self.0.entries.borrow().keys().filter(|inner| inner.namespace == key.name).cloned().collect();
            for inner in inside {
                self.remove(&inner);
            }
        }
        Some(removed)
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Object> {
        self.0.entries.borrow().get(key).map(|entry| entry.object.clone())
    }

    pub(crate) fn origin(&self, key: &Key) -> Option<Origin> {
        self.0.entries.borrow().get(key).map(|entry| entry.origin)
    }

    /// Every object of `kind`, all namespaces, by namespace and name.
    pub(crate) fn list(&self, kind: &str) -> Vec<Object> {
        let from = Key::new(kind, "", "");
        let entries = self.0.entries.borrow();
        let same = entries.range(from..).take_while(|(key, _)| key.kind == kind);
        same.map(|(_, entry)| entry.object.clone()).collect()
    }

    /// Writes what changed since the last call; each file appears whole or not at all.
    pub(crate) fn flush_mirror(&self) -> io::Result<()> {
        for key in std::mem::take(&mut *self.0.dirty.borrow_mut()) {
            let name = format!("{}.{}.{}.yaml", key.kind.to_ascii_lowercase(), key.namespace, key.name);
            let path = self.0.mirror.join(&name);
            match self.0.entries.borrow().get(&key) {
                Some(entry) => {
                    let draft = self.0.mirror.join(format!(".{name}.new"));
                    // JSON is YAML, and quicker to write and to read.
                    fs::write(&draft, format!("{:#}\n", entry.object))?;
                    fs::rename(&draft, &path)?;
                }
                None => match fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                },
            }
        }
        Ok(())
    }
}

/// Sets one condition of a pod's status, keeping the others.
pub(crate) fn set_condition(object: &mut Object, kind: &str, status: bool) {
    let word = if status { "True" } else { "False" };
    let conditions = &mut object["status"]["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Some(list) = conditions.as_array_mut() else {
        return;
    };
    match list.iter_mut().find(|condition| condition["type"] == kind) {
        Some(condition) if condition["status"] == word => {}
        Some(condition) => *condition = json!({"type": kind, "status": word, "lastTransitionTime": now()}),
        None => list.push(json!({"type": kind, "status": word, "lastTransitionTime": now()})),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(folder: &std::path::Path) -> Store {
        Store::new(folder.to_path_buf())
    }

    #[test]
    fn identity_survives_and_the_mirror_follows() {
        let folder = std::env::temp_dir().join(format!("proa-store-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a temporary folder");
        let store = store(&folder);
        let service = |port: u16| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": [{"port": port}]}});
        let (key, applied) = store.apply(service(80), "x", Origin::Folder).expect("valid");
        assert_eq!(applied, Applied::Created);
        store.update(&key, |object| object["spec"]["clusterIP"] = "10.96.0.1".into());
        assert_eq!(store.apply(service(80), "x", Origin::Command).expect("valid").1, Applied::Unchanged);
        assert_eq!(store.apply(service(81), "x", Origin::Command).expect("valid").1, Applied::Configured);
        let object = store.get(&key).expect("there");
        assert_eq!(object["spec"]["clusterIP"], "10.96.0.1");
        assert_eq!(object["metadata"]["generation"], 2);
        store.flush_mirror().expect("writable");
        assert!(folder.join("service.x.a.yaml").exists() && folder.join("namespace..x.yaml").exists());
        store.remove(&Key::new("Namespace", "", "x"));
        store.flush_mirror().expect("writable");
        assert_eq!(fs::read_dir(&folder).expect("there").count(), 0);
        fs::remove_dir_all(&folder).expect("ours");
    }
}
