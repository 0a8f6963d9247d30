//! Where do keys and hosts lie on the ring? Envoy's RING_HASH placement, hash for hash.

use crate::hash::{murmur2, xx};

/// A hash ring.
#[derive(Debug)]
pub struct Ring {
    /// Sorted by hash.
    points: Vec<(u64, u32)>,
}

impl Ring {
    /// Builds a ring of `hosts` (number, key, weight; weights sum to one) with sizes between `min` and `max`.
    pub fn build(hosts: &[(u32, &str, f64)], min: u64, max: u64, murmur: bool) -> Ring {
        let least = hosts.iter().map(|h| h.2).fold(f64::INFINITY, f64::min);
        // The least-weighted host gets a whole number of points.
        let scale = ((least * min as f64).ceil() / least).min(max as f64);
        let mut points = Vec::with_capacity(scale.ceil() as usize);
        let mut key = Vec::new();
        let (mut current, mut target) = (0.0, 0.0);
        for (host, name, weight) in hosts {
            target += scale * weight;
            let mut i = 0u64;
            while current < target {
                key.clear();
                key.extend_from_slice(name.as_bytes());
                key.push(b'_');
                key.extend_from_slice(i.to_string().as_bytes());
                points.push((if murmur { murmur2(&key) } else { xx(&key) }, *host));
                i += 1;
                current += 1.0;
            }
        }
        points.sort_by_key(|p| p.0);
        Ring { points }
    }

    /// The host of the first point at or after `hash`; later attempts go round the ring.
    pub fn pick(&self, hash: u64, attempt: u32) -> u32 {
        let at = self.points.partition_point(|p| p.0 < hash);
        let at = if at == self.points.len() { 0 } else { at };
        self.points[(at + attempt as usize) % self.points.len()].1
    }

    /// The host of each point.
    pub fn owners(&self) -> impl Iterator<Item = u32> {
        self.points.iter().map(|p| p.1)
    }

    /// Number of points.
    pub fn len(&self) -> usize {
        self.points.len()
    }

    /// True when there is no point (never for a built ring).
    pub fn is_empty(&self) -> bool {
        self.points.is_empty()
    }
}
