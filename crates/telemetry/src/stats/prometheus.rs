//! What does a Prometheus server scrape? `/stats/prometheus` in Envoy's shape.
//!
//! One pass collects which series belong to which metric, eight bytes each; a second writes them, so that a page of
//! a hundred thousand series is never held in memory.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use super::block::{Core, Kind};
use super::histogram::SUPPORTED_QUANTILES;
use super::render::{HistogramMode, Query};
use super::store::{MetricKind, Store, metric, untag, walk};
use super::tags::Extraction;

/// Namespaces whose metrics carry no `envoy_` in front, as those registered by Istio's extensions.
const CUSTOM_NAMESPACES: [&str; 2] = ["istiocustom.", "wasmcustom."];

/// Renders the page, handed to `sink` in pieces.
pub fn prometheus(store: &Store, query: &Query, mut sink: impl FnMut(&str)) {
    let cores = store.cores();
    let extraction = store.extractor().compile();
    let mut labels = Labels::default();
    // The order of groups is Envoy's: counters, gauges, text readouts, histograms.
    for group in [Kind::Counter, Kind::Gauge, Kind::Text, Kind::Histogram] {
        if group == Kind::Text && !query.text_readouts {
            continue;
        }
        let mut families: BTreeMap<String, Vec<(u32, Kind, u16)>> = BTreeMap::new();
        let index: std::collections::HashMap<usize, u32> =
            cores.iter().enumerate().map(|(i, c)| (Arc::as_ptr(c) as usize, i as u32)).collect();
        walk(&cores, group == Kind::Histogram, |name, core, kind, id| {
            let in_group = kind == group || (kind == Kind::Code && group == Kind::Counter);
            if in_group && !store.matcher().rejects(name) && query.takes(&metric(name, core, kind, id)) {
                labels.of(&extraction, core, name);
                let at = index[&(std::ptr::from_ref(core) as usize)];
                families.entry(metric_name(&labels.bare)).or_default().push((at, kind, id));
            }
        });
        for (family, series) in families {
            let word = match group {
                Kind::Counter | Kind::Code => "counter",
                Kind::Gauge | Kind::Text => "gauge",
                Kind::Histogram if query.histograms == HistogramMode::Summary => "summary",
                Kind::Histogram => "histogram",
            };
            sink(&format!("# TYPE {family} {word}\n"));
            for (at, kind, id) in series {
                let core = &*cores[at as usize];
                let name = full_name(core, kind, id);
                labels.of(&extraction, core, &name);
                sink(&lines(store, query, &family, &labels.text, &metric(&name, core, kind, id).value, &name));
            }
        }
    }
}

fn full_name(core: &Core, kind: Kind, id: u16) -> String {
    let prefix = &core.prefix;
    match kind {
        Kind::Counter => format!("{prefix}{}", core.def.counters[id as usize].name),
        Kind::Gauge => format!("{prefix}{}", core.def.gauges[id as usize].name),
        Kind::Text => format!("{prefix}{}", core.def.texts[id as usize].name),
        Kind::Histogram => format!("{prefix}{}", core.def.histograms[id as usize].name),
        Kind::Code => format!("{prefix}{}{}", core.def.codes[(id >> 12) as usize].prefix, id & 0xfff),
    }
}

#[derive(Default)]
struct Labels {
    bare: String,
    text: String,
}

impl Labels {
    fn of(&mut self, extraction: &Extraction<'_>, core: &Core, name: &str) {
        self.text.clear();
        let text = &mut self.text;
        let label = |key: &str, value: &str| {
            if !text.is_empty() {
                text.push(',');
            }
            text.extend(key.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }));
            text.push_str("=\"");
            for c in value.chars() {
                match c {
                    '\\' => text.push_str("\\\\"),
                    '\n' => text.push_str("\\n"),
                    '"' => text.push_str("\\\""),
                    c => text.push(c),
                }
            }
            text.push('"');
        };
        untag(core, name, extraction, &mut self.bare, label);
    }
}

/// Prometheus' name of a stat without tags.
fn metric_name(bare: &str) -> String {
    let clean = |s: &str| -> String {
        s.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect()
    };
    match CUSTOM_NAMESPACES.iter().find_map(|n| bare.strip_prefix(n)) {
        Some(own) => clean(own),
        None => format!("envoy_{}", clean(bare)),
    }
}

fn lines(store: &Store, query: &Query, family: &str, labels: &str, value: &MetricKind, name: &str) -> String {
    let comma = if labels.is_empty() { "" } else { "," };
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = match value {
        MetricKind::Counter(n) | MetricKind::Gauge(n) => writeln!(out, "{family}{{{labels}}} {n}"),
        MetricKind::Text(t) => {
            writeln!(
                out,
                "{family}{{{labels}{comma}text_value=\"{}\"}} 0",
                t.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
            )
        }
        MetricKind::Histogram { cumulative, interval } => {
            if query.histograms == HistogramMode::Summary {
                let values = interval.quantiles();
                for (i, q) in SUPPORTED_QUANTILES.iter().enumerate() {
                    let shown = values.map_or("nan".to_owned(), |v| precise(v[i]));
                    let _ = writeln!(out, "{family}{{{labels}{comma}quantile=\"{q}\"}} {shown}");
                }
            } else {
                for bound in store.bounds(name) {
                    let _ = writeln!(
                        out,
                        "{family}_bucket{{{labels}{comma}le=\"{}\"}} {}",
                        precise(*bound),
                        cumulative.count_below(*bound)
                    );
                }
                let _ = writeln!(out, "{family}_bucket{{{labels}{comma}le=\"+Inf\"}} {}", cumulative.count());
            }
            let _ = writeln!(out, "{family}_sum{{{labels}}} {}", precise(cumulative.sum()));
            writeln!(out, "{family}_count{{{labels}}} {}", cumulative.count())
        }
    };
    out
}

/// C's `%.32g` of a number that is not huge: exact decimal digits, 32 of them at most.
fn precise(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let digits = 31 - value.abs().log10().floor() as i32;
    let text = format!("{value:.*}", digits.max(0) as usize);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{Block, envoy};

    mod istio {
        crate::stat_schema! { Requests; counters { REQUESTS_TOTAL = "istio_requests_total" } gauges {} histograms {} texts {} codes {} }
    }

    #[test]
    fn page_as_stock_envoy() {
        let store = Store::new(Default::default());
        let cluster: Block<envoy::cluster::Cluster> = store.block("cluster.c1.");
        envoy::charge(&cluster, 200, false, false);
        (0..10).for_each(|_| cluster.record(envoy::cluster::UPSTREAM_RQ_PER_CX, 3));
        let requests: Block<istio::Requests> =
            store.tagged_block("istiocustom.", &[("reporter", "source"), ("destination_service", "a\"b.svc")]);
        requests.inc(istio::REQUESTS_TOTAL);
        let mut out = String::new();
        prometheus(&store, &Query { used_only: true, ..Query::default() }, |s| out.push_str(s));
        let (head, tail) =
            out.split_once("# TYPE envoy_cluster_upstream_rq_per_cx histogram\n").expect("histogram last");
        assert_eq!(
            head,
            "# TYPE envoy_cluster_external_upstream_rq counter\n\
             envoy_cluster_external_upstream_rq{envoy_response_code=\"200\",envoy_cluster_name=\"c1\"} 1\n\
             # TYPE envoy_cluster_external_upstream_rq_completed counter\n\
             envoy_cluster_external_upstream_rq_completed{envoy_cluster_name=\"c1\"} 1\n\
             # TYPE envoy_cluster_external_upstream_rq_xx counter\n\
             envoy_cluster_external_upstream_rq_xx{envoy_response_code_class=\"2\",envoy_cluster_name=\"c1\"} 1\n\
             # TYPE envoy_cluster_upstream_rq counter\n\
             envoy_cluster_upstream_rq{envoy_response_code=\"200\",envoy_cluster_name=\"c1\"} 1\n\
             # TYPE envoy_cluster_upstream_rq_completed counter\n\
             envoy_cluster_upstream_rq_completed{envoy_cluster_name=\"c1\"} 1\n\
             # TYPE envoy_cluster_upstream_rq_xx counter\n\
             envoy_cluster_upstream_rq_xx{envoy_response_code_class=\"2\",envoy_cluster_name=\"c1\"} 1\n\
             # TYPE istio_requests_total counter\n\
             istio_requests_total{reporter=\"source\",destination_service=\"a\\\"b.svc\"} 1\n"
        );
        assert!(tail.starts_with("envoy_cluster_upstream_rq_per_cx_bucket{envoy_cluster_name=\"c1\",le=\"0.5\"} 0\n"));
        assert!(tail.ends_with(
            "le=\"+Inf\"} 10\nenvoy_cluster_upstream_rq_per_cx_sum{envoy_cluster_name=\"c1\"} 30.491803278688522027550789061934\n\
             envoy_cluster_upstream_rq_per_cx_count{envoy_cluster_name=\"c1\"} 10\n"
        ), "{tail}");
    }
}
