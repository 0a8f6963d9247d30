//! How do browsers call gRPC? Envoy's `GrpcWebFilter`: gRPC-Web over any HTTP to gRPC, and back.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http1::HeaderId;

use super::grpc_calls::{self, Calls};
use super::{FilterState, Step};
use crate::exchange::Exchange;

/// Flag of the frame that carries trailers in the body.
const TRAILER_FRAME: u8 = 0x80;

const TEXT: [&[u8]; 2] = [b"application/grpc-web-text", b"application/grpc-web-text+proto"];
const BINARY: [&[u8]; 2] = [b"application/grpc-web", b"application/grpc-web+proto"];

/// Translation of one call.
pub struct Translation {
    /// The request is in text.
    text: bool,
    /// The response is to be in text.
    answer_in_text: bool,
    active: bool,
    partial_request: Vec<u8>,
    partial_response: Vec<u8>,
    /// `grpc-status` of the trailers.
    status: Option<Vec<u8>>,
}

fn state(ex: &mut Exchange) -> Option<&mut Translation> {
    ex.filters.iter_mut().find_map(|s| match s {
        FilterState::GrpcWeb(t) if t.active => Some(t),
        _ => None,
    })
}

/// Turns a gRPC-Web request into gRPC.
pub fn on_request(ex: &mut Exchange) -> Step {
    let Some(kind) = ex.request.get_id(HeaderId::CONTENT_TYPE) else {
        return Step::Continue;
    };
    let text = TEXT.contains(&kind);
    if !text && !BINARY.contains(&kind) {
        return Step::Continue;
    }
    let answer_in_text = ex.request.get_id(HeaderId::ACCEPT).is_some_and(|a| TEXT.contains(&a));
    ex.request.set_id(HeaderId::CONTENT_TYPE, b"application/grpc");
    ex.request.remove_id(HeaderId::CONTENT_LENGTH);
    ex.request.set_id(HeaderId::TE, b"trailers");
    ex.request.set(b"grpc-accept-encoding", b"identity");
    ex.grpc = true;
    ex.taps_request |= text;
    ex.taps_response = true;
    ex.filters.push(FilterState::GrpcWeb(Translation {
        text,
        answer_in_text,
        active: true,
        partial_request: Vec::new(),
        partial_response: Vec::new(),
        status: None,
    }));
    Step::Continue
}

/// Decodes the text form.
pub fn on_request_data(ex: &mut Exchange, data: &mut Vec<u8>, end: bool) {
    let Some(t) = state(ex).filter(|t| t.text) else {
        return;
    };
    t.partial_request.append(data);
    let whole = if end { t.partial_request.len() } else { t.partial_request.len() / 4 * 4 };
    let input: Vec<u8> = t.partial_request.drain(..whole).collect();
    // Clients concatenate padded pieces; each ends with its own padding.
    for piece in input.chunks(4) {
        match STANDARD.decode(piece) {
            Ok(bytes) => data.extend_from_slice(&bytes),
            Err(_) => return,
        }
    }
}

/// Marks the response as gRPC-Web.
pub fn on_response(ex: &mut Exchange, end: bool) {
    let Some(t) = state(ex) else { return };
    let text = t.answer_in_text;
    if end {
        // Trailers-only: the status is already in the head.
        t.active = false;
    }
    let grpc = ex
        .response
        .get_id(HeaderId::CONTENT_TYPE)
        .is_some_and(|c| c.starts_with(b"application/grpc") && !c.starts_with(b"application/grpc-web"));
    if grpc {
        let kind: &[u8] = if text { b"application/grpc-web-text+proto" } else { b"application/grpc-web+proto" };
        ex.response.set_id(HeaderId::CONTENT_TYPE, kind);
        if !end {
            ex.response.remove_id(HeaderId::CONTENT_LENGTH);
        }
    } else if !end && let Some(t) = state(ex) {
        t.active = false;
    }
}

/// Encodes data, and trailers as the last frame.
pub fn on_response_data(ex: &mut Exchange, data: &mut Vec<u8>, end: bool) {
    if state(ex).is_none() {
        return;
    }
    if end && !ex.response_trailers.is_empty() {
        let mut frame = Vec::new();
        for (name, value) in &ex.response_trailers {
            frame.extend_from_slice(name);
            frame.push(b':');
            frame.extend_from_slice(value);
            frame.extend_from_slice(b"\r\n");
        }
        data.push(TRAILER_FRAME);
        data.extend_from_slice(&(frame.len() as u32).to_be_bytes());
        data.extend_from_slice(&frame);
        let status = ex.response_trailers.get_id(HeaderId::GRPC_STATUS).map(<[u8]>::to_vec);
        if let Some(t) = state(ex) {
            t.status = status;
        }
        ex.response_trailers.clear();
    }
    let Some(t) = state(ex).filter(|t| t.answer_in_text) else {
        return;
    };
    t.partial_response.append(data);
    let whole = if end { t.partial_response.len() } else { t.partial_response.len() / 3 * 3 };
    let input: Vec<u8> = t.partial_response.drain(..whole).collect();
    data.extend_from_slice(STANDARD.encode(input).as_bytes());
}

/// Counts a call that was translated.
pub fn on_end(calls: &Calls, ex: &Exchange) {
    let translated = ex.filters.iter().any(|s| matches!(s, FilterState::GrpcWeb(_)));
    let (Some(cluster), true) = (&ex.upstream.cluster, translated) else { return };
    let Some(method) = grpc_calls::method(ex.request.path()) else { return };
    // The last frame holds the trailers by now, and so their status.
    let status = ex.filters.iter().find_map(|s| match s {
        FilterState::GrpcWeb(t) => t.status.as_deref(),
        _ => None,
    });
    if let Some(status) = status.or_else(|| grpc_calls::status(&ex.response, &ex.response_trailers))
        && let Some(block) = calls.of(cluster, Some(method))
    {
        grpc_calls::charge(&block, status);
    }
}
