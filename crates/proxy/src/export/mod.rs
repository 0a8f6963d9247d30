//! How do log entries, records and spans reach their collectors? One task per outlet, on the config thread.
//!
//! A task sleeps until its interval is over or enough gathered, takes what is there and sends it in one message.
//! What cannot be sent is dropped and counted, as in Envoy; a broken connection is opened again with the next batch.

mod http;
mod message;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use l7::export::{Destination, Outlet};
use protos::envoy::config::core::v3::Node;
use proxy_config::common::GrpcService;
use telemetry::stats::envoy::export as stat;
use tokio::sync::mpsc;
use tokio::time::timeout;
use upstream::Registry;
use xds_client::{Channel, GrpcError, Stream};

use crate::subscriptions::connect;

/// How long one batch may take to be delivered.
const DELIVERY: Duration = Duration::from_secs(10);

const ALS: &str = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs";
const OTEL_LOGS: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
const OTEL_TRACES: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// Serves every outlet that is opened. Runs until the process ends.
pub async fn serve(mut opened: mpsc::UnboundedReceiver<Arc<Outlet>>, registry: Arc<Registry>, node: Node) {
    let node = Rc::new(node);
    while let Some(outlet) = opened.recv().await {
        let sender = Sender { registry: registry.clone(), node: node.clone(), channel: None, stream: None };
        tokio::task::spawn_local(run(outlet, sender));
    }
}

async fn run(outlet: Arc<Outlet>, mut sender: Sender) {
    loop {
        let timed = tokio::select! {
            () = tokio::time::sleep(outlet.flush_interval) => true,
            () = outlet.filled() => false,
        };
        let items = outlet.take();
        if items.is_empty() {
            if Arc::strong_count(&outlet) == 1 {
                return;
            }
            continue;
        }
        if timed {
            outlet.stats.inc(stat::TIMER_FLUSHED);
        }
        let sent = match timeout(DELIVERY, sender.send(&outlet, &items)).await {
            Ok(sent) => sent,
            Err(_) => Err("timed out".to_owned()),
        };
        match sent {
            Ok(()) => outlet.written(items.len() as u64),
            Err(why) => {
                (sender.channel, sender.stream) = (None, None);
                outlet.dropped(items.len() as u64);
                telemetry::warn!(misc, "cannot deliver {} item(s) to a collector: {why}", items.len());
            }
        }
    }
}

struct Sender {
    registry: Arc<Registry>,
    node: Rc<Node>,
    channel: Option<Channel>,
    stream: Option<Stream>,
}

fn metadata(service: &GrpcService) -> Vec<(String, String)> {
    service.initial_metadata.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

fn authority(service: &GrpcService) -> &str {
    service.authority.as_deref().unwrap_or(&service.cluster)
}

impl Sender {
    async fn send(&mut self, outlet: &Outlet, items: &[Vec<u8>]) -> Result<(), String> {
        match &outlet.destination {
            Destination::AccessLogs { service, log_name, tcp } => {
                let first = self.stream.is_none();
                if first {
                    let channel = self.channel(service).await?;
                    let opened = channel.open(authority(service), ALS, &metadata(service)).await;
                    self.stream = Some(opened.map_err(|e| e.to_string())?);
                }
                let identity = first.then(|| (&*self.node, &**log_name));
                let message = message::access_logs(identity, *tcp, items);
                match &mut self.stream {
                    Some(stream) => stream.send_encoded(&message).await.map_err(|e| e.to_string()),
                    None => Ok(()),
                }
            }
            Destination::OtelLogs { service, resource } => {
                self.call(service, OTEL_LOGS, &message::otel(resource, items)).await
            }
            Destination::OtelSpans { grpc: Some(service), resource, .. } => {
                self.call(service, OTEL_TRACES, &message::otel(resource, items)).await
            }
            Destination::OtelSpans { http: Some(uri), headers, resource, .. } => {
                let body = message::otel(resource, items);
                http::post_uri(&self.registry, uri, headers, "application/x-protobuf", body).await
            }
            Destination::OtelSpans { .. } => Ok(()),
            Destination::Zipkin { cluster, path, host } => {
                if self.registry.get(cluster).is_none() {
                    outlet.stats.inc(stat::REPORTS_SKIPPED_NO_CLUSTER);
                    return Err(format!("unknown cluster '{cluster}'"));
                }
                let body = message::zipkin(items);
                http::post(&self.registry, cluster, host, path, &[], "application/json", body).await
            }
        }
    }

    async fn channel(&mut self, service: &GrpcService) -> Result<&Channel, String> {
        if self.channel.is_none() {
            let io = connect(&self.registry, &service.cluster, Some(b"h2")).await.map_err(|e| e.to_string())?;
            self.channel = Some(Channel::connect(io).await.map_err(|e| e.to_string())?);
        }
        self.channel.as_ref().ok_or_else(String::new)
    }

    /// A unary call; one on a connection that has meanwhile died is made again on a new one.
    async fn call(&mut self, service: &GrpcService, path: &str, message: &[u8]) -> Result<(), String> {
        let reused = self.channel.is_some();
        let metadata = metadata(service);
        let channel = self.channel(service).await?;
        match channel.call(authority(service), path, &metadata, message).await {
            Err(GrpcError::Http2(_)) if reused => {
                self.channel = None;
                let channel = self.channel(service).await?;
                channel.call(authority(service), path, &metadata, message).await.map_err(|e| e.to_string())
            }
            other => other.map_err(|e| e.to_string()),
        }
    }
}
