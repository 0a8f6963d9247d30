//! How are bytes of a body compressed and decompressed as they pass? gzip, brotli and zstd behind one face.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::{GzEncoder, MultiGzDecoder};
use proxy_config::filters::http::Coding;

/// Bytes that one piece of a body may become; more is taken for an attack.
pub const EXPANDED_BYTES_MAX: usize = 64 << 20;
/// Buffer of the brotli coder.
const BROTLI_BUFFER_BYTES: usize = 4096;
/// Window of the brotli coder, as a power of two (Envoy's default).
const BROTLI_WINDOW_BITS: u32 = 18;

/// The token of a coding in headers.
pub fn token(coding: Coding) -> &'static str {
    match coding {
        Coding::Gzip => "gzip",
        Coding::Brotli => "br",
        Coding::Zstd => "zstd",
    }
}

/// A body being compressed.
pub enum Compress {
    /// gzip
    Gzip(Box<GzEncoder<Vec<u8>>>),
    /// br
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    /// zstd
    Zstd(Box<zstd::stream::write::Encoder<'static, Vec<u8>>>),
}

impl Compress {
    /// Starts; `level` is the library's own, 0 its default.
    pub fn new(coding: Coding, level: i32) -> io::Result<Self> {
        Ok(match coding {
            Coding::Gzip => {
                let level =
                    if level == 0 { Compression::default() } else { Compression::new(level.clamp(1, 9) as u32) };
                Compress::Gzip(Box::new(GzEncoder::new(Vec::new(), level)))
            }
            Coding::Brotli => {
                let quality = if level == 0 { 3 } else { level.clamp(0, 11) as u32 };
                let out = brotli::CompressorWriter::new(Vec::new(), BROTLI_BUFFER_BYTES, quality, BROTLI_WINDOW_BITS);
                Compress::Brotli(Box::new(out))
            }
            Coding::Zstd => Compress::Zstd(Box::new(zstd::stream::write::Encoder::new(Vec::new(), level)?)),
        })
    }

    /// Replaces `data` by its compressed form, flushed so that the peer can read it at once.
    pub fn push(&mut self, data: &mut Vec<u8>) -> io::Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        match self {
            Compress::Gzip(w) => {
                w.write_all(data)?;
                w.flush()?;
                *data = std::mem::take(w.get_mut());
            }
            Compress::Brotli(w) => {
                w.write_all(data)?;
                w.flush()?;
                *data = std::mem::take(w.get_mut());
            }
            Compress::Zstd(w) => {
                w.write_all(data)?;
                w.flush()?;
                *data = std::mem::take(w.get_mut());
            }
        }
        Ok(())
    }

    /// Appends what ends the stream.
    pub fn finish(self, data: &mut Vec<u8>) -> io::Result<()> {
        let rest = match self {
            Compress::Gzip(w) => w.finish()?,
            Compress::Brotli(w) => w.into_inner(),
            Compress::Zstd(w) => w.finish()?,
        };
        data.extend_from_slice(&rest);
        Ok(())
    }
}

/// A body being decompressed.
pub enum Decompress {
    /// gzip
    Gzip(Box<MultiGzDecoder<Bounded>>),
    /// br
    Brotli(Box<brotli::DecompressorWriter<Bounded>>),
    /// zstd
    Zstd(Box<zstd::stream::write::Decoder<'static, Bounded>>),
}

/// Output that refuses to grow without end.
#[derive(Default)]
pub struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > EXPANDED_BYTES_MAX {
            return Err(io::Error::other("the body expands too much"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Decompress {
    /// Starts.
    pub fn new(coding: Coding) -> io::Result<Self> {
        Ok(match coding {
            Coding::Gzip => Decompress::Gzip(Box::new(MultiGzDecoder::new(Bounded::default()))),
            Coding::Brotli => {
                Decompress::Brotli(Box::new(brotli::DecompressorWriter::new(Bounded::default(), BROTLI_BUFFER_BYTES)))
            }
            Coding::Zstd => Decompress::Zstd(Box::new(zstd::stream::write::Decoder::new(Bounded::default())?)),
        })
    }

    /// Replaces `data` by what it means.
    pub fn push(&mut self, data: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Decompress::Gzip(w) => {
                w.write_all(data)?;
                w.flush()?;
                *data = std::mem::take(&mut w.get_mut().0);
            }
            Decompress::Brotli(w) => {
                w.write_all(data)?;
                w.flush()?;
                *data = std::mem::take(&mut w.get_mut().0);
            }
            Decompress::Zstd(w) => {
                w.write_all(data)?;
                w.flush()?;
                *data = std::mem::take(&mut w.get_mut().0);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out() {
        for coding in [Coding::Gzip, Coding::Brotli, Coding::Zstd] {
            let text = b"the quick brown fox ".repeat(500);
            let mut compress = Compress::new(coding, 0).unwrap();
            let mut packed = Vec::new();
            for piece in text.chunks(997) {
                let mut piece = piece.to_vec();
                compress.push(&mut piece).unwrap();
                assert!(!piece.is_empty(), "{coding:?} flushes");
                packed.extend_from_slice(&piece);
            }
            let mut end = Vec::new();
            compress.finish(&mut end).unwrap();
            packed.extend_from_slice(&end);
            assert!(packed.len() < text.len() / 4, "{coding:?}: {}", packed.len());
            let mut decompress = Decompress::new(coding).unwrap();
            let mut out = Vec::new();
            for piece in packed.chunks(11) {
                let mut piece = piece.to_vec();
                decompress.push(&mut piece).unwrap();
                out.extend_from_slice(&piece);
            }
            assert_eq!(out, text, "{coding:?}");
        }
    }

    #[test]
    fn rubbish_is_refused() {
        for coding in [Coding::Gzip, Coding::Zstd] {
            assert!(Decompress::new(coding).unwrap().push(&mut b"not compressed at all".to_vec()).is_err());
        }
    }
}
