//! Where do the numbers live? One worker's cells of one block, and the shared cells of everybody else.
//!
//! A worker's cells have one writer, so an increment is a relaxed load and store; readers may see a value
//! one event old, never a torn one. Gauges are two monotone cells (added, subtracted) so that "ever touched"
//! costs nothing to remember.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering::Relaxed};

use super::histogram::{Bins, HistogramCells};
use super::schema::SchemaDef;

/// Distinct status codes counted per worker and block without the mutex; a service that sends more falls back to the shared cells.
const CODES_PER_WORKER: usize = 24;

/// The cells of one worker.
#[derive(Debug)]
pub(crate) struct Cells {
    /// Counters, then gauge pairs (added, subtracted).
    numbers: Box<[AtomicU64]>,
    histograms: Box<[OnceLock<Box<HistogramCells>>]>,
    codes: OnceLock<Box<[CodeCell; CODES_PER_WORKER]>>,
    counters: usize,
}

#[derive(Debug, Default)]
struct CodeCell {
    /// `group << 12 | code`, 0 = free.
    key: AtomicU16,
    count: AtomicU64,
}

pub(crate) fn code_key(group: u16, code: u16) -> u16 {
    group << 12 | code.min(0xfff)
}

#[inline]
fn bump(cell: &AtomicU64, n: u64) {
    cell.store(cell.load(Relaxed).wrapping_add(n), Relaxed);
}

impl Cells {
    pub(crate) fn new(def: &SchemaDef) -> Box<Self> {
        let numbers = def.counters.len() + 2 * def.gauges.len();
        Box::new(Self {
            numbers: (0..numbers).map(|_| AtomicU64::new(0)).collect(),
            histograms: (0..def.histograms.len()).map(|_| OnceLock::new()).collect(),
            codes: OnceLock::new(),
            counters: def.counters.len(),
        })
    }

    #[inline]
    pub(crate) fn add(&self, counter: u16, n: u64) {
        if let Some(cell) = self.numbers.get(counter as usize) {
            bump(cell, n);
        }
    }

    #[inline]
    pub(crate) fn gauge(&self, gauge: u16, n: u64, subtract: bool) {
        if let Some(cell) = self.numbers.get(self.counters + 2 * gauge as usize + subtract as usize) {
            bump(cell, n);
        }
    }

    #[inline]
    pub(crate) fn record(&self, histogram: u16, value: u64) {
        if let Some(cell) = self.histograms.get(histogram as usize) {
            cell.get_or_init(Default::default).record(value);
        }
    }

    /// False: no room left for a new code.
    #[inline]
    pub(crate) fn code(&self, group: u16, code: u16) -> bool {
        let key = code_key(group, code);
        for cell in self.codes.get_or_init(Default::default).iter() {
            let seen = cell.key.load(Relaxed);
            if seen == 0 {
                cell.key.store(key, Relaxed);
            } else if seen != key {
                continue;
            }
            bump(&cell.count, 1);
            return true;
        }
        false
    }

    pub(crate) fn read_counter(&self, counter: u16) -> u64 {
        self.numbers.get(counter as usize).map_or(0, |c| c.load(Relaxed))
    }

    /// (added, subtracted)
    pub(crate) fn read_gauge(&self, gauge: u16) -> (u64, u64) {
        let at = self.counters + 2 * gauge as usize;
        match self.numbers.get(at..at + 2) {
            Some([added, subtracted]) => (added.load(Relaxed), subtracted.load(Relaxed)),
            _ => (0, 0),
        }
    }

    pub(crate) fn read_histogram(&self, histogram: u16, into: &mut Bins) {
        if let Some(cells) = self.histograms.get(histogram as usize).and_then(OnceLock::get) {
            cells.merge_into(into);
        }
    }

    pub(crate) fn read_codes(&self, mut each: impl FnMut(u16, u64)) {
        for cell in self.codes.get().into_iter().flat_map(|c| c.iter()) {
            let key = cell.key.load(Relaxed);
            if key == 0 {
                break;
            }
            each(key, cell.count.load(Relaxed));
        }
    }
}

/// What threads other than workers wrote: sparse, behind the block's mutex.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// Counters, and gauges under [`GAUGE`]; presence means used.
    numbers: Vec<(u16, u64)>,
    /// What few blocks have.
    more: Option<Box<More>>,
}

/// Set in the keys of gauges; a table has far fewer rows.
const GAUGE: u16 = 1 << 15;

/// What only some blocks have outside of their workers' cells.
#[derive(Debug, Default)]
pub(crate) struct More {
    pub(crate) histograms: Vec<(u16, Bins)>,
    pub(crate) texts: Vec<(u16, Box<str>)>,
    pub(crate) codes: Vec<(u16, u64)>,
    /// Counter values at the last `/reset_counters`.
    pub(crate) base: Vec<(u16, u64)>,
    /// Code counter values at the last `/reset_counters`.
    pub(crate) code_base: Vec<(u16, u64)>,
    /// Histograms at the last flush and what came in between it and the one before.
    pub(crate) flushed: Vec<(u16, Bins, Bins)>,
}

impl Shared {
    pub(crate) fn counter(&self, id: u16) -> Option<u64> {
        look(&self.numbers, id).copied()
    }

    /// A gauge lowered here and raised elsewhere wraps: only the sum over all writers means something.
    pub(crate) fn gauge(&self, id: u16) -> Option<u64> {
        look(&self.numbers, id | GAUGE).copied()
    }

    pub(crate) fn counter_mut(&mut self, id: u16) -> &mut u64 {
        entry(&mut self.numbers, id)
    }

    pub(crate) fn gauge_mut(&mut self, id: u16) -> &mut u64 {
        entry(&mut self.numbers, id | GAUGE)
    }

    pub(crate) fn more(&self) -> Option<&More> {
        self.more.as_deref()
    }

    pub(crate) fn more_mut(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }
}

/// The entry of `key`, made if absent.
pub(crate) fn entry<T: Default>(list: &mut Vec<(u16, T)>, key: u16) -> &mut T {
    let at = match list.binary_search_by_key(&key, |e| e.0) {
        Ok(at) => at,
        Err(at) => {
            list.reserve_exact(1);
            list.insert(at, (key, T::default()));
            at
        }
    };
    &mut list[at].1
}

pub(crate) fn look<T>(list: &[(u16, T)], key: u16) -> Option<&T> {
    list.binary_search_by_key(&key, |e| e.0).ok().map(|at| &list[at].1)
}
