//! Envoy's own tables of stats, one module per scope, with the few rules that span several rows of one.
//!
//! Callers use them flat: `telemetry::stats::envoy::{cluster, hcm, listener}`.

mod export_tables;
mod http;
mod istio_tables;
mod listener_tables;
mod server_tables;
mod upstream;

pub use export_tables::*;
pub use http::*;
pub use istio_tables::*;
pub use listener_tables::*;
pub use server_tables::*;
pub use upstream::*;

use super::{Block, Counter, Schema, SchemaDef};

/// Scopes that Envoy makes together with another, by suffix: printed as zeros for as long as nobody has written to them, so that they
/// cost nothing until then.
pub(crate) fn companions(def: &SchemaDef) -> &'static [(&'static str, &'static SchemaDef)] {
    static CLUSTER: [(&str, &SchemaDef); 3] = [
        ("circuit_breakers.default.", circuit_breakers::CircuitBreakers::DEF),
        ("circuit_breakers.high.", circuit_breakers::CircuitBreakers::DEF),
        ("default.", total_match_count::TotalMatchCount::DEF),
    ];
    static HCM: [(&str, &SchemaDef); 1] = [("tracing.", tracing::Tracing::DEF)];
    if std::ptr::eq(def, cluster::Cluster::DEF) {
        &CLUSTER
    } else if std::ptr::eq(def, hcm::Hcm::DEF) {
        &HCM
    } else {
        &[]
    }
}

/// The five class counters of a table, 1xx first.
pub type Classes<S> = [Counter<S>; 5];

/// Counts a status in its class; statuses outside 100-599 are not counted, as in Envoy.
pub fn class<S: Schema>(block: &Block<S>, classes: &Classes<S>, status: u16) {
    if let Some(counter) = (status / 100).checked_sub(1).and_then(|c| classes.get(c as usize)) {
        block.inc(*counter);
    }
}

/// `hcm` classes, for [`class`].
pub const HCM_CLASSES: Classes<hcm::Hcm> = [
    hcm::DOWNSTREAM_RQ_1XX,
    hcm::DOWNSTREAM_RQ_2XX,
    hcm::DOWNSTREAM_RQ_3XX,
    hcm::DOWNSTREAM_RQ_4XX,
    hcm::DOWNSTREAM_RQ_5XX,
];

/// `listener_http` classes, for [`class`].
pub const LISTENER_HTTP_CLASSES: Classes<listener_http::ListenerHttp> = [
    listener_http::DOWNSTREAM_RQ_1XX,
    listener_http::DOWNSTREAM_RQ_2XX,
    listener_http::DOWNSTREAM_RQ_3XX,
    listener_http::DOWNSTREAM_RQ_4XX,
    listener_http::DOWNSTREAM_RQ_5XX,
];

const CLUSTER_CLASSES: Classes<cluster::Cluster> = [
    cluster::UPSTREAM_RQ_1XX,
    cluster::UPSTREAM_RQ_2XX,
    cluster::UPSTREAM_RQ_3XX,
    cluster::UPSTREAM_RQ_4XX,
    cluster::UPSTREAM_RQ_5XX,
];
const EXTERNAL_CLASSES: Classes<cluster::Cluster> = [
    cluster::EXTERNAL_UPSTREAM_RQ_1XX,
    cluster::EXTERNAL_UPSTREAM_RQ_2XX,
    cluster::EXTERNAL_UPSTREAM_RQ_3XX,
    cluster::EXTERNAL_UPSTREAM_RQ_4XX,
    cluster::EXTERNAL_UPSTREAM_RQ_5XX,
];
const INTERNAL_CLASSES: Classes<cluster::Cluster> = [
    cluster::INTERNAL_UPSTREAM_RQ_1XX,
    cluster::INTERNAL_UPSTREAM_RQ_2XX,
    cluster::INTERNAL_UPSTREAM_RQ_3XX,
    cluster::INTERNAL_UPSTREAM_RQ_4XX,
    cluster::INTERNAL_UPSTREAM_RQ_5XX,
];
const CANARY_CLASSES: Classes<cluster::Cluster> = [
    cluster::CANARY_UPSTREAM_RQ_1XX,
    cluster::CANARY_UPSTREAM_RQ_2XX,
    cluster::CANARY_UPSTREAM_RQ_3XX,
    cluster::CANARY_UPSTREAM_RQ_4XX,
    cluster::CANARY_UPSTREAM_RQ_5XX,
];

/// Charges one upstream response to its cluster: `upstream_rq_completed`, its class and its code, again under `external.` or
/// `internal.`, and under `canary.` if the host or response is one. Follows `CodeStatsImpl::chargeResponseStat`.
pub fn charge(block: &Block<cluster::Cluster>, status: u16, internal: bool, canary: bool) {
    let one = |completed, classes: &Classes<cluster::Cluster>, code| {
        block.inc(completed);
        class(block, classes, status);
        block.code(code, status);
    };
    one(cluster::UPSTREAM_RQ_COMPLETED, &CLUSTER_CLASSES, cluster::UPSTREAM_RQ);
    if internal {
        one(cluster::INTERNAL_UPSTREAM_RQ_COMPLETED, &INTERNAL_CLASSES, cluster::INTERNAL_UPSTREAM_RQ);
    } else {
        one(cluster::EXTERNAL_UPSTREAM_RQ_COMPLETED, &EXTERNAL_CLASSES, cluster::EXTERNAL_UPSTREAM_RQ);
    }
    if canary {
        one(cluster::CANARY_UPSTREAM_RQ_COMPLETED, &CANARY_CLASSES, cluster::CANARY_UPSTREAM_RQ);
    }
}

/// Records the time of one upstream response, in milliseconds, as [`charge`] splits it.
pub fn charge_time(block: &Block<cluster::Cluster>, ms: u64, internal: bool, canary: bool) {
    block.record(cluster::UPSTREAM_RQ_TIME, ms);
    block.record(if internal { cluster::INTERNAL_UPSTREAM_RQ_TIME } else { cluster::EXTERNAL_UPSTREAM_RQ_TIME }, ms);
    if canary {
        block.record(cluster::CANARY_UPSTREAM_RQ_TIME, ms);
    }
}
