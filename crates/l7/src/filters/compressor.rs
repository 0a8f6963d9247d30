//! Which bodies leave compressed? Envoy's `Compressor`, one filter per coding, deciding together.

use std::sync::Arc;

use http1::{HeaderBlock, HeaderId};
use proxy_config::Name;
use proxy_config::filters::FilterOverride;
use proxy_config::filters::http::{self as config, Coding};
use telemetry::stats::Block;
use telemetry::stats::envoy::gzip as stat;

use super::coding::{Compress, token};
use super::{FilterCx, FilterState, Step};
use crate::exchange::Exchange;
use crate::manager::Deps;

/// The filter of one chain.
pub struct Compressor {
    config: Arc<config::Compressor>,
    response: Block<stat::Compressor>,
    request: Block<stat::Compressor>,
    /// What headers said; Envoy names neither direction.
    headers: Block<stat::Compressor>,
}

/// What a request said about codings, before any compressor changed it.
#[derive(Default)]
pub struct Wishes {
    accept_encoding: Option<Vec<u8>>,
    /// Compressors that the request passed, in order.
    offered: Vec<Arc<config::Compressor>>,
    decision: Option<Decision>,
    response: Option<(Coding, Compress)>,
    request: Option<(Coding, Compress)>,
}

/// Which coding the response gets, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Valid(Coding),
    Wildcard(Option<Coding>),
    Identity,
    NotValid,
}

impl Compressor {
    /// Compiles the filter.
    pub fn new(config: Arc<config::Compressor>, stat_prefix: &Name, deps: &Deps<'_>) -> Self {
        let library = match config.coding {
            Coding::Gzip => "gzip",
            Coding::Brotli => "brotli",
            Coding::Zstd => "zstd",
        };
        let scope = format!("http.{stat_prefix}.compressor.{}.{library}.", config.library);
        let response = if config.split_stats { "response." } else { "" };
        Compressor {
            response: deps.store.block(&format!("{scope}{response}")),
            request: deps.store.block(&format!("{scope}request.")),
            headers: deps.store.block(&scope),
            config,
        }
    }

    /// Notes what the client accepts; may compress the request.
    pub fn on_request(&self, _cx: &FilterCx<'_>, ex: &mut Exchange, over: Option<&FilterOverride>) -> Step {
        let c = &self.config;
        let index = state(ex);
        let accept = ex.request.get_id(HeaderId::ACCEPT_ENCODING).map(<[u8]>::to_vec);
        if let FilterState::Compressor(wishes) = &mut ex.filters[index] {
            if wishes.offered.is_empty() {
                wishes.accept_encoding = accept;
            }
            if c.response {
                wishes.offered.push(c.clone());
            }
        }
        let remove = match over {
            Some(FilterOverride::Compressor(o)) => o.remove_accept_encoding_header,
            _ => None,
        };
        if self.response_on(over) && remove.unwrap_or(c.remove_accept_encoding_header) {
            ex.request.remove_id(HeaderId::ACCEPT_ENCODING);
        }
        match c.request {
            true => self.compress_request(ex, index),
            false => self.request.inc(stat::NOT_COMPRESSED),
        }
        Step::Continue
    }

    fn response_on(&self, over: Option<&FilterOverride>) -> bool {
        self.config.response
            || matches!(over, Some(FilterOverride::Compressor(o)) if o.remove_accept_encoding_header.is_some())
    }

    fn compress_request(&self, ex: &mut Exchange, index: usize) {
        let c = &self.config;
        let fits = !ex.request_ends_with_head
            && !ex.upgrade
            && long_enough(&ex.request, c.request_min_content_length, &self.request)
            && type_allowed(&ex.request, &c.request_content_types)
            && !ex.request.has(HeaderId::CONTENT_ENCODING);
        let coder = fits.then(|| Compress::new(c.coding, c.level).ok()).flatten();
        let Some(coder) = coder else {
            self.request.inc(stat::NOT_COMPRESSED);
            return;
        };
        ex.request.remove_id(HeaderId::CONTENT_LENGTH);
        ex.request.set_id(HeaderId::CONTENT_ENCODING, token(c.coding).as_bytes());
        ex.taps_request = true;
        self.request.inc(stat::COMPRESSED);
        if let FilterState::Compressor(wishes) = &mut ex.filters[index] {
            wishes.request = Some((c.coding, coder));
        }
    }

    /// Decides about the response.
    pub fn on_response(&self, ex: &mut Exchange, over: Option<&FilterOverride>, end: bool) {
        let c = &self.config;
        let Some(index) = ex.filters.iter().position(|s| matches!(s, FilterState::Compressor(_))) else { return };
        let upgrade = ex.upgrade && ex.response.get_id(HeaderId::STATUS) == Some(b"101");
        let long = self.response_on(over) && long_enough(&ex.response, c.min_content_length, &self.response);
        let fits = long
            && !upgrade
            && type_allowed(&ex.response, &c.content_types)
            && !says(&ex.response, HeaderId::CACHE_CONTROL, b"no-transform")
            && self.etag_allowed(&ex.response)
            && !ex.response.has(HeaderId::CONTENT_ENCODING);
        let accepted = !end && long && self.accepted(ex, index);
        let coder = (fits && accepted).then(|| Compress::new(c.coding, c.level).ok()).flatten();
        match coder {
            Some(coder) => {
                drop_strong_etag(&mut ex.response);
                ex.response.remove_id(HeaderId::CONTENT_LENGTH);
                ex.response.set_id(HeaderId::CONTENT_ENCODING, token(c.coding).as_bytes());
                ex.taps_response = true;
                self.response.inc(stat::COMPRESSED);
                if let FilterState::Compressor(wishes) = &mut ex.filters[index] {
                    wishes.response = Some((c.coding, coder));
                }
            }
            None => self.response.inc(stat::NOT_COMPRESSED),
        }
        if fits {
            vary(&mut ex.response);
        }
    }

    fn etag_allowed(&self, response: &HeaderBlock) -> bool {
        let refused = self.config.disable_on_etag_header && response.has(HeaderId::ETAG);
        if refused {
            self.headers.inc(stat::NOT_COMPRESSED_ETAG);
        }
        !refused
    }

    /// Whether the client accepts this coding, and prefers it to those of the chain's other compressors.
    fn accepted(&self, ex: &mut Exchange, index: usize) -> bool {
        let kind = ex.response.get_id(HeaderId::CONTENT_TYPE).map(media_type);
        let FilterState::Compressor(wishes) = &mut ex.filters[index] else { return false };
        let Some(accept) = &wishes.accept_encoding else {
            self.headers.inc(stat::NO_ACCEPT_HEADER);
            return false;
        };
        let decision = match wishes.decision {
            Some(d) => d,
            None => *wishes.decision.insert(decide(accept, &wishes.offered, kind.as_deref())),
        };
        match decision {
            Decision::Valid(coding) if coding == self.config.coding => {
                self.headers.inc(stat::HEADER_COMPRESSOR_USED);
                true
            }
            Decision::Valid(_) => {
                self.headers.inc(stat::HEADER_COMPRESSOR_OVERSHADOWED);
                false
            }
            Decision::Wildcard(coding) => {
                self.headers.inc(stat::HEADER_WILDCARD);
                coding == Some(self.config.coding)
            }
            Decision::Identity => {
                self.headers.inc(stat::HEADER_IDENTITY);
                false
            }
            Decision::NotValid => {
                self.headers.inc(stat::HEADER_NOT_VALID);
                false
            }
        }
    }

    /// Response data passes.
    pub fn on_response_data(&self, ex: &mut Exchange, data: &mut Vec<u8>, end: bool) {
        let coding = self.config.coding;
        if let Some(wishes) = wishes(ex) {
            push(&mut wishes.response, coding, data, end, &self.response);
        }
    }

    /// Request data passes.
    pub fn on_request_data(&self, ex: &mut Exchange, data: &mut Vec<u8>, end: bool) {
        let coding = self.config.coding;
        if let Some(wishes) = wishes(ex) {
            push(&mut wishes.request, coding, data, end, &self.request);
        }
    }
}

fn push(
    slot: &mut Option<(Coding, Compress)>,
    coding: Coding,
    data: &mut Vec<u8>,
    end: bool,
    stats: &Block<stat::Compressor>,
) {
    let Some((_, coder)) = slot.as_mut().filter(|(c, _)| *c == coding) else { return };
    stats.add(stat::TOTAL_UNCOMPRESSED_BYTES, data.len() as u64);
    // Writing to memory does not fail.
    let _ = coder.push(data);
    if end && let Some((_, coder)) = slot.take() {
        let _ = coder.finish(data);
    }
    stats.add(stat::TOTAL_COMPRESSED_BYTES, data.len() as u64);
}

fn state(ex: &mut Exchange) -> usize {
    match ex.filters.iter().position(|s| matches!(s, FilterState::Compressor(_))) {
        Some(i) => i,
        None => {
            ex.filters.push(FilterState::Compressor(Box::default()));
            ex.filters.len() - 1
        }
    }
}

fn wishes(ex: &mut Exchange) -> Option<&mut Wishes> {
    ex.filters.iter_mut().find_map(|s| match s {
        FilterState::Compressor(w) => Some(&mut **w),
        _ => None,
    })
}

/// Chooses among the chain's compressors what the client likes most.
fn decide(accept: &[u8], offered: &[Arc<config::Compressor>], kind: Option<&str>) -> Decision {
    // First registered first; a coding counts once.
    let mut allowed: Vec<(Coding, bool)> = Vec::new();
    for c in offered {
        let fits = kind.is_none_or(|k| k.is_empty() || c.content_types.iter().any(|t| **t == *k));
        if fits && !allowed.iter().any(|(coding, _)| *coding == c.coding) {
            allowed.push((c.coding, c.choose_first));
        }
    }
    let mut pairs: Vec<(Vec<u8>, f32)> = Vec::new();
    for item in accept.split(|b| *b == b',').filter(|i| !i.is_empty()) {
        let at = memchr::memchr(b';', item).unwrap_or(item.len());
        let name = item[..at].trim_ascii().to_vec();
        let mut q = 1.0;
        if let Some(params) = item.get(at + 1..)
            && let Some(eq) = memchr::memchr(b'=', params)
            && params[..eq].trim_ascii().eq_ignore_ascii_case(b"q")
        {
            match std::str::from_utf8(params[eq + 1..].trim_ascii()).ok().and_then(|t| t.parse().ok()) {
                Some(value) => q = value,
                None => continue,
            }
        }
        if q == 0.0 {
            allowed.retain(|(coding, _)| token(*coding).as_bytes() != name);
        }
        pairs.push((name, q));
    }
    let rank = |name: &[u8]| allowed.iter().find(|(c, _)| token(*c).as_bytes() == name).map(|(_, first)| *first);
    let mut choice: Option<(&[u8], f32, bool)> = None;
    for (name, q) in &pairs {
        let known = rank(name);
        if known.is_none() && name != b"identity" && name != b"*" {
            continue;
        }
        let first = known.unwrap_or(false);
        let better = choice.is_none_or(|(_, best, best_first)| *q > best || *q == best && first && !best_first);
        if *q > 0.0 && better {
            choice = Some((name, *q, first));
        }
    }
    match choice {
        None => Decision::NotValid,
        Some((b"*", ..)) if allowed.is_empty() => Decision::NotValid,
        Some((b"*", ..)) => Decision::Wildcard(allowed.first().map(|(c, _)| *c)),
        Some((b"identity", ..)) => Decision::Identity,
        Some((name, ..)) => {
            let coding = allowed.iter().find(|(c, _)| token(*c).as_bytes() == name).map(|(c, _)| *c);
            coding.map_or(Decision::NotValid, Decision::Valid)
        }
    }
}

/// Bodies without a length are long enough.
fn long_enough(block: &HeaderBlock, least: u32, stats: &Block<stat::Compressor>) -> bool {
    let Some(length) = block.get_id(HeaderId::CONTENT_LENGTH) else { return true };
    let length: u64 = std::str::from_utf8(length).ok().and_then(|t| t.parse().ok()).unwrap_or(0);
    let enough = length >= u64::from(least);
    if !enough {
        stats.inc(stat::CONTENT_LENGTH_TOO_SMALL);
    }
    enough
}

fn media_type(value: &[u8]) -> String {
    let at = memchr::memchr(b';', value).unwrap_or(value.len());
    String::from_utf8_lossy(value[..at].trim_ascii()).to_ascii_lowercase()
}

fn type_allowed(block: &HeaderBlock, types: &[Name]) -> bool {
    block.get_id(HeaderId::CONTENT_TYPE).is_none_or(|v| {
        let kind = media_type(v);
        types.iter().any(|t| **t == *kind)
    })
}

fn says(block: &HeaderBlock, id: HeaderId, word: &[u8]) -> bool {
    let list = block.get_id(id).unwrap_or_default();
    list.split(|b| *b == b',').any(|w| w.trim_ascii().eq_ignore_ascii_case(word))
}

/// A strong tag names exactly these bytes, and they change.
fn drop_strong_etag(response: &mut HeaderBlock) {
    let strong = response.get_id(HeaderId::ETAG).is_some_and(|e| !e.starts_with(b"W/") && !e.starts_with(b"w/"));
    if strong {
        response.remove_id(HeaderId::ETAG);
    }
}

fn vary(response: &mut HeaderBlock) {
    const WORD: &[u8] = b"Accept-Encoding";
    match response.get_id(HeaderId::VARY).filter(|v| !v.is_empty()) {
        None => response.set_id(HeaderId::VARY, WORD),
        Some(_) if says(response, HeaderId::VARY, WORD) => {}
        Some(v) => {
            let joined = [v, b", ", WORD].concat();
            response.set_id(HeaderId::VARY, &joined);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(coding: Coding, choose_first: bool) -> Arc<config::Compressor> {
        Arc::new(config::Compressor {
            coding,
            library: "l".into(),
            split_stats: false,
            level: 0,
            response: true,
            request: false,
            min_content_length: 30,
            content_types: Box::new(["text/html".into()]),
            request_min_content_length: 30,
            request_content_types: Box::default(),
            disable_on_etag_header: false,
            remove_accept_encoding_header: false,
            choose_first,
        })
    }

    #[test]
    fn choices() {
        let check = |accept: &str, kind: Option<&str>, expect: Decision| {
            let chain = [of(Coding::Gzip, false), of(Coding::Brotli, false)];
            assert_eq!(decide(accept.as_bytes(), &chain, kind), expect, "{accept}");
        };
        use Decision::*;
        check("gzip", None, Valid(Coding::Gzip));
        check("gzip;q=.5, br", None, Valid(Coding::Brotli));
        check("gzip, br", Some("text/html"), Valid(Coding::Gzip));
        check("gzip", Some("image/png"), NotValid);
        check("*", None, Wildcard(Some(Coding::Gzip)));
        check("gzip;q=0, *", None, Wildcard(Some(Coding::Brotli)));
        check("identity", None, Identity);
        check("deflate", None, NotValid);
        check("gzip;q=0", None, NotValid);
        check("gzip;q=x", None, NotValid);
        check("identity;q=0.1, br;q=0.2", None, Valid(Coding::Brotli));
        check("", None, NotValid);
        let chain = [of(Coding::Gzip, false), of(Coding::Brotli, true)];
        assert_eq!(decide(b"gzip, br", &chain, None), Valid(Coding::Brotli));
    }

    #[test]
    fn vary_is_added_once() {
        let check = |before: Option<&str>, after: &str| {
            let mut block = HeaderBlock::new();
            if let Some(v) = before {
                block.set_id(HeaderId::VARY, v.as_bytes());
            }
            vary(&mut block);
            assert_eq!(block.get_id(HeaderId::VARY), Some(after.as_bytes()));
        };
        check(None, "Accept-Encoding");
        check(Some("Cookie"), "Cookie, Accept-Encoding");
        check(Some("accept-encoding"), "accept-encoding");
    }
}
