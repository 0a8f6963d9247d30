//! How does a client that speaks HTTP/1.1 call a gRPC method? Envoy's `grpc_http1_bridge`.
//!
//! The status of the call, which comes in trailers, is put into the head; the body waits for it.

use http1::HeaderId;

use super::{FilterState, Step};
use crate::exchange::{Exchange, Protocol};

/// Bytes of a message in either direction.
const BODY_BYTES_MAX: usize = 4 << 20;
/// Bytes before a message.
const PREFIX: usize = 5;
const PROTOBUF: &[u8] = b"application/x-protobuf";

/// The filter of one chain.
pub struct GrpcHttp1Bridge {
    /// Turns plain protobuf requests into calls.
    pub upgrade_protobuf: bool,
}

/// A call that is bridged.
pub struct Bridged {
    /// Its messages are framed here.
    framed: bool,
}

impl GrpcHttp1Bridge {
    /// Notes calls that come over HTTP/1; frames plain protobuf.
    pub fn on_request(&self, ex: &mut Exchange) -> Step {
        let protobuf = ex.request.get_id(HeaderId::CONTENT_TYPE) == Some(PROTOBUF);
        let framed = self.upgrade_protobuf && protobuf;
        if framed {
            ex.request.set_id(HeaderId::CONTENT_TYPE, b"application/grpc");
            ex.grpc = true;
        }
        if !ex.grpc || ex.protocol == Protocol::Http2 {
            return Step::Continue;
        }
        ex.filters.push(FilterState::Bridge(Bridged { framed }));
        match framed {
            true if !ex.request_ends_with_head && !ex.body_collected => Step::Body(BODY_BYTES_MAX),
            true if ex.body_collected => on_body(ex),
            _ => Step::Continue,
        }
    }
}

fn find(ex: &Exchange) -> Option<&Bridged> {
    ex.filters.iter().find_map(|s| match s {
        FilterState::Bridge(b) => Some(b),
        _ => None,
    })
}

/// Puts the frame around the message.
pub fn on_body(ex: &mut Exchange) -> Step {
    if find(ex).is_some_and(|b| b.framed) {
        let mut framed = vec![0];
        framed.extend_from_slice(&(ex.buffered.len() as u32).to_be_bytes());
        framed.extend_from_slice(&ex.buffered);
        ex.request.remove_id(HeaderId::CONTENT_LENGTH);
        ex.buffered = framed;
    }
    Step::Continue
}

/// Waits for the end of the response, where the status is.
pub fn on_response(ex: &mut Exchange, end: bool) -> Step {
    match find(ex) {
        Some(b) if !end => {
            if b.framed {
                ex.response.set_id(HeaderId::CONTENT_TYPE, PROTOBUF);
            }
            Step::Body(BODY_BYTES_MAX)
        }
        _ => Step::Continue,
    }
}

/// Tells the status in the head.
pub fn on_response_body(ex: &mut Exchange, body: &mut Vec<u8>) -> Step {
    if let Some(status) = ex.response_trailers.get_id(HeaderId::GRPC_STATUS).map(<[u8]>::to_vec) {
        if status != b"0" {
            ex.response.set_status(503);
        }
        ex.response.set_id(HeaderId::GRPC_STATUS, &status);
    }
    if let Some(message) = ex.response_trailers.get_id(HeaderId::GRPC_MESSAGE).map(<[u8]>::to_vec) {
        ex.response.set_id(HeaderId::GRPC_MESSAGE, &message);
    }
    if find(ex).is_some_and(|b| b.framed) && body.len() >= PREFIX {
        body.drain(..PREFIX);
    }
    Step::Continue
}
