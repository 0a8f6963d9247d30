//! How does one input become the next? A small seeded mutator: the same seed gives the same inputs on every machine.

/// Longest input made: long enough for every limit of the parsers, short enough to try many.
pub const INPUT_BYTES_MAX: usize = 64 * 1024;

/// Most edits applied to one input.
const EDITS_MAX: u64 = 6;

/// Bytes that parsers treat specially.
const INTERESTING: &[u8] = b"\0\r\n\t :;,=/\\\"'{}[]%#?*-+.&<>0179afAFxXzZ\x7f\x80\xff";

/// SplitMix64: small, fast, good enough to choose edits.
pub struct Rng(u64);

impl Rng {
    /// A generator that yields the same numbers for the same seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; zero where `end` is zero.
    pub fn below(&mut self, end: usize) -> usize {
        if end == 0 { 0 } else { (self.number() % end as u64) as usize }
    }
}

/// Changes `input` in one to six places, at times with a piece of `other`.
pub fn mutate(input: &mut Vec<u8>, other: &[u8], rng: &mut Rng) {
    for _ in 0..=rng.number() % EDITS_MAX {
        edit(input, other, rng);
    }
    input.truncate(INPUT_BYTES_MAX);
}

fn edit(input: &mut Vec<u8>, other: &[u8], rng: &mut Rng) {
    let at = rng.below(input.len());
    let end = (at + 1 + rng.below(16)).min(input.len());
    match rng.below(9) {
        0 if !input.is_empty() => input[at] ^= 1 << rng.below(8),
        1 if !input.is_empty() => input[at] = INTERESTING[rng.below(INTERESTING.len())],
        2 => input.insert(at, INTERESTING[rng.below(INTERESTING.len())]),
        3 if !input.is_empty() => drop(input.drain(at..end)),
        4 if !input.is_empty() => {
            let piece = input[at..end].to_vec();
            let to = rng.below(input.len());
            input.splice(to..to, piece);
        }
        5 if !other.is_empty() => {
            let from = rng.below(other.len());
            let to = (from + 1 + rng.below(64)).min(other.len());
            input.splice(at..at, other[from..to].iter().copied());
        }
        6 => input.truncate(at),
        7 if !input.is_empty() => input[at] = rng.number() as u8,
        _ => {
            let run = vec![INTERESTING[rng.below(INTERESTING.len())]; 1 + rng.below(300)];
            input.splice(at..at, run);
        }
    }
}
