//! What does this proxy answer by itself?
//!
//! A [`LocalReply`] is decided anywhere on the way of a request and sent by the stream. Bodies,
//! details and the gRPC form are Envoy's.

use std::borrow::Cow;
use std::sync::Arc;

use http1::{HeaderBlock, HeaderId, push_decimal};
use telemetry::access_log::ResponseFlags;

use crate::callout::wire::{Action, HeaderEdit};

/// A response made here.
#[derive(Clone, Debug, Default)]
pub struct LocalReply {
    /// HTTP status.
    pub status: u16,
    /// Response code details.
    pub details: Cow<'static, str>,
    /// Response flags to add.
    pub flags: ResponseFlags,
    /// Body text.
    pub body: Body,
    /// gRPC status when the request is gRPC; else derived from the HTTP status.
    pub grpc_status: Option<u32>,
    /// Headers to add.
    pub headers: Vec<(Cow<'static, str>, Vec<u8>)>,
    /// Changes to the head that a service asked for.
    pub edits: Vec<HeaderEdit>,
    /// The connection is closed after it (HTTP/1.1).
    pub close: bool,
    /// No filter sees it: they are done with the response that it replaces.
    pub direct: bool,
    /// Decided after a wait: a request body that arrived meanwhile is read first.
    pub after_wait: bool,
}

/// Body of a local reply.
#[derive(Clone, Debug, Default)]
pub enum Body {
    /// None.
    #[default]
    Empty,
    /// Fixed text.
    Static(&'static str),
    /// Shared bytes.
    Shared(Arc<[u8]>),
    /// Made for this reply.
    Owned(Vec<u8>),
}

impl Body {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Body::Empty => b"",
            Body::Static(s) => s.as_bytes(),
            Body::Shared(b) => b,
            Body::Owned(b) => b,
        }
    }
}

impl LocalReply {
    /// Status and details only; the connection is kept where that is possible.
    pub fn bare(status: u16, details: &'static str) -> Self {
        let close = status == 400;
        LocalReply { status, details: details.into(), close, ..Default::default() }
    }

    /// Status, body and details.
    pub fn text(status: u16, body: &'static str, details: &'static str) -> Self {
        let body = Body::Static(body);
        LocalReply { status, body, details: details.into(), ..Default::default() }
    }

    /// A redirect to `location`.
    pub fn redirect(status: u16, location: Vec<u8>, details: &'static str) -> Self {
        let headers = vec![("location".into(), location)];
        LocalReply { status, headers, details: details.into(), ..Default::default() }
    }

    /// A codec error: the reason phrase is the body and the connection is closed.
    pub fn protocol_error(status: u16, details: &'static str) -> Self {
        LocalReply {
            status,
            body: Body::Static(http1::reason_phrase(status)),
            details: details.into(),
            flags: ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR,
            close: true,
            ..Default::default()
        }
    }

    /// Adds flags.
    pub fn with_flags(mut self, flags: ResponseFlags) -> Self {
        self.flags.insert(flags);
        self
    }

    /// Writes the response head. Returns whether a body follows (not for gRPC).
    pub fn write_head(&self, grpc: bool, head_request: bool, block: &mut HeaderBlock) -> bool {
        block.clear();
        if grpc {
            block.set_status(200);
            block.add_id(HeaderId::CONTENT_TYPE, b"application/grpc");
            let mut digits = Vec::new();
            push_decimal(&mut digits, self.grpc_status.unwrap_or(grpc_status(self.status)) as u64);
            block.add_id(HeaderId::GRPC_STATUS, &digits);
            let body = self.body.as_bytes();
            if !body.is_empty() && !head_request {
                block.add_id(HeaderId::GRPC_MESSAGE, &percent_encode(body));
            }
            for (name, value) in &self.headers {
                block.set(name.as_bytes(), value);
            }
            self.edit(block);
            block.set_id(HeaderId::CONTENT_TYPE, b"application/grpc");
            return false;
        }
        block.set_status(self.status);
        let body = self.body.as_bytes();
        if !body.is_empty() {
            let mut digits = Vec::new();
            push_decimal(&mut digits, body.len() as u64);
            block.add_id(HeaderId::CONTENT_LENGTH, &digits);
            block.add_id(HeaderId::CONTENT_TYPE, b"text/plain");
        }
        for (name, value) in &self.headers {
            block.set(name.as_bytes(), value);
        }
        self.edit(block);
        if body.is_empty() {
            // What another says of its body does not hold for none.
            block.remove_id(HeaderId::CONTENT_LENGTH);
            block.remove_id(HeaderId::CONTENT_TYPE);
        }
        !body.is_empty()
    }

    /// Headers that are set replace those of their name, also when there are several of one name.
    fn edit(&self, block: &mut HeaderBlock) {
        let fits = |e: &&HeaderEdit| e.is_valid() && !e.name.starts_with(b":");
        for e in self.edits.iter().filter(fits).filter(|e| e.action == Action::Set) {
            block.remove(&e.name);
        }
        for e in self.edits.iter().filter(fits) {
            match e.action {
                Action::Set => block.add(&e.name, &e.value),
                _ => e.apply(block),
            }
        }
    }
}

/// gRPC status for an HTTP status (`Utility::httpToGrpcStatus`).
pub fn grpc_status(http: u16) -> u32 {
    match http {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// HTTP status for a gRPC status (`Utility::grpcToHttpStatus`).
pub fn http_status(grpc: u32) -> u16 {
    match grpc {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}

/// Percent-encoding of `grpc-message`.
pub fn percent_encode(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for &b in text {
        if (0x20..0x7f).contains(&b) && b != b'%' {
            out.push(b);
        } else {
            out.push(b'%');
            out.push(b"0123456789ABCDEF"[(b >> 4) as usize]);
            out.push(b"0123456789ABCDEF"[(b & 15) as usize]);
        }
    }
    out
}
