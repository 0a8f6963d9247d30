//! Does the rate limit service have room for this request? Envoy's global `ratelimit`.

use std::rc::Rc;
use std::sync::Arc;

use protos::envoy::extensions::common::ratelimit::v3 as common;
use protos::envoy::service::ratelimit::v3 as rls;
use protos::envoy::service::ratelimit::v3::rate_limit_response::{Code, DescriptorStatus, rate_limit::Unit};
use proxy_config::filters::FilterOverride;
use proxy_config::filters::http::{self as config, RequestType};
use telemetry::access_log::ResponseFlags;
use telemetry::stats::envoy::{charge, cluster_ratelimit as stat};

use super::descriptors::{self, Descriptor, OfVirtualHost};
use super::per_cluster::PerCluster;
use super::{FilterCx, FilterState, Step};
use crate::callout::grpc;
use crate::callout::wire::{self, HeaderEdit};
use crate::decide;
use crate::exchange::Exchange;
use crate::manager::Deps;
use crate::pool;
use crate::reply::{Body, LocalReply};
use crate::worker::Worker;

/// The method of a rate limit service.
const METHOD: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
/// Namespace of the filter's dynamic metadata.
const NAMESPACE: &str = "envoy.filters.http.ratelimit";

/// The filter of one chain.
pub struct RateLimit {
    config: Arc<config::RateLimitService>,
    clusters: PerCluster<stat::RateLimit>,
}

/// Headers that the response gets.
pub struct Answered(Vec<HeaderEdit>);

impl RateLimit {
    /// Compiles the filter.
    pub fn new(config: Arc<config::RateLimitService>, deps: &Deps<'_>) -> Arc<Self> {
        Arc::new(RateLimit { config, clusters: PerCluster::new(deps.store, "ratelimit.".to_owned()) })
    }

    /// Asks about the request's descriptors, if it has any.
    pub fn on_request(self: &Arc<Self>, cx: &FilterCx<'_>, ex: &mut Exchange, over: Option<&FilterOverride>) -> Step {
        let c = &self.config;
        match c.request_type {
            RequestType::Internal if !ex.internal => return Step::Continue,
            RequestType::External if ex.internal => return Step::Continue,
            _ => {}
        }
        let (own, vhost, domain) = match over {
            Some(FilterOverride::RateLimit(o)) => (&o.rate_limits[..], o.vh_rate_limits, o.domain.as_ref()),
            _ => (&[][..], 0, None),
        };
        let descriptors = descriptors::of(cx, ex, own, c.stage, OfVirtualHost::from(vhost));
        if descriptors.is_empty() {
            return Step::Continue;
        }
        let request = rls::RateLimitRequest {
            domain: domain.unwrap_or(&c.domain).to_string(),
            descriptors: descriptors.into_iter().map(message).collect(),
            ..Default::default()
        };
        let (this, worker) = (self.clone(), cx.conn.worker.clone());
        Step::Call(Box::pin(async move {
            let service = &this.config.service;
            let timeout = this.config.timeout;
            let said = grpc::unary::<_, rls::RateLimitResponse>(&worker, service, METHOD, &request, timeout, &[]).await;
            if let Err(e) = &said {
                telemetry::debug!(filter, "the service failed: {} {}", e.code, e.message);
            }
            let answer: super::Answer = Box::new(move |ex| this.apply(&worker, ex, said.ok()));
            answer
        }))
    }

    fn apply(&self, worker: &Rc<Worker>, ex: &mut Exchange, said: Option<rls::RateLimitResponse>) -> Step {
        let c = &self.config;
        let Some(said) = said else {
            self.clusters.inc(ex, stat::ERROR);
            if !c.failure_mode_deny {
                self.clusters.inc(ex, stat::FAILURE_MODE_ALLOWED);
                return Step::Continue;
            }
            let mut reply = LocalReply { status: 500, details: "rate_limiter_error".into(), ..Default::default() };
            reply.flags = ResponseFlags::RATE_LIMIT_SERVICE_ERROR;
            reply.after_wait = true;
            return Step::reply(reply);
        };
        if let Some(m) = &said.dynamic_metadata {
            super::merge_metadata(ex, NAMESPACE, wire::fields(m));
        }
        let add = |h: &protos::envoy::config::core::v3::HeaderValue| HeaderEdit {
            name: h.key.to_ascii_lowercase().into_bytes(),
            value: if h.raw_value.is_empty() { h.value.clone().into_bytes() } else { h.raw_value.clone() },
            action: wire::Action::Add,
        };
        let mut response: Vec<HeaderEdit> = said.response_headers_to_add.iter().map(add).collect();
        if c.ratelimit_headers {
            response.extend(draft3(&said.statuses));
        }
        if said.overall_code == Code::OverLimit as i32 {
            return self.refuse(worker, ex, said.raw_body, response);
        }
        self.clusters.inc(ex, stat::OK);
        for edit in said.request_headers_to_add.iter().map(add).filter(HeaderEdit::is_valid) {
            edit.apply(&mut ex.request);
        }
        if !response.is_empty() {
            ex.filters.push(FilterState::RateLimit(Answered(response)));
        }
        Step::Continue
    }

    fn refuse(&self, worker: &Worker, ex: &mut Exchange, body: Vec<u8>, mut headers: Vec<HeaderEdit>) -> Step {
        let c = &self.config;
        self.clusters.inc(ex, stat::OVER_LIMIT);
        if let Some(cluster) = ex.upstream.cluster.as_ref().and_then(|n| pool::cluster(worker, n)) {
            charge(cluster.stats(), c.status, true, false);
        }
        if !c.disable_x_envoy_ratelimited {
            let name = b"x-envoy-ratelimited".to_vec();
            headers.push(HeaderEdit { name, value: b"true".to_vec(), action: wire::Action::Add });
        }
        let mut reply = LocalReply { status: c.status, details: "request_rate_limited".into(), ..Default::default() };
        reply.flags = ResponseFlags::RATE_LIMITED;
        reply.body = Body::Owned(body);
        reply.grpc_status = Some(if c.rate_limited_as_resource_exhausted { 8 } else { 14 });
        reply.headers = decide::literal_headers(&c.response_headers);
        reply.edits = headers;
        reply.after_wait = true;
        Step::reply(reply)
    }
}

/// Adds what the service asked for to the response.
pub fn on_response(ex: &mut Exchange) {
    if let Some(FilterState::RateLimit(Answered(edits))) =
        ex.filters.iter().find(|s| matches!(s, FilterState::RateLimit(_)))
    {
        for edit in edits.iter().filter(|e| e.is_valid()) {
            edit.apply(&mut ex.response);
        }
    }
}

fn message(d: Descriptor) -> common::RateLimitDescriptor {
    let entries = d.into_iter().map(|(key, value)| common::rate_limit_descriptor::Entry { key, value });
    common::RateLimitDescriptor { entries: entries.collect(), ..Default::default() }
}

/// `x-ratelimit-*` of draft 3: the tightest limit, and all of them as policy.
fn draft3(statuses: &[DescriptorStatus]) -> Vec<HeaderEdit> {
    let mut policy = String::new();
    let mut tightest: Option<&DescriptorStatus> = None;
    for status in statuses {
        let Some(limit) = &status.current_limit else { continue };
        if tightest.is_none_or(|t| status.limit_remaining < t.limit_remaining) {
            tightest = Some(status);
        }
        let window = seconds(limit.unit);
        if window > 0 {
            policy.push_str(&format!(", {};w={window}", limit.requests_per_unit));
            if !limit.name.is_empty() {
                policy.push_str(&format!(";name=\"{}\"", limit.name));
            }
        }
    }
    let Some((status, limit)) = tightest.and_then(|t| Some((t, t.current_limit.as_ref()?))) else { return Vec::new() };
    let add = |name: &str, value: String| HeaderEdit {
        name: name.as_bytes().to_vec(),
        value: value.into_bytes(),
        action: wire::Action::Add,
    };
    vec![
        add("x-ratelimit-limit", format!("{}{policy}", limit.requests_per_unit)),
        add("x-ratelimit-remaining", status.limit_remaining.to_string()),
        add("x-ratelimit-reset", status.duration_until_reset.as_ref().map_or(0, |d| d.seconds).to_string()),
    ]
}

fn seconds(unit: i32) -> u32 {
    const DAY: u32 = 24 * 60 * 60;
    match Unit::try_from(unit) {
        Ok(Unit::Second) => 1,
        Ok(Unit::Minute) => 60,
        Ok(Unit::Hour) => 60 * 60,
        Ok(Unit::Day) => DAY,
        Ok(Unit::Week) => 7 * DAY,
        Ok(Unit::Month) => 31 * DAY,
        Ok(Unit::Year) => 366 * DAY,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protos::envoy::service::ratelimit::v3::rate_limit_response::RateLimit as Limit;

    #[test]
    fn headers_of_the_tightest_limit() {
        let status = |per: u32, unit: Unit, remaining: u32, name: &str| DescriptorStatus {
            current_limit: Some(Limit { requests_per_unit: per, unit: unit.into(), name: name.to_owned() }),
            limit_remaining: remaining,
            duration_until_reset: Some(protos::prost_types::Duration { seconds: i64::from(remaining), nanos: 0 }),
            ..Default::default()
        };
        let all = [status(10, Unit::Second, 5, "a"), DescriptorStatus::default(), status(100, Unit::Hour, 3, "")];
        let got: Vec<_> = draft3(&all).iter().map(|e| String::from_utf8_lossy(&e.value).into_owned()).collect();
        assert_eq!(got, ["100, 10;w=1;name=\"a\", 100;w=3600", "3", "3"]);
        assert!(draft3(&[DescriptorStatus::default()]).is_empty());
    }
}
