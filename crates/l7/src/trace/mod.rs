//! Which requests are traced, and what is told about them? Spans from the first byte to the last.
//!
//! [`start`] decides and opens the span of a request, [`inject`] tells the upstream, [`finish`] reports. What travels in
//! headers is in `context.rs`, what a span says in `tags.rs`, how collectors read it in `zipkin.rs` and `otel.rs`.
//! A chain without tracing pays one look at an `Option`.

mod context;
mod otel;
mod reason;
mod tags;
mod zipkin;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http1::HeaderId;
use proxy_config::format::Format;
use proxy_config::hcm::Hcm;
use proxy_config::listener::TrafficDirection;
use proxy_config::tracing::{self as config, TraceProvider};
use proxy_core::format;
use telemetry::stats::Block;
use telemetry::stats::envoy::tracing as stat;
use tokio::time::Instant;

use crate::connection::Conn;
use crate::exchange::Exchange;
use crate::export::{Destination, Outlet};
use crate::facts::facts;
use crate::manager::Deps;
use crate::stream::Found;
use context::Context;
use reason::Reason;

/// Spans are sent when so many are there (`tracing.*.min_flush_spans`).
const FLUSH_SPANS: usize = 5;
/// Most spans opened for the tries of one request.
const TRIES_MAX: usize = 32;

/// The tracer of one connection manager.
pub struct Tracer {
    config: Arc<config::Tracing>,
    driver: Driver,
    outlet: Arc<Outlet>,
    egress: bool,
    stats: Block<stat::Tracing>,
    service: Box<str>,
    node_id: Box<str>,
    zone: Box<str>,
    address: Option<std::net::IpAddr>,
    /// UUID extension.
    use_request_id: bool,
    pack_reason: bool,
}

/// Which headers and which collector.
enum Driver {
    Zipkin(config::Zipkin),
    OpenTelemetry,
}

/// Who a span is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

/// One span being filled.
pub struct Span {
    context: Context,
    name: String,
    side: Side,
    began: SystemTime,
    ended: Option<SystemTime>,
    tags: Vec<(Box<str>, String)>,
    error: bool,
    /// The route's operation goes back to the client.
    operation_back: Option<proxy_config::Name>,
    /// Was decided to be traced (the request's own fact, whatever the parent said).
    decided: bool,
    trace_hex: Box<str>,
    span_hex: Box<str>,
    /// Spans of the tries.
    tries: Vec<Span>,
}

impl Span {
    /// Is not reported, whatever was decided before.
    pub fn leave_out(&mut self) {
        self.context.sampled = false;
    }

    fn new(context: Context, name: String, side: Side, began: SystemTime, decided: bool) -> Self {
        let (trace_hex, span_hex) = (context.trace_hex().into(), context.span_hex().into());
        Span {
            context,
            name,
            side,
            began,
            ended: None,
            tags: Vec::new(),
            error: false,
            operation_back: None,
            decided,
            trace_hex,
            span_hex,
            tries: Vec::new(),
        }
    }

    /// The trace's id, for logs.
    pub fn trace_id(&self) -> &str {
        &self.trace_hex
    }

    /// The span's id, for logs.
    pub fn span_id(&self) -> &str {
        &self.span_hex
    }

    /// Whether the request was chosen to be traced.
    pub fn decided(&self) -> bool {
        self.decided
    }

    fn tag(&mut self, key: &str, value: impl Into<String>) {
        let value = value.into();
        match self.tags.iter_mut().find(|t| *t.0 == *key) {
            Some(t) => t.1 = value,
            None => self.tags.push((key.into(), value)),
        }
    }

    fn duration(&self) -> Duration {
        self.ended.and_then(|e| e.duration_since(self.began).ok()).unwrap_or_default()
    }
}

impl Tracer {
    /// Compiles a connection manager's tracing. `None`: it has none, or no provider to report to.
    pub fn new(hcm: &Hcm, deps: &Deps<'_>) -> Option<Box<Self>> {
        let config = hcm.tracing.clone()?;
        let provider = config.provider.clone().or_else(|| deps.exports.default_tracer())?;
        let (driver, destination) = match &*provider {
            TraceProvider::Zipkin(z) => {
                let host = z.collector_hostname.clone().unwrap_or_else(|| z.collector_cluster.clone());
                let to = Destination::Zipkin {
                    cluster: z.collector_cluster.clone(),
                    path: z.collector_endpoint.clone(),
                    host,
                };
                (Driver::Zipkin(z.clone()), to)
            }
            TraceProvider::OpenTelemetry(o) => {
                let to = Destination::OtelSpans {
                    grpc: o.grpc.clone(),
                    http: o.http.clone(),
                    headers: o.http_headers.clone(),
                    resource: otel::resource(o).into(),
                };
                (Driver::OpenTelemetry, to)
            }
        };
        Some(Box::new(Tracer {
            outlet: deps.exports.open_counted(destination, config::SPAN_FLUSH_INTERVAL, FLUSH_SPANS),
            driver,
            egress: deps.direction == TrafficDirection::Outbound,
            stats: deps.store.block(&format!("http.{}.tracing.", hcm.stat_prefix)),
            service: deps.node.cluster.as_str().into(),
            node_id: deps.node.id.as_str().into(),
            zone: deps.node.zone.as_str().into(),
            address: crate::manager::local_ip(),
            use_request_id: hcm.use_request_id_for_trace_sampling,
            pack_reason: hcm.pack_trace_reason,
            config,
        }))
    }

    fn side(&self) -> Side {
        if self.egress && !self.config.spawn_upstream_span { Side::Client } else { Side::Server }
    }
}

/// The request's route is known: decides whether it is traced, and opens its span.
pub fn start(tracer: &Tracer, conn: &Conn, ex: &mut Exchange, found: Option<&Found>) {
    let route = found.and_then(|f| f.route().tracing.as_deref());
    let reason = if ex.health_check {
        Reason::HealthCheck
    } else {
        reason::decide(tracer, route, &mut ex.request, conn.worker.random())
    };
    tracer.stats.inc(match reason {
        Reason::NotTraceable => stat::NOT_TRACEABLE,
        Reason::Sampling => stat::RANDOM_SAMPLING,
        Reason::ServiceForced => stat::SERVICE_FORCED,
        Reason::ClientForced => stat::CLIENT_ENABLED,
        Reason::HealthCheck => stat::HEALTH_CHECK,
    });
    let decided = !matches!(reason, Reason::NotTraceable | Reason::HealthCheck);
    let began = conn.worker.wall(ex.times.begin.unwrap_or_else(Instant::now));
    let mut random = || conn.worker.random().max(1);
    let host = String::from_utf8_lossy(ex.request.authority()).into_owned();
    let (context, mut name) = match &tracer.driver {
        Driver::Zipkin(z) => {
            (context::zipkin(z, tracer.side() == Side::Client, &ex.request, decided, &mut random), host)
        }
        Driver::OpenTelemetry => {
            let name = if tracer.egress { format!("egress {host}") } else { "ingress".to_owned() };
            (context::w3c(&ex.request, decided, &mut random), name)
        }
    };
    // Operations by format: the route's word before the manager's.
    let operation: Option<&Format> = route.and_then(|r| r.operation.as_ref()).or(tracer.config.operation.as_ref());
    if let Some(operation) = operation {
        let mut out = Vec::new();
        format::text(operation, &facts(conn, ex, found), b"", &mut out);
        if !out.is_empty() {
            name = String::from_utf8_lossy(&out).into_owned();
        }
    }
    let mut span = Span::new(context, name, tracer.side(), began, decided);
    decorate(tracer, ex, found, &mut span);
    ex.span = Some(Box::new(span));
}

/// The route's decorator names the operation; it travels to the peer, and the peer's word wins.
fn decorate(tracer: &Tracer, ex: &mut Exchange, found: Option<&Found>, span: &mut Span) {
    let decorator = found.and_then(|f| f.route().decorator.as_deref()).filter(|d| !d.operation.is_empty());
    if let Some(d) = decorator {
        span.name = d.operation.to_string();
    }
    if tracer.egress {
        if let Some(d) = decorator.filter(|d| d.propagate) {
            ex.request.set_id(HeaderId::X_ENVOY_DECORATOR_OPERATION, d.operation.as_bytes());
        }
        return;
    }
    span.operation_back = decorator.filter(|d| d.propagate).map(|d| d.operation.clone());
    if let Some(told) = ex.request.get_id(HeaderId::X_ENVOY_DECORATOR_OPERATION) {
        if !told.is_empty() {
            span.name = String::from_utf8_lossy(told).into_owned();
            span.operation_back = None;
        }
        ex.request.remove_id(HeaderId::X_ENVOY_DECORATOR_OPERATION);
    }
}

/// The response head passes: operations travel back.
pub fn on_response(tracer: &Tracer, ex: &mut Exchange) {
    let Some(span) = &mut ex.span else { return };
    if tracer.egress {
        if let Some(told) = ex.response.get_id(HeaderId::X_ENVOY_DECORATOR_OPERATION) {
            if !told.is_empty() {
                span.name = String::from_utf8_lossy(told).into_owned();
            }
            ex.response.remove_id(HeaderId::X_ENVOY_DECORATOR_OPERATION);
        }
    } else if let Some(operation) = span.operation_back.take() {
        ex.response.set_id(HeaderId::X_ENVOY_DECORATOR_OPERATION, operation.as_bytes());
    }
}

/// A try begins: opens its span if it gets one, and writes the context into the request.
pub fn inject(tracer: &Tracer, conn: &Conn, ex: &mut Exchange) {
    let Some(span) = &mut ex.span else { return };
    end_try(conn, span);
    let own = tracer.config.spawn_upstream_span || conn.manager.router.start_child_span;
    let context = if own && span.tries.len() < TRIES_MAX {
        let cluster = ex.upstream.cluster.as_deref().unwrap_or("");
        let context = span.context.child(conn.worker.random().max(1));
        let began = conn.worker.wall(Instant::now());
        let mut one = Span::new(context, format!("router {cluster} egress"), Side::Client, began, span.decided);
        if ex.attempts > 1 {
            one.tag("retry.count", (ex.attempts - 1).to_string());
        }
        span.tries.push(one);
        &span.tries[span.tries.len() - 1].context
    } else {
        &span.context
    };
    match &tracer.driver {
        Driver::Zipkin(z) => context::write_b3(context, z.w3c, &mut ex.request),
        Driver::OpenTelemetry => context::write_w3c(context, &mut ex.request),
    }
}

fn end_try(conn: &Conn, span: &mut Span) {
    if let Some(last) = span.tries.last_mut().filter(|t| t.ended.is_none()) {
        last.ended = Some(conn.worker.wall(Instant::now()));
    }
}

/// The exchange is over: completes the span and reports it, if it is sampled.
pub fn finish(tracer: &Tracer, conn: &Conn, ex: &mut Exchange, found: Option<&Found>) {
    let Some(mut span) = ex.span.take() else { return };
    if span.context.sampled {
        let cluster = ex.upstream.cluster.as_ref().and_then(|name| crate::pool::cluster(&conn.worker, name));
        let mut facts = facts(conn, ex, found);
        facts.cluster_metadata = cluster.as_ref().map(crate::pool::Cluster::metadata);
        end_try(conn, &mut span);
        span.ended = Some(facts.now);
        let route = found.and_then(|f| f.route().tracing.as_deref());
        tags::downstream(tracer, route, &facts, &mut span);
        for one in &mut span.tries {
            tags::upstream(tracer, route, &facts, one);
        }
        for one in std::iter::once(&*span).chain(&span.tries) {
            tracer.outlet.push(match &tracer.driver {
                Driver::Zipkin(z) => zipkin::span(z, tracer, one),
                Driver::OpenTelemetry => otel::span(one),
            });
        }
    }
    // Logs of this exchange print the ids.
    ex.span = Some(span);
}
