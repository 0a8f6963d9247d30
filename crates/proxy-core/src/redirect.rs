//! Where does a redirect point? The `location` of a route's redirect and of `require_tls`.

use proxy_config::route::{PathMatch, Redirect, RedirectPath, SchemeRedirect};

use crate::HeaderView;
use crate::matcher::path_only;

/// The `location` value.
///
/// Follows `RouteEntryImplBase::newUri`: scheme, then host (without the old scheme's default port when the scheme
/// changes or a port is given), then path with query.
pub fn location<H: HeaderView + ?Sized>(r: &Redirect, m: &PathMatch, headers: &H) -> Vec<u8> {
    let scheme: &[u8] = match &r.scheme {
        Some(SchemeRedirect::Https) => b"https",
        Some(SchemeRedirect::Scheme(s)) => s.as_bytes(),
        None => headers.scheme(),
    };
    let host: &[u8] = match &r.host {
        Some(h) => h.as_bytes(),
        None => request_host(headers, scheme, r.port.is_some()),
    };
    let mut out = Vec::with_capacity(64);
    out.extend_from_slice(scheme);
    out.extend_from_slice(b"://");
    out.extend_from_slice(host);
    if let Some(port) = r.port {
        out.push(b':');
        out.extend_from_slice(port.to_string().as_bytes());
    }
    let before = out.len();
    path(r, m, headers.path(), &mut out);
    if out.get(before) != Some(&b'/') {
        out.insert(before, b'/');
    }
    out
}

/// The `location` of a virtual host that requires TLS.
pub fn to_https<H: HeaderView + ?Sized>(headers: &H) -> Vec<u8> {
    [b"https://", headers.authority(), headers.path()].concat()
}

fn request_host<'a, H: HeaderView + ?Sized>(headers: &'a H, scheme: &[u8], new_port: bool) -> &'a [u8] {
    let authority = headers.authority();
    let host = crate::route::without_port(authority);
    if host.len() == authority.len() {
        return authority;
    }
    let port = &authority[host.len()..];
    let old = headers.get(b"x-forwarded-proto").unwrap_or_else(|| headers.scheme());
    let default_port = old == b"https" && port == b":443" || old == b"http" && port == b":80";
    if new_port || (scheme != old && default_port) { host } else { authority }
}

fn path(r: &Redirect, m: &PathMatch, full: &[u8], out: &mut Vec<u8>) {
    let only = path_only(full);
    let query = if r.strip_query { b"" } else { &full[only.len()..] };
    match &r.path {
        RedirectPath::Keep => {
            out.extend_from_slice(only);
            out.extend_from_slice(query);
        }
        RedirectPath::Replace(p) => {
            out.extend_from_slice(p.as_bytes());
            if !p.contains('?') {
                out.extend_from_slice(query);
            }
        }
        RedirectPath::Prefix(p) => {
            out.extend_from_slice(&crate::rewrite::prefix(m, only, p.as_bytes()));
            out.extend_from_slice(query);
        }
        RedirectPath::Regex(x) => {
            out.extend_from_slice(&x.apply(only));
            out.extend_from_slice(query);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header_view::HeaderList;

    fn none() -> Redirect {
        Redirect { scheme: None, host: None, port: None, path: RedirectPath::Keep, status: 301, strip_query: false }
    }

    fn check(r: Redirect, m: PathMatch, authority: &str, path: &str, expect: &str) {
        let h = HeaderList::of(&[
            (":authority", authority),
            (":path", path),
            (":scheme", "http"),
            ("x-forwarded-proto", "http"),
        ]);
        assert_eq!(String::from_utf8(location(&r, &m, &h)).unwrap(), expect);
    }

    #[test]
    fn locations() {
        let https = Redirect { scheme: Some(SchemeRedirect::Https), ..none() };
        check(https.clone(), PathMatch::Any, "a.com", "/p?q=1", "https://a.com/p?q=1");
        check(https.clone(), PathMatch::Any, "a.com:80", "/p", "https://a.com/p");
        check(https, PathMatch::Any, "a.com:8080", "/p", "https://a.com:8080/p");
        check(Redirect { port: Some(8), ..none() }, PathMatch::Any, "a.com:80", "/", "http://a.com:8/");
        check(Redirect { host: Some("b.com".into()), ..none() }, PathMatch::Any, "a.com", "/p", "http://b.com/p");
        check(
            Redirect { path: RedirectPath::Replace("/n".into()), ..none() },
            PathMatch::Any,
            "a",
            "/p?q",
            "http://a/n?q",
        );
        check(
            Redirect { path: RedirectPath::Replace("/n?z".into()), ..none() },
            PathMatch::Any,
            "a",
            "/p?q",
            "http://a/n?z",
        );
        check(Redirect { strip_query: true, ..none() }, PathMatch::Any, "a", "/p?q", "http://a/p");
        check(
            Redirect { path: RedirectPath::Prefix("/n".into()), ..none() },
            PathMatch::Prefix("/p".into()),
            "[::1]:80",
            "/p/x?q",
            "http://[::1]:80/n/x?q",
        );
    }
}
