//! Where does an HTTP/1.1 message begin, end and lie?
//!
//! A codec without I/O: bytes in, events out. `l7` and the tests feed it. The header block is
//! shared with HTTP/2 (pseudo headers are ordinary fields), with the filters and with the matchers.
//! Absent on purpose: sockets, clocks, connection management, anything that waits.

mod block;
mod body;
mod head;
mod ids;
mod scan;
mod write;

pub use block::{HeaderBlock, Iter, Values};
pub use body::{BodyError, BodyReader, Piece, PieceKind, Relay};
pub use head::{
    BodyKind, HeadError, Limits, RequestHead, RequestOptions, ResponseHead, ResponseOptions, Underscore, Version,
    is_token, parse_request, parse_response, parse_trailers,
};
pub use ids::HeaderId;
pub use scan::HeadScanner;
pub use write::{
    HeaderCase, Reason, push_chunk_head, push_decimal, reason_phrase, write_field, write_request_head,
    write_response_head, write_trailers,
};
