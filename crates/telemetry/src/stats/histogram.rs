//! How are values distributed? Envoy's log-linear histogram: two significant digits per power of ten.
//!
//! Follows circllhist as Envoy uses it: bin `d.d × 10^e`, quantiles interpolated inside a bin, sums from bin
//! midpoints. Values are non-negative integers here.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Bins per power of ten: 1.0, 1.1, … 9.9.
const BINS_PER_DECADE: usize = 90;
/// Powers of ten that `u64` spans.
const DECADES: usize = 20;

/// Upper bounds that Envoy prints by default (milliseconds in most histograms).
pub const BUCKETS: [f64; 19] = [
    0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0, 30000.0, 60000.0, 300000.0,
    600000.0, 1800000.0, 3600000.0,
];

/// Quantiles that Envoy prints, as fractions.
pub const SUPPORTED_QUANTILES: [f64; 10] = [0.0, 0.25, 0.5, 0.75, 0.90, 0.95, 0.99, 0.995, 0.999, 1.0];

/// One value per entry of [`SUPPORTED_QUANTILES`].
pub type Quantiles = [f64; 10];

/// A worker's histogram: the zero bin, and decades allocated as values reach them.
#[derive(Debug, Default)]
pub(crate) struct HistogramCells {
    zero: AtomicU64,
    decades: [OnceLock<Box<[AtomicU64; BINS_PER_DECADE]>>; DECADES],
}

fn new_decade() -> Box<[AtomicU64; BINS_PER_DECADE]> {
    Box::new([const { AtomicU64::new(0) }; BINS_PER_DECADE])
}

/// (decade, bin within it) of a value above zero.
#[inline]
fn place(value: u64) -> (usize, usize) {
    let decade = value.ilog10() as usize;
    let digits = if decade == 0 { value * 10 } else { value / 10u64.pow(decade as u32 - 1) };
    (decade, digits as usize - 10)
}

impl HistogramCells {
    #[inline]
    pub(crate) fn record(&self, value: u64) {
        let cell = if value == 0 {
            &self.zero
        } else {
            let (decade, bin) = place(value);
            &self.decades[decade].get_or_init(new_decade)[bin]
        };
        cell.store(cell.load(Relaxed).wrapping_add(1), Relaxed);
    }

    pub(crate) fn merge_into(&self, into: &mut Bins) {
        into.add(0, self.zero.load(Relaxed));
        for (decade, bins) in self.decades.iter().enumerate() {
            for (bin, cell) in bins.get().into_iter().flat_map(|b| b.iter()).enumerate() {
                into.add((1 + decade * BINS_PER_DECADE + bin) as u16, cell.load(Relaxed));
            }
        }
    }
}

/// A merged histogram: (bin, count), sorted, without empty bins. Bin 0 holds zeros.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bins(Vec<(u16, u64)>);

impl Bins {
    fn add(&mut self, bin: u16, count: u64) {
        if count == 0 {
            return;
        }
        match self.0.binary_search_by_key(&bin, |b| b.0) {
            Ok(at) => self.0[at].1 += count,
            Err(at) => self.0.insert(at, (bin, count)),
        }
    }

    /// Counts one value.
    pub fn record(&mut self, value: u64) {
        let bin = if value == 0 {
            0
        } else {
            let (decade, bin) = place(value);
            (1 + decade * BINS_PER_DECADE + bin) as u16
        };
        self.add(bin, 1);
    }

    /// Adds all values of `other`.
    pub fn merge(&mut self, other: &Bins) {
        for &(bin, count) in &other.0 {
            self.add(bin, count);
        }
    }

    /// What was recorded since `earlier`, an older state of the same histogram.
    pub fn since(&self, earlier: &Bins) -> Bins {
        Bins(
            self.0
                .iter()
                .filter_map(|&(bin, count)| {
                    let before = earlier.0.binary_search_by_key(&bin, |b| b.0).map_or(0, |at| earlier.0[at].1);
                    (count > before).then_some((bin, count - before))
                })
                .collect(),
        )
    }

    /// No value recorded.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of values.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|b| b.1).sum()
    }

    /// Approximate sum, from bin midpoints (exact to 5 %).
    pub fn sum(&self) -> f64 {
        self.0.iter().map(|&(bin, count)| midpoint(bin) * count as f64).sum()
    }

    /// Values in bins that lie wholly at or below `bound`.
    pub fn count_below(&self, bound: f64) -> u64 {
        self.0.iter().take_while(|b| left(b.0) + width(b.0) <= bound).map(|b| b.1).sum()
    }

    /// (lower bound, width, count) of each bin.
    pub fn iter(&self) -> impl Iterator<Item = (f64, f64, u64)> + '_ {
        self.0.iter().map(|&(bin, count)| (left(bin), width(bin), count))
    }

    /// Quantiles; `None` without values. The k-th of n values in a bin is taken to lie k/(n+1) into it.
    pub fn quantiles(&self) -> Option<Quantiles> {
        let total = self.count() as f64;
        let mut bins = self.0.iter();
        let mut bin = bins.next()?;
        let mut below = 0;
        Some(SUPPORTED_QUANTILES.map(|q| {
            let rank = ((total * q).ceil() as u64).max(1);
            while below + bin.1 < rank {
                let Some(next) = bins.next() else { break };
                below += bin.1;
                bin = next;
            }
            left(bin.0) + width(bin.0) * (rank - below) as f64 / (bin.1 + 1) as f64
        }))
    }
}

fn left(bin: u16) -> f64 {
    match bin {
        0 => 0.0,
        _ => {
            let (decade, digits) = ((bin as usize - 1) / BINS_PER_DECADE, (bin as usize - 1) % BINS_PER_DECADE + 10);
            digits as f64 / 10.0 * 10f64.powi(decade as i32)
        }
    }
}

fn width(bin: u16) -> f64 {
    match bin {
        0 => 0.0,
        _ => 10f64.powi(((bin as i32 - 1) / BINS_PER_DECADE as i32) - 1),
    }
}

fn midpoint(bin: u16) -> f64 {
    let (bottom, width) = (left(bin), width(bin));
    if bin == 0 { 0.0 } else { bottom + width * (bottom / (bottom + bottom + width)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bins(values: &[u64]) -> Bins {
        let cells = HistogramCells::default();
        for v in values {
            cells.record(*v);
        }
        let (mut merged, mut direct) = (Bins::default(), Bins::default());
        cells.merge_into(&mut merged);
        values.iter().for_each(|v| direct.record(*v));
        assert_eq!(merged, direct);
        merged
    }

    #[test]
    fn quantiles_follow_circllhist() {
        // Ten values of 3 as stock Envoy prints them.
        let q = bins(&[3; 10]).quantiles().expect("has values");
        let expect = [3.00909, 3.02727, 3.04545, 3.07273, 3.08182, 3.09091, 3.09091, 3.09091, 3.09091, 3.09091];
        assert!(q.iter().zip(expect).all(|(a, b)| (a - b).abs() < 1e-5), "{q:?}");
        assert_eq!(format!("{:.10}", bins(&[3; 10]).sum()), "30.4918032787");
        assert_eq!(bins(&[0, 0]).quantiles().expect("has values"), [0.0; 10]);
        assert_eq!(bins(&[]).quantiles(), None);
    }

    #[test]
    fn buckets_count_whole_bins() {
        let b = bins(&[0, 1, 5, 10, 104, 105, u64::MAX]);
        assert_eq!(BUCKETS.map(|bound| b.count_below(bound))[..7], [1, 1, 2, 3, 4, 4, 4]);
        assert_eq!((b.count_below(250.0), b.count()), (6, 7));
    }

    proptest::proptest! {
        #[test]
        fn every_value_lies_in_its_bin(value in 1u64..1 << 52) {
            let b = bins(&[value]);
            let (left, width, count) = b.iter().next().expect("one bin");
            assert!(left <= value as f64 * (1.0 + 1e-12) && (value as f64) < (left + width) * (1.0 + 1e-12) && count == 1);
            assert!((b.sum() - value as f64).abs() <= value as f64 * 0.1);
        }
    }
}
