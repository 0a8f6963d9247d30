//! Which hash does a request or host get? Envoy's xxHash64 and MurmurHash2, and the route's hash policy.

use std::net::IpAddr;
use std::time::Duration;

use proxy_config::route::{HashPolicy, HashPolicyKind};
use xxhash_rust::xxh64::xxh64;

use crate::facts::MetadataView;
use crate::{HeaderView, matcher};

/// `HashUtil::xxHash64`, seed 0.
pub fn xx(bytes: &[u8]) -> u64 {
    xxh64(bytes, 0)
}

/// `HashUtil::xxHash64` with a seed.
pub fn xx_seeded(bytes: &[u8], seed: u64) -> u64 {
    xxh64(bytes, seed)
}

/// `MurmurHash::murmurHash2`: libstdc++'s 64-bit variant with its default seed.
pub fn murmur2(bytes: &[u8]) -> u64 {
    const MUL: u64 = 0xc6a4_a793_5bd1_e995;
    const SEED: u64 = 0xc70f_6907;
    let mix = |v: u64| v ^ (v >> 47);
    let mut hash = SEED ^ (bytes.len() as u64).wrapping_mul(MUL);
    let mut chunks = bytes.chunks_exact(8);
    for c in &mut chunks {
        let word = u64::from_le_bytes(c.try_into().expect("chunks_exact(8) yields 8 bytes"));
        let data = mix(word.wrapping_mul(MUL)).wrapping_mul(MUL);
        hash = (hash ^ data).wrapping_mul(MUL);
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        let mut last = [0u8; 8];
        last[..rest.len()].copy_from_slice(rest);
        hash = (hash ^ u64::from_le_bytes(last)).wrapping_mul(MUL);
    }
    hash = mix(hash).wrapping_mul(MUL);
    mix(hash)
}

/// A cookie that the response must set so that the client comes back to the same host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCookie<'a> {
    /// Name.
    pub name: &'a str,
    /// Value: 16 hex digits.
    pub value: String,
    /// Path, empty for none.
    pub path: &'a str,
    /// Life; zero is a session cookie.
    pub ttl: Duration,
    /// Further attributes.
    pub attributes: &'a [(proxy_config::Name, proxy_config::Name)],
}

impl NewCookie<'_> {
    /// The `set-cookie` value as Envoy makes it.
    pub fn header(&self) -> String {
        let mut out = format!("{}=\"{}\"", self.name, self.value);
        if !self.ttl.is_zero() {
            out.push_str(&format!("; Max-Age={}", self.ttl.as_secs()));
        }
        if !self.path.is_empty() {
            out.push_str(&format!("; Path={}", self.path));
        }
        for (name, value) in self.attributes {
            out.push_str(&if value.is_empty() { format!("; {name}") } else { format!("; {name}={value}") });
        }
        out.push_str("; HttpOnly");
        out
    }
}

/// The hash of a request under a route's policy, and a cookie to set if one had to be made up.
///
/// Each policy rotates what came before and adds its own; a terminal one that yields ends the list. `seed` makes a new
/// cookie's value (Envoy hashes both addresses of the connection).
pub fn request<'a, H: HeaderView + ?Sized>(
    policy: &'a [HashPolicy],
    headers: &H,
    source: Option<IpAddr>,
    metadata: &dyn MetadataView,
    seed: u64,
) -> (Option<u64>, Option<NewCookie<'a>>) {
    let mut hash: Option<u64> = None;
    let mut cookie = None;
    for p in policy {
        let own = one(&p.kind, headers, source, metadata, seed, &mut cookie);
        if let Some(own) = own {
            let old = hash.map_or(0, |h: u64| h.rotate_left(1));
            hash = Some(old ^ own);
        }
        if p.terminal && hash.is_some() {
            break;
        }
    }
    (hash, cookie)
}

fn one<'a, H: HeaderView + ?Sized>(
    kind: &'a HashPolicyKind,
    headers: &H,
    source: Option<IpAddr>,
    metadata: &dyn MetadataView,
    seed: u64,
    cookie: &mut Option<NewCookie<'a>>,
) -> Option<u64> {
    match kind {
        HashPolicyKind::Header { name, rewrite } => {
            let mut values: smallvec::SmallVec<[&[u8]; 4]> = smallvec::SmallVec::new();
            headers.each(name.as_str().as_bytes(), &mut |v| values.push(v));
            let hash_one = |v: &[u8]| match rewrite {
                None => v.to_vec(),
                Some(r) => r.apply(v),
            };
            match values.len() {
                0 => None,
                1 if rewrite.is_none() => Some(xx(values[0])),
                _ => {
                    // Several values: sorted, then hashed one after the other with the hash so far as seed.
                    let mut all: Vec<Vec<u8>> = values.iter().map(|v| hash_one(v)).collect();
                    all.sort();
                    Some(all.iter().fold(0, |h, v| xx_seeded(v, h)))
                }
            }
        }
        HashPolicyKind::Cookie { name, ttl, path, attributes } => match matcher::cookie_value(headers, name.as_bytes())
        {
            Some(v) if !v.is_empty() => Some(xx(v)),
            _ => {
                let ttl = (*ttl)?;
                let value = format!("{:016x}", xx(&seed.to_le_bytes()));
                let hash = xx(value.as_bytes());
                *cookie = Some(NewCookie { name, value, path, ttl, attributes });
                Some(hash)
            }
        },
        HashPolicyKind::SourceIp => source.map(|ip| xx(ip.to_string().as_bytes())),
        HashPolicyKind::QueryParameter(name) => {
            matcher::query_value(matcher::query_of(headers.path()), name.as_bytes()).map(xx)
        }
        HashPolicyKind::FilterState(key) => metadata.filter_state(key).map(xx),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        // From Envoy's own tests (hash_test.cc).
        assert_eq!(xx(b"foo"), 3728699739546630719);
        assert_eq!(xx(b"bar"), 5234164152756840025);
        assert_eq!(
            xx(b"foo
bar"),
            8917841378505826757
        );
        assert_eq!(xx(b"lyft"), 4400747396090729504);
        assert_eq!(xx(b""), 17241709254077376921);
        assert_eq!(murmur2(b"foo"), 9631199822919835226);
        assert_eq!(murmur2(b"bar"), 11474628671133349555);
        assert_eq!(murmur2(b""), 6142509188972423790);
        assert_eq!(murmur2(b"foo\nbar"), 16306510975912980159);
        assert_eq!(murmur2(b"lyft"), 12847078931730529320);
    }
}
