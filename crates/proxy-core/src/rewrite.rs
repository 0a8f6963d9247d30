//! What do path and authority become on the way upstream?

use std::borrow::Cow;

use proxy_config::route::{Forward, HostRewrite, PathMatch, PathRewrite, TemplatePart};

use crate::facts::Facts;
use crate::matcher::path_only;
use crate::{HeaderEdit, HeaderView, format};

/// The length of `path` (without query) that the matcher matched, for prefix rewrites.
fn matched_len(m: &PathMatch, path: &[u8]) -> usize {
    match m {
        PathMatch::Any => 1.min(path.len()),
        PathMatch::Prefix(p) | PathMatch::PrefixNoCase(p) | PathMatch::Separated(p) | PathMatch::SeparatedNoCase(p) => {
            p.len().min(path.len())
        }
        PathMatch::Exact(_)
        | PathMatch::ExactNoCase(_)
        | PathMatch::Regex(_)
        | PathMatch::Template(_)
        | PathMatch::Connect => path.len(),
    }
}

/// Replaces what the matcher matched with `prefix`; the query stays.
pub fn prefix(m: &PathMatch, full: &[u8], prefix: &[u8]) -> Vec<u8> {
    let at = matched_len(m, path_only(full));
    [prefix, &full[at..]].concat()
}

/// The new `:path`, or `None` when the route rewrites nothing.
pub fn path(forward: &Forward, m: &PathMatch, full: &[u8], facts: &Facts<'_>) -> Option<Vec<u8>> {
    let only = path_only(full);
    let query = &full[only.len()..];
    match &forward.path_rewrite {
        PathRewrite::None => None,
        PathRewrite::Prefix(p) => Some(prefix(m, full, p.as_bytes())),
        PathRewrite::Regex(r) => Some([&r.apply(only)[..], query].concat()),
        PathRewrite::Format(f) => {
            let mut out = Vec::new();
            format::header_value(f, facts, &mut out);
            Some(out)
        }
        PathRewrite::Template(parts) => {
            let PathMatch::Template(t) = m else {
                return None;
            };
            let captures = t.regex.captures(only)?;
            let mut out = Vec::new();
            for part in parts {
                match part {
                    TemplatePart::Text(text) => out.extend_from_slice(text.as_bytes()),
                    TemplatePart::Var(name) => {
                        out.extend_from_slice(captures.name(name).map_or(&b""[..], |c| c.as_bytes()))
                    }
                }
            }
            out.extend_from_slice(query);
            Some(out)
        }
    }
}

/// The new authority, or `None` when it stays. `Auto` takes the chosen host's name, which the caller knows only later:
/// pass it as `host_name` then, empty before.
pub fn host<'a, H: HeaderView + ?Sized>(
    rewrite: &'a HostRewrite,
    headers: &'a H,
    host_name: &'a str,
    facts: &Facts<'_>,
) -> Option<Cow<'a, [u8]>> {
    match rewrite {
        HostRewrite::None => None,
        HostRewrite::Literal(l) => Some(Cow::Borrowed(l.as_bytes())),
        HostRewrite::Auto => (!host_name.is_empty()).then_some(Cow::Borrowed(host_name.as_bytes())),
        HostRewrite::Header(h) => headers.get(h.as_str().as_bytes()).filter(|v| !v.is_empty()).map(Cow::Borrowed),
        HostRewrite::PathRegex(r) => Some(Cow::Owned(r.apply(path_only(headers.path())))),
        HostRewrite::Format(f) => {
            let mut out = Vec::new();
            format::header_value(f, facts, &mut out);
            (!out.is_empty()).then_some(Cow::Owned(out))
        }
    }
}

/// Rewrites path and authority of the request as the route says.
///
/// Keeps the old path in `x-envoy-original-path` (unless suppressed) and the old authority in `x-forwarded-host` when
/// the route appends it. `weighted_host` is the chosen weighted cluster's own host rewrite. Call after header operations.
pub fn apply<H: HeaderEdit>(
    forward: &Forward,
    m: &PathMatch,
    weighted_host: Option<&str>,
    headers: &mut H,
    facts: &Facts<'_>,
    suppress_envoy_headers: bool,
) {
    let new_path = {
        let view: &dyn HeaderView = headers;
        let facts = Facts { request: Some(view), ..*facts };
        path(forward, m, headers.path(), &facts)
    };
    let new_host = match weighted_host {
        Some(h) => Some(h.as_bytes().to_vec()),
        None => {
            let view: &dyn HeaderView = headers;
            let facts = Facts { request: Some(view), ..*facts };
            host(&forward.host_rewrite, headers, "", &facts).map(Cow::into_owned)
        }
    };
    if let Some(new) = new_path {
        if !suppress_envoy_headers {
            let old = headers.path().to_vec();
            headers.set(b"x-envoy-original-path", &old);
        }
        headers.set(b":path", &new);
    }
    if let Some(new) = new_host {
        set_host(headers, &new, forward.append_x_forwarded_host);
    }
}

/// Replaces the authority, appending the old one to `x-forwarded-host` when asked.
pub fn set_host<H: HeaderEdit>(headers: &mut H, new: &[u8], append_x_forwarded_host: bool) {
    if append_x_forwarded_host {
        let old = headers.authority().to_vec();
        let value = match headers.get(b"x-forwarded-host") {
            Some(before) if !before.is_empty() => [before, b",", &old].concat(),
            _ => old,
        };
        headers.set(b"x-forwarded-host", &value);
    }
    headers.set(b":authority", new);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_rewrites() {
        let check = |m: PathMatch, full: &str, to: &str, expect: &str| {
            assert_eq!(String::from_utf8(prefix(&m, full.as_bytes(), to.as_bytes())).unwrap(), expect);
        };
        check(PathMatch::Prefix("/a".into()), "/a/b?q", "/x", "/x/b?q");
        check(PathMatch::Prefix("/a/".into()), "/a/b", "/", "/b");
        check(PathMatch::Any, "/a?q", "/x/", "/x/a?q");
        check(PathMatch::Exact("/a".into()), "/a?q", "/x", "/x?q");
        check(PathMatch::Separated("/a".into()), "/a/b", "/x", "/x/b");
        check(PathMatch::PrefixNoCase("/a".into()), "/A/b", "/x", "/x/b");
    }
}
