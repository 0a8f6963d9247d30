//! Which requests wait until their body is complete? Envoy's `BufferFilter`.

use http1::{HeaderId, push_decimal};
use proxy_config::filters::FilterOverride;

use super::Step;
use crate::exchange::Exchange;

/// The filter of one chain.
pub struct Buffer {
    /// Largest body.
    pub max_bytes: usize,
}

impl Buffer {
    /// Asks for the body unless there is none.
    pub fn on_request(&self, ex: &mut Exchange, over: Option<&FilterOverride>) -> Step {
        if ex.request_ends_with_head || ex.body_collected || ex.upgrade {
            return Step::Continue;
        }
        match over {
            Some(FilterOverride::Buffer(max)) => Step::Body(*max as usize),
            _ => Step::Body(self.max_bytes),
        }
    }

    /// The length is known now.
    pub fn on_body(&self, ex: &mut Exchange) -> Step {
        if !ex.request.has(HeaderId::CONTENT_LENGTH) {
            let mut digits = Vec::new();
            push_decimal(&mut digits, ex.buffered.len() as u64);
            ex.request.set_id(HeaderId::CONTENT_LENGTH, &digits);
        }
        Step::Continue
    }
}
