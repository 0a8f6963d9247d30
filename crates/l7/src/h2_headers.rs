//! How do header blocks and the `h2` crate's header maps turn into each other?

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http1::{HeaderBlock, HeaderId};

/// Appends the fields of a map.
pub fn append(block: &mut HeaderBlock, map: &HeaderMap) {
    for (name, value) in map {
        block.add(name.as_str().as_bytes(), value.as_bytes());
    }
}

/// The ordinary fields as a map. Fields that HTTP/2 cannot carry (connection-specific ones, invalid
/// names) are left out.
pub fn map(block: &HeaderBlock) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(block.len());
    for (name, value) in block {
        if name.first() == Some(&b':') || hop_by_hop(name) {
            continue;
        }
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) else {
            continue;
        };
        map.append(name, value);
    }
    map
}

fn hop_by_hop(name: &[u8]) -> bool {
    matches!(name, b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade" | b"host")
}

/// Reads a request head. Returns false when it is not one that can be forwarded.
pub fn read_request(head: &http::request::Parts, block: &mut HeaderBlock) {
    block.clear();
    block.add_id(HeaderId::METHOD, head.method.as_str().as_bytes());
    let protocol = head.extensions.get::<h2::ext::Protocol>();
    if head.method != Method::CONNECT || protocol.is_some() {
        let path = head.uri.path_and_query().map_or("/", |p| p.as_str());
        block.add_id(HeaderId::PATH, path.as_bytes());
    }
    if let Some(a) = head.uri.authority() {
        block.add_id(HeaderId::AUTHORITY, a.as_str().as_bytes());
    } else if let Some(host) = head.headers.get(http::header::HOST) {
        block.add_id(HeaderId::AUTHORITY, host.as_bytes());
    }
    if let Some(s) = head.uri.scheme_str() {
        block.add_id(HeaderId::SCHEME, s.as_bytes());
    }
    if let Some(p) = protocol {
        block.add_id(HeaderId::PROTOCOL, p.as_str().as_bytes());
    }
    let mut cookies = 0;
    for (name, value) in &head.headers {
        if name == http::header::HOST {
            continue;
        }
        if name == http::header::COOKIE {
            // RFC 9113 8.2.3: cookie crumbs are joined.
            block.append_id(HeaderId::COOKIE, b"; ", value.as_bytes());
            cookies += 1;
            continue;
        }
        block.add(name.as_str().as_bytes(), value.as_bytes());
    }
    let _ = cookies;
}

/// Builds a request head for the `h2` crate; `None` when the block cannot be one.
pub fn request(block: &HeaderBlock) -> Option<Request<()>> {
    let mut request = Request::new(());
    *request.version_mut() = Version::HTTP_2;
    *request.method_mut() = Method::from_bytes(block.method()).ok()?;
    let protocol = block.get_id(HeaderId::PROTOCOL);
    let mut uri = Uri::builder();
    let authority = block.authority();
    if request.method() == Method::CONNECT && protocol.is_none() {
        uri = uri.authority(authority);
    } else {
        let scheme: &[u8] = if block.scheme().is_empty() { b"http" } else { block.scheme() };
        uri = uri.scheme(scheme).authority(authority).path_and_query(block.path());
    }
    *request.uri_mut() = uri.build().ok()?;
    *request.headers_mut() = map(block);
    if let Some(p) = protocol.and_then(|p| std::str::from_utf8(p).ok()) {
        request.extensions_mut().insert(h2::ext::Protocol::from(p));
    }
    Some(request)
}

/// Reads a response head.
pub fn read_response(head: &http::response::Parts, block: &mut HeaderBlock) {
    block.clear();
    block.set_status(head.status.as_u16());
    append(block, &head.headers);
}

/// Builds a response head for the `h2` crate.
pub fn response(block: &HeaderBlock) -> Response<()> {
    let mut response = Response::new(());
    *response.version_mut() = Version::HTTP_2;
    *response.status_mut() =
        block.status().and_then(|s| StatusCode::from_u16(s).ok()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    *response.headers_mut() = map(block);
    response
}
