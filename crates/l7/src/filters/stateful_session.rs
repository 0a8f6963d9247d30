//! Which host does a session stick to? Envoy's `stateful_session`, with cookies or a header.
//!
//! The host is named in what the client sends back; the router prefers it to what balancing would say.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http1::HeaderId;

use proxy_config::Name;
use proxy_config::filters::FilterOverride;
use proxy_config::filters::http::{self as config, SessionState};
use proxy_core::matcher::{cookie_value, path_only};

use super::{FilterCx, FilterState, Step};
use crate::exchange::{Exchange, OverrideHost};

/// The filter of one chain.
pub struct StatefulSession {
    /// Its options.
    pub config: Arc<config::StatefulSession>,
}

/// A session in progress.
pub struct Session {
    config: Arc<config::StatefulSession>,
    /// The host that the client named.
    named: Option<String>,
}

/// What a session cookie holds.
#[derive(Clone, PartialEq, prost::Message)]
struct Cookie {
    #[prost(string, tag = "1")]
    address: String,
    #[prost(int64, tag = "2")]
    expires: i64,
}

impl StatefulSession {
    /// Reads which host the session has.
    pub fn on_request(&self, cx: &FilterCx<'_>, ex: &mut Exchange, over: Option<&FilterOverride>) -> Step {
        let config = match over {
            Some(FilterOverride::StatefulSession(c)) => c,
            _ => &self.config,
        };
        let named = match &config.state {
            None => return Step::Continue,
            Some(SessionState::Cookie { name, path, .. }) => {
                if !path_fits(path, path_only(ex.request.path())) {
                    return Step::Continue;
                }
                let now = cx.conn.worker.wall(tokio::time::Instant::now());
                let now = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
                cookie_value(&ex.request, name.as_bytes()).and_then(|v| of_cookie(v, now))
            }
            Some(SessionState::Header(name)) => {
                let value = ex.request.get(name.as_str().as_bytes());
                value.and_then(|v| String::from_utf8(STANDARD.decode(v).ok()?).ok()).filter(|a| !a.is_empty())
            }
        };
        ex.override_host =
            named.as_deref().map(|host| Box::new(OverrideHost { host: host.into(), strict: config.strict }));
        ex.filters.push(FilterState::Session(Box::new(Session { config: config.clone(), named })));
        Step::Continue
    }
}

/// Tells the client its host, when that is new.
pub fn on_response(cx: &FilterCx<'_>, ex: &mut Exchange) {
    let Some(host) = ex.upstream.host.as_ref().map(|h| h.text.clone()) else { return };
    let Some(FilterState::Session(session)) = ex.filters.iter().find(|s| matches!(s, FilterState::Session(_))) else {
        return;
    };
    if session.named.as_deref() == Some(&*host) {
        return;
    }
    match &session.config.state {
        Some(SessionState::Cookie { name, path, ttl, attributes }) => {
            let now = cx.conn.worker.wall(tokio::time::Instant::now());
            let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
            let cookie = set_cookie(name, path, *ttl, attributes, &host, now);
            ex.response.add_id(HeaderId::SET_COOKIE, cookie.as_bytes());
        }
        Some(SessionState::Header(name)) => {
            let name = name.as_str().as_bytes().to_vec();
            ex.response.set(&name, STANDARD.encode(host.as_bytes()).as_bytes());
        }
        None => {}
    }
}

/// The host in a cookie that has not expired. Old cookies hold the address alone.
fn of_cookie(value: &[u8], now: i64) -> Option<String> {
    let bytes = STANDARD.decode(value).ok().filter(|b| !b.is_empty())?;
    match <Cookie as prost::Message>::decode(&*bytes) {
        Ok(c) if c.address.is_empty() || c.expires != 0 && c.expires < now => None,
        Ok(c) => Some(c.address),
        Err(_) => String::from_utf8(bytes).ok(),
    }
}

fn set_cookie(name: &str, path: &str, ttl: Duration, attributes: &[(Name, Name)], host: &str, now: Duration) -> String {
    let expires = if ttl.is_zero() { 0 } else { (now + ttl).as_secs() as i64 };
    let cookie = Cookie { address: host.to_owned(), expires };
    let value = STANDARD.encode(prost::Message::encode_to_vec(&cookie));
    let mut out = format!("{name}=\"{value}\"");
    if !ttl.is_zero() {
        out.push_str(&format!("; Max-Age={}", ttl.as_secs()));
    }
    if !path.is_empty() {
        out.push_str(&format!("; Path={path}"));
    }
    for (key, value) in attributes {
        out.push_str(&if value.is_empty() { format!("; {key}") } else { format!("; {key}={value}") });
    }
    out.push_str("; HttpOnly");
    out
}

/// RFC 6265, 5.1.4: the cookie's path covers the request's.
fn path_fits(cookie: &str, path: &[u8]) -> bool {
    let cookie = cookie.as_bytes();
    if cookie.is_empty() || cookie == b"/" {
        return true;
    }
    path.strip_prefix(cookie).is_some_and(|rest| cookie.ends_with(b"/") || rest.is_empty() || rest[0] == b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_there_and_back() {
        let text = set_cookie(
            "s",
            "/p",
            Duration::from_secs(60),
            &[("Secure".into(), "".into())],
            "1.2.3.4:80",
            Duration::from_secs(100),
        );
        let value = text.strip_prefix("s=\"").unwrap().split('"').next().unwrap();
        assert!(text.ends_with("\"; Max-Age=60; Path=/p; Secure; HttpOnly"), "{text}");
        assert_eq!(of_cookie(value.as_bytes(), 159).as_deref(), Some("1.2.3.4:80"));
        assert_eq!(of_cookie(value.as_bytes(), 161), None);
        assert_eq!(of_cookie(STANDARD.encode("1.2.3.4:80").as_bytes(), 0).as_deref(), Some("1.2.3.4:80"));
        assert_eq!(of_cookie(b"$", 0), None);
    }

    #[test]
    fn paths() {
        let check = |cookie: &str, path: &str, expect: bool| assert_eq!(path_fits(cookie, path.as_bytes()), expect);
        check("/", "/a", true);
        check("/a", "/a", true);
        check("/a", "/a/b", true);
        check("/a", "/ab", false);
        check("/a/", "/a/b", true);
    }
}
