//! What do filters tell each other? Dynamic metadata and filter state, allocated when first written.

use std::collections::BTreeMap;
use std::sync::Arc;

use proxy_config::Name;
use proxy_config::common::Value;

/// Entries of filter state per stream, and namespaces of dynamic metadata; more are refused.
const ENTRIES_MAX: usize = 128;

/// Dynamic metadata: filter namespace to struct, by name. A handful of them; their place is kept for the next request.
#[derive(Default, Clone)]
pub struct DynamicMetadata(Vec<(Name, Value)>);

impl DynamicMetadata {
    /// The struct of a namespace.
    pub fn get(&self, namespace: &str) -> Option<&Value> {
        self.at(namespace).ok().map(|i| &self.0[i].1)
    }

    fn at(&self, namespace: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(name, _)| (**name).cmp(namespace))
    }

    /// Replaces the struct of a namespace.
    pub fn set(&mut self, namespace: Name, value: Value) {
        match self.at(&namespace) {
            Ok(i) => self.0[i].1 = value,
            Err(i) if self.0.len() < ENTRIES_MAX => self.0.insert(i, (namespace, value)),
            Err(_) => {}
        }
    }

    /// All namespaces.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &Value)> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// Filter state objects, by key; their serialised form is what matchers and logs see.
#[derive(Default, Clone)]
pub struct StateObjects(Option<Box<BTreeMap<Name, Object>>>);

#[derive(Clone)]
struct Object {
    value: Arc<str>,
    /// Shared with upstream connections (internal listeners see it).
    shared: bool,
}

impl StateObjects {
    /// The object of that name.
    pub fn get(&self, key: &str) -> Option<&Arc<str>> {
        Some(&self.0.as_ref()?.get(key)?.value)
    }

    /// Writes an object.
    pub fn set(&mut self, key: Name, value: Arc<str>) {
        self.set_shared(key, value, false);
    }

    /// Writes an object and says whether upstream connections share it.
    pub fn set_shared(&mut self, key: Name, value: Arc<str>, shared: bool) {
        let map = self.0.get_or_insert_default();
        if map.len() < ENTRIES_MAX || map.contains_key(&key) {
            map.insert(key, Object { value, shared });
        }
    }

    /// Objects that upstream connections share, after those of the downstream connection.
    pub fn shared_with_upstream(&self, of_connection: &[(Name, Arc<str>)]) -> Vec<(Name, Arc<str>)> {
        let own = self.0.iter().flat_map(|m| m.iter()).filter(|(_, o)| o.shared);
        of_connection.iter().cloned().chain(own.map(|(k, o)| (k.clone(), o.value.clone()))).collect()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// All objects.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &Arc<str>)> {
        self.0.iter().flat_map(|m| m.iter()).map(|(k, o)| (k, &o.value))
    }
}
