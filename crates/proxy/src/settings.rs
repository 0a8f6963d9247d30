//! What do the parts below take from the bootstrap? Node facts and stats settings in their own types.

use std::sync::Arc;

use proxy_config::bootstrap as config;
use proxy_config::matcher::StringMatcher;
use telemetry::stats::{HistogramBuckets, NameMatcher, StatsMatcher, StoreOptions, TagSpec};

use crate::bootstrap::Bootstrap;
use crate::options::Options;

/// Facts of this node, for the data path.
pub fn node(bootstrap: &Bootstrap) -> l7::Node {
    let node = bootstrap.message.node.clone().unwrap_or_default();
    let metadata = node.metadata.as_ref().map(|m| Arc::new(proxy_config::parse::value_of_struct(m)));
    let hostname =
        std::fs::read_to_string("/proc/sys/kernel/hostname").map(|h| h.trim().to_owned()).unwrap_or_default();
    let zone = node.locality.map(|l| l.zone).unwrap_or_default();
    l7::Node { id: node.id, cluster: node.cluster, hostname, zone, metadata, failing: Arc::default() }
}

/// How stats are kept and tagged.
pub fn stats(bootstrap: &Bootstrap, options: &Options) -> StoreOptions {
    let stats = &bootstrap.config.stats;
    let fixed =
        options.stats_tags.iter().map(|(name, value)| TagSpec::Fixed { name: name.clone(), value: value.clone() });
    let tags = stats.tags.iter().map(|t| match t {
        config::StatsTag::Regex { name, regex } => {
            TagSpec::Regex { name: name.to_string(), regex: regex.as_str().to_owned() }
        }
        config::StatsTag::Fixed { name, value } => TagSpec::Fixed { name: name.to_string(), value: value.to_string() },
        config::StatsTag::Default(name) => TagSpec::Default(name.to_string()),
    });
    StoreOptions {
        workers: options.concurrency,
        tags: fixed.chain(tags).collect(),
        default_tags: stats.use_all_default_tags,
        matcher: match &stats.matcher {
            config::StatsMatcher::All => StatsMatcher::All,
            config::StatsMatcher::None => StatsMatcher::None,
            config::StatsMatcher::Include(list) => StatsMatcher::Inclusion(list.iter().map(matcher).collect()),
            config::StatsMatcher::Exclude(list) => StatsMatcher::Exclusion(list.iter().map(matcher).collect()),
        },
        buckets: stats
            .histogram_buckets
            .iter()
            .map(|(name, bounds)| HistogramBuckets { matcher: matcher(name), bounds: bounds.clone() })
            .collect(),
    }
}

fn matcher(matcher: &StringMatcher) -> NameMatcher {
    let matcher = matcher.clone();
    NameMatcher::Any(Arc::new(move |name: &str| matcher.matches(name.as_bytes())))
}
