//! What is one resource, and what differs between two sets of them? Immutable and shared between streams.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use xxhash_rust::xxh64::Xxh64;

use super::Value;

/// One named resource, encoded. Its version is the hash of its bytes, so that equal content has the same
/// version in every replica and after every restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// The name clients subscribe to.
    pub name: Arc<str>,
    /// xxHash64 of `value`, see [`Value`].
    pub version: u64,
    /// The encoded message; its type is that of the set.
    pub value: Value,
}

impl Resource {
    /// Wraps encoded bytes and hashes them.
    pub fn new(name: impl Into<Arc<str>>, value: impl Into<Value>) -> Arc<Self> {
        let value = value.into();
        Arc::new(Resource { name: name.into(), version: value.hash(), value })
    }
}

/// A version as it appears on the wire: 16 hexadecimal digits.
pub fn version_string(version: u64) -> String {
    format!("{version:016x}")
}

/// Resources per chunk before it is split: a set of a thousand is some thirty chunks, and a version of it copies one.
const CHUNK_MAX: usize = 64;

type Chunk = Arc<Vec<Arc<Resource>>>;

/// All resources of one type that one proxy may have, sorted by name. Proxies with the same view share it, and with it
/// what was computed about it once: its version, and what separates it from the set before. Versions of a set share the
/// chunks that did not change.
#[derive(Debug, Default)]
pub struct ResourceSet {
    /// None is empty.
    chunks: Vec<Chunk>,
    len: usize,
    version: OnceLock<u64>,
    since: Mutex<Option<(Weak<ResourceSet>, Arc<Changes>)>>,
    wanted: Mutex<Weak<BTreeSet<Arc<str>>>>,
}

impl PartialEq for ResourceSet {
    fn eq(&self, other: &Self) -> bool {
        let same = |a: &Arc<Resource>, b: &Arc<Resource>| Arc::ptr_eq(a, b) || a == b;
        let same_chunk = |a: &Chunk, b: &Chunk| Arc::ptr_eq(a, b);
        let chunks = || {
            self.chunks.len() == other.chunks.len()
                && self.chunks.iter().zip(&other.chunks).all(|(a, b)| same_chunk(a, b))
        };
        self.len == other.len && (chunks() || self.iter().zip(other.iter()).all(|(a, b)| same(a, b)))
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
        let len = list.len();
        let mut chunks = Vec::with_capacity(len.div_ceil(CHUNK_MAX));
        let mut list = list.into_iter().peekable();
        while list.peek().is_some() {
            chunks.push(Arc::new(list.by_ref().take(CHUNK_MAX).collect()));
        }
        ResourceSet { chunks, len, ..Default::default() }
    }

    /// Chunk and place of a name, or where it would go.
    fn find(&self, name: &str) -> (usize, Result<usize, usize>) {
        let after = self.chunks.partition_point(|c| c.first().is_some_and(|r| *r.name <= *name));
        let chunk = after.saturating_sub(1);
        match self.chunks.get(chunk) {
            Some(c) => (chunk, c.binary_search_by(|r| (*r.name).cmp(name))),
            None => (0, Err(0)),
        }
    }

    fn put(&mut self, resource: &Arc<Resource>) {
        let (chunk, at) = self.find(&resource.name);
        if self.chunks.is_empty() {
            self.chunks.push(Arc::default());
        }
        match at {
            Ok(at) if self.chunks[chunk][at].version == resource.version => {}
            Ok(at) => Arc::make_mut(&mut self.chunks[chunk])[at] = Arc::clone(resource),
            Err(at) => {
                let list = Arc::make_mut(&mut self.chunks[chunk]);
                list.insert(at, Arc::clone(resource));
                self.len += 1;
                if list.len() > CHUNK_MAX {
                    let upper = list.split_off(CHUNK_MAX / 2);
                    self.chunks.insert(chunk + 1, Arc::new(upper));
                }
            }
        }
    }

    fn take_out(&mut self, name: &str) {
        let (chunk, Ok(at)) = self.find(name) else {
            return;
        };
        self.len -= 1;
        if self.chunks[chunk].len() == 1 {
            self.chunks.remove(chunk);
        } else {
            Arc::make_mut(&mut self.chunks[chunk]).remove(at);
        }
    }

    /// This set without some resources and with others, which replace those of their name. Costs little more than the
    /// difference.
    pub fn patched<'a>(
        &self,
        removed: impl Iterator<Item = &'a Arc<Resource>>,
        added: impl Iterator<Item = &'a Arc<Resource>>,
    ) -> ResourceSet {
        let mut out = ResourceSet { chunks: self.chunks.clone(), len: self.len, ..Default::default() };
        let mut gone: BTreeSet<&str> = removed.map(|r| &*r.name).collect();
        for resource in added {
            gone.remove(&*resource.name);
            out.put(resource);
        }
        gone.into_iter().for_each(|name| out.take_out(name));
        out
    }

    /// This set, with resources of `old` in place of equal ones.
    pub fn sharing(mut self, old: &ResourceSet) -> ResourceSet {
        for chunk in &mut self.chunks {
            for resource in Arc::make_mut(chunk) {
                if let Some(known) = old.get(&resource.name)
                    && known.version == resource.version
                {
                    *resource = Arc::clone(known);
                }
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
        let (chunk, at) = self.find(name);
        self.chunks.get(chunk)?.get(at.ok()?)
    }

    /// All resources in name order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.chunks.iter().flat_map(|c| c.iter())
    }

    /// How many resources there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// No resource at all?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sum of the encoded sizes in bytes.
    pub fn bytes(&self) -> usize {
        self.iter().map(|r| r.value.len()).sum()
    }

    /// Hash over names and versions of those resources that `keep` selects.
    pub fn version_of(&self, mut keep: impl FnMut(&str) -> bool) -> u64 {
        let mut hash = Xxh64::new(0);
        for r in self.iter().filter(|r| keep(&r.name)) {
            hash.update(r.name.as_bytes());
            hash.update(&r.version.to_le_bytes());
        }
        hash.digest()
    }

    /// These names as the last client had them that asked the same of this set: replicas ask for the same thousand names.
    pub(crate) fn names_shared(&self, names: &Arc<BTreeSet<Arc<str>>>) -> Arc<BTreeSet<Arc<str>>> {
        let mut wanted = self.wanted.lock().unwrap_or_else(|e| e.into_inner());
        let same = |a: &Arc<str>, b: &Arc<str>| Arc::ptr_eq(a, b) || a == b;
        if let Some(known) = wanted.upgrade()
            && known.len() == names.len()
            && known.iter().zip(names.iter()).all(|(a, b)| same(a, b))
        {
            return known;
        }
        *wanted = Arc::downgrade(names);
        Arc::clone(names)
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

    /// What separates `old` from `self`; one merge walk over the chunks that they do not share.
    pub fn changes_since(&self, old: &ResourceSet) -> Changes {
        let mut changes = Changes::default();
        if std::ptr::eq(self, old) {
            return changes;
        }
        let own = |a: &ResourceSet, b: &ResourceSet| -> Vec<Chunk> {
            let others: HashSet<*const Vec<Arc<Resource>>> = b.chunks.iter().map(Arc::as_ptr).collect();
            a.chunks.iter().filter(|c| !others.contains(&Arc::as_ptr(c))).cloned().collect()
        };
        let (ours, theirs) = (own(self, old), own(old, self));
        let mut new = ours.iter().flat_map(|c| c.iter()).peekable();
        let mut old = theirs.iter().flat_map(|c| c.iter()).peekable();
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
        let kept = old.iter().filter(|r| self.get(&r.name).is_none() && keep(&r.name));
        self.patched(std::iter::empty(), kept)
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
