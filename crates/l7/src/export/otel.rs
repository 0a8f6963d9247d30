//! What goes into an OpenTelemetry log record and its resource? Follows Envoy's `open_telemetry` access logger.

use std::time::UNIX_EPOCH;

use protos::opentelemetry::proto::logs::v1::LogRecord;
use protos::opentelemetry::proto::resource::v1::Resource;
use protos::prost::Message as _;
use proxy_config::access_log::OtelLog;
use proxy_core::Facts;

use super::value::{any_value, key_value, text};

/// One record, encoded.
pub fn log_record(log: &OtelLog, facts: &Facts<'_>) -> Vec<u8> {
    let id = |hex: &str| -> Vec<u8> {
        let digits = hex.as_bytes().chunks_exact(2);
        digits.filter_map(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 16).ok()).collect()
    };
    let record = LogRecord {
        time_unix_nano: facts.start.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64),
        body: log.body.as_ref().map(|b| any_value(b, facts)),
        attributes: log.attributes.iter().map(|(k, v)| key_value(k, any_value(v, facts))).collect(),
        trace_id: id(facts.trace_id),
        span_id: id(facts.span_id),
        ..LogRecord::default()
    };
    record.encode_to_vec()
}

/// The resource of all records of a log, encoded.
pub fn resource(log: &OtelLog, node: &crate::Node) -> Vec<u8> {
    let mut attributes = Vec::new();
    if !log.disable_builtin_labels {
        attributes.push(text("log_name", &log.log_name));
        attributes.push(text("zone_name", &node.zone));
        attributes.push(text("cluster_name", &node.cluster));
        attributes.push(text("node_name", &node.id));
    }
    let facts = Facts::default();
    attributes.extend(log.resource_attributes.iter().map(|(k, v)| key_value(k, any_value(v, &facts))));
    Resource { attributes, ..Resource::default() }.encode_to_vec()
}
