//! How does a set of resources follow when some of its pieces are exchanged? The sorted set of the last time is patched
//! with the difference, so that one service among a thousand costs one service. Used for every type of a view.

use std::collections::HashSet;
use std::sync::Arc;

use xds::server::{Resource, ResourceSet};

/// Resources that were made together.
#[derive(Debug, Default)]
pub(crate) struct Piece {
    /// The resources, names unique among all pieces of an assembly; where they are not, the first piece wins.
    pub(crate) resources: Vec<Arc<Resource>>,
    /// Names of further resources that these refer to: endpoints of clusters, routes of listeners.
    pub(crate) refers: Vec<Arc<str>>,
}

impl Piece {
    /// Whether both are the same resources with the same references.
    pub(crate) fn is_same(&self, other: &Piece) -> bool {
        let resources = || self.resources.iter().zip(&other.resources);
        self.resources.len() == other.resources.len()
            && self.refers == other.refers
            && resources().all(|(a, b)| Arc::ptr_eq(a, b) || (a.version == b.version && a.name == b.name))
    }
}

/// A set and the pieces it consists of.
#[derive(Debug, Clone, Default)]
pub(crate) struct Assembly {
    /// Shared between views that differ in other types.
    pub(crate) pieces: Arc<Vec<Arc<Piece>>>,
    pub(crate) set: Arc<ResourceSet>,
    /// Names the pieces refer to, sorted, each once. One allocation while they are the same names.
    pub(crate) refers: Arc<[Arc<str>]>,
    /// Resources of all pieces.
    count: usize,
}

/// Larger differences are sorted anew.
const PATCH_SHARE: usize = 4;

impl Assembly {
    /// The set of these pieces, made from `old` where that is less work.
    pub(crate) fn of(pieces: Vec<Arc<Piece>>, old: Option<&Assembly>) -> Assembly {
        let Some(old) = old else {
            let set = pieces.iter().flat_map(|p| p.resources.iter().cloned()).collect();
            let count = pieces.iter().map(|p| p.resources.len()).sum();
            return Assembly {
                set: Arc::new(set),
                refers: refers(pieces.iter()).into(),
                count,
                pieces: Arc::new(pieces),
            };
        };
        let shared =
            |a: &mut dyn Iterator<Item = (&Arc<Piece>, &Arc<Piece>)>| a.take_while(|(a, b)| Arc::ptr_eq(a, b)).count();
        let front = shared(&mut old.pieces.iter().zip(&pieces));
        if front == old.pieces.len() && front == pieces.len() {
            return old.clone();
        }
        // Between what both begin and end with.
        let back = shared(&mut old.pieces[front..].iter().rev().zip(pieces[front..].iter().rev()));
        let (was, is) = (&old.pieces[front..old.pieces.len() - back], &pieces[front..pieces.len() - back]);
        let pointers = |list: &[Arc<Piece>]| -> HashSet<*const Piece> { list.iter().map(Arc::as_ptr).collect() };
        let (before, after) = (pointers(was), pointers(is));
        let gone: Vec<&Arc<Piece>> = was.iter().filter(|p| !after.contains(&Arc::as_ptr(p))).collect();
        let come: Vec<&Arc<Piece>> = is.iter().filter(|p| !before.contains(&Arc::as_ptr(p))).collect();
        let size = |list: &[&Arc<Piece>]| list.iter().map(|p| p.resources.len()).sum::<usize>();
        // A piece that occurs twice escapes the difference.
        let once = before.len() == was.len() && after.len() == is.len();
        let count =
            if once { old.count + size(&come) - size(&gone) } else { pieces.iter().map(|p| p.resources.len()).sum() };
        // Names that several pieces claim are rare and need the order of all pieces.
        let unique = once && old.set.len() == old.count;
        let removed = gone.iter().flat_map(|p| p.resources.iter());
        let added = come.iter().flat_map(|p| p.resources.iter());
        let patched = (unique && (size(&gone) + size(&come)) * PATCH_SHARE <= count.max(PATCH_SHARE * 4))
            .then(|| old.set.patched(removed, added))
            .filter(|set| set.len() == count);
        let set = patched.unwrap_or_else(|| {
            let all: ResourceSet = pieces.iter().flat_map(|p| p.resources.iter().cloned()).collect();
            all.sharing(&old.set)
        });
        let set = if set == *old.set { Arc::clone(&old.set) } else { Arc::new(set) };
        let names = |list: &[&Arc<Piece>]| refers(list.iter().copied());
        let refers = if once {
            exchange(&old.refers, &names(&gone), &names(&come), &pieces)
        } else {
            let all = refers(pieces.iter());
            if *all == *old.refers { Arc::clone(&old.refers) } else { all.into() }
        };
        Assembly { pieces: Arc::new(pieces), set, refers, count }
    }
}

/// The names that `pieces` refer to, when those had the names `known` of which `gone` went and `come` came.
fn exchange(known: &Arc<[Arc<str>]>, gone: &[Arc<str>], come: &[Arc<str>], pieces: &[Arc<Piece>]) -> Arc<[Arc<str>]> {
    let stays = |n: &Arc<str>| pieces.iter().any(|p| p.refers.iter().any(|r| r == n));
    let lost: Vec<_> = gone.iter().filter(|n| come.binary_search(n).is_err() && !stays(n)).collect();
    let won: Vec<_> = come.iter().filter(|n| known.binary_search(n).is_err()).collect();
    if lost.is_empty() && won.is_empty() {
        return Arc::clone(known);
    }
    let mut all: Vec<Arc<str>> = known.iter().filter(|n| !lost.contains(n)).cloned().collect();
    for name in won {
        if let Err(at) = all.binary_search(name) {
            all.insert(at, Arc::clone(name));
        }
    }
    all.into()
}

/// Names that pieces refer to, in order, each once.
fn refers<'a>(pieces: impl IntoIterator<Item = &'a Arc<Piece>>) -> Vec<Arc<str>> {
    let mut out: Vec<Arc<str>> = pieces.into_iter().flat_map(|p| p.refers.iter().cloned()).collect();
    out.sort();
    out.dedup();
    out
}
