//! Where do access log entries go, and which are written? Compiled `envoy.config.accesslog.v3.AccessLog`.

use std::sync::Arc;
use std::time::Duration;

use crate::Name;
use crate::common::{Fraction, GrpcService};
use crate::format::{JsonFormat, SubstitutionFormat};
use crate::matcher::{HeaderMatcher, MetadataMatcher};

/// One access log.
#[derive(Debug, Clone)]
pub struct AccessLog {
    /// Configured name.
    pub name: Name,
    /// Which entries are written; `None`: all.
    pub filter: Option<LogFilter>,
    /// Where to.
    pub sink: LogSink,
}

/// The access loggers known here.
#[derive(Debug, Clone)]
pub enum LogSink {
    /// `envoy.access_loggers.file`
    File {
        /// Path (`/dev/stdout` is the process's own).
        path: Name,
        /// Entry format; the default format when absent was configured has been filled in.
        format: Arc<SubstitutionFormat>,
    },
    /// `envoy.access_loggers.stdout`
    Stdout(Arc<SubstitutionFormat>),
    /// `envoy.access_loggers.stderr`
    Stderr(Arc<SubstitutionFormat>),
    /// `envoy.access_loggers.http_grpc`, `envoy.access_loggers.tcp_grpc`
    Grpc(Arc<GrpcLog>),
    /// `envoy.access_loggers.open_telemetry`
    OpenTelemetry(Arc<OtelLog>),
}

/// gRPC access log service.
#[derive(Debug, Clone)]
pub struct GrpcLog {
    /// `log_name`
    pub log_name: Name,
    /// Service.
    pub service: GrpcService,
    /// TCP entries instead of HTTP entries.
    pub tcp: bool,
    /// Flush interval, default 1 s.
    pub flush_interval: Duration,
    /// Buffer bytes, default 16 KiB.
    pub buffer_bytes: u32,
    /// Filter state objects to report.
    pub filter_state_to_log: Box<[Name]>,
    /// Headers to report (lower case).
    pub request_headers: Box<[Name]>,
    /// Response headers to report.
    pub response_headers: Box<[Name]>,
    /// Response trailers to report.
    pub response_trailers: Box<[Name]>,
}

/// OpenTelemetry access log.
#[derive(Debug, Clone)]
pub struct OtelLog {
    /// `log_name`
    pub log_name: Name,
    /// Service.
    pub service: GrpcService,
    /// Body format.
    pub body: Option<JsonFormat>,
    /// Attributes.
    pub attributes: Box<[(Box<str>, JsonFormat)]>,
    /// Resource attributes.
    pub resource_attributes: Box<[(Box<str>, JsonFormat)]>,
    /// Does not add cluster, node and zone.
    pub disable_builtin_labels: bool,
    /// Flush interval, default 1 s.
    pub flush_interval: Duration,
    /// Buffer bytes, default 16 KiB.
    pub buffer_bytes: u32,
}

/// `AccessLogFilter`.
#[derive(Debug, Clone)]
pub enum LogFilter {
    /// `status_code_filter`
    StatusCode(Comparison),
    /// `duration_filter`, ms
    Duration(Comparison),
    /// `not_health_check_filter`
    NotHealthCheck,
    /// `traceable_filter`
    Traceable,
    /// `runtime_filter`
    Runtime {
        /// Share of entries.
        fraction: Fraction,
        /// Draws independently of the request id.
        independent: bool,
    },
    /// `and_filter`
    And(Box<[LogFilter]>),
    /// `or_filter`
    Or(Box<[LogFilter]>),
    /// `header_filter`
    Header(HeaderMatcher),
    /// `response_flag_filter`: short names, empty means any flag
    ResponseFlag(Box<[Name]>),
    /// `grpc_status_filter`
    GrpcStatus {
        /// Statuses.
        statuses: Box<[u32]>,
        /// Negates.
        exclude: bool,
    },
    /// `metadata_filter`
    Metadata {
        /// Test.
        matcher: Option<MetadataMatcher>,
        /// Result when the key is not there.
        match_if_key_not_found: bool,
    },
    /// `log_type_filter`
    LogType {
        /// Names such as `DownstreamEnd`.
        types: Box<[Name]>,
        /// Negates.
        exclude: bool,
    },
    /// `envoy.access_loggers.extension_filters.cel`
    Cel(Arc<crate::cel::CelSource>),
}

/// `ComparisonFilter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Comparison {
    /// Operator.
    pub op: CompareOp,
    /// Right-hand side.
    pub value: u32,
}

/// `ComparisonFilter.Op`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompareOp {
    /// ==
    Eq,
    /// >=
    Ge,
    /// <=
    Le,
    /// !=
    Ne,
}

impl Comparison {
    /// Evaluates `left op value`.
    pub fn holds(&self, left: u64) -> bool {
        let right = u64::from(self.value);
        match self.op {
            CompareOp::Eq => left == right,
            CompareOp::Ge => left >= right,
            CompareOp::Le => left <= right,
            CompareOp::Ne => left != right,
        }
    }
}

/// Envoy's default text format.
pub const DEFAULT_FORMAT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
%RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \
\"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";
