//! Which requests are sent? Seeded, as exact bytes of HTTP/1.

use crate::rng::Rng;
use crate::world::{HOSTS, PATHS};

/// A request to send to both proxies.
pub struct Request {
    /// What goes on the wire.
    pub bytes: Vec<u8>,
    /// Whether it is a HEAD request, whose response has no body.
    pub head: bool,
}

const HEADERS: &[&str] = &[
    "x-a: 1",
    "x-a: value",
    "x-a: v2",
    "x-a:",
    "x-b: b",
    "x-b: v1,v2",
    "x-n: 5",
    "x-n: 50",
    "x-n: five",
    "x-cluster: two",
    "x-cluster: nowhere",
    "user-agent: test",
    "origin: http://a.test",
    "origin: http://b.test",
    "x-forwarded-for: 1.2.3.4",
    "x-forwarded-for: 10.0.0.1, 10.0.0.2, 8.8.8.8",
    "x-forwarded-proto: https",
    "x-request-id: given",
    "x-envoy-internal: true",
    "x-envoy-retry-on: 5xx",
    "x-envoy-max-retries: 2",
    "x-envoy-upstream-rq-timeout-ms: 5000",
    "x-envoy-force-trace: 1",
    "x-envoy-original-path: /x",
    "x-forwarded-client-cert: By=a",
    "connection: close",
    "connection: x-b",
    "te: trailers",
    "te: gzip",
    "under_score: 1",
    "cookie: k=1; j=2",
    "x-status: 503",
    "x-status: 404",
    "x-status: 204",
    "x-status: 418",
    "x-reset: 1",
    "x-reset: 3",
    "x-fail: 1",
    "x-fail: 2",
    "x-chunked: 1",
    "x-reply-header: x-reply: r",
    "x-reply-header: x-retry: 1",
    "x-reply-header: server: mine",
    "x-reply-header: x-envoy-ratelimited: true",
    "expect: 100-continue",
    "access-control-request-method: POST",
    "content-type: application/grpc",
    "x-envoy-decorator-operation: op",
    "keep-alive: 5",
    "proxy-connection: keep-alive",
    "x-envoy-expected-rq-timeout-ms: 7",
    "x-forwarded-host: f",
    "x-envoy-attempt-count: 9",
    "accept-encoding: gzip",
    "via: 1.1 up",
    "upgrade: websocket",
    "x-reply-header: connection: close",
];

const METHODS: &[&str] = &["GET", "GET", "GET", "GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE", "PATCH", "FOO"];

/// The request of case `case`, named in its `x-case` header.
pub fn generate(rng: &mut Rng, case: u64) -> Request {
    let method = rng.pick(METHODS);
    let path = rng.pick(PATHS);
    let host = rng.pick(HOSTS);
    let target = match rng.below(20) {
        0 => format!("http://{host}{path}"),
        1 if method == "OPTIONS" => "*".to_owned(),
        _ => path.to_owned(),
    };
    let version = if rng.one_in(25) { "1.0" } else { "1.1" };
    let mut text = format!("{method} {target} HTTP/{version}\r\nHost: {host}\r\nX-Case: {case}\r\n");
    for _ in 0..rng.below(4) {
        text.push_str(rng.pick(HEADERS));
        text.push_str("\r\n");
    }
    let body = match (method, rng.below(4)) {
        ("POST" | "PUT" | "PATCH", n) => "x".repeat([0, 1, 19, 5000][n]),
        _ => String::new(),
    };
    if !body.is_empty() && rng.one_in(3) {
        text.push_str(&format!("transfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len()));
    } else if !body.is_empty() {
        text.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
    } else {
        text.push_str("\r\n");
    }
    Request { bytes: text.into_bytes(), head: method == "HEAD" }
}
