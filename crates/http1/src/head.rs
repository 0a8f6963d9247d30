//! What does a request or response head say, and is it unambiguous?
//!
//! `httparse` tokenises; this file adds the rules that stop request smuggling and maps each refusal
//! to Envoy's status and response-code details. Never laxer than Envoy's codec: line ends are CRLF
//! only, `content-length` at most once, never beside `transfer-encoding`, `chunked` alone.

use crate::scan::{HeadScanner, Scan};
use crate::{HeaderBlock, HeaderId};
use std::mem::MaybeUninit;

/// Headers that fit on the stack while parsing; a larger configured limit parses on the heap.
const STACK_HEADERS: usize = 128;
/// The most header fields that a configuration may allow.
const HEADERS_MAX: usize = 8192;
/// `connection` may nominate fewer than this many headers (Envoy's MAX_ALLOWED_NOMINATED_HEADERS).
const NOMINATED_HEADERS_MAX: usize = 10;
/// `te` may be at most this long when nominated (Envoy's MAX_ALLOWED_TE_VALUE_SIZE).
const TE_VALUE_BYTES_MAX: usize = 256;

/// Limits on one head, as in `max_request_headers_kb` and `max_headers_count`.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the whole head, request line included.
    pub head_bytes: usize,
    /// Number of header fields.
    pub headers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { head_bytes: 60 << 10, headers: 100 }
    }
}

/// What to do with header names that contain an underscore (`headers_with_underscores_action`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Underscore {
    /// Pass them on.
    #[default]
    Allow,
    /// Refuse the request with 400.
    Reject,
    /// Drop the header.
    Drop,
}

/// How a request head is judged.
#[derive(Clone, Copy, Debug)]
pub struct RequestOptions {
    /// Size limits.
    pub limits: Limits,
    /// Underscores in names.
    pub underscore: Underscore,
    /// Accept HTTP/1.0 requests; otherwise 426.
    pub accept_http_10: bool,
    /// Accept `GET http://host/path`.
    pub allow_absolute_url: bool,
    /// Keep the letter case of names for the way out.
    pub preserve_case: bool,
    /// `transfer-encoding: chunked` beside `content-length` drops the length instead of refusing.
    pub allow_chunked_length: bool,
    /// Accept methods outside Envoy's list.
    pub allow_custom_methods: bool,
}

impl Default for RequestOptions {
    fn default() -> Self {
        RequestOptions {
            limits: Limits::default(),
            underscore: Underscore::Allow,
            accept_http_10: false,
            allow_absolute_url: true,
            preserve_case: false,
            allow_chunked_length: false,
            allow_custom_methods: false,
        }
    }
}

/// How a response head is judged.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResponseOptions {
    /// Size limits.
    pub limits: Limits,
    /// Keep the letter case of names for the way out.
    pub preserve_case: bool,
    /// The request was HEAD: whatever the head says, no body follows.
    pub head_request: bool,
    /// The request was CONNECT: 2xx starts a tunnel.
    pub connect_request: bool,
}

/// Protocol version of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// How the body that follows a head is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// No body.
    None,
    /// Exactly that many bytes, not 0.
    Length(u64),
    /// Chunked transfer coding.
    Chunked,
    /// Until the connection closes (responses only).
    UntilClose,
    /// Raw bytes in both directions until close: upgrade or CONNECT.
    Tunnel,
}

/// A parsed request head; the fields themselves are in the [`HeaderBlock`].
#[derive(Clone, Copy, Debug)]
pub struct RequestHead {
    /// Bytes of input that belong to the head.
    pub consumed: usize,
    /// Version of the request.
    pub version: Version,
    /// Body framing.
    pub body: BodyKind,
    /// The client wants the connection kept.
    pub keep_alive: bool,
    /// `expect: 100-continue` was sent.
    pub expect_continue: bool,
    /// `connection: upgrade` with an `upgrade` header (h2c excluded).
    pub upgrade: bool,
    /// At least one header with an underscore was dropped.
    pub underscore_dropped: bool,
}

/// A parsed response head; the fields themselves are in the [`HeaderBlock`].
#[derive(Clone, Copy, Debug)]
pub struct ResponseHead {
    /// Bytes of input that belong to the head.
    pub consumed: usize,
    /// Version of the response.
    pub version: Version,
    /// Status code, 100..=999.
    pub status: u16,
    /// Body framing.
    pub body: BodyKind,
    /// The server keeps the connection.
    pub keep_alive: bool,
}

/// Why a head was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Not HTTP/1: bad line, bad name, bare CR or LF, NUL, obs-fold, bad version.
    #[error("malformed message head")]
    Malformed,
    /// The request target is not one of the four forms.
    #[error("invalid request target")]
    InvalidUrl,
    /// Absolute form with a scheme other than http or https.
    #[error("invalid scheme")]
    InvalidScheme,
    /// More header fields than allowed.
    #[error("too many headers")]
    TooManyHeaders,
    /// More header bytes than allowed.
    #[error("headers too large")]
    TooLarge,
    /// A header name has an underscore and the action is to reject.
    #[error("header name with underscore")]
    Underscore,
    /// Bad or repeated `content-length`.
    #[error("invalid content-length")]
    InvalidContentLength,
    /// `content-length` beside `transfer-encoding`.
    #[error("both content-length and transfer-encoding")]
    LengthAndChunked,
    /// `transfer-encoding` other than `chunked`, or repeated.
    #[error("unsupported transfer-encoding")]
    InvalidTransferEncoding,
    /// `transfer-encoding` where none may be (CONNECT, HTTP/1.0, 1xx, 204).
    #[error("transfer-encoding not allowed")]
    TransferEncodingNotAllowed,
    /// `content-length` on CONNECT.
    #[error("content-length not allowed")]
    ContentLengthNotAllowed,
    /// `connection` nominates what must not be removed.
    #[error("connection header rejected")]
    ConnectionHeader,
    /// More than one `host`.
    #[error("more than one host")]
    HostTwice,
    /// `host` has characters that no authority has.
    #[error("invalid host")]
    InvalidHost,
    /// HTTP/1.0 and it is not accepted.
    #[error("HTTP version too low")]
    LowVersion,
}

impl HeadError {
    /// Status of the local reply.
    pub fn status(self) -> u16 {
        match self {
            HeadError::TooManyHeaders | HeadError::TooLarge => 431,
            HeadError::InvalidTransferEncoding => 501,
            HeadError::LowVersion => 426,
            _ => 400,
        }
    }

    /// Envoy's response code details.
    pub fn details(self) -> &'static str {
        match self {
            HeadError::Malformed => "http1.codec_error",
            HeadError::InvalidUrl => "http1.invalid_url",
            HeadError::InvalidScheme => "http1.invalid_scheme",
            HeadError::TooManyHeaders => "http1.too_many_headers",
            HeadError::TooLarge => "http1.headers_too_large",
            HeadError::Underscore => "http1.unexpected_underscore",
            HeadError::InvalidContentLength => "http1.codec_error",
            HeadError::LengthAndChunked => "http1.content_length_and_chunked_not_allowed",
            HeadError::InvalidTransferEncoding => "http1.invalid_transfer_encoding",
            HeadError::TransferEncodingNotAllowed => "http1.transfer_encoding_not_allowed",
            HeadError::ContentLengthNotAllowed => "http1.content_length_not_allowed",
            HeadError::ConnectionHeader => "http1.connection_header_rejected",
            HeadError::HostTwice => "http1.codec_error",
            HeadError::InvalidHost => "http1.invalid_characters",
            HeadError::LowVersion => "low_version",
        }
    }
}

/// Length of the empty lines (CRLF) before a message, which are ignored.
fn leading_empty_lines(input: &[u8]) -> usize {
    let mut n = 0;
    while input[n..].starts_with(b"\r\n") {
        n += 2;
    }
    n
}

/// Parses one request head from the start of `input` into `block`.
///
/// `Ok(None)`: more bytes are needed (call again with a longer `input` and the same scanner).
/// Empty lines before the request line are skipped and counted in `consumed`.
///
/// Follows: RFC 9112; Envoy 1.40's balsa codec, `Http1ProtocolOptions`. Differs: bare LF is refused.
pub fn parse_request(
    input: &[u8],
    scanner: &mut HeadScanner,
    options: &RequestOptions,
    block: &mut HeaderBlock,
) -> Result<Option<RequestHead>, HeadError> {
    let skip = leading_empty_lines(input);
    if skip > options.limits.head_bytes {
        return Err(HeadError::TooLarge);
    }
    let input = &input[skip..];
    if input == b"\r" {
        // Half of an empty line: what was scanned must not belong to what will be skipped.
        return Ok(None);
    }
    let end = match scanner.scan(input)? {
        Scan::Complete(end) if end > options.limits.head_bytes => return Err(HeadError::TooLarge),
        Scan::Complete(end) => end,
        Scan::Partial { new_line } => {
            if input.len() > options.limits.head_bytes {
                return Err(HeadError::TooLarge);
            }
            if new_line || scanner.lines == 0 {
                precheck_request(input, &options.limits)?;
            }
            return Ok(None);
        }
    };
    let head = &input[..end];
    let mut parsed = with_headers(options.limits.headers, |storage| {
        let mut r = httparse::Request::new(&mut []);
        match r.parse_with_uninit_headers(head, storage) {
            Ok(httparse::Status::Complete(n)) if n == head.len() => {}
            Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooManyHeaders),
            _ => return Err(HeadError::Malformed),
        }
        let version = match r.version {
            Some(0) => Version::Http10,
            _ => Version::Http11,
        };
        let (method, target) = (r.method.unwrap_or(""), r.path.unwrap_or(""));
        if !options.allow_custom_methods && !known_method(method) {
            return Err(HeadError::Malformed);
        }
        block.clear();
        block.arena_mut().extend_from_slice(head);
        let from_target = push_target(block, method, target, head, options)?;
        let mut parsed = RequestHead {
            consumed: skip + end,
            version,
            body: BodyKind::None,
            keep_alive: version == Version::Http11,
            expect_continue: false,
            upgrade: false,
            underscore_dropped: false,
        };
        let mut hosts = 0;
        for h in r.headers.iter() {
            if options.underscore != Underscore::Allow && h.name.contains('_') {
                if options.underscore == Underscore::Reject {
                    return Err(HeadError::Underscore);
                }
                parsed.underscore_dropped = true;
                continue;
            }
            if h.name.len() == 4 && h.name.eq_ignore_ascii_case("host") {
                hosts += 1;
                if hosts > 1 {
                    return Err(HeadError::HostTwice);
                }
                let host = h.value.trim_ascii();
                if !host.is_empty() && !valid_authority(host) {
                    return Err(HeadError::InvalidHost);
                }
                if from_target {
                    continue;
                }
            }
            push_header(block, head, h, options.preserve_case, true);
        }
        Ok(parsed)
    })?;
    judge_request(block, options, &mut parsed)?;
    Ok(Some(parsed))
}

/// Parses one response head from the start of `input` into `block`; same contract as
/// [`parse_request`].
pub fn parse_response(
    input: &[u8],
    scanner: &mut HeadScanner,
    options: &ResponseOptions,
    block: &mut HeaderBlock,
) -> Result<Option<ResponseHead>, HeadError> {
    let end = match scanner.scan(input)? {
        Scan::Complete(end) if end > options.limits.head_bytes => return Err(HeadError::TooLarge),
        Scan::Complete(end) => end,
        Scan::Partial { .. } => {
            if input.len() > options.limits.head_bytes {
                return Err(HeadError::TooLarge);
            }
            if scanner.lines == 0 && !b"HTTP/1.".starts_with(&input[..input.len().min(7)]) {
                return Err(HeadError::Malformed);
            }
            return Ok(None);
        }
    };
    let head = &input[..end];
    let mut parsed = with_headers(options.limits.headers, |storage| {
        let mut r = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        match config.parse_response_with_uninit_headers(&mut r, head, storage) {
            Ok(httparse::Status::Complete(n)) if n == head.len() => {}
            Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooManyHeaders),
            _ => return Err(HeadError::Malformed),
        }
        let version = match r.version {
            Some(0) => Version::Http10,
            _ => Version::Http11,
        };
        let status = r.code.unwrap_or(0);
        if status < 100 {
            return Err(HeadError::Malformed);
        }
        block.clear();
        block.arena_mut().extend_from_slice(head);
        // The status digits follow "HTTP/1.x ".
        push_pseudo(block, HeaderId::STATUS, 9, 3);
        for h in r.headers.iter() {
            push_header(block, head, h, options.preserve_case, false);
        }
        Ok(ResponseHead {
            consumed: end,
            version,
            status,
            body: BodyKind::None,
            keep_alive: version == Version::Http11,
        })
    })?;
    judge_response(block, options, &mut parsed)?;
    Ok(Some(parsed))
}

/// Parses a complete trailer section (field lines and the final empty line).
pub fn parse_trailers(input: &[u8], limits: &Limits, block: &mut HeaderBlock) -> Result<(), HeadError> {
    block.clear();
    if input == b"\r\n" {
        return Ok(());
    }
    // httparse has no trailer parser for uninitialised storage; borrow a request line.
    let mut text = Vec::with_capacity(input.len() + 16);
    text.extend_from_slice(b"GET / HTTP/1.1\r\n");
    text.extend_from_slice(input);
    with_headers(limits.headers, |storage| {
        let mut r = httparse::Request::new(&mut []);
        match r.parse_with_uninit_headers(&text, storage) {
            Ok(httparse::Status::Complete(n)) if n == text.len() => {}
            Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooManyHeaders),
            _ => return Err(HeadError::Malformed),
        }
        for h in r.headers.iter() {
            block.add(h.name.as_bytes(), h.value);
        }
        Ok(())
    })
}

/// Whether `s` is an RFC 9110 token.
pub fn is_token(s: &[u8]) -> bool {
    !s.is_empty() && s.iter().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b))
}

fn with_headers<'b, R>(
    limit: usize,
    f: impl FnOnce(&mut [MaybeUninit<httparse::Header<'b>>]) -> Result<R, HeadError>,
) -> Result<R, HeadError> {
    if limit <= STACK_HEADERS {
        let mut storage = [const { MaybeUninit::uninit() }; STACK_HEADERS];
        f(&mut storage[..limit])
    } else {
        let mut storage = vec![MaybeUninit::uninit(); limit.min(HEADERS_MAX)];
        f(&mut storage)
    }
}

/// Refuses early what can no longer become a request, so that a peer speaking another protocol is
/// told at once. Runs once per received line, so a head costs at most `headers` such passes.
fn precheck_request(input: &[u8], limits: &Limits) -> Result<(), HeadError> {
    if input.is_empty() {
        return Ok(());
    }
    with_headers(limits.headers, |storage| {
        let mut r = httparse::Request::new(&mut []);
        match r.parse_with_uninit_headers(input, storage) {
            Ok(_) => Ok(()),
            Err(httparse::Error::TooManyHeaders) => Err(HeadError::TooManyHeaders),
            Err(_) => Err(HeadError::Malformed),
        }
    })
}

fn offset(head: &[u8], part: &[u8]) -> u32 {
    (part.as_ptr() as usize - head.as_ptr() as usize) as u32
}

fn push_header(block: &mut HeaderBlock, head: &[u8], h: &httparse::Header<'_>, preserve: bool, request: bool) {
    let value = h.value.trim_ascii();
    let value_off = if value.is_empty() { 0 } else { offset(head, value) };
    let name = h.name.as_bytes();
    block.push_received(offset(head, name), name.len(), value_off, value.len(), preserve, request);
}

/// Adds a pseudo header whose value is already in the arena.
fn push_pseudo(block: &mut HeaderBlock, id: HeaderId, value_off: u32, value_len: usize) {
    let name = id.name().as_bytes();
    let name_off = block.arena().len() as u32;
    block.arena_mut().extend_from_slice(name);
    block.push_field(name_off, name.len(), value_off, value_len, id, u32::MAX);
}

/// Methods that Envoy's codec accepts when custom methods are off.
fn known_method(m: &str) -> bool {
    matches!(m, "GET" | "POST" | "PUT" | "DELETE" | "HEAD" | "OPTIONS" | "PATCH" | "CONNECT" | "TRACE")
        || matches!(
            m,
            "ACL"
                | "BIND"
                | "CHECKOUT"
                | "COPY"
                | "LINK"
                | "LOCK"
                | "MERGE"
                | "MKACTIVITY"
                | "MKCALENDAR"
                | "MKCOL"
                | "MOVE"
                | "MSEARCH"
                | "M-SEARCH"
                | "NOTIFY"
                | "PROPFIND"
                | "PROPPATCH"
                | "PURGE"
                | "REBIND"
                | "REPORT"
                | "SEARCH"
                | "SOURCE"
                | "SUBSCRIBE"
                | "UNBIND"
                | "UNLINK"
                | "UNLOCK"
                | "UNSUBSCRIBE"
        )
}

/// Adds the pseudo headers that the request line gives. Returns whether it gave the authority.
fn push_target(
    block: &mut HeaderBlock,
    method: &str,
    target: &str,
    head: &[u8],
    options: &RequestOptions,
) -> Result<bool, HeadError> {
    push_pseudo(block, HeaderId::METHOD, offset(head, method.as_bytes()), method.len());
    let t = target.as_bytes();
    if t.is_empty() || !t.iter().all(|b| (0x21..=0x7e).contains(b)) {
        return Err(HeadError::InvalidUrl);
    }
    let at = offset(head, t);
    if method == "CONNECT" {
        if !valid_authority(t) || !host_and_port(t, true) {
            return Err(HeadError::InvalidUrl);
        }
        push_pseudo(block, HeaderId::AUTHORITY, at, t.len());
        return Ok(true);
    }
    if t[0] == b'/' || (t == b"*" && method == "OPTIONS") {
        push_pseudo(block, HeaderId::PATH, at, t.len());
        return Ok(false);
    }
    if !options.allow_absolute_url {
        // What is no path is refused where paths are judged.
        push_pseudo(block, HeaderId::PATH, at, t.len());
        return Ok(false);
    }
    let colon = memchr::memmem::find(t, b"://").ok_or(HeadError::InvalidUrl)?;
    let scheme = &t[..colon];
    if !scheme.first().is_some_and(u8::is_ascii_alphabetic) {
        return Err(HeadError::InvalidUrl);
    }
    if !scheme.eq_ignore_ascii_case(b"http") && !scheme.eq_ignore_ascii_case(b"https") {
        return Err(HeadError::InvalidScheme);
    }
    let rest = &t[colon + 3..];
    let split = rest.iter().position(|b| matches!(b, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    // Whom a user's name is for is not told to the upstream.
    let user = memchr::memrchr(b'@', &rest[..split]).map_or(0, |n| n + 1);
    if !valid_authority(&rest[user..split]) || !host_and_port(&rest[user..split], false) {
        return Err(HeadError::InvalidUrl);
    }
    let rest_at = at + colon as u32 + 3;
    if split < rest.len() {
        push_pseudo(block, HeaderId::PATH, rest_at + split as u32, rest.len() - split);
    } else {
        block.add_id(HeaderId::PATH, b"/");
    }
    push_pseudo(block, HeaderId::AUTHORITY, rest_at + user as u32, split - user);
    // Only the lower-case form of the scheme is known further on.
    let scheme: &[u8] = if scheme.len() == 5 { b"https" } else { b"http" };
    block.add_id(HeaderId::SCHEME, scheme);
    Ok(true)
}

fn valid_authority(a: &[u8]) -> bool {
    !a.is_empty() && a.iter().all(|b| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:@[]".contains(b))
}

/// Whether it is a name, an IPv4 or a bracketed IPv6 address, then a port if there is a colon; `demanded`: there must be one.
fn host_and_port(authority: &[u8], demanded: bool) -> bool {
    let (host, port) = match authority.first() {
        Some(b'[') => match authority.iter().position(|b| *b == b']') {
            Some(end) => {
                let inside = std::str::from_utf8(&authority[1..end]).ok();
                if inside.and_then(|t| t.parse::<std::net::Ipv6Addr>().ok()).is_none() {
                    return false;
                }
                authority.split_at(end + 1)
            }
            None => return false,
        },
        _ => authority.split_at(authority.iter().position(|b| *b == b':').unwrap_or(authority.len())),
    };
    let digits = match port.split_first() {
        None => return !host.is_empty() && !demanded,
        Some((b':', digits)) => digits,
        Some(_) => return false,
    };
    let port = std::str::from_utf8(digits).ok().filter(|d| d.bytes().all(|b| b.is_ascii_digit()));
    !host.is_empty() && port.is_some_and(|p| p.parse::<u16>().is_ok())
}

fn judge_request(block: &mut HeaderBlock, options: &RequestOptions, head: &mut RequestHead) -> Result<(), HeadError> {
    let connect = block.method() == b"CONNECT";
    if head.version == Version::Http10 && !options.accept_http_10 {
        return Err(HeadError::LowVersion);
    }
    head.body = framing(block, head.version, options.allow_chunked_length)?;
    if connect {
        match head.body {
            BodyKind::Chunked => return Err(HeadError::TransferEncodingNotAllowed),
            BodyKind::Length(_) => return Err(HeadError::ContentLengthNotAllowed),
            _ => {
                block.remove_id(HeaderId::CONTENT_LENGTH);
                head.body = BodyKind::Tunnel;
            }
        }
    }
    if block.has(HeaderId::CONNECTION) {
        judge_connection(block, head)?;
    }
    if block.get_id(HeaderId::PROXY_CONNECTION).is_some_and(|v| v.eq_ignore_ascii_case(b"close")) {
        head.keep_alive = false;
    }
    if let Some(e) = block.get_id(HeaderId::EXPECT) {
        head.expect_continue = e.eq_ignore_ascii_case(b"100-continue");
    }
    Ok(())
}

/// Reads `connection`, and removes the headers that it nominates (Envoy's sanitizeConnectionHeader).
fn judge_connection(block: &mut HeaderBlock, head: &mut RequestHead) -> Result<(), HeadError> {
    let mut doomed: Vec<Vec<u8>> = Vec::new();
    let (mut upgrade, mut tokens) = (false, 0);
    for token in block.get_all(b"connection").flat_map(|v| v.split(|b| *b == b',')) {
        let token = token.trim_ascii();
        if token.is_empty() {
            continue;
        }
        tokens += 1;
        if tokens >= NOMINATED_HEADERS_MAX {
            return Err(HeadError::ConnectionHeader);
        }
        if token.eq_ignore_ascii_case(b"close") {
            head.keep_alive = false;
        } else if token.eq_ignore_ascii_case(b"keep-alive") {
            head.keep_alive |= head.version == Version::Http10;
        } else if token.eq_ignore_ascii_case(b"upgrade") {
            upgrade = true;
        } else if !token.eq_ignore_ascii_case(b"http2-settings") {
            doomed.push(token.to_ascii_lowercase());
        }
    }
    // `close` wins over `keep-alive` in whatever order they were sent.
    if block
        .get_all(b"connection")
        .flat_map(|v| v.split(|b| *b == b','))
        .any(|t| t.trim_ascii().eq_ignore_ascii_case(b"close"))
    {
        head.keep_alive = false;
    }
    for name in doomed {
        match &name[..] {
            b"x-forwarded-for" | b"x-forwarded-host" | b"x-forwarded-proto" => {
                return Err(HeadError::ConnectionHeader);
            }
            n if n.contains(&b':') => return Err(HeadError::ConnectionHeader),
            // Framing and routing were judged with these; they stay.
            b"host" | b"content-length" | b"transfer-encoding" => {
                return Err(HeadError::ConnectionHeader);
            }
            b"te" => {
                let te = block.get_id(HeaderId::TE).unwrap_or(b"");
                if te.len() > TE_VALUE_BYTES_MAX {
                    return Err(HeadError::ConnectionHeader);
                }
                let trailers = te.split(|b| *b == b',').any(|v| v.trim_ascii().eq_ignore_ascii_case(b"trailers"));
                if trailers {
                    block.set_id(HeaderId::TE, b"trailers");
                } else {
                    block.remove_id(HeaderId::TE);
                }
            }
            n => {
                block.remove(n);
            }
        }
    }
    if upgrade {
        match block.get_id(HeaderId::UPGRADE) {
            Some(u) if u.eq_ignore_ascii_case(b"h2c") => {
                block.remove_id(HeaderId::UPGRADE);
                block.remove(b"http2-settings");
            }
            Some(_) => head.upgrade = true,
            None => {}
        }
    }
    Ok(())
}

/// The one rule of body framing, for both directions.
fn framing(block: &mut HeaderBlock, version: Version, allow_chunked_length: bool) -> Result<BodyKind, HeadError> {
    if !block.has(HeaderId::CONTENT_LENGTH) && !block.has(HeaderId::TRANSFER_ENCODING) {
        return Ok(BodyKind::None);
    }
    let length = {
        let mut all = block.get_all(b"content-length");
        match (all.next(), all.next()) {
            (None, _) => None,
            (Some(v), None) => Some(parse_length(v).ok_or(HeadError::InvalidContentLength)?),
            _ => return Err(HeadError::InvalidContentLength),
        }
    };
    let mut all = block.get_all(b"transfer-encoding");
    match (all.next(), all.next()) {
        (None, _) => Ok(match length {
            None | Some(0) => BodyKind::None,
            Some(n) => BodyKind::Length(n),
        }),
        (Some(v), None) if v.eq_ignore_ascii_case(b"chunked") => {
            if version == Version::Http10 {
                return Err(HeadError::TransferEncodingNotAllowed);
            }
            if length.is_some() {
                if !allow_chunked_length {
                    return Err(HeadError::LengthAndChunked);
                }
                block.remove_id(HeaderId::CONTENT_LENGTH);
            }
            Ok(BodyKind::Chunked)
        }
        _ if length.is_some() => Err(HeadError::LengthAndChunked),
        _ => Err(HeadError::InvalidTransferEncoding),
    }
}

fn parse_length(v: &[u8]) -> Option<u64> {
    if v.is_empty() || v.len() > 20 {
        return None;
    }
    v.iter().try_fold(0u64, |n, b| match b {
        b'0'..=b'9' => n.checked_mul(10)?.checked_add((b - b'0') as u64),
        _ => None,
    })
}

fn judge_response(
    block: &mut HeaderBlock,
    options: &ResponseOptions,
    head: &mut ResponseHead,
) -> Result<(), HeadError> {
    let declared = framing(block, head.version, false)?;
    let explicit = block.has(HeaderId::CONTENT_LENGTH) || declared == BodyKind::Chunked;
    let informational = (100..200).contains(&head.status);
    if (informational || head.status == 204) && declared == BodyKind::Chunked {
        return Err(HeadError::TransferEncodingNotAllowed);
    }
    head.body = if head.status == 101 || (options.connect_request && head.status / 100 == 2) {
        BodyKind::Tunnel
    } else if informational || head.status == 204 || head.status == 304 || options.head_request {
        BodyKind::None
    } else if explicit {
        declared
    } else {
        BodyKind::UntilClose
    };
    for v in block.get_all(b"connection") {
        for token in v.split(|b| *b == b',') {
            let token = token.trim_ascii();
            if token.eq_ignore_ascii_case(b"close") {
                head.keep_alive = false;
            } else if token.eq_ignore_ascii_case(b"keep-alive") && head.version == Version::Http10 {
                head.keep_alive = true;
            }
        }
    }
    if head.body == BodyKind::UntilClose {
        head.keep_alive = false;
    }
    Ok(())
}
