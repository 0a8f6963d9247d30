//! Which bodies are decompressed on their way? Envoy's `Decompressor`.

use std::sync::Arc;

use http1::{HeaderBlock, HeaderId};
use proxy_config::Name;
use proxy_config::filters::http::{self as config, Coding};
use telemetry::stats::Block;
use telemetry::stats::envoy::decompressor as stat;

use super::coding::{Decompress, token};
use super::{FilterState, Step};
use crate::exchange::Exchange;
use crate::manager::Deps;

/// The filter of one chain.
pub struct Decompressor {
    config: Arc<config::Decompressor>,
    request: Block<stat::Decompressor>,
    response: Block<stat::Decompressor>,
}

/// Bodies of an exchange that are decompressed.
#[derive(Default)]
pub struct Active {
    request: Option<Body>,
    response: Option<Body>,
}

struct Body {
    coding: Coding,
    coder: Decompress,
    failed: bool,
}

impl Decompressor {
    /// Compiles the filter.
    pub fn new(config: Arc<config::Decompressor>, stat_prefix: &Name, deps: &Deps<'_>) -> Self {
        let library = match config.coding {
            Coding::Gzip => "gzip",
            Coding::Brotli => "brotli",
            Coding::Zstd => "zstd",
        };
        let block = |side: &str| {
            deps.store.block(&format!("http.{stat_prefix}.decompressor.{}.{library}.{side}.", config.library))
        };
        Decompressor { request: block("request"), response: block("response"), config }
    }

    /// Announces the coding upstream; decompresses a request that has it.
    pub fn on_request(&self, ex: &mut Exchange) -> Step {
        let c = &self.config;
        let name = token(c.coding);
        if c.response && c.advertise_accept_encoding {
            let accept = ex.request.get_id(HeaderId::ACCEPT_ENCODING).unwrap_or_default();
            // What the client said of the coding gives way to our word.
            let others = accept.split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|w| {
                let coding = w.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
                !coding.is_empty() && !coding.eq_ignore_ascii_case(name.as_bytes())
            });
            let joined = others.chain([name.as_bytes()]).collect::<Vec<_>>().join(&b","[..]);
            ex.request.set_id(HeaderId::ACCEPT_ENCODING, &joined);
        }
        if !ex.request_ends_with_head {
            let wanted = c.request && !no_transform(&ex.request) && starts_with(&ex.request, name);
            match begin(c.coding, wanted, &mut ex.request, &self.request) {
                Some(body) => {
                    ex.taps_request = true;
                    active(ex).request = Some(body);
                }
                None => self.request.inc(stat::NOT_DECOMPRESSED),
            }
        }
        Step::Continue
    }

    /// Decompresses a response that has the coding.
    pub fn on_response(&self, ex: &mut Exchange, end: bool) {
        let c = &self.config;
        let wanted = c.response && !end && !no_transform(&ex.response) && starts_with(&ex.response, token(c.coding));
        match begin(c.coding, wanted, &mut ex.response, &self.response) {
            Some(body) => {
                ex.taps_response = true;
                active(ex).response = Some(body);
            }
            None => self.response.inc(stat::NOT_DECOMPRESSED),
        }
    }

    /// Request data passes.
    pub fn on_request_data(&self, ex: &mut Exchange, data: &mut Vec<u8>) {
        if let Some(body) = find(ex).and_then(|a| a.request.as_mut()).filter(|b| b.coding == self.config.coding) {
            body.push(data, &self.request);
        }
    }

    /// Response data passes.
    pub fn on_response_data(&self, ex: &mut Exchange, data: &mut Vec<u8>) {
        if let Some(body) = find(ex).and_then(|a| a.response.as_mut()).filter(|b| b.coding == self.config.coding) {
            body.push(data, &self.response);
        }
    }
}

impl Body {
    fn push(&mut self, data: &mut Vec<u8>, stats: &Block<stat::Decompressor>) {
        if data.is_empty() || self.failed {
            return;
        }
        stats.add(stat::TOTAL_COMPRESSED_BYTES, data.len() as u64);
        if let Err(e) = self.coder.push(data) {
            telemetry::debug!(filter, "a body does not decompress: {e}");
            self.failed = true;
            data.clear();
        }
        stats.add(stat::TOTAL_UNCOMPRESSED_BYTES, data.len() as u64);
    }
}

/// Starts decompressing, and takes the outermost coding off the head.
fn begin(coding: Coding, wanted: bool, block: &mut HeaderBlock, stats: &Block<stat::Decompressor>) -> Option<Body> {
    let coder = wanted.then(|| Decompress::new(coding).ok()).flatten()?;
    let value = block.get_id(HeaderId::CONTENT_ENCODING).unwrap_or_default().to_vec();
    match memchr::memchr(b',', &value) {
        Some(at) => block.set_id(HeaderId::CONTENT_ENCODING, value[at + 1..].trim_ascii()),
        None => {
            block.remove_id(HeaderId::CONTENT_ENCODING);
        }
    }
    block.remove_id(HeaderId::CONTENT_LENGTH);
    stats.inc(stat::DECOMPRESSED);
    Some(Body { coding, coder, failed: false })
}

/// Whether the message is to be left as it is.
fn no_transform(block: &HeaderBlock) -> bool {
    let words = block.get_id(HeaderId::CACHE_CONTROL).unwrap_or_default();
    words.split(|b| *b == b',').any(|w| w.trim_ascii() == b"no-transform")
}

/// Whether the outermost coding is this one.
fn starts_with(block: &HeaderBlock, name: &str) -> bool {
    let value = block.get_id(HeaderId::CONTENT_ENCODING).unwrap_or_default();
    let at = memchr::memchr(b',', value).unwrap_or(value.len());
    value[..at].trim_ascii().eq_ignore_ascii_case(name.as_bytes())
}

fn find(ex: &mut Exchange) -> Option<&mut Active> {
    ex.filters.iter_mut().find_map(|s| match s {
        FilterState::Decompressor(a) => Some(&mut **a),
        _ => None,
    })
}

fn active(ex: &mut Exchange) -> &mut Active {
    let index = match ex.filters.iter().position(|s| matches!(s, FilterState::Decompressor(_))) {
        Some(i) => i,
        None => {
            ex.filters.push(FilterState::Decompressor(Box::default()));
            ex.filters.len() - 1
        }
    };
    match &mut ex.filters[index] {
        FilterState::Decompressor(a) => a,
        _ => unreachable!("just found"),
    }
}
