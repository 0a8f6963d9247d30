//! Which entry is due next? Envoy's earliest-deadline-first schedule: each entry comes up in proportion to its weight.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

#[derive(Debug, PartialEq)]
struct Entry {
    deadline: f64,
    /// Breaks ties: first in, first out.
    order: u64,
    item: u32,
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        // The heap's greatest entry is the one due first.
        other.deadline.total_cmp(&self.deadline).then(other.order.cmp(&self.order))
    }
}

/// The schedule.
#[derive(Debug)]
pub(super) struct Edf {
    heap: BinaryHeap<Entry>,
    now: f64,
    order: u64,
}

impl Edf {
    /// A schedule of items with positive weights.
    pub fn new(items: impl Iterator<Item = (u32, f64)>) -> Self {
        let mut edf = Self { heap: BinaryHeap::new(), now: 0.0, order: 0 };
        for (item, weight) in items {
            edf.add(item, weight);
        }
        edf
    }

    fn add(&mut self, item: u32, weight: f64) {
        self.heap.push(Entry { deadline: self.now + 1.0 / weight, order: self.order, item });
        self.order += 1;
    }

    /// Takes the item that is due and puts it back with its present weight.
    pub fn pick(&mut self, weight: impl Fn(u32) -> f64) -> Option<u32> {
        let entry = self.heap.pop()?;
        self.now = entry.deadline;
        self.add(entry.item, weight(entry.item));
        Some(entry.item)
    }
}
