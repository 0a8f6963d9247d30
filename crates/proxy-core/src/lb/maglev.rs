//! Which host owns each slot of the Maglev table? Envoy's construction, weights included.

use crate::hash::{xx, xx_seeded};

/// A Maglev table.
#[derive(Debug)]
pub struct Maglev {
    slots: Vec<u32>,
}

struct Entry {
    host: u32,
    offset: u64,
    skip: u64,
    weight: f64,
    target: f64,
    next: u64,
}

const EMPTY: u32 = u32::MAX;

impl Maglev {
    /// Builds a table of `size` slots (prime) for `hosts` (number, key, weight; weights sum to one).
    pub fn build(hosts: &[(u32, &str, f64)], size: u64) -> Maglev {
        let greatest = hosts.iter().map(|h| h.2).fold(0.0, f64::max);
        let mut sorted: Vec<&(u32, &str, f64)> = hosts.iter().collect();
        // The order in which hosts claim slots must not depend on discovery order.
        sorted.sort_by_key(|h| h.1);
        let mut entries: Vec<Entry> = sorted
            .into_iter()
            .map(|(host, key, weight)| Entry {
                host: *host,
                offset: xx(key.as_bytes()) % size,
                skip: xx_seeded(key.as_bytes(), 1) % (size - 1).max(1) + 1,
                weight: *weight,
                target: 0.0,
                next: 0,
            })
            .collect();
        let mut slots = vec![EMPTY; size as usize];
        let mut filled = 0;
        let mut iteration = 0u32;
        while filled < size {
            iteration += 1;
            for e in &mut entries {
                if filled == size {
                    break;
                }
                // A host of half the greatest weight claims a slot every second round, and so on.
                if f64::from(iteration) * e.weight < e.target {
                    continue;
                }
                e.target += greatest;
                let mut c = slot(e, size);
                while slots[c] != EMPTY {
                    e.next += 1;
                    c = slot(e, size);
                }
                slots[c] = e.host;
                e.next += 1;
                filled += 1;
            }
        }
        Maglev { slots }
    }

    /// The owner of `hash`; later attempts change the hash as Envoy does.
    pub fn pick(&self, hash: u64, attempt: u32) -> u32 {
        let hash = if attempt > 0 { hash ^ (!0u64 - u64::from(attempt) + 1) } else { hash };
        self.slots[(hash % self.slots.len() as u64) as usize]
    }

    /// The table, for tests.
    pub fn slots(&self) -> &[u32] {
        &self.slots
    }
}

fn slot(e: &Entry, size: u64) -> usize {
    ((u128::from(e.offset) + u128::from(e.skip) * u128::from(e.next)) % u128::from(size)) as usize
}
