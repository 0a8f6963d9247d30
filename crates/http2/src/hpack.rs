//! How are header fields packed into HTTP/2 frames? HPACK (RFC 7541), both ways, straight from and into header blocks.
//!
//! A [`Decoder`] and an [`Encoder`] belong to one connection and see its header blocks in order. Deliberately absent: what
//! a request or response may say (`fields.rs`).

use std::collections::VecDeque;
use std::sync::LazyLock;

use http1::HeaderId;

use crate::huffman;

/// What an entry costs beside its bytes (RFC 7541, 4.1).
const ENTRY_OVERHEAD: usize = 32;
/// Table size before any setting.
pub const TABLE_BYTES_DEFAULT: usize = 4096;
/// Most that the encoder uses, however much the peer allows.
const ENCODER_TABLE_BYTES_MAX: usize = 4096;
/// A literal larger than this is not put into the table: it would push out too much.
const INDEXED_BYTES_MAX: usize = 1024;

/// A header block that is not HPACK; the connection is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

#[rustfmt::skip]
const STATIC: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"),
    (":scheme", "http"), (":scheme", "https"), (":status", "200"), (":status", "204"), (":status", "206"),
    (":status", "304"), (":status", "400"), (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""), ("accept", ""),
    ("access-control-allow-origin", ""), ("age", ""), ("allow", ""), ("authorization", ""), ("cache-control", ""),
    ("content-disposition", ""), ("content-encoding", ""), ("content-language", ""), ("content-length", ""),
    ("content-location", ""), ("content-range", ""), ("content-type", ""), ("cookie", ""), ("date", ""), ("etag", ""),
    ("expect", ""), ("expires", ""), ("from", ""), ("host", ""), ("if-match", ""), ("if-modified-since", ""),
    ("if-none-match", ""), ("if-range", ""), ("if-unmodified-since", ""), ("last-modified", ""), ("link", ""),
    ("location", ""), ("max-forwards", ""), ("proxy-authenticate", ""), ("proxy-authorization", ""), ("range", ""),
    ("referer", ""), ("refresh", ""), ("retry-after", ""), ("server", ""), ("set-cookie", ""),
    ("strict-transport-security", ""), ("transfer-encoding", ""), ("user-agent", ""), ("vary", ""), ("via", ""),
    ("www-authenticate", ""),
];

/// Ids of the static table's names, and by id the first static entry of that name (1-based; 0: none).
struct Known {
    ids: [HeaderId; STATIC.len()],
    first: Box<[u8]>,
}

static KNOWN: LazyLock<Known> = LazyLock::new(|| {
    let ids = STATIC.map(|(name, _)| HeaderId::of(name.as_bytes()));
    let mut first = vec![0u8; HeaderId::all().count() + 1];
    for (i, id) in ids.iter().enumerate().rev() {
        first[id.index()] = i as u8 + 1;
    }
    first[HeaderId::OTHER.index()] = 0;
    Known { ids, first: first.into() }
});

/// An entry of a dynamic table: name and value in one piece.
struct Entry {
    text: Box<[u8]>,
    name_len: usize,
    id: HeaderId,
    hash: u32,
}

impl Entry {
    fn new(id: HeaderId, name: &[u8], value: &[u8], hash: u32) -> Self {
        let mut text = Vec::with_capacity(name.len() + value.len());
        text.extend_from_slice(name);
        text.extend_from_slice(value);
        Entry { text: text.into(), name_len: name.len(), id, hash }
    }

    fn name(&self) -> &[u8] {
        &self.text[..self.name_len]
    }

    fn value(&self) -> &[u8] {
        &self.text[self.name_len..]
    }

    fn size(&self) -> usize {
        self.text.len() + ENTRY_OVERHEAD
    }
}

/// A dynamic table, newest entry first.
#[derive(Default)]
struct Table {
    entries: VecDeque<Entry>,
    size: usize,
    max: usize,
}

impl Table {
    fn shrink_to(&mut self, room: usize) {
        while self.size > room {
            match self.entries.pop_back() {
                Some(e) => self.size -= e.size(),
                None => break,
            }
        }
    }

    fn insert(&mut self, entry: Entry) {
        let size = entry.size();
        self.shrink_to(self.max.saturating_sub(size));
        if size <= self.max {
            self.size += size;
            self.entries.push_front(entry);
        }
    }
}

/// Reads header blocks.
pub struct Decoder {
    table: Table,
    /// Our SETTINGS_HEADER_TABLE_SIZE.
    limit: usize,
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Decoder {
    /// A decoder for a peer that may use `limit` bytes of table.
    pub fn new(limit: usize) -> Self {
        Decoder { table: Table { max: limit, ..Table::default() }, limit, name: Vec::new(), value: Vec::new() }
    }

    /// Reads one whole block, field by field: id, name, value. An error leaves the connection unusable.
    pub fn decode(&mut self, block: &[u8], mut field: impl FnMut(HeaderId, &[u8], &[u8])) -> Result<(), Malformed> {
        let mut at = 0;
        let mut may_resize = true;
        while at < block.len() {
            let b = block[at];
            if b & 0x80 != 0 {
                let index = integer(block, &mut at, 7)?;
                let (id, name, value) = entry(&self.table, index)?;
                field(id, name, value);
            } else if b & 0xe0 == 0x20 {
                let size = integer(block, &mut at, 5)?;
                // Only at the start of a block.
                if !may_resize || size > self.limit {
                    return Err(Malformed);
                }
                self.table.max = size;
                self.table.shrink_to(size);
                continue;
            } else {
                let keep = b & 0x40 != 0;
                let index = integer(block, &mut at, if keep { 6 } else { 4 })?;
                self.name.clear();
                let id = if index > 0 {
                    // Copied: the new entry may push out the one that has the name.
                    let (id, name, _) = entry(&self.table, index)?;
                    self.name.extend_from_slice(name);
                    id
                } else {
                    string(block, &mut at, &mut self.name)?;
                    HeaderId::of(&self.name)
                };
                self.value.clear();
                string(block, &mut at, &mut self.value)?;
                field(id, &self.name, &self.value);
                if keep {
                    self.table.insert(Entry::new(id, &self.name, &self.value, 0));
                }
            }
            may_resize = false;
        }
        Ok(())
    }
}

fn entry(table: &Table, index: usize) -> Result<(HeaderId, &[u8], &[u8]), Malformed> {
    let index = index.checked_sub(1).ok_or(Malformed)?;
    if let Some((name, value)) = STATIC.get(index) {
        return Ok((KNOWN.ids[index], name.as_bytes(), value.as_bytes()));
    }
    let e = table.entries.get(index - STATIC.len()).ok_or(Malformed)?;
    Ok((e.id, e.name(), e.value()))
}

/// A prefixed integer, at most 2^28.
fn integer(input: &[u8], at: &mut usize, prefix: u32) -> Result<usize, Malformed> {
    let mask = (1usize << prefix) - 1;
    let mut n = usize::from(*input.get(*at).ok_or(Malformed)?) & mask;
    *at += 1;
    if n < mask {
        return Ok(n);
    }
    for shift in [0, 7, 14, 21] {
        let b = *input.get(*at).ok_or(Malformed)?;
        *at += 1;
        n += usize::from(b & 0x7f) << shift;
        if b & 0x80 == 0 {
            return Ok(n);
        }
    }
    Err(Malformed)
}

/// Appends a string.
fn string(input: &[u8], at: &mut usize, out: &mut Vec<u8>) -> Result<(), Malformed> {
    let coded = input.get(*at).ok_or(Malformed)? & 0x80 != 0;
    let len = integer(input, at, 7)?;
    let text = input.get(*at..*at + len).ok_or(Malformed)?;
    *at += len;
    if !coded {
        out.extend_from_slice(text);
    } else if !huffman::decode(text, out) {
        return Err(Malformed);
    }
    Ok(())
}

/// How a field is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// Put into the table.
    Yes,
    /// Likely different every time.
    No,
    /// Secret: intermediaries must not put it into a table either.
    Never,
}

fn keep(id: HeaderId, value: &[u8]) -> Keep {
    match id {
        HeaderId::PATH
        | HeaderId::CONTENT_LENGTH
        | HeaderId::ETAG
        | HeaderId::X_REQUEST_ID
        | HeaderId::TRACEPARENT
        | HeaderId::SET_COOKIE => Keep::No,
        HeaderId::AUTHORIZATION => Keep::Never,
        HeaderId::COOKIE if value.len() < 20 => Keep::Never,
        _ => Keep::Yes,
    }
}

/// Writes header blocks.
pub struct Encoder {
    table: Table,
    /// The least size since the last block, when it changed: the next block says so.
    least: Option<usize>,
}

impl Default for Encoder {
    fn default() -> Self {
        Encoder { table: Table { max: TABLE_BYTES_DEFAULT, ..Table::default() }, least: None }
    }
}

impl Encoder {
    /// The peer allows a table of this size (its SETTINGS_HEADER_TABLE_SIZE).
    pub fn resize(&mut self, allowed: usize) {
        let max = allowed.min(ENCODER_TABLE_BYTES_MAX);
        if max != self.table.max {
            self.table.max = max;
            self.table.shrink_to(max);
            self.least = Some(self.least.map_or(max, |l| l.min(max)));
        }
    }

    /// Starts a block.
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        if let Some(least) = self.least.take() {
            if least < self.table.max {
                put_integer(out, 0x20, 5, least);
            }
            put_integer(out, 0x20, 5, self.table.max);
        }
    }

    /// Appends one field; `name` is lower case.
    pub fn field(&mut self, out: &mut Vec<u8>, id: HeaderId, name: &[u8], value: &[u8]) {
        let first = usize::from(KNOWN.first[id.index()]);
        let mut named = first;
        if first > 0 {
            // Entries of one name are next to each other.
            for (i, (n, v)) in STATIC[first - 1..].iter().enumerate() {
                if n.as_bytes() != name {
                    break;
                }
                if v.as_bytes() == value {
                    return put_integer(out, 0x80, 7, first + i);
                }
            }
        }
        let kept = keep(id, value);
        let hash = hash(name, value);
        if kept == Keep::Yes {
            for (i, e) in self.table.entries.iter().enumerate() {
                if e.hash == hash && e.id == id && e.value() == value && e.name() == name {
                    return put_integer(out, 0x80, 7, STATIC.len() + 1 + i);
                }
            }
        }
        if named == 0 {
            let same = |e: &Entry| e.id == id && e.name() == name;
            named = self.table.entries.iter().position(same).map_or(0, |i| STATIC.len() + 1 + i);
        }
        let store = kept == Keep::Yes && name.len() + value.len() <= INDEXED_BYTES_MAX.min(self.table.max / 2);
        match kept {
            _ if store => put_integer(out, 0x40, 6, named),
            Keep::Never => put_integer(out, 0x10, 4, named),
            _ => put_integer(out, 0, 4, named),
        }
        if named == 0 {
            put_string(out, name);
        }
        put_string(out, value);
        if store {
            self.table.insert(Entry::new(id, name, value, hash));
        }
    }
}

/// Tells fields apart quickly; equal hashes are compared in full.
fn hash(name: &[u8], value: &[u8]) -> u32 {
    let mut h = (name.len() as u32).wrapping_mul(0x9E37_79B1) ^ value.len() as u32;
    for part in [name, value] {
        let mut words = part.chunks_exact(4);
        for w in &mut words {
            h = (h.rotate_left(5) ^ u32::from_le_bytes([w[0], w[1], w[2], w[3]])).wrapping_mul(0x85EB_CA6B);
        }
        for b in words.remainder() {
            h = (h.rotate_left(5) ^ u32::from(*b)).wrapping_mul(0x85EB_CA6B);
        }
    }
    h
}

fn put_integer(out: &mut Vec<u8>, first: u8, prefix: u32, n: usize) {
    let mask = (1usize << prefix) - 1;
    if n < mask {
        return out.push(first | n as u8);
    }
    out.push(first | mask as u8);
    let mut n = n - mask;
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    let coded = huffman::encoded_len(text);
    if coded < text.len() {
        put_integer(out, 0x80, 7, coded);
        huffman::encode(text, out);
    } else {
        put_integer(out, 0, 7, text.len());
        out.extend_from_slice(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(s: &str) -> Vec<u8> {
        let s: String = s.chars().filter(|c| !c.is_whitespace()).collect();
        (0..s.len()).step_by(2).map(|i| u8::from_str_radix(&s[i..i + 2], 16).unwrap()).collect()
    }

    fn read(d: &mut Decoder, block: &[u8]) -> Result<String, Malformed> {
        let mut out = String::new();
        d.decode(block, |id, n, v| {
            assert_eq!(id, HeaderId::of(n));
            out.push_str(&format!("{}={} ", String::from_utf8_lossy(n), String::from_utf8_lossy(v)));
        })?;
        Ok(out.trim_end().to_owned())
    }

    /// RFC 7541, C.4: three requests with Huffman coding.
    #[test]
    fn requests_of_the_rfc() {
        let mut d = Decoder::new(4096);
        let first = read(&mut d, &hex("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff")).unwrap();
        assert_eq!(first, ":method=GET :scheme=http :path=/ :authority=www.example.com");
        let second = read(&mut d, &hex("8286 84be 5886 a8eb 1064 9cbf")).unwrap();
        assert_eq!(second, ":method=GET :scheme=http :path=/ :authority=www.example.com cache-control=no-cache");
        let third = read(&mut d, &hex("8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf")).unwrap();
        assert_eq!(
            third,
            ":method=GET :scheme=https :path=/index.html :authority=www.example.com custom-key=custom-value"
        );
        assert_eq!((d.table.entries.len(), d.table.size), (3, 164));
    }

    /// RFC 7541, C.6: responses with eviction from a table of 256 bytes.
    #[test]
    fn responses_of_the_rfc() {
        let mut d = Decoder::new(256);
        let first = "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3";
        read(&mut d, &hex(first)).unwrap();
        assert_eq!(d.table.size, 222);
        assert_eq!(read(&mut d, &hex("4883640effc1c0bf")).unwrap().split(' ').next(), Some(":status=307"));
        assert_eq!(d.table.size, 222);
        let third = "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007";
        read(&mut d, &hex(third)).unwrap();
        assert_eq!(d.table.size, 215);
    }

    #[test]
    fn refuses_what_is_malformed() {
        for bad in ["80", "be", "ff ff ff ff ff ff", "00", "40 05 61", "3f e2 1f", "82 20", "00 81 00 00"] {
            assert_eq!(read(&mut Decoder::new(4096), &hex(bad)), Err(Malformed), "{bad}");
        }
        assert_eq!(read(&mut Decoder::new(4096), &hex("20 82")), Ok(":method=GET".into()));
    }

    #[test]
    fn encoder_and_decoder_agree() {
        let (mut e, mut d) = (Encoder::default(), Decoder::new(4096));
        let mut seed = 7u64;
        for round in 0..500 {
            if round == 100 {
                e.resize(256);
            }
            if round == 200 {
                e.resize(0);
            }
            if round == 300 {
                e.resize(65536);
            }
            let mut fields = vec![
                (":method".to_owned(), "GET".to_owned()),
                (":path".to_owned(), format!("/p/{round}")),
                ("user-agent".to_owned(), "test/1".to_owned()),
                ("authorization".to_owned(), "secret".to_owned()),
            ];
            for _ in 0..8 {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let (k, v) = (seed >> 60, seed >> 58 & 7);
                fields.push((format!("x-name-{k}"), "v".repeat(v as usize * 20)));
            }
            let mut out = Vec::new();
            e.begin(&mut out);
            for (n, v) in &fields {
                e.field(&mut out, HeaderId::of(n.as_bytes()), n.as_bytes(), v.as_bytes());
            }
            let expect: Vec<String> = fields.iter().map(|(n, v)| format!("{n}={v}")).collect();
            assert_eq!(read(&mut d, &out).unwrap(), expect.join(" ").trim_end(), "round {round}");
            assert!(d.table.size <= 4096 && e.table.size <= e.table.max);
        }
    }
}
