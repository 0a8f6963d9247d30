//! Which dynamic metadata does the configuration write? Envoy's `set_metadata`.

use std::collections::BTreeMap;
use std::sync::Arc;

use proxy_config::Name;
use proxy_config::common::Value;
use proxy_config::filters::http::SetMetadataEntry;
use telemetry::stats::Block;
use telemetry::stats::envoy::set_metadata as stat;

use super::Step;
use crate::exchange::Exchange;
use crate::manager::Deps;

/// The filter of one chain.
pub struct SetMetadata {
    entries: Arc<[SetMetadataEntry]>,
    stats: Block<stat::SetMetadata>,
}

impl SetMetadata {
    /// Compiles the filter.
    pub fn new(entries: Arc<[SetMetadataEntry]>, stat_prefix: &Name, deps: &Deps<'_>) -> Self {
        SetMetadata { entries, stats: deps.store.block(&format!("http.{stat_prefix}.set_metadata.")) }
    }

    /// Writes the entries.
    pub fn on_request(&self, ex: &mut Exchange) -> Step {
        for e in self.entries.iter() {
            match ex.metadata.get(&e.namespace) {
                Some(old) if e.merge => {
                    let merged = merged(old, &e.value);
                    ex.metadata.set(e.namespace.clone(), merged);
                }
                Some(_) if !e.allow_overwrite => self.stats.inc(stat::OVERWRITE_DENIED),
                _ => ex.metadata.set(e.namespace.clone(), e.value.clone()),
            }
        }
        Step::Continue
    }
}

/// `new` over `old`: structs are merged, lists joined, all else replaced.
fn merged(old: &Value, new: &Value) -> Value {
    match (old, new) {
        (Value::Struct(a), Value::Struct(b)) => {
            let mut out: BTreeMap<Name, Value> = (**a).clone();
            for (key, value) in b.iter() {
                let value = out.get(key).map_or_else(|| value.clone(), |there| merged(there, value));
                out.insert(key.clone(), value);
            }
            Value::Struct(Arc::new(out))
        }
        (Value::List(a), Value::List(b)) => Value::List(a.iter().chain(b.iter()).cloned().collect()),
        _ => new.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filters::jwt_authn::token::{json, object};

    #[test]
    fn merging() {
        let old = object(br#"{"a":{"b":1,"l":[1]},"c":2}"#).unwrap();
        let new = object(br#"{"a":{"b":3,"l":[2]},"d":4}"#).unwrap();
        assert_eq!(json(&merged(&old, &new)).to_string(), r#"{"a":{"b":3,"l":[1,2]},"c":2,"d":4}"#);
    }
}
