//! What are the bytes of a resource? One run, or a run and parts that other resources and other versions of it share: a
//! route configuration of a thousand virtual hosts, of which one changed, is the other 999 parts and one new one.

use std::borrow::Cow;
use std::sync::Arc;

use xxhash_rust::xxh64::{Xxh64, xxh64};

/// Bytes that several values hold, hashed once.
#[derive(Debug, PartialEq, Eq)]
pub struct Part {
    hash: u64,
    bytes: Vec<u8>,
}

impl Part {
    /// Hashes the bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Part { hash: xxh64(&bytes, 0), bytes }
    }

    /// How many bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// No byte at all?
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// xxHash64 of the bytes.
    pub fn hash(&self) -> u64 {
        self.hash
    }
}

/// The encoded message of a resource: `head`, then the parts in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Value {
    head: Vec<u8>,
    parts: Vec<Arc<Part>>,
    len: usize,
}

impl From<Vec<u8>> for Value {
    fn from(head: Vec<u8>) -> Self {
        Value { len: head.len(), head, parts: Vec::new() }
    }
}

impl Value {
    /// A message whose encoding is `head` followed by these parts. Empty parts are left out.
    pub fn of_parts(head: Vec<u8>, mut parts: Vec<Arc<Part>>) -> Self {
        parts.retain(|p| !p.is_empty());
        let len = head.len() + parts.iter().map(|p| p.len()).sum::<usize>();
        Value { head, parts, len }
    }

    /// Bytes of the message.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The empty message?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes in order, run by run; the runs are those the value was made of.
    pub fn runs(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(&*self.head).chain(self.parts.iter().map(|p| &*p.bytes))
    }

    /// Run number `n` of [`runs`](Self::runs).
    pub(crate) fn run(&self, n: usize) -> Option<&[u8]> {
        match n.checked_sub(1) {
            None => Some(&self.head),
            Some(part) => self.parts.get(part).map(|p| &*p.bytes),
        }
    }

    /// The bytes in one run, which most values are.
    pub fn in_one_run(&self) -> Cow<'_, [u8]> {
        if self.parts.is_empty() { Cow::Borrowed(&self.head) } else { Cow::Owned(self.to_vec()) }
    }

    /// A copy in one run.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.len);
        self.runs().for_each(|run| out.extend_from_slice(run));
        out
    }

    /// xxHash64 of the bytes; of a value in parts, of the head and the hashes of its parts. Parts are where the translation
    /// puts them, so that equal resources have equal hashes in every replica.
    pub(crate) fn hash(&self) -> u64 {
        if self.parts.is_empty() {
            return xxh64(&self.head, 0);
        }
        let mut hash = Xxh64::new(0);
        hash.update(&self.head);
        self.parts.iter().for_each(|p| hash.update(&p.hash.to_le_bytes()));
        hash.digest()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_read_as_one_message() {
        let part = |text: &str| Arc::new(Part::new(text.as_bytes().to_vec()));
        let value = Value::of_parts(b"head".to_vec(), vec![part("one"), part(""), part("two")]);
        assert_eq!((value.len(), value.to_vec()), (10, b"headonetwo".to_vec()));
        assert_eq!(value.runs().count(), 3);
        assert_eq!((value.run(2), value.run(3)), (Some(&b"two"[..]), None));
        assert_eq!(value, Value::of_parts(b"head".to_vec(), vec![part("one"), part("two")]));
        let other = Value::of_parts(b"head".to_vec(), vec![part("one"), part(""), part("six")]);
        assert!(value.hash() != other.hash() && value != other);
        assert_eq!(Value::from(b"abc".to_vec()).hash(), xxh64(b"abc", 0));
        assert!(Value::default().is_empty() && part("").is_empty());
    }
}
