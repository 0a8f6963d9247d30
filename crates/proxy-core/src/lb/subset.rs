//! Which hosts form the subset that a request asks for? Envoy's subset selection by metadata.

use proxy_config::Name;
use proxy_config::cluster::{SubsetConfig, SubsetFallback};
use proxy_config::common::{Metadata, Value};

/// The hosts a request may use.
#[derive(Debug, Clone, PartialEq)]
pub enum Choice<'a> {
    /// Hosts whose metadata have these values.
    Subset(&'a [(Name, Value)], SubsetFallback),
    /// What the fallback policy says, because no selector has exactly these keys.
    Fallback(SubsetFallback),
}

/// Resolves `wanted` (sorted by key; route and weighted cluster merged).
///
/// A selector applies when its keys are exactly the wanted ones. The subset is used if any host is in it, else the
/// selector's fallback.
pub fn choose<'a>(config: &SubsetConfig, wanted: &'a [(Name, Value)]) -> Choice<'a> {
    let keys = |s: &&proxy_config::cluster::SubsetSelector| {
        s.keys.len() == wanted.len() && s.keys.iter().zip(wanted).all(|(a, (b, _))| a == b)
    };
    match config.selectors.iter().find(keys) {
        Some(s) if !wanted.is_empty() => Choice::Subset(wanted, s.fallback.unwrap_or(config.fallback)),
        _ => Choice::Fallback(config.fallback),
    }
}

/// True when a host's `envoy.lb` metadata have all of `values` (a list counts as any of its items with `list_as_any`).
pub fn contains(values: &[(Name, Value)], host: &Metadata, list_as_any: bool) -> bool {
    values.iter().all(|(key, want)| match host.get("envoy.lb", &[key]) {
        Some(Value::List(items)) if list_as_any => items.iter().any(|i| i == want),
        Some(have) => have == want,
        None => false,
    })
}
