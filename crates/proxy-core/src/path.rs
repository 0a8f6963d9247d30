//! What is the normal form of a path? Dot segments, duplicate and escaped slashes, as Envoy's HCM treats them.

use std::borrow::Cow;

use proxy_config::hcm::{EscapedSlashes, PathNormalization};

/// What becomes of a request after its path was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Normalized<'a> {
    /// Go on with this path and query.
    Continue(Cow<'a, [u8]>),
    /// Answer 307 with this location.
    Redirect(Vec<u8>),
    /// Answer 400.
    Reject,
}

/// `path` without its fragment, for proxies whose runtime says so
/// (`envoy.reloadable_features.http_reject_path_with_fragment: false`).
pub fn without_fragment(path: &[u8]) -> &[u8] {
    &path[..memchr::memchr(b'#', path).unwrap_or(path.len())]
}

/// Applies the HCM's path options to `:path`. A path with a fragment is refused, as in Envoy.
pub fn normalize<'a>(options: &PathNormalization, path: &'a [u8]) -> Normalized<'a> {
    if memchr::memchr(b'#', path).is_some() {
        return Normalized::Reject;
    }
    let cut = memchr::memchr(b'?', path).unwrap_or(path.len());
    let (only, rest) = path.split_at(cut);
    let plain = *options == PathNormalization::default() || only.is_empty();
    if plain {
        return Normalized::Continue(Cow::Borrowed(path));
    }
    let mut text: Cow<'a, [u8]> = Cow::Borrowed(only);
    let mut redirect = false;
    if options.escaped_slashes != EscapedSlashes::KeepUnchanged
        && let Some(unescaped) = unescape_slashes(&text)
    {
        match options.escaped_slashes {
            EscapedSlashes::RejectRequest => return Normalized::Reject,
            EscapedSlashes::UnescapeAndRedirect => redirect = true,
            EscapedSlashes::UnescapeAndForward | EscapedSlashes::KeepUnchanged => {}
        }
        text = Cow::Owned(unescaped);
    }
    if options.normalize {
        match canonical(&text) {
            Some(None) => {}
            Some(Some(changed)) => text = Cow::Owned(changed),
            None => return Normalized::Reject,
        }
    }
    if options.merge_slashes && memchr::memmem::find(&text, b"//").is_some() {
        text = Cow::Owned(merge(&text));
    }
    match text {
        Cow::Borrowed(_) => Normalized::Continue(Cow::Borrowed(path)),
        Cow::Owned(mut changed) => {
            changed.extend_from_slice(rest);
            if redirect { Normalized::Redirect(changed) } else { Normalized::Continue(Cow::Owned(changed)) }
        }
    }
}

fn hex(b: u8) -> Option<u8> {
    (b as char).to_digit(16).map(|d| d as u8)
}

/// The byte that a `%XX` at the head of `text` stands for.
fn escaped(text: &[u8]) -> Option<u8> {
    match text {
        [b'%', a, b, ..] => Some(hex(*a)? << 4 | hex(*b)?),
        _ => None,
    }
}

/// `%2F` to `/` and `%5C` to `\`; `None` when there is neither.
fn unescape_slashes(path: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(path.len());
    let mut i = 0;
    let mut changed = false;
    while i < path.len() {
        match escaped(&path[i..]) {
            Some(b @ (b'/' | b'\\')) => {
                out.push(b);
                i += 3;
                changed = true;
            }
            _ => {
                out.push(path[i]);
                i += 1;
            }
        }
    }
    changed.then_some(out)
}

fn unreserved(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~')
}

/// RFC 3986 normal form: backslashes are slashes, escapes of unreserved bytes are undone, dot segments are resolved.
///
/// `None`: not a path. `Some(None)`: already normal.
fn canonical(path: &[u8]) -> Option<Option<Vec<u8>>> {
    if path.first() != Some(&b'/') || path.contains(&0) {
        return None;
    }
    let mut plain = Vec::with_capacity(path.len());
    let mut i = 0;
    while i < path.len() {
        match (path[i], escaped(&path[i..])) {
            (_, Some(0)) => return None,
            (_, Some(b)) if unreserved(b) => {
                plain.push(b);
                i += 3;
            }
            (b'\\', _) => {
                plain.push(b'/');
                i += 1;
            }
            (b, _) => {
                plain.push(b);
                i += 1;
            }
        }
    }
    let mut out: Vec<u8> = Vec::with_capacity(plain.len());
    let segments: Vec<&[u8]> = plain[1..].split(|b| *b == b'/').collect();
    for (n, segment) in segments.iter().enumerate() {
        let last = n + 1 == segments.len();
        match *segment {
            b"." if last => out.push(b'/'),
            b"." => {}
            b".." => {
                let keep = memchr::memrchr(b'/', &out).unwrap_or(0);
                out.truncate(keep);
                if last {
                    out.push(b'/');
                }
            }
            other => {
                out.push(b'/');
                out.extend_from_slice(other);
            }
        }
    }
    Some((out != path).then_some(out))
}

fn merge(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    for b in path {
        if *b != b'/' || out.last() != Some(&b'/') {
            out.push(*b);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(options: PathNormalization, path: &str, expect: &str) {
        match normalize(&options, path.as_bytes()) {
            Normalized::Continue(p) => assert_eq!(String::from_utf8_lossy(&p), expect, "{path}"),
            other => panic!("{path}: {other:?}"),
        }
    }

    const ON: PathNormalization =
        PathNormalization { normalize: true, merge_slashes: false, escaped_slashes: EscapedSlashes::KeepUnchanged };

    #[test]
    fn canonical_paths() {
        check(ON, "/a/b?q=../x", "/a/b?q=../x");
        check(ON, "/a/../b", "/b");
        check(ON, "/a/./b/..", "/a/");
        check(ON, "/../../x", "/x");
        check(ON, "/a/%2e%2E/b", "/b");
        check(ON, "/a\\..\\b", "/b");
        check(ON, "/xyz/..//abc", "//abc");
        check(ON, "/%30%2F", "/0%2F");
        check(ON, "/a/.", "/a/");
        assert_eq!(normalize(&ON, b"/a%00"), Normalized::Reject);
        assert_eq!(normalize(&ON, b"abc"), Normalized::Reject);
    }

    #[test]
    fn slashes() {
        let merge = PathNormalization { merge_slashes: true, ..Default::default() };
        check(merge, "//a///b?x=//", "/a/b?x=//");
        let with = |e| PathNormalization { escaped_slashes: e, ..Default::default() };
        check(with(EscapedSlashes::UnescapeAndForward), "/a%2Fb%5cc", "/a/b\\c");
        assert_eq!(normalize(&with(EscapedSlashes::RejectRequest), b"/a%2fb"), Normalized::Reject);
        assert_eq!(
            normalize(&with(EscapedSlashes::UnescapeAndRedirect), b"/a%2fb?c"),
            Normalized::Redirect(b"/a/b?c".to_vec())
        );
    }

    proptest! {
        #[test]
        fn normal_form_is_stable(path in "/[a-z./%2eE\\\\]{0,20}") {
            let all = PathNormalization { normalize: true, merge_slashes: true, escaped_slashes: EscapedSlashes::UnescapeAndForward };
            if let Normalized::Continue(once) = normalize(&ON, path.as_bytes()) {
                let has_dots = once.split(|b| *b == b'/').any(|s| s == b"..");
                prop_assert!(!has_dots);
            }
            let _ = normalize(&all, path.as_bytes());
        }
    }
}
