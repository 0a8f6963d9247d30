//! Where do the header fields of one message live, and how are they read and changed?
//!
//! One byte arena holds the head as it was received; each field is a pair of spans into it plus an
//! interned id. Changing a field appends the new value to the arena and moves the span; removing
//! marks the field dead. The block is serialised once, on the way out. Blocks are reused from
//! request to request; nothing is allocated in steady state.

use crate::ids::HeaderId;

/// Arena bytes kept when a block is cleared; a larger arena is given back to the allocator.
const RETAINED_ARENA_BYTES: usize = 8 << 10;
/// Fields kept when a block is cleared.
const RETAINED_FIELDS: usize = 64;
const NO_RAW: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    pub name_off: u32,
    pub value_off: u32,
    pub value_len: u32,
    /// Offset of the name as it was received, when letter case is preserved; else `NO_RAW`.
    pub raw_off: u32,
    pub name_len: u32,
    pub id: HeaderId,
    pub dead: bool,
}

/// The header fields of one message, in order.
///
/// Names are lower case. Pseudo headers (`:method`, `:path`, `:authority`, `:scheme`, `:status`)
/// are ordinary fields and come first. For HTTP/1.1 requests `host` is stored as `:authority`.
#[derive(Clone, Default)]
pub struct HeaderBlock {
    arena: Vec<u8>,
    fields: Vec<Field>,
    /// Index + 1 of the first live field with each id; 0 when there is none.
    first: Index,
    live: u32,
}

#[derive(Clone)]
struct Index([u16; HeaderId::COUNT]);

impl Default for Index {
    fn default() -> Self {
        Index([0; HeaderId::COUNT])
    }
}

/// Headers of which Envoy keeps one value: repeated ones are joined by a comma on receipt. Recorded from Envoy 1.40 by
/// sending each name twice, in requests and in responses.
#[rustfmt::skip]
const JOINED_IN_REQUESTS: [bool; HeaderId::COUNT] = flags(&[
    HeaderId::EXPECT,
    HeaderId::ACCEPT, HeaderId::ACCEPT_ENCODING, HeaderId::ACCESS_CONTROL_REQUEST_HEADERS,
    HeaderId::ACCESS_CONTROL_REQUEST_METHOD, HeaderId::ACCESS_CONTROL_REQUEST_PRIVATE_NETWORK,
    HeaderId::AUTHORIZATION, HeaderId::CACHE_CONTROL, HeaderId::CONTENT_ENCODING, HeaderId::CONTENT_TYPE,
    HeaderId::GRPC_ACCEPT_ENCODING, HeaderId::GRPC_TIMEOUT, HeaderId::IF_MATCH, HeaderId::IF_MODIFIED_SINCE,
    HeaderId::IF_NONE_MATCH, HeaderId::IF_RANGE, HeaderId::ORIGIN, HeaderId::PRAGMA, HeaderId::PROXY_STATUS,
    HeaderId::REFERER, HeaderId::TE, HeaderId::USER_AGENT, HeaderId::VIA, HeaderId::X_CLIENT_TRACE_ID,
    HeaderId::X_ENVOY_ATTEMPT_COUNT, HeaderId::X_ENVOY_DECORATOR_OPERATION,
    HeaderId::X_ENVOY_DOWNSTREAM_SERVICE_CLUSTER, HeaderId::X_ENVOY_DOWNSTREAM_SERVICE_NODE,
    HeaderId::X_ENVOY_EXPECTED_RQ_TIMEOUT_MS, HeaderId::X_ENVOY_EXTERNAL_ADDRESS, HeaderId::X_ENVOY_FORCE_TRACE,
    HeaderId::X_ENVOY_HEDGE_ON_PER_TRY_TIMEOUT, HeaderId::X_ENVOY_INTERNAL, HeaderId::X_ENVOY_IP_TAGS,
    HeaderId::X_ENVOY_IS_TIMEOUT_RETRY, HeaderId::X_ENVOY_MAX_RETRIES, HeaderId::X_ENVOY_ORIGINAL_HOST,
    HeaderId::X_ENVOY_ORIGINAL_PATH, HeaderId::X_ENVOY_ORIGINAL_URL, HeaderId::X_ENVOY_RETRIABLE_HEADER_NAMES,
    HeaderId::X_ENVOY_RETRIABLE_STATUS_CODES, HeaderId::X_ENVOY_RETRY_GRPC_ON, HeaderId::X_ENVOY_RETRY_ON,
    HeaderId::X_ENVOY_UPSTREAM_ALT_STAT_NAME, HeaderId::X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS,
    HeaderId::X_ENVOY_UPSTREAM_RQ_TIMEOUT_ALT_RESPONSE, HeaderId::X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS,
    HeaderId::X_FORWARDED_CLIENT_CERT, HeaderId::X_FORWARDED_FOR, HeaderId::X_FORWARDED_HOST,
    HeaderId::X_FORWARDED_PORT, HeaderId::X_FORWARDED_PROTO, HeaderId::X_REQUEST_ID,
]);
/// The same for responses.
#[rustfmt::skip]
const JOINED_IN_RESPONSES: [bool; HeaderId::COUNT] = flags(&[
    HeaderId::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderId::ACCESS_CONTROL_ALLOW_HEADERS,
    HeaderId::ACCESS_CONTROL_ALLOW_METHODS, HeaderId::ACCESS_CONTROL_ALLOW_ORIGIN,
    HeaderId::ACCESS_CONTROL_ALLOW_PRIVATE_NETWORK, HeaderId::ACCESS_CONTROL_EXPOSE_HEADERS,
    HeaderId::ACCESS_CONTROL_MAX_AGE, HeaderId::AGE, HeaderId::CACHE_CONTROL, HeaderId::CONTENT_ENCODING,
    HeaderId::CONTENT_TYPE, HeaderId::DATE, HeaderId::ETAG, HeaderId::EXPIRES, HeaderId::GRPC_MESSAGE,
    HeaderId::GRPC_STATUS, HeaderId::LAST_MODIFIED, HeaderId::LOCATION, HeaderId::PROXY_STATUS, HeaderId::SERVER,
    HeaderId::VARY, HeaderId::VIA, HeaderId::X_ENVOY_ATTEMPT_COUNT, HeaderId::X_ENVOY_DECORATOR_OPERATION,
    HeaderId::X_ENVOY_DEGRADED, HeaderId::X_ENVOY_IMMEDIATE_HEALTH_CHECK_FAIL, HeaderId::X_ENVOY_RATELIMITED,
    HeaderId::X_ENVOY_UPSTREAM_CANARY, HeaderId::X_ENVOY_UPSTREAM_HEALTHCHECKED_CLUSTER, HeaderId::X_REQUEST_ID,
]);

const fn flags(ids: &[HeaderId]) -> [bool; HeaderId::COUNT] {
    let mut out = [false; HeaderId::COUNT];
    let mut i = 0;
    while i < ids.len() {
        out[ids[i].0 as usize] = true;
        i += 1;
    }
    out
}

fn joined(id: HeaderId, request: bool) -> bool {
    (if request { &JOINED_IN_REQUESTS } else { &JOINED_IN_RESPONSES })[id.0 as usize]
}

impl HeaderBlock {
    /// An empty block.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets all fields and keeps a bounded amount of memory for reuse.
    pub fn clear(&mut self) {
        self.arena.clear();
        self.fields.clear();
        self.arena.shrink_to(RETAINED_ARENA_BYTES);
        self.fields.shrink_to(RETAINED_FIELDS);
        self.first = Index::default();
        self.live = 0;
    }

    /// Number of live fields, pseudo headers included.
    pub fn len(&self) -> usize {
        self.live as usize
    }

    /// Whether there is no field at all.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Bytes of all names and values, as Envoy counts a header map's size.
    pub fn byte_size(&self) -> usize {
        self.live_fields().map(|f| f.name_len as usize + f.value_len as usize).sum()
    }

    /// The first value of `name` (lower case).
    #[inline]
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        match HeaderId::of(name) {
            HeaderId::OTHER => self
                .fields
                .iter()
                .find(|f| f.id == HeaderId::OTHER && !f.dead && self.name_of(f) == name)
                .map(|f| self.value_of(f)),
            id => self.get_id(id),
        }
    }

    /// The first value of a known name, with one array access.
    #[inline]
    pub fn get_id(&self, id: HeaderId) -> Option<&[u8]> {
        match self.first.0[id.0 as usize] {
            0 => None,
            i => Some(self.value_of(&self.fields[i as usize - 1])),
        }
    }

    /// Whether a known name is present.
    #[inline]
    pub fn has(&self, id: HeaderId) -> bool {
        self.first.0[id.0 as usize] != 0
    }

    /// All values of `name` (lower case), in order.
    pub fn get_all<'a>(&'a self, name: &'a [u8]) -> Values<'a> {
        let id = HeaderId::of(name);
        let at = match id {
            HeaderId::OTHER => 0,
            id => match self.first.0[id.0 as usize] {
                0 => self.fields.len(),
                i => i as usize - 1,
            },
        };
        Values { block: self, name, id, at }
    }

    /// `:method`, or empty.
    #[inline]
    pub fn method(&self) -> &[u8] {
        self.get_id(HeaderId::METHOD).unwrap_or(b"")
    }

    /// `:path`, or empty.
    #[inline]
    pub fn path(&self) -> &[u8] {
        self.get_id(HeaderId::PATH).unwrap_or(b"")
    }

    /// `:authority`, or empty.
    #[inline]
    pub fn authority(&self) -> &[u8] {
        self.get_id(HeaderId::AUTHORITY).unwrap_or(b"")
    }

    /// `:scheme`, or empty.
    #[inline]
    pub fn scheme(&self) -> &[u8] {
        self.get_id(HeaderId::SCHEME).unwrap_or(b"")
    }

    /// `:status` as a number; `None` when absent or malformed.
    pub fn status(&self) -> Option<u16> {
        match self.get_id(HeaderId::STATUS)? {
            [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'] => {
                Some((a - b'0') as u16 * 100 + (b - b'0') as u16 * 10 + (c - b'0') as u16)
            }
            _ => None,
        }
    }

    /// Sets `:status`.
    pub fn set_status(&mut self, status: u16) {
        let digits = [b'0' + (status / 100 % 10) as u8, b'0' + (status / 10 % 10) as u8, b'0' + (status % 10) as u8];
        self.set_id(HeaderId::STATUS, &digits);
    }

    /// All live fields in order, as (lower-case name, value), pseudo headers first.
    pub fn iter(&self) -> Iter<'_> {
        Iter { block: self, at: 0 }
    }

    /// Like [`HeaderBlock::iter`], with the names' ids.
    pub fn iter_ids(&self) -> impl Iterator<Item = (HeaderId, &[u8], &[u8])> {
        self.live_fields().map(|f| (f.id, self.name_of(f), self.value_of(f)))
    }

    /// Adds a field after the existing ones; `name` may have any letter case.
    pub fn add(&mut self, name: &[u8], value: &[u8]) {
        let name_off = self.arena.len() as u32;
        self.arena.extend(name.iter().map(u8::to_ascii_lowercase));
        let id = HeaderId::of(&self.arena[name_off as usize..]);
        let value_off = self.arena.len() as u32;
        self.arena.extend_from_slice(value);
        self.push_field(name_off, name.len(), value_off, value.len(), id, NO_RAW);
    }

    /// Adds a field whose lower-case name is known to have this id.
    pub fn add_as(&mut self, id: HeaderId, name: &[u8], value: &[u8]) {
        debug_assert!(id == HeaderId::of(name));
        let name_off = self.arena.len() as u32;
        self.arena.extend_from_slice(name);
        let value_off = self.arena.len() as u32;
        self.arena.extend_from_slice(value);
        self.push_field(name_off, name.len(), value_off, value.len(), id, NO_RAW);
    }

    /// Adds a received field, as [`HeaderBlock::add_as`] does: names that have one value join a repeated one to it.
    pub fn add_received(&mut self, id: HeaderId, name: &[u8], value: &[u8], request: bool) {
        if joined(id, request) && self.has(id) {
            self.append_id(id, b",", value);
        } else {
            self.add_as(id, name, value);
        }
    }

    /// Adds a field, `name` in lower case; one that has one value is joined to what is there, as [`HeaderBlock::add_received`] does.
    pub fn append(&mut self, name: &[u8], value: &[u8], request: bool) {
        match HeaderId::of(name) {
            id if id != HeaderId::OTHER && joined(id, request) && self.has(id) => self.append_id(id, b",", value),
            _ => self.add(name, value),
        }
    }

    /// Adds a field with a known name.
    pub fn add_id(&mut self, id: HeaderId, value: &[u8]) {
        debug_assert!(id != HeaderId::OTHER);
        let name = id.name().as_bytes();
        let name_off = self.arena.len() as u32;
        self.arena.extend_from_slice(name);
        let value_off = self.arena.len() as u32;
        self.arena.extend_from_slice(value);
        self.push_field(name_off, name.len(), value_off, value.len(), id, NO_RAW);
    }

    /// Replaces the first field of that name and removes the others, or adds one.
    pub fn set(&mut self, name: &[u8], value: &[u8]) {
        let lower;
        let name = if name.iter().any(u8::is_ascii_uppercase) {
            lower = name.to_ascii_lowercase();
            &lower[..]
        } else {
            name
        };
        match HeaderId::of(name) {
            HeaderId::OTHER => {
                let mut at = None;
                for i in 0..self.fields.len() {
                    let f = self.fields[i];
                    if f.id == HeaderId::OTHER && !f.dead && self.name_of(&f) == name {
                        if at.is_none() {
                            at = Some(i);
                        } else {
                            self.kill(i);
                        }
                    }
                }
                match at {
                    Some(i) => self.replace(i, value),
                    None => self.add(name, value),
                }
            }
            id => self.set_id(id, value),
        }
    }

    /// Replaces the first field of a known name and removes the others, or adds one.
    pub fn set_id(&mut self, id: HeaderId, value: &[u8]) {
        match self.first.0[id.0 as usize] {
            0 => self.add_id(id, value),
            i => {
                let i = i as usize - 1;
                self.replace(i, value);
                for j in i + 1..self.fields.len() {
                    if self.fields[j].id == id && !self.fields[j].dead {
                        self.kill(j);
                    }
                }
            }
        }
    }

    /// Appends to an existing value with `separator`, or adds the field.
    pub fn append_id(&mut self, id: HeaderId, separator: &[u8], value: &[u8]) {
        match self.first.0[id.0 as usize] {
            0 => self.add_id(id, value),
            i => {
                let i = i as usize - 1;
                let f = self.fields[i];
                let off = self.arena.len();
                let old = f.value_off as usize..(f.value_off + f.value_len) as usize;
                self.arena.extend_from_within(old);
                if f.value_len > 0 {
                    self.arena.extend_from_slice(separator);
                }
                self.arena.extend_from_slice(value);
                let len = self.arena.len() - off;
                let f = &mut self.fields[i];
                f.value_off = off as u32;
                f.value_len = len as u32;
            }
        }
    }

    /// Removes every field of that name (lower case). Returns whether there was one.
    pub fn remove(&mut self, name: &[u8]) -> bool {
        match HeaderId::of(name) {
            HeaderId::OTHER => self.remove_where(|id, n, _| id == HeaderId::OTHER && n == name),
            id => self.remove_id(id),
        }
    }

    /// Removes every field of a known name. Returns whether there was one.
    pub fn remove_id(&mut self, id: HeaderId) -> bool {
        match self.first.0[id.0 as usize] {
            0 => false,
            i => {
                for j in i as usize - 1..self.fields.len() {
                    if self.fields[j].id == id && !self.fields[j].dead {
                        self.fields[j].dead = true;
                        self.live -= 1;
                    }
                }
                self.first.0[id.0 as usize] = 0;
                true
            }
        }
    }

    /// Removes every field for which `doomed(id, name, value)` holds. Returns whether there was one.
    pub fn remove_where(&mut self, mut doomed: impl FnMut(HeaderId, &[u8], &[u8]) -> bool) -> bool {
        let mut any = false;
        for i in 0..self.fields.len() {
            let f = self.fields[i];
            if !f.dead && doomed(f.id, self.name_of(&f), self.value_of(&f)) {
                self.kill(i);
                any = true;
            }
        }
        any
    }

    pub(crate) fn fields(&self) -> &[Field] {
        &self.fields
    }

    pub(crate) fn live_fields(&self) -> impl Iterator<Item = &Field> {
        self.fields.iter().filter(|f| !f.dead)
    }

    pub(crate) fn name_of(&self, f: &Field) -> &[u8] {
        &self.arena[f.name_off as usize..f.name_off as usize + f.name_len as usize]
    }

    #[inline]
    pub(crate) fn value_of(&self, f: &Field) -> &[u8] {
        &self.arena[f.value_off as usize..(f.value_off + f.value_len) as usize]
    }

    /// The name as received when case is preserved, else the lower-case name.
    pub(crate) fn raw_name_of(&self, f: &Field) -> &[u8] {
        let off = if f.raw_off == NO_RAW { f.name_off } else { f.raw_off } as usize;
        &self.arena[off..off + f.name_len as usize]
    }

    pub(crate) fn arena_mut(&mut self) -> &mut Vec<u8> {
        &mut self.arena
    }

    pub(crate) fn arena(&self) -> &[u8] {
        &self.arena
    }

    pub(crate) fn push_field(
        &mut self,
        name_off: u32,
        name_len: usize,
        value_off: u32,
        value_len: usize,
        id: HeaderId,
        raw_off: u32,
    ) {
        self.fields.push(Field {
            name_off,
            value_off,
            value_len: value_len as u32,
            raw_off,
            name_len: name_len as u32,
            id,
            dead: false,
        });
        self.live += 1;
        let first = &mut self.first.0[id.0 as usize];
        if id != HeaderId::OTHER && *first == 0 {
            *first = self.fields.len() as u16;
        }
    }

    /// Lower-cases a received name in place, or next to the original when `preserve` is set, interns
    /// it and adds the field.
    #[inline]
    pub(crate) fn push_received(
        &mut self,
        name_off: u32,
        name_len: usize,
        value_off: u32,
        value_len: usize,
        preserve: bool,
        request: bool,
    ) -> HeaderId {
        let range = name_off as usize..name_off as usize + name_len;
        let (off, raw) = if preserve && self.arena[range.clone()].iter().any(u8::is_ascii_uppercase) {
            let off = self.arena.len();
            self.arena.extend_from_within(range.clone());
            (off as u32, name_off)
        } else {
            (name_off, NO_RAW)
        };
        let name = &mut self.arena[off as usize..off as usize + name_len];
        name.make_ascii_lowercase();
        let mut id = HeaderId::of(name);
        let (mut off, mut len) = (off, name_len);
        if request && id == HeaderId::HOST {
            // Requests know `host` as `:authority`; the writer turns it back.
            id = HeaderId::AUTHORITY;
            off = self.arena.len() as u32;
            let pseudo = HeaderId::AUTHORITY.name().as_bytes();
            len = pseudo.len();
            self.arena.extend_from_slice(pseudo);
        }
        if joined(id, request) && self.has(id) {
            let value = self.arena[value_off as usize..value_off as usize + value_len].to_vec();
            self.append_id(id, b",", &value);
            return id;
        }
        self.push_field(off, len, value_off, value_len, id, if id.is_pseudo() { NO_RAW } else { raw });
        id
    }

    fn replace(&mut self, i: usize, value: &[u8]) {
        let f = self.fields[i];
        let room = f.value_off as usize..f.value_off as usize + f.value_len as usize;
        if value.len() <= room.len() {
            self.arena[room.start..room.start + value.len()].copy_from_slice(value);
            self.fields[i].value_len = value.len() as u32;
        } else {
            self.fields[i].value_off = self.arena.len() as u32;
            self.fields[i].value_len = value.len() as u32;
            self.arena.extend_from_slice(value);
        }
    }

    fn kill(&mut self, i: usize) {
        let id = self.fields[i].id;
        self.fields[i].dead = true;
        self.live -= 1;
        if id != HeaderId::OTHER && self.first.0[id.0 as usize] as usize == i + 1 {
            let next = self.fields[i + 1..].iter().position(|f| f.id == id && !f.dead);
            self.first.0[id.0 as usize] = next.map_or(0, |n| (i + 1 + n + 1) as u16);
        }
    }
}

impl std::fmt::Debug for HeaderBlock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map()
            .entries(self.iter().map(|(n, v)| (String::from_utf8_lossy(n), String::from_utf8_lossy(v))))
            .finish()
    }
}

/// Iterator of [`HeaderBlock::iter`].
pub struct Iter<'a> {
    block: &'a HeaderBlock,
    at: usize,
}

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let f = self.block.fields.get(self.at)?;
            self.at += 1;
            if !f.dead {
                return Some((self.block.name_of(f), self.block.value_of(f)));
            }
        }
    }
}

impl<'a> IntoIterator for &'a HeaderBlock {
    type Item = (&'a [u8], &'a [u8]);
    type IntoIter = Iter<'a>;
    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// Iterator of [`HeaderBlock::get_all`].
pub struct Values<'a> {
    block: &'a HeaderBlock,
    name: &'a [u8],
    id: HeaderId,
    at: usize,
}

impl<'a> Iterator for Values<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            let f = self.block.fields.get(self.at)?;
            self.at += 1;
            let same = f.id == self.id && (self.id != HeaderId::OTHER || self.block.name_of(f) == self.name);
            if !f.dead && same {
                return Some(self.block.value_of(f));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dump(b: &HeaderBlock) -> String {
        b.iter()
            .map(|(n, v)| format!("{}={}", String::from_utf8_lossy(n), String::from_utf8_lossy(v)))
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn edits() {
        let mut b = HeaderBlock::new();
        b.add_id(HeaderId::METHOD, b"GET");
        b.add(b"X-Foo", b"1");
        b.add(b"x-foo", b"2");
        b.add(b"via", b"a");
        b.add(b"via", b"b");
        assert_eq!(b.get(b"x-foo"), Some(&b"1"[..]));
        assert_eq!(b.get_all(b"via").count(), 2);
        b.set(b"x-foo", b"longer");
        assert_eq!(dump(&b), ":method=GET x-foo=longer via=a via=b");
        b.set_id(HeaderId::VIA, b"c");
        b.append_id(HeaderId::VIA, b", ", b"d");
        assert_eq!(dump(&b), ":method=GET x-foo=longer via=c, d");
        assert!(b.remove(b"via") && !b.remove(b"via"));
        assert!(b.remove(b"x-foo"));
        assert_eq!(dump(&b), ":method=GET");
        assert_eq!(b.len(), 1);
        b.clear();
        assert!(b.is_empty() && b.get_id(HeaderId::METHOD).is_none());
    }

    #[test]
    fn names_of_one_value_are_joined() {
        let mut b = HeaderBlock::new();
        for (name, value) in [("server", "a"), ("server", "b"), ("x-a", "1"), ("x-a", "2")] {
            b.append(name.as_bytes(), value.as_bytes(), false);
        }
        b.append(b"server", b"c", true);
        let all: Vec<_> = b.iter().map(|(n, v)| (n.to_vec(), v.to_vec())).collect();
        let expect = [("server", "a,b"), ("x-a", "1"), ("x-a", "2"), ("server", "c")];
        assert_eq!(all, expect.map(|(n, v)| (n.as_bytes().to_vec(), v.as_bytes().to_vec())));
    }

    #[test]
    fn remove_where_keeps_the_index_right() {
        let mut b = HeaderBlock::new();
        for v in ["a", "b", "c"] {
            b.add(b"via", v.as_bytes());
        }
        b.remove_where(|_, _, v| v == b"a");
        assert_eq!(b.get_id(HeaderId::VIA), Some(&b"b"[..]));
        b.remove_where(|_, _, v| v == b"b" || v == b"c");
        assert!(!b.has(HeaderId::VIA));
    }
}
