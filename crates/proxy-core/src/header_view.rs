//! How do decisions read and change headers without knowing who holds them? Two small traits.
//!
//! Names are lower case; `:method`, `:path`, `:authority`, `:scheme`, `:protocol` and `:status` are ordinary names.

use std::borrow::Cow;

/// Read access to a header block.
pub trait HeaderView {
    /// The first value of `name`.
    fn get(&self, name: &[u8]) -> Option<&[u8]>;

    /// Calls `f` with every value of `name`, in order.
    fn each<'a>(&'a self, name: &[u8], f: &mut dyn FnMut(&'a [u8]));

    /// Calls `f` with every header, in order.
    fn all<'a>(&'a self, f: &mut dyn FnMut(&'a [u8], &'a [u8]));

    /// All values joined with `,` as Envoy matches them; borrowed unless there are several.
    fn joined(&self, name: &[u8]) -> Option<Cow<'_, [u8]>> {
        let mut out: Option<Cow<'_, [u8]>> = None;
        self.each(name, &mut |v| match &mut out {
            None => out = Some(Cow::Borrowed(v)),
            Some(so_far) => {
                let so_far = so_far.to_mut();
                so_far.push(b',');
                so_far.extend_from_slice(v);
            }
        });
        out
    }

    /// `:method`, empty when absent.
    fn method(&self) -> &[u8] {
        self.get(b":method").unwrap_or_default()
    }

    /// `:path` with query, empty when absent (CONNECT).
    fn path(&self) -> &[u8] {
        self.get(b":path").unwrap_or_default()
    }

    /// `:authority`, empty when absent.
    fn authority(&self) -> &[u8] {
        self.get(b":authority").unwrap_or_default()
    }

    /// `:scheme`, empty when absent.
    fn scheme(&self) -> &[u8] {
        self.get(b":scheme").unwrap_or_default()
    }

    /// `:status` as a number.
    fn status(&self) -> Option<u16> {
        std::str::from_utf8(self.get(b":status")?).ok()?.parse().ok()
    }
}

/// Write access to a header block.
pub trait HeaderEdit: HeaderView {
    /// Replaces all values of `name`, or adds it.
    fn set(&mut self, name: &[u8], value: &[u8]);
    /// Adds another value.
    fn add(&mut self, name: &[u8], value: &[u8]);
    /// Adds another value, to the one that is there when the name has but one in messages of that kind.
    fn append(&mut self, name: &[u8], value: &[u8], request: bool) {
        let _ = request;
        self.add(name, value);
    }
    /// Removes all values; true when there were any.
    fn remove(&mut self, name: &[u8]) -> bool;
}

impl HeaderView for http1::HeaderBlock {
    #[inline]
    fn get(&self, name: &[u8]) -> Option<&[u8]> {
        http1::HeaderBlock::get(self, name)
    }

    #[inline]
    fn each<'a>(&'a self, name: &[u8], f: &mut dyn FnMut(&'a [u8])) {
        if http1::HeaderBlock::get(self, name).is_some() {
            for (n, v) in self.iter() {
                if n == name {
                    f(v);
                }
            }
        }
    }

    fn all<'a>(&'a self, f: &mut dyn FnMut(&'a [u8], &'a [u8])) {
        for (n, v) in self.iter() {
            f(n, v);
        }
    }

    #[inline]
    fn method(&self) -> &[u8] {
        http1::HeaderBlock::method(self)
    }

    #[inline]
    fn path(&self) -> &[u8] {
        http1::HeaderBlock::path(self)
    }

    #[inline]
    fn authority(&self) -> &[u8] {
        http1::HeaderBlock::authority(self)
    }

    #[inline]
    fn scheme(&self) -> &[u8] {
        http1::HeaderBlock::scheme(self)
    }

    #[inline]
    fn status(&self) -> Option<u16> {
        http1::HeaderBlock::status(self)
    }
}

impl HeaderEdit for http1::HeaderBlock {
    fn set(&mut self, name: &[u8], value: &[u8]) {
        http1::HeaderBlock::set(self, name, value);
    }

    fn add(&mut self, name: &[u8], value: &[u8]) {
        http1::HeaderBlock::add(self, name, value);
    }

    fn append(&mut self, name: &[u8], value: &[u8], request: bool) {
        http1::HeaderBlock::append(self, name, value, request);
    }

    fn remove(&mut self, name: &[u8]) -> bool {
        http1::HeaderBlock::remove(self, name)
    }
}

/// A plain list of headers, for tests, simulation and call-outs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderList(pub Vec<(Vec<u8>, Vec<u8>)>);

impl HeaderList {
    /// From name and value pairs; names must be lower case.
    pub fn of(pairs: &[(&str, &str)]) -> Self {
        Self(pairs.iter().map(|(n, v)| (n.as_bytes().to_vec(), v.as_bytes().to_vec())).collect())
    }
}

impl HeaderView for HeaderList {
    fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_slice())
    }

    fn each<'a>(&'a self, name: &[u8], f: &mut dyn FnMut(&'a [u8])) {
        self.0.iter().filter(|(n, _)| n == name).for_each(|(_, v)| f(v));
    }

    fn all<'a>(&'a self, f: &mut dyn FnMut(&'a [u8], &'a [u8])) {
        self.0.iter().for_each(|(n, v)| f(n, v));
    }
}

impl HeaderEdit for HeaderList {
    fn set(&mut self, name: &[u8], value: &[u8]) {
        match self.0.iter().position(|(n, _)| n == name) {
            None => self.add(name, value),
            Some(at) => {
                self.0[at].1 = value.to_vec();
                let mut seen = 0;
                self.0.retain(|(n, _)| {
                    seen += usize::from(n == name);
                    n != name || seen == 1
                });
            }
        }
    }

    fn add(&mut self, name: &[u8], value: &[u8]) {
        self.0.push((name.to_vec(), value.to_vec()));
    }

    fn remove(&mut self, name: &[u8]) -> bool {
        let before = self.0.len();
        self.0.retain(|(n, _)| n != name);
        self.0.len() != before
    }
}
