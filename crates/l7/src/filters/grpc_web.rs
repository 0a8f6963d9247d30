//! How do browsers call gRPC? Envoy's `GrpcWebFilter`: gRPC-Web over any HTTP to gRPC, and back.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http1::HeaderId;

use super::{FilterState, Step};
use crate::exchange::Exchange;

/// Flag of the frame that carries trailers in the body.
const TRAILER_FRAME: u8 = 0x80;

/// Translation of one call.
pub struct Translation {
    text: bool,
    active: bool,
    partial_request: Vec<u8>,
    partial_response: Vec<u8>,
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
    let text = kind.starts_with(b"application/grpc-web-text");
    if !text && !kind.starts_with(b"application/grpc-web") {
        return Step::Continue;
    }
    ex.request.set_id(HeaderId::CONTENT_TYPE, b"application/grpc");
    ex.request.remove_id(HeaderId::CONTENT_LENGTH);
    ex.request.set_id(HeaderId::TE, b"trailers");
    ex.request.set(b"grpc-accept-encoding", b"identity");
    ex.grpc = true;
    ex.taps_request |= text;
    ex.taps_response = true;
    ex.filters.push(FilterState::GrpcWeb(Translation {
        text,
        active: true,
        partial_request: Vec::new(),
        partial_response: Vec::new(),
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
    let text = t.text;
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
        ex.response_trailers.clear();
    }
    let Some(t) = state(ex).filter(|t| t.text) else {
        return;
    };
    t.partial_response.append(data);
    let whole = if end { t.partial_response.len() } else { t.partial_response.len() / 3 * 3 };
    let input: Vec<u8> = t.partial_response.drain(..whole).collect();
    data.extend_from_slice(STANDARD.encode(input).as_bytes());
}
