//! Did an input reach code that no earlier one reached? The counters that `-C instrument-coverage` puts into the program,
//! read after each input. Only with the feature `guided`.

/// Counters looked at together. Most of the program never runs under a target, so blocks that stay at zero are skipped.
const BLOCK: usize = 256;

/// Every so many inputs all blocks are looked at, also those that were at zero.
const SURVEY_EVERY: u64 = 64;

#[allow(unsafe_code)] // The profiling runtime's own names for the two ends of its array of counters.
mod counters {
    unsafe extern "C" {
        fn __llvm_profile_begin_counters() -> *mut u64;
        fn __llvm_profile_end_counters() -> *mut u64;
    }

    /// All counters of the program. One caller at a time: the code under test counts without locks.
    pub fn all() -> &'static mut [u64] {
        // SAFETY: the array is static memory of this program, aligned for its counters; this crate's one campaign at a time
        // is the only reader, and a torn count would only misjudge an input.
        unsafe {
            let (begin, end) = (__llvm_profile_begin_counters(), __llvm_profile_end_counters());
            std::slice::from_raw_parts_mut(begin, end.offset_from(begin).unsigned_abs())
        }
    }
}

/// What a campaign's inputs have reached.
pub struct Guide {
    /// Per counter the orders of magnitude seen, one bit each.
    seen: Vec<u16>,
    /// Blocks in which anything ever counted.
    live: Vec<usize>,
    asked: u64,
}

impl Guide {
    /// Nothing reached yet.
    pub fn new() -> Self {
        let guide = Self { seen: vec![0; counters::all().len()], live: Vec::new(), asked: 0 };
        counters::all().fill(0);
        guide
    }

    /// Whether the input that just ran reached a place, or reached one by an order of magnitude more or less often than any
    /// before it.
    pub fn is_new(&mut self) -> bool {
        let counters = counters::all();
        if self.asked % SURVEY_EVERY == 0 {
            let blocks = counters.chunks(BLOCK).enumerate();
            self.live =
                blocks.filter(|(at, b)| self.was_live(*at) || b.iter().any(|c| *c != 0)).map(|(at, _)| at).collect();
        }
        self.asked += 1;
        let mut new = false;
        for &block in &self.live {
            let range = block * BLOCK..((block + 1) * BLOCK).min(counters.len());
            for (count, seen) in counters[range.clone()].iter_mut().zip(&mut self.seen[range]) {
                if *count != 0 {
                    let bit = 1 << count.ilog2().min(15);
                    new |= *seen & bit == 0;
                    *seen |= bit;
                    *count = 0;
                }
            }
        }
        new
    }

    fn was_live(&self, block: usize) -> bool {
        self.live.binary_search(&block).is_ok()
    }

    /// Places of the code reached so far.
    pub fn places(&self) -> usize {
        self.seen.iter().filter(|s| **s != 0).count()
    }
}
