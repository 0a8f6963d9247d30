//! Where does a body end, and which of the received bytes may be passed on as they are?
//!
//! One state machine serves both users: the relay (chunked to chunked: raw bytes go through while
//! they are validated, chunk extensions and trailers are taken out) and the decoder (data only).
//! It holds no body bytes; only a trailer section is collected, within its limit.

use crate::head::BodyKind;

/// Bytes of extensions on one chunk; Envoy ignores extensions, attackers make them long.
const CHUNK_EXTENSION_BYTES_MAX: u32 = 1024;
/// Bytes of extensions in one body, all chunks together.
const BODY_EXTENSION_BYTES_MAX: u32 = 16 << 10;
/// Hex digits of a chunk size: 2^64 - 1 has sixteen.
const CHUNK_SIZE_DIGITS_MAX: u8 = 16;
/// Bytes of a trailer section.
const TRAILER_BYTES_MAX: usize = 60 << 10;

/// Why a body was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Chunk size is not hexadecimal, too long, or not ended by CRLF.
    #[error("invalid chunk size")]
    ChunkSize,
    /// Chunk extension is malformed or too long.
    #[error("invalid chunk extension")]
    ChunkExtension,
    /// Chunk data is not followed by CRLF.
    #[error("chunk data not ended by CRLF")]
    ChunkEnd,
    /// Trailer section is malformed or too long.
    #[error("invalid trailers")]
    Trailers,
}

/// What a run of input bytes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PieceKind {
    /// Chunk framing that may be passed on unchanged.
    Framing,
    /// Body data.
    Data,
    /// Chunk extension or trailer bytes: never passed on raw.
    Dropped,
}

/// A run of input bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// What the bytes are.
    pub kind: PieceKind,
    /// How many, at least 1.
    pub len: usize,
}

/// Outcome of [`BodyReader::relay`] and [`BodyReader::decode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relay {
    /// Input bytes that were used up; what follows belongs to the next message.
    pub consumed: usize,
    /// Bytes of body data among them.
    pub data: usize,
    /// The body is complete.
    pub done: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Length(u64),
    UntilClose,
    Size { size: u64, digits: u8 },
    Extension { size: u64, len: u32 },
    SizeLf { size: u64 },
    Data(u64),
    DataCr,
    DataLf,
    TrailerLine { empty: bool },
    TrailerLf { last: bool },
    Done,
}

/// Follows one body through its framing.
#[derive(Clone, Debug)]
pub struct BodyReader {
    state: State,
    extensions: u32,
    trailers: Vec<u8>,
}

impl Default for BodyReader {
    fn default() -> Self {
        Self::new(BodyKind::None)
    }
}

impl BodyReader {
    /// A reader for a body of that framing.
    pub fn new(kind: BodyKind) -> Self {
        let state = match kind {
            BodyKind::None | BodyKind::Length(0) => State::Done,
            BodyKind::Length(n) => State::Length(n),
            BodyKind::Chunked => State::Size { size: 0, digits: 0 },
            BodyKind::UntilClose | BodyKind::Tunnel => State::UntilClose,
        };
        BodyReader { state, extensions: 0, trailers: Vec::new() }
    }

    /// Whether the body is complete.
    #[inline]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether the framing is chunked and not yet complete.
    pub fn is_chunked(&self) -> bool {
        !matches!(self.state, State::Length(_) | State::UntilClose | State::Done)
    }

    /// Whether only the end of the connection ends this body.
    pub fn is_until_close(&self) -> bool {
        self.state == State::UntilClose
    }

    /// Bytes still to come when the length is known.
    pub fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Length(n) => Some(n),
            State::Done => Some(0),
            _ => None,
        }
    }

    /// Tells the reader that the connection ended. True when that ends the body properly.
    pub fn eof(&mut self) -> bool {
        if self.state == State::UntilClose {
            self.state = State::Done;
        }
        self.is_done()
    }

    /// The raw trailer section including the final CRLF; empty when there were no trailers.
    /// Meaningful once the body is done.
    pub fn trailers(&self) -> &[u8] {
        if self.trailers.len() <= 2 { &[] } else { &self.trailers }
    }

    /// Validates the next bytes and hands the ones to be forwarded to `emit`, framing included;
    /// neighbours are merged, so an ordinary read is one call.
    pub fn relay<'a>(&mut self, input: &'a [u8], mut emit: impl FnMut(&'a [u8])) -> Result<Relay, BodyError> {
        let (mut at, mut start, mut data) = (0, 0, 0);
        while at < input.len() && self.state != State::Done {
            let piece = self.next_piece(&input[at..])?;
            match piece.kind {
                PieceKind::Dropped => {
                    if start < at {
                        emit(&input[start..at]);
                    }
                    start = at + piece.len;
                }
                PieceKind::Data => data += piece.len,
                PieceKind::Framing => {}
            }
            at += piece.len;
        }
        if start < at {
            emit(&input[start..at]);
        }
        Ok(Relay { consumed: at, data, done: self.is_done() })
    }

    /// The next run of bytes to be forwarded raw: `(forward, consumed, data)` where `forward` is a range
    /// of `input` (possibly empty), `consumed` is how far the reader went and `data` counts body bytes.
    pub fn next_raw(&mut self, input: &[u8]) -> Result<(std::ops::Range<usize>, usize, usize), BodyError> {
        let (mut at, mut start, mut data) = (0, 0, 0);
        while at < input.len() && self.state != State::Done {
            let before = self.clone_state();
            let piece = self.next_piece(&input[at..])?;
            if piece.kind == PieceKind::Dropped {
                if start < at {
                    // Leave the dropped run for the next call.
                    self.restore(before);
                    return Ok((start..at, at, data));
                }
                start = at + piece.len;
            } else if piece.kind == PieceKind::Data {
                data += piece.len;
            }
            at += piece.len;
        }
        Ok((start..at, at, data))
    }

    /// The next run of body data: `(data, consumed)`, `data` being a range of `input` (possibly empty).
    /// Framing before and after the run is consumed with it.
    pub fn next_data(&mut self, input: &[u8]) -> Result<(std::ops::Range<usize>, usize), BodyError> {
        let (mut at, mut data) = (0, 0..0);
        while at < input.len() && self.state != State::Done {
            if !data.is_empty() && matches!(self.state, State::Data(_) | State::Length(_)) {
                break;
            }
            let piece = self.next_piece(&input[at..])?;
            if piece.kind == PieceKind::Data {
                data = at..at + piece.len;
            }
            at += piece.len;
        }
        Ok((data, at))
    }

    fn clone_state(&self) -> (State, u32, usize) {
        (self.state, self.extensions, self.trailers.len())
    }

    fn restore(&mut self, (state, extensions, trailers): (State, u32, usize)) {
        self.state = state;
        self.extensions = extensions;
        self.trailers.truncate(trailers);
    }

    /// Validates the next bytes and hands only body data to `emit`.
    pub fn decode<'a>(&mut self, input: &'a [u8], mut emit: impl FnMut(&'a [u8])) -> Result<Relay, BodyError> {
        let (mut at, mut data) = (0, 0);
        while at < input.len() && self.state != State::Done {
            let piece = self.next_piece(&input[at..])?;
            if piece.kind == PieceKind::Data {
                emit(&input[at..at + piece.len]);
                data += piece.len;
            }
            at += piece.len;
        }
        Ok(Relay { consumed: at, data, done: self.is_done() })
    }

    /// Classifies the bytes at the start of `input`, which must not be empty.
    fn next_piece(&mut self, input: &[u8]) -> Result<Piece, BodyError> {
        let framing = |len| Piece { kind: PieceKind::Framing, len };
        let dropped = |len| Piece { kind: PieceKind::Dropped, len };
        let piece = match self.state {
            State::Length(n) => {
                let len = (input.len() as u64).min(n);
                self.state = if len == n { State::Done } else { State::Length(n - len) };
                Piece { kind: PieceKind::Data, len: len as usize }
            }
            State::UntilClose => Piece { kind: PieceKind::Data, len: input.len() },
            State::Size { mut size, mut digits } => {
                let mut i = 0;
                let mut next = None;
                while next.is_none() && i < input.len() {
                    let digit = match input[i] {
                        b @ b'0'..=b'9' => b - b'0',
                        b @ b'a'..=b'f' => b - b'a' + 10,
                        b @ b'A'..=b'F' => b - b'A' + 10,
                        b'\r' if digits > 0 => {
                            next = Some(State::SizeLf { size });
                            i += 1;
                            continue;
                        }
                        b';' if digits > 0 => {
                            next = Some(State::Extension { size, len: 0 });
                            break;
                        }
                        _ => return Err(BodyError::ChunkSize),
                    };
                    if digits == CHUNK_SIZE_DIGITS_MAX {
                        return Err(BodyError::ChunkSize);
                    }
                    size = size << 4 | digit as u64;
                    digits += 1;
                    i += 1;
                }
                self.state = next.unwrap_or(State::Size { size, digits });
                if i == 0 {
                    return self.next_piece(input);
                }
                framing(i)
            }
            State::Extension { size, len } => {
                let run = input.iter().position(|b| (*b < 0x20 && *b != b'\t') || *b == 0x7f).unwrap_or(input.len());
                let total = len.saturating_add(run as u32);
                self.extensions = self.extensions.saturating_add(run as u32);
                if total > CHUNK_EXTENSION_BYTES_MAX || self.extensions > BODY_EXTENSION_BYTES_MAX {
                    return Err(BodyError::ChunkExtension);
                }
                if run > 0 {
                    self.state = State::Extension { size, len: total };
                    dropped(run)
                } else if input[0] == b'\r' {
                    self.state = State::SizeLf { size };
                    framing(1)
                } else {
                    return Err(BodyError::ChunkExtension);
                }
            }
            State::SizeLf { size } => {
                if input[0] != b'\n' {
                    return Err(BodyError::ChunkSize);
                }
                self.state = match size {
                    0 => State::TrailerLine { empty: true },
                    n => State::Data(n),
                };
                framing(1)
            }
            State::Data(n) => {
                let len = (input.len() as u64).min(n);
                self.state = if len == n { State::DataCr } else { State::Data(n - len) };
                Piece { kind: PieceKind::Data, len: len as usize }
            }
            State::DataCr | State::DataLf => {
                let (want, next) = match self.state {
                    State::DataCr => (b'\r', State::DataLf),
                    _ => (b'\n', State::Size { size: 0, digits: 0 }),
                };
                if input[0] != want {
                    return Err(BodyError::ChunkEnd);
                }
                self.state = next;
                framing(1)
            }
            State::TrailerLine { empty } => {
                let cr = input.iter().position(|b| matches!(*b, b'\r' | b'\n' | 0));
                let len = cr.unwrap_or(input.len());
                if self.trailers.len() + len > TRAILER_BYTES_MAX {
                    return Err(BodyError::Trailers);
                }
                if len > 0 {
                    self.trailers.extend_from_slice(&input[..len]);
                    self.state = State::TrailerLine { empty: false };
                    dropped(len)
                } else if input[0] == b'\r' {
                    self.trailers.push(b'\r');
                    self.state = State::TrailerLf { last: empty };
                    if empty { framing(1) } else { dropped(1) }
                } else {
                    return Err(BodyError::Trailers);
                }
            }
            State::TrailerLf { last } => {
                if input[0] != b'\n' {
                    return Err(BodyError::Trailers);
                }
                if !last {
                    let line = self.trailers.rsplit(|b| *b == b'\n').next().unwrap_or_default();
                    let name = line.split(|b| *b == b':').next().filter(|n| n.len() < line.len());
                    if !name.is_some_and(crate::head::is_token) {
                        return Err(BodyError::Trailers);
                    }
                }
                self.trailers.push(b'\n');
                if !last {
                    self.state = State::TrailerLine { empty: true };
                    dropped(1)
                } else {
                    self.state = State::Done;
                    framing(1)
                }
            }
            State::Done => unreachable!("callers stop at Done"),
        };
        Ok(piece)
    }
}
