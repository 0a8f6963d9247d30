//! How does a snapshot keep a large table when one entry changes? A sorted map in chunks that versions share: a clone is
//! one reference, a change copies one chunk, and what differs between two versions is found without looking at the rest.
//! Used for the tables of the [`Snapshot`](crate::Snapshot) and of scopes. Deliberately absent: removal of empty space
//! (chunks never merge; a table that shrinks to nothing is rebuilt by its owner).

use std::borrow::Borrow;
use std::sync::Arc;

/// Entries per chunk before it is split: small enough to copy for one change, large enough that a thousand services
/// are some thirty chunks.
const CHUNK_MAX: usize = 32;

type Chunk<K, V> = Arc<Vec<(K, V)>>;

/// A sorted map whose clones share what did not change.
#[derive(Debug)]
pub struct SharedMap<K, V> {
    chunks: Arc<Vec<Chunk<K, V>>>,
    len: usize,
}

impl<K, V> Clone for SharedMap<K, V> {
    fn clone(&self) -> Self {
        SharedMap { chunks: Arc::clone(&self.chunks), len: self.len }
    }
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        SharedMap { chunks: Arc::default(), len: 0 }
    }
}

impl<K: PartialEq, V: PartialEq> PartialEq for SharedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.is_same(other) || (self.len == other.len && self.iter().eq(other.iter()))
    }
}

impl<K, V> SharedMap<K, V> {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether both are one table, without looking inside.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.chunks, &other.chunks)
    }

    /// Entries in order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.chunks.iter().flat_map(|c| c.iter()).map(|(k, v)| (k, v))
    }

    /// Keys in order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(k, _)| k)
    }

    /// Values in the order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, v)| v)
    }
}

impl<K: Ord + Clone, V: Clone> SharedMap<K, V> {
    /// Chunk and place of a key, or where it would go.
    fn find<Q: Ord + ?Sized>(&self, key: &Q) -> (usize, Result<usize, usize>)
    where
        K: Borrow<Q>,
    {
        let after = self.chunks.partition_point(|c| c.first().is_some_and(|(k, _)| k.borrow() <= key));
        let chunk = after.saturating_sub(1);
        match self.chunks.get(chunk) {
            Some(c) => (chunk, c.binary_search_by(|(k, _)| k.borrow().cmp(key))),
            None => (0, Err(0)),
        }
    }

    /// The value of a key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let (chunk, at) = self.find(key);
        let at = at.ok()?;
        Some(&self.chunks[chunk][at].1)
    }

    /// Whether the key is there.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// Sets a value; returns the one before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let (chunk, at) = self.find(&key);
        let chunks = Arc::make_mut(&mut self.chunks);
        if chunks.is_empty() {
            chunks.push(Arc::default());
        }
        let entries = Arc::make_mut(&mut chunks[chunk]);
        let at = match at {
            Ok(at) => return Some(std::mem::replace(&mut entries[at].1, value)),
            Err(at) => at,
        };
        entries.insert(at, (key, value));
        self.len += 1;
        if entries.len() > CHUNK_MAX {
            // Appending, the usual way to fill a table, leaves full chunks behind.
            let half = if at + 1 == entries.len() { CHUNK_MAX } else { CHUNK_MAX / 2 };
            let upper = entries.split_off(half);
            chunks.insert(chunk + 1, Arc::new(upper));
        }
        None
    }

    /// Takes an entry out.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let (chunk, at) = self.find(key);
        let at = at.ok()?;
        let chunks = Arc::make_mut(&mut self.chunks);
        let entries = Arc::make_mut(&mut chunks[chunk]);
        let (_, value) = entries.remove(at);
        if entries.is_empty() {
            chunks.remove(chunk);
        }
        self.len -= 1;
        Some(value)
    }

    /// The value of a key for changing, created if need be. Copies the chunk when another version has it.
    pub fn entry(&mut self, key: K) -> &mut V
    where
        V: Default,
    {
        if self.find(&key).1.is_err() {
            self.insert(key.clone(), V::default());
        }
        let (chunk, at) = self.find(&key);
        let entries = Arc::make_mut(&mut Arc::make_mut(&mut self.chunks)[chunk]);
        &mut entries[at.expect("inserted above")].1
    }

    /// Keys whose value is not the same in both, in order. Costs what the chunks cost that are not shared.
    pub fn changed_keys(&self, old: &Self, same: impl Fn(&V, &V) -> bool) -> Vec<K> {
        let mut out = Vec::new();
        if self.is_same(old) {
            return out;
        }
        let pointers = |map: &Self| -> std::collections::HashSet<*const Vec<(K, V)>> {
            map.chunks.iter().map(Arc::as_ptr).collect()
        };
        let (ours, theirs) = (pointers(self), pointers(old));
        let own = |map: &'_ Self, other: &std::collections::HashSet<*const Vec<(K, V)>>| -> Vec<Chunk<K, V>> {
            map.chunks.iter().filter(|c| !other.contains(&Arc::as_ptr(c))).cloned().collect()
        };
        let (new, old) = (own(self, &theirs), own(old, &ours));
        let mut new = new.iter().flat_map(|c| c.iter()).peekable();
        let mut old = old.iter().flat_map(|c| c.iter()).peekable();
        loop {
            match (new.peek(), old.peek()) {
                (Some((n, a)), Some((o, b))) if n == o => {
                    if !same(a, b) {
                        out.push(n.clone());
                    }
                    new.next();
                    old.next();
                }
                (Some((n, _)), Some((o, _))) if n > o => {
                    out.push(o.clone());
                    old.next();
                }
                (Some((n, _)), _) => {
                    out.push(n.clone());
                    new.next();
                }
                (None, Some((o, _))) => {
                    out.push(o.clone());
                    old.next();
                }
                (None, None) => return out,
            }
        }
    }
}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for SharedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(iter: I) -> Self {
        let mut out = SharedMap::default();
        for (k, v) in iter {
            out.insert(k, v);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn random(seed: &mut u64) -> u64 {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *seed >> 33
    }

    #[test]
    fn behaves_as_a_map_and_finds_what_changed() {
        let mut seed = 7;
        for _ in 0..50 {
            let mut shared: SharedMap<u64, u64> = SharedMap::default();
            let mut plain: BTreeMap<u64, u64> = BTreeMap::new();
            for _ in 0..10 {
                let (before, plain_before) = (shared.clone(), plain.clone());
                for _ in 0..random(&mut seed) % 200 {
                    let (key, value) = (random(&mut seed) % 300, random(&mut seed) % 3);
                    if value == 0 {
                        assert_eq!(shared.remove(&key), plain.remove(&key));
                    } else {
                        assert_eq!(shared.insert(key, value), plain.insert(key, value));
                    }
                }
                assert!(shared.iter().eq(plain.iter()) && shared.len() == plain.len());
                assert!((0..300).all(|k| shared.get(&k) == plain.get(&k)));
                let changed: Vec<u64> = (0..300).filter(|k| plain.get(k) != plain_before.get(k)).collect();
                assert_eq!(shared.changed_keys(&before, |a, b| a == b), changed);
                assert!(before.iter().eq(plain_before.iter()), "an older version moved");
            }
        }
    }
}
