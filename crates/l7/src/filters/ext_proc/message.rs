//! What do processors hear and say? Their messages, made from and applied to ours. Pure.

use http1::{HeaderBlock, HeaderId};
use protos::envoy::config::core::v3 as core;
use protos::envoy::extensions::filters::http::ext_proc::v3 as config_pb;
use protos::envoy::service::ext_proc::v3 as pb;
use proxy_config::filters::http::{BodyMode, ExtProc, ProcessingMode};

use crate::callout::wire::{self, Action, HeaderEdit};

pub use pb::ProcessingResponse;
pub use pb::processing_request::Request;
pub use pb::processing_response::Response;

/// Headers that a processor may not change: they say where a request goes.
const ROUTING: [&[u8]; 4] = [b"host", b":authority", b":scheme", b":method"];

/// A head, as far as the configuration lets the processor see it.
pub fn headers(config: &ExtProc, block: &HeaderBlock, end_of_stream: bool) -> pb::HttpHeaders {
    pb::HttpHeaders { headers: Some(map(config, block)), end_of_stream, ..Default::default() }
}

/// Trailers.
pub fn trailers(config: &ExtProc, block: &HeaderBlock) -> pb::HttpTrailers {
    pb::HttpTrailers { trailers: Some(map(config, block)) }
}

/// A piece of a body.
pub fn body(body: Vec<u8>, end_of_stream: bool) -> pb::HttpBody {
    pb::HttpBody { body, end_of_stream, ..Default::default() }
}

fn map(config: &ExtProc, block: &HeaderBlock) -> core::HeaderMap {
    let any = |list: &[proxy_config::matcher::StringMatcher], name: &[u8]| list.iter().any(|m| m.matches(name));
    let sent = |name: &[u8]| {
        (config.allowed_headers.is_empty() || any(&config.allowed_headers, name))
            && !any(&config.disallowed_headers, name)
    };
    let all = block.iter().filter(|(name, _)| sent(name));
    core::HeaderMap { headers: all.map(|(name, value)| wire::header(name, value, true)).collect() }
}

/// The first message of a stream also tells the body modes.
pub fn first(mode: &ProcessingMode) -> pb::ProtocolConfiguration {
    let number = |m: BodyMode| match m {
        BodyMode::None => 0,
        BodyMode::Streamed => 1,
        BodyMode::Buffered => 2,
        BodyMode::BufferedPartial => 3,
        BodyMode::FullDuplexStreamed => 4,
    };
    pb::ProtocolConfiguration {
        request_body_mode: number(mode.request_body),
        response_body_mode: number(mode.response_body),
        ..Default::default()
    }
}

/// The mode with what a processor changes of it; sending request headers is past.
pub fn overridden(old: ProcessingMode, new: &config_pb::ProcessingMode) -> ProcessingMode {
    let body = |n: i32, old: BodyMode| match n {
        0 => BodyMode::None,
        1 => BodyMode::Streamed,
        2 => BodyMode::Buffered,
        3 => BodyMode::BufferedPartial,
        4 => BodyMode::FullDuplexStreamed,
        _ => old,
    };
    let send = |n: i32, old: bool| match n {
        1 => true,
        2 => false,
        _ => old,
    };
    ProcessingMode {
        request_headers: old.request_headers,
        response_headers: send(new.response_header_mode, old.response_headers),
        request_body: body(new.request_body_mode, old.request_body),
        response_body: body(new.response_body_mode, old.response_body),
        request_trailers: send(new.request_trailer_mode, old.request_trailers),
        response_trailers: send(new.response_trailer_mode, old.response_trailers),
    }
}

/// Changes a head or trailers; how many changes are not allowed and were left out.
pub fn apply(mutation: Option<&pb::HeaderMutation>, block: &mut HeaderBlock, head: bool) -> u64 {
    let Some(m) = mutation else { return 0 };
    let mut refused = 0;
    for name in &m.remove_headers {
        let name = name.to_ascii_lowercase().into_bytes();
        if !wire::is_removable(&name) || name.starts_with(b"x-envoy-") {
            refused += 1;
            continue;
        }
        block.remove(&name);
    }
    for option in &m.set_headers {
        let Some(mut edit) = HeaderEdit::read(option, false) else {
            refused += 1;
            continue;
        };
        // `append_action` is not heeded here.
        edit.action = if edit.action == Action::Join { Action::Add } else { Action::Set };
        let name = &edit.name[..];
        let status_ok = name != b":status"
            || std::str::from_utf8(&edit.value).is_ok_and(|v| v.parse::<u16>().is_ok_and(|n| (200..600).contains(&n)));
        let allowed = !ROUTING.contains(&name)
            && !name.starts_with(b"x-envoy-")
            && (head || !name.starts_with(b":"))
            && status_ok;
        if !allowed || !edit.is_valid() {
            refused += 1;
            continue;
        }
        edit.apply(block);
    }
    refused
}

/// Changes a body; `None` leaves it.
pub fn new_body(mutation: Option<&pb::BodyMutation>) -> Option<Vec<u8>> {
    use pb::body_mutation::Mutation as M;
    match mutation?.mutation.as_ref()? {
        M::Body(b) => Some(b.clone()),
        M::ClearBody(true) => Some(Vec::new()),
        M::ClearBody(false) => None,
        M::StreamedResponse(s) => Some(s.body.clone()),
    }
}

/// The streamed piece in an answer, with whether it is the last.
pub fn streamed(mutation: Option<&pb::BodyMutation>) -> Option<(&[u8], bool)> {
    match mutation?.mutation.as_ref()? {
        pb::body_mutation::Mutation::StreamedResponse(s) => Some((&s.body, s.end_of_stream)),
        _ => None,
    }
}

/// The length that a new body would have beside a stated one, when they differ: such a body is refused.
pub fn contradicts_length(mutation: Option<&pb::BodyMutation>, block: &HeaderBlock) -> bool {
    use pb::body_mutation::Mutation as M;
    let Some(mutation) = mutation else { return false };
    let new = match &mutation.mutation {
        Some(M::Body(b)) => b.len(),
        _ => 0,
    };
    let stated =
        block.get_id(HeaderId::CONTENT_LENGTH).and_then(|v| std::str::from_utf8(v).ok()?.parse::<usize>().ok());
    stated.is_some_and(|n| n != new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn option(key: &str, value: &str) -> core::HeaderValueOption {
        let header = core::HeaderValue { key: key.into(), value: value.into(), ..Default::default() };
        core::HeaderValueOption { header: Some(header), ..Default::default() }
    }

    #[test]
    fn what_says_where_a_request_goes_stays() {
        let mut block = HeaderBlock::new();
        block.add(b":authority", b"a");
        block.add(b"x", b"1");
        let m = pb::HeaderMutation {
            set_headers: vec![
                option("x", "2"),
                option(":authority", "b"),
                option("x-envoy-y", "z"),
                option(":path", "/p"),
            ],
            remove_headers: vec![":authority".into(), "host".into()],
        };
        assert_eq!(apply(Some(&m), &mut block, true), 4);
        assert_eq!(block.get(b"x"), Some(&b"2"[..]));
        assert_eq!(block.get(b":authority"), Some(&b"a"[..]));
        assert_eq!(block.get(b":path"), Some(&b"/p"[..]));
        assert!(block.get(b"x-envoy-y").is_none());
    }

    #[test]
    fn modes() {
        let old = ProcessingMode {
            request_headers: true,
            response_headers: true,
            request_body: BodyMode::None,
            response_body: BodyMode::None,
            request_trailers: false,
            response_trailers: false,
        };
        let new = config_pb::ProcessingMode { response_header_mode: 2, request_body_mode: 2, ..Default::default() };
        let got = overridden(old, &new);
        assert!(!got.response_headers && got.request_body == BodyMode::Buffered);
        assert_eq!(first(&got).request_body_mode, 2);
    }
}
