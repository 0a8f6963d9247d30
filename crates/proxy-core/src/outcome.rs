//! What does the client see when this proxy answers by itself? The one table of causes.
//!
//! Each cause has its status, response flag, `%RESPONSE_CODE_DETAILS%` and body, in Envoy's words. `l7` asks for it when
//! it makes a local reply; nothing else in the proxy spells these strings.

use std::borrow::Cow;

use telemetry::access_log::ResponseFlags as F;

/// Why an upstream stream was reset; `StreamResetReason` of Envoy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResetReason {
    /// We could not open a connection (local resource).
    LocalConnectionFailure,
    /// The upstream refused or dropped the connection attempt.
    RemoteConnectionFailure,
    /// The connection attempt took too long.
    ConnectionTimeout,
    /// The connection ended while the stream was open.
    ConnectionTermination,
    /// We reset the stream.
    LocalReset,
    /// We refused the stream before it was processed.
    LocalRefusedStreamReset,
    /// A circuit breaker is open.
    Overflow,
    /// The upstream reset the stream.
    RemoteReset,
    /// The upstream refused the stream before processing it.
    RemoteRefusedStreamReset,
    /// A CONNECT was answered with an error.
    ConnectError,
    /// The upstream broke the protocol.
    ProtocolError,
    /// The overload manager reset the stream.
    OverloadManager,
}

impl ResetReason {
    /// Envoy's words.
    pub fn text(self) -> &'static str {
        match self {
            Self::LocalConnectionFailure => "local connection failure",
            Self::RemoteConnectionFailure => "remote connection failure",
            Self::ConnectionTimeout => "connection timeout",
            Self::ConnectionTermination => "connection termination",
            Self::LocalReset => "local reset",
            Self::LocalRefusedStreamReset => "local refused stream reset",
            Self::Overflow => "overflow",
            Self::RemoteReset => "remote reset",
            Self::RemoteRefusedStreamReset => "remote refused stream reset",
            Self::ConnectError => "remote error with CONNECT request",
            Self::ProtocolError => "protocol error",
            Self::OverloadManager => "overload manager reset",
        }
    }

    /// The response flag.
    pub fn flag(self) -> F {
        match self {
            Self::LocalConnectionFailure | Self::RemoteConnectionFailure | Self::ConnectionTimeout => {
                F::UPSTREAM_CONNECTION_FAILURE
            }
            Self::ConnectionTermination => F::UPSTREAM_CONNECTION_TERMINATION,
            Self::LocalReset | Self::LocalRefusedStreamReset => F::LOCAL_RESET,
            Self::Overflow => F::UPSTREAM_OVERFLOW,
            Self::RemoteReset | Self::RemoteRefusedStreamReset | Self::ConnectError => F::UPSTREAM_REMOTE_RESET,
            Self::ProtocolError => F::UPSTREAM_PROTOCOL_ERROR,
            Self::OverloadManager => F::OVERLOAD_MANAGER,
        }
    }
}

/// Why this proxy answers by itself. Names in `'a` are shown in details or bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause<'a> {
    /// No virtual host or route matched.
    RouteNotFound,
    /// The route's cluster does not exist; the status is the route's `cluster_not_found_response_code`.
    ClusterNotFound(u16),
    /// The route's `direct_response`.
    DirectResponse(u16),
    /// The route's `redirect`, or a virtual host that requires TLS.
    Redirect(u16),
    /// The cluster has no usable host.
    NoHealthyUpstream,
    /// The upstream stream ended before response headers.
    UpstreamReset {
        /// Why.
        reason: ResetReason,
        /// The transport's own words, such as a TLS error; empty when none.
        transport_failure: &'a str,
        /// This was not the first try.
        retried: bool,
    },
    /// The route's timeout.
    UpstreamTimeout,
    /// The per-try timeout, no try left.
    PerTryTimeout,
    /// The per-try idle timeout, no try left.
    PerTryIdleTimeout,
    /// The upstream stream lasted too long.
    UpstreamMaxStreamDuration,
    /// `stream_idle_timeout`; true when the request was complete.
    StreamIdleTimeout(bool),
    /// `request_timeout`; true when the request was complete.
    RequestTimeout(bool),
    /// `request_headers_timeout`
    RequestHeadersTimeout,
    /// `max_stream_duration`; true when the request was complete.
    MaxStreamDuration(bool),
    /// No authority.
    MissingHost,
    /// No path.
    MissingPath,
    /// A path that does not begin with `/`.
    AbsolutePath,
    /// The path cannot be normalised, or has escaped slashes that are refused.
    PathNormalizationFailed,
    /// A path with escaped slashes is redirected to its plain form (307).
    PathNormalizationRedirect,
    /// A header name with an underscore.
    HeaderUnderscore,
    /// HTTP/1.0 where it is not accepted.
    LowVersion,
    /// An upgrade that is not allowed here.
    UpgradeFailed,
    /// The codec refused the request; the text is its own detail (`http1.codec_error` ...) and the status 400 or 431.
    Codec(u16, &'a str),
    /// A buffered request is too large.
    RequestTooLarge,
    /// A buffered response is too large.
    ResponseTooLarge,
    /// The fault filter aborted the request.
    FaultAbort(u16),
    /// RBAC denied; the policy that matched, if any.
    Rbac(Option<&'a str>),
    /// Local rate limit.
    LocalRateLimited(u16),
    /// Global rate limit.
    RateLimited(u16),
    /// The rate limit service failed and failure means denial.
    RateLimitError,
    /// The authorization service denied; the status is its own.
    ExtAuthzDenied(u16),
    /// The authorization service failed and failure means denial.
    ExtAuthzError(u16),
    /// A JWT is missing or bad: status 401 or 403 and the verifier's words.
    Jwt(u16, &'a str),
    /// CSRF check.
    CsrfOriginMismatch,
    /// The CORS filter answered a preflight.
    CorsPreflight,
    /// The overload manager refuses requests.
    Overloaded,
    /// The endpoints' drop policy.
    DropOverload,
    /// A strictly checked `x-envoy-*` header is bad: name and value.
    InvalidEnvoyHeader(&'a str, &'a str),
    /// A name did not resolve.
    DnsFailure(&'a str),
    /// The session's host is gone and the session is strict.
    SessionHostGone,
    /// The external processor failed.
    ExtProcError,
    /// The health check filter answered; true when healthy.
    HealthCheck(bool),
}

/// A local reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// HTTP status.
    pub status: u16,
    /// Response flag to add (none is zero).
    pub flag: F,
    /// `%RESPONSE_CODE_DETAILS%`
    pub details: Cow<'static, str>,
    /// Body, `text/plain`; empty means no body.
    pub body: Cow<'static, str>,
}

/// The gRPC status that Envoy derives from an HTTP status when it answers a gRPC request by itself.
pub fn grpc_status(http: u16) -> u32 {
    match http {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// 504 once the request is complete, else 408.
fn timeout_status(request_complete: bool) -> u16 {
    if request_complete { 504 } else { 408 }
}

/// Spaces of a detail become underscores, as in Envoy.
pub fn detail_text(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_whitespace() { '_' } else { c }).collect()
}

/// The reply for a cause.
pub fn outcome(cause: &Cause<'_>) -> Outcome {
    let none = F::default();
    let fixed = |status, flag, details: &'static str, body: &'static str| Outcome {
        status,
        flag,
        details: details.into(),
        body: body.into(),
    };
    match *cause {
        Cause::RouteNotFound => fixed(404, F::NO_ROUTE_FOUND, "route_not_found", ""),
        Cause::ClusterNotFound(s) => fixed(s, F::NO_CLUSTER_FOUND, "cluster_not_found", ""),
        Cause::DirectResponse(s) | Cause::Redirect(s) => fixed(s, none, "direct_response", ""),
        Cause::NoHealthyUpstream => fixed(503, F::NO_HEALTHY_UPSTREAM, "no_healthy_upstream", "no healthy upstream"),
        Cause::UpstreamReset { reason, transport_failure, retried } => reset(reason, transport_failure, retried),
        Cause::UpstreamTimeout => timed_out("upstream_response_timeout"),
        Cause::PerTryTimeout => timed_out("upstream_per_try_timeout"),
        Cause::PerTryIdleTimeout => timed_out("upstream_per_try_idle_timeout"),
        Cause::UpstreamMaxStreamDuration => fixed(
            504,
            F::UPSTREAM_MAX_STREAM_DURATION_REACHED,
            "upstream_max_stream_duration_reached",
            "upstream max stream duration reached",
        ),
        Cause::StreamIdleTimeout(c) => {
            fixed(timeout_status(c), F::STREAM_IDLE_TIMEOUT, "stream_idle_timeout", "stream timeout")
        }
        Cause::RequestTimeout(c) => fixed(timeout_status(c), none, "request_overall_timeout", "request timeout"),
        Cause::RequestHeadersTimeout => fixed(408, none, "request_header_timeout", "request header timeout"),
        Cause::MaxStreamDuration(c) => {
            fixed(timeout_status(c), F::DURATION_TIMEOUT, "max_duration_timeout", "downstream duration timeout")
        }
        Cause::MissingHost => fixed(400, none, "missing_host_header", ""),
        Cause::MissingPath => fixed(404, none, "missing_path_rejected", ""),
        Cause::AbsolutePath => fixed(404, none, "absolute_path_rejected", ""),
        Cause::PathNormalizationFailed => fixed(400, none, "path_normalization_failed", ""),
        Cause::PathNormalizationRedirect => fixed(307, none, "path_normalization_failed", ""),
        Cause::HeaderUnderscore => fixed(400, none, "unexpected_underscore", ""),
        Cause::LowVersion => fixed(426, none, "low_version", ""),
        Cause::UpgradeFailed => fixed(403, none, "upgrade_failed", ""),
        Cause::Codec(status, detail) => Outcome {
            status,
            flag: F::DOWNSTREAM_PROTOCOL_ERROR,
            details: detail_text(detail).into(),
            body: reason_phrase(status).into(),
        },
        Cause::RequestTooLarge => fixed(413, none, "request_payload_too_large", "Payload Too Large"),
        Cause::ResponseTooLarge => fixed(500, none, "response_payload_too_large", "Internal Server Error"),
        Cause::FaultAbort(s) => fixed(s, F::FAULT_INJECTED, "fault_filter_abort", "fault filter abort"),
        Cause::Rbac(policy) => Outcome {
            status: 403,
            flag: none,
            details: format!("rbac_access_denied_matched_policy[{}]", detail_text(policy.unwrap_or("none"))).into(),
            body: "RBAC: access denied".into(),
        },
        Cause::LocalRateLimited(s) => fixed(s, F::RATE_LIMITED, "local_rate_limited", "local_rate_limited"),
        Cause::RateLimited(s) => fixed(s, F::RATE_LIMITED, "request_rate_limited", ""),
        Cause::RateLimitError => fixed(500, F::RATE_LIMIT_SERVICE_ERROR, "rate_limiter_error", ""),
        Cause::ExtAuthzDenied(s) => fixed(s, F::UNAUTHORIZED_EXTERNAL_SERVICE, "ext_authz_denied", ""),
        Cause::ExtAuthzError(s) => fixed(s, F::UNAUTHORIZED_EXTERNAL_SERVICE, "ext_authz_error", ""),
        Cause::Jwt(status, words) => Outcome {
            status,
            flag: none,
            details: format!("jwt_authn_access_denied{{{}}}", detail_text(words)).into(),
            body: words.to_owned().into(),
        },
        Cause::CsrfOriginMismatch => fixed(403, none, "csrf_origin_mismatch", "Invalid origin"),
        Cause::CorsPreflight => fixed(200, none, "cors_response", ""),
        Cause::Overloaded => fixed(503, F::OVERLOAD_MANAGER, "overload", "envoy overloaded"),
        Cause::DropOverload => fixed(503, F::DROP_OVERLOAD, "drop_overload", "drop overload"),
        Cause::InvalidEnvoyHeader(name, value) => Outcome {
            status: 400,
            flag: F::INVALID_ENVOY_REQUEST_HEADERS,
            details: "request_headers_failed_strict_check".into(),
            body: format!("invalid header '{name}' with value '{value}'").into(),
        },
        Cause::DnsFailure(words) => Outcome {
            status: 503,
            flag: F::DNS_RESOLUTION_FAILED,
            details: format!("dns_resolution_failure{{{}}}", detail_text(words)).into(),
            body: "DNS resolution failure".into(),
        },
        Cause::SessionHostGone => fixed(503, F::NO_HEALTHY_UPSTREAM, "no_healthy_upstream", "no healthy upstream"),
        Cause::ExtProcError => fixed(500, none, "ext_proc_error", ""),
        Cause::HealthCheck(true) => fixed(200, none, "health_check_ok", ""),
        Cause::HealthCheck(false) => fixed(503, F::FAILED_LOCAL_HEALTH_CHECK, "health_check_failed", ""),
    }
}

fn reason_phrase(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        413 => "Payload Too Large",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

fn timed_out(details: &'static str) -> Outcome {
    Outcome {
        status: 504,
        flag: F::UPSTREAM_REQUEST_TIMEOUT,
        details: details.into(),
        body: "upstream request timeout".into(),
    }
}

fn reset(reason: ResetReason, transport_failure: &str, retried: bool) -> Outcome {
    let words = if retried { "retried and the latest reset reason" } else { "reset reason" };
    let mut body = format!("upstream connect error or disconnect/reset before headers. {words}: {}", reason.text());
    let mut details = format!("upstream_reset_before_response_started{{{}", detail_text(reason.text()));
    if !transport_failure.is_empty() {
        body.push_str(", transport failure reason: ");
        body.push_str(transport_failure);
        details.push('|');
        details.push_str(&detail_text(transport_failure));
    }
    details.push('}');
    Outcome {
        status: if reason == ResetReason::ProtocolError { 502 } else { 503 },
        flag: reason.flag(),
        details: details.into(),
        body: body.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reset_words() {
        let o = outcome(&Cause::UpstreamReset {
            reason: ResetReason::RemoteConnectionFailure,
            transport_failure: "delayed connect error: Connection refused",
            retried: true,
        });
        assert_eq!(o.status, 503);
        assert_eq!(
            o.body,
            "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: remote connection failure, transport failure reason: delayed connect error: Connection refused"
        );
        assert_eq!(
            o.details,
            "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}"
        );
        assert_eq!(o.flag, F::UPSTREAM_CONNECTION_FAILURE);
    }

    #[test]
    fn details_never_hold_spaces() {
        for cause in
            [Cause::Jwt(401, "Jwt is missing"), Cause::Rbac(Some("a b")), Cause::Codec(400, "http1.codec error")]
        {
            assert!(!outcome(&cause).details.contains(' '), "{cause:?}");
        }
    }
}
