//! What does Telemetry change about the standard metrics? Metrics dropped, labels set, added and removed.
//!
//! Compiled with the filter. Expressions are evaluated once per request (or connection) for all metrics.
//! Follows Istio's `MetricOverrides`: an override of a standard label whose expression does not parse removes it.

use std::borrow::Cow;
use std::sync::Arc;

use proxy_config::cel::Cel;
use proxy_config::filters::http::IstioStats;

use super::labels::Labels;
use crate::{Facts, cel};

/// A standard metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Metric {
    Requests,
    Duration,
    RequestBytes,
    ResponseBytes,
    RequestMessages,
    ResponseMessages,
    TcpOpened,
    TcpClosed,
    TcpSent,
    TcpReceived,
}

/// Names of the standard metrics, without `istio_`, in the order of [`Metric`].
pub const METRICS: [&str; 10] = [
    "requests_total",
    "request_duration_milliseconds",
    "request_bytes",
    "response_bytes",
    "request_messages_total",
    "response_messages_total",
    "tcp_connections_opened_total",
    "tcp_connections_closed_total",
    "tcp_sent_bytes_total",
    "tcp_received_bytes_total",
];

/// Names of the standard labels.
static LABELS: [&str; 25] = [
    "reporter",
    "source_workload",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_canonical_service",
    "source_canonical_revision",
    "source_cluster",
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_cluster",
    "request_protocol",
    "response_flags",
    "connection_security_policy",
    "response_code",
    "grpc_response_status",
];

/// What a defined metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CustomKind {
    /// Adds its value.
    Counter,
    /// Shows its value.
    Gauge,
    /// Records its value.
    Histogram,
}

/// A metric that the configuration defines.
#[derive(Debug)]
pub struct Custom {
    /// Whole name, `istiocustom.istio_<name>`.
    pub name: Box<str>,
    /// What it is.
    pub kind: CustomKind,
    value: usize,
    changes: Changes,
}

#[derive(Debug, Default)]
struct Changes {
    drop: bool,
    /// Standard labels: the expression's number, or `None` to remove it.
    replace: Vec<(&'static str, Option<usize>)>,
    add: Vec<(Box<str>, usize)>,
}

/// Compiled overrides. The default changes nothing.
#[derive(Debug, Default)]
pub struct Overrides {
    expressions: Vec<(Box<str>, Cel)>,
    standard: [Changes; METRICS.len()],
    /// Defined metrics.
    pub custom: Vec<Custom>,
}

/// Values of all expressions for one request.
pub type Values = Vec<Arc<str>>;

impl Overrides {
    /// Compiles a filter's configuration. What cannot be parsed is reported to `complain` and left out, as Istio does.
    pub fn new(config: &IstioStats, mut complain: impl FnMut(String)) -> Self {
        let mut out = Overrides::default();
        for d in &config.definitions {
            if METRICS.contains(&&*d.name) {
                complain(format!("Re-defining standard metric not allowed:: {}", d.name));
                continue;
            }
            let Some(value) = out.expression(&d.value) else {
                complain(format!("Failed to parse metric value expression: {}", d.value));
                continue;
            };
            out.custom.push(Custom {
                name: format!("istiocustom.istio_{}", d.name).into(),
                kind: match d.kind {
                    1 => CustomKind::Gauge,
                    2 => CustomKind::Histogram,
                    _ => CustomKind::Counter,
                },
                value,
                changes: Changes::default(),
            });
        }
        for m in &config.metrics {
            let index = METRICS.iter().position(|n| *n == &*m.name);
            if m.drop {
                if let Some(i) = index {
                    out.standard[i].drop = true;
                }
                continue;
            }
            for tag in &m.tags_to_remove {
                match LABELS.iter().find(|l| ***l == **tag) {
                    Some(label) => {
                        for changes in out.standard.iter_mut().enumerate().filter(|(i, _)| picks(&m.name, index, *i)) {
                            changes.1.set(label, None);
                        }
                    }
                    None => complain(format!("Tag is not standard: {tag}")),
                }
            }
            let mut dimensions: Vec<_> = m.dimensions.iter().collect();
            dimensions.sort();
            for (tag, text) in dimensions {
                let id = out.expression(text);
                if id.is_none() {
                    complain(format!("Failed to parse expression: {text}"));
                }
                let label = LABELS.iter().find(|l| ***l == **tag);
                if let (None, None) = (label, id) {
                    continue;
                }
                for (i, changes) in out.standard.iter_mut().enumerate() {
                    if picks(&m.name, index, i) {
                        match (label, id) {
                            (Some(label), id) => changes.set(label, id),
                            (None, Some(id)) => changes.add.push(((**tag).into(), id)),
                            (None, None) => {}
                        }
                    }
                }
                let custom_name = format!("istiocustom.istio_{}", m.name);
                if let Some(id) = id {
                    for custom in out.custom.iter_mut().filter(|c| m.name.is_empty() || *c.name == *custom_name) {
                        custom.changes.add.push(((**tag).into(), id));
                    }
                }
            }
        }
        out
    }

    fn expression(&mut self, text: &str) -> Option<usize> {
        if let Some(at) = self.expressions.iter().position(|e| &*e.0 == text) {
            return Some(at);
        }
        let parsed = proxy_config::cel::parse(text).ok()?;
        self.expressions.push((text.into(), parsed));
        Some(self.expressions.len() - 1)
    }

    /// Nothing is to be evaluated.
    pub fn is_static(&self) -> bool {
        self.expressions.is_empty()
    }

    /// Evaluates all expressions.
    pub fn evaluate(&self, facts: &Facts<'_>) -> Values {
        let text = |e: &Cel| -> Arc<str> {
            let mut out = Vec::new();
            match cel::eval(e, facts) {
                Ok(v) if cel::write(&v, &mut out) => String::from_utf8_lossy(&out).into(),
                _ => "unknown".into(),
            }
        };
        self.expressions.iter().map(|(_, e)| text(e)).collect()
    }

    /// The labels of one standard metric; `None`: it is dropped.
    pub fn apply<'a>(&self, metric: Metric, labels: &Labels<'a>, values: &Values) -> Option<Labels<'a>> {
        let changes = &self.standard[metric as usize];
        (!changes.drop).then(|| changes.apply(labels, values))
    }

    /// The labels and the value of a defined metric.
    pub fn custom<'a>(&self, custom: &Custom, values: &Values) -> (Labels<'a>, u64) {
        let value = values.get(custom.value).and_then(|v| v.trim().parse().ok()).unwrap_or(0);
        (custom.changes.apply(&Vec::new(), values), value)
    }
}

fn picks(name: &str, index: Option<usize>, at: usize) -> bool {
    name.is_empty() || index == Some(at)
}

impl Changes {
    fn set(&mut self, label: &'static str, id: Option<usize>) {
        match self.replace.iter_mut().find(|r| r.0 == label) {
            Some(r) => r.1 = id,
            None => self.replace.push((label, id)),
        }
    }

    fn apply<'a>(&self, labels: &Labels<'a>, values: &Values) -> Labels<'a> {
        let value = |id: &usize| -> Cow<'a, str> { Cow::Owned(values.get(*id).map_or("unknown", |v| v).to_owned()) };
        let mut out: Labels<'a> = Vec::with_capacity(labels.len() + self.add.len());
        for (key, old) in labels {
            match self.replace.iter().find(|r| *r.0 == **key) {
                None => out.push((key.clone(), old.clone())),
                Some((_, Some(id))) => out.push((key.clone(), value(id))),
                Some((_, None)) => {}
            }
        }
        out.extend(self.add.iter().map(|(key, id)| (Cow::Owned(key.to_string()), value(id))));
        out
    }
}

#[cfg(test)]
mod tests {
    use proxy_config::filters::http::{IstioMetricDefinition, IstioMetricOverride};

    use super::*;
    use crate::header_view::HeaderList;

    #[test]
    fn dropped_replaced_removed_added() {
        let metric = |name: &str| IstioMetricOverride {
            name: name.into(),
            dimensions: Box::default(),
            tags_to_remove: Box::default(),
            match_expression: None,
            drop: false,
        };
        let config = IstioStats {
            metrics: Box::new([
                IstioMetricOverride { drop: true, ..metric("response_bytes") },
                IstioMetricOverride { tags_to_remove: Box::new(["reporter".into(), "nope".into()]), ..metric("") },
                IstioMetricOverride {
                    dimensions: Box::new([
                        ("url".into(), "request.url_path".into()),
                        ("response_code".into(), "filter_state.nothing".into()),
                        ("source_app".into(), "this is not CEL".into()),
                    ]),
                    ..metric("requests_total")
                },
            ]),
            definitions: Box::new([IstioMetricDefinition {
                name: "mine".into(),
                value: "size(request.url_path)".into(),
                kind: 0,
            }]),
            ..IstioStats::default()
        };
        let mut complaints = Vec::new();
        let overrides = Overrides::new(&config, |c| complaints.push(c));
        assert_eq!(complaints.len(), 2, "{complaints:?}");
        let headers = HeaderList::of(&[(":path", "/a?b")]);
        let values = overrides.evaluate(&Facts { request: Some(&headers), ..Facts::default() });
        let labels: Labels<'_> = [("reporter", "source"), ("source_app", "a"), ("response_code", "200")]
            .map(|(k, v)| (Cow::Borrowed(k), Cow::Borrowed(v)))
            .to_vec();
        let show =
            |l: Option<Labels<'_>>| l.map(|l| l.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(","));
        let check = |metric, expect: Option<&str>| {
            assert_eq!(show(overrides.apply(metric, &labels, &values)).as_deref(), expect);
        };
        check(Metric::ResponseBytes, None);
        check(Metric::RequestBytes, Some("source_app=a,response_code=200"));
        check(Metric::Requests, Some("response_code=unknown,url=/a"));
        assert_eq!(overrides.custom(&overrides.custom[0], &values).1, 2);
    }
}
