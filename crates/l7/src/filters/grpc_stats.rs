//! How many messages does a gRPC call carry each way? Envoy's `GrpcStatsFilter`.

use std::sync::Arc;

use http1::HeaderId;
use proxy_config::Name;
use proxy_config::filters::http as config;
use telemetry::stats::Block;
use telemetry::stats::envoy::grpc_call as stat;

use super::grpc_calls::{self, Calls};
use super::{FilterState, Step};
use crate::exchange::Exchange;
use crate::manager::Deps;

/// The filter of one chain.
pub struct GrpcStats {
    config: Arc<config::GrpcStats>,
    calls: Calls,
}

/// Counts of one call.
#[derive(Default)]
pub struct Counts {
    request: Frames,
    response: Frames,
    /// The response is one of gRPC.
    answered: bool,
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
    pub fn new(config: Arc<config::GrpcStats>, deps: &Deps<'_>) -> Self {
        GrpcStats { config, calls: Calls::new(deps.store, "grpc") }
    }

    /// Starts counting gRPC calls.
    pub fn on_request(&self, ex: &mut Exchange) -> Step {
        if ex.grpc {
            ex.filters.push(FilterState::GrpcStats(Counts::default()));
            ex.taps_request = true;
            ex.taps_response = true;
        }
        Step::Continue
    }

    /// Notes whether messages follow.
    pub fn on_response(&self, ex: &mut Exchange) {
        let grpc = ex.response.get_id(HeaderId::CONTENT_TYPE).is_some_and(|c| c.starts_with(b"application/grpc"));
        for s in &mut ex.filters {
            if let FilterState::GrpcStats(c) = s {
                c.answered = grpc;
            }
        }
    }

    /// Counts the call, and publishes its counts as filter state.
    pub fn on_end(&self, ex: &mut Exchange) {
        let Some(counts) = messages(ex) else { return };
        if let Some(block) = self.block(ex) {
            block.add(stat::REQUEST_MESSAGE_COUNT, counts.0);
            block.add(stat::RESPONSE_MESSAGE_COUNT, counts.1);
            if let Some(status) = grpc_calls::status(&ex.response, &ex.response_trailers) {
                grpc_calls::charge(&block, status);
            }
        }
        if self.config.emit_filter_state {
            let text = format!("{},{}", counts.0, counts.1);
            ex.state.set("envoy.filters.http.grpc_stats".into(), text.into());
        }
    }
}

impl GrpcStats {
    /// The counters of the exchange's method, as far as methods are told apart.
    fn block(&self, ex: &Exchange) -> Option<Block<stat::Call>> {
        let cluster = ex.upstream.cluster.as_ref()?;
        let (service, method) = grpc_calls::method(ex.request.path())?;
        let listed = |(of, methods): &(Name, Box<[Name]>)| **of == *service && methods.iter().any(|m| **m == *method);
        if !self.config.all_methods && !self.config.allowlist.iter().any(listed) {
            return self.calls.of(cluster, None);
        }
        match self.config.replace_dots_in_grpc_service_name {
            true => self.calls.of(cluster, Some((&service.replace('.', "_"), method))),
            false => self.calls.of(cluster, Some((service, method))),
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
            match request {
                true => c.request.feed(data),
                false if c.answered => c.response.feed(data),
                false => {}
            }
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
