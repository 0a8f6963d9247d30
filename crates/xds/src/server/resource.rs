//! What is one resource, and what differs between two sets of them? Immutable and shared between streams.

use std::sync::Arc;

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

/// All resources of one type that one proxy may have, sorted by name. Proxies with the same view share it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResourceSet {
    list: Vec<Arc<Resource>>,
}

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
        ResourceSet { list }
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
