//! `proxy-config ecds`: which extension configurations does a proxy have?

use serde_json::Value;

use super::dump::{Dump, camel};
use super::text;
use crate::tabwriter::table;

fn filters(dump: &Dump) -> Vec<Value> {
    let entries = dump.section("EcdsConfigDump").and_then(|section| section["ecds_filters"].as_array());
    entries.into_iter().flatten().map(|entry| entry["ecds_filter"].clone()).collect()
}

pub(super) fn summary(dump: &Dump) -> String {
    let head = ["ECDS NAME", "TYPE"].map(str::to_owned).to_vec();
    let rows = filters(dump).into_iter().map(|filter| {
        let kind = text(&filter["typed_config"]["@type"]).rsplit('/').next().unwrap_or_default().to_owned();
        vec![text(&filter["name"]).to_owned(), kind]
    });
    table(std::iter::once(head).chain(rows), 5)
}

pub(super) fn all(dump: &Dump) -> Value {
    filters(dump).iter().map(|filter| camel(filter, false)).collect()
}
