//! Do the parts of an HTTP rule make sense? Faults, retries, rewrites, redirects, CORS, direct responses; some are
//! shared with `MeshConfig`.

use super::Check;
use super::common::{duration, header_name, optional_duration, percent, port, regex};
use crate::networking::{
    CorsPolicy, FaultAbort, FaultDelay, HttpDirectResponse, HttpFaultInjection, HttpRedirect, HttpRetry, HttpRewrite,
    Percent, RegexRewrite,
};
use crate::scalar::StringMatch;

/// Envoy's limit on bodies of direct responses, and where it starts to hurt.
const DIRECT_RESPONSE_BYTES_MAX: usize = 1 << 20;
const DIRECT_RESPONSE_BYTES_WARN: usize = 100 * 1024;

const RETRY_ON: [&str; 17] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "envoy-ratelimited",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
    "unconditional",
];

const GRPC_STATUS: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
];

const METHODS: [&str; 10] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "*"];

/// CORS policy.
pub fn cors_policy(c: &mut Check, cors: Option<&CorsPolicy>) {
    let Some(cors) = cors else { return };
    c.each("allowOrigins", &cors.allow_origins, |c, origin| match origin {
        StringMatch::Exact(s) | StringMatch::Prefix(s) | StringMatch::Regex(s) if s.is_empty() => {
            c.error("an origin match must not be empty");
        }
        StringMatch::Regex(r) => c.result(regex(r)),
        _ => {}
    });
    c.each("allowMethods", &cors.allow_methods, |c, method| {
        c.error_if(!METHODS.contains(&method.as_str()), format!("{method:?} is not a supported HTTP method"));
    });
    for (field, list) in [("allowHeaders", &cors.allow_headers), ("exposeHeaders", &cors.expose_headers)] {
        c.each(field, list, |c, name| c.result(if name == "*" { Ok(()) } else { header_name(name) }));
    }
    if let Some(age) = cors.max_age {
        c.field("maxAge", |c| {
            c.result(if age.is_zero() { Ok(()) } else { duration(age) });
            c.error_if(age.as_nanos() % 1_000_000_000 != 0, "max_age duration is accurate only to seconds precision");
        });
    }
}

/// Fault injection.
pub fn fault_injection(c: &mut Check, fault: &HttpFaultInjection) {
    c.error_if(
        fault.delay.is_none() && fault.abort.is_none(),
        "HTTP fault injection must have an abort and/or a delay",
    );
    c.field("delay", |c| fault_delay(c, fault.delay.as_ref()));
    c.field("abort", |c| fault_abort(c, fault.abort.as_ref()));
}

/// Abort.
pub fn fault_abort(c: &mut Check, abort: Option<&FaultAbort>) {
    let Some(abort) = abort else { return };
    percentage(c, "percentage", abort.percentage.as_ref());
    if let Some(status) = abort.http_status {
        c.check("httpStatus", http_status(status));
    }
    if let Some(status) = &abort.grpc_status {
        c.field("grpcStatus", |c| {
            let known = GRPC_STATUS.contains(&status.as_str());
            c.error_if(!known, format!("gRPC status {status:?} is not supported (one of {})", GRPC_STATUS.join(", ")));
        });
    }
    c.error_if(
        abort.http2_error.is_some(),
        "http2Error: HTTP/2 abort fault injection is not supported (use httpStatus)",
    );
    c.error_if(
        abort.http_status.is_none() && abort.grpc_status.is_none() && abort.http2_error.is_none(),
        "abort needs httpStatus or grpcStatus",
    );
}

/// Delay.
pub fn fault_delay(c: &mut Check, delay: Option<&FaultDelay>) {
    let Some(delay) = delay else { return };
    c.check("percent", percent(f64::from(delay.percent)));
    if delay.percent != 0 {
        c.field("percent", |c| c.warn("using deprecated setting \"percent\", use \"percentage\" instead"));
    }
    percentage(c, "percentage", delay.percentage.as_ref());
    c.check("fixedDelay", optional_duration(delay.fixed_delay));
    c.error_if(
        delay.exponential_delay.is_some(),
        "exponentialDelay: exponentially distributed delay is not supported (use fixedDelay)",
    );
    c.error_if(delay.fixed_delay.is_none() && delay.exponential_delay.is_none(), "delay needs fixedDelay");
}

/// A status a response may have.
pub fn http_status(status: i32) -> Result<(), String> {
    if (200..=600).contains(&status) { Ok(()) } else { Err(format!("HTTP status {status} is not in range 200-599")) }
}

/// Retry policy.
pub fn retry(c: &mut Check, retry: Option<&HttpRetry>) {
    let Some(retry) = retry else { return };
    c.error_if(retry.attempts < 0, "attempts cannot be negative");
    let configured =
        retry.per_try_timeout.is_some() || !retry.retry_on.is_empty() || retry.retry_remote_localities.is_some();
    c.error_if(retry.attempts == 0 && configured, "http retry policy configured when attempts are set to 0 (disabled)");
    c.check("perTryTimeout", optional_duration(retry.per_try_timeout));
    c.check("backoff", optional_duration(retry.backoff));
    if retry.retry_on.is_empty() {
        return;
    }
    c.field("retryOn", |c| {
        for policy in retry.retry_on.split(',') {
            if let Ok(status) = policy.parse::<i32>() {
                c.error_if(!(100..600).contains(&status), format!("{policy:?} is not a valid HTTP status code"));
            } else {
                let known = RETRY_ON.contains(&policy);
                c.error_if(
                    !known,
                    format!("{policy:?} is not a valid retryOn policy (one of {})", RETRY_ON.join(", ")),
                );
            }
        }
    });
}

/// Rewrite.
pub fn rewrite(c: &mut Check, rewrite: Option<&HttpRewrite>) {
    let Some(rewrite) = rewrite else { return };
    let regex = rewrite.uri_regex_rewrite.as_ref();
    c.error_if(!rewrite.uri.is_empty() && regex.is_some(), "rewrite may only contain one of uri or uriRegexRewrite");
    c.error_if(
        rewrite.uri.is_empty() && regex.is_none() && rewrite.authority.is_empty(),
        "rewrite must specify at least one of uri, uriRegexRewrite, authority",
    );
    c.field("uriRegexRewrite", |c| regex_rewrite(c, regex));
}

/// Rewrite by regular expression.
pub fn regex_rewrite(c: &mut Check, rewrite: Option<&RegexRewrite>) {
    let Some(rewrite) = rewrite else { return };
    if rewrite.matches.is_empty() || rewrite.rewrite.is_empty() {
        return c.error("uriRegexRewrite requires both rewrite and match fields to be specified");
    }
    c.check("match", regex(&rewrite.matches));
}

/// Redirect.
pub fn redirect(c: &mut Check, redirect: Option<&HttpRedirect>) {
    let Some(redirect) = redirect else { return };
    let nothing = redirect.uri.is_empty()
        && redirect.authority.is_empty()
        && redirect.prefix_rewrite.is_empty()
        && redirect.scheme.is_empty()
        && redirect.port.is_none()
        && redirect.derive_port.is_none();
    c.error_if(nothing, "redirect must specify uri, prefixRewrite, authority, scheme, or port");
    c.error_if(
        !redirect.uri.is_empty() && !redirect.prefix_rewrite.is_empty(),
        "redirect may only contain one of uri or prefixRewrite",
    );
    let code = redirect.redirect_code;
    c.error_if(
        code != 0 && !(300..=399).contains(&code),
        format!("{code} is not a valid redirect code (301, 302, 303, 307, 308)"),
    );
    c.error_if(
        !matches!(redirect.scheme.as_str(), "" | "http" | "https"),
        format!("scheme {:?} is invalid (http or https)", redirect.scheme),
    );
    if let Some(number) = redirect.port {
        c.check("port", port(number));
    }
}

/// Direct response.
pub fn direct_response(c: &mut Check, response: Option<&HttpDirectResponse>) {
    let Some(response) = response else { return };
    if let Some(body) = &response.body {
        let size = match (&body.string, &body.bytes) {
            (Some(s), _) => s.len(),
            (_, Some(b)) => b.trim_end_matches('=').len() * 3 / 4,
            _ => 0,
        };
        c.field("body", |c| {
            if size > DIRECT_RESPONSE_BYTES_MAX {
                c.error(format!("size {size} is greater than limit {DIRECT_RESPONSE_BYTES_MAX}"));
            } else if size > DIRECT_RESPONSE_BYTES_WARN {
                c.warn(format!("size {size} is large; it is part of every proxy's configuration (recommended limit {DIRECT_RESPONSE_BYTES_WARN})"));
            }
        });
    }
    c.check("status", http_status(i32::try_from(response.status).unwrap_or(-1)));
}

/// A percentage of requests.
pub fn percentage(c: &mut Check, name: &str, value: Option<&Percent>) {
    if let Some(value) = value {
        c.check(&format!("{name}.value"), percent(value.value));
    }
}
