//! How is a request counted in Istio's standard metrics? The `istio.stats` HTTP filter.
//!
//! It only looks: everything happens when the exchange ends, and for gRPC calls every now and then as data passes.

use std::time::Duration;

use http1::HeaderId;
use telemetry::stats::envoy::istio as stat;

use super::{FilterState, Step, grpc_stats};
use crate::connection::Conn;
use crate::exchange::Exchange;
use crate::facts::facts;
use crate::istio::{End, Kind, Recorder};
use crate::pool;
use crate::stream::Found;

/// Messages of a call that were reported.
#[derive(Clone, Copy)]
pub struct Progress {
    request: u64,
    response: u64,
    next: u64,
}

/// Starts reporting a gRPC call.
pub fn on_request(recorder: &Recorder, conn: &Conn, ex: &mut Exchange) -> Step {
    if ex.grpc {
        let next = conn.worker.timers.now() + recorder.report_ms;
        ex.filters.push(FilterState::IstioStats(Progress { request: 0, response: 0, next }));
    }
    Step::Continue
}

fn progress(ex: &mut Exchange) -> Option<&mut Progress> {
    ex.filters.iter_mut().find_map(|s| match s {
        FilterState::IstioStats(p) => Some(p),
        _ => None,
    })
}

/// Data passes: reports messages when it is time and the peer is known.
pub fn on_data(recorder: &Recorder, conn: &Conn, found: Option<&Found>, ex: &mut Exchange) {
    let now = conn.worker.timers.now();
    let Some(p) = progress(ex).filter(|p| recorder.report_ms > 0 && now >= p.next) else { return };
    p.next = now + recorder.report_ms;
    if recorder.peer_read(ex.downstream_peer.is_some(), ex.upstream_peer.is_some()) {
        messages(recorder, conn, found, ex);
    }
}

fn messages(recorder: &Recorder, conn: &Conn, found: Option<&Found>, ex: &mut Exchange) {
    let Some((request, response)) = grpc_stats::messages(ex) else { return };
    let Some(p) = progress(ex) else { return };
    let more = (request - p.request, response - p.response);
    (p.request, p.response) = (request, response);
    observe(recorder, conn, found, ex, Kind::Messages, None, false, |series| {
        if let Some(block) = &series.first {
            block.add(stat::REQUEST_MESSAGES_TOTAL, more.0);
        }
        if let Some(block) = &series.second {
            block.add(stat::RESPONSE_MESSAGES_TOTAL, more.1);
        }
    });
}

/// The exchange is over.
pub fn on_end(recorder: &Recorder, conn: &Conn, found: Option<&Found>, ex: &mut Exchange) {
    let grpc = ex.grpc;
    if grpc {
        messages(recorder, conn, found, ex);
    }
    let ms = ex.times.begin.zip(ex.times.response_end).map_or(Duration::ZERO, |(b, e)| e.saturating_duration_since(b));
    let wire = ex.wire;
    let status = if grpc { grpc_status(ex) } else { None };
    observe(recorder, conn, found, ex, Kind::Request { grpc }, status, true, |series| {
        if let Some(block) = &series.first {
            block.inc(stat::REQUESTS_TOTAL);
        }
        if let Some(block) = &series.second {
            block.record(stat::REQUEST_DURATION_MILLISECONDS, ms.as_millis() as u64);
        }
        if let Some(block) = &series.third {
            block.record(stat::REQUEST_BYTES, wire.0);
        }
        if let Some(block) = &series.fourth {
            block.record(stat::RESPONSE_BYTES, wire.1);
        }
    });
}

/// The call's status: from trailers, else headers, else what the HTTP status stands for.
fn grpc_status(ex: &Exchange) -> Option<u32> {
    let said = ex.response_trailers.get_id(HeaderId::GRPC_STATUS).or(ex.response.get_id(HeaderId::GRPC_STATUS));
    match said {
        Some(v) => std::str::from_utf8(v).ok()?.parse().ok(),
        None => (ex.status != 0).then(|| crate::reply::grpc_status(ex.status)),
    }
}

#[allow(clippy::too_many_arguments)] // One call per kind of report, all of them here.
fn observe(
    recorder: &Recorder,
    conn: &Conn,
    found: Option<&Found>,
    ex: &Exchange,
    kind: Kind,
    grpc_status: Option<u32>,
    over: bool,
    count: impl FnOnce(&crate::istio::Series),
) {
    let cluster = ex.upstream.cluster.as_ref().and_then(|name| pool::cluster(&conn.worker, name));
    let mut facts = facts(conn, ex, found);
    facts.cluster_metadata = cluster.as_ref().map(pool::Cluster::metadata);
    let end = End {
        kind,
        facts: &facts,
        downstream: ex.downstream_peer.as_ref(),
        upstream: ex.upstream_peer.as_ref(),
        grpc_status,
    };
    recorder.record(&end, over, count);
}
