//! `proxy-config ecds`: which extension configurations does a proxy have?

use serde_json::Value;

use super::dump::{Dump, camel};
use super::text;
use crate::tabwriter::table;

/// Filters by type and name.
fn filters(dump: &Dump) -> Vec<Value> {
    let entries =
        dump.sections("EcdsConfigDump").flat_map(|section| section["ecds_filters"].as_array().into_iter().flatten());
    let mut filters: Vec<Value> = entries.map(|entry| entry["ecds_filter"].clone()).collect();
    filters.sort_by_key(|filter| (kind(filter), text(&filter["name"]).to_owned()));
    filters
}

fn kind(filter: &Value) -> String {
    text(&filter["typed_config"]["@type"]).rsplit('/').next().unwrap_or_default().to_owned()
}

pub(super) fn summary(dump: &Dump) -> String {
    let head = ["ECDS NAME", "TYPE"].map(str::to_owned).to_vec();
    let rows = filters(dump).into_iter().map(|filter| vec![text(&filter["name"]).to_owned(), kind(&filter)]);
    table(std::iter::once(head).chain(rows), 5)
}

pub(super) fn all(dump: &Dump) -> Value {
    filters(dump).iter().map(|filter| camel(filter, false)).collect()
}
