//! How does a header block become bytes on an HTTP/1.1 connection?
//!
//! One pass over the fields, once per message. Pseudo headers become the start line and `host`.
//! What framing headers are needed is the caller's decision; this file writes what it is told.

use crate::head::Version;
use crate::{HeaderBlock, HeaderId};

/// Letter case of header names on the way out (`header_key_format`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeaderCase {
    /// Envoy's default.
    #[default]
    Lower,
    /// `proper_case_words`: first letter of each word upper case.
    Proper,
    /// The `preserve_case` formatter: as received, lower case for names that we added.
    Preserve,
}

/// The reason phrase after the status code.
#[derive(Clone, Copy, Debug, Default)]
pub enum Reason<'a> {
    /// The registered phrase, as Envoy writes it.
    #[default]
    Standard,
    /// This one (`forward_reason_phrase`).
    Custom(&'a [u8]),
}

/// Appends a request head, `extra` being further complete field lines (framing).
pub fn write_request_head(out: &mut Vec<u8>, block: &HeaderBlock, version: Version, case: HeaderCase, extra: &[u8]) {
    out.reserve(block.arena().len() + extra.len() + 64);
    out.extend_from_slice(block.method());
    out.push(b' ');
    match block.get_id(HeaderId::PATH) {
        Some(path) if block.method() != b"CONNECT" => out.extend_from_slice(path),
        _ => out.extend_from_slice(block.authority()),
    }
    out.extend_from_slice(match version {
        Version::Http10 => b" HTTP/1.0\r\n",
        Version::Http11 => b" HTTP/1.1\r\n",
    });
    if let Some(host) = block.get_id(HeaderId::AUTHORITY) {
        let name: &[u8] = if case == HeaderCase::Lower { b"host" } else { b"Host" };
        write_field(out, name, host);
    }
    write_fields(out, block, case);
    push_framing(out, extra, case);
    out.extend_from_slice(b"\r\n");
}

/// Appends a response head; the status is taken from `:status`.
pub fn write_response_head(
    out: &mut Vec<u8>,
    block: &HeaderBlock,
    version: Version,
    case: HeaderCase,
    reason: Reason<'_>,
    extra: &[u8],
) {
    out.reserve(block.arena().len() + extra.len() + 64);
    out.extend_from_slice(match version {
        Version::Http10 => b"HTTP/1.0 ",
        Version::Http11 => b"HTTP/1.1 ",
    });
    out.extend_from_slice(block.get_id(HeaderId::STATUS).unwrap_or(b"500"));
    out.push(b' ');
    match reason {
        Reason::Standard => out.extend_from_slice(reason_phrase(block.status().unwrap_or(0)).as_bytes()),
        Reason::Custom(r) => out.extend_from_slice(r),
    }
    out.extend_from_slice(b"\r\n");
    write_fields(out, block, case);
    push_framing(out, extra, case);
    out.extend_from_slice(b"\r\n");
}

/// Appends one framing line in the letter case in force.
fn push_framing(out: &mut Vec<u8>, line: &[u8], case: HeaderCase) {
    let start = out.len();
    out.extend_from_slice(line);
    if case == HeaderCase::Proper {
        let mut first = true;
        for b in out[start..].iter_mut().take_while(|b| **b != b':') {
            if first {
                b.make_ascii_uppercase();
            }
            first = !b.is_ascii_alphanumeric();
        }
    }
}

/// Appends a trailer section after the last chunk's size line, final empty line included.
pub fn write_trailers(out: &mut Vec<u8>, block: &HeaderBlock, case: HeaderCase) {
    write_fields(out, block, case);
    out.extend_from_slice(b"\r\n");
}

/// Appends one field line.
#[inline]
pub fn write_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends the size line of a chunk of `len` bytes.
pub fn push_chunk_head(out: &mut Vec<u8>, len: usize) {
    let digits = (usize::BITS - len.leading_zeros()).div_ceil(4).max(1);
    for i in (0..digits).rev() {
        out.push(b"0123456789abcdef"[len >> (4 * i) & 15]);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends a decimal number.
#[inline]
pub fn push_decimal(out: &mut Vec<u8>, n: u64) {
    let digit = |n: u64| b'0' + n as u8;
    match n {
        0..10 => out.push(digit(n)),
        10..100 => out.extend_from_slice(&[digit(n / 10), digit(n % 10)]),
        100..1000 => out.extend_from_slice(&[digit(n / 100), digit(n / 10 % 10), digit(n % 10)]),
        _ => push_long_decimal(out, n),
    }
}

fn push_long_decimal(out: &mut Vec<u8>, mut n: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn write_fields(out: &mut Vec<u8>, block: &HeaderBlock, case: HeaderCase) {
    for f in block.fields() {
        if f.dead || f.id.is_pseudo() {
            continue;
        }
        match case {
            HeaderCase::Lower => out.extend_from_slice(block.name_of(f)),
            HeaderCase::Preserve => out.extend_from_slice(block.raw_name_of(f)),
            HeaderCase::Proper => {
                let mut upper = true;
                for b in block.name_of(f) {
                    out.push(if upper { b.to_ascii_uppercase() } else { *b });
                    // Envoy: a letter after any character that is not a letter starts a word.
                    upper = !b.is_ascii_alphabetic();
                }
            }
        }
        out.extend_from_slice(b": ");
        out.extend_from_slice(block.value_of(f));
        out.extend_from_slice(b"\r\n");
    }
}

/// The phrase that Envoy writes for a status; `Unknown` for those it has none for.
pub fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        102 => "Processing",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        207 => "Multi-Status",
        208 => "Already Reported",
        226 => "IM Used",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        305 => "Use Proxy",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Payload Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Entity",
        423 => "Locked",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        506 => "Variant Also Negotiates",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        510 => "Not Extended",
        511 => "Network Authentication Required",
        _ => "Unknown",
    }
}
