//! Which virtual host does an authority belong to? The compiled domain index of a route table.
//!
//! Order of Envoy: exact, longest suffix wildcard (`*.foo.com`, `*-bar.foo.com`), longest prefix wildcard (`foo.*`),
//! then `*`. Comparison ignores ASCII case.

use crate::error::{ConfigError, Reason};
use crate::hash::FastMap;

/// Longest authority that is looked up, bytes; longer ones match `*` only. A DNS name has at most 253.
pub const AUTHORITY_BYTES_MAX: usize = 512;

/// Domain patterns to virtual host numbers.
#[derive(Debug, Clone, Default)]
pub struct DomainIndex {
    exact: FastMap<Box<str>, u32>,
    /// By pattern length without the `*`, longest first.
    suffix: Vec<(usize, FastMap<Box<str>, u32>)>,
    prefix: Vec<(usize, FastMap<Box<str>, u32>)>,
    any: Option<u32>,
}

impl DomainIndex {
    /// Adds `domain` for virtual host `vhost`. Errors: a domain that is already there, an inner `*`.
    pub fn insert(&mut self, domain: &str, vhost: u32) -> Result<(), ConfigError> {
        let lower = domain.to_ascii_lowercase();
        let duplicate = || {
            ConfigError::new(Reason::Invalid(format!(
                "Only unique values for domains are permitted. Duplicate entry of domain {domain}"
            )))
        };
        let old = if lower == "*" {
            if self.any.is_some() {
                return Err(ConfigError::new(Reason::Invalid("Only a single wildcard domain is permitted".to_owned())));
            }
            self.any = Some(vhost);
            None
        } else if let Some(rest) = lower.strip_prefix('*') {
            level(&mut self.suffix, rest.len()).insert(rest.into(), vhost)
        } else if let Some(rest) = lower.strip_suffix('*') {
            level(&mut self.prefix, rest.len()).insert(rest.into(), vhost)
        } else {
            self.exact.insert(lower.into(), vhost)
        };
        if old.is_some() { Err(duplicate()) } else { Ok(()) }
    }

    /// The virtual host for `authority` (as received, any case, port included if it was sent).
    #[inline]
    pub fn find(&self, authority: &[u8]) -> Option<u32> {
        if self.exact.is_empty() && self.suffix.is_empty() && self.prefix.is_empty() {
            return self.any;
        }
        if authority.len() > AUTHORITY_BYTES_MAX {
            return self.any;
        }
        let mut buffer = [0u8; AUTHORITY_BYTES_MAX];
        let lower = &mut buffer[..authority.len()];
        lower.copy_from_slice(authority);
        lower.make_ascii_lowercase();
        let Ok(host) = std::str::from_utf8(lower) else {
            return self.any;
        };
        if let Some(v) = self.exact.get(host) {
            return Some(*v);
        }
        for (len, map) in &self.suffix {
            // The star stands for at least one byte.
            if *len < host.len()
                && let Some(tail) = host.get(host.len() - len..)
                && let Some(v) = map.get(tail)
            {
                return Some(*v);
            }
        }
        for (len, map) in &self.prefix {
            if *len < host.len()
                && let Some(head) = host.get(..*len)
                && let Some(v) = map.get(head)
            {
                return Some(*v);
            }
        }
        self.any
    }
}

fn level(levels: &mut Vec<(usize, FastMap<Box<str>, u32>)>, len: usize) -> &mut FastMap<Box<str>, u32> {
    let at = match levels.binary_search_by(|(l, _)| len.cmp(l)) {
        Ok(i) => i,
        Err(i) => {
            levels.insert(i, (len, FastMap::default()));
            i
        }
    };
    &mut levels[at].1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(domains: &[&str], authority: &str, expect: Option<u32>) {
        let mut index = DomainIndex::default();
        for (i, d) in domains.iter().enumerate() {
            index.insert(d, i as u32).unwrap();
        }
        assert_eq!(index.find(authority.as_bytes()), expect, "{authority} in {domains:?}");
    }

    #[test]
    fn order_of_envoy() {
        let d = ["www.foo.com", "*.foo.com", "*-bar.foo.com", "foo.*", "www.*", "*", "*.com"];
        check(&d, "WWW.foo.com", Some(0));
        check(&d, "a.foo.com", Some(1));
        check(&d, "x-bar.foo.com", Some(2));
        check(&d, "foo.org", Some(3));
        check(&d, "www.org:80", Some(4));
        check(&d, "x.com", Some(6));
        check(&d, ".com", Some(5));
        check(&d, "other", Some(5));
        check(&["a"], "b", None);
        check(&["*.foo.com"], ".foo.com", None);
    }

    #[test]
    fn duplicates_are_refused() {
        let mut index = DomainIndex::default();
        index.insert("a.com", 0).unwrap();
        assert!(index.insert("A.com", 1).is_err());
        index.insert("*", 0).unwrap();
        assert!(index.insert("*", 1).is_err());
    }
}
