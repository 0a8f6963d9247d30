//! What is the canonical form of a request path?
//!
//! Envoy's `PathUtil`: RFC 3986 normalisation as its URL library does it, slash merging, escaped slashes.
//! The query is never touched.

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let end = path.iter().position(|b| matches!(b, b'?' | b'#')).unwrap_or(path.len());
    path.split_at(end)
}

/// Whether normalisation could change the path: dots, doubled slashes, backslashes, escapes or odd bytes.
pub fn may_need_work(path: &[u8]) -> bool {
    let (path, _) = split(path);
    let mut before = 0;
    for &b in path {
        match b {
            b'.' if before == b'/' => return true,
            b'/' if before == b'/' => return true,
            b'%' | b'\\' | b'"' | b'<' | b'>' | b'`' | b'{' | b'}' | b'^' | b'|' => return true,
            0..=0x20 | 0x7f.. => return true,
            _ => {}
        }
        before = b;
    }
    false
}

/// The normalised path: escapes of unreserved characters decoded, backslashes turned, dot segments
/// resolved. `None`: a NUL or its escape.
pub fn canonical(full: &[u8]) -> Option<Vec<u8>> {
    let (path, query) = split(full);
    let mut text = Vec::with_capacity(full.len());
    let mut i = 0;
    while i < path.len() {
        let b = path[i];
        match b {
            b'\\' => text.push(b'/'),
            b'%' => match escape(&path[i..]) {
                Some(0) => return None,
                Some(c) if c.is_ascii_alphanumeric() || b"-._~".contains(&c) => {
                    text.push(c);
                    i += 2;
                }
                Some(_) => {
                    text.extend_from_slice(&path[i..i + 3]);
                    i += 2;
                }
                None => text.push(b),
            },
            0 => return None,
            b' ' | b'"' | b'<' | b'>' | b'`' | b'{' | b'}' | 1..=0x1f | 0x7f.. => {
                text.push(b'%');
                text.push(b"0123456789ABCDEF"[(b >> 4) as usize]);
                text.push(b"0123456789ABCDEF"[(b & 15) as usize]);
            }
            _ => text.push(b),
        }
        i += 1;
    }
    let mut out: Vec<u8> = Vec::with_capacity(text.len() + query.len());
    let mut segments = text.split(|b| *b == b'/').skip(1).peekable();
    while let Some(s) = segments.next() {
        let last = segments.peek().is_none();
        match s {
            b"." => {
                if last {
                    out.push(b'/');
                }
            }
            b".." => {
                let cut = out.iter().rposition(|b| *b == b'/').unwrap_or(0);
                out.truncate(cut);
                if last {
                    out.push(b'/');
                }
            }
            s => {
                out.push(b'/');
                out.extend_from_slice(s);
            }
        }
    }
    if out.is_empty() {
        out.push(b'/');
    }
    out.extend_from_slice(query);
    Some(out)
}

fn escape(s: &[u8]) -> Option<u8> {
    let hex = |b: u8| (b as char).to_digit(16);
    match s {
        [b'%', a, b, ..] => Some((hex(*a)? * 16 + hex(*b)?) as u8),
        _ => None,
    }
}

/// Replaces runs of slashes by one.
pub fn merge_slashes(full: &[u8]) -> Vec<u8> {
    let (path, query) = split(full);
    let mut out = Vec::with_capacity(full.len());
    for &b in path {
        if b != b'/' || out.last() != Some(&b'/') {
            out.push(b);
        }
    }
    out.extend_from_slice(query);
    out
}

/// Turns `%2F` and `%5C` into slashes; `None` when there was none.
pub fn unescape_slashes(full: &[u8]) -> Option<Vec<u8>> {
    let (path, query) = split(full);
    let mut out = Vec::with_capacity(full.len());
    let (mut i, mut any) = (0, false);
    while i < path.len() {
        match escape(&path[i..]) {
            Some(c @ (b'/' | b'\\')) => {
                out.push(c);
                any = true;
                i += 3;
            }
            _ => {
                out.push(path[i]);
                i += 1;
            }
        }
    }
    out.extend_from_slice(query);
    any.then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_paths() {
        let check = |input: &str, expect: &str| {
            let got = canonical(input.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(got).unwrap(), expect, "{input}");
        };
        check("/", "/");
        check("/a/b", "/a/b");
        check("/a/./b", "/a/b");
        check("/a/../b", "/b");
        check("/../../b", "/b");
        check("/a/..", "/");
        check("/a/b/..", "/a/");
        check("/a/.", "/a/");
        check("/a//b", "/a//b");
        check("/a\\b", "/a/b");
        check("/%61%2e%2e/x", "/a../x");
        check("/a/%2e%2e/x", "/x");
        check("/a%2fb", "/a%2fb");
        check("/a?x=/../y", "/a?x=/../y");
        assert_eq!(canonical(b"/a%00"), None);
    }

    #[test]
    fn slashes() {
        assert_eq!(merge_slashes(b"//a///b?x=//"), b"/a/b?x=//");
        assert_eq!(unescape_slashes(b"/a%2Fb%5cc?%2f").unwrap(), b"/a/b\\c?%2f");
        assert_eq!(unescape_slashes(b"/a"), None);
    }
}
