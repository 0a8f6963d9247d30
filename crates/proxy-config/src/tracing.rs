//! Which requests are traced, and where do spans go? Compiled HCM tracing configuration.

use std::sync::Arc;
use std::time::Duration;

use crate::Name;
use crate::common::{Fraction, GrpcService, HttpUri};
use crate::format::Format;
use crate::matcher::HeaderName;

/// `HttpConnectionManager.Tracing`.
#[derive(Debug, Clone)]
pub struct Tracing {
    /// Share of requests with `x-client-trace-id` that are traced.
    pub client_sampling: Fraction,
    /// Share that is sampled at random.
    pub random_sampling: Fraction,
    /// Upper bound of both.
    pub overall_sampling: Fraction,
    /// Annotates spans with events.
    pub verbose: bool,
    /// Longest path tag, bytes. Default 256.
    pub max_path_tag_length: u32,
    /// Tags to add.
    pub custom_tags: Arc<[CustomTag]>,
    /// A span of its own for the upstream call.
    pub spawn_upstream_span: bool,
    /// Where to; `None`: the bootstrap's.
    pub provider: Option<Arc<TraceProvider>>,
    /// Operation name format.
    pub operation: Option<Format>,
}

/// `Route.tracing`.
#[derive(Debug, Clone)]
pub struct RouteTracing {
    /// Overrides the HCM's.
    pub client_sampling: Option<Fraction>,
    /// Overrides the HCM's.
    pub random_sampling: Option<Fraction>,
    /// Overrides the HCM's.
    pub overall_sampling: Option<Fraction>,
    /// Added to the HCM's.
    pub custom_tags: Arc<[CustomTag]>,
    /// Operation name format.
    pub operation: Option<Format>,
}

/// `envoy.type.tracing.v3.CustomTag`.
#[derive(Debug, Clone)]
pub struct CustomTag {
    /// Tag name.
    pub tag: Name,
    /// Its value.
    pub value: TagValue,
}

/// The value of a tag.
#[derive(Debug, Clone)]
pub enum TagValue {
    /// `literal`
    Literal(Name),
    /// `environment`
    Environment {
        /// Variable.
        name: Name,
        /// Value when unset.
        default: Name,
    },
    /// `request_header`
    RequestHeader {
        /// Header.
        name: HeaderName,
        /// Value when absent.
        default: Name,
    },
    /// `metadata`
    Metadata {
        /// Whose.
        kind: crate::format::MetadataKind,
        /// Namespace.
        filter: Name,
        /// Keys.
        path: Box<[Name]>,
        /// Value when absent.
        default: Name,
    },
    /// `value`: a format string
    Format(Format),
}

/// Tracers known here.
#[derive(Debug, Clone)]
pub enum TraceProvider {
    /// `envoy.tracers.zipkin`
    Zipkin(Zipkin),
    /// `envoy.tracers.opentelemetry`
    OpenTelemetry(OpenTelemetry),
}

/// `ZipkinConfig`.
#[derive(Debug, Clone)]
pub struct Zipkin {
    /// Cluster of the collector.
    pub collector_cluster: Name,
    /// Path, such as `/api/v2/spans`.
    pub collector_endpoint: Name,
    /// Authority; the cluster name when absent.
    pub collector_hostname: Option<Name>,
    /// 128-bit trace ids.
    pub trace_id_128bit: bool,
    /// One span shared by client and server (default true).
    pub shared_span_context: bool,
    /// Reads and writes W3C trace context beside B3.
    pub w3c: bool,
    /// Splits spans as for a proxy between client and server.
    pub split_spans_for_request: bool,
}

/// `OpenTelemetryConfig`.
#[derive(Debug, Clone)]
pub struct OpenTelemetry {
    /// gRPC exporter.
    pub grpc: Option<GrpcService>,
    /// HTTP exporter.
    pub http: Option<HttpUri>,
    /// Request headers of the HTTP exporter.
    pub http_headers: Box<[(Name, Name)]>,
    /// `service.name`
    pub service_name: Name,
    /// Resource detectors by name.
    pub resource_detectors: Box<[Name]>,
}

/// Spans wait at most this long before they are sent.
pub const SPAN_FLUSH_INTERVAL: Duration = Duration::from_secs(5);
