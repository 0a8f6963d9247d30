//! Has this piece been translated already? Finished pieces by everything they were made from, shared by all proxies.
//!
//! A [`Key`] is the declared input of one piece: which unit, some plain bits, a name, and shared values by identity
//! (the model keeps what did not change in one allocation). An entry whose inputs are gone can never be asked for again
//! and is swept. Absent: what the pieces are (`clusters`, `listeners`, `routes` beside this file).

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use smallvec::SmallVec;
use xds::server::Resource;

/// Entries before the first sweep; later sweeps come when the table has doubled.
const SWEEP_MIN: usize = 4_096;

type Anything = dyn Any + Send + Sync;

/// Which translation a piece comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Unit {
    /// Clusters of one service.
    ServiceClusters,
    /// Endpoints of one service's clusters.
    ServiceEndpoints,
    /// One listener.
    Listener,
    /// Routes of one virtual service.
    Rules,
    /// The route of a service without virtual service.
    DefaultRoute,
    /// A service reduced to one port.
    Reduced,
    /// Domains of a service.
    Domains,
    /// Virtual hosts of a route configuration by domain.
    HostIndex,
    /// A route configuration without its virtual hosts.
    WithoutHosts,
    /// One virtual host.
    VirtualHost,
    /// A virtual host by the names of a service and its routes.
    ServiceHost,
}

/// A shared value as part of a key.
pub(crate) trait Shared {
    /// Its identity while it lives.
    fn address(&self) -> usize;
    /// Keeps the identity from being given to another value, but not the value.
    fn weak(&self) -> Weak<Anything>;
}

impl<T: Any + Send + Sync> Shared for Arc<T> {
    fn address(&self) -> usize {
        Arc::as_ptr(self).cast::<()>() as usize
    }
    fn weak(&self) -> Weak<Anything> {
        let weak: Weak<T> = Arc::downgrade(self);
        weak
    }
}

/// Everything one piece depends on.
pub(crate) struct Key<'a> {
    unit: Unit,
    bits: u64,
    text: &'a str,
    parts: SmallVec<[Option<&'a dyn Shared>; 8]>,
}

impl<'a> Key<'a> {
    pub(crate) fn new(unit: Unit, text: &'a str) -> Self {
        Key { unit, bits: 0, text, parts: SmallVec::new() }
    }

    /// Plain facts.
    pub(crate) fn bits(mut self, bits: u64) -> Self {
        self.bits = bits;
        self
    }

    /// A shared value.
    pub(crate) fn part(mut self, part: &'a dyn Shared) -> Self {
        self.parts.push(Some(part));
        self
    }

    /// A shared value that may be missing.
    pub(crate) fn maybe(mut self, part: Option<&'a dyn Shared>) -> Self {
        self.parts.push(part);
        self
    }

    fn stored(&self) -> Stored {
        Stored {
            unit: self.unit,
            bits: self.bits,
            text: self.text.into(),
            parts: self.parts.iter().map(|p| p.map_or(0, Shared::address)).collect(),
        }
    }
}

#[derive(PartialEq, Eq, Hash)]
struct Stored {
    unit: Unit,
    bits: u64,
    text: Box<str>,
    parts: SmallVec<[usize; 8]>,
}

struct Entry {
    made_from: SmallVec<[Weak<Anything>; 4]>,
    value: Arc<Anything>,
}

/// Finds equal resources, so that views that differ elsewhere share them. Dead entries are swept when the table has
/// doubled.
#[derive(Default)]
struct Interner {
    table: HashMap<u64, Weak<Resource>>,
    sweep_at: usize,
}

#[derive(Default)]
struct Table {
    entries: HashMap<Stored, Entry>,
    sweep_at: usize,
}

/// Finished pieces of translation.
#[derive(Default)]
pub struct Memo {
    table: Mutex<Table>,
    interned: Mutex<Interner>,
    found: AtomicU64,
    made: AtomicU64,
}

impl fmt::Debug for Memo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memo").field("entries", &self.len()).finish_non_exhaustive()
    }
}

impl Memo {
    /// How many pieces are kept.
    pub fn len(&self) -> usize {
        self.table().entries.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Look-ups that found their piece, and pieces made.
    pub fn counts(&self) -> (u64, u64) {
        (self.found.load(Ordering::Relaxed), self.made.load(Ordering::Relaxed))
    }

    /// The piece of this key, made if need be. `make` runs without the table's lock; two threads may make the same
    /// piece, one of them is kept.
    pub(crate) fn get<T: Any + Send + Sync>(&self, key: &Key<'_>, make: impl FnOnce() -> T) -> Arc<T> {
        let stored = key.stored();
        if let Some(found) = self.table().entries.get(&stored) {
            let value = Arc::clone(&found.value);
            self.found.fetch_add(1, Ordering::Relaxed);
            return value.downcast().expect("a unit has one type");
        }
        let value = Arc::new(make());
        self.made.fetch_add(1, Ordering::Relaxed);
        let mut table = self.table();
        if table.entries.len() >= table.sweep_at {
            table.entries.retain(|_, e| e.made_from.iter().all(|w| w.strong_count() > 0));
            table.sweep_at = (table.entries.len() * 2).max(SWEEP_MIN);
        }
        let made_from = key.parts.iter().flatten().map(|p| p.weak()).collect();
        table.entries.insert(stored, Entry { made_from, value: value.clone() });
        value
    }

    /// The one allocation of this resource.
    pub fn intern(&self, resource: Arc<Resource>) -> Arc<Resource> {
        let mut interned = self.interned.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(known) = interned.table.get(&resource.version).and_then(Weak::upgrade)
            && *known == *resource
        {
            return known;
        }
        if interned.table.len() >= interned.sweep_at {
            interned.table.retain(|_, r| r.strong_count() > 0);
            interned.sweep_at = (interned.table.len() * 2).max(SWEEP_MIN);
        }
        interned.table.insert(resource.version, Arc::downgrade(&resource));
        resource
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // A panic elsewhere leaves finished pieces behind, which stay right.
        self.table.lock().unwrap_or_else(|e| e.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_made_once_and_forgotten_with_its_inputs() {
        let memo = Memo::default();
        let kept = Arc::new(1u32);
        let get = |part: &Arc<u32>, text: &str| {
            *memo.get(&Key::new(Unit::Domains, text).part(part), || text.len() as u32 + **part)
        };
        assert_eq!((get(&kept, "a"), get(&kept, "a"), get(&kept, "bb")), (2, 2, 3));
        assert_eq!(memo.counts(), (1, 2));
        for n in 0..3 * SWEEP_MIN as u32 {
            assert_eq!(get(&Arc::new(n), "a"), n + 1, "the identity of a dead value was given to another");
        }
        assert!(memo.len() <= 2 * SWEEP_MIN);
        assert_eq!(get(&kept, "bb"), 3);
        assert_eq!(memo.counts().0, 2);
    }

    #[test]
    fn equal_resources_are_one_and_dead_ones_are_forgotten() {
        let memo = Memo::default();
        let make = |text: &str| Resource::new("n", text.as_bytes().to_vec());
        let first = memo.intern(make("a"));
        assert!(Arc::ptr_eq(&first, &memo.intern(make("a"))));
        for i in 0..4 * SWEEP_MIN {
            memo.intern(make(&i.to_string()));
        }
        assert!(memo.interned.lock().unwrap().table.len() <= 2 * SWEEP_MIN);
        assert!(Arc::ptr_eq(&first, &memo.intern(make("a"))));
    }
}
