//! How does the metrics service hear? `StreamMetrics`: Prometheus' protobuf, one message per flush.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use protos::envoy::config::core::v3::Node;
use protos::envoy::service::metrics::v3::{StreamMetricsMessage, stream_metrics_message::Identifier};
use protos::io::prometheus::client as p;
use protos::prost::Message as _;
use proxy_config::bootstrap::MetricsService;
use proxy_config::common::GrpcService;
use telemetry::stats::{Bins, SUPPORTED_QUANTILES, Store};
use tokio::sync::mpsc;
use tokio::time::timeout;
use upstream::Registry;
use xds_client::{Channel, Stream};

use super::{Deltas, Sample, Snapshot, Value};
use crate::subscriptions::connect;

const PATH: &str = "/envoy.service.metrics.v3.MetricsService/StreamMetrics";
/// How long one message may take.
const DELIVERY: Duration = Duration::from_secs(10);

/// Reports every snapshot until no more come.
pub async fn run(
    config: MetricsService,
    registry: Arc<Registry>,
    node: Node,
    store: Arc<Store>,
    mut snapshots: mpsc::Receiver<Snapshot>,
) {
    let mut deltas = config.report_counters_as_deltas.then(Deltas::default);
    let mut open: Option<(Channel, Stream)> = None;
    while let Some(snapshot) = snapshots.recv().await {
        let mut families = families(&snapshot, &mut deltas, &store, &config);
        let send = async {
            while !families.is_empty() {
                let most = if config.batch_size == 0 { families.len() } else { config.batch_size as usize };
                let rest = families.split_off(most.min(families.len()));
                let envoy_metrics = std::mem::replace(&mut families, rest);
                let mut message = StreamMetricsMessage { identifier: None, envoy_metrics };
                if open.is_none() {
                    message.identifier = Some(Identifier { node: Some(node.clone()) });
                    open = Some(dial(&config.service, &registry).await?);
                }
                if let Some((_, stream)) = &mut open {
                    stream.send_encoded(&message.encode_to_vec()).await.map_err(|e| e.to_string())?;
                }
            }
            Ok(())
        };
        let sent: Result<(), String> = timeout(DELIVERY, send).await.unwrap_or_else(|_| Err("timed out".into()));
        if let Err(e) = sent {
            open = None;
            telemetry::debug!(main, "metrics service: {e}");
        }
    }
}

async fn dial(service: &GrpcService, registry: &Registry) -> Result<(Channel, Stream), String> {
    let io = connect(registry, &service.cluster, Some(b"h2")).await.map_err(|e| e.to_string())?;
    let channel = Channel::connect(io).await.map_err(|e| e.to_string())?;
    let authority = service.authority.as_deref().unwrap_or(&service.cluster);
    let metadata: Vec<_> = service.initial_metadata.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    let stream = channel.open(authority, PATH, &metadata).await.map_err(|e| e.to_string())?;
    Ok((channel, stream))
}

fn families(
    snapshot: &Snapshot,
    deltas: &mut Option<Deltas>,
    store: &Store,
    config: &MetricsService,
) -> Vec<p::MetricFamily> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
    let family = |sample: &Sample, kind: p::MetricType, metric: p::Metric| {
        let tagged = sample.tagged.as_deref().filter(|_| config.emit_tags_as_labels);
        let tags = tagged.map_or(&[][..], |t| &t.tags).iter();
        let label = tags.map(|(tag, value)| p::LabelPair { name: Some(tag.clone()), value: Some(value.clone()) });
        let metric = p::Metric { timestamp_ms: Some(now), label: label.collect(), ..metric };
        p::MetricFamily {
            name: Some(tagged.map_or_else(|| sample.name.to_string(), |t| t.name.clone())),
            r#type: Some(kind as i32),
            metric: vec![metric],
            ..Default::default()
        }
    };
    let mut out = Vec::with_capacity(snapshot.len());
    for sample in snapshot.iter() {
        let name = &sample.name;
        match &sample.value {
            Value::Counter(n) => {
                let n = deltas.as_mut().map_or(*n, |d| d.of(name, *n));
                let counter = p::Counter { value: Some(n as f64), ..Default::default() };
                let metric = p::Metric { counter: Some(counter), ..Default::default() };
                out.push(family(sample, p::MetricType::Counter, metric));
            }
            Value::Gauge(n) => {
                let gauge = p::Gauge { value: Some(*n as f64) };
                out.push(family(sample, p::MetricType::Gauge, p::Metric { gauge: Some(gauge), ..Default::default() }));
            }
            // As Envoy: the interval as a summary, everything since start as a histogram.
            Value::Histogram(all, interval) => {
                if config.summaries {
                    let metric = p::Metric { summary: Some(summary(interval)), ..Default::default() };
                    out.push(family(sample, p::MetricType::Summary, metric));
                }
                if config.histograms {
                    let histogram = Some(histogram(all, store.bounds(name)));
                    let metric = p::Metric { histogram, ..Default::default() };
                    out.push(family(sample, p::MetricType::Histogram, metric));
                }
            }
        }
    }
    out
}

fn summary(interval: &Bins) -> p::Summary {
    let values = interval.quantiles();
    let quantile = SUPPORTED_QUANTILES
        .iter()
        .enumerate()
        .map(|(i, q)| p::Quantile { quantile: Some(*q), value: Some(values.map_or(f64::NAN, |v| v[i])) });
    p::Summary {
        sample_count: Some(interval.count()),
        sample_sum: Some(interval.sum()),
        quantile: quantile.collect(),
        ..Default::default()
    }
}

fn histogram(all: &Bins, bounds: &[f64]) -> p::Histogram {
    let bucket = bounds.iter().map(|bound| p::Bucket {
        cumulative_count: Some(all.count_below(*bound)),
        upper_bound: Some(*bound),
        ..Default::default()
    });
    p::Histogram {
        sample_count: Some(all.count()),
        sample_sum: Some(all.sum()),
        bucket: bucket.collect(),
        ..Default::default()
    }
}
