//! How many messages does a gRPC call carry each way? Envoy's `GrpcStatsFilter`.

use std::sync::Arc;

use proxy_config::filters::http as config;

use super::{FilterState, Step};
use crate::connection::Conn;
use crate::exchange::Exchange;
use crate::stream::Found;

/// The filter of one chain.
pub struct GrpcStats {
    config: Arc<config::GrpcStats>,
}

/// Counts of one call.
#[derive(Default)]
pub struct Counts {
    request: Frames,
    response: Frames,
}

/// Counts length-prefixed messages in a byte stream.
#[derive(Default)]
struct Frames {
    count: u64,
    header: u8,
    length: u32,
    skip: u32,
}

impl Frames {
    fn feed(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            if self.skip > 0 {
                let n = (self.skip as usize).min(data.len());
                self.skip -= n as u32;
                data = &data[n..];
                continue;
            }
            let b = data[0];
            data = &data[1..];
            if self.header > 0 {
                self.length = self.length << 8 | b as u32;
            }
            self.header += 1;
            if self.header == 5 {
                self.count += 1;
                self.skip = self.length;
                (self.header, self.length) = (0, 0);
            }
        }
    }
}

impl GrpcStats {
    /// Compiles the filter.
    pub fn new(config: Arc<config::GrpcStats>) -> Self {
        GrpcStats { config }
    }

    /// Starts counting gRPC calls.
    pub fn on_request(&self, ex: &mut Exchange) -> Step {
        if ex.grpc && (self.config.emit_filter_state || self.config.enable_upstream_stats) {
            ex.filters.push(FilterState::GrpcStats(Counts::default()));
            ex.taps_request = true;
            ex.taps_response = true;
        }
        Step::Continue
    }

    /// Nothing to do with heads.
    pub fn on_response(&self, _ex: &mut Exchange) {}

    /// Publishes the counts as filter state.
    pub fn on_end(&self, _conn: &Conn, ex: &mut Exchange, _found: Option<&Found>) {
        let Some(counts) = messages(ex) else { return };
        if self.config.emit_filter_state {
            let text = format!("{},{}", counts.0, counts.1);
            ex.state.set("envoy.filters.http.grpc_stats".into(), text.into());
        }
    }
}

/// Messages seen so far (request, response), when they are counted.
pub fn messages(ex: &Exchange) -> Option<(u64, u64)> {
    ex.filters.iter().find_map(|s| match s {
        FilterState::GrpcStats(c) => Some((c.request.count, c.response.count)),
        _ => None,
    })
}

/// Data passes.
pub fn on_data(ex: &mut Exchange, data: &[u8], request: bool) {
    for s in &mut ex.filters {
        if let FilterState::GrpcStats(c) = s {
            if request { c.request.feed(data) } else { c.response.feed(data) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_split_anywhere() {
        let mut bytes = Vec::new();
        for n in [0u32, 3, 300] {
            bytes.push(0);
            bytes.extend_from_slice(&n.to_be_bytes());
            bytes.extend(std::iter::repeat_n(7, n as usize));
        }
        for step in 1..bytes.len() {
            let mut f = Frames::default();
            bytes.chunks(step).for_each(|c| f.feed(c));
            assert_eq!((f.count, f.header, f.skip), (3, 0, 0), "{step}");
        }
    }
}
