//! How is a message kept that only `/config_dump` asks for? Encoded, and deflated when it is large.
//!
//! The bootstrap and a listener with all its routes are megabytes in a large mesh and shrink to a tenth.

use std::io::{Read, Write};
use std::num::NonZeroU32;

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;

/// Below this many bytes deflating gains less than its own tables cost.
const LARGE_BYTES: usize = 16 << 10;

/// Bytes at rest.
#[derive(Debug, Clone)]
pub struct Packed {
    bytes: Box<[u8]>,
    /// Length before deflating; `None`: the bytes are as they were.
    inflated: Option<NonZeroU32>,
}

impl Packed {
    /// Packs `bytes`.
    pub fn new(bytes: &[u8]) -> Self {
        if bytes.len() >= LARGE_BYTES
            && let Some(length) = u32::try_from(bytes.len()).ok().and_then(NonZeroU32::new)
            && let Some(small) = deflate(bytes)
        {
            return Packed { bytes: small, inflated: Some(length) };
        }
        Packed { bytes: bytes.into(), inflated: None }
    }

    /// What was packed.
    pub fn to_vec(&self) -> Vec<u8> {
        let Some(length) = self.inflated else { return self.bytes.to_vec() };
        let mut out = Vec::with_capacity(length.get() as usize);
        // These are our own bytes: what does not inflate was never deflated.
        match DeflateDecoder::new(&*self.bytes).read_to_end(&mut out) {
            Ok(_) => out,
            Err(_) => Vec::new(),
        }
    }

    /// Are these the bytes that were packed?
    pub fn is(&self, bytes: &[u8]) -> bool {
        match self.inflated {
            None => *self.bytes == *bytes,
            Some(length) => length.get() as usize == bytes.len() && self.to_vec() == bytes,
        }
    }
}

/// `None` when nothing is gained.
fn deflate(bytes: &[u8]) -> Option<Box<[u8]>> {
    let mut encoder = DeflateEncoder::new(Vec::with_capacity(bytes.len() / 8), Compression::fast());
    encoder.write_all(bytes).ok()?;
    let small = encoder.finish().ok()?;
    (small.len() < bytes.len()).then(|| small.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back() {
        let large: Vec<u8> = (0..40_000u32).flat_map(|i| (i / 50).to_le_bytes()).collect();
        let mut state = 1u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .take(LARGE_BYTES)
        .collect();
        for bytes in [&[][..], b"small", &large, &noise] {
            let packed = Packed::new(bytes);
            assert_eq!(packed.to_vec(), bytes);
            assert!(packed.is(bytes) && !packed.is(&[bytes, b"x"].concat()));
        }
        assert!(Packed::new(&large).bytes.len() < large.len() / 5);
    }
}
