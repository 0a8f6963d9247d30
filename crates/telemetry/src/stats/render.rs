//! What does `/stats` print? Text and JSON in Envoy's shapes; the Prometheus page is in `prometheus.rs`.

use std::fmt::Write;
use std::sync::Arc;

use regex::Regex;
use serde_json::{Value, json};

use super::histogram::{Bins, SUPPORTED_QUANTILES};
use super::store::{Metric, MetricKind, Store};

/// `?type=`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TypeFilter {
    /// Every stat.
    #[default]
    All,
    /// `Counters`
    Counters,
    /// `Gauges`
    Gauges,
    /// `Histograms`
    Histograms,
    /// `TextReadouts`
    TextReadouts,
}

/// `?histogram_buckets=`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HistogramMode {
    /// Not given: quantiles in text and JSON, cumulative buckets in Prometheus.
    #[default]
    Unset,
    /// `cumulative`
    Cumulative,
    /// `disjoint`
    Disjoint,
    /// `detailed`
    Detailed,
    /// `summary`
    Summary,
}

/// What the reader asked for.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// Only stats that were ever written.
    pub used_only: bool,
    /// Only names in which this is found.
    pub filter: Option<Arc<Regex>>,
    /// Only one kind.
    pub kind: TypeFilter,
    /// How histograms are shown.
    pub histograms: HistogramMode,
    /// Text readouts in Prometheus, as gauges of value 0.
    pub text_readouts: bool,
}

impl Query {
    pub(crate) fn takes(&self, metric: &Metric<'_>) -> bool {
        let kind = match metric.value {
            MetricKind::Counter(_) => TypeFilter::Counters,
            MetricKind::Gauge(_) => TypeFilter::Gauges,
            MetricKind::Text(_) => TypeFilter::TextReadouts,
            MetricKind::Histogram { .. } => TypeFilter::Histograms,
        };
        (self.kind == TypeFilter::All || self.kind == kind)
            && (metric.used || !self.used_only)
            && self.filter.as_ref().is_none_or(|f| f.is_match(metric.name))
    }
}

/// Plain text, handed to `sink` in pieces of a few lines.
pub fn text(store: &Store, query: &Query, mut sink: impl FnMut(&str)) {
    let mut line = String::new();
    store.visit(|m| {
        if !query.takes(m) {
            return;
        }
        line.clear();
        // Writing to a String cannot fail.
        let _ = match &m.value {
            MetricKind::Counter(n) | MetricKind::Gauge(n) => writeln!(line, "{}: {n}", m.name),
            MetricKind::Text(t) => writeln!(line, "{}: \"{}\"", m.name, html_escape(t)),
            MetricKind::Histogram { cumulative, interval } => {
                histogram_line(&mut line, store, query, m.name, cumulative, interval)
            }
        };
        sink(&line);
    });
}

fn html_escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

fn histogram_line(
    line: &mut String,
    store: &Store,
    query: &Query,
    name: &str,
    all: &Bins,
    interval: &Bins,
) -> std::fmt::Result {
    if all.is_empty() {
        return writeln!(line, "{name}: No recorded values");
    }
    match query.histograms {
        HistogramMode::Unset | HistogramMode::Summary => {
            writeln!(line, "{name}: {}", summary(all, interval))
        }
        HistogramMode::Cumulative | HistogramMode::Disjoint => {
            write!(line, "{name}:")?;
            for (bound, i, c) in buckets(store.bounds(name), query.histograms, all, interval) {
                write!(line, " B{}({i},{c})", general(bound))?;
            }
            line.push('\n');
            Ok(())
        }
        HistogramMode::Detailed => {
            let bins = |b: &Bins| {
                b.iter().map(|(l, w, n)| format!("{},{}:{n}", general(l), general(w))).collect::<Vec<_>>().join(", ")
            };
            writeln!(
                line,
                "{name}:\n  totals={}\n  intervals={}\n  summary={}",
                bins(all),
                bins(interval),
                summary(all, interval)
            )
        }
    }
}

fn summary(all: &Bins, interval: &Bins) -> String {
    let (all, interval) = (all.quantiles(), interval.quantiles());
    let mut out = String::new();
    for (i, q) in SUPPORTED_QUANTILES.iter().enumerate() {
        let show = |values: &Option<super::Quantiles>| values.map_or("nan".to_owned(), |v| v[i].to_string());
        let _ =
            write!(out, "{}P{}({},{})", if i == 0 { "" } else { " " }, general(100.0 * q), show(&interval), show(&all));
    }
    out
}

/// (bound, interval, cumulative) per bucket.
fn buckets(bounds: &[f64], mode: HistogramMode, all: &Bins, interval: &Bins) -> Vec<(f64, u64, u64)> {
    let mut before = (0, 0);
    bounds
        .iter()
        .map(|&bound| {
            let now = (interval.count_below(bound), all.count_below(bound));
            let shown = if mode == HistogramMode::Disjoint { (now.0 - before.0, now.1 - before.1) } else { now };
            before = now;
            (bound, shown.0, shown.1)
        })
        .collect()
}

/// C's `%g`: six significant digits, exponent form from 1e6 on.
pub(crate) fn general(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let exponent = value.abs().log10().floor() as i32;
    if (-4..6).contains(&exponent) {
        let text = format!("{value:.*}", (5 - exponent).max(0) as usize);
        return if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text };
    }
    let mantissa = format!("{:.5}", value / 10f64.powi(exponent));
    format!(
        "{}e{}{:02}",
        mantissa.trim_end_matches('0').trim_end_matches('.'),
        if exponent < 0 { '-' } else { '+' },
        exponent.abs()
    )
}

fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 9e15 { json!(value as i64) } else { json!(value) }
}

/// JSON, as one document on one line.
pub fn json(store: &Store, query: &Query, mut sink: impl FnMut(&str)) {
    sink("{\"stats\":[");
    let mut first = true;
    let mut comma = move || if std::mem::take(&mut first) { "" } else { "," };
    let mut histograms = Vec::new();
    store.visit(|m| {
        if !query.takes(m) {
            return;
        }
        match &m.value {
            MetricKind::Counter(n) | MetricKind::Gauge(n) => {
                sink(&format!("{}{{\"name\":{},\"value\":{n}}}", comma(), json!(m.name)))
            }
            MetricKind::Text(t) => sink(&format!("{}{{\"name\":{},\"value\":{}}}", comma(), json!(m.name), json!(t))),
            MetricKind::Histogram { cumulative, interval } => {
                histograms.push(histogram_json(store, query, m.name, cumulative, interval))
            }
        }
    });
    if !histograms.is_empty() {
        let quantiles: Vec<Value> = SUPPORTED_QUANTILES.iter().map(|q| number(100.0 * q)).collect();
        let all = match query.histograms {
            HistogramMode::Unset | HistogramMode::Summary => {
                json!({"histograms": {"supported_quantiles": quantiles, "computed_quantiles": histograms}})
            }
            HistogramMode::Detailed => {
                json!({"histograms": {"supported_percentiles": quantiles, "details": histograms}})
            }
            HistogramMode::Cumulative | HistogramMode::Disjoint => {
                json!({"histograms": histograms})
            }
        };
        sink(comma());
        sink(&all.to_string());
    }
    sink("]}");
}

fn histogram_json(store: &Store, query: &Query, name: &str, all: &Bins, interval: &Bins) -> Value {
    let values = || -> Vec<Value> {
        let (all, interval) = (all.quantiles(), interval.quantiles());
        (0..SUPPORTED_QUANTILES.len())
            .map(|i| json!({"cumulative": all.map(|v| number(v[i])), "interval": interval.map(|v| number(v[i]))}))
            .collect()
    };
    match query.histograms {
        HistogramMode::Unset | HistogramMode::Summary => json!({"name": name, "values": values()}),
        HistogramMode::Detailed => {
            let bins = |b: &Bins| -> Vec<Value> {
                b.iter().map(|(l, w, n)| json!({"lower_bound": number(l), "width": number(w), "count": n})).collect()
            };
            json!({"name": name, "totals": bins(all), "intervals": bins(interval), "percentiles": values()})
        }
        HistogramMode::Cumulative | HistogramMode::Disjoint => {
            let list: Vec<Value> = buckets(store.bounds(name), query.histograms, all, interval)
                .into_iter()
                .map(|(bound, i, c)| json!({"upper_bound": number(bound), "interval": i, "cumulative": c}))
                .collect();
            json!({"name": name, "buckets": list})
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{Block, envoy::cluster};

    fn filled() -> (Arc<Store>, Block<cluster::Cluster>) {
        let store = Store::new(Default::default());
        let block: Block<cluster::Cluster> = store.block("cluster.c1.");
        (0..10).for_each(|_| block.record(cluster::UPSTREAM_RQ_PER_CX, 3));
        block.add(cluster::UPSTREAM_RQ_TOTAL, 3);
        block.gauge_set(cluster::MEMBERSHIP_DEGRADED, 0);
        (store, block)
    }

    fn render(query: Query) -> String {
        let (store, _block) = filled();
        let mut out = String::new();
        text(&store, &query, |s| out.push_str(s));
        out
    }

    #[test]
    fn text_as_stock_envoy() {
        let used = render(Query { used_only: true, ..Query::default() });
        let lines: Vec<&str> = used.lines().collect();
        assert_eq!(lines[..2], ["cluster.c1.membership_degraded: 0", "cluster.c1.upstream_rq_total: 3"]);
        assert!(
            lines[2]
                .starts_with("cluster.c1.upstream_rq_per_cx: P0(nan,3.0090909090909093) P25(nan,3.0272727272727273)"),
            "{}",
            lines[2]
        );
        assert!(lines[2].contains(" P99.5(nan,") && lines.len() == 3);
        let filter = Some(Arc::new(Regex::new("per_cx$").expect("valid")));
        let buckets =
            render(Query { filter: filter.clone(), histograms: HistogramMode::Cumulative, ..Query::default() });
        assert!(
            buckets.starts_with("cluster.c1.upstream_rq_per_cx: B0.5(0,0) B1(0,0) B5(0,10)")
                && buckets.ends_with("B1.8e+06(0,10) B3.6e+06(0,10)\n")
        );
        let detailed = render(Query { filter, histograms: HistogramMode::Detailed, ..Query::default() });
        assert!(
            detailed.starts_with("cluster.c1.upstream_rq_per_cx:\n  totals=3,0.1:10\n  intervals=\n  summary=P0("),
            "{detailed}"
        );
        assert!(
            render(Query { kind: TypeFilter::Histograms, ..Query::default() })
                .contains("upstream_cx_length_ms: No recorded values")
        );
    }

    #[test]
    fn json_parses() {
        let (store, _block) = filled();
        for histograms in [HistogramMode::Unset, HistogramMode::Cumulative, HistogramMode::Detailed] {
            let mut out = String::new();
            json(&store, &Query { used_only: true, histograms, ..Query::default() }, |s| out.push_str(s));
            let value: Value = serde_json::from_str(&out).expect("valid JSON");
            assert_eq!(value["stats"][1], json!({"name": "cluster.c1.upstream_rq_total", "value": 3}));
            assert!(value["stats"][2]["histograms"].is_object() || value["stats"][2]["histograms"].is_array());
        }
    }

    #[test]
    fn general_is_percent_g() {
        let check = |v: f64, text: &str| assert_eq!(general(v), text);
        check(0.5, "0.5");
        check(99.5, "99.5");
        check(300000.0, "300000");
        check(1800000.0, "1.8e+06");
        check(0.1, "0.1");
        check(100.0, "100");
    }
}
