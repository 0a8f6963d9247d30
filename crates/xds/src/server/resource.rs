//! What is one resource, and what differs between two sets of them? Immutable and shared between streams.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, Weak};

use xxhash_rust::xxh64::{Xxh64, xxh64};

/// One named resource, encoded. Its version is the hash of its bytes, so that equal content has the same
/// version in every replica and after every restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// The name clients subscribe to.
    pub name: Arc<str>,
    /// xxHash64 of `value`.
    pub version: u64,
    /// The encoded message; its type is that of the set.
    pub value: Vec<u8>,
}

impl Resource {
    /// Wraps encoded bytes and hashes them.
    pub fn new(name: impl Into<Arc<str>>, value: Vec<u8>) -> Arc<Self> {
        Arc::new(Resource { name: name.into(), version: xxh64(&value, 0), value })
    }
}

/// A version as it appears on the wire: 16 hexadecimal digits.
pub fn version_string(version: u64) -> String {
    format!("{version:016x}")
}

/// All resources of one type that one proxy may have, sorted by name. Proxies with the same view share it, and with it
/// what was computed about it once: its version, and what separates it from the set before.
#[derive(Debug, Default)]
pub struct ResourceSet {
    list: Vec<Arc<Resource>>,
    version: OnceLock<u64>,
    since: Mutex<Option<(Weak<ResourceSet>, Arc<Changes>)>>,
}

impl PartialEq for ResourceSet {
    fn eq(&self, other: &Self) -> bool {
        let same = |a: &Arc<Resource>, b: &Arc<Resource>| Arc::ptr_eq(a, b) || a == b;
        self.list.len() == other.list.len() && self.list.iter().zip(&other.list).all(|(a, b)| same(a, b))
    }
}

impl Eq for ResourceSet {}

/// What must be sent so that a holder of one set has another. Both lists are in name order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// New or different resources.
    pub changed: Vec<Arc<Resource>>,
    /// Names that exist no more.
    pub removed: Vec<Arc<str>>,
}

impl ResourceSet {
    /// Sorts the resources; of several with one name the first stays.
    pub fn new(mut list: Vec<Arc<Resource>>) -> Self {
        list.sort_by(|a, b| a.name.cmp(&b.name));
        list.dedup_by(|later, first| later.name == first.name);
        ResourceSet { list, ..Default::default() }
    }

    /// This set without some resources and with others, which replace those of their name. Costs little more than the
    /// difference.
    pub fn patched<'a>(
        &self,
        removed: impl Iterator<Item = &'a Arc<Resource>>,
        added: impl Iterator<Item = &'a Arc<Resource>>,
    ) -> ResourceSet {
        let mut list = self.list.clone();
        let place = |list: &[Arc<Resource>], name: &str| list.binary_search_by(|r| (*r.name).cmp(name));
        let mut gone: BTreeMap<&str, ()> = removed.map(|r| (&*r.name, ())).collect();
        for resource in added {
            gone.remove(&*resource.name);
            match place(&list, &resource.name) {
                Ok(at) if list[at].version == resource.version => {}
                Ok(at) => list[at] = Arc::clone(resource),
                Err(at) => list.insert(at, Arc::clone(resource)),
            }
        }
        for name in gone.keys() {
            if let Ok(at) = place(&list, name) {
                list.remove(at);
            }
        }
        ResourceSet { list, ..Default::default() }
    }

    /// This set, with resources of `old` in place of equal ones.
    pub fn sharing(mut self, old: &ResourceSet) -> ResourceSet {
        for resource in &mut self.list {
            if let Some(known) = old.get(&resource.name)
                && known.version == resource.version
            {
                *resource = Arc::clone(known);
            }
        }
        self
    }

    /// Hash over all names and versions, computed once.
    pub fn version(&self) -> u64 {
        *self.version.get_or_init(|| self.version_of(|_| true))
    }

    /// The resource of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Resource>> {
        let at = self.list.binary_search_by(|r| (*r.name).cmp(name)).ok()?;
        Some(&self.list[at])
    }

    /// All resources in name order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Resource>> {
        self.list.iter()
    }

    /// How many resources there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// No resource at all?
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Sum of the encoded sizes in bytes.
    pub fn bytes(&self) -> usize {
        self.list.iter().map(|r| r.value.len()).sum()
    }

    /// Hash over names and versions of those resources that `keep` selects.
    pub fn version_of(&self, mut keep: impl FnMut(&str) -> bool) -> u64 {
        let mut hash = Xxh64::new(0);
        for r in self.list.iter().filter(|r| keep(&r.name)) {
            hash.update(r.name.as_bytes());
            hash.update(&r.version.to_le_bytes());
        }
        hash.digest()
    }

    /// What separates `old` from `self`. The last answer is remembered: proxies that share a set usually come from the
    /// same one.
    pub fn shared_changes_since(&self, old: &Arc<ResourceSet>) -> Arc<Changes> {
        let mut since = self.since.lock().unwrap_or_else(|e| e.into_inner());
        if let Some((known, changes)) = &*since
            && std::ptr::eq(known.as_ptr(), Arc::as_ptr(old))
        {
            return Arc::clone(changes);
        }
        let changes = Arc::new(self.changes_since(old));
        *since = Some((Arc::downgrade(old), Arc::clone(&changes)));
        changes
    }

    /// What separates `old` from `self`; one merge walk, and nothing at all when both are the same set.
    pub fn changes_since(&self, old: &ResourceSet) -> Changes {
        let mut changes = Changes::default();
        if std::ptr::eq(self, old) {
            return changes;
        }
        let (mut new, mut old) = (self.list.iter().peekable(), old.list.iter().peekable());
        loop {
            match (new.peek(), old.peek()) {
                (Some(n), Some(o)) if n.name == o.name => {
                    if !Arc::ptr_eq(n, o) && n.version != o.version {
                        changes.changed.push(Arc::clone(n));
                    }
                    new.next();
                    old.next();
                }
                (Some(n), Some(o)) if n.name > o.name => {
                    changes.removed.push(Arc::clone(&o.name));
                    old.next();
                }
                (Some(n), _) => {
                    changes.changed.push(Arc::clone(n));
                    new.next();
                }
                (None, Some(o)) => {
                    changes.removed.push(Arc::clone(&o.name));
                    old.next();
                }
                (None, None) => return changes,
            }
        }
    }

    /// `self` together with those of `old` that `self` lacks and `keep` selects.
    pub fn with_kept(&self, old: &ResourceSet, keep: impl Fn(&str) -> bool) -> ResourceSet {
        let kept = old.list.iter().filter(|r| self.get(&r.name).is_none() && keep(&r.name));
        ResourceSet::new(self.list.iter().chain(kept).cloned().collect())
    }
}

impl FromIterator<Arc<Resource>> for ResourceSet {
    fn from_iter<I: IntoIterator<Item = Arc<Resource>>>(iter: I) -> Self {
        ResourceSet::new(iter.into_iter().collect())
    }
}

/// Reads `Cluster.type` (field 2, `EDS` = 3) off the wire without decoding the cluster.
///
/// Malformed bytes are no EDS cluster. Follows: envoy.config.cluster.v3.Cluster.DiscoveryType.
pub(crate) fn is_eds_cluster(mut bytes: &[u8]) -> bool {
    const EDS: u64 = 3;
    let mut found = false;
    while let Some(key) = varint(&mut bytes) {
        let skip = match key & 7 {
            0 => {
                let Some(value) = varint(&mut bytes) else {
                    return false;
                };
                if key >> 3 == 2 {
                    found = value == EDS;
                }
                0
            }
            1 => 8,
            2 => match varint(&mut bytes).map(usize::try_from) {
                Some(Ok(len)) => len,
                _ => return false,
            },
            5 => 4,
            _ => return false,
        };
        match bytes.get(skip..) {
            Some(rest) => bytes = rest,
            None => return false,
        }
    }
    found
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
